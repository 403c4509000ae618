"""The commands that ask a study, in SQL or about its labels."""

from __future__ import annotations

import sys
from pathlib import Path

import click

import slideduck
from slideduck.cli.printing import STUDY, Output, example, output_options, print_rows
from slideduck.labels.query import AREA_COLUMNS, COUNT_COLUMNS

__all__ = [
    "agreement", "area", "at", "conflicts", "counts", "coverage", "disagreements", "neighbours", "rois", "sql",
]  # fmt: skip

_GRID = click.option("--grid", help="The grid; needed where the study has several.")
_SLIDE = click.option("--slide", help="Only this slide.")


@click.command(
    epilog=example(
        'slideduck sql study.duckdb "SELECT label, count(*) AS tiles FROM labels GROUP BY ALL ORDER BY ALL"',
        'slideduck sql study.duckdb "FROM labels" --parquet labels.parquet',
    )
)
@STUDY
@click.argument("query")
@click.option("--write", "read_only", is_flag=True, flag_value=False, default=True,
              help="Let the query change the study.")  # fmt: skip
@click.option("--allow-files", is_flag=True, help="Let the query read other files, and write them with --write.")
@click.option("--memory", metavar="SIZE", help="What the query may use, such as 4GB.  [default: half of the machine's]")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), metavar="SECONDS", default=600, show_default=True,
              help="What the query may take.")  # fmt: skip
@output_options
def sql(
    study: Path, query: str, read_only: bool, allow_files: bool, memory: str | None, timeout: float, output: Output
) -> None:
    """Run one SQL query on a study; `-` reads it from standard input. Writes nothing without --write.

    It sees the study alone, no other file. Its rows are written by --csv, --json and --parquet.
    """
    if query == "-":
        query = sys.stdin.read()
    with slideduck.open(study, read_only=read_only, sealed=True, allow_files=allow_files, memory=memory) as opened:
        rows = opened.answer(query, timeout=timeout)
    print_rows(rows, output)


@click.command(
    epilog=example(
        "slideduck counts study.duckdb --by grid --by label --by site",
        "slideduck counts study.duckdb --grid 256px_256um --by roi_name --where \"split = 'train'\"",
    )
)
@STUDY
@click.option("--by", multiple=True, type=click.Choice(COUNT_COLUMNS), default=("label",), show_default=True,
              help="What to count by. Repeat it for more.")  # fmt: skip
@click.option("--grid", help="The grid; needed where the study has several, unless --by grid is given.")
@click.option("--where", help="SQL condition on the view labels: count only such tiles.")
@output_options
def counts(study: Path, by: tuple[str, ...], grid: str | None, where: str | None, output: Output) -> None:
    """Count tiles, and add up their area, by label, slide, patient, site, split, fold, grid or ROI.

    Where tiles overlap, the area of each is the part that is its own.
    """
    with slideduck.open(study, read_only=True, sealed=True) as opened:
        print_rows(opened.counts(by, grid=grid, where=where), output, title=f"Tiles by {', '.join(by)}")


@click.command(epilog=example("slideduck conflicts study.duckdb --grid 256px_256um --all"))
@STUDY
@_GRID
@_SLIDE
@click.option("--all", "every", is_flag=True, help="Also tiles whose ROIs have one label.")
@output_options
def conflicts(study: Path, grid: str | None, slide: str | None, every: bool, output: Output) -> None:
    """List the tiles that lie in several ROIs of different labels, and the ROIs, the winner first."""
    with slideduck.open(study, read_only=True, sealed=True) as opened:
        table = opened.conflicts(grid=grid, slide=slide, differing=not every).to_arrow_table()
        print_rows(table, output, title="Tiles in several ROIs" + ("" if every else " of different labels"))


@click.command(epilog=example("slideduck rois study.duckdb --grid 256px_256um --empty"))
@STUDY
@_GRID
@_SLIDE
@click.option("--empty", is_flag=True, help="Only ROIs that hold no tile.")
@output_options
def rois(study: Path, grid: str | None, slide: str | None, empty: bool, output: Output) -> None:
    """List the ROIs, with the area of each and the tiles that it holds and wins."""
    with slideduck.open(study, read_only=True, sealed=True) as opened:
        table = opened.rois(grid=grid, slide=slide, empty=empty)
        print_rows(table, output, title="ROIs without a tile" if empty else "ROIs and their tiles")


@click.command(epilog=example("slideduck coverage study.duckdb --grid 256px_256um --bins 5"))
@STUDY
@_GRID
@click.option("--bins", type=int, default=10, show_default=True, help="Bins below 1; one more is of whole tiles.")
@output_options
def coverage(study: Path, grid: str | None, bins: int, output: Output) -> None:
    """Count the tiles in ROIs by label and by the part of them that the winning ROI covers."""
    with slideduck.open(study, read_only=True, sealed=True) as opened:
        print_rows(opened.coverage_histogram(bins, grid=grid), output, title="Tiles by coverage of the winning ROI")


@click.command(epilog=example("slideduck neighbours study.duckdb s1-256-256 --grid 256px_256um --distance 2"))
@STUDY
@click.argument("tile_id")
@click.option("--grid", help="The grid; needed where several have such a tile.")
@click.option("--distance", type=int, default=1, show_default=True, help="Steps of the grid; 1 is the 8 tiles around.")
@output_options
def neighbours(study: Path, tile_id: str, grid: str | None, distance: int, output: Output) -> None:
    """List the tiles around a tile, with their labels; dx goes right and dy down."""
    with slideduck.open(study, read_only=True, sealed=True) as opened:
        print_rows(opened.neighbours(tile_id, distance, grid=grid), output, title=f"Neighbours of {tile_id}")


# A number below 0 is a point off the slide, and not an option.
@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog=example("slideduck at study.duckdb s1 300.5 200", "slideduck at study.duckdb s1 150.25 100 --um"),
)
@STUDY
@click.argument("slide")
@click.argument("x", type=float)
@click.argument("y", type=float)
@click.option("--um", is_flag=True, help="X and Y are microns, not base pixels.")
@output_options
def at(study: Path, slide: str, x: float, y: float, um: bool, output: Output) -> None:
    """List the ROIs, of every set, that a point lies in, and which of them gives its label.

    X and Y are base pixels from the slide's left and top. A point on the boundary is in.
    """
    with slideduck.open(study, read_only=True, sealed=True) as opened:
        table = opened.at(slide, x, y, um=um)
    given = [row["label"] for row in table.to_pylist() if row["gives_label"] and row["label"] is not None]
    label = f"label {given[0]}" if given else "no label"
    print_rows(table, output, title=f"{slide} at {x:.10g}, {y:.10g} {'microns' if um else 'base pixels'}: {label}")


@click.command(epilog=example("slideduck area study.duckdb --by site"))
@STUDY
@click.option("--by", multiple=True, type=click.Choice(AREA_COLUMNS), help="What to tell apart beside the label.")
@output_options
def area(study: Path, by: tuple[str, ...], output: Output) -> None:
    """Print the area of each label, from the outlines themselves, whatever the grid.

    drawn_mm2 adds up the ROIs as they are drawn; covered_mm2 counts each place once, and nothing off the slide.
    """
    with slideduck.open(study, read_only=True, sealed=True) as opened:
        print_rows(opened.area(by), output, title="Area by label")


@click.command(epilog=example("slideduck agreement study.duckdb default second_reader --grid 256px_256um --by-slide"))
@STUDY
@click.argument("set_a")
@click.argument("set_b")
@_GRID
@click.option("--by-slide", is_flag=True, help="Each slide on its own.")
@output_options
def agreement(study: Path, set_a: str, set_b: str, grid: str | None, by_slide: bool, output: Output) -> None:
    """Print how far two sets of ROIs, such as two readers', give tiles the same labels.

    All tiles count of the slides that both sets have ROIs of. kappa is Cohen's; the row without a label is over
    all labels.
    """
    with slideduck.open(study, read_only=True, sealed=True) as opened:
        table = opened.agreement(set_a, set_b, grid=grid, by_slide=by_slide)
        print_rows(table, output, title=f"a: {set_a}, b: {set_b} (label –: all labels)")


@click.command(epilog=example("slideduck disagreements study.duckdb default second_reader --grid 256px_256um --csv"))
@STUDY
@click.argument("set_a")
@click.argument("set_b")
@_GRID
@_SLIDE
@output_options
def disagreements(
    study: Path, set_a: str, set_b: str, grid: str | None, slide: str | None, output: Output
) -> None:  # fmt: skip
    """List the tiles to which two sets of ROIs give different labels; having none counts as a label."""
    with slideduck.open(study, read_only=True, sealed=True) as opened:
        table = opened.disagreements(set_a, set_b, grid=grid, slide=slide).to_arrow_table()
        print_rows(table, output, title=f"Tiles that a: {set_a} and b: {set_b} label differently")
