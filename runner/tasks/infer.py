"""Predictions of rows of a beton, on one rank: what validation and evaluation share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import nn

from slideduck.betons import Sidecar
from slideduck.errors import ConfigError
from slideduck.runner.networks.build import logits_of, standardise
from slideduck.runner.runs.checkpoint import write_whole
from slideduck.runner.scores.metrics import Predictions
from slideduck.runner.tasks.objective import Objective
from slideduck.runner.tiles.loader import TileLoader, to_device

__all__ = [
    "Standard",
    "evaluating",
    "log_probabilities",
    "precision_context",
    "predict_rows",
    "write_predictions",
]


class Standard:
    """Mean and deviation of the training tiles, on the device.

    Parameters
    ----------
    mean, std : sequence of float
        One a channel, on the scale of 0 to 255.
    device : torch.device
        Where tiles are.
    """

    def __init__(self, mean: list[float], std: list[float], device: torch.device) -> None:
        self.mean = torch.tensor(mean, dtype=torch.float32, device=device).view(1, 3, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float32, device=device).view(1, 3, 1, 1)

    def __call__(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Return uint8 tiles standardised, float32."""
        return standardise(images_BCHW, self.mean, self.std)


def precision_context(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which a network is called: bf16 autocast, or nothing.

    Raises
    ------
    ConfigError
        If bf16 is asked for on a device that does not compute in it.
    """
    capable = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and not capable:
        raise ConfigError(f"precision is 'bf16' but the device, {device.type}, does not have it; use auto or fp32")
    if precision == "fp32" or not capable:
        return nullcontext()
    return torch.autocast("cuda", dtype=torch.bfloat16)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch off dropout and gradients, and put the model back as it was."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def log_probabilities(
    model: nn.Module,
    images_BCHW: torch.Tensor,
    standard: Standard,
    precision: str,
    objective: Objective | None = None,
) -> torch.Tensor:
    """Return the log probabilities of uint8 tiles, float32 (batch, classes), on their device.

    Call it inside `evaluating`. With an `objective` that is none of classes it is what its `activate` gives.
    """
    with precision_context(precision, images_BCHW.device):
        logits = logits_of(model(standard(images_BCHW)))
    return torch.log_softmax(logits.float(), dim=1) if objective is None else objective.activate(logits)


def predict_rows(
    model: nn.Module,
    loader: TileLoader,
    rows: NDArray[np.int64],
    batch_size: int,
    standard: Standard,
    precision: str,
    device: torch.device,
    n_classes: int,
    objective: Objective | None = None,
) -> Predictions:
    """Predict rows of a beton, each once, in their order.

    Parameters
    ----------
    rows : ndarray of int64, (n,)
        May be none.
    objective : Objective, optional
        What the network has learnt; default classes.

    Returns
    -------
    Predictions
        Labels are as the beton has them, or the loader's targets; in place of logarithms of probabilities comes
        what `Objective.activate` gives.
    """
    parts: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    with evaluating(model), loader.epoch(rows, batch_size) as batches:
        for batch in to_device(batches, device):
            parts.append(log_probabilities(model, batch.images_BCHW, standard, precision, objective))
            labels.append(batch.labels)
    if not parts:
        none = np.zeros(0, np.int64) if loader.targets is None else loader.targets[:0]
        return Predictions(rows, none, np.zeros((0, n_classes), np.float32))
    return Predictions(rows, torch.cat(labels).cpu().numpy(), torch.cat(parts).cpu().numpy())


def write_predictions(
    path: Path, predictions: Predictions, sidecar: Sidecar, classes: list[str], facts: dict[str, str]
) -> None:
    """Write predictions as Parquet: one row a tile, in the order of the beton.

    Columns are ``tile_id, slide, patient, label, predicted``, ``loss`` (cross-entropy, nats) and ``prob_CLASS``
    for each class.

    Parameters
    ----------
    facts : dict of str
        Kept in the file's schema, such as the epoch, beside the grid's name and the side-car's digest.
    """
    names = np.array(classes, object)
    rows, logs = predictions.rows, predictions.log_probabilities.astype(np.float64)
    columns: dict[str, object] = {
        "tile_id": pa.array(sidecar.tile_id[rows], pa.string()),
        "slide": pa.array(sidecar.tile_slide[rows], pa.string()),
        "patient": pa.array(sidecar.tile_patient[rows], pa.string()),
        "label": pa.array(names[predictions.labels], pa.string()),
        "predicted": pa.array(names[predictions.predicted], pa.string()),
        "loss": pa.array(-logs[np.arange(len(rows)), predictions.labels], pa.float64()),
    }
    probabilities = predictions.probabilities
    for number, name in enumerate(classes):
        columns[f"prob_{name}"] = pa.array(probabilities[:, number], pa.float64())
    facts = {"grid": sidecar.raw["grid"]["name"], "sidecar": sidecar.sha256, **facts}
    table = pa.table(columns).replace_schema_metadata(facts)
    write_whole(path, lambda file: pq.write_table(table, file))
