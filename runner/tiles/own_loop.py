"""`slideduck.loader`: tiles for a training loop of one's own, from what `slideduck train` reads them with.

What was asked for is checked here, without torch: a wrong path, split or column is told at once.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slideduck.betons import BetonInfo, Sidecar, check_beton, read_sidecar
from slideduck.betons.pages import proof_key
from slideduck.errors import ConfigError
from slideduck.names import suggestion
from slideduck.runner.settings.recipe import Recipe, parse_recipe
from slideduck.runner.settings.train_config import SAMPLE_COLUMNS, TrainConfig
from slideduck.runner.tiles.conditions import table_columns
from slideduck.runner.tiles.rows import Rows, chosen_rows
from slideduck.runner.tiles.targets import Targets, read_targets

if TYPE_CHECKING:
    import numpy as np
    import torch

    from slideduck.runner.tiles.epochs import EpochLoader

__all__ = ["FoundBeton", "FoundTiles", "LoopSettings", "find_beton", "find_tiles", "loader"]

_DTYPES = ("uint8", "float32")


@dataclass(frozen=True)
class FoundBeton:
    """A beton and its side-car that are whole, before its tiles are read.

    Attributes
    ----------
    info : BetonInfo
        What `check_beton` returned.
    sidecar : Sidecar
        As it was read.
    key : str
        The file as it was then; see `slideduck.betons.pages.proof_key`.
    """

    info: BetonInfo
    sidecar: Sidecar
    key: str


@dataclass(frozen=True)
class FoundTiles:
    """The tiles that a loop of one's own reads.

    Attributes
    ----------
    beton : FoundBeton
        Where they are.
    targets : Targets
        What each tile of the beton is to be learnt as.
    rows : ndarray of int64
        The tiles that were chosen.
    """

    beton: FoundBeton
    targets: Targets
    rows: Rows


@dataclass(frozen=True, eq=False)
class LoopSettings:
    """The arguments of `loader`, by name."""

    beton: str | PathLike[str]
    split: str | None
    where: str | Iterable[Any] | None
    batch_size: int
    shuffle: bool
    balance: str | None
    replacement: str
    epoch_tiles: int | None
    columns: Sequence[str] | None
    task: str
    target: str
    augment: str | None
    normalise: bool | tuple[Sequence[float], Sequence[float]]
    dtype: Any
    drop_last: bool
    device: str | torch.device | None
    seed: int
    threads: int | None
    rank: int | None
    world_size: int | None

    @property
    def config(self) -> TrainConfig:
        """What a run with the same tiles is set to."""
        return TrainConfig(
            task=self.task,
            target=self.target,
            sample=self.balance or "natural",
            replacement=self.replacement,
            epoch_tiles=self.epoch_tiles,
            batch_size_per_rank=operator.index(self.batch_size),
            seed=operator.index(self.seed),
        )

    @property
    def recipe(self) -> Recipe:
        """How tiles are augmented."""
        return parse_recipe(self.augment or "none")

    @property
    def is_float(self) -> bool:
        """True if images come as float32."""
        return self.normalise is not False or _dtype_name(self.dtype) == "float32"

    def check(self) -> None:
        """Refuse impossible arguments.

        Raises
        ------
        ConfigError
            Naming the argument and its value.
        """
        for name, least in (("batch_size", 1), ("seed", 0), ("threads", 1), ("world_size", 1), ("rank", 0)):
            _check_number(name, getattr(self, name), least)
        if _dtype_name(self.dtype) not in _DTYPES:
            raise ConfigError(f"`dtype` is {self.dtype!r}; it must be {' or '.join(_DTYPES)}")
        if self.normalise is not False and self.normalise is not True:
            _check_statistics(self.normalise)
        if (self.rank is None) is not (self.world_size is None):
            raise ConfigError(f"`rank` is {self.rank} and `world_size` is {self.world_size}; give both or neither")
        if self.rank is not None and self.world_size is not None and self.rank >= self.world_size:
            raise ConfigError(f"`rank` is {self.rank}, but `world_size` is {self.world_size}; ranks count from 0")
        self._check_balance()

    def _check_balance(self) -> None:
        """Refuse columns that tiles cannot be balanced by, and orders that contradict each other."""
        for name in (self.balance or "label").split(","):
            if name not in SAMPLE_COLUMNS:
                raise ConfigError(
                    f"`balance` is {self.balance!r}; it must be one or more of {', '.join(SAMPLE_COLUMNS)}, such as "
                    f"label or slide,label{suggestion(name, SAMPLE_COLUMNS)}"
                )
        given = {"balance": self.balance, "epoch_tiles": self.epoch_tiles}
        given["replacement"] = None if self.replacement == "no" else self.replacement
        for name, value in given.items():
            if value is not None and not self.shuffle:
                raise ConfigError(
                    f"`{name}` is {value!r} and `shuffle` is False, with which each tile comes once and in order; give "
                    f"`shuffle=True`, or leave out `{name}`"
                )


def _check_number(name: str, value: object, least: int) -> None:
    """Refuse what is no whole number, or too small a one; None stands for a default."""
    if value is None and name not in ("batch_size", "seed"):
        return
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or number < least:
        raise ConfigError(f"`{name}` is {value!r}; it must be a whole number, {least} or more")


def _dtype_name(dtype: Any) -> str:
    """Return the name of a type, as text or as torch or numpy have it."""
    return str(getattr(dtype, "__name__", dtype)).removeprefix("torch.")


def _check_statistics(normalise: Any) -> None:
    """Refuse what is no pair of three means and three deviations from 0 to 1."""
    try:
        mean, std = ([float(number) for number in numbers] for numbers in normalise)
        is_right = len(mean) == len(std) == 3 and all(
            0 <= a <= 1 and 0 < b <= 1 for a, b in zip(mean, std, strict=True)
        )
    except (TypeError, ValueError):
        is_right = False
    if not is_right:
        raise ConfigError(
            f"`normalise` is {normalise!r}; it must be True, False, or a pair of mean and deviation, each of red, "
            "green and blue on the scale of 0 to 1, such as ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))"
        )


def find_beton(beton: str | PathLike[str]) -> FoundBeton:
    """Return a beton and its side-car, checked.

    Raises
    ------
    BetonError
        If either is missing, damaged or was changed, or they do not belong together.
    """
    path = Path(beton)
    info = check_beton(path)
    sidecar = read_sidecar(path, info)
    return FoundBeton(info, sidecar, proof_key(path, sidecar))


def find_tiles(
    beton: str | PathLike[str], split: str | None, where: str | Iterable[Any] | None, config: TrainConfig
) -> FoundTiles:
    """Return the tiles of a beton that were asked for, and what is to be learnt.

    Raises
    ------
    BetonError, ConfigError, QueryError
        As `find_beton`, `read_targets` and `chosen_rows`.
    """
    found = find_beton(beton)
    targets = read_targets(found.sidecar, config, found.info.path)
    return FoundTiles(found, targets, chosen_rows(targets.sidecar, split, found.info.path, where))


def _check_columns(columns: Sequence[str] | None, found: FoundTiles) -> None:
    """Refuse columns that the side-car does not have."""
    known = table_columns(found.beton.sidecar)
    for name in [columns] if isinstance(columns, str) else columns or ():
        if name not in known:
            raise ConfigError(
                f"{found.beton.info.path}: its side-car has no column {name!r}; `columns` is a list of some "
                f"of {', '.join(known)}{suggestion(name, known)}"
            )


def loader(
    beton: str | PathLike[str],
    *,
    split: str | None = "train",
    where: str | Iterable[Any] | None = None,
    batch_size: int = 64,
    shuffle: bool = True,
    balance: str | None = None,
    replacement: str = "no",
    epoch_tiles: int | None = None,
    columns: Sequence[str] | None = None,
    task: str = "classification",
    target: str = "label",
    augment: str | None = None,
    normalise: bool | tuple[Sequence[float], Sequence[float]] = False,
    dtype: str | torch.dtype | type[np.generic] = "uint8",
    drop_last: bool = False,
    device: str | torch.device | None = "cpu",
    seed: int = 0,
    threads: int | None = None,
    rank: int | None = None,
    world_size: int | None = None,
) -> EpochLoader:
    """Return a loader of a beton's tiles for a training loop of one's own.

    It reads as `slideduck train` does, as fast and in the same orders. Each ``iter`` of it is an epoch.

    Parameters
    ----------
    beton : path-like
        The beton, as `Study.export` writes it.
    split : str or None
        Split whose labelled tiles are read; None for those of all of the beton.
    where : str or sequence, optional
        A condition on the side-car's columns that they must meet, such as ``"site != 'A'"``, as ``train --where`` takes
        it. Or the tiles themselves, by row of the beton or by tile id, in any sequence: they must be in the split.
    batch_size : int
        Tiles in a batch of one process.
    shuffle : bool
        Read in an order of its own in each epoch; else in that of the beton, or of `where`.
    balance : str, optional
        Columns by which tiles are balanced, such as ``"label"`` or ``"slide,label"``.
    replacement : {"no", "yes"}
        Draw tiles by weight, some of them several times an epoch.
    epoch_tiles : int, optional
        Tiles of an epoch, of all processes; others have their turn in later epochs.
    columns : list of str, optional
        Columns of the side-car that come with each batch, as a fourth item: a dict of arrays.
    task, target : str
        What is learnt, as in `slideduck.runner.TrainConfig`.
    augment : str, optional
        How tiles are augmented, such as ``"d4"``, as in `slideduck.runner.TrainConfig`.
    normalise : bool or (mean, std)
        Standardise each channel: by the mean and deviation of these tiles, or by given ones from 0 to 1. Those of the
        training tiles are for all others too: ``normalise=(train.mean, train.std)``.
    dtype : {"uint8", "float32"}
        Of the images: uint8 from 0 to 255, or float32 from 0 to 1; standardised ones are float32.
    drop_last : bool
        Leave out tiles that make no whole batch on all processes.
    device : str, torch.device or None
        Where images and labels are put; None is the GPU of this process, or the CPU where there is none.
    seed : int
        What the order and the augmentation depend on, beside the epoch; never on `threads`.
    threads : int, optional
        Threads that decode; by default the cores of this process's share.
    rank, world_size : int, optional
        Number of this process and of all. By default those of `torch.distributed` where it is initialised, else those
        of a launcher's environment, else 0 of 1; they are looked up when an epoch begins.

    Returns
    -------
    EpochLoader
        Gives ``(images, labels, rows)``: images (batch, 3, tile_px, tile_px), labels (batch,) of int64, numbers in
        ``loader.classes``, and rows (batch,) of int64 on the CPU, which ``loader.table(rows)`` and
        ``loader.sidecar.tile_id[rows]`` take.

    Raises
    ------
    BetonError
        If the beton or its side-car is missing, damaged or was changed.
    ConfigError
        If an argument is impossible, or no tile is as asked for.
    QueryError
        If a condition cannot be used.
    """
    settings = LoopSettings(**locals())
    settings.check()
    settings.recipe  # noqa: B018 - refuses what it cannot read
    found = find_tiles(beton, split, where, settings.config)
    _check_columns(columns, found)
    from slideduck.runner.tiles.epochs import EpochLoader

    return EpochLoader(settings, found)
