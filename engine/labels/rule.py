"""The rule that turns pairs of tiles and ROIs into labels: its settings, the one in force, and the next one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import duckdb

from slideduck.catalog.label_sets import ROIS
from slideduck.errors import StudyError
from slideduck.labels.known import require_known, roi_labels
from slideduck.store.db import atomic
from slideduck.store.handle import Handle

__all__ = ["LabelRule", "next_rule", "rule_in_force", "set_rule"]


@dataclass(frozen=True)
class LabelRule:
    """How a tile gets its label.

    Parameters
    ----------
    rule : {"centre", "coverage"}
        A tile is in an ROI if its centre is, boundary included; or if the ROI covers enough of it.
    threshold : float
        Least part of the tile's area, above 0 and at most 1, under ``coverage``.
    overlap : {"smallest", "priority", "largest", "exclude"}
        Which of several ROIs wins: the smallest, the first label of ``priority``, the one that covers most of
        the tile; ``exclude`` gives no label where labels differ.
    priority : tuple of str
        Labels, first wins.
    method : {"auto", "inside", "outside", "ignore"}
        Which tiles are kept: inside where the slide has ROIs and else all; in an ROI; in none; all.
    artifact_labels : tuple of str
        Labels of ROIs whose tiles are removed, whichever method.
    roi_sets : tuple of str
        Sets of ROIs; of those that a slide has the first is used.
    labels_from : tuple of str
        Where labels come from: ``rois``, and names of sets that `slideduck.labels.tables.add_labels` added. The first
        that labels a tile does. The method goes by ROIs, whichever sources label; a tile that a set labels is kept
        whatever the method, and artifacts remove it nonetheless.

    Raises
    ------
    StudyError
        If a value is impossible, by name.
    """

    rule: str = "centre"
    threshold: float = 0.5
    overlap: str = "smallest"
    priority: tuple[str, ...] = ()
    method: str = "auto"
    artifact_labels: tuple[str, ...] = ()
    roi_sets: tuple[str, ...] = field(default=("default",))
    labels_from: tuple[str, ...] = field(default=(ROIS,))

    def __post_init__(self) -> None:
        for name, allowed in (
            ("rule", ("centre", "coverage")),
            ("overlap", ("smallest", "priority", "largest", "exclude")),
            ("method", ("auto", "inside", "outside", "ignore")),
        ):
            if getattr(self, name) not in allowed:
                raise StudyError(f"{name} is {getattr(self, name)!r}; give one of {', '.join(allowed)}")
        if not (math.isfinite(self.threshold) and 0 < self.threshold <= 1):
            raise StudyError(f"threshold is {self.threshold:g}; give a part of the tile above 0 and at most 1")
        if self.overlap == "priority" and not self.priority:
            raise StudyError("`overlap='priority'` needs labels; name them in order with `priority`, the first wins")
        if self.overlap != "priority" and self.priority:
            raise StudyError(
                f"`priority` names labels, and the overlap is {self.overlap!r}; give `overlap='priority'` too"
            )
        twice = sorted({name for name in self.priority if self.priority.count(name) > 1})
        if twice:
            raise StudyError(f"priority names {', '.join(map(repr, twice))} more than once; name each label once")
        if not self.roi_sets:
            raise StudyError("no set of ROIs is given; the default set is called 'default'")
        if not self.labels_from:
            raise StudyError("no source of labels is given; give `labels_from='rois'`, or names of sets of labels")

    def text(self) -> str:
        """Return the rule as text that is equal for equal rules alone."""
        return json.dumps(self.values(), sort_keys=True)

    def values(self) -> dict[str, Any]:
        """Return the settings by name; ROIs as the only source of labels, the usual one, are not among them."""
        return {name: value for name, value in asdict(self).items() if name != "labels_from" or value != (ROIS,)}

    @classmethod
    def of_values(cls, values: Mapping[str, Any]) -> LabelRule:
        """Return the rule of settings by name, whose lists may be of any kind; others are left out."""
        names = {item.name for item in fields(cls)}
        chosen: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if name in names
        }
        return cls(**chosen)

    def settings(self) -> dict[str, str]:
        """Return what the rule is set to, as people read it, by what each setting is called."""
        return {
            "rule": self.rule if self.rule == "centre" else f"coverage >= {self.threshold:.10g}",
            "overlap": self.overlap if not self.priority else f"priority ({', '.join(self.priority)})",
            "method": self.method,
            "artifact labels": ", ".join(self.artifact_labels) or "none",
            "set": ", ".join(self.roi_sets),
            "labels from": ", ".join(self.labels_from),
        }

    def changes(self, before: LabelRule) -> tuple[str, ...]:
        """Return what is set otherwise than before, such as ``rule: coverage >= 0.9 -> centre``."""
        old, new = before.settings(), self.settings()
        return tuple(f"{name}: {old[name]} -> {new[name]}" for name in new if old[name] != new[name])

    def still(self, before: LabelRule) -> tuple[str, ...]:
        """Return what is set as before and otherwise than by default, such as ``rule: coverage >= 0.9``."""
        old, new, usual = before.settings(), self.settings(), LabelRule().settings()
        return tuple(f"{name}: {new[name]}" for name in new if old[name] == new[name] != usual[name])


def rule_in_force(con: duckdb.DuckDBPyConnection) -> LabelRule | None:
    """Return the rule that the view ``labels`` follows; None before the first labelling."""
    for row in con.execute("SELECT * FROM label_rule").to_arrow_table().to_pylist():
        return LabelRule.of_values(row)
    return None


def next_rule(handle: Handle, given: Mapping[str, Any], *, reset: bool = False) -> LabelRule:
    """Return the rule in force with some settings changed.

    Parameters
    ----------
    handle : Handle
        The study.
    given : mapping
        Parameters of `LabelRule` by name; those that are None stay as they are in the study, or take their default
        before the first labelling. A text stands for a list of it alone, and an empty list for none.
    reset : bool
        Take the defaults for those that are not given.

    Returns
    -------
    LabelRule
        The list of ``priority`` belongs to its policy: where ``overlap`` becomes another, it goes too. The threshold
        stays while the rule is ``centre``, and holds again under ``coverage``.

    Raises
    ------
    StudyError
        If a setting is impossible, would have no effect under the others, or names a label that no ROI has.
    """
    named = {name: _as_tuple(name, value) for name, value in given.items() if value is not None}
    base = LabelRule() if reset else rule_in_force(handle.con) or LabelRule()
    values = {**vars(base), **named}
    if values["overlap"] != "priority" and "priority" not in named:
        values["priority"] = ()
    rule = LabelRule(**values)
    if "threshold" in named and "rule" not in named and rule.rule != "coverage":
        raise StudyError(
            f"`threshold` is {rule.threshold:g}, and the rule {rule.rule!r} does not heed it; "
            "give `rule='coverage'` too"
        )
    for name in ("priority", "artifact_labels"):
        require_known(named.get(name, ()), f"`{name}`", list(roi_labels(handle.con)))
    return rule


def set_rule(con: duckdb.DuckDBPyConnection, rule: LabelRule) -> None:
    """Store the rule in force, unless it is stored already."""
    if rule_in_force(con) == rule:
        return
    columns = asdict(rule)
    row = [list(value) if isinstance(value, tuple) else value for value in columns.values()]
    with atomic(con):
        con.execute("DELETE FROM label_rule")
        con.execute(f"INSERT INTO label_rule ({', '.join(columns)}) VALUES ({', '.join('?' * len(row))})", row)


def _as_tuple(name: str, value: Any) -> Any:
    """Return a setting as the rule has it."""
    if name not in ("priority", "artifact_labels", "roi_sets", "labels_from"):
        return value
    return (value,) if isinstance(value, str) else tuple(dict.fromkeys(value)) if name != "priority" else tuple(value)
