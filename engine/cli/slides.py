"""The commands that put slide files into a study, and follow those that were moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import click

import slideduck
from slideduck.cli.options import limit_option
from slideduck.cli.printing import NEW_STUDY, STUDY, example
from slideduck.errors import SlideduckError
from slideduck.slides.search import NAMES
from slideduck.words import counted, print_counted, print_line, print_names

__all__ = ["add_slides", "mpp_options", "print_slides", "refuse_failed", "relocate"]

F = TypeVar("F", bound=Callable[..., Any])


class _Mpp(click.ParamType[tuple[str | None, float]]):
    """A number of microns per pixel, for all slides or for one: ``0.5`` or ``NAME=0.5``."""

    name = "MPP"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str | None, float]:
        """Return the slide's name, or None for all, and the number."""
        if isinstance(value, tuple):
            return value
        slide, _, number = str(value).rpartition("=")
        try:
            return slide or None, float(number)
        except ValueError:
            self.fail(f"{value!r} is not MPP or NAME=MPP, such as 0.5 or A12=0.5", param, ctx)


def _one_or_by_name(
    ctx: click.Context, param: click.Parameter, mpp: tuple[tuple[str | None, float], ...]
) -> float | dict[str, float] | None:
    """Return one number for all slides, or a number for each that is named."""
    defaults = [number for name, number in mpp if name is None]
    if len(defaults) > 1:
        raise click.UsageError("give --mpp without a name only once")
    named = {name: number for name, number in mpp if name is not None}
    if defaults and named:
        raise click.UsageError("give --mpp either for all slides or by name, in two calls")
    return named or (defaults[0] if defaults else None)


def mpp_options(command: F) -> F:
    """Give a command that adds slides ``--mpp`` and ``--mpp-table``."""
    table = click.option(
        "--mpp-table", metavar="CSV", type=click.Path(dir_okay=False, path_type=Path),
        help="Microns per pixel of each slide: a table with the columns slide and mpp.",
    )  # fmt: skip
    numbers = click.option(
        "--mpp", multiple=True, type=_Mpp(), metavar="[NAME=]MPP", callback=_one_or_by_name,
        help="Microns per pixel of slides whose header has none; NAME=MPP for one slide. May be repeated.",
    )  # fmt: skip
    return numbers(table(command))


@click.command(
    epilog=example(
        "slideduck add-slides study.duckdb slides/",
        "slideduck add-slides study.duckdb old/*.svs --mpp 0.5",
        "slideduck add-slides study.duckdb slides/ --mpp-table mpp.csv --names relative",
    )
)
@NEW_STUDY
@click.argument("paths", nargs=-1, required=True, type=str)
@mpp_options
@click.option(
    "--names", type=click.Choice(NAMES), default="stem", show_default=True,
    help="relative: the folders below the one given are part of the slide's name, as in case1/HE.",
)  # fmt: skip
@limit_option
def add_slides(
    study: Path, paths: tuple[str, ...], mpp: float | dict[str, float] | None, mpp_table: Path | None, names: str
) -> None:
    """Read the headers of slides: files, folders or globs.

    A slide that does not open is kept with its error, and the others go on. Masks, thumbnails and files that are no
    slides are left out. What is typed again changes only what changed: a slide that was moved keeps its tiles and
    labels, and an MPP that was given stays until another is given.
    """
    with _begun(study), slideduck.open(study, progress=True) as opened:
        report = opened.add_slides(paths, mpp=mpp, mpp_table=mpp_table, names=names)
    print_slides(report, study)
    refuse_failed(report)


def print_slides(report: slideduck.SlidesReport, study: Path) -> None:
    """Say what became of slides, but for those that cannot be used."""
    print_line(
        f"{counted(report.added, 'slide')} added, {report.updated:,} updated, {report.unchanged:,} unchanged; "
        f"{len(report.failed):,} of them cannot be used"
    )
    print_names("warnings:", report.warnings)
    _print_what_became(report, study)


def refuse_failed(report: slideduck.SlidesReport) -> None:
    """Raise if slides cannot be used, with all of them."""
    if report.failed:
        raise SlideduckError(
            f"{counted(len(report.failed), 'slide')} cannot be used:\n"
            + "\n".join(f"  {text}" for text in report.failed.values())
        )


def _print_what_became(report: slideduck.SlidesReport, study: Path) -> None:
    """Say what add-slides left as it was, and what it left out or removed."""
    print_names(f"{counted(len(report.left_out), 'file')} left out:", report.left_out)
    print_names(f"{counted(len(report.moved), 'slide')} moved, with all that is known of them:", report.moved)
    print_counted(
        "slide given as a copy, which keeps its file", "slides given as a copy, which keep their file", report.copies
    )
    print_names(
        f"{counted(len(report.kept_mpp), 'slide')} with the MPP that was given before:",
        [f"{slide}: {mpp:g}" for slide, mpp in report.kept_mpp.items()],
    )
    print_names(
        f"{counted(len(report.header_mpp), 'slide')} with an MPP in the header, which --mpp leaves alone; "
        "--mpp NAME=MPP changes it:",
        [f"{slide}: {mpp:g}" for slide, mpp in report.header_mpp.items()],
    )
    print_names(f"{counted(len(report.strangers), 'slide')} of the table not among the files:", report.strangers)
    print_names(
        f"{counted(len(report.cleared), 'slide')} lost tiles, labels and measures, since the file or its MPP is "
        f"another; slideduck label {study} lays and labels them anew:",
        report.cleared,
    )


@contextmanager
def _begun(study: Path) -> Iterator[None]:
    """Leave no new file behind if the block that begins a study fails and put nothing in it."""
    new = not study.exists()
    try:
        yield
    except BaseException:
        if new:
            _remove_empty(study)
        raise


def _remove_empty(study: Path) -> None:
    """Remove a study without slides; what does not open, or another process has open, is not ours to remove."""
    with suppress(SlideduckError, OSError):
        if not study.exists():
            return
        # While it is open for writing, no other process puts anything in it.
        with slideduck.open(study) as opened:
            if opened.sql("SELECT count(*) FROM slides").fetchall() == [(0,)]:
                study.unlink()


@click.command(epilog=example("slideduck relocate study.duckdb old/ archive/ --dry-run"))
@STUDY
@click.argument("old", metavar="FROM", type=click.Path(path_type=Path))
@click.argument("new", metavar="TO", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
def relocate(study: Path, old: Path, new: Path, dry_run: bool) -> None:
    """Follow slides and ROI files that were moved from one folder to another, as when a disk is mounted elsewhere.

    Each slide is compared with the one that was added before anything is changed. Tiles, labels, measures, features
    and predictions stay.
    """
    with slideduck.open(study, progress=True) as opened:
        report = opened.relocate(old, new, dry_run=dry_run)
    print_line(
        f"{'would change' if dry_run else 'changed'} the folder of {counted(len(report.slides), 'slide')} "
        f"and {counted(len(report.roi_files), 'ROI file')}"
    )
    print_names(f"{counted(len(report.roi_files_left), 'ROI file')} left as they are:", report.roi_files_left)
