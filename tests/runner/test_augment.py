"""Flips and quarter turns: the eight positions of a square, the same on any number of ranks."""

from __future__ import annotations

import numpy as np
import torch

from slideduck.runner.augment import epoch_positions, turn


def test_the_eight_numbers_are_the_eight_positions_of_the_square() -> None:
    image = np.arange(2 * 5 * 5, dtype=np.uint8).reshape(2, 5, 5)
    images = torch.from_numpy(np.repeat(image[None], 8, axis=0))
    turned = turn(images, torch.arange(8, dtype=torch.uint8)).numpy()
    expected = {np.rot90(flipped, k, axes=(1, 2)).tobytes() for flipped in (image, image[:, :, ::-1]) for k in range(4)}
    assert {tile.tobytes() for tile in turned} == expected
    assert len(expected) == 8


def test_each_tile_is_turned_by_its_own_number() -> None:
    images = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8)
    positions = torch.randint(0, 8, (64,), dtype=torch.uint8)
    together = turn(images, positions)
    for i in range(64):
        assert torch.equal(together[i], turn(images[i : i + 1], positions[i : i + 1])[0])


def test_ranks_cut_up_what_one_rank_draws() -> None:
    one = epoch_positions(7, 3, 12, 5, 0, 1)
    three = np.concatenate([epoch_positions(7, 3, 4, 5, rank, 3) for rank in range(3)], axis=1)
    assert np.array_equal(one, three)


def test_epochs_and_seeds_draw_anew_and_evenly() -> None:
    drawn = {epoch_positions(seed, epoch, 16, 4, 0, 1).tobytes() for seed in range(3) for epoch in range(3)}
    assert len(drawn) == 9
    counts = np.bincount(epoch_positions(0, 0, 1000, 80, 0, 1).reshape(-1), minlength=8)
    assert np.abs(counts - 10_000).max() < 500
