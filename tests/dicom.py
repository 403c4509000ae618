"""Tiny whole-slide images in DICOM for tests: ``from tests.dicom import write_dicom``.

An instance is a level: explicit VR, little-endian, tiles as native pixels in the order of rows (PS3.3, A.32.8).
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["write_dicom"]

_VL_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
#: Value representations whose length has four bytes.
_LONG = ("OB", "OW", "SQ", "UT")


def _element(group: int, number: int, vr: str, value: bytes | str | int) -> bytes:
    """Return one element: text is padded to an even length, whole numbers are of two or four bytes."""
    if isinstance(value, int):
        value = struct.pack("<I" if vr == "UL" else "<H", value)
    if isinstance(value, str):
        value = value.encode()
        value += (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
    head = struct.pack("<HH", group, number) + vr.encode()
    return head + (struct.pack("<HI", 0, len(value)) if vr in _LONG else struct.pack("<H", len(value))) + value


def _sequence(group: int, number: int, item: bytes) -> bytes:
    """Return a sequence of one item."""
    return _element(group, number, "SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item)


def write_dicom(
    path: Path,
    image: NDArray[np.uint8],
    *,
    series: str,
    instance: str,
    mpp: float = 0.5,
    tile: int = 64,
    kind: str = "VOLUME",
) -> Path:
    """Write one instance of a whole-slide image.

    Parameters
    ----------
    path : Path
        The file.
    image : (height, width, 3) uint8 RGB
        The level; its sides are multiples of `tile`.
    series, instance : str
        SeriesInstanceUID and SOPInstanceUID.
    kind : {"VOLUME", "LABEL", "OVERVIEW"}
        The third value of ImageType.
    """
    height, width = image.shape[:2]
    tiles = image.reshape(height // tile, tile, width // tile, tile, 3).swapaxes(1, 2)
    meta = (
        _element(2, 1, "OB", b"\0\1")
        + _element(2, 2, "UI", _VL_WHOLE_SLIDE)
        + _element(2, 3, "UI", instance)
        + _element(2, 0x10, "UI", _EXPLICIT_LITTLE_ENDIAN)
        + _element(2, 0x12, "UI", "1.2.3.4")
    )
    spacing = _element(0x28, 0x30, "DS", f"{mpp / 1000:.8g}\\{mpp / 1000:.8g}")
    body = (
        _element(8, 8, "CS", f"ORIGINAL\\PRIMARY\\{kind}\\NONE")
        + _element(8, 0x16, "UI", _VL_WHOLE_SLIDE)
        + _element(8, 0x18, "UI", instance)
        + _element(8, 0x60, "CS", "SM")
        + _element(0x20, 0xD, "UI", f"{series}.1")
        + _element(0x20, 0xE, "UI", series)
        + _element(0x20, 0x9311, "CS", "TILED_FULL")
        + _element(0x28, 2, "US", 3)
        + _element(0x28, 4, "CS", "RGB")
        + _element(0x28, 6, "US", 0)
        + _element(0x28, 8, "IS", str(tiles.shape[0] * tiles.shape[1]))
        + _element(0x28, 0x10, "US", tile)
        + _element(0x28, 0x11, "US", tile)
        + _element(0x28, 0x100, "US", 8)
        + _element(0x28, 0x101, "US", 8)
        + _element(0x28, 0x102, "US", 7)
        + _element(0x28, 0x103, "US", 0)
        + _element(0x48, 6, "UL", width)
        + _element(0x48, 7, "UL", height)
        + _element(0x48, 0x303, "UL", 1)
        + _sequence(0x5200, 0x9229, _sequence(0x28, 0x9110, spacing))
        + _element(0x7FE0, 0x10, "OB", tiles.tobytes())
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(128) + b"DICM" + _element(2, 0, "UL", len(meta)) + meta + body)
    return path
