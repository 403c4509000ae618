"""The microns per pixel that the user gives: one number, a number for each slide, or a table of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slideduck.errors import InputError
from slideduck.files.find import absolute, quoted
from slideduck.files.tables import Problem, read_table
from slideduck.names import nfc, suggestion
from slideduck.words import counted

__all__ = ["GivenMpps", "given_mpps", "read_mpp_table"]


@dataclass(frozen=True)
class GivenMpps:
    """What the user gave.

    Attributes
    ----------
    default : float or None
        For slides whose header has none.
    by_slide : dict of str to float
        By name, in place of what the header says.
    strangers : tuple of str
        Slides of a table that are not among the files, each with the nearest one that is.
    """

    default: float | None = None
    by_slide: dict[str, float] = field(default_factory=dict)
    strangers: tuple[str, ...] = ()


def given_mpps(mpp: float | Mapping[str, float] | None, table: str | Path | None, slides: Sequence[str]) -> GivenMpps:
    """Return what the user gave, by the names that the slides have.

    Parameters
    ----------
    mpp : float, mapping of str to float, or None
        One number, or one for each slide.
    table : path, optional
        See `read_mpp_table`.
    slides : sequence of str
        Names of the slides that are added.

    Raises
    ------
    InputError
        If `mpp` names a slide that is not added, or one that the table names, too; and for a table with bad rows.
    """
    own = {nfc(slide): slide for slide in slides}
    named = dict(mpp) if isinstance(mpp, Mapping) else {}
    problems = [
        f"`mpp` names slide {name!r}, which is not among the {counted(len(slides), 'file')} given"
        f"{suggestion(name, slides)}"
        for name in sorted(named)
        if nfc(name) not in own
    ]
    by_slide = {own[nfc(name)]: value for name, value in named.items() if nfc(name) in own}
    strangers = []
    for name, value in ({} if table is None else read_mpp_table(table)).items():
        if name not in own:
            strangers.append(f"{name}{suggestion(name, slides)}")
        elif own[name] in by_slide:
            problems.append(f"slide {name!r} is named by `mpp` and by `mpp_table`; give one of them")
        else:
            by_slide[own[name]] = value
    if problems:
        raise InputError(problems)
    return GivenMpps(None if isinstance(mpp, Mapping) else mpp, by_slide, tuple(strangers))


def read_mpp_table(path: str | Path) -> dict[str, float]:
    """Read a CSV of microns per pixel.

    Parameters
    ----------
    path : path
        Its columns are ``slide`` and ``mpp``; others are passed over.

    Returns
    -------
    dict of str to float
        By the slide's name, in Unicode's NFC.

    Raises
    ------
    InputError
        With every bad row.
    """
    table = read_table(absolute(path), ("slide", "mpp"))
    values, bad = table.numbers("mpp", "microns per pixel, such as 0.25")
    problems: list[Problem] = [*table.problems, *bad]
    wrong = {row for row, _ in bad}
    first_row: dict[str, int] = {}
    for name, value, row in zip(map(nfc, table.text("slide")), values.tolist(), table.rows.tolist(), strict=True):
        place = f"{table.path.name}:{row}"
        if not name:
            problems.append((row, f"{place}: slide is empty; write the slide's name"))
        elif first_row.setdefault(name, row) != row:
            message = f"slide {name!r} is there already (row {first_row[name]}); keep one row for each slide"
            problems.append((row, f"{place}: {message}"))
        if row not in wrong and value <= 0:
            message = f"mpp is {quoted(f'{value:g}')}, not a positive number; write microns per pixel, such as 0.25"
            problems.append((row, f"{place}: {message}"))
    if problems:
        raise InputError([message for _, message in sorted(problems, key=lambda problem: problem[0])])
    return dict(zip(first_row, values.tolist(), strict=True))
