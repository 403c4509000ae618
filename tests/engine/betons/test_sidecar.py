"""`slideduck.betons.sidecar`: read as written, and refused beside another beton."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slideduck.betons import BetonInfo, check_beton, read_sidecar, sidecar_path, write_sidecar
from slideduck.betons.format import ALLOCATION, FIELD, HEADER, SAMPLE
from slideduck.errors import BetonError
from tests.small_betons import AGAIN, SAMPLES, set_at, whole_beton, write_beton


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
        "slides": [
            {"slide": "a", "patient": "p", "split": "train", "fold": None, **slide},
            {"slide": "b", "patient": "q", "split": None, "fold": 2, **slide},
        ],
        "tiles": {
            "tile_id": [f"{'ab'[row >= 70]}-{row}" for row in range(n)],
            "slide": [int(row >= 70) for row in range(n)],
            "grid_x": list(range(n)),
            "grid_y": [1] * n,
            "loc_x": [64 * row for row in range(n)],
            "loc_y": [2**33] * n,
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
    assert sidecar.raw == content == json.loads(first)
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
    assert sidecar.loc_y.tolist() == [2**33] * 120
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
        ({"slides": 3}, f"is damaged: TypeError: 'int' object is not iterable; {AGAIN}"),
        ({"slides": [{}]}, f"is damaged: KeyError: 'slide'; {AGAIN}"),
        ({"classes": ["a"]}, f"is damaged: ValueError: class is not between -1 and 0 everywhere; {AGAIN}"),
        ({"tiles": {}}, f"is damaged: KeyError: 'tile_id'; {AGAIN}"),
        ({"tiles": []}, f"is damaged: TypeError: list indices must be integers or slices, not str; {AGAIN}"),
    ],
)
def test_sidecar_with_something_else_in_it(beton: Path, changes: dict[str, Any], message: str) -> None:
    path = sidecar_path(beton)
    path.write_text(json.dumps(content_for(check_beton(beton), **changes)))
    assert sidecar_refusal(beton) == f"{path} {message}"


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("slide", [0] * 119, "slide has shape (119,), not (120,)"),
        ("slide", [2] * 120, "slide is not between 0 and 1 everywhere"),
        ("slide", [-1] * 120, "slide is not between 0 and 1 everywhere"),
        ("class", [-2] * 120, "class is not between -1 and 2 everywhere"),
    ],
)
def test_sidecar_with_a_wrong_column(beton: Path, column: str, values: list[int], message: str) -> None:
    content = content_for(check_beton(beton))
    content["tiles"][column] = values
    path = write_sidecar(beton, content)
    assert sidecar_refusal(beton) == f"{path} is damaged: ValueError: {message}; {AGAIN}"


@pytest.mark.parametrize("name", ["tiles", "tiles.bin", "tiles.beton.gz", ".beton", "tiles.BETON"])
def test_name_that_is_none_for_a_beton(name: str) -> None:
    with pytest.raises(BetonError) as caught:
        sidecar_path(name)
    assert str(caught.value) == f"{name} is no name for a beton; give one that ends in .beton, such as tiles.beton"


def test_a_sidecar_with_a_number_that_json_has_not(beton: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float values"):
        write_sidecar(beton, content_for(check_beton(beton), grid=float("nan")))
    assert os.listdir(beton.parent) == ["tiles.beton"]
