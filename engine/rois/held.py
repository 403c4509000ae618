"""What a study knows of its ROI files: how each was read, of which slides it speaks, and what takes whose place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from slideduck.roifiles.options import RoiOptions
from slideduck.roifiles.outlines import RoiFile
from slideduck.store.db import registered
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_query
from slideduck.words import counted

__all__ = [
    "READER",
    "HeldFile",
    "Replacement",
    "as_said",
    "find_replacements",
    "gone_table",
    "held_files",
    "keep_files",
    "kept_text",
    "named_alike",
]

#: Version of the rules by which ROIs are read and repaired; see the column ``roi_files.reader``.
READER = 2


@dataclass(frozen=True)
class HeldFile:
    """An ROI file as the study has it.

    Attributes
    ----------
    path, format, holes, sha256, frame : str
        As in the table ``roi_files``.
    options : str
        What else was said of how to read it, as JSON.
    reader : int
        Version of the rules that it was read by.
    slides : tuple of str
        Slides that it speaks of, in order of name.
    """

    path: str
    format: str
    holes: str
    sha256: str
    frame: str
    options: str
    reader: int
    slides: tuple[str, ...]

    def said(self) -> dict[str, Any]:
        """Return what was said of how to read it.

        Studies of schema 1 did not keep that. There holes other than those that are usual for the form were said.
        """
        said: dict[str, Any] = json.loads(self.options)
        if self.holes != ("nested" if self.format == "csv" else "explicit"):
            said.setdefault("holes", self.holes)
        return said

    def is_same(self, file: RoiFile) -> bool:
        """Return whether a file is this one, read in the same way."""
        return (self.sha256, self.holes, self.options, self.frame, self.slides, self.reader) == (
            file.sha256,
            file.holes,
            file.said,
            file.frame or "level0",
            file.slides,
            READER,
        )


def held_files(handle: Handle, roi_set: str) -> dict[str, HeldFile]:
    """Return the ROI files of a set, by path."""
    rows = handle.con.execute(read_query("list_held_roi_files"), {"roi_set": roi_set}).fetchall()
    return {row[0]: HeldFile(*(*row[:7], tuple(row[7]))) for row in rows}


def as_said(file: RoiFile, options: RoiOptions, folder: str) -> RoiFile:
    """Return a file with what was said of how to read it."""
    said = options.to_keep() | ({"folder": folder} if folder else {})
    text = json.dumps(said, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return replace(file, frame=options.frame, said=text)


def kept_text(path: str, kept: Mapping[str, Any]) -> str:
    """Return what a message says of the options of a file that stay in force."""
    words = []
    for name, value in sorted(kept.items()):
        if name == "folder":
            words.append("`names='relative'`")
        elif name in ("include", "slide_suffix"):
            words += [f"`{name}='{one}'`" for one in value]
        else:
            words.append(f"`{name}='{value}'`" if isinstance(value, str) else f"`{name}`")
    return f"{path}: {' '.join(words)}"


def keep_files(
    handle: Handle,
    roi_set: str,
    files: Sequence[RoiFile],
    gone: Sequence[tuple[str, str]],
    left_out: Mapping[tuple[str, str], int],
) -> None:
    """Write down files and the slides that they speak of, inside a transaction.

    Parameters
    ----------
    handle : Handle
        The study.
    roi_set : str
        Set of ROIs.
    files : sequence of RoiFile
        The files that are added.
    gone : sequence of (str, str)
        Paths, each with a slide of which that file says nothing any more. A file that speaks of no slide goes.
    left_out : mapping of (str, str) to int
        For paths and slides the number of ROIs that were left out, lying wholly outside the slide.
    """
    pairs = [(file, slide) for file in files for slide in file.slides]
    rows = pa.table(
        {
            "path": pa.array([str(file.path) for file in files], pa.string()),
            "format": pa.array([file.format for file in files], pa.string()),
            "holes": pa.array([file.holes for file in files], pa.string()),
            "sha256": pa.array([file.sha256 for file in files], pa.string()),
            "frame": pa.array([file.frame or "level0" for file in files], pa.string()),
            "options": pa.array([file.said for file in files], pa.string()),
            "reader": pa.array([READER] * len(files), pa.int32()),
        }
    )
    slides = pa.table(
        {
            "path": pa.array([str(file.path) for file, _ in pairs], pa.string()),
            "slide": pa.array([slide for _, slide in pairs], pa.string()),
            "offset_x": pa.array([file.offsets.get(slide, (0, 0))[0] for file, slide in pairs], pa.float64()),
            "offset_y": pa.array([file.offsets.get(slide, (0, 0))[1] for file, slide in pairs], pa.float64()),
            "left_out": pa.array([left_out.get((str(file.path), slide), 0) for file, slide in pairs], pa.int32()),
        }
    )
    of_set = {"roi_set": roi_set}
    with (
        registered(handle.con, "incoming_file", rows),
        registered(handle.con, "incoming_file_slide", slides),
        registered(handle.con, "gone_file_slide", gone_table(gone)),
    ):
        handle.con.execute(read_query("upsert_roi_files"), of_set)
        handle.con.execute(read_query("delete_roi_file_slides"), of_set)
        handle.con.execute(read_query("insert_roi_file_slides"), of_set)
        handle.con.execute(
            "DELETE FROM roi_files WHERE roi_set = $roi_set "
            "AND roi_file_id NOT IN (SELECT roi_file_id FROM roi_file_slides)",
            of_set,
        )


def gone_table(gone: Sequence[tuple[str, str]]) -> pa.Table:
    """Return paths and slides as the relation ``gone_file_slide``."""
    return pa.table(
        {
            "path": pa.array([path for path, _ in gone], pa.string()),
            "slide": pa.array([slide for _, slide in gone], pa.string()),
        }
    )


@dataclass(frozen=True)
class Replacement:
    """What a file changes that takes the place of another one, on one slide.

    Attributes
    ----------
    path, slide : str
        The file that is added, and the slide.
    place, roi_name : str
        The first ROI that both have, for messages.
    other : str
        The file that the study has.
    same, changed, new, gone : int
        ROIs of the same outline and label, of another, that only the new file has, and that only the other has.
    """

    path: str
    slide: str
    place: str
    roi_name: str
    other: str
    same: int
    changed: int
    new: int
    gone: int

    @property
    def summary(self) -> str:
        """What changes, in words."""
        return f"{self.same:,} the same, {self.changed:,} changed, {self.new:,} new, {self.gone:,} gone"

    @property
    def text(self) -> str:
        """What took whose place, and what changes by it."""
        return f"{self.slide}: {self.path} in place of {self.other}: {self.summary}"

    def problem(self) -> str:
        """Return the message for a file that is not to take the other's place."""
        return (
            f"{self.place}: {named_alike(self.roi_name, self.slide, self.same + self.changed)} in "
            f"{self.other} too, which the study has; names are unique in a slide: put this file in the other's place "
            f"for that slide with `replace=True` (ROIs: {self.summary}), or rename them"
        )


def named_alike(roi_name: str, slide: str, number: int) -> str:
    """Return the first of some ROIs that two files name alike, and how many more there are, with the verb."""
    if number == 1:
        return f"ROI {roi_name!r} of slide {slide!r} is"
    return f"ROI {roi_name!r} and {counted(number - 1, 'other')} of slide {slide!r} are"


def find_replacements(handle: Handle, replaced: Sequence[str]) -> list[Replacement]:
    """Return which staged files share a slide and names of ROIs with other files of the study.

    Parameters
    ----------
    handle : Handle
        The study, with the table ``staged_roi``.
    replaced : sequence of str
        Paths of the files that are added again, or taken out.
    """
    with registered(handle.con, "replaced_file", pa.table({"path": pa.array(replaced, pa.string())})):
        rows = handle.con.execute(read_query("compare_replaced_rois")).fetchall()
    return [Replacement(*row) for row in rows]
