"""The DuckDB file of a study: opening it with the spatial extension, and transactions."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import duckdb
import pyarrow as pa

from slideduck.errors import DiskFullError, SlideduckError, StudyError
from slideduck.names import nearest
from slideduck.store.causes import cause, does_not_replay, is_interrupt, translation, wal_of

__all__ = [
    "MEMORY",
    "atomic",
    "close",
    "connect",
    "identifier",
    "limited_memory",
    "literal",
    "load_spatial",
    "machine_memory",
    "opening_error",
    "parse_bytes",
    "registered",
    "require_folder",
    "require_study",
    "spatial_config",
    "stop",
    "translated",
]

#: The files of the extension whose signature DuckDB has verified in this process, as they were then.
_verified: set[tuple[str, int, int]] = set()

#: The path of a study that is in no file.
MEMORY = Path(":memory:")

#: Less does not hold what DuckDB keeps per thread, bytes.
_LEAST_MEMORY = 64_000_000


def connect(path: Path, *, read_only: bool = False, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB file with the spatial extension loaded.

    Parameters
    ----------
    path : Path
        The file; made where there is none, unless ``read_only``.
    read_only : bool
        Open it so that nothing can be written; several processes may do so at once.
    threads : int, optional
        DuckDB's threads; default one a core.

    Raises
    ------
    StudyError
        If the file is missing, in use by another process, or not a DuckDB file.
    """
    if read_only:
        require_study(path)
    require_folder(path)
    if path != MEMORY:
        # DuckDB puts its log beside the name that it is given; through another name it would not be seen.
        path = path.resolve()
    config: dict[str, str | bool | int | float | list[str]] = {**_no_downloads(), **spatial_config()}
    if threads is not None:
        config["threads"] = threads
    try:
        # DuckDB aborts the process where it cannot open any file at all.
        os.close(os.open(os.devnull, os.O_RDONLY))
        con = _connected(path, read_only, config)
    except OSError as error:
        raise cause(duckdb.IOException(error.strerror), path) or error from error
    except duckdb.Error as error:
        raise opening_error(path, error) from error
    try:
        load_spatial(con)
    except BaseException:
        con.close()
        raise
    return con


def _no_downloads() -> dict[str, str | bool | int | float | list[str]]:
    """Return what keeps a study from reaching for the network: extensions come from installed packages alone."""
    return {"autoinstall_known_extensions": False}


def _connected(
    path: Path, read_only: bool, config: dict[str, str | bool | int | float | list[str]]
) -> duckdb.DuckDBPyConnection:
    """Open a file, reading back by hand what DuckDB cannot read back when it opens one."""
    try:
        return duckdb.connect(path, read_only=read_only, config=config)
    except duckdb.Error as error:
        if not does_not_replay(error):
            raise
        try:
            _replay(path)
        except duckdb.Error as second:
            # Who cannot write here learns that, and not that the log is beyond help.
            raise (error if does_not_replay(second) else second) from error
    return duckdb.connect(path, read_only=read_only, config=config)


def _replay(path: Path) -> None:
    """Read the write-ahead log back into a file that does not open because of it, and checkpoint.

    DuckDB 1.5.5 binds the defaults of a table when it replays a change of that table (ALTER, COMMENT ON COLUMN), before
    there is a database to look for their functions in: "Calling DatabaseManager::GetDefaultDatabase with no default
    database set" (DuckDB's issues 18259, 20543 and 22044; mended for 2.0 by its pull request 21608, which binds
    nothing there). Within ATTACH there is one, and the same log replays. `slideduck.store.fresh` sees to it that no
    such log comes of us but from one moment of a migration; earlier releases left one for each killed first command.
    """
    with duckdb.connect(config={**_no_downloads(), **spatial_config()}) as con:
        load_spatial(con)
        # The log may be a stranger's: what it holds reaches no file but these.
        mine = ", ".join(literal(f"{path}{ending}") for ending in ("", ".wal", ".wal.checkpoint", ".wal.recovery"))
        con.execute(f"SET allowed_paths = [{mine}]")
        con.execute("SET enable_external_access = false")
        con.execute("SET lock_configuration = true")
        con.execute(f"ATTACH {literal(str(path))} AS replayed")
        con.execute("CHECKPOINT replayed")
        con.execute("DETACH replayed")


def require_folder(path: Path) -> None:
    """Refuse the path of a study in a folder that is missing.

    Raises
    ------
    StudyError
        If it is.
    """
    if not path.parent.is_dir():
        raise StudyError(f"no folder {path.parent} to put the study {path.name} in; make the folder first")


def require_study(path: Path) -> None:
    """Refuse the path of a study where there is none.

    Raises
    ------
    StudyError
        With the studies beside it that may be meant.
    """
    if path.exists():
        return
    beside = {file.stem: file.name for file in sorted(path.parent.glob("*.duckdb"))}
    near = [repr(beside[stem]) for stem in nearest(path.stem, beside)]
    meant = f"; did you mean {' or '.join(near)}? Otherwise make it" if near else "; make it"
    raise StudyError(f"no study at {path}{meant} with: slideduck add-slides {path} FOLDER")


def opening_error(path: Path, error: duckdb.Error) -> Exception:
    """Return the error that says why a file did not open."""
    return cause(error, path) or StudyError(f"{path} does not open: {error}")


def close(con: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Write all that was committed into a study's file, and close it.

    DuckDB does that too when it closes a file, and says nothing where it fails.

    Raises
    ------
    DiskFullError, StudyError
        If it cannot be written. The study is closed; nothing that was committed is lost.
    """
    try:
        for name in _writable(con, path):
            con.execute(f"CHECKPOINT {identifier(name)}")
    except (duckdb.ConnectionException, duckdb.TransactionException):
        # It is closed already; or a transaction is open here, which closing undoes, or on another connection of this
        # process, the last of which checkpoints.
        pass
    except (duckdb.Error, RuntimeError) as error:
        stop(con, error)
        told = translation(error, path)
        if not isinstance(told, SlideduckError):
            raise (told or error) from error
        raise type(told)(_not_written(path, told)) from error
    finally:
        con.close()


def _writable(con: duckdb.DuckDBPyConnection, path: Path) -> list[str]:
    """Return the name by which a connection has a study, if it may write it."""
    query = "SELECT database_name FROM duckdb_databases() WHERE path = $path AND NOT readonly"
    return [name for (name,) in con.execute(query, {"path": str(path.resolve())}).fetchall()]


def _not_written(path: Path, told: SlideduckError) -> str:
    """Return what is kept where and what to do, of an error whose text is for other steps."""
    reason = str(told).partition(";")[0]
    return (
        f"{reason}; what was done is kept in {wal_of(path)}, beside the study, and not in the study's file yet: leave "
        f"both where they are, mend the cause, and the next command takes it in, such as: slideduck info {path}"
    )


def spatial_config() -> dict[str, str | bool | int | float | list[str]]:
    """Return what a connection is to be opened with that `load_spatial` is called on.

    The first connection of a process verifies the signature of the extension, which takes 0.3 s; those after it take
    the same file as it was then.
    """
    path = _packaged_spatial()
    return {"allow_unsigned_extensions": True} if path is not None and _as_it_is(path) in _verified else {}


def load_spatial(con: duckdb.DuckDBPyConnection) -> None:
    """Load the spatial extension from the package duckdb-extension-spatial, or else an installed one.

    From then on the connection loads no extension whose signature it cannot verify.

    Raises
    ------
    StudyError
        If neither is there, with what to install.
    """
    path = _packaged_spatial()
    if path is not None:
        (unsigned,) = con.execute("SELECT current_setting('allow_unsigned_extensions')").fetchone() or (True,)
        con.load_extension(str(path))
        if not unsigned:
            _verified.add(_as_it_is(path))
        con.execute("SET allow_unsigned_extensions = false")
        return
    try:
        con.execute("SET allow_unsigned_extensions = false")
        con.load_extension("spatial")
    except duckdb.Error as error:
        raise StudyError(
            f"DuckDB {duckdb.__version__} has no spatial extension here; "
            f"install it with: pip install duckdb-extension-spatial=={duckdb.__version__}"
        ) from error


def _packaged_spatial() -> Path | None:
    """Return the file of the extension in the installed package, for this DuckDB."""
    found = find_spec("duckdb_extension_spatial")
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = Path(folder, "extensions", f"v{duckdb.__version__}", "spatial.duckdb_extension")
        if path.exists():
            return path
    return None


def _as_it_is(path: Path) -> tuple[str, int, int]:
    """Return what tells a file from another: its path, size and time of change."""
    now = path.stat()
    return str(path), now.st_size, now.st_mtime_ns


def literal(text: str) -> str:
    """Return text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Return the name of a column or table as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


#: The transactions that are open, by the connection's id: what failed in blocks within them.
_failed_within: dict[int, list[BaseException]] = {}


@contextmanager
def atomic(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Run a block as one transaction: all of it is kept, or on any exception none.

    A block within a block joins the outer transaction, which alone commits.

    Raises
    ------
    StudyError
        If a block within failed and its error was caught: nothing of the outer block is kept. Also if a transaction
        was begun by hand.
    """
    key = id(con)
    if key in _failed_within:
        try:
            yield
        except BaseException as error:
            _failed_within[key].append(error)
            raise
        return
    _begin(con)
    _failed_within[key] = []
    try:
        with translated():
            yield
            for failed in _failed_within[key]:
                raise StudyError(
                    f"a step of this transaction failed, and its error was caught: {failed}; nothing was kept: let the "
                    "error end the block, or run the step in a transaction of its own"
                ) from failed
            con.execute("COMMIT")
    except BaseException as error:
        stop(con, error)
        # A failed COMMIT has rolled back already; there is then nothing left to undo.
        with suppress(duckdb.Error):
            con.execute("ROLLBACK")
        raise
    finally:
        del _failed_within[key]


def stop(con: duckdb.DuckDBPyConnection, error: BaseException) -> None:
    """End the query that an interrupt struck, if that is what the error is.

    DuckDB's Python package leaves the query running, and whatever is asked of the connection next, even to roll back or
    to close, waits for its end.
    """
    if isinstance(error, KeyboardInterrupt) or is_interrupt(error):
        with suppress(duckdb.Error):
            con.interrupt()


def _begin(con: duckdb.DuckDBPyConnection) -> None:
    """Begin a transaction."""
    try:
        con.execute("BEGIN TRANSACTION")
    except duckdb.TransactionException as error:
        raise StudyError(
            "a transaction was begun by hand on this study's connection; end it with COMMIT or ROLLBACK first, or use "
            "study.atomic()"
        ) from error


@contextmanager
def registered(con: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> Iterator[None]:
    """Make an Arrow table readable in SQL under a name, within a block."""
    con.register(name, table)
    try:
        yield
    except BaseException as error:
        stop(con, error)
        raise
    finally:
        con.unregister(name)


@contextmanager
def translated(path: Path | None = None, *, of_users_sql: bool = False) -> Iterator[None]:
    """Turn DuckDB's errors of an interrupt, the machine or the file into ours, within a block.

    The parameters are those of `slideduck.store.causes.cause`.
    """
    try:
        yield
    except (duckdb.Error, RuntimeError) as error:
        told = translation(error, path, of_users_sql=of_users_sql)
        if told is None:
            raise
        raise told from error


@contextmanager
def limited_memory(con: duckdb.DuckDBPyConnection, memory: str | int | None = None) -> Iterator[int]:
    """Bound DuckDB's memory within a block; data that does not fit goes to temporary files.

    Parameters
    ----------
    con : duckdb.DuckDBPyConnection
        The connection.
    memory : str or int, optional
        The bound: bytes, or such as ``"4GB"`` or ``"512MiB"``; by default a quarter of the machine's memory.

    Yields
    ------
    int
        The bound, bytes.

    Raises
    ------
    StudyError
        If the bound cannot be read, or the block needs more.
    """
    limit = machine_memory() // 4 if memory is None else parse_bytes(memory)
    (before,) = con.execute("SELECT current_setting('memory_limit')").fetchone() or ("",)
    con.execute(f"SET memory_limit = '{limit}B'")
    try:
        yield limit
    except (KeyboardInterrupt, RuntimeError) as error:
        stop(con, error)
        raise
    except duckdb.OutOfMemoryException as error:
        told = cause(error)
        if isinstance(told, DiskFullError):
            raise told from error
        raise StudyError(
            f"{limit / 1e9:.2g} GB of memory are too few, even with temporary files: {error}; give more with `memory`"
        ) from error
    finally:
        con.execute(f"SET memory_limit = '{before}'")


def machine_memory() -> int:
    """Return the bytes of memory that this process may use: the machine's, or its container's."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no such control group, or "max"
            limits.append(int(Path(path).read_text()))
    return min(limits)


def parse_bytes(memory: str | int) -> int:
    """Return a number of bytes from text such as ``4GB``."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", str(memory), re.IGNORECASE)
    limit = 0
    if found:
        number, unit, binary = found.groups()
        limit = int(float(number) * (1024 if binary else 1000) ** " KMGT".index(unit.upper() or " "))
    if limit < _LEAST_MEMORY:
        raise StudyError(f"memory is {memory!r}; give an amount of 64 MB or more, such as 4GB")
    return limit
