"""Networks of transformers: from a configuration, a folder, or the hub's cache on this machine."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import nn

from slideduck.errors import ConfigError
from slideduck.runner.networks.heads import FitInput, PooledNetwork
from slideduck.runner.settings.modelnames import Encoder

__all__ = [
    "CONFIGS",
    "HfSource",
    "Pixels",
    "build_hf",
    "find_hf",
    "inner_hf",
    "is_rgb",
    "load_hf",
    "may_download",
    "read_pixels",
]

#: Mean and deviation of a network's input on the scale of 0 to 255, as a checkpoint has them.
Pixels = dict[str, list[float]]

#: What the configuration of each network of its own name has beside the defaults of its kind.
#: Widths and depths: He et al., Deep residual learning, 2016, table 1; Touvron et al., DeiT, 2021, table 1, for the
#: ViTs; Oquab et al., DINOv2, 2023; Liu et al., Swin Transformer, 2021, section 3.3; Liu et al., A ConvNet for the
#: 2020s, 2022, section 3.
CONFIGS: dict[str, dict[str, Any]] = {
    "resnet18": {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]},
    "resnet34": {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [3, 4, 6, 3]},
    "resnet50": {"layer_type": "bottleneck", "hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 4, 6, 3]},
    "resnet101": {"layer_type": "bottleneck", "hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 4, 23, 3]},
    "resnet152": {"layer_type": "bottleneck", "hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 8, 36, 3]},
    # The published weights of ViTs were trained with this epsilon, and not with the default of ViTConfig.
    "vit-s16": {
        "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536,
        "layer_norm_eps": 1e-6,
    },
    "vit-b16": {
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
        "layer_norm_eps": 1e-6,
    },
    "dinov2-s14": {
        "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "image_size": 224, "patch_size": 14,
    },
    "swin-t": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7},
    "convnext-t": {"hidden_sizes": [96, 192, 384, 768], "depths": [3, 3, 9, 3]},
}  # fmt: skip
_TYPES = {"resnet": "resnet", "vit": "vit", "dinov2": "dinov2", "swin": "swin", "convnext": "convnext"}

#: What configurations call the share of features, and of layers, that are dropped in training.
_DROPOUT_NAMES = ("hidden_dropout_prob", "hidden_dropout", "dropout_rate", "dropout")
_DROP_PATH_NAMES = ("drop_path_rate",)


class HfSource:
    """Where a network of transformers comes from.

    Attributes
    ----------
    config : transformers.PretrainedConfig
        Its configuration.
    folder : str or None
        A folder, or a name on the hub, that holds weights; None for random ones.
    pixels : dict or None
        ``mean`` and ``std`` of its input, where it says so.
    """

    def __init__(self, config: Any, folder: str | None = None, pixels: Pixels | None = None) -> None:
        self.config, self.folder, self.pixels = config, folder, pixels


def may_download() -> bool:
    """Return True if the user asked for downloads: ``HF_HUB_OFFLINE=0``."""
    return os.environ.get("HF_HUB_OFFLINE", "1").strip().lower() in ("0", "false", "no", "off")


def transformers() -> Any:
    """Import transformers so that it asks no server, unless the user allows it, and prints nothing."""
    if not may_download():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
    import transformers as library

    library.utils.logging.disable_progress_bar()
    library.utils.logging.set_verbosity_error()
    return library


def find_hf(name: str) -> HfSource:
    """Find the network of a name: a built-in one, an architecture, a folder, or a name on the hub.

    Parameters
    ----------
    name : str
        Such as ``"resnet18"``, ``"vit"``, ``"models/phikon"`` or ``"owkin/phikon"``.

    Raises
    ------
    ConfigError
        If it is none of these on this machine, with how to get it.
    """
    library = transformers()
    if name in CONFIGS:
        kind = next(kind for kind in _TYPES if name.startswith(kind))
        # ResNetConfig's own embedding is as wide.
        return HfSource(library.AutoConfig.for_model(_TYPES[kind], **CONFIGS[name]))
    folder = Path(name)
    if folder.is_dir():
        return _of_folder(library, name, folder)
    if name in library.CONFIG_MAPPING:
        return HfSource(library.AutoConfig.for_model(name))
    return _of_hub(library, name)


def _of_folder(library: Any, name: str, folder: Path) -> HfSource:
    """Return the source of a folder with config.json."""
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"model 'hf:{name}': the folder has no config.json; give one that transformers' save_pretrained wrote, "
            "or that holds a model of the Hugging Face hub"
        )
    try:
        config = library.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever its parts do
        raise ConfigError(f"model 'hf:{name}': {folder / 'config.json'} cannot be used: {_first(error)}") from error
    has_weights = any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))
    return HfSource(config, str(folder) if has_weights else None, read_pixels(folder))


def _of_hub(library: Any, name: str) -> HfSource:
    """Return a model of the hub from this machine, or download it if that is allowed."""
    local = not may_download()
    try:
        config = library.AutoConfig.from_pretrained(name, local_files_only=local, trust_remote_code=False)
        from transformers.utils import cached_file

        preprocessor = cached_file(
            name,
            "preprocessor_config.json",
            local_files_only=local,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError, KeyError) as error:
        if not local:
            raise ConfigError(f"model 'hf:{name}' cannot be fetched: {_first(error)}") from error
        raise ConfigError(
            f"model 'hf:{name}' is not on this machine: there is no folder {name!r}, and the cache of the Hugging Face "
            f"hub does not have it; fetch it with: hf download {name} --local-dir DIR (then `model='hf:DIR'`), or "
            "put HF_HUB_OFFLINE=0 before the command"
        ) from error
    return HfSource(config, name, read_pixels(Path(preprocessor).parent) if preprocessor else None)


def read_pixels(folder: Path) -> Pixels | None:
    """Return mean and deviation of the input, 0 to 255, that a folder's preprocessor_config.json asks for."""
    try:
        values = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{folder / 'preprocessor_config.json'} cannot be read: {_first(error)}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{folder / 'preprocessor_config.json'} cannot be read: it is a {type(values).__name__}")
    mean, std = values.get("image_mean"), values.get("image_std")
    if not values.get("do_normalize", True) or not (is_rgb(mean) and is_rgb(std)):
        return None
    return {"mean": [255 * value for value in mean], "std": [255 * value for value in std]}


def is_rgb(values: object) -> TypeGuard[list[float]]:
    """Return True for three finite numbers."""
    return (
        isinstance(values, list)
        and len(values) == 3
        and all(isinstance(value, (int, float)) and abs(value) < 1e6 for value in values)
    )


def build_hf(
    name: str,
    source: HfSource,
    n_outputs: int,
    *,
    encoder: Encoder | None = None,
    input_px: int = 0,
    dropout: float = 0.0,
    drop_path: float = 0.0,
) -> nn.Module:
    """Build a network with random weights.

    Parameters
    ----------
    name : str
        For messages.
    source : HfSource
        Its configuration.
    n_outputs : int
        Outputs of its head.
    encoder : Encoder, optional
        Decides what the head sees of the tokens.
    input_px : int
        See `slideduck.runner.networks.heads.FitInput`.
    dropout, drop_path : float
        Put into the configuration where they are not 0.

    Raises
    ------
    ConfigError
        If the network is not one of images, or its configuration has no dropout that was asked for.
    """
    library, config = transformers(), _without_code(name, source.config)
    for setting, value, names in (("dropout", dropout, _DROPOUT_NAMES), ("drop_path", drop_path, _DROP_PATH_NAMES)):
        if value:
            known = [attribute for attribute in names if hasattr(config, attribute)]
            if not known:
                raise ConfigError(f"{setting} is {value:g}, but model {name!r} has none; leave it at 0")
            setattr(config, known[0], value)
    try:
        if encoder is None and type(config) in library.AutoModelForImageClassification._model_mapping:
            config.num_labels = n_outputs
            network: nn.Module = library.AutoModelForImageClassification.from_config(config, trust_remote_code=False)
            inner = network
        else:
            inner = library.AutoModel.from_config(config, trust_remote_code=False, **_without_pooler(library, config))
            width = _width(name, config)
            pooling = encoder.pooling if encoder else "cls"
            prefix = 1 + int(getattr(config, "num_register_tokens", 0) or 0)
            network = PooledNetwork(inner, width, n_outputs, pooling=pooling, prefix_tokens=prefix)
    except ConfigError:
        raise
    except Exception as error:  # a configuration of somebody else's fails anywhere
        raise ConfigError(f"model {name!r} cannot be built: {_first(error)}") from error
    if "pixel_values" not in inspect.signature(inner.forward).parameters:
        raise ConfigError(f"model {name!r} takes no images: it is a {type(inner).__name__}")
    interpolates = "interpolate_pos_encoding" in inspect.signature(inner.forward).parameters
    fit = FitInput(input_px, _patch_px(config), least_px=_least_px(config), interpolates=interpolates)
    if fit.changes:
        inner.register_forward_pre_hook(fit, with_kwargs=True)
    return network


def _without_code(name: str, config: Any) -> Any:
    """Return a configuration, refused where it asks for code that is not of transformers.

    Raises
    ------
    ConfigError
        If it names a kernel to compute attention with: these are programs, fetched from the hub.
    """
    for attribute in ("_attn_implementation", "_experts_implementation"):
        chosen = getattr(config, attribute, None)
        if chosen is not None and not str(chosen).replace("_", "").isalnum():
            raise ConfigError(f"model {name!r}: its config.json asks for the code of {str(chosen)!r}, which is not run")
    if hasattr(config, "auto_map"):
        del config.auto_map
    return config


def inner_hf(network: nn.Module) -> Any | None:
    """Return the network of transformers in this one, or None."""
    inner = network.backbone if isinstance(network, PooledNetwork) else network
    return inner if isinstance(inner, transformers().PreTrainedModel) else None


def load_hf(
    network: nn.Module, *, folder: str | None = None, weights: Mapping[str, torch.Tensor] | None = None
) -> dict[str, list[str]]:
    """Load weights, under the names of any version of transformers, into a network of `build_hf`.

    Parameters
    ----------
    network : nn.Module
        Changed in place.
    folder : str, optional
        Folder, or name on the hub, with weights.
    weights : mapping, optional
        The weights themselves.

    Returns
    -------
    dict
        Names in ``missing`` and ``unexpected``, and in ``mismatched`` with both shapes.

    Raises
    ------
    ConfigError
        If the files cannot be read.
    """
    inner: Any = inner_hf(network)
    where = {"local_files_only": not may_download(), "trust_remote_code": False} if folder else {}
    # Random weights of what is missing are drawn already; drawing them again would move the generator.
    state = torch.get_rng_state()
    try:
        loaded, info = type(inner).from_pretrained(
            folder,
            config=inner.config,
            state_dict=None if weights is None else dict(weights),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            dtype=torch.float32,
            **where,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"weights {folder or ''} cannot be loaded: {_first(error)}") from error
    torch.set_rng_state(state)
    mismatched = {name for name, *_ in info["mismatched_keys"]}
    new = set(info["missing_keys"]) | mismatched
    inner.load_state_dict({name: value for name, value in loaded.state_dict().items() if name not in new}, strict=False)
    return {
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(info["unexpected_keys"]),
        "mismatched": sorted(f"{name} {_shape(a)} there, {_shape(b)} here" for name, a, b in info["mismatched_keys"]),
    }


def _shape(shape: Any) -> str:
    """Return a shape as text, such as ``"2 x 32"``."""
    return " x ".join(map(str, shape))


def _without_pooler(library: Any, config: Any) -> dict[str, bool]:
    """Return the argument that leaves out a pooler, which would have weights without gradients, where there is one."""
    model = library.AutoModel._model_mapping[type(config)]
    model = model[0] if isinstance(model, (tuple, list)) else model
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(model.__init__).parameters else {}


def _width(name: str, config: Any) -> int:
    """Return the number of features of a backbone."""
    width = getattr(config, "hidden_size", None) or (getattr(config, "hidden_sizes", None) or [None])[-1]
    if not isinstance(width, int):
        raise ConfigError(f"model {name!r} does not say how many features it gives (hidden_size in its config.json)")
    return width


def _patch_px(config: Any) -> int:
    """Return the side of a patch, pixels; 1 where the network takes any side."""
    patch = getattr(config, "patch_size", None)
    # A network in stages pads; in one of equal layers pixels beyond the last whole patch would be dropped.
    return patch if isinstance(patch, int) and not hasattr(config, "depths") else 1


def _least_px(config: Any) -> int:
    """Return the least side of a tile, pixels: in Swin's last stage a window must find its whole width."""
    window, patch, stages = (getattr(config, name, None) for name in ("window_size", "patch_size", "depths"))
    if not (isinstance(window, int) and isinstance(patch, int) and stages):
        return 0
    return int(window * patch * 2 ** (len(stages) - 1))


def _first(error: BaseException) -> str:
    """Return the class and the first line of an error."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
