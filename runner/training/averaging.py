"""The moving average of a network's weights, which validates and predicts in place of the last weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

__all__ = ["AveragedNetwork", "decay_at"]


def decay_at(step: int, decay: float) -> float:
    """Return the decay of the average at a step: lower in the first, so that random weights are forgotten.

    It is ``min(decay, (1 + step) / (10 + step))``, as TensorFlow's ``ExponentialMovingAverage`` has it
    with ``num_updates``.

    Parameters
    ----------
    step : int
        Steps averaged before this one.
    decay : float
        What it tends to, below 1.
    """
    return min(decay, (1 + step) / (10 + step))


class AveragedNetwork:
    """The exponential moving average of a network: weights, and running statistics too.

    Parameters
    ----------
    network : nn.Module
        The plain network, before it is distributed or compiled; it is copied.
    decay : float
        See `decay_at`.
    steps : int
        Steps averaged so far.
    """

    def __init__(self, network: nn.Module, decay: float, steps: int = 0) -> None:
        self.decay, self.steps = decay, steps
        self._averaged = AveragedModel(network, multi_avg_fn=self._average, use_buffers=True)
        # Zero would make torch copy the network's weights over those of a checkpoint.
        self._averaged.n_averaged.fill_(max(1, steps))
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)

    @property
    def network(self) -> nn.Module:
        """The network with averaged weights; its names are the plain network's."""
        return self._averaged.module

    def update(self, network: nn.Module) -> None:
        """Take in the weights after a step."""
        self._averaged.update_parameters(network)
        self.steps += 1

    @torch.no_grad()
    def _average(self, averages: Any, currents: Any, _number: Any) -> None:
        """Move averages towards the current values; whole numbers, such as counters, are copied."""
        if torch.is_floating_point(averages[0]) or torch.is_complex(averages[0]):
            torch._foreach_lerp_(averages, currents, 1.0 - decay_at(self.steps, self.decay))
        else:
            for average, current in zip(averages, currents, strict=True):
                average.copy_(current)
