"""The messages of a run on standard error: its start, each epoch, its end, and advice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from slideduck.runner.ranks import dist
from slideduck.runner.ranks.dist import Place
from slideduck.runner.settings.modelnames import is_given, titled
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tasks.kinds import task_class
from slideduck.runner.tiles.open import TrainingData
from slideduck.runner.training.learner import EpochPart, NotFinite, steps_of_epoch
from slideduck.runner.training.stopping import Criteria
from slideduck.runner.training.waiting import LoaderFacts, Usage, advice
from slideduck.words import agreeing, counted, message

__all__ = ["Teller", "no_memory"]

#: Shorter epochs are all start, and what they wait for tells nothing.
_SECONDS_FOR_ADVICE = 5.0

Line = Mapping[str, Any]


class Teller:
    """Writes the messages of a run.

    Parameters
    ----------
    data, config, place, criteria
        Of the run.
    run : Path
        Its folder.
    show : bool
        False keeps it silent, as on all ranks but the first.
    """

    def __init__(
        self, data: TrainingData, config: TrainConfig, place: Place, criteria: Criteria, run: Path, show: bool
    ) -> None:
        self.data, self.config, self.place, self.criteria, self.run, self.show = (
            data,
            config,
            place,
            criteria,
            run,
            show,
        )
        self.steps, batches = steps_of_epoch(data.steps, config.accumulate)
        self.tiles_per_step = batches * data.batch_size * place.world_size
        self.advised = False

    def tell(self, text: str) -> None:
        """Say something."""
        if self.show:
            message(text)

    def start(self) -> None:
        """Say what will be trained, and what cannot be learnt."""
        data, kind = self.data, task_class(self.config.task)
        name = titled(self.config.model) if is_given(self.config.model) else self.config.model
        self.tell(
            f"training {name} on {counted(len(data.rows.train), 'tile')}, validating on "
            f"{len(data.rows.val):,}, {len(data.classes)} {kind.nouns} ({', '.join(data.classes)}); "
            f"{self.place.world_size} x {self.place.device.type}, "
            f"{self.steps} steps of {self.tiles_per_step} tiles an epoch"
        )
        if self.config.task == "classification" and data.targets.ndim > 1:
            self.tell("labels are soft: the loss is against probabilities, and a tile counts for its likeliest class")
        if self.place.device.type == "cpu" and torch.backends.mps.is_available():
            self.tell(
                "warning: this machine's GPU is Apple's (MPS), which is not supported: it has no float64, in which "
                "losses are summed, and no streams, on which tiles are copied; the CPU trains"
            )
        if data.rows.unlabelled:
            what = "label" if self.config.target == "label" else f"value of {self.config.target}"
            self.tell(
                f"{counted(data.rows.unlabelled, f'tile without a {what} is', f'tiles without a {what} are')} left out"
            )
        if data.rows.left_out:
            self.tell(
                f"{counted(data.rows.left_out, 'labelled tile that does', 'labelled tiles that do')} not meet "
                f"{self.config.where} {agreeing(data.rows.left_out, 'is', 'are')} left out"
            )
        if data.rows.clipped:
            self.tell(
                f"{counted(data.rows.clipped, 'training tile is', 'training tiles are')} left out: "
                f"at most {self.config.clip:,} of a slide"
            )
        groups = data.sampler.groups
        if groups is not None and self.config.sample != "natural":
            self.tell(
                f"balanced by {self.config.sample}: {len(groups.names):,} groups, of which "
                f"{groups.names[groups.smallest]} has {groups.counts[groups.smallest]:,} tiles; an epoch takes "
                f"{data.sampler.tiles:,}"
            )
        absent = kind.absent(data.classes, data.targets[data.rows.train])
        if absent:
            self.tell(f"warning: no training tile is of class {', '.join(absent)}: it cannot be learnt")
        absent = kind.absent(data.classes, data.targets[data.rows.val])
        if absent:
            self.tell(f"warning: no validation tile is of class {', '.join(absent)}: nothing is measured of it")

    def resuming(self, state: Mapping[str, Any]) -> None:
        """Say from which checkpoint the run resumes."""
        within = state["step"] - state["epoch"] * self.steps
        where = f"epoch {state['epoch']} of {self.config.epochs}"
        if within:
            where = f"step {within} of {self.steps} in epoch {state['epoch'] + 1} of {self.config.epochs}"
        self.tell(f"resuming after {where} ({self.run})")

    def epoch(self, line: Line, is_best: bool) -> None:
        """Say how an epoch went."""
        self.tell(
            f"epoch {line['epoch']:>3}/{self.config.epochs}  loss {line['train/loss']:.4f}  "
            f"val loss {line['val/loss']:.4f}  {self._best_metric(line)}"
            f"{' (best)' if is_best else '       '}  {line['throughput/tiles_per_s']:,.0f} tiles/s, "
            f"{100 * line['time/load_share']:.0f} % of the time waiting for tiles"
        )

    def finished(self, history: Sequence[Line], best: Line) -> None:
        """Say that there is nothing to do."""
        epochs, stopped = self.config.epochs, self.criteria.stopped_after(history)
        if stopped:
            more = f"it stopped early: no better {self.criteria.stop.title} since epoch {stopped[1]}"
        else:
            more = f"nothing to do. --epochs {2 * epochs} would go on"
        self.tell(
            f"{self.run}: finished, {len(history)} of {epochs} epochs, best epoch "
            f"{best['epoch']} with {self._best_metric(best)}; {more}"
        )

    def stopped(self, history: Sequence[Line]) -> None:
        """Say if the run stopped early, and why."""
        stopped = self.criteria.stopped_after(history)
        if stopped and len(history) < self.config.epochs:
            self.tell(
                f"stopped after epoch {stopped[0]} of {self.config.epochs}: no better {self.criteria.stop.title} "
                f"since epoch {stopped[1]}"
            )

    def not_finite(self, error: NotFinite, kept: str) -> str:
        """Return the message for a number that is not finite; `kept` says what is left of the run."""
        return (
            f"epoch {(error.step - 1) // self.steps + 1}, step {error.step}: the {error.what} is {error.number}; "
            f"{kept}; start another run with a lower `lr` (it is {self.config.lr:g}) or with `precision='fp32'`"
        )

    def advise(self, part: EpochPart, first: tuple[int, float, float], used: Usage) -> None:
        """Say once what to change where tiles are waited for.

        Parameters
        ----------
        part : EpochPart
            The epoch, all of it.
        first : tuple of (int, float, float)
            ``done``, ``seconds`` and ``waited_s`` when this process began with it.
        used : Usage
            What it used since.
        """
        steps, seconds, waited = part.done - first[0], part.seconds - first[1], part.waited_s - first[2]
        if self.advised or not self.show or seconds < _SECONDS_FOR_ADVICE:
            return
        image = self.data.facts["image"]
        facts = LoaderFacts(
            threads=self.place.threads,
            cores=dist.cores(),
            processes=self.place.world_size,
            mode=image["mode"],
            tile_px=image["tile_px"],
            tile_bytes=self.data.beton.stat().st_size / self.data.sidecar.samples,
            on_cpu=self.place.device.type == "cpu",
        )
        text = advice(waited / seconds, seconds, steps * self.tiles_per_step // self.place.world_size, used, facts)
        if text:
            self.advised = True
            self.tell(f"warning: {text}")

    def _best_metric(self, values: Line) -> str:
        """Return the metric that chooses the best epoch, of a line or of what is kept of the best epoch."""
        value = values.get(self.criteria.best.name, values.get("value"))
        return f"{self.criteria.best.title} {'undefined' if value is None else f'{value:.4f}'}"


def no_memory(config: TrainConfig, place: Place) -> str:
    """Return the message for a device without memory."""
    return (
        f"{place.device} has no memory left for batches of {config.batch_size_per_rank}; give a smaller "
        "`batch_size_per_rank`, and a larger `accumulate` to train as before"
        + (", or `shard='fsdp'` if the network itself is too large" if place.world_size > 1 else "")
    )
