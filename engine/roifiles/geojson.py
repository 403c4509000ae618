"""Reads the GeoJSON files that QuPath exports: annotations with their classification."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from slideduck.errors import InputError
from slideduck.files.find import quoted
from slideduck.files.tables import decode
from slideduck.limit import beyond, limit
from slideduck.roifiles.options import RoiOptions
from slideduck.roifiles.outlines import (
    Note,
    Notes,
    Parsed,
    Polygon,
    Ring,
    RoiOutline,
    Skipped,
    ring_from_points,
    with_names,
    with_points,
)
from slideduck.roifiles.qupath import INCLUDED, RefusedError, class_of, left_out, object_type, text_of, with_children

__all__ = ["parse_geojson"]

_AREAS = ("Polygon", "MultiPolygon")
_COLLECTION = "GeometryCollection"
_NOT_AREAS = ("Point", "MultiPoint", "LineString", "MultiLineString", _COLLECTION)

#: Bytes of a file that are looked at together, and a string in them.
_CHUNK = 1 << 22
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)

_BESIDE = Note("geometry", "geometries", "without an area left out of a GeometryCollection")
_MISSING_CORE = Note("TMA core", "TMA cores", "left out, being marked as missing")

#: JSON of other programs: what tells it, and whose it is.
_FOREIGN = (
    ({"annotations", "images", "categories"}, "COCO JSON"),
    ({"annotations", "item"}, "Darwin JSON, as V7 exports it"),
    ({"annotations", "image"}, "Darwin JSON, as V7 exports it"),
    ({"shapes", "imagePath"}, "JSON of LabelMe"),
    ({"_via_img_metadata"}, "JSON of the VGG Image Annotator"),
    ({"annotations", "data"}, "JSON of Label Studio"),
)


def parse_geojson(path: Path, slide: str, data: bytes, options: RoiOptions) -> Parsed:
    """Read the ROIs of a GeoJSON file.

    Parameters
    ----------
    path : Path
        The file.
    slide : str
        The slide that it is of.
    data : bytes
        Its content: a FeatureCollection, a list of features, one feature, or one geometry.
    options : RoiOptions
        ``include`` says which of QuPath's objects are taken beside annotations.

    Returns
    -------
    Parsed
        Features without a name are ``ROI_1`` and so on, by their number in the file; those that lie in another have
        the number of that.

    Raises
    ------
    InputError
        If the file as a whole is no GeoJSON.
    """
    parsed = Parsed(slide)
    taken = {"annotation"} | {kind for kind, word in INCLUDED.items() if word in options.include}
    for number, top in enumerate(_features(path, data), 1):
        place = f"{path.name}:feature {number}"
        for feature in with_children(top):
            try:
                _take(parsed, feature, number, place, taken)
            except RefusedError as refused:
                parsed.problems.extend((number, f"{place}: {message}") for message in refused.args)
    parsed.outlines[:] = with_names(parsed.outlines, [f"ROI_{o.row}" for o in parsed.outlines], parsed.notes)
    return parsed


def _take(parsed: Parsed, feature: Any, number: int, place: str, taken: set[str]) -> None:
    """Add a feature to what was found in a file."""
    properties, geometry = _parts(feature)
    kind = object_type(feature, properties)
    if kind not in taken:
        parsed.notes.add(left_out(kind))
        return
    if kind == "tma_core" and properties.get("isMissing") is True:
        parsed.notes.add(_MISSING_CORE)
        return
    name, label = text_of(properties.get("name"), "name"), class_of(properties)
    skipped = _why_no_area(geometry)
    if skipped:
        called = f"ROI {name!r}" if name else "a feature without a name"
        parsed.skipped.append(Skipped(skipped.kind, f"{place}: {called} {skipped.message}"))
        return
    polygons = _polygons(geometry, place, parsed.notes)
    assert parsed.slide is not None
    parsed.outlines.append(RoiOutline(parsed.slide, name, label or None, polygons, False, number))


def _features(path: Path, data: bytes) -> list[Any]:
    """Return the features of a file, a bare geometry as one."""
    text = decode(data, path.name)
    # Each point opens a bracket, and few others do.
    if problem := beyond("depth", _depth(data)) or beyond("vertices", data.count(b"[")):
        raise InputError([f"{path.name}: {problem}"])
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            [f"{path.name}:{error.lineno}: broken JSON at column {error.colno}: {error.msg}; export it again"]
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError([f"{path.name}:1: JSON that cannot be read: {error}; export it again"]) from error
    kind = document.get("type") if isinstance(document, dict) else None
    features: list[Any] | None
    if isinstance(document, list):
        features = document
    elif kind == "FeatureCollection" and isinstance(document.get("features"), list):
        features = document["features"]
    elif kind == "Feature":
        features = [document]
    elif kind in _AREAS or kind in _NOT_AREAS:
        features = [{"type": "Feature", "geometry": document}]
    else:
        features = None
    foreign = _foreign(document[0] if isinstance(document, list) and document else document)
    if foreign:
        raise InputError(
            [
                f"{path.name}:1: {foreign}, not GeoJSON; write each of its polygons as a Feature, in level-0 pixels, "
                "with its class as properties.classification, in a file named after the slide"
            ]
        )
    if features is None:
        raise InputError(
            [
                f"{path.name}:1: JSON, but not GeoJSON: no FeatureCollection, list of features or Feature; "
                "export annotations from QuPath with File > Export objects as GeoJSON"
            ]
        )
    return features


def _depth(data: bytes) -> int:
    """Return in how many brackets JSON lies within each other; strings are looked into only where there are many."""
    deepest = _brackets(data)
    return deepest if deepest <= limit("depth") else _brackets(_STRING.sub(b"", data))


def _brackets(data: bytes) -> int:
    """Return the most brackets that are open at once."""
    steps = np.zeros(256, np.int8)
    steps[[*b"[{"]], steps[[*b"]}"]] = 1, -1
    open_before = deepest = 0
    for start in range(0, len(data), _CHUNK):
        opened = np.cumsum(steps[np.frombuffer(data, np.uint8, min(_CHUNK, len(data) - start), start)], dtype=np.int32)
        deepest = max(deepest, open_before + int(opened.max()))
        open_before += int(opened[-1])
    return deepest


def _foreign(document: Any) -> str:
    """Return whose JSON a document is, empty for GeoJSON and for what is not known."""
    keys = set(document) if isinstance(document, dict) and "Feature" not in str(document.get("type")) else set()
    return next((whose for marks, whose in _FOREIGN if marks <= keys), "")


def _parts(feature: Any) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the properties and the geometry of a feature."""
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        raise RefusedError(f"{quoted(feature)} is not a Feature; export it again")
    properties, geometry = feature.get("properties"), feature.get("geometry")
    for what, value in (("properties", properties), ("geometry", geometry)):
        if value is not None and not isinstance(value, dict):
            raise RefusedError(f"its {what} is {quoted(value)}, not an object; export it again")
    return properties or {}, geometry


def _why_no_area(geometry: dict[str, Any] | None) -> Skipped | None:
    """Say why a geometry is skipped, None for one with an area."""
    if geometry is None:
        return Skipped("empty feature", "has no geometry")
    kind = geometry.get("type")
    if kind not in _NOT_AREAS or any(part.get("type") not in _NOT_AREAS for part in _within(geometry)):
        return None
    return Skipped(kind, f"is a {kind}, not a Polygon or MultiPolygon")


def _within(geometry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a geometry, or those of a GeometryCollection."""
    waiting: list[Any] = [geometry]
    while waiting:
        here = waiting.pop()
        if not isinstance(here, dict):
            raise RefusedError(f"its geometry holds {quoted(here)}, not an object; export it again")
        if here.get("type") != _COLLECTION:
            yield here
            continue
        geometries = here.get("geometries")
        if not isinstance(geometries, list):
            raise RefusedError(f"its geometries are {quoted(geometries)}, not a list; export it again")
        waiting.extend(reversed(geometries))


def _polygons(geometry: dict[str, Any] | None, place: str, notes: Notes) -> tuple[Polygon, ...]:
    """Return the polygons of a geometry, after a look at every ring."""
    assert geometry is not None
    wrong: list[str] = []
    parsed: list[Polygon] = []
    for part in _within(geometry):
        if part.get("type") in _NOT_AREAS:
            notes.add(_BESIDE, place)
            continue
        for rings in _rings(part):
            if isinstance(rings, list) and rings:
                parsed.append(tuple(_ring(ring, "hole" if i else "outline", wrong) for i, ring in enumerate(rings)))
            else:
                wrong.append(f"its coordinates hold {quoted(rings)}, not rings of points; draw it again")
    if not wrong:
        polygons, wrong = with_points(parsed, lambda part: f"its {part}", place, notes)
    if wrong:
        raise RefusedError(*wrong)
    return polygons


def _rings(geometry: dict[str, Any]) -> list[Any]:
    """Return the lists of rings of a Polygon or MultiPolygon, one for each polygon."""
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind not in _AREAS:
        raise RefusedError(f"its geometry is a {quoted(kind)}; draw a Polygon or MultiPolygon")
    polygons = [coordinates] if kind == "Polygon" else coordinates
    if not isinstance(polygons, list) or not polygons:
        raise RefusedError(f"its coordinates are {quoted(coordinates)}, not polygons; draw it again")
    return polygons


def _ring(points: Any, part: str, wrong: list[str]) -> Ring:
    """Return a ring without z coordinates; its problems are appended to a list."""
    if not isinstance(points, list):
        wrong.append(f"its {part} is {quoted(points)}, not a list of points; draw it again")
        return np.empty((0, 2))
    coordinates = _coordinates(points)
    if coordinates is None:
        bad = [(i, point) for i, point in enumerate(points, 1) if _coordinates([point]) is None]
        wrong += [
            f"point {i} of its {part} is {quoted(point)}, not two finite numbers; draw it again" for i, point in bad
        ]
        if bad:
            return np.empty((0, 2))
        # Points with and without z side by side.
        coordinates = np.array([point[:2] for point in points], dtype=np.float64)
    return ring_from_points(np.ascontiguousarray(coordinates))


def _coordinates(points: list[Any]) -> Ring | None:
    """Return x and y of points, None unless all are as many finite numbers, two or more."""
    if not points:
        return np.empty((0, 2))
    try:
        # numpy would take True and "1" for numbers.
        if not {int, float}.issuperset(map(type, chain.from_iterable(points))):
            return None
        coordinates = np.array(points, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    if coordinates.ndim != 2 or coordinates.shape[1] < 2 or not np.isfinite(coordinates[:, :2]).all():
        return None
    return coordinates[:, :2]
