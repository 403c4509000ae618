"""Maps of overlapping grids are means over the tiles that cover a place, and go into pictures and to QuPath."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import slideduck as sd
from slideduck.errors import ConfigError, StudyError
from slideduck.runner.maps.blend import blend, read_map
from slideduck.runner.maps.heatmap import heatmap
from slideduck.runner.prediction.study import predict
from tests.runner.studies import GRID, HALF, write_run, write_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study and a run with dropout, which has predicted S0 on the overlapping grid, with MC dropout."""
    folder = tmp_path_factory.mktemp("maps")
    write_study(folder)
    run = write_run(folder, "run", "networks:dropping")
    predict(run, folder / "study.duckdb", grid=HALF, slides=["S0"], mc_dropout=4)
    return folder


@pytest.fixture
def study(folder: Path, tmp_path: Path) -> Iterator[sd.Study]:
    """A copy of the study, open."""
    (tmp_path / "study.duckdb").write_bytes((folder / "study.duckdb").read_bytes())
    with sd.open(tmp_path / "study.duckdb") as opened:
        yield opened


def brute(values: NDArray[np.float64], extract: int, stride: int, x: float, y: float, window: str) -> float:
    """Return the mean of the tiles that cover a point, one after the other."""
    total = weight = 0.0
    for (row, column), value in np.ndenumerate(values):
        u, v = (x - column * stride) / extract, (y - row * stride) / extract
        if 0 <= u < 1 and 0 <= v < 1 and np.isfinite(value):
            one = np.sin(np.pi * u) ** 2 * np.sin(np.pi * v) ** 2 if window == "peaked" else 1.0
            total, weight = total + one * value, weight + one
    return total / weight if weight else np.nan


@pytest.mark.parametrize("window", ["flat", "peaked"])
@pytest.mark.parametrize(("extract", "stride"), [(64, 64), (64, 32), (64, 16), (63, 21), (64, 43), (50, 33), (32, 64)])
def test_a_cell_is_the_mean_of_the_tiles_that_cover_it(extract: int, stride: int, window: str) -> None:
    values = np.random.default_rng(0).random((4, 5))
    values[1, 2] = values[3, 4] = np.nan
    found, cell = blend(values[..., None], extract, stride, window)
    assert cell == (stride if window == "flat" and extract % stride == 0 else stride / 4)
    expected = np.array(
        [
            [brute(values, extract, stride, (x + 0.5) * cell, (y + 0.5) * cell, window) for x in range(found.shape[1])]
            for y in range(found.shape[0])
        ]
    )
    assert np.allclose(found[..., 0], expected, equal_nan=True, atol=1e-6)
    # The cells reach as far as the tiles, but for less than one.
    for n_cells, n_tiles in zip(found.shape, values.shape, strict=False):
        assert abs(n_cells * cell - ((n_tiles - 1) * stride + extract)) < cell


def test_without_overlap_the_map_is_the_tiles() -> None:
    values = np.random.default_rng(0).random((3, 4, 2)).astype(np.float32)
    found, cell = blend(values, 64, 64)
    assert cell == 64
    assert np.array_equal(found, values)


def test_the_map_of_a_slide_is_that_of_its_predictions(study: sd.Study) -> None:
    drawn = read_map(study, "run", HALF, "S0", ["dark", "light"], window="peaked")
    assert drawn.given.shape == (48, 80, 2)
    assert (drawn.left, drawn.top, drawn.cell, drawn.tiles, drawn.overlaps) == (0, 0, 8, 209, True)
    rows = study.sql(
        "SELECT grid_x, grid_y, probabilities['light'], mutual_information FROM predictions ORDER BY grid_y, grid_x"
    ).fetchall()
    for column, shown in ((2, drawn.given[..., 1]), (3, drawn.mutual_information)):
        assert shown is not None
        values = np.full((11, 19), np.nan)
        for row in rows:
            values[row[1], row[0]] = row[column]
        for y, x in ((0, 0), (21, 30), (47, 79)):
            assert shown[y, x] == pytest.approx(brute(values, 64, 32, 8 * x + 4, 8 * y + 4, "peaked"), abs=1e-6)
    assert np.allclose(drawn.given.sum(axis=2), 1, atol=1e-5)


def test_a_picture_has_a_panel_of_uncertainty_where_there_is_one(folder: Path, study: sd.Study, tmp_path: Path) -> None:
    pictures = {}
    for window in ("flat", "peaked"):
        out = heatmap(folder / "run", study, "S0", tmp_path / f"{window}.png", grid=HALF, window=window)
        pictures[window] = cv2.imread(str(out))
    flat, peaked = pictures.values()
    assert flat is not None
    assert peaked is not None
    assert flat.shape == peaked.shape
    assert (flat != peaked).any()
    study.con.execute("UPDATE predictions SET entropy = NULL, mutual_information = NULL")
    bare = cv2.imread(str(heatmap(folder / "run", study, "S0", tmp_path / "bare.png", grid=HALF)))
    assert bare is not None
    assert bare.size < flat.size


def test_qupath_gets_tiles_with_what_is_known_of_them(folder: Path, study: sd.Study, tmp_path: Path) -> None:
    out = heatmap(folder / "run", study, "S0", tmp_path / "S0.geojson", grid=HALF)
    found = json.loads(out.read_text())["features"]
    assert len(found) == 209
    rows = study.sql(
        "SELECT tile_id, predicted, probabilities['dark'], entropy, mutual_information FROM predictions "
        "ORDER BY grid_y, grid_x"
    ).fetchall()
    for one, (tile_id, predicted, dark, entropy, shared) in zip(found, rows, strict=True):
        properties = one["properties"]
        assert (properties["name"], properties["classification"]["name"]) == (tile_id, predicted)
        measured = properties["measurements"]
        assert list(measured) == ["probability dark", "probability light", "entropy", "mutual information"]
        assert [measured[name] for name in ("probability dark", "entropy", "mutual information")] == pytest.approx(
            [dark, entropy, shared], rel=1e-6
        )
    merged = heatmap(folder / "run", study, "S0", tmp_path / "merged.geojson", grid=HALF, merge=True)
    classes = {
        one["properties"]["name"]: one["properties"]["measurements"]
        for one in json.loads(merged.read_text())["features"]
    }
    counts = dict(study.sql("SELECT predicted, count(*) FROM predictions GROUP BY predicted").fetchall())
    assert classes == {name: {"tiles": n} for name, n in counts.items()}
    # Nothing else is left in the folder.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["S0.geojson", "merged.geojson", "study.duckdb"]


def test_qupath_counts_from_what_was_scanned(folder: Path, study: sd.Study, tmp_path: Path) -> None:
    study.con.execute("UPDATE slides SET bounds_x = 64, bounds_y = 32, bounds_width = 100, bounds_height = 100")
    with pytest.raises(StudyError, match=r"give `frame='bounds'` for QuPath"):
        heatmap(folder / "run", study, "S0", tmp_path / "S0.geojson", grid=HALF)
    corners = {}
    for frame in ("bounds", "level0"):
        out = heatmap(folder / "run", study, "S0", tmp_path / f"{frame}.geojson", grid=HALF, frame=frame)
        first = json.loads(out.read_text())["features"][0]["geometry"]["coordinates"][0][0]
        corners[frame] = tuple(first)
    assert corners == {"level0": (0, 0), "bounds": (-64, -32)}


def test_a_tile_without_uncertainty_has_no_such_measurement(folder: Path, study: sd.Study, tmp_path: Path) -> None:
    predict(folder / "run", study, grid=GRID, slides=["S1"], overwrite=True)
    out = heatmap(folder / "run", study, "S1", tmp_path / "S1.geojson", grid=GRID)
    for one in json.loads(out.read_text())["features"]:
        assert list(one["properties"]["measurements"]) == ["probability dark", "probability light"]


def test_what_cannot_be_is_refused(folder: Path, study: sd.Study, tmp_path: Path) -> None:
    for name, values, message in (
        ("a.png", {"merge": True}, "merge is given for a.png, a picture; name it a.geojson, or leave merge out"),
        ("a.png", {"frame": "bounds"}, "frame is given for a.png, a picture; name it a.geojson, or leave frame out"),
        ("a.png", {"window": "round"}, "window is 'round'; it must be one of flat, peaked"),
    ):
        with pytest.raises(ConfigError) as error:
            heatmap(folder / "run", study, "S0", tmp_path / name, grid=HALF, **values)
        assert str(error.value) == message
    with pytest.raises(StudyError) as refused:
        heatmap(folder / "run", study, "S0", tmp_path / "none" / "a.geojson", grid=HALF)
    assert str(refused.value) == (f"no folder {tmp_path / 'none'} to put a.geojson in; make the folder first")
