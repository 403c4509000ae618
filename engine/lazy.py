"""What is imported when it is first used: public names of a package (PEP 562), and what other packages register."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

__all__ = ["lazy_names", "registered"]


def lazy_names(
    package: str, homes: Mapping[str, str], before: Callable[[str], None] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and the ``__dir__`` of a package.

    Parameters
    ----------
    package : str
        Name of the package, as it is imported.
    homes : mapping of str to str
        The module of each name; ``module:name`` where it has another name there.
    before : callable, optional
        Called with a name before its module is imported; it may raise.
    """
    module = sys.modules[package]

    def get(name: str) -> Any:
        if name not in homes:
            # In Python's own words, and with what it needs to suggest a name that is alike.
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=module)
        if before is not None:
            before(name)
        home, _, name_there = homes[name].partition(":")
        found = getattr(import_module(home), name_there or name)
        setattr(module, name, found)  # the next use finds it without a call
        return found

    def listed() -> list[str]:
        return sorted({*vars(module), *homes})

    return get, listed


def registered(group: str) -> dict[str, EntryPoint]:
    """Return what installed packages register under a group of entry points, such as ``slideduck.commands``, by name.

    So the engine finds commands, pictures and verbs of the runner, and never imports it.
    """
    return {point.name: point for point in entry_points(group=group)}
