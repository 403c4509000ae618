"""How the split in force was made, for people and as the options that make it again."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from slideduck.store.handle import Handle

__all__ = ["SplitRule", "read_split_rule"]


@dataclass(frozen=True)
class SplitRule:
    """How a split is made.

    Attributes
    ----------
    kind : {"fraction", "folds", "site_folds", "column"}
        What decides the sides.
    seed : int
        Another seed gives another split; of no kind but ``column``, which has none.
    val_fraction : float, optional
        Part that validates, for ``fraction``.
    folds, val_fold : int, optional
        Number of folds, and the one that validates, for the kinds with folds, and for a column that has folds.
    column : str, optional
        Column of the patients' table, for ``column``.
    """

    kind: str
    seed: int = 0
    val_fraction: float | None = None
    folds: int | None = None
    val_fold: int | None = None
    column: str | None = None

    @property
    def text(self) -> str:
        """The rule for people, such as ``5 folds, seed 3, fold 0 validates``."""
        if self.kind == "column":
            of_folds = "" if self.val_fold is None else f", {self.folds} folds, fold {self.val_fold} validates"
            return f"by column {self.column!r}{of_folds}"
        if self.kind == "fraction":
            return f"fraction {self.val_fraction:g}, seed {self.seed}"
        sites = " that preserve sites" if self.kind == "site_folds" else ""
        return f"{self.folds} folds{sites}, seed {self.seed}, fold {self.val_fold} validates"

    @property
    def options(self) -> str:
        """The options of ``slideduck split`` that make it."""
        if self.kind == "column":
            of_folds = "" if self.val_fold is None else f" --val-fold {self.val_fold}"
            return f"--column {shlex.quote(self.column or '')}{of_folds}"
        if self.kind == "fraction":
            return f"--val-fraction {self.val_fraction:g} --seed {self.seed}"
        sites = " --preserve-site" if self.kind == "site_folds" else ""
        return f"--folds {self.folds} --val-fold {self.val_fold} --seed {self.seed}{sites}"


def read_split_rule(handle: Handle) -> SplitRule | None:
    """Return how the split in force was made, or None without one."""
    row = handle.con.execute(
        "SELECT kind, seed, val_fraction, n_folds, val_fold, column_name FROM split_rule"
    ).fetchone()
    return None if row is None else SplitRule(*row)
