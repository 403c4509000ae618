"""What a side-car must be: every entry that is not is named, with its value."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from slideduck.betons.settings import JPEG_MODES
from slideduck.catalog.label_sets import is_soft

__all__ = ["SHARED", "sidecar_problems"]

#: Whether a value is right, and what it must be, as a message has it.
Rule = tuple[Callable[[Any], bool], str]

_MOST = 2**63 - 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COLOUR = re.compile(r"[0-9A-Fa-f]{6}")

#: What shards of one export say alike, beside the image's kind.
SHARED = ("format", "version", "classes", "grid", "label_rule", "split_rule", "query", "roi_files", "versions")


def _whole(least: int, most: int = _MOST) -> Rule:
    """Ask for a whole number."""
    upto = "or more" if most == _MOST else f"to {most:,}"
    return lambda v: type(v) is int and least <= v <= most, f"a whole number, {least:,} {upto}"


def _or_null(rule: Rule) -> Rule:
    """Allow that there is nothing."""
    return lambda v: v is None or rule[0](v), f"{rule[1]}, or null"


def _is_number(value: Any) -> bool:
    # Integers of any length would not go into a float.
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)


TEXT: Rule = (lambda v: isinstance(v, str), "text")
NAME: Rule = (lambda v: isinstance(v, str) and v != "", "text that is not empty")
ABOVE_ZERO: Rule = (lambda v: _is_number(v) and v > 0, "a number above 0")
NUMBER: Rule = (_is_number, "a number")
OBJECT: Rule = (lambda v: isinstance(v, dict), "an object")
LIST: Rule = (lambda v: isinstance(v, list), "a list")
DIGEST: Rule = (lambda v: isinstance(v, str) and _SHA256.fullmatch(v) is not None, "64 digits of SHA-256")
COLOUR: Rule = (lambda v: isinstance(v, str) and _COLOUR.fullmatch(v) is not None, "a colour, RRGGBB")
POWER: Rule = (
    lambda v: type(v) is int and 1 << 12 <= v <= 1 << 30 and not v & (v - 1),
    "a power of two from 4,096 to 1,073,741,824",
)


def _one_of(*values: str) -> Rule:
    return lambda v: isinstance(v, str) and v in values, " or ".join(map(json.dumps, values))


_IMAGE = {
    "mode": _one_of("jpg", "raw"),
    "quality": _or_null(_whole(1, 100)),
    "tile_px": _whole(1, 65535),
    "jpeg": _one_of(*JPEG_MODES),
    "stain": OBJECT,
}
_GRID = {
    "name": NAME,
    "tile_px": _whole(1, 65535),
    "tile_um": _or_null(ABOVE_ZERO),
    "magnification": _or_null(ABOVE_ZERO),
    "stride_div": ABOVE_ZERO,
    "origin_x": _whole(-(2**31), 2**31 - 1),
    "origin_y": _whole(-(2**31), 2**31 - 1),
}
_SLIDE = {
    "slide": NAME,
    "path": TEXT,
    "fingerprint": TEXT,
    "width": _whole(1),
    "height": _whole(1),
    "mpp": ABOVE_ZERO,
    "patient": TEXT,
    "site": _or_null(TEXT),
    "split": _or_null(TEXT),
    "fold": _or_null(_whole(0, 2**31 - 1)),
    "extract_px": _whole(1, 2**31 - 1),
    "stride": _whole(1, 2**31 - 1),
    "level": _whole(0, 1000),
    "level_downsample": ABOVE_ZERO,
    "read_px": _whole(1, 2**31 - 1),
    "background": COLOUR,
    "patient_columns": OBJECT,
    "reader": TEXT,
    "why_not_tiff": _or_null(TEXT),
    "stain": OBJECT,
}
_SHARD = {
    "number": _whole(0, 99_998),
    "count": _whole(1, 99_999),
    "first_tile": _whole(0),
    "tiles": _whole(1),
    "tiles_of_all": _whole(1),
    "plan": NAME,
}
_SKIPPED = {"slide": NAME, "reason": TEXT, "tile_id": LIST}
#: Entries that betons of before, or of other settings, do not have.
_OPTIONAL = {"jpeg", "stain", "patient_columns", "reader", "why_not_tiff"}
#: What the entries of columns are, but for numbers of slides and classes.
_COLUMNS: Mapping[str, tuple[int, int]] = {
    "grid_x": (0, 2**31 - 1),
    "grid_y": (0, 2**31 - 1),
    "loc_x": (-(2**62), 2**62),
    "loc_y": (-(2**62), 2**62),
}
#: What a shard of which no tile could be read says in place of a beton.
_EMPTY = {"bytes": 0, "samples": 0, "metadata_sha256": None, "pages": None}


def sidecar_problems(raw: Mapping[str, Any], *, shard: bool = False) -> list[str]:
    """Return all that is wrong with a side-car's JSON: the place, the value, and what it must be.

    Parameters
    ----------
    raw : mapping
        The JSON; its format and version are checked.
    shard : bool
        It is to be a shard's.
    """
    found = _Problems()
    samples = _check_beton(found, raw, shard=shard)
    classes = _check_classes(found, raw)
    found.check("grid", raw.get("grid"), _GRID)
    _check_others(found, raw, shard=shard)
    slides = _check_slides(found, raw)
    if samples is not None:
        _check_tiles(found, raw, samples, classes, slides)
    return found.texts


class _Problems:
    """What was found so far."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def add(self, place: str, value: Any, must: str) -> None:
        """Say what is wrong with an entry."""
        self.texts.append(f"{place} is {_shown(value)}, and must be {must}")

    def check(self, place: str, value: Any, rules: Mapping[str, Rule]) -> bool:
        """Check an object; return whether all of it is right."""
        if not isinstance(value, dict):
            self.add(place, value, OBJECT[1])
            return False
        before = len(self.texts)
        for name, (is_right, must) in rules.items():
            if name not in value:
                if name not in _OPTIONAL:
                    self.texts.append(f"{place}.{name} is missing, and must be {must}")
            elif not is_right(value[name]):
                self.add(f"{place}.{name}", value[name], must)
        return len(self.texts) == before


def _shown(value: Any) -> str:
    """Return a value as JSON has it, cut where it is long."""
    if isinstance(value, (list, dict)) and value:
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value):,}"
    if type(value) is int and abs(value) > 10**40:
        return "a number of over 40 digits"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_beton(found: _Problems, raw: Mapping[str, Any], *, shard: bool) -> int | None:
    """Check what is said of the beton; return its number of tiles if that is known."""
    beton = raw.get("beton")
    if not isinstance(beton, dict):
        found.add("beton", beton, OBJECT[1])
        return None
    found.check("beton.image", beton.get("image"), _IMAGE)
    if shard and beton.get("samples") == 0:
        for name, value in _EMPTY.items():
            if beton.get(name) != value:
                found.add(f"beton.{name}", beton.get(name), f"{_shown(value)}, as no tile could be read")
        return 0
    rules = {"bytes": _whole(1), "samples": _whole(1), "metadata_sha256": DIGEST}
    is_right = found.check("beton", beton, rules)
    pages = beton.get("pages")
    if pages is not None or shard:
        found.check("beton.pages", pages, {"bytes": POWER, "crc32": LIST})
        if isinstance(pages, dict) and isinstance(pages.get("crc32"), list):
            _integers(found, "beton.pages.crc32", pages["crc32"], 0, 2**32 - 1)
    return beton["samples"] if is_right else None


def _check_classes(found: _Problems, raw: Mapping[str, Any]) -> int | None:
    """Check the names of the classes; return how many there are."""
    classes = raw.get("classes")
    if not isinstance(classes, list):
        found.add("classes", classes, "a list of labels")
        return None
    _texts(found, "classes", classes)
    names = [name for name in classes if isinstance(name, str)]
    if len(set(names)) < len(names):
        found.texts.append("classes names a label twice, and must name each once")
    return len(classes)


def _check_others(found: _Problems, raw: Mapping[str, Any], *, shard: bool) -> None:
    """Check what is there only in shards, or where tiles were left out."""
    for name in SHARED if shard else ():
        if name not in raw:
            found.texts.append(f"{name} is missing, and all shards of an export have it")
    if shard and found.check("shard", raw.get("shard"), _SHARD):
        entry = raw["shard"]
        if entry["number"] >= entry["count"]:
            found.add("shard.number", entry["number"], f"below shard.count, {entry['count']:,}")
    if not isinstance(raw.get("versions", {}), dict):
        found.add("versions", raw["versions"], OBJECT[1])
    skipped = raw.get("skipped", [])
    if not isinstance(skipped, list):
        found.add("skipped", skipped, LIST[1])
        return
    for number, entry in enumerate(skipped):
        if found.check(f"skipped[{number}]", entry, _SKIPPED):
            _texts(found, f"skipped[{number}].tile_id", entry["tile_id"])


def _check_slides(found: _Problems, raw: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Check the slides; return them if they are right."""
    slides = raw.get("slides")
    if not isinstance(slides, list):
        found.add("slides", slides, LIST[1])
        return None
    before = len(found.texts)
    for number, slide in enumerate(slides):
        place = f"slides[{number}]"
        found.check(place, slide, _SLIDE)
        columns = slide.get("patient_columns", {}) if isinstance(slide, dict) else {}
        for name, value in columns.items() if isinstance(columns, dict) else ():
            if not (value is None or isinstance(value, (str, bool)) or _is_number(value)):
                found.add(f"{place}.patient_columns.{name}", value, "a number, text, true, false or null")
    if len(found.texts) > before:
        return None
    beton = raw.get("beton")
    if isinstance(beton, dict) and isinstance(beton.get("image"), dict) and "stain" in beton["image"]:
        for number in [number for number, slide in enumerate(slides) if "stain" not in slide][:1]:
            found.texts.append(f"slides[{number}].stain is missing, and each slide has it where beton.image.stain is")
    names = [slide["slide"] for slide in slides]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        found.texts.append(f"slides has {_shown(twice)} twice, and must have each slide once")
    return slides


def _check_tiles(
    found: _Problems, raw: Mapping[str, Any], samples: int, classes: int | None, slides: list[dict[str, Any]] | None
) -> None:
    """Check the columns of tiles, and that names, places and slides go together."""
    tiles = raw.get("tiles")
    if not isinstance(tiles, dict):
        found.add("tiles", tiles, OBJECT[1])
        return
    numbers = {"slide": (0, len(slides or ()) - 1), "class": (-1, (classes or 0) - 1), **_COLUMNS}
    known = {"slide": slides is not None, "class": classes is not None}
    before = len(found.texts)
    for name in dict.fromkeys(("tile_id", "roi_name", *numbers, *tiles)):
        column = tiles.get(name)
        if not isinstance(column, list) or len(column) != samples:
            found.add(f"tiles.{name}", column, f"a list of {samples:,}, as beton.samples is")
        elif name in numbers and known.get(name, True):
            _integers(found, f"tiles.{name}", column, *numbers[name])
        elif name in ("tile_id", "roi_name"):
            _texts(found, f"tiles.{name}", column, or_null=name == "roi_name")
        elif name == "value":
            wrong = [i for i, value in enumerate(column) if value is not None and not _is_number(value)]
            if wrong:
                _add_first(found, "tiles.value", column, wrong, "a number, or null")
        elif name == "soft" and classes is not None:
            wrong = [i for i, value in enumerate(column) if value is not None and not is_soft(value, classes)]
            if wrong:
                _add_first(found, "tiles.soft", column, wrong, f"{classes:,} probabilities that sum to 1, or null")
    if len(found.texts) == before and slides is not None and samples:
        _check_places(found, raw, slides)


def _texts(found: _Problems, place: str, column: Sequence[Any], *, or_null: bool = False) -> None:
    """Check that all of a list is text."""
    allowed = {str, type(None)} if or_null else {str}
    if not set(map(type, column)) <= allowed:
        wrong = [i for i, value in enumerate(column) if type(value) not in allowed]
        _add_first(found, place, column, wrong, "text, or null" if or_null else "text")


def _integers(found: _Problems, place: str, column: Sequence[Any], least: int, most: int) -> None:
    """Check that all of a list is whole numbers within bounds."""
    wrong: Sequence[int]
    if set(map(type, column)) <= {int}:
        if not column or (min(column) >= least and max(column) <= most):
            return
        wrong = [i for i, value in enumerate(column) if not least <= value <= most]
    else:
        wrong = [i for i, value in enumerate(column) if type(value) is not int or not least <= value <= most]
    _add_first(found, place, column, wrong, f"a whole number, {least:,} to {most:,}" if most >= least else "absent")


def _add_first(found: _Problems, place: str, column: Sequence[Any], wrong: Sequence[int], must: str) -> None:
    """Name the first entry of a list that is wrong, and count the others."""
    others = f", and so must {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
    found.add(f"{place}[{wrong[0]}]", column[wrong[0]], must + others)


def _check_places(found: _Problems, raw: Mapping[str, Any], slides: Sequence[Mapping[str, Any]]) -> None:
    """Check that each tile is where its column and row in the grid of its slide are, and is named after that."""
    tiles = raw["tiles"]
    numbers = {name: np.array(tiles[name], np.int64) for name in ("slide", *_COLUMNS)}
    half, stride = (np.array([slide[name] for slide in slides], np.int64) for name in ("extract_px", "stride"))
    for axis in ("x", "y"):
        origin = raw["grid"].get(f"origin_{axis}") if isinstance(raw.get("grid"), dict) else None
        if type(origin) is not int or abs(origin) > 2**31:
            # Told already.
            return
        slide = numbers["slide"]
        expected: npt.NDArray[np.int64] = origin + numbers[f"grid_{axis}"] * stride[slide] + half[slide] // 2
        wrong = np.flatnonzero(expected != numbers[f"loc_{axis}"]).tolist()
        if wrong:
            must = f"{int(expected[wrong[0]]):,}, where tiles.grid_{axis} has it"
            _add_first(found, f"tiles.loc_{axis}", tiles[f"loc_{axis}"], wrong, must)
    of_slide = [slide["slide"] for slide in slides]
    names = [
        f"{of_slide[slide]}-{x}-{y}" for slide, x, y in zip(tiles["slide"], tiles["loc_x"], tiles["loc_y"], strict=True)
    ]
    if names != tiles["tile_id"]:
        wrong = [i for i, (name, said) in enumerate(zip(names, tiles["tile_id"], strict=True)) if name != said]
        _add_first(found, "tiles.tile_id", tiles["tile_id"], wrong, f"{_shown(names[wrong[0]])}, by slide and place")
