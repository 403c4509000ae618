"""`slideduck.betons.sidecar`: read as written, and refused beside another beton."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import slideduck as sd
from slideduck.betons import BetonInfo, check_beton, read_sidecar, sidecar_path, write_sidecar
from slideduck.betons.format import ALLOCATION, FIELD, HEADER, SAMPLE
from slideduck.errors import BetonError
from tests.small_betons import AGAIN, SAMPLES, set_at, whole_beton, write_beton

GRID = {"name": "24px_32um", "tile_px": 24, "tile_um": 32.0, "magnification": None, "stride_div": 1.0}
GRID |= {"origin_x": 0, "origin_y": 0}


@pytest.fixture
def beton(tmp_path: Path) -> Path:
    path = tmp_path / "tiles.beton"
    path.write_bytes(whole_beton())
    return path


def content_for(info: BetonInfo, **changes: Any) -> dict[str, Any]:
    """Return a side-car of a beton of `SAMPLES` over two slides."""
    n = info.samples
    slide = {
        "path": "/x",
        "fingerprint": "f",
        "width": 9,
        "height": 8,
        "mpp": 0.25,
        "site": None,
        "background": "FFFFFF",
    }
    slide |= {"extract_px": 64, "stride": 64, "level": 0, "level_downsample": 1.0, "read_px": 64}
    content = {
        "format": "slideduck beton",
        "version": 1,
        "beton": {
            "file": info.path.name,
            "bytes": info.bytes,
            "samples": n,
            "metadata_sha256": info.metadata_sha256,
            "image": {"mode": "jpg", "quality": 90, "tile_px": 24},
        },
        "classes": ["Grün", "tumour", "stroma"],
        "grid": GRID,
        "slides": [
            {"slide": "a", "patient": "p", "split": "train", "fold": None, **slide},
            {"slide": "b", "patient": "q", "split": None, "fold": 2, **slide},
        ],
        "tiles": {
            "tile_id": [f"{'ab'[row >= 70]}-{64 * row + 32}-{2**33 + 32}" for row in range(n)],
            "slide": [int(row >= 70) for row in range(n)],
            "grid_x": list(range(n)),
            "grid_y": [2**27] * n,
            "loc_x": [64 * row + 32 for row in range(n)],
            "loc_y": [2**33 + 32] * n,
            "class": [row % 4 - 1 for row in range(n)],
            "roi_name": [None if row % 2 else "r" for row in range(n)],
        },
    }
    return {**content, **changes}


def test_sidecar_is_read_as_it_was_written(beton: Path) -> None:
    content = content_for(check_beton(beton))
    path = write_sidecar(beton, content)
    assert path == beton.with_name("tiles.json")
    assert sorted(os.listdir(beton.parent)) == ["tiles.beton", "tiles.json"]
    first = path.read_bytes()
    assert first.decode().splitlines()[3].startswith(' "beton": {"file": "tiles.beton", "bytes":')
    write_sidecar(beton, content)
    assert path.read_bytes() == first

    sidecar = read_sidecar(beton)
    assert sidecar.raw == content == {key: value for key, value in json.loads(first).items() if key != "sha256"}
    assert first.decode().splitlines()[-2].startswith(' "sha256": "')
    assert sidecar.samples == 120
    assert sidecar.classes == ("Grün", "tumour", "stroma")
    assert (sidecar.tile_px, sidecar.image_mode, sidecar.quality) == (24, "jpg", 90)
    assert [slide.slide for slide in sidecar.slides] == ["a", "b"]
    assert sidecar.tile_slide.tolist() == ["a"] * 70 + ["b"] * 50
    assert sidecar.tile_patient.tolist() == ["p"] * 70 + ["q"] * 50
    assert sidecar.tile_split.tolist() == ["train"] * 70 + [None] * 50
    assert sidecar.tile_fold.tolist() == [-1] * 70 + [2] * 50
    assert sidecar.class_number.tolist() == [row % 4 - 1 for row in range(120)]
    assert sidecar.slide.dtype == np.int32
    assert sidecar.class_number.dtype == np.int64
    assert sidecar.loc_y.tolist() == [2**33 + 32] * 120
    assert sidecar.roi_name.tolist() == ["r", None] * 60
    assert sidecar.tile_id.tolist() == content["tiles"]["tile_id"]
    assert len(sidecar.sha256) == 64


def sidecar_refusal(beton: Path) -> str:
    with pytest.raises(BetonError) as caught:
        read_sidecar(beton)
    return str(caught.value)


def test_sidecar_of_another_beton(tmp_path: Path, beton: Path) -> None:
    other = write_beton(tmp_path / "other.beton", SAMPLES, identity="other")
    mine = check_beton(beton)
    write_sidecar(beton, content_for(other))
    assert sidecar_refusal(beton) == (
        f"{tmp_path}/tiles.json is the side-car of another beton: it says metadata_sha256 "
        f"{other.metadata_sha256}, and {beton} has {mine.metadata_sha256}; {AGAIN}"
    )
    shorter = write_beton(tmp_path / "other.beton", SAMPLES[:50])
    write_sidecar(beton, content_for(shorter))
    assert sidecar_refusal(beton) == (
        f"{tmp_path}/tiles.json is the side-car of another beton: it says bytes {shorter.bytes}, and {beton} "
        f"has {mine.bytes}; {AGAIN}"
    )


def test_any_change_of_the_tables_is_noticed(beton: Path) -> None:
    """Even where the beton alone is plausible: another label, another identity."""
    write_sidecar(beton, content_for(check_beton(beton)))
    tables = HEADER.itemsize + 3 * FIELD.itemsize + 120 * SAMPLE.itemsize
    end = len(whole_beton()) - 120 * ALLOCATION.itemsize
    for at in [*range(0, tables, 7), *range(end, len(whole_beton()), 5)]:
        set_at(beton, at, bytes([whole_beton()[at] ^ 1]))
        with pytest.raises(BetonError):
            read_sidecar(beton)
        set_at(beton, at, whole_beton()[at : at + 1])
    read_sidecar(beton)


def test_sidecar_that_is_not_there(beton: Path) -> None:
    assert sidecar_refusal(beton) == (
        f"{beton} has no side-car: there is no {beton.with_suffix('.json')}, which says what each tile is; "
        "put it back, or make both again with: slideduck export"
    )


def test_sidecar_that_was_cut_short(beton: Path) -> None:
    path = write_sidecar(beton, content_for(check_beton(beton)))
    content = path.read_bytes()
    info = check_beton(beton)
    # The last byte is a line's end.
    for length in range(0, len(content) - 1, 11):
        path.write_bytes(content[:length])
        with pytest.raises(BetonError) as caught:
            read_sidecar(beton, info)
        assert str(caught.value).startswith(f"{path} is damaged: ")
        assert str(caught.value).endswith(f"; {AGAIN}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "geojson"}, f"is not the side-car of a beton; {AGAIN}"),
        ({"version": 2}, "is a side-car of version 2, and this slideduck reads version 1; upgrade slideduck"),
        ({"version": True}, "is a side-car of version true, and this slideduck reads version 1; upgrade slideduck"),
    ],
)
def test_another_kind_of_file(beton: Path, changes: dict[str, Any], message: str) -> None:
    path = sidecar_path(beton)
    path.write_text(json.dumps(content_for(check_beton(beton), **changes)))
    assert sidecar_refusal(beton) == f"{path} {message}"


def test_all_that_is_wrong_is_named_at_once(beton: Path) -> None:
    content = content_for(check_beton(beton), classes=["a", "b", "a"], shard=None, skipped=[{"slide": 1}])
    content["beton"] |= {"pages": {"bytes": 5000, "crc32": [0, -1]}, "image": {"mode": "png", "quality": 101}}
    content["grid"] = {**GRID, "stride_div": 0, "origin_x": 1.5}
    content["slides"][0] |= {
        "mpp": -0.25,
        "width": 0,
        "background": "white",
        "fold": True,
        "patient_columns": {"a": []},
    }
    content["slides"][1] = 7
    tiles = content["tiles"]
    tiles["slide"] = [0] * 119
    tiles["class"][3:6] = [3, -2, "1"]
    tiles["grid_x"][7] = 10**50
    tiles["loc_x"][0] = 2.0
    tiles["tile_id"][9] = None
    del tiles["roi_name"]
    path = write_sidecar(beton, content)
    assert sidecar_refusal(beton) == "\n  ".join(
        [
            f"{path} is damaged; {AGAIN}. What is wrong:",
            'beton.image.mode is "png", and must be "jpg" or "raw"',
            "beton.image.quality is 101, and must be a whole number, 1 to 100, or null",
            "beton.image.tile_px is missing, and must be a whole number, 1 to 65,535",
            "beton.pages.bytes is 5000, and must be a power of two from 4,096 to 1,073,741,824",
            "beton.pages.crc32[1] is -1, and must be a whole number, 0 to 4,294,967,295",
            "classes names a label twice, and must name each once",
            "grid.stride_div is 0, and must be a number above 0",
            "grid.origin_x is 1.5, and must be a whole number, -2,147,483,648 to 2,147,483,647",
            "skipped[0].slide is 1, and must be text that is not empty",
            "skipped[0].reason is missing, and must be text",
            "skipped[0].tile_id is missing, and must be a list",
            "slides[0].width is 0, and must be a whole number, 1 or more",
            "slides[0].mpp is -0.25, and must be a number above 0",
            "slides[0].fold is true, and must be a whole number, 0 to 2,147,483,647, or null",
            'slides[0].background is "white", and must be a colour, RRGGBB',
            "slides[0].patient_columns.a is [], and must be a number, text, true, false or null",
            "slides[1] is 7, and must be an object",
            "tiles.tile_id[9] is null, and must be text",
            "tiles.roi_name is null, and must be a list of 120, as beton.samples is",
            "tiles.slide is a list of 119, and must be a list of 120, as beton.samples is",
            "tiles.class[3] is 3, and must be a whole number, -1 to 2, and so must 2 more",
            "tiles.grid_x[7] is a number of over 40 digits, and must be a whole number, 0 to 2,147,483,647",
            "tiles.loc_x[0] is 2.0, and must be a whole number, -4,611,686,018,427,387,904 to "
            "4,611,686,018,427,387,904",
        ]
    )


def test_a_tile_that_is_not_where_its_name_says(beton: Path) -> None:
    content = content_for(check_beton(beton))
    content["tiles"]["loc_x"][5] += 1
    path = write_sidecar(beton, content)
    assert sidecar_refusal(beton) == (
        f"{path} is damaged; {AGAIN}. What is wrong:\n"
        "  tiles.loc_x[5] is 353, and must be 352, where tiles.grid_x has it\n"
        f'  tiles.tile_id[5] is "a-352-{2**33 + 32}", and must be "a-353-{2**33 + 32}", by slide and place'
    )


NESTED = "[" * 150 + "]" * 150


@pytest.mark.parametrize(
    ("found", "put", "message"),
    [
        pytest.param(
            '"a"', '"\\ud800"', r"it has '\ud800', half of a character",
            marks=pytest.mark.attack("XML and JSON", "half of a character in a side-car"),
        ),
        pytest.param(
            "0.25", "NaN", "NaN is no number of JSON",
            marks=pytest.mark.attack("XML and JSON", "a number that is none in a side-car"),
        ),
        pytest.param(
            "0.25", "1e999", None, marks=pytest.mark.attack("XML and JSON", "an infinite resolution in a side-car")
        ),
        pytest.param(
            "0.25", "9" * 5000,
            "Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits; use "
            "sys.set_int_max_str_digits() to increase the limit",
            marks=pytest.mark.attack("bombs", "a number of 5,000 digits in a side-car"),
        ),
        pytest.param(
            '"fold"', '"mpp": 1, "fold"', 'the entry "mpp" is there twice',
            marks=pytest.mark.attack("XML and JSON", "an entry that stands twice in a side-car"),
        ),
        pytest.param(
            "0.25", NESTED,
            "it has 101 or more levels of nesting in one JSON or XML file, and at most 100 are read; if the file is "
            "meant, allow that many with `limit='depth=101'`",
            marks=pytest.mark.attack("bombs", "a side-car nested 150 deep"),
        ),
        pytest.param(
            "0.25", "[" * 100_000 + "]" * 100_000,
            "it has 100,017 or more levels of nesting in one JSON or XML file, and at most 100 are read; if the file "
            "is meant, allow that many with `limit='depth=100017'`",
            marks=pytest.mark.attack("bombs", "a side-car nested 100,000 deep"),
        ),
    ],
)  # fmt: skip
def test_json_that_is_none_or_too_much(beton: Path, found: str, put: str, message: str | None) -> None:
    path = write_sidecar(beton, content_for(check_beton(beton)))
    text = path.read_text()
    # As side-cars of before, without a checksum.
    path.write_text(text[: text.index(',\n "sha256"')].replace(found, put, 1) + "\n}\n")
    if message is None:
        message = f"{AGAIN}. What is wrong:\n  slides[0].mpp is Infinity, and must be a number above 0"
        assert sidecar_refusal(beton) == f"{path} is damaged; {message}"
    else:
        assert sidecar_refusal(beton) == f"{path} is damaged: {message}; {AGAIN}"


@pytest.mark.attack("bombs", "a side-car that is larger than the limit")
def test_a_side_car_that_is_too_large(beton: Path) -> None:
    path = write_sidecar(beton, content_for(check_beton(beton), roi_files=["x" * 2_000_000]))
    with sd.limits(file_mb=1):
        assert sidecar_refusal(beton) == (
            f"{path} is damaged: it has 3 or more MB in one ROI file, table or side-car, and at most 1 are read; if "
            f"the file is meant, allow that many with `limit='file_mb=3'`; {AGAIN}"
        )
    with sd.limits(file_mb=3):
        assert read_sidecar(beton).samples == 120


@pytest.mark.attack("bytes", "a changed byte of a side-car")
def test_any_changed_byte_of_a_side_car_is_noticed(beton: Path) -> None:
    path = write_sidecar(beton, content_for(check_beton(beton)))
    content = path.read_bytes()
    info = check_beton(beton)
    # Ends of lines behind the checksum, and what its own name is, change nothing.
    for at in range(0, content.rindex(b'"sha256"'), 97):
        changed = bytearray(content)
        changed[at] ^= 1
        path.write_bytes(changed)
        with pytest.raises(BetonError):
            read_sidecar(beton, info)
    path.write_bytes(content.replace(b'"class": [-1, 0, 1,', b'"class": [-1, 0, 2,'))
    assert sidecar_refusal(beton) == (
        f"{path} was changed after it was written: its last line is not the checksum of the rest; {AGAIN}: the same "
        "command gives the same bytes"
    )


def test_a_side_car_of_before_has_no_checksum(beton: Path) -> None:
    path = sidecar_path(beton)
    path.write_text(json.dumps(content_for(check_beton(beton))))
    assert read_sidecar(beton).samples == 120


@pytest.mark.parametrize("name", ["tiles", "tiles.bin", "tiles.beton.gz", ".beton", "tiles.BETON"])
def test_name_that_is_none_for_a_beton(name: str) -> None:
    with pytest.raises(BetonError) as caught:
        sidecar_path(name)
    assert str(caught.value) == f"{name} is no name for a beton; give one that ends in .beton, such as tiles.beton"


def test_a_sidecar_with_a_number_that_json_has_not(beton: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float values"):
        write_sidecar(beton, content_for(check_beton(beton), grid=float("nan")))
    assert os.listdir(beton.parent) == ["tiles.beton"]
