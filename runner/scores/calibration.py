"""Calibration: how far probabilities are frequencies, which thresholds to take, and which temperature."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BINS",
    "Threshold",
    "apply_thresholds",
    "brier_score",
    "calibration_error",
    "choose_thresholds",
    "classwise_calibration_error",
    "fit_temperature",
    "reliability",
    "with_temperature",
]

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]

#: Bins of equal width that confidences are counted in.
BINS = 15

#: Bounds of a fitted temperature: beyond them probabilities are those of guessing, or all 0 and 1.
_TEMPERATURES = (0.01, 100.0)


def brier_score(probabilities: Floats, labels: Ints) -> float:
    """Return the mean over units of the summed squared differences between probabilities and truth, 0 to 2.

    G. W. Brier, Monthly Weather Review 78 (1950) 1-3.
    """
    truth = np.arange(probabilities.shape[1]) == labels[:, None]
    return float(((probabilities - truth) ** 2).sum(axis=1).mean())


def calibration_error(probabilities: Floats, predicted: Ints, labels: Ints) -> float:
    """Return the expected calibration error of the predicted class, 0 to 1; NaN where a probability is NaN.

    The mean over units of the difference, in each of `BINS` bins, between the mean probability of the predicted
    class and how often it is right. C. Guo et al., On calibration of modern neural networks, ICML 2017.
    """
    return _binned_error(probabilities[np.arange(len(labels)), predicted], predicted == labels)


def classwise_calibration_error(probabilities: Floats, labels: Ints) -> float:
    """Return the mean over classes of the calibration error of each class's probability, 0 to 1.

    M. Kull et al., Beyond temperature scaling, NeurIPS 2019.
    """
    columns = range(probabilities.shape[1])
    return float(np.mean([_binned_error(probabilities[:, k], labels == k) for k in columns]))


def reliability(confidence: Floats, right: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Return the table of a reliability diagram: mean probability and frequency in each bin.

    Parameters
    ----------
    confidence : ndarray, (n,)
        Probabilities.
    right : ndarray of bool, (n,)
        Whether what they are of came true.

    Returns
    -------
    list of dict
        For each of `BINS` bins ``from`` (without it, but for the first) ``to`` (with it), ``number``, and the mean
        ``confidence`` and the ``accuracy`` of its units, None where it has none.
    """
    number, said, true = _binned(confidence, right)
    return [
        {
            "from": index / BINS,
            "to": (index + 1) / BINS,
            "number": int(n),
            "confidence": float(said[index] / n) if n else None,
            "accuracy": float(true[index] / n) if n else None,
        }
        for index, n in enumerate(number)
    ]


def with_temperature(log_probabilities: Floats, temperature: float) -> NDArray[np.float64]:
    """Return log probabilities as they are when a network's logits are divided by a temperature."""
    scaled = log_probabilities.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    return np.asarray(scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True)))


def fit_temperature(log_probabilities: Floats, labels: Ints) -> float:
    """Return the temperature that gives labels the greatest likelihood.

    The mean cross-entropy is convex in 1 / temperature; its slope is bisected. C. Guo et al., ICML 2017.

    Parameters
    ----------
    log_probabilities : ndarray, (n, classes)
        Of a network; logits do as well.
    labels : ndarray of int64, (n,)
        True class numbers.

    Returns
    -------
    float
        Over 1 for a network that is too sure. From 0.01 to 100, which are taken where all tiles, or as few as
        chance alone, are right; NaN where a probability is NaN.
    """
    logs = log_probabilities.astype(np.float64)
    if np.isnan(logs).any():
        return math.nan
    of_label = logs[np.arange(len(labels)), labels]

    def slope(inverse: float) -> float:
        """Return the derivative of the cross-entropy by 1 / temperature, at least up to its sign."""
        weights = np.exp(with_temperature(logs, 1 / inverse))
        # A class of probability 0 has weight 0, and its logarithm is minus infinity.
        expected = np.where(weights > 0, weights * np.where(weights > 0, logs, 0), 0).sum(axis=1)
        return float((expected - of_label).mean())

    low, high = 1 / _TEMPERATURES[1], 1 / _TEMPERATURES[0]
    if slope(low) >= 0:
        return _TEMPERATURES[1]
    if slope(high) <= 0:
        return _TEMPERATURES[0]
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 1 / math.sqrt(low * high)


@dataclass(frozen=True)
class Threshold:
    """A probability from which on units are taken to be of a class, with its scores.

    Attributes
    ----------
    threshold : float
        The probability, itself included.
    sensitivity, specificity, precision : float or None
        Parts of the positive units that are found, of the negative ones that are not, and of those found that are
        positive; None where there are no such units.
    f1 : float or None
        Harmonic mean of precision and sensitivity.
    """

    threshold: float
    sensitivity: float | None
    specificity: float | None
    precision: float | None
    f1: float | None


def choose_thresholds(
    probabilities: Floats, labels: Ints | NDArray[np.bool_], classes: Sequence[str]
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return the thresholds of each class that serve these units best.

    Parameters
    ----------
    probabilities : ndarray, (n, classes)
        Of tiles, slides or patients.
    labels : ndarray of int64, (n,), or of bool, (n, classes)
        True class numbers; or which of several labels each unit has.
    classes : sequence of str
        Names, in order of their numbers.

    Returns
    -------
    dict
        By class, ``youden``: the `Threshold` of the greatest sensitivity + specificity - 1, and ``f1``: that of the
        greatest F1; the higher one where two are equal. Classes that all or none of the units have are not there.
    """
    chosen = {}
    for number, name in enumerate(classes):
        scores, positive = probabilities[:, number], _of_class(labels, number)
        n_positive = int(np.count_nonzero(positive))
        n_negative = len(labels) - n_positive
        if not n_positive or not n_negative or np.isnan(scores).any():
            continue
        order = np.argsort(-scores, kind="stable")
        ordered = scores[order]
        ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
        hits = np.cumsum(positive[order])[ends]
        found = ends + 1
        # Whole numbers up to the last division: equal ones are equal, and the first, the highest threshold, wins.
        youden = hits * n_negative - (found - hits) * n_positive
        f1 = 2 * hits / (found + n_positive)
        chosen[name] = {
            rule: asdict(judge_threshold(scores, positive, float(ordered[ends[int(value.argmax())]])))
            for rule, value in (("youden", youden), ("f1", f1))
        }
    return chosen


def judge_threshold(scores: Floats, positive: NDArray[np.bool_], threshold: float) -> Threshold:
    """Return a threshold with its scores on some units."""
    found = scores >= threshold
    hits, n_positive = int(np.count_nonzero(found & positive)), int(np.count_nonzero(positive))
    n_found, n_negative = int(np.count_nonzero(found)), len(positive) - n_positive
    return Threshold(
        threshold,
        hits / n_positive if n_positive else None,
        1 - (n_found - hits) / n_negative if n_negative else None,
        hits / n_found if n_found else None,
        2 * hits / (n_found + n_positive) if n_found + n_positive else None,
    )


def apply_thresholds(
    probabilities: Floats,
    labels: Ints | NDArray[np.bool_],
    classes: Sequence[str],
    thresholds: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return thresholds that were chosen on other units with their scores on these."""
    return {
        name: {
            rule: asdict(judge_threshold(probabilities[:, number], _of_class(labels, number), value["threshold"]))
            for rule, value in thresholds[name].items()
        }
        for number, name in enumerate(classes)
        if name in thresholds
    }


def _of_class(labels: Ints | NDArray[np.bool_], number: int) -> NDArray[np.bool_]:
    """Return which units are of a class, or have a label."""
    return np.asarray(labels == number if labels.ndim == 1 else labels[:, number])


def _binned(confidence: Floats, right: NDArray[np.bool_]) -> tuple[Ints, NDArray[np.float64], NDArray[np.float64]]:
    """Return, for each bin, its units, the sum of their probabilities, and how many came true."""
    index = np.clip(np.ceil(np.nan_to_num(confidence) * BINS).astype(np.int64) - 1, 0, BINS - 1)
    number = np.bincount(index, minlength=BINS)
    said, true = np.bincount(index, confidence, BINS), np.bincount(index, right.astype(np.float64), BINS)
    return np.asarray(number, np.int64), np.asarray(said, np.float64), np.asarray(true, np.float64)


def _binned_error(confidence: Floats, right: NDArray[np.bool_]) -> float:
    """Return the mean, over units, of the difference between probability and frequency in their bin."""
    _, said, true = _binned(confidence, right)
    return float(np.abs(said - true).sum() / len(confidence))
