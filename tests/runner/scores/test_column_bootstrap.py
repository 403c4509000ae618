"""Intervals of labels and numbers are the percentiles of metrics computed on resampled patients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn.metrics as reference
from numpy.typing import NDArray

from slideduck.runner.scores.bootstrap import draw_patients
from slideduck.runner.scores.column_bootstrap import column_intervals
from slideduck.runner.scores.columns import label_losses, label_metrics, number_losses, number_metrics
from slideduck.runner.scores.predictions import LabelPredictions, NumberPredictions

N, PATIENTS, RESAMPLES = 240, 8, 40
NAMES = ["a", "b"]


def tiles(seed: int) -> tuple[np.random.Generator, NDArray[Any], NDArray[Any]]:
    """Return random numbers, and the slide and the patient of each tile."""
    rng = np.random.default_rng(seed)
    slides = np.sort(rng.integers(0, 2 * PATIENTS, N))
    return rng, slides, slides // 2


def resampled(slides: NDArray[Any], patients: NDArray[Any]) -> list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Return tiles, slides and patients of each resample, patients that are drawn twice under two names."""
    numbers, place = np.unique(patients, return_inverse=True)
    found = []
    for counts in draw_patients(len(numbers), RESAMPLES, 0):
        parts = [(np.flatnonzero(place == p), again) for p, n in enumerate(counts) for again in range(n)]
        rows = np.concatenate([rows for rows, _ in parts])
        copies = np.concatenate([np.full(len(rows), again) for rows, again in parts])
        found.append((rows, slides[rows] + 1000 * copies, patients[rows] + 1000 * copies))
    return found


def check(intervals: dict[str, Any], each: list[dict[str, Any]], names: list[str]) -> None:
    """Compare intervals with the percentiles of metrics of each resample."""
    for name in names:
        values = np.array([metrics[name] for metrics in each], float)
        defined = values[np.isfinite(values)]
        if len(defined) < 0.95 * len(values):
            assert intervals[f"ci95/{name}"] is None
        else:
            assert intervals[f"ci95/{name}"] == pytest.approx(np.percentile(defined, [2.5, 97.5]), abs=1e-9), name


def test_intervals_of_labels_are_those_of_resampled_tiles() -> None:
    rng, slides, patients = tiles(1)
    truth = rng.integers(0, 2, (N, 2)).astype(np.float32)
    logs = np.log(np.clip(rng.random((N, 2)) * 0.7 + 0.3 * truth, 0.01, 0.99)).round(2).astype(np.float32)
    predictions = LabelPredictions(np.arange(N), truth, logs)
    found = column_intervals(predictions, label_losses(predictions), slides, patients, NAMES, resamples=RESAMPLES)
    each = [label_metrics(predictions.take(rows), s, p, NAMES) for rows, s, p in resampled(slides, patients)]
    names = [name for name in each[0] if name.split("/")[-1] not in ("tiles", "slides", "patients", "mixed", "ties")]
    assert {f"ci95/{name}" for name in names} < set(found)
    check(found, each, names)
    # The oracle itself is scikit-learn's.
    rows, *_ = resampled(slides, patients)[0]
    said = predictions.take(rows).probabilities[:, 0]
    assert each[0]["auroc/a"] == pytest.approx(reference.roc_auc_score(truth[rows, 0], said), abs=1e-15)
    assert each[0]["ap/a"] == pytest.approx(reference.average_precision_score(truth[rows, 0], said), abs=1e-15)
    assert each[0]["f1/a"] == pytest.approx(reference.f1_score(truth[rows, 0], said >= 0.5), abs=1e-15)


def test_intervals_of_numbers_are_those_of_resampled_tiles() -> None:
    rng, slides, patients = tiles(2)
    truth = (1000 + rng.normal(0, 1, (N, 2)) * [1, 50]).astype(np.float32)
    said = (truth + rng.normal(0, 1, (N, 2))).astype(np.float32)
    std = np.array([1.0, 50.0])
    predictions = NumberPredictions(np.arange(N), truth, said)
    losses = number_losses(predictions, std)
    found = column_intervals(predictions, losses, slides, patients, NAMES, resamples=RESAMPLES)
    each = [number_metrics(predictions.take(rows), s, p, NAMES, std) for rows, s, p in resampled(slides, patients)]
    names = [name for name in each[0] if name.split("/")[-1] not in ("tiles", "slides", "patients")]
    check(found, each, names)
    rows, *_ = resampled(slides, patients)[0]
    assert each[0]["r2/b"] == pytest.approx(
        reference.r2_score(*(x[rows, 1].astype(float) for x in (truth, said))), abs=1e-12
    )
    assert each[0]["pearson/a"] == pytest.approx(np.corrcoef(truth[rows, 0], said[rows, 0])[0, 1], abs=1e-9)
    assert each[0]["mae/b"] == pytest.approx(reference.mean_absolute_error(truth[rows, 1], said[rows, 1]), rel=1e-6)


def test_the_order_of_tiles_does_not_matter_and_few_patients_have_none() -> None:
    rng, slides, patients = tiles(3)
    truth, said = rng.normal(size=(N, 2)).astype(np.float32), rng.normal(size=(N, 2)).astype(np.float32)
    predictions = NumberPredictions(np.arange(N), truth, said)
    losses = number_losses(predictions, np.ones(2))
    other = rng.permutation(N)
    assert column_intervals(predictions, losses, slides, patients, NAMES) == column_intervals(
        predictions.take(other), losses[other], slides[other], patients[other], NAMES
    )
    few = patients % 4
    assert column_intervals(predictions, losses, slides, few, NAMES) == {
        "ci95/patients": 4,
        "ci95/note": "no confidence intervals: the tiles are of 4 patients, and resampling needs at least 5",
    }
