"""Reads the headers of TIFFs: what the first page is, whether a file was cut short, and what OpenSlide would die of.

No pixels are read, and nothing but Python reads: a header that claims what it does not have ends here.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from slideduck.limit import beyond, limit

__all__ = ["TiffOutline", "first_page", "outline", "table_bytes"]

# Bytes of each field type: TIFF 6.0, section 2, and BigTIFF for 16 to 18.
_TYPE_BYTES = dict(enumerate((0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4))) | dict.fromkeys((16, 17, 18), 8)
_TYPE_NUMPY = {3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
#: Tags that say where the image data is, and how much: strips, then tiles.
_OFFSETS_AND_COUNTS = ((273, 279), (324, 325))
_TABLES = frozenset(tag for pair in _OFFSETS_AND_COUNTS for tag in pair)
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR = 256, 257, 258, 259, 262, 277, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS = 322, 323, 324, 325
#: Side by side in one tile, or a set of tiles for each sample.
_IN_PLANES = 2

#: From here on tags belong to vendors, who may put anything there; except the colour profile.
_PRIVATE = 32768
_ICC_PROFILE = 34675

_MOST_PAGES = 10_000
#: More tags are those of no page: libtiff gives up there too.
_MOST_TAGS = 4096
#: What pages may share of their tags, beyond the size of the file.
_SHARED = 16 << 20

#: What slides have: compressions (none, LZW, JPEG, Deflate, JPEG 2000), photometrics, bits a sample.
_PLAIN = {
    _COMPRESSION: (1, 5, 6, 7, 8, 32946, 33003, 33004, 33005, 34712, 50000),
    _PHOTOMETRIC: (0, 1, 2, 3, 5, 6, 8),
    _BITS: (1, 8, 16),
    _SAMPLES: (1, 3, 4),
    _PLANAR: (1, 2),
}


class _BeyondEndError(Exception):
    """A header points to bytes that the file does not have."""


class _FlawError(Exception):
    """A header that no reader is to be given."""


@dataclass(frozen=True)
class TiffOutline:
    """What the headers of a TIFF say.

    Attributes
    ----------
    needed : int
        How long the file must be for all that they point to; more than it has if it was cut short, and then a lower
        bound.
    flaw : str or None
        Why the file is not to be opened, such as a list of tiles that is shorter than its size asks for.
    is_plain : bool
        Whether they say nothing that slides do not. What else there is may be read, or may not.
    """

    needed: int
    flaw: str | None
    is_plain: bool


class _Tiff:
    """The chain of pages of a TIFF or BigTIFF."""

    def __init__(self, file: BinaryIO, size: int, order: str, *, big: bool) -> None:
        self._file, self._size, self._order = file, size, order
        self._pointer = "Q" if big else "I"
        self._tag_count = "Q" if big else "H"
        self._tag = "HHQ8s" if big else "HHI4s"
        self._at_first_page = 8 if big else 4
        self._read = 0
        #: Whether the limits hold; what is known to be within them is read whatever they are now.
        self.is_limited = True

    def _bytes(self, at: int, n: int) -> bytes:
        if at + n > self._size:
            raise _BeyondEndError(at + n)
        self._read += n
        if self._read > self._size + _SHARED:
            raise _FlawError("has pages that share their headers, which no program writes")
        self._file.seek(at)
        return self._file.read(n)

    def _numbers(self, at: int, form: str) -> tuple[int, ...]:
        form = self._order + form
        return struct.unpack(form, self._bytes(at, struct.calcsize(form)))

    def first(self) -> int:
        """Return where the first page is."""
        (page,) = self._numbers(self._at_first_page, self._pointer)
        return int(page)

    def raw_tags(self, page: int) -> tuple[list[tuple[int, int, bytes]], int]:
        """Return number, type and bytes of the tags of a page, and where the next page is."""
        (n_tags,) = self._numbers(page, self._tag_count)
        at = page + struct.calcsize(self._order + self._tag_count)
        tag_bytes = struct.calcsize(self._order + self._tag)
        if n_tags > _MOST_TAGS and at + n_tags * tag_bytes <= self._size:
            raise _FlawError(f"has a page of {n_tags:,} tags, and no program writes over {_MOST_TAGS:,}")
        tags = self._bytes(at, n_tags * tag_bytes)
        found = []
        for tag, kind, count, inline in struct.iter_unpack(self._order + self._tag, tags):
            n = count * _TYPE_BYTES.get(kind, 0)
            if self.is_limited:
                _require_within(tag, count, n)
            if tag >= _PRIVATE and tag != _ICC_PROFILE:
                continue
            if n <= len(inline):
                data = inline[:n]
            else:
                (start,) = struct.unpack(self._order + self._pointer, inline)
                data = self._bytes(start, n)
            found.append((tag, kind, data))
        (following,) = self._numbers(at + len(tags), self._pointer)
        return found, int(following)

    def tags(self, page: int) -> tuple[dict[int, NDArray[np.int64]], int]:
        """Return the whole numbers in the tags of a page, and where the next page is."""
        found, following = self.raw_tags(page)
        values = {
            tag: np.frombuffer(data, self._order + _TYPE_NUMPY[kind]).astype(np.int64)
            for tag, kind, data in found
            if kind in _TYPE_NUMPY and data
        }
        return values, following

    def pages(self) -> Iterator[int]:
        """Yield where each page is."""
        page = self.first()
        seen: set[int] = set()
        while page:
            if page in seen:
                raise _FlawError("has pages that follow each other in a ring")
            if len(seen) == _MOST_PAGES:
                raise _FlawError(f"has over {_MOST_PAGES:,} pages")
            seen.add(page)
            yield page
            page = self._following(page)

    def _following(self, page: int) -> int:
        (n_tags,) = self._numbers(page, self._tag_count)
        at = page + struct.calcsize(self._order + self._tag_count) + n_tags * struct.calcsize(self._order + self._tag)
        return int(self._numbers(at, self._pointer)[0])


def _require_within(tag: int, count: int, n: int) -> None:
    """Refuse a tag that memory is not to be taken for; tables are as long as there are tiles."""
    problem = beyond("tiles", count) if tag in _TABLES else beyond("header_mb", n >> 20)
    if problem:
        raise _FlawError(f"is not read: {problem}")


def _needed(values: dict[int, NDArray[np.int64]]) -> int:
    """Return the end of the last byte that a page points to."""
    needed = 0
    for offsets_tag, counts_tag in _OFFSETS_AND_COUNTS:
        offsets, counts = values.get(offsets_tag), values.get(counts_tag)
        if offsets is not None and counts is not None and 0 < len(offsets) == len(counts):
            # A tile that was never stored has no bytes, wherever its offset points.
            needed = max(needed, int(np.where(counts > 0, offsets + counts, 0).max()))
    return needed


def _check_tiles(values: dict[int, NDArray[np.int64]]) -> None:
    """Refuse a tiled page whose tiles take too much memory, or are not all listed."""
    sides = [int(values[tag][0]) for tag in (_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT) if tag in values]
    if len(sides) < 4 or not all(sides):
        return
    width, height, across, down = sides
    problem = beyond("tile_pixels", across * down)
    if problem:
        raise _FlawError(f"is not read: {problem}")
    planes = int(values.get(_SAMPLES, [1])[0]) if int(values.get(_PLANAR, [1])[0]) == _IN_PLANES else 1
    n = -(-width // across) * -(-height // down) * max(planes, 1)
    listed = min(len(values.get(tag, ())) for tag in (_TILE_OFFSETS, _TILE_COUNTS))
    if listed < n:
        raise _FlawError(
            f"is damaged: its header claims {width:,} x {height:,} px in tiles of {across:,} x {down:,} px, which are "
            f"{n:,}, and lists {listed:,}"
        )


def _is_plain(values: dict[int, NDArray[np.int64]]) -> bool:
    """Return whether a page says nothing that slides do not."""
    needed = (_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC)
    tiles = [int(side) for tag in (_TILE_WIDTH, _TILE_HEIGHT) for side in values.get(tag, ())]
    return (
        all(tag in values and len(values[tag]) == 1 and values[tag][0] > 0 for tag in needed[:3])
        and all(int(value) in known for tag, known in _PLAIN.items() for value in values.get(tag, ()))
        and all(side > 0 and side % 16 == 0 for side in tiles)
        and len(tiles) in (0, 2)
    )


def outline(path: str | os.PathLike[str]) -> TiffOutline | None:
    """Return what the headers of a TIFF say.

    Parameters
    ----------
    path : path-like
        Any file.

    Returns
    -------
    TiffOutline or None
        None if the file is no TIFF, or one of over 4 GiB with the 32-bit pointers of a small one (Hamamatsu's NDPI),
        which only its vendor can read.
    """
    now = os.stat(path)
    state = (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
    return _outline(Path(path), state, tuple(limit(name) for name in ("tiles", "tile_pixels", "header_mb")))


@lru_cache(maxsize=64)
def _outline(path: Path, _state: tuple[int, ...], _limits: tuple[int, ...]) -> TiffOutline | None:
    """Return the outline of a file in a state, by the limits that hold: adding a slide asks for it several times."""
    needed, is_plain = 8, True
    with path.open("rb") as file:
        tiff = _opened(file)
        if tiff is None:
            return None
        try:
            for page in tiff.pages():
                values, _ = tiff.tags(page)
                needed = max(needed, _needed(values))
                is_plain &= _is_plain(values)
                _check_tiles(values)
        except _BeyondEndError as end:
            return TiffOutline(int(end.args[0]), None, False)
        except _FlawError as flaw:
            return TiffOutline(needed, str(flaw), False)
    return TiffOutline(needed, None, is_plain)


def table_bytes(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """Yield the lists of offsets and byte counts of a TIFF's strips and tiles, as they stand there; none of others."""
    with Path(path).open("rb") as file:
        tiff = _opened(file)
        if tiff is None:
            return
        tiff.is_limited = False
        try:
            for page in tiff.pages():
                yield from (data for tag, _, data in tiff.raw_tags(page)[0] if tag in _TABLES)
        except (_BeyondEndError, _FlawError):
            return


def first_page(path: str | os.PathLike[str]) -> dict[int, NDArray[np.int64]] | None:
    """Return the whole numbers in the tags of a TIFF's first page, by tag.

    Parameters
    ----------
    path : path-like
        Any file.

    Returns
    -------
    dict or None
        None if the file is no TIFF, one that `outline` leaves to its vendor, or cut short or damaged in this page.
    """
    with Path(path).open("rb") as file:
        tiff = _opened(file)
        try:
            return None if tiff is None else tiff.tags(tiff.first())[0]
        except (_BeyondEndError, _FlawError):
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
