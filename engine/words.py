"""How the program speaks: numbers with their nouns, a few names of many, and what it tells people on standard error."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["counted", "listed", "message", "print_names", "some"]


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


def message(text: str) -> None:
    """Tell the user something that is not data, on standard error."""
    print(text, file=sys.stderr, flush=True)


def print_names(title: str, names: Sequence[str], most: int = 20) -> None:
    """Print names under a title, where there are any, on standard error; how many more where there are many."""
    if names:
        message(title)
        for name in names[:most]:
            message(f"  {name}")
        if len(names) > most:
            message(f"  and {len(names) - most:,} more")
