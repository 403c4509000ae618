"""Tiles read from stored JPEG tiles are OpenSlide's, bit for bit; whatever else a file holds is left to OpenSlide."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import numpy.typing as npt
import openslide
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import slideduck as sd
from slideduck.betons import read_sidecar
from slideduck.errors import SlideError
from slideduck.runner.tiles.decode import decode_as_loader
from slideduck.slides.grid import GridSpec, SlideGrid, lay
from slideduck.slides.identity import SlideFile
from slideduck.slides.reader import TileReader
from slideduck.slides.stored import StoredLevel, find_stored_level
from slideduck.slides.stored_reader import StoredReader, choose_reader
from tests.campaign import cases
from tests.slides import synthetic_image, write_slide
from tests.small_betons import contents, load

RGB = npt.NDArray[np.uint8]
Encode = Callable[[RGB], bytes]
Edit = Callable[[int, bytes], bytes]

ROOT = Path(__file__).resolve().parents[3]
SIDE = 64
PHOTOMETRIC_RGB = 2


# ------------------------------------------------------------------------------------------------ files


def jpeg(subsampling: str = "420", *, rgb: bool = False, quality: int = 90) -> Encode:
    """Return an encoder of tiles; ``rgb`` leaves the components red, green and blue."""
    colours: dict[str, Any] = {"outcolorspace": "RGB"} if rgb else {}

    def encode(tile: RGB) -> bytes:
        return bytes(imagecodecs.jpeg8_encode(tile, level=quality, subsampling=subsampling, **colours))

    return encode


def by_opencv(*flags: int) -> Encode:
    def encode(tile: RGB) -> bytes:
        return bytes(cv2.imencode(".jpg", tile[..., ::-1], list(flags))[1])

    return encode


def headers(data: bytes) -> list[tuple[int, bytes]]:
    """Return the headers of a JPEG: marker and bytes of each; the last is the scan with its data."""
    found, at = [], 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        found.append((data[at + 1], data[at:end]))
        at = end
    return [*found, (0xDA, data[at:])]


def without(data: bytes, *markers: int) -> bytes:
    return b"\xff\xd8" + b"".join(part for marker, part in headers(data) if marker not in markers)


def only(data: bytes, *markers: int) -> bytes:
    return b"\xff\xd8" + b"".join(part for marker, part in headers(data) if marker in markers)


def with_ids(data: bytes, ids: bytes) -> bytes:
    """Name the components of a JPEG."""
    parts = {marker: bytearray(part) for marker, part in headers(data) if marker in (0xC0, 0xDA)}
    parts[0xC0][10::3], parts[0xDA][5:11:2] = ids, ids
    return b"\xff\xd8" + b"".join(bytes(parts.get(marker, part)) for marker, part in headers(data))


def same(_: int, data: bytes) -> bytes:
    return data


def page(
    image: RGB,
    *,
    tile: tuple[int, int] = (SIDE, SIDE),
    encode: Encode | None = None,
    edit: Edit = same,
    reduced: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Return a page of JPEG tiles of ``tile`` (height, width); `edit` has the last word, b"" leaves one out."""
    encode = encode or jpeg()
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % tile[0]), (0, -width % tile[1]), (0, 0)), mode="edge")
    corners = product(range(0, height, tile[0]), range(0, width, tile[1]))
    parts = [np.ascontiguousarray(padded[y : y + tile[0], x : x + tile[1]]) for y, x in corners]
    return {
        "data": iter([edit(i, encode(part)) for i, part in enumerate(parts)]),
        "shape": image.shape,
        "dtype": "uint8",
        "tile": tile,
        "photometric": "ycbcr",
        "subsampling": (2, 2),
        "compression": "jpeg",
        "subfiletype": int(reduced),
        "metadata": None,
        **options,
    }


def plain(image: RGB, compression: str | None, *, reduced: bool = False, **options: Any) -> dict[str, Any]:
    """Return a page that tifffile encodes."""
    return {
        "data": image,
        "tile": (SIDE, SIDE),
        "photometric": "rgb",
        "compression": compression,
        "subfiletype": int(reduced),
        "metadata": None,
        **options,
    }


def write(path: Path, *pages: dict[str, Any], rgb: Sequence[int] = (), **options: Any) -> Path:
    """Write pages; the TIFF says that those of numbers ``rgb`` have red, green and blue components."""
    with tifffile.TiffWriter(path, **options) as writer:
        for one in pages:
            writer.write(**one)
    for number in rgb:
        # tifffile writes YCbCr there whatever it is told.
        with tifffile.TiffFile(path, mode="r+") as tiff:
            tiff.pages[number].tags["PhotometricInterpretation"].overwrite(PHOTOMETRIC_RGB)
    return path


def halved(image: RGB) -> RGB:
    size = (image.shape[1] // 2, image.shape[0] // 2)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


@pytest.fixture(scope="module")
def image() -> RGB:
    return synthetic_image(3, (300, 216))


# ---------------------------------------------------------------------------------------------- readers


def layout(
    path: Path, tile_px: int, level: int = 0, *, stride_div: float = 1, origin: int = 0
) -> tuple[SlideGrid, Any]:
    """Return a grid on a slide of 1 micron a pixel, and the corners of its tiles."""
    with openslide.OpenSlide(path) as slide:
        downsamples = slide.level_downsamples
        spec = GridSpec(tile_px, tile_px * downsamples[level] + 1e-6, None, stride_div, origin, origin)
        grid = lay(spec, path.stem, slide.dimensions[0], slide.dimensions[1], 1.0, downsamples)
    at = [
        (origin + x * grid.stride, origin + y * grid.stride) for y in range(grid.n_rows) for x in range(grid.n_columns)
    ]
    return grid, np.array(at, np.int64).reshape(-1, 2)


def chosen(path: Path, tile_px: int = SIDE, level: int = 0, **how: Any) -> tuple[TileReader | StoredReader, str | None]:
    grid, at = layout(path, tile_px, level, **how)
    return choose_reader(TileReader(SlideFile.unchecked(path), grid, tile_px), at[:, 0], at[:, 1])


def stored_reader(path: Path, tile_px: int = SIDE, level: int = 0, **how: Any) -> StoredReader:
    """Return the reader of stored tiles, whatever a comparison would say."""
    grid, _ = layout(path, tile_px, level, **how)
    reference = TileReader(SlideFile.unchecked(path), grid, tile_px)
    found = find_stored_level(SlideFile.unchecked(path), *reference.level_size())
    assert isinstance(found, StoredLevel), found
    return StoredReader(found, reference)


def outcome(read: Callable[[int, int], RGB], x: int, y: int) -> bytes | str:
    """Return the pixels of a tile, or what the error says."""
    try:
        return read(x, y).tobytes()
    except SlideError as error:
        return str(error)


def assert_same(reader: TileReader | StoredReader, at: npt.NDArray[np.int64]) -> int:
    """Compare every tile with OpenSlide, and return how many could not be read by either."""
    refused = 0
    with TileReader(SlideFile.unchecked(reader.path), reader.slide_grid, reader.tile_px) as reference:
        for x, y in at.tolist():
            expected = outcome(reference.read, x, y)
            assert outcome(reader.read, x, y) == expected, (x, y)
            refused += isinstance(expected, str)
    return refused


# ------------------------------------------------------------------------------------------------ forms


def pyramid(path: Path, image: RGB) -> Path:
    """Write a pyramid whose levels, their order and their tiles differ, beside pictures of other sizes."""
    half, quarter = halved(image), halved(halved(image))
    small = plain(halved(quarter), None, tile=None)
    return write(
        path, page(image), small, page(quarter, reduced=True, tile=(32, 48)), page(half, reduced=True, tile=(80, 32))
    )


def rounded(path: Path, image: RGB) -> Path:
    """Write two levels of which the second is 2.0005 times smaller."""
    wide = np.tile(image[:128], (1, 7, 1))[:, :2001]
    return write(path, page(wide), page(np.ascontiguousarray(halved(wide)[:, :1000]), reduced=True))


def sparse(path: Path, image: RGB, vendor: str = "generic") -> Path:
    """Write a pyramid of which some tiles of the first level are not there."""
    aperio: dict[str, Any] = {"description": "Aperio Image Library v1\nx|MPP = 1"} if vendor == "aperio" else {}
    base = page(image, edit=lambda i, data: b"" if i in (0, 7, 13) else data, **aperio)
    return write(path, base, page(halved(image), reduced=vendor == "generic", **aperio))


def shared_tables(path: Path, image: RGB) -> Path:
    """Write a slide that keeps its tables once, as scanners do."""
    tables = only(jpeg()(image[:SIDE, :SIDE].copy()), 0xDB, 0xC4)
    return write(path, page(image, edit=lambda _, data: without(data, 0xDB, 0xC4), jpegtables=tables + b"\xff\xd9"))


def subifds(path: Path, image: RGB) -> Path:
    first = page(image)
    with tifffile.TiffWriter(path) as writer:
        writer.write(**first, subifds=1)
        writer.write(**page(halved(image), reduced=True))
    return path


def overlapping_sizes(path: Path, image: RGB) -> Path:
    """Write a page of the level's size in strips; it is no level."""
    return write(path, page(image), plain(image, None, tile=None, rowsperstrip=16))


READABLE: dict[str, Callable[[Path, RGB], Path]] = {
    "4:2:0": lambda path, image: write(path, page(image)),
    "4:2:2": lambda path, image: write(path, page(image, encode=jpeg("422"), subsampling=(2, 1))),
    "4:4:4": lambda path, image: write(path, page(image, encode=jpeg("444"), subsampling=(1, 1))),
    "sampling that the TIFF says wrong": lambda path, image: write(path, page(image, subsampling=(1, 1))),
    "gradient, not smooth": lambda path, image: write(path, page(np.ascontiguousarray(image[::-1, ::3]))),
    "optimised tables": lambda path, image: write(path, page(image, encode=by_opencv(cv2.IMWRITE_JPEG_OPTIMIZE, 1))),
    "RGB with Adobe's marker": lambda path, image: write(path, page(image, encode=jpeg("444", rgb=True)), rgb=[0]),
    "RGB without a marker": lambda path, image: write(
        path,
        page(image, encode=jpeg("444", rgb=True), edit=lambda _, d: with_ids(without(d, 0xEE), b"\1\2\3")),
        rgb=[0],
    ),
    "RGB by the names of its components": lambda path, image: write(
        path, page(image, encode=jpeg("444", rgb=True), edit=lambda _, d: without(d, 0xEE)), rgb=[0]
    ),
    "YCbCr without a marker": lambda path, image: write(path, page(image, edit=lambda _, d: without(d, 0xE0))),
    "YCbCr that the TIFF calls RGB": lambda path, image: write(path, page(image), rgb=[0]),
    "RGB that the TIFF calls YCbCr": lambda path, image: write(path, page(image, encode=jpeg("444", rgb=True))),
    "tables kept once": shared_tables,
    "tiles that are not square": lambda path, image: write(path, page(image, tile=(48, 96))),
    "tiles larger than the slide": lambda path, image: write(path, page(image, tile=(512, 512))),
    "BigTIFF": lambda path, image: write(path, page(image), bigtiff=True),
    "bytes after the end of each tile": lambda path, image: write(path, page(image, edit=lambda _, d: d + b"\0" * 9)),
    "turned by its orientation tag": lambda path, image: write(path, page(image, extratags=[(274, 3, 1, 6, True)])),
    "with a colour profile": lambda path, image: write(path, page(image, iccprofile=bytes(128))),
    "pyramid": pyramid,
    "rounded pyramid": rounded,
    "sparse": sparse,
    "sparse, Aperio": lambda path, image: sparse(path, image, "aperio"),
    "Aperio": lambda path, image: write_slide(path, image, vendor="aperio", mpp=1, levels=3),
    "SubIFDs": subifds,
    "a striped page of the same size": overlapping_sizes,
}


@pytest.mark.parametrize("form", READABLE)
def test_every_tile_of_every_grid_is_openslides(form: str, image: RGB, tmp_path: Path) -> None:
    path = READABLE[form](tmp_path / "slide.tif", image)
    with openslide.OpenSlide(path) as slide:
        levels = range(slide.level_count)
    for level, tile_px, stride_div in product(levels, (40, SIDE, 100), (1, 2, 3)):
        origin = 8 if stride_div == 2 else 0
        _, at = layout(path, tile_px, level, stride_div=stride_div, origin=origin)
        if not len(at):
            continue
        reader, why = chosen(path, tile_px, level, stride_div=stride_div, origin=origin)
        # A level's pixels do not lie on base pixels where it is not a whole number of times smaller; and OpenSlide
        # paints what lies below the missing tiles of an Aperio slide from the level above.
        allowed = {"rounded pyramid": "no tile lies on whole pixels of stored tiles",
                   "sparse, Aperio": "a larger level of the file lacks tiles"}  # fmt: skip
        if not level or why != allowed.get(form):
            assert (reader.name, why) == ("tiff", None), (level, tile_px, stride_div)
        with reader:
            assert assert_same(reader, at) == 0


JPEG_2000: dict[str, Any] = {"compression": "aperio_jp2000_rgb", "compressionargs": {"level": 80}}

LEFT_TO_OPENSLIDE: dict[str, tuple[Callable[[Path, RGB], Path], str]] = {
    "uncompressed": (
        lambda path, image: write(path, plain(image, None)),
        "its tiles are compressed by NONE",
    ),
    "LZW": (
        lambda path, image: write(path, plain(image, "lzw", predictor=True)),
        "its tiles are compressed by LZW",
    ),
    "deflate": (
        lambda path, image: write(path, plain(image, "deflate")),
        "its tiles are compressed by DEFLATE",
    ),
    "JPEG 2000": (
        lambda path, image: write(
            path,
            plain(image, **JPEG_2000, description="Aperio Image Library v1\nx|MPP = 1"),
        ),
        "its tiles are compressed by APERIO_JP2000_RGB",
    ),
    "strips": (
        lambda path, image: write(path, plain(image, None), page(halved(image), reduced=True)),
        "its tiles are compressed by NONE",
    ),
    "grey": (
        lambda path, image: write(
            path, plain(np.ascontiguousarray(image[..., 1]), "deflate", photometric="minisblack")
        ),
        "its tiles are compressed by DEFLATE",
    ),
    "two pages of the size": (
        lambda path, image: write(path, page(image), page(image)),
        "2 pages of the file are tiled and 300 x 216 px",
    ),
    "progressive": (
        lambda path, image: write(path, page(image, encode=by_opencv(cv2.IMWRITE_JPEG_PROGRESSIVE, 1))),
        "has the marker C2: it is no sequential JPEG",
    ),
    "restart markers": (
        lambda path, image: write(path, page(image, encode=by_opencv(cv2.IMWRITE_JPEG_RST_INTERVAL, 2))),
        "has restart markers",
    ),
    "fill bytes": (
        lambda path, image: write(path, page(image, edit=lambda _, d: d[:2] + b"\xff\xff" + d[2:])),
        "ends within its headers",
    ),
    "one tile in a sampled place that ends early": (
        lambda path, image: write(path, page(image, edit=lambda i, d: d if i else d[:-200])),
        "has no end",
    ),
}


@pytest.mark.parametrize("form", LEFT_TO_OPENSLIDE)
def test_what_scanners_do_not_write_is_left_to_openslide(form: str, image: RGB, tmp_path: Path) -> None:
    make, reason = LEFT_TO_OPENSLIDE[form]
    path = make(tmp_path / "slide.svs", image)
    reader, why = chosen(path)
    assert reader.name == "openslide"
    assert why is not None
    assert why == reason or (why.startswith("stored tile (0, 0), ") and why.endswith(f" {reason}")), why
    grid, at = layout(path, SIDE)
    with pytest.raises(SlideError) as refused:
        choose_reader(TileReader(SlideFile.unchecked(path), grid, SIDE), at[:, 0], at[:, 1], "tiff")
    assert str(refused.value) == (
        f"slide 'slide' cannot be read by the reader 'tiff': {why}; choose the reader auto or openslide"
    )
    by_name, nothing = choose_reader(TileReader(SlideFile.unchecked(path), grid, SIDE), at[:, 0], at[:, 1], "openslide")
    assert (by_name.name, nothing) == ("openslide", None)
    if isinstance(find_stored_level(SlideFile.unchecked(path), 300, 216), StoredLevel):
        # Forced, it is not wrong either.
        with stored_reader(path) as forced:
            assert_same(forced, at)


def test_real_slides(shared_data: Path) -> None:
    path = shared_data / "CMU-1-Small-Region.svs"
    for tile_px, stride_div, origin in ((240, 1, 0), (256, 1, 0), (100, 1, 13), (300, 2, 0)):
        _, at = layout(path, tile_px, stride_div=stride_div, origin=origin)
        reader, why = chosen(path, tile_px, stride_div=stride_div, origin=origin)
        assert (reader.name, why) == ("tiff", None)
        with reader:
            assert assert_same(reader, at) == 0
    reader, why = chosen(shared_data / "TCGA-CR-7395-01A-01-TS1.svs", 256)
    assert (reader.name, why) == ("openslide", "its tiles are compressed by APERIO_JP2000_RGB")


def test_no_tiles_and_no_tiff(image: RGB, tmp_path: Path) -> None:
    path = write(tmp_path / "slide.tif", page(image))
    grid, _ = layout(path, SIDE)
    nothing = np.zeros(0, np.int64)
    reader, why = choose_reader(TileReader(SlideFile.unchecked(path), grid, SIDE), nothing, nothing)
    assert (reader.name, why) == ("openslide", "there is no tile to compare")
    text = tmp_path / "text.svs"
    text.write_text("no slide")
    assert (
        find_stored_level(SlideFile.unchecked(text), 300, 216)
        == "not a TIFF that can be read by tile: not a TIFF file: header=b'no s'"
    )
    missing = find_stored_level(SlideFile.unchecked(tmp_path / "gone.svs"), 300, 216)
    assert isinstance(missing, str)
    assert "No such file" in missing


# ------------------------------------------------------------------------------------- one tile is unlike the others

#: The tile in column 1, row 2; it is none of those that are compared beforehand.
ODD, ODD_PLACE = 11, (64, 128)


def other_colours(_: RGB) -> dict[str, Edit]:
    rgb = jpeg("444", rgb=True)(synthetic_image(9, (SIDE, SIDE)))
    return {
        "Adobe's marker says RGB": lambda i, d: rgb if i == ODD else d,
        "its components are called R, G, B": lambda i, d: with_ids(without(d, 0xE0), b"RGB") if i == ODD else d,
        "two markers": lambda i, d: d[:2] + headers(rgb)[0][1] + d[2:] if i == ODD else d,
    }


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut in its data": lambda d: d[:-150],
    "cut in its headers": lambda d: d[:100],
    "no end": lambda d: d[:-2],
    "zeros for its last bytes": lambda d: d[:-150] + bytes(150),
    "an end amid its data": lambda d: d[:-400] + b"\xff\xd9",
    "an end within a header": lambda d: d[:2] + b"\xff\xfe\x00\x04\xff\xd9" + d[2:-150],
    "no JPEG": lambda _: b"rubbish " * 30,
    "a byte": lambda _: b"\xff",
    "another size": lambda _: jpeg()(synthetic_image(1, (32, 32))),
    "grey": lambda _: bytes(imagecodecs.jpeg8_encode(synthetic_image(1, (SIDE, SIDE))[..., 0].copy())),
    "lossless": lambda _: bytes(imagecodecs.jpeg8_encode(synthetic_image(1, (SIDE, SIDE)), lossless=True)),
    "bytes between its headers": lambda d: without(d)[:2] + headers(d)[0][1] + b"abc" + without(d, 0xE0)[2:],
    "unknown Adobe colours": lambda d: d[:2] + b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0\2" + without(d, 0xE0)[2:],
    "progressive": lambda _: by_opencv(cv2.IMWRITE_JPEG_PROGRESSIVE, 1)(synthetic_image(1, (SIDE, SIDE))),
    "restart markers": lambda _: by_opencv(cv2.IMWRITE_JPEG_RST_INTERVAL, 1)(synthetic_image(1, (SIDE, SIDE))),
    "fill bytes": lambda d: d[:2] + b"\xff\xff\xff" + d[2:],
    "all grey": lambda _: jpeg()(np.full((SIDE, SIDE, 3), 128, np.uint8)),
}


@pytest.mark.parametrize("name", other_colours(np.empty(0, np.uint8)))
def test_the_tiff_says_what_the_colours_of_a_tile_are(name: str, image: RGB, tmp_path: Path) -> None:
    path = write(tmp_path / "slide.tif", page(image, edit=other_colours(image)[name]))
    reader, why = chosen(path)
    assert (reader.name, why) == ("tiff", None)
    _, at = layout(path, SIDE)
    with reader:
        assert assert_same(reader, at) == 0
        # Passed through, it says so itself.
        passed = reader.stored_jpeg(*ODD_PLACE)
        assert passed is not None
        np.testing.assert_array_equal(imagecodecs.jpeg8_decode(passed), reader.read(*ODD_PLACE))
        np.testing.assert_allclose(decode_as_loader(passed, SIDE), reader.read(*ODD_PLACE).astype(int), atol=24)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_tile_is_read_by_openslide_or_refused(name: str, image: RGB, tmp_path: Path) -> None:
    edit: Edit = lambda i, d: DAMAGES[name](d) if i == ODD else d  # noqa: E731
    path = write(tmp_path / "slide.tif", page(image, edit=edit))
    for tile_px, stride_div in ((SIDE, 1), (40, 1), (100, 2)):
        _, at = layout(path, tile_px, stride_div=stride_div)
        with stored_reader(path, tile_px, stride_div=stride_div) as reader:
            refused = assert_same(reader, at)
        is_read = name in ("progressive", "restart markers", "fill bytes", "all grey")
        assert (refused == 0) == is_read
    with stored_reader(path) as reader:
        if name not in ("an end amid its data", "all grey"):
            # What its headers do not show is not looked at.
            assert reader.stored_jpeg(*ODD_PLACE) is None
        assert reader.is_stored(*ODD_PLACE)


@given(
    kind=st.sampled_from(("flip", "zero", "insert", "delete", "cut")),
    part=st.floats(0, 1, exclude_max=True),
    value=st.integers(0, 255),
    length=st.integers(1, 40),
)
@settings(max_examples=cases(120, 2400), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_never_gives_other_pixels(
    kind: str, part: float, value: int, length: int, image: RGB, tmp_path: Path
) -> None:
    """Damage of headers, and loss of the end, is noticed whenever OpenSlide notices it."""

    def damaged(i: int, data: bytes) -> bytes:
        if i != ODD:
            return data
        at = int(part * (len(data) if kind == "cut" else data.rindex(b"\xff\xda") + 12))
        if kind == "flip":
            return data[:at] + bytes([data[at] ^ (value or 1)]) + data[at + 1 :]
        if kind == "zero":
            return data[:at] + bytes(min(length, len(data) - at)) + data[at + length :]
        if kind == "insert":
            return data[:at] + bytes([value]) * length + data[at:]
        return data[:at] + (data[at + length :] if kind == "delete" else b"")

    path = write(tmp_path / "slide.tif", page(image, edit=damaged))
    with stored_reader(path) as reader, TileReader(SlideFile.unchecked(path), reader.slide_grid, SIDE) as reference:
        expected = outcome(reference.read, *ODD_PLACE)
        found = outcome(reader.read, *ODD_PLACE)
        assert found == expected or (isinstance(expected, str) and "Corrupt JPEG data: bad Huffman" in expected)


DAMAGED_TIFFS = cases(40, 1600)


def try_damaged_tiffs(first: int, folder: Path) -> None:
    """Read TIFFs with a few damaged tags; what is not refused has OpenSlide's pixels. Prints each seed beforehand."""
    path = write(folder / "slide.tif", page(synthetic_image(3, (192, 128))))
    good = path.read_bytes()
    whole, _ = chosen(path)
    whole.close()
    at = np.array([(x, y) for y in (0, SIDE) for x in (0, SIDE, 128)])
    start = int.from_bytes(good[4:8], "little")
    for seed in range(first, DAMAGED_TIFFS):
        print(seed, flush=True)
        rng = random.Random(seed)
        content = bytearray(good)
        # The tags, and the offsets and sizes of tiles.
        for _ in range(rng.randrange(1, 4)):
            content[rng.randrange(start, min(start + 300, len(good)))] = rng.randrange(256)
        path.write_bytes(content)
        try:
            reader, _ = choose_reader(TileReader(SlideFile.unchecked(path), whole.slide_grid, SIDE), at[:, 0], at[:, 1])
        except SlideError:
            continue
        with reader:
            assert_same(reader, at)


def test_a_damaged_tiff_is_read_by_openslide_or_refused(tmp_path: Path) -> None:
    # In a process of its own: libopenslide aborts on some, and what it does is not what is tested here.
    script = f"from tests.engine.slides.test_stored import *; try_damaged_tiffs({{}}, Path({str(tmp_path)!r}))"
    first = aborted = 0
    while first < DAMAGED_TIFFS:
        words = [sys.executable, "-X", "faulthandler", "-c", script.format(first)]
        child = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        if child.returncode == 0:
            break
        assert child.returncode in (-signal.SIGABRT, -signal.SIGSEGV), child.stderr
        frames = [line for line in child.stderr.splitlines() if line.lstrip().startswith("File ")]
        assert "openslide/lowlevel.py" in frames[0], child.stderr
        first = int(child.stdout.split()[-1]) + 1
        aborted += 1
    assert aborted <= DAMAGED_TIFFS // 10


def test_a_file_that_is_cut_short(image: RGB, tmp_path: Path) -> None:
    path = write(tmp_path / "slide.tif", page(image))
    _, at = layout(path, 40)
    with TileReader(SlideFile.unchecked(path), layout(path, 40)[0], 40) as reference:
        whole = [reference.read(x, y).tobytes() for x, y in at.tolist()]
    with stored_reader(path, 40) as reader:
        last = int(reader.level.offsets.argmax())
        size, offset = int(reader.level.counts[last]), int(reader.level.offsets[last])
        os.truncate(path, offset + 100)
        found = [outcome(reader.read, x, y) for x, y in at.tolist()]
        assert found[:-1] == whole[:-1]
        assert isinstance(found[-1], str)
        assert found[-1].startswith(f"slide 'slide': {path} does not open: Cannot hash TIFF tiles: Short read of file")
        with pytest.raises(ValueError) as error:
            reader.read_stored(*at[-1].tolist())
    assert str(error.value) == f"stored tile (4, 3), {size} bytes at {offset}, ends behind the end of the file"


# --------------------------------------------------------------------------------------- threads, memory


@pytest.mark.parametrize(("tile_px", "stride_div"), [(SIDE, 1), (40, 1), (100, 3)])
def test_threads_share_what_is_decoded(tile_px: int, stride_div: int, image: RGB, tmp_path: Path) -> None:
    path = write(tmp_path / "slide.tif", page(image))
    _, at = layout(path, tile_px, stride_div=stride_div)
    with stored_reader(path, tile_px, stride_div=stride_div) as reader:
        expected = {(x, y): reader.reference.read(x, y).tobytes() for x, y in at.tolist()}
        order = [place for _ in range(1 if tile_px == SIDE else 8) for place in expected]
        random.Random(1).shuffle(order)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda place: reader.read(*place).tobytes(), order, timeout=60))
        assert found == [expected[place] for place in order]
        end = at.max(axis=0) + tile_px
        assert reader.n_decoded == int(np.prod(-(-end // SIDE)))


def test_an_error_in_one_thread_leaves_the_others_alone(image: RGB, tmp_path: Path) -> None:
    edit: Edit = lambda i, d: d[:-150] if i == ODD else d  # noqa: E731
    path = write(tmp_path / "slide.tif", page(image, edit=edit))
    _, at = layout(path, 40, stride_div=2)
    with stored_reader(path, 40, stride_div=2) as reader:
        with TileReader(SlideFile.unchecked(path), reader.slide_grid, 40) as reference:
            expected = {(x, y): outcome(reference.read, x, y) for x, y in at.tolist()}
        order = list(expected) * 4
        random.Random(2).shuffle(order)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda place: outcome(reader.read, *place), order, timeout=60))
    assert found == [expected[place] for place in order]
    assert any(isinstance(tile, str) for tile in found)


def test_memory_is_bounded_on_a_wide_slide(tmp_path: Path) -> None:
    side, columns = 256, 1900
    tile = jpeg()(synthetic_image(5, (side, side)))
    shape = {"shape": (side, side * columns, 3), "tile": (side, side), "data": iter([tile] * columns)}
    path = write(tmp_path / "wide.tif", page(np.zeros((side, side, 3), np.uint8)) | shape)
    _, at = layout(path, side, origin=0, stride_div=2)
    with stored_reader(path, side, stride_div=2) as reader:
        tracemalloc.start()
        try:
            with ThreadPoolExecutor(2) as pool:
                for _ in pool.map(lambda place: reader.read(*place).size, at.tolist()):
                    pass
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert reader.n_decoded == columns
    # All of them are 356 MiB.
    assert peak < 290 << 20


MANY_SLIDES = """
import resource, sys
import slideduck as sd
with sd.open(sys.argv[1]) as study:
    used = len(__import__("os").listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 60, used + 60))
    report = study.export(sys.argv[2], where=None, threads=8, jpeg=sys.argv[3])
    print(report.samples, report.passed_through, report.readers)
"""


def test_files_are_open_for_a_few_slides_at_a_time(tmp_path: Path) -> None:
    """More slides than the process may open files."""
    first = write_slide(tmp_path / "s000.svs", 0, size=(160, 96), vendor="aperio", levels=1)
    for i in range(1, 150):
        (tmp_path / f"s{i:03}.svs").write_bytes(first.read_bytes())
    with sd.open(tmp_path / "study.duckdb") as study:
        study.add_slides(tmp_path)
        study.tile(SIDE, tile_um=SIDE / 2)
        study.label()
    for jpeg_mode, passed in (("auto", 300), ("reencode", 0)):
        words = [
            sys.executable,
            "-c",
            MANY_SLIDES,
            str(tmp_path / "study.duckdb"),
            str(tmp_path / "o.beton"),
            jpeg_mode,
        ]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        assert done.stdout == f"300 {passed} {{'tiff': 150}}\n", done.stderr


def test_a_closed_reader_opens_again(image: RGB, tmp_path: Path) -> None:
    path = write(tmp_path / "slide.tif", page(image))
    reader = stored_reader(path, 40)
    reader.close()
    before = len(os.listdir("/proc/self/fd"))
    first = reader.read(0, 0).copy()
    assert len(os.listdir("/proc/self/fd")) == before + 1
    for _ in range(3):
        reader.close()
        assert len(os.listdir("/proc/self/fd")) == before
        np.testing.assert_array_equal(reader.read(0, 0), first)
    reader.close()
    reader.close()
    path.unlink()
    with pytest.raises(SlideError) as error:
        reader.read(0, 0)
    assert str(error.value) == (
        f"slide 'slide': {path} does not open: No such file or directory; get the file again, or leave the slide out"
    )
    assert threading.active_count() < 50


# ------------------------------------------------------------------------------------------ pass-through


@pytest.mark.parametrize("form", [form for form in READABLE if form not in ("tiles that are not square",)])
def test_a_stored_jpeg_has_openslides_pixels(form: str, image: RGB, tmp_path: Path) -> None:
    path = READABLE[form](tmp_path / "slide.tif", image)
    with openslide.OpenSlide(path) as slide:
        sides = [int(slide.properties[f"openslide.level[{i}].tile-width"]) for i in range(slide.level_count)]
    for level, side in enumerate(sides if form != "sparse, Aperio" else sides[:1]):
        grid, at = layout(path, side, level)
        if not len(at) or (grid.level, grid.read_px) != (level, side):
            continue
        with stored_reader(path, side, level) as reader:
            for x, y in at.tolist():
                data = reader.stored_jpeg(x, y)
                assert (data is not None) == reader.is_stored(x, y)
                if data is not None:
                    assert data.endswith(b"\xff\xd9")
                    pixels = reader.reference.read(x, y)
                    np.testing.assert_array_equal(imagecodecs.jpeg8_decode(data), pixels)
                    # The fast DCT, and for subsampled chroma its plain upsampling, are a few levels off.
                    loaded = decode_as_loader(data, side)
                    assert loaded.shape == pixels.shape
                    assert np.abs(loaded.astype(int) - pixels).mean() < 3


def test_only_whole_stored_tiles_are_passed_through(image: RGB, tmp_path: Path) -> None:
    path = write(tmp_path / "slide.tif", page(image, edit=lambda i, d: b"" if i == 7 else d))
    with stored_reader(path) as reader:
        _, at = layout(path, SIDE)
        stored = {(x, y) for x, y in at.tolist() if reader.stored_jpeg(x, y) is not None}
        # Four columns and three rows are whole, of five and four that are stored.
        assert stored == {(x, y) for x in (0, 64, 128, 192) for y in (0, 64, 128)} - {(128, 64)}
        assert all(reader.stored_jpeg(*place) is None for place in ((32, 0), (0, 1), (256, 0), (0, 192), (-64, 0)))
        first = reader.level.offsets[0]
        content = path.read_bytes()[first : first + reader.level.counts[0]]
        assert reader.stored_jpeg(0, 0) == content
    for tile_px, how in ((40, {}), (128, {}), (SIDE, {"origin": 7})):
        with stored_reader(path, tile_px, **how) as reader:
            _, at = layout(path, tile_px, **how)
            assert not any(reader.is_stored(x, y) for x, y in at.tolist())


def test_sampling_that_ffcv_does_not_read_is_not_passed_through(image: RGB, tmp_path: Path) -> None:
    def chroma_2x1(_: int, data: bytes) -> bytes:
        """Say that both chroma components are sampled as luma is across: 4:4:0 in a way without a name."""
        parts = [bytearray(part) for _, part in headers(data)]
        frame = next(part for part in parts if part[1] == 0xC0)
        frame[11::3] = b"\x22\x22\x22"
        return b"\xff\xd8" + b"".join(parts)

    path = write(tmp_path / "slide.tif", page(image, encode=jpeg("444"), edit=chroma_2x1))
    with stored_reader(path) as reader:
        _, at = layout(path, SIDE)
        assert_same(reader, at)
        assert reader.stored_jpeg(0, 0) is None


# -------------------------------------------------------------------------------------------- the beton


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of slides of one resolution and tile size, with colours stored in different ways."""
    folder = tmp_path_factory.mktemp("slides")
    pictures = [synthetic_image(seed, (300, 216)) for seed in range(4)]
    mpp: dict[str, Any] = {"resolution": (10_000, 10_000), "resolutionunit": "CENTIMETER"}
    write(folder / "a.tif", page(pictures[0], encode=jpeg(quality=70), **mpp))
    write(folder / "b.tif", page(pictures[1], encode=jpeg("444", rgb=True), **mpp), rgb=[0])
    write(
        folder / "c.tif", page(pictures[2], encode=jpeg("422"), edit=other_colours(pictures[2])["two markers"], **mpp)
    )
    write(folder / "d.tif", plain(pictures[3], "deflate", **mpp))
    return folder


@pytest.fixture
def native_study(slides: Path, tmp_path: Path) -> Iterator[sd.Study]:
    with sd.open(tmp_path / "study.duckdb") as study:
        study.add_slides(slides)
        study.tile(SIDE, tile_um=SIDE)
        study.label()
        yield study


def references(study: sd.Study) -> list[RGB]:
    """Return every tile of the study by OpenSlide."""
    found = []
    for name, path in study.sql("SELECT slide, path FROM slides ORDER BY slide").fetchall():
        grid, at = layout(Path(path), SIDE)
        with TileReader(SlideFile.unchecked(path), grid, SIDE) as reader:
            found += [reader.read(x, y) for x, y in at.tolist()]
        assert name
    return found


def psnr(a: RGB, b: RGB) -> float:
    return float(10 * np.log10(255**2 / max(float(np.mean((a.astype(float) - b) ** 2)), 1e-9)))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_stock_loader_gives_the_stored_tiles(native_study: sd.Study, tmp_path: Path) -> None:
    report = native_study.export(tmp_path / "native.beton", where=None)
    assert (report.samples, report.passed_through, report.readers) == (48, 36, {"openslide": 1, "tiff": 3})
    tiles, samples = references(native_study), contents(report.path)
    images, _, rows = load(report.path)
    assert rows == list(range(48))
    for i, (tile, data, loaded) in enumerate(zip(tiles, samples, images, strict=True)):
        np.testing.assert_array_equal(decode_as_loader(data, SIDE), loaded)
        if i < 36:
            np.testing.assert_array_equal(imagecodecs.jpeg8_decode(data), tile)
        else:
            assert psnr(loaded, tile) > 38
    slides = read_sidecar(report.path).raw["slides"]
    assert [(slide["slide"], slide["reader"], slide["why_not_tiff"]) for slide in slides] == [
        ("a", "tiff", None),
        ("b", "tiff", None),
        ("c", "tiff", None),
        ("d", "openslide", "its tiles are compressed by DEFLATE"),
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_encoded_again_and_raw(native_study: sd.Study, tmp_path: Path) -> None:
    report = native_study.export(tmp_path / "again.beton", where=None, jpeg="reencode")
    assert report.passed_through == 0
    tiles = references(native_study)
    images, _, _ = load(report.path)
    assert min(psnr(loaded, tile) for loaded, tile in zip(images, tiles, strict=True)) > 38
    found = []
    for reader in ("auto", "openslide"):
        raw = native_study.export(tmp_path / "raw.beton", where=None, raw=True, reader=reader)
        assert contents(raw.path) == [tile.tobytes() for tile in tiles]
        found.append(raw.path.read_bytes())
        again = native_study.export(tmp_path / "again.beton", where=None, jpeg="reencode", reader=reader)
        found.append(again.path.read_bytes())
    # Whatever reads the slides, the beton is the same.
    assert found[:2] == found[2:]
