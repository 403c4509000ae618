"""Projects of Slideflow: one that its own code made is taken over with its frame of tiles, and comes out the same."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

import slideduck as sd
from slideduck.cli.group import cli
from slideduck.errors import InputError, SlideduckError, StudyError
from slideduck.interop.slideflow import read_project
from tests.from_slideflow.make import HERE, MADE_IN
from tests.from_slideflow.painted import MAGNIFICATION, TILE_PX, TILE_UM, paint_slides
from tests.slides import write_slide

GRID = f"{TILE_PX}px_{TILE_UM}um"

#: What a study says of a project; two studies that agree on it have the same of it.
FACTS = (
    "SELECT slide, width, height, mpp, path FROM slides ORDER BY slide",
    "SELECT slide, roi_name, label, parent, roi_desc, area, ST_AsWKB(geom) FROM rois ORDER BY slide, roi_name",
    "SELECT slide, patient, site, grade, age FROM patients SEMI JOIN slides USING (slide) ORDER BY slide",
    "SELECT grid, tile_px, tile_um, magnification, stride_div FROM grids",
    "SELECT patient, split, fold FROM splits ORDER BY patient",
    "SELECT tile_id, label, roi_desc, kept FROM labels ORDER BY ALL",
)


def write_project(folder: Path) -> Path:
    """Write the project that Slideflow made as it would have made it in a folder, with all that is kept of it."""
    paint_slides(folder / "slides")
    root = folder / "project"
    shutil.copytree(HERE / "project", root)
    shutil.move(root / "regions", folder / "regions")
    for name in ("datasets.json", "settings.json"):
        (root / name).write_text((root / name).read_text().replace(str(MADE_IN), str(folder)))
    for line in (HERE / "layout.txt").read_text().splitlines():
        (root / line).parent.mkdir(parents=True, exist_ok=True)
        (root / line).touch()
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the project; tests that change it take a copy."""
    return write_project(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def study(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[sd.Study, sd.SlideflowImport]]:
    opened, report = sd.import_slideflow(made, tmp_path_factory.mktemp("study") / "s.duckdb", plan=1)
    with opened:
        yield opened, report


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """Return a copy of the project for a test to change; its slides and the ROIs of one source lie outside of it."""
    return Path(shutil.copytree(made, tmp_path / "project"))


def change(file: Path, edit: Callable[[Any], Any]) -> None:
    value = json.loads(file.read_text())
    file.write_text(json.dumps(edit(value) or value))


def facts(study: sd.Study) -> list[Any]:
    return [study.con.execute(query).fetchall() for query in FACTS]


def refused(project: Path, **options: Any) -> str:
    with pytest.raises(SlideduckError) as caught:
        sd.import_slideflow(project, project / "s.duckdb", **options)
    assert not (project / "s.duckdb").exists()
    return str(caught.value)


# ------------------------------------------------------------------------------------- taking over


def same_frame(ours: pd.DataFrame, name: str) -> bool:
    """Return whether a frame is one that Slideflow made: ids, columns, and every cell as it is written."""
    theirs = pd.read_csv(HERE / f"{name}.csv", index_col=0, keep_default_na=False)
    assert list(ours.columns) == list(theirs.columns)
    assert list(ours.index) == list(theirs.index)
    return ours.fillna("").astype(str).equals(theirs.astype(str))


def test_tiles_and_labels_are_those_of_slideflows_own_frame(study: tuple[sd.Study, sd.SlideflowImport]) -> None:
    frame = study[0].tile_dataframe()
    assert same_frame(frame, "frame")
    assert dict(frame["label"].fillna("").value_counts()) == {"": 153, "stroma": 51, "tumour": 40, "Stroma": 22}


def test_tiles_of_a_magnification_are_those_of_slideflows_own_frame(made: Path, tmp_path: Path) -> None:
    opened, report = sd.import_slideflow(
        made, tmp_path / "s.duckdb", tile_px=TILE_PX, tile_um=MAGNIFICATION, plan="none"
    )
    with opened:
        frame = opened.tile_dataframe()
        # Slideflow passes over s1, whose nearest level is 20x: it takes none that is more than 2 away, ours none beyond
        # half or twice the magnification.
        assert same_frame(frame[frame["slide"] != "s1"], "frame_magnified")
        assert (report.grid.grid, report.split) == (f"{TILE_PX}px_{MAGNIFICATION}", None)


def test_what_is_brought_and_what_is_left_out(made: Path, study: tuple[sd.Study, sd.SlideflowImport]) -> None:
    opened, report = study
    assert opened.con.execute("SELECT slide, mpp FROM slides ORDER BY slide").fetchall() == [
        ("n1", 0.5), ("n2", 0.5), ("n3", 0.5), ("s 2", 0.5), ("s1", 0.25),
    ]  # fmt: skip
    assert opened.con.execute("SELECT slide, roi_name, label, parent FROM rois ORDER BY ALL").fetchall() == [
        ("n1", "hole", "tumour", "tumour 1"), ("n1", "stroma, dense", "stroma", None),
        ("n1", "tumour 1", "tumour", None), ("n2", "a", "stroma", None), ("n2", "b", None, None),
        ("s1", "far", "Stroma", None), ("s1", "ring", "tumour", None),
    ]  # fmt: skip
    assert opened.con.execute("SELECT * FROM patients ORDER BY slide").fetchall() == [
        ("gone", "P5", "south", "low", 48.0, "train"), ("n1", "P1", "north", "high", 61.0, "train"),
        ("n2", "P1", "north", "high", 61.0, "train"), ("n3", "P2", "north", "low", 70.0, "train"),
        ("s 2", "P4", "south", "high", None, "train"), ("s1", "P3", "south", "low", 55.5, "val"),
    ]  # fmt: skip
    assert report.grid.grid == GRID
    assert report.split is not None
    assert report.split.rule.text == "by column 'split'"
    assert dict(opened.con.execute("SELECT patient, split FROM splits").fetchall()) == {
        "P1": "train", "P2": "train", "P3": "val", "P4": "train",
    }  # fmt: skip
    assert report.left_out == (
        "1 slide that the annotations do not name: s9",
        "2 ROI files of slides that are not taken: lost, s9",
        f"TFRecords of 3 slides in {made}/tfrecords/north/{GRID}",
        f"TFRecords of 2 slides in {made}/tfrecords/south/{GRID}",
    )


def test_folds_are_taken_as_folds(made: Path, tmp_path: Path) -> None:
    opened, report = sd.import_slideflow(made, tmp_path / "s.duckdb", plan=2)
    with opened:
        assert report.plan is not None
        assert report.plan.text == "plan 2: 3 folds (k-fold) of 6 slides"
        sides = opened.con.execute("SELECT patient, split, fold FROM splits ORDER BY patient").fetchall()
        assert sides == [("P1", "val", 0), ("P2", "val", 0), ("P3", "train", 1), ("P4", "train", 2)]
        opened.split(val_fold=2)
        before = facts(opened)
        # The fold that validates is the user's to choose.
        again = opened.import_slideflow(made, plan=2)
        assert (again.slides.unchanged, again.rois and again.rois.unchanged, again.patients) == (5, 3, None)
        assert again.split is not None
        assert again.split.changed == 0
        assert facts(opened) == before
        # Another plan is said, and the round is whole with folds, too.
        opened.export_slideflow(tmp_path / "out")
        with sd.import_slideflow(tmp_path / "out")[0] as other:
            assert facts(other)[-1:] == before[-1:]
            assert other.con.execute("SELECT patient, fold FROM splits ORDER BY patient").fetchall() == [
                (patient, fold) for patient, _, fold in sides
            ]


def test_a_command_takes_over_a_project_that_was_moved(made: Path, copied: Path, tmp_path: Path) -> None:
    shutil.rmtree(copied / "roi")
    change(copied / "datasets.json", lambda sources: sources["north"].update(roi="/mnt/old/regions/north"))
    change(copied / "datasets.json", lambda sources: sources["south"].update(roi="C:\\old\\roi\\south"))
    failed = CliRunner().invoke(cli, ["import-slideflow", str(copied), "--plan", "none"])
    assert failed.exit_code == 1
    assert failed.stderr == (
        "error: datasets.json: north.roi is '/mnt/old/regions/north', no folder that is there; if it lies elsewhere "
        "now, say what its path began with and begins with by --root, OLD=NEW\n"
        "datasets.json: south.roi is 'C:\\\\old\\\\roi\\\\south', no folder that is there; if it lies elsewhere now, "
        "say what its path began with and begins with by --root, OLD=NEW\n"
    )
    moved = [f"--root=/mnt/old={made.parent}", f"--root=C:\\old={made}", "--root=/x=/y"]
    done = CliRunner().invoke(cli, ["import-slideflow", str(copied), "--plan", "none", *moved])
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[:5] == [
        f"project 'Painted' in {copied}/study.duckdb",
        "5 slides added, 0 updated, 0 unchanged; 0 of them cannot be used",
        "7 ROIs (1 hole) on 3 slides from 3 files",
        "5 patients in 6 rows",
        f"grid {GRID}: 345 tiles on 5 slides",
    ]
    assert "  --root '/x', with which no path of the project begins\n" in done.stderr
    wrong = CliRunner().invoke(cli, ["import-slideflow", str(copied), "--root", "/x"])
    assert wrong.exit_code == 2
    assert "'/x' is not OLD=NEW, such as /mnt/old=/data/new" in wrong.stderr
    words = ["export-slideflow", str(copied / "study.duckdb"), str(tmp_path / "out")]
    for remedy in ((), ("--overwrite",)):
        out = CliRunner().invoke(cli, [*words, *remedy])
        assert out.stdout == f"5 slides of 2 sources, 7 ROIs and 266 tiles in {tmp_path}/out\n", out.stderr
        again = CliRunner().invoke(cli, words)
        assert again.exit_code == 1
        assert again.stderr == (
            f"error: 8 files are in {tmp_path}/out already; give another folder, or replace them with --overwrite:\n"
            f"  annotations.csv\n  datasets.json\n  roi/n1.csv\n  roi/n2.csv\n  roi/s1.csv\n  settings.json\n"
            f"  tiles/{GRID}/tiles.csv\n  tiles/{GRID}/tiles.parquet\n"
        )


def test_paths_and_keys_of_old_versions(made: Path, copied: Path) -> None:
    def older(settings: dict[str, Any]) -> None:
        settings.update(datasets=settings.pop("sources"), annotations="$ROOT/annotations.csv")
        settings.pop("models_dir")

    shutil.copytree(made.parent / "slides" / "south", copied / "slides")
    change(copied / "settings.json", older)
    change(copied / "datasets.json", lambda sources: sources["south"].update(slides="./slides", tiles="", label=GRID))
    read = read_project(copied)
    assert [source.slides for source in read.sources] == [made.parent / "slides" / "north", copied / "slides"]
    assert read.annotations == copied / "annotations.csv"
    assert [source.name for source in read_project(copied, sources="south").sources] == ["south"]


def test_a_plan_in_part_and_records_named_by_their_path(copied: Path, tmp_path: Path) -> None:
    def less(plans: list[Any]) -> list[Any]:
        plans[1]["tfrecords"] = {"k-fold-1": ["x/north/n1.tfrecords", "n2", "n3"], "k-fold-2": ["s1"]}
        return plans[1:]

    change(copied / "splits.json", less)
    with sd.import_slideflow(copied, tmp_path / "s.duckdb")[0] as opened:
        sides = opened.con.execute("SELECT patient, split, fold FROM splits ORDER BY patient").fetchall()
        assert sides == [("P1", "val", 0), ("P2", "val", 0), ("P3", "train", 1), ("P4", "unused", None)]
        report = opened.export_slideflow(tmp_path / "out")
        assert report.notes == (
            "Slideflow takes the folds by: dataset.kfold_split(2, splits='splits.json') without labels, and fold 0 is "
            "its k-fold 1",
            "1 of 5 slides is on no side of it; filter the dataset by the column split first, since Slideflow takes a "
            "plan for all patients of a dataset or none",
        )


# ---------------------------------------------------------------------------------- the annotations


@pytest.mark.parametrize(
    ("text", "slides", "note"),
    [
        ("patient,slide,category\nP1,n1.svs,a\nP2,n3,b\n", {"n1": "P1", "n3": "P2"},
         "the suffix of 1 slide name in annotations.csv"),
        ("patient,dataset,category\nn1,,\nn2,,\n", {"n1": "n1", "n2": "n2"}, None),
        ("\ufeffpatient;slide\nP1; n1 \nP2;\n\n", {"n1": "P1"}, None),
        ("patient,slide,Split\nP1,n1,train\nP3,s1,val\n", {"n1": "P1", "s1": "P3"}, None),
        ("patient,slide,split\nP1,n1,north\nP3,s1,south\n", {"n1": "P1", "s1": "P3"}, None),
    ],
    ids=["suffixes", "no column of slides", "another dialect", "the split as a column", "another column of that name"],
)  # fmt: skip
def test_annotations_as_people_have_them(
    copied: Path, tmp_path: Path, text: str, slides: dict[str, str], note: str | None
) -> None:
    (copied / "annotations.csv").write_text(text)
    opened, report = sd.import_slideflow(copied, tmp_path / "s.duckdb", plan=1)
    with opened:
        assert dict(opened.con.execute("SELECT slide, patient FROM patients").fetchall()) == slides
        columns = [name for (name,) in opened.con.execute("SELECT column_name FROM (DESCRIBE patients)").fetchall()]
    assert report.split is not None
    assert report.split.rule.column == (
        "slideflow_split" if ",north" in text else "Split" if "Split" in text else "split"
    )
    assert sum("split" in name.casefold() for name in columns) == 1 + (",north" in text)
    assert [text for text in report.left_out if "suffix" in text] == ([note] if note else [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient,slide\nP1,nn1\n",
         "annotations.csv: none of its 1 slide is among the 6 slides of the sources north, south, such as 'nn1'; did "
         "you mean 'n1'?; write the slides' names as their files have them"),
        ("patient,slide\nP1,n1\nP2,n1\n",
         "annotations.csv:3: slide 'n1' is there already (row 2); keep one row for each slide"),
        ("name,slide\nP1,n1\n", None),
    ],
)  # fmt: skip
def test_annotations_that_are_refused(copied: Path, text: str, message: str | None) -> None:
    (copied / "annotations.csv").write_text(text)
    said = refused(copied, plan="none")
    assert (
        said == message if message else said.startswith("annotations.csv:1: no column 'patient'; the columns are: name")
    )


def test_two_files_of_one_slide(made: Path, copied: Path) -> None:
    other = copied / "more"
    other.mkdir()
    shutil.copy(made.parent / "slides" / "north" / "n1.svs", other / "n1.tif")
    shutil.copy(made.parent / "regions" / "north" / "n2.csv", copied / "roi" / "south" / "n2.csv")
    change(copied / "datasets.json", lambda sources: sources["south"].update(roi="./roi/south"))
    assert refused(copied, plan=1) == (
        f"ROIs of slide 'n2': both {made.parent}/regions/north/n2.csv and {copied}/roi/south/n2.csv; keep one of them, "
        "or name the sources by `sources`"
    )
    change(copied / "datasets.json", lambda sources: sources.update(more={"slides": str(other)}))
    assert refused(copied, plan=1, sources=["north", "more"]) == (
        f"slide 'n1': both {made.parent}/slides/north/n1.svs and {other}/n1.tif; keep one of them, or name the sources "
        "by `sources`"
    )


def test_a_slide_without_mpp_waits_for_it(copied: Path, tmp_path: Path) -> None:
    slides = copied / "slides"
    shutil.copytree(json.loads((copied / "datasets.json").read_text())["north"]["slides"], slides)
    write_slide(slides / "n1.svs", 0, size=(640, 480), mpp=None, vendor="aperio")
    (slides / "n1.svs").rename(slides / "n1.tif")
    change(copied / "datasets.json", lambda sources: sources["north"].update(slides="./slides"))
    words = ["import-slideflow", str(copied), str(tmp_path / "s.duckdb"), "--plan", "1"]
    first = CliRunner().invoke(cli, words)
    assert first.exit_code == 1
    assert "error: 1 slide cannot be used:\n" in first.stderr
    assert "  3 ROI files of slides that are not taken: n1, lost, s9\n" in first.stderr
    again = CliRunner().invoke(cli, [*words, "--mpp", "n1=0.5"])
    assert again.exit_code == 0, again.stderr
    with sd.open(tmp_path / "s.duckdb", read_only=True) as study:
        assert study.con.execute("SELECT count(*) FROM rois WHERE slide = 'n1'").fetchone() == (3,)
        assert len(study.tile_dataframe()) == 266


# ------------------------------------------------------------------------- what is said, or refused


@pytest.mark.parametrize(
    ("folders", "options", "message"),
    [
        ((GRID,), {},
         "project 'Painted' has 2 plans of validation; say which is the split, such as `plan=1`, or `plan='none'`:\n"
         "  plan 1: train and val (fixed) of 6 slides\n  plan 2: 3 folds (k-fold) of 6 slides"),
        ((GRID,), {"plan": 3},
         "`plan` is 3, and project 'Painted' has 2 plans of validation; give one of them by its number, from 1, or "
         "`plan='none'`"),
        ((), {"plan": 1},
         "project 'Painted' has no tiles or TFRecords, whose folders say their size; say it, such as `tile_px=256` and "
         "`tile_um=256`"),
        ((GRID, "299px_20x"), {"plan": 1},
         "project 'Painted' has tiles of 2 sizes: 299px_20x (south); 64px_32um (north, south); say which, such as "
         "`tile_px=299` and `tile_um=20x`"),
        ((GRID,), {"tile_px": 64},
         "`tile_px` is given without `tile_um`; give both, such as `tile_px=256` and `tile_um=256`"),
        ((GRID,), {"sources": ["west"]}, "datasets.json: no source 'west'; it has north, south"),
    ],
)  # fmt: skip
def test_what_has_to_be_said(copied: Path, folders: tuple[str, ...], options: dict[str, Any], message: str) -> None:
    shutil.rmtree(copied / "tfrecords")
    for name in folders:
        for source in ("north", "south")[name != GRID :]:
            (copied / "tfrecords" / source / name).mkdir(parents=True)
    change(copied / "datasets.json", lambda sources: [s.update(tfrecords=str(copied / "tfrecords" / n))
                                                      for n, s in sources.items()] and None)  # fmt: skip
    assert refused(copied, **options) == message


DEEP = "[" * 200 + "]" * 200


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("settings.json", "{", "{root}/settings.json: cannot be read: Expecting property name enclosed in double "
         "quotes: line 1 column 2 (char 1); save it again with Slideflow"),
        ("settings.json", "[]",
         "settings.json: a list or a single value, where Slideflow has an object; give its own file"),
        ("settings.json", '{"sources": []}',
         "settings.json: sources is empty; name those to take by `sources`: north, south"),
        ("settings.json", '{"sources": 5}', "settings.json: sources is 5; write a list of names"),
        ("settings.json", '{"sources": ["north"], "annotations": "../../etc/none.csv"}',
         "settings.json: annotations is '../../etc/none.csv' ({etc}), no file that is there; if it lies elsewhere now, "
         "say what its path began with and begins with by `root`, OLD=NEW"),
        ("settings.json", '{"sources": ["north"], "annotations": "."}',
         "settings.json: annotations is '.' ({root}), a folder, no file; if it lies elsewhere now, say what its path "
         "began with and begins with by `root`, OLD=NEW"),
        ("datasets.json", '{"north": {"slides": 5}, "south": {"roi": "\\u001b[2J"}}',
         "datasets.json: north.slides is 5; write a path, or null\n"
         "datasets.json: south.roi is '\\x1b[2J' ({root}/\\x1b[2J), no folder that is there; if it lies elsewhere now, "
         "say what its path began with and begins with by `root`, OLD=NEW"),
        pytest.param(
            "datasets.json", '{"north": {}, "north": {}}',
            '{root}/datasets.json: cannot be read: the entry "north" is there twice; save it again with Slideflow',
            marks=pytest.mark.attack("XML and JSON", "a source that a Slideflow project names twice")),
        pytest.param(
            "splits.json", DEEP,
            "{root}/splits.json: cannot be read: it has 101 or more levels of nesting in one JSON or XML file, and at "
            "most 100 are read; if the file is meant, allow that many with `limit='depth=101'`; save it again with "
            "Slideflow",
            marks=pytest.mark.attack("XML and JSON", "a Slideflow project with JSON of 200 levels")),
        ("splits.json", "{}",
         "splits.json: no list, as Dataset.split writes one; remove it, or let Slideflow write it"),
        ("splits.json", '[{"strategy": "fixed"}]',
         "splits.json: plan 1 has no strategy, or no tfrecords by side; remove it, or let Slideflow write it"),
        ("splits.json", '[{"strategy": "fixed", "tfrecords": {"k-fold-1": []}}]',
         "splits.json: plan 1 (fixed) has the side 'k-fold-1', which Slideflow does not write"),
        ("splits.json", '[{"strategy": "fixed", "tfrecords": {"training": ["a"], "validation": ["a"]}}]',
         "splits.json: plan 1: slide 'a' is on two sides; let Slideflow write it"),
        ("splits.json", '[{"strategy": "fixed", "tfrecords": {"training": [5]}}]',
         "splits.json: plan 1: training is no list of slides; let Slideflow write it"),
    ],
)  # fmt: skip
def test_files_that_are_refused(copied: Path, file: str, text: str, message: str) -> None:
    (copied / file).write_text(text)
    etc = Path(os.path.abspath(copied / "../../etc/none.csv"))
    assert refused(copied) == message.replace("{root}", str(copied)).replace("{etc}", str(etc))


@pytest.mark.attack("paths", "a Slideflow project that names a pipe as its table")
def test_a_pipe_is_no_table(copied: Path) -> None:
    os.mkfifo(copied / "pipe")
    change(copied / "settings.json", lambda settings: settings.update(annotations="./pipe"))
    assert refused(copied) == (
        f"settings.json: annotations is './pipe' ({copied}/pipe), no file that is there; if it lies elsewhere now, say "
        "what its path began with and begins with by `root`, OLD=NEW"
    )
    (copied / "settings.json").unlink()
    os.mkfifo(copied / "settings.json")
    assert refused(copied) == f"{copied}/settings.json: no file; check the path"


def test_a_folder_that_is_no_project(tmp_path: Path) -> None:
    for folder, what in (
        (tmp_path, "no settings.json in it, so it is no project of Slideflow"),
        (tmp_path / "x", None),
    ):
        with pytest.raises(InputError) as caught:
            sd.import_slideflow(folder)
        assert str(caught.value) == f"{folder}: {what or 'no such folder'}; give the folder that holds settings.json"
    assert list(tmp_path.iterdir()) == []


def test_a_study_that_is_there_is_kept_as_it_was(
    made: Path, study: tuple[sd.Study, sd.SlideflowImport], copied: Path, tmp_path: Path
) -> None:
    """ROIs of a slide are damaged: nothing of the project is added, neither to a new study nor to one that is there."""
    roi = copied / "roi" / "south" / "s1.csv"
    roi.write_text("roi_name,x_base,y_base,label\na,10,10,x\na,20,zz,x\na,30,10,x\n")
    change(copied / "datasets.json", lambda sources: sources["south"].update(roi=str(roi.parent)))
    said = "s1.csv:3: y_base is 'zz', not a number; write base pixels, such as 1024.5"
    assert refused(copied, plan=1).startswith(said)
    before = facts(study[0])
    with pytest.raises(InputError, match=r"^s1\.csv:3"):
        study[0].import_slideflow(copied, plan=1)
    assert facts(study[0]) == before
    # With the project as it was nothing changes, and a split of one's own is told to be replaced.
    study[0].split(val_fraction=0.5)
    again = study[0].import_slideflow(made, plan=1)
    assert again.split is not None
    assert again.split.before is not None
    assert again.split.before.text == "fraction 0.5, seed 0"
    assert facts(study[0]) == before


# -------------------------------------------------------------------------------------- out again


def test_out_and_in_again_is_the_same(study: tuple[sd.Study, sd.SlideflowImport], made: Path, tmp_path: Path) -> None:
    opened = study[0]
    report = opened.export_slideflow(tmp_path / "out")
    assert (report.slides, report.rois, report.tiles, report.left_out, report.alone) == (5, 7, 266, (), ())
    assert report.sources == {name: made.parent / "slides" / name for name in ("north", "south")}
    assert (tmp_path / "out" / "annotations.csv").read_text() == (
        "patient,slide,site,grade,age,split\nP1,n1,north,high,61.0,train\nP1,n2,north,high,61.0,train\n"
        "P2,n3,north,low,70.0,train\nP4,s 2,south,high,,train\nP3,s1,south,low,55.5,val\n"
    )
    (plan,) = json.loads((tmp_path / "out" / "splits.json").read_text())
    assert plan["tfrecords"] == {"validation": ["s1"], "training": ["n1", "n2", "n3", "s 2"]}
    assert plan["patients"]["P1"] == {"outcome_label": "P1", "slides": ["n1", "n2"]}
    tiles = tmp_path / "out" / "tiles" / GRID
    written = pd.read_parquet(tiles / "tiles.parquet")
    assert written.fillna("").astype(str).equals(opened.tile_dataframe().fillna("").astype(str))
    text = pd.read_csv(tiles / "tiles.csv", index_col=0, keep_default_na=False)
    assert text.equals(pd.read_csv(HERE / "frame.csv", index_col=0, keep_default_na=False))
    other, again = sd.import_slideflow(tmp_path / "out")
    with other:
        assert facts(other) == facts(opened)
    assert again.left_out == ("1 slide that the annotations do not name: s9",)


def test_what_slideflow_cannot_have(tmp_path: Path) -> None:
    for name in ("a/x.tif", "b/x.tif", "c/y.tif", "z/z.tif"):
        (tmp_path / name).parent.mkdir()
        write_slide(tmp_path / name, size=(128, 128))
    with sd.open(tmp_path / "s.duckdb") as study:
        study.add_slides(tmp_path / "[abc]", names="relative")
        study.add_slides(tmp_path, names="relative")
        study.tile(32, tile_um=16, stride_div=2, origin=(3, 4))
        study.label()
        with pytest.raises(StudyError) as caught:
            study.export_slideflow(tmp_path / "out")
        reasons = [
            f"{name}: Slideflow calls the file {tmp_path}/{name}.tif {Path(name).name!r}"
            for name in ("a/x", "b/x", "c/y", "z/z")
        ]
        head = "s.duckdb has no slide that Slideflow can have:\n  "
        assert str(caught.value) == head + "\n  ".join(reasons)
        assert not (tmp_path / "out").exists()
        study.remove_slides("z/z")
        study.add_slides(tmp_path / "z")
        study.label()
        report = study.export_slideflow(tmp_path / "out")
    assert report.left_out == tuple(reasons[:3])
    assert (report.slides, report.rois, report.split, report.alone) == (1, 0, "", ("z",))
    assert report.notes == (
        "the tiles overlap; Slideflow is told so by: get_tile_dataframe(stride_div=2)",
        "the grid begins at 3, 4, and that of Slideflow's frame always at 0, 0",
    )
    assert (tmp_path / "out" / "annotations.csv").read_text() == "patient,slide\nz,z\n"
    assert not (tmp_path / "out" / "splits.json").exists()
