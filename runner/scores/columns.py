"""How good predictions of several labels or of numbers are, output by output, for tiles, slides and patients.

As in `slideduck.runner.scores.metrics`, all is computed in one process, in double precision, in order of row. A
slide's target and prediction are the means over its tiles, and a patient's over the tiles of all slides: a slide has a
label if half of its tiles or more have it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slideduck.runner.scores.metrics import ranked_scores
from slideduck.runner.scores.predictions import THRESHOLD, LabelPredictions, NumberPredictions

__all__ = ["label_losses", "label_metrics", "means_of", "number_losses", "number_metrics"]

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]


def label_metrics(predictions: LabelPredictions, slides: Ints, patients: Ints, names: Sequence[str]) -> dict[str, Any]:
    """Return the metrics of predictions of several labels.

    Parameters
    ----------
    predictions : LabelPredictions
        Of at least one tile.
    slides, patients : ndarray of int64, (n,)
        Numbers of each tile's slide and patient.
    names : sequence of str
        Names of the labels, in order of their columns.

    Returns
    -------
    dict
        ``loss`` (mean binary cross-entropy, nats, not weighted), ``auroc/NAME``, ``ap/NAME`` (average
        precision), ``f1/NAME`` at a probability of a half, and their means ``mean_auroc``, ``mean_ap`` and
        ``mean_f1`` over the labels that some have and some have not (NaN for the others); ``tiles``; and all but
        the loss under ``slide/`` and ``patient/``, with ``slide/slides`` and ``patient/patients`` for their numbers,
        ``slide/mixed`` for the number of slides of whose tiles some have a label and some have not, and ``slide/ties``
        for those where exactly half of them have it.
    """
    truth = predictions.targets.astype(np.float64)
    result = {
        "loss": float(label_losses(predictions).mean()),
        **_of_levels(partial(_label_scores, names=names), truth, predictions.probabilities, slides, patients),
    }
    for level, groups in (("slide", slides), ("patient", patients)):
        parts = means_of(truth, groups)
        result[f"{level}/mixed"] = int(np.count_nonzero(((parts > 0) & (parts < 1)).any(axis=1)))
        result[f"{level}/ties"] = int(np.count_nonzero((parts == THRESHOLD).any(axis=1)))
    return result


def label_losses(predictions: LabelPredictions) -> Doubles:
    """Return the mean binary cross-entropy of each tile, nats, (n,)."""
    said = predictions.log_probabilities
    # The logarithm of 1 - p, exact where p is near 1.
    logs = np.where(predictions.targets > 0.5, said, np.log(-np.expm1(np.minimum(said, -1e-12))))
    return np.asarray(-logs.mean(axis=1))


def number_losses(predictions: NumberPredictions, std: Doubles) -> Doubles:
    """Return the mean squared error of the standardised numbers of each tile, (n,)."""
    errors = (predictions.numbers - predictions.targets.astype(np.float64)) / std
    return np.asarray((errors**2).mean(axis=1))


def number_metrics(
    predictions: NumberPredictions, slides: Ints, patients: Ints, names: Sequence[str], std: Doubles
) -> dict[str, Any]:
    """Return the metrics of predictions of numbers.

    Parameters
    ----------
    predictions : NumberPredictions
        Of at least one tile.
    slides, patients : ndarray of int64, (n,)
        Numbers of each tile's slide and patient.
    names : sequence of str
        Names of the columns.
    std : ndarray of float64, (columns,)
        Deviation of each over the training tiles, which the loss is counted in.

    Returns
    -------
    dict
        ``loss`` (mean squared error of the standardised numbers), ``mae/NAME``, ``rmse/NAME``, ``r2/NAME`` and
        ``pearson/NAME``, in the column's unit, and ``mean_mae``, ``mean_rmse``, ``mean_r2``, ``mean_pearson``
        over the columns; ``tiles``; and all but the loss under ``slide/`` and ``patient/``, with ``slide/slides``
        and ``patient/patients`` for their numbers.
    """
    truth, said = predictions.targets.astype(np.float64), predictions.numbers
    loss = float(number_losses(predictions, std).mean())
    scores = partial(_number_scores, names=names)
    return {"loss": loss, **_of_levels(scores, truth, said, slides, patients)}


def _of_levels(
    scores: Callable[[Doubles, Doubles], dict[str, Any]], truth: Doubles, values: Doubles, slides: Ints, patients: Ints
) -> dict[str, Any]:
    """Return the scores of tiles, slides and patients."""
    result = {**scores(truth, values), "tiles": len(truth)}
    for level, groups in (("slide", slides), ("patient", patients)):
        parts = means_of(truth, groups)
        of_level = scores(parts, means_of(values, groups))
        result |= {f"{level}/{name}": value for name, value in of_level.items()}
        result[f"{level}/{level}s"] = len(parts)
    return result


def means_of(values: Doubles, groups: Ints) -> Doubles:
    """Return the means over groups in order of their numbers, (groups, outputs)."""
    _, number = np.unique(groups, return_inverse=True)
    counts = np.bincount(number).astype(np.float64)
    return np.stack([np.bincount(number, column) / counts for column in values.T], axis=1)


def _label_scores(truth: Doubles, values: Doubles, names: Sequence[str]) -> dict[str, Any]:
    """Return the scores of labels, the same at each level."""
    scores: dict[str, Any] = {}
    for number, name in enumerate(names):
        has, found = truth[:, number] >= THRESHOLD, values[:, number] >= THRESHOLD
        both = 0 < int(has.sum()) < len(has)
        # Alone among scores it is defined by what is predicted too; but of one side alone it says nothing.
        f1 = 2 * int((has & found).sum()) / int(has.sum() + found.sum()) if both else math.nan
        scores[f"auroc/{name}"], scores[f"ap/{name}"] = ranked_scores(values[:, number], has)
        scores[f"f1/{name}"] = f1
    return _with_means(scores, ("auroc", "ap", "f1"), names)


def _number_scores(truth: Doubles, values: Doubles, names: Sequence[str]) -> dict[str, Any]:
    """Return the scores of numbers, the same at each level."""
    scores: dict[str, Any] = {}
    for number, name in enumerate(names):
        is_so, said = truth[:, number], values[:, number]
        error, of_truth, of_said = said - is_so, is_so - is_so.mean(), said - said.mean()
        # Means over the tiles of a slide may differ in their last digit.
        varies = bool(np.ptp(is_so) > 1e-12 * np.abs(is_so).max())
        both_vary = varies and bool(said.std() > 1e-12)
        scores[f"mae/{name}"] = float(np.abs(error).mean())
        scores[f"rmse/{name}"] = math.sqrt(float((error**2).mean()))
        scores[f"r2/{name}"] = 1 - float((error**2).sum() / (of_truth**2).sum()) if varies else math.nan
        joint = (
            float((of_truth * of_said).sum()) / math.sqrt(float((of_truth**2).sum()) * float((of_said**2).sum()))
            if both_vary
            else math.nan
        )
        scores[f"pearson/{name}"] = joint
    return _with_means(scores, ("mae", "rmse", "r2", "pearson"), names)


def _with_means(scores: dict[str, Any], kinds: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """Return scores with their means over outputs before them."""
    means = {}
    for kind in kinds:
        known = [scores[f"{kind}/{name}"] for name in names if not math.isnan(scores[f"{kind}/{name}"])]
        means[f"mean_{kind}"] = math.fsum(known) / len(known) if known else math.nan
    return {**means, **scores}
