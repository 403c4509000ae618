"""Puts ROI files into the tables of a study and takes them out again, whole or not at all."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from slideduck.catalog.slides import forget_labels
from slideduck.errors import InputError, StudyError
from slideduck.files.find import absolute
from slideduck.progress import track
from slideduck.roifiles.options import RoiOptions
from slideduck.roifiles.outlines import Notes
from slideduck.roifiles.read import RoiFile, find_roi_files, note_passed_over
from slideduck.rois.classes import note_labels, note_unused, renamed_as_before
from slideduck.rois.given import GivenFiles
from slideduck.rois.held import (
    Replacement,
    find_replacements,
    gone_table,
    held_files,
    keep_files,
    kept_text,
    named_alike,
)
from slideduck.rois.outside import OutsideRoi, leave_outside, outside_problems
from slideduck.show import Shown
from slideduck.store.db import atomic, registered
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_query
from slideduck.words import counted

__all__ = ["RoisRemoved", "RoisReport", "add_rois", "remove_rois", "rename_in_rois", "replace_files"]

#: What holds where nothing is said.
_USUAL = RoiOptions()


@dataclass(frozen=True)
class RoisReport(Shown):
    """What `add_rois` did.

    Attributes
    ----------
    files, rois, holes, slides : int
        Files read, ROIs in them (holes included), holes among those, and slides that they lie on.
    unchanged : int
        Further files, which the study has as they are; nothing was done about them.
    unlabelled, repaired, leaving : tuple of str
        ROIs without a label, those that crossed themselves, and those that leave the slide, as ``slide: name``.
    skipped : tuple of str
        Objects in the files that are no areas, with the reason.
    kept : tuple of str
        Files that were read as they were added before, since nothing else was said, each with those options.
    without : tuple of str
        Slides of the files that have been looked at and have no ROI.
    replaced : tuple of str
        What changed where a file took the place of another one, a text for each slide.
    repairs : tuple of str
        The repaired ones once more, with what the repair changed: area of the outline less that which the rings of
        the drawing enclose, the inner ones subtracted. The largest change first.
    flat : tuple of str
        ROIs of several rings of which some have no area and were left out, as ``place: name``, with their number.
    outside : tuple of str
        ROIs that lie wholly outside their slide and were left out, as ``slide: name``.
    covered : tuple of str
        ROIs that their holes leave nothing of, so that they label no tile, as ``slide: name``.
    notes : tuple of str
        What else was met or done: a sentence for each, with how often and a few examples.
    """

    files: int
    rois: int
    holes: int
    slides: int
    unchanged: int
    unlabelled: tuple[str, ...]
    repaired: tuple[str, ...]
    leaving: tuple[str, ...]
    skipped: tuple[str, ...]
    kept: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()
    flat: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    covered: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def add_rois(
    handle: Handle,
    paths: Sequence[str | Path],
    *,
    roi_set: str = "default",
    options: RoiOptions | None = None,
) -> RoisReport:
    """Read ROI files into the table ``rois``; a file that is added again replaces what it gave before.

    A file that the study has byte for byte, read in the same way, is left alone, and so are the labels of its slides,
    unless it was read by other rules than today's. What is not said of how to read a file that the study has stays as
    it was said before.

    Parameters
    ----------
    handle : Handle
        The study.
    paths : sequence of path
        Files, folders and globs; the format of each is told by its content. GeoParquet is named file by file: other
        tables have its suffix too.
    roi_set : str
        Set of ROIs to add to, such as a reader's.
    options : RoiOptions, optional
        How to read the files and what to take of them.

    Returns
    -------
    RoisReport

    Raises
    ------
    InputError
        With every bad row of every file; nothing is added then. A file is bad as a whole if more than a tenth of its
        ROIs lie wholly outside their slide.
    """
    if not roi_set.strip():
        raise StudyError("the name of a set of ROIs is empty; give one, such as reader_a")
    options = options or RoiOptions()
    found = find_roi_files(paths)
    given = GivenFiles(handle, paths, roi_set, options)
    with track("Reading ROIs", len(found), "files", show=handle.progress) as advance:
        for path in found:
            given.read(path)
            advance(1)
    if given.unreadable:
        raise InputError(given.unreadable)
    notes = Notes()
    note_passed_over(paths, notes)
    note_unused(options.labels, given.files, notes)
    files, problems = given.placed(given.changed())
    files = renamed_as_before(handle, files)
    with atomic(handle.con):
        done = Replaced()
        if files or problems:
            replaced = [str(file.path) for file in files]
            done = replace_files(handle, roi_set, files, replaced, problems, options=options)
        for file in files:
            notes.update(file.notes)
        note_labels(handle, files, notes)
        report = _rois_report(handle, files, roi_set, done, unchanged=len(given.files) - len(files))
    kept = [kept_text(str(file.path), given.kept[file.path]) for file in files if given.kept[file.path]]
    return replace(report, kept=tuple(kept), notes=notes.texts())


@dataclass(frozen=True)
class RoisRemoved(Shown):
    """What `remove_rois` removed, or would.

    Attributes
    ----------
    paths : tuple of str
        The files.
    rois : int
        ROIs that they gave, holes included.
    slides : tuple of str
        Slides that are to be labelled anew.
    """

    paths: tuple[str, ...]
    rois: int
    slides: tuple[str, ...]


def remove_rois(
    handle: Handle,
    paths: Sequence[str | Path],
    *,
    roi_set: str = "default",
    dry_run: bool = False,
) -> RoisRemoved:
    """Take ROI files out of a study; the files on disk stay.

    The holes of the ROIs that stay are found anew.

    Parameters
    ----------
    handle : Handle
        The study.
    paths : sequence of path
        Files, folders and globs, of files that the study holds; they need not exist any more.
    roi_set : str
        Set of ROIs to take from.
    dry_run : bool
        Only report.

    Returns
    -------
    RoisRemoved

    Raises
    ------
    StudyError
        If the study has no such file; nothing is removed then.
    InputError
        If a hole that stays would lie in no ROI.
    """
    rows = handle.con.execute("SELECT path FROM roi_files WHERE roi_set = $s ORDER BY path", {"s": roi_set}).fetchall()
    known = [path for (path,) in rows]
    gone: set[str] = set()
    for path in paths:
        wanted = str(absolute(path))
        found = [k for k in known if k == wanted or k.startswith(wanted + "/") or fnmatch.fnmatchcase(k, wanted)]
        if not found:
            raise StudyError(
                f"the study has no ROI file {path} in the set {roi_set!r}; see which there are with: "
                f"slideduck sql {handle.name} 'SELECT roi_set, path FROM roi_files'"
            )
        gone.update(found)
    removed = sorted(gone)
    with atomic(handle.con):
        slides = _slides_of(handle, roi_set, removed)
        (count,) = handle.con.execute(
            "SELECT count(*) FROM rois JOIN roi_files USING (roi_file_id) "
            "WHERE roi_files.roi_set = $roi_set AND list_contains($paths, path)",
            {"roi_set": roi_set, "paths": removed},
        ).fetchone() or (0,)
        if not dry_run:
            replace_files(handle, roi_set, [], removed)
    return RoisRemoved(tuple(removed), count, tuple(slides))


def _slides_of(handle: Handle, roi_set: str, paths: Sequence[str]) -> list[str]:
    """Return the slides that the ROIs of files lie on."""
    rows = handle.con.execute(
        "SELECT DISTINCT slide FROM rois JOIN roi_files USING (roi_file_id, roi_set) "
        "WHERE roi_set = $roi_set AND list_contains($paths, path) ORDER BY slide",
        {"roi_set": roi_set, "paths": list(paths)},
    ).fetchall()
    return [slide for (slide,) in rows]


@dataclass(frozen=True)
class Replaced:
    """What files put in the place of other files, and what of them was left out.

    That is ROIs outside their slide, and rings without an area, which ROIs have with their place and number.
    """

    instead: Sequence[Replacement] = ()
    outside: Sequence[OutsideRoi] = ()
    flat: Sequence[tuple[str, str, int]] = ()


def replace_files(
    handle: Handle,
    roi_set: str,
    files: Sequence[RoiFile],
    replaced: Sequence[str],
    problems: Sequence[str] = (),
    *,
    options: RoiOptions = _USUAL,
) -> Replaced:
    """Put files that were read into the study, in place of what some gave before, inside a transaction.

    Parameters
    ----------
    handle : Handle
        The study.
    roi_set : str
        Set of ROIs.
    files : sequence of RoiFile
        What comes, in level 0.
    replaced : sequence of str
        Paths of the files whose ROIs go; those that do not come again go as well.
    problems : sequence of str
        What was found to be wrong already.
    options : RoiOptions
        Whether files may take the place of others, and ROIs may lie outside.

    Returns
    -------
    Replaced

    Raises
    ------
    InputError
        With every ROI that cannot be added, and the problems.
    """
    with registered(handle.con, "incoming_roi", _outlines(files, roi_set)):
        handle.con.execute(read_query("stage_rois"))
        found = handle.con.execute(read_query("find_roi_problems")).fetchall()
    outside = leave_outside(handle.con)
    instead = find_replacements(handle, replaced)
    refused = [*problems, *(_roi_problem(*row) for row in found), *outside_problems(outside, strict=options.strict)]
    if not options.replace:
        refused += [one.problem() for one in instead]
    if refused:
        raise InputError(refused)
    flat = handle.con.execute(
        "SELECT place, roi_name, flat_rings FROM staged_roi WHERE flat_rings > 0 ORDER BY file, row_no, roi_name"
    ).fetchall()
    held = held_files(handle, roi_set)
    gone = [(path, slide) for path in replaced if path in held for slide in held[path].slides]
    gone += [(one.other, one.slide) for one in instead]
    slides = sorted({o.slide for file in files for o in file.outlines} | set(_slides_of(handle, roi_set, replaced)))
    with registered(handle.con, "gone_file_slide", gone_table(gone)):
        handle.con.execute(read_query("stage_kept_rois"), {"roi_set": roi_set, "slides": slides})
    _nest(handle)
    keep_files(handle, roi_set, files, gone, Counter((roi.file, roi.slide) for roi in outside))
    _put(handle, roi_set, slides)
    _unstage(handle)
    return Replaced(instead, outside, flat)


def rename_in_rois(
    handle: Handle, old: str, new: str | None, *, dry_run: bool = False
) -> tuple[list[str], list[tuple[str, str, bool]]]:
    """Give the ROIs of a label another, in every set, and find the holes of their slides anew, inside a transaction.

    Parameters
    ----------
    handle : Handle
        The study.
    old : str
        The label.
    new : str or None
        The other one; None for no label.
    dry_run : bool
        Only tell what would be.

    Returns
    -------
    slides : list of str
        The slides of these ROIs; what was computed from their ROIs is deleted.
    holes : list of (str, str, bool)
        Slide and name of the ROIs that are holes now and were none before (True), or the other way round.

    Raises
    ------
    InputError
        If a hole would lie in no ROI.
    """
    rows = handle.con.execute(
        "SELECT roi_set, slide FROM rois WHERE label = $old GROUP BY ALL ORDER BY ALL", {"old": old}
    ).fetchall()
    holes: list[tuple[str, str, bool]] = []
    for roi_set in dict.fromkeys(row[0] for row in rows):
        slides = [slide for its, slide in rows if its == roi_set]
        with registered(handle.con, "incoming_roi", _outlines([], roi_set)):
            handle.con.execute(read_query("stage_rois"))
        with registered(handle.con, "gone_file_slide", gone_table([])):
            handle.con.execute(read_query("stage_kept_rois"), {"roi_set": roi_set, "slides": slides})
        handle.con.execute("UPDATE staged_roi SET label = $new WHERE label = $old", {"old": old, "new": new})
        _nest(handle)
        holes += handle.con.execute(read_query("find_changed_holes")).fetchall()
        if not dry_run:
            _put(handle, roi_set, slides)
        _unstage(handle)
    return sorted({slide for _, slide in rows}), sorted(holes)


def _nest(handle: Handle) -> None:
    """Find the holes of the ROIs that are staged."""
    handle.con.execute(read_query("nest_rois"))
    orphans = handle.con.execute(read_query("find_orphan_holes")).fetchall()
    if orphans:
        raise InputError([_orphan_problem(*row) for row in orphans])


def _put(handle: Handle, roi_set: str, slides: Sequence[str]) -> None:
    """Put the ROIs that are nested in place of those of their slides."""
    handle.con.execute(
        "DELETE FROM rois WHERE roi_set = $roi_set AND list_contains($slides, slide)",
        {"roi_set": roi_set, "slides": slides},
    )
    forget_labels(handle, slides)
    handle.con.execute(read_query("insert_rois"))


def _unstage(handle: Handle) -> None:
    handle.con.execute("DROP TABLE staged_roi")
    handle.con.execute("DROP TABLE nested_roi")


def _outlines(files: Sequence[RoiFile], roi_set: str) -> pa.Table:
    """Return the outlines of files as the relation that ``stage_rois`` reads."""
    pairs = [(file, outline) for file in files for outline in file.outlines]
    return pa.table(
        {
            "file": pa.array([str(f.path) for f, _ in pairs], pa.string()),
            "row_no": pa.array([o.row for _, o in pairs], pa.int64()),
            "place": pa.array([f.place(o) for f, o in pairs], pa.string()),
            "roi_set": pa.array([roi_set] * len(pairs), pa.string()),
            "slide": pa.array([o.slide for _, o in pairs], pa.string()),
            "roi_name": pa.array([o.roi_name for _, o in pairs], pa.string()),
            "label": pa.array([o.label for _, o in pairs], pa.string()),
            "marked_hole": pa.array([o.marked_hole for _, o in pairs], pa.bool_()),
            "nested": pa.array([f.holes == "nested" for f, _ in pairs], pa.bool_()),
            "traced": pa.array([f.format == "mask" for f, _ in pairs], pa.bool_()),
            "wkb": pa.array([o.wkb() for _, o in pairs], pa.binary()),
        }
    )


def _roi_problem(kind: str, place: str, slide: str, roi_name: str, other: str | None, n_rois: int) -> str:
    """Return the message for an ROI that is refused."""
    match kind:
        case "no_area":
            return f"{place}: ROI {roi_name!r} of slide {slide!r} has no area; draw it again or remove it"
        case _:
            return (
                f"{place}: {named_alike(roi_name, slide, n_rois)} in {other} too; "
                "names are unique in a slide: rename one, or add only one of the files"
            )


def _orphan_problem(
    place: str, roi_name: str, label: str | None, other_name: str | None, other_label: str | None
) -> str:
    """Return the message for a hole that lies in no ROI of its label."""
    what = f"{place}: hole {roi_name!r} overlaps no ROI {_labelled(label)}"
    if other_name is None:
        return f"{what}; move it into the annotation that it is a hole of, or unmark it"
    by_labels = f" by `labels` or in the file ({label} to {other_label})" if label and other_label else " in the file"
    return (
        f"{what}, but {other_name!r}, {_labelled(other_label)}; give it the label of what it is a hole of{by_labels}, "
        "or unmark it"
    )


def _labelled(label: str | None) -> str:
    return "without a label" if label is None else f"labelled {label!r}"


def _rois_report(
    handle: Handle, files: Sequence[RoiFile], roi_set: str, done: Replaced, *, unchanged: int
) -> RoisReport:
    rows = handle.con.execute(
        "SELECT slide, roi_name, label, parent, repaired, leaves_slide, changed_area, "
        "CASE WHEN repaired THEN ST_Area(outline) END, area FROM rois JOIN roi_files "
        "USING (roi_file_id, roi_set) WHERE roi_set = $roi_set AND list_contains($paths, path) "
        "ORDER BY slide, roi_name",
        {"roi_set": roi_set, "paths": [str(file.path) for file in files]},
    ).fetchall()
    return RoisReport(
        files=len(files),
        rois=len(rows),
        holes=sum(row[3] is not None for row in rows),
        slides=len({row[0] for row in rows}),
        unchanged=unchanged,
        unlabelled=tuple(f"{row[0]}: {row[1]}" for row in rows if row[2] is None),
        repaired=tuple(f"{row[0]}: {row[1]}" for row in rows if row[4]),
        leaving=tuple(f"{row[0]}: {row[1]}" for row in rows if row[5]),
        skipped=tuple(reason for file in files for reason in file.skipped),
        without=tuple(sorted({slide for file in files for slide in file.slides} - {row[0] for row in rows})),
        repairs=tuple(
            f"{row[0]}: {row[1]} ({row[6]:+,.0f} px², {100 * row[6] / row[7]:+.2f} % of its area)"
            for row in sorted((row for row in rows if row[4]), key=lambda row: -abs(row[6]))
        ),
        flat=tuple(f"{place}: {name} ({counted(n, 'ring')})" for place, name, n in done.flat),
        outside=tuple(f"{roi.slide}: {roi.roi_name}" for roi in done.outside),
        covered=tuple(f"{row[0]}: {row[1]}" for row in rows if row[8] == 0),
        replaced=tuple(one.text for one in done.instead),
    )
