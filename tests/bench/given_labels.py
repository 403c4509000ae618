"""How long labels of millions of tiles take from a table, and how much memory: ``python -m tests.bench.given_labels``.

The study has slides without pixels, as large as real ones; the tables have ten million rows, in another order than the
tiles. ``--quick`` takes 20,000. Seconds are those of the clock, and of all processors together.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

import slideduck as sd

SLIDE_COLUMNS, SLIDE_ROWS = 1_000, 500


def make_study(path: Path, tiles: int) -> None:
    """Make a study of slides of at most 500,000 tiles each, of which there are no files."""
    rows = min(SLIDE_ROWS, tiles // SLIDE_COLUMNS)
    with sd.open(path) as study:
        study.con.execute(
            "INSERT INTO slides (slide, path, width, height, mpp, level_widths, level_heights, level_downsamples) "
            "SELECT 'TCGA-AA-' || i || '-01Z-00-DX1', '/none/' || i, $width, $height, 0.5, [$width], [$height], [1.0] "
            "FROM range($n) AS r (i)",
            {"n": tiles // (SLIDE_COLUMNS * rows), "width": 256 * SLIDE_COLUMNS, "height": 256 * rows},
        )
        study.tile(256, tile_um=128)


def make_tables(study: Path, folder: Path, tiles: int) -> dict[str, Path]:
    """Write labels, soft labels and a CSV."""
    made = {name: folder / name for name in ("labels.parquet", "soft.parquet", "labels.csv")}
    with sd.open(study) as opened:
        con = opened.con
        con.execute("SET enable_progress_bar = false")
        con.execute(
            "CREATE TEMP VIEW row AS SELECT make_tile_id(slide, tile_location(grid_x, stride, extract_px, 0), "
            "tile_location(grid_y, stride, extract_px, 0)) AS tile_id, hash(grid_x * 7919 + grid_y) AS h FROM tiles "
            f"JOIN slides USING (slide_id) JOIN grid_slides USING (grid_id, slide_id) LIMIT {tiles}"
        )
        labels = "SELECT tile_id, 'class ' || h % 5 AS label FROM row ORDER BY h"
        con.execute(f"COPY ({labels}) TO '{made['labels.parquet']}'")
        con.execute(f"COPY ({labels}) TO '{made['labels.csv']}'")
        soft = "SELECT tile_id, h % 101 / 100 AS a, (100 - h % 101) / 200 AS b, (100 - h % 101) / 200 AS c FROM row"
        con.execute(f"COPY ({soft} ORDER BY h) TO '{made['soft.parquet']}'")
    return made


def measure(study: Path, table: Path) -> None:
    """Add one table in a process of its own, and print what it took."""
    with sd.open(study) as opened:
        opened.con.execute("SET enable_progress_bar = false")
        start, cpu = time.perf_counter(), time.process_time()
        report = opened.add_labels(table, table.name)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{table.name}: {report.tiles:,} tiles in {seconds:.1f} s ({cpu:.1f} s), peak {peak:,.0f} MB", flush=True)


def main() -> None:
    """Make a study and tables, and add each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    tiles = 20_000 if parser.parse_args().quick else 10_000_000
    with TemporaryDirectory() as folder:
        study = Path(folder, "study.duckdb")
        make_study(study, tiles)
        for table in make_tables(study, Path(folder), tiles).values():
            process = multiprocessing.get_context("spawn").Process(target=measure, args=(study, table))
            process.start()
            process.join()
        with sd.open(study) as opened:
            opened.con.execute("SET enable_progress_bar = false")
            start = time.perf_counter()
            opened.label(labels_from=["labels.parquet"])
            counted = opened.counts().num_rows
            print(f"label --from: {time.perf_counter() - start:.1f} s, {counted} labels; DuckDB {duckdb.__version__}")


if __name__ == "__main__":
    main()
