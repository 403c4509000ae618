"""Studies and betons that a version before made are what they were."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from click.testing import CliRunner

import slideduck as sd
from slideduck.betons import merge_betons, read_sidecar, verify_beton
from slideduck.cli.group import cli
from slideduck.store.db import load_spatial, spatial_config
from tests.old.conftest import Old
from tests.old.make_old import MADE_IN

GRID = "32px_32um"
RULE: dict[str, Any] = {"rule": "coverage", "threshold": 0.5, "artifact_labels": ("pen",)}
RAW: dict[str, Any] = {"grid": "128px_128um_stride32", "raw": True, "where": "slide = 'S3' AND grid_y < 9"}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def labels_of(study: sd.Study, like: pa.Table) -> pa.Table:
    """Return the labels of a study with the columns that there were."""
    return study.labels().project(", ".join(like.column_names)).to_arrow_table()


def assert_same_beton(old: Old, new: Path, name: str) -> None:
    """Assert that an export is the one that there was: its tiles always, its bytes where the encoder is the same."""
    here, there = (read_sidecar(path) for path in (new, old.folder / name))
    same_versions = here.raw["versions"] == there.raw["versions"]
    if same_versions:
        assert sha256(new) == old.said.expected["betons"][name]["sha256"]
        text = new.with_suffix(".json").read_text().replace(str(old.folder), str(MADE_IN))
        # Side-cars had no checksum of their own.
        assert {name: value for name, value in json.loads(text).items() if name != "sha256"} == there.raw
    for entry in ("classes", "tiles", "grid", "label_rule", "split_rule", "query"):
        assert here.raw[entry] == there.raw[entry]


@pytest.fixture(scope="module")
def opened(old: Old, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of the study, for tests that leave what it says as it is."""
    return old.study(tmp_path_factory.mktemp("study"))


def test_read_only_the_study_says_what_it_said(old: Old, tmp_path: Path) -> None:
    said = old.said.table("labels")
    with sd.open(old.copy(tmp_path, "study.duckdb") / "study.duckdb", read_only=True) as study:
        rows = {row["what"]: row for row in old.said.expected["info"]}
        # What the rule leaves out, and how large a part validates, was not said.
        rows["label rule"]["detail"] += ", artifacts: pen"
        rows["split"]["detail"] = "fraction 0.5, seed 1"
        assert study.info().to_pylist() == list(rows.values())
        assert labels_of(study, said).equals(said)
        for table, rows in old.said.expected["tables"].items():
            assert study.sql(f"SELECT count(*) FROM {table}").fetchall() == [(rows,)]


def test_what_was_computed_is_not_computed_again(old: Old, opened: Path) -> None:
    said = old.said.table("labels")
    with sd.open(opened) as study:
        assert study.add_slides(old.folder / "slides").unchanged == 4
        assert study.add_rois(old.folder / "rois").unchanged == 4
        assert study.add_rois(old.folder / "second", roi_set="second").unchanged == 4
        assert study.label(**RULE).slides == 0
        measured = study.qc(grid=GRID)
        assert (measured.slides, measured.unchanged) == (0, 4)
        fitted = study.fit_stain()
        assert (fitted.fitted, fitted.unchanged) == (0, 4)
        assert labels_of(study, said).equals(said)
        verified = study.verify(None)
        assert (verified.tiles, verified.differences.num_rows) == (1040, 0)


def test_computed_again_it_is_what_it_was(old: Old, tmp_path: Path) -> None:
    said = old.said.table("labels")
    with sd.open(old.study(tmp_path)) as study:
        assert study.label(**RULE, anew=True).slides == 8
        study.add_patients(old.folder / "patients.csv")
        study.split(val_fraction=0.5, seed=1)
        assert labels_of(study, said).equals(said)
        # Another rule chooses among the pairs that are there.
        assert not study.labels("label = 'pen' AND kept").fetchall()
        assert study.label(reset=True).slides == 0
        assert len(study.labels("label = 'pen' AND kept", grid=GRID).fetchall()) == 4


def test_exports_are_the_same(old: Old, opened: Path, tmp_path: Path) -> None:
    with sd.open(opened, read_only=True) as study:
        report = study.export(tmp_path / "tiles.beton", grid=GRID)
        assert (report.samples, report.readers) == (108, {"openslide": 2, "tiff": 2})
        study.export(tmp_path / "alike.beton", grid=GRID, stain="macenko", where="label = 'dark'")
    assert_same_beton(old, tmp_path / "tiles.beton", "tiles.beton")
    assert_same_beton(old, tmp_path / "alike.beton", "alike.beton")


def test_an_export_that_found_no_room_goes_on(old: Old, opened: Path, tmp_path: Path) -> None:
    old.copy(tmp_path, "raw.beton.part", "raw.beton.journal")
    with sd.open(opened, read_only=True) as study:
        report = study.export(tmp_path / "raw.beton", **RAW)
    if read_sidecar(report.path).raw["versions"] == old.said.expected["versions"]:
        assert (report.samples, report.resumed, report.notes) == (190, 170, ())
    else:
        part = tmp_path / "raw.beton.part"
        note = f"{part} was left by an export of other tiles, settings or versions; it was started anew"
        assert (report.samples, report.resumed, report.notes) == (190, 0, (note,))
    # No encoder has a part in raw pixels.
    assert sha256(report.path) == old.said.expected["betons"]["raw.beton"]["sha256"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw.beton", "raw.json"]


def test_the_second_shard_joins_the_first(old: Old, opened: Path, tmp_path: Path) -> None:
    first, whole = "parts-00000-of-00002", tmp_path / "tiles.beton"
    old.copy(tmp_path, f"{first}.beton", f"{first}.json")
    # A shard tells where its slides lie, and all of an export agree in that.
    sidecar = tmp_path / f"{first}.json"
    sidecar.write_text(sidecar.read_text().replace(str(MADE_IN), str(old.folder)))
    written = (tmp_path / f"{first}.beton").stat().st_mtime_ns
    with sd.open(opened, read_only=True) as study:
        report = study.export(tmp_path / "parts.beton", grid=GRID, shards=2)
    if read_sidecar(report.shards[1]).raw["versions"] == old.said.expected["versions"]:
        assert (report.samples, report.resumed) == (108, 54)
        assert (tmp_path / f"{first}.beton").stat().st_mtime_ns == written
    merge_betons(whole, report.shards)
    assert_same_beton(old, whole, "tiles.beton")


@pytest.mark.parametrize("name", ["tiles.beton", "alike.beton", "parts-00000-of-00002.beton"])
def test_betons_and_side_cars_are_whole(name: str, old: Old) -> None:
    samples = old.said.expected["betons"][name]["samples"]
    slides = {path.stem: path for path in (old.folder / "slides").iterdir()}
    report = verify_beton(old.folder / name, sample=None, slides=slides)
    assert (report.samples, report.pages, report.decoded, report.missing) == (samples, 1, samples, {})
    assert (report.compared, report.problems, report.notes) == (samples, (), ())
    sidecar = read_sidecar(old.folder / name)
    assert (sidecar.samples, sidecar.tile_px) == (samples, 32)
    assert list(sidecar.patient_columns) == ["age", "findings"]
    said = {row["tile_id"]: row for row in old.said.table("labels").to_pylist() if row["grid"] == GRID}
    for i, tile in enumerate(sidecar.tile_id):
        row = said[tile]
        found = (sidecar.tile_slide[i], sidecar.classes[sidecar.class_number[i]], sidecar.tile_split[i])
        assert found == (row["slide"], row["label"], row["split"])


def test_rois_that_the_old_repair_changed_are_named_and_the_remedy_gets_on(old: Old, tmp_path: Path) -> None:
    study, drawn = old.copy(tmp_path, "study.duckdb") / "study.duckdb", tmp_path / "it's S1.geojson"
    outer, inner = (
        [[0, 0], [400, 0], [400, 400], [0, 400], [0, 0]],
        [[0, 100], [200, 100], [200, 300], [0, 300], [0, 100]],
    )
    polygon = {"type": "Polygon", "coordinates": [outer, inner]}
    drawn.write_text(json.dumps({"type": "Feature", "geometry": polygon, "properties": {"name": "edge"}}))
    with duckdb.connect(str(study), config=spatial_config()) as con:
        load_spatial(con)
        # As version 0.1.0 kept it: the hole that touches the outline is filled.
        con.execute(
            "INSERT INTO roi_files (roi_set, path, format, holes, sha256) "
            "VALUES ('other', $1, 'geojson', 'explicit', $2)",
            [str(drawn), sha256(drawn)],
        )
        con.execute(
            "INSERT INTO rois BY NAME SELECT 'other' AS roi_set, 'S1' AS slide, 'edge' AS roi_name, "
            "'edge' AS roi_desc, 160000 AS area, ST_MakeEnvelope(0, 0, 400, 400) AS outline, outline AS geom, "
            "true AS repaired, max(roi_file_id) AS roi_file_id FROM roi_files"
        )
    (row,) = (row for row in _info(study) if row["what"] == "ROIs to add again")
    command = f"slideduck add-rois STUDY '{tmp_path}/it'\"'\"'s S1.geojson' --set 'other'"
    assert row["count"] == 1
    assert row["detail"] == (
        f"an older slideduck gave these other shapes than their drawings have: S1: edge; type {command} and label again"
    )
    # The slide is the one that the file is named after.
    drawn = drawn.rename(tmp_path / "S1.geojson")
    with sd.open(study) as opened:
        opened.con.execute("UPDATE roi_files SET path = $1 WHERE roi_set = 'other'", [str(drawn)])
    (row,) = (row for row in _info(study) if row["what"] == "ROIs to add again")
    words = shlex.split(row["detail"].split("; type ")[1].removesuffix(" and label again").replace("STUDY", str(study)))
    assert CliRunner().invoke(cli, words[1:]).exit_code == 0
    assert "ROIs to add again" not in [row["what"] for row in _info(study)]
    with sd.open(study) as opened:
        assert opened.sql("SELECT area, changed_area FROM rois WHERE roi_set = 'other'").fetchall() == [(120_000, 0)]


def _info(study: Path) -> list[dict[str, Any]]:
    result = CliRunner().invoke(cli, ["info", str(study), "--json"])
    assert result.exit_code == 0
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows
