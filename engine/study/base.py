"""A study that is open: its connection, its file, and how it is closed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import duckdb

from slideduck.show import html_table
from slideduck.store.causes import translation
from slideduck.store.db import close, stop
from slideduck.store.handle import Handle
from slideduck.store.sealed import Seal
from slideduck.store.sqlfiles import read_query
from slideduck.words import printable, some

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

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        try:
            self.con.cursor().close()
        except duckdb.ConnectionException:
            return True
        return False

    def __repr__(self) -> str:
        return "\n  ".join([f"Study {self._called}:", *(f"{name} {text}" for name, text in self._shown())])

    def _repr_html_(self) -> str:
        return html_table(f"Study {self._called}", self._shown())

    @property
    def _called(self) -> str:
        return printable(str(self.path))

    def _shown(self) -> Iterator[tuple[str, str]]:
        """Yield what the study holds, as far as it can be asked; at a prompt nothing may fail."""
        try:
            # A connection of its own: what was asked of this one may still be fetched.
            with self.con.cursor() as con:
                held = con.execute(read_query("describe_study")).fetchall()
                labels = con.execute(read_query("count_labels")).to_arrow_table().to_pylist()
                runs = con.execute("SELECT run FROM runs UNION SELECT run FROM evaluations ORDER BY run").fetchall()
        except duckdb.ConnectionException:
            yield "closed;", f"open it again: slideduck.open({self._called!r})"
            return
        except duckdb.Error as error:
            yield "cannot be asked now:", printable(str(error).partition("\n")[0])
            return
        yield from ((what, printable(f"{count:,} ({detail})")) for what, count, detail in held if count)
        for row in labels:
            yield (
                f"tiles {printable(row['label'] or 'without a label')}",
                f"{row['tiles']:,} (grid {printable(row['grid'])})",
            )
        if runs:
            yield "runs", some([printable(name) for (name,) in runs])

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
