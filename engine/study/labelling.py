"""What labels the tiles of a study, and parts its patients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slideduck.labels.label import LabelReport, label
from slideduck.labels.rename import LabelRenamed, rename_label
from slideduck.labels.rule import next_rule
from slideduck.labels.split import split
from slideduck.labels.split_report import SplitReport
from slideduck.labels.tables import LabelsAdded, LabelsRemoved, add_labels, remove_labels
from slideduck.labels.verify import VerifyReport, verify
from slideduck.labels.view import require_labels
from slideduck.study.base import OpenStudy

__all__ = ["Labelling"]


class Labelling(OpenStudy):
    """The methods that label tiles and split patients."""

    def label(
        self,
        *,
        rule: str | None = None,
        threshold: float | None = None,
        overlap: str | None = None,
        priority: str | Sequence[str] | None = None,
        method: str | None = None,
        artifact_labels: str | Sequence[str] | None = None,
        roi_sets: str | Sequence[str] | None = None,
        labels_from: str | Sequence[str] | None = None,
        reset: bool = False,
        memory: str | int | None = None,
        anew: bool = False,
    ) -> LabelReport:
        """Bring the view ``labels`` up to date, under a rule that stays in force.

        The first eight are the parameters of `slideduck.labels.rule.LabelRule`: those that are left out stay as they
        are in the study, and the first labelling, or ``reset``, takes their defaults; an empty ``artifact_labels`` is
        none. See `slideduck.labels.rule.next_rule`. What is done, ``memory``, ``anew`` and the errors are those of
        `slideduck.labels.label.label`.
        """
        given = {
            "rule": rule,
            "threshold": threshold,
            "overlap": overlap,
            "priority": priority,
            "method": method,
            "artifact_labels": artifact_labels,
            "roi_sets": roi_sets,
            "labels_from": labels_from,
        }
        chosen = next_rule(self.handle, given, reset=reset)
        return label(self.handle, chosen, memory=memory, anew=anew, compare=True)

    def add_labels(
        self,
        given: Any,
        name: str = "consensus",
        *,
        grid: str | None = None,
        coordinates: str | None = None,
        classes: Sequence[str] | None = None,
        replace: bool = False,
        memory: str | int | None = None,
    ) -> LabelsAdded:
        """Add labels, numbers or soft labels of tiles from a table; see `slideduck.labels.tables.add_labels`.

        `label` takes them where ``labels_from`` names them.
        """
        return add_labels(
            self.handle, given, name=name, grid=grid, coordinates=coordinates, classes=classes, replace=replace,
            memory=memory,
        )  # fmt: skip

    def remove_labels(self, name: str, *, grid: str | None = None, dry_run: bool = False) -> LabelsRemoved:
        """Take a set of labels of tiles out of the study; see `slideduck.labels.tables.remove_labels`."""
        return remove_labels(self.handle, name, grid=grid, dry_run=dry_run)

    def rename_label(self, old: str, new: str | None, *, dry_run: bool = False) -> LabelRenamed:
        """Rename a label in all of the study, or merge two; see `slideduck.labels.rename.rename_label`."""
        return rename_label(self.handle, old, new, dry_run=dry_run)

    def verify(self, tiles: int | None = 10_000, *, seed: int = 0) -> VerifyReport:
        """Compare labels with a plain spatial join, as ``slideduck verify`` does; see `slideduck.labels.verify.verify`.

        Raises
        ------
        StudyError
            If labels are missing or out of date.
        """
        require_labels(self.handle)
        return verify(self.handle, tiles, seed=seed)

    def split(
        self,
        *,
        val_fraction: float | None = None,
        seed: int | None = None,
        folds: int | None = None,
        val_fold: int | None = None,
        preserve_site: bool = False,
        column: str | None = None,
    ) -> SplitReport:
        """Split the patients into sides, replacing any earlier split; see `slideduck.labels.split.split`."""
        return split(
            self.handle,
            val_fraction=val_fraction,
            seed=seed,
            folds=folds,
            val_fold=val_fold,
            preserve_site=preserve_site,
            column=column,
        )
