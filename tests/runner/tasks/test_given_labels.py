"""Labels, soft labels and numbers of tiles that come from tables are exported, learnt and evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import slideduck as sd
from slideduck.betons import read_sidecar
from slideduck.errors import ConfigError
from slideduck.runner.prediction.evaluate import evaluate
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tasks.losses import class_loss
from slideduck.runner.tiles.targets import read_targets
from slideduck.runner.training.train import train
from tests.slides import synthetic_image, write_slide

CLASSES = ("bright", "dark", "grey")


def config(**settings: Any) -> TrainConfig:
    values = {"model": "networks:tiny", "epochs": 2, "batch_size_per_rank": 16, "lr": 1e-2, "track": "none", **settings}
    return TrainConfig(**values)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study without ROIs and three betons: of labels, of soft labels, and of numbers, as three tables have them."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "slides").mkdir()
    for number in range(4):
        image = synthetic_image(number, (256, 192))
        image[:, 128:] //= 2
        write_slide(folder / "slides" / f"S{number}.tif", image, mpp=0.5)
    (folder / "patients.csv").write_text("slide,patient,side\nS0,P0,train\nS1,P1,train\nS2,P2,val\nS3,P3,train\n")
    with sd.open(folder / "study.duckdb") as opened:
        opened.add_slides(folder / "slides")
        opened.add_patients(folder / "patients.csv")
        opened.tile(32, tile_um=16)
        opened.label()
        opened.split(column="side")
        tiles = opened.labels().df()[["tile_id", "grid_x", "grid_y", "loc_x"]]
        dark = (tiles.loc_x > 128).to_numpy()
        named = np.where(dark, "dark", "bright").astype(object)
        named[tiles.grid_y == 0] = None
        hard = tiles[["tile_id"]].assign(label=named)
        share = 0.6 + 0.05 * (tiles.grid_y.to_numpy() % 4)
        soft = tiles[["tile_id"]].assign(
            dark=np.where(dark, share, 0.05), grey=0.95 - share, bright=np.where(dark, 0.05, share)
        )
        numbers = tiles[["tile_id"]].assign(value=np.where(tiles.grid_x == 1, np.nan, tiles.loc_x / 100))
        for name, frame in (("hard", hard), ("soft", soft), ("number", numbers)):
            opened.add_labels(frame, name)
            opened.label(labels_from=name)
            opened.export(
                folder / f"{name}.beton", where="value IS NOT NULL" if name == "number" else "label IS NOT NULL"
            )
            frame.to_parquet(folder / f"{name}.parquet")
    return folder


def test_the_side_car_has_what_the_table_has(study: Path) -> None:
    hard = pd.read_parquet(study / "hard.parquet").dropna().set_index("tile_id")
    sidecar = read_sidecar(study / "hard.beton")
    assert (
        dict(zip(sidecar.tile_id, np.array(sidecar.classes)[sidecar.class_number], strict=True)) == hard.label.to_dict()
    )
    assert (sidecar.soft, sidecar.value) == (None, None)
    assert sidecar.raw["label_rule"]["labels_from"] == ["hard"]
    (held,) = sidecar.raw["label_sets"]
    assert (held["name"], held["kind"], held["source"], held["sha256"]) == ("hard", "labels", "pandas DataFrame", None)

    soft = pd.read_parquet(study / "soft.parquet").set_index("tile_id")
    sidecar = read_sidecar(study / "soft.beton")
    assert sidecar.classes == CLASSES
    assert sidecar.soft is not None
    np.testing.assert_array_equal(sidecar.soft, soft.loc[sidecar.tile_id.tolist(), list(CLASSES)].to_numpy())
    assert sidecar.samples == len(soft)

    numbers = pd.read_parquet(study / "number.parquet").dropna().set_index("tile_id")
    sidecar = read_sidecar(study / "number.beton")
    assert sidecar.value is not None
    assert dict(zip(sidecar.tile_id, sidecar.value.tolist(), strict=True)) == numbers.value.to_dict()
    assert (sidecar.classes, sidecar.soft) == ((), None)


def test_labels_of_a_table_are_learnt_and_evaluated(study: Path, tmp_path: Path) -> None:
    train(study / "hard.beton", tmp_path / "run", config())
    metrics = evaluate(tmp_path / "run", study / "hard.beton", split="val")["metrics"]
    hard = pd.read_parquet(study / "hard.parquet").dropna()
    assert metrics["tiles"] == hard.tile_id.str.startswith("S2-").sum()
    assert "soft_loss" not in metrics


def test_soft_labels_are_learnt_and_evaluated(study: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(study / "soft.beton", tmp_path / "run", config(balance="loss"))
    said = "labels are soft: the loss is against probabilities, and a tile counts for its likeliest class"
    assert said in capfd.readouterr().err
    result = evaluate(tmp_path / "run", study / "soft.beton", split="val")
    rows = pq.read_table(result["predictions"]).to_pandas().set_index("tile_id")
    soft = pd.read_parquet(study / "soft.parquet").set_index("tile_id").loc[rows.index, list(CLASSES)]
    given = rows[[f"soft_{name}" for name in CLASSES]].to_numpy()
    np.testing.assert_allclose(given, soft.to_numpy(), atol=1e-7)
    assert rows.label.tolist() == soft.idxmax(axis=1).tolist()
    predicted = rows[[f"prob_{name}" for name in CLASSES]].to_numpy()
    metrics = result["metrics"]
    assert metrics["soft_loss"] == pytest.approx(-(soft.to_numpy() * np.log(predicted)).sum(axis=1).mean(), rel=1e-6)
    assert metrics["soft_brier"] == pytest.approx(((predicted - soft.to_numpy()) ** 2).sum(axis=1).mean(), rel=1e-6)
    # A network that knows classes in another order, or more of them, is asked by their names.
    hard = evaluate(tmp_path / "run", study / "hard.beton", split="val")["metrics"]
    assert hard["tiles"] == 20 * 2
    assert "soft_loss" not in hard


def test_numbers_of_tiles_are_learnt_and_evaluated(study: Path, tmp_path: Path) -> None:
    train(study / "number.beton", tmp_path / "run", config(task="regression", target="value"))
    metrics = evaluate(tmp_path / "run", study / "number.beton", split="val")["metrics"]
    assert metrics["tiles"] == 7 * 6
    assert np.isfinite(metrics["mean_mae"])


def test_numbers_that_are_not_there_are_asked_for(study: Path) -> None:
    path = study / "hard.beton"
    with pytest.raises(ConfigError) as error:
        read_targets(read_sidecar(path), config(task="regression", target="value"), path)
    assert str(error.value) == (
        f"{path}: target is 'value', but no tile has a number: add them (slideduck add-labels STUDY TABLE --name "
        "NAME, a table with a column value), label with --from NAME, and export again with --where 'value IS NOT NULL'"
    )
    with pytest.raises(ConfigError) as error:
        config(target="value")
    assert str(error.value) == (
        "target is 'value', numbers of tiles, and task is 'classification'; give `task='regression'`"
    )


def test_the_loss_of_soft_labels_is_that_of_certain_ones_where_they_are_certain() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 3, generator=generator)
    labels = torch.randint(0, 3, (8,), generator=generator)
    weights = torch.tensor([0.5, 1.0, 2.0])
    certain = torch.nn.functional.one_hot(labels, 3).float()
    for smoothing, gamma in ((0.0, 0.0), (0.1, 0.0), (0.0, 2.0)):
        expected = class_loss(logits, labels, weights, smoothing=smoothing, gamma=gamma)
        torch.testing.assert_close(class_loss(logits, certain, weights, smoothing=smoothing, gamma=gamma), expected)
    soft = torch.tensor([[0.2, 0.3, 0.5]]).repeat(8, 1)
    expected = -(soft * torch.log_softmax(logits, dim=1)).sum(dim=1) * 2
    torch.testing.assert_close(class_loss(logits, soft, weights), expected)
