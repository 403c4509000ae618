"""The penultimate layer of a network: the input of the last linear layer, which makes the logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from slideduck.errors import RunError
from slideduck.runner.networks.forward import logits_of

__all__ = ["penultimate"]


class _Heads:
    """The linear layers that ran in one call of a network, in their order, with their inputs."""

    def __init__(self) -> None:
        self.ran: list[tuple[torch.Tensor, torch.Tensor]] = []

    def hook(self, _layer: nn.Module, given: tuple[Any, ...], made: torch.Tensor) -> None:
        """Keep inputs of one vector a tile: only the last layers have those; others have a grid or tokens."""
        if given and isinstance(given[0], torch.Tensor) and given[0].ndim == 2:
            self.ran.append((given[0], made))


@contextmanager
def _watching(network: nn.Module) -> Iterator[_Heads]:
    """Watch the linear layers of a network within a block."""
    heads = _Heads()
    handles = [layer.register_forward_hook(heads.hook) for layer in network.modules() if isinstance(layer, nn.Linear)]
    try:
        yield heads
    finally:
        for handle in handles:
            handle.remove()


def penultimate(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the input of the last linear layer of a network.

    Parameters
    ----------
    network : torch.nn.Module
        Takes standardised tiles and returns logits, or an object with them as ``logits``.
    images : torch.Tensor of float, (batch, 3, height, width)
        Standardised tiles.

    Returns
    -------
    torch.Tensor of float32, (batch, features)
        Of the layer whose output the logits are; where a network does something more with them, of the last
        linear layer that runs.

    Raises
    ------
    RunError
        If no linear layer gets one vector a tile.
    """
    with _watching(network) as heads:
        logits = logits_of(network(images))
    found = [given for given, made in heads.ran if made is logits] or [given for given, _ in heads.ran[-1:]]
    if not found or len(found[-1]) != len(images):
        raise RunError(
            f"{type(network).__name__} has no last linear layer (torch.nn.Linear) that takes one vector a tile, and "
            "so no features; build the network so that it ends in one"
        )
    return found[-1].float()
