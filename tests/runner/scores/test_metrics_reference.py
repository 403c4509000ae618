"""Metrics against scikit-learn, on cases that hypothesis makes and on those that have no answer."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from slideduck.runner.scores.metrics import compute_metrics, ranked_scores
from slideduck.runner.scores.predictions import ClassPredictions
from tests.campaign import cases


@st.composite
def predicted(draw: st.DrawFn) -> tuple[ClassPredictions, np.ndarray, np.ndarray, int]:
    """Predictions with many ties, of 1 to 60 tiles on a few slides of fewer patients."""
    n_classes = draw(st.integers(2, 4))
    n = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    odds = rng.integers(1, draw(st.integers(2, 9)), (n, n_classes)).astype(float)
    logs = np.log(odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    labels = rng.integers(0, draw(st.integers(1, n_classes)), n)
    slides = rng.integers(0, draw(st.integers(1, 6)), n)
    return ClassPredictions(np.arange(n), labels, logs), slides, slides // 2, n_classes


def compare(metrics: dict[str, object], prefix: str, labels: np.ndarray, scores: np.ndarray, guess: np.ndarray) -> None:
    """Compare the metrics of a level with scikit-learn's."""

    def same(name: str, expected: float) -> None:
        assert metrics[prefix + name] == pytest.approx(expected, abs=1e-12, nan_ok=True), name

    n_classes = scores.shape[1]
    with warnings.catch_warnings():
        # Of what is not defined.
        warnings.simplefilter("ignore")
        assert (
            metrics[prefix + "confusion"] == reference.confusion_matrix(labels, guess, labels=range(n_classes)).tolist()
        )
        same("accuracy", reference.accuracy_score(labels, guess))
        same("balanced_accuracy", reference.balanced_accuracy_score(labels, guess))
        same("macro_f1", reference.f1_score(labels, guess, average="macro"))
        if len(set(labels) | set(guess)) > 1:
            same("kappa", reference.cohen_kappa_score(labels, guess))
        else:
            assert math.isnan(metrics[prefix + "kappa"])  # type: ignore[arg-type]
        same("brier", float(((scores - np.eye(n_classes)[labels]) ** 2).sum(axis=1).mean()))
        defined = []
        for number in range(n_classes):
            positive = labels == number
            both = 0 < positive.sum() < len(labels)
            auroc = reference.roc_auc_score(positive, scores[:, number]) if both else math.nan
            precision = reference.average_precision_score(positive, scores[:, number]) if both else math.nan
            same(f"auroc/c{number}", auroc)
            same(f"average_precision/c{number}", precision)
            defined += [auroc] if both else []
        same("macro_auroc", float(np.mean(defined)) if defined else math.nan)


@settings(deadline=None, max_examples=cases(60, 1200))
@given(predicted())
def test_metrics_are_those_of_scikit_learn(case: tuple[ClassPredictions, np.ndarray, np.ndarray, int]) -> None:
    predictions, slides, patients, n_classes = case
    classes = [f"c{k}" for k in range(n_classes)]
    metrics = compute_metrics(predictions, slides, classes, patients=patients)
    scores = predictions.probabilities
    compare(metrics, "", predictions.labels, scores, predictions.predicted)
    assert metrics["loss"] == pytest.approx(
        reference.log_loss(predictions.labels, scores, labels=range(n_classes)), abs=1e-6
    )
    for prefix, groups in (("slide/", slides), ("patient/", patients)):
        means, truths = [], []
        for group in np.unique(groups):
            here = groups == group
            means.append(scores[here].mean(axis=0))
            truths.append(np.bincount(predictions.labels[here], minlength=n_classes).argmax())
        # Means of the same numbers in another order are not always equal, and ties then fall otherwise.
        units = np.array(means)
        guess = np.array(metrics[prefix + "confusion"]).sum(axis=0)
        if (guess == np.bincount(units.argmax(axis=1), minlength=n_classes)).all() and not near_ties(units):
            compare(metrics, prefix, np.array(truths), units, units.argmax(axis=1))
    assert metrics["patient/patients"] == len(np.unique(patients))


def near_ties(values: np.ndarray) -> bool:
    """Return whether numbers are equal but for their last digits."""
    flat = np.sort(values, axis=0)
    steps = np.diff(flat, axis=0)
    sides = np.sort(values, axis=1)
    return bool(((steps > 0) & (steps < 1e-12)).any() or (np.diff(sides, axis=1) < 1e-12).any())


def test_a_patient_is_the_mean_of_the_tiles_of_all_of_its_slides() -> None:
    # Patient 0 has slides 0 (three tiles) and 1 (one tile); the mean over tiles is not that over slides.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.1, 0.9], [0.2, 0.8]])
    predictions = ClassPredictions(np.arange(5), np.array([0, 0, 0, 1, 1]), np.log(probabilities).astype(np.float32))
    metrics = compute_metrics(predictions, np.array([0, 0, 0, 1, 2]), ["a", "b"], patients=np.array([0, 0, 0, 0, 1]))
    assert metrics["patient/confusion"] == [[1, 0], [0, 1]]
    expected = ((1 - 0.55) ** 2 + 0.45**2 + 2 * 0.2**2) / 2
    assert metrics["patient/brier"] == pytest.approx(expected)
    assert (metrics["tiles"], metrics["slide/slides"], metrics["patient/patients"]) == (5, 3, 2)
    assert "patient/brier" not in compute_metrics(predictions, np.array([0, 0, 0, 1, 2]), ["a", "b"])


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]])
def test_of_one_class_the_ranks_say_nothing(labels: list[int]) -> None:
    logs = np.log(np.array([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]])).astype(np.float32)
    metrics = compute_metrics(ClassPredictions(np.arange(3), np.array(labels), logs), np.zeros(3, np.int64), ["a", "b"])
    assert all(math.isnan(metrics[name]) for name in ("auroc/a", "average_precision/b", "macro_auroc"))
    assert metrics["balanced_accuracy"] == metrics["accuracy"]


def test_constant_scores_are_chance() -> None:
    positive = np.array([True, False, True, False, False])
    assert ranked_scores(np.full(5, 0.3), positive) == pytest.approx((0.5, 2 / 5))


def test_what_is_not_a_number_gives_no_number() -> None:
    logs = np.log(np.array([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]])).astype(np.float32)
    logs[1] = np.nan
    metrics = compute_metrics(
        ClassPredictions(np.arange(3), np.array([0, 1, 1]), logs), np.array([0, 0, 1]), ["a", "b"]
    )
    assert all(math.isnan(metrics[name]) for name in ("loss", "auroc/a", "brier", "ece", "classwise_ece"))
