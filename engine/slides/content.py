"""Fingerprints of what a slide's files hold, from samples of their bytes: cheap, and other pixels give another."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from slideduck.slides.tiff import table_bytes

__all__ = ["content_fingerprint", "content_part", "files_of", "is_same_fingerprint", "joined_fingerprint"]

#: Bytes that are hashed at the beginning and the end of each file, and of each piece between.
_ENDS, _PIECE = 1 << 20, 1 << 16
#: Pieces between, over all files of a slide together; files that have hardly more are hashed whole.
_PIECES = 64
_WHOLE = 16 << 20

#: What stands before a fingerprint of this module, behind OpenSlide's; another way of sampling has another.
_VERSION = "/1:"

#: Where DICOM has its magic; the tag of SeriesInstanceUID, little-endian; how far into a file it is looked for.
_DICM, _SERIES, _DICOM_HEAD = 128, b"\x20\x00\x0e\x00", 1 << 16
#: Suffixes of Hamamatsu's lists of files, ``key=name`` a line.
_LISTS = (".vms", ".vmu")
_LIST_BYTES = 1 << 20
#: MIRAX writes some tens of files; more are none of a slide.
_MOST_FILES = 10_000


def files_of(path: Path) -> list[Path]:
    """Return the files that a slide is made of: its own first, then those beside it in the order of their names.

    MIRAX keeps its pixels in a folder of the slide's name, DICOM a file for each level, Hamamatsu's VMS a list.

    Raises
    ------
    OSError
        If they cannot be listed.
    """
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        folder = path.with_suffix("")
        return [path, *sorted(entry for entry in folder.iterdir() if entry.is_file())] if folder.is_dir() else [path]
    if suffix in _LISTS:
        with path.open("rb") as file:
            text = file.read(_LIST_BYTES).decode("latin-1")
        names = {name.strip() for name in re.findall(r"=([^=\r\n]+)", text)}
        # Names alone: what a list says is no path to another folder.
        beside = {path.parent / name for name in names if name and Path(name).name == name}
        return [path, *sorted(entry for entry in beside if entry.is_file())]
    series = _dicom_series(path)
    if series is None:
        return [path]
    beside = {entry for entry in path.parent.iterdir() if entry.is_file() and _dicom_series(entry) == series}
    return [path, *sorted(beside - {path})]


def _dicom_series(path: Path) -> bytes | None:
    """Return the SeriesInstanceUID of a DICOM file as it stands there, with its length; None for other files."""
    with path.open("rb") as file:
        if file.read(_DICM + 4)[_DICM:] != b"DICM":
            return None
        head = file.read(_DICOM_HEAD)
    at = head.find(_SERIES)
    return b"" if at < 0 else re.split(rb"[^0-9.]", head[at + 8 : at + 8 + 64], maxsplit=1)[0]


def content_fingerprint(path: Path) -> str:
    """Return a fingerprint of the files of a slide.

    It holds their names and sizes, their first and last MiB, 64 pieces of 64 KiB at places that look like chance and
    are the same each time, and all offsets and byte counts of tiles, where they are a TIFF. Up to 16 MiB are hashed
    whole.

    Parameters
    ----------
    path : Path
        The slide.

    Raises
    ------
    OSError
        If a file cannot be read.
    """
    files = files_of(path)[:_MOST_FILES]
    sizes = [os.stat(file).st_size for file in files]
    digest = hashlib.sha256()
    for file, size in zip(files, sizes, strict=True):
        # The slide's own file may have another name now.
        digest.update(f"{'' if file == path else file.name}\0{size}\0".encode(errors="surrogateescape"))
    for file, size, pieces in zip(files, sizes, _pieces(sizes), strict=True):
        with file.open("rb") as opened:
            for start, end in pieces:
                opened.seek(start)
                digest.update(opened.read(end - start))
        if size > _WHOLE:
            for table in table_bytes(file):
                digest.update(table)
    return digest.hexdigest()


def _pieces(sizes: list[int]) -> Iterator[list[tuple[int, int]]]:
    """Yield what is hashed of each file: first byte and end of each piece."""
    total = sum(sizes)
    if total <= _WHOLE:
        yield from ([(0, size)] for size in sizes)
        return
    places = np.sort(np.random.default_rng(total).integers(0, total, _PIECES))
    first = 0
    for size in sizes:
        # Many files share what one has.
        ends = min(_ENDS, max(_PIECE, _WHOLE // len(sizes)))
        inside = places[(places >= first) & (places < first + size)] - first
        yield [
            (0, min(ends, size)),
            *((int(at), int(min(at + _PIECE, size))) for at in inside),
            (max(0, size - ends), size),
        ]
        first += size


def joined_fingerprint(by_openslide: str, content: str) -> str:
    """Return the fingerprint that a study keeps: OpenSlide's, which earlier versions kept alone, and the content's."""
    return f"{by_openslide}{_VERSION}{content}"


def is_same_fingerprint(then: str | None, now: str | None) -> bool:
    """Return whether two fingerprints are of one file, as far as both of them tell.

    Earlier versions kept OpenSlide's alone, which is of the smallest level; such a one is compared with that.
    """
    if then is None or now is None:
        return then is now
    if _VERSION in then and _VERSION in now:
        return then.partition(_VERSION)[2] == now.partition(_VERSION)[2]
    return then.partition(_VERSION)[0] == now.partition(_VERSION)[0]


def content_part(fingerprint: str) -> str | None:
    """Return the part of a fingerprint that is of the content; None where it was made by an earlier version."""
    return fingerprint.partition(_VERSION)[2] or None
