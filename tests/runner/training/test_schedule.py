"""The learning rate rises in a line and falls along a cosine, or as another schedule has it."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slideduck.runner.training.schedule import lr_at, plateau_factor
from tests.campaign import cases


def test_by_hand() -> None:
    rates = [lr_at(step, lr=8.0, warmup_steps=4, total_steps=8) for step in range(9)]
    half = 4 * (1 + math.cos(math.pi / 4)), 4 * (1 + math.cos(3 * math.pi / 4))
    assert rates == pytest.approx([2, 4, 6, 8, 8, half[0], 4, half[1], 0])


def test_without_warmup_the_first_step_has_the_highest_rate() -> None:
    assert lr_at(0, lr=0.1, warmup_steps=0, total_steps=10) == pytest.approx(0.1)


@settings(max_examples=cases(100, 2000), deadline=None)
@given(
    warmup=st.integers(0, 50),
    decay=st.integers(1, 200),
    lr=st.floats(1e-6, 10),
)
def test_it_rises_then_falls_and_stays_above_zero(warmup: int, decay: int, lr: float) -> None:
    total = warmup + decay
    rates = [lr_at(step, lr=lr, warmup_steps=warmup, total_steps=total) for step in range(total)]
    assert all(0 < rate <= lr * (1 + 1e-12) for rate in rates)
    assert all(before < after for before, after in pairwise(rates[:warmup]))
    assert all(before >= after for before, after in pairwise(rates[warmup:]))
    assert max(rates) == pytest.approx(lr)


@pytest.mark.parametrize("total", [4, 10, 57, 200])
def test_onecycle_is_torch_s(total: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.3, total_steps=total, cycle_momentum=False)
    for step in range(total):
        mine = lr_at(step, lr=0.3, warmup_steps=2, total_steps=total, schedule="onecycle")
        assert mine == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        if step + 1 < total:
            optimizer.step()
            theirs.step()


@pytest.mark.parametrize("total", [1, 2, 3])
def test_a_onecycle_of_a_few_steps_only_falls(total: int) -> None:
    rates = [lr_at(step, lr=1.0, warmup_steps=0, total_steps=total, schedule="onecycle") for step in range(total)]
    assert rates[0] == 1.0
    assert all(before > after > 0 for before, after in pairwise(rates))


def test_constant_and_plateau_warm_up_first() -> None:
    for schedule, factor in (("constant", 1.0), ("plateau", 0.1)):
        rates = [
            lr_at(step, lr=4.0, warmup_steps=2, total_steps=9, schedule=schedule, factor=factor)
            for step in (0, 1, 2, 8)
        ]
        assert rates == pytest.approx([2, 4, 4 * factor, 4 * factor])


def test_a_plateau_waits_and_then_falls() -> None:
    options: dict[str, Any] = {"mode": "min", "patience": 1, "factor": 0.5, "min_delta": 0.01}
    losses = [1.0, 0.5, 0.495, 0.5, 0.5, 0.2, 0.3, 0.3]
    factors = [plateau_factor(losses[:n], **options) for n in range(len(losses) + 1)]
    # 0.495 is no better than 0.5 by more than 0.01; after two such epochs the rate falls.
    assert factors == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25]
    assert plateau_factor([0.5, 0.6, 0.6, 0.6], **{**options, "mode": "max"}) == 0.5
    assert plateau_factor([math.inf, math.inf, math.inf], **options) == 0.5
