"""Betons and networks that the runner's tests share."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slideduck.runner.plots.curves import draw_curves
from slideduck.runner.plots.examples import draw_examples
from slideduck.runner.training import train
from tests.runner.betons import two_textures, write_beton

#: A white PNG of one pixel.
_BLANK = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg=="
)


def _draw_nothing(*arguments: Any) -> None:
    """Write a blank picture where `draw_curves` and `draw_examples` are told to draw."""
    next(path for path in arguments if isinstance(path, Path)).write_bytes(_BLANK)


@pytest.fixture(scope="package", autouse=True)
def blank_pictures() -> Iterator[None]:
    """Leave the pictures that `train` draws blank: they take four fifths of a small run's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "draw_curves", _draw_nothing)
        patch.setattr(train, "draw_examples", _draw_nothing)
        yield


@pytest.fixture(autouse=True)
def pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw them in tests that are marked ``pictures``."""
    if request.node.get_closest_marker("pictures"):
        monkeypatch.setattr(train, "draw_curves", draw_curves)
        monkeypatch.setattr(train, "draw_examples", draw_examples)


@pytest.fixture(autouse=True)
def own_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand beside networks.py, as a user stands beside a module of their own."""
    monkeypatch.chdir(Path(__file__).parent)
    # Spawned processes get the path, and find ranks.py.
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.delenv("SLIDEDUCK_TEST_STOP_AT", raising=False)


@pytest.fixture(scope="session")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A beton of 320 tiles of two textures on eight slides, of which S3 and S7 validate."""
    return write_beton(tmp_path_factory.mktemp("beton") / "tiles.beton", two_textures(320))
