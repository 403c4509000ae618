"""Finds slides among the files that the user names, and names them."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from pathlib import Path

from slideduck.errors import InputError
from slideduck.files.find import Paths, find_files, folder_below, given_folders
from slideduck.names import nfc

__all__ = ["NAMES", "SLIDE_SUFFIXES", "find_slides", "name_slides"]

#: Suffixes of the files that a folder is searched for; a file that is named may have any.
SLIDE_SUFFIXES = (
    ".svs",
    ".ndpi",
    ".mrxs",
    ".tif",
    ".tiff",
    ".scn",
    ".vms",
    ".vmu",
    ".bif",
    ".svslide",
    ".czi",
    ".dcm",
)

#: What of a file's path is the slide's name: its stem, or its folder below the one that was given as well.
NAMES = ("stem", "relative")


def find_slides(paths: Paths) -> list[Path]:
    """Return the slides that paths, folders and patterns stand for.

    Parameters
    ----------
    paths : path or iterable of paths
        Files whatever their suffix, folders (searched with all that is below them for `SLIDE_SUFFIXES`;
        the data folder of an MRXS slide is passed over), and patterns.

    Returns
    -------
    list of Path
        Absolute, each slide once, in the order of their text. Of the DICOM files of one slide, which
        lie in one folder, the first.

    Raises
    ------
    InputError
        For each path that stands for nothing.
    """
    return _one_of_each_series(find_files(paths, SLIDE_SUFFIXES, "slide", folder_beside=".mrxs"))


def name_slides(
    found: list[Path], paths: Paths, *, names: str = "stem", known: Mapping[Path, str] | None = None
) -> dict[str, Path]:
    """Return slides by name, each once.

    Parameters
    ----------
    found : list of Path
        What `find_slides` found.
    paths : path or iterable of paths
        What it was given.
    names : {"stem", "relative"}
        A name is the file's stem, or its path below the folder that was given (or below the folders of a pattern that
        are written out), without the suffix: ``case1/HE``. It is in Unicode's NFC.
    known : mapping of Path to str, optional
        Names that slides of the study have: a file keeps its name, however it is named now.

    Raises
    ------
    InputError
        If `names` is neither; and for each two files of one name.
    """
    if names not in NAMES:
        raise InputError([f"`names` is {names!r}; give {' or '.join(NAMES)}"])
    folders = given_folders(paths) if names == "relative" else set()
    slides: dict[str, Path] = {}
    problems = []
    for path in found:
        name = (known or {}).get(path) or _name(path, folders)
        first = slides.setdefault(name, path)
        if first != path and not _same_file(first, path):
            remedy = "rename one" + (", or give `names='relative'`" if names == "stem" else "")
            problems.append(f"slide {name!r} is both {first} and {path}; names are unique: {remedy}")
    if problems:
        raise InputError(problems)
    return slides


def _name(path: Path, folders: Container[Path]) -> str:
    """Return the name of a slide: the folders below the one that was given, and its stem."""
    folder = folder_below(path, folders)
    return nfc(f"{folder}/{path.stem}" if folder else path.stem)


def _same_file(one: Path, other: Path) -> bool:
    """Return whether two paths lead to one file, as through a link."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _one_of_each_series(paths: list[Path]) -> list[Path]:
    """Leave out DICOM files beyond the first of a series: from any of them OpenSlide opens the slide."""
    kept = []
    seen: set[tuple[Path, tuple[bytes, ...]]] = set()
    for path in paths:
        # Instances often have no suffix, or a number for one.
        series = () if path.suffix.lower() in SLIDE_SUFFIXES[:-1] else _dicom_series(path)
        if series:
            if (path.parent, series) in seen:
                continue
            seen.add((path.parent, series))
        kept.append(path)
    return kept


def _dicom_series(path: Path) -> tuple[bytes, ...]:
    """Return every SeriesInstanceUID, (0020,000E), in the head of a DICOM file; none where it is no DICOM.

    One of them is the file's own; others, in sequences, are of series that it refers to. Files that agree
    in all of them are of one slide.
    """
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except OSError:
        return ()
    if head[128:132] != b"DICM":
        return ()
    # Whole-slide images are in explicit VR, little-endian: tag, "UI", length.
    found = re.finditer(rb"\x20\x00\x0e\x00UI(..)", head, re.DOTALL)
    return tuple(head[at.end() :][: int.from_bytes(at[1], "little")] for at in found)
