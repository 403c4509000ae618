"""Tables of patients, as CSV and as Parquet."""

from __future__ import annotations

import math
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

NEEDS = "it needs the columns slide, patient (and may have site)"


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
        (["nan"], pa.string(), None),
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
        "p.csv:3: slide is empty; write the slide's name",
        "p.csv:4: patient is empty; write the patient's name",
        "p.csv:5: slide 'a' is there already (row 2); keep one row for each slide",
        "p.csv:6: 1 cell, but the header has 3; write every cell, empty ones too, "
        "and quote cells that hold the delimiter",
        "p.csv:8: slide 'b' is there already (row 4); keep one row for each slide",
    ]


def test_missing_and_repeated_columns(tmp_path: Path) -> None:
    assert problems(tmp_path, "p.csv", "slide,Patient ID\na,1\n") == [
        f"p.csv:1: no column 'patient'; the columns are: slide, Patient ID; {NEEDS}"
    ]
    assert problems(tmp_path, "p.csv", "slide,patient,age,AGE\na,1,2,3\n") == [
        "p.csv:1: column 'AGE' is there twice (columns 3 and 4); rename or remove one"
    ]
    assert problems(tmp_path, "p.csv", "slide,patient\n") == [f"p.csv:1: a header and no rows; {NEEDS}"]


def test_file_that_is_neither(tmp_path: Path) -> None:
    assert problems(tmp_path, "p.xlsx", b"PK\x03\x04\x14\0") == [
        "p.xlsx:1: not text, but a zip archive or an Excel workbook; unpack it, or save it as CSV in UTF-8"
    ]
    assert problems(tmp_path, "p.md", "# Patients\nThere are many.\n") == [
        f"p.md:1: no column 'slide' and no column 'patient'; the columns are: # Patients; {NEEDS}"
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


def test_every_bad_row_of_parquet_is_reported(tmp_path: Path) -> None:
    table = pa.table({"slide": ["a", None, "a"], "patient": ["", "p", "q"]})
    assert problems(tmp_path, "p.parquet", table) == [
        "p.parquet:1: patient is empty; write the patient's name",
        "p.parquet:2: slide is empty; write the slide's name",
        "p.parquet:3: slide 'a' is there already (row 1); keep one row for each slide",
    ]


def test_parquet_that_cannot_be_used(tmp_path: Path) -> None:
    good = pa.table({"slide": ["a"], "patient": ["p"]})
    assert problems(tmp_path, "p.parquet", good.drop(["patient"])) == [
        f"p.parquet: no column 'patient'; the columns are: slide; {NEEDS}"
    ]
    assert problems(tmp_path, "p.parquet", good.append_column("Slide", [["b"]])) == [
        "p.parquet: column 'Slide' is there twice (columns 1 and 3); rename or remove one"
    ]
    assert problems(tmp_path, "p.parquet", good.slice(0, 0)) == [
        "p.parquet: columns and no rows; write a row for each slide"
    ]
    assert problems(tmp_path, "p.parquet", pa.table({"slide": ["a"], "patient": [7.0]})) == [
        "p.parquet: column 'patient' is double, not text; store names as text"
    ]
    parse(tmp_path, "p.parquet", good)
    (problem,) = problems(tmp_path, "p.parquet", (tmp_path / "p.parquet").read_bytes()[:-20])
    assert problem.startswith("p.parquet: broken Parquet: ")
    assert problem.endswith("; write it again")
