"""Maps of predictions over a slide: at each point the mean of the tiles that cover it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slideduck.errors import ConfigError
from slideduck.store.sqlfiles import read_query
from slideduck.study import Study

__all__ = ["WINDOWS", "SlideMap", "blend", "read_map"]

#: How a tile is weighed over the points that it covers.
WINDOWS = ("flat", "peaked")

#: Cells of a map in a step of the grid, along each side, where a step is not covered by the same tiles throughout, or
#: they do not count alike throughout.
_CELLS_PER_STEP = 4


@dataclass(frozen=True)
class SlideMap:
    """The predictions of a run for a slide, on a grid of square cells.

    Attributes
    ----------
    given : ndarray of float32, (rows, columns, outputs)
        Probabilities of classes or labels, or numbers; NaN where no tile lies.
    mutual_information : ndarray of float32, (rows, columns), or None
        Nats; None where the predictions have none.
    deviation : ndarray of float32, (rows, columns, outputs), or None
        Of numbers, over the passes; None where the predictions have none.
    left, top, cell : float
        Corner of the first cell, and side of a cell, base pixels.
    tiles : int
        Tiles that it is the mean of.
    overlaps : bool
        Whether tiles overlap.
    """

    given: NDArray[np.float32]
    mutual_information: NDArray[np.float32] | None
    deviation: NDArray[np.float32] | None
    left: float
    top: float
    cell: float
    tiles: int
    overlaps: bool


def blend(
    values: NDArray[np.floating], extract_px: int, stride: int, window: str = "flat"
) -> tuple[NDArray[np.float32], float]:
    """Return the mean over the tiles that cover each cell of a finer grid.

    Parameters
    ----------
    values : ndarray, (rows, columns, n)
        Of the tiles; NaN where there is none.
    extract_px, stride : int
        Side of a tile, and the step to the next, base pixels.
    window : str
        ``"flat"``: tiles count alike. ``"peaked"``: by the place of the cell's centre in the tile,
        sin²(πu) sin²(πv) for u and v from 0 to 1 across it (a Hann window): edges of tiles do not show.

    Returns
    -------
    blended : ndarray of float32
        (rows, columns, n) of the cells, of which the first has the corner of the first tile; NaN where no tile
        covers the centre.
    cell : float
        Side of a cell, base pixels: the step where the window is flat and the tile a whole number of steps wide, so
        that tiles cover a cell whole or not at all; else a quarter of it.

    Raises
    ------
    ConfigError
        If there is no such window.
    """
    if window not in WINDOWS:
        raise ConfigError(f"window is {window!r}; it must be one of {', '.join(WINDOWS)}")
    per_step = 1 if window == "flat" and extract_px % stride == 0 else _CELLS_PER_STEP
    cell = stride / per_step
    covered = max(1, math.ceil(extract_px / cell - 0.5))
    across = (np.arange(covered) + 0.5) * cell / extract_px
    weights = np.sin(np.pi * across) ** 2 if window == "peaked" else np.ones(covered)
    rows, columns, n = values.shape
    there = np.isfinite(values).all(axis=2)
    known = np.where(there[..., None], values, 0).astype(np.float64)
    total = np.zeros(((rows - 1) * per_step + covered, (columns - 1) * per_step + covered, n))
    weight = np.zeros(total.shape[:2])
    for y in range(covered):
        for x in range(covered):
            place = (
                slice(y, y + (rows - 1) * per_step + 1, per_step),
                slice(x, x + (columns - 1) * per_step + 1, per_step),
            )
            total[place] += weights[y] * weights[x] * known
            weight[place] += weights[y] * weights[x] * there
    weight[weight == 0] = np.nan
    return (total / weight[..., None]).astype(np.float32), cell


def read_map(
    study: Study, run: str, grid: str, slide: str, names: Sequence[str], *, window: str = "flat", numbers: bool = False
) -> SlideMap:
    """Return the map of a slide from the predictions of a run that a study holds.

    Parameters
    ----------
    study : Study
        The study.
    run, grid, slide : str
        Names.
    names : sequence of str
        Classes, labels or columns of numbers, in the order of the map's last axis.
    window : str
        See `blend`.
    numbers : bool
        Whether the run says numbers, in place of probabilities.
    """
    query, outputs = ("list_numbers", "targets") if numbers else ("list_predictions", "classes")
    values = {"run": run, "grid": grid, "slide": slide, outputs: list(names)}
    rows = study.con.execute(read_query(query), values).to_arrow_table()
    place = study.con.execute(read_query("find_slide_grid"), {"grid": grid, "slide": slide}).fetchone()
    assert place is not None
    n_columns, n_rows, extract_px, stride, origin_x, origin_y = place
    layers = [_layer(rows, name, len(names)) for name in ("given", "mutual_information", "deviations")]
    there = [layer for layer in layers if layer is not None]
    laid = np.full((n_rows, n_columns, sum(layer.shape[1] for layer in there)), np.nan)
    laid[rows["grid_y"].to_numpy(), rows["grid_x"].to_numpy()] = np.concatenate(there, axis=1)
    blended, cell = blend(laid, extract_px, stride, window)
    has_information, has_deviation = layers[1] is not None, layers[2] is not None
    return SlideMap(
        given=blended[..., : len(names)],
        mutual_information=blended[..., -1] if has_information else None,
        deviation=blended[..., -len(names) :] if has_deviation else None,
        left=origin_x,
        top=origin_y,
        cell=cell,
        tiles=len(rows),
        overlaps=stride < extract_px,
    )


def _layer(rows: pa.Table, name: str, n_outputs: int) -> NDArray[np.float64] | None:
    """Return what a column says of tiles, (tiles, numbers); None where it says nothing."""
    if name not in rows.column_names or (name != "given" and (not len(rows) or rows[name].null_count)):
        return None
    column = rows[name].combine_chunks()
    if name == "mutual_information":
        return np.asarray(column.to_numpy(), np.float64)[:, None]
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float64).reshape(-1, n_outputs)
