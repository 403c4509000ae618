"""The tiles of a run: a beton with its side-car, the rows of each side, and how they make up steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slideduck.betons import Sidecar
from slideduck.betons.pages import Sums, proof_key, proven_sums
from slideduck.errors import BetonError, ConfigError
from slideduck.runner.ranks import dist
from slideduck.runner.ranks.dist import Place
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tiles.loader import TIMEOUT_S, TileLoader, rank_rows, steps_and_batch
from slideduck.runner.tiles.own_loop import FoundBeton, find_beton
from slideduck.runner.tiles.rows import Rows, RunRows, run_rows
from slideduck.runner.tiles.sampling import Sampler, clipped_rows, make_sampler
from slideduck.runner.tiles.targets import Targets, read_targets
from slideduck.words import counted

__all__ = ["TrainingData", "image_statistics", "input_statistics", "open_beton", "open_data", "open_tiles"]

#: Tiles whose mean and deviation stand for those of all.
_TILES_FOR_STATISTICS = 2048


@dataclass(frozen=True)
class TrainingData:
    """The tiles that a run trains and validates on.

    Attributes
    ----------
    beton : Path
        The beton.
    sidecar : Sidecar
        What its tiles are; its classes are what is learnt, see `slideduck.runner.tiles.targets.Targets`.
    targets : ndarray, (samples,) of int64 or (samples, outputs) of float32
        What each tile is to be learnt as.
    task : str
        As in the settings.
    loader : TileLoader
        Reads them.
    rows : RunRows
        Rows of each side.
    sampler : Sampler
        Which of the training rows each epoch takes.
    steps, batch_size : int
        Batches of an epoch, a whole number of the optimizer's steps, and tiles that each rank takes in one.
    """

    beton: Path
    sidecar: Sidecar
    targets: NDArray[Any]
    task: str
    loader: TileLoader
    rows: RunRows
    sampler: Sampler
    steps: int
    batch_size: int

    def epoch_rows(self, epoch: int, place: Place) -> Rows:
        """Return the rows that one rank trains on in an epoch, in order: ``steps`` batches of ``batch_size``."""
        return rank_rows(self.sampler.order(epoch), self.batch_size, self.steps, place.rank, place.world_size)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in order of their numbers."""
        return list(self.sidecar.classes)

    @property
    def facts(self) -> dict[str, Any]:
        """The facts of the beton that a run records."""
        return {
            "path": str(self.beton),
            "sidecar_sha256": self.sidecar.sha256,
            "metadata_sha256": self.sidecar.raw["beton"]["metadata_sha256"],
            "samples": self.sidecar.samples,
            "image": dict(self.sidecar.raw["beton"]["image"]),
            "grid": dict(self.sidecar.raw["grid"]),
        }


def open_beton(
    beton: Path,
    threads: int,
    *,
    timeout_s: float = TIMEOUT_S,
    place: Place | None = None,
    progress: bool = True,
) -> tuple[Sidecar, TileLoader]:
    """Return a beton's side-car and a loader of its tiles, which are all as they were written.

    Parameters
    ----------
    beton : Path
        The beton.
    threads : int
        Threads that check and decode.
    timeout_s : float
        Longest wait of the loader for a batch.
    place : Place, optional
        Where this process stands among others that open the beton too; one on each machine compares its pages with
        their checksums.
    progress : bool
        Show how far that is, where it takes long.

    Raises
    ------
    BetonError
        If either is damaged or was changed, or they do not belong together.
    """
    found = find_beton(beton)
    return found.sidecar, open_tiles(found, threads, timeout_s=timeout_s, place=place, progress=progress)


def open_tiles(
    found: FoundBeton,
    threads: int,
    *,
    timeout_s: float = TIMEOUT_S,
    place: Place | None = None,
    progress: bool = True,
) -> TileLoader:
    """Return a loader of the tiles of a beton that was found to be whole; parameters as of `open_beton`.

    Raises
    ------
    BetonError
        If its tiles are not as they were written, or it was replaced meanwhile.
    """
    beton, sidecar = found.info.path, found.sidecar

    def check(going_on: Callable[[], None]) -> Sums | None:
        return proven_sums(beton, sidecar, threads=threads, show=progress, going_on=going_on)

    sums = check(lambda: None) if place is None else dist.in_step(check, place)
    loader = TileLoader(beton, threads, info=found.info, timeout_s=timeout_s, sums=sums)
    if not np.array_equal(loader.labels, sidecar.class_number):
        raise BetonError(f"{beton}: its side-car is of another beton: labels differ; export the beton again")
    if proof_key(beton, sidecar) != found.key:
        raise BetonError(f"{beton} was replaced while it was opened; start again")
    return loader


def open_data(beton: Path, config: TrainConfig, place: Place, *, progress: bool = True) -> TrainingData:
    """Open a beton for training and check that it can be trained on.

    Raises
    ------
    BetonError
        If the beton or its side-car is damaged.
    ConfigError
        If it has a single class, a side has no tiles, there are too few for a step, or they cannot be balanced
        as the settings say.
    QueryError
        If a condition of the settings cannot be used.
    RunError
        If a patient is on both sides.
    """
    # Half as long as other ranks wait for this one, so that they report the cause and not a silent rank. The first
    # batch waits until the decoder is compiled.
    timeout_s = min(TIMEOUT_S, max(60.0, 30 * place.timeout_minutes))
    sidecar, loader = open_beton(beton, place.threads, timeout_s=timeout_s, place=place, progress=progress)
    targets = read_targets(sidecar, config, beton)
    _refuse_one_class(targets, config, beton)
    if targets.sidecar is not sidecar or targets.are_soft:
        loader.targets = targets.values
    sidecar = targets.sidecar
    rows = run_rows(sidecar, config, beton)
    labelled = len(rows.train)
    train = clipped_rows(sidecar, rows.train, config.clip, config.seed)
    rows = replace(rows, train=train, clipped=labelled - len(train))
    sampler = make_sampler(sidecar, rows.train, config, beton)
    steps, batch_size = steps_and_batch(sampler.tiles, config.batch_size_per_rank, place.world_size)
    # Whole steps of the optimizer: what a sampler counts as taken is trained on.
    steps -= steps % max(1, min(config.accumulate, steps))
    # Batch norm cannot take the deviation of one tile.
    if batch_size < 2:
        raise ConfigError(
            f"{beton}: {counted(sampler.tiles, 'training tile')} for "
            f"{counted(place.world_size, 'process', 'processes')} with batches of {config.batch_size_per_rank}; "
            "each process needs two tiles a step: "
            "give fewer with `nproc`, or a larger `batch_size_per_rank`"
        )
    sampler = sampler.with_tiles(steps * batch_size * place.world_size)
    return TrainingData(beton, sidecar, targets.values, config.task, loader, rows, sampler, steps, batch_size)


def _refuse_one_class(targets: Targets, config: TrainConfig, beton: Path) -> None:
    """Refuse targets of a single class."""
    names = targets.names
    if not targets.are_classes or len(names) > 1:
        return
    of_column = "" if config.target == "label" else f" of {config.target}"
    if not names:
        hint = "" if of_column else "; to learn a value of the slides, give `target='patient:COLUMN'`"
        raise ConfigError(f"{beton}: no tile has a {'value' if of_column else 'label'}{of_column}{hint}")
    raise ConfigError(f"{beton}: its only class{of_column} is {names[0]!r}; a network needs two or more")


def input_statistics(
    data: TrainingData, config: TrainConfig, pixels: dict[str, list[float]] | None
) -> dict[str, list[float]]:
    """Return mean and deviation that tiles are standardised by: those of the training tiles, or of the model.

    Parameters
    ----------
    pixels : dict or None
        Those that the model's weights were trained on, 0 to 255, where they are known.

    Raises
    ------
    ConfigError
        If those of the model are asked for and not known.
    """
    if config.normalise == "model" and pixels is None:
        raise ConfigError(
            f"normalise is 'model', but nothing says on what mean and deviation {config.model!r} was trained "
            "(a preprocessor_config.json beside its weights would); use auto or tiles"
        )
    return (
        image_statistics(data.loader, data.rows.train, config.seed)
        if config.normalise == "tiles" or pixels is None
        else pixels
    )


def image_statistics(loader: TileLoader, rows: Rows, seed: int) -> dict[str, list[float]]:
    """Return ``mean`` and ``std`` of some tiles, one number a channel, on the scale of 0 to 255.

    They are exact for the tiles looked at, which are at most 2,048, chosen by the seed.
    """
    if len(rows) > _TILES_FOR_STATISTICS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _TILES_FOR_STATISTICS, replace=False))
    counts = np.zeros((3, 256), np.int64)
    with loader.epoch(rows, 64) as batches:
        for images, _labels, _rows in batches:
            for channel in range(3):
                counts[channel] += np.bincount(images[..., channel].reshape(-1), minlength=256)
    values = np.arange(256)
    n = counts.sum(axis=1)
    mean = counts @ values / n
    deviation = np.sqrt(counts @ values**2 / n - mean**2)
    return {"mean": mean.tolist(), "std": np.maximum(deviation, 1.0).tolist()}
