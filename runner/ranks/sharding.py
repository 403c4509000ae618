"""Networks that do not fit one device: FSDP2 cuts weights, gradients and the optimizer's state across ranks.

A checkpoint of a sharded network is as that of any other: whole tensors under the same names. So a run resumes with
any number of ranks, sharded or not, and its network predicts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from slideduck.runner.ranks.dist import Place

__all__ = ["gradients_stay", "is_sharded", "shard", "sharded_state", "whole", "whole_state"]


def shard(network: nn.Module, place: Place) -> nn.Module:
    """Cut a network across all ranks, in place, and return it; every rank must hold the same weights.

    Items of a list or sequence of modules (a transformer's layers, a ResNet's stages) are gathered for their own
    computation and let go after it; the next one is gathered and the gradients of the one before are sent while one
    computes.

    Parameters
    ----------
    network : nn.Module
        On the CPU, so that no device has to hold it whole.
    place : Place
        This rank.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(place.device.type, (place.world_size,))
    for part in _parts(network):
        fully_shard(part, mesh=mesh)
    fully_shard(network, mesh=mesh)
    return network


def _parts(network: nn.Module) -> list[nn.Module]:
    """Return the outermost items of lists and sequences of modules that have weights."""
    found: list[nn.Module] = []
    for child in network.children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            found += [item for item in child if any(True for _ in item.parameters())]
        else:
            found += _parts(child)
    return found


def is_sharded(network: nn.Module) -> bool:
    """Return True if `shard` has cut the network."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(network, FSDPModule)


def whole(value: torch.Tensor) -> torch.Tensor:
    """Return a tensor whole, on its device; for a part of a sharded one, every rank must call this."""
    from torch.distributed.tensor import DTensor

    return value.full_tensor() if isinstance(value, DTensor) else value


def whole_state(state: Any, place: Place) -> Any:
    """Return a state dict with whole tensors, those that were sharded on the CPU; every rank is to call it.

    One tensor after the other is gathered, so that no device holds them all. Only rank 0 keeps them.
    """
    from torch.distributed.tensor import DTensor

    if isinstance(state, dict):
        return type(state)((name, whole_state(value, place)) for name, value in state.items())
    if isinstance(state, list):
        return [whole_state(value, place) for value in state]
    if isinstance(state, DTensor):
        gathered = state.full_tensor()
        return gathered.cpu() if place.is_first else torch.empty(0)
    return state


@contextmanager
def gradients_stay(network: nn.Module) -> Iterator[None]:
    """Send no gradients within the block: they are added to those of the next call."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            network.set_requires_gradient_sync(True)
    elif isinstance(network, DistributedDataParallel):
        with network.no_sync():
            yield
    else:
        yield


def sharded_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Cut a whole state dict of an optimizer to this rank's part of each tensor, and return it.

    Where weights are not sharded, it is as it was.

    Parameters
    ----------
    state : dict
        As `whole_state` has it on rank 0, on every rank.
    optimizer : Optimizer
        The one that is to take it.
    """
    from torch.distributed.tensor import DTensor, distribute_tensor

    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    parts: dict[int, dict[str, Any]] = {}
    for number, values in state["state"].items():
        weight = weights[number]
        if not isinstance(weight, DTensor):
            return state
        parts[number] = {
            name: distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements, src_data_rank=None)
            if isinstance(value, torch.Tensor) and value.shape == weight.shape
            else value
            for name, value in values.items()
        }
    return {**state, "state": parts}
