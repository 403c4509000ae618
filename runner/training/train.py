"""Training: the work of every rank, and how a run starts, stops and resumes.

An epoch counts once ``last.pt`` is in place; a run that was killed resumes from checkpoints within an epoch.
The order of tiles, their augmentation and the network's own random numbers are functions of
(seed, epoch, step), so that a run which was killed and started again computes what an uninterrupted one
does: on a CPU with the same number of threads to the bit, whenever its checkpoints were written.

A run may be given more epochs than it was started with, and goes on: its steps then follow the schedule
of the new length from there on, which is not the schedule of a run that had this length from the start.
Any other change of a setting that numbers depend on is refused.
"""

from __future__ import annotations

import math
import time
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch

from slideduck.errors import RunError
from slideduck.runner.networks.build import Built
from slideduck.runner.networks.forward import precision_context
from slideduck.runner.networks.given import Network, named, received, require_given, sent
from slideduck.runner.plots.curves import draw_curves
from slideduck.runner.plots.examples import draw_examples
from slideduck.runner.ranks import dist
from slideduck.runner.ranks.dist import Place
from slideduck.runner.ranks.launch import Launch, launch, resolve_nproc
from slideduck.runner.runs.card import write_card
from slideduck.runner.runs.checkpoint import lock_folder
from slideduck.runner.runs.predictions import write_predictions
from slideduck.runner.runs.runfolder import RunFolder, versions
from slideduck.runner.runs.tracking import Tracking
from slideduck.runner.scores.metrics import plain
from slideduck.runner.scores.predictions import Predictions
from slideduck.runner.settings.trackers import require_trackers
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.settings.trust import say
from slideduck.runner.tasks.kinds import make_task
from slideduck.runner.tiles.open import TrainingData, open_data
from slideduck.runner.training.learner import EpochPart, Learner, NotFinite, steps_of_epoch
from slideduck.runner.training.steplog import epoch_bar, step_line
from slideduck.runner.training.stopping import plateau_of, resolve_criteria
from slideduck.runner.training.telling import Teller, no_memory
from slideduck.runner.training.trial import first_network
from slideduck.runner.training.waiting import usage
from slideduck.runner.training.writer import Writer, background_writer, copied
from slideduck.words import message

__all__ = ["train", "train_rank"]

_SECONDS_BETWEEN_PICTURES = 20.0

#: Steps between looks at the clock for a checkpoint: rank 0 tells the others what it saw.
_STEPS_PER_CLOCK = 10


def train(
    beton: Path | str,
    run: Path | str,
    config: TrainConfig | None = None,
    *,
    network: Network | None = None,
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
    network : callable or nn.Module, optional
        The network, in place of the settings' ``model``: a function that is called with the number of outputs, or a
        module, of which a copy trains. It may be of a script or a notebook; the run then holds its weights and no
        code, and `evaluate` and its like need it again.
    nproc : str or int
        Processes: ``"auto"`` is one a GPU, or one without any. Under a launcher such as torchrun, this
        process joins those that it started. They import nothing of the script or notebook that calls.
    how : Launch, optional
        Several nodes, restarts after a lost process, and how long processes wait for each other.
    progress : bool
        Tell on standard error how it goes: a line an epoch, and within one a bar, or a line every ten
        seconds where that is no terminal.

    Returns
    -------
    dict
        ``run``, ``epochs``, ``best_epoch``, ``metrics`` (of the best epoch), ``validation`` (what
        `slideduck.runner.scores.assess.assess` says of its predictions) and ``checkpoint``.

    Raises
    ------
    ConfigError, BetonError, RunError, DiskFullError
        Each says what to do; the last checkpoint is never lost.
    """
    settings = named(config or TrainConfig(), network).to_dict()
    require_given(settings["model"], network)
    say(settings["model"])
    beton, run = str(Path(beton).absolute()), str(Path(run).absolute())
    how = how or Launch()
    rest = (beton, run, settings, progress, how.timeout_minutes)
    if dist.is_joining():
        dist.require_nproc(nproc)
        return train_rank(*rest, network)
    count = resolve_nproc(nproc)
    if count == how.nnodes == 1 and not how.restarts:
        return train_rank(*rest, network)
    return launch(count, train_rank, *rest, sent(network), how=how) or {}


def train_rank(
    beton: str,
    run: str,
    settings: dict[str, Any],
    progress: bool = True,
    timeout_minutes: float = dist.TIMEOUT_MINUTES,
    network: Network | bytes | None = None,
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
    network : callable, nn.Module or bytes, optional
        As `train` takes it, or as another process sent it.
    """
    with dist.joined(timeout_minutes) as place:
        config = TrainConfig.from_dict(settings)
        precision_context(config.precision, place.device)
        require_trackers(config.track)
        if isinstance(network, bytes):
            network = received(network, config.model)
        data = open_data(Path(beton), config, place, progress=progress)
        folder = RunFolder(run)
        try:
            first = first_network(data, folder, config, place, network)
            training = _Training(data, folder, config, place, progress and place.is_first, network, first)
            with lock_folder(Path(run)) if place.is_first else nullcontext(), background_writer() as writer:
                return training.run(writer)
        except (RuntimeError, MemoryError) as error:
            if not dist.is_out_of_memory(error):
                raise
            raise RunError(no_memory(config, place)) from error


class _Training:
    """A run on one rank."""

    writer: Writer
    learner: Learner
    tracking: Tracking

    def __init__(
        self,
        data: TrainingData,
        folder: RunFolder,
        config: TrainConfig,
        place: Place,
        progress: bool,
        network: Network | None,
        first: Built | None,
    ) -> None:
        self.data, self.folder, self.config, self.place, self.progress = data, folder, config, place, progress
        self.network, self.first = network, first
        self.steps, batches = steps_of_epoch(data.steps, config.accumulate)
        self.tiles_per_step = batches * data.batch_size * place.world_size
        self.task = make_task(
            config,
            data.classes,
            torch.device("cpu"),
            targets=data.targets[data.rows.train],
            shares=data.sampler.shares,
        )
        self.criteria = resolve_criteria(config, self._known_metrics())
        self.teller = Teller(data, config, place, self.criteria, folder.path, progress)
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.kept = "no checkpoint is written yet"
        self.pictured = self.saved = time.monotonic()

    def run(self, writer: Writer) -> dict[str, Any]:
        """Train the remaining epochs and return the summary."""
        self.writer = writer
        state, lacks_best = self._open_folder()
        is_left = not self._is_over()
        if is_left or lacks_best:
            self.learner = Learner(self.data, self.config, self.place, state, self.network, self.first)
            for text in self.learner.told:
                self.teller.tell(text)
        if state and lacks_best:
            self._write_missing_best(state)
        if not is_left:
            self.teller.finished(self.history, self.best)
            if not self.folder.curves.exists():
                self._draw()
            self._assess()
            if not self.folder.card.exists():
                self._write_card()
            return self._summary()
        if self.place.is_first and not self.folder.augmented.exists():
            draw_examples(self.data, self.config.augment, self.config.seed, self.folder.augmented)
        track = self.config.track if self.place.is_first else "none"
        self.tracking = Tracking(track, self.folder.path, self.config.to_dict(), state["step"] if state else 0)
        is_whole = False
        try:
            self._train_epochs(state)
            is_whole = True
        finally:
            self.tracking.finish(is_whole)
        return self._summary()

    def _train_epochs(self, state: dict[str, Any] | None) -> None:
        """Train the remaining epochs, and write the files of a finished run."""
        if not state:
            self.tracking.picture(self.folder.augmented, 0)
        part = self.learner.new_part()
        if state and state.get("within_epoch"):
            part.load(state["within_epoch"])
        try:
            while not self._is_over():
                self._epoch(len(self.history), part)
                part = self.learner.new_part()
        except NotFinite as error:
            # The message names the last checkpoint: flush it first.
            self.writer.wait()
            raise RunError(self.teller.not_finite(error, self.kept)) from None
        self.writer.wait()
        self.teller.stopped(self.history)
        self._draw()
        self._assess()
        self._write_card()
        self.tracking.picture(self.folder.curves, self.history[-1]["step"])

    def _is_over(self) -> bool:
        """Return True if no epoch is left, or the run has stopped early."""
        return len(self.history) >= self.config.epochs or self.criteria.stopped_after(self.history) is not None

    def _open_folder(self) -> tuple[dict[str, Any] | None, bool]:
        """Check the folder against the settings; rank 0 looks and tells the others.

        Returns
        -------
        state : dict or None
            The newest checkpoint.
        lacks_best : bool
            True if a kill came before the files of the best epoch.
        """
        state: dict[str, Any] | None = None
        lacks_best = False
        if self.place.is_first:
            state, damaged = self.folder.open(
                {
                    "settings": self.config.to_dict(),
                    "world_size": self.place.world_size,
                    "global_batch": self.config.batch_size_per_rank * self.config.accumulate * self.place.world_size,
                    "classes": self.data.classes,
                    "beton": self.data.facts,
                    "versions": versions(),
                }
            )
            for problem in damaged:
                message(f"warning: {problem}; the checkpoint before it is used")
            self.folder.restore_steps(state["step"] if state else 0)
            if state:
                self.folder.restore_metrics(state["history"])
                # After a damaged last.pt, the best epoch may be one that is done again now.
                state["best"] = self.folder.best_beyond(state["epoch"]) or state["best"]
                lacks_best = self.folder.lacks_best(state["best"].get("epoch", 0))
        state, lacks_best = dist.broadcast((state, lacks_best), self.place)
        if state:
            self.history, self.best = list(state["history"]), dict(state["best"])
            self.kept = self._kept_as(state["step"])
            if not self._is_over():
                self.teller.resuming(state)
        else:
            self.teller.start()
        return state, lacks_best

    def _epoch(self, epoch: int, part: EpochPart) -> None:
        """Do the remaining steps of an epoch, validate, and save it."""
        learner = self.learner
        learner.lr_factor = plateau_of(self.config, self.criteria.stop, self.history)
        self._train(epoch, part)
        learner.finish_epoch()
        trained = time.perf_counter()
        predictions = learner.validate()
        seconds = time.perf_counter() - trained
        metrics = dist.broadcast(self.task.metrics(predictions, self.data.sidecar) if predictions else None, self.place)
        if not math.isfinite(metrics["loss"]):
            raise NotFinite("validation loss", (epoch + 1) * self.steps, metrics["loss"])
        line = {
            "epoch": epoch + 1,
            "step": (epoch + 1) * self.steps,
            "lr": learner.lr((epoch + 1) * self.steps - 1),
            "train/loss": float(part.losses.mean()),
            **{f"val/{name}": value for name, value in metrics.items()},
            "time/epoch_s": round(part.seconds + seconds, 4),
            "time/train_s": round(part.seconds, 4),
            "time/val_s": round(seconds, 4),
            "time/load_share": round(part.waited_s / part.seconds, 4),
            "throughput/tiles_per_s": round(self.steps * self.tiles_per_step / part.seconds, 1),
        }
        if self.place.device.type == "cuda":
            line["memory/GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
        self._commit(plain(line), predictions)

    def _train(self, epoch: int, part: EpochPart) -> None:
        """Do the remaining steps of an epoch, with lines of steps.jsonl and checkpoints when they are due."""
        learner, config = self.learner, self.config
        title = f"epoch {epoch + 1}/{config.epochs}"
        before, window = (part.done, part.seconds, part.waited_s), part.done - part.done % config.log_steps
        first, used = before, usage()
        with (
            closing(learner.train(epoch, part)) as steps,
            epoch_bar(title, part, self.tiles_per_step, self.progress) as bar,
        ):
            for done in steps:
                step = epoch * self.steps + done
                is_last = done == self.steps
                is_line = is_last or done % config.log_steps == 0
                is_due = not is_last and self._is_due(step)
                if is_line or is_due:
                    learner.look(epoch, part)
                if is_line:
                    if self.place.is_first:
                        line = step_line(epoch, part, before, window, learner.lr(step - 1), self.tiles_per_step)
                        self.folder.add_step(line)
                        self.tracking.step(line)
                        if bar:
                            bar.loss = line["train/loss"]
                    before, window = (part.done, part.seconds, part.waited_s), part.done
                if is_due:
                    self._keep_step(epoch, part)
                if bar:
                    bar.advance()
        self.teller.advise(part, first, usage().since(used))

    def _is_due(self, step: int) -> bool:
        """Return True if a checkpoint is due after a step; the same on every rank."""
        config = self.config
        if config.checkpoint_steps and step % config.checkpoint_steps == 0:
            return True
        # With several ranks the others ask rank 0, which costs a little at each step.
        if not config.checkpoint_minutes or (self.place.world_size > 1 and step % _STEPS_PER_CLOCK):
            return False
        return dist.agreed(time.monotonic() - self.saved >= 60 * config.checkpoint_minutes, self.place)

    def _keep_step(self, epoch: int, part: EpochPart) -> None:
        """Write a checkpoint within an epoch."""
        step = epoch * self.steps + part.done
        state = self._state(epoch, step, part.state())
        if self.place.is_first:
            kept = copied(state)
            self.writer.submit(lambda: self.folder.commit_step(kept))
        self.saved, self.kept = time.monotonic(), self._kept_as(step)

    def _commit(self, line: dict[str, Any], predictions: Predictions | None) -> None:
        """Save the epoch. The checkpoint comes first; all other files can be made from it."""
        self.history.append(line)
        is_best = self.criteria.is_better(line, self.best)
        if is_best:
            self.best = self.criteria.as_best(line)
        state = self._state(line["epoch"], line["step"], None)
        self.saved, self.kept = time.monotonic(), self._kept_as(line["step"])
        if predictions is None:
            return
        self._submit_epoch(copied(state), predictions if is_best else None)
        self.teller.epoch(line, is_best)
        self.tracking.epoch(line)
        if time.monotonic() - self.pictured > _SECONDS_BETWEEN_PICTURES:
            self._draw()
            self.pictured = time.monotonic()

    def _submit_epoch(self, state: dict[str, Any], predictions: Predictions | None) -> None:
        """Have the files of an epoch written, those of the best epoch with its predictions; rank 0 only."""

        def write() -> None:
            self.folder.commit(state)
            if predictions:
                self._write_best(state, predictions)
            self.folder.add_metrics(state["history"][-1])

        self.writer.submit(write)

    def _state(self, epoch: int, step: int, within_epoch: dict[str, Any] | None) -> dict[str, Any]:
        """Return the checkpoint: all that resuming, evaluating and predicting need; every rank must call this."""
        return {
            "epoch": epoch,
            "step": step,
            "within_epoch": within_epoch,
            **self.learner.state(),
            **self._facts(),
        }

    def _facts(self) -> dict[str, Any]:
        """Return the contents of a checkpoint, and of the model card, beside the network."""
        return {
            "config": self.config.to_dict(),
            "world_size": self.place.world_size,
            "classes": self.data.classes,
            "beton": self.data.facts,
            "best": self.best,
            "history": self.history,
            "versions": versions(),
        }

    def _known_metrics(self) -> dict[str, Any]:
        """Return what an epoch's metrics will be called, with the values of predictions that know nothing."""
        rows = self.data.rows.val
        metrics = self.task.blank_metrics(rows, self.data.targets[rows], self.data.sidecar)
        return {"train/loss": 0.0, **{f"val/{name}": value for name, value in plain(metrics).items()}}

    def _kept_as(self, step: int) -> str:
        """Return the place of a step's checkpoint, in words."""
        epoch, within = divmod(step, self.steps)
        if within == 0:
            return f"epoch {epoch} is kept in {self.folder.last}"
        return f"step {step} is kept in {self.folder.step_checkpoint(step)}"

    def _write_best(self, state: dict[str, Any], predictions: Predictions) -> None:
        """Write the files of the best epoch."""
        self.folder.write_best(state)
        config = self.config
        split = config.val_split if config.fold is None else f"fold {config.fold}"
        facts = {
            "epoch": str(state["epoch"]),
            "run": self.folder.path.name,
            "folder": str(self.folder.path.absolute()),
            "beton": str(self.data.beton),
            "split": config.val_where or split,
        }
        write_predictions(self.folder.predictions, self.task.table(predictions, self.data.sidecar, facts))
        write_card(self.folder.path, state, self.data.sidecar, self.data.rows)

    def _write_missing_best(self, state: dict[str, Any]) -> None:
        """Write the files of the best epoch where a kill came before them."""
        if self.best["epoch"] != state["epoch"] or state.get("within_epoch"):
            raise RunError(
                f"{self.folder.best} or {self.folder.predictions.name} of epoch {self.best['epoch']} "
                "is missing or damaged; put it back, or train again with another `run`"
            )
        predictions = self.learner.validate()
        if predictions is not None:
            self._write_best(state, predictions)

    def _assess(self) -> None:
        """Write the assessment of the best epoch, with intervals, once a run is finished; rank 0 only."""
        if self.place.is_first and self.folder.epoch_of_validation() != self.best["epoch"]:
            self.folder.write_validation(self.task.assessment(self.folder.predictions))

    def _write_card(self) -> None:
        """Write the model card, with the pictures and epochs that came after the best; rank 0 only."""
        if self.place.is_first:
            write_card(self.folder.path, self._facts(), self.data.sidecar, self.data.rows)

    def _draw(self) -> None:
        """Draw the curves; rank 0 only."""
        if self.place.is_first and self.history:
            title = f"{self.folder.path.name}: {self.config.model} on {self.data.beton.name}"
            draw_curves(self.history, self.data.classes, self.best["epoch"], self.folder.curves, title)

    def _summary(self) -> dict[str, Any]:
        """Return the summary of the run for the caller, on rank 0; nothing elsewhere."""
        if not self.place.is_first:
            return {}
        best_epoch = self.best["epoch"]
        return {
            "run": str(self.folder.path),
            "checkpoint": str(self.folder.best),
            "epochs": len(self.history),
            "best_epoch": best_epoch,
            "metrics": next(line for line in self.history if line["epoch"] == best_epoch),
            "validation": self.folder.read_validation(),
        }
