"""Reads and checks the table of patients: CSV or Parquet, one row for each slide."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from slideduck.errors import InputError
from slideduck.files.find import absolute, read_input
from slideduck.files.tables import Problem, check_columns, read_table

__all__ = ["PatientTable", "parse_patients"]

_REQUIRED = ("slide", "patient")
_OPTIONAL = ("site",)
_TEXT = (*_REQUIRED, *_OPTIONAL)
#: Types whose values have one obvious text; a double has not, since 7.0 was perhaps 007.
_TEXT_LIKE = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_null)

# Names that look like numbers stay text: "007" and "+49" for their first characters, "12E5" since a
# computer writes its exponents with a sign, and whatever has more digits than the type holds exactly.
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_DECIMAL = re.compile(r"-?(?:(?:0|[1-9][0-9]{0,14})(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-][0-9]+)?")
_INT64 = range(-(2**63), 2**63)

_Columns = tuple[list[str], list[pa.ChunkedArray], NDArray[np.int64], list[Problem]]


@dataclass(frozen=True, eq=False)
class PatientTable:
    """The patient of each slide, checked.

    Attributes
    ----------
    path : Path
        The file, absolute.
    format : {"csv", "parquet"}
        Its form, told by its content.
    table : pyarrow.Table
        Columns ``slide`` and ``patient`` (text, never empty), ``site`` (text, null where empty) if the
        file has it, then the file's further columns in its order and under its names.
    rows : (n,) int64
        Where each row stands: its line (CSV) or number (Parquet), from 1.
    """

    path: Path
    format: str
    table: pa.Table
    rows: NDArray[np.int64]


def parse_patients(path: str | os.PathLike[str]) -> PatientTable:
    """Read a table of patients whole, and check all of it.

    Parameters
    ----------
    path : path-like
        CSV or Parquet, with the columns ``slide`` and ``patient``, perhaps ``site``, and any others;
        upper and lower case are the same.

    Returns
    -------
    PatientTable

    Raises
    ------
    InputError
        If anything in the file is wrong, with a message for every row.

    Notes
    -----
    A further column of a CSV is BIGINT if all its cells are integers as a computer writes them, DOUBLE
    if all are decimal numbers, else text; empty cells are null. Numbers with leading zeros or a plus
    sign, and those too long to be held exactly, are names: the column stays text. Where the delimiter
    is no comma, ``1,5`` is 1.5. Columns of a Parquet file keep their types.
    """
    path = absolute(path)
    data = read_input(path)
    if data[:4] == b"PAR1":
        names, columns, rows, problems = _read_parquet(path, data)
        form = "parquet"
    else:
        names, columns, rows, problems = _read_csv(path, data)
        form = "csv"
    keys = {name.casefold(): number for number, name in enumerate(names)}
    texts = {key: columns[keys[key]].to_pylist() for key in _REQUIRED}
    problems += _check_keys(path.name, texts["slide"], texts["patient"], rows)
    if problems:
        raise InputError([message for _, message in sorted(problems, key=lambda problem: problem[0])])
    known = [key for key in _TEXT if key in keys]
    rest = [name for name in names if name.casefold() not in known]
    table = pa.table(
        [columns[keys[key]] for key in known] + [columns[keys[name.casefold()]] for name in rest],
        names=known + rest,
    )
    return PatientTable(path, form, table, rows)


def _check_keys(
    file: str, slides: Sequence[str | None], patients: Sequence[str | None], rows: NDArray[np.int64]
) -> list[Problem]:
    """Return the problems of slides and patients."""
    problems: list[Problem] = []
    first_row: dict[str, int] = {}
    for slide, patient, row in zip(slides, patients, rows.tolist(), strict=True):
        if not slide:
            problems.append((row, f"{file}:{row}: slide is empty; write the slide's name"))
        elif slide in first_row:
            message = f"slide {slide!r} is there already (row {first_row[slide]}); keep one row for each slide"
            problems.append((row, f"{file}:{row}: {message}"))
        else:
            first_row[slide] = row
        if not patient:
            problems.append((row, f"{file}:{row}: patient is empty; write the patient's name"))
    return problems


def _read_csv(path: Path, data: bytes) -> _Columns:
    """Return names, columns, rows and problems of a CSV file."""
    table = read_table(path, _REQUIRED, _OPTIONAL, data=data)
    columns = []
    for name in table.columns:
        cells = [cell or None for cell in table.text(name)]
        if name.casefold() in _TEXT:
            columns.append(pa.chunked_array([cells], pa.string()))
        else:
            columns.append(_typed(cells, decimal_comma=table.delimiter != ","))
    return list(table.columns), columns, table.rows, list(table.problems)


def _typed(cells: list[str | None], *, decimal_comma: bool) -> pa.ChunkedArray:
    """Return a column as integers, decimal numbers or text, the first that keeps all of it."""
    values = [cell for cell in cells if cell is not None]
    if values and all(_INTEGER.fullmatch(value) and int(value) in _INT64 for value in values):
        return pa.chunked_array([[None if cell is None else int(cell) for cell in cells]], pa.int64())
    if decimal_comma:
        values = [value.replace(",", ".") for value in values]
    if values and all(_DECIMAL.fullmatch(value) and np.isfinite(float(value)) for value in values):
        numbers = iter(values)
        return pa.chunked_array([[None if cell is None else float(next(numbers)) for cell in cells]], pa.float64())
    return pa.chunked_array([cells], pa.string())


def _read_parquet(path: Path, data: bytes) -> _Columns:
    """Return names, columns, rows and problems of a Parquet file."""
    file = path.name
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read()
        column_names = table.column_names
        # Damaged bytes are not always noticed in reading.
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        what = str(error).partition("\n")[0].rstrip(".")
        raise InputError([f"{file}: broken Parquet: {what}; write it again"]) from error
    # pandas keeps its index in columns of such names.
    kept = [i for i, name in enumerate(column_names) if not re.fullmatch(r"__index_level_\d+__", name)]
    names = [column_names[i].strip() for i in kept]
    check_columns(names, _REQUIRED, _OPTIONAL, file)
    if not table.num_rows:
        raise InputError([f"{file}: columns and no rows; write a row for each slide"])
    columns, wrong = [], []
    for i, name in zip(kept, names, strict=True):
        column = table.column(i)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if name.casefold() in _TEXT:
            if not any(is_type(column.type) for is_type in _TEXT_LIKE):
                wrong.append(f"{file}: column {name!r} is {column.type}, not text; store names as text")
                continue
            texts = column.cast(pa.string()).to_pylist()
            column = pa.chunked_array([[text and (text.strip() or None) for text in texts]], pa.string())
        columns.append(column)
    if wrong:
        raise InputError(wrong)
    return names, columns, np.arange(1, table.num_rows + 1), []
