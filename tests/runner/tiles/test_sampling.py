"""What an epoch takes is a function of seed and epoch: balanced as asked, in turn, the same on any number of ranks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slideduck.betons import Sidecar, read_sidecar
from slideduck.errors import ConfigError
from slideduck.runner.ranks.dist import Place
from slideduck.runner.settings.train_config import SAMPLE_COLUMNS, TrainConfig
from slideduck.runner.tiles.conditions import COLUMNS
from slideduck.runner.tiles.loader import rank_rows, steps_and_batch
from slideduck.runner.tiles.open import open_data
from slideduck.runner.tiles.rows import class_weights
from slideduck.runner.tiles.sampling import Sampler, clipped_rows, group_tiles, make_sampler
from slideduck.runner.training.train import train
from tests.campaign import cases
from tests.runner.betons import TileSpec, stripes, two_textures, write_beton

BETON = Path("tiles.beton")
# Tiles of each slide by class; patient P has slides A and B; slide D has no site.
TILES = {"A": (30, 6), "B": (4, 8), "C": (50, 0), "D": (12, 10)}


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Sidecar:
    image = stripes(np.random.default_rng(0), across=False)
    tiles = [TileSpec(slide, k, image) for slide, counts in TILES.items() for k in (0, 1) for _ in range(counts[k])]
    path = tmp_path_factory.mktemp("sampling") / "tiles.beton"
    write_beton(path, tiles, patient_of={"A": "P", "B": "P"}, site_of={"A": "X", "B": "X", "C": "Y"})
    return read_sidecar(path)


def sampler(sidecar: Sidecar, rows: np.ndarray | None = None, **settings: Any) -> Sampler:
    rows = np.arange(sidecar.samples) if rows is None else rows
    return make_sampler(sidecar, rows, TrainConfig(**settings), BETON)


def shares(sidecar: Sidecar, rows: np.ndarray, column: str) -> dict[Any, int]:
    values = {"slide": sidecar.tile_slide, "label": sidecar.class_number, "patient": sidecar.tile_patient}[column]
    return dict(sorted(Counter(values[rows].tolist()).items()))


def test_columns_to_balance_by_are_those_of_a_condition() -> None:
    assert set(SAMPLE_COLUMNS) == set(COLUMNS) - {"row", "tile_id"}


@dataclass(frozen=True)
class Case:
    """A drawn set of training tiles, and how to sample it."""

    rows: np.ndarray
    settings: dict[str, Any]
    batch_size: int
    world_size: int


@st.composite
def drawn_cases(draw: st.DrawFn) -> Case:
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    rows = rng.permutation(120)[: draw(st.integers(8, 120))]
    sample = draw(st.sampled_from(["natural", "label", "slide", "patient,slide", "slide,label", "site,label,grid_y"]))
    chosen: dict[str, Any] = {"sample": sample, "replacement": draw(st.sampled_from(["no", "yes"]))}
    if draw(st.booleans()):
        chosen["epoch_tiles"] = draw(st.integers(1, 8))
    return Case(rows, {**chosen, "seed": draw(st.integers(0, 3))}, draw(st.integers(1, 8)), draw(st.integers(1, 4)))


@settings(max_examples=cases(150, 3000), deadline=None)
@given(case=drawn_cases(), epoch=st.integers(0, 50))
def test_ranks_together_see_what_one_sees(sidecar: Sidecar, case: Case, epoch: int) -> None:
    try:
        chosen = sampler(sidecar, case.rows, **case.settings)
    except ConfigError:
        return  # More tiles than the smallest group allows.
    steps, batch_size = steps_and_batch(chosen.tiles, case.batch_size, case.world_size)
    total = steps * batch_size * case.world_size
    order = chosen.with_tiles(total).order(epoch)[:total]
    parts = [rank_rows(order, batch_size, steps, rank, case.world_size) for rank in range(case.world_size)]
    assert [len(part) for part in parts] == [steps * batch_size] * case.world_size
    together = np.concatenate([part.reshape(steps, batch_size) for part in parts], axis=1).reshape(-1)
    assert np.array_equal(together, order)
    assert set(order) <= set(case.rows)
    if case.settings["replacement"] == "no":
        assert len(set(order)) == len(order)
    # Neither the order of the rows nor the number of ranks is in it.
    again = sampler(sidecar, np.sort(case.rows), **case.settings).with_tiles(total)
    assert np.array_equal(again.order(epoch)[:total], order)


def test_without_settings_the_order_is_that_of_a_permutation_by_seed_and_epoch(sidecar: Sidecar) -> None:
    chosen = sampler(sidecar, seed=3)
    rows = np.arange(sidecar.samples)
    assert np.array_equal(chosen.order(4), np.random.default_rng([3, 4]).permutation(rows))
    assert chosen.shares is None
    orders = {sampler(sidecar, seed=seed).order(epoch).tobytes() for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


def test_an_epoch_takes_as_many_of_each_group_as_the_smallest_has(sidecar: Sidecar) -> None:
    for sample, tiles, column, expected in (
        ("label", 48, "label", {0: 24, 1: 24}),
        ("slide", 48, "slide", {"A": 12, "B": 12, "C": 12, "D": 12}),
        # As Slideflow's BALANCE_BY_PATIENT: the part of patient P is shared out over its two slides.
        ("patient,slide", 66, "slide", {"A": 11, "B": 11, "C": 22, "D": 22}),
        ("patient", 66, "patient", {"C": 22, "D": 22, "P": 22}),
        # Slide B has 4 tiles of class 0, half of its part.
        ("slide,label", 32, "slide", {"A": 8, "B": 8, "C": 8, "D": 8}),
    ):
        chosen = sampler(sidecar, sample=sample)
        assert chosen.tiles == tiles
        for epoch in range(3):
            assert shares(sidecar, chosen.order(epoch), column) == expected, sample
    rows = sampler(sidecar, sample="slide,label").order(0)
    assert shares(sidecar, rows[sidecar.tile_slide[rows] == "D"], "label") == {0: 4, 1: 4}
    assert shares(sidecar, rows[sidecar.tile_slide[rows] == "C"], "label") == {0: 8}


@pytest.mark.parametrize("sample", ["natural", "label", "slide,label"])
def test_every_tile_has_its_turn_before_any_of_its_group_comes_again(sidecar: Sidecar, sample: str) -> None:
    chosen = sampler(sidecar, sample=sample, epoch_tiles=10)
    groups = chosen.groups
    assert groups is not None
    came = np.zeros(sidecar.samples, int)
    for epoch in range(200):
        order = chosen.order(epoch)
        assert len(order) == len(set(order)) == 10
        np.add.at(came, order, 1)
        for number in range(len(groups.names)):
            of_group = came[groups.of_tile == number]
            assert of_group.max() - of_group.min() <= 1
    # And over epochs each group had its part, to the tile.
    due = np.bincount(groups.of_tile, came)
    assert np.abs(due - 2000 / groups.parts).max() < 2


def test_draws_with_replacement_have_the_weights_of_the_groups(sidecar: Sidecar) -> None:
    chosen = sampler(sidecar, sample="slide,label", replacement="yes", epoch_tiles=200_000)
    rows = chosen.order(0)
    assert len(rows) == 200_000
    counts = shares(sidecar, rows, "slide")
    assert all(abs(count - 50_000) < 1000 for count in counts.values())
    of_a = shares(sidecar, rows[sidecar.tile_slide[rows] == "A"], "label")
    assert abs(of_a[0] - of_a[1]) < 1000
    # Within a group all tiles are alike: 30 share what 6 do.
    times = np.bincount(rows, minlength=sidecar.samples)
    assert times[:30] == pytest.approx(25_000 / 30, rel=0.2)
    assert times[30:36] == pytest.approx(25_000 / 6, rel=0.1)
    assert not np.array_equal(chosen.order(1), rows)
    # By default as many as there are tiles.
    assert sampler(sidecar, sample="label", replacement="yes").tiles == sidecar.samples


def test_what_sampling_balances_is_not_weighed_again(sidecar: Sidecar) -> None:
    labels = sidecar.class_number
    for sample, expected in (("label", [1.0, 1.0]), ("slide", None)):
        chosen = sampler(sidecar, sample=sample)
        weights = class_weights(labels, 2, "loss", chosen.shares)
        assert chosen.shares is not None
        # The mean over an epoch is 1, as without sampling.
        assert (weights[labels] * chosen.shares).sum() == pytest.approx(1)
        if expected:
            assert weights.tolist() == pytest.approx(expected)


def test_a_group_of_tiles_without_a_value_is_one_more_group(sidecar: Sidecar) -> None:
    groups = group_tiles(sidecar, np.arange(sidecar.samples), ["site", "label"], BETON)
    assert groups.names == (
        "site X, label chequers", "site X, label stripes", "site Y, label stripes", "no site, label chequers",
        "no site, label stripes",
    )  # fmt: skip
    assert groups.counts.tolist() == [14, 34, 50, 10, 12]
    assert groups.parts.tolist() == [6, 6, 3, 6, 6]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"sample": "roi_name"},
            "tiles.beton: sample is 'roi_name' but no training tile has a roi_name",
        ),
        (
            {"epoch_tiles": 121},
            "tiles.beton: epoch_tiles is 121 but 120 tiles train, so that an epoch without repeats has 120 tiles at "
            "most; give fewer with `epoch_tiles`, or `replacement='yes'`",
        ),
        (
            {"sample": "label", "epoch_tiles": 49},
            "tiles.beton: epoch_tiles is 49 but label chequers has 24 tiles, so that an epoch without repeats has 48 "
            "tiles at most; give fewer with `epoch_tiles`, or `replacement='yes'`",
        ),
    ],
)
def test_what_cannot_be_sampled_is_refused(sidecar: Sidecar, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        sampler(sidecar, **settings)
    assert str(error.value) == message


@settings(max_examples=cases(40, 800), deadline=None)
@given(clip=st.integers(1, 60), seed=st.integers(0, 5))
def test_clipping_leaves_exactly_the_number_that_was_given(sidecar: Sidecar, clip: int, seed: int) -> None:
    rows = np.arange(sidecar.samples)
    kept = clipped_rows(sidecar, rows, clip, seed)
    # Above the number of tiles all stay.
    assert shares(sidecar, kept, "slide") == {slide: min(clip, sum(counts)) for slide, counts in TILES.items()}
    assert kept.tolist() == sorted(set(kept.tolist()))
    # What a slide gives does not depend on the other slides.
    alone = rows[sidecar.tile_slide[rows] == "A"]
    assert set(clipped_rows(sidecar, alone, clip, seed)) == set(kept) & set(alone)


def test_another_seed_clips_other_tiles(sidecar: Sidecar) -> None:
    rows = np.arange(sidecar.samples)
    assert len({clipped_rows(sidecar, rows, 5, seed).tobytes() for seed in range(4)}) == 4
    assert clipped_rows(sidecar, rows, None, 0) is rows


@pytest.mark.parametrize("accumulate", [1, 3, 4, 50])
def test_an_epoch_is_of_whole_steps_so_that_all_it_counts_is_trained_on(beton: Path, accumulate: int) -> None:
    config = TrainConfig(batch_size_per_rank=8, sample="label", epoch_tiles=100, accumulate=accumulate)
    place = Place(1, 2, torch.device("cpu"), 1)
    data = open_data(beton, config, place)
    # Six global batches of 16 are in 100 tiles.
    assert data.steps == {1: 6, 3: 6, 4: 4, 50: 6}[accumulate]
    assert data.sampler.tiles == len(data.sampler.order(3)) == data.steps * 16
    assert len(data.epoch_rows(3, place)) == data.steps * 8


def test_a_balanced_run_trains_what_it_says_and_validates_every_tile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiles = [tile for i, tile in enumerate(two_textures(320)) if tile.label == 0 or i % 4 == 0]
    path = write_beton(tmp_path / "a.beton", tiles)
    config = TrainConfig(
        model="networks:tiny", epochs=2, batch_size_per_rank=8, lr=1e-2, sample="label", clip=24, epoch_tiles=20
    )
    summary = train(path, tmp_path / "run", config)
    sidecar = read_sidecar(path)
    is_train = sidecar.tile_split == "train"
    assert summary["metrics"]["step"] == 2 * 2
    assert summary["metrics"]["val/tiles"] == np.count_nonzero(~is_train)
    told = capsys.readouterr().err.splitlines()
    of_slides = np.unique(sidecar.slide[is_train], return_counts=True)[1]
    clipped = int(np.maximum(of_slides - 24, 0).sum())
    train_rows = clipped_rows(sidecar, np.flatnonzero(is_train), 24, 0)
    smallest = int(sidecar.class_number[train_rows].sum())
    assert told[1:3] == [
        f"{clipped} training tiles are left out: at most 24 of a slide",
        f"balanced by label: 2 groups, of which label chequers has {smallest} tiles; an epoch takes 16",
    ]
    with pytest.raises(ConfigError) as error:
        train(path, tmp_path / "new", replace(config, epoch_tiles=1), nproc=1)
    assert str(error.value) == (
        f"{path}: 1 training tile for 1 process with batches of 8; each process needs two tiles a step: "
        "give fewer with `nproc`, or a larger `batch_size_per_rank`"
    )
