"""Sentences that stand under a table of metrics: what it does not say, and what it takes for granted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slideduck.words import counted, listed

__all__ = ["absent_of", "notes_of"]

#: By level: the prefix of its metrics, and what one of its units is called.
_UNITS = {"": "tile", "slide/": "slide", "patient/": "patient"}


def absent_of(metrics: Mapping[str, Any], level: str = "") -> list[str]:
    """Return the classes, or labels, of which a table of metrics has no unit.

    Parameters
    ----------
    metrics : mapping
        As from `slideduck.runner.scores.assess.assess`; of classes they have a ``confusion``. Of several labels,
        those are returned that all or none of the units have.
    level : str
        ``""`` for tiles, ``"slide/"`` or ``"patient/"``.
    """
    names = [name.removeprefix(f"{level}auroc/") for name in metrics if name.startswith(f"{level}auroc/")]
    confusion = metrics.get(f"{level}confusion")
    if confusion is None:
        return [name for name in names if not isinstance(metrics[f"{level}auroc/{name}"], float)]
    return [name for name, row in zip(names, confusion, strict=True) if sum(row) == 0]


def notes_of(metrics: Mapping[str, Any]) -> list[str]:
    """Return the sentences that stand under a table of metrics; none where nothing is to be said.

    Parameters
    ----------
    metrics : mapping
        As from `slideduck.runner.scores.assess.assess`, as JSON takes them.
    """
    return [*_absent(metrics), *_ties(metrics)]


def _absent(metrics: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each level that lacks classes; larger units are left out where tiles lack the same."""
    sentences = []
    of_tiles = absent_of(metrics)
    for level, unit in _UNITS.items():
        names = absent_of(metrics, level)
        if not names or (level and names == of_tiles):
            continue
        if "confusion" in metrics:
            sentences.append(
                f"no {unit} here is of class {listed(names)}: its own metrics are not defined, and means over classes "
                "leave it out"
                if len(names) == 1
                else f"no {unit} here is of the classes {listed(names)}: their own metrics are not defined, and means "
                "over classes leave them out"
            )
        else:
            label = "label" if len(names) == 1 else "labels"
            sentences.append(
                f"all or none of the {unit}s here have the {label} {listed(names)}: metrics of "
                f"{'it' if len(names) == 1 else 'them'} are not defined, and means over labels leave "
                f"{'it' if len(names) == 1 else 'them'} out"
            )
    return sentences


def _ties(metrics: Mapping[str, Any]) -> list[str]:
    """Return how slides, and patients, come by their class where their tiles are of several."""
    sentences = []
    for level, unit in list(_UNITS.items())[1:]:
        mixed, ties, number = (metrics.get(level + name) for name in ("mixed", "ties", f"{unit}s"))
        if not mixed or number is None:
            continue
        have = "has" if mixed == 1 else "have"
        if "confusion" in metrics:
            rule = f"a {unit} is of the class that most of its labelled tiles are of"
            tied = f"; in {ties:,} of them no class has the most alone, and the first in order counts" if ties else ""
            sentences.append(f"{rule}: {mixed:,} of {counted(number, unit)} {have} tiles of several classes{tied}")
        else:
            rule = f"a {unit} has a label if half of its labelled tiles or more have it"
            tied = f"; in {ties:,} of them exactly half have one" if ties else ""
            sentences.append(f"{rule}: in {mixed:,} of {counted(number, unit)} tiles differ{tied}")
    return sentences
