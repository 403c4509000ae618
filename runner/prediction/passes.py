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
from slideduck.runner.prediction.mcdropout import dropping, drops, tile_keys
from slideduck.runner.runs.trained import TrainedModel
from slideduck.runner.tiles.augment import turn

__all__ = ["TTA", "UNCERTAINTIES", "Estimate", "Passes", "estimate"]

#: Ways of test-time augmentation.
TTA = ("none", "d4")
#: What an `Estimate` may say of how sure it is.
UNCERTAINTIES = ("entropy", "mutual_information", "deviation")


@dataclass(frozen=True)
class Passes:
    """How often, and in which way, a network sees each tile.

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
        """Refuse impossible settings."""
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
        if not self.mc_dropout:
            return
        px = trained.beton["image"]["tile_px"]
        if not drops(trained.network, trained.standard(trained.images(np.zeros((1, px, px, 3), np.uint8)))):
            raise RunError(
                f"{trained.run}: model {trained.config.model!r} has no dropout with a rate above 0, in a layer or in "
                "its attention, and so no MC dropout; train a network with dropout, or leave `mc_dropout` out"
            )


@dataclass(frozen=True)
class Estimate:
    """Predictions of tiles, with their uncertainty.

    Attributes
    ----------
    given : ndarray of float64, (n, outputs)
        Probabilities of classes or labels, or numbers: the mean over the passes.
    entropy, mutual_information : ndarray of float32, (n,), or None
        Uncertainty of probabilities, nats, with MC dropout: that of the mean, and the part of it on which the passes
        disagree. Of several labels they are the sums over the labels, as if these were independent.
    deviation : ndarray of float32, (n, outputs), or None
        Uncertainty of numbers, with more than one pass: the standard deviation over the passes, with n - 1.
    """

    given: NDArray[np.float64]
    entropy: NDArray[np.float32] | None = None
    mutual_information: NDArray[np.float32] | None = None
    deviation: NDArray[np.float32] | None = None

    @staticmethod
    def join(parts: Sequence[Estimate], n_outputs: int) -> Estimate:
        """Return the estimates of several batches as one; of none, that of no tile."""
        if not parts:
            return Estimate(np.zeros((0, n_outputs)))
        columns = [[getattr(part, name) for part in parts] for name in UNCERTAINTIES]
        return Estimate(
            np.concatenate([part.given for part in parts]),
            *(None if column[0] is None else np.concatenate(column) for column in columns),
        )


def estimate(trained: TrainedModel, images_BCHW: torch.Tensor, tile_ids: Sequence[str], passes: Passes) -> Estimate:
    """Predict tiles, in as many passes as are asked for.

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
    keys = tile_keys(tile_ids, passes.mc_seed, images_BCHW.device) if passes.mc_dropout else None
    found = _passes(trained, images_BCHW, keys, passes)
    mean = np.mean(found, axis=0)
    task = trained.task
    if task.gives == "numbers":
        spread = np.std(found, axis=0, ddof=1).astype(np.float32) if len(found) > 1 else None
        return Estimate(mean, deviation=spread)
    entropy, *own = (task.entropy(each) for each in (mean, *found))
    if keys is None or entropy is None:
        return Estimate(mean)
    # Rounding may leave a little less than nothing.
    shared = np.maximum(entropy - np.mean([each for each in own if each is not None], axis=0), 0)
    return Estimate(mean, entropy.astype(np.float32), shared.astype(np.float32))


def _passes(
    trained: TrainedModel, images_BCHW: torch.Tensor, keys: torch.Tensor | None, passes: Passes
) -> list[NDArray[np.float64]]:
    """Return what the network gives in each pass."""
    positions = range(8) if passes.tta == "d4" else range(1)
    found: list[NDArray[np.float64]] = []
    rows = np.arange(len(images_BCHW))
    with evaluating(trained.network):
        for _ in range(max(1, passes.mc_dropout)):
            for position in positions:
                turned = images_BCHW
                if position:
                    places = torch.full((len(images_BCHW),), position, dtype=torch.uint8, device=images_BCHW.device)
                    turned = turn(images_BCHW, places)
                with nullcontext() if keys is None else dropping(trained.network, keys, len(found)):
                    outputs = trained.task.activate(trained.forward(turned))
                found.append(trained.task.predictions(rows, rows, outputs.cpu().numpy()).given)
    return found
