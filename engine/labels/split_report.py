"""What is to be known of a split: what its sides lack, which slides stand for themselves, and who may be on two."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from slideduck.catalog.patients_table import likely_meant
from slideduck.catalog.split_rule import SplitRule
from slideduck.names import folded, spelt_alike
from slideduck.show import Shown
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_query

__all__ = ["SplitReport", "report_split"]


@dataclass(frozen=True)
class SplitReport(Shown):
    """What `split` did.

    Attributes
    ----------
    counts : pyarrow.Table
        Tiles, slides and patients by grid, split, fold and label, as ``sql/queries/count_split.sql`` has it.
    rule : SplitRule
        How the split is made.
    before : SplitRule or None
        How the one was made that was in force.
    changed : int
        Patients who had another side or fold in that one.
    alone : tuple of str
        Slides without a patient, each of which stands for itself.
    meant : dict of str to str
        Those of them that a row of the patients' table most likely means, and the name in that row.
    unsided : tuple of str
        Slides that no row of the patients' table gives a side; of splits by a column.
    lacking : tuple of str
        Sides, or folds, and the label that each lacks: ``"val: Rare"``, with the grid where there are several.
    near_labels : tuple of tuple of str
        Labels that differ by case or spaces alone, the one with the most tiles first.
    joined_sites : dict of str to tuple of str
        Patients at several sites, which stay together for them; of splits that preserve sites.
    suspects : tuple of str
        Patients by name on different sides who may be one: slides of one TCGA barcode, and names that differ by case,
        spaces or leading zeros alone.
    unknown_sides : tuple of str
        Sides of the column that are neither ``train``, ``val`` nor ``test``.
    """

    counts: pa.Table
    rule: SplitRule
    before: SplitRule | None
    changed: int
    alone: tuple[str, ...]
    meant: dict[str, str]
    unsided: tuple[str, ...]
    lacking: tuple[str, ...]
    near_labels: tuple[tuple[str, ...], ...]
    joined_sites: dict[str, tuple[str, ...]]
    suspects: tuple[str, ...]
    unknown_sides: tuple[str, ...]

    plotted = ("tiles_per_side", "labelled tiles")

    @property
    def tiles_per_side(self) -> dict[str, int]:
        """Labelled tiles of all grids by side, in sorted order."""
        tiles: Counter[str] = Counter()
        for row in self.counts.to_pylist():
            if row["label"] is None:
                tiles[row["split"]] += row["tiles"]
        return dict(sorted(tiles.items()))

    def shown(self) -> Iterator[tuple[str, object]]:
        """Yield the rule and the tiles by side; then what the sides lack and who may be on two."""
        yield "rule", self.rule.text
        for name, value in super().shown():
            if name == "counts":
                yield "labelled tiles by side", self.tiles_per_side
            elif name not in ("rule", "before"):
                yield name, value


def report_split(handle: Handle, rule: SplitRule, before: SplitRule | None, changed: int) -> SplitReport:
    """Look at the split in force.

    Parameters
    ----------
    handle : Handle
        The study.
    rule : SplitRule
        How it was made.
    before : SplitRule, optional
        How the earlier one was made.
    changed : int
        Patients whose side or fold differs from the earlier one's.

    Returns
    -------
    SplitReport
    """
    counts = handle.con.execute(read_query("count_split")).to_arrow_table()
    alone = _column(
        handle,
        "SELECT slide FROM slides LEFT JOIN patients USING (slide) WHERE patient IS NULL AND error IS NULL "
        "ORDER BY slide",
    )
    unmatched = _column(handle, "SELECT slide FROM patients ANTI JOIN slides USING (slide) ORDER BY slide")
    sides = _column(handle, "SELECT DISTINCT split FROM splits ORDER BY split")
    return SplitReport(
        counts=counts,
        rule=rule,
        before=before,
        changed=changed,
        alone=alone,
        meant=likely_meant(unmatched, alone),
        unsided=_column(
            handle,
            "SELECT slide FROM slides LEFT JOIN patients USING (slide) "
            "ANTI JOIN splits ON coalesce(patients.patient, slide) = splits.patient WHERE error IS NULL ORDER BY slide",
        ),
        lacking=_lacking(counts, sides, rule.folds),
        near_labels=_near_labels(counts),
        joined_sites=_joined_sites(handle) if rule.kind == "site_folds" else {},
        suspects=tuple(_suspect(*row) for row in handle.con.execute(read_query("find_suspects")).fetchall()),
        unknown_sides=tuple(side for side in sides if side not in ("train", "val", "test")),
    )


def _column(handle: Handle, query: str) -> tuple[str, ...]:
    return tuple(name for (name,) in handle.con.execute(query).fetchall())


def _lacking(counts: pa.Table, sides: Sequence[str], folds: int | None) -> tuple[str, ...]:
    """Return which side or fold lacks which label, of those that the grid has."""
    held: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for row in counts.to_pylist():
        if row["label"] is not None:
            place = row["split"] if folds is None else f"fold {row['fold']}"
            held[row["grid"]][row["label"]].add(place)
    places = list(sides) if folds is None else [f"fold {fold}" for fold in range(folds)]
    return tuple(
        f"{place}: {label}" + (f" (grid {grid})" if len(held) > 1 else "")
        for grid, labels in sorted(held.items())
        for label, there in sorted(labels.items())
        for place in places
        if place not in there
    )


def _near_labels(counts: pa.Table) -> tuple[tuple[str, ...], ...]:
    """Return the labels that differ by case or spaces alone, of each group the one with the most tiles first."""
    tiles: Counter[str] = Counter()
    for row in counts.to_pylist():
        if row["label"] is not None:
            tiles[row["label"]] += row["tiles"]
    groups = spelt_alike(sorted(tiles, key=lambda label: (-tiles[label], label)))
    return tuple(tuple(labels) for labels in sorted(groups, key=lambda labels: folded(labels[0])))


def _joined_sites(handle: Handle) -> dict[str, tuple[str, ...]]:
    """Return the patients at several sites, and these."""
    rows = handle.con.execute(
        "SELECT patient, list(DISTINCT site ORDER BY site) AS sites FROM patients SEMI JOIN slides USING (slide) "
        "WHERE patient IS NOT NULL AND site IS NOT NULL GROUP BY patient HAVING len(sites) > 1 ORDER BY patient"
    ).fetchall()
    return {patient: tuple(sites) for patient, sites in rows}


def _suspect(kind: str, name: str, patients: list[str], slides: list[str], sides: list[str]) -> str:
    """Return one text about two patients who may be one."""
    on = f"on the sides {', '.join(sides)}"
    if kind == "barcode":
        return f"slides {', '.join(slides)} are of {name} by their names, {on}"
    return f"patients {', '.join(map(repr, patients))} {on}"
