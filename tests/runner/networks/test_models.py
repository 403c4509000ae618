"""Networks come by name, from folders and with weights; what trains and how fast is what the settings say."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from slideduck.errors import ConfigError
from slideduck.runner.networks.build import build_network
from slideduck.runner.networks.heads import FitInput, PooledNetwork
from slideduck.runner.networks.layers import depths, freeze, head_of, parameter_groups
from slideduck.runner.prediction.evaluate import evaluate
from slideduck.runner.runs import checkpoint
from slideduck.runner.settings.modelnames import ENCODERS
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.training.train import train

SMALL: dict[str, dict[str, Any]] = {
    "vit": {
        "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64,
        "image_size": 16, "patch_size": 8,
    },
    "dinov2": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    },
    "swin": {"embed_dim": 12, "depths": [1, 2], "num_heads": [2, 2], "image_size": 32, "window_size": 4},
    "convnext": {"hidden_sizes": [8, 12, 16], "depths": [1, 2, 1], "num_stages": 3},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1], "layer_type": "basic"},
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders that transformers wrote, each of a small network that knows five classes."""
    from transformers import AutoConfig, AutoModelForImageClassification

    made = {}
    for number, (kind, values) in enumerate(SMALL.items()):
        torch.manual_seed(number)
        made[kind] = tmp_path_factory.mktemp("models") / kind
        model = AutoModelForImageClassification.from_config(AutoConfig.for_model(kind, num_labels=5, **values))
        model.save_pretrained(made[kind])
    text = json.dumps({"image_mean": [0.7, 0.6, 0.5], "image_std": [0.2, 0.25, 0.3], "do_normalize": True})
    (made["vit"] / "preprocessor_config.json").write_text(text)
    return made


def config_of(folder: Path | str, **settings: Any) -> TrainConfig:
    return TrainConfig(model=f"hf:{folder}", epochs=2, batch_size_per_rank=32, warmup_epochs=0, **settings)


def outputs(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    network.eval()
    with torch.inference_mode():
        output = network(images)
    logits: torch.Tensor = output if isinstance(output, torch.Tensor) else output.logits
    return logits


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_resnets_are_those_of_transformers_with_the_weights_of_the_seed(name: str) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification

    from slideduck.runner.networks.transformers_nets import CONFIGS

    torch.manual_seed(5)
    expected = ResNetForImageClassification(ResNetConfig(embedding_size=64, num_labels=3, **CONFIGS[name]))
    network = build_network(TrainConfig(model=name, seed=5), 3).network
    mine, theirs = network.state_dict(), expected.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


# Parameters of the backbones, in millions: table 2 of Touvron et al. 2021 (ViT), Oquab et al. 2023 (21 million),
# Liu et al. 2021 (28.3 with the head of 1,000 classes), Liu et al. 2022 (28.6 with it).
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "millions", "blocks"),
    [
        ("vit-s16", 21.7, 12), ("vit-b16", 85.8, 12), ("dinov2-s14", 21.6, 12),
        ("swin-t", 27.5, 12), ("convnext-t", 27.8, 18), ("resnet18", 11.2, 8), ("resnet50", 23.5, 16),
    ],
)  # fmt: skip
def test_built_in_networks_have_their_published_size(name: str, millions: float, blocks: int) -> None:
    network = build_network(TrainConfig(model=name), 2).network
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)
    assert max(depths(network).values()) == blocks + 1
    assert outputs(network, torch.zeros(1, 3, 64, 64)).shape == (1, 2)


@pytest.mark.parametrize("kind", SMALL)
def test_a_folder_of_transformers_gives_its_features_and_a_new_head(kind: str, folders: dict[str, Path]) -> None:
    from transformers import AutoModelForImageClassification

    built = build_network(config_of(folders[kind]), 2)
    theirs = AutoModelForImageClassification.from_pretrained(folders[kind], local_files_only=True).state_dict()
    mine = built.network.state_dict()
    head = head_of(built.network)
    body = [name for name in theirs if not name.startswith(head)]
    assert body
    assert all(torch.equal(mine[name], theirs[name]) for name in body)
    assert built.told == (
        f"weights of {folders[kind]}: {len(body)} of {len(body)} tensors of the backbone are taken, "
        "the head starts anew (5 outputs there, 2 here)",
    )
    # The head is drawn by the seed, and not by what was loaded.
    again = build_network(config_of(folders[kind]), 2).network.state_dict()
    assert all(torch.equal(mine[name], again[name]) for name in mine)
    # Tiles of another size than the network's own.
    assert outputs(built.network, torch.zeros(2, 3, 48, 48)).shape == (2, 2)
    # What a checkpoint holds builds it again, without the folder.
    kept = json.loads(json.dumps(built.architecture))
    rebuilt = build_network(config_of("gone"), 2, architecture=kept, fresh=False).network
    rebuilt.load_state_dict(mine)


def test_the_mean_and_deviation_are_those_that_the_folder_names(folders: dict[str, Path]) -> None:
    pixels = build_network(config_of(folders["vit"]), 2).pixels
    assert pixels is not None
    assert pixels["mean"] == pytest.approx([178.5, 153, 127.5])
    assert pixels["std"] == pytest.approx([51, 63.75, 76.5])
    assert build_network(config_of(folders["swin"]), 2).pixels is None


@pytest.mark.parametrize(
    ("kind", "blocks"),
    [
        ("vit", ["vit.layers.0", "vit.layers.1", "vit.layers.2"]),
        ("dinov2", ["dinov2.encoder.layer.0", "dinov2.encoder.layer.1"]),
        ("swin", [f"swin.encoder.layers.{name}" for name in ("0.blocks.0", "1.blocks.0", "1.blocks.1")]),
        ("convnext", [f"convnext.encoder.stages.{n}.layers.{k}" for n, k in ((0, 0), (1, 0), (1, 1), (2, 0))]),
        ("resnet", [f"resnet.encoder.stages.{name}" for name in ("0.layers.0", "0.layers.1", "1.layers.0")]),
    ],
)  # fmt: skip
def test_depth_counts_blocks(kind: str, blocks: list[str], folders: dict[str, Path]) -> None:
    network = build_network(config_of(folders[kind]), 2).network
    depth_of = depths(network)
    assert set(depth_of) == {name for name, _ in network.named_parameters()}
    for number, block in enumerate(blocks, start=1):
        inside = [depth for name, depth in depth_of.items() if name.startswith(block + ".")]
        assert inside
        assert set(inside) == {number}
    assert depth_of[next(iter(depth_of))] == 0
    for name, depth in depth_of.items():
        assert (depth == len(blocks) + 1) == name.startswith("classifier")
        if name.startswith((f"{kind}.layernorm", f"{kind}.norm")):
            assert depth == len(blocks)
        if "downsampl" in name:
            assert depth == max(number for number, block in enumerate(blocks, 1) if f"{block} " < f"{name} ")


def test_depth_of_a_network_without_blocks_is_the_order_of_its_parts() -> None:
    network = build_network(TrainConfig(model="networks:tiny"), 2).network
    assert head_of(network) == "6"
    assert depths(network) == {"0.weight": 1, "0.bias": 1, "2.weight": 2, "2.bias": 2, "6.weight": 3, "6.bias": 3}


def test_rates_fall_with_depth_and_norms_do_not_decay(folders: dict[str, Path]) -> None:
    config = config_of(folders["vit"], layer_decay=0.5, head_lr=1e-2, lr=1e-3, weight_decay=0.1)
    network = build_network(config, 2).network
    groups = parameter_groups(network, config)
    of = {id(p): group for group in groups for p in group["params"]}
    named = dict(network.named_parameters())
    assert len(of) == len(named) == sum(len(group["params"]) for group in groups)
    depth_of = depths(network)
    for name, parameter in named.items():
        expected = 10.0 if depth_of[name] == 4 else 0.5 ** (4 - depth_of[name])
        assert of[id(parameter)]["lr_scale"] == pytest.approx(expected), name
        decays = name.endswith("weight") and parameter.ndim > 1
        assert of[id(parameter)]["weight_decay"] == (0.1 if decays else 0.0), name
    # Without them the two groups are those of a plain run.
    plain = parameter_groups(network, replace(config, layer_decay=1.0, head_lr=0.0))
    assert [(group["weight_decay"], group["lr_scale"]) for group in plain] == [(0.1, 1.0), (0.0, 1.0)]


@pytest.mark.parametrize(("train_layers", "trained"), [("head", 0), ("1", 1), ("2", 2)])
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_what_is_frozen_has_no_gradient_and_stays_in_evaluation(
    kind: str, train_layers: str, trained: int, folders: dict[str, Path]
) -> None:
    network = copy.deepcopy(build_network(config_of(folders[kind], train_layers=train_layers), 2).network)
    depth_of = depths(network)
    deepest = max(depth_of.values())
    network.train()
    images = torch.randn(4, 3, 32, 32)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network(images).logits.sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad == (depth_of[name] >= deepest - trained), name
        assert (parameter.grad is not None) == parameter.requires_grad, name
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    if kind == "vit":
        assert moved == set()
    else:
        # The running statistics of the batch norms in the blocks that train.
        blocks = ["0.layers.0", "0.layers.1", "1.layers.0"][3 - trained :]
        assert {name.split("stages.")[1][:10] for name in moved} == set(blocks)


def test_more_blocks_than_there_are_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError) as error:
        build_network(config_of(folders["vit"], train_layers="4"), 2)
    assert str(error.value) == ("train_layers is '4', but the model has 3 blocks; give a number up to 3, or all")
    network = build_network(config_of(folders["vit"]), 2).network
    freeze(network, "3")
    assert not network.get_parameter("vit.embeddings.cls_token").requires_grad


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_linear_probe_of_a_local_checkpoint_moves_the_head_alone(
    kind: str, beton: Path, tmp_path: Path, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(config_of(folders[kind], train_layers="head", lr=1e-2), epochs=1)
    run = tmp_path / "run"
    train(beton, run, config)
    state = checkpoint.load(run / "last.pt")
    start = build_network(config, 2).network
    head = [name for name, _ in start.named_parameters() if name.startswith("classifier")]
    moved = [name for name, value in start.state_dict().items() if not torch.equal(value, state["model"][name])]
    assert moved == head
    assert len(state["optimizer"]["state"]) == len(head)
    assert f"weights of {folders[kind]}: " in capsys.readouterr().err
    # The images were standardised as the checkpoint says, or by the training tiles.
    is_named = state["image"]["mean"] == pytest.approx([178.5, 153, 127.5])
    assert is_named == (kind == "vit")


def test_a_fine_tune_of_a_local_checkpoint_learns_goes_on_and_predicts_without_its_folder(
    beton: Path, tmp_path: Path, folders: dict[str, Path]
) -> None:
    import shutil

    folder = tmp_path / "resnet"
    shutil.copytree(folders["resnet"], folder)
    config = config_of(folder, lr=1e-2, layer_decay=0.8, seed=1)
    run = tmp_path / "run"
    train(beton, run, config, progress=False)
    shutil.rmtree(folder)
    summary = train(beton, run, replace(config, epochs=3), progress=False)
    assert summary["metrics"]["val/balanced_accuracy"] > 0.8
    start = dict(build_network(config_of(folders["resnet"], seed=1), 2).network.named_parameters())
    state = checkpoint.load(run / "last.pt")
    assert not any(torch.equal(value, state["model"][name]) for name, value in start.items())
    result = evaluate(run, beton, split="val", checkpoint="last")
    rows = pq.read_table(result["predictions"])
    assert len(rows) == 80


def test_weights_of_a_run_start_another(beton: Path, tmp_path: Path, folders: dict[str, Path]) -> None:
    run = tmp_path / "run"
    train(beton, run, replace(config_of(folders["vit"], normalise="tiles"), epochs=1), progress=False)
    state = checkpoint.load(run / "best.pt")
    built = build_network(config_of(folders["vit"], weights=str(run)), 2)
    assert all(torch.equal(value, built.network.state_dict()[name]) for name, value in state["model"].items())
    n = len([name for name in state["model"] if not name.startswith("classifier")])
    assert built.told == (f"weights of {run}: {n} of {n} tensors of the backbone are taken, and the head",)
    assert built.pixels == state["image"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("prefix", ["", "module.", "vit."])
def test_weights_come_from_files_under_the_names_of_wrappers(
    prefix: str, suffix: str, tmp_path: Path, folders: dict[str, Path]
) -> None:
    from safetensors.torch import save_file

    network = build_network(config_of(folders["vit"]), 5).network
    tensors = {name: value.clone() for name, value in network.state_dict().items()}
    if prefix == "vit.":
        # As the backbone alone is saved.
        tensors = {name.removeprefix("vit."): value for name, value in tensors.items() if name.startswith("vit.")}
    else:
        tensors = {prefix + name: value for name, value in tensors.items()}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({"epoch": 3, "state_dict": tensors}, path)
    else:
        save_file(tensors, path)
    built = build_network(replace(config_of(folders["vit"], seed=9), weights=str(path)), 2)
    mine = built.network.state_dict()
    body = [name for name in mine if "classifier" not in name]
    assert all(torch.equal(mine[name], network.state_dict()[name]) for name in body)
    n = len(body)
    behind = ("state_dict." if suffix == ".pt" else "") + prefix.replace("vit.", "")
    place = f", behind {behind[:-1]!r}" if behind else ""
    head = "" if prefix == "vit." else " (5 outputs there, 2 here)"
    assert built.told == (
        f"weights of {path}{place}: {n} of {n} tensors of the backbone are taken, the head starts anew{head}",
    )


def test_weights_that_lack_and_have_more_are_told(tmp_path: Path) -> None:
    config = TrainConfig(model="networks:tiny")
    tensors = build_network(config, 2).network.state_dict()
    del tensors["2.bias"]
    tensors["extra.weight"] = torch.zeros(3)
    torch.save(tensors, tmp_path / "w.pt")
    built = build_network(replace(config, weights=str(tmp_path / "w.pt")), 2)
    assert built.told == (
        f"weights of {tmp_path / 'w.pt'}: 3 of 4 tensors of the backbone are taken, and the head",
        "warning: the weights lack 2.bias: these start anew",
        "warning: the model has no place for extra.weight of the weights",
    )


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, folders: dict[str, Path]) -> None:
    config = TrainConfig(model="networks:tiny")
    tensors = build_network(config, 2).network.state_dict()

    def refusal(weights: Path | str, model: str = "networks:tiny") -> str:
        with pytest.raises(ConfigError) as error:
            build_network(replace(config, model=model, weights=str(weights)), 2)
        return str(error.value)

    path = tmp_path / "w.pt"
    torch.save({**tensors, "0.weight": torch.zeros(4, 3, 5, 5)}, path)
    assert refusal(path) == (
        f"weights {path} do not fit model 'networks:tiny': 0.weight 4 x 3 x 5 x 5 there, 8 x 3 x 5 x 5 here"
    )
    torch.save({"a": torch.zeros(1)}, path)
    assert refusal(path) == (
        f"weights {path} do not fit model 'networks:tiny': none of its 4 tensors is among them; "
        "they have a, the model 0.weight, 0.bias, 2.weight and 1 more"
    )
    assert "do not fit model" in refusal(folders["swin"], f"hf:{folders['vit']}")
    torch.save([1, 2], path)
    assert refusal(path) == f"weights: {path} holds no tensors by name; give what state_dict() of a network returns"
    path.write_bytes(b"nothing")
    assert refusal(path).startswith(f"weights: {path}: not a file that can be read (")
    assert refusal(path).endswith("safetensors.torch.save_file(network.state_dict(), FILE) writes one")
    assert refusal(tmp_path / "none") == (
        f"weights: there is no {tmp_path / 'none'}; give a file, or a folder with model.safetensors or a run"
    )
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty") == (
        f"weights: the folder {tmp_path / 'empty'} has none of best.pt, model.safetensors, "
        "model.safetensors.index.json and pytorch_model.bin; name the file itself"
    )


def test_models_that_are_not_there_are_refused_with_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def refusal(model: str, **settings: Any) -> str:
        with pytest.raises(ConfigError) as error:
            build_network(TrainConfig(model=model, **settings), 2)
        return str(error.value)

    assert refusal("phikon") == (
        "model 'hf:owkin/phikon' is not on this machine: there is no folder 'owkin/phikon', and the cache of the "
        "Hugging Face hub does not have it; fetch it with: hf download owkin/phikon --local-dir DIR "
        "(then `model='hf:DIR'`), or put HF_HUB_OFFLINE=0 before the command"
    )
    assert refusal(f"hf:{tmp_path}") == (
        f"model 'hf:{tmp_path}': the folder has no config.json; give one that transformers' save_pretrained wrote, "
        "or that holds a model of the Hugging Face hub"
    )
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    assert refusal(f"hf:{tmp_path}").startswith(f"model 'hf:{tmp_path}': {tmp_path / 'config.json'} cannot be used: ")
    assert refusal("hf:bert").startswith("model 'hf:bert' takes no images: it is a BertModel")
    assert refusal("monai:DenseNet120") == (
        "model 'monai:DenseNet120': monai.networks.nets has no 'DenseNet120'; such as DenseNet121 or resnet18"
    )
    assert refusal("resnet18", dropout=0.2) == "dropout is 0.2, but model 'resnet18' has none; leave it at 0"
    assert refusal("vit-s16", drop_path=0.2) == "drop_path is 0.2, but model 'vit-s16' has none; leave it at 0"
    assert refusal("networks:tiny", input_px=64) == (
        "input_px is 64, but model 'networks:tiny' is a function of your own; do it there, and leave this at 0"
    )


@pytest.mark.parametrize("model", ["uni", "timm:resnet50", "timm:hf-hub:MahmoodLab/UNI"])
def test_timm_is_asked_for_where_it_is_missing(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.delitem(sys.modules, "timm.layers", raising=False)
    with pytest.raises(ConfigError) as error:
        build_network(TrainConfig(model=model), 2)
    assert str(error.value) == (
        f"model {model!r} needs timm, which cannot be imported (import of timm halted; None in sys.modules); "
        "install it, without the torchvision that would replace your torch and that networks do not need: "
        "pip install --no-deps timm"
    )


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_a_network_of_timm_trains_predicts_and_starts_another(beton: Path, tmp_path: Path) -> None:
    """It is one of the tiny networks that timm's own tests build."""
    run = tmp_path / "run"
    config = TrainConfig(model="timm:test_resnet", epochs=1, batch_size_per_rank=32, warmup_epochs=0)
    train(beton, run, config, progress=False)
    assert len(pq.read_table(evaluate(run, beton, split="val")["predictions"])) == 80
    built = build_network(replace(config, seed=2, weights=str(run)), 2)
    state = checkpoint.load(run / "best.pt")
    assert all(torch.equal(value, built.network.state_dict()[name]) for name, value in state["model"].items())
    n = len([name for name in state["model"] if not name.startswith("fc.")])
    assert built.told == (f"weights of {run}: {n} of {n} tensors of the backbone are taken, and the head",)
    # Where there is no torchvision, nobody else finds what stood in for it.
    assert importlib.util.find_spec("torchvision") is not None or "torchvision" not in sys.modules


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_an_encoder_of_timm_gets_its_weights_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """UNI is a ViT-L: here with one block, since what the table says of it does not depend on its depth."""
    from slideduck.runner.networks.notorchvision import import_timm

    uni = ENCODERS["uni"]
    small = replace(uni, arguments={**uni.arguments, "depth": 1, "embed_dim": 64, "num_heads": 2})
    monkeypatch.setattr("slideduck.runner.networks.build.ENCODERS", {"uni": small})
    theirs = import_timm().create_model(uni.architecture, num_classes=0, dynamic_img_size=True, **small.arguments)
    torch.save({"model": {f"module.{name}": value for name, value in theirs.state_dict().items()}}, tmp_path / "uni.pt")
    built = build_network(TrainConfig(model="uni", weights=str(tmp_path / "uni.pt")), 2)
    n = len(theirs.state_dict())
    assert built.told == (
        f"weights of {tmp_path / 'uni.pt'}, behind 'model.module': {n} of {n} tensors of the backbone are taken, the "
        "head starts anew",
    )
    assert isinstance(built.network, PooledNetwork)
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(built.network.eval().features(images), theirs.eval()(images))


@pytest.mark.parametrize("name", ["DenseNet121", "resnet18"])
def test_networks_of_monai_take_rgb_tiles(name: str) -> None:
    pytest.importorskip("monai")
    network = build_network(TrainConfig(model=f"monai:{name}", train_layers="1"), 3).network
    assert outputs(network, torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    names = [n for n, p in network.named_parameters() if p.requires_grad]
    assert names[-1] in ("class_layers.out.bias", "fc.bias")
    assert 2 < len(names) < 70


@pytest.mark.parametrize(("pooling", "width"), [("cls", 4), ("mean", 4), ("cls+mean", 8)])
def test_pooling_takes_what_it_says_of_the_tokens(pooling: str, width: int) -> None:
    tokens = torch.randn(2, 9, 4)

    class Backbone(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return tokens

    network = PooledNetwork(Backbone(), 4, 3, pooling=pooling, prefix_tokens=5)
    features = network.features(torch.zeros(2, 3, 8, 8))
    expected = {
        "cls": [tokens[:, 0]],
        "mean": [tokens[:, 5:].mean(1)],
        "cls+mean": [tokens[:, 0], tokens[:, 5:].mean(1)],
    }
    assert torch.equal(features, torch.cat(expected[pooling], dim=1))
    assert network(torch.zeros(2, 3, 8, 8)).shape == (2, 3)
    assert features.shape == (2, width)


def test_tiles_are_resized_to_whole_patches_or_to_what_is_asked_for() -> None:
    assert [FitInput(0, 14).side(side) for side in (224, 256, 32, 5)] == [224, 252, 28, 14]
    assert FitInput(224, 14).side(256) == 224
    assert FitInput().side(250) == 250
    images = torch.rand(1, 3, 64, 64)
    (fitted,), kwargs = FitInput(32, 16, interpolates=True)(nn.Identity(), (images,), {})
    assert fitted.shape == (1, 3, 32, 32)
    assert float((fitted - nn.functional.avg_pool2d(images, 2)).abs().mean()) < 0.1
    assert kwargs == {"interpolate_pos_encoding": True}


def test_encoders_say_what_is_published_of_them() -> None:
    for name, encoder in ENCODERS.items():
        assert encoder.library in ("hf", "timm")
        assert bool(encoder.architecture) == (encoder.library == "timm"), name
        assert encoder.pooling in ("cls", "cls+mean")
        assert encoder.input_px % encoder.patch_px == 0
        assert all(0 < value < 1 for value in (*encoder.mean, *encoder.std))
        assert encoder.source == f"https://huggingface.co/{encoder.hub}"


def test_an_encoder_gets_its_pooling_its_size_and_its_mean_from_the_table(tmp_path: Path) -> None:
    """A small network in place of Phikon v2's: what the table says of it does not depend on its size."""
    from transformers import Dinov2Config

    from slideduck.runner.networks.transformers_nets import HfSource, build_hf

    encoder = ENCODERS["phikon2"]
    config = Dinov2Config(**{**SMALL["dinov2"], "patch_size": 16, "image_size": 224})
    network = build_hf("phikon2", HfSource(config), 2, encoder=encoder, input_px=encoder.input_px)
    assert isinstance(network, PooledNetwork)
    assert network.head.in_features == 32
    seen = []
    network.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    assert outputs(network, torch.zeros(1, 3, 256, 256)).shape == (1, 2)
    assert seen == [(1, 3, 224, 224)]
    kept = {"hf": json.loads(config.to_json_string(use_diff=False))}
    built = build_network(TrainConfig(model="phikon2"), 2, architecture=kept, fresh=False)
    assert built.pixels is not None
    assert built.pixels["mean"] == pytest.approx([123.675, 116.28, 103.53])
    built.network.load_state_dict(network.state_dict())
