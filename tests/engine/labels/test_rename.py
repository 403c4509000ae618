"""Renaming a label: ROIs, their holes, the rule, files that are added later, and the journal follow it."""

from __future__ import annotations

import json
import random
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import shapely
from click.testing import CliRunner, Result

import slideduck as sd
from slideduck.cli.group import cli
from slideduck.errors import StudyError
from tests.rectangles import Box, write_rois
from tests.slides import write_slide

#: On s0 nine boxes within nine: each `Tumour` lies in a `tumour`, and `core` in both. s1 has no `Tumour`.
ROIS: dict[str, dict[str, tuple[str, Box]]] = {
    "s0": {
        "outer": ("tumour", (0, 0, 200, 160)),
        "inner": ("Tumour", (20, 20, 180, 140)),
        "core": ("tumour", (60, 50, 120, 110)),
        "apart": ("Tumour", (210, 0, 256, 60)),
        "ink": ("Pen", (0, 0, 40, 40)),
    },
    "s1": {"whole": ("tumour", (0, 0, 256, 160)), "ink": ("pen", (100, 50, 170, 100))},
}
SECOND: dict[str, tuple[str, Box]] = {"mine": ("Tumour", (0, 0, 96, 160))}

#: All that a renaming may change.
TABLES = ("rois", "roi_files", "label_rule", "labelled", "tile_rois", "label_counts", "label_names", "changes")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for name, rois in ROIS.items():
        write_slide(folder / f"{name}.tiff", size=(256, 160), mpp=1, levels=1)
        write_rois(folder / f"{name}.csv", rois)
    (folder / "second").mkdir()
    write_rois(folder / "second" / "s0.csv", SECOND)
    with sd.open(folder / "study.duckdb") as study:
        study.add_slides(folder)
        study.add_rois([folder / "s0.csv", folder / "s1.csv"])
        study.add_rois(folder / "second", roi_set="second")
        study.tile(16, tile_um=16)
        study.label()
    return folder / "study.duckdb"


@pytest.fixture
def path(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the study in the current folder."""
    shutil.copyfile(made, tmp_path / "s.duckdb")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "s.duckdb"


@pytest.fixture
def study(path: Path) -> Iterator[sd.Study]:
    with sd.open(path) as opened:
        yield opened


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def everything(study: sd.Study) -> dict[str, list[Any]]:
    return {name: study.sql(f"FROM {name} ORDER BY ALL").fetchall() for name in TABLES}


def shapes(study: sd.Study, roi_set: str = "default") -> dict[str, tuple[str | None, str | None, str, Any]]:
    rows = study.con.execute(
        "SELECT slide || ' ' || roi_name, label, parent, roi_desc, ST_AsWKB(geom) FROM rois WHERE roi_set = $1",
        [roi_set],
    ).fetchall()
    return {name: (label, parent, desc, shapely.from_wkb(bytes(wkb))) for name, label, parent, desc, wkb in rows}


def box(name: str) -> Any:
    return shapely.box(*ROIS["s0"][name][1])


def test_two_labels_become_one_and_holes_are_found_anew(study: sd.Study) -> None:
    assert {name: row[1:3] for name, row in shapes(study).items() if name.startswith("s0")} == {
        "s0 outer": (None, "outer (holes: core)"),
        "s0 inner": (None, "inner"),
        "s0 core": ("outer", "core"),
        "s0 apart": (None, "apart"),
        "s0 ink": (None, "ink"),
    }
    report = study.rename_label("Tumour", "tumour")
    assert (report.old, report.new, report.rois, report.merged) == ("Tumour", "tumour", 3, 3)
    assert (report.slides, report.holes, report.islands) == (("s0",), ("s0: inner",), ("s0: core",))
    assert report.rule == ()
    after = shapes(study)
    assert {name: row[:3] for name, row in after.items()} == {
        "s0 outer": ("tumour", None, "outer (holes: inner)"),
        "s0 inner": ("tumour", "outer", "inner"),
        "s0 core": ("tumour", None, "core"),
        "s0 apart": ("tumour", None, "apart"),
        "s0 ink": ("Pen", None, "ink"),
        "s1 whole": ("tumour", None, "whole"),
        "s1 ink": ("pen", None, "ink"),
    }
    assert after["s0 outer"][3].equals(box("outer") - box("inner"))
    assert after["s0 core"][3].equals(box("core"))
    assert shapes(study, "second")["s0 mine"][0] == "tumour"
    # Only the slide that changed is labelled anew, and as by a file that had one label from the start.
    with pytest.raises(StudyError, match=r"^the labels of 1 slide are out of date \(s0\)"):
        study.labels()
    assert study.label().slides == 1
    inside = [after[f"s0 {name}"][3] for name in ("outer", "core", "apart")]
    for slide, x, y, label in study.sql("SELECT slide, base_x + 8, base_y + 8, label FROM labels").fetchall():
        if slide == "s0":
            point = shapely.Point(x, y)
            ink = box("ink").intersects(point)
            assert label == ("Pen" if ink else "tumour" if any(s.intersects(point) for s in inside) else None)
    assert study.verify(None).differences.num_rows == 0


def test_a_study_of_files_with_the_new_label_is_the_same(study: sd.Study, tmp_path: Path) -> None:
    study.rename_label("Tumour", "tumour")
    study.rename_label("Pen", "pen")
    study.label()
    with sd.open(tmp_path / "other.duckdb") as other:
        other.add_slides([path for (path,) in study.sql("SELECT path FROM slides").fetchall()])
        for name, rois in ROIS.items():
            write_rois(
                tmp_path / f"{name}.csv", {roi: (label.lower(), corners) for roi, (label, corners) in rois.items()}
            )
        other.add_rois([tmp_path / "s0.csv", tmp_path / "s1.csv"])
        other.tile(16, tile_um=16)
        other.label()
        assert study.labels().fetchall() == other.labels().fetchall()
        assert shapes(study) == shapes(other)


def test_a_dry_run_says_the_same_and_writes_nothing(study: sd.Study) -> None:
    study.label(artifact_labels=["Tumour"])
    before = everything(study)
    said = study.rename_label("Tumour", "tumour", dry_run=True)
    assert everything(study) == before
    assert study.rename_label("Tumour", "tumour") == said
    assert everything(study) != before


def test_the_rule_and_the_journal_follow(study: sd.Study) -> None:
    study.label(artifact_labels=["Pen"], overlap="priority", priority=["Tumour", "Pen", "tumour"])
    report = study.rename_label("Tumour", "tumour")
    assert report.rule == ("overlap: priority (Tumour, Pen, tumour) -> priority (tumour, Pen)",)
    report = study.rename_label("Pen", "pen")
    assert report.rule == (
        "overlap: priority (tumour, Pen) -> priority (tumour, pen)",
        "artifact labels: Pen -> pen",
    )
    assert report.holes == report.islands == ()
    # What was counted by a rule with the old names is not counted again: the rule is the same.
    labelled = study.label()
    assert (labelled.slides, labelled.changes, labelled.compared, labelled.relabelled) == (1, (), 0, 0)
    assert study.sql("SELECT priority, artifact_labels FROM label_rule").fetchall() == [(["tumour", "pen"], ["pen"])]
    assert study.sql("SELECT count(*) FROM labels WHERE label = 'pen'").fetchall() == [(0,)]
    assert study.rename_label("pen", None).rule == (
        "overlap: priority (tumour, pen) -> priority (tumour)",
        "artifact labels: pen -> none",
    )
    assert study.sql("SELECT count(*) FROM rois WHERE label IS NULL").fetchall() == [(2,)]
    rows = study.sql("SELECT change, detail FROM changes ORDER BY change_id").fetchall()
    assert [(change, json.loads(detail)) for change, detail in rows] == [
        ("rename-label", {"old": "Tumour", "new": "tumour", "rois": 3, "slides": ["s0"]}),
        ("rename-label", {"old": "Pen", "new": "pen", "rois": 1, "slides": ["s0"]}),
        ("rename-label", {"old": "pen", "new": None, "rois": 2, "slides": ["s0", "s1"]}),
    ]


def names_of(study: sd.Study) -> dict[str, str | None]:
    return dict(study.sql("FROM label_names").fetchall())


def test_names_of_files_follow_chains_and_swaps(study: sd.Study) -> None:
    for old, new, names in (
        ("Pen", "ink", {"Pen": "ink"}),
        ("ink", "marker", {"Pen": "marker", "ink": "marker"}),
        ("marker", "Pen", {"ink": "Pen", "marker": "Pen"}),  # and back
        # Tumour and tumour change places.
        ("Tumour", "x", {"ink": "Pen", "marker": "Pen", "Tumour": "x"}),
        ("tumour", "Tumour", {"ink": "Pen", "marker": "Pen", "Tumour": "x", "tumour": "Tumour"}),
        ("x", "tumour", {"ink": "Pen", "marker": "Pen", "Tumour": "tumour", "tumour": "Tumour", "x": "tumour"}),
        ("marker", "marker", {"ink": "Pen", "Tumour": "tumour", "tumour": "Tumour", "x": "tumour"}),
        ("pen", "", {"ink": "Pen", "Tumour": "tumour", "tumour": "Tumour", "x": "tumour", "pen": None}),
    ):
        study.rename_label(old, new)
        assert names_of(study) == names, (old, new)
    assert {name: row[0] for name, row in shapes(study).items()} == {
        "s0 outer": "Tumour", "s0 inner": "tumour", "s0 core": "Tumour", "s0 apart": "tumour", "s0 ink": "Pen",
        "s1 whole": "Tumour", "s1 ink": None,
    }  # fmt: skip


def test_names_of_files_give_the_labels_that_their_rois_have(study: sd.Study) -> None:
    """Whatever is renamed, in whatever order: the label of a file, looked up once, is that of its ROIs."""
    drawn = {f"{slide} {name}": label for slide, rois in ROIS.items() for name, (label, _) in rois.items()}
    chance = random.Random(3)
    renamed = 0
    for _ in range(25):
        labels = sorted({label for label, *_ in shapes(study).values() if label is not None})
        old, new = chance.choice(labels), chance.choice(["a", "b", "pen", "Pen", "Tumour", "tumour"])
        if old != new:
            study.rename_label(old, new)
            renamed += 1
        names = names_of(study)
        assert all(name != now for name, now in names.items())
        assert {name: row[0] for name, row in shapes(study).items()} == {
            name: names.get(label, label) for name, label in drawn.items()
        }
    assert renamed > 12


def test_what_cannot_be_renamed_is_refused_with_what_can(path: Path) -> None:
    assert run("label", "s.duckdb", "--overlap", "priority", "--priority", "pen").exit_code == 0
    for words, error, right in (
        ("tumuor fat", "OLD names the label 'tumuor', which no ROI has; did you mean 'Tumour' or 'tumour'? "
         "The study's labels are 'Pen', 'Tumour', 'pen', 'tumour'", "rename-label s.duckdb tumour fat"),
        ("glass fat", "OLD names the label 'glass', which no ROI has; "
         "the study's labels are 'Pen', 'Tumour', 'fat', 'pen'", "rename-label s.duckdb fat glass"),
        ("Pen Pen", "the label 'Pen' is called so already; give another name for it", "rename-label s.duckdb Pen ink"),
        ("Tumour NA", "the new label is 'NA', which stands for a missing one; give '' for no label",
         "rename-label s.duckdb Tumour ''"),
        ("pen ''", "the rule gives priority to 'pen' alone; choose another first, such as: "
         "slideduck label s.duckdb --overlap smallest", "label s.duckdb --overlap smallest"),
    ):  # fmt: skip
        refused = run("rename-label", "s.duckdb", *shlex.split(words))
        assert (refused.exit_code, refused.stdout, refused.stderr) == (1, "", f"error: {error}\n")
        assert run(*shlex.split(right)).exit_code == 0, right
    assert run("rename-label", "s.duckdb", "pen", "").exit_code == 0


def test_the_command_says_what_becomes_of_what(path: Path) -> None:
    assert run("label", "s.duckdb", "--artifact-label", "Pen").exit_code == 0
    told = (
        "3 ROIs had the label 'tumour' already: the two are one, and no other renaming tells them apart again\n"
        "1 ROI within another of that label, now a hole of it:\n  s0: inner\n"
        "1 ROI within such a hole, now a hole no more:\n  s0: core\n"
        "files that are added later are renamed, too; betons and predictions keep the labels that they have\n"
    )
    dry = run("rename-label", "s.duckdb", "Tumour", "tumour", "--dry-run")
    assert (dry.stdout, dry.stderr) == ("would rename 'Tumour' to 'tumour': 3 ROIs on 1 slide\n", told)
    done = run("rename-label", "s.duckdb", "Tumour", "tumour")
    remedy = "label the slides anew with: slideduck label s.duckdb\n"
    assert (done.stdout, done.stderr) == ("renamed 'Tumour' to 'tumour': 3 ROIs on 1 slide\n", told + remedy)
    assert run("counts", "s.duckdb").exit_code == 1
    assert run(*shlex.split(remedy.split(": ")[1])[1:]).exit_code == 0
    assert run("counts", "s.duckdb").exit_code == 0
    again = run("rename-label", "s.duckdb", "Tumour", "tumour")
    assert (again.exit_code, again.stdout, again.stderr) == (
        0,
        "renamed 'Tumour' to 'tumour': 0 ROIs on 0 slides\n",
        "no ROI has the label 'Tumour' any more: it was renamed before\n",
    )
    back = run("rename-label", "s.duckdb", "Tumour", "Tumour")
    assert (back.stdout, back.stderr) == ("files that are added later keep the label 'Tumour'\n", "")
    none = run("rename-label", "s.duckdb", "Pen", " ")
    assert (none.stdout, none.stderr) == (
        "renamed 'Pen' to no label: 1 ROI on 1 slide\n",
        "artifact labels: Pen -> none\n"
        "files that are added later are renamed, too; betons and predictions keep the labels that they have\n" + remedy,
    )
    with sd.open(path) as study:
        assert study.sql("SELECT count(*) FROM changes").fetchall() == [(3,)]
