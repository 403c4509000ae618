"""Connections to a study that SQL cannot leave, the statements that they take, and how long these may run.

A sealed connection has the study attached to a database in memory, and then no way to another file, extension or
setting. DuckDB leaves two holes in that: the file itself and its log stay open to ``COPY … TO``, and the table
functions that begin a log change settings all the same. So only statements that read are let through, by their kind and
by what their plan calls.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from duckdb import StatementType

from slideduck.errors import QueryError
from slideduck.store.db import (
    identifier,
    literal,
    load_spatial,
    machine_memory,
    opening_error,
    require_study,
    spatial_config,
    translated,
)

__all__ = ["Seal", "answer", "check_statement", "connect_sealed", "limited_time", "refused_query", "too_large"]

#: What reads and changes nothing. DuckDB has VALUES, DESCRIBE, SHOW and SUMMARIZE among SELECT.
_READING = {StatementType.SELECT}
#: What changes a study and opens no other file.
_CHANGING = {
    StatementType.INSERT, StatementType.UPDATE, StatementType.DELETE, StatementType.CREATE, StatementType.DROP,
    StatementType.ALTER, StatementType.MERGE_INTO, StatementType.VACUUM, StatementType.ANALYZE,
}  # fmt: skip

#: Table functions that change settings where nothing else can, as a plan names them: a log that cannot be written
#: ends the process.
_UNSEALING = re.compile(
    r'"(?:ENABLE_LOGGING|DISABLE_LOGGING|ENABLE_PROFILING|DISABLE_PROFILING|TRUNCATE_DUCKDB_LOGS|(?:FORCE_)?CHECKPOINT)'
    r'\s*"'
)

#: The beginning of a statement whose plan is asked for.
_EXPLAIN = re.compile(r"\s*EXPLAIN\s+(?:ANALYZE\s+)?(?:\(\s*(?:FORMAT|ANALYZE)\b[^)]*\)\s*)?", re.IGNORECASE)

#: DuckDB's parser takes time that grows with the square of the parts that AND and OR join, and cannot be interrupted.
_MOST_PARTS = 10_000
_JOINED = re.compile(r"\b(?:AND|OR)\b", re.IGNORECASE)
#: Characters of a query or condition; a list of 100,000 ids has 3 million.
_LONGEST = 16_000_000

#: Rows that are fetched at once.
_BATCH_ROWS = 100_000


@dataclass(frozen=True)
class Seal:
    """What a sealed connection lets through.

    Attributes
    ----------
    read_only : bool
        Not statements that change the study.
    allow_files : bool
        Other files; unless ``read_only`` also statements that write them.
    memory : int
        Bytes that DuckDB may use, and that an answer may have.
    """

    read_only: bool = True
    allow_files: bool = False
    memory: int = field(default_factory=lambda: machine_memory() // 2)


def connect_sealed(path: Path, seal: Seal, *, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """Open a study so that its SQL cannot leave it.

    Parameters
    ----------
    path : Path
        The file.
    seal : Seal
        What is let through all the same.
    threads : int, optional
        DuckDB's threads; default one a core.

    Raises
    ------
    StudyError
        If the file is missing, in use by another process or no DuckDB file.
    """
    require_study(path)
    # DuckDB puts its log beside the name that it is given; through another name it would not be seen.
    path = path.resolve()
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "temp_directory": f"{path}.tmp",
        "memory_limit": f"{seal.memory}B",
        **spatial_config(),
    }
    if threads is not None:
        config["threads"] = threads
    # A database of its own: another connection of this process to the same file keeps its settings.
    con = duckdb.connect(config=config)
    try:
        load_spatial(con)
        _attach(con, path, seal)
        con.execute("SET python_enable_replacements = false")
        if not seal.allow_files:
            con.execute("SET enable_external_access = false")
        con.execute("SET lock_configuration = true")
    except BaseException:
        con.close()
        raise
    return con


def _attach(con: duckdb.DuckDBPyConnection, path: Path, seal: Seal) -> None:
    """Attach a study under its file's name, and let its tables be found."""
    name = identifier(path.stem if path.stem not in ("memory", "system", "temp") else f"{path.stem}_")
    try:
        con.execute(
            f"ATTACH {literal(str(path))} AS {name} ({'READ_ONLY' if seal.read_only else 'READ_WRITE'}, TYPE duckdb)"
        )
    except duckdb.Error as error:
        raise opening_error(path, error) from error
    con.execute(f"USE {name}")
    if seal.read_only:
        # DuckDB's own functions first: a macro of the study, such as `sum`, does not take the place of one.
        con.execute("SET search_path = $path", {"path": f"system.main,{name}.main"})


def check_statement(
    con: duckdb.DuckDBPyConnection,
    query: str,
    seal: Seal,
    path: Path,
    params: Mapping[str, Any] | Sequence[Any] | None = None,
) -> None:
    """Refuse a query that is not one statement which the seal lets through.

    Parameters
    ----------
    con : duckdb.DuckDBPyConnection
        The sealed connection.
    query : str
        The query.
    seal : Seal
        What is let through.
    path : Path
        The study's file.
    params : mapping or sequence, optional
        Values of ``$name`` or ``?`` in the query.

    Raises
    ------
    QueryError
        With what it is instead, and with what to give where it is meant.
    duckdb.Error
        If it does not parse or bind.
    """
    problem = too_large(query)
    if problem is not None:
        raise QueryError(f"the query is too large: {problem}")
    # Of this connection: DuckDB reads the files of IMPORT DATABASE as it parses it.
    found = con.extract_statements(query)
    if _is_pivot(found):
        return
    if len(found) != 1:
        raise QueryError(
            f"the query has {len(found)} statements; give one, and run the others each for itself"
            if found
            else "the query is empty; give one statement, such as: FROM labels"
        )
    (statement,) = found
    if statement.type == StatementType.EXPLAIN:
        begin = _EXPLAIN.match(query)
        check_statement(con, query[begin.end() :] if begin else "", seal, path, params)
        return
    _check_kind(statement.type, query, seal, path)
    if statement.type == StatementType.SELECT:
        called = _UNSEALING.search(_plan(con, statement.query, params))
        if called:
            name = called[0].strip('" \n').lower()
            raise QueryError(f"the query calls {name}(), which changes settings of DuckDB; leave it out")


def _plan(con: duckdb.DuckDBPyConnection, query: str, params: Mapping[str, Any] | Sequence[Any] | None = None) -> str:
    """Return the plan of a query, with its views and macros in it, as text."""
    try:
        return str(con.execute(f"EXPLAIN (FORMAT json)\n{query}", params).fetchall())
    except duckdb.Error as error:
        text = re.sub(r"^LINE (\d+):", lambda line: f"LINE {int(line[1]) - 1}:", str(error), flags=re.MULTILINE)
        raise type(error)(text) from error


def _is_pivot(found: Sequence[duckdb.Statement]) -> bool:
    """Return whether statements are what DuckDB makes of one PIVOT: types of the values, then the query."""
    return (
        len(found) > 1
        and found[-1].type == StatementType.SELECT
        and all(each.type == StatementType.CREATE and not each.query for each in found[:-1])
    )


def _check_kind(kind: StatementType, query: str, seal: Seal, path: Path) -> None:
    """Refuse a statement of a kind that the seal does not let through."""
    lacking = []
    if kind not in _READING and seal.read_only:
        lacking.append("`read_only=False`")
    if kind not in _READING | _CHANGING and not seal.allow_files:
        lacking.append("`allow_files=True`")
    if lacking:
        does = "changes the study" if kind in _CHANGING else "does more than to read the study"
        raise QueryError(
            f"the query is a statement of the kind {kind.name}, which {does}; give one that reads (SELECT, FROM, WITH, "
            f"VALUES, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN), or, if it is meant, give {' and '.join(lacking)}"
        )
    if kind in (StatementType.COPY, StatementType.EXPORT):
        for text in re.findall(r"'((?:[^']|'')*)'", query):
            # Whoever may write files is not to lose the study itself by a slip.
            with suppress(OSError, ValueError):
                if Path(text.replace("''", "'")).samefile(path):
                    raise QueryError(f"the query would write over the study itself, {path.name}; name another file")


def too_large(text: str) -> str | None:
    """Return why a query or condition is too large to be parsed; None where it is not."""
    if len(text) > _LONGEST:
        return f"it has {len(text):,} characters, and at most {_LONGEST:,} are read"
    parts = sum(1 for _ in _JOINED.finditer(text)) + 1
    if parts > _MOST_PARTS:
        return (
            f"AND and OR join {parts:,} parts, and at most {_MOST_PARTS:,} are read; write a list: slide IN ('a', 'b')"
        )
    return None


def answer(
    con: duckdb.DuckDBPyConnection, query: str, seal: Seal, path: Path, *, timeout: float | None = None
) -> pa.Table:
    """Return the rows of one statement on a sealed connection.

    Parameters
    ----------
    con, query, seal, path
        See `check_statement`.
    timeout : float, optional
        Seconds that it may take; default any.

    Returns
    -------
    pyarrow.Table
        Of at most as many bytes as DuckDB may use.

    Raises
    ------
    QueryError
        If the seal does not let it through, it does not parse, bind or run, or needs more time or memory.
    """
    try:
        with translated(path, of_users_sql=True), limited_time(con, timeout) as late:
            check_statement(con, query, seal, path)
            con.execute(query)
            return _gathered(con, seal.memory, late)
    except duckdb.Error as error:
        raise refused_query(error, query, seal) from error


def refused_query(error: duckdb.Error, query: str, seal: Seal | None) -> QueryError:
    """Return what is said of a query that DuckDB refuses, with what to give where the seal is why."""
    text = str(error)
    if seal is None:
        return QueryError(f"{text}\nin the query: {query}")
    if isinstance(error, duckdb.OutOfMemoryException):
        # What DuckDB suggests are settings, which are locked.
        text = text.split("\n")[0] + "\ngive it more memory with `memory`"
    elif isinstance(error, (duckdb.PermissionException, duckdb.IOException)) and not seal.allow_files:
        text += "\na query sees the study alone; if the file is meant, give `allow_files=True`"
    return QueryError(f"{text}\nin the query: {query}")


def _gathered(con: duckdb.DuckDBPyConnection, most: int, late: threading.Event) -> pa.Table:
    """Return all rows of what was executed, if they are not more than some bytes."""
    reader = con.to_arrow_reader(_BATCH_ROWS)
    batches: list[pa.RecordBatch] = []
    size = 0
    for batch in reader:
        size += batch.nbytes
        if size > most:
            raise QueryError(
                f"the answer has more than {most / 1e9:.3g} GB; give it more with `memory`, or ask for less, such as "
                "by LIMIT 1000"
            )
        if late.is_set():
            raise duckdb.InterruptException("Interrupted!")
        batches.append(batch)
    return pa.Table.from_batches(batches, reader.schema)


@contextmanager
def limited_time(con: duckdb.DuckDBPyConnection, seconds: float | None) -> Iterator[threading.Event]:
    """Interrupt what a connection runs within a block after some time.

    Parameters
    ----------
    con : duckdb.DuckDBPyConnection
        The connection.
    seconds : float, optional
        The time; default any.

    Yields
    ------
    threading.Event
        Set when the time is over.

    Raises
    ------
    QueryError
        If the time was over, and not where the user interrupted it.
    """
    late = threading.Event()

    def stop() -> None:
        late.set()
        con.interrupt()

    timer = threading.Timer(seconds, stop) if seconds is not None else None
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        yield late
    except (duckdb.InterruptException, RuntimeError, OSError) as error:
        # pyarrow, which fetches the rows, has an OSError in place of DuckDB's own.
        if not late.is_set():
            raise
        raise QueryError(
            f"the query took longer than {seconds:g} seconds; give it more with `timeout`, or ask for less"
        ) from error
    finally:
        if timer is not None:
            timer.cancel()
