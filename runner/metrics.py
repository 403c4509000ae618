"""How good predictions are, tile by tile and slide by slide.

All numbers are computed in one process, in double precision, from predictions in order of row, so that
they do not depend on how many processes predicted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import binary_auroc, multiclass_confusion_matrix

from slideduck.errors import RunError

__all__ = ["Predictions", "collect", "compute_metrics", "plain"]

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Predictions:
    """What a model says of tiles, in order of their rows in the beton.

    Attributes
    ----------
    rows : ndarray of int64, (n,)
        Rows of the beton, ascending.
    labels : ndarray of int64, (n,)
        True class numbers.
    log_probabilities : ndarray of float32, (n, classes)
        Natural logarithms of the probabilities.
    """

    rows: Ints
    labels: Ints
    log_probabilities: Floats

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Probability of each class, (n, classes); each row sums to 1."""
        odds = np.exp(self.log_probabilities.astype(np.float64))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))

    @property
    def predicted(self) -> Ints:
        """Class number of the greatest probability; the lesser number where two are equal."""
        return np.asarray(self.log_probabilities.argmax(axis=1), np.int64)


def collect(parts: Sequence[Predictions], expected_rows: Ints) -> Predictions:
    """Join the predictions of all ranks, in order of row.

    Parameters
    ----------
    parts : sequence of Predictions
        One a rank, in any order.
    expected_rows : ndarray of int64
        The rows that were to be predicted.

    Raises
    ------
    RunError
        Unless each expected row came exactly once.
    """
    rows = np.concatenate([part.rows for part in parts])
    order = np.argsort(rows, kind="stable")
    if not np.array_equal(rows[order], np.sort(expected_rows)):
        came, counts = np.unique(rows, return_counts=True)
        missing = np.setdiff1d(expected_rows, came)
        raise RunError(
            f"of {len(expected_rows)} tiles {len(missing)} were not predicted and "
            f"{np.count_nonzero(counts > 1)} more than once; this is a fault of slideduck, please report it"
        )
    return Predictions(
        rows[order],
        np.concatenate([part.labels for part in parts])[order],
        np.concatenate([part.log_probabilities for part in parts])[order],
    )


def compute_metrics(predictions: Predictions, slides: Ints, classes: Sequence[str]) -> dict[str, Any]:
    """Return the metrics of predictions at tile and at slide level.

    A slide's true class is that of most of its tiles (the lesser number where two are equal), and its
    score the mean of its tiles' probabilities.

    Parameters
    ----------
    predictions : Predictions
        At least one tile; every label is a class number.
    slides : ndarray of int64, (n,)
        Number of each tile's slide.
    classes : sequence of str
        Names of the classes, in order of their numbers.

    Returns
    -------
    dict
        ``loss`` (mean cross-entropy, nats, not weighted), ``accuracy``, ``balanced_accuracy`` (mean recall
        of the classes that are there), ``auroc/CLASS`` (one against the rest; NaN where only one side is
        there), ``confusion`` (rows: true class, columns: predicted, both by number), ``tiles``; the same
        under ``slide/``, with ``slide/slides`` for their number and ``slide/fraction_error``: the mean,
        over slides and classes, of the difference between the part of a slide's tiles that is
        predicted to be of a class and the part that is.
    """
    labels, probabilities = predictions.labels, predictions.probabilities
    of_label = predictions.log_probabilities[np.arange(len(labels)), labels].astype(np.float64)
    _, slide_of_tile = np.unique(slides, return_inverse=True)
    true_fractions = _fractions(slide_of_tile, labels, len(classes))
    predicted_fractions = _fractions(slide_of_tile, predictions.predicted, len(classes))
    n_tiles = np.bincount(slide_of_tile).astype(np.float64)
    scores = np.stack([np.bincount(slide_of_tile, probabilities[:, k]) / n_tiles for k in range(len(classes))], axis=1)
    of_slides = _scores(scores, scores.argmax(axis=1), true_fractions.argmax(axis=1), classes)
    return {
        "loss": -float(of_label.mean()),
        **_scores(probabilities, predictions.predicted, labels, classes),
        "tiles": len(labels),
        **{f"slide/{name}": value for name, value in of_slides.items()},
        "slide/fraction_error": float(np.abs(predicted_fractions - true_fractions).mean()),
        "slide/slides": len(n_tiles),
    }


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics as JSON takes them: NaN and infinity become None."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }


def _fractions(slide_of_tile: Ints, numbers: Ints, n_classes: int) -> NDArray[np.float64]:
    """Return the part of each slide's tiles that is of each class, (slides, classes)."""
    counts = np.bincount(slide_of_tile * n_classes + numbers, minlength=(slide_of_tile.max() + 1) * n_classes)
    counts = counts.reshape(-1, n_classes)
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def _scores(probabilities: Floats, predicted: Ints, labels: Ints, classes: Sequence[str]) -> dict[str, Any]:
    """Return what is the same for tiles and for slides."""
    truth = torch.from_numpy(labels)
    confusion = multiclass_confusion_matrix(torch.from_numpy(predicted), truth, num_classes=len(classes)).numpy()
    support = confusion.sum(axis=1)
    recalls = np.diag(confusion)[support > 0] / support[support > 0]
    scores = {
        "accuracy": float(np.trace(confusion) / confusion.sum()),
        "balanced_accuracy": float(recalls.mean()),
    }
    for number, name in enumerate(classes):
        is_class = (truth == number).long()
        both_sides = 0 < int(is_class.sum()) < len(labels)
        column = torch.from_numpy(np.ascontiguousarray(probabilities[:, number]))
        scores[f"auroc/{name}"] = float(binary_auroc(column, is_class)) if both_sides else math.nan
    return {**scores, "confusion": confusion.tolist()}
