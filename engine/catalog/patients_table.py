"""Puts a checked table of patients into a study, whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slideduck.catalog.patients import parse_patients
from slideduck.store.db import atomic, identifier, registered
from slideduck.store.handle import Handle

__all__ = ["PatientsReport", "add_patients"]


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
