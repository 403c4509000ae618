"""Reads Parquet files that the user gives: whole, and no more than a limit, whatever their few bytes claim."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from slideduck.errors import InputError
from slideduck.files.find import mebibytes, unpacked_beyond
from slideduck.limit import beyond

__all__ = ["parquet_batches", "parquet_file_schema", "parquet_schema", "read_parquet"]

#: Bytes of a number in memory.
_NUMBER_BYTES = 8


def parquet_schema(name: str, data: bytes) -> pa.Schema:
    """Return the columns of a Parquet file, and its metadata.

    Raises
    ------
    InputError
        If it is broken.
    """
    try:
        return pq.read_schema(pa.BufferReader(data))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _broken(name, error) from error


def read_parquet(name: str, data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file whole.

    Parameters
    ----------
    name : str
        The file's name, for messages.
    data : bytes
        Its content.
    columns : sequence of str, optional
        Columns to read; all by default.

    Raises
    ------
    InputError
        If it is broken, or holds more than the limit ``unpacked_mb`` allows.
    """
    try:
        problem = _beyond(pa.BufferReader(data), len(data))
        if problem is None:
            table = pq.ParquetFile(pa.BufferReader(data)).read(columns)
            # Damaged bytes are not always noticed in reading.
            table.validate(full=True)
            return table
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _broken(name, error) from error
    raise InputError([f"{name}: {problem}"])


def parquet_file_schema(path: Path) -> tuple[pa.Schema, int]:
    """Return the columns of a Parquet file that is not read whole, and how many rows it says that it has.

    Raises
    ------
    InputError
        If it is broken.
    """
    try:
        file = pq.ParquetFile(path)
        return file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _broken(path.name, error) from error


def parquet_batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a Parquet file in pieces.

    Raises
    ------
    InputError
        If it is broken, or holds more than the limit ``unpacked_mb`` allows.
    """
    try:
        with pa.memory_map(str(path)) as source:
            problem = _beyond(source, path.stat().st_size)
        if problem is None:
            for batch in pq.ParquetFile(path, memory_map=True).iter_batches(columns=list(columns)):
                # Damaged bytes are not always noticed in reading.
                batch.validate(full=True)
                yield batch
            return
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _broken(path.name, error) from error
    raise InputError([f"{path.name}: {problem}"])


def _broken(name: str, error: Exception) -> InputError:
    what = str(error).partition("\n")[0].rstrip(".")
    return InputError([f"{name}: broken Parquet: {what}; write it again"])


def _beyond(source: pa.NativeFile, packed: int) -> str | None:
    """Return what is wrong with a file that would fill the memory: a value that stands once may count many times."""
    file = pq.ParquetFile(source)
    metadata = file.metadata
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    problem = unpacked_beyond(packed, sum(max(group.total_byte_size, 0) for group in groups))
    numbers = metadata.num_rows * metadata.num_columns * _NUMBER_BYTES
    problem = problem or beyond("unpacked_mb", mebibytes(max(numbers, 0)))
    if problem:
        return problem
    texts = [
        metadata.schema.column(i).path
        for i in range(metadata.num_columns)
        if metadata.schema.column(i).physical_type == "BYTE_ARRAY"
        and metadata.schema.column(i).max_repetition_level == 0
        and "." not in metadata.schema.column(i).path
    ]
    size = 0
    file = pq.ParquetFile(source, read_dictionary=texts)
    for text in texts:
        for group in range(metadata.num_row_groups):
            column = file.read_row_group(group, [text]).column(0)
            size += sum(map(_text_bytes, column.chunks))
            if problem := unpacked_beyond(packed, size):
                return problem
    return None


def _text_bytes(chunk: pa.Array) -> int:
    """Return the bytes that texts take once each stands for itself."""
    if not pa.types.is_dictionary(chunk.type):
        return int(chunk.nbytes)
    lengths = pc.binary_length(chunk.dictionary.cast(pa.large_binary()))
    return int(pc.sum(lengths.take(chunk.indices)).as_py() or 0)
