"""Betons and networks that the runner's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runner.betons import two_textures, write_beton


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
