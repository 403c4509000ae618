"""Draws the scores of predictions: ROC and precision-recall curves, confusion, reliability."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slideduck.catalog.evaluations import prediction_files
from slideduck.draw.figure import own_style, save_figure
from slideduck.errors import ConfigError
from slideduck.palette import label_colours
from slideduck.runner.scores.assess import (
    JudgedUnits,
    PredictedTiles,
    assess,
    judged_units,
    numbers_of,
    read_predictions,
)
from slideduck.runner.scores.bootstrap import RESAMPLES
from slideduck.runner.scores.calibration import BINS, reliability
from slideduck.runner.scores.columns import means_of
from slideduck.runner.scores.metrics import LEVELS, Units, confusion_of, units_of
from slideduck.runner.scores.predictions import ClassPredictions, NumberPredictions
from slideduck.words import counted, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Drawn", "plot_confusion", "plot_pr", "plot_reliability", "plot_roc", "read_drawn"]

GREY = "#4D4D4D"
_LIGHT = "#E6E6E6"
#: Lines of many classes differ by their dashes as well as by their colours.
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)))
_NAME_CHARACTERS = 26


@dataclass(frozen=True)
class Drawn:
    """Predictions to be drawn, at one level, with their scores.

    Attributes
    ----------
    tiles : PredictedTiles
        What was read.
    groups : ndarray of int64, (tiles,), or None
        Number of each tile's slide or patient; None where tiles are drawn.
    classes : tuple of str
        Names of the outputs, in order.
    metrics : mapping
        Metrics of that level under the names of tiles, with their ``ci95/``.
    level : str
        ``tiles``, ``slides`` or ``patients``.
    title : str
        Which predictions they are, for people.
    """

    tiles: PredictedTiles
    groups: NDArray[np.int64] | None
    classes: tuple[str, ...]
    metrics: Mapping[str, Any]
    level: str
    title: str

    def score(self, name: str) -> str:
        """Return a metric with its interval, as text."""
        value, bounds = self.metrics.get(name), self.metrics.get(f"ci95/{name}")
        if value is None:
            return "–"
        return f"{value:.3f}" if bounds is None else f"{value:.3f} ({bounds[0]:.3f}–{bounds[1]:.3f})"

    @property
    def of_classes(self) -> bool:
        """Whether each tile is of one class."""
        return self.tiles.task == "classification"

    @property
    def units(self) -> Units:
        """Tiles, slides or patients, each of one class.

        Raises
        ------
        RunError
            If they are not.
        """
        if not isinstance(self.tiles.predictions, ClassPredictions):
            raise self.tiles.refuse("a confusion matrix is of classes; slideduck plot roc draws each label by itself")
        return units_of(self.tiles.predictions, self.groups)

    @property
    def judged(self) -> JudgedUnits:
        """Tiles, slides or patients with the probability of each class or label.

        Raises
        ------
        RunError
            If there are none.
        """
        if isinstance(self.tiles.predictions, NumberPredictions):
            raise self.tiles.refuse("this picture is of probabilities; slideduck plot confusion draws numbers")
        return judged_units(self.tiles.predictions, self.groups)

    @property
    def note(self) -> str:
        """What the numbers in parentheses mean, or why there are none."""
        if "ci95/resamples" not in self.metrics:
            return str(self.metrics.get("ci95/note", ""))
        return f"in parentheses: 95 % intervals, resampling {self.metrics['ci95/patients']:,} patients"


def read_drawn(source: Path | str, level: str, *, resamples: int = RESAMPLES) -> Drawn:
    """Read predictions and compute the scores that are drawn.

    Parameters
    ----------
    source : path
        A run's folder, for the validation tiles of its best epoch, or a Parquet that `evaluate` wrote.
    level : str
        ``tiles``, ``slides`` or ``patients``.
    resamples : int
        Resamples of patients for the intervals; 0 for none.

    Raises
    ------
    RunError
        If there are no predictions of labelled tiles.
    ConfigError
        If there is no such level.
    """
    if level not in LEVELS:
        raise ConfigError(f"level is {level!r}; it must be one of {', '.join(LEVELS)}")
    tiles = read_predictions(prediction_files(source)[0])
    slides, patients = numbers_of(tiles.slide), numbers_of(tiles.patient)
    found = assess(tiles.predictions, tiles.losses, slides, patients, tiles.classes, resamples=resamples)["metrics"]
    prefix = LEVELS[level]
    metrics = {name: found[prefix + name] for name in found if prefix + name in found}
    metrics |= {f"ci95/{name}": found[f"ci95/{prefix}{name}"] for name in metrics if f"ci95/{prefix}{name}" in found}
    metrics |= {name: found[name] for name in ("ci95/patients", "ci95/resamples", "ci95/note") if name in found}
    groups = {"tiles": None, "slides": slides, "patients": patients}[level]
    name = tiles.path.parent.name if tiles.path.name == "predictions.parquet" else tiles.path.stem
    amount = counted(len(tiles.slide) if groups is None else len(np.unique(groups)), level[:-1])
    return Drawn(tiles, groups, tiles.classes, metrics, level, f"{name}: {amount}")


def plot_roc(
    source: Path | str, out: Path | str, *, level: str = "tiles", dpi: int | None = None, resamples: int = RESAMPLES
) -> Path:
    """Draw the ROC curve of each class against the rest, with AUROC and its interval; see `read_drawn`.

    The circle on a curve is the threshold of the greatest sensitivity + specificity - 1.
    """
    drawn = read_drawn(source, level, resamples=resamples)

    def draw(axes: Axes) -> list[tuple[Any, str]]:
        axes.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls=":", zorder=1)
        entries = []
        for name, colour, dashes, scores, positive in _curves(drawn):
            false, true = _rates(scores, positive)
            (line,) = axes.plot(false, true, color=colour, ls=dashes, lw=1.6, zorder=3)
            best = int((true - false).argmax())
            axes.plot(false[best], true[best], "o", mfc="white", mec=colour, ms=5, mew=1.3, zorder=4)
            entries.append((line, f"{_wrapped(name)}\nAUROC {drawn.score('auroc/' + name)}"))
        axes.set(xlabel="1 − specificity", ylabel="sensitivity")
        return entries

    return _save_curves(drawn, draw, out, dpi, f"ROC, {_of_what(drawn)}")


def plot_pr(
    source: Path | str, out: Path | str, *, level: str = "tiles", dpi: int | None = None, resamples: int = RESAMPLES
) -> Path:
    """Draw precision over recall of each class, with average precision and its interval; see `read_drawn`."""
    drawn = read_drawn(source, level, resamples=resamples)

    def draw(axes: Axes) -> list[tuple[Any, str]]:
        entries = []
        for name, colour, dashes, scores, positive in _curves(drawn):
            recall, precision = _precision(scores, positive)
            (line,) = axes.step(recall, precision, where="pre", color=colour, ls=dashes, lw=1.6, zorder=3)
            share = positive.mean()
            # What chance gives, at the edge.
            axes.plot([1.0, 1.03], [share, share], color=colour, lw=2, clip_on=False, zorder=4)
            precision_text = f"AP {drawn.score(('average_precision/' if drawn.of_classes else 'ap/') + name)}"
            entries.append((line, f"{_wrapped(name)}\n{precision_text}, chance {share:.3f}"))
        axes.set(xlabel="recall (sensitivity)", ylabel="precision")
        return entries

    return _save_curves(drawn, draw, out, dpi, f"Precision and recall, {_of_what(drawn)}")


def plot_confusion(
    source: Path | str, out: Path | str, *, level: str = "tiles", dpi: int | None = None, resamples: int = RESAMPLES
) -> Path:
    """Draw how many units of each true class are predicted to be of each; of numbers, what is said over what is so.

    See `read_drawn`.
    """
    drawn = read_drawn(source, level, resamples=resamples)
    with own_style("".join([drawn.title, *drawn.classes])):
        figure = _scatter_figure(drawn) if drawn.tiles.task == "regression" else _confusion_figure(drawn)[0]
        save_figure(figure, Path(out), dpi=dpi)
    return Path(out)


def plot_reliability(
    source: Path | str,
    out: Path | str,
    *,
    level: str = "tiles",
    per_class: bool = False,
    dpi: int | None = None,
) -> Path:
    """Draw the frequency of a class over the predicted probability; see `read_drawn`.

    Parameters
    ----------
    per_class : bool, default False
        A panel for the probability of each class, in place of one for that of the predicted class; of several labels
        there is always one for each.
    """
    drawn = read_drawn(source, level, resamples=0)
    judged = drawn.judged
    colours = label_colours(drawn.classes)
    panels = [
        (name, judged.probabilities[:, number], judged.truth[:, number], colours[name])
        for number, name in enumerate(drawn.classes)
    ]
    if drawn.of_classes and not per_class:
        units = drawn.units
        predicted = units.probabilities[np.arange(len(units.labels)), units.predicted]
        panels = [("predicted class", predicted, units.predicted == units.labels, "#0072B2")]
    with own_style("".join([drawn.title, *drawn.classes])):
        figure = _reliability_figure(drawn, panels)
        save_figure(figure, Path(out), dpi=dpi)
    return Path(out)


def _curves(drawn: Drawn) -> list[tuple[str, str, Any, NDArray[np.float64], NDArray[np.bool_]]]:
    """Return name, colour, dashes, scores and truth of each class that has a curve."""
    colours = label_colours(drawn.classes)
    many = len(drawn.classes) > 4
    found = []
    judged = drawn.judged
    for number, name in enumerate(drawn.classes):
        positive = judged.truth[:, number]
        if 0 < positive.sum() < len(positive):
            dashes = _DASHES[number % len(_DASHES)] if many else "-"
            found.append((name, colours[name], dashes, judged.probabilities[:, number], positive))
    if not found and drawn.of_classes:
        raise ConfigError(f"all {drawn.level} are of one class: there is no curve of a class against the rest")
    if not found:
        raise ConfigError(f"all {drawn.level} have the same labels: there is no curve of any")
    return found


def _of_what(drawn: Drawn) -> str:
    """Return what each curve is of."""
    return "class against rest" if drawn.of_classes else "each label"


def _steps(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return true and false positives at each threshold, from the highest on."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
    hits = np.cumsum(positive[order])[ends]
    return hits, ends + 1 - hits


def _rates(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return false and true positive rates, from (0, 0) to (1, 1), without points that lie on a line."""
    hits, misses = (np.concatenate([[0], counts]) for counts in _steps(scores, positive))
    bends = np.ones(len(hits), bool)
    bends[1:-1] = (np.diff(hits, 2) != 0) | (np.diff(misses, 2) != 0)
    return misses[bends] / misses[-1], hits[bends] / hits[-1]


def _precision(
    scores: NDArray[np.float64], positive: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return recall and precision, from the lowest recall on, without thresholds that gain no recall."""
    hits, misses = _steps(scores, positive)
    won = np.diff(hits, prepend=0) > 0
    recall, precision = hits[won] / hits[-1], hits[won] / (hits + misses)[won]
    return np.concatenate([[0], recall]), np.concatenate([precision[:1], precision])


def _save_curves(drawn: Drawn, draw: Any, out: Path | str, dpi: int | None, title: str) -> Path:
    """Draw curves in a square with their legend beside it."""
    from matplotlib.figure import Figure

    with own_style("".join([drawn.title, *drawn.classes])):
        figure = Figure(figsize=(7.2, 4.6))
        axes = figure.add_axes((0.09, 0.12, 0.52, 0.52 * 7.2 / 4.6))
        entries = draw(axes)
        axes.set(xlim=(-0.015, 1.015), ylim=(-0.015, 1.015), aspect="equal")
        _tidy(axes)
        _title(axes, title, drawn.title)
        legend = axes.legend(
            handles=[line for line, _ in entries],
            labels=["-"] * len(entries),
            loc="upper left",
            bbox_to_anchor=(1.07, 1.0),
            borderaxespad=0,
            frameon=False,
            fontsize=8 if len(entries) > 6 else 9,
            labelspacing=0.5 if len(entries) > 6 else 0.9,
            handlelength=2.2,
        )
        _write_labels(legend, [text for _, text in entries])
        if drawn.note:
            axes.annotate(
                drawn.note, (0, 0), xytext=(0, -38), xycoords="axes fraction", textcoords="offset points", va="top",
                fontsize=7.5, color=GREY, annotation_clip=False,
            )  # fmt: skip
        save_figure(figure, Path(out), dpi=dpi)
    return Path(out)


def _confusion_figure(drawn: Drawn) -> tuple[Figure, Axes]:
    """Return a figure of the confusion matrix."""
    from matplotlib.figure import Figure

    n = len(drawn.classes)
    units = drawn.units
    confusion = confusion_of(units.labels, units.predicted, n)
    of_class = confusion.sum(axis=1, keepdims=True)
    share = np.divide(confusion, of_class, out=np.zeros((n, n)), where=of_class > 0)
    cell = 1.0 if n <= 3 else 0.78 if n <= 6 else 0.68
    side = n * cell
    figure = Figure(figsize=(side + 3, side + 2))
    axes = figure.add_axes((1.6 / (side + 3), 1.2 / (side + 2), side / (side + 3), side / (side + 2)))
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="none")
    size = 10 if n <= 3 else 8 if n <= 6 else 7
    for row in range(n):
        for column in range(n):
            colour = "white" if share[row, column] > 0.55 else "#222222"
            count = confusion[row, column]
            text = f"{100 * share[row, column]:.0f} %\n{count:,}" if count else "0"
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour, linespacing=1.25)
    names = [printable(_wrapped(name, 18), lines=True) for name in drawn.classes]
    # Names that are longer than their cell lie aslant.
    aslant = max(len(line) for name in names for line in name.split("\n")) * size * 0.6 > cell * 72
    axes.set_xticks(range(n))
    axes.set_yticks(range(n))
    axes.set_xticklabels(
        names, rotation=40 if aslant else 0, ha="right" if aslant else "center", rotation_mode="anchor"
    )
    amounts = [counted(int(k), drawn.level[:-1]) for k in of_class[:, 0]]
    axes.set_yticklabels([f"{name}\n{amount}" for name, amount in zip(names, amounts, strict=True)])
    for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        label.set_parse_math(False)
        label.set_fontsize(max(size - 0.5, 7))
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted class", labelpad=8)
    axes.set_ylabel("true class", labelpad=8)
    score = drawn.score("balanced_accuracy").replace("(", "(95 % interval ")
    _title(axes, f"balanced accuracy {score}", drawn.title, size=10)
    height = min(side, 2.4)
    corner = (1.6 + side + 0.2) / (side + 3), (1.2 + side - height) / (side + 2)
    bar = figure.add_axes((*corner, 0.14 / (side + 3), height / (side + 2)))
    scale = figure.colorbar(image, cax=bar, ticks=[0, 0.5, 1])
    scale.ax.set_yticklabels(["0", "50 %", "100 %"], fontsize=8)
    scale.set_label("of the true class", fontsize=8)
    scale.outline.set_visible(False)
    return figure, axes


def _scatter_figure(drawn: Drawn) -> Figure:
    """Return a figure of what is said of each number over what is so, with a panel for each."""
    from matplotlib.figure import Figure

    predictions = drawn.tiles.predictions
    truth, said = predictions.targets.astype(np.float64), predictions.given
    if drawn.groups is not None:
        truth, said = means_of(truth, drawn.groups), means_of(said, drawn.groups)
    columns = min(len(drawn.classes), 3)
    rows = math.ceil(len(drawn.classes) / columns)
    figure = Figure(figsize=(columns * 4.4, rows * 4.9))
    grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"hspace": 0.45, "wspace": 0.35})
    for number, axes in enumerate(grid.flat):
        if number >= len(drawn.classes):
            axes.set_axis_off()
            continue
        name = drawn.classes[number]
        both = np.stack([truth[:, number], said[:, number]])
        margin = 0.04 * (both.max() - both.min()) or 1.0
        ends = both.min() - margin, both.max() + margin
        axes.plot(ends, ends, color=GREY, lw=0.8, ls=":", zorder=1)
        # Points that lie on each other show by their darkness.
        alpha = min(0.8, max(0.05, 200 / both.shape[1]))
        axes.plot(*both, "o", color="#0072B2", ms=4, mew=0, alpha=alpha, zorder=3)
        axes.set(xlim=ends, ylim=ends, aspect="equal", xlabel="observed", ylabel="predicted")
        _tidy(axes)
        _title(axes, _wrapped(name, 34), drawn.title, size=10)
        text = [f"{title} {drawn.score(f'{kind}/{name}')}" for title, kind in (("MAE", "mae"), ("R²", "r2"))]
        axes.annotate(
            "\n".join(text), (0.03, 0.97), xycoords="axes fraction", va="top", fontsize=8, parse_math=False,
        )  # fmt: skip
    if drawn.note:
        figure.text(0.02, 0.01, drawn.note, fontsize=7.5, color=GREY)
    return figure


def _reliability_figure(
    drawn: Drawn, panels: Sequence[tuple[str, NDArray[np.float64], NDArray[np.bool_], str]]
) -> Figure:
    """Return a figure of reliability diagrams, each over a histogram of the probabilities."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    alone = len(panels) == 1
    whole = alone and drawn.of_classes
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    wide, high = (4.6, 5.2) if alone else (3.0, 3.7)
    figure = Figure(figsize=(columns * wide, rows * high))
    grid = figure.add_gridspec(rows, columns, hspace=0.42, wspace=0.36)
    for index, (name, said, right, colour) in enumerate(panels):
        inner = grid[index // columns, index % columns].subgridspec(2, 1, height_ratios=(3.2, 1), hspace=0.1)
        upper, lower = figure.add_subplot(inner[0]), figure.add_subplot(inner[1])
        table = [row for row in reliability(said, right) if row["number"]]
        x, y = (np.array([row[key] for row in table]) for key in ("confidence", "accuracy"))
        number = np.array([row["number"] for row in table])
        upper.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls=":", zorder=1)
        upper.vlines(x, x, y, color=colour, lw=2.5, alpha=0.35, zorder=2)
        upper.plot(x, y, color=colour, lw=1.2, marker="o", ms=4.5, mec="white", mew=0.6, zorder=3)
        upper.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        upper.set_xticklabels([])
        error = float(np.abs(number * (x - y)).sum() / number.sum())
        heading = f"Reliability of {'the ' if drawn.of_classes else ''}{name}" if alone else _wrapped(name, 30)
        _title(upper, heading, drawn.title if alone else "", size=11 if alone else 9)
        upper.annotate(
            f"ECE {error:.3f}" + (f"\nBrier {drawn.metrics['brier']:.3f}" if whole else ""), (0.04, 0.96),
            xycoords="axes fraction", va="top", fontsize=8,
        )  # fmt: skip
        edges = np.arange(BINS + 1) / BINS
        starts = [round(row["from"] * BINS) for row in table]
        lower.bar([edges[i] for i in starts], number, width=1 / BINS, align="edge", color=colour, ec="white", lw=0.5)
        lower.set(xlim=(-0.02, 1.02))
        lower.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
        lower.set_xlabel("probability")
        for axes in (upper, lower):
            _tidy(axes)
            axes.tick_params(labelsize=8)
        if index % columns == 0:
            upper.set_ylabel("how often it is so")
            lower.set_ylabel(drawn.level)
            figure.align_ylabels([upper, lower])
    if len(panels) > 1:
        title = f"Reliability of each {'class' if drawn.of_classes else 'label'}'s probability\n{drawn.title}"
        figure.suptitle(title, y=0.88 + 0.62 / (rows * high), va="bottom", fontsize=11, parse_math=False)
    return figure


def _tidy(axes: Axes) -> None:
    """Remove lines that show no data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=_LIGHT, lw=0.6)
    axes.set_axisbelow(True)


def _title(axes: Axes, title: str, below: str, *, size: float = 11) -> None:
    """Write a title at the left, and under it, smaller, which predictions they are."""
    style: dict[str, Any] = {
        "xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom", "annotation_clip": False,
        "parse_math": False,
    }  # fmt: skip
    axes.annotate(title, (0, 1), xytext=(0, 19 if below else 5), fontsize=size, fontweight="bold", **style)
    if below:
        axes.annotate(below, (0, 1), xytext=(0, 6), fontsize=8, color=GREY, **style)


def _write_labels(legend: Any, texts: Sequence[str]) -> None:
    """Write a legend's labels afterwards: a name may begin with an underscore, or look like mathematics."""
    for text, words in zip(legend.get_texts(), texts, strict=True):
        text.set_parse_math(False)
        text.set_text(words)


def _wrapped(name: str, most: int = _NAME_CHARACTERS) -> str:
    """Return a name in lines that are not too long."""
    return "\n".join(textwrap.wrap(name, most)) or name
