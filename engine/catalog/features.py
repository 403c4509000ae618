"""Tables of features in a study: one for each width, ``features_512`` for vectors of 512 numbers."""

from __future__ import annotations

from collections.abc import Mapping
from string import Template

import duckdb

from slideduck.store.db import identifier
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_sql

__all__ = ["delete_features", "feature_tables", "make_feature_table"]


def make_feature_table(handle: Handle, width: int) -> str:
    """Return the name of the table of features of a width, and make it if it is missing.

    Parameters
    ----------
    handle : Handle
        The study.
    width : int
        Numbers of a feature, 1 to 100,000, which is the most that DuckDB's arrays hold.
    """
    name = f"features_{width:d}"
    if name not in feature_tables(handle):
        for statement in duckdb.extract_statements(Template(read_sql("features.sql")).substitute(width=f"{width:d}")):
            handle.con.execute(statement)
    return name


def feature_tables(handle: Handle) -> dict[str, int]:
    """Return the names of the tables of features that the study has, with their widths."""
    rows = handle.con.execute("SELECT table_name FROM duckdb_tables() ORDER BY table_name").fetchall()
    parts = [(name, name.partition("_")) for (name,) in rows]
    return {name: int(width) for name, (kind, _, width) in parts if kind == "features" and width.isdecimal()}


def delete_features(handle: Handle, condition: str, values: Mapping[str, object]) -> None:
    """Delete the rows of all tables of features that meet a condition, inside a transaction."""
    for name in feature_tables(handle):
        handle.con.execute(f"DELETE FROM {identifier(name)} WHERE {condition}", values)
