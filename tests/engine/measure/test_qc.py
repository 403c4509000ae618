"""Measures of tiles: what each number is, by an oracle in numpy, and what filters by them drop."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import openslide
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

import slideduck as sd
from slideduck.betons import read_sidecar
from slideduck.cli.group import cli
from slideduck.errors import ConfigError, QueryError, StudyError
from slideduck.measure.qc_measures import MEASURES, PIXEL_MEASURES
from slideduck.slides.identity import SlideFile
from slideduck.slides.reader import thumbnail
from tests.help_examples import examples
from tests.slides import synthetic_image, write_slide

RGB = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float64]

MPP = 0.5
#: Where `painted` is painted: left, top, right, bottom, and the colour; the tiles of its grid are 64 pixels.
PAINT = {
    "white": ((0, 0, 128, 128), (255, 255, 255)),
    "nearly white": ((128, 0, 160, 64), (231, 230, 230)),
    "not white": ((160, 0, 192, 64), (230, 230, 230)),
    "grey": ((192, 0, 256, 48), (120, 122, 125)),
    "pale": ((256, 0, 640, 64), (230, 190, 220)),
    "blue ink": ((256, 0, 320, 32), (20, 30, 140)),
    "green ink": ((320, 0, 352, 64), (40, 130, 110)),
    "red ink": ((384, 16, 448, 32), (200, 30, 40)),
    "black ink": ((448, 0, 512, 64), (25, 25, 30)),
    "dark nuclei": ((512, 0, 576, 64), (80, 40, 95)),
    "stain": ((0, 128, 256, 320), (200, 120, 180)),
}


def painted() -> RGB:
    """Return a picture of 640 x 384 pixels with known areas on a smooth ground of two stains."""
    image = cv2.GaussianBlur(synthetic_image(1, (640, 384)), (0, 0), 2)
    for (left, top, right, bottom), colour in PAINT.values():
        image[top:bottom, left:right] = colour
    # Half of the ground is sharp, half of it blurred.
    noise = np.random.default_rng(2).integers(-40, 40, (128, 320, 1))
    image[256:384, 320:640] = (image[256:384, 320:640] + noise).clip(0, 255)
    return np.ascontiguousarray(image)


# ---------------------------------------------------------------------------------------------- the oracle


def white(rgb: RGB) -> Plane:
    return np.asarray(np.mean(rgb, axis=-1) > 230, dtype=float)


def saturation(rgb: RGB) -> Plane:
    """Return what scikit-image's rgb2hsv gives as saturation."""
    image = np.multiply(rgb, 1.0 / 255, dtype=np.float64)
    value, delta = image.max(-1), np.ptp(image, -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(delta == 0, 0.0, delta / value)


def pen(rgb: RGB) -> Plane:
    """Return deep-histopath's red, green and blue ink, and black that is grey, written out."""
    r, g, b = (rgb[..., i].astype(int) for i in range(3))
    red = [
        (150, 80, 90), (110, 20, 30), (185, 65, 105), (195, 85, 125), (220, 115, 145), (125, 40, 70), (200, 120, 150),
        (100, 50, 65), (85, 25, 45),
    ]  # fmt: skip
    green = [
        (150, 160, 140), (70, 110, 110), (45, 115, 100), (30, 75, 60), (195, 220, 210), (225, 230, 225),
        (170, 210, 200), (20, 30, 20), (50, 60, 40), (30, 50, 35), (65, 70, 60), (100, 110, 105), (165, 180, 180),
        (140, 140, 150), (185, 195, 195),
    ]  # fmt: skip
    blue = [
        (60, 120, 190), (120, 170, 200), (175, 210, 230), (145, 180, 210), (37, 95, 160), (30, 65, 130),
        (130, 155, 180), (40, 35, 85), (30, 20, 65), (90, 90, 140), (60, 60, 120), (110, 110, 175),
    ]  # fmt: skip
    ink = np.zeros(r.shape, bool)
    for low, *high in red:
        ink |= (r > low) & (g < high[0]) & (b < high[1])
    for high_r, *low_gb in green:
        ink |= (r < high_r) & (g > low_gb[0]) & (b > low_gb[1])
    for high_r, high_g, low_b in blue:
        ink |= (r < high_r) & (g < high_g) & (b > low_b)
    ink |= (r < 100) & (g < 100) & (b < 100) & (abs(r - g) <= 15) & (abs(r - b) <= 15) & (abs(g - b) <= 15)
    return ink.astype(float)


ORACLE = {
    "brightness": lambda rgb: rgb.mean(axis=-1),
    "saturation": saturation,
    "white_fraction": white,
    "grey_fraction": lambda rgb: (saturation(rgb) < 0.05).astype(float),
    "pen": pen,
}


def laplacian_variance(rgb: RGB) -> float:
    """Return the variance of the 3 x 3 Laplacian, mirrored at the edges without repeating them."""
    grey = np.pad(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(float), 1, mode="reflect")
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return float(np.mean((laplacian - laplacian.mean()) ** 2))


def weights(first: int, step: int, side: int, number: int, pixels: int, downsample: float) -> Plane:
    """Return which part of each pixel of a line each tile covers, shape (tiles, pixels)."""
    left = (first + step * np.arange(number)) / downsample
    right = np.minimum(left + side / downsample, pixels)
    at = np.arange(pixels)
    covered = np.minimum(at + 1, right[:, None]) - np.maximum(at, left[:, None])
    return covered.clip(0, 1)


def area_means(plane: Plane, rows: Plane, columns: Plane) -> Plane:
    """Return the mean over each tile, by the parts of pixels."""
    return rows @ plane @ columns.T / np.outer(rows.sum(1), columns.sum(1))


def otsu(values: RGB) -> int:
    """Return Otsu's threshold: values up to it are the one class, those above it the other."""
    counts = np.bincount(values.ravel(), minlength=256).astype(float)
    best, threshold = -1.0, 0
    for t in range(256):
        low, high = counts[: t + 1].sum(), counts[t + 1 :].sum()
        if low and high:
            mean_low = (counts[: t + 1] * np.arange(t + 1)).sum() / low
            mean_high = (counts[t + 1 :] * np.arange(t + 1, 256)).sum() / high
            between = low * high * (mean_low - mean_high) ** 2
            if between > best * (1 + 1e-12):
                best, threshold = between, t
    return threshold


def median_7(plane: RGB) -> RGB:
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(plane, 3, mode="edge"), (7, 7))
    return np.asarray(np.median(windows, axis=(2, 3)), dtype=np.uint8)


def rows_of(study: sd.Study, slide: str, columns: str = "*") -> Any:
    return study.sql(
        f"SELECT {columns} FROM tile_qc JOIN slides USING (slide_id) WHERE slide = $slide ORDER BY grid_y, grid_x",
        {"slide": slide},
    ).df()


# ------------------------------------------------------------------------------------------- the numbers


@pytest.fixture
def one(tmp_path: Path) -> Iterator[sd.Study]:
    """A study of the painted slide, without loss and of two levels, on a grid of 64 pixels; labelled."""
    write_slide(tmp_path / "p.tiff", painted(), mpp=MPP, levels=2, compression="deflate")
    with sd.open(tmp_path / "study.duckdb") as study:
        study.add_slides(tmp_path / "p.tiff")
        study.tile(64, tile_um=32)
        study.label()
        yield study


def test_full_size_numbers_are_those_of_slideflow(one: sd.Study) -> None:
    report = one.qc(level="full")
    assert (report.grid, report.measures, report.slides, report.tiles) == ("64px_32um", MEASURES, 1, 60)
    image = painted()
    tiles = [image[y : y + 64, x : x + 64] for y in range(0, 384, 64) for x in range(0, 640, 64)]
    found = rows_of(one, "p")
    for name in ("white_fraction", "grey_fraction"):
        assert found[name].tolist() == [ORACLE[name](tile).mean() for tile in tiles], name
    for name in ("brightness", "saturation", "pen"):
        assert found[name].to_numpy() == pytest.approx([ORACLE[name](tile).mean() for tile in tiles], rel=1e-6), name
    assert found.blur.to_numpy() == pytest.approx([laplacian_variance(tile) for tile in tiles])


def test_what_was_painted_is_found(one: sd.Study) -> None:
    one.qc(level="full")
    found = rows_of(one, "p").set_index(["grid_x", "grid_y"])
    assert found.white_fraction[0, 0] == found.grey_fraction[0, 0] == 1
    assert found.white_fraction[2, 0] == 0.5  # 230.33 on the left is white, 230 is not
    assert found.grey_fraction[2, 0] == 1
    assert found.grey_fraction[3, 0] == pytest.approx(0.75, abs=0.02)
    for column, part in ((4, 0.5), (5, 0.5), (6, 0.25), (7, 1.0), (8, 0.0)):
        assert found.pen[column, 0] == part, column
    assert found.pen[1, 3] == 0
    assert (found.blur[0, 0], found.blur[1, 3]) == (0, 0)
    assert found.blur[7, 5] > 100 * found.blur[7, 2]
    assert (found.tissue[0, 0], found.tissue[1, 3]) == (0, 1)


@pytest.mark.parametrize("stride_div", [1, 2])
def test_a_low_level_is_averaged_by_exact_area(tmp_path: Path, stride_div: int) -> None:
    # Three levels; a tile of 150 pixels has 37.5 on the last, and the grid begins between two of its pixels.
    write_slide(tmp_path / "p.tiff", synthetic_image(3, (1500, 1100)), mpp=MPP, levels=3, compression="deflate")
    with sd.open(tmp_path / "s.duckdb") as study:
        study.add_slides(tmp_path / "p.tiff")
        study.tile(75, tile_um=75, stride_div=stride_div, origin=(3, 5))
        study.qc(PIXEL_MEASURES)
        assert study.sql("SELECT DISTINCT measured_at, level, downsample FROM qc_slides").fetchall() == [("low", 2, 4)]
        found = rows_of(study, "p")
        ((n_columns, n_rows, step),) = study.sql("SELECT n_columns, n_rows, stride FROM grid_slides").fetchall()
    assert step == 150 // stride_div
    with openslide.OpenSlide(tmp_path / "p.tiff") as slide:
        width, height = slide.level_dimensions[2]
        level = np.asarray(slide.read_region((0, 0), 2, (width, height)).convert("RGB"))
    columns = weights(3, step, 150, n_columns, width, 4)
    rows = weights(5, step, 150, n_rows, height, 4)
    for name, oracle in ORACLE.items():
        expected = area_means(oracle(level), rows, columns).ravel()
        assert found[name].to_numpy() == pytest.approx(expected, rel=1e-6, abs=2e-9), name
    # A tile that is all white, or has none, says so exactly, whatever the parts of pixels.
    assert not (found.white_fraction.between(0, 1e-9, inclusive="neither")).any()


def test_a_level_larger_than_a_block_and_one_of_a_single_level(tmp_path: Path) -> None:
    # 2,300 x 1,200 pixels of one level are read in six blocks, which cut tiles of 96 pixels.
    image = synthetic_image(4, (2300, 1200))
    write_slide(tmp_path / "p.tiff", image, mpp=MPP, levels=1, tile=128, compression="deflate")
    with sd.open(tmp_path / "s.duckdb") as study:
        study.add_slides(tmp_path / "p.tiff")
        study.tile(64, tile_um=48)
        study.qc(["brightness", "grey_fraction"])
        low = rows_of(study, "p", "brightness, grey_fraction").to_numpy()
        study.qc(["brightness", "grey_fraction"], level="full")
        full = rows_of(study, "p", "brightness, grey_fraction").to_numpy()
    assert low == pytest.approx(full, rel=1e-6)
    tiles = [image[y : y + 96, x : x + 96] for y in range(0, 1200 - 95, 96) for x in range(0, 2300 - 95, 96)]
    assert full[:, 0] == pytest.approx([tile.mean() for tile in tiles])


def test_tissue_is_the_part_of_the_tile_in_the_mask_of_otsu(one: sd.Study) -> None:
    one.qc(["tissue"])
    picture, _ = thumbnail(
        SlideFile.unchecked(one.sql("SELECT path FROM slides").fetchall()[0][0]), round(640 * MPP / 8)
    )
    height, width = picture.shape[:2]
    assert (width, height) == (40, 24)
    hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)[..., 1]
    smooth = median_7(hsv)
    mask = (smooth > otsu(smooth)).astype(float)
    assert 0 < mask.mean() < 1
    columns, rows = weights(0, 64, 64, 10, width, 16), weights(0, 64, 64, 6, height, 16)
    assert rows_of(one, "p").tissue.to_numpy() == pytest.approx(area_means(mask, rows, columns).ravel(), abs=1e-9)


def test_a_slide_of_one_colour_has_no_tissue_unless_it_is_stained(tmp_path: Path) -> None:
    for name, colour in (("white", (255, 255, 255)), ("pink", (220, 120, 180))):
        write_slide(tmp_path / f"{name}.tiff", np.full((300, 400, 3), colour, np.uint8), levels=1, compression=None)
    with sd.open(tmp_path / "s.duckdb") as study:
        study.add_slides(tmp_path)
        study.tile(64, tile_um=32)
        study.qc()
        assert set(rows_of(study, "white").tissue) == {0}
        assert set(rows_of(study, "pink").tissue) == {1}


def test_real_slides(real_study: sd.Study) -> None:
    real_study.tile(64, tile_um=64)  # 128 base pixels brought to 64: blur is of these, the others of the level's
    real_study.qc(level="full")
    rng = np.random.default_rng(0)
    for slide in ("CMU-1-Small-Region", "TCGA-CR-7395-01A-01-TS1"):
        path, level, read_px, extract_px = real_study.sql(
            "SELECT path, level, read_px, extract_px FROM grid_slides JOIN slides USING (slide_id) WHERE slide = $s",
            {"s": slide},
        ).fetchall()[0]
        found = rows_of(real_study, slide)
        with openslide.OpenSlide(path) as opened:
            for row in found.iloc[rng.integers(0, len(found), 25)].itertuples():
                at = (row.grid_x * extract_px, row.grid_y * extract_px)
                tile = np.asarray(opened.read_region(at, level, (read_px, read_px)).convert("RGB"))
                assert row.white_fraction == white(tile).mean()
                assert row.grey_fraction == (saturation(tile) < 0.05).mean()
                for name in ("brightness", "saturation", "pen"):
                    assert getattr(row, name) == pytest.approx(ORACLE[name](tile).mean(), rel=1e-6)
                small = tile if read_px == 64 else cv2.resize(tile, (64, 64), interpolation=cv2.INTER_AREA)
                assert row.blur == pytest.approx(laplacian_variance(small))
    low = real_study.sql("SELECT avg(grey_fraction), avg(tissue) FROM tile_qc").fetchall()[0]
    assert 0.3 < low[0] < 0.6
    assert 0.4 < low[1] < 0.7


# ------------------------------------------------------------------------------------- what is kept


@pytest.fixture
def cohort(tmp_path: Path) -> Iterator[sd.Study]:
    """A study of four slides of 10 x 7 tiles and one that is smaller than a tile; labelled, nothing measured."""
    (tmp_path / "slides").mkdir()
    for i in range(4):
        write_slide(tmp_path / "slides" / f"s{i}.tiff", i, size=(640, 480), mpp=MPP, levels=2)
    write_slide(tmp_path / "slides" / "tiny.tiff", 9, size=(48, 48), mpp=MPP, levels=1)
    with sd.open(tmp_path / "study.duckdb") as study:
        study.add_slides(tmp_path / "slides")
        study.tile(64, tile_um=32)
        study.label()
        yield study


def content(study: sd.Study) -> list[tuple[Any, ...]]:
    return study.sql("SELECT * EXCLUDE (slide_id) FROM measured_tile ORDER BY ALL").fetchall()


def test_only_what_is_missing_is_measured(cohort: sd.Study) -> None:
    first = cohort.qc(["tissue"], slides=["s1", "s2"])
    assert (first.slides, first.tiles, first.unchanged, first.failed) == (2, 140, 0, {})
    assert [row["measure"] for row in first.summary.to_pylist()] == ["tissue"]
    labels = "SELECT slide, count(*), count(tissue), count(blur) FROM labels GROUP BY slide ORDER BY slide"
    assert cohort.sql(labels).fetchall() == [("s0", 70, 0, 0), ("s1", 70, 70, 0), ("s2", 70, 70, 0), ("s3", 70, 0, 0)]
    tissue = cohort.sql("SELECT tissue FROM tile_qc ORDER BY ALL").fetchall()
    second = cohort.qc(["blur", "tissue"])
    assert (second.slides, second.tiles, second.unchanged) == (5, 280, 0)
    third = cohort.qc(["blur", "tissue"])
    assert (third.slides, third.tiles, third.unchanged) == (0, 0, 5)
    assert cohort.sql(
        "SELECT count(*), count(tissue), count(blur), count(pen), count(DISTINCT (slide_id, grid_x, grid_y)) "
        "FROM tile_qc"
    ).fetchall() == [(280, 280, 280, 0, 280)]
    kept = cohort.sql("SELECT tissue FROM measured_tile WHERE slide IN ('s1', 's2') ORDER BY ALL").fetchall()
    assert kept == tissue
    order = cohort.sql("SELECT grid_y, grid_x FROM tile_qc WHERE slide_id = 1 ORDER BY rowid").fetchall()
    assert order == sorted(order)


def test_a_level_that_is_named_replaces_the_other_and_only_there(cohort: sd.Study) -> None:
    cohort.qc(slides=["s0"], level="full")
    full = rows_of(cohort, "s0").white_fraction.tolist()
    assert cohort.qc().slides == 4
    assert rows_of(cohort, "s0").white_fraction.tolist() == full
    at = "SELECT DISTINCT measured_at FROM qc_slides JOIN slides USING (slide_id) WHERE slide = 's0' ORDER BY ALL"
    assert cohort.sql(at).fetchall() == [("full",), ("picture",), ("tile",)]
    # The others are measured as it is, so that one filter means the same on all slides.
    others = "SELECT DISTINCT measured_at FROM qc_slides ORDER BY ALL"
    assert cohort.sql(others).fetchall() == [("full",), ("picture",), ("tile",)]
    again = cohort.qc(slides=["s0"], level="low")
    assert (again.slides, again.unchanged, again.level) == (1, 0, "low")
    assert cohort.sql(others).fetchall() == [("full",), ("low",), ("picture",), ("tile",)]
    assert cohort.sql(at).fetchall() == [("low",), ("picture",), ("tile",)]
    assert rows_of(cohort, "s0").white_fraction.tolist() != full


def test_the_command_measures_new_slides_as_the_others_and_says_so(cohort: sd.Study) -> None:
    path = cohort.path
    cohort.qc(["white_fraction"], slides=["s0", "s1"], level="full")
    full = rows_of(cohort, "s0").white_fraction.tolist()
    cohort.close()
    later = run("qc", path, "--measure", "white_fraction", "--slide", "s0", "--slide", "s2")
    told = "taken from full resolution, as on the other slides of the grid; for all from a low level: --level low"
    assert told in later.stderr.splitlines()
    assert told not in run("qc", path, "--measure", "white_fraction", "--slide", "s2").stderr
    low = run("qc", path, "--measure", "white_fraction", "--level", "low")
    assert (low.exit_code, told in low.stderr) == (0, False)
    with sd.open(path) as study:
        assert study.sql("SELECT DISTINCT measured_at FROM qc_slides").fetchall() == [("low",)]
        assert rows_of(study, "s0").white_fraction.tolist() != full


def test_another_definition_is_measured_anew(cohort: sd.Study) -> None:
    cohort.qc(["white_fraction"])
    cohort.con.execute("UPDATE qc_slides SET settings = '{\"above\":220}' WHERE slide_id = 1")
    assert cohort.qc(["white_fraction"]).slides == 1


def test_numbers_do_not_depend_on_threads_or_on_what_is_asked_together(cohort: sd.Study) -> None:
    cohort.qc(threads=1)
    one_thread = content(cohort)
    for threads in (2, 5):
        cohort.con.execute("DELETE FROM tile_qc")
        cohort.con.execute("DELETE FROM qc_slides")
        cohort.qc(threads=threads)
        assert content(cohort) == one_thread
    cohort.con.execute("DELETE FROM tile_qc")
    cohort.con.execute("DELETE FROM qc_slides")
    for name in reversed(MEASURES):
        cohort.qc([name])
    assert content(cohort) == one_thread


def test_grids_are_measured_apart(cohort: sd.Study) -> None:
    cohort.tile(64, tile_um=64)
    cohort.qc(["brightness"], grid="64px_64um")
    assert cohort.sql("SELECT grid, count(*) FROM tile_qc JOIN grids USING (grid_id) GROUP BY ALL").fetchall() == [
        ("64px_64um", 60)
    ]
    with pytest.raises(StudyError) as caught:
        cohort.qc()
    assert str(caught.value) == "study.duckdb has 2 grids (64px_32um, 64px_64um); name one with `grid`"


def test_slides_that_are_removed_or_change_lose_their_measures(cohort: sd.Study, tmp_path: Path) -> None:
    cohort.qc()
    cohort.remove_slides("s0")
    assert cohort.sql("SELECT count(*), count(DISTINCT slide_id) FROM tile_qc").fetchall() == [(210, 3)]
    assert cohort.sql("SELECT count(DISTINCT slide_id) FROM qc_slides").fetchall() == [(4,)]
    write_slide(tmp_path / "slides" / "s1.tiff", 77, size=(704, 480), mpp=MPP, levels=2)
    cohort.add_slides(tmp_path / "slides" / "s1.tiff")
    assert cohort.sql("SELECT count(DISTINCT slide_id) FROM tile_qc").fetchall() == [(2,)]
    cohort.label()
    assert cohort.qc().slides == 1
    assert len(rows_of(cohort, "s1")) == 77


def test_a_slide_that_cannot_be_read_is_reported_and_the_others_go_on(cohort: sd.Study, tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    (slides / "s1.tiff").rename(slides / "away.tiff")
    write_slide(slides / "s2.tiff", 55, size=(640, 480), mpp=MPP, levels=2)
    report = cohort.qc()
    assert (report.slides, list(report.failed)) == (3, ["s1", "s2"])
    assert report.failed["s1"] == (
        f"slide 's1': {slides / 's1.tiff'} cannot be read: No such file or directory; put the file back, or add it "
        "from where it is now"
    )
    assert report.failed["s2"] == (
        f"slide 's2' has changed: {slides / 's2.tiff'} is not the file that was added; add it again, and lay the grid "
        "anew"
    )
    assert cohort.sql("SELECT DISTINCT slide FROM measured_tile ORDER BY ALL").fetchall() == [("s0",), ("s3",)]
    (slides / "away.tiff").rename(slides / "s1.tiff")
    again = cohort.qc(slides=["s0", "s1", "s3"])
    assert (again.slides, again.unchanged, again.failed) == (1, 2, {})


def test_a_tile_that_cannot_be_decoded_fails_its_slide_alone(tmp_path: Path) -> None:
    for i in range(3):
        write_slide(tmp_path / f"s{i}.tiff", i, size=(1280, 960), mpp=MPP, levels=1)
    data = bytearray((tmp_path / "s1.tiff").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = b"\xff" * 2000
    (tmp_path / "s1.tiff").write_bytes(data)
    with sd.open(tmp_path / "study.duckdb") as study:
        study.add_slides([tmp_path / f"s{i}.tiff" for i in range(3)])
        study.tile(64, tile_um=32)
        for measures in (["blur"], ["brightness"], ["tissue"]):
            report = study.qc(measures, threads=4)
            assert (report.slides, list(report.failed)) == (2, ["s1"]), measures
            assert "s1.tiff" in report.failed["s1"]
        assert study.sql("SELECT slide, count(*) FROM measured_tile GROUP BY ALL ORDER BY ALL").fetchall() == [
            ("s0", 300),
            ("s2", 300),
        ]


def test_killed_at_any_moment_slides_are_whole_and_the_next_call_goes_on(cohort: sd.Study, tmp_path: Path) -> None:
    path = cohort.path
    cohort.close()
    shutil.copy(path, tmp_path / "whole.duckdb")
    with sd.open(tmp_path / "whole.duckdb") as study:
        study.qc()
        expected = content(study)
    script = (
        "import sys, slideduck as sd\nstudy = sd.open(sys.argv[1])\nprint('opened', flush=True)\nstudy.qc(threads=1)\n"
    )
    rng = np.random.default_rng(0)
    for stop in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(float(rng.uniform(0, 0.4)))
        process.send_signal(stop)
        process.communicate(timeout=120)
        with sd.open(path) as study:
            whole = study.sql(
                "SELECT slide_id, count(*), count(*) FILTER (WHERE COLUMNS(t -> t NOT IN ('grid_id')) IS NOT NULL) "
                "FROM tile_qc GROUP BY slide_id"
            ).fetchall()
            assert all(set(row[1:]) == {70} for row in whole)
            assert study.sql("SELECT count(*) FROM qc_slides SEMI JOIN tile_qc USING (slide_id)").fetchall() == [
                (7 * len(whole),)
            ]
    with sd.open(path) as study:
        study.qc()
        assert content(study) == expected


def test_settings_that_are_impossible(cohort: sd.Study) -> None:
    for words, kind, message in (
        ({"measures": ["sharpness"]}, StudyError,
         "there is no measure 'sharpness'; there are brightness, saturation, white_fraction, grey_fraction, blur, "
         "tissue, pen"),
        ({"measures": []}, StudyError,
         "no measure is named; name some of brightness, saturation, white_fraction, grey_fraction, blur, tissue, pen"),
        ({"level": "2"}, ConfigError, "level is '2'; give one of low, full"),
        ({"threads": 0}, ConfigError, "threads is 0; give 1 or more"),
        ({"slides": ["s9"]}, StudyError,
         "grid '64px_32um' does not lie on slide 's9'; see which there are with: slideduck sql study.duckdb 'SELECT "
         "slide FROM slides'; on slides that were added since it is laid with: slideduck label study.duckdb"),
    ):  # fmt: skip
        with pytest.raises(kind) as caught:
            cohort.qc(**words)
        assert str(caught.value) == message


# ------------------------------------------------------------------------------------------- conditions


def test_conditions_filter_labels_and_exports(cohort: sd.Study, tmp_path: Path) -> None:
    cohort.qc()
    threshold = cohort.sql("SELECT median(saturation) FROM tile_qc").fetchall()[0][0]
    where = f"saturation > {threshold} AND slide <> 's0'"
    expected = cohort.sql(f"SELECT tile_id FROM labels WHERE {where} ORDER BY slide, grid_y, grid_x").fetchall()
    assert 0 < len(expected) < 210
    assert cohort.labels(where).project("tile_id").fetchall() == expected
    report = cohort.export(tmp_path / "out.beton", where=where)
    assert report.samples == len(expected)
    assert list(read_sidecar(tmp_path / "out.beton").tile_id) == [name for (name,) in expected]


def test_a_condition_on_what_is_not_measured_is_refused(cohort: sd.Study, tmp_path: Path) -> None:
    where = "kept AND BLUR > 0.0"
    message = (
        "the condition 'kept AND BLUR > 0.0' needs blur, not measured for {} of 280 tiles (grid 64px_32um; slides {}); "
        "measure with: slideduck qc study.duckdb --grid 64px_32um --measure blur, or leave them out by adding AND blur "
        "IS NOT NULL"
    )
    for slides, lacking in ((["s1"], "s0, s2, s3"), (["s0", "s2"], "s3")):
        cohort.qc(["blur"], slides=slides)
        count = 70 * len(lacking.split(", "))
        for ask in (lambda: cohort.labels(where), lambda: cohort.export(tmp_path / "o.beton", where=where)):
            with pytest.raises(StudyError) as caught:
                ask()
            assert str(caught.value) == message.format(count, lacking)
    assert not (tmp_path / "o.beton").exists()
    # Conditions that say what is to become of such tiles, or do not ask for them.
    n_blur = cohort.sql("SELECT count(*) FROM labels WHERE blur > 0.0").fetchall()[0][0]
    for allowed, tiles in (
        ("blur > 0.0 AND blur IS NOT NULL", n_blur),
        ("blur > 0.0 AND slide <> 's3'", n_blur),
        ("coalesce(blur > 0.0, true)", n_blur + 70),
        ("label LIKE 'blur' OR roi_name = 'tissue'", 0),
    ):
        assert len(cohort.labels(allowed).fetchall()) == tiles, allowed
    with pytest.raises(QueryError):
        cohort.labels("blur >")


# ---------------------------------------------------------------------------------------------- the funnel


def test_the_funnel_counts_one_filter_after_the_other(cohort: sd.Study) -> None:
    cohort.qc()
    filters = ["slideflow-grey", "saturation > 0.35", "blur > 150", "label IS NULL"]
    conditions = ["grey_fraction <= 0.6", *filters[1:]]
    frame = cohort.sql("SELECT * FROM labels WHERE kept").df()
    holds = [frame.grey_fraction <= 0.6, frame.saturation > 0.35, frame.blur > 150, frame.label.isna()]
    expected = []
    for slide in (None, "s0", "s1", "s2", "s3"):
        left = frame.slide == slide if slide else frame.slide.notna()
        everything = left
        for step, held in enumerate(holds):
            before, left = left, left & held
            expected.append(
                (
                    slide,
                    step + 1,
                    conditions[step],
                    before.sum(),
                    (before & ~held).sum(),
                    (everything & ~held).sum(),
                    left.sum(),
                )
            )
    assert [tuple(row.values()) for row in cohort.qc_report(filters).to_pylist()] == expected
    assert 0 < expected[1][4] < 280
    assert 0 < expected[2][4] < 280
    some = cohort.qc_report(filters, slides=["s2"]).to_pylist()
    assert [row["slide"] for row in some] == [None] * 4 + ["s2"] * 4
    assert [row["filter"] for row in cohort.qc_report(slides=["s2"]).to_pylist()][:2] == [
        "white_fraction <= 1.0",
        "grey_fraction <= 0.6",
    ]


def test_funnels_that_cannot_be_made(cohort: sd.Study) -> None:
    columns = ", ".join(cohort.sql("FROM labels").columns)
    give = f"give one of slideflow-white, slideflow-grey, or an SQL condition on the columns {columns}"
    with pytest.raises(StudyError) as missing:
        cohort.qc_report()
    assert str(missing.value) == (
        "the condition 'white_fraction <= 1.0' needs white_fraction, not measured for 280 of 280 tiles (grid "
        "64px_32um; slides s0, s1, s2, s3); measure with: slideduck qc study.duckdb --grid 64px_32um --measure "
        "white_fraction, or leave them out by adding AND white_fraction IS NOT NULL"
    )
    cohort.qc()
    for filters, kind, message in (
        (["blur"], QueryError,
         f"the filter 'blur' cannot be used: it is of type DOUBLE, and a condition is true or false; {give}"),
        (["blur > 1", "blur > 1"], StudyError, "the filter 'blur > 1' is given more than once; give each once"),
    ):  # fmt: skip
        with pytest.raises(kind) as caught:
            cohort.qc_report(filters)
        assert str(caught.value) == message
    for bad in ("blur >", "sharpness > 1", "blur > 1, kept", "true) FROM labels; DROP TABLE tile_qc; --"):
        with pytest.raises(QueryError, match=re.escape(f"the filter {bad!r} cannot be used: ")):
            cohort.qc_report([bad])
    with pytest.raises(StudyError) as stranger:
        cohort.qc_report(slides=["s9"])
    assert str(stranger.value) == (
        "grid '64px_32um' does not lie on slide 's9'; see which there are with: slideduck sql study.duckdb "
        "'SELECT slide FROM slides'"
    )


def read_picture(path: Path) -> npt.NDArray[np.int64]:
    picture = cv2.imread(str(path))
    assert picture is not None
    return np.asarray(picture[..., ::-1], dtype=np.int64)


def test_the_overlay_colours_each_tile_by_the_first_filter_that_drops_it(one: sd.Study, tmp_path: Path) -> None:
    one.qc(level="full")
    filters = ["white_fraction < 0.4", "pen < 0.4"]
    out = one.qc_overlay("p", tmp_path / "p.png", filters)
    picture = read_picture(out)
    again = tmp_path / "again.png"
    one.qc_overlay("p", again, filters)
    assert again.read_bytes() == out.read_bytes()
    one.plot_labels("p", tmp_path / "plain.png", tiles=False, rois=False)
    plain = read_picture(tmp_path / "plain.png")
    # The slide is 6.5 inches wide at 200 dots an inch; its corner is where both pictures have its frame.
    scale = 6.5 * 200 / 640
    frame = np.abs(plain - 0x9A).max(-1) < 3
    top = int(np.flatnonzero(frame.sum(1) > 1000)[0])
    left = int(np.flatnonzero(frame[top])[0])

    def colour(image: Any, column: int, row: int) -> Any:
        y, x = int(top + (row * 64 + 20) * scale), int(left + (column * 64 + 20) * scale)
        return image[y - 2 : y + 3, x - 2 : x + 3].mean((0, 1))

    shift = top - int(np.flatnonzero((np.abs(picture - 0x9A).max(-1) < 3).sum(1) > 1000)[0])
    picture = np.roll(picture, shift, axis=0)
    for (column, row), ink in (((0, 0), (0x00, 0x72, 0xB2)), ((7, 0), (0xE6, 0x9F, 0x00)), ((1, 3), None)):
        under = colour(plain, column, row)
        expected = under if ink is None else under * (1 - 0.38) + np.array(ink) * 0.38
        assert colour(picture, column, row) == pytest.approx(expected, abs=6), (column, row)


# ----------------------------------------------------------------------------------------- the command


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A labelled study of two slides of 4 x 3 tiles, in the current folder of the test."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slides").mkdir()
    for i in range(2):
        write_slide(tmp_path / "slides" / f"s{i}.tiff", i, size=(2048, 1536), mpp=MPP, levels=3, tile=256)
    with sd.open("study.duckdb") as study:
        study.add_slides("slides")
        study.tile(256, tile_um=256)
        study.label()
    return tmp_path


def test_the_examples_of_the_help_run(project: Path) -> None:
    lines = examples("qc")
    assert len(lines) == 5
    for line in lines:
        words = shlex.split(line)
        assert words[:2] == ["slideduck", "qc"]
        result = run(*words[1:])
        assert result.exit_code == 0, (line, result.output)
    assert (project / "s0-qc.png").stat().st_size > 0


def test_what_the_command_prints(project: Path) -> None:
    first = run("qc", "study.duckdb", "--measure", "brightness", "--measure", "blur", "--json")
    assert [(row["measure"], row["measured_at"], row["slides"], row["tiles"]) for row in json.loads(first.stdout)] == [
        ("brightness", "low", 2, 24),
        ("blur", "tile", 2, 24),
    ]
    assert re.search(r"^measured 24 tiles on 2 slides, [\d,]+ tiles/s; 0 slides had it already$", first.stderr, re.M)
    second = run("qc", "study.duckdb", "--measure", "blur", "--slide", "s1")
    assert second.stdout.startswith("Measures of grid 256px_256um\n")
    assert second.stderr == "measured 0 tiles on 0 slides; 1 slide had it already\n"
    report = ("qc", "study.duckdb", "--report", "--filter", "brightness > 0", "--slide", "s1")
    assert run(*report, "--csv").stdout == (
        "slide,step,filter,tiles,dropped,dropped_alone,left\n"
        ",1,brightness > 0,12,0,0,12\n"
        "s1,1,brightness > 0,12,0,0,12\n"
    )
    assert run(*report, "--parquet", "r.parquet").stderr == "wrote 2 rows to r.parquet\n"
    assert pq.read_table("r.parquet")["left"].to_pylist() == [12, 12]
    drawn = run("qc", "study.duckdb", "--overlay", "s1", "o.svg", "--filter", "blur > 1e9")
    assert (drawn.exit_code, drawn.stdout, drawn.stderr) == (0, "", "wrote o.svg\n")
    assert (project / "o.svg").read_text().startswith("<?xml")


def test_how_the_command_ends_on_mistakes(project: Path) -> None:
    for words, message in (
        (("--report", "--measure", "blur"),
         "--report and --overlay measure nothing: leave --measure, --level and --threads out"),
        (("--overlay", "s0", "o.png", "--slide", "s0"), "--overlay names its slide itself: leave --slide out"),
        (("--filter", "blur > 1"), "--filter is for --report and --overlay; export takes a condition by --where"),
    ):  # fmt: skip
        result = run("qc", "study.duckdb", *words)
        assert result.exit_code == 2
        assert message in re.sub(r"\s+", " ", result.stderr), words
    shutil.move("slides/s0.tiff", "away.tiff")
    result = run("qc", "study.duckdb", "--measure", "blur", "--csv")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1].startswith("blur,tile,1,12,")
    assert result.stderr.endswith(
        f"error: 1 slide cannot be measured:\n  slide 's0': {project / 'slides/s0.tiff'} cannot be read: No such file "
        "or directory; put the file back, or add it from where it is now\n"
    )
    picture = run("qc", "study.duckdb", "--overlay", "s1", "o.gif", "--filter", "blur > 1")
    assert (picture.exit_code, picture.stderr) == (
        1,
        "error: o.gif has the suffix .gif; name it o.png, o.pdf or o.svg\n",
    )
