"""Lets timm be imported where torchvision is not installed: the networks use none of it.

timm names torchvision's data sets, transforms and one batch norm when it is imported. pip would bring a torchvision
that asks for one release of torch and one build of it, and so replace the torch that is there.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["import_timm"]

_NAME = "torchvision"


class _Absent(type):
    """A class of torchvision's that is not there: it can be named, and has whatever members are named."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name

    def __call__(cls, *_args: object, **_named: object) -> Any:
        raise ImportError(f"timm asks for torchvision's {cls.__name__}, and torchvision is not installed")


class _Module(ModuleType):
    """A module of torchvision's that is not there."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        absent = _Absent(name, (), {})
        setattr(self, name, absent)
        return absent


class _Finder(MetaPathFinder, Loader):
    """Finds torchvision, and nothing else, behind all other finders."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        is_ours = name.partition(".")[0] == _NAME
        return ModuleSpec(name, self, is_package=True) if is_ours else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def import_timm() -> Any:
    """Import timm, with or without torchvision.

    Raises
    ------
    ImportError
        If timm is not installed, or cannot be imported for another reason.
    """
    with _stood_in():
        timm = importlib.import_module("timm")
        for part in ("layers", "data", "utils"):
            importlib.import_module(f"timm.{part}")
        return timm


@contextmanager
def _stood_in() -> Iterator[None]:
    """Stand in for a torchvision that is not installed; nobody else, such as transformers, is to find it afterwards."""
    if "timm.models" in sys.modules or importlib.util.find_spec(_NAME) is not None:
        yield
        return
    finder = _Finder()
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if isinstance(module, _Module)]:
            del sys.modules[name]
