"""Reads the headers of TIFFs: what the first page is, and whether a file was cut short; no pixels are read."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["bytes_needed", "first_page"]

# Bytes of each field type: TIFF 6.0, section 2, and BigTIFF for 16 to 18.
_TYPE_BYTES = dict(enumerate((0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4))) | dict.fromkeys((16, 17, 18), 8)
_TYPE_NUMPY = {3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
#: Tags that say where the image data is, and how much: strips, then tiles.
_OFFSETS_AND_COUNTS = ((273, 279), (324, 325))

#: From here on tags belong to vendors, who may put anything there; except the colour profile.
_PRIVATE = 32768
_ICC_PROFILE = 34675

_MOST_PAGES = 10_000


class _BeyondEndError(Exception):
    """A header points to bytes that the file does not have."""


class _Tiff:
    """The chain of pages of a TIFF or BigTIFF."""

    def __init__(self, file: BinaryIO, size: int, order: str, *, big: bool) -> None:
        self._file, self._size, self._order = file, size, order
        self._pointer = "Q" if big else "I"
        self._tag_count = "Q" if big else "H"
        self._tag = "HHQ8s" if big else "HHI4s"
        self._at_first_page = 8 if big else 4

    def _bytes(self, at: int, n: int) -> bytes:
        if at + n > self._size:
            raise _BeyondEndError(at + n)
        self._file.seek(at)
        return self._file.read(n)

    def _numbers(self, at: int, form: str) -> tuple[int, ...]:
        form = self._order + form
        return struct.unpack(form, self._bytes(at, struct.calcsize(form)))

    def first(self) -> int:
        """Return where the first page is."""
        (page,) = self._numbers(self._at_first_page, self._pointer)
        return int(page)

    def tags(self, page: int) -> tuple[dict[int, NDArray[np.int64]], int]:
        """Return the whole numbers in the tags of a page, and where the next page is."""
        (n_tags,) = self._numbers(page, self._tag_count)
        at = page + struct.calcsize(self._order + self._tag_count)
        tag_bytes = struct.calcsize(self._order + self._tag)
        tags = self._bytes(at, n_tags * tag_bytes)
        values: dict[int, NDArray[np.int64]] = {}
        for tag, kind, count, inline in struct.iter_unpack(self._order + self._tag, tags):
            if tag >= _PRIVATE and tag != _ICC_PROFILE:
                continue
            n = count * _TYPE_BYTES.get(kind, 0)
            if n <= len(inline):
                data = inline[:n]
            else:
                (start,) = struct.unpack(self._order + self._pointer, inline)
                data = self._bytes(start, n)
            if kind in _TYPE_NUMPY:
                values[tag] = np.frombuffer(data, self._order + _TYPE_NUMPY[kind]).astype(np.int64)
        (following,) = self._numbers(at + len(tags), self._pointer)
        return values, int(following)

    def needed(self) -> int:
        """Return the end of the last byte that any page points to."""
        needed = 0
        page = self.first()
        seen: set[int] = set()
        while page and page not in seen and len(seen) < _MOST_PAGES:
            seen.add(page)
            values, page = self.tags(page)
            for offsets_tag, counts_tag in _OFFSETS_AND_COUNTS:
                offsets, counts = values.get(offsets_tag), values.get(counts_tag)
                if offsets is not None and counts is not None and 0 < len(offsets) == len(counts):
                    # A tile that was never stored has no bytes, wherever its offset points.
                    needed = max(needed, int(np.where(counts > 0, offsets + counts, 0).max()))
        return needed


def bytes_needed(path: str | os.PathLike[str]) -> int | None:
    """Return how long a TIFF must be for all that its headers point to.

    Parameters
    ----------
    path : path-like
        Any file.

    Returns
    -------
    int or None
        Bytes; more than the file has if it was cut short, and then a lower bound. None if the file is no
        TIFF, or one of over 4 GiB with the 32-bit pointers of a small one (Hamamatsu's NDPI), which only
        its vendor can read.
    """
    with Path(path).open("rb") as file:
        tiff = _opened(file)
        try:
            return None if tiff is None else max(tiff.needed(), 8)
        except _BeyondEndError as beyond:
            return int(beyond.args[0])


def first_page(path: str | os.PathLike[str]) -> dict[int, NDArray[np.int64]] | None:
    """Return the whole numbers in the tags of a TIFF's first page, by tag.

    Parameters
    ----------
    path : path-like
        Any file.

    Returns
    -------
    dict or None
        None if the file is no TIFF, one that `bytes_needed` leaves to its vendor, or cut short in this page.
    """
    with Path(path).open("rb") as file:
        tiff = _opened(file)
        try:
            return None if tiff is None else tiff.tags(tiff.first())[0]
        except _BeyondEndError:
            return None


def _opened(file: BinaryIO) -> _Tiff | None:
    """Return the TIFF in a file; None if it is none, or of over 4 GiB with the pointers of a small one."""
    size = os.fstat(file.fileno()).st_size
    head = file.read(4)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    version = int.from_bytes(head[2:], "little" if order == "<" else "big")
    if order is None or len(head) < 4 or version not in (42, 43):
        return None
    if version == 42 and size >= 2**32:
        return None
    return _Tiff(file, size, order, big=version == 43)
