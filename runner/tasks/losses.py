"""Losses of a batch, tile by tile, so that each tile can be weighed."""

from __future__ import annotations

import torch
from torch.nn import functional

__all__ = ["binary_loss", "class_loss", "number_loss"]


def class_loss(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, *, smoothing: float = 0.0, gamma: float = 0.0
) -> torch.Tensor:
    """Return the cross-entropy of each tile, float32 (batch,).

    Parameters
    ----------
    logits : torch.Tensor, (batch, classes)
        Outputs of the network.
    labels : torch.Tensor of int64, (batch,), or float32, (batch, classes)
        Class numbers, or the probability of each class.
    weights : torch.Tensor of float32, (classes,)
        Weight of a tile by its class; of soft labels, by the likeliest.
    smoothing : float
        Part of each target that is spread over all classes (Szegedy et al. 2016, section 7).
    gamma : float
        Exponent of the focal loss (Lin et al. 2017, equation 4): a tile weighs ``(1 - p) ** gamma``, where p is
        the probability of its class; 0 is cross-entropy.
    """
    each = functional.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)
    if gamma:
        said = torch.log_softmax(logits.float(), dim=1).exp()
        # Of soft labels, the probability that two draws agree.
        of_label = (said * labels).sum(dim=1) if labels.ndim > 1 else said.gather(1, labels[:, None])[:, 0]
        each = each * (1 - of_label) ** gamma
    return each * weights[labels.argmax(dim=1) if labels.ndim > 1 else labels]


def binary_loss(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, *, smoothing: float = 0.0, gamma: float = 0.0
) -> torch.Tensor:
    """Return the mean over labels of the binary cross-entropy of each tile, float32 (batch,).

    Parameters
    ----------
    logits : torch.Tensor, (batch, labels)
        Outputs of the network.
    targets : torch.Tensor of float32, (batch, labels)
        1 where a tile has the label, else 0.
    weights : torch.Tensor of float32, (labels,)
        Weight of a label where a tile has it, against 1 where it has not.
    smoothing : float
        Targets are brought so far from 0 and 1 towards a half.
    gamma : float
        Exponent of the focal loss, label by label.
    """
    soft = targets * (1 - smoothing) + smoothing / 2
    each = functional.binary_cross_entropy_with_logits(logits.float(), soft, reduction="none", pos_weight=weights)
    if gamma:
        probability = torch.sigmoid(logits.float())
        each = each * torch.where(targets > 0.5, 1 - probability, probability) ** gamma
    return each.mean(dim=1)


def number_loss(outputs: torch.Tensor, targets: torch.Tensor, *, huber: bool = False) -> torch.Tensor:
    """Return the mean over numbers of the squared error of each tile, float32 (batch,).

    Parameters
    ----------
    outputs, targets : torch.Tensor, (batch, numbers)
        Standardised.
    huber : bool
        Beyond an error of 1, take twice its size less 1 in place of its square (Huber 1964, doubled).
    """
    if huber:
        return 2 * functional.huber_loss(outputs.float(), targets, reduction="none", delta=1.0).mean(dim=1)
    return functional.mse_loss(outputs.float(), targets, reduction="none").mean(dim=1)
