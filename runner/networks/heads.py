"""Wraps a library's network, so that it takes tiles of any size and a head gives the outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["FitInput", "PooledNetwork"]


class PooledNetwork(nn.Module):
    """A backbone that gives tokens or features, and a linear head on them.

    Parameters
    ----------
    backbone : nn.Module
        Takes tiles, (batch, 3, height, width), and returns features (batch, n), tokens (batch, tokens, n),
        a map (batch, n, height, width), or an object that has one of them as ``last_hidden_state``.
    width : int
        Number of features, n.
    n_outputs : int
        Outputs of the head.
    pooling : {"cls", "cls+mean", "mean"}
        What is taken of tokens: the first, that and the mean of the patches, or the mean of the patches.
    prefix_tokens : int
        Tokens that come before those of patches.
    """

    def __init__(
        self, backbone: nn.Module, width: int, n_outputs: int, *, pooling: str = "cls", prefix_tokens: int = 1
    ) -> None:
        super().__init__()
        self.pooling, self.prefix_tokens = pooling, prefix_tokens
        self.backbone = backbone
        self.head = nn.Linear(2 * width if pooling == "cls+mean" else width, n_outputs)

    def features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the features that the head sees, (batch, n) or (batch, 2 n)."""
        output = self.backbone(images_BCHW)
        tokens: torch.Tensor = output if isinstance(output, torch.Tensor) else output.last_hidden_state
        if tokens.ndim == 2:
            return tokens
        if tokens.ndim == 4:
            return tokens.mean(dim=(2, 3))
        first, patches = tokens[:, 0], tokens[:, self.prefix_tokens :].mean(dim=1)
        if self.pooling == "cls+mean":
            return torch.cat([first, patches], dim=1)
        return first if self.pooling == "cls" else patches

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the outputs, (batch, n_outputs)."""
        outputs: torch.Tensor = self.head(self.features(images_BCHW))
        return outputs


class FitInput:
    """Makes tiles fit a network, on the device, before its forward; a hook, so that names of weights stay.

    Parameters
    ----------
    input_px : int
        Side that tiles are resized to (bicubic, anti-aliased); 0 leaves them as they are.
    patch_px : int
        Where the side is no multiple of it, tiles are resized to the nearest multiple.
    least_px : int
        Smaller tiles are enlarged to it.
    interpolates : bool
        Ask the network to interpolate its embeddings of positions to the side.
    """

    def __init__(self, input_px: int = 0, patch_px: int = 1, *, least_px: int = 0, interpolates: bool = False) -> None:
        self.input_px, self.patch_px, self.least_px = input_px, patch_px, least_px
        self.interpolates = interpolates

    @property
    def changes(self) -> bool:
        """True if any tile is changed."""
        return self.input_px > 0 or self.patch_px > 1 or self.least_px > 0 or self.interpolates

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the arguments that the network is called with."""
        images_BCHW, *rest = args
        side = images_BCHW.shape[-1]
        fitted = self.side(side)
        if fitted != side:
            images_BCHW = nn.functional.interpolate(
                images_BCHW, (fitted, fitted), mode="bicubic", antialias=True, align_corners=False
            )
        if self.interpolates:
            kwargs = {**kwargs, "interpolate_pos_encoding": True}
        return (images_BCHW, *rest), kwargs

    def side(self, tile_px: int) -> int:
        """Return the side, in pixels, that the network sees of tiles of `tile_px`."""
        side = max(self.input_px or tile_px, self.least_px)
        return max(round(side / self.patch_px), 1) * self.patch_px
