"""The time that a run waits for tiles: its cause, and what to change."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LoaderFacts", "Usage", "advice", "usage"]

#: A greater part of an epoch spent waiting is worth a change.
WAITING_SHARE = 0.05
#: Threads busier than this are the bottleneck.
_BUSY_SHARE = 0.7
#: Where more than this part of an epoch's bytes came from the disk, they were not in memory.
_DISK_SHARE = 0.5

_PROC_IO = Path("/proc/self/io")


@dataclass(frozen=True)
class Usage:
    """What a process has used so far.

    Attributes
    ----------
    cpu_s : float
        Seconds of all its threads.
    disk_bytes : int or None
        Bytes that came from a disk, and not from memory; None where the system does not count them.
    """

    cpu_s: float
    disk_bytes: int | None

    def since(self, before: Usage) -> Usage:
        """Return what was used since."""
        both = self.disk_bytes is not None and before.disk_bytes is not None
        return Usage(
            self.cpu_s - before.cpu_s,
            self.disk_bytes - before.disk_bytes if both else None,  # type: ignore[operator]
        )


def usage() -> Usage:
    """Return what this process has used so far."""
    try:
        match = re.search(r"^read_bytes: (\d+)$", _PROC_IO.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        match = None
    return Usage(time.process_time(), int(match[1]) if match else None)


@dataclass(frozen=True)
class LoaderFacts:
    """How tiles are read.

    Attributes
    ----------
    threads, cores, processes : int
        Threads that decode in this process, cores of the machine that it may use, and processes of the run
        on all machines.
    mode : str
        ``"jpg"`` or ``"raw"``: how the beton keeps tiles.
    tile_px : int
        Their side, pixels.
    tile_bytes : float
        Mean size of one in the beton.
    on_cpu : bool
        Whether the network computes on the cores that decode.
    """

    threads: int
    cores: int
    processes: int
    mode: str
    tile_px: int
    tile_bytes: float
    on_cpu: bool


def advice(waited_share: float, seconds: float, tiles: int, used: Usage, facts: LoaderFacts) -> str | None:
    """Return advice for a run that waits for its tiles, or None if it waits little.

    Parameters
    ----------
    waited_share : float
        Part of the time spent waiting.
    seconds : float
        Time in which `tiles` tiles were trained on by this process, and `used` was used.
    tiles : int
        See `seconds`.
    used : Usage
        See `seconds`.
    facts : LoaderFacts
        How tiles are read.
    """
    if waited_share <= WAITING_SHARE:
        return None
    busy = used.cpu_s / (seconds * facts.threads)
    start = f"{100 * waited_share:.0f} % of the time was spent waiting for tiles"
    threads = f"{facts.threads} thread{'s' if facts.threads > 1 else ''} a process"
    if facts.on_cpu:
        return (
            f"{start}: the network computes on the {facts.cores} cores that also decode; "
            "a GPU, more cores or smaller tiles would help"
        )
    disk_share = 0.0 if used.disk_bytes is None else used.disk_bytes / max(1.0, tiles * facts.tile_bytes)
    if busy < _BUSY_SHARE and disk_share > _DISK_SHARE:
        rate = (used.disk_bytes or 0) / seconds / 1e6
        return (
            f"{start}: the disk gave {rate:,.0f} MB/s while {threads} were {100 * busy:.0f} % busy; put the beton on "
            f"a faster disk, or give the machine memory for all of it"
            + ("; tiles kept as JPEG are smaller than raw ones" if facts.mode == "raw" else "")
        )
    if busy >= _BUSY_SHARE:
        fewer = f", or start fewer processes than {facts.processes} with --nproc" if facts.processes > 1 else ""
        raw = ", or export raw tiles (slideduck export --raw)" if facts.mode == "jpg" else ""
        return (
            f"{start}: {threads} were {100 * busy:.0f} % busy with decoding; give the run more cores (it has "
            f"{facts.cores}), train on tiles smaller than {facts.tile_px} px{raw}{fewer}"
        )
    return (
        f"{start}, though {threads} were only {100 * busy:.0f} % busy and the disk gave little; "
        "other programs may use the cores: look at the machine's load"
    )
