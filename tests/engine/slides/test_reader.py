"""`slideduck.slides.reader`: the pixels of tiles, and what happens to slides that cannot be read."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from slideduck.errors import SlideError
from slideduck.slides.grid import SlideGrid
from slideduck.slides.identity import SlideFile
from slideduck.slides.reader import TileReader, thumbnail
from tests.campaign import cases
from tests.slides import synthetic_image, write_slide

LEVEL_0 = SlideGrid(extract_px=64, stride=64, n_columns=1, n_rows=1, level=0, level_downsample=1.0, read_px=64)


def slide_grid(read_px: int, *, level: int = 0, downsample: float = 1.0) -> SlideGrid:
    extract_px = round(read_px * downsample)
    return replace(
        LEVEL_0,
        extract_px=extract_px,
        stride=extract_px,
        level=level,
        level_downsample=downsample,
        read_px=read_px,
    )


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return synthetic_image(1, (300, 200))


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory, image: np.ndarray) -> Path:
    """A slide of exact pixels, 300 × 200."""
    return write_slide(tmp_path_factory.mktemp("slides") / "exact.tif", image, compression="deflate", levels=1)


def test_tile_of_its_own_size_is_copied(slide: Path, image: np.ndarray) -> None:
    with TileReader(SlideFile.unchecked(slide), slide_grid(64), 64) as reader:
        np.testing.assert_array_equal(reader.read(100, 37), image[37 : 37 + 64, 100 : 100 + 64])


@given(
    read_px=st.integers(1, 120),
    tile_px=st.integers(1, 120),
    at=st.tuples(st.integers(0, 180), st.integers(0, 80)),
)
@settings(max_examples=cases(60, 1200), deadline=None)
def test_tile_is_averaged_when_shrunk_and_bilinear_when_enlarged(
    slide: Path, image: np.ndarray, read_px: int, tile_px: int, at: tuple[int, int]
) -> None:
    region = image[at[1] : at[1] + read_px, at[0] : at[0] + read_px]
    with TileReader(SlideFile.unchecked(slide), slide_grid(read_px), tile_px) as reader:
        tile = reader.read(*at)
    assert tile.shape == (tile_px, tile_px, 3)
    assert tile.dtype == np.uint8
    how = cv2.INTER_AREA if read_px > tile_px else cv2.INTER_LINEAR
    np.testing.assert_array_equal(tile, cv2.resize(region, (tile_px, tile_px), interpolation=how))
    if read_px % tile_px == 0:
        n = read_px // tile_px
        mean = region.reshape(tile_px, n, tile_px, n, 3).mean((1, 3))
        assert np.abs(tile - mean).max() <= 0.5 + 1e-6


def test_tile_equals_openslide_at_each_level_of_the_real_slides(shared_data: Path) -> None:
    for name, level in (
        ("CMU-1-Small-Region.svs", 0),
        ("TCGA-CR-7395-01A-01-TS1.svs", 0),
        ("TCGA-CR-7395-01A-01-TS1.svs", 1),
    ):
        with openslide.OpenSlide(shared_data / name) as reference:
            expected = np.asarray(reference.read_region((1001, 703), level, (128, 128)).convert("RGB"))
            downsample = reference.level_downsamples[level]
        with TileReader(
            SlideFile.unchecked(shared_data / name), slide_grid(128, level=level, downsample=downsample), 128
        ) as reader:
            np.testing.assert_array_equal(reader.read(1001, 703), expected)


def test_transparent_pixels_show_the_background(shared_data: Path) -> None:
    path = shared_data / "TCGA-CR-7395-01A-01-TS1.svs"
    with openslide.OpenSlide(path) as reference:
        downsample = reference.level_downsamples[1]
        corner = (reference.dimensions[0] - 101, reference.dimensions[1] - 75)
        rgba = np.asarray(reference.read_region(corner, 1, (64, 64))).astype(float)
    alpha = rgba[..., 3:] / 255
    # At the edge of a level that begins between pixels some are half transparent.
    assert {0.0, 1.0} < set(np.unique(alpha))
    background = np.array([0x10, 0x80, 0xFF])
    grid = slide_grid(64, level=1, downsample=downsample)
    with TileReader(SlideFile.unchecked(path), grid, 64, background="1080ff") as reader:
        tile = reader.read(*corner).astype(float)
    np.testing.assert_array_equal(tile[alpha[..., 0] == 1], rgba[..., :3][alpha[..., 0] == 1])
    np.testing.assert_array_equal(tile[alpha[..., 0] == 0], np.broadcast_to(background, tile[alpha[..., 0] == 0].shape))
    # openslide-python rounds down when it takes alpha out of the colour.
    blend = rgba[..., :3] * alpha + background * (1 - alpha)
    assert np.abs(tile - blend).max() <= 1.5


def test_tile_outside_of_the_slide_is_background(slide: Path) -> None:
    with TileReader(SlideFile.unchecked(slide), slide_grid(16), 8) as reader:
        np.testing.assert_array_equal(reader.read(5000, 5000), np.full((8, 8, 3), 255))


def test_threads_get_the_same_pixels(shared_data: Path) -> None:
    places = [(x, y) for x in range(0, 2000, 240) for y in range(0, 1000, 190)]
    with TileReader(SlideFile.unchecked(shared_data / "CMU-1-Small-Region.svs"), slide_grid(200), 64) as reader:
        alone = [reader.read(*place) for place in places]
    order = list(range(len(places))) * 2
    random.Random(0).shuffle(order)
    with (
        TileReader(SlideFile.unchecked(shared_data / "CMU-1-Small-Region.svs"), slide_grid(200), 64) as reader,
        ThreadPoolExecutor(4) as pool,
    ):
        for i, tile in zip(order, pool.map(lambda i: reader.read(*places[i]), order), strict=True):
            np.testing.assert_array_equal(tile, alone[i])


def test_reader_opens_again_after_close(slide: Path, image: np.ndarray) -> None:
    reader = TileReader(SlideFile.unchecked(slide), slide_grid(64), 64)
    reader.close()
    first = reader.read(0, 0)
    reader.close()
    reader.close()
    np.testing.assert_array_equal(reader.read(0, 0), first)
    reader.close()


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Path, tuple[int, int]]:
    """A slide with one stored tile that is no JPEG, and the top left corner of that tile."""
    path = write_slide(tmp_path / "damaged.tif", 3, size=(640, 480), levels=1, tile=64)
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages[0].dataoffsets[35], file.pages[0].databytecounts[35]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * count)
    return path, (35 % 10 * 64, 35 // 10 * 64)


def test_damaged_tile_is_named_and_the_others_are_read(damaged: tuple[Path, tuple[int, int]]) -> None:
    path, bad = damaged
    with TileReader(SlideFile.unchecked(path), slide_grid(64), 64) as reader:
        before = reader.read(0, 0)
        with pytest.raises(SlideError) as caught:
            reader.read(*bad)
        np.testing.assert_array_equal(reader.read(0, 0), before)
    reason = str(caught.value.__cause__)
    assert reason
    assert str(caught.value) == (
        f"slide 'damaged': the tile at base pixel (320, 192), 64 px wide, cannot be read from {path}: "
        f"{reason}; get the file again, or leave the tile or the slide out"
    )


def test_damaged_tile_fails_alone_when_threads_share_the_slide(damaged: tuple[Path, tuple[int, int]]) -> None:
    path, bad = damaged
    places = [(x, y) for y in range(0, 448, 64) for x in range(0, 640, 64)] * 6

    def read(place: tuple[int, int]) -> bool:
        try:
            reader.read(*place)
        except SlideError:
            return False
        return True

    with TileReader(SlideFile.unchecked(path), slide_grid(64), 64) as reader, ThreadPoolExecutor(8) as pool:
        done = list(pool.map(read, places))
    assert [place for place, fine in zip(places, done, strict=True) if not fine] == [bad] * 6


def test_slide_that_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "gone.svs"
    message = f"slide 'gone': there is no file {path}; put the file back, or add it from where it is now"
    for read in (
        lambda: TileReader(SlideFile.unchecked(path), LEVEL_0, 64).read(0, 0),
        lambda: thumbnail(SlideFile.unchecked(path), 100),
    ):
        with pytest.raises(SlideError) as caught:
            read()
        assert str(caught.value) == message


def test_file_that_is_no_slide(tmp_path: Path) -> None:
    path = tmp_path / "text.svs"
    path.write_text("not a slide")
    with pytest.raises(SlideError) as caught:
        TileReader(SlideFile.unchecked(path), LEVEL_0, 64).read(0, 0)
    assert str(caught.value) == (
        f"slide 'text': {path} does not open: Unsupported or missing image file; "
        "get the file again, or leave the slide out"
    )


def test_slide_with_other_levels_than_the_grid_was_laid_on(slide: Path) -> None:
    with pytest.raises(SlideError) as caught:
        TileReader(SlideFile.unchecked(slide), slide_grid(64, level=1, downsample=4.0), 64).read(0, 0)
    assert str(caught.value) == (
        f"slide 'exact' has changed: {slide} has levels of downsample 1, and the grid was laid on level 1 of "
        "downsample 4; add the slide and lay the grid again"
    )


@pytest.mark.parametrize("text", ["white", "FFF", "", "FFFFFFFF"])
def test_background_that_is_no_colour(slide: Path, text: str) -> None:
    with pytest.raises(SlideError) as caught:
        TileReader(SlideFile.unchecked(slide), LEVEL_0, 64, background=text)
    assert str(caught.value) == f"background is {text!r}, not a colour; give it as RRGGBB, such as FFFFFF"


def test_thumbnail_of_a_real_slide(shared_data: Path) -> None:
    rgb, downsample = thumbnail(SlideFile.unchecked(shared_data / "CMU-1-Small-Region.svs"), 300)
    assert rgb.shape == (300, 224, 3)
    assert downsample == 2967 / 300
    with openslide.OpenSlide(shared_data / "CMU-1-Small-Region.svs") as reference:
        whole = np.asarray(reference.read_region((0, 0), 0, reference.dimensions).convert("RGB"))
    np.testing.assert_array_equal(rgb, cv2.resize(whole, (224, 300), interpolation=cv2.INTER_AREA))


def test_thumbnail_reads_a_large_level_in_bands(tmp_path: Path) -> None:
    image = np.full((3000, 6000, 3), 200, np.uint8)
    image[:, :, 0] = np.arange(6000) // 25
    image[:, :, 1] = (np.arange(3000) // 15)[:, None]
    path = write_slide(tmp_path / "large.tif", image, compression="deflate", levels=1, tile=256)
    rgb, downsample = thumbnail(SlideFile.unchecked(path), 240)
    assert (rgb.shape, downsample) == ((120, 240, 3), 25.0)
    expected = image.reshape(120, 25, 240, 25, 3).mean((1, 3))
    assert np.abs(rgb - expected).max() <= 1


def test_thumbnail_does_not_enlarge(slide: Path, image: np.ndarray) -> None:
    rgb, downsample = thumbnail(SlideFile.unchecked(slide), 1000)
    np.testing.assert_array_equal(rgb, image)
    assert downsample == 1.0


def test_thumbnail_of_no_size(slide: Path) -> None:
    with pytest.raises(ValueError, match="max_px is 0; give a positive number of pixels, such as 1024"):
        thumbnail(SlideFile.unchecked(slide), 0)


def test_thumbnail_of_a_damaged_slide(damaged: tuple[Path, tuple[int, int]]) -> None:
    path, _ = damaged
    with pytest.raises(SlideError) as caught:
        thumbnail(SlideFile.unchecked(path), 100)
    reason = str(caught.value.__cause__)
    assert str(caught.value) == (
        f"slide 'damaged': no picture of it can be made, since level 0 of {path} cannot be read: {reason}; "
        "get the file again"
    )
