"""Times commands on studies that are large in one way each, with the memory that they take.

    python -m tests.bench.size [--quick] [--only KIND]

Each command is a process of its own. Kinds: `many`, 100,000 ROIs side by side; `spot`, as many on top of each other;
`rings`, 10,000 in each other; `vertices`, one ROI of 1,000,000; `names`, 100,000 of one name; `tiles`, a slide of
200,000 px a side in tiles of 64 px; `slides`, 2,000 slides with an ROI file each. With `--quick` a tenth of each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import slideduck as sd
from tests.slides import write_slide

#: A command that has not ended by then is told as that.
MOST_SECONDS = 1800

Ring = NDArray[np.float64]
#: The files of a study are made in a folder; returned are the commands that are timed there.
Kind = Callable[[Path, int], list[list[str]]]

CIRCLE = np.c_[np.cos(np.arange(12) * np.pi / 6), np.sin(np.arange(12) * np.pi / 6)]
TILE = ["tile", "study.duckdb", "--tile-px", "256", "--tile-um", "256"]
LABEL = ["label", "study.duckdb"]


def blank_study(folder: Path, side: int) -> None:
    """Make a study of one slide that has no file: none of the commands reads its pixels."""
    with sd.open(folder / "study.duckdb") as study:
        study.con.execute(
            "INSERT INTO slides (slide, path, width, height, mpp, level_downsamples) VALUES ('s', 's', $1, $1, 1, [1])",
            [side],
        )


def write_csv(path: Path, rings: Iterator[Ring]) -> None:
    """Write rings as Slideflow's CSV, all of one label."""
    with path.open("w") as file:
        file.write("roi_name,x_base,y_base,label\n")
        for i, ring in enumerate(rings):
            file.writelines(f"r{i},{x},{y},tumour\n" for x, y in ring.round(3).tolist())


def of_rings(folder: Path, side: int, rings: Iterator[Ring]) -> list[list[str]]:
    """Make a study and a CSV file of rings."""
    blank_study(folder, side)
    write_csv(folder / "s.csv", rings)
    return [["add-rois", "study.duckdb", "s.csv"], TILE, LABEL]


def many(folder: Path, n: int) -> list[list[str]]:
    """ROIs side by side."""
    row = int(np.ceil(np.sqrt(n)))
    return of_rings(folder, row * 40 + 100, (15 * CIRCLE + [i % row * 40 + 20, i // row * 40 + 20] for i in range(n)))


def spot(folder: Path, n: int) -> list[list[str]]:
    """ROIs on top of each other."""
    rng = np.random.default_rng(0)
    return of_rings(folder, 2000, (1000 + rng.uniform(-50, 50, 2) + rng.uniform(50, 200) * CIRCLE for _ in range(n)))


def rings(folder: Path, n: int) -> list[list[str]]:
    """ROIs in each other."""
    return of_rings(folder, n * 4 + 100, (n * 2 + 50 + (10 + 2 * i) * CIRCLE for i in range(n)))


def vertices(folder: Path, n: int) -> list[list[str]]:
    """One ROI of many vertices, a coastline."""
    angle = np.arange(n) * 2 * np.pi / n
    wave = 20_000 + 3000 * np.sin(40 * angle) + 50 * np.sin(7919 * angle)
    return of_rings(folder, 50_000, iter([25_000 + wave[:, None] * np.c_[np.cos(angle), np.sin(angle)]]))


def names(folder: Path, n: int) -> list[list[str]]:
    """ROIs of one name."""
    row = int(np.ceil(np.sqrt(n)))
    blank_study(folder, row * 40 + 100)
    features = []
    for i in range(n):
        ring = (15 * CIRCLE + [i % row * 40 + 20, i // row * 40 + 20]).round(2).tolist()
        geometry = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
        features.append({"type": "Feature", "geometry": geometry, "properties": {"name": "Tumour"}})
    (folder / "s.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return [["add-rois", "study.duckdb", "s.geojson"], TILE, LABEL]


def tiles(folder: Path, n: int) -> list[list[str]]:
    """A slide of so many pixels a side."""
    commands = of_rings(folder, n, (n / 2 + n / 3 * CIRCLE * scale for scale in (1, 0.5)))
    return [commands[0], ["tile", "study.duckdb", "--tile-px", "64", "--tile-um", "64"], LABEL]


def slides(folder: Path, n: int) -> list[list[str]]:
    """Slides with an ROI file each."""
    for name in ("slides", "rois"):
        (folder / name).mkdir()
    for i in range(n):
        write_slide(folder / "slides" / f"s{i:05}.tif", i, size=(256, 256), levels=1)
        write_csv(folder / "rois" / f"s{i:05}.csv", iter([128 + 60 * CIRCLE, 128 + 20 * CIRCLE]))
    return [
        ["add-slides", "study.duckdb", "slides"],
        ["add-rois", "study.duckdb", "rois"],
        ["tile", "study.duckdb", "--tile-px", "64", "--tile-um", "32"],
        LABEL,
    ]


KINDS: dict[str, tuple[Kind, int]] = {
    "many": (many, 100_000), "spot": (spot, 100_000), "rings": (rings, 10_000), "vertices": (vertices, 1_000_000),
    "names": (names, 100_000), "tiles": (tiles, 200_000), "slides": (slides, 2000),
}  # fmt: skip


def timed(folder: Path, command: list[str]) -> tuple[float, float, float]:
    """Run a command in a process of its own; return its seconds, those of the CPU, and its peak memory, MB."""
    start = time.perf_counter()
    with (folder / "said.txt").open("w") as said:
        process = subprocess.Popen(
            ["timeout", str(MOST_SECONDS), sys.executable, "-m", "slideduck", *command],
            cwd=folder, stdout=said, stderr=said,
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {(folder / 'said.txt').read_text()}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    """Print a row for each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the size")
    parser.add_argument("--only", choices=KINDS, action="append")
    options = parser.parse_args()
    table = Table("kind", "size", "command", "seconds", "CPU, s", "peak, MB")
    for name in options.only or KINDS:
        make, n = KINDS[name]
        n = n // 10 if options.quick else n
        with tempfile.TemporaryDirectory() as place:
            for command in make(Path(place), n):
                seconds, cpu, peak = timed(Path(place), command)
                table.add_row(name, f"{n:,}", command[0], f"{seconds:.1f}", f"{cpu:.1f}", f"{peak:,.0f}")
                print(
                    f"{name} {n} {command[0]} {seconds:.1f} s, {cpu:.1f} s of the CPU, {peak:.0f} MB",
                    file=sys.stderr,
                    flush=True,
                )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
