"""The decoding of a batch of tiles, compiled by numba once a process, however many betons it reads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array
from numpy.typing import NDArray

from slideduck.betons.pages import Sums, sum_keys
from slideduck.runner.tiles.ffcv_parts import imdecode, memcpy

__all__ = ["CHANGED", "decoder"]

#: The verdict on a tile whose bytes are not those that were compared with the checksums; FFCV's are 0 and 1.
CHANGED = 2

#: Two epochs may be read at once. Numba aborts the process where two threads call parallel code and it has neither TBB
#: nor OpenMP; each batch keeps all threads busy anyhow.
_ONE_AT_A_TIME = threading.Lock()

Bytes = NDArray[np.uint8]
Rows = NDArray[np.int64]


@intrinsic
def _take_next(_context: Any, counter: Any) -> tuple[Any, Callable[..., Any]]:
    """Return the first number of an array of int64 and add one to it, as one step for all threads."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = make_array(signature.args[0])(context, builder, arguments[0])  # type: ignore[no-untyped-call]
        return builder.atomic_rmw("add", array.data, context.get_constant(types.int64, 1), "monotonic")

    return types.int64(counter), generate


def _tile_sum(tile, keys):  # type: ignore[no-untyped-def]
    """Return the sum of a tile, as `slideduck.betons.pages.tile_sums` has it."""
    size, period = len(tile), len(keys) - 1
    words = tile[: size - size % 4].view(np.uint32)
    total = np.uint64(size) * keys[0]
    for first in range(0, len(words), period):
        part = words[first : first + period]
        for i in range(len(part)):
            total += np.uint64(part[i]) * keys[i + 1]
    rest = np.uint64(0)
    for i in range(size % 4):
        rest |= np.uint64(tile[size - size % 4 + i]) << np.uint64(8 * i)
    if rest:
        total += rest * keys[1 + len(words) % period]
    return total >> np.uint64(32)


@cache
def decoder(parallel: bool) -> Callable[..., None]:
    """Return the function that decodes a batch, with one thread or with those that numba is set to.

    It depends on nothing of a beton but the types of its tables, which are the same for all: numba compiles it at
    its first call and never again.

    Parameters
    ----------
    parallel : bool
        Decode with several threads.

    Returns
    -------
    callable
        ``decode(data, starts, sizes, sums, is_jpeg, images, verdicts)`` fills `images`, uint8 (batch, tile_px,
        tile_px, 3), and `verdicts`, int64 (batch, 1), 0 where a tile was decoded and `CHANGED` where its bytes have
        another sum. `data` are the beton's bytes, `starts` and `sizes`, int64 (batch,), the place of each tile in
        them, `sums`, uint32 (batch,), the sum of each, or none.
    """
    options: dict[str, Any] = {"fastmath": True, "nogil": True, "error_model": "numpy"}
    keys, tile_sum = sum_keys(), numba.njit(**options)(_tile_sum)
    decode_jpeg, copy = numba.njit(**options)(imdecode), numba.njit(**options)(memcpy)
    # Within the loop numba gives the context itself.
    take_next: Any = _take_next
    iterate = numba.prange if parallel else range

    def decode(data, starts, sizes, sums, keys, order, taken, is_jpeg, images, verdicts):  # type: ignore[no-untyped-def]
        height, width = images.shape[1], images.shape[2]
        for _thread in iterate(numba.get_num_threads()):
            turn = take_next(taken)
            while turn < len(order):
                i = order[turn]
                tile = data[starts[i] : starts[i] + sizes[i]]
                verdicts[i, 0] = 0
                if len(sums) and tile_sum(tile, keys) != sums[i]:
                    verdicts[i, 0] = CHANGED
                elif is_jpeg:
                    verdicts[i, 0] = decode_jpeg(
                        tile, images[i], height, width, height, width, 0, 0, 1, 1, False, False
                    )
                else:
                    copy(tile, images[i])
                turn = take_next(taken)

    compiled = numba.njit(parallel=parallel, **options)(decode)

    def decode_batch(
        data: Bytes, starts: Rows, sizes: Rows, sums: Sums, is_jpeg: bool, images: Bytes, verdicts: Rows
    ) -> None:
        # Tiles are not equally fast, nor are cores: each thread takes the largest that is left once it is done
        # with one. Equal shares leave a quarter of 16 threads idle, with batches of 64.
        order, taken = np.argsort(sizes)[::-1], np.zeros(1, np.int64)
        with _ONE_AT_A_TIME if parallel else nullcontext():
            compiled(data, starts, sizes, sums, keys, order, taken, is_jpeg, images, verdicts)

    return decode_batch
