"""What a network says is of the slide that was added: one that was put in its place is refused, and joins nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import slideduck as sd
from slideduck.errors import SlideError
from slideduck.runner.maps.gradcam import gradcam
from slideduck.runner.maps.heatmap import heatmap
from slideduck.runner.prediction.features import features
from slideduck.runner.prediction.study import predict
from tests.runner.studies import GRID, write_run, write_study
from tests.slides import synthetic_image, write_slide


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study and a run that has predicted S0, features included."""
    folder = tmp_path_factory.mktemp("replaced")
    write_study(folder)
    run = write_run(folder, "run", "networks:tiny")
    predict(run, folder / "study.duckdb", slides=["S0"])
    features(run, folder / "study.duckdb", slides=["S0"])
    return folder


@pytest.fixture
def study(folder: Path, tmp_path: Path) -> Iterator[sd.Study]:
    """A copy of the study and its slides, open."""
    (tmp_path / "study.duckdb").write_bytes((folder / "study.duckdb").read_bytes())
    shutil.copytree(folder / "slides", tmp_path / "slides")
    with sd.open(tmp_path / "study.duckdb") as opened:
        opened.relocate(folder / "slides", tmp_path / "slides")
        yield opened


def replace(study: sd.Study, slide: str) -> Path:
    """Put another slide in the place of one, with its size and time."""
    path = study.path.parent / "slides" / f"{slide}.tif"
    before = path.stat()
    write_slide(path, synthetic_image(9, (640, 400)))
    os.truncate(path, before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return path


def tile(study: sd.Study, slide: str) -> str:
    query = "SELECT tile_id FROM labels WHERE slide = $slide AND grid = $grid ORDER BY tile_id LIMIT 1"
    return str(study.con.execute(query, {"slide": slide, "grid": GRID}).fetchall()[0][0])


READERS: dict[str, Callable[[Path, sd.Study, Path], object]] = {
    "predict": lambda run, study, _: predict(run, study, slides=["S1"]),
    "features": lambda run, study, _: features(run, study, slides=["S1"]),
    "features in files": lambda run, study, out: features(run, study, out / "files", slides=["S1"]),
    "heatmap": lambda run, study, out: heatmap(run, study, "S1", out / "h.png"),
    "heatmap of what is predicted": lambda run, study, out: heatmap(run, study, "S0", out / "h.png"),
    "gradcam": lambda run, study, out: gradcam(run, study, [tile(study, "S1")], out / "g.png"),
}


@pytest.mark.attack("races", "predictions of a slide put in the place of another")
def test_no_network_sees_a_slide_that_was_replaced(folder: Path, study: sd.Study) -> None:
    paths = {slide: replace(study, slide) for slide in ("S0", "S1")}
    for name, read in READERS.items():
        with pytest.raises(SlideError) as caught:
            read(folder / "run", study, study.path.parent)
        slide = "S0" if name == "heatmap of what is predicted" else "S1"
        told = f"slide {slide!r} has changed: {paths[slide]} is not the file that was added; add it again"
        assert told in str(caught.value), name
    assert study.sql("SELECT DISTINCT slide FROM predictions").fetchall() == [("S0",)]
    assert not list(study.path.parent.glob("*.png"))
    assert not list((study.path.parent / "files").iterdir())


def test_what_was_said_of_the_old_file_leaves_with_it(folder: Path, study: sd.Study) -> None:
    """Predictions and features stay where the file is the same, and where it cannot be read today."""
    run, files = folder / "run", study.path.parent / "files"
    assert features(run, study, files, slides=["S0"]).computed == ("S0",)
    path = study.path.parent / "slides" / "S0.tif"
    counts = "SELECT (SELECT count(*) FROM predictions), (SELECT count(*) FROM features_16)"
    whole = study.sql(counts).fetchall()
    content = path.read_bytes()
    path.write_bytes(content[:-1000])
    assert list(study.add_slides(path).failed) == ["S0"]
    path.write_bytes(content)
    assert study.add_slides(path).failed == {}
    assert study.sql(counts).fetchall() == whole
    study.label()
    assert predict(run, study, slides=["S0"]).skipped == ("S0",)

    write_slide(path, synthetic_image(9, (640, 400)))
    assert study.add_slides(path).cleared == ("S0",)
    assert study.sql(counts).fetchall() == [(0, 0)]
    study.label()
    assert features(run, study, files, slides=["S0"]).computed == ("S0",)
    assert features(run, study, files, slides=["S0"]).skipped == ("S0",)
