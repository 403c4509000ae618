"""Reads ROIs from CSV as Slideflow Studio writes it: one point a row."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from slideduck.errors import InputError
from slideduck.files.tables import CODE_PAGE, read_table
from slideduck.limit import beyond
from slideduck.names import nfc
from slideduck.roifiles.options import RoiOptions
from slideduck.roifiles.outlines import (
    Note,
    Parsed,
    RoiOutline,
    distinct_points,
    few_points,
    ring_from_points,
    with_names,
)

__all__ = ["parse_csv"]

_REQUIRED = ("roi_name", "x_base", "y_base")
_OPTIONAL = ("label", "slide")
_PIXELS = "base pixels, such as 1024.5"
_ANOTHER = "if it is a table of another kind, name the ROI files, or give a folder that holds them alone"
_CODE_PAGE = Note("file", "files", "not in UTF-8 read as Windows-1252; save as UTF-8 if names in it look wrong")


def parse_csv(path: Path, slide: str, data: bytes, options: RoiOptions) -> Parsed:
    """Read the ROIs of a CSV file as Slideflow Studio writes it.

    Parameters
    ----------
    path : Path
        The file.
    slide : str
        The slide that it is of where there is no column ``slide``.
    data : bytes
        Its content: a point a row, in base pixels; the rows of an ROI stand together, in drawing order.
    options : RoiOptions
        None of them is for this format.

    Returns
    -------
    Parsed

    Raises
    ------
    InputError
        If the file as a whole cannot be used; see `slideduck.files.tables.read_table`.
    """
    if problem := beyond("vertices", max(data.count(b"\n"), data.count(b"\r"))):
        raise InputError([f"{path.name}: {problem}"])
    table = read_table(
        path, _REQUIRED, _OPTIONAL, data=data, may_be_empty=True, code_page=True, of_another_kind=_ANOTHER
    )
    has_slide = "slide" in table
    parsed = Parsed(None if has_slide else slide, problems=list(table.problems))
    if table.encoding == CODE_PAGE:
        parsed.notes.add(_CODE_PAGE, path.name)
    file, rows, problems = table.path.name, table.rows, parsed.problems
    names = np.array(list(map(nfc, table.text("roi_name"))), dtype=object)
    slides = np.full(len(names), slide, dtype=object)
    labels = np.full(len(names), "", dtype=object)
    if has_slide:
        slides[:] = table.text("slide")
    if "label" in table:
        labels[:] = list(map(nfc, table.text("label")))
    x, wrong_x = table.numbers("x_base", _PIXELS)
    y, wrong_y = table.numbers("y_base", _PIXELS)
    points = np.column_stack([x, y])
    bad = np.isnan(x) | np.isnan(y)
    problems += wrong_x + wrong_y
    for column, texts in (("roi_name", names), ("slide", slides)):
        for i in np.flatnonzero(texts == ""):
            bad[i] = True
            problems.append((int(rows[i]), f"{file}:{rows[i]}: {column} is empty; write one in every row"))
    # An ROI is a run of rows of one name and slide.
    begins = np.flatnonzero((names[1:] != names[:-1]) | (slides[1:] != slides[:-1])) + 1
    edges = [0, *begins.tolist(), len(names)] if len(names) else [0]
    other_label = np.flatnonzero(labels[1:] != labels[:-1]) + 1
    first_row: dict[tuple[str, str], int] = {}
    for start, stop in pairwise(edges):
        name, of_slide, row = names[start], slides[start], int(rows[start])
        if not name or not of_slide:
            continue
        called = f"ROI {name!r}" + (f" of slide {of_slide!r}" if has_slide else "")
        if (of_slide, name) in first_row:
            message = f"{called} is there already (row {first_row[of_slide, name]}); names are unique in a slide"
            remedy = "rename one, or put the rows of one ROI together"
            problems.append((row, f"{file}:{row}: {message}: {remedy}"))
            continue
        first_row[of_slide, name] = row
        label = labels[start]
        for i in other_label[np.searchsorted(other_label, start + 1) : np.searchsorted(other_label, stop)]:
            if labels[i] != label:
                message = f"label is {labels[i]!r}, but {called} has label {label!r} from row {row} on"
                problems.append((int(rows[i]), f"{file}:{rows[i]}: {message}; give all its rows one label"))
        if bad[start:stop].any():
            continue
        ring = ring_from_points(points[start:stop])
        n = distinct_points(ring)
        if n < 3:
            problems.append((row, f"{file}:{row}: {called} {few_points(n)}"))
        parsed.outlines.append(RoiOutline(of_slide, name, label or None, ((ring,),), False, row))
    parsed.outlines[:] = with_names(parsed.outlines, [""] * len(parsed.outlines), parsed.notes)
    return parsed
