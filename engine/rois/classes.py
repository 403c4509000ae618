"""The labels of ROIs that are being added: renamed as users say, and compared with those that the study has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from slideduck.errors import InputError
from slideduck.files.tables import read_table
from slideduck.names import is_missing, nfc, spelt_alike, suggestion
from slideduck.roifiles.labels import renamed
from slideduck.roifiles.outlines import Note, Notes, RoiFile
from slideduck.store.handle import Handle

__all__ = ["note_labels", "note_unused", "read_label_table", "renamed_as_before"]

_RENAMED_BEFORE = Note("ROI", "ROIs", "with the label that rename-label gave")
_UNUSED = Note("label", "labels", "of `labels` that no ROI has")
_ALIKE = Note(
    "group of labels", "groups of labels",
    "that differ only by case or spaces, and count as different; make them one with `labels`, or with rename-label",
)  # fmt: skip
_STARRED = Note(
    "ROI", "ROIs",
    "of a class with a star, which QuPath itself leaves out when it measures, and which counts here like any other; "
    "to change that, rename it with `labels`",
)  # fmt: skip


def read_label_table(path: Path) -> dict[str, str | None]:
    """Read a table of labels to rename, for `RoiOptions.labels`.

    Parameters
    ----------
    path : Path
        A CSV file with the columns ``from`` and ``to``.

    Returns
    -------
    dict of str to (str or None)
        The label in place of each; None, no label, where ``to`` is empty.

    Raises
    ------
    InputError
        With every row that names no label, or one that an earlier row names.
    """
    table = read_table(path, ("from", "to"))
    problems = list(table.problems)
    labels: dict[str, str | None] = {}
    row_of: dict[str, int] = {}
    for row, old, new in zip(table.rows.tolist(), table.text("from"), table.text("to"), strict=True):
        label, place = nfc(old), f"{path.name}:{row}"
        if is_missing(label):
            what = f"from is {old!r}, which is no label" if old else "from is empty"
            problems.append((row, f"{place}: {what}; write the label to rename"))
        elif label in row_of:
            problems.append((row, f"{place}: label {label!r} is there already (row {row_of[label]}); keep one of them"))
        else:
            row_of[label], labels[label] = row, None if is_missing(new) else nfc(new)
    if problems:
        raise InputError([message for _, message in sorted(problems)])
    return labels


def renamed_as_before(handle: Handle, files: Iterable[RoiFile]) -> list[RoiFile]:
    """Return files with the labels that rename-label gave in the study in place of those in the files."""
    labels = dict(handle.con.execute("SELECT label, renamed FROM label_names ORDER BY label").fetchall())
    return [
        replace(file, outlines=tuple(renamed(file.outlines, labels, _RENAMED_BEFORE, file.notes))) for file in files
    ]


def note_unused(labels: Iterable[str], files: Iterable[RoiFile], notes: Notes) -> None:
    """Note each label to rename that no ROI of any file has, with the nearest that one has.

    Parameters
    ----------
    labels : iterable of str
        Those to rename, of `RoiOptions.labels`.
    files : iterable of RoiFile
        All files that were read.
    notes : Notes
        Are added to.
    """
    found = sorted({label for file in files for label in file.labels})
    for label in map(nfc, labels):
        if label not in found:
            notes.add(_UNUSED, f"{label!r}{suggestion(label, found)}")


def note_labels(handle: Handle, files: Iterable[RoiFile], notes: Notes) -> None:
    """Note labels of files that were added which are like others of the study, or of QuPath's classes with a star.

    Parameters
    ----------
    handle : Handle
        The study, in which the ROIs of the files are.
    files : iterable of RoiFile
        The files.
    notes : Notes
        Are added to.
    """
    added = Counter(outline.label for file in files for outline in file.outlines if outline.label is not None)
    rows = handle.con.execute("SELECT DISTINCT label FROM rois WHERE label IS NOT NULL ORDER BY label").fetchall()
    for labels in spelt_alike(label for (label,) in rows):
        if any(label in added for label in labels):
            notes.add(_ALIKE, " and ".join(map(repr, labels)))
    for label in sorted(added):
        if label.endswith("*"):
            notes.add(_STARRED, repr(label), added[label])
