"""The commands that fill a study with ROIs, patients and grids, take out of it, and say what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import slideduck
from slideduck.cli.options import limit_option
from slideduck.cli.printing import STUDY, Output, example, output_options, print_rows
from slideduck.roifiles.options import FRAMES, HOLES, INCLUDE, LABEL_FROM, NAMES
from slideduck.rois.classes import read_label_table
from slideduck.words import counted, message, print_counted, print_line, print_names

__all__ = [
    "add_patients", "add_rois", "info", "print_grid", "print_patients", "print_rois", "remove_rois", "remove_slides",
    "tile",
]  # fmt: skip

_PATHS = click.argument("paths", nargs=-1, required=True, type=str)


@click.command(
    epilog=example(
        "slideduck add-rois study.duckdb rois/", "slideduck add-rois study.duckdb second/ --set second_reader"
    )
)
@STUDY
@_PATHS
@click.option(
    "--set", "roi_set", default="default", show_default=True, help="Set of ROIs to add to, such as a reader's."
)
@click.option(
    "--holes", type=click.Choice(HOLES), show_default="auto",
    help="nested: an ROI within another of its label is a hole; explicit: what the file marks. "
    "auto: nested for CSV, explicit for GeoJSON and XML.",
)  # fmt: skip
@click.option(
    "--frame", type=click.Choice(FRAMES),
    help="Corner that the files count from: bounds, of what was scanned, as in QuPath; level0, of the slide.",
)  # fmt: skip
@click.option("--strict", is_flag=True, help="Refuse a file with any ROI wholly outside its slide.")
@click.option(
    "--include", multiple=True, type=click.Choice(INCLUDE),
    help="Objects of QuPath to take beside annotations. May be repeated.",
)  # fmt: skip
@click.option(
    "--label-from", type=click.Choice(LABEL_FROM), show_default="name",
    help="Where the class of an ImageScope region stands: the layer's Name, the region's Text, or the Description "
    "(in HALO the comment, in NDP.view the details).",
)  # fmt: skip
@click.option(
    "--labels", metavar="CSV", type=click.Path(dir_okay=False, path_type=Path),
    help="Table of labels to rename, with the columns from and to; an empty to is no label.",
)  # fmt: skip
@click.option(
    "--slide-suffix", multiple=True, metavar="SUFFIX",
    help="What file names have behind the slide's name. May be repeated.",
)  # fmt: skip
@click.option(
    "--names", type=click.Choice(NAMES), show_default="stem",
    help="relative: the folders below the one given are part of the slide's name, as in case1/HE.",
)  # fmt: skip
@click.option("--replace", is_flag=True, help="Replace ROIs of the same slide and name that other files gave.")
@limit_option
def add_rois(study: Path, paths: tuple[str, ...], roi_set: str, labels: Path | None, **options: Any) -> None:
    """Read ROI files of Slideflow, QuPath, ImageScope, HALO, ASAP, NDP.view and GeoPandas, told apart by content.

    All files are checked before anything is kept. A file that is added again replaces what it gave before; one that
    did not change is left alone, and options that you do not give stay what they were for it. Sets keep the ROIs of
    several readers or versions apart.
    """
    # What is not given is not said: a file that the study has is then read as it was before.
    given = {name: value for name, value in options.items() if value not in (None, (), False)}
    with slideduck.open(study, progress=True) as opened:
        if labels is not None:
            given["labels"] = read_label_table(labels)
        report = opened.add_rois(paths, roi_set=roi_set, **given)
    print_rois(report)


def print_rois(report: slideduck.RoisReport) -> None:
    """Say which ROIs were added, and what of them was repaired or left out."""
    print_line(
        f"{counted(report.rois, 'ROI')} ({counted(report.holes, 'hole')}) on {counted(report.slides, 'slide')} "
        f"from {counted(report.files, 'file')}"
        + (f"; {counted(report.unchanged, 'file')} unchanged" if report.unchanged else "")
    )
    print_names(f"{counted(len(report.unlabelled), 'ROI')} without a label:", report.unlabelled)
    print_counted(
        "ROI repaired, having crossed or touched itself",
        "ROIs repaired, having crossed or touched themselves (largest change first)",
        report.repairs,
    )
    print_names(
        f"{counted(len(report.flat), 'ROI')} with parts or holes without an area, which are left out:", report.flat
    )
    print_counted(
        "ROI wholly outside its slide, which is left out",
        "ROIs wholly outside their slide, which are left out",
        report.outside,
    )
    print_counted(
        "ROI of which holes leave nothing, so that no tile is labelled by it",
        "ROIs of which holes leave nothing, so that no tile is labelled by them",
        report.covered,
    )
    print_counted("ROI leaves its slide, and is kept", "ROIs leave their slide, and are kept", report.leaving)
    print_counted("object left out, being no area", "objects left out, being no areas", report.skipped)
    print_names(f"{counted(len(report.without), 'slide')} looked at, without an ROI:", report.without)
    print_names(f"{counted(len(report.replaced), 'slide')} with ROIs in the place of others:", report.replaced)
    print_names(f"{counted(len(report.kept), 'file')} read as before, since nothing else is said:", report.kept)
    for note in report.notes:
        message(note)


_DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")


@click.command(epilog=example("slideduck remove-rois study.duckdb second/ --set second_reader --dry-run"))
@STUDY
@_PATHS
@click.option("--set", "roi_set", default="default", show_default=True, help="Set of ROIs to take from.")
@_DRY_RUN
def remove_rois(study: Path, paths: tuple[str, ...], roi_set: str, dry_run: bool) -> None:
    """Take ROI files out of a study: files, folders or globs; the files themselves stay.

    The slides that they are of are labelled anew by the next `slideduck label`.
    """
    with slideduck.open(study, progress=True) as opened:
        report = opened.remove_rois(paths, roi_set=roi_set, dry_run=dry_run)
    print_line(
        f"{'would remove' if dry_run else 'removed'} {counted(report.rois, 'ROI')} "
        f"on {counted(len(report.slides), 'slide')}, from {counted(len(report.paths), 'file')}"
    )
    print_names("files:", report.paths)


@click.command(epilog=example("slideduck remove-slides study.duckdb o1 --dry-run"))
@STUDY
@click.argument("slides", nargs=-1, required=True)
@_DRY_RUN
def remove_slides(study: Path, slides: tuple[str, ...], dry_run: bool) -> None:
    """Remove slides, by name, with their ROIs, tiles, labels, predictions and features; the files themselves stay."""
    with slideduck.open(study, progress=True) as opened:
        report = opened.remove_slides(slides, dry_run=dry_run)
    print_line(
        f"{'would remove' if dry_run else 'removed'} {counted(len(report.slides), 'slide')}, "
        f"{counted(report.rois, 'ROI')} ({counted(report.roi_files, 'file')}), {counted(report.tiles, 'tile')} "
        f"and {counted(report.predictions, 'prediction')}"
    )


@click.command(
    epilog=example(
        "slideduck add-patients study.duckdb patients.csv",
        "slideduck add-patients study.duckdb cohort.csv --slide-column 'Image file' --slide-suffix .svs",
    )
)
@STUDY
@click.argument("table", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--slide-column", metavar="NAME", help="Column of the slides' names, where it is not slide.")
@click.option("--patient-column", metavar="NAME", help="Column of the patients' names, where it is not patient.")
@click.option("--site-column", metavar="NAME", help="Column of the sites, where it is not site.")
@click.option("--slide-suffix", default="", metavar="SUFFIX", help="What the table's slide names have behind the name.")
@limit_option
def add_patients(study: Path, table: Path, **options: Any) -> None:
    """Read a table of patients: CSV, Excel or Parquet with slide, patient, optional site, and further columns.

    It has a row for each slide. Names are never matched by guess: a table of which no row names a slide is refused,
    with the nearest names.
    """
    with slideduck.open(study) as opened:
        report = opened.add_patients(table, **options)
    print_patients(report, study)


def print_patients(report: slideduck.PatientsReport, study: Path) -> None:
    """Say what the rows of a table are of, and which of them, or of the slides, match none."""
    print_line(f"{counted(report.patients, 'patient')} in {counted(report.rows, 'row')}")
    if report.left_out:
        message(f"{counted(report.left_out, 'row')} without a slide, left out")
    if report.without_patient:
        message(f"{counted(len(report.without_patient), 'row')} without a patient")
    for column, cells in report.missing.items():
        message(f"{counted(cells, 'cell')} of {column} taken for missing (NA and the like)")
    print_names(
        f"{counted(len(report.unknown_slides), 'slide')} of the table not in the study:",
        [
            name + (f" (nearest: {', '.join(report.nearest[name])})" if name in report.nearest else "")
            for name in report.unknown_slides
        ],
    )
    print_counted(
        "slide without a patient, counted as its own patient",
        "slides without a patient, each counted as its own patient",
        report.slides_without,
    )
    if report.meant:
        remedy = f" with `slide_suffix={report.suffix!r}`" if report.suffix else ", with their names corrected"
        print_names(
            f"WARNING: rows of the table most likely mean {len(report.meant):,} of them, so that slides of one patient "
            f"may come on both sides of a split; add the table again{remedy}:",
            [f"{slide}: {name!r} in the table" for slide, name in report.meant.items()],
        )
    if report.removed_split:
        message(
            f"the split ({report.removed_split.text}) was removed, since its patients changed; make it again with: "
            f"slideduck split {study} {report.removed_split.options}"
        )


@click.command(
    epilog=example(
        "slideduck tile study.duckdb --tile-px 256 --tile-um 256",
        "slideduck tile study.duckdb --tile-px 256 --tile-um 20x --stride-div 2",
    )
)
@STUDY
@limit_option
@click.option("--tile-px", type=int, help="Side of a tile as the model sees it, pixels.")
@click.option("--tile-um", type=str, help="Side of a tile in microns, or a magnification such as 20x.")
@click.option("--stride-div", type=float, default=1, show_default=True, help="Steps per tile side; 2 overlaps by half.")
@click.option(
    "--origin", type=(int, int), default=(0, 0), show_default=True, help="Top left corner of tile (0, 0), base pixels."
)
@click.option(
    "--native", is_flag=True,
    help="In place of a size: the grid that matches the JPEG tiles that most slides store, which an export copies "
    "without loss.",
)  # fmt: skip
@click.option("--like", metavar="SLIDE", help="Match the stored tiles of this slide; for --native.")
@click.option("--level", type=click.IntRange(0), default=0, show_default=True, help="Level to match; for --native.")
def tile(
    study: Path, tile_px: int | None, tile_um: str | None, stride_div: float, origin: tuple[int, int], native: bool,
    like: str | None, level: int,
) -> None:  # fmt: skip
    """Lay a grid of tiles on every slide. Several grids live side by side."""
    sized = tile_px is not None and tile_um is not None
    if native is sized or (native and (tile_px is not None or tile_um is not None)):
        raise click.UsageError("give --tile-px and --tile-um, or --native")
    if native and (stride_div != 1 or origin != (0, 0)):
        raise click.UsageError("the stored tiles have no overlap and begin at 0: leave out --stride-div and --origin")
    if not native and (like is not None or level):
        raise click.UsageError("--like and --level are for --native")
    with slideduck.open(study, progress=True) as opened:
        if native:
            found = opened.native_grid(like, level=level)
            print_line(
                f"stored tiles of {found.spec.tile_px} px at {found.mpp:.6g} microns per pixel, "
                f"on {counted(len(found.slides), 'slide')}"
            )
            print_names(
                f"{counted(len(found.others), 'slide')} that the grid does not match:",
                [f"{name}: {reason}" for name, reason in found.others.items()],
            )
            report = opened.tile(found.spec.tile_px, tile_um=found.spec.tile_um)
        else:
            assert tile_px is not None
            report = opened.tile(tile_px, tile_um=tile_um, stride_div=stride_div, origin=origin)
    print_grid(report)


def print_grid(report: slideduck.GridReport) -> None:
    """Say how many tiles a grid has, and which slides have none."""
    if report.slides:
        print_line(f"grid {report.grid}: {counted(report.tiles, 'tile')} on {counted(report.slides, 'slide')}")
    else:
        print_line(
            f"grid {report.grid} is there already: {counted(report.total_tiles, 'tile')} "
            f"on {counted(report.total_slides, 'slide')}; nothing to do"
        )
    print_names(f"{counted(len(report.without_tiles), 'slide')} smaller than one tile:", report.without_tiles)
    print_names(
        f"{counted(len(report.enlarged), 'slide')} with fewer pixels than --tile-px in a tile, which will be enlarged:",
        report.enlarged,
    )


@click.command(epilog=example("slideduck info study.duckdb"))
@STUDY
@output_options
def info(study: Path, output: Output) -> None:
    """Print what a study holds."""
    with slideduck.open(study, read_only=True, sealed=True) as opened:
        print_rows(opened.info(), output, title=str(study))
