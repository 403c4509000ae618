"""Limits on what one input may hold, so that a bomb ends with a message in seconds and not with the machine.

They are far above what real files hold. Who has a file beyond one says so: `limits` around a call, or ``--limit`` of a
command.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from slideduck.errors import ConfigError

__all__ = ["LIMITS", "Limit", "beyond", "is_said", "limit", "limits", "parse_limits"]


@dataclass(frozen=True)
class Limit:
    """A limit.

    Attributes
    ----------
    most : int
        The most that is read unless the user says otherwise.
    noun : str
        What is counted, as a message has it behind the number.
    """

    most: int
    noun: str


#: All limits by name. Each holds for one file, or for one slide.
LIMITS: Mapping[str, Limit] = {
    "file_mb": Limit(2048, "MB in one ROI file, table or side-car"),
    "unpacked_mb": Limit(1024, "MB in one packed file once it is unpacked"),
    "depth": Limit(100, "levels of nesting in one JSON or XML file"),
    "rois": Limit(2_000_000, "ROIs in one file"),
    "vertices": Limit(100_000_000, "vertices in one ROI file"),
    "pixels": Limit(1_000_000_000, "pixels in one picture that is decoded whole"),
    "tiles": Limit(100_000_000, "tiles on one slide"),
}

#: What the user said, the last first.
_said: list[Mapping[str, int]] = []


def limit(name: str) -> int:
    """Return a limit that holds now."""
    return next((said[name] for said in _said if name in said), LIMITS[name].most)


def is_said(name: str) -> bool:
    """Return whether the user said a limit."""
    return any(name in said for said in _said)


def beyond(name: str, found: int) -> str | None:
    """Return what is wrong with a number that is beyond a limit, and what to do; None where it is within.

    Parameters
    ----------
    name : str
        The limit.
    found : int
        What there is, in the unit of the limit. A file need not have been read to its end: give what was found so far.
    """
    most = limit(name)
    if found <= most:
        return None
    return (
        f"it has {found:,} or more {LIMITS[name].noun}, and at most {most:,} are read; if the file is meant, allow "
        f"that many with `limit='{name}={found}'`"
    )


@contextmanager
def limits(**most: int) -> Iterator[None]:
    """Let inputs hold more, or less, while a block runs.

    Parameters
    ----------
    **most : int
        New limits by name; see `LIMITS`.

    Raises
    ------
    ConfigError
        If there is no such limit, or it is below 1.

    Examples
    --------
    >>> import slideduck as sd
    >>> with sd.limits(vertices=500_000_000):  # doctest: +SKIP
    ...     study.add_rois("huge.geojson")
    """
    for name, value in most.items():
        if name not in LIMITS:
            raise ConfigError(f"limit is {name!r}, which there is not; the limits are {', '.join(LIMITS)}")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"limit {name} is {value!r}; give a whole number of 1 or more")
    _said.insert(0, most)
    try:
        yield
    finally:
        _said.remove(most)


def parse_limits(texts: tuple[str, ...]) -> dict[str, int]:
    """Return limits that were written as ``NAME=NUMBER``.

    Raises
    ------
    ConfigError
        If a text is none; `limits` checks the names and the numbers.
    """
    parsed = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            parsed[name.strip()] = int(number.replace("_", "").replace(",", ""))
        except ValueError:
            raise ConfigError(
                f"limit is {text!r}; give NAME=NUMBER, such as vertices=200000000: the names are {', '.join(LIMITS)}"
            ) from None
    return parsed
