"""Reads and checks ROI files of every program, told apart by their content.

Checks that need no slide are made here; area, crossings and the slide's bounds are checked in the database.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from slideduck.errors import InputError
from slideduck.files.find import Paths, absolute, below_folders, find_files, quoted, read_input, unpacked
from slideduck.files.tables import Problem
from slideduck.limit import beyond
from slideduck.names import is_missing, nfc, text_problem
from slideduck.roifiles.asap import parse_asap
from slideduck.roifiles.csv import parse_csv
from slideduck.roifiles.geojson import parse_geojson
from slideduck.roifiles.geoparquet import parse_geoparquet
from slideduck.roifiles.imagescope import parse_imagescope
from slideduck.roifiles.labels import RENAMED, renamed
from slideduck.roifiles.markup import first_element
from slideduck.roifiles.ndpa import parse_ndpa
from slideduck.roifiles.options import RoiOptions
from slideduck.roifiles.outlines import Note, Notes, Parsed, RoiFile, RoiFormat, RoiOutline, Skipped, outline_place

__all__ = [
    "ROI_SUFFIXES",
    "RoiFile",
    "RoiOutline",
    "find_roi_files",
    "note_passed_over",
    "parse_roi_file",
    "slide_of",
]

#: Greatest coordinate, either way. Areas are counted in units of 2^-32 base pixels, of which 64 bits hold 2^31 pixels.
FARTHEST = 1_000_000_000

_PACKED = (".gz", ".zip")

#: Suffixes of the files that a folder is searched for. Parquet is not: it holds tables of all kinds, and is named.
ROI_SUFFIXES = (
    ".csv", ".geojson", ".json", ".xml", ".annotations", ".ndpa", ".geojson.gz", ".json.gz",
)  # fmt: skip

#: Files in a searched folder that may hold ROIs, too, and what to do about them.
_PASSED_OVER = {
    ".parquet": "passed over; name each that holds ROIs",
    ".zip": "passed over; name each that holds ROIs",
    ".txt": "passed over; name each that holds ROIs",
    ".tsv": "passed over; name each that holds ROIs",
    ".xlsx": "passed over; save each that holds ROIs as CSV in UTF-8",
    ".qpdata": "passed over; export what it holds from QuPath with File > Export objects as GeoJSON",
}

#: What is done with files of which nothing is said.
_USUAL = RoiOptions()

_PARSERS: dict[RoiFormat, Callable[[Path, str, bytes, RoiOptions], Parsed]] = {
    "csv": parse_csv,
    "geojson": parse_geojson,
    "xml": parse_imagescope,
    "asap": parse_asap,
    "ndpa": parse_ndpa,
    "geoparquet": parse_geoparquet,
}
_ROOTS: dict[str, RoiFormat] = {"Annotations": "xml", "ASAP_Annotations": "asap", "annotations": "ndpa"}

#: Objects of one kind without an area that are named one by one; more are counted.
_FEW = 5
_NO_LABEL = Note("ROI", "ROIs", "labelled NA, NaN, None or the like taken to have no label")


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


def note_passed_over(paths: Paths, notes: Notes) -> None:
    """Note the files of folders that are passed over in the search for ROI files, although they may hold some."""
    for path in below_folders(paths, tuple(_PASSED_OVER)):
        suffix = path.suffix.lower()
        notes.add(Note(f"{suffix} file", f"{suffix} files", _PASSED_OVER[suffix]), path.name)


def slide_of(path: Path) -> str:
    """Return the name of the slide that a file is of: its stem, without what says that it is packed.

    NDP.view names its files after those of slides: ``A.ndpi.ndpa``.
    """
    name = path
    if path.suffix.lower() in _PACKED and path.stem.lower().endswith(ROI_SUFFIXES):
        name = path.with_suffix("")
    if name.suffix.lower() == ".ndpa" and name.stem.lower().endswith(".ndpi"):
        name = name.with_suffix("")
    return name.stem


def parse_roi_file(path: str | os.PathLike[str], options: RoiOptions = _USUAL) -> RoiFile:
    """Read an ROI file whole, and check all of it.

    Parameters
    ----------
    path : path-like
        CSV of Slideflow Studio, GeoJSON of QuPath, XML of ImageScope, HALO or ASAP, NDPA of NDP.view, or GeoParquet;
        text may be packed, as gzip or a zip archive of one file.
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
    The slide is named by the column ``slide``, or by the file where there is no such column; so it is in GeoParquet,
    and always by the file for GeoJSON and XML. A point that closes an outline by repeating its first is dropped.
    """
    path = absolute(path)
    stored = read_input(path, packed=True)
    data = unpacked(path.name, stored)
    form = _tell_form(path, data)
    parsed = _PARSERS[form](path, slide_of(path), data, options)
    problems = [*parsed.problems, *_too_far(path.name, form, parsed.outlines)]
    problems = problems or _unkept(path, form, parsed.outlines)
    if problems:
        raise InputError([message for _, message in sorted(problems, key=lambda problem: problem[0])])
    points = sum(len(ring) for outline in parsed.outlines for polygon in outline.polygons for ring in polygon)
    if problem := beyond("rois", len(parsed.outlines)) or beyond("vertices", points):
        raise InputError([f"{path.name}: {problem}"])
    outlines = list(_labelled(parsed.outlines, parsed.notes))
    labels = {nfc(label): new for label, new in options.labels.items()}
    nested = form == "csv" if options.holes == "auto" else options.holes == "nested"
    return RoiFile(
        path=path,
        format=form,
        holes="nested" if nested else "explicit",
        sha256=hashlib.sha256(stored).hexdigest(),
        outlines=tuple(renamed(outlines, labels, RENAMED, parsed.notes)),
        skipped=tuple(_few(parsed.skipped, parsed.notes)),
        slide=parsed.slide,
        labels=frozenset(outline.label for outline in outlines if outline.label is not None),
        notes=parsed.notes,
        unit="nm" if form == "ndpa" else "px",
    )


def _too_far(name: str, form: RoiFormat, outlines: Iterable[RoiOutline]) -> Iterator[Problem]:
    """Yield a message for each ROI with a point that is on no slide, and with which nothing can be computed exactly."""
    unit = "nanometres" if form == "ndpa" else "base pixels"
    for outline in outlines:
        rings = [ring for polygon in outline.polygons for ring in polygon]
        far = max((float(np.abs(ring).max()) for ring in rings if len(ring)), default=0)
        if far > FARTHEST:
            yield (
                outline.row,
                f"{outline_place(name, form, outline)}: ROI {outline.roi_name!r} has a point {far:.6g} {unit} from the "
                f"corner; coordinates lie within {FARTHEST:,} of it: draw it again or remove it",
            )


def _labelled(outlines: Iterable[RoiOutline], notes: Notes) -> Iterable[RoiOutline]:
    """Yield ROIs without the labels that stand for none."""
    for outline in outlines:
        if outline.label is not None and is_missing(outline.label):
            notes.add(_NO_LABEL, f"{outline.slide}: {outline.roi_name}")
            outline = replace(outline, label=None)
        yield outline


def _unkept(path: Path, form: RoiFormat, outlines: Iterable[RoiOutline]) -> list[Problem]:
    """Return a problem for each name or label that no study holds, and so no file."""
    problems = []
    for outline in outlines:
        for what, text in (("name", outline.roi_name), ("label", outline.label), ("slide's name", outline.slide)):
            if text is not None and (problem := text_problem(text)) is not None:
                place = outline_place(path.name, form, outline)
                problems.append((outline.row, f"{place}: its {what} {quoted(text)} {problem}; give it another"))
    return problems


def _few(skipped: Iterable[Skipped], notes: Notes) -> Iterable[str]:
    """Yield the messages of objects without an area; where there are many of a kind, count them."""
    of_kind: dict[str, list[str]] = defaultdict(list)
    for one in skipped:
        of_kind[one.kind].append(one.message)
    for kind, messages in of_kind.items():
        if len(messages) <= _FEW:
            yield from messages
        else:
            notes.add(Note(kind, f"{kind}s", "left out, having no area"), count=len(messages))


def _tell_form(path: Path, data: bytes) -> RoiFormat:
    """Return the format of a file: by the mark of Parquet, its first character, or its first element.

    Raises
    ------
    InputError
        If it is XML of no program that is known.
    """
    if data.startswith(b"PAR1"):
        return "geoparquet"
    # The zeros are those of UTF-16, whose mark comes first.
    head = data[:1000].lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n")[:1]
    if head != b"<":
        return "geojson" if head in (b"{", b"[") else "csv"
    root = first_element(path.name, data)
    if root not in _ROOTS:
        raise InputError(
            [
                f"{path.name}: XML that begins with <{root}>, not with <Annotations> (ImageScope, HALO), "
                "<ASAP_Annotations> (ASAP) or <annotations> (NDP.view); export it from one of these, or as GeoJSON"
            ]
        )
    return _ROOTS[root]
