"""Classification: each tile is of one class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from slideduck.betons import Sidecar
from slideduck.runner.scores.assess import assess_file
from slideduck.runner.scores.metrics import compute_metrics
from slideduck.runner.scores.predictions import ClassPredictions, class_numbers
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tasks.losses import class_loss
from slideduck.runner.tasks.task import Ints, Task, TileFacts
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
        """Return the weights of classes."""
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

    def assessment(self, path: Path) -> dict[str, Any]:
        """Return the assessment of predictions in a file, by `slideduck.runner.scores.assess.assess`."""
        return assess_file(path)

    def columns(self, predictions: ClassPredictions) -> dict[str, pa.Array]:
        """Return ``label, predicted``, ``loss`` (cross-entropy, nats) and ``prob_CLASS`` for each class."""
        names = np.array(self.names, object)
        logs = predictions.log_probabilities.astype(np.float64)
        probabilities = predictions.probabilities
        return {
            "label": pa.array(names[predictions.labels], pa.string()),
            "predicted": pa.array(names[predictions.predicted], pa.string()),
            "loss": pa.array(-logs[np.arange(len(logs)), predictions.labels], pa.float64()),
            **{
                f"prob_{name}": pa.array(probabilities[:, number], pa.float64())
                for number, name in enumerate(self.names)
            },
            **self._soft_columns(predictions),
        }

    def _soft_columns(self, predictions: ClassPredictions) -> dict[str, pa.Array]:
        """Return ``soft_CLASS`` for each class, the probabilities that the tiles are labelled with, if they are."""
        if predictions.soft is None:
            return {}
        return {f"soft_{name}": pa.array(predictions.soft[:, i], pa.float64()) for i, name in enumerate(self.names)}

    def table(self, predictions: ClassPredictions, sidecar: Sidecar, facts: Mapping[str, str]) -> pa.Table:
        """Return predictions as a table; a study takes it by the grid's name and the side-car's digest."""
        own = {"grid": sidecar.raw["grid"]["name"], "sidecar": sidecar.sha256}
        return super().table(predictions, sidecar, {**own, **facts})
