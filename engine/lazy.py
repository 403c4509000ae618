"""What is imported when it is first used: public names of a package (PEP 562), and what other packages register."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["lazy_names", "registered"]


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
            point = None if group is None or name.startswith("_") else registered(group).get(name)
            if point is not None:
                found = point.load()
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
        return sorted({*vars(module), *homes, *(() if group is None else registered(group))})

    return get, listed


def registered(group: str) -> dict[str, EntryPoint]:
    """Return what installed packages register under a group of entry points, such as ``slideduck.commands``, by name.

    So the engine finds commands, pictures, verbs and names of the runner, and never imports it.
    """
    # It imports much of what reads mails.
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=group)}
