"""What QuPath says of an object in GeoJSON, in all its versions: of which type it is, and of which class."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from slideduck.files.find import quoted
from slideduck.names import is_missing
from slideduck.roifiles.outlines import Note

__all__ = ["INCLUDED", "RefusedError", "class_of", "left_out", "object_type", "text_of", "with_children"]

#: For each type of object that may be taken beside annotations the word by which it is asked for.
INCLUDED = {"detection": "detections", "cell": "cells", "tile": "tiles", "tma_core": "tma"}

#: Types as QuPath writes them: ``id`` until 0.2, ``object_type`` in 0.3, ``objectType`` since 0.4; see its
#: ``PathObjectTypeAdapter``. ``PathCellDetection`` is what scripts for StarDist and HoVer-Net write.
_SPELLINGS = {
    "PathAnnotationObject": "annotation",
    "PathDetectionObject": "detection",
    "PathCellDetection": "detection",
    "PathCellObject": "cell",
    "PathTileObject": "tile",
    "TMACoreObject": "tma_core",
    "PathRootObject": "root",
    "tmaCore": "tma_core",
}
_TYPES = frozenset({*_SPELLINGS.values()})
_WORDS = {"tma_core": ("TMA core", "TMA cores"), "root": ("root object", "root objects")}

#: Longest text that is looked into for a class: a class is a name and a colour.
_CLASS_CHARACTERS = 10_000


class RefusedError(Exception):
    """The problems of one feature, a message for each."""


def with_children(feature: Any) -> Iterator[Any]:
    """Yield a feature, and those that lie in it in an export of QuPath's whole hierarchy."""
    waiting = [feature]
    while waiting:
        here = waiting.pop()
        yield here
        properties = here.get("properties") if isinstance(here, dict) else None
        if isinstance(properties, dict):
            children = properties.get("childObjects", properties.get("children"))
            waiting.extend(reversed(children if isinstance(children, list) else []))


def object_type(feature: Mapping[str, Any], properties: Mapping[str, Any]) -> str:
    """Return the type of an object, ``"annotation"`` where none is said."""
    for key in ("objectType", "object_type"):
        value = properties.get(key)
        if isinstance(value, str) and value and value != "unknown":
            return _SPELLINGS.get(value, value)
    # Other programs have a type and an id for other things, too.
    for value in (properties.get("type"), feature.get("id")):
        if isinstance(value, str) and (value in _SPELLINGS or value in _TYPES):
            return _SPELLINGS.get(value, value)
    return "annotation"


def left_out(kind: str) -> Note:
    """Return the note of an object that is not taken, being no annotation."""
    one, many = _WORDS.get(kind, (kind, f"{kind}s"))
    remedy = f"; to take them, give `include={INCLUDED[kind]!r}`" if kind in INCLUDED else ""
    return Note(one, many, f"left out, not being annotations{remedy}")


def class_of(properties: Mapping[str, Any]) -> str:
    """Return the class of an object, empty for none; a text that stands for none only if there is nothing else.

    Raises
    ------
    RefusedError
        If what stands there is no class.
    """
    found = ""
    for key in ("classification", "label", "class"):
        text = _class_text(properties.get(key), key)
        if not is_missing(text):
            return text
        found = found or text
    return found


def _class_text(value: Any, what: str) -> str:
    """Return the class in a value: an object, a text, or the text of an object."""
    if isinstance(value, str):
        value = _object_in(value.strip())
    if isinstance(value, dict):
        name = text_of(value.get("name"), what)
        # A class derived from another has a list "names" in place of "name"; QuPath shows it with colons.
        names = value.get("names")
        return name or (": ".join(map(str, names)) if isinstance(names, list) else "")
    if what != "classification" and type(value) is int:
        return str(value)
    return text_of(value, what)


def _object_in(text: str) -> Any:
    """Return the object that a text is the JSON or the printed dictionary of; otherwise the text."""
    if not text.startswith("{") or len(text) > _CLASS_CHARACTERS:
        return text
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    return text


def text_of(value: Any, what: str) -> str:
    """Return a text without outer spaces, empty for null.

    Raises
    ------
    RefusedError
        If it is no text.
    """
    # A data frame has NaN where there is no text.
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, str):
        raise RefusedError(f"its {what} is {quoted(value)}, not text; write a text")
    return value.strip()
