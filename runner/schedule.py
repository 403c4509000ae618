"""The learning rate of each step: linear warm-up, then cosine decay to zero."""

from __future__ import annotations

import math

__all__ = ["lr_at"]


def lr_at(step: int, *, lr: float, warmup_steps: int, total_steps: int) -> float:
    """Return the learning rate of one step.

    It rises linearly from ``lr / warmup_steps`` at step 0 to `lr` at step ``warmup_steps - 1``, and
    then follows half a cosine that would reach zero at step `total_steps` (Loshchilov and Hutter,
    SGDR, 2017, equation 5, without restarts).

    Parameters
    ----------
    step : int
        Step from 0, counted over all epochs.
    lr : float
        Highest learning rate.
    warmup_steps, total_steps : int
        Steps of the warm-up, and of the whole run.

    Returns
    -------
    float
        The learning rate; 0 from `total_steps` on.
    """
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    if step >= total_steps:
        return 0.0
    part = (step - warmup_steps) / (total_steps - warmup_steps)
    return lr * 0.5 * (1.0 + math.cos(math.pi * part))
