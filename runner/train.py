"""Training: what every rank does, and how a run starts, stops and goes on.

An epoch counts once ``last.pt`` is in place. The order of tiles, their augmentation and the network's
own random numbers are set anew from (seed, epoch) at the start of each epoch, so that a run which was
killed and started again computes what an uninterrupted one does, to the bit on a CPU with the same
number of threads.

A run may be given more epochs than it was started with, and goes on: its steps then follow the schedule
of the new length from there on, which is not the schedule of a run that had this length from the start.
Any other change of its settings is refused.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slideduck.console import message
from slideduck.errors import RunError
from slideduck.runner import dist
from slideduck.runner.checkpoint import lock_folder
from slideduck.runner.config import TrainConfig
from slideduck.runner.curves import draw_curves
from slideduck.runner.data import TrainingData, open_data
from slideduck.runner.dist import Place
from slideduck.runner.examples import draw_examples
from slideduck.runner.infer import precision_context, write_predictions
from slideduck.runner.launch import Launch, launch, resolve_nproc
from slideduck.runner.learner import Learner
from slideduck.runner.metrics import Predictions, compute_metrics, plain
from slideduck.runner.runfolder import RunFolder, versions

__all__ = ["train", "train_rank"]

_SECONDS_BETWEEN_PICTURES = 20.0


def train(
    beton: Path | str,
    run: Path | str,
    config: TrainConfig | None = None,
    *,
    nproc: str | int = "auto",
    how: Launch | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train a network on a beton, or go on with a run that was stopped.

    Parameters
    ----------
    beton : path
        The beton; its side-car is beside it.
    run : path
        The run's folder.
    config : TrainConfig, optional
        The settings.
    nproc : str or int
        Processes: ``"auto"`` is one a GPU, or one without any. Under a launcher such as torchrun, this
        process joins those that it started.
    how : Launch, optional
        Several nodes, restarts after a lost process, and how long processes wait for each other.
    progress : bool
        Tell on standard error how it goes, a line an epoch.

    Returns
    -------
    dict
        ``run``, ``epochs``, ``best_epoch``, ``metrics`` (of the best epoch) and ``checkpoint``.

    Raises
    ------
    ConfigError, BetonError, RunError, DiskFullError
        Each says what to do; the last whole epoch is never lost.
    """
    settings = (config or TrainConfig()).to_dict()
    beton, run = str(Path(beton).absolute()), str(Path(run).absolute())
    how = how or Launch()
    rest = (beton, run, settings, progress, how.timeout_minutes)
    if dist.is_joining():
        return train_rank(*rest)
    count = resolve_nproc(nproc)
    if count == how.nnodes == 1 and not how.restarts:
        return train_rank(*rest)
    return launch(count, train_rank, *rest, how=how) or {}


def train_rank(
    beton: str, run: str, settings: dict[str, Any], progress: bool = True, timeout_minutes: float = dist.TIMEOUT_MINUTES
) -> dict[str, Any]:
    """Do one rank's part of a run; spawned processes start here.

    Parameters
    ----------
    beton, run : str
        Absolute paths.
    settings : dict
        As from `TrainConfig.to_dict`.
    progress : bool
        Tell on standard error how it goes; rank 0 only.
    timeout_minutes : float
        Longest wait for another rank, minutes.
    """
    with dist.joined(timeout_minutes) as place:
        config = TrainConfig.from_dict(settings)
        # Refused before the folder is made.
        precision_context(config.precision, place.device)
        data = open_data(Path(beton), config, place)
        training = _Training(data, RunFolder(run), config, place, progress and place.is_first)
        try:
            with lock_folder(Path(run)) if place.is_first else nullcontext():
                return training.run()
        except torch.cuda.OutOfMemoryError as error:
            raise RunError(
                f"{place.device} has no memory left for batches of {data.batch_size}; give a smaller --batch-size"
            ) from error


class _Training:
    """A run on one rank."""

    def __init__(
        self, data: TrainingData, folder: RunFolder, config: TrainConfig, place: Place, progress: bool
    ) -> None:
        self.data, self.folder, self.config, self.place, self.progress = data, folder, config, place, progress
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.pictured = time.monotonic()

    def run(self) -> dict[str, Any]:
        """Train the epochs that are left and return the summary."""
        state, lacks_best = self._open_folder()
        first_epoch = state["epoch"] if state else 0
        if first_epoch < self.config.epochs or lacks_best:
            self.learner = Learner(self.data, self.config, self.place, state, self.folder.last)
            for text in self.learner.told:
                self._tell(text)
        if state and lacks_best:
            self._write_missing_best(state)
        if first_epoch >= self.config.epochs:
            self._tell(
                f"{self.folder.path}: finished, {len(self.history)} of {self.config.epochs} epochs, best epoch "
                f"{self.best['epoch']} with balanced accuracy {self.best['balanced_accuracy']:.4f}; "
                f"nothing to do. --epochs {2 * self.config.epochs} would go on"
            )
            if not self.folder.curves.exists():
                self._draw()
            return self._summary()
        if self.place.is_first and not self.folder.augmented.exists():
            draw_examples(self.data, self.config.augment, self.config.seed, self.folder.augmented)
        for epoch in range(first_epoch, self.config.epochs):
            self._epoch(epoch)
        self._draw()
        return self._summary()

    def _tell(self, text: str) -> None:
        """Say something on standard error, where that is wanted; rank 0 only."""
        if self.progress:
            message(text)

    def _open_folder(self) -> tuple[dict[str, Any] | None, bool]:
        """Check the folder against the settings; rank 0 looks and tells the others.

        Returns
        -------
        state : dict or None
            The last checkpoint.
        lacks_best : bool
            True if a kill came before the files of the best epoch.
        """
        state: dict[str, Any] | None = None
        lacks_best = False
        if self.place.is_first:
            state = self.folder.open(
                {
                    "settings": self.config.to_dict(),
                    "world_size": self.place.world_size,
                    "global_batch": self.config.batch_size_per_rank * self.place.world_size,
                    "classes": self.data.classes,
                    "beton": self.data.facts,
                    "versions": versions(),
                }
            )
            if state:
                self.folder.restore_metrics(state["history"])
                lacks_best = self.folder.lacks_best(state["best"]["epoch"])
        state, lacks_best = dist.broadcast((state, lacks_best), self.place)
        if state:
            self.history, self.best = list(state["history"]), dict(state["best"])
            if state["epoch"] < self.config.epochs:
                self._tell(f"resuming after epoch {state['epoch']} of {self.config.epochs} ({self.folder.path})")
        else:
            self._say_start()
        return state, lacks_best

    def _epoch(self, epoch: int) -> None:
        """Train and validate one epoch, then make it count."""
        data, learner = self.data, self.learner
        step = (epoch + 1) * data.steps
        started = time.perf_counter()
        waited = [0.0]
        loss = learner.train_epoch(epoch, waited)
        trained = time.perf_counter()
        predictions = learner.validate()
        if predictions is None:
            return
        validated = time.perf_counter()
        slides = data.sidecar.slide[predictions.rows].astype(np.int64)
        metrics = compute_metrics(predictions, slides, data.classes)
        if not math.isfinite(metrics["loss"]):
            raise RunError(learner.not_finite(epoch, step, "validation loss", metrics["loss"]))
        seconds = trained - started
        n_tiles = data.steps * data.batch_size * self.place.world_size
        line = {
            "epoch": epoch + 1,
            "step": step,
            "lr": learner.lr(step - 1),
            "train/loss": loss,
            **{f"val/{name}": value for name, value in metrics.items()},
            "time/epoch_s": round(validated - started, 4),
            "time/train_s": round(seconds, 4),
            "time/val_s": round(validated - trained, 4),
            "time/load_share": round(waited[0] / seconds, 4),
            "throughput/tiles_per_s": round(n_tiles / seconds, 1),
        }
        if self.place.device.type == "cuda":
            line["memory/GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
        self._commit(plain(line), predictions)

    def _commit(self, line: dict[str, Any], predictions: Predictions) -> None:
        """Save the epoch; rank 0 only. The checkpoint comes first, the rest can be made from it."""
        self.history.append(line)
        score = (line["val/balanced_accuracy"], -line["val/loss"])
        is_best = not self.best or score > (self.best["balanced_accuracy"], -self.best["loss"])
        if is_best:
            self.best = {"epoch": line["epoch"], "balanced_accuracy": score[0], "loss": line["val/loss"]}
        state = self._state(line["epoch"])
        self.folder.commit(state)
        if is_best:
            self._write_best(state, predictions)
        self.folder.add_metrics(line)
        self._tell(
            f"epoch {line['epoch']:>3}/{self.config.epochs}  loss {line['train/loss']:.4f}  "
            f"val loss {line['val/loss']:.4f}  balanced accuracy {line['val/balanced_accuracy']:.4f}"
            f"{' (best)' if is_best else '       '}  {line['throughput/tiles_per_s']:,.0f} tiles/s, "
            f"{100 * line['time/load_share']:.0f} % of the time waiting for tiles"
        )
        if time.monotonic() - self.pictured > _SECONDS_BETWEEN_PICTURES:
            self._draw()
            self.pictured = time.monotonic()

    def _state(self, epoch: int) -> dict[str, Any]:
        """Return the checkpoint: all that resuming, evaluating and predicting need."""
        return {
            "epoch": epoch,
            "step": epoch * self.data.steps,
            **self.learner.state(),
            "config": self.config.to_dict(),
            "world_size": self.place.world_size,
            "classes": self.data.classes,
            "beton": self.data.facts,
            "best": self.best,
            "history": self.history,
            "versions": versions(),
        }

    def _write_best(self, state: dict[str, Any], predictions: Predictions) -> None:
        """Write the files of the best epoch."""
        self.folder.write_best(state)
        facts = {"epoch": str(state["epoch"]), "run": self.folder.path.name}
        write_predictions(self.folder.predictions, predictions, self.data.sidecar, self.data.classes, facts)

    def _write_missing_best(self, state: dict[str, Any]) -> None:
        """Write the files of the best epoch where a kill came before them."""
        if self.best["epoch"] != state["epoch"]:
            raise RunError(
                f"{self.folder.best} or {self.folder.predictions.name} of epoch {self.best['epoch']} "
                "is missing; put it back, or train again with another --run"
            )
        predictions = self.learner.validate()
        if predictions is not None:
            self._write_best(state, predictions)

    def _draw(self) -> None:
        """Draw the curves; rank 0 only."""
        if self.place.is_first and self.history:
            title = f"{self.folder.path.name}: {self.config.model} on {self.data.beton.name}"
            draw_curves(self.history, self.data.classes, self.best["epoch"], self.folder.curves, title)

    def _say_start(self) -> None:
        """Tell what is about to be trained, and what cannot be learnt."""
        data = self.data
        self._tell(
            f"training {self.config.model} on {len(data.rows.train):,} tiles, validating on "
            f"{len(data.rows.val):,}, {len(data.classes)} classes ({', '.join(data.classes)}); "
            f"{self.place.world_size} x {self.place.device.type}, "
            f"{data.steps} steps of {data.batch_size * self.place.world_size} tiles an epoch"
        )
        if data.rows.unlabelled:
            self._tell(f"{data.rows.unlabelled:,} tiles without a label are left out")
        if data.rows.left_out:
            self._tell(f"{data.rows.left_out:,} labelled tiles that do not meet {self.config.where} are left out")
        if data.rows.clipped:
            self._tell(f"{data.rows.clipped:,} training tiles are left out: at most {self.config.clip:,} of a slide")
        groups = data.sampler.groups
        if groups is not None and self.config.sample != "natural":
            self._tell(
                f"balanced by {self.config.sample}: {len(groups.names):,} groups, of which "
                f"{groups.names[groups.smallest]} has {groups.counts[groups.smallest]:,} tiles; an epoch takes "
                f"{data.sampler.tiles:,}"
            )
        if data.absent_classes:
            self._tell(f"warning: no training tile is of class {', '.join(data.absent_classes)}: it cannot be learnt")

    def _summary(self) -> dict[str, Any]:
        """Return what a caller wants to know, on rank 0; nothing elsewhere."""
        if not self.place.is_first:
            return {}
        best_epoch = self.best["epoch"]
        return {
            "run": str(self.folder.path),
            "checkpoint": str(self.folder.best),
            "epochs": len(self.history),
            "best_epoch": best_epoch,
            "metrics": next(line for line in self.history if line["epoch"] == best_epoch),
        }
