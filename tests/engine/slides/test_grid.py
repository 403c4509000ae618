"""The arithmetic of grids, against the contract written out anew."""

from __future__ import annotations

import duckdb
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from slideduck.errors import ResolutionError
from slideduck.slides.grid import GridSpec, lay, parse_tile_um, tile_centre, tile_id, tile_location, tile_origin
from slideduck.store.sqlfiles import run_script

SIZES = st.integers(1, 4000)


@given(
    width=SIZES,
    height=SIZES,
    mpp=st.floats(0.1, 2.0),
    tile_um=st.floats(3.0, 800.0),
    stride_div=st.sampled_from([1, 1.5, 2, 3, 4]),
    origin=st.tuples(st.integers(0, 500), st.integers(0, 500)),
)
def test_tiles_are_those_that_lie_wholly_inside(
    width: int, height: int, mpp: float, tile_um: float, stride_div: float, origin: tuple[int, int]
) -> None:
    assume(round(int(tile_um / mpp) / stride_div) > 0)
    on_slide = lay(GridSpec(256, tile_um, None, stride_div, *origin), "a", width, height, mpp, [1.0])
    assert on_slide.extract_px == int(tile_um / mpp)
    assert on_slide.stride == round(on_slide.extract_px / stride_div)
    for count, start, length in (
        (on_slide.n_columns, origin[0], width),
        (on_slide.n_rows, origin[1], height),
    ):
        inside = [i for i in range(count + 2) if tile_origin(i, on_slide.stride, start) + on_slide.extract_px <= length]
        assert inside == list(range(count))


def test_stride_of_half_a_pixel_goes_to_even() -> None:
    assert lay(GridSpec(16, 5, None, 2), "a", 100, 100, 1.0, [1.0]).stride == 2
    assert lay(GridSpec(16, 7, None, 2), "a", 100, 100, 1.0, [1.0]).stride == 4


def test_extract_is_cut_not_rounded() -> None:
    assert lay(GridSpec(64, 32, None), "a", 999, 999, 0.499, [1.0]).extract_px == 64
    assert lay(GridSpec(64, 31.99, None), "a", 999, 999, 0.5, [1.0]).extract_px == 63


def test_magnification_takes_the_nearest_level() -> None:
    on_slide = lay(GridSpec(256, None, 10.0), "a", 9000, 9000, 0.25, [1.0, 4.0002, 16.0])
    assert (on_slide.level, on_slide.extract_px, on_slide.read_px) == (1, int(4.0002 * 256), 256)


def test_magnification_that_no_level_is_near_is_refused() -> None:
    with pytest.raises(ResolutionError) as caught:
        lay(GridSpec(256, None, 5.0), "A12", 9000, 9000, 0.25, [1.0, 2.0])
    assert str(caught.value) == (
        "slide 'A12' has no level within a factor of two of 5x (it has 40x, 20x); give tile_um in microns instead"
    )


def test_tiles_are_read_from_the_coarsest_level_that_is_fine_enough() -> None:
    levels = [1.0, 4.0003, 16.002]
    assert lay(GridSpec(256, 512, None), "a", 9000, 9000, 0.5, levels).level == 1
    assert lay(GridSpec(256, 510, None), "a", 9000, 9000, 0.5, levels).level == 0
    assert lay(GridSpec(256, 3000, None), "a", 9000, 9000, 0.5, levels).level == 2
    assert lay(GridSpec(256, 512, None), "a", 9000, 9000, 0.5, levels).read_px == 256


def test_tile_smaller_than_a_pixel_is_refused() -> None:
    with pytest.raises(ResolutionError) as caught:
        lay(GridSpec(64, 0.2, None), "A12", 100, 100, 0.25, [1.0])
    assert str(caught.value) == (
        "slide 'A12': a tile of 0.2 microns is smaller than one base pixel (0.25 microns); give a larger tile_um"
    )


def test_step_smaller_than_a_pixel_is_refused() -> None:
    with pytest.raises(ResolutionError) as caught:
        lay(GridSpec(64, 1.0, None, 4), "A12", 100, 100, 1.0, [1.0])
    assert str(caught.value) == (
        "slide 'A12': a tile of 1 base pixels cannot be stepped in 4 parts; give a smaller stride_div"
    )


def test_tile_names_and_centres() -> None:
    assert tile_location(3, 7, 9, 2) == 2 + 21 + 4
    assert tile_centre(3, 7, 9, 2) == 2 + 21 + 4.5
    assert tile_id("A-12", 27, 31) == "A-12-27-31"


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (GridSpec(256, 256.0), "256px_256um"),
        (GridSpec(256, None, 20.0, 2.0), "256px_20x_stride2"),
        (GridSpec(64, 32.5, None, 1.0, 5, 7), "64px_32.5um_origin5-7"),
    ],
)
def test_grid_names(spec: GridSpec, name: str) -> None:
    assert spec.name == name


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"tile_px": 0, "tile_um": 1.0}, "tile_px is 0; give a positive number of pixels, such as 256"),
        ({"tile_px": 1}, "give either tile_um in microns or a magnification, and not both"),
        ({"tile_px": 1, "tile_um": float("nan")}, "tile_um is nan; give a positive number"),
        ({"tile_px": 1, "tile_um": -3.0}, "tile_um is -3; give a positive number"),
        (
            {"tile_px": 1, "tile_um": 1.0, "stride_div": 0.5},
            "stride_div is 0.5; give 1 for tiles side by side, or more for overlap",
        ),
        (
            {"tile_px": 1, "tile_um": 1.0, "origin_x": -1},
            "origin_x is -1; give a position on the slide, 0 or more base pixels",
        ),
    ],
)
def test_impossible_grids_are_refused_by_name(values: dict[str, float], expected: str) -> None:
    with pytest.raises(ResolutionError) as caught:
        GridSpec(**values)  # type: ignore[arg-type]
    assert str(caught.value) == expected


def test_microns_and_magnification_are_told_apart() -> None:
    assert parse_tile_um("20x") == (None, 20.0)
    assert parse_tile_um(" 2.5 X ") == (None, 2.5)
    assert parse_tile_um("256") == (256.0, None)
    assert parse_tile_um(32) == (32.0, None)
    with pytest.raises(ResolutionError) as caught:
        parse_tile_um("20 microns")
    assert str(caught.value) == "tile_um is '20 microns'; give microns, such as 256, or a magnification, such as 20x"


@given(st.integers(0, 10_000), st.integers(1, 2000), st.integers(1, 2000), st.integers(0, 500))
def test_sql_macros_are_the_python_functions(grid_xy: int, stride: int, extract_px: int, origin: int) -> None:
    row = _macros().execute(
        "SELECT tile_origin($1, $2, $4), tile_location($1, $2, $3, $4), tile_centre($1, $2, $3, $4), "
        "make_tile_id('s-1', 3, 4)",
        [grid_xy, stride, extract_px, origin],
    )
    assert row.fetchone() == (
        tile_origin(grid_xy, stride, origin),
        tile_location(grid_xy, stride, extract_px, origin),
        tile_centre(grid_xy, stride, extract_px, origin),
        tile_id("s-1", 3, 4),
    )


_CONNECTION: list[duckdb.DuckDBPyConnection] = []


def _macros() -> duckdb.DuckDBPyConnection:
    if not _CONNECTION:
        _CONNECTION.append(duckdb.connect())
        run_script(_CONNECTION[0], "macros.sql")
    return _CONNECTION[0]
