"""A task: what a network's outputs mean, their loss, and the metrics of predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from slideduck.betons import Sidecar
from slideduck.errors import ConfigError
from slideduck.runner.scores.assess import assess_file, patient_numbers
from slideduck.runner.scores.predictions import Predictions
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.words import counted

__all__ = ["Ints", "P", "Task", "TileFacts", "entropies", "named", "parts_of_epoch"]

P = TypeVar("P", bound=Predictions)
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class TileFacts:
    """The facts of the training tiles that a task needs; a checkpoint holds them.

    Attributes
    ----------
    weights : sequence of float, (outputs,)
        Weight of a tile by its class, or of a label where a tile has it.
    mean, std : sequence of float, (outputs,)
        Of the training tiles' numbers, where these are learnt.
    """

    weights: Sequence[float]
    mean: Sequence[float]
    std: Sequence[float]

    @classmethod
    def none(cls, n_outputs: int) -> Self:
        """Return the facts that are assumed without training tiles."""
        return cls([1.0] * n_outputs, [0.0] * n_outputs, [1.0] * n_outputs)


class Task(ABC, Generic[P]):
    """What a network learns, with what it needs of the training tiles.

    There is one class for each task; `slideduck.runner.tasks.kinds` has them by name.

    Parameters
    ----------
    config : TrainConfig
        ``loss``, ``label_smoothing`` and ``focal_gamma`` count.
    names : sequence of str
        Names of the outputs: classes, labels or columns of numbers.
    facts : TileFacts
        Of the training tiles.
    device : torch.device
        Where it is computed.

    Attributes
    ----------
    name : str
        As in the settings.
    nouns : str
        What its outputs are, in words.
    gives : str
        What users are given: ``"probabilities"`` or ``"numbers"``.
    tells_classes : bool
        True if each tile is of one class: what temperatures and the likeliest class are for.
    predictions : type of Predictions
        Its kind of predictions.
    names : list of str
        Names of the outputs.
    """

    name: ClassVar[str]
    nouns: ClassVar[str]
    gives: ClassVar[str] = "probabilities"
    tells_classes: ClassVar[bool] = False
    predictions: type[P]

    def __init__(self, config: TrainConfig, names: Sequence[str], facts: TileFacts, device: torch.device) -> None:
        self.config, self.names = config, list(names)
        self.weights = torch.tensor(facts.weights, dtype=torch.float32, device=device)
        self.mean = torch.tensor(facts.mean, dtype=torch.float32, device=device)
        self.std = torch.tensor(facts.std, dtype=torch.float32, device=device)

    # Of the task itself, whatever a network has learnt.

    @classmethod
    @abstractmethod
    def facts_of(
        cls, config: TrainConfig, names: Sequence[str], targets: NDArray[Any], shares: NDArray[np.float64] | None
    ) -> TileFacts:
        """Return the facts of the training tiles.

        Parameters
        ----------
        config : TrainConfig
            The settings.
        names : sequence of str
            Names of the outputs.
        targets : ndarray
            Targets of the training tiles.
        shares : ndarray of float64 or None
            The part of an epoch that each of them has, where these differ; see
            `slideduck.runner.tiles.rows.class_weights`.

        Raises
        ------
        ConfigError
            If there is nothing to learn.
        """

    @classmethod
    @abstractmethod
    def absent(cls, names: Sequence[str], targets: NDArray[Any]) -> list[str]:
        """Return the outputs that no tile of these targets has: they cannot be learnt."""

    @classmethod
    @abstractmethod
    def describe(cls, names: Sequence[str], target: Any) -> str:
        """Return the target of one tile in words."""

    @classmethod
    @abstractmethod
    def purpose(cls, names: Sequence[str]) -> str:
        """Return what a network does that has learnt it, as the model card says it: ``"that tells ..."``."""

    @classmethod
    def reach(cls, names: Sequence[str]) -> str:
        """Return which tiles a network says something of, as the model card says it."""
        return "It says something of every tile: of ink, folds, and tissue that it never saw as well."

    # Of a network's outputs.

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""
        return len(self.names)

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint, beside the settings and the names."""
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
        wanted = (len(targets), self.n_outputs)
        if outputs.shape != wanted:
            raise ConfigError(
                f"model {self.config.model!r} returned logits of shape {tuple(outputs.shape)} for "
                f"{counted(len(targets), 'tile')} and {self.n_outputs} {self.nouns}; it must return {wanted}"
            )
        return self.tile_losses(outputs, targets)

    @abstractmethod
    def tile_losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of each tile, (batch,), of outputs of the right shape."""

    @abstractmethod
    def activate(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return a network's outputs as predictions hold them, float32 (batch, outputs)."""

    def given(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return a network's outputs as users get them, float32 (batch, outputs): see `gives`."""
        return self.activate(outputs).exp()

    @property
    def unit(self) -> NDArray[np.float32]:
        """What differences of what is given are counted in, (outputs,) or (1,)."""
        return np.ones(1, np.float32)

    @property
    def focal_gamma(self) -> float:
        """Exponent of the focal loss; 0 where the loss is another."""
        return self.config.focal_gamma if self.config.loss == "focal" else 0.0

    # Of predictions.

    @abstractmethod
    def metrics_of(self, predictions: P, slides: Ints, patients: Ints) -> dict[str, Any]:
        """Return the metrics of predictions of at least one tile; `slides` and `patients` have a number a tile."""

    def metrics(self, predictions: P, sidecar: Sidecar) -> dict[str, Any]:
        """Return the metrics of predictions of a beton's tiles, for tiles, slides and patients."""
        rows = predictions.rows
        return self.metrics_of(predictions, sidecar.slide[rows].astype(np.int64), patient_numbers(sidecar, rows))

    def blank_metrics(self, rows: Ints, targets: NDArray[Any], sidecar: Sidecar) -> dict[str, Any]:
        """Return the metrics of predictions that know nothing: the names are known before any network predicts.

        Parameters
        ----------
        rows : ndarray of int64, (n,)
            Rows of the beton.
        targets : ndarray
            Of these rows.
        sidecar : Sidecar
            The beton's.
        """
        outputs = self.activate(torch.zeros(len(rows), self.n_outputs)).numpy()
        return self.metrics(self.predictions(rows, targets, outputs), sidecar)

    @abstractmethod
    def losses(self, predictions: P) -> NDArray[np.float64]:
        """Return the loss of each tile, not weighted, (n,); the metric ``loss`` is their mean."""

    def assessment(self, path: Path) -> dict[str, Any]:
        """Return the assessment of predictions in a file, by `slideduck.runner.scores.assess.assess`."""
        return assess_file(path)

    @classmethod
    def entropy(cls, given: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Return the entropy of what is given of each tile, nats, (n,); None where that is no probability."""
        return None

    @classmethod
    def decided(cls, names: Sequence[str], given: NDArray[np.float64]) -> tuple[list[str], NDArray[np.float64]] | None:
        """Return what each tile is said to be, as text, with its probability, (n,); None for numbers."""
        return None

    @classmethod
    @abstractmethod
    def said(cls, names: Sequence[str], given: NDArray[np.float64]) -> dict[str, pa.Array]:
        """Return the columns of a table of what a network says of tiles, whatever they are."""

    @abstractmethod
    def columns(self, predictions: P) -> dict[str, pa.Array]:
        """Return the columns of a table of predictions beside each tile's name, slide and patient."""

    def table(self, predictions: P, sidecar: Sidecar, facts: Mapping[str, str]) -> pa.Table:
        """Return predictions as a table: one row a tile, in the order of the beton.

        Columns are ``tile_id, slide, patient`` and those of `columns`. The schema names task and target, and the grid
        and the digest of the side-car, by which a study takes it.

        Parameters
        ----------
        facts : mapping of str
            Kept in the table's schema, such as the epoch.
        """
        rows = predictions.rows
        columns = {
            "tile_id": pa.array(sidecar.tile_id[rows], pa.string()),
            "slide": pa.array(sidecar.tile_slide[rows], pa.string()),
            "patient": pa.array(sidecar.tile_patient[rows], pa.string()),
            **self.columns(predictions),
        }
        own = {
            "task": self.name,
            "target": self.config.target,
            "grid": sidecar.raw["grid"]["name"],
            "sidecar": sidecar.sha256,
        }
        return pa.table(columns).replace_schema_metadata({**own, **facts})


def parts_of_epoch(n_tiles: int, shares: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return the part of an epoch that each of some tiles has, (n,); they sum to 1."""
    return np.full(n_tiles, 1 / n_tiles) if shares is None else shares / shares.sum()


def named(values: NDArray[Any], prefix: str, names: Sequence[str]) -> dict[str, pa.Array]:
    """Return the columns of an array of float64, (n, outputs), by the names of the outputs."""
    return {
        f"{prefix}{name}": pa.array(column.astype(np.float64)) for name, column in zip(names, values.T, strict=True)
    }


def entropies(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what each probability adds to an entropy, -p log p, nats; 0 adds 0."""
    return np.asarray(-probabilities * np.log(np.where(probabilities > 0, probabilities, 1)))
