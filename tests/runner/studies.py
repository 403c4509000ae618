"""A small study with slides to read, a beton of it, and runs, for tests of what comes after training."""

from __future__ import annotations

import os
from pathlib import Path

import slideduck as sd
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.training.train import train
from tests.slides import synthetic_image, write_slide

GRID = "32px_32um"
HALF = "32px_32um_stride2"
SLIDES = ("S0", "S1")


def write_study(folder: Path) -> None:
    """Write `study.duckdb` and `tiles.beton`: two slides of 10 x 6 tiles of 64 base pixels, seen at 32.

    The left half of a slide is light, the right half dark; the lowest row of tiles has no label.
    """
    cohort = folder / "slides"
    cohort.mkdir(parents=True)
    for number, name in enumerate(SLIDES):
        image = synthetic_image(number, (640, 400))
        image[:, 320:] //= 2
        write_slide(cohort / f"{name}.tif", image, mpp=0.5)
        rois = "roi_name,x_base,y_base,label\n" + "".join(
            f"{roi},{x},{y},{label}\n"
            for roi, label, left, top, right, bottom in (
                ("a", "light", 0, 0, 320, 320),
                ("b", "dark", 320, 0, 640, 320),
                ("c", "", 0, 320, 640, 400),
            )
            for x, y in ((left, top), (right, top), (right, bottom), (left, bottom))
        )
        (cohort / f"{name}.csv").write_text(rois)
    with sd.open(folder / "study.duckdb") as study:
        study.add_slides(cohort)
        study.add_rois(cohort)
        study.tile(32, tile_um=32)
        study.tile(32, tile_um=32, stride_div=2)
        study.label()
        study.split(val_fraction=0.5)
        study.export(folder / "tiles.beton", grid=GRID)
        study.export(folder / "all.beton", grid=GRID, where=None)


def write_run(folder: Path, name: str, model: str, **settings: int) -> Path:
    """Train a network on the study's beton for one epoch, in the folder `name`."""
    here = Path.cwd()
    os.chdir(Path(__file__).parent)
    try:
        config = TrainConfig(model=model, epochs=1, batch_size_per_rank=16, lr=1e-2, **settings)  # type: ignore[arg-type]
        train(folder / "tiles.beton", folder / name, config, nproc=1, progress=False)
    finally:
        os.chdir(here)
    return folder / name
