"""The whole chain in Python: training, evaluating, predicting and drawing as methods of a study and of its run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import slideduck as sd
from slideduck import runner
from slideduck.show import Picture
from tests.runner.studies import GRID, write_study

SMALL: dict[str, Any] = {"model": "networks:tiny", "batch_size_per_rank": 16, "nproc": 1, "track": "none", "grid": GRID}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[sd.Study, runner.Run]]:
    """A study, open, and the run that was trained on it: some seconds, in which FFCV's pipeline is compiled."""
    folder = tmp_path_factory.mktemp("verbs")
    write_study(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parents[1])
        with sd.open(folder / "study.duckdb") as study:
            yield study, study.train(folder / "runs" / "first", epochs=2, lr=1e-5, progress=False, **SMALL)


def png(picture: Picture) -> bool:
    """Return whether a notebook shows a picture."""
    return (picture._repr_png_() or b"").startswith(b"\x89PNG")


def betons(study: sd.Study) -> list[str]:
    return sorted(path.name for path in study.path.with_suffix(".betons").glob("*.beton"))


def test_training_returns_the_run(trained: tuple[sd.Study, runner.Run]) -> None:
    study, run = trained
    assert run.path == study.path.parent / "runs" / "first"
    assert run.beton.parent == study.path.parent / "study.betons"
    assert run.classes == ("dark", "light")
    assert (run.config.epochs, run.config.model) == (2, "networks:tiny")
    assert run.history["epoch"].to_pylist() == [1, 2]
    best = run.history.to_pylist()[run.best_epoch - 1]
    assert run.metrics["balanced_accuracy"] == best["val/balanced_accuracy"]
    assert repr(run) == (
        f"Run first:\n  path {run.path}\n  model networks:tiny\n  classes (2): dark, light\n  beton {run.beton}\n"
        f"  epochs 2 of 2, the best {run.best_epoch}\n"
        f"  validation balanced accuracy {best['val/balanced_accuracy']:.4g}\n"
        f"  validation macro auroc {best['val/macro_auroc']:.4g}\n"
        f"  validation loss {best['val/loss']:.4g}"
    )
    assert run._repr_html_().startswith("<table><caption>Run first</caption>")
    assert repr(runner.open_run(run.path)) == repr(run)


def test_a_run_is_asked_about_its_study(
    trained: tuple[sd.Study, runner.Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, run = trained
    found = run.evaluate(resamples=0)
    # By default on the tiles that validated; so are those of the study that are named by its side.
    assert found["metrics"]["balanced_accuracy"] == pytest.approx(run.metrics["balanced_accuracy"])
    assert study.evaluate(run, resamples=0)["metrics"] == found["metrics"]
    assert repr(found).startswith(f"Evaluation:\n  run {run.path}\n  epoch {run.best_epoch}\n  beton {run.beton}\n")
    assert png(found.plot(resamples=0))

    report = run.predict(study, slides=["S0"])
    assert repr(report) == f"PredictReport: run first, grid {GRID}, tiles 60\n  predicted (1): S0"
    assert repr(run.predict()).endswith("\n  predicted (1): S1\n  skipped (1): S0")
    assert study.predict(run.path).skipped == ("S0", "S1")
    assert repr(run.predict(run.beton)).startswith(f"BetonPredictReport: run first, grid {GRID}, path {run.path}/")
    assert repr(run.features(study, slides=["S0"])).startswith(
        f"FeaturesReport: run first, grid {GRID}, into features_16"
    )
    assert study.features(run, slides=["S0"]).skipped == ("S0",)

    picture = run.heatmap(study, "S0")
    assert picture == run.path / "heatmaps" / "S0.png"
    assert png(picture)
    assert study.heatmap(run, "S0", tmp_path / "S0.geojson", merge=True).stat().st_size > 0
    assert run.gradcam(study, "S0-32-32") == run.path / "gradcams" / "S0-32-32.png"
    assert study.gradcam(run.path, ["S0-32-32", "S1-32-32"], tmp_path / "two.png").is_file()
    assert run.plot("roc", resamples=0) == run.path / "roc.png"
    assert run.plot("worst", tmp_path / "worst.png", tiles=2).is_file()
    with pytest.raises(sd.ConfigError) as caught:
        run.plot("curve")
    assert str(caught.value) == "kind is 'curve'; it must be one of curves, worst, roc, pr, confusion, reliability"
    capsys.readouterr()


def test_a_run_knows_the_network_that_it_was_given(trained: tuple[sd.Study, runner.Run], tmp_path: Path) -> None:
    study, _ = trained
    network = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 2))
    run = study.train(tmp_path / "own", epochs=1, progress=False, **{**SMALL, "model": network})
    found = run.evaluate(resamples=0)["metrics"]
    assert found["balanced_accuracy"] == pytest.approx(run.metrics["balanced_accuracy"])
    assert study.predict(run, slides=["S0"]).predicted == ("S0",)
    alone = runner.open_run(run.path, study=study)
    with pytest.raises(sd.ConfigError, match="give it again from Python, as `network=Sequential`"):
        alone.predict()
    again = runner.open_run(run.path, study=study, network=network).predict(slides=["S0"])
    assert repr(again).endswith("\n  skipped (1): S0")


def test_the_errors_of_a_run_are_rows_of_the_study(
    trained: tuple[sd.Study, runner.Run], capsys: pytest.CaptureFixture[str]
) -> None:
    study, run = trained
    # A network that learnt little is wrong somewhere.
    assert run.metrics["balanced_accuracy"] < 1
    wrong = [row for row in sd_rows(run) if row["label"] != row["predicted"]]
    found = run.errors(study, "evaluation = 'validation'").project("tile_id, loss").fetchall()
    assert sorted(name for name, _ in found) == sorted(row["tile_id"] for row in wrong)
    assert [loss for _, loss in found] == sorted((loss for _, loss in found), reverse=True)
    told = capsys.readouterr().err
    assert told.startswith("added to study.duckdb: what first predicted of ")
    # What is there is not added again, and is asked for by name.
    assert study.errors("first").columns == run.errors().columns
    assert capsys.readouterr().err == ""
    with pytest.raises(sd.RunError) as caught:
        study.errors("frist")
    assert str(caught.value) == (
        f"no run at {Path.cwd() / 'frist'}, and study.duckdb holds no evaluation of a run 'frist'; did you mean "
        "'first'?; give a run's folder"
    )


def sd_rows(run: runner.Run) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(run.path / "predictions.parquet").to_pylist()
    return rows


def test_what_cannot_be_is_refused_before_a_tile_is_read(trained: tuple[sd.Study, runner.Run], tmp_path: Path) -> None:
    study, run = trained
    refused: dict[str, dict[str, Any]] = {
        "`lrr` is no setting of a training or of the export before it; did you mean 'lr'?": {"lrr": 1e-3},
        "`overwrite` is no setting of a training or of the export before it; see slideduck.runner.TrainConfig": {
            "overwrite": True
        },
        "lr is 0; it must be above 0": {"lr": 0},
        "`where` is of type int; give an SQL condition, a DuckDB relation, or a data frame with tile ids as its index "
        "or its column tile_id": {"where": 3},
        "quality is 0; give a number from 1 to 100, such as 90": {"quality": 0},
    }
    there = betons(study)
    for text, settings in refused.items():
        with pytest.raises(sd.SlideduckError) as caught:
            study.train(tmp_path / "run", **{**SMALL, **settings})
        assert str(caught.value) == text
    assert betons(study) == there
    with pytest.raises(sd.RunError, match=r"^/nowhere: no run that can be read "):
        study.predict("/nowhere")
    alone = runner.open_run(run.path)
    with pytest.raises(sd.ConfigError) as config:
        alone.predict()
    assert str(config.value) == "run first was opened without its study; give `study`, such as 'study.duckdb'"
    # As it says.
    assert runner.open_run(run.path, study=study).predict(slides=["S0"]).grid == GRID


def test_a_run_whose_study_was_closed_opens_it_again(trained: tuple[sd.Study, runner.Run], tmp_path: Path) -> None:
    _, run = trained
    with sd.open(tmp_path / "other.duckdb") as other:
        closed = runner.open_run(run.path, study=other)
    with pytest.raises(sd.StudyError, match=r"^other\.duckdb has no grid"):  # asked, and so opened
        closed.predict()
    with pytest.raises(sd.ConfigError) as caught:
        closed.errors()
    assert str(caught.value) == "`study` must be an open study, since the relation is read from it; open it again"


def test_tiles_are_exported_once_and_anew_for_other_labels_or_sides(
    trained: tuple[sd.Study, runner.Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, run = trained
    there = betons(study)
    before = run.beton.stat().st_mtime_ns
    # The same tiles by way of a condition that is the same, in a run of its own.
    again = study.train(tmp_path / "again", epochs=1, **SMALL)
    assert again.beton == run.beton
    assert (betons(study), run.beton.stat().st_mtime_ns) == (there, before)
    assert f"the tiles are exported already: {run.beton}\n" in capsys.readouterr().err
    with pytest.raises(sd.ConfigError):  # before it is exported for nothing
        study.train(tmp_path / "none", epochs=0, classes=["light", "dark"], **SMALL)
    assert betons(study) == there
    # The sides of the split are said of each tile, too; and what was exported before is found again.
    study.split(val_fraction=0.5, seed=1)
    assert study.evaluate(run, split=None, resamples=0)["beton"] != str(run.beton)
    study.split(val_fraction=0.5, seed=0)
    assert study.evaluate(run, resamples=0)["beton"] == str(run.beton)
    # Other tiles, and other labels of the same tiles, have other bytes under another name.
    known = betons(study)
    frame = study.tile_dataframe(GRID)
    few = study.train(tmp_path / "few", epochs=1, where=frame.loc[frame.label.notnull()].iloc[::2], **SMALL)
    assert f"exported 50 tiles to {few.beton}\n" in capsys.readouterr().err
    study.rename_label("light", "bright")
    study.label()
    other = study.train(tmp_path / "other", epochs=1, **SMALL)
    assert other.classes == ("bright", "dark")
    assert set(betons(study)) - set(known) == {few.beton.name, other.beton.name}
    study.rename_label("bright", "light")
    study.label()
