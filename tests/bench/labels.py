"""Times labelling against a spatial join and a loop of shapely, on the same seeded cohort in one run.

    python tests/bench/labels.py [--quick] [--slides 20] [--repeat 3]

Each contender answers: which tile centres lie in which ROI. Ours also gives the exact coverage of every pair, lays the
grid and commits to disk. The answers are compared before a ratio is printed. The spatial join is timed on some of the
slides where all would take minutes, since its cost per slide is the same; the line says on how many.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

import slideduck as sd
from slideduck.outlines import RoiOutline
from slideduck.sqlfiles import read_query

SIDE = 256
ROIS, VERTICES = 30, 2000


def outline(rng: np.random.Generator, length: int) -> NDArray[np.float64]:
    """Return a freehand-looking outline of shape (VERTICES, 2), base pixels, somewhere on the slide."""
    radius = rng.uniform(0.02, 0.09) * length
    middle = rng.uniform(1.4 * radius, length - 1.4 * radius, 2)
    angle = np.sort(rng.uniform(0, 2 * np.pi, VERTICES))
    wave = 1 + 0.2 * np.sin(3 * angle + rng.uniform(0, 6)) + 0.1 * np.sin(17 * angle + rng.uniform(0, 6))
    points: NDArray[np.float64] = middle + (radius * wave)[:, None] * np.c_[np.cos(angle), np.sin(angle)]
    return points.round(1)


def make_study(path: Path, n_slides: int, columns: int) -> None:
    """Write a study of slides that exist as rows alone; every fifth ROI has a hole."""
    rng = np.random.default_rng(0)
    length = columns * SIDE
    with sd.open(path) as study:
        study.con.execute("INSERT INTO roi_files (path, format, holes, sha256) VALUES ('bench', 'csv', 'nested', '')")
        for slide in range(n_slides):
            study.con.execute(
                "INSERT INTO slides (slide, path, width, height, mpp, level_downsamples, fingerprint) "
                "VALUES ($1, $1, $2, $2, 1, [1], $1)",
                [f"s{slide:03}", length],
            )
            for i in range(ROIS):
                points = outline(rng, length)
                rings = [points]
                if i % 5 == 0:
                    rings.append(points.mean(axis=0) + 0.3 * (points - points.mean(axis=0)))
                shape = RoiOutline(f"s{slide:03}", f"r{i}", f"label {i % 4}", (tuple(rings),), False, 1)
                study.con.execute(
                    "INSERT INTO rois (slide, roi_name, roi_desc, label, area, outline, geom, roi_file_id) "
                    "SELECT $1, $2, $2, $3, ST_Area(g), g, g, 1 FROM (SELECT ST_Normalize(ST_CollectionExtract("
                    "ST_MakeValid(ST_GeomFromWKB($4)), 3)) AS g)",
                    [shape.slide, shape.roi_name, shape.label, shape.wkb()],
                )


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ours(study: sd.Study) -> None:
    """Lay the grid, find centres and coverage of all pairs, commit."""
    study.tile(SIDE, tile_um=SIDE)
    study.label()
    study.con.execute("CHECKPOINT")


def reset(study: sd.Study) -> None:
    for table in ("tiles", "tile_rois", "labelled", "grid_slides", "grids"):
        study.con.execute(f"DELETE FROM {table}")
    study.con.execute("CHECKPOINT")


def naive(study: sd.Study, n_slides: int) -> int:
    """Count the centres in ROIs by DuckDB's spatial join."""
    row = study.con.execute(read_query("count_centres_by_join"), {"slides": n_slides}).fetchone()
    assert row is not None
    return int(row[0])


def by_shapely(geometries: list[bytes], columns: int) -> int:
    """Count the centres in ROIs by shapely, prepared, over the tiles of each ROI's bounding box."""
    count = 0
    for wkb in geometries:
        shape = shapely.from_wkb(wkb)
        shapely.prepare(shape)
        x0, y0, x1, y1 = shape.bounds
        columns_in = np.arange(max(0, int(x0 // SIDE)), min(columns, int(x1 // SIDE) + 1))
        rows_in = np.arange(max(0, int(y0 // SIDE)), min(columns, int(y1 // SIDE) + 1))
        xs, ys = np.meshgrid(columns_in * SIDE + SIDE / 2, rows_in * SIDE + SIDE / 2)
        count += int(shapely.intersects_xy(shape, xs, ys).sum())
    return count


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer slides; under 40 seconds")
    parser.add_argument("--slides", type=int, default=20)
    parser.add_argument("--columns", type=int, default=346, help="tiles in a row, and rows")
    parser.add_argument("--repeat", type=int, default=3)
    words = parser.parse_args()
    n_slides = 4 if words.quick else words.slides
    joined = 1 if words.quick else min(2, n_slides)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bench.duckdb")
        make_study(path, n_slides, words.columns)
        with sd.open(path) as study:
            seconds: dict[str, list[float]] = {"ours": [], "shapely": [], "join": []}
            geometries = [
                bytes(wkb) for (wkb,) in study.con.execute("SELECT ST_AsWKB(geom)::BLOB FROM rois").fetchall()
            ]
            found: list[int] = []
            for turn in range(words.repeat):
                reset(study)
                seconds["ours"].append(timed(lambda: ours(study)))
                seconds["shapely"].append(timed(lambda: found.append(by_shapely(geometries, words.columns))))
                if turn == 0:  # slow, and the slowest by far: once is enough
                    elapsed = timed(lambda: found.append(naive(study, joined)))
                    seconds["join"].append(elapsed * n_slides / joined)
            pairs, centres = study.con.execute("SELECT count(*), sum(centre::INT)::INT FROM tile_rois").fetchall()[0]
            some = study.con.execute(
                "SELECT sum(centre::INT)::INT FROM tile_rois JOIN rois USING (roi_id) WHERE slide < $1",
                [f"s{joined:03}"],
            ).fetchall()[0][0]
            if found[0] != centres:
                raise SystemExit(f"answers differ: shapely finds {found[0]} centres, ours {centres}")
            if found[1] != some:
                raise SystemExit(f"answers differ: the join finds {found[1]} centres on {joined} slides, ours {some}")
    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{n_slides} slides of {words.columns**2:,} tiles, {ROIS} ROIs of {VERTICES:,} vertices each")
    print(f"{pairs:,} pairs, {centres:,} centres; all answers equal")
    print(f"ours, grid + centre + coverage + commit  {median['ours']:8.2f} s")
    print(f"shapely loop, centre alone               {median['shapely']:8.2f} s")
    print(f"spatial join, centre alone               {median['join']:8.2f} s ({joined} of {n_slides} slides timed)")
    join, loop = median["join"] / median["ours"], median["ours"] / median["shapely"]
    print(f"ratios: join/ours {join:.1f}, ours/shapely {loop:.2f}")


if __name__ == "__main__":
    main()
