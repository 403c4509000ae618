"""Reads the first sheet of an Excel workbook (.xlsx) as the text that a CSV file of it would have.

The form is Office Open XML (ECMA-376, part 1, 18: SpreadsheetML), as Excel, LibreOffice and openpyxl write it.
"""

from __future__ import annotations

import datetime
import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from slideduck.errors import InputError
from slideduck.files.tables import Problem, Table

__all__ = ["is_workbook", "read_workbook"]

_WORKBOOK = "xl/workbook.xml"
#: Formats of dates and times that need no entry of their own (18.8.30), and those of East Asian versions.
_DATE_FORMATS = frozenset({*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59)})
#: What a format has beside its letters: quoted text, escaped characters, colours, conditions and locales.
_NO_LETTERS = re.compile(r'"[^"]*"|\\.|_.|\*.|\[[^\]]*\]')
_BROKEN = (
    OSError, KeyError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error,
    ElementTree.ParseError,
)  # fmt: skip


def is_workbook(path: Path) -> bool:
    """Return whether a file is an Excel workbook, and not another zip archive or none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _WORKBOOK in archive.namelist()
    except (OSError, zipfile.BadZipFile):
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
        If the workbook is broken, or the sheet has no rows.
    """
    name = path.name
    try:
        with zipfile.ZipFile(path) as archive:
            sheet = _first_sheet(archive)
            styles, strings = _styles(archive), _shared_strings(archive)
            epoch = _epoch(archive)
    except _BROKEN as error:
        raise InputError(
            [f"{name}: broken Excel workbook ({error}); save it again, or save it as CSV in UTF-8"]
        ) from error
    problems = [
        (0, f"{name}: cells {area.get('ref')} are merged; unmerge them, and write every cell")
        for area in sheet.iterfind(".//{*}mergeCell")
        if len(set(re.findall(r"\d+", area.get("ref") or ""))) > 1
    ]
    rows: list[tuple[int, dict[int, str]]] = []
    for number, row in _rows(sheet):
        cells = {}
        for column, cell in row:
            text = _text(cell, strings, styles, epoch)
            if cell.get("t") == "e":
                problems.append((number, f"{name}:{number}: cell {cell.get('r')} is the error {text}; write its value"))
            elif text.strip():
                cells[column] = text
        if cells:
            rows.append((number, cells))
    if len(rows) < 2:
        what = "a header and no rows" if rows else "no rows"
        raise InputError([f"{name}: the first sheet has {what}; put the sheet with the table first"])
    return _table(path, rows, problems)


def _table(path: Path, rows: list[tuple[int, dict[int, str]]], problems: list[Problem]) -> Table:
    """Return the rows by column; columns without a name in the first row are left out."""
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


def _part(archive: zipfile.ZipFile, name: str) -> ElementTree.Element:
    """Return a part of the workbook."""
    return ElementTree.fromstring(archive.read(name))


def _first_sheet(archive: zipfile.ZipFile) -> ElementTree.Element:
    """Return the first sheet that is not hidden."""
    shown = [
        sheet for sheet in _part(archive, _WORKBOOK).iterfind(".//{*}sheet") if sheet.get("state") in (None, "visible")
    ]
    if not shown:
        raise ValueError("no sheet in it")
    wanted = next(value for key, value in shown[0].items() if key.endswith("}id"))
    for relation in _part(archive, "xl/_rels/workbook.xml.rels").iterfind(".//{*}Relationship"):
        if relation.get("Id") == wanted:
            return _part(archive, posixpath.normpath(posixpath.join("/xl", relation.get("Target") or "")).lstrip("/"))
    raise ValueError("its first sheet is missing")


def _shared_strings(archive: zipfile.ZipFile) -> list[str]:
    """Return the texts that cells point to."""
    if "xl/sharedStrings.xml" not in archive.namelist():
        return []
    return [_plain(item) for item in _part(archive, "xl/sharedStrings.xml").iterfind(".//{*}si")]


def _plain(item: ElementTree.Element) -> str:
    """Return a text without its fonts, and without how it is pronounced."""
    return "".join(text.text or "" for text in [*item.findall("{*}t"), *item.findall("{*}r/{*}t")])


def _styles(archive: zipfile.ZipFile) -> list[str]:
    """Return of each style of cells ``date``, its format if that is zeros alone, or an empty text."""
    if "xl/styles.xml" not in archive.namelist():
        return []
    root = _part(archive, "xl/styles.xml")
    codes = {int(code.get("numFmtId", 0)): code.get("formatCode", "") for code in root.iterfind(".//{*}numFmt")}
    kinds = []
    for style in root.findall("{*}cellXfs/{*}xf"):
        number = int(style.get("numFmtId", 0))
        code = codes.get(number, "")
        letters = _NO_LETTERS.sub("", code.partition(";")[0]).casefold()
        is_date = number in _DATE_FORMATS or (set(letters) & set("dmyhs") and "general" not in letters)
        kinds.append("date" if is_date else code if re.fullmatch("0{2,}", code) else "")
    return kinds


def _epoch(archive: zipfile.ZipFile) -> datetime.datetime:
    """Return the day 0 of the workbook's dates."""
    setting = _part(archive, _WORKBOOK).find("{*}workbookPr")
    if setting is not None and setting.get("date1904") in ("1", "true"):
        return datetime.datetime(1904, 1, 1)
    # Excel takes 1900 for a leap year: from March 1900 on its days count from here.
    return datetime.datetime(1899, 12, 30)


def _rows(sheet: ElementTree.Element) -> Iterator[tuple[int, list[tuple[int, ElementTree.Element]]]]:
    """Yield the number of each row, from 1, and its cells with their columns; a writer may leave both out."""
    number = 0
    for row in sheet.iterfind(".//{*}row"):
        number = int(row.get("r") or number + 1)
        cells, column = [], 0
        for cell in row.findall("{*}c"):
            letters = re.match("[A-Z]+", cell.get("r") or "")
            column = _column(letters[0]) if letters else column + 1
            cells.append((column, cell))
        yield number, cells


def _column(letters: str) -> int:
    """Return the number of a column: A is 1, AA is 27."""
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("A") + 1
    return number


def _text(cell: ElementTree.Element, strings: list[str], styles: list[str], epoch: datetime.datetime) -> str:
    """Return what a cell says."""
    kind = cell.get("t", "n")
    if kind == "inlineStr":
        inline = cell.find("{*}is")
        return "" if inline is None else _plain(inline)
    value = cell.findtext("{*}v") or ""
    if kind == "s":
        return strings[int(value)] if value else ""
    if kind == "b":
        return "TRUE" if value == "1" else "FALSE"
    if kind != "n" or not value:
        return value
    style = int(cell.get("s") or 0)
    return _number(float(value), styles[style] if style < len(styles) else "", epoch)


def _number(value: float, style: str, epoch: datetime.datetime) -> str:
    """Return a number, a date or a time as text."""
    if style == "date":
        moment = epoch + datetime.timedelta(seconds=round(value * 86_400))
        if value < 1:
            return moment.time().isoformat()
        return moment.date().isoformat() if value == int(value) else moment.isoformat(sep=" ")
    if value == int(value) and abs(value) < 1e15:
        return str(int(value)).zfill(len(style))
    return repr(value)
