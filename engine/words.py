"""Words that messages share: numbers with their nouns, a few names of many, and writing to standard error.

A text names an argument of the function that was called in backquotes, with its value where there is one: `grid`,
`jpeg='auto'`, `overwrite=True`. That is for programs. People who run a command want its option; while one runs,
`message` says that instead; see `arguments_said_as`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

__all__ = ["Said", "arguments_said_as", "counted", "listed", "message", "print_names", "some"]

#: Takes the name of an argument, and its value or None; returns what is said for both, such as ``--jpeg auto``, or
#: None where the text is to stay as it is.
Said: TypeAlias = Callable[[str, str | None], str | None]

#: An argument that a text names, and its value, with quotes or without.
_ARGUMENT = re.compile(r"`(\w+)(?:=(?:'([^'`]*)'|([^'`]+)))?`")

#: What arguments are said as now; the last one holds.
_said_as: list[Said] = []


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun, such as ``1 tile`` or ``1,204 tiles``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(names: Sequence[str]) -> str:
    """Return all names as a sentence has them, such as ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def some(names: Sequence[str], most: int = 5) -> str:
    """Return a few names, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


@contextmanager
def arguments_said_as(said: Said) -> Iterator[None]:
    """Let `message` say something else for the arguments that texts name, while the block runs.

    Parameters
    ----------
    said : callable
        What is said for an argument; see `Said`.
    """
    _said_as.append(said)
    try:
        yield
    finally:
        _said_as.remove(said)


def message(text: str) -> None:
    """Write a message to standard error; standard output is for data."""
    if _said_as:
        text = _ARGUMENT.sub(lambda found: _said_as[-1](found[1], found[2] or found[3]) or found[0], text)
    print(text, file=sys.stderr, flush=True)


def print_names(title: str, names: Sequence[str], most: int = 20) -> None:
    """Write names under a title to standard error, the first of them where there are many; nothing without names."""
    if names:
        message(title)
        for name in names[:most]:
            message(f"  {name}")
        if len(names) > most:
            message(f"  and {len(names) - most:,} more")
