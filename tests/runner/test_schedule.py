"""The learning rate rises in a line and falls along a cosine."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slideduck.runner.schedule import lr_at


def test_by_hand() -> None:
    rates = [lr_at(step, lr=8.0, warmup_steps=4, total_steps=8) for step in range(9)]
    half = 4 * (1 + math.cos(math.pi / 4)), 4 * (1 + math.cos(3 * math.pi / 4))
    assert rates == pytest.approx([2, 4, 6, 8, 8, half[0], 4, half[1], 0])


def test_without_warmup_the_first_step_has_the_highest_rate() -> None:
    assert lr_at(0, lr=0.1, warmup_steps=0, total_steps=10) == pytest.approx(0.1)


@settings(max_examples=100, deadline=None)
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
