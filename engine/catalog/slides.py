"""Puts checked slides and patients into the tables of a study, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from slideduck.catalog.features import delete_features
from slideduck.catalog.patients import parse_patients
from slideduck.errors import InputError, SlideError, StudyError
from slideduck.progress import track
from slideduck.slides.header import SlideHeader, find_slides, read_header
from slideduck.store.db import atomic, identifier, registered
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_query

__all__ = [
    "PatientsReport",
    "SlidesRemoved",
    "SlidesReport",
    "UsableSlide",
    "add_patients",
    "add_slides",
    "forget_labels",
    "remove_slides",
    "usable_slide",
]

_HEADER_THREADS = 4

#: What labelling fills, by slide, and what tiling, measuring and fitting do.
_LABEL_TABLES = ("tile_rois", "labelled", "label_counts", "roi_counts")
_TILE_TABLES = ("grid_slides", "tiles", "tile_qc", "qc_slides", "slide_stains")


@dataclass(frozen=True)
class SlidesReport:
    """What `add_slides` did.

    Attributes
    ----------
    added, updated, unchanged : int
        Slides that are new, that were read again and differ, and that are as they were.
    failed : dict of str to str
        The error of each slide that cannot be used, by name.
    warnings : tuple of str
        What the user should know of slides that can be used.
    """

    added: int
    updated: int
    unchanged: int
    failed: dict[str, str]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class UsableSlide:
    """A slide that can be used, as its row says.

    Attributes
    ----------
    slide : str
        Its name.
    path : Path
        Its file.
    width, height : int
        Its size in base pixels.
    mpp : float
        Microns per base pixel.
    """

    slide: str
    path: Path
    width: int
    height: int
    mpp: float


@dataclass(frozen=True)
class PatientsReport:
    """What `add_patients` did.

    Attributes
    ----------
    rows, patients : int
        Rows of the table, and patients in it.
    unknown_slides, slides_without : tuple of str
        Slides of the table that the study lacks, and slides of the study that still have no patient.
    split_removed : bool
        True if patients changed under a split, which was therefore removed.
    """

    rows: int
    patients: int
    unknown_slides: tuple[str, ...]
    slides_without: tuple[str, ...]
    split_removed: bool


# ------------------------------------------------------------------------------------------- slides


def add_slides(
    handle: Handle,
    paths: Sequence[str | Path],
    *,
    mpp: float | Mapping[str, float] | None = None,
) -> SlidesReport:
    """Read the headers of slides into the table ``slides``.

    Parameters
    ----------
    handle : Handle
        The study.
    paths : sequence of path
        Files, folders and globs.
    mpp : float or mapping of str to float, optional
        Microns per base pixel: one number for all slides whose header has none, or by slide name.

    Returns
    -------
    SlidesReport

    Raises
    ------
    InputError
        If a path does not exist, or two files have one name; nothing is added then.
    """
    found = find_slides(paths)
    known: dict[str, tuple[Any, ...]] = {
        row[0]: row[1:]
        for row in handle.con.execute("SELECT slide, path, fingerprint, error, mpp FROM slides").fetchall()
    }
    clashes = [
        f"{path}: slide {path.stem!r} is in the study already, from {known[path.stem][0]}; "
        "names are unique in a study: rename one of the files"
        for path in found
        if path.stem in known and Path(known[path.stem][0]) != path and Path(known[path.stem][0]).exists()
    ]
    by_name = dict(mpp) if isinstance(mpp, Mapping) else {}
    strangers = sorted(set(by_name) - {path.stem for path in found})
    clashes += [f"`mpp` names slide {name!r}, which is not among the {len(found)} files given" for name in strangers]
    if clashes:
        raise InputError(clashes)
    default_mpp = None if isinstance(mpp, Mapping) else mpp

    def read(path: Path) -> SlideHeader | str:
        try:
            return read_header(path, mpp=by_name.get(path.stem), default_mpp=default_mpp)
        except SlideError as error:
            return str(error)

    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    warnings: list[str] = []
    with (
        track("Reading headers", len(found), "slides", show=handle.progress) as advance,
        ThreadPoolExecutor(_HEADER_THREADS) as pool,
    ):
        for path, header in zip(found, pool.map(read, found), strict=True):
            if isinstance(header, str):
                failed[path.stem] = header
                rows.append({"slide": path.stem, "path": str(path), "mpp_given": False, "error": header})
            else:
                row = {name: getattr(header, name) for name in _HEADER_COLUMNS}
                row["path"] = str(header.path)
                rows.append(row)
                warnings.extend(header.warnings)
            advance(1)

    changed = [
        row
        for row in rows
        if row["slide"] in known
        and known[row["slide"]] != (row["path"], row.get("fingerprint"), row.get("error"), row.get("mpp"))
    ]
    new = [row for row in rows if row["slide"] not in known]
    if changed or new:
        table = pa.Table.from_pylist(
            [{name: row.get(name) for name in _SLIDE_SCHEMA.names} for row in changed + new], schema=_SLIDE_SCHEMA
        )
        with atomic(handle.con), registered(handle.con, "incoming_slide", table):
            handle.con.execute(read_query("upsert_slides"))
            _delete_rows(handle, [row["slide"] for row in changed], (*_TILE_TABLES, *_LABEL_TABLES))
    return SlidesReport(len(new), len(changed), len(rows) - len(new) - len(changed), failed, tuple(warnings))


_SLIDE_SCHEMA = pa.schema(
    [
        ("slide", pa.string()),
        ("path", pa.string()),
        ("vendor", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("mpp", pa.float64()),
        ("mpp_y", pa.float64()),
        ("mpp_given", pa.bool_()),
        ("level_widths", pa.list_(pa.int32())),
        ("level_heights", pa.list_(pa.int32())),
        ("level_downsamples", pa.list_(pa.float64())),
        ("objective_power", pa.float64()),
        ("background", pa.string()),
        ("bytes", pa.int64()),
        ("mtime", pa.float64()),
        ("fingerprint", pa.string()),
        ("error", pa.string()),
        ("bounds_x", pa.int32()),
        ("bounds_y", pa.int32()),
        ("bounds_width", pa.int32()),
        ("bounds_height", pa.int32()),
        ("centre_offset_x", pa.float64()),
        ("centre_offset_y", pa.float64()),
    ]
)
_HEADER_COLUMNS = [name for name in _SLIDE_SCHEMA.names if name in {f.name for f in fields(SlideHeader)}]


@dataclass(frozen=True)
class SlidesRemoved:
    """What `remove_slides` removed, or would.

    Attributes
    ----------
    slides : tuple of str
        The slides, in order of name.
    rois, roi_files, tiles, predictions : int
        ROIs on them (holes included), ROI files that speak of no other slide, tiles of all grids, and predictions of
        tiles.
    """

    slides: tuple[str, ...]
    rois: int
    roi_files: int
    tiles: int
    predictions: int


def remove_slides(handle: Handle, slides: Sequence[str], *, dry_run: bool = False) -> SlidesRemoved:
    """Remove slides with their ROIs, tiles, labels, predictions and features; files on disk and patients stay.

    Parameters
    ----------
    handle : Handle
        The study.
    slides : sequence of str
        Names of slides.
    dry_run : bool
        Only report.

    Returns
    -------
    SlidesRemoved

    Raises
    ------
    StudyError
        If a slide is not in the study; nothing is removed then.
    """
    names = sorted(set(slides))
    known = {name for (name,) in handle.con.execute("SELECT slide FROM slides").fetchall()}
    strangers = [repr(name) for name in names if name not in known]
    if strangers or not names:
        raise StudyError(
            f"the study has no slide {', '.join(strangers)}; nothing was removed"
            if strangers
            else "no slide is named; name those to remove"
        )
    with atomic(handle.con):
        row = handle.con.execute(read_query("count_removed"), {"slides": names}).fetchone() or (0, 0, 0, 0)
        if not dry_run:
            _delete_rows(handle, names, (*_TILE_TABLES, *_LABEL_TABLES))
            for table in ("predictions", "rois", "roi_file_slides", "slides"):
                handle.con.execute(f"DELETE FROM {table} WHERE list_contains($names, slide)", {"names": names})
            delete_features(handle, "list_contains($names, slide)", {"names": names})
            handle.con.execute(
                "DELETE FROM roi_files WHERE roi_file_id NOT IN (SELECT roi_file_id FROM roi_file_slides)",
            )
    return SlidesRemoved(tuple(names), *row)


def usable_slide(handle: Handle, slide: str) -> UsableSlide:
    """Return what the study holds of a slide that can be used.

    Parameters
    ----------
    handle : Handle
        The study.
    slide : str
        Name of the slide.

    Returns
    -------
    UsableSlide

    Raises
    ------
    StudyError
        If there is no such slide, or it cannot be used.
    """
    found = handle.con.execute(
        "SELECT path, width, height, mpp, error FROM slides WHERE slide = $slide", {"slide": slide}
    ).fetchone()
    if found is None:
        raise StudyError(
            f"{handle.name} has no slide {slide!r}; see which there are with: "
            f"slideduck sql {handle.name} 'SELECT slide FROM slides'"
        )
    path, width, height, mpp, error = found
    if error is not None:
        raise StudyError(f"slide {slide!r} cannot be used: {error}")
    return UsableSlide(slide, Path(path), width, height, mpp)


def forget_labels(handle: Handle, slides: Sequence[str]) -> None:
    """Delete what was computed from the ROIs of slides, inside a transaction; labelling computes it anew."""
    _delete_rows(handle, slides, _LABEL_TABLES)


def _delete_rows(handle: Handle, slides: Sequence[str], tables: Sequence[str]) -> None:
    """Delete the rows of slides from tables, inside a transaction."""
    ids = handle.con.execute(
        "SELECT slide_id FROM slides WHERE list_contains($s, slide)", {"s": list(slides)}
    ).fetchall()
    if not ids:
        return
    values = {"ids": [i for (i,) in ids], "low": min(ids)[0], "high": max(ids)[0]}
    for table in tables:
        # The bounds let DuckDB pass over the blocks of other slides, which the list alone does not.
        handle.con.execute(
            f"DELETE FROM {table} WHERE slide_id BETWEEN $low AND $high AND list_contains($ids, slide_id)", values
        )


# ----------------------------------------------------------------------------------------- patients


def add_patients(handle: Handle, path: str | Path) -> PatientsReport:
    """Read a table of patients into the table ``patients``; its rows replace earlier rows of the same slides.

    Parameters
    ----------
    handle : Handle
        The study.
    path : path
        CSV or Parquet with ``slide``, ``patient``, optional ``site``, and any further columns.

    Returns
    -------
    PatientsReport

    Raises
    ------
    InputError
        With every bad row; nothing is added then.
    """
    incoming = parse_patients(Path(path)).table
    with atomic(handle.con), registered(handle.con, "incoming_patient", incoming):
        before = handle.con.execute("SELECT slide, patient, site FROM patients ORDER BY slide").fetchall()
        handle.con.execute(
            "CREATE OR REPLACE TEMP TABLE merged_patient AS SELECT * FROM patients "
            "ANTI JOIN incoming_patient USING (slide) UNION ALL BY NAME SELECT * FROM incoming_patient"
        )
        columns = handle.con.execute("SELECT column_name, column_type FROM (DESCRIBE merged_patient)").fetchall()
        keys = {"slide": " PRIMARY KEY", "patient": " NOT NULL"}
        described = ", ".join(f"{identifier(name)} {kind}{keys.get(name, '')}" for name, kind in columns)
        handle.con.execute(f"CREATE OR REPLACE TABLE patients ({described})")
        handle.con.execute("INSERT INTO patients BY NAME SELECT * FROM merged_patient ORDER BY slide")
        handle.con.execute("DROP TABLE merged_patient")
        handle.con.execute(
            "COMMENT ON TABLE patients IS 'Patient of each slide, and the columns of the user''s table.'"
        )
        after = handle.con.execute("SELECT slide, patient, site FROM patients ORDER BY slide").fetchall()
        had_split = handle.con.execute("SELECT count(*) FROM split_rule").fetchone() == (1,)
        # Sides were dealt to other patients than there are now: a stale split is how patients leak.
        split_removed = had_split and before != after
        if split_removed:
            handle.con.execute("DELETE FROM splits")
            handle.con.execute("DELETE FROM split_rule")
        unknown = handle.con.execute("SELECT slide FROM incoming_patient ANTI JOIN slides USING (slide) ORDER BY slide")
        unknown_slides = tuple(name for (name,) in unknown.fetchall())
        without = handle.con.execute("SELECT slide FROM slides ANTI JOIN patients USING (slide) ORDER BY slide")
        return PatientsReport(
            rows=incoming.num_rows,
            patients=len(set(incoming["patient"].to_pylist())),
            unknown_slides=unknown_slides,
            slides_without=tuple(name for (name,) in without.fetchall()),
            split_removed=split_removed,
        )
