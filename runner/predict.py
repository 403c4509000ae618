"""Predictions for every tile of a grid, straight from the slides, into the study's tables.

A network sees a tile as it saw those it was trained on: read by the same reader, and put through the
same JPEG where its beton had one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import slideduck
from slideduck.beton import decode_jpeg, encode_jpeg
from slideduck.console import message
from slideduck.db import registered
from slideduck.errors import RunError, SlideError, StudyError
from slideduck.grid import SlideGrid
from slideduck.progress import track
from slideduck.runner import dist
from slideduck.runner.decode import decode_as_loader
from slideduck.runner.trained import TrainedModel, load_trained
from slideduck.sqlfiles import read_query
from slideduck.stored_reader import StoredReader, choose_reader
from slideduck.study import Study
from slideduck.tiles import TileReader

__all__ = ["PredictReport", "predict"]

#: Tiles that one piece of a thread's work has at most; neighbours share decoded parts of the slide.
_PIECE_TILES = 32


@dataclass(frozen=True)
class PredictReport:
    """What `predict` did.

    Attributes
    ----------
    run, grid : str
        Names of the run and the grid, as in the table ``predictions``.
    predicted, skipped : tuple of str
        Slides that were predicted, and those that this checkpoint had predicted before.
    tiles : int
        Tiles that were predicted.
    """

    run: str
    grid: str
    predicted: tuple[str, ...]
    skipped: tuple[str, ...]
    tiles: int


@dataclass(frozen=True)
class _Slide:
    """A slide to predict."""

    name: str
    path: str
    background: str
    tile_px: int
    slide_grid: SlideGrid
    is_predicted: bool

    @property
    def n_tiles(self) -> int:
        """Tiles of the grid on it."""
        return self.slide_grid.n_columns * self.slide_grid.n_rows


def predict(
    run: Path | str,
    study: Study | Path | str,
    *,
    grid: str | None = None,
    slides: Sequence[str] | None = None,
    checkpoint: str = "best",
    batch_size: int | None = None,
    threads: int | None = None,
    overwrite: bool = False,
) -> PredictReport:
    """Predict every tile of a grid, slide by slide, into the tables ``runs`` and ``predictions``.

    A slide is whole or absent: each is one transaction, and a call that was stopped goes on with the
    slides that are missing.

    Parameters
    ----------
    run : path
        The run's folder; its name is the run's name in the tables.
    study : Study or path
        The study.
    grid : str, optional
        Name of a grid of the study; default the one that the network was trained on.
    slides : sequence of str, optional
        Names of slides; default all that the grid lies on.
    checkpoint : str
        ``"best"`` or ``"last"``.
    batch_size : int, optional
        Tiles at a time; default as in training.
    threads : int, optional
        Threads that read slides; default one a core.
    overwrite : bool
        Predict slides again that are predicted already, and replace what another checkpoint said.

    Returns
    -------
    PredictReport

    Raises
    ------
    StudyError
        If the study has no such grid or slide.
    RunError
        If the study holds predictions of another run of that name, or of another checkpoint.
    SlideError
        If slides cannot be read; the others are predicted all the same.
    """
    with ExitStack() as stack:
        if not isinstance(study, Study):
            study = stack.enter_context(slideduck.open(study))
        trained = load_trained(run, checkpoint)
        grid = _grid(study, trained, grid)
        chosen = _slides(study, trained.run.name, grid, slides)
        _register_run(study, trained, overwrite=overwrite)
        todo = [slide for slide in chosen if overwrite or not slide.is_predicted]
        skipped = [slide for slide in chosen if slide not in todo]
        return _predict_slides(
            study,
            trained,
            grid,
            todo,
            skipped,
            batch_size or trained.config.batch_size_per_rank,
            threads or dist.cores(),
        )


def _predict_slides(
    study: Study,
    trained: TrainedModel,
    grid: str,
    todo: Sequence[_Slide],
    skipped: Sequence[_Slide],
    batch_size: int,
    threads: int,
) -> PredictReport:
    """Predict slides one after the other; those that cannot be read are told at the end."""
    done: list[_Slide] = []
    failed: list[str] = []
    total = sum(slide.n_tiles for slide in todo)
    with (
        ThreadPoolExecutor(threads, thread_name_prefix="tiles") as pool,
        track(f"Predicting {grid}", total, "tiles", show=study.progress) as advance,
    ):
        for slide in todo:
            try:
                _predict_slide(study, trained, grid, slide, batch_size, threads, pool, advance)
            except SlideError as error:
                failed.append(str(error))
                continue
            done.append(slide)
    if failed:
        raise SlideError(
            f"{len(failed)} of {len(todo)} slides were not predicted:\n" + "\n".join(f"  {text}" for text in failed)
        )
    return PredictReport(
        run=trained.run.name,
        grid=grid,
        predicted=tuple(slide.name for slide in done),
        skipped=tuple(slide.name for slide in skipped),
        tiles=sum(slide.n_tiles for slide in done),
    )


def _predict_slide(
    study: Study,
    trained: TrainedModel,
    grid: str,
    slide: _Slide,
    batch_size: int,
    threads: int,
    pool: ThreadPoolExecutor,
    advance: Any,
) -> None:
    """Predict one slide and store it, in one transaction."""
    where = {"grid": grid, "slide": slide.name}
    tiles = study.con.execute(read_query("list_prediction_tiles"), where).to_arrow_table()
    base_x, base_y = tiles["base_x"].to_numpy(), tiles["base_y"].to_numpy()
    parts = [np.zeros((0, len(trained.classes)), np.float32)]
    # Whatever ends the loop, the threads stop reading before the slide is closed under them.
    reference = TileReader(slide.path, slide.slide_grid, slide.tile_px, background=slide.background)
    chosen, _ = choose_reader(reference, base_x, base_y)
    with (
        chosen as reader,
        closing(_batches(reader, trained, base_x, base_y, batch_size, threads, pool)) as batches,
    ):
        for images in batches:
            parts.append(trained.log_probabilities(images))
            advance(len(images))
    log_probabilities = np.concatenate(parts)
    odds = np.exp(log_probabilities.astype(np.float64))
    probabilities = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    rows = tiles.select(["tile_id", "grid_x", "grid_y"])
    rows = rows.append_column("class_number", pa.array(log_probabilities.argmax(axis=1), pa.int32()))
    values = pa.array(probabilities.reshape(-1), pa.float32())
    rows = rows.append_column(
        "probabilities",
        pa.FixedSizeListArray.from_arrays(values, len(trained.classes)).cast(pa.list_(pa.float32())),
    )
    key = {"run": trained.run.name, **where}
    with study.atomic(), registered(study.con, "incoming_predictions", rows):
        study.con.execute("DELETE FROM predictions WHERE run = $run AND grid = $grid AND slide = $slide", key)
        study.con.execute(read_query("insert_predictions"), {**key, "classes": list(trained.classes)})


def _batches(
    reader: TileReader | StoredReader,
    trained: TrainedModel,
    base_x: NDArray[np.integer[Any]],
    base_y: NDArray[np.integer[Any]],
    batch_size: int,
    threads: int,
    pool: ThreadPoolExecutor,
) -> Generator[NDArray[np.uint8], None, None]:
    """Yield tiles in their order, read by the pool's threads a few batches ahead."""
    image = trained.beton["image"]
    quality = image["quality"] if image["mode"] == "jpg" else None
    takes_stored = quality is not None and image.get("jpeg", "reencode") != "reencode"

    def tile(x: int, y: int) -> NDArray[np.uint8]:
        """Return a tile as the loader gives it from a beton: through the same JPEG."""
        stored = reader.stored_jpeg(x, y) if takes_stored else None
        if stored is not None:
            return decode_as_loader(stored, reader.tile_px)
        rgb = reader.read(x, y)
        return rgb if quality is None else decode_jpeg(encode_jpeg(rgb, quality))

    def read(first: int, last: int) -> list[NDArray[np.uint8]]:
        return [tile(int(base_x[i]), int(base_y[i])) for i in range(first, last)]

    firsts = iter(range(0, len(base_x), _PIECE_TILES))
    ahead = 2 * threads + -(-2 * batch_size // _PIECE_TILES)
    reading: deque[Future[list[NDArray[np.uint8]]]] = deque()
    ready: list[NDArray[np.uint8]] = []
    try:
        while True:
            while len(reading) < ahead and (first := next(firsts, None)) is not None:
                reading.append(pool.submit(read, first, min(first + _PIECE_TILES, len(base_x))))
            if not reading:
                break
            ready.extend(reading.popleft().result())
            while len(ready) >= batch_size:
                yield np.stack(ready[:batch_size])
                del ready[:batch_size]
        if ready:
            yield np.stack(ready)
    finally:
        for future in reading:
            future.cancel()
        # The reader is closed next: no thread may be reading then.
        for future in reading:
            if not future.cancelled():
                future.exception()


def _grid(study: Study, trained: TrainedModel, grid: str | None) -> str:
    """Return the grid to predict: the one given, or the one that the network was trained on."""
    own = trained.beton["grid"]
    names = [name for (name,) in study.con.execute("SELECT grid FROM grids ORDER BY grid").fetchall()]
    wanted = own["name"] if grid is None else grid
    if wanted not in names:
        what = "" if grid else ", which the network was trained on"
        size = f"--tile-um {own['tile_um']:g}" if own["tile_um"] else f"--tile-um {own['magnification']:g}x"
        raise StudyError(
            f"{study.path.name} has no grid {wanted!r}{what}; it has {', '.join(names) or 'none'}: name one "
            f"with --grid, or make it with: slideduck tile {study.path.name} "
            f"--tile-px {own['tile_px']} {size}"
        )
    row = study.con.execute("SELECT tile_px, tile_um, magnification FROM grids WHERE grid = $1", [wanted]).fetchone()
    if row != (own["tile_px"], own["tile_um"], own["magnification"]):
        message(f"warning: the network was trained on tiles of {own['name']}, and sees those of {wanted} now")
    return wanted


def _slides(study: Study, run: str, grid: str, names: Sequence[str] | None) -> list[_Slide]:
    """Return the slides to predict, in the order of their names."""
    rows = study.con.execute(read_query("list_prediction_slides"), {"run": run, "grid": grid}).fetchall()
    found = {
        slide: _Slide(slide, path, background, tile_px, SlideGrid(*how), is_predicted)
        for slide, path, background, tile_px, *how, is_predicted in rows
    }
    if not found:
        raise StudyError(f"the grid {grid!r} of {study.path.name} lies on no slide; add slides to the study first")
    unknown = [name for name in names or () if name not in found]
    if unknown:
        raise StudyError(
            f"{study.path.name} has no slide {', '.join(map(repr, unknown))} in grid {grid!r}; "
            f"see which there are with: slideduck info {study.path.name}"
        )
    return [slide for name, slide in found.items() if names is None or name in names]


def _register_run(study: Study, trained: TrainedModel, *, overwrite: bool) -> None:
    """Write the run into the table ``runs``, or check that it is the one there.

    Raises
    ------
    RunError
        If the table has another run of that name, or another checkpoint of this one.
    """
    name = trained.run.name
    row = study.con.execute("SELECT path, checkpoint FROM runs WHERE run = $1", [name]).fetchone()
    if row is not None and row[1] == trained.sha256:
        return
    if row is not None and not overwrite:
        what = "another checkpoint of run" if row[0] == str(trained.run) else f"the run {row[0]}, also called"
        raise RunError(
            f"{study.path.name} holds predictions of {what} {name!r}; replace all of them with --overwrite"
            + ("" if row[0] == str(trained.run) else ", or rename the run folder")
        )
    with study.atomic():
        study.con.execute("DELETE FROM predictions WHERE run = $1", [name])
        study.con.execute(
            "INSERT OR REPLACE INTO runs VALUES ($1, $2, $3, $4)",
            [name, str(trained.run), trained.sha256, list(trained.classes)],
        )
