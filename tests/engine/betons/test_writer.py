"""`slideduck.betons.writer`: what is written is what FFCV's own writer writes, wherever the writer was stopped."""

from __future__ import annotations

import fcntl
import os
import pickle
import random
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ffcv.fields import IntField, RGBImageField
from ffcv.reader import Reader
from ffcv.writer import DatasetWriter
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from slideduck.betons import BetonWriter, check_beton, encode_jpeg, page_size_for
from slideduck.betons.format import data_start
from slideduck.betons.journal import read_record
from slideduck.errors import BetonError, DiskFullError
from slideduck.files.holders import process
from tests.campaign import cases
from tests.small_betons import (
    SAMPLES,
    SMALL_PAGE,
    contents,
    make_image,
    make_samples,
    set_at,
    whole_beton,
    write_all,
    write_beton,
)


class Tiles:
    """What the stock writer takes."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, row: int) -> tuple[np.ndarray, int, int]:
        return make_image(row, 400), row % 4 - 1, row


def test_bytes_are_those_of_the_stock_writer(tmp_path: Path) -> None:
    fields = {"image": RGBImageField(write_mode="raw"), "label": IntField(), "row": IntField()}
    stock = DatasetWriter(str(tmp_path / "stock.beton"), fields, num_workers=1)
    stock.from_indexed_dataset(Tiles(40))
    info = write_beton(
        tmp_path / "ours.beton",
        make_samples(40, side=400, raw=True),
        side=400,
        mode="raw",
        page_size=page_size_for(400 * 400 * 3),
    )
    # 17 images fill a page of 8 MiB but for a rest.
    assert info.bytes == 4 * (8 << 20) + 40 * 24
    assert (tmp_path / "ours.beton").read_bytes() == (tmp_path / "stock.beton").read_bytes()


@given(
    sizes=st.lists(st.integers(0, 1 << 16), min_size=1, max_size=60),
    page_size=st.sampled_from([1 << 12, 1 << 13, 1 << 15]),
    seed=st.integers(0, 2**32 - 1),
)
@example(sizes=[0] * 4, page_size=1 << 12, seed=0)
@settings(max_examples=cases(60, 1200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read(tmp_path: Path, sizes: list[int], page_size: int, seed: int) -> None:
    """JPEGs of any size up to a whole page, padded behind their pixels, end at any place of a page."""
    jpeg = encode_jpeg(make_image(1), 90)
    filler = np.random.default_rng(seed).bytes(1 << 16)
    samples = [jpeg[:-2] + filler[: size % (page_size - len(jpeg) + 1)] + b"\xff\xd9" for size in sizes]
    path = tmp_path / "tiles.beton"
    info = write_beton(path, samples, page_size=page_size)
    assert (info.samples, info.width, info.height, info.mode) == (len(samples), 24, 24, "jpg")
    assert contents(path) == samples
    reader = Reader(path)
    assert reader.field_names == ["image", "label", "row"]
    ptr = reader.alloc_table["ptr"].astype(int)
    last = ptr + reader.alloc_table["size"].astype(int) - 1
    assert (ptr // page_size == last // page_size).all()
    assert (ptr[0], data_start(len(samples), page_size) % page_size) == (
        data_start(len(samples), page_size),
        0,
    )


def test_pages_are_large_enough_for_the_largest_sample() -> None:
    assert page_size_for(1) == page_size_for(8 << 20) == 8 << 20
    assert page_size_for((8 << 20) + 1) == page_size_for(16 << 20) == 16 << 20
    with pytest.raises(BetonError) as caught:
        page_size_for((1 << 30) + 1)
    assert str(caught.value) == (
        "a tile of up to 1,073,741,825 bytes does not fit into a page of a beton, which has at most "
        "1,073,741,824; give a grid with a smaller tile_px"
    )


def test_sample_larger_than_usual_pages(tmp_path: Path) -> None:
    side = 1800
    samples = [np.full((side, side, 3), value, np.uint8).tobytes() for value in (3, 200)]
    path = tmp_path / "large.beton"
    info = write_beton(path, samples, side=side, mode="raw", page_size=page_size_for(len(samples[0])))
    assert info.page_size == 16 << 20
    assert contents(path) == samples


def test_identity_is_kept_where_ffcv_does_not_look(tmp_path: Path) -> None:
    info = write_beton(tmp_path / "a.beton", make_samples(3), identity="0123abc")
    assert info.identity == "0123abc"
    other = write_beton(tmp_path / "b.beton", make_samples(3), identity="0123abd")
    assert info.metadata_sha256 != other.metadata_sha256
    assert contents(tmp_path / "a.beton") == contents(tmp_path / "b.beton")


# ------------------------------------------------------------------------------------ stopped and resumed


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "tiles.beton"
    for _ in range(2):
        write_beton(path, SAMPLES, plan="b")
        assert path.read_bytes() == whole_beton()
    assert os.listdir(tmp_path) == ["tiles.beton"]


def test_nothing_has_the_name_before_it_is_published(tmp_path: Path) -> None:
    path = tmp_path / "tiles.beton"
    path.write_text("the file of before")
    with BetonWriter(path, samples=len(SAMPLES), page_size=SMALL_PAGE) as writer:
        write_all(writer, SAMPLES)
        part = path.with_name("tiles.beton.part")
        with pytest.raises(BetonError, match="was not finished"):
            check_beton(part)
        writer.finish()
        assert path.read_text() == "the file of before"
        writer.publish()
    assert check_beton(path).samples == len(SAMPLES)


def test_writer_goes_on_after_the_last_whole_page(tmp_path: Path) -> None:
    path = tmp_path / "tiles.beton"
    first_page = next(n for n in range(120) if sum(map(len, SAMPLES[: n + 1])) > SMALL_PAGE)
    with BetonWriter(path, samples=120, page_size=SMALL_PAGE, plan="a") as writer:
        for row in range(first_page):
            writer.write(SAMPLES[row], 24, 24, label=row % 4 - 1)
    with BetonWriter(path, samples=120, page_size=SMALL_PAGE, plan="a") as writer:
        assert (writer.resumed, writer.note) == (0, None)
        for row in range(first_page + 1):
            writer.write(SAMPLES[row], 24, 24, label=row % 4 - 1)
    with BetonWriter(path, samples=120, page_size=SMALL_PAGE, plan="a") as writer:
        assert (writer.resumed, writer.rows, writer.note) == (first_page, first_page, None)
        write_all(writer, SAMPLES)
    with BetonWriter(path, samples=120, page_size=SMALL_PAGE, plan="a") as writer:
        assert 100 < writer.resumed < 120
        write_all(writer, SAMPLES)
        writer.finish()
    with BetonWriter(path, samples=120, page_size=SMALL_PAGE, plan="a") as writer:
        assert writer.resumed == 120
        writer.finish()
        writer.publish()
    assert path.read_bytes() == whole_beton()


@pytest.mark.parametrize("change", [{"plan": "b"}, {"samples": 119}, {"page_size": 2 * SMALL_PAGE}])
def test_part_of_another_export_is_started_anew_and_said(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "tiles.beton"
    settings: dict[str, Any] = {"samples": 120, "page_size": SMALL_PAGE, "plan": "a"}
    with BetonWriter(path, **settings) as writer:
        write_all(writer, SAMPLES[:60])
    with BetonWriter(path, **{**settings, **change}) as writer:
        assert writer.resumed == 0
        assert writer.note == (
            f"{path}.part was left by an export of other tiles, settings or versions; it was started anew"
        )
        write_all(writer, SAMPLES[: writer.samples])
        writer.finish()
        writer.publish()
    assert contents(path) == SAMPLES[: writer.samples]


@given(
    stops=st.lists(st.integers(0, 120), max_size=4),
    damage=st.lists(
        st.tuples(st.sampled_from(["part", "journal"]), st.sampled_from(["cut", "flip", "append"]), st.floats(0, 1)),
        max_size=4,
    ),
)
@example(stops=[22], damage=[("part", "flip", 0.21875)])  # between the tables and the first page
@settings(max_examples=cases(60, 1200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bytes_do_not_depend_on_what_was_left(
    tmp_path: Path,
    stops: list[int],
    damage: list[tuple[str, str, float]],
) -> None:
    """Writers that stop anywhere, and a power cut that loses or garbles any of what they wrote."""
    path = tmp_path / "tiles.beton"
    for i, stop in enumerate(stops):
        with BetonWriter(path, samples=120, page_size=SMALL_PAGE, plan="a") as writer:
            for row in range(writer.resumed, min(stop, 120)):
                writer.write(SAMPLES[row], 24, 24, label=row % 4 - 1)
        for suffix, kind, where in damage[i : i + 1]:
            left = path.with_name(f"{path.name}.{suffix}")
            content = bytearray(left.read_bytes())
            at = min(int(where * len(content)), len(content) - 1)
            if kind == "cut":
                del content[at:]
            elif kind == "flip" and content:
                content[at] ^= 0x10
            else:
                content += random.Random(at).randbytes(at % 100)
            left.write_bytes(content)
    with BetonWriter(path, samples=120, page_size=SMALL_PAGE, plan="a") as writer:
        write_all(writer, SAMPLES)
        writer.finish()
        writer.publish()
    assert path.read_bytes() == whole_beton()
    assert os.listdir(tmp_path) == ["tiles.beton"]


#: Writes the samples of a file, tile by tile.
WRITE = """
import pickle, random, sys, time
from pathlib import Path
from slideduck.betons import BetonWriter

def write(path, pause):
    samples = pickle.loads(Path(path).with_suffix(".pickle").read_bytes())
    with BetonWriter(Path(path), samples=len(samples), page_size=1 << 12, plan="a") as writer:
        for row in range(writer.resumed, len(samples)):
            writer.write(samples[row], 24, 24, label=row % 4 - 1)
            time.sleep(pause)
        writer.finish()
        writer.publish()
"""

#: Starts writers and kills them, until one gets to the end; several times; prints how many were killed.
KILL = """
import os, signal

path, pause, longest, rounds = Path(sys.argv[1]), *map(float, sys.argv[2:])
chance = random.Random(0)
kills = 0
for _ in range(int(rounds)):
    path.unlink(missing_ok=True)
    while not path.exists():
        child = os.fork()
        if child == 0:
            write(path, pause)
            os._exit(0)
        time.sleep(chance.uniform(0.001, longest))
        os.kill(child, signal.SIGKILL)
        kills += os.waitpid(child, 0)[1] != 0
    # A writer may be killed when the file has its name, and before the journal is gone.
    whole = path.read_bytes()
    write(path, 0)
    assert path.read_bytes() == whole
print(kills)
"""

#: Writes where no file may be larger than a limit; prints the error.
LIMIT = """
import resource
from slideduck.errors import DiskFullError

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    write(sys.argv[1], 0)
except DiskFullError as error:
    print(error)
"""


def run(code: str, path: Path, *arguments: str) -> str:
    """Run code in a process of its own, and return what it prints."""
    path.with_suffix(".pickle").write_bytes(pickle.dumps(SAMPLES))
    command = [sys.executable, "-c", WRITE + code, str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=cases(100, 2000))
    assert not done.stderr, done.stderr
    assert done.returncode == 0
    path.with_suffix(".pickle").unlink()
    return done.stdout.rstrip("\n")


@pytest.mark.parametrize(("pause", "longest", "rounds"), [(0.003, 0.1, 1), (0, 0.02, cases(5, 100))])
def test_killed_at_any_moment_and_gone_on_with(tmp_path: Path, pause: float, longest: float, rounds: int) -> None:
    path = tmp_path / "tiles.beton"
    assert int(run(KILL, path, str(pause), str(longest), str(rounds))) > 3
    assert path.read_bytes() == whole_beton()
    assert os.listdir(tmp_path) == ["tiles.beton"]


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    path = tmp_path / "tiles.beton"
    with BetonWriter(path, samples=120, page_size=SMALL_PAGE) as writer:
        with pytest.raises(BetonError) as caught:
            BetonWriter(path, samples=120, page_size=SMALL_PAGE)
        assert str(caught.value) == (
            f"{path} is being written by {process(os.getpid())}; wait for it, or give another name"
        )
        write_all(writer, SAMPLES)
        writer.finish()
        writer.publish()
    assert contents(path) == SAMPLES


@pytest.mark.attack("races", "a second export that begins as the first one ends")
def test_a_writer_that_begins_as_another_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has opened the journal that the other deletes; a lock on that would keep nobody out."""
    path = tmp_path / "tiles.beton"
    first = BetonWriter(path, samples=120, page_size=SMALL_PAGE)
    write_all(first, SAMPLES)
    first.finish()
    lock = fcntl.flock

    def publish_and_lock(fd: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        first.publish()
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", publish_and_lock)
    with (
        BetonWriter(path, samples=120, page_size=SMALL_PAGE),
        pytest.raises(BetonError, match="is being written by process"),
    ):
        BetonWriter(path, samples=120, page_size=SMALL_PAGE)
    assert contents(path) == SAMPLES


@pytest.mark.attack("bytes", "pages of a stopped export that were changed")
def test_pages_that_were_changed_are_written_again(tmp_path: Path) -> None:
    path = tmp_path / "tiles.beton"
    with BetonWriter(path, samples=120, page_size=SMALL_PAGE, plan="a") as writer:
        write_all(writer, SAMPLES[:100])
    part = path.with_name("tiles.beton.part")
    at = data_start(120, SMALL_PAGE) + 2 * SMALL_PAGE + 77
    set_at(part, at, bytes([part.read_bytes()[at] ^ 16]))
    with BetonWriter(path, samples=120, page_size=SMALL_PAGE, plan="a") as writer:
        # The two pages before the changed one count.
        assert 0 < writer.resumed < 100
        write_all(writer, SAMPLES)
        writer.finish()
        writer.publish()
    assert path.read_bytes() == whole_beton()


@pytest.mark.attack("bytes", "a forged journal of an export")
@pytest.mark.parametrize("notes", [b"{", b'{"a": 1}', b"[1]", b"[" * 5000, b"\xff", None])
def test_a_journal_that_says_what_cannot_be(tmp_path: Path, notes: bytes | None) -> None:
    """With right checksums: a page of more samples than there are, or notes that are none."""
    path = tmp_path / "tiles.beton"
    with BetonWriter(path, samples=120, page_size=SMALL_PAGE, plan="a") as writer:
        write_all(writer, SAMPLES)
    journal = path.with_name("tiles.beton.journal")
    content = journal.read_bytes()
    head = content[: content.index(b"\n") + 1]
    found = read_record(content, len(head))
    assert found is not None
    record = replace(found[0], left_out=10**6) if notes is None else found[0]
    forged = bytearray(record.to_bytes())
    if notes is not None:
        forged[12:16] = len(notes).to_bytes(4, "little")
        forged[20:24] = bytes(4)
        forged += notes
        forged[20:24] = zlib.crc32(forged).to_bytes(4, "little")
    journal.write_bytes(head + forged)
    with BetonWriter(path, samples=120, page_size=SMALL_PAGE, plan="a") as writer:
        assert writer.resumed == 0
        write_all(writer, SAMPLES)
        writer.finish()
        writer.publish()
    assert path.read_bytes() == whole_beton()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BetonError, match="cannot be written: Permission denied; give another place for it"):
        BetonWriter(tmp_path / "tiles.beton", samples=1)


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "no" / "tiles.beton"
    with pytest.raises(BetonError) as caught:
        BetonWriter(path, samples=1)
    assert str(caught.value) == f"{path} cannot be written: No such file or directory; give another place for it"


def test_writer_is_not_misused_in_silence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="samples is 0"):
        BetonWriter(tmp_path / "tiles.beton", samples=0)
    with BetonWriter(tmp_path / "tiles.beton", samples=1, page_size=SMALL_PAGE) as writer:
        for data in (b"", bytes(SMALL_PAGE + 1)):
            with pytest.raises(ValueError, match="row 0 of 1 has"):
                writer.write(data, 1, 1)
        with pytest.raises(ValueError, match="0 of 1 samples were written"):
            writer.finish()
        writer.write(b"x", 1, 1)
        with pytest.raises(ValueError, match="row 1 of 1 has 1 bytes"):
            writer.write(b"x", 1, 1)
        with pytest.raises(ValueError, match="publish comes after finish"):
            writer.publish()


# ------------------------------------------------------------------------------------------- a full disk


def test_limit_on_the_size_of_files_keeps_the_whole_pages(tmp_path: Path) -> None:
    path = tmp_path / "tiles.beton"
    message = run(LIMIT, path, str(data_start(120, SMALL_PAGE) + 3 * SMALL_PAGE + 100))
    with BetonWriter(path, samples=120, page_size=SMALL_PAGE, plan="a") as writer:
        kept = writer.resumed
        assert 10 < kept < 60
        write_all(writer, SAMPLES)
        writer.finish()
        writer.publish()
    assert message == (
        f"no space left for {path} (File too large): {kept} of 120 tiles are kept in {path}.part; "
        "free some space and export again with the same settings: it goes on from there"
    )
    assert path.read_bytes() == whole_beton()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_keeps_the_whole_pages(small_disk: Path) -> None:
    path = small_disk / "tiles.beton"
    fill = small_disk / "something else"
    fill.write_bytes(bytes(24 << 10))
    with (
        pytest.raises(DiskFullError, match=r"\(No space left on device\): \d+ of 120 tiles are kept in"),
        BetonWriter(path, samples=120, page_size=SMALL_PAGE, plan="a") as writer,
    ):
        write_all(writer, SAMPLES)
    assert not path.exists()
    fill.unlink()
    with BetonWriter(path, samples=120, page_size=SMALL_PAGE, plan="a") as writer:
        assert writer.resumed > 5
        # The disk is too small for all of it: the rest goes where there is room.
        shutil.copytree(small_disk, small_disk.parent / "larger")
    path = small_disk.parent / "larger" / "tiles.beton"
    with BetonWriter(path, samples=120, page_size=SMALL_PAGE, plan="a") as writer:
        assert writer.resumed > 5
        write_all(writer, SAMPLES)
        writer.finish()
        writer.publish()
    assert path.read_bytes() == whole_beton()
