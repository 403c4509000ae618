"""ROIs that lie wholly outside their slide: a few are left out, a file of many is refused, its frame being wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import duckdb

from slideduck.store.sqlfiles import read_query
from slideduck.words import listed

__all__ = ["OutsideRoi", "leave_outside", "outside_problems"]

#: Of so many ROIs of a file one may lie outside; were it more, the file would count from another corner.
_OF_EACH = 10
#: Slides that a message names at most.
_SHOWN = 3


@dataclass(frozen=True)
class OutsideRoi:
    """An ROI of a file that lies wholly outside its slide.

    Attributes
    ----------
    file, place : str
        Path of the file, and where in it the ROI stands.
    slide, roi_name : str
        The slide and the ROI.
    x_min, x_max, y_min, y_max : float
        Its extent, base pixels.
    width, height : int
        Size of the slide, base pixels.
    n_rois : int
        ROIs of the file.
    """

    file: str
    place: str
    slide: str
    roi_name: str
    x_min: float
    x_max: float
    y_min: float
    y_max: float
    width: int
    height: int
    n_rois: int


def leave_outside(con: duckdb.DuckDBPyConnection) -> list[OutsideRoi]:
    """Take those ROIs out of ``staged_roi`` that lie wholly outside, and return them in the order of file and row."""
    con.execute(read_query("stage_outside_rois"))
    rows = con.execute(
        "SELECT file, place, slide, roi_name, x_min, x_max, y_min, y_max, width, height, n_rois FROM outside_roi "
        "ORDER BY file, row_no, roi_name"
    ).fetchall()
    con.execute(
        "DELETE FROM staged_roi USING outside_roi AS o WHERE staged_roi.file = o.file "
        "AND staged_roi.slide = o.slide AND staged_roi.roi_name = o.roi_name"
    )
    con.execute("DROP TABLE outside_roi")
    return [OutsideRoi(*row) for row in rows]


def outside_problems(found: Sequence[OutsideRoi], *, strict: bool) -> list[str]:
    """Return a message for each file that is refused because of them.

    Parameters
    ----------
    found : sequence of OutsideRoi
        What `leave_outside` returned.
    strict : bool
        Refuse a file because of one; else of more than a tenth of its ROIs.
    """
    problems = []
    for file, of_file in groupby(found, key=lambda roi: roi.file):
        rois = list(of_file)
        if strict or _OF_EACH * len(rois) > rois[0].n_rois:
            problems.append(_problem(file, rois, strict=strict))
    return problems


def _problem(file: str, rois: Sequence[OutsideRoi], *, strict: bool) -> str:
    """Return the message for a file."""
    first, n_rois = rois[0], rois[0].n_rois
    slides = [list(group) for _, group in groupby(sorted(rois, key=lambda roi: roi.slide), key=lambda roi: roi.slide)]
    where = listed([*map(_extent, slides[:_SHOWN]), *([f"{len(slides) - _SHOWN:,} more"] * (len(slides) > _SHOWN))])
    few = _OF_EACH * len(rois) <= n_rois
    if len(rois) == 1:
        what = f"{first.place}: ROI {first.roi_name!r} lies wholly outside {where}"
    else:
        n = f"all {n_rois:,}" if len(rois) == n_rois else f"{len(rois):,} of {n_rois:,}"
        what = f"{file.rpartition('/')[2]}: {n} ROIs lie wholly outside {where}"
    if few:
        return f"{what}, which `strict` refuses; move or remove what lies outside, or leave out `strict`"
    if len(rois) > 1:
        what += ", so that the file counts from another corner or in another unit"
    return f"{what}; coordinates must be level-0 pixels from the slide's top left corner"


def _extent(rois: Sequence[OutsideRoi]) -> str:
    """Return a slide with the extent of ROIs outside it."""
    x = f"x {min(roi.x_min for roi in rois):.1f} to {max(roi.x_max for roi in rois):.1f}"
    y = f"y {min(roi.y_min for roi in rois):.1f} to {max(roi.y_max for roi in rois):.1f}"
    return f"slide {rois[0].slide!r} ({x}, {y}; the slide is {rois[0].width} x {rois[0].height})"
