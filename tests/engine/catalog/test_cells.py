"""Values of the patients' table as names and as JSON: no two become one, whatever their column's type."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import slideduck as sd
from slideduck.catalog.cells import named_in_sql, plain
from slideduck.errors import SplitError
from slideduck.names import name_of
from tests.campaign import cases
from tests.patient_study import SLIDES, write_study

#: Codes of SNOMED CT, of which two differ in the ninth digit.
CODES = (413448000, 413448001)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sd.Study]:
    with sd.open(write_study(tmp_path_factory.mktemp("cells"))) as study:
        yield study


class _Undone(Exception):
    """Ends a transaction of which nothing is to stay."""


@pytest.fixture
def study(opened: sd.Study) -> Iterator[sd.Study]:
    """The study, in which nothing stays that a test does."""
    with suppress(_Undone), opened.atomic():
        yield opened
        raise _Undone


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (413448000, "413448000"),
        (413448000.0, "413448000"),
        ("413448000", "413448000"),
        (1e18, "1000000000000000000"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (1234567.891, "1234567.891"),
        (1e-7, "1e-07"),
        (1e300, "1e+300"),
        (True, "true"),
        ("1.0", "1.0"),
        ("007", "007"),
        ("Rene\u0301", "Ren\u00e9"),
    ],
)
def test_a_value_has_one_name(value: object, name: str) -> None:
    assert name_of(value) == name


@settings(max_examples=cases(30, 2000), deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20, unique=True))
def test_numbers_have_names_of_their_own_and_sql_gives_whole_ones_the_same(values: list[float]) -> None:
    values = [value for value in values if value or str(value) == "0.0"]
    names = [name_of(value) for value in values]
    assert len(set(names)) == len(values)
    assert [float(name) for name in names] == values
    con = duckdb.connect()
    con.register("numbers", pa.table({"n": pa.array(values, pa.float64())}))
    in_sql = [name for (name,) in con.execute(f"SELECT {named_in_sql('n', 'DOUBLE')} FROM numbers").fetchall()]
    assert [float(name) for name in in_sql] == values
    whole = [(name, other) for name, other in zip(names, in_sql, strict=True) if name.lstrip("-").isdigit()]
    assert all(name == other for name, other in whole)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (pa.array([0.1, None], pa.float32()), [0.1, None]),
        (pa.array([0.1, float("nan"), float("inf")]), [0.1, None, None]),
        (pa.array([Decimal("413448000.00"), None]), [413448000, None]),
        (pa.array([Decimal("0.10"), Decimal("2.00")]), [0.1, 2.0]),
        (pa.array([Decimal("12345678901234567890.1"), Decimal("12345678901234567890.2")]),
         ["12345678901234567890.1", "12345678901234567890.2"]),
        (pa.array([2**53, 2**53 + 1]), [2**53, 2**53 + 1]),
        (pa.array([2**64 - 1, 2**64 - 2], pa.uint64()), ["18446744073709551615", "18446744073709551614"]),
        (pa.array([True, None]), [True, None]),
        (pa.array([datetime.date(2020, 1, 2)]), ["2020-01-02"]),
        (pa.array([datetime.datetime(2020, 1, 2, 3)]), ["2020-01-02T03:00:00"]),
        (pa.array(["a", None]), ["a", None]),
    ],
)  # fmt: skip
def test_values_of_a_side_car_are_those_of_the_table(column: pa.Array, values: list[object]) -> None:
    assert plain(pa.chunked_array([column])) == values


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        (pa.array([413448000.0]), pa.array(["M1"]), ["413448000", "M1"]),
        (pa.array(["M1"]), pa.array([413448000.0]), ["M1", "413448000"]),
        (pa.array([2**53 + 1]), pa.array([1.0]), [2**53 + 1, 1]),
        (pa.array([2**53 + 1]), pa.array([1.5]), ["9007199254740993", "1.5"]),
        (pa.array([1.5]), pa.array([2**53 + 1]), ["1.5", "9007199254740993"]),
        (pa.array([1]), pa.array([1.5]), [1.0, 1.5]),
        (pa.array([Decimal("1.50")]), pa.array(["x"]), ["1.5", "x"]),
    ],
)  # fmt: skip
def test_a_second_table_of_another_type_leaves_values_what_they_are(
    study: sd.Study, tmp_path: Path, first: pa.Array, second: pa.Array, kept: list[object]
) -> None:
    for name, slide, code in (("a.parquet", "S0", first), ("b.parquet", "S1", second)):
        pq.write_table(pa.table({"slide": [slide], "patient": [slide], "code": code}), tmp_path / name)
        study.add_patients(tmp_path / name)
    rows = study.con.execute("SELECT code FROM patients ORDER BY slide").fetchall()
    assert [code for (code,) in rows] == kept


@pytest.mark.parametrize("sides", [pa.array([1.0] * 6 + [2.0]), pa.array([1] * 6 + [2]), pa.array(["1"] * 6 + ["2"])])
def test_sides_have_the_names_of_their_values(study: sd.Study, tmp_path: Path, sides: pa.Array) -> None:
    names = list(SLIDES)
    pq.write_table(pa.table({"slide": names, "patient": [*names[:5], "x", "x"], "side": sides}), tmp_path / "p.parquet")
    study.add_patients(tmp_path / "p.parquet")
    with pytest.raises(SplitError) as error:
        study.split(column="side")
    assert str(error.value) == (
        "patient 'x' is on the sides '1' and '2' of column 'side'; give all slides of a patient one side"
    )
