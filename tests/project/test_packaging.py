"""What is installed is what is in the tree, and the engine stands without the runner."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest

from slideduck.runner.settings.extra import TRAIN_MODULES
from tests.installs import PACKAGES, ROOT, run


def tree_files(folder: str) -> list[str]:
    """Return the files of a folder that belong in the package, by their path in it."""
    suffixes = {".py", ".pyi", ".sql", ".html"}
    return [
        path.relative_to(ROOT / folder).as_posix()
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in suffixes or path.name == "py.typed"
    ]


def test_wheel_and_sdist_hold_every_file_of_the_tree_and_no_other(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    (sdist,) = built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert in_wheel == {f"{package}/{name}" for folder, package in PACKAGES.items() for name in tree_files(folder)}
    assert {"slideduck/py.typed", "slideduck/sql/schema.sql"} <= in_wheel

    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {f"{folder}/{name}" for folder in PACKAGES for name in tree_files(folder)}
    assert wanted | {"LICENSE", "README.md", "pyproject.toml"} <= in_sdist


def test_installed_wheel_imports_from_its_own_folder_with_its_sql(installed: Path, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(installed)!r})\n"
        "import slideduck, slideduck.runner\n"
        "from slideduck.store.sqlfiles import read_sql\n"
        "assert 'CREATE TABLE' in read_sql('schema.sql')\n"
        "print(slideduck.__file__, slideduck.runner.__file__, slideduck.__version__)"
    )
    # -S leaves out the editable install's own finder; the dependencies are still where they are.
    dependencies = next(path for path in sys.path if path.endswith("site-packages"))
    code = f"import sys; sys.path.append({dependencies!r})\n" + code
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    expected = f"{installed}/slideduck/__init__.py {installed}/slideduck/runner/__init__.py {version}\n"
    assert run(sys.executable, "-S", "-c", code, cwd=tmp_path) == expected


def test_installed_script_runs(installed: Path, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(installed)!r})\n"
        "from importlib.metadata import distribution\n"
        "scripts = distribution('slideduck').entry_points\n"
        "sys.argv = ['slideduck', '--help']\n"
        "scripts['slideduck'].load()()"
    )
    assert run(sys.executable, "-c", code, cwd=tmp_path).startswith("Usage: slideduck")


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("engine", "import slideduck, not engine (after: pip install -e .)"),
        ("sql", "import slideduck.sql, not sql (after: pip install -e .)"),
        ("runner", "import slideduck.runner, not runner (after: pip install -e .)"),
    ],
)
def test_import_by_the_folders_name_is_refused(folder: str, message: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"ImportError: {message}"


def test_engine_imports_neither_torch_nor_ffcv_nor_the_runner() -> None:
    modules = engine_modules()
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "print(sorted({'torch', 'ffcv', 'slideduck.runner'} & set(sys.modules)))"
    )
    assert run(sys.executable, "-c", code, cwd=ROOT) == "[]\n"


def test_matplotlib_is_imported_only_to_draw() -> None:
    code = "import slideduck.cli.group, sys; print('matplotlib' in sys.modules)"
    assert run(sys.executable, "-c", code, cwd=ROOT) == "False\n"


def engine_modules() -> list[str]:
    """Return the import name of every module of the engine."""
    parts = [path.relative_to(ROOT / "engine").with_suffix("").parts for path in (ROOT / "engine").rglob("*.py")]
    return sorted(".".join(["slideduck", *(name for name in names if name != "__init__")]) for names in parts)


def imports_of(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports anywhere, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the import name"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_engine_never_names_the_runner_torch_or_ffcv_in_an_import() -> None:
    forbidden = ("slideduck.runner", "torch", "ffcv")
    wrong = [
        f"{path.relative_to(ROOT)}: {module}"
        for path in sorted((ROOT / "engine").rglob("*.py"))
        for module in imports_of(path)
        if any(module == name or module.startswith(f"{name}.") for name in forbidden)
    ]
    assert wrong == []


def test_sql_imports_nothing() -> None:
    assert [m for path in (ROOT / "sql").rglob("*.py") for m in imports_of(path) if "__future__" not in m] == []


def test_no_engine_module_hides_a_package() -> None:
    names = {path.name.partition(".")[0] for path in (ROOT / "engine").iterdir()}
    assert not names & {"sql", "runner"}


def declared(*groups: list[str]) -> set[str]:
    """Return the names of requirements, as the index writes them."""
    found = (re.match(r"[\w.-]+", line) for group in groups for line in group)
    return {name[0].lower().replace("_", "-") for name in found if name}


def test_every_import_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [lines for name, lines in project["optional-dependencies"].items() if name != "dev"]
    known = packages_distributions()
    # The engine has to do without any extra.
    for folder, allowed in (
        ("engine", declared(project["dependencies"])),
        ("runner", declared(project["dependencies"], *extras)),
    ):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for module in sorted({name.partition(".")[0] for name in imports_of(path)}):
                if module in sys.stdlib_module_names or module == "slideduck":
                    continue
                # A package of an extra need not be installed; then its module is taken to have its name.
                sources = {name.lower().replace("_", "-") for name in known.get(module, [module])}
                assert sources & allowed, (
                    f"{path.relative_to(ROOT)} imports {module}, which pyproject.toml does not declare for {folder}/"
                )


def test_what_the_runner_asks_for_is_its_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    # Torch's writer passes over a TensorBoard that is not there.
    assert {*TRAIN_MODULES, "tensorboard"} == declared(extras["train"])


def test_all_is_every_extra_but_timm_and_dev() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (line,) = extras["all"]
    named = re.fullmatch(r"slideduck\[(.*)\]", line)
    assert named is not None
    assert set(named[1].split(",")) == set(extras) - {"all", "dev", "timm"}


def test_version_is_the_same_everywhere() -> None:
    import slideduck

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert slideduck.__version__ == project["version"] == distribution("slideduck").version
    assert f"## {project['version']} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
