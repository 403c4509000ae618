"""Writes the pages of a beton, so that a killed export can be resumed.

While it is written the file is called ``OUT.beton.part``; beside it ``OUT.beton.journal`` has a record
of each whole page, with checksums. The next writer of the same plan goes on after the last of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from slideduck.betons.format import (
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
from slideduck.betons.journal import PageRecord, checksum, journal_head, read_record
from slideduck.errors import BetonError
from slideduck.files.holders import holder
from slideduck.files.write import explained, open_own, sync_folder
from slideduck.words import agreeing, part

__all__ = ["BetonWriter", "WrittenBeton"]

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
    page_size : int
        Bytes of a page.
    page_crc32 : list of int
        CRC-32 of each page.
    """

    bytes: int
    samples: int
    metadata_sha256: str
    page_size: int
    page_crc32: list[int]


class BetonWriter:
    """Writes a beton, sample by sample in their order, and goes on where one like it was stopped.

    Parameters
    ----------
    path : Path
        The beton. It appears when `publish` is called, and not before.
    samples : int
        How many samples there will be, less those that are left out; the format has the table of metadata before
        the pages, and its room is that of all of them.
    identity : str
        See `slideduck.betons.format.field_table`; `finish` may give another.
    plan : str
        What determines every byte of the file, such as a digest. Pages of an earlier writer are used
        again only if its plan, number of samples and page size are the same.
    page_size : int
        Bytes of a page, a power of two; see `slideduck.betons.format.page_size_for`.

    Attributes
    ----------
    resumed : int
        Samples that an earlier writer had written or left out, and that count again; go on with this row.
    rows, left_out : int
        Samples written, and left out, so far.
    notes : list of str
        All notes so far; of an earlier writer those before the end of its last whole page.
    note : str or None
        What became of the pages of an earlier writer that could not be used.

    Raises
    ------
    BetonError
        If the file cannot be made, another process is writing it, or one of the two names is a link or a file of
        another user.

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
        self.rows = self.left_out = 0
        self.notes: list[str] = []
        self.note: str | None = None
        self._identity = identity
        self._start = data_start(samples, page_size)
        self._metadata = np.zeros(samples, SAMPLE)
        self._sizes = np.zeros(samples, _SIZE)
        self._page = bytearray(page_size)
        self._used = 0
        self._page_crc32: list[int] = []
        # What of rows, left_out and notes the journal has.
        self._recorded = (0, 0, 0)
        self._finished = False
        self._head = journal_head(plan, samples, page_size)
        self._journal_fd = self._part_fd = -1
        try:
            with self._writing():
                self._journal_fd = self._lock(self.journal)
                self._part_fd = open_own(self.part, os.O_RDWR, kind=BetonError)
                self._resume()
        except BaseException:
            self.close()
            raise
        self.resumed = self.rows + self.left_out

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
        """Close the files; those that are not published stay, so that they can be resumed."""
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
        self.extend([data], width, height, mode=mode, labels=[label])

    def extend(
        self,
        samples: Sequence[bytes | memoryview],
        width: int,
        height: int,
        *,
        mode: str = "jpg",
        labels: npt.ArrayLike,
    ) -> None:
        """Append samples, as `write` does one.

        Parameters
        ----------
        samples : sequence of bytes-like
            JPEGs, or pixels.
        width, height, mode
            As for `write`; the same for all of them.
        labels : array of int, shape (samples,)
            Class number of each.

        Raises
        ------
        DiskFullError
            As `write`.
        """
        size, label = np.array([len(data) for data in samples], np.int64), np.asarray(labels, np.int64)
        bad = (size < 1) | (size > self.page_size)
        bad[max(self.samples - self.rows - self.left_out, 0) :] = True
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(
                f"row {self.rows + row} of {self.samples} has {size[row]} bytes, in pages of {self.page_size}"
            )
        ends = np.cumsum(size)
        first = done = 0
        while first < len(size):
            stop = int(np.searchsorted(ends, done + self.page_size - self._used, side="right"))
            if stop == first:
                self._flush()
                continue
            rows = slice(self.rows, self.rows + stop - first)
            at = self._start + len(self._page_crc32) * self.page_size + self._used
            entries = self._metadata[rows]
            image = entries["image"]
            image["mode"], image["width"], image["height"] = MODES[mode], width, height
            image["data_ptr"] = at + ends[first:stop] - size[first:stop] - done
            entries["label"] = label[first:stop]
            entries["row"] = np.arange(rows.start, rows.stop)
            self._sizes[rows] = size[first:stop]
            for data in samples[first:stop]:
                self._page[self._used : self._used + len(data)] = data
                self._used += len(data)
            self.rows = rows.stop
            first, done = stop, int(ends[stop - 1])

    def leave_out(self, count: int = 1, note: str | None = None) -> None:
        """Leave out the samples that would come next.

        Parameters
        ----------
        count : int
            How many.
        note : str, optional
            Why; see `add_note`.
        """
        if self.rows + self.left_out + count > self.samples:
            raise ValueError(f"{count} more of {self.samples} samples cannot be left out after {self.rows}")
        self.left_out += count
        if note is not None:
            self.add_note(note)

    def add_note(self, note: str) -> None:
        """Keep a note for a writer that resumes; it is stored with the current page."""
        self.notes.append(note)

    def finish(self, identity: str | None = None) -> WrittenBeton:
        """Write the last page and the tables, and flush the file to the disk.

        The file keeps its temporary name until `publish`.

        Parameters
        ----------
        identity : str, optional
            In place of the writer's, where samples were left out.
        """
        if self.rows + self.left_out != self.samples or not self.rows:
            left_out = f", and {self.left_out} left out" if self.left_out else ""
            raise ValueError(f"{self.rows} of {self.samples} samples were written{left_out}")
        if self._used:
            self._flush()
        metadata = self._metadata[: self.rows]
        allocations = np.zeros(self.rows, ALLOCATION)
        allocations["sample_id"] = metadata["row"]
        allocations["ptr"] = metadata["image"]["data_ptr"]
        allocations["size"] = self._sizes[: self.rows]
        end = self._start + len(self._page_crc32) * self.page_size
        header = np.array([(VERSION, len(FIELDS), self.page_size, self.rows, end)], HEADER)
        fields = field_table(self._identity if identity is None else identity)
        digest = hashlib.sha256()
        for table in (header, fields, metadata, allocations):
            digest.update(table.tobytes())
        with self._writing():
            _write_at(self._part_fd, allocations.tobytes(), end)
            tables = fields.tobytes() + metadata.tobytes()
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
        return WrittenBeton(
            end + allocations.nbytes, self.rows, digest.hexdigest(), self.page_size, list(self._page_crc32)
        )

    def publish(self) -> None:
        """Rename the finished file, replacing an older one, and delete the journal."""
        if not self._finished:
            raise ValueError("publish comes after finish")
        with self._writing():
            os.replace(self.part, self.path)
            sync_folder(self.path.parent)
            with suppress(FileNotFoundError):
                self.journal.unlink()
        self.close()

    def discard(self) -> None:
        """Remove what was written."""
        with self._writing():
            self.part.unlink(missing_ok=True)
            self.journal.unlink(missing_ok=True)
        self.close()

    def start_anew(self) -> None:
        """Delete all that was written, and begin with the first row."""
        with self._writing():
            self._clear()
        self.rows = self.left_out = self.resumed = self._used = 0
        self.notes.clear()
        self._page_crc32.clear()
        self._recorded = (0, 0, 0)

    def _flush(self) -> None:
        """Write the current page to the file, and its record to the journal."""
        self._page[self._used :] = bytes(self.page_size - self._used)
        rows, left_out, notes = self._recorded
        record = PageRecord(
            metadata=self._metadata[rows : self.rows],
            sizes=self._sizes[rows : self.rows],
            left_out=self.left_out - left_out,
            notes=tuple(self.notes[notes:]),
            page_crc=checksum(self._page),
        )
        with self._writing():
            _write_at(self._part_fd, self._page, self._start + len(self._page_crc32) * self.page_size)
            _append(self._journal_fd, record.to_bytes())
        self._keep(record.page_crc)
        self._used = 0

    def _keep(self, page_crc: int) -> None:
        """Count a page that is in the file and in the journal."""
        self._page_crc32.append(page_crc)
        self._recorded = (self.rows, self.left_out, len(self.notes))

    def _writing(self) -> AbstractContextManager[None]:
        """Turn errors of the operating system into ours, for the length of a block."""
        return explained(
            self.path,
            kind=BetonError,
            full=lambda: (
                f": {part(self._recorded[0], self.samples, 'tile')} {agreeing(self._recorded[0], 'is', 'are')} kept in "
                f"{self.part}; free some space "
                "and export again with the same settings: it goes on from there"
            ),
        )

    def _lock(self, path: Path) -> int:
        """Open the journal for this process alone; the lock ends with the process."""
        fd = open_own(path, os.O_RDWR | os.O_APPEND, kind=BetonError)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            writing = holder(fd)
            os.close(fd)
            raise BetonError(f"{self.path} is being written by {writing}; wait for it, or give another name") from None
        except OSError:
            # A file system without locks; two writers of one name are then the user's to avoid.
            pass
        if not _is_at(fd, path):
            # Between the two its writer published its beton, and deleted the journal.
            os.close(fd)
            return self._lock(path)
        return fd

    def _resume(self) -> None:
        """Take over the pages of an earlier writer of the same plan, as far as they are whole."""
        journal = _read_all(self._journal_fd)
        if not journal.startswith(self._head):
            if os.fstat(self._part_fd).st_size:
                self.note = (
                    f"{self.part} was left by an export of other tiles, settings or versions; it was started anew"
                )
            self._clear()
            return
        kept = len(self._head)
        while (found := read_record(journal, kept)) is not None and self._take_page(found[0]):
            kept = found[1]
        os.ftruncate(self._journal_fd, kept)
        # Also drops the tables of a writer that was stopped while it finished.
        os.ftruncate(self._part_fd, self._start + len(self._page_crc32) * self.page_size)
        _write_at(self._part_fd, bytes(HEADER.itemsize), 0)

    def _clear(self) -> None:
        """Empty both files but for the head of the journal."""
        os.ftruncate(self._part_fd, 0)
        os.ftruncate(self._journal_fd, 0)
        _append(self._journal_fd, self._head)
        os.ftruncate(self._part_fd, self._start)

    def _take_page(self, record: PageRecord) -> bool:
        """Take over a page; False if it is not whole."""
        at = self._start + len(self._page_crc32) * self.page_size
        page = os.pread(self._part_fd, self.page_size, at)
        if len(page) != self.page_size or checksum(page) != record.page_crc:
            return False
        rows = slice(self.rows, self.rows + len(record.metadata))
        if rows.stop + self.left_out + record.left_out > self.samples:
            return False
        self._metadata[rows] = record.metadata
        self._sizes[rows] = record.sizes
        self.rows = rows.stop
        self.left_out += record.left_out
        self.notes += record.notes
        self._keep(record.page_crc)
        return True


def _is_at(fd: int, path: Path) -> bool:
    """Return True if a path still leads to an open file."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), path.lstat())
    return False


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
