"""The measures of the pixels of tiles, each with its definition and source; no input or output.

All arrays are (height, width) and images (height, width, 3) uint8 RGB.
"""

from __future__ import annotations

import json
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

__all__ = [
    "MEASURES",
    "PIXEL_MEASURES",
    "TISSUE_UM_PER_PX",
    "box_sums",
    "is_pen",
    "laplacian_variance",
    "pixel_values",
    "settings",
    "tissue_mask",
]

RGB = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.uint8] | npt.NDArray[np.float32]

#: Names of the measures, which are columns of the view ``labels``, in their order.
MEASURES = ("brightness", "saturation", "white_fraction", "grey_fraction", "blur", "tissue", "pen")

#: Those that are averages over pixels, so that a low level serves.
PIXEL_MEASURES = ("brightness", "saturation", "white_fraction", "grey_fraction", "pen")

#: Slideflow 3.0.2's defaults, ``whitespace_threshold`` and ``grayspace_threshold``.
WHITE_ABOVE = 230
GREY_BELOW = 0.05

#: Resolution at which tissue is found, microns per pixel: 1.25x, at which HistoQC works too.
TISSUE_UM_PER_PX = 8.0
#: Side of the median filter that goes before the threshold, pixels, as in Slideflow's ``qc.Otsu``.
_MEDIAN_PX = 7

#: Inks: a pixel is of the ink if any of its rows holds. Red: red above, green and blue below.
_RED_INK = (
    (150, 80, 90), (110, 20, 30), (185, 65, 105), (195, 85, 125), (220, 115, 145), (125, 40, 70), (200, 120, 150),
    (100, 50, 65), (85, 25, 45),
)  # fmt: skip
#: Green: red below, green and blue above.
_GREEN_INK = (
    (150, 160, 140), (70, 110, 110), (45, 115, 100), (30, 75, 60), (195, 220, 210), (225, 230, 225), (170, 210, 200),
    (20, 30, 20), (50, 60, 40), (30, 50, 35), (65, 70, 60), (100, 110, 105), (165, 180, 180), (140, 140, 150),
    (185, 195, 195),
)  # fmt: skip
#: Blue: red and green below, blue above.
_BLUE_INK = (
    (60, 120, 190), (120, 170, 200), (175, 210, 230), (145, 180, 210), (37, 95, 160), (30, 65, 130), (130, 155, 180),
    (40, 35, 85), (30, 20, 65), (90, 90, 140), (60, 60, 120), (110, 110, 175),
)  # fmt: skip
#: Black: all below the first number, and within the second of each other.
_BLACK_INK = (100, 15)


def settings(measure: str) -> str:
    """Return the definition of a measure as text, which differs if the numbers would."""
    own: dict[str, object] = {
        "white_fraction": {"above": WHITE_ABOVE},
        "grey_fraction": {"below": GREY_BELOW},
        "tissue": {"um_per_px": TISSUE_UM_PER_PX, "median_px": _MEDIAN_PX},
        "pen": {"red": _RED_INK, "green": _GREEN_INK, "blue": _BLUE_INK, "black": _BLACK_INK},
    }
    return json.dumps({"definition": 1, "constants": own.get(measure)}, separators=(",", ":"))


def pixel_values(rgb: RGB, measure: str) -> Plane:
    """Return the measure of each pixel; that of a tile is the mean.

    Parameters
    ----------
    rgb : ndarray of uint8, shape (height, width, 3)
        The pixels.
    measure : str
        One of `PIXEL_MEASURES`.

    Returns
    -------
    ndarray of uint8 or float32, shape (height, width)
        0 or 1 for fractions, else the number.

    Notes
    -----
    ``brightness`` is the mean of red, green and blue times 3 (whole numbers, 0 to 765); ``saturation`` is HSV's,
    0 to 1.

    ``white_fraction`` and ``grey_fraction`` are those of Slideflow 3.0.2 (``slideflow/slide/backends/cucim.py``,
    ``tile_worker``), with its defaults: ``mean(mean(rgb, axis=-1) > whitespace_threshold)`` with 230, and
    ``mean(rgb2hsv(rgb)[:, :, 1] < grayspace_threshold)`` with 0.05, where ``rgb2hsv`` is scikit-image's and has
    rounding errors of its own, which are repeated here. It discards a tile whose fractions are *above*
    ``whitespace_fraction`` (1.0, so none) and ``grayspace_fraction`` (0.6). Its backend for libvips compares
    whole numbers from 0 to 255, which turns the two thresholds into 230.5 and 0.051.

    ``pen`` is described at `is_pen`.
    """
    match measure:
        case "brightness":
            return _sum(rgb).astype(np.float32)
        case "white_fraction":
            return (_sum(rgb) > 3 * WHITE_ABOVE).view(np.uint8)
        case "saturation":
            return _saturation_table()[0][_extremes(rgb)]
        case "grey_fraction":
            return _saturation_table()[1][_extremes(rgb)]
        case "pen":
            return is_pen(rgb)
    raise ValueError(f"{measure!r} is not one of {', '.join(PIXEL_MEASURES)}")


def _sum(rgb: RGB) -> npt.NDArray[np.uint16]:
    red, green, blue = cv2.split(rgb)
    total = np.add(red, green, dtype=np.uint16)
    return np.asarray(np.add(total, blue, out=total))


def _extremes(rgb: RGB) -> npt.NDArray[np.uint16]:
    """Return 256 times the largest channel plus the smallest."""
    red, green, blue = cv2.split(rgb)
    high, low = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
    return np.asarray(np.left_shift(high, 8, dtype=np.uint16) | low)


@cache
def _saturation_table() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Return saturation, and whether it is grey, by 256 times the largest channel plus the smallest."""
    # scikit-image multiplies by 1 / 255 first, so that 0.05 of 20 against 19 is not quite 0.05.
    value = np.arange(256) * (1.0 / 255)
    high, low = value[:, None], value[None, :]
    with np.errstate(invalid="ignore", divide="ignore"):
        table = np.where(high > low, (high - low) / high, 0.0)
    return table.astype(np.float32).ravel(), (table < GREY_BELOW).astype(np.uint8).ravel()


def is_pen(rgb: RGB) -> npt.NDArray[np.uint8]:
    """Return 1 where a pixel has a colour of red, green, blue or black ink.

    Parameters
    ----------
    rgb : ndarray of uint8, shape (height, width, 3)
        The pixels.

    Returns
    -------
    ndarray of uint8, shape (height, width)
        0 or 1.

    Notes
    -----
    The thresholds of the three colours are those of ``filter_red_pen``, ``filter_green_pen`` and
    ``filter_blue_pen`` of deep-histopath (D. Eriksson and F. Hu, Whole-Slide Image Preprocessing in Python, IBM
    CODAIT, 2018, ``deephistopath/wsi/filter.py``, Apache-2.0), found on H&E slides of TUPAC16. Black is below 100
    in each channel (the default of ``blackish_percent`` of wsi-tile-cleanup 0.1) and grey by the tolerance of 15 of
    deep-histopath's ``filter_grays``: without it crowded nuclei are black. A colour is all that they see: blood
    counts as red ink, so that a threshold on ``pen`` is to be tried on one's own slides.
    """
    red, green, blue = cv2.split(rgb)
    place = np.left_shift(red, 16, dtype=np.int32)
    place |= np.left_shift(green, 8, dtype=np.int32)
    place |= blue
    return np.asarray(np.take(_ink_table(), place), dtype=np.uint8)


@cache
def _ink_table() -> npt.NDArray[np.uint8]:
    """Return whether a colour is of ink, by its number RRGGBB."""
    ink = np.zeros((256, 256, 256), np.uint8)
    for red, green, blue in _RED_INK:
        ink[red + 1 :, :green, :blue] = 1
    for red, green, blue in _GREEN_INK:
        ink[:red, green + 1 :, blue + 1 :] = 1
    for red, green, blue in _BLUE_INK:
        ink[:red, :green, blue + 1 :] = 1
    below, within = _BLACK_INK
    dark = np.indices((below, below, below), np.int16)
    ink[:below, :below, :below] |= np.ptp(dark, axis=0) <= within
    return ink.ravel()


def laplacian_variance(rgb: RGB) -> float:
    """Return the variance of the Laplacian of the grey image: small where a tile is blurred, or empty.

    Parameters
    ----------
    rgb : ndarray of uint8, shape (height, width, 3)
        The tile as the model sees it.

    Returns
    -------
    float
        Square grey levels.

    Notes
    -----
    J. L. Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy: a comparative study, ICPR 2000:
    the 3 × 3 Laplacian of Rec. 601 luma, mirrored at the edges, as ``cv2.Laplacian(grey, cv2.CV_64F).var()``.
    """
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def tissue_mask(rgb: RGB) -> npt.NDArray[np.uint8]:
    """Return 1 where the picture of a whole slide shows tissue.

    Parameters
    ----------
    rgb : ndarray of uint8, shape (height, width, 3)
        The picture, of `TISSUE_UM_PER_PX` microns per pixel.

    Returns
    -------
    ndarray of uint8, shape (height, width)
        0 or 1; 1 nowhere on a picture without colour.

    Notes
    -----
    HSV saturation, a median filter of 7 × 7 pixels, and the threshold of N. Otsu, A threshold selection method
    from gray-level histograms, IEEE Trans. Syst. Man Cybern. 9 (1979) 62–66, as Slideflow 3.0.2's ``qc.Otsu``. Otsu's
    threshold cuts any slide in two: ink counts as tissue, and on a slide with much ink it may be all that does.
    """
    saturation = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)[:, :, 1]
    smooth = cv2.medianBlur(np.ascontiguousarray(saturation), _MEDIAN_PX)
    _, mask = cv2.threshold(smooth, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return np.asarray(mask, dtype=np.uint8)


def box_sums(
    plane: Plane,
    left: npt.NDArray[np.float64],
    right: npt.NDArray[np.float64],
    top: npt.NDArray[np.float64],
    bottom: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Return the sum of pixels over each box of a grid, each pixel by the part of it that the box covers.

    Parameters
    ----------
    plane : ndarray of uint8 or float32, shape (height, width)
        The pixels.
    left, right : ndarray of float64, shape (columns,)
        Edges of the columns, pixels; what lies outside the plane counts nothing.
    top, bottom : ndarray of float64, shape (rows,)
        Edges of the rows.

    Returns
    -------
    ndarray of float64, shape (rows, columns)
        The sums.
    """
    # Between whole pixels the integral of an image is linear along each side, so that this is exact.
    integral = cv2.integral(plane, sdepth=cv2.CV_64F)
    across = _interpolated(integral, bottom) - _interpolated(integral, top)
    sums: npt.NDArray[np.float64] = (_interpolated(across.T, right) - _interpolated(across.T, left)).T
    return sums


def _interpolated(table: npt.NDArray[np.float64], at: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return rows of a table between its rows; shape (places, width)."""
    at = at.clip(0, len(table) - 1)
    low = np.minimum(at.astype(np.int64), len(table) - 2)
    part = (at - low)[:, None]
    return np.asarray(table[low] * (1 - part) + table[low + 1] * part)
