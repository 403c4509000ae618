"""Reads and checks ROI files: Slideflow's CSV, QuPath's GeoJSON, ImageScope's XML and GeoParquet, told by content.

What needs no slide is checked here; area, crossings and the slide's bounds are checked in the database.
"""

from __future__ import annotations

import hashlib
import os
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from slideduck.errors import InputError
from slideduck.files.find import Paths, absolute, find_files, quoted, read_input
from slideduck.files.tables import Problem, Table, read_table
from slideduck.rois.geojson import parse_geojson
from slideduck.rois.geoparquet import parse_geoparquet
from slideduck.rois.imagescope import parse_imagescope
from slideduck.rois.outlines import RoiFile, RoiOutline, distinct_points, ring_from_points

__all__ = ["HOLES", "ROI_SUFFIXES", "RoiFile", "RoiOutline", "find_roi_files", "parse_roi_file"]

#: Suffixes of the files that a folder is searched for. Parquet is not: it holds tables of all kinds, and is named.
ROI_SUFFIXES = (".csv", ".geojson", ".json", ".xml")

#: How holes are told: as drawn inside another ROI, as marked in the file, or by what is usual for its form.
HOLES = ("auto", "nested", "explicit")

_PARSERS = {"geojson": parse_geojson, "xml": parse_imagescope, "geoparquet": parse_geoparquet}
_REQUIRED = ("roi_name", "x_base", "y_base")
_OPTIONAL = ("label", "slide")
_PIXELS = "base pixels, such as 1024.5"


def find_roi_files(paths: Paths) -> list[Path]:
    """Return the ROI files that paths, folders and patterns stand for.

    Parameters
    ----------
    paths : path or iterable of paths
        Files whatever their suffix, folders (searched with all that is below them for `ROI_SUFFIXES`),
        and patterns.

    Returns
    -------
    list of Path
        Absolute, each once, in the order of their text.

    Raises
    ------
    InputError
        For each path that does not exist or stands for no file.
    """
    return find_files(paths, ROI_SUFFIXES, "ROI file")


def parse_roi_file(path: str | os.PathLike[str], *, holes: str = "auto") -> RoiFile:
    """Read an ROI file whole, and check all of it.

    Parameters
    ----------
    path : path-like
        Slideflow CSV, QuPath GeoJSON, ImageScope XML or GeoParquet.
    holes : {"auto", "nested", "explicit"}
        How holes are told; ``"auto"`` is nested for CSV and explicit for the others.

    Returns
    -------
    RoiFile

    Raises
    ------
    InputError
        If anything in the file is wrong, with a message for every row, feature or region.

    Notes
    -----
    In a CSV the rows of an ROI stand together, in drawing order. The slide is named by the column
    ``slide``, or by the file's stem where there is no such column; so it is in GeoParquet, and always by
    the stem for GeoJSON and XML. A point that closes an outline by repeating its first is dropped.
    """
    if holes not in HOLES:
        raise InputError([f"holes is {quoted(holes)}; give auto, nested or explicit"])
    path = absolute(path)
    data = read_input(path)
    skipped: list[str] = []
    form = _tell_form(data)
    if form == "csv":
        outlines, problems = _parse_csv(read_table(path, _REQUIRED, _OPTIONAL, data=data))
    else:
        outlines, skipped, problems = _PARSERS[form](path, data)
    if problems:
        raise InputError([message for _, message in sorted(problems, key=lambda problem: problem[0])])
    if not outlines:
        n = len(skipped)
        others = f" ({n} object{'s' * (n != 1)} without an area)" if n else ""
        raise InputError([f"{path.name}:1: the file holds no ROI{others}; draw areas, or leave the file out"])
    nested = form == "csv" if holes == "auto" else holes == "nested"
    digest = hashlib.sha256(data).hexdigest()
    return RoiFile(path, form, "nested" if nested else "explicit", digest, tuple(outlines), tuple(skipped))


def _tell_form(data: bytes) -> Literal["csv", "geojson", "xml", "geoparquet"]:
    """Tell the form of a file by its first character, that of Parquet by its mark."""
    if data.startswith(b"PAR1"):
        return "geoparquet"
    # The zeros are those of UTF-16, whose mark comes first.
    head = data[:1000].lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n")[:1]
    if head == b"<":
        return "xml"
    return "geojson" if head in (b"{", b"[") else "csv"


def _parse_csv(table: Table) -> tuple[list[RoiOutline], list[Problem]]:
    """Return the ROIs of a CSV file, and what is wrong in its rows."""
    file, rows = table.path.name, table.rows
    problems = list(table.problems)
    names = np.array(table.text("roi_name"), dtype=object)
    slides = np.full(len(names), table.path.stem, dtype=object)
    labels = np.full(len(names), "", dtype=object)
    has_slide = "slide" in table
    if has_slide:
        slides[:] = table.text("slide")
    if "label" in table:
        labels[:] = table.text("label")
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
    outlines = []
    first_row: dict[tuple[str, str], int] = {}
    for start, stop in pairwise(edges):
        name, slide, row = names[start], slides[start], int(rows[start])
        if not name or not slide:
            continue
        called = f"ROI {name!r}" + (f" of slide {slide!r}" if has_slide else "")
        if (slide, name) in first_row:
            message = f"{called} is there already (row {first_row[slide, name]}); names are unique in a slide"
            remedy = "rename one, or put the rows of one ROI together"
            problems.append((row, f"{file}:{row}: {message}: {remedy}"))
            continue
        first_row[slide, name] = row
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
            message = f"{called} has {n} distinct point{'s' * (n != 1)}; an area needs three or more"
            problems.append((row, f"{file}:{row}: {message}"))
        outlines.append(RoiOutline(slide, name, label or None, ((ring,),), False, row))
    return outlines, problems
