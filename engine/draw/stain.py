"""Draws slides before and after the normalisation of their stains."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from slideduck.draw.figure import check_picture, length_text, own_style, save_figure
from slideduck.errors import StudyError
from slideduck.files.write import check_folder
from slideduck.measure.stain import REFERENCE, MacenkoFit, Normaliser, StainFit, reference_target
from slideduck.measure.stain_fit import check_method, ensure_fit, list_stain_slides
from slideduck.measure.stain_slide import StainSlide, find_tissue
from slideduck.slides.grid import GridSpec, lay
from slideduck.slides.reader import TileReader, thumbnail
from slideduck.store.handle import Handle

if TYPE_CHECKING:
    from matplotlib.axes import Axes


__all__ = ["plot_stain"]

RGB = npt.NDArray[np.uint8]

#: More rows make a picture that nobody opens.
_MOST_SLIDES = 40

#: Longer side of a slide's picture; side of a close-up, and what it shows.
_THUMBNAIL_PX = 640
_TILE_PX = 480
_TILE_UM = 240.0

#: Side of a panel, room for a name above it, and room for the title, inches.
_PANEL, _ABOVE, _TOP = 2.2, 0.2, 0.25


@dataclass(frozen=True)
class _Row:
    """The pictures of a slide: pairs, before and after."""

    slide: StainSlide
    fit: StainFit
    whole: tuple[RGB, RGB]
    tile: tuple[RGB, RGB]


def plot_stain(
    handle: Handle,
    slides: Sequence[str],
    out: str | os.PathLike[str],
    *,
    method: str = "macenko",
    stain_to: str | None = None,
    dpi: int | None = None,
) -> Path:
    """Draw slides, and a close-up of each, before and after normalisation.

    Parameters
    ----------
    handle : Handle
        The study. Slides without a fit are fitted for the picture, and where the study can be written the fit is kept.
    slides : sequence of str
        Names of slides, a row each.
    out : path
        File to write; its suffix, ``.png``, ``.pdf`` or ``.svg``, says in which form.
    method : {"macenko", "reinhard"}
        The method.
    stain_to : str, optional
        The slide whose stains all get; default Slideflow's reference.
    dpi : int, optional
        Dots per inch of a PNG; default 200.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    StudyError
        If no slide is named, one is not in the study, or the file cannot be written.
    SlideError
        If a slide cannot be read or fitted.
    ConfigError
        If there is no such method.
    """
    from matplotlib.figure import Figure

    out = Path(out)
    check_picture(out, dpi)
    check_folder(out)
    check_method(method)
    if not 1 <= len(slides) <= _MOST_SLIDES:
        raise StudyError(f"{len(slides):,} slides are named; name from 1 to {_MOST_SLIDES}")
    names = list(dict.fromkeys([*slides, *([] if stain_to is None else [stain_to])]))
    known = {slide.slide: slide for slide, _ in list_stain_slides(handle, method)}
    strangers = [repr(name) for name in names if name not in known]
    if strangers:
        raise StudyError(f"{handle.name} has no slide {', '.join(strangers)} that can be used")
    fits = {name: ensure_fit(handle, name, method).fit for name in names}
    target = reference_target(method).fit if stain_to is None else fits[stain_to]
    rows = [_row(known[name], fits[name], target) for name in slides]
    to = REFERENCE if stain_to is None else f"slide {stain_to}"
    with own_style("".join(names)):
        height = len(rows) * (_PANEL + _ABOVE) + _TOP
        figure = Figure(figsize=(4 * _PANEL, height))
        grid = figure.subplots(len(rows), 4, squeeze=False)
        for axes, row in zip(grid, rows, strict=True):
            for place, picture in enumerate((*row.whole, *row.tile)):
                axes[place].imshow(picture, interpolation="lanczos" if place < 2 else "nearest")
                axes[place].set_axis_off()
            _write(axes[0], row.slide.slide, "bold")
            _write(axes[1], f"as {to}", "normal")
            _write(axes[2], f"{length_text(_TILE_UM)} across", "normal")
            if isinstance(row.fit, MacenkoFit) and isinstance(target, MacenkoFit):
                _draw_stains(axes[2], row.fit)
                _draw_stains(axes[3], target)
        title = f"Stains by {method.capitalize()}, before and after"
        figure.suptitle(title, x=0.01, y=1 - 0.06 / height, ha="left", fontsize=9)
        figure.subplots_adjust(
            left=0.01, right=0.99, bottom=0.02 / height, top=1 - (_ABOVE + _TOP) / height, wspace=0.03,
            hspace=_ABOVE / _PANEL,
        )  # fmt: skip
        save_figure(figure, out, dpi=dpi)
    return out


def _row(slide: StainSlide, fit: StainFit, target: StainFit) -> _Row:
    """Read the pictures of a slide, and normalise them."""
    normaliser = Normaliser(fit, target)
    whole, downsample = thumbnail(slide.file, _THUMBNAIL_PX, background=slide.background)
    # The close-up is where there is most tissue: the middle of a window slid over the picture.
    window = max(1, round(_TILE_UM / (slide.mpp * downsample)))
    density = cv2.boxFilter(find_tissue(whole).astype(np.float32), -1, (window, window), borderType=cv2.BORDER_CONSTANT)
    y, x = np.unravel_index(int(density.argmax()), density.shape)
    tile_um = min(_TILE_UM, min(slide.width, slide.height) * slide.mpp)
    spec = GridSpec(_TILE_PX, tile_um=tile_um)
    grid = lay(spec, slide.slide, slide.width, slide.height, slide.mpp, slide.level_downsamples)
    left, top = (
        max(0, min(round((float(at) + 0.5) * downsample - grid.extract_px / 2), side - grid.extract_px))
        for at, side in ((x, slide.width), (y, slide.height))
    )
    with TileReader(slide.file, grid, _TILE_PX, background=slide.background) as reader:
        tile = reader.read(left, top)
    return _Row(slide, fit, (whole, normaliser.apply(whole)), (tile, normaliser.apply(tile)))


def _write(axes: Axes, text: str, weight: str) -> None:
    """Write above a picture."""
    axes.annotate(
        text, (0, 1), xytext=(0, 3), xycoords="axes fraction", textcoords="offset points", va="bottom", fontsize=7,
        fontweight=weight, annotation_clip=False, parse_math=False,
    )  # fmt: skip


def _draw_stains(axes: Axes, fit: MacenkoFit) -> None:
    """Show the colours of the two stains at their greatest concentrations, in a corner."""
    from matplotlib.patches import Rectangle

    stains = (fit.haematoxylin, fit.eosin)
    for place, (stain, dose) in enumerate(zip(stains, fit.concentrations, strict=True)):
        colour = np.exp(-np.array(stain) * dose)
        axes.add_patch(
            Rectangle(
                (0.02 + 0.08 * place, 0.02), 0.08, 0.08, transform=axes.transAxes, facecolor=colour.tolist(),
                edgecolor="white", linewidth=0.8,
            )
        )  # fmt: skip
