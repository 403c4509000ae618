"""Shards and their merge: together they are the export without shards, byte for byte."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import slideduck as sd
from slideduck.betons import check_beton, merge_betons, read_sidecar
from slideduck.betons.export import ExportReport
from slideduck.betons.shards import Shard
from slideduck.cli.group import cli
from slideduck.errors import BetonError, ConfigError, DiskFullError, SlideduckError, SlideError
from tests.campaign import CAMPAIGN, cases
from tests.help_examples import examples
from tests.mixed_study import add_again, damage_tile, write_study
from tests.slides import write_slide
from tests.small_betons import change_bytes, change_entry, contents, load

AGAIN = "copy it again, or make it again with: slideduck export"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of 144 tiles of 64 px, of which 96 are stored JPEGs."""
    return write_study(tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose beton has three pages and a bit."""
    return write_study(tmp_path_factory.mktemp("large"), tile=256, size=(2560, 2048), noise=100)


def export(study: Path, out: Path, **settings: object) -> ExportReport:
    with sd.open(study, read_only=True) as opened:
        return opened.export(out, **settings)


def both(path: Path) -> tuple[bytes, bytes]:
    """Return the beton and its side-car."""
    return path.read_bytes(), path.with_suffix(".json").read_bytes()


def refusal(kind: type[SlideduckError], call: Callable[[], object]) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


# ------------------------------------------------------------------------------------------- where they are cut


@given(samples=st.integers(1, 10**9), count=st.integers(1, 99_999))
def test_shards_are_runs_of_about_as_many_tiles(samples: int, count: int) -> None:
    count = min(count, samples)
    chosen = [Shard(number, count) for number in {0, count // 3, count - 1}]
    for shard in chosen:
        rows = shard.rows(samples)
        assert samples // count <= len(rows) <= -(-samples // count)
        if shard.number + 1 < count:
            assert Shard(shard.number + 1, count).rows(samples).start == rows.stop
    assert (Shard(0, count).rows(samples).start, Shard(count - 1, count).rows(samples).stop) == (0, samples)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shards": 0}, "shards is 0; give a number from 1 to 99,999"),
        ({"shards": 3, "shard": 3}, "shard is 3; of 3 shards give one from 0 to 2"),
        ({"shard": 1}, "shard is 1, and the number of shards is not given; give shards too"),
        ({"shards": 145}, "144 tiles cannot fill 145 shards; give at most 144"),
    ],
)
def test_impossible_shards(mixed: Path, tmp_path: Path, settings: dict[str, int], message: str) -> None:
    assert refusal(ConfigError, lambda: export(mixed, tmp_path / "t.beton", **settings)) == message
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------------------------------------- what they make


@pytest.mark.parametrize(
    ("count", "settings"),
    [(1, {}), (4, {}), (7, {"where": None}), (5, {"raw": True}), (2, {"jpeg": "reencode"})],
)
def test_merged_shards_are_the_export_without(
    mixed: Path, tmp_path: Path, count: int, settings: dict[str, object]
) -> None:
    out = tmp_path / "tiles.beton"
    whole = export(mixed, out, **settings)
    expected = both(out)
    out.unlink()
    report = export(mixed, out, shards=count, **settings)
    assert not out.exists()
    assert [path.name for path in report.shards] == [f"tiles-{i:05d}-of-{count:05d}.beton" for i in range(count)]
    assert (report.samples, report.slides, report.tiles_per_class, report.readers, report.passed_through) == (
        whole.samples, whole.slides, whole.tiles_per_class, whole.readers, whole.passed_through,
    )  # fmt: skip
    merged = merge_betons(out, random.Random(count).sample(report.shards, count))
    assert both(out) == expected
    assert (merged.shards, merged.samples, merged.slides, merged.resumed, merged.notes) == (count, 144, 3, 0, ())


def test_shards_of_several_pages(large: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiles.beton"
    whole = export(large, out)
    assert (whole.passed_through, whole.samples, whole.bytes > 3 * (8 << 20)) == (160, 240, True)
    expected = both(out)
    merge_betons(out, export(large, out, shards=3).shards)
    assert both(out) == expected


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_each_shard_is_a_beton_of_its_own(mixed: Path, tmp_path: Path) -> None:
    whole = export(mixed, tmp_path / "whole.beton")
    everything = read_sidecar(whole.path)
    samples, names, labels = [], [], []
    for path in export(mixed, tmp_path / "tiles.beton", shards=4).shards:
        sidecar = read_sidecar(path, check_beton(path))
        # Class numbers and the rest are those of the whole, whatever the shard has of them.
        assert (sidecar.classes, len(sidecar.slides)) == (("x", "y"), 2 if path.name[10] in "12" else 1)
        samples += contents(path)
        names += sidecar.tile_id.tolist()
        labels += sidecar.class_number.tolist()
        assert sidecar.raw["shard"]["tiles_of_all"] == 144
    assert samples == contents(whole.path)
    assert (names, labels) == (everything.tile_id.tolist(), everything.class_number.tolist())
    images, numbers, rows = load(tmp_path / "tiles-00001-of-00004.beton")
    assert (images.shape, numbers, rows) == ((36, 64, 64, 3), labels[36:72], list(range(36)))


def test_shards_written_by_processes_of_their_own(mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiles.beton"
    code = """
import sys
import slideduck as sd
with sd.open(sys.argv[1], read_only=True) as study:
    study.export(sys.argv[2], shards=3, shard=int(sys.argv[3]))
"""
    jobs = [subprocess.Popen([sys.executable, "-c", code, mixed, out, str(i)]) for i in (2, 0, 1)]
    assert [job.wait(timeout=100) for job in jobs] == [0, 0, 0]
    merge_betons(out, sorted(tmp_path.glob("*.beton")))
    merged = both(out)
    export(mixed, out)
    assert both(out) == merged


# ------------------------------------------------------------------------------------------ stopped and resumed


def test_shards_that_are_whole_are_left_alone(mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiles.beton"
    first, second, third = export(mixed, out, shards=3).shards
    before = {path: path.stat().st_mtime_ns for path in (first, second, third)}
    again = export(mixed, out, shards=3)
    assert (again.resumed, again.samples, again.tiles_per_class) == (144, 144, {"x": 96, "y": 48})
    second.unlink()
    content = bytearray(third.read_bytes())
    content[40] ^= 1
    third.write_bytes(content)
    assert export(mixed, out, shards=3).resumed == 48
    after = {path: path.stat().st_mtime_ns for path in (first, second, third)}
    assert [after[path] == before[path] for path in (first, second, third)] == [True, False, False]
    merge_betons(out, [first, second, third])
    # Other pixels, which no table tells of.
    whole = second.read_bytes()
    second.write_bytes(whole[: (8 << 20) + 3000] + bytes([whole[(8 << 20) + 3000] ^ 4]) + whole[(8 << 20) + 3001 :])
    assert export(mixed, out, shards=3).resumed == 96
    assert second.read_bytes() == whole


def test_shards_of_a_study_that_changed_are_written_again(mixed: Path, tmp_path: Path) -> None:
    study = Path(shutil.copy(mixed, tmp_path / "s.duckdb"))
    out = tmp_path / "tiles.beton"
    shards = export(study, out, shards=2).shards
    with sd.open(study) as opened:
        opened.split(val_fraction=0.5)
    assert export(study, out, shards=2, shard=0).resumed == 0
    assert refusal(BetonError, lambda: merge_betons(out, shards)) == (
        f"{shards[0]} and {shards[1]} do not belong together: the entry 'split_rule' of their side-cars differs; "
        "was the study changed between them? Write one of them again"
    )
    assert export(study, out, shards=2).resumed == 72
    merge_betons(out, shards)


#: Starts a piece of work again and again, and kills it, until it gets to the end; prints how many were killed.
KILL = """
import os, random, signal, sys, time
from pathlib import Path
import slideduck as sd
from slideduck.betons import merge_betons

def merge(out, *shards):
    merge_betons(out, shards)

def shards(out, study):
    with sd.open(study, read_only=True) as opened:
        opened.export(out, shards=3)

work, out, longest, most, *rest = sys.argv[1:]
chance = random.Random(0)
kills = 0
while True:
    child = os.fork()
    if child == 0:
        globals()[work](out, *rest)
        os._exit(0)
    time.sleep(chance.uniform(0, float(longest)) if kills < int(most) else 60 * (os.waitpid(child, 0) is None))
    if kills == int(most):
        break
    os.kill(child, signal.SIGKILL)
    kills += os.waitpid(child, 0)[1] != 0
print(kills)
"""


def killed(work: str, out: Path, longest: float, most: int, *rest: Path) -> int:
    command = [sys.executable, "-c", KILL, work, out, str(longest), str(most), *rest]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=20 * most + 100)
    assert (done.returncode, done.stderr) == (0, "")
    return int(done.stdout)


def test_killed_and_gone_on_with(large: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiles.beton"
    export(large, out)
    expected = both(out)
    out.unlink()
    assert killed("shards", out, 0.4, kills := cases(4, 60), large) == kills
    shards = sorted(tmp_path.glob("tiles-*.beton"))
    assert len(shards) == 3
    assert killed("merge", out, 0.1, kills := cases(8, 200), *shards) == kills
    assert both(out) == expected
    assert not list(tmp_path.glob("*.part"))


def test_merge_that_finds_no_room_keeps_its_pages(large: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiles.beton"
    shards = export(large, out, shards=2).shards
    code = """
import resource, sys
from slideduck.betons import merge_betons
resource.setrlimit(resource.RLIMIT_FSIZE, (20 << 20, 20 << 20))
merge_betons(sys.argv[1], sys.argv[2:])
"""
    done = subprocess.run([sys.executable, "-c", code, out, *shards], capture_output=True, text=True)
    assert f"slideduck.errors.DiskFullError: no space left for {out} (File too large): " in done.stderr
    merged = merge_betons(out, shards)
    assert merged.resumed > 20
    expected = both(out)
    export(large, out)
    assert both(out) == expected


# --------------------------------------------------------------------------------------------- what is refused


@pytest.fixture
def four(mixed: Path, tmp_path: Path) -> list[Path]:
    """Four shards, and ``OUT.beton`` is what they make."""
    return list(export(mixed, tmp_path / "out.beton", shards=4).shards)


def test_shards_that_are_missing_or_given_twice(four: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.beton"
    assert refusal(BetonError, lambda: merge_betons(out, [four[3], four[1]])) == (
        "2 of 4 shards are missing: 0, 2; give them too, or write them with: "
        "slideduck export STUDY OUT.beton --grid 64px_32um --shards 4 --shard 0"
    )
    copied = tmp_path / "copy.beton"
    shutil.copy(four[1], copied)
    shutil.copy(four[1].with_suffix(".json"), copied.with_suffix(".json"))
    assert refusal(BetonError, lambda: merge_betons(out, [*four, copied])) == (
        f"{four[1]} and {copied} are both shard 1 of 4; give each shard once"
    )
    assert refusal(BetonError, lambda: merge_betons(out, [])) == (
        "no shard is given; name the betons that slideduck export --shards made"
    )
    assert refusal(BetonError, lambda: merge_betons(four[2], four)) == (
        f"{four[2]} is one of the shards; give another name for what they make"
    )
    # A copy under another name is as good.
    merge_betons(out, [four[0], copied, *four[2:]])


def test_files_that_are_no_shards_of_one_export(mixed: Path, four: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.beton"
    whole = export(mixed, tmp_path / "whole.beton").path
    assert refusal(BetonError, lambda: merge_betons(out, [*four, whole])) == (
        f"{whole} is no shard; give betons that slideduck export --shards made"
    )
    other = export(mixed, tmp_path / "other.beton", shards=4, shard=1, quality=70).shards[0]
    assert refusal(BetonError, lambda: merge_betons(out, [four[0], other, *four[2:]])) == (
        f"{four[0]} and {other} are shards of different exports, by their plan; "
        "write them with the same study, settings and versions"
    )
    fewer = export(mixed, tmp_path / "fewer.beton", shards=3, shard=1).shards[0]
    assert refusal(BetonError, lambda: merge_betons(out, [four[0], fewer, *four[2:]])) == (
        f"{four[0]} and {fewer} are shards of different exports, by their number of shards; "
        "write them with the same study, settings and versions"
    )
    four[2].with_suffix(".json").unlink()
    assert refusal(BetonError, lambda: merge_betons(out, four)) == (
        f"{four[2]} has no side-car: there is no {four[2].with_suffix('.json')}, which says what shard it is"
    )


@pytest.mark.attack("XML and JSON", "shards with side-cars of anything")
def test_shards_with_side_cars_of_anything(four: list[Path], tmp_path: Path) -> None:
    """Entries of other kinds, and bytes that were changed: merged as they were, or refused."""
    sidecar = four[0].with_suffix(".json")
    content = sidecar.read_bytes()
    raw = json.loads(content)
    del raw["sha256"]
    whole = json.dumps(raw)
    out = tmp_path / "out.beton"
    rng = np.random.default_rng(None if CAMPAIGN else 0)
    refused = 0
    for case in range(cases(test=80, campaign=2000)):
        changed = change_bytes(content, rng) if case % 2 else json.dumps(change_entry(json.loads(whole), rng)).encode()
        sidecar.write_bytes(changed)
        try:
            merge_betons(out, four)
        except BetonError as error:
            refused += 1
            text = str(error)
        else:
            text = str(sidecar)
        assert str(tmp_path) in text or "shards are missing" in text
    assert refused >= cases(test=60, campaign=1500)


def test_shards_that_are_damaged(four: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.beton"
    whole = four[1].read_bytes()
    damaged = bytearray(whole)
    # Within the data of a JPEG, where no header or table tells.
    damaged[(8 << 20) + 2000] ^= 1
    four[1].write_bytes(damaged)
    assert refusal(BetonError, lambda: merge_betons(out, four)) == (
        f"{four[1]} is damaged: page 0 of 1 (bytes 8,388,608 to 16,777,215) is not as it was written; it has the rows "
        f"0 to 35; {AGAIN}"
    )
    four[1].write_bytes(whole[:-1])
    assert refusal(BetonError, lambda: merge_betons(out, four)) == (
        f"{four[1]} is cut short: it has {len(whole) - 1:,} of {len(whole):,} bytes; {AGAIN}"
    )
    four[1].write_bytes(whole)
    sidecar = four[1].with_suffix(".json")
    raw = json.loads(sidecar.read_text())
    raw["tiles"]["class"][3] = 1 - raw["tiles"]["class"][3]
    sidecar.write_text(json.dumps(raw))
    assert refusal(BetonError, lambda: merge_betons(out, four)) == (
        f"{sidecar} was changed after it was written: its last line is not the checksum of the rest; {AGAIN}: the same "
        "command gives the same bytes"
    )
    # As side-cars of before, without a checksum.
    del raw["sha256"]
    sidecar.write_text(json.dumps(raw))
    assert refusal(BetonError, lambda: merge_betons(out, four)) == (
        f"{sidecar} was changed: it lists other tiles than {four[1]} was written with; {AGAIN}"
    )
    assert not out.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A folder on a file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    return folder


def test_merge_is_refused_where_it_cannot_fit(four: list[Path], small_disk: Path) -> None:
    out = small_disk / "out.beton"
    try:
        assert refusal(DiskFullError, lambda: merge_betons(out, four)) == (
            f"{out} would have about 0.07 GB, and {small_disk} has 0.00 GB free; free some space, or give another place"
        )
        assert os.listdir(small_disk) == []
    finally:
        subprocess.run(["umount", str(small_disk)], check=True)


# ------------------------------------------------------------------------------- tiles that cannot be read


def test_merged_shards_without_tiles_that_cannot_be_read(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    for name, places in (("a.svs", (7, 8, 40)), ("c.tif", (0, 47))):
        for place in places:
            damage_tile(tmp_path / "slides" / name, place)
    add_again(study, tmp_path / "slides")
    # Shards 4 to 7 of 12 are all of this slide.
    (tmp_path / "slides" / "b.tif").unlink()
    out = tmp_path / "tiles.beton"
    whole = export(study, out, skip_errors=True)
    assert len(whole.left_out) == 53
    expected = both(out)
    report = export(study, out, shards=12, skip_errors=True)
    assert report.left_out == whole.left_out
    empty = report.shards[4:8]
    assert [path.exists() for path in report.shards] == [path not in empty for path in report.shards]
    assert report.notes == tuple(
        f"no tile of {path} can be read; only its side-car was written, for slideduck merge" for path in empty
    )
    assert export(study, out, shards=12, skip_errors=True).resumed == 91
    merged = merge_betons(out, report.shards)
    assert (merged.left_out, merged.samples) == (whole.left_out, 91)
    assert both(out) == expected
    missing = [path for path in report.shards if path.exists()]
    assert refusal(BetonError, lambda: merge_betons(out, missing)).startswith(
        "4 of 12 shards are missing: 4, 5, 6, 7; give them too"
    )
    # Without skipping, a shard that lacks tiles is not whole.
    assert refusal(SlideError, lambda: export(study, out, shards=12, shard=0)).startswith("slide 'a': the tile at base")


# ------------------------------------------------------------------------------------------ the command line


def run(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    return result.exit_code, result.stdout, result.stderr


def test_commands(mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiles.beton"
    status, rows, messages = run("export", mixed, out, "--shards", 2, "--shard", 1, "--csv")
    assert (status, rows) == (0, "label,tiles\nx,48\ny,24\n")
    second = tmp_path / "tiles-00001-of-00002.beton"
    assert messages.splitlines()[-3:] == [
        "shards:",
        f"  {second}",
        "read 1 slide by openslide, 1 slide by tiff; 48 tiles taken as stored",
    ]
    assert run("export", mixed, out, "--shards", 2)[0] == 0
    status, line, messages = run("merge", out, second, tmp_path / "tiles-00000-of-00002.beton")
    assert (status, line) == (0, f"144 tiles on 3 slides from 2 shards in {out}\n")
    assert messages.splitlines()[-1] == f"side-car: {tmp_path}/tiles.json"
    assert run("merge", out, second)[:2] == (1, "")
    for words in (("--shard", 0), ("--shards", 2, "--shard", 2)):
        status, _, messages = run("export", mixed, out, *words)
        assert status == 2
        assert messages.endswith("Error: give --shard with --shards, and a number below it\n")


def test_what_a_command_says_of_tiles_left_out(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    damage_tile(tmp_path / "slides" / "a.svs", 9)
    add_again(study, tmp_path / "slides")
    (tmp_path / "slides" / "b.tif").unlink()
    status, _, messages = run("export", study, tmp_path / "t.beton", "--skip-errors")
    lines = messages.splitlines()
    at = lines.index("49 tiles left out, which cannot be read; the side-car names each:")
    assert status == 0
    assert lines[at + 1].startswith("  a: 1 tile (slide 'a': the tile at base pixel (64, 64), 64 px wide, cannot be")
    assert lines[at + 2] == (
        f"  b: 48 tiles (slide 'b': {tmp_path}/slides/b.tif cannot be read: No such file or directory; put the file "
        "back, or add it from where it is now)"
    )


def test_the_examples_of_the_help_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slides").mkdir()
    corners = [(0, 0), (1024, 0), (1024, 1024), (0, 1024)]
    for i in range(2):
        write_slide(tmp_path / "slides" / f"s{i}.tif", i, size=(1024, 1024))
        lines = [f"r,{x},{y},{'ab'[i]}" for x, y in corners]
        (tmp_path / f"s{i}.csv").write_text("roi_name,x_base,y_base,label\n" + "\n".join(lines))
    with sd.open("study.duckdb") as study:
        study.add_slides("slides")
        study.add_rois(["s0.csv", "s1.csv"])
        study.tile(256, tile_um=256)
        study.label()
        study.split(val_fraction=0.5)
        study.fit_stain()
    for command in ("export", "merge", "verify"):
        lines = examples(command)
        assert lines
        for line in lines:
            result = CliRunner().invoke(cli, shlex.split(line)[1:])
            assert result.exit_code == 0, (line, result.output)
    assert (tmp_path / "merged.beton").read_bytes() == (tmp_path / "tiles.beton").read_bytes()
