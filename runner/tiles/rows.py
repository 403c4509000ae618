"""Which rows of a beton train and which validate, from the splits, folds and columns of its side-car."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slideduck.betons import Sidecar
from slideduck.errors import ConfigError, RunError
from slideduck.names import suggestion
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tiles.conditions import tiles_where
from slideduck.words import counted, some

__all__ = ["Rows", "RunRows", "as_rows", "chosen_rows", "class_weights", "folds_of", "labelled_rows", "run_rows"]

Rows = NDArray[np.int64]

#: No beton has so many rows: what is greater stands for it.
_FAR = 2**62


@dataclass(frozen=True)
class RunRows:
    """The rows of a run.

    Attributes
    ----------
    train, val : ndarray of int64
        Rows of the beton that train and that validate, ascending; all have a class.
    unlabelled : int
        Tiles of either side that were left out because they have no class.
    left_out : int
        Labelled tiles of either side that the condition `where` left out.
    clipped : int
        Training tiles above the number that a slide may give.
    """

    train: Rows
    val: Rows
    unlabelled: int
    left_out: int = 0
    clipped: int = 0


def run_rows(sidecar: Sidecar, config: TrainConfig, beton: Path) -> RunRows:
    """Return the rows that train and validate.

    A side goes by its own condition where it has one, else by the fold, else by the split; both must meet
    `where` as well.

    Raises
    ------
    ConfigError
        If either side has no labelled tile, with the number of tiles of each split or fold.
    QueryError
        If a condition cannot be used.
    RunError
        If a patient is on both sides.
    """
    is_train, is_val = _sides(sidecar, config, beton)
    labelled = sidecar.class_number >= 0
    kept = np.ones(sidecar.samples, bool) if config.where is None else tiles_where(sidecar, config.where, beton)
    either = is_train | is_val
    rows = RunRows(
        np.flatnonzero(is_train & labelled & kept),
        np.flatnonzero(is_val & labelled & kept),
        int(np.count_nonzero(either & ~labelled & kept)),
        int(np.count_nonzero(either & labelled & ~kept)),
    )
    for name, side_rows in (("train", rows.train), ("validate", rows.val)):
        if len(side_rows) == 0:
            raise ConfigError(_nothing(sidecar, config, beton, name))
    _refuse_leak(sidecar, rows, config)
    return rows


def _sides(sidecar: Sidecar, config: TrainConfig, beton: Path) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which tiles train and which validate, labelled or not."""
    if config.fold is not None:
        folds = sidecar.tile_fold
        is_val = folds == config.fold
        return (folds >= 0) & ~is_val, is_val
    split = sidecar.tile_split.astype(object)
    of_split = ((config.train_where, config.train_split), (config.val_where, config.val_split))
    is_train, is_val = (
        split == name if where is None else tiles_where(sidecar, where, beton) for where, name in of_split
    )
    return is_train, is_val


def labelled_rows(sidecar: Sidecar, split: str | None, beton: Path, where: str | None = None) -> Rows:
    """Return the labelled rows of one split, or of all of the beton where `split` is None.

    Parameters
    ----------
    where : str, optional
        A condition that they must meet; see `slideduck.runner.tiles.conditions.tiles_where`.

    Raises
    ------
    ConfigError
        If there are none, with the number of labelled tiles of each split.
    QueryError
        If the condition cannot be used.
    """
    chosen = sidecar.class_number >= 0
    which = "no labelled tile"
    if split is not None:
        chosen &= sidecar.tile_split.astype(object) == split
        which += f" in split {split!r}"
    if where is not None:
        chosen &= tiles_where(sidecar, where, beton)
        which += f" where {where}"
    rows = np.flatnonzero(chosen)
    if len(rows) == 0:
        raise ConfigError(f"{beton}: {which}; it has {_counts(sidecar, 'split')}")
    return rows


def folds_of(sidecar: Sidecar, where: str | None, beton: Path) -> list[int]:
    """Return the folds that have labelled tiles, ascending.

    Parameters
    ----------
    where : str, optional
        A condition that the tiles must meet; see `slideduck.runner.tiles.conditions.tiles_where`.

    Raises
    ------
    ConfigError
        If there are fewer than two, with the number of tiles of each.
    QueryError
        If the condition cannot be used.
    """
    chosen = (sidecar.class_number >= 0) & (sidecar.tile_fold >= 0)
    if where is not None:
        chosen &= tiles_where(sidecar, where, beton)
    folds: list[int] = np.unique(sidecar.tile_fold[chosen]).tolist()
    if len(folds) < 2:
        also = "" if where is None else f" that meet `where` {where!r}"
        raise ConfigError(
            f"{beton}: `folds` needs labelled tiles of two folds or more{also}; it has {_counts(sidecar, 'fold')}; "
            "split the study into folds (slideduck split STUDY --folds 5, --preserve-site for sites) and export again"
        )
    return folds


def chosen_rows(sidecar: Sidecar, split: str | None, beton: Path, where: str | Iterable[Any] | None = None) -> Rows:
    """Return the labelled rows that somebody's own loop reads.

    Parameters
    ----------
    split : str or None
        As in `labelled_rows`.
    where : str or sequence, optional
        A condition, as in `labelled_rows`; or the tiles themselves, by row or by id, all of them in the split and each
        once.

    Returns
    -------
    ndarray of int64
        Ascending; or in the order in which the tiles were given.

    Raises
    ------
    ConfigError
        If there are none, or if a tile that was given is not in the beton, not in the split, without a label, or given
        twice.
    QueryError
        If the condition cannot be used.
    """
    splits = sidecar.tile_split.astype(object)
    if split is not None and split not in splits:
        there = sorted({name for name in splits if name is not None})
        known = f"splits {', '.join(map(repr, there))}" if there else "no split"
        raise ConfigError(
            f"{beton}: split is {split!r}, but its tiles are of {known}; give one of them, or `split=None` for all "
            f"labelled tiles{suggestion(str(split), there)}"
        )
    if where is None or isinstance(where, str):
        return labelled_rows(sidecar, split, beton, where)
    rows = _given_rows(sidecar, where, beton)
    wrong = {
        "without a label": sidecar.class_number[rows] < 0,
        f"not in split {split!r}": np.zeros(len(rows), bool) if split is None else splits[rows] != split,
    }
    for what, bad in wrong.items():
        if bad.any():
            names = some([f"row {row} ({sidecar.tile_id[row]})" for row in rows[bad].tolist()], 3)
            remedy = "leave them out" + ("" if what.startswith("without") else ", or give `split=None`")
            raise ConfigError(f"{beton}: {_share(bad, 'tile')} {what}: {names}; {remedy}")
    return rows


def _given_rows(sidecar: Sidecar, where: Iterable[Any], beton: Path) -> Rows:
    """Return the rows of tiles that were given by row or by id, in their order."""
    values = _array(where, "where")
    if values.dtype.kind in "UT" or (values.dtype.kind == "O" and all(isinstance(value, str) for value in values)):
        row_of = {name: row for row, name in enumerate(sidecar.tile_id.tolist())}
        strange = np.array([name not in row_of for name in values.tolist()], bool)
        if strange.any():
            names = some([repr(str(name)) for name in values[strange].tolist()], 3)
            raise ConfigError(
                f"{beton}: {_share(strange, 'tile id')} not in the beton: {names}; its first is "
                f"{sidecar.tile_id[0]!r} (a condition is one text, not a list)"
            )
        values = np.array([row_of[name] for name in values.tolist()], np.int64)
    rows = as_rows(values, "where")
    if len(rows) == 0:
        raise ConfigError(f"{beton}: `where` names no tile; give one or more, or leave it out")
    outside = (rows < 0) | (rows >= sidecar.samples)
    if outside.any():
        raise ConfigError(f"{beton}: `where` has row {rows[outside][0]}; its rows are 0 to {sidecar.samples - 1:,}")
    seen, counts = np.unique(rows, return_counts=True)
    if len(seen) < len(rows):
        row = seen[counts > 1][0]
        raise ConfigError(
            f"{beton}: `where` has row {row} ({sidecar.tile_id[row]}) {counts[counts > 1][0]} times; give each tile "
            "once (`balance` with `replacement='yes'` draws tiles several times)"
        )
    return rows


def _share(bad: NDArray[np.bool_], noun: str) -> str:
    """Return the beginning of what is said of some of the tiles that were given."""
    number = int(np.count_nonzero(bad))
    return f"{number:,} of {counted(len(bad), noun)} in `where` {'is' if number == 1 else 'are'}"


def as_rows(values: Iterable[Any], name: str) -> Rows:
    """Return row numbers as an array, whatever sequence of whole numbers they come in.

    Parameters
    ----------
    values : sequence of int
        A list, a range, an array or a tensor of any type of integers and on any device, a column of a data frame.
    name : str
        The argument, for messages.

    Raises
    ------
    ConfigError
        If they are not a sequence of integers: booleans and floats are refused, whole ones too.
    """
    array = _array(values, name)
    if len(array) == 0:
        return np.zeros(0, np.int64)
    if array.dtype.kind == "O" and not any(isinstance(value, bool | np.bool_) for value in array):
        # Nullable columns, and whole numbers of Python that no type holds.
        numbers = [value for value in array.tolist() if isinstance(value, int | np.integer)]
        array = np.array([max(-1, min(number, _FAR)) for number in numbers]) if len(numbers) == len(array) else array
    if array.dtype.kind == "b":
        raise ConfigError(f"`{name}` holds booleans; give row numbers: numpy.flatnonzero({name})")
    if array.dtype.kind not in "iu":
        kind = type(array.tolist()[0]).__name__
        raise ConfigError(f"`{name}` holds {array.tolist()[0]!r}, a {kind}; give row numbers, which are integers")
    return np.ascontiguousarray(np.minimum(array, _FAR) if array.dtype == np.uint64 else array, np.int64)


def _array(values: Iterable[Any], name: str) -> NDArray[Any]:
    """Return a sequence as an array of one dimension."""
    if hasattr(values, "detach"):  # a tensor, perhaps on a GPU
        values = values.detach().cpu()
    array = np.asarray(list(values) if isinstance(values, range) else values)
    if array.ndim != 1:
        what = f"a {type(values).__name__}" if array.ndim == 0 else f"of {array.ndim} dimensions"
        raise ConfigError(f"`{name}` is {what}; give a sequence of row numbers, such as a list or an array")
    return array


def class_weights(
    labels: NDArray[np.int64], n_classes: int, balance: str, shares: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
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
    shares : ndarray of float64, optional
        The part of an epoch that each of the tiles has on average, where they are not alike: what the sampling
        balances needs no weights any more.

    Returns
    -------
    ndarray of float32, (n_classes,)
        1 for each class without balance; 0 for a class that no training tile has.
    """
    if balance == "none":
        return np.ones(n_classes, np.float32)
    counts = np.bincount(labels, shares, minlength=n_classes).astype(np.float64)
    present = counts > 0
    weights = np.zeros(n_classes)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights.astype(np.float32)


def _refuse_leak(sidecar: Sidecar, rows: RunRows, config: TrainConfig) -> None:
    """Raise if a patient has tiles on both sides."""
    patients = sidecar.tile_patient.astype(object)
    both = sorted(set(patients[rows.train]) & set(patients[rows.val]))
    if both:
        more = f" and {len(both) - 3} more" if len(both) > 3 else ""
        names = ", ".join(map(repr, both[:3]))
        remedy = "split by patient (slideduck split STUDY) and export again"
        if config.train_where is not None or config.val_where is not None:
            remedy = "give `train_where` and `val_where` that keep whole patients apart"
        raise RunError(f"patient {names}{more}: tiles in training and in validation; {remedy}")


def _nothing(sidecar: Sidecar, config: TrainConfig, beton: Path, verb: str) -> str:
    """Return the message for a side without tiles."""
    side = "train" if verb == "train" else "val"
    own = config.train_where if verb == "train" else config.val_where
    column = "split" if config.fold is None else "fold"
    if own is not None:
        which, remedy = f"where {own}", f"choose others with `{side}_where`"
    elif config.fold is None:
        split = config.train_split if verb == "train" else config.val_split
        which = f"in split {split!r}"
        remedy = f"choose another with `{side}_split`, or split the study (slideduck split STUDY) and export again"
    else:
        which = f"for fold {config.fold}"
        remedy = (
            "choose another with `fold`, or split the study into folds (slideduck split STUDY --folds 5) "
            "and export again"
        )
    also = "" if config.where is None else f" that meets `where` {config.where!r}"
    return f"{beton}: no labelled tile to {verb} with {which}{also}; it has {_counts(sidecar, column)}; {remedy}"


def _counts(sidecar: Sidecar, column: str) -> str:
    """Return how many labelled tiles each split or fold has, such as ``"train: 80, val: 20 tiles"``."""
    values = sidecar.tile_split if column == "split" else sidecar.tile_fold
    labelled = sidecar.class_number >= 0
    counts = Counter("none" if value in (None, -1) else str(value) for value in values[labelled])
    listed = ", ".join(
        f"{column} {name}: {count:,} tile{'s' if count != 1 else ''}" for name, count in sorted(counts.items())
    )
    return f"{listed or 'no labelled tile'} and {np.count_nonzero(~labelled):,} without a label"
