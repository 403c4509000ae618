"""Class names in Chinese, Japanese and Korean are written by an installed font that has their letters."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image

from slideduck.runner.plots.curves import draw_curves

CLASSES = ["腫瘍", "기질"]
TITLE = "切片"


def font(path: Path, letters: str) -> Path:
    """Write a font of the name of a common one, in which each letter is a black square."""
    pen = TTGlyphPen(None)
    for turn, at in (("moveTo", (0, 0)), ("lineTo", (0, 900)), ("lineTo", (900, 900)), ("lineTo", (900, 0))):
        getattr(pen, turn)(at)
    pen.closePath()
    square = pen.glyph()
    names = {f"u{ord(letter):x}": ord(letter) for letter in letters}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", *names])
    builder.setupCharacterMap({code: name for name, code in names.items()})
    builder.setupGlyf(dict.fromkeys([".notdef", *names], square))
    builder.setupHorizontalMetrics(dict.fromkeys([".notdef", *names], (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=0)
    builder.setupNameTable({"familyName": "WenQuanYi Micro Hei", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The fonts that the system has, none at first; matplotlib's list, made before, is put back afterwards."""
    paths: list[str] = []
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: paths)
    own = [one for one in font_manager.fontManager.ttflist if one.name.startswith("DejaVu")]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    font_manager.fontManager._findfont_cached.cache_clear()  # type: ignore[attr-defined]
    yield paths
    font_manager.fontManager._findfont_cached.cache_clear()  # type: ignore[attr-defined]


def drawn(out: Path, title: str = TITLE) -> tuple[np.ndarray[Any, Any], list[str]]:
    """Return a picture of curves, and what was warned of."""
    line = {
        "train/loss": 1.0, "val/loss": 1.0, "val/accuracy": 0.5, "val/balanced_accuracy": 0.5, "val/auroc": 0.5,
        "lr": 0.1, "val/confusion": [[1, 1], [1, 1]], "val/class_auroc": dict.fromkeys(CLASSES, 0.5), "epoch": 1,
    }  # fmt: skip
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        draw_curves([line], CLASSES, 1, out, title)
    return np.asarray(Image.open(out).convert("L")), [str(note.message) for note in notes]


def test_a_font_that_has_the_letters_writes_them(
    installed: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    without, _ = drawn(tmp_path / "without.png")
    # It was installed after matplotlib made its list of fonts.
    installed.append(str(font(tmp_path / "wqy.ttf", "".join([TITLE, *CLASSES]))))
    written, notes = drawn(tmp_path / "with.png")
    assert notes == []
    assert caplog.messages == []
    # The title: two black squares in place of two boxes.
    assert (written[:40, :60] < 100).sum() > 2 * (without[:40, :60] < 100).sum()


def test_letters_that_no_font_has_are_told_once_with_the_package(installed: list[str], tmp_path: Path) -> None:
    # Letters of which nothing was told in this process.
    title = "胃粘膜"
    notes = drawn(tmp_path / "c.png", title)[1]
    lacking = " ".join(sorted("".join([title, *CLASSES])))
    assert notes == [
        f"no installed font has {lacking}, drawn as boxes; install one that has, such as Noto Sans CJK "
        "(apt-get install fonts-noto-cjk)"
    ]
    assert drawn(tmp_path / "c.png", title)[1] == []
    # What the message says to do: the package is there, and so is a font that has them.
    installed.append(str(font(tmp_path / "noto.ttf", "".join([title, *CLASSES]))))
    assert drawn(tmp_path / "c.png", title)[1] == []
