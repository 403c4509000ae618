"""The FFCV file format (1.0.2, version 2) of a beton, and the check that a file keeps to it.

A beton is a header, a descriptor of each field, a table of metadata (one entry a sample), pages, and
an allocation table. Pages begin at multiples of their size, and a sample never crosses one. All of it
is little-endian. The fields are ``image`` (RGB), ``label`` (class number, -1 for none) and ``row``.

FFCV's Loader trusts its input: a file that was cut short crashes the whole process. So `check_beton`
reads every table before the Loader does.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt

from slideduck.errors import BetonError
from slideduck.slides.jpeg import jpeg_frame

__all__ = ["PAGE_SIZE", "BetonInfo", "check_beton", "data_start", "field_table", "page_size_for"]

VERSION = 2

HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ]
)
FIELD = np.dtype([("type_id", "u1"), ("name", "S16"), ("arguments", "S1024")])
IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
#: C alignment pads the image's 13 bytes to 16.
SAMPLE = np.dtype(
    {
        "names": ["image", "label", "row"],
        "formats": [IMAGE, "<i8", "<i8"],
        "offsets": [0, 16, 24],
        "itemsize": 32,
    }
)
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])

#: The fields in their order: name, and FFCV's number of its type (1: IntField, 2: RGBImageField).
FIELDS = (("image", 2), ("label", 1), ("row", 1))

#: How an image is stored: FFCV's numbers.
MODES = {"jpg": 0, "raw": 1}

#: Bytes of a page: FFCV's default.
PAGE_SIZE = 8 << 20

#: A power of two that the header's 4 bytes hold, and that one call of the operating system reads.
_LARGEST_PAGE = 1 << 30

#: Headers of a JPEG fit into this many bytes: tables, comments and a frame header.
_JPEG_HEAD = 1 << 16

AGAIN = "copy it again, or make it again with: slideduck export"


def page_size_for(largest: int) -> int:
    """Return the size of the pages of a beton.

    Parameters
    ----------
    largest : int
        Bytes of the largest sample.

    Returns
    -------
    int
        8 MiB, or the next power of two that holds the sample.

    Raises
    ------
    BetonError
        If no page can hold it.
    """
    size = max(PAGE_SIZE, 1 << max(0, largest - 1).bit_length())
    if size > _LARGEST_PAGE:
        raise BetonError(
            f"a tile of up to {largest:,} bytes does not fit into a page of a beton, which has at most "
            f"{_LARGEST_PAGE:,}; give a grid with a smaller tile_px"
        )
    return size


def data_start(samples: int, page_size: int) -> int:
    """Return where the first page of a beton begins, bytes from the start of the file."""
    tables = HEADER.itemsize + len(FIELDS) * FIELD.itemsize + samples * SAMPLE.itemsize
    return -(-tables // page_size) * page_size


def field_table(identity: str = "") -> npt.NDArray[np.void]:
    """Return the descriptors of the fields.

    Parameters
    ----------
    identity : str
        What tells the content of this beton from that of others, such as a digest; ASCII, at most 1,024
        characters. It goes where FFCV has the arguments of the image field, which takes none.
    """
    table = np.zeros(len(FIELDS), FIELD)
    for descriptor, (name, type_id) in zip(table, FIELDS, strict=True):
        descriptor["type_id"] = type_id
        descriptor["name"] = name.encode()
    table[0]["arguments"] = identity.encode("ascii")
    return table


@dataclass(frozen=True)
class BetonInfo:
    """What a checked beton holds.

    Attributes
    ----------
    path : Path
        The file.
    bytes, samples, page_size : int
        Size of the file, number of tiles, bytes of a page.
    width, height : int
        Size of every image, pixels.
    mode : str
        ``"jpg"`` or ``"raw"``.
    identity : str
        What `field_table` was given.
    metadata_sha256 : str
        Digest of all but the pages: header, fields, metadata and allocation table.
    """

    path: Path
    bytes: int
    samples: int
    page_size: int
    width: int
    height: int
    mode: str
    identity: str
    metadata_sha256: str


def check_beton(path: str | PathLike[str]) -> BetonInfo:
    """Check a beton, so that FFCV can read it without harm.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    BetonInfo

    Raises
    ------
    BetonError
        If the file is missing, cut short at any byte, of another kind or version, or if its tables or
        the beginnings and ends of its images are not as `BetonWriter` makes them.

    Notes
    -----
    Checked are the header, the fields, the size of the file to the byte, that each sample lies inside
    one page and after the one before it, the row numbers, one size and mode of all images, the number
    of bytes of raw images, and the start, the frame header and the end of each JPEG. The pixels
    themselves are not decoded.
    """
    path = Path(path)
    if not path.is_file():
        raise BetonError(f"no beton at {path}; make it with: slideduck export STUDY {path}")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        header = _check_header(path, file.read(HEADER.itemsize), size)
        samples, page_size, end = (int(header[n]) for n in ("num_samples", "page_size", "alloc_table_ptr"))
        digest = hashlib.sha256(header.tobytes())
        tables = []
        for kind, count, offset in (
            (FIELD, len(FIELDS), HEADER.itemsize),
            (SAMPLE, samples, HEADER.itemsize + len(FIELDS) * FIELD.itemsize),
            (ALLOCATION, samples, end),
        ):
            file.seek(offset)
            content = file.read(count * kind.itemsize)
            digest.update(content)
            tables.append(np.frombuffer(content, kind))
        descriptors, metadata, allocations = tables
        _check_fields(path, descriptors)
        _check_pointers(path, metadata, allocations, page_size, end)
        _check_images(path, np.memmap(file, np.uint8, mode="r"), metadata, allocations)
    image = metadata["image"][0]
    return BetonInfo(
        path=path,
        bytes=size,
        samples=samples,
        page_size=page_size,
        width=int(image["width"]),
        height=int(image["height"]),
        mode=next(mode for mode, number in MODES.items() if number == image["mode"]),
        identity=descriptors[0]["arguments"].decode("ascii", "replace"),
        metadata_sha256=digest.hexdigest(),
    )


def _check_header(path: Path, content: bytes, size: int) -> np.void:
    """Check what the header says against the size of the file."""
    if len(content) < HEADER.itemsize:
        raise BetonError(
            f"{path} is cut short: it has {size} bytes, and the header of a beton alone {HEADER.itemsize}; {AGAIN}"
        )
    header: np.void = np.frombuffer(content, HEADER)[0]
    version, n_fields, page_size, samples, end = header.item()
    if version == 0 or (version == VERSION and end == 0):
        raise BetonError(
            f"{path} was not finished: what wrote it was stopped before the end; make it again with: slideduck export"
        )
    if version != VERSION:
        raise BetonError(
            f"{path} is not a beton of FFCV's version {VERSION}: its first bytes say version {version}; "
            "give a file that slideduck export made"
        )
    if n_fields != len(FIELDS):
        raise BetonError(_other_fields(path, f"{n_fields} fields"))
    if page_size < 1 << 12 or page_size & (page_size - 1):
        raise BetonError(f"{path} is damaged: it has pages of {page_size:,} bytes, no power of two; {AGAIN}")
    start = data_start(samples, page_size)
    if samples < 1 or end < start + page_size or (end - start) % page_size:
        raise BetonError(
            f"{path} is damaged: {samples:,} tiles in pages of {page_size:,} bytes do not end at byte {end:,}; {AGAIN}"
        )
    expected = end + samples * ALLOCATION.itemsize
    if size < expected:
        raise BetonError(f"{path} is cut short: it has {size:,} of {expected:,} bytes; {AGAIN}")
    if size > expected:
        raise BetonError(f"{path} has {size - expected:,} bytes after its end; {AGAIN}")
    return header


def _other_fields(path: Path, found: str) -> str:
    """Say that a file of FFCV is not one of tiles."""
    wanted = ", ".join(name for name, _ in FIELDS)
    return f"{path} has {found}, and a beton of tiles has {wanted}; give a file that slideduck export made"


def _check_fields(path: Path, descriptors: npt.NDArray[np.void]) -> None:
    """Check that the fields are those of a beton of tiles."""
    found = [(d["name"].decode("ascii", "replace"), int(d["type_id"])) for d in descriptors]
    if found != list(FIELDS):
        listed = ", ".join(f"{name} (type {type_id})" for name, type_id in found)
        raise BetonError(_other_fields(path, f"the fields {listed}"))


def _refuse(path: Path, bad: npt.NDArray[np.bool_], what: str, *, after: int = 0) -> None:
    """Raise for the first row that is bad, if any is."""
    if bad.any():
        raise BetonError(f"{path} is damaged: row {int(bad.argmax()) + after} {what}; {AGAIN}")


def _check_pointers(
    path: Path,
    metadata: npt.NDArray[np.void],
    allocations: npt.NDArray[np.void],
    page_size: int,
    end: int,
) -> None:
    """Check that rows are in order, and each inside one page and behind the row before it."""
    start = data_start(len(metadata), page_size)
    rows = np.arange(len(metadata))
    ptr, size = allocations["ptr"], allocations["size"]
    _refuse(path, metadata["row"] != rows, "has another row number")
    _refuse(path, metadata["label"] < -1, "has a class number below -1")
    _refuse(path, allocations["sample_id"] != rows.astype(np.uint64), "is not where the allocation table has it")
    _refuse(path, metadata["image"]["data_ptr"] != ptr, "has another address in each table")
    # The order of these matters: sums of what the first two let pass do not overflow.
    _refuse(path, (size < 1) | (size > page_size), "does not fit into a page")
    _refuse(path, (ptr < start) | (ptr > end), "is outside of the pages")
    first, last = (ptr - start) // page_size, (ptr + size - 1 - start) // page_size
    _refuse(path, (first != last) | (ptr + size > end), "crosses the end of a page")
    _refuse(path, ptr[1:] < ptr[:-1] + size[:-1], "overlaps the row before it", after=1)


def _check_images(
    path: Path,
    content: npt.NDArray[np.uint8],
    metadata: npt.NDArray[np.void],
    allocations: npt.NDArray[np.void],
) -> None:
    """Check modes and sizes, and the outside of each image."""
    image = metadata["image"]
    mode, width, height = (int(image[name][0]) for name in ("mode", "width", "height"))
    for name in ("mode", "width", "height"):
        _refuse(path, image[name] != image[name][0], f"has another {name} than row 0, which FFCV cannot read")
    if mode not in MODES.values() or not width or not height:
        raise BetonError(f"{path} is damaged: its images have mode {mode} and {width} × {height} px; {AGAIN}")
    size = allocations["size"].astype(np.int64)
    if mode == MODES["raw"]:
        _refuse(path, size != 3 * width * height, f"has not the bytes of {width} × {height} px")
        return
    ptr = allocations["ptr"].astype(np.int64)

    def begins_with(offset: int, wanted: bytes) -> npt.NDArray[np.bool_]:
        found = np.ones(len(ptr), np.bool_)
        for i, byte in enumerate(wanted, offset):
            found &= content[np.minimum(ptr + i, ptr + size - 1)] == byte
        return found

    _refuse(path, ~begins_with(0, b"\xff\xd8") | (size < 4), "does not begin as a JPEG")
    ends = (content[ptr + size - 2] == 0xFF) & (content[ptr + size - 1] == 0xD9)
    _refuse(path, ~ends, "does not end as a JPEG")
    # One encoder puts the frame header at the same place in each tile; the others are looked at singly.
    marker, extent = b"\xff\xc0", height.to_bytes(2, "big") + width.to_bytes(2, "big")
    try:
        at, _, _ = jpeg_frame(content[ptr[0] : ptr[0] + min(size[0], _JPEG_HEAD)].tobytes())
    except ValueError:
        at = 2
    usual = begins_with(at, marker) & begins_with(at + 5, extent) & (size > at + 9)
    for row in np.flatnonzero(~usual):
        try:
            frame = jpeg_frame(content[ptr[row] : ptr[row] + min(size[row], _JPEG_HEAD)].tobytes())
        except ValueError as error:
            raise BetonError(f"{path} is damaged: row {row} {error}; {AGAIN}") from None
        if frame[1:] != (width, height):
            raise BetonError(
                f"{path} is damaged: the JPEG of row {row} is {frame[1]} × {frame[2]} px, and its entry says "
                f"{width} × {height}; {AGAIN}"
            )
