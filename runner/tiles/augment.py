"""Augmentation on the device, drawn by seed and place, the same on any number of ranks.

Every number is a function of the seed, the epoch and the tile's place among those of the epoch: a run on two
ranks, or one that adds up two batches to a step, sees what one with batches of twice the size does, and one
that goes on in the middle of an epoch what it would have seen. Numbers are drawn on the host, where it is
then known which tiles they concern, so that the device is never waited for.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from slideduck.runner.settings.recipe import Recipe
from slideduck.runner.tiles import pixels

__all__ = ["Augmenter", "epoch_positions", "turn"]

# Keep the draws of each kind apart from those of the others, and of the order, which has the same seed.
_STREAM = 1
_CROP, _STAIN, _COLOUR, _BLUR, _SHARPEN, _JPEG = range(2, 8)

#: Numbers that Philox draws at each of its counts.
_NUMBERS_OF_COUNT = 4

#: The highest quality of JPEG that is drawn.
_BEST_QUALITY = 95
#: A Gaussian of this deviation, in pixels, changes nothing.
_LEAST_SIGMA = 0.1


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


class Augmenter:
    """Augments the batches of one rank, an epoch at a time.

    Parameters
    ----------
    recipe : Recipe
        What is done.
    seed : int
        Seed of the run.
    device : torch.device
        Where the tiles are.
    """

    def __init__(self, recipe: Recipe, seed: int, device: torch.device) -> None:
        self.recipe, self.seed, self.device = recipe, seed, device

    def epoch(self, epoch: int, batch_size: int, steps: int, rank: int, world_size: int) -> None:
        """Set the epoch that `apply` is in, and how it is cut; see `slideduck.runner.tiles.loader.rank_rows`."""
        self._epoch, self._batch_size, self._rank, self._world_size = epoch, batch_size, rank, world_size
        if self.recipe.d4:
            positions = epoch_positions(self.seed, epoch, batch_size, steps, rank, world_size)
            self._positions = torch.from_numpy(positions).to(self.device)

    def apply(self, images_BCHW: torch.Tensor, step: int) -> torch.Tensor:
        """Return the tiles of a step, augmented.

        Parameters
        ----------
        images_BCHW : torch.Tensor of uint8, (batch, 3, side, side)
            The tiles of this rank in their order.
        step : int
            Step of the epoch, from 0.

        Returns
        -------
        torch.Tensor, (batch, 3, side, side)
            uint8 if whole tiles were at most moved, else float32 from 0 to 255 and channels last.
        """
        recipe = self.recipe
        images = images_BCHW
        if recipe.d4:
            images = turn(images, self._positions[step, : len(images)])
        if recipe.leaves_pixels:
            return images
        # A copy, which may be written to.
        images = images.to(torch.float32, memory_format=torch.contiguous_format)
        if recipe.crop < 1:
            images = self._crop(images, step)
        if recipe.stain:
            images = self._stain(images, step)
        if recipe.has_colour:
            images = self._colour(images, step)
        if recipe.blur:
            images = self._blur(images, step)
        if recipe.sharpen:
            images = self._sharpen(images, step)
        if recipe.jpeg:
            images = self._jpeg(images, step)
        return images.contiguous(memory_format=torch.channels_last)

    def _drawn(self, stream: int, step: int, tiles: int, numbers: int) -> NDArray[np.float64]:
        """Return random numbers from 0 to 1 for each tile of this rank's part of the global batch."""
        # Philox counts: what it draws for a tile is found at once, by the tile's place in the epoch.
        generator = np.random.Philox(np.random.SeedSequence([self.seed, self._epoch, stream]))
        blocks = -(-numbers // _NUMBERS_OF_COUNT)
        generator.advance((step * self._world_size + self._rank) * self._batch_size * blocks)
        return np.random.Generator(generator).random((tiles, _NUMBERS_OF_COUNT * blocks))[:, :numbers]

    def _sent(self, array: NDArray[np.float64] | NDArray[np.int64]) -> torch.Tensor:
        """Return an array on the device, floats in single precision; the host does not wait."""
        tensor = torch.from_numpy(np.ascontiguousarray(array, np.int64 if array.dtype == np.int64 else np.float32))
        if self.device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _crop(self, images: torch.Tensor, step: int) -> torch.Tensor:
        """Enlarge a part of each tile: areas are even between the least and the whole."""
        drawn = self._drawn(_CROP, step, len(images), 3)
        sides = np.sqrt(self.recipe.crop + (1 - self.recipe.crop) * drawn[:, 0])
        return pixels.crop(images, self._sent(sides), self._sent(drawn[:, 1:]))

    def _stain(self, images: torch.Tensor, step: int) -> torch.Tensor:
        """Change the stains of each tile."""
        drawn = (2 * self._drawn(_STAIN, step, len(images), 6) - 1) * self.recipe.stain
        matrices, offsets = pixels.stain_matrices(1 + drawn[:, :3], drawn[:, 3:])
        return pixels.mix_stains(images, self._sent(matrices), self._sent(offsets))

    def _colour(self, images: torch.Tensor, step: int) -> torch.Tensor:
        """Change brightness, contrast, saturation and hue of each tile."""
        recipe = self.recipe
        strengths = np.array([recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue])
        drawn = (2 * self._drawn(_COLOUR, step, len(images), 4) - 1) * strengths
        brightness, contrast, saturation = (1 + drawn[:, :3]).T
        matrices, greys = pixels.colour_matrices(brightness, contrast, saturation, drawn[:, 3])
        return pixels.mix_colours(images, self._sent(matrices), self._sent(greys))

    def _blur(self, images: torch.Tensor, step: int) -> torch.Tensor:
        """Blur a part of the tiles."""
        drawn = self._drawn(_BLUR, step, len(images), 2)
        chosen = np.flatnonzero(drawn[:, 0] < self.recipe.blur)
        largest = max(self.recipe.blur_sigma, _LEAST_SIGMA)
        sigmas = _LEAST_SIGMA + (largest - _LEAST_SIGMA) * drawn[chosen, 1]
        if len(chosen) == 0:
            return images
        places = self._sent(chosen)
        return images.index_copy_(0, places, pixels.blur(images[places], self._sent(sigmas), largest))

    def _sharpen(self, images: torch.Tensor, step: int) -> torch.Tensor:
        """Sharpen a part of the tiles."""
        drawn = self._drawn(_SHARPEN, step, len(images), 2)
        chosen = np.flatnonzero(drawn[:, 0] < self.recipe.sharpen)
        if len(chosen) == 0:
            return images
        places = self._sent(chosen)
        amounts = self._sent(self.recipe.sharpen_amount * drawn[chosen, 1])
        return images.index_copy_(0, places, pixels.sharpen(images[places], amounts))

    def _jpeg(self, images: torch.Tensor, step: int) -> torch.Tensor:
        """Compress a part of the tiles."""
        drawn = self._drawn(_JPEG, step, len(images), 2)
        chosen = np.flatnonzero(drawn[:, 0] < self.recipe.jpeg)
        if len(chosen) == 0:
            return images
        lowest = self.recipe.jpeg_quality
        qualities = lowest + (drawn[chosen, 1] * (_BEST_QUALITY + 1 - lowest)).astype(np.int64)
        places = self._sent(chosen)
        tables = self._sent(pixels.quantisation_tables(qualities))
        return images.index_copy_(0, places, pixels.jpeg(images[places], tables))
