"""Reads the annotations of Hamamatsu's NDP.view (``SLIDE.ndpi.ndpa``), and turns their nanometres into base pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from slideduck.files.find import quoted
from slideduck.roifiles.markup import AREAS, Shape, XmlReader, note_other_classes, shape_ring
from slideduck.roifiles.options import RoiOptions
from slideduck.roifiles.outlines import Parsed, Ring, RoiOutline, Skipped, with_names

__all__ = ["base_from_nm", "parse_ndpa"]

#: Tools of NDP.view; a freehand drawing that is not closed is a line.
_KINDS = {
    "freehand": "polygon",
    "rectangle": "rectangle",
    "circle": "ellipse",
    "pin": "pin",
    "pointer": "pointer",
    "linearmeasure": "ruler",
}
_PLACES = {"name": "title", "text": "title", "description": "details (the Description)"}
_NANOMETRES = "nanometres, such as 1024000"


def parse_ndpa(path: Path, slide: str, data: bytes, options: RoiOptions) -> Parsed:
    """Read the ROIs of an NDPA file.

    Parameters
    ----------
    path : Path
        The file.
    slide : str
        The slide that it is of.
    data : bytes
        Its content.
    options : RoiOptions
        ``label_from="description"`` takes the class from the details, in place of the title.

    Returns
    -------
    Parsed
        The outlines are in nanometres from the centre of the glass; a circle becomes a polygon of 128 corners. Name
        and label are the title; those without are ``ROI_{id}``.

    Raises
    ------
    InputError
        If the file is broken XML or declares a document type.
    """
    parsed = Parsed(slide)
    wanted: list[str] = []
    reader = _Reader(path.name)
    reader.read(data)
    for shape, coordformat in reader.shapes:
        place = f"{path.name}:{shape.line}"
        if shape.kind not in AREAS:
            message = f"{place}: {shape.called} is a {shape.kind}, which has no area"
            parsed.skipped.append(Skipped(shape.kind, message))
            continue
        if coordformat not in ("", "nanometers"):
            message = f"{shape.called} has the coordformat {quoted(coordformat)}, not 'nanometers'; export it again"
            parsed.problems.append((shape.line, f"{place}: {message}"))
        ring = shape_ring(shape, path.name, parsed.problems, _NANOMETRES)
        label = shape.classes[options.label_from]
        if not label:
            note_other_classes(shape, options, _PLACES, parsed.notes)
        parsed.outlines.append(RoiOutline(slide, shape.name, label or None, ((ring,),), False, shape.line))
        wanted.append(f"ROI_{shape.id}")
    parsed.outlines[:] = with_names(parsed.outlines, wanted, parsed.notes)
    return parsed


class _Reader(XmlReader):
    """Collects annotations, each with the unit that its view state names."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.shapes: list[tuple[Shape, str]] = []
        self._path: list[str] = []
        self._texts: dict[str, list[str]] = {}
        self._id = ""
        self._open: Shape | None = None
        self.read_text()

    def start(self, element: str, attributes: dict[str, str]) -> None:
        """Take the beginning of an element."""
        self._path.append(element)
        if element == "ndpviewstate":
            self._id, self._texts, self._open = attributes.get("id", "").strip(), {}, None
        elif element == "annotation":
            kind = attributes.get("type", "").strip()
            number = self._id or str(len(self.shapes) + 1)
            self._open = Shape(self.line, number, "", _KINDS.get(kind.lower(), f"shape of type {quoted(kind)}"))

    def text(self, text: str) -> None:
        """Take text between elements."""
        where = "/".join(self._path[2:])
        self._texts.setdefault(where, []).append(text)

    def end(self, element: str) -> None:
        """Take the end of an element."""
        if element == "point" and self._open is not None:
            self._open.add(
                self.line, self._taken("annotation/pointlist/point/x"), self._taken("annotation/pointlist/point/y")
            )
        elif element == "ndpviewstate" and self._open is not None:
            self._close(self._open)
        self._path.pop()

    def _taken(self, where: str) -> str:
        """Return the text of an element, which is not that of the next."""
        return "".join(self._texts.pop(where, ())).strip()

    def _close(self, shape: Shape) -> None:
        """Keep the shape that is open, with the texts of its view state."""
        shape.name = self._taken("title")
        shape.classes = {"name": shape.name, "text": shape.name, "description": self._taken("details")}
        if shape.kind == "polygon" and self._taken("annotation/closed") == "0":
            shape.kind = "freehand line"
        if shape.kind == "ellipse":
            self._add_circle(shape)
        self.shapes.append((shape, self._taken("coordformat")))

    def _add_circle(self, shape: Shape) -> None:
        """Add the corners of the box around a circle."""
        x, y, radius = (self._taken(f"annotation/{what}") for what in ("x", "y", "radius"))
        try:
            centre_x, centre_y, r = float(x), float(y), float(radius)
        except ValueError:
            # A point for each, so that what is no number is named.
            shape.add(shape.line, x, y)
            shape.add(shape.line, radius, radius)
            return
        shape.add(shape.line, repr(centre_x - r), repr(centre_y - r))
        shape.add(shape.line, repr(centre_x + r), repr(centre_y + r))


def base_from_nm(
    points_nm: Ring, centre_offset_nm: tuple[float, float], mpp: tuple[float, float], size: tuple[int, int]
) -> Ring:
    """Return base pixels of points in nanometres from the centre of the glass.

    Parameters
    ----------
    points_nm : (n, 2) float64
        x and y, nanometres.
    centre_offset_nm : (float, float)
        From the centre of the glass to that of the image (``hamamatsu.XOffsetFromSlideCentre``), nanometres.
    mpp : (float, float)
        Microns per base pixel, along x and y.
    size : (int, int)
        Width and height of level 0, pixels.

    Returns
    -------
    (n, 2) float64
        ``(nm - offset) / (1000 mpp) + size / 2``, the convention of NDP.view; OpenSlide's properties have the offset.
    """
    points: Ring = (points_nm - centre_offset_nm) / (1000 * np.array(mpp)) + np.array(size) / 2
    points.flags.writeable = False
    return points
