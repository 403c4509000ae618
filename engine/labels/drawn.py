"""Compares the stored shapes of ROIs with what their files draw, along lines, by arithmetic of its own.

It neither starts from a repaired shape nor calls GEOS, which repairs them. Along a horizontal line, a point is in a
ring if an odd number of the ring's edges lies left of it; it is in a drawing if it is in an outer ring and none of the
inner ones of that, and in an ROI if it is in none of the holes either.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slideduck.errors import InputError
from slideduck.progress import track
from slideduck.roifiles.options import RoiOptions
from slideduck.roifiles.outlines import Polygon, Ring
from slideduck.roifiles.read import parse_roi_file
from slideduck.roifiles.wkb import polygons_from_wkb
from slideduck.show import Shown
from slideduck.store.handle import Handle

__all__ = ["DrawnReport", "compare_drawn"]

#: Formats that are not compared, and why not. The coordinates of others are pixels, but for their corner.
_NOT_COMPARED = {
    "mask": "is a mask, whose pixels are outlined and not drawn; it is not compared",
    "ndpa": "counts in nanometres from the centre of the glass; it is not compared",
}
#: Lines through each ROI, evenly spaced, and the most rings that get a line of their own.
_LINES, _RINGS = 16, 200
#: Length of a line, base pixels, on which both may differ at each place where it crosses an edge.
_TOLERANCE = 1e-6
#: Files and ROIs that a sample is drawn from, at most.
_FILES, _ROIS = 50, 1_000

_Floats = NDArray[np.float64]

#: What a file draws, by slide and name.
_Drawn = dict[tuple[str, str], Sequence[Polygon]]


@dataclass(frozen=True)
class DrawnReport(Shown):
    """How the stored shapes of ROIs compare with their files.

    Attributes
    ----------
    rois : int
        ROIs that were compared.
    differences : pyarrow.Table
        Those that differ: ``roi_set``, ``slide``, ``roi_name``, ``path``, ``area`` as stored and ``drawn_area`` as the
        lines tell it, square base pixels.
    unverified : tuple of str
        Files and ROIs that cannot be compared, each with the reason. What a ring encloses that runs along itself is
        not told by counting edges.
    """

    rois: int
    differences: pa.Table
    unverified: tuple[str, ...]


@dataclass(frozen=True)
class _Stored:
    """An ROI as the study holds it; for a hole, whether it lies within its parent."""

    roi_set: str
    slide: str
    roi_name: str
    label: str | None
    parent: str | None
    marked_hole: bool
    nested: bool
    path: str
    area: float
    geom: bytes
    outline: bytes
    in_parent: bool | None


def compare_drawn(handle: Handle, *, every: bool, rng: np.random.Generator) -> DrawnReport:
    """Read ROI files again and compare what they draw with what is stored.

    Parameters
    ----------
    handle : Handle
        The study.
    every : bool
        Compare every ROI of every file; else at most 1,000 of 50 files.
    rng : numpy.random.Generator
        Draws them.

    Returns
    -------
    DrawnReport
    """
    files = handle.con.execute(
        "SELECT roi_file_id, path, format, holes, options, sha256 FROM roi_files ORDER BY roi_set, path"
    ).fetchall()
    if not every and len(files) > _FILES:
        files = [files[i] for i in sorted(rng.choice(len(files), _FILES, replace=False))]
    compared, wrong, unverified = 0, [], []
    share = None if every else -(-_ROIS // max(len(files), 1))
    with track("Redrawing ROIs", len(files), "files", show=handle.progress) as advance:
        for file_id, path, form, holes, options, sha256 in files:
            drawn = _drawn(path, form, holes, options, sha256)
            if isinstance(drawn, str):
                unverified.append(f"{path}: {drawn}")
            else:
                of_file = _stored(handle, file_id)
                around = _holes(handle, of_file)
                offsets = _offsets(handle, file_id)
                if share is not None and len(of_file) > share:
                    of_file = [of_file[i] for i in sorted(rng.choice(len(of_file), share, replace=False))]
                for roi in of_file:
                    called = f"{path}: ROI {roi.roi_name!r} of slide {roi.slide!r}"
                    if not _drawing(roi, drawn):
                        unverified.append(f"{called} is not in it, as it is read now")
                        continue
                    found = _difference(roi, drawn, offsets.get(roi.slide, (0.0, 0.0)), around.get(_place(roi), ()))
                    compared += 1
                    if found is not None and math.isnan(found):
                        unverified.append(f"{called} runs along itself")
                    elif found is not None:
                        wrong.append((roi, found))
            advance(1)
    columns = {
        **{
            name: pa.array([getattr(roi, name) for roi, _ in wrong], pa.string())
            for name in ("roi_set", "slide", "roi_name", "path")
        },
        "area": pa.array([roi.area for roi, _ in wrong], pa.float64()),
        "drawn_area": pa.array([area for _, area in wrong], pa.float64()),
    }
    return DrawnReport(compared, pa.table(columns), tuple(unverified))


def _drawn(path: str, form: str, holes: str, options: str, sha256: str) -> _Drawn | str:
    """Return what a file draws by slide and name, the slide empty where it is of one; or why that cannot be told."""
    if form in _NOT_COMPARED:
        return _NOT_COMPARED[form]
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        return f"cannot be read any more ({error.strerror})"
    if hashlib.sha256(data).hexdigest() != sha256:
        return "has changed since it was added; add it again"
    said = {name: value for name, value in json.loads(options).items() if name in ("include", "label_from", "labels")}
    try:
        file = parse_roi_file(path, RoiOptions(holes=holes, **said))
    except InputError as error:
        return f"is refused now: {error.problems[0]}"
    of_one = len({outline.slide for outline in file.outlines}) == 1
    return {("" if of_one else one.slide, one.roi_name): one.polygons for one in file.outlines}


def _stored(handle: Handle, file_id: int) -> list[_Stored]:
    """Return the ROIs that a file gave, in the order of slide and name."""
    return [
        _Stored(*row) for row in handle.con.execute(f"{_SELECT} WHERE roi_file_id = $1 {_ORDER}", [file_id]).fetchall()
    ]


_SELECT = (
    "SELECT rois.roi_set, slide, roi_name, label, parent, marked_hole, holes = 'nested', path, area, ST_AsWKB(geom), "
    "ST_AsWKB(outline), (SELECT ST_Within(rois.outline, around.outline) FROM rois AS around WHERE "
    "around.roi_set = rois.roi_set AND around.slide = rois.slide AND around.roi_name = rois.parent) "
    "FROM rois JOIN roi_files USING (roi_file_id)"
)
_ORDER = "ORDER BY slide, roi_name"


def _place(roi: _Stored) -> tuple[str, str, str | None]:
    return roi.roi_set, roi.slide, roi.label


def _holes(handle: Handle, rois: Sequence[_Stored]) -> dict[tuple[str, str, str | None], list[tuple[_Stored, _Floats]]]:
    """Return the holes on the slides of some ROIs, by set, slide and label, with left, top, -right, -bottom."""
    slides = sorted({roi.slide for roi in rois})
    rows = handle.con.execute(
        f"{_SELECT} WHERE rois.roi_set = $1 AND list_contains($2, slide) AND parent IS NOT NULL {_ORDER}",
        [rois[0].roi_set if rois else "", slides],
    ).fetchall()
    found: dict[tuple[str, str, str | None], list[tuple[_Stored, _Floats]]] = {}
    for hole in (_Stored(*row) for row in rows):
        points = np.concatenate([polygon[0] for polygon in polygons_from_wkb(hole.outline)[1]])
        bounds = np.concatenate([points.min(axis=0), -points.max(axis=0)])
        found.setdefault(_place(hole), []).append((hole, bounds))
    return found


def _offsets(handle: Handle, file_id: int) -> dict[str, tuple[float, float]]:
    """Return what was added to x and y of a file, for each of its slides."""
    rows = handle.con.execute(
        "SELECT slide, offset_x, offset_y FROM roi_file_slides WHERE roi_file_id = $1", [file_id]
    ).fetchall()
    return {slide: (x, y) for slide, x, y in rows}


def _drawing(roi: _Stored, drawn: _Drawn) -> Sequence[Polygon] | None:
    """Return what a file draws of an ROI."""
    return drawn.get(("", roi.roi_name)) or drawn.get((roi.slide, roi.roi_name))


def _difference(
    roi: _Stored,
    drawn: _Drawn,
    offset: tuple[float, float],
    holes: Sequence[tuple[_Stored, _Floats]],
) -> float | None:
    """Return the area that is drawn, square base pixels, where it is not what is stored; NaN if it cannot be told."""

    def drawing(one: _Stored) -> Sequence[Polygon]:
        polygons = _drawing(one, drawn) if one.path == roi.path else None
        if polygons is None:
            return polygons_from_wkb(one.outline)[1]
        return [tuple(ring + offset for ring in polygon) for polygon in polygons]

    own = drawing(roi)
    stored = [ring for polygon in polygons_from_wkb(roi.geom)[1] for ring in polygon]
    rings = [ring for polygon in own for ring in polygon]
    points = np.concatenate(rings)
    reach = np.concatenate([points.max(axis=0), -points.min(axis=0)])
    taken = [hole for hole, bounds in holes if (bounds < reach).all() and _may_be_hole(hole, roi)]
    holes_drawn = [drawing(hole) for hole in taken]
    low = float(points[:, 1].min())
    height = float(points[:, 1].max()) - low
    even = low + height * (np.arange(_LINES) + 0.5) / _LINES
    hole_rings = [ring for polygons in holes_drawn for polygon in polygons for ring in polygon]
    beside = [_height_within(ring) for ring in [*rings, *stored, *hole_rings][:_RINGS]]
    # An odd part of a pixel: not through the corners of drawings on whole pixels, where left and right are not told.
    lines = np.concatenate([even, np.array(beside)]) + 1 / 7919
    own_x, *holes_x = ([[_crossings(ring, lines) for ring in p] for p in shape] for shape in (own, *holes_drawn))
    stored_x = [_crossings(ring, lines) for ring in stored]
    sections = [
        _Line(_at(own_x, i), [ring[i] for ring in stored_x], [_at(hole, i) for hole in holes_x])
        for i in range(len(lines))
    ]
    # A hole of another ROI, within which it lies, has this one as an island.
    of_others = [i for i, hole in enumerate(taken) if hole.in_parent and hole.parent != roi.roi_name]
    islands = {i for i in of_others if all(one.is_within(i) for one in sections)}
    both = [one.lengths(islands) for one in sections]
    wrong = [one for one, (_, other) in zip(sections, both, strict=True) if other > one.tolerance]
    if not wrong:
        return None
    if any(one.runs_along_itself for one in sections):
        return math.nan
    return roi.area + sum(more for more, _ in both[:_LINES]) * height / _LINES


def _at(polygons: Sequence[Sequence[Sequence[_Floats]]], line: int) -> _Crossed:
    """Return where one of the lines crosses polygons."""
    return [[ring[line] for ring in polygon] for polygon in polygons]


def _may_be_hole(hole: _Stored, roi: _Stored) -> bool:
    """Return whether a hole may be one of an ROI: nested, its own; marked, any of its label."""
    if roi.parent is not None or hole.nested != roi.nested:
        return False
    return hole.parent == roi.roi_name if roi.nested else hole.marked_hole


def _height_within(ring: Ring) -> float:
    """Return the y of a line through a ring, off its middle, where corners of symmetrical drawings lie."""
    low, high = float(ring[:, 1].min()), float(ring[:, 1].max())
    return low + 0.4142 * (high - low)


def _crossings(ring: Ring, lines: _Floats) -> list[_Floats]:
    """Return where each line crosses the edges of a ring, in order."""
    start, end = ring, np.roll(ring, -1, axis=0)
    crossed = (start[:, 1] > lines[:, None]) != (end[:, 1] > lines[:, None])
    line, edge = np.nonzero(crossed)
    slope = (end[edge, 0] - start[edge, 0]) / (end[edge, 1] - start[edge, 1])
    x = start[edge, 0] + (lines[line] - start[edge, 1]) * slope
    order = np.lexsort((x, line))
    return np.split(x[order], np.searchsorted(line[order], np.arange(1, len(lines))))


#: The rings of each polygon: where a line crosses them.
_Crossed = Sequence[Sequence[_Floats]]


class _Line:
    """What of a horizontal line lies in an ROI, as drawn and as stored."""

    def __init__(self, own: _Crossed, stored: Sequence[_Floats], holes: Sequence[_Crossed]) -> None:
        self._own, self._stored, self._holes = own, stored, holes
        drawn = [ring for polygons in (own, *holes) for polygon in polygons for ring in polygon]
        at = np.sort(np.concatenate([*stored, *drawn, np.empty(0)]))
        self._width = np.diff(at)
        self._middle = at[:-1] + self._width / 2

    def _in_drawing(self, polygons: _Crossed) -> NDArray[np.bool_]:
        """Return for each piece of the line whether it is in a drawing."""
        found = np.zeros(len(self._middle), bool)
        for polygon in polygons:
            outer, *inner = (_is_odd(ring, self._middle) for ring in polygon)
            for hole in inner:
                outer &= ~hole
            found |= outer
        return found

    def is_within(self, hole: int) -> bool:
        """Return whether what is drawn of the ROI lies in a hole."""
        outside = self._in_drawing(self._own) & ~self._in_drawing(self._holes[hole])
        return float(self._width[outside].sum()) <= _TOLERANCE

    def lengths(self, islands: set[int]) -> tuple[float, float]:
        """Return how much more of the line is drawn than is stored, and how much is other, base pixels."""
        drawn = self._in_drawing(self._own)
        for i, hole in enumerate(self._holes):
            if i not in islands:
                drawn &= ~self._in_drawing(hole)
        stored = np.zeros_like(drawn)
        for ring in self._stored:
            stored ^= _is_odd(ring, self._middle)
        more = float(self._width[drawn & ~stored].sum())
        less = float(self._width[stored & ~drawn].sum())
        return more - less, more + less

    @property
    def tolerance(self) -> float:
        """Length that may be other, base pixels."""
        return _TOLERANCE * (len(self._width) + 1)

    @property
    def runs_along_itself(self) -> bool:
        """Return whether a ring of the drawing is crossed twice at one place."""
        drawn = [ring for polygons in (self._own, *self._holes) for polygon in polygons for ring in polygon]
        return any((np.diff(ring) <= _TOLERANCE).any() for ring in drawn)


def _is_odd(crossings: _Floats, x: _Floats) -> NDArray[np.bool_]:
    """Return for each place whether an odd number of crossings lies left of it."""
    odd: NDArray[np.bool_] = np.searchsorted(crossings, x) % 2 == 1
    return odd
