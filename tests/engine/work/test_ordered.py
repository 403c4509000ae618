"""Threads work ahead, bounded, and what they give comes in order."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slideduck.work.ordered import in_order


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 3), st.integers(1, 8))
def test_results_come_in_the_order_of_the_items(delays: list[int], threads: int, ahead: int) -> None:
    def work(item: tuple[int, int]) -> int:
        time.sleep(item[1] / 5000)
        return item[0]

    with ThreadPoolExecutor(threads) as pool:
        found = [future.result() for _, future in in_order(pool, work, enumerate(delays), ahead=ahead)]
    assert found == list(range(len(delays)))


def test_items_are_read_only_as_far_as_the_work_goes() -> None:
    read: list[int] = []

    def items() -> object:
        for i in range(100):
            read.append(i)
            yield i

    with ThreadPoolExecutor(2) as pool, closing(in_order(pool, str, items(), ahead=5)) as running:  # type: ignore[arg-type]
        assert next(running)[1].result() == "0"
        assert read == [0, 1, 2, 3, 4]
        next(running)
        assert read == [0, 1, 2, 3, 4, 5]


def test_an_error_is_the_item_s_own_and_the_others_go_on() -> None:
    def work(item: int) -> int:
        return 6 // item

    with ThreadPoolExecutor(2) as pool:
        found = list(in_order(pool, work, [3, 0, 2], ahead=4))
    assert [item for item, _ in found] == [3, 0, 2]
    assert found[0][1].result() == 2
    with pytest.raises(ZeroDivisionError):
        found[1][1].result()
    assert found[2][1].result() == 3


def test_closed_early_it_waits_for_what_is_at_work_and_begins_nothing_more() -> None:
    begun: list[int] = []
    at_work = 0
    lock, may_end = threading.Lock(), threading.Event()

    def work(item: int) -> None:
        nonlocal at_work
        with lock:
            begun.append(item)
            at_work += 1
        if item:
            may_end.wait(10)
        with lock:
            at_work -= 1

    with ThreadPoolExecutor(2) as pool:
        running = in_order(pool, work, range(20), ahead=8)
        next(running)
        threading.Timer(0.05, may_end.set).start()
        running.close()
        assert at_work == 0
        count = len(begun)
        assert count <= 5
    assert len(begun) == count
