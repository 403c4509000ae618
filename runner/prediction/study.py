"""Predictions for every tile of a grid, straight from the slides, into the study's tables.

A network sees a tile as it saw those it was trained on: read by the same reader, and put through the
same JPEG where its beton had one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import slideduck
from slideduck.catalog.evaluations import delete_predictions
from slideduck.errors import SlideError
from slideduck.progress import track
from slideduck.runner.networks.given import Network
from slideduck.runner.prediction.passes import Estimate, Passes, estimate
from slideduck.runner.prediction.study_runs import register_run
from slideduck.runner.prediction.tile_source import TilesOfSlide, open_tiles
from slideduck.runner.runs.trained import TrainedModel, load_run
from slideduck.show import Shown
from slideduck.store.db import registered
from slideduck.store.sqlfiles import read_query
from slideduck.study import Study
from slideduck.words import agreeing, part

__all__ = ["PredictReport", "predict", "predict_trained"]


@dataclass(frozen=True)
class PredictReport(Shown):
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
    trust: str | Sequence[str] = (),
    network: Network | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    tta: str = "none",
    mc_dropout: int = 0,
    mc_seed: int = 0,
) -> PredictReport:
    """Predict every tile of a grid, slide by slide, into the tables ``runs`` and ``predictions``.

    What is said of numbers goes into ``predicted_numbers``, with a row for each tile and number.

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
    trust : str or sequence of str
        The run's model, where that is code, ``module:function``; see `slideduck.runner.runs.trained.load_run`.
    network : callable or nn.Module, optional
        The run's network, where it was given as an object; see `slideduck.runner.runs.trained.load_run`.
    batch_size : int, optional
        Tiles at a time; default as in training.
    threads : int, optional
        Threads that read slides; default one a core.
    overwrite : bool
        Predict slides again that are predicted already, and replace what another checkpoint said, or what was
        predicted with other passes.
    tta, mc_dropout, mc_seed
        Passes over each tile; see `slideduck.runner.prediction.passes.Passes`.

    Returns
    -------
    PredictReport

    Raises
    ------
    StudyError
        If the study has no such grid or slide.
    RunError
        If the study holds predictions of another run of that name, of another checkpoint or with other passes; or
        if the network has no dropout for MC dropout.
    ConfigError
        If a setting is impossible.
    SlideError
        If slides cannot be read; the others are predicted all the same.
    """
    passes = Passes(tta, mc_dropout, mc_seed)
    with ExitStack() as stack:
        if not isinstance(study, Study):
            study = stack.enter_context(slideduck.open(study, sealed=True))
        trained = load_run(run, checkpoint, trust=trust, network=network)
        return predict_trained(
            trained,
            study,
            passes,
            grid=grid,
            slides=slides,
            batch_size=batch_size,
            threads=threads,
            overwrite=overwrite,
        )


def predict_trained(
    trained: TrainedModel,
    study: Study,
    passes: Passes,
    *,
    grid: str | None = None,
    slides: Sequence[str] | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    overwrite: bool = False,
) -> PredictReport:
    """Predict as `predict` does, with a network that is loaded, into a study that is open."""
    passes.check(trained)
    with ExitStack() as stack:
        tiles = stack.enter_context(open_tiles(trained, study, grid=grid, slides=slides, threads=threads))
        register_run(study, trained, passes=passes, overwrite=overwrite)
        before = {} if overwrite else _predicted(study, trained.run.name, tiles.grid)
        todo = [one for one in tiles.slides if before.get(one.slide) != one.n_tiles]
        batch_size = batch_size or trained.config.batch_size_per_rank
        done = _predict_slides(study, trained, tiles.grid, todo, passes, batch_size)
        return PredictReport(
            run=trained.run.name,
            grid=tiles.grid,
            predicted=tuple(one.slide for one in done),
            skipped=tuple(one.slide for one in tiles.slides if one not in todo),
            tiles=sum(one.n_tiles for one in done),
        )


def _predict_slides(
    study: Study, trained: TrainedModel, grid: str, todo: Sequence[TilesOfSlide], passes: Passes, batch_size: int
) -> list[TilesOfSlide]:
    """Predict slides one after the other and return them; those that cannot be read are reported at the end."""
    done: list[TilesOfSlide] = []
    failed: list[str] = []
    total = sum(one.n_tiles for one in todo)
    with track(f"Predicting {grid}", total, "tiles", show=study.progress) as advance:
        for one in todo:
            rows = one.rows()
            try:
                found = _estimate_slide(trained, one, rows, passes, batch_size, advance)
            except SlideError as error:
                failed.append(str(error))
                continue
            _store(study, trained, {"run": trained.run.name, "grid": grid, "slide": one.slide}, rows, found)
            done.append(one)
    if failed:
        raise SlideError(
            f"{part(len(failed), len(todo), 'slide')} {agreeing(len(failed), 'was', 'were')} not predicted:\n"
            + "\n".join(f"  {text}" for text in failed)
        )
    return done


def _estimate_slide(
    trained: TrainedModel,
    one: TilesOfSlide,
    rows: pa.Table,
    passes: Passes,
    batch_size: int,
    advance: Callable[[int], None],
) -> Estimate:
    """Predict the tiles of a slide."""
    names = rows["tile_id"].to_pylist()
    parts: list[Estimate] = []
    at = 0
    with one.batches(rows, batch_size) as batches:
        for images in batches:
            parts.append(estimate(trained, trained.images(images), names[at : at + len(images)], passes))
            at += len(images)
            advance(len(images))
    return Estimate.join(parts, len(trained.classes))


def _store(study: Study, trained: TrainedModel, key: dict[str, str], tiles: pa.Table, found: Estimate) -> None:
    """Store the predictions of one slide, in one transaction."""
    decided = trained.task.decided(trained.classes, found.given)
    rows = tiles.select(["tile_id", "grid_x", "grid_y"])
    if decided is None:
        columns = {"numbers": _lists(found.given), "deviations": _lists(found.deviation)}
        frame, query, outputs = "incoming_numbers", "insert_predicted_numbers", "targets"
    else:
        columns = {
            "predicted": pa.array(decided[0], pa.string()),
            "probability": pa.array(decided[1], pa.float32()),
            "probabilities": _lists(found.given),
            "entropy": _floats(found.entropy, len(tiles)),
            "mutual_information": _floats(found.mutual_information, len(tiles)),
        }
        frame, query, outputs = "incoming_predictions", "insert_predictions", "classes"
    for name, column in columns.items():
        rows = rows.append_column(name, pa.nulls(len(tiles), pa.list_(pa.float32())) if column is None else column)
    with study.atomic(), registered(study.con, frame, rows):
        delete_predictions(study.handle, "run = $run AND grid = $grid AND slide = $slide", key)
        study.con.execute(read_query(query), {**key, outputs: list(trained.classes)})


def _lists(values: NDArray[np.floating] | None) -> pa.Array | None:
    """Return the rows of a table of numbers as lists of float32."""
    if values is None:
        return None
    flat = pa.array(values.reshape(-1), pa.float32())
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1]).cast(pa.list_(pa.float32()))


def _floats(values: NDArray[np.float32] | None, n: int) -> pa.Array:
    """Return a column of numbers, NULL where there are none."""
    return pa.nulls(n, pa.float32()) if values is None else pa.array(values, pa.float32())


def _predicted(study: Study, run: str, grid: str) -> dict[str, int]:
    """Return how many tiles of each slide the run has predicted."""
    return dict(study.con.execute(read_query("count_predicted"), {"run": run, "grid": grid}).fetchall())
