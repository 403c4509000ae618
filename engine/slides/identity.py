"""Whether a slide's file is the one that was added to the study."""

from __future__ import annotations

import os
from pathlib import Path

from slideduck.errors import SlideError
from slideduck.slides.header import read_header

__all__ = ["require_added_file"]


def require_added_file(
    slide: str,
    path: str | Path,
    *,
    size: int | None,
    mtime: float | None,
    fingerprint: str | None,
    remedy: str = "add it again",
) -> None:
    """Make sure that a file is the one that was added.

    Parameters
    ----------
    slide : str
        The slide's name, for messages.
    path : path
        Where it was when it was added.
    size, mtime, fingerprint
        Bytes, modification time and fingerprint of the file that was added.
    remedy : str
        What to do if it has changed.

    Raises
    ------
    SlideError
        If it is another file, or cannot be read.
    """
    try:
        now = os.stat(path)
    except OSError as error:
        raise SlideError(
            f"slide {slide!r}: {path} cannot be read: {error.strerror}; put the file back, or add it from where it is "
            "now"
        ) from error
    if now.st_size == size and (now.st_mtime == mtime or _fingerprint(path) == fingerprint):
        return
    raise SlideError(f"slide {slide!r} has changed: {path} is not the file that was added; {remedy}")


def _fingerprint(path: str | Path) -> str | None:
    """Return the fingerprint of a file that was copied and so has another time; None if it does not open."""
    try:
        return read_header(Path(path), default_mpp=1.0).fingerprint
    except SlideError:
        return None
