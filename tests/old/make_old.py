"""Makes what a version of slideduck leaves on a disk, and what it says of it, for the tests of later versions.

    python tests/old/make_old.py COMMAND FOLDER

COMMAND is the ``slideduck`` of that version, in an environment of its own, such as ``/tmp/before/.venv/bin/slideduck``;
FOLDER gets the files, such as ``tests/old/0.1.0``. It takes some minutes. Only commands are called and no module of
the version is imported, so that a later version can be had in the same way; this script needs numpy, OpenCV and
tifffile itself, which the environment of the version has. A new folder goes into the params of the fixture `old`.

``made.tar.xz`` holds, as they were left:

- ``slides/``, ``rois/``, ``second/``, ``patients.csv``: what the study was made of. Slides S0 and S1 store JPEG tiles
  of the first grid, S2 and S3 pixels without loss.
- ``study.duckdb``: two grids, labels by coverage, a split, measures, fits of stains, predictions and features of S0
  by the run ``first``, and its evaluations.
- ``tiles.beton``, ``alike.beton`` (stains normalised) and ``parts-00000-of-00002.beton``, the first of two shards,
  each with its side-car.
- ``raw.beton.part`` and ``raw.beton.journal`` of an export that found no room after its first page.
- ``runs/``: ``first`` is finished, the others were interrupted; see RUNS. Pictures are left out, for their size.

Beside it is what the version said: ``labels.parquet``, ``predictions.parquet`` and ``features.parquet`` of all slides,
``evaluation.json``, ``expected.json`` (info, digests of betons, tiles of exports) and ``curves/RUN.jsonl`` of each run
as it is when nothing interrupts it.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
#: Where the files are made: some of them name it, and it is emptied first.
MADE_IN = Path("/tmp/slideduck-old")

TILE = 32
COLUMNS, ROWS = 7, 5
SLIDES = ("S0", "S1", "S2", "S3")
GRID = "32px_32um"
#: Many large tiles on small slides, so that an export fills pages of 8 MiB.
DENSE = "128px_128um_stride32"
#: A page, between the head of the file and its second page, bytes.
ROOM = 18 << 20

_TRAIN = "--model old_network:small --batch-size 8 --lr 0.02 --nproc 1 --track none --augment standard --log-steps 1"
#: Settings of each run, and the training step in which it is interrupted.
RUNS: dict[str, tuple[str, int | None]] = {
    "first": ("--epochs 2", None),
    "between": ("--epochs 3", 8),
    "within": ("--epochs 3 --checkpoint-steps 2 --ema-decay 0.9", 11),
    "numbers": ("--epochs 3 --checkpoint-steps 2 --task regression --target patient:age", 11),
    "several": ("--epochs 2 --task multi-label --target patient:findings", 8),
}

PATIENTS = """slide,patient,site,age,findings
S0,P0,A,41,a;b
S1,P1,B,67,b
S2,P2,A,58,-
S3,P3,B,35,a
"""


def settings_of(name: str) -> list[str]:
    """Return the options of `slideduck train` for a run."""
    return [*_TRAIN.split(), *RUNS[name][0].split()]


class Old:
    """The command of a version, in a folder."""

    def __init__(self, command: str, folder: Path) -> None:
        self.command, self.folder = command, folder

    def run(self, line: str, *more: str, stop_at: int | None = None, fails: bool = False, room: int = 0) -> str:
        """Run a command and return what it printed."""
        environment = {**os.environ, "PYTHONPATH": str(HERE)}
        if stop_at is not None:
            environment["OLD_STOP_AT"] = str(stop_at)
        limit = ["prlimit", f"--fsize={room}"] if room else []
        done = subprocess.run(
            [*limit, self.command, *line.split(), *more],
            cwd=self.folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
        )
        if (done.returncode != 0) != (fails or stop_at is not None):
            raise SystemExit(f"{line} ended with {done.returncode}")
        return done.stdout

    def sql(self, query: str, *more: str, study: str = "study.duckdb") -> str:
        """Run a query on the study."""
        return self.run(f"sql {study}", query, *more)


def paint(number: int) -> NDArray[np.uint8]:
    """Return a slide: light stripes on its left, dark chequers on its right; no tile is like another."""
    rng = np.random.default_rng(number)
    image = np.full((ROWS * TILE, COLUMNS * TILE, 3), 240, np.uint8)
    y, x = np.mgrid[:TILE, :TILE]
    for row in range(ROWS):
        for column in range(COLUMNS):
            phase_x, phase_y, brightness = (*rng.integers(0, 8, 2), rng.integers(-24, 25))
            on = (x + phase_x) // 4 % 2 == 1
            if column > COLUMNS // 2:
                on = on ^ ((y + phase_y) // 4 % 2 == 1)
            colours = np.array([[200, 120, 170], [120, 60, 140]]) + brightness
            if (row + column + number) % 9 == 0:
                colours[0] = 245  # some glass
            tile = colours[on.astype(int)]
            image[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE] = tile.clip(0, 255)
    return image


def rectangle(name: str, label: str, left: float, top: float, right: float, bottom: float) -> list[list[Any]]:
    """Return the rows of an ROI, as Slideflow's CSV has them."""
    return [[name, x, y, label] for x, y in ((left, top), (right, top), (right, bottom), (left, bottom))]


def write_inputs(folder: Path) -> None:
    """Write slides, ROIs of two readers and patients."""
    # Called as a script, this finds no package of tests.
    sys.path.append(str(HERE.parent))
    write_slide = importlib.import_module("slides").write_slide
    for name in ("slides", "rois", "second"):
        (folder / name).mkdir()
    middle, bottom, right = (COLUMNS // 2 + 1) * TILE, (ROWS - 1) * TILE, COLUMNS * TILE
    for number, name in enumerate(SLIDES):
        path = folder / "slides" / f"{name}.tif"
        write_slide(path, paint(number), mpp=1.0, tile=TILE, compression="jpeg" if number < 2 else "deflate")
        # A whole second, which an archive keeps as it is.
        os.utime(path, (1_700_000_000 + number,) * 2)
        first = [
            *rectangle("a", "light", 5, 0, middle, bottom),
            *rectangle("a hole", "light", 40, 40, 60 + number, 60),
            *rectangle("b", "dark", middle, 0, right, bottom + 10),
            *rectangle("c", "light", right - 40, 70, right - 4, 110),
            *rectangle("d", "pen", 0, 96, 33, 128),
        ]
        second = rectangle("e", "light", 0, 0, middle + 20, bottom) + rectangle("f", "dark", middle + 20, 0, right, 99)
        for reader, rows in (("rois", first), ("second", second)):
            with (folder / reader / f"{name}.csv").open("w", newline="") as file:
                csv.writer(file).writerows([["roi_name", "x_base", "y_base", "label"], *rows])
    (folder / "patients.csv").write_text(PATIENTS)


def make_study(old: Old) -> None:
    """Make the study, and its betons."""
    old.run("add-slides study.duckdb slides")
    old.run("add-rois study.duckdb rois")
    old.run("add-rois study.duckdb second --set second")
    old.run("add-patients study.duckdb patients.csv")
    old.run("tile study.duckdb --tile-px 32 --tile-um 32")
    old.run("tile study.duckdb --tile-px 128 --tile-um 128 --stride-div 32")
    old.run("label study.duckdb --rule coverage --threshold 0.5 --artifact-label pen")
    old.run("split study.duckdb --val-fraction 0.5 --seed 1")
    old.run(f"qc study.duckdb --grid {GRID}")
    old.run("stain study.duckdb")
    old.run(f"export study.duckdb tiles.beton --grid {GRID}")
    old.run(f"export study.duckdb alike.beton --grid {GRID} --stain macenko --where", "label = 'dark'")
    old.run(f"export study.duckdb parts.beton --grid {GRID} --shards 2 --shard 0")
    old.run(*raw_export("raw.beton"), fails=True, room=ROOM)


def raw_export(out: str) -> tuple[str, str]:
    """Return the export that finds no room."""
    return f"export study.duckdb {out} --grid {DENSE} --raw --where", "slide = 'S3' AND grid_y < 9"


def train(old: Old, name: str, folder: str, stop_at: int | None) -> None:
    """Train a run."""
    old.run(" ".join(["train tiles.beton --run", f"{folder}/{name}", *settings_of(name)]), stop_at=stop_at)


def curve(run: Path) -> str:
    """Return the metrics of a run, without the times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in line.items() if not k.startswith(("time/", "throughput/"))} for line in lines]
    return "".join(json.dumps(line) + "\n" for line in kept)


def sha256(path: Path) -> str:
    """Return the digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_expected(old: Old, out: Path) -> None:
    """Write what the version says of what it left; on copies, so that nothing is added to that."""
    work = old.folder
    old.sql("FROM labels ORDER BY grid, slide, grid_y, grid_x", "--parquet", str(out / "labels.parquet"))
    expected: dict[str, Any] = {
        "version": old.run("--version").split()[-1],
        "versions": json.loads((work / "tiles.json").read_text())["versions"],
        "info": json.loads(old.run("info study.duckdb --json")),
        "tables": {},
    }
    names = old.sql("SELECT table_name FROM duckdb_tables() ORDER BY ALL", "--json")
    for row in json.loads(names):
        counted = json.loads(old.sql(f"SELECT count(*) AS n FROM {row['table_name']}", "--json"))
        expected["tables"][row["table_name"]] = counted[0]["n"]
    old.run(f"verify {work / 'tiles.beton'} --sample all")
    old.run(*raw_export("whole/raw.beton"))
    betons = [*sorted(work.glob("*.beton")), work / "whole" / "raw.beton"]
    expected["betons"] = {
        path.name: {
            "sha256": sha256(path),
            "samples": json.loads(path.with_suffix(".json").read_text())["beton"]["samples"],
        }
        for path in betons
    }
    shutil.copy(work / "study.duckdb", work / "whole" / "study.duckdb")
    shutil.copytree(work / "runs" / "first", work / "whole" / "first")
    study = "whole/study.duckdb"
    # In the run's own folder, which the study knows.
    old.run(f"predict runs/first {study}")
    old.run(f"features runs/first {study}")
    order = "WHERE run = 'first' ORDER BY grid, slide, grid_y, grid_x"
    old.sql(f"FROM predictions {order}", "--parquet", str(out / "predictions.parquet"), study=study)
    old.sql(f"FROM features_6 {order}", "--parquet", str(out / "features.parquet"), study=study)
    old.run(f"evaluate runs/first tiles.beton --out {work}/whole/all.parquet --by site")
    shutil.copy(work / "whole" / "all.json", out / "evaluation.json")
    (out / "curves").mkdir(exist_ok=True)
    for name in RUNS:
        if name != "first":
            train(old, name, "whole", None)
        run = work / ("runs" if name == "first" else "whole") / name
        (out / "curves" / f"{name}.jsonl").write_text(curve(run))
    (out / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def pack(work: Path, out: Path) -> None:
    """Pack what was left; zeros that a beton begins with take no room."""
    for picture in (*work.rglob("*.png"), *work.rglob(".lock")):
        if picture.is_relative_to(work / "runs"):
            picture.unlink()
    names = sorted(path.name for path in work.iterdir() if path.name != "whole")
    tar = ["tar", "--sparse", "--owner=0", "--group=0", "--numeric-owner", "--sort=name", "-C", str(work), "-c", *names]
    with subprocess.Popen(tar, stdout=subprocess.PIPE) as packing, (out / "made.tar.xz").open("wb") as file:
        subprocess.run(["xz", "-9e", "-c"], stdin=packing.stdout, stdout=file, check=True)


def main() -> None:
    """Make the files of a version."""
    command, out = sys.argv[1], Path(sys.argv[2]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    work = MADE_IN
    shutil.rmtree(work, ignore_errors=True)
    (work / "whole").mkdir(parents=True)
    write_inputs(work)
    old = Old(command, work)
    make_study(old)
    for name, (_, stop_at) in RUNS.items():
        train(old, name, "runs", stop_at)
    old.run("evaluate runs/first tiles.beton --split val")
    old.run("add-predictions study.duckdb runs/first")
    old.run("predict runs/first study.duckdb --slide S0")
    old.run("features runs/first study.duckdb --slide S0")
    write_expected(old, out)
    pack(work, out)


if __name__ == "__main__":
    main()
