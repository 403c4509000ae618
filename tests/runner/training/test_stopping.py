"""The best epoch and the end of a run are decided by the metrics that the settings name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slideduck.errors import ConfigError
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.training.stopping import Criteria, resolve_criteria
from slideduck.runner.training.train import train

KNOWN: dict[str, Any] = {
    "train/loss": 0.0, "val/loss": 0.7, "val/balanced_accuracy": 0.5, "val/auroc/low error": 0.5,
    "val/auroc/other": None, "val/slide/fraction_error": 0.2, "val/confusion": [[1, 0], [0, 1]],
}  # fmt: skip
NAMES = "train/loss, val/loss, val/balanced_accuracy, val/auroc/low error, val/slide/fraction_error"


def criteria(**changes: Any) -> Criteria:
    return resolve_criteria(replace(TrainConfig(), **changes), KNOWN)


def lines(name: str, values: list[float | None]) -> list[dict[str, Any]]:
    return [{"epoch": epoch, "val/loss": 1.0, name: value} for epoch, value in enumerate(values, start=1)]


def test_by_default_balanced_accuracy_chooses_and_then_the_loss() -> None:
    found = criteria()
    assert (found.best.name, found.best.mode, found.stop.name, found.stop.mode) == (
        "val/balanced_accuracy", "max", "val/loss", "min",
    )  # fmt: skip
    first = {"epoch": 1, "val/balanced_accuracy": 0.8, "val/loss": 0.5}
    best = found.as_best(first)
    assert found.is_better(first, {})
    assert found.is_better({**first, "epoch": 2, "val/loss": 0.4}, best)
    assert not found.is_better({**first, "epoch": 2}, best)
    assert not found.is_better({"epoch": 2, "val/balanced_accuracy": 0.7, "val/loss": 0.1}, best)
    # A metric that is not defined in an epoch is worse than any that is.
    assert not found.is_better({**first, "val/balanced_accuracy": None, "val/loss": 0.1}, best)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("loss", "min"),
        ("train/loss", "min"),
        ("slide/fraction_error", "min"),
        ("auroc/low error", "max"),
        ("val/balanced_accuracy", "max"),
    ],
)
def test_the_name_tells_which_values_are_better(name: str, mode: str) -> None:
    assert criteria(best_metric=name).best.mode == mode
    assert criteria(best_metric=name, best_direction="min").best.mode == "min"


@pytest.mark.parametrize("setting", ["best_metric", "stop_metric"])
def test_a_metric_that_there_is_none_of_is_refused_with_those_that_there_are(setting: str) -> None:
    with pytest.raises(ConfigError) as error:
        criteria(**{setting: "val/f1"})
    assert str(error.value) == f"{setting} is 'val/f1', and there is no such metric; the metrics are {NAMES}"
    with pytest.raises(ConfigError) as error:
        criteria(**{setting: "auroc/other"})
    assert str(error.value) == (
        f"{setting} is 'auroc/other', which is not defined for these validation tiles (they lack a class); "
        f"the metrics are {NAMES}"
    )


@pytest.mark.parametrize(
    ("values", "patience", "min_delta", "stopped"),
    [
        ([1.0, 0.9, 0.8, 0.7], 1, 0.0, None),
        ([1.0, 0.9, 0.9, 0.8], 1, 0.0, (3, 2)),
        ([1.0, 0.9, 1.0, 0.8, 0.9], 2, 0.0, None),
        ([1.0, 0.9, 1.0, 1.0, 0.1], 2, 0.0, (4, 2)),
        # Small gains add up: each is compared with the last epoch that counted.
        ([1.0, 0.96, 0.92, 0.88], 2, 0.05, None),
        ([1.0, 0.96, 0.955, 0.951], 3, 0.05, (4, 1)),
        ([1.0, None, None], 2, 0.0, (3, 1)),
        ([None, 0.9, 0.8], 1, 0.0, None),
        ([1.0, 1.0, 1.0], 0, 0.0, None),
    ],
)
def test_it_stops_after_epochs_that_are_no_better(
    values: list[float | None], patience: int, min_delta: float, stopped: tuple[int, int] | None
) -> None:
    found = criteria(stop_metric="slide/fraction_error", stop_patience=patience, stop_min_delta=min_delta)
    assert found.stopped_after(lines("val/slide/fraction_error", values)) == stopped


def test_a_run_stops_early_says_why_and_stays_stopped(
    beton: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    config = TrainConfig(
        model="networks:tiny", epochs=6, batch_size_per_rank=16, lr=1e-2, schedule="plateau", plateau_patience=0,
        stop_metric="accuracy", stop_patience=2, stop_min_delta=1.0, best_metric="slide/loss_that_is_not",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="best_metric is 'slide/loss_that_is_not', and there is no such metric"):
        train(beton, run, config, progress=False)
    assert not run.exists()
    config = replace(config, best_metric="train/loss")
    # No epoch is better than the first by a whole 1, so that the rate falls after each.
    summary = train(beton, run, config)
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in history] == pytest.approx([1e-2, 1e-2, 1e-3])
    best = min(history, key=lambda line: line["train/loss"])
    assert (summary["epochs"], summary["best_epoch"]) == (3, best["epoch"])
    told = capsys.readouterr().err.splitlines()
    assert told[-1] == "stopped after epoch 3 of 6: no better accuracy since epoch 1"
    assert train(beton, run, config) == summary
    assert capsys.readouterr().err == (
        f"{run}: finished, 3 of 6 epochs, best epoch {best['epoch']} with train/loss {best['train/loss']:.4f}; "
        "it stopped early: no better accuracy since epoch 1\n"
    )
