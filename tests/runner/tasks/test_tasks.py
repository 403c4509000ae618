"""What each task's class says, gives and refuses."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from slideduck.betons import Sidecar, read_sidecar
from slideduck.errors import ConfigError
from slideduck.runner.scores.predictions import ClassPredictions, LabelPredictions, NumberPredictions
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tasks.classification import Classification
from slideduck.runner.tasks.kinds import make_task, task_class
from slideduck.runner.tasks.multilabel import MultiLabel
from slideduck.runner.tasks.regression import Regression
from slideduck.runner.tasks.task import Task
from tests.runner.betons import two_textures, write_beton

CPU = torch.device("cpu")
#: By task: names of outputs, and the targets of four tiles.
CASES: dict[str, tuple[list[str], Any]] = {
    "classification": (["stripes", "chequers"], np.array([0, 1, 1, 0])),
    "multi-label": (["kras", "tp53"], np.array([[1, 0], [1, 1], [0, 0], [0, 1]], np.float32)),
    "regression": (["age", "ki67"], np.array([[48, 0.5], [61, 0.25], [70, 1], [48, 0]], np.float32)),
}
KINDS: dict[str, type[Task[Any]]] = {
    "classification": Classification,
    "multi-label": MultiLabel,
    "regression": Regression,
}


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Sidecar:
    path = tmp_path_factory.mktemp("tasks") / "a.beton"
    return read_sidecar(write_beton(path, two_textures(8, slides=2)))


def task_of(name: str, **settings: Any) -> Task[Any]:
    """Return a task with what it needs of the tiles of its case."""
    names, targets = CASES[name]
    if name != "classification":
        settings["target"] = f"patient:{','.join(names)}"
    return make_task(TrainConfig(task=name, **settings), names, CPU, targets=targets)


def test_each_task_of_the_settings_has_a_class_of_its_own() -> None:
    (choices,) = (item.metadata["choices"] for item in fields(TrainConfig) if item.name == "task")
    assert {name: task_class(name) for name in choices} == KINDS
    assert {kind.name for kind in KINDS.values() if kind.tells_classes} == {"classification"}


@pytest.mark.parametrize(("name", "noun"), [("classification", "classes"), ("multi-label", "labels"),
                                            ("regression", "numbers")])  # fmt: skip
def test_outputs_of_another_number_are_refused(name: str, noun: str) -> None:
    task = task_of(name)
    targets = torch.from_numpy(CASES[name][1])
    with pytest.raises(ConfigError) as error:
        task.loss(torch.zeros(4, 3), targets)
    assert str(error.value) == (
        f"model 'resnet18' returned logits of shape (4, 3) for 4 tiles and 2 {noun}; it must return (4, 2)"
    )
    assert task.loss(torch.zeros(4, 2), targets).shape == (4,)


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_holds_weights_mean_and_deviation_of_any_task(name: str) -> None:
    task = task_of(name)
    state = task.state()
    assert list(state) == ["weights", "mean", "std"]
    again = make_task(task.config, task.names, CPU, state=state)
    assert again.state() == state
    outputs = torch.linspace(-2, 2, 8).reshape(4, 2)
    assert torch.equal(again.activate(outputs), task.activate(outputs))
    assert torch.equal(
        again.loss(outputs, torch.from_numpy(CASES[name][1])), task.loss(outputs, torch.from_numpy(CASES[name][1]))
    )
    # A checkpoint of before the tasks has none of it.
    before = make_task(task.config, task.names, CPU)
    assert before.state() == {"weights": [1.0, 1.0], "mean": [0.0, 0.0], "std": [1.0, 1.0]}


def test_outputs_become_logarithms_of_probabilities_or_numbers() -> None:
    outputs = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
    classes, labels, numbers = (task_of(name) for name in CASES)
    torch.testing.assert_close(classes.given(outputs), torch.softmax(outputs, dim=1))
    torch.testing.assert_close(labels.given(outputs), torch.sigmoid(outputs))
    assert torch.equal(numbers.given(outputs), numbers.activate(outputs))
    mean = CASES["regression"][1].mean(axis=0)
    torch.testing.assert_close(numbers.given(torch.zeros(1, 2))[0], torch.from_numpy(mean))
    assert [task.gives for task in (classes, labels, numbers)] == ["probabilities", "probabilities", "numbers"]
    # Of half precision too, in which a GPU may compute.
    assert all(task.activate(outputs.bfloat16()).dtype == torch.float32 for task in (classes, labels, numbers))
    assert classes.unit.tolist() == labels.unit.tolist() == [1]
    assert numbers.unit == pytest.approx(CASES["regression"][1].std(axis=0))


def test_the_focal_exponent_counts_for_the_focal_loss_alone() -> None:
    assert task_of("classification", loss="focal", focal_gamma=1.5).focal_gamma == 1.5
    assert task_of("multi-label", focal_gamma=1.5).focal_gamma == 0


def test_what_no_tile_has_and_what_a_tile_is() -> None:
    assert Classification.absent(["a", "b", "c"], np.array([0, 2, 2])) == ["b"]
    assert MultiLabel.absent(["a", "b"], np.array([[1, 0], [0, 0]], np.float32)) == ["b"]
    assert Regression.absent(["a"], np.zeros((3, 1), np.float32)) == []
    assert Classification.describe(["a", "b"], np.int64(1)) == "b"
    assert MultiLabel.describe(["a", "b", "c"], np.array([1, 0, 1], np.float32)) == "a, c"
    assert MultiLabel.describe(["a"], np.array([0], np.float32)) == "none"
    assert Regression.describe(["a", "b"], np.array([48, 0.25], np.float32)) == "48, 0.25"


def test_what_a_model_card_says_of_a_task() -> None:
    assert Classification.purpose(["a", "b"]) == (
        "that tells 2 classes of tissue apart on tiles of whole-slide images: a and b"
    )
    assert MultiLabel.purpose(["a", "b", "c"]) == (
        "that tells which of 3 labels a tile of a whole-slide image has: a, b and c"
    )
    assert Regression.purpose(["age"]) == "that estimates age from tiles of whole-slide images"
    assert Classification.reach(["a", "b"]) == (
        "It knows 2 classes and gives every tile to one of them: ink, folds, and tissue that it never saw as well."
    )
    assert (
        MultiLabel.reach(["a"])
        == Regression.reach(["a"])
        == "It says something of every tile: of ink, folds, and tissue that it never saw as well."
    )


@pytest.mark.parametrize("name", CASES)
def test_the_names_of_metrics_are_known_before_any_network_predicts(name: str, sidecar: Sidecar) -> None:
    task, rows = task_of(name), np.array([0, 2, 5, 7])
    blank = task.blank_metrics(rows, CASES[name][1], sidecar)
    outputs = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    outputs = task.activate(torch.from_numpy(outputs)).numpy()
    found = task.metrics(task.predictions(rows, CASES[name][1], outputs), sidecar)
    assert list(blank) == list(found)
    assert (blank["tiles"], blank["slide/slides"], blank["patient/patients"]) == (4, 2, 2)
    knows_nothing = {"classification": math.log(2), "multi-label": math.log(2), "regression": 1.0}
    assert blank["loss"] == pytest.approx(knows_nothing[name])


def test_a_table_of_classes_has_each_probability_and_names_its_grid_and_side_car(sidecar: Sidecar) -> None:
    p = np.array([[0.75, 0.25], [0.5, 0.5], [0.125, 0.875], [0.25, 0.75]])
    rows = np.array([0, 2, 5, 7])
    predictions = ClassPredictions(rows, CASES["classification"][1], np.log(p).astype(np.float32))
    table = task_of("classification").table(predictions, sidecar, {"epoch": "3"})
    assert table.column_names == [
        "tile_id", "slide", "patient", "label", "predicted", "loss", "prob_stripes", "prob_chequers",
    ]  # fmt: skip
    assert table["tile_id"].to_pylist() == sidecar.tile_id[rows].tolist()
    assert table["label"].to_pylist() == ["stripes", "chequers", "chequers", "stripes"]
    # The lesser number where two are equal.
    assert table["predicted"].to_pylist() == ["stripes", "stripes", "chequers", "chequers"]
    assert table["loss"].to_pylist() == pytest.approx([-math.log(x) for x in (0.75, 0.5, 0.875, 0.25)])
    assert table["prob_chequers"].to_pylist() == pytest.approx(p[:, 1].tolist())
    facts = {
        b"task": b"classification", b"target": b"label", b"grid": sidecar.raw["grid"]["name"].encode(),
        b"sidecar": sidecar.sha256.encode(), b"epoch": b"3",
    }  # fmt: skip
    assert table.schema.metadata == facts


@pytest.mark.parametrize("name", ["multi-label", "regression"])
def test_tables_of_labels_and_numbers_have_the_facts_that_are_given(name: str, sidecar: Sidecar) -> None:
    task = task_of(name)
    table = task.table(
        task.predictions(np.arange(4), CASES[name][1], np.zeros((4, 2), np.float32)), sidecar, {"a": "b"}
    )
    assert table.schema.metadata == {
        b"task": name.encode(), b"target": task.config.target.encode(), b"grid": sidecar.raw["grid"]["name"].encode(),
        b"sidecar": sidecar.sha256.encode(), b"a": b"b",
    }  # fmt: skip
    assert table["slide"].to_pylist() == sidecar.tile_slide[:4].tolist()


def test_some_tiles_of_predictions_are_of_their_kind() -> None:
    for kind in (ClassPredictions, LabelPredictions, NumberPredictions):
        predictions = kind(np.arange(4), np.arange(4), np.arange(8, dtype=np.float32).reshape(4, 2))
        some = predictions.take(np.array([3, 1]))
        assert type(some) is kind
        assert (some.rows.tolist(), some.targets.tolist(), some.outputs[0].tolist()) == ([3, 1], [3, 1], [6, 7])


@pytest.mark.parametrize("tiles", [1, 5, 7, 30, 47, 240])
def test_a_number_that_never_changes_is_refused_for_any_number_of_tiles(tiles: int) -> None:
    config = TrainConfig(task="regression", target="patient:age,ki67")
    values = np.stack([np.full(tiles, 3), np.arange(tiles) % 2 * 0.1], axis=1).astype(np.float32)
    with pytest.raises(ConfigError, match=r"^target 'patient:age,ki67': age(, ki67)? has the same value for all"):
        make_task(config, ["age", "ki67"], CPU, targets=values)
    # A tile that no epoch takes does not count.
    values[0, 0] = 9
    shares = np.ones(tiles)
    shares[0] = 0
    if tiles > 1:
        with pytest.raises(ConfigError, match=r"^target 'patient:age,ki67': age has the same value for all"):
            make_task(config, ["age", "ki67"], CPU, targets=values, shares=shares)
        assert make_task(config, ["age", "ki67"], CPU, targets=values).std[0] > 0
