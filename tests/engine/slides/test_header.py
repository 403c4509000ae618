"""Finding slides, reading their headers, and refusing those that cannot be used."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openslide
import pytest
import tifffile

from slideduck.errors import InputError, SlideError
from slideduck.slides.header import read_header
from slideduck.slides.search import find_slides, name_slides
from slideduck.slides.tiff import outline
from tests.slides import synthetic_image, write_slide

NO_FORMAT = "is of no format that OpenSlide reads (Unsupported or missing image file); check the file"
CMU = "CMU-1-Small-Region.svs"
TCGA = "TCGA-CR-7395-01A-01-TS1.svs"


def give(stem: str) -> str:
    one = f"--mpp {stem}=0.25 for this slide alone"
    return f"give --mpp with its microns per pixel, such as --mpp 0.25, or {one}"


def refusal(path: Path) -> str:
    with pytest.raises(SlideError) as caught:
        read_header(path)
    return str(caught.value)


# ------------------------------------------------------------------------------------ slides of tests


@pytest.mark.parametrize("vendor", ["generic", "aperio"])
def test_written_slide_is_a_pyramid_of_its_image(tmp_path: Path, vendor: str) -> None:
    image = synthetic_image(1, (300, 201))
    path = write_slide(tmp_path / "s.tif", image, levels=3, vendor=vendor, compression="deflate")  # type: ignore[arg-type]
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == ((300, 201), (150, 100), (75, 50))
        assert slide.properties["openslide.vendor"] == {"generic": "generic-tiff"}.get(vendor, vendor)
        read = np.asarray(slide.read_region((0, 0), 0, (300, 201)).convert("RGB"))
    assert np.array_equal(read, image)
    again = write_slide(tmp_path / "t.tif", image, levels=3, vendor=vendor, compression="deflate")  # type: ignore[arg-type]
    assert again.read_bytes() == path.read_bytes()


# ------------------------------------------------------------------------------------------- headers


def test_header_of_a_real_slide(shared_data: Path) -> None:
    path = shared_data / CMU
    header = read_header(path)
    assert (header.slide, header.path) == ("CMU-1-Small-Region", path.absolute())
    assert (header.vendor, header.objective_power, header.background) == ("aperio", 20.0, "FFFFFF")
    assert (header.width, header.height) == (2220, 2967)
    assert (header.mpp, header.mpp_y, header.mpp_given) == (0.499, 0.499, False)
    assert (header.level_widths, header.level_heights, header.level_downsamples) == ((2220,), (2967,), (1.0,))
    assert (header.bytes, header.mtime) == (path.stat().st_size, path.stat().st_mtime)
    by_openslide = "6335ea0e6cc54c2cba64bb265d3c713a50cd84484924e3a9c109558c13521d5c"
    content = "43449bf77940db60c0c97395e68792677dc6a20a1cf3d6b4fe5c10acabd9e204"
    assert header.fingerprint == f"{by_openslide}/1:{content}"
    assert header.warnings == ()


def test_real_slide_without_mpp(shared_data: Path) -> None:
    path = shared_data / TCGA
    assert refusal(path) == f"slide '{TCGA}' has no MPP (openslide.mpp-x is missing); {give(path.stem)}"
    header = read_header(path, default_mpp=0.5)
    assert (header.mpp, header.mpp_y, header.mpp_given, header.warnings) == (0.5, None, True, ())
    assert header.level_downsamples == pytest.approx((1.0, 2.0005), abs=1e-4)
    assert read_header(path, mpp=0.4, default_mpp=0.5).mpp == 0.4


def test_header_of_a_written_pyramid(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.b.svs", 3, mpp=0.2528, levels=3, vendor="aperio", objective_power=40)
    header = read_header(str(path))
    assert (header.slide, header.vendor, header.objective_power) == ("a.b", "aperio", 40.0)
    assert (header.level_widths, header.level_heights) == ((640, 320, 160), (480, 240, 120))
    assert header.level_downsamples == (1.0, 2.0, 4.0)
    assert header.mpp == 0.2528


def test_file_is_followed_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_slide(tmp_path / "s.tif")
    monkeypatch.chdir(tmp_path)
    assert read_header("s.tif").path == tmp_path / "s.tif"


def test_fingerprint_tells_slides_apart(tmp_path: Path) -> None:
    prints = [read_header(write_slide(tmp_path / f"{seed}.tif", seed)).fingerprint for seed in (1, 2)]
    assert prints[0] != prints[1]
    shutil.copy(tmp_path / "1.tif", tmp_path / "3.tif")
    assert read_header(tmp_path / "3.tif").fingerprint == prints[0]


def test_header_with_words_in_another_encoding(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.svs", vendor="aperio", fields={"XXXX": "YYYY"})
    data = path.read_bytes()
    path.write_bytes(data.replace(b"XXXX", b"\xb5m\xe9\xff").replace(b"YYYY", b"\xb5m\xe9\xff"))
    assert read_header(path).mpp == 0.5


@pytest.mark.parametrize(
    ("mpp", "text"), [("0", "0"), ("-0.25", "-0.25"), ("nan", "nan"), ("inf", "inf"), ("half", "half")]
)
def test_mpp_that_cannot_be_is_refused_unless_another_is_given(tmp_path: Path, mpp: str, text: str) -> None:
    path = write_slide(tmp_path / "s.svs", vendor="aperio", fields={"MPP": mpp})
    with openslide.OpenSlide(path) as slide:
        name = "openslide.mpp-x" if "openslide.mpp-x" in slide.properties else "aperio.MPP"
    assert refusal(path) == f"slide 's.svs' has MPP '{text}' ({name}), not a positive number; {give('s')}"
    header = read_header(path, default_mpp=0.5)
    assert (header.mpp, header.mpp_given) == (0.5, True)
    assert header.warnings == (f"slide 's.svs': MPP 0.5 as given, since its header says '{text}' ({name})",)


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "0.5", True])
@pytest.mark.parametrize("name", ["mpp", "default_mpp"])
def test_impossible_mpp_of_the_user_is_an_input_error(tmp_path: Path, name: str, value: float) -> None:
    path = write_slide(tmp_path / "s.tif")
    with pytest.raises(InputError) as caught:
        read_header(path, **{name: value})  # type: ignore[arg-type]
    assert str(caught.value) == f"{name} is {value!r}; give microns per pixel, such as 0.25"


def test_given_mpp_wins_over_the_header_and_default_does_not(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.tif", mpp=0.5)
    header = read_header(path, default_mpp=0.25)
    assert (header.mpp, header.mpp_y, header.mpp_given, header.warnings) == (0.5, 0.5, False, ())
    header = read_header(path, mpp=0.25)
    assert (header.mpp, header.mpp_y, header.mpp_given) == (0.25, None, True)
    assert header.warnings == ("slide 's.tif': MPP 0.25 as given, though its header says 0.5 (openslide.mpp-x)",)
    assert read_header(path, mpp=0.502).warnings == ()


def test_unequal_sides_of_a_pixel_are_a_warning(tmp_path: Path) -> None:
    assert read_header(write_slide(tmp_path / "s.tif", mpp=0.5, mpp_y=0.504)).warnings == ()
    header = read_header(write_slide(tmp_path / "t.tif", mpp=0.5, mpp_y=0.51))
    assert (header.mpp, header.mpp_y) == pytest.approx((0.5, 0.51))
    assert header.warnings == ("slide 't.tif': MPP is 0.5 along x and 0.51 along y, 2.0% apart; 0.5 is used for both",)


@pytest.mark.parametrize(
    ("mpp", "told"),
    [
        (25400 / 72, "352.778 (openslide.mpp-x), which is 72 dpi"),
        (25400 / 96, "264.583 (openslide.mpp-x), which is 96 dpi"),
        (25400 / 300, "84.6667 (openslide.mpp-x), which is 300 dpi"),
        (1000, "1000 (openslide.mpp-x), which is 25.4 dpi"),
        (0.001, "0.001 (openslide.mpp-x)"),
    ],
)
def test_resolution_that_no_scanner_has_is_none(tmp_path: Path, mpp: float, told: str) -> None:
    """Programs that know no resolution write 72 dots an inch, or 10 a centimetre."""
    path = write_slide(tmp_path / "s.tif", mpp=mpp)
    assert refusal(path) == f"slide 's.tif' has no MPP: its header says {told} and not a scanner's; {give('s')}"
    header = read_header(path, default_mpp=0.25)
    assert (header.mpp, header.mpp_y, header.mpp_given) == (0.25, None, True)
    assert header.warnings == (f"slide 's.tif': MPP 0.25 as given, since its header says {told}",)


# ------------------------------------------------------------------------------- slides that do not open


def test_file_that_is_no_slide(tmp_path: Path) -> None:
    path = tmp_path / "s.svs"
    path.write_text("no slide")
    assert refusal(path) == f"slide 's.svs' {NO_FORMAT}"
    path.write_bytes(b"")
    assert refusal(path) == "slide 's.svs' is empty (0 bytes); copy it again from its source"


def test_tiff_that_is_no_slide(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "s.tif", np.zeros((8, 8), np.uint8))
    assert refusal(tmp_path / "s.tif") == f"slide 's.tif' is a TIFF in strips, which {convert('s', '.tif')}"


def convert(stem: str, suffix: str) -> str:
    return (
        "OpenSlide does not read; make a tiled pyramid of it, such as with: vips tiffsave "
        f"{stem}{suffix} {stem}_tiled.tif --tile --pyramid --compression jpeg --Q 90 --tile-width 256 "
        "--tile-height 256 --bigtiff"
    )


@pytest.mark.parametrize(("suffix", "what"), [(".jpg", "a plain JPEG"), (".png", "a PNG"), (".bmp", "a BMP")])
def test_plain_picture_says_how_to_make_a_slide_of_it(tmp_path: Path, suffix: str, what: str) -> None:
    cv2.imwrite(str(tmp_path / f"s{suffix}"), np.zeros((8, 8, 3), np.uint8))
    assert refusal(tmp_path / f"s{suffix}") == f"slide 's{suffix}' is {what}, which {convert('s', suffix)}"


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "s.tif", np.full((128, 128), 200, np.uint16), tile=(64, 64), metadata=None,
        resolution=(20000, 20000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    with openslide.OpenSlide(tmp_path / "s.tif") as slide:
        # What the message says of it.
        assert np.asarray(slide.read_region((0, 0), 0, (9, 9)).convert("L")).max() <= 1
    assert refusal(tmp_path / "s.tif") == (
        "slide 's.tif' has 16 bits a sample, of which OpenSlide keeps the upper 8, so that most such pictures come out "
        "black; make 8 bits of them, such as with: vips scale s.tif "
        "'s_8bit.tif[tile,pyramid,compression=jpeg,Q=90,tile_width=256,tile_height=256,bigtiff]'"
    )


# ----------------------------------------------------------------------------------------------- OME


def ome(
    path: Path, *, pixels: str, tags: float | None = None, before: str = "", size: tuple[int, int] = (128, 64)
) -> Path:
    """A generic TIFF with an OME header, in the words of OME's schema of 2016."""
    first = f'<Image ID="Image:0"><Pixels ID="Pixels:0" SizeX="{size[0]}" SizeY="{size[1]}" {pixels}/></Image>'
    label = '<Image ID="Image:1"><Pixels ID="Pixels:1" SizeX="9" SizeY="9" PhysicalSizeX="7"/></Image>'
    text = (
        f'<?xml version="1.0" encoding="UTF-8"?>{before}'
        f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{label}{first}</OME>'
    )
    tifffile.imwrite(
        path, synthetic_image(1, (128, 64)), tile=(64, 64), photometric="rgb", metadata=None,
        description=text.encode(), resolution=None if tags is None else (1e4 / tags, 1e4 / tags),
        resolutionunit=None if tags is None else "CENTIMETER",
    )  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("pixels", "mpp"),
    [
        ('PhysicalSizeX="0.25" PhysicalSizeXUnit="\u00b5m"', 0.25),
        ('PhysicalSizeX="0.25" PhysicalSizeXUnit="\u03bcm"', 0.25),
        ('PhysicalSizeX="0.25"', 0.25),
        ('PhysicalSizeX="250" PhysicalSizeXUnit="nm"', 0.25),
        ('PhysicalSizeX="0.00025" PhysicalSizeXUnit="mm"', 0.25),
        ('PhysicalSizeX="2500" PhysicalSizeXUnit="\u00c5"', 0.25),
        ('PhysicalSizeX="1e-5" PhysicalSizeXUnit="in"', 0.254),
    ],
)
@pytest.mark.parametrize("tags", [None, 25400 / 72])
def test_resolution_from_an_ome_header(tmp_path: Path, pixels: str, mpp: float, tags: float | None) -> None:
    header = read_header(ome(tmp_path / "s.ome.tif", pixels=pixels, tags=tags))
    assert header.mpp == pytest.approx(mpp, rel=1e-12)
    assert (header.slide, header.mpp_given) == ("s.ome", False)
    assert header.warnings == (
        ()
        if tags is None
        else (
            f"slide 's.ome.tif': MPP {mpp:g} (OME PhysicalSizeX), since OpenSlide finds 352.778 (openslide.mpp-x), "
            "which is 72 dpi",
        )
    )


def test_ome_header_as_tifffile_writes_it(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "s.ome.tif", synthetic_image(1, (128, 64)), tile=(64, 64), photometric="rgb", ome=True,
        metadata={"axes": "YXS", "PhysicalSizeX": 0.2531, "PhysicalSizeXUnit": "\u00b5m", "PhysicalSizeY": 0.3},
    )  # fmt: skip
    header = read_header(tmp_path / "s.ome.tif")
    assert (header.mpp, header.mpp_y) == (0.2531, 0.3)
    assert header.warnings == (
        "slide 's.ome.tif': MPP is 0.2531 along x and 0.3 along y, 18.5% apart; 0.2531 is used for both",
    )


def test_two_headers_that_disagree(tmp_path: Path) -> None:
    path = ome(tmp_path / "s.tif", pixels='PhysicalSizeX="0.25"', tags=0.5)
    header = read_header(path)
    assert (header.mpp, header.mpp_given) == (0.5, False)
    assert header.warnings == (
        "slide 's.tif': MPP 0.5 (openslide.mpp-x), though its OME header says 0.25 (OME PhysicalSizeX); if that is "
        "right, give --mpp s=0.25",
    )
    assert read_header(path, mpp=0.25).mpp == 0.25


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"pixels": 'PhysicalSizeX="1" PhysicalSizeXUnit="pixel"'}, "its OME header says 1 pixel (PhysicalSizeX)"),
        ({"pixels": 'PhysicalSizeX="0"'}, "its OME header says 0 \u00b5m (PhysicalSizeX)"),
        ({"pixels": ""}, "its OME header has no PhysicalSizeX"),
        ({"pixels": "", "size": (99, 64)}, "its OME header has no image of 128 x 64 pixels"),
        (
            {"pixels": 'PhysicalSizeX="&a;"', "before": '<!DOCTYPE OME [<!ENTITY a "0.25">]>'},
            "its OME header declares a document type (<!DOCTYPE ...>), which is refused",
        ),
        ({"pixels": "<"}, "its OME header is broken XML (not well-formed (invalid token))"),
    ],
)
def test_ome_header_without_a_resolution(tmp_path: Path, words: dict[str, Any], why: str) -> None:
    path = ome(tmp_path / "s.tif", **words)
    if words["pixels"] == "<":
        # The label's element came before what is broken; without it nothing is left.
        path.write_bytes(path.read_bytes().replace(b'<Image ID="Image:1">', b'<Image <D="Image:1">'))
    assert refusal(path) == f"slide 's.tif' has no MPP (openslide.mpp-x is missing), and {why}; {give('s')}"
    assert read_header(path, default_mpp=0.25).mpp == 0.25


@pytest.mark.parametrize(
    ("power", "mpp", "doubt"), [(20, 0.5, None), (40, 0.23, None), (20, 0.36, None), (40, 0.5, 0.25), (20, 0.25, 0.5)]
)
def test_given_mpp_that_contradicts_the_objective(
    tmp_path: Path, power: float, mpp: float, doubt: float | None
) -> None:
    path = write_slide(tmp_path / "s.svs", mpp=None, vendor="aperio", objective_power=power)
    assert read_header(path, default_mpp=mpp).warnings == (
        ()
        if doubt is None
        else (
            f"slide 's.svs': MPP {mpp:g} as given, though its objective of {power:g}x has about {doubt:g}; "
            f"if that is right, give --mpp s={doubt:g}",
        )
    )
    if doubt is not None:
        assert read_header(path, mpp=doubt).warnings == ()


def test_given_mpp_in_nanometres_is_doubted(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.tif", mpp=None)
    assert read_header(path, default_mpp=250).warnings == (
        "slide 's.tif': MPP 250 as given is not a scanner's (0.02 to 20); give microns per pixel, such as --mpp s=0.25",
    )


def test_decimal_comma_is_read_as_openslide_reads_it(tmp_path: Path) -> None:
    header = read_header(write_slide(tmp_path / "s.svs", vendor="aperio", fields={"MPP": "0,2520"}))
    assert (header.mpp, header.warnings) == (0.252, ())


def test_slide_that_openslide_begins_to_read(tmp_path: Path) -> None:
    """Its index file is there; its data files are not."""
    path = tmp_path / "s.mrxs"
    path.write_bytes(b"not a picture")
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "Slidedat.ini").write_text("[GENERAL]\nSLIDE_VERSION = 01.02\n")
    message = refusal(path)
    assert message.startswith("slide 's.mrxs' does not open: ")
    assert message.endswith("; copy it again from its source")


def test_file_that_is_gone_and_folder(tmp_path: Path) -> None:
    path = tmp_path / "s.svs"
    assert refusal(path) == f"slide 's.svs' is not there any more: no file {path}; check the path"
    path.mkdir()
    assert refusal(path) == "slide 's.svs' is a folder, not a file; name the file"


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Root may read everything; so become nobody for a moment."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)


def test_file_without_the_right_to_read(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.tif")
    path.chmod(0)
    with ordinary_user():
        message = refusal(path)
    assert message == f"slide 's.tif' cannot be read: permission denied; check the rights to {path}"


def bytes_needed(path: Path) -> int | None:
    found = outline(path)
    return None if found is None else found.needed


def cut(path: Path, source: bytes, n: int) -> str:
    path.write_bytes(source[:n])
    return refusal(path)


def test_slide_cut_anywhere_is_refused(tmp_path: Path) -> None:
    for bigtiff, vendor in itertools.product([False, True], ["generic", "aperio"]):
        whole = write_slide(tmp_path / "whole.tif", 1, size=(200, 150), bigtiff=bigtiff, vendor=vendor)  # type: ignore[arg-type]
        assert bytes_needed(whole) == whole.stat().st_size
        read_header(whole)
        data = whole.read_bytes()
        path = tmp_path / "s.tif"
        for n in {*range(4, 40), *range(40, len(data), 97), *range(len(data) - 20, len(data))}:
            message = cut(path, data, n)
            start = f"slide 's.tif' is cut short: the file has {n:,} bytes, and its headers point to "
            assert message.startswith(start), n
            assert message.endswith(" or more; copy it again from its source")
        n = len(data) - 1
        assert cut(path, data, n) == (
            f"slide 's.tif' is cut short: the file has {n:,} bytes, "
            f"and its headers point to {len(data):,} or more; copy it again from its source"
        )


def test_real_slide_cut_by_four_bytes_is_refused(shared_data: Path, tmp_path: Path) -> None:
    """OpenSlide opens it, with one level of two."""
    data = (shared_data / TCGA).read_bytes()
    path = tmp_path / "s.svs"
    path.write_bytes(data[:-4])
    with openslide.OpenSlide(path) as slide:
        assert slide.level_count == 1
    assert refusal(path) == (
        f"slide 's.svs' is cut short: the file has {len(data) - 4:,} bytes, "
        f"and its headers point to {len(data):,} or more; copy it again from its source"
    )


@pytest.mark.parametrize("name", [CMU, TCGA])
def test_real_slide_cut_in_the_middle_is_refused(shared_data: Path, tmp_path: Path, name: str) -> None:
    data = (shared_data / name).read_bytes()
    for n in range(4, len(data), len(data) // 40):
        assert "is cut short: " in cut(tmp_path / "s.svs", data, n)


def test_whole_tiffs_are_not_called_cut(shared_data: Path, tmp_path: Path) -> None:
    """Big-endian, strips, sparse tiles, a loop of pages, vendors' tags that point anywhere."""
    for path in shared_data.glob("*.svs"):
        assert (bytes_needed(path) or 0) <= path.stat().st_size
    image = np.zeros((64, 64), np.uint8)
    for order in "<>":
        path = tmp_path / "s.tif"
        with tifffile.TiffWriter(path, byteorder=order) as writer:
            writer.write(image, rowsperstrip=7)
            tiles = iter([b"", bytes(256)] * 8)
            writer.write(tiles, shape=(64, 64), dtype=np.uint8, tile=(16, 16), compression="packbits")
        assert bytes_needed(path) == path.stat().st_size
    entry = struct.pack("<HHII", 37500, 7, 10**6, 10**8)
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 8))
    assert bytes_needed(path) == 8
    path.write_bytes(b"no TIFF")
    assert bytes_needed(path) is None


def test_small_tiff_beyond_four_gigabytes_is_left_to_openslide(tmp_path: Path) -> None:
    """As Hamamatsu writes them, with pointers that the format has no room for."""
    path = tmp_path / "s.ndpi"
    with path.open("wb") as file:
        file.write(b"II*\0\xff\xff\xff\xff")
        file.truncate(2**32)
    assert bytes_needed(path) is None


# ------------------------------------------------------------------------------------ finding slides


def touch(folder: Path, *names: str) -> list[Path]:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return [folder / name for name in names]


def test_folders_are_searched_for_slides(tmp_path: Path) -> None:
    wanted = touch(tmp_path, "a.SVS", "b/c.ndpi", "b/d/e.tiff", "f.mrxs")
    touch(tmp_path, "x.csv", ".y.svs", "b/.z/z.svs", "f/Slidedat.ini", "f/inside.tif")
    assert find_slides(tmp_path) == wanted
    assert find_slides([tmp_path / "b", str(tmp_path), tmp_path / "a.SVS"]) == wanted


def test_named_file_is_taken_whatever_its_suffix(tmp_path: Path) -> None:
    named, hidden = touch(tmp_path, "a.qptiff", ".b.svs")
    assert find_slides([named, hidden]) == [hidden, named]


def test_patterns(tmp_path: Path) -> None:
    a, b, c = touch(tmp_path, "a.svs", "b.qptiff", "sub/c.svs")
    assert find_slides(str(tmp_path / "*.svs")) == [a]
    assert find_slides(str(tmp_path / "*.qptiff")) == [b]
    assert find_slides(str(tmp_path / "*")) == [a, c]
    assert find_slides(str(tmp_path / "**/*.svs")) == [a, c]
    (brackets,) = touch(tmp_path, "a[1].svs")
    assert find_slides(str(brackets)) == [brackets]


def test_links_are_followed_and_keep_their_names(tmp_path: Path) -> None:
    (real,) = touch(tmp_path, "store/0001.svs")
    folder = tmp_path / "slides"
    folder.mkdir()
    (folder / "patient7.svs").symlink_to(real)
    (folder / "up").symlink_to(tmp_path)
    assert find_slides(folder) == [folder / "patient7.svs", folder / "up/store/0001.svs"]


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    a, b, _, d, e = touch(tmp_path, "1/a.svs", "2/a.tif", "b.svs", "c.svs", "d/c.svs")
    found = find_slides(tmp_path)
    with pytest.raises(InputError) as caught:
        name_slides(found, tmp_path)
    remedy = "names are unique: rename one, or give `names='relative'`"
    assert caught.value.problems == (
        f"slide 'a' is both {a} and {b}; {remedy}",
        f"slide 'c' is both {d} and {e}; {remedy}",
    )
    assert list(name_slides(found, tmp_path, names="relative")) == ["1/a", "2/a", "b", "c", "d/c"]


def test_one_slide_by_two_ways_is_one(tmp_path: Path) -> None:
    (real,) = touch(tmp_path, "1/a.svs")
    (tmp_path / "2").symlink_to(tmp_path / "1")
    paths = [tmp_path / "2/a.svs", real]
    assert name_slides(find_slides(paths), paths) == {"a": real}


def dicom(series: str) -> bytes:
    """The head of a DICOM file that refers to another series before it names its own."""
    uid = series.encode() + b"\0" * (len(series) % 2)
    other = b"\x20\x00\x0e\x00UI" + struct.pack("<H", 4) + b"9.9\0"
    return bytes(128) + b"DICM" + other + b"\x20\x00\x0e\x00UI" + struct.pack("<H", len(uid)) + uid


def test_dicom_files_of_one_slide_are_one(tmp_path: Path) -> None:
    files = {"a1": "1.2.3", "a2": "1.2.3", "b1": "1.2.4", "x/a3": "1.2.3"}
    for name, series in files.items():
        (path,) = touch(tmp_path, f"{name}.dcm")
        path.write_bytes(dicom(series))
    (other,) = touch(tmp_path, "no.dcm")
    assert find_slides(tmp_path) == [tmp_path / "a1.dcm", tmp_path / "b1.dcm", other, tmp_path / "x/a3.dcm"]


def test_every_path_without_slides_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        find_slides([tmp_path / "none.svs", tmp_path / "empty", str(tmp_path / "*.svs")])
    suffixes = ".svs, .ndpi, .mrxs, .tif, .tiff, .scn, .vms, .vmu, .bif, .svslide, .czi, .dcm"
    assert caught.value.problems == (
        f"{tmp_path}/none.svs: no such file or folder; check the path",
        f"{tmp_path}/empty: no slide in this folder or below it (looked for {suffixes}); "
        "give another folder, or name the files",
        f"{tmp_path}/*.svs: no slide matches this pattern; check it",
    )
