"""Reads the CSV files of users: ROIs and patients, from Excel, R, pandas or a text editor.

Every dialect that these write is read: UTF-8 with and without a byte order mark, UTF-16 with one,
commas, semicolons or tabs, any line ends, quoted cells, spaces around header cells, blank lines.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slideduck.errors import InputError
from slideduck.files.find import quoted, read_input
from slideduck.words import some

__all__ = [
    "CODE_PAGE", "Problem", "Table", "check_columns", "decode", "parse_numbers", "read_table", "sep_line",
    "tell_delimiter",
]  # fmt: skip

#: A message and the row that it is about, by which messages are put in order.
Problem = tuple[int, str]

#: Encoding of older Windows programs in Western Europe and America; nothing in a file tells it.
CODE_PAGE = "cp1252"

#: Columns that a message names.
_SHOWN = 50

_DELIMITERS = (",", ";", "\t")
#: First line of a file that Excel wrote or is to read: the delimiter.
_SEP_LINE = re.compile(r"""[ \t]*(?:sep=(\S|\t)|"sep=(\S|\t)")[ ,;\t]*(?=\r|\n|$)""", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NUMBER_CHARACTERS = frozenset("0123456789+-.eE")


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of a CSV file, as text, by column.

    Attributes
    ----------
    path : Path
        The file.
    delimiter : str
        What stands between its cells: a comma, a semicolon or a tab.
    header_row : int
        Line of the header, from 1.
    columns : tuple of str
        Names as the header writes them, without outer spaces; columns without a name are left out.
    cells : tuple of list of str
        For each column its cells, as written.
    rows : (n,) int64
        For each row the line of the file on which it begins, from 1.
    problems : tuple of Problem
        Rows that were left out because they cannot be read, each with its message. The caller raises
        them together with the problems of the other rows.
    encoding : str
        ``"utf-8"`` for Unicode of any kind, or `CODE_PAGE`.
    """

    path: Path
    delimiter: str
    header_row: int
    columns: tuple[str, ...]
    cells: tuple[list[str], ...]
    rows: NDArray[np.int64]
    problems: tuple[Problem, ...]
    encoding: str = "utf-8"

    def __contains__(self, column: str) -> bool:
        return self._find(column) is not None

    def _find(self, column: str) -> int | None:
        for number, name in enumerate(self.columns):
            if name.casefold() == column.casefold():
                return number
        return None

    def text(self, column: str) -> list[str]:
        """Return the cells of a column without outer spaces; upper and lower case name the same column."""
        number = self._find(column)
        assert number is not None, column
        return [cell.strip() for cell in self.cells[number]]

    def numbers(self, column: str, wanted: str) -> tuple[NDArray[np.float64], list[Problem]]:
        """Return the numbers of a column.

        Parameters
        ----------
        column : str
            Name of the column.
        wanted : str
            What to write there, for messages, such as ``"base pixels, such as 1024.5"``.

        Returns
        -------
        values : (n,) float64
            NaN where a cell holds no finite number.
        problems : list of Problem
            One for each such cell.

        Notes
        -----
        Where the delimiter is no comma, a comma in a number is the decimal sign, as Excel writes it in
        much of Europe: ``1,5`` is 1.5.
        """
        texts = self.text(column)
        numbers = texts
        if self.delimiter != ",":
            numbers = [text.replace(",", ".") for text in texts]
        values, bad = parse_numbers(numbers)
        problems = []
        for i in bad:
            row = int(self.rows[i])
            what = _what_is_wrong(texts[i], numbers[i])
            problems.append((row, f"{self.path.name}:{row}: {column} is {what}; write {wanted}"))
        return values, problems


def _what_is_wrong(text: str, number: str) -> str:
    """Return why a cell holds no finite number."""
    if not text:
        return "empty"
    if _NUMBER.fullmatch(number) or text.lstrip("+-").lower() in ("nan", "inf", "infinity"):
        return f"{quoted(text)}, not a finite number"
    return f"{quoted(text)}, not a number"


def parse_numbers(texts: Sequence[str]) -> tuple[NDArray[np.float64], list[int]]:
    """Read decimal numbers, strictly: digits, a point, an exponent, nothing that only Python takes.

    Parameters
    ----------
    texts : sequence of str
        Numbers without outer spaces.

    Returns
    -------
    values : (n,) float64
        NaN where there is no finite number.
    bad : list of int
        Positions of those.
    """
    # A column of good numbers, however long, is read in one go; float() on these characters is strict.
    if _NUMBER_CHARACTERS.issuperset("".join(texts)):
        try:
            values = np.array([float(text) for text in texts], dtype=np.float64)
        except ValueError:
            pass
        else:
            if np.isfinite(values).all():
                return values, []
    values = np.array([float(text) if _NUMBER.fullmatch(text) else np.nan for text in texts], dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    values[bad] = np.nan
    return values, [int(i) for i in bad]


def decode(data: bytes, name: str) -> str:
    """Return the text of a file, its byte order mark taken off.

    Parameters
    ----------
    data : bytes
        The whole file: UTF-8 with or without a mark, or UTF-16 with one.
    name : str
        The file's name, for messages.

    Raises
    ------
    InputError
        If it is another encoding or no text, with every line that does not decode.
    """
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-8-sig" and b"\0" not in data:
            raise InputError(_undecodable(data, name)) from error
        # An image, or another file of bytes; or UTF-16 that was cut.
        raise InputError([f"{name}:1: not text ({error.reason}); save it as UTF-8"]) from error
    nul = text.find("\0")
    if nul >= 0:
        line = len(re.split(r"\r\n|\r|\n", text[:nul]))
        raise InputError([f"{name}:{line}: holds a NUL byte, so it is not text; save it as UTF-8"])
    return text


def _decode_table(data: bytes, name: str) -> tuple[str, str]:
    """Return the encoding and the text of a file, which may be in Windows-1252; raise as `decode` does."""
    try:
        return "utf-8", decode(data, name)
    except InputError:
        try:
            text = data.decode(CODE_PAGE)
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            raise
        return CODE_PAGE, text


def _undecodable(data: bytes, name: str) -> list[str]:
    """Name every line that is not UTF-8."""
    problems = []
    for number, line in enumerate(re.split(rb"\r\n|\r|\n", data.removeprefix(codecs.BOM_UTF8)), 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            byte = line[error.start]
            problems.append(f"{name}:{number}: byte 0x{byte:02X} is not UTF-8; save it as UTF-8")
    return problems


def read_table(
    path: Path,
    required: Sequence[str],
    optional: Sequence[str] = (),
    *,
    data: bytes | None = None,
    may_be_empty: bool = False,
    code_page: bool = False,
    of_another_kind: str = "",
) -> Table:
    """Read a CSV file.

    Parameters
    ----------
    path : Path
        The file.
    required, optional : sequence of str
        Names of columns that must and may be there. They help to tell the delimiter.
    data : bytes, optional
        The file's bytes, where they have been read already.
    may_be_empty : bool, default False
        Take a header without rows.
    code_page : bool, default False
        Read what is not UTF-8 as Windows-1252; the caller says so where `Table.encoding` is `CODE_PAGE`.
    of_another_kind : str
        What to do about a table that has none of the required columns, for messages.

    Returns
    -------
    Table
        With at least one row, or at least one problem, unless it may be empty.

    Raises
    ------
    InputError
        If the file as a whole cannot be used: unreadable, no text, no rows, or a column that is
        missing or there twice.
    """
    name = path.name
    data = read_input(path) if data is None else data
    encoding, text = _decode_table(data, name) if code_page else ("utf-8", decode(data, name))
    separator = _SEP_LINE.match(text)
    if separator:
        # The line stays, without its text, so that rows keep their numbers.
        text = text[separator.end() :]
    header = next((line for line in io.StringIO(text, newline="") if line.strip(" \t,;\r\n")), "")
    if not header:
        raise InputError([f"{name}:1: the file is empty; {_needs(required, optional)}"])
    delimiter = tell_delimiter(header, (*required, *optional))
    if separator:
        delimiter = separator[1] or separator[2]
    columns: list[str] = []
    # Cells row by row in one flat list: a list of a million rows would keep the garbage collector busy.
    cells: list[str] = []
    rows = array("q")
    problems: list[Problem] = []
    header_row = 0
    for line, record in _records(text, delimiter):
        if isinstance(record, str):
            problems.append((line, f"{name}:{line}: {record}"))
            if not columns:
                raise InputError([message for _, message in problems])
        elif not columns:
            header_row = line
            columns = [cell.strip() for cell in record]
            check_columns(columns, required, optional, f"{name}:{line}", of_another_kind)
        elif len(record) == len(columns):
            cells += record
            rows.append(line)
        else:
            n = len(record)
            what = f"{n} cell{'s' * (n != 1)}, but the header has {len(columns)}"
            remedy = "write every cell, empty ones too, and quote cells that hold the delimiter"
            problems.append((line, f"{name}:{line}: {what}; {remedy}"))
    if not rows and not problems and not may_be_empty:
        raise InputError([f"{name}:{header_row}: a header and no rows; {_needs(required, optional)}"])
    named = [number for number, column in enumerate(columns) if column]
    return Table(
        path=path,
        delimiter=delimiter,
        header_row=header_row,
        columns=tuple(columns[number] for number in named),
        cells=tuple(cells[number :: len(columns)] for number in named),
        rows=np.array(rows, dtype=np.int64),
        problems=tuple(problems),
        encoding=encoding,
    )


def _needs(required: Sequence[str], optional: Sequence[str]) -> str:
    """Say which columns a file has."""
    return f"it needs the columns {', '.join(required)}" + (
        f" (and may have {', '.join(optional)})" if optional else ""
    )


def sep_line(text: str) -> str | None:
    """Return the delimiter that a text says in a first line ``sep=;``, or None."""
    found = _SEP_LINE.match(text)
    return found and (found[1] or found[2])


def tell_delimiter(header: str, names: Sequence[str]) -> str:
    """Return the delimiter under which the header has most of the names, and then most cells."""

    def score(delimiter: str) -> tuple[int, int]:
        cells = next(csv.reader([header], delimiter=delimiter, skipinitialspace=True))
        found = {cell.strip().casefold() for cell in cells}
        return sum(name.casefold() in found for name in names), len(cells)

    return max(_DELIMITERS, key=score)


def _records(text: str, delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the records of a text that are not blank, with the line on which each begins.

    In place of a record that cannot be read, what is wrong with it.
    """
    # With newline="" every kind of line end counts as one line, as in an editor. A quote that does not
    # close would swallow rows without strict.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    end = 0
    while True:
        try:
            for record in reader:
                line, end = end + 1, reader.line_num
                # Spreadsheets leave rows of empty cells at the end.
                if record and (record[0] or any(map(str.strip, record))):
                    yield line, record
            return
        except csv.Error as error:
            line, end = end + 1, reader.line_num
            what = str(error)
            if "unexpected end" in what:
                what = "a quote opens here and never closes; close it, or take it away"
            elif "expected after" in what:
                what = 'characters after a closing quote; write a quote inside a quoted cell as ""'
            yield line, what


def check_columns(
    columns: Sequence[str], required: Sequence[str], optional: Sequence[str], place: str, of_another_kind: str = ""
) -> None:
    """Raise if a column is missing or there twice; upper and lower case are the same.

    Parameters
    ----------
    columns : sequence of str
        Names that a file has; an empty one is no column.
    required, optional : sequence of str
        Names that it must and may have.
    place : str
        Where they stand, for messages.
    of_another_kind : str
        What to do where none of the required ones is there, for messages.

    Raises
    ------
    InputError
        With the columns that were found.
    """
    problems = []
    numbers: dict[str, int] = {}
    for number, column in enumerate(columns, 1):
        first = numbers.setdefault(column.casefold(), number)
        if column and first != number:
            problems.append(
                f"{place}: column {quoted(column)} is there twice (columns {first} and {number}); rename or remove one"
            )
    missing = [column for column in required if column.casefold() not in numbers]
    if missing:
        found = some([column for column in columns if column], _SHOWN) or "none"
        problems.append(
            f"{place}: no column {' and no column '.join(map(repr, missing))}; the columns are: {found}; "
            f"{_needs(required, optional)}"
            + (f"; {of_another_kind}" if of_another_kind and len(missing) == len(required) else "")
        )
    if problems:
        raise InputError(problems)
