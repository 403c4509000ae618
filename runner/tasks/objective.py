"""What a network learns: its outputs, their loss, and what they mean once it predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slideduck.errors import ConfigError
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tasks.losses import binary_loss, class_loss, number_loss
from slideduck.runner.tiles.rows import class_weights

__all__ = ["Objective", "make_objective"]


class Objective:
    """The task of a network, with what it needs of the training tiles.

    Parameters
    ----------
    config : TrainConfig
        ``task``, ``loss``, ``label_smoothing`` and ``focal_gamma`` count.
    names : sequence of str
        Names of the outputs: classes, labels or columns of numbers.
    weights : ndarray of float32, (outputs,)
        Weight of a tile by its class, or of a label where a tile has it.
    mean, std : sequence of float
        Of the training tiles' numbers, where these are learnt.
    device : torch.device
        Where it is computed.

    Attributes
    ----------
    task : {"classification", "multi-label", "regression"}
        What is learnt.
    names : list of str
        Names of the outputs.
    """

    def __init__(
        self,
        config: TrainConfig,
        names: Sequence[str],
        weights: NDArray[np.float32],
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
    ) -> None:
        self.config, self.task, self.names = config, config.task, list(names)
        self.weights = torch.from_numpy(weights).to(device)
        self.mean = torch.tensor(mean, dtype=torch.float32, device=device)
        self.std = torch.tensor(std, dtype=torch.float32, device=device)

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""
        return len(self.names)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds, beside the settings and the names."""
        return {"weights": self.weights.tolist(), "mean": self.mean.tolist(), "std": self.std.tolist()}

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of each tile, (batch,).

        Parameters
        ----------
        outputs : torch.Tensor, (batch, outputs)
            As the network gives them.
        targets : torch.Tensor, (batch,) of int64 or (batch, outputs) of float32
            See `slideduck.runner.tiles.targets.Targets`.

        Raises
        ------
        ConfigError
            If the network gives another number of outputs.
        """
        self._check(outputs, len(targets))
        gamma = self.config.focal_gamma if self.config.loss == "focal" else 0.0
        if self.task == "regression":
            return number_loss(outputs, (targets - self.mean) / self.std, huber=self.config.loss == "huber")
        of_task = class_loss if self.task == "classification" else binary_loss
        return of_task(outputs, targets, self.weights, smoothing=self.config.label_smoothing, gamma=gamma)

    def activate(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return what outputs say, float32 (batch, outputs): logarithms of probabilities, or numbers.

        For classification the probabilities are over the classes; for several labels, of each label.
        """
        if self.task == "classification":
            return torch.log_softmax(outputs.float(), dim=1)
        if self.task == "multi-label":
            return torch.nn.functional.logsigmoid(outputs.float())
        return outputs.float() * self.std + self.mean

    def _check(self, outputs: torch.Tensor, n_tiles: int) -> None:
        """Raise unless the outputs have the shape that they must have."""
        wanted = (n_tiles, self.n_outputs)
        if outputs.shape != wanted:
            what = {"classification": "classes", "multi-label": "labels", "regression": "numbers"}[self.task]
            raise ConfigError(
                f"model {self.config.model!r} returned logits of shape {tuple(outputs.shape)} for "
                f"{n_tiles} tiles and {self.n_outputs} {what}; it must return {wanted}"
            )


def make_objective(
    config: TrainConfig,
    names: Sequence[str],
    device: torch.device,
    *,
    targets: NDArray[Any] | None = None,
    shares: NDArray[np.float64] | None = None,
    state: Mapping[str, Any] | None = None,
) -> Objective:
    """Return the objective of a run: new from its training tiles, or as a checkpoint has it.

    Parameters
    ----------
    config : TrainConfig
        The settings.
    names : sequence of str
        Names of the outputs.
    device : torch.device
        Where it is computed.
    targets : ndarray, optional
        Targets of the training tiles.
    shares : ndarray of float64, optional
        The part of an epoch that each of them has, where these differ; see `slideduck.runner.tiles.rows.class_weights`.
    state : mapping, optional
        `Objective.state` of a checkpoint; one of before has none, and needs none to predict.

    Raises
    ------
    ConfigError
        If a number is the same for all training tiles.
    """
    ones, zeros = np.ones(len(names), np.float32), [0.0] * len(names)
    if state is not None:
        return Objective(config, names, np.array(state["weights"], np.float32), state["mean"], state["std"], device)
    if targets is None:
        return Objective(config, names, ones, zeros, ones.tolist(), device)
    if config.task == "classification":
        weights = class_weights(targets, len(names), config.balance, shares)
        return Objective(config, names, weights, zeros, ones.tolist(), device)
    parts = np.full(len(targets), 1 / len(targets)) if shares is None else shares / shares.sum()
    mean = parts @ targets.astype(np.float64)
    if config.task == "multi-label":
        # A label that few tiles have weighs as much as its absence; one that all or none have cannot be learnt.
        odds = (1 - mean) / np.clip(mean, 1e-12, None)
        weights = np.where((mean > 0) & (mean < 1), odds, 1.0).astype(np.float32) if config.balance == "loss" else ones
        return Objective(config, names, weights, zeros, ones.tolist(), device)
    std = np.sqrt(parts @ (targets.astype(np.float64) - mean) ** 2)
    same = [name for name, deviation in zip(names, std, strict=True) if deviation == 0]
    if same:
        raise ConfigError(
            f"target {config.target!r}: {', '.join(same)} has the same value for all training tiles: "
            "there is nothing to learn; give another target or other training tiles"
        )
    return Objective(config, names, ones, mean.tolist(), std.tolist(), device)
