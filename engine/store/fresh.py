"""Makes the file of a new study, which appears whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb

from slideduck.errors import SlideduckError
from slideduck.files.holders import hold
from slideduck.files.write import explained, sync_folder
from slideduck.store import schema
from slideduck.store.causes import cause
from slideduck.store.db import connect, require_folder

__all__ = ["begin"]

#: How the names of folders begin in which a study is made.
_PREFIX = ".slideduck-new-"

#: What the operating system calls a file system that has no hard links.
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES})


def begin(path: Path) -> None:
    """Make the file of a new study.

    It is made in a hidden folder beside its place, which only this user may enter, and is checkpointed and closed
    before it gets its name: a kill or a full disk leaves no file of that name, and no log of how tables were made,
    which DuckDB 1.5.5 cannot read back; see `slideduck.store.db`. Where another process made the study meanwhile, that
    one stays.

    Raises
    ------
    DiskFullError, StudyError
        If it cannot be made; nothing is left.
    """
    require_folder(path)
    if path.is_symlink():  # To a file that is not there yet.
        path = path.resolve()
        require_folder(path)
    with (
        explained(path, full="; nothing was made: free some, and run it again", place="another path for the study"),
        _building(path) as building,
    ):
        _fill(building, path)
        with suppress(FileExistsError):
            _name(building, path)
            sync_folder(path.parent)


def _fill(building: Path, path: Path) -> None:
    """Make the tables and views in a file, and close it with all in it."""
    try:
        con = connect(building)
        try:
            schema.prepare(con, building, read_only=False)
        finally:
            con.close()
    except (SlideduckError, duckdb.Error) as error:
        told = cause(error, building) or error
        # The user knows the study by its own name.
        raise type(told)(str(told).replace(str(building), str(path))) from error


def _name(building: Path, path: Path) -> None:
    """Give a file its name, unless there is one of that name."""
    try:
        os.link(building, path)
    except OSError as error:
        if error.errno not in _NO_LINKS or path.exists():
            raise
        # Such file systems cannot refuse to replace a file; what is lost if another came since is a new study.
        building.rename(path)


@contextmanager
def _building(path: Path) -> Iterator[Path]:
    """Give a path in a hidden folder beside a study; the folder is held, and removed at the end."""
    _remove_leftovers(path.parent)
    folder, held = _held_folder(path.parent)
    try:
        yield folder / path.name
    finally:
        _remove(folder)
        os.close(held)


def _held_folder(beside: Path) -> tuple[Path, int]:
    """Make a folder that no other process takes for a leftover, and return it with what holds it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=beside))
        with suppress(FileNotFoundError):
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            if hold(held) and os.fstat(held).st_nlink:
                return folder, held
            os.close(held)


def _remove_leftovers(beside: Path) -> None:
    """Remove the folders that processes left which were killed while they made a study."""
    for folder in beside.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                # Not `hold`: without locks nobody knows whether it is a leftover.
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder)
            finally:
                os.close(held)


def _remove(folder: Path) -> None:
    """Remove a folder with the files in it; what is no file stays, and the folder with it."""
    with suppress(OSError):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
