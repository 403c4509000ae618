"""Labels by shapely, written from the contract alone: what the engine is tested against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from slideduck.slides.grid import SlideGrid


@dataclass(frozen=True)
class Region:
    """An ROI as drawn: its name, label and repaired outline, base pixels."""

    name: str
    label: str | None
    outline: shapely.Geometry


@dataclass(frozen=True)
class Effective:
    """An ROI that labels tiles: with its holes taken out."""

    name: str
    desc: str
    label: str | None
    shape: shapely.Geometry


def repaired(
    points: Sequence[tuple[float, float]], holes: Sequence[Sequence[tuple[float, float]]] = ()
) -> shapely.Geometry:
    """Return a polygon whose rings are made valid and reduced to their polygons, each by itself."""
    polygon = shapely.Polygon(points, holes)
    if polygon.is_valid:
        return polygon
    if holes:
        return repaired(points).difference(shapely.unary_union([repaired(hole) for hole in holes]))
    parts = shapely.get_parts(shapely.get_parts(shapely.make_valid(polygon)))
    return shapely.MultiPolygon([p for p in parts if p.geom_type == "Polygon"])


def without_nested_holes(regions: Sequence[Region]) -> list[Effective]:
    """Take out of each ROI those of its label that lie within it; islands in holes stand for themselves."""

    def parent(region: Region) -> Region | None:
        around = [
            other
            for other in regions
            if other.label == region.label
            and other.outline.area > region.outline.area
            and region.outline.within(other.outline)
        ]
        return min(around, key=lambda other: (other.outline.area, other.name), default=None)

    def depth(region: Region) -> int:
        above = parent(region)
        return 0 if above is None else depth(above) + 1

    result = []
    for region in regions:
        if depth(region) % 2 == 1:
            continue
        holes = sorted((r for r in regions if depth(r) % 2 == 1 and parent(r) is region), key=lambda r: r.name)
        shape = region.outline
        if holes:
            shape = shape.difference(shapely.unary_union([h.outline for h in holes]))
        desc = region.name + (f" (holes: {', '.join(h.name for h in holes)})" if holes else "")
        result.append(Effective(region.name, desc, region.label, shape))
    return result


def touched_tiles(
    shape: shapely.Geometry, grid: SlideGrid, origin: tuple[int, int] = (0, 0)
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.float64]]:
    """Return grid_x, grid_y, whether the centre is in, and the coverage of each tile that a shape touches."""
    side = grid.extract_px

    def numbers(low: float, high: float, first: int, count: int) -> NDArray[np.int64]:
        past = int((high - first) // grid.stride) + 1
        return np.arange(max(0, int((low - first - side) // grid.stride)), min(count, past), dtype=np.int64)

    left, top, right, bottom = shape.bounds
    x, y = np.meshgrid(
        numbers(left, right, origin[0], grid.n_columns), numbers(top, bottom, origin[1], grid.n_rows), indexing="ij"
    )
    base_x, base_y = origin[0] + x * grid.stride, origin[1] + y * grid.stride
    tiles = shapely.box(base_x, base_y, base_x + side, base_y + side)
    shapely.prepare(shape)
    centre = shapely.intersects_xy(shape, base_x + side / 2, base_y + side / 2)
    coverage = shapely.covers(shape, tiles).astype(np.float64)
    cut = shapely.intersects(shape, tiles) & (coverage == 0)
    coverage[cut] = shapely.area(shapely.intersection(shape, tiles[cut])) / side**2
    held = centre | (coverage > 0)
    return x[held], y[held], centre[held], coverage[held]


def pairs(
    rois: Sequence[Effective], grid: SlideGrid, origin: tuple[int, int] = (0, 0)
) -> dict[tuple[int, int], list[tuple[Effective, bool, float]]]:
    """Return for each tile the ROIs that touch it: whether its centre is in, and how much is covered."""
    found: dict[tuple[int, int], list[tuple[Effective, bool, float]]] = {}
    for roi in rois:
        for x, y, centre, coverage in zip(*(a.tolist() for a in touched_tiles(roi.shape, grid, origin)), strict=True):
            found.setdefault((x, y), []).append((roi, centre, coverage))
    return found


def winner(
    touching: Sequence[tuple[Effective, bool, float]],
    *,
    rule: str = "centre",
    threshold: float = 0.5,
    overlap: str = "smallest",
    priority: Sequence[str] = (),
) -> tuple[str | None, str | None, str | None]:
    """Return the name, description and label that a tile gets."""
    held = [
        (roi, coverage) for roi, centre, coverage in touching if (centre if rule == "centre" else coverage >= threshold)
    ]
    if not held:
        return None, None, None
    order = {name: i for i, name in enumerate(priority)}

    def rank(item: tuple[Effective, float]) -> tuple[float, float, str]:
        roi, coverage = item
        first = {
            "priority": order.get(roi.label or "", len(order)),
            "largest": -round(coverage, 9),
        }.get(overlap, 0)
        return first, roi.shape.area, roi.name

    best = min(held, key=rank)[0]
    conflict = overlap == "exclude" and len({roi.label for roi, _ in held}) > 1
    return best.name, best.desc, None if conflict else best.label
