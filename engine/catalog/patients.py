"""Reads and checks the table of patients: CSV, Excel or Parquet, one row for each slide."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from slideduck.errors import InputError
from slideduck.files.find import absolute, quoted, read_input
from slideduck.files.parquet import read_parquet
from slideduck.files.tables import Problem, Table, check_columns, read_table
from slideduck.files.workbook import is_workbook, read_workbook
from slideduck.names import is_missing, nearest, nfc, text_problem

__all__ = ["PatientTable", "parse_patients"]

_REQUIRED = ("slide", "patient")
_TEXT = (*_REQUIRED, "site")
#: Types whose values have one obvious text. Whole doubles have one too: a pandas column of integers and NaN.
_TEXT_LIKE = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_null)
#: What a header says where it means a column of ours.
_MEANS = {
    "slide": ("slide", "wsi", "image", "file"),
    "patient": ("patient", "case", "subject", "participant", "donor"),
    "site": ("site", "hospital", "center", "centre", "institution"),
}

# Names that look like numbers stay text: "007" and "+49" for their first characters, "12E5" since a
# computer writes its exponents with a sign, and whatever has more digits than the type holds exactly.
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_DECIMAL = re.compile(r"-?(?:(?:0|[1-9][0-9]{0,14})(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-][0-9]+)?")
_INT64 = range(-(2**63), 2**63)
#: Beyond this a double no longer holds every integer.
_EXACT = 2.0**53


@dataclass(frozen=True, eq=False)
class PatientTable:
    """The patient of each slide, checked.

    Attributes
    ----------
    path : Path
        The file, absolute.
    format : {"csv", "xlsx", "parquet"}
        Its form, told by its content.
    table : pyarrow.Table
        Columns ``slide`` (text, never null), ``patient`` and, if the file has it, ``site`` (text in NFC, null where
        it is missing), then the file's further columns in its order and under its names.
    rows : (n,) int64
        Where each row stands: its line (CSV) or number (Excel, Parquet), from 1.
    left_out : int
        Rows that name no slide: patients without one, or a line of totals.
    missing : dict of str to int
        By column, the cells that say ``NA`` or the like and are null; of those of slides and patients, see above.
    """

    path: Path
    format: str
    table: pa.Table
    rows: NDArray[np.int64]
    left_out: int
    missing: dict[str, int]


@dataclass(frozen=True, eq=False)
class _Read:
    """A table as a file has it: its columns, of which those of names are text."""

    names: list[str]
    columns: list[pa.ChunkedArray]
    rows: NDArray[np.int64]
    problems: list[Problem]
    missing: dict[str, int]


def parse_patients(
    path: str | os.PathLike[str],
    *,
    slide_column: str | None = None,
    patient_column: str | None = None,
    site_column: str | None = None,
    slide_suffix: str = "",
) -> PatientTable:
    """Read a table of patients whole, and check all of it.

    Parameters
    ----------
    path : path-like
        CSV, an Excel workbook (its first sheet) or Parquet, with the columns ``slide`` and ``patient``, perhaps
        ``site``, and any others; upper and lower case are the same.
    slide_column, patient_column, site_column : str, optional
        Names of these columns, where the table has others.
    slide_suffix : str
        What the table's slide names have behind the slide's name, such as ``.svs``; it is taken off.

    Returns
    -------
    PatientTable

    Raises
    ------
    InputError
        If anything in the file is wrong, with a message for every row.

    Notes
    -----
    Empty cells, and ``NA``, ``NaN``, ``None`` and the like, are missing in every column: a row without a slide is
    left out, one without a patient says nothing of whose the slide is. A further column of a CSV is BIGINT if all its
    cells are integers as a computer writes them, DOUBLE if all are decimal numbers, else text in NFC. Numbers with
    leading zeros or a plus sign, and those too long to be held exactly, are names: the column stays text. Where the
    delimiter is no comma, ``1,5`` is 1.5. Columns of a Parquet file keep their types.
    """
    path = absolute(path)
    given = {"slide": slide_column, "patient": patient_column, "site": site_column}
    headers = {key: header or key for key, header in given.items()}
    required = [headers[key] for key in _TEXT if key in _REQUIRED or given[key]]
    if is_workbook(path):
        form, read = "xlsx", _read_cells(read_workbook(path), headers, required)
    elif (data := read_input(path))[:4] == b"PAR1":
        form, read = "parquet", _read_parquet(path, data, headers, required)
    else:
        form, read = "csv", _read_csv(path, data, headers, required)
    numbers = {name.casefold(): number for number, name in enumerate(read.names)}
    known = [key for key in _TEXT if headers[key].casefold() in numbers]
    taken = {numbers[headers[key].casefold()] for key in known}
    rest = [number for number in range(len(read.names)) if number not in taken]
    problems = read.problems + _check_beside(path.name, [read.names[number] for number in rest], known, headers)
    columns = {key: read.columns[numbers[headers[key].casefold()]] for key in known}
    slides = columns["slide"].to_pylist()
    if slide_suffix:
        slides, wrong = _without_suffix(path.name, slides, slide_suffix)
        problems += wrong
    problems += _check_slides(path.name, slides, read.rows)
    problems += _check_texts(path.name, read)
    if problems:
        raise InputError([message for _, message in sorted(problems, key=lambda problem: problem[0])])
    columns["slide"] = pa.chunked_array([slides], pa.string())
    table = pa.table(
        [columns[key] for key in known] + [read.columns[number] for number in rest],
        names=known + [read.names[number] for number in rest],
    )
    there = np.array([slide is not None for slide in slides], dtype=bool)
    return PatientTable(path, form, table.filter(pa.array(there)), read.rows[there], int((~there).sum()), read.missing)


def _check_beside(file: str, further: Sequence[str], known: Sequence[str], headers: Mapping[str, str]) -> list[Problem]:
    """Return the problems of further columns that have a name under which another column is kept."""
    return [
        (
            0,
            f"{file}: column {name!r} is there beside {headers[name.casefold()]!r}, which is kept under that name; "
            "rename it",
        )
        for name in further
        if name.casefold() in known
    ]


def _without_suffix(file: str, slides: Sequence[str | None], suffix: str) -> tuple[list[str | None], list[Problem]]:
    """Return slide names without what stands behind them, and a problem if it stands behind none."""
    bare = [slide and (slide.removesuffix(suffix).rstrip() or slide) for slide in slides]
    if bare != list(slides):
        return bare, []
    example = next((slide for slide in slides if slide), None)
    shown = f", such as {example!r}" if example else ""
    return bare, [(0, f"{file}: no slide name ends with {suffix!r}{shown}; leave `slide_suffix` out, or correct it")]


def _check_slides(file: str, slides: Sequence[str | None], rows: NDArray[np.int64]) -> list[Problem]:
    """Return the problems of the slides' names."""
    problems: list[Problem] = []
    first_row: dict[str, int] = {}
    for slide, row in zip(slides, rows.tolist(), strict=True):
        if slide is None:
            continue
        if slide in first_row:
            message = f"slide {slide!r} is there already (row {first_row[slide]}); keep one row for each slide"
            problems.append((row, f"{file}:{row}: {message}"))
        else:
            first_row[slide] = row
    if not first_row:
        problems.append((0, f"{file}: no row names a slide; write a row for each slide"))
    return problems


def _check_texts(file: str, read: _Read) -> list[Problem]:
    """Return the problems of names of columns and of cells that no study takes."""
    problems: list[Problem] = [
        (0, f"{file}: the name of the column {quoted(name)} {problem}; rename it")
        for name in read.names
        if (problem := text_problem(name)) is not None
    ]
    for name, column in zip(read.names, read.columns, strict=True):
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            for row, cell in zip(read.rows.tolist(), column.to_pylist(), strict=True):
                if cell is not None and (problem := text_problem(cell)) is not None:
                    problems.append((row, f"{file}:{row}: {name} {quoted(cell)} {problem}; write it without"))
    return problems


def _check_header(columns: Sequence[str], required: Sequence[str], headers: Mapping[str, str], place: str) -> None:
    """Raise if a column is missing, with the one that is most likely meant and how to say so."""
    there = {column.casefold() for column in columns}
    missing = [key for key, header in headers.items() if header in required and header.casefold() not in there]
    if not missing:
        return
    free = [column for column in columns if column and column.casefold() not in headers.values()]
    hints = []
    for key in missing:
        likely = [column for column in free if any(word in column.casefold() for word in _MEANS[key])]
        likely = (nearest(headers[key], free) or likely)[:1]
        hints.append(f"`{key}_column={likely[0]!r}`" if likely else f"`{key}_column`")
    raise InputError(
        [
            f"{place}: no column {' and no column '.join(repr(headers[key]) for key in missing)}; the columns are: "
            f"{', '.join(column for column in columns if column) or 'none'}; a table of patients has a row for each "
            f"slide, with the columns slide and patient: rename its columns, or say which they are, by "
            f"{' and '.join(hints)}"
        ]
    )


def _names_of(cells: Sequence[str | None]) -> pa.ChunkedArray:
    """Return a column of names: in NFC, without outer spaces, null where a name is missing."""
    return pa.chunked_array(
        [[None if cell is None or is_missing(cell) else nfc(cell).strip() for cell in cells]], pa.string()
    )


def _texts_there(cells: Sequence[str | None]) -> list[str | None]:
    """Return the texts of a further column in NFC, with None where one is missing."""
    return [None if cell is None or is_missing(cell) else nfc(cell) for cell in cells]


def _said_missing(cells: Sequence[str | None]) -> int:
    """Count the cells that say that they are missing, such as NA; empty ones say nothing."""
    return sum(bool(cell and cell.strip()) and is_missing(cell) for cell in cells)


def _read_csv(path: Path, data: bytes, headers: Mapping[str, str], required: Sequence[str]) -> _Read:
    """Return the columns of a CSV file."""
    try:
        table = read_table(path, (), tuple(headers.values()), data=data)
    except InputError:
        # The same problem, said with the columns that a table needs.
        table = read_table(path, required, ("site",), data=data)
    return _read_cells(table, headers, required)


def _read_cells(table: Table, headers: Mapping[str, str], required: Sequence[str]) -> _Read:
    """Return the columns of a table of cells."""
    place = f"{table.path.name}:{table.header_row}"
    check_columns(table.columns, (), (), place)
    _check_header(table.columns, required, headers, place)
    names = {header.casefold() for header in headers.values()}
    unsaid = {headers[key].casefold() for key in _REQUIRED}
    columns, missing = [], {}
    for name in table.columns:
        cells = table.text(name)
        if name.casefold() in names:
            columns.append(_names_of(cells))
        else:
            columns.append(_typed(cells, decimal_comma=table.delimiter != ","))
        if name.casefold() not in unsaid:
            missing[name] = _said_missing(cells)
    counts = {name: count for name, count in missing.items() if count}
    return _Read(list(table.columns), columns, table.rows, list(table.problems), counts)


def _typed(cells: list[str], *, decimal_comma: bool) -> pa.ChunkedArray:
    """Return a column as integers, decimal numbers or text, the first that keeps all of it; null where missing."""
    there = [not is_missing(cell) for cell in cells]
    values = [cell for cell, is_there in zip(cells, there, strict=True) if is_there]
    kind, numbers = _numbers(values, decimal_comma=decimal_comma)
    if kind is None:
        return pa.chunked_array([_texts_there(cells)], pa.string())
    each = iter(numbers)
    return pa.chunked_array([[next(each) if is_there else None for is_there in there]], kind)


def _numbers(values: list[str], *, decimal_comma: bool) -> tuple[pa.DataType | None, Sequence[float]]:
    """Return the numbers that texts are, and their type, or None for it if they are not all numbers."""
    if values and all(_INTEGER.fullmatch(value) and int(value) in _INT64 for value in values):
        return pa.int64(), [int(value) for value in values]
    if decimal_comma:
        values = [value.replace(",", ".") for value in values]
    if values and all(_DECIMAL.fullmatch(value) and np.isfinite(float(value)) for value in values):
        return pa.float64(), [float(value) for value in values]
    return None, []


def _read_parquet(path: Path, data: bytes, headers: Mapping[str, str], required: Sequence[str]) -> _Read:
    """Return the columns of a Parquet file."""
    file = path.name
    table = read_parquet(file, data)
    column_names = table.column_names
    # pandas keeps its index in columns of such names.
    kept = [i for i, name in enumerate(column_names) if not re.fullmatch(r"__index_level_\d+__", name)]
    names = [column_names[i].strip() for i in kept]
    check_columns(names, (), (), file)
    _check_header(names, required, headers, file)
    if not table.num_rows:
        raise InputError([f"{file}: columns and no rows; write a row for each slide"])
    columns, wrong, missing = [], [], {}
    for i, name in zip(kept, names, strict=True):
        column = table.column(i)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if name.casefold() in {header.casefold() for header in headers.values()}:
            try:
                cells = _texts(column)
            except ValueError as error:
                wrong.append(f"{file}: column {name!r} is {error}, not text; store names as text")
                continue
            column = _names_of(cells)
            if name.casefold() == headers["site"].casefold():
                missing[name] = _said_missing(cells)
        else:
            column, missing[name] = _without_missing(column)
        columns.append(column)
    if wrong:
        raise InputError(wrong)
    counts = {name: count for name, count in missing.items() if count}
    return _Read(names, columns, np.arange(1, table.num_rows + 1), [], counts)


def _without_missing(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, int]:
    """Return a further column with null where it says that a value is missing, and in how many cells it does."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        cells = column.to_pylist()
        return pa.chunked_array([_texts_there(cells)], column.type), _said_missing(cells)
    if pa.types.is_float32(column.type) or pa.types.is_float64(column.type):
        is_number = pc.fill_null(pc.invert(pc.is_nan(column)), True)
        return pc.if_else(is_number, column, None), pc.sum(pc.invert(is_number)).as_py() or 0
    return column, 0


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    """Return the names of a column as text; raise ValueError with its type if they have no obvious one."""
    if any(is_type(column.type) for is_type in _TEXT_LIKE):
        return list(column.cast(pa.string()).to_pylist())
    if pa.types.is_decimal(column.type) and all(value is None or value % 1 == 0 for value in column.to_pylist()):
        return [None if value is None else str(int(value)) for value in column.to_pylist()]
    if not pa.types.is_floating(column.type):
        raise ValueError(str(column.type))
    values = [None if value is None or value != value else float(value) for value in column.to_pylist()]
    odd = next((value for value in values if value is not None and not _is_whole(value)), None)
    if odd is not None:
        raise ValueError(f"{column.type} with {odd!r}")
    return [None if value is None else str(int(value)) for value in values]


def _is_whole(value: float) -> bool:
    return abs(value) < _EXACT and value == int(value)
