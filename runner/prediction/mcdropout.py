"""Dropout that stays on in prediction, with a mask of its own for each tile (Monte Carlo dropout).

Gal and Ghahramani, Dropout as a Bayesian approximation, 2016. A mask is a function of the tile's key, the pass, the
layer and the place in it, so that neither the batch nor the device that a tile is predicted on changes it.

Attention drops weights by a number that is handed to a function, and by no layer: torch's
``scaled_dot_product_attention``, which transformers and timm call, and ``multi_head_attention_forward``, which
``nn.MultiheadAttention`` calls. Those calls are taken over, for the length of a block and in its thread alone.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from slideduck.errors import RunError

__all__ = ["Masks", "dropout_layers", "dropping", "drops", "tile_keys"]

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
    """Return the layers of a network that drop something in training; see `dropping` for functions in attention."""
    kinds = (nn.Dropout, *_OF_CHANNELS)
    return [layer for layer in network.modules() if isinstance(layer, kinds) and layer.p > 0]


def drops(network: nn.Module, tile_BCHW: torch.Tensor) -> bool:
    """Return whether a network in evaluation drops anything: in a layer, or in the attention of a call.

    Parameters
    ----------
    network : torch.nn.Module
        The network.
    tile_BCHW : torch.Tensor of float32
        A tile as it takes them.
    """
    if dropout_layers(network):
        return True
    with torch.inference_mode(), dropping(network, tile_keys([""], 0, tile_BCHW.device), 0) as masks:
        network(tile_BCHW)
    return masks.drawn > 0


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
def dropping(network: nn.Module, keys_B: torch.Tensor, number: int) -> Iterator[Masks]:
    """Let a network in evaluation drop, in its dropout layers and its attention, for a block with one call of it.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation, so that its own dropout is off.
    keys_B : torch.Tensor of int64, (batch,)
        As from `tile_keys`, in the order of the batch.
    number : int
        Number of the pass.

    Yields
    ------
    Masks
        Counts what is dropped.

    Raises
    ------
    RunError
        In the call, if a layer sees something else than a number of vectors a tile.
    """
    masks = Masks(type(network).__name__, keys_B, number)

    def drop(layer: nn.Module, _given: tuple[Any, ...], made: torch.Tensor) -> torch.Tensor:
        return masks.drop(made, float(layer.p), of_channels=isinstance(layer, _OF_CHANNELS))  # type: ignore[arg-type]

    handles = [layer.register_forward_hook(drop) for layer in dropout_layers(network)]
    # A flag of these modules alone, not of what is in them: it decides what rate they hand to the function.
    attention = [module for module in network.modules() if _is_attention(module) and not module.training]
    for module in attention:
        module.training = True
    try:
        with _Attention(masks):
            yield masks
    finally:
        for module in attention:
            module.training = False
        for handle in handles:
            handle.remove()


class Masks:
    """The masks of one pass, drawn one after the other.

    Parameters
    ----------
    network : str
        Name of its class, for messages.
    keys_B, number
        As of `dropping`.

    Attributes
    ----------
    drawn : int
        How many there were so far.
    """

    def __init__(self, network: str, keys_B: torch.Tensor, number: int) -> None:
        self._network, self._keys_B, self._number = network, keys_B, number
        self.drawn = 0

    def drop(self, made: torch.Tensor, rate: float, *, of_channels: bool = False) -> torch.Tensor:
        """Return what a layer made with a part of it dropped, and the rest scaled."""
        # Windows of a tile, as Swin has them, stand one after the other in the first dimension.
        if made.shape[0] % len(self._keys_B):
            raise RunError(
                f"a dropout layer of {self._network} sees {made.shape[0]} rows of {len(self._keys_B)} tiles; "
                "MC dropout cannot tell which tile they are of"
            )
        of_tile = made.shape[0] // len(self._keys_B)
        kept = made.shape[:2] if of_channels else made.shape
        drawn = uniform(self._keys_B, self._number * _LAYERS + self.drawn, of_tile * kept[1:].numel())
        self.drawn += 1
        scale = 1 / (1 - rate) if rate < 1 else 0.0
        mask = (drawn >= rate).to(made.dtype).mul_(scale).view(kept)
        return made * mask.view(*kept, *[1] * (made.ndim - len(kept)))

    def drop_weights(self, weights: torch.Tensor, rate: float) -> torch.Tensor:
        """Return the weights of attention, (rows, heads, queries, keys), dropped head by head, to save memory."""
        heads = range(weights.shape[1])
        return torch.stack([self.drop(weights[:, head], rate) for head in heads], dim=1)


def _is_attention(module: nn.Module) -> bool:
    """Return whether a module computes attention, and hands a function the rate that it drops by."""
    if isinstance(module, (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
        return True
    forward = getattr(type(module).forward, "__code__", None)
    calls = forward is not None and "scaled_dot_product_attention" in forward.co_names
    return calls or "attention" in type(module).__name__.lower()


class _Attention(TorchFunctionMode):
    """Takes over calls of functions that drop, while it is entered."""

    def __init__(self, masks: Masks) -> None:
        super().__init__()
        self._masks = masks

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do what a function does, but drop by the masks."""
        kwargs = kwargs or {}
        taken = _TAKEN.get(func)
        return func(*args, **kwargs) if taken is None else taken(self._masks, *args, **kwargs)


def _dropout(
    masks: Masks, input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> torch.Tensor:
    """Return what `torch.nn.functional.dropout` does, by the masks."""
    if not training or p == 0:
        return input
    return masks.drop_weights(input, p) if input.ndim == 4 else masks.drop(input, p)


def _attend(
    masks: Masks,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Return what `torch.nn.functional.scaled_dot_product_attention` does, by the masks, of (rows, heads, …)."""
    if dropout_p == 0 or query.ndim != 4:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if enable_gqa:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        hides = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if hides else scores + attn_mask
    return masks.drop_weights(scores.softmax(-1), dropout_p) @ value


_MULTI_HEAD = inspect.signature(functional.multi_head_attention_forward)


def _attend_by_heads(masks: Masks, *args: Any, **kwargs: Any) -> Any:
    """Return what `torch.nn.functional.multi_head_attention_forward` does, by the masks."""
    bound = _MULTI_HEAD.bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    if not given["training"] or given["dropout_p"] == 0:
        return functional.multi_head_attention_forward(*args, **kwargs)
    if given["bias_k"] is not None or given["add_zero_attn"] or given["static_v"] is not None:
        raise RunError(
            "MC dropout does not know attention with add_bias_kv, add_zero_attn or fixed values; leave `mc_dropout` out"
        )
    asked = {name: given[name] for name in ("need_weights", "average_attn_weights")}
    given |= {"training": False, "need_weights": True, "average_attn_weights": False}
    _, weights = functional.multi_head_attention_forward(*bound.args, **bound.kwargs)
    assert weights is not None
    value, heads = given["value"], given["num_heads"]
    is_batched = value.ndim == 3
    if not is_batched:
        value, weights = value[:, None], weights[None]
    weight = given["v_proj_weight"] if given["use_separate_proj_weight"] else given["in_proj_weight"].chunk(3)[2]
    bias = None if given["in_proj_bias"] is None else given["in_proj_bias"].chunk(3)[2]
    values = functional.linear(value, weight, bias)
    # (keys, rows, features) to (rows, heads, keys, features of a head)
    values = values.view(*values.shape[:2], heads, -1).permute(1, 2, 0, 3)
    dropped = masks.drop_weights(weights, given["dropout_p"])
    joined = (dropped @ values).permute(2, 0, 1, 3).flatten(2)
    out = functional.linear(joined, given["out_proj_weight"], given["out_proj_bias"])
    shown = weights.mean(dim=1) if asked["average_attn_weights"] else weights
    if not is_batched:
        out, shown = out[:, 0], shown[0]
    return out, shown if asked["need_weights"] else None


#: What is taken over, and by what.
_TAKEN: dict[Any, Callable[..., Any]] = {
    functional.dropout: _dropout,
    functional.scaled_dot_product_attention: _attend,
    functional.multi_head_attention_forward: _attend_by_heads,
}
