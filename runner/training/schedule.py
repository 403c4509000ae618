"""The learning rate of each step: a function of the step and, for a plateau, of the epochs before.

No schedule has a state of its own, so that a run that resumes has the rates of one that never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

__all__ = ["lr_at", "plateau_factor"]

# The rise's part of a one-cycle, and its first and last rate as parts of the highest: torch's OneCycleLR's defaults.
_ONECYCLE_RISE = 0.3
_ONECYCLE_FIRST = 1 / 25
_ONECYCLE_LAST = _ONECYCLE_FIRST / 1e4


def lr_at(
    step: int, *, lr: float, warmup_steps: int, total_steps: int, schedule: str = "cosine", factor: float = 1.0
) -> float:
    """Return the learning rate of one step.

    But for ``"onecycle"`` it rises linearly from ``lr / warmup_steps`` at step 0 to `lr` at step
    ``warmup_steps - 1``. Then it follows

    - ``"cosine"``: half a cosine that would reach zero at step `total_steps` (Loshchilov and Hutter, SGDR,
      2017, equation 5, without restarts),
    - ``"constant"``: nothing, and stays,
    - ``"plateau"``: `factor`, which depends on the epochs before; see `plateau_factor`.

    ``"onecycle"`` rises from ``lr / 25`` along half a cosine over the first 30 % of the steps, and falls
    along another to ``lr / 250,000`` at the last (Smith and Topin, Super-Convergence, 2018, as torch's
    ``OneCycleLR`` has it by default, the momentum left alone).

    Parameters
    ----------
    step : int
        Step from 0, counted over all epochs.
    lr : float
        Highest learning rate.
    warmup_steps, total_steps : int
        Steps of the warm-up, and of the whole run.
    schedule : str
        ``"cosine"``, ``"onecycle"``, ``"plateau"`` or ``"constant"``.
    factor : float
        What a plateau multiplies with.

    Returns
    -------
    float
        The learning rate; for a cosine 0 from `total_steps` on.
    """
    if schedule == "onecycle":
        return _onecycle(step, lr, total_steps)
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    if schedule == "constant":
        return lr
    if schedule == "plateau":
        return lr * factor
    if step >= total_steps:
        return 0.0
    part = (step - warmup_steps) / (total_steps - warmup_steps)
    return lr * 0.5 * (1.0 + math.cos(math.pi * part))


def _onecycle(step: int, lr: float, total_steps: int) -> float:
    """Return the rate of a one-cycle."""
    top = _ONECYCLE_RISE * total_steps - 1
    if step <= top:
        return _along_cosine(lr * _ONECYCLE_FIRST, lr, step / top)
    # A run of three steps or fewer has no rise.
    first = max(top, 0.0)
    return _along_cosine(lr, lr * _ONECYCLE_LAST, min(1.0, (step - first) / max(total_steps - 1 - first, 1.0)))


def _along_cosine(start: float, end: float, part: float) -> float:
    """Return a value part of the way from start to end, along half a cosine."""
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * part))


def plateau_factor(values: Sequence[float], *, mode: str, patience: int, factor: float, min_delta: float) -> float:
    """Return the factor of the learning rate after epochs whose metric had these values.

    It is torch's ``ReduceLROnPlateau``, given the values one after another: after more than `patience`
    epochs that are not better by more than `min_delta`, the rate falls by `factor`.

    Parameters
    ----------
    values : sequence of float
        The metric of each epoch so far.
    mode : str
        ``"min"`` or ``"max"``: which values are better.
    patience : int
        Epochs to wait.
    factor : float
        Between 0 and 1.
    min_delta : float
        Smallest difference that counts.
    """
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        "min" if mode == "min" else "max",
        factor=factor,
        patience=patience,
        threshold=min_delta,
        threshold_mode="abs",
        eps=0.0,
    )
    for value in values:
        plateau.step(value)
    return float(optimizer.param_groups[0]["lr"])
