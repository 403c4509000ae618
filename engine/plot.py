"""Draws what a study knows over the picture of a slide, for people to check and to publish."""

from __future__ import annotations

import colorsys
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from duckdb import ColumnExpression, ConstantExpression

from slideduck.console import counted, replacing
from slideduck.errors import FULL_ERRNOS, DiskFullError, StudyError
from slideduck.sqlfiles import read_query
from slideduck.tiles import thumbnail

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from slideduck.study import Study

__all__ = ["PALETTE", "label_colours", "overlay", "save_figure", "scale_bar_um"]

#: Colours that readers with any colour vision tell apart: B. Wong, Points of view: Color blindness, Nature
#: Methods 8, 441 (2011), after M. Okabe and K. Ito; the order is ours, for tissue that is pink.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#F0E442", "#000000", "#CC79A7")

_NO_LABEL = "#4D4D4D"
_THUMBNAIL_PX = 1600
_DPI = 200
#: Width of the picture itself on the page, inches.
_PICTURE_INCHES = 6.5


def label_colours(labels: Iterable[str]) -> dict[str, str]:
    """Return a colour for each label, the same for the same labels whatever their order.

    Parameters
    ----------
    labels : iterable of str
        All labels that are to be told apart, such as those of a whole study.

    Returns
    -------
    dict of str to str
        ``#RRGGBB`` by label, in sorted order. After the eight of `PALETTE` they come again, paler.
    """
    colours = {}
    for i, label in enumerate(sorted(set(labels))):
        again, place = divmod(i, len(PALETTE))
        red, green, blue = (int(PALETTE[place][at : at + 2], 16) / 255 for at in (1, 3, 5))
        hue, light, saturation = colorsys.rgb_to_hls(red, green, blue)
        light = 1 - (1 - light) * 0.6**again
        channels = colorsys.hls_to_rgb(hue, light, saturation)
        colours[label] = "#" + "".join(f"{round(channel * 255):02X}" for channel in channels)
    return colours


def scale_bar_um(width_um: float) -> float:
    """Return a round length, 1, 2 or 5 times a power of ten, of about a fifth of a width; both in microns."""
    wanted = width_um / 5
    power = 10.0 ** math.floor(math.log10(wanted))
    return max(step * power for step in (1, 2, 5) if step * power <= wanted * 1.0001)


def overlay(
    study: Study,
    slide: str,
    out_png: str | os.PathLike[str],
    *,
    grid: str | None = None,
    max_px: int = _THUMBNAIL_PX,
) -> Path:
    """Draw a slide with its ROIs and the labels of its tiles, and write it as PNG.

    Parameters
    ----------
    study : Study
        With the slide, and labels in force for it.
    slide : str
        Name of the slide.
    out_png : path
        File to write; one that is there is replaced once the picture is whole.
    grid : str, optional
        Name of the grid; needed where the study has several.
    max_px : int
        Longer side of the slide's picture, pixels.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    StudyError
        If the slide or the grid is not in the study, or the slide's labels are missing or out of date.
    SlideError
        If the slide does not open.
    """
    out_png = Path(out_png)
    grid = study.only_grid(grid)
    path, width, height, mpp = _slide_row(study, slide)
    on_slide = ColumnExpression("slide") == ConstantExpression(slide)
    (n_tiles,) = study.labels(grid=grid).filter(on_slide).aggregate("count(*)").fetchone() or (0,)
    tiles = study.con.execute(read_query("outline_tiles"), {"slide": slide, "grid": grid}).fetchnumpy()
    rois = study.con.execute(read_query("outline_rois"), {"slide": slide}).fetchall()
    labels = study.con.execute("SELECT DISTINCT label FROM rois WHERE label IS NOT NULL").fetchall()
    colours = label_colours(label for (label,) in labels)

    picture, _ = thumbnail(path, max_px)
    figure, axes = _slide_figure(picture, width, height, mpp)
    # From here on everything is drawn in base pixels; the transform turns them into the axes' millimetres.
    from matplotlib.transforms import Affine2D

    to_axes = Affine2D().scale(mpp / 1000) + axes.transData
    tile_labels = [str(label) for label in tiles["label"]]
    _draw_tiles(axes, to_axes, tiles, tile_labels, colours, width)
    for _, label, outline in rois:
        _draw_roi(axes, to_axes, json.loads(outline), colours.get(label, _NO_LABEL), dashed=label is None)
    _draw_scale_bar(axes, figure, width * mpp)
    _draw_legend(figure, n_tiles, Counter(tile_labels), Counter(label for _, label, _ in rois), colours)
    axes.set_title(slide, loc="left", fontweight="bold")
    axes.set_title(grid, loc="right", fontsize="small")
    save_figure(figure, out_png)
    return out_png


def save_figure(figure: Figure, out_png: Path) -> None:
    """Write a figure as PNG under a temporary name and rename it; the same figure gives the same bytes.

    Raises
    ------
    SlideduckError
        If the folder is missing, or nothing can be written there.
    DiskFullError
        If there is no room; a picture that was there stays.
    """
    try:
        _save(figure, out_png)
    except OSError as error:
        if error.errno in FULL_ERRNOS:
            raise DiskFullError(
                f"no space left for {out_png} ({error.strerror}); free some, and draw it again"
            ) from error
        raise StudyError(f"{out_png} cannot be written: {error.strerror}; give another place for it") from error


def _save(figure: Figure, out_png: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with replacing(out_png) as temporary:
        # Matplotlib would write its version; a newer one then changed every picture.
        figure.savefig(
            temporary,
            format="png",
            dpi=_DPI,
            bbox_inches="tight",
            pad_inches=0.12,
            metadata={"Software": None},
        )


def _slide_row(study: Study, slide: str) -> tuple[str, int, int, float]:
    """Return path, width, height and MPP of a slide that can be used."""
    found = study.con.execute(
        "SELECT path, width, height, mpp, error FROM slides WHERE slide = $slide", {"slide": slide}
    ).fetchone()
    if found is None:
        raise StudyError(
            f"{study.path.name} has no slide {slide!r}; see which there are with: "
            f"slideduck sql {study.path.name} 'SELECT slide FROM slides'"
        )
    path, width, height, mpp, error = found
    if error is not None:
        raise StudyError(f"slide {slide!r} cannot be used: {error}")
    return path, width, height, mpp


def _slide_figure(picture: npt.NDArray[np.uint8], width: int, height: int, mpp: float) -> tuple[Figure, Axes]:
    """Return a figure with the picture of a slide on axes in millimetres."""
    # Figures are made by hand: pyplot would keep each of them, and switch the caller's backend.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tall = min(max(height / width, 0.4), 2.0)
    figure = Figure(figsize=(_PICTURE_INCHES + 2.4, _PICTURE_INCHES * tall + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(picture, extent=(0, width * mpp / 1000, height * mpp / 1000, 0), interpolation="antialiased")
    axes.set_xlabel("x (mm)")
    axes.set_ylabel("y (mm)")
    return figure, axes


def _draw_tiles(
    axes: Axes,
    to_axes: Any,
    tiles: dict[str, Any],
    labels: Sequence[str],
    colours: dict[str, str],
    width: int,
) -> None:
    """Draw a square of its label's colour for each tile; `width` is the slide's, base pixels."""
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba

    if not labels:
        return
    corner = np.stack([tiles["left_x"], tiles["top_y"]], axis=1)
    unit = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], dtype=np.float64)
    squares = corner[:, None, :] + unit * np.asarray(tiles["side"])[:, None, None]
    # Lines as thin as the tiles are small: they must never hide the tissue.
    across = width / float(tiles["side"][0])
    line_points = min(0.5, _PICTURE_INCHES * 72 / across * 0.06)
    axes.add_collection(
        PolyCollection(
            squares,
            facecolors=[to_rgba(colours[label], 0.38) for label in labels],
            edgecolors=[to_rgba(colours[label], 0.85) for label in labels],
            linewidths=line_points,
            transform=to_axes,
        )
    )


def _draw_roi(axes: Axes, to_axes: Any, outline: dict[str, Any], colour: str, *, dashed: bool) -> None:
    """Draw the rings of a polygon or multipolygon, white under colour, so that it shows on any tissue."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline
    from matplotlib.patheffects import Normal, withStroke

    polygons = outline["coordinates"] if outline["type"] == "MultiPolygon" else [outline["coordinates"]]
    rings = [Outline(np.asarray(ring)[:, :2], closed=True) for polygon in polygons for ring in polygon if ring]
    if not rings:
        return
    axes.add_patch(
        PathPatch(
            Outline.make_compound_path(*rings),
            fill=False,
            edgecolor=colour,
            linewidth=1.5,
            linestyle=(0, (3, 1.5)) if dashed else "solid",
            joinstyle="round",
            path_effects=[withStroke(linewidth=3.0, foreground="white", alpha=0.9), Normal()],
            transform=to_axes,
            clip_on=True,
        )
    )


def _draw_scale_bar(axes: Axes, figure: Figure, width_um: float) -> None:
    """Draw a bar of a round length under the right corner of the slide, where it hides nothing."""
    from matplotlib.lines import Line2D
    from matplotlib.transforms import offset_copy

    length_um = scale_bar_um(width_um)
    text = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"
    left, right = (width_um - length_um) / 1000, width_um / 1000
    below = offset_copy(axes.get_xaxis_transform(), fig=figure, y=-24, units="points")
    axes.add_artist(
        Line2D([left, right], [0, 0], transform=below, color="black", lw=3, solid_capstyle="butt", clip_on=False)
    )
    under_bar = offset_copy(below, fig=figure, y=-4, units="points")
    axes.text((left + right) / 2, 0, text, transform=under_bar, ha="center", va="top", fontsize="small")


def _draw_legend(
    figure: Figure, n_tiles: int, tiles: Counter[str], rois: Counter[str | None], colours: dict[str, str]
) -> None:
    """Say which colour is which label, and how many tiles and ROIs it has on the slide."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: list[Any] = [
        Patch(
            facecolor=colours[label] + "61",
            edgecolor=colours[label],
            linewidth=1.5,
            label=f"{label}\n{counted(tiles[label], 'tile')}, {counted(rois[label], 'ROI')}",
        )
        for label in colours
        if tiles[label] or rois[label]
    ]
    rest = n_tiles - sum(tiles.values())
    entries.append(Patch(facecolor="none", edgecolor="none", label=f"no label\n{counted(rest, 'tile')}"))
    if rois[None]:
        text = f"without a label\n{counted(rois[None], 'ROI')}"
        entries.append(Line2D([], [], color=_NO_LABEL, linewidth=1.5, linestyle=(0, (3, 1.5)), label=text))
    figure.legend(handles=entries, loc="outside right upper", frameon=False, labelspacing=0.9, handlelength=1.6)
