"""The view ``labels`` as it is read: up to date or refused, whole or a grid of it, under a condition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
from duckdb import ColumnExpression, ConstantExpression

from slideduck.catalog.chosen import ChosenTiles
from slideduck.catalog.grids import require_grid
from slideduck.errors import StudyError
from slideduck.labels.conditions import meeting
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_query
from slideduck.words import counted, some

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["labels", "require_labels", "stale_slides", "tile_dataframe"]

#: The columns of Slideflow's ``get_tile_dataframe``, in its order.
_SLIDEFLOW_COLUMNS = ("loc_x", "loc_y", "grid_x", "grid_y", "roi_name", "roi_desc", "label", "slide")


def labels(
    handle: Handle, where: str | ChosenTiles | None = None, *, grid: str | None = None
) -> duckdb.DuckDBPyRelation:
    """Return the label of each tile, in the order of slide, grid_y, grid_x.

    Parameters
    ----------
    handle : Handle
        The study.
    where : str or ChosenTiles, optional
        An SQL condition on the columns of the view ``labels``, or tiles by name.
    grid : str, optional
        Only the tiles of this grid.

    Returns
    -------
    duckdb.DuckDBPyRelation
        The view ``labels``; rows are fetched by ``.df()``, ``.arrow()``, ``.pl()`` or ``.fetchall()``.

    Raises
    ------
    StudyError
        If labels are missing or out of date, there is no such grid or tile, or the condition needs what is not
        measured (see `slideduck.measure.qc.qc`).
    QueryError
        If it is no condition on these columns.
    """
    require_labels(handle)
    relation = handle.con.sql("SELECT * FROM labels")
    if grid is not None:
        require_grid(handle, grid)
        # A relation with parameters would be computed whole before anything more is asked of it.
        relation = relation.filter(ColumnExpression("grid") == ConstantExpression(grid))
    if isinstance(where, ChosenTiles):
        where.require_known(handle, relation, grid)
        relation = where.of(handle, relation)
    elif where is not None:
        relation = meeting(handle, relation, where)
    return relation.order("grid, slide, grid_y, grid_x")


def tile_dataframe(handle: Handle, grid: str) -> pd.DataFrame:
    """Return Slideflow's data frame of the tiles of a grid that the method keeps; see `Study.tile_dataframe`."""
    rows = labels(handle, "kept", grid=grid)
    frame = rows.project(", ".join(("tile_id", *_SLIDEFLOW_COLUMNS))).df().set_index("tile_id")
    frame.index.name = None
    # Slideflow has None where there is no ROI; DuckDB's NULLs arrive as NaN or None by version.
    for name in ("roi_name", "roi_desc", "label"):
        frame[name] = frame[name].astype(object).where(frame[name].notna(), None)
    return frame


def require_labels(handle: Handle) -> None:
    """Refuse to answer from labels that are missing or out of date.

    Raises
    ------
    StudyError
        If they are, with the slides and what to do.
    """
    if handle.con.execute("SELECT count(*) FROM label_rule").fetchone() == (0,):
        raise StudyError(f"{handle.name} has no labels yet; make them with: slideduck label {handle.name}")
    stale = stale_slides(handle)
    if stale:
        raise StudyError(
            f"the labels of {counted(len(stale), 'slide')} are out of date "
            f"({some(stale)}); bring them up to date with: slideduck label {handle.name}"
        )


def stale_slides(handle: Handle) -> list[str]:
    """Return the slides whose labels are missing or out of date in any grid, in order of name."""
    rows = handle.con.execute(read_query("list_unlabelled")).fetchall()
    # The labels of those that are labelled and uncounted come from sets that are others now.
    uncounted = handle.con.execute(
        "SELECT slide FROM labelled JOIN slides USING (slide_id) WHERE counted_by IS NULL"
    ).fetchall()
    return sorted({row[3] for row in rows} | {slide for (slide,) in uncounted})
