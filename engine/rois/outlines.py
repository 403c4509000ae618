"""ROIs as they are drawn: rings of points in base coordinates, and their form for the database."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Polygon", "Ring", "RoiFile", "RoiOutline", "distinct_points", "ring_from_points", "with_names"]

#: (n, 2) float64, x then y, base pixels; the first point is not repeated at the end.
Ring = NDArray[np.float64]

#: The outer ring, then the rings of its holes.
Polygon = tuple[Ring, ...]

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


@dataclass(frozen=True, eq=False)
class RoiFile:
    """The ROIs of one file, checked.

    Attributes
    ----------
    path : Path
        The file, absolute.
    format : {"csv", "geojson", "xml", "geoparquet", "mask"}
        Its format, recognised by its content.
    holes : {"nested", "explicit"}
        How holes are recognised.
    sha256 : str
        SHA-256 of its bytes, hexadecimal.
    outlines : tuple of RoiOutline
        In the order of the file.
    skipped : tuple of str
        A message for each object of the file that has no area, such as a line or a point.
    options : str
        What else was said of how to read it, as JSON.
    """

    path: Path
    format: Literal["csv", "geojson", "xml", "geoparquet", "mask"]
    holes: Literal["nested", "explicit"]
    sha256: str
    outlines: tuple[RoiOutline, ...]
    skipped: tuple[str, ...]
    options: str = "{}"

    def place(self, outline: RoiOutline) -> str:
        """Return the place of an ROI, with which messages begin: ``rois.csv:17`` or ``a.geojson:feature 3``."""
        if self.format == "mask":
            return self.path.name
        return f"{self.path.name}:{'feature ' if self.format == 'geojson' else ''}{outline.row}"


def ring_from_points(points: Ring) -> Ring:
    """Return a ring that cannot be written to, the closing repetition of its first point dropped.

    Parameters
    ----------
    points : (n, 2) float64
        Points in drawing order, base pixels.
    """
    n = len(points)
    while n > 1 and np.array_equal(points[n - 1], points[0]):
        n -= 1
    ring = points[:n]
    ring.flags.writeable = False
    return ring


def distinct_points(ring: Ring) -> int:
    """Return how many distinct points a ring has, counting no further than three."""
    other = (ring != ring[:1]).any(axis=1)
    if not other.any():
        return min(len(ring), 1)
    second = ring[other.argmax()]
    third = other & (ring != second).any(axis=1)
    return 3 if third.any() else 2


def with_names(outlines: Sequence[RoiOutline], wanted: Sequence[str]) -> list[RoiOutline]:
    """Return ROIs with a name for each that has none.

    Parameters
    ----------
    outlines : sequence of RoiOutline
        Those with an empty name are to be named.
    wanted : sequence of str
        The name for each. Where it is taken, ``_2``, ``_3`` and so on is put behind it; the names that
        ROIs have already are never given to another.
    """
    taken = {outline.roi_name for outline in outlines}
    named = []
    for outline, name in zip(outlines, wanted, strict=True):
        if not outline.roi_name:
            fresh, number = name, 1
            while fresh in taken:
                number += 1
                fresh = f"{name}_{number}"
            taken.add(fresh)
            outline = replace(outline, roi_name=fresh)
        named.append(outline)
    return named
