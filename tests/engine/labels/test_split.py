"""Splits: whole patients, balanced labels, a function of names and seed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slideduck.errors import SplitError
from slideduck.labels.balance import assign_sides, merge_by_site
from tests.campaign import cases


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[list[str], np.ndarray]:
    n = draw(st.integers(4, 25))
    labels = draw(st.integers(1, 4))
    seed = draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    tiles = rng.integers(0, 2000, (n, labels)) * (rng.random((n, labels)) < 0.7)
    return [f"p{i}" for i in rng.permutation(n)], tiles.astype(np.int64)


@settings(max_examples=cases(60, 1200), deadline=None)
@given(cohorts(), st.sampled_from([(0.7, 0.3), (0.5, 0.5), (0.25,) * 4]), st.integers(0, 5))
def test_every_patient_has_one_side_and_no_side_is_empty(
    cohort: tuple[list[str], np.ndarray], fractions: tuple[float, ...], seed: int
) -> None:
    side = assign_sides(*cohort, fractions, seed)
    assert sorted(set(side.tolist())) == list(range(len(fractions)))


@settings(max_examples=cases(40, 800), deadline=None)
@given(cohorts(), st.integers(0, 5), st.randoms(use_true_random=False))
def test_order_of_the_rows_does_not_matter(cohort: tuple[list[str], np.ndarray], seed: int, random: object) -> None:
    names, tiles = cohort
    order = list(range(len(names)))
    random.shuffle(order)  # type: ignore[attr-defined]
    first = dict(zip(names, assign_sides(names, tiles, (0.7, 0.3), seed).tolist(), strict=True))
    shuffled = [names[i] for i in order]
    second = dict(zip(shuffled, assign_sides(shuffled, tiles[order], (0.7, 0.3), seed).tolist(), strict=True))
    assert first == second


def test_another_seed_gives_another_split() -> None:
    names = [f"patient {i}" for i in range(30)]
    tiles = np.full((30, 2), 100, dtype=np.int64)
    splits = {tuple(assign_sides(names, tiles, (0.7, 0.3), seed).tolist()) for seed in range(5)}
    assert len(splits) == 5


@settings(max_examples=cases(25, 500), deadline=None)
@given(st.integers(0, 10_000))
def test_balance_is_near_the_best_that_whole_patients_allow(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tiles = rng.integers(0, 1000, (10, 3)).astype(np.int64)
    names = [f"p{i}" for i in range(10)]
    totals = tiles.sum(axis=0)

    def imbalance(val: list[int]) -> float:
        held = tiles[val].sum(axis=0) / totals
        # Both sides, the labels and the number of patients, as the notes of assign_sides say.
        return 2 * float(np.square(held - 0.3).sum() + (len(val) / 10 - 0.3) ** 2)

    ours = imbalance(np.flatnonzero(assign_sides(names, tiles, (0.7, 0.3), seed)).tolist())
    every = [imbalance(list(c)) for k in range(1, 10) for c in itertools.combinations(range(10), k)]
    assert ours <= np.quantile(every, 0.03)


def test_a_label_of_two_patients_is_on_both_sides() -> None:
    names = [f"p{i}" for i in range(12)]
    tiles = np.full((12, 1), 1000, dtype=np.int64)
    rare = np.zeros((12, 1), dtype=np.int64)
    for pair in itertools.combinations(range(12), 2):
        rare[:] = 0
        rare[list(pair)] = 5
        side = assign_sides(names, np.hstack([tiles, rare]), (0.7, 0.3), 0)
        assert {int(side[i]) for i in pair} == {0, 1}


def test_too_few_patients() -> None:
    with pytest.raises(SplitError) as caught:
        assign_sides(["only"], np.ones((1, 1), dtype=np.int64), (0.7, 0.3), 0)
    assert str(caught.value) == "1 patient cannot fill 2 sides; add slides of more patients, or ask for fewer folds"


def test_a_patient_of_two_sites_joins_them() -> None:
    assert merge_by_site(["a", "b", "c", "d"], [["X"], ["Y", "Z"], ["Z"], ["X"]]) == [0, 1, 1, 0]
