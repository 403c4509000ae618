"""Draws ROIs and labels of tiles over the picture of a slide, to be checked and published."""

from __future__ import annotations

import os
from pathlib import Path

from slideduck.draw.data import read_drawn
from slideduck.draw.figure import (
    PICTURE_METADATA,
    THUMBNAIL_PX,
    check_picture,
    draw_legend,
    own_style,
    save_figure,
    slide_figure,
    suffix_problem,
)
from slideduck.draw.layers import draw_frame, draw_roi, draw_tiles
from slideduck.draw.page import PAGE_PX, PAGE_SUFFIXES, page
from slideduck.errors import StudyError
from slideduck.files.write import check_folder
from slideduck.slides.reader import thumbnail
from slideduck.store.handle import Handle

__all__ = ["overlay", "plot_labels"]

_LONGEST_PX = 16384


def plot_labels(
    handle: Handle,
    slide: str,
    out: str | os.PathLike[str],
    *,
    grid: str | None = None,
    html: bool = False,
    max_px: int | None = None,
    dpi: int | None = None,
    tiles: bool = True,
    rois: bool = True,
) -> Path:
    """Draw a slide with its ROIs and the labels of its tiles: a picture, or a page to zoom and pan in.

    Parameters
    ----------
    handle : Handle
        With the slide, and labels in force for it.
    slide : str
        Name of the slide.
    out : path
        File to write, in the form that its suffix says: ``.png``, ``.pdf``, ``.svg`` or ``.html``.
    grid : str, optional
        Name of the grid; needed where the study has several and tiles are drawn.
    html : bool, default False
        Insist on the page.
    max_px : int, optional
        Longer side of the slide's picture, pixels; default 1600, on a page 4096.
    dpi : int, optional
        Dots per inch of a PNG; default 200.
    tiles, rois : bool, default True
        Whether tiles and ROIs are drawn.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    StudyError
        If a value is impossible, the slide or the grid is not in the study, its labels are missing or out of
        date, or the file cannot be written.
    SlideError
        If the slide does not open.
    DiskFullError
        If there is no room for the file.
    """
    out = Path(out)
    suffix = out.suffix.lower()
    if html and suffix not in PAGE_SUFFIXES:
        raise StudyError(f"{out.name} is not named as a page; name it {out.stem}.html, or leave `html` out")
    if max_px is not None and not 16 <= max_px <= _LONGEST_PX:
        raise StudyError(f"max_px is {max_px}; give from 16 to {_LONGEST_PX:,} pixels")
    if suffix in PAGE_SUFFIXES:
        if dpi is not None:
            raise StudyError(f"dpi is given for {out.name}, a page, which has none; give max_px, or leave dpi out")
        return page(handle, slide, out, grid=grid, max_px=max_px or PAGE_PX, tiles=tiles, rois=rois)
    if suffix not in PICTURE_METADATA:
        raise StudyError(suffix_problem(out, (*PICTURE_METADATA, PAGE_SUFFIXES[0])))
    return overlay(handle, slide, out, grid=grid, max_px=max_px or THUMBNAIL_PX, dpi=dpi, tiles=tiles, rois=rois)


def overlay(
    handle: Handle,
    slide: str,
    out: str | os.PathLike[str],
    *,
    grid: str | None = None,
    max_px: int = THUMBNAIL_PX,
    dpi: int | None = None,
    tiles: bool = True,
    rois: bool = True,
) -> Path:
    """Draw a slide with its ROIs and the labels of its tiles as PNG, PDF or SVG.

    The parameters, and the errors, are those of `plot_labels`. A tile is drawn as the square of a step around
    its centre, so that each place has one colour where tiles overlap. ROIs end at the edge of the slide. A
    dashed frame is around what was scanned, where that is a part of the slide. In
    PDF and SVG all but the slide itself are lines and areas. A warning names what no installed font can write.
    """
    out = Path(out)
    check_picture(out, dpi)
    check_folder(out)
    drawn = read_drawn(handle, slide, grid=grid, tiles=tiles)
    picture, _ = thumbnail(drawn.file, max_px)
    with own_style("".join([drawn.slide, *drawn.labels]), page=True):
        figure, axes, across = slide_figure(drawn, picture, "antialiased" if out.suffix.lower() == ".png" else "none")
        # From here on everything is drawn in base pixels; the transform turns them into the axes' millimetres.
        from matplotlib.transforms import Affine2D

        to_axes = Affine2D().scale(drawn.mpp / 1000) + axes.transData
        draw_tiles(axes, to_axes, drawn, across)
        draw_frame(axes, to_axes, drawn)
        if rois:
            for roi in drawn.rois:
                draw_roi(axes, to_axes, roi, drawn)
        draw_legend(figure, axes, drawn, rois=rois)
        save_figure(figure, out, dpi=dpi)
    return out
