"""Times labelling of slides of a million tiles, and labelling again, with the memory that they take.

    python -m tests.bench.label_scale [--sizes 1,10,100] [--memory 4GB] [--skip-again]

Each size is a process of its own: its peak memory is that of laying the grid, finding the pairs and the commit. The
100 slides take about 2 GB of disk and some minutes.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import slideduck as sd
from tests.bench.labels import ROIS, VERTICES, timed, write_rois

COLUMNS, TILE_PX = 1000, 256
SMALL_SLIDES, SMALL_COLUMNS = 1000, 20


def add_slides(study: sd.Study, n_slides: int, columns: int) -> None:
    """Put slides that exist as rows alone into a study."""
    for i in range(n_slides):
        study.con.execute(
            "INSERT INTO slides (slide, path, width, height, mpp, level_downsamples) VALUES ($1, $1, $2, $2, 1, [1])",
            [f"s{i:04}", columns * TILE_PX],
        )


def make(path: Path, n_slides: int) -> dict[str, Any]:
    """Write a study of large slides and their ROIs."""
    rng = np.random.default_rng(0)
    seconds: dict[str, float] = {}
    with sd.open(path) as study:
        add_slides(study, n_slides, COLUMNS)
        for i in range(n_slides):
            write_rois(path.parent / f"s{i:04}.csv", rng, COLUMNS * TILE_PX)
        with timed(seconds, "rois"):
            study.add_rois(path.parent)
    return seconds


def label(path: Path, memory: str | None) -> dict[str, Any]:
    """Lay the grid and label."""
    seconds: dict[str, float] = {}
    with sd.open(path) as study:
        with timed(seconds, "grid"):
            report = study.tile(TILE_PX, tile_um=TILE_PX)
        with timed(seconds, "label"):
            study.label(memory=memory)
            study.con.execute("CHECKPOINT")
        [(pairs,)] = study.sql("SELECT count(*) FROM tile_rois").fetchall()
    return {**seconds, "tiles": report.tiles, "pairs": pairs, "file_GB": path.stat().st_size / 1e9}


def again(folder: Path) -> dict[str, Any]:
    """Label a thousand small slides, then with nothing changed, then with one ROI file changed; and one slide alone."""

    def seconds_of(study: sd.Study, slides: int) -> float:
        start = time.perf_counter()
        report = study.label()
        took = time.perf_counter() - start
        assert report.slides == slides
        return took

    def write(i: int, right: float) -> Path:
        path = folder / "rois" / f"s{i:04}.csv"
        path.parent.mkdir(exist_ok=True)
        corners = ((100, 100), (right, 100), (right, 4000), (100, 4000))
        path.write_text("roi_name,x_base,y_base,label\n" + "".join(f"a,{x},{y},b\n" for x, y in corners))
        return path

    with sd.open(folder / "many.duckdb") as study:
        add_slides(study, SMALL_SLIDES, SMALL_COLUMNS)
        study.add_rois([write(i, 3000 + i) for i in range(SMALL_SLIDES)])
        study.tile(TILE_PX, tile_um=TILE_PX)
        first = seconds_of(study, SMALL_SLIDES)
        unchanged = [seconds_of(study, 0) for _ in range(7)]
        one_changed = []
        for i in range(7):
            study.add_rois(write(500, 2000 + i))
            one_changed.append(seconds_of(study, 1))
        rule = []
        for threshold in (0.1, 0.2, 0.3):
            start = time.perf_counter()
            study.label(rule="coverage", threshold=threshold)
            rule.append(time.perf_counter() - start)
    with sd.open(folder / "one.duckdb") as study:
        add_slides(study, 1, SMALL_COLUMNS)
        study.add_rois(write(0, 3000))
        study.tile(TILE_PX, tile_um=TILE_PX)
        alone = []
        for i in range(7):
            study.add_rois(write(0, 2000 + i))
            alone.append(seconds_of(study, 1))
    return {
        "all": first,
        "unchanged": statistics.median(unchanged),
        "one changed": statistics.median(one_changed),
        "another rule": statistics.median(rule),
        "one slide alone": statistics.median(alone),
    }


def in_process(*words: str) -> dict[str, Any]:
    """Run a step of this file in a process of its own, and return what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.label_scale", *words], stdout=subprocess.PIPE, text=True, check=True
    )
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def main() -> None:
    """Run the benchmark, or one step of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1,10,100", help="numbers of slides")
    parser.add_argument("--memory", help="what labelling may take, such as 4GB; default: a quarter of the machine's")
    parser.add_argument("--skip-again", action="store_true", help="leave out labelling again")
    parser.add_argument("--step", choices=("make", "label", "again"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.step:
        study = words.folder / "study.duckdb"
        answer = {
            "make": lambda: make(study, int(words.sizes)),
            "label": lambda: label(study, words.memory),
            "again": lambda: again(words.folder),
        }[words.step]()
        print(json.dumps({**answer, "peak_GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))
        return
    console = Console(width=120)
    table = Table(title=f"Slides of {COLUMNS**2:,} tiles, {ROIS} ROIs of {VERTICES:,} vertices each")
    for heading in ("slides", "tiles", "pairs", "grid s", "label s", "peak GiB", "file GB", "read ROIs s"):
        table.add_column(heading, justify="right")
    for size in words.sizes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            made = in_process("--step", "make", "--folder", folder, "--sizes", size)
            said = in_process(
                "--step", "label", "--folder", folder, *(["--memory", words.memory] if words.memory else [])
            )
        table.add_row(
            size,
            f"{said['tiles']:,}",
            f"{said['pairs']:,}",
            f"{said['grid']:.2f}",
            f"{said['label']:.2f}",
            f"{said['peak_GiB']:.2f}",
            f"{said['file_GB']:.2f}",
            f"{made['rois']:.2f}",
        )
    console.print(table)
    if not words.skip_again:
        with tempfile.TemporaryDirectory() as folder:
            said = in_process("--step", "again", "--folder", folder)
        table = Table(title=f"{SMALL_SLIDES:,} slides of {SMALL_COLUMNS**2} tiles")
        table.add_column("labelling")
        table.add_column("seconds", justify="right")
        for name in ("all", "unchanged", "another rule", "one changed", "one slide alone"):
            table.add_row(name, f"{said[name]:.3f}")
        console.print(table)


if __name__ == "__main__":
    main()
