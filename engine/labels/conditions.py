"""Conditions that users write in SQL: checked, and refused, in one way.

A condition is an expression on the columns of a relation: the view ``labels``, or the tiles of a beton. It is put to
DuckDB's relation API, which takes one expression and nothing else, whatever the text holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
from duckdb import ColumnExpression, SQLExpression

from slideduck.errors import QueryError, StudyError
from slideduck.measure.qc_measures import MEASURES
from slideduck.store.db import translated
from slideduck.store.handle import Handle
from slideduck.words import counted, some

__all__ = ["bad_condition", "meeting", "not_boolean", "parsed_nodes", "refuse_unmeasured", "refusing"]


def meeting(handle: Handle, tiles: duckdb.DuckDBPyRelation, where: str) -> duckdb.DuckDBPyRelation:
    """Return the tiles that meet a condition.

    Parameters
    ----------
    handle : Handle
        The study.
    tiles : duckdb.DuckDBPyRelation
        Rows of the view ``labels``.
    where : str
        One SQL condition on their columns; a tile for which it is NULL does not meet it.

    Returns
    -------
    duckdb.DuckDBPyRelation
        Not computed yet: what is computed later may fail on values, see `refusing`.

    Raises
    ------
    QueryError
        If it is no condition on these columns.
    StudyError
        If it needs what is not measured; see `refuse_unmeasured`.
    """
    with refusing(where, tiles.columns):
        chosen = tiles.filter(where)
        problem = not_boolean(tiles, where)
        if problem is not None:
            raise bad_condition(where, tiles.columns, problem)
        refuse_unmeasured(handle, tiles, where)
        return chosen


@contextmanager
def refusing(where: str, columns: Sequence[str], *, place: Path | None = None) -> Iterator[None]:
    """Turn DuckDB's errors about a condition, within a block, into its refusal.

    Raises
    ------
    QueryError
        If it does not parse, bind or run.
    """
    try:
        with translated():
            yield
    except (duckdb.ProgrammingError, duckdb.DataError, duckdb.NotSupportedError, duckdb.PermissionException) as error:
        # The first line is the reason; then comes the place in a query that the user did not write.
        raise bad_condition(where, columns, str(error).splitlines()[0], place=place) from error


def bad_condition(where: str, columns: Sequence[str], reason: str, *, place: Path | None = None) -> QueryError:
    """Return the refusal of a condition: where it was asked, the reason, and the columns that one may name."""
    return QueryError(
        f"{'' if place is None else f'{place}: '}the condition {where!r} cannot be used: {reason}; "
        f"give one SQL condition on the columns {', '.join(columns)}"
    )


def not_boolean(tiles: duckdb.DuckDBPyRelation, where: str) -> str | None:
    """Return why an expression on the columns of tiles is no condition; None where it is true or false.

    Raises
    ------
    duckdb.Error
        If it does not parse or bind.
    """
    types = tiles.project(where).types
    if [str(kind) for kind in types] == ["BOOLEAN"]:
        return None
    found = f"it is of type {types[0]}" if len(types) == 1 else f"it has {len(types)} columns"
    return f"{found}, and a condition is true or false"


def refuse_unmeasured(handle: Handle, tiles: duckdb.DuckDBPyRelation, condition: str) -> None:
    """Refuse a condition that leaves tiles out only because a measure of them is not there.

    Parameters
    ----------
    handle : Handle
        The study.
    tiles : duckdb.DuckDBPyRelation
        The tiles that the condition is asked of: rows of the view ``labels``.
    condition : str
        An SQL condition; one that does not parse is let pass, for DuckDB to complain of.

    Raises
    ------
    StudyError
        If the condition is NULL for tiles that lack a measure that it names. One that says what is to become of
        them, such as ``blur > 50 AND blur IS NOT NULL``, is not NULL there.
    """
    named = _measures_named(handle.con, condition)
    if not named:
        return
    lacking = ColumnExpression(named[0]).isnull()
    for name in named[1:]:
        lacking |= ColumnExpression(name).isnull()
    counts = ", ".join(f"count({name}) AS {name}" for name in named)
    unknown = tiles.filter(SQLExpression(condition).isnull() & lacking)
    rows = unknown.aggregate(f"grid, slide, count(*) AS tiles, {counts}", "grid, slide").order("grid, slide").fetchall()
    if not rows:
        return
    (total,) = tiles.aggregate("count(*) AS tiles").fetchone() or (0,)
    missing = [name for i, name in enumerate(named) if any(row[3 + i] < row[2] for row in rows)]
    grids = sorted({row[0] for row in rows})
    shown = some(list(dict.fromkeys(row[1] for row in rows)))
    options = " ".join(f"--measure {name}" for name in missing)
    raise StudyError(
        f"the condition {condition!r} needs {' and '.join(missing)}, not measured for "
        f"{sum(row[2] for row in rows):,} of {counted(total, 'tile')} (grid {', '.join(grids)}; slides {shown}); "
        f"measure with: slideduck qc {handle.name} --grid {grids[0]} {options}, or leave them out by adding "
        f"AND {missing[0]} IS NOT NULL"
    )


def _measures_named(con: duckdb.DuckDBPyConnection, condition: str) -> list[str]:
    """Return the measures that a condition names as columns, in their order."""
    if not any(name in condition.lower() for name in MEASURES):
        return []
    nodes = parsed_nodes(con, f"SELECT 1 FROM labels WHERE {condition}\n")
    found = {str(node["column_names"][-1]).lower() for node in nodes if node.get("type") == "COLUMN_REF"}
    return [name for name in MEASURES if name in found]


def parsed_nodes(con: duckdb.DuckDBPyConnection, query: str) -> Iterator[dict[str, Any]]:
    """Yield every object of a query as DuckDB parses it; one object, with the error, where it does not parse."""
    (text,) = con.execute("SELECT json_serialize_sql($query)", {"query": query}).fetchone() or ("{}",)
    waiting: list[Any] = [json.loads(text)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
