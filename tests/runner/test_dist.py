"""Two real processes: they see each tile once, agree with one process, and end together."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from slideduck.beton import read_sidecar
from slideduck.errors import ConfigError, InputError, RunError
from slideduck.runner import checkpoint, dist
from slideduck.runner.config import TrainConfig
from slideduck.runner.evaluate import evaluate
from slideduck.runner.train import train
from tests.runner.betons import two_textures, write_beton

pytestmark = pytest.mark.slow

CONFIG = TrainConfig(model="networks:tiny", epochs=2, batch_size_per_rank=16, lr=1e-2)


@pytest.fixture(scope="module")
def odd_beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A beton of 241 training tiles and 79 that validate, two odd numbers, of unequal classes."""
    tiles = two_textures(320)
    return write_beton(
        tmp_path_factory.mktemp("odd") / "odd.beton", [*tiles[:-2], replace(tiles[0], label=1), tiles[-1]]
    )


@pytest.fixture(scope="module")
def two_ranks(odd_beton: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes."""
    run = tmp_path_factory.mktemp("runs") / "two"
    folder = Path.cwd()
    os.chdir(Path(__file__).parent)
    try:
        train(odd_beton, run, CONFIG, nproc=2, progress=False)
    finally:
        os.chdir(folder)
    return run


def last_line(run: Path) -> dict[str, Any]:
    line: dict[str, Any] = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return line


def test_two_ranks_train_and_see_each_validation_tile_once(odd_beton: Path, two_ranks: Path) -> None:
    sidecar = read_sidecar(odd_beton)
    val = sidecar.tile_id[sidecar.tile_split == "val"]
    assert len(val) % 2 == 1
    assert pq.read_table(two_ranks / "predictions.parquet")["tile_id"].to_pylist() == val.tolist()
    line = last_line(two_ranks)
    assert line["val/balanced_accuracy"] > 0.9
    assert line["val/tiles"] == np.sum(line["val/confusion"]) == len(val)
    assert json.loads((two_ranks / "config.json").read_text())["global_batch"] == 32


def test_validation_of_two_ranks_is_that_of_one_on_the_same_weights(odd_beton: Path, two_ranks: Path) -> None:
    line = last_line(two_ranks)
    metrics = evaluate(two_ranks, odd_beton, split="val", checkpoint="last")["metrics"]
    for name, value in metrics.items():
        if value is None or isinstance(value, list):
            assert line[f"val/{name}"] == value
        else:
            assert line[f"val/{name}"] == pytest.approx(value, abs=1e-6)


def test_two_ranks_learn_what_one_learns_with_twice_the_batch(odd_beton: Path, two_ranks: Path, tmp_path: Path) -> None:
    one = tmp_path / "one"
    train(odd_beton, one, replace(CONFIG, batch_size_per_rank=32), nproc=1, progress=False)
    for name in ("train/loss", "val/loss", "lr", "step"):
        assert last_line(one)[name] == pytest.approx(last_line(two_ranks)[name], abs=1e-5)
    weights = checkpoint.load(one / "last.pt")["model"]
    for name, weight in checkpoint.load(two_ranks / "last.pt")["model"].items():
        assert torch.allclose(weight, weights[name], atol=1e-4)


def test_one_process_with_twice_the_batch_goes_on_with_the_run_of_two(
    odd_beton: Path, two_ranks: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(two_ranks, tmp_path / "run")
    more = replace(CONFIG, epochs=3)
    with pytest.raises(RunError, match="batch size of all processes: 32 there, 16 here"):
        train(odd_beton, run, more, nproc=1, progress=False)
    assert train(odd_beton, run, replace(more, batch_size_per_rank=32), nproc=1, progress=False)["epochs"] == 3


def test_ranks_talk() -> None:
    said = dist.launch(2, import_module("ranks").talk)
    assert said == {
        "gathered": [[], [[0, 1], [1, 2], [2, 3]]],
        "mean": [1.0, 1.5],
        "word": {"from": 0},
        "world_size": 2,
        "threads": max(1, dist.cores() // 2),
    }


def test_a_killed_rank_ends_all_within_a_minute(capfd: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    with pytest.raises(RunError) as error:
        dist.launch(2, import_module("ranks").die)
    assert time.monotonic() - started < 60
    assert str(error.value) == (
        "rank 1 was killed by SIGKILL; the system may have been out of memory; the other ranks were stopped, "
        "and the same command goes on after the last whole epoch"
    )
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_one_rank_ends_all_and_is_told_once(rank: int, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError) as error:
        dist.launch(2, import_module("ranks").refuse, rank)
    assert error.value.problems == ("a.csv:1: wrong", f"b.csv:2: wrong on rank {rank}")
    assert capfd.readouterr().err == ""


def test_an_error_of_all_ranks_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError, match=r"^all of us say so$"):
        dist.launch(2, import_module("ranks").refuse_together)
    assert capfd.readouterr().err == ""


def test_a_fault_of_ours_keeps_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError) as error:
        dist.launch(2, import_module("ranks").break_down)
    assert str(error.value) == "rank 1 failed: ZeroDivisionError: a fault (traceback above)"
    assert capfd.readouterr().err.count('raise ZeroDivisionError("a fault")') == 1


def test_an_interrupt_ends_all() -> None:
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        dist.launch(2, import_module("ranks").interrupt)
    assert time.monotonic() - started < 60


def test_torchrun_starts_the_same_command(odd_beton: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command = ["slideduck.runner", "train", str(odd_beton), "--run-dir", str(run), "--model", "networks:tiny",
               "--epochs", "1", "--batch-size", "16", "--lr", "0.01", "--json"]  # fmt: skip
    done = subprocess.run([*torchrun, *command], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["epochs"] == 1
    # A second call with another setting fails, and says so once.
    done = subprocess.run([*torchrun, *command, "--seed", "1"], capture_output=True, text=True, timeout=180)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("  seed: 0 there, 1 here\n") == 1


@pytest.mark.parametrize("nproc", ["0", "-1", "many", "1.5", 0])
def test_nproc_that_is_no_number_of_processes_is_refused(nproc: str | int) -> None:
    with pytest.raises(ConfigError) as error:
        dist.resolve_nproc(nproc)
    assert str(error.value) == f"--nproc is {nproc!r}; it must be auto, or a number of processes from 1"


def test_nproc_auto_is_one_a_gpu_or_one() -> None:
    assert dist.resolve_nproc("auto") == max(1, torch.cuda.device_count())
    if not torch.cuda.is_available():
        assert dist.resolve_nproc("3") == 3


def test_a_launcher_s_nonsense_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "x"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as error, dist.joined():
        pass
    assert str(error.value) == "LOCAL_RANK='x' is not a number from 0; unset it, or start with torchrun"
