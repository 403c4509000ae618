"""Times labelling against a spatial join, loops of shapely and Slideflow, on one seeded cohort.

    python tests/bench/labels.py [--quick] [--slides 20] [--repeat 3] [--slideflow-python PYTHON]

Each contender is a process of its own and finds which tile centres lie in which ROI. The engine also finds the exact
coverage of every pair, lays the grid and commits to disk. Answers are compared before a ratio is printed. What would
take minutes is timed on some of the slides and scaled, since its cost a slide is the same; the table says on how many.
Slideflow takes part where it can be imported, by this Python or by the one that is named.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

# A contender imports what it needs and no more: another Python may run one.
if TYPE_CHECKING:
    from numpy.typing import NDArray

MPP = 0.25
TILE_PX, TILE_UM = 256, 64
ROIS, VERTICES, LABELS = 30, 2000, 4


# -------------------------------------------------------------------------------------- the cohort


def outline(rng: np.random.Generator, length: int) -> NDArray[np.float64]:
    """Return a freehand-looking outline of shape (VERTICES, 2), base pixels, somewhere on the slide."""
    radius = rng.uniform(0.02, 0.09) * length
    middle = rng.uniform(1.4 * radius, length - 1.4 * radius, 2)
    angle = (np.arange(VERTICES) + rng.uniform(0, 1, VERTICES)) * 2 * np.pi / VERTICES
    wave = 1 + 0.2 * np.sin(3 * angle + rng.uniform(0, 6)) + 0.1 * np.sin(17 * angle + rng.uniform(0, 6))
    points: NDArray[np.float64] = middle + (radius * wave)[:, None] * np.c_[np.cos(angle), np.sin(angle)]
    return points.round(1)


def write_slide(path: Path, length: int) -> None:
    """Write a blank pyramid, a square of so many base pixels; its tiles hold no bytes, as scanners leave out glass."""
    import tifffile

    with tifffile.TiffWriter(path) as writer:
        for level in range(5):
            side = length >> level
            writer.write(
                itertools.repeat(b"", (-(-side // 4096)) ** 2),
                shape=(side, side, 3),
                dtype=np.uint8,
                tile=(4096, 4096),
                photometric="rgb",
                compression="deflate",
                resolution=(1e4 / MPP, 1e4 / MPP),
                resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0,
                metadata=None,
            )


def write_rois(path: Path, rng: np.random.Generator, length: int) -> None:
    """Write the ROIs of a slide; every fifth has a hole, which is an ROI of the same label within it."""
    with path.open("w") as file:
        file.write("roi_name,x_base,y_base,label\n")
        for i in range(ROIS):
            points = outline(rng, length)
            rings = {f"r{i}": points}
            if i % 5 == 0:
                middle = points.mean(axis=0)
                rings[f"r{i} hole"] = (middle + 0.3 * (points - middle)).round(1)
            for name, ring in rings.items():
                file.writelines(f"{name},{x},{y},label {i % LABELS}\n" for x, y in ring.tolist())


def make_cohort(folder: Path, n_slides: int, columns: int) -> dict[str, Any]:
    """Write slides and ROI files, and a study that holds both; it is no contender, but takes memory as they do."""
    import slideduck as sd

    rng = np.random.default_rng(0)
    for name in ("slides", "rois"):
        (folder / name).mkdir(exist_ok=True)
    for i in range(n_slides):
        write_slide(folder / "slides" / f"s{i:03}.tif", columns * TILE_PX)
        write_rois(folder / "rois" / f"s{i:03}.csv", rng, columns * TILE_PX)
    with sd.open(folder / "cohort.duckdb") as study:
        study.add_slides(folder / "slides")
        study.add_rois(folder / "rois")
    return {}


# ---------------------------------------------------------------------------------- the contenders


def digest(*columns: NDArray[np.int64]) -> str:
    """Return a fingerprint of a set of rows, whatever their order."""
    rows = np.column_stack(columns).astype(np.int64)
    return hashlib.sha256(rows[np.lexsort(rows.T)].tobytes()).hexdigest()


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the time of a block to `seconds`."""
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0) + time.perf_counter() - start


def by_engine(folder: Path, n_slides: int) -> dict[str, Any]:
    """Lay the grid, find centre and coverage of all pairs, commit; all of it is timed."""
    import slideduck as sd

    path = folder / "engine.duckdb"
    shutil.copy(folder / "cohort.duckdb", path)
    seconds: dict[str, float] = {}
    with sd.open(path) as study:
        with timed(seconds, "grid"):
            study.tile(TILE_PX, tile_um=TILE_UM)
        with timed(seconds, "label"):
            study.label()
        with timed(seconds, "commit"):
            study.con.execute("CHECKPOINT")
        found = study.sql("SELECT roi_id, grid_x, grid_y FROM tile_rois WHERE centre").fetchnumpy()
        (pairs,) = study.sql("SELECT count(*) FROM tile_rois").fetchall()[0]
    return {
        "seconds": sum(seconds.values()),
        "parts": seconds,
        "slides": n_slides,
        "centres": len(found["roi_id"]),
        "digest": digest(*(np.asarray(found[name]) for name in ("roi_id", "grid_x", "grid_y"))),
        "pairs": pairs,
    }


def by_join(folder: Path, n_slides: int, *, every: int) -> dict[str, Any]:
    """Count the centres in every so manieth ROI of some slides by DuckDB's spatial join."""
    import slideduck as sd
    from slideduck.store.sqlfiles import read_query

    seconds: dict[str, float] = {}
    past = {"past": f"s{n_slides:03}"}
    with sd.open(folder / "engine.duckdb", read_only=True) as study:
        [(n_rois,)] = study.sql("SELECT count(*) FROM rois WHERE parent IS NULL AND slide < $past", past).fetchall()
        # The query finds a temporary table before the study's own.
        study.con.execute(
            "CREATE TEMP TABLE rois AS FROM engine.rois WHERE parent IS NULL AND roi_id % $every = 0 AND slide < $past",
            {"every": every, **past},
        )
        [(n_joined,)] = study.sql("SELECT count(*) FROM rois").fetchall()
        with timed(seconds, "join"):
            [(centres,)] = study.con.execute(read_query("count_centres_by_join"), {"slides": n_slides}).fetchall()
        [(some,)] = study.sql("SELECT count(*) FROM tile_rois SEMI JOIN rois USING (roi_id) WHERE centre").fetchall()
    if centres != some:
        raise SystemExit(f"answers differ: the join finds {centres} centres in {n_joined} ROIs, the engine {some}")
    return {"seconds": seconds["join"] * n_rois / n_joined, "slides": n_slides}


def by_shapely(folder: Path, n_slides: int, *, boxes: bool) -> dict[str, Any]:
    """Find the centres in ROIs by shapely, prepared: of the tiles about each ROI's bounding box, or of all."""
    import shapely

    import slideduck as sd

    with sd.open(folder / "engine.duckdb", read_only=True) as study:
        rois = study.sql(
            "SELECT slide, roi_id, ST_AsWKB(geom)::BLOB FROM rois WHERE parent IS NULL ORDER BY slide, roi_id"
        ).fetchall()
        [(columns, rows)] = study.sql("SELECT DISTINCT n_columns, n_rows FROM grid_slides").fetchall()
    found: list[tuple[int, NDArray[np.int64], NDArray[np.int64]]] = []
    seconds: dict[str, float] = {}
    with timed(seconds, "loop"):
        for _, group in itertools.groupby(rois, key=lambda row: row[0]):
            across, down = np.meshgrid(np.arange(columns), np.arange(rows))
            for _, roi_id, wkb in group:
                shape = shapely.from_wkb(wkb)
                shapely.prepare(shape)
                x, y = across, down
                if boxes:
                    left, top, right, bottom = (int(v // TILE_PX) for v in shape.bounds)
                    near = np.s_[max(0, top) : bottom + 1, max(0, left) : right + 1]
                    x, y = across[near], down[near]
                inside = shapely.intersects_xy(shape, (x + 0.5) * TILE_PX, (y + 0.5) * TILE_PX)
                found.append((roi_id, x[inside], y[inside]))
    ids = np.concatenate([np.full(len(x), roi_id) for roi_id, x, _ in found])
    x, y = (np.concatenate([part[i] for part in found]) for i in (1, 2))
    return {"seconds": seconds["loop"], "slides": n_slides, "centres": len(ids), "digest": digest(ids, x, y)}


def by_slideflow(folder: Path, n_slides: int) -> dict[str, Any]:
    """Make the data frame of the tiles in ROIs of some slides by Slideflow."""
    os.environ.setdefault("SF_BACKEND", "torch")
    os.environ.setdefault("SF_SLIDE_BACKEND", "libvips")
    import pandas as pd
    import slideflow

    names = [f"s{i:03}" for i in range(n_slides)]
    dataset = slideflow.Dataset(
        slides=str(folder / "slides"),
        roi=str(folder / "rois"),
        tile_px=TILE_PX,
        tile_um=TILE_UM,
        annotations=pd.DataFrame({"patient": names, "slide": names}),
    )
    seconds: dict[str, float] = {}
    with timed(seconds, "frame"):
        frame = dataset.get_tile_dataframe()
    frame[["slide", "grid_x", "grid_y", "roi_name"]].to_csv(folder / "slideflow.csv", index=False)
    return {"seconds": seconds["frame"], "slides": n_slides, "version": slideflow.__version__}


CONTENDERS: dict[str, tuple[str, Callable[[Path, int], dict[str, Any]]]] = {
    "engine": ("slideduck: grid, centre, coverage, commit", by_engine),
    "boxes": ("shapely loop, tiles of each bounding box: centre", lambda f, n: by_shapely(f, n, boxes=True)),
    "all": ("shapely loop, all tiles of the slide: centre", lambda f, n: by_shapely(f, n, boxes=False)),
    "join": ("DuckDB spatial join: centre", lambda f, n: by_join(f, n, every=1)),
    "third of join": ("DuckDB spatial join, every third ROI: centre", lambda f, n: by_join(f, n, every=3)),
    "slideflow": ("Slideflow get_tile_dataframe: centre", by_slideflow),
}
#: Those that take longer than the engine.
SLOW = ("join", "third of join", "slideflow")


def contend(python: str, name: str, folder: Path, *words: str) -> dict[str, Any]:
    """Run a contender in a process of its own, and return what it says."""
    command = [python, __file__, "--contender", name, "--folder", str(folder), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def check_slideflow(folder: Path, n_slides: int) -> str:
    """Compare the tiles that Slideflow finds in ROIs with the engine's, and the ROIs of those in one alone."""
    import slideduck as sd

    with sd.open(folder / "engine.duckdb", read_only=True) as study:
        [(tiles, missing, extra, single, same)] = study.sql(
            "WITH theirs AS (FROM read_csv($csv, all_varchar = true)), "
            "ours AS (SELECT slide, grid_x, grid_y, roi_name, n_rois FROM labels WHERE n_rois > 0 AND slide < $past) "
            "SELECT count(ours.slide), count(*) FILTER (WHERE theirs.slide IS NULL), "
            "count(*) FILTER (WHERE ours.slide IS NULL), "
            "count(*) FILTER (WHERE ours.n_rois = 1 AND theirs.slide IS NOT NULL), "
            "count(*) FILTER (WHERE ours.n_rois = 1 AND ours.roi_name = theirs.roi_name) "
            "FROM ours FULL JOIN theirs ON ours.slide = theirs.slide "
            "AND ours.grid_x = theirs.grid_x::INT AND ours.grid_y = theirs.grid_y::INT",
            {"csv": str(folder / "slideflow.csv"), "past": f"s{n_slides:03}"},
        ).fetchall()
    return (
        f"Slideflow: of {tiles:,} tiles in ROIs it lacks {missing:,}, and has {extra:,} others; "
        f"of {single:,} in one ROI alone it names that ROI for {same:,}"
    )


# --------------------------------------------------------------------------------------------- run


def main() -> None:
    """Run the benchmark, or one contender of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four slides, in under 40 seconds")
    parser.add_argument("--slides", type=int, default=20)
    parser.add_argument("--columns", type=int, default=346, help="tiles in a row, and rows")
    parser.add_argument("--repeat", type=int, help="runs of each contender; default 3, with --quick 2")
    parser.add_argument("--slideflow-python", metavar="PYTHON", help="a Python that can import slideflow")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.contender:
        if words.contender == "cohort":
            answer = make_cohort(words.folder, words.slides, words.columns)
        else:
            answer = CONTENDERS[words.contender][1](words.folder, words.slides)
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        print(json.dumps({**answer, "peak_GiB": peak / 2**20}))
        return
    python = words.slideflow_python
    if python is None and importlib.util.find_spec("slideflow"):
        python = sys.executable
    n_slides = 4 if words.quick else words.slides
    repeat = words.repeat or (2 if words.quick else 3)
    join = "third of join" if words.quick else "join"
    slides = dict.fromkeys(CONTENDERS, n_slides) | {join: min(1 if words.quick else 2, n_slides)}
    turns = dict.fromkeys(("engine", "boxes", "all"), repeat) | {join: 1}
    if python is not None:
        turns["slideflow"] = 1 if words.quick else repeat
    said: dict[str, list[dict[str, Any]]] = {name: [] for name in turns}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        contend(sys.executable, "cohort", folder, "--slides", str(n_slides), "--columns", str(words.columns))
        for turn in range(max(turns.values())):
            for name, times in turns.items():
                if turn < times:
                    on = python if name == "slideflow" else sys.executable
                    said[name].append(contend(on, name, folder, "--slides", str(slides[name])))
        answers = {name: {(s["centres"], s["digest"]) for s in said[name]} for name in ("engine", "boxes", "all")}
        if len(set.union(*answers.values())) > 1:
            raise SystemExit(f"answers differ: {answers}")
        note = check_slideflow(folder, n_slides) if "slideflow" in said else "Slideflow is not installed here"
    show(said, slides, n_slides, words.columns, note)


def show(said: dict[str, list[dict[str, Any]]], slides: dict[str, int], n_slides: int, columns: int, note: str) -> None:
    """Print a table of medians for all slides, and the ratios on the last line."""
    from rich.console import Console
    from rich.table import Table

    seconds = {
        name: statistics.median(s["seconds"] for s in runs) * n_slides / slides[name] for name, runs in said.items()
    }
    engine = said["engine"][-1]
    table = Table(
        title=f"{n_slides} slides of {columns**2:,} tiles, {ROIS} ROIs of {VERTICES:,} vertices each and "
        f"{len(range(0, ROIS, 5))} holes: {engine['centres']:,} centres, {engine['pairs']:,} pairs"
    )
    for heading in ("", "s for all", "/ slideduck", "runs", "slides timed", "peak GiB"):
        table.add_column(heading, justify="left" if heading == "" else "right")
    for name, runs in said.items():
        table.add_row(
            CONTENDERS[name][0],
            f"{seconds[name]:.2f}",
            f"{seconds[name] / seconds['engine']:.2f}",
            str(len(runs)),
            str(slides[name]),
            f"{max(s['peak_GiB'] for s in runs):.2f}",
        )
    console = Console(width=120)
    console.print(table)
    parts = {part: statistics.median(s["parts"][part] for s in said["engine"]) for part in engine["parts"]}
    console.print("slideduck: " + ", ".join(f"{part} {took:.2f} s" for part, took in parts.items()), highlight=False)
    console.print("All sets of centres are equal, of the join their number. " + note, highlight=False)
    ratios = [f"engine/{name} {seconds['engine'] / seconds[name]:.2f}" for name in ("boxes", "all")]
    ratios += [
        f"{name.removeprefix('third of ')}/engine {seconds[name] / seconds['engine']:.1f}"
        for name in said
        if name in SLOW
    ]
    print("ratios: " + ", ".join(ratios))


if __name__ == "__main__":
    main()
