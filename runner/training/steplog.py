"""Progress within an epoch: lines of steps.jsonl, and a bar or lines on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from slideduck.runner.training.learner import EpochPart
from slideduck.words import message, printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["EpochBar", "epoch_bar", "step_line"]

_SECONDS_BETWEEN_LINES = 10.0


def step_line(
    epoch: int, part: EpochPart, before: tuple[int, float, float], window: int, lr: float, tiles: int
) -> dict[str, Any]:
    """Return a line of steps.jsonl.

    Parameters
    ----------
    epoch : int
        From 0.
    part : EpochPart
        How far the epoch is; its losses have been looked at.
    before : tuple of (int, float, float)
        ``done``, ``seconds`` and ``waited_s`` of the line before, or of where this process began.
    window : int
        Step of the epoch after which the line's means begin.
    lr : float
        Learning rate of its last step.
    tiles : int
        Tiles of a step, over all ranks.
    """
    steps, seconds, waited = part.done - before[0], part.seconds - before[1], part.waited_s - before[2]
    return {
        "step": epoch * len(part.losses) + part.done,
        "epoch": epoch + 1,
        "lr": lr,
        "train/loss": float(part.losses[window : part.done].mean()),
        "train/gradient_norm": float(part.norms[window : part.done].mean()),
        "time/step_ms": round(1e3 * seconds / steps, 3),
        "time/load_ms": round(1e3 * waited / steps, 3),
        "time/load_share": round(waited / seconds, 4),
        "throughput/tiles_per_s": round(steps * tiles / seconds, 1),
    }


class EpochBar:
    """Shows how far an epoch is: a bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, title: str, part: EpochPart, tiles: int, bar: Progress | None) -> None:
        self.title, self.part, self.tiles = title, part, tiles
        self.started, self.told, self.first = time.monotonic(), time.monotonic(), part.done
        self.loss: float | None = None
        self.bar = bar
        self.task: TaskID | None = None
        if bar:
            total = len(part.losses) * tiles
            self.task = bar.add_task(printable(title), total=total, completed=part.done * tiles, more="")

    def advance(self) -> None:
        """Show the part as it is now."""
        now = time.monotonic()
        if self.bar and self.task is not None:
            self.bar.update(self.task, completed=self.part.done * self.tiles, more=self._more(now))
        elif now - self.told >= _SECONDS_BETWEEN_LINES and self.part.done < len(self.part.losses):
            self.told = now
            done, total = self.part.done * self.tiles, len(self.part.losses) * self.tiles
            left = (total - done) / self._rate(now)
            message(f"{self.title}: {done:,}/{total:,} tiles, {self._more(now)}, {left:,.0f} s left")

    def _rate(self, now: float) -> float:
        """Return tiles a second since this process began the epoch."""
        return (self.part.done - self.first) * self.tiles / max(now - self.started, 1e-9)

    def _more(self, now: float) -> str:
        """Return the rate, the loss and the waiting, in words."""
        loss = "" if self.loss is None else f", loss {self.loss:.4f}"
        share = 100 * self.part.waited_s / max(self.part.seconds, 1e-9)
        return f"{self._rate(now):,.0f} tiles/s{loss}, {share:.0f} % waiting for tiles"


@contextmanager
def epoch_bar(title: str, part: EpochPart, tiles: int, show: bool) -> Iterator[EpochBar | None]:
    """Show the progress of an epoch within a block, where that is wanted.

    Parameters
    ----------
    title : str
        Such as ``"epoch 3/10"``.
    part : EpochPart
        How far it is.
    tiles : int
        Tiles of a step, over all ranks.
    show : bool
        False yields None.
    """
    if not show:
        yield None
        return
    if not sys.stderr.isatty():
        yield EpochBar(title, part, tiles, None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tiles, {task.fields[more]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield EpochBar(title, part, tiles, bar)
