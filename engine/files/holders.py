"""Holds files for this process, and says which other one holds a file, so that a message can tell whom to wait for."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

__all__ = ["hold", "holder", "process"]

#: Letters of another process's command that a message shows.
_LONGEST = 120


def hold(file: int) -> bool:
    """Lock an open file or folder until it is closed; False where another process has it.

    A file system without locks lets everyone go on.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def process(pid: int | str, otherwise: str = "") -> str:
    """Return a process as messages name it: its number, and what was typed to start it.

    Parameters
    ----------
    pid : int or str
        The number.
    otherwise : str
        What is said where the system does not tell the command.
    """
    line = ""
    with suppress(OSError):
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    # Another user's words go to this user's terminal: nothing of them may steer it.
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in line).split())
    if len(line) > _LONGEST:
        line = f"{line[:_LONGEST]}..."
    said = line or otherwise
    return f"process {pid} ({said})" if said else f"process {pid}"


def holder(file: int) -> str:
    """Return who holds a lock (flock) on an open file; "another process" where the system has no list."""
    with suppress(OSError, ValueError):
        status = os.fstat(file)
        device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            # Those who wait for it have an arrow in the place of the number.
            if words[1] == "FLOCK" and words[5] == device and int(words[4]) > 0:
                return process(int(words[4]))
    return "another process"
