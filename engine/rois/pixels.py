"""Reads the pixels of label masks, PNG and TIFF, as the numbers that the file holds, a band of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import PngImagePlugin
from PIL.Image import Image

from slideduck.errors import InputError
from slideduck.files.find import reason
from slideduck.limit import beyond

__all__ = ["MaskImage", "open_mask"]

Pixels = NDArray[Any]

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_JPEG = b"\xff\xd8\xff"

#: PNG (third edition, 11.2.1): what Pillow makes of a grey value of so many bits, by which it can be divided again.
_GREY_SCALES = {1: 255, 2: 85, 4: 17}
_PNG_PALETTE = 3
_PNG_GREY = 0

#: Ways to store a TIFF that keep each value as it was.
_LOSSLESS = (
    "NONE", "CCITTRLE", "CCITTFAX3", "CCITTFAX4", "LZW", "ADOBE_DEFLATE", "DEFLATE", "PACKBITS", "LZMA", "ZSTD",
)  # fmt: skip

#: Pixels of an image that is whole in memory that are handed on at a time.
_BAND_PIXELS = 2**22

_LOSSY = "whose compression changes values where labels meet; write the mask as PNG, or as TIFF with LZW or deflate"


@dataclass(frozen=True)
class MaskImage:
    """A mask that can be read.

    Attributes
    ----------
    path : Path
        Its file.
    width, height : int
        Its size in pixels; of a pyramid, that of its first level.
    bands : callable
        Called without arguments, yields (rows, width) or (rows, width, channels) arrays from top to bottom: numbers
        of one channel, RGB, or RGBA.
    """

    path: Path
    width: int
    height: int
    bands: Callable[[], Iterator[Pixels]]


def open_mask(path: Path, *, colours: bool = False) -> MaskImage:
    """Read the header of a mask.

    Parameters
    ----------
    path : Path
        PNG, TIFF or BigTIFF, told by its content. A PNG is whole in memory once its bands are read, a TIFF only by
        the rows of its tiles or strips.
    colours : bool, default False
        Read the colours of a palette, in place of the numbers that stand for them.

    Raises
    ------
    InputError
        If it is no image, or one that does not keep numbers as they are.
    """
    try:
        with path.open("rb") as file:
            head = file.read(26)
        if head.startswith(_PNG):
            return _open_png(path, bit_depth=head[24], colour_type=head[25], colours=colours)
        if head.startswith(_TIFF):
            return _open_tiff(path, colours=colours)
    except OSError as error:
        raise InputError([f"{path}: cannot be read: {reason(error)}"]) from error
    except InputError:
        raise
    except Exception as error:  # Pillow and tifffile raise whatever a damaged part leads them to
        raise _broken(path, error) from error
    if head.startswith(_JPEG):
        raise InputError([f"{path.name}: a JPEG, {_LOSSY}"])
    raise InputError([f"{path.name}: neither PNG nor TIFF; write the mask as one of them"])


def _broken(path: Path, error: Exception) -> InputError:
    return InputError([f"{path.name}: a broken image: {str(error) or type(error).__name__}; write it again"])


def _open_png(path: Path, *, bit_depth: int, colour_type: int, colours: bool) -> MaskImage:
    if bit_depth == 16 and colour_type != _PNG_GREY:
        raise InputError([f"{path.name}: a PNG of 16 bits a colour; write it with 8, or as one channel of 16"])
    # Pillow's own way to open a file would refuse an image of 180 million pixels as an attack.
    with path.open("rb") as file:
        width, height = PngImagePlugin.PngImageFile(file).size
    if not width or not height:
        raise ValueError(f"{width} x {height} pixels")
    if problem := beyond("pixels", width * height):
        raise InputError([f"{path.name}: {problem}"])

    def bands() -> Iterator[Pixels]:
        try:
            with path.open("rb") as file:
                image: Image = PngImagePlugin.PngImageFile(file)
                if colour_type == _PNG_PALETTE and colours:
                    image = image.convert("RGBA")
                image.load()
        except Exception as error:  # see open_mask
            raise _broken(path, error) from error
        rows = max(1, _BAND_PIXELS // width)
        for top in range(0, height, rows):
            # Of all at once there would be a second copy.
            band = np.asarray(image.crop((0, top, width, min(top + rows, height))))
            if colour_type == _PNG_GREY and bit_depth in _GREY_SCALES and band.dtype != bool:
                band = band // _GREY_SCALES[bit_depth]
            yield band[..., 0] if image.mode == "LA" else band

    return MaskImage(path, width, height, bands)


def _open_tiff(path: Path, *, colours: bool) -> MaskImage:
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        width, height = page.imagewidth, page.imagelength
        if not width or not height:
            raise ValueError(f"{width} x {height} pixels")
        part = page.tilewidth * page.tilelength if page.is_tiled else width * min(page.rowsperstrip, height)
        why = _why_no_mask(tiff, page) or beyond("pixels", max(part, width * page.tilelength)) or ""
    if why:
        raise InputError([f"{path.name}: {why}"])

    def bands() -> Iterator[Pixels]:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            try:
                for band in _tiff_bands(page):
                    if page.photometric == tifffile.PHOTOMETRIC.PALETTE and colours:
                        yield np.moveaxis((page.colormap >> 8).astype(np.uint8)[:, band], 0, 2)
                    else:
                        yield band
            except Exception as error:  # see open_mask; each decoder of imagecodecs has an error of its own
                raise _broken(path, error) from error

    return MaskImage(path, width, height, bands)


def _why_no_mask(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> str:
    """Say why the first page of a TIFF is no mask, or return an empty text."""
    compression = getattr(page.compression, "name", str(page.compression))
    if compression not in _LOSSLESS:
        return f"a TIFF with {compression}, {_LOSSY}"
    if page.imagedepth > 1 or len(tiff.series[0].levels[0].pages) > 1:
        n = max(page.imagedepth, len(tiff.series[0].levels[0].pages))
        return f"a TIFF of {n} images of one size; write the one that is the mask"
    if page.samplesperpixel not in (1, 3, 4) or (page.samplesperpixel > 1 and page.planarconfig != 1):
        return f"a TIFF of {page.samplesperpixel} channels in planes; write one channel, or RGB pixel by pixel"
    if page.samplesperpixel > 1 and page.dtype != np.uint8:
        return f"a TIFF of {page.bitspersample} bits a colour; write it with 8, or as one channel of 16 or 32"
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        return (
            "a TIFF in which 0 is white (MINISWHITE), where programs differ in what they call 0 and 1; "
            "write the mask as PNG, or with photometric='minisblack'"
        )
    orientation = page.tags.get("Orientation")
    if orientation is not None and orientation.value != 1:
        return "a TIFF that is turned or mirrored (its tag Orientation); write it upright"
    return ""


def _tiff_bands(page: tifffile.TiffPage) -> Iterator[Pixels]:
    """Yield the rows of a page, those of a row of tiles or of some strips at a time."""
    shape = (page.imagewidth,) if page.samplesperpixel == 1 else (page.imagewidth, page.samplesperpixel)
    tall = page.tilelength if page.is_tiled else page.rowsperstrip
    # Strips may be a single row.
    tall *= max(1, _BAND_PIXELS // (tall * page.imagewidth)) if not page.is_tiled else 1
    band, top = np.full((tall, *shape), page.nodata, page.dtype), 0
    for pixels, (_, _, y, x, _), _ in page.segments():
        if y >= top + tall:
            yield band
            band, top = np.full_like(band, page.nodata), top + tall
        # A tile that was never stored is None.
        if pixels is not None:
            part = band[y - top : y - top + pixels.shape[1], x : x + pixels.shape[2]]
            part[...] = pixels[0, : part.shape[0], : part.shape[1]].reshape(part.shape)
    yield band[: page.imagelength - top]
