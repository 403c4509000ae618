"""Grids that match the tiles that slides store: found for every MPP, told in whole messages, laid by the command."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import click.testing
import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import slideduck as sd
from slideduck.catalog.native import NativeGrid
from slideduck.cli.group import cli
from slideduck.errors import ResolutionError, StudyError
from slideduck.slides.grid import GridSpec, SlideGrid, lay
from tests.slides import synthetic_image, write_slide


def run(*words: str | Path) -> tuple[int, str, str]:
    result = click.testing.CliRunner().invoke(cli, [str(word) for word in words])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """A study of slides with stored tiles of 64 px (two), 48 px, and none; all have three levels."""
    folder = tmp_path / "slides"
    folder.mkdir()
    for name, tile, mpp in (("a", 64, 0.5), ("b", 64, 0.5), ("c", 48, 0.25)):
        write_slide(folder / f"{name}.svs", ord(name), size=(512, 384), tile=tile, mpp=mpp, levels=3, vendor="aperio")
    write_slide(folder / "d.tif", 4, size=(512, 384), tile=64, mpp=0.5, compression="deflate")
    with sd.open(tmp_path / "study.duckdb") as study:
        study.add_slides(folder)
    return tmp_path / "study.duckdb"


def test_the_grid_that_most_slides_match(cohort: Path) -> None:
    with sd.open(cohort) as study:
        found = study.native_grid()
        assert found == NativeGrid(
            spec=GridSpec(64, 32.0),
            mpp=0.5,
            slides=("a", "b"),
            others={"c": "its tiles are 48 px of 0.25 microns", "d": "its tiles are compressed by DEFLATE"},
        )
        assert study.sql("SELECT count(*) FROM grids").fetchall() == [(0,)]
        # A grid of that name matches, and no other slide has one.
        like = study.native_grid("c")
        assert (like.spec, like.mpp, like.slides) == (GridSpec(48, 12.0), 0.25, ("c",))
        assert like.others == {
            "a": "its tiles are 64 px of 0.5 microns",
            "b": "its tiles are 64 px of 0.5 microns",
            "d": "its tiles are compressed by DEFLATE",
        }
        coarse = study.native_grid(level=1)
        assert (coarse.spec, coarse.mpp, coarse.slides) == (GridSpec(64, 64.0), 1.0, ("a", "b"))
        with pytest.raises(StudyError) as unknown:
            study.native_grid("z")
        assert str(unknown.value) == (
            "the study has no slide 'z' that can be used; see which there are with: slideduck sql study.duckdb "
            "'SELECT slide FROM slides'"
        )
        with pytest.raises(ResolutionError) as none:
            study.native_grid("d")
        assert str(none.value) == (
            "no grid matches stored JPEG tiles of level 0:\n  slide 'd': its tiles are compressed by DEFLATE"
        )
        with pytest.raises(ResolutionError) as far:
            study.native_grid(level=5)
        assert str(far.value) == "no grid matches stored JPEG tiles of level 5:\n" + "\n".join(
            f"  slide '{name}': it has {levels} levels" for name, levels in (("a", 3), ("b", 3), ("c", 3), ("d", 2))
        )


def test_command(cohort: Path) -> None:
    code, out, err = run("tile", cohort, "--native")
    assert (code, out) == (
        0,
        "stored tiles of 64 px at 0.5 microns per pixel, on 2 slides\n"
        "grid 64px_32um: 156 tiles on 4 slides\n",
    )  # fmt: skip
    # The last line is the progress.
    assert err.splitlines()[:-1] == [
        "2 slides that the grid does not match:",
        "  c: its tiles are 48 px of 0.25 microns",
        "  d: its tiles are compressed by DEFLATE",
    ]
    code, out, _ = run("tile", cohort, "--native", "--like", "c")
    assert (code, out.splitlines()[0]) == (0, "stored tiles of 48 px at 0.25 microns per pixel, on 1 slide")
    code, out, _ = run("tile", cohort, "--native", "--like", "a", "--level", "2")
    assert (code, out.splitlines()[0]) == (0, "stored tiles of 64 px at 2 microns per pixel, on 2 slides")
    with sd.open(cohort, read_only=True) as study:
        rows = study.sql(
            "SELECT grid, slide, extract_px, level, read_px FROM grid_slides "
            "INNER JOIN grids USING (grid_id) INNER JOIN slides USING (slide_id) "
            "WHERE (grid, slide) IN (('64px_32um', 'a'), ('48px_12um', 'c'), ('64px_128um', 'b')) ORDER BY slide"
        ).fetchall()
    assert rows == [("64px_32um", "a", 64, 0, 64), ("64px_128um", "b", 256, 2, 64), ("48px_12um", "c", 48, 0, 48)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--native", "--tile-px", "64"), "give --tile-px and --tile-um, or --native"),
        (("--native", "--tile-px", "64", "--tile-um", "32"), "give --tile-px and --tile-um, or --native"),
        (("--tile-px", "64"), "give --tile-px and --tile-um, or --native"),
        ((), "give --tile-px and --tile-um, or --native"),
        (
            ("--native", "--stride-div", "2"),
            "the stored tiles have no overlap and begin at 0: leave out --stride-div and --origin",
        ),
        (
            ("--native", "--origin", "0", "8"),
            "the stored tiles have no overlap and begin at 0: leave out --stride-div and --origin",
        ),
        (("--tile-px", "64", "--tile-um", "32", "--like", "a"), "--like and --level are for --native"),
        (("--tile-px", "64", "--tile-um", "32", "--level", "1"), "--like and --level are for --native"),
    ],
)
def test_words_that_contradict_each_other(cohort: Path, words: tuple[str, ...], message: str) -> None:
    code, out, err = run("tile", cohort, *words)
    assert (code, out, err.splitlines()[-1]) == (2, "", f"Error: {message}")


def test_what_cannot_be_matched(tmp_path: Path) -> None:
    """Tiles that are not square, a level that is 2.0005 times smaller, and a level that repeats the one above."""
    image = synthetic_image(2, (512, 384))
    how = {"photometric": "rgb", "compression": "jpeg", "metadata": None, "resolutionunit": "CENTIMETER"}
    for name, tile in (("oblong", (64, 96)), ("rounded", (64, 64)), ("twice", (64, 64))):
        base = image if name != "rounded" else np.tile(image[:128], (1, 4, 1))[:, :2001]
        small = {"oblong": (192, 256), "rounded": (64, 1000), "twice": base.shape[:2]}[name]
        with tifffile.TiffWriter(tmp_path / f"{name}.tif") as writer:
            writer.write(base, tile=tile, resolution=(20_000, 20_000), **how)
            writer.write(np.ascontiguousarray(base[: small[0], : small[1]]), tile=tile, subfiletype=1, **how)
    with sd.open(tmp_path / "study.duckdb") as study:
        study.add_slides(tmp_path)
        with pytest.raises(ResolutionError) as error:
            study.native_grid(level=1)
        assert study.native_grid("rounded").spec == GridSpec(64, 32.0)
    with openslide.OpenSlide(tmp_path / "rounded.tif") as slide:
        assert slide.level_downsamples[1] == pytest.approx(2.0005, abs=1e-12)
    assert str(error.value) == (
        "no grid matches stored JPEG tiles of level 1:\n"
        "  slide 'oblong': its tiles are 96 x 64 px, not square\n"
        "  slide 'rounded': a tile of 64 px at the downsample 2.0005 is no whole number of base pixels\n"
        "  slide 'twice': 2 pages of the file are tiled and 512 x 384 px"
    )


@pytest.fixture(scope="module")
def stored_sizes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sd.Study]:
    """A study of slides whose stored tiles are of the size in their name."""
    folder = tmp_path_factory.mktemp("sizes")
    for tile in (16, 48, 64, 80, 96):
        write_slide(folder / f"{tile}.svs", 0, size=(640, 480), tile=tile, levels=3, vendor="aperio")
    with sd.open(folder / "study.duckdb") as study:
        study.add_slides(folder)
        yield study


@given(
    mpp=st.floats(0.05, 8) | st.integers(2000, 8000).map(lambda n: n / 1e4),
    tile=st.sampled_from((16, 48, 64, 80, 96)),
    level=st.integers(0, 2),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_tile_of_the_grid_is_exactly_a_stored_one(stored_sizes: sd.Study, mpp: float, tile: int, level: int) -> None:
    """Whatever the MPP, though ``int(tile_um / mpp)`` of the rounded product falls short for some."""
    stored_sizes.con.execute("UPDATE slides SET mpp = $1", [mpp])
    found = stored_sizes.native_grid(str(tile), level=level)
    extract_px = tile * 2**level
    assert found.spec.tile_px == tile
    assert found.spec.tile_um is not None
    assert int(found.spec.tile_um / mpp) == extract_px
    assert math.isclose(found.spec.tile_um, extract_px * mpp, rel_tol=1.1e-5)
    # Laid by the microns that its name tells, the grid is the same.
    assert int(float(f"{found.spec.tile_um:g}") / mpp) == extract_px
    assert math.isclose(found.mpp, mpp * 2**level, rel_tol=1e-14)
    assert lay(found.spec, "slide", 640, 480, mpp, [1, 2, 4]) == SlideGrid(
        extract_px=extract_px,
        stride=extract_px,
        n_columns=640 // extract_px,
        n_rows=480 // extract_px,
        level=level,
        level_downsample=2**level,
        read_px=tile,
    )


def test_some_resolutions_would_fall_one_short(tmp_path: Path) -> None:
    """The reason for a step up: by the plain product such slides get tiles of one pixel less."""
    mpp = next(n / 1e4 for n in range(2000, 8000) if int(240 * (n / 1e4) / (n / 1e4)) != 240)
    write_slide(tmp_path / "slide.svs", 0, tile=240, mpp=mpp, vendor="aperio")
    with sd.open(tmp_path / "study.duckdb") as study:
        study.add_slides(tmp_path)
        plain = study.tile(240, tile_um=240 * mpp)
        found = study.native_grid()
        assert (mpp, found.spec) == (0.2015, GridSpec(240, 48.3601))
        native = study.tile(240, tile_um=found.spec.tile_um)
        # Both are there: the name tells them apart.
        assert (plain.grid, native.grid) == ("240px_48.36um", "240px_48.3601um")
        assert study.sql("SELECT extract_px, read_px FROM grid_slides ORDER BY extract_px").fetchall() == [
            (239, 239),
            (240, 240),
        ]


def test_one_grid_serves_scanners_of_nearly_one_resolution(tmp_path: Path) -> None:
    for name, mpp in (("a", 0.252), ("b", 0.2521), ("c", 0.2528), ("d", 0.5)):
        write_slide(tmp_path / f"{name}.svs", 0, tile=240, mpp=mpp, vendor="aperio")
    with sd.open(tmp_path / "study.duckdb") as study:
        study.add_slides(tmp_path)
        found = study.native_grid()
        assert (found.spec, found.slides) == (GridSpec(240, 60.6721), ("a", "b", "c"))
        assert found.mpp == pytest.approx(0.2528)
        assert found.others == {"d": "its tiles are 240 px of 0.5 microns"}
        study.tile(240, tile_um=found.spec.tile_um)
        assert study.sql("SELECT extract_px FROM grid_slides").fetchall() == [(240,), (240,), (240,), (121,)]
        # The microns of the finest make tiles of 239 px on the coarsest.
        assert study.native_grid("a").slides == ("a",)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_export_passes_the_slides_through_that_match(cohort: Path, tmp_path: Path) -> None:
    with sd.open(cohort) as study:
        found = study.native_grid()
        grid = study.tile(found.spec.tile_px, tile_um=found.spec.tile_um).grid
        study.label()
        report = study.export(tmp_path / "native.beton", grid=grid, where=None)
        # 512 x 384 px of tiles of 64 px; those of the slide c are 128 px, and d stores no JPEG.
        assert (report.samples, report.passed_through) == (48 + 48 + 12 + 48, 96)
        with pytest.raises(StudyError) as error:
            study.export(tmp_path / "all.beton", grid=grid, where=None, jpeg="passthrough")
        assert str(error.value) == (
            "60 of 156 tiles are not stored as JPEG in their slides (the first is c-64-64); lay a grid that matches "
            "with: slideduck tile STUDY --native, or use `jpeg='auto'`"
        )
        only = study.export(tmp_path / "ab.beton", grid=grid, where="slide IN ('a', 'b')", jpeg="passthrough")
        assert (only.samples, only.passed_through) == (96, 96)
