"""Weights to start from: files of torch and safetensors, folders of transformers, and runs of ours."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slideduck.errors import ConfigError
from slideduck.runner.networks.layers import head_of
from slideduck.runner.networks.torchfile import FileRefused, read_torch
from slideduck.runner.networks.transformers_nets import Pixels, inner_hf, is_rgb, load_hf, read_pixels
from slideduck.words import counted

__all__ = ["Weights", "load_pretrained", "load_weights", "read_weights"]

#: Entries under which training programs keep the weights of a network.
_NESTED = ("state_dict", "model", "teacher", "model_state_dict")

#: What wrappers put before the names of weights.
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.")


@dataclass(frozen=True)
class Weights:
    """Weights that were read.

    Attributes
    ----------
    path : Path
        The file or folder that the user named.
    tensors : mapping
        By name.
    pixels : dict or None
        ``mean`` and ``std`` of the input that they were trained on, 0 to 255, where that is known.
    """

    path: Path
    tensors: Mapping[str, torch.Tensor]
    pixels: Pixels | None


def read_weights(path: Path) -> Weights:
    """Read weights without running any code in the file.

    Parameters
    ----------
    path : Path
        A file of safetensors (``.safetensors``) or torch (``.pt``, ``.pth``, ``.bin``, ...), a folder that
        holds ``model.safetensors`` (perhaps in several parts) or ``pytorch_model.bin``, or a run's folder,
        whose ``best.pt`` is taken.

    Raises
    ------
    ConfigError
        If there are none, or they cannot be read.
    """
    if not path.exists():
        raise ConfigError(f"weights: there is no {path}; give a file, or a folder with model.safetensors or a run")
    if path.is_file():
        return _of_file(path, path)
    if (path / "best.pt").is_file():
        return _of_file(path, path / "best.pt")
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            outside = [part for part in parts if Path(part).name != part]
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise ConfigError(f"weights: {index} cannot be read: {type(error).__name__}: {error}") from error
        if outside:
            raise ConfigError(f"weights: {index} names {outside[0]!r}, which is no file of its folder; get it again")
        tensors: dict[str, torch.Tensor] = {}
        for part in parts:
            tensors |= _of_file(path, path / part).tensors
        return Weights(path, tensors, read_pixels(path))
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return Weights(path, _of_file(path, path / name).tensors, read_pixels(path))
    raise ConfigError(
        f"weights: the folder {path} has none of best.pt, model.safetensors, model.safetensors.index.json and "
        "pytorch_model.bin; name the file itself"
    )


def _of_file(named: Path, file: Path) -> Weights:
    """Read one file."""
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(file)
        else:
            content = read_torch(file)
    except FileNotFoundError:
        raise ConfigError(f"weights: there is no {file}, of which {named} is made; get it as well") from None
    except FileRefused as error:
        raise ConfigError(
            f"weights: {file}: {error}; give a file of safetensors, which holds tensors alone: "
            "safetensors.torch.save_file(network.state_dict(), FILE) writes one"
        ) from error
    except Exception as error:  # the reader of safetensors raises whatever its parts do
        text = str(error).splitlines()
        raise ConfigError(
            f"weights: {file} cannot be read: {type(error).__name__}: {text[0] if text else 'no reason given'}; "
            "get the file again"
        ) from error
    pixels = _pixels_of_run(content)
    for key in _NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    tensors = {
        name: value for name, value in (content.items() if isinstance(content, dict) else ()) if torch.is_tensor(value)
    }
    if not tensors:
        raise ConfigError(f"weights: {file} holds no tensors by name; give what state_dict() of a network returns")
    _refuse_unusable(file, tensors)
    return Weights(named, tensors, pixels)


def _pixels_of_run(content: Any) -> Pixels | None:
    """Return mean and deviation of the input, where a file is a checkpoint of ours that says so."""
    image = content.get("image") if isinstance(content, dict) and "config" in content else None
    mean, std = (image.get("mean"), image.get("std")) if isinstance(image, dict) else (None, None)
    return {"mean": list(mean), "std": list(std)} if is_rgb(mean) and is_rgb(std) else None


def _refuse_unusable(file: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors that hold less than they claim, or numbers that are not finite."""
    for name, tensor in tensors.items():
        held = tensor.untyped_storage().nbytes()
        if tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > held:
            raise ConfigError(
                f"weights: {file}: {name} claims {tensor.numel():,} numbers and the file holds {held:,} bytes of them; "
                "get the file again"
            )
        if tensor.dtype.is_floating_point and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise ConfigError(
                f"weights: {file}: {name} has {counted(bad, 'number')} that {'is' if bad == 1 else 'are'} not finite; "
                "get the file again, or other weights"
            )


def load_weights(network: nn.Module, weights: Weights, model: str) -> list[str]:
    """Load weights into a network, whose head may have other outputs.

    Parameters
    ----------
    network : nn.Module
        Changed in place.
    weights : Weights
        What was read.
    model : str
        For messages.

    Returns
    -------
    list of str
        What is to be told: what was taken, what starts anew and what is not used.

    Raises
    ------
    ConfigError
        If a shape outside of the head differs, or nothing fits.
    """
    head = head_of(network)
    own = network.state_dict()
    tensors = _named_as(weights.tensors, own)
    inner = inner_hf(network)
    body = {name for name in own if not _is_of(name, head)}
    if inner is not None and not body <= set(tensors):
        return _judge(network, str(weights.path), model, **_load_hf(network, weights=weights.tensors))
    mismatched = [
        f"{name} {_shape(tensors[name])} there, {_shape(own[name])} here"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    mismatched += [
        f"{name} of {_kind(tensors[name])} there, of {_kind(own[name])} here"
        for name in own
        if name in tensors and tensors[name].shape == own[name].shape and _kind(tensors[name]) != _kind(own[name])
    ]
    fitting = {name: value for name, value in tensors.items() if name in own and value.shape == own[name].shape}
    missing = [name for name in own if name not in tensors]
    unexpected = [name for name in tensors if name not in own]
    told = _judge(network, str(weights.path), model, missing, unexpected, mismatched)
    network.load_state_dict(fitting, strict=False)
    return told


def load_pretrained(network: nn.Module, folder: str, model: str) -> list[str]:
    """Load the weights of a folder or hub name into a network of transformers; see `load_weights`."""
    return _judge(network, folder, model, **_load_hf(network, folder=folder))


def _load_hf(network: nn.Module, **source: Any) -> dict[str, list[str]]:
    """Load weights by transformers, and return its problems under the names of the whole network."""
    report = load_hf(network, **source)
    if inner_hf(network) is network:
        return report
    report = {key: [f"backbone.{name}" for name in names] for key, names in report.items()}
    report["missing"] += [name for name in network.state_dict() if not name.startswith("backbone.")]
    return report


def _judge(
    network: nn.Module, source: str, model: str, missing: list[str], unexpected: list[str], mismatched: list[str]
) -> list[str]:
    """Return what the user should know of weights that were loaded, or refuse them."""
    head = head_of(network)
    names = list(network.state_dict())
    body = [name for name in names if not _is_of(name, head)]
    wrong = [text for text in mismatched if not _is_of(text, head)]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ConfigError(f"weights {source} do not fit model {model!r}: {'; '.join(wrong[:3])}{more}")
    lacking = [name for name in missing if not _is_of(name, head)]
    if len(lacking) >= len(body):
        raise ConfigError(
            f"weights {source} do not fit model {model!r}: none of its {len(body)} tensors is among them; "
            f"they have {_some(unexpected)}, the model {_some(body)}"
        )
    new_head = len(mismatched) > len(wrong) or any(_is_of(name, head) for name in missing)
    told = [f"weights of {source}: {len(body) - len(lacking)} of {len(body)} tensors of the backbone are taken"]
    told[0] += ", the head starts anew" if new_head else ", and the head"
    if lacking:
        told.append(f"warning: the weights lack {_some(lacking)}: these start anew")
    # A head or a pooler that the model does not have is what fine-tuning leaves behind.
    unused = [name for name in unexpected if not re.search(r"(^|\.)(classifier|head|fc|pooler)\.", name)]
    if unused:
        told.append(f"warning: the model has no place for {_some(unused)} of the weights")
    return told


def _named_as(tensors: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Return weights under the names of the network's, where these differ by what a wrapper puts before them."""
    candidates: list[dict[str, torch.Tensor]] = [dict(tensors)]
    candidates += [{name.removeprefix(prefix): value for name, value in tensors.items()} for prefix in _PREFIXES]
    candidates.append({f"backbone.{name}": value for name, value in tensors.items()})
    # The first of the best: as they are, where that does as well.
    return max(candidates, key=lambda named: len(named.keys() & own.keys()))


def _is_of(name: str, module: str) -> bool:
    """Return True if a name, or the text that starts with it, is of a module."""
    return name == module or name.startswith(module + ".")


def _some(names: list[str]) -> str:
    """Return a few names and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more if names else "nothing"


def _kind(tensor: torch.Tensor) -> str:
    """Return what the numbers of a tensor are, in words."""
    if tensor.is_complex():
        return "complex numbers"
    return "numbers" if tensor.is_floating_point() else "whole numbers"


def _shape(tensor: torch.Tensor) -> str:
    """Return a shape as text."""
    return " x ".join(map(str, tensor.shape)) or "a number"
