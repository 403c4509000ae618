"""Label masks against counting pixels: outlines, coverage, labels, scales, forms of files, and what is refused."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import shapely
import tifffile
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import slideduck as sd
from slideduck.cli.group import cli
from slideduck.rois.masks import base_per_pixel
from slideduck.rois.trace import Tracer
from tests.campaign import cases
from tests.slides import write_scn

Mask = NDArray[Any]

#: Width, height and base pixels per pixel of the mask, of drawn slides; the last mask sticks out of its slide.
SLIDES = {"whole": (48, 40, 4), "fine": (48, 40, 1), "rounded": (50, 42, 4)}
LABELS = {1: "tumour", 2: "stroma", 3: "fat"}


def masks(width: int, height: int) -> st.SearchStrategy[Mask]:
    """Draw masks that have specks, holes and diagonals, of numbers up to 3."""

    def made(seed: int, filled: float, numbers: int) -> Mask:
        rng = np.random.default_rng(seed)
        image = rng.integers(1, numbers + 1, (height, width), np.uint8)
        image[rng.random(image.shape) >= filled] = 0
        return image

    return st.builds(made, st.integers(0, 2**32), st.floats(0, 1), st.integers(1, 3))


def boxes(mask: Mask) -> Any:
    """Return the union of the pixels that are not 0, by shapely."""
    y, x = np.nonzero(mask)
    return shapely.unary_union(shapely.box(x, y, x + 1, y + 1))


def run(*words: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(cli, [str(word) for word in words])


def add_row(study: sd.Study, slide: str, width: int, height: int, error: str | None = None) -> None:
    """Add a slide that exists as a row alone."""
    study.con.execute(
        "INSERT INTO slides (slide, path, width, height, mpp, level_downsamples, error) "
        "VALUES ($1, $2, $3, $4, 1, [1], $5)",
        [slide, f"{slide}.svs", width, height, error],
    )


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[sd.Study, Path]]:
    """A study of the drawn slides, with grids that lie on the pixels of masks, and that do not."""
    folder = tmp_path_factory.mktemp("drawn")
    with sd.open(folder / "study.duckdb") as study:
        for slide, (width, height, _) in SLIDES.items():
            add_row(study, slide, width, height)
        study.tile(8, tile_um=8)
        study.tile(8, tile_um=5, stride_div=2, origin=(3, 1))
        yield study, folder


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of the slides A and B, 64 x 48, and of one that cannot be used."""
    path = tmp_path_factory.mktemp("study") / "study.duckdb"
    with sd.open(path) as study:
        add_row(study, "A", 64, 48)
        add_row(study, "B", 64, 48)
        add_row(study, "broken", 64, 48, "cannot be read")
    return path


@pytest.fixture
def study(made_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sd.Study]:
    """That study in the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(made_once, tmp_path / "study.duckdb")
    with sd.open("study.duckdb") as opened:
        yield opened


def refused(study: sd.Study, path: str, labels: Any, **options: Any) -> str:
    """Return the message with which a mask is refused; nothing of it is kept."""
    with pytest.raises(sd.SlideduckError) as caught:
        study.add_masks(path, labels, **options)
    assert study.con.execute("SELECT count(*) FROM roi_files").fetchall() == [(0,)]
    return str(caught.value)


# ------------------------------------------------------------------------------------------ outlines


@settings(max_examples=cases(150, 5000), deadline=None)
@given(st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda size: masks(*size)), st.integers(1, 5))
def test_outlines_are_those_of_the_pixels(mask: Mask, rows: int) -> None:
    tracer = Tracer(mask.shape[1])
    for top in range(0, len(mask), rows):
        tracer.add(mask[top : top + rows])
    traced = tracer.polygons()
    assert set(traced) == set(np.unique(mask).tolist()) - {0}
    for number, polygons in traced.items():
        got = shapely.MultiPolygon([(outer, holes) for outer, *holes in polygons])
        assert got.is_valid, shapely.is_valid_reason(got)
        assert got.area == np.count_nonzero(mask == number)
        assert got.equals(boxes(mask == number))
        assert all(shapely.LinearRing(ring).is_simple for polygon in polygons for ring in polygon)
        parts, _ = cv2.connectedComponents((mask == number).astype(np.uint8), connectivity=4)
        assert len(polygons) == parts - 1
        # In the order of their first pixels.
        firsts = [min((y, x) for x, y in outer) for outer, *_ in polygons]
        assert firsts == sorted(firsts)


def test_diagonals_and_holes_that_touch_are_rings_of_their_own() -> None:
    # Two holes that touch each other, and a bay that another part, which meets the first at corners alone, closes.
    mask = np.array([[1, 1, 1, 1, 0], [1, 0, 1, 1, 1], [1, 1, 0, 1, 0], [1, 1, 1, 0, 1], [1, 1, 1, 1, 0]], np.uint8)
    tracer = Tracer(5)
    tracer.add(mask)
    first, second = tracer.polygons()[1]
    assert [ring.tolist() for ring in second] == [[[4, 3], [5, 3], [5, 4], [4, 4]]]
    assert [ring.tolist() for ring in first[1:]] == [
        [[2, 1], [1, 1], [1, 2], [2, 2]],
        [[3, 2], [2, 2], [2, 3], [3, 3]],
    ]


# ------------------------------------------------------------------------------------ tiles and labels


@settings(max_examples=cases(5, 300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_coverage_and_centres_are_those_of_counted_pixels(drawn: tuple[sd.Study, Path], data: st.DataObject) -> None:
    study, folder = drawn
    of_slide = {}
    for slide, (width, height, downsample) in SLIDES.items():
        mask = data.draw(masks(-(-width // downsample), -(-height // downsample)), label=slide)
        cv2.imwrite(str(folder / f"{slide}.png"), mask)
        of_slide[slide] = np.kron(mask, np.ones((downsample, downsample), np.uint8))[:height, :width]
    study.add_masks(folder, LABELS)
    study.label()
    areas = study.con.execute("SELECT slide, label, area, repaired, leaves_slide FROM rois").fetchall()
    assert sorted(areas) == sorted(
        (slide, label, np.count_nonzero(base == number), False, False)
        for slide, base in of_slide.items()
        for number, label in LABELS.items()
        if (base == number).any()
    )
    stored = {
        (grid, slide, grid_x, grid_y, label): (centre, coverage)
        for grid, slide, grid_x, grid_y, label, centre, coverage in study.con.execute(
            "SELECT grid_id, slide, grid_x, grid_y, label, centre, coverage FROM tile_rois JOIN rois USING (roi_id)"
        ).fetchall()
    }
    seen = 0
    for grid, slide, side, x, y, grid_x, grid_y in study.con.execute(
        "SELECT grid_id, slide, extract_px, origin_x + grid_x * stride, origin_y + grid_y * stride, grid_x, grid_y "
        "FROM tiles JOIN grid_slides USING (grid_id, slide_id) JOIN grids USING (grid_id) JOIN slides USING (slide_id)"
    ).fetchall():
        base = of_slide[slide]
        tile = base[y : y + side, x : x + side]
        # The pixel that the centre is in, or all that it touches where it lies between pixels.
        low, high = (side - 1) // 2, side // 2
        middle = tile[low : high + 1, low : high + 1]
        for number, label in LABELS.items():
            centre, coverage = stored.get((grid, slide, grid_x, grid_y, label), (False, 0))
            seen += (grid, slide, grid_x, grid_y, label) in stored
            assert abs(coverage - np.mean(tile == number)) <= 1e-9
            assert centre == (middle == number).any()
    assert seen == len(stored)


def test_a_label_by_coverage_counts_all_pixels_of_it_in_the_tile(study: sd.Study, tmp_path: Path) -> None:
    # Specks of a quarter of each tile: none would reach the threshold by itself, all together do.
    mask = np.tile(np.array([[1, 0], [1, 2]], np.uint8), (24, 32))
    cv2.imwrite(str(tmp_path / "A.png"), mask)
    study.add_masks("A.png", LABELS)
    study.tile(16, tile_um=16)
    study.label(rule="coverage", threshold=0.5)
    found = study.con.execute("SELECT DISTINCT slide, label, coverage FROM labels ORDER BY slide").fetchall()
    assert found == [("A", "tumour", 0.5), ("B", None, None)]


# --------------------------------------------------------------------------------------------- scale


@pytest.mark.parametrize(
    ("mask", "slide", "downsample", "scale"),
    [
        ((1000, 800), (1000, 800), "auto", (1, 1)),
        ((63, 47), (1000, 751), "auto", (16, 16)),  # rounded up
        ((62, 46), (1000, 751), "auto", (16, 16)),  # rounded down
        ((63, 47), (4000, 3000), "auto", (64, 64)),  # the ratio of the sizes is nearer to 63
        ((100, 76), (1000, 755), "auto", (10, 10)),
        ((300, 200), (1000, 667), "auto", (1000 / 300, 667 / 200)),  # a thumbnail
        ((1, 1), (1000, 900), "auto", (1024, 1024)),
        ((100, 70), (1000, 755), "auto", None),
        ((300, 203), (1000, 667), "auto", None),
        ((63, 47), (1000, 751), 16, (16, 16)),
        ((63, 47), (1000, 751), 16.1, (16.1, 16.1)),
        ((63, 47), (1000, 751), 15, None),
    ],
)
def test_the_scale_is_whole_where_it_can_be(
    mask: tuple[int, int], slide: tuple[int, int], downsample: float | str, scale: tuple[float, float] | None
) -> None:
    assert base_per_pixel(mask, slide, downsample) == scale


def test_a_thumbnail_is_stretched_over_its_slide(study: sd.Study, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "A.png"), np.ones((11, 15), np.uint8))
    report = study.add_masks("A.png", {1: "tissue"})
    assert report.downsamples == {"A": (64 / 15, 48 / 11)}
    assert study.con.execute("SELECT area, leaves_slide, ST_XMax(geom), ST_YMax(geom) FROM rois").fetchall() == [
        (64 * 48, False, 64, 48)
    ]


# --------------------------------------------------------------------------------------------- files


def png(width: int, height: int, bits: int, rows: bytes) -> bytes:
    """Return a grey PNG of few bits, which no library here writes (PNG, third edition)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def packed(mask: Mask, bits: int) -> bytes:
    """Return rows of pixels packed into bytes, each row with the filter that does nothing."""
    several = 8 // bits
    parts = [mask[:, i::several] << (8 - bits * (i + 1)) for i in range(several)]
    return b"".join(b"\0" + row.tobytes() for row in np.bitwise_or.reduce(parts).astype(np.uint8))


def in_palette(mask: Mask) -> Image.Image:
    """Return a palette picture, with colours that are not the numbers."""
    image = Image.frombytes("P", mask.shape[::-1], mask.tobytes())
    image.putpalette([9, 9, 9, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    return image


def write_pyramid(path: Path, mask: Mask, *, subifds: bool) -> None:
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(mask, tile=(16, 16), compression="lzw", subifds=1 if subifds else None)
        writer.write(mask[::2, ::2], tile=(16, 16), compression="lzw", subfiletype=1)


FORMS: dict[str, tuple[str, Callable[[Path, Mask], object]]] = {
    "Pillow": ("png", lambda path, mask: Image.fromarray(mask).save(path)),
    "OpenCV, 16 bits": ("png", lambda path, mask: cv2.imwrite(str(path), mask.astype(np.uint16))),
    "2 bits": ("png", lambda path, mask: path.write_bytes(png(64, 48, 2, packed(mask, 2)))),
    "4 bits": ("png", lambda path, mask: path.write_bytes(png(64, 48, 4, packed(mask, 4)))),
    "palette": ("png", lambda path, mask: in_palette(mask).save(path)),
    "palette of 2 bits": ("png", lambda path, mask: in_palette(mask).save(path, bits=2)),
    "grey as RGB": ("png", lambda path, mask: cv2.imwrite(str(path), np.dstack([mask] * 3))),
    "grey with alpha": ("png", lambda path, mask: Image.fromarray(mask).convert("LA").save(path)),
    "strips": ("tif", lambda path, mask: tifffile.imwrite(path, mask)),
    "strips of a row": ("tiff", lambda path, mask: tifffile.imwrite(path, mask, rowsperstrip=1, compression="deflate")),
    "strips of seven": ("tif", lambda path, mask: tifffile.imwrite(path, mask, rowsperstrip=7, compression="zstd")),
    "big-endian int32": ("tif", lambda path, mask: tifffile.imwrite(path, mask.astype(">i4"), byteorder=">")),
    "float32": ("tif", lambda path, mask: tifffile.imwrite(path, mask.astype(np.float32), compression="packbits")),
    "OpenCV": ("tif", lambda path, mask: cv2.imwrite(str(path), mask)),
    "Pillow, palette": ("tif", lambda path, mask: in_palette(mask).save(path)),
    "a pyramid of pages": ("tif", lambda path, mask: write_pyramid(path, mask, subifds=False)),
    "a pyramid of SubIFDs": ("tif", lambda path, mask: write_pyramid(path, mask, subifds=True)),
}


def test_every_form_gives_the_same_outlines(study: sd.Study, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    mask = cv2.resize(rng.integers(0, 4, (6, 8), np.uint8), (64, 48), interpolation=cv2.INTER_NEAREST)
    mask[rng.random(mask.shape) < 0.1] = 3
    expected = {label: boxes(mask == number) for number, label in LABELS.items()}
    for number, (form, (suffix, write)) in enumerate(FORMS.items()):
        path = tmp_path / str(number) / f"A.{suffix}"
        path.parent.mkdir()
        write(path, mask)
        report = study.add_masks(path, LABELS, roi_set=form)
        assert report.pixels == {label: np.count_nonzero(mask == n) for n, label in LABELS.items()}, form
        rows = study.con.execute("SELECT label, ST_AsWKB(geom) FROM rois WHERE roi_set = $1", [form]).fetchall()
        assert {label: shapely.from_wkb(bytes(geometry)).equals(expected[label]) for label, geometry in rows} == (
            dict.fromkeys(expected, True)
        ), form


def test_colours_of_rgb_and_of_palettes_are_named(study: sd.Study, tmp_path: Path) -> None:
    mask = np.zeros((48, 64), np.uint8)
    mask[:10, :10], mask[20:, 20:] = 1, 2
    colours = np.array([[9, 9, 9, 255], [255, 0, 0, 255], [0, 255, 0, 255]], np.uint8)
    see_through = colours.copy()
    see_through[0, 3] = 0
    cm = np.zeros((3, 256), np.uint16)
    cm[:, :3] = colours[:, :3].T.astype(np.uint16) * 257
    writers: list[Callable[[Path], object]] = [
        lambda path: Image.fromarray(colours[..., :3][mask]).save(path),
        lambda path: in_palette(mask).save(path),
        lambda path: tifffile.imwrite(path, mask, photometric="palette", colormap=cm),
        lambda path: tifffile.imwrite(path, colours[..., :3][mask], photometric="rgb", tile=(16, 16)),
        lambda path: Image.fromarray(see_through[mask]).save(path),
    ]
    labels = {"#FF0000": "tumour", "#00ff00": "stroma", "#090909": ""}
    for number, write in enumerate(writers):
        path = tmp_path / f"{number}" / f"A.{'tif' if number in (2, 3) else 'png'}"
        path.parent.mkdir()
        write(path)
        # What is transparent needs no name.
        named = {key: label for key, label in labels.items() if label or number < 4}
        assert study.add_masks(path, named, roi_set=str(number)).pixels == {"stroma": 28 * 44, "tumour": 100}, number


def test_booleans_and_several_values_of_one_label(study: sd.Study, tmp_path: Path) -> None:
    mask = np.zeros((48, 64), bool)
    mask[:, 32:] = True
    Image.fromarray(mask).save(tmp_path / "A.png")
    tifffile.imwrite(tmp_path / "B.tif", np.where(mask, 300_000, -7).astype(np.int32))
    study.add_masks("A.png", {1: "tumour"})
    study.add_masks("B.tif", {"300000": "tumour", "-7": "tumour"})
    assert study.con.execute(
        "SELECT slide, roi_name, label, area, ST_NPoints(geom) FROM rois ORDER BY slide"
    ).fetchall() == [
        ("A", "tumour", "tumour", 32 * 48, 5),
        ("B", "tumour", "tumour", 64 * 48, 5),
    ]


# ----------------------------------------------------------------------------------------- the study


def test_what_did_not_change_is_left_alone_and_what_changed_is_replaced(study: sd.Study, tmp_path: Path) -> None:
    one, other = np.ones((48, 64), np.uint8), np.full((48, 64), 2, np.uint8)
    cv2.imwrite(str(tmp_path / "A.png"), one)
    cv2.imwrite(str(tmp_path / "B.png"), other)
    first = study.add_masks(tmp_path, LABELS)
    assert (first.files, first.rois, first.slides, first.unchanged, first.empty) == (2, 2, 2, 0, ())
    study.tile(16, tile_um=16)
    assert study.label().slides == 2
    again = study.add_masks([tmp_path / "B.png", tmp_path / "A.png"], LABELS, downsample=1)
    assert (again.files, again.unchanged) == (0, 2)
    assert study.label().slides == 0
    # Another label of the same pixels is a change; so is another file.
    assert study.add_masks("A.png", {1: "necrosis"}).files == 1
    assert study.label().slides == 1
    cv2.imwrite(str(tmp_path / "B.png"), one * 3)
    assert study.add_masks("B.png", LABELS).files == 1
    names = "SELECT slide, roi_name FROM rois ORDER BY slide"
    assert study.con.execute(names).fetchall() == [("A", "necrosis"), ("B", "fat")]
    formats = study.con.execute("SELECT DISTINCT format, holes FROM roi_files").fetchall()
    assert formats == [("mask", "explicit")]
    removed = study.remove_rois("B.png")
    assert (removed.rois, removed.slides) == (1, ("B",))
    assert study.con.execute(names).fetchall() == [("A", "necrosis")]
    assert study.con.execute("SELECT slide FROM roi_file_slides").fetchall() == [("A",)]


def test_a_name_may_move_from_one_mask_to_another_of_the_slide(study: sd.Study, tmp_path: Path) -> None:
    for folder, number in (("x", 1), ("y", 2)):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "A.png"), np.full((48, 64), number, np.uint8))
    study.add_masks(["x", "y"], LABELS)
    for folder, number in (("x", 2), ("y", 1)):
        cv2.imwrite(str(tmp_path / folder / "A.png"), np.full((48, 64), number, np.uint8))
    assert study.add_masks(["x", "y"], LABELS).files == 2
    rows = study.con.execute(
        "SELECT path, roi_name FROM rois JOIN roi_files USING (roi_file_id) ORDER BY path"
    ).fetchall()
    assert rows == [(f"{tmp_path}/x/A.png", "stroma"), (f"{tmp_path}/y/A.png", "tumour")]


def test_a_mask_without_a_label_says_that_its_slide_has_none(study: sd.Study, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "A.png"), np.zeros((48, 64), np.uint8))
    report = study.add_masks("A.png", LABELS)
    assert (report.files, report.rois, report.empty) == (1, 0, ("A.png",))
    assert study.con.execute("SELECT slide FROM roi_file_slides").fetchall() == [("A",)]
    assert study.add_masks("A.png", LABELS).unchanged == 1


def test_components_are_named_from_top_to_bottom(study: sd.Study, tmp_path: Path) -> None:
    mask = np.zeros((48, 64), np.uint8)
    mask[20:30, :5], mask[10:15, 20:30], mask[15:20, 30:33], mask[40, 40] = 1, 1, 1, 2
    cv2.imwrite(str(tmp_path / "A.png"), mask)
    assert study.add_masks("A.png", LABELS, components=True).rois == 4
    assert study.con.execute("SELECT roi_name, label, ST_YMin(geom), area FROM rois ORDER BY roi_name").fetchall() == [
        ("stroma_1", "stroma", 40, 1),
        ("tumour_1", "tumour", 10, 50),
        ("tumour_2", "tumour", 15, 15),
        ("tumour_3", "tumour", 20, 50),
    ]


# ------------------------------------------------------------------------------------------- refusals


@pytest.fixture
def numbered(study: sd.Study, tmp_path: Path) -> sd.Study:
    """The study, beside the mask A.png of the numbers 0 to 3."""
    mask = np.zeros((48, 64), np.uint8)
    mask[0, :5], mask[1, 0], mask[2, :1] = 1, 2, 3
    cv2.imwrite(str(tmp_path / "A.png"), mask)
    return study


def test_values_without_a_label_are_counted_and_can_be_named(numbered: sd.Study) -> None:
    assert refused(numbered, "A.png", {1: "tumour"}) == (
        "A.png: 2 values without a label: 2 (1 pixel), 3 (1 pixel); "
        "name each with `labels`, such as 2=tumour, or 2= for no ROI"
    )
    assert refused(numbered, "A.png", {2: "stroma", 3: None}) == (
        "A.png: 1 value without a label: 1 (5 pixels); name it with `labels`, such as 1=tumour, or 1= for no ROI"
    )
    assert numbered.add_masks("A.png", {1: "tumour", 2: "tumour", 3: ""}).pixels == {"tumour": 6}


def test_colours_for_numbers_and_numbers_for_colours(numbered: sd.Study, tmp_path: Path) -> None:
    assert refused(numbered, "A.png", {"#ff0000": "tumour"}) == (
        "A.png: a mask of numbers, not of colours; name them with `labels`, such as 1=tumour"
    )
    Image.new("RGB", (64, 48), (255, 0, 16)).save(tmp_path / "B.png")
    assert refused(numbered, "B.png", {1: "tumour"}) == (
        "B.png: a mask of colours; name them with `labels`, such as #ff0000=tumour"
    )
    assert refused(numbered, "B.png", {"#ff0000": "tumour"}) == (
        "B.png: 1 colour without a label: #ff0010 (3,072 pixels); "
        "name it with `labels`, such as #ff0010=tumour, or #ff0010= for no ROI"
    )
    assert numbered.add_masks("B.png", {"#ff0010": "tumour"}).rois == 1


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ({}, {}, "no labels are given; name the values of the masks with `labels`, such as 1=tumour"),
        (
            {"one": "tumour"},
            {},
            "`labels` names 'one'; a value is a whole number such as 1, or a colour such as #ff0000",
        ),
        (
            {"1": "tumour", "#ff0000": "stroma"},
            {},
            "`labels` names both numbers and colours; a mask has one or the other: add them in two calls",
        ),
        ({1: "NA"}, {}, "`labels` names 1 'NA', which is no label; for no ROI write 1="),
        ({1: " ", 2: None}, {}, "`labels` names no label; give at least one, such as 1=tumour"),
        ({"1": "tumour", "01": "stroma"}, {}, "`labels` names a value twice; give each one label"),
        (
            {1: "tumour"},
            {"downsample": "half"},
            "downsample is 'half'; give base pixels per pixel of the mask, such as 16, or auto",
        ),
        (
            {1: "tumour"},
            {"downsample": 0},
            "downsample is 0; give base pixels per pixel of the mask, such as 16, or auto",
        ),
        ({1: "tumour"}, {"roi_set": " "}, "the name of a set of ROIs is empty; give one, such as reader_a"),
    ],
)
def test_impossible_options(numbered: sd.Study, labels: Any, options: dict[str, Any], message: str) -> None:
    assert refused(numbered, "A.png", labels, **options) == message


def test_masks_that_do_not_fit_their_slide(numbered: sd.Study, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "A.png"), np.ones((20, 32), np.uint8))
    assert refused(numbered, "A.png", {1: "tumour"}) == (
        "A.png: 32 x 20 pixels, but slide 'A' has 64 x 48: 2 times as wide and 2.4 times as high; "
        "make the mask of the whole slide, at one scale"
    )
    cv2.imwrite(str(tmp_path / "A.png"), np.ones((24, 32), np.uint8))
    assert refused(numbered, "A.png", {1: "tumour"}, downsample=4) == (
        "A.png: 32 x 24 pixels, but slide 'A' has 64 x 48, which is 16 x 12 at `downsample` 4; "
        "give the number that the mask was made with, or auto"
    )
    assert numbered.add_masks("A.png", {1: "tumour"}, downsample=2).rois == 1
    assert numbered.add_masks("A.png", {1: "tumour"}, downsample="auto").unchanged == 1


def test_slides_that_are_not_there(numbered: sd.Study, tmp_path: Path) -> None:
    (tmp_path / "A.png").rename(tmp_path / "a_mask.png")
    cv2.imwrite(str(tmp_path / "broken.png"), np.ones((48, 64), np.uint8))
    cv2.imwrite(str(tmp_path / "thing.png"), np.ones((48, 64), np.uint8))
    # Everything that is wrong is said at once.
    assert refused(numbered, "*.png", {1: "tumour"}).splitlines() == [
        "a_mask.png: slide 'a_mask' is not in the study; did you mean 'A'?; add it first with add-slides, "
        "name the mask after its slide, or say with `slide_suffix` what stands behind the name",
        "broken.png: slide 'broken' cannot be used: cannot be read",
        "thing.png: slide 'thing' is not in the study; add it first with add-slides, "
        "name the mask after its slide, or say with `slide_suffix` what stands behind the name",
    ]
    (tmp_path / "a_mask.png").rename(tmp_path / "A_mask.png")
    assert refused(numbered, "A_mask.png", {1: "tumour"}, slide_suffix="_labels") == (
        "A_mask.png: its name does not end with '_labels'; rename it, or give another `slide_suffix`"
    )
    assert numbered.add_masks("A_mask.png", LABELS, slide_suffix="_mask").slides == 1


def test_a_mask_of_the_part_that_was_scanned(study: sd.Study, tmp_path: Path) -> None:
    """The part is 256 x 128 at (512, 256) of 1024 x 512: a mask of either has the same aspect."""
    write_scn(tmp_path / "L.scn", np.full((128, 256, 3), 200, np.uint8), at=(512, 256), glass=(1024, 512))
    study.add_slides(tmp_path / "L.scn")
    mask = np.zeros((32, 64), np.uint8)
    mask[8:24, 16:40] = 1
    cv2.imwrite(str(tmp_path / "L.png"), mask)
    slide = "slide 'L', 1024 x 512, was scanned at x 512 to 768, y 256 to 384"
    say = "say what the mask shows with `frame='bounds'`, that part, or `frame='level0'`"
    found: list[tuple[dict[str, Any], str]] = [
        ({}, "fit the part of the slide that was scanned, and the whole as well"),
        ({"downsample": 4}, "fit the part of the slide that was scanned, and not the whole"),
    ]
    for options, fits in found:
        with pytest.raises(sd.InputError) as caught:
            study.add_masks(tmp_path / "L.png", {1: "tumour"}, **options)
        assert str(caught.value) == f"L.png: 64 x 32 pixels {fits}; {slide}; {say}"
    bounds = "SELECT ST_XMin(geom), ST_YMin(geom), ST_XMax(geom), ST_YMax(geom), area FROM rois"
    assert study.add_masks(tmp_path / "L.png", {1: "tumour"}, frame="level0").rois == 1
    assert study.sql(bounds).fetchall() == [(256, 128, 640, 384, 16 * 24 * 256)]
    study.close()
    assert run("add-masks", study.path, tmp_path / "L.png", "--labels", "1=tumour", "--frame", "bounds").exit_code == 0
    with sd.open(study.path) as again:
        assert again.sql(bounds).fetchall() == [(512 + 64, 256 + 32, 512 + 160, 256 + 96, 16 * 24 * 16)]
        assert again.sql(
            "SELECT frame, offset_x, offset_y FROM roi_files JOIN roi_file_slides USING (roi_file_id)"
        ).fetchall() == [("bounds", 512, 256)]
        assert again.add_masks(tmp_path / "L.png", {1: "tumour"}, frame="bounds").unchanged == 1
    with pytest.raises(sd.ConfigError, match=r"^frame is 'glass'; give one of bounds, level0$"):
        again.add_masks(tmp_path / "L.png", {1: "tumour"}, frame="glass")


def test_an_roi_of_the_same_name_from_another_file(numbered: sd.Study, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    shutil.copy(tmp_path / "A.png", tmp_path / "x" / "A.png")
    numbered.add_masks("A.png", LABELS)
    with pytest.raises(sd.InputError) as caught:
        numbered.add_masks("x/A.png", LABELS)
    assert str(caught.value).splitlines() == [
        f"A.png: ROI 'fat' and 2 others of slide 'A' are in {tmp_path}/A.png too, which the study has; names are "
        "unique in a slide: put this file in the other's place for that slide with `replace=True` (ROIs: 3 the same, "
        "0 changed, 0 new, 0 gone), or rename them"
    ]
    assert numbered.add_masks("x/A.png", {key: f"{label} 2" for key, label in LABELS.items()}).rois == 3
    report = numbered.add_masks("x/A.png", LABELS, replace=True)
    assert report.replaced == (
        f"A: {tmp_path}/x/A.png in place of {tmp_path}/A.png: 3 the same, 0 changed, 0 new, 0 gone",
    )
    assert numbered.sql("SELECT count(*) FROM rois").fetchall() == [(3,)]


HALF = np.full((48, 64), 0.5, np.float32)
WRITTEN: dict[str, tuple[str, Callable[[Path, Mask], object], str]] = {
    "JPEG": (
        "A.png",
        lambda path, mask: Image.fromarray(mask).save(path, format="JPEG"),
        "A.png: a JPEG, whose compression changes values where labels meet; "
        "write the mask as PNG, or as TIFF with LZW or deflate",
    ),
    "JPEG in TIFF": (
        "A.tif",
        lambda path, mask: tifffile.imwrite(path, mask, compression="jpeg"),
        "A.tif: a TIFF with JPEG, whose compression changes values where labels meet; "
        "write the mask as PNG, or as TIFF with LZW or deflate",
    ),
    "other": (
        "A.png",
        lambda path, mask: path.write_text("1"),
        "A.png: neither PNG nor TIFF; write the mask as one of them",
    ),
    "RGB of 16 bits": (
        "A.png",
        lambda path, mask: cv2.imwrite(str(path), np.dstack([mask.astype(np.uint16)] * 3)),
        "A.png: a PNG of 16 bits a colour; write it with 8, or as one channel of 16",
    ),
    "TIFF of 16 bits": (
        "A.tif",
        lambda path, mask: tifffile.imwrite(path, np.dstack([mask.astype(np.uint16)] * 3), photometric="rgb"),
        "A.tif: a TIFF of 16 bits a colour; write it with 8, or as one channel of 16 or 32",
    ),
    "stack": (
        "A.tif",
        lambda path, mask: tifffile.imwrite(path, np.stack([mask, mask])),
        "A.tif: a TIFF of 2 images of one size; write the one that is the mask",
    ),
    "planes": (
        "A.tif",
        lambda path, mask: tifffile.imwrite(path, np.stack([mask] * 3), photometric="rgb", planarconfig="separate"),
        "A.tif: a TIFF of 3 channels in planes; write one channel, or RGB pixel by pixel",
    ),
    "white": (
        "A.tif",
        lambda path, mask: tifffile.imwrite(path, mask > 1, photometric="miniswhite"),
        "A.tif: a TIFF in which 0 is white (MINISWHITE), where programs differ in what they call 0 and 1; "
        "write the mask as PNG, or with photometric='minisblack'",
    ),
    "turned": (
        "A.tif",
        lambda path, mask: tifffile.imwrite(path, mask, extratags=[(274, "H", 1, 6, True)]),
        "A.tif: a TIFF that is turned or mirrored (its tag Orientation); write it upright",
    ),
    "halves": (
        "A.tif",
        lambda path, mask: tifffile.imwrite(path, HALF),
        "A.tif: values that are no whole numbers; write the mask as integers",
    ),
    "cut PNG": (
        "A.png",
        lambda path, mask: path.write_bytes(path.read_bytes()[:100]),
        "A.png: a broken image: image file is truncated; write it again",
    ),
    "stub of a PNG": (
        "A.png",
        lambda path, mask: path.write_bytes(path.read_bytes()[:20]),
        "A.png: a broken image: index out of range; write it again",
    ),
    "stub of a TIFF": (
        "A.tif",
        lambda path, mask: path.write_bytes(b"II*\0abc"),
        "A.tif: a broken image: unpack requires a buffer of 4 bytes; write it again",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRITTEN)
def test_images_that_are_no_masks(numbered: sd.Study, tmp_path: Path, what: str) -> None:
    name, write, message = WRITTEN[what]
    mask = np.asarray(Image.open(tmp_path / "A.png"))
    write(tmp_path / name, mask)
    assert refused(numbered, name, LABELS) == message
    # Written as the messages say.
    tifffile.imwrite(tmp_path / "A.tif", mask, photometric="minisblack", compression="lzw")
    assert numbered.add_masks("A.tif", LABELS).rois == 3


def test_a_tiff_that_was_cut_is_broken(numbered: sd.Study, tmp_path: Path) -> None:
    mask = np.random.default_rng(0).integers(0, 4, (48, 64), np.uint8)
    tifffile.imwrite(tmp_path / "A.tif", mask, rowsperstrip=8, compression="deflate")
    data = bytearray((tmp_path / "A.tif").read_bytes())
    data[-300:] = bytes(300)
    (tmp_path / "A.tif").write_bytes(data)
    message = refused(numbered, "A.tif", LABELS)
    assert message.startswith("A.tif: a broken image: ")
    assert message.endswith("; write it again")


# --------------------------------------------------------------------------------------- the command


def test_the_command_prints_what_it_did(study: sd.Study, tmp_path: Path) -> None:
    study.close()
    mask = np.zeros((24, 32), np.uint8)
    mask[:, 16:] = 7
    cv2.imwrite(str(tmp_path / "A_mask.png"), mask)
    cv2.imwrite(str(tmp_path / "B_mask.png"), mask * 0)
    words = ("add-masks", "study.duckdb", "A_mask.png", "B_mask.png", "--slide-suffix", "_mask")
    refusal = run(*words, "--labels", "1=tumour, left,2=")
    assert (refusal.exit_code, refusal.stderr.splitlines()[-1]) == (
        1,
        "error: A_mask.png: 1 value without a label: 7 (384 pixels); "
        "name it with --labels, such as 7=tumour, or 7= for no ROI",
    )
    done = run(*words, "--labels", "7=tumour, left,2=", "--labels", "3=stroma")
    assert (done.exit_code, done.stdout) == (0, "1 ROI on 2 slides from 2 masks\n")
    progress, *said = done.stderr.splitlines()
    assert progress.startswith("Reading masks: 2/2 masks")
    assert said == [
        "pixels of each label:",
        "  stroma: 0",
        "  tumour, left: 384",
        "base pixels per pixel of a mask:",
        "  2",
        "1 mask without a pixel of any label:",
        "  B_mask.png",
    ]
    again = run(*words, "--labels", "7=tumour, left,2=,3=stroma", "--downsample", "2")
    assert again.stdout == "0 ROIs on 0 slides from 0 masks; 2 masks unchanged\n"
    for option, value, message in (
        ("--labels", "7", "Invalid value for '--labels': '7' is not VALUE=LABEL, such as 1=tumour or '#ff0000=tumour'"),
        ("--labels", "7=a,7=b", "--labels names a value twice; give each one label"),
        ("--downsample", "half", "downsample is 'half'; give base pixels per pixel of the mask, such as 16, or auto"),
    ):
        wrong = run(*words, "--labels", "1=tumour", option, value)
        assert wrong.exit_code in (1, 2)
        assert wrong.stderr.splitlines()[-1].lower() == f"error: {message}".lower()
