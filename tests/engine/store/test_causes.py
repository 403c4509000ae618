"""What the machine or a file does to a study is told by its cause, with what to do, and never as a traceback."""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner

import slideduck as sd
from slideduck.cli.group import cli
from slideduck.errors import DiskFullError, StudyError
from slideduck.store.causes import cause, wal_of
from slideduck.store.db import limited_memory


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with some rows; and beside it a log of 20 more, as a kill leaves it."""
    path = tmp_path_factory.mktemp("filled") / "s.duckdb"
    with sd.open(path) as study:
        study.con.execute("INSERT INTO slides (slide, path, error) SELECT 's' || range, '/s', 'none' FROM range(5000)")
    with sd.open(path) as study:
        for name in ("u", "v"):
            study.con.execute(
                f"INSERT INTO slides (slide, path, error) SELECT '{name}' || range, '/s', 'none' FROM range(10)"
            )
        shutil.copyfile(wal_of(path), path.with_name("log"))
        shutil.copyfile(path, path.with_name("main"))
    return path.with_name("main")


def info(path: Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, ["info", str(path)])
    return result.exit_code, result.stdout, result.stderr


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


DAMAGED = (
    "error: {path} is damaged ({reason}): take it from a copy that was kept, or make it anew from its slides and ROI "
    "files, which are as they were\n"
)
OTHER = "error: {path} is not a study: not a DuckDB file; give another path\n"


@pytest.mark.parametrize(
    ("change", "message", "reason"),
    [
        (lambda data: b"", OTHER, ""),
        (lambda data: b"no database" * 1000, OTHER, ""),
        (lambda data: bytes(len(data)), OTHER, ""),
        (lambda data: flipped(data, 20), DAMAGED, "Corrupt database file: computed checksum "),
        (lambda data: data[:100], DAMAGED, 'Could not read enough bytes from file "'),
        (lambda data: data[: len(data) // 2], DAMAGED, 'Could not read enough bytes from file "'),
        (lambda data: data[:-1], DAMAGED, 'Could not read enough bytes from file "'),
        (lambda data: data[:12288] + b"\xff" * (len(data) - 12288), DAMAGED, "Corrupt database file: computed"),
    ],
    ids=["empty", "text", "zeros", "header", "cut to 100", "cut to half", "cut by 1", "blocks"],
)
@pytest.mark.attack("bytes", "a study whose file is damaged or cut short")
def test_a_damaged_file(
    filled: Path, tmp_path: Path, change: Callable[[bytes], bytes], message: str, reason: str
) -> None:
    path = tmp_path / "s.duckdb"
    path.write_bytes(change(filled.read_bytes()))
    code, out, said = info(path)
    begin, _, end = message.format(path=path, reason="REASON").partition("REASON")
    assert (code, out) == (1, "")
    assert said.startswith(begin + reason)
    assert said.endswith(end)
    assert said.count("\n") == 1


def test_a_damaged_block_is_told_where_it_is_read(filled: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    data = filled.read_bytes()
    told = 0
    for block in range((len(data) - 12288) // 262_144):
        path.write_bytes(flipped(data, 12288 + block * 262_144 + 1000))
        result = CliRunner().invoke(cli, ["sql", str(path), "SELECT sum(length(slide)), count(path) FROM slides"])
        if result.exit_code:  # Others are free, or of other tables.
            assert result.stderr.startswith(f"error: {path} is damaged (Corrupt database file: "), result.stderr
            told += 1
    assert told > 1


def test_a_log_that_is_damaged_says_how_to_go_on(filled: Path, tmp_path: Path) -> None:
    path = tmp_path / "a study.duckdb"
    shutil.copyfile(filled, path)
    log = filled.with_name("log").read_bytes()
    wal_of(path).write_bytes(flipped(log, len(log) // 2))
    code, out, said = info(path)
    begin, _, command = said.rstrip("\n").rpartition(": ")
    assert (code, out) == (1, "")
    assert begin.startswith(
        f"error: {path} does not open: what the last command wrote is in {path}.wal, which cannot be read back "
        "(Corrupt WAL file: entry at byte position "
    )
    assert begin.endswith(
        "). Keep a copy of both files. Without the second the study opens as it was before that command"
    )
    # Nothing was changed by that; the remedy is typed.
    assert wal_of(path).read_bytes() == flipped(log, len(log) // 2)
    assert command == f"mv '{path}.wal' '{path}.wal.damaged'"
    subprocess.run(shlex.split(command), check=True)
    with sd.open(path) as study:
        assert study.sql("SELECT count(*) FROM slides").fetchall() == [(5000,)]


def test_a_log_that_was_cut_short_gives_what_it_holds(filled: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    shutil.copyfile(filled, path)
    wal_of(path).write_bytes(filled.with_name("log").read_bytes()[:-20])
    with sd.open(path) as study:
        assert study.sql("SELECT count(*) FROM slides").fetchall() == [(5010,)]


@pytest.mark.parametrize(("free", "reason"), [(0, ""), (1, 'Cannot open file "{path}.wal": ')])
def test_too_many_open_files(filled: Path, tmp_path: Path, free: int, reason: str) -> None:
    path = tmp_path / "s.duckdb"
    shutil.copyfile(filled, path)
    sd.open(path).close()  # What is read once in a process is read.
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), before[1]))
    taken = []
    try:
        # Files below the limit that were free already.
        while True:
            try:
                taken.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        for _ in range(free):
            os.close(taken.pop())
        with pytest.raises(StudyError) as caught:
            sd.open(path)
    finally:
        for file in taken:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert str(caught.value) == (
        f"{path} cannot be used ({reason.format(path=path)}Too many open files): more files are open than are allowed; "
        "allow more with: ulimit -n 1024"
    )
    sd.open(path).close()


def test_a_study_that_this_process_has_open(filled: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    shutil.copyfile(filled, path)
    with sd.open(path), pytest.raises(StudyError) as caught:
        sd.open(path, read_only=True)
    assert str(caught.value) == (
        f"{path} is open in this process already, for writing where this is for reading, or the reverse, or with "
        "another number of threads; use that one, or close it first"
    )


HUNGRY = "SELECT count(DISTINCT md5(range::VARCHAR)) FROM range(3_000_000)"


def test_no_room_for_temporary_files(study: sd.Study) -> None:
    study.con.execute("SET max_temp_directory_size = '1MB'")
    with pytest.raises(DiskFullError) as caught, limited_memory(study.con, "64MB"):
        study.con.execute(HUNGRY)
    assert str(caught.value).startswith("the disk is full: failed to offload data block of size ")
    assert str(caught.value).endswith("; nothing of this step was kept: free some space and run it again")


def test_too_little_memory(study: sd.Study) -> None:
    study.con.execute("SET temp_directory = ''")
    study.con.execute("SET memory_limit = '64MB'")
    with pytest.raises(StudyError) as error, study.atomic():
        study.con.execute(HUNGRY)
    assert str(error.value).startswith("the memory does not hold this step (")
    assert str(error.value).endswith("): end other programs, or run it on a machine with more; nothing of it was kept")


# Texts of DuckDB 1.5.5, of what only an administrator can bring about.
@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            'IO Error: Cannot open file "/s.duckdb": Read-only file system',
            '/s.duckdb cannot be used (Cannot open file "/s.duckdb": Read-only file system): its file system is '
            "read-only; copy the study to one that can be written",
        ),
        (
            'IO Error: Cannot open file "/s.duckdb": Permission denied',
            '/s.duckdb cannot be used (Cannot open file "/s.duckdb": Permission denied): this user may not; let its '
            "owner allow it, for the folder too, in which DuckDB keeps what is not in the study's file yet",
        ),
        (
            'IO Error: Could not read from file "/s.duckdb": Input/output error',
            '/s.duckdb cannot be used (Could not read from file "/s.duckdb": Input/output error): the disk cannot be '
            "read or written; see what the system says of it (dmesg), and take a copy of the study",
        ),
        (
            "FATAL Error: Failed: database has been invalidated because of a previous fatal error. The database must "
            'be restarted prior to being used again.\nOriginal error: "Failed to create checkpoint because of error: '
            'Could not write file "/s.duckdb": Disk quota exceeded"',
            'the disk is full: Could not write file "/s.duckdb": Disk '
            "quota exceeded; nothing of this step was kept: free some space and run it again",
        ),
        (
            'IO Error: Could not set lock on file "/s.duckdb": Resource temporarily unavailable',
            "/s.duckdb is in use by a process that cannot be named, perhaps on another machine; one process may write "
            "a study at a time, and nobody reads it meanwhile: wait for it, or stop it",
        ),
        ("IO Error: something new", "/s.duckdb cannot be used: something new"),
    ],
    ids=["read-only", "permission", "disk", "quota", "lock", "other"],
)
def test_what_the_system_refuses(text: str, told: str) -> None:
    kind = duckdb.FatalException if text.startswith("FATAL") else duckdb.IOException
    assert str(cause(kind(text), Path("/s.duckdb"))) == told


def test_a_mistake_of_a_program_stays_one() -> None:
    assert cause(duckdb.BinderException("Binder Error: no such column")) is None
    assert cause(ValueError("No space left on device")) is None
