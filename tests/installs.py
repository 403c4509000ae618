"""The package as users install it: a wheel that was built from the tree, beside what it requires and nothing else."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

__all__ = ["PACKAGES", "ROOT", "link_required", "run"]

ROOT = Path(__file__).resolve().parents[1]
#: Folder of the tree → where it is in the package.
PACKAGES = {"engine": "slideduck", "sql": "slideduck/sql", "runner": "slideduck/runner"}


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command without a network or a caller's paths, and return what it printed."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(cwd),
        "PIP_NO_INDEX": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def link_required(requirements: list[str], folder: Path) -> set[str]:
    """Link into a folder the packages that requirements name, and those that these need; extras are left out.

    Returns
    -------
    set of str
        The names of the packages.
    """
    linked: set[str] = set()
    wanted = [Requirement(line) for line in requirements]
    while wanted:
        requirement = wanted.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in linked or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError as error:
            raise AssertionError(f"{name} is required, and not installed here") from error
        linked.add(name)
        # Scripts lie above: `../../../bin/name`.
        for top in {path.parts[0] for path in found.files or [] if path.parts[0] not in ("..", "__pycache__")}:
            there = folder / top
            if not there.exists():
                there.symlink_to(Path(str(found.locate_file(top))))
        wanted += [Requirement(line) for line in found.requires or []]
    return linked
