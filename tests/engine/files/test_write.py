"""Files are written whole or not at all, and never through a link that somebody put into the folder."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from slideduck.betons.writer import BetonWriter
from slideduck.errors import BetonError, RunError, StudyError
from slideduck.files.write import replacing, staged, write_whole
from slideduck.runner.runs import checkpoint


def by_name(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")


def by_file(path: Path) -> None:
    write_whole(path, lambda file: file.write(b"new"))


WAYS = pytest.mark.parametrize(("write", "ending"), [(by_name, "part"), (by_file, "tmp")])


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_bytes(b"old")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "shared"
    path.mkdir()
    return path


@pytest.mark.attack("links", "a link planted under the temporary name of a file")
@WAYS
def test_a_planted_link_is_not_written_through(
    write: Callable[[Path], None], ending: str, victim: Path, folder: Path
) -> None:
    planted = folder / f".out.png.{ending}"
    planted.symlink_to(victim)
    write(folder / "out.png")
    assert victim.read_bytes() == b"old"
    assert (folder / "out.png").read_bytes() == b"new"
    # It is not ours to remove.
    assert planted.is_symlink()


@pytest.mark.attack("links", "a link planted under the name of the file itself")
@WAYS
def test_a_link_of_the_files_own_name_is_replaced_and_not_followed(
    write: Callable[[Path], None], ending: str, victim: Path, folder: Path
) -> None:
    (folder / "out.png").symlink_to(victim)
    write(folder / "out.png")
    assert victim.read_bytes() == b"old"
    assert not (folder / "out.png").is_symlink()


@pytest.mark.attack("races", "a temporary file exchanged for a link while it is written")
def test_a_temporary_file_that_was_exchanged_does_not_get_the_name(victim: Path, folder: Path) -> None:
    out = folder / "out.png"

    def exchanged() -> None:
        with replacing(out) as temporary:
            temporary.unlink()
            temporary.symlink_to(victim)

    with pytest.raises(StudyError) as error:
        exchanged()
    assert str(error.value) == (
        f"{out} was not written: another process exchanged .out.png.part in {folder}; write into a folder in which "
        "nobody else may write"
    )
    assert not out.exists()


@WAYS
def test_what_a_kill_left_is_removed_by_the_next_write(
    write: Callable[[Path], None], ending: str, folder: Path
) -> None:
    (folder / f".out.png.{ending}").write_bytes(b"half")
    write(folder / "out.png")
    assert [path.name for path in folder.iterdir()] == ["out.png"]


@pytest.mark.attack("races", "two processes that write one file at once")
@WAYS
def test_a_file_that_another_process_writes_is_left_to_it(
    write: Callable[[Path], None], ending: str, folder: Path
) -> None:
    held = folder / f".out.png.{ending}"
    with held.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(b"of the other")
        write(folder / "out.png")
    assert held.read_bytes() == b"of the other"
    assert (folder / "out.png").read_bytes() == b"new"


@WAYS
def test_files_have_the_rights_that_the_umask_gives(write: Callable[[Path], None], ending: str, folder: Path) -> None:
    before = os.umask(0o027)
    try:
        write(folder / "out.png")
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "out.png").stat().st_mode) == 0o640


@WAYS
def test_a_name_of_the_greatest_length_can_be_written(write: Callable[[Path], None], ending: str, folder: Path) -> None:
    write(folder / ("ä" * 127))
    assert [path.name for path in folder.iterdir()] == ["ä" * 127]


@pytest.mark.attack("links", "a folder below the one that is written in, which is a link elsewhere")
def test_no_file_is_put_into_a_folder_behind_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder / "case1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StudyError) as error, staged(folder, ["case1/HE.csv"], overwrite=True) as staging:
        (staging / "case1/HE.csv").write_text("x")
    assert str(error.value) == (
        f"no file is written for 'case1/HE.csv': the folder {folder / 'case1'} is a link that leads out of {folder}; "
        "remove the link, or give another folder"
    )
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.attack("links", "a link planted where a beton is written, or its journal")
@pytest.mark.parametrize("ending", ["part", "journal"])
@pytest.mark.parametrize("hard", [False, True], ids=["symbolic", "hard"])
def test_a_beton_is_not_written_through_a_link(victim: Path, folder: Path, ending: str, hard: bool) -> None:
    planted = folder / f"tiles.beton.{ending}"
    if hard:
        os.link(victim, planted)
    else:
        planted.symlink_to(victim)
    with pytest.raises(BetonError) as error:
        BetonWriter(folder / "tiles.beton", samples=3)
    assert str(error.value) == (
        f"{planted} is a link to another file, and is not written through; remove it, or write in another folder"
    )
    assert victim.read_bytes() == b"old"


@pytest.mark.attack("links", "a link planted for a line that a run appends, or for its lock")
def test_a_run_does_not_append_through_a_link(victim: Path, folder: Path) -> None:
    for name in ("metrics.jsonl", ".lock"):
        (folder / name).symlink_to(victim)
    problem = "is a link to another file, and is not written through; remove it, or write in another folder"
    with pytest.raises(RunError) as error:
        checkpoint.append_line(folder / "metrics.jsonl", "{}")
    assert str(error.value) == f"{folder / 'metrics.jsonl'} {problem}"
    with pytest.raises(RunError) as error, checkpoint.lock_folder(folder):
        pass
    assert str(error.value) == f"{folder / '.lock'} {problem}"
    assert victim.read_bytes() == b"old"


@pytest.mark.attack("races", "a pipe planted for a line that a run appends, which would wait for ever")
def test_a_run_does_not_append_to_a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "metrics.jsonl")
    with pytest.raises(RunError) as error:
        checkpoint.append_line(folder / "metrics.jsonl", "{}")
    assert str(error.value) == (
        f"{folder / 'metrics.jsonl'} is no file, and is not written to; remove it, or write in another folder"
    )


@pytest.mark.attack("links", "a file of another user planted where a beton is written")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_file_of_another_user_is_not_written_to(folder: Path) -> None:
    planted = folder / "tiles.beton.part"
    planted.touch()
    os.chown(planted, 12345, 12345)
    with pytest.raises(BetonError) as error:
        BetonWriter(folder / "tiles.beton", samples=3)
    assert str(error.value) == (
        f"{planted} is a file of another user (12345), and is not written to; remove it, or write in another folder"
    )
