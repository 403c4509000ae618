"""Puts slide files into the table ``slides``: new ones, and those that changed, were moved or copied."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from slideduck.catalog.mpps import GivenMpps, given_mpps
from slideduck.catalog.slides import delete_computed, delete_seen
from slideduck.errors import InputError, SlideError
from slideduck.names import nfc, path_problem, text_problem
from slideduck.progress import track
from slideduck.show import Shown
from slideduck.slides.content import is_same_fingerprint
from slideduck.slides.header import SlideHeader, read_header
from slideduck.slides.kind import no_slide, unlike_a_slide
from slideduck.slides.search import SLIDE_SUFFIXES, find_slides, name_slides
from slideduck.store.db import atomic, registered
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_query
from slideduck.words import printable

__all__ = ["SlidesReport", "add_slides"]

_HEADER_THREADS = 4

_SLIDE_SCHEMA = pa.schema(
    [
        ("slide", pa.string()),
        ("path", pa.string()),
        ("vendor", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("mpp", pa.float64()),
        ("mpp_y", pa.float64()),
        ("mpp_given", pa.bool_()),
        ("level_widths", pa.list_(pa.int32())),
        ("level_heights", pa.list_(pa.int32())),
        ("level_downsamples", pa.list_(pa.float64())),
        ("objective_power", pa.float64()),
        ("background", pa.string()),
        ("bytes", pa.int64()),
        ("mtime", pa.float64()),
        ("fingerprint", pa.string()),
        ("error", pa.string()),
        ("bounds_x", pa.int32()),
        ("bounds_y", pa.int32()),
        ("bounds_width", pa.int32()),
        ("bounds_height", pa.int32()),
        ("centre_offset_x", pa.float64()),
        ("centre_offset_y", pa.float64()),
    ]
)
_HEADER_COLUMNS = [name for name in _SLIDE_SCHEMA.names if name in {f.name for f in fields(SlideHeader)}]

#: What tiles, labels and measures are computed from, beside the file.
_CONTENT = ("width", "height", "mpp", "error")

_Row = dict[str, Any]


@dataclass(frozen=True)
class SlidesReport(Shown):
    """What `add_slides` did.

    Attributes
    ----------
    added, updated, unchanged : int
        Slides that are new, that were read again and differ or lie elsewhere, and that are as they were.
    failed : dict of str to str
        The error of each slide that cannot be used, by name.
    warnings : tuple of str
        What the user should know of slides that can be used.
    left_out : tuple of str
        Files that are no slides, with the reason of each.
    moved : tuple of str
        Slides whose file lies elsewhere now; all that was computed of them is kept.
    copies : tuple of str
        Slides of which another file of the same bytes was given; they keep theirs.
    kept_mpp, header_mpp : dict of str to float
        Slides whose MPP was given earlier and is kept, and those that the default leaves alone, since their header
        has one.
    cleared : tuple of str
        Slides that lost their tiles and labels, since their file or MPP is another; predictions and features of them
        are gone too.
    strangers : tuple of str
        Slides of the table of MPP that are not among the files.
    """

    added: int
    updated: int
    unchanged: int
    failed: dict[str, str]
    warnings: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    kept_mpp: dict[str, float] = field(default_factory=dict)
    header_mpp: dict[str, float] = field(default_factory=dict)
    cleared: tuple[str, ...] = ()
    strangers: tuple[str, ...] = ()


def add_slides(
    handle: Handle,
    paths: Sequence[str | Path],
    *,
    mpp: float | Mapping[str, float] | None = None,
    mpp_table: str | Path | None = None,
    names: str = "stem",
) -> SlidesReport:
    """Read the headers of slides into the table ``slides``.

    Parameters
    ----------
    handle : Handle
        The study.
    paths : sequence of path
        Files, folders and globs. Masks, label images, thumbnails and files that are no slides are left out and
        reported; a file that is given alone is left out only if OpenSlide cannot read its kind.
    mpp : float or mapping of str to float, optional
        Microns per base pixel: one number for all slides whose header has none, or by slide name. What was given
        stays, until another is given.
    mpp_table : path, optional
        CSV with the columns ``slide`` and ``mpp``, for the slides that it names.
    names : {"stem", "relative"}
        What of a file's path is the slide's name: its stem, or its folders below the one given as well, as in
        ``case1/HE``. A file that the study has keeps its name.

    Returns
    -------
    SlidesReport

    Raises
    ------
    InputError
        If a path does not exist or none is a slide, two files have one name, or the table has bad rows; nothing is
        added then.
    """
    known = _known_rows(handle)
    slides, left_out, doubts = _slides_among(paths, names, known)
    given = given_mpps(mpp, mpp_table, list(slides))
    read = list(_read(handle, slides, given, known))
    told = _compared(read, known)
    cleared = _tiled(handle, told["changed"])
    with atomic(handle.con):
        _upsert(handle, [one.row for one in read if one.row != known.get(one.slide)])
        delete_computed(handle, told["changed"])
        delete_seen(handle, told["replaced"])
    return SlidesReport(
        added=len(told["new"]),
        updated=len(told["changed"]) + len(told["moved"]),
        unchanged=len(told["copies"]) + len(told["same"]),
        failed={one.slide: one.row["error"] for one in read if one.row["error"] is not None},
        warnings=(*doubts, *(text for one in read for text in one.warnings), *_renamed(read, known)),
        left_out=tuple(left_out),
        moved=tuple(told["moved"]),
        copies=tuple(told["copies"]),
        kept_mpp={one.slide: one.row["mpp"] for one in read if one.keeps_mpp},
        header_mpp={
            one.slide: one.row["mpp"]
            for one in read
            if given.default is not None and one.row["error"] is None and not one.row["mpp_given"]
        },
        cleared=tuple(cleared),
        strangers=given.strangers,
    )


def _known_rows(handle: Handle) -> dict[str, _Row]:
    """Return what the study knows of its slides, by name."""
    rows = handle.con.execute(f"SELECT {', '.join(_SLIDE_SCHEMA.names)} FROM slides ORDER BY slide").to_arrow_table()
    return {row["slide"]: row for row in rows.to_pylist()}


# --------------------------------------------------------------------------------- which are slides


def _slides_among(
    paths: Sequence[str | Path], names: str, known: Mapping[str, _Row]
) -> tuple[dict[str, Path], list[str], list[str]]:
    """Return the slides that paths stand for, by name; the other files, each with its reason; and warnings.

    A file that is given alone is meant: it is a slide if OpenSlide can read it, whatever it looks like.
    """
    found = find_slides(paths)
    alone = len(found) == 1 and not os.path.isdir(paths[0])
    name_of = {Path(row["path"]): name for name, row in known.items()}
    reasons = {path: no_slide(path, SLIDE_SUFFIXES) for path in found if path not in name_of}
    kept = [path for path in found if reasons.get(path) is None]
    new = [path for path in kept if path not in name_of]
    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        doubted = dict(zip(new, pool.map(unlike_a_slide, new), strict=True))
    warnings = [f"slide {path.name!r} may be no slide: {why}" for path, why in doubted.items() if why] if alone else []
    if not alone:
        reasons |= {path: f"{why}; give it alone to add it as a slide" for path, why in doubted.items() if why}
    slides = [path for path in kept if reasons.get(path) is None]
    named = name_slides(slides, paths, names=names, known=name_of)
    reasons |= {path: _unnamed(name, path) for name, path in named.items() if path not in name_of}
    named = {name: path for name, path in named.items() if reasons.get(path) is None}
    left_out = [printable(f"{path}: {why}") for path, why in sorted(reasons.items()) if why]
    if not named:
        raise InputError([f"no slide was given, and nothing was added: {text}" for text in left_out])
    # A study keeps the decomposed names that it has.
    composed = {nfc(name): name for name in known}
    return {composed.get(name, name): path for name, path in named.items()}, left_out, warnings


def _unnamed(name: str, path: Path) -> str | None:
    """Return why the name of a new slide is none: files are named after slides, and a study holds Unicode alone."""
    if text_problem(str(path)) is not None:
        return "its path is not UTF-8; rename it"
    problem = path_problem(name)
    return problem and f"the name {problem}; rename the file"


# ------------------------------------------------------------------------------------------ headers


@dataclass(frozen=True)
class _Read:
    """What was read of a slide: its row, what to say of it, and whether it keeps an MPP that was given earlier."""

    slide: str
    row: _Row
    warnings: tuple[str, ...] = ()
    keeps_mpp: bool = False


def _read(handle: Handle, slides: Mapping[str, Path], given: GivenMpps, known: Mapping[str, _Row]) -> Iterator[_Read]:
    """Read the headers of slides, some at a time."""

    def read(slide: str) -> _Read:
        try:
            return _read_slide(slide, slides[slide], given, known.get(slide))
        except SlideError as error:
            return _Read(slide, _failed_row(slide, slides[slide], str(error), known.get(slide)))

    with (
        track("Reading headers", len(slides), "slides", show=handle.progress) as advance,
        ThreadPoolExecutor(_HEADER_THREADS) as pool,
    ):
        for one in pool.map(read, slides):
            advance(1)
            yield one


def _read_slide(slide: str, path: Path, given: GivenMpps, was: _Row | None) -> _Read:
    """Read the header of a slide, with the MPP that was given now, or else earlier."""
    earlier = was["mpp"] if was is not None and was["mpp_given"] else None
    own = given.by_slide.get(slide)
    if own is None and earlier is not None:
        if given.default is not None:
            header = read_header(path, slide=slide, default_mpp=given.default)
            if header.mpp_given:
                return _Read(slide, _row(header), header.warnings)
        header = read_header(path, slide=slide, mpp=earlier)
        return _Read(slide, _row(header), header.warnings, keeps_mpp=True)
    header = read_header(path, slide=slide, mpp=own, default_mpp=given.default)
    return _Read(slide, _row(header), header.warnings)


def _failed_row(slide: str, path: Path, error: str, was: _Row | None) -> _Row:
    """Return the row of a slide that cannot be used; an MPP that was given is kept until it can."""
    row = dict.fromkeys(_SLIDE_SCHEMA.names) | {"slide": slide, "path": str(path), "mpp_given": False, "error": error}
    return row | {"mpp": was["mpp"], "mpp_given": True} if was is not None and was["mpp_given"] else row


def _row(header: SlideHeader) -> _Row:
    """Return the row of a header, as the table gives it back."""
    row = dict.fromkeys(_SLIDE_SCHEMA.names) | {name: getattr(header, name) for name in _HEADER_COLUMNS}
    lists = {name: list(value) for name, value in row.items() if isinstance(value, tuple)}
    return row | lists | {"path": str(header.path)}


# ------------------------------------------------------------------------- what is new or otherwise


def _compared(read: Sequence[_Read], known: Mapping[str, _Row]) -> dict[str, list[str]]:
    """Return the names of slides by what became of them, and let the row of a copy have the old path.

    Raises
    ------
    InputError
        For each slide whose name another file has that is still there.
    """
    told: dict[str, list[str]] = {what: [] for what in ("new", "changed", "replaced", "moved", "copies", "same")}
    problems = []
    for one in read:
        was = known.get(one.slide)
        if was is None:
            told["new"].append(one.slide)
            continue
        elsewhere = one.row["path"] != was["path"] and os.path.exists(was["path"])
        is_same = _is_same_file(one.row, was)
        if is_same:
            # What an earlier version gave is kept: all that was computed goes by it.
            one.row["fingerprint"] = was["fingerprint"]
        if elsewhere and not is_same:
            problems.append(
                f"{one.row['path']}: slide {one.slide!r} is in the study already, from {was['path']}; "
                "names are unique in a study: rename one of the files, or give `names='relative'`"
            )
            continue
        if elsewhere:
            one.row.update(path=was["path"], mtime=was["mtime"])
        if one.row["error"] is not None:
            # It may be back tomorrow, and what a network saw of it is worth hours: the file is told by this then.
            one.row.update(bytes=was["bytes"], fingerprint=was["fingerprint"])
        elif was["fingerprint"] is not None and not (is_same and was["mpp"] in (None, one.row["mpp"])):
            told["replaced"].append(one.slide)
        if not is_same or any(one.row[name] != was[name] for name in _CONTENT):
            told["changed"].append(one.slide)
        elif elsewhere:
            told["copies"].append(one.slide)
        else:
            told["moved" if one.row["path"] != was["path"] else "same"].append(one.slide)
    if problems:
        raise InputError(problems)
    return told


def _is_same_file(one: _Row, other: _Row) -> bool:
    """Return whether two rows are of one file, wherever it lies."""
    return one["bytes"] == other["bytes"] and is_same_fingerprint(one["fingerprint"], other["fingerprint"])


def _renamed(read: Sequence[_Read], known: Mapping[str, _Row]) -> Iterator[str]:
    """Yield a warning for each new slide that is another's file, which is no longer where it was."""
    of_size: dict[int, list[_Row]] = {}
    for row in known.values():
        if row["error"] is None:
            of_size.setdefault(row["bytes"], []).append(row)
    for one in read:
        if one.slide in known or one.row["error"] is not None:
            continue
        same = (row for row in of_size.get(one.row["bytes"], ()) if _is_same_file(one.row, row))
        was = next((row for row in same if not os.path.exists(row["path"])), None)
        if was is not None:
            yield (
                f"slide {one.slide!r} is the file of slide {was['slide']!r}, which is not at {was['path']} any more: "
                f"if it was moved, take {one.slide!r} out with remove-slides, and follow the folder with relocate"
            )


def _tiled(handle: Handle, slides: Sequence[str]) -> list[str]:
    """Return those of some slides that a grid lies on."""
    rows = handle.con.execute(
        "SELECT DISTINCT slide FROM grid_slides JOIN slides USING (slide_id) WHERE list_contains($slides, slide) "
        "ORDER BY slide",
        {"slides": list(slides)},
    ).fetchall()
    return [slide for (slide,) in rows]


def _upsert(handle: Handle, rows: Sequence[_Row]) -> None:
    """Put rows into the table, each in place of what the study knew of that slide."""
    if rows:
        table = pa.Table.from_pylist(list(rows), schema=_SLIDE_SCHEMA)
        with registered(handle.con, "incoming_slide", table):
            handle.con.execute(read_query("upsert_slides"))
