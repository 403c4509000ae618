"""Times ROIs of a real slide, by the thousand and by the hundred thousand, and compares them with shapely.

    pip download --no-deps histolytics==0.3.0
    python -m tests.bench.shapes histolytics-0.3.0-py3-none-any.whl [--rows N]

The wheel of histolytics (MIT) has the outlines of a slide that a model segmented: 3,712 polygons of tissue, and 592,349
nuclei. Each kind is a process of its own: its peak memory is that of reading, labelling and what shapely needs.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import resource
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import shapely
from rich.console import Console
from rich.table import Table

import slideduck as sd
from slideduck.slides.grid import SlideGrid
from tests.bench.labels import timed
from tests.oracle import repaired, touched_tiles

KINDS = {"tissue": "hgsc_tissue_wsi", "nuclei": "hgsc_nuclei_wsi"}
TILE_PX, SAMPLE = 256, 2_000


def read(wheel: Path, kind: str, rows: int | None) -> tuple[Any, list[str]]:
    """Return the outlines of the slide, moved to its corner, and their classes."""
    with zipfile.ZipFile(wheel) as archive:
        table = pq.read_table(io.BytesIO(archive.read(f"histolytics/data/{KINDS[kind]}.parquet"))).slice(0, rows)
    shapes = shapely.from_wkb(np.array(table["geometry"].to_pylist(), object))
    left, top = shapely.total_bounds(shapes)[:2] - 100
    return shapely.transform(shapes, lambda points: points - (left, top)), table["class_name"].to_pylist()


def write(path: Path, shapes: Any, classes: list[str]) -> None:
    """Write outlines as GeoJSON without types of objects, a line for each."""
    with path.open("w") as file:
        file.write('{"type":"FeatureCollection","features":[\n')
        for i, (geometry, name) in enumerate(zip(shapely.to_geojson(shapes), classes, strict=True)):
            properties = json.dumps({"name": f"r{i}", "classification": {"name": name}})
            file.write(f'{"," * (i > 0)}{{"type":"Feature","geometry":{geometry},"properties":{properties}}}\n')
        file.write("]}\n")


def right(shape: Any) -> Any:
    """Return a drawing repaired ring by ring."""
    parts = [
        repaired([*part.exterior.coords][:-1], [[*ring.coords][:-1] for ring in part.interiors])
        for part in shapely.get_parts(shape)
    ]
    return shapely.unary_union(parts) if len(parts) > 1 else parts[0]


def run(wheel: Path, kind: str, rows: int | None, folder: Path) -> dict[str, Any]:
    """Read the ROIs into a study, label, and compare all areas and the tiles of some ROIs."""
    shapes, classes = read(wheel, kind, rows)
    write(folder / "s.geojson", shapes, classes)
    width, height = np.ceil(shapely.total_bounds(shapes)[2:] + 100).astype(int).tolist()
    seconds: dict[str, float] = {}
    with sd.open(folder / "study.duckdb") as study:
        study.con.execute(
            "INSERT INTO slides (slide, path, width, height, mpp, level_downsamples) VALUES ('s', 's', $1, $2, 1, [1])",
            [width, height],
        )
        with timed(seconds, "add_rois"):
            report = study.add_rois(folder / "s.geojson")
        study.tile(TILE_PX, tile_um=TILE_PX)
        with timed(seconds, "label"):
            study.label()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        areas = dict(study.sql("SELECT roi_name, area FROM rois").fetchall())
        grid = SlideGrid(TILE_PX, TILE_PX, width // TILE_PX, height // TILE_PX, 0, 1.0, TILE_PX)
        broken = np.flatnonzero(~shapely.is_valid(shapes)).tolist()
        drawn = np.random.default_rng(0).choice(len(shapes), min(SAMPLE, len(shapes)), replace=False).tolist()
        sample = sorted({*drawn, *broken[:SAMPLE]})
        names = [f"r{i}" for i in sample]
        found: dict[str, dict[tuple[int, int], tuple[bool, float]]] = collections.defaultdict(dict)
        for name, x, y, centre, coverage in study.sql(
            "SELECT roi_name, grid_x, grid_y, centre, coverage FROM tile_rois JOIN rois USING (roi_id) "
            f"WHERE list_contains({names!r}, roi_name)"
        ).fetchall():
            found[name][x, y] = centre, coverage
    wrong_areas = wrong_pairs = pairs = 0
    for i, name in zip(sample, names, strict=True):
        shape = right(shapes[i])
        wrong_areas += abs(areas[name] - shape.area) > 1e-9 * shape.area
        wanted = {(int(x), int(y)): (bool(c), float(v)) for x, y, c, v in zip(*touched_tiles(shape, grid), strict=True)}
        for place in wanted.keys() | found[name].keys():
            a, b = (one.get(place, (False, 0.0)) for one in (wanted, found[name]))
            pairs += 1
            wrong_pairs += a[0] != b[0] or abs(a[1] - b[1]) > 1e-9
    reasons = collections.Counter(why.partition("[")[0] for why in shapely.is_valid_reason(shapes[broken]))
    return {
        "rois": report.rois,
        "points": int(shapely.get_num_coordinates(shapes).sum()),
        **seconds,
        "peak_GB": peak,
        "repaired": len(report.repaired),
        "why": dict(reasons),
        "most": list(report.repairs[:1]),
        "compared": len(sample),
        "wrong_areas": int(wrong_areas),
        "pairs": pairs,
        "wrong_pairs": int(wrong_pairs),
    }


def main() -> None:
    """Print a row for each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--rows", type=int, help="The first of each kind alone.")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.here:
            print(json.dumps(run(options.wheel, options.kinds, options.rows, Path(folder))))
            return
    table = Table("ROIs", "number", "points", "add-rois, s", "label, s", "peak, GB", "repaired", "compared", "other")
    notes = []
    for kind in options.kinds.split(","):
        words = ["--kinds", kind, *(["--rows", str(options.rows)] if options.rows else []), "--here"]
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.shapes", str(options.wheel), *words],
            check=True, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        got = json.loads(done.stdout)
        table.add_row(
            kind, f"{got['rois']:,}", f"{got['points']:,}", f"{got['add_rois']:.1f}", f"{got['label']:.1f}",
            f"{got['peak_GB']:.2f}", f"{got['repaired']:,}", f"{got['compared']:,} areas, {got['pairs']:,} pairs",
            f"{got['wrong_areas']:,} and {got['wrong_pairs']:,}",
        )  # fmt: skip
        why = ", ".join(f"{n:,} {reason}" for reason, n in sorted(got["why"].items()))
        notes.append(f"{kind}: {why or 'nothing to repair'}; the largest change: {', '.join(got['most']) or 'none'}")
    console = Console(width=140)
    console.print(table)
    for note in notes:
        console.print(note)


if __name__ == "__main__":
    main()
