"""The commands that write ROIs and tiles for other programs, and that take over a project of Slideflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import slideduck
from slideduck.cli.fill import print_grid, print_patients, print_rois
from slideduck.cli.label import print_alike, print_rule, print_split
from slideduck.cli.options import limit_option
from slideduck.cli.printing import STUDY, Output, example, print_rows
from slideduck.cli.slides import mpp_options, print_slides, refuse_failed
from slideduck.interop.rois import ROI_FORMATS
from slideduck.roifiles.options import FRAMES
from slideduck.words import counted, message, print_line, print_names

__all__ = ["export_rois", "export_slideflow", "export_tiles", "import_slideflow"]

_FOLDER = click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
_SLIDES = click.option("--slide", "slides", multiple=True, help="Only this slide. Repeat it for more.")
_FRAME = click.option(
    "--frame", type=click.Choice(FRAMES),
    help="Corner that the files count from: bounds, of what was scanned, as QuPath has it; level0, of the slide.",
)  # fmt: skip


def _moved(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> dict[str, Path]:
    """Return the folders that lie elsewhere now, by where they lay."""
    pairs = [text.partition("=") for text in texts]
    for text, (old, _, new) in zip(texts, pairs, strict=True):
        if not old or not new:
            raise click.BadParameter(f"{text!r} is not OLD=NEW, such as /mnt/old=/data/new", ctx, param)
    return {old: Path(new) for old, _, new in pairs}


_OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace files of the same names.")


@click.command(
    epilog=example(
        "slideduck export-rois study.duckdb qupath --format geojson",
        "slideduck export-rois study.duckdb slideflow --format csv",
        "slideduck export-rois study.duckdb geopandas --format geoparquet",
    )
)
@STUDY
@_FOLDER
@click.option(
    "--format", type=click.Choice(ROI_FORMATS), required=True,
    help="csv: Slideflow; geojson: QuPath; xml: ImageScope; geoparquet: GeoPandas, one file of all slides.",
)  # fmt: skip
@click.option("--set", "roi_set", default="default", show_default=True, help="The set of ROIs.")
@_SLIDES
@_FRAME
@_OVERWRITE
def export_rois(
    study: Path, folder: Path, format: str, roi_set: str, slides: tuple[str, ...], frame: str | None, overwrite: bool,
) -> None:  # fmt: skip
    """Write ROIs as files that other programs read, a file for each slide, in level-0 pixels.

    The files are read again and compared before they appear: they give the same names, labels and shapes. What a
    form cannot say is refused, with every such ROI and the forms that can.
    """
    with slideduck.open(study, read_only=True, sealed=True, progress=True) as opened:
        report = opened.export_rois(
            folder, format=format, roi_set=roi_set, slides=slides or None, frame=frame, overwrite=overwrite
        )  # fmt: skip
    print_line(
        f"{counted(report.rois, 'ROI')} ({counted(report.holes, 'hole')}) of {counted(report.slides, 'slide')} "
        f"in {counted(len(report.paths), 'file')} in {folder}"
    )
    print_names(
        f"{counted(len(report.parts), 'part')} of ROIs written as ROIs of their own, since {format} knows single "
        f"polygons alone; the labels of {counted(report.tiles, 'tile')} were compared and stay the same:",
        report.parts,
    )
    print_names(f"{counted(len(report.inner_rings), 'inner ring')} written as a hole:", report.inner_rings)
    print_names(
        f"{counted(len(report.left_out), 'hole')} taken out of the ROI, without a name in the file:", report.left_out
    )


@click.command(
    epilog=example(
        "slideduck export-tiles study.duckdb tiles --grid 256px_256um",
        "slideduck export-tiles study.duckdb merged --grid 256px_256um --merge --slide s1",
    )
)
@STUDY
@_FOLDER
@click.option("--grid", help="The grid; needed where the study has several, unless the run predicted only one.")
@_SLIDES
@click.option("--run", help="What this run predicts, in place of labels.")
@click.option(
    "--where", help="SQL condition on the view labels. Default: tiles with a label, or all that the run predicted."
)
@click.option("--merge", is_flag=True, help="One annotation for each label, in place of an object for each tile.")
@_FRAME
@_OVERWRITE
def export_tiles(
    study: Path, folder: Path, grid: str | None, slides: tuple[str, ...], run: str | None, where: str | None,
    merge: bool, frame: str | None, overwrite: bool,
) -> None:  # fmt: skip
    """Write the labels of tiles, or a run's predictions, as GeoJSON that QuPath shows over the slide.

    Each tile is a light object with its class, its colour and its coverage or probabilities as measurements.
    """
    with slideduck.open(study, read_only=True, sealed=True, progress=True) as opened:
        report = opened.export_tiles(
            folder, grid=grid, slides=slides or None, run=run, where=where, merge=merge, frame=frame,
            overwrite=overwrite,
        )  # fmt: skip
    objects = f" as {counted(report.objects, 'annotation')}" if merge else ""
    print_line(f"{counted(report.tiles, 'tile')}{objects} in {counted(len(report.paths), 'file')} in {folder}")
    for label, tiles in report.tiles_per_label.items():
        print_line(f"  {label or 'without a label'}: {tiles:,}")
    print_names(f"{counted(len(report.without), 'slide')} without such a tile:", report.without)


@click.command(
    epilog=example(
        "slideduck import-slideflow project",
        "slideduck import-slideflow project cohort.duckdb --source north --tile-px 256 --tile-um 256",
        "slideduck import-slideflow project --root /mnt/old=/data/new",
    )
)
@click.argument("project", type=click.Path(path_type=Path))
@click.argument("out", metavar="[OUT.duckdb]", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--source", "sources", multiple=True, metavar="NAME", help="Only this source. Repeat it for more.")
@click.option(
    "--root", multiple=True, metavar="OLD=NEW", callback=_moved,
    help="Folder that lies elsewhere now: what the project's paths begin with, and begin with here. May be repeated.",
)  # fmt: skip
@click.option("--tile-px", type=int, help="Side of a tile, pixels; needed where the project has several sizes or none.")
@click.option("--tile-um", type=str, help="Side of a tile in microns, or a magnification such as 20x.")
@click.option(
    "--plan", metavar="N|none", help="Plan of splits.json that is the split, from 1; needed where there are several."
)
@mpp_options
@limit_option
def import_slideflow(project: Path, out: Path | None, sources: tuple[str, ...], **options: Any) -> None:
    """Make a study of a project of Slideflow: slides, ROIs, annotations, tiles, labels and split.

    PROJECT is the folder that holds settings.json. The study is study.duckdb in it, unless OUT names another; one
    that is there is added to. Slides are those that the annotations name, and stay where they are. What is left out is
    listed. Typed again, it changes only what changed.
    """
    study, report = slideduck.import_slideflow(project, out, sources=sources or None, progress=True, **options)
    with study:
        print_line(f"project {report.project.name!r} in {study.path}")
        print_slides(report.slides, study.path)
        _print_taken(report, study.path)
        print_names("left out:", report.left_out)
    refuse_failed(report.slides)


def _print_taken(report: slideduck.SlideflowImport, study: Path) -> None:
    """Say what was taken over beside the slides."""
    if report.rois is not None:
        print_rois(report.rois)
    if report.patients is None:
        message("the annotations are in the study as they are")
    else:
        print_patients(report.patients, study)
    print_grid(report.grid)
    print_rule(report.labels)
    print_rows(report.labels.counts, Output(), title="Tiles by label")
    print_alike(study, report.labels)
    if report.split is not None and report.plan is not None:
        message(report.plan.text)
        print_rows(report.split.counts, Output(), title="Split by patient (label –: all labels)")
        print_split(report.split, study)


@click.command(epilog=example("slideduck export-slideflow study.duckdb to_slideflow --grid 256px_256um"))
@STUDY
@_FOLDER
@click.option("--grid", help="The grid whose tiles are written; needed where the study has several.")
@_OVERWRITE
def export_slideflow(study: Path, folder: Path, grid: str | None, overwrite: bool) -> None:
    """Write a project that Slideflow opens: sources, annotations, ROIs, the frame of tiles and the split.

    The slides stay where they are. The frame is that of Slideflow's get_tile_dataframe, as Parquet and CSV.
    """
    with slideduck.open(study, read_only=True, sealed=True, progress=True) as opened:
        report = opened.export_slideflow(folder, grid=grid, overwrite=overwrite)
    print_line(
        f"{counted(report.slides, 'slide')} of {counted(len(report.sources), 'source')}, {counted(report.rois, 'ROI')} "
        f"and {counted(report.tiles, 'tile')} in {folder}"
    )
    if report.split:
        message(f"split: {report.split}")
    for note in report.notes:
        message(note)
    print_names(f"{counted(len(report.left_out), 'slide')} left out:", report.left_out)
    print_names(f"{counted(len(report.alone), 'slide')} without a patient, each its own patient:", report.alone)
