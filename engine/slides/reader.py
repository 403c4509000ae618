"""Reads the pixels of tiles from slides, through OpenSlide.

`TileReader.read` is the one place that turns a tile of a grid into pixels: export, prediction and
pictures all read through it, so that training and inference see the same image.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import openslide

from slideduck.errors import SlideError
from slideduck.slides.grid import SlideGrid
from slideduck.slides.identity import FOLLOW, SlideFile

__all__ = ["TileReader", "resized", "thumbnail"]

RGB = npt.NDArray[np.uint8]

#: Behind transparent pixels, where a slide names no colour of its own.
WHITE = "FFFFFF"

#: Bounds of OpenSlide's cache of decoded tiles, bytes; the lesser is OpenSlide's own default.
_CACHE_BYTES = (32 << 20, 512 << 20)

#: Pixels of a level that a thumbnail holds in memory at a time.
_BAND_PX = 16 << 20


class TileReader:
    """Reads tiles of one grid from one slide.

    Parameters
    ----------
    file : SlideFile
        The slide; it is checked and opened at the first read.
    slide_grid : SlideGrid
        How the grid lies on it: the region of a tile, and the level to read.
    tile_px : int
        Side of a tile as the model sees it, pixels.
    background : str, default "FFFFFF"
        Colour behind transparent pixels, RRGGBB.

    Notes
    -----
    A reader may be used by any number of threads at once: they share one OpenSlide handle and its
    cache of decoded tiles, which was as fast as a handle a thread and holds each tile once. The
    pixels do not depend on threads, or on what was read before.
    """

    name = "openslide"

    def __init__(self, file: SlideFile, slide_grid: SlideGrid, tile_px: int, *, background: str = WHITE) -> None:
        self.file = file
        self.path = file.path
        self.slide_grid = slide_grid
        self.tile_px = tile_px
        self.background = _rgb_from_hex(background)
        self._lock = threading.Lock()
        self._slide: openslide.OpenSlide | None = None

    def __enter__(self) -> TileReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the slide; no other thread may be reading. A later read opens it again."""
        with self._lock:
            if self._slide is not None:
                self._slide.close()
                self._slide = None

    def read(self, base_x: int, base_y: int) -> RGB:
        """Return the pixels of a tile.

        Parameters
        ----------
        base_x, base_y : int
            Top left corner, base pixels.

        Returns
        -------
        ndarray of uint8, shape (tile_px, tile_px, 3)
            RGB. The region of ``read_px`` pixels at the grid's level, on the background colour,
            brought to ``tile_px`` by averaging areas, or bilinearly where it has to grow.

        Raises
        ------
        SlideError
            If the slide is not the file that was added or does not open, or the tile cannot be decoded, with
            OpenSlide's reason.
        """
        size = (self.slide_grid.read_px, self.slide_grid.read_px)
        slide = self._shared()
        try:
            image = slide.read_region((base_x, base_y), self.slide_grid.level, size)
        except openslide.OpenSlideError:
            image = None
        if image is None:
            # A handle is dead after any error, and this one may have died of another thread's tile:
            # only a handle that nobody shares tells whether this tile can be read.
            self._retire(slide)
            # Here, and not above: an error that is kept would keep the dead handle, and so the file, open.
            del slide
            image = self._read_alone(base_x, base_y, size)
        return resized(_on_background(np.asarray(image), self.background), self.tile_px)

    def _read_alone(self, base_x: int, base_y: int, size: tuple[int, int]) -> Any:
        """Return the image of a region, read through a handle of its own; raise `SlideError` if it cannot be."""
        with self._open() as own:
            try:
                return own.read_region((base_x, base_y), self.slide_grid.level, size)
            except openslide.OpenSlideError as error:
                raise SlideError(
                    f"slide {self.path.stem!r}: the tile at base pixel ({base_x}, {base_y}), "
                    f"{self.slide_grid.extract_px} px wide, cannot be read from {self.path}: {error}; "
                    f"get the file again, or leave the tile or the slide out"
                ) from error

    def stored_jpeg(self, base_x: int, base_y: int) -> bytes | None:
        """Return None: OpenSlide gives only pixels."""
        return None

    def is_stored(self, base_x: int, base_y: int) -> bool:
        """Return False: OpenSlide gives only pixels."""
        return False

    def level_size(self) -> tuple[int, int]:
        """Return width and height of the level that tiles are read from, pixels of the level."""
        width, height = self._shared().level_dimensions[self.slide_grid.level]
        return int(width), int(height)

    def _shared(self) -> openslide.OpenSlide:
        """Return the handle that all threads use, opened if there is none."""
        with self._lock:
            if self._slide is None:
                self._slide = self._open()
            return self._slide

    def _retire(self, slide: openslide.OpenSlide) -> None:
        """Stop using a dead handle; it closes itself when the last thread lets go of it."""
        with self._lock:
            if self._slide is slide:
                self._slide = None

    def _open(self) -> openslide.OpenSlide:
        """Open the slide, check that the grid's level is there, and size its cache."""
        slide = _open_slide(self.file)
        level = self.slide_grid.level
        have = slide.level_downsamples
        # OpenSlide reads a level that does not exist as transparent, without an error.
        if level >= len(have) or abs(have[level] - self.slide_grid.level_downsample) > 1e-6 * have[level]:
            slide.close()
            raise SlideError(
                f"slide {self.path.stem!r} has changed: {self.path} has levels of downsample "
                f"{', '.join(f'{d:g}' for d in have)}, and the grid was laid on level {level} of downsample "
                f"{self.slide_grid.level_downsample:g}; add the slide and lay the grid again"
            )
        slide.set_cache(openslide.OpenSlideCache(_cache_bytes(slide, level, self.slide_grid.read_px)))
        return slide


def thumbnail(file: SlideFile, max_px: int, *, background: str | None = None) -> tuple[RGB, float]:
    """Return a small picture of a whole slide.

    Parameters
    ----------
    file : SlideFile
        The slide.
    max_px : int
        Longer side of the picture, pixels; a slide that is smaller keeps its size.
    background : str, optional
        Colour behind transparent pixels, RRGGBB; default the slide's own, or white.

    Returns
    -------
    rgb : ndarray of uint8, shape (height, width, 3)
        The picture: averages over the level that is nearest and no coarser.
    downsample : float
        Base pixels per pixel of the picture.

    Raises
    ------
    SlideError
        If the slide is not the file that was added, does not open, or cannot be decoded.
    ValueError
        If ``max_px`` is less than 1.
    """
    if max_px < 1:
        raise ValueError(f"max_px is {max_px}; give a positive number of pixels, such as 1024")
    path = file.path
    with _open_slide(file) as slide:
        colour = _rgb_from_hex(background or slide.properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, WHITE))
        downsample = max(1.0, max(slide.dimensions) / max_px)
        width, height = (max(1, round(side / downsample)) for side in slide.dimensions)
        level = slide.get_best_level_for_downsample(downsample)
        level_width, level_height = slide.level_dimensions[level]
        # A large level goes through memory in bands of rows, each shrunk at once by a whole number, so
        # that a slide of a single level does not have to fit. What is left to shrink stays large, since
        # the parts of pixels in a second average blur.
        shrink = 1
        if level_width * level_height > _BAND_PX:
            shrink = max(1, min(level_width // width, level_height // height) // 4)
        rows = max(1, _BAND_PX // level_width // shrink) * shrink
        bands = []
        for level_y in range(0, level_height, rows):
            n_rows = min(rows, level_height - level_y)
            try:
                rgba = np.asarray(
                    slide.read_region(
                        (0, round(level_y * slide.level_downsamples[level])), level, (level_width, n_rows)
                    )
                )
            except openslide.OpenSlideError as error:
                raise SlideError(
                    f"slide {path.stem!r}: no picture of it can be made, since level {level} of {path} "
                    f"cannot be read: {error}; get the file again"
                ) from error
            small = (-(-level_width // shrink), -(-n_rows // shrink))
            bands.append(cv2.resize(_on_background(rgba, colour), small, interpolation=cv2.INTER_AREA))
        file.check()
        whole = np.concatenate(bands)
        if whole.shape[:2] != (height, width):
            whole = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(whole, dtype=np.uint8), downsample


def _open_slide(file: SlideFile) -> openslide.OpenSlide:
    """Open a slide that is the file that was added, or raise `SlideError` with the reason."""
    path = file.path
    if not path.exists():
        raise SlideError(f"slide {path.stem!r}: there is no file {path}; {FOLLOW}")
    file.check()
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        raise SlideError(
            f"slide {path.stem!r}: {path} does not open: {error}; get the file again, or leave the slide out"
        ) from error


def _cache_bytes(slide: openslide.OpenSlide, level: int, read_px: int) -> int:
    """Return the bytes of a cache that holds the stored tiles under one row of the grid.

    Tiles are read row by row. A stored tile that is taller than a tile of the grid is needed again in
    the next row, and by then OpenSlide's default cache has dropped it where the slide is wide.
    """
    stored_height = int(slide.properties.get(f"openslide.level[{level}].tile-height", 0))
    rows = (read_px // stored_height + 2) * stored_height if stored_height else 0
    least, most = _CACHE_BYTES
    return min(max(rows * int(slide.level_dimensions[level][0]) * 4, least), most)


def _rgb_from_hex(text: str) -> RGB:
    """Return red, green and blue of RRGGBB."""
    try:
        colour = np.array(list(bytes.fromhex(text.removeprefix("#"))), dtype=np.uint8)
    except ValueError:
        colour = np.empty(0, dtype=np.uint8)
    if colour.shape != (3,):
        raise SlideError(f"background is {text!r}, not a colour; give it as RRGGBB, such as {WHITE}")
    return colour


def _on_background(rgba: RGB, background: RGB) -> RGB:
    """Put pixels as openslide-python gives them (not premultiplied) on a colour."""
    pixels = np.ascontiguousarray(rgba)
    words = pixels.view("<u4")
    if np.bitwise_and.reduce(words, axis=None) >> 24 == 255:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB), dtype=np.uint8)
    # openslide-python rounds down when it divides by alpha; rounding up when multiplying gives back
    # OpenSlide's own premultiplied colour exactly, and only the background's share is rounded.
    alpha = pixels[..., 3:].astype(np.uint32)
    own = (pixels[..., :3] * alpha + 254) // 255
    behind = (background * (255 - alpha) + 127) // 255
    return (own + behind).astype(np.uint8)


def resized(rgb: RGB, tile_px: int) -> RGB:
    """Resize a square to ``tile_px`` pixels: by averaging areas, or bilinearly where it grows."""
    if rgb.shape[0] == tile_px:
        return rgb
    how = cv2.INTER_AREA if rgb.shape[0] > tile_px else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(rgb, (tile_px, tile_px), interpolation=how), dtype=np.uint8)
