"""The view ``labels`` as it is read: up to date or refused, whole or a grid of it, under a condition."""

from __future__ import annotations

import duckdb
from duckdb import ColumnExpression, ConstantExpression

from slideduck.catalog.grids import require_grid
from slideduck.errors import StudyError
from slideduck.labels.conditions import meeting
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_query
from slideduck.words import counted, some

__all__ = ["labels", "require_labels", "stale_slides"]


def labels(handle: Handle, where: str | None = None, *, grid: str | None = None) -> duckdb.DuckDBPyRelation:
    """Return the label of each tile, in the order of slide, grid_y, grid_x.

    Parameters
    ----------
    handle : Handle
        The study.
    where : str, optional
        An SQL condition on the columns of the view ``labels``.
    grid : str, optional
        Only the tiles of this grid.

    Returns
    -------
    duckdb.DuckDBPyRelation
        The view ``labels``; rows are fetched by ``.df()``, ``.arrow()``, ``.pl()`` or ``.fetchall()``.

    Raises
    ------
    StudyError
        If labels are missing or out of date, there is no such grid, or the condition needs what is not
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
    if where is not None:
        relation = meeting(handle, relation, where)
    return relation.order("grid, slide, grid_y, grid_x")


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
    return sorted({row[3] for row in rows})
