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

__all__ = ["synthetic_image", "write_scn", "write_slide"]

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


def write_scn(
    path: str | PathLike[str],
    image: NDArray[np.uint8],
    *,
    at: tuple[int, int],
    glass: tuple[int, int],
    mpp: float = 0.5,
) -> Path:
    """Write a Leica SCN of which a part was scanned, and return its path.

    Parameters
    ----------
    path : path-like
        File to write.
    image : (height, width, 3) uint8 RGB
        What was scanned, level 0.
    at : (int, int)
        Its top left corner on the glass, level-0 pixels: ``openslide.bounds-x`` and ``-y``.
    glass : (int, int)
        Width and height of the whole, level-0 pixels.
    mpp : float
        Microns per pixel.
    """
    path = Path(path)
    height, width = image.shape[:2]

    def view(size: tuple[int, int], offset: tuple[int, int] = (0, 0)) -> str:
        x, y, across, down = (round(px * mpp * 1000) for px in (*offset, *size))
        return f'<view sizeX="{across}" sizeY="{down}" offsetX="{x}" offsetY="{y}" spacingZ="0"/>'

    def part(name: str, size: tuple[int, int], ifd: int, levels: int, power: float, seen: str) -> str:
        dimensions = "".join(
            f'<dimension sizeX="{size[0] >> r}" sizeY="{size[1] >> r}" r="{r}" ifd="{ifd + r}"/>' for r in range(levels)
        )
        return (
            f'<image name="{name}" uuid="urn:uuid:{name}"><creationDate>2020-01-01T00:00:00Z</creationDate>'
            f'<device model="m" version="1"/><pixels sizeX="{size[0]}" sizeY="{size[1]}">{dimensions}</pixels>{seen}'
            f"<scanSettings><objectiveSettings><objective>{power:g}</objective></objectiveSettings>"
            "<illuminationSettings><numericalAperture>0.4</numericalAperture>"
            "<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>"
        )

    macro = np.full((48, 64, 3), 200, np.uint8)
    xml = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="urn:uuid:1">'
        f'<collection name="c" uuid="urn:uuid:2" sizeX="{round(glass[0] * mpp * 1000)}" '
        f'sizeY="{round(glass[1] * mpp * 1000)}"><barcode>MQ==</barcode>'
        + part("macro", (64, 48), 2, 1, 0.6, view(glass))
        + part("scan", (width, height), 0, 2, 20, view((width, height), at))
        + "</collection></scn>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for number, level in enumerate((image, image[::2, ::2], macro)):
            writer.write(
                level,
                tile=(64, 64),
                photometric="rgb",
                compression="jpeg",
                description=None if number else xml,
                resolution=None if number == 2 else (CENTIMETRE_UM / mpp / 2**number,) * 2,
                resolutionunit=None if number == 2 else "CENTIMETER",
                metadata=None,
            )
    return path
