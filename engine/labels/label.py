"""Labels tiles: finds the pairs of tiles and ROIs that touch, and sets the rule that turns them into labels."""

from __future__ import annotations

import itertools
import json
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from slideduck.catalog.grids import extend_grids, make_grid, runs
from slideduck.catalog.label_sets import ROIS, label_sets
from slideduck.errors import StudyError
from slideduck.labels.known import nearly_alike, roi_labels
from slideduck.labels.rule import LabelRule, rule_in_force, set_rule
from slideduck.names import suggestion
from slideduck.progress import track
from slideduck.show import Shown
from slideduck.store.db import atomic, limited_memory
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_query

__all__ = ["LabelReport", "label"]

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
class LabelReport(Shown):
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
        Labels of the rule that no ROI has any more.
    rule, before : LabelRule
        The rule in force now, and the one before; None at the first labelling.
    compared, relabelled : int
        Tiles that were there already, on slides whose ROIs are as they were, and those of them whose label is
        another now, or that have one no more or at last. 0 unless the rule changed.
    kept_before, kept_now : int
        How many of the tiles compared the method and the artifacts kept, and keep.
    alike : tuple of (str, str)
        Labels that look like one label written in two ways, the one of fewer ROIs first.
    rois_of : dict of str to int
        ROIs with each label.
    """

    slides: int
    counts: pa.Table
    empty_rois: pa.Table
    unknown_labels: tuple[str, ...]
    rule: LabelRule
    before: LabelRule | None
    compared: int
    relabelled: int
    kept_before: int
    kept_now: int
    alike: tuple[tuple[str, str], ...]
    rois_of: dict[str, int]

    plotted = ("tiles_per_label", "tiles")

    @property
    def tiles_per_label(self) -> dict[str, int]:
        """Tiles of all grids by label, in sorted order; those without are under the empty text."""
        tiles: Counter[str] = Counter()
        for row in self.counts.to_pylist():
            tiles[row["label"] or ""] += row["tiles"]
        return dict(sorted(tiles.items()))

    def shown(self) -> Iterator[tuple[str, object]]:
        """Yield the slides, the rule, and the tiles by label; then what the user should look at."""
        yield "slides labelled now", self.slides
        yield from self.rule.settings().items()
        yield "tiles by label", {name or "no label": tiles for name, tiles in self.tiles_per_label.items()}
        if self.compared:
            yield "tiles with another label than before", self.relabelled
        for name, rows in (("ROIs without a tile", self.empty_rois.num_rows), ("unknown labels", self.unknown_labels)):
            if rows:
                yield name, rows
        if self.alike:
            yield "labels that look alike", [f"{one} and {other}" for one, other in self.alike]

    @property
    def changes(self) -> tuple[str, ...]:
        """What the rule has otherwise than before, such as ``rule: coverage >= 0.9 -> centre``."""
        return () if self.before is None else self.rule.changes(self.before)

    @property
    def still(self) -> tuple[str, ...]:
        """What the rule has as before and otherwise than by default, such as ``rule: coverage >= 0.9``."""
        return () if self.before is None else self.rule.still(self.before)


@dataclass(frozen=True)
class _Changed:
    """Tiles that two rules label, those to which they give different labels, and how many each of them keeps."""

    compared: int = 0
    relabelled: int = 0
    kept_before: int = 0
    kept_now: int = 0

    def plus(self, other: _Changed) -> _Changed:
        """Return the sums."""
        return _Changed(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


def label(
    handle: Handle,
    rule: LabelRule,
    *,
    memory: str | int | None = None,
    anew: bool = False,
    compare: bool = False,
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
    compare : bool
        Find how many tiles change their label by a change of the rule.

    Returns
    -------
    LabelReport

    Raises
    ------
    StudyError
        If there is no grid, the rule names sets of ROIs or labels that do not exist, or a slide needs more memory.
    """
    if handle.con.execute("SELECT count(*) FROM grids").fetchone() == (0,):
        raise StudyError(f"the study has no grid; make one first with: {make_grid(handle)}")
    _require_sets(handle, rule.roi_sets)
    _require_sources(handle, rule.labels_from)
    before = rule_in_force(handle.con)
    with limited_memory(handle.con, memory) as limit:
        extend_grids(handle)
        set_rule(handle.con, rule)
        if anew:
            handle.con.execute("DELETE FROM labelled")
        todo = handle.con.execute(read_query("list_unlabelled")).fetchall()
        _keep_small(handle, limit, todo)
        _compute(handle, rule, todo, limit)
        changed = _recount(handle, rule, limit, compare=compare)
    rois_of = roi_labels(handle.con)
    return LabelReport(
        slides=len(todo),
        counts=handle.con.execute(read_query("count_labels")).to_arrow_table(),
        empty_rois=handle.con.execute(read_query("find_empty_rois")).to_arrow_table(),
        unknown_labels=tuple(n for n in dict.fromkeys(rule.priority + rule.artifact_labels) if n not in rois_of),
        rule=rule,
        before=before,
        compared=changed.compared,
        relabelled=changed.relabelled,
        kept_before=changed.kept_before,
        kept_now=changed.kept_now,
        alike=tuple(nearly_alike(rois_of)),
        rois_of=rois_of,
    )


def _compute(handle: Handle, rule: LabelRule, todo: Sequence[tuple[Any, ...]], limit: int) -> None:
    """Find the pairs of the slides that lack them, and count their tiles."""
    with track("Labelling", len(todo), "slides", show=handle.progress) as advance:
        for batch in _batches(todo, limit):
            with atomic(handle.con):
                # Pairs without a mark cannot be, but a second copy of them would be a wrong label.
                _delete(handle, ("tile_rois", "label_counts", "roi_counts"), batch)
                handle.con.execute(read_query("insert_tile_rois"), {**batch, "epsilon": EPSILON})
                handle.con.execute(read_query("mark_labelled"), {**batch, "rule": rule.text()})
                _count(handle, batch)
            advance(len(batch["slide_ids"]))


def _recount(handle: Handle, rule: LabelRule, limit: int, *, compare: bool) -> _Changed:
    """Count the tiles of the slides that another rule counted, and compare their labels with what that one gave."""
    uncounted = handle.con.execute(read_query("list_uncounted"), {"rule": rule.text()}).fetchall()
    total = _Changed()
    with track("Counting", len(uncounted), "slides", show=handle.progress) as advance:
        for earlier, group in itertools.groupby(uncounted, key=lambda row: row[-2]):
            comparing = compare and earlier is not None
            for batch in _batches(group, limit):
                with atomic(handle.con):
                    tiles, kept_before = _kept_tiles(handle, batch)
                    if comparing:
                        _stage_earlier(handle, earlier, rule, batch)
                    _delete(handle, ("label_counts", "roi_counts"), batch)
                    handle.con.execute(read_query("mark_counted"), {**batch, "rule": rule.text()})
                    _count(handle, batch)
                    if comparing:
                        (relabelled,) = handle.con.execute(read_query("count_relabelled")).fetchone() or (0,)
                        kept_now = _kept_tiles(handle, batch)[1]
                        total = total.plus(_Changed(tiles, relabelled, kept_before, kept_now))
                advance(len(batch["slide_ids"]))
    return total


def _kept_tiles(handle: Handle, batch: dict[str, Any]) -> tuple[int, int]:
    """Return how many tiles slides have, and how many are kept, as they were last counted."""
    return handle.con.execute(
        "SELECT coalesce(sum(tiles), 0)::BIGINT, coalesce(sum(kept), 0)::BIGINT FROM label_counts "
        "WHERE grid_id = $grid_id AND list_contains($slide_ids, slide_id)",
        batch,
    ).fetchone() or (0, 0)


def _stage_earlier(handle: Handle, earlier: str, rule: LabelRule, batch: dict[str, Any]) -> None:
    """Keep the labels that an earlier rule gives, beside those that are staged by the rule, inside a transaction."""
    set_rule(handle.con, LabelRule.of_values(json.loads(earlier)))
    handle.con.execute(read_query("stage_tiles"), batch)
    set_rule(handle.con, rule)
    handle.con.execute("DROP TABLE IF EXISTS earlier_tile")
    handle.con.execute("ALTER TABLE staged_tile RENAME TO earlier_tile")


def _require_sets(handle: Handle, roi_sets: Sequence[str]) -> None:
    """Refuse sets of ROIs that the study does not have, where it has any ROI."""
    sets = {name for (name,) in handle.con.execute("SELECT DISTINCT roi_set FROM roi_files").fetchall()}
    missing = [name for name in roi_sets if name not in sets]
    if sets and missing:
        raise StudyError(
            f"no ROIs are in the set{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}; "
            f"the study has {', '.join(map(repr, sorted(sets)))}; name those that label with `roi_sets`"
        )


def _require_sources(handle: Handle, sources: Sequence[str]) -> None:
    """Refuse sources of labels that the study does not have."""
    names = list(dict.fromkeys(held.name for held in label_sets(handle.con)))
    for name in sources:
        if name != ROIS and name not in names:
            near = suggestion(name, names)
            rest = (
                f"t has {', '.join([ROIS, *names])}, and others are added with: "
                f"slideduck add-labels {handle.name} FILE --name {shlex.quote(name)}"
            )
            raise StudyError(
                f"`labels_from` names {name!r}, and {handle.name} has no such labels"
                + (f"{near} I{rest}" if near else f"; i{rest}")
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


def _keep_small(handle: Handle, limit: int, todo: Sequence[tuple[Any, ...]]) -> None:
    """Lower DuckDB's bound to what the largest slide can use: the rest it would fill with blocks of the file."""
    largest = max((row[-1] for row in todo), default=0)
    bound = min(limit, max(_ENOUGH, 2 * _BYTES_A_ROW * max(largest, _MOST_WORK)))
    handle.con.execute(f"SET memory_limit = '{bound}B'")


def _count(handle: Handle, batch: dict[str, Any]) -> None:
    """Count the tiles of a batch of slides by label and by ROI, inside a transaction."""
    handle.con.execute(read_query("stage_tiles"), batch)
    handle.con.execute(read_query("stage_winners"))
    for name in ("insert_label_counts", "insert_roi_counts"):
        handle.con.execute(read_query(name), batch)


def _batches(todo: Iterable[tuple[Any, ...]], memory: int) -> Iterator[dict[str, Any]]:
    """Cut slides into batches of one grid and bounded work, as the queries take them."""
    most = min(_MOST_WORK, memory // 4 // _BYTES_A_ROW)
    for grid_id, group in itertools.groupby(todo, key=lambda row: row[0]):
        rows = list(group)
        for first, past in runs([row[-1] for row in rows], most):
            yield {"grid_id": grid_id, "slide_ids": [row[1] for row in rows[first:past]]}
