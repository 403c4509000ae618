"""Betons of a few small tiles for tests: ``from tests.small_betons import write_beton``."""

from __future__ import annotations

import gc
import warnings
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from ffcv.loader import Loader, OrderOption
from ffcv.reader import Reader

from slideduck.betons import BetonInfo, BetonWriter, check_beton, encode_jpeg
from slideduck.betons.format import HEADER, data_start

AGAIN = "copy it again, or make it again with: slideduck export"
SMALL_PAGE = 1 << 12


def make_image(seed: int, side: int = 24) -> np.ndarray:
    """Return a picture whose JPEG is the larger the greater ``seed % 7`` is."""
    noise = np.random.default_rng(seed).integers(-8 * (seed % 7) - 1, 8 * (seed % 7) + 1, (side, side, 3))
    image: np.ndarray = np.clip(noise + 120 + np.arange(side)[:, None, None], 0, 255).astype(np.uint8)
    return image


def make_samples(n: int, *, side: int = 24, raw: bool = False) -> list[bytes]:
    images = [make_image(seed, side) for seed in range(n)]
    return [image.tobytes() if raw else encode_jpeg(image, 90) for image in images]


def write_all(writer: BetonWriter, samples: Sequence[bytes], side: int = 24, mode: str = "jpg") -> None:
    for row in range(writer.resumed, len(samples)):
        writer.write(samples[row], side, side, mode=mode, label=row % 4 - 1)


def write_beton(
    path: Path,
    samples: Sequence[bytes],
    *,
    side: int = 24,
    mode: str = "jpg",
    page_size: int = SMALL_PAGE,
    identity: str = "",
    plan: str = "",
) -> BetonInfo:
    with BetonWriter(path, samples=len(samples), page_size=page_size, identity=identity, plan=plan) as writer:
        write_all(writer, samples, side, mode)
        written = writer.finish()
        writer.publish()
    info = check_beton(path)
    assert (info.bytes, info.samples, info.metadata_sha256) == (
        written.bytes,
        written.samples,
        written.metadata_sha256,
    )
    return info


def contents(path: Path) -> list[bytes]:
    """Return the samples of a beton by FFCV's own tables."""
    reader = Reader(path)
    content = path.read_bytes()
    return [content[int(ptr) : int(ptr) + int(size)] for _, ptr, size in reader.alloc_table.tolist()]


def load(path: Path, *, os_cache: bool = True) -> tuple[np.ndarray, list[int], list[int]]:
    """Return images, labels and rows of a beton as FFCV's stock Loader gives them, in their order."""
    loader = Loader(
        str(path),
        batch_size=8,
        num_workers=2,
        order=OrderOption.SEQUENTIAL,
        drop_last=False,
        os_cache=os_cache,
    )
    images: list[np.ndarray] = []
    labels: list[int] = []
    rows: list[int] = []
    for image, label, row in loader:
        # The loader uses its buffers again.
        images.append(image.numpy().copy())
        labels += label[:, 0].tolist()
        rows += row[:, 0].tolist()
    with warnings.catch_warnings():
        # numba's finalizers stumble over each other where several loaders end in one process.
        warnings.simplefilter("ignore")
        del loader
        gc.collect()
    return np.concatenate(images), labels, rows


SAMPLES = make_samples(120)


@cache
def whole_beton() -> bytes:
    """Return the bytes of a beton of SAMPLES, written without a stop."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "tiles.beton"
        write_beton(path, SAMPLES)
        return path.read_bytes()


def page_checksums(path: Path) -> dict[str, object]:
    """Return what a side-car says of the pages of a beton."""
    content = path.read_bytes()
    header = np.frombuffer(content, HEADER, count=1)[0]
    size, end = int(header["page_size"]), int(header["alloc_table_ptr"])
    start = data_start(int(header["num_samples"]), size)
    return {"bytes": size, "crc32": [zlib.crc32(content[at : at + size]) for at in range(start, end, size)]}


def set_at(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


JUNK: list[Any] = [None, True, -1, 0, 10**25, 1.5, "", "x", [], {}, [[]], {"a": 1}, [None], "a" * 5000, -(2**63), 1e308]


def change_entry(raw: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Return JSON of which an entry, anywhere, is something else, or gone."""
    holder: Any = raw
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = keys[int(rng.integers(len(keys)))]
        if not isinstance(holder[key], (dict, list)) or not holder[key] or rng.random() < 0.2:
            break
        holder = holder[key]
    if rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = JUNK[int(rng.integers(len(JUNK)))]
    return raw


def change_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """Return bytes of which some are others, gone, or there twice."""
    at, length = int(rng.integers(len(content))), int(rng.integers(1, 40))
    kind = int(rng.integers(5))
    if kind == 0:
        return content[:at] + bytes([content[at] ^ 1 << int(rng.integers(8))]) + content[at + 1 :]
    if kind == 1:
        return content[:at]
    if kind == 2:
        return content[:at] + rng.bytes(length) + content[at + length :]
    return content[:at] + (content[at : at + length] * 2 if kind == 3 else b"") + content[at + length :]


def edit(path: Path, kind: np.dtype, offset: int, row: int, name: str, value: int) -> None:
    """Change an entry of a table."""
    with path.open("r+b") as file:
        file.seek(offset + row * kind.itemsize)
        entry = np.frombuffer(bytearray(file.read(kind.itemsize)), kind)
        if name in (kind.names or ()):
            entry[name] = value
        else:
            entry["image"][name] = value
        file.seek(offset + row * kind.itemsize)
        file.write(entry.tobytes())
