"""The metrics of a run's network on any beton."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import slideduck
from slideduck.betons import Sidecar
from slideduck.errors import ConfigError, RunError
from slideduck.names import path_problem
from slideduck.runner.networks.given import Network
from slideduck.runner.ranks import dist
from slideduck.runner.runs import checkpoint as checkpoints
from slideduck.runner.runs.predictions import write_predictions
from slideduck.runner.runs.trained import TrainedModel, load_run, warn_of_other_tiles
from slideduck.runner.scores.assess import (
    assess,
    metrics_by,
    patient_numbers,
    read_temperature,
    read_thresholds,
    tile_columns,
)
from slideduck.runner.scores.bootstrap import RESAMPLES
from slideduck.runner.scores.calibration import with_temperature
from slideduck.runner.scores.predictions import ClassPredictions
from slideduck.runner.tasks.infer import predict_rows
from slideduck.runner.tiles.loader import TileLoader
from slideduck.runner.tiles.open import open_beton
from slideduck.runner.tiles.rows import labelled_rows
from slideduck.runner.tiles.targets import read_targets
from slideduck.words import counted, message

__all__ = ["evaluate"]


def evaluate(
    run: Path | str,
    beton: Path | str,
    *,
    split: str | None = None,
    where: str | None = None,
    checkpoint: str = "best",
    trust: str | Sequence[str] = (),
    network: Network | None = None,
    batch_size: int | None = None,
    out: Path | str | None = None,
    by: Sequence[str] = (),
    thresholds: Path | str | None = None,
    temperature: Path | str | None = None,
    resamples: int = RESAMPLES,
    study: Path | str | None = None,
) -> dict[str, Any]:
    """Compute a network's metrics on the labelled tiles of a beton, and write its predictions.

    Parameters
    ----------
    run : path
        The run's folder.
    beton : path
        Any beton; its classes are matched to the network's by name.
    split : str, optional
        Only tiles of this split, such as ``"val"``.
    where : str, optional
        Only tiles that meet this SQL condition on the side-car's columns, such as ``"site = 'C'"``; see
        `slideduck.runner.tiles.conditions.tiles_where`.
    checkpoint : str
        ``"best"`` or ``"last"``.
    trust : str or sequence of str
        The run's model, where that is code, ``module:function``; see `slideduck.runner.runs.trained.load_run`.
    network : callable or nn.Module, optional
        The run's network, where it was given as an object; see `slideduck.runner.runs.trained.load_run`.
    batch_size : int, optional
        Tiles at a time; default as in training.
    out : path, optional
        Parquet of the predictions; default ``RUN/evaluations/BETON[-SPLIT][-where-DIGEST]-CHECKPOINT.parquet``,
        with a digest of the condition. The metrics go beside it, as JSON.
    by : sequence of str
        Columns of the side-car, any of `slideduck.runner.settings.train_config.BY_COLUMNS`: metrics of the tiles of
        each value.
    thresholds, temperature : path, optional
        JSON of an evaluation of other tiles, or a run's validation.json: see what the thresholds that were chosen
        there do here, and divide logits by the temperature that was fitted there. Thresholds may also be a number,
        for every class.
    resamples : int
        Resamples of patients for the confidence intervals; 0 for none.
    study : path, optional
        Study to add the predictions to; see `slideduck.catalog.evaluations.add_predictions`.

    Returns
    -------
    dict
        ``run``, ``checkpoint``, ``epoch``, ``beton``, ``split``, ``where``, ``classes``, ``predictions`` (the
        Parquet's path), ``task``; what `slideduck.runner.scores.assess.assess` says: ``metrics``, ``notes``,
        ``absent``, and as the task has them ``reliability``, ``thresholds``, ``temperature``; and ``by``: for each
        column a list of metrics.

    Raises
    ------
    RunError
        If the beton has a class that the network lacks, or a file holds no thresholds or temperature.
    ConfigError
        If there is no labelled tile to evaluate, or no such column.
    StudyError
        If the tiles are not the study's; the predictions are written all the same.
    QueryError
        If the condition cannot be used.
    """
    if resamples < 0:
        raise ConfigError(f"resamples is {resamples}; it must be 0 or more")
    divisor = None if temperature is None else read_temperature(temperature)
    beton = Path(beton).absolute()
    trained = load_run(run, checkpoint, trust=trust, network=network)
    chosen = None if thresholds is None else read_thresholds(thresholds, trained.classes)
    _refuse_of_task(trained, thresholds=thresholds, temperature=temperature)
    tiles = _choose_tiles(trained, beton, split, where, by)
    size = batch_size or trained.config.batch_size_per_rank
    predictions = predict_rows(trained.forward, trained.task, tiles.loader, tiles.rows, size)
    if tiles.number_of_class is not None:
        predictions = _as_the_network_counts(predictions, tiles.number_of_class, divisor)
    units = tiles.sidecar.slide[tiles.rows].astype(np.int64), patient_numbers(tiles.sidecar, tiles.rows)
    losses = trained.task.losses(predictions)
    said = assess(predictions, losses, *units, trained.classes, resamples=resamples, thresholds=chosen)
    said["by"] = {
        name: metrics_by(predictions, losses, *units, trained.classes, of) for name, of in tiles.columns.items()
    }
    target = Path(out).absolute() if out else _default_path(trained.run, beton, split, where, checkpoint)
    checkpoints.make_folder(target.parent)
    write_predictions(target, trained.task.table(predictions, tiles.sidecar, _facts(trained, beton, split)))
    result = {
        "run": str(trained.run),
        "checkpoint": checkpoint,
        "epoch": trained.epoch,
        "beton": str(beton),
        "split": split,
        "where": where,
        "classes": list(trained.classes),
        "predictions": str(target),
        "task": trained.task.name,
        **said,
    }
    if divisor is not None:
        result["applied_temperature"] = divisor
    checkpoints.write_sealed(target.with_suffix(".json"), result)
    if study is not None:
        with slideduck.open(study, sealed=True) as opened:
            opened.add_predictions(target)
    return result


def _refuse_of_task(trained: TrainedModel, **given: object) -> None:
    """Refuse what is nothing for the task of a network."""
    takes = {"thresholds": trained.task.gives == "probabilities", "temperature": trained.task.tells_classes}
    for name, value in given.items():
        if value is not None and not takes[name]:
            are_for = "classes and labels" if name == "thresholds" else "classes"
            raise ConfigError(
                f"{trained.run} learnt task {trained.config.task!r}, and {name} is for {are_for}; leave {name} out"
            )


@dataclass(frozen=True)
class _Tiles:
    """The tiles that are evaluated.

    Attributes
    ----------
    sidecar : Sidecar
        Of the beton, with the targets of the task.
    loader : TileLoader
        Reads the tiles.
    rows : ndarray of int64, shape (tiles,)
        Which rows of the beton they are.
    columns : dict
        Values of each tile in the columns by which metrics are grouped.
    number_of_class : ndarray of int64, shape (classes of the beton,), or None
        The network's number of each class of the beton; None where it has not learnt classes.
    """

    sidecar: Sidecar
    loader: TileLoader
    rows: NDArray[np.int64]
    columns: dict[str, NDArray[np.object_]]
    number_of_class: NDArray[np.int64] | None


def _choose_tiles(
    trained: TrainedModel, beton: Path, split: str | None, where: str | None, by: Sequence[str]
) -> _Tiles:
    """Open the beton and choose the tiles to evaluate; report tiles left out, and unlike betons."""
    sidecar, loader = open_beton(beton, dist.cores())
    targets = read_targets(sidecar, trained.config, beton, trained.classes)
    sidecar, loader.targets = targets.sidecar, targets.values
    rows = labelled_rows(sidecar, split, beton, where)
    if where is not None:
        left_out = len(labelled_rows(sidecar, split, beton)) - len(rows)
        message(
            f"{counted(len(rows), 'tile is', 'tiles are')} evaluated; "
            f"{counted(left_out, 'labelled one does', 'labelled ones do')} not meet {where}"
        )
    columns = {name: tile_columns(sidecar, rows, name) for name in by}
    number_of_class = _class_numbers(trained, sidecar, rows, beton) if trained.task.tells_classes else None
    warn_of_other_tiles(trained, sidecar, beton)
    return _Tiles(sidecar, loader, rows, columns, number_of_class)


def _as_the_network_counts(
    predictions: ClassPredictions, number_of_class: NDArray[np.int64], divisor: float | None
) -> ClassPredictions:
    """Return predictions whose labels are the network's classes, and whose logits are divided by a temperature."""
    predictions = replace(predictions, targets=_targets_of_the_network(predictions, number_of_class))
    if divisor is None:
        return predictions
    return replace(predictions, outputs=with_temperature(predictions.log_probabilities, divisor).astype(np.float32))


def _targets_of_the_network(predictions: ClassPredictions, number_of_class: NDArray[np.int64]) -> NDArray[Any]:
    """Return class numbers, or probabilities of classes, in the order of the network's classes."""
    soft = predictions.soft
    if soft is None:
        return np.asarray(number_of_class[predictions.labels])
    ordered = np.zeros(predictions.outputs.shape, np.float32)
    known = number_of_class >= 0
    ordered[:, number_of_class[known]] = soft[:, known]
    return ordered


def _default_path(run: Path, beton: Path, split: str | None, where: str | None, checkpoint: str) -> Path:
    """Return where the predictions go."""
    condition = where and f"where-{hashlib.sha256(where.encode()).hexdigest()[:8]}"
    # A split is named by whoever made the beton.
    if split is not None and ("/" in split or path_problem(split) is not None):
        split = f"split-{hashlib.sha256(split.encode(errors='backslashreplace')).hexdigest()[:8]}"
    name = "-".join(part for part in (beton.stem, split, condition, checkpoint) if part)
    return run / "evaluations" / f"{name}.parquet"


def _facts(trained: TrainedModel, beton: Path, split: str | None) -> dict[str, str]:
    """Return what the file says of the predictions."""
    return {
        "run": trained.run.name,
        "folder": str(trained.run),
        "checkpoint": trained.sha256,
        "epoch": str(trained.epoch),
        "beton": str(beton),
        "split": split or "",
    }


def _class_numbers(trained: TrainedModel, sidecar: Sidecar, rows: NDArray[np.int64], beton: Path) -> NDArray[np.int64]:
    """Return the network's number of each class of the beton, -1 for one that no chosen tile has."""
    counts = np.bincount(sidecar.class_number[rows], minlength=len(sidecar.classes))
    if sidecar.soft is not None:
        counts = np.count_nonzero(sidecar.soft[rows], axis=0)
    unknown = [
        f"{name!r} ({counted(int(count), 'tile')})"
        for name, count in zip(sidecar.classes, counts, strict=True)
        if count and name not in trained.classes
    ]
    if unknown:
        raise RunError(
            f"{beton}: the network of {trained.run} does not know {', '.join(unknown)}; it knows "
            f"{', '.join(trained.classes)}: export without those tiles (--where), or train with them"
        )
    numbers = [trained.classes.index(name) if name in trained.classes else -1 for name in sidecar.classes]
    return np.array(numbers, np.int64)
