"""The house keeps its order: no wing grows too large, and none reaches into the private rooms of another."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"engine": "slideduck", "runner": "slideduck.runner"}
WINGS = sorted(path.parent for folder in PACKAGES for path in (ROOT / folder).glob("*/__init__.py"))
MODULES = sorted(path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("wing", WINGS, ids=lambda wing: wing.relative_to(ROOT).as_posix())
def test_a_wing_has_few_rooms(wing: Path) -> None:
    modules = [path for path in wing.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= 15
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in wing.glob("*.py")) <= 4000
    assert not [path for path in wing.iterdir() if path.is_dir() and path.name != "__pycache__"]


def imported_names(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the module, the name in it and the name here of each import of ours in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in ("slideduck", "tests"):
            for alias in node.names:
                yield str(node.module), alias.name, alias.asname or alias.name


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_no_private_name_of_another_module_is_used() -> None:
    wrong = []
    for path in [*MODULES, *sorted((ROOT / "tests").rglob("*.py"))]:
        imports = list(imported_names(path))
        wrong += [f"{path.relative_to(ROOT)}: {module}.{name}" for module, name, _ in imports if private(name)]
        # Modules that were imported as such: `checkpoint._sink` is as private as `from checkpoint import _sink`.
        modules = {here for module, name, here in imports if is_module(f"{module}.{name}")}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id in modules and private(node.attr):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.value.id}.{node.attr}")
    assert wrong == []


def is_module(name: str) -> bool:
    """Return whether a dotted name is a file or a folder of the tree."""
    if name.startswith("slideduck.runner."):
        place = ROOT / "runner" / name.removeprefix("slideduck.runner.").replace(".", "/")
    elif name.startswith("slideduck."):
        place = ROOT / "engine" / name.removeprefix("slideduck.").replace(".", "/")
    else:
        place = ROOT / name.replace(".", "/")
    return place.is_dir() or place.with_suffix(".py").is_file()
