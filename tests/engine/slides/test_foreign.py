"""Slides are bytes of strangers: each is a slide or an error in seconds, and no library takes the process with it."""

from __future__ import annotations

import random
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import tifffile

import slideduck as sd
from slideduck.errors import SlideError
from slideduck.slides.header import read_header
from slideduck.slides.trial import why_it_dies
from tests.campaign import cases
from tests.dicom import write_dicom
from tests.slides import synthetic_image, write_scn, write_slide

#: Values that headers of strangers hold.
VALUES = (0, 1, 2, 255, 256, 65431, 65535, 60000, 1 << 20, 1 << 24, 2**31 - 1, 2**31, 2**32 - 1)


def originals(folder: Path) -> dict[str, bytes]:
    """Return the bytes of slides of several kinds, by name."""
    image = synthetic_image(1, (256, 192))
    folder.mkdir()
    write_slide(folder / "generic.tif", image)
    write_slide(folder / "big.tif", image, bigtiff=True)
    write_slide(folder / "deflate.tif", image, compression="deflate")
    write_slide(folder / "aperio.svs", image, vendor="aperio", objective_power=20)
    write_scn(folder / "leica.scn", image, at=(64, 64), glass=(512, 512))
    write_dicom(folder / "volume.dcm", image, series="1.2.3", instance="1.2.3.1")
    (folder / "jpeg.svs").write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
    (folder / "png.svs").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def header_bytes(name: str, content: bytes, folder: Path) -> list[tuple[int, int]]:
    """Return where the headers of a file are: first byte and end of each."""
    if not content.startswith((b"II", b"MM")):
        return [(0, 1200 if name.endswith(".dcm") else 700)]
    found = [(0, 16)]
    with tifffile.TiffFile(folder / name) as tiff:
        for page in tiff.pages:
            tags = page.aspage().tags.values()
            found.append((page.offset, page.offset + 10 + len(tags) * (20 if tiff.is_bigtiff else 12)))
            found += [(tag.valueoffset, tag.valueoffset + min(tag.valuebytecount, 2000)) for tag in tags]
    return found


def mutated(content: bytes, places: list[tuple[int, int]], rng: random.Random) -> bytes:
    """Return a file with some bytes of its headers changed, or cut."""
    found = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        at = rng.randrange(*rng.choice(places)) % len(found)
        if rng.random() < 0.5:
            found[at] = rng.randrange(256)
        else:
            n = rng.choice([2, 4, 8])
            found[at : at + n] = (rng.choice(VALUES) & ((1 << 8 * n) - 1)).to_bytes(n, "little")
    return bytes(found[: rng.randrange(len(found))] if rng.random() < 0.05 else found)


@pytest.mark.attack("bytes", "changed headers of TIFF, SVS, SCN, DICOM, JPEG and PNG slides")
def test_changed_headers_give_a_slide_or_an_error(tmp_path: Path) -> None:
    whole = originals(tmp_path / "whole")
    places = {name: header_bytes(name, content, tmp_path / "whole") for name, content in whole.items()}
    names = list(whole)
    step = 80
    for first in range(0, cases(test=40, campaign=2000), step):
        folder = tmp_path / f"from_{first}"
        # DICOM looks at all files of its folder.
        for seed in range(first, min(first + step, cases(test=40, campaign=2000))):
            rng = random.Random(seed)
            name = names[seed % len(names)]
            (folder / str(seed)).mkdir(parents=True)
            (folder / str(seed) / f"s{seed}_{name}").write_bytes(mutated(whole[name], places[name], rng))
        started = time.monotonic()
        with sd.open(tmp_path / f"study_{first}.duckdb") as study:
            report = study.add_slides(folder, mpp=0.5)
            usable = study.sql("SELECT count(*) FROM slides WHERE error IS NULL").fetchall()[0][0]
        assert report.added + len(report.left_out) == len(list(folder.iterdir()))
        assert usable == report.added - len(report.failed)
        assert time.monotonic() - started < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 << 20


# ----------------------------------------------------------------------------------------------- bombs


def page(entries: list[tuple[int, int, int, int]], *, following: int = 0) -> bytes:
    """Return a page of a TIFF: tags, each with type, count and value or place."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return struct.pack("<H", len(entries)) + packed + struct.pack("<I", following)


def tiled(width: int, height: int, tile: int, *, counts: int = 1) -> list[tuple[int, int, int, int]]:
    """Return the tags of a tiled page, whose lists of tiles have so many entries at byte 200."""
    one = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    return [*one, (322, 4, 1, tile), (323, 4, 1, tile), (324, 4, counts, 200), (325, 4, counts, 200)]


def write_tiff(path: Path, first: bytes, *, rest: bytes = b"", size: int = 4096) -> None:
    """Write a TIFF with one page, and zeros up to a size, of which a disk keeps nothing."""
    with path.open("wb") as file:
        file.write(b"II*\0" + struct.pack("<I", 8) + first + rest)
        file.truncate(max(size, file.tell()))


def ring(path: Path) -> None:
    write_tiff(path, page(tiled(64, 64, 64), following=8))


def many_pages(path: Path) -> None:
    one = page([(256, 4, 1, 64)])
    write_tiff(path, b"".join(one[:-4] + struct.pack("<I", 8 + (i + 1) * len(one)) for i in range(1_000_000)))


def many_tags(path: Path) -> None:
    write_tiff(path, struct.pack("<H", 65535), size=2 << 20)


def shared_headers(path: Path) -> None:
    """Nine thousand pages that all point to the same list of 64 MB."""
    one = page([(273, 4, 16 << 20, 1 << 20)])
    write_tiff(path, b"".join(one[:-4] + struct.pack("<I", 8 + (i + 1) * len(one)) for i in range(9000)), size=70 << 20)


AGAIN = "; copy it again from its source"
ALLOWED = "; if the file is meant, allow that many with `limit='{}'`"
BOMBS: dict[str, tuple[Callable[[Path], None], str]] = {
    "2^31 px a side": (
        lambda path: write_tiff(path, page(tiled(2**31, 2**31, 256))),
        "is damaged: its header claims 2,147,483,648 x 2,147,483,648 px in tiles of 256 x 256 px, which are "
        "70,368,744,177,664, and lists 1" + AGAIN,
    ),
    "65,431 rows for 2,967": (
        lambda path: write_tiff(path, page(tiled(2220, 65431, 240, counts=130))),
        "is damaged: its header claims 2,220 x 65,431 px in tiles of 240 x 240 px, which are 2,730, and lists 130"
        + AGAIN,
    ),
    "stored tiles of 60,000 px a side": (
        lambda path: write_tiff(path, page(tiled(60000, 60000, 60000))),
        "is not read: it has 3,600,000,000 or more pixels in one stored tile of a slide, and at most 100,000,000 are "
        "read" + ALLOWED.format("tile_pixels=3600000000"),
    ),
    "a list of 2^32 tiles": (
        lambda path: write_tiff(path, page(tiled(64, 64, 64, counts=2**32 - 1))),
        "is not read: it has 4,294,967,295 or more tiles on one slide, and at most 100,000,000 are read"
        + ALLOWED.format("tiles=4294967295"),
    ),
    "a description of 500 MB": (
        lambda path: write_tiff(path, page([*tiled(64, 64, 64), (270, 2, 500 << 20, 4096)]), size=501 << 20),
        "is not read: it has 500 or more MB in one part of a slide's header, and at most 128 are read"
        + ALLOWED.format("header_mb=500"),
    ),
    "a colour profile of 1 GB": (
        lambda path: write_tiff(path, page([*tiled(64, 64, 64), (34675, 7, 1 << 30, 4096)]), size=1025 << 20),
        "is not read: it has 1,024 or more MB in one part of a slide's header, and at most 128 are read"
        + ALLOWED.format("header_mb=1024"),
    ),
    "pages in a ring": (ring, "has pages that follow each other in a ring" + AGAIN),
    "a million pages": (many_pages, "has over 10,000 pages" + AGAIN),
    "a page of 65,535 tags": (many_tags, "has a page of 65,535 tags, and no program writes over 4,096" + AGAIN),
    "pages that share their headers": (
        shared_headers,
        "has pages that share their headers, which no program writes" + AGAIN,
    ),
}


@pytest.mark.parametrize(
    "bomb", [pytest.param(bomb, marks=pytest.mark.attack("bombs", f"a slide with {bomb}")) for bomb in BOMBS]
)
def test_a_bomb_ends_with_a_message(tmp_path: Path, bomb: str) -> None:
    make, expected = BOMBS[bomb]
    path = tmp_path / "bomb.svs"
    make(path)
    started = time.monotonic()
    with pytest.raises(SlideError) as caught:
        read_header(path, default_mpp=0.5)
    assert str(caught.value) == f"slide 'bomb.svs' {expected}"
    assert time.monotonic() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 << 20


def test_the_limit_in_the_message_lets_a_slide_through(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.tif", 1, size=(256, 192))
    with sd.limits(tile_pixels=4095):
        with pytest.raises(SlideError) as caught:
            read_header(path)
        assert str(caught.value) == (
            "slide 's.tif' is not read: it has 4,096 or more pixels in one stored tile of a slide, and at most 4,095 "
            "are read; if the file is meant, allow that many with `limit='tile_pixels=4096'`"
        )
        with sd.limits(tile_pixels=4096):
            assert read_header(path).width == 256


@pytest.mark.attack("bombs", "a grid of more tiles than a disk holds")
def test_a_grid_of_too_many_tiles_is_refused(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.tif", 1, size=(256, 192))
    with sd.open(tmp_path / "study.duckdb") as study:
        study.add_slides(path)
        with sd.limits(tiles=5), pytest.raises(sd.ResolutionError) as caught:
            study.tile(64, tile_um=32)
        assert str(caught.value) == (
            "grid 64px_32um on slide 's': it has 12 or more tiles on one slide, and at most 5 are read; if the file is "
            "meant, allow that many with `limit='tiles=12'`"
        )
        with sd.limits(tiles=12):
            assert study.tile(64, tile_um=32).tiles == 12


@pytest.mark.attack("bombs", "a DICOM slide of 2^32 px a side")
def test_a_dicom_that_claims_more_than_it_has(tmp_path: Path) -> None:
    image = synthetic_image(1, (256, 192))
    path = write_dicom(tmp_path / "v.dcm", image, series="1.2.3", instance="1.2.3.1")
    content = path.read_bytes()
    for element in (b"\x48\0\6\0UL\4\0", b"\x48\0\7\0UL\4\0"):
        at = content.index(element) + len(element)
        content = content[:at] + struct.pack("<I", 2**31 - 1) + content[at + 4 :]
    path.write_bytes(content)
    started = time.monotonic()
    with pytest.raises(SlideError) as caught:
        read_header(path, default_mpp=0.5)
    assert "slide 'v.dcm' " in str(caught.value)
    assert time.monotonic() - started < 20


# ------------------------------------------------------------------------- a process that may die


@pytest.mark.attack("bytes", "a slide of which OpenSlide aborts")
def test_a_slide_that_openslide_dies_of_takes_another_process(tmp_path: Path) -> None:
    """Its tiles are of 2^31 px, for which no memory is there; the limit is raised so far that it gets to OpenSlide."""
    path = write_slide(tmp_path / "s.tif", 1, size=(256, 192))
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[1].aspage().tags["TileLength"]
    content[tag.offset + 2 : tag.offset + 12] = struct.pack("<HII", 4, 1, 2**25 + 64)
    # A compression that no slide has, so that the header is not plain.
    path.write_bytes(content)
    death = why_it_dies(path)
    assert death is not None
    assert death.startswith("OpenSlide dies of it (SIGABRT"), death
    with sd.limits(tile_pixels=10**12), sd.open(tmp_path / "study.duckdb") as study:
        # In this process it would be the end: a tile of 8 GB is more than a machine of tests has room for.
        with tifffile.TiffFile(path) as tiff:
            photometric = tiff.pages[1].aspage().tags["PhotometricInterpretation"]
        content[photometric.offset + 8] = 9
        path.write_bytes(content)
        report = study.add_slides(path, mpp=0.5)
    (told,) = report.failed.values()
    assert told.startswith("slide 's.tif' is damaged, or made to do harm: OpenSlide dies of it (SIGABRT"), told
    assert told.endswith("; copy it again from its source")


def test_a_slide_of_another_kind_is_tried_and_read(tmp_path: Path) -> None:
    image = synthetic_image(1, (256, 192))
    path = write_dicom(tmp_path / "v.dcm", image, series="1.2.3", instance="1.2.3.1")
    assert why_it_dies(path) is None
    assert read_header(path).vendor == "dicom"
