"""Reads the first sheet of an Excel workbook (.xlsx) as the text that a CSV file of it would have, with openpyxl."""

from __future__ import annotations

import datetime
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

import numpy as np

from slideduck.errors import InputError
from slideduck.files.find import mebibytes, unpacked_beyond
from slideduck.files.tables import Problem, Table
from slideduck.limit import beyond

__all__ = ["is_workbook", "read_workbook"]

#: Rows of a sheet of Excel; openpyxl would make the empty rows above one that a damaged number puts anywhere.
_MOST_ROWS = 1 << 20
#: Formats of dates in East Asian versions (ECMA-376, part 1, 18.8.30), which openpyxl takes for numbers.
_EAST_ASIAN_DATES = frozenset({*range(27, 37), *range(50, 59)})

#: The number of a row, from 1, and its cells that are not empty, by their column.
_Row = tuple[int, dict[int, str]]


def is_workbook(path: Path) -> bool:
    """Return whether a file is an Excel workbook, and not another zip archive or none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "xl/workbook.xml" in archive.namelist()
    except Exception:  # zipfile raises whatever a damaged part leads it to
        return False  # whatever it is, the reader of other files says so


def read_workbook(path: Path) -> Table:
    """Read the first sheet that is not hidden.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    Table
        Its first row that is not empty is the header. Numbers are as they were typed, with the leading zeros that a
        format such as ``000`` shows; dates and times are ISO 8601; formulas have the value that was saved.

    Raises
    ------
    InputError
        If the workbook is broken, unpacks to more than the limit ``unpacked_mb`` allows, or the sheet has no rows.
    """
    try:
        rows, problems = _read(path)
    except InputError:
        raise
    except Exception as error:  # openpyxl raises whatever a damaged part leads it to
        cause = error.__cause__ or error
        what = str(cause).partition("\n")[0] or type(cause).__name__
        raise InputError(
            [f"{path.name}: broken Excel workbook ({what}); save it again, or save it as CSV in UTF-8"]
        ) from error
    if len(rows) < 2:
        what = "a header and no rows" if rows else "no rows"
        raise InputError([f"{path.name}: the first sheet has {what}; put the sheet with the table first"])
    (header_row, header), *body = rows
    named = sorted(header)
    return Table(
        path=path,
        delimiter=",",
        header_row=header_row,
        columns=tuple(header[column].strip() for column in named),
        cells=tuple([cells.get(column, "") for _, cells in body] for column in named),
        rows=np.array([number for number, _ in body], dtype=np.int64),
        problems=tuple(problems),
    )


def _read(path: Path) -> tuple[list[_Row], list[Problem]]:
    """Return the rows that are not empty, and the cells that cannot be used."""
    import openpyxl  # takes 0.2 s

    # A file and not its path: openpyxl goes by suffixes. Read only, it looks at no pictures, comments or links.
    with path.open("rb") as file, zipfile.ZipFile(file) as archive, warnings.catch_warnings():
        packed, size = path.stat().st_size, sum(member.file_size for member in archive.infolist())
        if problem := beyond("file_mb", mebibytes(packed)) or unpacked_beyond(packed, size):
            raise InputError([f"{path.name}: {problem}"])
        if damaged := archive.testzip():  # openpyxl passes over a sheet that it does not find
            raise ValueError(f"{damaged} is damaged")
        warnings.filterwarnings("ignore", category=UserWarning, module=r"openpyxl\.")  # of what it does not keep
        book = openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
        shown = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"]
        if not shown:  # openpyxl finds no sheet in what Excel saves as Strict Open XML
            raise ValueError("no sheet is shown, or it is of the kind Strict Open XML")
        with archive.open(shown[0]._worksheet_path) as part:
            problems: list[Problem] = [
                (0, f"{path.name}: cells {area} are merged; unmerge them, and write every cell")
                for area in _merged(part)
                if len(set(re.findall(r"\d+", area))) > 1
            ]
        return _rows(path.name, shown[0], problems), problems


def _merged(part: IO[bytes]) -> Iterator[str]:
    """Yield the areas of merged cells, such as ``B2:B3``, of which openpyxl says nothing if it only reads."""
    for _, element in ElementTree.iterparse(part):
        if element.tag.endswith("}mergeCell"):
            yield element.get("ref") or ""
        elif element.tag.endswith("}row"):
            element.clear()


def _rows(name: str, sheet: Any, problems: list[Problem]) -> list[_Row]:
    """Return the rows that are not empty, and add the cells that are errors to the problems."""
    rows = []
    sheet.reset_dimensions()  # those that a program wrote may be too small
    for number, row in enumerate(sheet.iter_rows(), 1):
        if number > _MOST_ROWS:
            raise ValueError(f"a sheet has at most {_MOST_ROWS} rows")
        cells = {}
        for cell in row:
            if cell.data_type == "e":
                what = f"cell {cell.coordinate} is the error {cell.value}; write its value"
                problems.append((number, f"{name}:{number}: {what}"))
            elif (text := _text(cell)).strip():
                cells[cell.column] = text
        if cells:
            rows.append((number, cells))
    return rows


def _text(cell: Any) -> str:
    """Return what a cell says."""
    value = cell.value
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int | float):
        if cell.style_array.numFmtId not in _EAST_ASIAN_DATES:
            return _number(value, cell.number_format)
        from openpyxl.utils.datetime import from_excel

        value = from_excel(value, cell.parent.parent.epoch)
    if isinstance(value, datetime.timedelta):
        minutes, seconds = divmod(round(value.total_seconds()), 60)
        return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"
    return str(value).removesuffix(" 00:00:00")


def _number(value: float, form: str) -> str:
    """Return a number as it was typed; a format of zeros alone shows leading ones."""
    if value == int(value) and abs(value) < 1e15:
        return str(int(value)).zfill(len(form) if not form.strip("0") else 0)
    return repr(value)
