"""The command that finds the stains of slides."""

from __future__ import annotations

from pathlib import Path

import click
import pyarrow as pa

import slideduck
from slideduck.cli.printing import STUDY, Output, example, output_options, print_rows
from slideduck.errors import SlideduckError
from slideduck.measure.stain import METHODS
from slideduck.words import counted, message

__all__ = ["stain"]


@click.command(
    epilog=example(
        "slideduck stain study.duckdb",
        "slideduck stain study.duckdb --method reinhard --slide s0",
    )
)
@STUDY
@click.option("--method", type=click.Choice(METHODS), default="macenko", show_default=True,
              help="macenko: two stains and their strengths; reinhard: mean and deviation of the colours.")  # fmt: skip
@click.option("--slide", "slides", multiple=True, metavar="NAME", help="Only this slide. Repeat it for more.")
@click.option("--anew", is_flag=True, help="Fit slides again that have a fit.")
@click.option("--threads", type=click.IntRange(1), help="Threads that read slides. Default: one a core, 16 at most.")
@output_options
def stain(study: Path, method: str, slides: tuple[str, ...], anew: bool, threads: int | None, output: Output) -> None:
    """Find the stains of slides, so that export --stain can give all slides the same.

    Each slide is fitted once, from its tissue, and again only when its file changes. Stopped at any moment, the same
    command goes on from there. Slides that cannot be fitted are named with the reason, and the others go on.
    """
    with slideduck.open(study, progress=True) as opened:
        report = opened.fit_stain(method, slides=slides or None, anew=anew, threads=threads)
    message(
        f"fitted {counted(report.fitted, 'slide')} by {method}; {counted(report.unchanged, 'slide')} had it already"
    )
    table = report.table
    if output.kind in ("table", "csv"):
        # People, and columns of CSV, read numbers of a few digits better than lists.
        for place, name in enumerate(table.column_names):
            if pa.types.is_list(table.schema.field(name).type):
                shown = [" ".join(f"{value:.4g}" for value in values) for values in table[name].to_pylist()]
                table = table.set_column(place, name, pa.array(shown, pa.string()))
    print_rows(table, output, title=f"Stains of slides by {method}")
    if report.failed:
        raise SlideduckError(
            f"{counted(len(report.failed), 'slide')} cannot be fitted:\n"
            + "\n".join(f"  {text}" for text in report.failed.values())
        )
