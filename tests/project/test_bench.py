"""The benches run at small scale, so that they are ready for the machine whose figures count."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

pytestmark = pytest.mark.slow

BENCH = Path(__file__).resolve().parents[1] / "bench"
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def on_every_core() -> None:
    """Take the cores that the test's worker left to the others."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


def run(name: str, *words: str) -> list[str]:
    """Run a bench beside the networks of the tests, and return what it prints."""
    root = Path(__file__).resolve().parents[2]
    folders = [str(root / "tests" / "runner"), str(root), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders)), "COLUMNS": "120"}
    # Of its own accord, not of the worker that runs the test: two threads on one core never end TBB's pool.
    environment.pop("NUMBA_NUM_THREADS", None)
    done = subprocess.run(
        [sys.executable, str(BENCH / name), *words],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        preexec_fn=on_every_core,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(not DATA.is_dir(), reason="the real slides are not here")
def test_the_bench_of_training_prints_what_a_run_says_of_itself() -> None:
    lines = run("train.py", "--models", "networks:tiny", "--tile-px", "128", "--nproc", "1")
    (row,) = (line.split("│")[1:-1] for line in lines if line.startswith("│"))
    assert [cell.strip() for cell in row[:4]] == ["tiny", "128", "1", "16"]
    assert float(row[4].replace(",", "")) > 0
    assert row[-1].strip() == "1.00"
    # 3 x 8 kernels of 5 px, then 8 x 16 of 3 px, forward and (but for the first's input) twice backward.
    outputs = (62 * 62, 30 * 30)
    flops = 2 * (outputs[0] * 3 * 8 * 25 * 2 + outputs[1] * 8 * 16 * 9 * 3 + 16 * 2 * 3)
    assert lines[-2] == f"forward and backward: tiny at 128 px {flops / 1e9:.3f} GFLOP a tile"
    assert re.fullmatch(r"ratios: tiny 128 px x1 waiting \d\.\d{3}, matrix rate \d\.\d{3}", lines[-1])


@pytest.mark.skipif(not DATA.is_dir(), reason="the real slides are not here")
def test_the_bench_of_the_loader_compares_all_that_are_installed() -> None:
    lines = run("loader.py", "--tiles", "256", "--repeat", "1", "--threads", "2")
    assert "Slideflow is not installed here; --slideflow-python names a Python that imports it." in lines[-2]
    names = re.findall(r"(slideduck/[^,]+|uncopied/decode) \d+\.\d\d \(\d+\.\d\d\)", lines[-1])
    assert names == [
        "slideduck/decode", "slideduck/unchecked", "uncopied/decode", "slideduck/torch + PIL", "slideduck/torch + cv2"
    ]  # fmt: skip


def test_the_bench_of_own_loops_compares_them_with_the_trainers() -> None:
    lines = run("own_loop.py", "--tiles", "128", "--tile-px", "32", "--repeat", "1", "--threads", "2")
    names = re.findall(r"(\w+: [\w.]+) \d+\.\d\d \(\d+\.\d\d\)", lines[-1])
    assert names == ["read: sd.loader", "train: PyTorch", "train: Lightning", "train: Accelerate"]


def test_the_bench_of_shapes_says_what_was_wrong_with_them(tmp_path: Path) -> None:
    wheel = tmp_path / "histolytics-0.3.0-py3-none-any.whl"
    shapes = [f"POLYGON (({x} 0, {x + 90} 0, {x + 90} 90, {x} 90, {x} 0))" for x in range(0, 900, 100)]
    shapes.append("POLYGON ((0 200, 900 600, 900 200, 0 600, 0 200))")
    rows = {"geometry": shapely.to_wkb(shapely.from_wkt(shapes)).tolist(), "class_name": ["a", "b"] * 5}
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("hgsc_tissue_wsi", "hgsc_nuclei_wsi"):
            with archive.open(f"histolytics/data/{name}.parquet", "w") as file:
                pq.write_table(pa.table(rows), file)
    lines = run("shapes.py", str(wheel))
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert [(row[0], row[1], row[2], row[6], row[8]) for row in cells] == [
        ("tissue", "10", "50", "1", "0 and 0"),
        ("nuclei", "10", "50", "1", "0 and 0"),
    ]
    for kind, line in zip(("tissue", "nuclei"), lines[-2:], strict=True):
        assert line == f"{kind}: 1 Self-intersection; the largest change: s: r9 (+180,000 px², +100.00 % of its area)"


def test_the_bench_of_imports_prints_medians_and_the_heaviest_modules() -> None:
    lines = run("imports.py", "--repeat", "1")
    timed = [line for line in lines if re.match(r".{24}( +\d+\.\d{3}){4}", line)]
    assert [line[:24].strip() for line in timed][:2] == ["python", "import slideduck"]
    assert len([line for line in lines if re.match(r" +\d+\.\d\d  [\w.]+$", line)]) == 20


def test_the_bench_of_masks_prints_a_line_for_each_kind() -> None:
    *lines, memory = run("masks.py", "--quick", "--repeat", "1")
    assert [line.partition(":")[0] for line in lines] == ["tissue", "rough", "specks"]
    assert all(re.search(r"0\.2 Mpx, [\d,]+ parts; outlines .*; add-masks .* s, label .* s$", line) for line in lines)
    assert memory.startswith("peak memory ")


def test_the_bench_of_size_prints_seconds_and_memory_of_each_command() -> None:
    lines = run("size.py", "--quick", "--only", "rings")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert [row[:3] for row in rows] == [["rings", "1,000", command] for command in ("add-rois", "tile", "label")]
    assert all(float(row[3]) > 0 and float(row[5].replace(",", "")) > 50 for row in rows)


def test_the_bench_of_labels_from_tables_adds_each_of_them() -> None:
    lines = run("given_labels.py", "--quick")
    assert [line.partition(":")[0] for line in lines] == [
        "labels.parquet",
        "soft.parquet",
        "labels.csv",
        "label --from",
    ]
    assert all(": 20,000 tiles in " in line for line in lines[:3])
