"""Conditions that users write in SQL: checked, and refused, in one way.

A condition is an expression on the columns of a relation: the view ``labels``, or the tiles of a beton. What it may
hold is in `slideduck.labels.permitted`; a subquery may read the tables of the study, or the tiles of the beton. It is
put to DuckDB's relation API, which takes expressions and nothing else, whatever the text holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
from duckdb import ColumnExpression, SQLExpression

from slideduck.errors import QueryError, StudyError
from slideduck.labels.known import known_labels, unknown_label
from slideduck.labels.permitted import parsed_nodes, study_tables, unfit
from slideduck.measure.qc_measures import MEASURES
from slideduck.names import is_missing
from slideduck.store.db import translated
from slideduck.store.handle import Handle
from slideduck.words import counted, some

__all__ = [
    "bad_condition",
    "meeting",
    "not_boolean",
    "refused",
    "refuse_strange_labels",
    "refuse_unknown_labels",
    "refuse_unmeasured",
    "refusing",
]

#: Comparisons that ask whether a label is a certain one, or whether it is not.
_EQUALITIES = {"COMPARE_EQUAL", "COMPARE_NOTEQUAL", "COMPARE_DISTINCT_FROM", "COMPARE_NOT_DISTINCT_FROM"}
_MEMBERSHIPS = {"COMPARE_IN", "COMPARE_NOT_IN"}
#: Functions of a list and of what may be in it.
_LIST_FUNCTIONS = {"contains", "list_contains", "list_has", "array_contains", "array_has"}
#: The relations whose column ``label`` is the label of a tile: the view of a study, and the tiles of a beton.
_RELATIONS = {"labels", "tiles"}


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
        If it is no condition on these columns, or names a label that no ROI has.
    StudyError
        If it needs what is not measured; see `refuse_unmeasured`.
    """
    with refusing(where, tiles.columns):
        problem = refused(handle, tiles, where)
        if problem is not None:
            raise bad_condition(where, tiles.columns, problem)
        chosen = tiles.filter(where)
        refuse_strange_labels(handle, where)
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


def refused(handle: Handle, tiles: duckdb.DuckDBPyRelation, where: str) -> str | None:
    """Return why a text is no condition on rows of the view ``labels``; None where it is one.

    Raises
    ------
    duckdb.Error
        If it does not bind.
    """
    con = handle.con
    problem = unfit(con, where, tiles.columns, lambda: study_tables(con), "the study's tables and views")
    return problem or not_boolean(tiles, where)


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


def refuse_strange_labels(handle: Handle, condition: str) -> None:
    """Refuse a condition that names a label which no ROI of the study has, in whatever set.

    Raises
    ------
    QueryError
        With every such label; see `refuse_unknown_labels`.
    """
    if "label" in condition.lower():
        refuse_unknown_labels(handle.con, condition, known_labels(handle.con))


def refuse_unknown_labels(
    con: duckdb.DuckDBPyConnection, condition: str, known: Iterable[str], *, beton: Path | None = None
) -> None:
    """Refuse a condition that compares the column ``label`` with a label that there is not.

    It would be true of no tile, or of every one: most likely the label is misspelt.

    Parameters
    ----------
    con : duckdb.DuckDBPyConnection
        Any connection: DuckDB parses the condition.
    condition : str
        An SQL condition; one that does not parse is let pass, for DuckDB to complain of.
    known : iterable of str
        The labels that there are.
    beton : Path, optional
        The beton whose tiles are asked, where it is no study's.

    Raises
    ------
    QueryError
        With every such label, and the nearest of those that there are.

    Notes
    -----
    What is looked at is ``=``, ``<>``, ``IS [NOT] DISTINCT FROM``, ``IN`` and ``list_contains``, of ``label`` itself,
    cast, or with something in place of NULL (``coalesce``). Patterns and functions of a label are let pass.
    """
    names = list(known)
    unknown = [name for name in _labels_named(con, condition) if name not in names]
    if not unknown:
        return
    where = f"{'' if beton is None else f'{beton}: '}the condition {condition!r}"
    words = {} if beton is None else {"lacking": "is no class of this beton", "of": "its classes are"}
    problems = [unknown_label(name, names, where, **words) for name in unknown]
    if any(map(is_missing, unknown)):
        problems.append("tiles without a label are found by: label IS NULL")
    raise QueryError("\n".join(problems))


def _labels_named(con: duckdb.DuckDBPyConnection, condition: str) -> list[str]:
    """Return the texts that a condition compares labels with, in the order of the alphabet."""
    found: set[str] = set()
    query = f"SELECT 1 FROM labels WHERE {condition}\n"
    for node in parsed_nodes(con, query, relations=_RELATIONS):
        if "class" not in node:
            continue  # no expression
        kind = node["type"]
        if kind in _EQUALITIES:
            found.update(_compared([node["left"], node["right"]]))
        elif kind in _MEMBERSHIPS:
            found.update(_compared(node["children"]))
        elif node.get("function_name") in _LIST_FUNCTIONS and len(node["children"]) == 2:
            listed, sought = node["children"]
            if listed.get("function_name") == "list_value":
                found.update(_compared([sought, *listed["children"]]))
    return sorted(found)


def _compared(sides: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the texts among the sides of a comparison, if a label is among them, but for those put in place of NULL."""
    in_place = [_in_place_of_null(side) for side in sides]
    if all(texts is None for texts in in_place):
        return
    allowed = {text for texts in in_place for text in texts or ()}
    yield from (text for side in sides if (text := _text(side)) is not None and text not in allowed)


def _in_place_of_null(node: dict[str, Any]) -> list[str] | None:
    """Return the texts that an expression puts in place of a label that is NULL; None if it is no label."""
    if node.get("type") == "OPERATOR_CAST":
        return _in_place_of_null(node["child"])
    if node.get("type") == "OPERATOR_COALESCE":
        first, *others = node["children"]
        return None if _in_place_of_null(first) is None else [text for n in others if (text := _text(n)) is not None]
    *relation, column = (name.lower() for name in node.get("column_names") or ("",))
    return [] if column == "label" and set(relation) <= _RELATIONS else None


def _text(node: dict[str, Any]) -> str | None:
    """Return the text that an expression is; None if it is none."""
    if node.get("type") == "OPERATOR_CAST":
        return _text(node["child"])
    value = node.get("value") or {"is_null": True}
    if node.get("class") != "CONSTANT" or value["is_null"] or value["type"]["id"] != "VARCHAR":
        return None
    return str(value.get("value", ""))


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
