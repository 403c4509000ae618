"""The assessment of predictions: metrics with intervals, calibration, thresholds, tables by column."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slideduck.betons import Sidecar
from slideduck.catalog.evaluations import PredictionFile, read_prediction_file
from slideduck.errors import ConfigError, RunError
from slideduck.runner.scores.bootstrap import RESAMPLES, intervals
from slideduck.runner.scores.calibration import (
    apply_thresholds,
    calibration_error,
    choose_thresholds,
    fit_temperature,
    reliability,
    with_temperature,
)
from slideduck.runner.scores.column_bootstrap import column_intervals
from slideduck.runner.scores.columns import label_metrics, means_of, number_metrics
from slideduck.runner.scores.metrics import LEVELS, compute_metrics, plain, units_of
from slideduck.runner.scores.notes import absent_of, notes_of
from slideduck.runner.scores.predictions import (
    THRESHOLD,
    ClassPredictions,
    LabelPredictions,
    NumberPredictions,
    Predictions,
)
from slideduck.runner.settings.jsonfile import read_object
from slideduck.runner.settings.train_config import BY_COLUMNS
from slideduck.runner.tiles.conditions import tile_table

__all__ = [
    "JudgedUnits",
    "PredictedTiles",
    "assess",
    "assess_file",
    "judged_units",
    "metrics_by",
    "numbers_of",
    "patient_numbers",
    "read_predictions",
    "read_temperature",
    "read_thresholds",
    "tile_columns",
]

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PredictedTiles:
    """Predictions of labelled tiles, with the tiles' names.

    Attributes
    ----------
    predictions : Predictions
        Of the task's kind; their rows are those of the file, from 0.
    losses : ndarray of float64, (n,)
        Loss of each tile.
    tile_id, slide, patient : ndarray of object (str), (n,)
        Names.
    classes : tuple of str
        Names of the outputs: classes, labels or columns of numbers.
    facts : dict of str
        What the file says of itself, such as ``run`` and ``epoch``.
    path : Path
        The file.
    task : str
        As in the settings.
    """

    predictions: Predictions
    losses: NDArray[np.float64]
    tile_id: NDArray[np.object_]
    slide: NDArray[np.object_]
    patient: NDArray[np.object_]
    classes: tuple[str, ...]
    facts: dict[str, str]
    path: Path
    task: str

    def refuse(self, remedy: str) -> RunError:
        """Return the error for predictions of a task that something is not for; `remedy` says what is."""
        return RunError(f"{self.path}: predictions of task {self.task!r}; {remedy}")


def read_predictions(path: Path | str) -> PredictedTiles:
    """Read the predictions that a run made of its validation tiles, or that `evaluate` wrote.

    Raises
    ------
    RunError
        If there is no such file, or it is none of ours.
    """
    file = read_prediction_file(path)
    tile_id, slide, patient = (
        np.asarray(file.table[name].to_numpy(zero_copy_only=False), object) for name in ("tile_id", "slide", "patient")
    )
    losses = file.table["loss"].to_numpy().astype(np.float64)
    return PredictedTiles(
        _predictions(file), losses, tile_id, slide, patient, file.classes, file.facts, file.path, file.task
    )


def _predictions(file: PredictionFile) -> Predictions:
    """Return the predictions in a file, of its task's kind."""
    rows = np.arange(file.table.num_rows)
    if file.task == "regression":
        return NumberPredictions(rows, file.outputs("true_"), file.outputs("predicted_"))
    # A probability that was too small for its type is the smallest one: its logarithm is then a number.
    logs = np.log(np.maximum(file.probabilities, np.finfo(np.float64).smallest_subnormal))
    if file.task == "multi-label":
        return LabelPredictions(rows, file.outputs("true_"), logs)
    number = {name: i for i, name in enumerate(file.classes)}
    codes, names = _numbered(file.table["label"])
    labels = np.array([number[name] for name in names], np.int64)[codes]
    return ClassPredictions(rows, _soft_or(labels, file.table, file.classes), logs)


def _soft_or(labels: Ints, table: pa.Table, classes: Sequence[str]) -> NDArray[Any]:
    """Return the probabilities that tiles are labelled with, where the table has them, and else the class numbers."""
    names = [f"soft_{name}" for name in classes]
    if not set(names) <= set(table.column_names):
        return labels
    return np.stack([table[name].to_numpy() for name in names], axis=1).astype(np.float32)


def assess(
    predictions: Predictions,
    losses: NDArray[np.float64],
    slides: Ints,
    patients: Ints,
    classes: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    thresholds: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return the assessment of predictions, as JSON takes it.

    Parameters
    ----------
    predictions : Predictions
        At least one tile.
    losses : ndarray of float64, (n,)
        Loss of each tile, see `slideduck.runner.tasks.task.Task.losses`; that of classes is taken from `predictions`.
    slides, patients : ndarray of int64, (n,)
        Number of each tile's slide and patient; intervals draw patients in order of their numbers.
    classes : sequence of str
        Names of the outputs, in order.
    resamples : int
        Resamples of patients for the intervals; 0 for no intervals.
    thresholds : mapping, optional
        Thresholds that were chosen elsewhere, as from `read_thresholds`.

    Returns
    -------
    dict
        ``metrics`` (see `compute_metrics` or `slideduck.runner.scores.columns`, and ``ci95/…`` of
        `slideduck.runner.scores.bootstrap.intervals`); ``notes``, what stands under a table of them, and ``absent``,
        the classes that no tile is of; and but for numbers
        ``reliability``, by level (tiles, slides, patients): the table of ``predicted``, and of each class under
        ``classes``; ``thresholds``, by level and class: those that serve these units best; ``applied_thresholds``,
        alike: what `thresholds` do here; and of classes ``temperature``: the one that gives these tiles the greatest
        likelihood (``fitted``), with the ``loss`` and ``ece`` of the tiles after it.
    """
    metrics = _metrics(predictions, losses, slides, patients, classes)
    if resamples and isinstance(predictions, ClassPredictions):
        metrics |= intervals(predictions, slides, patients, classes, resamples=resamples)
    elif resamples:
        assert isinstance(predictions, LabelPredictions | NumberPredictions)
        metrics |= column_intervals(predictions, losses, slides, patients, classes, resamples=resamples)
    metrics = plain(metrics)
    result = {"metrics": metrics, "notes": notes_of(metrics), "absent": absent_of(metrics)}
    if not isinstance(predictions, NumberPredictions):
        result |= _judged(predictions, slides, patients, classes, thresholds)
    if isinstance(predictions, ClassPredictions):
        fitted = fit_temperature(predictions.log_probabilities, predictions.labels)
        logs = with_temperature(predictions.log_probabilities, fitted)
        result["temperature"] = {
            "fitted": fitted,
            "loss": -float(logs[np.arange(len(logs)), predictions.labels].mean()),
            "ece": calibration_error(np.exp(logs), predictions.predicted, predictions.labels),
        }
    return plain(result)


def _metrics(
    predictions: Predictions, losses: NDArray[np.float64], slides: Ints, patients: Ints, names: Sequence[str]
) -> dict[str, Any]:
    """Return the metrics of predictions of any kind."""
    if isinstance(predictions, ClassPredictions):
        return compute_metrics(predictions, slides, names, patients=patients)
    if isinstance(predictions, LabelPredictions):
        return label_metrics(predictions, slides, patients, names)
    assert isinstance(predictions, NumberPredictions)
    # Numbers of several folds are standardised by the training tiles of each: the losses know.
    metrics = number_metrics(predictions, slides, patients, names, np.ones(len(names)))
    return {**metrics, "loss": float(losses.mean())}


@dataclass(frozen=True)
class JudgedUnits:
    """Units whose probabilities are judged: their truth by output, and what is said of all of it.

    Attributes
    ----------
    probabilities : ndarray of float64, (n, outputs)
        Of each class or label.
    truth : ndarray of bool, (n, outputs)
        Which of them are so.
    """

    probabilities: NDArray[np.float64]
    truth: NDArray[np.bool_]


def judged_units(predictions: Predictions, groups: Ints | None) -> JudgedUnits:
    """Return the units of a level: tiles, or groups of them."""
    if isinstance(predictions, ClassPredictions):
        units = units_of(predictions, groups)
        return JudgedUnits(units.probabilities, np.arange(units.probabilities.shape[1]) == units.labels[:, None])
    assert isinstance(predictions, LabelPredictions)
    truth, said = predictions.targets.astype(np.float64), predictions.probabilities
    if groups is not None:
        truth, said = means_of(truth, groups), means_of(said, groups)
    return JudgedUnits(said, truth >= THRESHOLD)


def _judged(
    predictions: Predictions,
    slides: Ints,
    patients: Ints,
    classes: Sequence[str],
    thresholds: Mapping[str, Mapping[str, Any]] | None,
) -> dict[str, Any]:
    """Return reliability and thresholds of each class or label, by level."""
    result: dict[str, Any] = {"reliability": {}, "thresholds": {}}
    if thresholds is not None:
        result["applied_thresholds"] = {}
    for level, groups in (("tiles", None), ("slides", slides), ("patients", patients)):
        units = judged_units(predictions, groups)
        of_level: dict[str, Any] = {}
        if isinstance(predictions, ClassPredictions):
            n, guess = np.arange(len(units.truth)), units.probabilities.argmax(axis=1)
            if groups is None:
                guess = predictions.predicted
            of_level["predicted"] = reliability(units.probabilities[n, guess], units.truth[n, guess])
        of_level["classes"] = {
            name: reliability(units.probabilities[:, number], units.truth[:, number])
            for number, name in enumerate(classes)
        }
        result["reliability"][level] = of_level
        result["thresholds"][level] = choose_thresholds(units.probabilities, units.truth, classes)
        if thresholds is not None:
            of_these = thresholds.get(level, {})
            result["applied_thresholds"][level] = apply_thresholds(units.probabilities, units.truth, classes, of_these)
    return result


def metrics_by(
    predictions: Predictions,
    losses: NDArray[np.float64],
    slides: Ints,
    patients: Ints,
    classes: Sequence[str],
    values: NDArray[np.object_],
) -> list[dict[str, Any]]:
    """Return the metrics of the tiles of each value of a column, without intervals.

    Parameters
    ----------
    values : ndarray of object, (n,)
        Value of each tile; None is a value.

    Returns
    -------
    list of dict
        In order of the values, None last: ``value`` and the metrics of `assess`.
    """
    found = sorted({value for value in values if value is not None})
    if any(value is None for value in values):
        found.append(None)
    rows = []
    for value in found:
        here = np.flatnonzero(values == value)
        metrics = _metrics(predictions.take(here), losses[here], slides[here], patients[here], classes)
        rows.append({"value": value, **plain(metrics)})
    return rows


def tile_columns(sidecar: Sidecar, rows: Ints, column: str) -> NDArray[np.object_]:
    """Return a column of a side-car, one of `slideduck.runner.settings.train_config.BY_COLUMNS`, for rows of its beton.

    Raises
    ------
    ConfigError
        If there is no such column.
    """
    if column not in BY_COLUMNS:
        raise ConfigError(f"no column {column!r} to tell tiles apart by; give any of {', '.join(BY_COLUMNS)}")
    values = np.empty(len(rows), object)
    values[:] = tile_table(sidecar)[column].take(pa.array(rows)).to_pylist()
    return values


def patient_numbers(sidecar: Sidecar, rows: Ints) -> Ints:
    """Return the number of each row's patient, in the sorted order of all patients' names."""
    names = sorted({slide.patient for slide in sidecar.slides})
    number = {name: i for i, name in enumerate(names)}
    return np.array([number[slide.patient] for slide in sidecar.slides], np.int64)[sidecar.slide[rows]]


def assess_file(path: Path, *, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Return the assessment of predictions in a file, with their ``epoch`` and ``classes``."""
    tiles = read_predictions(path)
    slides, patients = numbers_of(tiles.slide), numbers_of(tiles.patient)
    return {
        "epoch": int(tiles.facts.get("epoch", 0)),
        "classes": list(tiles.classes),
        **assess(tiles.predictions, tiles.losses, slides, patients, tiles.classes, resamples=resamples),
    }


def numbers_of(names: NDArray[np.object_]) -> Ints:
    """Return the number of each name in the sorted order of the names that there are."""
    return _numbered(pa.array(names, pa.string()))[0]


def read_thresholds(source: Path | str, classes: Sequence[str]) -> dict[str, Any]:
    """Return the thresholds that an evaluation of other tiles chose, by level and class.

    Parameters
    ----------
    source : path
        The JSON that `evaluate` writes, or a run's validation.json; or a number, such as ``"0.5"``, for every class.
    classes : sequence of str
        Classes that a number is for.

    Raises
    ------
    RunError
        If the file is none of these.
    ConfigError
        If the number is no probability.
    """
    try:
        fixed = float(str(source))
    except ValueError:
        pass
    else:
        if not 0 <= fixed <= 1:
            raise ConfigError(f"thresholds is {source}; give a probability from 0 to 1, or the JSON of an evaluation")
        return {level: {name: {"fixed": {"threshold": fixed}} for name in classes} for level in LEVELS}
    thresholds = _read(source).get("thresholds")
    if thresholds is None or not _are_thresholds(thresholds):
        raise RunError(f"{source}: it has no thresholds; give the JSON of an evaluation, or a run's validation.json")
    found: dict[str, Any] = thresholds
    return found


def _are_thresholds(values: Any) -> bool:
    """Return True for thresholds by level, class and rule, as `assess` gives them."""
    if not isinstance(values, dict) or not all(isinstance(level, dict) for level in values.values()):
        return False
    rules = [rules for level in values.values() for rules in level.values()]
    chosen = [one for named in rules if isinstance(named, dict) for one in named.values()]
    return all(isinstance(named, dict) for named in rules) and all(
        isinstance(one, dict) and isinstance(one.get("threshold"), (int, float)) for one in chosen
    )


def read_temperature(source: Path | str) -> float:
    """Return the temperature that an evaluation of other tiles fitted; `source` as of `read_thresholds`.

    Raises
    ------
    RunError
        If the file is none of these.
    """
    temperature = _read(source).get("temperature")
    fitted = temperature.get("fitted") if isinstance(temperature, dict) else None
    if not isinstance(fitted, float) or not 0 < fitted < math.inf:
        raise RunError(f"{source}: it has no temperature; give the JSON of an evaluation, or a run's validation.json")
    return fitted


def _read(source: Path | str) -> dict[str, Any]:
    """Return the content of an evaluation's JSON."""
    try:
        return read_object(Path(source))
    except FileNotFoundError as error:
        raise RunError(f"no file {source}; give the JSON of an evaluation, or a run's validation.json") from error


def _numbered(names: pa.ChunkedArray | pa.Array) -> tuple[Ints, list[str]]:
    """Return the number of each name in the sorted order of names, and the names."""
    encoded = names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names
    encoded = encoded.dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    found = encoded.dictionary.to_pylist()
    ordered = sorted(found)
    place = {name: i for i, name in enumerate(ordered)}
    return np.array([place[name] for name in found], np.int64)[encoded.indices.to_numpy()], ordered
