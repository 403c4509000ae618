"""Pictures show each tile and ROI where it is, in its label's colour, and are written whole."""

from __future__ import annotations

import base64
import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

import slideduck as sd
from slideduck.cli.group import cli
from slideduck.draw.figure import save_figure, scale_bar_um
from slideduck.draw.picture import overlay
from slideduck.errors import SlideduckError, StudyError
from slideduck.palette import PALETTE, label_colours
from tests.help_examples import examples
from tests.rectangles import write_rois
from tests.slides import write_slide

GREY = 200
#: Outlines in base pixels: a square with a hole of the same label, a bar, one without a label, and an artifact.
ROIS = {
    "nest": ("tumour", (200, 200, 600, 600)),
    "nest_hole": ("tumour", (300, 300, 500, 500)),
    "bar": ("stroma", (700, 200, 900, 600)),
    "note": ("", (200, 650, 400, 750)),
    "smear": ("pen", (600, 620, 800, 780)),
}
COLOURS = label_colours(["tumour", "stroma", "pen"])


@pytest.fixture(scope="module")
def study_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a study of one grey slide of 1000 x 800 pixels with ROIs, on two grids."""
    folder = tmp_path_factory.mktemp("plot")
    write_slide(folder / "slide_1.tiff", np.full((800, 1000, 3), GREY, np.uint8), mpp=0.5, compression="deflate")
    write_rois(folder / "slide_1.csv", ROIS)
    with sd.open(folder / "study.duckdb") as study:
        study.add_slides(folder / "slide_1.tiff")
        study.add_rois(folder / "slide_1.csv")
        study.tile(50, tile_um=50)
        study.tile(50, tile_um=50, stride_div=2)
        study.label(artifact_labels=["pen"])
    return folder / "study.duckdb"


def read(png: Path) -> npt.NDArray[np.uint8]:
    """Return the pixels of a file, RGB."""
    bgr = cv2.imread(str(png))
    assert bgr is not None
    return np.asarray(bgr[..., ::-1], np.uint8)


def picture_of_slide(png: Path, size: tuple[int, int] = (1000, 800)) -> npt.NDArray[np.uint8]:
    """Return what is drawn inside the frame, at one pixel for each base pixel; the proportions are the slide's."""
    rgb = read(png)
    # The longest stretches that are not white are those of the slide: no text or bar is as long.
    ink = (rgb.min(axis=2) < 245).astype(np.uint8)
    whole = cv2.morphologyEx(ink, cv2.MORPH_OPEN, np.ones((40, 40), np.uint8))
    rows, columns = (np.flatnonzero(whole.any(axis=axis)) for axis in (1, 0))
    inside = rgb[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert inside.shape[1] / inside.shape[0] == pytest.approx(size[0] / size[1], rel=0.04)
    return np.asarray(cv2.resize(inside, size, interpolation=cv2.INTER_NEAREST), np.uint8)


def blended(colour: str, alpha: float = 0.38) -> npt.NDArray[np.float64]:
    """Return a colour that lies over the grey of the slide."""
    return np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) * alpha + GREY * (1 - alpha)


#: Where a tile is not kept, and where one is kept and has no label.
PALE, BARE = blended("#FFFFFF", 0.5), np.full(3, float(GREY))


def written(svg: Path) -> list[str]:
    """Return the lines of text of a picture, which stand beside their shapes as comments."""
    return re.findall(r"<!-- (.*?) -->", svg.read_text(encoding="utf-8"))


@pytest.mark.parametrize("grid", ["50px_50um", "50px_50um_stride2"])
def test_each_tile_has_its_labels_colour_where_it_lies(study_path: Path, tmp_path: Path, grid: str) -> None:
    with sd.open(study_path, read_only=True) as study:
        assert study.plot_labels("slide_1", tmp_path / "out.png", grid=grid) == tmp_path / "out.png"
    picture = picture_of_slide(tmp_path / "out.png")
    # Centres of tiles and, between overlapping ones, places that no line of the grid crosses.
    tumour, stroma = blended(COLOURS["tumour"]), blended(COLOURS["stroma"])
    places = {
        (250, 250): tumour,
        (550, 350): tumour,
        (740, 240): stroma,
        (860, 560): stroma,
        (400, 400): PALE,  # the hole
        (350, 450): PALE,
        (650, 300): PALE,
        (650, 660): PALE,  # the artifact
        (950, 80): PALE,
        (270, 680): BARE,  # the ROI without a label
    }
    shift = 0 if grid == "50px_50um" else 10
    for (x, y), expected in places.items():
        assert np.abs(picture[y + shift, x + shift] - expected).max() <= 3, (x, y)


def test_tiles_without_a_label_have_edges_and_those_not_kept_have_none(study_path: Path, tmp_path: Path) -> None:
    with sd.open(study_path, read_only=True) as study:
        study.plot_labels("slide_1", tmp_path / "out.png", grid="50px_50um", rois=False)
    picture = picture_of_slide(tmp_path / "out.png").astype(int)
    assert picture[640:660, 295:306].min(axis=1).max() < GREY - 20  # between two tiles of the ROI without a label
    assert (np.abs(picture[40:60, 295:306] - PALE) <= 3).all()
    assert (np.abs(picture[660:690, 695:706] - PALE) <= 3).all()  # between two tiles of the artifact


def test_outlines_run_along_the_rois_and_their_holes(study_path: Path, tmp_path: Path) -> None:
    with sd.open(study_path, read_only=True) as study:
        overlay(study.handle, "slide_1", tmp_path / "out.png", grid="50px_50um")
    picture = picture_of_slide(tmp_path / "out.png").astype(int)
    colour = np.array([int(COLOURS["tumour"][at : at + 2], 16) for at in (1, 3, 5)])
    for x, y in [(200, 350), (600, 430), (350, 200), (300, 400), (500, 380), (420, 500)]:
        window = picture[y - 3 : y + 4, x - 3 : x + 4].reshape(-1, 3)
        assert np.abs(window - colour).max(axis=1).min() <= 12, (x, y)


def test_what_is_left_out_is_not_drawn(study_path: Path, tmp_path: Path) -> None:
    with sd.open(study_path, read_only=True) as study:
        study.plot_labels("slide_1", tmp_path / "bare.png", tiles=False, rois=False)
        study.plot_labels("slide_1", tmp_path / "rois.svg", tiles=False)
        study.plot_labels("slide_1", tmp_path / "tiles.svg", grid="50px_50um", rois=False)
    assert (np.abs(picture_of_slide(tmp_path / "bare.png")[10:-10, 10:-10].astype(int) - GREY) <= 1).all()
    assert written(tmp_path / "rois.svg")[:2] == ["slide_1", "ROIs"]
    assert not [line for line in written(tmp_path / "rois.svg") if "tile" in line]
    assert not [line for line in written(tmp_path / "tiles.svg") if "ROI" in line]


def test_legend_counts_what_the_view_holds(study_path: Path, tmp_path: Path) -> None:
    with sd.open(study_path, read_only=True) as study:
        study.plot_labels("slide_1", tmp_path / "out.svg", grid="50px_50um")
        tiles = dict(
            study.sql(
                "SELECT CASE WHEN kept THEN coalesce(label, 'bare') ELSE 'pale' END, count(*) FROM labels "
                "WHERE grid = '50px_50um' GROUP BY ALL"
            ).fetchall()
        )
    assert written(tmp_path / "out.svg") == [
        "slide_1", "grid 50px_50um", "50 µm",
        "pen", "artifact, 1 ROI",
        "stroma", f"{tiles['stroma']} tiles, 1 ROI",
        "tumour", f"{tiles['tumour']} tiles, 1 ROI",
        "ROI without a label", "1 ROI",
        "tile without a label", f"{tiles['bare']} tiles",
        "not kept, drawn paler", f"{tiles['pale']} tiles",
    ]  # fmt: skip
    assert tiles == {"stroma": 8, "tumour": 12, "bare": 4, "pale": 56}


def test_outlines_in_svg_are_lines_in_the_place_of_the_rois(study_path: Path, tmp_path: Path) -> None:
    with sd.open(study_path, read_only=True) as study:
        study.plot_labels("slide_1", tmp_path / "out.svg", tiles=False)
    text = (tmp_path / "out.svg").read_text(encoding="utf-8")

    def points(path: str) -> npt.NDArray[np.float64]:
        return np.array(re.findall(r"[ML] (\S+) (\S+)", path), dtype=np.float64)

    frame = points(re.findall(r'<g id="patch_2">\s*<path d="(.*?)"', text, re.DOTALL)[0])
    left, top = frame.min(axis=0)
    per_base = (frame.max(axis=0) - frame.min(axis=0)) / (1000, 800)
    for name, label in (("nest", "tumour"), ("bar", "stroma"), ("smear", "pen")):
        style = re.compile(
            rf'<path d="([^"]*)" clip-path="[^"]*" style="fill: none; stroke: {COLOURS[label].lower()}; '
            'stroke-width: 1.5"'
        )
        (path,) = style.findall(text)
        drawn = (points(path) - (left, top)) / per_base
        x0, y0, x1, y1 = ROIS[name][1]
        corners = {(x0, y0), (x1, y0), (x1, y1), (x0, y1)}
        if name == "nest":
            corners |= {(300, 300), (500, 300), (500, 500), (300, 500)}
        assert {tuple(point) for point in drawn.round().tolist()} == corners
        assert np.abs(drawn - drawn.round()).max() < 0.01


def test_roi_ends_at_the_edge_of_the_slide_and_is_told(study: sd.Study, tmp_path: Path) -> None:
    write_slide(tmp_path / "a.tiff", np.full((800, 1000, 3), GREY, np.uint8), compression="deflate")
    write_rois(
        tmp_path / "a.csv",
        {
            "off": ("tumour", (-5000, 100, 300, 400)),
            "under": ("tumour", (500, 700, 700, 9000)),
            "in": ("tumour", (800, 200, 900, 300)),
        },
    )
    study.add_slides(tmp_path / "a.tiff")
    study.add_rois(tmp_path / "a.csv")
    study.tile(50, tile_um=50)
    study.label()
    # The frame is the slide's own, and outside of it is white.
    picture = picture_of_slide(study.plot_labels("a", tmp_path / "out.png"))
    assert np.abs(picture[250, 50] - blended(label_colours(["tumour"])["tumour"])).max() <= 3
    rgb = read(tmp_path / "out.png")
    assert (rgb[:, :20] == 255).all()
    study.plot_labels("a", tmp_path / "out.svg")
    assert "2 ROIs leaving the slide" in written(tmp_path / "out.svg")


@pytest.mark.parametrize("size", [(3000, 250), (250, 3000), (900, 900)])
def test_slides_of_every_shape_keep_it_beside_many_long_labels(
    study: sd.Study, tmp_path: Path, size: tuple[int, int]
) -> None:
    width, height = size
    write_slide(tmp_path / "a.tiff", np.full((height, width, 3), GREY, np.uint8), compression="deflate", levels=1)
    names = [f"a label with a name of some length, number {number:02}" for number in range(12)]
    step = max(size) // 12
    rois = {
        name: (name, (step * i, 0, step * (i + 1), height) if width >= height else (0, step * i, width, step * (i + 1)))
        for i, name in enumerate(names)
    }
    write_rois(tmp_path / "a.csv", rois)
    study.add_slides(tmp_path / "a.tiff")
    study.add_rois(tmp_path / "a.csv")
    study.tile(20, tile_um=20)
    study.label()
    picture = picture_of_slide(study.plot_labels("a", tmp_path / "out.png"), size)
    colours = label_colours(names)
    for name, (_, (left, top, right, bottom)) in rois.items():
        x, y = int(left + right) // 2, int(top + bottom) // 2
        # Most of what is around the middle is no edge of a tile.
        inside = np.median(picture[y - 15 : y + 16, x - 15 : x + 16].reshape(-1, 3), axis=0)
        assert np.abs(inside - blended(colours[name])).max() <= 5, name
    study.plot_labels("a", tmp_path / "out.svg")
    lines = written(tmp_path / "out.svg")
    assert [line for line in lines if line.startswith("length, number")] == [
        f"length, number {number:02}" for number in range(12)
    ]


@pytest.mark.attack("HTML and terminals", "a formula that does not parse in a label on a picture")
def test_names_are_written_as_they_are(study: sd.Study, tmp_path: Path) -> None:
    write_slide(tmp_path / "$a_1$.tiff", np.full((200, 400, 3), GREY, np.uint8), compression="deflate")
    labels = ["$\\alpha^2$", "_hidden", "a & b < c", "l" * 70, "ж Ω é", "$\\frac{$", "\x1b[31m\u202e\ufffe-->"]
    write_rois(
        tmp_path / "$a_1$.csv", {f"r{i}": (label, (i * 57, 0, i * 57 + 50, 200)) for i, label in enumerate(labels)}
    )
    study.add_slides(tmp_path / "$a_1$.tiff")
    study.add_rois(tmp_path / "$a_1$.csv")
    study.tile(10, tile_um=10)
    study.label()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        study.plot_labels("$a_1$", tmp_path / "out.svg")
    lines = written(tmp_path / "out.svg")
    assert lines[0] == "$a_1$"
    for label in ["$\\alpha^2$", "_hidden", "a &amp; b &lt; c", "l" * 30, "l" * 10, "ж Ω é", "$\\frac{$"]:
        assert label in lines, (label, lines)
    assert r"\x1b[31m\u202e\ufffe" in "".join(lines)
    # It is XML, whatever a label holds.
    ElementTree.parse(tmp_path / "out.svg")


def test_no_picture_takes_a_name_for_mathematics(tmp_path: Path) -> None:
    figure = Figure()
    axes, other = figure.subplots(2)
    axes.set(title="$\\frac{$", xlabel="$^$", yscale="log")
    axes.plot([1, 2], [1, 1000], label="$\\over$")
    axes.legend()
    other.set_title("\x1b[31m")
    figure.suptitle("$\\frac{$")
    save_figure(figure, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    ElementTree.fromstring(text)
    assert text.count("<!-- $\\frac{$ -->") == 2
    assert r"<!-- \x1b[31m -->" in text
    # Numbers beside axes stay matplotlib's own.
    assert r"$\mathdefault{10^{2}}$" in text


def test_letters_that_no_font_has_are_told(study: sd.Study, tmp_path: Path) -> None:
    write_slide(tmp_path / "a.tiff", np.full((200, 400, 3), GREY, np.uint8), compression="deflate")
    write_rois(tmp_path / "a.csv", {"r": ("tumour \U000108e0", (0, 0, 100, 100))})
    study.add_slides(tmp_path / "a.tiff")
    study.add_rois(tmp_path / "a.csv")
    study.tile(10, tile_um=10)
    study.label()
    study.close()
    done = CliRunner().invoke(cli, ["plot", "labels", str(study.path), "a", str(tmp_path / "out.png")])
    assert done.stdout == f"{tmp_path / 'out.png'}\n"
    assert done.stderr == (
        "no installed font has \U000108e0, drawn as boxes; install one that has, such as Noto Sans CJK "
        "(apt-get install fonts-noto-cjk), or write a page (.html)\n"
    )


def test_same_study_gives_the_same_bytes_and_leaves_nothing_else(study_path: Path, tmp_path: Path) -> None:
    outs = [tmp_path / f"out{suffix}" for suffix in (".png", ".pdf", ".svg")]
    for out in outs:
        out.write_bytes(b"of before")
    # Neither the order of hashes, nor threads, nor the user's own style, nor the time of day is in it.
    code = (
        "import sys, matplotlib, slideduck as sd\n"
        "if sys.argv[1] == '2':\n"
        "    matplotlib.rcParams.update({'figure.facecolor': 'red', 'font.size': 30, 'pdf.compression': 0})\n"
        "before = dict(matplotlib.rcParams)\n"
        f"with sd.open({str(study_path)!r}, read_only=True, threads=int(sys.argv[1])) as study:\n"
        "    for out in sys.argv[2:]:\n"
        "        study.plot_labels('slide_1', out, grid='50px_50um')\n"
        "assert dict(matplotlib.rcParams) == before\n"
    )
    made = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "SOURCE_DATE_EPOCH": f"{seed}00000"}
        subprocess.run([sys.executable, "-c", code, seed, *map(str, outs)], env=environment, check=True)
        made.append([out.read_bytes() for out in outs])
    assert made[0] == made[1]
    for picture, begin in zip(made[0], (b"\x89PNG", b"%PDF", b"<?xml"), strict=True):
        assert picture.startswith(begin)
        assert not re.search(rb"CreationDate|dc:date|[Mm]atplotlib v", picture)
    assert sorted(tmp_path.iterdir()) == sorted(outs)


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg", ".html"])
def test_full_disk_leaves_the_picture_that_was_there(study_path: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    out.write_bytes(b"of before")
    code = (
        "import resource, slideduck as sd\n"
        f"with sd.open({str(study_path)!r}, read_only=True) as study:\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))\n"
        "    try:\n"
        f"        study.plot_labels('slide_1', {str(out)!r}, grid='50px_50um')\n"
        "    except sd.SlideduckError as error:\n"
        "        print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (f"DiskFullError no space left for {out} (File too large); free some, and draw it again\n")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == {out: b"of before"}


def test_callers_pyplot_is_left_alone(study_path: Path, tmp_path: Path) -> None:
    code = (
        "import sys, slideduck as sd\n"
        "from slideduck.draw.picture import overlay\n"
        f"with sd.open({str(study_path)!r}, read_only=True) as study:\n"
        "    print('matplotlib' in sys.modules)\n"
        f"    overlay(study.handle, 'slide_1', {str(tmp_path / 'out.png')!r}, grid='50px_50um')\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\nFalse\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"slide": "slide_2", "grid": "50px_50um"},
            "study.duckdb has no slide 'slide_2'; did you mean 'slide_1'?; see which there are with: "
            "slideduck sql study.duckdb 'SELECT slide FROM slides'",
        ),
        ({"grid": "9px_9um"}, "study.duckdb has no grid '9px_9um'; it has 50px_50um, 50px_50um_stride2"),
        ({}, "study.duckdb has 2 grids (50px_50um, 50px_50um_stride2); name one with `grid`"),
        ({"name": "a.tif"}, "a.tif has the suffix .tif; name it a.png, a.pdf, a.svg or a.html"),
        ({"name": "a"}, "a has no suffix; name it a.png, a.pdf, a.svg or a.html"),
        ({"html": True}, "a.png is not named as a page; name it a.html, or leave `html` out"),
        ({"max_px": 15}, "max_px is 15; give from 16 to 16,384 pixels"),
        ({"max_px": 16385}, "max_px is 16385; give from 16 to 16,384 pixels"),
        ({"dpi": 0}, "dpi is 0; give from 20 to 2,400 dots per inch"),
        (
            {"dpi": 300, "name": "a.svg"},
            "dpi is given for a.svg, which is drawn in lines and areas; leave dpi out",
        ),
        (
            {"dpi": 300, "name": "a.html"},
            "dpi is given for a.html, a page, which has none; give max_px, or leave dpi out",
        ),
    ],
)
def test_what_is_not_there_or_not_possible_is_named(
    study_path: Path, tmp_path: Path, arguments: dict[str, object], message: str
) -> None:
    values = {"slide": "slide_1", **arguments}
    out = tmp_path / str(values.pop("name", "a.png"))
    with sd.open(study_path, read_only=True) as study, pytest.raises(StudyError) as refused:
        study.plot_labels(out=out, **values)  # type: ignore[arg-type]
    assert str(refused.value) == message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".png", ".html"])
def test_missing_folder_is_named_before_the_slide_is_read(study: sd.Study, tmp_path: Path, suffix: str) -> None:
    study.add_slides(write_slide(tmp_path / "a.tiff"))
    study.tile(64, tile_um=64)
    study.label()
    (tmp_path / "a.tiff").unlink()
    with pytest.raises(SlideduckError) as refused:
        study.plot_labels("a", tmp_path / "none" / f"out{suffix}")
    assert str(refused.value) == f"no folder {tmp_path / 'none'} to write out{suffix} in; make the folder first"
    with pytest.raises(SlideduckError, match="there is no file"):
        study.plot_labels("a", tmp_path / f"out{suffix}")
    (tmp_path / f"taken{suffix}").mkdir()
    write_slide(tmp_path / "a.tiff")
    with pytest.raises(SlideduckError) as taken:
        study.plot_labels("a", tmp_path / f"taken{suffix}")
    assert str(taken.value) == (
        f"{tmp_path / f'taken{suffix}'} cannot be written: Is a directory; give another place for it"
    )


def test_labels_that_are_missing_or_out_of_date_are_asked_for(study: sd.Study, tmp_path: Path) -> None:
    study.add_slides(write_slide(tmp_path / "a.tiff"))
    study.tile(64, tile_um=64)
    with pytest.raises(StudyError) as refused:
        overlay(study.handle, "a", tmp_path / "out.png")
    assert str(refused.value) == "study.duckdb has no labels yet; make them with: slideduck label study.duckdb"
    study.label()
    write_rois(tmp_path / "a.csv", {"r": ("tumour", (0, 0, 100, 100))})
    study.add_rois(tmp_path / "a.csv")
    for out in ("out.png", "out.html"):
        with pytest.raises(StudyError) as stale:
            study.plot_labels("a", tmp_path / out)
        assert str(stale.value) == (
            "the labels of 1 slide are out of date (a); bring them up to date with: slideduck label study.duckdb"
        )


def test_slide_that_cannot_be_used_is_refused_with_its_reason(study: sd.Study, tmp_path: Path) -> None:
    study.add_slides([write_slide(tmp_path / "a.tiff"), write_slide(tmp_path / "b.tiff", mpp=None)])
    study.tile(64, tile_um=64)
    study.label()
    with pytest.raises(StudyError, match=r"slide 'b' cannot be used: .* has no MPP"):
        study.plot_labels("b", tmp_path / "out.png")


def test_slide_without_any_roi_or_any_tile_is_drawn(study: sd.Study, tmp_path: Path) -> None:
    study.add_slides([write_slide(tmp_path / "a.tiff"), write_slide(tmp_path / "small.tiff", size=(100, 90))])
    study.tile(64, tile_um=64)
    study.label()
    for slide in ("a", "small"):
        assert overlay(study.handle, slide, tmp_path / f"{slide}.svg").stat().st_size > 10_000
    assert written(tmp_path / "a.svg")[-2:] == ["tile without a label", "15 tiles"]
    assert written(tmp_path / "small.svg")[-1] == "5 µm"


def test_dpi_and_max_px_are_heeded(study_path: Path, tmp_path: Path) -> None:
    with sd.open(study_path, read_only=True) as study:
        for dpi in (100, 300):
            study.plot_labels("slide_1", tmp_path / f"{dpi}.png", tiles=False, dpi=dpi)
        for max_px in (50, 800):
            study.plot_labels("slide_1", tmp_path / f"{max_px}.svg", tiles=False, max_px=max_px)
    shapes = [read(tmp_path / f"{dpi}.png").shape for dpi in (100, 300)]
    assert np.array(shapes[1][:2]) == pytest.approx(np.array(shapes[0][:2]) * 3, rel=0.02)
    for max_px in (50, 800):
        text = (tmp_path / f"{max_px}.svg").read_text(encoding="utf-8")
        (coded,) = re.findall(r'xlink:href="data:image/png;base64,\s*(.*?)"', text, re.DOTALL)
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(coded), np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert picture.shape[:2] == (max_px * 4 // 5, max_px)


def test_real_slides_are_drawn(real_study: sd.Study, tmp_path: Path) -> None:
    real_study.tile(64, tile_um=32)
    real_study.label()
    for slide in ("CMU-1-Small-Region", "TCGA-CR-7395-01A-01-TS1"):
        assert overlay(real_study.handle, slide, tmp_path / f"{slide}.png").stat().st_size > 100_000


def test_colours_depend_on_the_labels_alone() -> None:
    labels = [f"label {i:02}" for i in range(40)]
    colours = label_colours(labels)
    assert colours == label_colours(reversed(labels * 2))
    assert tuple(colours.values())[: len(PALETTE)] == PALETTE
    assert len(set(colours.values())) == len(labels)
    assert list(colours) == labels
    rgb = np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in PALETTE], float)
    apart = np.linalg.norm(rgb[:, None] - rgb, axis=2) + np.eye(len(rgb)) * 999
    assert apart.min() > 50


@pytest.mark.parametrize(
    ("width_um", "bar_um"),
    [(1500, 200), (1000, 200), (999, 100), (20_000, 2000), (40, 5), (9, 1), (0.5, 0.1)],
)
def test_scale_bar_is_round_and_about_a_fifth(width_um: float, bar_um: float) -> None:
    assert scale_bar_um(width_um) == pytest.approx(bar_um)


def test_scale_bar_is_as_long_as_it_says(study_path: Path, tmp_path: Path) -> None:
    with sd.open(study_path, read_only=True) as study:
        study.plot_labels("slide_1", tmp_path / "out.svg", tiles=False, rois=False)
    text = (tmp_path / "out.svg").read_text(encoding="utf-8")
    (bar,) = re.findall(
        r'<path d="M (\S+) \S+ \s*L (\S+) \S+ \s*" style="fill: none; stroke: #000000; stroke-width: 3', text
    )
    frame = re.findall(r'<g id="patch_2">\s*<path d="M (\S+) \S+ \s*L (\S+)', text)[0]
    length, width = (float(right) - float(left) for left, right in (bar, frame))
    assert "50 µm" in written(tmp_path / "out.svg")
    assert length / width == pytest.approx(50 / 500, rel=1e-3)


# ---------------------------------------------------------------------------------------- the command


@pytest.fixture
def project(study: sd.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a study of a slide s0, labelled on one grid; the current folder of the test."""
    write_slide(tmp_path / "s0.tiff", size=(1024, 768))
    write_rois(tmp_path / "s0.csv", {"a": ("tumour", (0, 0, 600, 768)), "b": ("stroma", (600, 0, 1024, 768))})
    study.add_slides(tmp_path / "s0.tiff")
    study.add_rois(tmp_path / "s0.csv")
    study.tile(256, tile_um=256)
    study.label()
    study.close()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_of_the_help_run(project: Path) -> None:
    lines = examples("plot", "labels")
    assert len(lines) == 2
    for line in lines:
        words = shlex.split(line)
        result = CliRunner().invoke(cli, words[1:])
        assert (result.exit_code, result.stdout, result.stderr) == (0, f"{words[5]}\n", ""), line
        assert (project / words[5]).stat().st_size > 10_000


def test_command_and_method_do_the_same(project: Path) -> None:
    words = ["plot", "labels", "study.duckdb", "s0"]
    assert CliRunner().invoke(cli, [*words, "a.svg", "--no-tiles", "--max-px", "100"]).exit_code == 0
    assert CliRunner().invoke(cli, [*words, "a.png", "--no-rois", "--dpi", "50"]).exit_code == 0
    assert CliRunner().invoke(cli, [*words, "a.html", "--html"]).exit_code == 0
    with sd.open("study.duckdb", read_only=True) as study:
        study.plot_labels("s0", "b.svg", tiles=False, max_px=100)
        study.plot_labels("s0", "b.png", rois=False, dpi=50)
        study.plot_labels("s0", "b.html")
    for suffix in ("svg", "png", "html"):
        assert Path(f"a.{suffix}").read_bytes() == Path(f"b.{suffix}").read_bytes()
    wrong = CliRunner().invoke(cli, [*words, "a.jpg"])
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert wrong.stderr == "error: a.jpg has the suffix .jpg; name it a.png, a.pdf, a.svg or a.html\n"


def test_plots_that_another_package_registers_are_commands(project: Path) -> None:
    package = project / "site"
    (package / "atlas-1.0.dist-info").mkdir(parents=True)
    (package / "atlas-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: atlas\nVersion: 1.0\n")
    (package / "atlas-1.0.dist-info" / "entry_points.txt").write_text("[slideduck.plots]\natlas = atlas:draw\n")
    (package / "atlas.py").write_text(
        "import click\n\n@click.command()\ndef draw():\n    '''Draw an atlas.'''\n    click.echo('drawn')\n"
    )

    def run(*words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(package)}
        command = [sys.executable, "-m", "slideduck", "plot", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    listed = re.findall(r"^  (\w+) +(\S.*)$", run("--help").split("Commands:\n")[1], re.MULTILINE)
    assert ("atlas", "Draw an atlas.") in listed
    assert [name for name, _ in listed] == sorted({"atlas", "labels", *(name for name, _ in listed)})
    assert run("atlas") == "drawn\n"
