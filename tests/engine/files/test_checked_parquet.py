"""Parquet of ours says when it has changed since it was written, whatever part of it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slideduck.files.checked_parquet import read_parquet, write_parquet
from tests.campaign import cases


def _table() -> pa.Table:
    numbers = np.arange(24, dtype=np.float32)
    return pa.table(
        {
            "slide": ["S0", "Schnitt ä", None, ""],
            "x": pa.array([1, None, 3, 4], pa.int32()),
            "prob_a": [0.25, None, float("nan"), 0.5],
            "feature": pa.FixedSizeListArray.from_arrays(pa.array(numbers), 6),
            "empty": pa.nulls(4),
        }
    ).replace_schema_metadata({"run": "first", "epoch": "3"})


def _written(path: Path, table: pa.Table) -> Path:
    with path.open("wb") as file:
        write_parquet(table, file)
    return path


@pytest.mark.parametrize("rows", [4, 2, 0])
def test_a_table_comes_back_with_its_facts(tmp_path: Path, rows: int) -> None:
    table = _table().slice(1, rows)
    found = read_parquet(_written(tmp_path / "t.parquet", table))
    assert (found.column_names, found.schema.metadata) == (table.column_names, table.schema.metadata)
    assert str(found.to_pylist()) == str(table.to_pylist())
    # As every reader of Parquet reads it.
    assert str(pq.read_table(tmp_path / "t.parquet").to_pylist()) == str(table.to_pylist())


def test_parts_and_slices_of_a_table_have_its_checksum(tmp_path: Path) -> None:
    table = pa.concat_tables([_table().slice(0, 1), _table().slice(1, 3)])
    assert read_parquet(_written(tmp_path / "t.parquet", table)).num_rows == 4


@pytest.mark.attack("bytes", "changed bytes of Parquet: of its pages, and of what describes them")
def test_every_changed_byte_is_found_or_changes_nothing(tmp_path: Path) -> None:
    path, table, rng = _written(tmp_path / "t.parquet", _table()), _table(), random.Random(0)
    raw, refused = path.read_bytes(), 0
    for number in range(cases(test=300, campaign=2000)):
        data = bytearray(raw)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            found = read_parquet(path)
        except (OSError, ValueError):
            refused += 1
            continue
        assert str(found.to_pylist()) == str(table.to_pylist()), number
        # Where the name of the checksum is what changed, it is one fact more.
        facts = found.schema.metadata
        assert {name: facts.get(name) for name in (b"run", b"epoch")} == {b"run": b"first", b"epoch": b"3"}, number
    assert refused > cases(test=150, campaign=1000)


def test_a_changed_number_is_told_and_a_file_without_checksums_is_read(tmp_path: Path) -> None:
    path = _written(tmp_path / "t.parquet", _table())
    data = path.read_bytes()
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    at = column.dictionary_page_offset + column.total_compressed_size - 1
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises((OSError, ValueError), match="CRC checksum verification failed"):
        read_parquet(path)
    # Names of columns have no checksum of the format.
    path.write_bytes(data.replace(b"prob_a", b"prob_b"))
    with pytest.raises(ValueError, match=r"^it has changed since it was written$"):
        read_parquet(path)
    pq.write_table(_table(), path)
    assert read_parquet(path).num_rows == 4
