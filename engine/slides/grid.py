"""Pure arithmetic between base coordinates, levels and tiles; no input or output.

Base coordinates are level-0 pixels, x to the right, y down, origin at the slide's top left corner.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from slideduck.errors import ResolutionError

__all__ = ["GridSpec", "SlideGrid", "lay", "parse_tile_um", "tile_centre", "tile_id", "tile_location", "tile_origin"]

#: Slideflow's convention: a level of 1 micron per pixel has magnification 10.
MAGNIFICATION_MPP = 10.0

#: What a number of pixels is stored in; no slide is as large.
_MOST_PX = 2**31 - 1

_MAGNIFICATION = re.compile(r"(\d+(?:\.\d+)?)\s*[xX]")


@dataclass(frozen=True)
class GridSpec:
    """A way of cutting any slide into tiles.

    Parameters
    ----------
    tile_px : int
        Side of a tile as the model sees it, pixels.
    tile_um : float, optional
        Side of a tile, microns. Either this or ``magnification``.
    magnification : float, optional
        Magnification of the level to read, such as 20 for ``"20x"``.
    stride_div : float, default 1
        Steps per tile side: 1 without overlap, 2 for steps of half a tile.
    origin_x, origin_y : int, default 0
        Top left corner of tile (0, 0), base pixels.

    Raises
    ------
    ResolutionError
        If a value is impossible, by name.
    """

    tile_px: int
    tile_um: float | None = None
    magnification: float | None = None
    stride_div: float = 1.0
    origin_x: int = 0
    origin_y: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.tile_px <= _MOST_PX:
            raise ResolutionError(f"tile_px is {self.tile_px}; give a positive number of pixels, such as 256")
        if (self.tile_um is None) == (self.magnification is None):
            raise ResolutionError("give either tile_um in microns or a magnification, and not both")
        for name in ("tile_um", "magnification", "stride_div"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ResolutionError(f"{name} is {value:g}; give a positive number")
        if self.stride_div < 1:
            raise ResolutionError(
                f"stride_div is {self.stride_div:g}; give 1 for tiles side by side, or more for overlap"
            )
        for name in ("origin_x", "origin_y"):
            value = getattr(self, name)
            if not 0 <= value <= _MOST_PX:
                raise ResolutionError(f"{name} is {value}; give a position on the slide, 0 or more base pixels")

    @property
    def name(self) -> str:
        """What the grid is called in the study, such as ``256px_256um`` or ``256px_20x_stride2``."""
        size = f"{self.tile_um:g}um" if self.tile_um is not None else f"{self.magnification:g}x"
        stride = "" if self.stride_div == 1 else f"_stride{self.stride_div:g}"
        origin = "" if (self.origin_x, self.origin_y) == (0, 0) else f"_origin{self.origin_x}-{self.origin_y}"
        return f"{self.tile_px}px_{size}{stride}{origin}"


@dataclass(frozen=True)
class SlideGrid:
    """How a grid lies on one slide.

    Attributes
    ----------
    extract_px, stride : int
        Side of a tile, and the step to the next, base pixels.
    n_columns, n_rows : int
        Tiles in a row, and rows; 0 where the slide is smaller than a tile.
    level : int
        Level that tiles are read from, 0 the largest.
    level_downsample : float
        Base pixels per pixel of that level.
    read_px : int
        Side of a tile, pixels of that level.
    """

    extract_px: int
    stride: int
    n_columns: int
    n_rows: int
    level: int
    level_downsample: float
    read_px: int


def parse_tile_um(text: str | float) -> tuple[float | None, float | None]:
    """Return a tile size as microns or as a magnification, whichever it is.

    Parameters
    ----------
    text : str or float
        A number of microns, or a magnification such as ``"20x"``.

    Returns
    -------
    tile_um, magnification : float or None
        One of them is None.

    Raises
    ------
    ResolutionError
        If it is neither.
    """
    if isinstance(text, str):
        found = _MAGNIFICATION.fullmatch(text.strip())
        if found:
            return None, float(found[1])
    try:
        return float(text), None
    except ValueError:
        raise ResolutionError(
            f"tile_um is {text!r}; give microns, such as 256, or a magnification, such as 20x"
        ) from None


def lay(
    spec: GridSpec, slide: str, width: int, height: int, mpp: float, level_downsamples: Sequence[float]
) -> SlideGrid:
    """Lay a grid on a slide.

    Parameters
    ----------
    spec : GridSpec
        The grid.
    slide : str
        The slide's name, for messages.
    width, height : int
        Size of level 0, pixels.
    mpp : float
        Microns per base pixel.
    level_downsamples : sequence of float
        Base pixels per pixel of each level, level 0 first.

    Returns
    -------
    SlideGrid

    Raises
    ------
    ResolutionError
        If the slide has no level within a factor of two of the magnification, or a tile would be
        smaller than one base pixel.

    Notes
    -----
    ``extract_px = int(tile_um / mpp)``, or ``int(downsample * tile_px)`` at the level whose
    ``10 / (mpp * downsample)`` is nearest the magnification, as Slideflow 3.0.2 has it;
    ``stride = round(extract_px / stride_div)``, halves to even. A tile exists if it lies wholly
    inside the slide.
    """
    if spec.magnification is not None:
        level = _level_of_magnification(spec.magnification, slide, mpp, level_downsamples)
        extract_px = _base_pixels(level_downsamples[level] * spec.tile_px, slide, "tile_px")
        read_px = spec.tile_px
    else:
        assert spec.tile_um is not None
        extract_px = _base_pixels(spec.tile_um / mpp, slide, "tile_um")
        level = _level_fine_enough(extract_px, spec.tile_px, level_downsamples)
        read_px = max(1, round(extract_px / level_downsamples[level]))
    if extract_px < 1:
        raise ResolutionError(
            f"slide {slide!r}: a tile of {spec.tile_um:g} microns is smaller than one base pixel "
            f"({mpp:g} microns); give a larger tile_um"
        )
    stride = round(extract_px / spec.stride_div)
    if stride < 1:
        raise ResolutionError(
            f"slide {slide!r}: a tile of {extract_px} base pixels cannot be stepped in {spec.stride_div:g} parts; "
            "give a smaller stride_div"
        )
    return SlideGrid(
        extract_px=extract_px,
        stride=stride,
        n_columns=_steps(width - spec.origin_x, extract_px, stride),
        n_rows=_steps(height - spec.origin_y, extract_px, stride),
        level=level,
        level_downsample=float(level_downsamples[level]),
        read_px=read_px,
    )


def _base_pixels(length: float, slide: str, argument: str) -> int:
    """Return a length as whole base pixels, rounded down.

    Raises
    ------
    ResolutionError
        If no slide is as long.
    """
    if length > _MOST_PX:
        raise ResolutionError(
            f"slide {slide!r}: a tile would have a side of {length:.4g} base pixels, more than any slide; "
            f"give a smaller `{argument}`"
        )
    return int(length)


def _steps(length: int, extract_px: int, stride: int) -> int:
    """Return how many tiles fit into a length of base pixels."""
    return 0 if length < extract_px else (length - extract_px) // stride + 1


def _level_fine_enough(extract_px: int, tile_px: int, level_downsamples: Sequence[float]) -> int:
    """Return the coarsest level on which a tile has at least ``tile_px`` pixels, or else level 0.

    Pixels are counted rounded, since headers give downsamples such as 4.0003 for a level that was made
    four times smaller.
    """
    fine = [i for i, downsample in enumerate(level_downsamples) if round(extract_px / downsample) >= tile_px]
    return max(fine, key=lambda i: level_downsamples[i], default=0)


def _level_of_magnification(magnification: float, slide: str, mpp: float, level_downsamples: Sequence[float]) -> int:
    """Return the level nearest a magnification, of several as near the largest level."""
    at = [MAGNIFICATION_MPP / (mpp * d) for d in level_downsamples]
    level = min(range(len(at)), key=lambda i: abs(at[i] - magnification))
    if not magnification / 2 <= at[level] <= magnification * 2:
        found = ", ".join(f"{m:.4g}x" for m in at)
        raise ResolutionError(
            f"slide {slide!r} has no level within a factor of two of {magnification:g}x (it has {found}); "
            f"give tile_um in microns instead"
        )
    return level


def tile_origin(grid_xy: int, stride: int, origin: int = 0) -> int:
    """Return the left (or top) edge of a column (or row), base pixels."""
    return origin + grid_xy * stride


def tile_centre(grid_xy: int, stride: int, extract_px: int, origin: int = 0) -> float:
    """Return the exact centre of a column (or row), base pixels; it may lie between pixels."""
    return tile_origin(grid_xy, stride, origin) + extract_px / 2


def tile_location(grid_xy: int, stride: int, extract_px: int, origin: int = 0) -> int:
    """Return Slideflow's ``loc_x`` (or ``loc_y``): the centre rounded down, base pixels."""
    return tile_origin(grid_xy, stride, origin) + extract_px // 2


def tile_id(slide: str, loc_x: int, loc_y: int) -> str:
    """Return a tile's name, Slideflow's rule: ``slide-loc_x-loc_y``."""
    return f"{slide}-{loc_x}-{loc_y}"
