"""Makes tiles of a slide as a beton has them: reads, resizes and normalises their pixels, and encodes them.

Exports, predictions straight from slides, and the check of a beton against its slides all make tiles here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from slideduck.betons.format import page_size_for
from slideduck.errors import SlideError
from slideduck.measure.stain import Normaliser
from slideduck.slides.grid import SlideGrid
from slideduck.slides.identity import SlideFile
from slideduck.slides.jpeg import encode_jpeg
from slideduck.slides.reader import TileReader
from slideduck.slides.stored import find_stored_level
from slideduck.slides.stored_reader import StoredReader, choose_reader

__all__ = ["Encoding", "TileMaker", "TileMaking", "page_bytes"]

_EOI = b"\xff\xd9"


def page_bytes(tile_px: int, quality: int | None) -> int:
    """Return the bytes of a page of a beton, in which every tile fits whatever it shows.

    Parameters
    ----------
    tile_px : int
        Side of a tile, pixels.
    quality : int or None
        Quality of the JPEGs; None for raw pixels.

    Raises
    ------
    BetonError
        If no page can hold such a tile.
    """
    if quality is None:
        return page_size_for(3 * tile_px**2)
    # The most that a JPEG without subsampling may have: libjpeg-turbo's tjBufSize.
    return page_size_for(6 * (-(-tile_px // 16) * 16) ** 2 + 2048)


@dataclass(frozen=True)
class Encoding:
    """The rule by which tiles become bytes.

    Attributes
    ----------
    quality : int or None
        Quality of the JPEGs; None for raw pixels.
    jpeg : {"auto", "reencode", "passthrough"}
        Whether the JPEG of a tile that is exactly a stored one is taken as it is.
    most_bytes : int
        The most that a tile may have: a page of the beton.
    """

    quality: int | None
    jpeg: str
    most_bytes: int

    @classmethod
    def of_image(cls, image: Mapping[str, Any], most_bytes: int) -> Encoding:
        """Return the rule by which the tiles of a beton were made.

        Parameters
        ----------
        image : mapping
            What the side-car says of the images: ``mode``, ``quality``, ``jpeg``.
        most_bytes : int
            The most that a tile may have.
        """
        # Betons written before stored JPEGs could be copied do not say so.
        return cls(image["quality"] if image["mode"] == "jpg" else None, image.get("jpeg", "reencode"), most_bytes)

    @property
    def may_copy(self) -> bool:
        """Whether stored JPEGs may be taken as they are."""
        return self.quality is not None and self.jpeg != "reencode"


@dataclass(frozen=True)
class TileMaking:
    """How the tiles of one slide are made.

    Attributes
    ----------
    file : SlideFile
        The slide.
    slide_grid : SlideGrid
        How the grid lies on it; its numbers of columns and rows are not used.
    tile_px : int
        Side of a tile, pixels.
    background : str
        Colour behind transparent pixels, RRGGBB.
    encoding : Encoding
        How pixels become bytes.
    normaliser : Normaliser, optional
        Changes the stains of the pixels that are encoded; stored JPEGs are to be taken only without one.
    """

    file: SlideFile
    slide_grid: SlideGrid
    tile_px: int
    background: str
    encoding: Encoding
    normaliser: Normaliser | None = None

    def open(self, base_x: npt.NDArray[np.int64], base_y: npt.NDArray[np.int64], reader: str = "auto") -> TileMaker:
        """Open the slide, and choose how its tiles are read; see `slideduck.slides.stored_reader.choose_reader`.

        Parameters
        ----------
        base_x, base_y : ndarray of int, shape (tiles,)
            Top left corners of the tiles that are to be made, base pixels.
        reader : {"auto", "openslide", "tiff"}
            Name of the reader.

        Raises
        ------
        SlideError
            If the slide does not open, or ``tiff`` is asked for and cannot read it.
        """
        reference = self._reference()
        try:
            return TileMaker(self, reference, *choose_reader(reference, base_x, base_y, reader))
        except BaseException:
            reference.close()
            raise

    def open_as_before(self, reader: str, why_not_tiff: str | None = None) -> TileMaker:
        """Open the slide with a reader that was chosen before, without comparing it with OpenSlide again.

        Parameters
        ----------
        reader : {"openslide", "tiff"}
            Name of the reader.
        why_not_tiff : str, optional
            Why it is OpenSlide's.

        Raises
        ------
        SlideError
            If the slide does not open, or has no stored tiles any more.
        """
        reference = self._reference()
        if reader == reference.name:
            return TileMaker(self, reference, reference, why_not_tiff)
        try:
            level = find_stored_level(reference.file, *reference.level_size())
            if isinstance(level, str):
                raise SlideError(
                    f"slide {reference.path.stem!r} has changed: {reference.path} was read by the reader {reader!r}, "
                    f"and now cannot be: {level}; put the file of before back"
                )
        except BaseException:
            reference.close()
            raise
        return TileMaker(self, reference, StoredReader(level, reference), why_not_tiff)

    def _reference(self) -> TileReader:
        """Return OpenSlide's reader of the tiles."""
        return TileReader(self.file, self.slide_grid, self.tile_px, background=self.background)


class TileMaker:
    """Makes tiles of one slide, which is open; any number of threads may do so at once.

    Attributes
    ----------
    reader : TileReader or StoredReader
        Reads the tiles.
    why_not_tiff : str or None
        Why it is OpenSlide's, where another was looked for.
    """

    def __init__(
        self,
        making: TileMaking,
        reference: TileReader,
        reader: TileReader | StoredReader,
        why_not_tiff: str | None = None,
    ) -> None:
        self._making = making
        self._reference = reference
        self.reader = reader
        self.why_not_tiff = why_not_tiff

    def __enter__(self) -> TileMaker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the slide; no other thread may be making tiles."""
        self.reader.close()

    def check_file(self) -> None:
        """Make sure that the slide is still the file that it was when it was opened.

        Raises
        ------
        SlideError
            If it is not.
        """
        self._making.file.check()

    def make(self, base_x: int, base_y: int) -> tuple[bytes, bool]:
        """Return a tile as a beton has it, and whether it is the slide's own JPEG.

        Parameters
        ----------
        base_x, base_y : int
            Top left corner of the tile, base pixels.

        Returns
        -------
        data : bytes
            A JPEG, or the raw pixels: RGB, row by row.
        is_stored : bool
            Whether it is the JPEG that the slide stores.

        Raises
        ------
        SlideError
            If it cannot be read, or is to be taken as it is stored and cannot.
        """
        encoding = self._making.encoding
        if encoding.may_copy:
            stored = self.reader.stored_jpeg(base_x, base_y)
            # Some scanners put bytes behind the end, and readers of betons want it at the end.
            if stored is not None and stored.endswith(_EOI) and len(stored) <= encoding.most_bytes:
                return stored, True
            if encoding.jpeg == "passthrough":
                path = self.reader.path
                raise SlideError(
                    f"slide {path.stem!r}: the tile at base pixel ({base_x}, {base_y}) has no whole JPEG of "
                    f"its own in {path} that could be taken as it is; use `jpeg='auto'`, or leave the tile out"
                )
        return self._encoded(self.reader, base_x, base_y), False

    def make_by_openslide(self, base_x: int, base_y: int) -> bytes:
        """Return a tile of OpenSlide's pixels as a beton has it where it is no stored JPEG.

        Parameters
        ----------
        base_x, base_y : int
            Top left corner of the tile, base pixels.

        Raises
        ------
        SlideError
            If it cannot be read.
        """
        return self._encoded(self._reference, base_x, base_y)

    def read_by_openslide(self, base_x: int, base_y: int) -> npt.NDArray[np.uint8]:
        """Return OpenSlide's pixels of a tile, in the slide's own stains: shape (tile_px, tile_px, 3), RGB.

        Parameters
        ----------
        base_x, base_y : int
            Top left corner of the tile, base pixels.

        Raises
        ------
        SlideError
            If it cannot be read.
        """
        return self._reference.read(base_x, base_y)

    def _encoded(self, reader: TileReader | StoredReader, base_x: int, base_y: int) -> bytes:
        """Read, normalise and encode a tile."""
        rgb = reader.read(base_x, base_y)
        if self._making.normaliser is not None:
            rgb = self._making.normaliser.apply(rgb)
        quality = self._making.encoding.quality
        return rgb.tobytes() if quality is None else encode_jpeg(rgb, quality)
