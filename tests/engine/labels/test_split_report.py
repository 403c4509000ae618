"""Splits of a study: what is kept of the one in force, sides read from a column, and what is said of the sides."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import slideduck as sd
from slideduck.cli.group import cli
from slideduck.errors import SplitError
from tests.campaign import cases
from tests.patient_study import SLIDES, write_study

TCGA_SLIDES = SLIDES[4:6]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("splits"))


@pytest.fixture
def folder(labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a copy of the study."""
    shutil.copy(labelled, tmp_path / "study.duckdb")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, list(words))


def said(*words: str) -> list[str]:
    """Return the lines that a split writes to standard error."""
    done = run("split", "study.duckdb", *words)
    assert done.exit_code == 0, done.output
    return done.stderr.splitlines()


def table(header: str, *rows: str) -> None:
    Path("p.csv").write_text("\n".join((header, *rows)) + "\n")
    with sd.open("study.duckdb") as study:
        study.add_patients("p.csv")


def sides() -> dict[str, str | None]:
    """Return the side of each slide."""
    with sd.open("study.duckdb", read_only=True) as study:
        return dict(study.sql("SELECT DISTINCT slide, split FROM labels").fetchall())


@pytest.mark.parametrize(
    "options",
    [
        ("--folds", "2", "--val-fold", "1"),
        ("--folds", "2", "--preserve-site", "--seed", "7"),
        ("--val-fraction", "0.35"),
        ("--column", "my side"),
        ("--column", "my fold", "--val-fold", "1"),
    ],
)
def test_info_says_of_a_split_what_split_says(folder: Path, options: tuple[str, ...]) -> None:
    rows = (f"{slide},{i},{'XY'[i % 2]},{'train' if i else 'val'},{i % 3}" for i, slide in enumerate(SLIDES))
    table("slide,patient,site,my side,my fold", *rows)
    rule = next(line for line in said(*options) if line.startswith("split: ")).removeprefix("split: ")
    with sd.open("study.duckdb", read_only=True) as study:
        assert [row["detail"] for row in study.info().to_pylist() if row["what"] == "split"] == [rule.split(" -> ")[-1]]


def test_a_split_typed_again_keeps_the_one_in_force(folder: Path) -> None:
    first = said("--folds", "3", "--seed", "4")
    assert first[0] == "split: 3 folds, seed 4, fold 0 validates"
    kept = sides()
    assert said()[0] == "split: 3 folds, seed 4, fold 0 validates, as before"
    assert sides() == kept
    changed = said("--val-fold", "2")
    assert changed[0] == "split: 3 folds, seed 4, fold 0 validates -> 3 folds, seed 4, fold 2 validates"
    moved = sum(side != kept[slide] for slide, side in sides().items())
    assert changed[1] == f"{moved} patients changed sides; betons that were exported before keep the old split"
    assert said("--seed", "5")[0].endswith(" -> 3 folds, seed 5, fold 2 validates")
    assert said("--val-fraction", "0.4")[0] == "split: 3 folds, seed 5, fold 2 validates -> fraction 0.4, seed 0"
    assert said()[0] == "split: fraction 0.4, seed 0, as before"


def test_a_seed_alone_does_not_undo_a_column(folder: Path) -> None:
    table("slide,patient,part", *(f"{slide},{i},{'train' if i else 'val'}" for i, slide in enumerate(SLIDES)))
    assert said("--column", "part")[0] == "split: by column 'part'"
    refused = run("split", "study.duckdb", "--seed", "3")
    assert refused.exit_code == 1
    assert refused.stderr == (
        "error: `seed` is given, and the split in force is by column 'part', which has none; say how to split, such as "
        "--val-fraction 0.3\n"
    ).replace("`seed`", "--seed")
    assert said()[0] == "split: by column 'part', as before"
    assert said("--seed", "3", "--val-fraction", "0.3")[0] == "split: by column 'part' -> fraction 0.3, seed 3"
    with sd.open("study.duckdb") as study:
        for wrong in ({"folds": 2, "val_fraction": 0.5}, {"column": "part", "val_fraction": 0.5}):
            with pytest.raises(SplitError) as caught:
                study.split(**wrong)
            other = next(iter(wrong))
            assert str(caught.value) == f"both `val_fraction` and `{other}` are given; give one of them"
        with pytest.raises(SplitError) as caught:
            study.split(val_fold=1)
        assert str(caught.value) == "`val_fold` is given without folds; say how many, such as `folds=3`"
        study.split(val_fold=1, folds=3)


def test_folds_of_a_column(folder: Path) -> None:
    numbers = ("1", "1", "5", "3", "test", "3.0", "5")
    table("slide,patient,part", *(f"{slide},p{i},{numbers[i]}" for i, slide in enumerate(SLIDES)))
    assert said("--column", "part", "--val-fold", "2")[0] == "split: by column 'part', 3 folds, fold 2 validates"
    assert list(sides().values()).count("val") == 2
    with sd.open("study.duckdb") as study:
        found = study.sql("SELECT DISTINCT patient, split, fold FROM labels ORDER BY patient").fetchall()
        assert found == [
            ("p0", "train", 0), ("p1", "train", 0), ("p2", "val", 2), ("p3", "train", 1), ("p4", "test", None),
            ("p5", "train", 1), ("p6", "val", 2),
        ]  # fmt: skip
        # The same again, and another fold of it; sides are taken as they are where none is named.
        assert study.split(val_fold=0).rule.options == "--column part --val-fold 0"
        assert study.split(column="part").unknown_sides == ("1", "3", "3.0", "5")
        refused: tuple[tuple[dict[str, Any], str], ...] = (
            ({"column": "part", "val_fold": 3}, "`val_fold` is 3; give a fold from 0 to 2"),
            (
                {"column": "patient", "val_fold": 0},
                "column 'patient' has 0 whole numbers, and `val_fold` needs folds, which are whole numbers, two or "
                "more; leave it out to take the sides as they are",
            ),
        )
        for wrong, message in refused:
            with pytest.raises(SplitError) as caught:
                study.split(**wrong)
            assert str(caught.value) == message


def test_sides_of_a_column_are_compared_without_case_and_spaces(folder: Path) -> None:
    cells = ("train", " TRAIN", "Training", "val", "Validation ", "valid", "Hold  Out")
    table("slide,patient,part", *(f"{slide},p{i},{cells[i]}" for i, slide in enumerate(SLIDES)))
    lines = said("--column", "part")
    assert list(dict(sorted(sides().items())).values()) == [
        "train", "train", "train", "val", "val", "val", "hold out",
    ]  # fmt: skip
    assert lines[lines.index("sides of the column that are neither train, val nor test:") + 1] == "  hold out"
    table("slide,patient,part", *(f"{slide},p{i // 2},{cells[i]}" for i, slide in enumerate(SLIDES)))
    with sd.open("study.duckdb") as study:
        with pytest.raises(SplitError) as caught:
            study.split(column="part")
        assert str(caught.value) == (
            "patient 'p1' is on the sides 'Training' and 'val' of column 'part'; give all slides of a patient one side"
        )
        with pytest.raises(SplitError) as caught:
            study.split(column="Part")
        assert str(caught.value) == (
            "the patients' table has no column 'Part'; it has slide, patient, site, part; did you mean 'part'?"
        )


def test_every_patient_without_a_side_is_named(folder: Path) -> None:
    table("slide,patient,part", "S0,a,train", "S1,a,NA", "S2,b,", "007,c,val")
    with sd.open("study.duckdb") as study:
        with pytest.raises(SplitError) as caught:
            study.split(column="part")
        assert str(caught.value) == (
            "patient 'a' (slides S0, S1) has no part; fill the column in\n"
            "patient 'b' (slides S2) has no part; fill the column in"
        )
    table("slide,patient,part", "S1,a,train", "S2,b,train")
    lines = said("--column", "part")
    at = lines.index("WARNING: 3 slides on no side, not being in the patients' table:")
    assert lines[at + 1 : at + 4] == [f"  {slide}" for slide in SLIDES[4:]]


def test_a_side_that_lacks_a_label_says_so(folder: Path) -> None:
    table("slide,patient,part", *(f"{slide},{i},{'val' if i in (1, 2) else 'train'}" for i, slide in enumerate(SLIDES)))
    with sd.open("study.duckdb") as study:
        report = study.split(column="part")
        assert report.lacking == ("val: Rare", "train: Stroma")
        assert study.split(folds=2).lacking == (
            tuple(f"fold {fold}: {label}" for label in ("Rare", "Stroma") for fold in lacking_folds(study, label))
        )
        study.tile(64, tile_um=32)
        study.label()
        assert study.split(column="part").lacking == (
            "val: Rare (grid 32px_16um)", "train: Stroma (grid 32px_16um)",
            "val: Rare (grid 64px_32um)", "train: Stroma (grid 64px_32um)",
        )  # fmt: skip
    lines = said()
    assert lines[lines.index("WARNING: sides that lack a label:") + 1] == "  val: Rare (grid 32px_16um)"


def lacking_folds(study: sd.Study, label: str) -> list[int]:
    held = {fold for (fold,) in study.sql(f"SELECT DISTINCT fold FROM labels WHERE label = '{label}'").fetchall()}
    return [fold for fold in range(2) if fold not in held]


def test_labels_that_differ_by_case_are_named_with_what_makes_them_one(folder: Path) -> None:
    lines = said("--val-fraction", "0.3")
    at = lines.index("WARNING: labels that differ by case or spaces alone; make them one with:")
    assert lines[at + 1] == "  slideduck rename-label study.duckdb Stroma stroma"
    with sd.open("study.duckdb") as study:
        assert study.split().near_labels == (("stroma", "Stroma"),)
    assert CliRunner().invoke(cli, lines[at + 1].split()[1:]).exit_code == 0
    with sd.open("study.duckdb") as study:
        study.label()
        assert study.split().near_labels == ()


def test_patients_who_join_sites_are_named(folder: Path) -> None:
    table("slide,patient,site", "S0,a,X", "S1,a,Y", "S2,b,Z", "007,c,X", *(f"{slide},d,W" for slide in SLIDES[4:]))
    lines = said("--folds", "2", "--preserve-site")
    assert lines[0] == "split: 2 folds that preserve sites, seed 0, fold 0 validates"
    assert lines[lines.index("patients at several sites, which therefore stay in one fold:") + 1] == "  a: X, Y"
    with sd.open("study.duckdb") as study:
        with pytest.raises(SplitError) as caught:
            study.split(folds=4, preserve_site=True)
        assert str(caught.value) == (
            "3 groups of sites cannot fill 4 folds, since patient 'a' is at X and Y; ask for fewer folds"
        )
        study.split(folds=3, preserve_site=True)
        assert study.sql("SELECT count(DISTINCT fold) FROM labels WHERE site IN ('X', 'Y')").fetchall() == [(1,)]


def test_slides_of_one_barcode_on_two_sides_are_suspected(folder: Path) -> None:
    """Without a table each slide is its own patient; the name of a TCGA slide says whose it is."""
    text = f"slides {', '.join(TCGA_SLIDES)} are of TCGA-AA-0001 by their names, on the sides train, val"
    table(
        "slide,patient,part", *(f"{slide},{slide},{'val' if slide == TCGA_SLIDES[0] else 'train'}" for slide in SLIDES)
    )
    assert f"  {text}" in said("--column", "part")
    with sd.open("study.duckdb") as study:
        suspected = 0
        for seed in range(4):
            report = study.split(val_fraction=0.5, seed=seed)
            leaks = study.sql(
                "SELECT count(DISTINCT split) FROM labels WHERE starts_with(slide, 'TCGA-AA-0001')"
            ).fetchall() == [(2,)]
            assert (report.suspects == (text,)) is leaks
            suspected += leaks
        assert suspected
    table("slide,patient", *(f"{slide},TCGA-AA-0001" for slide in TCGA_SLIDES))
    with sd.open("study.duckdb") as study:
        assert all(study.split(val_fraction=0.5, seed=seed).suspects == () for seed in range(4))


def test_patients_whose_names_are_spelt_alike_are_suspected(folder: Path) -> None:
    names = ("P 01", "p  1", "b", "c", "d", "e", "f")
    table("slide,patient,part", *(f"{s},{names[i]},{'val' if i == 0 else 'train'}" for i, s in enumerate(SLIDES)))
    with sd.open("study.duckdb") as study:
        assert study.split(column="part").suspects == ("patients 'P 01', 'p  1' on the sides train, val",)
    lines = said()
    at = lines.index(
        "WARNING: these may be one patient each, and are on different sides; give them one name in the patients' "
        "table, add it again, and split again:"
    )
    assert lines[at + 1] == "  patients 'P 01', 'p  1' on the sides train, val"
    table("slide,patient,part", "007,p  1,train")
    with sd.open("study.duckdb") as study:
        assert not [text for text in study.split(column="part").suspects if text.startswith("patients")]


@settings(max_examples=cases(12, 300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(["a", "b", "c", "d", "NA", ""]), min_size=7, max_size=7),
    st.lists(st.sampled_from(["X", "Y", "Z"]), min_size=7, max_size=7),
    st.sampled_from([{"val_fraction": 0.3}, {"folds": 2}, {"folds": 2, "preserve_site": True}]),
    st.integers(0, 3),
)
def test_no_patient_is_on_two_sides_whatever_the_table(
    folder: Path, patients: list[str], sites: list[str], how: dict[str, object], seed: int
) -> None:
    table("slide,patient,site", *(f"{s},{p},{q}" for s, p, q in zip(SLIDES, patients, sites, strict=True)))
    with sd.open("study.duckdb") as study:
        try:
            report = study.split(seed=seed, **how)  # type: ignore[arg-type]
        except SplitError:
            return  # too few patients or sites; the split before was removed with its patients
        rows = study.sql("SELECT DISTINCT slide, coalesce(fold::VARCHAR, split) FROM labels").fetchall()
    assert len(rows) == len(SLIDES)
    side = dict(rows)
    for name in ("a", "b", "c", "d"):
        assert len({side[s] for s, p in zip(SLIDES, patients, strict=True) if p == name}) <= 1
    if "preserve_site" in how:
        assert all(len({side[s] for s, q in zip(SLIDES, sites, strict=True) if q == site}) <= 1 for site in "XYZ")
    assert report.alone == tuple(s for s, p in zip(SLIDES, patients, strict=True) if p in ("NA", ""))
