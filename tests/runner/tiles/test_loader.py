"""Tiles come in our order, each once, and a failing or abandoned epoch neither hangs nor leaks."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numba.core.event import install_recorder

from slideduck.betons import decode_jpeg, encode_jpeg, verify_beton
from slideduck.betons.format import ALLOCATION, HEADER
from slideduck.betons.pages import tile_sums
from slideduck.errors import BetonError, RunError
from slideduck.runner.tiles.compiled import CHANGED, decoder
from slideduck.runner.tiles.loader import TileLoader, steps_and_batch, to_device
from slideduck.runner.tiles.open import open_beton
from tests.runner.betons import two_textures, write_beton
from tests.small_betons import AGAIN, set_at

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def loader(beton: Path) -> TileLoader:
    return TileLoader(beton, threads=2)


@pytest.mark.parametrize(
    ("n", "batch_size", "world_size", "expected"),
    [
        (100, 10, 1, (10, 10)),
        (109, 10, 2, (5, 10)),
        (39, 10, 4, (1, 9)),
        (3, 10, 1, (1, 3)),
        (1, 10, 2, (0, 0)),
    ],
)
def test_steps_of_an_epoch(n: int, batch_size: int, world_size: int, expected: tuple[int, int]) -> None:
    assert steps_and_batch(n, batch_size, world_size) == expected


@pytest.mark.parametrize("quality", [90, None])
def test_tiles_are_those_that_were_written(tmp_path: Path, quality: int | None) -> None:
    tiles = two_textures(50)
    loader = TileLoader(write_beton(tmp_path / "a.beton", tiles, quality=quality), threads=2)
    order = np.random.default_rng(1).permutation(50)
    batches = []
    with loader.epoch(order, 8) as epoch:
        batches = list(to_device(epoch, CPU))
    # All are kept until here: they are copies, not views of buffers that were used again.
    assert [len(batch.rows) for batch in batches] == [8, 8, 8, 8, 8, 8, 2]
    assert np.array_equal(np.concatenate([batch.rows for batch in batches]), order)
    images = torch.cat([batch.images_BCHW for batch in batches]).permute(0, 2, 3, 1).numpy()
    labels = torch.cat([batch.labels for batch in batches]).numpy()
    for image, label, row in zip(images, labels, order, strict=True):
        written = tiles[row].image
        assert np.array_equal(image, written if quality is None else decode_jpeg(encode_jpeg(written, quality)))
        assert label == tiles[row].label
    assert batches[0].images_BCHW.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(loader.labels, [tile.label for tile in tiles])


def test_one_loader_reads_one_epoch_after_the_other(loader: TileLoader) -> None:
    for rows, batch_size in (
        (np.arange(100), 7),
        (np.arange(320)[::-1], 64),
        (np.array([5]), 64),
        (np.array([5, 5]), 1),
    ):
        with loader.epoch(rows, batch_size) as epoch:
            assert np.array_equal(np.concatenate([batch.rows for batch in to_device(epoch, CPU)]), rows)


@pytest.mark.parametrize("memory", [1, None])
def test_a_beton_larger_than_half_the_memory_is_read_alike(beton: Path, tmp_path: Path, memory: int | None) -> None:
    own = shutil.copy(beton, tmp_path / "own.beton")
    loader = TileLoader(own, threads=2, memory=memory)
    order = np.random.default_rng(3).permutation(320)
    with loader.epoch(order, 16) as epoch:
        batches = list(to_device(epoch, CPU))
        maps = Path("/proc/self/smaps").read_text().split("VmFlags:")
    assert np.array_equal(np.concatenate([batch.rows for batch in batches]), order)
    labels = torch.cat([batch.labels for batch in batches]).numpy()
    assert np.array_equal(labels, loader.labels[order])
    # "rr": the system reads what is asked for, and nothing around it.
    flags = [after.split("\n")[0].split() for before, after in pairwise(maps) if str(own) in before]
    assert any("rr" in of_map for of_map in flags) is (memory == 1)


def test_no_rows_are_no_batches(loader: TileLoader) -> None:
    with loader.epoch(np.zeros(0, np.int64), 8) as epoch:
        assert list(epoch) == []


def test_rows_outside_the_beton_are_refused(loader: TileLoader) -> None:
    for row in (-1, 320):
        with pytest.raises(ValueError, match=f"row {row} of 320"), loader.epoch(np.array([0, row]), 8):
            pass


def test_leaving_an_epoch_early_ends_its_thread(loader: TileLoader) -> None:
    before = threading.active_count()
    for _ in range(5):
        with loader.epoch(np.arange(320), 4) as epoch:
            next(epoch)
        assert threading.active_count() == before
    with pytest.raises(StopIteration), loader.epoch(np.arange(320), 4) as epoch:
        next(iter(next(epoch)[2][:0]))
    assert threading.active_count() == before
    with loader.epoch(np.arange(320), 64) as epoch:
        assert sum(len(rows) for _, _, rows in epoch) == 320


def test_threads_of_torch_stay_as_they_were(beton: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with TileLoader(beton, threads=1).epoch(np.arange(64), 8) as epoch:
            list(epoch)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_tile_that_does_not_decode_is_named(tmp_path: Path) -> None:
    path = write_beton(tmp_path / "a.beton", two_textures(20))
    loader = TileLoader(path, threads=2)
    with loader.epoch(np.arange(20), 20) as epoch:
        list(epoch)
    data = bytearray(path.read_bytes())
    jpeg = encode_jpeg(two_textures(20)[13].image, 90)
    start = data.index(jpeg)
    # The middle of the picture is lost: its start and its end are right.
    data[start + len(jpeg) // 2 : start + len(jpeg) - 2] = bytes(len(jpeg) - len(jpeg) // 2 - 2)
    data[start + len(jpeg) // 2 : start + len(jpeg) // 2 + 2] = b"\xff\xd9"
    path.write_bytes(data)
    started = time.monotonic()
    with pytest.raises(BetonError) as error, TileLoader(path, threads=2).epoch(np.arange(20), 4) as epoch:
        list(epoch)
    assert str(error.value) == f"{path}: row 13: its JPEG does not decode; export the beton again"
    assert time.monotonic() - started < 30


def test_a_batch_that_does_not_come_in_time_is_an_error(beton: Path) -> None:
    loader = TileLoader(beton, threads=1, timeout_s=0.0)
    before = threading.active_count()
    # One batch, of which the decoding takes a while.
    with pytest.raises(RunError) as error, loader.epoch(np.tile(np.arange(320), 50), 16_000) as epoch:
        next(epoch)
    assert str(error.value) == (
        f"{beton}: no batch of tiles in 0 s; is the disk reachable? The same command goes on from the last checkpoint"
    )
    assert threading.active_count() == before


@pytest.mark.parametrize("keep", [0, 10, 3000, -1])
def test_a_beton_cut_short_is_refused_before_ffcv_sees_it(beton: Path, tmp_path: Path, keep: int) -> None:
    short = tmp_path / "short.beton"
    short.write_bytes(beton.read_bytes()[:keep])
    with pytest.raises(BetonError):
        TileLoader(short, threads=1)


def test_a_sidecar_with_other_labels_is_refused(tmp_path: Path) -> None:
    path = write_beton(tmp_path / "a.beton", two_textures(20))
    sidecar = path.with_suffix(".json")
    text = sidecar.read_text()
    first = text.index('"class": [') + len('"class": [')
    sidecar.write_text(text[:first] + str(1 - int(text[first])) + text[first + 1 :])
    with pytest.raises(BetonError) as error:
        open_beton(path, 1)
    assert str(error.value) == (
        f"{sidecar} was changed after it was written: its last line is not the checksum of the rest; {AGAIN}: the same "
        "command gives the same bytes"
    )
    # As side-cars of before, without a checksum.
    text = sidecar.read_text()
    sidecar.write_text(text[: text.index(',\n "sha256"')] + "\n}\n")
    with pytest.raises(BetonError) as error:
        open_beton(path, 1)
    assert str(error.value) == f"{path}: its side-car is of another beton: labels differ; export the beton again"


def place_of(beton: Path, row: int) -> tuple[int, int]:
    """Return where a tile is, and its bytes."""
    content = beton.read_bytes()
    end = int(np.frombuffer(content, HEADER, count=1)["alloc_table_ptr"][0])
    _, ptr, size = np.frombuffer(content, ALLOCATION, offset=end)[row].item()
    return ptr, size


@pytest.mark.attack("bytes", "a tile of other pixels in a beton that opens")
def test_changed_pixels_are_never_read(tmp_path: Path) -> None:
    path = write_beton(tmp_path / "a.beton", two_textures(20))
    ptr, size = place_of(path, 13)
    # A bit that decoders pass over: the pixels are others.
    set_at(path, ptr + size - 40, bytes([path.read_bytes()[ptr + size - 40] ^ 4]))
    with pytest.raises(BetonError, match=r"a\.beton is damaged: page 0 of 1 \(bytes 65,536 to 131,071\) is not as it "):
        open_beton(path, 2)


@pytest.mark.attack("races", "a tile that is changed while its beton is trained on")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_tile_that_is_changed_later_is_named(tmp_path: Path, threads: int) -> None:
    path = write_beton(tmp_path / "a.beton", two_textures(20))
    _, loader = open_beton(path, threads)
    ptr, size = place_of(path, 13)
    byte = path.read_bytes()[ptr + size - 40]
    for row_order in (np.arange(20), np.arange(20)[::-1]):
        with loader.epoch(row_order, 8) as epoch:
            assert sum(len(rows) for _, _, rows in epoch) == 20
        set_at(path, ptr + size - 40, bytes([byte ^ 4]))
        with pytest.raises(BetonError) as error, loader.epoch(row_order, 8) as epoch:
            list(epoch)
        assert str(error.value) == (
            f"{path} was changed after its pages were compared with their checksums: row 13 (bytes {ptr:,} to "
            f"{ptr + size - 1:,}) is not as it was written; see what else: slideduck verify {path}; then {AGAIN}: the "
            "same command gives the same bytes"
        )
        # What it says: the check names the page, and the same bytes again are read.
        assert verify_beton(path, quick=True, sample=0).problems[0].problem.startswith("page 0 of 1 (bytes 65,536 to ")
        set_at(path, ptr + size - 40, bytes([byte]))


def test_raw_tiles_that_are_changed_later_have_their_turn(tmp_path: Path) -> None:
    path = write_beton(tmp_path / "a.beton", two_textures(40), quality=None)
    _, loader = open_beton(path, 1)
    ptr, _ = place_of(path, 13)
    set_at(path, ptr + 100, bytes([path.read_bytes()[ptr + 100] ^ 4]))
    # The fourteenth batch is compared in the epoch of which the number, from 0, and thirteen make 32.
    for _ in range(19):
        with loader.epoch(np.arange(40), 1) as epoch:
            assert len(list(epoch)) == 40
    with pytest.raises(BetonError, match=r"row 13 \(bytes "), loader.epoch(np.arange(40), 1) as epoch:
        list(epoch)


def test_a_beton_that_is_replaced_while_it_is_read(tmp_path: Path) -> None:
    """The tiles stay those that were opened; what is opened later is the new one."""
    old, new = two_textures(30), two_textures(30, seed=1)
    path = write_beton(tmp_path / "a.beton", old, quality=None)
    _, loader = open_beton(path, 2)
    write_beton(path, new, quality=None)
    for reader, tiles in ((loader, old), (open_beton(path, 2)[1], new)):
        with reader.epoch(np.arange(30), 8) as epoch:
            images = np.concatenate([images.copy() for images, _, _ in epoch])
        assert np.array_equal(images, np.stack([tile.image for tile in tiles]))


@pytest.mark.parametrize("size", [1, 4, 7, 4001, 4 * 2**18, 4 * 2**18 + 3, 9 * 2**18 + 2])
def test_sums_of_the_loader_are_those_of_the_check(size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size + 3, dtype=np.uint8)
    sums = np.array(tile_sums(data.tobytes(), [3], [size]), np.uint32)
    verdicts = np.full((1, 1), -1)
    for given, verdict in ((sums, 0), (sums + np.uint32(1), CHANGED)):
        # As raw pixels, which are copied.
        images = np.zeros((1, 1, size, 1), np.uint8)
        decoder(False)(data, np.array([3]), np.array([size]), given, False, images, verdicts)
        assert verdicts[0, 0] == verdict
        assert np.array_equal(images.reshape(-1), data[3:] if verdict == 0 else np.zeros(size))


def test_another_beton_is_read_without_compiling_anything(loader: TileLoader, tmp_path: Path) -> None:
    with loader.epoch(np.arange(64), 8) as epoch:
        list(epoch)
    other = write_beton(tmp_path / "raw.beton", two_textures(50, seed=1), quality=None)
    with install_recorder("numba:compile") as compiled:
        with TileLoader(other, threads=2).epoch(np.arange(50), 8) as epoch:
            assert sum(len(rows) for _, _, rows in epoch) == 50
        assert compiled.buffer == []


def test_loaders_of_several_threads_do_not_meet(tmp_path: Path) -> None:
    def read(number: int) -> bool:
        tiles = two_textures(60, seed=number)
        path = write_beton(tmp_path / f"{number}.beton", tiles, quality=None)
        order = np.random.default_rng(number).permutation(60)
        with TileLoader(path, threads=1 + number % 2).epoch(order, 8) as epoch:
            images = torch.cat([batch.images_BCHW for batch in to_device(epoch, CPU)]).permute(0, 2, 3, 1).numpy()
        return np.array_equal(images, np.stack([tiles[row].image for row in order]))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(12)))


def test_a_loader_that_nobody_holds_closes_its_beton(tmp_path: Path) -> None:
    path = write_beton(tmp_path / "own.beton", two_textures(20))
    loader = TileLoader(path, threads=1)
    with loader.epoch(np.arange(20), 8) as epoch:
        list(epoch)
    assert str(path) in Path("/proc/self/maps").read_text()
    del loader, epoch
    assert str(path) not in Path("/proc/self/maps").read_text()
