"""What a run said of labelled tiles goes into the study whole, and its errors are there in SQL."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import slideduck as sd
from slideduck.catalog.evaluations import EvaluationAdded, read_prediction_file
from slideduck.cli.group import cli
from slideduck.errors import RunError, StudyError
from tests.slides import write_slide

GRID = "32px_32um"


@pytest.fixture
def study(tmp_path: Path) -> sd.Study:
    """A study of two slides of 8 x 4 tiles, the left half stroma, the right half tumour."""
    (tmp_path / "slides").mkdir()
    (tmp_path / "rois").mkdir()
    for i in range(2):
        write_slide(tmp_path / "slides" / f"S{i}.tif", i, size=(512, 256), mpp=0.5)
        rois = "".join(
            f"{name},{x},{y},{name}\n"
            for name, left in (("stroma", 0), ("tumour", 256))
            for x, y in ((left, 0), (left + 256, 0), (left + 256, 256), (left, 256))
        )
        (tmp_path / "rois" / f"S{i}.csv").write_text("roi_name,x_base,y_base,label\n" + rois)
    (tmp_path / "patients.csv").write_text("slide,patient,site\nS0,P0,A\nS1,P1,B\n")
    opened = sd.open(tmp_path / "study.duckdb")
    opened.add_slides(tmp_path / "slides")
    opened.add_rois(tmp_path / "rois")
    opened.add_patients(tmp_path / "patients.csv")
    opened.tile(32, tile_um=32)
    opened.label()
    opened.split(val_fraction=0.5)
    return opened


def write_predictions(path: Path, study: sd.Study, *, wrong: int, where: str = "true", **facts: str) -> Path:
    """Write predictions of the labelled tiles of a study, the first so many of them wrong."""
    rows = study.labels(f"label IS NOT NULL AND ({where})").project("tile_id, slide, patient, label").fetchall()
    classes = ("stroma", "tumour")
    labels = np.array([classes.index(row[3]) for row in rows])
    predicted = np.where(np.arange(len(rows)) < wrong, 1 - labels, labels)
    probabilities = np.full((len(rows), 2), 0.125)
    probabilities[np.arange(len(rows)), predicted] = 0.875
    columns = {
        **{name: [row[i] for row in rows] for i, name in enumerate(("tile_id", "slide", "patient", "label"))},
        "predicted": [classes[k] for k in predicted],
        "loss": -np.log(probabilities[np.arange(len(rows)), labels]),
        **{f"prob_{name}": probabilities[:, k] for k, name in enumerate(classes)},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    said = {"run": "first", "epoch": "3", "grid": GRID, **facts}
    pq.write_table(pa.table(columns).replace_schema_metadata({k: v for k, v in said.items() if v}), path)
    return path


def test_a_run_goes_in_whole_and_its_errors_are_found_in_sql(study: sd.Study, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "first"
    write_predictions(run / "predictions.parquet", study, wrong=3, where="slide = 'S0'", split="val", beton="/b.beton")
    write_predictions(run / "evaluations" / "tiles-best.parquet", study, wrong=5, checkpoint="ab12")
    assert study.add_predictions(run) == (
        EvaluationAdded("first", "validation", 32, 3, 0, 0),
        EvaluationAdded("first", "tiles-best", 64, 5, 0, 0),
    )
    assert study.sql("FROM evaluations ORDER BY evaluation").fetchall() == [
        ("first", "tiles-best", str(run), str(run / "evaluations" / "tiles-best.parquet"), "ab12", 3, GRID, None, None,
         ["stroma", "tumour"], 64),
        ("first", "validation", str(run), str(run / "predictions.parquet"), None, 3, GRID, "/b.beton", "val",
         ["stroma", "tumour"], 32),
    ]  # fmt: skip
    errors = study.sql("FROM errors WHERE evaluation = 'validation' ORDER BY tile_id")
    assert errors.columns[:7] == ["run", "evaluation", "grid", "tile_id", "slide", "patient", "site"]
    rows = errors.project(
        "slide, patient, site, label, label_now, predicted, probability, label_probability, probabilities, roi_name"
    ).fetchall()
    assert len(rows) == 3
    assert rows[0] == (
        "S0", "P0", "A", "stroma", "stroma", "tumour", 0.875, 0.125, {"stroma": 0.125, "tumour": 0.875}, "stroma",
    )  # fmt: skip
    file = pq.read_table(run / "evaluations" / "tiles-best.parquet")
    back = study.sql(
        "SELECT tile_id, slide, patient, label, predicted, loss, probabilities['stroma'] AS prob_stroma, "
        "probabilities['tumour'] AS prob_tumour FROM evaluated_tiles WHERE evaluation = 'tiles-best'"
    ).to_arrow_table()
    assert back.to_pylist() == file.to_pylist()


def test_the_same_again_replaces(study: sd.Study, tmp_path: Path) -> None:
    path = write_predictions(tmp_path / "first" / "predictions.parquet", study, wrong=3)
    study.add_predictions(tmp_path / "first")
    write_predictions(path, study, wrong=1, where="slide = 'S1'")
    assert study.add_predictions(path) == (EvaluationAdded("first", "validation", 32, 1, 0, 0),)
    assert study.sql("SELECT count(*) FROM evaluated_tiles").fetchall() == [(32,)]
    assert study.sql("SELECT tiles FROM evaluations").fetchall() == [(32,)]


def test_the_label_that_was_evaluated_stays_beside_the_one_of_now(study: sd.Study, tmp_path: Path) -> None:
    write_predictions(tmp_path / "first" / "predictions.parquet", study, wrong=64)
    study.con.execute("UPDATE rois SET label = 'necrosis' WHERE label = 'tumour' AND slide = 'S0'")
    study.label()
    assert study.add_predictions(tmp_path / "first") == (EvaluationAdded("first", "validation", 64, 64, 16, 0),)
    rows = study.sql("SELECT label, label_now, count(*) FROM errors GROUP BY ALL ORDER BY ALL").fetchall()
    assert rows == [("stroma", "stroma", 32), ("tumour", "necrosis", 16), ("tumour", "tumour", 16)]
    study.remove_slides("S0")
    rows = study.sql("SELECT slide, label_now IS NULL, count(*) FROM errors GROUP BY ALL ORDER BY ALL").fetchall()
    assert rows == [("S0", True, 32), ("S1", False, 32)]


def test_all_or_nothing_is_added(study: sd.Study, tmp_path: Path) -> None:
    run = tmp_path / "first"
    write_predictions(run / "predictions.parquet", study, wrong=0)
    bad = write_predictions(run / "evaluations" / "x.parquet", study, wrong=0, grid="64px_64um")
    with pytest.raises(StudyError) as error:
        study.add_predictions(run)
    assert str(error.value) == (
        f"{bad}: its tiles are of grid 64px_64um, which study.duckdb does not have; it has {GRID}"
    )
    assert study.sql("SELECT count(*) FROM evaluations").fetchall() == [(0,)]


def test_another_run_of_the_name_is_refused_until_told(study: sd.Study, tmp_path: Path) -> None:
    write_predictions(tmp_path / "first" / "predictions.parquet", study, wrong=1)
    write_predictions(tmp_path / "other" / "first" / "evaluations" / "e.parquet", study, wrong=2)
    study.add_predictions(tmp_path / "first")
    with pytest.raises(StudyError) as error:
        study.add_predictions(tmp_path / "other" / "first")
    assert str(error.value) == (
        f"study.duckdb holds evaluations of the run {tmp_path / 'first'}, also called 'first'; "
        "replace them with `overwrite=True`, or rename the run folder"
    )
    study.add_predictions(tmp_path / "other" / "first", overwrite=True)
    assert study.sql("SELECT evaluation, count(*) FROM errors GROUP BY ALL").fetchall() == [("e", 2)]


def test_a_run_that_was_moved_is_one_run(study: sd.Study, tmp_path: Path) -> None:
    run = tmp_path / "first"
    write_predictions(run / "predictions.parquet", study, wrong=1, folder="/where/it/was/first")
    write_predictions(run / "evaluations" / "e.parquet", study, wrong=2, folder=str(run))
    study.add_predictions(run)
    rows = study.sql("SELECT evaluation, count(*) FROM errors GROUP BY ALL ORDER BY ALL").fetchall()
    assert rows == [("e", 2), ("validation", 1)]
    assert study.sql("SELECT DISTINCT run_path FROM evaluations").fetchall() == [(str(run),)]
    study.add_predictions(run)
    assert study.sql("SELECT count(*) FROM evaluated_tiles").fetchall() == [(128,)]


def test_files_that_are_no_predictions_of_this_study_are_refused(study: sd.Study, tmp_path: Path) -> None:
    path = write_predictions(tmp_path / "first" / "predictions.parquet", study, wrong=1)
    table = pq.read_table(path)

    def refused(changed: pa.Table) -> str:
        pq.write_table(changed, path)
        with pytest.raises((RunError, StudyError)) as error:
            study.add_predictions(path)
        return str(error.value).removeprefix(f"{path}: ")

    assert refused(table.drop_columns(["loss"])) == (
        "not predictions of labelled tiles (it lacks the column loss); evaluate again"
    )
    assert refused(table.drop_columns(["prob_tumour"])) == (
        "not predictions of labelled tiles (label 'tumour' has no column of probabilities); evaluate again"
    )
    assert refused(table.slice(0, 0)) == "not predictions of labelled tiles (it is empty); evaluate again"
    column = pa.array([None] * len(table), pa.string())
    assert refused(table.set_column(1, "slide", column)) == (
        "not predictions of labelled tiles (there are NULLs in slide); evaluate again"
    )
    assert refused(table.replace_schema_metadata({})) == "it does not say of which run and grid it is; evaluate again"
    column = pa.array(["elsewhere"] * len(table))
    assert refused(table.set_column(1, "slide", column)) == (
        "study.duckdb has none of its 1 slide, such as 'elsewhere'; give the study that the beton was exported from"
    )
    path.write_bytes(b"no Parquet")
    with pytest.raises(RunError, match=r"^.*: not a Parquet file that can be read \(.*\); evaluate again$"):
        read_prediction_file(path)
    with pytest.raises(RunError) as error:
        study.add_predictions(tmp_path / "none")
    assert str(error.value) == (
        f"no run at {tmp_path / 'none'}; give a run's folder, or a Parquet that slideduck evaluate wrote"
    )


def test_the_command_prints_what_it_added_and_its_example_parses(study: sd.Study, tmp_path: Path) -> None:
    write_predictions(tmp_path / "first" / "predictions.parquet", study, wrong=3)
    study.con.execute("UPDATE rois SET label = 'necrosis' WHERE label = 'tumour' AND slide = 'S0'")
    study.label()
    study.close()
    words = [str(tmp_path / "study.duckdb"), str(tmp_path / "first")]
    result = CliRunner().invoke(cli, ["add-predictions", *words, "--csv"])
    assert (result.exit_code, result.stdout) == (
        0, "run,evaluation,tiles,errors,relabelled,unknown\nfirst,validation,64,3,16,0\n",
    )  # fmt: skip
    assert result.stderr.endswith(
        "16 tiles have another label in the study now; what they were evaluated against is kept\n"
    )
    text = CliRunner().invoke(cli, ["add-predictions", "--help"]).output
    example = shlex.split(text.rstrip().splitlines()[-1])
    assert example == ["slideduck", "add-predictions", "study.duckdb", "runs/first"]


def test_every_column_of_the_new_tables_has_a_comment(study: sd.Study) -> None:
    bare = study.sql(
        "SELECT table_name, column_name FROM duckdb_columns() "
        "WHERE table_name IN ('evaluations', 'evaluated_tiles', 'errors') AND comment IS NULL"
    ).fetchall()
    assert bare == []
