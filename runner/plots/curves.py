"""A picture of a run's curves, from its metrics."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slideduck.catalog.evaluations import read_prediction_file
from slideduck.draw.figure import keep_texts, own_style, save_figure
from slideduck.palette import label_colours
from slideduck.runner.runs.checkpoint import write_whole
from slideduck.runner.runs.history import read_config, read_history

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_curves", "plot_curves"]

_TRAIN, _VAL, _GREY = "#7F7F7F", "#0072B2", "#4D4D4D"


def plot_curves(run: Path | str, out: Path | str, *, dpi: int | None = None) -> Path:
    """Draw the curves of a run, finished or not, as PNG, PDF or SVG.

    Parameters
    ----------
    run : path
        The run's folder.
    out : path
        The picture; its suffix says in which form.
    dpi : int, optional
        Dots per inch of a PNG; default 200.

    Raises
    ------
    RunError
        If the folder has no epoch of a run.
    """
    folder = Path(run).absolute()
    settings, history = read_config(folder), read_history(folder)
    classes, beton = settings["classes"], Path(settings["beton"]["path"]).name
    model = settings["settings"]["model"]
    epoch = read_prediction_file(folder / "predictions.parquet").facts.get("epoch", "")
    best_epoch = epoch if epoch.isdecimal() else "0"
    title = f"{folder.name}: {model} on {beton}"
    with own_style("".join([title, *classes])):
        save_figure(_figure(history, classes, int(best_epoch), title), Path(out), dpi=dpi)
    return Path(out)


def _task_figure(history: Sequence[Mapping[str, Any]], best_epoch: int, title: str) -> Figure:
    """Return loss, the means of the metrics, and learning rate, of a run that learns labels or numbers."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [line["epoch"] for line in history]
    means = [name for name in history[-1] if name.startswith("val/mean_")]
    in_units = [name for name in means if name.endswith(("mae", "rmse"))]
    shares = [name for name in means if name not in in_units]
    shown = {"loss": ["train/loss", "val/loss"], "of 1": shares, "in units of the target": in_units, "rate": ["lr"]}
    shown = {label: names for label, names in shown.items() if names}
    figure = Figure(figsize=(11, 7), dpi=120, layout="constrained")
    figure.suptitle(title, fontsize=12, fontweight="bold", x=0.01, ha="left")
    panels = list(figure.subplots(2, 2, sharex=True).flat)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    for panel, (label, names) in zip(panels, shown.items(), strict=False):
        for number, name in enumerate(names):
            levels = ("", "slide/") if name.startswith("val/mean_") else ("",)
            for level, style in zip(levels, ("-", "--"), strict=False):
                of_level = name.replace("val/", f"val/{level}")
                values = [line.get(of_level) for line in history]
                numbers = [float("nan") if value is None else value for value in values]
                text = of_level.removeprefix("val/").replace("mean_", "") if levels[-1] else of_level
                colour = (_VAL, "#D55E00", "#009E73", "#CC79A7")[number]
                panel.plot(epochs, numbers, label=text, color=colour, ls=style, lw=1.6, marker="o", markersize=3)
        panel.set_ylabel(label)
        panel.axvline(best_epoch, color=_GREY, lw=0.8, ls="--", zorder=0)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_xlabel(f"epoch (dashed: best, {best_epoch})")
        panel.legend(frameon=False, fontsize=8)
    return figure


def draw_curves(
    history: Sequence[Mapping[str, Any]], classes: Sequence[str], best_epoch: int, out: Path, title: str
) -> None:
    """Draw loss, accuracy, AUROC and learning rate over epochs.

    Parameters
    ----------
    history : sequence of mapping
        The metrics of each epoch, as in metrics.jsonl; at least one.
    classes : sequence of str
        Names of the classes.
    best_epoch : int
        Marked in each panel.
    out : Path
        The PNG to write.
    title : str
        Above the panels.
    """
    with own_style("".join([title, *classes]), once=True):
        figure = _figure(history, classes, best_epoch, title)
        keep_texts(figure)
        write_whole(out, lambda file: figure.savefig(file, format="png"))


def _figure(history: Sequence[Mapping[str, Any]], classes: Sequence[str], best_epoch: int, title: str) -> Figure:
    """Return the four panels."""
    if "val/confusion" not in history[-1]:
        return _task_figure(history, best_epoch, title)
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [line["epoch"] for line in history]
    marker = "o" if len(epochs) <= 30 else None
    figure = Figure(figsize=(11, 7), dpi=120, layout="constrained")
    figure.suptitle(title, fontsize=12, fontweight="bold", x=0.01, ha="left")
    panels = figure.subplots(2, 2, sharex=True)
    loss, accuracy, auroc, rate = panels.flat

    def line(panel: Any, name: str, label: str, colour: str, **style: Any) -> None:
        values = [entry.get(name) for entry in history]
        # A metric that is not defined in an epoch leaves a gap.
        numbers = [float("nan") if value is None else value for value in values]
        panel.plot(epochs, numbers, label=label, color=colour, marker=marker, markersize=3.5, lw=1.6, **style)

    line(loss, "train/loss", "training (weighted, augmented)", _TRAIN)
    line(loss, "val/loss", "validation", _VAL)
    loss.set_ylabel("cross-entropy, nats")
    loss.set_ylim(bottom=0)
    line(accuracy, "val/balanced_accuracy", "balanced accuracy, tiles", _VAL)
    line(accuracy, "val/accuracy", "accuracy, tiles", "#56B4E9")
    line(accuracy, "val/slide/balanced_accuracy", "balanced accuracy, slides", "#D55E00", ls="--")
    # Balanced accuracy is the mean over the classes that the validation tiles have.
    present = [name for name, row in zip(classes, history[-1]["val/confusion"], strict=True) if sum(row)]
    accuracy.axhline(1 / len(present), color=_GREY, lw=0.8, ls=":", label="chance, balanced")
    accuracy.set_ylabel("validation accuracy")
    accuracy.set_ylim(0, 1.02)
    for name, colour in label_colours(classes).items():
        if name in present:
            line(auroc, f"val/auroc/{name}", name, colour)
    auroc.axhline(0.5, color=_GREY, lw=0.8, ls=":", label="chance")
    auroc.set_ylabel("AUROC, class against rest, tiles")
    auroc.set_ylim(top=1.02)
    line(rate, "lr", "learning rate", _VAL)
    rate.set_ylabel("learning rate, end of epoch")
    rate.set_ylim(bottom=0)
    for panel in panels.flat:
        panel.axvline(best_epoch, color=_GREY, lw=0.8, ls="--", zorder=0)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="#E6E6E6", lw=0.6)
        panel.set_axisbelow(True)
        if panel is not auroc:
            panel.legend(frameon=False, fontsize=8)
    _draw_classes(figure, auroc, [name for name in label_colours(classes) if name in present])
    for panel in panels[1]:
        panel.set_xlabel(f"epoch (dashed: best, {best_epoch})")
    return figure


def _draw_classes(figure: Figure, auroc: Any, classes: Sequence[str]) -> None:
    """Draw the legend of the classes: in the panel, or beside all panels if it would hide lines."""
    lines = auroc.lines[: len(classes) + 1]
    names = ["\n".join(textwrap.wrap(name, 24)) or name for name in (*classes, "chance")]
    beside = len(classes) > 4 or max(map(len, classes)) > 24
    where: dict[str, Any] = {"loc": "outside right lower", "title": "AUROC", "alignment": "left"}
    drawn = figure if beside else auroc
    legend = drawn.legend(lines, ["-"] * len(lines), frameon=False, fontsize=8, **(where if beside else {}))
    # Written afterwards: a name may begin with an underscore, or look like mathematics.
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)
