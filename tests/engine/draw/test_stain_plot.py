"""Pictures of slides before and after the normalisation of their stains."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

import slideduck as sd
from slideduck.cli.group import cli
from slideduck.errors import ConfigError, SlideError, StudyError
from tests.help_examples import examples
from tests.slides import synthetic_image, write_slide


@pytest.fixture
def slides(study: sd.Study, tmp_path: Path) -> sd.Study:
    """A study of two slides, the second of another laboratory, and one without tissue."""
    write_slide(tmp_path / "s0.tif", 0, size=(1280, 960), mpp=0.5)
    other = synthetic_image(1, (1280, 960))
    other[..., 2] //= 2
    write_slide(tmp_path / "s1.tif", other, mpp=0.5)
    write_slide(tmp_path / "empty.tif", np.full((960, 1280, 3), 244, np.uint8), mpp=0.5)
    study.add_slides(tmp_path)
    return study


def mean_colours(path: Path) -> list[np.ndarray]:
    """Return the mean colour of each quarter of a picture, from left to right."""
    picture = cv2.imread(str(path))
    assert picture is not None
    return [part.mean(axis=(0, 1)) for part in np.array_split(picture, 4, axis=1)]


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_each_slide_is_drawn_as_it_is_and_as_the_target(slides: sd.Study, tmp_path: Path, method: str) -> None:
    out = tmp_path / "s1.png"
    assert slides.plot_stain("s1", out, method=method, stain_to="s0") == out
    whole, changed, tile, changed_tile = mean_colours(out)
    # Slide s1 has little blue, and slide s0 has.
    assert changed[0] > whole[0] + 10
    assert changed_tile[0] > tile[0] + 10
    # Fits were made on the way, and the same picture is drawn with them.
    assert slides.sql("SELECT count(*) FROM slide_stains").fetchall() == [(2,)]
    slides.plot_stain(["s1"], tmp_path / "again.png", method=method, stain_to="s0")
    assert (tmp_path / "again.png").read_bytes() == out.read_bytes()


def test_several_slides_from_the_command_line_of_a_study_that_is_only_read(slides: sd.Study, tmp_path: Path) -> None:
    slides.close()
    for suffix in ("png", "pdf", "svg"):
        out = tmp_path / f"both.{suffix}"
        arguments = ["plot", "stain", str(slides.path), "s0", "s1", str(out), "--method", "reinhard"]
        result = CliRunner().invoke(cli, arguments)
        assert (result.exit_code, result.stdout) == (0, f"{out}\n"), result.output
        assert out.stat().st_size > 5_000
    text = (tmp_path / "both.svg").read_text()
    assert len(re.findall("<image", text)) == 8
    with sd.open(slides.path, read_only=True) as study:
        assert study.sql("FROM slide_stains").fetchall() == []


def test_what_cannot_be_drawn_is_refused(slides: sd.Study, tmp_path: Path) -> None:
    out = tmp_path / "x.png"
    for names, settings, kind, message in (
        (["s0", "c"], {}, StudyError, "study.duckdb has no slide 'c' that can be used"),
        (["s0"], {"stain_to": "d"}, StudyError, "study.duckdb has no slide 'd' that can be used"),
        ([], {}, StudyError, "0 slides are named; name from 1 to 40"),
        (["s0"], {"method": "hsv"}, ConfigError, "method is 'hsv'; give one of macenko, reinhard"),
        (["empty"], {}, SlideError, "slide 'empty' has 0 pixels of tissue of a micron each, and a fit of its stains "
         "needs 10,000; leave it out of the export with --where \"label IS NOT NULL AND slide <> 'empty'\""),
    ):  # fmt: skip
        with pytest.raises(kind) as caught:
            slides.plot_stain(names, out, **settings)  # type: ignore[arg-type]
        assert str(caught.value) == message
    with pytest.raises(StudyError, match=r"x\.tif has the suffix \.tif; name it x\.png, x\.pdf or x\.svg"):
        slides.plot_stain(["s0"], tmp_path / "x.tif")
    assert not out.exists()


def test_the_examples_of_the_help_run(slides: sd.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slides.close()
    monkeypatch.chdir(tmp_path)
    lines = [line.split() for line in examples("plot", "stain")]
    assert len(lines) == 2
    for line in lines:
        assert line[:3] == ["slideduck", "plot", "stain"]
        assert CliRunner().invoke(cli, line[1:]).exit_code == 0
    assert (tmp_path / "stain.png").exists()
