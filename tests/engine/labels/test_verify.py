"""Labels compared with a plain spatial join: it agrees, and it finds what was changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import slideduck as sd
from slideduck.cli.group import cli
from slideduck.errors import StudyError


@pytest.fixture(scope="module")
def labelled(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of the two real slides, with a grid that overlaps and one that does not."""
    path = tmp_path_factory.mktemp("verify") / "real.duckdb"
    with sd.open(path) as study:
        study.add_slides(shared_data, mpp=0.5)
        study.add_rois([shared_data / "CMU-1-Small-Region.csv", shared_data / "TCGA-CR-7395-01A-01-TS1.geojson"])
        study.add_rois(shared_data / "CMU-1-Small-Region.xml", roi_set="second")
        study.tile(64, tile_um=64)
        study.tile(64, tile_um=100, stride_div=2, origin=(7, 3))
        study.label()
    return path


@pytest.fixture
def copy(labelled: Path, tmp_path: Path) -> Path:
    """A study that a test may spoil."""
    return Path(shutil.copy(labelled, tmp_path / "real.duckdb"))


def test_every_pair_is_that_of_the_spatial_join(labelled: Path) -> None:
    with sd.open(labelled, read_only=True) as study:
        report = study.verify(None)
        tiles, pairs = study.sql("SELECT (SELECT count(*) FROM tiles), (SELECT count(*) FROM tile_rois)").fetchall()[0]
    assert (report.slides, report.tiles) == (4, tiles)
    assert report.pairs >= pairs > 3000
    assert report.largest_difference < 1e-9
    assert report.differences.num_rows == 0


def test_sample_is_drawn_by_its_seed_and_has_edges(labelled: Path) -> None:
    with sd.open(labelled, read_only=True) as study:
        first, again, other = study.verify(200), study.verify(200), study.verify(200, seed=1)
    assert first == again
    assert (other.pairs, other.largest_difference) != (first.pairs, first.largest_difference)
    assert 150 <= first.tiles <= 200  # A tile may be drawn twice, as one on an edge and as any.
    assert 0 < first.largest_difference < 1e-9


def test_what_was_changed_is_found(copy: Path) -> None:
    with sd.open(copy) as study:
        rows = study.con.execute(
            "SELECT tile_rois.rowid, slide, roi_set, roi_name, centre, coverage FROM tile_rois "
            "JOIN rois USING (roi_id) WHERE coverage > 0.1 AND coverage < 0.9 ORDER BY tile_rois.rowid LIMIT 3"
        ).fetchall()
        study.con.execute("UPDATE tile_rois SET centre = NOT centre WHERE rowid = $1", [rows[0][0]])
        study.con.execute("UPDATE tile_rois SET coverage = coverage + 2e-9 WHERE rowid = $1", [rows[1][0]])
        study.con.execute("DELETE FROM tile_rois WHERE rowid = $1", [rows[2][0]])
        found = study.verify(None).differences.to_pylist()
        assert sorted((r["slide"], r["roi_set"], r["roi_name"]) for r in found) == sorted(row[1:4] for row in rows)
        (gone,) = [r for r in found if r["stored_coverage"] == 0]
        assert gone["joined_centre"] == rows[2][4]
        assert gone["joined_coverage"] == pytest.approx(rows[2][5], abs=1e-9)
        # What is told to do about it helps.
        study.label(anew=True)
        assert study.verify(None).differences.num_rows == 0


def test_command_says_what_it_compared_and_fails_where_pairs_differ(copy: Path) -> None:
    words = ["label", str(copy), "--verify", "--verify-tiles", "all"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0
    assert "nothing changed since the last labelling; the rule is in force" in result.stderr
    assert "tiles on 4 slides and grids by a spatial join: " in result.stderr
    with sd.open(copy) as study:
        study.con.execute("UPDATE tile_rois SET centre = NOT centre WHERE rowid = 0")
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 1
    assert result.stderr.endswith(
        "error: 1 pair differs from the spatial join; was the study changed by SQL? Label it with --anew; if they "
        "differ again, this is a mistake of slideduck: please report it\n"
    )
    result = CliRunner().invoke(cli, ["label", str(copy), "--verify-tiles", "none"])
    assert result.exit_code == 2
    assert "'none' is neither a number of tiles nor all" in result.stderr


def test_nothing_to_verify_is_an_error(study: sd.Study) -> None:
    with pytest.raises(
        StudyError, match=r"study\.duckdb has no labels yet; make them with: slideduck label study\.duckdb"
    ):
        study.verify()


def test_no_tile_is_an_error(labelled: Path) -> None:
    with (
        sd.open(labelled, read_only=True) as study,
        pytest.raises(StudyError, match="0 tiles are to be verified; give 1 or more, or all"),
    ):
        study.verify(0)
