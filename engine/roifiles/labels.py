"""Labels of ROIs that are renamed while their files are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from slideduck.roifiles.outlines import Note, Notes, RoiOutline

__all__ = ["RENAMED", "renamed"]

#: ROIs whose labels users rename while files are read.
RENAMED = Note("ROI", "ROIs", "with another label by `labels`")


def renamed(
    outlines: Iterable[RoiOutline], labels: Mapping[str, str | None], note: Note, notes: Notes
) -> list[RoiOutline]:
    """Return ROIs with the labels in place of theirs, and note how many have another.

    Parameters
    ----------
    outlines : iterable of RoiOutline
        The ROIs.
    labels : mapping of str to (str or None)
        Labels to rename; None is no label.
    note : Note
        What is noted of each ROI.
    notes : Notes
        Are added to.
    """
    result = []
    for outline in outlines:
        if outline.label is not None and labels.get(outline.label, outline.label) != outline.label:
            new = labels[outline.label]
            notes.add(note, f"{outline.label!r} -> {'no label' if new is None else repr(new)}")
            outline = replace(outline, label=new)
        result.append(outline)
    return result
