"""The network of the old runs, built as a user's own is: ``--model old_network:small`` beside this file."""

from __future__ import annotations

import os
import signal

import torch
from torch import nn

__all__ = ["small"]


class _Dropping(nn.Module):
    """Drops channels by `torch.rand`, whose numbers are the same in every build of torch; those of dropout are not."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return values
        kept = torch.rand(values.shape[:2]) >= 0.2
        return values * kept[:, :, None, None] / 0.8


class _Small(nn.Module):
    """Has batch norm and dropped channels, which have a state of their own, and 550 weights.

    ``OLD_STOP_AT=12`` interrupts the process in the twelfth training step that it does.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 5, stride=2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            _Dropping(),
            nn.Conv2d(4, 6, 3, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(6, outputs)
        self.steps = 0
        self.stop_at = int(os.environ.get("OLD_STOP_AT", "0"))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.steps += 1
            if self.steps == self.stop_at:
                os.kill(os.getpid(), signal.SIGINT)
        logits: torch.Tensor = self.head(self.features(images))
        return logits


def small(outputs: int) -> nn.Module:
    """Return a network of 550 weights."""
    return _Small(outputs)
