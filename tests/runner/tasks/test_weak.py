"""Values of patients train the tiles of their slides: classes, several labels and numbers, by the same command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import slideduck as sd
from slideduck.betons import read_sidecar
from slideduck.errors import ConfigError, QueryError
from slideduck.runner.cli.tables import print_metrics
from slideduck.runner.prediction.evaluate import evaluate
from slideduck.runner.prediction.features import features
from slideduck.runner.prediction.study import predict
from slideduck.runner.runs import checkpoint
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tiles.conditions import tiles_where
from slideduck.runner.tiles.targets import read_targets
from slideduck.runner.training.train import train
from tests.runner.betons import TileSpec, stripes, write_beton
from tests.slides import synthetic_image, write_slide

#: By slide; S5 has no outcome.
OUTCOMES = {"S0": "alive", "S1": "dead", "S2": "alive", "S3": "dead", "S4": "alive", "S5": ""}
SPLIT = {"S0": "train", "S1": "train", "S2": "val", "S3": "val", "S4": "train", "S5": "train"}


def config(**settings: Any) -> TrainConfig:
    values = {"model": "networks:tiny", "epochs": 3, "batch_size_per_rank": 16, "lr": 1e-2, **settings}
    return TrainConfig(**values)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study without ROIs: six slides, bright where the patient lives and dark where not, and a beton of all tiles."""
    folder = tmp_path_factory.mktemp("weak")
    (folder / "slides").mkdir()
    for number, (name, outcome) in enumerate(OUTCOMES.items()):
        image = synthetic_image(number, (512, 320))
        write_slide(folder / "slides" / f"{name}.tif", image if outcome == "alive" else image // 2, mpp=0.5)
    rows = [f"{name},P{name},{outcome},{SPLIT[name]},{50 + i}" for i, (name, outcome) in enumerate(OUTCOMES.items())]
    (folder / "patients.csv").write_text("slide,patient,outcome,side,age\n" + "\n".join(rows) + "\n")
    with sd.open(folder / "study.duckdb") as study:
        study.add_slides(folder / "slides")
        study.add_patients(folder / "patients.csv")
        study.tile(32, tile_um=32)
        study.label()
        study.split(column="side")
        study.export(folder / "tiles.beton", where="kept")
    return folder


def test_the_side_car_carries_the_columns_of_the_patients(study: Path) -> None:
    sidecar = read_sidecar(study / "tiles.beton")
    assert sidecar.classes == ()
    assert set(sidecar.class_number.tolist()) == {-1}
    assert sidecar.patient_columns == ("outcome", "side", "age")
    assert [info.patient_columns["outcome"] for info in sidecar.slides] == [*list(OUTCOMES.values())[:5], None]
    assert sidecar.tile_patient_column("age").tolist() == [50 + int(slide[1]) for slide in sidecar.tile_slide]


def test_conditions_name_the_columns_of_the_patients(study: Path) -> None:
    path = study / "tiles.beton"
    sidecar = read_sidecar(path)
    met = tiles_where(sidecar, "age >= 51 AND outcome = 'dead' AND side = 'val'", path)
    assert set(sidecar.tile_slide[met]) == {"S3"}
    assert set(sidecar.tile_slide[tiles_where(sidecar, "outcome IS NULL", path)]) == {"S5"}
    with pytest.raises(QueryError) as error:
        tiles_where(sidecar, "Age > 'old'", path)
    assert str(error.value).endswith(
        "give one SQL condition on the columns row, tile_id, slide, patient, site, split, fold, label, class, "
        "roi_name, grid_x, grid_y, loc_x, loc_y, outcome, side, age"
    )


def test_a_beton_without_labels_says_how_it_can_be_learnt_from(study: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        train(study / "tiles.beton", tmp_path / "run", config(), progress=False)
    assert str(error.value) == (
        f"{study / 'tiles.beton'}: no tile has a label; to learn a value of the slides, give `target='patient:COLUMN'`"
    )


def test_outcomes_of_patients_are_learnt_evaluated_and_predicted(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    summary = train(study / "tiles.beton", run, config(target="patient:outcome"))
    told = capsys.readouterr().err.splitlines()
    n = len(read_sidecar(study / "tiles.beton").tile_id) // 6
    assert told[0].startswith(
        f"training networks:tiny on {3 * n} tiles, validating on {2 * n}, 2 classes (alive, dead); 1 x cpu, "
    )
    assert told[1] == f"{n} tiles without a value of patient:outcome are left out"
    assert summary["metrics"]["val/balanced_accuracy"] > 0.9
    assert summary["metrics"]["val/slide/accuracy"] == 1.0
    state = checkpoint.load(run / "best.pt")
    assert state["classes"] == ["alive", "dead"]
    table = pq.read_table(run / "predictions.parquet")
    assert {(row["slide"], row["label"]) for row in table.select(["slide", "label"]).to_pylist()} == {
        ("S2", "alive"), ("S3", "dead"),
    }  # fmt: skip
    result = evaluate(run, study / "tiles.beton")
    assert result["metrics"]["tiles"] == 5 * n
    assert result["metrics"]["slide/slides"] == 5
    with sd.open(study / "study.duckdb") as opened:
        predict(run, opened, slides=["S5", "S0"])
        rows = opened.sql(
            "SELECT slide, predicted, count(*) FROM predictions GROUP BY ALL ORDER BY count(*) DESC, slide LIMIT 2"
        ).fetchall()
    assert sorted(rows)[0][:2] == ("S0", "alive")


def textures(n_slides: int) -> list[TileSpec]:
    """Return tiles of slides that are stripes (even) or chequers (odd); the labels are not to be looked at."""
    rng = np.random.default_rng(0)
    return [TileSpec(f"S{i}", 0, stripes(rng, across=i % 2 == 1)) for i in range(n_slides) for _ in range(40)]


@pytest.mark.pictures
def test_several_labels_of_patients_are_learnt(tmp_path: Path) -> None:
    columns = {f"S{i}": {"genes": "kras" if i % 2 else "tp53;egfr"} for i in range(8)}
    beton = write_beton(
        tmp_path / "a.beton",
        textures(8),
        columns_of=columns,
        split_of={f"S{i}": "val" if i in (2, 3) else "train" for i in range(8)},
    )
    run = tmp_path / "run"
    settings = config(task="multi-label", target="patient:genes", loss="focal", label_smoothing=0.05)
    metrics = train(beton, run, settings, progress=False)["metrics"]
    assert metrics["val/mean_auroc"] > 0.9
    assert metrics["val/auroc/egfr"] == metrics["val/auroc/tp53"] or metrics["val/auroc/egfr"] > 0.9
    assert metrics["val/slide/mean_auroc"] == 1.0
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    table = pq.read_table(run / "predictions.parquet")
    assert table.column_names[3:6] == ["label", "predicted", "loss"]
    assert table.column_names[6:] == [
        "true_egfr", "prob_egfr", "true_kras", "prob_kras", "true_tp53", "prob_tp53",
    ]  # fmt: skip
    result = evaluate(run, beton, split="val")
    assert result["classes"] == ["egfr", "kras", "tp53"]
    # NaN, where all have a label or none, is None in JSON.
    assert json.loads(json.dumps(result["metrics"]))["mean_f1"] == pytest.approx(metrics["val/mean_f1"])


def test_numbers_of_patients_are_learnt_go_on_and_give_features(tmp_path: Path) -> None:
    columns = {f"S{i}": {"age": 80.5 if i % 2 else 40} for i in range(8)}
    beton = write_beton(
        tmp_path / "a.beton",
        textures(8),
        columns_of=columns,
        split_of={f"S{i}": "val" if i in (2, 3) else "train" for i in range(8)},
    )
    settings = config(task="regression", target="patient:age", loss="huber", epochs=2)
    run = tmp_path / "run"
    train(beton, run, settings, progress=False)
    again = train(beton, run, config(**{**settings.to_dict(), "epochs": 4}), progress=False)["metrics"]
    assert again["val/mean_mae"] < 8
    assert again["val/pearson/age"] > 0.9
    result = evaluate(run, beton, split="val")
    assert result["metrics"]["mae/age"] == pytest.approx(again["val/mae/age"])
    table = pq.read_table(result["predictions"])
    assert table.column_names == ["tile_id", "slide", "patient", "loss", "true_age", "predicted_age"]
    assert set(table["true_age"].to_pylist()) == {40.0, 80.5}
    assert features(run, beton, tmp_path / "features").tiles == 320
    with pytest.raises(ConfigError) as error:
        train(
            write_beton(tmp_path / "b.beton", textures(8), columns_of={f"S{i}": {"age": 3} for i in range(8)}),
            tmp_path / "same",
            settings,
            progress=False,
        )
    assert str(error.value).startswith("target 'patient:age': age has the same value for all training tiles: ")


@pytest.mark.slow
def test_labels_of_two_ranks_are_those_of_one(tmp_path: Path) -> None:
    columns = {f"S{i}": {"genes": "kras" if i % 2 else "tp53"} for i in range(8)}
    beton = write_beton(tmp_path / "a.beton", textures(8), columns_of=columns)
    settings = config(task="multi-label", target="patient:genes", epochs=1)
    one = train(beton, tmp_path / "one", settings, nproc=1, progress=False)["metrics"]
    half = config(task="multi-label", target="patient:genes", epochs=1, batch_size_per_rank=8)
    two = train(beton, tmp_path / "two", half, nproc=2, progress=False)["metrics"]
    assert two["val/loss"] == pytest.approx(one["val/loss"], abs=1e-5)


def test_a_value_that_is_no_number_is_named_with_its_patient(tmp_path: Path) -> None:
    # The table was of text where one value is none of a number: the others still count as numbers.
    ages = ["50.5", "sixty", "70", "1e2", "", "inf", "n. d.", "old"]
    columns = {f"S{i}": {"age": age or None} for i, age in enumerate(ages)}
    patients = {f"S{i}": f"P{i // 2}" for i in range(8)}
    beton = write_beton(tmp_path / "a.beton", textures(8), columns_of=columns, patient_of=patients)
    settings = config(task="regression", target="patient:age")
    with pytest.raises(ConfigError) as error:
        read_targets(read_sidecar(beton), settings, beton)
    assert str(error.value) == (
        f"{beton}: task is 'regression', but in column 'age' 'sixty' of patient P0 (slide S1), 'inf' of patient P2 "
        "(slide S5), 'n. d.' of patient P3 (slide S6) and of 1 slide more are no numbers; mend or empty them in the "
        "patients' table, add it (slideduck add-patients STUDY TABLE) and export again; or give a target of numbers, "
        "such as patient:age"
    )
    for name in ("S1", "S5", "S6", "S7"):
        columns[name]["age"] = None
    beton = write_beton(tmp_path / "b.beton", textures(8), columns_of=columns, patient_of=patients)
    found = read_targets(read_sidecar(beton), settings, beton)
    slide = found.sidecar.tile_slide
    assert {name: set(found.values[slide == name, 0].tolist()) for name in ("S0", "S2", "S3")} == {
        "S0": {50.5}, "S2": {70.0}, "S3": {100.0},
    }  # fmt: skip
    assert set(slide[found.sidecar.class_number < 0]) == {"S1", "S4", "S5", "S6", "S7"}


@pytest.mark.parametrize(
    ("settings", "chosen"),
    [
        ({"where": "label = 'stripes'"}, "`where=\"label = 'stripes'\"`, `train_split='train'`"),
        ({"train_where": "label = 'stripes' AND split = 'train'"},
         "`train_where=\"label = 'stripes' AND split = 'train'\"`"),
    ],
)  # fmt: skip
def test_training_tiles_of_one_class_are_refused_after_conditions(
    settings: dict[str, str], chosen: str, beton: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        train(beton, tmp_path / "run", config(**settings), progress=False)
    assert str(error.value) == (
        f"all 120 training tiles ({chosen}) are of class 'stripes'; a network learns from two or more: choose other "
        "tiles to train on"
    )
    assert not (tmp_path / "run").exists()


def test_a_class_that_validation_lacks_is_said_everywhere(
    beton: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    settings = config(epochs=1, val_where="split = 'val' AND label = 'stripes'")
    found = train(beton, run, settings)["validation"]
    told = capsys.readouterr().err
    assert "warning: no validation tile is of class chequers: nothing is measured of it" in told
    note = "no tile here is of class chequers: its own metrics are not defined, and means over classes leave it out"
    assert (found["absent"], found["notes"]) == (["chequers"], [note])
    assert f"\n\nN{note[1:]}.\n\n" in (run / "README.md").read_text()
    print_metrics(found["metrics"], "validation")
    assert capsys.readouterr().out.splitlines()[-1] == note
    assert evaluate(run, beton, where="label = 'chequers'", resamples=0)["absent"] == ["stripes"]
