"""The files of predictions."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from slideduck.runner.runs.checkpoint import write_whole

__all__ = ["write_predictions"]


def write_predictions(path: Path, table: pa.Table) -> None:
    """Write predictions as Parquet, whole or not at all.

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
    write_whole(path, lambda file: pq.write_table(table, file))
