"""The commands that export tiles into betons, merge shards, and verify betons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pyarrow as pa

import slideduck
from slideduck.betons import merge_betons, verify_beton
from slideduck.betons.settings import JPEG_MODES
from slideduck.betons.shards import LeftOut
from slideduck.cli.label import print_verified
from slideduck.cli.printing import SOURCE, STUDY, Output, example, existing_study, output_options, print_rows
from slideduck.errors import BetonError
from slideduck.measure.stain import METHODS, REFERENCE
from slideduck.slides.stored_reader import READERS
from slideduck.words import counted, message, print_line, print_names

__all__ = ["export", "merge", "verify"]

_BETON = click.argument("out", type=click.Path(dir_okay=False, path_type=Path))


@click.command(
    epilog=example(
        "slideduck export study.duckdb tiles.beton --grid 256px_256um",
        "slideduck export study.duckdb train.beton --grid 256px_256um \\",
        "    --where \"label IS NOT NULL AND split = 'train'\"",
        "slideduck export study.duckdb tiles.beton --grid 256px_256um --shards 2",
        "slideduck export study.duckdb alike.beton --grid 256px_256um --stain macenko",
    )
)
@STUDY
@_BETON
@click.option("--grid", help="The grid to export; needed where the study has several.")
@click.option("--where", default="label IS NOT NULL", show_default=True, help="SQL condition on the view labels.")
@click.option("--class", "classes", multiple=True, help="A label, in the order of class numbers. Default: sorted.")
@click.option("--quality", type=click.IntRange(1, 100), default=90, show_default=True, help="JPEG quality.")
@click.option("--raw", is_flag=True, help="Store pixels, not JPEG: no loss, about ten times the size.")
@click.option("--jpeg", type=click.Choice(JPEG_MODES), default="auto", show_default=True,
              help="Tiles that are stored JPEG tiles of their slide: take them as they are where possible, never, "
              "or for all tiles.")  # fmt: skip
@click.option("--reader", type=click.Choice(READERS), default="auto", show_default=True,
              help="tiff decodes stored JPEG tiles; auto does so where it gives OpenSlide's pixels.")  # fmt: skip
@click.option("--threads", type=click.IntRange(1), help="Threads that read and encode. Default: one a core.")
@click.option("--shards", type=click.IntRange(1), metavar="N", help="Write N betons, for slideduck merge.")
@click.option("--shard", type=click.IntRange(0), metavar="I", help="Of these write only this one, from 0.")
@click.option("--skip-errors", is_flag=True, help="Leave out tiles and slides that cannot be read, and count them.")
@click.option("--stain", type=click.Choice(METHODS),
              help="Normalise the stains of each tile by its slide's fit, which slideduck stain makes.")  # fmt: skip
@click.option("--stain-to", metavar="SLIDE", help=f"The slide whose stains all get. Default: {REFERENCE}, averages.")
@output_options
def export(study: Path, out: Path, output: Output, **settings: Any) -> None:
    """Write labelled tiles into a beton, with everything a reader needs in OUT.json beside it.

    Stopped at any moment, the same command goes on from there. Several processes or machines may write one of the
    shards each, from the same study.
    """
    shard, shards = settings["shard"], settings["shards"]
    if shard is not None and (shards is None or shard >= shards):
        raise click.UsageError("give --shard with --shards, and a number below it")
    if settings["stain_to"] is not None and settings["stain"] is None:
        raise click.UsageError("give --stain-to with --stain, the method")
    if settings["stain"] is not None and settings["jpeg"] == "passthrough":
        raise click.UsageError("--jpeg passthrough takes stored JPEGs as they are, and --stain changes them")
    settings["classes"] = settings["classes"] or None
    with slideduck.open(study, read_only=True, sealed=True, progress=True) as opened:
        report = opened.export(out, **settings)
    for note in report.notes:
        message(note)
    if report.unlabelled:
        message(f"{counted(report.unlabelled, 'tile')} without a label, as class -1")
    _print_left_out(report.left_out)
    table = pa.table({"label": list(report.tiles_per_class), "tiles": list(report.tiles_per_class.values())})
    where_to = f"{report.path}" if not report.shards else f"{counted(len(report.shards), 'shard')} of {report.path}"
    print_rows(table, output, title=f"{counted(report.samples, 'tile')} in {where_to}")
    if report.shards:
        print_names("shards:", [str(path) for path in report.shards])
    else:
        message(f"side-car: {report.sidecar}")
    readers = ", ".join(f"{counted(slides, 'slide')} by {name}" for name, slides in report.readers.items())
    message(f"read {readers or 'no slide'}; {counted(report.passed_through, 'tile')} taken as stored")


def _print_left_out(tiles: tuple[LeftOut, ...]) -> None:
    """Say how many tiles of each slide were left out, and why the first of them."""
    by_slide: dict[str, list[LeftOut]] = {}
    for tile in tiles:
        by_slide.setdefault(tile.slide, []).append(tile)
    print_names(
        f"{counted(len(tiles), 'tile')} left out, which cannot be read; the side-car names each:",
        [f"{slide}: {counted(len(own), 'tile')} ({own[0].reason})" for slide, own in by_slide.items()],
    )


@click.command(epilog=example("slideduck merge merged.beton tiles-00000-of-00002.beton tiles-00001-of-00002.beton"))
@_BETON
@click.argument("shards", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
def merge(out: Path, shards: tuple[Path, ...]) -> None:
    """Make of all SHARDS of an export, in any order, the beton that it makes without --shards.

    Both files are the same, byte for byte. Stopped at any moment, the same command goes on from there. The shards
    stay as they are.
    """
    report = merge_betons(out, shards, show=True)
    for note in report.notes:
        message(note)
    _print_left_out(report.left_out)
    print_line(
        f"{counted(report.samples, 'tile')} on {counted(report.slides, 'slide')} "
        f"from {counted(report.shards, 'shard')} in {report.path}"
    )
    message(f"side-car: {report.sidecar}")


@click.command(
    epilog=example(
        "slideduck verify study.duckdb",
        "slideduck verify tiles.beton",
        "slideduck verify tiles.beton --study study.duckdb --sample all",
    )
)
@SOURCE
@click.option(
    "--study", type=click.Path(dir_okay=False, path_type=Path), metavar="STUDY", callback=existing_study,
    help="For a beton: a study that knows where the slides are now.",
)  # fmt: skip
@click.option(
    "--sample", metavar="N|all", show_default="200 of a beton, 10000 of a study",
    help="Tiles to compare: of a beton with their slides, of a study by a plain spatial join.",
)  # fmt: skip
@click.option("--quick", is_flag=True, help="For a beton: do not decode every JPEG; checksums tell what changed.")
@click.option("--threads", type=click.IntRange(1), help="For a beton: threads that decode. Default: one a core.")
@output_options
def verify(
    source: Path, study: Path | None, sample: str | None, quick: bool, threads: int | None, output: Output
) -> None:  # fmt: skip
    """Check the labels of a study, or a beton: all that can be proved of it.

    Of a STUDY the labels are compared with a plain spatial join, and the ROIs with what their files draw, as
    `label --verify` and in Python study.verify() do. Of a BETON the structure, side-car, checksums and JPEGs are
    checked, and tiles compared with their slides, as verify_beton() does. Ends with 1 where anything is wrong, and
    says what. Slides of a beton that are not there are counted, and are no error unless --sample is all.
    """
    if sample is not None and sample != "all" and not sample.isdecimal():
        raise click.BadParameter(f"{sample!r} is neither a number of tiles nor all", param_hint="--sample")
    if source.suffix == ".beton":
        _verify_beton(source, study, "200" if sample is None else sample, quick, threads, output)
        return
    if study is not None or quick or threads is not None:
        raise click.UsageError("--study, --quick and --threads are for a BETON; leave them out for a STUDY")
    if output.kind != "table":
        raise click.UsageError("--json, --csv, --safe-csv and --parquet are for a BETON; leave them out for a STUDY")
    tiles = 10_000 if sample is None else None if sample == "all" else int(sample)
    with slideduck.open(source, read_only=True, sealed=True, progress=True) as opened:
        print_verified(opened.verify(tiles))


def _verify_beton(
    out: Path, study: Path | None, sample: str, quick: bool, threads: int | None, output: Output
) -> None:  # fmt: skip
    """Check a beton, and print what is wrong with it."""
    slides: dict[str, str] = {}
    if study is not None:
        with slideduck.open(study, read_only=True, sealed=True) as opened:
            slides = dict(opened.sql("SELECT slide, path FROM slides ORDER BY slide").fetchall())
    report = verify_beton(
        out, sample=None if sample == "all" else int(sample), slides=slides, quick=quick, threads=threads, show=True
    )
    for note in report.notes:
        message(note)
    print_names(
        "slides that are not there to be compared with:",
        [f"{slide}: {counted(tiles, 'tile')}" for slide, tiles in report.missing.items()],
    )
    if report.left_out:
        message(f"{counted(report.left_out, 'tile')} had been left out by the export, which could not read them")
    table = pa.table(
        {
            name: pa.array([getattr(problem, name) for problem in report.problems], kind)
            for name, kind in (
                ("row", pa.int64()), ("tile_id", pa.string()), ("slide", pa.string()), ("problem", pa.string()),
            )
        }
    )  # fmt: skip
    if output.kind != "table" or report.problems:
        print_rows(table, output, title=f"Problems of {report.path}")
    checked = (
        f"{counted(report.samples, 'tile')} in {counted(report.pages, 'page')} with checksums; "
        f"{counted(report.decoded, 'JPEG')} decoded; {counted(report.compared, 'tile')} compared with the slides"
    )
    if report.problems:
        raise BetonError(f"{report.path} has {counted(len(report.problems), 'problem')}: {checked}")
    message(f"{report.path} is whole: {checked}")
