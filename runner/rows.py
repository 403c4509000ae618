"""Which rows of a beton train and which validate, from the splits and folds in its side-car."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slideduck.beton import Sidecar
from slideduck.errors import ConfigError, RunError
from slideduck.runner.config import TrainConfig

__all__ = ["RunRows", "class_weights", "labelled_rows", "run_rows"]

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class RunRows:
    """The rows of a run.

    Attributes
    ----------
    train, val : ndarray of int64
        Rows of the beton that train and that validate, ascending; all have a class.
    unlabelled : int
        Tiles of either side that were left out because they have no class.
    """

    train: Rows
    val: Rows
    unlabelled: int


def run_rows(sidecar: Sidecar, config: TrainConfig, beton: Path) -> RunRows:
    """Return the rows that train and validate.

    Raises
    ------
    ConfigError
        If either side has no labelled tile, with the number of tiles of each split or fold.
    RunError
        If a patient is on both sides.
    """
    if config.fold is None:
        side = sidecar.tile_split.astype(object)
        is_train, is_val = side == config.train_split, side == config.val_split
    else:
        folds = sidecar.tile_fold
        is_val = folds == config.fold
        is_train = (folds >= 0) & ~is_val
    labelled = sidecar.class_number >= 0
    rows = RunRows(
        np.flatnonzero(is_train & labelled),
        np.flatnonzero(is_val & labelled),
        int(np.count_nonzero((is_train | is_val) & ~labelled)),
    )
    for name, side_rows in (("train", rows.train), ("validate", rows.val)):
        if len(side_rows) == 0:
            raise ConfigError(_nothing(sidecar, config, beton, name))
    _refuse_leak(sidecar, rows)
    return rows


def labelled_rows(sidecar: Sidecar, split: str | None, beton: Path) -> Rows:
    """Return the labelled rows of one split, or of all of the beton where `split` is None.

    Raises
    ------
    ConfigError
        If there are none, with the number of labelled tiles of each split.
    """
    chosen = sidecar.class_number >= 0
    if split is not None:
        chosen &= sidecar.tile_split.astype(object) == split
    rows = np.flatnonzero(chosen)
    if len(rows) == 0:
        which = "no labelled tile" if split is None else f"no labelled tile in split {split!r}"
        raise ConfigError(f"{beton}: {which}; it has {_counts(sidecar, 'split')}")
    return rows


def class_weights(labels: NDArray[np.int64], n_classes: int, balance: str) -> NDArray[np.float32]:
    """Return the weight of each class in the loss.

    With ``"loss"`` a class weighs in inverse proportion to its tiles, scaled so that the mean over the
    training tiles is 1: the sum of weighted losses over the batch size then averages over ranks to the
    loss of one process with all their tiles.

    Parameters
    ----------
    labels : ndarray of int64
        Class numbers of the training tiles.
    n_classes : int
        Number of classes.
    balance : str
        ``"none"`` or ``"loss"``.

    Returns
    -------
    ndarray of float32, (n_classes,)
        1 for each class without balance; 0 for a class that no training tile has.
    """
    if balance == "none":
        return np.ones(n_classes, np.float32)
    counts = np.bincount(labels, minlength=n_classes).astype(np.float64)
    present = counts > 0
    weights = np.zeros(n_classes)
    weights[present] = len(labels) / (present.sum() * counts[present])
    return weights.astype(np.float32)


def _refuse_leak(sidecar: Sidecar, rows: RunRows) -> None:
    """Raise if a patient has tiles on both sides."""
    patients = sidecar.tile_patient.astype(object)
    both = sorted(set(patients[rows.train]) & set(patients[rows.val]))
    if both:
        more = f" and {len(both) - 3} more" if len(both) > 3 else ""
        names = ", ".join(map(repr, both[:3]))
        raise RunError(
            f"patient {names}{more}: tiles in training and in validation; "
            "split by patient (slideduck split STUDY) and export again"
        )


def _nothing(sidecar: Sidecar, config: TrainConfig, beton: Path, verb: str) -> str:
    """Return the message for a side without tiles."""
    if config.fold is None:
        option, split = ("--train-split", config.train_split) if verb == "train" else ("--val-split", config.val_split)
        return (
            f"{beton}: no labelled tile to {verb} with in split {split!r}; "
            f"it has {_counts(sidecar, 'split')}; "
            f"choose another with {option}, or split the study (slideduck split STUDY) and export again"
        )
    return (
        f"{beton}: no labelled tile to {verb} with for fold {config.fold}; "
        f"it has {_counts(sidecar, 'fold')}; "
        "choose another with --fold, or split the study into folds (slideduck split STUDY --folds 5) "
        "and export again"
    )


def _counts(sidecar: Sidecar, column: str) -> str:
    """Return how many labelled tiles each split or fold has, such as ``"train: 80, val: 20 tiles"``."""
    values = sidecar.tile_split if column == "split" else sidecar.tile_fold
    labelled = sidecar.class_number >= 0
    counts = Counter("none" if value in (None, -1) else str(value) for value in values[labelled])
    listed = ", ".join(
        f"{column} {name}: {count:,} tile{'s' if count != 1 else ''}" for name, count in sorted(counts.items())
    )
    return f"{listed or 'no labelled tile'} and {np.count_nonzero(~labelled):,} without a label"
