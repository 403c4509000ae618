"""Which tiles train and which validate: by split or fold, never a patient on both sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slideduck.beton import Sidecar, read_sidecar
from slideduck.errors import ConfigError, RunError
from slideduck.runner.config import TrainConfig
from slideduck.runner.rows import class_weights, labelled_rows, run_rows
from tests.runner.betons import TileSpec, stripes, write_beton

BETON = Path("tiles.beton")
# Slide A: 6 tiles, of which one without a label; B: 3; C: 2, of which one without.
LABELS = {"A": [0, 1, 0, 1, -1, 0], "B": [1, 1, 0], "C": [0, -1]}


@pytest.fixture
def sidecar_of(tmp_path: Path):  # type: ignore[no-untyped-def]
    def write(**kwargs) -> Sidecar:  # type: ignore[no-untyped-def]
        image = stripes(np.random.default_rng(0), across=False)
        tiles = [TileSpec(slide, label, image) for slide, labels in LABELS.items() for label in labels]
        return read_sidecar(write_beton(tmp_path / "tiles.beton", tiles, **kwargs))

    return write


def test_splits_give_the_sides_and_tiles_without_a_label_are_counted(sidecar_of) -> None:  # type: ignore[no-untyped-def]
    sidecar = sidecar_of(split_of={"A": "train", "B": "val", "C": "test"})
    rows = run_rows(sidecar, TrainConfig(), BETON)
    assert rows.train.tolist() == [0, 1, 2, 3, 5]
    assert rows.val.tolist() == [6, 7, 8]
    assert rows.unlabelled == 1
    rows = run_rows(sidecar, TrainConfig(train_split="val", val_split="test"), BETON)
    assert (rows.train.tolist(), rows.val.tolist(), rows.unlabelled) == ([6, 7, 8], [9], 1)


def test_a_fold_validates_whatever_the_split(sidecar_of) -> None:  # type: ignore[no-untyped-def]
    sidecar = sidecar_of(split_of={"A": "train", "B": "train", "C": "train"}, fold_of={"A": 0, "B": 1})
    rows = run_rows(sidecar, TrainConfig(fold=0), BETON)
    # Slide C is in no fold: it is on neither side.
    assert (rows.train.tolist(), rows.val.tolist()) == ([6, 7, 8], [0, 1, 2, 3, 5])


def test_a_side_without_tiles_is_refused_with_what_there_is(sidecar_of) -> None:  # type: ignore[no-untyped-def]
    sidecar = sidecar_of(split_of={"A": "train", "B": "train", "C": None})
    with pytest.raises(ConfigError) as error:
        run_rows(sidecar, TrainConfig(), BETON)
    assert str(error.value) == (
        "tiles.beton: no labelled tile to validate with in split 'val'; it has split none: 1 tile, "
        "split train: 8 tiles and 2 without a label; choose another with --val-split, or split the study "
        "(slideduck split STUDY) and export again"
    )
    with pytest.raises(ConfigError) as error:
        run_rows(sidecar, TrainConfig(train_split="learn"), BETON)
    assert str(error.value).startswith("tiles.beton: no labelled tile to train with in split 'learn'; it has ")
    with pytest.raises(ConfigError) as error:
        run_rows(sidecar, TrainConfig(fold=3), BETON)
    assert str(error.value) == (
        "tiles.beton: no labelled tile to train with for fold 3; it has fold none: 9 tiles and 2 without a label; "
        "choose another with --fold, or split the study into folds (slideduck split STUDY --folds 5) "
        "and export again"
    )


def test_a_patient_on_both_sides_is_refused(sidecar_of) -> None:  # type: ignore[no-untyped-def]
    sidecar = sidecar_of(split_of={"A": "train", "B": "val", "C": "val"}, patient_of={"A": "P1", "B": "P2", "C": "P1"})
    with pytest.raises(RunError) as error:
        run_rows(sidecar, TrainConfig(), BETON)
    assert str(error.value) == (
        "patient 'P1': tiles in training and in validation; split by patient (slideduck split STUDY) and export again"
    )


def test_labelled_rows_of_a_split_or_of_all(sidecar_of) -> None:  # type: ignore[no-untyped-def]
    sidecar = sidecar_of(split_of={"A": "train", "B": "val", "C": "val"})
    assert labelled_rows(sidecar, None, BETON).tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert labelled_rows(sidecar, "val", BETON).tolist() == [6, 7, 8, 9]
    with pytest.raises(ConfigError) as error:
        labelled_rows(sidecar, "test", BETON)
    assert str(error.value) == (
        "tiles.beton: no labelled tile in split 'test'; it has split train: 5 tiles, split val: 4 tiles "
        "and 2 without a label"
    )


def test_weights_are_inverse_to_frequency_with_mean_one_over_tiles() -> None:
    labels = np.repeat([0, 1, 3], [60, 30, 10])
    weights = class_weights(labels, 4, "loss")
    assert weights.tolist() == pytest.approx([100 / 180, 100 / 90, 0, 100 / 30])
    assert weights[labels].mean() == pytest.approx(1)
    assert class_weights(labels, 4, "none").tolist() == [1, 1, 1, 1]
