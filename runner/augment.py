"""Random flips and quarter turns, on the device, the same on any number of ranks."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["epoch_positions", "turn"]

# Keeps these draws apart from those of the order, which has the same seed.
_STREAM = 1


def epoch_positions(
    seed: int, epoch: int, batch_size: int, steps: int, rank: int, world_size: int
) -> NDArray[np.uint8]:
    """Return which of its eight positions each tile of an epoch is turned to.

    They are drawn for the global batches, by (seed, epoch), and cut across ranks as the tiles are.

    Returns
    -------
    ndarray of uint8, (steps, batch_size)
        Numbers from 0 to 7; see `turn`.
    """
    drawn = np.random.default_rng([seed, epoch, _STREAM]).integers(
        0, 8, (steps, world_size, batch_size), dtype=np.uint8
    )
    return np.ascontiguousarray(drawn[:, rank])


def turn(images_BCHW: torch.Tensor, positions_B: torch.Tensor) -> torch.Tensor:
    """Return each square tile in one of its eight positions (the symmetries of the square).

    Parameters
    ----------
    images_BCHW : torch.Tensor, (batch, channels, side, side)
        Tiles.
    positions_B : torch.Tensor of uint8, (batch,)
        Bit 0 flips left and right, then bit 1 up and down, then bit 2 swaps x and y; the eight
        combinations are the eight positions, each once.

    Returns
    -------
    torch.Tensor
        New tiles of the same shape, type and memory order.
    """
    bits = positions_B.view(-1, 1, 1, 1)
    images = torch.where((bits & 1) > 0, images_BCHW.flip(3), images_BCHW)
    images = torch.where((bits & 2) > 0, images.flip(2), images)
    return torch.where((bits & 4) > 0, images.transpose(2, 3), images)
