"""Checks of an export before any tile is written: its slides, its stored tiles, and the room on the disk."""

from __future__ import annotations

import os
import shutil
from itertools import groupby
from pathlib import Path

import numpy as np

from slideduck.betons.format import PAGE_SIZE
from slideduck.betons.plan import ExportPlan
from slideduck.errors import DiskFullError, SlideError, StudyError
from slideduck.words import agreeing, part

__all__ = ["check_passthrough", "check_space", "unusable_slides"]

#: Tiles that are encoded beforehand to estimate the size of the file.
_PROBES = 8

#: An export is refused where this part of its estimated size does not fit: what the estimate gets wrong
#: must not keep an export that fits from starting.
_SURE_PART = 0.8

#: What a tile has in the tables of the beton and in the side-car, about.
_BYTES_BESIDE_IMAGE = 200


def unusable_slides(plan: ExportPlan, rows: range) -> dict[int, str]:
    """Return the slides of some rows whose files are not those that were added, and why not."""
    return {slide: reason for slide in plan.slides_of(rows) if (reason := _why_unusable(plan, slide)) is not None}


def _why_unusable(plan: ExportPlan, slide: int) -> str | None:
    try:
        plan.file(slide).check()
    except SlideError as error:
        return str(error)
    return None


def check_passthrough(
    plan: ExportPlan, rows: range, *, except_slides: frozenset[int], skip_errors: bool
) -> dict[int, str]:
    """Make sure that every tile is a stored JPEG, if the settings ask for that.

    Parameters
    ----------
    plan : ExportPlan
        The plan.
    rows : range
        The rows that are to be written.
    except_slides : frozenset of int
        Slides that cannot be read, and are left out.
    skip_errors : bool
        Whether what cannot be read is left out.

    Returns
    -------
    dict of int to str
        Further slides that cannot be read, and why not.

    Raises
    ------
    StudyError
        Naming one of the tiles that are not.
    SlideError
        If a slide does not open.
    """
    unusable: dict[int, str] = {}
    if plan.jpeg != "passthrough":
        return unusable
    others: list[str] = []
    x, y = plan.columns["base_x"], plan.columns["base_y"]
    for slide in plan.slides_of(rows):
        if slide in except_slides:
            continue
        try:
            maker = plan.maker(slide)
        except SlideError as error:
            if not skip_errors:
                raise
            unusable[slide] = str(error)
            continue
        with maker:
            others += [
                plan.columns["tile_id"][row]
                for row in plan.rows_of(slide, rows)
                if not maker.reader.is_stored(int(x[row]), int(y[row]))
            ]
    if others:
        raise StudyError(
            f"{part(len(others), len(rows), 'tile')} {agreeing(len(others), 'is', 'are')} not stored as JPEG in "
            f"{agreeing(len(others), 'its slide', 'their slides')} (the first is "
            f"{others[0]}); lay a grid that matches with: slideduck tile STUDY --native, or use `jpeg='auto'`"
        )
    return unusable


def check_space(plan: ExportPlan, rows: range, path: Path, *, except_slides: frozenset[int], skip_errors: bool) -> None:
    """Make sure that the disk has room for the tiles, judged by a few of them.

    Parameters
    ----------
    plan, rows, except_slides, skip_errors
        As for `check_passthrough`.
    path : Path
        The beton.

    Raises
    ------
    DiskFullError
        If they cannot.
    SlideError
        If one of those few cannot be read.
    """
    each = 3.0 * plan.tile_px**2 if plan.quality is None else _mean_bytes(plan, rows, except_slides, skip_errors)
    needed = PAGE_SIZE + len(rows) * (each + _BYTES_BESIDE_IMAGE)
    part = path.with_name(path.name + ".part")
    free = shutil.disk_usage(path.parent).free
    free += os.stat(part).st_blocks * 512 if part.exists() else 0
    if needed * _SURE_PART > free:
        raise DiskFullError(
            f"{path} would have about {needed / 1e9:,.2f} GB, and {path.parent} has {free / 1e9:,.2f} GB "
            "free; free some space, lower the quality, or give another place"
        )


def _mean_bytes(plan: ExportPlan, rows: range, except_slides: frozenset[int], skip_errors: bool) -> float:
    """Return the mean size of a few tiles, 0 if none of them can be read."""
    sizes: list[int] = []
    probes = sorted({round(row) for row in np.linspace(rows.start, rows.stop - 1, _PROBES)})
    for slide, of_slide in groupby(probes, key=lambda row: int(plan.slide[row])):
        if slide in except_slides:
            continue
        try:
            with plan.maker(slide) as maker:
                for row in of_slide:
                    sizes.append(len(plan.encoded(maker, row)[0]))
        except SlideError:
            # What is left out is found, and counted, when its turn comes.
            if not skip_errors:
                raise
    return sum(sizes) / len(sizes) if sizes else 0.0
