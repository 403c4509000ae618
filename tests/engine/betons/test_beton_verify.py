"""`slideduck verify`: whatever is wrong with a beton is found, and named."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import slideduck as sd
from slideduck.betons import BetonReport, check_beton, verify_beton
from slideduck.betons.format import ALLOCATION, HEADER, SAMPLE
from slideduck.cli.group import cli
from slideduck.errors import BetonError, ConfigError
from tests.mixed_study import add_again, damage_tile, write_study
from tests.small_betons import AGAIN, contents, set_at

TABLES = HEADER.itemsize + 3 * 1041


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study of three slides and a beton of them, partly re-encoded, partly taken as stored."""
    folder = tmp_path_factory.mktemp("source")
    with sd.open(write_study(folder), read_only=True) as study:
        study.export(folder / "tiles.beton")
        study.export(folder / "raw.beton", raw=True)
        study.export(folder / "other.beton", where="grid_x > 2")
    return folder


@pytest.fixture
def beton(source: Path, tmp_path: Path) -> Path:
    """A beton of one's own, with its side-car."""
    for name in ("tiles.json", "tiles.beton"):
        shutil.copy(source / name, tmp_path)
    return tmp_path / "tiles.beton"


def told(report: BetonReport) -> list[tuple[int | None, str | None, str | None, str]]:
    return [(p.row, p.tile_id, p.slide, p.problem) for p in report.problems]


def places(path: Path) -> list[tuple[int, int]]:
    """Return where each sample is, and its bytes."""
    content = path.read_bytes()
    end = int(np.frombuffer(content, HEADER, count=1)["alloc_table_ptr"][0])
    return [(int(ptr), int(size)) for _, ptr, size in np.frombuffer(content, ALLOCATION, offset=end).tolist()]


@pytest.mark.parametrize("name", ["tiles", "raw", "other"])
@pytest.mark.parametrize(("sample", "quick"), [(None, False), (20, True), (0, False)])
def test_beton_that_is_whole(source: Path, name: str, sample: int | None, quick: bool) -> None:
    report = verify_beton(source / f"{name}.beton", sample=sample, quick=quick)
    samples = check_beton(source / f"{name}.beton").samples
    assert (report.problems, report.notes, report.missing, report.left_out) == ((), (), {}, 0)
    assert (report.samples, report.pages) == (samples, 1)
    assert report.decoded == (0 if quick or name == "raw" else samples)
    assert report.compared == (samples if sample is None else sample)


def test_real_slides(shared_data: Path, tmp_path: Path) -> None:
    with sd.open(tmp_path / "real.duckdb") as study:
        study.add_slides(shared_data, mpp=0.5)
        study.add_rois([shared_data / "CMU-1-Small-Region.csv", shared_data / "TCGA-CR-7395-01A-01-TS1.geojson"])
        found = study.native_grid()
        study.tile(found.spec.tile_px, tile_um=found.spec.tile_um)
        study.label()
        study.export(tmp_path / "native.beton")
    report = verify_beton(tmp_path / "native.beton", sample=None)
    assert (report.problems, report.compared) == ((), report.samples)


# ------------------------------------------------------------------------------------------- damage to the file


def flip_in_jpeg(path: Path) -> None:
    """A bit that most decoders pass over."""
    ptr, size = places(path)[70]
    content = path.read_bytes()
    set_at(path, ptr + size - 40, bytes([content[ptr + size - 40] ^ 0x04]))


def damage_head(path: Path) -> None:
    set_at(path, places(path)[5][0], b"\0\0\0\0")


def damage_huffman(path: Path) -> None:
    ptr, size = places(path)[60]
    jpeg = path.read_bytes()[ptr : ptr + size]
    set_at(path, ptr + jpeg.index(b"\xff\xc4") + 2, b"\xff\xff")


def swap(path: Path) -> None:
    """Two tiles of one size in each other's place."""
    first, second = two_alike(path)
    content = path.read_bytes()
    for (to, size), (ptr, _) in ((first, second), (second, first)):
        set_at(path, to, content[ptr : ptr + size])


def two_alike(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return two tiles of the same number of bytes."""
    seen: dict[int, tuple[int, int]] = {}
    for ptr, size in places(path):
        if size in seen:
            return seen[size], (ptr, size)
        seen[size] = ptr, size
    raise AssertionError("no two tiles have as many bytes")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 2000)


def cut_in_page(path: Path) -> None:
    os.truncate(path, (8 << 20) + 1000)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def damage_header(path: Path) -> None:
    """The header alone: all tiles are there, and right."""
    set_at(path, 22, b"\xff")


def change_label(path: Path) -> None:
    set_at(path, TABLES + 9 * SAMPLE.itemsize + 16, b"\1" if path.read_bytes()[TABLES + 9 * 32 + 16] == 0 else b"\0")


def fill_gap(path: Path) -> None:
    set_at(path, (8 << 20) - 100, b"what was there")


def pad_page(path: Path) -> None:
    """Bytes behind the last tile of a page, which nobody reads."""
    ptr, size = places(path)[-1]
    set_at(path, ptr + size + 5, b"x")


GONE = "page 0 of 1 (bytes 8,388,608 to 16,777,215) is not as it was written"
PAGE = f"{GONE}; it has the rows 0 to 143"


@pytest.mark.parametrize(
    ("damage", "patterns"),
    [
        (flip_in_jpeg, [PAGE, "70: it is not what its slide gives at base pixel .*"]),
        (
            damage_head,
            [
                ".*row 5 does not begin as a JPEG; .*",
                PAGE,
                "5: its JPEG of .* bytes cannot be decoded: .*",
                "5: it is not the JPEG that its slide stores at base pixel .*",
            ],
        ),
        (damage_huffman, [PAGE, "60: its JPEG of .* bytes cannot be decoded: .*", "60: it is not what its slide .*"]),
        (swap, [PAGE, r"\d+: it is not .*", r"\d+: it is not .*"]),
        (cut, [".*tiles.beton is cut short: .*"]),
        (damage_header, [".*tiles.beton is cut short: .*"]),
        (cut_in_page, [".*tiles.beton is cut short: .*", GONE]),
        (empty, [".*tiles.beton is cut short: it has 0 bytes.*", GONE]),
        (change_label, [".*is the side-car of another beton: it says metadata_sha256 .*"]),
        (fill_gap, ["the bytes between the tables and the first page are not empty"]),
        (pad_page, [PAGE]),
    ],
)
def test_damage_is_found_and_named(beton: Path, damage: Callable[[Path], None], patterns: list[str]) -> None:
    damage(beton)
    report = verify_beton(beton)
    found = [text if row is None else f"{row}: {text}" for row, _, _, text in told(report)]
    assert len(found) == len(patterns), found
    for text, pattern in zip(found, patterns, strict=True):
        assert (pattern in (PAGE, GONE) and text == pattern) or re.fullmatch(pattern, text), text
    for row, tile_id, slide, _ in told(report):
        if row is not None:
            names = json.loads(beton.with_suffix(".json").read_text())
            assert (tile_id, slide) == (names["tiles"]["tile_id"][row], "abc"[row // 48])


@pytest.mark.parametrize("seed", range(8))
def test_any_changed_bit_is_found(beton: Path, seed: int) -> None:
    """Wherever it is: header, tables, gap, tiles, the rest of the page."""
    content = beton.read_bytes()
    rng = np.random.default_rng(seed)
    regions = (
        (0, HEADER.itemsize),
        (HEADER.itemsize, TABLES + 144 * 32),
        (8 << 20, 16 << 20),
        (16 << 20, len(content)),
    )
    start, stop = regions[seed % 4]
    at = int(rng.integers(start, stop))
    set_at(beton, at, bytes([content[at] ^ 1 << int(rng.integers(8))]))
    assert verify_beton(beton, quick=True, sample=0).problems


def test_raw_pixels_are_compared(source: Path, tmp_path: Path) -> None:
    for name in ("raw.json", "raw.beton"):
        shutil.copy(source / name, tmp_path)
    path = tmp_path / "raw.beton"
    set_at(path, places(path)[100][0] + 17, b"\0")
    report = verify_beton(path, quick=True, sample=0)
    assert [p.row for p in report.problems] == [None, 100]
    assert report.problems[1].problem.startswith("it is not what its slide gives at base pixel")
    # All of the damaged page was compared, to find the tile.
    assert report.compared == 144


# ------------------------------------------------------------------------------------ the side-car, the slides


def change_sidecar(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    sidecar = path.with_suffix(".json")
    raw = json.loads(sidecar.read_text())
    # As side-cars of before, without a checksum.
    del raw["sha256"]
    change(raw)
    sidecar.write_text(json.dumps(raw))


def test_side_car_of_another_beton(source: Path, beton: Path) -> None:
    shutil.copy(source / "other.json", beton.with_suffix(".json"))
    report = verify_beton(beton)
    assert re.fullmatch(r".*tiles.json is the side-car of another beton: it says bytes .*", report.problems[0].problem)
    assert len(report.problems) == 1
    assert report.notes == (
        "the side-car has no checksums of pages, and they were not compared",
        "no tile was compared with its slide, since the side-car is not to be relied on",
    )
    beton.with_suffix(".json").unlink()
    assert [p.problem.split(";")[0] for p in verify_beton(beton).problems] == [
        f"{beton} has no side-car: there is no {beton.with_suffix('.json')}, which says what each tile is"
    ]
    beton.with_suffix(".json").write_text("{")
    assert "tiles.json is damaged: " in verify_beton(beton).problems[0].problem


def test_nothing_to_go_by(beton: Path) -> None:
    damage_header(beton)
    beton.with_suffix(".json").unlink()
    report = verify_beton(beton)
    assert (report.samples, len(report.problems), len(report.notes)) == (0, 2, 2)
    assert report.problems[1].problem.startswith(f"{beton} has no side-car: there is no ")


def test_side_car_that_was_changed(beton: Path) -> None:
    def swap_names(raw: dict[str, Any]) -> None:
        for name in ("tile_id", "loc_x", "grid_x"):
            column = raw["tiles"][name]
            column[0], column[1] = column[1], column[0]

    change_sidecar(beton, swap_names)
    assert told(verify_beton(beton, sample=0, quick=True)) == [
        (None, None, None, f"{beton.with_suffix('.json')} lists other tiles than the beton was written with")
    ]


def test_side_car_with_other_classes(beton: Path) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["tiles"]["class"][50] = 0

    change_sidecar(beton, change)
    found = told(verify_beton(beton))
    assert [row for row, *_ in found] == [None, 50]
    assert found[1][3] == "it has class 1, and the side-car 0"
    assert found[1][2] == "b"


def test_side_car_with_tiles_elsewhere(beton: Path) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["grid"]["origin_x"] += 1
        raw["tiles"]["grid_y"][5] += 1

    change_sidecar(beton, change)
    report = verify_beton(beton, sample=10)
    x, y = (json.loads(beton.with_suffix(".json").read_text())["tiles"][f"loc_{axis}"] for axis in "xy")
    assert told(report) == [
        (
            None,
            None,
            None,
            f"{beton.with_suffix('.json')} is damaged; {AGAIN}. What is wrong:\n"
            f"  tiles.loc_x[0] is {x[0]}, and must be {x[0] + 1}, where tiles.grid_x has it, and so must 143 more\n"
            f"  tiles.loc_y[5] is {y[5]}, and must be {y[5] + 64}, where tiles.grid_y has it",
        )
    ]


def copied(source: Path, folder: Path) -> dict[str, Path]:
    """Return slides of one's own by name."""
    shutil.copytree(source / "slides", folder / "moved")
    return {path.stem: path for path in (folder / "moved").iterdir()}


def test_slides_that_changed(source: Path, beton: Path, tmp_path: Path) -> None:
    slides = copied(source, tmp_path)
    damage_tile(slides["a"], 3)
    damage_tile(slides["b"], 11)
    shutil.copy(slides["b"], slides["c"])
    report = verify_beton(beton, sample=None, slides=slides)
    # A changed byte makes it another slide: no tile of it is compared.
    again = "put the file of before back, or export again"
    assert told(report) == [
        (None, None, name, f"slide {name!r} has changed: {slides[name]} is not the file that was added; {again}")
        for name in "abc"
    ]
    assert report.compared == 0


def test_slides_that_are_gone(source: Path, beton: Path, tmp_path: Path) -> None:
    slides = copied(source, tmp_path)
    slides["b"].unlink()
    report = verify_beton(beton, sample=60, slides=slides)
    assert report.problems == ()
    assert report.missing == {"b": 60 - report.compared}
    report = verify_beton(beton, sample=None, slides=slides)
    assert told(report) == [(None, None, "b", f"there is no file {slides['b']} to compare 48 tiles with")]
    slides["c"].write_bytes(slides["c"].read_bytes()[:1000])
    assert verify_beton(beton, sample=None, slides=slides).problems[1].problem == (
        f"slide 'c' has changed: {slides['c']} is not the file that was added; put the file of before back, or export "
        "again"
    )


def test_what_the_export_left_out_is_counted(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    damage_tile(tmp_path / "slides" / "c.tif", 20)
    add_again(path, tmp_path / "slides")
    with sd.open(path, read_only=True) as study:
        study.export(tmp_path / "tiles.beton", skip_errors=True)
    report = verify_beton(tmp_path / "tiles.beton", sample=None)
    assert (report.samples, report.left_out, report.problems) == (143, 1, ())


def test_what_cannot_be_verified_at_all(tmp_path: Path, beton: Path) -> None:
    with pytest.raises(BetonError) as caught:
        verify_beton(tmp_path / "no.beton")
    assert str(caught.value) == (
        f"no beton at {tmp_path}/no.beton; make it with: slideduck export STUDY {tmp_path}/no.beton"
    )
    for settings, message in (
        ({"sample": -1}, "sample is -1; give a number of tiles, or all"),
        ({"threads": 0}, "threads is 0; give 1 or more"),
    ):
        with pytest.raises(ConfigError) as refused:
            verify_beton(beton, **settings)  # type: ignore[arg-type]
        assert str(refused.value) == message


# ------------------------------------------------------------------------------------------ the command line


def run(*words: str | Path) -> tuple[int, str, list[str]]:
    result = CliRunner().invoke(cli, ["verify", *(str(word) for word in words)])
    return result.exit_code, result.stdout, result.stderr.splitlines()


def test_command(source: Path, beton: Path) -> None:
    whole = "144 tiles in 1 page with checksums; 144 JPEGs decoded; 144 tiles compared with the slides"
    status, rows, messages = run(beton, "--study", source / "mixed.duckdb", "--sample", "all")
    assert (status, rows, messages[-1]) == (0, "", f"{beton} is whole: {whole}")
    assert run(beton, "--json", "--quick", "--sample", "0")[:2] == (0, "[]\n")
    sizes = [len(tile) for tile in contents(beton)]
    set_at(beton, places(beton)[2][0] + sizes[2] // 2, b"\xff\xd9\xff\xd9")
    status, rows, messages = run(beton, "--csv", "--sample", "all")
    names = json.loads(beton.with_suffix(".json").read_text())["tiles"]["tile_id"]
    lines = rows.splitlines()
    assert (status, lines[:2]) == (1, ["row,tile_id,slide,problem", f',,,"{PAGE}"'])
    assert all(line.startswith(f"2,{names[2]},a,") for line in lines[2:])
    assert messages[-1] == f"error: {beton} has {len(lines) - 1} problems: {whole}"
    status, _, messages = run(beton, "--sample", "some")
    assert (status, messages[-1]) == (
        2,
        "Error: Invalid value for --sample: 'some' is neither a number of tiles nor all",
    )
