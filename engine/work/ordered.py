"""Work that threads do ahead, a bounded number of items at a time, and give in the order of the items."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

__all__ = ["in_order"]

T = TypeVar("T")
R = TypeVar("R")


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T], *, ahead: int
) -> Generator[tuple[T, Future[R]], None, None]:
    """Do some work on items in the threads of a pool, and give each item with its future, done, in their order.

    Parameters
    ----------
    pool : ThreadPoolExecutor
        The threads.
    work : callable
        Called with one item in a thread.
    items : iterable
        Read only as far as the work goes, in the caller's thread.
    ahead : int
        Items in flight at most, which bounds memory and open files; some more than threads keep these busy.

    Yields
    ------
    item, future
        The future has a result or an exception; nothing is raised here.

    Notes
    -----
    Closed at any moment, it drops the items that no thread has begun, and waits for those in work: what they use may
    be closed next. A block that raises is to close it, by `contextlib.closing`.
    """
    pending: deque[tuple[T, Future[R]]] = deque()
    try:
        for item in items:
            pending.append((item, pool.submit(work, item)))
            if len(pending) >= ahead:
                wait([pending[0][1]])
                yield pending.popleft()
        while pending:
            wait([pending[0][1]])
            yield pending.popleft()
    finally:
        for _, future in pending:
            future.cancel()
        wait([future for _, future in pending])
