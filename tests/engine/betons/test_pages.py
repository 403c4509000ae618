"""`slideduck.betons.pages`: what was written is what is read, and that is remembered for the file as it is."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slideduck.betons import check_beton, read_sidecar, verify_beton, write_sidecar
from slideduck.betons.format import ALLOCATION, HEADER, data_start
from slideduck.betons.pages import Sums, check_pages, proof_key, proven_sums, remember_sums, tile_sums
from slideduck.errors import BetonError
from slideduck.files.cache import alone, remember, remembered
from tests.campaign import CAMPAIGN, cases
from tests.engine.betons.test_sidecar import content_for
from tests.small_betons import (
    AGAIN,
    SMALL_PAGE,
    change_bytes,
    change_entry,
    page_checksums,
    set_at,
    whole_beton,
)

START = data_start(120, SMALL_PAGE)
END = len(whole_beton()) - 120 * ALLOCATION.itemsize
PAGES = (END - START) // SMALL_PAGE


@pytest.fixture
def beton(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A beton of 120 tiles, its side-car, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "tiles.beton"
    path.write_bytes(whole_beton())
    content = content_for(check_beton(path))
    content["beton"]["pages"] = page_checksums(path)
    write_sidecar(path, content)
    return path


def proofs(beton: Path) -> list[Path]:
    return [path for path in (beton.parent / "cache" / "slideduck" / "betons").glob("*") if path.name[0] != "."]


def bytes_read() -> int:
    """Return how many bytes this process has read so far."""
    found = re.search(r"^rchar: (\d+)", Path("/proc/self/io").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def opened(beton: Path) -> tuple[Sums | None, int]:
    """Return the sums of the tiles, and how many bytes were read for them."""
    sidecar = read_sidecar(beton)
    before = bytes_read()
    return proven_sums(beton, sidecar, threads=2), bytes_read() - before


def rows_of(page: int) -> tuple[int, int]:
    table = np.frombuffer(whole_beton(), ALLOCATION, offset=END)
    rows = np.flatnonzero((table["ptr"].astype(np.int64) - START) // SMALL_PAGE == page)
    return int(rows[0]), int(rows[-1])


@pytest.mark.attack("bytes", "a changed byte in the pages of a beton")
def test_any_changed_page_is_named_with_its_bytes_and_rows(beton: Path) -> None:
    """All of them pass the checks of the beton and of its side-car."""
    sidecar = read_sidecar(beton)
    rng = np.random.default_rng(None if CAMPAIGN else 0)
    for _ in range(cases(test=80, campaign=2000)):
        at = int(rng.integers(START, END))
        set_at(beton, at, bytes([whole_beton()[at] ^ 1 << int(rng.integers(8))]))
        page = (at - START) // SMALL_PAGE
        first, last = rows_of(page)
        with pytest.raises(BetonError) as caught:
            check_pages(beton, sidecar, threads=2)
        begin = START + page * SMALL_PAGE
        assert str(caught.value) == (
            f"{beton} is damaged: page {page} of {PAGES} (bytes {begin:,} to {begin + SMALL_PAGE - 1:,}) is not as it "
            f"was written; it has the rows {first} to {last}; see which tiles: slideduck verify {beton}; then {AGAIN}: "
            "the same command gives the same bytes"
        )
        set_at(beton, at, whole_beton()[at : at + 1])
    assert check_pages(beton, sidecar, threads=2) is not None


@pytest.mark.attack("bytes", "a beton cut short, grown or changed anywhere")
def test_any_change_of_a_beton_is_refused(beton: Path) -> None:
    """Header, fields, tables, the gap before the pages, pages, the table behind them, and the length."""
    sidecar = beton.with_suffix(".json")
    whole = whole_beton()
    tables = HEADER.itemsize + 3 * 1041
    regions = ((0, HEADER.itemsize), (HEADER.itemsize, tables), (tables, START), (START, END), (END, len(whole)))
    rng = np.random.default_rng(None if CAMPAIGN else 1)
    for case in range(cases(test=80, campaign=2000)):
        changed = bytearray(whole)
        kind = case % 8
        if kind < 5:
            at = int(rng.integers(*regions[kind]))
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 5:
            del changed[int(rng.integers(len(whole))) :]
        elif kind == 6:
            changed += rng.bytes(int(rng.integers(1, 9000)))
        else:
            at, size = (int(rng.integers(len(whole) - 600)) for _ in range(2))
            changed[at : at + size % 600] = rng.bytes(size % 600)
            if changed == whole:
                continue
        beton.write_bytes(changed)
        with pytest.raises(BetonError) as caught:
            proven_sums(beton, read_sidecar(beton), threads=1)
        assert str(beton) in str(caught.value) or str(sidecar) in str(caught.value)
    assert proofs(beton) == []
    report = verify_beton(beton, quick=True, sample=0)
    assert report.problems


def test_a_beton_is_compared_once_on_a_machine(beton: Path) -> None:
    first, read = opened(beton)
    assert read > PAGES * SMALL_PAGE
    (proof,) = proofs(beton)
    assert proof.stat().st_mode & 0o777 == 0o600
    second, read = opened(beton)
    assert read < SMALL_PAGE
    assert first is not None
    assert second is not None
    assert np.array_equal(first, second)
    # Anything that happens to the file: it is compared again, and the tile found.
    at = START + 100
    set_at(beton, at, bytes([whole_beton()[at] ^ 4]))
    with pytest.raises(BetonError, match="page 0 of "):
        opened(beton)
    set_at(beton, at, whole_beton()[at : at + 1])
    assert opened(beton)[1] > PAGES * SMALL_PAGE


def test_verify_remembers_too(beton: Path) -> None:
    assert verify_beton(beton, quick=True, sample=0).problems == ()
    assert opened(beton)[1] < SMALL_PAGE


def damage(proof: Path) -> None:
    set_at(proof, 40, b"\x99")


def cut(proof: Path) -> None:
    os.truncate(proof, 50)


def empty(proof: Path) -> None:
    os.truncate(proof, 0)


def make_folder(proof: Path) -> None:
    proof.unlink()
    proof.mkdir()


def link(proof: Path) -> None:
    """A link to what is right."""
    proof.rename(proof.with_name("elsewhere"))
    proof.symlink_to("elsewhere")


def take_anothers(proof: Path) -> None:
    """What is right for another beton."""
    assert remember("betons", "another", bytes(480)) is None
    proof.write_bytes(proof.with_name("another").read_bytes())


@pytest.mark.parametrize(
    "harm",
    [
        damage,
        cut,
        empty,
        make_folder,
        pytest.param(link, marks=pytest.mark.attack("links", "a link in place of what is remembered of a beton")),
        pytest.param(take_anothers, marks=pytest.mark.attack("bytes", "the proof of another beton in the cache")),
    ],
)
def test_a_damaged_cache_means_comparing_again(beton: Path, harm: Callable[[Path], None]) -> None:
    first, _ = opened(beton)
    harm(proofs(beton)[0])
    again, read = opened(beton)
    assert read > PAGES * SMALL_PAGE
    assert np.array_equal(first, again)  # type: ignore[arg-type]


def test_a_cache_that_cannot_be_written_is_told(
    beton: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(beton))
    for _ in range(2):
        sums, read = opened(beton)
        assert sums is not None
        assert read > PAGES * SMALL_PAGE
        assert capsys.readouterr().err == (
            f"{beton} is compared with its checksums each time: {beton}/slideduck cannot be written (Not a directory)\n"
        )


def test_few_proofs_are_kept(beton: Path) -> None:
    opened(beton)
    for number in range(150):
        assert remember("betons", f"{number:03}", b"x") is None
    kept = [path.name for path in proofs(beton)]
    assert len(os.listdir(beton.parent / "cache" / "slideduck" / "betons")) == 128
    assert "149" in kept
    assert "000" not in kept
    assert remembered("betons", "149") == b"x"


def test_one_process_compares_and_others_wait(beton: Path) -> None:
    sidecar = read_sidecar(beton)
    is_waiting = threading.Event()
    found: list[Sums | None] = []

    def other() -> None:
        found.append(proven_sums(beton, sidecar, threads=1, going_on=is_waiting.set))

    key = proof_key(beton, sidecar)
    with alone("betons", key, lambda: None):
        thread = threading.Thread(target=other)
        thread.start()
        assert is_waiting.wait(20)
        # Not those of the tiles, so that it shows who compared.
        sums = np.arange(120, dtype=np.uint32)
        remember_sums(beton, sidecar, sums, key)
    thread.join(20)
    assert found[0] is not None
    assert np.array_equal(found[0], sums)


def test_a_wait_can_be_ended(beton: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with alone("betons", "key", lambda: None), pytest.raises(KeyboardInterrupt), alone("betons", "key", stop):
        pass
    with pytest.raises(KeyboardInterrupt):
        proven_sums(beton, read_sidecar(beton), threads=1, going_on=stop)
    assert proofs(beton) == []


def test_checksums_that_are_not_those_of_the_pages(beton: Path) -> None:
    content = content_for(check_beton(beton))
    pages = page_checksums(beton)
    wrong: tuple[dict[str, Any], ...] = ({"crc32": []}, {"crc32": [0] * 5}, {"crc32": [0] * 5000}, {"bytes": 1 << 20})
    for changes in wrong:
        content["beton"]["pages"] = {**pages, **changes}
        sidecar = write_sidecar(beton, content)
        said = content["beton"]["pages"]
        with pytest.raises(BetonError) as caught:
            opened(beton)
        assert str(caught.value) == (
            f"{sidecar} is damaged: it has {len(said['crc32']):,} checksums of pages of {said['bytes']:,} bytes, which "
            f"are not those of {beton}; {AGAIN}"
        )


def test_many_changed_pages_are_counted(beton: Path) -> None:
    sidecar = read_sidecar(beton)
    for page in range(PAGES):
        set_at(beton, START + page * SMALL_PAGE + 30, b"\x00\x01\x02")
    with pytest.raises(BetonError, match=rf"page 4 of {PAGES} .* \(and {PAGES - 5} pages more\); see which tiles"):
        check_pages(beton, sidecar, threads=2)


def test_a_side_car_without_checksums_is_told(beton: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_sidecar(beton, content_for(check_beton(beton)))
    assert opened(beton)[0] is None
    assert capsys.readouterr().err == (
        f"{path} has no checksums of pages: changed tiles would not be noticed; export again for them\n"
    )


def test_sums_tell_any_change() -> None:
    rng = np.random.default_rng(0)
    data = rng.bytes(900)
    (whole,) = tile_sums(data, [3], [801])
    for at in range(801):
        changed = bytearray(data)
        changed[3 + at] ^= 1 << int(rng.integers(8))
        assert tile_sums(bytes(changed), [3], [801]) != [whole]
    # The same bytes but for one zero more, and two words in each other's place.
    assert tile_sums(bytes(10), [0, 0], [8, 9])[0] != tile_sums(bytes(10), [0, 0], [8, 9])[1]
    assert tile_sums(b"aaaabbbb", [0], [8]) != tile_sums(b"bbbbaaaa", [0], [8])


@pytest.mark.attack("XML and JSON", "entries of other kinds in a side-car")
def test_a_side_car_of_anything(beton: Path) -> None:
    """Whatever stands in a side-car without a checksum of its own: it is read as what it says, or refused."""
    path = beton.with_suffix(".json")
    raw = json.loads(path.read_text())
    del raw["sha256"]
    whole = json.dumps(raw)
    rng = np.random.default_rng(None if CAMPAIGN else 2)
    info = check_beton(beton)
    for case in range(cases(test=80, campaign=2000)):
        raw = change_entry(json.loads(whole), rng)
        path.write_text(json.dumps(raw))
        refused = None
        try:
            sidecar = read_sidecar(beton, info)
            proven_sums(beton, sidecar, threads=1)
            assert sidecar.raw == raw
        except BetonError as error:
            refused = str(error)
        assert refused is None or str(path.with_suffix("")) in refused
        if case % 8 == 0:
            verify_beton(beton, quick=True, sample=0)


@pytest.mark.attack("bytes", "bytes of a side-car changed, gone or doubled")
def test_a_side_car_of_other_bytes(beton: Path) -> None:
    """It is refused by its own checksum at the latest; but for the name of that, which is then none."""
    path = beton.with_suffix(".json")
    content = path.read_bytes()
    raw = read_sidecar(beton).raw
    rng = np.random.default_rng(None if CAMPAIGN else 3)
    info = check_beton(beton)
    refused = 0
    for case in range(cases(test=80, campaign=2000)):
        path.write_bytes(change_bytes(content, rng))
        try:
            found = read_sidecar(beton, info)
        except BetonError:
            refused += 1
        else:
            assert {name: found.raw[name] for name in raw} == raw
        if case % 8 == 0:
            verify_beton(beton, quick=True, sample=0)
    assert refused >= cases(test=75, campaign=1900)
