"""A slide's picture with what a network says of each of its tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import slideduck
from slideduck.errors import StudyError
from slideduck.plot import label_colours, save_figure, scale_bar_um
from slideduck.runner.predict import predict
from slideduck.runner.study_runs import held_passes
from slideduck.sqlfiles import read_query
from slideduck.study import Study
from slideduck.tiles import thumbnail

__all__ = ["heatmap"]

_THUMBNAIL_PX = 1600
#: Longer side of a panel, inches.
_PANEL_INCHES = 3.4
_OPACITY = 0.6


@dataclass(frozen=True)
class _Map:
    """What is drawn: probabilities on the grid of a slide.

    Attributes
    ----------
    probabilities : ndarray of float32, (rows, columns, classes)
        NaN where there is no tile.
    extent_mm : tuple of float
        Left, right, bottom and top of the grid on the slide, mm.
    """

    probabilities: NDArray[np.float32]
    extent_mm: tuple[float, float, float, float]


def heatmap(
    run: Path | str,
    study: Study | Path | str,
    slide: str,
    out_png: Path | str,
    *,
    grid: str | None = None,
    checkpoint: str = "best",
    max_px: int = _THUMBNAIL_PX,
) -> Path:
    """Draw a slide with the probability of each class over it, and write it as PNG.

    The panels are the slide as it is, one panel a class, and the likeliest class of each tile. A slide that
    is not predicted yet is predicted first; see `slideduck.runner.predict.predict`.

    Parameters
    ----------
    run : path
        The run's folder.
    study : Study or path
        The study.
    slide : str
        Name of the slide.
    out_png : path
        File to write; one that is there is replaced once the picture is whole.
    grid : str, optional
        Name of a grid of the study; default the one that the network was trained on.
    checkpoint : str
        ``"best"`` or ``"last"``.
    max_px : int
        Longer side of the slide's picture, pixels.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    StudyError
        If the study has no such slide or grid.
    SlideError
        If the slide cannot be read.
    """
    out_png = Path(out_png)
    if not out_png.absolute().parent.is_dir():
        raise StudyError(f"no folder {out_png.parent} to put {out_png.name} in; make the folder first")
    with ExitStack() as stack:
        if not isinstance(study, Study):
            study = stack.enter_context(slideduck.open(study))
        passes = held_passes(study, Path(run).absolute().name)
        report = predict(run, study, grid=grid, slides=[slide], checkpoint=checkpoint, **vars(passes))
        (classes,) = _one(study, "SELECT classes FROM runs WHERE run = $1", [report.run])
        path, width, height, mpp = _one(study, "SELECT path, width, height, mpp FROM slides WHERE slide = $1", [slide])
        drawn = _read_map(study, report.run, report.grid, slide, classes, mpp)
        labels = study.con.execute("SELECT DISTINCT label FROM rois WHERE label IS NOT NULL").fetchall()
    # The colours of the overlay of ROIs, so that the two pictures read alike.
    colours = label_colours([*classes, *(label for (label,) in labels)])
    picture, _ = thumbnail(path, max_px)
    figure = _draw(picture, (width * mpp / 1000, height * mpp / 1000), drawn, classes, colours)
    figure.suptitle(f"{slide}    {report.run}, {report.grid}", x=0.01, ha="left", fontsize=10, fontweight="bold")
    save_figure(figure, out_png)
    return out_png


def _one(study: Study, query: str, values: list[Any] | dict[str, Any]) -> tuple[Any, ...]:
    """Return the one row of a query that has one."""
    row = study.con.execute(query, values).fetchone()
    assert row is not None
    return row


def _read_map(study: Study, run: str, grid: str, slide: str, classes: Sequence[str], mpp: float) -> _Map:
    """Read the predictions of a slide into the shape of its grid."""
    where = {"run": run, "grid": grid, "slide": slide}
    rows = study.con.execute(read_query("list_predictions"), {**where, "classes": list(classes)}).to_arrow_table()
    n_columns, n_rows, extract_px, stride, origin_x, origin_y = _one(
        study, read_query("find_slide_grid"), {"grid": grid, "slide": slide}
    )
    probabilities = np.full((n_rows, n_columns, len(classes)), np.nan, np.float32)
    flat = rows["probabilities"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    probabilities[rows["grid_y"].to_numpy(), rows["grid_x"].to_numpy()] = flat.reshape(-1, len(classes))
    # Where tiles overlap, each is drawn as the part of the step around its centre.
    left, top = (origin + (extract_px - stride) / 2 for origin in (origin_x, origin_y))
    mm = mpp / 1000
    return _Map(
        probabilities,
        (left * mm, (left + n_columns * stride) * mm, (top + n_rows * stride) * mm, top * mm),
    )


def _draw(
    picture: NDArray[np.uint8],
    size_mm: tuple[float, float],
    drawn: _Map,
    classes: Sequence[str],
    colours: dict[str, str],
) -> Any:
    """Return the figure with all panels, on axes in millimetres."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    width_mm, height_mm = size_mm
    n_panels = len(classes) + 2
    columns = _columns(n_panels, height_mm / width_mm)
    rows = -(-n_panels // columns)
    scale = _PANEL_INCHES / max(size_mm)
    figure = Figure(
        figsize=(columns * (width_mm * scale + 0.25) + 1.2, rows * (height_mm * scale + 0.45) + 0.5),
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    panels = list(axes.flat)
    for panel in panels[n_panels:]:
        panel.set_axis_off()
    # Under the maps the slide is grey: there, colour is to mean what the network says and nothing else.
    grey = np.repeat(picture.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    for number, panel in enumerate(panels[:n_panels]):
        panel.imshow(grey if number else picture, extent=(0, width_mm, height_mm, 0), interpolation="antialiased")
        panel.set(xlim=(0, width_mm), ylim=(height_mm, 0), xticks=[], yticks=[])
        panel.spines[:].set(color="#B0B0B0", linewidth=0.5)
    panels[0].set_title("slide", fontsize=9, loc="left")
    _draw_scale_bar(panels[0], width_mm, height_mm)
    style = {"extent": drawn.extent_mm, "interpolation": "nearest", "alpha": _OPACITY}
    for number, name in enumerate(classes):
        panel = panels[1 + number]
        panel.imshow(drawn.probabilities[..., number], cmap="viridis", vmin=0, vmax=1, **style)
        panel.set_title(name, fontsize=9, loc="left")
    winner = drawn.probabilities.argmax(axis=2).astype(np.float32)
    winner[np.isnan(drawn.probabilities[..., 0])] = np.nan
    flat = ListedColormap([colours[name] for name in classes])
    last = panels[1 + len(classes)]
    last.imshow(winner, cmap=flat, vmin=-0.5, vmax=len(classes) - 0.5, **style)
    last.set_title("likeliest class", fontsize=9, loc="left")
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), "viridis"), ax=axes, shrink=0.6, aspect=30, pad=0.02, alpha=_OPACITY
    )
    bar.set_label("probability of the class", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    whole = np.isfinite(winner).sum()
    entries = [
        Patch(
            color=colours[name],
            alpha=_OPACITY,
            label=f"{name}  {np.mean(winner[np.isfinite(winner)] == number):.0%}",
        )
        for number, name in enumerate(classes)
    ]
    figure.legend(
        handles=entries,
        loc="outside lower left",
        ncols=min(len(entries), 6),
        frameon=False,
        fontsize=8,
        title=f"likeliest class, part of {whole:,} tiles",
        title_fontsize=8,
        alignment="left",
    )
    return figure


def _columns(n_panels: int, height_by_width: float) -> int:
    """Return how many panels to put side by side, so that the page is about as wide as it is high."""
    ratios = {
        columns: (columns / (math.ceil(n_panels / columns) * height_by_width)) for columns in range(1, n_panels + 1)
    }
    return min(ratios, key=lambda columns: abs(math.log(ratios[columns] / 1.4)))


def _draw_scale_bar(panel: Any, width_mm: float, height_mm: float) -> None:
    """Draw a bar of a round length in the lower left corner."""
    from matplotlib.patches import Rectangle

    length_um = scale_bar_um(width_mm * 1000)
    text = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"
    unit = max(width_mm, height_mm) / 100
    left, length, bottom = 3 * unit, length_um / 1000, height_mm - 2.5 * unit
    panel.add_patch(
        Rectangle(
            (left - 1.5 * unit, bottom - 9 * unit),
            length + 3 * unit,
            10 * unit,
            facecolor="white",
            alpha=0.85,
            lw=0,
        )
    )
    panel.add_patch(Rectangle((left, bottom - 1.6 * unit), length, 1.6 * unit, facecolor="black", lw=0))
    panel.text(left + length / 2, bottom - 2.4 * unit, text, ha="center", va="bottom", fontsize=7)
