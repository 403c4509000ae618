"""A network of one's own is tried before anything is written: what is wrong with it is said in a sentence."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from slideduck.cli.group import cli
from slideduck.errors import ConfigError, DiskFullError
from slideduck.runner import TrainConfig, train
from slideduck.runner.networks.build import build_network
from slideduck.runner.ranks.dist import Place
from slideduck.runner.runs import checkpoint
from slideduck.runner.runs.runfolder import RunFolder
from slideduck.runner.tiles.open import TrainingData, open_data
from slideduck.runner.training import trial
from slideduck.runner.training.space import require_space
from slideduck.runner.training.stopping import Criteria, Metric
from slideduck.runner.training.telling import Teller
from slideduck.runner.training.trial import try_network
from tests.runner.betons import two_textures, write_beton

CONFIG = TrainConfig(model="networks:tiny", epochs=1, batch_size_per_rank=16, lr=1e-2, track="none")
HERE = Place(0, 1, torch.device("cpu"), 1)


class _Body(nn.Module):
    """A body that each network of the tests shares."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8)), nn.Linear(8, outputs)

    def forward(self, images: torch.Tensor) -> Any:
        return self.head(self.body(images).mean(dim=(2, 3)))


class Pair(_Body):
    def forward(self, images: torch.Tensor) -> Any:
        return super().forward(images), images


class Named(_Body):
    def forward(self, images: torch.Tensor) -> Any:
        return {"out": super().forward(images), "aux": images}


class Nothing(_Body):
    def forward(self, images: torch.Tensor) -> Any:
        super().forward(images)


class Wide(_Body):
    def __init__(self, outputs: int) -> None:
        super().__init__(5)


class Whole(_Body):
    def forward(self, images: torch.Tensor) -> Any:
        return super().forward(images).argmax(dim=1, keepdim=True).expand(-1, 2)


class Undefined(_Body):
    def forward(self, images: torch.Tensor) -> Any:
        return super().forward(images) / 0


class Detached(_Body):
    def forward(self, images: torch.Tensor) -> Any:
        return super().forward(images).detach()


class Large(_Body):
    """For tiles of 224 px alone."""

    def __init__(self, outputs: int) -> None:
        super().__init__(outputs)
        self.head = nn.Linear(8 * 55 * 55, outputs)

    def forward(self, images: torch.Tensor) -> Any:
        return self.head(self.body(images).flatten(1))


class Broken(_Body):
    def forward(self, images: torch.Tensor) -> Any:
        raise KeyError("no such layer")


class Aux(_Body):
    def __init__(self, outputs: int) -> None:
        super().__init__(outputs)
        self.aux = nn.Linear(4, 4)


class Squeezed(_Body):
    """Loses the first axis where a batch has one tile."""

    def forward(self, images: torch.Tensor) -> Any:
        return super().forward(images).squeeze()


class Elsewhere(_Body):
    """Says what torch does where a tensor of a list stayed on the CPU."""

    def forward(self, images: torch.Tensor) -> Any:
        raise RuntimeError("Expected all tensors to be on the same device, but found at least two, cuda:0 and cpu!")


class OnMeta(_Body):
    def __init__(self, outputs: int) -> None:
        super().__init__(outputs)
        self.head = nn.Linear(8, outputs, device="meta")


class Lazy(_Body):
    def __init__(self, outputs: int) -> None:
        super().__init__(outputs)
        self.head = nn.LazyLinear(outputs)


class Frozen(_Body):
    def __init__(self, outputs: int) -> None:
        super().__init__(outputs)
        self.requires_grad_(False)


class Without(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    """Tiles of 32 px of two classes; of 33 that validate, the last is a batch of its own."""
    tiles = two_textures(160)
    split_of: dict[str, str | None] = {f"S{i}": "val" if i > 6 else "train" for i in range(9)}
    beton = write_beton(
        tmp_path_factory.mktemp("trial") / "t.beton",
        [*tiles, *(replace(tile, slide="S8") for tile in tiles[:13])],
        split_of=split_of,
    )
    return open_data(beton, CONFIG, HERE, progress=False)


def _try(builder: Callable[[int], nn.Module], data: TrainingData, **changes: Any) -> None:
    config = replace(CONFIG, model=f"<given>:{builder.__name__}", **changes)
    try_network(build_network(config, 2, network=builder).network, data, config, HERE)


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (Pair, "network Pair returned a tuple of 2; return logits of shape (n, classes)"),
        (Named, "network Named returned a dict of out, aux; return logits of shape (n, classes)"),
        (Nothing, "network Nothing returned None; return logits of shape (n, classes)"),
        (
            Wide,
            "network Wide returned logits of shape (2, 5) for 2 tiles and 2 classes; it must return (2, 2)",
        ),
        (Whole, "network Whole returned int64; return floats"),
        (
            Undefined,
            "network Undefined returned logits that are not finite, such as {number}, for tiles of mean 0 and "
            "deviation 1; look for divisions by zero, logarithms and roots in its forward, or weights that are not set",
        ),
        (
            Detached,
            "network Detached returned logits without a gradient; do not call detach, .data or torch.no_grad in its "
            "forward",
        ),
        (
            Large,
            "network Large cannot take 32 px tiles (RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x392 and "
            "24200x2)); it takes 224 px: resize them in its forward, or export tiles of 224 px",
        ),
        (
            Elsewhere,
            "network Elsewhere computes with a tensor that is not on cpu (RuntimeError: Expected all tensors to be on "
            "the same device, but found at least two, cuda:0 and cpu!); keep it by register_buffer, or make it on the "
            "device of the tiles",
        ),
        (Broken, "network Broken failed on 2 tiles of 32 px (KeyError: 'no such layer'); mend its forward"),
        (
            Aux,
            "network Aux: layers aux.weight, aux.bias get no gradient; freeze them (requires_grad_(False)), or say "
            "`unused_parameters='allow'`",
        ),
        (
            Squeezed,
            "network Squeezed returned logits of shape (2,) for 1 tile and 2 classes when it validates; it must return "
            "(1, 2)",
        ),
        (
            OnMeta,
            "network OnMeta has weights on meta, not on cpu: head.weight, head.bias; build it on the CPU, and let "
            "`.to(device)` move all of it",
        ),
        (
            Lazy,
            "network Lazy has layers whose weights are made by their first call (head.weight, head.bias); call it once "
            "in your function, on torch.zeros(1, 3, 32, 32)",
        ),
        (
            Frozen,
            "network Frozen cannot train: all of its weights are frozen; let at least one layer require gradients",
        ),
        (Without, "network Without cannot train: it has no parameters; let at least one layer require gradients"),
    ],
)
def test_what_is_wrong_with_a_network_is_said(
    builder: Callable[[int], nn.Module], message: str, data: TrainingData
) -> None:
    with pytest.raises(ConfigError) as error:
        _try(builder, data)
    said = str(error.value)
    assert said == message.format(number="inf") or said == message.format(number="-inf")


def test_the_remedies_get_on(data: TrainingData) -> None:
    def thawed(outputs: int) -> nn.Module:
        network = Frozen(outputs)
        network.head.requires_grad_(True)
        return network

    def called(outputs: int) -> nn.Module:
        network = Lazy(outputs)
        network(torch.zeros(2, 3, 32, 32))
        return network

    def frozen(outputs: int) -> nn.Module:
        network = Aux(outputs)
        network.aux.requires_grad_(False)
        return network

    for builder in (thawed, called, frozen):
        _try(builder, data)
    _try(Aux, data, unused_parameters="allow")


def test_a_trial_changes_nothing(data: TrainingData) -> None:
    network = _Body(2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    states: list[Any] = []
    for _ in range(2):
        states.append((torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()))  # type: ignore[index]
        try_network(network, data, replace(CONFIG, batch_size_per_rank=2), HERE)
    assert states[0] == states[1]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(weight.grad is None for weight in network.parameters())
    assert network.training


def test_a_run_that_was_tried_is_the_run_that_was_not(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, model="networks:stoppable", epochs=2)
    train(data.beton, tmp_path / "tried", config, progress=False)
    monkeypatch.setattr(trial, "try_network", lambda *_: None)
    train(data.beton, tmp_path / "not", config, progress=False)
    states = [checkpoint.load(tmp_path / name / "last.pt") for name in ("tried", "not")]
    for name in ("train/loss", "val/loss"):
        assert [line[name] for line in states[0]["history"]] == [line[name] for line in states[1]["history"]]
    assert all(torch.equal(value, states[1]["model"][name]) for name, value in states[0]["model"].items())


def test_nothing_is_written_for_a_network_that_cannot_train(data: TrainingData, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"_trial:Pair' returned a tuple of 2; return logits of shape"):
        train(data.beton, tmp_path / "run", replace(CONFIG, model="resnet18"), network=Pair)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_for_checkpoints_is_told_before_training(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "runs" / "one"
    # 1,810 weights of four bytes, and two numbers more of each; two checkpoints and the best fit in 60 kB, five do not.
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=1 << 40, free=60_000))
    with pytest.raises(DiskFullError) as error:
        train(data.beton, run, CONFIG, progress=False)
    assert str(error.value) == (
        f"{run}: 5 checkpoints of 0.02 MB and best.pt of 0.01 MB need 0.12 MB, and the disk of {tmp_path} has 0.06 MB "
        "free; free some, or give a `run` on another disk; or keep none within an epoch: `checkpoint_steps=0` and "
        "`checkpoint_minutes=0`"
    )
    assert list(tmp_path.iterdir()) == []
    require_space(RunFolder(run), build_network(CONFIG, 2).network, replace(CONFIG, checkpoint_minutes=0.0))


def test_apple_s_gpu_is_said_not_to_be_used(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    loss = Metric("val/loss", "min")
    Teller(data, CONFIG, HERE, Criteria(loss, loss, 0, 0.0), Path("run"), True).start()
    assert capsys.readouterr().err.splitlines()[1] == (
        "warning: this machine's GPU is Apple's (MPS), which is not supported: it has no float64, in which losses are "
        "summed, and no streams, on which tiles are copied; the CPU trains"
    )


def test_the_shell_is_told_its_own_option(data: TrainingData, tmp_path: Path) -> None:
    command = ["train", str(data.beton), "--run", str(tmp_path / "run"), "--nproc", "1", "--model"]
    done = CliRunner().invoke(cli, [*command, "tests.runner.training.test_trial:Aux"])
    assert done.stderr == (
        "error: model 'tests.runner.training.test_trial:Aux': layers aux.weight, aux.bias get no gradient; freeze them "
        "(requires_grad_(False)), or say --unused-parameters allow\n"
    )
