"""Weights are taken as torchvision, timm and training programs write them, and compute what they computed there."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from slideduck.errors import ConfigError
from slideduck.runner.networks.build import Built, build_network
from slideduck.runner.networks.notorchvision import import_timm
from slideduck.runner.settings.train_config import TrainConfig

needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")


def stirred(network: nn.Module) -> nn.Module:
    """Return a network with random weights and statistics, none of which is 0 or 1 any more."""
    torch.manual_seed(3)
    for name, value in network.state_dict().items():
        if value.is_floating_point() and "relative_position_index" not in name:
            value.add_(torch.randn_like(value).mul_(0.03)).abs_() if "running_var" in name else value.add_(
                torch.randn_like(value).mul_(0.03)
            )
    return network.eval()


def started(model: str, weights: Path | str, n_outputs: int = 2) -> Built:
    built = build_network(TrainConfig(model=model, weights=str(weights), seed=1), n_outputs)
    built.network.eval()
    return built


def refusal(model: str, weights: Path | str) -> str:
    with pytest.raises(ConfigError) as error:
        started(model, weights)
    return str(error.value)


def assert_equal(mine: torch.Tensor, theirs: torch.Tensor) -> None:
    assert theirs.std() > 1e-3
    torch.testing.assert_close(mine, theirs, rtol=2e-4, atol=2e-4)


class Basic(nn.Module):
    """The basic block of He et al., 2016, under torchvision's names."""

    expansion = 1

    def __init__(self, width: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = shortcut(width, planes, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """The bottleneck, whose middle convolution strides."""

    expansion = 4

    def __init__(self, width: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.downsample = shortcut(width, 4 * planes, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(y)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


def shortcut(width: int, planes: int, stride: int) -> nn.Module | None:
    if stride == 1 and width == planes:
        return None
    return nn.Sequential(nn.Conv2d(width, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))


class ResNet(nn.Module):
    """A ResNet under torchvision's names."""

    def __init__(self, block: type[Basic | Bottleneck], layers: list[int], classes: int, first: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, first, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        width, self.stages = first, len(layers)
        for stage, blocks in enumerate(layers):
            row = []
            for number in range(blocks):
                row.append(block(width, first * 2**stage, 2 if stage and not number else 1))
                width = first * 2**stage * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*row))
        self.fc = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        logits: torch.Tensor = self.fc(x.mean((2, 3)))
        return logits


class VisionTransformer(nn.Module):
    """A ViT of one block under torchvision's names, with torch's own attention."""

    def __init__(self, width: int, side: int, classes: int) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.conv_proj = nn.Conv2d(3, width, 8, 8)
        self.encoder = nn.Module()
        self.encoder.pos_embedding = nn.Parameter(torch.zeros(1, side * side + 1, width))
        block = nn.Module()
        block.ln_1, block.ln_2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        block.self_attention = nn.MultiheadAttention(width, 2, batch_first=True)
        block.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0), nn.Linear(2 * width, width), nn.Dropout(0)
        )
        self.encoder.layers = nn.Sequential(OrderedDict(encoder_layer_0=block))
        self.encoder.ln = nn.LayerNorm(width, eps=1e-6)
        self.heads = nn.Sequential(OrderedDict(head=nn.Linear(width, classes)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1) + self.encoder.get_parameter("pos_embedding")
        block: Any = self.encoder.layers[0]  # type: ignore[index]
        y = block.ln_1(x)
        x = x + block.self_attention(y, y, y, need_weights=False)[0]
        x = x + block.mlp(block.ln_2(x))
        logits: torch.Tensor = self.heads(self.encoder.ln(x)[:, 0])  # type: ignore[operator]
        return logits


def described(folder: Path, kind: str, **values: Any) -> str:
    """Write the configuration of a network, without weights, and return the name of the model."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": kind, **values}))
    return f"hf:{folder}"


def small_vit(folder: Path, kind: str = "vit", **more: Any) -> str:
    """Describe a ViT of one block."""
    values = {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
        "intermediate_size": 64, "patch_size": 8, "layer_norm_eps": 1e-6,
    }  # fmt: skip
    return described(folder, kind, **values, **more)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return stirred(ResNet(Basic, [1, 1], 2, first=8))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small ResNet of transformers, that of `resnet` in size."""
    values = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    return described(tmp_path_factory.mktemp("models") / "resnet", "resnet", **values)


@pytest.mark.parametrize(
    ("name", "block", "layers"), [("resnet18", Basic, [2] * 4), ("resnet50", Bottleneck, [3, 4, 6, 3])]
)
def test_a_resnet_of_torchvision_computes_what_it_did(
    name: str, block: type[Basic | Bottleneck], layers: list[int], tmp_path: Path
) -> None:
    theirs = stirred(ResNet(block, layers, 2))
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    built = started(name, tmp_path / "w.pth")
    n = len(theirs.state_dict()) - 2
    assert built.told == (
        f"weights of {tmp_path / 'w.pth'}, in the names of torchvision or timm: {n} of {n} tensors of the backbone are "
        "taken, and the head",
    )
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert_equal(built.network(images).logits, theirs(images))


def test_a_vit_of_torchvision_computes_what_it_did(tmp_path: Path) -> None:
    theirs = stirred(VisionTransformer(32, 4, 2))
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    built = started(small_vit(tmp_path / "vit"), tmp_path / "w.pth")
    assert built.told == (
        f"weights of {tmp_path / 'w.pth'}, in the names of torchvision: 22 of 22 tensors of the backbone are taken, "
        "and the head",
    )
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert_equal(built.network(images).logits, theirs(images))


@pytest.mark.parametrize(
    ("model", "architecture", "whose"),
    [
        ("resnet34", "resnet34", "torchvision or timm"),
        ("vit-s16", "vit_small_patch16_224", "timm"),
        ("swin-t", "swin_tiny_patch4_window7_224", "timm"),
        ("convnext-t", "convnext_tiny", "timm"),
    ],
)
@needs_timm
def test_networks_of_timm_compute_what_they_did(model: str, architecture: str, whose: str, tmp_path: Path) -> None:
    """A forward pass of each at its own size takes up to two seconds."""
    theirs = stirred(import_timm().create_model(architecture, num_classes=3))
    torch.save({"state_dict": theirs.state_dict(), "epoch": 7, "args": argparse.Namespace(lr=0.1)}, tmp_path / "w.pth")
    built = started(model, tmp_path / "w.pth", 3)
    head = len([name for name in built.network.state_dict() if name.startswith("classifier")])
    n = len(built.network.state_dict()) - head
    assert built.told == (
        f"weights of {tmp_path / 'w.pth'}, behind 'state_dict', in the names of {whose}: {n} of {n} tensors of the "
        "backbone are taken, and the head",
    )
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        assert_equal(built.network(images).logits, theirs(images))


@needs_timm
def test_dinov2_of_timm_is_resampled_to_the_grid_of_the_network(tmp_path: Path) -> None:
    timm = import_timm()
    theirs: Any = stirred(timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=224))
    large = dict(theirs.state_dict())
    torch.manual_seed(1)
    large["pos_embed"] = torch.randn(1, 1 + 37 * 37, 384)
    theirs.pos_embed.data = timm.layers.resample_abs_pos_embed(large["pos_embed"], [16, 16], num_prefix_tokens=1)
    torch.save({"teacher": {f"backbone.{name}": value for name, value in large.items()}}, tmp_path / "w.pth")
    built = started("dinov2-s14", tmp_path / "w.pth")
    # Their token of masks is of pretraining alone, and timm has none.
    assert built.told == (
        f"weights of {tmp_path / 'w.pth'}, behind 'teacher.backbone', in the names of timm: 222 of 222 tensors of the "
        "backbone are taken, the head starts anew",
        "their embeddings of positions are resampled: 37 x 37 to 16 x 16 patches",
    )
    images = torch.randn(1, 3, 224, 224)
    inner: Any = built.network.get_submodule("dinov2")
    with torch.inference_mode():
        assert_equal(inner(images).last_hidden_state, theirs.forward_features(images))


@needs_timm
def test_registers_come_with_a_network_that_has_them_and_are_refused_by_one_without(tmp_path: Path) -> None:
    timm = import_timm()
    theirs: Any = stirred(
        timm.models.vision_transformer.VisionTransformer(
            img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2, num_classes=0, init_values=1.0,
            reg_tokens=4, no_embed_class=True,
        )
    )  # fmt: skip
    path = tmp_path / "w.pth"
    torch.save(theirs.state_dict(), path)
    with_them = small_vit(tmp_path / "with", "dinov2_with_registers", num_register_tokens=4, mlp_ratio=4)
    built = started(with_them, path)
    images = torch.randn(2, 3, 32, 32)
    inner: Any = built.network.get_submodule("dinov2_with_registers")
    with torch.inference_mode():
        assert_equal(inner(images).last_hidden_state, theirs.forward_features(images))
    without = small_vit(tmp_path / "without", "dinov2", mlp_ratio=4)
    assert refusal(without, path) == (
        f"weights {path} do not fit model '{without}': they are of a network with 4 register tokens, and it has none; "
        "give weights without registers, or their own network, such as timm:vit_small_patch14_reg4_dinov2"
    )


@pytest.mark.parametrize("part", ["authors", "timm"])
@needs_timm
def test_stages_of_swin_are_told_by_their_down_sampling(part: str, tmp_path: Path) -> None:
    """timm's begins a stage, the authors' ends the one before; both give the same network."""
    swin = import_timm().models.swin_transformer.SwinTransformer
    theirs = stirred(swin(img_size=32, embed_dim=12, depths=(1, 1), num_heads=(2, 2), window_size=4, num_classes=2))
    tensors = dict(theirs.state_dict())
    if part == "authors":
        tensors = {
            name.replace("layers.1.down", "layers.0.down").replace("head.fc", "head"): value
            for name, value in tensors.items()
        }
    # Of some versions.
    tensors["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.long)
    torch.save({"model": tensors}, tmp_path / "w.pth")
    values = {"embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
    model = described(tmp_path / "swin", "swin", image_size=32, **values)
    built = started(model, tmp_path / "w.pth")
    assert len(built.told) == 1
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert_equal(built.network(images).logits, theirs(images))


@needs_timm
def test_convnext_of_its_authors_is_taken(tmp_path: Path) -> None:
    convnext = import_timm().models.convnext.ConvNeXt
    theirs = stirred(convnext(depths=(1, 2, 1, 1), dims=(8, 12, 16, 20), num_classes=2))
    tensors = {}
    for name, value in theirs.state_dict().items():
        for old, new in (
            ("stem.", "downsample_layers.0."),
            (r"stages.(\d).downsample.", r"downsample_layers.\1."), (".blocks.", "."),
            ("conv_dw", "dwconv"), ("mlp.fc", "pwconv"), ("head.norm", "norm"), ("head.fc", "head"),
        ):  # fmt: skip
            name = re.sub(old.replace(".", r"\."), new, name)
        tensors[name] = value
    torch.save({"model_ema": tensors}, tmp_path / "w.pth")
    values = {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 2, 1, 1]}
    built = started(described(tmp_path / "convnext", "convnext", **values), tmp_path / "w.pth")
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert_equal(built.network(images).logits, theirs(images))


@pytest.mark.parametrize(
    ("key", "prefix"),
    [
        ("state_dict", "module."), ("model", "model."), ("teacher", "backbone."), ("ema", "student.module.backbone."),
        ("model_ema", "_orig_mod.module."), ("network", "net.resnet."), ("state_dict", "module.momentum_encoder."),
        ("state_dict", "encoder_q."), ("anything", "my.own.wrapper."), ("model", ""),
    ],
)  # fmt: skip
def test_the_one_dictionary_is_found_behind_any_key_and_any_prefix(
    key: str, prefix: str, model: str, resnet: nn.Module, tmp_path: Path
) -> None:
    tensors = {prefix + name: value for name, value in resnet.state_dict().items() if "num_batches" not in name}
    head = {"projector.0.weight": torch.ones(3, 3)}
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}
    torch.save({"epoch": 1, "head": head, key: tensors, "optimizer": optimizer}, tmp_path / "w.pth")
    built = started(model, tmp_path / "w.pth", 3)
    behind = f"{key}.{prefix}".removesuffix(".")
    assert built.told == (
        f"weights of {tmp_path / 'w.pth'}, behind '{behind}', in the names of torchvision or timm: 30 of 30 tensors "
        "of the backbone are taken, the head starts anew (2 outputs there, 3 here)",
    )
    mine = built.network.state_dict()["resnet.encoder.stages.1.layers.0.layer.1.convolution.weight"]
    assert torch.equal(mine, resnet.state_dict()["layer2.0.conv2.weight"])


@pytest.mark.parametrize("form", ["keys", "prefixes"])
def test_of_several_that_fit_the_one_that_is_named_is_taken(
    form: str, model: str, resnet: nn.Module, tmp_path: Path
) -> None:
    student = resnet.state_dict()
    teacher = {name: value + 1 if value.is_floating_point() else value for name, value in student.items()}
    path = tmp_path / "dino.pth"
    if form == "keys":
        torch.save({"student": student, "teacher": teacher}, path)
    else:
        flat = {f"student.{name}": value for name, value in student.items()}
        torch.save(flat | {f"teacher.{name}": value for name, value in teacher.items()}, path)
    assert refusal(model, path) == (
        f"weights: {path} holds several that fit: 'student', 'teacher'; say which one is meant, such as "
        f"`weights='{path}#student'`"
    )
    for place, tensors in (("student", student), ("teacher", teacher)):
        built = started(model, f"{path}#{place}")
        assert built.told[0].startswith(f"weights of {path}#{place}, in the names of torchvision or timm: 36 of 36 ")
        mine = built.network.state_dict()["resnet.embedder.embedder.convolution.weight"]
        assert torch.equal(mine, tensors["conv1.weight"])
    assert refusal(model, f"{path}#techer") == (
        f"weights: {path} has nothing at 'techer'; its names begin with student, teacher"
    )
    # The same twice is no question.
    torch.save({"student": student, "teacher": student}, path)
    assert "36 of 36" in started(model, path).told[0]


def test_what_training_programs_keep_beside_weights_is_read_as_plain_data(
    model: str, resnet: nn.Module, tmp_path: Path
) -> None:
    content = {
        "state_dict": OrderedDict(resnet.state_dict()),
        "args": argparse.Namespace(lr=0.1, output=Path("runs"), best=np.float64(0.5), count=np.int64(3)),
        "best": np.float32(0.25),
        "classes": {"a", "b"},
        "device": torch.device("cpu"),
    }
    torch.save(content, tmp_path / "w.pth")
    assert "36 of 36" in started(model, tmp_path / "w.pth").told[0]
    # No class of theirs is made: the names lead to nothing.
    from slideduck.runner.networks.torchfile import FileRefused, read_torch

    read = read_torch(tmp_path / "w.pth", published=True)
    assert type(read["args"]) is not argparse.Namespace
    assert not vars(read["args"])
    assert type(read["best"]).__module__ != "numpy"
    # A run of ours holds nothing of that kind.
    with pytest.raises(FileRefused, match=r"would call argparse\.Namespace"):
        read_torch(tmp_path / "w.pth")


class _Settings:
    """A class of a training program's own."""


@pytest.mark.attack("pickles", "code in the settings that a checkpoint keeps beside its weights")
def test_settings_that_name_code_are_refused_and_three_lines_take_the_weights(
    model: str, resnet: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.pth"
    torch.save({"state_dict": resnet.state_dict(), "args": argparse.Namespace(settings=_Settings())}, path)
    message = refusal(model, path)
    first, *lines = message.splitlines()
    assert first == (
        f"weights: {path}: it holds more than tensors: reading it as it is would call {__name__}._Settings; if you "
        "trust who made it, save its tensors alone where its own code is installed, with these three lines (the last "
        "for the key under which it has them), and give weights.pt:"
    )
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        exec("\n".join(line.strip() for line in lines), {})
        assert "36 of 36" in started(model, "weights.pt").told[0]
        # A whole network, as torch.save(network) writes it.
        torch.save(resnet, path)
        assert refusal(model, path).splitlines()[1:] == lines


@pytest.mark.attack("pickles", "weights in a dictionary that holds itself")
def test_a_dictionary_that_holds_itself_is_looked_at_once(model: str, resnet: nn.Module, tmp_path: Path) -> None:
    content: dict[str, Any] = {"model": resnet.state_dict()}
    content["again"] = content
    torch.save(content, tmp_path / "w.pth")
    assert "36 of 36" in started(model, tmp_path / "w.pth").told[0]
