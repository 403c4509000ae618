"""What FFCV's thread of an epoch asks for: the beton's bytes, memory for batches, and the decoding.

Of one beton any number of epochs may be read at once: each has rows, buffers and a thread of its own.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slideduck.betons.format import AGAIN, MODES
from slideduck.betons.pages import Sums
from slideduck.errors import BetonError
from slideduck.runner.tiles.compiled import CHANGED, decoder
from slideduck.runner.tiles.ffcv_parts import AllocationQuery, EpochIterator, Reader, allocate_query

__all__ = ["BetonSource", "Epoch"]

Rows = NDArray[np.int64]

_BATCHES_AHEAD = 3
#: Tiles that are requested from the disk beyond the batch that is being decoded.
_TILES_AHEAD = 256
#: Comparing a JPEG with its sum takes a hundredth of its decoding; pixels are only copied, which takes as long. So of
#: batches of pixels one of so many is compared.
_RAW_TURNS = 32
_NO_SUMS: Sums = np.zeros(0, np.uint32)


class Epoch(EpochIterator):  # type: ignore[misc]
    """FFCV's thread of one epoch; it keeps its error for the reader, where FFCV's own dies in silence."""

    error: BaseException | None = None

    def run(self) -> None:
        """Fill the queue until the epoch ends, it is told to stop, or something fails."""
        try:
            super().run()
        except BaseException as error:
            self.error = error

    def run_pipeline(self, b_ix: int, batch_indices: list[Rows], batch_slot: int, cuda_event: Any) -> Any:
        """Read and decode one batch, and refuse tiles that do not decode."""
        (rows,) = batch_indices
        self.loader.read_ahead.advance(len(rows))
        result = super().run_pipeline(b_ix, rows, batch_slot, cuda_event)
        found = self.memory_allocations["operation"]["verdicts"][batch_slot, : len(rows), 0]
        bad = np.flatnonzero(found)
        if len(bad):
            self.loader.source.refuse(int(rows[bad[0]]), changed=bool(found[bad[0]] == CHANGED))
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
    source : BetonSource
        The beton.
    rows : ndarray of int64
        The rows of the epoch, in order.
    """

    def __init__(self, source: BetonSource, rows: Rows) -> None:
        self.source, self.rows = source, rows
        self.done = self.asked = 0

    def advance(self, tiles: int) -> None:
        """Request what comes after the next `tiles`, which are being read now."""
        self.done += tiles
        first, self.asked = self.asked, min(self.done + _TILES_AHEAD, len(self.rows))
        if not hasattr(os, "posix_fadvise"):
            return
        rows, fd = self.rows[first : self.asked], self.source.file.fileno()
        for start, size in zip(self.source.starts[rows].tolist(), self.source.sizes[rows].tolist(), strict=True):
            os.posix_fadvise(fd, start, size, os.POSIX_FADV_WILLNEED)


class BetonSource:
    """A beton whose tiles are read: its tables, and its bytes as a map.

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
    images, labels, numbers : ndarray, (samples,)
        What FFCV's tables say of each image, its class number, and its row.
    starts, sizes : ndarray of int64, (samples,)
        Where the image of each row is, bytes.
    data : ndarray of uint8
        The bytes of the file.
    """

    def __init__(self, path: Path, threads: int, memory: int, sums: Sums | None) -> None:
        self.path, self.threads, self.sums = path, threads, sums
        self.reader = Reader(str(path))
        self.images, self.labels, self.numbers = (self.reader.metadata[f"f{field}"] for field in range(3))
        table = np.sort(self.reader.alloc_table, order="ptr")
        self.starts: Rows = self.images["data_ptr"].astype(np.int64)
        self.sizes: Rows = table["size"][np.searchsorted(table["ptr"], self.images["data_ptr"])].astype(np.int64)
        self.file = path.open("rb")
        self.data = np.memmap(path, "uint8", mode="r")
        self.epochs = 0
        if path.stat().st_size > memory // 2 and hasattr(mmap, "MADV_RANDOM"):
            self.data._mmap.madvise(mmap.MADV_RANDOM)  # type: ignore[attr-defined]

    def epoch(self, batches: Sequence[Rows]) -> Epoch:
        """Start the thread that reads some batches, in their order.

        Parameters
        ----------
        batches : sequence of ndarray of int64
            The rows of each, at least one.
        """
        reading = _Reading(self, batches)
        self.epochs += 1
        return Epoch(reading, batches)

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


class _Reading:
    """What FFCV's thread of one epoch asks of its loader.

    Parameters
    ----------
    source : BetonSource
        The beton.
    batches : sequence of ndarray of int64
        The rows of each batch.
    """

    batches_ahead = _BATCHES_AHEAD
    #: FFCV cuts the order that it is given: an order of batches, each of which is one piece.
    batch_size = 1

    def __init__(self, source: BetonSource, batches: Sequence[Rows]) -> None:
        self.source, self.reader, self.num_workers = source, source.reader, source.threads
        self.tiles = max(len(rows) for rows in batches)
        self.read_ahead = _ReadAhead(source, np.concatenate(batches))
        # All batches have their turn, in an order that stays the same too.
        self.turn = source.epochs

    # FFCV's names for its parts. As properties, so that nothing refers to itself and the beton is closed with the last
    # reference to its loader.

    @property
    def memory_manager(self) -> _Reading:
        """What maps the bytes: itself."""
        return self

    @property
    def graph(self) -> _Reading:
        """What knows the memory that a batch needs: itself."""
        return self

    @property
    def code(self) -> tuple[list[tuple[Callable[..., Any], tuple[str, ...]]], tuple[str, ...]]:
        """The stages, each a function with the names of what it returns, and the names of what a batch is."""
        names = ("images", "labels", "rows")
        return [(self._decode, names)], names

    def schedule_epoch(self, _batches: Any) -> _Mapped:
        """Return the source of an epoch's bytes."""
        return _Mapped()

    def allocate_memory(self, _pieces: int, batches: int) -> dict[str, dict[str, NDArray[Any]]]:
        """Return memory for `batches` batches, page-locked where there is a GPU."""
        images = self.source.images
        height, width = int(images["height"][0]), int(images["width"][0])
        asked = {
            "images": AllocationQuery((height, width, 3), np.dtype("u1")),
            "verdicts": AllocationQuery((1,), np.dtype("<i8")),
            "labels": AllocationQuery((1,), np.dtype("<i8")),
            "rows": AllocationQuery((1,), np.dtype("<i8")),
        }
        memory = {name: allocate_query(one, self.tiles, batches) for name, one in asked.items()}
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
        source = self.source
        starts, sizes = source.starts[batch_indices], source.sizes[batch_indices]
        is_jpeg = bool(source.images["mode"][0] == MODES["jpg"])
        is_compared = source.sums is not None and (is_jpeg or self.turn % _RAW_TURNS == 0)
        self.turn += 1
        sums = source.sums[batch_indices] if source.sums is not None and is_compared else _NO_SUMS
        decoder(self.num_workers > 1)(source.data, starts, sizes, sums, is_jpeg, memory_images, memory_verdicts)
        memory_labels[:, 0] = source.labels[batch_indices]
        memory_rows[:, 0] = source.numbers[batch_indices]
        return memory_images, memory_labels, memory_rows


class _Mapped(nullcontext[None]):
    """The bytes of a beton that stay mapped, for FFCV's thread, which would prepare each batch of others."""

    state = None

    def start_batch(self, _batch: int) -> None:
        """Do nothing: the bytes are read as they are needed."""
