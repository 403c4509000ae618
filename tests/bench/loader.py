"""Times the loader against other ways to read the same tiles and against what the decoder can do, in one run.

    python tests/bench/loader.py [--quick] [--threads 2] [--tiles 4096] [--repeat 5] [--slideflow-python PYTHON]

Tiles are real: 256 px at quality 90, exported from the two slides that the project is tested with and written
over and over until there are enough. All contenders read every tile once, in an order of their own, in batches of 64
and with as many threads or processes, and give uint8 tensors that are the caller's to keep:

- slideduck: `TileLoader` and `to_device`, as `slideduck train` uses them on a CPU: each batch is copied out of the
  loader's buffers. For a GPU nothing is copied by the CPU, the card fetches the batch: "batches as they come".
  Every tile is compared with its sum before it is decoded, as in training; "unchecked" is the same without.
- decode: the limit. FFCV's own `imdecode` (libjpeg-turbo with the fast DCT, the decoder that the loader calls) in
  threads without the GIL, all JPEGs in memory, each thread into one buffer that stays in its cache. It is the same
  library with the same flags: another build of it, or the exact DCT, would move the limit by what no loader merits.
- exact: the same by `imagecodecs.jpeg8_decode`, for information: the exact DCT.
- torch + PIL, torch + cv2: a plain DataLoader over JPEG files, which decodes in its processes.
- slideflow: `slideflow.io.torch.interleave_dataloader` over TFRecords of the same JPEGs, without augmentation, where
  `--slideflow-python` can import Slideflow 3 (or this Python can). Its Trainer lets it augment ("xyrj": flips, turns
  and JPEG) and standardise in these processes, which slideduck does on the device: this is told by itself.

Contenders take turns. The seconds of each turn, and the CPU seconds of all its processes, stand beside the decoder's of
the same turn; medians of these ratios are told, the last line has them. On a machine with other work the ratio of CPU
seconds is the steadier one.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import torch
from ffcv.libffcv import imdecode
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

import slideduck as sd
from slideduck.betons import BetonWriter, read_sidecar
from slideduck.betons.pages import check_pages, tile_sums
from slideduck.runner.tiles.loader import TileLoader, to_device

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
TILE_PX, QUALITY, BATCH = 256, 90, 64
CPU = torch.device("cpu")
#: Reads all tiles once; returns tiles, seconds and CPU seconds.
Turn = Callable[[], list[float]]
NAMES = {
    "slideduck": "slideduck: TileLoader, to_device",
    "unchecked": "slideduck: TileLoader without sums, to_device",
    "uncopied": "slideduck: batches as they come, for a GPU",
    "decode": "limit: FFCV's imdecode in threads, from memory",
    "exact": "the same by imagecodecs, exact DCT",
    "torch + PIL": "DataLoader over JPEG files, PIL",
    "torch + cv2": "DataLoader over JPEG files, cv2",
    "slideflow": "Slideflow's interleave_dataloader",
    "slideflow's Trainer": "the same as its Trainer sets it: xyrj, standardised",
}

#: Writes TFRecords, then reads them once for each line of settings that it is sent.
SLIDEFLOW = """
import json, os, resource, sys, time
import numpy as np
import slideflow as sf
from slideflow.io.torch import interleave_dataloader
from slideflow.tfrecord.writer import TFRecordWriter
from slideflow.util.tfrecord2idx import create_index
jpegs, folder, threads, batch = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
ends = np.load(jpegs + ".npy")
data = open(jpegs, "rb").read()
paths, at = [], 0
for slide in range(8):
    path = os.path.join(folder, f"slide{slide}.tfrecords")
    writer = TFRecordWriter(path)
    for i in range(slide * len(ends) // 8, (slide + 1) * len(ends) // 8):
        writer.write({"slide": (f"slide{slide}".encode(), "byte"), "image_raw": (data[at:ends[i]], "byte"),
                      "loc_x": (i, "int"), "loc_y": (0, "int")})
        at = ends[i]
    writer.close()
    create_index(path)
    paths.append(path)
labels = {f"slide{i}": i % 2 for i in range(8)}
print("ready", flush=True)


def cpu():
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


for line in sys.stdin:
    before, started, seen = cpu(), time.perf_counter(), 0
    loader = interleave_dataloader(
        paths, img_size=256, batch_size=batch, num_workers=threads, infinite=False, labels=labels, **json.loads(line)
    )
    for images, _ in loader:
        seen += len(images)
    seconds = time.perf_counter() - started
    del loader
    print(json.dumps([seen, seconds, cpu() - before]), flush=True)
"""


@dataclass(frozen=True)
class Tiles:
    """The same tiles as a beton, as files, and in one file with where each JPEG ends."""

    beton: Path
    files: list[Path]
    together: Path
    jpegs: list[NDArray[np.uint8]]


# ------------------------------------------------------------------------------------------------ tiles


def real_jpegs(folder: Path, data: Path) -> list[bytes]:
    """Return the JPEGs that an export of the real slides holds."""
    with sd.open(folder / "bench.duckdb") as study:
        study.add_slides(sorted(data.glob("*.svs")), mpp={"TCGA-CR-7395-01A-01-TS1": 0.5})
        study.tile(TILE_PX, tile_um=TILE_PX / 2, stride_div=2)
        study.label(method="ignore")
        report = study.export(folder / "real.beton", where=None, quality=QUALITY, jpeg="reencode")
    from ffcv.reader import Reader

    content = np.memmap(folder / "real.beton", mode="r")
    pieces = sorted((int(sample), int(at), int(size)) for sample, at, size in Reader(folder / "real.beton").alloc_table)
    assert len(pieces) == report.samples
    return [content[at : at + size].tobytes() for _, at, size in pieces]


def write_tiles(folder: Path, distinct: list[bytes], n: int) -> Tiles:
    """Write `n` tiles in each of the forms."""
    beton, together = folder / "bench.beton", folder / "jpegs"
    chosen = [distinct[i % len(distinct)] for i in np.random.default_rng(0).permutation(n)]
    with BetonWriter(beton, samples=n) as writer:
        for i, jpeg in enumerate(chosen):
            writer.write(jpeg, TILE_PX, TILE_PX, mode="jpg", label=i % 2)
        writer.finish()
        writer.publish()
    files = []
    for i, jpeg in enumerate(chosen):
        files.append(folder / "files" / f"{i % 8}" / f"{i:06}.jpg")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        files[-1].write_bytes(jpeg)
    together.write_bytes(b"".join(chosen))
    np.save(f"{together}.npy", np.cumsum([len(jpeg) for jpeg in chosen]))
    return Tiles(beton, files, together, [np.frombuffer(jpeg, np.uint8) for jpeg in chosen])


# ------------------------------------------------------------------------------------------ contenders


class JpegFiles(Dataset[tuple[torch.Tensor, int]]):
    """A data set as people write it: a JPEG file for each tile."""

    def __init__(self, files: list[Path], by: str) -> None:
        self.files, self.by = files, by

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        if self.by == "PIL":
            with Image.open(self.files[i]) as image:
                pixels = np.array(image.convert("RGB"))
        else:
            pixels = cv2.cvtColor(cv2.imread(str(self.files[i]), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        return torch.from_numpy(pixels).permute(2, 0, 1), i % 2


def plain(files: list[Path], by: str, threads: int) -> int:
    """Read all files once; workers start and end with the epoch, so that their CPU time is known."""
    loader = DataLoader(JpegFiles(files, by), BATCH, shuffle=True, num_workers=threads, worker_init_fn=_one_thread)
    return sum(len(images) for images, _labels in loader)


def _one_thread(_worker: int) -> None:
    """Keep cv2's own threads out of the workers."""
    cv2.setNumThreads(1)


def ours(loader: TileLoader, rows: NDArray[np.int64]) -> int:
    """Read all rows once, as training does."""
    with loader.epoch(rows, BATCH) as batches:
        return sum(len(batch.images_BCHW) for batch in to_device(batches, CPU))


def uncopied(loader: TileLoader, rows: NDArray[np.int64]) -> int:
    """Read all rows once, and leave the batches in the loader's buffers."""
    with loader.epoch(rows, BATCH) as batches:
        return sum(len(images) for images, _labels, _rows in batches)


def in_threads(jpegs: list[NDArray[np.uint8]], order: NDArray[np.int64], threads: int, exact: bool) -> int:
    """Decode all JPEGs in threads, each into a buffer of its own."""

    def work(share: NDArray[np.int64]) -> None:
        out = np.empty((TILE_PX, TILE_PX, 3), np.uint8)
        for i in share:
            if exact:
                imagecodecs.jpeg8_decode(jpegs[i], out=out)
            elif imdecode(jpegs[i], out, TILE_PX, TILE_PX, TILE_PX, TILE_PX, 0, 0, 1, 1, False, False):
                raise SystemExit(f"tile {i} does not decode")

    pool = [threading.Thread(target=work, args=(order[i::threads],)) for i in range(threads)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    return len(order)


@contextmanager
def slideflow(
    python: str | None, tiles: Tiles, folder: Path, threads: int
) -> Iterator[Callable[[dict[str, Any]], list[float]] | str]:
    """Give a function that reads all tiles once by Slideflow, or say why there is none."""
    if python is None:
        yield "Slideflow is not installed here; --slideflow-python names a Python that imports it"
        return
    folder.mkdir()
    words = [python, "-c", SLIDEFLOW, str(tiles.together), str(folder), str(threads), str(BATCH)]
    environment = {**os.environ, "SF_SLIDE_BACKEND": "libvips", "SF_BACKEND": "torch"}
    with (
        (folder / "log").open("w+") as log,
        subprocess.Popen(
            words, text=True, env=environment, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        to, answers = process.stdin, process.stdout

        def answer(mark: str) -> str:
            for line in answers:
                if line.startswith(mark):
                    return line
            raise SystemExit(f"Slideflow failed:\n{(folder / 'log').read_text()[-2000:]}")

        def turn(settings: dict[str, Any]) -> list[float]:
            to.write(json.dumps(settings) + "\n")
            to.flush()
            numbers: list[float] = json.loads(answer("["))
            return numbers

        answer("ready")
        yield turn


# ---------------------------------------------------------------------------------------------- timing


def first_check(beton: Path, threads: int) -> str:
    """Return how fast the pages of a beton are compared with their checksums, from memory."""
    sidecar = read_sidecar(beton)

    def check() -> int:
        sums = check_pages(beton, sidecar, threads=threads)
        return 0 if sums is None else len(sums)

    seconds = min(timed(check)[1] for _ in range(3))
    mb = beton.stat().st_size / 1e6
    return f"Pages compared before the first epoch: {mb:,.0f} MB at {mb / seconds:,.0f} MB/s"


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of those that it started and that have ended."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def timed(work: Callable[[], int]) -> list[float]:
    """Return tiles, seconds and CPU seconds of a turn."""
    cpu, started = cpu_seconds(), time.perf_counter()
    seen = work()
    return [seen, time.perf_counter() - started, cpu_seconds() - cpu]


def measure(words: argparse.Namespace, folder: Path) -> tuple[dict[str, list[list[float]]], str]:
    """Return the turns of each contender, and a note."""
    distinct = real_jpegs(folder, words.data)
    tiles = write_tiles(folder, distinct, words.tiles)
    order = np.random.default_rng(1).permutation(words.tiles)
    sums = np.array([tile_sums(jpeg.tobytes(), [0], [len(jpeg)])[0] for jpeg in tiles.jpegs], np.uint32)
    loader, unchecked = TileLoader(tiles.beton, words.threads, sums=sums), TileLoader(tiles.beton, words.threads)
    ours(loader, order[: 4 * BATCH])  # compiles the decoder
    work: dict[str, Turn] = {
        "slideduck": lambda: timed(lambda: ours(loader, order)),
        "unchecked": lambda: timed(lambda: ours(unchecked, order)),
        "uncopied": lambda: timed(lambda: uncopied(loader, order)),
        "decode": lambda: timed(lambda: in_threads(tiles.jpegs, order, words.threads, exact=False)),
        "exact": lambda: timed(lambda: in_threads(tiles.jpegs, order, words.threads, exact=True)),
        "torch + PIL": lambda: timed(lambda: plain(tiles.files, "PIL", words.threads)),
        "torch + cv2": lambda: timed(lambda: plain(tiles.files, "cv2", words.threads)),
    }
    turns: dict[str, list[list[float]]] = {}
    size = sum(len(jpeg) for jpeg in distinct) / len(distinct)
    note = (
        f"{len(distinct):,} distinct tiles of {size / 1000:.0f} kB. {first_check(folder / 'real.beton', words.threads)}"
    )
    with slideflow(words.slideflow_python, tiles, folder / "slideflow", words.threads) as turn:
        if isinstance(turn, str):
            note += f". {turn}"
        else:
            plainly = {"augment": False, "standardize": False}
            work["slideflow"] = lambda: turn(plainly)
            work["slideflow's Trainer"] = lambda: turn({"augment": "xyrj", "standardize": True})
        for _ in range(words.repeat):
            for name, do in work.items():
                turns.setdefault(name, []).append(do())
    for name, rounds in turns.items():
        if any(seen != words.tiles for seen, _, _ in rounds):
            note += f". {name} gave {int(rounds[0][0]):,} of {words.tiles:,} tiles"
    return turns, note


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer tiles and turns; under 40 seconds")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--tiles", type=int, help="default 4,096, with --quick 1,024")
    parser.add_argument("--repeat", type=int, help="turns of each contender; default 5, with --quick 3")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real slides")
    parser.add_argument("--slideflow-python", metavar="PYTHON", help="a Python that imports slideflow")
    words = parser.parse_args()
    words.tiles = words.tiles or (1024 if words.quick else 4096)
    words.repeat = words.repeat or (3 if words.quick else 5)
    if words.slideflow_python is None and importlib.util.find_spec("slideflow"):
        words.slideflow_python = sys.executable
    with tempfile.TemporaryDirectory() as place:
        turns, note = measure(words, Path(place))
    show(turns, note, words.tiles, words.threads)


def show(turns: dict[str, list[list[float]]], note: str, n: int, threads: int) -> None:
    """Print a table of medians, and the ratios on the last line."""
    table = Table(title=f"{n:,} tiles of {TILE_PX} px, batches of {BATCH}, {threads} threads or processes")
    for heading in ("", "tiles/s", "of the limit", "tiles/CPU s", "of the limit", "slowest", "fastest"):
        table.add_column(heading, justify="left" if heading == "" else "right")
    ratios: dict[str, tuple[float, float]] = {}
    for name, rounds in turns.items():
        limit = turns["decode"]
        rates = [seen / seconds for seen, seconds, _ in rounds]
        per_cpu = [seen / cpu for seen, _, cpu in rounds]
        of_limit = statistics.median(a / (d[0] / d[1]) for a, d in zip(rates, limit, strict=True))
        of_cpu = statistics.median(a / (d[0] / d[2]) for a, d in zip(per_cpu, limit, strict=True))
        table.add_row(
            NAMES[name],
            f"{statistics.median(rates):,.0f}",
            f"{of_limit:.2f}",
            f"{statistics.median(per_cpu):,.0f}",
            f"{of_cpu:.2f}",
            f"{min(rates):,.0f}",
            f"{max(rates):,.0f}",
        )
        if name in ("slideduck", "uncopied"):
            ratios[f"{name}/decode"] = (of_limit, of_cpu)
        elif name not in ("decode", "exact"):
            mine = turns["slideduck"]
            of_wall = statistics.median((m[0] / m[1]) / rate for m, rate in zip(mine, rates, strict=True))
            by_cpu = statistics.median((m[0] / m[2]) / rate for m, rate in zip(mine, per_cpu, strict=True))
            ratios[f"slideduck/{name}"] = (of_wall, by_cpu)
    Console(width=120).print(table)
    print(note + ".")
    print("ratios (by CPU time): " + ", ".join(f"{name} {a:.2f} ({b:.2f})" for name, (a, b) in ratios.items()))


if __name__ == "__main__":
    main()
