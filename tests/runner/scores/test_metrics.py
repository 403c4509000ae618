"""Metrics against numbers by hand, and against plain numpy."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from slideduck.errors import RunError
from slideduck.runner.scores.metrics import compute_metrics, plain
from slideduck.runner.scores.predictions import ClassPredictions, collect


def made(probabilities: list[list[float]], labels: list[int]) -> ClassPredictions:
    return ClassPredictions(
        np.arange(len(labels)),
        np.array(labels),
        np.log(np.array(probabilities)).astype(np.float32),
    )


def test_by_hand() -> None:
    # Slide 4 has tiles 0 to 2, all of class a; slide 9 has tiles 3 to 5, two of b and one of a.
    predictions = made(
        [[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.2, 0.6, 0.2], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3], [0.6, 0.3, 0.1]],
        [0, 0, 0, 1, 1, 0],
    )
    metrics = compute_metrics(predictions, np.array([4, 4, 4, 9, 9, 9]), ["a", "b", "c"])
    assert metrics["confusion"] == [[3, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert metrics["tiles"] == 6
    assert metrics["accuracy"] == pytest.approx(5 / 6)
    assert metrics["balanced_accuracy"] == pytest.approx((3 / 4 + 1) / 2)
    logs = [math.log(p) for p in (0.7, 0.5, 0.2, 0.8, 0.4, 0.6)]
    assert metrics["loss"] == pytest.approx(-sum(logs) / 6)
    # Class a: its tiles score 0.7, 0.5, 0.2, 0.6, the others 0.1, 0.3: 7 of 8 pairs are in order.
    assert metrics["auroc/a"] == pytest.approx(7 / 8)
    # Class b: its tiles score 0.8, 0.4; the others 0.2, 0.3, 0.6, 0.3.
    assert metrics["auroc/b"] == pytest.approx(7 / 8)
    assert math.isnan(metrics["auroc/c"])
    # Slide 4 is a, with mean scores 1.4/3, 1.1/3, 0.5/3; slide 9 is b, with 1.0/3, 1.5/3, 0.5/3.
    assert metrics["slide/confusion"] == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert metrics["slide/accuracy"] == metrics["slide/balanced_accuracy"] == 1
    assert metrics["slide/auroc/a"] == metrics["slide/auroc/b"] == 1
    assert metrics["slide/slides"] == 2
    # Slide 4: predicted 2/3, 1/3, 0 against 1, 0, 0; slide 9 is predicted as it is.
    assert metrics["slide/fraction_error"] == pytest.approx((1 / 3 + 1 / 3) / 6)


def test_a_slide_with_as_many_tiles_of_two_classes_is_of_the_lesser_number() -> None:
    predictions = made([[0.1, 0.9], [0.4, 0.6]], [1, 0])
    metrics = compute_metrics(predictions, np.array([0, 0]), ["a", "b"])
    assert metrics["slide/confusion"] == [[0, 1], [0, 0]]


def auroc_by_numpy(scores: np.ndarray, positive: np.ndarray) -> float:
    """Mann and Whitney's U by all pairs; a tie counts half."""
    difference = scores[positive][:, None] - scores[~positive][None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


@pytest.mark.parametrize("n_classes", [2, 5])
def test_against_numpy_on_random_predictions_with_ties(n_classes: int) -> None:
    rng = np.random.default_rng(n_classes)
    n = 1500
    labels = rng.integers(0, n_classes, n)
    slides = rng.integers(0, 40, n)
    probabilities = rng.integers(1, 6, (n, n_classes)).astype(float)
    probabilities[np.arange(n), labels] += 1
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    predictions = made(probabilities.tolist(), labels.tolist())
    classes = [f"class {k}" for k in range(n_classes)]
    metrics = compute_metrics(predictions, slides, classes)

    predicted = predictions.log_probabilities.argmax(axis=1)
    confusion = np.zeros((n_classes, n_classes), int)
    np.add.at(confusion, (labels, predicted), 1)
    assert metrics["confusion"] == confusion.tolist()
    assert metrics["accuracy"] == pytest.approx((labels == predicted).mean(), abs=1e-12)
    recalls = [(predicted[labels == k] == k).mean() for k in range(n_classes)]
    assert metrics["balanced_accuracy"] == pytest.approx(np.mean(recalls), abs=1e-12)
    single = predictions.probabilities
    for k, name in enumerate(classes):
        assert metrics[f"auroc/{name}"] == pytest.approx(auroc_by_numpy(single[:, k], labels == k), abs=1e-6)
    errors, truths, scores = [], [], []
    for slide in range(40):
        here = slides == slide
        true = np.bincount(labels[here], minlength=n_classes) / here.sum()
        errors.append(np.abs(np.bincount(predicted[here], minlength=n_classes) / here.sum() - true))
        truths.append(true.argmax())
        scores.append(single[here].mean(axis=0))
    assert metrics["slide/fraction_error"] == pytest.approx(np.mean(errors), abs=1e-12)
    assert metrics["slide/accuracy"] == pytest.approx(np.mean(np.argmax(scores, axis=1) == truths), abs=1e-12)
    for k, name in enumerate(classes):
        expected = auroc_by_numpy(np.array(scores)[:, k], np.array(truths) == k)
        assert metrics[f"slide/auroc/{name}"] == pytest.approx(expected, abs=1e-6)


def test_parts_of_ranks_join_in_order_of_row() -> None:
    rng = np.random.default_rng(0)
    rows, labels = np.arange(10, 31), rng.integers(0, 3, 21)
    logs = np.log(rng.dirichlet(np.ones(3), 21)).astype(np.float32)
    whole = ClassPredictions(rows, labels, logs)
    parts = [ClassPredictions(rows[r::4], labels[r::4], logs[r::4]) for r in (2, 0, 3, 1)]
    joined = collect([*parts, ClassPredictions(rows[:0], labels[:0], logs[:0])], rows[::-1])
    for name in ("rows", "labels", "log_probabilities"):
        assert np.array_equal(getattr(joined, name), getattr(whole, name))


def test_a_tile_that_came_twice_or_never_is_refused() -> None:
    part = made([[0.5, 0.5]] * 3, [0, 1, 0])
    with pytest.raises(RunError, match=r"^of 4 tiles 1 was not predicted and 0 more than once"):
        collect([part], np.arange(4))
    with pytest.raises(RunError, match=r"^of 3 tiles 0 were not predicted and 3 more than once"):
        collect([part, part], np.arange(3))


def test_what_is_not_a_number_is_null_in_json() -> None:
    values = plain({"a": math.nan, "b": math.inf, "c": 0.5, "d": [[1, 0]], "e": 3})
    assert json.dumps(values, allow_nan=False) == '{"a": null, "b": null, "c": 0.5, "d": [[1, 0]], "e": 3}'
