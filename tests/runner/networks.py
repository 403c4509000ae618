"""Small networks for the tests, built as a user's own are: ``module:function``."""

from __future__ import annotations

import os
import signal

import torch
from torch import nn


def tiny(num_classes: int) -> nn.Module:
    """Return a network without batch norm that learns two textures in a second."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, num_classes),
    )


class _Stoppable(nn.Module):
    """Has batch norm and dropout, which have a state of their own, and may end its process in training.

    ``SLIDEDUCK_TEST_STOP_AT=SIGINT:12`` sends the process SIGINT in the twelfth step that it does.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))
        self.steps = 0
        name, _, step = os.environ.get("SLIDEDUCK_TEST_STOP_AT", ":0").partition(":")
        self.signal, self.stop_at = name, int(step)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.steps += 1
            if self.steps == self.stop_at:
                os.kill(os.getpid(), signal.Signals[self.signal])
        logits: torch.Tensor = self.head(self.features(images))
        return logits


def stoppable(num_classes: int) -> nn.Module:
    """Return a network that stops where the environment says."""
    return _Stoppable(num_classes)


class _Lost(nn.Module):
    """Sends its process a signal, once in all restarts, or says that the device has no memory left.

    ``SLIDEDUCK_TEST_LOSE=SIGKILL:1:val:2`` sends rank 1 SIGKILL in the second call of a validation; in place of a
    signal, ``memory`` and ``backward`` raise what torch does on a GPU, and ``allocator`` asks for too much.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.inner = tiny(num_classes)
        self.calls = {"train": 0, "val": 0}
        self.what, rank, self.when, call = os.environ["SLIDEDUCK_TEST_LOSE"].split(":")
        here = os.environ.get("RANK", "0") == rank and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        self.call = int(call) if here else 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        when = "train" if self.training else "val"
        self.calls[when] += 1
        if when == self.when and self.calls[when] == self.call:
            if self.what == "memory":
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            if self.what == "allocator":
                torch.empty(2**60)
            if self.what == "backward":
                images = images.detach().requires_grad_()
                images.register_hook(_no_memory)  # type: ignore[no-untyped-call]
            else:
                os.kill(os.getpid(), signal.Signals[self.what])
        logits: torch.Tensor = self.inner(images)
        return logits


def _no_memory(_gradient: torch.Tensor) -> None:
    """Raise what torch does where a gradient finds no memory."""
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def lost(num_classes: int) -> nn.Module:
    """Return a network whose process is lost where the environment says."""
    return _Lost(num_classes)


class _Burst(nn.Module):
    """Gives NaN in training after a number of steps."""

    left: torch.Tensor

    def __init__(self, num_classes: int, steps: int) -> None:
        super().__init__()
        self.inner = tiny(num_classes)
        self.register_buffer("left", torch.tensor(steps))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(images)
        if self.training:
            self.left.sub_(1)
            logits = torch.where(self.left < 0, torch.nan, logits)
        return logits


def bursting(num_classes: int) -> nn.Module:
    """Return a network whose loss is NaN from the eleventh step on."""
    return _Burst(num_classes, 10)


class _Branching(nn.Module):
    """Does one thing or another, by what is in the tiles."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.inner = tiny(num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(images if images.mean() > 0 else -images)
        return logits


def branching(num_classes: int) -> nn.Module:
    """Return a network that no fixed graph computes."""
    return _Branching(num_classes)


def not_a_module(num_classes: int) -> str:
    """Return something else."""
    return "no module"


def wrong_shape(num_classes: int) -> nn.Module:
    """Return a network with one class too many."""
    return tiny(num_classes + 1)


def tiny_vit(num_classes: int) -> nn.Module:
    """Return a vision transformer of two blocks for tiles of 32 px, of patches of 8."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=num_classes,
    )
    model: nn.Module = ViTForImageClassification(config)
    return model


def no_linear(num_classes: int) -> nn.Module:
    """Return a network that ends in a convolution."""
    return nn.Sequential(nn.Conv2d(3, num_classes, 5, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def dropping(num_classes: int) -> nn.Module:
    """Return a network that drops channels and features."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2),
        nn.ReLU(),
        nn.Dropout2d(0.2),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(16, num_classes),
    )


class _NoGradient(nn.Module):
    """Gives finite logits whose gradient is not a number: that of a square root at zero, times zero."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.inner = tiny(num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(images)
        return logits + torch.sqrt(logits * 0.0) * 0.0


def without_gradient(num_classes: int) -> nn.Module:
    """Return a network whose gradient is NaN at the first step."""
    return _NoGradient(num_classes)
