"""The journal of a beton that is being written: a record of each whole page, with checksums.

A record has what the tables at the end will say of the page's samples, how many samples were left out before them,
and notes of the writer. It counts only if it is whole and its page has the checksum that it names.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass

import imagecodecs
import numpy as np
import numpy.typing as npt

from slideduck.betons.format import SAMPLE
from slideduck.files.strictjson import parse_json

__all__ = ["PageRecord", "checksum", "journal_head", "read_record"]

_FORMAT = "slideduck journal 2"
_MAGIC = 0x45474150
_RECORD = np.dtype(
    [
        ("magic", "<u4"),
        ("samples", "<u4"),
        ("left_out", "<u4"),
        ("note_bytes", "<u4"),
        ("page_crc", "<u4"),
        ("record_crc", "<u4"),
    ]
)
_SIZE = np.dtype("<u8")


def checksum(data: bytes | bytearray) -> int:
    """Return the CRC-32 of some bytes, as zlib has it, several times as fast where libdeflate is there."""
    if imagecodecs.DEFLATE.available:
        return int(imagecodecs.deflate_crc32(data))
    return zlib.crc32(data)


def journal_head(plan: str, samples: int, page_size: int) -> bytes:
    """Return the head of a journal; a writer resumes only a journal with the same head."""
    return json.dumps([_FORMAT, plan, samples, page_size]).encode() + b"\n"


@dataclass(frozen=True, eq=False)
class PageRecord:
    """The record of a page.

    Attributes
    ----------
    metadata : ndarray of SAMPLE, shape (samples,)
        The entries of the page's samples.
    sizes : ndarray of uint64, shape (samples,)
        Their bytes.
    left_out : int
        Samples that were left out since the page before.
    notes : tuple of str
        What the writer noted since the page before.
    page_crc : int
        CRC-32 of the page.
    """

    metadata: npt.NDArray[np.void]
    sizes: npt.NDArray[np.uint64]
    left_out: int
    notes: tuple[str, ...]
    page_crc: int

    def to_bytes(self) -> bytes:
        """Return the record as bytes of the journal."""
        notes = json.dumps(self.notes).encode() if self.notes else b""
        body = self.metadata.tobytes() + self.sizes.tobytes() + notes
        head = np.array([(_MAGIC, len(self.metadata), self.left_out, len(notes), self.page_crc, 0)], _RECORD)
        head["record_crc"] = zlib.crc32(body, zlib.crc32(head.tobytes()))
        return head.tobytes() + body


def read_record(journal: bytes, at: int) -> tuple[PageRecord, int] | None:
    """Return the record at a position of a journal, and where the next one begins; None if it is not whole."""
    if at + _RECORD.itemsize > len(journal):
        return None
    head = np.frombuffer(journal, _RECORD, count=1, offset=at).copy()
    magic, samples, left_out, note_bytes, page_crc, record_crc = head[0].item()
    start = at + _RECORD.itemsize
    notes_at = start + samples * (SAMPLE.itemsize + _SIZE.itemsize)
    end = notes_at + note_bytes
    if magic != _MAGIC or end > len(journal):
        return None
    head["record_crc"] = 0
    if zlib.crc32(journal[start:end], zlib.crc32(head.tobytes())) != record_crc:
        return None
    try:
        notes = parse_json(journal[notes_at:end]) if note_bytes else []
    except ValueError:
        return None
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        return None
    record = PageRecord(
        metadata=np.frombuffer(journal, SAMPLE, count=samples, offset=start),
        sizes=np.frombuffer(journal, _SIZE, count=samples, offset=start + samples * SAMPLE.itemsize),
        left_out=left_out,
        notes=tuple(notes),
        page_crc=page_crc,
    )
    return record, end
