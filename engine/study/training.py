"""The verbs of the runner on a study: found by their entry points, so that neither it nor torch is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from slideduck.catalog.evaluations import add_missing_predictions
from slideduck.errors import MissingPackageError, RunError
from slideduck.files.find import absolute
from slideduck.lazy import registered
from slideduck.names import suggestion
from slideduck.study.base import OpenStudy
from slideduck.words import counted, message

__all__ = ["Training"]


class Training(OpenStudy):
    """The methods that train networks and use them; all but `errors` need ``pip install 'slideduck[train]'``.

    A ``run`` is a run's folder, or the `slideduck.runner.Run` that `train` returns.
    """

    def train(
        self,
        run: str | Path,
        *,
        where: Any = "label IS NOT NULL",
        model: Any = "resnet18",
        epochs: int = 10,
        grid: str | None = None,
        classes: Sequence[str] | None = None,
        nproc: str | int = "auto",
        betons: str | Path | None = None,
        progress: bool = True,
        **settings: Any,
    ) -> Any:
        """Train a network on tiles of this study, or go on with a run that was stopped.

        The tiles are exported first, once: into the folder ``STUDY.betons`` beside the study, under a name that their
        labels, classes, split, slides and the settings of the export decide. Training again on the same tiles exports
        nothing.

        Parameters
        ----------
        run : path
            The run's folder.
        where : str, DuckDBPyRelation, data frame or None
            Which tiles: an SQL condition on the columns of ``labels``; or a table of them, a relation or a frame of
            pandas, Polars or Arrow, with tile ids as its index or its column ``tile_id``; or None for all that are
            kept, such as for ``target="patient:COLUMN"``.
        model : str, callable or torch.nn.Module
            A name, as ``slideduck train --model`` takes it; a function of the number of outputs; or a network.
        epochs : int
            How often the training tiles are gone through.
        grid, classes
            As `export` has them.
        nproc : str or int
            Processes: ``"auto"`` is one a GPU, or one without any.
        betons : path, optional
            Another folder for the beton.
        progress : bool
            Tell on standard error how it goes, and where the tiles were exported to.
        **settings
            Any other of `slideduck.runner.TrainConfig`, such as ``sample="label"`` or ``lr=3e-4``; of
            `slideduck.betons.settings.ExportSettings`, such as ``stain="macenko"``; and ``how``, a
            `slideduck.runner.ranks.launch.Launch`.

        Returns
        -------
        slideduck.runner.Run

        Raises
        ------
        MissingPackageError
            If the runner or torch is not installed.
        ConfigError, StudyError, QueryError, SlideError, BetonError, RunError, DiskFullError
            Each says what to do.
        """
        return _verb("train")(
            self, run, where=where, model=model, epochs=epochs, grid=grid, classes=classes, nproc=nproc, betons=betons,
            progress=progress, **settings,
        )  # fmt: skip

    def cross_validate(
        self,
        run: str | Path,
        *,
        where: Any = "label IS NOT NULL",
        model: str = "resnet18",
        epochs: int = 10,
        folds: bool = True,
        seeds: int | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        """Train a run for each fold of the split, each of several seeds, or both; see `train` for what is left out.

        Returns
        -------
        dict
            As `slideduck.runner.cross_validate` has it: ``metrics`` with means, deviations and intervals, and more.
        """
        found: dict[str, Any] = _verb("cross_validate")(
            self, run, where=where, model=model, epochs=epochs, folds=folds, seeds=seeds, **settings
        )
        return found

    def evaluate(self, run: Any, *, split: str | None = "val", **options: Any) -> Any:
        """Compute the metrics of a run's network on labelled tiles of this study, exported where they are not yet.

        Parameters
        ----------
        run : path or Run
            The run.
        split : str or None
            Only tiles of this side; None for all with a label.
        **options
            Others of `slideduck.runner.evaluate`: ``where``, ``by``, ``thresholds``, ``temperature``, ``resamples``, …

        Returns
        -------
        slideduck.runner.verbs.evaluation.Evaluation
            A dict; see `slideduck.runner.evaluate`.
        """
        return _verb("evaluate")(self, run, split=split, **options)

    def predict(self, run: Any, *, grid: str | None = None, slides: Sequence[str] | None = None, **options: Any) -> Any:
        """Predict every tile of a grid into the table ``predictions``; see `slideduck.runner.predict`.

        Returns
        -------
        slideduck.runner.prediction.study.PredictReport
        """
        return _verb("predict")(self, run, grid=grid, slides=slides, **options)

    def heatmap(self, run: Any, slide: str, out: str | Path | None = None, **options: Any) -> Path:
        """Draw a slide with the probability of each class over it; see `slideduck.runner.heatmap`.

        Parameters
        ----------
        run : path or Run
            The run.
        slide : str
            Name of the slide.
        out : path, optional
            The picture; default ``RUN/heatmaps/SLIDE.png``.
        **options
            Others of `slideduck.runner.heatmap`: ``grid``, ``window``, ``merge``, ``frame``, …

        Returns
        -------
        Path
            Of the picture, which a notebook shows.
        """
        drawn: Path = _verb("heatmap")(self, run, slide, out, **options)
        return drawn

    def features(self, run: Any, out: str | Path | None = None, **options: Any) -> Any:
        """Compute the penultimate layer of a network for every tile; see `slideduck.runner.features`.

        Parameters
        ----------
        run : path or Run
            The run.
        out : path, optional
            Folder of files; default the table ``features_WIDTH`` of the study.
        **options
            Others of `slideduck.runner.features`: ``format``, ``grid``, ``slides``, …

        Returns
        -------
        slideduck.runner.prediction.features.FeaturesReport
        """
        return _verb("features")(self, run, out, **options)

    def gradcam(self, run: Any, tile_ids: str | Sequence[str], out: str | Path | None = None, **options: Any) -> Path:
        """Draw tiles with what speaks for each class; see `slideduck.runner.gradcam`.

        Parameters
        ----------
        run : path or Run
            The run.
        tile_ids : str or sequence of str
            Names of tiles.
        out : path, optional
            The picture; default one in ``RUN/gradcams``.
        **options
            Others of `slideduck.runner.gradcam`: ``grid``, ``checkpoint``, ``trust``.

        Returns
        -------
        Path
            Of the picture, which a notebook shows.
        """
        drawn: Path = _verb("gradcam")(self, run, tile_ids, out, **options)
        return drawn

    def errors(self, run: Any = None, where: str | None = None) -> duckdb.DuckDBPyRelation:
        """Return the labelled tiles that a run got wrong, those of the greatest loss first.

        Parameters
        ----------
        run : str, path or Run, optional
            A run's folder, whose predictions are added to the study if they are not there yet, which is said; or the
            name of a run whose predictions it holds; default all of these.
        where : str, optional
            An SQL condition on the columns of the view ``errors``.

        Returns
        -------
        duckdb.DuckDBPyRelation
            The view ``errors``: ``tile_id``, ``label``, ``predicted``, ``loss``, …

        Raises
        ------
        RunError
            If there is no such run.
        """
        relation = self.con.sql("SELECT * FROM errors")
        if run is not None:
            is_run = duckdb.ColumnExpression("run") == duckdb.ConstantExpression(self._run_of_errors(run))
            relation = relation.filter(is_run)
        return (relation if where is None else relation.filter(where)).order("loss DESC, tile_id")

    def _run_of_errors(self, run: Any) -> str:
        """Return the name of a run whose predictions the study holds from now on."""
        path = absolute(getattr(run, "path", run))
        if (path / "config.json").is_file():
            added = add_missing_predictions(self.handle, path)
            if added:
                tiles = sum(one.tiles for one in added)
                message(f"added to {self.handle.name}: what {path.name} predicted of {counted(tiles, 'labelled tile')}")
            return path.name
        known = [name for (name,) in self.con.execute("SELECT DISTINCT run FROM evaluations ORDER BY run").fetchall()]
        if str(run) not in known:
            raise RunError(
                f"no run at {path}, and {self.handle.name} holds no evaluation of a run {str(run)!r}"
                f"{suggestion(str(run), known)}; give a run's folder"
            )
        return str(run)


def _verb(name: str) -> Any:
    """Return the function behind a method; it says itself which package it lacks.

    Raises
    ------
    MissingPackageError
        If no package brings it.
    """
    found = registered("slideduck.verbs").get(name)
    if found is None:
        raise MissingPackageError(
            f"study.{name} needs the runner, which is not installed; install it with: pip install 'slideduck[train]'",
            name="slideduck.runner",
        )
    return found.load()
