"""Regression: each tile has numbers, such as the age of its patient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from slideduck.errors import ConfigError
from slideduck.runner.scores.columns import number_losses, number_metrics
from slideduck.runner.scores.predictions import NumberPredictions
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tasks.losses import number_loss
from slideduck.runner.tasks.task import Ints, Task, TileFacts, named, parts_of_epoch
from slideduck.words import listed

__all__ = ["Regression"]


class Regression(Task[NumberPredictions]):
    """Each tile has a number in each column; networks learn them standardised. See `Task`."""

    name = "regression"
    nouns = "numbers"
    gives = "numbers"
    predictions = NumberPredictions

    @classmethod
    def facts_of(
        cls, config: TrainConfig, names: Sequence[str], targets: NDArray[Any], shares: NDArray[np.float64] | None
    ) -> TileFacts:
        """Return mean and deviation of each column.

        Raises
        ------
        ConfigError
            If a number is the same for all training tiles.
        """
        parts = parts_of_epoch(len(targets), shares)
        mean = parts @ targets.astype(np.float64)
        std = np.sqrt(parts @ (targets.astype(np.float64) - mean) ** 2)
        # By the numbers themselves: rounding may leave a deviation where all are the same.
        counted = targets[parts > 0]
        same = [name for name, is_same in zip(names, (counted == counted[:1]).all(axis=0), strict=True) if is_same]
        if same:
            raise ConfigError(
                f"target {config.target!r}: {', '.join(same)} has the same value for all training tiles: "
                "there is nothing to learn; give another target or other training tiles"
            )
        return TileFacts(TileFacts.none(len(names)).weights, mean.tolist(), std.tolist())

    @classmethod
    def absent(cls, names: Sequence[str], targets: NDArray[Any]) -> list[str]:
        """Return nothing: every tile has every number."""
        return []

    @classmethod
    def describe(cls, names: Sequence[str], target: Any) -> str:
        """Return the numbers."""
        return ", ".join(f"{value:g}" for value in target)

    @classmethod
    def purpose(cls, names: Sequence[str]) -> str:
        """Return what a network does, as the model card says it."""
        return f"that estimates {listed(names)} from tiles of whole-slide images"

    def tile_losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the squared error, or Huber's loss, of each tile's standardised numbers, (batch,)."""
        return number_loss(outputs, (targets - self.mean) / self.std, huber=self.config.loss == "huber")

    def activate(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return numbers in the unit of their column, float32 (batch, columns)."""
        return outputs.float() * self.std + self.mean

    def given(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the numbers."""
        return self.activate(outputs)

    @property
    def unit(self) -> NDArray[np.float32]:
        """Deviation of each column over the training tiles, (columns,)."""
        return self.std.cpu().numpy()

    def metrics_of(self, predictions: NumberPredictions, slides: Ints, patients: Ints) -> dict[str, Any]:
        """Return the metrics of `slideduck.runner.scores.columns.number_metrics`."""
        return number_metrics(predictions, slides, patients, self.names, self.std.double().cpu().numpy())

    def losses(self, predictions: NumberPredictions) -> NDArray[np.float64]:
        """Return the mean squared error of the standardised numbers of each tile, (n,)."""
        return number_losses(predictions, self.std.double().cpu().numpy())

    @classmethod
    def said(cls, names: Sequence[str], given: NDArray[np.float64]) -> dict[str, pa.Array]:
        """Return ``predicted_NAME`` for each column."""
        return named(given, "predicted_", names)

    def columns(self, predictions: NumberPredictions) -> dict[str, pa.Array]:
        """Return ``loss``, and ``true_NAME`` and ``predicted_NAME`` for each column."""
        columns = {"loss": pa.array(self.losses(predictions))}
        for number, name in enumerate(self.names):
            columns[f"true_{name}"] = pa.array(predictions.targets[:, number].astype(np.float64))
            columns[f"predicted_{name}"] = pa.array(predictions.numbers[:, number], pa.float64())
        return columns
