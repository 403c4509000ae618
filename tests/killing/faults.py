"""What happens to a command: each fault says when it strikes, how it is told to the shim, and what may come of it."""

from __future__ import annotations

import signal
from dataclasses import dataclass

__all__ = ["FAULTS", "Fault"]


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes
    ----------
    name : str
        What the table calls it.
    kind : str
        What the shim does, one of its `KINDS`.
    counts : {"count", "reads", ""}
        Of what an uninterrupted command did a moment is drawn; "" where there is no moment, so that one try does.
    statuses : tuple of int
        With which the command may end; 0 only if its work is whole.
    seconds : int
        By how much the clock jumps.
    open_files : int, optional
        How many files the command may have open.
    full_tmp : bool
        Whether it is the folder of temporary files that has no room, from the first write on.
    small_disk : bool
        Whether the folder is a file system of its own with too little room.
    held : bool
        Whether another process has the study open for writing.
    usual : bool
        Whether it is tried unless it is asked for by name.
    """

    name: str
    kind: str = "count"
    counts: str = ""
    statuses: tuple[int, ...] = (0, 1)
    seconds: int = 0
    open_files: int | None = None
    full_tmp: bool = False
    small_disk: bool = False
    held: bool = False
    usual: bool = True


_KILLED = (0, -signal.SIGKILL)
_YEAR = 366 * 86_400

FAULTS = (
    Fault("killed", "kill", "count", _KILLED),
    Fault("killed half-way through a write", "tear", "count", _KILLED),
    # Nothing of ours: DuckDB 1.5.5 writes blocks of metadata again where they are, and half of one is none.
    Fault("killed within a block that is written again", "tear in place", "count", _KILLED, usual=False),
    Fault("disk full", "full", "count"),
    Fault("disk full for one write", "full once", "count"),
    Fault("small disk", counts="bytes", small_disk=True),
    Fault("slide unreadable", "read error", "reads"),
    Fault("read-only from then on", "read-only", "count"),
    Fault("Ctrl-C twice", "interrupt", "count", (0, 130)),
    Fault("clock a year ahead", "clock", "count", (0,), seconds=_YEAR),
    Fault("clock a year back", "clock", "count", (0,), seconds=-_YEAR),
    Fault("/tmp full", "full", full_tmp=True),
    Fault("64 open files", open_files=64),
    Fault("study held by another process", held=True),
)
