r"""Words that messages share: numbers with their nouns, a few names of many, and writing to the terminal.

Names and labels come from files of others. What a terminal would obey or turn around is written as Python writes it,
such as ``\x1b``; see `printable`.

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

__all__ = [
    "Said", "agreeing", "arguments_said_as", "counted", "json_printable", "listed", "message", "part",
    "print_counted", "print_line", "print_names", "printable", "some",
]  # fmt: skip

#: Takes the name of an argument, and its value or None; returns what is said for both, such as ``--jpeg auto``, or
#: None where the text is to stay as it is.
Said: TypeAlias = Callable[[str, str | None], str | None]

#: An argument that a text names, and its value, with quotes or without.
_ARGUMENT = re.compile(r"`(\w+)(?:=(?:'([^'`]*)'|([^'`]+)))?`")

#: What a terminal obeys (C0, DEL, C1), what breaks lines or turns the order of letters, and no characters.
_OBEYED = "\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff"
_UNPRINTABLE = re.compile(f"[\x00-\x1f{_OBEYED}]")
_UNPRINTABLE_IN_LINES = re.compile(f"[\x00-\x08\x0b-\x1f{_OBEYED}]")
_UNPRINTABLE_IN_JSON = re.compile(f"[{_OBEYED}]")

#: What arguments are said as now; the last one holds.
_said_as: list[Said] = []


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun, such as ``1 tile`` or ``1,204 tiles``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def part(number: int, whole: int, noun: str) -> str:
    """Return a number of some with their noun, such as ``1 of 7 patients``; the verb goes by the number."""
    return f"{number:,} of {counted(whole, noun)}"


def agreeing(number: int, one: str, several: str) -> str:
    """Return the verb, or another word, that goes with a number."""
    return one if number == 1 else several


def listed(names: Sequence[str]) -> str:
    """Return all names as a sentence has them, such as ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def some(names: Sequence[str], most: int = 5) -> str:
    """Return a few names, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def printable(text: str, *, lines: bool = False) -> str:
    r"""Return a text as it is safe to show, with control characters written out: ``\x1b``, ``\n``, ``\u202e``.

    Parameters
    ----------
    text : str
        The text. What is printable stays as it is, a backslash too.
    lines : bool, default False
        Leave line ends and tabs, for texts of our own that have names in them.
    """
    unprintable = _UNPRINTABLE_IN_LINES if lines else _UNPRINTABLE
    return unprintable.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def json_printable(text: str) -> str:
    """Return JSON with the same values, of which a terminal obeys nothing; JSON escapes most control characters."""
    return _UNPRINTABLE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


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
    print(printable(text, lines=True), file=sys.stderr, flush=True)


def print_line(text: object) -> None:
    """Write a line to standard output."""
    print(printable(str(text), lines=True), flush=True)


def print_counted(one: str, several: str, names: Sequence[str]) -> None:
    """Write names under their number and what they are, which goes by the number; nothing without names."""
    print_names(f"{counted(len(names), one, several)}:", names)


def print_names(title: str, names: Sequence[str], most: int = 20) -> None:
    """Write names under a title to standard error, the first of them where there are many; nothing without names."""
    if names:
        message(title)
        for name in names[:most]:
            message(f"  {printable(name)}")
        if len(names) > most:
            message(f"  and {len(names) - most:,} more")
