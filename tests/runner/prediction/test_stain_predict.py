"""A network that was trained on normalised tiles sees normalised tiles ever after, without being told."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import slideduck as sd
from slideduck.errors import BetonError, SlideError
from slideduck.runner.maps.heatmap import heatmap
from slideduck.runner.prediction.evaluate import evaluate
from slideduck.runner.prediction.slide_tiles import choose_slides, read_tiles
from slideduck.runner.prediction.study import predict
from slideduck.runner.prediction.tile_source import open_tiles
from slideduck.runner.runs.trained import load_run
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tiles.open import open_beton
from slideduck.runner.training.train import train
from tests.slides import synthetic_image, write_slide

CONFIG = TrainConfig(model="networks:tiny", epochs=1, batch_size_per_rank=16, lr=1e-2)
GRID = "32px_32um"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of slides of two laboratories, betons of it, and runs of each."""
    folder = tmp_path_factory.mktemp("stain")
    for i in range(4):
        image = synthetic_image(i, (640, 400))
        image[:, 320:] //= 2
        if i % 2:
            image[..., 2] //= 2
        write_slide(folder / f"S{i}.tif", image, mpp=0.5)
        (folder / f"S{i}.csv").write_text(
            "roi_name,x_base,y_base,label\n"
            + "".join(
                f"{name},{x},{y},{name}\n"
                for name, left in (("light", 0), ("dark", 320))
                for x, y in ((left, 0), (left + 320, 0), (left + 320, 384), (left, 384))
            )
        )
    with sd.open(folder / "study.duckdb") as study:
        study.add_slides(folder)
        study.add_rois(sorted(folder.glob("*.csv")))
        study.tile(32, tile_um=32)
        study.label()
        study.split(val_fraction=0.5)
        for method in ("macenko", "reinhard"):
            assert study.fit_stain(method).failed == {}
        study.export(folder / "plain.beton")
        study.export(folder / "macenko.beton", stain="macenko")
        study.export(folder / "reinhard.beton", stain="reinhard", stain_to="S1", raw=True)
    here = Path.cwd()
    os.chdir(Path(__file__).parents[1])
    try:
        for name in ("plain", "macenko", "reinhard"):
            train(folder / f"{name}.beton", folder / name, CONFIG, nproc=1, progress=False)
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def study(folder: Path, tmp_path: Path) -> Iterator[sd.Study]:
    """A copy of the study, open, without fits."""
    with sd.open(shutil.copy(folder / "study.duckdb", tmp_path)) as opened:
        opened.con.execute("DELETE FROM slide_stains")
        yield opened


@pytest.mark.parametrize("name", ["plain", "macenko", "reinhard"])
def test_pixels_from_slides_are_those_that_the_loader_gives(name: str, folder: Path, study: sd.Study) -> None:
    trained = load_run(folder / name)
    sidecar, loader = open_beton(folder / f"{name}.beton", 1)
    of_beton: dict[str, np.ndarray] = {}
    with loader.epoch(np.arange(sidecar.samples), 16) as batches:
        for images, _, rows in batches:
            of_beton |= {sidecar.tile_id[row]: image.copy() for row, image in zip(rows, images, strict=True)}
    assert len(of_beton) == 240
    with ThreadPoolExecutor(2) as pool:
        for slide in choose_slides(study, GRID, None):
            tiles = read_tiles(study, GRID, slide.name)
            with slide.batches(trained, tiles, 32, 2, pool) as of_slide:
                found = np.concatenate(list(of_slide))
            for tile, pixels in zip(tiles["tile_id"].to_pylist(), found, strict=True):
                assert np.array_equal(pixels, of_beton[tile]), tile
    # Slides that lacked a fit got one, and it is kept.
    expected = [] if name == "plain" else [(name, 4)]
    assert study.sql("SELECT method, count(*) FROM slide_stains GROUP BY ALL").fetchall() == expected


@pytest.mark.parametrize("name", ["macenko", "reinhard"])
def test_predictions_from_slides_are_those_of_the_beton(
    name: str, folder: Path, study: sd.Study, tmp_path: Path
) -> None:
    assert predict(folder / name, study).predicted == ("S0", "S1", "S2", "S3")
    of_beton = pq.read_table(evaluate(folder / name, folder / f"{name}.beton")["predictions"]).to_pandas()
    of_slides = study.sql("SELECT tile_id, probabilities['dark'] AS dark FROM predictions").df().set_index("tile_id")
    joined = of_slides.loc[of_beton["tile_id"]]
    assert len(joined) == 240
    assert np.abs(joined["dark"].to_numpy() - of_beton["prob_dark"].to_numpy()).max() < 1e-5
    assert heatmap(folder / name, study, "S0", tmp_path / "S0.png").exists()


def test_tiles_normalised_in_another_way_are_warned_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = "JPEG quality 90"
    for run, beton, here, there in (
        ("plain", "macenko", f"{stored}, stains by macenko to slideflow-v3", f"{stored}, stored tiles untouched"),
        ("macenko", "plain", f"{stored}, stored tiles untouched", f"{stored}, stains by macenko to slideflow-v3"),
        ("macenko", "reinhard", "raw pixels, stains by reinhard to S1", f"{stored}, stains by macenko to slideflow-v3"),
    ):
        evaluate(folder / run, folder / f"{beton}.beton")
        assert (
            capsys.readouterr().err == f"warning: {beton}.beton has images of {here}; the network learnt on {there}\n"
        )
    evaluate(folder / "macenko", folder / "macenko.beton")
    assert capsys.readouterr().err == ""
    # The same is said where tiles of a beton are predicted, or their features computed.
    with open_tiles(load_run(folder / "macenko"), folder / "plain.beton"):
        assert capsys.readouterr().err == (
            f"warning: plain.beton has images of {stored}, stored tiles untouched; the network learnt on {stored}, "
            "stains by macenko to slideflow-v3\n"
        )


def test_a_slide_without_a_fit_is_told_at_the_end(folder: Path, study: sd.Study, tmp_path: Path) -> None:
    write_slide(tmp_path / "T.tif", np.full((400, 640, 3), 244, np.uint8), mpp=0.5)
    study.add_slides(tmp_path / "T.tif")
    study.tile(32, tile_um=32)
    with pytest.raises(SlideError) as caught:
        predict(folder / "macenko", study)
    assert str(caught.value) == (
        "1 of 5 slides was not predicted:\n  slide 'T' has 0 pixels of tissue of a micron each, and a fit of its "
        "stains needs 10,000; leave it out of the export with --where \"label IS NOT NULL AND slide <> 'T'\""
    )
    assert study.sql("SELECT count(DISTINCT slide) FROM predictions").fetchall() == [(4,)]


def test_a_study_that_is_only_read_gives_the_same_pixels(folder: Path, tmp_path: Path) -> None:
    path = shutil.copy(folder / "study.duckdb", tmp_path)
    trained = load_run(folder / "macenko")

    def first_tiles(study: sd.Study) -> np.ndarray:
        with ThreadPoolExecutor(1) as pool:
            (slide,) = choose_slides(study, GRID, ["S1"])
            with slide.batches(trained, read_tiles(study, GRID, "S1"), 60, 1, pool) as batches:
                return next(batches)

    with sd.open(path) as study:
        stored = first_tiles(study)
        study.con.execute("DELETE FROM slide_stains")
    with sd.open(path, read_only=True) as study:
        assert np.array_equal(first_tiles(study), stored)
        assert study.sql("FROM slide_stains").fetchall() == []


def test_a_definition_of_another_version_is_refused(folder: Path, study: sd.Study) -> None:
    trained = load_run(folder / "macenko")
    trained.beton["image"]["stain"]["settings"]["definition"] = 0
    (slide,) = choose_slides(study, GRID, ["S1"])
    with ThreadPoolExecutor(1) as pool:
        reading = slide.batches(trained, read_tiles(study, GRID, "S1"), 60, 1, pool)
        with pytest.raises(BetonError, match="which this version of slideduck does not have"):
            reading.__enter__()
