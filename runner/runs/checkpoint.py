"""The files of a run folder: written whole or not at all, and read without running any code in them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from slideduck.errors import RunError
from slideduck.files import write
from slideduck.files.holders import holder
from slideduck.runner.networks.torchfile import FileRefused, read_torch
from slideduck.runner.runs.contents import check, checkpoint_problems
from slideduck.runner.settings.folders import no_checkpoint
from slideduck.runner.settings.jsonfile import sealed

__all__ = [
    "CHECKPOINTS",
    "append_line",
    "explained",
    "file_sha256",
    "load",
    "lock_folder",
    "make_folder",
    "save",
    "write_json",
    "write_sealed",
    "write_whole",
]

#: Names of a run's checkpoints.
CHECKPOINTS = ("best", "last")

#: Of the dict that a checkpoint holds; another number is not read.
VERSION = 1

_HINT = "remove the run folder and train again, or get the file again"


def explained(path: Path) -> AbstractContextManager[None]:
    """Turn errors of the operating system while a file of a run is written into errors of ours.

    Raises
    ------
    DiskFullError
        If there is no space.
    RunError
        If it cannot be written for another reason.
    """
    return write.explained(path, kind=RunError, full="; free some, and the same command goes on", place="another place")


def write_whole(path: Path, content: Callable[[IO[bytes]], object]) -> None:
    """Write a file of a run so that its name holds either the old or the new content.

    Parameters
    ----------
    path : Path
        The file.
    content : callable
        Takes the open file and writes to it.

    Raises
    ------
    DiskFullError, RunError
        If it cannot be written; the file keeps its old content.
    """
    with explained(path):
        write.write_whole(path, content)


def append_line(path: Path, line: str, *, durable: bool = True) -> None:
    """Append a line to a file and, if it is to be durable, flush it to the disk.

    Raises
    ------
    DiskFullError
        If there is no space.
    RunError
        If it cannot be written, or is a link or a file of another user.
    """
    with explained(path), open(_own_file(path), "a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        if durable:
            os.fsync(file.fileno())


def _own_file(path: Path) -> int:
    """Open a file of a run to append to it, and make it where it is missing."""
    return write.open_own(path, os.O_WRONLY | os.O_APPEND, kind=RunError)


def write_json(path: Path, values: Any) -> None:
    """Write a value as indented JSON, whole or not at all."""
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def write_sealed(path: Path, values: Mapping[str, Any]) -> None:
    """Write an object as indented JSON with a checksum; see `slideduck.runner.settings.jsonfile.read_object`."""
    write_json(path, sealed(values))


def save(path: Path, state: dict[str, Any]) -> None:
    """Save a checkpoint: tensors, numbers, strings, lists and dicts only.

    Raises
    ------
    DiskFullError
        If there is no space; the checkpoint that was there stays whole.
    """
    write_whole(path, lambda file: torch.save({"version": VERSION, **state}, file))


def load(path: Path) -> dict[str, Any]:
    """Load a checkpoint onto the CPU; no code in it runs, and what has changed since it was written is not used.

    Raises
    ------
    RunError
        If it is missing, damaged, or of another version of slideduck, with all that is wrong in it.
    """
    try:
        state = read_torch(path)
    except FileNotFoundError:
        raise RunError(no_checkpoint(path)) from None
    except FileRefused as error:
        raise RunError(f"{path}: {error}; {_HINT}") from error
    version = state.get("version") if isinstance(state, dict) else None
    if version != VERSION:
        raise RunError(f"{path}: its version is {version!r}, and this slideduck reads version {VERSION}")
    check(path, checkpoint_problems(state), "a checkpoint of a run", _HINT)
    return dict(state)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, if they are missing.

    Raises
    ------
    RunError, DiskFullError
        If it cannot be made.
    """
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a run folder for one training at a time; the lock ends with the process, even a killed one.

    Raises
    ------
    RunError
        If another process is training in it, or its lock is a link or a file of another user.
    """
    make_folder(folder)
    with explained(folder):
        lock = _own_file(folder / ".lock")
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder}: {holder(lock)} is training in it; wait for it, or give another `run`") from None
        yield
    finally:
        os.close(lock)
