"""Draws tiles and ROIs on the axes of a figure, as areas and lines, so that they are sharp in PDF and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from slideduck.draw.data import NO_LABEL, REMOVED, DrawnRoi, DrawnSlide

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["DASHES", "FILL", "FRAME_STYLE", "LINE_COLOUR", "draw_frame", "draw_roi", "draw_tiles"]

#: Opacity of a labelled tile, of its edge, of the edge of a tile without a label, and of the white over all that is
#: in no tile that is kept.
FILL, _EDGE, _BARE_EDGE, _VEIL = 0.38, 0.85, 0.5, 0.5
#: Of what has no label.
LINE_COLOUR, DASHES = "#4D4D4D", (0, (3, 1.5))
#: Of the frame around what was scanned.
FRAME_STYLE: dict[str, Any] = {"linewidth": 0.8, "linestyle": (0, (8, 4))}


def draw_tiles(axes: Axes, to_axes: Any, drawn: DrawnSlide, across: float) -> None:
    """Draw the area of each state of tiles, and the edges of its tiles.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        With the picture of the slide.
    to_axes : matplotlib.transforms.Transform
        From base pixels to the page.
    drawn : DrawnSlide
        The slide, with its tiles or without.
    across : float
        Width of its picture, inches.
    """
    from matplotlib.colors import to_rgba
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    tiles = drawn.tiles
    if tiles is None:
        return
    step = tiles.stride
    left, top = tiles.cell_corner
    # Edges as thin as the tiles are small: they must never hide the tissue.
    edge_points = min(0.5, across * 72 * step / drawn.width * 0.06)

    def paint(mask: npt.NDArray[np.bool_], colour: Any, around: Sequence[tuple[int, int]] = ()) -> None:
        row, first, past = _runs(mask)
        x0, x1, y0 = left + first * step, left + past * step, top + row * step
        corners = np.stack([x0, y0, x1, y0, x1, y0 + step, x0, y0 + step, x0, y0], axis=1).reshape(-1, 5, 2)
        if around:
            corners = np.concatenate([np.array([around], np.float64), corners])
        # One path: what touches within it has no seam.
        codes = np.tile([Outline.MOVETO, *[Outline.LINETO] * 3, Outline.CLOSEPOLY], len(corners))
        area = Outline(corners.reshape(-1, 2), codes)
        axes.add_patch(PathPatch(area, facecolor=colour, edgecolor="none", lw=0, transform=to_axes, snap=False))

    def rule(mask: npt.NDArray[np.bool_], colour: Any) -> None:
        row, first, past = _runs(_edges(mask))
        column, high, low = _runs(_edges(mask.T))
        level = np.stack([left + first * step, top + row * step, left + past * step, top + row * step], axis=1)
        upright = np.stack([left + column * step, top + high * step, left + column * step, top + low * step], axis=1)
        ends = np.concatenate([level, upright]).reshape(-1, 2)
        lines = Outline(ends, np.tile([Outline.MOVETO, Outline.LINETO], len(ends) // 2))
        style = {"edgecolor": colour, "lw": edge_points, "capstyle": "butt", "snap": False}
        axes.add_patch(PathPatch(lines, fill=False, transform=to_axes, **style))

    if tiles.count(REMOVED):
        # The slide counter to the way round of the tiles: they are holes of it.
        slide = [(0, 0), (0, drawn.height), (drawn.width, drawn.height), (drawn.width, 0), (0, 0)]
        paint(tiles.state >= NO_LABEL, to_rgba("white", _VEIL), slide)
    if tiles.count(NO_LABEL):
        rule(tiles.state == NO_LABEL, to_rgba(LINE_COLOUR, _BARE_EDGE))
    for number, label in enumerate(drawn.labels):
        if tiles.count(number):
            paint(tiles.state == number, to_rgba(drawn.colours[label], FILL))
            rule(tiles.state == number, to_rgba(drawn.colours[label], _EDGE))


def _runs(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], ...]:
    """Return row, first column and the column past the last of each run of True along the rows."""
    change = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, first = np.nonzero(change == 1)
    return row, first, np.nonzero(change == -1)[1]


def _edges(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return which upper and lower edges of cells border a cell that is True; one row more than the cells have."""
    padded = np.pad(mask, ((1, 1), (0, 0)))
    return np.asarray(padded[1:] | padded[:-1])


def draw_frame(axes: Axes, to_axes: Any, drawn: DrawnSlide) -> None:
    """Draw a thin frame around what was scanned, where that is not the whole slide.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        With the picture of the slide.
    to_axes : matplotlib.transforms.Transform
        From base pixels to the page.
    drawn : DrawnSlide
        The slide.
    """
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    frame = drawn.frame
    if frame.is_part:
        corner, size = (frame.bounds_x, frame.bounds_y), (frame.bounds_width, frame.bounds_height)
        halo = [withStroke(linewidth=2.0, foreground="white", alpha=0.9)]
        style = {"fill": False, "edgecolor": LINE_COLOUR, **FRAME_STYLE}
        axes.add_patch(Rectangle(corner, size[0], size[1], transform=to_axes, path_effects=halo, **style))


def draw_roi(axes: Axes, to_axes: Any, roi: DrawnRoi, drawn: DrawnSlide) -> None:
    """Draw the rings of an ROI, white under colour, so that they show on any tissue.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        With the picture of the slide; what lies outside is not drawn.
    to_axes : matplotlib.transforms.Transform
        From base pixels to the page.
    roi : DrawnRoi
        The ROI.
    drawn : DrawnSlide
        Its slide.
    """
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline
    from matplotlib.patheffects import withStroke

    axes.add_patch(
        PathPatch(
            Outline.make_compound_path(*(Outline(ring, closed=True) for ring in roi.rings)),
            fill=False,
            edgecolor=LINE_COLOUR if roi.label is None else drawn.colours[roi.label],
            linewidth=1.5,
            linestyle=DASHES if roi.label is None else "solid",
            joinstyle="round",
            path_effects=[withStroke(linewidth=3.0, foreground="white", alpha=0.9)],
            transform=to_axes,
            clip_on=True,
        )
    )
