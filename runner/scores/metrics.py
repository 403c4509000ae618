"""How good predictions of classes are, tile by tile, slide by slide and patient by patient.

All numbers are computed in one process, in double precision, from predictions in order of row, so that
they do not depend on how many processes predicted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slideduck.runner.scores.calibration import brier_score, calibration_error, classwise_calibration_error
from slideduck.runner.scores.predictions import ClassPredictions

__all__ = [
    "LEVELS",
    "Units",
    "class_ties",
    "compute_metrics",
    "confusion_of",
    "mean_over_classes",
    "plain",
    "ranked_scores",
    "scores_of_confusion",
    "units_of",
]

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]

#: What metrics are of, with the prefix of their names.
LEVELS = {"tiles": "", "slides": "slide/", "patients": "patient/"}


@dataclass(frozen=True)
class Units:
    """The units that metrics count: tiles, slides or patients.

    Attributes
    ----------
    labels : ndarray of int64, (n,)
        True class numbers.
    probabilities : ndarray of float64, (n, classes)
        Probability of each class.
    predicted : ndarray of int64, (n,)
        Predicted class numbers.
    """

    labels: Ints
    probabilities: NDArray[np.float64]
    predicted: Ints


def compute_metrics(
    predictions: ClassPredictions, slides: Ints, classes: Sequence[str], *, patients: Ints | None = None
) -> dict[str, Any]:
    """Return the metrics of predictions at tile, slide and patient level.

    A slide's true class is that of most of its tiles (the lesser number where two are equal), and its
    score the mean of its tiles' probabilities. A patient's are the same, over the tiles of all of the
    patient's slides: each tile counts once, so that a slide with more tiles counts for more.

    Parameters
    ----------
    predictions : ClassPredictions
        At least one tile; every label is a class number.
    slides : ndarray of int64, (n,)
        Number of each tile's slide.
    classes : sequence of str
        Names of the classes, in order of their numbers.
    patients : ndarray of int64, (n,), optional
        Number of each tile's patient; without them there are no metrics of patients.

    Returns
    -------
    dict
        ``loss`` (mean cross-entropy, nats, not weighted), ``accuracy``, ``balanced_accuracy`` (mean recall
        of the classes that are there), ``macro_f1`` (mean over the classes that are there or predicted),
        ``kappa`` (Cohen's; NaN where chance alone would agree always), ``auroc/CLASS`` and
        ``average_precision/CLASS`` (one against the rest; NaN where only one side is there),
        ``macro_auroc`` (mean over the classes that have one), ``brier``, ``ece`` and ``classwise_ece`` (see
        `slideduck.runner.scores.calibration`), ``confusion`` (rows: true class, columns: predicted, both by
        number), ``tiles``; the same, but for the loss, under ``slide/``, with ``slide/slides`` for their
        number and ``slide/fraction_error``: the mean, over slides and classes, of the difference between the part of
        a slide's tiles that is predicted to be of a class and the part that is; ``slide/mixed``, the number of slides
        whose tiles are of several classes, and ``slide/ties``, that of slides where no class has the most tiles alone;
        and alike under ``patient/``, with ``patient/patients``. With soft labels the true class of a tile is the
        likeliest, and there are ``soft_loss`` (mean cross-entropy against the labels' probabilities, nats) and
        ``soft_brier`` (mean of the summed squared differences from them).
    """
    labels = predictions.labels
    of_label = predictions.log_probabilities[np.arange(len(labels)), labels].astype(np.float64)
    tiles = units_of(predictions, None)
    metrics = {"loss": -float(of_label.mean()), **_soft_scores(predictions), **_scores(tiles, classes)}
    metrics["tiles"] = len(labels)
    for level, groups in (("slides", slides), ("patients", patients)):
        if groups is None:
            continue
        units = units_of(predictions, groups)
        of_units = {
            **_scores(units, classes),
            "fraction_error": float(fraction_errors(predictions, groups).mean()),
            level: len(units.labels),
            **class_ties(labels, groups, len(classes)),
        }
        metrics |= {LEVELS[level] + name: value for name, value in of_units.items()}
    return metrics


def _soft_scores(predictions: ClassPredictions) -> dict[str, float]:
    """Return how far predictions are from soft labels; nothing where labels are certain."""
    soft = predictions.soft
    if soft is None:
        return {}
    logs = predictions.log_probabilities.astype(np.float64)
    # A class that is impossible by the label costs nothing, however impossible the network takes it for.
    costs = np.where(soft > 0, soft * logs, 0.0).sum(axis=1)
    apart = ((predictions.probabilities - soft) ** 2).sum(axis=1)
    return {"soft_loss": -float(costs.mean()), "soft_brier": float(apart.mean())}


def units_of(predictions: ClassPredictions, groups: Ints | None) -> Units:
    """Return tiles themselves, or the groups of tiles that have the same number, in order of that number."""
    probabilities = predictions.probabilities
    if groups is None:
        return Units(predictions.labels, probabilities, predictions.predicted)
    _, group = np.unique(groups, return_inverse=True)
    n_classes = probabilities.shape[1]
    n_tiles = np.bincount(group).astype(np.float64)
    scores = np.stack([np.bincount(group, probabilities[:, k]) / n_tiles for k in range(n_classes)], axis=1)
    true = _fractions(group, predictions.labels, n_classes).argmax(axis=1)
    return Units(true, scores, np.asarray(scores.argmax(axis=1), np.int64))


def fraction_errors(predictions: ClassPredictions, groups: Ints) -> NDArray[np.float64]:
    """Return, for each group in order of its number, the mean error of the part of its tiles of each class."""
    _, group = np.unique(groups, return_inverse=True)
    n_classes = predictions.log_probabilities.shape[1]
    predicted = _fractions(group, predictions.predicted, n_classes)
    return np.asarray(np.abs(predicted - _fractions(group, predictions.labels, n_classes)).mean(axis=1))


def class_ties(labels: Ints, groups: Ints, n_classes: int) -> dict[str, int]:
    """Return how many groups have tiles of several classes (``mixed``), and of no class the most (``ties``)."""
    _, group = np.unique(groups, return_inverse=True)
    counts = np.sort(_counts(group, labels, n_classes), axis=1)
    if n_classes < 2:
        return {"mixed": 0, "ties": 0}
    return {
        "mixed": int(np.count_nonzero(counts[:, -2])),
        "ties": int(np.count_nonzero(counts[:, -1] == counts[:, -2])),
    }


def confusion_of(labels: Ints, predicted: Ints, n_classes: int) -> Ints:
    """Return how many units of each true class (rows) are predicted to be of each (columns)."""
    counts = np.bincount(labels * n_classes + predicted, minlength=n_classes**2)
    return counts.reshape(n_classes, n_classes)


def scores_of_confusion(confusion: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Return the metrics that a table of true and predicted classes gives, for any number of tables.

    Parameters
    ----------
    confusion : ndarray, (..., classes, classes)
        Rows are true, columns predicted classes; counts of at least one unit each.

    Returns
    -------
    dict
        ``accuracy``, ``balanced_accuracy``, ``macro_f1`` and ``kappa``, each of shape ``(...)``.
        ``kappa`` is (p_o - p_e) / (1 - p_e): Cohen, Educational and Psychological Measurement 20 (1960) 37-46.
    """
    table = confusion.astype(np.float64)
    right = np.diagonal(table, axis1=-2, axis2=-1)
    true, predicted, total = table.sum(-1), table.sum(-2), table.sum((-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = right / true
        f1 = 2 * right / (true + predicted)
        by_chance = (true * predicted).sum(-1)
        kappa = (total * right.sum(-1) - by_chance) / (total**2 - by_chance)
    return {
        "accuracy": right.sum(-1) / total,
        "balanced_accuracy": mean_over_classes(recall),
        "macro_f1": mean_over_classes(f1),
        "kappa": np.where(total**2 == by_chance, np.nan, kappa),
    }


def mean_over_classes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over the last axis without NaN; NaN if all are."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0).sum(-1) / known.sum(-1))


def ranked_scores(scores: Floats, positive: NDArray[np.bool_]) -> tuple[float, float]:
    """Return AUROC and average precision of scores.

    Equal scores stand together: a pair of them counts half for the AUROC (Mann and Whitney's U), and average
    precision is the sum over thresholds of the precision times the recall won there, without interpolation.

    Parameters
    ----------
    scores : ndarray, (n,)
        Higher means more likely positive.
    positive : ndarray of bool, (n,)
        What is positive.

    Returns
    -------
    tuple of float
        Both NaN where only one side is there, or a score is NaN.
    """
    n_positive = int(np.count_nonzero(positive))
    if n_positive in (0, len(positive)) or np.isnan(scores).any():
        return math.nan, math.nan
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last_of_equals = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
    hits = np.cumsum(positive[order])[last_of_equals]
    won = np.diff(hits, prepend=0)
    misses = last_of_equals + 1 - hits
    # Twice U, so that it is a whole number.
    twice = int((np.diff(misses, prepend=0) * (2 * hits - won)).sum())
    precision = float((won * (hits / (last_of_equals + 1))).sum()) / n_positive
    return twice / (2 * n_positive * (len(positive) - n_positive)), precision


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics as JSON takes them: NaN and infinity become None, also within lists and tables."""
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    """Return a value as JSON takes it."""
    if isinstance(value, Mapping):
        return plain(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _fractions(group: Ints, numbers: Ints, n_classes: int) -> NDArray[np.float64]:
    """Return the part of each group's tiles that is of each class, (groups, classes)."""
    counts = _counts(group, numbers, n_classes)
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def _counts(group: Ints, numbers: Ints, n_classes: int) -> Ints:
    """Return how many tiles of each group are of each class, (groups, classes)."""
    counts = np.bincount(group * n_classes + numbers, minlength=(group.max() + 1) * n_classes)
    return np.asarray(counts.reshape(-1, n_classes), np.int64)


def _scores(units: Units, classes: Sequence[str]) -> dict[str, Any]:
    """Return the scores that tiles, slides and patients share."""
    confusion = confusion_of(units.labels, units.predicted, len(classes))
    scores: dict[str, Any] = {name: float(value) for name, value in scores_of_confusion(confusion).items()}
    ranked = [ranked_scores(units.probabilities[:, k], units.labels == k) for k in range(len(classes))]
    scores["macro_auroc"] = float(mean_over_classes(np.array([auroc for auroc, _ in ranked])))
    scores |= {f"auroc/{name}": auroc for name, (auroc, _) in zip(classes, ranked, strict=True)}
    scores |= {f"average_precision/{name}": precision for name, (_, precision) in zip(classes, ranked, strict=True)}
    return {
        **scores,
        "brier": brier_score(units.probabilities, units.labels),
        "ece": calibration_error(units.probabilities, units.predicted, units.labels),
        "classwise_ece": classwise_calibration_error(units.probabilities, units.labels),
        "confusion": confusion.tolist(),
    }
