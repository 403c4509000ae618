"""The report of a demo: its steps, the files that it made, and the scores of the network."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from slideduck.words import printable

__all__ = ["DemoReport", "Step", "print_report"]


@dataclass(frozen=True)
class Step:
    """One step of a demo.

    Parameters
    ----------
    title : str
        What was done.
    command : str or None
        The command that does it; None where there is none.
    result : str
        What came of it, in one line.
    seconds : float
        How long it took.
    """

    title: str
    command: str | None
    result: str
    seconds: float


@dataclass(frozen=True)
class DemoReport:
    """The files that a demo made, and the scores of the network.

    Parameters
    ----------
    directory : pathlib.Path
        What holds everything.
    made : dict of str to pathlib.Path
        Each thing made, by name: cohort, study, overlay, beton, side-car, run, curves, validation, heatmap.
    classes : tuple of str
        Labels, in the order of their class numbers.
    tiles : dict of str to dict of str to int
        Labelled tiles by split and label.
    accuracy, balanced_accuracy : float
        On the tiles of the validation patients, 0 to 1.
    confusion : tuple of tuple of int
        Validation tiles: rows by true class, columns by predicted class, both in the order of `classes`.
    steps : tuple of Step
        What was done, in order.
    seconds : float
        How long it all took.
    """

    directory: Path
    made: dict[str, Path]
    classes: tuple[str, ...]
    tiles: dict[str, dict[str, int]]
    accuracy: float
    balanced_accuracy: float
    confusion: tuple[tuple[int, ...], ...]
    steps: tuple[Step, ...]
    seconds: float


#: What each thing of a report is, for people.
_WHAT = {
    "cohort": "slides, ROI files, patients.csv",
    "study": "the DuckDB database: slides, ROIs, labels, predictions",
    "overlay": "a validation slide with its ROIs and labelled tiles",
    "beton": "the labelled tiles, for training",
    "side-car": "where each tile of the beton comes from",
    "run": "settings, checkpoints, metrics",
    "curves": "loss and accuracy by epoch",
    "validation": "prediction of each validation tile",
    "heatmap": "the slide of the overlay as the network sees it",
}


def print_report(report: DemoReport) -> None:
    """Print the summary of a demo on standard output."""
    # A pipe has no width: there paths are not to be folded at 80 columns.
    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160, highlight=False)
    made = Table(title="What was made", title_justify="left", title_style="bold")
    for name in ("thing", "path", "what it is"):
        made.add_column(name, overflow="fold")
    for name, path in report.made.items():
        made.add_row(name, Text(printable(str(path))), _WHAT[name])
    console.print(made)

    learnt = Table(title="Tiles of each label", title_justify="left", title_style="bold")
    learnt.add_column("label")
    for name in ("train", "val", "found (recall)"):
        learnt.add_column(name, justify="right")
    for number, label in enumerate(report.classes):
        right, of = report.confusion[number][number], sum(report.confusion[number])
        recall = f"{right / of:.3f}" if of else "–"
        counts = (f"{report.tiles[side].get(label, 0):,}" for side in ("train", "val"))
        learnt.add_row(Text(printable(label)), *counts, recall)
    console.print(learnt)
    console.print(
        f"Validation accuracy [bold]{report.accuracy:.3f}[/bold], balanced accuracy "
        f"[bold]{report.balanced_accuracy:.3f}[/bold] (guessing: {1 / len(report.classes):.2f}), on patients "
        f"that the network has not seen; {report.seconds:.0f} s in all."
    )
