"""What a condition may hold: one expression on the columns of tiles, that gives the same answer every time.

A condition comes from a user, a run's settings or a script, and is asked of connections that may read any file. So
DuckDB parses it, and each part is looked at before anything is bound or run. Whatever is not known is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import duckdb

from slideduck.store.sealed import too_large
from slideduck.store.sqlfiles import VIEWS

__all__ = ["parsed_nodes", "study_tables", "unfit"]

#: Parts of an expression that depend on nothing but the row.
_EXPRESSIONS = {
    "BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "FUNCTION", "LAMBDA",
    "LAMBDA_REF", "OPERATOR", "STAR", "SUBQUERY",
}  # fmt: skip
#: Parts of a subquery.
_QUERIES = {
    "SELECT_NODE", "SET_OPERATION_NODE", "BASE_TABLE", "SUBQUERY", "JOIN", "EMPTY", "EXPRESSION_LIST", "ORDER_MODIFIER",
    "ORDER_DEFAULT", "ASCENDING", "DESCENDING", "LIMIT_MODIFIER", "DISTINCT_MODIFIER",
}  # fmt: skip

#: The time and the user, which are written without brackets and parse as columns.
_TIMES = {"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"}
_PLACES = {"current_user", "user", "session_user", "current_role", "current_catalog", "current_schema"}
#: Functions that DuckDB holds for consistent and that answer by the time, by chance or by the machine.
_CHANGING = {"current_localtime", "current_localtimestamp", "reservoir_quantile"}
_TELLING = {"current_setting", "getenv", "getvariable", "vector_type", "version"}
#: Aggregates of whichever row comes first, unless they are told an order.
_UNORDERED = {
    "any_value", "arbitrary", "array_agg", "first", "group_concat", "last", "list", "listagg", "string_agg",
}  # fmt: skip

#: Levels of objects in what DuckDB makes of a condition; Python reads about 900.
_DEEPEST = 500


def unfit(
    con: duckdb.DuckDBPyConnection,
    condition: str,
    columns: Sequence[str],
    tables: Callable[[], Collection[str]],
    noun: str,
) -> str | None:
    """Return why a text is no condition, as far as that is seen without binding it; None where it may be one.

    Parameters
    ----------
    con : duckdb.DuckDBPyConnection
        The connection that it will be asked on: DuckDB parses it, and says what functions are.
    condition : str
        The text.
    columns : sequence of str
        Columns of the tiles.
    tables : callable
        Gives the names of the tables that a subquery may read, in lower case.
    noun : str
        What these are, for the message.
    """
    problem = too_large(condition)
    if problem is not None:
        return problem
    try:
        parsed = _parsed(con, f"SELECT {condition}\n")
    except RecursionError:
        return "it is nested too deeply"
    if parsed["error"]:
        parsing = parsed.get("error_type") == "parser"
        return f"Parser Error: {parsed['error_message']}" if parsing else _MORE
    first, *more = (statement["node"] for statement in parsed["statements"])
    if more or not _is_expression(first):
        return _MORE
    named = {name.lower() for name in columns}
    functions: dict[str, None] = {}
    for node, depth in _nodes(first["select_list"]):
        if depth > _DEEPEST:
            return "it is nested too deeply"
        problem = _strange_node(node, named) or _strange_table(node, tables, noun)
        if problem is not None:
            return problem
        if node.get("class") == "FUNCTION":
            functions[node["function_name"].lower()] = None
    return _strange_function(con, list(functions))


_MORE = "it is more than one expression"


def _is_expression(node: dict[str, Any]) -> bool:
    """Return whether a query is nothing but a list of expressions."""
    rest = ("where_clause", "group_expressions", "having", "sample", "qualify", "modifiers")
    return (
        node["type"] == "SELECT_NODE"
        and node["from_table"]["type"] == "EMPTY"
        and not node["cte_map"]["map"]
        and not any(node[name] for name in rest)
    )


def _strange_node(node: dict[str, Any], columns: Collection[str]) -> str | None:
    """Return why a part of a condition is not permitted, but for tables and functions."""
    kind = node.get("class")
    if node.get("sample"):
        return "a sample gives another answer each time"
    if kind == "WINDOW":
        return f"{node['function_name']}() OVER (…) may give another answer where rows come in another order"
    if kind is not None and kind not in _EXPRESSIONS:
        return f"it holds a {kind.lower().replace('_', ' ')}"
    if kind == "COLUMN_REF" and len(node["column_names"]) == 1:
        name = node["column_names"][0].lower()
        if name not in columns and name in _TIMES | _PLACES:
            return _again(name) if name in _TIMES else _tells(name)
    if kind == "FUNCTION":
        name = node["function_name"].lower()
        # age(x) is the time since x, and age(x, y) that between both.
        if name in _CHANGING or (name == "age" and len(node["children"]) == 1):
            return _again(name)
        if name in _TELLING:
            return _tells(name)
        if name in _UNORDERED and not node["order_bys"]["orders"]:
            return f"{name}() takes whichever rows come first; give it an order: {name}(x ORDER BY y)"
    modifiers = {each["type"]: each for each in node.get("modifiers") or ()}
    if modifiers and "ORDER_MODIFIER" not in modifiers:
        if "LIMIT_MODIFIER" in modifiers:
            return "LIMIT without ORDER BY takes whichever rows come first"
        if (modifiers.get("DISTINCT_MODIFIER") or {}).get("distinct_on_targets"):
            return "DISTINCT ON without ORDER BY takes whichever rows come first"
    return None


def _again(name: str) -> str:
    return f"{name}() gives another answer each time"


def _tells(name: str) -> str:
    return f"{name}() tells of the machine and not of tiles"


def _strange_table(node: dict[str, Any], tables: Callable[[], Collection[str]], noun: str) -> str | None:
    """Return why a part of a subquery is not permitted."""
    kind = node.get("type")
    if "class" in node or not isinstance(kind, str) or kind.endswith("TYPE_INFO"):
        return None  # an expression, or the type of a cast or of a value
    if kind == "TABLE_FUNCTION":
        return f"a subquery may read {noun} alone, and not {node['function'].get('function_name', '')}()"
    if kind not in _QUERIES:
        return f"a subquery may read {noun} alone, and not {kind}"
    if kind == "BASE_TABLE":
        name = node["table_name"]
        if node.get("schema_name") or node.get("catalog_name") or name.lower() not in tables():
            return f"a subquery may read {noun} alone, and not {name!r}"
    return None


def _strange_function(con: duckdb.DuckDBPyConnection, names: Sequence[str], within: tuple[str, ...] = ()) -> str | None:
    """Return why a function is not permitted: one whose answer changes, or a macro that holds what is not."""
    names = [name for name in names if name not in within]
    if not names:
        return None
    # Named in full, since a macro of the study may be called as they are.
    rows = con.execute(
        "SELECT system.main.lower(function_name), stability, internal, macro_definition "
        "FROM system.main.duckdb_functions() "
        f"WHERE system.main.lower(function_name) IN ({', '.join('?' * len(names))})",
        names,
    ).fetchall()
    own = {name for name, _, internal, _ in rows if internal}
    for name, stability, internal, definition in rows:
        if stability not in (None, "CONSISTENT"):
            return _again(name)
        if not internal and name in own:
            return f"{name}() is a macro of the study in the place of DuckDB's own"
        if definition is not None and (problem := _strange_macro(con, definition, (*within, *names))) is not None:
            return f"the macro {name}() is not permitted: {problem}"
    return None


def _strange_macro(con: duckdb.DuckDBPyConnection, definition: str, within: tuple[str, ...]) -> str | None:
    """Return why the expression of a macro is not permitted."""
    parsed = _parsed(con, f"SELECT {definition}\n")
    if parsed["error"]:
        return str(parsed["error_message"])
    functions = []
    for node, _ in _nodes(parsed["statements"]):
        problem = _strange_node(node, ()) or _strange_table(node, tuple, "columns")
        if problem is not None:
            return problem
        if node.get("class") == "FUNCTION":
            functions.append(node["function_name"].lower())
    return _strange_function(con, list(dict.fromkeys(functions)), within)


def study_tables(con: duckdb.DuckDBPyConnection) -> set[str]:
    """Return the tables and views of a study that a condition's subquery may read, in lower case."""
    rows = con.execute(
        "SELECT table_name FROM system.main.duckdb_tables() WHERE NOT temporary AND schema_name = 'main'"
    ).fetchall()
    views = (script.removeprefix("views/").removesuffix(".sql") for script in VIEWS if script.startswith("views/"))
    return {name.lower() for (name,) in rows}.union(views)


def parsed_nodes(
    con: duckdb.DuckDBPyConnection, query: str, *, relations: set[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield every object of a query as DuckDB parses it; one object, with the error, where it does not parse.

    With ``relations``, only what selects from one of these tables alone is gone into, where names mean its columns.
    """
    yield from (node for node, _ in _nodes(_parsed(con, query), relations))


def _parsed(con: duckdb.DuckDBPyConnection, query: str) -> dict[str, Any]:
    """Return a query as DuckDB parses it."""
    (text,) = con.execute("SELECT system.main.json_serialize_sql($query)", {"query": query}).fetchone() or ("{}",)
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def _nodes(parsed: Any, relations: set[str] | None = None) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield every object of what was parsed, and how deep it lies, the first in the text about first."""
    waiting: list[tuple[Any, int]] = [(parsed, 0)]
    while waiting:
        node, depth = waiting.pop()
        if isinstance(node, dict):
            source = node.get("from_table")
            if relations is not None and source is not None and source.get("table_name") not in relations:
                continue
            yield node, depth
            waiting += [(value, depth + 1) for value in reversed(node.values())]
        elif isinstance(node, list):
            waiting += [(value, depth + 1) for value in reversed(node)]
