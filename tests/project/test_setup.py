"""The set-up script on machines where something is missing: it says what, and what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: What the script itself is made of; a machine always has these.
ALWAYS = (
    "bash",
    "cat",
    "cut",
    "dirname",
    "env",
    "head",
    "mktemp",
    "rm",
    "sha256sum",
    "sleep",
    "tail",
    "true",
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the set-up is for Debian and Ubuntu")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a copy of what the script reads, in a folder with a space in its name."""
    clone = tmp_path / "a clone"
    (clone / ".ci").mkdir(parents=True)
    for name in ("setup", "requirements.txt"):
        shutil.copy(ROOT / ".ci" / name, clone / ".ci")
    shutil.copy(ROOT / "pyproject.toml", clone)
    return clone


def machine(
    folder: Path, programs: Mapping[str, str] | None = None, *, without: tuple[str, ...] = ()
) -> dict[str, str]:
    """Return the environment of a machine that has only some programs; others are given as shell scripts."""
    programs = programs or {}
    folder.mkdir()
    for name in (*ALWAYS, "make", "g++", "gcc", "pkg-config"):
        found = shutil.which(name)
        if found and name not in without and name not in programs:
            (folder / name).symlink_to(found)
    if "python3" not in without and "python3" not in programs:
        (folder / "python3").symlink_to(sys.executable)
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    return {"PATH": str(folder), "HOME": str(folder), "LOG": str(folder / "log")}


def call(clone: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Call the script as the Makefile does."""
    command = [str(clone / ".ci" / "setup"), "test"]
    bash = shutil.which("bash")
    assert bash is not None
    return subprocess.run([bash, *command], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)


SUDO = '[ "$1" = -n ] && shift; exec "$@"'
NO_LIBRARIES = 'case "$*" in *--exists*) exit 1;; esac'


def test_without_apt_the_missing_packages_and_the_command_are_named(clone: Path, tmp_path: Path) -> None:
    environment = machine(tmp_path / "bin", {"pkg-config": NO_LIBRARIES}, without=("g++",))
    done = call(clone, environment)
    assert done.returncode == 1
    assert done.stderr == (
        "setup: missing: g++ libopencv-dev libturbojpeg0-dev\n"
        "setup: install them, as root: apt-get install -y --no-install-recommends "
        "g++ libopencv-dev libturbojpeg0-dev\n"
        "setup: then call make test again\n"
    )
    assert not (clone / ".venv").exists()


def test_a_failed_install_shows_the_end_of_what_apt_said(clone: Path, tmp_path: Path) -> None:
    apt = 'case "$*" in *install*) echo "E: Unable to locate package" >&2; exit 100;; esac'
    environment = machine(tmp_path / "bin", {"apt-get": apt, "sudo": SUDO}, without=("g++",))
    done = call(clone, environment)
    assert done.returncode == 1
    assert done.stdout == "setup: installing Debian packages: g++\n"
    assert done.stderr == (
        "setup: this failed: apt-get install -y --no-install-recommends g++\nsetup: E: Unable to locate package\n"
    )


def test_packages_that_do_not_help_are_reported_and_not_installed_for_ever(clone: Path, tmp_path: Path) -> None:
    environment = machine(
        tmp_path / "bin",
        {
            "apt-get": 'echo "$*" >> "$LOG"',
            "sudo": SUDO,
            "pkg-config": NO_LIBRARIES,
        },
    )
    done = call(clone, environment)
    assert done.returncode == 1
    assert done.stderr == (
        "setup: still missing after their packages were installed: libopencv-dev libturbojpeg0-dev\n"
        f"setup: another pkg-config or compiler comes first in PATH={environment['PATH']}\n"
    )
    assert Path(environment["LOG"]).read_text(encoding="utf-8").splitlines() == [
        "update -qq",
        "install -y -qq --no-install-recommends libopencv-dev libturbojpeg0-dev",
    ]


def test_without_a_recent_python_it_says_what_to_install(clone: Path, tmp_path: Path) -> None:
    environment = machine(
        tmp_path / "bin", {"python3": 'if [ "$1" = --version ]; then echo "Python 3.9.2"; else exit 1; fi'}
    )
    done = call(clone, environment)
    assert done.returncode == 1
    assert done.stderr == (
        "setup: found no Python of 3.11 or later (Python 3.9.2)\n"
        "setup: install one, such as: sudo apt-get install -y python3.11 python3.11-venv python3.11-dev\n"
        "setup: or name one: make test PYTHON=/path/to/python3\n"
    )


def test_a_named_python_that_does_not_do_is_refused(clone: Path, tmp_path: Path) -> None:
    done = call(clone, machine(tmp_path / "bin") | {"PYTHON": "python2"})
    assert done.returncode == 1
    assert done.stderr == ("setup: PYTHON=python2 is not a Python of 3.11 or later; name one, or leave PYTHON out\n")


def test_a_virtual_environment_of_somebody_else_is_not_removed(clone: Path, tmp_path: Path) -> None:
    if subprocess.run(["pkg-config", "--exists", "opencv4", "libturbojpeg"]).returncode != 0:
        pytest.skip("opencv4 or libturbojpeg is not installed here")
    (clone / ".venv" / "bin").mkdir(parents=True)
    python = clone / ".venv" / "bin" / "python"
    python.write_text("#!/bin/bash\nexit 1\n", encoding="utf-8")
    python.chmod(0o755)
    done = call(clone, machine(tmp_path / "bin"))
    assert done.returncode == 1
    assert done.stderr == (
        "setup: .venv does not run Python 3.11 or later; remove it and call make test again: rm -r .venv\n"
    )
    assert python.exists()


def test_what_is_done_is_not_done_again(clone: Path, tmp_path: Path) -> None:
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / ".venv" / "bin" / "python").symlink_to(sys.executable)
    checksums = subprocess.run(
        ["sha256sum", "pyproject.toml", ".ci/setup", ".ci/requirements.txt"],
        cwd=clone,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    stamp = clone / ".venv" / ".slideduck-setup"
    stamp.write_text(f"{os.path.realpath(clone)}\n{checksums}", encoding="utf-8")
    # Nothing that an install would need is there.
    environment = machine(tmp_path / "bin", without=("python3", "make", "g++", "gcc", "pkg-config"))
    done = call(clone, environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    with (clone / "pyproject.toml").open("a", encoding="utf-8") as project:
        project.write("# changed\n")
    assert call(clone, environment).returncode == 1
