"""Labelling that is killed: what a study holds then is whole, and the next call goes on from there."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

import slideduck as sd
from tests.campaign import cases

SLIDES, ROIS, VERTICES = 28, 5, 500
COLUMNS, TILE_PX = 40, 64
KILLS = cases(10, 300)

#: Little memory makes many transactions of few slides each; a line tells of each one that is done. What follows the
#: name of the study comes once all is imported, so that one process can start while another works.
LABEL = """
import sys
from contextlib import contextmanager

import slideduck as sd
from slideduck.labels import label

@contextmanager
def track(*_, **__):
    yield lambda slides: print(slides, flush=True)

label.track = track
path = sys.stdin.readline().strip()
with sd.open(path) as study:
    print("started", flush=True)
    study.label(memory="128MB")
"""


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of slides that exist as rows alone, with ROIs and two grids, not labelled yet."""
    folder = tmp_path_factory.mktemp("unlabelled")
    rng = np.random.default_rng(0)
    length = COLUMNS * TILE_PX
    angle = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False)
    with sd.open(folder / "study.duckdb") as study:
        for i in range(SLIDES):
            study.con.execute(
                "INSERT INTO slides (slide, path, width, height, mpp, level_downsamples) "
                "VALUES ($1, $1, $2, $2, 1, [1])",
                [f"s{i:02}", length],
            )
            with (folder / f"s{i:02}.csv").open("w") as file:
                file.write("roi_name,x_base,y_base,label\n")
                for roi in range(ROIS):
                    middle = rng.uniform(0.3, 0.7, 2) * length
                    radius = rng.uniform(0.1, 0.3) * length * rng.uniform(0.95, 1.05, VERTICES)
                    points = middle + radius[:, None] * np.c_[np.cos(angle), np.sin(angle)]
                    file.writelines(f"r{roi},{x!r},{y!r},label {roi % 3}\n" for x, y in points.tolist())
        study.add_rois(folder)
        study.tile(TILE_PX, tile_um=TILE_PX)
        study.tile(TILE_PX, tile_um=TILE_PX, stride_div=2)
    return study.path


def labellers() -> Generator[subprocess.Popen[str]]:
    """Yield processes that wait to be told a study; the next one gets ready while one is used."""

    def ready() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", LABEL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    processes = [ready()]
    try:
        while True:
            processes.append(ready())
            yield processes[0]
            close(processes.pop(0))
    finally:
        for process in processes:
            close(process)


def close(process: subprocess.Popen[str]) -> None:
    """Kill a process that still runs, and wait for its end."""
    with process:
        process.kill()


def start(process: subprocess.Popen[str], path: Path) -> IO[str]:
    """Tell a process its study, wait until it has opened it, and return the lines that it prints."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{path}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "started\n"
    return process.stdout


def copied(path: Path, to: Path) -> Path:
    shutil.copyfile(path, to)
    return to


State = dict[str, dict[tuple[int, int], Any]]


def state(study: sd.Study) -> State:
    """Return all that labelling wrote, by grid and slide; many rows as their number and a sum of their hashes."""
    return {
        name: {(grid, slide): value for grid, slide, value in study.sql(query).fetchall()}
        for name, query in {
            "inputs": "SELECT grid_id, slide_id, inputs || counted_by FROM labelled",
            "pairs": "SELECT grid_id, slide_id, [count(*), sum(hash(tile_rois))] FROM tile_rois GROUP BY ALL",
            "label_counts": "SELECT grid_id, slide_id, list(c ORDER BY c) FROM label_counts AS c GROUP BY ALL",
            "roi_counts": "SELECT grid_id, slide_id, list(c ORDER BY c) FROM roi_counts AS c GROUP BY ALL",
        }.items()
    }


def labels(study: sd.Study) -> list[tuple[Any, ...]]:
    """Return the view labels, by slide and grid, as numbers of rows and sums of their hashes."""
    return study.sql("SELECT grid, slide, count(*), sum(hash(labels)) FROM labels GROUP BY ALL ORDER BY ALL").fetchall()


@pytest.mark.slow
def test_killed_labelling_leaves_whole_slides_and_goes_on(unlabelled: Path, tmp_path: Path) -> None:
    moments = random.Random(0)
    left: list[int] = []
    with closing(labellers()) as processes:
        whole = copied(unlabelled, tmp_path / "whole.duckdb")
        lines, begin = start(process := next(processes), whole), time.perf_counter()
        transactions = len(lines.readlines())
        seconds = time.perf_counter() - begin
        assert process.wait() == 0
        assert transactions > 5
        with sd.open(whole) as study:
            expected, expected_labels = state(study), labels(study)
        assert len(expected["inputs"]) == 2 * SLIDES
        for kill, process in zip(range(KILLS), processes, strict=False):
            killed = copied(unlabelled, tmp_path / f"killed{kill}.duckdb")
            lines = start(process, killed)
            for _ in range(moments.randrange(transactions)):
                assert lines.readline()
            time.sleep(moments.uniform(0, seconds / transactions))
            process.send_signal(signal.SIGKILL)
            assert process.wait() in (-signal.SIGKILL, 0)
            with sd.open(killed) as study:
                found = state(study)
                done = found["inputs"].keys()
                assert found == {
                    name: {key: row for key, row in rows.items() if key in done} for name, rows in expected.items()
                }
                left.append(len(done))
                if kill % 5 == 0:
                    assert study.label().slides == 2 * SLIDES - len(done)
                    assert state(study) == expected
                    assert labels(study) == expected_labels
            killed.unlink()
    # The moments were spread over the work.
    assert sum(0 < done < 2 * SLIDES for done in left) > KILLS // 2, left
    assert len(set(left)) > 5, left
