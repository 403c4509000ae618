"""Training learns what is there to learn, and a run that was stopped goes on as if it had not been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from slideduck.betons import decode_jpeg, encode_jpeg, read_sidecar
from slideduck.errors import ConfigError, DiskFullError, RunError
from slideduck.runner.runs import checkpoint
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.training.train import train
from tests.full_disk import full_for
from tests.runner.betons import two_textures, write_beton

TINY = TrainConfig(model="networks:tiny", epochs=3, batch_size_per_rank=16, lr=1e-2)
STOPPABLE = TrainConfig(model="networks:stoppable", epochs=3, batch_size_per_rank=32, lr=1e-2, augment="standard")
# 240 training tiles: 7 steps of 32 an epoch.
STEPS = 7


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """Return the metrics of each epoch, without the times, which differ from call to call."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if not name.startswith(("time/", "throughput/"))} for line in lines
    ]


def weights_of(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = checkpoint.load(run / f"{name}.pt")["model"]
    return weights


def assert_same_run(run: Path, other: Path) -> None:
    """Assert that two runs have the same numbers, to the bit."""
    assert metrics_of(run) == metrics_of(other)
    for name in ("last", "best"):
        mine, theirs = weights_of(run, name), weights_of(other, name)
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    state, other_state = checkpoint.load(run / "last.pt"), checkpoint.load(other / "last.pt")
    for mine_of, theirs_of in zip(
        state["optimizer"]["state"].values(), other_state["optimizer"]["state"].values(), strict=True
    ):
        assert all(torch.equal(mine_of[key], theirs_of[key]) for key in theirs_of)
    assert pq.read_table(run / "predictions.parquet").equals(pq.read_table(other / "predictions.parquet"))


@pytest.fixture(scope="module")
def uninterrupted(beton: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `STOPPABLE` that nothing stopped."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    folder = Path.cwd()
    os.chdir(Path(__file__).parents[1])
    try:
        train(beton, run, STOPPABLE, progress=False)
    finally:
        os.chdir(folder)
    return run


@pytest.mark.pictures
def test_it_learns_two_textures_and_leaves_a_whole_folder(
    beton: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    summary = train(beton, run, TINY)
    assert summary["metrics"]["val/balanced_accuracy"] > 0.9
    assert summary["epochs"] == 3
    assert summary["checkpoint"] == str(run / "best.pt")

    sidecar = read_sidecar(beton)
    config = json.loads((run / "config.json").read_text())
    assert TrainConfig.from_dict(config["settings"]) == TINY
    assert config["classes"] == ["stripes", "chequers"]
    assert config["global_batch"] == 16
    assert config["beton"]["sidecar_sha256"] == sidecar.sha256
    assert config["beton"]["image"] == {"mode": "jpg", "quality": 90, "tile_px": 32}
    assert set(config["versions"]) >= {"slideduck", "torch", "ffcv", "python"}

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["step"] for line in lines] == [15, 30, 45]
    assert set(lines[0]) >= {
        "lr", "train/loss", "val/loss", "val/accuracy", "val/balanced_accuracy", "val/auroc/stripes",
        "val/confusion", "val/slide/accuracy", "val/slide/fraction_error", "time/epoch_s", "time/load_share",
        "throughput/tiles_per_s",
    }  # fmt: skip
    # Both validation slides are of the same class by most of their tiles, or not; either way JSON has no NaN.
    assert all(value is None or np.isfinite(value) for value in lines[0].values() if not isinstance(value, list))

    table = pq.read_table(run / "predictions.parquet")
    assert table.column_names == [
        "tile_id", "slide", "patient", "label", "predicted", "loss", "prob_stripes", "prob_chequers",
    ]  # fmt: skip
    val = np.flatnonzero(sidecar.tile_split == "val")
    assert table["tile_id"].to_pylist() == sidecar.tile_id[val].tolist()
    assert table["slide"].to_pylist() == sidecar.tile_slide[val].tolist()
    assert table["label"].to_pylist() == [sidecar.classes[k] for k in sidecar.class_number[val]]
    total = table["prob_stripes"].to_numpy() + table["prob_chequers"].to_numpy()
    assert np.abs(total - 1).max() < 1e-12
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")

    state = torch.load(run / "best.pt", weights_only=True)
    assert state["classes"] == ["stripes", "chequers"]
    assert len(state["image"]["mean"]) == 3
    assert "optimizer" not in state
    assert sorted(item.name for item in run.iterdir()) == [
        ".lock", "README.md", "augmented.png", "best.pt", "config.json", "curves.png", "last.pt", "metrics.jsonl",
        "predictions.parquet", "steps.jsonl", "tensorboard", "validation.json",
    ]  # fmt: skip
    steps = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    # Fifteen steps an epoch, a line every fifty and at the end of each epoch.
    assert [(line["epoch"], line["step"], line["train/loss"]) for line in steps] == [
        (line["epoch"], line["step"], line["train/loss"]) for line in lines
    ]
    assert set(steps[0]) == {
        "step", "epoch", "lr", "train/loss", "train/gradient_norm", "time/step_ms", "time/load_ms", "time/load_share",
        "throughput/tiles_per_s",
    }  # fmt: skip
    told = capsys.readouterr().err.splitlines()
    assert told[0] == (
        "training networks:tiny on 240 tiles, validating on 80, 2 classes (stripes, chequers); 1 x cpu, "
        "15 steps of 16 tiles an epoch"
    )
    assert len(told) == 4


def test_it_learns_nothing_from_shuffled_labels(tmp_path: Path) -> None:
    tiles = two_textures(640, shuffle_labels=True)
    summary = train(write_beton(tmp_path / "a.beton", tiles), tmp_path / "run", TINY, progress=False)
    assert 0.3 < summary["metrics"]["val/balanced_accuracy"] < 0.7


def test_statistics_are_those_of_the_training_tiles(beton: Path, uninterrupted: Path) -> None:
    is_train = read_sidecar(beton).tile_split == "train"
    tiles = [tile for tile, chosen in zip(two_textures(320), is_train, strict=True) if chosen]
    images = np.stack([decode_jpeg(encode_jpeg(tile.image, 90)) for tile in tiles]).astype(float)
    image = checkpoint.load(uninterrupted / "last.pt")["image"]
    assert image["mean"] == pytest.approx(images.mean(axis=(0, 1, 2)), rel=1e-9)
    assert image["std"] == pytest.approx(images.std(axis=(0, 1, 2)), rel=1e-9)


@pytest.mark.parametrize("step", [1, STEPS + 1, 3 * STEPS - 1])
def test_a_run_that_was_interrupted_goes_on_to_the_same_numbers(
    step: int, beton: Path, tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setenv("SLIDEDUCK_TEST_STOP_AT", f"SIGINT:{step}")
    with pytest.raises(KeyboardInterrupt):
        train(beton, run, STOPPABLE, progress=False)
    whole = (step - 1) // STEPS
    assert len(metrics_of(run)) == whole if whole else not (run / "metrics.jsonl").exists()
    monkeypatch.delenv("SLIDEDUCK_TEST_STOP_AT")
    train(beton, run, STOPPABLE, progress=False)
    assert_same_run(run, uninterrupted)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_numbers(
    beton: Path, tmp_path: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "slideduck.runner", "train", str(beton), "--run", str(run),
               "--model", STOPPABLE.model, "--epochs", "3", "--batch-size", "32", "--lr", "0.01",
               "--augment", "standard"]  # fmt: skip
    environment = {**os.environ, "SLIDEDUCK_TEST_STOP_AT": f"SIGKILL:{2 * STEPS + 6}"}
    done = subprocess.run(
        [*command, "--checkpoint-steps", "2"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    # What the writer had in flight is lost, nothing before it.
    assert len(metrics_of(run)) == 2
    train(beton, run, STOPPABLE)
    told = capsys.readouterr().err.splitlines()[0]
    # Which of the last two it is depends on the disk.
    assert told in [f"resuming after step {step} of {STEPS} in epoch 3 of 3 ({run})" for step in (2, 4)]
    assert_same_run(run, uninterrupted)


def test_a_kill_between_the_files_of_an_epoch_is_put_right(
    beton: Path, tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setenv("SLIDEDUCK_TEST_STOP_AT", f"SIGINT:{STEPS + 1}")
    with pytest.raises(KeyboardInterrupt):
        train(beton, run, STOPPABLE, progress=False)
    monkeypatch.delenv("SLIDEDUCK_TEST_STOP_AT")
    # The first epoch is the best so far; only last.pt of it had been written, the line of its metrics in half,
    # and one of an epoch that does not count had been left by an earlier kill.
    best = weights_of(run, "best")
    (run / "best.pt").unlink()
    (run / "predictions.parquet").unlink()
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text + text[: len(text) // 2])
    monkeypatch.setenv("SLIDEDUCK_TEST_STOP_AT", "SIGINT:1")
    with pytest.raises(KeyboardInterrupt):
        train(beton, run, STOPPABLE, progress=False)
    assert (run / "metrics.jsonl").read_text() == text
    assert all(torch.equal(weight, best[key]) for key, weight in weights_of(run, "best").items())
    assert len(pq.read_table(run / "predictions.parquet")) == 80
    monkeypatch.delenv("SLIDEDUCK_TEST_STOP_AT")
    train(beton, run, STOPPABLE, progress=False)
    assert_same_run(run, uninterrupted)


def test_a_finished_run_says_so_and_more_epochs_go_on(
    beton: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    short = replace(TINY, epochs=1)
    first = train(beton, run, short, progress=False)
    before = {path: path.stat().st_mtime_ns for path in run.iterdir() if path.name not in (".lock", "config.json")}
    assert train(beton, run, short) == first
    assert {path: path.stat().st_mtime_ns for path in before} == before
    best = first["metrics"]["val/balanced_accuracy"]
    assert capsys.readouterr().err == (
        f"{run}: finished, 1 of 1 epochs, best epoch 1 with balanced accuracy {best:.4f}; "
        "nothing to do. --epochs 2 would go on\n"
    )
    old = metrics_of(run)
    longer = train(beton, run, replace(TINY, epochs=2))
    assert longer["epochs"] == 2
    assert metrics_of(run)[:1] == old
    assert json.loads((run / "config.json").read_text())["settings"]["epochs"] == 2
    assert capsys.readouterr().err.startswith(f"resuming after epoch 1 of 2 ({run})\n")


def test_a_folder_of_another_run_is_refused_with_each_difference(beton: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(beton, run, replace(TINY, epochs=2), progress=False)
    other = write_beton(tmp_path / "other.beton", two_textures(320, seed=1), classes=("stripes", "tumour"))
    before = (run / "last.pt").read_bytes()
    with pytest.raises(RunError) as error:
        train(other, run, replace(TINY, epochs=1, lr=0.02, batch_size_per_rank=8, fold=None), progress=False)
    there, here = (read_sidecar(path).sha256[:12] for path in (beton, other))
    assert str(error.value) == (
        f"{run}: this run was started with other settings:\n"
        "  epochs: 2 there, 1 here\n"
        "  lr: 0.01 there, 0.02 here\n"
        "  batch size of all processes: 16 there, 8 here\n"
        "  classes: stripes, chequers there, stripes, tumour here\n"
        f"  beton: {beton} (side-car {there}) there, {other} (side-car {here}) here\n"
        "give another `run`, or the settings it was started with"
    )
    assert (run / "last.pt").read_bytes() == before


def test_a_beton_that_moved_is_the_same_beton(beton: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(beton, run, replace(TINY, epochs=1), progress=False)
    for path in (beton, beton.with_suffix(".json")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert train(tmp_path / beton.name, run, replace(TINY, epochs=2), progress=False)["epochs"] == 2


def test_a_folder_that_is_no_run_is_refused(beton: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError) as error:
        train(beton, tmp_path, TINY, progress=False)
    assert str(error.value) == (f"{tmp_path}: not a run folder (it has files, but no config.json); give another `run`")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_loss_that_is_not_a_number_ends_the_run_and_keeps_the_last_epoch(beton: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = replace(TINY, model="networks:bursting", batch_size_per_rank=32)
    with pytest.raises(RunError) as error:
        train(beton, run, config, progress=False)
    assert str(error.value) == (
        f"epoch 2, step 11: the loss is nan; epoch 1 is kept in {run / 'last.pt'}; "
        "start another run with a lower `lr` (it is 0.01) or with `precision='fp32'`"
    )
    assert checkpoint.load(run / "last.pt")["epoch"] == 1
    assert all(torch.isfinite(weight).all() for weight in weights_of(run).values())
    assert len(metrics_of(run)) == 1


@pytest.mark.parametrize(
    ("when", "what"),
    [
        ("train:3", "memory"),  # forward
        ("train:3", "backward"),
        ("val:2", "memory"),
        ("val:2", "allocator"),
    ],
)
def test_no_memory_on_the_device_is_told(
    when: str, what: str, beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIDEDUCK_TEST_LOSE", f"{what}:0:{when}")
    with pytest.raises(RunError) as error:
        train(beton, tmp_path / "run", replace(TINY, model="networks:lost"), nproc=1, progress=False)
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    assert str(error.value) == (
        f"{device} has no memory left for batches of 16; give a smaller `batch_size_per_rank`, and a larger "
        "`accumulate` to train as before"
    )


def test_a_gradient_that_is_not_a_number_ends_the_run(beton: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError) as error:
        train(beton, tmp_path / "run", replace(TINY, model="networks:without_gradient"), progress=False)
    assert str(error.value) == (
        "epoch 1, step 1: the norm of the gradient is nan; no checkpoint is written yet; "
        "start another run with a lower `lr` (it is 0.01) or with `precision='fp32'`"
    )


def test_a_full_disk_ends_the_run_and_keeps_the_last_epoch(
    beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    train(beton, run, replace(TINY, epochs=1), progress=False)
    with full_for("last.pt"), pytest.raises(DiskFullError) as error:
        train(beton, run, replace(TINY, epochs=2), progress=False)
    assert str(error.value) == (
        f"no space left for {run / 'last.pt'} (No space left on device); free some, and the same command goes on"
    )
    assert checkpoint.load(run / "last.pt")["epoch"] == 1
    assert train(beton, run, replace(TINY, epochs=2), progress=False)["epochs"] == 2


def test_fewer_tiles_than_a_batch_are_one_step(beton: Path, tmp_path: Path) -> None:
    summary = train(beton, tmp_path / "run", replace(TINY, epochs=1, batch_size_per_rank=1000), progress=False)
    assert summary["metrics"]["step"] == 1


def test_folds_choose_the_sides(tmp_path: Path) -> None:
    tiles = two_textures(160)
    fold_of = {f"S{i}": i % 2 for i in range(8)}
    path = write_beton(tmp_path / "a.beton", tiles, split_of=dict.fromkeys(fold_of), fold_of=fold_of)
    train(path, tmp_path / "run", replace(TINY, epochs=1, fold=1), progress=False)
    slides = set(pq.read_table(tmp_path / "run" / "predictions.parquet")["slide"].to_pylist())
    assert slides == {"S1", "S3", "S5", "S7"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": "nothing:here"},
            "model 'nothing:here' cannot be built: ModuleNotFoundError: No module named 'nothing'",
        ),
        (
            {"model": "networks:absent"},
            "model 'networks:absent' cannot be built: AttributeError: module 'networks' has no attribute 'absent'",
        ),
        (
            {"model": "networks:not_a_module"},
            "model 'networks:not_a_module' returned a str; it must return a torch.nn.Module",
        ),
        (
            {"model": "networks:wrong_shape"},
            "model 'networks:wrong_shape' returned logits of shape (2, 3) for 2 tiles and 2 classes; "
            "it must return (2, 2)",
        ),
        (
            {"precision": "bf16"},
            "precision is 'bf16' but the device, cpu, does not have it; use auto or fp32",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    changes: dict[str, Any], message: str, beton: Path, tmp_path: Path
) -> None:
    if torch.cuda.is_available() and "precision" in changes:
        pytest.skip("this device has bf16")
    with pytest.raises(ConfigError) as error:
        train(beton, tmp_path / "run", replace(TINY, **changes), nproc=1, progress=False)
    assert str(error.value) == message


def test_one_class_and_too_few_tiles_are_refused(tmp_path: Path) -> None:
    tiles = [replace(tile, label=0) for tile in two_textures(16)]
    path = write_beton(tmp_path / "one.beton", tiles, classes=("stripes",))
    with pytest.raises(ConfigError) as error:
        train(path, tmp_path / "run", TINY, progress=False)
    assert str(error.value) == f"{path}: its only class is 'stripes'; a network needs two or more"
    path = write_beton(tmp_path / "few.beton", two_textures(2), split_of={"S0": "train", "S4": "val"})
    with pytest.raises(ConfigError) as error:
        train(path, tmp_path / "run", TINY, progress=False)
    assert str(error.value) == (
        f"{path}: 1 training tile for 1 process with batches of 16; each process needs two tiles a step: "
        "give fewer with `nproc`, or a larger `batch_size_per_rank`"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_resnet18_learns_and_its_weights_load_into_transformers(beton: Path, tmp_path: Path) -> None:
    summary = train(beton, tmp_path / "run", TrainConfig(epochs=1, batch_size_per_rank=32), progress=False)
    assert summary["metrics"]["val/balanced_accuracy"] > 0.9
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(layer_type="basic", hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], num_labels=2)
    ResNetForImageClassification(config).load_state_dict(weights_of(tmp_path / "run", "best"))
