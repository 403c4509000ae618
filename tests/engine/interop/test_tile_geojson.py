"""Tiles as objects of QuPath: every tile that is meant, where it lies, what it is called, and what it measures."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import shapely
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import slideduck as sd
from slideduck.cli.group import cli
from slideduck.errors import QueryError, StudyError
from slideduck.interop.tiles import TileExportReport
from slideduck.palette import label_colours
from slideduck.store.db import registered
from slideduck.store.sqlfiles import read_query
from tests.campaign import cases
from tests.slides import write_slide


def features(path: Path) -> list[dict[str, Any]]:
    document = json.loads(path.read_text())
    assert document["type"] == "FeatureCollection"
    found: list[dict[str, Any]] = document["features"]
    return found


def rgb(colour: str) -> list[int]:
    return list(bytes.fromhex(colour[1:]))


def predict(study: sd.Study, run: str, grid: str, classes: Sequence[str]) -> None:
    """Store predictions of every tile as the command predict does: the greater grid_x, the likelier the last class."""
    study.con.execute(
        "INSERT INTO runs (run, path, checkpoint, classes) VALUES ($1, $2, $3, $4)",
        [run, f"/runs/{run}", "0" * 64, list(classes)],
    )
    slides = study.sql("SELECT slide FROM slides ORDER BY slide").fetchall()
    for (slide,) in slides:
        tiles = study.con.execute(
            read_query("list_tiles_of_slide"), {"grid": grid, "slide": slide}
        ).to_arrow_table()  # fmt: skip
        rows = tiles.select(["tile_id", "grid_x", "grid_y"])
        columns = tiles["grid_x"].to_pylist()
        last = [(x + 1) / (max(columns) + 2) for x in columns]
        others = len(classes) - 1
        probabilities = [[*([(1 - p) / others] * others), p] for p in last]
        best = [max(range(len(classes)), key=values.__getitem__) for values in probabilities]
        rows = rows.append_column("predicted", pa.array([classes[number] for number in best]))
        rows = rows.append_column("probability", pa.array([max(values) for values in probabilities], pa.float32()))
        rows = rows.append_column("probabilities", pa.array(probabilities, pa.list_(pa.float32())))
        for name in ("entropy", "mutual_information"):
            rows = rows.append_column(name, pa.nulls(len(rows), pa.float32()))
        values = {"run": run, "grid": grid, "slide": slide, "classes": list(classes)}
        with registered(study.con, "incoming_predictions", rows):
            study.con.execute(read_query("insert_predictions"), values)


@pytest.fixture
def labelled(real_study: sd.Study) -> sd.Study:
    """The two real slides, labelled."""
    real_study.tile(64, tile_um=32)
    real_study.label()
    return real_study


GRID = "64px_32um"


def test_every_labelled_tile_of_the_real_slides(labelled: sd.Study, tmp_path: Path) -> None:
    report = labelled.export_tiles(tmp_path / "out")
    rows = labelled.labels("label IS NOT NULL").df()
    names = ["CMU-1-Small-Region", "TCGA-CR-7395-01A-01-TS1"]
    assert report == TileExportReport(
        paths=tuple(tmp_path / "out" / f"{name}.geojson" for name in names),
        grid=GRID,
        tiles=len(rows),
        objects=len(rows),
        tiles_per_label={str(label): int(n) for label, n in rows.groupby("label").size().items()},
        without=(),
    )
    assert list(report.tiles_per_label) == sorted(report.tiles_per_label)
    colours = label_colours({"background", "dermis", "epidermis", "keratin", "stroma", "tumour"})
    ids = set()
    for name, path in zip(names, report.paths, strict=True):
        wanted = rows[rows.slide == name].to_dict("records")
        found = features(path)
        assert [one["properties"]["name"] for one in found] == [row["tile_id"] for row in wanted]
        for one, row in zip(found, wanted, strict=True):
            assert one["type"] == "Feature"
            ids.add(uuid.UUID(one["id"]))
            side = row["extract_px"]
            x, y = row["base_x"], row["base_y"]
            square = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
            assert one["geometry"] == {"type": "Polygon", "coordinates": [square]}
            assert one["properties"] == {
                "objectType": "tile",
                "name": row["tile_id"],
                "classification": {"name": row["label"], "color": rgb(colours[row["label"]])},
                "measurements": {"coverage": row["coverage"]},
            }
    assert len(ids) == len(rows)
    assert {one.version for one in ids} == {5}


def test_a_condition_chooses_tiles_with_and_without_labels(labelled: sd.Study, tmp_path: Path) -> None:
    report = labelled.export_tiles(tmp_path / "out", where="grid_y = 3", slides=["CMU-1-Small-Region"])
    rows = labelled.labels("grid_y = 3 AND slide LIKE 'CMU%'").df()
    found = features(report.paths[0])
    assert [one["properties"]["name"] for one in found] == rows.tile_id.tolist()
    bare = [one["properties"] for one in found if "classification" not in one["properties"]]
    assert len(bare) == rows.label.isna().sum() == report.tiles_per_label[""] > 0
    # A tile in no ROI has no coverage; one in an ROI without a label has.
    assert sum("measurements" not in one for one in bare) == rows.coverage.isna().sum() > 0


def test_predictions_of_a_run(labelled: sd.Study, tmp_path: Path) -> None:
    labelled.tile(128, tile_um=64)
    labelled.label()
    classes = ["dermis", "tumour", "unseen"]
    predict(labelled, "first", GRID, classes)
    report = labelled.export_tiles(tmp_path / "out", run="first")
    assert (report.grid, report.tiles, report.objects) == (GRID, 5359, 5359)
    query = "SELECT tile_id, predicted, probabilities FROM predictions WHERE slide = $s ORDER BY grid_y, grid_x"
    labels = {"background", "dermis", "epidermis", "keratin", "stroma", "tumour"}
    colours = label_colours(labels | {"unseen"})
    for path in report.paths:
        rows = labelled.sql(query, {"s": path.stem}).fetchall()
        for one, (tile_id, predicted, probabilities) in zip(features(path), rows, strict=True):
            properties = one["properties"]
            assert (properties["objectType"], properties["name"]) == ("tile", tile_id)
            assert properties["classification"] == {"name": predicted, "color": rgb(colours[predicted])}
            measured = properties["measurements"]
            assert list(measured) == [f"probability {name}" for name in classes]
            assert list(measured.values()) == pytest.approx([probabilities[name] for name in classes], rel=1e-7)
            assert all(len(repr(value)) < 14 for value in measured.values())
    some = labelled.export_tiles(tmp_path / "some", run="first", where="label = 'tumour' AND grid = '64px_32um'")
    n = labelled.sql("SELECT count(*) FROM labels WHERE label = 'tumour' AND grid = '64px_32um'").fetchall()
    assert [(some.tiles,)] == n
    assert [path.stem for path in some.paths] == ["TCGA-CR-7395-01A-01-TS1"]
    assert some.without == ("CMU-1-Small-Region",)
    # The same tile is another object in another run.
    predict(labelled, "second", GRID, classes)
    again = labelled.export_tiles(tmp_path / "again", run="second")
    ids = [{one["id"] for path in one_report.paths for one in features(path)} for one_report in (report, again)]
    assert [len(one) for one in ids] == [5359, 5359]
    assert not ids[0] & ids[1]


def test_predictions_need_no_labels(real_study: sd.Study, tmp_path: Path) -> None:
    real_study.tile(64, tile_um=32)
    predict(real_study, "first", GRID, ["a", "b"])
    assert real_study.export_tiles(tmp_path / "out", run="first").tiles == 5359
    with pytest.raises(StudyError, match=r"^real.duckdb has no labels yet"):
        real_study.export_tiles(tmp_path / "no", run="first", where="label IS NOT NULL")
    with pytest.raises(StudyError, match=r"^real.duckdb has no labels yet"):
        real_study.export_tiles(tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_merged_tiles_of_the_real_slides(labelled: sd.Study, tmp_path: Path) -> None:
    report = labelled.export_tiles(tmp_path / "out", merge=True)
    single = labelled.export_tiles(tmp_path / "single")
    assert (report.tiles, report.tiles_per_label) == (single.tiles, single.tiles_per_label)
    assert report.objects == 4 + 3
    for path, other in zip(report.paths, single.paths, strict=True):
        tiles = features(other)
        merged = features(path)
        labels = [one["properties"]["classification"]["name"] for one in merged]
        assert labels == sorted(labels)
        for label, one in zip(labels, merged, strict=True):
            own = [tile for tile in tiles if tile["properties"]["classification"]["name"] == label]
            assert one["properties"] == {
                "objectType": "annotation",
                "name": label,
                "classification": own[0]["properties"]["classification"],
                "measurements": {"tiles": len(own)},
            }
            shape = shapely.geometry.shape(one["geometry"])
            assert shape.is_valid
            assert shape.equals(shapely.union_all([shapely.geometry.shape(tile["geometry"]) for tile in own]))
    assert sum(p.stat().st_size for p in report.paths) < sum(p.stat().st_size for p in single.paths) / 30


def test_merged_tiles_can_be_added_as_rois_that_label_the_same(labelled: sd.Study, tmp_path: Path) -> None:
    report = labelled.export_tiles(tmp_path / "out", merge=True)
    before = labelled.labels("label IS NOT NULL").df()[["tile_id", "label"]]
    labelled.add_rois(report.paths, roi_set="tiles")
    labelled.label(rule="coverage", threshold=1, roi_sets=["tiles"])
    after = labelled.labels("label IS NOT NULL").df()[["tile_id", "label"]]
    assert after.equals(before)


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sd.Study]:
    """A study of a small slide with three grids, whose predictions are written by hand."""
    folder = tmp_path_factory.mktemp("painted")
    write_slide(folder / "s.tiff", 0, size=(320, 240), mpp=0.5, levels=1, tile=64)
    with sd.open(folder / "study.duckdb") as study:
        study.add_slides(folder / "s.tiff")
        for stride_div in (1, 2, 1.5):
            study.tile(32, tile_um=16, stride_div=stride_div)
        study.con.execute("INSERT INTO runs (run, path, checkpoint, classes) VALUES ('r', '/r', '', ['a', 'b'])")
        yield study


@settings(max_examples=cases(40, 800), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), which=st.sampled_from(["32", "21", "16"]))
def test_merged_tiles_cover_what_the_tiles_cover(
    painted: sd.Study, data: st.DataObject, which: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    grids = {"32": "32px_16um", "21": "32px_16um_stride1.5", "16": "32px_16um_stride2"}
    grid, stride = grids[which], int(which)
    columns, rows = (320 - 32) // stride + 1, (240 - 32) // stride + 1
    places = st.tuples(st.integers(0, columns - 1), st.integers(0, rows - 1))
    chosen = data.draw(st.dictionaries(places, st.sampled_from(["a", "b"]), min_size=1, max_size=40))
    painted.con.execute("DELETE FROM predictions")
    for (x, y), label in chosen.items():
        tile_id = f"s-{x * stride + 16}-{y * stride + 16}"
        painted.con.execute(
            "INSERT INTO predictions VALUES ('r', $1, 's', $2, $3, $4, $5, 1, MAP {'a': 1.0}, NULL, NULL)",
            [grid, tile_id, x, y, label],
        )
    folder = tmp_path_factory.mktemp("merged")
    report = painted.export_tiles(folder, run="r", merge=True)
    assert report.tiles == len(chosen)
    found = features(report.paths[0])
    assert [one["properties"]["name"] for one in found] == sorted(set(chosen.values()))
    for one in found:
        label = one["properties"]["name"]
        own = [
            shapely.box(x * stride, y * stride, x * stride + 32, y * stride + 32)
            for (x, y), other in chosen.items()
            if other == label
        ]
        shape = shapely.geometry.shape(one["geometry"])
        wanted = shapely.union_all(own)
        assert shape.equals(wanted)
        assert one["properties"]["measurements"] == {"tiles": len(own)}
        # No point stands on a straight line.
        assert len(shapely.get_coordinates(shape)) == len(shapely.get_coordinates(wanted.simplify(0)))


def test_the_same_tiles_are_the_same_bytes(labelled: sd.Study, tmp_path: Path) -> None:
    predict(labelled, "first", GRID, ["dermis", "tumour"])
    labelled.close()
    written: list[list[bytes]] = []
    for threads, seed in ((1, 0), (2, 1)):
        code = (
            "import sys, slideduck as sd\n"
            f"with sd.open({str(labelled.path)!r}, read_only=True, threads={threads}) as study:\n"
            "    for merge in (False, True):\n"
            "        for run in (None, 'first'):\n"
            "            study.export_tiles(f'{sys.argv[1]}-{merge}-{run}', merge=merge, run=run)\n"
        )
        folder = tmp_path / f"threads{threads}"
        environment = {"PYTHONHASHSEED": str(seed), "PATH": "/usr/bin:/bin"}
        subprocess.run([sys.executable, "-c", code, str(folder)], check=True, env=environment)
        written.append([path.read_bytes() for path in sorted(tmp_path.glob(f"{folder.name}-*/*.geojson"))])
    assert len(written[0]) == 8
    assert written[0] == written[1]


def test_names_that_json_must_escape(study: sd.Study, tmp_path: Path) -> None:
    name = 'a "b" \\ é'
    write_slide(tmp_path / f"{name}.tiff", 0, size=(128, 128), mpp=0.5, levels=1, tile=64)
    (tmp_path / f"{name}.csv").write_text(
        "roi_name,x_base,y_base,label\n"
        + "".join(f'r,{x},{y},"t ""1"""\n' for x, y in ((0, 0), (128, 0), (128, 128), (0, 128)))
    )
    study.add_slides(tmp_path / f"{name}.tiff")
    study.add_rois(tmp_path / f"{name}.csv")
    study.tile(64, tile_um=32)
    study.label()
    for merge in (False, True):
        (path,) = study.export_tiles(tmp_path / f"out{merge}", merge=merge).paths
        assert path.name == f"{name}.geojson"
        first = features(path)[0]["properties"]
        assert first["classification"]["name"] == 't "1"'
        assert first["name"] == ('t "1"' if merge else f"{name}-32-32")


# ---------------------------------------------------------------------------------------- what is refused


def test_what_is_refused(labelled: sd.Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    columns = ", ".join(labelled.sql("FROM labels").columns)

    def refused(**options: Any) -> str:
        with pytest.raises((StudyError, QueryError)) as caught:
            labelled.export_tiles(out, **options)
        assert not out.exists()
        return str(caught.value)

    assert refused(grid="x") == "real.duckdb has no grid 'x'; it has 64px_32um"
    assert refused(run="x") == "real.duckdb has no run 'x'; it has none"
    assert refused(slides=["x", "CMU-1-Small-Region"]) == (
        "real.duckdb has no slide 'x' in grid '64px_32um'; see which there are with: "
        "slideduck sql real.duckdb 'SELECT slide FROM slides'"
    )
    assert refused(where="roi_name = 'fat'") == (
        "no tile of grid '64px_32um' on the slides named meets the condition \"roi_name = 'fat'\"; "
        "there is nothing to export"
    )
    for where, reason in (
        ("label =", "Parser Error: syntax error at end of input"),
        ("nothing = 1", 'Binder Error: Referenced column "nothing" not found in FROM clause!'),
        ("label::INTEGER = 1", "Conversion Error: Could not convert string 'background' to INT32"),
    ):
        text = refused(where=where)
        assert text.startswith(f"the condition {where!r} cannot be used: {reason}")
        assert text.endswith(f"; give one SQL condition on the columns {columns}")
    labelled.tile(32, tile_um=32)
    assert refused(grid=GRID).startswith("the labels of 2 slides are out of date")
    labelled.label()
    assert refused() == "real.duckdb has 2 grids (32px_32um, 64px_32um); name one with `grid`"
    predict(labelled, "first", GRID, ["a", "b"])
    assert refused(run="first", grid="32px_32um") == (
        "no tile of grid '32px_32um' on the slides named that the run 'first' predicted is there; "
        "there is nothing to export"
    )


def test_files_that_are_there_are_not_replaced_unless_told(labelled: sd.Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    labelled.export_tiles(out, merge=True)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(StudyError, match=r"^2 files are in .*/out already; give another folder, or replace them"):
        labelled.export_tiles(out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    labelled.export_tiles(out, overwrite=True)
    assert {path.name for path in out.iterdir()} == set(before)
    assert features(out / "CMU-1-Small-Region.geojson")[0]["properties"]["objectType"] == "tile"


def test_a_broken_off_export_leaves_nothing(labelled: sd.Study, tmp_path: Path) -> None:
    labelled.close()
    code = (
        "import resource, slideduck as sd\n"
        f"with sd.open({str(labelled.path)!r}, read_only=True) as study:\n"
        # A limit on the size of files ends a write in the same place as a full disk does.
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n"
        f"    study.export_tiles({str(tmp_path / 'out')!r})\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        f"slideduck.errors.DiskFullError: no space left in {tmp_path}/out (file too large); free some, and export again"
    )
    assert not (tmp_path / "out").exists()


def test_what_is_printed(labelled: sd.Study, tmp_path: Path) -> None:
    labelled.close()

    def run(*words: str) -> Any:
        return CliRunner().invoke(cli, ["export-tiles", str(labelled.path), *words])

    out = tmp_path / "out"
    result = run(str(out), "--where", "label IN ('tumour', 'stroma')")
    assert result.exit_code == 0, result.output
    with sd.open(labelled.path, read_only=True) as study:
        counts = dict(study.sql("SELECT label, count(*) FROM labels GROUP BY label").fetchall())
    n = counts["stroma"] + counts["tumour"]
    lines = f"  stroma: {counts['stroma']:,}\n  tumour: {counts['tumour']:,}\n"
    assert result.stdout == f"{n:,} tiles in 1 file in {out}\n" + lines
    assert "1 slide without such a tile:\n  CMU-1-Small-Region\n" in result.stderr
    result = run(str(out), "--where", "label IN ('tumour', 'stroma')", "--merge", "--overwrite")
    assert result.stdout == f"{n:,} tiles as 2 annotations in 1 file in {out}\n" + lines
