"""Intervals: what they hold, that they cover, and that nothing but the data and the seed decides them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from slideduck.runner.scores.bootstrap import draw_patients, intervals, weighted_ranked_scores
from slideduck.runner.scores.metrics import compute_metrics, ranked_scores
from slideduck.runner.scores.predictions import ClassPredictions

CLASSES = ["a", "b"]


def clustered(
    rng: np.random.Generator, n_patients: int, *, tiles: int = 12, spread: float = 1.5
) -> tuple[ClassPredictions, np.ndarray, np.ndarray]:
    """Return tiles whose difficulty is mostly their patient's; two slides a patient."""
    patients = np.repeat(np.arange(n_patients), tiles)
    labels = rng.integers(0, 2, len(patients))
    ease = rng.normal(0.6, spread, n_patients)[patients] + rng.normal(0, 0.5, len(patients))
    logits = np.stack([np.zeros(len(patients)), np.where(labels == 1, ease, -ease)], axis=1)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    slides = 2 * patients + np.arange(len(patients)) % 2
    return ClassPredictions(np.arange(len(patients)), labels, logs.astype(np.float32)), slides, patients


def test_each_resample_is_the_metric_of_its_patients_as_often_as_they_were_drawn() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 20, 300) / 20
    positive = rng.random(300) < 0.3
    patient = rng.integers(0, 12, 300)
    counts = draw_patients(12, 25, seed=3)
    assert (counts.sum(axis=1) == 12).all()
    auroc, precision = weighted_ranked_scores(scores, positive, patient, counts)
    for resample, weights in enumerate(counts):
        often = np.repeat(np.arange(300), weights[patient])
        expected = ranked_scores(scores[often], positive[often])
        assert auroc[resample] == pytest.approx(expected[0], abs=1e-14)
        assert precision[resample] == pytest.approx(expected[1], abs=1e-12)
        assert auroc[resample] == pytest.approx(reference.roc_auc_score(positive[often], scores[often]))


def test_percentiles_are_those_of_a_loop_over_resamples() -> None:
    predictions, slides, patients = clustered(np.random.default_rng(1), 9)
    found = intervals(predictions, slides, patients, CLASSES, resamples=60, seed=5)
    each = []
    for weights in draw_patients(9, 60, seed=5):
        often = np.repeat(np.arange(len(patients)), weights[patients])
        # A patient that is drawn twice is two patients, with slides of their own.
        copy = np.concatenate([np.arange(k) for k in weights[patients]])
        part = ClassPredictions(often, predictions.labels[often], predictions.log_probabilities[often])
        each.append(compute_metrics(part, slides[often] + 100 * copy, CLASSES, patients=patients[often] + 100 * copy))
    names = [name for name in each[0] if f"ci95/{name}" in found]
    assert {"loss", "kappa", "slide/auroc/a", "patient/macro_f1", "slide/fraction_error", "brier"} <= set(names)
    for name in names:
        values = np.array([metrics[name] for metrics in each])
        bounds = found[f"ci95/{name}"]
        if np.isnan(values).mean() > 0.05:
            assert bounds is None, name
        else:
            assert bounds == pytest.approx(np.nanpercentile(values, [2.5, 97.5]), abs=1e-9), name


def test_intervals_over_patients_cover_and_those_over_tiles_would_not() -> None:
    rng = np.random.default_rng(2)
    truth = compute_metrics(clustered(rng, 20_000, tiles=4)[0], np.zeros(80_000, np.int64), CLASSES)
    held = {"patients": 0, "tiles": 0}
    rounds = 120
    for _ in range(rounds):
        predictions, slides, patients = clustered(rng, 40)
        for unit, groups in (("patients", patients), ("tiles", np.arange(len(patients)))):
            low, high = intervals(predictions, slides, groups, CLASSES, resamples=200)["ci95/accuracy"]
            held[unit] += low <= truth["accuracy"] <= high
    # Of 95 % the percentiles of 40 patients keep a little less; chance moves the share by some 2 % each way.
    assert 0.87 <= held["patients"] / rounds <= 1
    assert held["tiles"] / rounds < 0.8


def test_the_order_of_tiles_and_the_numbers_of_patients_change_nothing() -> None:
    rng = np.random.default_rng(3)
    predictions, slides, patients = clustered(rng, 8)
    expected = intervals(predictions, slides, patients, CLASSES, resamples=50)
    order = rng.permutation(len(patients))
    shuffled = ClassPredictions(
        predictions.rows[order], predictions.labels[order], predictions.log_probabilities[order]
    )
    assert intervals(shuffled, slides[order], 7 * patients[order] + 2, CLASSES, resamples=50) == expected
    assert intervals(predictions, slides, patients, CLASSES, resamples=50, seed=1) != expected


def test_few_patients_have_no_interval_and_a_sentence_why() -> None:
    predictions, slides, patients = clustered(np.random.default_rng(4), 4)
    assert intervals(predictions, slides, patients, CLASSES) == {
        "ci95/patients": 4,
        "ci95/note": "no confidence intervals: the tiles are of 4 patients, and resampling needs at least 5",
    }
    one = intervals(predictions, slides, np.zeros_like(patients), CLASSES)
    assert one["ci95/note"] == ("no confidence intervals: the tiles are of 1 patient, and resampling needs at least 5")


def test_a_class_of_one_patient_has_no_interval_and_the_others_have() -> None:
    predictions, slides, patients = clustered(np.random.default_rng(5), 10)
    labels = np.where(patients == 0, 1, 0)
    found = intervals(
        ClassPredictions(predictions.rows, labels, predictions.log_probabilities), slides, patients, CLASSES
    )
    assert found["ci95/auroc/b"] is None
    assert found["ci95/accuracy"] is not None


def test_what_is_not_a_number_has_no_interval() -> None:
    predictions, slides, patients = clustered(np.random.default_rng(6), 10)
    logs = predictions.log_probabilities.copy()
    logs[5] = np.nan
    found = intervals(ClassPredictions(predictions.rows, predictions.labels, logs), slides, patients, CLASSES)
    assert found["ci95/auroc/a"] is None
    low, high = found["ci95/accuracy"]
    assert math.isfinite(low)
    assert low <= high
