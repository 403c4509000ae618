"""What `slideduck.loader` returns: the batches of one epoch after the other, on this process's share of the tiles."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.distributed as torch_dist

from slideduck.betons import Sidecar
from slideduck.errors import ConfigError
from slideduck.runner.ranks.dist import cores
from slideduck.runner.tiles.augment import Augmenter
from slideduck.runner.tiles.conditions import tile_table
from slideduck.runner.tiles.loader import Batch, to_device
from slideduck.runner.tiles.open import image_statistics, open_tiles
from slideduck.runner.tiles.own_loop import FoundTiles, LoopSettings, find_tiles
from slideduck.runner.tiles.rows import Rows, as_rows
from slideduck.runner.tiles.sampling import Sampler, make_sampler
from slideduck.runner.tiles.targets import as_exported
from slideduck.words import counted

__all__ = ["EpochLoader", "rank_batches"]

#: What a launcher sets for each process, and what those need to find one another.
_RANK, _WORLD_SIZE, _ADDRESS = "RANK", "WORLD_SIZE", "MASTER_ADDR"


def rank_batches(n: int, batch_size: int, rank: int, world_size: int, drop_last: bool) -> list[slice]:
    """Return the parts of an epoch's order that are one rank's batches: as many on each rank.

    Whole global batches are cut as `slideduck.runner.tiles.loader.rank_rows` cuts them. What is left over is shared
    out, so that every tile comes once on one rank and batches of a step differ by a tile at most.

    Raises
    ------
    ConfigError
        If ranks would have different numbers of batches, on which processes wait for each other for ever.
    """
    whole = batch_size * world_size
    steps, rest = divmod(n, whole)
    ends = [whole * (step + 1) for step in range(steps)]
    if rest and not drop_last:
        ends.append(n)
        # The last step needs a tile for each rank; the one before gives them.
        if steps and rest < world_size:
            ends[-2] = n - world_size
    begins = [0, *ends[:-1]]
    if any(end - begin < world_size for begin, end in zip(begins, ends, strict=False)):
        raise ConfigError(
            f"{counted(n, 'tile')} in batches of {batch_size} cannot be shared out over {world_size} processes so "
            "that all have as many batches; give fewer processes, `drop_last=True`, or a `batch_size` of 2 or more"
        )
    return [
        slice(begin + (end - begin) * rank // world_size, begin + (end - begin) * (rank + 1) // world_size)
        for begin, end in zip(begins, ends, strict=False)
    ]


@dataclass
class _Progress:
    """How far an epoch is: batches that were given."""

    epoch: int
    batches: int


class EpochLoader:
    """Tiles of a beton in batches, an epoch each time it is iterated over; made by `slideduck.loader`.

    Several iterators of one loader may be open at once: each is an epoch of its own. One that is left early ends its
    threads. In several processes each has its own share, and all have as many batches.

    Attributes
    ----------
    sidecar : Sidecar
        What the tiles of the beton are; ``sidecar.tile_id[rows]`` are the names of a batch's tiles.
    rows : ndarray of int64
        The tiles that are read, of all processes.
    device : torch.device
        Where images and labels are put.
    epoch : int
        The epoch that the next iterator gives.
    """

    def __init__(self, settings: LoopSettings, found: FoundTiles) -> None:
        self._settings, self._found = settings, found
        self.sidecar: Sidecar = found.targets.sidecar
        self.rows: Rows = found.rows
        self.device = _device(settings.device)
        self._sampler = _sampler(settings, found)
        self._path = found.beton.info.path
        threads = settings.threads or max(1, cores() // _environment_number("LOCAL_WORLD_SIZE", 1, least=1))
        self._tiles = open_tiles(found.beton, threads)
        if found.targets.sidecar is not found.beton.sidecar:
            self._tiles.targets = found.targets.values
        self._progress: _Progress | None = None
        self.epoch, self._skipped = 0, 0
        self._statistics = _statistics(settings, self)
        len(self)  # refuses what cannot be shared out, now rather than in the first epoch

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in order of their numbers."""
        return list(self.sidecar.classes)

    @property
    def labels(self) -> np.ndarray:
        """What each tile of `rows` is to be learnt as, such as its class number."""
        return np.asarray(self._found.targets.values[self.rows])

    @property
    def mean(self) -> list[float]:
        """Mean of each channel that images are standardised by, on the scale of 0 to 1; 0 where they are not."""
        return [0.0] * 3 if self._statistics is None else [number / 255 for number in self._statistics["mean"]]

    @property
    def std(self) -> list[float]:
        """Deviation of each channel, as `mean`; 1 where they are not."""
        return [1.0] * 3 if self._statistics is None else [number / 255 for number in self._statistics["std"]]

    def table(self, rows: Iterable[int] | None = None) -> pd.DataFrame:
        """Return what the side-car says of tiles: a row for each, in their order, with the columns of conditions.

        Parameters
        ----------
        rows : sequence of int, optional
            Rows of the beton, such as those of a batch; by default all that are read.
        """
        asked = self.rows if rows is None else as_rows(rows, "rows")
        frame: pd.DataFrame = self._table.take(asked).to_pandas()
        return frame

    def set_epoch(self, epoch: int) -> None:
        """Let the next iterator give an epoch, from its start.

        Without it each gives the one after that of the iterator before.
        """
        self.epoch, self._skipped, self._progress = int(epoch), 0, None

    def state_dict(self) -> dict[str, Any]:
        """Return how far the newest iterator is, for a checkpoint: the epoch and the batches that it gave."""
        epoch, batches = self.epoch, self._skipped
        if self._progress is not None and self._progress.batches < len(self):
            epoch, batches = self._progress.epoch, self._progress.batches
        return {"epoch": epoch, "batches": batches, "of": self._facts()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken: the next iterator gives what is left of that epoch.

        Raises
        ------
        ConfigError
            If it is of a loader of other tiles, another order or other batches of all processes together.
        """
        facts = self._facts()
        if set(state) != {"epoch", "batches", "of"} or set(state["of"]) != set(facts):
            raise ConfigError("this is no state of a loader; give what its state_dict returned")
        for name, value in facts.items():
            if state["of"][name] != value:
                raise ConfigError(
                    f"{self._path}: the state is of another loader: {name} was {state['of'][name]!r} and is {value!r}; "
                    "make the loader as it was, or begin anew without the state"
                )
        self.set_epoch(state["epoch"])
        self._skipped = int(state["batches"])

    def __len__(self) -> int:
        """Return the batches of an epoch: as many on each process."""
        return len(self._cuts())

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Yield the batches of the next epoch: of the one that is next when the first batch is asked for."""
        progress = self._progress = _Progress(self.epoch, self._skipped)
        self.epoch, self._skipped = self.epoch + 1, 0
        yield from self._batches(progress)

    def __repr__(self) -> str:
        rank, world_size = self._place()
        return (
            f"<slideduck.loader {self._path}: {counted(len(self.rows), 'tile')} of "
            f"{counted(len(self.classes), 'class', 'classes')}, {len(self):,} "
            f"batches an epoch, epoch {self.epoch} next, rank {rank} of {world_size}>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by what it was made with: another process opens the beton itself."""
        return _made_again, (self._settings, self.epoch, self._skipped)

    @cached_property
    def _table(self) -> Any:
        return tile_table(as_exported(self.sidecar))

    def _place(self) -> tuple[int, int]:
        """Return the rank and the number of processes, as they are now."""
        if self._settings.rank is not None and self._settings.world_size is not None:
            return self._settings.rank, self._settings.world_size
        if torch_dist.is_available() and torch_dist.is_initialized():
            return torch_dist.get_rank(), torch_dist.get_world_size()
        return _launched_place()

    def _cuts(self) -> list[slice]:
        return rank_batches(self._sampler.tiles, self._settings.batch_size, *self._place(), self._settings.drop_last)

    def _order(self, epoch: int) -> Rows:
        return self._sampler.order(epoch) if self._settings.shuffle else self.rows

    def _batches(self, progress: _Progress) -> Iterator[tuple[Any, ...]]:
        """Yield what is left of an epoch."""
        order, cuts, done = self._order(progress.epoch), self._cuts(), progress.batches
        batches = [order[cut] for cut in cuts[done:]]
        if not batches:
            return
        augmenter = Augmenter(self._settings.recipe, self._settings.seed, self.device)
        augmenter.epoch(progress.epoch, self._settings.batch_size, len(cuts), *self._place())
        with self._tiles.epoch(np.concatenate(batches), [len(rows) for rows in batches]) as reading:
            for step, batch in enumerate(to_device(reading, self.device), start=done):
                progress.batches = step + 1
                yield self._item(batch, augmenter.apply(batch.images_BCHW, step))

    def _item(self, batch: Batch, images: torch.Tensor) -> tuple[Any, ...]:
        """Return a batch as the caller takes it."""
        item = (self._of_dtype(images), batch.labels, torch.from_numpy(batch.rows))
        if self._settings.columns is None:
            return item
        names = self._settings.columns
        part = self._table.select([names] if isinstance(names, str) else list(names)).take(batch.rows)
        return *item, {name: part[name].to_numpy() for name in part.column_names}

    def _of_dtype(self, images: torch.Tensor) -> torch.Tensor:
        """Return images, from 0 to 255 and perhaps augmented to floats, as they were asked for."""
        if not self._settings.is_float:
            return images if images.dtype == torch.uint8 else images.round_().clamp_(0, 255).to(torch.uint8)
        images = images.to(torch.float32, memory_format=torch.channels_last)
        if self._statistics is None:
            return images / 255
        mean, std = (self._channels(self._statistics[name]) for name in ("mean", "std"))
        return (images - mean) / std

    def _channels(self, numbers: list[float]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.float32, device=self.device).view(1, 3, 1, 1)

    def _facts(self) -> dict[str, Any]:
        """Return what the order and the batches depend on."""
        settings = self._settings
        return {
            "side-car": self.sidecar.sha256,
            "tiles": hashlib.sha256(self.rows.tobytes()).hexdigest(),
            "seed": settings.seed,
            "shuffle": settings.shuffle,
            "balance": settings.balance,
            "replacement": settings.replacement,
            "epoch_tiles": settings.epoch_tiles,
            "augment": settings.augment,
            "drop_last": settings.drop_last,
            "batch_size times world_size": settings.batch_size * self._place()[1],
        }


def _made_again(settings: LoopSettings, epoch: int, skipped: int) -> EpochLoader:
    """Return a loader that was pickled."""
    loader = EpochLoader(settings, find_tiles(settings.beton, settings.split, settings.where, settings.config))
    loader.set_epoch(epoch)
    loader._skipped = skipped
    return loader


def _sampler(settings: LoopSettings, found: FoundTiles) -> Sampler:
    """Return what chooses the tiles of each epoch."""
    if not settings.shuffle:
        return Sampler(found.rows, settings.seed, len(found.rows))
    return make_sampler(found.targets.sidecar, found.rows, settings.config, found.beton.info.path, argument="`balance`")


def _statistics(settings: LoopSettings, loader: EpochLoader) -> dict[str, list[float]] | None:
    """Return mean and deviation of each channel, from 0 to 255, or None."""
    if settings.normalise is False:
        return None
    if settings.normalise is True:
        return image_statistics(loader._tiles, np.sort(loader.rows), settings.seed)
    mean, std = settings.normalise
    return {"mean": [255 * float(number) for number in mean], "std": [255 * float(number) for number in std]}


def _device(device: str | torch.device | None) -> torch.device:
    """Return a device with its number: the GPU of this process, where none is named.

    Raises
    ------
    ConfigError
        If there is no such device.
    """
    gpus = torch.cuda.device_count()
    try:
        found = torch.device(device if device is not None else "cuda" if gpus else "cpu")
    except RuntimeError:
        raise ConfigError(
            f"`device` is {device!r}; it must be cpu, cuda, or cuda and a number, such as cuda:1"
        ) from None
    if found.type not in ("cpu", "cuda"):
        raise ConfigError(f"`device` is {str(found)!r}; tiles go to cpu or cuda: move them yourself, `device='cpu'`")
    if found.type == "cuda":
        number = found.index
        if number is None:
            number = (torch.cuda.current_device() if gpus else 0) or _environment_number("LOCAL_RANK", 0)
        if number >= gpus:
            raise ConfigError(
                f"`device` is {str(found)!r}, but torch sees {gpus} GPUs; give `device='cpu'`, or another"
            )
        return torch.device("cuda", number)
    return found


def _launched_place() -> tuple[int, int]:
    """Return the rank and the number of processes that a launcher set, or 0 of 1.

    Raises
    ------
    ConfigError
        If the environment has a rank, but nothing by which processes find one another.
    """
    if _RANK not in os.environ or _WORLD_SIZE not in os.environ:
        return 0, 1
    rank, world_size = _environment_number(_RANK, 0), _environment_number(_WORLD_SIZE, 1, least=1)
    if world_size > 1 and _ADDRESS not in os.environ:
        raise ConfigError(
            f"{_RANK}={rank} and {_WORLD_SIZE}={world_size} are set without {_ADDRESS}: no launcher started this "
            f"process; unset them, or give `rank` and `world_size`"
        )
    if rank >= world_size:
        raise ConfigError(f"{_RANK}={rank}, but {_WORLD_SIZE}={world_size}; unset them, or start with torchrun")
    return rank, world_size


def _environment_number(name: str, default: int, least: int = 0) -> int:
    """Return a launcher's number from the environment."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(f"{name}={text!r} is not a number from {least}; unset it, or start with torchrun")
    return int(text)
