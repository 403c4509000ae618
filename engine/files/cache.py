"""What was found out once and need not be found out again: small files in the user's cache folder.

A cache that cannot be written, or is damaged, only means that the work is done again.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from slideduck.files.holders import hold

__all__ = ["alone", "cache_folder", "remember", "remembered"]

#: Files of one kind that are kept; the oldest go first.
_MOST = 64
_WAIT_SECONDS = 0.1


def cache_folder() -> Path:
    """Return slideduck's folder in the user's cache: ``$XDG_CACHE_HOME/slideduck``, or ``~/.cache/slideduck``."""
    told = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (told if told.is_absolute() else Path.home() / ".cache") / "slideduck"


def remembered(kind: str, key: str) -> bytes | None:
    """Return what was remembered; None where there is nothing, or nothing that is whole and the user's own.

    Parameters
    ----------
    kind : str
        The folder.
    key : str
        What it holds for, such as a digest; a name of a file.
    """
    try:
        fd = os.open(cache_folder() / kind / key, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, RuntimeError):
        return None
    try:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode) or about.st_uid != os.getuid():
            return None
        with os.fdopen(fd, "rb", closefd=False) as file:
            digest, content = file.read(32), file.read()
    except OSError:
        return None
    finally:
        os.close(fd)
    return content if digest == hashlib.sha256(key.encode() + content).digest() else None


def remember(kind: str, key: str, content: bytes) -> str | None:
    """Remember something, whole or not at all, for the user alone.

    Parameters
    ----------
    kind, key
        As in `remembered`.
    content : bytes
        What to remember.

    Returns
    -------
    str or None
        Why it cannot be remembered.
    """
    temporary = ""
    try:
        folder = _folder(kind)
        fd, temporary = tempfile.mkstemp(prefix=".new-", dir=folder)
        with os.fdopen(fd, "wb") as file:
            file.write(hashlib.sha256(key.encode() + content).digest() + content)
        os.replace(temporary, folder / key)
        _forget_oldest(folder)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            os.unlink(temporary)
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return f"{cache_folder()} cannot be written ({reason})"
    return None


@contextmanager
def alone(kind: str, key: str, waiting: Callable[[], None]) -> Iterator[None]:
    """Let one process of the user on this machine do a block at a time; where no lock can be had, all do.

    Parameters
    ----------
    kind, key
        As in `remembered`.
    waiting : callable
        Called again and again while another process is in its block; what it raises ends the wait.
    """
    try:
        fd = os.open(_folder(kind) / f".lock-{key}", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except (OSError, RuntimeError):
        yield
        return
    try:
        while not hold(fd):
            waiting()
            time.sleep(_WAIT_SECONDS)
        yield
    finally:
        os.close(fd)


def _folder(kind: str) -> Path:
    """Return the folder of a kind, made if it is not there."""
    folder = cache_folder() / kind
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _forget_oldest(folder: Path) -> None:
    """Delete all but the newest files."""
    ages = []
    for entry in os.scandir(folder):
        with suppress(OSError):
            ages.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.path))
    # A file and a lock each.
    for _, path in sorted(ages, reverse=True)[2 * _MOST :]:
        with suppress(OSError):
            os.unlink(path)
