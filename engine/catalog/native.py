"""Finds the grid whose tiles are the JPEG tiles that slides store: an export copies them without loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from slideduck.errors import ResolutionError, StudyError
from slideduck.names import suggestion
from slideduck.show import Shown
from slideduck.slides.grid import GridSpec, lay
from slideduck.slides.identity import SlideFile
from slideduck.slides.stored import find_stored_level
from slideduck.store.handle import Handle

__all__ = ["NativeGrid", "find_native_grid"]

#: How far the downsample of a level may be from making whole base pixels of a stored tile.
_WHOLE_PX = 1e-6


@dataclass(frozen=True)
class NativeGrid(Shown):
    """A grid that matches the stored tiles of slides.

    Attributes
    ----------
    spec : GridSpec
        The grid.
    mpp : float
        Microns per pixel of its tiles, on the first slide whose tiles it was made for.
    slides : tuple of str
        The slides whose stored tiles it matches, in order of name.
    others : dict of str to str
        Why it does not match each of the other slides.
    """

    spec: GridSpec
    mpp: float
    slides: tuple[str, ...]
    others: dict[str, str]


def find_native_grid(handle: Handle, slide: str | None = None, *, level: int = 0) -> NativeGrid:
    """Find the grid that matches the stored JPEG tiles of a slide, or of as many slides as possible.

    Parameters
    ----------
    handle : Handle
        The study.
    slide : str, optional
        The slide to match; by default those that are most.
    level : int
        Level of the stored tiles, 0 the largest.

    Returns
    -------
    NativeGrid

    Raises
    ------
    StudyError
        If there is no such slide.
    ResolutionError
        If the slide, or each of them, stores no JPEG tiles that a grid can match, with the reasons.
    """
    rows = handle.con.execute(
        "SELECT slide, path, bytes, fingerprint, width, height, mpp, level_downsamples, level_widths, level_heights "
        "FROM slides WHERE error IS NULL ORDER BY slide"
    ).fetchall()
    if slide is not None and slide not in {row[0] for row in rows}:
        raise StudyError(
            f"the study has no slide {slide!r} that can be used{suggestion(slide, [row[0] for row in rows])}; see "
            f"which there are with: slideduck sql {handle.name} 'SELECT slide FROM slides'"
        )
    reasons: dict[str, str] = {}
    stored: dict[str, _Stored] = {}
    for name, path, size, fingerprint, width, height, mpp, downsamples, widths, heights in rows:
        if level >= len(downsamples):
            reasons[name] = f"it has {len(downsamples)} levels"
            continue
        found = find_stored_level(SlideFile(name, Path(path), size, fingerprint), widths[level], heights[level])
        if isinstance(found, str):
            reasons[name] = found
            continue
        one = _Stored(found.tile_width, width, height, mpp, tuple(downsamples), level)
        problem = one.problem(found.tile_height)
        if problem is None:
            stored[name] = one
        else:
            reasons[name] = problem
    if (slide is not None and slide in reasons) or not stored:
        told = {slide: reasons[slide]} if slide is not None else reasons
        raise ResolutionError(
            f"no grid matches stored JPEG tiles of level {level}:\n"
            + "\n".join(f"  slide {name!r}: {reason}" for name, reason in told.items())
        )
    # A grid serves slides of nearly one resolution, since microns are rounded down to pixels.
    own = {stored[slide].spec} if slide is not None else {one.spec for one in stored.values()}
    matched = {spec: tuple(name for name, one in stored.items() if one.matches(spec)) for spec in own}
    spec = min(matched, key=lambda spec: (-len(matched[spec]), spec.tile_px, spec.tile_um or 0))
    for name, one in stored.items():
        if name not in matched[spec]:
            reasons[name] = f"its tiles are {one.tile_px} px of {one.level_mpp:g} microns"
    mpp = next(one.level_mpp for one in stored.values() if one.spec == spec)
    return NativeGrid(spec, mpp, matched[spec], dict(sorted(reasons.items())))


@dataclass(frozen=True)
class _Stored:
    """The stored tiles of a slide, and what a grid is laid by.

    Attributes
    ----------
    tile_px : int
        Width of a stored tile, pixels of its level.
    width, height : int
        Size of the slide, base pixels.
    mpp : float
        Microns per base pixel.
    downsamples : tuple of float
        Of all levels.
    level : int
        Level of the stored tiles.
    """

    tile_px: int
    width: int
    height: int
    mpp: float
    downsamples: tuple[float, ...]
    level: int

    @property
    def level_mpp(self) -> float:
        """Microns per pixel of the level."""
        return self.mpp * self.downsamples[self.level]

    @property
    def extract_px(self) -> int:
        """Side of a stored tile, base pixels."""
        return round(self.tile_px * self.downsamples[self.level])

    @cached_property
    def spec(self) -> GridSpec:
        """The grid of the stored tiles."""
        return GridSpec(self.tile_px, _microns(self.extract_px, self.mpp))

    def problem(self, tile_height: int) -> str | None:
        """Return why no grid matches these tiles, None if one does."""
        downsample = self.downsamples[self.level]
        if self.tile_px != tile_height:
            return f"its tiles are {self.tile_px} x {tile_height} px, not square"
        if abs(self.tile_px * downsample - self.extract_px) > _WHOLE_PX:
            return f"a tile of {self.tile_px} px at the downsample {downsample:g} is no whole number of base pixels"
        laid = lay(self.spec, "", self.width, self.height, self.mpp, self.downsamples)
        if laid.level != self.level:
            return f"tiles of that size would be read from level {laid.level}"
        return None

    def matches(self, spec: GridSpec) -> bool:
        """Return whether the tiles of a grid are the stored ones."""
        if spec.tile_px != self.tile_px or int((spec.tile_um or 0) / self.mpp) != self.extract_px:
            return False
        laid = lay(spec, "", self.width, self.height, self.mpp, self.downsamples)
        return (laid.extract_px, laid.level, laid.read_px) == (self.extract_px, self.level, self.tile_px)


def _microns(extract_px: int, mpp: float) -> float:
    """Return microns that make a tile of so many base pixels, since ``int(tile_um / mpp)`` rounds down.

    They have six digits where these are enough, so that the name of the grid, which has as many, tells them: a grid
    laid by the microns in its name is the same one.
    """
    tile_um = extract_px * mpp
    step = 10.0 ** (math.floor(math.log10(tile_um)) - 5)
    for value in (float(f"{tile_um:g}"), float(f"{tile_um + step:g}")):
        if int(value / mpp) == extract_px:
            return value
    while int(tile_um / mpp) < extract_px:
        tile_um = math.nextafter(tile_um, math.inf)
    return tile_um
