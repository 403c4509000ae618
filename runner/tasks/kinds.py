"""The tasks by name, and the task of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tasks.classification import Classification
from slideduck.runner.tasks.multilabel import MultiLabel
from slideduck.runner.tasks.regression import Regression
from slideduck.runner.tasks.task import Task, TileFacts

__all__ = ["make_task", "task_class"]

_TASKS: dict[str, type[Task[Any]]] = {kind.name: kind for kind in (Classification, MultiLabel, Regression)}


def task_class(name: str) -> type[Task[Any]]:
    """Return the class of a task, by its name in the settings."""
    return _TASKS[name]


def make_task(
    config: TrainConfig,
    names: Sequence[str],
    device: torch.device,
    *,
    targets: NDArray[Any] | None = None,
    shares: NDArray[np.float64] | None = None,
    state: Mapping[str, Any] | None = None,
) -> Task[Any]:
    """Return the task of a run: new from its training tiles, or as a checkpoint has it.

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
        `Task.state` of a checkpoint; older ones have none, and need none to predict.

    Raises
    ------
    ConfigError
        If a number is the same for all training tiles.
    """
    kind = task_class(config.task)
    if state is not None:
        facts = TileFacts(state["weights"], state["mean"], state["std"])
    elif targets is not None:
        facts = kind.facts_of(config, names, targets, shares)
    else:
        facts = TileFacts.none(len(names))
    return kind(config, names, facts, device)
