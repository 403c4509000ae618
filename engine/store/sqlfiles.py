"""Loads the SQL of the package `slideduck.sql`; errors name the file and the line."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

import duckdb

from slideduck.errors import SlideduckError

__all__ = ["VIEWS", "read_query", "read_sql", "run_script"]

#: Scripts that make macros and views, in the order in which they depend on each other.
VIEWS = (
    "macros.sql",
    "views/looked_at.sql",
    "views/slide_roi_set.sql",
    "views/ranked_roi.sql",
    "views/held_roi.sql",
    "views/tile_winner.sql",
    "views/measured_tile.sql",
    "views/given_label.sql",
    "views/labels.sql",
    "views/grid_on_slide.sql",
    "views/counts.sql",
    "views/conflicts.sql",
    "views/roi_tiles.sql",
    "views/label_areas.sql",
    "views/errors.sql",
    "questions.sql",
)


@cache
def read_sql(name: str) -> str:
    """Return the text of ``sql/<name>``, such as ``"queries/count_labels.sql"``.

    Raises
    ------
    FileNotFoundError
        If the package holds no such file: a mistake of ours, not the user's.
    """
    return (files("slideduck.sql") / name).read_text(encoding="utf-8")


def read_query(name: str) -> str:
    """Return the one statement of ``sql/queries/<name>.sql``."""
    return read_sql(f"queries/{name}.sql")


def run_script(con: duckdb.DuckDBPyConnection, name: str) -> None:
    """Run every statement of ``sql/<name>``.

    Raises
    ------
    SlideduckError
        With the file and the line of the statement that failed.
    """
    text = read_sql(name)
    offset = 0
    for statement in duckdb.extract_statements(text):
        at = text.find(statement.query.strip(), offset)
        offset = max(at, offset)
        try:
            con.execute(statement)
        except duckdb.Error as error:
            # A statement begins with the comments above it; the line wanted is that of its first keyword.
            body = re.search(r"^(?!\s*--)\s*\S", text[offset:], re.MULTILINE)
            line = text.count("\n", 0, offset + (body.start() if body else 0)) + 1
            raise SlideduckError(f"sql/{name}:{line}: {error}") from error
