"""A run that goes on in the middle of an epoch computes what it would have computed, to the bit."""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from slideduck.errors import DiskFullError, RunError
from slideduck.runner.runs import checkpoint
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.training.train import train
from tests.campaign import cases
from tests.full_disk import full_for
from tests.runner.training.test_train import assert_same_run

# 240 training tiles: 7 steps of 32 an epoch. Batch norm and dropout have a state of their own.
CONFIG = TrainConfig(model="networks:stoppable", epochs=2, batch_size_per_rank=32, lr=1e-2, log_steps=3)
STEPS = 7
OFTEN = replace(CONFIG, checkpoint_steps=2)


def steps_of(run: Path) -> list[dict[str, Any]]:
    """Return the lines of steps.jsonl without the times."""
    lines = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if not name.startswith(("time/", "throughput/"))} for line in lines
    ]


def kept_steps(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def stop(beton: Path, run: Path, config: TrainConfig, step: int, patch: pytest.MonkeyPatch) -> None:
    """Interrupt a run in a step, counted from 1 in this call."""
    patch.setenv("SLIDEDUCK_TEST_STOP_AT", f"SIGINT:{step}")
    with pytest.raises(KeyboardInterrupt):
        train(beton, run, config, progress=False)
    patch.delenv("SLIDEDUCK_TEST_STOP_AT")


@pytest.fixture(scope="module")
def whole(beton: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped, without checkpoints within its epochs."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    folder = Path.cwd()
    os.chdir(Path(__file__).parents[1])
    try:
        train(beton, run, CONFIG, progress=False)
    finally:
        os.chdir(folder)
    assert not (run / "checkpoints").exists()
    return run


@pytest.mark.parametrize("seed", range(cases(3, 60)))
def test_stopped_at_random_steps_it_goes_on_to_the_same_curve(
    seed: int, beton: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    draw = random.Random(seed)
    # The clock asks for a checkpoint at every step.
    config = replace(CONFIG, checkpoint_minutes=1e-9, checkpoint_steps=draw.randrange(4))
    at = 0
    while True:
        step = draw.randrange(2, STEPS)
        if at + step > 2 * STEPS:
            break
        stop(beton, run, config, step, monkeypatch)
        # A checkpoint is of the step before the one that was stopped in.
        at += step - 1
    train(beton, run, config, progress=False)
    assert_same_run(run, whole)
    assert steps_of(run) == steps_of(whole)
    assert [line["step"] for line in steps_of(run)] == [3, 6, 7, 10, 13, 14]


def test_the_last_three_are_kept_and_last_is_the_epoch_s(
    beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    stop(beton, run, OFTEN, STEPS + 6, monkeypatch)
    assert kept_steps(run) == ["step-00000008.pt", "step-00000010.pt", "step-00000012.pt"]
    last, newest = (checkpoint.load(run / name) for name in ("last.pt", "checkpoints/step-00000012.pt"))
    assert (last["epoch"], last["step"], last["within_epoch"]) == (1, STEPS, None)
    assert (newest["epoch"], newest["step"], len(newest["within_epoch"]["losses"])) == (1, 12, 5)


@pytest.mark.parametrize("damage", ["cut", "empty", "last"])
def test_where_the_newest_is_damaged_the_one_before_is_used_and_it_is_said(
    damage: str,
    beton: Path,
    tmp_path: Path,
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    stop(beton, run, OFTEN, STEPS + 4 if damage != "last" else STEPS + 1, monkeypatch)
    path = run / ("last.pt" if damage == "last" else "checkpoints/step-00000010.pt")
    path.write_bytes(b"" if damage == "empty" else path.read_bytes()[:-300])
    train(beton, run, OFTEN)
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith(f"warning: {path}: not a file that can be read (")
    assert told[0].endswith("); the checkpoint before it is used")
    where = "step 6 of 7 in epoch 1" if damage == "last" else "step 1 of 7 in epoch 2"
    assert told[1] == f"resuming after {where} of 2 ({run})"
    assert_same_run(run, whole)


def test_if_no_checkpoint_can_be_read_nothing_is_lost_in_silence(
    beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    stop(beton, run, OFTEN, 4, monkeypatch)
    path = run / "checkpoints" / "step-00000002.pt"
    path.write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"step-00000002\.pt: not a file that can be read \(.*; remove the run"):
        train(beton, run, OFTEN, progress=False)
    assert path.read_bytes() == b"nothing"


def test_a_full_disk_within_an_epoch_leaves_the_checkpoints_before_whole(
    beton: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    stop(beton, run, OFTEN, 5, monkeypatch)
    assert kept_steps(run) == ["step-00000002.pt", "step-00000004.pt"]
    with full_for("step-00000006.pt"), pytest.raises(DiskFullError) as error:
        train(beton, run, OFTEN, progress=False)
    assert str(error.value) == (
        f"no space left for {run / 'checkpoints' / 'step-00000006.pt'} (No space left on device); "
        "free some, and the same command goes on"
    )
    assert kept_steps(run) == ["step-00000002.pt", "step-00000004.pt"]
    train(beton, run, OFTEN, progress=False)
    assert_same_run(run, whole)


def test_a_best_epoch_that_is_done_again_after_damage_keeps_its_file(
    beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    config = replace(OFTEN, epochs=1)
    train(beton, run, config, progress=False)
    best = (run / "best.pt").read_bytes()
    (run / "last.pt").write_bytes(b"")
    train(beton, run, config, progress=False)
    assert (run / "best.pt").read_bytes() == best
    assert checkpoint.load(run / "last.pt")["best"]["epoch"] == 1


@pytest.mark.slow
def test_two_ranks_killed_within_an_epoch_go_on_to_the_same_curve(
    beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two batches a step: gradients travel with the second alone.
    config = replace(OFTEN, batch_size_per_rank=8, accumulate=2)
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(beton, whole, config, nproc=2, progress=False)
    monkeypatch.setenv("SLIDEDUCK_TEST_STOP_AT", f"SIGKILL:{2 * (STEPS + 4) + 2}")
    with pytest.raises(RunError, match="was killed by SIGKILL"):
        train(beton, run, config, nproc=2, progress=False)
    monkeypatch.delenv("SLIDEDUCK_TEST_STOP_AT")
    state = checkpoint.load(run / "checkpoints" / kept_steps(run)[-1])
    first, second = (part["network"] for part in state["buffers_of_ranks"])
    assert not torch.equal(first["features.1.running_mean"], second["features.1.running_mean"])
    train(beton, run, config, nproc=2, progress=False)
    assert_same_run(run, whole)
    assert steps_of(run) == steps_of(whole)
