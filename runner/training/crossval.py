"""Several runs of one beton, one for each fold, seed or both, and their summary.

Each run is an ordinary one in a folder of its own: it can be stopped, resumes, and is skipped once it is
finished. Over runs a metric has a mean, a standard deviation and a 95 % interval of the mean by Student's t
distribution, that of a share within 0 and 1. Folds share most of their training tiles, so that the runs are not
independent and the interval is narrower than that of new data would be (Bengio and Grandvalet, No unbiased
estimator of the variance of K-fold cross-validation, 2004). Each run's metrics are those of its best epoch, chosen
on the same tiles.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import expit, logit, stdtrit

from slideduck.betons import Sidecar, read_sidecar
from slideduck.errors import ConfigError, RunError, SlideduckError
from slideduck.runner.networks.given import Network
from slideduck.runner.ranks import dist
from slideduck.runner.ranks.launch import Launch
from slideduck.runner.runs.checkpoint import lock_folder, write_sealed
from slideduck.runner.runs.predictions import read_predictions, write_predictions
from slideduck.runner.scores.assess import assess_file
from slideduck.runner.scores.metrics import plain
from slideduck.runner.scores.predictions import THRESHOLD, joined_labels
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tiles.rows import folds_of
from slideduck.runner.tiles.targets import read_targets
from slideduck.runner.training.train import train
from slideduck.words import counted, message

__all__ = ["Run", "bounds_of", "cross_validate", "interval", "pool_predictions", "runs_of"]

_FORMAT = "slideduck cross-validation"

#: Between which numbers metrics lie, by name without the level and the class; the others have no two bounds.
_BOUNDS = {
    **dict.fromkeys(
        (
            "accuracy", "balanced_accuracy", "macro_f1", "macro_auroc", "auroc", "average_precision", "ece",
            "classwise_ece", "fraction_error", "mean_auroc", "mean_ap", "mean_f1", "ap", "f1",
        ),
        (0.0, 1.0),
    ),
    "brier": (0.0, 2.0),
    **dict.fromkeys(("kappa", "pearson", "mean_pearson"), (-1.0, 1.0)),
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One run of several.

    Attributes
    ----------
    name : str
        Name of its folder: ``fold-0``, ``seed-3`` or ``fold-0-seed-3``.
    config : TrainConfig
        Its settings.
    """

    name: str
    config: TrainConfig


def runs_of(config: TrainConfig, folds: Sequence[int] | None, seeds: int | None) -> list[Run]:
    """Return the runs of some folds and seeds, the seeds of a fold one after the other.

    Parameters
    ----------
    config : TrainConfig
        The settings of all of them; its seed is the first.
    folds : sequence of int, optional
        Folds that validate in turn; without them all runs have the sides of `config`.
    seeds : int, optional
        Number of seeds; without it there is one, which has no part in the names.

    Raises
    ------
    ConfigError
        If the settings name a fold, or sides, beside the folds.
    """
    if folds is not None and config.fold is not None:
        raise ConfigError(f"fold is {config.fold} but all folds are to validate in turn; give `fold` or `folds`")
    if seeds is not None and seeds < 1:
        raise ConfigError(f"seeds is {seeds}; it must be 1 or more")
    runs = []
    for fold in [None] if folds is None else folds:
        of_fold = config if fold is None else replace(config, fold=fold)
        for seed in range(config.seed, config.seed + (seeds or 1)):
            parts = [f"fold-{fold}"] * (fold is not None) + [f"seed-{seed}"] * (seeds is not None)
            runs.append(Run("-".join(parts), replace(of_fold, seed=seed)))
    return runs


def cross_validate(
    beton: Path | str,
    run: Path | str,
    config: TrainConfig | None = None,
    *,
    folds: bool = False,
    seeds: int | None = None,
    network: Network | None = None,
    nproc: str | int = "auto",
    how: Launch | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train a run for each fold of a beton, for each of several seeds, or for each of both.

    Parameters
    ----------
    beton : path
        The beton; with `folds`, of a study that was split into folds, by patient or by site.
    run : path
        Folder that gets one for each run, ``summary.json``, and ``predictions.parquet``: of each validation tile the
        mean probabilities, or numbers, of the runs that did not train on its fold.
    config : TrainConfig, optional
        The settings of all runs.
    folds : bool
        Let each fold validate in turn.
    seeds : int, optional
        Train with so many seeds, from that of `config` on.
    network, nproc, how
        The network of each run, and how it is started; see `slideduck.runner.training.train.train`. One machine is all
        that is used.
    progress : bool
        Tell on standard error how it goes.

    Returns
    -------
    dict
        What summary.json holds: ``runs``, each with its ``name``, ``fold``, ``seed``, ``best_epoch``,
        ``checkpoint`` and ``metrics``; ``failed``, by name of the run, with the reason; ``metrics``, by name, with
        the ``values`` by run, and ``mean``, ``std``, ``ci95`` and ``n`` (see `interval`; of a fold's seeds the
        mean is taken first); and ``pooled``, the metrics of predictions.parquet with intervals over patients
        (``ci95/…``), or None where a run failed.

    Raises
    ------
    ConfigError
        If the beton has no two folds, or the settings do not go with folds.
    RunError
        If `run` is the folder of a single run, another process trains in it, or no run came to its end.
    BetonError, QueryError
        If the beton or a condition of the settings cannot be used.
    """
    beton, folder = Path(beton).absolute(), Path(run).absolute()
    config = config or TrainConfig()
    if dist.is_joining():
        raise ConfigError(
            "`folds` and `seeds` train one run after the other and start the processes of each themselves; "
            "start without torchrun, with `nproc`"
        )
    if how is not None and how.nnodes > 1:
        raise ConfigError(
            f"`nnodes` is {how.nnodes}, but `folds` and `seeds` use one machine; "
            "start each run by itself, with `fold` and `seed`"
        )
    sidecar = read_targets(read_sidecar(beton), config, beton).sidecar
    runs = runs_of(config, folds_of(sidecar, config.where, beton) if folds else None, seeds)
    if (folder / "config.json").exists():
        raise RunError(f"{folder}: the folder of a single run; give another `run`")
    finished: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    with lock_folder(folder):
        for number, one in enumerate(runs, start=1):
            if progress:
                message(f"{one.name}: run {number} of {len(runs)}")
            try:
                finished[one.name] = train(
                    beton, folder / one.name, one.config, network=network, nproc=nproc, how=how, progress=progress
                )
            except Exception as error:
                if not isinstance(error, SlideduckError):
                    traceback.print_exc()
                failed[one.name] = (
                    str(error) if isinstance(error, SlideduckError) else f"{type(error).__name__}: {error}"
                )
                message(f"{one.name} failed: {failed[one.name]}")
        if not finished:
            raise RunError(f"{folder}: none of {counted(len(runs), 'run')} came to its end; the reasons stand above")
        pooled = None
        if failed:
            # What an earlier call left is of other epochs.
            (folder / "predictions.parquet").unlink(missing_ok=True)
        else:
            pooled = _pooled_metrics(pool_predictions(folder, runs, sidecar))
        summary = _summary(beton, runs, finished, failed, pooled)
        write_sealed(folder / "summary.json", summary)
    return summary


def bounds_of(metric: str) -> tuple[float, float] | None:
    """Return between which numbers a metric lies, by its name; None for one without two bounds, such as the loss."""
    name = metric.removeprefix("slide/").removeprefix("patient/")
    return _BOUNDS.get(name.partition("/")[0])


def interval(values: Sequence[float], bounds: tuple[float, float] | None = None) -> dict[str, Any]:
    """Return the mean of some numbers, with its interval.

    With h the 0.975 quantile of Student's t distribution with n - 1 degrees of freedom times ``std / sqrt(n)``, it
    reaches from mean - h to mean + h. Between bounds, the mean m is scaled to lie between 0 and 1, and the interval is
    that of its logit, brought back: the logit of m, less and plus h / (m (1 - m)), which is h by the delta method. This
    is what R's ``survey::svyciprop(method="xlogit")`` does, and SUDAAN. It holds the mean and does not leave the
    bounds; single values may lie on them.

    Parameters
    ----------
    values : sequence of float
        Of the units: folds, or seeds.
    bounds : tuple of (float, float), optional
        The least and the greatest that a value can be; see `bounds_of`.

    Returns
    -------
    dict
        ``n``; ``mean``; ``std``, the sample's, with n - 1; and ``ci95``, two numbers. What is not defined is None: all
        without a number, ``std`` and ``ci95`` of a single one, and ``ci95`` where all values lie on the same bound:
        they say nothing of how far the next may be from it.
    """
    n = len(values)
    if n == 0:
        return {"n": 0, "mean": None, "std": None, "ci95": None}
    mean = fmean(values)
    if n == 1:
        return {"n": 1, "mean": mean, "std": None, "ci95": None}
    deviation = stdev(values)
    half = float(stdtrit(n - 1, 0.975)) * deviation / math.sqrt(n)
    return {"n": n, "mean": mean, "std": deviation, "ci95": _around(mean, half, bounds)}


def _around(mean: float, half: float, bounds: tuple[float, float] | None) -> list[float] | None:
    """Return the interval around a mean, within bounds where there are some; None for a mean on a bound."""
    if bounds is None:
        return [mean - half, mean + half]
    low, width = bounds[0], bounds[1] - bounds[0]
    part = (mean - low) / width
    if not 0 < part < 1:
        return None
    reach = half / width / (part * (1 - part))
    return [low + width * float(expit(logit(part) + side * reach)) for side in (-1, 1)]


def pool_predictions(folder: Path, runs: Sequence[Run], sidecar: Sidecar) -> Path:
    """Write the predictions of all runs as one Parquet: each tile once, in the order of the beton.

    Of several seeds a tile has the mean of its probabilities or numbers; ``predicted`` and ``loss`` are theirs. The
    loss of numbers is the mean of the seeds' own. A column
    ``fold`` says which fold it is of, NULL where there are no folds.

    Returns
    -------
    Path
        ``predictions.parquet`` of the folder.

    Raises
    ------
    RunError
        If the runs of a fold did not predict the same tiles, or two folds a tile.
    """
    by_fold: dict[int | None, list[pa.Table]] = {}
    for run in runs:
        by_fold.setdefault(run.config.fold, []).append(read_predictions(folder / run.name / "predictions.parquet"))
    tables = []
    for fold, of_seeds in by_fold.items():
        table = _mean_table(of_seeds, folder)
        tables.append(table.append_column("fold", pa.array([fold] * table.num_rows, pa.int64())))
    pooled = pa.concat_tables(tables)
    row_of = {name: row for row, name in enumerate(sidecar.tile_id.tolist())}
    rows = np.array([row_of[name] for name in pooled["tile_id"].to_pylist()], np.int64)
    if len(np.unique(rows)) < len(rows):
        raise RunError(f"{folder}: two folds have the same tile; give another `run`")
    # The facts of a single run, such as its epoch, are not those of all.
    facts = {
        key: value
        for key, value in (tables[0].schema.metadata or {}).items()
        if key not in (b"epoch", b"run", b"folder", b"split")
    }
    pooled = pooled.take(pa.array(np.argsort(rows))).replace_schema_metadata({**facts, b"run": folder.name.encode()})
    path = folder / "predictions.parquet"
    write_predictions(path, pooled)
    return path


def _pooled_metrics(path: Path) -> dict[str, Any]:
    """Return the metrics, with intervals over patients, of predictions that `pool_predictions` wrote."""
    metrics: dict[str, Any] = assess_file(path)["metrics"]
    return metrics


def _mean_table(tables: Sequence[pa.Table], folder: Path) -> pa.Table:
    """Return one table of the predictions of several networks for the same tiles."""
    first = tables[0]
    if len(tables) == 1:
        return first
    if any(not table["tile_id"].equals(first["tile_id"]) for table in tables):
        raise RunError(f"{folder}: its runs predicted different tiles; give another `run`")
    prefix = "predicted_" if (first.schema.metadata or {}).get(b"task") == b"regression" else "prob_"
    names = [name for name in first.column_names if name.startswith(prefix)]
    mean = {name: np.mean([table[name].to_numpy() for table in tables], axis=0) for name in names}
    changed = {**mean, "loss": np.mean([table["loss"].to_numpy() for table in tables], axis=0)}
    if prefix == "prob_":
        changed |= _of_probabilities(first, {name.removeprefix(prefix): values for name, values in mean.items()})
    for name, values in changed.items():
        at = first.column_names.index(name)
        first = first.set_column(at, first.schema.field(at), pa.array(values, first.schema.field(at).type))
    return first


def _of_probabilities(table: pa.Table, mean: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    """Return the predicted class, or labels, and the loss of each tile, by its probabilities."""
    classes, probabilities = list(mean), np.stack(list(mean.values()), axis=1)
    if f"true_{classes[0]}" in table.column_names:
        truth = np.stack([table[f"true_{name}"].to_numpy(zero_copy_only=False) for name in classes], axis=1)
        of_truth = np.where(truth, probabilities, 1 - probabilities)
        predicted: Any = joined_labels(probabilities >= THRESHOLD, classes)
    else:
        label = np.array([classes.index(name) for name in table["label"].to_pylist()], np.int64)
        of_truth = probabilities[np.arange(len(label)), label][:, None]
        predicted = np.array(classes, object)[probabilities.argmax(axis=1)]
    logs = np.log(np.maximum(of_truth, np.finfo(np.float64).smallest_subnormal))
    return {"predicted": predicted, "loss": -logs.mean(axis=1)}


def _summary(
    beton: Path,
    runs: Sequence[Run],
    finished: Mapping[str, dict[str, Any]],
    failed: Mapping[str, str],
    pooled: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the content of summary.json."""
    done = [run for run in runs if run.name in finished]
    of_run = {
        run.name: {
            name.removeprefix("val/"): value
            for name, value in finished[run.name]["metrics"].items()
            if name.startswith("val/")
        }
        for run in done
    }
    names = [name for name, value in of_run[done[0].name].items() if not isinstance(value, list)]
    metrics = {}
    for name in names:
        values = {run.name: of_run[run.name].get(name) for run in done}
        # The unit of the interval is a fold where there are folds, else a seed.
        by_unit: dict[Any, list[float]] = {}
        for run in done:
            value = values[run.name]
            if value is not None:
                unit = run.config.seed if run.config.fold is None else run.config.fold
                by_unit.setdefault(unit, []).append(value)
        metrics[name] = {
            "values": values,
            **interval([fmean(of_unit) for of_unit in by_unit.values()], bounds_of(name)),
        }
    return {
        "format": _FORMAT,
        "version": 1,
        "beton": str(beton),
        "interval": "95 %, of the mean, Student's t; of shares and other bounded metrics, of the logit of the mean",
        "runs": [
            {
                "name": run.name,
                "fold": run.config.fold,
                "seed": run.config.seed,
                **{key: finished[run.name][key] for key in ("run", "checkpoint", "epochs", "best_epoch")},
                "metrics": of_run[run.name],
            }
            for run in done
        ],
        "failed": dict(failed),
        "metrics": metrics,
        "pooled": None if pooled is None else plain(pooled),
    }
