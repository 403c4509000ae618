"""The commands that write ROIs and tiles for other programs."""

from __future__ import annotations

from pathlib import Path

import click

import slideduck
from slideduck.cli.printing import STUDY, example
from slideduck.interop.rois import ROI_FORMATS
from slideduck.roifiles.options import FRAMES
from slideduck.words import counted, print_line, print_names

__all__ = ["export_rois", "export_tiles"]

_FOLDER = click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
_SLIDES = click.option("--slide", "slides", multiple=True, help="Only this slide. Repeat it for more.")
_FRAME = click.option(
    "--frame", type=click.Choice(FRAMES),
    help="Corner that the files count from: bounds, of what was scanned, as QuPath has it; level0, of the slide.",
)  # fmt: skip
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
