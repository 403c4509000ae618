"""Public names of a package, imported when they are first used (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["entry_point_names", "from_entry_point", "lazy_names"]


def lazy_names(
    package: str, homes: Mapping[str, str], before: Callable[[str], None] | None = None, group: str | None = None
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
    group : str, optional
        Entry points that have further names: those of packages which this one does not import.
    """
    module = sys.modules[package]

    def get(name: str) -> Any:
        if name not in homes:
            # Python and notebooks ask any module for names with an underscore, which nobody registers.
            if group is not None and not name.startswith("_"):
                found = from_entry_point(group, name)
                if found is not None:
                    setattr(module, name, found)
                    return found
            # In Python's own words, and with what it needs to suggest a name that is alike.
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=module)
        if before is not None:
            before(name)
        home, _, name_there = homes[name].partition(":")
        found = getattr(import_module(home), name_there or name)
        setattr(module, name, found)  # the next use finds it without a call
        return found

    def listed() -> list[str]:
        return sorted({*vars(module), *homes, *(() if group is None else entry_point_names(group))})

    return get, listed


def from_entry_point(group: str, name: str) -> Any:
    """Return what an installed package registers under a name, imported now; None where none does.

    So the engine gives what the runner, or another package, adds to it, and imports neither.

    Parameters
    ----------
    group : str
        Group of entry points, such as ``slideduck.names``.
    name : str
        Name in it.
    """
    from importlib.metadata import entry_points

    return next((point.load() for point in entry_points(group=group, name=name)), None)


def entry_point_names(group: str) -> list[str]:
    """Return the names that installed packages register in a group, sorted; nothing is imported for it."""
    from importlib.metadata import entry_points

    return sorted(entry_points(group=group).names)
