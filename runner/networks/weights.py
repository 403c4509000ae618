"""Weights to start from: files of torch and safetensors, folders of transformers, and runs of ours."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slideduck.errors import ConfigError
from slideduck.runner.networks.finding import Found, find, flat, under
from slideduck.runner.networks.heads import PooledNetwork
from slideduck.runner.networks.layers import head_of
from slideduck.runner.networks.published import resampled, translate
from slideduck.runner.networks.torchfile import FileRefused, read_torch
from slideduck.runner.networks.transformers_nets import Pixels, inner_hf, is_rgb, load_hf, read_pixels
from slideduck.words import counted

__all__ = ["Weights", "load_pretrained", "load_weights", "read_weights"]

#: What may lack: counters, which only an average over all batches reads, and a token of pretraining.
_MAY_LACK = ("num_batches_tracked", "mask_token")

#: What networks call their embeddings of positions.
_POSITIONS = ("position_embeddings", "pos_embed")

#: What they call tokens that stand for no place.
_REGISTERS = ("register_tokens", "reg_token")


@dataclass(frozen=True)
class Weights:
    """Weights that were read.

    Attributes
    ----------
    path : Path
        The file or folder that the user named, and behind a ``#`` which of its weights, where it has several.
    tensors : mapping
        By name; behind the keys of the dictionaries that they are in, joined by points.
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
        whose ``best.pt`` is taken. Behind a ``#`` may stand the key, or what the names begin with, of the weights
        that are meant: ``checkpoint.pth#teacher``.

    Raises
    ------
    ConfigError
        If there are none, or they cannot be read.
    """
    if not path.exists() and "#" in path.name:
        name, _, place = path.name.rpartition("#")
        return _at(read_weights(path.with_name(name)), path, place)
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
            content = read_torch(file, published=True)
    except FileNotFoundError:
        raise ConfigError(f"weights: there is no {file}, of which {named} is made; get it as well") from None
    except FileRefused as error:
        raise ConfigError(f"weights: {file}: {error}; {_remedy(file, error)}") from error
    except Exception as error:  # the reader of safetensors raises whatever its parts do
        text = str(error).splitlines()
        raise ConfigError(
            f"weights: {file} cannot be read: {type(error).__name__}: {text[0] if text else 'no reason given'}; "
            "get the file again"
        ) from error
    pixels = _pixels_of_run(content)
    if isinstance(content, dict) and "config" in content and isinstance(content.get("model"), dict):
        content = content["model"]  # Of a run of ours: not what it keeps beside to go on.
    tensors = flat(content)
    if not tensors:
        raise ConfigError(f"weights: {file} holds no tensors by name; give what state_dict() of a network returns")
    _refuse_unusable(file, tensors)
    return Weights(named, tensors, pixels)


def _remedy(file: Path, error: FileRefused) -> str:
    """Return what to do about a file that is not read."""
    if not error.is_code:
        return (
            "give a file of safetensors, which holds tensors alone: safetensors.torch.save_file(network.state_dict(), "
            "FILE) writes one"
        )
    return (
        "if you trust who made it, save its tensors alone where its own code is installed, with these three lines "
        "(the last for the key under which it has them), and give weights.pt:\n"
        "  import torch\n"
        f"  content = torch.load({str(file)!r}, map_location='cpu', weights_only=False)\n"
        "  torch.save(content.state_dict() if hasattr(content, 'state_dict') else content['state_dict'], 'weights.pt')"
    )


def _at(weights: Weights, named: Path, place: str) -> Weights:
    """Return the weights at a place in a file: a key, or what names begin with."""
    prefix = place.removesuffix(".") + "."
    tensors = under(weights.tensors, prefix)
    if not tensors:
        firsts = sorted({name.partition(".")[0] for name in weights.tensors})
        raise ConfigError(f"weights: {weights.path} has nothing at {place!r}; its names begin with {_some(firsts)}")
    return Weights(named, tensors, weights.pixels)


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
    source = str(weights.path)
    head, own, inner = head_of(network), network.state_dict(), inner_hf(network)
    found = find(weights.tensors, own, kind=_kind_of(inner), base=_base_of(network), source=source)
    tensors = _named_as(found, network)
    _refuse_registers(tensors, own, source, model)
    notes = _resample(tensors, own)
    judge = partial(_judge, network, source, model, place=_place(found))
    body = {name for name in own if not _is_of(name, head)}
    if inner is not None and not body <= set(tensors):
        return [*judge(_load_hf(network, weights=tensors)), *notes]
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
    told = judge({"missing": missing, "unexpected": unexpected, "mismatched": mismatched})
    network.load_state_dict(fitting, strict=False)
    return [*told, *notes]


def load_pretrained(network: nn.Module, folder: str, model: str) -> list[str]:
    """Load the weights of a folder or hub name into a network of transformers; see `load_weights`."""
    return _judge(network, folder, model, _load_hf(network, folder=folder))


def _load_hf(network: nn.Module, **source: Any) -> dict[str, list[str]]:
    """Load weights by transformers, and return its problems under the names of the whole network."""
    report = load_hf(network, **source)
    if inner_hf(network) is network:
        return report
    report = {key: [f"backbone.{name}" for name in names] for key, names in report.items()}
    report["missing"] += [name for name in network.state_dict() if not name.startswith("backbone.")]
    return report


def _judge(
    network: nn.Module,
    source: str,
    model: str,
    report: Mapping[str, list[str]],
    place: str = "",
) -> list[str]:
    """Return what the user should know of weights that were loaded, or refuse them."""
    missing, unexpected, mismatched = (report[key] for key in ("missing", "unexpected", "mismatched"))
    head = head_of(network)
    lacking = [name for name in missing if not _is_of(name, head)]
    idle = {name for name in lacking if name.endswith(_MAY_LACK)}
    lacking = [name for name in lacking if name not in idle]
    body = [name for name in network.state_dict() if not _is_of(name, head) and name not in idle]
    wrong = [text for text in mismatched if not _is_of(text, head)]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ConfigError(f"weights {source} do not fit model {model!r}: {'; '.join(wrong[:3])}{more}")
    if len(lacking) >= len(body):
        raise ConfigError(
            f"weights {source} do not fit model {model!r}: none of its {len(body)} tensors is among them; "
            f"they have {_some(unexpected)}, the model {_some(body)}"
        )
    told = [f"weights of {source}{place}: {len(body) - len(lacking)} of {len(body)} tensors of the backbone are taken"]
    others = [text for text in mismatched if _is_of(text, head)]
    if others:
        told[0] += f", the head starts anew ({_outputs(others[0])})"
    else:
        told[0] += ", the head starts anew" if any(_is_of(name, head) for name in missing) else ", and the head"
    if lacking:
        told.append(f"warning: the weights lack {_some(lacking)}: these start anew")
    # A head or a pooler that the model does not have is what fine-tuning leaves behind.
    unused = [name for name in unexpected if not re.search(r"(^|\.)(classifier|head|fc|pooler)\.", name)]
    if unused:
        told.append(f"warning: the model has no place for {_some(unused)} of the weights")
    return told


def _outputs(text: str) -> str:
    """Return the outputs of two heads of which a tensor differs, or what differs otherwise."""
    sizes = re.search(r" (\d+)(?: x [\d x]+)? there, (\d+)", text)
    return f"{sizes[1]} outputs there, {sizes[2]} here" if sizes and sizes[1] != sizes[2] else text


def _kind_of(inner: Any | None) -> str:
    """Return the kind of a network of transformers, empty for others."""
    return str(inner.config.model_type) if inner is not None else ""


def _base_of(network: nn.Module) -> str:
    """Return what stands before the names of a network's backbone, and may lack in a file."""
    if isinstance(network, PooledNetwork):
        return "backbone."
    inner = inner_hf(network)
    return f"{inner.base_model_prefix}." if inner is not None else ""


def _named_as(found: Found, network: nn.Module) -> dict[str, torch.Tensor]:
    """Return weights under the network's names, or those that transformers turns into them."""
    inner, own, base = inner_hf(network), network.state_dict(), _base_of(network)
    if inner is None:
        # Of a backbone alone.
        return {
            base + name if name not in own and base + name in own else name: tensor
            for name, tensor in found.tensors.items()
        }
    if found.layout is None:
        return dict(found.tensors)
    return translate(found.tensors, found.layout, f"{inner.base_model_prefix}.")


def _place(found: Found) -> str:
    """Return in words where in a file weights are, and whose names they have."""
    behind = f", behind {found.prefix.removesuffix('.')!r}" if found.prefix else ""
    return behind + (f", in the names of {found.layout.whose}" if found.layout else "")


def _refuse_registers(
    tensors: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], source: str, model: str
) -> None:
    """Refuse weights of a network with register tokens for one without: it would compute something else."""
    theirs = [tensor for name, tensor in tensors.items() if name.endswith(_REGISTERS)]
    if theirs and not any(name.endswith(_REGISTERS) for name in own):
        raise ConfigError(
            f"weights {source} do not fit model {model!r}: they are of a network with {theirs[0].shape[-2]} register "
            "tokens, and it has none; give weights without registers, or their own network, such as "
            "timm:vit_small_patch14_reg4_dinov2"
        )


def _resample(tensors: dict[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> list[str]:
    """Make embeddings of positions fit the network's grid of patches, and return what is to be told of it."""
    theirs = [name for name in tensors if name.endswith(_POSITIONS)]
    ours = [name for name in own if name.endswith(_POSITIONS)]
    if len(theirs) != 1 or len(ours) != 1 or tensors[theirs[0]].shape == own[ours[0]].shape:
        return []
    made = resampled(tensors[theirs[0]], own[ours[0]])
    if made is None:
        return []
    tensors[theirs[0]], words = made
    return [f"their embeddings of positions are resampled: {words} patches"]


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
