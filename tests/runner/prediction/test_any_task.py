"""Several labels and numbers are predicted, mapped, explained, drawn and kept in SQL, as classes are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import slideduck as sd
from slideduck.errors import ConfigError, RunError, StudyError
from slideduck.runner.maps.gradcam import class_maps, gradcam
from slideduck.runner.maps.heatmap import heatmap
from slideduck.runner.plots.curves import plot_curves
from slideduck.runner.plots.scores import plot_confusion, plot_pr, plot_reliability, plot_roc
from slideduck.runner.plots.worst import plot_worst
from slideduck.runner.prediction.beton import predict_beton
from slideduck.runner.prediction.evaluate import evaluate
from slideduck.runner.prediction.study import predict
from slideduck.runner.runs.trained import load_run
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.training.train import train
from tests.slides import synthetic_image, write_slide

GRID = "32px_32um"
MARKS = ("a;b", "c", "a", "b;c", "-", "a;c")
RUNS: dict[str, Any] = {
    "labels": {"task": "multi-label", "target": "patient:marks"},
    "numbers": {"task": "regression", "target": "patient:age,ki67"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six slides of 5 x 3 tiles with values of their patients, a beton, and a run of labels and one of numbers."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "slides").mkdir()
    rows = ["slide,patient,marks,age,ki67,side"]
    for i, marks in enumerate(MARKS):
        image = synthetic_image(i, (320, 192))
        write_slide(folder / "slides" / f"S{i}.tif", image // 2 if i % 2 else image, mpp=0.5)
        rows.append(f"S{i},P{i},{marks},{50 + 3 * i},{0.1 * i:g},{'val' if i in (2, 3) else 'train'}")
    (folder / "patients.csv").write_text("\n".join(rows) + "\n")
    with sd.open(folder / "study.duckdb") as study:
        study.add_slides(folder / "slides")
        study.add_patients(folder / "patients.csv")
        study.tile(32, tile_um=32)
        study.label()
        study.split(column="side")
        study.export(folder / "tiles.beton", where="kept")
    here = Path.cwd()
    os.chdir(Path(__file__).parents[1])
    try:
        for name, settings in RUNS.items():
            config = TrainConfig(model="networks:dropping", epochs=1, batch_size_per_rank=16, lr=1e-2, **settings)
            train(folder / "tiles.beton", folder / name, config, nproc=1, progress=False)
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def study(folder: Path, tmp_path: Path) -> Iterator[sd.Study]:
    """A copy of the study, open."""
    (tmp_path / "study.duckdb").write_bytes((folder / "study.duckdb").read_bytes())
    with sd.open(tmp_path / "study.duckdb") as opened:
        yield opened


def test_labels_are_predicted_straight_from_slides_each_by_itself(folder: Path, study: sd.Study) -> None:
    report = predict(folder / "labels", study)
    assert (report.tiles, report.predicted) == (90, tuple(f"S{i}" for i in range(6)))
    rows = study.sql("SELECT tile_id, predicted, probability, probabilities FROM predictions").fetchall()
    of_beton = pq.read_table(evaluate(folder / "labels", folder / "tiles.beton", resamples=0)["predictions"])
    found = of_beton.to_pandas().set_index("tile_id")
    assert len(rows) == len(found) == 90
    for tile_id, predicted, probability, probabilities in rows:
        assert list(probabilities) == ["a", "b", "c"]
        p = np.array(list(probabilities.values()))
        assert predicted == (";".join(name for name, value in probabilities.items() if value >= 0.5) or "-")
        assert probability == pytest.approx(np.maximum(p, 1 - p).prod(), rel=1e-5)
        assert p == pytest.approx(found.loc[tile_id, ["prob_a", "prob_b", "prob_c"]].to_numpy(float), abs=1e-4)
    assert not np.allclose([sum(values.values()) for *_, values in rows], 1, atol=0.05)
    # Again: nothing is left to do.
    assert predict(folder / "labels", study).tiles == 0


def test_numbers_are_a_row_for_each_tile_and_target(folder: Path, study: sd.Study) -> None:
    assert predict(folder / "numbers", study).tiles == 90
    of_beton = pq.read_table(evaluate(folder / "numbers", folder / "tiles.beton", resamples=0)["predictions"])
    found = of_beton.to_pandas().set_index("tile_id")
    rows = study.sql("SELECT tile_id, target, number, deviation FROM predicted_numbers").fetchall()
    assert len(rows) == 180
    for tile_id, target, number, deviation in rows:
        assert number == pytest.approx(found.loc[tile_id, f"predicted_{target}"], rel=1e-3)
        assert deviation is None
    assert study.sql("FROM predictions").fetchall() == []
    # The mean of a slide, in SQL, is that of the metrics.
    of_slides = study.sql(
        "SELECT avg(number) FROM predicted_numbers WHERE target = 'age' GROUP BY slide ORDER BY slide"
    )
    expected = found.groupby("slide")["predicted_age"].mean().to_numpy()
    assert [mean for (mean,) in of_slides.fetchall()] == pytest.approx(expected, rel=1e-3)
    assert predict(folder / "numbers", study).tiles == 0
    removed = study.remove_slides("S0")
    assert removed.predictions == 15
    assert study.sql("SELECT count(*) FROM predicted_numbers").fetchall() == [(150,)]


def test_uncertainty_is_entropy_of_labels_and_deviation_of_numbers(
    folder: Path, study: sd.Study, tmp_path: Path
) -> None:
    report = predict_beton(folder / "labels", folder / "tiles.beton", out=tmp_path / "l.parquet", mc_dropout=4)
    table = pq.read_table(report.path).to_pandas()
    p = table[["prob_a", "prob_b", "prob_c"]].to_numpy()
    assert table["entropy"].to_numpy() == pytest.approx(
        -(p * np.log(p) + (1 - p) * np.log(1 - p)).sum(axis=1), rel=1e-5
    )
    assert (table["mutual_information"] > 0).all()
    assert (table["mutual_information"] < table["entropy"]).all()
    report = predict_beton(folder / "numbers", folder / "tiles.beton", out=tmp_path / "n.parquet", mc_dropout=4)
    table = pq.read_table(report.path).to_pandas()
    assert list(table.columns[4:]) == ["predicted_age", "predicted_ki67", "deviation_age", "deviation_ki67"]
    predict(folder / "numbers", study, mc_dropout=4)
    of_study = (
        study.sql("SELECT tile_id, deviation FROM predicted_numbers WHERE target = 'age'").df().set_index("tile_id")
    )
    assert of_study.loc[table["tile_id"], "deviation"].to_numpy() == pytest.approx(table["deviation_age"], rel=0.05)
    # Turned tiles are several passes too.
    turned = pq.read_table(
        predict_beton(folder / "numbers", folder / "tiles.beton", out=tmp_path / "t.parquet", tta="d4").path
    ).to_pandas()
    assert (turned["deviation_age"] > 0).all()


@pytest.mark.parametrize("run", RUNS)
def test_maps_of_a_slide_are_drawn_and_written_for_qupath(
    run: str, folder: Path, study: sd.Study, tmp_path: Path
) -> None:
    every = heatmap(folder / run, study, "S0", tmp_path / "all.png", max_px=200).read_bytes()
    chosen = {"labels": "b", "numbers": "ki67"}[run]
    one = heatmap(folder / run, study, "S0", tmp_path / "one.png", max_px=200, only=[chosen]).read_bytes()
    assert every != one
    tiles = json.loads(heatmap(folder / run, study, "S0", tmp_path / "S0.geojson").read_text())["features"]
    assert len(tiles) == 15
    measured = tiles[0]["properties"]["measurements"]
    if run == "labels":
        assert list(measured) == ["probability a", "probability b", "probability c"]
        said = study.sql("SELECT DISTINCT predicted FROM predictions WHERE slide = 'S0'").fetchall()
        assert {tile["properties"]["classification"]["name"] for tile in tiles} == {text for (text,) in said}
        return
    assert list(measured) == ["age", "ki67"]
    assert "classification" not in tiles[0]["properties"]
    with pytest.raises(StudyError) as error:
        heatmap(folder / run, study, "S0", tmp_path / "m.geojson", merge=True)
    assert str(error.value) == (
        "the run 'numbers' predicts numbers, of which there is no annotation for each class; leave `merge` out: each "
        "tile then has its numbers as measurements"
    )
    assert len(json.loads(heatmap(folder / run, study, "S0", tmp_path / "m.geojson").read_text())["features"]) == 15


def test_what_a_network_does_not_know_is_not_drawn(folder: Path, study: sd.Study, tmp_path: Path) -> None:
    drawn: list[Callable[[], Path]] = [
        lambda: heatmap(folder / "numbers", study, "S0", tmp_path / "a.png", only=["sex"]),
        lambda: gradcam(folder / "numbers", study, ["S0-32-32"], tmp_path / "a.png", only=["sex"]),
    ]
    for draw in drawn:
        with pytest.raises(ConfigError) as error:
            draw()
        assert str(error.value) == f"{folder / 'numbers'} does not know 'sex'; its numbers are age, ki67"
    with pytest.raises(ConfigError) as error:
        heatmap(folder / "numbers", study, "S0", tmp_path / "a.geojson", only=["age"])
    assert str(error.value) == "only is given for a.geojson, which has all of them; leave only out"
    assert study.sql("FROM predicted_numbers").fetchall() == []


@pytest.mark.parametrize("run", RUNS)
def test_grad_cam_is_of_each_output_beside_what_the_network_gives(run: str, folder: Path, tmp_path: Path) -> None:
    trained = load_run(folder / run)
    tiles = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    maps, given = class_maps(trained, tiles)
    assert maps.shape == (2, len(trained.classes), 32, 32)
    logs = trained.log_probabilities(tiles)
    assert given == pytest.approx(logs if run == "numbers" else np.exp(logs), rel=1e-5)
    name = trained.classes[-1]
    out = gradcam(folder / run, folder / "tiles.beton", ["S0-32-32"], tmp_path / "a.png", only=[name])
    assert (
        out.read_bytes() != gradcam(folder / run, folder / "tiles.beton", ["S0-32-32"], tmp_path / "b.png").read_bytes()
    )


@pytest.mark.parametrize("run", RUNS)
def test_metrics_have_intervals_and_columns(run: str, folder: Path) -> None:
    found = evaluate(folder / run, folder / "tiles.beton", by=["split"], resamples=50)
    metrics = found["metrics"]
    assert (metrics["ci95/patients"], metrics["ci95/resamples"]) == (6, 50)
    name = {"labels": "slide/auroc/c", "numbers": "slide/mae/age"}[run]
    low, high = metrics[f"ci95/{name}"]
    assert low <= metrics[name] <= high
    assert [row["value"] for row in found["by"]["split"]] == ["train", "val"]
    validation = json.loads((folder / run / "validation.json").read_text())
    note = "no confidence intervals: the tiles are of 2 patients, and resampling needs at least 5"
    assert validation["metrics"]["ci95/note"] == note
    assert sorted({"thresholds", "reliability"} & set(found)) == (
        ["reliability", "thresholds"] if run == "labels" else []
    )


def test_thresholds_of_labels_are_tried_elsewhere_and_numbers_have_none(folder: Path, tmp_path: Path) -> None:
    beton = folder / "tiles.beton"
    found = evaluate(folder / "labels", beton, thresholds="0.5", resamples=0)["applied_thresholds"]["tiles"]
    table = pq.read_table(evaluate(folder / "labels", beton, resamples=0)["predictions"]).to_pandas()
    over = table["prob_a"] >= 0.5
    assert found["a"]["fixed"]["sensitivity"] == pytest.approx(over[table["true_a"]].mean())
    (tmp_path / "t.json").write_text('{"temperature": {"fitted": 2.0}}')
    for run, name, value, are_for in (
        ("numbers", "thresholds", "0.5", "classes and labels"),
        ("labels", "temperature", tmp_path / "t.json", "classes"),
    ):
        with pytest.raises(ConfigError) as error:
            evaluate(folder / run, beton, **{name: value})  # type: ignore[arg-type]
        assert str(error.value) == (
            f"{folder / run} learnt task {RUNS[run]['task']!r}, and {name} is for {are_for}; leave {name} out"
        )


def test_evaluations_go_into_the_study(folder: Path, study: sd.Study) -> None:
    (labels,) = study.add_predictions(folder / "labels" / "predictions.parquet")
    assert (labels.tiles, labels.relabelled, labels.unknown) == (30, 0, 0)
    rows = study.sql("SELECT DISTINCT slide, label FROM evaluated_tiles ORDER BY slide").fetchall()
    assert rows == [("S2", "a"), ("S3", "b;c")]
    wrong = study.sql("SELECT count(*) FROM errors").fetchall()
    assert wrong == [(labels.errors,)]
    (numbers,) = study.add_predictions(folder / "numbers" / "predictions.parquet")
    assert (numbers.tiles, numbers.errors, numbers.relabelled, numbers.unknown) == (30, 0, 0, 0)
    mae = study.sql(
        "SELECT avg(abs(number - observed)) FROM evaluated_numbers WHERE target = 'age' AND run = 'numbers'"
    ).fetchall()
    metrics = json.loads((folder / "numbers" / "validation.json").read_text())["metrics"]
    assert mae[0][0] == pytest.approx(metrics["mae/age"])
    # The same again replaces.
    study.add_predictions(folder / "numbers" / "predictions.parquet")
    assert study.sql("SELECT count(*) FROM evaluated_numbers").fetchall() == [(60,)]


def test_pictures_are_of_what_there_is_and_others_say_which_is(folder: Path, tmp_path: Path) -> None:
    for run in RUNS:
        assert plot_curves(folder / run, tmp_path / f"{run}.png").read_bytes().startswith(b"\x89PNG")
    source = evaluate(folder / "labels", folder / "tiles.beton", resamples=0)["predictions"]
    for number, draw in enumerate((plot_roc, plot_pr)):
        assert draw(source, tmp_path / f"{number}.png", resamples=0).exists()
    assert plot_reliability(source, tmp_path / "r.png", level="slides").exists()
    assert plot_confusion(folder / "numbers", tmp_path / "scatter.png", level="slides").exists()
    of_labels, of_numbers = (folder / run / "predictions.parquet" for run in RUNS)
    is_labels, is_numbers = (
        f"{of_labels}: predictions of task 'multi-label'; ",
        (f"{of_numbers}: predictions of task 'regression'; "),
    )
    other = "this picture is of probabilities; slideduck plot confusion draws numbers"
    sheet = "this sheet is of classes; the column loss of that file says how bad each tile is"
    cases: list[tuple[Callable[[], Path], str]] = [
        (lambda: plot_confusion(of_labels, tmp_path / "x.png"), is_labels
         + "a confusion matrix is of classes; slideduck plot roc draws each label by itself"),
        (lambda: plot_roc(of_numbers, tmp_path / "x.png"), is_numbers + other),
        (lambda: plot_pr(of_numbers, tmp_path / "x.png"), is_numbers + other),
        (lambda: plot_reliability(of_numbers, tmp_path / "x.png"), is_numbers + other),
        (lambda: plot_worst(of_numbers, folder / "tiles.beton", tmp_path / "x.png"), is_numbers + sheet),
        (lambda: plot_worst(of_labels, folder / "tiles.beton", tmp_path / "x.png"), is_labels + sheet),
    ]  # fmt: skip
    for refused, text in cases:
        with pytest.raises(RunError) as error:
            refused()
        assert str(error.value) == text
    assert not (tmp_path / "x.png").exists()
