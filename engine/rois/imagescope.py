"""Reads the XML files that Aperio ImageScope writes: annotation layers with their regions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

import numpy as np

from slideduck.errors import InputError
from slideduck.files.find import quoted
from slideduck.files.tables import Problem, parse_numbers
from slideduck.rois.outlines import Ring, RoiOutline, distinct_points, ring_from_points, with_names

__all__ = ["parse_imagescope"]

# Region types of ImageScope.
_RECTANGLE, _ELLIPSE = "1", "2"
_NOT_AREAS = {"3": "an arrow", "4": "a ruler", "5": "a pointer"}
_AREAS = ("0", _RECTANGLE, _ELLIPSE)

#: Corners of the polygon that stands for an ellipse: 0.04 % less area than the ellipse.
_ELLIPSE_POINTS = 128


@dataclass
class _Region:
    """A region while it is read."""

    line: int
    label: str | None
    id: str
    name: str
    kind: str
    negative: str
    x: list[str] = field(default_factory=list)
    y: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)


def parse_imagescope(path: Path, data: bytes) -> tuple[list[RoiOutline], list[str], list[Problem]]:
    """Read the ROIs of an ImageScope XML file.

    Parameters
    ----------
    path : Path
        The file; its stem is the slide's name.
    data : bytes
        Its content.

    Returns
    -------
    outlines : list of RoiOutline
        A rectangle or an ellipse of two vertices (corners of the box around it) becomes a polygon, the
        ellipse one of 128 corners. Regions without a text are ``ROI_{Id}``; since Ids begin again in each
        layer, the second ``ROI_1`` of a file is ``ROI_1_2``.
    skipped : list of str
        A message for each region without an area, such as an arrow.
    problems : list of Problem
        Messages for each region that is refused, by line.

    Raises
    ------
    InputError
        If the file is broken XML, declares a document type, or is not ImageScope's.
    """
    outlines: list[RoiOutline] = []
    wanted: list[str] = []
    skipped: list[str] = []
    problems: list[Problem] = []
    line_of: dict[str, int] = {}
    for region in _Reader(path.name).read(data):
        place = f"{path.name}:{region.line}"
        called = f"ROI {region.name!r}" if region.name else f"region {region.id} without a text"
        if region.kind not in _AREAS:
            what = _NOT_AREAS.get(region.kind, f"of type {quoted(region.kind)}")
            skipped.append(f"{place}: {called} is {what}, which has no area")
            continue
        if region.negative not in ("", "0", "1"):
            message = f"{called} has NegativeROA {quoted(region.negative)}; write 0 or 1"
            problems.append((region.line, f"{place}: {message}"))
        if region.name and region.name in line_of:
            message = f"{called} is there already (line {line_of[region.name]})"
            problems.append((region.line, f"{place}: {message}; names are unique in a slide: change its Text"))
        line_of.setdefault(region.name, region.line)
        ring = _ring(region, called, path.name, problems)
        negative = region.negative == "1"
        outlines.append(RoiOutline(path.stem, region.name, region.label, ((ring,),), negative, region.line))
        wanted.append(f"ROI_{region.id}")
    return with_names(outlines, wanted), skipped, problems


def _ring(region: _Region, called: str, name: str, problems: list[Problem]) -> Ring:
    """Return the outline of a region; its problems are appended to a list."""
    x, bad_x = parse_numbers(region.x)
    y, bad_y = parse_numbers(region.y)
    for axis, texts, bad in (("X", region.x, bad_x), ("Y", region.y, bad_y)):
        for i in bad:
            what = f"{quoted(texts[i])}, not a finite number" if texts[i] else "missing or empty"
            message = f"{axis} of a vertex of {called} is {what}; write base pixels, such as 1024.5"
            problems.append((region.lines[i], f"{name}:{region.lines[i]}: {message}"))
    ring = ring_from_points(np.column_stack([x, y]))
    if bad_x or bad_y:
        return ring
    if region.kind == _ELLIPSE and len(x) != 2:
        message = f"{called} is an ellipse of {len(x)} vertices, not the two corners of its box; draw it again"
        problems.append((region.line, f"{name}:{region.line}: {message}"))
        return ring
    if region.kind in (_RECTANGLE, _ELLIPSE) and len(x) == 2:
        return ring_from_points(_ellipse(x, y) if region.kind == _ELLIPSE else _rectangle(x, y))
    n = distinct_points(ring)
    if n < 3:
        message = f"{called} has {n} distinct point{'s' * (n != 1)}; an area needs three or more"
        problems.append((region.line, f"{name}:{region.line}: {message}"))
    return ring


def _rectangle(x: Ring, y: Ring) -> Ring:
    """Return the corners of the box between two points."""
    return np.array([(x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])])


def _ellipse(x: Ring, y: Ring) -> Ring:
    """Return points on the ellipse that touches the sides of the box between two points."""
    angle = np.arange(_ELLIPSE_POINTS) * (2 * np.pi / _ELLIPSE_POINTS)
    centre_x, centre_y = x.mean(), y.mean()
    return np.column_stack(
        [centre_x + abs(x[1] - x[0]) / 2 * np.cos(angle), centre_y + abs(y[1] - y[0]) / 2 * np.sin(angle)]
    )


class _Reader:
    """Collects regions while expat goes through the file, so that no tree is built."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._parser = expat.ParserCreate()
        self._parser.StartDoctypeDeclHandler = self._refuse_doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._root = ""
        self._label: str | None = None
        self._open: _Region | None = None
        self._regions: list[_Region] = []

    def read(self, data: bytes) -> list[_Region]:
        """Return the regions of a file in its order."""
        try:
            self._parser.Parse(data, True)
        except expat.ExpatError as error:
            what = f"at column {error.offset + 1}: {expat.ErrorString(error.code)}"
            raise InputError([f"{self._name}:{error.lineno}: broken XML {what}; export it again"]) from error
        except (LookupError, ValueError) as error:
            # An encoding that Python does not know, or one of several bytes a character.
            raise InputError([f"{self._name}:1: XML that cannot be read: {error}; save it as UTF-8"]) from error
        return self._regions

    def _refuse_doctype(self, *_: object) -> NoReturn:
        # Entities, which can fill the memory or name other files, are declared nowhere else; ImageScope
        # writes no document type.
        raise InputError(
            [
                f"{self._name}:{self._parser.CurrentLineNumber}: declares a document type (<!DOCTYPE ...>), "
                "which could define entities and is refused; take the declaration out"
            ]
        )

    def _start(self, element: str, attributes: dict[str, str]) -> None:
        line = self._parser.CurrentLineNumber
        if element == "Vertex" and self._open is not None:
            self._open.x.append(attributes.get("X", "").strip())
            self._open.y.append(attributes.get("Y", "").strip())
            self._open.lines.append(line)
        elif element == "Region":
            self._open = _Region(
                line=line,
                label=self._label,
                id=attributes.get("Id", "").strip() or str(len(self._regions) + 1),
                name=attributes.get("Text", "").strip(),
                kind=attributes.get("Type", "0").strip(),
                negative=attributes.get("NegativeROA", "0").strip(),
            )
            self._regions.append(self._open)
        elif element == "Annotation":
            self._label = attributes.get("Name", "").strip() or None
        elif not self._root and element != "Annotations":
            raise InputError(
                [
                    f"{self._name}:{line}: XML, but not ImageScope's: it begins with <{element}>, not with "
                    "<Annotations>; export it from ImageScope, or as GeoJSON"
                ]
            )
        self._root = self._root or element

    def _end(self, element: str) -> None:
        if element == "Region":
            self._open = None
