"""A new study's file appears whole or not at all, and what a kill leaves of any command opens again."""

from __future__ import annotations

import fcntl
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner, Result

import slideduck as sd
from slideduck.cli.group import cli
from slideduck.errors import DiskFullError
from slideduck.store.causes import wal_of
from slideduck.store.db import limited_memory
from slideduck.store.fresh import begin
from slideduck.store.sqlfiles import read_sql
from tests.campaign import CAMPAIGN, cases
from tests.slides import write_slide

GRID = "32px_32um"


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


@contextmanager
def room(size: int) -> Iterator[None]:
    """Let no file grow beyond a size, which ends a write in the same place as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides, their ROIs and their patients."""
    folder = tmp_path_factory.mktemp("slides")
    (folder / "rois").mkdir()
    for i in range(2):
        write_slide(folder / f"s{i}.tiff", i, size=(512, 384), mpp=1.0)
        (folder / "rois" / f"s{i}.csv").write_text(
            "roi_name,x_base,y_base,label\n" + "".join(f"a,{x},{y},tumour\n" for x, y in [(0, 0), (300, 0), (300, 300)])
        )
    (folder / "patients.csv").write_text("slide,patient\ns0,p0\ns1,p1\n")
    return folder


def tables(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return all that a study holds."""
    with sd.open(path, read_only=True) as study:
        names = [name for (name,) in study.sql("SELECT table_name FROM duckdb_tables() ORDER BY ALL").fetchall()]
        return {name: study.sql(f"FROM {name} ORDER BY ALL").fetchall() for name in names}


def copied(path: Path, to: Path) -> Path:
    """Copy what a kill would leave now: the file, and the log beside it."""
    shutil.copyfile(path, to)
    if wal_of(path).exists():
        shutil.copyfile(wal_of(path), wal_of(to))
    return to


# ------------------------------------------------------------------------------------------- a new study


@pytest.mark.parametrize("size", [0, 5_000, 60_000, 400_000, 1_200_000])
def test_a_full_disk_leaves_nothing_of_a_new_study(slides: Path, tmp_path: Path, size: int) -> None:
    path = tmp_path / "s.duckdb"
    with room(size):
        result = run("add-slides", path, slides)
    assert (result.exit_code, result.stdout) == (1, "")
    # Its own name, and not that of where it was being made.
    assert result.stderr.startswith("error: the disk is full: ")
    assert f'Could not write file "{path}' in result.stderr
    assert result.stderr.endswith(": File too large; nothing of this step was kept: free some space and run it again\n")
    assert os.listdir(tmp_path) == []
    assert run("add-slides", path, slides).exit_code == 0
    assert os.listdir(tmp_path) == ["s.duckdb"]


def test_a_new_study_needs_no_log(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    with sd.open(path):
        assert os.listdir(tmp_path) == ["s.duckdb"]
        duckdb.connect(copied(path, tmp_path / "killed.duckdb")).close()


KILL = """
import os, random, signal, sys, time
import slideduck as sd

folder, slides, kills, seed = sys.argv[1:]
moments = random.Random(int(seed))

def first_command(path):
    with sd.open(path) as study:
        study.add_slides(slides)

def started(path):
    child = os.fork()
    if child == 0:
        first_command(path)
        os._exit(0)
    return child

begin = time.perf_counter()
os.waitpid(started(f"{folder}/whole.duckdb"), 0)
seconds = time.perf_counter() - begin
for kill in range(int(kills)):
    os.mkdir(f"{folder}/{kill}")
    child = started(f"{folder}/{kill}/s.duckdb")
    time.sleep(moments.uniform(0, 1.1 * seconds))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def test_a_first_command_that_is_killed_runs_again(slides: Path, tmp_path: Path) -> None:
    kills = cases(2, 300)
    seed = random.Random().randrange(1 << 30) if CAMPAIGN else 0
    command = [sys.executable, "-c", KILL, str(tmp_path), str(slides), str(kills), str(seed)]
    subprocess.run(command, check=True)
    expected = tables(tmp_path / "whole.duckdb")
    for kill in range(kills):
        path = tmp_path / str(kill) / "s.duckdb"
        if path.exists():
            # Without help of ours: another program opens it too.
            duckdb.connect(copied(path, tmp_path / "copy.duckdb")).close()
        with sd.open(path) as study:
            study.add_slides(slides)
        assert tables(path) == expected
        assert os.listdir(path.parent) == ["s.duckdb"]


def test_what_a_kill_left_is_removed_and_what_is_being_made_is_not(tmp_path: Path) -> None:
    left = tmp_path / ".slideduck-new-left"
    left.mkdir()
    for name in ("a.duckdb", "a.duckdb.wal"):
        (left / name).write_text("cut short")
    other = tmp_path / ".slideduck-new-other"
    (other / "folder").mkdir(parents=True)
    made = tmp_path / ".slideduck-new-made"
    made.mkdir()
    (made / "a.duckdb").touch()
    held = os.open(made, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        begin(tmp_path / "s.duckdb")
    finally:
        os.close(held)
    assert sorted(os.listdir(tmp_path)) == [".slideduck-new-made", ".slideduck-new-other", "s.duckdb"]
    assert (other / "folder").is_dir()
    assert (made / "a.duckdb").exists()


@pytest.mark.attack("links", "a link planted where a new study's file is made")
def test_planted_links_are_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "a.duckdb").write_text("precious")
    study = tmp_path / "study"
    study.mkdir()
    (study / ".slideduck-new-planted").symlink_to(precious)
    (study / ".s.duckdb.part").symlink_to(precious / "a.duckdb")
    sd.open(study / "s.duckdb").close()
    assert (precious / "a.duckdb").read_text() == "precious"
    assert sorted(os.listdir(study)) == [".s.duckdb.part", ".slideduck-new-planted", "s.duckdb"]


def test_a_study_behind_a_link_has_one_log(slides: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    link, path = tmp_path / "link.duckdb", tmp_path / "data" / "s.duckdb"
    link.symlink_to(path)
    with sd.open(link) as study:
        study.add_slides(slides)
        # A kill now leaves a log, which whoever opens the file by its own name must find.
        killed = copied(path, tmp_path / "killed.duckdb")
    assert sorted(os.listdir(tmp_path)) == ["data", "killed.duckdb", "killed.duckdb.wal", "link.duckdb"]
    assert os.listdir(tmp_path / "data") == ["s.duckdb"]
    assert link.is_symlink()
    assert tables(killed) == tables(path)


@pytest.mark.attack("races", "two processes that begin one study")
def test_who_comes_second_takes_the_study_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    with sd.open(path) as study:
        study.con.execute("INSERT INTO slides (slide, path, error) VALUES ('first', '/first', 'none')")
    both = threading.Barrier(4)

    def begun() -> None:
        both.wait()
        begin(path)

    threads = [threading.Thread(target=begun) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.listdir(tmp_path) == ["s.duckdb"]
    assert len(tables(path)["slides"]) == 1


# ------------------------------------------------------------------------------------- what a kill leaves


def test_the_log_of_every_step_is_read_back(slides: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    with sd.open(path) as study:
        study.con.execute("SET wal_autocheckpoint = '1TB'")
        study.add_slides(slides)
        study.add_rois(slides / "rois")
        study.add_patients(slides / "patients.csv")
        study.tile(32, tile_um=32)
        study.label(rule="coverage", threshold=0.5)
        study.con.execute(read_sql("features.sql").replace("$width", "2"))
        study.con.execute("INSERT INTO features_2 SELECT 'r', grid, slide, tile_id, 0, 0, 0, 0, [1, 2] FROM labels")
        study.split(val_fraction=0.5, seed=1)
        study.qc(["brightness"])
        study.fit_stain()
        study.rename_label("tumour", "tumor")
        study.remove_slides("s1")
        killed = copied(path, tmp_path / "killed.duckdb")
    # By DuckDB alone, and without the spatial extension.
    duckdb.connect(copied(killed, tmp_path / "bare.duckdb"), read_only=True).close()
    found = tables(killed)
    assert found == tables(path)
    assert found["features_2"]


@pytest.mark.parametrize("read_only", [False, True])
def test_a_log_that_duckdb_does_not_read_back_is(tmp_path: Path, read_only: bool) -> None:
    path = tmp_path / "s.duckdb"
    with sd.open(path) as study:
        study.con.execute("COMMENT ON COLUMN slides.slide IS 'changed'")
        study.con.execute("ALTER TABLE slides ADD COLUMN more INTEGER DEFAULT 7")
        study.con.execute("INSERT INTO slides (slide, path, error) VALUES ('a', '/a', 'none')")
        killed = copied(path, tmp_path / "killed.duckdb")
    # DuckDB's mistake; where this no longer raises, `slideduck.store.db._replay` can go.
    with pytest.raises(duckdb.InternalException, match="GetDefaultDatabase with no default database set"):
        duckdb.connect(copied(killed, tmp_path / "bare.duckdb"))
    with sd.open(killed, read_only=read_only) as study:
        assert study.sql("SELECT slide, more FROM slides").fetchall() == [("a", 7)]
        comment = "SELECT comment FROM duckdb_columns() WHERE table_name = 'slides' AND column_name = 'slide'"
        assert study.sql(comment).fetchall() == [("changed",)]
        if not read_only:
            study.con.execute("INSERT INTO slides (slide, path, error) VALUES ('b', '/b', 'none')")
            with pytest.raises(duckdb.ConstraintException, match="Duplicate key"):
                study.con.execute("INSERT INTO slides (slide, path, error) VALUES ('b', '/b', 'none')")
    assert not wal_of(killed).exists()


@pytest.mark.attack("SQL", "a log beside the study whose tables read other files")
def test_a_log_reaches_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    (tmp_path / "secret").write_text("secret")
    with sd.open(path) as study:
        study.con.execute(f"CREATE VIEW leak AS SELECT * FROM read_text('{tmp_path}/secret')")
        study.con.execute("COMMENT ON COLUMN slides.slide IS 'changed'")
        study.con.execute(f"ATTACH '{tmp_path}/other.duckdb' AS other")
        killed = copied(path, tmp_path / "killed.duckdb")
    os.remove(tmp_path / "other.duckdb")
    with sd.open(killed, read_only=True) as study:
        assert study.sql("SELECT count(*) FROM slides").fetchall() == [(0,)]
    assert not (tmp_path / "other.duckdb").exists()


# ------------------------------------------------------------------------------------- the closing checkpoint

NOT_WRITTEN = (
    'the disk is full: Could not write file "{path}": File too large; '
    "what was done is kept in {path}.wal, beside the study, and not in the study's file yet: leave both where they "
    "are, mend the cause, and the next command takes it in, such as: slideduck info {path}"
)

STEPS = {
    "add-slides": ["add-slides", "STUDY", "SLIDES"],
    "add-rois": ["add-rois", "STUDY", "SLIDES/rois"],
    "add-patients": ["add-patients", "STUDY", "SLIDES/patients.csv"],
    "tile": ["tile", "STUDY", "--tile-px", "32", "--tile-um", "32"],
    "label": ["label", "STUDY", "--verify"],
    "split": ["split", "STUDY", "--val-fraction", "0.5"],
    "qc": ["qc", "STUDY", "--measure", "brightness"],
    "sql": ["sql", "STUDY", "INSERT INTO label_names VALUES ('a', 'b')", "--write"],
}


@pytest.fixture(scope="module")
def steps(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The study as each step finds it."""
    folder = tmp_path_factory.mktemp("steps")
    sd.open(folder / "s.duckdb").close()
    before = {}
    for step in STEPS:
        before[step] = copied(folder / "s.duckdb", folder / f"{step}.duckdb")
        result = run(*words(step, folder / "s.duckdb", slides))
        assert result.exit_code == 0, result.output
    return {**before, "end": folder / "s.duckdb"}


def words(step: str, study: Path, slides: Path) -> list[str]:
    return [word.replace("STUDY", str(study)).replace("SLIDES", str(slides)) for word in STEPS[step]]


# What add-patients writes goes where the file has room.
@pytest.mark.parametrize("step", [step for step in STEPS if step != "add-patients"])
def test_a_command_whose_last_write_fails_does_not_say_that_it_is_done(
    slides: Path, steps: dict[str, Path], tmp_path: Path, step: str
) -> None:
    path = copied(steps[step], tmp_path / "s.duckdb")
    with room(path.stat().st_size):
        result = run(*words(step, path, slides))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1] == f"error: {NOT_WRITTEN.format(path=path)}"
    assert wal_of(path).exists()
    # Nothing that was committed is lost; what the message says is typed.
    assert run("info", path).exit_code == 0
    following = [*steps.values()][[*steps].index(step) + 1]
    assert contents(path) == contents(following)
    again = run(*words(step, path, slides))
    assert again.exit_code == (1 if step == "sql" else 0), again.output
    assert not wal_of(path).exists()


def contents(path: Path) -> str:
    """Return what a study holds, but times."""
    found = tables(path)
    found.pop("changes", None)
    return json.dumps(found, default=str)


def test_python_learns_of_it_too_and_of_what_came_before(slides: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    sd.open(path).close()
    study = sd.open(path)
    study.add_slides(slides)
    with room(path.stat().st_size), pytest.raises(DiskFullError) as caught:
        study.close()
    assert str(caught.value) == NOT_WRITTEN.format(path=path)
    study.close()  # It is closed.
    # An error on the way is the one that is told.
    with pytest.raises(ZeroDivisionError), room(path.stat().st_size):
        write_and_fail(path)
    assert len(tables(path)["slides"]) == 2
    assert len(tables(path)["label_names"]) == 1


def write_and_fail(path: Path) -> None:
    with sd.open(path) as study:
        study.con.execute("INSERT INTO label_names VALUES ('a', 'b')")
        raise ZeroDivisionError


def test_a_transaction_that_is_open_ends_with_the_study(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    with sd.open(path) as study:
        study.con.execute("BEGIN")
        study.con.execute("INSERT INTO label_names VALUES ('a', 'b')")
    with sd.open(path) as study, sd.open(path) as second:
        second.con.execute("INSERT INTO label_names VALUES ('c', 'd')")
        study.close()
        assert second.sql("FROM label_names").fetchall() == [("c", "d")]
    assert tables(path)["label_names"] == [("c", "d")]


LONG = "SELECT sum(hash(range)) FROM range(10_000_000_000)"


@pytest.mark.parametrize("whole", [True, False])
def test_ctrl_c_ends_a_long_query_at_once(slides: Path, tmp_path: Path, whole: bool) -> None:
    path = tmp_path / "s.duckdb"
    sd.open(path).close()
    threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT]).start()
    begin = time.perf_counter()
    with (
        pytest.raises(KeyboardInterrupt),
        sd.open(path) as study,
        study.atomic() if whole else nullcontext(),
        limited_memory(study.con),
    ):
        study.con.execute(LONG)
    # DuckDB rolls back, or closes, when the query is at its end, some minutes later.
    assert time.perf_counter() - begin < 10
    with sd.open(path) as study:
        assert study.sql("SELECT count(*) FROM slides").fetchall() == [(0,)]


class Interrupted:
    """A connection in which Ctrl-C comes while a study is closed."""

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self.con = con

    def execute(self, query: str, params: dict[str, str] | None = None) -> duckdb.DuckDBPyConnection:
        if query.startswith("CHECKPOINT"):
            signal.raise_signal(signal.SIGINT)
        return self.con.execute(query, params)

    def close(self) -> None:
        self.con.close()


def test_ctrl_c_while_a_study_is_closed_loses_nothing(slides: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    opened = sd.open(path)
    opened.add_slides(slides)
    study = sd.Study(type(opened.handle)(Interrupted(opened.con), path))  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        study.close()
    assert len(tables(path)["slides"]) == 2
