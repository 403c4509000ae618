"""Tiny pyramidal slides for tests: ``from tests.slides import write_slide``.

OpenSlide opens them as generic TIFF or as Aperio. The bytes of a file depend on the arguments alone.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

__all__ = ["synthetic_image", "write_slide"]

CENTIMETRE_UM = 10_000


def synthetic_image(seed: int, size: tuple[int, int] = (640, 480)) -> NDArray[np.uint8]:
    """Return smooth blobs of two stains on white, (height, width, 3) RGB; `size` is (width, height)."""
    width, height = size
    rng = np.random.default_rng(seed)
    coarse = rng.random((height // 32 + 2, width // 32 + 2, 2)).astype(np.float32)
    stain = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    haematoxylin, eosin = np.array([150, 160, 70]), np.array([20, 140, 60])
    absorbed = stain[..., :1] * haematoxylin + stain[..., 1:] * eosin
    image: NDArray[np.uint8] = (255 - absorbed + rng.normal(0, 3, absorbed.shape)).clip(0, 255).astype(np.uint8)
    return image


def write_slide(
    path: str | PathLike[str],
    image: NDArray[np.uint8] | int = 0,
    *,
    size: tuple[int, int] = (640, 480),
    mpp: float | None = 0.5,
    mpp_y: float | None = None,
    levels: int = 2,
    tile: int = 64,
    vendor: Literal["generic", "aperio"] = "generic",
    objective_power: float | None = None,
    compression: Literal["jpeg", "deflate"] | None = "jpeg",
    quality: int = 90,
    bigtiff: bool = False,
    fields: dict[str, str] | None = None,
) -> Path:
    """Write a tiled pyramid that OpenSlide opens, and return its path.

    Parameters
    ----------
    path : path-like
        File to write; ``.tif`` or ``.tiff`` for generic, ``.svs`` for Aperio is usual.
    image : (height, width, 3) uint8 RGB, or int
        Level 0, or the seed of a `synthetic_image`.
    size : (int, int)
        Width and height of a synthetic image, pixels.
    mpp, mpp_y : float, optional
        Microns per pixel along x and y, in the resolution tags or in Aperio's header; ``mpp=None`` leaves
        them out, ``mpp_y=None`` takes `mpp`. Aperio's header has room for one number, so only generic
        slides heed `mpp_y`.
    levels : int
        Levels, each half of the one before, averaged over 2 × 2 pixels.
    tile : int
        Side of the stored tiles, pixels; a multiple of 16.
    objective_power : float, optional
        Aperio's ``AppMag``; generic slides have no room for it.
    compression : "jpeg", "deflate" or None
        JPEG of `quality` (4:2:0) as scanners write, or lossless, for exact pixels.
    fields : dict, optional
        Further fields of Aperio's header, such as ``{"MPP": "abc"}``.
    """
    path = Path(path)
    level = synthetic_image(image, size) if isinstance(image, int) else image
    fields = {
        **({} if objective_power is None else {"AppMag": f"{objective_power:g}"}),
        **({} if mpp is None else {"MPP": f"{mpp:g}"}),
        **(fields or {}),
    }
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as writer:
        for number in range(levels):
            height, width = level.shape[:2]
            description = None
            if vendor == "aperio":
                description = f"Aperio Image Library v12.0.0\n{width}x{height} ({tile}x{tile}) JPEG/YCC Q={quality}"
                description += "".join(f"|{name} = {value}" for name, value in fields.items())
            resolution = None
            if vendor == "generic" and mpp is not None:
                resolution = (CENTIMETRE_UM / mpp, CENTIMETRE_UM / (mpp if mpp_y is None else mpp_y))
            writer.write(
                level,
                tile=(tile, tile),
                photometric="rgb",
                compression=compression,
                # A new one each time: tifffile writes into it.
                compressionargs={"level": quality} if compression == "jpeg" else None,
                description=description,
                resolution=resolution,
                resolutionunit=None if resolution is None else "CENTIMETER",
                # OpenSlide takes a page as a level of a generic TIFF only if it is marked as reduced.
                subfiletype=1 if number and vendor == "generic" else 0,
                metadata=None,
            )
            level = cv2.resize(level, (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)
    return path
