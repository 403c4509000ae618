"""Renames a label in all of a study: its ROIs, the rule that names it, and ROI files that are added later."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from slideduck.catalog.label_sets import rename_in_sets
from slideduck.errors import StudyError
from slideduck.labels.known import known_labels, require_known, roi_labels
from slideduck.labels.rule import LabelRule, rule_in_force, set_rule
from slideduck.names import is_missing, nfc
from slideduck.rois.table import rename_in_rois
from slideduck.show import Shown
from slideduck.store.handle import Handle

__all__ = ["LabelRenamed", "rename_label"]


@dataclass(frozen=True)
class LabelRenamed(Shown):
    """What `rename_label` renamed, or would.

    Attributes
    ----------
    old : str
        The label.
    new : str or None
        What it is called now; None for no label.
    rois : int
        ROIs that had it, holes included, of whatever set.
    merged : int
        ROIs that had the new one already: the two are one label from now on.
    slides : tuple of str
        Slides that are to be labelled anew.
    holes, islands : tuple of str
        ROIs that are holes by this, since they lie within others of the label, and ROIs that are holes no more,
        since they lie within such a hole; as ``slide: name``.
    rule : tuple of str
        What it changes in the rule in force, such as ``artifact labels: Pen -> pen``.
    sets : tuple of str
        Sets of labels that had it, each with its grid.
    """

    old: str
    new: str | None
    rois: int
    merged: int
    slides: tuple[str, ...]
    holes: tuple[str, ...]
    islands: tuple[str, ...]
    rule: tuple[str, ...]
    sets: tuple[str, ...] = ()


def rename_label(handle: Handle, old: str, new: str | None, *, dry_run: bool = False) -> LabelRenamed:
    """Rename a label of ROIs and label sets; where some have the new one already, the two become one.

    The holes of the slides concerned are found anew, since an ROI within another of its label is a hole, and the
    labels of their tiles are forgotten. Betons and predictions stay as they are.

    Parameters
    ----------
    handle : Handle
        The study.
    old : str
        The label.
    new : str or None
        What to call it; None, or a text without a letter, is no label. The label itself takes back that files
        which are added later get another for it.
    dry_run : bool
        Only report.

    Returns
    -------
    LabelRenamed
        Without ROIs and sets if the label was renamed so before.

    Raises
    ------
    StudyError
        If nothing has the label, the rule would have no label left to give priority to, or it is a class of soft
        labels and is to be no label.

    Notes
    -----
    What is kept for files that are added later (``label_names``) is the label of a file with the label that it has
    now: after A was renamed to B and B to C, both are C; after B was renamed back to A, B is A and A itself.
    """
    old, new = nfc(old), nfc(new or "").strip() or None
    if new is not None and is_missing(new):
        raise StudyError(f"the new label is {new!r}, which stands for a missing one; give '' for no label")
    names: dict[str, str | None] = dict(handle.con.execute("FROM label_names").fetchall())
    labels = {**dict.fromkeys(known_labels(handle.con), 0), **roi_labels(handle.con)}
    if old not in labels and old in names and new in (names[old], old):
        labels[old] = 0
    require_known([] if old in labels else [old], "`old`", list(labels))
    if new == old and old not in names:
        raise StudyError(f"the label {old!r} is called so already; give another name for it")
    taken_back = new == old
    moved = 0 if taken_back else labels[old]
    before = rule_in_force(handle.con)
    after = before and _renamed_rule(handle, before, old, new)
    with handle.atomic():
        slides, holes = rename_in_rois(handle, old, new, dry_run=dry_run) if moved else ([], [])
        sets = [] if taken_back else rename_in_sets(handle, old, new, dry_run=dry_run)
        renamed = LabelRenamed(
            old=old,
            new=new,
            rois=moved,
            merged=labels.get(new, 0) if moved and new is not None else 0,
            slides=tuple(slides),
            holes=tuple(f"{slide}: {name}" for slide, name, is_hole in holes if is_hole),
            islands=tuple(f"{slide}: {name}" for slide, name, is_hole in holes if not is_hole),
            rule=() if before is None or after is None else after.changes(before),
            sets=tuple(f"{held.name} ({held.grid})" for held in sets),
        )
        if (moved or sets or taken_back) and not dry_run:
            _keep_names(handle, names, old, new)
            _keep_rules(handle, old, new)
            _write_journal(handle, renamed)
    return renamed


def _renamed_rule(handle: Handle, rule: LabelRule, old: str, new: str | None) -> LabelRule:
    """Return a rule with a label renamed; of a label that is named twice by that, the first place counts."""

    def renamed(labels: tuple[str, ...]) -> tuple[str, ...]:
        called = (new if name == old else name for name in labels)
        return tuple(dict.fromkeys(name for name in called if name is not None))

    if rule.priority and not renamed(rule.priority):
        raise StudyError(
            f"the rule gives priority to {old!r} alone; choose another first, such as: "
            f"slideduck label {handle.name} --overlap smallest"
        )
    return replace(rule, priority=renamed(rule.priority), artifact_labels=renamed(rule.artifact_labels))


def _keep_rules(handle: Handle, old: str, new: str | None) -> None:
    """Rename a label in the rule in force, and in what is known of rules by which slides were counted."""
    rule = rule_in_force(handle.con)
    if rule is not None:
        set_rule(handle.con, _renamed_rule(handle, rule, old, new))
    for (text,) in handle.con.execute(
        "SELECT DISTINCT counted_by FROM labelled WHERE counted_by IS NOT NULL ORDER BY counted_by"
    ).fetchall():
        counted = _renamed_rule(handle, LabelRule.of_values(json.loads(text)), old, new).text()
        if counted != text:
            handle.con.execute("UPDATE labelled SET counted_by = $1 WHERE counted_by = $2", [counted, text])


def _keep_names(handle: Handle, names: dict[str, str | None], old: str, new: str | None) -> None:
    """Store what the labels of files are called: as before, and the label renamed wherever that gave it."""
    called = {name: new if now == old else now for name, now in names.items()}
    if old not in names:
        called[old] = new
    elif new == old:
        called[old] = old
    handle.con.execute("DELETE FROM label_names")
    rows = [[name, now] for name, now in sorted(called.items()) if name != now]
    if rows:
        handle.con.executemany("INSERT INTO label_names VALUES ($1, $2)", rows)


def _write_journal(handle: Handle, renamed: LabelRenamed) -> None:
    detail = {"old": renamed.old, "new": renamed.new, "rois": renamed.rois, "slides": list(renamed.slides)}
    handle.con.execute(
        "INSERT INTO changes (change, detail) VALUES ('rename-label', $1)", [json.dumps(detail, ensure_ascii=False)]
    )
