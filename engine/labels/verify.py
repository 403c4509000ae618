"""Compares stored labels with a plain spatial join, and stored ROIs with their files: the slow way, for proof."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from slideduck.errors import StudyError
from slideduck.labels.drawn import DrawnReport, compare_drawn
from slideduck.labels.tables import SetsVerified, verify_sets
from slideduck.progress import track
from slideduck.show import Shown
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_query

__all__ = ["VerifyReport", "verify"]

#: Greatest difference of two coverages that counts as none: the contract's.
TOLERANCE = 1e-9
#: Slides of a grid that a sample is drawn from, at most.
_SAMPLED_SLIDES = 50


@dataclass(frozen=True)
class VerifyReport(Shown):
    """How stored labels compare with a plain spatial join.

    Attributes
    ----------
    slides, tiles, pairs : int
        Slides times grids, tiles on them, and pairs of a tile and an ROI that were compared.
    largest_difference : float
        Of two coverages.
    differences : pyarrow.Table
        The pairs that differ: whether the centre is in the ROI, or the coverage by more than 1e-9. With ``grid``,
        ``slide``, ``tile_id``, ``roi_set``, ``roi_name``, and centre and coverage as stored and as joined.
    drawn : DrawnReport
        How the stored shapes of ROIs compare with what their files draw, read again.
    sets : SetsVerified
        How the sets of labels compare with what was added.
    """

    slides: int
    tiles: int
    pairs: int
    largest_difference: float
    differences: pa.Table
    drawn: DrawnReport
    sets: SetsVerified

    def shown(self) -> Iterator[tuple[str, object]]:
        """Yield what was compared and how much of it differs."""
        yield from [(name, getattr(self, name)) for name in ("slides", "tiles", "pairs")]
        yield "pairs that differ", self.differences.num_rows
        yield "largest difference", self.largest_difference
        yield "ROIs compared with their files", self.drawn.rois
        yield "ROIs that differ", self.drawn.differences.num_rows
        if self.drawn.unverified:
            yield "not compared", self.drawn.unverified


def verify(handle: Handle, tiles: int | None = 10_000, *, seed: int = 0) -> VerifyReport:
    """Compare the stored pairs of tiles and ROIs with those of a plain spatial join, and ROIs with their files.

    The spatial join starts from the stored shapes; these are compared with what the files draw, along lines, without
    the functions that repaired them.

    Parameters
    ----------
    handle : Handle
        The study.
    tiles : int, optional
        How many tiles to draw: half of them anywhere, half where the edge of an ROI runs through the tile, on at most
        50 slides of each grid, and at most 1,000 ROIs of 50 files. None for every tile of every slide and every ROI,
        which takes long.
    seed : int
        Another seed draws other tiles.

    Returns
    -------
    VerifyReport

    Raises
    ------
    StudyError
        If ``tiles`` is less than 1, or nothing is labelled.
    """
    if tiles is not None and tiles < 1:
        raise StudyError(f"{tiles} tiles are to be verified; give 1 or more, or all")
    laid = handle.con.execute(
        "SELECT grid_id, slide_id, grid, slide, n_columns::BIGINT * n_rows AS tiles FROM labelled "
        "JOIN grid_slides USING (grid_id, slide_id) JOIN grids USING (grid_id) JOIN slides USING (slide_id) "
        "WHERE n_columns * n_rows > 0 ORDER BY grid, slide"
    ).fetchall()
    if not laid:
        raise StudyError(f"no slide is labelled; make labels first with: slideduck label {handle.name}")
    rng = np.random.default_rng(seed)
    chosen = laid if tiles is None else _drawn_slides(laid, rng)
    share = None if tiles is None else -(-tiles // len(chosen))
    compared = pairs = 0
    largest = 0.0
    differing: list[pa.Table] = []
    with track("Verifying", len(chosen), "slides", show=handle.progress) as advance:
        for grid_id, slide_id, grid, slide, n_tiles in chosen:
            keys = {"grid_id": grid_id, "slide_id": slide_id}
            places = None if share is None else _drawn_places(handle, keys, n_tiles, share, rng)
            handle.con.execute(read_query("stage_verified_tiles"), {**keys, "places": places})
            found = handle.con.execute(read_query("compare_with_join"), {**keys, "slide": slide}).to_arrow_table()
            compared += n_tiles if places is None else len(places)
            pairs += found.num_rows
            apart = pc.abs(pc.subtract(found["stored_coverage"], found["joined_coverage"]))
            largest = max(largest, pc.max(apart).as_py() or 0.0)
            wrong = pc.or_(pc.not_equal(found["stored_centre"], found["joined_centre"]), pc.greater(apart, TOLERANCE))
            names = pa.table({"grid": [grid] * found.num_rows, "slide": [slide] * found.num_rows}, _NAMES)
            columns = [*names.columns, *found.columns]
            differing.append(pa.table(columns, [*names.column_names, *found.column_names]).filter(wrong))
            advance(1)
    handle.con.execute("DROP TABLE verified_tile")
    drawn = compare_drawn(handle, every=tiles is None, rng=rng)
    sets = verify_sets(handle)
    return VerifyReport(len(chosen), compared, pairs, largest, pa.concat_tables(differing), drawn, sets)


_NAMES = pa.schema([("grid", pa.string()), ("slide", pa.string())])


def _drawn_slides(
    laid: list[tuple[int, int, str, str, int]], rng: np.random.Generator
) -> list[tuple[int, int, str, str, int]]:
    """Choose some slides of each grid at random."""
    chosen = []
    for grid_id in sorted({row[0] for row in laid}):
        rows = [row for row in laid if row[0] == grid_id]
        picks = rng.choice(len(rows), min(_SAMPLED_SLIDES, len(rows)), replace=False)
        chosen += [rows[i] for i in sorted(picks)]
    return chosen


def _drawn_places(
    handle: Handle, keys: dict[str, int], n_tiles: int, share: int, rng: np.random.Generator
) -> list[int]:
    """Choose tiles of a slide at random: half of them where an edge runs through, if there are as many."""
    rows = handle.con.execute(
        "SELECT DISTINCT grid_y::BIGINT * n_columns + grid_x AS place FROM tile_rois "
        "JOIN grid_slides USING (grid_id, slide_id) WHERE grid_id = $grid_id AND slide_id = $slide_id "
        "AND coverage > 0 AND coverage < 1 ORDER BY place",
        keys,
    ).fetchall()
    edges = np.array([place for (place,) in rows], np.int64)
    on_edge = rng.choice(edges, min(share // 2, len(edges)), replace=False)
    anywhere = rng.choice(n_tiles, min(share - len(on_edge), n_tiles), replace=False)
    return [int(place) for place in np.union1d(on_edge, anywhere)]
