"""A study, by its public methods: what goes in, what is refused, what comes out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

import slideduck as sd
from slideduck.errors import InputError, QueryError, SplitError, StudyError
from tests.slides import write_slide

SQUARE = "100,100\n300,100\n300,300\n100,300\n"


def csv_of(*rois: tuple[str, str, str]) -> str:
    """Return a Slideflow CSV of ROIs: name, label, and lines of x,y."""
    lines = ["roi_name,x_base,y_base,label"]
    for name, label, points in rois:
        lines += [f"{name},{point},{label}" for point in points.split()]
    return "\n".join(lines) + "\n"


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    """Four small slides of 640 x 480 base pixels at 0.5 microns."""
    folder = tmp_path / "slides"
    folder.mkdir()
    for i in range(4):
        write_slide(folder / f"s{i}.tiff", i, size=(640, 480), mpp=0.5, levels=1, tile=64)
    return folder


@pytest.fixture
def filled(study: sd.Study, slides: Path, tmp_path: Path) -> sd.Study:
    """The study of the four slides, each with one ROI of each of two labels."""
    study.add_slides(slides)
    rois = tmp_path / "rois"
    rois.mkdir()
    for i in range(4):
        (rois / f"s{i}.csv").write_text(
            csv_of(
                ("left", "tumour", f"0,0 {200 + 20 * i},0 {200 + 20 * i},480 0,480"),
                ("right", "stroma", "400,0 640,0 640,480 400,480"),
            )
        )
    study.add_rois(rois)
    study.tile(32, tile_um=16)
    return study


def test_names_of_slides_are_unique(study: sd.Study, slides: Path, tmp_path: Path) -> None:
    study.add_slides(slides)
    other = tmp_path / "other"
    other.mkdir()
    write_slide(other / "s1.tiff", 9, size=(640, 480), mpp=0.5, levels=1, tile=64)
    with pytest.raises(InputError) as caught:
        study.add_slides(other)
    assert str(caught.value) == (
        f"{other}/s1.tiff: slide 's1' is in the study already, from {slides}/s1.tiff; "
        "names are unique in a study: rename one of the files, or give `names='relative'`"
    )
    assert study.sql("SELECT count(*) FROM slides").fetchall() == [(4,)]


def test_adding_slides_again_changes_nothing(filled: sd.Study, slides: Path) -> None:
    filled.label()
    before = filled.labels().fetchall()
    report = filled.add_slides(slides)
    assert (report.added, report.updated, report.unchanged) == (0, 0, 4)
    assert filled.labels().fetchall() == before


def test_a_slide_that_changed_loses_its_labels(filled: sd.Study, slides: Path) -> None:
    filled.label()
    write_slide(slides / "s2.tiff", 77, size=(512, 480), mpp=0.5, levels=1, tile=64)
    report = filled.add_slides(slides)
    assert (report.updated, report.unchanged) == (1, 3)
    with pytest.raises(StudyError) as caught:
        filled.labels()
    # It has left its grid too, so that no tile of the old size is left over.
    assert str(caught.value) == (
        "the labels of 1 slide are out of date (s2); bring them up to date with: slideduck label study.duckdb"
    )
    assert filled.label().slides == 1
    assert filled.sql("SELECT count(*) FROM labels WHERE slide = 's2'").fetchall() == [(16 * 15,)]


def test_mpp_may_be_given_by_name(study: sd.Study, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_slide(tmp_path / f"{name}.tiff", 1, size=(128, 128), mpp=None, levels=1, tile=64)
    report = study.add_slides([tmp_path / "a.tiff", tmp_path / "b.tiff"], mpp={"a": 0.25})
    assert list(report.failed) == ["b"]
    assert study.sql("SELECT slide, mpp, mpp_given, error IS NULL FROM slides ORDER BY slide").fetchall() == [
        ("a", 0.25, True, True),
        ("b", None, False, False),
    ]
    with pytest.raises(InputError) as caught:
        study.add_slides(tmp_path / "a.tiff", mpp={"c": 0.25})
    assert str(caught.value) == "`mpp` names slide 'c', which is not among the 1 file given"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            csv_of(("r", "x", SQUARE)).replace("r,", "r,", 1),
            "zz.csv:2: slide 'zz' is not in the study; add it first with add-slides, or name the file after its slide",
        ),
    ],
)
def test_rois_of_a_slide_that_is_not_there(study: sd.Study, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "zz.csv").write_text(content)
    with pytest.raises(InputError) as caught:
        study.add_rois(tmp_path / "zz.csv")
    assert str(caught.value) == message


def test_every_bad_roi_is_reported_and_none_is_kept(study: sd.Study, slides: Path, tmp_path: Path) -> None:
    study.add_slides(slides)
    (tmp_path / "s0.csv").write_text(
        csv_of(
            ("good", "x", SQUARE),
            ("flat", "x", "10,10 20,20 30,30"),
            ("far", "x", "5000,10 5100,10 5100,90"),
        )
    )
    (tmp_path / "s1.csv").write_text(csv_of(("edge", "x", "-50,10 0,10 0,90")))
    with pytest.raises(InputError) as caught:
        study.add_rois([tmp_path / "s1.csv", tmp_path / "s0.csv"])
    assert str(caught.value).splitlines() == [
        "s0.csv:6: ROI 'flat' of slide 's0' has no area; draw it again or remove it",
        "s0.csv:9: ROI 'far' lies wholly outside slide 's0' (x 5000.0 to 5100.0, y 10.0 to 90.0; "
        "the slide is 640 x 480); coordinates must be level-0 pixels from the slide's top left corner",
        "s1.csv:2: ROI 'edge' lies wholly outside slide 's1' (x -50.0 to 0.0, y 10.0 to 90.0; "
        "the slide is 640 x 480); coordinates must be level-0 pixels from the slide's top left corner",
    ]
    assert study.sql("SELECT count(*) FROM rois").fetchall() == [(0,)]
    assert study.sql("SELECT count(*) FROM roi_files").fetchall() == [(0,)]


def test_a_name_in_two_files_of_a_slide_is_refused(study: sd.Study, slides: Path, tmp_path: Path) -> None:
    study.add_slides(slides)
    first, second = tmp_path / "s0.csv", tmp_path / "more.csv"
    first.write_text(csv_of(("r", "x", SQUARE)))
    second.write_text("slide,roi_name,x_base,y_base\ns0,r,1,1\ns0,r,90,1\ns0,r,1,90\n")
    with pytest.raises(InputError) as caught:
        study.add_rois([first, second])
    assert str(caught.value) == (
        f"s0.csv:2: ROI 'r' of slide 's0' is in {second} too; names are unique in a slide: "
        "rename one, or add only one of the files"
    )
    study.add_rois(first)
    with pytest.raises(InputError) as caught:
        study.add_rois(second)
    assert str(caught.value) == (
        f"more.csv:2: ROI 'r' of slide 's0' is in {first} too, which the study has; names are unique in a slide: put "
        "this file in the other's place for that slide with `replace=True` (ROIs: 0 the same, 1 changed, 0 new, 0 "
        "gone), or rename them"
    )
    assert study.add_rois(second, replace=True).replaced == (
        f"s0: {second} in place of {first}: 0 the same, 1 changed, 0 new, 0 gone",
    )
    assert study.sql("SELECT path FROM roi_files").fetchall() == [(str(second),)]


def test_adding_a_file_again_replaces_what_it_gave(filled: sd.Study, tmp_path: Path) -> None:
    filled.label()
    path = tmp_path / "rois" / "s1.csv"
    path.write_text(csv_of(("middle", "fat", SQUARE)))
    filled.add_rois(path)
    assert filled.sql("SELECT roi_name FROM rois WHERE slide = 's1'").fetchall() == [("middle",)]
    with pytest.raises(StudyError, match="the labels of 1 slide are out of date"):
        filled.labels()
    # In plain SQL a slide whose labels are out of date is absent, rather than wrong.
    assert filled.sql("SELECT count(*) FROM labels WHERE slide = 's1'").fetchall() == [(0,)]
    report = filled.label()
    assert report.slides == 1
    assert filled.sql("SELECT DISTINCT label FROM labels WHERE slide = 's1' ORDER BY 1").fetchall() == [
        ("fat",),
        (None,),
    ]


def test_what_happened_to_rois_is_counted(study: sd.Study, slides: Path, tmp_path: Path) -> None:
    study.add_slides(slides)
    (tmp_path / "s0.csv").write_text(
        csv_of(
            ("bow", "x", "10,10 60,60 60,10 10,60"),
            ("over", "x", "600,10 700,10 700,90 600,90"),
            ("plain", "", "200,200 400,200 400,400 200,400"),
            ("hole", "", "250,250 300,250 300,300 250,300"),
        )
    )
    report = study.add_rois(tmp_path / "s0.csv")
    assert (report.files, report.rois, report.holes, report.slides) == (1, 4, 1, 1)
    assert report.repaired == ("s0: bow",)
    assert report.leaving == ("s0: over",)
    assert report.unlabelled == ("s0: hole", "s0: plain")
    assert study.sql("SELECT roi_name, parent, roi_desc, area FROM rois ORDER BY roi_name").fetchall() == [
        ("bow", None, "bow", 1250.0),
        ("hole", "plain", "hole", 2500.0),
        ("over", None, "over", 8000.0),
        ("plain", None, "plain (holes: hole)", 37500.0),
    ]


def test_explicit_holes_need_an_roi_around_them(study: sd.Study, slides: Path, tmp_path: Path) -> None:
    study.add_slides(slides)
    region = '<Region Id="{}" Type="0" Text="{}" NegativeROA="{}"><Vertices>{}</Vertices></Region>'

    def box(x: int, y: int, side: int) -> str:
        corners = [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]
        return "".join(f'<Vertex X="{a}" Y="{b}" />' for a, b in corners)

    (tmp_path / "s0.xml").write_text(
        '<Annotations><Annotation Id="1" Name="tumour"><Regions>'
        + region.format(1, "out", 0, box(0, 0, 100))
        + region.format(2, "gap", 1, box(300, 300, 10))
        + "</Regions></Annotation></Annotations>"
    )
    with pytest.raises(InputError) as caught:
        study.add_rois(tmp_path / "s0.xml")
    assert str(caught.value) == (
        "s0.xml:1: hole 'gap' overlaps no ROI labelled 'tumour'; "
        "move it into the annotation that it is a hole of, or unmark it"
    )


def test_patients_keep_their_columns_and_join(filled: sd.Study, tmp_path: Path) -> None:
    table = tmp_path / "patients.csv"
    table.write_text("slide,patient,site,age\ns0,007,A,61\ns1,007,A,61\ns2,8,B,\nghost,9,B,40\n")
    report = filled.add_patients(table)
    assert (report.rows, report.patients) == (4, 3)
    assert report.unknown_slides == ("ghost",)
    assert report.slides_without == ("s3",)
    filled.label()
    assert filled.sql(
        "SELECT DISTINCT slide, labels.patient, age FROM labels LEFT JOIN patients USING (slide) ORDER BY slide"
    ).fetchall() == [("s0", "007", 61), ("s1", "007", 61), ("s2", "8", None), ("s3", "s3", None)]
    table.write_text("slide,patient,grade\ns3,10,high\n")
    filled.add_patients(table)
    assert filled.sql("SELECT slide, patient, age, grade FROM patients ORDER BY slide").fetchall() == [
        ("ghost", "9", 40, None),
        ("s0", "007", 61, None),
        ("s1", "007", 61, None),
        ("s2", "8", None, None),
        ("s3", "10", None, "high"),
    ]


def test_a_split_leaks_no_patient_and_goes_when_patients_change(filled: sd.Study, tmp_path: Path) -> None:
    table = tmp_path / "patients.csv"
    table.write_text("slide,patient,site,fixed\ns0,p,A,train\ns1,p,A,val\ns2,q,B,train\ns3,r,B,val\n")
    filled.add_patients(table)
    filled.label()
    counts = filled.split(val_fraction=0.4, seed=1).counts
    assert counts.column_names == ["grid", "split", "fold", "label", "tiles", "slides", "patients"]
    assert filled.sql(
        "SELECT max(n) FROM (SELECT patient, count(DISTINCT split) AS n FROM labels GROUP BY patient)"
    ).fetchall() == [(1,)]
    before = filled.sql("FROM splits ORDER BY patient").fetchall()
    with pytest.raises(SplitError) as caught:
        filled.split(column="fixed")
    assert str(caught.value) == (
        "patient 'p' is on the sides 'train' and 'val' of column 'fixed'; give all slides of a patient one side"
    )
    assert filled.sql("FROM splits ORDER BY patient").fetchall() == before
    table.write_text("slide,patient\ns1,q\n")
    assert filled.add_patients(table).split_removed
    assert filled.sql("SELECT count(*) FROM labels WHERE split IS NOT NULL").fetchall() == [(0,)]


def test_folds_preserve_sites(filled: sd.Study, tmp_path: Path) -> None:
    table = tmp_path / "patients.csv"
    table.write_text("slide,patient,site\ns0,p,A\ns1,q,A\ns2,r,B\ns3,t,C\n")
    filled.add_patients(table)
    filled.label()
    filled.split(folds=2, val_fold=1, preserve_site=True)
    rows = filled.sql("SELECT site, count(DISTINCT fold), any_value(split), any_value(fold) FROM labels GROUP BY site")
    for _, folds, split, fold in rows.fetchall():
        assert folds == 1
        assert split == ("val" if fold == 1 else "train")
    with pytest.raises(SplitError) as caught:
        filled.split(folds=4, preserve_site=True)
    assert str(caught.value) == "3 sites cannot fill 4 folds; ask for fewer folds"


def test_a_split_that_cannot_be_says_why_and_what_to_give(filled: sd.Study, tmp_path: Path) -> None:
    filled.label()
    table = tmp_path / "patients.csv"
    table.write_text("slide,patient,site,part\ns0,p,A,train\ns1,q,A, \ns2,r,,val\ns3,t,B,train\n")
    filled.add_patients(table)
    for wrong, message, right in (
        ({"val_fraction": 0}, "`val_fraction` is 0; give a part above 0 and below 1, such as 0.3",
         {"val_fraction": 0.3}),
        ({"val_fraction": 1.5}, "`val_fraction` is 1.5; give a part above 0 and below 1, such as 0.3",
         {"val_fraction": 0.3}),
        ({"preserve_site": True}, "`preserve_site` is given without folds; say how many, such as `folds=3`",
         {"folds": 3}),
        ({"folds": 1}, "`folds` is 1; give 2 or more", {"folds": 2}),
        ({"folds": 3, "val_fold": 3}, "`val_fold` is 3; give a fold from 0 to 2", {"folds": 3, "val_fold": 2}),
        ({"folds": 2, "column": "part"}, "both `column` and `folds` are given; give one of them", {"folds": 2}),
        ({"folds": 2, "preserve_site": True},
         "1 of 4 patients has no site (r); add a table with a column site by add-patients, or split without "
         "preserving sites", {"folds": 2}),
        ({"column": "wing"}, "the patients' table has no column 'wing'; it has slide, patient, site, part",
         {"val_fraction": 0.3}),
        ({"column": "part"}, "patient 'q' (slides s1) has no part; fill the column in", {"val_fraction": 0.3}),
    ):  # fmt: skip
        with pytest.raises(SplitError) as caught:
            filled.split(**wrong)
        assert str(caught.value) == message, wrong
        filled.split(**right)
        assert filled.sql("SELECT count(DISTINCT patient) FROM splits").fetchall() == [(4,)], right


def test_one_file_under_two_names_would_leak(study: sd.Study, slides: Path, tmp_path: Path) -> None:
    (slides / "copy.tiff").write_bytes((slides / "s0.tiff").read_bytes())
    (slides / "s3.tiff").unlink()
    study.add_slides(slides)
    table = tmp_path / "patients.csv"
    table.write_text("slide,patient,side\ns0,p,train\ns1,q,train\ns2,r,val\ncopy,t,val\n")
    study.add_patients(table)
    study.tile(32, tile_um=16)
    study.label()
    with pytest.raises(SplitError) as caught:
        study.split(column="side")
    assert str(caught.value) == (
        "slides copy, s0 are the same file under two names, and would be on the sides train, val; "
        "give them one patient, or remove one"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "center"}, "rule is 'center'; give one of centre, coverage"),
        ({"threshold": 0.0}, "threshold is 0; give a part of the tile above 0 and at most 1"),
        (
            {"overlap": "priority"},
            "`overlap='priority'` needs labels; name them in order with `priority`, the first wins",
        ),
        ({"priority": ["a"]}, "`priority` names labels, and the overlap is 'smallest'; give `overlap='priority'` too"),
        (
            {"roi_sets": ["second"]},
            "no ROIs are in the set 'second'; the study has 'default'; name those that label with `roi_sets`",
        ),
    ],
)
def test_impossible_rules_are_refused(filled: sd.Study, settings: dict[str, object], message: str) -> None:
    with pytest.raises(StudyError) as caught:
        filled.label(**settings)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_methods_and_artifacts_keep_the_tiles_they_should(filled: sd.Study, tmp_path: Path) -> None:
    (tmp_path / "pen.csv").write_text(
        "slide,roi_name,x_base,y_base,label\ns0,pen,0,0,ink\ns0,pen,64,0,ink\ns0,pen,64,64,ink\ns0,pen,0,64,ink\n"
    )
    filled.add_rois(tmp_path / "pen.csv")
    (tmp_path / "rois" / "s3.csv").unlink()
    filled.con.execute("DELETE FROM rois WHERE slide = 's3'")

    def kept(**settings: object) -> dict[str, tuple[int, int]]:
        filled.label(artifact_labels=["ink"], **settings)  # type: ignore[arg-type]
        rows = filled.sql("SELECT slide, sum(kept::INT), count(label) FROM labels GROUP BY slide").fetchall()
        return {slide: (int(tiles), labelled) for slide, tiles, labelled in rows}

    # 20 x 15 tiles of 32 px; s0: 6 columns of centres in `left`, 8 in `right`, less the 2 x 2 of the pen.
    inside = 6 * 15 + 8 * 15 - 4
    assert kept()["s0"] == (inside, inside)
    assert kept()["s3"] == (300, 0)
    assert kept(method="inside")["s3"] == (0, 0)
    assert kept(method="outside")["s0"] == (300 - inside - 4, 0)
    assert kept(method="ignore")["s0"] == (296, inside)


def test_a_change_of_the_rule_computes_nothing(filled: sd.Study) -> None:
    assert filled.label().slides == 4
    assert filled.label(rule="coverage", threshold=1.0).slides == 0
    full = filled.sql("SELECT count(*) FROM labels WHERE label IS NOT NULL").fetchall()
    assert filled.label(rule="coverage", threshold=0.1).slides == 0
    assert filled.sql("SELECT count(*) FROM labels WHERE label IS NOT NULL").fetchall() > full


def test_rois_without_tiles_are_named(filled: sd.Study, tmp_path: Path) -> None:
    (tmp_path / "tiny.csv").write_text("slide,roi_name,x_base,y_base,label\ns0,dot,1,1,a\ns0,dot,2,1,a\ns0,dot,2,2,a\n")
    filled.add_rois(tmp_path / "tiny.csv")
    report = filled.label()
    assert report.empty_rois.to_pylist() == [
        {"grid": "32px_16um", "slide": "s0", "roi_name": "dot", "label": "a", "area_um2": 0.125}
    ]


def test_slideflows_data_frame(filled: sd.Study) -> None:
    filled.label()
    frame = filled.tile_dataframe()
    assert list(frame.columns) == ["loc_x", "loc_y", "grid_x", "grid_y", "roi_name", "roi_desc", "label", "slide"]
    assert frame.index[0] == "s0-16-16"
    first = frame.iloc[0]
    assert (first.loc_x, first.loc_y, first.grid_x, first.grid_y) == (16, 16, 0, 0)
    assert (first.roi_name, first.roi_desc, first.label, first.slide) == ("left", "left", "tumour", "s0")
    order = list(zip(frame.slide, frame.grid_y, frame.grid_x, strict=True))
    assert order == sorted(order)


def test_relations_come_as_frames_of_every_kind(filled: sd.Study) -> None:
    filled.label()
    relation = filled.labels("label = 'tumour' AND slide = 's0'")
    assert len(relation.df()) == relation.to_arrow_table().num_rows == 6 * 15
    assert isinstance(filled.sql("SELECT $a + 1 AS b", {"a": 1}).to_arrow_table(), pa.Table)


def test_bad_sql_names_itself(filled: sd.Study) -> None:
    filled.label()
    with pytest.raises(QueryError) as caught:
        filled.labels("labl = 'tumour'")
    assert str(caught.value) == (
        'the condition "labl = \'tumour\'" cannot be used: Binder Error: Referenced column "labl" not found in FROM '
        f"clause!; give one SQL condition on the columns {', '.join(filled.sql('FROM labels').columns)}"
    )
    with pytest.raises(QueryError) as caught:
        filled.sql("SELECT * FROM nothing")
    assert str(caught.value).endswith("in the query: SELECT * FROM nothing")


def test_several_grids_live_side_by_side(filled: sd.Study) -> None:
    assert filled.tile(32, tile_um=16, stride_div=2).tiles == 4 * 39 * 29
    assert filled.tile(32, tile_um=16).slides == 0
    filled.label()
    assert filled.sql("SELECT grid, count(*) FROM labels GROUP BY grid ORDER BY grid").fetchall() == [
        ("32px_16um", 1200),
        ("32px_16um_stride2", 4 * 39 * 29),
    ]
    with pytest.raises(StudyError) as caught:
        filled.tile_dataframe()
    assert str(caught.value) == ("study.duckdb has 2 grids (32px_16um, 32px_16um_stride2); name one with `grid`")


def test_new_slides_join_the_grids_when_labelled(filled: sd.Study, slides: Path) -> None:
    filled.label()
    write_slide(slides / "s9.tiff", 9, size=(640, 480), mpp=0.5, levels=1, tile=64)
    filled.add_slides(slides)
    assert filled.label().slides == 1
    assert filled.sql("SELECT count(*) FROM labels WHERE slide = 's9'").fetchall() == [(300,)]


def test_the_first_connection_of_a_process_verifies_the_spatial_extension(tmp_path: Path) -> None:
    (folder,) = find_spec("duckdb_extension_spatial").submodule_search_locations  # type: ignore[union-attr, misc]
    name = Path("extensions", f"v{duckdb.__version__}", "spatial.duckdb_extension")
    changed = tmp_path / "duckdb_extension_spatial" / name
    changed.parent.mkdir(parents=True)
    content = bytearray((Path(folder) / name).read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    (tmp_path / "duckdb_extension_spatial" / "__init__.py").touch()
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", f"import slideduck as sd; sd.open({str(tmp_path / 'study.duckdb')!r})"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 1
    assert "signature is either missing or invalid" in done.stderr


@pytest.mark.parametrize("read_only", [False, True])
def test_a_study_loads_no_extension_that_is_not_verified(study: sd.Study, tmp_path: Path, read_only: bool) -> None:
    study.close()
    (tmp_path / "other.duckdb_extension").write_bytes(bytes(1000))
    with sd.open(study.path, read_only=read_only) as opened:
        assert opened.sql("SELECT current_setting('allow_unsigned_extensions')").fetchall() == [(False,)]
        with pytest.raises(duckdb.InvalidInputException, match="Cannot change allow_unsigned_extensions"):
            opened.con.execute("SET allow_unsigned_extensions = true")
        with pytest.raises(duckdb.Error):
            opened.con.load_extension(str(tmp_path / "other.duckdb_extension"))
        assert opened.sql("SELECT ST_Area(ST_MakeEnvelope(0, 0, 2, 3))").fetchall() == [(6.0,)]


def test_files_that_are_no_studies(tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        sd.open(tmp_path / "none.duckdb", read_only=True)
    assert str(caught.value) == (
        f"no study at {tmp_path}/none.duckdb; make it with: slideduck add-slides {tmp_path}/none.duckdb FOLDER"
    )
    (tmp_path / "text.duckdb").write_text("This is not a database, but a text of some length.\n" * 100)
    with pytest.raises(StudyError) as caught:
        sd.open(tmp_path / "text.duckdb")
    assert str(caught.value) == f"{tmp_path}/text.duckdb is not a study: not a DuckDB file; give another path"
    duckdb.connect(tmp_path / "other.duckdb").execute("CREATE TABLE t (a INT)").close()
    with pytest.raises(StudyError) as caught:
        sd.open(tmp_path / "other.duckdb")
    assert str(caught.value) == (
        f"{tmp_path}/other.duckdb is a DuckDB file of another program, not a study; give another path"
    )
    with sd.open(tmp_path / "new.duckdb") as study:
        study.con.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    with pytest.raises(StudyError) as caught:
        sd.open(tmp_path / "new.duckdb")
    assert str(caught.value) == (
        f"{tmp_path}/new.duckdb was written by a newer slideduck (schema 99; this one knows 4); upgrade slideduck"
    )


def test_views_of_an_older_release_are_made_anew(tmp_path: Path) -> None:
    with sd.open(tmp_path / "old.duckdb") as study:
        study.con.execute("CREATE OR REPLACE VIEW labels AS SELECT 1 AS old")
        study.con.execute("UPDATE meta SET value = 'before' WHERE key = 'views'")
    with sd.open(tmp_path / "old.duckdb", read_only=True) as study:
        assert "tile_id" in study.sql("FROM labels").columns


DUMP = """
import json, sys
import slideduck as sd
slides, rois, path, order, threads = sys.argv[1:6]
backwards = (lambda names: list(reversed(names))) if order == "reversed" else list
import pathlib
with sd.open(path, threads=int(threads)) as study:
    for slide in backwards(sorted(pathlib.Path(slides).glob("*.tiff"))):
        study.add_slides(slide)
    study.add_rois(backwards(sorted(pathlib.Path(rois).glob("*.csv"))))
    study.tile(32, tile_um=16, stride_div=2)
    study.label(rule="coverage", threshold=0.2, overlap="largest")
    study.split(seed=3)
    print(json.dumps(study.labels().fetchall()))
    study.export(path + ".beton", threads=int(threads))
"""


def test_hash_seed_threads_and_order_of_files_change_nothing(filled: sd.Study, slides: Path, tmp_path: Path) -> None:
    for i in range(4):
        path = tmp_path / "rois" / f"s{i}.csv"
        path.write_text(path.read_text() + "over,90.3,70.1,fat\nover,500.7,95.2,fat\nover,300.9,400.4,fat\n")
    outputs, betons = [], []
    for seed, threads, order in (("1", 1, "sorted"), ("2", 2, "reversed")):
        out = tmp_path / order
        out.mkdir()
        result = subprocess.run(
            [
                sys.executable,
                "-c",
                DUMP,
                str(slides),
                str(tmp_path / "rois"),
                str(out / "s.duckdb"),
                order,
                str(threads),
            ],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        )
        outputs.append(result.stdout)
        betons.append([(out / f"s.duckdb{suffix}").read_bytes() for suffix in (".beton", ".json")])
    assert len(json.loads(outputs[0])) == 4 * 39 * 29
    assert outputs[0] == outputs[1]
    assert betons[0] == betons[1]


# ---------------------------------------------------------------------------------------- transactions


def test_all_steps_in_one_transaction_are_kept_together(study: sd.Study, slides: Path, tmp_path: Path) -> None:
    (tmp_path / "s0.csv").write_text(csv_of(("left", "tumour", "0,0 200,0 200,480 0,480")))
    with study.atomic():
        study.add_slides(slides)
        study.add_rois(tmp_path / "s0.csv")
        study.tile(32, tile_um=16)
        study.label()
        study.split(val_fraction=0.25)
    with sd.open(study.path) as again:
        assert again.labels("label = 'tumour'").aggregate("count(*)").fetchall() == [(6 * 15,)]
        assert again.sql("SELECT count(*) FROM splits").fetchall() == [(4,)]


def test_where_one_step_fails_none_is_kept(filled: sd.Study, slides: Path) -> None:
    filled.label()
    before = filled.labels().fetchall()

    def fails() -> None:
        with filled.atomic():
            filled.remove_slides("s0")
            filled.label(rule="coverage")
            filled.remove_slides("s9")

    with pytest.raises(StudyError, match="the study has no slide 's9'; nothing was removed"):
        fails()
    assert filled.labels().fetchall() == before
    assert filled.sql("SELECT rule FROM label_rule").fetchall() == [("centre",)]


def test_a_failed_step_whose_error_is_caught_lets_nothing_be_kept(filled: sd.Study, tmp_path: Path) -> None:
    (tmp_path / "s2.csv").write_text(csv_of(("far", "tumour", "9000,0 9009,0 9009,9")))

    def goes_on() -> None:
        with filled.atomic():
            filled.remove_slides("s0")
            with pytest.raises(InputError):
                filled.add_rois(tmp_path / "s2.csv", roi_set="other")

    with pytest.raises(StudyError) as caught:
        goes_on()
    assert str(caught.value) == (
        "a step of this transaction failed, and its error was caught: s2.csv:2: ROI 'far' lies wholly outside slide "
        "'s2' (x 9000.0 to 9009.0, y 0.0 to 9.0; the slide is 640 x 480); coordinates must be level-0 pixels from the "
        "slide's top left corner; nothing was kept: let the error end the block, or run the step in a transaction of "
        "its own"
    )
    assert filled.sql("SELECT count(*) FROM slides").fetchall() == [(4,)]
    # The step in a transaction of its own, and the rest without it.
    with pytest.raises(InputError):
        filled.add_rois(tmp_path / "s2.csv", roi_set="other")
    with filled.atomic():
        filled.remove_slides("s0")
    assert filled.sql("SELECT count(*) FROM slides").fetchall() == [(3,)]


def test_a_transaction_that_was_begun_by_hand_is_named(filled: sd.Study, slides: Path) -> None:
    filled.con.execute("BEGIN")
    with pytest.raises(StudyError) as caught:
        filled.remove_slides("s0")
    assert str(caught.value) == (
        "a transaction was begun by hand on this study's connection; end it with COMMIT or ROLLBACK first, or use "
        "study.atomic()"
    )
    filled.con.execute("ROLLBACK")
    assert filled.remove_slides("s0").slides == ("s0",)
