"""Confidence intervals of metrics, by resampling patients with all of their tiles.

Tiles of one slide resemble each other, and slides of one patient do: intervals over tiles would be far too
narrow. A resample draws as many patients as there are, with replacement; a patient that is drawn twice counts
twice, with every tile and slide. What a metric needs of a patient is counted once, and resamples add it up:
tables of true and predicted classes, and sums. AUROC and average precision walk once down the ranks of all
units for each resample, with the patients' counts as weights, and need no sorting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numba
import numpy as np
from numpy.typing import NDArray

from slideduck.runner.ranks import dist
from slideduck.runner.scores.metrics import (
    LEVELS,
    Units,
    fraction_errors,
    mean_over_classes,
    scores_of_confusion,
    units_of,
)
from slideduck.runner.scores.predictions import ClassPredictions

__all__ = [
    "MIN_PATIENTS",
    "RESAMPLES",
    "draw_patients",
    "intervals",
    "mean_in_resamples",
    "percentiles",
    "too_few",
    "weighted_ranked_scores",
]

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]

RESAMPLES = 1000
#: With fewer patients percentiles of resamples say next to nothing of the population.
MIN_PATIENTS = 5
#: Part of the resamples that a metric must be defined in: a class that two patients have is missing from one
#: resample in seven, and what is left of them would be another question.
_DEFINED = 0.95


def intervals(
    predictions: ClassPredictions,
    slides: Ints,
    patients: Ints,
    classes: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the 95 % intervals of the metrics of `slideduck.runner.scores.metrics.compute_metrics`.

    They are the 2.5th and 97.5th percentiles over resamples of patients, by linear interpolation
    (B. Efron and R. Tibshirani, An introduction to the bootstrap, 1993, chapter 13).

    Parameters
    ----------
    predictions : ClassPredictions
        At least one tile.
    slides, patients : ndarray of int64, (n,)
        Number of each tile's slide and patient; patients are drawn in order of their numbers.
    classes : sequence of str
        Names of the classes, in order of their numbers.
    resamples : int
        Resamples.
    seed : int
        The same seed gives the same intervals, whatever the order of tiles.

    Returns
    -------
    dict
        ``ci95/NAME`` for the name of each metric but calibration errors, whose resamples are biased: a list of
        two, or None where less than 95 % of the resamples define the metric; and ``ci95/patients``,
        ``ci95/resamples`` and ``ci95/seed``. With fewer than `MIN_PATIENTS` patients there is only ``ci95/patients``
        and ``ci95/note``, a sentence that says why.
    """
    numbers, patient_of_tile = np.unique(patients, return_inverse=True)
    n_patients = len(numbers)
    if n_patients < MIN_PATIENTS:
        return too_few(n_patients)
    # Sums are then the same to the last digit, whatever the order of tiles.
    order = np.lexsort((*predictions.log_probabilities.T, predictions.labels, slides, patient_of_tile))
    predictions = predictions.take(order)
    slides, patient_of_tile = slides[order], patient_of_tile[order]
    counts = draw_patients(n_patients, resamples, seed)
    of_label = predictions.log_probabilities[np.arange(len(order)), predictions.labels].astype(np.float64)
    found = {"loss": mean_in_resamples(counts, -of_label, patient_of_tile)}
    for level, groups in (("tiles", None), ("slides", slides), ("patients", patient_of_tile)):
        units = units_of(predictions, groups)
        patient = patient_of_tile
        if groups is not None:
            patient = patient_of_tile[np.unique(groups, return_index=True)[1]]
        of_level = _scores(counts, units, patient, classes)
        if groups is not None:
            of_level["fraction_error"] = mean_in_resamples(counts, fraction_errors(predictions, groups), patient)
        found |= {LEVELS[level] + name: values for name, values in of_level.items()}
    return {
        **{f"ci95/{name}": percentiles(values) for name, values in found.items()},
        "ci95/patients": n_patients,
        "ci95/resamples": resamples,
        "ci95/seed": seed,
    }


def too_few(n_patients: int) -> dict[str, Any]:
    """Return what stands in place of intervals where there are fewer than `MIN_PATIENTS` patients."""
    note = (
        f"no confidence intervals: the tiles are of {n_patients} patient{'' if n_patients == 1 else 's'}, "
        f"and resampling needs at least {MIN_PATIENTS}"
    )
    return {"ci95/patients": n_patients, "ci95/note": note}


def draw_patients(n_patients: int, resamples: int, seed: int) -> Ints:
    """Return how often each patient is in each resample, (resamples, patients)."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, n_patients])))
    drawn = rng.integers(0, n_patients, (resamples, n_patients))
    drawn += np.arange(resamples)[:, None] * n_patients
    return np.bincount(drawn.ravel(), minlength=resamples * n_patients).reshape(resamples, n_patients)


def weighted_ranked_scores(
    scores: Floats, positive: NDArray[np.bool_], patient: Ints, counts: Ints
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return AUROC and average precision in each resample.

    Parameters
    ----------
    scores : ndarray, (n,)
        Higher means more likely positive.
    positive : ndarray of bool, (n,)
        What is positive.
    patient : ndarray of int64, (n,)
        Number of each unit's patient, from 0.
    counts : ndarray of int64, (resamples, patients)
        How often each patient counts.

    Returns
    -------
    tuple of ndarray, (resamples,)
        As of `slideduck.runner.scores.metrics.ranked_scores` on the units, each as often as its patient.
    """
    auroc, precision = np.full(len(counts), np.nan), np.full(len(counts), np.nan)
    if len(scores) and not np.isnan(scores).any():
        order = np.argsort(-scores, kind="stable")
        ordered = scores[order]
        is_last = np.append(ordered[1:] != ordered[:-1], True)
        _walk(patient[order], positive[order], is_last, counts, auroc, precision)
    return auroc, precision


def _walk_ranks(
    patient: Ints,
    positive: NDArray[np.bool_],
    is_last: NDArray[np.bool_],
    counts: Ints,
    auroc: NDArray[np.float64],
    precision: NDArray[np.float64],
) -> None:
    """Walk down the ranks once for each resample; `is_last` marks the last of equal scores."""
    # No branch depends on the units: which are positive, and won, is what processors cannot guess.
    for resample in range(len(counts)):
        weights = counts[resample]
        hits, total, hits_before, total_before, twice = 0, 0, 0, 0, 0
        gained = 0.0
        for i in range(len(patient)):
            weight = weights[patient[i]]
            hits += weight * positive[i]
            total += weight
            if is_last[i]:
                won = hits - hits_before
                gained += won * (hits / max(total, 1))
                twice += (total - total_before - won) * (hits + hits_before)
                hits_before, total_before = hits, total
        misses = total - hits
        if hits and misses:
            # In floating point: the product of two counts may leave the integers of numba.
            auroc[resample] = (twice / 2.0) / (float(hits) * float(misses))
            precision[resample] = gained / hits


_walk = cast(Callable[..., None], numba.njit(nogil=True)(_walk_ranks))


def _scores(counts: Ints, units: Units, patient: Ints, classes: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Return the scores that tiles, slides and patients share, in each resample."""
    n_patients, n_classes = counts.shape[1], len(classes)
    cell = (patient * n_classes + units.labels) * n_classes + units.predicted
    tables = np.bincount(cell, minlength=n_patients * n_classes**2).reshape(n_patients, -1)
    # Counts are whole numbers, which products of doubles give exactly, and fast.
    confusion = (counts.astype(np.float64) @ tables.astype(np.float64)).reshape(-1, n_classes, n_classes)
    scores = scores_of_confusion(confusion)
    with ThreadPoolExecutor(min(dist.cores(), n_classes)) as pool:
        ranked = list(
            pool.map(
                lambda k: weighted_ranked_scores(units.probabilities[:, k], units.labels == k, patient, counts),
                range(n_classes),
            )
        )
    scores["macro_auroc"] = mean_over_classes(np.stack([auroc for auroc, _ in ranked], axis=1))
    scores |= {f"auroc/{name}": auroc for name, (auroc, _) in zip(classes, ranked, strict=True)}
    scores |= {f"average_precision/{name}": precision for name, (_, precision) in zip(classes, ranked, strict=True)}
    truth = np.arange(n_classes) == units.labels[:, None]
    scores["brier"] = mean_in_resamples(counts, ((units.probabilities - truth) ** 2).sum(axis=1), patient)
    return scores


def mean_in_resamples(counts: Ints, values: NDArray[np.float64], patient: Ints) -> NDArray[np.float64]:
    """Return the mean of values of units in each resample."""
    n_patients = counts.shape[1]
    sums = np.bincount(patient, values, n_patients)
    return np.asarray((counts * sums).sum(axis=1) / (counts * np.bincount(patient, minlength=n_patients)).sum(axis=1))


def percentiles(values: NDArray[np.float64]) -> list[float] | None:
    """Return the percentiles of the defined values, or None if too few are."""
    defined = values[np.isfinite(values)]
    if len(defined) < _DEFINED * len(values):
        return None
    return [float(bound) for bound in np.percentile(defined, [2.5, 97.5])]
