"""Reads the XML files of Aperio ImageScope and of HALO (``.annotations``): layers with their regions.

HALO's has ``V`` for ``Vertex``, words for types, and comments in place of texts.
"""

from __future__ import annotations

from pathlib import Path

from slideduck.files.find import quoted
from slideduck.rois.markup import AREAS, Shape, XmlReader, note_other_classes, shape_ring
from slideduck.rois.options import LABEL_FROM, RoiOptions
from slideduck.rois.outlines import Parsed, RoiOutline, Skipped, with_names

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
        if not label:
            note_other_classes(region, options, _PLACES, parsed.notes)
        negative = region.negative == "1"
        parsed.outlines.append(RoiOutline(slide, region.name, label or None, ((ring,),), negative, region.line))
        wanted.append(f"ROI_{region.id}")
    parsed.outlines[:] = with_names(parsed.outlines, wanted, parsed.notes)
    return parsed


class _Reader(XmlReader):
    """Collects regions."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.regions: list[Shape] = []
        self._layer = dict.fromkeys(LABEL_FROM, "")
        #: What the attribute for descriptions is called: its name, and the number that the layer's header gives it.
        self._descriptions = {"Description"}
        self._open: Shape | None = None

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
        )

    def _describe(self, text: str) -> None:
        """Keep a description of the region that is open, or of the layer."""
        if text.strip():
            (self._layer if self._open is None else self._open.classes)["description"] = text.strip()
