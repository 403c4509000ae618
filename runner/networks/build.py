"""Networks by name or from the user's own function, with their first weights."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slideduck.errors import ConfigError
from slideduck.runner.networks.given import Network, built_by, require_given
from slideduck.runner.networks.layers import freeze, parameter_groups
from slideduck.runner.networks.otherlibs import FETCHED, build_monai, build_timm
from slideduck.runner.networks.transformers_nets import HfSource, Pixels, build_hf, find_hf, inner_hf, transformers
from slideduck.runner.networks.weights import load_pretrained, load_weights, read_weights
from slideduck.runner.settings.modelnames import BUILT_IN, ENCODERS, MODELS, Encoder, is_given, titled
from slideduck.runner.settings.train_config import TrainConfig

__all__ = ["Built", "build_model", "build_network", "parameter_groups"]


@dataclass(frozen=True)
class Built:
    """A network, and what a run records of it.

    Attributes
    ----------
    network : nn.Module
        On the CPU; what does not train is frozen.
    architecture : dict
        What is needed, beside the settings, to build it again where its folder or its hub is gone.
    pixels : dict or None
        ``mean`` and ``std``, 0 to 255, of the input that its weights were trained on, where that is known.
    told : tuple of str
        What the user should know of its weights.
    """

    network: nn.Module
    architecture: dict[str, Any]
    pixels: Pixels | None = None
    told: tuple[str, ...] = ()


def build_model(name: str, num_classes: int, seed: int) -> nn.Module:
    """Return a network by its name alone; see `build_network`.

    Parameters
    ----------
    name : str
        See `slideduck.runner.settings.modelnames`, or ``module:function``; the function is called with the number of
        outputs and returns a module that takes standardised tiles, float (batch, 3, height, width), and
        returns logits (batch, outputs), or an object with them as ``logits``.
    num_classes : int
        Number of outputs.
    seed : int
        Seed of the weights.

    Raises
    ------
    ConfigError
        See `build_network`.
    """
    return build_network(TrainConfig(model=name, seed=seed), num_classes).network


def build_network(
    config: TrainConfig,
    n_outputs: int,
    *,
    architecture: Mapping[str, Any] | None = None,
    fresh: bool = True,
    network: Network | None = None,
) -> Built:
    """Build the network of a run.

    Random weights depend on the seed alone.

    Parameters
    ----------
    config : TrainConfig
        ``model``, ``weights``, ``train_layers``, ``input_px``, ``dropout``, ``drop_path`` and ``seed`` count.
    n_outputs : int
        Outputs of its head.
    architecture : mapping, optional
        `Built.architecture` of a checkpoint.
    fresh : bool
        Load the weights that training starts from; not needed where a checkpoint's are loaded next.
    network : callable or nn.Module, optional
        What builds the network in place of its name, or a module, of which a copy is taken; see
        `slideduck.runner.networks.given`.

    Raises
    ------
    ConfigError
        If a name, a folder or a library is not there, weights do not fit, the user's function fails, it returns no
        module, or a network has to be given and is not.
    """
    require_given(config.model, network)
    given = network
    torch.manual_seed(config.seed)
    shaping: dict[str, Any] = {"input_px": config.input_px, "dropout": config.dropout, "drop_path": config.drop_path}
    library, name, encoder = _resolve(config.model)
    kept: dict[str, Any] = {}
    pixels: Pixels | None = None
    folder: str | None = None
    if library == "hf":
        source = _hf_source(name, architecture)
        if encoder is not None:
            shaping["input_px"] = config.input_px or encoder.input_px
        network = build_hf(config.model, source, n_outputs, encoder=encoder, **shaping)
        inner = inner_hf(network)
        assert inner is not None
        kept = {"hf": json.loads(inner.config.to_json_string(use_diff=False))}
        folder = None if config.weights else source.folder
        pixels = source.pixels if folder else None
    elif library == "timm":
        has_weights = bool(config.weights) or not fresh
        network, published = build_timm(
            config.model, name, n_outputs, encoder=encoder, has_weights=has_weights, **shaping
        )
        pixels = published if config.weights or name.startswith(FETCHED) else None
    elif library == "monai":
        network = build_monai(config.model, name, n_outputs, **shaping)
    else:
        for setting in ("input_px", "dropout", "drop_path"):
            if shaping[setting]:
                raise ConfigError(
                    f"{setting} is {shaping[setting]:g}, but {titled(config.model)} is a function of your own; "
                    "do it there, and leave this at 0"
                )
        given = _own_function(config.model) if given is None else given
        network = built_by(given, config.model, n_outputs)
    if encoder is not None:
        pixels = {"mean": [255 * value for value in encoder.mean], "std": [255 * value for value in encoder.std]}
    told: list[str] = []
    if fresh and folder is not None and Path(folder).is_dir():
        read_weights(Path(folder))  # Refused before transformers reads it, by what it holds.
    if fresh and config.weights:
        weights = read_weights(Path(config.weights))
        told = load_weights(network, weights, config.model)
        pixels = weights.pixels or pixels
    elif fresh and folder is not None:
        told = load_pretrained(network, folder, config.model)
    elif fresh and config.model.startswith("hf:"):
        told = [f"model {config.model!r} has no weights of its own: it starts with random ones"]
    if fresh and not told and config.train_layers != "all" and library != "timm":
        told = [f"warning: train_layers is {config.train_layers!r}, and the rest keeps its random weights"]
    if fresh and is_given(config.model):
        name = config.model.partition(":")[2]
        told.append(
            f"{titled(config.model)} was given from Python: the run holds its weights and no code, and whoever loads "
            f"it gives network={name} again"
        )
    freeze(network, config.train_layers)
    return Built(network, kept, pixels, tuple(told))


def _resolve(model: str) -> tuple[str, str, Encoder | None]:
    """Return the library, its own name of the model, and the entry of a pathology encoder."""
    if model in MODELS or model in BUILT_IN:
        return "hf", model, None
    encoder = ENCODERS.get(model)
    if encoder is not None:
        return encoder.library, encoder.hub, encoder
    before, _, name = model.partition(":")
    if before not in ("hf", "timm", "monai"):
        return "own", model, None
    hub = name.partition(":")[2] if name.startswith(("hf-hub:", "hf_hub:")) else name
    same = [one for one in ENCODERS.values() if one.library == before and one.hub.lower() == hub.lower()]
    return before, name, same[0] if same else None


def _hf_source(name: str, architecture: Mapping[str, Any] | None) -> HfSource:
    """Return where a network of transformers comes from: the checkpoint's configuration, if there is one."""
    if not architecture or "hf" not in architecture:
        return find_hf(name)
    values = dict(architecture["hf"])
    kind = values.pop("model_type")
    try:
        return HfSource(transformers().AutoConfig.for_model(kind, **values))
    except Exception as error:  # transformers raises whatever its parts do
        raise ConfigError(
            f"model 'hf:{name}' cannot be built from its checkpoint: {type(error).__name__}: {error}"
        ) from error


def _own_function(name: str) -> Network:
    """Return the user's ``module:function``."""
    module_name, _, function_name = name.partition(":")
    # As with python -m: a module beside the user is found.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        function: Network = getattr(importlib.import_module(module_name), function_name)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"model {name!r} cannot be built: {type(error).__name__}: {error}") from error
    return function
