"""Every error that slideduck raises for the user's mistakes, in one tree under `SlideduckError`.

A message names what was wrong and its value, where it stands, and what to do: an argument as `grid` or
`jpeg='auto'`, in whose place the CLI prints the option (see `slideduck.words`). The CLI exits with 1 then;
anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

__all__ = [
    "FULL_ERRNOS",
    "BetonError",
    "ConfigError",
    "DiskFullError",
    "InputError",
    "MissingPackageError",
    "QueryError",
    "ResolutionError",
    "RunError",
    "SlideError",
    "SlideduckError",
    "SplitError",
    "StudyError",
]


#: What the operating system calls a disk, a quota or a limit on files that is reached.
FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class SlideduckError(Exception):
    """The base of all errors of slideduck."""


class InputError(SlideduckError):
    """An input file that was checked whole and refused.

    Parameters
    ----------
    problems : sequence of str
        One message for each bad row, each beginning with ``file:row``.

    Attributes
    ----------
    problems : tuple of str
        All of them; the text of the error shows the first fifty and counts the rest.
    """

    #: Problems that the text shows: a file that is wrong all through would fill the terminal.
    SHOWN = 50

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        shown = list(self.problems[: self.SHOWN])
        left = len(self.problems) - len(shown)
        if left:
            shown.append(f"... and {left:,} more ({len(self.problems):,} problems in all)")
        super().__init__("\n".join(shown))

    def __reduce__(self) -> tuple[type[InputError], tuple[tuple[str, ...]]]:
        """Pickle by the problems, so that the error crosses processes."""
        return type(self), (self.problems,)


class SlideError(SlideduckError):
    """A slide that does not open, or lacks what its use needs."""


class ResolutionError(SlideduckError):
    """A tile size or magnification that a slide cannot give."""


class StudyError(SlideduckError):
    """A study that is missing, locked, of another version, or not ready for what was asked."""


class QueryError(SlideduckError):
    """SQL from the user that does not parse, bind or run."""


class SplitError(SlideduckError):
    """A split that cannot be made, or one that leaks a patient."""


class BetonError(SlideduckError):
    """A beton or its side-car that is damaged, cut short, or of another kind."""


class ConfigError(SlideduckError):
    """A setting of a run that is impossible, by name and value."""


class RunError(SlideduckError):
    """A run that cannot go on: its folder, its checkpoint or its loss."""


class DiskFullError(SlideduckError):
    """No space left to write a file."""


class MissingPackageError(SlideduckError, ImportError):
    """A package of an extra that is not installed, with what to install."""
