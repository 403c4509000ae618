"""The pages of a beton are those that were written: compared with the checksums of its side-car, and remembered.

The pages of a beton are read and compared before its tiles are used for the first time on a machine. That is
remembered in the user's cache, for the file as it is then, with a sum of each tile; the loader compares tiles with
their sums as it decodes them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slideduck.betons.format import AGAIN, ALLOCATION, FIELD, FIELDS, HEADER, SAMPLE
from slideduck.betons.journal import checksum
from slideduck.betons.sidecar import Sidecar
from slideduck.errors import BetonError
from slideduck.files.cache import alone, remember, remembered
from slideduck.progress import track
from slideduck.words import message
from slideduck.work.ordered import in_order

__all__ = [
    "PageTables",
    "Sums",
    "check_pages",
    "page_name",
    "proof_key",
    "proven_sums",
    "remember_sums",
    "sum_keys",
    "tile_sums",
]

#: A sum of each tile of a beton, shape (samples,).
Sums = npt.NDArray[np.uint32]

#: Changes where what is remembered would mean something else.
_PROOF = "slideduck proof 1"
_KIND = "betons"
#: Words of a tile that have keys of their own; those of larger tiles take turns.
SUM_KEYS = 1 << 18
#: Pages that each thread has in memory.
_AHEAD = 2
#: A check that takes a second or more is shown.
_BYTES_UNSEEN = 1 << 28


@cache
def sum_keys() -> npt.NDArray[np.uint64]:
    """Return the keys of sums, always the same: raw numbers of a generator that numpy does not change."""
    return np.random.PCG64(20240229).random_raw(SUM_KEYS + 1)


def tile_sums(data: bytes, begins: Iterable[int], sizes: Iterable[int]) -> list[int]:
    """Return a sum of each tile in some bytes.

    It is the multilinear hash of Dietzfelbinger: a sum of words of 32 bits, each times a key of 64, of which the upper
    half is taken. Any change goes unseen with a probability of 2**-32, and one word is a single multiplication: a tile
    is summed in a hundredth of the time that it is decoded in. `slideduck.runner.tiles.compiled` has the same.
    """
    keys = sum_keys()
    found = []
    for begin, size in zip(begins, sizes, strict=True):
        whole = size // 4
        words = np.frombuffer(data, "<u4", whole, begin).astype(np.uint64)
        with np.errstate(over="ignore"):
            total = np.uint64(size) * keys[0]
            for first in range(0, whole, SUM_KEYS):
                part = words[first : first + SUM_KEYS]
                total += np.dot(part, keys[1 : len(part) + 1])
            if size % 4:
                rest = int.from_bytes(data[begin + 4 * whole : begin + size], "little")
                total += np.uint64(rest) * keys[1 + whole % SUM_KEYS]
        found.append(int(total) >> 32)
    return found


def page_name(page: int, pages: int, at: int, page_size: int, rows: npt.NDArray[np.int64]) -> str:
    """Return what a page is called: its number, its bytes and its rows."""
    of_rows = f"; it has the rows {rows[0]} to {rows[-1]}" if len(rows) else ""
    return f"page {page} of {pages} (bytes {at:,} to {at + page_size - 1:,}) is not as it was written{of_rows}"


class PageTables:
    """Where the pages and tiles of a beton are.

    Parameters
    ----------
    path : Path
        The beton, whose tables are checked.
    fd : int
        The same, open.
    sidecar : Sidecar
        Its side-car, which has checksums of pages.

    Attributes
    ----------
    ptr, size : ndarray of int64, (samples,)
        Where each tile begins, and its bytes.
    crc32 : list of int
        Checksum of each page.
    page_size, start : int
        Bytes of a page, and where the first begins.
    bounds : ndarray of int64, (pages + 1,)
        The first row of each page, and the number of rows.

    Raises
    ------
    BetonError
        If the checksums are not those of the beton's pages.
    """

    def __init__(self, path: Path, fd: int, sidecar: Sidecar) -> None:
        self.path, self.fd = path, fd
        pages: dict[str, Any] = sidecar.raw["beton"]["pages"]
        (header,) = np.frombuffer(self.read(0, HEADER.itemsize), HEADER)
        end = int(header["alloc_table_ptr"])
        table = np.frombuffer(self.read(end, sidecar.samples * ALLOCATION.itemsize), ALLOCATION)
        self.ptr, self.size = table["ptr"].astype(np.int64), table["size"].astype(np.int64)
        self.crc32: list[int] = pages["crc32"]
        self.page_size: int = pages["bytes"]
        # Where tiles were left out, the pages may begin one later.
        self.start: int = end - len(self.crc32) * self.page_size
        self.tables_end = HEADER.itemsize + len(FIELDS) * FIELD.itemsize + sidecar.samples * SAMPLE.itemsize
        if self.page_size != header["page_size"] or not self.tables_end <= self.start <= self.ptr[0]:
            raise BetonError(
                f"{sidecar.path} is damaged: it has {len(self.crc32):,} checksums of pages of {self.page_size:,} "
                f"bytes, which are not those of {path}; {AGAIN}"
            )
        # Tiles are in the order of their pages.
        page = (self.ptr - self.start) // self.page_size
        self.bounds = np.searchsorted(page, np.arange(len(self.crc32) + 1))

    def read(self, offset: int, count: int) -> bytes:
        """Return bytes of the file."""
        try:
            data = os.pread(self.fd, count, offset)
        except OSError as error:
            raise BetonError(f"{self.path} cannot be read at byte {offset:,}: {error.strerror}; {AGAIN}") from error
        if len(data) != count:
            raise BetonError(f"{self.path} is cut short at byte {offset + len(data):,}; {AGAIN}")
        return data

    def content(self, page: int) -> bytes | None:
        """Return the bytes of a page; None if they are not those that were written."""
        data = self.read(self.at(page), self.page_size)
        return data if checksum(data) == self.crc32[page] else None

    def at(self, page: int) -> int:
        """Return where a page begins."""
        return self.start + page * self.page_size

    def sums(self, page: int) -> list[int] | None:
        """Return the sums of a page's tiles; None if the page is not as it was written."""
        data = self.content(page)
        if data is None:
            return None
        rows = slice(self.bounds[page], self.bounds[page + 1])
        return tile_sums(data, (self.ptr[rows] - self.at(page)).tolist(), self.size[rows].tolist())

    def name(self, page: int) -> str:
        """Return what a page is called."""
        rows = np.arange(self.bounds[page], self.bounds[page + 1])
        return page_name(page, len(self.crc32), self.at(page), self.page_size, rows)


def check_pages(
    beton: Path, sidecar: Sidecar, *, threads: int, show: bool = False, going_on: Callable[[], None] = lambda: None
) -> Sums | None:
    """Compare all pages of a beton with the checksums of its side-car.

    Parameters
    ----------
    beton : Path
        The beton, whose tables are checked.
    sidecar : Sidecar
        Its side-car.
    threads : int
        Threads that read and compare.
    show : bool
        Show progress, where it takes long.
    going_on : callable
        Called after each page; what it raises ends the check.

    Returns
    -------
    Sums or None
        A sum of each tile, by `tile_sums`; None where the side-car has no checksums.

    Raises
    ------
    BetonError
        If a page is not as it was written, naming each with its bytes and rows.
    """
    if not sidecar.raw["beton"].get("pages"):
        return None
    with beton.open("rb") as file:
        tables = PageTables(beton, file.fileno(), sidecar)
        pages = len(tables.crc32)
        shown = show and pages * tables.page_size >= _BYTES_UNSEEN
        mb = tables.page_size / 1e6
        if tables.read(tables.tables_end, tables.start - tables.tables_end).strip(b"\0"):
            raise BetonError(_refusal(beton, ["the bytes between the tables and the first page are not empty"]))
        sums: Sums = np.zeros(sidecar.samples, np.uint32)
        wrong = []
        with track(f"Checking {beton.name}", round(pages * mb), "MB", show=shown) as advance:
            for page, found in enumerate(_each(tables.sums, range(pages), threads)):
                going_on()
                advance(round((page + 1) * mb) - round(page * mb))
                if found is None:
                    wrong.append(tables.name(page))
                else:
                    sums[tables.bounds[page] : tables.bounds[page + 1]] = found
    if wrong:
        raise BetonError(_refusal(beton, wrong))
    return sums


def _refusal(beton: Path, wrong: list[str]) -> str:
    """Return what is said of pages that changed."""
    more = f" (and {len(wrong) - 5:,} pages more)" if len(wrong) > 5 else ""
    return (
        f"{beton} is damaged: {'. '.join(wrong[:5])}{more}; see which tiles: slideduck verify {beton}; then {AGAIN}: "
        "the same command gives the same bytes"
    )


def _each(work: Callable[[int], Any], items: Iterable[int], threads: int) -> Iterator[Any]:
    """Do some work in threads, and yield the results in their order."""
    with (
        ThreadPoolExecutor(threads, thread_name_prefix="slideduck-pages") as pool,
        closing(in_order(pool, work, items, ahead=_AHEAD * threads)) as running,
    ):
        for _, future in running:
            yield future.result()


def proven_sums(
    beton: Path, sidecar: Sidecar, *, threads: int, show: bool = False, going_on: Callable[[], None] = lambda: None
) -> Sums | None:
    """Return the sums of a beton's tiles, after all its pages were compared: now, or once on this machine.

    Of several processes one compares, and the others wait for it. What it found is remembered for the file as it is:
    its path, device, inode, size, times and side-car.

    Parameters
    ----------
    beton, sidecar, threads, show, going_on
        As in `check_pages`; `going_on` is called while another process compares, too.

    Returns
    -------
    Sums or None
        None where the side-car has no checksums, which is told.

    Raises
    ------
    BetonError
        As `check_pages`.
    """
    if not sidecar.raw["beton"].get("pages"):
        message(f"{sidecar.path} has no checksums of pages: changed tiles would not be noticed; export again for them")
        return None
    key = proof_key(beton, sidecar)
    sums = _known(key, sidecar)
    if sums is None:
        with alone(_KIND, key, going_on):
            sums = _known(key, sidecar)
            if sums is None:
                sums = check_pages(beton, sidecar, threads=threads, show=show, going_on=going_on)
                if sums is not None:
                    remember_sums(beton, sidecar, sums, key)
    return sums


def proof_key(beton: Path, sidecar: Sidecar) -> str:
    """Return a digest of the file as it is now; another one once anything was written to it."""
    about = beton.stat()
    facts = [about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns]
    return hashlib.sha256(json.dumps([_PROOF, os.fspath(beton.absolute()), facts, sidecar.sha256]).encode()).hexdigest()


def remember_sums(beton: Path, sidecar: Sidecar, sums: Sums, key: str) -> None:
    """Remember that all pages are right, unless the file changed meanwhile; tell it where that cannot be done."""
    if proof_key(beton, sidecar) != key:
        return
    why_not = remember(_KIND, key, sums.astype("<u4").tobytes())
    if why_not is not None:
        message(f"{beton} is compared with its checksums each time: {why_not}")


def _known(key: str, sidecar: Sidecar) -> Sums | None:
    """Return the sums that are remembered."""
    content = remembered(_KIND, key)
    if content is None or len(content) != 4 * sidecar.samples:
        return None
    return np.frombuffer(content, "<u4").astype(np.uint32)
