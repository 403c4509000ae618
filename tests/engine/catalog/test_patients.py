"""Tables of patients, as CSV and as Parquet."""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slideduck.catalog.patients import PatientTable, parse_patients
from slideduck.errors import InputError
from tests.campaign import cases

NEEDS = (
    "a table of patients has a row for each slide, with the columns slide and patient: rename its columns, or say "
    "which they are, by "
)


def parse(folder: Path, name: str, content: str | bytes | pa.Table) -> PatientTable:
    path = folder / name
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return parse_patients(path)


def problems(folder: Path, name: str, content: str | bytes | pa.Table) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse(folder, name, content)
    return list(caught.value.problems)


def column(folder: Path, cells: list[str], delimiter: str = ",") -> pa.ChunkedArray:
    """The column that cells of a CSV become."""
    rows = "".join(f's{i}{delimiter}p{delimiter}"{cell}"\n' for i, cell in enumerate(cells))
    return parse(folder, "p.csv", f"slide{delimiter}patient{delimiter}v\n{rows}").table["v"]


def test_slide_patient_and_site_come_first_and_are_text(tmp_path: Path) -> None:
    content = "Stage,PATIENT, Site ,slide,Notes\n2,007,,1,a\n\n3,0042, C ,2, \n"
    read = parse(tmp_path, "p.csv", content)
    assert read.format == "csv"
    assert read.path == tmp_path / "p.csv"
    assert read.table.schema == pa.schema(
        [
            ("slide", pa.string()),
            ("patient", pa.string()),
            ("site", pa.string()),
            ("Stage", pa.int64()),
            ("Notes", pa.string()),
        ]
    )
    assert read.table.to_pylist() == [
        {"slide": "1", "patient": "007", "site": None, "Stage": 2, "Notes": "a"},
        {"slide": "2", "patient": "0042", "site": "C", "Stage": 3, "Notes": None},
    ]
    assert read.rows.tolist() == [2, 4]


@pytest.mark.parametrize(
    ("cells", "kind", "values"),
    [
        (["1", "-20", "", "0"], pa.int64(), [1, -20, None, 0]),
        (["9223372036854775807", "-9223372036854775808"], pa.int64(), [2**63 - 1, -(2**63)]),
        (["1", "2.50", "", "-.5", "1e-05"], pa.float64(), [1.0, 2.5, None, -0.5, 1e-5]),
        (["007", "8"], pa.string(), None),
        (["00.5", "1"], pa.string(), None),
        (["+1", "2"], pa.string(), None),
        (["12E5", "13"], pa.string(), None),
        (["9223372036854775808", "1"], pa.string(), None),
        (["1" * 30], pa.string(), None),
        (["1234567890123456789.5"], pa.string(), None),
        (["1e+999"], pa.string(), None),
        (["nan"], pa.string(), [None]),
        (["1", "NA", "nan"], pa.int64(), [1, None, None]),
        (["1.5", "None", "N/A"], pa.float64(), [1.5, None, None]),
        (["high", "NA", "n/a", "NaN", "none", "NULL", "<NA>"], pa.string(), ["high"] + 6 * [None]),
        (["Rene\u0301"], pa.string(), ["Ren\u00e9"]),
        (["inf"], pa.string(), None),
        (["1_0"], pa.string(), None),
        (["1", "two"], pa.string(), None),
        (["1,5"], pa.string(), None),
        (["-"], pa.string(), None),
        (["."], pa.string(), None),
        (["e+5"], pa.string(), None),
        (["", ""], pa.string(), [None, None]),
    ],
)
def test_further_columns_have_the_type_that_keeps_them(
    tmp_path: Path, cells: list[str], kind: pa.DataType, values: list[Any] | None
) -> None:
    read = column(tmp_path, cells)
    assert read.type == kind
    assert read.to_pylist() == (values if values is not None else cells)


def test_decimal_comma_where_the_delimiter_is_a_semicolon(tmp_path: Path) -> None:
    assert column(tmp_path, ["1,5", "2"], ";").to_pylist() == [1.5, 2.0]
    assert column(tmp_path, ["1,5", "2,"], ";").to_pylist() == ["1,5", "2,"]


@settings(max_examples=cases(100, 2000), deadline=None)
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6)
    | st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=6)
)
def test_numbers_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, values: list[int] | list[float]
) -> None:
    """Of floats, those that repr writes with fifteen digits or fewer before the point."""
    values = [value for value in values if isinstance(value, int) or abs(value) < 1e15] or [0]
    read = column(tmp_path_factory.mktemp("p"), [repr(value) for value in values])
    assert read.to_pylist() == values


def test_every_bad_row_is_reported(tmp_path: Path) -> None:
    content = "slide,patient,site\na,p1,x\n,p2,x\nb, ,x\na,p1,x\nc\n\nb,p3,x\n"
    assert problems(tmp_path, "p.csv", content) == [
        "p.csv:5: slide 'a' is there already (row 2); keep one row for each slide",
        "p.csv:6: 1 cell, but the header has 3; write every cell, empty ones too, "
        "and quote cells that hold the delimiter",
        "p.csv:8: slide 'b' is there already (row 4); keep one row for each slide",
    ]


def test_rows_without_a_slide_are_left_out_and_counted(tmp_path: Path) -> None:
    content = "slide,patient,site,age,grade\na,p1,NA,61,NA\nNA,p2,x,70,b\n,total,,,\nb,nan,,NA,c\nc, ,None,n/a,\n"
    read = parse(tmp_path, "p.csv", content)
    assert read.table.to_pylist() == [
        {"slide": "a", "patient": "p1", "site": None, "age": 61, "grade": None},
        {"slide": "b", "patient": None, "site": None, "age": None, "grade": "c"},
        {"slide": "c", "patient": None, "site": None, "age": None, "grade": None},
    ]
    assert (read.left_out, read.missing, read.rows.tolist()) == (2, {"site": 2, "age": 2, "grade": 1}, [2, 5, 6])
    assert problems(tmp_path, "p.csv", "slide,patient\nNA,p\n,q\n") == [
        "p.csv: no row names a slide; write a row for each slide"
    ]


def test_names_are_text_from_every_kind_of_file(tmp_path: Path) -> None:
    """pandas makes doubles of integers beside a NaN; names are kept in NFC."""
    frame = pd.DataFrame({"slide": [7, 8, 9], "patient": [1, None, 3], "site": ["Zu\u0308rich", "NaN", None]})
    assert frame["patient"].dtype == float
    frame.to_parquet(tmp_path / "p.parquet")
    frame.to_csv(tmp_path / "p.csv", index=False, float_format="%d")
    wanted = [
        {"slide": "7", "patient": "1", "site": "Z\u00fcrich"},
        {"slide": "8", "patient": None, "site": None},
        {"slide": "9", "patient": "3", "site": None},
    ]
    for name in ("p.parquet", "p.csv"):
        read = parse_patients(tmp_path / name)
        assert read.table.to_pylist() == wanted, name
        assert read.missing == {"site": 1}, name


def test_columns_under_other_names(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("Slide ID,Case,Center,age\na.svs,007,X,61\nb.svs,8,,62\nc,8,,63\n")
    with pytest.raises(InputError) as caught:
        parse_patients(path)
    assert caught.value.problems == (
        "p.csv:1: no column 'slide' and no column 'patient'; the columns are: Slide ID, Case, Center, age; "
        f"{NEEDS}`slide_column='Slide ID'` and `patient_column='Case'`",
    )
    named = {"slide_column": "Slide ID", "patient_column": "Case", "site_column": "center"}
    read = parse_patients(path, slide_suffix=".svs", **named)
    assert read.table.to_pylist() == [
        {"slide": "a", "patient": "007", "site": "X", "age": 61},
        {"slide": "b", "patient": "8", "site": None, "age": 62},
        {"slide": "c", "patient": "8", "site": None, "age": 63},
    ]
    with pytest.raises(InputError) as caught:
        parse_patients(path, slide_suffix=".tif", **named)
    assert caught.value.problems == (
        "p.csv: no slide name ends with '.tif', such as 'a.svs'; leave `slide_suffix` out, or correct it",
    )
    with pytest.raises(InputError) as caught:
        parse_patients(path, **{**named, "site_column": "Hospital"})
    assert caught.value.problems == (
        f"p.csv:1: no column 'Hospital'; the columns are: Slide ID, Case, Center, age; {NEEDS}`site_column='Center'`",
    )
    path.write_text("slide,image,patient\n1,a,p\n")
    with pytest.raises(InputError) as caught:
        parse_patients(path, slide_column="image")
    assert caught.value.problems == (
        "p.csv: column 'slide' is there beside 'image', which is kept under that name; rename it",
    )


def test_missing_and_repeated_columns(tmp_path: Path) -> None:
    assert problems(tmp_path, "p.csv", "slide,Patient ID\na,1\n") == [
        f"p.csv:1: no column 'patient'; the columns are: slide, Patient ID; {NEEDS}`patient_column='Patient ID'`"
    ]
    assert problems(tmp_path, "p.csv", "slide,patient,age,AGE\na,1,2,3\n") == [
        "p.csv:1: column 'AGE' is there twice (columns 3 and 4); rename or remove one"
    ]
    assert problems(tmp_path, "p.csv", "slide,patient\n") == [
        "p.csv:1: a header and no rows; it needs the columns slide, patient (and may have site)"
    ]


def test_file_that_is_neither(tmp_path: Path) -> None:
    assert problems(tmp_path, "p.xlsx", b"PK\x03\x04\x14\0") == [
        "p.xlsx:1: not text, but a zip archive or an Excel workbook; unpack it, or save it as CSV in UTF-8"
    ]
    assert problems(tmp_path, "p.md", "# Patients\nThere are many.\n") == [
        f"p.md:1: no column 'slide' and no column 'patient'; the columns are: # Patients; {NEEDS}"
        "`slide_column` and `patient_column='# Patients'`"
    ]
    assert problems(tmp_path, "p.csv", b"SQLite format 3\0\x10\0\1") == [
        "p.csv:1: holds a NUL byte, so it is not text; save it as UTF-8"
    ]
    assert problems(tmp_path, "p.csv", "") == ["p.csv:1: the file is empty; save or export it again"]


def test_parquet_keeps_types_and_order(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "age": [61.5, math.nan],
            "Patient": pd.Categorical(["007", " 8 "]),
            "SITE": [None, " "],
            "slide": [12, 7],
            "day": pd.to_datetime(["2020-01-01", "2021-01-01"]),
            "grade": pd.Categorical(["high", "low"]),
        },
        index=["x", "y"],
    )
    # A name of a folder must not become a column.
    folder = tmp_path / "cohort=b"
    folder.mkdir()
    frame.to_parquet(folder / "p.pq")
    read = parse_patients(folder / "p.pq")
    assert read.format == "parquet"
    assert read.table.column_names == ["slide", "patient", "site", "age", "day", "grade"]
    assert read.table.select(["slide", "patient", "site"]).to_pylist() == [
        {"slide": "12", "patient": "007", "site": None},
        {"slide": "7", "patient": "8", "site": None},
    ]
    assert read.table["age"].type == pa.float64()
    assert pa.types.is_timestamp(read.table["day"].type)
    assert read.table["grade"].to_pylist() == ["high", "low"]
    assert not pa.types.is_dictionary(read.table["grade"].type)
    assert read.rows.tolist() == [1, 2]


def test_csv_and_parquet_of_one_frame_are_one_table(tmp_path: Path) -> None:
    frame = pd.DataFrame({"slide": ["a", "b"], "patient": ["1", "x"], "n": [1, 2], "r": [0.5, 2.0]})
    frame.to_csv(tmp_path / "p.csv")
    frame.to_parquet(tmp_path / "p.parquet")
    from_csv, from_parquet = parse_patients(tmp_path / "p.csv"), parse_patients(tmp_path / "p.parquet")
    assert from_csv.table.to_pylist() == from_parquet.table.to_pylist()
    assert from_csv.table.schema.types == from_parquet.table.select(from_csv.table.column_names).schema.types


def test_missing_cells_of_parquet_are_null_and_counted(tmp_path: Path) -> None:
    table = {
        "slide": ["a", "b", "c"],
        "patient": ["p", "q", "r"],
        "grade": ["NA", None, "high"],
        "age": [61.0, math.nan, None],
        "kind": pa.array(["None", "x", "x"]).dictionary_encode(),
        "day": [None, None, None],
    }
    read = parse(tmp_path, "p.parquet", pa.table(table))
    assert read.table.select(["grade", "age", "kind"]).to_pydict() == {
        "grade": [None, None, "high"], "age": [61.0, None, None], "kind": [None, "x", "x"],
    }  # fmt: skip
    assert read.missing == {"grade": 1, "age": 1, "kind": 1}


def test_every_bad_row_of_parquet_is_reported(tmp_path: Path) -> None:
    table = pa.table({"slide": ["a", None, "a"], "patient": ["", "p", "q"]})
    assert problems(tmp_path, "p.parquet", table) == [
        "p.parquet:3: slide 'a' is there already (row 1); keep one row for each slide",
    ]


def test_parquet_that_cannot_be_used(tmp_path: Path) -> None:
    good = pa.table({"slide": ["a"], "patient": ["p"]})
    assert problems(tmp_path, "p.parquet", good.drop(["patient"])) == [
        f"p.parquet: no column 'patient'; the columns are: slide; {NEEDS}`patient_column`"
    ]
    assert problems(tmp_path, "p.parquet", good.append_column("Slide", [["b"]])) == [
        "p.parquet: column 'Slide' is there twice (columns 1 and 3); rename or remove one"
    ]
    assert problems(tmp_path, "p.parquet", good.slice(0, 0)) == [
        "p.parquet: columns and no rows; write a row for each slide"
    ]
    assert problems(tmp_path, "p.parquet", pa.table({"slide": ["a"], "patient": [7.5]})) == [
        "p.parquet: column 'patient' is double with 7.5, not text; store names as text"
    ]
    whole = parse(tmp_path, "p.parquet", pa.table({"slide": ["a"], "patient": [Decimal("413448000.00")]}))
    assert whole.table["patient"].to_pylist() == ["413448000"]
    assert problems(tmp_path, "p.parquet", pa.table({"slide": ["a"], "patient": [True]})) == [
        "p.parquet: column 'patient' is bool, not text; store names as text"
    ]
    parse(tmp_path, "p.parquet", good)
    (problem,) = problems(tmp_path, "p.parquet", (tmp_path / "p.parquet").read_bytes()[:-20])
    assert problem.startswith("p.parquet: broken Parquet: ")
    assert problem.endswith("; write it again")
