"""Lays the ROIs of a study out for a file, whose format may have only single rings."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from slideduck.roifiles.outlines import Polygon, Ring, RoiOutline, ring_from_points

__all__ = ["Layout", "StudyRoi", "joined_ring", "lay_out"]


@dataclass(frozen=True, eq=False)
class StudyRoi:
    """One ROI as the study holds it.

    Attributes
    ----------
    slide, roi_name, roi_desc : str
        As in the table ``rois``.
    label, parent : str or None
        Its label, and the ROI that it is a hole of.
    area_um2 : float
        Area of what labels, square microns.
    drawn, labelled : tuple of Polygon
        What was drawn, and what is left of it without its holes, base pixels.
    drawn_wkb, labelled_wkb : bytes
        The same as well-known binary.
    """

    slide: str
    roi_name: str
    roi_desc: str
    label: str | None
    parent: str | None
    area_um2: float
    drawn: tuple[Polygon, ...]
    labelled: tuple[Polygon, ...]
    drawn_wkb: bytes
    labelled_wkb: bytes


@dataclass(eq=False)
class Layout:
    """The content of the file of one slide.

    Attributes
    ----------
    outlines : list of RoiOutline
        In the order of the study's names.
    root : dict of str to str
        For each of them, by name, the ROI of the study that it is a part or a hole of, or is.
    parts, inner_rings : list of str
        What the file names and the study does not: parts of ROIs, and inner rings, which become holes.
    left_out : list of str
        Holes of the study that the file does not name, since their ROIs are written without them.
    """

    outlines: list[RoiOutline] = field(default_factory=list)
    root: dict[str, str] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)
    inner_rings: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def lay_out(rois: Sequence[StudyRoi], *, single_rings: bool, cut: Collection[str] = ()) -> Layout:
    """Lay the ROIs of one slide out for a file.

    Parameters
    ----------
    rois : sequence of StudyRoi
        All of the slide and set.
    single_rings : bool
        True for forms whose ROIs are of one ring, holes among them (CSV, XML); false for those with inner
        rings and several polygons (GeoJSON).
    cut : collection of str
        ROIs whose holes are to be taken out of their outline, in place of standing beside it.

    Returns
    -------
    Layout
        Whether it labels the same is not decided here.
    """
    layout = Layout()
    taken = {roi.roi_name for roi in rois}
    holes: dict[str, list[StudyRoi]] = {}
    for roi in rois:
        if roi.parent is not None:
            holes.setdefault(roi.parent, []).append(roi)
    for root in rois:
        if root.parent is not None:
            continue
        own = holes.get(root.roi_name, [])
        if not single_rings or root.roi_name in cut:
            layout.left_out += [f"{root.slide}: {hole.roi_name} (hole of {root.roi_name})" for hole in own]
            shapes = [(root, root.labelled, False)]
        else:
            shapes = [(root, root.drawn, False), *((hole, hole.drawn, True) for hole in own)]
        for roi, polygons, is_hole in shapes:
            pieces = _pieces(roi, polygons, taken, layout) if single_rings else [(roi.roi_name, polygons, False)]
            for name, shape, is_inner in pieces:
                # What lies in an inner ring of a hole is no hole.
                layout.outlines.append(RoiOutline(roi.slide, name, roi.label, shape, is_hole != is_inner, 0))
                layout.root[name] = root.roi_name
    return layout


def _pieces(
    roi: StudyRoi, polygons: Sequence[Polygon], taken: set[str], layout: Layout
) -> Iterator[tuple[str, tuple[Polygon, ...], bool]]:
    """Yield the rings of an ROI, with their names and whether each is an inner ring."""
    ring = joined_ring(polygons)
    if ring is not None:
        yield roi.roi_name, ((ring,),), False
        return
    # The largest part keeps the name.
    for number, polygon in enumerate(sorted(polygons, key=lambda polygon: -_area(polygon[0]))):
        name = roi.roi_name
        if number:
            name = _fresh(roi.roi_name, number + 1, taken)
            layout.parts.append(f"{roi.slide}: {name} (part of {roi.roi_name})")
        yield name, ((polygon[0],),), False
        for inner in polygon[1:]:
            name = _fresh(f"{roi.roi_name}_hole", 1, taken)
            layout.inner_rings.append(f"{roi.slide}: {name} (inner ring of {roi.roi_name})")
            yield name, ((inner,),), True


def _fresh(stem: str, number: int, taken: set[str]) -> str:
    """Return a name that no ROI of the slide has, and reserve it: the stem for 1, then ``STEM_2`` and so on."""
    while (name := stem if number == 1 else f"{stem}_{number}") in taken:
        number += 1
    taken.add(name)
    return name


def _area(ring: Ring) -> float:
    """Return the area within a ring, square base pixels."""
    following = np.roll(ring, -1, axis=0)
    return abs(float(np.dot(ring[:, 0], following[:, 1]) - np.dot(following[:, 0], ring[:, 1]))) / 2


def joined_ring(polygons: Sequence[Polygon]) -> Ring | None:
    """Return one ring that goes along every ring of some polygons, where they touch in points.

    Parameters
    ----------
    polygons : sequence of Polygon
        Of one ROI; none overlaps another.

    Returns
    -------
    (n, 2) float64 or None
        Repaired as drawings that cross themselves are, it gives the same polygons: a figure of eight is one
        drawing again. None where rings lie apart.
    """
    waiting = [ring for polygon in polygons for ring in polygon]
    if not waiting:
        return None
    path: list[tuple[float, float]] = [(x, y) for x, y in waiting.pop(0).tolist()]
    while waiting:
        place = {point: at for at, point in enumerate(path)}
        for number, ring in enumerate(waiting):
            points = [(x, y) for x, y in ring.tolist()]
            start = next((i for i, point in enumerate(points) if point in place), None)
            if start is not None:
                at = place[points[start]]
                path[at:at] = points[start:] + points[:start]
                del waiting[number]
                break
        else:
            return None
    return ring_from_points(np.array(path, dtype=np.float64))
