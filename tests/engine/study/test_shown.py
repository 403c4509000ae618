"""What a method returns, as a person reads it: at a prompt, in a notebook, as bars."""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pandas as pd
import pytest

import slideduck as sd
from slideduck.show import Picture, Shown
from tests.slides import write_slide

#: What a terminal would obey, and HTML too.
EVIL = "<img src=x>\x1b[31m"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides of 4 x 2 tiles with ROIs of two labels, of which one is no text for a page."""
    folder = tmp_path_factory.mktemp("shown")
    for i, name in enumerate("AB"):
        write_slide(folder / f"{name}.tiff", i, size=(256, 128), mpp=0.5, levels=1, tile=64)
        (folder / f"{name}.csv").write_text(
            "roi_name,x_base,y_base,label\n"
            + "".join(f"a,{x},{y},tumour\n" for x, y in [(0, 0), (128, 0), (128, 128), (0, 128)])
            + "".join(f"b,{x},{y},{EVIL}\n" for x, y in [(128, 0), (192, 0), (192, 128), (128, 128)])
        )
    return folder


@pytest.fixture(scope="module")
def reports(folder: Path) -> Iterator[dict[str, Any]]:
    """The study, and what its methods returned on the way."""
    with sd.open(folder / "study.duckdb") as study:
        yield {
            "study": study,
            "slides": study.add_slides(folder),
            "rois": study.add_rois(folder),
            "tile": study.tile(32, tile_um=32),
            "label": study.label(),
            "split": study.split(val_fraction=0.5),
            "export": study.export(folder / "tiles.beton"),
            "verify": study.verify(),
            "qc": study.qc(["blur"]),
            "remove": study.remove_slides("A", dry_run=True),
            "rename": study.rename_label("tumour", "Tumour", dry_run=True),
            "sidecar": sd.read_sidecar(folder / "tiles.beton"),
            "beton": sd.verify_beton(folder / "tiles.beton"),
        }


def test_a_report_is_read_at_a_prompt(reports: dict[str, Any], folder: Path) -> None:
    told = {name: re.sub(r"seconds [\d.e-]+", "seconds S", repr(report)) for name, report in reports.items()}
    assert told["slides"] == "SlidesReport: added 2, updated 0, unchanged 0"
    assert told["rois"] == "RoisReport: files 2, rois 4, holes 0, slides 2, unchanged 0"
    assert told["tile"] == "GridReport: grid 32px_32um, slides 2, tiles 16, total slides 2, total tiles 16"
    assert told["label"] == (
        "LabelReport: slides labelled now 2, rule centre, overlap smallest, method auto, artifact labels none, set "
        "default, labels from rois\n  tiles by label (3): no label 4, <img src=x>\\x1b[31m 4, tumour 8"
    )
    assert told["split"] == (
        "SplitReport: rule fraction 0.5, seed 0, changed 0\n"
        "  labelled tiles by side (2): train 6, val 6\n"
        "  alone (2): A, B"
    )
    assert told["export"] == (
        f"ExportReport: path {folder}/tiles.beton, sidecar {folder}/tiles.json, grid 32px_32um, samples 12, slides 2, "
        f"bytes {reports['export'].bytes:,}, unlabelled 0, resumed 0, passed through 0, seconds S\n"
        "  tiles per class (2): <img src=x>\\x1b[31m 4, tumour 8\n"
        "  readers (1): tiff 2"
    )
    assert told["verify"].startswith("VerifyReport: slides 2, tiles 16, pairs 24, pairs that differ 0, largest differ")
    assert told["qc"].startswith("QcReport: grid 32px_32um, slides 2, tiles 16, unchanged 0, level low, seconds S\n")
    assert told["remove"] == "SlidesRemoved: rois 2, roi files 1, tiles 8, predictions 0\n  slides (1): A"
    assert told["rename"] == "LabelRenamed: old tumour, new Tumour, rois 2, merged 0\n  slides (2): A, B"
    assert told["sidecar"] == (
        f"Sidecar: path {folder}/tiles.json, samples 12, tile px 32, image mode jpg, quality 90\n"
        "  classes (2): <img src=x>\\x1b[31m, tumour"
    )
    assert told["beton"].endswith("left out 0, problems 0, seconds S")


@pytest.mark.attack("HTML and terminals", "a label of HTML and escapes in what a notebook shows of a report")
def test_a_report_is_a_table_in_a_notebook_and_names_are_text(reports: dict[str, Any]) -> None:
    for report in reports.values():
        page = report._repr_html_()
        assert page.startswith("<table><caption>")
        assert page.endswith("</table>")
        assert "\x1b" not in page + repr(report)
        assert "<img" not in page
    assert "&lt;img src=x&gt;\\x1b[31m 4" in reports["label"]._repr_html_()


def test_every_report_that_a_method_returns_is_shown_so() -> None:
    kinds = set()
    for name, method in inspect.getmembers(sd.Study, inspect.isfunction):
        if not name.startswith("_"):
            hint = get_type_hints(method, localns={"pd": pd})["return"]
            kinds |= {kind for kind in (hint, *get_args(hint)) if inspect.isclass(kind)}
    ours = {kind for kind in kinds if kind.__module__.startswith("slideduck")}
    assert {kind.__name__ for kind in ours if not issubclass(kind, Shown)} == set()
    assert len(ours) > 15
    assert all(kind.__repr__ is Shown.__repr__ for kind in ours)


def test_what_there_is_to_draw_is_drawn_as_bars(reports: dict[str, Any], tmp_path: Path) -> None:
    (axes,) = reports["label"].plot().axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["no label", "<img src=x>\\x1b[31m", "tumour"]
    assert [bar.get_width() for bar in axes.patches] == [4, 4, 8]
    (axes,) = reports["split"].plot().axes
    assert [bar.get_width() for bar in axes.patches] == [6, 6]
    drawn = reports["export"].plot(tmp_path / "classes.png")
    assert drawn == Picture(tmp_path / "classes.png")
    assert drawn._repr_png_().startswith(b"\x89PNG")
    assert reports["export"].plot(tmp_path / "classes.svg")._repr_svg_().startswith("<?xml")
    slide = reports["study"].plot_labels("A", tmp_path / "A.png")
    assert isinstance(slide, Picture)
    assert (slide._repr_png_() or b"").startswith(b"\x89PNG")
    with pytest.raises(sd.ConfigError) as caught:
        reports["tile"].plot()
    assert str(caught.value) == "a GridReport has nothing to draw; print it, or read its fields"
    with pytest.raises(sd.ConfigError) as caught:
        reports["label"].plot("bars.gif")
    assert str(caught.value) == "bars.gif ends in none of .png, .pdf, .svg; give it another name"


def test_a_study_tells_what_is_in_it_and_never_fails(reports: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    study: sd.Study = reports["study"]
    pending = study.con.execute("SELECT 1 UNION ALL SELECT 2")
    assert repr(study) == (
        f"Study {folder}/study.duckdb:\n"
        "  slides 2 (0 cannot be used; generic-tiff)\n"
        "  patients 2 (2 slides without a patient; 0 sites)\n"
        "  ROIs 4 (0 of them holes, 0 without a label, on 2 slides, from 2 files)\n"
        "  labels 2 (<img src=x>\\x1b[31m, tumour)\n"
        "  grids 1 (32px_32um)\n"
        "  tiles 16 (0 slides to label)\n"
        "  label rule 1 (centre, overlaps: smallest, method: auto)\n"
        "  split 1 (fraction 0.5, seed 0)\n"
        "  tiles <img src=x>\\x1b[31m 4 (grid 32px_32um)\n"
        "  tiles tumour 8 (grid 32px_32um)\n"
        "  tiles without a label 4 (grid 32px_32um)"
    )
    # What was asked for before can still be fetched.
    assert pending.fetchall() == [(1,), (2,)]
    study.con.execute("CHECKPOINT")
    copy = tmp_path / "copy.duckdb"
    shutil.copyfile(study.path, copy)
    other = sd.open(copy, read_only=True)
    assert not other.is_closed
    other.close()
    assert other.is_closed
    assert repr(other) == f"Study {copy}:\n  closed; open it again: slideduck.open('{copy}')"
    assert "open it again" in other._repr_html_()
