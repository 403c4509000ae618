"""Splits patients into sides that balance labels, from a seed and the patients' names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from slideduck.errors import SplitError

__all__ = ["assign_sides", "merge_by_site"]

#: Pairs of units that one step of the search looks at; bounds its memory and time.
_MAX_PAIRS = 2_000_000
_MAX_STEPS = 1_000
#: What a side that lacks a label costs; more than any imbalance of the others can.
_MISSING_COST = 100.0


def assign_sides(
    names: Sequence[str], tiles: NDArray[np.int64], fractions: Sequence[float], seed: int
) -> NDArray[np.int64]:
    """Assign each patient to one side.

    Parameters
    ----------
    names : sequence of str, length n
        Patients (or whatever is never split), unique.
    tiles : numpy.ndarray of int64, shape (n, labels)
        Labelled tiles of each patient.
    fractions : sequence of float, length sides
        What each side should hold, summing to 1.
    seed : int
        Another seed gives another split.

    Returns
    -------
    numpy.ndarray of int64, shape (n,)
        Side of each patient, 0 to sides - 1.

    Raises
    ------
    SplitError
        If there are fewer patients than sides.

    Notes
    -----
    The start is a cut of the patients in the order of ``sha256(seed, name)``. From there single moves
    and swaps of two patients are made, always the one that betters the balance most (of equals the
    first in that order), until none does. The balance is the sum of squared differences between what
    a side holds and its fraction, over labels and over the number of patients; a side that lacks a
    label which enough patients have costs more than any of it. The result depends on the seed, the
    names and the tile counts, and not on the order of the rows.
    """
    n, sides = len(names), len(fractions)
    if n < sides:
        raise SplitError(
            f"{n} patient{'s' if n != 1 else ''} cannot fill {sides} sides; "
            "add slides of more patients, or ask for fewer folds"
        )
    digests = [hashlib.sha256(f"{seed}\0{name}".encode()).digest() for name in names]
    order = sorted(range(n), key=lambda i: (digests[i], names[i]))
    target = np.asarray(fractions, dtype=np.float64)
    share = tiles[order].astype(np.float64)
    enough = (share > 0).sum(axis=0) >= sides
    share = share / np.maximum(share.sum(axis=0), 1.0)
    # The number of patients is balanced like one more label.
    share = np.column_stack([share, np.full(n, 1.0 / n)])
    must = np.append(enough, True)

    side = _cut(n, target)
    for _ in range(_MAX_STEPS):
        if not _improve(side, share, must, target):
            break
    result = np.empty(n, dtype=np.int64)
    result[order] = side
    return result


def _cut(n: int, target: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the sides of n units cut in order, none of them empty."""
    counts = np.maximum(1, np.floor(target * n + 0.5).astype(np.int64))
    while counts.sum() != n:
        gap = counts - target * n
        where = int(np.argmin(gap)) if counts.sum() < n else int(np.argmax(np.where(counts > 1, gap, -np.inf)))
        counts[where] += 1 if counts.sum() < n else -1
    # The first units in the order go to the last side, which for a fraction is the validation side.
    return np.repeat(np.arange(len(target))[::-1], counts[::-1])


def _cost(held: NDArray[np.float64], must: NDArray[np.bool_], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the imbalance of sides that hold shares; ``held`` is (..., sides, labels)."""
    imbalance = np.square(held - target[:, None]).sum(axis=(-1, -2))
    missing = ((held < 1e-12) & must).sum(axis=(-1, -2))
    return np.asarray(imbalance + _MISSING_COST * missing)


def _improve(
    side: NDArray[np.int64], share: NDArray[np.float64], must: NDArray[np.bool_], target: NDArray[np.float64]
) -> bool:
    """Make the best single move or swap in place; return whether one betters the balance."""
    n, sides = len(side), len(target)
    held = np.zeros((sides, share.shape[1]))
    np.add.at(held, side, share)
    best = float(_cost(held, must, target)) - 1e-12
    change: tuple[int, int, int] | None = None

    sizes = np.bincount(side, minlength=sides)
    for to in range(sides):
        movable = np.flatnonzero((side != to) & (sizes[side] > 1))
        if len(movable) == 0:
            continue
        after = np.repeat(held[None], len(movable), axis=0)
        rows = np.arange(len(movable))
        after[rows, side[movable]] -= share[movable]
        after[rows, to] += share[movable]
        costs = _cost(after, must, target)
        at = int(np.argmin(costs))
        if costs[at] < best:
            best, change = float(costs[at]), (int(movable[at]), to, -1)

    for first in range(sides):
        for second in range(first + 1, sides):
            ours, theirs = np.flatnonzero(side == first), np.flatnonzero(side == second)
            room = max(1, _MAX_PAIRS // max(1, len(theirs) * sides * share.shape[1]))
            for start in range(0, len(ours), room):
                some = ours[start : start + room]
                delta = share[theirs][None, :, :] - share[some][:, None, :]
                after = np.broadcast_to(held, (*delta.shape[:2], *held.shape)).copy()
                after[:, :, first] += delta
                after[:, :, second] -= delta
                costs = _cost(after, must, target)
                at = int(np.argmin(costs))
                if costs.flat[at] < best:
                    a, b = divmod(at, len(theirs))
                    best, change = float(costs.flat[at]), (int(some[a]), second, int(theirs[b]))
                if n > 400 and change is not None and start > 0:
                    break  # On a large cohort any good swap will do; the next step looks again.

    if change is None:
        return False
    unit, to, partner = change
    if partner >= 0:
        side[partner] = side[unit]
    side[unit] = to
    return True


def merge_by_site(patients: Sequence[str], sites: Sequence[Sequence[str]]) -> list[int]:
    """Return the groups of patients that share sites, so that no site is cut.

    Parameters
    ----------
    patients : sequence of str
        Patients.
    sites : sequence of sequence of str
        The sites of each; a patient seen at two sites joins them.

    Returns
    -------
    list of int
        Number of the group of each patient, from 0 in the order of first appearance.
    """
    root: dict[str, str] = {}

    def find(site: str) -> str:
        while root.setdefault(site, site) != site:
            site = root[site]
        return site

    for own in sites:
        for site in own[1:]:
            first, second = sorted((find(own[0]), find(site)))
            root[second] = first
    numbers: dict[str, int] = {}
    return [numbers.setdefault(find(own[0]), len(numbers)) for own in sites]
