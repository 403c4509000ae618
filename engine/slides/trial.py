"""Lets OpenSlide open a file in a process that may die, before this one does: ``python -m slideduck.slides.trial``.

A slide whose header holds what slides do not, or is of a kind that `slideduck.slides.tiff` cannot look through, may
make a library abort, take all memory, or never end. There that ends a process of a moment.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

__all__ = ["why_it_dies"]

#: Seconds that a file may take, and bytes of memory that it may ask for, of which a process has some hundred MB anyway.
_SECONDS, _BYTES = 20, 2 << 30
#: Side of what is read of the smallest level, pixels.
_LOOK_PX = 64


def why_it_dies(path: Path) -> str | None:
    """Return how a process ends that opens a file by OpenSlide and reads a corner of it; None where it does not die.

    Parameters
    ----------
    path : Path
        Any file.

    Returns
    -------
    str or None
        None too for a file that OpenSlide refuses.
    """
    words = [sys.executable, "-m", "slideduck.slides.trial", str(path)]
    try:
        # The search path of this process: slideduck may be imported from a folder that only it knows.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return f"OpenSlide does not come to an end with it in {_SECONDS} seconds"
    if done.returncode == 0:
        return None
    lines = done.stderr.decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    if done.returncode < 0:
        return f"OpenSlide dies of it ({signal.Signals(-done.returncode).name}{': ' + last if last else ''})"
    return f"OpenSlide cannot be tried on it: {last}"


def _main(path: str) -> None:
    """Open a file as `slideduck.slides.header.read_header` does, and read the corner of its smallest level."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        # Windows has no such limits, and some systems refuse them; the time is limited all the same.
        pass
    import openslide

    try:
        with openslide.OpenSlide(path) as slide:
            dict(slide.properties)
            side = min(_LOOK_PX, *slide.level_dimensions[-1])
            slide.read_region((0, 0), slide.level_count - 1, (side, side))
    except (openslide.OpenSlideError, OSError):
        # Refused: what is wrong is told where it is opened next.
        return


if __name__ == "__main__":
    _main(sys.argv[1])
