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
from slideduck.catalog.evaluations import read_prediction_file
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
from slideduck.runner.scores.metrics import LEVELS, compute_metrics, plain, units_of
from slideduck.runner.scores.predictions import ClassPredictions
from slideduck.runner.settings.jsonfile import read_object
from slideduck.runner.settings.train_config import BY_COLUMNS
from slideduck.runner.tiles.conditions import tile_table

__all__ = [
    "PredictedTiles",
    "assess",
    "assess_file",
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
    predictions : ClassPredictions
        Their rows are those of the file, from 0.
    tile_id, slide, patient : ndarray of object (str), (n,)
        Names.
    classes : tuple of str
        In order of their numbers.
    facts : dict of str
        What the file says of itself, such as ``run`` and ``epoch``.
    path : Path
        The file.
    """

    predictions: ClassPredictions
    tile_id: NDArray[np.object_]
    slide: NDArray[np.object_]
    patient: NDArray[np.object_]
    classes: tuple[str, ...]
    facts: dict[str, str]
    path: Path


def read_predictions(path: Path | str) -> PredictedTiles:
    """Read the predictions that a run made of its validation tiles, or that `evaluate` wrote.

    Raises
    ------
    RunError
        If there is no such file, or it is none of ours.
    """
    file = read_prediction_file(path)
    number = {name: i for i, name in enumerate(file.classes)}
    codes, names = _numbered(file.table["label"])
    labels = np.array([number[name] for name in names], np.int64)[codes]
    # A probability that was too small for its type is the smallest one: its logarithm is then a number.
    logs = np.log(np.maximum(file.probabilities, np.finfo(np.float64).smallest_subnormal))
    tile_id, slide, patient = (
        np.asarray(file.table[name].to_numpy(zero_copy_only=False), object) for name in ("tile_id", "slide", "patient")
    )
    predictions = ClassPredictions(np.arange(len(labels)), _soft_or(labels, file.table, file.classes), logs)
    return PredictedTiles(predictions, tile_id, slide, patient, file.classes, file.facts, file.path)


def _soft_or(labels: Ints, table: pa.Table, classes: Sequence[str]) -> NDArray[Any]:
    """Return the probabilities that tiles are labelled with, where the table has them, and else the class numbers."""
    names = [f"soft_{name}" for name in classes]
    if not set(names) <= set(table.column_names):
        return labels
    return np.stack([table[name].to_numpy() for name in names], axis=1).astype(np.float32)


def assess(
    predictions: ClassPredictions,
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
    predictions : ClassPredictions
        At least one tile.
    slides, patients : ndarray of int64, (n,)
        Number of each tile's slide and patient; intervals draw patients in order of their numbers.
    classes : sequence of str
        Names of the classes, in order of their numbers.
    resamples : int
        Resamples of patients for the intervals; 0 for no intervals.
    thresholds : mapping, optional
        Thresholds that were chosen elsewhere, as from `read_thresholds`.

    Returns
    -------
    dict
        ``metrics`` (see `compute_metrics`, and ``ci95/…`` of `slideduck.runner.scores.bootstrap.intervals`);
        ``reliability``, by level (tiles, slides, patients): the table of ``predicted``, and of each class under
        ``classes``; ``thresholds``, by level and class: those that serve these units best; ``applied_thresholds``,
        alike: what `thresholds` do here; and ``temperature``: the one that gives these tiles the greatest
        likelihood (``fitted``), with the ``loss`` and ``ece`` of the tiles after it.
    """
    metrics = compute_metrics(predictions, slides, classes, patients=patients)
    if resamples:
        metrics |= intervals(predictions, slides, patients, classes, resamples=resamples)
    result: dict[str, Any] = {"metrics": metrics, "reliability": {}, "thresholds": {}}
    if thresholds is not None:
        result["applied_thresholds"] = {}
    for level, groups in (("tiles", None), ("slides", slides), ("patients", patients)):
        units = units_of(predictions, groups)
        confidence = units.probabilities[np.arange(len(units.labels)), units.predicted]
        result["reliability"][level] = {
            "predicted": reliability(confidence, units.predicted == units.labels),
            "classes": {
                name: reliability(units.probabilities[:, number], units.labels == number)
                for number, name in enumerate(classes)
            },
        }
        result["thresholds"][level] = choose_thresholds(units.probabilities, units.labels, classes)
        if thresholds is not None:
            result["applied_thresholds"][level] = apply_thresholds(
                units.probabilities, units.labels, classes, thresholds.get(level, {})
            )
    fitted = fit_temperature(predictions.log_probabilities, predictions.labels)
    logs = with_temperature(predictions.log_probabilities, fitted)
    result["temperature"] = {
        "fitted": fitted,
        "loss": -float(logs[np.arange(len(logs)), predictions.labels].mean()),
        "ece": calibration_error(np.exp(logs), predictions.predicted, predictions.labels),
    }
    return plain(result)


def metrics_by(
    predictions: ClassPredictions, slides: Ints, patients: Ints, classes: Sequence[str], values: NDArray[np.object_]
) -> list[dict[str, Any]]:
    """Return the metrics of the tiles of each value of a column, without intervals.

    Parameters
    ----------
    values : ndarray of object, (n,)
        Value of each tile; None is a value.

    Returns
    -------
    list of dict
        In order of the values, None last: ``value`` and the metrics of `compute_metrics`, as JSON takes them.
    """
    found = sorted({value for value in values if value is not None})
    if any(value is None for value in values):
        found.append(None)
    rows = []
    for value in found:
        here = np.flatnonzero(values == value)
        metrics = compute_metrics(predictions.take(here), slides[here], classes, patients=patients[here])
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
        **assess(tiles.predictions, slides, patients, tiles.classes, resamples=resamples),
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
