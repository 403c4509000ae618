"""CSV files in every dialect that users write."""

from __future__ import annotations

import codecs
import csv
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slideduck.errors import InputError
from slideduck.files.tables import Table, parse_numbers, read_table
from tests.campaign import cases

NEEDS = "it needs the columns name, x (and may have label)"


def read(path: Path, content: str | bytes) -> Table:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_table(path, ("name", "x"), ("label",))


def refusal(path: Path, content: str | bytes) -> str:
    with pytest.raises(InputError) as caught:
        read(path, content)
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.csv"


def test_cells_rows_and_columns(path: Path) -> None:
    table = read(path, "name,x,other\na,1,p\nb,2,q\n")
    assert table.columns == ("name", "x", "other")
    assert table.cells == (["a", "b"], ["1", "2"], ["p", "q"])
    assert table.rows.tolist() == [2, 3]
    assert (table.delimiter, table.header_row, table.problems) == (",", 1, ())


cell = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], include_characters="\n,;\"' \t"),
    max_size=12,
).map(str.strip)
table_rows = st.lists(st.tuples(cell.filter(bool), cell, cell), min_size=1, max_size=8)


@settings(max_examples=cases(300, 6000), deadline=None)
@given(
    rows=table_rows,
    delimiter=st.sampled_from(",;\t"),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    order=st.permutations(["name", "x", "label"]),
    change_case=st.sampled_from([str.lower, str.upper, str.title]),
    padding=st.sampled_from(["", " ", "  "]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    blank_lines=st.integers(0, 3),
)
def test_every_dialect_gives_the_same_cells(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str, str]],
    delimiter: str,
    line_end: str,
    encoding: str,
    order: list[str],
    change_case: Callable[[str], str],
    padding: str,
    quoting: Literal[0, 1],
    blank_lines: int,
) -> None:
    if line_end == "\r":
        quoting = csv.QUOTE_ALL  # Python's writer sees no need to quote a line feed then
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=line_end, quoting=quoting)
    writer.writerow([padding + change_case(column) + padding for column in order])
    at = {column: number for number, column in enumerate(("name", "x", "label"))}
    lines = []
    for row in rows:
        lines.append(len(out.getvalue().replace("\r\n", "\n").replace("\r", "\n").split("\n")))
        writer.writerow([row[at[column]] for column in order])
    text = out.getvalue() + blank_lines * line_end
    file = tmp_path_factory.mktemp("dialect") / "t.csv"
    table = read(file, text.encode(encoding))
    assert table.problems == ()
    for column, number in at.items():
        assert table.text(column) == [row[number] for row in rows]
    assert table.rows.tolist() == lines


def test_blank_lines_and_rows_of_empty_cells_are_passed_over(path: Path) -> None:
    table = read(path, "\n \nname,x\n\na,1\n  ,\n,\nb,2\n\n\n")
    assert table.header_row == 3
    assert table.text("name") == ["a", "b"]
    assert table.rows.tolist() == [5, 8]
    assert table.problems == ()


def test_column_without_a_name_is_left_out(path: Path) -> None:
    """Pandas writes its index so."""
    table = read(path, ",name,x\n0,a,1\n1,b,2\n")
    assert table.columns == ("name", "x")
    assert table.text("name") == ["a", "b"]


def test_spaces_after_the_delimiter_do_not_hide_a_quote(path: Path) -> None:
    assert read(path, 'name, x\n"a, b", "1"\n').text("name") == ["a, b"]


def test_row_of_a_cell_with_a_line_end_is_its_first_line(path: Path) -> None:
    table = read(path, 'name,x\n"two\nlines",1\nb,2\n')
    assert table.text("name") == ["two\nlines", "b"]
    assert table.rows.tolist() == [2, 4]


def test_delimiter_is_the_one_that_finds_the_columns(path: Path) -> None:
    """A semicolon in one name must not make it a semicolon file."""
    assert read(path, "name,x,a;b;c;d\na,1,p\n").delimiter == ","
    assert read(path, "name;x;a,b,c,d\na;1;p\n").delimiter == ";"


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_decimal_comma_is_read_where_no_delimiter_is_a_comma(path: Path, delimiter: str) -> None:
    table = read(path, "name;x\na;1,5\nb;-0,25\nc;3\nd;2.5\ne;1.234,5\n".replace(";", delimiter))
    values, problems = table.numbers("x", "microns")
    assert values[:4].tolist() == [1.5, -0.25, 3.0, 2.5]
    assert problems == [(6, "t.csv:6: x is '1.234,5', not a number; write microns")]


def test_bad_numbers_are_reported_one_by_one(path: Path) -> None:
    texts = [
        "1",
        "O.25",
        "nan",
        "",
        "-Infinity",
        "1e999",
        "1_000",
        "0x10",
        "1 2",
        "١",
        " 7 ",
        "1" * 100 + "x",
    ]
    table = read(path, "name,x\n" + "".join(f"a,{text}\n" for text in texts))
    values, problems = table.numbers("x", "base pixels, such as 1024.5")
    write = "; write base pixels, such as 1024.5"
    assert [i for i, value in enumerate(values) if math.isfinite(value)] == [0, 10]
    assert [message for _, message in problems] == [
        f"t.csv:3: x is 'O.25', not a number{write}",
        f"t.csv:4: x is 'nan', not a finite number{write}",
        f"t.csv:5: x is empty{write}",
        f"t.csv:6: x is '-Infinity', not a finite number{write}",
        f"t.csv:7: x is '1e999', not a finite number{write}",
        f"t.csv:8: x is '1_000', not a number{write}",
        f"t.csv:9: x is '0x10', not a number{write}",
        f"t.csv:10: x is '1 2', not a number{write}",
        f"t.csv:11: x is '١', not a number{write}",
        f"t.csv:13: x is '{'1' * 59}..., not a number{write}",
    ]


@settings(max_examples=cases(300, 6000), deadline=None)
@given(st.lists(st.text("0123456789+-.eE_naif ", max_size=8), max_size=6))
def test_fast_and_slow_reading_of_numbers_agree(texts: list[str]) -> None:
    texts = [text.strip() for text in texts]
    values, bad = parse_numbers(texts)
    for i, text in enumerate(texts):
        alone, bad_alone = parse_numbers([text])
        strict, bad_strict = parse_numbers([text, "x"])
        assert (i in bad) == (bad_alone == [0]) == (0 in bad_strict)
        if i not in bad:
            assert values[i] == alone[0] == strict[0] == float(text)


@settings(max_examples=cases(100, 2000), deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_numbers_keep_every_bit(numbers: list[float]) -> None:
    values, bad = parse_numbers([repr(number) for number in numbers])
    assert bad == []
    assert values.tolist() == numbers


def test_rows_of_too_few_and_too_many_cells(path: Path) -> None:
    table = read(path, "name,x\na\nb,2\nc,3,4\n")
    remedy = "write every cell, empty ones too, and quote cells that hold the delimiter"
    assert table.text("name") == ["b"]
    assert table.problems == (
        (2, f"t.csv:2: 1 cell, but the header has 2; {remedy}"),
        (4, f"t.csv:4: 3 cells, but the header has 2; {remedy}"),
    )


def test_broken_quotes(path: Path) -> None:
    table = read(path, 'name,x\n"a"b,1\nc,2\n"d,3\ne,4\n')
    assert table.text("name") == ["c"]
    assert table.problems == (
        (2, 't.csv:2: characters after a closing quote; write a quote inside a quoted cell as ""'),
        (4, "t.csv:4: a quote opens here and never closes; close it, or take it away"),
    )
    assert refusal(path, '"name,x\na,1\n') == (
        "t.csv:1: a quote opens here and never closes; close it, or take it away"
    )


@pytest.mark.parametrize("content", ["", "\n", " \r\n", codecs.BOM_UTF8, codecs.BOM_UTF8 + b"\n,;\n"])
def test_empty_file(path: Path, content: str | bytes) -> None:
    assert refusal(path, content) in (
        "t.csv:1: the file is empty; save or export it again",
        f"t.csv:1: the file is empty; {NEEDS}",
    )


def test_header_without_rows(path: Path) -> None:
    assert refusal(path, "\nname,x\n\n,\n") == f"t.csv:2: a header and no rows; {NEEDS}"


def test_missing_column_lists_those_found(path: Path) -> None:
    assert refusal(path, "Name,y,,label\na,1,,\n") == (
        f"t.csv:1: no column 'x'; the columns are: Name, y, label; {NEEDS}"
    )
    assert refusal(path, "one|two\n1|2\n") == (
        f"t.csv:1: no column 'name' and no column 'x'; the columns are: one|two; {NEEDS}"
    )


def test_column_twice(path: Path) -> None:
    assert refusal(path, "name,x,NAME \na,1,b\n") == (
        "t.csv:1: column 'NAME' is there twice (columns 1 and 3); rename or remove one"
    )


def test_every_line_of_another_encoding_is_named(path: Path) -> None:
    content = codecs.BOM_UTF8 + b"name,x\r\n" + "é,1\r\nb,2\r\nü,3\r\n".encode("latin-1")
    assert refusal(path, content) == (
        "t.csv:2: byte 0xE9 is not UTF-8; save it as UTF-8\nt.csv:4: byte 0xFC is not UTF-8; save it as UTF-8"
    )


def test_files_that_are_not_text(path: Path) -> None:
    assert refusal(path, b"name,x\na,\x001\n") == ("t.csv:2: holds a NUL byte, so it is not text; save it as UTF-8")
    # UTF-16 without its mark
    assert refusal(path, "name,x\n".encode("utf-16-le")) == (
        "t.csv:1: holds a NUL byte, so it is not text; save it as UTF-8"
    )
    assert refusal(path, "name,x\na,1".encode("utf-16")[:-1]) == (
        "t.csv:1: not text (truncated data); save it as UTF-8"
    )
    assert refusal(path, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR") == (
        "t.csv:1: not text (invalid start byte); save it as UTF-8"
    )
    assert refusal(path, b"PK\x03\x04abc") == (
        "t.csv:1: not text, but a zip archive or an Excel workbook; unpack it, or save it as CSV in UTF-8"
    )
    assert refusal(path, b"\x1f\x8babc") == "t.csv:1: not text, but compressed with gzip; unpack it first"


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    for path, what in (
        (tmp_path / "none.csv", "no such file; check the path"),
        (tmp_path, "a folder, not a file; name the file"),
        (Path("x" * 300), "cannot be read: file name too long"),
    ):
        with pytest.raises(InputError) as caught:
            read_table(path, ("name",))
        assert str(caught.value) == f"{path}: {what}"


def test_long_lists_of_problems_are_cut_in_the_text_alone() -> None:
    error = InputError([f"t.csv:{row}: bad" for row in range(1, 1201)])
    assert len(error.problems) == 1200
    lines = str(error).split("\n")
    assert lines[:2] == ["t.csv:1: bad", "t.csv:2: bad"]
    assert lines[50:] == ["... and 1,150 more (1,200 problems in all)"]
