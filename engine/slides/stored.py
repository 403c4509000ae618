"""Finds the JPEG tiles that a TIFF stores, and returns them whole, as bytes or decoded.

Aperio's SVS and most pyramids keep each level as tiles of JPEG. Such a tile, with the tables that the file keeps
once for all of them, is a JPEG of its own.

Only what scanners write is taken: sequential JPEG of three components in one scan, whole and with nothing between
its headers. libjpeg passes over much else with a warning, where OpenSlide refuses the tile.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile

from slideduck.slides.identity import SlideFile

__all__ = ["StoredLevel", "find_stored_level"]

_JPEG = 7
_RGB, _YCBCR = 2, 6
_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"

#: Adobe's marker, whose last byte says what the components are: 0 for red, green and blue, 1 for YCbCr.
_APP14 = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
_TRANSFORM = {"RGB": b"\x00", "YCBCR": b"\x01"}

#: Markers of headers: tables of quantisation and Huffman codes, restart interval, APP0 to APP15, comment.
_DRI, _APP0, _APP14_MARKER = 0xDD, 0xE0, 0xEE
_HEADERS = frozenset({0xDB, 0xC4, _DRI, *range(0xE0, 0xF0), 0xFE})
#: Frames of sequential JPEG with Huffman codes; and the start of a scan.
_FRAMES, _SOS = frozenset({0xC0, 0xC1}), 0xDA

#: Sampling of the first component (the others have 1 x 1) that turbojpeg, which FFCV decodes with, has a name for.
_TURBO_SAMPLINGS = frozenset({0x11, 0x21, 0x22, 0x12, 0x41})

#: What libjpeg gives for the part of a picture that its data does not reach to.
_GREY = b"\x80\x80\x80"


@dataclass(frozen=True, eq=False)
class StoredLevel:
    """The JPEG tiles of one level of a TIFF.

    Attributes
    ----------
    width, height : int
        Size of the level, pixels of the level.
    tile_width, tile_height : int
        Size of a stored tile, pixels of the level; those at the right and lower border are padded to it.
    n_columns, n_rows : int
        Stored tiles across and down.
    colours : {"RGB", "YCBCR"}
        What the components of a tile are, as the TIFF says.
    tables : bytes
        Headers that stand before those of each tile.
    offsets, counts : ndarray of int64, shape (n_rows * n_columns,)
        Where the bytes of each tile begin in the file, and how many there are; row after row.
    """

    path: Path
    width: int
    height: int
    tile_width: int
    tile_height: int
    n_columns: int
    n_rows: int
    colours: str
    tables: bytes
    offsets: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]

    def is_stored(self, column: int, row: int) -> bool:
        """Return whether the file stores a tile at this place; sparse files leave some out."""
        return bool(self.counts[row * self.n_columns + column] > 0)

    def jpeg(self, fd: int, column: int, row: int) -> bytes:
        """Return a stored tile as a JPEG that any decoder reads, FFCV's among them.

        Parameters
        ----------
        fd : int
            The file, open for reading; any number of threads may share it.
        column, row : int
            Which tile.

        Returns
        -------
        bytes
            The tables, and the tile as it is stored. Where its markers say other colours than the TIFF does,
            as those of Aperio's "JPEG/RGB", one that says the same takes their place.

        Raises
        ------
        ValueError
            If the bytes are not a whole sequential JPEG of the tile's size, or the file ends before them.

        Notes
        -----
        The headers and the end of the JPEG are looked at; damage within its data shows when it is decoded.
        """
        data, header = self._stored(fd, column, row)
        if header.samplings[0] not in _TURBO_SAMPLINGS or header.samplings[1:] != (0x11, 0x11):
            raise ValueError(
                f"its components are sampled {', '.join(f'{s >> 4} x {s & 15}' for s in header.samplings)}, "
                "which FFCV does not read"
            )
        if header.colours == self.colours:
            return data
        kept = b"".join(data[start:end] for start, end in header.colourless)
        return _SOI + _APP14 + _TRANSFORM[self.colours] + kept + data[header.scan_at :]

    def decode(self, fd: int, column: int, row: int) -> npt.NDArray[np.uint8]:
        """Return the pixels of a stored tile: RGB, shape (tile_height, tile_width, 3).

        Raises
        ------
        ValueError
            If it cannot be decoded, or ends before its last pixels.
        """
        data, _ = self._stored(fd, column, row)
        try:
            # As OpenSlide does: the TIFF says what the colours are, whatever the JPEG does.
            pixels: npt.NDArray[np.uint8] = imagecodecs.jpeg8_decode(data, colorspace=self.colours, outcolorspace="RGB")
        except imagecodecs.Jpeg8Error as error:
            raise ValueError(f"stored tile ({column}, {row}) cannot be decoded: {error}") from error
        if pixels.shape != (self.tile_height, self.tile_width, 3) or pixels.dtype != np.uint8:
            raise ValueError(f"stored tile ({column}, {row}) has the shape {pixels.shape}")
        if pixels[-1, -1].tobytes() == _GREY:
            raise ValueError(f"stored tile ({column}, {row}) may have no data for its last pixels")
        return pixels

    def _stored(self, fd: int, column: int, row: int) -> tuple[bytes, _Header]:
        """Return the tables and the tile as they are stored, with the headers; these and the end are checked."""
        place = row * self.n_columns + column
        offset, count = int(self.offsets[place]), int(self.counts[place])
        where = f"stored tile ({column}, {row}), {count} bytes at {offset},"
        # Before memory is taken for them: a damaged count may be anything.
        if offset + count > os.fstat(fd).st_size:
            raise ValueError(f"{where} ends behind the end of the file")
        data = os.pread(fd, count, offset)
        if len(data) != count:
            raise ValueError(f"{where} ends behind the end of the file")
        if not data.startswith(_SOI):
            raise ValueError(f"{where} does not begin as a JPEG")
        whole = _SOI + self.tables + data[2:]
        try:
            header = _read_header(whole)
        except ValueError as error:
            raise ValueError(f"{where} {error}") from error
        if (header.width, header.height) != (self.tile_width, self.tile_height):
            raise ValueError(
                f"{where} is {header.width} x {header.height} px, and tiles are {self.tile_width} x {self.tile_height}"
            )
        end = whole.rfind(_EOI)
        if end < header.data_at:
            raise ValueError(f"{where} has no end")
        return whole[: end + 2], header


@dataclass(frozen=True)
class _Header:
    """What stands before the data of a JPEG.

    Attributes
    ----------
    samplings : tuple of int
        Of each component: 16 times its samples across, and those down.
    colours : {"RGB", "YCBCR"}
        What libjpeg takes the components for.
    colourless : list of (int, int)
        First byte and end of each header that has no say in that.
    scan_at, data_at : int
        Where the last header begins, and where it ends.
    """

    width: int
    height: int
    samplings: tuple[int, ...]
    colours: str
    colourless: list[tuple[int, int]]
    scan_at: int
    data_at: int


def _read_header(data: bytes) -> _Header:
    """Read the headers of a JPEG, up to its data.

    Raises
    ------
    ValueError
        If it is not a sequential JPEG of three components of 8 bits in one scan without restarts.
    """
    at, end, frame = 2, len(data), b""
    colourless: list[tuple[int, int]] = []
    is_jfif, transform = False, None
    while True:
        if at + 4 > end or data[at] != 0xFF:
            raise ValueError(f"has no header at byte {at}")
        marker, after = data[at + 1], at + 2 + (data[at + 2] << 8 | data[at + 3])
        if after > end:
            raise ValueError("ends within its headers")
        if marker == _SOS:
            break
        says_colours = False
        if marker in _FRAMES and not frame:
            frame = data[at + 4 : after]
        elif marker not in _HEADERS:
            raise ValueError(f"has the marker {marker:02X}: it is no sequential JPEG")
        elif marker == _DRI and any(data[at + 4 : after]):
            raise ValueError("has restart markers")
        elif marker == _APP0 and data[at + 4 : at + 9] == b"JFIF\0":
            is_jfif = says_colours = True
        elif marker == _APP14_MARKER and data[at + 4 : at + 9] == b"Adobe":
            transform, says_colours = data[at + 15], True
        if not says_colours:
            colourless.append((at, after))
        at = after
    if len(frame) != 15 or frame[0] != 8 or frame[5] != 3:
        raise ValueError("is no picture of three components of 8 bits")
    # One scan of all components, of all coefficients.
    if after != at + 14 or data[at + 4] != 3 or data[after - 3 : after] != b"\x00\x3f\x00":
        raise ValueError("has several scans")
    if transform not in (None, 0, 1):
        raise ValueError(f"says that its colours are of the kind {transform}")
    # Rules of libjpeg, jdapimin.c, default_decompress_parms.
    if is_jfif:
        colours = "YCBCR"
    elif transform is not None:
        colours = "YCBCR" if transform else "RGB"
    else:
        colours = "RGB" if frame[6::3] == b"RGB" else "YCBCR"
    return _Header(
        width=frame[3] << 8 | frame[4],
        height=frame[1] << 8 | frame[2],
        samplings=tuple(frame[7::3]),
        colours=colours,
        colourless=colourless,
        scan_at=at,
        data_at=after,
    )


def find_stored_level(file: SlideFile, width: int, height: int) -> StoredLevel | str:
    """Find the JPEG tiles of a level in a TIFF.

    Parameters
    ----------
    file : SlideFile
        Any slide.
    width, height : int
        Size of the level, pixels of the level. Levels are told by it, since vendors order pages as they like.

    Returns
    -------
    StoredLevel or str
        The tiles, or why there are none that can be used.

    Raises
    ------
    SlideError
        If it is not the file that was added.
    """
    file.check()
    path = file.path
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = [page.aspage() for page in tiff.pages]
            found = [page for page in pages if page.shape[:2] == (height, width) and page.is_tiled]
            if len(found) != 1:
                return f"{len(found)} pages of the file are tiled and {width} x {height} px"
            larger = (page for page in pages if page.is_tiled and page.imagewidth > width)
            if pages[0].description.startswith("Aperio") and not all(all(page.databytecounts) for page in larger):
                # OpenSlide makes up the tiles below those (openslide-vendor-aperio.c, propagate_missing_tiles).
                return "a larger level of the file lacks tiles"
            return _stored_level(path, found[0])
    except Exception as error:  # tifffile raises whatever a damaged tag leads it to
        return f"not a TIFF that can be read by tile: {error}"


def _stored_level(path: Path, page: tifffile.TiffPage) -> StoredLevel | str:
    """Return the tiles of a page, or why they cannot be used."""
    if page.compression != _JPEG:
        return f"its tiles are compressed by {_name(page.compression)}"
    if (page.samplesperpixel, page.bitspersample, page.planarconfig, page.imagedepth) != (3, 8, 1, 1):
        return f"its tiles have {page.samplesperpixel} samples of {page.bitspersample} bits"
    if page.photometric not in (_RGB, _YCBCR):
        return f"its colours are {_name(page.photometric)}"
    n_columns, n_rows = -(-page.imagewidth // page.tilewidth), -(-page.imagelength // page.tilelength)
    offsets, counts = np.asarray(page.dataoffsets, np.int64), np.asarray(page.databytecounts, np.int64)
    if not len(offsets) == len(counts) == n_columns * n_rows:
        return f"it lists {len(offsets)} tiles, not {n_columns} x {n_rows}"
    # The tables are a JPEG without a picture: SOI, tables, EOI.
    tables = bytes(page.jpegtables or b"").removeprefix(_SOI).removesuffix(_EOI)
    return StoredLevel(
        path=path,
        width=page.imagewidth,
        height=page.imagelength,
        tile_width=page.tilewidth,
        tile_height=page.tilelength,
        n_columns=n_columns,
        n_rows=n_rows,
        colours="RGB" if page.photometric == _RGB else "YCBCR",
        tables=tables,
        offsets=offsets,
        counts=counts,
    )


def _name(value: int) -> str:
    """Return the name of a value of a tag, or its number."""
    return str(getattr(value, "name", int(value)))
