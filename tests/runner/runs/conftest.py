"""A small run that the tests of run folders damage, and others claim to have written."""

from __future__ import annotations

from pathlib import Path

import pytest

from slideduck.runner import TrainConfig, train
from tests.runner.betons import two_textures, write_beton


@pytest.fixture(scope="package")
def small_run(tmp_path_factory: pytest.TempPathFactory, blank_pictures: None) -> Path:
    """A run of two epochs, with checkpoints within them, beside its beton ``tiles.beton``."""
    folder = tmp_path_factory.mktemp("small")
    write_beton(folder / "tiles.beton", two_textures(64))
    config = TrainConfig(model="networks:tiny", epochs=2, batch_size_per_rank=16, checkpoint_steps=1, ema_decay=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parent.parent)
        train(folder / "tiles.beton", folder / "run", config, nproc=1, progress=False)
    return folder / "run"
