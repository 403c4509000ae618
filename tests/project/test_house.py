"""The house keeps its order: no wing grows too large, and none reaches into the private rooms of another."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pictures import wings

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"engine": "slideduck", "runner": "slideduck.runner"}
WINGS = sorted(path.parent for folder in PACKAGES for path in (ROOT / folder).glob("*/__init__.py"))
MODULES = sorted(path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("wing", WINGS, ids=lambda wing: wing.relative_to(ROOT).as_posix())
def test_a_wing_has_few_rooms(wing: Path) -> None:
    modules = [path for path in wing.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= 15
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in wing.glob("*.py")) <= 4700
    assert not [path for path in wing.iterdir() if path.is_dir() and path.name != "__pycache__"]
    text = (wing / "README.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {wing.name}\n")
    assert missing_files(text, wing) == []


@pytest.mark.parametrize("wing", WINGS, ids=lambda wing: wing.relative_to(ROOT).as_posix())
def test_a_wing_says_what_it_must_not_import(wing: Path) -> None:
    text = (wing / "README.md").read_text(encoding="utf-8")
    said = re.search(r"^Must not (?:import|be imported).*\Z", text, re.MULTILINE | re.DOTALL)
    assert said is not None
    layers = layers_of(wing.parent.name)
    (level,) = (i for i, layer in enumerate(layers) if wing.name in layer)
    forbidden = {name for layer in layers[: level + 1] for name in layer} - {wing.name}
    outside = "slideduck.runner" if wing.parent.name == "engine" else "slideduck.cli"
    assert set(re.findall(r"`([\w.]+)`", said[0])) == forbidden | {outside}


@pytest.mark.parametrize("path", ["sql/README.md", "README.md", "CONTRIBUTING.md"])
def test_what_is_written_for_engineers_names_files_that_are_there(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert text.startswith("# ")
    # In the root's files, paths of the tree; of a user's files there are many more.
    names = re.findall(r"`((?:engine|runner|sql|tests)/[\w./-]+)`", text)
    assert [name for name in names if not (ROOT / name).exists()] == []
    if path.startswith("sql"):
        assert missing_files(text, ROOT / "sql") == []


def test_the_picture_of_the_wings_is_drawn_from_the_contracts_as_they_are() -> None:
    # Where it is not: python tests/pictures/wings.py, and look at it.
    assert wings.OUT.read_text(encoding="utf-8") == wings.drawn()
    assert wings.OUT.relative_to(ROOT).as_posix() in (ROOT / "README.md").read_text(encoding="utf-8")


def missing_files(text: str, folder: Path) -> list[str]:
    """Return the files that a text names, such as `read.py` or `views/labels.sql`, and that are not there.

    They lie in the folder; a path that begins with the name of a wing is from the folder above, or from the root.
    """
    names = re.findall(r"`([\w./-]+\.(?:py|sql|html|toml))`", text)
    return [name for name in names if not any((place / name).is_file() for place in (folder, folder.parent, ROOT))]


def layers_of(folder: str) -> list[set[str]]:
    """Return the layers of the engine or the runner, from the top, as the contracts have them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for contract in settings["tool"]["importlinter"]["contracts"]:
        if contract.get("containers") == [PACKAGES[folder]]:
            return [set(re.findall(r"\w+", layer)) for layer in contract["layers"]]
    raise AssertionError(f"no contract has the layers of {folder}")


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
        wrong += [
            f"{path.relative_to(ROOT)}:{node.lineno}: {node.value.id}.{node.attr}"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            if node.value.id in modules and private(node.attr)
        ]
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
