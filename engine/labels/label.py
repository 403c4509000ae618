"""Labels tiles: finds the pairs of tiles and ROIs that touch, and sets the rule that turns them into labels."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from slideduck.catalog.grids import extend_grids, runs
from slideduck.errors import StudyError
from slideduck.progress import track
from slideduck.store.db import atomic, limited_memory
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_query

__all__ = ["LabelReport", "LabelRule", "label"]

#: Base pixels from an edge within which a centre is decided by the spatial predicate. Far above the rounding
#: of coordinates up to 2^20 (2e-10), far below any distance that is drawn.
EPSILON = 1e-6

#: Memory that a row of the largest step takes, all its copies together, bytes; 130 were measured.
_BYTES_A_ROW = 400
#: Rows of that step that one transaction has at most, unless a single slide has more: larger ones are no faster.
_MOST_WORK = 500_000
#: What DuckDB is left in any case, where the user's bound allows it, bytes.
_ENOUGH = 512_000_000


@dataclass(frozen=True)
class LabelRule:
    """How a tile gets its label.

    Parameters
    ----------
    rule : {"centre", "coverage"}
        A tile is in an ROI if its centre is, boundary included; or if the ROI covers enough of it.
    threshold : float
        Least part of the tile's area, above 0 and at most 1, under ``coverage``.
    overlap : {"smallest", "priority", "largest", "exclude"}
        Which of several ROIs wins: the smallest, the first label of ``priority``, the one that covers most of
        the tile; ``exclude`` gives no label where labels differ.
    priority : tuple of str
        Labels, first wins.
    method : {"auto", "inside", "outside", "ignore"}
        Which tiles are kept: inside where the slide has ROIs and else all; in an ROI; in none; all.
    artifact_labels : tuple of str
        Labels of ROIs whose tiles are removed, whichever method.
    roi_sets : tuple of str
        Sets of ROIs; of those that a slide has the first is used.

    Raises
    ------
    StudyError
        If a value is impossible, by name.
    """

    rule: str = "centre"
    threshold: float = 0.5
    overlap: str = "smallest"
    priority: tuple[str, ...] = ()
    method: str = "auto"
    artifact_labels: tuple[str, ...] = ()
    roi_sets: tuple[str, ...] = field(default=("default",))

    def __post_init__(self) -> None:
        for name, allowed in (
            ("rule", ("centre", "coverage")),
            ("overlap", ("smallest", "priority", "largest", "exclude")),
            ("method", ("auto", "inside", "outside", "ignore")),
        ):
            if getattr(self, name) not in allowed:
                raise StudyError(f"{name} is {getattr(self, name)!r}; give one of {', '.join(allowed)}")
        if not (math.isfinite(self.threshold) and 0 < self.threshold <= 1):
            raise StudyError(f"threshold is {self.threshold:g}; give a part of the tile above 0 and at most 1")
        if self.overlap == "priority" and not self.priority:
            raise StudyError("overlap is 'priority' but no labels are given; name them in order, the first wins")
        if self.overlap != "priority" and self.priority:
            raise StudyError(f"priority labels are given but overlap is {self.overlap!r}; give overlap 'priority'")
        twice = sorted({name for name in self.priority if self.priority.count(name) > 1})
        if twice:
            raise StudyError(f"priority names {', '.join(map(repr, twice))} more than once; name each label once")
        if not self.roi_sets:
            raise StudyError("no set of ROIs is given; the default set is called 'default'")

    def text(self) -> str:
        """Return the rule as text that is equal for equal rules alone."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class LabelReport:
    """What `label` did.

    Attributes
    ----------
    slides : int
        Slides times grids whose pairs were computed now; 0 if all were up to date.
    counts : pyarrow.Table
        Tiles by grid and label, as ``sql/queries/count_labels.sql`` has it.
    empty_rois : pyarrow.Table
        ROIs that hold no tile, as ``sql/queries/find_empty_rois.sql`` has it.
    unknown_labels : tuple of str
        Labels of the rule that no ROI has: probably misspelt.
    """

    slides: int
    counts: pa.Table
    empty_rois: pa.Table
    unknown_labels: tuple[str, ...]


def label(
    handle: Handle,
    rule: LabelRule,
    *,
    memory: str | int | None = None,
    anew: bool = False,
) -> LabelReport:
    """Bring the labels of every grid up to date, under a rule.

    Only slides whose grid, header or ROIs changed are computed anew; a change of the rule alone computes no pair.
    A few slides at a time are one transaction: a call that was stopped goes on where it was, and the labels of
    each slide are there whole or not at all.

    Parameters
    ----------
    handle : Handle
        The study.
    rule : LabelRule
        The rule that the view ``labels`` follows from now on.
    memory : str or int, optional
        What DuckDB may use meanwhile, such as ``"4GB"`` or bytes; by default a quarter of the machine's. Work
        beyond it goes to temporary files beside the study.
    anew : bool
        Compute every slide, also those that are up to date.

    Returns
    -------
    LabelReport

    Raises
    ------
    StudyError
        If there is no grid, the rule names sets that do not exist, or a slide needs more memory.
    """
    if handle.con.execute("SELECT count(*) FROM grids").fetchone() == (0,):
        raise StudyError("the study has no grid; make one first with: slideduck tile STUDY --tile-px 256 --tile-um 256")
    _require_sets(handle, rule.roi_sets)
    values = {"rule": rule.text()}
    with limited_memory(handle.con, memory) as limit:
        extend_grids(handle)
        _set_rule(handle, rule)
        if anew:
            handle.con.execute("DELETE FROM labelled")
        todo = handle.con.execute(read_query("list_unlabelled")).fetchall()
        _keep_small(handle, limit, todo)
        with track("Labelling", len(todo), "slides", show=handle.progress) as advance:
            for batch in _batches(todo, limit):
                with atomic(handle.con):
                    # Pairs without a mark cannot be, but a second copy of them would be a wrong label.
                    _delete(handle, ("tile_rois", "label_counts", "roi_counts"), batch)
                    handle.con.execute(read_query("insert_tile_rois"), {**batch, "epsilon": EPSILON})
                    handle.con.execute(read_query("mark_labelled"), {**batch, **values})
                    _count(handle, batch)
                advance(len(batch["slide_ids"]))
        uncounted = handle.con.execute(read_query("list_uncounted"), values).fetchall()
        with track("Counting", len(uncounted), "slides", show=handle.progress) as advance:
            for batch in _batches(uncounted, limit):
                with atomic(handle.con):
                    _delete(handle, ("label_counts", "roi_counts"), batch)
                    handle.con.execute(read_query("mark_counted"), {**batch, **values})
                    _count(handle, batch)
                advance(len(batch["slide_ids"]))
    labels = {
        name for (name,) in handle.con.execute("SELECT DISTINCT label FROM rois WHERE label IS NOT NULL").fetchall()
    }
    return LabelReport(
        slides=len(todo),
        counts=handle.con.execute(read_query("count_labels")).to_arrow_table(),
        empty_rois=handle.con.execute(read_query("find_empty_rois")).to_arrow_table(),
        unknown_labels=tuple(n for n in dict.fromkeys(rule.priority + rule.artifact_labels) if n not in labels),
    )


def _require_sets(handle: Handle, roi_sets: Sequence[str]) -> None:
    """Refuse sets of ROIs that the study does not have, where it has any ROI."""
    sets = {name for (name,) in handle.con.execute("SELECT DISTINCT roi_set FROM roi_files").fetchall()}
    missing = [name for name in roi_sets if name not in sets]
    if sets and missing:
        raise StudyError(
            f"no ROIs are in the set{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}; "
            f"the study has {', '.join(map(repr, sorted(sets)))}"
        )


def _delete(handle: Handle, tables: Sequence[str], batch: dict[str, Any]) -> None:
    """Delete the rows of a batch of slides, inside a transaction."""
    ids = batch["slide_ids"]
    values = {**batch, "low": min(ids), "high": max(ids)}
    for table in tables:
        # The bounds let DuckDB pass over the blocks of other slides, which the list alone does not.
        handle.con.execute(
            f"DELETE FROM {table} WHERE grid_id = $grid_id AND slide_id BETWEEN $low AND $high "
            "AND list_contains($slide_ids, slide_id)",
            values,
        )


def _keep_small(handle: Handle, limit: int, todo: Sequence[tuple[int, int, str, str, int]]) -> None:
    """Lower DuckDB's bound to what the largest slide can use: the rest it would fill with blocks of the file."""
    largest = max((row[-1] for row in todo), default=0)
    bound = min(limit, max(_ENOUGH, 2 * _BYTES_A_ROW * max(largest, _MOST_WORK)))
    handle.con.execute(f"SET memory_limit = '{bound}B'")


def _count(handle: Handle, batch: dict[str, Any]) -> None:
    """Count the tiles of a batch of slides by label and by ROI, inside a transaction."""
    for name in ("stage_winners", "insert_label_counts", "insert_roi_counts"):
        handle.con.execute(read_query(name), batch)


def _set_rule(handle: Handle, rule: LabelRule) -> None:
    """Store the rule in force, unless it is stored already."""
    columns = asdict(rule)
    row = tuple(list(value) if isinstance(value, tuple) else value for value in columns.values())
    if handle.con.execute(f"SELECT {', '.join(columns)} FROM label_rule").fetchall() == [row]:
        return
    with atomic(handle.con):
        handle.con.execute("DELETE FROM label_rule")
        handle.con.execute(
            f"INSERT INTO label_rule ({', '.join(columns)}) VALUES ({', '.join('?' * len(row))})", list(row)
        )


def _batches(todo: Iterable[tuple[int, int, str, str, int]], memory: int) -> Iterator[dict[str, Any]]:
    """Cut slides into batches of one grid and bounded work, as the queries take them."""
    most = min(_MOST_WORK, memory // 4 // _BYTES_A_ROW)
    for grid_id, group in itertools.groupby(todo, key=lambda row: row[0]):
        rows = list(group)
        for first, past in runs([row[-1] for row in rows], most):
            yield {"grid_id": grid_id, "slide_ids": [row[1] for row in rows[first:past]]}
