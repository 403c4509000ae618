"""JSON from strangers: a file that is too large or too deep, or means two things, is refused with a reason."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from slideduck.limit import beyond, limit

__all__ = ["parse_json", "read_limited"]

#: What JSON can write for half of a character, which no encoding of text has.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_limited(path: Path) -> bytes:
    """Return the bytes of a file, if it is within the limit ``file_mb``.

    Raises
    ------
    ValueError
        If it is larger.
    OSError
        If it cannot be read.
    """
    most = limit("file_mb") * 10**6
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(beyond("file_mb", max(limit("file_mb") + 1, -(-path.stat().st_size // 10**6))))
    return content


def parse_json(content: bytes) -> Any:
    """Return what JSON says.

    Parameters
    ----------
    content : bytes
        UTF-8.

    Raises
    ------
    ValueError
        If it is no JSON, names an entry twice, has a number that JSON has not (``NaN``) or one of thousands of
        digits, half of a character, or is nested deeper than the limit ``depth``.
    """
    try:
        value = json.loads(content.decode(), object_pairs_hook=_once, parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start:,} is no text in UTF-8") from None
    except RecursionError:
        raise ValueError(beyond("depth", _brackets(content))) from None
    except MemoryError:
        raise ValueError(f"its {len(content):,} bytes take more memory than there is") from None
    # Most files have too few brackets to be deep, and need no walk.
    if _brackets(content) > limit("depth"):
        _check_depth(value)
    if _SURROGATE.search(content):
        _check_text(value)
    return value


def _brackets(content: bytes) -> int:
    """Return how deep a text can be at most."""
    return content.count(b"[") + content.count(b"{")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object, or refuse a name that stands twice: programs differ in which of them they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the entry {json.dumps(twice)} is there twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _check_depth(value: Any) -> None:
    """Refuse what is nested too deep, one level after the other."""
    level, depth = [value], 0
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        if depth > limit("depth"):
            raise ValueError(beyond("depth", depth))
        level = [item for holder in level if _holds_more(holder) for item in _items(holder)]


def _items(holder: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return holder.values() if isinstance(holder, dict) else holder


def _holds_more(holder: dict[str, Any] | list[Any]) -> bool:
    """Return True if something in it holds something; a column of a million numbers is asked once."""
    return not {dict, list}.isdisjoint(map(type, _items(holder)))


def _check_text(value: Any) -> None:
    """Refuse half of a character, anywhere."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"it has {error.object[error.start]!a}, half of a character") from None
