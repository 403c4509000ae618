"""Parquet that says when it has changed: a checksum for each page, as the format has it, and one of the table.

The format's own checksums cover the pages alone. The other, one of the table's facts, is of its names, types, values
and other facts.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

__all__ = ["SEAL", "read_parquet", "write_parquet"]

#: The fact of a table that holds its checksum.
SEAL = b"crc32"


def write_parquet(table: pa.Table, file: IO[bytes]) -> None:
    """Write a table into an open file, with its checksums."""
    facts = {**(table.schema.metadata or {}), SEAL: _crc(table)}
    pq.write_table(table.replace_schema_metadata(facts), file, write_page_checksum=True)


def read_parquet(path: Path) -> pa.Table:
    """Read a table, and compare it with what was written; files without checksums are read as they are.

    Returns
    -------
    pyarrow.Table
        Without the fact that holds the checksum.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no Parquet, or has changed since it was written.
    """
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        table.validate(full=True)
        facts = dict(table.schema.metadata or {})
        seal = facts.pop(SEAL, None)
        table = table.replace_schema_metadata(facts)
        found = seal if seal is None else _crc(table)
    except OSError:
        raise
    except Exception as error:  # what describes the pages may say anything
        raise ValueError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    if found != seal:
        raise ValueError("it has changed since it was written")
    return table


def _crc(table: pa.Table) -> bytes:
    """Return the checksum of a table's names, types, values and facts."""
    facts = {key.hex(): value.hex() for key, value in (table.schema.metadata or {}).items() if key != SEAL}
    columns = [(field.name, _type(field.type)) for field in table.schema]
    found = zlib.crc32(json.dumps([sorted(facts.items()), columns, table.num_rows]).encode())
    for column in table.columns:
        found = zlib.crc32(_bytes(column.combine_chunks()), found)
    return f"{found:08x}".encode()


def _type(kind: pa.DataType) -> str:
    """Return a type in words; Parquet gives what a list holds another name."""
    return f"{kind.list_size} {kind.value_type}" if pa.types.is_fixed_size_list(kind) else str(kind)


def _bytes(column: Any) -> bytes:
    """Return the values of a column as bytes that are the same for the same values."""
    if isinstance(column, pa.ChunkedArray) or not len(column):
        return b""
    if pa.types.is_fixed_size_list(column.type):
        return _bytes(column.flatten())
    if pa.types.is_floating(column.type) or (pa.types.is_integer(column.type) and not column.null_count):
        # Missing values are NaN then; a NaN that is there is another one.
        missing = np.packbits(column.is_null().to_numpy(zero_copy_only=False)).tobytes() if column.null_count else b""
        return bytes(np.ascontiguousarray(column.to_numpy(zero_copy_only=False)).tobytes() + missing)
    if pa.types.is_string(column.type):
        lengths = pc.fill_null(pc.binary_length(column), -1).to_numpy(zero_copy_only=False).astype(np.int64)
        offsets = np.frombuffer(column.buffers()[1], np.int32)
        start, end = offsets[column.offset], offsets[column.offset + len(column)]
        return bytes(lengths.tobytes() + memoryview(column.buffers()[2] or b"")[start:end])
    return json.dumps(column.to_pylist(), default=str).encode()
