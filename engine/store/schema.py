"""Makes the tables and views of a study, and brings older studies up to date."""

from __future__ import annotations

import hashlib
from pathlib import Path

import duckdb

from slideduck.errors import StudyError
from slideduck.store.db import atomic
from slideduck.store.sqlfiles import VIEWS, read_sql, run_script
from slideduck.store.views import foreign_views
from slideduck.words import counted

__all__ = ["SCHEMA_VERSION", "is_outdated", "prepare"]

#: Version of ``sql/schema.sql``; a change of it comes with a script in ``sql/migrations/``.
SCHEMA_VERSION = 4

#: Script that makes each version from the one before it.
_MIGRATIONS = {
    2: "migrations/0002_frames_and_repairs.sql",
    3: "migrations/0003_labels_from_elsewhere.sql",
    4: "migrations/0004_predicted_numbers.sql",
}


def prepare(con: duckdb.DuckDBPyConnection, path: Path, *, read_only: bool) -> None:
    """Make the tables and views where there are none, and bring an older study up to date.

    Parameters
    ----------
    con : duckdb.DuckDBPyConnection
        Connection to the study.
    path : Path
        Its file, for messages.
    read_only : bool
        True where nothing may be written.

    Raises
    ------
    StudyError
        If the file is another program's, or of a version that cannot be used.
    """
    tables = {name for (name,) in con.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    if not tables:
        if read_only:
            raise StudyError(f"{path} is an empty study; add slides with: slideduck add-slides {path} FOLDER")
        with atomic(con):
            run_script(con, "schema.sql")
            _set(con, "schema_version", str(SCHEMA_VERSION))
            _make_views(con)
        con.execute("CHECKPOINT")
        return
    if "meta" not in tables or "slides" not in tables:
        raise StudyError(f"{path} is a DuckDB file of another program, not a study; give another path")
    version = int(_get(con, "schema_version") or 0)
    if version > SCHEMA_VERSION:
        raise StudyError(
            f"{path} was written by a newer slideduck (schema {version}; this one knows {SCHEMA_VERSION}); "
            "upgrade slideduck"
        )
    foreign = [] if is_outdated(con) else foreign_views(con)
    if read_only and foreign:
        raise StudyError(
            f"{path.name} holds {counted(len(foreign), 'view')} that slideduck did not make: {', '.join(foreign)}; who "
            "wrote it may have others answer; make them anew with: "
            f"slideduck sql {path.name} 'SHOW TABLES' --write"
        )
    if not foreign and not is_outdated(con):
        return
    if read_only:
        raise StudyError(f"{path} was written by an older slideduck and cannot be brought up to date while only read")
    with atomic(con):
        for step in range(version + 1, SCHEMA_VERSION + 1):
            run_script(con, _MIGRATIONS[step])
        _set(con, "schema_version", str(SCHEMA_VERSION))
        _make_views(con)
    # A log of how tables were changed is what DuckDB 1.5.5 does not read back on its own; see `slideduck.store.db`.
    con.execute("CHECKPOINT")


def is_outdated(con: duckdb.DuckDBPyConnection) -> bool:
    """Return whether a study has tables or views of an older release."""
    tables = {name for (name,) in con.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    if "meta" not in tables:
        return False
    version = int(_get(con, "schema_version") or 0)
    return version < SCHEMA_VERSION or (version == SCHEMA_VERSION and _get(con, "views") != _views_digest())


def _make_views(con: duckdb.DuckDBPyConnection) -> None:
    for script in VIEWS:
        run_script(con, script)
    _set(con, "views", _views_digest())


def _views_digest() -> str:
    """Return a fingerprint of the scripts that make views, to know when to make them again."""
    return hashlib.sha256("\0".join(read_sql(name) for name in VIEWS).encode()).hexdigest()


def _get(con: duckdb.DuckDBPyConnection, key: str) -> str | None:
    row = con.execute("SELECT value FROM meta WHERE key = $key", {"key": key}).fetchone()
    return None if row is None else str(row[0])


def _set(con: duckdb.DuckDBPyConnection, key: str, value: str) -> None:
    con.execute("INSERT OR REPLACE INTO meta VALUES ($key, $value)", {"key": key, "value": value})
