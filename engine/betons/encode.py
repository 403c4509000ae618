"""Turns a tile of a slide into the bytes that a beton has of it."""

from __future__ import annotations

from dataclasses import dataclass

from slideduck.errors import SlideError
from slideduck.measure.stain import Normaliser
from slideduck.slides.jpeg import encode_jpeg
from slideduck.slides.reader import TileReader
from slideduck.slides.stored import find_stored_level
from slideduck.slides.stored_reader import StoredReader

__all__ = ["Encoding", "reader_by_name"]

_EOI = b"\xff\xd9"


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

    @property
    def may_copy(self) -> bool:
        """Whether stored JPEGs may be taken as they are."""
        return self.quality is not None and self.jpeg != "reencode"

    def encode(
        self, reader: TileReader | StoredReader, base_x: int, base_y: int, normaliser: Normaliser | None = None
    ) -> tuple[bytes, bool]:
        """Return a tile as a beton has it, and whether it is the slide's own JPEG.

        Parameters
        ----------
        reader : TileReader or StoredReader
            Reads the tiles of the slide.
        base_x, base_y : int
            Top left corner of the tile, base pixels.
        normaliser : Normaliser, optional
            Changes the stains of the pixels that are encoded; stored JPEGs are to be taken only without one.

        Raises
        ------
        SlideError
            If it cannot be read, or is to be taken as it is stored and cannot.
        """
        if self.may_copy:
            stored = reader.stored_jpeg(base_x, base_y)
            # Some scanners put bytes behind the end, and readers of betons want it at the end.
            if stored is not None and stored.endswith(_EOI) and len(stored) <= self.most_bytes:
                return stored, True
            if self.jpeg == "passthrough":
                raise SlideError(
                    f"slide {reader.path.stem!r}: the tile at base pixel ({base_x}, {base_y}) has no whole JPEG of "
                    f"its own in {reader.path} that could be taken as it is; use --jpeg auto, or leave the tile out"
                )
        rgb = reader.read(base_x, base_y)
        if normaliser is not None:
            rgb = normaliser.apply(rgb)
        return (rgb.tobytes() if self.quality is None else encode_jpeg(rgb, self.quality)), False


def reader_by_name(reference: TileReader, name: str) -> TileReader | StoredReader:
    """Return a reader that was chosen before, without comparing it with OpenSlide again.

    Parameters
    ----------
    reference : TileReader
        OpenSlide's reader of the tiles.
    name : {"openslide", "tiff"}
        Name of the reader.

    Raises
    ------
    SlideError
        If the slide does not open, or has no stored tiles any more.
    """
    if name == reference.name:
        return reference
    level = find_stored_level(reference.path, *reference.level_size())
    if isinstance(level, str):
        reference.close()
        raise SlideError(
            f"slide {reference.path.stem!r} has changed: {reference.path} was read by the reader {name!r}, and now "
            f"cannot be: {level}; put the file of before back"
        )
    return StoredReader(level, reference)
