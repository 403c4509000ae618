"""The areas that ROIs cover of tiles, and the centres that they hold, against shapely on drawn cases."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import slideduck as sd
from slideduck.slides.grid import GridSpec, SlideGrid, lay
from tests.campaign import cases
from tests.oracle import Effective, Region, repaired, touched_tiles, without_nested_holes

Points = list[tuple[float, float]]

#: What the contract allows a coverage to differ by.
EXACT = 1e-9

#: Without overlap, with half a tile, with steps that do not divide the tile, and with origins.
GRIDS = (
    GridSpec(10, 10),
    GridSpec(10, 10, None, 2.0, 3, 1),
    GridSpec(10, 7, None, 3.0),
    GridSpec(10, 9, None, 1.5, 4, 9),
)


@dataclass(frozen=True)
class Frame:
    """A kind of slide: how many there are, their size and resolution, and how much of them a drawing takes.

    A tile's side in base pixels is that of the grid over the MPP, rounded down.
    """

    kind: str
    slides: int
    width: int
    height: int
    mpp: float
    window: int

    def laid(self, spec: GridSpec) -> SlideGrid:
        """Lay a grid on such a slide."""
        return lay(spec, self.kind, self.width, self.height, self.mpp, [1.0])

    @cache  # noqa: B019
    def lines(self, axis: int) -> tuple[NDArray[np.float64], ...]:
        """Return the borders and centres of columns (axis 0) or rows (axis 1), sorted, for each grid."""
        found = []
        for spec in GRIDS:
            grid = self.laid(spec)
            numbers = (
                np.arange((grid.n_columns, grid.n_rows)[axis]) * grid.stride + (spec.origin_x, spec.origin_y)[axis]
            )
            found.append(np.unique(np.add.outer(numbers, np.array([0, 0.5, 1]) * grid.extract_px)))
        return tuple(found)


#: Tiles of 10, of 33, of 256 and of 20,010 base pixels, and of less in the other grids.
FRAMES = (
    Frame("small", 24, 60, 60, 1, 60),
    Frame("odd", 6, 301, 203, 0.3, 301),
    Frame("wide", 5, 200_000, 700, 1 / 25.6, 2_000),
    Frame("huge", 5, 200_000, 200_000, 1 / 2001, 120_000),
)
FRAME_OF = {f"{frame.kind}{i}": frame for frame in FRAMES for i in range(frame.slides)}


@dataclass(frozen=True)
class Drawing:
    """The outlines drawn on a slide, of one label, and how they were drawn: the name of a strategy below."""

    how: str
    outlines: list[Points]

    def __repr__(self) -> str:
        return f"<{len(self.outlines)} outlines, {self.how}>"

    def regions(self) -> list[Region]:
        """Return the ROIs, repaired, named by how they were drawn."""
        return [Region(f"{self.how} {i}", self.how, repaired(points)) for i, points in enumerate(self.outlines)]


@dataclass(frozen=True)
class Window:
    """The part of a slide that a drawing is made in, with the slide's own border at times, base pixels."""

    frame: Frame
    left: float
    top: float
    right: float
    bottom: float

    @property
    def size(self) -> float:
        """The lesser of width and height."""
        return min(self.right - self.left, self.bottom - self.top)

    def lines(self, axis: int) -> st.SearchStrategy[float]:
        """Return borders and centres of tiles: of columns for axis 0, of rows for axis 1."""
        low, high = ((self.left, self.right), (self.top, self.bottom))[axis]
        inside = [every[(every >= low) & (every <= high)] for every in self.frame.lines(axis)]
        return st.integers(0, len(inside) * 2**16 - 1).map(
            lambda i: float(inside[i >> 16][(i & 0xFFFF) * len(inside[i >> 16]) >> 16])
        )

    def anywhere(self, axis: int) -> st.SearchStrategy[float]:
        """Return positions in the window and a little beyond it."""
        low, high = ((self.left, self.right), (self.top, self.bottom))[axis]
        return st.floats(-0.1, 1.1).map(lambda share: round(low + share * (high - low), 4))

    def positions(self, axis: int) -> st.SearchStrategy[float]:
        """Return positions, on lines of tiles and off them."""
        return self.lines(axis) | self.anywhere(axis)


@st.composite
def windows(draw: st.DrawFn, frame: Frame) -> Window:
    width, height = min(frame.window, frame.width), min(frame.window, frame.height)
    left = round(draw(st.floats(0, 1)) * (frame.width - width))
    top = round(draw(st.floats(0, 1)) * (frame.height - height))
    return Window(frame, left, top, left + width, top + height)


def around(points: Points) -> Points:
    """Put points in order around their middle, so that the outline does not cross itself."""
    middle_x, middle_y = (math.fsum(axis) / len(points) for axis in zip(*points, strict=True))
    return sorted(points, key=lambda p: math.atan2(p[1] - middle_y, p[0] - middle_x))


# ------------------------------------------------------------------------------- what may be drawn


@st.composite
def on_lines(draw: st.DrawFn, window: Window) -> list[Points]:
    """Every vertex on a tile's border, corner or centre, and edges along them."""
    corners = st.tuples(window.lines(0), window.lines(1))
    if draw(st.booleans()):
        (x0, y0), (x1, y1) = draw(corners), draw(corners)
        return [[(x0, y0), (x1, y0), (x1, y1), (x0, y1)]]
    return [around(draw(st.lists(corners, min_size=3, max_size=8, unique=True)))]


@st.composite
def near_lines(draw: st.DrawFn, window: Window) -> list[Points]:
    """Every vertex next to a tile's border or centre: nearer than rounding can tell, or just far enough."""
    off = st.sampled_from([-1e-5, -1e-6, -1e-9, -1e-12, 0, 1e-12, 1e-9, 1e-6, 1e-5])
    vertices = st.tuples(window.lines(0), off, window.lines(1), off)
    return [around([(x + dx, y + dy) for x, dx, y, dy in draw(st.lists(vertices, min_size=3, max_size=6))])]


@st.composite
def slivers(draw: st.DrawFn, window: Window) -> list[Points]:
    """Long, and a thousandth of a pixel wide; along a line of borders or centres at times."""
    x0, y0, x1, y1 = (draw(window.positions(axis)) for axis in (0, 1, 0, 1))
    match draw(st.sampled_from(["level", "upright", "slanting"])):
        case "level":
            return [[(x0, y0), (x1, y0), (x1, y0 + 1e-3), (x0, y0 + 1e-3)]]
        case "upright":
            return [[(x0, y0), (x0 + 1e-3, y0), (x0 + 1e-3, y1), (x0, y1)]]
        case _:
            return [[(x0, y0), (x1, y1), (x1 + 1e-3, y1 + 1e-3), (x0 + 1e-3, y0 + 1e-3)]]


@st.composite
def nearly_upright(draw: st.DrawFn, window: Window) -> list[Points]:
    """Edges that lean by next to nothing, to either side, as rounding leaves them."""
    x0, y0, x1, y1 = (draw(window.positions(axis)) for axis in (0, 1, 0, 1))
    lean = st.sampled_from([-1e-6, -1e-9, -1e-12, -1e-15, 1e-15, 1e-12, 1e-9, 1e-6])
    if draw(st.booleans()):
        return [[(x0, y0), (x1, y0), (x1 + draw(lean), y1), (x0 + draw(lean), y1)]]
    return [[(x0, y0), (x0, y1), (x1, y1 + draw(lean)), (x1, y0 + draw(lean))]]


@st.composite
def tiny(draw: st.DrawFn, window: Window) -> list[Points]:
    """Smaller than a pixel, inside one tile or about a corner of tiles."""
    x, y = draw(window.positions(0)), draw(window.positions(1))
    size = draw(st.sampled_from([0.01, 0.3, 1]))
    offsets = draw(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=3, max_size=6, unique=True))
    return [around([(x + size * dx, y + size * dy) for dx, dy in offsets])]


@st.composite
def nested(draw: st.DrawFn, window: Window) -> list[Points]:
    """A hole in an ROI, an island in the hole, a hole in the island and so on."""
    x, y = draw(window.positions(0)), draw(window.positions(1))
    size = draw(st.floats(0.1, 0.6)) * window.size
    turn, count = draw(st.sampled_from([0, math.pi / 4]) | st.floats(0, 6)), draw(st.integers(3, 12))
    shrink, depth = draw(st.sampled_from([0.9, 0.5])), draw(st.integers(2, 5))
    angles = [turn + 2 * math.pi * i / count for i in range(count)]
    return [
        [(x + size * shrink**i * math.cos(a), y + size * shrink**i * math.sin(a)) for a in angles] for i in range(depth)
    ]


@st.composite
def leaving(draw: st.DrawFn, window: Window) -> list[Points]:
    """Over the slide's border: over one side, over two and their corner, or over all of it."""
    frame = window.frame
    x = draw(st.sampled_from([0, frame.width]) | window.positions(0))
    y = draw(st.sampled_from([0, frame.height]) | window.positions(1))
    reach_x, reach_y = draw(st.floats(0.05, 1.5)) * window.size, draw(st.floats(0.05, 1.5)) * window.size
    dents = draw(st.lists(st.floats(0.3, 1), min_size=8, max_size=8))
    star = [(-1, -1), (0.2, -1), (1, -1), (1, 0.3), (1, 1), (-0.1, 1), (-1, 1), (-1, 0)]
    return [[(x + dent * dx * reach_x, y + dent * dy * reach_y) for dent, (dx, dy) in zip(dents, star, strict=True)]]


@st.composite
def dense(draw: st.DrawFn, window: Window) -> list[Points]:
    """Several hundred vertices, as by a shaky hand."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x, y, count = draw(window.anywhere(0)), draw(window.anywhere(1)), draw(st.sampled_from([100, 500]))
    angle = np.sort(rng.uniform(0, 2 * np.pi, count))
    shake = draw(st.sampled_from([0.01, 0.5])) * rng.uniform(-1, 1, count)
    radius = draw(st.floats(0.05, 0.7)) * window.size * (1 + shake)
    return [list(zip((x + radius * np.cos(angle)).tolist(), (y + radius * np.sin(angle)).tolist(), strict=True))]


@st.composite
def crossing(draw: st.DrawFn, window: Window) -> list[Points]:
    """Any vertices in any order: the outline may cross itself, and is repaired."""
    vertices = st.tuples(window.positions(0), window.positions(1))
    return [draw(st.lists(vertices, min_size=3, max_size=8, unique=True))]


DRAWINGS: tuple[Callable[[Window], st.SearchStrategy[list[Points]]], ...] = (
    on_lines,
    near_lines,
    slivers,
    nearly_upright,
    tiny,
    nested,
    leaving,
    dense,
    crossing,
)


@st.composite
def drawings(draw: st.DrawFn, frame: Frame) -> Drawing:
    """Draw on one slide, what the engine takes: outlines with an area on the slide, far above rounding."""
    slide = shapely.box(0, 0, frame.width, frame.height)
    least = 1e-12 * max(frame.width, 1000) ** 2

    def acceptable(outlines: list[Points]) -> bool:
        return all(len(set(points)) > 2 and repaired(points).intersection(slide).area > least for points in outlines)

    strategy = draw(st.sampled_from(DRAWINGS))
    for _ in range(10):
        outlines = draw(strategy(draw(windows(frame))))
        if acceptable(outlines):
            return Drawing(strategy.__name__, outlines)
    return reject()


# ------------------------------------------------------------------------------------ the claims


def add_frames(study: sd.Study, frames: Sequence[Frame], grids: Sequence[GridSpec]) -> None:
    """Put slides that exist as rows alone into a study, and lay grids on them."""
    for frame in frames:
        for i in range(frame.slides):
            study.con.execute(
                "INSERT INTO slides (slide, path, width, height, mpp, level_downsamples) "
                "VALUES ($1, $1, $2, $3, $4, [1])",
                [f"{frame.kind}{i}", frame.width, frame.height, frame.mpp],
            )
    for spec in grids:
        study.tile(
            spec.tile_px, tile_um=spec.tile_um, stride_div=spec.stride_div, origin=(spec.origin_x, spec.origin_y)
        )


def label(study: sd.Study, slides: Mapping[str, Drawing]) -> None:
    """Add drawings by their files, in place of those of before, and label."""
    folder = study.path.parent
    for slide, drawing in slides.items():
        with (folder / f"{slide}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["roi_name", "x_base", "y_base", "label"])
            for i, points in enumerate(drawing.outlines):
                writer.writerows([f"{drawing.how} {i}", repr(float(x)), repr(float(y)), drawing.how] for x, y in points)
    study.add_rois([folder / f"{slide}.csv" for slide in slides])
    study.label()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sd.Study]:
    """A study of forty slides and four grids."""
    with sd.open(tmp_path_factory.mktemp("drawn") / "study.duckdb") as study:
        add_frames(study, FRAMES, GRIDS)
        yield study


KEY = ["slide", "roi_name", "grid_x", "grid_y"]


def by_engine(study: sd.Study, spec: GridSpec) -> pd.DataFrame:
    """Return the pairs of a grid as the study holds them."""
    return study.sql(
        "SELECT slide, roi_name, grid_x, grid_y, centre, coverage FROM tile_rois JOIN rois USING (roi_id) "
        "JOIN grids USING (grid_id) WHERE grid = $grid",
        {"grid": spec.name},
    ).df()


def by_shapely(rois: Mapping[str, Sequence[Effective]], spec: GridSpec) -> pd.DataFrame:
    """Return the same by shapely."""
    names: list[tuple[str, str]] = []
    tiles: list[tuple[NDArray[np.generic], ...]] = []
    for slide, shapes in rois.items():
        for roi in shapes:
            touched = touched_tiles(roi.shape, FRAME_OF[slide].laid(spec), (spec.origin_x, spec.origin_y))
            names += [(slide, roi.name)] * len(touched[0])
            tiles.append(touched)
    frame = pd.DataFrame(names, columns=KEY[:2])
    for name, parts in zip(["grid_x", "grid_y", "centre", "coverage"], zip(*tiles, strict=True), strict=True):
        frame[name] = np.concatenate(parts)
    return frame


# 12 examples of forty slides each are 480 cases; a campaign has 40,000.
@pytest.mark.slow
@settings(
    max_examples=cases(12, 1000),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow, HealthCheck.large_base_example],
)
@given(slides=st.fixed_dictionaries({slide: drawings(frame) for slide, frame in FRAME_OF.items()}))
def test_centres_and_coverage_are_shapelys(drawn: sd.Study, slides: dict[str, Drawing]) -> None:
    label(drawn, slides)
    rois = {slide: without_nested_holes(drawing.regions()) for slide, drawing in slides.items()}
    for spec in GRIDS:
        found = by_engine(drawn, spec)
        assert not found.duplicated(KEY).any()
        assert found.coverage.between(0, 1).all()
        both = found.merge(by_shapely(rois, spec), how="outer", on=KEY, suffixes=("", "_by_shapely"))
        same_centre = both.centre.eq(True) == both.centre_by_shapely.eq(True)
        error = (both.coverage.fillna(0) - both.coverage_by_shapely.fillna(0)).abs()
        wrong = both[~(same_centre & (error <= EXACT))]
        if not wrong.empty:
            slide, name = wrong.iloc[0][["slide", "roi_name"]]
            shape = next(roi.shape for roi in rois[slide] if roi.name == name)
            pytest.fail(f"{spec.name}\n{wrong.to_string()}\nof which the first is\n{shapely.to_wkt(shape, -1)}")


@pytest.mark.parametrize("lean", [1e-16, 1e-15, 1e-12, 1e-9, 1e-6, 1e-3])
@pytest.mark.parametrize("tile_px", [10, 256])
def test_an_edge_that_leans_by_next_to_nothing(study: sd.Study, tile_px: int, lean: float) -> None:
    add_frames(study, [Frame("s", 1, 4 * tile_px, 4 * tile_px, 1, 0)], [GridSpec(tile_px, tile_px)])
    label(study, {"s0": Drawing("r", [[(tile_px, 0), (0.1 + lean, 0), (0.1, tile_px), (tile_px, tile_px)]])})
    [(coverage,)] = study.sql("SELECT coverage FROM tile_rois").fetchall()
    assert coverage == pytest.approx((tile_px - 0.1 - lean / 2) / tile_px, abs=EXACT)


#: Tiles side by side, and half-overlapping ones of an even side, which hold each place four times.
COVERINGS = ((GridSpec(10, 12), 1), (GridSpec(10, 12, None, 2.0, 5, 3), 4))
LARGE = Frame("large", 10, 5_003, 4_001, 1 / 8.5, 0)


@st.composite
def inside(draw: st.DrawFn) -> Drawing:
    """Draw an ROI with a hole and an island, away from the border of the grids."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count, size = draw(st.sampled_from([5, 30, 1000])), draw(st.floats(20, 1_500))
    x, y = (draw(st.floats(200 + size, length - 200 - size)) for length in (LARGE.width, LARGE.height))
    angle = (np.arange(count) + rng.uniform(0, 1, count)) * 2 * np.pi / count
    radius = size * rng.uniform(0.5, 1, count)
    ring = np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])
    return Drawing("ring", [[(x + share * dx, y + share * dy) for dx, dy in ring.tolist()] for share in (1, 0.6, 0.3)])


@pytest.fixture(scope="module")
def covered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sd.Study]:
    """A study of ten slides, with a grid that holds each place once and one that holds it four times."""
    with sd.open(tmp_path_factory.mktemp("covered") / "study.duckdb") as study:
        add_frames(study, [LARGE], [spec for spec, _ in COVERINGS])
        yield study


@settings(max_examples=cases(8, 400), phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(drawn=st.lists(inside(), min_size=LARGE.slides, max_size=LARGE.slides))
def test_no_area_is_lost_and_none_is_made(covered: sd.Study, drawn: list[Drawing]) -> None:
    slides = {f"{LARGE.kind}{i}": drawing for i, drawing in enumerate(drawn)}
    label(covered, slides)
    areas = {
        (slide, roi.name): roi.shape.area
        for slide, drawing in slides.items()
        for roi in without_nested_holes(drawing.regions())
    }
    for spec, times in COVERINGS:
        rows = covered.sql(
            "SELECT slide, roi_name, fsum(coverage) * any_value(extract_px) ** 2 FROM tile_rois "
            "JOIN rois USING (roi_id) JOIN grids USING (grid_id) JOIN grid_slides USING (grid_id, slide_id) "
            "WHERE grid = $grid GROUP BY ALL",
            {"grid": spec.name},
        ).fetchall()
        found = {(slide, name): area / times for slide, name, area in rows}
        assert found == pytest.approx(areas, rel=1e-9)
