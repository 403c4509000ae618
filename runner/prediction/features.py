"""Features of tiles (the input of the last linear layer), for search, clustering and multiple-instance learning."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import slideduck
from slideduck.catalog.features import delete_features, feature_tables, make_feature_table
from slideduck.errors import ConfigError, SlideError
from slideduck.progress import track
from slideduck.runner.networks.given import Network
from slideduck.runner.prediction.feature_files import FORMATS, FeatureFiles, feature_rows
from slideduck.runner.prediction.study_runs import register_run
from slideduck.runner.prediction.tile_source import TilesOfSlide, is_beton, open_tiles
from slideduck.runner.runs.trained import TrainedModel, load_run
from slideduck.show import Shown
from slideduck.store.db import identifier, registered
from slideduck.study import Study
from slideduck.words import agreeing, part

__all__ = ["FeaturesReport", "features"]


@dataclass(frozen=True)
class FeaturesReport(Shown):
    """What `features` did.

    Attributes
    ----------
    run, grid : str
        Names of the run and the grid.
    into : str
        The folder, or the study's table.
    width : int
        Numbers of a feature; 0 where there is none.
    computed, skipped : tuple of str
        Slides whose features were computed, and those that had them from this checkpoint before.
    tiles : int
        Tiles whose features were computed.
    """

    run: str
    grid: str
    into: str
    width: int
    computed: tuple[str, ...]
    skipped: tuple[str, ...]
    tiles: int


class _Sink(Protocol):
    """The destination of features."""

    @property
    def name(self) -> str:
        """The folder, or the table."""

    @property
    def width(self) -> int:
        """Numbers of a feature, as far as is known; else 0."""

    def has(self, tiles: TilesOfSlide) -> bool:
        """Return whether the features of a slide are stored, whole."""

    def write(self, tiles: TilesOfSlide, rows: pa.Table, found: NDArray[np.float32]) -> None:
        """Write a slide, whole or not at all."""


def features(
    run: Path | str,
    source: Study | Path | str,
    out: Path | str | None = None,
    *,
    format: str | None = None,
    grid: str | None = None,
    slides: Sequence[str] | None = None,
    checkpoint: str = "best",
    trust: str | Sequence[str] = (),
    network: Network | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> FeaturesReport:
    """Compute the penultimate layer of a network for every tile, slide by slide.

    A slide is whole or absent, and a call that was stopped goes on with the slides that are missing.

    Parameters
    ----------
    run : path
        The run's folder.
    source : Study or path
        A study, whose slides are read with a grid; or a beton, whose name ends in ``.beton``.
    out : path, optional
        Folder for a file of each slide; made if it does not exist. Default the table ``features_WIDTH`` of the study,
        in which a feature is an array of WIDTH numbers.
    format : str, optional
        Of the files: ``"parquet"``, the default, or ``"h5"``, as CLAM and TRIDENT read them.
    grid : str, optional
        Name of a grid of the study; default the one that the network was trained on.
    slides : sequence of str, optional
        Names of slides; default all.
    checkpoint : str
        ``"best"`` or ``"last"``.
    trust : str or sequence of str
        The run's model, where that is code, ``module:function``; see `slideduck.runner.runs.trained.load_run`.
    network : callable or nn.Module, optional
        The run's network, where it was given as an object; see `slideduck.runner.runs.trained.load_run`.
    batch_size : int, optional
        Tiles at a time; default as in training.
    threads : int, optional
        Threads that read; default one a core.
    overwrite : bool
        Compute slides again that are there, and replace what another checkpoint gave.
    progress : bool
        Show how far it is; a study that shows progress does so anyway.

    Returns
    -------
    FeaturesReport

    Raises
    ------
    ConfigError
        If there is no such format, or nowhere to write.
    StudyError, BetonError
        If the source has no such grid or slide.
    RunError
        If stored features come from another run or checkpoint, or the network has no such layer.
    SlideError
        If slides cannot be read; the others are computed all the same.
    """
    if out is None and is_beton(source):
        raise ConfigError(
            f"no folder is given for the features of {source}; name one, or give the study in place of the beton: "
            "its tables take them"
        )
    if out is None and format is not None:
        raise ConfigError(f"format is {format!r} without a folder for the files; name one, or leave the format out")
    if format not in (None, *FORMATS):
        raise ConfigError(f"format is {format!r}; it must be one of {', '.join(FORMATS)}")
    with ExitStack() as stack:
        if not isinstance(source, Study) and not is_beton(source):
            source = stack.enter_context(slideduck.open(source, sealed=True))
        trained = load_run(run, checkpoint, trust=trust, network=network)
        tiles = stack.enter_context(open_tiles(trained, source, grid=grid, slides=slides, threads=threads))
        sink: _Sink
        if out is not None:
            sink = FeatureFiles(Path(out), format or "parquet", trained, tiles.grid)
            sink.check([one.slide for one in tiles.slides])
        else:
            assert tiles.study is not None
            register_run(tiles.study, trained, overwrite=overwrite)
            sink = _FeatureTable(tiles.study, trained.run.name, tiles.grid)
        todo = [one for one in tiles.slides if overwrite or not sink.has(one)]
        show = progress or (tiles.study is not None and tiles.study.progress)
        _compute(trained, todo, sink, batch_size or trained.config.batch_size_per_rank, show=show)
        return FeaturesReport(
            run=trained.run.name,
            grid=tiles.grid,
            into=sink.name,
            width=sink.width,
            computed=tuple(one.slide for one in todo),
            skipped=tuple(one.slide for one in tiles.slides if one not in todo),
            tiles=sum(one.n_tiles for one in todo),
        )


def _compute(trained: TrainedModel, todo: Sequence[TilesOfSlide], sink: _Sink, batch_size: int, *, show: bool) -> None:
    """Compute slides one after the other; those that cannot be read are reported at the end."""
    failed: list[str] = []
    with track("Computing features", sum(one.n_tiles for one in todo), "tiles", show=show) as advance:
        for one in todo:
            rows = one.rows()
            parts = []
            try:
                with one.batches(rows, batch_size) as batches:
                    for images in batches:
                        parts.append(trained.features(images))
                        advance(len(images))
            except SlideError as error:
                failed.append(str(error))
                continue
            # A slide that is smaller than a tile has none, and no width either.
            if parts:
                sink.write(one, rows, np.concatenate(parts))
    if failed:
        raise SlideError(
            f"{part(len(failed), len(todo), 'slide')} {agreeing(len(failed), 'has', 'have')} no features:\n"
            + "\n".join(f"  {text}" for text in failed)
        )


class _FeatureTable:
    """The tables of features of a study, for one run and grid."""

    def __init__(self, study: Study, run: str, grid: str) -> None:
        self._study = study
        self._where = {"run": run, "grid": grid}
        self._counts: dict[str, int] = {}
        self.name, self.width = "", 0
        for name, width in feature_tables(study.handle).items():
            query = f"SELECT slide, count(*) FROM {identifier(name)} WHERE run = $run AND grid = $grid GROUP BY slide"
            if counts := dict(study.con.execute(query, self._where).fetchall()):
                self._counts, self.name, self.width = counts, name, width

    def has(self, tiles: TilesOfSlide) -> bool:
        """Return whether all tiles of a slide are there."""
        return self._counts.get(tiles.slide, 0) == tiles.n_tiles

    def write(self, tiles: TilesOfSlide, rows: pa.Table, found: NDArray[np.float32]) -> None:
        """Write a slide in one transaction."""
        self.width = found.shape[1]
        given = feature_rows(tiles.slide, rows, found)
        for column, name in enumerate(("run", "grid")):
            given = given.add_column(column, name, pa.array([self._where[name]] * len(given)))
        with self._study.atomic(), registered(self._study.con, "incoming_features", given):
            self.name = make_feature_table(self._study.handle, self.width)
            key = {**self._where, "slide": tiles.slide}
            delete_features(self._study.handle, "run = $run AND grid = $grid AND slide = $slide", key)
            self._study.con.execute(f"INSERT INTO {identifier(self.name)} BY NAME FROM incoming_features")
