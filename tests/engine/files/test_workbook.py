"""Excel workbooks as tables of patients; two were written by openpyxl 3.1 and XlsxWriter 3.2, from the same rows."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from slideduck.catalog.patients import PatientTable, parse_patients
from slideduck.errors import InputError

WORKBOOKS = Path(__file__).parent / "workbooks"
NAMESPACE = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
STRICT = "http://purl.oclc.org/ooxml/spreadsheetml/main"


def write(path: Path, sheet: str, *, workbook: str = "", namespace: str = NAMESPACE, styles: str = "") -> Path:
    """Write a workbook of one sheet, whose cells hold their own text."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="{namespace}" xmlns:r="r">{workbook}'
            '<sheets><sheet name="a" r:id="x"/></sheets></workbook>',
        )
        archive.writestr(
            "xl/_rels/workbook.xml.rels", '<Relationships><Relationship Id="x" Target="/xl/one.xml"/></Relationships>'
        )
        archive.writestr("xl/one.xml", f'<worksheet xmlns="{namespace}">{sheet}</worksheet>')
        if styles:
            archive.writestr("xl/styles.xml", f'<styleSheet xmlns="{namespace}">{styles}</styleSheet>')
    return path


def row(*cells: str, number: int | None = None) -> str:
    r = f' r="{number}"' if number else ""
    return f"<row{r}>" + "".join(f'<c t="str"><v>{cell}</v></c>' for cell in cells) + "</row>"


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
    assert (read.format, read.rows.tolist(), read.missing) == ("xlsx", [2, 3, 4, 6], {"site": 1, "age": 1})
    assert read.table["age"].type == pa.float64()
    assert [tuple(r.values()) for r in read.table.to_pylist()] == [
        ("007", "P1", "A", 61.0, "2020-01-02", "high"),
        ("008", "12", None, None, None, "NA"),
        ("Zürich", "P 3", None, None, "2020-01-02 03:04:05", "low"),
        ("S1", None, "B", 50.5, None, "TRUE"),
    ]


def test_the_first_row_that_is_not_empty_is_the_header(tmp_path: Path) -> None:
    sheet = row("") + row("slide", "patient", "") + row("a", "p", "a note") + row("b", "q", number=9)
    read = parse_patients(write(tmp_path / "p.xlsx", sheet, namespace=STRICT))
    assert read.table.to_pylist() == [{"slide": "a", "patient": "p"}, {"slide": "b", "patient": "q"}]
    assert read.rows.tolist() == [3, 9]


def test_dates_of_workbooks_that_count_from_1904(tmp_path: Path) -> None:
    styles = (
        '<numFmts><numFmt numFmtId="170" formatCode="[Red]0.00&quot;days&quot;"/></numFmts><cellXfs>'
        '<xf numFmtId="0"/><xf numFmtId="14"/><xf numFmtId="20"/><xf numFmtId="170"/></cellXfs>'
    )
    cells = '<c s="1"><v>42370</v></c><c s="2"><v>0.75</v></c><c s="3"><v>2.5</v></c><c><v>1E+3</v></c>'
    sheet = row("slide", "patient", "day", "time", "n", "m") + row("a", "p").replace("</row>", f"{cells}</row>")
    path = write(tmp_path / "p.xlsx", sheet, styles=styles, workbook='<workbookPr date1904="1"/>')
    assert parse_patients(path).table.to_pylist() == [
        {"slide": "a", "patient": "p", "day": "2020-01-02", "time": "18:00:00", "n": 2.5, "m": 1000}
    ]


def test_workbooks_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "p.xlsx"
    error = row("a", "p").replace("</row>", '<c r="C2" t="e"><v>#N/A</v></c></row>')
    merged = '<mergeCells><mergeCell ref="B2:B3"/><mergeCell ref="A9:C9"/></mergeCells>'
    write(path, row("slide", "patient", "age") + error + row("b") + merged)
    assert problems(path) == [
        "p.xlsx: cells B2:B3 are merged; unmerge them, and write every cell",
        "p.xlsx:2: cell C2 is the error #N/A; write its value",
    ]
    write(path, row("Slide", "case") + row("a", "p"))
    assert problems(path)[0].startswith("p.xlsx:1: no column 'patient'; the columns are: Slide, case; ")
    write(path, row("slide", "patient", "Slide") + row("a", "p", "b"))
    assert problems(path) == ["p.xlsx:1: column 'Slide' is there twice (columns 1 and 3); rename or remove one"]
    write(path, row("slide", "patient"))
    assert problems(path) == ["p.xlsx: the first sheet has a header and no rows; put the sheet with the table first"]
    write(path, "")
    assert problems(path) == ["p.xlsx: the first sheet has no rows; put the sheet with the table first"]
    write(path, "<row>")
    assert problems(path)[0].startswith("p.xlsx: broken Excel workbook (mismatched tag")
    data = (WORKBOOKS / "openpyxl.xlsx").read_bytes()
    path.write_bytes(data[:-40])
    assert problems(path) == [
        "p.xlsx:1: not text, but a zip archive or an Excel workbook; unpack it, or save it as CSV in UTF-8"
    ]


def test_damaged_bytes_are_an_error_and_nothing_else(tmp_path: Path) -> None:
    """Each of two hundred places of the archive, spread over all of it."""
    data = (WORKBOOKS / "xlsxwriter.xlsx").read_bytes()
    path = tmp_path / "p.xlsx"
    good = parse_patients(WORKBOOKS / "xlsxwriter.xlsx", slide_column="Slide", patient_column="Patient").table
    for place in range(0, len(data), len(data) // 200):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        try:
            read = parse_patients(path, slide_column="Slide", patient_column="Patient").table
        except InputError:
            continue
        # Of parts, dates and names that are not looked at.
        assert read.equals(good), place
