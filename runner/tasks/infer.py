"""Predictions of rows of a beton, on one rank: what validation and evaluation share."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from slideduck.runner.networks.forward import Forward, evaluating
from slideduck.runner.tasks.task import P, Task
from slideduck.runner.tiles.loader import TileLoader, to_device

__all__ = ["predict_rows"]


def predict_rows(forward: Forward, task: Task[P], loader: TileLoader, rows: NDArray[np.int64], batch_size: int) -> P:
    """Predict rows of a beton, each once, in their order.

    Parameters
    ----------
    forward : Forward
        The network.
    task : Task
        What it has learnt.
    loader : TileLoader
        Reads the tiles.
    rows : ndarray of int64, (n,)
        May be none.
    batch_size : int
        Tiles at a time.

    Returns
    -------
    Predictions
        Of the task's kind. Targets are as the beton has them, or the loader's.
    """
    outputs: list[torch.Tensor] = []
    targets: list[torch.Tensor] = []
    with evaluating(forward.network), loader.epoch(rows, batch_size) as batches:
        for batch in to_device(batches, forward.device):
            outputs.append(task.activate(forward(batch.images_BCHW)))
            targets.append(batch.labels)
    if not outputs:
        none = np.zeros(0, np.int64) if loader.targets is None else loader.targets[:0]
        return task.predictions(rows, none, np.zeros((0, task.n_outputs), np.float32))
    return task.predictions(rows, torch.cat(targets).cpu().numpy(), torch.cat(outputs).cpu().numpy())
