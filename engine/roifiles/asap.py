"""Reads the XML files of ASAP: annotations with their groups, as in CAMELYON."""

from __future__ import annotations

from pathlib import Path

from slideduck.files.find import quoted
from slideduck.roifiles.markup import AREAS, Shape, XmlReader, shape_ring
from slideduck.roifiles.options import RoiOptions
from slideduck.roifiles.outlines import Parsed, RoiOutline, Skipped, with_names

__all__ = ["parse_asap"]

#: Digits of a point's number; Python itself reads no text of thousands of digits.
_DIGITS = 20

#: A spline goes through its points, which are closed to a polygon.
_KINDS = {
    "polygon": "polygon",
    "spline": "polygon",
    "rectangle": "rectangle",
    "dot": "dot",
    "pointset": "set of points",
    "measurement": "measurement",
}


def parse_asap(path: Path, slide: str, data: bytes, options: RoiOptions) -> Parsed:
    """Read the ROIs of an XML file of ASAP.

    Parameters
    ----------
    path : Path
        The file.
    slide : str
        The slide that it is of.
    data : bytes
        Its content.
    options : RoiOptions
        None of them is for this format.

    Returns
    -------
    Parsed
        The label is the group (``PartOfGroup``; ``None`` is none), the name ``Name``. Points come in the order
        of their ``Order``.

    Raises
    ------
    InputError
        If the file is broken XML or declares a document type.
    """
    parsed = Parsed(slide)
    reader = _Reader(path.name)
    reader.read(data)
    for shape in reader.shapes:
        place = f"{path.name}:{shape.line}"
        if shape.kind not in AREAS:
            message = f"{place}: {shape.called} is a {shape.kind}, which has no area"
            parsed.skipped.append(Skipped(shape.kind, message))
            continue
        ring = shape_ring(shape, path.name, parsed.problems)
        parsed.outlines.append(
            RoiOutline(slide, shape.name, shape.classes["name"] or None, ((ring,),), False, shape.line)
        )
    wanted = [f"ROI_{number}" for number in range(1, len(parsed.outlines) + 1)]
    parsed.outlines[:] = with_names(parsed.outlines, wanted, parsed.notes)
    return parsed


class _Reader(XmlReader):
    """Collects annotations."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.shapes: list[Shape] = []
        self._orders: list[str] = []

    def start(self, element: str, attributes: dict[str, str]) -> None:
        """Take the beginning of an element."""
        if element == "Annotation":
            kind = attributes.get("Type", "Polygon").strip()
            group = attributes.get("PartOfGroup", "").strip()
            self.shapes.append(
                Shape(
                    line=self.line,
                    id=str(len(self.shapes) + 1),
                    name=attributes.get("Name", "").strip(),
                    kind=_KINDS.get(kind.lower(), f"shape of type {quoted(kind)}"),
                    # ASAP itself writes None where there is no group.
                    classes={"name": "" if group == "None" else group},
                )
            )
            self._orders = []
        elif element == "Coordinate" and self.shapes:
            self.shapes[-1].add(self.line, attributes.get("X", ""), attributes.get("Y", ""))
            self._orders.append(attributes.get("Order", "").strip())

    def end(self, element: str) -> None:
        """Take the end of an element."""
        if element == "Annotation" and all(order.isdecimal() and len(order) < _DIGITS for order in self._orders):
            shape = self.shapes[-1]
            by_order = sorted(range(len(self._orders)), key=lambda i: int(self._orders[i]))
            shape.x = [shape.x[i] for i in by_order]
            shape.y = [shape.y[i] for i in by_order]
            shape.lines = [shape.lines[i] for i in by_order]
