"""Tiles from a beton by FFCV, in an order of our own, that neither hangs, leaks nor repeats a tile.

The order of an epoch is a function of (seed, epoch) alone and is cut across ranks a global batch at a
time, so that two ranks with batches of B see what one rank with batches of 2B sees. FFCV's own sharding
is not used: it pads, and validates some tiles twice.
"""

from __future__ import annotations

import mmap
import os
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from slideduck.betons import BetonInfo, check_beton
from slideduck.betons.format import AGAIN, MODES
from slideduck.betons.pages import Sums
from slideduck.errors import BetonError, RunError, SlideduckError
from slideduck.runner.tiles.compiled import CHANGED, decoder
from slideduck.runner.tiles.ffcv_parts import AllocationQuery, EpochIterator, Reader, allocate_query
from slideduck.store.db import machine_memory

__all__ = ["TIMEOUT_S", "Batch", "TileLoader", "rank_rows", "steps_and_batch", "to_device"]

Rows = NDArray[np.int64]

#: Longest wait for a batch by default, seconds.
TIMEOUT_S = 300.0

_BATCHES_AHEAD = 3
#: Tiles that are requested from the disk beyond the batch that is being decoded.
_TILES_AHEAD = 256
_POLL_SECONDS = 0.5
_STOP_SECONDS = 30.0
#: Comparing a JPEG with its sum takes a hundredth of its decoding; pixels are only copied, which takes as long. So of
#: batches of pixels one of so many is compared.
_RAW_TURNS = 32
_NO_SUMS: Sums = np.zeros(0, np.uint32)
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


class _Epoch(EpochIterator):  # type: ignore[misc]
    """FFCV's thread of one epoch; it keeps its error for the reader, where FFCV's own dies in silence."""

    error: BaseException | None = None

    def run(self) -> None:
        """Fill the queue until the epoch ends, it is told to stop, or something fails."""
        try:
            super().run()
        except BaseException as error:
            self.error = error

    def run_pipeline(self, b_ix: int, batch_indices: Rows, batch_slot: int, cuda_event: Any) -> Any:
        """Read and decode one batch, and refuse tiles that do not decode."""
        self.loader.read_ahead.advance((b_ix + 1) * self.loader.batch_size)
        result = super().run_pipeline(b_ix, batch_indices, batch_slot, cuda_event)
        verdicts = self.memory_allocations["operation"]["verdicts"]
        found = verdicts[batch_slot, : len(batch_indices), 0]
        bad = np.flatnonzero(found)
        if len(bad):
            self.loader.refuse(int(batch_indices[bad[0]]), changed=bool(found[bad[0]] == CHANGED))
        return result


class _ReadAhead:
    """Asks the system for the tiles of the next batches, so that they are read together, not one at a time.

    Tiles come in random order through a map of the file. Left to itself the system reads a stretch around
    each (from 128 KiB up to 8 MiB, by the machine), of which little is used before it is dropped again
    where the file is larger than the memory. So for a large file that is switched off, and in either case
    the bytes of each tile to come, and no others, are asked for.

    FFCV's own cache of pages serves such files only in an order that mixes few pages at a time: with a
    random one it keeps nearly all of them.

    Parameters
    ----------
    path : Path
        The beton.
    starts, sizes : ndarray of int64, (samples,)
        Where the image of each row is, bytes.
    """

    def __init__(self, path: Path, starts: Rows, sizes: Rows) -> None:
        self.file = path.open("rb")
        self.starts, self.sizes = starts, sizes
        self.rows: Rows = np.zeros(0, np.int64)
        self.asked = 0

    def start(self, rows: Rows) -> None:
        """Begin with the rows of an epoch."""
        self.rows, self.asked = rows, 0

    def advance(self, done: int) -> None:
        """Request the rows after the first `done`, which are being read now."""
        first, self.asked = self.asked, min(done + _TILES_AHEAD, len(self.rows))
        if not hasattr(os, "posix_fadvise"):
            return
        rows = self.rows[first : self.asked]
        for start, size in zip(self.starts[rows].tolist(), self.sizes[rows].tolist(), strict=True):
            os.posix_fadvise(self.file.fileno(), start, size, os.POSIX_FADV_WILLNEED)


class _Source:
    """What FFCV's thread of an epoch asks of its loader: the beton's bytes, memory for batches, and the decoding.

    FFCV's own loader compiles its code anew for every beton, and walks through all tiles in Python as it is made.

    Parameters
    ----------
    path : Path
        The beton, checked.
    threads : int
        Threads that decode.
    memory : int
        Bytes of memory that there are: in a beton of more than half of it the system is to read no more than is asked.
    sums : ndarray of uint32, (samples,), or None
        What tiles are compared with before they are decoded.

    Attributes
    ----------
    rows : ndarray of int64
        Rows of the next epoch, in order.
    batch_size : int
        Tiles in a batch of it.
    """

    batches_ahead = _BATCHES_AHEAD

    def __init__(self, path: Path, threads: int, memory: int, sums: Sums | None) -> None:
        self.path, self.num_workers, self.sums = path, threads, sums
        self.reader = Reader(str(path))
        self.rows: Rows = np.zeros(0, np.int64)
        self.batch_size = 1
        self.epochs = self.turn = 0
        self.images, self.labels, self.numbers = (self.reader.metadata[f"f{field}"] for field in range(3))
        table = np.sort(self.reader.alloc_table, order="ptr")
        self.starts = self.images["data_ptr"].astype(np.int64)
        self.sizes = table["size"][np.searchsorted(table["ptr"], self.images["data_ptr"])].astype(np.int64)
        self.read_ahead = _ReadAhead(path, self.starts, self.sizes)
        self.data = np.memmap(path, "uint8", mode="r")
        if path.stat().st_size > memory // 2 and hasattr(mmap, "MADV_RANDOM"):
            self.data._mmap.madvise(mmap.MADV_RANDOM)  # type: ignore[attr-defined]

    # FFCV's names for its parts. As properties, so that nothing refers to itself and the beton is closed with the last
    # reference to its loader.

    @property
    def memory_manager(self) -> _Source:
        """What maps the bytes: itself."""
        return self

    @property
    def graph(self) -> _Source:
        """What knows the memory that a batch needs: itself."""
        return self

    @property
    def code(self) -> tuple[list[tuple[Callable[..., Any], tuple[str, ...]]], tuple[str, ...]]:
        """The stages, each a function with the names of what it returns, and the names of what a batch is."""
        names = ("images", "labels", "rows")
        return [(self._decode, names)], names

    def epoch(self) -> _Epoch:
        """Start the thread of an epoch."""
        self.read_ahead.start(self.rows)
        # All batches have their turn, in an order that stays the same too.
        self.turn = self.epochs
        self.epochs += 1
        return _Epoch(self, self.rows)

    def refuse(self, row: int, *, changed: bool) -> None:
        """Refuse a tile that is not as it was written, or does not decode."""
        if not changed:
            raise BetonError(f"{self.path}: row {row}: its JPEG does not decode; export the beton again")
        first, size = int(self.starts[row]), int(self.sizes[row])
        raise BetonError(
            f"{self.path} was changed after its pages were compared with their checksums: row {row} (bytes {first:,} "
            f"to {first + size - 1:,}) is not as it was written; see what else: slideduck verify {self.path}; then "
            f"{AGAIN}: the same command gives the same bytes"
        )

    def schedule_epoch(self, _batches: Any) -> _Mapped:
        """Return the source of an epoch's bytes."""
        return _Mapped()

    def allocate_memory(self, batch_size: int, batches: int) -> dict[str, dict[str, NDArray[Any]]]:
        """Return memory for `batches` batches, page-locked where there is a GPU."""
        height, width = int(self.images["height"][0]), int(self.images["width"][0])
        asked = {
            "images": AllocationQuery((height, width, 3), np.dtype("u1")),
            "verdicts": AllocationQuery((1,), np.dtype("<i8")),
            "labels": AllocationQuery((1,), np.dtype("<i8")),
            "rows": AllocationQuery((1,), np.dtype("<i8")),
        }
        memory = {name: allocate_query(one, batch_size, batches) for name, one in asked.items()}
        return {"operation": memory, "shared": {}}

    def _decode(
        self,
        batch_indices: Rows,
        memory_images: NDArray[np.uint8],
        memory_verdicts: Rows,
        memory_labels: Rows,
        memory_rows: Rows,
        **_others: Any,
    ) -> tuple[NDArray[np.uint8], Rows, Rows]:
        """Fill the memory of a batch; FFCV calls it with these names."""
        starts, sizes = self.starts[batch_indices], self.sizes[batch_indices]
        is_jpeg = bool(self.images["mode"][0] == MODES["jpg"])
        is_compared = self.sums is not None and (is_jpeg or self.turn % _RAW_TURNS == 0)
        self.turn += 1
        sums = self.sums[batch_indices] if self.sums is not None and is_compared else _NO_SUMS
        decoder(self.num_workers > 1)(self.data, starts, sizes, sums, is_jpeg, memory_images, memory_verdicts)
        memory_labels[:, 0] = self.labels[batch_indices]
        memory_rows[:, 0] = self.numbers[batch_indices]
        return memory_images, memory_labels, memory_rows


class _Mapped(nullcontext[None]):
    """The bytes of a beton that stay mapped, for FFCV's thread, which would prepare each batch of others."""

    state = None

    def start_batch(self, _batch: int) -> None:
        """Do nothing: the bytes are read as they are needed."""


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
        self._source = _Source(self.path, threads, machine_memory() if memory is None else memory, sums)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class number of every row of the beton, -1 for none."""
        return np.asarray(self._source.labels, np.int64)

    @contextmanager
    def epoch(self, rows: Rows, batch_size: int) -> Iterator[Iterator[tuple[Any, Any, Rows]]]:
        """Read `rows` in their order, in batches; leaving the block early stops the reading.

        Parameters
        ----------
        rows : ndarray of int64
            Row numbers in the beton; may be none.
        batch_size : int
            Tiles in a batch; the last may be smaller.

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
        if len(rows) == 0:
            yield iter(())
            return
        # FFCV looks rows up without checking them.
        if rows.min() < 0 or rows.max() >= self.info.samples:
            bad = rows.min() if rows.min() < 0 else rows.max()
            raise ValueError(f"row {bad} of {self.info.samples} is none of the beton's")
        self._source.rows = np.ascontiguousarray(rows, np.int64)
        self._source.batch_size = min(batch_size, len(rows))
        epoch = self._source.epoch()
        try:
            yield self._batches(epoch, torch.get_num_threads())
        finally:
            self._stop(epoch)

    def _batches(self, epoch: _Epoch, torch_threads: int) -> Iterator[tuple[Any, Any, Rows]]:
        """Yield batches until the epoch ends; raise where FFCV would wait for ever."""
        done = 0
        while done < len(self._source.rows):
            images, labels, rows = self._next(epoch)
            if not done:
                # FFCV's thread set those of torch, and of its libraries, to its own before it read anything.
                torch.set_num_threads(torch_threads)
            rows = rows.reshape(-1)
            asked = self._source.rows[done : done + len(rows)]
            if not np.array_equal(rows, asked):
                at = int(np.flatnonzero(rows != asked)[0])
                raise BetonError(f"{self.path}: row {asked[at]} says that it is row {rows[at]}; export the beton again")
            done += len(rows)
            yield images, labels.reshape(-1) if self.targets is None else self.targets[rows], rows

    def _next(self, epoch: _Epoch) -> tuple[Any, Any, Any]:
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

    def _stop(self, epoch: _Epoch) -> None:
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
