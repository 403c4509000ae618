"""The pictures of runs: ``slideduck plot curves``, ``roc``, ``pr``, ``confusion``, ``reliability`` and ``worst``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from slideduck.cli.printing import example
from slideduck.runner.cli.command import runner_command
from slideduck.words import print_line

__all__ = ["confusion", "curves", "pr", "reliability", "roc", "worst"]

F = TypeVar("F", bound=Callable[..., Any])

_SOURCE = click.argument("run", type=click.Path(path_type=Path))
_OUT = click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
_LEVEL = click.option(
    "--level",
    type=click.Choice(["tiles", "slides", "patients"]),
    default="tiles",
    show_default=True,
    help="What is counted; slides and patients by the mean of their tiles' probabilities.",
)
_DPI = click.option("--dpi", type=int, help="Dots per inch of a PNG.  [default: 200]")
_RESAMPLES = click.option(
    "--resamples",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    metavar="N",
    help="Resamples of patients for the intervals; 0 for none.",
)


def _check(run: Path, out: Path, dpi: int | None) -> None:
    """Refuse a run without predictions and a picture of no form, before torch is imported."""
    from slideduck.catalog.evaluations import prediction_files
    from slideduck.runner.cli.first import check_picture_of

    check_picture_of(out, dpi)
    prediction_files(run)


@runner_command(epilog=example("slideduck plot curves runs/first curves.pdf"))
@click.argument("run", type=click.Path(file_okay=False, path_type=Path))
@_OUT
@_DPI
def curves(run: Path, out: Path, dpi: int | None) -> None:
    """Draw loss, accuracy, AUROC and learning rate of a RUN over its epochs (.png, .pdf, .svg)."""
    from slideduck.runner.cli.first import check_picture_of

    check_picture_of(out, dpi)
    from slideduck.runner.plots.curves import plot_curves

    print_line(plot_curves(run, out, dpi=dpi))


@runner_command(epilog=example("slideduck plot roc runs/first roc.pdf --level slides"))
@_SOURCE
@_OUT
@_LEVEL
@_RESAMPLES
@_DPI
def roc(run: Path, out: Path, **options: Any) -> None:
    """Draw the ROC curve of each class, with AUROC and its interval (.png, .pdf, .svg).

    RUN is a run's folder, for the validation tiles of its best epoch, or a Parquet that `slideduck evaluate`
    wrote. The circle on each curve is the threshold by Youden's J.
    """
    _check(run, out, options["dpi"])
    from slideduck.runner.plots.scores import plot_roc

    print_line(plot_roc(run, out, **options))


@runner_command(epilog=example("slideduck plot pr runs/first pr.png"))
@_SOURCE
@_OUT
@_LEVEL
@_RESAMPLES
@_DPI
def pr(run: Path, out: Path, **options: Any) -> None:
    """Draw precision over recall of each class, with average precision and its interval (.png, .pdf, .svg).

    RUN is a run's folder, or a Parquet that `slideduck evaluate` wrote. The marks at the right edge are what
    chance gives.
    """
    _check(run, out, options["dpi"])
    from slideduck.runner.plots.scores import plot_pr

    print_line(plot_pr(run, out, **options))


@runner_command(epilog=example("slideduck plot confusion runs/first confusion.svg"))
@_SOURCE
@_OUT
@_LEVEL
@_RESAMPLES
@_DPI
def confusion(run: Path, out: Path, **options: Any) -> None:
    """Draw how many tiles of each class are predicted to be of each (.png, .pdf, .svg).

    Of a run that learnt numbers, draw the predicted ones over the observed. RUN is a run's folder, or a Parquet that
    `slideduck evaluate` wrote.
    """
    _check(run, out, options["dpi"])
    from slideduck.runner.plots.scores import plot_confusion

    print_line(plot_confusion(run, out, **options))


@runner_command(epilog=example("slideduck plot reliability runs/first reliability.png --per-class"))
@_SOURCE
@_OUT
@_LEVEL
@click.option("--per-class", is_flag=True, help="A panel for each class, in place of one for the predicted class.")
@_DPI
def reliability(run: Path, out: Path, **options: Any) -> None:
    """Draw how often what is said with a probability comes true (.png, .pdf, .svg).

    RUN is a run's folder, or a Parquet that `slideduck evaluate` wrote.
    """
    _check(run, out, options["dpi"])
    from slideduck.runner.plots.scores import plot_reliability

    print_line(plot_reliability(run, out, **options))


@runner_command(epilog=example("slideduck plot worst runs/first tiles.beton worst.png --right 6"))
@_SOURCE
@click.argument("beton", type=click.Path(dir_okay=False, path_type=Path))
@_OUT
@click.option("--tiles", type=int, default=24, show_default=True, metavar="N", help="How many, the worst first.")
@click.option("--right", type=int, default=0, metavar="N",
              help="Also so many of each class that are right, and most certainly so.")  # fmt: skip
@click.option("--per-slide", type=int, metavar="N", help="At most so many of a slide, in each part of the sheet.")
@_DPI
def worst(run: Path, beton: Path, out: Path, **options: Any) -> None:
    """Draw the tiles whose label a network thought least likely, with their pixels (.png, .pdf, .svg).

    RUN is a run's folder, or a Parquet that `slideduck evaluate` wrote, and BETON has its tiles. Under each are
    its label, what it was taken for, the probabilities of both, and its name.
    """
    from slideduck.runner.cli.first import check_source

    _check(run, out, options["dpi"])
    check_source(beton)
    from slideduck.runner.plots.worst import plot_worst

    print_line(plot_worst(run, beton, out, **options))
