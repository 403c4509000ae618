"""Arguments and options that several of the runner's commands have."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["BATCH_SIZE", "BETON", "CHECKPOINT", "GRID", "JSON", "RUN", "SLIDES", "THREADS", "TRUST"]

RUN = click.argument("run", type=click.Path(file_okay=False, path_type=Path))
BETON = click.argument("beton", type=click.Path(dir_okay=False, path_type=Path))


GRID = click.option("--grid", metavar="NAME", help="Grid of the study; default the one trained on.")
CHECKPOINT = click.option(
    "--checkpoint",
    type=click.Choice(["best", "last"]),
    default="best",
    show_default=True,
    help="Which epoch's weights.",
)
TRUST = click.option(
    "--trust",
    multiple=True,
    metavar="MODULE:FUNCTION",
    help="Import this code, which the run names as its model; without it code of yours is not run.",
)
BATCH_SIZE = click.option(
    "--batch-size", type=click.IntRange(min=1), metavar="N", help="Tiles at a time; default as in training."
)
SLIDES = click.option("--slide", "slides", multiple=True, metavar="NAME", help="Slide; may be repeated; default all.")
THREADS = click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="Threads that read; default one a core."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON in place of a table.")
