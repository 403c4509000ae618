"""Writes the pages of a beton, so that a writer that was killed can be gone on with.

While it is written the file is called ``OUT.beton.part``; beside it ``OUT.beton.journal`` has a record
of each whole page, with checksums. The next writer of the same plan goes on after the last of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from slideduck.errors import FULL_ERRNOS, BetonError, DiskFullError
from slideduck.layout import (
    ALLOCATION,
    FIELDS,
    HEADER,
    MODES,
    PAGE_SIZE,
    SAMPLE,
    VERSION,
    data_start,
    field_table,
)

__all__ = ["BetonWriter", "WrittenBeton", "sync_folder", "writing"]

_JOURNAL_FORMAT = "slideduck journal 1"
_RECORD = np.dtype([("magic", "<u4"), ("samples", "<u4"), ("page_crc", "<u4"), ("record_crc", "<u4")])
_MAGIC = 0x45474150
_SIZE = np.dtype("<u8")


@dataclass(frozen=True)
class WrittenBeton:
    """What a writer has written.

    Attributes
    ----------
    bytes, samples : int
        Size of the file, and the number of its samples.
    metadata_sha256 : str
        Digest of all but the pages: header, fields, metadata and allocation table.
    """

    bytes: int
    samples: int
    metadata_sha256: str


class BetonWriter:
    """Writes a beton, sample by sample in their order, and goes on where one like it was stopped.

    Parameters
    ----------
    path : Path
        The beton. It appears when `publish` is called, and not before.
    samples : int
        How many samples there will be; the format has the table of metadata before the pages.
    identity : str
        See `slideduck.layout.field_table`.
    plan : str
        What determines every byte of the file, such as a digest. Pages of an earlier writer are used
        again only if its plan, number of samples and page size are the same.
    page_size : int
        Bytes of a page, a power of two; see `slideduck.layout.page_size_for`.

    Attributes
    ----------
    resumed : int
        Samples that an earlier writer had written and that are used again; go on with this row.
    note : str or None
        What became of the pages of an earlier writer that could not be used.

    Raises
    ------
    BetonError
        If the file cannot be made, or another process is writing it.

    Notes
    -----
    The bytes are a function of the samples, the identity and the page size alone. A page of an earlier
    writer is used if its checksum is right, so that nothing has to be flushed to the disk on the way:
    of what a power cut lost, only the pages that are gone are written again.
    """

    def __init__(
        self,
        path: Path,
        *,
        samples: int,
        identity: str = "",
        plan: str = "",
        page_size: int = PAGE_SIZE,
    ) -> None:
        if samples < 1:
            raise ValueError(f"samples is {samples}; FFCV reads no empty file")
        self.path = path
        self.samples = samples
        self.page_size = page_size
        self.part = path.with_name(path.name + ".part")
        self.journal = path.with_name(path.name + ".journal")
        self.rows = 0
        self.note: str | None = None
        self._fields = field_table(identity)
        self._start = data_start(samples, page_size)
        self._metadata = np.zeros(samples, SAMPLE)
        self._sizes = np.zeros(samples, _SIZE)
        self._page = bytearray(page_size)
        self._used = 0
        self._pages = 0
        self._flushed_rows = 0
        self._finished = False
        self._journal_fd = self._part_fd = -1
        try:
            with self._writing():
                self._journal_fd = self._lock(self.journal)
                self._part_fd = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                self._resume(json.dumps([_JOURNAL_FORMAT, plan, samples, page_size]).encode() + b"\n")
        except BaseException:
            self.close()
            raise
        self.resumed = self.rows

    def __enter__(self) -> BetonWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files; what is not published stays, to be gone on with."""
        for fd in (self._part_fd, self._journal_fd):
            if fd >= 0:
                os.close(fd)
        self._part_fd = self._journal_fd = -1

    def write(self, data: bytes, width: int, height: int, *, mode: str = "jpg", label: int = -1) -> None:
        """Append a sample.

        Parameters
        ----------
        data : bytes
            A JPEG, or the pixels of an image by rows, RGB.
        width, height : int
            Size of the image, pixels.
        mode : {"jpg", "raw"}
            Which of the two it is.
        label : int
            Class number, -1 for no label.

        Raises
        ------
        DiskFullError
            If there is no room; the whole pages are kept, and a writer of the same plan goes on there.
        """
        if not 0 < len(data) <= self.page_size or self.rows == self.samples:
            raise ValueError(f"row {self.rows} of {self.samples} has {len(data)} bytes, in pages of {self.page_size}")
        if self._used + len(data) > self.page_size:
            self._flush()
        ptr = self._start + self._pages * self.page_size + self._used
        self._metadata[self.rows] = ((MODES[mode], width, height, ptr), label, self.rows)
        self._sizes[self.rows] = len(data)
        self._page[self._used : self._used + len(data)] = data
        self._used += len(data)
        self.rows += 1

    def finish(self) -> WrittenBeton:
        """Write the last page and the tables, and flush the file to the disk.

        The file keeps its temporary name until `publish`.
        """
        if self.rows != self.samples:
            raise ValueError(f"{self.rows} of {self.samples} samples were written")
        if self._used:
            self._flush()
        allocations = np.zeros(self.samples, ALLOCATION)
        allocations["sample_id"] = self._metadata["row"]
        allocations["ptr"] = self._metadata["image"]["data_ptr"]
        allocations["size"] = self._sizes
        end = self._start + self._pages * self.page_size
        header = np.array([(VERSION, len(FIELDS), self.page_size, self.samples, end)], HEADER)
        digest = hashlib.sha256()
        for table in (header, self._fields, self._metadata, allocations):
            digest.update(table.tobytes())
        with self._writing():
            _write_at(self._part_fd, allocations.tobytes(), end)
            tables = self._fields.tobytes() + self._metadata.tobytes()
            _write_at(self._part_fd, tables, HEADER.itemsize)
            # What a power cut left between the tables and the first page is in no checksum. A gap of zeros is a hole
            # in the file and takes no room; it is not filled.
            gap = HEADER.itemsize + len(tables)
            if os.pread(self._part_fd, self._start - gap, gap).strip(b"\0"):
                _write_at(self._part_fd, bytes(self._start - gap), gap)
            # The header comes last: until it is there, the file is of version 0 for every reader.
            os.fsync(self._part_fd)
            _write_at(self._part_fd, header.tobytes(), 0)
            os.fsync(self._part_fd)
        self._finished = True
        return WrittenBeton(end + allocations.nbytes, self.samples, digest.hexdigest())

    def publish(self) -> None:
        """Give the finished file its name, in place of what had it before, and drop the journal."""
        if not self._finished:
            raise ValueError("publish comes after finish")
        with self._writing():
            os.replace(self.part, self.path)
            sync_folder(self.path.parent)
            with suppress(FileNotFoundError):
                self.journal.unlink()
        self.close()

    def _flush(self) -> None:
        """Write the page in hand to the file, and its record to the journal."""
        self._page[self._used :] = bytes(self.page_size - self._used)
        new = slice(self._flushed_rows, self.rows)
        body = self._metadata[new].tobytes() + self._sizes[new].tobytes()
        with self._writing():
            _write_at(self._part_fd, self._page, self._start + self._pages * self.page_size)
            _append(self._journal_fd, _record(self.rows - self._flushed_rows, zlib.crc32(self._page), body))
        self._pages += 1
        self._flushed_rows = self.rows
        self._used = 0

    def _writing(self) -> AbstractContextManager[None]:
        """Turn errors of the operating system into ours, for the length of a block."""
        return writing(
            self.path,
            lambda: (
                f"{self._flushed_rows:,} of {self.samples:,} tiles are kept in {self.part}; free some space "
                "and export again with the same settings: it goes on from there"
            ),
        )

    def _lock(self, path: Path) -> int:
        """Open the journal for this process alone; the lock ends with the process."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise BetonError(
                f"{self.path} is being written by another process; wait for it, or give another name"
            ) from None
        except OSError:
            # A file system without locks; two writers of one name are then the user's to avoid.
            pass
        return fd

    def _resume(self, head: bytes) -> None:
        """Take over the pages of an earlier writer of the same plan, as far as they are whole."""
        journal = _read_all(self._journal_fd)
        kept = 0
        if journal.startswith(head):
            kept = len(head)
            while self._take_page(journal, kept):
                kept += _record_bytes(journal, kept)
        elif os.fstat(self._part_fd).st_size:
            self.note = f"{self.part} was left by an export of other tiles, settings or versions; it was started anew"
        if kept == 0:
            os.ftruncate(self._part_fd, 0)
            os.ftruncate(self._journal_fd, 0)
            _append(self._journal_fd, head)
        else:
            os.ftruncate(self._journal_fd, kept)
        # Also drops the tables of a writer that was stopped while it finished.
        os.ftruncate(self._part_fd, self._start + self._pages * self.page_size)
        _write_at(self._part_fd, bytes(HEADER.itemsize), 0)

    def _take_page(self, journal: bytes, at: int) -> bool:
        """Read a record and check it and its page; True if they are whole."""
        length = _record_bytes(journal, at)
        if length == 0:
            return False
        (head,) = np.frombuffer(journal, _RECORD, count=1, offset=at)
        count = int(head["samples"])
        body = journal[at + _RECORD.itemsize : at + length]
        if _record(count, int(head["page_crc"]), body) != journal[at : at + length]:
            return False
        page = os.pread(self._part_fd, self.page_size, self._start + self._pages * self.page_size)
        if len(page) != self.page_size or zlib.crc32(page) != head["page_crc"]:
            return False
        new = slice(self.rows, self.rows + count)
        self._metadata[new] = np.frombuffer(body, SAMPLE, count=count)
        self._sizes[new] = np.frombuffer(body, _SIZE, offset=count * SAMPLE.itemsize)
        self.rows = self._flushed_rows = self.rows + count
        self._pages += 1
        return True


@contextmanager
def writing(path: Path, kept: Callable[[], str]) -> Iterator[None]:
    """Turn what the operating system says against writing a file into errors of ours.

    Parameters
    ----------
    path : Path
        The file.
    kept : callable
        Says what is kept and how to go on, where the disk is full.

    Raises
    ------
    DiskFullError
        If there is no room: on the disk, in the quota, or under the limit on the size of files.
    BetonError
        If it cannot be written for another reason.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL_ERRNOS:
            raise DiskFullError(f"no space left for {path} ({error.strerror}): {kept()}") from error
        raise BetonError(f"{path} cannot be written: {error.strerror}; give another place for it") from error


def _record(count: int, page_crc: int, body: bytes) -> bytes:
    """Return the journal's record of a page."""
    check = zlib.crc32(body, zlib.crc32(f"{count} {page_crc}".encode()))
    return np.array([(_MAGIC, count, page_crc, check)], _RECORD).tobytes() + body


def _record_bytes(journal: bytes, at: int) -> int:
    """Return the length of the record at a position of the journal, 0 if it is not whole."""
    if at + _RECORD.itemsize > len(journal):
        return 0
    (head,) = np.frombuffer(journal, _RECORD, count=1, offset=at)
    length = _RECORD.itemsize + int(head["samples"]) * (SAMPLE.itemsize + _SIZE.itemsize)
    return length if head["magic"] == _MAGIC and at + length <= len(journal) else 0


def _read_all(fd: int) -> bytes:
    """Return all bytes of an open file."""
    chunks = []
    at = 0
    while chunk := os.pread(fd, 1 << 24, at):
        chunks.append(chunk)
        at += len(chunk)
    return b"".join(chunks)


def _write_at(fd: int, data: bytes | bytearray, offset: int) -> None:
    """Write all of the data; one call of the operating system may write a part."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written


def _append(fd: int, data: bytes) -> None:
    """Write all of the data at the end of a file opened for appending."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_folder(folder: Path) -> None:
    """Flush a folder to the disk, so that a rename in it outlives a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
