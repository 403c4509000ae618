"""`slideduck.betons`: betons that FFCV's Loader reads, and files that it must never see."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ffcv.fields import FloatField
from ffcv.reader import Reader
from ffcv.writer import DatasetWriter
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from slideduck.betons import BetonWriter, check_beton, decode_jpeg, encode_jpeg
from slideduck.betons.format import ALLOCATION, FIELD, HEADER, SAMPLE
from slideduck.errors import BetonError
from tests.campaign import cases
from tests.small_betons import (
    AGAIN,
    edit,
    load,
    make_image,
    make_samples,
    set_at,
    whole_beton,
    write_beton,
)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("os_cache", [True, False])
@pytest.mark.parametrize("mode", ["jpg", "raw"])
def test_stock_loader_reads_pixels_labels_and_rows(tmp_path: Path, mode: str, os_cache: bool) -> None:
    samples = make_samples(50, raw=mode == "raw")
    path = tmp_path / "tiles.beton"
    write_beton(path, samples, mode=mode, page_size=1 << 15)
    images, labels, rows = load(path, os_cache=os_cache)
    assert rows == list(range(50))
    assert labels == [row % 4 - 1 for row in range(50)]
    expected = [make_image(row) if mode == "raw" else decode_jpeg(samples[row]) for row in range(50)]
    np.testing.assert_array_equal(images, expected)


@pytest.fixture
def beton(tmp_path: Path) -> Path:
    path = tmp_path / "tiles.beton"
    path.write_bytes(whole_beton())
    return path


def refusal(path: Path) -> str:
    with pytest.raises(BetonError) as caught:
        check_beton(path)
    return str(caught.value)


def test_beton_that_was_cut_at_any_byte(tmp_path: Path) -> None:
    path = tmp_path / "cut.beton"
    path.write_bytes(whole_beton())
    whole = whole_beton()
    n = len(whole)
    for length in [*range(n - 1, n - 4000, -1), *range(n - 4000, 4000, -97), *range(4000, -1, -1)]:
        os.truncate(path, length)
        message = refusal(path)
        if length < HEADER.itemsize:
            assert message == (
                f"{path} is cut short: it has {length} bytes, and the header of a beton alone 24; {AGAIN}"
            )
        else:
            assert message == f"{path} is cut short: it has {length:,} of {n:,} bytes; {AGAIN}"


def test_beton_with_something_behind_it(beton: Path) -> None:
    with beton.open("ab") as file:
        file.write(b"abc")
    assert refusal(beton) == f"{beton} has 3 bytes after its end; {AGAIN}"


def test_no_beton(tmp_path: Path) -> None:
    path = tmp_path / "tiles.beton"
    message = f"no beton at {path}; make it with: slideduck export STUDY {path}"
    assert refusal(path) == message
    path.mkdir()
    assert refusal(path) == message


@given(st.binary(max_size=5000))
@example(b"")
@example(bytes(5000))
@example(b"\xff" * 5000)
@example(b"\x89PNG\r\n\x1a\n" + bytes(100))
@settings(max_examples=cases(100, 2000), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "garbage.beton"
    path.write_bytes(content)
    assert str(path) in refusal(path)


@given(header=st.lists(st.integers(0, 2**63 - 1) | st.integers(0, 70_000), min_size=5, max_size=5))
@settings(max_examples=cases(200, 4000), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_header_with_any_numbers(tmp_path: Path, header: list[int]) -> None:
    path = tmp_path / "header.beton"
    numbers = (2, 3, header[0] & 0xFFFFFFFF, header[1], header[2])
    path.write_bytes(np.array([numbers], HEADER).tobytes() + whole_beton()[HEADER.itemsize :])
    assert str(path) in refusal(path)


def test_wrong_version(beton: Path) -> None:
    set_at(beton, 0, b"\x03\x00")
    assert refusal(beton) == (
        f"{beton} is not a beton of FFCV's version 2: its first bytes say version 3; "
        "give a file that slideduck export made"
    )


def test_file_of_a_writer_that_was_killed(beton: Path) -> None:
    set_at(beton, 16, bytes(8))
    assert refusal(beton) == (
        f"{beton} was not finished: what wrote it was stopped before the end; make it again with: slideduck export"
    )


class Numbers:
    def __len__(self) -> int:
        return 3

    def __getitem__(self, row: int) -> tuple[float, ...]:
        return (float(row),) * 3


def test_ffcv_file_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "other.beton"
    fields = {"image": FloatField(), "label": FloatField(), "extra": FloatField()}
    DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(Numbers())
    # No field of it has pages, so that only the fields need to be looked at.
    assert str(path) in refusal(path)
    content = bytearray(path.read_bytes())
    two = tmp_path / "two.beton"
    content[2] = 2
    two.write_bytes(content)
    assert refusal(two) == (
        f"{two} has 2 fields, and a beton of tiles has image, label, row; give a file that slideduck export made"
    )


def test_field_of_another_name(beton: Path) -> None:
    set_at(beton, HEADER.itemsize + 2 * FIELD.itemsize + 1, b"index")
    assert refusal(beton) == (
        f"{beton} has the fields image (type 2), label (type 1), index (type 1), and a beton of tiles has "
        "image, label, row; give a file that slideduck export made"
    )


METADATA = (SAMPLE, HEADER.itemsize + 3 * FIELD.itemsize)


@pytest.mark.parametrize(
    ("table", "row", "name", "value", "message"),
    [
        ("metadata", 7, "row", 8, "row 7 has another row number"),
        ("metadata", 7, "label", -2, "row 7 has a class number below -1"),
        ("metadata", 7, "data_ptr", 5000, "row 7 has another address in each table"),
        ("metadata", 7, "mode", 1, "row 7 has another mode than row 0, which FFCV cannot read"),
        ("metadata", 7, "width", 25, "row 7 has another width than row 0, which FFCV cannot read"),
        ("metadata", 7, "height", 0, "row 7 has another height than row 0, which FFCV cannot read"),
        ("allocations", 7, "sample_id", 2**63, "row 7 is not where the allocation table has it"),
        ("allocations", 7, "ptr", 2**64 - 1, "row 7 has another address in each table"),
        ("allocations", 7, "size", 0, "row 7 does not fit into a page"),
        ("allocations", 7, "size", 2**64 - 1, "row 7 does not fit into a page"),
        ("allocations", 2, "size", 4000, "row 2 crosses the end of a page"),
        ("allocations", 118, "size", 4096, "row 118 crosses the end of a page"),
        ("allocations", 0, "size", 2000, "row 1 overlaps the row before it"),
        ("allocations", 0, "size", 5, "row 0 does not end as a JPEG"),
    ],
)
def test_table_with_a_wrong_number(beton: Path, table: str, row: int, name: str, value: int, message: str) -> None:
    kind, offset = METADATA if table == "metadata" else (ALLOCATION, beton.stat().st_size - 120 * ALLOCATION.itemsize)
    edit(beton, kind, offset, row, name, value)
    assert refusal(beton) == f"{beton} is damaged: {message}; {AGAIN}"


@pytest.mark.parametrize("value", [0, 4096, 10**9, 2**64 - 1])
def test_address_outside_of_the_pages(beton: Path, value: int) -> None:
    edit(beton, *METADATA, 7, "data_ptr", value)
    edit(beton, ALLOCATION, beton.stat().st_size - 120 * ALLOCATION.itemsize, 7, "ptr", value)
    assert refusal(beton) == f"{beton} is damaged: row 7 is outside of the pages; {AGAIN}"


def test_all_images_of_an_impossible_kind(beton: Path) -> None:
    for row in range(120):
        edit(beton, *METADATA, row, "mode", 5)
    assert refusal(beton) == f"{beton} is damaged: its images have mode 5 and 24 × 24 px; {AGAIN}"


@pytest.mark.parametrize(
    ("at", "data", "message"),
    [
        (0, b"\x00", "row 9 does not begin as a JPEG"),
        (-1, b"\x00", "row 9 does not end as a JPEG"),
        (159, b"\xc4", "row 9 has no frame header"),
        (158 + 6, b"\x10", "the JPEG of row 9 is 24 × 16 px, and its entry says 24 × 24"),
        (158 + 7, b"\x10", "the JPEG of row 9 is 4120 × 24 px, and its entry says 24 × 24"),
    ],
)
def test_jpeg_that_is_none(beton: Path, at: int, data: bytes, message: str) -> None:
    _, ptr, size = Reader(beton).alloc_table[9].tolist()
    set_at(beton, ptr + at % size, data)
    assert refusal(beton) == f"{beton} is damaged: {message}; {AGAIN}"


def test_jpegs_of_several_encoders(tmp_path: Path) -> None:
    """A comment moves the frame header, which is then looked for in that tile alone."""
    samples = make_samples(6)
    samples[3] = samples[3][:2] + b"\xff\xfe\x00\x07hello" + samples[3][2:]
    write_beton(tmp_path / "tiles.beton", samples)
    samples = [samples[3], *samples[:3]]
    write_beton(tmp_path / "first.beton", samples)


def test_raw_images_of_another_size(tmp_path: Path) -> None:
    path = tmp_path / "tiles.beton"
    write_beton(path, make_samples(4, raw=True), mode="raw")
    for row in range(4):
        edit(path, *METADATA, row, "width", 23)
    assert refusal(path) == f"{path} is damaged: row 0 has not the bytes of 23 × 24 px; {AGAIN}"


def test_pages_that_are_no_power_of_two(beton: Path) -> None:
    set_at(beton, 4, (4097).to_bytes(4, "little"))
    assert refusal(beton) == f"{beton} is damaged: it has pages of 4,097 bytes, no power of two; {AGAIN}"


def test_number_of_samples_that_does_not_fit(beton: Path) -> None:
    end = beton.stat().st_size - 120 * ALLOCATION.itemsize
    set_at(beton, 8, (2**40).to_bytes(8, "little"))
    assert refusal(beton) == (
        f"{beton} is damaged: 1,099,511,627,776 tiles in pages of 4,096 bytes do not end at byte {end:,}; {AGAIN}"
    )


def test_a_hundred_thousand_tiles_are_checked_without_a_step_of_python_for_each(tmp_path: Path) -> None:
    path = tmp_path / "many.beton"
    jpeg = encode_jpeg(make_image(0, 8), 50)
    with BetonWriter(path, samples=100_000) as writer:
        for row in range(100_000):
            writer.write(jpeg, 8, 8, label=row % 3)
        writer.finish()
        writer.publish()
    calls: Counter[str] = Counter()
    sys.setprofile(lambda _frame, event, _argument: calls.update([event]))
    try:
        checked = check_beton(path)
    finally:
        sys.setprofile(None)
    assert checked.samples == 100_000
    assert 0 < calls["call"] + calls["c_call"] < 10_000, calls
