"""The data that is drawn over the picture of a slide: its ROIs and the states of its tiles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from slideduck.catalog.grids import only_grid
from slideduck.catalog.slides import UsableSlide, usable_slide
from slideduck.labels.known import known_labels
from slideduck.labels.view import require_labels
from slideduck.palette import label_colours
from slideduck.rois.frame import SlideFrame, slide_frames
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_query
from slideduck.words import counted

__all__ = [
    "ABSENT",
    "NO_LABEL",
    "REMOVED",
    "DrawnRoi",
    "DrawnSlide",
    "TileMap",
    "read_drawn",
]

#: States of a tile that are no number of a label: kept without a label, not kept, not in the study.
NO_LABEL, REMOVED, ABSENT = -1, -2, -3


@dataclass(frozen=True)
class DrawnRoi:
    """An ROI as it is drawn.

    Attributes
    ----------
    name : str
        Its name.
    label : str, optional
        Its label.
    is_artifact : bool
        True if the rule names its label as an artifact.
    leaves_slide : bool
        True if part of it lies outside the slide.
    rings : tuple of ndarray of float64, shape (points, 2)
        Outer rings and holes, x before y, base pixels; each ends where it begins.
    """

    name: str
    label: str | None
    is_artifact: bool
    leaves_slide: bool
    rings: tuple[npt.NDArray[np.float64], ...]


@dataclass(frozen=True)
class TileMap:
    """The tiles of one grid on one slide.

    Attributes
    ----------
    grid : str
        Name of the grid.
    extract_px, stride, origin_x, origin_y : int
        Side of a tile, the step to the next, and the corner of tile (0, 0), base pixels.
    state : ndarray of int32, shape (rows, columns)
        Number of the tile's label in `DrawnSlide.labels`, or `NO_LABEL`, `REMOVED` or `ABSENT`.
    roi : ndarray of int32, shape (rows, columns)
        Number of the ROI that wins the tile in `DrawnSlide.rois`, or -1.
    coverage : ndarray of float64, shape (rows, columns)
        Part of the tile that this ROI covers, 0 to 1; NaN without an ROI.
    """

    grid: str
    extract_px: int
    stride: int
    origin_x: int
    origin_y: int
    state: npt.NDArray[np.int32]
    roi: npt.NDArray[np.int32]
    coverage: npt.NDArray[np.float64]

    @property
    def cell_corner(self) -> tuple[float, float]:
        """Left and top of the square that stands for tile (0, 0), base pixels.

        A tile is drawn as the square of a step around its centre, so that each place has one colour where
        tiles overlap.
        """
        inset = (self.extract_px - self.stride) / 2
        return self.origin_x + inset, self.origin_y + inset

    def count(self, state: int) -> int:
        """Return how many tiles are in a state."""
        return int(np.count_nonzero(self.state == state))


@dataclass(frozen=True)
class DrawnSlide(UsableSlide):
    """A slide with all that is drawn over its picture.

    Attributes
    ----------
    labels : tuple of str
        Labels of its tiles and ROIs, sorted.
    colours : dict of str to str
        Colour of each of them, the same on every slide of the study.
    rois : tuple of DrawnRoi
        ROIs of the set in force, holes as their rings; large ones first.
    tiles : TileMap, optional
        The tiles, or None where they are not asked for.
    frame : SlideFrame
        The part of the slide that was scanned.
    """

    labels: tuple[str, ...]
    colours: dict[str, str]
    rois: tuple[DrawnRoi, ...]
    tiles: TileMap | None
    frame: SlideFrame

    def roi_lines(self, label: str | None, tiles: Sequence[str], *, rois: bool) -> list[str]:
        """Return the lines of a legend below the name of a label.

        Parameters
        ----------
        label : str or None
            The label, or None for ROIs without one.
        tiles : sequence of str
            What it says of tiles, first.
        rois : bool
            Whether it speaks of ROIs.

        Returns
        -------
        list of str
            The amounts, and where there are any how many ROIs leave the slide.
        """
        mine = [roi for roi in self.rois if roi.label == label]
        if any(roi.is_artifact for roi in mine):
            tiles = ["artifact"]  # It removes its tiles: none has the label.
        leaving = sum(roi.leaves_slide for roi in mine) if rois else 0
        amounts = ", ".join([*tiles, counted(len(mine), "ROI")] if rois else tiles)
        return [line for line in (amounts, f"{counted(leaving, 'ROI')} leaving the slide" if leaving else "") if line]


def read_drawn(handle: Handle, slide: str, *, grid: str | None = None, tiles: bool = True) -> DrawnSlide:
    """Read the ROIs and tiles that are drawn over the picture of a slide.

    Parameters
    ----------
    handle : Handle
        With the slide, and labels in force for it.
    slide : str
        Name of the slide.
    grid : str, optional
        Name of the grid; needed where the study has several and tiles are asked for.
    tiles : bool
        Whether tiles are asked for.

    Returns
    -------
    DrawnSlide

    Raises
    ------
    StudyError
        If the slide or the grid is not in the study, or labels are missing or out of date.
    """
    require_labels(handle)
    found = usable_slide(handle, slide)
    rois = tuple(
        DrawnRoi(name, label, is_artifact, leaves_slide, _rings(outline))
        for name, label, is_artifact, leaves_slide, outline in handle.con.execute(
            read_query("outline_rois"), {"slide": slide}
        ).fetchall()
    )
    colours = label_colours(known_labels(handle.con))
    drawn_grid = only_grid(handle, grid) if tiles else None
    here = {roi.label for roi in rois} | set(() if drawn_grid is None else _tile_labels(handle, slide, drawn_grid))
    labels = tuple(label for label in colours if label in here)
    return DrawnSlide(
        **vars(found),
        labels=labels,
        colours={label: colours[label] for label in labels},
        rois=rois,
        tiles=None if drawn_grid is None else _read_tiles(handle, slide, drawn_grid, labels, rois),
        frame=slide_frames(handle, [slide])[slide],
    )


def _tile_labels(handle: Handle, slide: str, grid: str) -> list[str]:
    """Return the labels that tiles of a slide have, of which its ROIs may have none."""
    rows = handle.con.execute(
        "SELECT label FROM counts WHERE slide = $slide AND grid = $grid AND label IS NOT NULL",
        {"slide": slide, "grid": grid},
    ).fetchall()
    return [label for (label,) in rows]


def _rings(outline: str) -> tuple[npt.NDArray[np.float64], ...]:
    """Return the rings of a polygon or multipolygon in GeoJSON."""
    shape = json.loads(outline)
    polygons = shape["coordinates"] if shape["type"] == "MultiPolygon" else [shape["coordinates"]]
    return tuple(np.asarray(ring, np.float64)[:, :2] for polygon in polygons for ring in polygon if ring)


def _read_tiles(handle: Handle, slide: str, grid: str, labels: Sequence[str], rois: Sequence[DrawnRoi]) -> TileMap:
    """Read the tiles of a slide into the shape of their grid."""
    where = {"slide": slide, "grid": grid}
    laid = handle.con.execute(read_query("find_slide_grid"), where).fetchone()
    assert laid is not None  # Labels that are up to date are of every slide on every grid.
    n_columns, n_rows, extract_px, stride, origin_x, origin_y = laid
    rows = handle.con.execute(read_query("outline_tiles"), where).to_arrow_table()
    at = rows["grid_y"].to_numpy(), rows["grid_x"].to_numpy()
    label = _numbers(rows["label"], labels)
    state = np.full((n_rows, n_columns), ABSENT, np.int32)
    state[at] = np.where(rows["kept"].to_numpy(), label, REMOVED)
    roi = np.full((n_rows, n_columns), -1, np.int32)
    roi[at] = _numbers(rows["roi_name"], [roi.name for roi in rois])
    coverage = np.full((n_rows, n_columns), np.nan)
    coverage[at] = rows["coverage"].to_numpy()
    return TileMap(grid, extract_px, stride, origin_x, origin_y, state, roi, coverage)


def _numbers(names: pa.ChunkedArray, known: Sequence[str]) -> npt.NDArray[np.int32]:
    """Return the place of each name among those that are known, -1 for NULL."""
    encoded = names.combine_chunks().dictionary_encode()
    place = {name: number for number, name in enumerate(known)}
    numbers = np.array([place[name] for name in encoded.dictionary.to_pylist()] + [-1], np.int32)
    found: npt.NDArray[np.int32] = numbers[encoded.indices.fill_null(len(numbers) - 1).to_numpy(zero_copy_only=False)]
    return found
