"""The disk that a run's checkpoints need, looked at before it trains."""

from __future__ import annotations

import shutil

from torch import nn

from slideduck.errors import DiskFullError
from slideduck.runner.runs.runfolder import STEP_CHECKPOINTS, RunFolder
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.words import counted

__all__ = ["require_space"]


def require_space(folder: RunFolder, network: nn.Module, config: TrainConfig) -> None:
    """Raise if the disk of a new run has no room for its checkpoints.

    Parameters
    ----------
    folder : RunFolder
        It need not exist.
    network : nn.Module
        What trains.
    config : TrainConfig
        The settings.

    Raises
    ------
    DiskFullError
        With what they need, what is free, and what to do.
    """
    weights = sum(value.nbytes for value in [*network.parameters(), *network.buffers()])
    # AdamW keeps two numbers a weight that trains.
    whole = weights + 2 * sum(weight.nbytes for weight in network.parameters() if weight.requires_grad)
    whole += weights if config.ema_decay else 0
    of_steps = STEP_CHECKPOINTS if config.checkpoint_steps or config.checkpoint_minutes else 0
    # last.pt, and one that is being written beside it.
    kept = 2 + of_steps
    needed = kept * whole + weights
    there = next(path for path in [folder.path, *folder.path.parents] if path.exists())
    disk = shutil.disk_usage(there)
    if disk.total == 0 or needed <= disk.free:
        return
    fewer = "; or keep none within an epoch: `checkpoint_steps=0` and `checkpoint_minutes=0`" if of_steps else ""
    raise DiskFullError(
        f"{folder.path}: {counted(kept, 'checkpoint')} of {_size(whole)} and best.pt of {_size(weights)} need "
        f"{_size(needed)}, and the disk of {there} has {_size(disk.free)} free; free some, or give a `run` on another "
        f"disk{fewer}"
    )


def _size(n_bytes: int) -> str:
    """Return a number of bytes in words."""
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:,.2f} MB"
