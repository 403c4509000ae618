"""Dropout that stays on in prediction, with a mask of its own for each tile (Monte Carlo dropout).

Gal and Ghahramani, Dropout as a Bayesian approximation, 2016. A mask is a function of the tile's key, the pass, the
layer and the place in it, so that neither the batch nor the device that a tile is predicted on changes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from slideduck.errors import RunError

__all__ = ["dropout_layers", "dropping", "tile_keys"]

_OF_CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)

#: Layers that one pass has at most.
_LAYERS = 1 << 20


def _signed(number: int) -> int:
    """Return the lowest 64 bits of a number as torch's int64 holds them."""
    number %= 1 << 64
    return number - (1 << 64) if number >= 1 << 63 else number


# Of splitmix64: Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014.
_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))


def dropout_layers(network: nn.Module) -> list[nn.Module]:
    """Return the layers of a network that drop something in training; functions within attention are none."""
    kinds = (nn.Dropout, *_OF_CHANNELS)
    return [layer for layer in network.modules() if isinstance(layer, kinds) and layer.p > 0]


def tile_keys(tile_ids: Sequence[str], seed: int, device: torch.device) -> torch.Tensor:
    """Return a number for each tile, int64 (batch,), that depends on its name and the seed alone."""
    digests = [hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest() for name in tile_ids]
    keys = [int.from_bytes(digest, "little", signed=True) for digest in digests]
    return torch.tensor(keys, dtype=torch.int64, device=device)


def _shifted(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """Return 64-bit numbers shifted to the right, with zeros coming in: int64 would bring in its sign."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)


def _mixed(numbers: torch.Tensor) -> torch.Tensor:
    """Return the finaliser of splitmix64 of 64-bit numbers."""
    numbers = (numbers ^ _shifted(numbers, 30)) * _MIX[0]
    numbers = (numbers ^ _shifted(numbers, 27)) * _MIX[1]
    return numbers ^ _shifted(numbers, 31)


def uniform(keys_B: torch.Tensor, counter: int, n: int) -> torch.Tensor:
    """Return random numbers from 0 to below 1, float32 (batch, n), that depend on key, counter and place."""
    start = _mixed(keys_B + _signed(_GAMMA * (counter + 1)))
    places = torch.arange(1, n + 1, dtype=torch.int64, device=keys_B.device)
    return _shifted(_mixed(start.view(-1, 1) + _GAMMA * places), 40).float() / (1 << 24)


@contextmanager
def dropping(network: nn.Module, keys_B: torch.Tensor, number: int) -> Iterator[None]:
    """Let the dropout layers of a network in evaluation drop, for the length of a block with one call of it.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation, so that its own dropout is off.
    keys_B : torch.Tensor of int64, (batch,)
        As from `tile_keys`, in the order of the batch.
    number : int
        Number of the pass.

    Raises
    ------
    RunError
        In the call, if a layer sees something else than a number of vectors a tile.
    """
    layers = 0

    def drop(layer: nn.Module, _given: tuple[Any, ...], made: torch.Tensor) -> torch.Tensor:
        nonlocal layers
        # Windows of a tile, as Swin has them, stand one after the other in the first dimension.
        if made.shape[0] % len(keys_B):
            raise RunError(
                f"a dropout layer of {type(network).__name__} sees {made.shape[0]} rows of {len(keys_B)} tiles; "
                "MC dropout cannot tell which tile they are of"
            )
        of_tile = made.shape[0] // len(keys_B)
        kept = made.shape[:2] if isinstance(layer, _OF_CHANNELS) else made.shape
        drawn = uniform(keys_B, number * _LAYERS + layers, of_tile * kept[1:].numel())
        layers += 1
        rate = float(layer.p)  # type: ignore[arg-type]
        scale = 1 / (1 - rate) if rate < 1 else 0.0
        mask = (drawn >= rate).to(made.dtype).mul_(scale).view(kept)
        return made * mask.view(*kept, *[1] * (made.ndim - len(kept)))

    handles = [layer.register_forward_hook(drop) for layer in dropout_layers(network)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
