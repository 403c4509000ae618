"""Reads the GeoJSON files that QuPath exports: annotations with their classification."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from slideduck.errors import InputError
from slideduck.files.find import quoted
from slideduck.files.tables import Problem, decode
from slideduck.rois.outlines import Polygon, Ring, RoiOutline, distinct_points, ring_from_points, with_names

__all__ = ["parse_geojson"]

_AREAS = ("Polygon", "MultiPolygon")
_NOT_AREAS = ("Point", "MultiPoint", "LineString", "MultiLineString", "GeometryCollection")


class _RefusedError(Exception):
    """The problems of one feature, a message for each."""


def parse_geojson(path: Path, data: bytes) -> tuple[list[RoiOutline], list[str], list[Problem]]:
    """Read the ROIs of a GeoJSON file.

    Parameters
    ----------
    path : Path
        The file; its stem is the slide's name.
    data : bytes
        Its content: a FeatureCollection, a list of features, one feature, or one geometry.

    Returns
    -------
    outlines : list of RoiOutline
        Features without a name are ``ROI_1`` and so on, by their number in the file.
    skipped : list of str
        A message for each feature without an area.
    problems : list of Problem
        Messages for each feature that is refused, by its number.

    Raises
    ------
    InputError
        If the file as a whole is no GeoJSON.
    """
    outlines: list[RoiOutline] = []
    skipped: list[str] = []
    problems: list[Problem] = []
    first_of: dict[str, int] = {}
    for number, feature in enumerate(_features(path, data), 1):
        place = f"{path.name}:feature {number}"
        try:
            name, label, geometry = _parts(feature)
            why = _why_no_area(geometry)
            if why:
                skipped.append(f"{place}: {f'ROI {name!r}' if name else 'a feature without a name'} {why}")
                continue
            if name and first_of.setdefault(name, number) != number:
                raise _RefusedError(
                    f"ROI {name!r} is there already (feature {first_of[name]}); names are unique in a slide: rename one"
                )
            outlines.append(RoiOutline(path.stem, name, label, _polygons(geometry), False, number))
        except _RefusedError as refused:
            problems += [(number, f"{place}: {message}") for message in refused.args]
    return with_names(outlines, [f"ROI_{outline.row}" for outline in outlines]), skipped, problems


def _features(path: Path, data: bytes) -> list[Any]:
    """Return the features of a file, a bare geometry as one."""
    try:
        document = json.loads(decode(data, path.name))
    except json.JSONDecodeError as error:
        raise InputError(
            [f"{path.name}:{error.lineno}: broken JSON at column {error.colno}: {error.msg}; export it again"]
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError([f"{path.name}:1: JSON that cannot be read: {error}; export it again"]) from error
    kind = document.get("type") if isinstance(document, dict) else None
    if isinstance(document, list):
        features = document
    elif kind == "FeatureCollection" and isinstance(document.get("features"), list):
        features = document["features"]
    elif kind == "Feature":
        features = [document]
    elif kind in _AREAS or kind in _NOT_AREAS:
        features = [{"type": "Feature", "geometry": document}]
    else:
        raise InputError(
            [
                f"{path.name}:1: JSON, but not GeoJSON: no FeatureCollection, list of features or Feature; "
                "export annotations from QuPath with File > Export objects as GeoJSON"
            ]
        )
    return features


def _parts(feature: Any) -> tuple[str, str | None, dict[str, Any] | None]:
    """Return the name (empty where there is none), the label and the geometry of a feature."""
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        raise _RefusedError(f"{quoted(feature)} is not a Feature; export it again")
    properties, geometry = feature.get("properties"), feature.get("geometry")
    for what, value in (("properties", properties), ("geometry", geometry)):
        if value is not None and not isinstance(value, dict):
            raise _RefusedError(f"its {what} is {quoted(value)}, not an object; export it again")
    properties = properties or {}
    classification = properties.get("classification")
    if isinstance(classification, dict):
        # A class derived from another has a list "names" in place of "name"; QuPath shows it with colons.
        names = classification.get("names")
        if isinstance(names, list):
            classification = ": ".join(map(str, names))
        else:
            classification = classification.get("name")
    name = _text(properties.get("name"), "name")
    return name, _text(classification, "classification") or None, geometry


def _text(value: Any, what: str) -> str:
    """Return a text without outer spaces, empty for null."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _RefusedError(f"its {what} is {quoted(value)}, not text; write a text")
    return value.strip()


def _why_no_area(geometry: dict[str, Any] | None) -> str:
    """Say why a geometry is skipped, or return an empty text for one with an area."""
    if geometry is None:
        return "has no geometry"
    kind = geometry.get("type")
    return f"is a {kind}, not a Polygon or MultiPolygon" if kind in _NOT_AREAS else ""


def _polygons(geometry: dict[str, Any] | None) -> tuple[Polygon, ...]:
    """Return the polygons of a Polygon or MultiPolygon, after a look at every ring."""
    assert geometry is not None
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind not in _AREAS:
        raise _RefusedError(f"its geometry is a {quoted(kind)}; draw a Polygon or MultiPolygon")
    polygons = [coordinates] if kind == "Polygon" else coordinates
    if not isinstance(polygons, list) or not polygons:
        raise _RefusedError(f"its coordinates are {quoted(coordinates)}, not polygons; draw it again")
    wrong: list[str] = []
    parsed: list[Polygon] = []
    for rings in polygons:
        if isinstance(rings, list) and rings:
            parsed.append(tuple(_ring(ring, "hole" if i else "outline", wrong) for i, ring in enumerate(rings)))
        else:
            wrong.append(f"its coordinates hold {quoted(rings)}, not rings of points; draw it again")
    if wrong:
        raise _RefusedError(*wrong)
    return tuple(parsed)


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
    ring = ring_from_points(np.ascontiguousarray(coordinates))
    n = distinct_points(ring)
    if n < 3:
        wrong.append(f"its {part} has {n} distinct point{'s' * (n != 1)}; an area needs three or more")
    return ring


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
