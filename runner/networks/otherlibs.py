"""Networks of timm and MONAI, if these are installed."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from slideduck.errors import ConfigError
from slideduck.runner.networks.heads import FitInput, PooledNetwork
from slideduck.runner.networks.notorchvision import import_timm
from slideduck.runner.networks.transformers_nets import Pixels, may_download, transformers
from slideduck.runner.settings.modelnames import Encoder

__all__ = ["FETCHED", "build_monai", "build_timm"]

#: What names begin with whose weights timm brings with them.
FETCHED = ("hf-hub:", "hf_hub:", "local-dir:")

#: What MONAI's networks call the number of outputs, and that of channels that go in.
_OUTPUT_NAMES = ("out_channels", "num_classes")
_INPUT_NAMES = ("in_channels", "n_input_channels")
_DROPOUT_NAMES = ("dropout_prob", "dropout_rate", "dropout")


def _imported(library: str, model: str, hint: str) -> Any:
    """Import a library, or say how to install it."""
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise ConfigError(f"model {model!r} needs {library}, which cannot be imported ({error}); {hint}") from error


@contextmanager
def _weights_alone() -> Iterator[None]:
    """Of pickled weights timm takes what torch reads by default: whatever it asks for, no code is to run."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        # What else the process reads is the user's business.
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@_weights_alone()
def build_timm(
    model: str,
    name: str,
    n_outputs: int,
    *,
    encoder: Encoder | None = None,
    has_weights: bool = False,
    input_px: int = 0,
    dropout: float = 0.0,
    drop_path: float = 0.0,
) -> tuple[nn.Module, Pixels | None]:
    """Build a network of timm.

    Parameters
    ----------
    model : str
        For messages, such as ``"timm:resnet50"``.
    name : str
        As timm's ``create_model`` takes it: an architecture, ``hf-hub:OWNER/NAME`` or ``local-dir:FOLDER``.
    n_outputs : int
        Outputs of its head.
    encoder : Encoder, optional
        What is published of it; `name` is its name on the hub then.
    has_weights : bool
        Weights are loaded afterwards: the network needs none of the hub.
    input_px, dropout, drop_path
        See `slideduck.runner.networks.transformers_nets.build_hf`.

    Returns
    -------
    network : nn.Module
    pixels : dict or None
        ``mean`` and ``std`` of the input of the weights that it has, or is to get.

    Raises
    ------
    ConfigError
        If timm is not installed, does not know the name, or has no weights of it on this machine.
    """
    # Before timm imports the hub's client, which reads once whether it may ask a server.
    transformers()
    try:
        timm = import_timm()
    except ImportError as error:
        raise ConfigError(
            f"model {model!r} needs timm, which cannot be imported ({error}); install it, without the torchvision that "
            "would replace your torch and that networks do not need: pip install --no-deps timm"
        ) from error
    rates = {key: value for key, value in (("drop_rate", dropout), ("drop_path_rate", drop_path)) if value}
    try:
        if encoder is None:
            fetched = name.startswith(FETCHED) and not has_weights
            network: nn.Module = timm.create_model(name, pretrained=fetched, num_classes=n_outputs, **rates)
            inner, patch_px = network, 1
        else:
            arguments = {"num_classes": 0, "dynamic_img_size": True, **_timm_arguments(encoder), **rates}
            source = encoder.architecture if has_weights else f"hf-hub:{encoder.hub}"
            inner = timm.create_model(source, pretrained=not has_weights, **arguments)
            network = PooledNetwork(
                inner,
                int(inner.num_features),
                n_outputs,
                pooling=encoder.pooling,
                prefix_tokens=encoder.prefix_tokens,
            )
            patch_px = encoder.patch_px
    except Exception as error:
        where = ""
        if not may_download() and ("hub:" in name or encoder is not None):
            hub = encoder.hub if encoder else name.partition(":")[2]
            where = (
                f"; nothing is fetched from the hub: get its weights with hf download {hub} --local-dir DIR (then "
                "`weights='DIR'`), or put HF_HUB_OFFLINE=0 before the command"
            )
        raise ConfigError(f"model {model!r} cannot be built: {type(error).__name__}: {error}{where}") from error
    fit = FitInput(input_px or (encoder.input_px if encoder else 0), patch_px)
    if fit.changes:
        inner.register_forward_pre_hook(fit, with_kwargs=True)
    return network, _timm_pixels(inner, encoder)


def _timm_arguments(encoder: Encoder) -> dict[str, Any]:
    """Return an encoder's arguments, with classes in place of their names."""
    layers = importlib.import_module("timm.layers")
    arguments = dict(encoder.arguments)
    if "mlp_layer" in arguments:
        arguments["mlp_layer"] = getattr(layers, arguments["mlp_layer"])
    if "act_layer" in arguments:
        arguments["act_layer"] = getattr(nn, arguments["act_layer"])
    return arguments


def _timm_pixels(network: nn.Module, encoder: Encoder | None) -> Pixels | None:
    """Return mean and deviation of a network's input."""
    if encoder is not None:
        mean, std = encoder.mean, encoder.std
    else:
        published = getattr(network, "pretrained_cfg", None) or {}
        if "mean" not in published or "std" not in published:
            return None
        mean, std = published["mean"], published["std"]
    return {"mean": [255 * value for value in mean], "std": [255 * value for value in std]}


def build_monai(
    model: str, name: str, n_outputs: int, *, input_px: int = 0, dropout: float = 0.0, drop_path: float = 0.0
) -> nn.Module:
    """Build a network of ``monai.networks.nets`` with random weights, for RGB tiles.

    Raises
    ------
    ConfigError
        If MONAI is not installed, has no such network, or it is none that gives a number for each class.
    """
    is_name = name.isidentifier() and not name.startswith("_")
    nets = _imported("monai.networks.nets", model, "install it with: pip install monai") if is_name else None
    maker = getattr(nets, name, None)
    # Of what the module has by import, only what makes networks.
    if not callable(maker) or not str(getattr(maker, "__module__", "")).startswith("monai.networks.nets."):
        raise ConfigError(f"model {model!r}: monai.networks.nets has no {name!r}; such as DenseNet121 or resnet18")
    if drop_path:
        raise ConfigError(f"drop_path is {drop_path:g}, but model {model!r} has none; leave it at 0")
    # Whose last step is a function that calls a class passes on what it is given.
    base = getattr(nets, "ResNet", None) if name.startswith("resnet") else maker
    taken = inspect.signature(base if base is not None else maker).parameters
    arguments: dict[str, Any] = {}
    for value, names in ((2, ("spatial_dims",)), (3, _INPUT_NAMES), (n_outputs, _OUTPUT_NAMES)):
        arguments |= {known: value for known in names if known in taken}
    if "pretrained" in taken:
        arguments["pretrained"] = False
    if dropout:
        known = [key for key in _DROPOUT_NAMES if key in taken]
        if not known:
            raise ConfigError(f"dropout is {dropout:g}, but model {model!r} has none; leave it at 0")
        arguments[known[0]] = dropout
    try:
        network = maker(**arguments)
    except Exception as error:
        raise ConfigError(
            f"model {model!r} cannot be built: {type(error).__name__}: {error}; "
            "for a network with further arguments write a function of your own: `model='module:function'`"
        ) from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"model {model!r} is a {type(network).__name__}, not a network; such as DenseNet121")
    fit = FitInput(input_px)
    if fit.changes:
        network.register_forward_pre_hook(fit, with_kwargs=True)
    return network
