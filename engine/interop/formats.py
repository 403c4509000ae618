"""Writes outlines as the files that Slideflow, QuPath and ImageScope read."""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Mapping, Sequence
from itertools import groupby
from xml.sax.saxutils import quoteattr

import numpy as np

from slideduck.roifiles.outlines import Polygon, Ring, RoiOutline

__all__ = [
    "colour_rgb",
    "compact_json",
    "csv_text",
    "geojson_text",
    "geometry_json",
    "id_space",
    "imagescope_text",
    "json_number",
    "object_id",
    "unwritable",
]

#: Ids of objects are made in spaces of this space, so that the same object has the same id in every export.
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "slideduck")

#: Characters that a form has no way to write.
_UNWRITABLE = {
    "csv": re.compile("\0"),
    # XML 1.0, 2.2.
    "xml": re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"),
}

#: Line colour of regions without a label: grey.
_NO_COLOUR = "#4D4D4D"


def unwritable(text: str | None, form: str) -> str:
    """Return the first character of a text that a file format cannot hold; empty if it can hold all."""
    found = _UNWRITABLE[form].search(text or "") if form in _UNWRITABLE else None
    return found[0] if found else ""


def id_space(*what: str | None) -> uuid.UUID:
    """Return the UUID namespace of the ids of a kind of objects; it depends only on their names."""
    return uuid.uuid5(_NAMESPACE, compact_json(what))


def object_id(space: uuid.UUID, name: str) -> str:
    """Return the id of an object of QuPath, the same in every export."""
    return str(uuid.uuid5(space, name))


def colour_rgb(colour: str) -> list[int]:
    """Return the three channels, 0 to 255, of ``#RRGGBB``."""
    return [int(colour[at : at + 2], 16) for at in (1, 3, 5)]


def json_number(value: float | str) -> str:
    """Return a number, or its text, as the shortest text that is read as the same number: ``1024``, ``0.1``."""
    text = repr(float(value))
    return text.removesuffix(".0")


def _points(ring: Ring) -> list[tuple[str, str]]:
    """Return the points of a ring as text."""
    return [(json_number(x), json_number(y)) for x, y in ring.tolist()]


def csv_text(outlines: Sequence[RoiOutline]) -> str:
    """Return outlines of one ring each as Slideflow's CSV.

    Parameters
    ----------
    outlines : sequence of RoiOutline
        Of one slide, each of one polygon without inner rings.
    """
    lines = ["roi_name,x_base,y_base,label"]
    for outline in outlines:
        ((ring,),) = outline.polygons
        name, label = _csv_cell(outline.roi_name), _csv_cell(outline.label or "")
        lines += [f"{name},{x},{y},{label}" for x, y in _points(ring)]
    return "\n".join(lines) + "\n"


def _csv_cell(text: str) -> str:
    """Return a cell, in quotes where it needs them."""
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text


def geojson_text(outlines: Sequence[RoiOutline], colours: Mapping[str, str], roi_set: str) -> str:
    """Return outlines as QuPath's GeoJSON, a line for each.

    Parameters
    ----------
    outlines : sequence of RoiOutline
        Of one slide.
    colours : mapping of str to str
        ``#RRGGBB`` of each label.
    roi_set : str
        The set that they belong to, which their ids depend on.
    """
    features = []
    for outline in outlines:
        space = id_space("roi", roi_set, outline.slide)
        properties: dict[str, object] = {"objectType": "annotation", "name": outline.roi_name}
        if outline.label is not None:
            properties["classification"] = {"name": outline.label, "color": colour_rgb(colours[outline.label])}
        features.append(
            f'{{"type":"Feature","id":"{object_id(space, outline.roi_name)}",'
            f'"geometry":{geometry_json(outline.polygons)},"properties":{compact_json(properties)}}}'
        )
    return '{"type":"FeatureCollection","features":[\n' + ",\n".join(features) + "\n]}\n"


def compact_json(value: object) -> str:
    """Return a value as JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def geometry_json(polygons: Sequence[Polygon]) -> str:
    """Return polygons as a geometry of GeoJSON, rings closed."""
    parts = []
    for polygon in polygons:
        rings = []
        for ring in polygon:
            points = _points(ring)
            rings.append("[" + ",".join(f"[{x},{y}]" for x, y in [*points, points[0]]) + "]")
        parts.append("[" + ",".join(rings) + "]")
    if len(parts) == 1:
        return f'{{"type":"Polygon","coordinates":{parts[0]}}}'
    return f'{{"type":"MultiPolygon","coordinates":[{",".join(parts)}]}}'


def imagescope_text(outlines: Sequence[RoiOutline], colours: Mapping[str, str], mpp: float) -> str:
    """Return outlines of one ring each as ImageScope's XML: a layer for each label, holes as negative regions.

    Parameters
    ----------
    outlines : sequence of RoiOutline
        Of one slide, each of one polygon without inner rings.
    colours : mapping of str to str
        ``#RRGGBB`` of each label.
    mpp : float
        Microns per base pixel.
    """
    lines = ['<?xml version="1.0" encoding="utf-8"?>', f'<Annotations MicronsPerPixel="{json_number(mpp)}">']

    def by_label(outline: RoiOutline) -> tuple[bool, str]:
        return outline.label is not None, outline.label or ""

    for layer, ((is_labelled, label), regions) in enumerate(groupby(sorted(outlines, key=by_label), by_label), 1):
        red, green, blue = colour_rgb(colours[label] if is_labelled else _NO_COLOUR)
        lines.append(
            f' <Annotation Id="{layer}" Name={_attribute(label)} ReadOnly="0" NameReadOnly="0" '
            f'LineColorReadOnly="0" Incremental="0" Type="4" LineColor="{red + 256 * green + 65536 * blue}" '
            'Visible="1" Selected="0" MarkupImagePath="" MacroName="">'
        )
        lines += ["  <Attributes/>", "  <Regions>", "   <RegionAttributeHeaders/>"]
        for number, outline in enumerate(regions, 1):
            ((ring,),) = outline.polygons
            length, area = _length_and_area(ring)
            lines.append(
                f'   <Region Id="{number}" Type="0" Zoom="1" Selected="0" ImageLocation="" ImageFocus="-1" '
                f'Length="{length:.1f}" Area="{area:.1f}" LengthMicrons="{length * mpp:.1f}" '
                f'AreaMicrons="{area * mpp * mpp:.1f}" Text={_attribute(outline.roi_name)} '
                f'NegativeROA="{int(outline.marked_hole)}" InputRegionId="0" Analyze="1" DisplayId="{number}">'
            )
            lines += ["    <Attributes/>", "    <Vertices>"]
            lines += [f'     <Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in _points(ring)]
            lines += ["    </Vertices>", "   </Region>"]
        lines += ["  </Regions>", "  <Plots/>", " </Annotation>"]
    return "\n".join([*lines, "</Annotations>"]) + "\n"


def _attribute(text: str) -> str:
    """Return the value of an attribute in quotes; line ends are kept."""
    return quoteattr(text)


def _length_and_area(ring: Ring) -> tuple[float, float]:
    """Return the length of a ring, pixels, and the area within, square pixels, as ImageScope shows them."""
    following = np.roll(ring, -1, axis=0)
    length = math.fsum(np.hypot(*(following - ring).T).tolist())
    return length, abs(math.fsum((ring[:, 0] * following[:, 1] - following[:, 0] * ring[:, 1]).tolist())) / 2
