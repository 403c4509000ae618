"""Files that appear whole or not at all: written under a temporary name, flushed, then renamed.

Others may write in the same folder. So a temporary file is always made anew, never opened through what stands under its
name, and what cannot be made anew, such as the pages of an export that goes on, is opened only if it is a file of this
user. A final name that is a link is replaced as a name: what it leads to stays as it is.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from slideduck.errors import FULL_ERRNOS, DiskFullError, SlideduckError, StudyError
from slideduck.files.find import absolute, reason
from slideduck.names import path_problem

__all__ = ["check_folder", "explained", "open_own", "replacing", "staged", "sync_folder", "write_whole"]

#: Bytes of a file's name that its temporary name repeats; names may have 255.
_NAME_BYTES = 200


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

    The block opens that name itself; `write_whole` is safer, as it gives the open file.

    Parameters
    ----------
    path : Path
        The file that appears whole or not at all. A link of this name is replaced, and not followed.

    Raises
    ------
    SlideduckError
        If the folder does not exist, or somebody exchanged the temporary file.
    """
    check_folder(path)
    with _temporary(path, "part") as (temporary, _):
        yield temporary


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file so that its name always holds either the old or the new content.

    The content is written under a temporary name beside it and flushed, the file renamed, and the folder flushed.

    Parameters
    ----------
    path : Path
        The file. A link of this name is replaced, and not followed.
    write : callable
        Takes the open file and writes to it.

    Raises
    ------
    OSError
        If it cannot be written; see `explained`. The file keeps its old content.
    SlideduckError
        If somebody exchanged the temporary file.
    """
    with _temporary(path, "tmp") as (_, fd):
        with open(fd, "wb", closefd=False) as file:
            sink = _Sink(file)
            try:
                write(sink)  # type: ignore[arg-type]
            except RuntimeError:
                # Torch reports a failed write as its own error; the cause is what the user needs.
                if sink.error is not None:
                    raise sink.error from None
                raise
            file.flush()
        os.fsync(fd)
    sync_folder(path.parent)


@contextmanager
def _temporary(path: Path, ending: str) -> Iterator[tuple[Path, int]]:
    """Make an empty file beside another one, and rename it over that one if the block ends well.

    Yields
    ------
    temporary : Path
        Its name: ``.NAME.part``, or where another process is writing that, one that nobody can guess.
    fd : int
        It, open for reading and writing, and locked until the block ends.
    """
    temporary, fd = _made_anew(path, ending)
    try:
        yield temporary, fd
        if not _is_still(temporary, fd):
            raise StudyError(
                f"{path} was not written: another process exchanged {temporary.name} in {path.parent}; write into a "
                "folder in which nobody else may write"
            )
        os.replace(temporary, path)
    except BaseException:
        if _is_still(temporary, fd):
            temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def _made_anew(path: Path, ending: str) -> tuple[Path, int]:
    """Make and lock an empty file beside another one; what a killed process left under its first name is removed."""
    begin = f".{os.fsdecode(os.fsencode(path.name)[:_NAME_BYTES])}"
    temporary = path.with_name(f"{begin}.{ending}")
    _remove_left(temporary)
    while True:
        try:
            # The rights of the file are those that the umask gives.
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            fd = -1
        if fd >= 0:
            with suppress(OSError):  # A file system without locks.
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Before it was locked, another process may have taken it for what a kill left.
            if _is_still(temporary, fd):
                return temporary, fd
            os.close(fd)
        temporary = path.with_name(f"{begin}.{secrets.token_hex(8)}.{ending}")


def _remove_left(temporary: Path) -> None:
    """Remove a file that a killed process of this user left; leave links, files of others, and those being written."""
    try:
        fd = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if _not_own(temporary, fd) is None:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(temporary, fd):
                temporary.unlink()
    except OSError:
        # Another process is writing it, or there is no telling: it stays.
        pass
    finally:
        os.close(fd)


def _is_still(path: Path, fd: int) -> bool:
    """Return whether a name is still that of an open file."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    except OSError:
        return False


def open_own(path: Path, flags: int, *, kind: type[SlideduckError] = StudyError) -> int:
    """Open a file to go on writing it, or make it; refuse what somebody else may have put there.

    Parameters
    ----------
    path : Path
        The file. It may have links in the path of its folder.
    flags : int
        How to open it, such as ``os.O_RDWR | os.O_APPEND``.
    kind : type
        The error.

    Returns
    -------
    int
        The descriptor; it is not inherited.

    Raises
    ------
    SlideduckError
        If it is a link, symbolic or hard, a pipe or a device, or a file of another user.
    OSError
        If it cannot be opened; see `explained`.
    """
    # A pipe without a reader would wait for ever.
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise kind(_refused(path, "a link to another file, and is not written through")) from None
        if error.errno == errno.ENXIO:
            raise kind(_refused(path, "no file, and is not written to")) from None
        raise
    try:
        if (what := _not_own(path, fd)) is not None:
            raise kind(_refused(path, what))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _refused(path: Path, what: str) -> str:
    return f"{path} is {what}; remove it, or write in another folder"


def _not_own(path: Path, fd: int) -> str | None:
    """Return what an open file is, if it is none that this user alone has under this name."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return "no file, and is not written to"
    if status.st_nlink > 1:
        return "a link to another file, and is not written through"
    if status.st_uid != os.geteuid() and status.st_uid != _owner_here(path.parent):
        return f"a file of another user ({status.st_uid}), and is not written to"
    return None


def _owner_here(folder: Path) -> int:
    """Return whose a new file in a folder is: network drives give all files to one user."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_uid
    except OSError:
        return os.geteuid()


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
        If files of those names are there and are not to be replaced, naming each; if a name is not that of a file (see
        `slideduck.names.path_problem`) or leads through a link out of the folder; or if nothing can be written there.
    DiskFullError
        If there is no room.
    """
    path = absolute(folder)
    if path.exists() and not path.is_dir():
        raise StudyError(f"{path} is a file, not a folder; give another name")
    problems = [f"  {name!r}: the name {problem}" for name in names if (problem := path_problem(name)) is not None]
    if problems:
        raise StudyError(
            f"no file is written in {path} for names that are not those of files; name the other slides with `slides`:"
            "\n" + "\n".join(problems)
        )
    _refuse_links(path, names)
    there = [name for name in sorted(names) if os.path.lexists(path / name)]
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
            _refuse_links(path, [str(file.relative_to(staging))])
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


def _refuse_links(folder: Path, names: Sequence[str]) -> None:
    """Raise if a folder below another one, which a name speaks of, is a link that leads out of that one."""
    real = os.path.realpath(folder)
    for name in names:
        above = [folder / part for part in Path(name).parents if part.name]
        for between in reversed(above):
            if os.path.commonpath([real, os.path.realpath(between)]) != real:
                raise StudyError(
                    f"no file is written for {name!r}: the folder {between} is a link that leads out of {folder}; "
                    "remove the link, or give another folder"
                )
