"""Tables of patients in a study: which rows match a slide, and what is said of the others."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

import slideduck as sd
from slideduck.cli.group import cli
from slideduck.errors import InputError, StudyError
from tests.patient_study import SLIDES, write_study
from tests.slides import write_slide


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("patients"))


@pytest.fixture
def folder(labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a copy of the study."""
    shutil.copy(labelled, tmp_path / "study.duckdb")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def add(table: str, **options: str) -> sd.PatientsReport:
    with sd.open("study.duckdb") as study:
        return study.add_patients(table, **options)


def refused(table: str, **options: str) -> list[str]:
    """Return the problems of a table, of which nothing is kept."""
    with sd.open("study.duckdb") as study:
        before = study.sql("FROM patients").fetchall()
        with pytest.raises(InputError) as caught:
            study.add_patients(table, **options)
        assert study.sql("FROM patients").fetchall() == before
    return list(caught.value.problems)


def test_names_with_a_suffix_are_refused_with_what_takes_it_off(folder: Path) -> None:
    Path("p.csv").write_text("slide,patient\nS0.tif,a\nS1.tif,a\n007.tif,b\n")
    assert refused("p.csv") == [
        "p.csv: 3 rows and 7 slides in study.duckdb, and none of the rows names one of the slides; "
        "take off what stands behind them with `slide_suffix='.tif'`",
        "p.csv:2: no slide 'S0.tif'; did you mean 'S0'?",
        "p.csv:3: no slide 'S1.tif'; did you mean 'S1'?",
        "p.csv:4: no slide '007.tif'; did you mean '007'?",
    ]
    said = run("add-patients", "study.duckdb", "p.csv")
    assert said.exit_code == 1
    (remedy,) = [line.split("with ")[1] for line in said.stderr.splitlines() if "take off" in line]
    assert remedy == "--slide-suffix .tif"
    typed = run("add-patients", "study.duckdb", "p.csv", *remedy.split())
    assert typed.exit_code == 0, typed.output
    assert typed.stdout == "2 patients in 3 rows\n"
    with sd.open("study.duckdb") as study:
        assert study.sql("SELECT slide, patient FROM patients ORDER BY slide").fetchall() == [
            ("007", "b"), ("S0", "a"), ("S1", "a"),
        ]  # fmt: skip


def test_a_table_of_barcodes_is_refused_with_a_table_of_slides(folder: Path) -> None:
    Path("p.csv").write_text("slide,patient,age\nTCGA-AA-0001,TCGA-AA-0001,61\nTCGA-AA-0002,TCGA-AA-0002,70\n")
    query = "SELECT slide, left(slide, 12) AS patient FROM slides WHERE slide LIKE 'TCGA-%'"
    assert refused("p.csv") == [
        "p.csv: 2 rows and 7 slides in study.duckdb, and none of the rows names one of the slides; write a row for "
        "each slide, not for each patient; a table from the barcodes makes: slideduck sql study.duckdb "
        f'"{query}" --csv > patients.csv',
        "p.csv:2: no slide 'TCGA-AA-0001'; did you mean 'TCGA-AA-0001-01Z-00-DX1' or 'TCGA-AA-0001-01Z-00-DX2'?",
        "p.csv:3: no slide 'TCGA-AA-0002'; did you mean 'TCGA-AA-0002-01Z-00-DX1'?",
    ]
    made = run("sql", "study.duckdb", query, "--csv")
    Path("patients.csv").write_text(made.stdout)
    report = add("patients.csv")
    assert (report.patients, report.rows, report.slides_without) == (2, 3, SLIDES[:4])


def test_numbers_that_lost_their_zeros_are_not_matched_by_guess(folder: Path) -> None:
    pq.write_table(pa.table({"slide": [7], "patient": [1.0]}), "p.parquet")
    assert refused("p.parquet") == [
        "p.parquet: 1 row and 7 slides in study.duckdb, and none of the rows names one of the slides; write the "
        'slides\' names as the study has them: slideduck sql study.duckdb "SELECT slide FROM slides"',
        "p.parquet:1: no slide '7'; did you mean '007'?",
    ]
    assert "007" in run("sql", "study.duckdb", "SELECT slide FROM slides").output
    pq.write_table(pa.table({"slide": ["007"], "patient": [1.0]}), "p.parquet")
    assert add("p.parquet").patients == 1


def test_names_are_compared_in_one_form_of_unicode(folder: Path) -> None:
    """macOS writes the names of files decomposed; the study's slide keeps the name of its file."""
    decomposed = "Mu\u0308ller"
    write_slide(folder / f"{decomposed}.tif", size=(128, 128), levels=1)
    Path("p.csv").write_text("slide,patient\nM\u00fcller,Ren\u00e9\nS0,Rene\u0301\n", encoding="utf-8")
    with sd.open("study.duckdb") as study:
        study.add_slides(folder / f"{decomposed}.tif")
        report = study.add_patients("p.csv")
        assert (report.patients, report.unknown_slides) == (1, ())
        joined = study.sql("SELECT patient FROM slides JOIN patients USING (slide)").fetchall()
        assert joined == [("Ren\u00e9",), ("Ren\u00e9",)]


def test_many_rows_that_match_nothing(folder: Path) -> None:
    Path("p.csv").write_text("slide,patient\n" + "".join(f"zzz{i},p\n" for i in range(30)))
    problems = refused("p.csv")
    assert problems[1] == "p.csv:2: no slide 'zzz0'"
    assert problems[-1] == "p.csv: and 10 more rows"
    assert len(problems) == 22


def test_a_study_without_slides_takes_no_patients(tmp_path: Path, empty_study: Path, labelled: Path) -> None:
    shutil.copy(empty_study, tmp_path / "new.duckdb")
    (tmp_path / "p.csv").write_text("slide,patient\nS0,p\n")
    with sd.open(tmp_path / "new.duckdb") as study:
        with pytest.raises(StudyError) as caught:
            study.add_patients(tmp_path / "p.csv")
        name = study.handle.name
    assert str(caught.value) == (
        f"{name} has no slides that patients could be of; add them first: slideduck add-slides {name} FOLDER"
    )
    assert run("add-slides", tmp_path / name, labelled.parent).exit_code == 0
    with sd.open(tmp_path / "new.duckdb") as study:
        assert study.add_patients(tmp_path / "p.csv").patients == 1


def test_rows_that_most_likely_mean_slides_without_a_patient(folder: Path) -> None:
    Path("p.csv").write_text("slide,patient\nS0,a\nS1.svs,a\ns2.svs,b\n7,c\nTCGA-AA-0001,d\nelsewhere,e\n")
    said = run("add-patients", "study.duckdb", "p.csv")
    assert said.exit_code == 0
    assert said.output == (
        "5 patients in 6 rows\n"
        "5 slides of the table not in the study:\n"
        "  7 (nearest: 007)\n"
        "  S1.svs (nearest: S1)\n"
        "  TCGA-AA-0001 (nearest: TCGA-AA-0001-01Z-00-DX1, TCGA-AA-0001-01Z-00-DX2)\n"
        "  elsewhere\n"
        "  s2.svs (nearest: S2)\n"
        "6 slides without a patient, each counted as its own patient:\n"
        + "".join(f"  {name}\n" for name in SLIDES if name != "S0")
        + "WARNING: rows of the table most likely mean 5 of them, so that slides of one patient may come on both sides "
        "of a split; add the table again with --slide-suffix .svs:\n"
        "  007: '7' in the table\n"
        "  S1: 'S1.svs' in the table\n"
        "  S2: 's2.svs' in the table\n"
        "  TCGA-AA-0001-01Z-00-DX1: 'TCGA-AA-0001' in the table\n"
        "  TCGA-AA-0001-01Z-00-DX2: 'TCGA-AA-0001' in the table\n"
    )
    again = add("p.csv", slide_suffix=".svs")
    assert again.slides_without == tuple(name for name in SLIDES if name not in ("S0", "S1"))
    assert again.suffix == ""
    # The split says so, too.
    split = run("split", "study.duckdb", "--val-fraction", "0.4")
    assert "WARNING: rows of the patients' table most likely mean 4 of them" in split.stderr
    Path("p.csv").write_text("slide,patient\nS2,b\n007,c\nTCGA-AA-0001-01Z-00-DX1,d\nTCGA-AA-0001-01Z-00-DX2,d\n")
    assert add("p.csv").slides_without == ("TCGA-AA-0002-01Z-00-DX1",)


def test_rows_without_a_slide_or_a_patient_are_counted(folder: Path) -> None:
    Path("p.csv").write_text("slide,patient,age\nS0,P0,61\nS1,NA,NA\nNA,P2,70\n,total,131\n")
    said = run("add-patients", "study.duckdb", "p.csv")
    assert said.output.startswith(
        "1 patient in 2 rows\n"
        "2 rows without a slide, left out\n"
        "1 row without a patient\n"
        "1 cell of age taken for missing (NA and the like)\n"
        "6 slides without a patient, each counted as its own patient:\n"
    )
    with sd.open("study.duckdb") as study:
        assert study.sql("FROM patients ORDER BY slide").fetchall() == [
            ("S0", "P0", None, 61), ("S1", None, None, None),
        ]  # fmt: skip
        assert study.sql("SELECT DISTINCT patient FROM labels WHERE slide = 'S1'").fetchall() == [("S1",)]
        report = study.split(val_fraction=0.4)
        assert report.alone == tuple(name for name in SLIDES if name != "S0")


def test_columns_under_other_names_are_named_by_options(folder: Path) -> None:
    Path("p.csv").write_text("Slide ID,Patient ID\nS0,1\n")
    said = run("add-patients", "study.duckdb", "p.csv")
    assert said.exit_code == 1
    assert said.stderr == (
        "error: p.csv:1: no column 'slide' and no column 'patient'; the columns are: Slide ID, Patient ID; a table of "
        "patients has a row for each slide, with the columns slide and patient: rename its columns, or say which they "
        "are, by --slide-column 'Slide ID' and --patient-column 'Patient ID'\n"
    )
    words = shlex.split(said.stderr.split(", by ")[1].replace(" and ", " "))
    assert run("add-patients", "study.duckdb", "p.csv", *words).exit_code == 0


def test_a_split_that_goes_says_how_to_make_it_again(folder: Path) -> None:
    Path("p.csv").write_text("slide,patient\nS0,a\nS1,a\n")
    with sd.open("study.duckdb") as study:
        study.split(folds=3, seed=5, val_fold=1)
    said = run("add-patients", "study.duckdb", "p.csv")
    (line,) = [line for line in said.stderr.splitlines() if "removed" in line]
    command = "slideduck split study.duckdb --folds 3 --val-fold 1 --seed 5"
    assert line == (
        "the split (3 folds, seed 5, fold 1 validates) was removed, since its patients changed; "
        f"make it again with: {command}"
    )
    assert run(*command.split()[1:]).exit_code == 0
    with sd.open("study.duckdb") as study:
        assert study.sql("SELECT n_folds, seed, val_fold FROM split_rule").fetchall() == [(3, 5, 1)]
        assert study.sql("SELECT count(DISTINCT fold) FROM labels WHERE slide IN ('S0', 'S1')").fetchall() == [(1,)]
