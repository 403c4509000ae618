"""Sources of tiles: a beton, or the slides of a study; both are read slide by slide."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import slideduck
from slideduck.betons.sidecar import Sidecar
from slideduck.errors import BetonError
from slideduck.runner.prediction.slide_tiles import GridSlide, choose_grid, choose_slides, read_tiles
from slideduck.runner.ranks import dist
from slideduck.runner.runs.trained import TrainedModel, warn_of_other_tiles
from slideduck.runner.tiles.loader import TileLoader
from slideduck.runner.tiles.open import open_beton
from slideduck.study import Study

__all__ = ["TileSource", "TilesOfSlide", "is_beton", "open_tiles"]

Batches = AbstractContextManager[Iterator[NDArray[np.uint8]]]


@dataclass(frozen=True)
class TilesOfSlide:
    """The tiles of one slide, and how to read them.

    Attributes
    ----------
    slide : str
        Name of the slide.
    width, height : int
        Size of level 0, pixels.
    mpp : float
        Microns per base pixel.
    tile_px : int
        Side of a tile as the network sees it, pixels.
    extract_px, stride : int
        Side of a tile, and the step to the next, base pixels.
    n_tiles : int
        How many there are.
    fingerprint : str or None
        Fingerprint of the slide's file.
    rows : callable
        Returns a pyarrow.Table with a row for each: ``tile_id, loc_x, loc_y, grid_x, grid_y, base_x, base_y``.
    batches : callable
        Takes such a table, all of its rows or some, and the number of tiles at a time; returns a block in which
        their pixels are read, RGB, uint8 (batch, tile_px, tile_px, 3), in the order of the rows.
    """

    slide: str
    width: int
    height: int
    mpp: float
    tile_px: int
    extract_px: int
    stride: int
    n_tiles: int
    fingerprint: str | None
    rows: Callable[[], pa.Table]
    batches: Callable[[pa.Table, int], Batches]


@dataclass(frozen=True)
class TileSource:
    """Tiles of one grid.

    Attributes
    ----------
    study : Study or None
        The study, or None for a beton.
    grid : str
        Name of the grid.
    slides : tuple of TilesOfSlide
        In the order of their names.
    """

    study: Study | None
    grid: str
    slides: tuple[TilesOfSlide, ...]


def is_beton(source: Study | Path | str) -> bool:
    """Return whether a source is a beton and not a study, by its name."""
    return not isinstance(source, Study) and Path(source).suffix == ".beton"


@contextmanager
def open_tiles(
    trained: TrainedModel,
    source: Study | Path | str,
    *,
    grid: str | None = None,
    slides: Sequence[str] | None = None,
    threads: int | None = None,
) -> Iterator[TileSource]:
    """Open a beton or a study for a network to see its tiles.

    Parameters
    ----------
    trained : TrainedModel
        The network.
    source : Study or path
        A study, or a beton, whose name ends in ``.beton``.
    grid : str, optional
        Name of a grid of the study; default the one that the network was trained on. A beton has one alone.
    slides : sequence of str, optional
        Names of slides; default all.
    threads : int, optional
        Threads that read; default one a core.

    Yields
    ------
    TileSource

    Raises
    ------
    StudyError
        If the study has no such grid or slide.
    BetonError
        If the beton is damaged, has no such slide, or a grid is named.
    """
    threads = threads or dist.cores()
    if is_beton(source):
        assert not isinstance(source, Study)
        yield _of_beton(trained, Path(source).absolute(), grid, slides, threads)
        return
    with ExitStack() as stack:
        if not isinstance(source, Study):
            source = stack.enter_context(slideduck.open(source, sealed=True))
        grid = choose_grid(source, trained, grid)
        chosen = choose_slides(source, grid, slides)
        pool = stack.enter_context(ThreadPoolExecutor(threads, thread_name_prefix="tiles"))
        yield TileSource(
            source, grid, tuple(_of_slide(source, grid, slide, trained, threads, pool) for slide in chosen)
        )


def _of_slide(
    study: Study, grid: str, slide: GridSlide, trained: TrainedModel, threads: int, pool: ThreadPoolExecutor
) -> TilesOfSlide:
    """Return the tiles of a slide of a study."""
    return TilesOfSlide(
        slide=slide.name,
        width=slide.width,
        height=slide.height,
        mpp=slide.mpp,
        tile_px=slide.tile_px,
        extract_px=slide.slide_grid.extract_px,
        stride=slide.slide_grid.stride,
        n_tiles=slide.n_tiles,
        fingerprint=slide.file.fingerprint,
        rows=partial(read_tiles, study, grid, slide.name),
        batches=lambda rows, batch_size: slide.batches(trained, rows, batch_size, threads, pool),
    )


def _of_beton(
    trained: TrainedModel, beton: Path, grid: str | None, names: Sequence[str] | None, threads: int
) -> TileSource:
    """Return the tiles of a beton."""
    sidecar, loader = open_beton(beton, threads)
    warn_of_other_tiles(trained, sidecar, beton)
    own = str(sidecar.raw["grid"]["name"])
    if grid is not None and grid != own:
        raise BetonError(f"{beton} has tiles of grid {own!r} alone; leave `grid` out, or give the study")
    unknown = sorted(set(names or ()) - {slide.slide for slide in sidecar.slides})
    if unknown:
        raise BetonError(f"{beton} has no slide {', '.join(map(repr, unknown))}; its side-car lists those that it has")
    found = []
    for number, slide in enumerate(sidecar.slides):
        rows = np.flatnonzero(sidecar.slide == number)
        if (names is None or slide.slide in names) and len(rows):
            found.append(
                TilesOfSlide(
                    slide=slide.slide,
                    width=slide.width,
                    height=slide.height,
                    mpp=slide.mpp,
                    tile_px=sidecar.tile_px,
                    extract_px=slide.extract_px,
                    stride=slide.stride,
                    n_tiles=len(rows),
                    fingerprint=slide.fingerprint,
                    rows=partial(_rows_of_beton, sidecar, rows, slide.extract_px),
                    batches=partial(_batches_of_beton, loader),
                )
            )
    return TileSource(None, own, tuple(found))


def _rows_of_beton(sidecar: Sidecar, rows: NDArray[np.int64], extract_px: int) -> pa.Table:
    """Return what the tiles of some rows of a beton are; ``row`` is their number in it."""
    columns: dict[str, Any] = {
        "tile_id": pa.array(sidecar.tile_id[rows], pa.string()),
        **{name: pa.array(getattr(sidecar, name)[rows]) for name in ("loc_x", "loc_y", "grid_x", "grid_y")},
    }
    for name in "xy":
        columns[f"base_{name}"] = pa.array(getattr(sidecar, f"loc_{name}")[rows] - extract_px // 2)
    return pa.table({**columns, "row": pa.array(rows)})


@contextmanager
def _batches_of_beton(loader: TileLoader, rows: pa.Table, batch_size: int) -> Iterator[Iterator[NDArray[np.uint8]]]:
    """Read rows of a beton in their order."""
    with loader.epoch(rows["row"].to_numpy(), batch_size) as batches:
        # The loader overwrites its buffers.
        yield (images.copy() for images, _labels, _rows in batches)
