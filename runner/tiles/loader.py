"""Tiles from a beton by FFCV, in an order of our own, that neither hangs, leaks nor repeats a tile.

The order of an epoch is a function of (seed, epoch) alone and is cut across ranks a global batch at a
time, so that two ranks with batches of B see what one rank with batches of 2B sees. FFCV's own sharding
is not used: it pads, and validates some tiles twice.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from slideduck.betons import BetonInfo, check_beton
from slideduck.betons.pages import Sums
from slideduck.errors import BetonError, RunError, SlideduckError
from slideduck.runner.tiles.rows import Rows, as_rows
from slideduck.runner.tiles.source import BetonSource, Epoch
from slideduck.store.db import machine_memory

__all__ = ["TIMEOUT_S", "Batch", "TileLoader", "rank_rows", "steps_and_batch", "to_device"]

#: Longest wait for a batch by default, seconds.
TIMEOUT_S = 300.0

_POLL_SECONDS = 0.5
_STOP_SECONDS = 30.0
_NUMBA_THREADS: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]


def steps_and_batch(n: int, batch_size_per_rank: int, world_size: int) -> tuple[int, int]:
    """Return the steps of an epoch and the tiles that each rank takes in a step.

    An epoch is as many whole global batches as there are; with fewer tiles than one global batch it is
    a single smaller step, shared out evenly.

    Parameters
    ----------
    n : int
        Training tiles, of all ranks together.
    batch_size_per_rank, world_size : int
        Tiles that a rank takes in a full step, and the number of ranks.

    Returns
    -------
    steps, batch_size : int
        No steps where there are fewer tiles than ranks.
    """
    steps = n // (batch_size_per_rank * world_size)
    if steps:
        return steps, batch_size_per_rank
    return min(1, n // world_size), n // world_size


def rank_rows(order: Rows, batch_size: int, steps: int, rank: int, world_size: int) -> Rows:
    """Return the rows that one rank trains on in an epoch, in order.

    The order of all ranks together is cut into global batches of ``batch_size * world_size``; rank r takes
    the r-th part of each.

    Parameters
    ----------
    order : ndarray of int64, (n,)
        Rows of the epoch, as from `slideduck.runner.tiles.sampling.Sampler.order`.
    batch_size, steps, rank, world_size : int
        As from `steps_and_batch`.

    Returns
    -------
    ndarray of int64, (steps * batch_size,)
        Row numbers in the beton; what is over a whole global batch is left out.
    """
    whole = order[: steps * batch_size * world_size]
    return np.ascontiguousarray(whole.reshape(steps, world_size, batch_size)[:, rank]).reshape(-1)


@dataclass(frozen=True)
class Batch:
    """Tiles of one step, on the device, and what they are.

    Attributes
    ----------
    images_BCHW : torch.Tensor of uint8, (batch, 3, tile_px, tile_px)
        RGB tiles in memory order channels-last.
    labels : torch.Tensor, (batch,) of int64 or (batch, outputs) of float32
        Class numbers, on the device; -1 for a tile without a label.
    rows : ndarray of int64, (batch,)
        Row numbers in the beton; their slides are ``sidecar.slide[rows]``.
    """

    images_BCHW: torch.Tensor
    labels: torch.Tensor
    rows: Rows


class TileLoader:
    """Reads any rows of a beton in any order; one loader serves training and validation.

    Parameters
    ----------
    beton : path
        The beton, which is checked whole before FFCV sees it: FFCV would crash on a damaged one.
    threads : int
        Threads that decode.
    info : BetonInfo, optional
        What `check_beton` returned for it, if it was called already.
    timeout_s : float
        Longest wait for one batch, seconds.
    memory : int, optional
        Bytes of memory that there are; default what this process may use. In a beton of more than half of it the
        system reads the tiles that are asked for and nothing around them.
    sums : ndarray of uint32, (samples,), optional
        Sums of the tiles, as `slideduck.betons.pages.proven_sums` gives them: every JPEG is compared with its own
        before it is decoded, and of raw pixels a batch of 32, others in each epoch.

    Attributes
    ----------
    targets : ndarray or None
        Targets of all rows, (samples,) or (samples, outputs), that come in place of the beton's labels.

    Raises
    ------
    BetonError
        If the beton is damaged or of another kind.
    """

    def __init__(
        self,
        beton: Path | str,
        threads: int,
        *,
        info: BetonInfo | None = None,
        timeout_s: float = TIMEOUT_S,
        memory: int | None = None,
        sums: Sums | None = None,
    ) -> None:
        self.path = Path(beton)
        self.timeout_s = timeout_s
        self.targets: NDArray[Any] | None = None
        self.info = info or check_beton(self.path)
        # Numba refuses more threads than it has started.
        threads = max(1, min(threads, _NUMBA_THREADS))
        self._source = BetonSource(self.path, threads, machine_memory() if memory is None else memory, sums)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class number of every row of the beton, -1 for none."""
        return np.asarray(self._source.labels, np.int64)

    @contextmanager
    def epoch(self, rows: Iterable[int], batch_size: int | Sequence[int]) -> Iterator[Iterator[tuple[Any, Any, Rows]]]:
        """Read `rows` in their order, in batches; leaving the block early stops the reading.

        Several epochs may be open at once.

        Parameters
        ----------
        rows : sequence of int
            Row numbers in the beton; may be none.
        batch_size : int or sequence of int
            Tiles in a batch; the last may be smaller. Or the tiles of each batch.

        Yields
        ------
        iterator of (images, labels, rows)
            uint8 (batch, tile_px, tile_px, 3) and int64 (batch,), (batch,). They are views of buffers
            that the next but one batch overwrites: copy or move them before asking for it. Where there are
            `targets`, these come as labels.

        Raises
        ------
        BetonError
            If a tile was changed or does not decode, or a row is not the one asked for.
        RunError
            If the reading fails or does not answer in time.
        """
        rows = as_rows(rows, "rows")
        if len(rows) == 0:
            yield iter(())
            return
        # FFCV looks rows up without checking them.
        if rows.min() < 0 or rows.max() >= self.info.samples:
            bad = rows.min() if rows.min() < 0 else rows.max()
            raise ValueError(f"row {bad} of {self.info.samples} is none of the beton's")
        sizes = range(batch_size, len(rows), batch_size) if isinstance(batch_size, int) else np.cumsum(batch_size)[:-1]
        batches = np.split(rows, sizes)
        epoch = self._source.epoch(batches)
        try:
            yield self._batches(epoch, batches)
        finally:
            self._stop(epoch)

    def _batches(self, epoch: Epoch, batches: Iterable[Rows]) -> Iterator[tuple[Any, Any, Rows]]:
        """Yield batches until the epoch ends; raise where FFCV would wait for ever."""
        for asked in batches:
            images, labels, rows = self._next(epoch)
            rows = rows.reshape(-1)
            if not np.array_equal(rows, asked):
                at = int(np.flatnonzero(rows != asked)[0])
                raise BetonError(f"{self.path}: row {asked[at]} says that it is row {rows[at]}; export the beton again")
            yield images, labels.reshape(-1) if self.targets is None else self.targets[rows], rows

    def _next(self, epoch: Epoch) -> tuple[Any, Any, Any]:
        """Return the next batch of the thread's queue, or raise the error that ended the thread."""
        deadline = time.monotonic() + self.timeout_s
        while True:
            try:
                item = epoch.output_queue.get(timeout=min(_POLL_SECONDS, max(deadline - time.monotonic(), 1e-3)))
            except queue.Empty:
                item = None
                if epoch.is_alive() and time.monotonic() > deadline:
                    raise RunError(
                        f"{self.path}: no batch of tiles in {self.timeout_s:g} s; "
                        "is the disk reachable? The same command goes on from the last checkpoint"
                    ) from None
            if item is not None:
                _slot, (images, labels, rows) = item
                return images, labels, rows
            # What the thread left in the queue before it ended comes first.
            if not epoch.is_alive() and epoch.output_queue.empty():
                error = epoch.error
                if isinstance(error, SlideduckError):
                    raise error from None
                raise RunError(f"{self.path}: reading tiles failed: {type(error).__name__}: {error}") from error

    def _stop(self, epoch: Epoch) -> None:
        """End the epoch's thread: an abandoned one keeps its buffers and its place in the queue."""
        epoch.terminate_event.set()
        deadline = time.monotonic() + _STOP_SECONDS
        while epoch.is_alive() and time.monotonic() < deadline:
            try:
                epoch.output_queue.get_nowait()
            except queue.Empty:
                time.sleep(0.002)
        if not epoch.is_alive():
            # A reference to the thread must not keep its buffers alive, which are large.
            epoch.join()
            epoch.memory_allocations = None


def to_device(
    batches: Iterator[tuple[Any, Any, Rows]], device: torch.device, waited: list[float] | None = None
) -> Iterator[Batch]:
    """Move batches to the device, the next one while this one is computed with.

    Parameters
    ----------
    batches : iterator
        As from `TileLoader.epoch`.
    device : torch.device
        Where to.
    waited : list of float, optional
        Its first number grows by the seconds spent waiting for tiles.

    Yields
    ------
    Batch
        The caller's to keep.
    """
    transfer = _Copy() if device.type == "cpu" else _Transfer(device)
    while True:
        transfer.settle()
        started = time.perf_counter()
        item = next(batches, None)
        if waited is not None:
            waited[0] += time.perf_counter() - started
        if item is not None:
            transfer.start(*item)
        if transfer.is_ready(last=item is None):
            yield transfer.take()
        elif item is None:
            return


class _Copy:
    """Copies batches out of FFCV's buffers, one at a time."""

    def __init__(self) -> None:
        self.batches: deque[Batch] = deque()

    def settle(self) -> None:
        """Wait until FFCV's buffers may be overwritten."""

    def start(self, images: Any, labels: Any, rows: Rows) -> None:
        """Copy a batch."""
        images_BCHW = torch.from_numpy(images.copy()).permute(0, 3, 1, 2)
        self.batches.append(Batch(images_BCHW, torch.from_numpy(labels.copy()), rows.copy()))

    def is_ready(self, last: bool) -> bool:
        """Return True if a batch can be taken."""
        return bool(self.batches)

    def take(self) -> Batch:
        """Return the oldest batch."""
        return self.batches.popleft()


class _Transfer(_Copy):
    """Copies batches to a GPU on a stream of their own, one ahead of the computation.

    FFCV's own transfer is not used: its thread may decode into a buffer whose copy to the device is
    still queued behind the computation, unless something makes the host wait for the device each step.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.copied: deque[torch.cuda.Event] = deque()
        self.handed_over: deque[torch.cuda.Event] = deque()

    def settle(self) -> None:
        """Wait for the copies, and let the host be two steps ahead of the device at most."""
        if self.copied:
            self.copied[-1].synchronize()
        while len(self.handed_over) > 2:
            self.handed_over.popleft().synchronize()

    def start(self, images: Any, labels: Any, rows: Rows) -> None:
        """Start the copy; FFCV's buffers are page-locked, so the host does not wait here."""
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self.stream):
            images_BCHW = torch.from_numpy(images).to(self.device, non_blocking=True).permute(0, 3, 1, 2)
            labels_B = torch.from_numpy(labels).to(self.device, non_blocking=True)
            copied.record(self.stream)
        self.copied.append(copied)
        self.batches.append(Batch(images_BCHW, labels_B, rows.copy()))

    def is_ready(self, last: bool) -> bool:
        """Return True once the batch after the oldest is under way, or there is none after it."""
        return len(self.batches) > (0 if last else 1)

    def take(self) -> Batch:
        """Return the oldest batch, which the computing stream waits for."""
        batch = self.batches.popleft()
        current = torch.cuda.current_stream(self.device)
        current.wait_event(self.copied.popleft())
        # The memory came from the copying stream: it is not to be reused before the computation ends.
        batch.images_BCHW.record_stream(current)
        batch.labels.record_stream(current)
        step = torch.cuda.Event()  # type: ignore[no-untyped-call]
        step.record(current)
        self.handed_over.append(step)
        return batch
