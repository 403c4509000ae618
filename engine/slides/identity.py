"""Makes sure that pixels are those of the slide that was added: every reader of a slide's pixels takes a `SlideFile`.

There is no other way to them: `slideduck.slides.reader.TileReader`, `slideduck.slides.reader.thumbnail` and
`slideduck.slides.stored.find_stored_level` check the file when they open it, and whoever reads on for long checks it
again by `SlideFile.check`, which costs as much as asking for the file's time where nothing has changed.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from slideduck.errors import SlideError
from slideduck.slides.content import content_fingerprint, content_part, files_of, is_same_fingerprint
from slideduck.slides.header import read_header

__all__ = ["FOLLOW", "SlideFile"]

#: Files that were found to be those that were added, with the state in which they were; some are enough.
_proved: dict[SlideFile, list[tuple[Path, tuple[int, ...]]]] = {}
_MOST_PROVED = 10_000
_lock = threading.Lock()

#: What to do about a file that is not where it was: what is known of its slide stays, since it is found by its bytes.
FOLLOW = "put the file back, or add it from where it is now"


@dataclass(frozen=True)
class SlideFile:
    """The file of a slide as it was added to a study, or exported.

    Attributes
    ----------
    slide : str
        The slide's name, for messages.
    path : Path
        Where it is.
    bytes : int or None
        Its size; None where it is not known.
    fingerprint : str or None
        Its fingerprint; None where any file will do.
    remedy : str
        What to do if it has changed.
    """

    slide: str
    path: Path
    bytes: int | None
    fingerprint: str | None
    remedy: str = "add it again"

    @classmethod
    def unchecked(cls, path: str | os.PathLike[str]) -> SlideFile:
        """Return a file as it is, whichever it is: of no study, such as in a test."""
        return cls(Path(path).stem, Path(path), None, None)

    def check(self) -> None:
        """Make sure that the file is the one that was added.

        Raises
        ------
        SlideError
            If it is another file, or cannot be read.

        Notes
        -----
        A file of which size, times and place are as they were is not read again. Else its content is looked at, so
        that a copy passes, with whatever time, and another slide does not, though it has this one's time and size.
        """
        if self.fingerprint is None:
            return
        try:
            if self._is_as_proved():
                return
            before = _states(files_of(self.path))
            is_same = self._is_same() and before == _states([path for path, _ in before])
        except OSError as error:
            raise SlideError(
                f"slide {self.slide!r}: {error.filename or self.path} cannot be read: {error.strerror}; {FOLLOW}"
            ) from error
        if not is_same:
            raise SlideError(
                f"slide {self.slide!r} has changed: {self.path} is not the file that was added; {self.remedy}"
            )
        with _lock:
            if len(_proved) >= _MOST_PROVED:
                _proved.clear()
            _proved[self] = before

    def _is_as_proved(self) -> bool:
        """Return whether it was found to be the right one before, and nothing has touched it since."""
        with _lock:
            known = _proved.get(self)
        return known is not None and _states([path for path, _ in known]) == known

    def _is_same(self) -> bool:
        """Return whether its content is that of the file that was added."""
        assert self.fingerprint is not None
        if self.bytes is not None and os.stat(self.path).st_size != self.bytes:
            return False
        content = content_part(self.fingerprint)
        if content is not None:
            return content_fingerprint(self.path) == content
        try:
            return is_same_fingerprint(self.fingerprint, read_header(self.path, default_mpp=1.0).fingerprint)
        except SlideError:
            return False


def _states(files: list[Path]) -> list[tuple[Path, tuple[int, ...]]]:
    """Return what tells, without reading, that files are as they were; the time of a change of state cannot be set."""
    return [
        (path, (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns))
        for path, now in ((path, os.stat(path)) for path in files)
    ]
