"""Paints images that look like tissue stained with haematoxylin and eosin, for the demo's generated slides.

Two maps say how much of each stain lies at each pixel; the colour follows from them by the law of Beer and
Lambert, as in a microscope. Lengths are base pixels at 0.5 microns per pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["TEXTURES", "Stain", "paint", "wavy_outline"]

#: What `paint` can fill a region with.
TEXTURES = ("tumour", "stroma", "necrosis", "fat")

FloatArray = npt.NDArray[np.float32]

# Optical density of red, green and blue for each stain, of length 1: A. C. Ruifrok and D. A. Johnston,
# Quantification of histochemical staining by color deconvolution, Anal Quant Cytol Histol 23 (2001).
_HAEMATOXYLIN = (0.60, 0.70, 0.38)
_EOSIN = (0.16, 0.86, 0.48)

# Soft masks are made on a coarser raster: they are smooth, and blurring the full one takes a second.
_COARSE = 4


@dataclass(frozen=True)
class Stain:
    """How one slide was stained and scanned.

    Parameters
    ----------
    haematoxylin, eosin : float
        Strength of each stain; 1 is usual.
    shift : tuple of float
        Added to the optical densities of red, green and blue of both stains.
    glass : tuple of int
        Colour of bare glass, red, green and blue, 0 to 255.
    """

    haematoxylin: float = 1.0
    eosin: float = 1.0
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    glass: tuple[int, int, int] = (244, 243, 245)


def wavy_outline(
    rng: np.random.Generator,
    centre: tuple[float, float],
    radius: tuple[float, float],
    *,
    points: int = 120,
    waviness: float = 0.08,
) -> npt.NDArray[np.float64]:
    """Return a closed outline as a hand would draw it round an ellipse.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where the waves come from.
    centre, radius : tuple of float
        Centre and half axes of the ellipse, x before y, base pixels.
    points : int
        Vertices; the first is not repeated at the end.
    waviness : float
        Standard deviation of the radius, as a part of it.

    Returns
    -------
    numpy.ndarray
        Shape (points, 2), x and y, base pixels. It goes round its centre once and never crosses itself.
    """
    angle = np.linspace(0.0, 2 * np.pi, points, endpoint=False)
    harmonic = np.arange(2, 9)
    amplitude = rng.normal(size=harmonic.size) / harmonic
    phase = rng.uniform(0, 2 * np.pi, harmonic.size)
    wave = (amplitude[:, None] * np.cos(harmonic[:, None] * angle + phase[:, None])).sum(axis=0)
    wave *= waviness / max(float(wave.std()), 1e-9)
    tremor = rng.normal(scale=0.004, size=points)
    # Never so deep that the outline would pass its centre.
    factor = np.clip(1 + wave + tremor, 0.6, 1.5)
    unit = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    outline: npt.NDArray[np.float64] = np.asarray(centre) + factor[:, None] * unit * np.asarray(radius)
    return outline


def paint(
    rng: np.random.Generator,
    width: int,
    height: int,
    tissue: npt.NDArray[np.float64],
    regions: Sequence[tuple[str, npt.NDArray[np.float64]]],
    stain: Stain,
) -> npt.NDArray[np.uint8]:
    """Return the picture of one slide.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where every cell and fibre comes from: the same state gives the same picture.
    width, height : int
        Size of the picture.
    tissue : numpy.ndarray
        Outline of the piece of tissue, shape (points, 2), base pixels. It is stroma throughout.
    regions : sequence of (str, numpy.ndarray)
        A texture of `TEXTURES` and an outline each; later ones are painted over earlier ones.
    stain : Stain
        How it was stained.

    Returns
    -------
    numpy.ndarray
        Shape (height, width, 3), RGB.
    """
    shape = (height, width)
    frame, inside = _soft_mask(rng, shape, tissue, softness=1.5)
    direction, haematoxylin, eosin = _stroma(rng, shape)

    # Number of the texture that a cell at a pixel belongs to: a border runs between cells, not through them.
    owner = np.full(shape, -1, np.int8)
    owner[frame][inside > 0.5] = TEXTURES.index("stroma")
    for texture, outline in regions:
        part, mask = _soft_mask(rng, shape, outline, softness=8.0)
        owner[part][mask > 0.5] = TEXTURES.index(texture)
        if texture != "stroma":
            fill_haematoxylin, fill_eosin = _FILLS[texture](rng, mask.shape)
            haematoxylin[part] += mask * (fill_haematoxylin - haematoxylin[part])
            eosin[part] += mask * (fill_eosin - eosin[part])

    tumour, stroma, necrosis = (owner == TEXTURES.index(name) for name in ("tumour", "stroma", "necrosis"))
    _stamp(rng, haematoxylin, tumour, _tumour_nuclei(rng), spacing=rng.uniform(23, 27), kept=0.93)
    _stamp(rng, haematoxylin, stroma, _spindle_nuclei(rng), spacing=58, kept=0.75, direction=direction)
    _stamp(rng, haematoxylin, stroma, _lymphocytes(rng), spacing=25, kept=0.9, clustered=True)
    _stamp(rng, haematoxylin, necrosis, _debris(rng), spacing=26, kept=0.6)

    on_glass = np.zeros(shape, np.float32)
    on_glass[frame] = inside
    haematoxylin *= on_glass * np.float32(stain.haematoxylin)
    eosin *= on_glass * np.float32(stain.eosin)
    return _colour(rng, haematoxylin, eosin, stain)


def _colour(
    rng: np.random.Generator, haematoxylin: FloatArray, eosin: FloatArray, stain: Stain
) -> npt.NDArray[np.uint8]:
    """Return the RGB picture of two maps of stain, blurred a little as by a lens."""
    picture = np.empty((*haematoxylin.shape, 3), np.uint8)
    grain = _noise(rng, haematoxylin.shape, 1.5)
    for channel in range(3):
        density = haematoxylin * np.float32(_HAEMATOXYLIN[channel] + stain.shift[channel])
        density += eosin * np.float32(_EOSIN[channel] + stain.shift[channel])
        light = cv2.exp(-density) * np.float32(stain.glass[channel]) + grain
        light = cv2.GaussianBlur(light, (0, 0), 0.7)
        picture[..., channel] = np.clip(np.rint(light), 0, 255)
    return picture


def _noise(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> FloatArray:
    """Return smooth noise of mean 0 and deviation near 1; its blobs are about `scale` pixels across."""
    height, width = shape
    small = (int(height / scale) + 4, int(width / scale) + 4)
    coarse = rng.standard_normal(small, dtype=np.float32)
    fine = cv2.resize(coarse, (int(small[1] * scale), int(small[0] * scale)), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(fine[:height, :width]) * np.float32(1.3)


def _soft_mask(
    rng: np.random.Generator, shape: tuple[int, int], outline: npt.NDArray[np.float64], *, softness: float
) -> tuple[tuple[slice, slice], FloatArray]:
    """Return 1 inside an outline and 0 outside, with a ragged border of about `softness` pixels.

    It comes with the part of the picture that it is for: rows and columns.
    """
    height, width = shape
    mask = np.zeros((height // _COARSE, width // _COARSE), np.uint8)
    cv2.fillPoly(mask, [np.rint(outline / _COARSE).astype(np.int32)], 1)
    blurred = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 3 + softness / _COARSE)
    x, y, columns, rows = cv2.boundingRect((blurred > 0.01).astype(np.uint8))
    blurred = blurred[y : y + rows, x : x + columns]
    raggedness = np.float32(0.015 * softness) * np.clip(4 * blurred * (1 - blurred), 0, 1)
    ragged = blurred + raggedness * _noise(rng, (rows, columns), 6)
    full = cv2.resize(ragged, (columns * _COARSE, rows * _COARSE), interpolation=cv2.INTER_LINEAR)
    sharp = (full - np.float32(0.5)) * np.float32(60 / (softness + 10)) + np.float32(0.5)
    part = (slice(y * _COARSE, (y + rows) * _COARSE), slice(x * _COARSE, (x + columns) * _COARSE))
    return part, np.clip(sharp, 0, 1, out=sharp)


def _stroma(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the direction of the fibres (radians), haematoxylin and eosin of collagen: wavy bundles."""
    height, width = shape
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)
    angle = float(rng.uniform(0, np.pi))
    bend = _noise(rng, shape, 420) * 70 + _noise(rng, shape, 90) * 7
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    across = y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle)) + bend
    grain = rng.standard_normal((1024, 1024), dtype=np.float32)
    weave = cv2.remap(0.5 * grain, along / 60, across / 5, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    weave += cv2.remap(0.8 * grain, along / 210, across / 21, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    eosin = np.clip(np.float32(0.62) + np.float32(0.17) * weave, 0.04, 1.1)
    # Clefts between bundles are nearly bare glass.
    eosin *= np.clip((weave + np.float32(1.35)) * np.float32(2.5), 0.12, 1)
    haematoxylin = np.float32(0.09) * eosin
    coarse = cv2.resize(across, (width // 8, height // 8), interpolation=cv2.INTER_AREA)
    # A fibre runs where `across` does not change.
    turn = np.arctan2(-cv2.Sobel(coarse, cv2.CV_32F, 1, 0), cv2.Sobel(coarse, cv2.CV_32F, 0, 1))
    direction = cv2.resize(turn, (width, height), interpolation=cv2.INTER_NEAREST)
    return direction, haematoxylin, eosin


def _tumour(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """Return haematoxylin and eosin of the cytoplasm of a carcinoma: purple and even."""
    patchy = _noise(rng, shape, 16)
    haematoxylin: FloatArray = np.clip(0.26 + 0.05 * patchy + 0.03 * _noise(rng, shape, 3), 0.05, 1)
    eosin: FloatArray = np.clip(0.40 + 0.06 * _noise(rng, shape, 40) - 0.05 * patchy, 0.1, 1)
    return haematoxylin, eosin


def _necrosis(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """Return haematoxylin and eosin of necrosis: pink, granular, without structure."""
    granular = _noise(rng, shape, 2.2) + 0.8 * _noise(rng, shape, 7)
    eosin: FloatArray = np.clip(0.60 + 0.11 * granular + 0.10 * _noise(rng, shape, 70), 0.1, 1.2)
    haematoxylin: FloatArray = np.clip(0.07 + 0.035 * granular, 0.0, 1)
    return haematoxylin, eosin


def _fat(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """Return haematoxylin and eosin of fat: empty round cells between thin walls."""
    height, width = shape
    walls = np.full(shape, 0.55, np.float32)
    for x, y in _scatter(rng, height, width, spacing=84, kept=1.0):
        cv2.circle(walls, (int(x), int(y)), int(rng.uniform(38, 48)), 0.015, -1, cv2.LINE_AA)
    return np.float32(0.15) * walls, walls


_FILLS = {"tumour": _tumour, "necrosis": _necrosis, "fat": _fat}


def _scatter(
    rng: np.random.Generator, height: int, width: int, *, spacing: float, kept: float
) -> npt.NDArray[np.float32]:
    """Return points about `spacing` pixels apart, shape (points, 2): a shaken hexagonal lattice."""
    rows = np.arange(0, height, spacing * 0.866)
    columns = np.arange(0, width, spacing)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    x = x + (np.arange(rows.size) % 2)[:, None] * spacing / 2
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    points += rng.normal(scale=spacing * 0.17, size=points.shape)
    points = points[rng.random(len(points)) < kept]
    in_picture = (points >= 0).all(axis=1) & (points < (width, height)).all(axis=1)
    return points[in_picture].astype(np.float32)


def _nucleus(
    rng: np.random.Generator, radius_x: float, radius_y: float, angle: float, *, side: int, chromatin: float
) -> FloatArray:
    """Return how dark one nucleus is, 0 to about 1, in a square of `side` pixels."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) - (side - 1) / 2
    u = (x * np.cos(angle) + y * np.sin(angle)) / radius_x
    v = (y * np.cos(angle) - x * np.sin(angle)) / radius_y
    theta = np.arctan2(v, u)
    dented = 1 + 0.07 * np.cos(2 * theta + rng.uniform(0, 6.3)) + 0.05 * np.cos(3 * theta + rng.uniform(0, 6.3))
    rho = np.hypot(u, v) / dented
    body = np.clip((1 - rho) * min(radius_x, radius_y) * 0.6 + 0.5, 0, 1)
    # The membrane and the clumps are darker than the sap between them.
    membrane = np.exp(-(((rho - 0.9) / 0.16) ** 2))
    clumps = _noise(rng, (side, side), 3.2)
    return np.asarray(body * np.clip(0.72 + 0.22 * membrane + chromatin * clumps, 0.3, 1.3), np.float32)


def _tumour_nuclei(rng: np.random.Generator) -> list[FloatArray]:
    """Return large nuclei of many sizes and shapes, with coarse chromatin."""
    return [
        _nucleus(rng, r * q, r / q, rng.uniform(0, np.pi), side=41, chromatin=0.16) * np.float32(rng.uniform(0.9, 1.3))
        for r, q in zip(rng.normal(10, 1.6, 72).clip(6.5, 14), rng.uniform(1, 1.3, 72), strict=True)
    ]


def _spindle_nuclei(rng: np.random.Generator) -> list[FloatArray]:
    """Return the thin nuclei of fibroblasts, in the order of their directions over half a turn."""
    return [_nucleus(rng, 14, 3.6, np.pi * k / 24, side=41, chromatin=0.08) * np.float32(1.05) for k in range(24)]


def _lymphocytes(rng: np.random.Generator) -> list[FloatArray]:
    """Return small, round, very dark nuclei."""
    return [_nucleus(rng, r, r, 0, side=21, chromatin=0.08) * np.float32(1.45) for r in rng.normal(6.3, 0.5, 16)]


def _debris(rng: np.random.Generator) -> list[FloatArray]:
    """Return the dust of broken nuclei."""
    return [
        _nucleus(rng, r, r * 0.7, rng.uniform(0, np.pi), side=17, chromatin=0.1) * np.float32(rng.uniform(0.4, 1.3))
        for r in rng.uniform(1.6, 4.2, 32)
    ]


def _stamp(
    rng: np.random.Generator,
    canvas: FloatArray,
    where: npt.NDArray[np.bool_],
    stamps: Sequence[FloatArray],
    *,
    spacing: float,
    kept: float,
    direction: FloatArray | None = None,
    clustered: bool = False,
) -> None:
    """Put stamps on the canvas, in place, wherever their centre is in the mask.

    With `direction` (radians, of each pixel) a stamp is chosen by it; with `clustered` they gather in groups.
    """
    height, width = canvas.shape
    points = _scatter(rng, height, width, spacing=spacing, kept=kept)
    choices = rng.integers(len(stamps), size=len(points))
    x, y = points.astype(np.int32).T
    wanted = where[y, x]
    if clustered:
        crowd = _noise(rng, canvas.shape, 150)[y, x]
        wanted &= rng.random(len(points)) < np.where(crowd > 1.7, 0.9, 0.035)
    if direction is not None:
        turn = direction[y, x] + rng.normal(scale=0.12, size=len(points))
        choices = np.rint(turn / np.pi * len(stamps)).astype(np.int64) % len(stamps)
    half = stamps[0].shape[0] // 2
    wanted &= (x >= half) & (y >= half) & (x < width - half) & (y < height - half)
    for px, py, choice in zip(x[wanted], y[wanted], choices[wanted], strict=True):
        part = canvas[py - half : py + half + 1, px - half : px + half + 1]
        np.maximum(part, stamps[choice], out=part)
