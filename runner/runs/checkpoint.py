"""The files of a run folder: written whole or not at all, and read without running any code in them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from slideduck.errors import FULL_ERRNOS, DiskFullError, RunError

__all__ = [
    "CHECKPOINTS",
    "append_line",
    "file_sha256",
    "load",
    "lock_folder",
    "make_folder",
    "save",
    "write_json",
    "write_whole",
]

#: Names of a run's checkpoints.
CHECKPOINTS = ("best", "last")

#: Of the dict that a checkpoint holds; another number is not read.
VERSION = 1


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file so that, whatever happens, its name holds either the old or the new content.

    The content goes to a temporary name beside it, then to the disk, and is renamed last.

    Parameters
    ----------
    path : Path
        The file.
    write : callable
        Takes the open file and writes to it.

    Raises
    ------
    DiskFullError
        If there is no space; the file keeps its old content.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with _told(path):
            with temporary.open("wb") as file:
                sink = _Sink(file)
                try:
                    write(sink)  # type: ignore[arg-type]
                except RuntimeError:
                    # Torch reports a failed write as its own error; the cause is what the user needs.
                    if sink.error is not None:
                        raise sink.error from None
                    raise
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class _Sink:
    """A file that remembers what ended a write: a full disk, or Ctrl-C."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        """Write, and keep the error if it fails."""
        try:
            return self._file.write(data)
        except BaseException as error:
            self.error = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what the operating system says of a failed write into an error of ours."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_ERRNOS:
            raise DiskFullError(
                f"no space left for {path} ({error.strerror}); free some, and the same command goes on"
            ) from error
        raise RunError(f"{path} cannot be written: {error.strerror}; give another place") from error


def _sync_folder(folder: Path) -> None:
    """Bring a rename to the disk, so that it outlives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def append_line(path: Path, line: str, *, durable: bool = True) -> None:
    """Append a line to a file and, if it is to be durable, bring it to the disk.

    Raises
    ------
    DiskFullError
        If there is no space.
    """
    with _told(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        if durable:
            os.fsync(file.fileno())


def write_json(path: Path, values: Any) -> None:
    """Write a value as indented JSON, whole or not at all."""
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def save(path: Path, state: dict[str, Any]) -> None:
    """Save a checkpoint: tensors, numbers, strings, lists and dicts only.

    Raises
    ------
    DiskFullError
        If there is no space; the checkpoint that was there stays whole.
    """
    write_whole(path, lambda file: torch.save({"version": VERSION, **state}, file))


def load(path: Path) -> dict[str, Any]:
    """Load a checkpoint onto the CPU, with ``weights_only=True``: no code in it runs.

    Raises
    ------
    RunError
        If it is missing, damaged, or of another version of slideduck.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RunError(
            f"{path}: no such checkpoint; train first (slideduck train OUT.beton --run {path.parent})"
        ) from None
    except Exception as error:
        first_line = str(error).split(". ")[0].splitlines()[0] if str(error) else type(error).__name__
        raise RunError(
            f"{path}: not a checkpoint that can be read ({first_line}); "
            "remove the run folder and train again, or get the file again"
        ) from error
    version = state.get("version") if isinstance(state, dict) else None
    if version != VERSION:
        raise RunError(f"{path}: its version is {version!r}, and this slideduck reads version {VERSION}")
    return dict(state)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are not there.

    Raises
    ------
    RunError, DiskFullError
        If it cannot be made.
    """
    with _told(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep a run folder to one training at a time; the lock ends with the process, however it ends.

    Raises
    ------
    RunError
        If another process is training in it.
    """
    make_folder(folder)
    with _told(folder):
        file = (folder / ".lock").open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder}: another process is training in it; wait for it, or give another --run") from None
        yield
