"""The loops of stain normalisation, compiled, so that threads run them side by side.

They use whole numbers, or additions and multiplications in a fixed order, and tables: the same tables give the same
pixels on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["reinhard_pixels", "mixed_pixels"]

F = TypeVar("F", bound=Callable[..., Any])


_PIXELS = numba.uint8[:, ::1]
#: Takes arrays that may be written, too.
_READ = numba.types.Array(numba.uint8, 2, "C", readonly=True)


def _compiled(*arguments: Any) -> Callable[[F], F]:
    """Compile a function without Python's lock, and keep the machine code where a folder can be written."""

    def decorate(function: F) -> F:
        try:
            compiled: F = numba.njit(numba.void(*arguments), nogil=True, cache=True)(function)
        except RuntimeError:
            # Neither the package's folder nor a cache of the user's own can be written.
            compiled = numba.njit(numba.void(*arguments), nogil=True)(function)
        return compiled

    return decorate


@_compiled(_READ, numba.int32[:, :, ::1], numba.uint8[::1], _PIXELS)
def mixed_pixels(
    rgb: npt.NDArray[np.uint8],
    shares: npt.NDArray[np.int32],
    grey: npt.NDArray[np.uint8],
    out: npt.NDArray[np.uint8],
) -> None:
    """Give each channel the grey level of a sum of what the three channels share in its optical density.

    Parameters
    ----------
    rgb, out : ndarray of uint8, shape (pixels, 3)
        What is read, and what is written.
    shares : ndarray of int32, shape (3, 256, 3)
        By channel and value of the pixel read: the shares in the three channels of the pixel written.
    grey : ndarray of uint8
        Grey levels by sum; sums outside are the first or the last.
    """
    last = len(grey) - 1
    for i in range(len(rgb)):
        red, green, blue = rgb[i, 0], rgb[i, 1], rgb[i, 2]
        for channel in range(3):
            total = shares[0, red, channel] + shares[1, green, channel] + shares[2, blue, channel]
            out[i, channel] = grey[min(max(total, 0), last)]


#: Pixels that are in memory at once: enough for the processor, and few enough for its nearest cache.
_CHUNK = 512

_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)


@numba.njit(inline="always")
def _between(table: npt.NDArray[np.float32], at: np.float32) -> np.float32:
    """Return the value of a table between two of its entries, interpolated."""
    entry = np.uint32(at)
    low: np.float32 = table[entry]
    between: np.float32 = low + (table[entry + np.uint32(1)] - low) * (at - np.float32(entry))
    return between


@numba.njit(inline="always")
def _cubed(f: np.float32) -> np.float32:
    """Return t from CIE's f(t)."""
    cube, line = f * f * f, (f - np.float32(16 / 116)) * np.float32(1 / 7.787)
    return cube if f > np.float32(0.2068966) else line


@_compiled(
    _READ, numba.float32[:, :, ::1], numba.float32[::1], numba.float32[::1], numba.float32[:, ::1], numba.uint8[::1],
    _PIXELS,
)  # fmt: skip
def reinhard_pixels(
    rgb: npt.NDArray[np.uint8],
    xyz: npt.NDArray[np.float32],
    root: npt.NDArray[np.float32],
    move: npt.NDArray[np.float32],
    rgb_from_xyz: npt.NDArray[np.float32],
    grey: npt.NDArray[np.uint8],
    out: npt.NDArray[np.uint8],
) -> None:
    """Scale and shift L*, a* and b* of pixels, the less the paler they are.

    Parameters
    ----------
    rgb, out : ndarray of uint8, shape (pixels, 3)
        What is read, and what is written.
    xyz : ndarray of float32, shape (3, 256, 3)
        By channel and value: its shares in X, Y and Z, parts of white.
    root : ndarray of float32
        CIE's f(t) at equal steps of t from 0 to 1, and one step more.
    move : ndarray of float32, shape (8,)
        Factors of L*, a* and b*, what is added to them, and L* of the palest pixels that are changed wholly, and of
        the darkest that are not changed.
    rgb_from_xyz : ndarray of float32, shape (3, 3)
        Linear red, green and blue from X, Y and Z, parts of white.
    grey : ndarray of uint8
        Grey levels at equal steps of linear light from 0 to 1.
    """
    steps, last = np.float32(len(root) - 2), np.float32(len(grey) - 1)
    whole, none = move[6], move[7]
    slope = _ONE / (none - whole)
    most = np.int32(len(grey) - 1)
    x, y, z = np.empty(_CHUNK, np.float32), np.empty(_CHUNK, np.float32), np.empty(_CHUNK, np.float32)
    for first in range(0, len(rgb), _CHUNK):
        count = min(_CHUNK, len(rgb) - first)
        for i in range(count):
            red, green, blue = rgb[first + i, 0], rgb[first + i, 1], rgb[first + i, 2]
            x[i] = _between(root, (xyz[0, red, 0] + xyz[1, green, 0] + xyz[2, blue, 0]) * steps)
            y[i] = _between(root, (xyz[0, red, 1] + xyz[1, green, 1] + xyz[2, blue, 1]) * steps)
            z[i] = _between(root, (xyz[0, red, 2] + xyz[1, green, 2] + xyz[2, blue, 2]) * steps)
        # Arithmetic alone, of which a processor does many pixels at once.
        for i in range(count):
            light = np.float32(116) * y[i] - np.float32(16)
            a = np.float32(500) * (x[i] - y[i])
            b = np.float32(200) * (y[i] - z[i])
            weight = (none - light) * slope
            weight = weight if weight > _ZERO else _ZERO
            weight = weight if weight < _ONE else _ONE
            light += weight * (light * move[0] + move[3] - light)
            a += weight * (a * move[1] + move[4] - a)
            b += weight * (b * move[2] + move[5] - b)
            fy = (light + np.float32(16)) * np.float32(1 / 116)
            fx = fy + a * np.float32(1 / 500)
            fz = fy - b * np.float32(1 / 200)
            cx, cy, cz = _cubed(fx), _cubed(fy), _cubed(fz)
            x[i] = (rgb_from_xyz[0, 0] * cx + rgb_from_xyz[0, 1] * cy + rgb_from_xyz[0, 2] * cz) * last + _HALF
            y[i] = (rgb_from_xyz[1, 0] * cx + rgb_from_xyz[1, 1] * cy + rgb_from_xyz[1, 2] * cz) * last + _HALF
            z[i] = (rgb_from_xyz[2, 0] * cx + rgb_from_xyz[2, 1] * cy + rgb_from_xyz[2, 2] * cz) * last + _HALF
        for i in range(count):
            out[first + i, 0] = grey[min(max(np.int32(x[i]), np.int32(0)), most)]
            out[first + i, 1] = grey[min(max(np.int32(y[i]), np.int32(0)), most)]
            out[first + i, 2] = grey[min(max(np.int32(z[i]), np.int32(0)), most)]
