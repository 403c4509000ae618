"""The public names: each is the object of its module, is typed as that, and is imported when it is first used."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import get_args, get_type_hints

import pandas as pd
import pytest

import slideduck
import slideduck.runner
from slideduck import errors

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"engine": slideduck, "runner": slideduck.runner}

both = pytest.mark.parametrize("folder", PACKAGES)


def stub(folder: str) -> ast.Module:
    return ast.parse((ROOT / folder / "__init__.pyi").read_text(encoding="utf-8"))


def imported(folder: str) -> dict[str, tuple[str, str]]:
    """Return what a stub imports: the module of each name, and its name there."""
    return {
        alias.asname or alias.name: (str(node.module), alias.name)
        for node in stub(folder).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@both
def test_each_public_name_is_the_object_that_its_stub_names(folder: str) -> None:
    package = PACKAGES[folder]
    names = imported(folder)
    # What the runner registers is not in `__all__`: `from slideduck import *` needs no torch.
    registered = set(entry_points(group="slideduck.names").names) if folder == "engine" else set()
    assert registered == ({"loader", "TileDataset"} if folder == "engine" else set())
    assert set(names) == set(package.__all__) - {"__version__"} | registered
    assert registered <= set(dir(package))
    for name, (module, name_there) in names.items():
        found = getattr(package, name)
        assert found is getattr(import_module(module), name_there), name
        # Where it is defined, and not where it is passed on: type checkers and readers are led to the source.
        assert found.__module__ == module, name


@both
def test_a_stub_and_its_package_say_the_same_is_public(folder: str) -> None:
    (names,) = (
        ast.literal_eval(node.value)
        for node in stub(folder).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"
    )
    assert sorted(names) == sorted(PACKAGES[folder].__all__)


@both
def test_dir_lists_the_public_names_before_they_are_used(folder: str) -> None:
    name = PACKAGES[folder].__name__
    code = f"import {name} as package; print(set(package.__all__) - set(dir(package)), *package.__all__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["set()", *PACKAGES[folder].__all__]


@both
def test_an_unknown_name_is_refused_in_the_words_of_python(folder: str) -> None:
    package = PACKAGES[folder]
    with pytest.raises(AttributeError) as raised:
        package.no_such_name  # noqa: B018
    with pytest.raises(AttributeError) as python_raised:
        ModuleType(package.__name__).no_such_name  # noqa: B018
    assert str(raised.value) == str(python_raised.value)
    assert (raised.value.name, raised.value.obj) == ("no_such_name", package)
    assert not hasattr(package, "no_such_name")
    with pytest.raises(ImportError, match=f"^cannot import name 'no_such_name' from '{package.__name__}' "):
        exec(f"from {package.__name__} import no_such_name")


def test_every_error_is_public() -> None:
    kinds = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert errors.SlideduckError.__name__ in kinds
    assert {name for name in kinds if issubclass(getattr(errors, name), Exception)} <= set(slideduck.__all__)


def test_what_the_methods_of_a_study_return_is_public() -> None:
    returned = set()
    for name, method in inspect.getmembers(slideduck.Study, inspect.isfunction):
        if not name.startswith("_"):
            hint = get_type_hints(method, localns={"pd": pd})["return"]
            returned |= {kind for kind in (hint, *get_args(hint)) if inspect.isclass(kind)}
    ours = {kind.__name__ for kind in returned if kind.__module__.startswith("slideduck")}
    assert {"ExportReport", "EvaluationAdded", "NativeGrid"} <= ours
    assert ours <= set(slideduck.__all__)


#: What takes long to import, and what a program that uses the library without a terminal does not need.
HEAVY = {
    "torch", "ffcv", "numba", "transformers", "click", "rich", "matplotlib", "cv2", "numpy", "pandas", "pyarrow",
    "duckdb", "openslide",
}  # fmt: skip


@pytest.mark.parametrize("name", ["slideduck", "slideduck.runner", "slideduck.cli.group"])
def test_importing_brings_in_nothing_heavy(name: str) -> None:
    code = f"import sys, {name}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == (["click"] if name == "slideduck.cli.group" else [])


def test_the_help_brings_in_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['slideduck', '--help']\n"
        "from slideduck.cli.group import cli\n"
        "try: cli()\n"
        f"except SystemExit: print('imported:', *sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported: click"


def test_no_public_name_of_the_engine_brings_in_what_is_for_a_terminal_or_for_training() -> None:
    code = (
        "import sys, slideduck; [getattr(slideduck, name) for name in slideduck.__all__]\n"
        "print(*sorted({'torch', 'ffcv', 'transformers', 'click', 'rich', 'matplotlib', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_a_setting_is_made_without_torch_and_a_function_brings_it() -> None:
    code = (
        "import sys; from slideduck.runner import TrainConfig; TrainConfig(epochs=3)\n"
        "print('torch' in sys.modules)\n"
        "from slideduck.runner import train\n"
        "print('torch' in sys.modules, train.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\nTrue slideduck.runner.training.train\n"
