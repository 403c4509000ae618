"""Reads and checks ROI files: Slideflow's CSV, QuPath's GeoJSON, ImageScope's XML and GeoParquet, told by content.

Checks that need no slide are made here; area, crossings and the slide's bounds are checked in the database.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal

from slideduck.errors import InputError
from slideduck.files.find import Paths, absolute, find_files, read_input
from slideduck.rois.csv import parse_csv
from slideduck.rois.geojson import parse_geojson
from slideduck.rois.geoparquet import parse_geoparquet
from slideduck.rois.imagescope import parse_imagescope
from slideduck.rois.options import RoiOptions
from slideduck.rois.outlines import RoiFile, RoiOutline

__all__ = ["ROI_SUFFIXES", "RoiFile", "RoiOutline", "find_roi_files", "parse_roi_file"]

#: Suffixes of the files that a folder is searched for. Parquet is not: it holds tables of all kinds, and is named.
ROI_SUFFIXES = (".csv", ".geojson", ".json", ".xml")

#: What is done with files of which nothing is said.
_USUAL = RoiOptions()

_PARSERS = {"csv": parse_csv, "geojson": parse_geojson, "xml": parse_imagescope, "geoparquet": parse_geoparquet}


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


def parse_roi_file(path: str | os.PathLike[str], options: RoiOptions = _USUAL) -> RoiFile:
    """Read an ROI file whole, and check all of it.

    Parameters
    ----------
    path : path-like
        Slideflow CSV, QuPath GeoJSON, ImageScope XML or GeoParquet.
    options : RoiOptions
        How to read it.

    Returns
    -------
    RoiFile

    Raises
    ------
    InputError
        If anything in the file is wrong, with a message for every row, feature or region.

    Notes
    -----
    The slide is named by the column
    ``slide``, or by the file's stem where there is no such column; so it is in GeoParquet, and always by
    the stem for GeoJSON and XML. A point that closes an outline by repeating its first is dropped.
    """
    path = absolute(path)
    data = read_input(path)
    form = _tell_form(data)
    outlines, skipped, problems = _PARSERS[form](path, data)
    if problems:
        raise InputError([message for _, message in sorted(problems, key=lambda problem: problem[0])])
    if not outlines and (skipped or form == "csv"):
        n = len(skipped)
        others = f" ({n} object{'s' * (n != 1)} without an area)" if n else ""
        raise InputError([f"{path.name}:1: the file holds no ROI{others}; draw areas, or leave the file out"])
    nested = form == "csv" if options.holes == "auto" else options.holes == "nested"
    digest = hashlib.sha256(data).hexdigest()
    slide = path.stem if {outline.slide for outline in outlines} <= {path.stem} else None
    return RoiFile(path, form, "nested" if nested else "explicit", digest, tuple(outlines), tuple(skipped), slide)


def _tell_form(data: bytes) -> Literal["csv", "geojson", "xml", "geoparquet"]:
    """Return the format of a file, by its first character or by the mark of Parquet."""
    if data.startswith(b"PAR1"):
        return "geoparquet"
    # The zeros are those of UTF-16, whose mark comes first.
    head = data[:1000].lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n")[:1]
    if head == b"<":
        return "xml"
    return "geojson" if head in (b"{", b"[") else "csv"
