"""Puts a checked table of patients into a study, whole or not at all, and says which of its rows match no slide."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from slideduck.catalog.cells import named_in_sql
from slideduck.catalog.patients import PatientTable, parse_patients
from slideduck.catalog.split_rule import SplitRule, read_split_rule
from slideduck.errors import InputError, StudyError
from slideduck.names import nearest, nfc, suggestion, tcga_patient, without_decoration
from slideduck.show import Shown
from slideduck.store.db import atomic, identifier, registered
from slideduck.store.handle import Handle
from slideduck.words import counted

__all__ = ["PatientsReport", "add_patients", "likely_meant", "put_patients"]

#: Rows that match no slide whose nearest slides are looked for: each of them is compared with every slide.
_LOOKED_FOR = 20


@dataclass(frozen=True)
class PatientsReport(Shown):
    """What `add_patients` did.

    Attributes
    ----------
    rows, patients : int
        Rows of the table that name a slide, and patients in them.
    unknown_slides, slides_without : tuple of str
        Slides of the table that the study lacks, and slides of the study that still have no patient.
    split_removed : bool
        True if patients changed under a split, which was therefore removed.
    nearest : dict of str to tuple of str
        For the first of `unknown_slides` the slides of the study with the nearest names, where there are any.
    meant : dict of str to str
        Each of `slides_without` that a row most likely means: its name but for case, spaces, a suffix or
        leading zeros, or its TCGA patient; and the name in the table.
    suffix : str
        What the most of those names have behind the slide's name; empty if nothing.
    left_out : int
        Rows that name no slide.
    without_patient : tuple of str
        Slides of rows that name no patient.
    missing : dict of str to int
        By column, cells of sites and numbers that say ``NA`` or the like.
    removed_split : SplitRule or None
        How the split was made that was removed.
    """

    rows: int
    patients: int
    unknown_slides: tuple[str, ...]
    slides_without: tuple[str, ...]
    split_removed: bool
    nearest: dict[str, tuple[str, ...]]
    meant: dict[str, str]
    suffix: str
    left_out: int
    without_patient: tuple[str, ...]
    missing: dict[str, int]
    removed_split: SplitRule | None


def add_patients(
    handle: Handle,
    path: str | os.PathLike[str],
    *,
    slide_column: str | None = None,
    patient_column: str | None = None,
    site_column: str | None = None,
    slide_suffix: str = "",
) -> PatientsReport:
    """Read a table of patients into the table ``patients``; its rows replace earlier rows of the same slides.

    Parameters
    ----------
    handle : Handle
        The study.
    path : path-like
        CSV, Excel or Parquet with ``slide``, ``patient``, optional ``site``, and any further columns; see
        `parse_patients`.
    slide_column, patient_column, site_column : str, optional
        Names of these columns, where the table has others.
    slide_suffix : str
        What the table's slide names have behind the slide's name, such as ``.svs``; it is taken off.

    Returns
    -------
    PatientsReport

    Raises
    ------
    InputError
        With every bad row, or if no row names a slide of the study; nothing is added then.
    StudyError
        If the study has no slides.
    """
    if handle.con.execute("SELECT count(*) FROM slides").fetchone() == (0,):
        raise StudyError(
            f"{handle.name} has no slides that patients could be of; add them first: "
            f"slideduck add-slides {handle.name} FOLDER"
        )
    incoming = parse_patients(
        Path(path),
        slide_column=slide_column,
        patient_column=patient_column,
        site_column=site_column,
        slide_suffix=slide_suffix,
    )
    return put_patients(handle, incoming)


def put_patients(handle: Handle, incoming: PatientTable) -> PatientsReport:
    """Put a table of patients that was read into the table ``patients``; see `add_patients`.

    Raises
    ------
    InputError
        If no row names a slide of the study.
    """
    known = [name for (name,) in handle.con.execute("SELECT slide FROM slides ORDER BY slide").fetchall()]
    # The study's slides keep the names of their files, whatever form of Unicode these are in.
    spelling = {nfc(name): name for name in known}
    slides = [spelling.get(name, name) for name in incoming.table["slide"].to_pylist()]
    if not set(slides) & set(known):
        raise InputError(_none_matches(handle, incoming, known))
    table = incoming.table.set_column(0, "slide", pa.chunked_array([slides], pa.string()))
    with atomic(handle.con), registered(handle.con, "incoming_patient", table):
        before = handle.con.execute("SELECT slide, patient, site FROM patients ORDER BY slide").fetchall()
        _merge(handle)
        after = handle.con.execute("SELECT slide, patient, site FROM patients ORDER BY slide").fetchall()
        # Sides were dealt to other patients than there are now: a stale split is how patients leak.
        removed = read_split_rule(handle) if before != after else None
        if removed:
            handle.con.execute("DELETE FROM splits")
            handle.con.execute("DELETE FROM split_rule")
        without = tuple(
            name
            for (name,) in handle.con.execute(
                "SELECT slide FROM slides LEFT JOIN patients USING (slide) WHERE patient IS NULL ORDER BY slide"
            ).fetchall()
        )
    unknown = sorted(set(slides) - set(known))
    meant = likely_meant(unknown, without)
    return PatientsReport(
        rows=table.num_rows,
        patients=len(set(table["patient"].drop_null().to_pylist())),
        unknown_slides=tuple(unknown),
        slides_without=without,
        split_removed=removed is not None,
        nearest={
            name: tuple(near) for name in unknown[:_LOOKED_FOR] if (near := nearest(name, known))
        },
        meant=meant,
        suffix=_common_suffix(meant),
        left_out=incoming.left_out,
        without_patient=tuple(
            sorted(slide for slide, patient in zip(slides, table["patient"].to_pylist(), strict=True) if not patient)
        ),
        missing=incoming.missing,
        removed_split=removed,
    )  # fmt: skip


def _merge(handle: Handle) -> None:
    """Put the rows of incoming_patient into the table of patients, which takes their further columns."""
    kept, given = (_columns(handle, table) for table in ("patients", "incoming_patient"))
    as_kept, as_given = [], []
    for name in kept.keys() & given.keys():
        kind = _common_type(handle, name, kept[name], given[name])
        if kind == "VARCHAR" or {kept[name], given[name]} == {"BIGINT", "DOUBLE"}:
            as_kept.append(_as_type(name, kept[name], kind))
            as_given.append(_as_type(name, given[name], kind))
    handle.con.execute(
        f"CREATE OR REPLACE TEMP TABLE merged_patient AS SELECT *{_replacing(as_kept)} FROM patients "
        f"ANTI JOIN incoming_patient USING (slide) UNION ALL BY NAME SELECT *{_replacing(as_given)} "
        "FROM incoming_patient"
    )
    columns = handle.con.execute("SELECT column_name, column_type FROM (DESCRIBE merged_patient)").fetchall()
    described = ", ".join(
        f"{identifier(name)} {kind}{' PRIMARY KEY' if name == 'slide' else ''}" for name, kind in columns
    )
    handle.con.execute(f"CREATE OR REPLACE TABLE patients ({described})")
    handle.con.execute("INSERT INTO patients BY NAME SELECT * FROM merged_patient ORDER BY slide")
    handle.con.execute("DROP TABLE merged_patient")
    handle.con.execute("COMMENT ON TABLE patients IS 'Patient of each slide, and the columns of the user''s table.'")


def _columns(handle: Handle, table: str) -> dict[str, str]:
    """Return the type of each column of a table."""
    return dict(handle.con.execute(f"SELECT column_name, column_type FROM (DESCRIBE {table})").fetchall())


def _common_type(handle: Handle, name: str, kept: str, given: str) -> str | None:
    """Return the type of a column whose old and new rows differ in it, under which no value becomes another.

    Where one is text, the numbers of the other get their names; integers and decimal numbers become what holds all
    of both. None leaves it to DuckDB.
    """
    if kept == given:
        return None
    if "VARCHAR" in (kept, given):
        return "VARCHAR"
    if {kept, given} != {"BIGINT", "DOUBLE"}:
        return None
    whole, other = ("patients", "incoming_patient") if kept == "BIGINT" else ("incoming_patient", "patients")
    column = identifier(name)
    (beyond, broken) = (
        handle.con.execute(f"SELECT count(*) > 0 FROM {table} WHERE {condition}").fetchall()[0][0]
        for table, condition in (
            (whole, f"abs({column}::HUGEINT) > 9007199254740992"),
            (other, f"NOT isfinite({column}) OR {column} <> trunc({column}) OR abs({column}) > 9007199254740992"),
        )
    )
    if not beyond:
        return "DOUBLE"
    return "VARCHAR" if broken else "BIGINT"


def _as_type(name: str, kind: str, wanted: str | None) -> str:
    """Return the expression that makes a column of another type, by the names of its values for text."""
    if wanted == "VARCHAR":
        return f"{named_in_sql(name, kind)} AS {identifier(name)}"
    return f"{identifier(name)}::{wanted} AS {identifier(name)}"


def _replacing(expressions: Sequence[str]) -> str:
    """Return what of ``SELECT *`` has other expressions."""
    return f" REPLACE ({', '.join(expressions)})" if expressions else ""


def likely_meant(unknown: Sequence[str], slides: Sequence[str]) -> dict[str, str]:
    """Return which slides the names of a table most likely mean, by slide.

    Parameters
    ----------
    unknown : sequence of str
        Names that are no slides of the study.
    slides : sequence of str
        Slides without a patient.

    Returns
    -------
    dict of str to str
        For each slide that differs from a name by case, spaces, a suffix or leading zeros alone, or whose TCGA
        patient a name is: the first such name.
    """
    by_name: dict[str, list[str]] = defaultdict(list)
    for slide in slides:
        by_name[without_decoration(slide)].append(slide)
        if (patient := tcga_patient(slide)) is not None:
            by_name[without_decoration(patient)].append(slide)
    meant: dict[str, str] = {}
    for name in sorted(unknown):
        for slide in by_name.get(without_decoration(name), ()):
            meant.setdefault(slide, name)
    return dict(sorted(meant.items()))


def _common_suffix(meant: dict[str, str]) -> str:
    """Return what most names have behind the slide that they mean, or an empty text."""
    behind = Counter(name.removeprefix(slide) for slide, name in meant.items() if name.startswith(slide))
    return min(behind, key=lambda suffix: (-behind[suffix], suffix)) if behind else ""


def _none_matches(handle: Handle, incoming: PatientTable, known: Sequence[str]) -> list[str]:
    """Return the problems of a table of which no row names a slide of the study."""
    file = incoming.path.name
    names = incoming.table["slide"].to_pylist()
    rows = incoming.rows.tolist()
    meant = likely_meant(names, known)
    problems = [
        f"{file}: {counted(len(names), 'row')} and {counted(len(known), 'slide')} in {handle.name}, and none of "
        f"the rows names one of the slides; {_remedy(handle, meant)}"
    ]
    for name, row in list(zip(names, rows, strict=True))[:_LOOKED_FOR]:
        problems.append(f"{file}:{row}: no slide {name!r}{suggestion(name, known)}")
    if len(names) > _LOOKED_FOR:
        problems.append(f"{file}: and {counted(len(names) - _LOOKED_FOR, 'more row')}")
    return problems


def _remedy(handle: Handle, meant: dict[str, str]) -> str:
    """Return what to do about a table whose names are not those of slides."""
    suffix = _common_suffix(meant)
    if suffix:
        return f"take off what stands behind them with `slide_suffix={suffix!r}`"
    if any(tcga_patient(slide) == name.upper() for slide, name in meant.items()):
        return (
            "write a row for each slide, not for each patient; a table from the barcodes makes: slideduck sql "
            f"{handle.name} \"SELECT slide, left(slide, 12) AS patient FROM slides WHERE slide LIKE 'TCGA-%'\" --csv "
            "> patients.csv"
        )
    return (
        "write the slides' names as the study has them: "
        f'slideduck sql {handle.name} "SELECT slide FROM slides"'
    )  # fmt: skip
