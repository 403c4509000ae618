"""Networks with random weights, by name or from the user's own function, and what goes into them."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slideduck.errors import ConfigError
from slideduck.runner.config import MODELS

__all__ = ["build_model", "logits_of", "parameter_groups", "standardise"]

# Widths and depths: He et al., Deep residual learning, 2016, table 1.
_RESNETS: dict[str, dict[str, Any]] = {
    "resnet18": {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]},
    "resnet34": {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [3, 4, 6, 3]},
    "resnet50": {"layer_type": "bottleneck", "hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 4, 6, 3]},
}


def build_model(name: str, num_classes: int, seed: int) -> nn.Module:
    """Return a network with random weights that depend on the seed alone.

    Parameters
    ----------
    name : str
        One of `slideduck.runner.config.MODELS`, or ``module:function``; the function is called with the
        number of classes and returns a module that takes standardised tiles, float (batch, 3, height,
        width), and returns logits (batch, classes), or an object with them as ``logits``.
    num_classes : int
        Number of classes.
    seed : int
        Seed of the weights.

    Raises
    ------
    ConfigError
        If the function is not found, fails, or returns no module.
    """
    torch.manual_seed(seed)
    if name not in MODELS:
        return _own_model(name, num_classes)
    # Weights are made here: nothing is to be asked of any server.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=64, num_labels=num_classes, **_RESNETS[name])
    model: nn.Module = ResNetForImageClassification(config)
    return model


def _own_model(name: str, num_classes: int) -> nn.Module:
    """Return what the user's ``module:function`` makes."""
    module_name, _, function_name = name.partition(":")
    # As with python -m: a module beside the user is found.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module_name), function_name)
        model = function(num_classes)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"model {name!r} cannot be built: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model {name!r} returned a {type(model).__name__}; it must return a torch.nn.Module")
    return model


def logits_of(output: Any) -> torch.Tensor:
    """Return the logits, (batch, classes), of what a network returned."""
    logits: torch.Tensor = output if isinstance(output, torch.Tensor) else output.logits
    return logits


def standardise(images_BCHW: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Return uint8 tiles as float32 with mean 0 and deviation 1 in each channel, channels last.

    Parameters
    ----------
    images_BCHW : torch.Tensor of uint8, (batch, 3, height, width)
        RGB tiles.
    mean, std : torch.Tensor of float32, (1, 3, 1, 1)
        Of the training tiles, on the scale of 0 to 255.
    """
    images = images_BCHW.to(torch.float32, memory_format=torch.channels_last)
    return (images - mean) / std


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the parameters in two groups: matrices and kernels decay, norms and biases do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
