"""The commands ``slideduck plot …``: each draws one picture, or one page, of what a study knows."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import click

import slideduck
from slideduck.cli.options import Commands, finished
from slideduck.cli.printing import STUDY, example
from slideduck.lazy import registered
from slideduck.measure.stain import METHODS, REFERENCE
from slideduck.words import message, print_line

__all__ = ["plot"]

#: Entry points of pictures.
_PLOTS = "slideduck.plots"


class _Plots(Commands):
    """The pictures of the engine, and those that other packages register as ``slideduck.plots``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the pictures, sorted."""
        return sorted({*super().list_commands(ctx), *registered(_PLOTS)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, loading it if another package registers it."""
        found = super().get_command(ctx, cmd_name)
        if found is None and cmd_name in (others := registered(_PLOTS)):
            found = others[cmd_name].load()
            assert isinstance(found, click.Command)
        return None if found is None else finished(found)


@click.group(cls=_Plots)
def plot() -> None:
    """Draw what a study knows, as a picture or as a page to zoom in."""


@plot.command(
    epilog=example(
        "slideduck plot labels study.duckdb s0 s0.png --grid 256px_256um",
        "slideduck plot labels study.duckdb s0 s0.html --grid 256px_256um",
    )
)
@STUDY
@click.argument("slide")
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--grid", help="The grid whose tiles are drawn; needed where the study has several.")
@click.option("--html", is_flag=True, help="Write a page, as the suffix .html alone does too.")
@click.option("--max-px", type=int, help="Longer side of the slide's picture, pixels. Default: 1600, on a page 4096.")
@click.option("--dpi", type=int, help="Dots per inch of a PNG. Default: 200.")
@click.option("--tiles/--no-tiles", default=True, help="Draw the tiles, coloured by label.  [default: tiles]")
@click.option("--rois/--no-rois", default=True, help="Draw the outlines of the ROIs.  [default: rois]")
def labels(study: Path, slide: str, out: Path, **options: Any) -> None:
    """Draw a SLIDE of a STUDY with its ROIs and the labels of its tiles.

    The suffix of OUT says in which form: .png, .pdf and .svg are pictures with a legend and a scale bar; .html
    is one page that zooms, pans, switches labels on and off and tells each tile, in any browser and offline.
    """
    with (
        slideduck.open(study, read_only=True, sealed=True, progress=True) as opened,
        warnings.catch_warnings(record=True) as notes,
    ):
        print_line(opened.plot_labels(slide, out, **options))
    for note in notes:
        message(str(note.message))


@plot.command(
    epilog=example(
        "slideduck plot stain study.duckdb s0 s1 stain.png",
        "slideduck plot stain study.duckdb s0 s1 stain.png --method reinhard --stain-to s0",
    )
)
@STUDY
@click.argument("slides", nargs=-1, required=True, metavar="SLIDE...")
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--method", type=click.Choice(METHODS), default="macenko", show_default=True, help="How.")
@click.option("--stain-to", metavar="SLIDE", help=f"The slide whose stains all get. Default: {REFERENCE}, averages.")
@click.option("--dpi", type=int, help="Dots per inch of a PNG. Default: 200.")
def stain(study: Path, slides: tuple[str, ...], out: Path, **options: Any) -> None:
    """Draw each SLIDE of a STUDY before and after normalisation of its stains, with a close-up.

    The suffix of OUT says in which form: .png, .pdf or .svg. Slides that have no fit are fitted for the picture.
    """
    with slideduck.open(study, read_only=True, sealed=True) as opened, warnings.catch_warnings(record=True) as notes:
        print_line(opened.plot_stain(slides, out, **options))
    for note in notes:
        message(str(note.message))
