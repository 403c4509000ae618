"""XML of annotation programs: read element by element, so that no tree is built, and its shapes as rings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn
from xml.parsers import expat

import numpy as np

from slideduck.errors import InputError
from slideduck.files.find import quoted
from slideduck.files.tables import Problem, parse_numbers
from slideduck.limit import beyond, limit
from slideduck.roifiles.options import LABEL_FROM, RoiOptions
from slideduck.roifiles.outlines import (
    Note,
    Notes,
    Ring,
    distinct_points,
    ellipse_ring,
    few_points,
    rectangle_ring,
    ring_from_points,
)

__all__ = ["AREAS", "Shape", "XmlReader", "first_element", "note_other_classes", "shape_ring"]

#: Kinds of shapes that have an area.
AREAS = ("polygon", "rectangle", "ellipse")

#: Elements that are a point each, in all formats.
_POINTS = frozenset({"Vertex", "V", "Coordinate", "point"})


@dataclass
class Shape:
    """A shape while it is read.

    Attributes
    ----------
    line : int
        Line of its element.
    id, name : str
        Its number and its name, which may be empty.
    kind : str
        One of `AREAS`, or what it is in place of an area.
    classes : dict of str to str
        For each place where its class may stand (`LABEL_FROM`) what stands there, empty for nothing.
    negative : str
        What marks it as a hole, ``"0"`` or ``"1"``.
    layer : int
        Number of its layer, where the file has layers.
    x, y : list of str
        Its points, as written.
    lines : list of int
        Lines of the points.
    """

    line: int
    id: str
    name: str
    kind: str
    classes: dict[str, str] = field(default_factory=dict)
    negative: str = "0"
    layer: int = 0
    x: list[str] = field(default_factory=list)
    y: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)

    @property
    def called(self) -> str:
        """What messages call it."""
        return f"ROI {self.name!r}" if self.name else f"region {self.id} without a name"

    def add(self, line: int, x: str, y: str) -> None:
        """Append a point."""
        self.x.append(x.strip())
        self.y.append(y.strip())
        self.lines.append(line)


class XmlReader:
    """Goes through a file; `start`, `end` and `text` of a subclass take what it meets.

    Parameters
    ----------
    name : str
        Name of the file, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._refuse_doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._depth = 0
        self._points = 0
        self._most = {name: limit(name) for name in ("depth", "vertices")}

    @property
    def line(self) -> int:
        """Line of what is read now."""
        return self._parser.CurrentLineNumber

    def read(self, data: bytes) -> None:
        """Go through the bytes of the file.

        Raises
        ------
        InputError
            If it is broken XML, in an unknown encoding, or declares a document type.
        """
        try:
            self._parser.Parse(data, True)
        except expat.ExpatError as error:
            what = f"at column {error.offset + 1}: {expat.ErrorString(error.code)}"
            raise InputError([f"{self.name}:{error.lineno}: broken XML {what}; export it again"]) from error
        except (LookupError, ValueError) as error:
            # An encoding that Python does not know, or one of several bytes a character.
            raise InputError([f"{self.name}:1: XML that cannot be read: {error}; save it as UTF-8"]) from error

    def read_text(self) -> None:
        """Call `text` from now on."""
        self._parser.CharacterDataHandler = self.text

    def _start(self, element: str, attributes: dict[str, str]) -> None:
        """Count an element, and take its beginning."""
        self._depth += 1
        self._points += element in _POINTS
        for name, found in (("depth", self._depth), ("vertices", self._points)):
            if found > self._most[name]:
                raise InputError([f"{self.name}:{self.line}: {beyond(name, found)}"])
        self.start(element, attributes)

    def _end(self, element: str) -> None:
        """Take the end of an element."""
        self._depth -= 1
        self.end(element)

    def start(self, element: str, attributes: dict[str, str]) -> None:
        """Take the beginning of an element."""

    def end(self, element: str) -> None:
        """Take the end of an element."""

    def text(self, text: str) -> None:
        """Take text between elements."""

    def _refuse_doctype(self, *_: object) -> NoReturn:
        # Entities, which can fill the memory or name other files, are declared nowhere else; no program of
        # those that are read writes a document type.
        raise InputError(
            [
                f"{self.name}:{self.line}: declares a document type (<!DOCTYPE ...>), "
                "which could define entities and is refused; take the declaration out"
            ]
        )


class _FirstElement(XmlReader):
    """Stops at the first element of a file."""

    class Found(Exception):
        """Holds the element's name."""

    def start(self, element: str, attributes: dict[str, str]) -> None:
        raise self.Found(element)


def first_element(name: str, data: bytes) -> str:
    """Return the element that a file begins with, such as ``ASAP_Annotations``.

    Raises
    ------
    InputError
        See `XmlReader.read`.
    """
    try:
        _FirstElement(name).read(data)
    except _FirstElement.Found as found:
        return str(found)
    raise AssertionError("XML without an element is broken")


def note_other_classes(shape: Shape, options: RoiOptions, places: Mapping[str, str], notes: Notes) -> None:
    """Note of a shape without a label each other place where its class may stand, and what stands there.

    Parameters
    ----------
    shape : Shape
        The shape.
    options : RoiOptions
        ``label_from`` is where its class was looked for.
    places : mapping of str to str
        What the places are called in the format.
    notes : Notes
        Are added to.
    """
    for place in LABEL_FROM:
        candidate = shape.classes.get(place)
        if candidate and candidate != shape.classes.get(options.label_from):
            rest = f"without a label whose class may be the {places[place]}; to take it, give `label_from={place!r}`"
            notes.add(Note("ROI", "ROIs", rest), repr(candidate))


def shape_ring(shape: Shape, name: str, problems: list[Problem], wanted: str = "base pixels, such as 1024.5") -> Ring:
    """Return the outline of a shape that has an area.

    Parameters
    ----------
    shape : Shape
        A rectangle or an ellipse of two points (corners of the box around it) becomes a polygon.
    name : str
        Name of the file, for messages.
    problems : list of Problem
        Is added to.
    wanted : str
        What to write as a coordinate, for messages.
    """
    x, bad_x = parse_numbers(shape.x)
    y, bad_y = parse_numbers(shape.y)
    for axis, texts, bad in (("X", shape.x, bad_x), ("Y", shape.y, bad_y)):
        for i in bad:
            what = f"{quoted(texts[i])}, not a finite number" if texts[i] else "missing or empty"
            message = f"{axis} of a vertex of {shape.called} is {what}; write {wanted}"
            problems.append((shape.lines[i], f"{name}:{shape.lines[i]}: {message}"))
    ring = ring_from_points(np.column_stack([x, y]))
    if bad_x or bad_y:
        return ring
    if shape.kind == "ellipse" and len(x) != 2:
        message = f"{shape.called} is an ellipse of {len(x)} vertices, not the two corners of its box; draw it again"
        problems.append((shape.line, f"{name}:{shape.line}: {message}"))
        return ring
    if shape.kind != "polygon" and len(x) == 2:
        ring = ellipse_ring(x, y) if shape.kind == "ellipse" else rectangle_ring(x, y)
    n = distinct_points(ring)
    if n < 3:
        problems.append((shape.line, f"{name}:{shape.line}: {shape.called} {few_points(n)}"))
    return ring
