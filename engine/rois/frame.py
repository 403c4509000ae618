"""The corner that the coordinates of an ROI file count from, and the way from there to level 0 and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from slideduck.errors import StudyError
from slideduck.roifiles.ndpa import base_from_nm
from slideduck.roifiles.options import FRAMES
from slideduck.roifiles.outlines import Polygon, Ring, RoiFile, RoiOutline
from slideduck.store.handle import Handle
from slideduck.words import counted, some

__all__ = [
    "SlideFrame",
    "in_base_pixels",
    "in_level0",
    "out_of_level0",
    "slide_frames",
    "undecided",
    "undecided_problem",
    "written_offsets",
]

#: Files that a message describes at most.
_MOST = 20


@dataclass(frozen=True)
class SlideFrame:
    """A slide's level 0, and the part of it that was scanned.

    Attributes
    ----------
    slide : str
        Name of the slide.
    width, height : int
        Its size, base pixels; 0 for a slide that cannot be used.
    bounds_x, bounds_y : int
        Top left corner of what was scanned (``openslide.bounds-x``), base pixels; 0 where the header has none.
    bounds_width, bounds_height : int
        Its size, base pixels; the slide's where the header has none.
    """

    slide: str
    width: int
    height: int
    bounds_x: int
    bounds_y: int
    bounds_width: int
    bounds_height: int

    @property
    def has_two_corners(self) -> bool:
        """Whether what was scanned begins at another corner than the slide."""
        return (self.bounds_x, self.bounds_y) != (0, 0)

    @property
    def is_part(self) -> bool:
        """Whether a part of the slide was scanned, and not the whole."""
        scanned = (self.bounds_x, self.bounds_y, self.bounds_width, self.bounds_height)
        return scanned != (0, 0, self.width, self.height)

    def offset(self, frame: str | None) -> tuple[int, int]:
        """Return what is to be added to x and y of a frame, ``bounds`` or ``level0``, to get base pixels."""
        return (self.bounds_x, self.bounds_y) if frame == "bounds" else (0, 0)

    def __str__(self) -> str:
        right, bottom = self.bounds_x + self.bounds_width, self.bounds_y + self.bounds_height
        return (
            f"slide {self.slide!r}, {self.width} x {self.height}, was scanned at x {self.bounds_x} to {right}, "
            f"y {self.bounds_y} to {bottom}"
        )


def slide_frames(handle: Handle, slides: Iterable[str] | None = None) -> dict[str, SlideFrame]:
    """Return the frames of slides by name, of all if none are named; those that the study lacks are absent."""
    rows = handle.con.execute(
        "SELECT slide, coalesce(width, 0), coalesce(height, 0), coalesce(bounds_x, 0), coalesce(bounds_y, 0), "
        "coalesce(bounds_width, width, 0), coalesce(bounds_height, height, 0) "
        "FROM slides WHERE $slides IS NULL OR list_contains($slides::VARCHAR[], slide) ORDER BY slide",
        {"slides": None if slides is None else sorted(set(slides))},
    ).fetchall()
    return {row[0]: SlideFrame(*row) for row in rows}


def in_base_pixels(handle: Handle, files: Sequence[RoiFile]) -> tuple[list[RoiFile], list[str]]:
    """Return files with the outlines of those in nanometres in base pixels, by the slides of the study.

    Parameters
    ----------
    handle : Handle
        The study.
    files : sequence of RoiFile
        The files, their slides named as the study names them.

    Returns
    -------
    files : list of RoiFile
        Without those whose slide does not say where its centre lies.
    problems : list of str
        A message for each of these.
    """
    slides = {outline.slide for file in files if file.unit == "nm" for outline in file.outlines}
    if not slides:
        return list(files), []
    rows = handle.con.execute(
        "SELECT slide, centre_offset_x, centre_offset_y, mpp, coalesce(mpp_y, mpp), width, height FROM slides "
        "WHERE list_contains($slides, slide) AND error IS NULL",
        {"slides": sorted(slides)},
    ).fetchall()
    # What is said of a slide that the study has not, or that cannot be used, is said later.
    of_slide = {slide: facts for slide, *facts in rows}
    converted: list[RoiFile] = []
    problems = []
    for file in files:
        first = next(iter(file.outlines), None)
        if file.unit == "nm" and first is not None and None in of_slide.get(first.slide, ())[:2]:
            problems.append(
                f"{file.place(first)}: slide {first.slide!r} does not say where its centre lies on the glass "
                "(hamamatsu.XOffsetFromSlideCentre is missing), from which NDPA counts; add the .ndpi file itself as "
                "the slide, or give the ROIs as GeoJSON"
            )
        else:
            converted.append(_converted(file, of_slide) if file.unit == "nm" else file)
    return converted, problems


def _converted(file: RoiFile, of_slide: Mapping[str, Sequence[Any]]) -> RoiFile:
    """Return a file with its outlines in base pixels."""
    outlines = []
    for outline in file.outlines:
        if outline.slide in of_slide:
            offset_x, offset_y, mpp, mpp_y, *size = of_slide[outline.slide]
            rings = [
                tuple(base_from_nm(ring, (offset_x, offset_y), (mpp, mpp_y), (size[0], size[1])) for ring in polygon)
                for polygon in outline.polygons
            ]
            outline = replace(outline, polygons=tuple(rings))
        outlines.append(outline)
    return replace(file, outlines=tuple(outlines), unit="px")


def in_level0(file: RoiFile, frames: Mapping[str, SlideFrame]) -> RoiFile:
    """Return a file with its outlines in level 0: the one place where what a file counts in becomes base pixels.

    Parameters
    ----------
    file : RoiFile
        The file, with coordinates as they stand in it, and the frame that was said.
    frames : mapping of str to SlideFrame
        The frame of each of its slides.

    Returns
    -------
    RoiFile
        With the offset of each slide.
    """
    # NDPA counts from the centre, and is in level 0 by now.
    frame = None if file.format == "ndpa" else file.frame
    offsets = {slide: frames[slide].offset(frame) for slide in file.slides}
    moved = (_moved(outline, offsets[outline.slide]) for outline in file.outlines)
    return replace(file, outlines=tuple(moved), offsets=offsets)


def _moved(outline: RoiOutline, offset: tuple[int, int]) -> RoiOutline:
    """Return an outline with an offset added to all its points."""
    if offset == (0, 0):
        return outline

    def moved(ring: Ring) -> Ring:
        there = ring + np.array(offset, np.float64)
        there.flags.writeable = False
        return there

    return replace(outline, polygons=tuple(tuple(moved(ring) for ring in polygon) for polygon in outline.polygons))


def out_of_level0(polygons: Sequence[Polygon], offset: tuple[int, int]) -> tuple[Polygon, ...]:
    """Return polygons in base pixels as they count from another corner.

    Each number is the one with the fewest decimals that gives the same base pixel once the offset is added again, so
    that a file that was added and is written has the numbers that it had.
    """
    if offset == (0, 0):
        return tuple(polygons)

    def moved(ring: Ring) -> Ring:
        columns = zip(ring.T.tolist(), offset, strict=True)
        return np.array([[_before_adding(value, by) for value in column] for column, by in columns]).T

    return tuple(tuple(moved(ring) for ring in polygon) for polygon in polygons)


def _before_adding(value: float, by: int) -> float:
    """Return the number with the fewest decimals that is a value once something has been added to it."""
    exact = value - by
    return next((short for n in range(16) if (short := round(exact, n)) + by == value), exact)


def written_offsets(
    handle: Handle, slides: Sequence[str], frame: str | None, *, is_needed: bool
) -> dict[str, tuple[int, int]]:
    """Return what is to be taken off base pixels, by slide, in files that are written in a frame.

    Parameters
    ----------
    handle : Handle
        The study.
    slides : sequence of str
        Names of its slides.
    frame : {"bounds", "level0"}, optional
        Corner that the files are to count from; None if that was not said.
    is_needed : bool
        Whether it must be said where the corners differ.

    Raises
    ------
    StudyError
        If the frame is impossible, or needed and not said, with the slides whose corners differ.
    """
    if frame is not None and frame not in FRAMES:
        raise StudyError(f"frame is {frame!r}; give one of {', '.join(FRAMES)}")
    frames = slide_frames(handle, slides)
    parts = [str(one) for one in frames.values() if one.has_two_corners]
    if parts and is_needed and frame is None:
        raise StudyError(
            "GeoJSON is to be written of slides of which a part was scanned: give `frame='bounds'` for QuPath, which "
            "counts from the corner of that part, or `frame='level0'` for programs that count from the slide's corner; "
            + some(parts)
        )
    return {name: one.offset(frame) for name, one in frames.items()}


def undecided(file: RoiFile, frames: Mapping[str, SlideFrame]) -> list[SlideFrame]:
    """Return the slides of a file for which it must be said, and was not, which corner it counts from.

    GeoJSON comes from QuPath, which counts from what was scanned, and from programs that count from level 0; nothing
    in it tells. CSV and XML are level 0 unless something else is said.
    """
    if file.format != "geojson" or file.frame is not None:
        return []
    drawn = {outline.slide for outline in file.outlines}
    found = [frames[slide] for slide in file.slides if slide in drawn and slide in frames]
    return [frame for frame in found if frame.has_two_corners]


def undecided_problem(pairs: Sequence[tuple[RoiFile, SlideFrame]], command: str) -> str:
    """Return the message for files of which no frame was said: where their ROIs would lie in either, and what to type.

    Parameters
    ----------
    pairs : sequence of (RoiFile, SlideFrame)
        Each file with a slide that has two corners.
    command : str
        The command that adds them, to which the frame is put.
    """
    lines = []
    for file, frame in pairs[:_MOST]:
        outlines = [outline for outline in file.outlines if outline.slide == frame.slide]
        areas = [f"{_area(outlines, frame.offset(name))} ({name})" for name in ("bounds", "level0")]
        lines.append(f"  {file.path.name}: ROIs at {areas[0]} or {areas[1]}; {frame}")
    if len(pairs) > _MOST:
        lines.append(f"  and {len(pairs) - _MOST:,} more")
    files = len({file.path for file, _ in pairs})
    return "\n".join(
        [
            f"{counted(files, 'file')} of GeoJSON on slides of which a part was scanned: its corner (bounds), from "
            "which QuPath counts, is not the slide's (level0); say which one is meant:",
            *lines,
            f"from what was scanned: {command} --frame bounds",
            f"from the slide's corner: {command} --frame level0",
        ]
    )


def _area(outlines: Sequence[RoiOutline], offset: tuple[int, int]) -> str:
    """Return where outlines lie once they are moved, in words."""
    points = np.concatenate([polygon[0] for outline in outlines for polygon in outline.polygons]) + offset
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    return f"x {left:.1f} to {right:.1f}, y {top:.1f} to {bottom:.1f}"
