"""A step may be made of several batches, its weights averaged, its network compiled; and what is told of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from slideduck.errors import RunError
from slideduck.runner.prediction.evaluate import evaluate
from slideduck.runner.runs import checkpoint
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.training.averaging import AveragedNetwork, decay_at
from slideduck.runner.training.learner import EpochPart, steps_of_epoch
from slideduck.runner.training.steplog import epoch_bar, step_line
from slideduck.runner.training.train import train
from slideduck.runner.training.waiting import LoaderFacts, Usage, advice, usage
from tests.runner.training.test_resume import steps_of, stop
from tests.runner.training.test_train import assert_same_run

TINY = TrainConfig(model="networks:tiny", epochs=2, batch_size_per_rank=16, lr=1e-2)


def history_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_batches_that_add_up_learn_what_one_large_batch_does(beton: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    train(beton, one, TINY, progress=False)
    parts = replace(TINY, batch_size_per_rank=4, accumulate=4)
    train(beton, two, parts, progress=False)
    for mine, theirs in zip(history_of(two), history_of(one), strict=True):
        for name in ("step", "lr", "train/loss", "val/loss"):
            assert mine[name] == pytest.approx(theirs[name], abs=1e-5)
    weights = checkpoint.load(one / "last.pt")["model"]
    for name, weight in checkpoint.load(two / "last.pt")["model"].items():
        assert torch.allclose(weight, weights[name], atol=1e-4)
    # The product counts: the run of large batches goes on with small ones, but not with fewer.
    longer = replace(parts, epochs=3)
    with pytest.raises(RunError, match="batch size of all processes: 16 there, 8 here"):
        train(beton, one, replace(longer, accumulate=2), progress=False)
    assert train(beton, one, longer, progress=False)["epochs"] == 3


@pytest.mark.parametrize(("batches", "accumulate", "expected"), [(10, 1, (10, 1)), (10, 3, (3, 3)), (2, 4, (1, 2))])
def test_an_epoch_is_whole_steps(batches: int, accumulate: int, expected: tuple[int, int]) -> None:
    assert steps_of_epoch(batches, accumulate) == expected


def test_averaged_weights_validate_predict_and_go_on(
    beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(
        model="networks:stoppable", epochs=2, batch_size_per_rank=32, lr=1e-2, ema_decay=0.8, checkpoint_steps=3
    )
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(beton, whole, config, progress=False)
    state = checkpoint.load(whole / "last.pt")
    assert set(state["model"]) == set(state["trained"])
    assert not torch.equal(state["model"]["head.2.weight"], state["trained"]["head.2.weight"])
    assert not torch.equal(state["model"]["features.1.running_mean"], state["trained"]["features.1.running_mean"])
    assert "trained" not in checkpoint.load(whole / "best.pt")
    metrics = evaluate(whole, beton, split="val", checkpoint="last")["metrics"]
    assert metrics["loss"] == pytest.approx(history_of(whole)[-1]["val/loss"], abs=1e-6)
    stop(beton, run, config, 12, monkeypatch)
    assert checkpoint.load(run / "checkpoints" / "step-00000009.pt")["step"] == 9
    train(beton, run, config, progress=False)
    assert_same_run(run, whole)
    assert steps_of(run) == steps_of(whole)
    assert torch.equal(checkpoint.load(run / "last.pt")["trained"]["head.2.weight"], state["trained"]["head.2.weight"])


def test_the_average_is_that_by_hand_and_counters_are_copied() -> None:
    network = nn.BatchNorm1d(1)
    averaged = AveragedNetwork(network, 0.5)
    expected = 1.0
    for step, value in enumerate([3.0, 5.0, -2.0]):
        with torch.no_grad():
            network.weight.fill_(value)
        assert network.num_batches_tracked is not None
        network.num_batches_tracked.fill_(step)
        averaged.update(network)
        decay = min(0.5, (1 + step) / (10 + step))
        assert decay_at(step, 0.5) == decay
        expected = decay * expected + (1 - decay) * value
    mean = averaged.network
    assert isinstance(mean, nn.BatchNorm1d)
    assert mean.weight.item() == pytest.approx(expected)
    assert not mean.weight.requires_grad
    assert mean.num_batches_tracked is not None
    assert mean.num_batches_tracked.item() == 2


@pytest.mark.slow
def test_a_compiled_network_learns_the_same_and_its_weights_keep_their_names(beton: Path, tmp_path: Path) -> None:
    plain, compiled = tmp_path / "plain", tmp_path / "compiled"
    config = replace(TINY, epochs=1, ema_decay=0.9)
    train(beton, plain, config, progress=False)
    train(beton, compiled, replace(config, compile="on"), progress=False)
    assert history_of(compiled)[0]["train/loss"] == pytest.approx(history_of(plain)[0]["train/loss"], abs=1e-4)
    for name in ("last", "best"):
        assert list(checkpoint.load(compiled / f"{name}.pt")["model"]) == list(
            checkpoint.load(plain / f"{name}.pt")["model"]
        )


def epoch_part(done: int, seconds: float, waited_s: float) -> EpochPart:
    part = EpochPart.new(4, torch.device("cpu"))
    part.load({"losses": [4.0, 2.0, 1.0, 3.0][:done], "norms": [1.0] * done, "seconds": seconds, "waited_s": waited_s})
    return part


def test_a_line_of_steps_is_of_the_steps_since_the_one_before() -> None:
    assert step_line(2, epoch_part(3, 5.0, 1.5), (1, 1.0, 0.5), 1, 0.1, 64) == {
        "step": 11, "epoch": 3, "lr": 0.1, "train/loss": 1.5, "train/gradient_norm": 1.0, "time/step_ms": 2000.0,
        "time/load_ms": 500.0, "time/load_share": 0.25, "throughput/tiles_per_s": 32.0,
    }  # fmt: skip


def test_where_there_is_no_terminal_an_epoch_tells_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    part = epoch_part(1, 2.0, 0.5)
    with epoch_bar("epoch 3/10", part, 64, True) as bar:
        assert bar is not None
        bar.loss = 0.5
        part.done = 3
        bar.advance()
        assert capsys.readouterr().err == ""
        # Eight seconds ago it began, eleven ago it last told something.
        bar.started -= 8.0
        bar.told -= 11.0
        bar.advance()
        told = capsys.readouterr().err
        assert told == "epoch 3/10: 192/256 tiles, 16 tiles/s, loss 0.5000, 25 % waiting for tiles, 4 s left\n"
    with epoch_bar("epoch 3/10", part, 64, False) as bar:
        assert bar is None


FACTS = LoaderFacts(
    threads=4, cores=8, processes=2, mode="jpg", tile_px=256, tile_bytes=20_000.0, on_cpu=False
)  # fmt: skip


@pytest.mark.parametrize(
    ("share", "used", "changes", "message"),
    [
        (0.05, Usage(40.0, 0), {}, None),
        (
            0.3,
            Usage(38.0, 0),
            {},
            "30 % of the time was spent waiting for tiles: 4 threads a process were 95 % busy with decoding; give the "
            "run more cores (it has 8), train on tiles smaller than 256 px, or export raw tiles "
            "(slideduck export --raw), or start fewer processes than 2 with --nproc",
        ),
        (
            0.3,
            Usage(38.0, None),
            {"mode": "raw", "processes": 1},
            "30 % of the time was spent waiting for tiles: 4 threads a process were 95 % busy with decoding; give the "
            "run more cores (it has 8), train on tiles smaller than 256 px",
        ),
        (
            0.3,
            Usage(8.0, 190_000_000),
            {"mode": "raw"},
            "30 % of the time was spent waiting for tiles: the disk gave 19 MB/s while 4 threads a process were 20 % "
            "busy; put the beton on a faster disk, or give the machine memory for all of it; tiles kept as JPEG are "
            "smaller than raw ones",
        ),
        (
            0.3,
            Usage(8.0, 1000),
            {},
            "30 % of the time was spent waiting for tiles, though 4 threads a process were only 20 % busy and the disk "
            "gave little; other programs may use the cores: look at the machine's load",
        ),
        (
            0.061,
            Usage(38.0, 0),
            {"on_cpu": True},
            "6 % of the time was spent waiting for tiles: the network computes on the 8 cores that also decode; "
            "a GPU, more cores or smaller tiles would help",
        ),
    ],
)
def test_a_run_that_waits_says_what_to_change(
    share: float, used: Usage, changes: dict[str, Any], message: str | None
) -> None:
    assert advice(share, 10.0, 10_000, used, replace(FACTS, **changes)) == message


def test_usage_is_counted() -> None:
    before = usage()
    sum(i * i for i in range(200_000))
    used = usage().since(before)
    assert used.cpu_s > 0
    assert used.disk_bytes is None or used.disk_bytes >= 0
    assert Usage(1.0, None).since(Usage(0.5, 3)) == Usage(0.5, None)
