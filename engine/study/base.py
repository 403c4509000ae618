"""A study that is open: its connection, its file, and how it is closed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import duckdb

from slideduck.store.causes import translation
from slideduck.store.db import close, stop
from slideduck.store.handle import Handle
from slideduck.store.sealed import Seal

__all__ = ["OpenStudy"]


class OpenStudy:
    """A study that is open.

    Attributes
    ----------
    handle : slideduck.store.handle.Handle
        What the functions behind the methods take.
    seal : slideduck.store.sealed.Seal, optional
        What SQL may do where the study is opened ``sealed``.
    """

    def __init__(self, handle: Handle, seal: Seal | None = None) -> None:
        self.handle = handle
        self.seal = seal

    @property
    def con(self) -> duckdb.DuckDBPyConnection:
        """The connection, with the spatial extension loaded, for all that no method does.

        It is your own: whatever you run on it is run, also what reads or writes other files and what ends the study.
        Of a study that is opened ``sealed``, its settings keep SQL from other files, but no statement is looked at.
        """
        return self.handle.con

    @property
    def path(self) -> Path:
        """The DuckDB file."""
        return self.handle.path

    @property
    def progress(self) -> bool:
        """Whether long work shows progress."""
        return self.handle.progress

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        # What went wrong is what the user needs. DuckDB checkpoints as it closes, or else keeps its log.
        stop(self.con, error)
        self.con.close()
        told = translation(error, self.path)
        if told is not None:
            raise told from error

    def __repr__(self) -> str:
        return f"<Study {str(self.path)!r}>"

    def close(self) -> None:
        """Write all that was committed into the file, and close it, so that another process may write it.

        Raises
        ------
        DiskFullError, StudyError
            If it cannot be written; the study is closed, and what was committed is kept beside it.
        """
        close(self.con, self.path)

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """Run a block as one transaction: all of it is kept, or on any exception none."""
        with self.handle.atomic():
            yield
