"""Excel workbooks as tables of patients; two were written by openpyxl 3.1 and XlsxWriter 3.2, from the same rows."""

from __future__ import annotations

import datetime
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pytest
from openpyxl.utils.datetime import MAC_EPOCH, WINDOWS_EPOCH

from slideduck.catalog.patients import PatientTable, parse_patients
from slideduck.errors import InputError
from slideduck.files.workbook import read_workbook

WORKBOOKS = Path(__file__).parent / "workbooks"
REMEDY = "save it again, or save it as CSV in UTF-8"


def write(path: Path, *rows: Sequence[Any], formats: dict[str, str] | None = None, merge: tuple[str, ...] = ()) -> Path:
    """Write rows, and the formats of cells such as ``{"B2": "000"}``."""
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for cell, form in (formats or {}).items():
        book.active[cell].number_format = form
    for area in merge:
        book.active.merge_cells(area)
    book.save(path)
    return path


def change(source: Path, path: Path, part: str, into: Callable[[bytes], bytes | None]) -> Path:
    """Write a workbook with a part of it changed, or without it; the parts are whole, as a program would write them."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            data = old.read(name)
            changed = into(data) if part in name else data
            if changed is not None:
                new.writestr(name, changed)
    return path


def problems(path: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse_patients(path)
    return list(caught.value.problems)


@pytest.mark.parametrize("library", ["openpyxl", "xlsxwriter"])
def test_a_workbook_is_read_as_what_it_shows(library: str) -> None:
    """The cell 8 has the format 000; openpyxl's first sheet is hidden, and both have an empty row."""
    read: PatientTable = parse_patients(
        WORKBOOKS / f"{library}.xlsx", slide_column="Slide", patient_column="Patient", site_column="site"
    )
    assert (read.format, read.rows.tolist(), read.missing) == ("xlsx", [2, 3, 4, 6], {"site": 1, "age": 1, "grade": 1})
    assert read.table["age"].type == pa.float64()
    assert [tuple(r.values()) for r in read.table.to_pylist()] == [
        ("007", "P1", "A", 61.0, "2020-01-02", "high"),
        ("008", "12", None, None, None, None),
        ("Zürich", "P 3", None, None, "2020-01-02 03:04:05", "low"),
        ("S1", None, "B", 50.5, None, "TRUE"),
    ]


def test_the_first_row_that_is_not_empty_is_the_header(tmp_path: Path) -> None:
    rows: list[list[Any]] = [["", None], ["slide", "patient", " "], ["a", "p", "a note"], *[[]] * 5, ["b", "q"]]
    path = write(tmp_path / "p.xlsx", *rows)
    # What a program wrote of the size of its sheet may be too small; the suffix of the file says nothing.
    path = change(path, tmp_path / "p.table", "sheet1", lambda data: data.replace(b"A1:C9", b"A1:A2"))
    read = parse_patients(path)
    assert read.table.to_pylist() == [{"slide": "a", "patient": "p"}, {"slide": "b", "patient": "q"}]
    assert read.rows.tolist() == [3, 9]


@pytest.mark.parametrize("epoch", [WINDOWS_EPOCH, MAC_EPOCH])
def test_numbers_dates_and_times(tmp_path: Path, epoch: datetime.datetime) -> None:
    cells = {
        "day": (datetime.date(2016, 1, 2), None, "2016-01-02"),
        "moment": (datetime.datetime(2016, 1, 2, 23, 59, 59), None, "2016-01-02 23:59:59"),
        "time": (datetime.time(18), None, "18:00:00"),
        "hours": (datetime.timedelta(hours=26, minutes=3), None, "26:03:00"),
        "days": (2.5, '[Red]0.00"days"', "2.5"),
        "zeros": (7, "000", "007"),
        "whole": (1e3, "0.00", "1000"),
        "large": (1e300, None, "1e+300"),
        "negative": (-3, None, "-3"),
        "no": (False, None, "FALSE"),
    }
    book = openpyxl.Workbook()
    book.epoch = epoch
    book.active.append(list(cells))
    book.active.append([value for value, _, _ in cells.values()])
    for column, (_, form, _) in enumerate(cells.values(), 1):
        if form:
            book.active.cell(2, column).number_format = form
    book.save(tmp_path / "p.xlsx")
    table = read_workbook(tmp_path / "p.xlsx")
    read = dict(zip(table.columns, (column[0] for column in table.cells), strict=True))
    assert read == {name: text for name, (_, _, text) in cells.items()}


def test_dates_that_east_asian_versions_of_excel_write(tmp_path: Path) -> None:
    """Their format is a number alone; 31 is year, month and day."""
    path = write(tmp_path / "p.xlsx", ["slide", "patient", "day"], ["a", "p", 42371], formats={"C2": "0.00"})
    path = change(path, tmp_path / "q.xlsx", "styles", lambda data: data.replace(b'numFmtId="2"', b'numFmtId="31"'))
    assert parse_patients(path).table.to_pylist() == [{"slide": "a", "patient": "p", "day": "2016-01-02"}]


def test_workbooks_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "p.xlsx"
    write(path, ["slide", "patient", "age"], ["a", "p", "#N/A"], ["b"], merge=("B2:B3", "A9:C9"))
    assert problems(path) == [
        "p.xlsx: cells B2:B3 are merged; unmerge them, and write every cell",
        "p.xlsx:2: cell C2 is the error #N/A; write its value",
    ]
    write(path, ["slide", "patient", "age"], ["a", "p", 50], ["b", "p"], merge=("A9:C9",))
    assert parse_patients(path).table.num_rows == 2
    write(path, ["Slide", "case"], ["a", "p"])
    assert problems(path)[0].startswith("p.xlsx:1: no column 'patient'; the columns are: Slide, case; ")
    write(path, ["slide", "patient", "Slide"], ["a", "p", "b"])
    assert problems(path) == ["p.xlsx:1: column 'Slide' is there twice (columns 1 and 3); rename or remove one"]
    write(path, ["slide", "patient"])
    assert problems(path) == ["p.xlsx: the first sheet has a header and no rows; put the sheet with the table first"]
    write(path)
    assert problems(path) == ["p.xlsx: the first sheet has no rows; put the sheet with the table first"]


def test_broken_workbooks(tmp_path: Path) -> None:
    good, path = write(tmp_path / "good.xlsx", ["slide", "patient"], ["a", "p"]), tmp_path / "p.xlsx"
    change(good, path, "sheet1", lambda data: data[:-20])
    assert problems(path)[0].startswith("p.xlsx: broken Excel workbook (unclosed token: ")
    change(good, path, "sheet1", lambda data: data.replace(b'<row r="2"', b'<row r="2000000000"'))
    assert problems(path) == [f"p.xlsx: broken Excel workbook (a sheet has at most 1048576 rows); {REMEDY}"]
    none = f"p.xlsx: broken Excel workbook (no sheet is shown, or it is of the kind Strict Open XML); {REMEDY}"
    change(good, path, "workbook.xml", lambda data: data.replace(b'state="visible"', b'state="hidden"'))
    assert problems(path) == [none]
    transitional, strict = b"http://schemas.openxmlformats.org/", b"http://purl.oclc.org/ooxml/"
    change(
        good,
        path,
        "xl/",
        lambda data: data.replace(transitional + b"spreadsheetml/2006/main", strict + b"spreadsheetml/main").replace(
            transitional + b"officeDocument/2006/", strict + b"officeDocument/"
        ),
    )
    assert problems(path) == [none]
    change(good, path, "[Content_Types]", lambda data: None)
    assert problems(path)[0].startswith("p.xlsx: broken Excel workbook (\"There is no item named '[Content_Types].xml'")
    path.write_bytes(good.read_bytes()[:-40])
    assert problems(path) == [
        "p.xlsx:1: not text, but a zip archive or an Excel workbook; unpack it, or save it as CSV in UTF-8"
    ]


@pytest.mark.filterwarnings("error")
def test_what_openpyxl_does_not_keep_is_no_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "p.xlsx", ["slide", "patient"], ["a", "p"])
    extension = b'<extLst><ext uri="{CCE6A557-97BC-4b89-ADB6-D9C93CAAB3DF}"/></extLst></worksheet>'
    path = change(path, tmp_path / "q.xlsx", "sheet1", lambda data: data.replace(b"</worksheet>", extension))
    with pytest.warns(UserWarning, match="extension is not supported"):
        openpyxl.load_workbook(path)
    assert read_workbook(path).cells == (["a"], ["p"])


def test_damaged_bytes_are_an_error_and_nothing_else(tmp_path: Path) -> None:
    """Each of a hundred places of the archive, spread over all of it."""
    data = (WORKBOOKS / "xlsxwriter.xlsx").read_bytes()
    path = tmp_path / "p.xlsx"
    good = parse_patients(WORKBOOKS / "xlsxwriter.xlsx", slide_column="Slide", patient_column="Patient").table
    for place in range(0, len(data), len(data) // 100):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        try:
            read = parse_patients(path, slide_column="Slide", patient_column="Patient").table
        except InputError:
            continue
        # Of dates and attributes of the archive that are not looked at.
        assert read.equals(good), place
