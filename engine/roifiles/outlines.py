"""ROIs as they are drawn: rings of points in base coordinates, and their form for the database."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slideduck.files.tables import Problem
from slideduck.names import nfc
from slideduck.words import counted, some

__all__ = [
    "Note",
    "Notes",
    "Parsed",
    "Polygon",
    "Ring",
    "RoiFile",
    "RoiFormat",
    "RoiOutline",
    "Skipped",
    "distinct_points",
    "ellipse_ring",
    "few_points",
    "holds_point",
    "outline_place",
    "rectangle_ring",
    "ring_area",
    "ring_from_points",
    "with_names",
    "with_points",
]

#: (n, 2) float64, x then y, base pixels; the first point is not repeated at the end.
Ring = NDArray[np.float64]

#: The outer ring, then the rings of its holes.
Polygon = tuple[Ring, ...]

RoiFormat = Literal["csv", "geojson", "xml", "asap", "ndpa", "geoparquet", "mask"]

#: Corners of the polygon that stands for an ellipse: 0.04 % less area than the ellipse.
_ELLIPSE_POINTS = 128

# Well-known binary (OGC 06-103r4, 8.2): byte order 1 is little-endian.
_WKB_POLYGON = 3
_WKB_MULTIPOLYGON = 6


@dataclass(frozen=True, eq=False)
class RoiOutline:
    """One ROI of a file.

    Attributes
    ----------
    slide : str
        Name of the slide that it is drawn on.
    roi_name : str
        Its name, unique in the slide and file.
    label : str or None
        Its label, never empty.
    polygons : tuple of Polygon
        What was drawn, base pixels; more than one for a MultiPolygon.
    marked_hole : bool
        True if the file marks the whole ROI as a hole (ImageScope's ``NegativeROA``).
    row : int
        Where it stands, for messages: the line of its first point (CSV) or of its region (XML), or the
        number of its feature (GeoJSON) or row (GeoParquet), from 1. `RoiFile.place` writes it out.
    """

    slide: str
    roi_name: str
    label: str | None
    polygons: tuple[Polygon, ...]
    marked_hole: bool
    row: int

    def wkb(self) -> bytes:
        """Return the outline as little-endian well-known binary, rings closed.

        Returns
        -------
        bytes
            A Polygon, or a MultiPolygon where there are several polygons.
        """
        parts = [_polygon_wkb(polygon) for polygon in self.polygons]
        if len(parts) == 1:
            return parts[0]
        return b"".join((struct.pack("<BII", 1, _WKB_MULTIPOLYGON, len(parts)), *parts))


def _polygon_wkb(polygon: Polygon) -> bytes:
    parts = [struct.pack("<BII", 1, _WKB_POLYGON, len(polygon))]
    for ring in polygon:
        points = np.ascontiguousarray(ring, dtype="<f8")
        parts += (struct.pack("<I", len(points) + 1), points.tobytes(), points[:1].tobytes())
    return b"".join(parts)


class Note(NamedTuple):
    """Something that was met or done while files were read, and that users are told how often.

    Attributes
    ----------
    one, many : str
        What it happened to: ``"cell"``, ``"cells"``.
    rest : str
        What follows: ``"left out, not being annotations"``.
    """

    one: str
    many: str
    rest: str


#: Names that ROIs of a file share.
REPEATED = Note("ROI", "ROIs", "with the name of another numbered")
_PARTS = Note("part of an ROI", "parts of ROIs", "of fewer than three distinct points left out")
_HOLES = Note("hole", "holes", "of fewer than three distinct points left out")


class Notes:
    """How often each note was made, and of what."""

    def __init__(self) -> None:
        self._counts: Counter[Note] = Counter()
        self._examples: dict[Note, dict[str, None]] = {}

    def add(self, note: Note, example: str = "", count: int = 1) -> None:
        """Count a note; examples are named in the order in which they come, each once."""
        self._counts[note] += count
        if example:
            self._examples.setdefault(note, {})[example] = None

    def update(self, other: Notes) -> None:
        """Add the notes of another file."""
        for note, count in other._counts.items():
            self._counts[note] += count
            self._examples.setdefault(note, {}).update(other._examples.get(note, {}))

    def texts(self) -> tuple[str, ...]:
        """Return a sentence for each note, such as ``16 cells left out, not being annotations``."""
        texts = []
        for note, count in self._counts.items():
            examples = some(list(self._examples.get(note, ())))
            texts.append(f"{counted(count, note.one, note.many)} {note.rest}" + (f": {examples}" if examples else ""))
        return tuple(sorted(texts))


class Skipped(NamedTuple):
    """An object of a file that has no area: its kind, such as ``"arrow"``, and a message that names it."""

    kind: str
    message: str


@dataclass(frozen=True, eq=False)
class Parsed:
    """What a reader found in a file.

    Attributes
    ----------
    slide : str or None
        Name of the slide that the file as a whole is of; None if a column names the slide of each ROI.
    outlines : list of RoiOutline
        The ROIs, in the order of the file; none for a slide that was looked at and has none.
    skipped : list of Skipped
        Objects without an area, such as points.
    problems : list of Problem
        Messages for all that is refused, by row.
    notes : Notes
        What else users are told.
    """

    slide: str | None
    outlines: list[RoiOutline] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)


@dataclass(frozen=True, eq=False)
class RoiFile:
    """The ROIs of one file, checked.

    Attributes
    ----------
    path : Path
        The file, absolute.
    format : {"csv", "geojson", "xml", "asap", "ndpa", "geoparquet", "mask"}
        Its format, recognised by its content; ``xml`` is that of ImageScope and HALO.
    holes : {"nested", "explicit"}
        How holes are recognised.
    sha256 : str
        SHA-256 of its bytes, hexadecimal.
    outlines : tuple of RoiOutline
        In the order of the file; none if its slide was looked at and has none.
    skipped : tuple of str
        A message for each object of the file that has no area, such as a line or a point; where there are many of a
        kind they are counted in the notes.
    slide : str or None
        Name of the slide that the file as a whole is of; None if a column names the slide of each ROI.
    labels : frozenset of str
        Labels as the file has them, before any is renamed.
    notes : Notes
        What was left out, taken for missing, numbered and so on.
    unit : {"px", "nm"}
        Unit of the outlines: base pixels, or nanometres from the centre of the glass (NDPA).
    slides : tuple of str
        Slides that it speaks of, by their names in the study; one without ROIs has been looked at, and has none.
    frame : {"bounds", "level0"}, optional
        Corner that it counts from; None if that was not said, which is level 0 then.
    said : str
        What else was said of how to read it, as JSON.
    offsets : mapping of str to (float, float)
        What was added to x and y, by slide, to get base pixels.
    """

    path: Path
    format: RoiFormat
    holes: Literal["nested", "explicit"]
    sha256: str
    outlines: tuple[RoiOutline, ...]
    skipped: tuple[str, ...]
    slide: str | None = None
    labels: frozenset[str] = frozenset()
    notes: Notes = field(default_factory=Notes)
    unit: Literal["px", "nm"] = "px"
    slides: tuple[str, ...] = ()
    frame: str | None = None
    said: str = "{}"
    offsets: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def place(self, outline: RoiOutline) -> str:
        """Return the place of an ROI, with which messages begin: ``rois.csv:17`` or ``a.geojson:feature 3``."""
        return outline_place(self.path.name, self.format, outline)


def outline_place(name: str, form: RoiFormat, outline: RoiOutline) -> str:
    """Return the place of an ROI in a file of a name; see `RoiFile.place`."""
    if form == "mask":
        return name
    return f"{name}:{'feature ' if form == 'geojson' else ''}{outline.row}"


def ring_from_points(points: Ring) -> Ring:
    """Return a ring that cannot be written to, the closing repetition of its first point dropped.

    Parameters
    ----------
    points : (n, 2) float64
        Points in drawing order, base pixels.
    """
    n = len(points)
    # As lists: for two numbers numpy takes ten times as long, and a slide has a million rings.
    first = points[:1].tolist()
    while n > 1 and points[n - 1 : n].tolist() == first:
        n -= 1
    ring = points[:n]
    ring.flags.writeable = False
    return ring


def distinct_points(ring: Ring) -> int:
    """Return how many distinct points a ring has, counting no further than three."""
    if len({(x, y) for x, y in ring[:3].tolist()}) == 3:
        return 3
    other = (ring != ring[:1]).any(axis=1)
    if not other.any():
        return min(len(ring), 1)
    second = ring[other.argmax()]
    third = other & (ring != second).any(axis=1)
    return 3 if third.any() else 2


def few_points(n: int) -> str:
    """Say that a ring has too few distinct points."""
    return f"has {counted(n, 'distinct point')}; an area needs three or more"


def rectangle_ring(x: Ring, y: Ring) -> Ring:
    """Return the corners of the box between two points."""
    return ring_from_points(np.array([(x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])]))


def ellipse_ring(x: Ring, y: Ring) -> Ring:
    """Return 128 points on the ellipse that touches the sides of the box between two points."""
    angle = np.arange(_ELLIPSE_POINTS) * (2 * np.pi / _ELLIPSE_POINTS)
    centre_x, centre_y = x.mean(), y.mean()
    return ring_from_points(
        np.column_stack(
            [centre_x + abs(x[1] - x[0]) / 2 * np.cos(angle), centre_y + abs(y[1] - y[0]) / 2 * np.sin(angle)]
        )
    )


def with_points(
    polygons: Sequence[Polygon], called: Callable[[str], str], place: str, notes: Notes
) -> tuple[tuple[Polygon, ...], list[str]]:
    """Leave out the parts and holes of an ROI that have too few points for an area, and count them.

    Parameters
    ----------
    polygons : sequence of Polygon
        The parts, one or more.
    called : callable
        Takes ``"outline"`` or ``"hole"`` and returns what messages call that of this ROI.
    place : str
        Where the ROI stands, for notes.
    notes : Notes
        Are added to.

    Returns
    -------
    polygons : tuple of Polygon
        The others. Points in a line are left for the repair, which finds out what has an area.
    wrong : list of str
        What is wrong where nothing would remain.
    """
    counts = [distinct_points(polygon[0]) for polygon in polygons]
    kept = [polygon for polygon, n in zip(polygons, counts, strict=True) if n >= 3]
    if not kept:
        return (), [f"{called('outline')} {few_points(n)}" for n in counts]
    if len(kept) < len(polygons):
        notes.add(_PARTS, place, len(polygons) - len(kept))
    cleaned = [(outer, *(hole for hole in holes if distinct_points(hole) >= 3)) for outer, *holes in kept]
    holes = sum(map(len, kept)) - sum(map(len, cleaned))
    if holes:
        notes.add(_HOLES, place, holes)
    return tuple(cleaned), []


def ring_area(ring: Ring) -> float:
    """Return the area of a ring that does not cross itself, square base pixels (the shoelace formula)."""
    x, y = ring[:, 0], ring[:, 1]
    return float(abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2)


def holds_point(ring: Ring, x: float, y: float) -> bool:
    """Return whether a point lies within a ring, by the even-odd rule; on the ring itself it may or may not."""
    from_x, from_y = ring[:, 0], ring[:, 1]
    to_x, to_y = np.roll(from_x, -1), np.roll(from_y, -1)
    crossed = (from_y > y) != (to_y > y)
    rise = np.where(crossed, to_y - from_y, 1)
    return bool(np.count_nonzero(crossed & (x < from_x + (y - from_y) / rise * (to_x - from_x))) % 2)


def _in_nfc(outline: RoiOutline) -> RoiOutline:
    """Return an ROI with its name and label in Unicode's NFC, mostly as they are."""
    name, label = nfc(outline.roi_name), outline.label and nfc(outline.label)
    if (name, label) == (outline.roi_name, outline.label):
        return outline
    return replace(outline, roi_name=name, label=label)


def with_names(outlines: Sequence[RoiOutline], wanted: Sequence[str], notes: Notes) -> list[RoiOutline]:
    """Return ROIs with a name of its own for each; names and labels are put into Unicode's NFC.

    Parameters
    ----------
    outlines : sequence of RoiOutline
        Those with an empty name are to be named, those with a name that an earlier one of the slide has are numbered.
    wanted : sequence of str
        The name for each that has none. Where a name is taken, ``_2``, ``_3`` and so on is put behind it; names that
        stand in the file are never given to another.
    notes : Notes
        Count those that are numbered.
    """
    outlines = [_in_nfc(outline) for outline in outlines]
    taken = {(outline.slide, outline.roi_name) for outline in outlines}
    seen: set[tuple[str, str]] = set()
    numbers: Counter[tuple[str, str]] = Counter()
    named = []
    for outline, name in zip(outlines, wanted, strict=True):
        slide, given = outline.slide, outline.roi_name
        if not given or (slide, given) in seen:
            base = given or name
            fresh = base
            while (slide, fresh) in taken:
                numbers[slide, base] = max(numbers[slide, base], 1) + 1
                fresh = f"{base}_{numbers[slide, base]}"
            taken.add((slide, fresh))
            outline = replace(outline, roi_name=fresh)
            if given:
                notes.add(REPEATED, f"{slide}: {fresh}")
        seen.add((slide, given))
        named.append(outline)
    return named
