"""Traces the exact outlines of the pixels of an image that have the same number.

Only corners are kept while the image is read, row by row; rings are linked from them at the end. So an image may be
larger than the memory.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slideduck.roifiles.outlines import Polygon

__all__ = ["Tracer"]

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Tracer:
    """Takes the rows of an image from top to bottom, and returns what its numbers cover as polygons.

    Parts that meet only at a corner of pixels are polygons of their own. Rings are as OGC 06-103r4 has them: none
    passes a point twice, and two touch in points at most.

    Parameters
    ----------
    width : int
        Pixels in a row.

    Notes
    -----
    A line between two pixels of different numbers belongs to an outline. Where it turns there is a corner, which one
    horizontal and one vertical line share. In each row of corners the first and the second are the ends of one line,
    the third and the fourth of the next, and so on; in each column alike. Where two pixels of a number meet diagonally
    there are two corners, and either line may go on with either of the others. The first choice is that which keeps to
    one pixel: then a piece and what lies around or in it have one ring in common (Suzuki and Abe, Topological
    structural analysis of digitized binary images by border following, 1985, section 2). If one ring passes the point
    twice, both pixels are of one piece, and the other choice cuts the ring into two; if two rings pass it, they are of
    two pieces, which touch there.

    Memory is about 30 bytes a corner while rows are read, and 200 while the corners of one number are linked.
    """

    def __init__(self, width: int) -> None:
        self._above: NDArray[Any] = np.zeros((1, width + 2), np.uint8)
        self._y = 0
        #: Corners found so far.
        self.corners = 0
        self._found: list[tuple[NDArray[Any], ...]] = []

    def add(self, rows: NDArray[Any]) -> None:
        """Take the next rows.

        Parameters
        ----------
        rows : (n, width) uint8 or uint16
            The number of each pixel; 0 is nothing.
        """
        image = np.zeros((len(rows) + 1, rows.shape[1] + 2), rows.dtype)
        image[:1], image[1:, 1:-1] = self._above, rows
        self._found.append(_corners(image, self._y))
        self.corners += len(self._found[-1][0])
        self._above, self._y = image[-1:].copy(), self._y + len(rows)

    def polygons(
        self, scale: tuple[float, float] = (1, 1), size: tuple[float, float] = (np.inf, np.inf)
    ) -> dict[int, tuple[Polygon, ...]]:
        """Return the polygons of each number that the rows hold, after the last of them.

        Parameters
        ----------
        scale : (float, float)
            Width and height of a pixel, in what the points are to be in.
        size : (float, float)
            Greatest x and y; pixels at the far edges may stick out by less than they are wide, and are cut.

        Returns
        -------
        dict of int to tuple of Polygon
            By number, without 0. Rings of corners, from the top left corner of the image; the polygons in the order
            of their first pixels, row by row, and so the holes of each.
        """
        self.add(np.zeros((1, self._above.shape[1] - 2), self._above.dtype))
        parts = zip(*self._found, strict=True)
        x, y, start, *pixels = (np.concatenate(part) for part in parts)
        self._found = []
        numbers = np.unique(np.concatenate([np.unique(part) for part in pixels]))
        return {
            int(number): _gathered(*_link(x, y, start, [part == number for part in pixels]), scale, size)
            for number in numbers
            if number
        }


def _corners(image: NDArray[Any], top: int) -> tuple[NDArray[Any], ...]:
    """Return where outlines turn: x, y, where the run of the pixel to the upper right starts, and the four pixels."""
    aside = image[:, 1:] != image[:, :-1]
    below = image[1:] != image[:-1]
    turns = np.flatnonzero((aside[1:] | aside[:-1]) & (below[:, 1:] | below[:, :-1]))
    y, x = np.divmod(turns, aside.shape[1])
    north_west, north_east = image[y, x], image[y, x + 1]
    south_west, south_east = image[y + 1, x], image[y + 1, x + 1]
    # Only the top left corner of a hole is asked for its run.
    asked = np.flatnonzero((north_east == south_west) & (north_east != south_east) & (north_east != 0))
    changes = np.flatnonzero(aside[:-1])
    start = np.zeros(len(turns), np.int32)
    start[asked] = changes[np.searchsorted(changes, turns[asked], side="right") - 1] % aside.shape[1]
    return x.astype(np.int32), (y + top).astype(np.int32), start, north_west, north_east, south_west, south_east


def _link(x: NDArray[Any], y: NDArray[Any], start: NDArray[Any], pixels: list[Bools]) -> tuple[Ints, Ints, Ints]:
    """Return the rings of one number: their points, how many each has, and the ring whose polygon each belongs to.

    `pixels` says which of the four at each point have the number.
    """
    north_west, north_east, south_west, south_east = pixels
    falling = north_west & south_east & ~north_east & ~south_west
    rising = north_east & south_west & ~north_west & ~south_east
    crossed = falling | rising
    corner = crossed | (north_west ^ north_east ^ south_west ^ south_east)
    # Entries are the corners, row by row: 2k and 2k + 1 are the left and the right end of line k.
    at = np.repeat(np.flatnonzero(corner), 1 + crossed[corner])
    x, y, crossed, rising = x[at].astype(np.int64), y[at].astype(np.int64), crossed[at], rising[at]
    inside_below = south_east[at[0::2]]
    # Column by column: places 2k and 2k + 1 hold the upper and the lower end of a line.
    down = np.argsort(x, kind="stable")
    first = np.flatnonzero(crossed[down])[0::2]
    keeps_apart = rising[down[first]]
    _swap(down, first[keeps_apart])
    if len(first):
        heads = _heads(_next_line(down, inside_below))
        one_piece = heads[down[first] // 2] == heads[down[first + 1] // 2]
        _swap(down, first[one_piece])
    following = _next_line(down, inside_below)
    heads = _heads(following)
    lines, ring, sizes = _ordered(following, heads)
    # Clockwise on the screen: to the right above what is inside, to the left below it.
    ends = np.stack([2 * lines + ~inside_below[lines], 2 * lines + inside_below[lines]], axis=1).ravel()
    points = np.stack([x[ends], y[ends]], axis=1)
    first_lines = np.flatnonzero(heads == np.arange(len(heads)))
    outer = inside_below[first_lines]
    # What is above the first line of a hole belongs to its polygon, and so does the ring at the left end of that run.
    column = x[down] * (y.max() + 2) + y[down]
    corners = 2 * first_lines[~outer]
    beside = np.searchsorted(column, start[at[corners]] * (y.max() + 2) + y[corners] - 1, side="right") - 1
    owner = np.arange(len(outer))
    owner[~outer] = ring[down[beside] // 2]
    while not np.array_equal(owner, owner[owner]):
        owner = owner[owner]
    return points, 2 * sizes, owner


def _swap(order: Ints, places: Ints) -> None:
    """Exchange what stands at some places with what stands right behind each."""
    order[places], order[places + 1] = order[places + 1], order[places]


def _next_line(down: Ints, inside_below: Bools) -> Ints:
    """Return the horizontal line that follows each, clockwise around what is inside."""
    partner = np.empty_like(down)
    partner[down[0::2]], partner[down[1::2]] = down[1::2], down[0::2]
    return partner[2 * np.arange(len(inside_below)) + inside_below] // 2


def _heads(following: Ints) -> Ints:
    """Return the first line of the ring of each line, by looking 1, 2, 4, … lines ahead."""
    heads, ahead = np.arange(len(following)), following
    while True:
        lower = np.minimum(heads, heads[ahead])
        if np.array_equal(lower, heads):
            return heads
        heads, ahead = lower, ahead[ahead]


def _ordered(following: Ints, heads: Ints) -> tuple[Ints, Ints, Ints]:
    """Return the lines ring by ring, each from its head on, the number of each line's ring, and the rings' lengths."""
    n = np.arange(len(following))
    ring = (np.cumsum(heads == n) - 1)[heads]
    sizes = np.bincount(ring)
    ahead = np.where(heads == n, n, following)
    left = (heads != n).astype(np.int64)
    while not np.array_equal(ahead, heads):
        left, ahead = left + left[ahead], ahead[ahead]
    # The head has 0 lines left to itself, the line behind it all but one.
    place = np.cumsum(sizes)[ring] - np.where(heads == n, sizes[ring], left)
    lines = np.empty_like(n)
    lines[place] = n
    return lines, ring, sizes


def _gathered(
    points: Ints, sizes: Ints, owner: Ints, scale: tuple[float, float], size: tuple[float, float]
) -> tuple[Polygon, ...]:
    """Return rings, given one after another, as polygons: the ring that owns others, then those."""
    order = np.argsort(owner, kind="stable")
    stops = np.cumsum(sizes)
    coordinates = np.minimum(points * np.asarray(scale, np.float64), size)
    coordinates.flags.writeable = False
    rings = [coordinates[stop - n : stop] for stop, n in zip(stops[order], sizes[order], strict=True)]
    begins = [*np.flatnonzero(np.diff(owner[order], prepend=-1)), len(rings)]
    return tuple(tuple(rings[a:b]) for a, b in pairwise(begins))
