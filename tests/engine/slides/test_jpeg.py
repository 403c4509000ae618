"""`slideduck.slides.jpeg`: pixels are FFCV's, to the bit."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
from ffcv.libffcv import imdecode
from hypothesis import given, settings
from hypothesis import strategies as st

from slideduck.errors import BetonError
from slideduck.slides.jpeg import decode_jpeg, encode_jpeg, jpeg_frame
from tests.campaign import cases


def decoded_by_ffcv(data: bytes, width: int, height: int) -> np.ndarray:
    rgb = np.zeros((height, width, 3), np.uint8)
    assert imdecode(np.frombuffer(data, np.uint8), rgb, height, width, height, width) == 0
    return rgb


def tiles_of(path: Path, step: int) -> list[np.ndarray]:
    """Return tiles of 256 px, one every so many base pixels."""
    with openslide.OpenSlide(path) as slide:
        width, height = slide.dimensions
        return [
            np.array(slide.read_region((x, y), 0, (256, 256)).convert("RGB"))
            for y in range(0, height - 256, step)
            for x in range(0, width - 256, step)
        ]


@pytest.fixture(scope="module")
def real_tiles(shared_data: Path) -> list[np.ndarray]:
    names = ("CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs")
    return [tile for name in names for tile in tiles_of(shared_data / name, 700)]


@pytest.mark.parametrize("quality", [1, 60, 90, 97, 100])
@pytest.mark.parametrize("tile_px", [256, 64, 37])
def test_real_tiles_decode_to_the_pixels_of_ffcv(real_tiles: list[np.ndarray], quality: int, tile_px: int) -> None:
    for tile in real_tiles:
        data = encode_jpeg(tile[:tile_px, :tile_px], quality)
        np.testing.assert_array_equal(decode_jpeg(data), decoded_by_ffcv(data, tile_px, tile_px))


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 100), st.integers(0, 2**32 - 1))
@settings(max_examples=cases(100, 2000), deadline=None)
def test_any_image_decodes_to_the_pixels_of_ffcv(width: int, height: int, quality: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    data = encode_jpeg(image, quality)
    np.testing.assert_array_equal(decode_jpeg(data), decoded_by_ffcv(data, width, height))
    assert jpeg_frame(data)[1:] == (width, height)


def test_exact_dct_gives_other_pixels(real_tiles: list[np.ndarray]) -> None:
    """Why `decode_jpeg` is not imagecodecs' decoder."""
    data = encode_jpeg(real_tiles[5], 90)
    assert np.mean(imagecodecs.jpeg8_decode(data) != decode_jpeg(data)) > 0.1


def psnr_and_bytes(tiles: list[np.ndarray], quality: int, subsampling: str) -> tuple[float, float]:
    """Return the peak signal to noise ratio in dB over all tiles, and the mean bytes of a tile."""
    jpegs = [bytes(imagecodecs.jpeg8_encode(tile, level=quality, subsampling=subsampling)) for tile in tiles]
    errors = [
        np.mean(np.square(decoded_by_ffcv(data, 256, 256).astype(np.float32) - tile))
        for tile, data in zip(tiles, jpegs, strict=True)
    ]
    return float(10 * np.log10(255**2 / np.mean(errors))), float(np.mean([len(data) for data in jpegs]))


@pytest.mark.parametrize(
    ("name", "full", "halved"),
    [
        ("CMU-1-Small-Region.svs", (40.8, 18.9), (33.2, 17.1)),
        ("TCGA-CR-7395-01A-01-TS1.svs", (39.1, 23.0), (37.8, 25.0)),
    ],
)
def test_full_colour_beats_subsampled_of_higher_quality(
    shared_data: Path, name: str, full: tuple[float, float], halved: tuple[float, float]
) -> None:
    """The numbers in the docstring of `encode_jpeg`."""
    tiles = tiles_of(shared_data / name, 256)
    for quality, subsampling, (decibels, kilobytes) in ((90, "444", full), (95, "420", halved)):
        measured = psnr_and_bytes(tiles, quality, subsampling)
        assert measured[0] == pytest.approx(decibels, abs=0.06)
        assert measured[1] == pytest.approx(1000 * kilobytes, abs=60)


def test_encoding_is_repeatable_and_takes_views(real_tiles: list[np.ndarray]) -> None:
    view = real_tiles[0][::2, ::-2]
    assert encode_jpeg(view, 90) == encode_jpeg(view.copy(), 90)


@pytest.mark.parametrize("subsampling", ["420", "422"])
def test_subsampled_jpeg_is_refused(real_tiles: list[np.ndarray], subsampling: str) -> None:
    data = bytes(imagecodecs.jpeg8_encode(real_tiles[0], level=90, subsampling=subsampling))
    with pytest.raises(BetonError) as caught:
        decode_jpeg(data)
    assert str(caught.value) == (
        "a JPEG with subsampled chroma or without colour cannot be decoded to FFCV's pixels; "
        "give one that slideduck encoded"
    )


def test_grey_jpeg_is_refused() -> None:
    with pytest.raises(BetonError, match="without colour"):
        decode_jpeg(bytes(imagecodecs.jpeg8_encode(np.zeros((8, 8), np.uint8))))


def test_jpeg_that_is_cut_short_is_refused(real_tiles: list[np.ndarray]) -> None:
    data = encode_jpeg(real_tiles[0][:16, :16], 90)
    for length in range(len(data) - 2):
        with pytest.raises(BetonError, match=f"a JPEG of {length} bytes cannot be decoded: .*; export it again"):
            decode_jpeg(data[:length])


def test_frame_header_of_what_is_no_jpeg() -> None:
    with pytest.raises(ValueError, match="does not begin as a JPEG"):
        jpeg_frame(b"\x89PNG")
    for data in (b"\xff\xd8", b"\xff\xd8" + bytes(20), b"\xff\xd8\xff\xdb\x00\x04\x00\x00\xff\xd9"):
        with pytest.raises(ValueError, match="has no frame header"):
            jpeg_frame(data)
