"""Fits the stains of one slide, from its tissue."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from slideduck.errors import SlideError
from slideduck.measure.qc_measures import TISSUE_UM_PER_PX, box_sums, is_pen, tissue_mask
from slideduck.measure.stain import ALPHA, BETA, IO, MacenkoFit, ReinhardFit, StainFit, fit_to_json
from slideduck.slides.grid import GridSpec, lay, tile_origin
from slideduck.slides.identity import SlideFile
from slideduck.slides.reader import TileReader, thumbnail

__all__ = ["SlideFit", "StainSlide", "find_tissue", "fit_slide", "tissue_pixels", "without_slides"]

RGB = npt.NDArray[np.uint8]

#: Squares that are looked at: how many at most, and their side in microns, which is their side in pixels too. They are
#: a million pixels; half of them gave concentrations that were within 3 % on two real slides.
_MOST_SQUARES = 256
_SQUARE_UM = 64

#: A square is looked at if so much of it is tissue and no more has colours of ink, by a picture of the slide.
_LEAST_TISSUE = 0.25
_MOST_PEN = 0.1

#: A pixel paler than this L* is glass or fat, and no tissue; one darker than the other is, if it has colour.
_PALEST = 90.0
_DARKER = 85.0

#: A fit from fewer pixels is that of a fold or a speck: this is a hundredth of a square millimetre.
LEAST_PIXELS = 10_000

#: Less mean chroma (of a* and b*) is grey, and no lighter picture is fluorescence.
_LEAST_CHROMA = 4.0
_LEAST_LIGHT = 50.0

#: Degrees between two stains; what is less is one.
_LEAST_ANGLE = 3.0
_LEAST_CONCENTRATION = 0.05
_LEAST_DEVIATION = 1.0


@dataclass(frozen=True)
class StainSlide:
    """A slide whose stains are to be fitted.

    Attributes
    ----------
    slide : str
        Its name.
    slide_id : int
        Its key.
    path : str
        Its file.
    background : str
        Colour behind transparent pixels, RRGGBB.
    width, height : int
        Size of level 0, pixels.
    mpp : float
        Microns per base pixel.
    level_downsamples : list of float
        Base pixels per pixel of each level.
    bytes, fingerprint
        What tells that the file is the one that was added.
    """

    slide: str
    slide_id: int
    path: str
    background: str
    width: int
    height: int
    mpp: float
    level_downsamples: list[float]
    bytes: int | None
    fingerprint: str | None

    @property
    def file(self) -> SlideFile:
        """Its file, as it was when it was added."""
        return SlideFile(self.slide, Path(self.path), self.bytes, self.fingerprint)


@dataclass(frozen=True)
class SlideFit:
    """The stains of a slide.

    Attributes
    ----------
    fit : MacenkoFit or ReinhardFit
        What they are.
    pixels : int
        Pixels of tissue that were looked at, of a micron each.
    library : str
        What fitted, with its version.
    """

    fit: StainFit
    pixels: int
    library: str

    def to_json(self) -> dict[str, Any]:
        """Return the fit as a side-car's entry."""
        return {**fit_to_json(self.fit), "pixels": self.pixels, "library": self.library}


def fit_slide(slide: StainSlide, method: str) -> SlideFit:
    """Find the stains of a slide.

    Parameters
    ----------
    slide : StainSlide
        The slide.
    method : {"macenko", "reinhard"}
        The method.

    Returns
    -------
    SlideFit

    Raises
    ------
    SlideError
        If it cannot be read, is not the file that was added, or has too little tissue, or no two stains.
    """
    slide.file.check()
    pixels = tissue_pixels(slide)
    slide.file.check()
    fit = _macenko(slide, pixels) if method == "macenko" else _reinhard(slide, pixels)
    return SlideFit(fit, len(pixels), f"torchstain {version('torchstain')}")


def tissue_pixels(slide: StainSlide) -> RGB:
    """Return pixels of a slide's tissue, of 1 micron each.

    Parameters
    ----------
    slide : StainSlide
        The slide.

    Returns
    -------
    ndarray of uint8, shape (pixels, 3)
        At most a million, from squares all over the tissue, without ink and glass. The same file gives the same.

    Raises
    ------
    SlideError
        If they are too few, or the slide is grey or dark.
    """
    max_px = max(1, round(max(slide.width, slide.height) * slide.mpp / TISSUE_UM_PER_PX))
    picture, _ = thumbnail(slide.file, max_px, background=slide.background)
    brightest = float(np.percentile(_lab(picture)[..., 0], 99))
    if brightest < _LEAST_LIGHT:
        raise SlideError(
            f"slide {slide.slide!r} is dark (L* of its brightest part is {brightest:.0f} of 100): stains are told "
            f"apart on slides with light behind them; {_leave_out(slide)}"
        )
    spec = GridSpec(_SQUARE_UM, tile_um=float(_SQUARE_UM))
    grid = lay(spec, slide.slide, slide.width, slide.height, slide.mpp, slide.level_downsamples)
    rows, columns = _squares(slide, picture, grid.n_columns, grid.n_rows, grid.extract_px)
    parts: list[RGB] = [np.empty((0, 3), np.uint8)]
    unread: str | None = None
    with TileReader(slide.file, grid, _SQUARE_UM, background=slide.background) as reader:
        for row, column in zip(rows, columns, strict=True):
            try:
                rgb = reader.read(tile_origin(column, grid.stride), tile_origin(row, grid.stride))
            except SlideError as error:
                # One bad tile of thousands is no reason to do without the slide.
                unread = unread or str(error)
                continue
            parts.append(rgb[_lab(rgb)[..., 0] < _PALEST])
    pixels = np.concatenate(parts)
    if len(pixels) < LEAST_PIXELS:
        raise SlideError(
            unread
            or f"slide {slide.slide!r} has {len(pixels):,} pixels of tissue of a micron each, and a fit of its stains "
            f"needs {LEAST_PIXELS:,}; {_leave_out(slide)}"
        )
    chroma = float(np.hypot(*np.moveaxis(_lab(pixels[None])[0, :, 1:], -1, 0)).mean())
    if chroma < _LEAST_CHROMA:
        raise SlideError(
            f"slide {slide.slide!r} is grey (its mean chroma is {chroma:.1f}, and that of stained tissue above "
            f"{_LEAST_CHROMA:.0f}); {_leave_out(slide)}"
        )
    return pixels


def _squares(
    slide: StainSlide, picture: RGB, n_columns: int, n_rows: int, extract_px: int
) -> tuple[list[int], list[int]]:
    """Return rows and columns of the squares to look at, in the order of the slide."""
    if not n_columns or not n_rows:
        raise SlideError(
            f"slide {slide.slide!r} is smaller than {_SQUARE_UM} × {_SQUARE_UM} microns, and has too little tissue for "
            f"a fit of its stains; {_leave_out(slide)}"
        )
    height, width = picture.shape[:2]
    x, y = (
        np.arange(n_columns) * extract_px * (width / slide.width),
        np.arange(n_rows) * extract_px * (height / slide.height),
    )
    side_x, side_y = extract_px * width / slide.width, extract_px * height / slide.height
    edges = x, x + side_x, y, y + side_y
    area = side_x * side_y
    tissue, pen = (box_sums(plane, *edges).ravel() / area for plane in (find_tissue(picture), is_pen(picture)))
    is_tissue = tissue >= _LEAST_TISSUE
    clean = is_tissue & (pen <= _MOST_PEN)
    # Colours are all that tells ink: what most of the tissue has is its own, such as a strong eosin's red.
    chosen = np.flatnonzero(clean if 2 * clean.sum() >= is_tissue.sum() else is_tissue)
    if len(chosen) > _MOST_SQUARES:
        # Multiples of the golden ratio: the first few are spread over all, wherever it ends, and without chance.
        order = np.argsort(np.arange(len(chosen)) * ((5**0.5 - 1) / 2) % 1.0, kind="stable")
        chosen = np.sort(chosen[order[:_MOST_SQUARES]])
    return (chosen // n_columns).tolist(), (chosen % n_columns).tolist()


def find_tissue(picture: RGB) -> npt.NDArray[np.uint8]:
    """Return 1 where the picture of a slide shows tissue: in Otsu's mask, or stained beyond doubt.

    A slide that is tissue all over has no background for Otsu's threshold to find.
    """
    lab = _lab(picture)
    stained = (lab[..., 0] < _DARKER) & (np.hypot(lab[..., 1], lab[..., 2]) >= 2 * _LEAST_CHROMA)
    return tissue_mask(picture) | stained.astype(np.uint8)


def _macenko(slide: StainSlide, pixels: RGB) -> MacenkoFit:
    """Return the two stains, as torchstain finds them."""
    # It imports numpy alone, in a tenth of a second.
    from torchstain.numpy.normalizers import NumpyMacenkoNormalizer

    seen = int(np.all(-np.log((pixels + 1.0) / IO) >= BETA, axis=1).sum())
    if seen < LEAST_PIXELS:
        raise SlideError(
            f"slide {slide.slide!r} has {seen:,} pixels with enough stain to tell two stains apart, and "
            f"{LEAST_PIXELS:,} are needed; use --method reinhard, or {_leave_out(slide)}"
        )
    library = NumpyMacenkoNormalizer()
    library.fit(pixels[:, None], Io=IO, alpha=ALPHA, beta=BETA)
    stains, greatest = library.HERef, library.maxCRef
    angle = float(np.degrees(np.arccos(np.clip(stains[:, 0] @ stains[:, 1], -1, 1))))
    if not (angle >= _LEAST_ANGLE and greatest.min() >= _LEAST_CONCENTRATION):
        raise SlideError(
            f"slide {slide.slide!r} has no two stains that could be told apart: {angle:.1f} degrees lie between them, "
            f"and their greatest concentrations are {greatest[0]:.2f} and {greatest[1]:.2f}; use --method reinhard, or "
            f"{_leave_out(slide)}"
        )
    haematoxylin, eosin = (tuple(stains[:, i].tolist()) for i in (0, 1))
    return MacenkoFit(haematoxylin, eosin, tuple(greatest.tolist()))


def _reinhard(slide: StainSlide, pixels: RGB) -> ReinhardFit:
    """Return mean and deviation of the colours, as torchstain finds them."""
    from torchstain.numpy.normalizers import NumpyReinhardNormalizer

    library = NumpyReinhardNormalizer()
    library.fit(pixels[:, None])
    deviations = library.target_stds
    if not deviations.min() >= _LEAST_DEVIATION:
        raise SlideError(
            f"slide {slide.slide!r} is of one colour: the deviations of L*, a* and b* of its tissue are "
            f"{', '.join(f'{value:.2f}' for value in deviations)}; {_leave_out(slide)}"
        )
    mean, std = (tuple(values.astype(np.float64).tolist()) for values in (library.target_means, deviations))
    return ReinhardFit(mean, std)


def _lab(rgb: RGB) -> npt.NDArray[np.float32]:
    """Return L* (0 to 100), a* and b* to about half a unit."""
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB).astype(np.float32)
    return np.asarray(lab * np.array([100 / 255, 1, 1], np.float32) - np.array([0, 128, 128], np.float32))


def _leave_out(slide: StainSlide) -> str:
    return f"leave it out of the export with {without_slides([slide.slide])}"


def without_slides(slides: Sequence[str]) -> str:
    """Return the option by which an export leaves out slides, and tiles without a label as it does by itself."""
    names = ", ".join("'" + slide.replace("'", "''") + "'" for slide in slides)
    condition = f"label IS NOT NULL AND slide {f'<> {names}' if len(slides) == 1 else f'NOT IN ({names})'}"
    # In double quotes it reads well; what a shell looks for in those is quoted otherwise.
    is_plain = not set('"$`\\!') & set(condition)
    return "--where " + (f'"{condition}"' if is_plain else shlex.quote(condition))
