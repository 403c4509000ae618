"""Several processes use one study, or one file, at once: each works, or says who holds what and what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import slideduck as sd
from slideduck.betons import verify_beton
from slideduck.errors import StudyError
from tests.campaign import cases
from tests.slides import write_slide

# Real processes, forked from one that has imported all they need: ten imports would take ten times as long. All wait
# for each other before their code, and wherever it calls `meet`. What each says is printed in the end.
TOGETHER = """
import contextlib, io, json, os, sys
from multiprocessing import get_context
import slideduck as sd
from slideduck.cli.group import cli
import slideduck.betons.export, slideduck.study

def run(code, meet, told):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            meet()
            exec(code, {"sd": sd, "cli": cli, "meet": meet, "os": os})
            status = 0
        except SystemExit as error:
            status = error.code
        except sd.SlideduckError as error:
            status = str(error)
    told.put((os.getpid(), status, out.getvalue()))

context = get_context("fork")
codes = json.loads(sys.argv[1])
barrier, told = context.Barrier(len(codes), timeout=60), context.SimpleQueue()
children = [context.Process(target=run, args=(code, barrier.wait, told)) for code in codes]
for child in children: child.start()
said = [told.get() for _ in codes]
for child in children: child.join()
print(json.dumps([dict(zip(("pid", "status", "said"), one)) for one in said]))
"""


def together(*codes: str) -> list[dict[str, object]]:
    """Run pieces of code at once, each in a process; return what became of each, in the order of the ends."""
    done = subprocess.run(
        [sys.executable, "-c", TOGETHER, json.dumps(codes)], capture_output=True, text=True, check=True, timeout=120
    )
    # A query that takes long draws a bar before: DuckDB takes python -c for a person.
    said: list[dict[str, object]] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of slides, and a study of them that is labelled."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "slides").mkdir()
    for i in range(3):
        write_slide(folder / "slides" / f"s{i}.tiff", i, size=(512, 384), mpp=1.0)
    (folder / "s0.csv").write_text("roi_name,x_base,y_base,label\na,0,0,tumour\na,300,0,tumour\na,300,300,tumour\n")
    with sd.open(folder / "s.duckdb") as study:
        study.add_slides(folder / "slides")
        study.add_rois(folder / "s0.csv")
        study.tile(32, tile_um=32)
        study.label()
    return folder


@contextmanager
def held(path: Path) -> Iterator[tuple[int, str]]:
    """Let another process write a study; gives its number and its command, as far as messages show it."""
    code = "import slideduck as sd, sys; s = sd.open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        yield holder.pid, " ".join(command)[:120]
        holder.communicate("")


def test_who_writes_a_study_is_named_to_writers_and_readers(made: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(made / "s.duckdb", tmp_path))
    with held(path) as (pid, command):
        for read_only in (False, True):
            with pytest.raises(StudyError) as caught:
                sd.open(path, read_only=read_only)
            assert str(caught.value) == (
                f"{path} is in use by process {pid} ({command}...); one process may write a study at a time, and "
                f"nobody reads it meanwhile: wait for it, or stop it with: kill {pid}"
            )
        # What the message says is typed.
        subprocess.run(["kill", str(pid)], check=True)
    with sd.open(path) as study:
        assert study.sql("SELECT count(*) FROM slides").fetchall() == [(3,)]


def test_ten_readers_at_once(made: Path) -> None:
    code = f"""
with sd.open({str(made / "s.duckdb")!r}, read_only=True, threads=1) as study:
    meet()
    print(study.counts().to_pylist())
"""
    said = together(*[code] * 10)
    assert len({one["pid"] for one in said}) == 10
    with sd.open(made / "s.duckdb", read_only=True) as study:
        expected = f"{study.counts().to_pylist()}\n"
    assert [(one["status"], one["said"]) for one in said] == [(0, expected)] * 10


def test_two_exports_to_one_path(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiles.beton"
    code = f"""
with sd.open({str(made / "s.duckdb")!r}, read_only=True) as study:
    meet()
    study.export({str(out)!r}, where="true", threads=1)
"""
    first, second = sorted(together(code, code), key=lambda one: one["status"] != 0)
    assert first["status"] == 0
    # Who came when the other was ready finds a file that is there.
    writing = f"{out} is being written by process {first['pid']} ("
    there = f"{out} is there already"
    assert str(second["status"]).startswith((writing, there)), second
    report = verify_beton(out)
    assert report.samples
    assert not report.problems
    assert sorted(os.listdir(tmp_path)) == ["tiles.beton", "tiles.json"]


@pytest.mark.attack("races", "two first commands of one study")
def test_two_commands_begin_one_study(made: Path, tmp_path: Path) -> None:
    rounds = cases(1, 50)
    for number in range(rounds):
        path = tmp_path / str(number) / "s.duckdb"
        path.parent.mkdir()
        code = f"cli(['add-slides', {str(path)!r}, {str(made / 'slides')!r}])"
        said = together(code, code, code)
        assert [one for one in said if one["status"] == 0]
        pids = {one["pid"] for one in said}
        for one in said:
            if one["status"] != 0:
                last = str(one["said"]).splitlines()[-1]
                assert last.startswith(f"error: {path} is in use by process "), last
                assert int(last.rpartition(" ")[2]) in pids - {one["pid"]}
        with sd.open(path, read_only=True) as study:
            assert study.sql("SELECT slide FROM slides ORDER BY ALL").fetchall() == [("s0",), ("s1",), ("s2",)]
        assert os.listdir(path.parent) == ["s.duckdb"]


def test_two_writers_one_after_the_other_keep_what_both_did(made: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(made / "s.duckdb", tmp_path))
    code = f"""
for number in range(10):
    try:
        with sd.open({str(path)!r}) as study:
            study.con.execute("INSERT INTO label_names VALUES (?, 'x')", [f"{{os.getpid()}}-{{number}}"])
            print(number)
    except sd.StudyError as error:
        assert "is in use by process" in str(error), error
"""
    said = together(code, code)
    assert [one["status"] for one in said] == [0, 0]
    expected = sorted(f"{one['pid']}-{number}" for one in said for number in str(one["said"]).split())
    with sd.open(path, read_only=True) as study:
        assert [name for (name,) in study.sql("SELECT label FROM label_names ORDER BY ALL").fetchall()] == expected
    assert expected
