"""Two real processes: they see each tile once, agree with one process, and end together."""

from __future__ import annotations

import json
import os
import shutil
import socket
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

from slideduck.betons import read_sidecar
from slideduck.errors import BetonError, ConfigError, InputError, RunError
from slideduck.runner.prediction.evaluate import evaluate
from slideduck.runner.ranks import dist, launch
from slideduck.runner.runs import checkpoint
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.training.train import train
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
    os.chdir(Path(__file__).parents[1])
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
    # Intervals are for the best epoch and for evaluations, not for each epoch.
    metrics = {name: value for name, value in metrics.items() if not name.startswith("ci95/")}
    assert {f"val/{name}" for name in metrics} == {name for name in line if name.startswith("val/")}
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


def test_sharded_ranks_learn_what_whole_ones_do(odd_beton: Path, two_ranks: Path, tmp_path: Path) -> None:
    # Of 33 tiles one rank validates 17 in two batches, the other 16 in one.
    where = "split = 'train' OR (slide = 'S7' AND grid_x < 57)"
    run = tmp_path / "run"
    train(odd_beton, run, replace(CONFIG, shard="fsdp", where=where), nproc=2, progress=False)
    for name in ("train/loss", "lr", "step"):
        assert last_line(run)[name] == pytest.approx(last_line(two_ranks)[name], abs=1e-5)
    whole = evaluate(two_ranks, odd_beton, where=f"({where}) AND split = 'val'", checkpoint="last")["metrics"]
    assert last_line(run)["val/tiles"] == whole["tiles"] == 33
    assert last_line(run)["val/loss"] == pytest.approx(whole["loss"], abs=1e-5)
    weights = checkpoint.load(two_ranks / "last.pt")["model"]
    for name, weight in checkpoint.load(run / "last.pt")["model"].items():
        assert torch.allclose(weight, weights[name], atol=1e-5)


def test_sharded_and_whole_ranks_go_on_with_the_same_run(odd_beton: Path, two_ranks: Path, tmp_path: Path) -> None:
    more = replace(CONFIG, epochs=3, accumulate=2, batch_size_per_rank=8)
    runs = [shutil.copytree(two_ranks, tmp_path / name) for name in ("sharded", "whole")]
    train(odd_beton, runs[0], replace(more, shard="fsdp"), nproc=2, progress=False)
    train(odd_beton, runs[1], replace(more, batch_size_per_rank=16), nproc=1, progress=False)
    for name in ("train/loss", "val/loss", "step"):
        assert last_line(runs[0])[name] == pytest.approx(last_line(runs[1])[name], abs=1e-5)
    # One process goes on with what sharded ones wrote.
    train(odd_beton, runs[0], replace(more, epochs=4, batch_size_per_rank=16), nproc=1, progress=False)
    assert last_line(runs[0])["epoch"] == 4


def test_one_process_with_twice_the_batch_goes_on_with_the_run_of_two(
    odd_beton: Path, two_ranks: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(two_ranks, tmp_path / "run")
    more = replace(CONFIG, epochs=3)
    with pytest.raises(RunError, match="batch size of all processes: 32 there, 16 here"):
        train(odd_beton, run, more, nproc=1, progress=False)
    assert train(odd_beton, run, replace(more, batch_size_per_rank=32), nproc=1, progress=False)["epochs"] == 3


def test_ranks_talk() -> None:
    said = launch.launch(2, import_module("ranks").talk)
    assert said == {
        "gathered": [[], [[0, 1], [1, 2], [2, 3]]],
        "mean": [1.0, 1.5],
        "word": {"from": 0},
        "world_size": 2,
        "threads": max(1, dist.cores() // 2),
    }


def test_work_may_take_longer_than_ranks_wait() -> None:
    waited, short = launch.launch(2, import_module("ranks").work_in_step, False)
    # A rank waits for six seconds at most.
    assert waited >= 8
    assert short < 1


def test_work_that_fails_on_one_rank_ends_that_of_the_others(capfd: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    with pytest.raises(InputError) as error:
        launch.launch(2, import_module("ranks").work_in_step, True)
    assert error.value.problems == ("b.csv:2: wrong",)
    assert time.monotonic() - started < 50
    assert capfd.readouterr().err == ""


def test_a_changed_beton_is_refused_by_all_ranks(odd_beton: Path, tmp_path: Path) -> None:
    for path in (odd_beton, odd_beton.with_suffix(".json")):
        shutil.copy(path, tmp_path)
    beton = tmp_path / odd_beton.name
    with beton.open("r+b") as file:
        file.seek(70_000)
        file.write(b"\x55\xaa")
    with pytest.raises(BetonError, match=r"odd\.beton is damaged: page 0 of "):
        train(beton, tmp_path / "run", CONFIG, nproc=2, progress=False)
    assert not (tmp_path / "run").exists()


def test_a_killed_rank_ends_all_within_a_minute(capfd: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    with pytest.raises(RunError) as error:
        launch.launch(2, import_module("ranks").die)
    assert time.monotonic() - started < 60
    assert str(error.value) == (
        "rank 1 was killed by SIGKILL; the system may have been out of memory; the other ranks were stopped, "
        "and the same command goes on from the last checkpoint; `restarts=3` would have started it again"
    )
    assert capfd.readouterr().err == ""


def test_a_rank_killed_in_training_is_started_again_and_computes_the_same(
    odd_beton: Path,
    two_ranks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    monkeypatch.setenv("SLIDEDUCK_TEST_LOSE", "SIGKILL:1:train:10")  # in the second epoch: one has 7 steps
    config = replace(CONFIG, model="networks:lost")
    summary = train(odd_beton, run, config, nproc=2, how=launch.Launch(restarts=1), progress=False)
    assert summary["epochs"] == 2
    # The other rank may find its connection closed, and say so, before it is stopped.
    assert capfd.readouterr().err.splitlines()[-1] == (
        "rank 1 was killed by SIGKILL; the system may have been out of memory; the other ranks were stopped; "
        "starting again from the last checkpoint, restart 1 of 1"
    )
    weights = checkpoint.load(two_ranks / "last.pt")["model"]
    for name, weight in checkpoint.load(run / "last.pt")["model"].items():
        assert torch.equal(weight, weights[name.removeprefix("inner.")])
    for name in ("train/loss", "val/loss", "step"):
        assert last_line(run)[name] == last_line(two_ranks)[name]


def test_a_rank_that_does_not_answer_ends_the_run_and_is_named(
    odd_beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    monkeypatch.setenv("SLIDEDUCK_TEST_LOSE", "SIGSTOP:1:val:4")  # in the second epoch: one validates in 3 calls
    config = replace(CONFIG, model="networks:lost")
    how = launch.Launch(timeout_minutes=0.4)
    with pytest.raises(RunError) as error:
        train(odd_beton, run, config, nproc=2, how=how, progress=False)
    assert str(error.value) == (
        "rank 1 did not answer for 0.4 minutes (`timeout_minutes`), and rank 0 waited for it; all ranks of this node "
        "were stopped, and the same command goes on from the last checkpoint; `restarts=3` would have started it again"
    )
    assert capfd.readouterr().err == ""
    assert checkpoint.load(run / "last.pt")["epoch"] == 1


def test_an_error_that_would_come_again_is_not_tried_again(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError, match=r"^all of us say so$"):
        launch.launch(2, import_module("ranks").refuse_together, how=launch.Launch(restarts=2))
    assert capfd.readouterr().err == ""


def test_a_rank_that_ends_without_a_word_is_named() -> None:
    with pytest.raises(RunError) as error:
        launch.launch(2, import_module("ranks").vanish)
    assert str(error.value) == (
        "rank 1 ended with exit code 3 and no message, and the same command goes on from the last checkpoint; "
        "`restarts=3` would have started it again"
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_one_rank_ends_all_and_is_told_once(rank: int, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError) as error:
        launch.launch(2, import_module("ranks").refuse, rank)
    assert error.value.problems == ("a.csv:1: wrong", f"b.csv:2: wrong on rank {rank}")
    assert capfd.readouterr().err == ""


def test_an_error_of_all_ranks_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError, match=r"^all of us say so$"):
        launch.launch(2, import_module("ranks").refuse_together)
    assert capfd.readouterr().err == ""


def test_a_fault_of_ours_keeps_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError) as error:
        launch.launch(2, import_module("ranks").break_down)
    assert str(error.value) == "rank 1 failed: ZeroDivisionError: a fault (traceback above)"
    assert capfd.readouterr().err.count('raise ZeroDivisionError("a fault")') == 1
    # For those who do not see what processes print, as in some notebooks.
    assert 'raise ZeroDivisionError("a fault")' in str(error.value.__cause__)


def test_an_interrupt_ends_all() -> None:
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        launch.launch(2, import_module("ranks").interrupt)
    assert time.monotonic() - started < 60


def test_torchrun_starts_the_same_command_and_starts_it_again(
    odd_beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "slideduck.runner", "train", str(odd_beton), "--run-dir", str(run), "--model", "networks:lost",
               "--epochs", "1", "--batch-size", "16", "--lr", "0.01", "--json"]  # fmt: skip
    monkeypatch.setenv("SLIDEDUCK_TEST_LOSE", "SIGKILL:1:train:3")
    again = [*torchrun, "--max-restarts", "1", *command]
    done = subprocess.run(again, capture_output=True, text=True, timeout=240)
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
        launch.resolve_nproc(nproc)
    assert str(error.value) == f"`nproc` is {nproc!r}; it must be auto, or a number of processes from 1"


def test_nproc_auto_is_one_a_gpu_or_one() -> None:
    assert launch.resolve_nproc("auto") == max(1, torch.cuda.device_count())
    if not torch.cuda.is_available():
        assert launch.resolve_nproc("3") == 3


def test_a_launcher_s_nonsense_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "x"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as error, dist.joined():
        pass
    assert str(error.value) == "LOCAL_RANK='x' is not a number from 0; unset it, or start with torchrun"


def free_port() -> int:
    """Return a port that nothing listens to."""
    with socket.socket() as place:
        place.bind(("localhost", 0))
        port: int = place.getsockname()[1]
        return port


def test_two_nodes_start_again_together_and_train_as_two_processes_do(
    odd_beton: Path, two_ranks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, port = tmp_path / "run", free_port()
    monkeypatch.setenv("SLIDEDUCK_TEST_LOSE", "SIGKILL:1:train:10")  # in the second epoch
    words = "--model networks:lost --epochs 2 --batch-size 16 --lr 0.01 --nproc 1 --json --nnodes 2 --restarts 1"
    command = [sys.executable, "-m", "slideduck", "train", str(odd_beton), "--run", str(run), *words.split()]
    command += ["--rendezvous", f"localhost:{port}", "--timeout-minutes", "2"]
    # The second node comes first, and has to wait.
    nodes = [
        subprocess.Popen([*command, "--node-rank", rank], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in ("1", "0")
    ]
    (out, err), (first_out, first_err) = (node.communicate(timeout=240) for node in nodes)
    assert [node.returncode for node in nodes] == [0, 0], err + first_err
    assert (out, err) == (
        "",
        "rank 1 was killed by SIGKILL; the system may have been out of memory; the other ranks were stopped; "
        "starting again from the last checkpoint, restart 1 of 1\n",
    )
    assert (
        "rank 0 lost its connection to another rank, whose node says why; "
        "starting again from the last checkpoint, restart 1 of 1\n"
    ) in first_err
    assert "Traceback" not in first_err
    assert json.loads(first_out)["epochs"] == 2
    weights = checkpoint.load(two_ranks / "last.pt")["model"]
    for name, weight in checkpoint.load(run / "last.pt")["model"].items():
        assert torch.allclose(weight, weights[name.removeprefix("inner.")], atol=1e-5)


def test_nodes_that_do_not_meet_are_told_what_to_do() -> None:
    for node_rank, others in ((0, "the others"), (1, "node 0")):
        port = free_port()
        how = launch.Launch(2, node_rank, f"localhost:{port}", timeout_minutes=0.05)
        with pytest.raises(RunError) as error:
            launch.launch(1, import_module("ranks").talk, how=how)
        assert str(error.value) == (
            f"node {node_rank} of 2 did not meet {others} at localhost:{port} within 0.05 minutes; start the same "
            "command on each machine, with `node_rank=0` on that of this address and up to 1 on the others, "
            "and let them reach its port"
        )


def test_a_port_in_use_is_told() -> None:
    with socket.socket() as place:
        place.bind(("localhost", 0))
        place.listen()
        where = f"localhost:{place.getsockname()[1]}"
        with pytest.raises(RunError) as error:
            launch.launch(1, import_module("ranks").talk, how=launch.Launch(2, 0, where, timeout_minutes=0.1))
    assert str(error.value) == (
        f"node 0 of 2 cannot open {where}: the port is in use; give another `rendezvous` on each machine"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nnodes": 0}, "`nnodes` is 0; it must be a number of machines from 1"),
        (
            {"nnodes": 2, "node_rank": 2, "rendezvous": "a:1"},
            "`node_rank` is 2; with `nnodes=2` it must be from 0 to 1, another on each machine",
        ),
        (
            {"nnodes": 2, "rendezvous": "a"},
            "`rendezvous` is 'a'; with `nnodes=2` it must be HOST:PORT of node 0, the same on each machine, "
            "such as 10.0.0.1:29500",
        ),
        ({"rendezvous": "a:1"}, "`rendezvous` is 'a:1' but `nnodes` is 1; give how many machines meet"),
        ({"restarts": -1}, "`restarts` is -1; it must be 0 or more"),
        ({"timeout_minutes": 0}, "`timeout_minutes` is 0; it must be above 0, and a week (10080) at most"),
        (
            {"timeout_minutes": float("nan")},
            "`timeout_minutes` is nan; it must be above 0, and a week (10080) at most",
        ),
    ],
)
def test_what_cannot_be_started_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        launch.Launch(**options)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"RANK": "0", "WORLD_SIZE": "2"},
            "RANK=0 and WORLD_SIZE=2 are set in the environment, but MASTER_ADDR and MASTER_PORT are not: no launcher "
            "started this process; unset RANK WORLD_SIZE, or start with torchrun",
        ),
        (
            {"LOCAL_RANK": "1"},
            "LOCAL_RANK=1 is set in the environment, but RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are not: "
            "no launcher started this process; unset LOCAL_RANK, or start with torchrun",
        ),
        (
            {"WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            "WORLD_SIZE=4 is set in the environment, but RANK is not: no launcher started this process; unset "
            "WORLD_SIZE, or start with torchrun",
        ),
        (
            {"RANK": "3", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            "RANK=3 and WORLD_SIZE=2 are set in the environment, and a rank is below the number of processes; unset "
            "RANK WORLD_SIZE, or start with torchrun",
        ),
        (
            {"RANK": "x", "WORLD_SIZE": "2"},
            "RANK='x' is not a number from 0; unset it, or start with torchrun",
        ),
    ],
)
def test_what_a_launcher_left_in_the_environment_is_told(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as error:
        train("tiles.beton", "run", CONFIG)
    assert str(error.value) == message
    # The remedy of each: unset these.
    for name in message.partition("; unset ")[2].partition(",")[0].replace("it", "RANK WORLD_SIZE").split():
        monkeypatch.delenv(name)
    assert not dist.is_joining()
    with pytest.raises(BetonError, match=r"tiles\.beton"):
        train("tiles.beton", "run", CONFIG)


def test_one_process_of_a_launcher_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with dist.joined() as place:
        assert place.world_size == 1


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> int:
    """The environment of rank 0 of two; its port."""
    port = free_port()
    values = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    for name, value in {**values, "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    return port


def test_another_number_of_processes_than_the_launcher_s_is_refused(launched: int) -> None:
    with pytest.raises(ConfigError) as error:
        train("tiles.beton", "run", CONFIG, nproc=4)
    assert str(error.value) == (
        "`nproc` is 4, but a launcher started 2 processes on this machine; give that number to the launcher "
        "(torchrun --nproc-per-node), and `nproc='auto'` here"
    )
    for nproc in ("auto", 2, "2"):
        dist.require_nproc(nproc)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_rank_that_meets_no_other_says_so(
    rank: str, launched: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(RunError) as error, dist.joined(timeout_minutes=0.01):
        pass
    others = "the others, which did" if rank == "0" else "rank 0, which did"
    assert str(error.value) == (
        f"rank {rank} of 2 waited 0.01 minutes at localhost:{launched} (MASTER_ADDR, MASTER_PORT) for {others} not "
        "come; start all 2 of them, as torchrun does, or, to run alone, unset RANK WORLD_SIZE MASTER_ADDR"
    )
    assert capfd.readouterr().err == ""


def test_a_port_of_a_stranger_is_told(launched: int) -> None:
    with socket.create_server(("", launched)), pytest.raises(RunError) as error, dist.joined():
        pass
    assert str(error.value) == (
        f"rank 0 of 2 cannot open localhost:{launched} (MASTER_ADDR, MASTER_PORT): the port is in use; set MASTER_PORT "
        "to another for all ranks"
    )
