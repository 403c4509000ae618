"""What an evaluation says, as people read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from slideduck.runner.plots.scores import plot_confusion, plot_pr, plot_reliability, plot_roc
from slideduck.show import Picture, html_table, value_text

__all__ = ["PLOTS", "Evaluation"]

#: Pictures of predictions, by name.
PLOTS: dict[str, Callable[..., Path]] = {
    "roc": plot_roc, "pr": plot_pr, "confusion": plot_confusion, "reliability": plot_reliability,
}  # fmt: skip

#: The metrics that are shown, as far as they are there; all others are in the dict.
_FIRST = (
    "tiles", "balanced_accuracy", "macro_f1", "macro_auroc", "loss", "slide/balanced_accuracy",
    "patient/balanced_accuracy",
)  # fmt: skip


class Evaluation(dict[str, Any]):
    """The dict that `slideduck.runner.evaluate` returns: ``metrics``, ``thresholds``, ``predictions`` and more."""

    def _shown(self) -> Iterator[tuple[str, object]]:
        yield "run", self["run"]
        yield "epoch", self["epoch"]
        yield "beton", self["beton"]
        for name in ("split", "where"):
            if self[name]:
                yield name, self[name]
        metrics = self["metrics"]
        firsts = [name for name in _FIRST if name in metrics]
        for name in firsts or [name for name in metrics if "/" not in name]:
            if isinstance(metrics[name], (int, float)):
                interval = metrics.get(f"ci95/{name}")
                text = value_text(metrics[name])
                yield name, text if not interval else f"{text} ({interval[0]:.4g} to {interval[1]:.4g})"

    def __repr__(self) -> str:
        return "\n  ".join(["Evaluation:", *(f"{name} {value_text(value)}" for name, value in self._shown())])

    def _repr_html_(self) -> str:
        return html_table("Evaluation", self._shown())

    def plot(self, kind: str = "confusion", out: str | Path | None = None, **options: Any) -> Picture:
        """Draw the predictions: ``confusion``, ``roc``, ``pr`` or ``reliability``; default beside their Parquet."""
        source = Path(self["predictions"])
        return draw(kind, source, out or source.with_name(f"{source.stem}-{kind}.png"), **options)


def draw(kind: str, source: Path, out: str | Path, **options: Any) -> Picture:
    """Draw predictions of a run's folder or a Parquet; see `PLOTS`."""
    return Picture(PLOTS[kind](source, out, **options))
