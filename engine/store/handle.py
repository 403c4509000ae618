"""How code below `slideduck.study` holds a study: the connection, the file, and whether to show progress."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from slideduck.store.db import atomic

__all__ = ["Handle"]


@dataclass(frozen=True, eq=False)
class Handle:
    """A study that is open.

    Attributes
    ----------
    con : duckdb.DuckDBPyConnection
        The connection, with the spatial extension loaded.
    path : Path
        The DuckDB file.
    progress : bool
        Whether long work shows progress.
    """

    con: duckdb.DuckDBPyConnection
    path: Path
    progress: bool = False

    @property
    def name(self) -> str:
        """The file's name, as messages call the study."""
        return self.path.name

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """Run a block as one transaction; see `slideduck.store.db.atomic`."""
        with atomic(self.con):
            yield
