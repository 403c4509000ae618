"""Tables that the user gives, however large: data frames of pandas, Polars and Arrow, relations, Parquet and CSV.

A table is read in pieces, and only the columns that are asked for.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv

from slideduck.errors import InputError
from slideduck.files.find import absolute, mebibytes, quoted, reason
from slideduck.files.parquet import parquet_batches, parquet_file_schema
from slideduck.files.tables import check_columns, decode, sep_line, tell_delimiter
from slideduck.limit import beyond
from slideduck.words import counted

__all__ = ["GivenTable", "given_table"]

#: Bytes at the beginning of a CSV file in which its header is looked for.
_HEAD = 1 << 20
#: Rows of a piece.
_PIECE = 1 << 19


@dataclass(frozen=True, eq=False)
class GivenTable:
    """A table that the user gave.

    Attributes
    ----------
    name : str
        What messages call it: the file's name, or what it is.
    source : str
        The file's absolute path, or what it is.
    path : Path or None
        The file.
    types : mapping of str to pyarrow.DataType
        The types of its columns, by name.
    decimal : str
        The decimal sign of numbers that are text.
    n_rows : int
        Its rows; 0 where that is not known.
    read : callable
        Takes names of columns, and yields them piece by piece, as Arrow tables. May be called again.
    """

    name: str
    source: str
    path: Path | None
    types: Mapping[str, pa.DataType]
    decimal: str
    n_rows: int
    read: Callable[[Sequence[str]], Iterator[pa.Table]]

    def column(self, name: str) -> str | None:
        """Return a column as the table writes its name; upper and lower case are the same. None if it has none."""
        return next((column for column in self.types if column.casefold() == name.casefold()), None)

    def sha256(self) -> str | None:
        """Return the fingerprint of the file's bytes, or None for what is no file."""
        if self.path is None:
            return None
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def given_table(given: Any, optional: Sequence[str]) -> GivenTable:
    """Return a table that the user gave, of which nothing but the columns' names is read.

    Parameters
    ----------
    given : path, pandas.DataFrame, polars.DataFrame, pyarrow.Table or duckdb.DuckDBPyRelation
        A file whose name ends in ``.parquet`` is Parquet, and any other is CSV. So is whatever gives an Arrow stream.
        An index of pandas that is called ``tile_id``, or one of texts without a name, is the column ``tile_id``.
    optional : sequence of str
        Columns that it may have, which help to tell the delimiter.

    Raises
    ------
    InputError
        If it cannot be used, has no columns, or one twice.
    """
    if isinstance(given, (str, Path)):
        path = absolute(Path(given).expanduser())
        _check_file(path)
        is_parquet = path.suffix.lower() in (".parquet", ".pq")
        found = _of_parquet(path) if is_parquet else _of_csv(path, optional)
    else:
        found = _of_frame(given)
    check_columns(list(found.types), (), (), found.name)
    return found


def _check_file(path: Path) -> None:
    """Refuse a file that cannot be read, is empty, or beyond the limit."""
    try:
        with path.open("rb") as file:
            is_empty = not file.read(1)
        size = path.stat().st_size
    except FileNotFoundError:
        raise InputError([f"{path}: no such file; check the path"]) from None
    except IsADirectoryError:
        raise InputError([f"{path}: a folder, not a file; name the file"]) from None
    except OSError as error:
        raise InputError([f"{path}: cannot be read: {reason(error)}"]) from error
    if is_empty:
        raise InputError([f"{path.name}:1: the file is empty; save or export it again"])
    if problem := beyond("file_mb", mebibytes(size)):
        raise InputError([f"{path.name}: {problem}"])


# ----------------------------------------------------------------------------------------- frames


def _of_frame(given: Any) -> GivenTable:
    """Return the table of a data frame or relation."""
    kind = f"{type(given).__module__.partition('.')[0].lstrip('_')} {type(given).__name__}"
    if kind == "pandas DataFrame":
        return _of_pandas(given, kind)
    if kind == "polars LazyFrame":
        given = given.collect()
    if kind.endswith("DuckDBPyRelation"):
        # Another connection of this process may not read it, so its rows are taken.
        return _of_arrow(given.to_arrow_table(), "duckdb relation")
    if isinstance(given, pa.Table):
        return _of_arrow(given, "pyarrow Table")
    if isinstance(given, pa.RecordBatchReader):
        return _of_arrow(given.read_all(), "pyarrow RecordBatchReader")
    if hasattr(given, "__arrow_c_stream__"):
        return _of_arrow(pa.table(given), kind)
    raise InputError(
        [
            f"labels are given as {type(given).__name__}; give a path, a data frame of pandas, Polars or Arrow, or "
            "a DuckDB relation"
        ]
    )


def _of_arrow(table: pa.Table, name: str) -> GivenTable:
    types = _types_of(name, table.column_names, table.schema.types)
    return GivenTable(name, name, None, types, ".", table.num_rows, lambda columns: iter([table.select(list(columns))]))


def _of_pandas(frame: Any, name: str) -> GivenTable:
    """Return the table of a data frame of pandas; its columns become Arrow's when they are read."""
    index = frame.index
    names = [str(column) for column in frame.columns]
    by_index = "tile_id" not in [column.casefold() for column in names] and (
        str(index.name).casefold() == "tile_id" or (index.name is None and index.inferred_type == "string")
    )
    if by_index:
        names = ["tile_id", *names]

    def values(column: str) -> Any:
        place = names.index(column) - by_index
        return index.to_series() if place < 0 else frame.iloc[:, place]

    def read(columns: Sequence[str]) -> Iterator[pa.Table]:
        yield pa.table({column: _of_series(name, column, values(column)) for column in columns})

    check_columns(names, (), (), name)
    return GivenTable(
        name, name, None, {column: _pandas_type(values(column)) for column in names}, ".", len(frame), read
    )


def _pandas_type(series: Any) -> pa.DataType:
    """Return the type that a column of pandas has in Arrow; text for one of objects."""
    try:
        return pa.Array.from_pandas(series.iloc[:0]).type if series.dtype != object else pa.string()
    except (pa.ArrowException, TypeError):
        return pa.string()


def _of_series(name: str, column: str, series: Any) -> pa.Array:
    """Return a column of pandas in Arrow, without a value where pandas has NaN, None or NA."""
    try:
        values = pa.Array.from_pandas(series)
        if not pa.types.is_nested(values.type):
            return values
    except (pa.ArrowException, TypeError, UnicodeEncodeError):
        pass
    kinds = sorted({type(value).__name__ for value in series if value is not None})
    raise InputError(
        [
            f"{name}: column {quoted(column)} holds values of type {', '.join(kinds)}; give it texts alone, or "
            "numbers alone"
        ]
    )


def _types_of(name: str, columns: Sequence[str], types: Sequence[pa.DataType]) -> dict[str, pa.DataType]:
    """Return types by column, and refuse a column that is there twice."""
    check_columns(list(columns), (), (), name)
    return dict(zip(columns, types, strict=True))


# ------------------------------------------------------------------------------------------ files


def _of_parquet(path: Path) -> GivenTable:
    schema, n_rows = parquet_file_schema(path)
    types = _types_of(path.name, schema.names, schema.types)
    return GivenTable(
        path.name, str(path), path, types, ".", n_rows, lambda columns: _pieces(parquet_batches(path, columns))
    )


def _of_csv(path: Path, optional: Sequence[str]) -> GivenTable:
    """Return the table of a CSV file in any of the dialects of `slideduck.files.tables`; all of it is text."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    is_wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    end = head.rfind(b"\n\0" if is_wide else b"\n") if len(head) == _HEAD else -1
    text = decode(head if end < 0 else head[: end + 1 + is_wide], path.name)
    lines = list(io.StringIO(text, newline=""))
    said = sep_line(text)
    first = next((i for i, line in enumerate(lines) if line.strip(" \t,;\r\n") and not (said and i == 0)), None)
    if first is None:
        raise InputError([f"{path.name}:1: the file is empty; it needs a header of columns, such as tile_id,label"])
    delimiter = said or tell_delimiter(lines[first], optional)
    header = next(csv.reader([lines[first]], delimiter=delimiter, skipinitialspace=True))
    columns = [column.strip() for column in header]
    types = _types_of(f"{path.name}:{first + 1}", [c for c in columns if c], [pa.string()] * sum(map(bool, columns)))
    names = [column or f"\0{number}" for number, column in enumerate(columns)]
    encoding = "utf-16" if is_wide else "utf8"

    def read(wanted: Sequence[str]) -> Iterator[pa.Table]:
        return _csv_pieces(path, names, wanted, skip=first + 1, delimiter=delimiter, encoding=encoding)

    return GivenTable(path.name, str(path), path, types, "." if delimiter == "," else ",", 0, read)


def _csv_pieces(
    path: Path, names: Sequence[str], wanted: Sequence[str], *, skip: int, delimiter: str, encoding: str
) -> Iterator[pa.Table]:
    """Yield columns of a CSV file, as text, and refuse it at its end if any of it cannot be read."""
    problems: list[str] = []

    def ragged(row: Any) -> str:
        problems.append(
            f"{path.name}: {quoted(row.text)} has {counted(row.actual_columns, 'cell')}, but the header has "
            f"{row.expected_columns}; write every cell, empty ones too, and quote cells that hold the delimiter"
        )
        return "skip"

    try:
        yield from _pieces(
            pa_csv.open_csv(
                path,
                pa_csv.ReadOptions(column_names=names, skip_rows=skip, encoding=encoding),
                pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=ragged),
                pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()), include_columns=wanted, strings_can_be_null=False
                ),
            )
        )
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        # It may be no text at all; that message names the lines.
        decode(path.read_bytes(), path.name)
        problems.append(f"{path.name}: broken CSV: {str(error).partition(chr(10))[0]}; save it again")
    if problems:
        raise InputError(problems)


def _pieces(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield batches in tables of a good size."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        if rows >= _PIECE:
            yield pa.Table.from_batches(held)
            held, rows = [], 0
    if held:
        yield pa.Table.from_batches(held)
