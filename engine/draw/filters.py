"""A slide with the tiles that filters drop, each in the colour of the first that does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from slideduck.catalog.grids import only_grid
from slideduck.draw.data import ABSENT, REMOVED, read_drawn
from slideduck.draw.figure import THUMBNAIL_PX, check_picture, draw_legend, own_style, save_figure, slide_figure
from slideduck.draw.layers import draw_tiles
from slideduck.files.write import check_folder
from slideduck.labels.filters import count_passed, filter_conditions, kept_tiles
from slideduck.palette import label_colours
from slideduck.slides.reader import thumbnail
from slideduck.store.handle import Handle
from slideduck.words import counted

__all__ = ["qc_overlay"]


def qc_overlay(
    handle: Handle,
    slide: str,
    out: str | os.PathLike[str],
    filters: Sequence[str] | None = None,
    *,
    grid: str | None = None,
) -> Path:
    """Draw a slide with the tiles that filters drop, each in the colour of the first that does.

    Parameters
    ----------
    handle : Handle
        The study; its labels are up to date.
    slide : str
        Name of the slide.
    out : path-like
        File to write: ``.png``, ``.pdf`` or ``.svg``.
    filters, grid
        See `slideduck.labels.filters.qc_report`.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    StudyError, QueryError
        See `slideduck.labels.filters.qc_report`.
    SlideError
        If the slide does not open.
    """
    out = Path(out)
    conditions = filter_conditions(filters)
    check_picture(out, None)
    check_folder(out)
    name = only_grid(handle, grid)
    drawn = read_drawn(handle, slide, grid=name)
    assert drawn.tiles is not None
    state = np.where(drawn.tiles.state == ABSENT, ABSENT, REMOVED)
    tiles = left = 0
    for grid_x, grid_y, *passed, _ in count_passed(
        handle, kept_tiles(handle, name, [slide]), conditions, "grid_x, grid_y"
    ):
        # One past the last filter: nothing is drawn there, and nothing paled.
        state[grid_y, grid_x] = next((i for i, holds in enumerate(passed) if not holds), len(conditions))
        tiles += 1
        left += all(passed)
    texts = tuple(f"not {condition}" for condition in conditions)
    # In the order of the filters, so that the first have the colours that differ most.
    colours = dict(zip(texts, label_colours(f"{i:03}" for i in range(len(texts))).values(), strict=True))
    title = f"{name}: {left:,} of {counted(tiles, 'tile')} pass {counted(len(conditions), 'filter')}"
    drawn = replace(
        drawn,
        labels=texts,
        colours=colours,
        rois=(),
        tiles=replace(drawn.tiles, grid=title, state=state.astype(np.int32)),
    )
    picture, _ = thumbnail(drawn.file, THUMBNAIL_PX)
    with own_style("".join([drawn.slide, *texts])):
        from matplotlib.transforms import Affine2D

        figure, axes, across = slide_figure(drawn, picture, "antialiased" if out.suffix.lower() == ".png" else "none")
        draw_tiles(axes, Affine2D().scale(drawn.mpp / 1000) + axes.transData, drawn, across)
        draw_legend(figure, axes, drawn, rois=False)
        save_figure(figure, out)
    return out
