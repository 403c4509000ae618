"""Fixtures that many tests share."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import slideduck as sd
from tests.campaign import CAMPAIGN

# Each worker of pytest-xdist takes a core of its own, and so do the processes that its tests start: torch, numba and
# the engine's pools then use one thread each and do not wait for the other worker's.
if (_worker := os.environ.get("PYTEST_XDIST_WORKER", "")) and hasattr(os, "sched_setaffinity"):
    _cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_cores[int(_worker.removeprefix("gw")) % len(_cores)]})
    # Numba starts as many threads as there are cores; decoding by two is what some tests are about.
    os.environ.setdefault("NUMBA_NUM_THREADS", "2")

# A shell lets what it starts in the background ignore SIGINT, and what that starts too; some tests send it.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Time is not what these tests are about, and the machines that run them are slow and shared. The same code has the same
# cases each time, so that a change is judged by them alone; a campaign draws new ones.
settings.register_profile("slideduck", deadline=None, derandomize=not CAMPAIGN)
settings.load_profile("slideduck")

#: What takes longest or makes most that its tests share, with about its seconds. It comes first in a worker's stretch:
#: nobody waits for it at the end, and nobody takes half of it, to make all that anew.
LONG = {
    "tests/project/test_readme.py::test_five_minutes_on_your_own_slides": 150,
    "tests/runner/demo/test_demo.py": 120,
    "tests/runner/ranks/": 370,
    "tests/project/test_readme.py::test_two_real_slides": 110,
}

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each worker begin with some of the `LONG` tests; xdist's worksteal gives each an equal stretch at first."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    begins: list[list[pytest.Item]] = [[] for _ in range(workers)]
    seconds = [0] * workers
    for start, more in LONG.items():
        worker = seconds.index(min(seconds))
        seconds[worker] += more
        begins[worker] += [item for item in items if item.nodeid.startswith(start)]
    others = [item for item in items if not item.nodeid.startswith(tuple(LONG))]
    left = len(items)
    ordered = []
    for begin, workers_left in zip(begins, range(workers, 0, -1), strict=True):
        length = left // workers_left
        left -= length
        taken = max(0, length - len(begin))
        ordered += begin + others[:taken]
        del others[:taken]
    items[:] = ordered + others


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave the user's cache as it is: what slideduck remembers goes elsewhere. Matplotlib keeps its list of fonts."""
    with pytest.MonkeyPatch.context() as patch:
        if "MPLCONFIGDIR" not in os.environ:
            patch.setenv("MPLCONFIGDIR", str(Path.home() / ".cache" / "matplotlib"))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the two real slides with ROIs in three formats."""
    if not (SHARED_DATA / "CMU-1-Small-Region.svs").exists():
        pytest.skip(f"no real slides at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def empty_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new study in a file, closed: to be copied, since a copy takes a tenth of the time of a new one."""
    path = tmp_path_factory.mktemp("empty") / "study.duckdb"
    sd.open(path).close()
    # All of it is in the file, and nothing in a log beside it.
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    return path


@pytest.fixture
def study(empty_study: Path, tmp_path: Path) -> Iterator[sd.Study]:
    """An empty study in a file."""
    shutil.copyfile(empty_study, tmp_path / "study.duckdb")
    with sd.open(tmp_path / "study.duckdb") as opened:
        yield opened


@pytest.fixture
def real_study(shared_data: Path, tmp_path: Path) -> Iterator[sd.Study]:
    """A study of the two real slides and their ROIs, without a grid."""
    with sd.open(tmp_path / "real.duckdb") as opened:
        opened.add_slides(shared_data, mpp=0.5)
        opened.add_rois([shared_data / "CMU-1-Small-Region.csv", shared_data / "TCGA-CR-7395-01A-01-TS1.geojson"])
        yield opened
