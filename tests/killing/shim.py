"""The library that strikes a command at its n-th change of a file: building it, its plans, and arming it."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
from pathlib import Path

__all__ = ["KINDS", "Plan", "arm", "build_shim", "is_loaded", "open_plan", "write_plan"]

_SOURCE = Path(__file__).with_name("shim.c")

#: What the library does, in the order of its own list.
KINDS = ("count", "kill", "tear", "full", "full once", "read error", "read-only", "interrupt", "clock", "tear in place")


class Plan(ctypes.Structure):
    """What to do when, and what happened, in memory that all processes of a command share; ``plan`` in shim.c."""

    _fields_ = [
        ("count", ctypes.c_long),
        ("reads", ctypes.c_long),
        ("struck", ctypes.c_long),
        ("kind", ctypes.c_long),
        ("at", ctypes.c_long),
        ("seconds", ctypes.c_long),
        ("group", ctypes.c_long),
        ("folder", ctypes.c_char * 1024),
        ("inputs", ctypes.c_char * 1024),
    ]


def build_shim(folder: Path) -> Path:
    """Compile the library into a folder, and return its path."""
    library = folder / "shim.so"
    command = ["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", str(library), str(_SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library


def write_plan(path: Path, kind: str, at: int, *, folder: Path, inputs: Path, seconds: int = 0) -> None:
    """Write the plan of one command: at the `at`-th change under `folder`, or read under `inputs`, `kind` happens."""
    plan = Plan(kind=KINDS.index(kind), at=at, seconds=seconds, folder=os.fsencode(folder), inputs=os.fsencode(inputs))
    path.write_bytes(bytes(plan))


def open_plan(path: Path) -> Plan:
    """Return a plan as the processes of its command see it."""
    with path.open("r+b") as file:
        return Plan.from_buffer(mmap.mmap(file.fileno(), 0))


def is_loaded() -> bool:
    """Return whether this process was started with the library before it."""
    return hasattr(ctypes.CDLL(None), "shim_arm")


def arm(path: Path) -> None:
    """Let a plan begin in this process, and in those that it starts."""
    os.environ["SLIDEDUCK_FAULT"] = str(path)
    ctypes.CDLL(None).shim_arm(os.fsencode(path))
