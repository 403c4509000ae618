"""Files that appear whole or not at all: written under a temporary name, flushed, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from slideduck.errors import FULL_ERRNOS, DiskFullError, SlideduckError, StudyError
from slideduck.files.find import absolute, reason

__all__ = ["check_folder", "explained", "replacing", "staged", "sync_folder", "write_whole"]


@contextmanager
def explained(
    path: Path,
    *,
    full: str | Callable[[], str],
    kind: type[SlideduckError] = StudyError,
    place: str = "another place for it",
) -> Iterator[None]:
    """Turn errors of the operating system while a file is written into errors of ours.

    Parameters
    ----------
    path : Path
        The file, or the folder.
    full : str or callable
        What follows the reason where the disk is full: what is kept, and how to go on.
    kind : type
        The error for every other reason.
    place : str
        What to give where it cannot be written.

    Raises
    ------
    DiskFullError
        If there is no room: on the disk, in the quota, or under the limit on the size of files.
    SlideduckError
        Of the kind that was given, if it cannot be written for another reason.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL_ERRNOS:
            rest = full if isinstance(full, str) else full()
            raise DiskFullError(f"no space left for {path} ({error.strerror}){rest}") from error
        raise kind(f"{path} cannot be written: {error.strerror}; give {place}") from error


def check_folder(path: Path) -> None:
    """Refuse to write into a folder that is missing, before anything is made.

    Raises
    ------
    SlideduckError
        If there is no such folder.
    """
    if not path.parent.is_dir():
        raise SlideduckError(f"no folder {path.parent} to write {path.name} in; make the folder first")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside a file, and rename it over the file if the block ends well.

    Parameters
    ----------
    path : Path
        The file that appears whole or not at all.

    Raises
    ------
    SlideduckError
        If the folder does not exist.
    """
    check_folder(path)
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file so that its name always holds either the old or the new content.

    The content is written under a temporary name beside it and flushed, the file renamed, and the folder flushed.

    Parameters
    ----------
    path : Path
        The file.
    write : callable
        Takes the open file and writes to it.

    Raises
    ------
    OSError
        If it cannot be written; see `explained`. The file keeps its old content.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
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
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class _Sink:
    """A file that keeps the error that ended a write: a full disk, or Ctrl-C."""

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


def sync_folder(folder: Path) -> None:
    """Flush a folder to the disk, so that a rename in it survives a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def staged(folder: str | os.PathLike[str], names: Sequence[str], *, overwrite: bool) -> Iterator[Path]:
    """Give a hidden folder to write files in, and move them into a folder if the block ends well.

    Parameters
    ----------
    folder : path
        Where the files are to appear; made if the folder above it exists.
    names : sequence of str
        Names of the files that may come, perhaps in folders below (``case1/HE.csv``); others in the folder are left
        alone.
    overwrite : bool
        Replace files of those names.

    Yields
    ------
    Path
        The hidden folder, in the same file system. The names of files in it are those they will have; the folders of
        `names` are there.

    Raises
    ------
    StudyError
        If files of those names are there and are not to be replaced, naming each; if a name leads out of the folder;
        or if nothing can be written there.
    DiskFullError
        If there is no room.
    """
    path = absolute(folder)
    if path.exists() and not path.is_dir():
        raise StudyError(f"{path} is a file, not a folder; give another name")
    outside = [repr(name) for name in names if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise StudyError(f"no file is written for {', '.join(outside)}: the name leads out of {path}")
    there = [name for name in sorted(names) if (path / name).exists()]
    if there and not overwrite:
        raise StudyError(
            f"{len(there)} file{'s are' if len(there) > 1 else ' is'} in {path} already; "
            "give another folder, or replace them with `overwrite=True`:\n" + "\n".join(f"  {name}" for name in there)
        )
    if not path.parent.is_dir():
        raise StudyError(f"no folder {path.parent} to put {path.name} in; make the folder first")
    made = not path.exists()
    staging: Path | None = None
    try:
        path.mkdir(exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".slideduck-", dir=path))
        for folder_of in {(staging / name).parent for name in names}:
            folder_of.mkdir(parents=True, exist_ok=True)
        yield staging
        for file in sorted(file for file in staging.rglob("*") if file.is_file()):
            final = path / file.relative_to(staging)
            final.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, final)
    except OSError as error:
        if error.errno in FULL_ERRNOS:
            raise DiskFullError(f"no space left in {path} ({reason(error)}); free some, and export again") from error
        raise StudyError(f"nothing can be written in {path}: {reason(error)}; give another folder") from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        if made:
            # Empty where nothing came of it.
            with suppress(OSError):
                path.rmdir()
