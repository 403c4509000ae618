"""The overlay shows each tile and ROI where it is, in its label's colour, and is written whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

import slideduck as sd
from slideduck.errors import SlideduckError, StudyError
from slideduck.plot import PALETTE, label_colours, overlay, scale_bar_um
from tests.slides import write_slide

GREY = 200
#: Outlines in base pixels: a square with a hole of the same label, a bar, and one without a label.
ROIS = {
    "nest": ("tumour", (200, 200, 600, 600)),
    "nest_hole": ("tumour", (300, 300, 500, 500)),
    "bar": ("stroma", (700, 200, 900, 600)),
    "note": ("", (200, 650, 400, 750)),
}


@pytest.fixture(scope="module")
def study_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a study of one grey slide of 1000 x 800 pixels with ROIs, on two grids."""
    folder = tmp_path_factory.mktemp("plot")
    write_slide(folder / "slide_1.tiff", np.full((800, 1000, 3), GREY, np.uint8), mpp=0.5, compression="deflate")
    lines = ["roi_name,x_base,y_base,label"]
    for name, (label, (left, top, right, bottom)) in ROIS.items():
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        lines += [f"{name},{x},{y},{label}" for x, y in corners]
    (folder / "slide_1.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with sd.open(folder / "study.duckdb") as study:
        study.add_slides(folder / "slide_1.tiff")
        study.add_rois(folder / "slide_1.csv")
        study.tile(50, tile_um=50)
        study.tile(50, tile_um=50, stride_div=2)
        study.label()
    return folder / "study.duckdb"


def picture_of_slide(png: Path) -> npt.NDArray[np.uint8]:
    """Return what is drawn inside the axes, at one pixel for each base pixel."""
    rgb = cv2.cvtColor(cv2.imread(str(png)), cv2.COLOR_BGR2RGB)
    grey = (np.abs(rgb.astype(int) - GREY) <= 1).all(axis=2)
    # The axes' frame and labels are never this grey over any length.
    rows, columns = (np.flatnonzero(grey.sum(axis=axis) > 50) for axis in (1, 0))
    inside = rgb[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.asarray(cv2.resize(inside, (1000, 800), interpolation=cv2.INTER_NEAREST), np.uint8)


def blended(colour: str, alpha: float = 0.38) -> npt.NDArray[np.float64]:
    """Return a colour that lies over the grey of the slide."""
    return np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) * alpha + GREY * (1 - alpha)


@pytest.mark.parametrize("grid", ["50px_50um", "50px_50um_stride2"])
def test_each_tile_has_its_labels_colour_where_it_lies(study_path: Path, tmp_path: Path, grid: str) -> None:
    with sd.open(study_path, read_only=True) as study:
        assert overlay(study, "slide_1", tmp_path / "out.png", grid=grid) == tmp_path / "out.png"
    picture = picture_of_slide(tmp_path / "out.png")
    colours = label_colours(["tumour", "stroma"])
    # Centres of tiles and, between overlapping ones, places that no line of the grid crosses.
    tumour, stroma, grey = blended(colours["tumour"]), blended(colours["stroma"]), np.full(3, GREY)
    places = {
        (250, 250): tumour,
        (550, 350): tumour,
        (260, 540): tumour,
        (740, 240): stroma,
        (860, 560): stroma,
        (400, 400): grey,  # the hole
        (350, 450): grey,
        (650, 300): grey,
        (300, 700): grey,  # an ROI without a label
        (950, 80): grey,
    }
    shift = 0 if grid == "50px_50um" else 10
    for (x, y), expected in places.items():
        assert np.abs(picture[y + shift, x + shift] - expected).max() <= 3, (x, y)


def test_outlines_run_along_the_rois_and_their_holes(study_path: Path, tmp_path: Path) -> None:
    with sd.open(study_path, read_only=True) as study:
        overlay(study, "slide_1", tmp_path / "out.png", grid="50px_50um")
    picture = picture_of_slide(tmp_path / "out.png").astype(int)
    colour = np.array([int(label_colours(["tumour", "stroma"])["tumour"][at : at + 2], 16) for at in (1, 3, 5)])
    for x, y in [(200, 350), (600, 430), (350, 200), (300, 400), (500, 380), (420, 500)]:
        window = picture[y - 3 : y + 4, x - 3 : x + 4].reshape(-1, 3)
        assert np.abs(window - colour).max(axis=1).min() <= 12, (x, y)


def test_same_study_gives_the_same_bytes_and_leaves_nothing_else(study_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    out.write_bytes(b"of before")
    with sd.open(study_path, read_only=True) as study:
        overlay(study, "slide_1", out, grid="50px_50um")
        first = out.read_bytes()
        overlay(study, "slide_1", out, grid="50px_50um")
    assert out.read_bytes() == first
    assert first.startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [out]


def test_full_disk_leaves_the_picture_that_was_there(study_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    out.write_bytes(b"of before")
    code = (
        "import resource, slideduck as sd\n"
        "from slideduck.plot import overlay\n"
        f"with sd.open({str(study_path)!r}, read_only=True) as study:\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))\n"
        "    try:\n"
        f"        overlay(study, 'slide_1', {str(out)!r}, grid='50px_50um')\n"
        "    except sd.SlideduckError as error:\n"
        "        print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (f"DiskFullError no space left for {out} (File too large); free some, and draw it again\n")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == {out: b"of before"}


def test_callers_pyplot_is_left_alone(study_path: Path, tmp_path: Path) -> None:
    code = (
        "import sys, slideduck as sd\n"
        "from slideduck.plot import overlay\n"
        f"with sd.open({str(study_path)!r}, read_only=True) as study:\n"
        "    print('matplotlib' in sys.modules)\n"
        f"    overlay(study, 'slide_1', {str(tmp_path / 'out.png')!r}, grid='50px_50um')\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\nFalse\n"


def test_what_is_not_there_is_named(study_path: Path, tmp_path: Path) -> None:
    with sd.open(study_path, read_only=True) as study:
        for arguments, message in [
            (
                {"slide": "slide_2", "grid": "50px_50um"},
                "study.duckdb has no slide 'slide_2'; see which there are with: "
                "slideduck sql study.duckdb 'SELECT slide FROM slides'",
            ),
            (
                {"slide": "slide_1", "grid": "9px_9um"},
                "study.duckdb has no grid '9px_9um'; it has 50px_50um, 50px_50um_stride2",
            ),
            (
                {"slide": "slide_1"},
                "study.duckdb has 2 grids (50px_50um, 50px_50um_stride2); name one with --grid",
            ),
        ]:
            with pytest.raises(StudyError) as refused:
                overlay(study, out_png=tmp_path / "out.png", **arguments)  # type: ignore[arg-type]
            assert str(refused.value) == message
        with pytest.raises(SlideduckError) as no_folder:
            overlay(study, "slide_1", tmp_path / "none" / "out.png", grid="50px_50um")
    assert str(no_folder.value) == f"no folder {tmp_path / 'none'} to write out.png in; make the folder first"
    assert list(tmp_path.iterdir()) == []


def test_labels_that_are_missing_are_asked_for(study: sd.Study, tmp_path: Path) -> None:
    study.add_slides(write_slide(tmp_path / "a.tiff"))
    study.tile(64, tile_um=64)
    with pytest.raises(StudyError) as refused:
        overlay(study, "a", tmp_path / "out.png")
    assert str(refused.value) == "study.duckdb has no labels yet; make them with: slideduck label study.duckdb"


def test_slide_without_any_roi_is_drawn(study: sd.Study, tmp_path: Path) -> None:
    study.add_slides(write_slide(tmp_path / "a.tiff"))
    study.tile(64, tile_um=64)
    study.label()
    assert overlay(study, "a", tmp_path / "out.png").stat().st_size > 10_000


def test_real_slides_are_drawn(real_study: sd.Study, tmp_path: Path) -> None:
    real_study.tile(64, tile_um=32)
    real_study.label()
    for slide in ("CMU-1-Small-Region", "TCGA-CR-7395-01A-01-TS1"):
        assert overlay(real_study, slide, tmp_path / f"{slide}.png").stat().st_size > 100_000


def test_colours_depend_on_the_labels_alone() -> None:
    labels = [f"label {i:02}" for i in range(20)]
    colours = label_colours(labels)
    assert colours == label_colours(reversed(labels * 2))
    assert tuple(colours.values())[:8] == PALETTE
    assert len(set(colours.values())) == len(labels)
    assert list(colours) == labels


@pytest.mark.parametrize(
    ("width_um", "bar_um"),
    [(1500, 200), (1000, 200), (999, 100), (20_000, 2000), (40, 5), (9, 1), (0.5, 0.1)],
)
def test_scale_bar_is_round_and_about_a_fifth(width_um: float, bar_um: float) -> None:
    assert scale_bar_um(width_um) == pytest.approx(bar_um)
