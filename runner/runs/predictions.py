"""The files of predictions."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from slideduck.errors import RunError
from slideduck.files.checked_parquet import read_parquet, write_parquet
from slideduck.runner.runs.checkpoint import write_whole

__all__ = ["epoch_of_predictions", "read_predictions", "write_predictions"]


def write_predictions(path: Path, table: pa.Table) -> None:
    """Write predictions as Parquet with its checksums, whole or not at all.

    Parameters
    ----------
    path : Path
        The file.
    table : pyarrow.Table
        As from `slideduck.runner.tasks.task.Task.table`.

    Raises
    ------
    DiskFullError, RunError
        If it cannot be written; the file keeps its old content.
    """
    write_whole(path, lambda file: write_parquet(table, file))


def epoch_of_predictions(path: Path) -> int:
    """Return the epoch that a run's predictions are of; 0 where they do not say so.

    Raises
    ------
    RunError
        If the file cannot be read, or has changed since it was written.
    """
    facts = read_predictions(path).schema.metadata or {}
    try:
        return int(facts.get(b"epoch", b"0"))
    except ValueError:
        raise RunError(f"{path}: not predictions of a run (epoch is {facts[b'epoch']!r}); train again") from None


def read_predictions(path: Path) -> pa.Table:
    """Read predictions, each page against its checksum.

    Raises
    ------
    RunError
        If the file cannot be read, or has changed since it was written.
    """
    try:
        return read_parquet(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: not Parquet that can be read ({error}); get the file again, or train again") from error
