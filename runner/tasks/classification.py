"""Classification: each tile is of one class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from slideduck.errors import ConfigError
from slideduck.runner.scores.metrics import compute_metrics
from slideduck.runner.scores.predictions import ClassPredictions, class_numbers
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tasks.losses import class_loss
from slideduck.runner.tasks.task import Ints, Task, TileFacts, entropies, named
from slideduck.runner.tiles.rows import class_weights
from slideduck.words import listed

__all__ = ["Classification"]


class Classification(Task[ClassPredictions]):
    """Each tile is of one class; targets are class numbers, or the probability of each class. See `Task`."""

    name = "classification"
    nouns = "classes"
    tells_classes = True
    predictions = ClassPredictions

    @classmethod
    def facts_of(
        cls, config: TrainConfig, names: Sequence[str], targets: NDArray[Any], shares: NDArray[np.float64] | None
    ) -> TileFacts:
        """Return the weights of classes.

        Raises
        ------
        ConfigError
            If all training tiles are of one class.
        """
        found = np.unique(class_numbers(targets))
        # Soft labels of one likeliest class still say how much of the others there is.
        if len(found) == 1 and targets.ndim == 1:
            raise ConfigError(
                f"all {len(targets):,} training tiles ({_chosen(config)}) are of class {names[int(found[0])]!r}; a "
                "network learns from two or more: choose other tiles to train on"
            )
        nothing = TileFacts.none(len(names))
        weights = class_weights(class_numbers(targets), len(names), config.balance, shares).tolist()
        return TileFacts(weights, nothing.mean, nothing.std)

    @classmethod
    def absent(cls, names: Sequence[str], targets: NDArray[Any]) -> list[str]:
        """Return the classes that no tile has, nor may have by soft labels."""
        counts = targets.sum(axis=0) if targets.ndim > 1 else np.bincount(targets, minlength=len(names))
        return [name for name, count in zip(names, counts, strict=True) if count == 0]

    @classmethod
    def describe(cls, names: Sequence[str], target: Any) -> str:
        """Return the name of the class; for soft labels, of the likeliest."""
        return names[int(target) if np.ndim(target) == 0 else int(np.argmax(target))]

    @classmethod
    def purpose(cls, names: Sequence[str]) -> str:
        """Return what a network does, as the model card says it."""
        return f"that tells {len(names)} classes of tissue apart on tiles of whole-slide images: {listed(names)}"

    @classmethod
    def reach(cls, names: Sequence[str]) -> str:
        """Return which tiles a network says something of, as the model card says it."""
        return (
            f"It knows {len(names)} classes and gives every tile to one of them: ink, folds, and tissue that it "
            "never saw as well."
        )

    def tile_losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy (for soft labels against probabilities), or focal loss, of each tile, (batch,)."""
        return class_loss(outputs, targets, self.weights, smoothing=self.config.label_smoothing, gamma=self.focal_gamma)

    def activate(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return logarithms of probabilities over the classes, float32 (batch, classes)."""
        return torch.log_softmax(outputs.float(), dim=1)

    def metrics_of(self, predictions: ClassPredictions, slides: Ints, patients: Ints) -> dict[str, Any]:
        """Return the metrics of `slideduck.runner.scores.metrics.compute_metrics`."""
        return compute_metrics(predictions, slides, self.names, patients=patients)

    def losses(self, predictions: ClassPredictions) -> NDArray[np.float64]:
        """Return the cross-entropy of each tile, nats, (n,)."""
        of_label = predictions.log_probabilities[np.arange(len(predictions.labels)), predictions.labels]
        return -of_label.astype(np.float64)

    @classmethod
    def entropy(cls, given: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the entropy of each row, nats; a probability of 0 adds 0."""
        return np.asarray(entropies(given).sum(axis=1))

    @classmethod
    def decided(cls, names: Sequence[str], given: NDArray[np.float64]) -> tuple[list[str], NDArray[np.float64]]:
        """Return the likeliest class, and its probability."""
        return [names[number] for number in given.argmax(axis=1)], given.max(axis=1)

    @classmethod
    def said(cls, names: Sequence[str], given: NDArray[np.float64]) -> dict[str, pa.Array]:
        """Return ``predicted`` and ``prob_CLASS`` for each class."""
        return {"predicted": pa.array(cls.decided(names, given)[0], pa.string()), **named(given, "prob_", names)}

    def columns(self, predictions: ClassPredictions) -> dict[str, pa.Array]:
        """Return ``label, predicted``, ``loss`` (cross-entropy, nats) and ``prob_CLASS`` for each class."""
        names = np.array(self.names, object)
        return {
            "label": pa.array(names[predictions.labels], pa.string()),
            "predicted": pa.array(names[predictions.predicted], pa.string()),
            "loss": pa.array(self.losses(predictions), pa.float64()),
            **named(predictions.probabilities, "prob_", self.names),
            **self._soft_columns(predictions),
        }

    def _soft_columns(self, predictions: ClassPredictions) -> dict[str, pa.Array]:
        """Return ``soft_CLASS`` for each class, the probabilities that the tiles are labelled with, if they are."""
        if predictions.soft is None:
            return {}
        return {f"soft_{name}": pa.array(predictions.soft[:, i], pa.float64()) for i, name in enumerate(self.names)}


def _chosen(config: TrainConfig) -> str:
    """Return how the training tiles were chosen, by the names of settings."""
    names = ["where", *(["fold"] if config.fold is not None else [])]
    names += ["train_where"] if config.train_where is not None or config.fold is not None else ["train_split"]
    settings = ((name, getattr(config, name)) for name in names)
    return ", ".join(f"`{name}={value!r}`" for name, value in settings if value is not None)
