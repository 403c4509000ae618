"""Puts ROI files into the tables of a study and takes them out again, whole or not at all."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from slideduck.catalog.slides import forget_labels
from slideduck.errors import InputError, StudyError
from slideduck.files.find import absolute
from slideduck.progress import track
from slideduck.rois.options import RoiOptions
from slideduck.rois.read import RoiFile, find_roi_files, parse_roi_file
from slideduck.store.db import atomic, registered
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_query

__all__ = ["RoisRemoved", "RoisReport", "add_rois", "remove_rois", "replace_files"]


@dataclass(frozen=True)
class RoisReport:
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


def add_rois(
    handle: Handle,
    paths: Sequence[str | Path],
    *,
    roi_set: str = "default",
    options: RoiOptions | None = None,
) -> RoisReport:
    """Read ROI files into the table ``rois``; a file that is added again replaces what it gave before.

    A file that the study has byte for byte, with the same holes, is left alone, and so are the labels of its slides.

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
        With every bad row of every file; nothing is added then.
    """
    if not roi_set.strip():
        raise StudyError("the name of a set of ROIs is empty; give one, such as reader_a")
    options = options or RoiOptions()
    found = find_roi_files(paths)
    problems: list[str] = []
    files: list[RoiFile] = []
    with track("Reading ROIs", len(found), "files", show=handle.progress) as advance:
        for path in found:
            try:
                files.append(parse_roi_file(path, options))
            except InputError as error:
                problems.extend(error.problems)
            advance(1)
    if problems:
        raise InputError(problems)
    known = set(
        handle.con.execute(
            "SELECT DISTINCT path, sha256, holes FROM roi_files JOIN rois USING (roi_file_id) "
            "WHERE roi_files.roi_set = $roi_set",
            {"roi_set": roi_set},
        ).fetchall()
    )
    changed = [file for file in files if (str(file.path), file.sha256, file.holes) not in known]
    with atomic(handle.con):
        if changed:
            replace_files(handle, roi_set, changed, [str(file.path) for file in changed])
        return _rois_report(handle, changed, roi_set, unchanged=len(files) - len(changed))


@dataclass(frozen=True)
class RoisRemoved:
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
                "slideduck sql STUDY 'SELECT roi_set, path FROM roi_files'"
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


def replace_files(handle: Handle, roi_set: str, files: Sequence[RoiFile], replaced: Sequence[str]) -> None:
    """Put files that were read into the study, in place of what some gave before, inside a transaction.

    Parameters
    ----------
    handle : Handle
        The study.
    roi_set : str
        Set of ROIs.
    files : sequence of RoiFile
        What comes.
    replaced : sequence of str
        Paths of the files whose ROIs go; those that do not come again go as well.

    Raises
    ------
    InputError
        With every ROI that cannot be added.
    """
    with (
        registered(handle.con, "incoming_roi", _outlines(files, roi_set)),
        registered(handle.con, "incoming_file", pa.table({"path": pa.array(replaced, pa.string())})),
    ):
        handle.con.execute(read_query("stage_rois"))
        problems = handle.con.execute(read_query("find_roi_problems")).fetchall()
    if problems:
        raise InputError([_roi_problem(*row) for row in problems])
    slides = sorted({o.slide for file in files for o in file.outlines} | set(_slides_of(handle, roi_set, replaced)))
    handle.con.execute(read_query("stage_kept_rois"), {"roi_set": roi_set, "slides": slides, "replaced": replaced})
    handle.con.execute(read_query("nest_rois"))
    orphans = handle.con.execute(
        "SELECT coalesce(place, file), roi_name, label FROM nested_roi "
        "WHERE marked_hole AND NOT nested AND parent IS NULL ORDER BY file, row_no, roi_name"
    ).fetchall()
    if orphans:
        raise InputError([_orphan_problem(*row) for row in orphans])
    for file in files:
        handle.con.execute(
            "INSERT INTO roi_files (roi_set, path, format, holes, sha256, options) VALUES ($1, $2, $3, $4, $5, $6) "
            "ON CONFLICT (roi_set, path) DO UPDATE SET "
            "format = excluded.format, holes = excluded.holes, sha256 = excluded.sha256, options = excluded.options",
            [roi_set, str(file.path), file.format, file.holes, file.sha256, file.options],
        )
    handle.con.execute(
        "DELETE FROM rois WHERE roi_set = $roi_set AND list_contains($slides, slide)",
        {"roi_set": roi_set, "slides": slides},
    )
    forget_labels(handle, slides)
    handle.con.execute(read_query("insert_rois"))
    gone = sorted(set(replaced) - {str(file.path) for file in files})
    handle.con.execute(
        "DELETE FROM roi_files WHERE roi_set = $roi_set AND list_contains($gone, path)",
        {"roi_set": roi_set, "gone": gone},
    )
    handle.con.execute("DELETE FROM roi_file_slides WHERE roi_file_id NOT IN (SELECT roi_file_id FROM roi_files)")
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
            "wkb": pa.array([o.wkb() for _, o in pairs], pa.binary()),
        }
    )


def _roi_problem(kind: str, place: str, slide: str, roi_name: str | None, other: str | None) -> str:
    """Return the message for an ROI that is refused."""
    match kind:
        case "unknown_slide":
            return (
                f"{place}: slide {slide!r} is not in the study; "
                "add it first with add-slides, or name the file after its slide"
            )
        case "slide_error":
            return f"{place}: slide {slide!r} cannot be used: {other}"
        case "no_area":
            return f"{place}: ROI {roi_name!r} of slide {slide!r} has no area; draw it again or remove it"
        case "outside":
            return (
                f"{place}: ROI {roi_name!r} lies wholly outside slide {slide!r} ({other}); "
                "coordinates must be level-0 pixels from the slide's top left corner"
            )
        case _:
            return (
                f"{place}: ROI {roi_name!r} of slide {slide!r} is in {other} too; "
                "names are unique in a slide: rename one, or add only one of the files"
            )


def _orphan_problem(place: str, roi_name: str, label: str | None) -> str:
    """Return the message for a hole that lies in no ROI."""
    of = "without a label" if label is None else f"labelled {label!r}"
    return (
        f"{place}: hole {roi_name!r} overlaps no ROI {of}; "
        "move it into the annotation that it is a hole of, or unmark it"
    )


def _rois_report(handle: Handle, files: Sequence[RoiFile], roi_set: str, *, unchanged: int) -> RoisReport:
    rows = handle.con.execute(
        "SELECT slide, roi_name, label, parent, repaired, leaves_slide FROM rois JOIN roi_files "
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
    )
