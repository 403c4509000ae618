"""A network that leaves the project gives elsewhere what it gives here."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from slideduck.errors import ConfigError, RunError
from slideduck.runner.networks.forward import evaluating
from slideduck.runner.networks.weights import read_weights
from slideduck.runner.prediction.export_model import export_model
from slideduck.runner.runs import checkpoint
from slideduck.runner.runs.trained import load_run
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tiles.open import open_beton
from slideduck.runner.training.train import train
from tests.runner.betons import two_textures, write_beton

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
safetensors = pytest.importorskip("safetensors")

TINY = TrainConfig(model="networks:tiny", epochs=1, batch_size_per_rank=32, lr=1e-2)


@pytest.fixture(scope="module")
def run(beton: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "run"
    here = Path.cwd()
    os.chdir(Path(__file__).parents[1])
    try:
        train(beton, folder, TINY, progress=False)
    finally:
        os.chdir(here)
    return folder


@pytest.fixture(scope="module")
def model(run: Path) -> Path:
    """The run as ONNX."""
    out = run.parent / "model.onnx"
    report = export_model(run, out)
    assert report.largest_difference < 1e-5
    assert (report.random_tiles, report.real_tiles, report.opset, report.bytes) == (16, 16, 18, out.stat().st_size)
    return out


def assert_gives_the_same(path: Path, layout: str, run: Path, beton: Path) -> None:
    """Assert that a model takes tiles of a layout and gives the network's probabilities."""
    session = onnxruntime.InferenceSession(str(path))
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    axes = ["batch", 32, 32, 3] if layout == "nhwc" else ["batch", 3, 32, 32]
    assert (taken.name, taken.type, taken.shape) == ("images", "tensor(uint8)", axes)
    assert (given.name, given.type, given.shape) == ("probabilities", "tensor(float)", ["batch", 2])
    _sidecar, loader = open_beton(beton, 1)
    with loader.epoch(np.arange(7), 7) as batches:
        tiles = next(batches)[0].copy()
    images = tiles if layout == "nhwc" else np.ascontiguousarray(tiles.transpose(0, 3, 1, 2))
    (probabilities,) = session.run(None, {"images": images})
    assert np.allclose(probabilities, np.exp(load_run(run).log_probabilities(tiles)), atol=1e-5)
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)


def test_onnx_takes_tiles_and_gives_the_networks_probabilities(model: Path, run: Path, beton: Path) -> None:
    assert_gives_the_same(model, "nhwc", run, beton)


def test_onnx_says_what_its_user_has_to_know_and_comes_out_the_same(model: Path, run: Path, tmp_path: Path) -> None:
    export_model(run, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == model.read_bytes()
    proto = onnx.load(str(model))
    onnx.checker.check_model(proto, full_check=True)
    facts = {item.key: item.value for item in proto.metadata_props}
    assert json.loads(facts["classes"]) == ["stripes", "chequers"]
    assert (facts["tile_px"], facts["mpp"], facts["epoch"]) == ("32", "0.5", "1")
    assert json.loads(facts["grid"])["name"] == "32px_16um"
    assert facts["input"] == "uint8 RGB tiles, NHWC"
    assert facts["checkpoint_sha256"] == load_run(run).sha256
    assert [(item.domain, item.version) for item in proto.opset_import if item.domain == ""] == [("", 18)]


def test_without_its_beton_a_model_is_checked_on_noise_alone(run: Path, beton: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    state = torch.load(copy / "best.pt", weights_only=True)
    state["beton"]["path"] = str(tmp_path / "gone.beton")
    torch.save(state, copy / "best.pt")
    report = export_model(copy, tmp_path / "a" / "model.onnx", layout="nchw")
    assert (report.random_tiles, report.real_tiles) == (16, 0)
    assert_gives_the_same(tmp_path / "a" / "model.onnx", "nchw", run, beton)


@pytest.mark.parametrize(("task", "column"), [("multi-label", "genes"), ("regression", "age")])
def test_labels_and_numbers_come_out_as_the_network_gives_them(task: str, column: str, tmp_path: Path) -> None:
    columns = {f"S{i}": {"genes": "msi;her2" if i % 2 else "her2", "age": 40 + 5 * (i % 3)} for i in range(8)}
    columns["S0"]["genes"] = "msi"
    beton = write_beton(tmp_path / "a.beton", two_textures(160), columns_of=columns)
    train(beton, tmp_path / "run", replace(TINY, task=task, target=f"patient:{column}"), progress=False)
    report = export_model(tmp_path / "run", tmp_path / "model.onnx")
    assert report.largest_difference < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    (given,) = session.get_outputs()
    assert given.name == ("numbers" if task == "regression" else "probabilities")
    tiles = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    (theirs,) = session.run(None, {"images": tiles})
    trained = load_run(tmp_path / "run")
    images = torch.from_numpy(tiles).permute(0, 3, 1, 2)
    with evaluating(trained.network):
        mine = trained.task.activate(replace(trained.forward, precision="fp32")(images)).numpy()
    assert np.allclose(theirs, mine if task == "regression" else np.exp(mine), rtol=1e-4, atol=1e-4)
    assert trained.classes == (("age",) if task == "regression" else ("her2", "msi"))
    card = (tmp_path / "run" / "README.md").read_text()
    assert ("that estimates age from tiles" if task == "regression" else "which of 2 labels a tile") in card
    assert "No training tile" not in card
    assert "| class | training tiles |" not in card


def test_safetensors_holds_the_weights_and_what_they_are(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    export_model(run, out)
    report = export_model(run, out)
    assert report.format == "safetensors"
    from safetensors.torch import load_file

    weights, mine = load_file(out), load_run(run).network.state_dict()
    assert list(weights) == sorted(mine)
    assert all(torch.equal(weights[name], tensor.cpu()) for name, tensor in mine.items())
    with safetensors.safe_open(out, "pt") as file:
        facts = json.loads(file.metadata()["slideduck"])
    beside = json.loads((tmp_path / "config.json").read_text())["slideduck"]
    assert beside == {**facts, "file": "model.safetensors"}
    assert facts["classes"] == ["stripes", "chequers"]
    assert facts["model"] == "networks:tiny"
    assert len(facts["mean"]) == len(facts["std"]) == 3


def test_a_network_of_transformers_loads_there(beton: Path, tmp_path: Path) -> None:
    config = replace(TINY, model="resnet18", batch_size_per_rank=128)
    train(beton, tmp_path / "run", config, progress=False)
    export_model(tmp_path / "run", tmp_path / "hf" / "model.safetensors")
    from transformers import AutoModelForImageClassification

    assert len(read_weights(tmp_path / "hf").tensors) == len(load_run(tmp_path / "run").network.state_dict())
    pixels, image = read_weights(tmp_path / "hf").pixels, checkpoint.load(tmp_path / "run" / "best.pt")["image"]
    assert pixels is not None
    assert pixels["mean"] == pytest.approx(image["mean"])
    assert pixels["std"] == pytest.approx(image["std"])
    theirs = AutoModelForImageClassification.from_pretrained(tmp_path / "hf").eval()
    assert theirs.config.id2label == {0: "stripes", 1: "chequers"}
    mine = load_run(tmp_path / "run").network
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(theirs(images).logits, mine(images).logits)


def test_what_cannot_be_exported_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        export_model(run, tmp_path / "model.pt")
    assert str(error.value) == f"{tmp_path / 'model.pt'}: ends in neither .onnx nor .safetensors; name the file so"
    with pytest.raises(ConfigError) as error:
        export_model(run, tmp_path / "model.onnx", layout="chw")
    assert str(error.value) == "layout is 'chw'; it must be one of nhwc, nchw"
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RunError) as refused:
        export_model(run, tmp_path / "model.safetensors")
    assert str(refused.value) == (
        f"{tmp_path / 'config.json'}: another config.json is there; give a file in a folder of its own"
    )
    with pytest.raises(RunError):
        export_model(run, run / "model.safetensors")
    assert not (tmp_path / "model.safetensors").exists()


def test_a_network_that_onnx_cannot_say_is_refused(beton: Path, tmp_path: Path) -> None:
    train(beton, tmp_path / "run", replace(TINY, model="networks:branching"), progress=False)
    with pytest.raises(RunError) as error:
        export_model(tmp_path / "run", tmp_path / "model.onnx")
    assert str(error.value).startswith("model 'networks:branching' cannot be exported to ONNX (")
    assert str(error.value).endswith("); export .safetensors")
    assert not (tmp_path / "model.onnx").exists()
    assert export_model(tmp_path / "run", tmp_path / "model.safetensors").format == "safetensors"
