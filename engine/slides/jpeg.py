"""JPEG as betons hold it: encoded without chroma subsampling, decoded to the pixels that FFCV gives.

FFCV 1.0.2 decodes with libjpeg-turbo's fast DCT, whose pixels differ from those of the exact DCT (the
default of every other library) in about half of all samples, by up to 24 of 255 levels on stained
tissue. What a model sees outside of FFCV has to go through the same arithmetic.
"""

from __future__ import annotations

import zlib
from functools import cache
from io import BytesIO

import imagecodecs
import numpy as np
import numpy.typing as npt
import PIL
from PIL import JpegImagePlugin

from slideduck.errors import BetonError

__all__ = ["decode_jpeg", "encode_jpeg", "jpeg_frame"]

#: What `_check_decoder` must find: the CRC-32 of its test picture under the fast DCT.
_FAST_DCT_CRC = 1413938180

#: JPEG markers that start a frame: SOF0 to SOF15, less DHT, JPG and DAC.
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def encode_jpeg(rgb: npt.NDArray[np.uint8], quality: int) -> bytes:
    """Return the JPEG of a tile.

    Parameters
    ----------
    rgb : ndarray of uint8, shape (height, width, 3)
        The tile.
    quality : int
        libjpeg's quality, 1 to 100.

    Returns
    -------
    bytes
        Baseline JPEG, YCbCr, 4:4:4. Stains differ in colour, which 4:2:0 loses at any quality: on 256 px
        tiles of two H&E slides (Aperio, one JPEG and one JPEG 2000) 4:4:4 at quality 90 had 40.8 and
        39.1 dB PSNR in 18.9 and 23.0 kB, 4:2:0 at quality 95 33.2 and 37.8 dB in 17.1 and 25.0 kB.
    """
    return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(rgb), level=quality, subsampling="444"))


def decode_jpeg(data: bytes) -> npt.NDArray[np.uint8]:
    """Return the pixels that FFCV's decoder gives for a JPEG of a beton.

    Parameters
    ----------
    data : bytes
        A JPEG of three components without chroma subsampling, such as `encode_jpeg` makes.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)
        RGB.

    Raises
    ------
    BetonError
        If it is no such JPEG, or is damaged.
    """
    _check_decoder()
    return _decode(data)


def _decode(data: bytes) -> npt.NDArray[np.uint8]:
    try:
        image = JpegImagePlugin.JpegImageFile(BytesIO(data))
        if [layer[1:3] for layer in image.layer] != [(1, 1)] * 3:
            raise BetonError(
                "a JPEG with subsampled chroma or without colour cannot be decoded to FFCV's pixels; "
                "give one that slideduck encoded"
            )
        # Scale 1, and libjpeg's fast DCT, which Pillow otherwise uses for drafts alone. It also turns
        # off smooth chroma upsampling, which 4:4:4 has no use for.
        image.decoderconfig = (1, 1)
        return np.array(image)
    except (OSError, SyntaxError) as error:
        raise BetonError(f"a JPEG of {len(data):,} bytes cannot be decoded: {error}; export it again") from error


@cache
def _check_decoder() -> None:
    """Make sure, once, that the installed Pillow does what `_decode` asks of it."""
    picture = (np.arange(3 * 32 * 32, dtype=np.uint32) * 2654435761 >> 24).astype(np.uint8).reshape(32, 32, 3)
    if zlib.crc32(_decode(encode_jpeg(picture, 90)).tobytes()) != _FAST_DCT_CRC:
        raise BetonError(
            f"Pillow {PIL.__version__} does not decode JPEG as FFCV does (libjpeg-turbo's fast DCT): a model "
            "would see other pixels than it was trained on; install Pillow from its wheel: "
            "pip install --force-reinstall pillow"
        )


def jpeg_frame(data: bytes) -> tuple[int, int, int]:
    """Find the frame header of a JPEG.

    Parameters
    ----------
    data : bytes
        The JPEG, or as much of its beginning as holds its headers.

    Returns
    -------
    offset : int
        Where the marker of the frame header is; the height follows 5 bytes after it, then the width,
        each of two bytes, the higher first.
    width, height : int
        Pixels.

    Raises
    ------
    ValueError
        If there is none.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError("does not begin as a JPEG")
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in _FRAME_MARKERS:
            height, width = (int.from_bytes(data[at + i : at + i + 2], "big") for i in (5, 7))
            return at, width, height
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise ValueError("has no frame header")
