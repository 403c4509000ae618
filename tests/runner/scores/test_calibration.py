"""Calibration and thresholds, against numbers by hand and scikit-learn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from slideduck.runner.scores.calibration import (
    BINS,
    apply_thresholds,
    brier_score,
    calibration_error,
    choose_thresholds,
    classwise_calibration_error,
    fit_temperature,
    reliability,
    with_temperature,
)
from tests.campaign import cases


def test_calibration_error_by_hand() -> None:
    # Two tiles in the bin of 0.6 (one right), two in that of 0.9 (both right).
    probabilities = np.array([[0.61, 0.39], [0.38, 0.62], [0.91, 0.09], [0.08, 0.92]])
    predicted, labels = probabilities.argmax(axis=1), np.array([0, 0, 0, 1])
    expected = (abs(0.61 + 0.62 - 1) + abs(0.91 + 0.92 - 2)) / 4
    assert calibration_error(probabilities, predicted, labels) == pytest.approx(expected)
    rows = reliability(probabilities.max(axis=1), predicted == labels)
    assert len(rows) == BINS
    assert [row["number"] for row in rows] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2, 0]
    assert rows[9] == {"from": 9 / 15, "to": 10 / 15, "number": 2, "confidence": pytest.approx(0.615), "accuracy": 0.5}
    assert rows[0] == {"from": 0.0, "to": 1 / 15, "number": 0, "confidence": None, "accuracy": None}
    # Of two classes the second's errors are those of the first.
    of_class = (abs(0.61 - 1) + abs(0.38 - 1) + abs(0.91 - 1) + abs(0.08 - 0)) / 4
    assert classwise_calibration_error(probabilities, labels) == pytest.approx(of_class)
    assert brier_score(probabilities, labels) == pytest.approx(2 * (0.39**2 + 0.62**2 + 0.09**2 + 0.08**2) / 4)


def test_a_border_belongs_to_the_lower_bin_and_nothing_falls_out() -> None:
    rows = reliability(np.array([0.0, 1 / 15, 2 / 15, 1.0]), np.array([True] * 4))
    assert [row["number"] for row in rows] == [2, 1, *[0] * 12, 1]


def test_the_temperature_that_made_a_network_too_sure_is_found() -> None:
    rng = np.random.default_rng(0)
    logs = with_temperature(rng.normal(0, 2, (20_000, 3)), 1)
    labels = (rng.random((len(logs), 1)) > np.exp(logs).cumsum(axis=1)).sum(axis=1).clip(0, 2)
    sure = with_temperature(logs, 1 / 2.5)
    temperature = fit_temperature(sure, labels)
    assert temperature == pytest.approx(2.5, rel=0.05)
    mended = with_temperature(sure, temperature)
    of_label = np.arange(len(labels)), labels
    for other in (0.98 * temperature, 1.02 * temperature):
        assert mended[of_label].mean() > with_temperature(sure, other)[of_label].mean()
    guess = sure.argmax(axis=1)
    before, after = (calibration_error(np.exp(values), guess, labels) for values in (sure, mended))
    assert after < 0.02 < before


def test_a_temperature_stays_within_its_bounds() -> None:
    logs = with_temperature(np.array([[2.0, 0.0], [0.0, 2.0]]), 1)
    assert fit_temperature(logs, np.array([0, 1])) == 0.01
    assert fit_temperature(logs, np.array([1, 0])) == 100
    assert math.isnan(fit_temperature(np.array([[np.nan, 0.0]]), np.array([0])))
    assert fit_temperature(np.array([[0.0, -np.inf], [0.0, -np.inf]]), np.array([0, 0])) > 0


@settings(deadline=None, max_examples=cases(50, 1000))
@given(st.integers(0, 2**32 - 1), st.integers(2, 80))
def test_thresholds_are_the_best_of_all(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 10, n) / 10, rng.integers(0, 2, n)
    chosen: dict[str, Any] = dict(choose_thresholds(np.stack([1 - scores, scores], axis=1), labels, ["a", "b"]))
    if labels.all() or not labels.any():
        assert chosen == {}
        return
    false_rate, true_rate, _ = reference.roc_curve(labels, scores, drop_intermediate=False)
    youden = chosen["b"]["youden"]
    assert youden["sensitivity"] + youden["specificity"] - 1 == pytest.approx(max(0, (true_rate - false_rate).max()))
    every = [reference.f1_score(labels, scores >= threshold) for threshold in np.unique(scores)]
    assert chosen["b"]["f1"]["f1"] == pytest.approx(max(every))
    at = scores >= chosen["b"]["f1"]["threshold"]
    assert chosen["b"]["f1"]["precision"] == pytest.approx(reference.precision_score(labels, at))
    assert chosen["b"]["f1"]["sensitivity"] == pytest.approx(reference.recall_score(labels, at))


def test_thresholds_of_other_tiles_are_applied_as_they_are() -> None:
    probabilities = np.array([[0.7, 0.3], [0.4, 0.6], [0.2, 0.8], [0.9, 0.1]])
    labels = np.array([0, 1, 1, 1])
    found = apply_thresholds(probabilities, labels, ["a", "b"], {"b": {"youden": {"threshold": 0.6}}})
    assert found == {
        "b": {"youden": {"threshold": 0.6, "sensitivity": 2 / 3, "specificity": 1.0, "precision": 1.0, "f1": 4 / 5}}
    }
