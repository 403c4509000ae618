"""Chooses the best epoch, and when to stop early; both by metrics of the history."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slideduck.errors import ConfigError
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.training.schedule import plateau_factor

__all__ = ["Criteria", "Metric", "plateau_of", "resolve_criteria"]

#: Words in the names of metrics of which less is better.
_LESS_IS_BETTER = ("loss", "error", "brier", "ece", "mae", "mse", "rmse", "nll")
#: What ``auto`` takes for the best epoch: the first of these that there is.
_BEST_BY_DEFAULT = ("val/balanced_accuracy", "val/loss")

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Metric:
    """A metric that epochs are compared by.

    Attributes
    ----------
    name : str
        As in metrics.jsonl.
    mode : str
        ``"min"`` or ``"max"``: which values are better.
    """

    name: str
    mode: str

    def value(self, line: Line) -> float:
        """Return the metric of an epoch; where it is not defined, the worst value."""
        value = line.get(self.name)
        if isinstance(value, (int, float)) and math.isfinite(value):
            return float(value)
        return math.inf if self.mode == "min" else -math.inf

    def gain(self, value: float, before: float) -> float:
        """Return by how much a value is better than one before it."""
        if value == before:
            return 0.0
        return before - value if self.mode == "min" else value - before

    @property
    def title(self) -> str:
        """The name as a sentence has it, such as ``"balanced accuracy"``."""
        return self.name.removeprefix("val/").replace("_", " ")


@dataclass(frozen=True)
class Criteria:
    """The metrics that decide a run's best epoch and its end.

    Attributes
    ----------
    best : Metric
        Chooses ``best.pt``; of equal epochs the one of the lower validation loss, then the first.
    stop : Metric
        What early stopping and a plateau's learning rate look at.
    patience : int
        Epochs without a better `stop` before the run stops; 0 never stops.
    min_delta : float
        By how much an epoch must be better to count as better.
    """

    best: Metric
    stop: Metric
    patience: int
    min_delta: float

    def is_better(self, line: Line, best: Mapping[str, Any]) -> bool:
        """Return True if an epoch is better than the best so far, which may be none."""
        if not best:
            return True
        gain = self.best.gain(self.best.value(line), self.best.value({self.best.name: best["value"]}))
        return gain > 0 or (gain == 0 and line["val/loss"] < best["loss"])

    def as_best(self, line: Line) -> dict[str, Any]:
        """Return the record of the best epoch."""
        return {
            "epoch": line["epoch"],
            "metric": self.best.name,
            "value": line.get(self.best.name),
            "loss": line["val/loss"],
        }

    def stopped_after(self, history: Sequence[Line]) -> tuple[int, int] | None:
        """Return after which epoch the run stops early and the epoch that was not bettered, or None."""
        if self.patience == 0:
            return None
        best, best_epoch = math.nan, 0
        for line in history:
            value = self.stop.value(line)
            if math.isnan(best) or self.stop.gain(value, best) > self.min_delta:
                best, best_epoch = value, line["epoch"]
            elif line["epoch"] - best_epoch >= self.patience:
                return line["epoch"], best_epoch
        return None


def resolve_criteria(config: TrainConfig, known: Mapping[str, Any]) -> Criteria:
    """Return the criteria that the settings name.

    Parameters
    ----------
    config : TrainConfig
        The settings.
    known : mapping
        The metrics that an epoch of this run will have, with values as of any predictions: None where a
        metric is not defined for these validation tiles.

    Raises
    ------
    ConfigError
        For a metric that there is none of, with the names that there are.
    """
    names = [name for name, value in known.items() if isinstance(value, (int, float)) and not isinstance(value, bool)]
    undefined = [name for name, value in known.items() if value is None]
    return Criteria(
        best=_metric("best_metric", config.best_metric, config.best_direction, names, undefined),
        stop=_metric("stop_metric", config.stop_metric, config.stop_direction, names, undefined),
        patience=config.stop_patience,
        min_delta=config.stop_min_delta,
    )


def _metric(setting: str, name: str, direction: str, names: list[str], undefined: list[str]) -> Metric:
    """Return the metric of a setting, by its name with or without ``val/``."""
    if name == "auto":
        name = next(default for default in _BEST_BY_DEFAULT if default in names)
    for candidate in (name, f"val/{name}"):
        if candidate in names:
            return Metric(candidate, _mode(candidate) if direction == "auto" else direction)
        if candidate in undefined:
            raise ConfigError(
                f"{setting} is {name!r}, which is not defined for these validation tiles "
                f"(they lack a class); the metrics are {', '.join(names)}"
            )
    raise ConfigError(f"{setting} is {name!r}, and there is no such metric; the metrics are {', '.join(names)}")


def _mode(name: str) -> str:
    """Return which values of a metric are better, by the words of its name; names of classes do not count."""
    words = name.partition("auroc/")[0].partition("average_precision/")[0].lower().replace("/", "_").split("_")
    return "min" if any(word in _LESS_IS_BETTER for word in words) else "max"


def plateau_of(config: TrainConfig, metric: Metric, history: Sequence[Line]) -> float:
    """Return the factor of the learning rate on a plateau of a metric, after the epochs so far."""
    if config.schedule != "plateau":
        return 1.0
    return plateau_factor(
        [metric.value(line) for line in history],
        mode=metric.mode,
        patience=config.plateau_patience,
        factor=config.plateau_factor,
        min_delta=config.stop_min_delta,
    )
