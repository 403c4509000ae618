"""Times the export of a slide into a beton against other ways and against what the machine can do, in one run.

    python tests/bench/export.py [--quick] [--threads 2] [--repeat 3] [--cache FOLDER] [--slideflow-python PYTHON]

The slide is seeded: pieces of a real one, moved and turned, stored as an Aperio scanner does (tiles of 240 px, JPEG
4:2:0, quality 70). All contenders write every tile of it at level 0 as JPEG of quality 90, with as many threads or
processes. Ours is 4:4:4; the stock writer and Slideflow encode 4:2:0, which is less work. Contenders take turns, and
medians are told. Limits are measured on the same tiles: decoding and encoding alone (what libjpeg-turbo does in as many
threads, all bytes in memory), and a write of the same bytes with fsync.

Then the tiles are compared with OpenSlide's: a raw beton for equality, the stored JPEGs under the exact decoder for
equality, and what FFCV's stock Loader gives for the tiles encoded again by PSNR. The last line has the ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import openslide
import tifffile
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import slideduck as sd
from slideduck.betons import encode_jpeg
from slideduck.slides.grid import SlideGrid
from slideduck.slides.identity import SlideFile
from slideduck.slides.reader import TileReader

RGB = NDArray[np.uint8]

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "CMU-1-Small-Region.svs"
SIDE, BLOCK = 240, 8
MPP = 0.5
STORED_QUALITY, QUALITY = 70, 90
MIB = 1 << 20

SLIDEFLOW = """
import sys, time
import slideflow as sf
path, side, mpp, threads, out = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
for name, how in (
    ("slideflow", {"num_threads": threads, "whitespace_fraction": 1, "grayspace_fraction": 1}),
    ("slideflow, its defaults", {}),
):
    slide = sf.WSI(path, tile_px=side, tile_um=round(side * mpp), verbose=False)
    started = time.perf_counter()
    slide.extract_tiles(tfrecord_dir=out, img_format="jpg", report=False, show_progress=False, **how)
    print("SECONDS", time.perf_counter() - started, slide.estimated_num_tiles, name, flush=True)
"""


# --------------------------------------------------------------------------------------------- the slide


def make_slide(path: Path, real: Path, width: int, height: int) -> None:
    """Write the slide, tile after tile."""
    source = tifffile.imread(real, key=0)
    source = source[: source.shape[0] // SIDE * SIDE, : source.shape[1] // SIDE * SIDE]
    columns, rows, extent = -(-width // SIDE), -(-height // SIDE), SIDE * BLOCK
    sample = bytes(imagecodecs.jpeg8_encode(source[:SIDE, :SIDE].copy(), level=STORED_QUALITY, subsampling="420"))
    tables = b"\xff\xd8" + b"".join(part for marker, part in _headers(sample) if marker in (0xDB, 0xC4)) + b"\xff\xd9"

    def tiles() -> Iterator[bytes]:
        for row in range(0, rows, BLOCK):
            blocks = []
            for column in range(0, columns, BLOCK):
                rng = np.random.default_rng([row, column])
                x, y = (int(rng.integers(0, side - extent + 1)) for side in (source.shape[1], source.shape[0]))
                blocks.append(np.rot90(source[y : y + extent, x : x + extent], int(rng.integers(4))))
            for r in range(min(BLOCK, rows - row)):
                for c in range(columns):
                    block, left = blocks[c // BLOCK], c % BLOCK * SIDE
                    part = np.ascontiguousarray(block[r * SIDE : (r + 1) * SIDE, left : left + SIDE])
                    data = bytes(imagecodecs.jpeg8_encode(part, level=STORED_QUALITY, subsampling="420"))
                    yield b"\xff\xd8" + b"".join(p for marker, p in _headers(data) if marker not in (0xDB, 0xC4, 0xE0))

    partial = path.with_suffix(".part")
    with tifffile.TiffWriter(partial, bigtiff=True) as writer:
        writer.write(
            tiles(),
            shape=(height, width, 3),
            dtype="uint8",
            tile=(SIDE, SIDE),
            photometric="ycbcr",
            subsampling=(2, 2),
            compression="jpeg",
            jpegtables=tables,
            description=f"Aperio Image Library v12.0.0\n{width}x{height} ({SIDE}x{SIDE}) JPEG/YCC Q=70|MPP = {MPP}",
            metadata=None,
        )
    partial.rename(path)


def _headers(data: bytes) -> list[tuple[int, bytes]]:
    """Return marker and bytes of each header; the last is the scan with its data."""
    found, at = [], 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        found.append((data[at + 1], data[at:end]))
        at = end
    return [*found, (0xDA, data[at:])]


# ------------------------------------------------------------------------------------------------ limits


def in_threads(work: Callable[[Any], object], items: Sequence[Any], threads: int) -> float:
    """Return the seconds that some threads need for all items, each its share."""
    shares = [items[i::threads] for i in range(threads)]
    pool = [threading.Thread(target=lambda share=share: [work(item) for item in share]) for share in shares]
    started = time.perf_counter()
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    return time.perf_counter() - started


def stored_jpegs(path: Path) -> list[bytes]:
    """Return the stored tiles that lie wholly in the slide, as JPEGs."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0].aspage()
        tables = page.jpegtables[:-2]
        columns, whole = -(-page.imagewidth // SIDE), (page.imagewidth // SIDE, page.imagelength // SIDE)
        return [
            tables + data[2:]
            for i, data in enumerate(
                tiff.filehandle.read_array("uint8", count, offset=offset).tobytes()
                for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
            )
            if i % columns < whole[0] and i // columns < whole[1]
        ]


def disk(folder: Path, n_bytes: int) -> float:
    """Return the seconds that writing this many bytes takes, with fsync."""
    block = os.urandom(8 * MIB)
    path = folder / "disk"
    started = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(-(-n_bytes // len(block))):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    path.unlink()
    return seconds


# --------------------------------------------------------------------------------------------- contenders


class PlainTiles:
    """A data set as users of FFCV write it: OpenSlide, one handle a process."""

    def __init__(self, path: Path, corners: Sequence[tuple[int, int]]) -> None:
        self.path, self.corners = path, corners
        self.slide: openslide.OpenSlide | None = None

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, i: int) -> tuple[RGB, int]:
        if self.slide is None:
            self.slide = openslide.OpenSlide(self.path)
        return np.asarray(self.slide.read_region(self.corners[i], 0, (SIDE, SIDE)).convert("RGB")), 0


def plain(path: Path, corners: Sequence[tuple[int, int]], out: Path, threads: int) -> float:
    """Read by OpenSlide, encode by cv2.imencode, write by the stock writer; its processes do all three."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    started = time.perf_counter()
    fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=QUALITY), "label": IntField()}
    writer = DatasetWriter(str(out), fields, num_workers=threads)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # its progress
        writer.from_indexed_dataset(PlainTiles(path, corners), chunksize=64)
    return time.perf_counter() - started


def slideflow(python: str, path: Path, out: Path, threads: int) -> dict[str, tuple[float, int]]:
    """Return seconds and tiles of Slideflow's extraction, without the time that it needs to start.

    Once in threads and without its filters, which is its fastest; once as it comes: in processes, and leaving out
    tiles that are mostly grey. Those count as done.
    """
    out.mkdir(exist_ok=True)
    words = [python, "-c", SLIDEFLOW, str(path), str(SIDE), str(MPP), str(threads), str(out)]
    environment = {**os.environ, "SF_SLIDE_BACKEND": "libvips", "SF_BACKEND": "torch"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=out)
    shutil.rmtree(out)
    if done.returncode:
        raise SystemExit(f"Slideflow failed:\n{done.stderr[-2000:]}")
    told = [line.split(maxsplit=3) for line in done.stdout.splitlines() if line.startswith("SECONDS")]
    return {name: (float(seconds), int(float(tiles))) for _, seconds, tiles, name in told}


def peak_mib(study: Path, out: Path, grid: str, threads: int, jpeg: str) -> float:
    """Return the peak memory of an export in a process of its own, MiB."""
    words = [sys.executable, "-m", "slideduck", "export", str(study), str(out), "--grid", grid]
    words += ["--where", "true", "--jpeg", jpeg, "--threads", str(threads)]
    # A process counts the memory of the one that started it: a small one does so.
    launch = (
        "import os, subprocess, sys; process = subprocess.Popen(sys.argv[1:], stdout=2); "
        "_, status, usage = os.wait4(process.pid, 0); print(usage.ru_maxrss); sys.exit(status != 0)"
    )
    done = subprocess.run([sys.executable, "-c", launch, *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr}")
    return int(done.stdout) / 1024


# -------------------------------------------------------------------------------------------------- checks


def check(study: sd.Study, path: Path, out: Path, grid: str, mode: str, step: int) -> str:
    """Compare tiles of an export with OpenSlide's, and say how they compare."""
    from ffcv.loader import Loader, OrderOption
    from ffcv.reader import Reader

    names = ", ".join(SlideGrid.__dataclass_fields__)
    (row,) = study.con.execute(
        f"SELECT {names} FROM grid_slides INNER JOIN grids USING (grid_id) WHERE grid = $1", [grid]
    ).fetchall()
    corners = study.con.execute(
        "SELECT base_x, base_y FROM labels WHERE grid = $1 ORDER BY grid_y, grid_x", [grid]
    ).fetchall()
    side, least, seen = SlideGrid(*row).read_px, np.inf, 0
    with TileReader(SlideFile.unchecked(path), SlideGrid(*row), side) as reference:
        if mode != "reencode":
            content = np.memmap(out, mode="r")
            pointers = sorted((int(sample), int(ptr), int(size)) for sample, ptr, size in Reader(out).alloc_table)
            for sample, pointer, size in pointers[::step]:
                data = content[pointer : pointer + size].tobytes()
                pixels = imagecodecs.jpeg8_decode(data) if mode == "passthrough" else np.frombuffer(data, np.uint8)
                if not np.array_equal(pixels.reshape(side, side, 3), reference.read(*corners[sample])):
                    raise SystemExit(f"{out}: tile {sample} differs from OpenSlide's")
                seen += 1
            return f"{seen:,} tiles equal OpenSlide's"
        indices = np.arange(0, len(corners), step)
        loader = Loader(str(out), batch_size=32, num_workers=1, order=OrderOption.SEQUENTIAL, indices=indices,
                        drop_last=False)  # fmt: skip
        for images, _, rows in loader:
            for image, number in zip(images.numpy(), rows[:, 0].tolist(), strict=True):
                error = np.mean((image.astype(np.float32) - reference.read(*corners[number])) ** 2)
                least = min(least, 10 * np.log10(255**2 / max(float(error), 1e-9)))
                seen += 1
    if least < 38:
        raise SystemExit(f"{out}: a tile has a PSNR of {least:.1f} dB")
    return f"{seen:,} tiles by the stock Loader: PSNR {least:.1f} dB and more"


# ---------------------------------------------------------------------------------------------------- main


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller slide, fewer tiles compared; under 40 seconds")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--width", type=int)
    parser.add_argument("--height", type=int)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir(), "slideduck-bench"))
    parser.add_argument("--slide", type=Path, default=REAL, help="the real slide that the large one is made from")
    parser.add_argument("--slideflow-python", help="a Python that imports slideflow")
    parser.add_argument("--memory", default="", help="measure the peak memory at these numbers of threads: 1,2,8,32")
    words = parser.parse_args()
    width, height = (
        words.width or (9_600 if words.quick else 30_000),
        words.height or (7_200 if words.quick else 24_000),
    )
    threads, step = words.threads, 9 if words.quick else 1
    console = Console(width=110)
    words.cache.mkdir(parents=True, exist_ok=True)
    path = words.cache / f"bench-{width}x{height}.svs"
    if not path.exists():
        console.print(f"writing {path}")
        make_slide(path, words.slide, width, height)
    with tempfile.TemporaryDirectory(dir=words.cache) as temporary:
        folder = Path(temporary)
        with sd.open(folder / "bench.duckdb") as study:
            study.add_slides(path)
            found = study.native_grid()
            native = study.tile(found.spec.tile_px, tile_um=found.spec.tile_um).grid
            other = study.tile(256, tile_um=256 * MPP).grid
            study.label()
            counts = dict(study.con.execute("SELECT grid, count(*)::INT FROM labels GROUP BY grid").fetchall())
            corners = study.con.execute(
                "SELECT base_x, base_y FROM labels WHERE grid = $1 ORDER BY grid_y, grid_x", [native]
            ).fetchall()
        jpegs = stored_jpegs(path)
        # Encoding in full needs all pixels in memory: a part of them stands for all.
        some = [imagecodecs.jpeg8_decode(data) for data in jpegs[:: max(1, len(jpegs) // 1000)]]
        sides = {native: 1.0, other: (256 / SIDE) ** 2}
        outs = {name: folder / f"{name}.beton" for name in ("reencode", "off grid", "passthrough", "plain", "raw")}
        rates: dict[str, list[float]] = {}

        def note(name: str, tiles: int, seconds: float) -> None:
            rates.setdefault(name, []).append(tiles / seconds)

        with sd.open(folder / "bench.duckdb", read_only=True) as study:
            for _ in range(words.repeat):
                note("decode alone", len(jpegs), in_threads(imagecodecs.jpeg8_decode, jpegs, threads))
                note("encode alone", len(some), in_threads(lambda tile: encode_jpeg(tile, QUALITY), some, threads))
                for name, grid, jpeg in (
                    ("reencode", native, "reencode"),
                    ("off grid", other, "reencode"),
                    ("passthrough", native, "passthrough"),
                ):
                    started = time.perf_counter()
                    report = study.export(outs[name], grid=grid, where=None, jpeg=jpeg, threads=threads)
                    note(name, counts[grid], time.perf_counter() - started)
                    if report.readers != {"tiff": 1}:
                        raise SystemExit(f"the slide was read by {report.readers}")
                note("disk", counts[native], disk(folder, outs["reencode"].stat().st_size))
                note("plain", counts[native], plain(path, corners, outs["plain"], threads))
            if words.slideflow_python:
                extracted = slideflow(words.slideflow_python, path, folder / "slideflow", threads)
                for name, (seconds, tiles) in extracted.items():
                    note(name, tiles, seconds)
            study.export(outs["raw"], grid=native, where=f"grid_y % {step} = 0", raw=True, threads=threads)
            checks = [
                f"encoded again: {check(study, path, outs['reencode'], native, 'reencode', step)}",
                f"off grid: {check(study, path, outs['off grid'], other, 'reencode', step)}",
                f"passed through: {check(study, path, outs['passthrough'], native, 'passthrough', step)}",
            ]
            if step == 1:
                checks.append(f"raw: {check(study, path, outs['raw'], native, 'raw', 1)}")
        peaks = {
            n: max(
                peak_mib(folder / "bench.duckdb", folder / "memory.beton", grid, n, "reencode")
                for grid in (native, other)
            )
            for n in [int(n) for n in words.memory.split(",") if n] or [threads]
        }
    rate = {name: statistics.median(values) for name, values in rates.items()}
    limit = 1 / (1 / rate["decode alone"] + 1 / rate["encode alone"])
    table = Table(title=f"{width:,} x {height:,} px, {counts[native]:,} tiles, {threads} threads", title_justify="left")
    for heading in ("what", "tiles/s", "of", "slowest", "fastest"):
        table.add_column(heading, justify="left" if heading in ("what", "of") else "right")
    for name, text in (
        ("decode alone", "limit: libjpeg-turbo decodes the stored tiles"),
        ("encode alone", f"limit: it encodes them, 4:4:4, quality {QUALITY}"),
        ("disk", "limit: the beton's bytes, written with fsync"),
        ("reencode", "slideduck export --jpeg reencode, native grid"),
        ("off grid", "slideduck export, 256 px off the stored tiles"),
        ("passthrough", "slideduck export --jpeg passthrough"),
        ("plain", "OpenSlide, cv2.imencode, FFCV's DatasetWriter"),
        ("slideflow", "Slideflow's extract_tiles: threads, no filters"),
        ("slideflow, its defaults", "the same as it comes: processes, grey tiles out"),
    ):
        if name in rate:
            table.add_row(name, f"{rate[name]:,.0f}", text, f"{min(rates[name]):,.0f}", f"{max(rates[name]):,.0f}")
    console.print(table)
    console.print(f"decode and encode, one after the other: {limit:,.0f} tiles/s")
    for line in checks:
        console.print(line)
    console.print("peak memory: " + ", ".join(f"{mib:,.0f} MiB at {n} threads" for n, mib in peaks.items()))
    off_limit = limit / sides[other]
    ratios = {
        "reencode/limit": rate["reencode"] / limit,
        "off grid/limit": rate["off grid"] / off_limit,
        "reencode/plain": rate["reencode"] / rate["plain"],
        "passthrough/plain": rate["passthrough"] / rate["plain"],
    }
    ratios |= {f"reencode/{name}": rate["reencode"] / rate[name] for name in rate if name.startswith("slideflow")}
    print("ratios: " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))


if __name__ == "__main__":
    main()
