"""Predictions of tiles: of their class, of several labels, of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from slideduck.errors import RunError
from slideduck.words import agreeing, counted

__all__ = [
    "NO_LABEL",
    "THRESHOLD",
    "ClassPredictions",
    "LabelPredictions",
    "NumberPredictions",
    "Predictions",
    "class_numbers",
    "collect",
    "joined_labels",
]

#: Probability from which on a tile is said to have a label.
THRESHOLD = 0.5
#: What is written, as in the tables that labels are read from, where a tile has none of several.
NO_LABEL = "-"

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Predictions:
    """Predictions of tiles, in order of their rows in the beton.

    Attributes
    ----------
    rows : ndarray of int64, (n,)
        Rows of the beton, ascending.
    targets : ndarray, (n,) of int64 or (n, outputs) of float32
        What the tiles are.
    outputs : ndarray of float32, (n, outputs)
        What the network says; each kind of predictions has a name for it.
    """

    rows: Ints
    targets: NDArray[Any]
    outputs: Floats

    @property
    def given(self) -> NDArray[np.float64]:
        """What users are given, (n, outputs): probabilities, or numbers."""
        raise NotImplementedError

    def take(self, chosen: Ints) -> Self:
        """Return the predictions of some tiles, by their places from 0."""
        return type(self)(self.rows[chosen], self.targets[chosen], self.outputs[chosen])


class ClassPredictions(Predictions):
    """Predictions of the class of tiles: targets are class numbers, outputs logarithms of probabilities.

    With soft labels targets are probabilities, and the likeliest class is the true one.
    """

    @property
    def labels(self) -> Ints:
        """True class numbers, (n,)."""
        return class_numbers(self.targets)

    @property
    def soft(self) -> NDArray[np.float64] | None:
        """Probability of each class by soft labels, (n, classes); None where labels are certain."""
        return self.targets.astype(np.float64) if self.targets.ndim > 1 else None

    @property
    def log_probabilities(self) -> Floats:
        """Natural logarithms of the probabilities, (n, classes)."""
        return self.outputs

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Probability of each class, (n, classes); each row sums to 1."""
        odds = np.exp(self.log_probabilities.astype(np.float64))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))

    @property
    def given(self) -> NDArray[np.float64]:
        """The probabilities."""
        return self.probabilities

    @property
    def predicted(self) -> Ints:
        """Class number of the greatest probability; the lesser number where two are equal."""
        return np.asarray(self.log_probabilities.argmax(axis=1), np.int64)


def class_numbers(targets: NDArray[Any]) -> Ints:
    """Return the class numbers of targets: their own, or of soft labels the likeliest class."""
    return np.asarray(targets.argmax(axis=1), np.int64) if targets.ndim > 1 else targets


class LabelPredictions(Predictions):
    """Predictions of several labels: targets are 0 and 1, outputs logarithms of each label's probability."""

    @property
    def log_probabilities(self) -> NDArray[np.float64]:
        """Natural logarithm of the probability of each label, (n, labels)."""
        return self.outputs.astype(np.float64)

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Probability of each label, (n, labels)."""
        return np.asarray(np.exp(self.log_probabilities))

    @property
    def given(self) -> NDArray[np.float64]:
        """The probabilities."""
        return self.probabilities


class NumberPredictions(Predictions):
    """Predictions of numbers: targets and outputs are numbers, in the unit of their column."""

    @property
    def numbers(self) -> NDArray[np.float64]:
        """Predicted numbers, (n, columns)."""
        return self.outputs.astype(np.float64)

    @property
    def given(self) -> NDArray[np.float64]:
        """The numbers."""
        return self.numbers


def joined_labels(has: NDArray[np.bool_], names: Sequence[str]) -> list[str]:
    """Return the labels that each tile has, in the order of their columns, as ``a;b``, or ``-`` for none."""
    every = np.array(names, object)
    return [";".join(every[row]) or NO_LABEL for row in has]


P = TypeVar("P", bound=Predictions)


def collect(parts: Sequence[P], expected_rows: Ints) -> P:
    """Join the predictions of all ranks, in order of row.

    Parameters
    ----------
    parts : sequence of Predictions
        One a rank, in any order.
    expected_rows : ndarray of int64
        The rows that were to be predicted.

    Raises
    ------
    RunError
        Unless each expected row came exactly once.
    """
    rows = np.concatenate([part.rows for part in parts])
    order = np.argsort(rows, kind="stable")
    if not np.array_equal(rows[order], np.sort(expected_rows)):
        came, counts = np.unique(rows, return_counts=True)
        missing = np.setdiff1d(expected_rows, came)
        raise RunError(
            f"of {counted(len(expected_rows), 'tile')} {len(missing)} "
            f"{agreeing(len(missing), 'was', 'were')} not predicted and "
            f"{np.count_nonzero(counts > 1)} more than once; this is a fault of slideduck, please report it"
        )
    return type(parts[0])(
        rows[order],
        np.concatenate([part.targets for part in parts])[order],
        np.concatenate([part.outputs for part in parts])[order],
    )
