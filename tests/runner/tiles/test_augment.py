"""Augmentation: what each kind does to pixels, and that draws are the same on any number of ranks."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from slideduck.runner.plots.examples import draw_examples
from slideduck.runner.ranks.dist import Place
from slideduck.runner.settings.recipe import parse_recipe
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tiles import pixels
from slideduck.runner.tiles.augment import Augmenter, epoch_positions, turn
from slideduck.runner.tiles.open import open_data

CPU = torch.device("cpu")
EVERYTHING = "d4,crop:0.5,stain:0.2,colour:0.3,blur:0.5,sharpen:0.5,jpeg:0.5"


def tissue(n: int, side: int = 40, seed: int = 0) -> torch.Tensor:
    """Return uint8 tiles, channels last, of smooth stained shapes with some grain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    tiles = []
    for _ in range(n):
        fx, fy, phase = rng.uniform(2, 9, 3)
        amount = 0.5 + 0.5 * np.sin(fx * x + fy * y + phase)
        colours = rng.uniform([180, 120, 170], [250, 240, 240]), rng.uniform([60, 30, 90], [160, 100, 160])
        image = colours[0] * amount[..., None] + colours[1] * (1 - amount[..., None])
        tiles.append(np.clip(image + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8))
    return torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2)


def augmented(
    text: str, images: torch.Tensor, *, seed: int = 0, epoch: int = 0, step: int = 0, rank: int = 0, ranks: int = 1
) -> torch.Tensor:
    augmenter = Augmenter(parse_recipe(text), seed, CPU)
    augmenter.epoch(epoch, len(images), 4, rank, ranks)
    return augmenter.apply(images, step)


def floats(images: torch.Tensor) -> torch.Tensor:
    return images.to(torch.float32, memory_format=torch.contiguous_format)


def hwc(images: torch.Tensor) -> NDArray[np.float64]:
    return images.permute(0, 2, 3, 1).numpy().astype(np.float64)


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


def test_d4_moves_whole_tiles_by_the_positions_of_the_epoch() -> None:
    images = tissue(6)
    positions = torch.from_numpy(epoch_positions(5, 2, 6, 4, 0, 1))
    result = augmented("d4", images, seed=5, epoch=2, step=3)
    assert result.dtype == torch.uint8
    assert torch.equal(result, turn(images, positions[3]))
    assert augmented("none", images) is images


@pytest.mark.parametrize("text", [EVERYTHING, "crop:0.5", "stain:0.2", "colour:0.3", "blur:0.5", "jpeg:0.5"])
def test_two_ranks_see_what_one_with_twice_the_batch_does(text: str) -> None:
    images = tissue(8)
    whole = augmented(text, images, epoch=1, step=2)
    halves = [augmented(text, images[4 * r : 4 * r + 4], epoch=1, step=2, rank=r, ranks=2) for r in (0, 1)]
    # Rounding to a step of JPEG may fall to the other side; it does not here.
    assert torch.allclose(torch.cat(halves), whole, atol=1e-3)


def test_two_small_batches_are_drawn_as_one_large_one() -> None:
    images = tissue(8)
    whole = augmented(EVERYTHING, images, step=1)
    halves = [augmented(EVERYTHING, images[4 * i : 4 * i + 4], step=2 + i) for i in (0, 1)]
    assert torch.allclose(torch.cat(halves), whole, atol=1e-3)


def test_draws_depend_on_seed_epoch_and_step_and_on_nothing_before() -> None:
    images = tissue(4)
    augmenter = Augmenter(parse_recipe(EVERYTHING), 3, CPU)
    augmenter.epoch(1, 4, 4, 0, 1)
    in_order = [augmenter.apply(images, step) for step in range(4)]
    # A run that goes on in the middle of the epoch.
    assert torch.equal(augmented(EVERYTHING, images, seed=3, epoch=1, step=2), in_order[2])
    results = [*in_order, augmented(EVERYTHING, images, seed=3), augmented(EVERYTHING, images, seed=4, epoch=1)]
    assert all(not torch.equal(a, b) for i, a in enumerate(results) for b in results[:i])
    # Nor does one kind of augmentation shift the draws of another.
    alone = augmented("stain:0.2", images)
    assert torch.equal(augmented("stain:0.2,blur:0,jpeg:0", images), alone)


def test_result_is_float_of_0_to_255_in_channels_last_and_leaves_its_input_alone() -> None:
    # Black, white and saturated colours are what leaves the range most easily.
    images = torch.cat([tissue(12), torch.randint(0, 2, (12, 3, 40, 40), dtype=torch.uint8) * 255])
    images = images.contiguous(memory_format=torch.channels_last)
    before = images.clone()
    for step in range(4):
        result = augmented("d4,crop:0.3,stain:1,colour:1,blur:0.5,sharpen:1:10,jpeg:0.5:1", images, step=step)
        assert result.shape == images.shape
        assert result.dtype == torch.float32
        assert result.is_contiguous(memory_format=torch.channels_last)
        assert torch.isfinite(result).all()
        assert result.min() >= 0
        assert result.max() <= 255
    assert torch.equal(images, before)


def test_nothing_changes_where_the_strength_is_next_to_none() -> None:
    images = tissue(6)
    weak = "crop:0.9999999,stain:1e-6,colour:1e-6,blur:1:0.1,sharpen:1:1e-6"
    assert (augmented(weak, images) - images).abs().max() < 0.05
    black = torch.zeros_like(images)
    assert (augmented("stain:1e-9", black) - black).abs().max() <= 1.001


@pytest.mark.parametrize("side", [8, 31, 40])
def test_tiles_of_any_side_are_taken(side: int) -> None:
    images = tissue(4, side)
    result = augmented("crop:0.5,stain:0.1,colour:0.1,blur:1:4,sharpen:1,jpeg:1", images)
    assert result.shape == images.shape


def test_stains_change_as_in_the_formula_of_scikit_image() -> None:
    images = tissue(5)
    rng = np.random.default_rng(1)
    factors, shifts = rng.uniform(0.8, 1.2, (5, 3)), rng.uniform(-0.1, 0.1, (5, 3))
    matrices, offsets = (torch.from_numpy(array).float() for array in pixels.stain_matrices(factors, shifts))
    mine = hwc(pixels.mix_stains(floats(images), matrices, offsets))
    # rgb2hed and hed2rgb of scikit-image 0.25, which count in units of ln(1e6).
    rgb_from_hed = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
    unit = np.log(1e-6)
    stains = np.log(np.maximum(hwc(images) / 255, 1e-6)) / unit @ np.linalg.inv(rgb_from_hed)
    stains = stains * factors[:, None, None] + shifts[:, None, None] / -unit
    rgb = np.clip(np.exp(stains * unit @ rgb_from_hed), 0, 1)
    assert np.abs(mine - 255 * rgb).max() < 0.01


def test_colours_change_by_the_four_formulas_one_after_the_other() -> None:
    images = tissue(3)
    brightness, contrast, saturation = np.array([[0.9, 1.0, 1.02], [0.8, 1.1, 1.0], [1.2, 0.7, 0.9]])
    hue = np.array([0.0, 0.05, -0.02])
    luma = np.array([0.299, 0.587, 0.114])
    matrices, greys = (
        torch.from_numpy(array).float() for array in pixels.colour_matrices(brightness, contrast, saturation, hue)
    )
    mine = hwc(pixels.mix_colours(floats(images), matrices, greys))
    for i, image in enumerate(hwc(images)):
        expected = image * brightness[i]
        expected = expected * contrast[i] + (1 - contrast[i]) * (expected @ luma).mean()
        expected = expected * saturation[i] + (1 - saturation[i]) * (expected @ luma)[..., None]
        turned = expected @ matrix_of_hue(hue[i]).T
        assert np.abs(mine[i] - np.clip(turned, 0, 255)).max() < 0.01
        # Turning the hue leaves luma as it is.
        assert np.allclose(turned @ luma, expected @ luma)


def matrix_of_hue(turns: float) -> NDArray[np.float64]:
    """Return the rotation of colours by what it leaves: luma, grey, and the length of I and Q."""
    yiq = np.array(
        [[0.299, 0.587, 0.114], [0.59590059, -0.27455667, -0.32134392], [0.21153661, -0.52273617, 0.31119955]]
    )
    c, s = np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)
    result: NDArray[np.float64] = np.linalg.inv(yiq) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ yiq
    return result


def test_crop_enlarges_the_part_that_it_is_given() -> None:
    image = torch.arange(64, dtype=torch.float32).view(1, 1, 8, 8).expand(3, 3, 8, 8)
    sides = torch.tensor([1.0, 0.5, 0.5])
    places = torch.tensor([[0.3, 0.9], [0.0, 0.0], [1.0, 0.5]])
    result = pixels.crop(image.contiguous(), sides, places)
    assert torch.allclose(result[0], image[0], atol=1e-4)
    # An even ramp stays even: the means are those of the parts, 4 x 4 from (0, 0) and from (4, 2).
    assert result[1, 0, 1:-1, 1:-1].mean() == pytest.approx(float(image[0, 0, :4, :4].mean()), abs=1e-3)
    assert result[2, 0, 1:-1, 1:-1].mean() == pytest.approx(float(image[0, 0, 2:6, 4:].mean()), abs=1e-3)


def test_blur_is_a_gaussian_of_its_tile() -> None:
    point = torch.zeros(2, 3, 41, 41)
    point[:, :, 20, 20] = 255
    sigmas = torch.tensor([0.8, 2.0])
    result = pixels.blur(point, sigmas, 2.0).double()
    x = torch.arange(-20, 21, dtype=torch.float64)
    for i, sigma in enumerate(sigmas.tolist()):
        line = torch.exp(-(x**2) / (2 * sigma**2))
        # Beyond three of the largest deviations the kernel ends.
        line = torch.where(x.abs() <= 6, line, 0.0)
        line /= line.sum()
        assert torch.allclose(result[i, 0], 255 * line[:, None] * line, atol=1e-3)


def test_sharpening_adds_what_pillows_smoothing_takes_away() -> None:
    images = tissue(1)
    result = hwc(pixels.sharpen(floats(images), torch.tensor([1.0])))[0]
    image = hwc(images)[0]
    smooth = np.asarray(Image.fromarray(image.astype(np.uint8)).filter(ImageFilter.SMOOTH), np.float64)
    # Pillow rounds, and copies the outermost pixels.
    assert np.abs(result - np.clip(2 * image - smooth, 0, 255))[1:-1, 1:-1].max() <= 0.51


@pytest.mark.parametrize("quality", [10, 30, 50, 75, 95])
def test_jpeg_is_pillows_within_a_few_levels(quality: int) -> None:
    images = tissue(4, 72)
    tables = torch.from_numpy(pixels.quantisation_tables(np.full(4, quality))).float()
    result = hwc(pixels.jpeg(floats(images), tables))
    for mine, image in zip(result, hwc(images).astype(np.uint8), strict=True):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        theirs = np.asarray(Image.open(file), np.float64)
        difference = np.abs(mine - theirs)
        assert difference.mean() < 0.8
        assert np.percentile(difference, 98) <= 5
        # It is the loss of JPEG, not merely near the original.
        assert difference.mean() < np.abs(theirs - image).mean() / 3


def test_quantisation_tables_are_pillows() -> None:
    for quality in (1, 30, 49, 50, 51, 95):
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
        with Image.open(file) as image:
            tables = image.quantization  # type: ignore[attr-defined]
        mine = pixels.quantisation_tables(np.array([quality]))[0]
        assert [list(tables[0]), list(tables[1])] == mine.astype(int).tolist()


def test_parts_of_the_tiles_are_changed_and_the_others_left_to_the_bit() -> None:
    images = tissue(1).expand(400, -1, -1, -1).contiguous(memory_format=torch.channels_last)
    for text in ("blur:0.3", "sharpen:0.3", "jpeg:0.3"):
        changed = (augmented(text, images) != images).flatten(1).any(1).double().mean()
        assert 0.2 < changed < 0.4


def test_the_picture_shows_tiles_of_the_training_side(beton: Path, tmp_path: Path) -> None:
    config = TrainConfig(augment="standard")
    data = open_data(beton, config, Place(0, 1, CPU, 1))
    draw_examples(data, config.augment, 0, tmp_path / "a.png")
    draw_examples(data, config.augment, 0, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (1296, 748)
        # The tiles are there: purple is nowhere else.
        red, green, blue = np.moveaxis(np.asarray(image.convert("RGB"), np.int64), 2, 0)
        assert ((green + 20 < red) & (green + 20 < blue)).mean() > 0.2
