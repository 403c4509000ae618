"""Reads the XML files of Aperio ImageScope and of HALO (``.annotations``): layers with their regions.

HALO's has ``V`` for ``Vertex``, words for types, and comments in place of texts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from slideduck.files.find import quoted
from slideduck.roifiles.markup import AREAS, Shape, XmlReader, note_other_classes, shape_ring
from slideduck.roifiles.options import LABEL_FROM, RoiOptions
from slideduck.roifiles.outlines import Note, Parsed, RoiOutline, Skipped, holds_point, ring_area, with_names

__all__ = ["parse_imagescope"]

#: Types of ImageScope, and of HALO.
_KINDS = {
    "0": "polygon",
    "1": "rectangle",
    "2": "ellipse",
    "3": "arrow",
    "4": "ruler",
    "5": "pointer",
    "polygon": "polygon",
    "rectangle": "rectangle",
    "ellipse": "ellipse",
    "ruler": "ruler",
    "pin": "pin",
}
_HOLES = Note("hole", "holes", "with the class of the ROI around, none of the layer having their own")
_PLACES = {"name": "layer's Name", "text": "region's Text", "description": "Description"}


def parse_imagescope(path: Path, slide: str, data: bytes, options: RoiOptions) -> Parsed:
    """Read the ROIs of an XML file of ImageScope or HALO.

    Parameters
    ----------
    path : Path
        The file.
    slide : str
        The slide that it is of.
    data : bytes
        Its content.
    options : RoiOptions
        ``label_from`` says where the class of a region stands.

    Returns
    -------
    Parsed
        A rectangle or an ellipse of two vertices (corners of the box around it) becomes a polygon, the
        ellipse one of 128 corners. Regions without a text are ``ROI_{Id}``; since Ids begin again in each
        layer, the second ``ROI_1`` of a file is ``ROI_1_2``.

    Raises
    ------
    InputError
        If the file is broken XML or declares a document type.
    """
    parsed = Parsed(slide)
    wanted: list[str] = []
    layers: list[int] = []
    reader = _Reader(path.name)
    reader.read(data)
    for region in reader.regions:
        place = f"{path.name}:{region.line}"
        if region.kind not in AREAS:
            what = f"{'an' if region.kind[0] in 'aeiou' else 'a'} {region.kind}"
            parsed.skipped.append(Skipped(region.kind, f"{place}: {region.called} is {what}, which has no area"))
            continue
        if region.negative not in ("", "0", "1"):
            message = f"{region.called} has NegativeROA {quoted(region.negative)}; write 0 or 1"
            parsed.problems.append((region.line, f"{place}: {message}"))
        ring = shape_ring(region, path.name, parsed.problems)
        label = region.classes[options.label_from]
        negative = region.negative == "1"
        if not label and not negative:
            note_other_classes(region, options, _PLACES, parsed.notes)
        parsed.outlines.append(RoiOutline(slide, region.name, label or None, ((ring,),), negative, region.line))
        wanted.append(f"ROI_{region.id}")
        layers.append(region.layer)
    if options.label_from != "name" and not parsed.problems:
        _label_holes(parsed, layers)
    parsed.outlines[:] = with_names(parsed.outlines, wanted, parsed.notes)
    return parsed


def _label_holes(parsed: Parsed, layers: Sequence[int]) -> None:
    """Give a marked hole whose own class no ROI of its layer has the class of the smallest of them around it.

    A hole is cut out of the ROIs of its label; where classes stand in texts, holes have none, or another text.
    """
    of_layer: dict[int, list[RoiOutline]] = defaultdict(list)
    for outline, layer in zip(parsed.outlines, layers, strict=True):
        if not outline.marked_hole:
            of_layer[layer].append(outline)
    for i, layer in enumerate(layers):
        hole = parsed.outlines[i]
        if hole.marked_hole and all(hole.label != other.label for other in of_layer[layer]):
            point = hole.polygons[0][0][0]
            around = [other for other in of_layer[layer] if holds_point(other.polygons[0][0], *point)]
            if around:
                label = min(around, key=lambda other: ring_area(other.polygons[0][0])).label
                parsed.outlines[i] = replace(hole, label=label)
                parsed.notes.add(_HOLES)


class _Reader(XmlReader):
    """Collects regions."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.regions: list[Shape] = []
        self._layer = dict.fromkeys(LABEL_FROM, "")
        #: What the attribute for descriptions is called: its name, and the number that the layer's header gives it.
        self._descriptions = {"Description"}
        self._open: Shape | None = None
        self._number = 0

    def start(self, element: str, attributes: dict[str, str]) -> None:
        """Take the beginning of an element."""
        if self._open is not None and element in ("Vertex", "V"):
            self._open.add(self.line, attributes.get("X", ""), attributes.get("Y", ""))
        elif element == "Region":
            self._open = self._region(attributes)
            self.regions.append(self._open)
        elif element == "Annotation":
            self._layer = dict.fromkeys(LABEL_FROM, "") | {"name": attributes.get("Name", "").strip()}
            self._descriptions = {"Description"}
            self._number += 1
        elif element == "AttributeHeader" and attributes.get("Name", "").strip() == "Description":
            self._descriptions.add(attributes.get("Id", "").strip())
        elif element == "Attribute" and attributes.get("Name", "").strip() in self._descriptions:
            self._describe(attributes.get("Value", ""))
        elif element == "Comment" and self._open is not None and not self._open.classes["description"]:
            self._describe(attributes.get("Body", ""))

    def end(self, element: str) -> None:
        """Take the end of an element."""
        if element == "Region":
            self._open = None

    def _region(self, attributes: dict[str, str]) -> Shape:
        kind = attributes.get("Type", "0").strip()
        name = attributes.get("Text", "").strip()
        return Shape(
            line=self.line,
            id=attributes.get("Id", "").strip() or str(len(self.regions) + 1),
            name=name,
            kind=_KINDS.get(kind.lower(), f"region of type {quoted(kind)}"),
            classes=self._layer | {"text": name},
            negative=attributes.get("NegativeROA", "0").strip(),
            layer=self._number,
        )

    def _describe(self, text: str) -> None:
        """Keep a description of the region that is open, or of the layer."""
        if text.strip():
            (self._layer if self._open is None else self._open.classes)["description"] = text.strip()
