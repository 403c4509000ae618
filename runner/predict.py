"""Predictions for every tile of a grid, straight from the slides, into the study's tables.

A network sees a tile as it saw those it was trained on: read by the same reader, and put through the
same JPEG where its beton had one.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import slideduck
from slideduck.db import registered
from slideduck.errors import SlideError
from slideduck.progress import track
from slideduck.runner import dist
from slideduck.runner.slide_tiles import GridSlide, choose_grid, choose_slides, read_tiles
from slideduck.runner.study_runs import register_run
from slideduck.runner.trained import TrainedModel, load_trained
from slideduck.sqlfiles import read_query
from slideduck.study import Study

__all__ = ["PredictReport", "predict"]


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
        grid = choose_grid(study, trained, grid)
        chosen = choose_slides(study, grid, slides)
        register_run(study, trained, overwrite=overwrite)
        before = {} if overwrite else _predicted(study, trained.run.name, grid)
        todo = [slide for slide in chosen if before.get(slide.name) != slide.n_tiles]
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
    todo: Sequence[GridSlide],
    skipped: Sequence[GridSlide],
    batch_size: int,
    threads: int,
) -> PredictReport:
    """Predict slides one after the other; those that cannot be read are told at the end."""
    done: list[GridSlide] = []
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
    slide: GridSlide,
    batch_size: int,
    threads: int,
    pool: ThreadPoolExecutor,
    advance: Any,
) -> None:
    """Predict one slide and store it, in one transaction."""
    tiles = read_tiles(study, grid, slide.name)
    parts = [np.zeros((0, len(trained.classes)), np.float32)]
    with slide.batches(trained, tiles, batch_size, threads, pool) as batches:
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
    key = {"run": trained.run.name, "grid": grid, "slide": slide.name}
    with study.atomic(), registered(study.con, "incoming_predictions", rows):
        study.con.execute("DELETE FROM predictions WHERE run = $run AND grid = $grid AND slide = $slide", key)
        study.con.execute(read_query("insert_predictions"), {**key, "classes": list(trained.classes)})


def _predicted(study: Study, run: str, grid: str) -> dict[str, int]:
    """Return how many tiles of each slide the run has predicted."""
    query = "SELECT slide, count(*) FROM predictions WHERE run = $run AND grid = $grid GROUP BY slide"
    return dict(study.con.execute(query, {"run": run, "grid": grid}).fetchall())
