"""A run can be watched elsewhere, goes on in the same place, and goes on without a tracker that fails."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slideduck.errors import ConfigError
from slideduck.runner.runs.tracking import Tracking
from slideduck.runner.settings.trackers import require_trackers, tracker_names
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.training.train import train

pytest.importorskip("tensorboard")

TINY = TrainConfig(model="networks:tiny", epochs=2, batch_size_per_rank=32, lr=1e-2)
SETTINGS = {"lr": 0.01, "fold": None}


def epoch_line(step: int, loss: float = 0.5) -> dict[str, Any]:
    return {"epoch": step // 10, "step": step, "train/loss": loss, "val/auroc/a b": None, "val/confusion": [[1, 2]]}


def step_line(step: int, loss: float = 0.5) -> dict[str, Any]:
    return {"epoch": 1 + (step - 1) // 10, "step": step, "lr": 0.01, "train/loss": loss}


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the points of each curve, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), purge_orphaned_data=True)
    events.Reload()
    return {
        name: [(event.step, round(event.value, 6)) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_tensorboard_gets_what_is_a_number_under_its_name(tmp_path: Path) -> None:
    tracking = Tracking("tensorboard", tmp_path, SETTINGS, 0)
    tracking.step(step_line(5, 0.75))
    tracking.step(step_line(10, 0.25))
    tracking.epoch(epoch_line(10))
    tracking.picture(tmp_path / "not-there.png", 10)
    tracking.finish()
    assert scalars(tmp_path) == {
        "step/lr": [(5, 0.01), (10, 0.01)],
        "step/train/loss": [(5, 0.75), (10, 0.25)],
        "epoch": [(10, 1.0)],
        "train/loss": [(10, 0.5)],
    }


def test_a_run_that_goes_on_has_each_point_once(tmp_path: Path) -> None:
    first = Tracking("tensorboard", tmp_path, SETTINGS, 0)
    for step in (5, 10, 15):
        first.step(step_line(step, step / 100))
    first.epoch(epoch_line(10))
    # It was killed here, after a checkpoint of step 10: step 15 is done again.
    again = Tracking("tensorboard", tmp_path, SETTINGS, 10)
    again.step(step_line(15, 0.5))
    again.step(step_line(20, 0.5))
    again.finish()
    curves = scalars(tmp_path)
    assert curves["step/train/loss"] == [(5, 0.05), (10, 0.1), (15, 0.5), (20, 0.5)]
    assert curves["train/loss"] == [(10, 0.5)]


def test_a_tracker_that_fails_is_told_once_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full:
        def log(self, numbers: Mapping[str, float], step: int) -> None:
            raise OSError(28, "No space left on device")

        def picture(self, name: str, path: Path, step: int) -> None: ...

        def finish(self, whole: bool) -> None: ...

    tracking = Tracking("tensorboard", tmp_path, SETTINGS, 0)
    tracking.add("full", Full)
    for step in (1, 2, 3):
        tracking.step(step_line(step))
    tracking.finish()
    assert capsys.readouterr().err == (
        "warning: full no longer tracks this run (OSError: [Errno 28] No space left on device); training goes on\n"
    )
    assert len(scalars(tmp_path)["step/lr"]) == 3


def test_a_tracker_that_does_not_start_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    Tracking("tensorboard", tmp_path, SETTINGS, 0).finish()
    told = capsys.readouterr().err
    assert told.startswith("warning: tensorboard cannot track this run (")
    assert told.endswith("; training goes on\n")


@pytest.mark.parametrize("track", ["tensorbord", "tensorboard,tensorboard", "none,mlflow", ""])
def test_unknown_trackers_are_refused(track: str) -> None:
    with pytest.raises(ConfigError) as error:
        TrainConfig(track=track)
    assert str(error.value) == (
        f"track is {track!r}; it must be none, or one or more of tensorboard, mlflow, wandb, by comma"
    )


def test_trackers_are_named_by_comma() -> None:
    assert tracker_names("none") == ()
    assert tracker_names("wandb, tensorboard") == ("wandb", "tensorboard")


def test_a_package_that_is_missing_is_refused_before_the_run() -> None:
    code = (
        "import sys; sys.modules['mlflow'] = None\n"
        "from slideduck.errors import ConfigError\n"
        "from slideduck.runner.settings.trackers import require_trackers\n"
        "require_trackers('tensorboard')\n"
        "try: require_trackers('tensorboard,mlflow')\n"
        "except ConfigError as error: print(error)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == (
        "track is 'tensorboard,mlflow' but mlflow is not installed; pip install 'slideduck[mlflow]', or leave it out\n"
    )
    require_trackers("none")


def test_training_is_tracked_and_a_longer_run_goes_on_in_the_same_curves(beton: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(beton, run, replace(TINY, epochs=1), progress=False)
    train(beton, run, TINY, progress=False)
    curves = scalars(run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for name in ("train/loss", "val/loss", "val/balanced_accuracy", "val/slide/accuracy", "lr", "time/load_share"):
        assert [step for step, _ in curves[name]] == [7, 14]
        assert [value for _, value in curves[name]] == pytest.approx([line[name] for line in lines], rel=1e-4, abs=1e-6)
    assert [step for step, _ in curves["step/train/loss"]] == [7, 14]
    # Settings that only tell of the run may change.
    train(beton, run, replace(TINY, epochs=3, track="none"), progress=False)
    assert len(scalars(run)["val/loss"]) == 2


def test_nothing_is_tracked_where_nothing_is_asked_for(beton: Path, tmp_path: Path) -> None:
    train(beton, tmp_path / "run", replace(TINY, epochs=1, track="none"), progress=False)
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_mlflow_keeps_a_run_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from mlflow.tracking import MlflowClient

    picture = tmp_path / "curves.png"
    picture.write_bytes(b"\x89PNG")
    first = Tracking("mlflow", tmp_path, SETTINGS, 0)
    first.step(step_line(5))
    first.step({**step_line(10), "of (a)": 1.0})
    again = Tracking("mlflow", tmp_path, SETTINGS, 5)
    again.step(step_line(10))
    again.epoch(epoch_line(10))
    again.step(step_line(15))
    again.picture(picture, 15)
    again.finish()
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}", f"sqlite:///{tmp_path / 'mlflow.db'}")
    identity = json.loads((tmp_path / "tracking.json").read_text())["mlflow"]
    found = client.get_run(identity)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"lr": "0.01", "fold": "None"}
    assert [point.step for point in client.get_metric_history(identity, "step/train/loss")] == [5, 10, 15]
    assert [point.value for point in client.get_metric_history(identity, "step/of _a_")] == [1.0]
    # A kill may come between the two lines of a step.
    assert [point.step for point in client.get_metric_history(identity, "train/loss")] == [10]
    assert [file.path for file in client.list_artifacts(identity)] == ["curves.png"]


def test_wandb_keeps_a_run_offline_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for step in (5, 10):
        tracking = Tracking("wandb", tmp_path, SETTINGS, step - 5)
        tracking.step(step_line(step))
        tracking.finish()
    identity = json.loads((tmp_path / "tracking.json").read_text())["wandb"]
    runs = sorted(path.name for path in (tmp_path / "wandb").glob("offline-run-*"))
    assert runs
    assert all(name.endswith(identity) for name in runs)
    assert os.environ.get("WANDB_MODE") is None


def test_a_full_disk_is_told_once_and_not_by_tensorboard_s_thread(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda failed: printed.append(failed.exc_type))
    tracking = Tracking("tensorboard", tmp_path, SETTINGS, 0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Under the limit are the lines of standard error, which is a file here.
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        for step in range(1, 4):
            tracking.step({"step": step, **{f"number {i}": 0.5 for i in range(300)}})
        tracking.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert capfd.readouterr().err == (
        "warning: tensorboard no longer tracks this run (OSError: [Errno 27] File too large); training goes on\n"
    )
    assert printed == []
    # Other threads speak for themselves.
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    assert printed == [ZeroDivisionError]


def test_a_run_that_ends_for_a_full_disk_says_so_once(capfd: pytest.CaptureFixture[str]) -> None:
    class Full:
        def log(self, numbers: Mapping[str, float], step: int) -> None: ...
        def picture(self, name: str, path: Path, step: int) -> None: ...
        def finish(self, whole: bool) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    for whole in (False, True):
        tracking = Tracking("none", Path(), SETTINGS, 0)
        tracking.add("full", Full)
        tracking.finish(whole)
    assert capfd.readouterr().err == (
        "warning: full no longer tracks this run (OSError: [Errno 28] No space left on device); training goes on\n"
    )
