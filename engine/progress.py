"""Progress of long work, on standard error: a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from slideduck.words import message, printable

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["track"]

_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def track(title: str, total: int, unit: str, *, done: int = 0, show: bool = True) -> Iterator[Callable[[int], None]]:
    """Show the progress of some work, its rate and the time left.

    Parameters
    ----------
    title : str
        What is being done, such as ``"Exporting"``.
    total, done : int
        Units in all, and those that an earlier call had already done.
    unit : str
        Plural noun, such as ``"tiles"``.
    show : bool
        False keeps it silent, for library calls.

    Yields
    ------
    callable
        Call it with the number of units finished since the last call.
    """
    if not show or total <= 0:
        yield lambda _n: None
    elif sys.stderr.isatty():
        with _bar() as bar:
            task = bar.add_task(printable(title), total=total, completed=done, unit=unit)
            yield lambda n: bar.advance(task, n)
    else:
        yield _lines(title, total, unit, done)


def _bar() -> Progress:
    """Return an empty bar; rich is imported only where one is shown."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        """Units per second since the start."""

        def render(self, task: Task) -> Text:
            """Return the rate with its unit, such as ``613 tiles/s``."""
            unit = task.fields["unit"]
            rate = task.finished_speed or task.speed
            return Text("" if rate is None else f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.2f} {unit}/s")

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}", markup=False),
        Rate(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _lines(title: str, total: int, unit: str, done: int) -> Callable[[int], None]:
    """Return an ``advance`` that writes a plain line every ten seconds and at the end."""
    started = last = time.monotonic()
    count = done

    def advance(n: int) -> None:
        nonlocal count, last
        count += n
        now = time.monotonic()
        if count < total and now - last < _SECONDS_BETWEEN_LINES:
            return
        last = now
        rate = (count - done) / max(now - started, 1e-9)
        left = (total - count) / max(rate, 1e-9)
        message(f"{title}: {count:,}/{total:,} {unit}, {rate:,.1f} {unit}/s, {left:.0f} s left")

    return advance
