"""Losses, targets and metrics of every task, against torch and by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn import functional

from slideduck.betons import Sidecar, read_sidecar
from slideduck.errors import ConfigError, RunError
from slideduck.runner.runs.predictions import write_predictions
from slideduck.runner.scores.predictions import LabelPredictions, NumberPredictions
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tasks.kinds import make_task
from slideduck.runner.tasks.losses import binary_loss, class_loss, number_loss
from slideduck.runner.tiles.conditions import tiles_where
from slideduck.runner.tiles.targets import as_exported, read_targets
from tests.runner.betons import two_textures, write_beton

CPU = torch.device("cpu")
COLUMNS: dict[str, dict[str, Any]] = {
    "S0": {"stage": "II", "age": 61, "ki67": 0.2, "genes": "tp53;kras", "msi": 1, "her2": 0},
    "S1": {"stage": "I", "age": 48, "ki67": 0.6, "genes": "kras", "msi": 0, "her2": 0},
    "S2": {"stage": None, "age": 70, "ki67": 0.4, "genes": "-", "msi": 1, "her2": 1},
    "S3": {"stage": "III", "age": None, "ki67": 0.9, "genes": None, "msi": None, "her2": 1},
}


@pytest.fixture(scope="module")
def weak(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A beton of four slides with columns of their patients, whose tiles have the labels stripes and chequers."""
    path = tmp_path_factory.mktemp("weak") / "weak.beton"
    return write_beton(path, two_textures(24, slides=4), columns_of=COLUMNS)


@pytest.fixture(scope="module")
def sidecar(weak: Path) -> Sidecar:
    return read_sidecar(weak)


def config(**settings: Any) -> TrainConfig:
    return TrainConfig(model="networks:tiny", **settings)


def test_class_loss_is_that_of_torch() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(7, 3), torch.tensor([0, 1, 2, 2, 1, 0, 2])
    weights = torch.tensor([0.5, 1.0, 2.0])
    plain = functional.cross_entropy(logits, labels, reduction="none")
    assert torch.equal(class_loss(logits, labels, weights), plain * weights[labels])
    smooth = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=0.1)
    assert torch.equal(class_loss(logits, labels, torch.ones(3), smoothing=0.1), smooth)
    p = torch.softmax(logits, dim=1)[torch.arange(7), labels]
    torch.testing.assert_close(
        class_loss(logits, labels, weights, gamma=2.0), -((1 - p) ** 2) * p.log() * weights[labels]
    )


def test_binary_loss_is_that_of_torch() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 2), torch.tensor([[0.0, 1], [1, 1], [0, 0], [1, 0], [0, 1]])
    weights = torch.tensor([3.0, 0.5])
    p = torch.sigmoid(logits)
    by_hand = -(weights * targets * p.log() + (1 - targets) * (1 - p).log())
    torch.testing.assert_close(binary_loss(logits, targets, weights), by_hand.mean(dim=1))
    focal = by_hand * torch.where(targets > 0.5, 1 - p, p) ** 1.5
    torch.testing.assert_close(binary_loss(logits, targets, weights, gamma=1.5), focal.mean(dim=1))
    soft = functional.binary_cross_entropy_with_logits(logits, targets * 0.8 + 0.1, reduction="none").mean(dim=1)
    torch.testing.assert_close(binary_loss(logits, targets, torch.ones(2), smoothing=0.2), soft)


def test_number_loss_is_squared_and_beyond_one_linear_with_huber() -> None:
    outputs, targets = torch.tensor([[0.5, 0.0], [3.0, -2.0]]), torch.zeros(2, 2)
    assert number_loss(outputs, targets).tolist() == [0.125, 6.5]
    # Of each error e: e^2 up to 1, 2 |e| - 1 beyond.
    assert number_loss(outputs, targets, huber=True).tolist() == [0.125, 4.0]


def test_classes_of_a_column_are_its_sorted_values_and_null_is_no_class(weak: Path, sidecar: Sidecar) -> None:
    targets = read_targets(sidecar, config(target="patient:stage"), weak)
    assert targets.names == ["I", "II", "III"]
    slides = sidecar.tile_slide.tolist()
    number = {"S0": 1, "S1": 0, "S2": -1, "S3": 2}
    assert targets.values.tolist() == targets.sidecar.class_number.tolist() == [number[slide] for slide in slides]
    by_size = read_targets(sidecar, config(target="patient:age"), weak)
    assert by_size.names == ["48", "61", "70"]
    # Conditions are about the labels of the tiles themselves.
    assert as_exported(targets.sidecar).class_number.tolist() == sidecar.class_number.tolist()
    chosen = tiles_where(targets.sidecar, "label = 'stripes'", weak)
    assert chosen.tolist() == (sidecar.class_number == 0).tolist()
    same = read_targets(sidecar, config(), weak)
    assert same.sidecar is sidecar


@pytest.mark.parametrize("kind", [int, float, str])
def test_codes_are_classes_of_their_own_whatever_their_type(kind: type, weak: Path, sidecar: Sidecar) -> None:
    """SNOMED CT has 413448000 and 413448001; six digits would make one class of them."""
    codes = dict(zip(COLUMNS, (413448000, 413448001, 413448000, 7), strict=True))
    targets = read_targets(with_column(sidecar, "code", {s: kind(c) for s, c in codes.items()}), code(), weak)
    names = sorted(("7", "413448000", "413448001"), key=str if kind is str else int)
    assert targets.names == names
    given = [names[number] for number in targets.values]
    assert given == [str(codes[slide]) for slide in sidecar.tile_slide]


def code() -> TrainConfig:
    return config(target="patient:code")


def with_column(sidecar: Sidecar, name: str, values: dict[str, Any]) -> Sidecar:
    """Return a side-car whose slides have one column more."""
    slides = [replace(s, patient_columns={**s.patient_columns, name: values.get(s.slide)}) for s in sidecar.slides]
    return replace(sidecar, slides=tuple(slides))


@pytest.mark.parametrize(("one", "other", "name"), [(1, "1", "1"), (True, "true", "true"), (0.5, "0.5", "0.5")])
def test_two_values_of_one_name_are_refused(one: Any, other: Any, name: str, weak: Path, sidecar: Sidecar) -> None:
    with pytest.raises(ConfigError) as error:
        read_targets(with_column(sidecar, "code", {"S0": one, "S2": other}), code(), weak)
    first, second = (next(s.patient for s in sidecar.slides if s.slide == slide) for slide in ("S0", "S2"))
    assert str(error.value) == (
        f"{weak}: column 'code' of the patients' table has {one!r} for patient {first!r} and {other!r} for patient "
        f"{second!r}, which are one class by name, {name!r}; write one of them as the other in the patients' table, "
        "add it (slideduck add-patients STUDY TABLE) and export again"
    )


def test_the_site_is_a_target_like_any_other_column(weak: Path, sidecar: Sidecar) -> None:
    sites = {"S0": "Kiel", "S1": "Bonn", "S2": None, "S3": "Kiel"}
    of_sites = replace(sidecar, slides=tuple(replace(s, site=sites[s.slide]) for s in sidecar.slides))
    targets = read_targets(of_sites, config(target="patient:site"), weak)
    assert targets.names == ["Bonn", "Kiel"]
    number = {"S0": 1, "S1": 0, "S2": -1, "S3": 1}
    assert targets.values.tolist() == [number[slide] for slide in sidecar.tile_slide]
    with pytest.raises(ConfigError) as error:
        read_targets(of_sites, config(target="patient:Site"), weak)
    assert str(error.value) == (
        f"{weak}: target is 'patient:Site', but its side-car has no column 'Site' of the patients' table; it has site, "
        "stage, age, ki67, genes, msi, her2; did you mean 'site'?: add the column (slideduck add-patients STUDY TABLE) "
        "and export again"
    )


def test_labels_come_from_a_list_or_from_columns(weak: Path, sidecar: Sidecar) -> None:
    several = config(task="multi-label", target="patient:genes")
    targets = read_targets(sidecar, several, weak)
    assert targets.names == ["kras", "tp53"]
    rows = {"S0": [1, 1], "S1": [1, 0], "S2": [0, 0]}
    for slide, value, number in zip(sidecar.tile_slide, targets.values, targets.sidecar.class_number, strict=True):
        assert number == (-1 if slide == "S3" else 0)
        if slide in rows:
            assert value.tolist() == rows[slide]
    of_columns = read_targets(sidecar, config(task="multi-label", target="patient:her2,msi"), weak)
    assert of_columns.names == ["her2", "msi"]
    assert of_columns.values[sidecar.tile_slide == "S0"].tolist() == [[0, 1]] * 6
    assert (of_columns.sidecar.class_number[sidecar.tile_slide == "S3"] == -1).all()
    own = read_targets(sidecar, config(task="multi-label"), weak)
    assert own.names == ["chequers", "stripes"]
    assert own.values.argmax(axis=1).tolist() == (1 - sidecar.class_number).tolist()
    # A network keeps the order that it has learnt in.
    assert read_targets(sidecar, several, weak, ["tp53", "kras", "egfr"]).values.shape == (24, 3)
    with pytest.raises(RunError) as error:
        read_targets(sidecar, several, weak, ["kras"])
    assert str(error.value) == f"{weak}: the network does not know the labels 'tp53'; it knows kras"


def test_numbers_are_those_of_the_slides(weak: Path, sidecar: Sidecar) -> None:
    targets = read_targets(sidecar, config(task="regression", target="patient:age,ki67"), weak)
    assert targets.values[sidecar.tile_slide == "S1"].tolist() == [[48, pytest.approx(0.6)]] * 6
    assert (targets.sidecar.class_number == -1).tolist() == (sidecar.tile_slide == "S3").tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"target": "patient:grade"},
            "target is 'patient:grade', but its side-car has no column 'grade' of the patients' table; it has stage, "
            "age, ki67, genes, msi, her2: add the column (slideduck add-patients STUDY TABLE) and export again",
        ),
        (
            {"task": "regression", "target": "patient:stage"},
            "task is 'regression', but in column 'stage' 'II' of patient S0 (slide S0), 'I' of patient S1 (slide S1), "
            "'III' of patient S3 (slide S3) are no numbers; mend or empty them in the patients' table, add it "
            "(slideduck add-patients STUDY TABLE) and export again; or give a target of numbers, such as patient:age",
        ),
        (
            {"task": "regression"},
            "task is 'regression', but column 'label' holds 'chequers', not numbers; give a target of numbers, such as "
            "patient:age",
        ),
        (
            {"task": "multi-label", "target": "patient:msi,age"},
            "column 'age' has the value 61; where several columns are the labels of a slide, each holds 0 or 1",
        ),
    ],
)
def test_targets_that_do_not_fit_are_refused(
    settings: dict[str, Any], message: str, weak: Path, sidecar: Sidecar
) -> None:
    with pytest.raises(ConfigError) as error:
        read_targets(sidecar, config(**settings), weak)
    assert str(error.value) == f"{weak}: {message}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "stage"}, "target is 'stage'; it must be label, value, or patient:COLUMN, such as patient:stage"),
        (
            {"target": "patient:"},
            "target is 'patient:'; it must be label, value, or patient:COLUMN, such as patient:stage",
        ),
        ({"target": "patient:a,b"}, "target is 'patient:a,b'; classification takes one column"),
        ({"target": "patient:a,a", "task": "regression"}, "target is 'patient:a,a'; it names a column twice"),
        ({"task": "detection"}, "task is 'detection'; it must be one of classification, multi-label, regression"),
        ({"loss": "huber"}, "loss is 'huber', but task is 'classification'; it must be auto or focal"),
        (
            {"loss": "focal", "task": "regression"},
            "loss is 'focal', but task is 'regression'; it must be auto or huber",
        ),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0; it must be 0 or more, at most 0.99"),
        (
            {"label_smoothing": 0.1, "task": "regression"},
            "label_smoothing is 0.1, but task is 'regression'; leave it at 0",
        ),
        ({"focal_gamma": -1.0}, "focal_gamma is -1.0; it must be 0 or more"),
    ],
)
def test_settings_of_an_objective_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        config(**settings)
    assert str(error.value) == message


def test_numbers_are_standardised_by_the_training_tiles_and_come_back() -> None:
    values = np.array([[10.0], [20], [30], [20]], np.float32)
    objective = make_task(config(task="regression", target="patient:age"), ["age"], CPU, targets=values)
    targets = torch.from_numpy(values)
    outputs = (targets - 20) / math.sqrt(50)
    assert objective.loss(outputs, targets).abs().max() < 1e-12
    torch.testing.assert_close(objective.activate(outputs), targets)
    again = make_task(objective.config, ["age"], CPU, state=objective.state())
    torch.testing.assert_close(again.activate(outputs), targets)
    with pytest.raises(ConfigError) as error:
        make_task(objective.config, ["age"], CPU, targets=np.full((3, 1), 5, np.float32))
    assert str(error.value) == (
        "target 'patient:age': age has the same value for all training tiles: there is nothing to learn; "
        "give another target or other training tiles"
    )


def test_a_rare_label_weighs_as_much_as_its_absence() -> None:
    several = config(task="multi-label", target="patient:genes")
    values = np.array([[1, 0], [0, 0], [0, 0], [0, 0]], np.float32)
    objective = make_task(several, ["a", "b"], CPU, targets=values)
    assert objective.weights.tolist() == [3.0, 1.0]
    balanced = make_task(several, ["a", "b"], CPU, targets=values, shares=np.array([3.0, 1, 1, 1]))
    assert balanced.weights.tolist() == [1.0, 1.0]
    none = make_task(config(task="multi-label", balance="none"), ["a", "b"], CPU, targets=values)
    assert none.weights.tolist() == [1.0, 1.0]


def test_metrics_of_labels_by_hand(tmp_path: Path, sidecar: Sidecar) -> None:
    several = make_task(config(task="multi-label", target="patient:genes"), ["a", "b"], CPU)
    truth: Any = np.array([[1, 1], [1, 0], [0, 1], [0, 0]], np.float32)
    p = np.array([[0.9, 0.6], [0.4, 0.7], [0.6, 0.8], [0.1, 0.2]])
    predictions = LabelPredictions(np.arange(4), truth, np.log(p).astype(np.float32))
    metrics = several.metrics_of(predictions, np.array([0, 0, 1, 1]), np.zeros(4, np.int64))
    assert metrics["loss"] == pytest.approx(-np.where(truth > 0, np.log(p), np.log(1 - p)).mean(), rel=1e-6)
    assert metrics["auroc/a"] == 0.75
    assert metrics["f1/a"] == 0.5
    assert metrics["ap/b"] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics["mean_auroc"] == pytest.approx((0.75 + metrics["auroc/b"]) / 2)
    assert metrics["tiles"] == 4
    # Slide means: a: 1 against 0 with 0.65 against 0.35; the patient has both, so that nothing can be ranked.
    assert metrics["slide/auroc/a"] == 1.0
    assert metrics["slide/slides"] == 2
    assert metrics["patient/patients"] == 1
    assert math.isnan(metrics["patient/mean_auroc"])
    write_predictions(tmp_path / "p.parquet", several.table(predictions, sidecar, {"epoch": "1"}))
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.column_names == [
        "tile_id", "slide", "patient", "label", "predicted", "loss", "true_a", "prob_a", "true_b", "prob_b",
    ]  # fmt: skip
    assert table["label"].to_pylist() == ["a;b", "a", "b", "-"]
    assert table["predicted"].to_pylist() == ["a;b", "b", "a;b", "-"]
    assert table["true_b"].to_pylist() == [True, False, True, False]
    assert table["prob_a"].to_pylist() == pytest.approx(p[:, 0].tolist())


def test_metrics_of_numbers_by_hand(tmp_path: Path, sidecar: Sidecar) -> None:
    truth: Any = np.array([[1.0], [2], [3], [6]], np.float32)
    said = np.array([[1.0], [3], [3], [5]], np.float32)
    objective = make_task(config(task="regression", target="patient:age"), ["age"], CPU, targets=truth)
    predictions = NumberPredictions(np.arange(4), truth, said)
    metrics = objective.metrics_of(predictions, np.array([0, 0, 1, 1]), np.array([5, 5, 9, 9]))
    assert metrics["mae/age"] == metrics["mean_mae"] == 0.5
    assert metrics["rmse/age"] == pytest.approx(math.sqrt(0.5))
    assert metrics["r2/age"] == pytest.approx(1 - 2 / 14)
    assert metrics["loss"] == pytest.approx(0.5 / 3.5, rel=1e-6)
    assert metrics["pearson/age"] == pytest.approx(np.corrcoef(truth[:, 0], said[:, 0])[0, 1])
    # Means of slides: 1.5 and 4.5, predicted 2 and 4.
    assert metrics["slide/mae/age"] == metrics["patient/mae/age"] == 0.5
    write_predictions(tmp_path / "p.parquet", objective.table(predictions, sidecar, {"epoch": "1"}))
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.column_names == ["tile_id", "slide", "patient", "loss", "true_age", "predicted_age"]
    assert table["loss"].to_numpy().mean() == pytest.approx(metrics["loss"])
    assert table["predicted_age"].to_pylist() == [1, 3, 3, 5]
