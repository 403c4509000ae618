"""Predictions straight from slides are those of the beton, and go into the study slide by slide."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

import slideduck as sd
from slideduck.errors import ConfigError, RunError, SlideError, StudyError
from slideduck.runner.maps.heatmap import heatmap
from slideduck.runner.prediction.evaluate import evaluate
from slideduck.runner.prediction.study import predict
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.training.train import train
from tests.slides import synthetic_image, write_slide

CONFIG = TrainConfig(model="networks:tiny", epochs=1, batch_size_per_rank=16, lr=1e-2)
GRID = "32px_32um"
#: Its tiles are those that the slides store.
NATIVE = "64px_32um"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of four small slides, betons of it, and a run; tiles are 64 base pixels, seen at 32."""
    folder = tmp_path_factory.mktemp("predict")
    cohort = folder / "slides"
    cohort.mkdir()
    for i in range(4):
        image = synthetic_image(i, (640, 400))
        # The right half is dark: something to learn.
        image[:, 320:] //= 2
        write_slide(cohort / f"S{i}.tif", image, mpp=0.5)
        rois = "roi_name,x_base,y_base,label\n" + "".join(
            f"{name},{x},{y},{name}\n"
            for name, left in (("light", 0), ("dark", 320))
            for x, y in ((left, 0), (left + 320, 0), (left + 320, 300), (left, 300))
        )
        (cohort / f"S{i}.csv").write_text(rois)
    with sd.open(folder / "study.duckdb") as study:
        study.add_slides(cohort)
        study.add_rois(cohort)
        study.tile(32, tile_um=32)
        study.tile(32, tile_um=32, stride_div=2)
        study.tile(32, tile_um=64)
        found = study.native_grid()
        assert study.tile(found.spec.tile_px, tile_um=found.spec.tile_um).grid == NATIVE
        study.label()
        study.split(val_fraction=0.5)
        study.export(folder / "tiles.beton", grid=GRID)
        study.export(folder / "raw.beton", grid=GRID, raw=True)
        study.export(folder / "reversed.beton", grid=GRID, classes=["light", "dark"])
        study.export(folder / "wide.beton", grid="32px_64um")
        passed = study.export(folder / "native.beton", grid=NATIVE)
        assert passed.passed_through == passed.samples == 200
        study.export(folder / "encoded.beton", grid=NATIVE, jpeg="reencode")
    here = Path.cwd()
    os.chdir(Path(__file__).parents[1])
    try:
        train(folder / "tiles.beton", folder / "run", CONFIG, nproc=1, progress=False)
        train(folder / "raw.beton", folder / "raw run", CONFIG, nproc=1, progress=False)
        train(folder / "native.beton", folder / "native run", CONFIG, nproc=1, progress=False)
        train(folder / "encoded.beton", folder / "encoded run", CONFIG, nproc=1, progress=False)
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def study(folder: Path, tmp_path: Path) -> Iterator[sd.Study]:
    """A copy of the study, open."""
    (tmp_path / "study.duckdb").write_bytes((folder / "study.duckdb").read_bytes())
    with sd.open(tmp_path / "study.duckdb") as opened:
        yield opened


@pytest.mark.parametrize(
    ("run", "beton", "grid"),
    [
        ("run", "tiles.beton", GRID),
        ("raw run", "raw.beton", GRID),
        # The loader decodes a JPEG of 4:2:0 with plain upsampling, where OpenSlide's pixels are smooth.
        ("native run", "native.beton", NATIVE),
        ("encoded run", "encoded.beton", NATIVE),
    ],
)
def test_predictions_from_slides_are_those_of_the_beton(
    run: str, beton: str, grid: str, folder: Path, study: sd.Study
) -> None:
    report = predict(folder / run, study)
    assert (report.run, report.grid, report.tiles, report.skipped) == (run, grid, 4 * 10 * 6, ())
    assert report.predicted == ("S0", "S1", "S2", "S3")
    of_beton = pq.read_table(evaluate(folder / run, folder / beton)["predictions"]).to_pandas().set_index("tile_id")
    of_slides = study.sql(
        "SELECT tile_id, predicted, probability, probabilities['dark'] AS dark, probabilities['light'] AS light "
        "FROM predictions ORDER BY slide, grid_y, grid_x"
    ).df()
    assert len(of_slides) == 240
    assert of_slides["tile_id"].is_unique
    assert np.allclose(of_slides["dark"] + of_slides["light"], 1, atol=1e-6)
    assert np.allclose(of_slides["probability"], of_slides[["dark", "light"]].max(axis=1))
    joined = of_slides.set_index("tile_id").loc[of_beton.index]
    assert len(joined) == 4 * 10 * 5
    assert np.abs(joined["dark"] - of_beton["prob_dark"]).max() < 1e-5
    assert (joined["predicted"] == of_beton["predicted"]).all()


def test_labels_and_predictions_join_in_sql(folder: Path, study: sd.Study) -> None:
    predict(folder / "run", study)
    (row,) = study.sql(
        "SELECT count(*), avg((label = predicted)::INTEGER) FROM labels "
        "INNER JOIN predictions USING (grid, slide, tile_id) WHERE label IS NOT NULL"
    ).fetchall()
    assert row[0] == 200
    assert row[1] == pytest.approx(evaluate(folder / "run", folder / "tiles.beton")["metrics"]["accuracy"])
    assert study.sql("SELECT run, classes FROM runs").fetchall() == [("run", ["dark", "light"])]


def test_batches_and_threads_do_not_change_what_is_predicted(folder: Path, study: sd.Study) -> None:
    answers = []
    for batch_size, threads in ((7, 1), (240, 4)):
        predict(folder / "run", study, batch_size=batch_size, threads=threads, overwrite=True)
        rows = study.sql("SELECT tile_id, probability FROM predictions ORDER BY tile_id").fetchall()
        answers.append(rows)
    assert [tile for tile, _ in answers[0]] == [tile for tile, _ in answers[1]]
    assert np.allclose([p for _, p in answers[0]], [p for _, p in answers[1]], atol=1e-5)


def test_what_is_predicted_is_passed_over(folder: Path, study: sd.Study) -> None:
    assert predict(folder / "run", study, slides=["S2"]).predicted == ("S2",)
    report = predict(folder / "run", study)
    assert (report.predicted, report.skipped) == (("S0", "S1", "S3"), ("S2",))
    assert predict(folder / "run", study, slides=["S1"], overwrite=True).predicted == ("S1",)
    assert study.sql("SELECT slide, count(*) FROM predictions GROUP BY slide ORDER BY slide").fetchall() == [
        ("S0", 60), ("S1", 60), ("S2", 60), ("S3", 60),
    ]  # fmt: skip
    # A slide of which a part is missing is predicted again, and whole.
    study.con.execute("DELETE FROM predictions WHERE slide = 'S3' AND grid_x = 4")
    assert predict(folder / "run", study).predicted == ("S3",)
    assert study.sql("SELECT count(*) FROM predictions").fetchall() == [(240,)]


def test_an_overlapping_grid_is_predicted_when_it_is_named(
    folder: Path, study: sd.Study, capsys: pytest.CaptureFixture[str]
) -> None:
    report = predict(folder / "run", study, grid="32px_32um_stride2", slides=["S0"])
    assert report.tiles == 19 * 11
    assert capsys.readouterr().err == ""
    predict(folder / "run", study, grid="32px_64um", slides=["S0"])
    assert capsys.readouterr().err == (
        "warning: the network was trained on tiles of 32px_32um, and sees those of 32px_64um now\n"
    )
    assert dict(study.sql("SELECT grid, count(*) FROM predictions GROUP BY grid").fetchall()) == {
        "32px_32um_stride2": 209,
        "32px_64um": 15,
    }


def test_a_grid_or_slide_that_is_not_there_is_refused(folder: Path, study: sd.Study, tmp_path: Path) -> None:
    with pytest.raises(StudyError) as error:
        predict(folder / "run", study, grid="64px_64um")
    assert str(error.value) == (
        "study.duckdb has no grid '64px_64um'; it has 32px_32um, 32px_32um_stride2, 32px_64um, 64px_32um: name one "
        "with `grid`, or make it with: slideduck tile study.duckdb --tile-px 32 --tile-um 32"
    )
    with pytest.raises(StudyError) as error:
        predict(folder / "run", study, slides=["S0", "T9"])
    assert str(error.value) == (
        "study.duckdb has no slide 'T9' in grid '32px_32um'; see which there are with: slideduck sql study.duckdb "
        "'SELECT slide FROM slides'"
    )
    with sd.open(tmp_path / "empty.duckdb") as empty, pytest.raises(StudyError) as error:
        predict(folder / "run", empty)
    assert str(error.value) == (
        "empty.duckdb has no grid '32px_32um', which the network was trained on; it has none: name one with `grid`, "
        "or make it with: slideduck tile empty.duckdb --tile-px 32 --tile-um 32"
    )
    assert study.sql("SELECT count(*) FROM predictions").fetchall() == [(0,)]


def test_another_checkpoint_or_run_of_the_name_is_refused(folder: Path, study: sd.Study, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(folder / "tiles.beton", run, CONFIG, nproc=1, progress=False)
    predict(run, study, slides=["S0"])
    train(folder / "tiles.beton", run, replace(CONFIG, epochs=2), nproc=1, progress=False)
    with pytest.raises(RunError) as error:
        predict(run, study, checkpoint="last")
    assert str(error.value) == (
        "study.duckdb holds predictions of another checkpoint of run 'run'; replace all of them with `overwrite=True`"
    )
    assert predict(run, study, slides=["S1"], checkpoint="last", overwrite=True).predicted == ("S1",)
    # Those of the other checkpoint are gone: the table has one checkpoint a run.
    assert study.sql("SELECT DISTINCT slide FROM predictions").fetchall() == [("S1",)]
    with pytest.raises(RunError) as error:
        predict(folder / "run", study)
    assert str(error.value) == (
        f"study.duckdb holds predictions of the run {run}, also called 'run'; "
        "replace all of them with `overwrite=True`, or rename the run folder"
    )


def test_a_slide_that_cannot_be_read_is_told_at_the_end(folder: Path, study: sd.Study, tmp_path: Path) -> None:
    study.con.execute("UPDATE slides SET path = $1 WHERE slide = 'S1'", [str(tmp_path / "gone.tif")])
    with pytest.raises(SlideError, match=r"^1 of 4 slides was not predicted:\n  slide 'gone': there is no file "):
        predict(folder / "run", study)
    assert study.sql("SELECT DISTINCT slide FROM predictions ORDER BY slide").fetchall() == [("S0",), ("S2",), ("S3",)]


def test_classes_are_matched_by_name(folder: Path) -> None:
    straight, turned = (
        evaluate(folder / "run", folder / name, split="val") for name in ("tiles.beton", "reversed.beton")
    )
    assert turned["metrics"] == straight["metrics"]
    assert turned["classes"] == straight["classes"] == ["dark", "light"]


def test_evaluation_is_that_of_the_training(folder: Path) -> None:
    summary = train(folder / "tiles.beton", folder / "run", replace(CONFIG), nproc=1, progress=False)
    metrics = evaluate(folder / "run", folder / "tiles.beton", split="val")["metrics"]
    for name, value in metrics.items():
        if not name.startswith("ci95/"):
            assert summary["metrics"][f"val/{name}"] == value
    said = summary["validation"]
    assert said["epoch"] == summary["best_epoch"]
    # These are from the Parquet, which has probabilities in place of their logarithms.
    assert said["metrics"].keys() == metrics.keys()
    for name, value in metrics.items():
        same = value if not isinstance(value, float) else pytest.approx(value, abs=1e-7)
        assert said["metrics"][name] == same, name


def test_an_evaluation_goes_into_the_study(folder: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.duckdb"
    study.write_bytes((folder / "study.duckdb").read_bytes())
    for out in (None, tmp_path / "elsewhere.parquet"):
        metrics = evaluate(folder / "run", folder / "tiles.beton", split="val", out=out, study=study)["metrics"]
    with sd.open(study) as opened:
        opened.add_predictions(folder / "run")
        wrong = opened.sql(
            "SELECT evaluation, count(*) FILTER (predicted <> label) FROM evaluated_tiles GROUP BY ALL"
        ).fetchall()
        # The validation tiles are those of the split.
        of_all = round((1 - metrics["accuracy"]) * metrics["tiles"])
        assert {"tiles-val-best": of_all, "elsewhere": of_all, "validation": of_all}.items() <= dict(wrong).items()
        paths = opened.sql("SELECT DISTINCT run_path FROM evaluations").fetchall()
        assert paths == [(str(folder / "run"),)]


def test_tables_thresholds_and_temperature_of_an_evaluation(folder: Path, tmp_path: Path) -> None:
    first = evaluate(folder / "run", folder / "tiles.beton", split="train", out=tmp_path / "first.parquet")
    assert set(first["thresholds"]) == set(first["reliability"]) == {"tiles", "slides", "patients"}
    assert sum(row["number"] for row in first["reliability"]["tiles"]["predicted"]) == first["metrics"]["tiles"]
    second = evaluate(
        folder / "run",
        folder / "tiles.beton",
        split="val",
        out=tmp_path / "second.parquet",
        by=["slide", "label"],
        thresholds=tmp_path / "first.json",
        temperature=tmp_path / "first.json",
        resamples=0,
    )
    chosen, applied = first["thresholds"]["tiles"]["dark"], second["applied_thresholds"]["tiles"]["dark"]
    assert {rule: value["threshold"] for rule, value in applied.items()} == {
        rule: value["threshold"] for rule, value in chosen.items()
    }
    assert second["applied_temperature"] == first["temperature"]["fitted"]
    assert not any(name.startswith("ci95/") for name in second["metrics"])
    by_slide = second["by"]["slide"]
    assert sum(row["tiles"] for row in by_slide) == second["metrics"]["tiles"]
    table = pq.read_table(tmp_path / "second.parquet").to_pandas()
    for row in by_slide:
        part = table[table["slide"] == row["value"]]
        assert row["accuracy"] == pytest.approx((part["label"] == part["predicted"]).mean())
        assert row["loss"] == pytest.approx(part["loss"].mean())
    assert [row["value"] for row in second["by"]["label"]] == ["dark", "light"]
    fixed = evaluate(folder / "run", folder / "tiles.beton", split="val", out=tmp_path / "f.parquet", thresholds="0.25")
    found = fixed["applied_thresholds"]["tiles"]["light"]["fixed"]
    is_light, taken = table["label"] == "light", pq.read_table(tmp_path / "f.parquet")["prob_light"].to_numpy() >= 0.25
    assert (found["threshold"], found["sensitivity"]) == (0.25, pytest.approx(taken[is_light].mean()))
    assert found["specificity"] == pytest.approx(1 - taken[~is_light].mean())
    with pytest.raises(ConfigError) as beyond:
        evaluate(folder / "run", folder / "tiles.beton", thresholds="1.5")
    assert str(beyond.value) == "thresholds is 1.5; give a probability from 0 to 1, or the JSON of an evaluation"
    for name in ("thresholds", "temperature"):
        with pytest.raises(RunError) as error:
            evaluate(folder / "run", folder / "tiles.beton", **{name: folder / "run" / "config.json"})  # type: ignore[arg-type]
        assert str(error.value) == (
            f"{folder / 'run' / 'config.json'}: it has no {name}; give the JSON of an evaluation, "
            "or a run's validation.json"
        )
    with pytest.raises(ConfigError) as unknown:
        evaluate(folder / "run", folder / "tiles.beton", by=["centre"])
    assert str(unknown.value) == (
        "no column 'centre' to tell tiles apart by; give any of slide, patient, site, split, fold, label, roi_name"
    )


def test_other_tiles_are_warned_of(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    evaluate(folder / "run", folder / "wide.beton", out=tmp_path / "new folder" / "wide.parquet")
    assert capsys.readouterr().err == "warning: wide.beton has tiles of 32px_64um; the network learnt on 32px_32um\n"
    assert (tmp_path / "new folder" / "wide.json").exists()
    evaluate(folder / "run", folder / "raw.beton")
    assert capsys.readouterr().err == (
        "warning: raw.beton has images of raw pixels; the network learnt on JPEG quality 90, stored tiles untouched\n"
    )
    evaluate(folder / "native run", folder / "encoded.beton")
    assert capsys.readouterr().err == (
        "warning: encoded.beton has images of JPEG quality 90; the network learnt on JPEG quality 90, stored tiles "
        "untouched\n"
    )
    evaluate(folder / "native run", folder / "native.beton")
    assert capsys.readouterr().err == ""


def test_a_class_that_the_network_does_not_know_is_refused(folder: Path, study: sd.Study, tmp_path: Path) -> None:
    study.con.execute("UPDATE rois SET label = 'dusk' WHERE label = 'dark' AND slide = 'S1'")
    study.label()
    beton = tmp_path / "dusk.beton"
    study.export(beton, grid=GRID)
    with pytest.raises(RunError) as error:
        evaluate(folder / "run", beton)
    assert str(error.value) == (
        f"{beton}: the network of {folder / 'run'} does not know 'dusk' (25 tiles); it knows dark, light: "
        "export without those tiles (--where), or train with them"
    )


def test_evaluating_what_is_not_there_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no labelled tile in split 'test'; it has split train: "):
        evaluate(folder / "run", folder / "tiles.beton", split="test")
    with pytest.raises(ConfigError) as error:
        evaluate(folder / "run", folder / "tiles.beton", checkpoint="first")
    assert str(error.value) == "checkpoint is 'first'; it must be one of best, last"
    with pytest.raises(RunError) as missing:
        evaluate(tmp_path / "no run", folder / "tiles.beton")
    assert str(missing.value) == (
        f"{tmp_path / 'no run' / 'best.pt'}: no such checkpoint; train first "
        f"(slideduck train OUT.beton --run {tmp_path / 'no run'})"
    )


def test_heatmap_draws_what_was_predicted(folder: Path, study: sd.Study, tmp_path: Path) -> None:
    out = heatmap(folder / "run", study, "S0", tmp_path / "S0.png")
    # The slide was predicted on the way, and only that one.
    assert study.sql("SELECT DISTINCT slide FROM predictions").fetchall() == [("S0",)]
    picture = cv2.imread(str(out))
    assert picture is not None
    assert min(picture.shape[:2]) > 400
    again = heatmap(folder / "run", study, "S0", tmp_path / "again.png")
    assert again.read_bytes() == out.read_bytes()
    # Where the network says the opposite, the picture is another.
    study.con.execute("UPDATE predictions SET probabilities = map(['dark', 'light'], "
                      "[probabilities['light'], probabilities['dark']])")  # fmt: skip
    other = heatmap(folder / "run", study, "S0", tmp_path / "other.png")
    assert other.read_bytes() != out.read_bytes()
    with pytest.raises(StudyError, match="has no slide 'T9'"):
        heatmap(folder / "run", study, "T9", tmp_path / "T9.png")
    with pytest.raises(StudyError, match="no folder"):
        heatmap(folder / "run", study, "S0", tmp_path / "none" / "S0.png")
    assert heatmap(folder / "run", study, "S0", tmp_path / "half.png", grid="32px_32um_stride2").exists()
