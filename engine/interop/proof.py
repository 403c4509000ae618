"""Proves that ROI files hold a study's ROIs: adds them to a study in memory and compares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from slideduck.catalog.label_sets import ROIS
from slideduck.interop.layout import StudyRoi
from slideduck.labels.label import label
from slideduck.labels.rule import LabelRule, rule_in_force
from slideduck.roifiles.options import RoiOptions
from slideduck.rois.table import add_rois
from slideduck.store import schema
from slideduck.store.db import MEMORY, connect, registered
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_query

__all__ = ["Returned", "RoiProof", "proving"]

#: The set of the ROIs that were read again, and that of the study's own, in the study that proves.
_EXPORTED, _OWN = "exported", "own"


@dataclass(frozen=True)
class Returned:
    """What an ROI is once its file has been read again.

    Attributes
    ----------
    slide, root : str
        The ROI; it is no hole.
    n_parts : int
        ROIs that it is now.
    swallowed, swallowed_by : str or None
        What of it, itself or a part, has become a hole of another ROI, and that ROI.
    is_same : bool
        Whether together they have its label and its shape, and its holes are its holes.
    """

    slide: str
    root: str
    n_parts: int
    swallowed: str | None
    swallowed_by: str | None
    is_same: bool


@contextmanager
def proving(handle: Handle, slides: Sequence[str]) -> Iterator[RoiProof]:
    """Make a study in memory with some slides of another one, and without ROIs."""
    table = _rows(handle.con, "SELECT * FROM slides WHERE list_contains($slides, slide)", {"slides": list(slides)})
    scratch = Handle(connect(MEMORY), MEMORY)
    try:
        schema.prepare(scratch.con, MEMORY, read_only=False)
        _insert(scratch.con, "slides", table)
        yield RoiProof(handle, scratch)
    finally:
        scratch.con.close()


class RoiProof:
    """A study in memory that ROI files are read into; made by `proving`."""

    def __init__(self, handle: Handle, scratch: Handle) -> None:
        self._con = handle.con
        self._memory = scratch
        self._scratch = scratch.con

    def returned(
        self, path: Path, rois: Sequence[StudyRoi], written: Mapping[tuple[str, str], str], *, frame: str | None
    ) -> list[Returned]:
        """Read a file, or all files of a folder, and return what the ROIs that were written into them are now.

        Parameters
        ----------
        path : Path
            The file or folder; files that changed replace what they gave before.
        rois : sequence of StudyRoi
            The ROIs of the study.
        written : mapping of (str, str) to str
            For each slide and name in the files the ROI, by name, that it stands for, alone or with others.
        frame : {"bounds", "level0"}, optional
            Corner that the files count from.

        Returns
        -------
        list of Returned
            For each ROI that is no hole.

        Raises
        ------
        InputError
            If a file cannot be read.
        """
        options = RoiOptions(names="relative", frame=frame)
        add_rois(self._memory, [path], roi_set=_EXPORTED, options=options)
        own = {(roi.slide, roi.roi_name): roi for roi in rois}
        wanted = [roi for roi in rois if roi.parent is None]
        of_files = sorted(written.items())
        wanted_table = pa.table(
            {
                "slide": _text([roi.slide for roi in wanted]),
                "root": _text([roi.roi_name for roi in wanted]),
                "label": _text([roi.label for roi in wanted]),
                "wkb": pa.array([roi.labelled_wkb for roi in wanted], pa.binary()),
            }
        )
        written_table = pa.table(
            {
                "slide": _text([slide for (slide, _), _ in of_files]),
                "roi_name": _text([name for (_, name), _ in of_files]),
                "root": _text([root for _, root in of_files]),
                "is_own": pa.array([key in own for key, _ in of_files], pa.bool_()),
                "parent": _text([own[key].parent if key in own else None for key, _ in of_files]),
            }
        )
        with (
            registered(self._scratch, "wanted_roi", wanted_table),
            registered(self._scratch, "written_roi", written_table),
        ):
            rows = self._scratch.execute(read_query("find_lost_rois")).fetchall()
        return [Returned(*row) for row in rows]

    def relabelled(
        self, rois: Sequence[StudyRoi], slides: Sequence[str]
    ) -> tuple[int, list[tuple[str, str | None, str | None, int]]]:
        """Label slides by the study's ROIs and by those that were read again, and compare the tiles.

        Parameters
        ----------
        rois : sequence of StudyRoi
            The ROIs of the study.
        slides : sequence of str
            The slides to label, by the rule in force, in every grid.

        Returns
        -------
        tiles : int
            Tiles that were compared.
        changed : list of tuple
            Slide, ROI that won before, ROI that wins now, and number of tiles whose label is another.
        """
        chosen = {"slides": list(slides)}
        self._scratch.execute("DELETE FROM slides WHERE NOT list_contains($slides, slide)", chosen)
        _insert(self._scratch, "grids", _rows(self._con, "SELECT * FROM grids"))
        for table in ("grid_slides", "tiles"):
            of_slides = f"SELECT t.* FROM {table} AS t JOIN slides USING (slide_id) WHERE list_contains($slides, slide)"
            _insert(self._scratch, table, _rows(self._con, of_slides, chosen))
        self._add_own([roi for roi in rois if roi.slide in set(slides)])
        rule = rule_in_force(self._con) or LabelRule()
        label(self._memory, replace(rule, roi_sets=(_OWN,), labels_from=(ROIS,)))
        self._scratch.execute(
            "CREATE OR REPLACE TEMP TABLE label_before AS SELECT grid, tile_id, roi_name, label, kept FROM labels"
        )
        label(self._memory, replace(rule, roi_sets=(_EXPORTED,), labels_from=(ROIS,)))
        (tiles,) = self._scratch.execute("SELECT count(*) FROM label_before").fetchone() or (0,)
        return int(tiles), self._scratch.execute(read_query("find_relabelled_tiles")).fetchall()

    def _add_own(self, rois: Sequence[StudyRoi]) -> None:
        """Add the study's own ROIs beside those that were read again."""
        self._scratch.execute(
            "INSERT INTO roi_files (roi_set, path, format, holes, sha256) VALUES ($1, '', '', '', '')", [_OWN]
        )
        table = pa.table(
            {
                **{name: _text([getattr(roi, name) for roi in rois]) for name in ("slide", "roi_name", "roi_desc")},
                **{name: _text([getattr(roi, name) for roi in rois]) for name in ("label", "parent")},
                "outline": pa.array([roi.drawn_wkb for roi in rois], pa.binary()),
                "geom": pa.array([roi.labelled_wkb for roi in rois], pa.binary()),
            }
        )
        with registered(self._scratch, "own_roi", table):
            self._scratch.execute(read_query("insert_own_rois"), {"roi_set": _OWN})


def _text(values: Sequence[str | None]) -> pa.Array:
    return pa.array(values, pa.string())


def _rows(con: duckdb.DuckDBPyConnection, query: str, values: dict[str, Any] | None = None) -> pa.Table:
    return con.execute(query, values).to_arrow_table()


def _insert(con: duckdb.DuckDBPyConnection, table: str, rows: pa.Table) -> None:
    with registered(con, "copied", rows):
        con.execute(f"INSERT INTO {table} BY NAME SELECT * FROM copied")
