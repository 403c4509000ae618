"""Reads tiles of a grid from the JPEG tiles that a TIFF stores, several times as fast as OpenSlide does.

OpenSlide is the reference: a slide is read in this way only after some tiles equalled OpenSlide's bit for bit. Tiles
that stored ones cannot make up (one is missing or damaged, or a corner lies between two pixels of the level) are read
by OpenSlide, and fail with its error.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from concurrent.futures import Future
from types import TracebackType

import numpy as np
import numpy.typing as npt

from slideduck.errors import SlideError
from slideduck.slides.reader import TileReader, resized
from slideduck.slides.stored import StoredLevel, find_stored_level

__all__ = ["READERS", "StoredReader", "choose_reader"]

RGB = npt.NDArray[np.uint8]

#: Names of the readers, for options.
READERS = ("auto", "openslide", "tiff")

#: Bounds of the decoded tiles that a reader keeps, bytes. Two slides are open where one ends and the next begins.
_KEPT_BYTES = (32 << 20, 256 << 20)

#: Tiles of the grid that are compared with OpenSlide's before a slide is read without it.
_COMPARED = 8

#: How far a place may be from a whole pixel of its level: rounding of base pixels divided by a downsample.
_WHOLE_PX = 1e-6


class StoredReader:
    """Reads tiles of one grid from one slide, out of stored JPEG tiles.

    Parameters
    ----------
    level : StoredLevel
        The stored tiles of the grid's level.
    reference : TileReader
        OpenSlide's reader of the same tiles, for what they cannot give.

    Attributes
    ----------
    n_decoded : int
        Stored tiles that were decoded so far.

    Notes
    -----
    Any number of threads may read at once. Each stored tile is decoded once, as long as the row of the grid that
    is being read and the one above it need it.
    """

    name = "tiff"

    def __init__(self, level: StoredLevel, reference: TileReader) -> None:
        self.level = level
        self.reference = reference
        self.path = reference.path
        self.slide_grid = reference.slide_grid
        self.tile_px = reference.tile_px
        self.n_decoded = 0
        self._lock = threading.Lock()
        self._fd = -1
        self._decoded: OrderedDict[int, Future[RGB]] = OrderedDict()
        tile_bytes = 3 * level.tile_width * level.tile_height
        rows = self.slide_grid.read_px // level.tile_height + 2
        least, most = _KEPT_BYTES
        self._most_kept = max(min(max(rows * level.n_columns * tile_bytes, least), most) // tile_bytes, 4)

    def __enter__(self) -> StoredReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the slide; no other thread may be reading. A later read opens it again."""
        self.reference.close()
        self.close_file()

    def close_file(self) -> None:
        """Close the file of stored tiles; OpenSlide's handle stays open for further reads."""
        with self._lock:
            self._decoded.clear()
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def read(self, base_x: int, base_y: int) -> RGB:
        """Return the pixels of a tile, as `slideduck.slides.reader.TileReader.read` does."""
        try:
            return self.read_stored(base_x, base_y)
        except (ValueError, OSError):
            # Its pixels are the same ones, and where it has none, its error says why.
            return self.reference.read(base_x, base_y)

    def read_stored(self, base_x: int, base_y: int) -> RGB:
        """Return the pixels of a tile from stored tiles alone.

        Raises
        ------
        ValueError
            If stored tiles do not make it up, or one of them cannot be decoded.
        OSError
            If the file cannot be read.
        """
        place = self._place(base_x, base_y)
        if place is None:
            raise ValueError("no stored tiles make the tile up")
        return resized(self._region(*place), self.tile_px)

    def stored_jpeg(self, base_x: int, base_y: int) -> bytes | None:
        """Return the JPEG of a tile that is exactly a stored one, with its size; None for any other.

        None too for one whose headers are damaged, or that FFCV does not read.

        Parameters
        ----------
        base_x, base_y : int
            Top left corner, base pixels.
        """
        place = self._stored_place(base_x, base_y)
        if place is None:
            return None
        try:
            return self.level.jpeg(self._file(), *place)
        except (ValueError, OSError):
            return None

    def is_stored(self, base_x: int, base_y: int) -> bool:
        """Return whether a tile is exactly a stored one, with its size; its bytes are not looked at."""
        return self._stored_place(base_x, base_y) is not None

    def _stored_place(self, base_x: int, base_y: int) -> tuple[int, int] | None:
        """Return column and row of the stored tile that a tile is, None if it is none."""
        level, side = self.level, self.slide_grid.read_px
        if not self.tile_px == side == level.tile_width == level.tile_height:
            return None
        place = self._place(base_x, base_y)
        if place is None or place[0] % side or place[1] % side:
            return None
        return place[0] // side, place[1] // side

    def is_whole(self, base_x: int, base_y: int) -> bool:
        """Return whether stored tiles make a tile up; OpenSlide reads it where they do not."""
        return self._place(base_x, base_y) is not None

    def _place(self, base_x: int, base_y: int) -> tuple[int, int] | None:
        """Return where a tile is on the level, pixels, if stored tiles make it up; the corner is a whole pixel."""
        level, grid = self.level, self.slide_grid
        x, y = base_x / grid.level_downsample, base_y / grid.level_downsample
        left, top = round(x), round(y)
        if abs(x - left) > _WHOLE_PX or abs(y - top) > _WHOLE_PX:
            return None
        if left < 0 or top < 0 or left + grid.read_px > level.width or top + grid.read_px > level.height:
            return None
        columns, rows = self._spanned(left, level.tile_width), self._spanned(top, level.tile_height)
        if not all(level.is_stored(column, row) for row in rows for column in columns):
            return None
        return left, top

    def _spanned(self, start: int, size: int) -> range:
        """Return the stored tiles that a side of a tile touches."""
        return range(start // size, (start + self.slide_grid.read_px - 1) // size + 1)

    def _region(self, left: int, top: int) -> RGB:
        """Return a square of ``read_px`` pixels of the level."""
        level, side = self.level, self.slide_grid.read_px
        columns, rows = self._spanned(left, level.tile_width), self._spanned(top, level.tile_height)
        # Where tiles of the grid do not overlap, stored tiles that lie within one are needed by no other.
        is_alone = self.slide_grid.stride >= self.slide_grid.extract_px and not (
            left % level.tile_width or top % level.tile_height or side % level.tile_width or side % level.tile_height
        )
        tile = self._decode if is_alone else self._tile
        if is_alone and len(columns) == len(rows) == 1:
            return tile(columns[0], rows[0])
        region = np.empty((side, side, 3), np.uint8)
        for row in rows:
            for column in columns:
                x, y = column * level.tile_width - left, row * level.tile_height - top
                part = tile(column, row)[max(-y, 0) : side - y, max(-x, 0) : side - x]
                region[max(y, 0) : max(y, 0) + part.shape[0], max(x, 0) : max(x, 0) + part.shape[1]] = part
        return region

    def _tile(self, column: int, row: int) -> RGB:
        """Return a stored tile, decoded by the first thread that asks for it."""
        key = row * self.level.n_columns + column
        decoded = self._decoded.get(key)
        if decoded is not None:
            return decoded.result()
        with self._lock:
            decoded = self._decoded.get(key)
            mine = decoded is None
            if decoded is None:
                decoded = self._decoded[key] = Future()
                # The oldest, which the grid, read row by row, has left behind.
                while len(self._decoded) > self._most_kept:
                    self._decoded.popitem(last=False)
        if mine:
            try:
                decoded.set_result(self._decode(column, row))
            except BaseException as error:
                # Whatever it was, other threads wait for this tile.
                with self._lock:
                    self._decoded.pop(key, None)
                decoded.set_exception(error)
        return decoded.result()

    def _decode(self, column: int, row: int) -> RGB:
        """Return a stored tile, decoded anew."""
        pixels = self.level.decode(self._file(), column, row)
        with self._lock:
            self.n_decoded += 1
        return pixels

    def _file(self) -> int:
        """Return the open file; all threads share it, since they read at offsets of their own."""
        with self._lock:
            if self._fd < 0:
                self.reference.file.check()
                try:
                    self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                except OSError as error:
                    raise SlideError(
                        f"slide {self.path.stem!r}: {self.path} does not open: {error.strerror}; "
                        "get the file again, or leave the slide out"
                    ) from error
            return self._fd


def choose_reader(
    reference: TileReader, base_x: npt.NDArray[np.int64], base_y: npt.NDArray[np.int64], reader: str = "auto"
) -> tuple[TileReader | StoredReader, str | None]:
    """Choose how the tiles of a slide are read.

    Parameters
    ----------
    reference : TileReader
        OpenSlide's reader of them.
    base_x, base_y : ndarray of int, shape (tiles,)
        Top left corners of the tiles that are to be read, base pixels. Up to eight of them, the first, the last and
        some between, are read in both ways and compared.
    reader : {"auto", "openslide", "tiff"}
        ``auto`` reads stored JPEG tiles where they give OpenSlide's pixels bit for bit, and OpenSlide's else;
        ``tiff`` makes it an error where they do not.

    Returns
    -------
    reader : TileReader or StoredReader
        The reader.
    reason : str or None
        Why it is OpenSlide's, where another was looked for.

    Raises
    ------
    SlideError
        If the slide does not open, or ``tiff`` is asked for and cannot read it.
    """
    if reader == "openslide":
        return reference, None
    level = find_stored_level(reference.file, *reference.level_size())
    if isinstance(level, str):
        reason: str | None = level
    else:
        stored = StoredReader(level, reference)
        reason = _difference(stored, base_x, base_y)
        if reason is None:
            return stored, None
        stored.close_file()
    if reader == "tiff":
        raise SlideError(
            f"slide {reference.path.stem!r} cannot be read by the reader 'tiff': {reason}; "
            "choose the reader auto or openslide"
        )
    return reference, reason


def _difference(stored: StoredReader, base_x: npt.NDArray[np.int64], base_y: npt.NDArray[np.int64]) -> str | None:
    """Return how the pixels of stored tiles differ from OpenSlide's; None where they are equal."""
    if not len(base_x):
        return "there is no tile to compare"
    rng = np.random.default_rng(0)
    spread = [*np.linspace(0, len(base_x) - 1, 4).round(), *rng.integers(0, len(base_x), 8 * _COMPARED)]
    compared = 0
    for i in dict.fromkeys(int(place) for place in spread):
        x, y = int(base_x[i]), int(base_y[i])
        if compared == _COMPARED:
            return None
        if not stored.is_whole(x, y):
            continue
        try:
            if not np.array_equal(stored.read_stored(x, y), stored.reference.read(x, y)):
                return f"its pixels differ from OpenSlide's at base pixel ({x}, {y})"
        except (ValueError, OSError, SlideError) as error:
            return str(error)
        compared += 1
    return None if compared else "no tile lies on whole pixels of stored tiles"
