"""Decodes JPEGs as FFCV's loader does, for tiles that come straight from slides."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from slideduck.errors import BetonError
from slideduck.runner.tiles.ffcv_parts import imdecode

__all__ = ["decode_as_loader"]


def decode_as_loader(data: bytes, tile_px: int) -> npt.NDArray[np.uint8]:
    """Return the pixels that FFCV's loader gives for a JPEG, whatever its chroma subsampling.

    Parameters
    ----------
    data : bytes
        The JPEG of a tile.
    tile_px : int
        Side of the tile, pixels.

    Returns
    -------
    ndarray of uint8, shape (tile_px, tile_px, 3)
        RGB.

    Raises
    ------
    BetonError
        If it cannot be decoded.
    """
    pixels = np.zeros((tile_px, tile_px, 3), np.uint8)
    if imdecode(np.frombuffer(data, np.uint8), pixels, tile_px, tile_px, tile_px, tile_px, 0, 0, 1, 1, False, False):
        raise BetonError(f"a JPEG of {len(data):,} bytes cannot be decoded; get the slide that it is stored in again")
    return pixels
