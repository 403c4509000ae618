"""Which tiles an epoch takes, and in which order: a function of the seed and the epoch alone.

The order is that of all ranks together; `slideduck.runner.tiles.open.TrainingData.epoch_rows` cuts it. Where tiles
are balanced by several columns, the groups of each are within those of the one before: ``slide,label`` gives
each slide the same part of an epoch, and within a slide each of its labels the same part of that.

===================  =============================================================================
Slideflow 3.0.2      here
===================  =============================================================================
NO_BALANCE           ``natural``: each tile once an epoch
BALANCE_BY_SLIDE     ``slide``
BALANCE_BY_PATIENT   ``patient,slide`` (it shares a patient's part out over the slides); ``patient`` for
                     all tiles of a patient alike
BALANCE_BY_CATEGORY  ``label`` (there the category of a slide, here the label of the tile)
===================  =============================================================================

Slideflow draws without end in those proportions, so that small groups come again and again: ``replacement``
``yes`` does that. Without it an epoch takes as many tiles of each group as the smallest allows, and goes on
in the next epoch where it ended, so that all are seen in turn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from slideduck.betons import Sidecar
from slideduck.errors import ConfigError
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tiles.conditions import tile_table
from slideduck.words import counted

__all__ = ["Groups", "Sampler", "clipped_rows", "group_tiles", "make_sampler"]

Rows = NDArray[np.int64]

#: Keys that keep random draws for one purpose apart from those for another.
_TURN, _DRAW = 1, 2


@dataclass(frozen=True, eq=False)
class Groups:
    """The groups that tiles are balanced over: leaves of a tree with a level for each column.

    Attributes
    ----------
    of_tile : ndarray of int64, (n,)
        Number of each tile's group.
    place, siblings : ndarray of int64, (levels, groups)
        At each level, the place of the group's branch among those of its parent, and their number.
    names : tuple of str
        Such as ``"slide A12, label tumour"``.
    """

    of_tile: Rows
    place: Rows
    siblings: Rows
    names: tuple[str, ...]

    @cached_property
    def counts(self) -> Rows:
        """Tiles of each group, (groups,); none is empty."""
        return np.bincount(self.of_tile, minlength=len(self.names))

    @property
    def parts(self) -> Rows:
        """One over the part of an epoch that is due to each group, (groups,)."""
        return np.asarray(np.prod(self.siblings, axis=0, dtype=np.int64))

    @property
    def most(self) -> int:
        """Tiles of the longest epoch in which each group has its part and no tile comes twice."""
        return int((self.counts * self.parts).min())

    @property
    def smallest(self) -> int:
        """The group that keeps it from being longer."""
        return int((self.counts * self.parts).argmin())

    def taken(self, tiles: int) -> Rows:
        """Return how many of the first `tiles` of all epochs are due to each group, (groups,).

        They sum to `tiles`, and no group is a whole tile away from its part at any level.
        """
        count = np.full(len(self.names), tiles, np.int64)
        for place, siblings in zip(self.place, self.siblings, strict=True):
            count = (count + place) // siblings
        return count


@dataclass(frozen=True, eq=False)
class Sampler:
    """The tiles of each epoch.

    Attributes
    ----------
    rows : ndarray of int64, (n,)
        Rows of the beton that take part, ascending.
    seed : int
        What the order depends on, beside the epoch.
    tiles : int
        Tiles of an epoch.
    groups : Groups or None
        What they are balanced over; None takes each once, in an order of its own in each epoch.
    with_replacement : bool
        A tile may come several times in an epoch.
    """

    rows: Rows
    seed: int
    tiles: int
    groups: Groups | None = None
    with_replacement: bool = False

    @cached_property
    def shares(self) -> NDArray[np.float64] | None:
        """The part of an epoch that is due to each tile on average, (n,), summing to 1; None where all are alike."""
        if self.groups is None:
            return None
        of_group = 1 / (self.groups.parts * self.groups.counts)
        return np.asarray(of_group[self.groups.of_tile])

    def with_tiles(self, tiles: int) -> Sampler:
        """Return the same with another length of an epoch, such as a number of whole batches."""
        return self if self.groups is None else replace(self, tiles=tiles)

    def order(self, epoch: int) -> Rows:
        """Return the rows of an epoch of all ranks together, in order, (tiles,)."""
        if self.groups is None:
            return np.random.default_rng([self.seed, epoch]).permutation(self.rows)
        if self.with_replacement:
            drawn = np.random.default_rng([self.seed, epoch, _DRAW]).random(self.tiles)
            place = np.searchsorted(self._cumulated, drawn, side="right")
            return self.rows[np.minimum(place, len(self.rows) - 1)]
        counts = self.groups.counts
        start = self.groups.taken(epoch * self.tiles)
        due = self.groups.taken((epoch + 1) * self.tiles) - start
        # Tile i of those due to a group is the one at start + i of its queue, which has no end: it is a ring.
        number = np.arange(due.sum()) - np.repeat(np.cumsum(due) - due, due)
        place = np.repeat(np.cumsum(counts) - counts, due) + (np.repeat(start, due) + number) % np.repeat(counts, due)
        return np.random.default_rng([self.seed, epoch]).permutation(self.rows[self._queues[place]])

    @cached_property
    def _cumulated(self) -> NDArray[np.float64]:
        assert self.shares is not None
        total = np.cumsum(self.shares)
        return np.asarray(total / total[-1])

    @cached_property
    def _queues(self) -> Rows:
        """The tiles of each group in the order in which they have their turn, one group after the other, (n,)."""
        assert self.groups is not None
        mixed = np.random.default_rng([self.seed, 0, _TURN]).permutation(len(self.rows))
        return mixed[np.argsort(self.groups.of_tile[mixed], kind="stable")]


def make_sampler(sidecar: Sidecar, rows: Rows, config: TrainConfig, beton: Path, argument: str = "sample") -> Sampler:
    """Return the sampler, which chooses the tiles of each epoch among the training rows.

    Parameters
    ----------
    rows : ndarray of int64
        The training rows, in any order.
    config : TrainConfig
        Of it ``sample``, ``replacement``, ``epoch_tiles`` and ``seed``.
    argument : str
        What messages call ``sample``.

    Raises
    ------
    ConfigError
        If no training tile has a value in a column, or an epoch shall take more tiles than there are.
    """
    rows = np.sort(rows)
    columns = () if config.sample == "natural" else tuple(config.sample.split(","))
    with_replacement = config.replacement == "yes"
    if not columns and not with_replacement and config.epoch_tiles is None:
        return Sampler(rows, config.seed, len(rows))
    groups = group_tiles(sidecar, rows, columns, beton, argument)
    most = len(rows) if with_replacement else groups.most
    tiles = most if config.epoch_tiles is None else config.epoch_tiles
    if tiles > most and not with_replacement:
        limit = f"{counted(len(rows), 'tile trains', 'tiles train')}"
        if columns:
            limit = f"{groups.names[groups.smallest]} has {counted(int(groups.counts[groups.smallest]), 'tile')}"
        raise ConfigError(
            f"{beton}: epoch_tiles is {tiles} but {limit}, so that an epoch without repeats has "
            f"{counted(most, 'tile')} at most; give fewer with `epoch_tiles`, or `replacement='yes'`"
        )
    return Sampler(rows, config.seed, tiles, groups, with_replacement)


def group_tiles(sidecar: Sidecar, rows: Rows, columns: Sequence[str], beton: Path, argument: str = "sample") -> Groups:
    """Return the groups of some tiles by columns of the side-car; tiles without a value are a group too.

    Parameters
    ----------
    rows : ndarray of int64, (n,)
        At least one.
    columns : sequence of str
        From the outermost; none makes one group of all.
    argument : str
        What messages call them.

    Raises
    ------
    ConfigError
        If none of the tiles has a value in a column.
    """
    table = tile_table(sidecar).select(list(columns)).take(pa.array(rows))
    codes = np.zeros((len(rows), len(columns)), np.int64)
    for level, column in enumerate(columns):
        values = table[column].combine_chunks()
        if values.null_count == len(values):
            raise ConfigError(f"{beton}: {argument} is {','.join(columns)!r} but no training tile has a {column}")
        # Groups come in the order of their values, those without one last, whatever the order of slides or rows.
        codes[:, level] = pc.rank(values, "ascending", tiebreaker="dense").to_numpy()
    leaves, first, of_tile = np.unique(codes, axis=0, return_index=True, return_inverse=True)
    place, siblings = np.zeros((2, len(columns), len(leaves)), np.int64)
    for level in range(len(columns)):
        branches, of_leaf = np.unique(leaves[:, : level + 1], axis=0, return_inverse=True)
        _, parent = np.unique(branches[:, :level], axis=0, return_inverse=True)
        counts = np.bincount(parent.reshape(-1))
        start = (np.cumsum(counts) - counts)[parent.reshape(-1)]
        place[level] = (np.arange(len(branches)) - start)[of_leaf.reshape(-1)]
        siblings[level] = counts[parent.reshape(-1)][of_leaf.reshape(-1)]
    names = [
        ", ".join(f"no {name}" if value is None else f"{name} {value}" for name, value in values.items())
        for values in table.take(pa.array(first)).to_pylist()
    ]
    return Groups(of_tile.reshape(-1), place, siblings, tuple(names) if columns else ("all",))


def clipped_rows(sidecar: Sidecar, rows: Rows, clip: int | None, seed: int) -> Rows:
    """Return at most `clip` rows of each slide, ascending, chosen by the seed and the tiles' names alone.

    A slide with fewer keeps all of them.
    """
    if clip is None:
        return rows
    slides = sidecar.slide[rows]
    counts = np.bincount(slides)
    kept = counts[slides] <= clip
    for slide in np.flatnonzero(counts > clip):
        places = np.flatnonzero(slides == slide)
        drawn = [hashlib.blake2b(f"{seed}\0{sidecar.tile_id[rows[place]]}".encode()).digest() for place in places]
        kept[places[sorted(range(len(places)), key=drawn.__getitem__)[:clip]]] = True
    return np.sort(rows[kept])
