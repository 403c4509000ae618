"""From tiles to outputs: tiles standardised, the network in its precision, without dropout or gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from slideduck.errors import ConfigError

__all__ = ["Forward", "Standard", "evaluating", "logits_of", "precision_context", "standardise"]


def logits_of(output: Any) -> torch.Tensor:
    """Return the logits, (batch, classes), from the value that a network returned."""
    logits: torch.Tensor = output if isinstance(output, torch.Tensor) else output.logits
    return logits


def standardise(images_BCHW: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Return uint8 tiles as float32 with mean 0 and deviation 1 in each channel, channels last.

    Parameters
    ----------
    images_BCHW : torch.Tensor of uint8, (batch, 3, height, width)
        RGB tiles.
    mean, std : torch.Tensor of float32, (1, 3, 1, 1)
        Of the training tiles, on the scale of 0 to 255.
    """
    images = images_BCHW.to(torch.float32, memory_format=torch.channels_last)
    return (images - mean) / std


class Standard:
    """Mean and deviation of the training tiles, on the device.

    Parameters
    ----------
    mean, std : sequence of float
        One a channel, on the scale of 0 to 255.
    device : torch.device
        Where tiles are.
    """

    def __init__(self, mean: list[float], std: list[float], device: torch.device) -> None:
        self.mean = torch.tensor(mean, dtype=torch.float32, device=device).view(1, 3, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float32, device=device).view(1, 3, 1, 1)

    def __call__(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Return uint8 tiles standardised, float32."""
        return standardise(images_BCHW, self.mean, self.std)


def precision_context(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which a network is called: bf16 autocast, or nothing.

    Raises
    ------
    ConfigError
        If bf16 is asked for on a device that does not compute in it.
    """
    capable = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and not capable:
        raise ConfigError(f"precision is 'bf16' but the device, {device.type}, does not have it; use auto or fp32")
    if precision == "fp32" or not capable:
        return nullcontext()
    return torch.autocast("cuda", dtype=torch.bfloat16)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch off dropout and gradients within a block, and restore the model afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


@dataclass(frozen=True)
class Forward:
    """A network with what comes before it: uint8 tiles in, outputs out.

    Attributes
    ----------
    network : nn.Module
        The network.
    standard : Standard
        What its tiles are standardised by.
    precision : str
        As in the settings.
    device : torch.device
        Where it computes.
    """

    network: nn.Module
    standard: Standard
    precision: str
    device: torch.device

    def __call__(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the outputs of uint8 tiles, (batch, outputs), on their device; call it inside `evaluating`."""
        with precision_context(self.precision, images_BCHW.device):
            return logits_of(self.network(self.standard(images_BCHW)))
