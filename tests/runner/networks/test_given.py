"""Networks given as objects: what a run records of them, and how it is loaded again."""

from __future__ import annotations

import inspect
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from slideduck.cli.group import cli
from slideduck.errors import ConfigError
from slideduck.runner import (
    TrainConfig,
    cross_validate,
    evaluate,
    export_model,
    features,
    gradcam,
    heatmap,
    load_run,
    predict,
    train,
)
from slideduck.runner.networks.build import build_network
from slideduck.runner.networks.given import named, require_given
from slideduck.runner.prediction.beton import predict_beton

CONFIG = TrainConfig(epochs=1, batch_size_per_rank=32, lr=1e-2, track="none")


def _tiny(outputs: int) -> nn.Module:
    network: nn.Module = import_module("networks").tiny(outputs)
    return network


@pytest.fixture(scope="module")
def given() -> nn.Module:
    """A network as a notebook has it: an object, with first weights of its own."""
    torch.manual_seed(7)
    return nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


@pytest.fixture(scope="module")
def run(beton: Path, given: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of it."""
    folder = tmp_path_factory.mktemp("given") / "run"
    before = [weight.clone() for weight in given.parameters()]
    train(beton, folder, CONFIG, network=given, progress=False)
    # A copy of it has trained.
    assert all(torch.equal(*pair) for pair in zip(before, given.parameters(), strict=True))
    return folder


def _asked(of: str = "") -> str:
    return (
        f"{of}network Sequential was given from Python, and a run holds its weights and no code; give it again from "
        "Python, as `network=Sequential`: the function or module that the run was trained with"
    )


def test_what_can_be_imported_is_recorded_by_its_name() -> None:
    tiny = import_module("networks").tiny
    assert named(CONFIG, tiny).model == "networks:tiny"
    assert named(TrainConfig(model="networks:tiny"), tiny).model == "networks:tiny"
    assert named(CONFIG, lambda n: tiny(n)).model == "<given>:lambda"
    assert named(CONFIG, _tiny(2)).model == "<given>:Sequential"
    assert named(TrainConfig(model="monai:DenseNet121"), None).model == "monai:DenseNet121"


def test_a_function_of_main_is_not_recorded_by_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tiny, "__module__", "__main__")
    assert named(CONFIG, _tiny).model == "<given>:_tiny"


def test_a_run_says_that_its_network_was_given(run: Path, beton: Path, tmp_path: Path) -> None:
    assert json.loads((run / "config.json").read_text())["settings"]["model"] == "<given>:Sequential"
    assert "evaluate('run', \"other.beton\", network=Sequential)" in (run / "README.md").read_text()
    with pytest.raises(ConfigError) as error:
        evaluate(run, beton, out=tmp_path / "e.parquet")
    assert str(error.value) == _asked(f"{run / 'best.pt'}: its ")
    done = CliRunner().invoke(cli, ["evaluate", str(run), str(beton)])
    assert done.stderr == f"error: {error.value}\n"


def test_given_again_it_predicts_what_it_did(run: Path, beton: Path, given: nn.Module, tmp_path: Path) -> None:
    before = [weight.clone() for weight in given.parameters()]
    metrics = evaluate(run, beton, split="val", network=given, out=tmp_path / "e.parquet", resamples=0)["metrics"]
    line = json.loads((run / "metrics.jsonl").read_text())
    assert metrics["loss"] == pytest.approx(line["val/loss"], abs=1e-6)
    assert all(torch.equal(*pair) for pair in zip(before, given.parameters(), strict=True))
    # A function that builds it does as well.
    loaded = load_run(run, network=lambda _: given)
    assert loaded.classes == ("stripes", "chequers")
    assert predict_beton(run, beton, out=tmp_path / "p.parquet", network=given)


def test_it_goes_on_where_it_is_given_again(run: Path, beton: Path, given: nn.Module, tmp_path: Path) -> None:
    more = TrainConfig.from_dict({**CONFIG.to_dict(), "epochs": 2})
    assert train(beton, run, more, network=given, progress=False)["epochs"] == 2
    with pytest.raises(ConfigError) as error:
        train(beton, run, TrainConfig(model="<given>:Sequential"), progress=False)
    assert str(error.value) == _asked()


def test_every_verb_takes_it() -> None:
    for verb in (cross_validate, evaluate, export_model, features, gradcam, heatmap, load_run, predict, train):
        assert "network" in inspect.signature(verb).parameters, verb


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: named(CONFIG, "resnet18"),  # type: ignore[arg-type]
            "network is 'resnet18', a str; it must be a torch.nn.Module, or a function that returns one for a number "
            "of outputs",
        ),
        (
            lambda: named(TrainConfig(model="resnet50"), lambda n: None),  # type: ignore[arg-type]
            "model is 'resnet50' and `network` is given, network lambda; give one of them",
        ),
        (
            lambda: require_given("resnet18", _tiny, "runs/a/best.pt: its "),
            "`network` is given, but runs/a/best.pt: its model 'resnet18' is built by its name; leave it out",
        ),
        (
            lambda: build_network(TrainConfig(model="<given>:f"), 2, network=lambda n: 1 / 0),  # type: ignore[arg-type]
            "network f cannot be built: ZeroDivisionError: division by zero",
        ),
        (
            lambda: build_network(TrainConfig(model="<given>:f"), 2, network=lambda n: "no module"),  # type: ignore[arg-type]
            "network f returned a str; it must return a torch.nn.Module",
        ),
        (
            lambda: build_network(TrainConfig(model="<given>:f", dropout=0.5), 2, network=_tiny),
            "dropout is 0.5, but network f is a function of your own; do it there, and leave this at 0",
        ),
    ],
)
def test_what_is_no_network_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        call()
    assert str(error.value) == message
