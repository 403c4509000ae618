"""The settings of a run refuse what is impossible, by name and value."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from slideduck.errors import ConfigError
from slideduck.runner.settings.train_config import GROUPS, TrainConfig

KNOWN = (
    "resnet18, resnet34, resnet50, resnet101, resnet152, vit-s16, vit-b16, dinov2-s14, swin-t, convnext-t, uni, uni2, "
    "virchow, virchow2, gigapath, h-optimus-0, h-optimus-1, phikon, phikon2, midnight, hf:NAME_OR_FOLDER, timm:NAME, "
    "monai:NAME, or module:function"
)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs is 0; it must be 1 or more"),
        ({"epochs": "ten"}, "epochs is 'ten', a str; it must be int"),
        ({"epochs": True}, "epochs is True, a bool; it must be int"),
        ({"epochs": 2.0}, "epochs is 2.0, a float; it must be int"),
        ({"batch_size_per_rank": -4}, "batch_size_per_rank is -4; it must be 1 or more"),
        ({"lr": 0.0}, "lr is 0.0; it must be above 0"),
        ({"lr": float("nan")}, "lr is nan; it must be above 0"),
        ({"lr": float("inf")}, "lr is inf; it must be above 0"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1; it must be 0 or more"),
        (
            {"shard": "fsdp", "ema_decay": 0.9},
            "shard is 'fsdp' and ema_decay is 0.9; with a sharded network it must be 0",
        ),
        (
            {"shard": "fsdp", "compile": "auto"},
            "shard is 'fsdp' and compile is 'auto'; with a sharded network it must be 'off'",
        ),
        ({"grad_clip": -1}, "grad_clip is -1; it must be 0 or more"),
        ({"seed": -1}, "seed is -1; it must be 0 or more, at most 9223372036854775807"),
        ({"warmup_epochs": 3.0, "epochs": 3}, "warmup_epochs is 3; it must be less than epochs, 3"),
        ({"balance": "sampler"}, "balance is 'sampler'; it must be one of none, loss"),
        ({"augment": "d4,d4"}, "augment is 'd4,d4': d4 is there twice; give it once"),
        ({"precision": "fp16"}, "precision is 'fp16'; it must be one of auto, fp32, bf16"),
        ({"model": "resnet19"}, f"model is 'resnet19'; it must be one of {KNOWN}"),
        ({"model": ":f"}, f"model is ':f'; it must be one of {KNOWN}"),
        ({"model": "hf:"}, f"model is 'hf:'; it must be one of {KNOWN}"),
        ({"weights": ""}, "weights is ''; it must be a path, or not given"),
        ({"weights": 3}, "weights is 3, a int; it must be str | None"),
        ({"normalise": "imagenet"}, "normalise is 'imagenet'; it must be one of auto, tiles, model"),
        ({"train_layers": "two"}, "train_layers is 'two'; it must be all, head, or a number of blocks"),
        ({"input_px": -1}, "input_px is -1; it must be 0 or more"),
        ({"layer_decay": 0.0}, "layer_decay is 0.0; it must be above 0, at most 1"),
        ({"head_lr": -1.0}, "head_lr is -1.0; it must be 0 or more"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be 0 or more, at most 0.99"),
        ({"drop_path": 1.0}, "drop_path is 1.0; it must be 0 or more, at most 0.99"),
        ({"val_split": "train"}, "train_split and val_split are both 'train'; they must be different splits"),
        ({"fold": -1}, "fold is -1; it must be 0 or more"),
        ({"accumulate": 0}, "accumulate is 0; it must be 1 or more"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0; it must be 0 or more, and below 1"),
        ({"plateau_factor": 0.0}, "plateau_factor is 0.0; it must be above 0, and below 1"),
        ({"schedule": "step"}, "schedule is 'step'; it must be one of cosine, onecycle, plateau, constant"),
        ({"checkpoint_minutes": -1.0}, "checkpoint_minutes is -1.0; it must be 0 or more"),
        ({"stop_patience": -1}, "stop_patience is -1; it must be 0 or more"),
        ({"clip": 0}, "clip is 0; it must be 1 or more"),
        ({"epoch_tiles": -5}, "epoch_tiles is -5; it must be 1 or more"),
        ({"replacement": "maybe"}, "replacement is 'maybe'; it must be one of no, yes"),
        (
            {"sample": "slide,lable"},
            "sample is 'slide,lable'; it must be natural, or one or more of slide, patient, site, split, fold, label, "
            "class, roi_name, grid_x, grid_y, loc_x, loc_y, such as label or slide,label",
        ),
        ({"where": 3}, "where is 3, a int; it must be str | None"),
        (
            {"fold": 1, "val_where": "site = 'C'"},
            "fold and val_where are both given; a fold says which tiles train and validate",
        ),
    ],
)
def test_impossible_setting_is_refused_by_name_and_value(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        TrainConfig(**values)
    assert str(error.value) == message


def test_settings_go_to_a_dict_and_back() -> None:
    config = TrainConfig(model="mine:net", epochs=3, lr=1, fold=2)
    assert TrainConfig.from_dict(config.to_dict()) == config


def test_unknown_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^no such setting: optimiser; the settings are accumulate, "):
        TrainConfig.from_dict({"optimiser": "adam"})


def test_a_fold_needs_no_two_splits() -> None:
    assert TrainConfig(fold=0, train_split="all", val_split="all").fold == 0


def test_every_setting_says_what_it_is_and_in_which_unit() -> None:
    for item in fields(TrainConfig):
        assert item.metadata["unit"]
        assert item.metadata["text"].endswith(".")


def test_each_setting_is_in_one_group_of_the_help() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(item.name for item in fields(TrainConfig))
