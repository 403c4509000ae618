"""The command that reads label masks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

import slideduck
from slideduck.cli.options import limit_option
from slideduck.cli.printing import STUDY, example
from slideduck.roifiles.options import FRAMES
from slideduck.words import counted, print_line, print_names

__all__ = ["add_masks"]

#: A comma that a value follows, so that labels may have commas.
_BETWEEN = re.compile(r",(?=\s*(?:-?[0-9]+|#[0-9a-fA-F]+)\s*=)")


class _Labels(click.ParamType[list[tuple[str, str]]]):
    """The labels of values or colours: ``1=tumour,2=stroma``."""

    name = "LABELS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[tuple[str, str]]:
        """Return pairs of a value and its label."""
        if isinstance(value, list):
            return value
        pairs = []
        for text in _BETWEEN.split(str(value)):
            key, equals, label = text.partition("=")
            if not equals:
                self.fail(f"{text!r} is not VALUE=LABEL, such as 1=tumour or '#ff0000=tumour'", param, ctx)
            pairs.append((key.strip(), label.strip()))
        return pairs


@click.command(
    epilog=example(
        "slideduck add-masks study.duckdb masks/ --labels 1=tumour,2=stroma --set masks",
        "slideduck add-masks study.duckdb painted/s0_mask.png --slide-suffix _mask --set painted"
        " --labels '#ff0000=tumour,#00ff00=stroma'",
    )
)
@STUDY
@click.argument("paths", nargs=-1, required=True, type=str)
@click.option(
    "--labels", multiple=True, required=True, type=_Labels(), metavar="VALUE=LABEL,…",
    help="The label of each value of pixels, or of each colour, as #rrggbb; VALUE= for no ROI. 0, black and what is "
    "transparent are no ROI unless named. May be repeated.",
)  # fmt: skip
@click.option(
    "--downsample", default="auto", show_default=True, metavar="NUMBER",
    help="Base pixels per pixel of the masks; auto takes it from the sizes of slide and mask.",
)  # fmt: skip
@click.option("--set", "roi_set", default="default", show_default=True, help="Set of ROIs to add to.")
@click.option("--slide-suffix", default="", metavar="SUFFIX", help="What file names have behind the slide's name.")
@click.option(
    "--frame", type=click.Choice(FRAMES),
    help="What the masks show: bounds, the part of the slide that was scanned, as in QuPath; level0, all of it.",
)  # fmt: skip
@click.option(
    "--components", is_flag=True, help="Make an ROI of each connected part, such as tumour_1, in place of one a label."
)
@click.option("--replace", is_flag=True, help="Replace ROIs of the same slide and name that other files gave.")
@limit_option
def add_masks(
    study: Path, paths: tuple[str, ...], labels: tuple[list[tuple[str, str]], ...], downsample: str, **options: Any
) -> None:
    """Read label masks, PNG or TIFF, as ROIs with the exact outlines of their pixels.

    A mask shows the whole slide of its name, at any scale. All masks are checked before anything is kept. One that is
    added again replaces what it gave before; one that did not change is left alone.
    """
    pairs = [pair for several in labels for pair in several]
    named = dict(pairs)
    if len(named) < len(pairs):
        raise click.UsageError("--labels names a value twice; give each one label")
    with slideduck.open(study, progress=True) as opened:
        report = opened.add_masks(paths, named, downsample=_number_or_text(downsample), **options)
    print_line(
        f"{counted(report.rois, 'ROI')} on {counted(report.slides, 'slide')} from {counted(report.files, 'mask')}"
        + (f"; {counted(report.unchanged, 'mask')} unchanged" if report.unchanged else "")
    )
    if report.files:
        print_names("pixels of each label:", [f"{label}: {pixels:,}" for label, pixels in report.pixels.items()])
        scales = [
            f"{x:g}" if x == y else f"{x:g} along x, {y:g} along y" for x, y in sorted(set(report.downsamples.values()))
        ]
        print_names("base pixels per pixel of a mask:", scales)
    print_names(f"{counted(len(report.replaced), 'slide')} with ROIs in the place of others:", report.replaced)
    print_names(f"{counted(len(report.empty), 'mask')} without a pixel of any label:", report.empty)


def _number_or_text(text: str) -> float | str:
    """Return a number where a text is one; what else it may be is for the library to say."""
    try:
        return float(text)
    except ValueError:
        return text
