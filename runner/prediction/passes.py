"""Predictions from several passes over each tile: its eight positions, and dropout that stays on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from slideduck.errors import ConfigError, RunError
from slideduck.runner.networks.forward import evaluating
from slideduck.runner.prediction.mcdropout import dropout_layers, dropping, tile_keys
from slideduck.runner.runs.trained import TrainedModel
from slideduck.runner.tiles.augment import turn

__all__ = ["TTA", "Estimate", "Passes", "estimate"]

#: Ways of test-time augmentation.
TTA = ("none", "d4")


@dataclass(frozen=True)
class Passes:
    """How often, and how, a network sees each tile that it predicts.

    Attributes
    ----------
    tta : str
        ``"none"``, or ``"d4"``: the eight positions of the square.
    mc_dropout : int
        Passes with dropout on, each with its own masks; 0 for one without. With ``d4``, of each position.
    mc_seed : int
        Seed of the masks.

    Raises
    ------
    ConfigError
        Naming the setting, its value and what it may be.
    """

    tta: str = "none"
    mc_dropout: int = 0
    mc_seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if self.tta not in TTA:
            raise ConfigError(f"tta is {self.tta!r}; it must be one of {', '.join(TTA)}")
        if self.mc_dropout != 0 and not 2 <= self.mc_dropout <= 1000:
            raise ConfigError(f"mc_dropout is {self.mc_dropout}; it must be from 2 to 1000 passes, or 0 for none")
        if not 0 <= self.mc_seed < 2**31:
            raise ConfigError(f"mc_seed is {self.mc_seed}; it must be from 0 to {2**31 - 1}")

    def __str__(self) -> str:
        return f"tta {self.tta}, mc_dropout {self.mc_dropout}" + (f" (seed {self.mc_seed})" if self.mc_dropout else "")

    def check(self, trained: TrainedModel) -> None:
        """Refuse a network that has nothing to drop.

        Raises
        ------
        RunError
            If MC dropout is asked for, and no layer drops.
        """
        if self.mc_dropout and not dropout_layers(trained.network):
            raise RunError(
                f"{trained.run}: model {trained.config.model!r} has no dropout layer with a rate above 0, and so no "
                "MC dropout; train a network with dropout, or leave `mc_dropout` out"
            )


@dataclass(frozen=True)
class Estimate:
    """What a network says of tiles.

    Attributes
    ----------
    probabilities : ndarray of float32, (n, classes)
        Mean over the passes.
    predicted : ndarray of int64, (n,)
        Number of the likeliest class of each tile.
    entropy, mutual_information : ndarray of float32, (n,), or None
        Uncertainty, nats, with MC dropout: that of the mean, and the part of it on which the passes disagree.
    """

    probabilities: NDArray[np.float32]
    predicted: NDArray[np.int64]
    entropy: NDArray[np.float32] | None
    mutual_information: NDArray[np.float32] | None

    @staticmethod
    def join(parts: Sequence[Estimate], n_classes: int) -> Estimate:
        """Return the estimates of several batches as one; of none, that of no tile."""
        if not parts:
            return Estimate(np.zeros((0, n_classes), np.float32), np.zeros(0, np.int64), None, None)
        columns = [[getattr(part, name) for part in parts] for name in ("entropy", "mutual_information")]
        return Estimate(
            np.concatenate([part.probabilities for part in parts]),
            np.concatenate([part.predicted for part in parts]),
            *(None if column[0] is None else np.concatenate(column) for column in columns),
        )


def estimate(trained: TrainedModel, images_BCHW: torch.Tensor, tile_ids: Sequence[str], passes: Passes) -> Estimate:
    """Predict tiles, as often as is asked for.

    The mean is that of probabilities, not of their logarithms: what a set of networks says of which one is drawn.
    With MC dropout, the entropy of the mean is the predictive entropy, and the mutual information (Houlsby et al.,
    Bayesian active learning by disagreement, 2011) that entropy less the mean of the passes' own.

    Parameters
    ----------
    trained : TrainedModel
        The network.
    images_BCHW : torch.Tensor of uint8, (batch, 3, tile_px, tile_px)
        RGB tiles, on the network's device.
    tile_ids : sequence of str
        Their names, which decide what is dropped of them.
    passes : Passes
        What is asked for; see `Passes.check`.
    """
    positions = range(8) if passes.tta == "d4" else range(1)
    keys = tile_keys(tile_ids, passes.mc_seed, images_BCHW.device) if passes.mc_dropout else None
    found: list[NDArray[np.float64]] = []
    with evaluating(trained.network):
        for _ in range(max(1, passes.mc_dropout)):
            for position in positions:
                turned = images_BCHW
                if position:
                    places = torch.full((len(images_BCHW),), position, dtype=torch.uint8, device=images_BCHW.device)
                    turned = turn(images_BCHW, places)
                with nullcontext() if keys is None else dropping(trained.network, keys, len(found)):
                    logs = trained.task.activate(trained.forward(turned))
                odds = np.exp(logs.cpu().numpy().astype(np.float64))
                found.append(odds / odds.sum(axis=1, keepdims=True))
    mean = np.mean(found, axis=0)
    likeliest = mean.argmax(axis=1)
    if keys is None:
        return Estimate(mean.astype(np.float32), likeliest, None, None)
    entropy = _entropy(mean)
    # Rounding may leave a little less than nothing.
    shared = np.maximum(entropy - np.mean([_entropy(each) for each in found], axis=0), 0)
    return Estimate(mean.astype(np.float32), likeliest, entropy.astype(np.float32), shared.astype(np.float32))


def _entropy(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the entropy of each row, nats; what has no probability counts nothing."""
    logs = np.log(np.where(probabilities > 0, probabilities, 1))
    result: NDArray[np.float64] = -(probabilities * logs).sum(axis=1)
    return result
