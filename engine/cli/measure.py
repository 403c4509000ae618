"""The command that measures tiles and shows what filters drop."""

from __future__ import annotations

import warnings
from pathlib import Path

import click

import slideduck
from slideduck.cli.printing import STUDY, Output, example, output_options, print_rows
from slideduck.errors import SlideduckError
from slideduck.labels.filters import NAMED_FILTERS
from slideduck.measure.qc_measures import MEASURES
from slideduck.measure.qc_slide import LEVELS
from slideduck.words import counted, message

__all__ = ["qc"]


@click.command(
    epilog=example(
        "slideduck qc study.duckdb --grid 256px_256um --measure tissue --measure blur",
        "slideduck qc study.duckdb --grid 256px_256um",
        "slideduck qc study.duckdb --grid 256px_256um --report",
        'slideduck qc study.duckdb --grid 256px_256um --report --filter "tissue > 0.2" --filter "blur > 20"',
        'slideduck qc study.duckdb --grid 256px_256um --overlay s0 s0-qc.png --filter "tissue > 0.2"',
    )
)
@STUDY
@click.option("--grid", help="The grid; needed where the study has several.")
@click.option("--measure", "measures", multiple=True, type=click.Choice(MEASURES),
              help="What to measure. Repeat it for more. Default: all.")  # fmt: skip
@click.option("--slide", "slides", multiple=True, help="Only this slide. Repeat it for more.")
@click.option("--level", type=click.Choice(LEVELS),
              help="Where averages over pixels are taken from: a low level, or the pixels that the tile is read from, "
              "as Slideflow. Default: as the other slides of the grid, low if none is measured.")  # fmt: skip
@click.option("--threads", type=click.IntRange(1), help="Threads that read and measure. Default: one a core.")
@click.option("--report", is_flag=True, help="Measure nothing: print how many tiles each --filter drops.")
@click.option("--overlay", nargs=2, metavar="SLIDE OUT",
              help="Measure nothing: draw SLIDE with tiles that each --filter drops (.png, .pdf, .svg).")  # fmt: skip
@click.option("--filter", "filters", multiple=True, metavar="CONDITION",
              help="What a tile must meet, in order: SQL on the view labels, or "
              f"{' or '.join(NAMED_FILTERS)}. Default: these two.")  # fmt: skip
@output_options
def qc(
    study: Path, grid: str | None, measures: tuple[str, ...], slides: tuple[str, ...], level: str | None,
    threads: int | None, report: bool, overlay: tuple[str, str] | None, filters: tuple[str, ...], output: Output,
) -> None:  # fmt: skip
    """Measure tiles, so that any --where can filter them by brightness, white, grey, blur, tissue and pen marks.

    Only what is missing is measured; stopped at any moment, the same command goes on from there. The measures are
    columns of the view `labels`. White and grey fractions of a low level differ from Slideflow's, which --level
    full gives.
    """
    if report or overlay:
        if measures or level or threads:
            raise click.UsageError("--report and --overlay measure nothing: leave --measure, --level and --threads out")
        if overlay and slides and not report:
            raise click.UsageError("--overlay names its slide itself: leave --slide out")
        with slideduck.open(study, read_only=True, sealed=True) as opened:
            if report:
                table = opened.qc_report(filters or None, grid=grid, slides=slides or None)
                print_rows(table, output, title="Tiles that filters drop, in their order (slide –: all slides)")
            if overlay:
                with warnings.catch_warnings(record=True) as notes:
                    message(f"wrote {opened.qc_overlay(*overlay, filters or None, grid=grid)}")
                for note in notes:
                    message(str(note.message))
        return
    if filters:
        raise click.UsageError("--filter is for --report and --overlay; export takes a condition by --where")
    with slideduck.open(study, progress=True) as opened:
        result = opened.qc(measures or None, grid=grid, slides=slides or None, level=level, threads=threads)
    rate = f", {result.tiles / result.seconds:,.0f} tiles/s" if result.tiles else ""
    message(
        f"measured {counted(result.tiles, 'tile')} on {counted(result.slides, 'slide')}{rate}; "
        f"{counted(result.unchanged, 'slide')} had it already"
    )
    if level is None and result.slides and result.level == "full":
        message("taken from full resolution, as on the other slides of the grid; for all from a low level: --level low")
    print_rows(result.summary, output, title=f"Measures of grid {result.grid}")
    if result.failed:
        raise SlideduckError(
            f"{counted(len(result.failed), 'slide')} cannot be measured:\n"
            + "\n".join(f"  {text}" for text in result.failed.values())
        )
