"""Weights under the names of torchvision, timm and the networks' own authors, as transformers names them.

The names are those that transformers' own files have; transformers takes them in any of its versions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["Layout", "layouts", "resampled", "translate"]

_Rule = tuple[str, str | Callable[[re.Match[str]], str]]


@dataclass(frozen=True)
class Layout:
    """How a program names the weights of a kind of network.

    Attributes
    ----------
    whose : str
        Who names them so, in words.
    kinds : tuple of str
        ``model_type`` of the networks of transformers that they are.
    marks : tuple of str
        Names that tell the layout.
    rules : tuple
        Patterns of whole names, and what takes their place; names of the head become ``classifier.*``.
    """

    whose: str
    kinds: tuple[str, ...]
    marks: tuple[str, ...]
    rules: tuple[_Rule, ...]

    def has(self, name: str) -> bool:
        """Return True for a name of the layout."""
        return any(re.fullmatch(pattern, _FUSED.sub(r"query.\1", name)) for pattern, _ in self.rules)


#: The ends of names of query, key and value in one tensor.
_FUSED = re.compile(r"(?:qkv\.|in_proj_)(weight|bias)$")

#: The ends of names of what Swin computes from its settings.
_DERIVED = ("relative_position_index", "attn_mask")


def _stage(match: re.Match[str]) -> str:
    """Return the place of a layer in a ResNet, whose stages are counted from 1 there and from 0 here."""
    stage, block, rest = int(match[1]) - 1, match[2], match[3]
    inner = re.fullmatch(r"(conv|bn)(\d)\.(.*)", rest)
    part = {"conv": "convolution", "bn": "normalization", "0": "convolution", "1": "normalization"}
    if inner:
        return f"encoder.stages.{stage}.layers.{block}.layer.{int(inner[2]) - 1}.{part[inner[1]]}.{inner[3]}"
    number, tail = rest.removeprefix("downsample.").split(".", 1)
    return f"encoder.stages.{stage}.layers.{block}.shortcut.{part[number]}.{tail}"


def _next_stage(match: re.Match[str]) -> str:
    """Return the place of a down-sampling in Swin: at the end of a stage here, at the start of the next in timm."""
    return f"encoder.layers.{int(match[1]) - 1}.downsample.{match[2]}"


_RESNET: tuple[_Rule, ...] = (
    (r"conv1\.(.*)", r"embedder.embedder.convolution.\1"),
    (r"bn1\.(.*)", r"embedder.embedder.normalization.\1"),
    (r"layer(\d)\.(\d+)\.((?:conv|bn)\d\..*|downsample\.[01]\..*)", _stage),
    (r"fc\.(.*)", r"classifier.1.\1"),
)
_TOKENS: tuple[_Rule, ...] = (
    (r"cls_token|class_token", "embeddings.cls_token"),
    (r"(?:encoder\.)?pos_embed(?:ding)?", "embeddings.position_embeddings"),
    (r"mask_token", "embeddings.mask_token"),
    (r"reg_token|register_tokens", "embeddings.register_tokens"),
    (r"(?:patch_embed\.proj|conv_proj)\.(.*)", r"embeddings.patch_embeddings.projection.\1"),
    (r"(?:norm|encoder\.ln)\.(.*)", r"layernorm.\1"),
    (r"(?:head|heads\.head)\.(.*)", r"classifier.\1"),
)
_ATTENTION: tuple[_Rule, ...] = (
    (r"blocks\.(\d+)\.attn\.(query|key|value)\.(.*)", r"encoder.layer.\1.attention.attention.\2.\3"),
    (r"blocks\.(\d+)\.attn\.proj\.(.*)", r"encoder.layer.\1.attention.output.dense.\2"),
)
_BLOCK = r"encoder\.layers\.encoder_layer_(\d+)\."
_SWIN_BLOCK, _SWIN_OWN = r"layers\.(\d+)\.blocks\.(\d+)\.", r"encoder.layers.\1.blocks.\2."
_CONVNEXT_BLOCK, _CONVNEXT_OWN = r"stages\.(\d+)\.(?:blocks\.)?(\d+)\.", r"encoder.stages.\1.layers.\2."
_SWIN: tuple[_Rule, ...] = (
    (r"patch_embed\.proj\.(.*)", r"embeddings.patch_embeddings.projection.\1"),
    (r"patch_embed\.norm\.(.*)", r"embeddings.norm.\1"),
    (_SWIN_BLOCK + r"attn\.(query|key|value)\.(.*)", _SWIN_OWN + r"attention.self.\3.\4"),
    (_SWIN_BLOCK + r"attn\.relative_position_bias_table", _SWIN_OWN + "attention.self.relative_position_bias_table"),
    (_SWIN_BLOCK + r"attn\.proj\.(.*)", _SWIN_OWN + r"attention.output.dense.\3"),
    (_SWIN_BLOCK + r"norm1\.(.*)", _SWIN_OWN + r"layernorm_before.\3"),
    (_SWIN_BLOCK + r"norm2\.(.*)", _SWIN_OWN + r"layernorm_after.\3"),
    (_SWIN_BLOCK + r"mlp\.fc1\.(.*)", _SWIN_OWN + r"intermediate.dense.\3"),
    (_SWIN_BLOCK + r"mlp\.fc2\.(.*)", _SWIN_OWN + r"output.dense.\3"),
    (r"norm\.(.*)", r"layernorm.\1"),
    (r"head\.(?:fc\.)?(.*)", r"classifier.\1"),
)

_LAYOUTS = (
    Layout("torchvision or timm", ("resnet",), ("conv1.weight", "layer1.0.conv1.weight"), _RESNET),
    Layout(
        "timm",
        ("vit",),
        ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"),
        (
            *_TOKENS,
            *_ATTENTION,
            (r"blocks\.(\d+)\.norm1\.(.*)", r"encoder.layer.\1.layernorm_before.\2"),
            (r"blocks\.(\d+)\.norm2\.(.*)", r"encoder.layer.\1.layernorm_after.\2"),
            (r"blocks\.(\d+)\.mlp\.fc1\.(.*)", r"encoder.layer.\1.intermediate.dense.\2"),
            (r"blocks\.(\d+)\.mlp\.fc2\.(.*)", r"encoder.layer.\1.output.dense.\2"),
        ),
    ),
    Layout(
        "timm",
        ("dinov2", "dinov2_with_registers"),
        ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"),
        (
            *_TOKENS,
            *_ATTENTION,
            (r"blocks\.(\d+)\.ls([12])\.gamma", r"encoder.layer.\1.layer_scale\2.lambda1"),
            (r"blocks\.(\d+)\.(norm[12]|mlp\.fc[12])\.(.*)", r"encoder.layer.\1.\2.\3"),
            (r"blocks\.(\d+)\.mlp\.w12\.(.*)", r"encoder.layer.\1.mlp.weights_in.\2"),
            (r"blocks\.(\d+)\.mlp\.w3\.(.*)", r"encoder.layer.\1.mlp.weights_out.\2"),
        ),
    ),
    Layout(
        "torchvision",
        ("vit",),
        ("conv_proj.weight", "encoder.layers.encoder_layer_0.self_attention.in_proj_weight"),
        (
            *_TOKENS,
            (_BLOCK + r"self_attention\.(query|key|value)\.(.*)", r"encoder.layer.\1.attention.attention.\2.\3"),
            (_BLOCK + r"self_attention\.out_proj\.(.*)", r"encoder.layer.\1.attention.output.dense.\2"),
            (_BLOCK + r"ln_1\.(.*)", r"encoder.layer.\1.layernorm_before.\2"),
            (_BLOCK + r"ln_2\.(.*)", r"encoder.layer.\1.layernorm_after.\2"),
            (_BLOCK + r"mlp\.(?:0|linear_1)\.(.*)", r"encoder.layer.\1.intermediate.dense.\2"),
            (_BLOCK + r"mlp\.(?:3|linear_2)\.(.*)", r"encoder.layer.\1.output.dense.\2"),
        ),
    ),
    # Its authors' down-sampling ends a stage; timm's begins the next one.
    Layout(
        "Swin's authors",
        ("swin",),
        ("patch_embed.proj.weight", "layers.0.blocks.0.attn.qkv.weight", "layers.0.downsample.reduction.weight"),
        (*_SWIN, (r"layers\.(\d+)\.downsample\.(.*)", r"encoder.layers.\1.downsample.\2")),
    ),
    Layout(
        "timm",
        ("swin",),
        ("patch_embed.proj.weight", "layers.0.blocks.0.attn.qkv.weight", "layers.1.downsample.reduction.weight"),
        (*_SWIN, (r"layers\.(\d+)\.downsample\.(.*)", _next_stage)),
    ),
    Layout(
        "timm",
        ("convnext",),
        ("stem.0.weight", "stages.0.blocks.0.conv_dw.weight"),
        (
            (r"stem\.0\.(.*)", r"embeddings.patch_embeddings.\1"),
            (r"stem\.1\.(.*)", r"embeddings.layernorm.\1"),
            (r"stages\.(\d+)\.downsample\.(.*)", r"encoder.stages.\1.downsampling_layer.\2"),
            (_CONVNEXT_BLOCK + r"conv_dw\.(.*)", _CONVNEXT_OWN + r"dwconv.\3"),
            (_CONVNEXT_BLOCK + r"norm\.(.*)", _CONVNEXT_OWN + r"layernorm.\3"),
            (_CONVNEXT_BLOCK + r"mlp\.fc([12])\.(.*)", _CONVNEXT_OWN + r"pwconv\3.\4"),
            (_CONVNEXT_BLOCK + r"gamma", _CONVNEXT_OWN + "layer_scale_parameter"),
            (r"head\.norm\.(.*)", r"layernorm.\1"),
            (r"head\.fc\.(.*)", r"classifier.\1"),
        ),
    ),
    Layout(
        "ConvNeXt's authors",
        ("convnext",),
        ("downsample_layers.0.0.weight", "stages.0.0.dwconv.weight"),
        (
            (r"downsample_layers\.0\.0\.(.*)", r"embeddings.patch_embeddings.\1"),
            (r"downsample_layers\.0\.1\.(.*)", r"embeddings.layernorm.\1"),
            (r"downsample_layers\.(\d+)\.(.*)", r"encoder.stages.\1.downsampling_layer.\2"),
            (_CONVNEXT_BLOCK + r"(dwconv|pwconv[12])\.(.*)", _CONVNEXT_OWN + r"\3.\4"),
            (_CONVNEXT_BLOCK + r"norm\.(.*)", _CONVNEXT_OWN + r"layernorm.\3"),
            (_CONVNEXT_BLOCK + r"gamma", _CONVNEXT_OWN + "layer_scale_parameter"),
            (r"norm\.(.*)", r"layernorm.\1"),
            (r"head\.(.*)", r"classifier.\1"),
        ),
    ),
)


def layouts(names: Mapping[str, torch.Tensor], kind: str) -> Iterator[tuple[Layout, str]]:
    """Yield the layouts of a kind of network that names have, with what stands before these.

    Parameters
    ----------
    names : mapping
        Tensors by name.
    kind : str
        ``model_type`` of a network of transformers.
    """
    for layout in _LAYOUTS:
        if kind in layout.kinds:
            first, *others = layout.marks
            prefixes = [name.removesuffix(first) for name in names if name == first or name.endswith("." + first)]
            yield from ((layout, one) for one in prefixes if all(one + other in names for other in others))


def translate(tensors: Mapping[str, torch.Tensor], layout: Layout, base: str) -> dict[str, torch.Tensor]:
    """Return weights under the names of transformers.

    Parameters
    ----------
    tensors : mapping
        Under the names of the layout; other names stay as they are.
    layout : Layout
        See `layouts`.
    base : str
        What transformers puts before the names of the backbone, such as ``"vit."``.
    """
    translated = {}
    for name, tensor in _split(tensors):
        if name.endswith(_DERIVED):
            continue
        own = next((made for pattern, to in layout.rules if (made := _renamed(pattern, to, name))), None)
        if own is None:
            translated[name] = tensor
        else:
            translated[own if own.startswith("classifier.") else base + own] = tensor
    _shape_tokens(translated, base)
    return translated


def _renamed(pattern: str, to: str | Callable[[re.Match[str]], str], name: str) -> str | None:
    """Return the name by a rule, None where the rule is for others."""
    match = re.fullmatch(pattern, name)
    if match is None:
        return None
    return match.expand(to) if isinstance(to, str) else to(match)


def _split(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield names and tensors, with query, key and value apart."""
    for name, tensor in tensors.items():
        if not _FUSED.search(name) or not tensor.ndim or len(tensor) % 3:
            yield name, tensor
        else:
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            yield from ((_FUSED.sub(rf"{part}.\1", name), value.clone()) for part, value in parts)


def _shape_tokens(tensors: dict[str, torch.Tensor], base: str) -> None:
    """Give embeddings of positions a first one for the class token, where timm has none for that and for registers."""
    positions, registers = (f"{base}embeddings.{name}" for name in ("position_embeddings", "register_tokens"))
    if positions in tensors and registers in tensors and _side(tensors[positions], 0):
        tensors[positions] = nn.functional.pad(tensors[positions], (0, 0, 1, 0))


def _side(positions: torch.Tensor, prefix: int) -> int:
    """Return the patches on a side of embeddings of positions, (1, tokens, features); 0 where they make no square."""
    patches = positions.shape[1] - prefix if positions.ndim == 3 else -1
    side = round(max(patches, 0) ** 0.5)
    return side if side * side == patches else 0


def resampled(positions: torch.Tensor, own: torch.Tensor) -> tuple[torch.Tensor, str] | None:
    """Return embeddings of positions for another grid of patches, as timm makes them.

    Parameters
    ----------
    positions : torch.Tensor
        Those of the weights, (1, tokens, features).
    own : torch.Tensor
        Those of the network, of another number of tokens.

    Returns
    -------
    tuple or None
        The embeddings, and in words from what to what; None where they are not of two square grids.
    """
    if positions.ndim != 3 or own.ndim != 3 or positions.shape[2] != own.shape[2]:
        return None
    for prefix in (1, 0):
        before, after = _side(positions, prefix), _side(own, prefix)
        if before and after:
            grid = positions[:, prefix:].float().reshape(1, before, before, -1).permute(0, 3, 1, 2)
            grid = nn.functional.interpolate(grid, (after, after), mode="bicubic", antialias=True, align_corners=False)
            patches = grid.permute(0, 2, 3, 1).reshape(1, after * after, -1).to(positions.dtype)
            return torch.cat([positions[:, :prefix], patches], dim=1), f"{before} x {before} to {after} x {after}"
    return None
