"""Confidence intervals of the metrics of several labels and of numbers, by resampling patients with all of their tiles.

As in `slideduck.runner.scores.bootstrap`: what a metric needs of a patient is counted once, and resamples add it up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slideduck.runner.scores.bootstrap import (
    MIN_PATIENTS,
    RESAMPLES,
    draw_patients,
    mean_in_resamples,
    percentiles,
    too_few,
    weighted_ranked_scores,
)
from slideduck.runner.scores.columns import means_of
from slideduck.runner.scores.metrics import LEVELS, mean_over_classes
from slideduck.runner.scores.predictions import THRESHOLD, LabelPredictions, NumberPredictions

__all__ = ["column_intervals"]

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
Scores = Callable[[Ints, Doubles, Doubles, Ints], dict[str, Doubles]]


def column_intervals(
    predictions: LabelPredictions | NumberPredictions,
    losses: Doubles,
    slides: Ints,
    patients: Ints,
    names: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the 95 % intervals of the metrics of `slideduck.runner.scores.columns`.

    Parameters
    ----------
    predictions : LabelPredictions or NumberPredictions
        At least one tile.
    losses : ndarray of float64, (n,)
        Loss of each tile.
    slides, patients : ndarray of int64, (n,)
        Number of each tile's slide and patient; patients are drawn in order of their numbers.
    names : sequence of str
        Names of the outputs.
    resamples, seed : int
        As in `slideduck.runner.scores.bootstrap.intervals`.

    Returns
    -------
    dict
        As from `slideduck.runner.scores.bootstrap.intervals`.
    """
    numbers, patient_of_tile = np.unique(patients, return_inverse=True)
    if len(numbers) < MIN_PATIENTS:
        return too_few(len(numbers))
    # Sums are then the same to the last digit, whatever the order of tiles.
    order = np.lexsort((*predictions.outputs.T, *predictions.targets.T, slides, patient_of_tile))
    predictions, losses = predictions.take(order), losses[order]
    slides, patient_of_tile = slides[order], patient_of_tile[order]
    truth = predictions.targets.astype(np.float64)
    said = predictions.probabilities if isinstance(predictions, LabelPredictions) else predictions.numbers
    scores: Scores = partial(
        _label_scores if isinstance(predictions, LabelPredictions) else _number_scores, names=names
    )
    counts = draw_patients(len(numbers), resamples, seed)
    found = {"loss": mean_in_resamples(counts, losses, patient_of_tile), **scores(counts, truth, said, patient_of_tile)}
    for level, groups in (("slides", slides), ("patients", patient_of_tile)):
        patient = patient_of_tile[np.unique(groups, return_index=True)[1]]
        of_level = scores(counts, means_of(truth, groups), means_of(said, groups), patient)
        found |= {LEVELS[level] + name: values for name, values in of_level.items()}
    return {
        **{f"ci95/{name}": percentiles(values) for name, values in found.items()},
        "ci95/patients": len(numbers),
        "ci95/resamples": resamples,
        "ci95/seed": seed,
    }


def _label_scores(
    counts: Ints, truth: Doubles, values: Doubles, patient: Ints, names: Sequence[str]
) -> dict[str, Doubles]:
    """Return the scores of labels in each resample."""
    scores: dict[str, Doubles] = {}
    for number, name in enumerate(names):
        has, found = truth[:, number] >= THRESHOLD, values[:, number] >= THRESHOLD
        auroc, precision = weighted_ranked_scores(values[:, number], has, patient, counts)
        hits, positive, said, units = _sums(counts, patient, has & found, has, found, np.ones(len(has)))
        with np.errstate(invalid="ignore"):
            f1 = np.where((positive > 0) & (positive < units), 2 * hits / (positive + said), np.nan)
        scores |= {f"auroc/{name}": auroc, f"ap/{name}": precision, f"f1/{name}": f1}
    return _with_means(scores, ("auroc", "ap", "f1"), names)


def _number_scores(
    counts: Ints, truth: Doubles, values: Doubles, patient: Ints, names: Sequence[str]
) -> dict[str, Doubles]:
    """Return the scores of numbers in each resample."""
    scores: dict[str, Doubles] = {}
    for number, name in enumerate(names):
        # Around their means, sums of squares lose no digits.
        is_so, said = truth[:, number] - truth[:, number].mean(), values[:, number] - truth[:, number].mean()
        error = said - is_so
        columns = (np.ones(len(said)), np.abs(error), error**2, is_so, said, is_so**2, said**2, is_so * said)
        n, absolute, squared, t, s, tt, ss, ts = _sums(counts, patient, *columns)
        of_truth, of_said, of_both = tt - t**2 / n, ss - s**2 / n, ts - t * s / n
        varies = of_truth > 1e-12 * tt
        both_vary = varies & (of_said > 1e-12 * ss)
        with np.errstate(divide="ignore", invalid="ignore"):
            scores |= {
                f"mae/{name}": absolute / n,
                f"rmse/{name}": np.sqrt(squared / n),
                f"r2/{name}": np.where(varies, 1 - squared / of_truth, np.nan),
                f"pearson/{name}": np.where(both_vary, of_both / np.sqrt(of_truth * of_said), np.nan),
            }
    return _with_means(scores, ("mae", "rmse", "r2", "pearson"), names)


def _with_means(scores: dict[str, Doubles], kinds: Sequence[str], names: Sequence[str]) -> dict[str, Doubles]:
    """Return scores with their means over the outputs that define them."""
    means = {
        f"mean_{kind}": mean_over_classes(np.stack([scores[f"{kind}/{name}"] for name in names], axis=1))
        for kind in kinds
    }
    return {**means, **scores}


def _sums(counts: Ints, patient: Ints, *columns: NDArray[Any]) -> list[Doubles]:
    """Return the sum of each column over the units of each resample."""
    n_patients = counts.shape[1]
    of_patients = np.stack([np.bincount(patient, column.astype(np.float64), n_patients) for column in columns], axis=1)
    return list((counts.astype(np.float64) @ of_patients).T)
