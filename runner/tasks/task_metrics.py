"""How good predictions of several labels or of numbers are, for tiles, slides and patients.

As in `slideduck.runner.scores.metrics`, all is computed in one process, in double precision, in order of row. A
slide's target and prediction are the means over its tiles, and a patient's over the tiles of all slides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import binary_auroc, binary_average_precision, binary_f1_score
from torchmetrics.functional.regression import mean_absolute_error, mean_squared_error, pearson_corrcoef, r2_score

from slideduck.betons import Sidecar
from slideduck.runner.runs.checkpoint import write_whole
from slideduck.runner.scores.metrics import Predictions
from slideduck.runner.tasks.objective import Objective

__all__ = ["compute_task_metrics", "task_metrics_of", "write_task_predictions"]

Doubles = NDArray[np.float64]


def compute_task_metrics(
    objective: Objective, predictions: Predictions, slides: NDArray[np.int64], patients: NDArray[np.int64]
) -> dict[str, Any]:
    """Return the metrics of predictions of several labels, or of numbers.

    Parameters
    ----------
    objective : Objective
        The task and the names.
    predictions : Predictions
        Of at least one tile: ``labels`` are targets, (n, outputs), and ``log_probabilities`` what
        `Objective.activate` gave.
    slides, patients : ndarray of int64, (n,)
        Numbers of each tile's slide and patient.

    Returns
    -------
    dict
        For labels: ``loss`` (mean binary cross-entropy, nats, not weighted), ``auroc/NAME``, ``ap/NAME`` (average
        precision), ``f1/NAME`` at a probability of a half, and their means ``mean_auroc``, ``mean_ap`` and
        ``mean_f1`` over the labels that some have and some have not (NaN for the others). For numbers:
        ``loss`` (mean squared error of the standardised numbers), ``mae/NAME``, ``rmse/NAME``, ``r2/NAME`` and
        ``pearson/NAME``, in the column's unit, and ``mean_mae``, ``mean_rmse``, ``mean_r2``, ``mean_pearson``
        over the columns. ``tiles``; and all but the loss under ``slide/`` and ``patient/``, with
        ``slide/slides`` and ``patient/patients`` for their numbers.
    """
    truth = predictions.labels.astype(np.float64)
    said = predictions.log_probabilities.astype(np.float64)
    if objective.task == "multi-label":
        # The logarithm of 1 - p, exact where p is near 1.
        logs = np.where(truth > 0.5, said, np.log(-np.expm1(np.minimum(said, -1e-12))))
        loss, values, scores = -float(logs.mean()), np.exp(said), _label_scores
    else:
        std = objective.std.double().cpu().numpy()
        loss, values, scores = float((((said - truth) / std) ** 2).mean()), said, _number_scores
    result = {"loss": loss, **scores(truth, values, objective.names), "tiles": len(truth)}
    for level, groups in (("slide", slides), ("patient", patients)):
        _, number = np.unique(groups, return_inverse=True)
        of_level = scores(_means(truth, number), _means(values, number), objective.names)
        result |= {f"{level}/{name}": value for name, value in of_level.items()}
        result[f"{level}/{level}s"] = int(number.max()) + 1
    return result


def task_metrics_of(objective: Objective, predictions: Predictions, sidecar: Sidecar) -> dict[str, Any]:
    """Return the metrics of predictions of a beton's tiles; see `compute_task_metrics`."""
    rows = predictions.rows
    _, patients = np.unique(sidecar.tile_patient[rows].astype(str), return_inverse=True)
    return compute_task_metrics(objective, predictions, sidecar.slide[rows].astype(np.int64), patients)


def write_task_predictions(
    path: Path, objective: Objective, predictions: Predictions, sidecar: Sidecar, facts: dict[str, str]
) -> None:
    """Write predictions of several labels or of numbers as Parquet: one row a tile, in the order of the beton.

    Columns are ``tile_id, slide, patient``, then for each output ``true_NAME`` and ``prob_NAME`` (labels) or
    ``predicted_NAME`` (numbers).
    """
    rows = predictions.rows
    columns: dict[str, object] = {
        "tile_id": pa.array(sidecar.tile_id[rows], pa.string()),
        "slide": pa.array(sidecar.tile_slide[rows], pa.string()),
        "patient": pa.array(sidecar.tile_patient[rows], pa.string()),
    }
    is_labels = objective.task == "multi-label"
    said = predictions.log_probabilities.astype(np.float64)
    values = np.exp(said) if is_labels else said
    for number, name in enumerate(objective.names):
        truth = predictions.labels[:, number]
        columns[f"true_{name}"] = pa.array(truth > 0.5) if is_labels else pa.array(truth.astype(np.float64))
        columns[f"{'prob' if is_labels else 'predicted'}_{name}"] = pa.array(values[:, number], pa.float64())
    table = pa.table(columns).replace_schema_metadata(facts)
    write_whole(path, lambda file: pq.write_table(table, file))


def _means(values: Doubles, number: NDArray[np.int64]) -> Doubles:
    """Return the means over groups, (groups, outputs)."""
    counts = np.bincount(number).astype(np.float64)
    return np.stack([np.bincount(number, column) / counts for column in values.T], axis=1)


def _label_scores(truth: Doubles, values: Doubles, names: Sequence[str]) -> dict[str, Any]:
    """Return what is the same of labels at each level."""
    scores: dict[str, Any] = {}
    for number, name in enumerate(names):
        has = torch.from_numpy(truth[:, number] >= 0.5).long()
        said = torch.from_numpy(np.ascontiguousarray(values[:, number]))
        both = 0 < int(has.sum()) < len(has)
        scores[f"auroc/{name}"] = float(binary_auroc(said, has)) if both else math.nan
        scores[f"ap/{name}"] = float(binary_average_precision(said, has)) if both else math.nan
        scores[f"f1/{name}"] = float(binary_f1_score((said >= 0.5).long(), has)) if both else math.nan
    return _with_means(scores, ("auroc", "ap", "f1"), names)


def _number_scores(truth: Doubles, values: Doubles, names: Sequence[str]) -> dict[str, Any]:
    """Return what is the same of numbers at each level."""
    scores: dict[str, Any] = {}
    for number, name in enumerate(names):
        is_so = torch.from_numpy(np.ascontiguousarray(truth[:, number]))
        said = torch.from_numpy(np.ascontiguousarray(values[:, number]))
        varies = len(is_so) > 1 and bool(is_so.std() > 0)
        scores[f"mae/{name}"] = float(mean_absolute_error(said, is_so))
        scores[f"rmse/{name}"] = float(mean_squared_error(said, is_so, squared=False))
        scores[f"r2/{name}"] = float(r2_score(said, is_so)) if varies else math.nan
        both_vary = varies and bool(said.std() > 1e-12)
        scores[f"pearson/{name}"] = float(pearson_corrcoef(said, is_so)) if both_vary else math.nan
    return _with_means(scores, ("mae", "rmse", "r2", "pearson"), names)


def _with_means(scores: dict[str, Any], kinds: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """Return scores with their means over outputs before them."""
    means = {}
    for kind in kinds:
        known = [scores[f"{kind}/{name}"] for name in names if not math.isnan(scores[f"{kind}/{name}"])]
        means[f"mean_{kind}"] = math.fsum(known) / len(known) if known else math.nan
    return {**means, **scores}
