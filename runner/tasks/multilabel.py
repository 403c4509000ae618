"""Several labels: each tile has any number of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from slideduck.catalog.evaluations import joint_probability
from slideduck.runner.scores.columns import label_losses, label_metrics
from slideduck.runner.scores.predictions import THRESHOLD, LabelPredictions, joined_labels
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tasks.losses import binary_loss
from slideduck.runner.tasks.task import Ints, Task, TileFacts, entropies, named, parts_of_epoch
from slideduck.words import counted, listed

__all__ = ["MultiLabel"]


class MultiLabel(Task[LabelPredictions]):
    """Each tile has any number of labels; targets are 0 and 1 for each. See `Task`."""

    name = "multi-label"
    nouns = "labels"
    predictions = LabelPredictions

    @classmethod
    def facts_of(
        cls, config: TrainConfig, names: Sequence[str], targets: NDArray[Any], shares: NDArray[np.float64] | None
    ) -> TileFacts:
        """Return the weight of each label where a tile has it: the odds against it."""
        nothing = TileFacts.none(len(names))
        if config.balance != "loss":
            return nothing
        mean = parts_of_epoch(len(targets), shares) @ targets.astype(np.float64)
        # A label that few tiles have weighs as much as its absence; one that all or none have cannot be learnt.
        odds = (1 - mean) / np.clip(mean, 1e-12, None)
        weights = np.where((mean > 0) & (mean < 1), odds, 1.0).astype(np.float32)
        return TileFacts(weights.tolist(), nothing.mean, nothing.std)

    @classmethod
    def absent(cls, names: Sequence[str], targets: NDArray[Any]) -> list[str]:
        """Return the labels that no tile has."""
        return [name for name, count in zip(names, targets.sum(axis=0), strict=True) if count == 0]

    @classmethod
    def describe(cls, names: Sequence[str], target: Any) -> str:
        """Return the names of the labels that a tile has."""
        return ", ".join(name for name, has in zip(names, target, strict=True) if has) or "none"

    @classmethod
    def purpose(cls, names: Sequence[str]) -> str:
        """Return what a network does, as the model card says it."""
        return f"that tells which of {counted(len(names), 'label')} a tile of a whole-slide image has: {listed(names)}"

    def tile_losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the binary cross-entropy, or focal loss, of each tile, (batch,)."""
        return binary_loss(
            outputs, targets, self.weights, smoothing=self.config.label_smoothing, gamma=self.focal_gamma
        )

    def activate(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the logarithm of the probability of each label, float32 (batch, labels)."""
        return torch.nn.functional.logsigmoid(outputs.float())

    def metrics_of(self, predictions: LabelPredictions, slides: Ints, patients: Ints) -> dict[str, Any]:
        """Return the metrics of `slideduck.runner.scores.columns.label_metrics`."""
        return label_metrics(predictions, slides, patients, self.names)

    def losses(self, predictions: LabelPredictions) -> NDArray[np.float64]:
        """Return the mean binary cross-entropy of each tile, nats, (n,)."""
        return label_losses(predictions)

    @classmethod
    def entropy(cls, given: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum of the labels' entropies, nats: that of all of them, as if they were independent."""
        return np.asarray((entropies(given) + entropies(1 - given)).sum(axis=1))

    @classmethod
    def decided(cls, names: Sequence[str], given: NDArray[np.float64]) -> tuple[list[str], NDArray[np.float64]]:
        """Return the labels of a probability of a half or more, as ``a;b``, and the probability of all being so."""
        return joined_labels(given >= THRESHOLD, names), joint_probability(given)

    @classmethod
    def said(cls, names: Sequence[str], given: NDArray[np.float64]) -> dict[str, pa.Array]:
        """Return ``predicted``, such as ``a;b``, and ``prob_NAME`` for each label."""
        return {"predicted": pa.array(cls.decided(names, given)[0], pa.string()), **named(given, "prob_", names)}

    def columns(self, predictions: LabelPredictions) -> dict[str, pa.Array]:
        """Return ``label, predicted`` (such as ``a;b``), ``loss``, and ``true_NAME, prob_NAME`` for each label."""
        has = predictions.targets > 0.5
        columns = {
            "label": pa.array(joined_labels(has, self.names), pa.string()),
            "predicted": pa.array(self.decided(self.names, predictions.probabilities)[0], pa.string()),
            "loss": pa.array(self.losses(predictions)),
        }
        for number, name in enumerate(self.names):
            columns[f"true_{name}"] = pa.array(has[:, number])
            columns[f"prob_{name}"] = pa.array(predictions.probabilities[:, number], pa.float64())
        return columns
