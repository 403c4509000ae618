"""The command that brings a run's evaluations into a study."""

from __future__ import annotations

from pathlib import Path

import click
import pyarrow as pa

import slideduck
from slideduck.cli.printing import STUDY, Output, example, output_options, print_rows
from slideduck.words import agreeing, counted, message

__all__ = ["add_predictions"]


@click.command(epilog=example("slideduck add-predictions study.duckdb runs/first"))
@STUDY
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace evaluations of another run of that name.")
@output_options
def add_predictions(study: Path, run: Path, overwrite: bool, output: Output) -> None:
    """Load what a RUN predicted of labelled tiles into a STUDY, to look at its errors in SQL.

    RUN is a run's folder, or one Parquet that `slideduck evaluate` wrote. The tables are `evaluations` and
    `evaluated_tiles`; the view `errors` has the tiles that were predicted wrong, with what the study says of them
    now. The same again replaces what was there.
    """
    with slideduck.open(study, progress=True) as opened:
        added = opened.add_predictions(run, overwrite=overwrite)
    print_rows(pa.Table.from_pylist([vars(item) for item in added]), output, title=f"added to {study}")
    relabelled = sum(item.relabelled for item in added)
    if relabelled:
        message(
            f"{counted(relabelled, 'tile has', 'tiles have')} another label in the study now; what "
            f"{agreeing(relabelled, 'it was', 'they were')} evaluated against is kept"
        )
