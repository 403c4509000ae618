"""Reads well-known binary (WKB), the form of outlines from the database and in GeoParquet."""

from __future__ import annotations

import struct

import numpy as np

from slideduck.limit import beyond
from slideduck.roifiles.outlines import Polygon, Ring, ring_from_points

__all__ = ["polygons_from_wkb"]

# Well-known binary (OGC 06-103r4, 8.2): thousands of a type tell z and m; EWKB sets high bits instead.
_KINDS = {
    1: "Point",
    2: "LineString",
    3: "Polygon",
    4: "MultiPoint",
    5: "MultiLineString",
    6: "MultiPolygon",
    7: "GeometryCollection",
}
_EWKB_Z, _EWKB_M, _EWKB_SRID = 0x80000000, 0x40000000, 0x20000000
_DIMENSIONS = {0: 2, 1: 3, 2: 3, 3: 4}


def polygons_from_wkb(data: bytes) -> tuple[str, tuple[Polygon, ...]]:
    """Read one geometry.

    Parameters
    ----------
    data : bytes
        Well-known binary of either byte order, ISO's or PostGIS's; z and m are left out.

    Returns
    -------
    kind : str
        ``"Polygon"``, ``"Point"`` and so on.
    polygons : tuple of Polygon
        The polygons of a Polygon, a MultiPolygon or a GeometryCollection, base pixels, the closing points of their
        rings dropped; none for an empty geometry, or one of another kind.

    Raises
    ------
    ValueError
        If the bytes are no geometry, or are cut short.
    """
    reader = _Reader(data)
    try:
        found = reader.geometry()
        reader.end()
        return found
    except struct.error as error:
        raise ValueError(f"cut short after {len(data)} bytes") from error
    except RecursionError as error:
        raise ValueError("collections in more collections than can be read") from error


class _Reader:
    """Goes through the bytes of one geometry."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def end(self) -> None:
        """Raise ValueError if the bytes end elsewhere than the geometry."""
        left = len(self._data) - self._at
        if left:
            raise ValueError(f"cut short after {len(self._data)} bytes" if left < 0 else f"{left} bytes too many")

    def geometry(self, depth: int = 1) -> tuple[str, tuple[Polygon, ...]]:
        """Return the kind and the polygons of the geometry that begins here, within so many others."""
        if problem := beyond("depth", depth):
            raise ValueError(problem)
        order, kind, dimensions = self._header()
        if kind == "Polygon":
            polygon = self._polygon(order, dimensions)
            return kind, (polygon,) if polygon else ()
        if kind == "MultiPolygon":
            parts = []
            for _ in range(self._number(order)):
                part_order, part, part_dimensions = self._header()
                if part != "Polygon":
                    raise ValueError(f"a MultiPolygon with a {part} in it")
                parts.append(self._polygon(part_order, part_dimensions))
            return kind, tuple(part for part in parts if part)
        if kind == "GeometryCollection":
            return kind, tuple(polygon for _ in range(self._number(order)) for polygon in self.geometry(depth + 1)[1])
        self._pass_over(kind, order, dimensions, depth)
        return kind, ()

    def _pass_over(self, kind: str, order: str, dimensions: int, depth: int) -> None:
        """Go to the end of a geometry of points or lines."""
        if kind == "Point":
            self._at += 8 * dimensions
        elif kind == "LineString":
            self._ring(order, dimensions)
        else:
            for _ in range(self._number(order)):
                self.geometry(depth + 1)

    def _header(self) -> tuple[str, str, int]:
        """Return the byte order as struct writes it, the kind, and the numbers of a point."""
        (mark,) = struct.unpack_from("B", self._data, self._at)
        if mark > 1:
            raise ValueError(f"byte order {mark}, which is neither 0 nor 1")
        self._at += 1
        order = "<" if mark else ">"
        code = self._number(order)
        if code & _EWKB_SRID:
            self._at += 4
        dimensions = 2 + bool(code & _EWKB_Z) + bool(code & _EWKB_M)
        thousands, number = divmod(code & 0x0FFFFFFF, 1000)
        if number not in _KINDS or thousands not in _DIMENSIONS:
            raise ValueError(f"geometry type {code}, which does not exist")
        return order, _KINDS[number], max(dimensions, _DIMENSIONS[thousands])

    def _number(self, order: str) -> int:
        (number,) = struct.unpack_from(order + "I", self._data, self._at)
        self._at += 4
        return int(number)

    def _polygon(self, order: str, dimensions: int) -> Polygon:
        return tuple(self._ring(order, dimensions) for _ in range(self._number(order)))

    def _ring(self, order: str, dimensions: int) -> Ring:
        n = self._number(order)
        end = self._at + 8 * n * dimensions
        if end > len(self._data):
            raise ValueError(f"cut short after {len(self._data)} bytes")
        points = np.frombuffer(self._data, order + "f8", n * dimensions, self._at).reshape(n, dimensions)
        self._at = end
        return ring_from_points(np.ascontiguousarray(points[:, :2], dtype=np.float64))
