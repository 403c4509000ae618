"""Heatmaps: a slide with a network's predictions over it, as a picture or as GeoJSON for QuPath."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

import slideduck
from slideduck.catalog.slides import usable_slide
from slideduck.draw.figure import own_style, save_figure, scale_bar_um
from slideduck.errors import ConfigError, StudyError
from slideduck.interop.tiles import export_tiles
from slideduck.palette import label_colours
from slideduck.rois.frame import written_offsets
from slideduck.runner.maps.blend import WINDOWS, SlideMap, read_map
from slideduck.runner.networks.given import Network
from slideduck.runner.prediction.study import predict_trained
from slideduck.runner.prediction.study_runs import held_passes
from slideduck.runner.runs.trained import TrainedModel, load_run
from slideduck.runner.scores.predictions import THRESHOLD
from slideduck.slides.reader import thumbnail
from slideduck.study import Study
from slideduck.words import counted

__all__ = ["chosen_outputs", "heatmap"]

_THUMBNAIL_PX = 1600
#: Longer side of a panel, inches.
_PANEL_INCHES = 3.4
_OPACITY = 0.6


def heatmap(
    run: Path | str,
    study: Study | Path | str,
    slide: str,
    out: Path | str,
    *,
    grid: str | None = None,
    checkpoint: str = "best",
    trust: str | Sequence[str] = (),
    network: Network | None = None,
    only: Sequence[str] = (),
    max_px: int = _THUMBNAIL_PX,
    window: str = "flat",
    merge: bool = False,
    frame: str | None = None,
) -> Path:
    """Draw a slide with what a network says over it, or write it for QuPath.

    The panels are the slide as it is; one panel a class or label with its probability, and with MC dropout one with the
    mutual information; of classes one with the likeliest at each place. Of numbers there is one panel a number, whose
    colours reach from two deviations of the training tiles below their mean to two above, the same on each slide, and
    with several passes one a number with the standard deviation over them. Where tiles overlap, a place shows the mean
    of those that cover it; see `slideduck.runner.maps.blend.blend`. A slide that is not predicted yet is predicted
    first, with the passes that the study's predictions of the run have (`slideduck.runner.prediction.study.predict`).

    Parameters
    ----------
    run : path
        The run's folder.
    study : Study or path
        The study.
    slide : str
        Name of the slide.
    out : path
        File to write, in the form that its suffix says: ``.png``, ``.pdf``, ``.svg``, or ``.geojson`` for QuPath,
        with an object for each tile that has its probabilities or numbers as measurements. One that is there is
        replaced once the new one is whole.
    grid : str, optional
        Name of a grid of the study; default the one that the network was trained on.
    checkpoint : str
        ``"best"`` or ``"last"``.
    trust : str or sequence of str
        The run's model, where that is code, ``module:function``; see `slideduck.runner.runs.trained.load_run`.
    network : callable or nn.Module, optional
        The run's network, where it was given as an object; see `slideduck.runner.runs.trained.load_run`.
    only : sequence of str
        Names of classes, labels or numbers to draw, in that order; default all.
    max_px : int
        Longer side of the slide's picture, pixels.
    window : str
        ``"flat"`` or ``"peaked"``: how tiles that overlap are averaged.
    merge : bool
        In GeoJSON, make one annotation of all tiles of a class.
    frame : {"bounds", "level0"}, optional
        Corner that GeoJSON counts from: that of what was scanned, as QuPath has it, or the slide's. Needed for
        slides where the two differ.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    StudyError
        If the study has no such slide or grid, or a frame is needed.
    ConfigError
        If there is no such window or output, or merge or frame is given for a picture, or `only` for GeoJSON.
    SlideError
        If the slide cannot be read.
    """
    out = Path(out)
    is_geojson = out.suffix.lower() == ".geojson"
    if not out.absolute().parent.is_dir():
        raise StudyError(f"no folder {out.parent} to put {out.name} in; make the folder first")
    for name, is_given in (("merge", merge), ("frame", frame is not None)):
        if is_given and not is_geojson:
            raise ConfigError(
                f"{name} is given for {out.name}, a picture; name it {out.stem}.geojson, or leave {name} out"
            )
    if window not in WINDOWS:
        raise ConfigError(f"window is {window!r}; it must be one of {', '.join(WINDOWS)}")
    with ExitStack() as stack:
        if not isinstance(study, Study):
            study = stack.enter_context(slideduck.open(study, sealed=True))
        if is_geojson:
            written_offsets(study.handle, [slide], frame, is_needed=True)  # Before the slide is predicted.
        trained = load_run(run, checkpoint, trust=trust, network=network)
        names = chosen_outputs(trained, only)
        if is_geojson and only:
            raise ConfigError(f"only is given for {out.name}, which has all of them; leave only out")
        passes = held_passes(study, trained.run.name)
        report = predict_trained(trained, study, passes, grid=grid, slides=[slide])
        if is_geojson:
            _write_geojson(study, report.run, report.grid, slide, out, merge=merge, frame=frame)
            return out
        shown = usable_slide(study.handle, slide)
        numbers = trained.task.gives == "numbers"
        drawn = read_map(study, report.run, report.grid, slide, names, window=window, numbers=numbers)
        labels = study.con.execute("SELECT DISTINCT label FROM rois WHERE label IS NOT NULL").fetchall()
    # The colours of the overlay of ROIs, so that the two pictures read alike.
    colours = label_colours([*trained.classes, *(label for (label,) in labels)])
    mm = shown.mpp / 1000
    picture, _ = thumbnail(shown.file, max_px)
    scene = _Scene(
        picture,
        shown.width * mm,
        shown.height * mm,
        mm,
        drawn,
        {name: colours[name] for name in names},
        kind="numbers" if numbers else "classes" if trained.task.tells_classes and not only else "labels",
        ranges=tuple(_range(trained, name) for name in names),
    )
    title = f"{slide}    {report.run}, {report.grid}"
    with own_style("".join([title, *names])):
        figure = _draw(scene)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
        save_figure(figure, out)
    return out


def chosen_outputs(trained: TrainedModel, only: Sequence[str]) -> tuple[str, ...]:
    """Return the outputs of a network that are to be drawn: those that are named, or all.

    Raises
    ------
    ConfigError
        If it has none of a name.
    """
    unknown = [name for name in only if name not in trained.classes]
    if unknown:
        raise ConfigError(
            f"{trained.run} does not know {', '.join(map(repr, unknown))}; "
            f"its {trained.task.nouns} are {', '.join(trained.classes)}"
        )
    return tuple(dict.fromkeys(only)) or trained.classes


def _range(trained: TrainedModel, name: str) -> tuple[float, float]:
    """Return what the colours of an output reach from and to."""
    if trained.task.gives != "numbers":
        return 0.0, 1.0
    number = trained.classes.index(name)
    mean, std = float(trained.task.mean[number]), float(trained.task.std[number])
    return mean - 2 * std, mean + 2 * std


def _write_geojson(study: Study, run: str, grid: str, slide: str, out: Path, *, merge: bool, frame: str | None) -> None:
    """Write the predicted tiles of a slide as objects of QuPath, whole or not at all."""
    with TemporaryDirectory(dir=out.absolute().parent, prefix=f".{out.name}.") as folder:
        report = export_tiles(
            study.handle, Path(folder, "tiles"), grid=grid, slides=[slide], run=run, merge=merge, frame=frame
        )
        os.replace(report.paths[0], out)


@dataclass(frozen=True)
class _Scene:
    """A slide and its predictions, as they are drawn.

    Attributes
    ----------
    picture : ndarray of uint8, (height, width, 3)
        The slide, small.
    width_mm, height_mm : float
        Size of the slide, millimetres.
    mm_per_px : float
        Millimetres of a base pixel.
    map : SlideMap
        What the network says.
    colours : dict of str to str
        Colour of each output, in the order of the map's.
    kind : str
        ``classes``, of which one is the likeliest; ``labels``, each by itself; or ``numbers``.
    ranges : tuple of (float, float)
        What the colours of each output reach from and to.
    """

    picture: NDArray[np.uint8]
    width_mm: float
    height_mm: float
    mm_per_px: float
    map: SlideMap
    colours: dict[str, str]
    kind: str
    ranges: tuple[tuple[float, float], ...]

    @property
    def names(self) -> list[str]:
        """Names of the outputs."""
        return list(self.colours)

    @property
    def n_panels(self) -> int:
        """Panels of the figure: the slide, each output, the likeliest class, and the uncertainty where it is known."""
        n_deviations = 0 if self.map.deviation is None else len(self.names)
        extra = (self.kind == "classes") + (self.map.mutual_information is not None)
        return 1 + len(self.names) + extra + n_deviations

    @property
    def winner(self) -> NDArray[np.float32]:
        """Number of the likeliest class of each cell, NaN where no tile lies."""
        found: NDArray[np.float32] = self.map.given.argmax(axis=2).astype(np.float32)
        found[np.isnan(self.map.given[..., 0])] = np.nan
        return found


def _draw(scene: _Scene) -> Any:
    """Return the figure with all panels, on axes in millimetres."""
    figure, axes = _lay_out(scene)
    panels = list(axes.flat)[: scene.n_panels]
    _draw_slide(scene, panels)
    _draw_maps(scene, figure, panels[1:])
    if scene.kind != "numbers":
        _draw_scale(figure, axes, "probability of the class" if scene.kind == "classes" else "probability")
    if scene.kind == "classes":
        _draw_key(scene, figure)
    return figure


def _lay_out(scene: _Scene) -> tuple[Any, Any]:
    """Return a figure, and its axes by row and column; those that are not needed are off."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width_mm, height_mm = scene.width_mm, scene.height_mm
    columns = _columns(scene.n_panels, height_mm / width_mm)
    rows = -(-scene.n_panels // columns)
    scale = _PANEL_INCHES / max(width_mm, height_mm)
    figure = Figure(
        figsize=(columns * (width_mm * scale + 0.25) + 1.2, rows * (height_mm * scale + 0.45) + 0.5),
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel in list(axes.flat)[scene.n_panels :]:
        panel.set_axis_off()
    return figure, axes


def _draw_slide(scene: _Scene, panels: Sequence[Any]) -> None:
    """Draw the slide in the first panel, and in grey in the others."""
    width_mm, height_mm = scene.width_mm, scene.height_mm
    # Under the maps the slide is grey: there, colour is to mean what the network says and nothing else.
    grey = np.repeat(scene.picture.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    for number, panel in enumerate(panels):
        panel.imshow(grey if number else scene.picture, extent=(0, width_mm, height_mm, 0), interpolation="antialiased")
        panel.set(xlim=(0, width_mm), ylim=(height_mm, 0), xticks=[], yticks=[])
        panel.spines[:].set(color="#B0B0B0", linewidth=0.5)
    panels[0].set_title("slide", fontsize=9, loc="left")
    _draw_scale_bar(panels[0], width_mm, height_mm)


def _draw_maps(scene: _Scene, figure: Any, panels: Sequence[Any]) -> None:
    """Draw the map of each output, the likeliest class, and the uncertainty where it is known."""
    from matplotlib.colors import ListedColormap

    drawn = scene.map
    rows, columns = drawn.given.shape[:2]
    left, top, cell = (length * scene.mm_per_px for length in (drawn.left, drawn.top, drawn.cell))
    extent = (left, left + columns * cell, top + rows * cell, top)
    free = iter(panels)

    def show(values: NDArray[np.float32], title: str, cmap: Any, least: float, most: float) -> tuple[Any, Any]:
        panel = next(free)
        image = panel.imshow(
            values, cmap=cmap, vmin=least, vmax=most, extent=extent, interpolation="nearest", alpha=_OPACITY
        )
        panel.set_title(title, fontsize=9, loc="left", parse_math=False)
        return image, panel

    n_outputs = len(scene.names)
    for number, (name, (least, most)) in enumerate(zip(scene.names, scene.ranges, strict=True)):
        values = drawn.given[..., number]
        part = f"  ({np.mean(values[np.isfinite(values)] >= THRESHOLD):.0%} at {THRESHOLD:g} or more)"
        shown = show(values, name + part * (scene.kind == "labels"), "viridis", least, most)
        if scene.kind == "numbers":
            _draw_bar(figure, *shown, extend="both")
    if scene.kind == "classes":
        show(scene.winner, "likeliest class", ListedColormap(list(scene.colours.values())), -0.5, n_outputs - 0.5)
    if drawn.mutual_information is not None:
        most = max(float(np.nanmax(drawn.mutual_information)), 1e-6)
        show(drawn.mutual_information, f"mutual information, 0 to {most:.2g} nats", "magma", 0, most)
    if drawn.deviation is not None:
        for number, name in enumerate(scene.names):
            most = max(float(np.nanmax(drawn.deviation[..., number])), 1e-6)
            _draw_bar(figure, *show(drawn.deviation[..., number], f"deviation of {name}", "magma", 0, most))


def _draw_bar(figure: Any, image: Any, panel: Any, *, extend: str = "neither") -> None:
    """Draw the scale of one panel, in the unit of its number."""
    bar = figure.colorbar(image, ax=panel, shrink=0.7, aspect=18, pad=0.02, extend=extend)
    bar.ax.tick_params(labelsize=7)


def _draw_scale(figure: Any, axes: Any, title: str) -> None:
    """Draw the scale of probabilities."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), "viridis"), ax=axes, shrink=0.6, aspect=30, pad=0.02, alpha=_OPACITY
    )
    bar.set_label(title, fontsize=8)
    bar.ax.tick_params(labelsize=7)


def _draw_key(scene: _Scene, figure: Any) -> None:
    """Draw the key of classes, with the part of the tiles' area that each has."""
    from matplotlib.patches import Patch

    winner = scene.winner[np.isfinite(scene.winner)]
    entries = [
        Patch(color=colour, alpha=_OPACITY, label=f"{name}  {np.mean(winner == number):.0%}")
        for number, (name, colour) in enumerate(scene.colours.items())
    ]
    figure.legend(
        handles=entries,
        loc="outside lower left",
        ncols=min(len(entries), 6),
        frameon=False,
        fontsize=8,
        title=f"likeliest class, part of {'the area of ' * scene.map.overlaps}{counted(scene.map.tiles, 'tile')}",
        title_fontsize=8,
        alignment="left",
    )


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
