"""Mutations of files: of their bytes, and of what their bytes mean."""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Callable

__all__ = ["mutated"]

#: What programs and attackers write where something else is meant.
_TEXTS = (
    "", "NaN", "inf", "-1e308", "1e300", "0", "-0", "null", "true", "1,5", "9" * 5000, "\0", "\x1b[31m", "\ud7ff", "é",
    "../../x", "[" * 300, "{" * 300, "<a>" * 300, "]]>", '"', "'", ",", ";", "\n", "\r", "\t", " ",
    "=cmd|' /C calc'!A0",
    "&lt;", "&#0;", "<!DOCTYPE a>", "PAR1", "PK\3\4", "\ufeff", "Polygon", "MultiPolygon", "GeometryCollection",
)  # fmt: skip
_VALUES: tuple[object, ...] = (
    None, True, False, 0, -1, 1e300, -1e308, float("nan"), float("inf"), 10**400, "", "x", [], {}, [[]], [[[]]], [0],
    [[0, 0]], {"type": "Polygon"}, {"type": "Polygon", "coordinates": [[[0, 0], [1, 0]]]}, {"name": []}, ["a", 1],
)  # fmt: skip
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)


def mutated(seed: bytes, rng: random.Random) -> bytes:
    """Return bytes that differ from a seed in a few places."""
    data = seed
    for _ in range(rng.choice((1, 1, 1, 1, 1, 1, 2, 4))):
        mutate = rng.choice(_OF_BYTES if b"\0" in seed[:4096] else _OF_BYTES + _OF_TEXT)
        data = mutate(data, rng)
    return data


def _place(data: bytes, rng: random.Random) -> int:
    return rng.randrange(len(data) + 1)


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 16))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: _place(data, rng)]


def _remove(data: bytes, rng: random.Random) -> bytes:
    start = _place(data, rng)
    return data[:start] + data[start + rng.choice((1, 2, 8, 100, 1000)) :]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    start = _place(data, rng)
    return data[:start] + data[start : start + rng.choice((1, 8, 100))] * rng.choice((2, 50)) + data[start:]


def _swap(data: bytes, rng: random.Random) -> bytes:
    a, b, c = sorted(_place(data, rng) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _number(data: bytes, rng: random.Random) -> bytes:
    """Write an integer that is at the edge of some type over a place."""
    start, order = _place(data, rng), rng.choice("<>")
    number, kind = rng.choice(_NUMBERS), rng.choice("BHIQd")
    bits = {"B": 8, "H": 16, "I": 32, "Q": 64, "d": 64}[kind]
    packed = struct.pack(order + kind, float(number) if kind == "d" else number % 2**bits)
    return data[:start] + packed + data[start + len(packed) :]


def _noise(data: bytes, rng: random.Random) -> bytes:
    start = _place(data, rng)
    return data[:start] + rng.randbytes(rng.choice((1, 4, 64))) + data[start:]


def _insert(data: bytes, rng: random.Random) -> bytes:
    start = _place(data, rng)
    return data[:start] + rng.choice(_TEXTS).encode() + data[start:]


def _token(data: bytes, rng: random.Random) -> bytes:
    """Put something else in the place of a word or number."""
    tokens = list(re.finditer(rb"[\w.+-]+", data[:200_000]))
    if not tokens:
        return data
    token = rng.choice(tokens)
    text = rng.choice(_TEXTS).encode() if rng.random() < 0.7 else rng.choice(tokens)[0]
    return data[: token.start()] + text + data[token.end() :]


def _line(data: bytes, rng: random.Random) -> bytes:
    """Remove, repeat or move a line."""
    lines = data.split(b"\n")
    line = rng.randrange(len(lines))
    return b"\n".join(rng.choice((
        [*lines[:line], *lines[line + 1 :]], [*lines[: line + 1], *lines[line:]], [*lines[line:], *lines[:line]],
    )))  # fmt: skip


def _encode(data: bytes, rng: random.Random) -> bytes:
    try:
        return data.decode().encode(rng.choice(("utf-16", "utf-8-sig", "latin-1", "utf-32")))
    except UnicodeError:
        return data


def _node(data: bytes, rng: random.Random) -> bytes:
    """Put another value in the place of one in JSON, or remove or repeat it."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return _token(data, rng)
    here = document
    if not isinstance(here, dict | list):  # What an earlier mutation left is one value.
        return json.dumps(rng.choice(_VALUES)).encode()
    for _ in range(rng.randrange(1, 9)):
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            break
        key = rng.choice(keys)
        if isinstance(here[key], dict | list) and here[key] and rng.random() < 0.85:
            here = here[key]
            continue
        match rng.randrange(4):
            case 0 if isinstance(here, list):
                here.insert(key, here[key])
            case 1:
                del here[key]
            case _:
                here[key] = rng.choice(_VALUES)
        break
    return json.dumps(document).encode()


_OF_BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip, _flip, _flip, _cut, _remove, _repeat, _swap, _number, _number, _noise,
)  # fmt: skip
_OF_TEXT: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _insert, _token, _token, _token, _line, _encode, _node, _node, _node, _node,
)  # fmt: skip
