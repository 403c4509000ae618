"""The rule of labels stays in force, and names of labels that no ROI has are refused wherever a user writes them."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import slideduck as sd
from slideduck.cli.group import cli
from slideduck.errors import QueryError, SlideduckError, StudyError
from slideduck.labels.known import nearly_alike
from tests.rectangles import Box, write_rois
from tests.slides import write_slide

#: 40 tiles of 32 base pixels on each slide. Edges lie beside centres and borders, so that every rule differs.
ROIS: dict[str, dict[str, tuple[str, Box]]] = {
    "s0": {
        "wide": ("tumour", (0, 0, 150, 160)),
        "over": ("stroma", (100, 10, 256, 120)),
        "ink": ("pen", (20, 20, 75, 70)),
    },
    "s1": {"whole": ("stroma", (0, 0, 256, 160)), "in": ("fat", (30, 30, 130, 130))},
}
SECOND: dict[str, tuple[str, Box]] = {"mine": ("tumour", (0, 0, 200, 160))}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for seed, (name, rois) in enumerate(ROIS.items()):
        write_slide(folder / f"{name}.tiff", seed, size=(256, 160), mpp=1, levels=1)
        write_rois(folder / f"{name}.csv", rois)
    (folder / "second").mkdir()
    write_rois(folder / "second" / "s0.csv", SECOND)
    with sd.open(folder / "study.duckdb") as study:
        study.add_slides(folder)
        study.add_rois([folder / "s0.csv", folder / "s1.csv"])
        study.add_rois(folder / "second", roi_set="second")
        study.tile(32, tile_um=32)
    return folder / "study.duckdb"


@pytest.fixture
def path(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the study, not labelled yet, in the current folder."""
    shutil.copyfile(made, tmp_path / "s.duckdb")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "s.duckdb"


@pytest.fixture
def study(path: Path) -> Iterator[sd.Study]:
    with sd.open(path) as opened:
        yield opened


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def said(result: Result) -> list[str]:
    """Return what a command told people, but for its progress."""
    assert result.exit_code == 0, result.output
    return [line for line in result.stderr.splitlines() if " 0 s left" not in line]


def labels_of(study: sd.Study) -> dict[tuple[str, str], tuple[str | None, bool]]:
    rows = study.sql("SELECT grid, tile_id, label, kept FROM labels").fetchall()
    return {(grid, tile): (label, kept) for grid, tile, label, kept in rows}


def in_force(study: sd.Study) -> dict[str, Any]:
    (row,) = study.sql("FROM label_rule").to_arrow_table().to_pylist()
    return dict(row)


#: Every setting otherwise than by default.
OTHER: dict[str, Any] = {
    "rule": "coverage",
    "threshold": 0.9,
    "overlap": "priority",
    "priority": ["stroma", "fat"],
    "method": "ignore",
    "artifact_labels": ["pen"],
    "roi_sets": ["second", "default"],
    "labels_from": ["rois"],
}
DEFAULTS: dict[str, Any] = {
    "rule": "centre",
    "threshold": 0.5,
    "overlap": "smallest",
    "priority": [],
    "method": "auto",
    "artifact_labels": [],
    "roi_sets": ["default"],
    "labels_from": ["rois"],
}


def test_what_is_left_out_stays_as_it_is_in_the_study(study: sd.Study) -> None:
    assert study.label().changes == ()
    assert in_force(study) == DEFAULTS
    report = study.label(**OTHER)
    assert report.changes == (
        "rule: centre -> coverage >= 0.9",
        "overlap: smallest -> priority (stroma, fat)",
        "method: auto -> ignore",
        "artifact labels: none -> pen",
        "set: default -> second, default",
    )
    assert in_force(study) == OTHER
    before = labels_of(study)
    report = study.label()
    assert (report.changes, report.compared, report.relabelled) == ((), 0, 0)
    assert report.still == (
        "rule: coverage >= 0.9",
        "overlap: priority (stroma, fat)",
        "method: ignore",
        "artifact labels: pen",
        "set: second, default",
    )
    assert (in_force(study), labels_of(study)) == (OTHER, before)
    # One at a time: the others stay.
    now = OTHER
    for given, changes, kept in (
        ({"threshold": 0.25}, ("rule: coverage >= 0.9 -> coverage >= 0.25",), {}),
        ({"rule": "centre"}, ("rule: coverage >= 0.25 -> centre",), {}),
        ({"rule": "coverage"}, ("rule: centre -> coverage >= 0.25",), {}),
        ({"priority": ["fat"]}, ("overlap: priority (stroma, fat) -> priority (fat)",), {}),
        ({"overlap": "largest"}, ("overlap: priority (fat) -> largest",), {"priority": []}),
        ({"method": "inside"}, ("method: ignore -> inside",), {}),
        ({"artifact_labels": "fat"}, ("artifact labels: pen -> fat",), {"artifact_labels": ["fat"]}),
        ({"artifact_labels": []}, ("artifact labels: fat -> none",), {}),
        ({"roi_sets": ["default"]}, ("set: second, default -> default",), {}),
    ):
        assert study.label(**given).changes == changes
        now = {**now, **given, **kept}
        assert in_force(study) == now, given
    report = study.label(reset=True, overlap="largest")
    assert report.changes == ("rule: coverage >= 0.25 -> centre", "method: inside -> auto")
    assert in_force(study) == {**DEFAULTS, "overlap": "largest"}
    assert study.label(reset=True).changes == ("overlap: largest -> smallest",)
    assert in_force(study) == DEFAULTS


RULES: tuple[dict[str, Any], ...] = (
    {},
    {"rule": "coverage", "threshold": 0.9},
    {"rule": "coverage", "threshold": 1e-9, "overlap": "largest"},
    {"overlap": "exclude"},
    {"overlap": "priority", "priority": ["fat", "pen", "tumour"], "method": "ignore"},
    {"artifact_labels": ["pen", "fat"]},
    {"method": "outside"},
    {"roi_sets": ["second"]},
    {"roi_sets": ["second", "default"], "artifact_labels": ["tumour"], "method": "inside"},
)


def test_changed_tiles_are_those_whose_label_is_another_in_the_view(study: sd.Study) -> None:
    study.tile(32, tile_um=32, stride_div=2)
    study.label()
    before = labels_of(study)
    seen = set()
    for rule in (*RULES, *RULES[::-2]):
        report = study.label(reset=True, **rule)
        after = labels_of(study)
        changed = sum(after[tile][0] != label for tile, (label, _) in before.items())
        if report.changes:
            assert (report.compared, report.relabelled) == (len(after), changed), rule
            kept = [sum(held for _, held in tiles.values()) for tiles in (before, after)]
            assert [report.kept_before, report.kept_now] == kept, rule
        else:
            assert (report.compared, report.relabelled, changed) == (0, 0, 0)
        seen.add(changed)
        before = after
    assert len(seen) > 6


def test_slides_that_are_labelled_anew_are_not_compared(study: sd.Study, made: Path) -> None:
    study.label()
    study.remove_rois(made.parent / "s0.csv")
    report = study.label(artifact_labels=["fat"])
    # s1 has 40 tiles, and centres of 3 x 3 of them in its fat.
    assert (report.slides, report.compared, report.relabelled) == (1, 40, 9)


def test_info_tells_the_rule_in_force(study: sd.Study) -> None:
    def rule() -> str:
        return str(next(row["detail"] for row in study.info().to_pylist() if row["what"] == "label rule"))

    assert rule() == "none"
    study.label()
    assert rule() == "centre, overlaps: smallest, method: auto"
    study.label(**OTHER)
    assert rule() == (
        "coverage of at least 0.9, overlaps: priority (stroma, fat), method: ignore, artifacts: pen, "
        "sets: second, default"
    )


def test_a_label_that_went_with_its_rois_is_named_and_does_not_stop_labelling(path: Path, made: Path) -> None:
    assert run("label", path, "--artifact-label", "pen", "--artifact-label", "fat").exit_code == 0
    assert run("remove-rois", path, made.parent / "s0.csv").exit_code == 0
    assert said(run("label", "s.duckdb")) == [
        "labelled 1 slide and grid",
        "as before: artifact labels: pen, fat (the defaults: --reset)",
        "labels of the rule that no ROI has any more; leave them out by naming the others, or all by "
        "--no-artifact-label or another --overlap:",
        "  pen",
    ]
    assert said(run("label", "s.duckdb", "--artifact-label", "fat")) == [
        "artifact labels: pen, fat -> fat",
        "0 of 80 tiles changed label",
    ]
    assert said(run("label", "s.duckdb", "--no-artifact-label")) == [
        "artifact labels: fat -> none",
        "9 of 80 tiles changed label",
        "80 tiles are kept, 71 before",
    ]


def test_the_command_says_what_changed_and_what_stays(path: Path) -> None:
    first = run("label", "s.duckdb", "--rule", "coverage", "--threshold", "0.9", "--json")
    assert said(first) == ["labelled 2 slides and grids"]
    again = run("label", "s.duckdb", "--json")
    assert said(again) == [
        "nothing changed since the last labelling; the rule is in force",
        "as before: rule: coverage >= 0.9 (the defaults: --reset)",
    ]
    assert again.stdout == first.stdout
    with sd.open(path) as study:
        before = labels_of(study)
    centre = run("label", "s.duckdb", "--rule", "centre", "--json")
    with sd.open(path) as study:
        after = labels_of(study)
    changed = sum(after[tile][0] != label for tile, (label, _) in before.items())
    kept = [sum(held for _, held in tiles.values()) for tiles in (before, after)]
    assert changed
    assert kept[0] != kept[1]
    assert said(centre) == [
        "rule: coverage >= 0.9 -> centre",
        f"{changed} of 80 tiles changed label",
        f"{kept[1]} tiles are kept, {kept[0]} before",
    ]
    tiles = {row["label"]: row["tiles"] for row in json.loads(centre.stdout)}
    assert tiles == {name: sum(label == name for label, _ in after.values()) for name in tiles}
    both = run("label", "s.duckdb", "--artifact-label", "pen", "--no-artifact-label")
    assert (both.exit_code, both.stderr.splitlines()[-1]) == (
        2,
        "Error: give either --artifact-label or --no-artifact-label",
    )


KNOWN = "The study's labels are 'fat', 'pen', 'stroma', 'tumour'"


@pytest.mark.parametrize(
    ("words", "error", "right"),
    [
        (
            "--threshold 0.8",
            "--threshold is 0.8, and the rule 'centre' does not heed it; give --rule coverage too",
            "--threshold 0.8 --rule coverage",
        ),
        (
            "--overlap priority",
            "--overlap priority needs labels; name them in order with --priority, the first wins",
            "--overlap priority --priority fat",
        ),
        (
            "--priority fat",
            "--priority names labels, and the overlap is 'smallest'; give --overlap priority too",
            "--priority fat --overlap priority",
        ),
        (
            "--artifact-label pne",
            f"--artifact-label names the label 'pne', which no ROI has; did you mean 'pen'? {KNOWN}",
            "--artifact-label pen",
        ),
        (
            "--overlap priority --priority Stroma --priority tumuor",
            f"--priority names the label 'Stroma', which no ROI has; did you mean 'stroma'? {KNOWN}\n"
            f"--priority names the label 'tumuor', which no ROI has; did you mean 'tumour'? {KNOWN}",
            "--overlap priority --priority stroma --priority tumour",
        ),
        (
            "--artifact-label glass",
            f"--artifact-label names the label 'glass', which no ROI has; t{KNOWN[1:]}",
            "--no-artifact-label",
        ),
        (
            "--set third",
            "no ROIs are in the set 'third'; the study has 'default', 'second'; name those that label with --set",
            "--set second --set default",
        ),
    ],
)
def test_settings_without_effect_and_strange_names_are_refused(path: Path, words: str, error: str, right: str) -> None:
    refused = run("label", "s.duckdb", *shlex.split(words))
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr == f"error: {error}\n"
    with sd.open(path) as study:
        assert study.sql("SELECT count(*) FROM label_rule").fetchall() == [(0,)]
    assert run("label", "s.duckdb", *shlex.split(right)).exit_code == 0


def test_a_study_without_labels_names_none(study: sd.Study, made: Path) -> None:
    study.remove_rois(made.parent)
    study.remove_rois(made.parent, roi_set="second")
    with pytest.raises(StudyError) as caught:
        study.label(artifact_labels=["pen"])
    assert str(caught.value) == (
        "`artifact_labels` names the label 'pen', which no ROI has; add ROIs that have labels first"
    )
    study.add_rois(made.parent / "s0.csv")
    study.label(artifact_labels=["pen"])


def test_conditions_and_classes_with_a_strange_label_are_refused(study: sd.Study, tmp_path: Path) -> None:
    study.label()
    where = "label = 'tumuor' AND coverage = 1"
    error = f"the condition {where!r} names the label 'tumuor', which no ROI has; did you mean 'tumour'? {KNOWN}"
    asked: Mapping[str, Callable[[str], Any]] = {
        "labels": lambda text: study.labels(text).fetchall(),
        "counts": lambda text: study.counts(where=text),
        "export": lambda text: study.export(tmp_path / "o.beton", where=text, raw=True),
        "export_tiles": lambda text: study.export_tiles(tmp_path / "out", where=text),
        "qc_report": lambda text: study.qc_report([text]),
        "qc_overlay": lambda text: study.qc_overlay("s0", tmp_path / "o.png", [text]),
    }
    for name, ask in asked.items():
        with pytest.raises(QueryError) as refused:
            ask(where)
        assert str(refused.value) == error, name
        ask(where.replace("tumuor", "tumour"))
    with pytest.raises(StudyError) as caught:
        study.export(tmp_path / "p.beton", classes=["tumour", "stroma", "pen", "fta"], raw=True)
    assert str(caught.value) == f"`classes` names the label 'fta', which no ROI has; did you mean 'fat'? {KNOWN}"
    report = study.export(tmp_path / "p.beton", classes=["tumour", "stroma", "pen", "fat"], raw=True)
    assert list(report.tiles_per_class) == ["tumour", "stroma", "pen", "fat"]


@pytest.mark.parametrize(
    ("where", "strange"),
    [
        ("'x' = label", ["x"]),
        ("label <> 'x' AND NOT LABEL = 'y'", ["x", "y"]),
        ("label IN ('fat', 'x', 'y') OR roi_name = 'z'", ["x", "y"]),
        ("label NOT IN ('x')", ["x"]),
        ("label IS DISTINCT FROM 'x'", ["x"]),
        ("label::VARCHAR = 'x'::VARCHAR", ["x"]),
        ("CASE label WHEN 'x' THEN true ELSE false END", ["x"]),
        ("list_contains(['x', 'fat'], label)", ["x"]),
        ("label IN ['x', 'fat']", ["x"]),
        ("coalesce(label, 'none') NOT IN ('none', 'x')", ["x"]),
        ("tile_id IN (SELECT tile_id FROM labels WHERE label = 'x')", ["x"]),
        ("label = 'fat' -- and not 'x'", []),
        ("label LIKE 'x%' OR label ^@ 'x' OR upper(label) = 'FAT' OR label > 'x'", []),
        ("label = 'FAT' COLLATE NOCASE", []),
        ("slide = 'x' OR split = 'x' OR roi_name = 'label'", []),
        ("tile_id IN (SELECT tile_id FROM errors WHERE label = 'x')", []),
        ("coalesce(label, 'none') = 'none'", []),
        ("label IS NULL", []),
    ],
)
def test_which_texts_of_a_condition_are_labels(study: sd.Study, where: str, strange: list[str]) -> None:
    study.label()
    if not strange:
        study.labels(where).fetchall()
        return
    with pytest.raises(QueryError) as caught:
        study.labels(where)
    assert str(caught.value) == "\n".join(
        f"the condition {where!r} names the label {name!r}, which no ROI has; t{KNOWN[1:]}" for name in strange
    )


@pytest.mark.parametrize("missing", ["", "NA", "None"])
def test_a_condition_on_a_missing_label_says_how_to_ask_for_it(study: sd.Study, missing: str) -> None:
    study.label()
    with pytest.raises(SlideduckError) as caught:
        study.labels(f"label = '{missing}'")
    assert str(caught.value).splitlines()[1:] == ["tiles without a label are found by: label IS NULL"]
    assert {row[8] for row in study.labels("label IS NULL").fetchall()} == {None}


@pytest.mark.parametrize(
    ("labels", "alike"),
    [
        ({"tumour": 9, "Tumor": 2}, [("Tumor", "tumour")]),
        ({"Tumour": 9, "tumour": 2, "TUMOUR ": 3},
         [("TUMOUR ", "Tumour"), ("tumour", "TUMOUR "), ("tumour", "Tumour")]),
        ({"lymph node": 1, "lymph_node": 1, "LymphNode": 5},
         [("lymph node", "LymphNode"), ("lymph_node", "LymphNode"), ("lymph_node", "lymph node")]),
        ({"tumuor": 1, "tumour": 4}, [("tumuor", "tumour")]),
        ({"dysplastic gland": 1, "dysplastic glands": 1}, [("dysplastic glands", "dysplastic gland")]),
        ({"grade 1": 1, "grade 2": 1, "stage I": 1, "stage II": 1, "G3": 1, "G4": 1, "T1a": 1, "T1b": 1}, []),
        ({"pen": 1, "pin": 1, "fat": 1, "stroma": 1, "trauma": 1, "class12345": 1, "class12346": 1}, []),
        ({"benign gland": 1, "malign gland": 1, "gland": 1}, []),
    ],
)  # fmt: skip
def test_which_labels_are_nearly_alike(labels: dict[str, int], alike: list[tuple[str, str]]) -> None:
    assert sorted(nearly_alike(labels)) == sorted(alike)


def test_labels_that_are_nearly_alike_are_named_with_what_makes_them_one(path: Path, tmp_path: Path) -> None:
    write_rois(tmp_path / "s1.csv", {"a b": ("Tumour", (200, 0, 256, 60)), "c": ("Tumour", (0, 100, 20, 160))})
    assert run("add-rois", path, tmp_path / "s1.csv").exit_code == 0
    lines = said(run("label", "s.duckdb"))
    assert lines == [
        "labelled 2 slides and grids",
        "labels that are nearly alike; if they are one, rename it:",
        "  'tumour' (2 ROIs) and 'Tumour' (2 ROIs): slideduck rename-label s.duckdb tumour Tumour",
    ]
    assert run(*shlex.split(lines[-1].split(": ")[1])[1:]).exit_code == 0
    assert said(run("label", "s.duckdb")) == ["labelled 1 slide and grid"]
