"""A study with all that it does, and how it is opened."""

from __future__ import annotations

from pathlib import Path

import duckdb

from slideduck.store import schema
from slideduck.store.db import connect, parse_bytes, translated
from slideduck.store.fresh import begin
from slideduck.store.handle import Handle
from slideduck.store.sealed import Seal, connect_sealed
from slideduck.study.asking import Asking
from slideduck.study.labelling import Labelling
from slideduck.study.loading import Loading
from slideduck.study.training import Training
from slideduck.study.writing import Writing

__all__ = ["Study", "open_study"]


def open_study(
    path: str | Path,
    *,
    read_only: bool = False,
    progress: bool = False,
    threads: int | None = None,
    sealed: bool = False,
    allow_files: bool = False,
    memory: str | int | None = None,
) -> Study:
    """Open a study, or make one where there is none.

    Parameters
    ----------
    path : path
        The DuckDB file.
    read_only : bool, default False
        Write nothing; several processes may read at once.
    progress : bool, default False
        Show progress of long work on standard error.
    threads : int, optional
        Threads of DuckDB; default one a core. Results do not depend on it.
    sealed : bool, default False
        Keep SQL from leaving the study: it reads no other file, and `Study.sql` takes one statement, which reads, or
        changes the study unless that is ``read_only``. Without it the connection is yours, and does what you ask.
    allow_files : bool, default False
        With ``sealed``: let SQL read other files, and write them unless the study is ``read_only``.
    memory : str or int, optional
        With ``sealed``: what DuckDB may use, such as ``"4GB"``; default half of the machine's.

    Returns
    -------
    Study
        Also a context manager, which closes it.

    Raises
    ------
    StudyError
        If the file is missing (read-only), in use, damaged, another program's, or of a newer version.
    DiskFullError
        If there is no room for a new one; nothing is left of it then.

    Examples
    --------
    >>> import slideduck as sd
    >>> with sd.open("study.duckdb") as study:  # doctest: +SKIP
    ...     study.add_slides(["slides/"])
    """
    file = Path(path).expanduser().absolute()
    if not read_only and not file.exists():
        begin(file)
    limit = {} if memory is None else {"memory": parse_bytes(memory)}
    seal = Seal(read_only, allow_files, **limit) if sealed else None

    def connected() -> duckdb.DuckDBPyConnection:
        if seal is not None:
            return connect_sealed(file, seal, threads=threads)
        return connect(file, read_only=read_only, threads=threads)

    con = connected()
    try:
        with translated(file):
            if read_only and schema.is_outdated(con):
                # The views of an older release are brought up to date before the study is read through them.
                con.close()
                open_study(file, sealed=sealed).close()
                con = connected()
            schema.prepare(con, file, read_only=read_only)
    except BaseException:
        con.close()
        raise
    return Study(Handle(con, file, progress), seal)


class Study(Loading, Labelling, Asking, Writing, Training):
    """A study that is open; made by `slideduck.open`.

    Each group of its methods is a class of its own, in a module beside this one.
    """
