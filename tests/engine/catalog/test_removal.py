"""Taking slides and ROI files out of a study, and adding ROI files that did not change."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import slideduck as sd
from slideduck.cli.group import cli
from slideduck.errors import InputError, StudyError


def square(name: str, low: int, high: int, label: str = "tumour") -> str:
    """Return the rows of a square ROI."""
    corners = [(low, low), (high, low), (high, high), (low, high)]
    return "".join(f"{name},{x},{y},{label}\n" for x, y in corners)


@pytest.fixture
def cohort(study: sd.Study, tmp_path: Path) -> sd.Study:
    """Three labelled slides that exist as rows alone; s0 has two files, one with a hole in an ROI of the other."""
    for i in range(3):
        study.con.execute(
            "INSERT INTO slides (slide, path, width, height, mpp, level_downsamples) VALUES ($1, $2, 640, 640, 1, [1])",
            [f"s{i}", f"s{i}.svs"],
        )
        (tmp_path / f"s{i}.csv").write_text("roi_name,x_base,y_base,label\n" + square("outer", 0, 512))
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "inner.csv").write_text(
        "slide,roi_name,x_base,y_base,label\n" + square("s0,inner", 128, 256) + square("s1,apart", 520, 600, "stroma")
    )
    study.add_rois([tmp_path / "s0.csv", tmp_path / "s1.csv", tmp_path / "s2.csv", tmp_path / "more"])
    study.tile(64, tile_um=64)
    study.label()
    return study


def tables(study: sd.Study) -> dict[str, list[tuple[object, ...]]]:
    return {
        name: study.sql(f"FROM {name} ORDER BY ALL").fetchall()
        for name in ("slides", "roi_files", "rois", "grid_slides", "tiles", "tile_rois", "labelled", "label_counts")
    }


def test_removed_file_takes_its_rois_and_its_holes(cohort: sd.Study, tmp_path: Path) -> None:
    assert cohort.sql("SELECT roi_desc FROM rois WHERE slide = 's0' AND parent IS NULL").fetchall() == [
        ("outer (holes: inner)",)
    ]
    before = tables(cohort)
    report = cohort.remove_rois(tmp_path / "more" / "inner.csv", dry_run=True)
    assert tables(cohort) == before
    assert cohort.remove_rois(tmp_path / "more") == report  # A folder names the files in it.
    assert (report.paths, report.rois, report.slides) == ((str(tmp_path / "more" / "inner.csv"),), 2, ("s0", "s1"))
    assert cohort.sql("SELECT slide, roi_desc, area FROM rois ORDER BY ALL").fetchall() == [
        (f"s{i}", "outer", 512.0**2) for i in range(3)
    ]
    with pytest.raises(StudyError, match=r"the labels of 2 slides are out of date \(s0, s1\)"):
        cohort.labels()
    assert cohort.label().slides == 2
    assert cohort.sql("SELECT DISTINCT label FROM labels WHERE kept").fetchall() == [("tumour",)]


def test_removed_file_need_not_exist_any_more(cohort: sd.Study, tmp_path: Path) -> None:
    (tmp_path / "s2.csv").unlink()
    assert cohort.remove_rois(tmp_path / "s[2-9].csv").slides == ("s2",)
    assert cohort.sql("SELECT count(*) FROM rois WHERE slide = 's2'").fetchall() == [(0,)]


def test_file_that_the_study_lacks_is_refused_and_nothing_is_removed(cohort: sd.Study, tmp_path: Path) -> None:
    before = tables(cohort)
    with pytest.raises(StudyError) as caught:
        cohort.remove_rois([tmp_path / "s1.csv", tmp_path / "s9.csv"])
    assert str(caught.value) == (
        f"the study has no ROI file {tmp_path / 's9.csv'} in the set 'default'; see which there are with: "
        "slideduck sql study.duckdb 'SELECT roi_set, path FROM roi_files'"
    )
    assert tables(cohort) == before


def test_marked_hole_whose_roi_goes_is_refused(study: sd.Study, tmp_path: Path) -> None:
    study.con.execute(
        "INSERT INTO slides (slide, path, width, height, mpp, level_downsamples) VALUES ('s', 's', 640, 640, 1, [1])"
    )
    (tmp_path / "outer.csv").write_text("slide,roi_name,x_base,y_base,label\n" + square("s,outer", 0, 512))
    vertices = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in [(99, 99), (199, 99), (199, 199)])
    (tmp_path / "s.xml").write_text(
        '<Annotations><Annotation Name="tumour"><Regions><Region Id="1" NegativeROA="1" Text="gap"><Vertices>'
        f"{vertices}</Vertices></Region></Regions></Annotation></Annotations>"
    )
    study.add_rois([tmp_path / "outer.csv", tmp_path / "s.xml"], holes="explicit")
    with pytest.raises(InputError) as caught:
        study.remove_rois(tmp_path / "outer.csv")
    assert caught.value.problems == (
        f"{tmp_path / 's.xml'}: hole 'gap' overlaps no ROI labelled 'tumour'; "
        "move it into the annotation that it is a hole of, or unmark it",
    )
    assert study.sql("SELECT count(*) FROM rois").fetchall() == [(2,)]


def test_removed_slide_takes_all_that_is_known_of_it(cohort: sd.Study, tmp_path: Path) -> None:
    cohort.con.execute(
        "INSERT INTO predictions VALUES ('r', '64px_64um', 's1', 't', 0, 0, 'a', 1, MAP {'a': 1}, NULL, NULL)"
    )
    before = tables(cohort)
    report = cohort.remove_slides("s1", dry_run=True)
    assert tables(cohort) == before
    assert cohort.remove_slides(["s1"]) == report
    # inner.csv gave ROIs to s0 too, and stays.
    assert (report.slides, report.rois, report.roi_files, report.tiles, report.predictions) == (("s1",), 2, 1, 100, 1)
    with sd.open(tmp_path / "other.duckdb") as other:
        for name in ("s0", "s2"):
            other.con.execute(
                "INSERT INTO slides (slide, path, width, height, mpp, level_downsamples) "
                "VALUES ($1, $2, 640, 640, 1, [1])",
                [name, f"{name}.svs"],
            )
        (tmp_path / "more" / "inner.csv").write_text(
            "slide,roi_name,x_base,y_base,label\n" + square("s0,inner", 128, 256)
        )
        other.add_rois([tmp_path / "s0.csv", tmp_path / "s2.csv", tmp_path / "more"])
        other.tile(64, tile_um=64)
        other.label()
        assert cohort.label().slides == 0
        assert cohort.labels().fetchall() == other.labels().fetchall()
        assert cohort.label().counts == other.label().counts
    for name in ("predictions", "rois", "slides"):
        assert cohort.sql(f"SELECT count(*) FROM {name} WHERE slide = 's1'").fetchall() == [(0,)], name


def test_slide_that_the_study_lacks_is_refused_and_nothing_is_removed(cohort: sd.Study) -> None:
    before = tables(cohort)
    with pytest.raises(StudyError, match="the study has no slide 's8', 's9'; nothing was removed"):
        cohort.remove_slides(["s9", "s1", "s8"])
    with pytest.raises(StudyError, match="no slide is named; name those to remove"):
        cohort.remove_slides([])
    assert tables(cohort) == before


def test_files_that_did_not_change_are_left_alone(cohort: sd.Study, tmp_path: Path) -> None:
    before = tables(cohort)
    report = cohort.add_rois([tmp_path / "s0.csv", tmp_path / "s1.csv", tmp_path / "s2.csv", tmp_path / "more"])
    assert (report.files, report.rois, report.unchanged) == (0, 0, 4)
    assert tables(cohort) == before
    (tmp_path / "s2.csv").write_text("roi_name,x_base,y_base,label\n" + square("outer", 0, 256))
    report = cohort.add_rois([tmp_path / "s0.csv", tmp_path / "s1.csv", tmp_path / "s2.csv", tmp_path / "more"])
    assert (report.files, report.rois, report.slides, report.unchanged) == (1, 1, 1, 3)
    assert cohort.label().slides == 1
    # Told in another way, the holes of a file are others: it is read again.
    report = cohort.add_rois(tmp_path / "s1.csv", holes="explicit")
    assert (report.files, report.unchanged) == (1, 0)


def test_commands_print_what_goes_and_remove_nothing_on_a_dry_run(cohort: sd.Study, tmp_path: Path) -> None:
    path = str(cohort.path)
    cohort.close()
    run = CliRunner().invoke
    result = run(cli, ["remove-rois", path, str(tmp_path / "s2.csv"), "--dry-run"])
    assert result.stdout == "would remove 1 ROI on 1 slide, from 1 file\n"
    assert result.stderr == f"files:\n  {tmp_path / 's2.csv'}\n"
    result = run(cli, ["remove-slides", path, "s2", "--dry-run"])
    assert result.stdout == "would remove 1 slide, 1 ROI (1 file), 100 tiles and 0 predictions\n"
    result = run(cli, ["remove-slides", path, "s2"])
    assert result.stdout == "removed 1 slide, 1 ROI (1 file), 100 tiles and 0 predictions\n"
    result = run(cli, ["remove-rois", path, str(tmp_path / "s2.csv")])
    assert result.exit_code == 1
