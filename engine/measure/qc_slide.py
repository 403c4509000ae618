"""Measures the tiles of one slide piece by piece; threads take pieces in any order, and sums are in theirs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import openslide
import pyarrow as pa

from slideduck import __version__
from slideduck.measure.qc_measures import (
    MEASURES,
    PIXEL_MEASURES,
    TISSUE_UM_PER_PX,
    box_sums,
    laplacian_variance,
    pixel_values,
    settings,
    tissue_mask,
)
from slideduck.slides.grid import SlideGrid
from slideduck.slides.identity import SlideFile
from slideduck.slides.reader import TileReader, resized, thumbnail
from slideduck.slides.stored_reader import StoredReader, choose_reader

__all__ = ["LEVELS", "Part", "Piece", "QcSlide", "SlideMeasurement", "source"]

#: Where averages over pixels are taken from: a low level, or the pixels that the tile is read from.
LEVELS = ("low", "full")

#: Pixels that the side of a tile has at least on the low level, if level 0 has as many.
_LEAST_PX = 32

#: Side of the squares that a level is read in, pixels of the level: a thread holds about twenty bytes a pixel.
_BLOCK_PX = 1024
#: From so many squares on it pays to compare the fast reader with OpenSlide.
_MANY_BLOCKS = 64

#: Pixels and tiles of one piece of work, as in an export.
_PIECE_PX, _PIECE_TILES = 1 << 20, 64

#: Averages of parts of pixels are rounded to so many decimals, so that all white is exactly 1.
_DECIMALS = 9


@dataclass(frozen=True)
class QcSlide:
    """A slide that is to be measured on a grid.

    Attributes
    ----------
    slide : str
        Its name.
    slide_id, grid_id : int
        Keys.
    path : Path
        Its file.
    background : str
        Colour behind transparent pixels, RRGGBB.
    width, height : int
        Size of level 0, pixels.
    mpp : float
        Microns per base pixel.
    level_sizes : tuple of (int, int)
        Width and height of each level, pixels of the level.
    level_downsamples : tuple of float
        Base pixels per pixel of each level.
    bytes, fingerprint
        What tells that the file is the one that was added.
    grid : SlideGrid
        How the grid lies on it.
    origin_x, origin_y : int
        Corner of tile (0, 0), base pixels.
    tile_px : int
        Side of a tile as the model sees it, pixels.
    """

    slide: str
    slide_id: int
    grid_id: int
    path: Path
    background: str
    width: int
    height: int
    mpp: float
    level_sizes: tuple[tuple[int, int], ...]
    level_downsamples: tuple[float, ...]
    bytes: int | None
    fingerprint: str | None
    grid: SlideGrid
    origin_x: int
    origin_y: int
    tile_px: int

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return self.grid.n_columns * self.grid.n_rows

    @property
    def low_level(self) -> int:
        """The smallest level on which a tile has 32 pixels or more a side, or else level 0."""
        fine = [i for i, d in enumerate(self.level_downsamples) if round(self.grid.extract_px / d) >= _LEAST_PX]
        return max(fine, key=lambda i: self.level_downsamples[i], default=0)

    @property
    def file(self) -> SlideFile:
        """Its file, as it was when it was added."""
        return SlideFile(self.slide, self.path, self.bytes, self.fingerprint, "add it again, and lay the grid anew")


def source(slide: QcSlide, measure: str, level: str) -> dict[str, Any]:
    """Return where and how a slide is measured, as a row of the table ``qc_slides``."""
    if measure == "tissue":
        at, number, downsample = "picture", None, TISSUE_UM_PER_PX / slide.mpp
    elif measure == "blur":
        at, number, downsample = "tile", slide.grid.level, slide.grid.extract_px / slide.tile_px
    else:
        at, number = level, slide.low_level if level == "low" else slide.grid.level
        downsample = slide.level_downsamples[number]
    return {
        "measure": measure,
        "measured_at": at,
        "level": number,
        "downsample": downsample,
        "settings": settings(measure),
        "versions": json.dumps(
            {"slideduck": __version__, "openslide": openslide.__library_version__, "opencv": cv2.__version__},
            separators=(",", ":"),
        ),
    }


@dataclass(frozen=True)
class Part:
    """Sums of a measure over some tiles: those of a rectangle of the grid, or those that follow each other."""

    measure: str
    at: tuple[slice, slice] | slice
    sums: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Piece:
    """Work of one thread.

    Attributes
    ----------
    tiles : int
        Tiles that are done with it, for progress.
    work : callable
        What it is; any number of threads may do pieces of one slide.
    """

    tiles: int
    work: Callable[[], list[Part]]


class SlideMeasurement:
    """Takes some measures of all tiles of a slide.

    Parameters
    ----------
    slide : QcSlide
        The slide.
    measures : sequence of str
        Names of measures.
    level : {"low", "full"}
        Where averages over pixels are taken from.

    Notes
    -----
    Parts are added in the order of their pieces, so that the numbers do not depend on threads.
    """

    def __init__(self, slide: QcSlide, measures: Sequence[str], level: str) -> None:
        self.slide = slide
        self.measures = tuple(name for name in MEASURES if name in measures)
        pixel = tuple(name for name in self.measures if name in PIXEL_MEASURES)
        self._of_blocks = pixel if level == "low" else ()
        self._of_tiles = tuple(name for name in self.measures if name == "blur" or name in pixel)
        if level == "low":
            self._of_tiles = tuple(name for name in self._of_tiles if name == "blur")
        shape = (slide.grid.n_rows, slide.grid.n_columns)
        self._sums = {name: np.zeros(shape) for name in self.measures}
        self._areas: dict[str, npt.NDArray[np.float64]] = {}
        self._readers: list[TileReader | StoredReader] = []

    def pieces(self) -> Iterator[Piece]:
        """Cut the work into pieces; the file is opened when the first that needs it is asked for.

        Raises
        ------
        SlideError
            If the file is missing, has changed or does not open; the works raise it too.
        """
        if not self.slide.tiles:
            return
        self.slide.file.check()
        if "tissue" in self.measures:
            yield Piece(0, self._tissue)
        if self._of_blocks:
            yield from self._block_pieces()
        if self._of_tiles:
            yield from self._tile_pieces()

    def add(self, parts: Sequence[Part]) -> None:
        """Add the sums of a piece."""
        for part in parts:
            sums = self._sums[part.measure]
            if isinstance(part.at, slice):
                sums.reshape(-1)[part.at] += part.sums
            else:
                sums[part.at] += part.sums

    def close(self) -> None:
        """Close the file; no thread may be reading."""
        for reader in self._readers:
            reader.close()
        self._readers.clear()

    def table(self) -> pa.Table:
        """Return the numbers, when all pieces are added: grid_x, grid_y and all measures, in the order of tiles."""
        n_rows, n_columns = self.slide.grid.n_rows, self.slide.grid.n_columns
        columns: dict[str, Any] = {
            "grid_x": pa.array(np.tile(np.arange(n_columns, dtype=np.int32), n_rows)),
            "grid_y": pa.array(np.repeat(np.arange(n_rows, dtype=np.int32), n_columns)),
        }
        for name in MEASURES:
            if name not in self.measures:
                columns[name] = pa.nulls(self.slide.tiles, pa.float64())
                continue
            values = self._sums[name]
            if name in self._areas:
                values = np.round(values / self._areas[name], _DECIMALS)
            columns[name] = pa.array(values.ravel())
        return pa.table(columns)

    # -------------------------------------------------------------------------- a picture of the slide

    def _tissue(self) -> list[Part]:
        slide = self.slide
        max_px = max(1, round(max(slide.width, slide.height) * slide.mpp / TISSUE_UM_PER_PX))
        picture, _ = thumbnail(slide.file, max_px, background=slide.background)
        height, width = picture.shape[:2]
        edges = self._edges(slide.width / width, slide.height / height, width, height)
        self._areas["tissue"] = _areas(*edges)
        return [Part("tissue", (slice(None), slice(None)), box_sums(tissue_mask(picture), *edges))]

    # ------------------------------------------------------------------------------------- a low level

    def _block_pieces(self) -> Iterator[Piece]:
        slide = self.slide
        level = slide.low_level
        width, height = slide.level_sizes[level]
        downsample = slide.level_downsamples[level]
        edges = self._edges(downsample, downsample, width, height)
        for name in self._of_blocks:
            # Brightness is three times as much, in whole numbers.
            self._areas[name] = _areas(*edges) * (3 if name == "brightness" else 1)
        # What no tile covers, such as the right border, is not read.
        right, bottom = (int(np.ceil(edge[-1])) for edge in (edges[1], edges[3]))
        left, top = (int(edge[0]) for edge in (edges[0], edges[2]))
        corners = [(x, y) for y in range(top, bottom, _BLOCK_PX) for x in range(left, right, _BLOCK_PX)]
        base = [(round(x * downsample), round(y * downsample)) for x, y in corners]
        whole = SlideGrid(round(_BLOCK_PX * downsample), 1, 1, 1, level, downsample, _BLOCK_PX)
        reader: TileReader | StoredReader = self._reader(whole, _BLOCK_PX)
        if len(corners) >= _MANY_BLOCKS:
            reader = self._chosen(reader, np.array(base))
        self._readers.append(reader)
        for corner, at in zip(corners, base, strict=True):
            yield Piece(0, partial(self._block, reader, corner, at, edges))

    def _block(
        self,
        reader: TileReader | StoredReader,
        corner: tuple[int, int],
        base: tuple[int, int],
        edges: tuple[npt.NDArray[np.float64], ...],
    ) -> list[Part]:
        left, right, top, bottom = (edge - corner[i // 2] for i, edge in enumerate(edges))
        columns = slice(np.searchsorted(right, 0, "right"), np.searchsorted(left, _BLOCK_PX))
        rows = slice(np.searchsorted(bottom, 0, "right"), np.searchsorted(top, _BLOCK_PX))
        rgb = reader.read(*base)
        self.slide.file.check()
        return [
            Part(
                name,
                (rows, columns),
                box_sums(pixel_values(rgb, name), left[columns], right[columns], top[rows], bottom[rows]),
            )
            for name in self._of_blocks
        ]

    def _edges(
        self, downsample_x: float, downsample_y: float, width: int, height: int
    ) -> tuple[npt.NDArray[np.float64], ...]:
        """Return left, right, top and bottom of the columns and rows of the grid, pixels of a picture or level."""
        slide, grid = self.slide, self.slide.grid
        base_x = slide.origin_x + grid.stride * np.arange(grid.n_columns)
        base_y = slide.origin_y + grid.stride * np.arange(grid.n_rows)
        # A level is rounded to whole pixels: the last tile may end a part of one outside.
        left, right = (np.minimum(x / downsample_x, width) for x in (base_x, base_x + grid.extract_px))
        top, bottom = (np.minimum(y / downsample_y, height) for y in (base_y, base_y + grid.extract_px))
        return left, right, top, bottom

    # ------------------------------------------------------------------------------- the tiles themselves

    def _tile_pieces(self) -> Iterator[Piece]:
        slide, grid = self.slide, self.slide.grid
        base_x = np.tile(slide.origin_x + grid.stride * np.arange(grid.n_columns), grid.n_rows)
        base_y = np.repeat(slide.origin_y + grid.stride * np.arange(grid.n_rows), grid.n_columns)
        corners = np.stack([base_x, base_y], axis=1)
        # With read_px for the model's pixels, nothing is resized.
        reader = self._chosen(self._reader(grid, grid.read_px), corners)
        self._readers.append(reader)
        step = min(max(_PIECE_PX // max(grid.read_px, slide.tile_px) ** 2, 1), _PIECE_TILES)
        for first in range(0, slide.tiles, step):
            past = min(first + step, slide.tiles)
            yield Piece(past - first, partial(self._tiles, reader, corners[first:past], slice(first, past)))

    def _tiles(self, reader: TileReader | StoredReader, corners: npt.NDArray[np.int64], at: slice) -> list[Part]:
        values = np.empty((len(self._of_tiles), len(corners)))
        for i, (x, y) in enumerate(corners.tolist()):
            rgb = reader.read(x, y)
            for row, name in enumerate(self._of_tiles):
                if name == "blur":
                    values[row, i] = laplacian_variance(resized(rgb, self.slide.tile_px))
                else:
                    mean = pixel_values(rgb, name).mean(dtype=np.float64)
                    values[row, i] = mean / 3 if name == "brightness" else mean
        self.slide.file.check()
        return [Part(name, at, values[row]) for row, name in enumerate(self._of_tiles)]

    def _reader(self, grid: SlideGrid, side: int) -> TileReader:
        return TileReader(self.slide.file, grid, side, background=self.slide.background)

    def _chosen(
        self, reference: TileReader | StoredReader, corners: npt.NDArray[np.int64]
    ) -> TileReader | StoredReader:
        """Return the fast reader where it gives OpenSlide's pixels."""
        assert isinstance(reference, TileReader)
        reader, _ = choose_reader(reference, corners[:, 0], corners[:, 1])
        return reader


def _areas(
    left: npt.NDArray[np.float64],
    right: npt.NDArray[np.float64],
    top: npt.NDArray[np.float64],
    bottom: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Return the areas of the boxes of a grid, shape (rows, columns)."""
    areas: npt.NDArray[np.float64] = np.multiply.outer(bottom - top, right - left)
    return areas
