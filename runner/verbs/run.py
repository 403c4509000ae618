"""A run as an object: what it learnt and how well, and what its network can be asked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

import slideduck
from slideduck.errors import ConfigError, RunError
from slideduck.files.find import absolute
from slideduck.measure.stain import REFERENCE
from slideduck.names import path_problem
from slideduck.runner.maps.gradcam import gradcam
from slideduck.runner.maps.heatmap import heatmap
from slideduck.runner.networks.given import Network
from slideduck.runner.plots.curves import plot_curves
from slideduck.runner.plots.worst import plot_worst
from slideduck.runner.prediction.beton import BetonPredictReport, predict_beton
from slideduck.runner.prediction.evaluate import evaluate
from slideduck.runner.prediction.export_model import ModelReport, export_model
from slideduck.runner.prediction.features import FeaturesReport, features
from slideduck.runner.prediction.study import PredictReport, predict
from slideduck.runner.prediction.tile_source import is_beton
from slideduck.runner.runs.checkpoint import make_folder
from slideduck.runner.runs.history import read_config, read_history
from slideduck.runner.runs.predictions import epoch_of_predictions
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.verbs.evaluation import PLOTS, Evaluation, draw
from slideduck.runner.verbs.tiles import exported
from slideduck.show import Picture, html_table, value_text
from slideduck.study import Study

__all__ = ["Run", "open_run"]

#: The metrics that stand in the text of a run, as far as it has them.
_FIRST = ("balanced_accuracy", "macro_auroc", "mean_auroc", "mean_r2", "loss")


def open_run(path: str | Path, *, study: Study | str | Path | None = None, network: Network | None = None) -> Run:
    """Return a run by its folder.

    Parameters
    ----------
    path : path
        The folder.
    study : Study or path, optional
        The study that its methods ask where none is given.
    network : callable or nn.Module, optional
        The run's network, where it was given as an object; see `slideduck.runner.load_run`.

    Raises
    ------
    RunError
        If there is no run.
    """
    run = Run(path, study=study, network=network)
    read_config(run.path)
    return run


class Run:
    """A run's folder, and the study that it came from.

    Parameters
    ----------
    path : path
        The folder.
    study : Study or path, optional
        The study that the methods ask where none is given.
    network : callable or nn.Module, optional
        The network that it was trained from, where that was given as an object: its methods take it.

    Attributes
    ----------
    path : Path
        The folder; its name is the run's in the tables of a study.
    study : Study, path or None
        The study that it came from.
    network : callable, nn.Module or None
        What makes its network, or it.
    """

    def __init__(
        self, path: str | Path, *, study: Study | str | Path | None = None, network: Network | None = None
    ) -> None:
        self.path = absolute(path)
        self.study = study
        self.network = network

    # What its folder says is read each time: a run that goes on changes it.

    @property
    def name(self) -> str:
        """Name of the run: its folder's."""
        return self.path.name

    @property
    def config(self) -> TrainConfig:
        """The settings of the training."""
        return TrainConfig.from_dict(read_config(self.path)["settings"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Labels in the order of their numbers."""
        return tuple(read_config(self.path)["classes"])

    @property
    def beton(self) -> Path:
        """The beton that it was trained on."""
        return Path(read_config(self.path)["beton"]["path"])

    @property
    def history(self) -> pa.Table:
        """The metrics of each epoch, a row each, as in metrics.jsonl."""
        return pa.Table.from_pylist(read_history(self.path))

    @property
    def best_epoch(self) -> int:
        """The epoch of ``best.pt``, from 1; 0 while there is none."""
        predictions = self.path / "predictions.parquet"
        return epoch_of_predictions(predictions) if predictions.is_file() else 0

    @property
    def metrics(self) -> dict[str, Any]:
        """What the best epoch's network is worth on the validation tiles: ``balanced_accuracy``, ``loss`` and more."""
        best = self.best_epoch
        for line in read_history(self.path):
            if line["epoch"] == best:
                return {name.removeprefix("val/"): value for name, value in line.items() if name.startswith("val/")}
        raise RunError(f"{self.path}: epoch {best} of its predictions is not in metrics.jsonl; train again")

    # -------------------------------------------------------------------------------- what it is asked

    def evaluate(
        self,
        source: Study | str | Path | None = None,
        *,
        split: str | None = "val",
        where: str | None = None,
        progress: bool = True,
        **options: Any,
    ) -> Evaluation:
        """Compute the metrics of the network on labelled tiles; see `slideduck.runner.evaluate`.

        Parameters
        ----------
        source : path or Study, optional
            A beton; or a study, whose labelled tiles are exported as those of the training were, unless they are
            there. Default the beton that it was trained on, and of it the tiles that validated.
        split : str or None
            Only tiles of this side; None for all with a label.
        where : str, optional
            Only tiles that meet this SQL condition on the columns of the side-car.
        progress : bool
            Say where the tiles of a study were exported to.
        **options
            Others of `slideduck.runner.evaluate`: ``by``, ``thresholds``, ``temperature``, ``resamples``, …
        """
        if source is None:
            source = self.beton
            if split == "val" and where is None:
                split, where = self._validated()
        elif isinstance(source, Study):
            source = self._exported(source, progress)
        elif not is_beton(source):
            with slideduck.open(source, read_only=True) as opened:
                source = self._exported(opened, progress)
        return Evaluation(evaluate(self.path, source, split=split, where=where, **self.own(options)))

    def predict(self, source: Study | str | Path | None = None, **options: Any) -> PredictReport | BetonPredictReport:
        """Predict every tile of a grid of a study, or of a beton; see `slideduck.runner.predict`."""
        source = self._source(source)
        if is_beton(source):
            assert not isinstance(source, Study)
            return predict_beton(self.path, source, **self.own(options))
        return predict(self.path, source, **self.own(options))

    def heatmap(
        self, study: Study | str | Path | None, slide: str, out: str | Path | None = None, **options: Any
    ) -> Picture:
        """Draw a slide with the probability of each class over it; see `slideduck.runner.heatmap`.

        Parameters
        ----------
        study : Study, path or None
            The study; None for the one that the run came from.
        slide : str
            Name of the slide.
        out : path, optional
            The picture; default ``heatmaps/SLIDE.png`` in the run's folder.
        **options
            Others of `slideduck.runner.heatmap`: ``grid``, ``window``, ``merge``, ``frame``, …
        """
        out = out or self._picture("heatmaps", slide)
        return Picture(heatmap(self.path, self._source(study), slide, out, **self.own(options)))

    def gradcam(
        self,
        source: Study | str | Path | None,
        tile_ids: str | Sequence[str],
        out: str | Path | None = None,
        **options: Any,
    ) -> Picture:
        """Draw tiles with what speaks for each class; see `slideduck.runner.gradcam`.

        Parameters
        ----------
        source : Study, path or None
            A study or a beton; None for the study that the run came from.
        tile_ids : str or sequence of str
            Names of tiles.
        out : path, optional
            The picture; default one in ``gradcams`` of the run's folder.
        **options
            Others of `slideduck.runner.gradcam`: ``grid``, ``checkpoint``, ``trust``.
        """
        names = [tile_ids] if isinstance(tile_ids, str) else list(tile_ids)
        out = out or self._picture("gradcams", "\n".join(names))
        return Picture(gradcam(self.path, self._source(source), names, out, **self.own(options)))

    def features(
        self, source: Study | str | Path | None = None, out: str | Path | None = None, **options: Any
    ) -> FeaturesReport:
        """Compute the penultimate layer of the network for every tile; see `slideduck.runner.features`."""
        return features(self.path, self._source(source), out, **self.own(options))

    def errors(self, study: Study | None = None, where: str | None = None) -> duckdb.DuckDBPyRelation:
        """Return the labelled tiles that it got wrong, as the study says of them now; see `slideduck.Study.errors`."""
        found = self._source(study)
        if not isinstance(found, Study):
            raise ConfigError("`study` must be an open study, since the relation is read from it; open it again")
        return found.errors(self, where)

    def export_model(self, out: str | Path, **options: Any) -> ModelReport:
        """Write the network for other programs; see `slideduck.runner.export_model`."""
        return export_model(self.path, out, **self.own(options))

    def plot(self, kind: str = "curves", out: str | Path | None = None, **options: Any) -> Picture:
        """Draw the run.

        Parameters
        ----------
        kind : str
            ``curves`` over its epochs; of its validation tiles ``confusion``, ``roc``, ``pr``, ``reliability``, or
            ``worst``, the tiles whose label it thought least likely.
        out : path, optional
            The picture; default ``KIND.png`` in its folder.
        **options
            As the command ``slideduck plot KIND`` has them.
        """
        out = self.path / f"{kind}.png" if out is None else out
        draws: dict[str, Callable[..., Path]] = {
            "curves": partial(plot_curves, self.path, out),
            "worst": lambda **more: plot_worst(self.path, self.beton, out, **more),
            **{name: partial(draw, name, self.path, out) for name in PLOTS},
        }
        if kind not in draws:
            raise ConfigError(f"kind is {kind!r}; it must be one of {', '.join(draws)}")
        return Picture(draws[kind](**options))

    # ------------------------------------------------------------------------------------ how it is shown

    def _shown(self) -> Iterator[tuple[str, object]]:
        yield "path", self.path
        try:
            config, history = self.config, read_history(self.path)
            yield "model", config.model
            yield "classes", list(self.classes)
            yield "beton", self.beton
            yield "epochs", f"{len(history)} of {config.epochs}, the best {self.best_epoch}"
            metrics = self.metrics
            for name in _FIRST:
                if name in metrics:
                    yield f"validation {name.replace('_', ' ')}", metrics[name]
        except RunError as error:
            yield "state", str(error)

    def __repr__(self) -> str:
        return "\n  ".join([f"Run {self.name}:", *(f"{name} {value_text(value)}" for name, value in self._shown())])

    def _repr_html_(self) -> str:
        return html_table(f"Run {self.name}", self._shown())

    # --------------------------------------------------------------------------------------- its defaults

    def _validated(self) -> tuple[str | None, str | None]:
        """Return the side and the condition of the tiles that validated."""
        config = self.config
        chosen = config.val_where if config.fold is None else f"fold = {config.fold}"
        conditions = [f"({one})" for one in (config.where, chosen) if one]
        return (None if chosen else config.val_split), (" AND ".join(conditions) or None)

    def _exported(self, study: Study, progress: bool) -> Path:
        """Return the beton of a study's labelled tiles, made as that of the training was."""
        beton = read_config(self.path)["beton"]
        image, settings = beton["image"], dict[str, Any](grid=beton["grid"]["name"])
        if image["mode"] == "raw":
            settings["raw"] = True
        else:
            settings |= {"quality": image["quality"], "jpeg": image.get("jpeg", "reencode")}
        if stain := image.get("stain"):
            target = stain["target"]["name"]
            settings |= {"stain": stain["method"], "jpeg": "auto", "stain_to": None if target == REFERENCE else target}
        return exported(study, settings, progress=progress)

    def own(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return options with the run's network, where it has one and they name no other."""
        return options if self.network is None else {"network": self.network, **options}

    def _source(self, source: Study | str | Path | None) -> Study | str | Path:
        """Return the study or beton that is meant."""
        found = self.study if source is None else source
        if found is None:
            raise ConfigError(f"run {self.name} was opened without its study; give `study`, such as 'study.duckdb'")
        # A study that was closed since is opened again by what is done with it.
        return found.path if isinstance(found, Study) and source is None and found.is_closed else found

    def _picture(self, folder: str, name: str) -> Path:
        """Return where a picture goes; a name that is no file name has a digest in its place."""
        if "/" in name or path_problem(f"{name}.png") is not None:
            name = hashlib.sha256(name.encode(errors="backslashreplace")).hexdigest()[:12]
        make_folder(self.path / folder)
        return self.path / folder / f"{name}.png"
