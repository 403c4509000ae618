"""A training loop of one's own gets each tile once, in an order that can be had again, and leaves nothing behind."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from sklearn.model_selection import GroupKFold
from torch.utils.data import DataLoader

import slideduck as sd
from slideduck.errors import BetonError, ConfigError, QueryError
from slideduck.runner.tiles.epochs import EpochLoader, rank_batches
from slideduck.runner.tiles.loader import TileLoader, rank_rows
from slideduck.runner.tiles.rows import as_rows
from tests.runner.betons import two_textures, write_beton
from tests.small_betons import set_at


def rows_of(loader: EpochLoader) -> list[list[int]]:
    return [rows.tolist() for _, _, rows in loader]


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


def test_a_batch_is_tiles_as_they_were_written_with_their_labels_and_rows(beton: Path) -> None:
    loader = sd.loader(beton, split="val", shuffle=False, batch_size=32)
    sidecar = sd.read_sidecar(beton)
    assert [len(rows) for rows in rows_of(loader)] == [32, 32, 16]
    assert len(loader) == 3
    raw = TileLoader(beton, 1)
    for images, labels, rows in loader:
        assert (images.dtype, tuple(images.shape[1:])) == (torch.uint8, (3, 32, 32))
        assert (labels.dtype, rows.dtype, rows.device.type) == (torch.int64, torch.int64, "cpu")
        assert [loader.classes[label] for label in labels] == [sidecar.classes[n] for n in sidecar.class_number[rows]]
        assert set(loader.sidecar.tile_split[rows]) == {"val"}
        with raw.epoch(rows, 32) as batches:  # a tensor is a sequence of integers too
            ((pixels, _, _),) = batches
            assert np.array_equal(images.permute(0, 2, 3, 1), pixels)
    table = loader.table(rows)
    assert table["tile_id"].tolist() == sidecar.tile_id[rows].tolist()
    assert table["row"].tolist() == rows.tolist()
    assert len(loader.table()) == len(loader.rows) == len(loader.labels) == 80
    assert repr(loader) == (
        f"<slideduck.loader {beton}: 80 tiles of 2 classes, 3 batches an epoch, epoch 2 next, rank 0 of 1>"
    )


def test_each_iterator_is_the_next_epoch_whatever_the_threads(beton: Path) -> None:
    loader, other = sd.loader(beton, threads=1), sd.loader(beton, threads=2)
    first, second = rows_of(loader), rows_of(loader)
    assert first != second
    assert sorted(flat(first)) == sorted(flat(second)) == loader.rows.tolist()
    assert [rows_of(other), rows_of(other)] == [first, second]
    loader.set_epoch(0)
    assert rows_of(loader) == first
    assert rows_of(sd.loader(beton, seed=1)) != first


@pytest.mark.parametrize(
    ("n", "batch_size", "ranks"),
    [(320, 64, 2), (131, 64, 2), (129, 64, 2), (7, 2, 3), (10, 4, 4), (5, 64, 2), (4, 1, 2)],
)
def test_ranks_see_each_tile_once_in_as_many_batches(n: int, batch_size: int, ranks: int) -> None:
    order = np.random.default_rng(0).permutation(n)
    shares = [[order[cut] for cut in rank_batches(n, batch_size, rank, ranks, False)] for rank in range(ranks)]
    assert sorted(np.concatenate([batch for share in shares for batch in share])) == list(range(n))
    assert len({len(share) for share in shares}) == 1
    for step in zip(*shares, strict=True):
        sizes = [len(batch) for batch in step]
        assert 1 <= min(sizes) <= max(sizes) <= min(batch_size, min(sizes) + 1)
    # Together they are the batches of one process with as many tiles, and whole ones are cut as in `slideduck train`.
    whole = [np.concatenate(step) for step in zip(*shares, strict=True)]
    assert np.array_equal(np.concatenate(whole), order)
    for rank in range(ranks):
        cuts = rank_batches(n, batch_size, rank, ranks, True)
        trained = rank_rows(order, batch_size, len(cuts), rank, ranks)
        assert np.array_equal(np.concatenate([order[:0], *(order[cut] for cut in cuts)]), trained)


def test_ranks_that_would_wait_for_each_other_are_refused(beton: Path) -> None:
    with pytest.raises(ConfigError) as error:
        sd.loader(beton, where=[0, 1, 2], rank=0, world_size=4)
    assert str(error.value) == (
        "3 tiles in batches of 64 cannot be shared out over 4 processes so that all have as many batches; give fewer "
        "processes, `drop_last=True`, or a `batch_size` of 2 or more"
    )
    with pytest.raises(ConfigError, match=r"^5 tiles in batches of 1 cannot be shared out over 2 processes"):
        sd.loader(beton, where=range(5), batch_size=1, rank=0, world_size=2)
    assert len(sd.loader(beton, where=range(5), batch_size=1, rank=0, world_size=2, drop_last=True)) == 2
    assert len(sd.loader(beton, where=range(5), batch_size=2, rank=0, world_size=2)) == 2


def test_several_iterators_are_open_at_once(beton: Path) -> None:
    tiles = TileLoader(beton, 2)
    with tiles.epoch(range(100), 8) as one, tiles.epoch(range(100, 200), 8) as other:
        read = [(rows.tolist(), others.tolist()) for (_, _, rows), (_, _, others) in zip(one, other, strict=True)]
    assert flat([rows for rows, _ in read]) == list(range(100))
    assert flat([rows for _, rows in read]) == list(range(100, 200))
    loader = sd.loader(beton, batch_size=16, threads=2)
    alone = [rows_of(loader), rows_of(loader)]
    loader.set_epoch(0)
    together = [[], []]  # type: list[list[list[int]]]
    for (_, _, rows), (_, _, others) in zip(loader, loader, strict=True):
        together[0].append(rows.tolist())
        together[1].append(others.tolist())
    assert together == alone


def test_an_epoch_that_is_left_early_ends_its_threads(beton: Path) -> None:
    loader = sd.loader(beton, batch_size=4)
    before = threading.active_count()
    for _images, _labels, _rows in loader:
        break
    assert threading.active_count() == before
    iterator = iter(loader)
    next(iterator)
    assert threading.active_count() > before
    del iterator, loader
    assert threading.active_count() == before


def test_a_loader_goes_on_in_the_middle_of_an_epoch(beton: Path) -> None:
    loader = sd.loader(beton, batch_size=16, augment="d4")
    assert loader.state_dict()["epoch"] == 0
    next(iter(loader))
    iterator = iter(loader)
    for _ in range(5):
        next(iterator)
    state = pickle.loads(pickle.dumps(loader.state_dict()))
    assert (state["epoch"], state["batches"]) == (1, 5)
    rest = list(iterator)
    assert (loader.state_dict()["epoch"], loader.state_dict()["batches"]) == (2, 0)
    after = rows_of(loader)

    resumed = sd.loader(beton, batch_size=16, augment="d4")
    resumed.load_state_dict(state)
    assert resumed.epoch == 1
    copied = pickle.loads(pickle.dumps(resumed))
    for (images, labels, rows), *others in zip(rest, resumed, copied, strict=True):
        for other in others:
            assert torch.equal(images, other[0])
            assert torch.equal(labels, other[1])
            assert torch.equal(rows, other[2])
    assert rows_of(resumed) == after

    # On another number of processes with the same batches of all together.
    halves = [sd.loader(beton, batch_size=8, augment="d4", rank=rank, world_size=2) for rank in range(2)]
    for half in halves:
        half.load_state_dict(state)
    joined = [one + other for one, other in zip(*map(rows_of, halves), strict=True)]
    assert joined == [rows.tolist() for _, _, rows in rest]


def test_the_state_of_another_loader_is_refused(beton: Path) -> None:
    state = sd.loader(beton, seed=1).state_dict()
    with pytest.raises(ConfigError) as error:
        sd.loader(beton).load_state_dict(state)
    assert str(error.value) == (
        f"{beton}: the state is of another loader: seed was 1 and is 0; make the loader as it was, or begin anew "
        "without the state"
    )
    with pytest.raises(ConfigError, match=r"^this is no state of a loader; give what its state_dict returned$"):
        sd.loader(beton).load_state_dict({"epoch": 1})


SEQUENCES: dict[str, Callable[[list[int]], Any]] = {
    "list": list,
    "tuple": tuple,
    "range": lambda rows: range(rows[0], rows[-1] + 1),
    "int8": lambda rows: np.array(rows, np.int8),
    "uint64": lambda rows: np.array(rows, np.uint64),
    "objects": lambda rows: np.array(rows, object),
    "tensor": lambda rows: torch.tensor(rows, dtype=torch.int32),
    "index": pd.Index,
    "nullable": lambda rows: pd.Series(rows, dtype="Int64"),
    "polars": pl.Series,
    "arrow": pa.array,
}


@pytest.mark.parametrize("kind", SEQUENCES)
def test_rows_are_any_sequence_of_integers(beton: Path, kind: str) -> None:
    rows = list(range(40, 46))
    given = SEQUENCES[kind](rows)
    assert as_rows(given, "rows").tolist() == rows
    assert rows_of(sd.loader(beton, where=given, shuffle=False)) == [rows]


def test_tiles_come_in_the_order_in_which_they_are_given(beton: Path) -> None:
    names = sd.read_sidecar(beton).tile_id
    assert rows_of(sd.loader(beton, where=[5, 3, 200], shuffle=False)) == [[5, 3, 200]]
    for ids in (names[[5, 3, 200]], names[[5, 3, 200]].tolist(), pd.Index(names[[5, 3, 200]])):
        assert rows_of(sd.loader(beton, where=ids, shuffle=False)) == [[5, 3, 200]]
    condition = sd.loader(beton, split=None, where="slide IN ('S0', 'S3') AND label = 'stripes'")
    assert set(condition.table()["slide"]) == {"S0", "S3"}
    assert set(condition.table()["label"]) == {"stripes"}


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ([], "{beton}: `where` names no tile; give one or more, or leave it out"),
        ([0, 320], "{beton}: `where` has row 320; its rows are 0 to 319"),
        ([-1], "{beton}: `where` has row -1; its rows are 0 to 319"),
        (np.array([2**63], np.uint64), f"{{beton}}: `where` has row {2**62}; its rows are 0 to 319"),
        (
            [4, 4],
            "{beton}: `where` has row 4 (S0-144-16) 2 times; give each tile once (`balance` with `replacement='yes'` "
            "draws tiles several times)",
        ),
        ([1.0], "`where` holds 1.0, a float; give row numbers, which are integers"),
        (np.ones(320, bool), "`where` holds booleans; give row numbers: numpy.flatnonzero(where)"),
        ([True], "`where` holds booleans; give row numbers: numpy.flatnonzero(where)"),
        ([None], "`where` holds None, a NoneType; give row numbers, which are integers"),
        ([[1, 2]], "`where` is of 2 dimensions; give a sequence of row numbers, such as a list or an array"),
        ({1, 2}, "`where` is a set; give a sequence of row numbers, such as a list or an array"),
        (
            [0, 120, 121],
            "{beton}: 2 of 3 tiles in `where` are not in split 'train': row 120 (S3-3856-16), row 121 (S3-3888-16); "
            "leave them out, or give `split=None`",
        ),
        (
            ["S0-16-16", "S0-1-1"],
            "{beton}: 1 of 2 tile ids in `where` is not in the beton: 'S0-1-1'; its first is 'S0-16-16' (a condition "
            "is one text, not a list)",
        ),
    ],
)
def test_tiles_that_cannot_be_read_are_refused(beton: Path, where: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        sd.loader(beton, where=where)
    assert str(error.value) == message.format(beton=beton)


def test_tiles_without_a_label_are_left_out_or_refused(tmp_path: Path) -> None:
    tiles = two_textures(16)
    path = write_beton(tmp_path / "a.beton", [*tiles[:15], type(tiles[0])("S0", -1, tiles[15].image)])
    assert len(sd.loader(path, split=None).rows) == 15
    with pytest.raises(ConfigError) as error:
        sd.loader(path, split=None, where=[0, 15])
    assert str(error.value) == f"{path}: 1 of 2 tiles in `where` is without a label: row 15 (S0-496-16); leave them out"


REFUSED = {
    "batch_size=0": "`batch_size` is 0; it must be a whole number, 1 or more",
    "batch_size=2.5": "`batch_size` is 2.5; it must be a whole number, 1 or more",
    "seed=True": "`seed` is True; it must be a whole number, 0 or more",
    "threads=0": "`threads` is 0; it must be a whole number, 1 or more",
    "rank=0": "`rank` is 0 and `world_size` is None; give both or neither",
    "rank=2, world_size=2": "`rank` is 2, but `world_size` is 2; ranks count from 0",
    "dtype='float16'": "`dtype` is 'float16'; it must be uint8 or float32",
    "normalise=(0.5, 0.5)": "`normalise` is (0.5, 0.5); it must be True, False, or a pair of mean and deviation, each "
    "of red, green and blue on the scale of 0 to 1, such as ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))",
    "balance='labl'": "`balance` is 'labl'; it must be one or more of slide, patient, site, split, fold, label, class, "
    "roi_name, grid_x, grid_y, loc_x, loc_y, such as label or slide,label; did you mean 'label'?",
    "balance='label', shuffle=False": "`balance` is 'label' and `shuffle` is False, with which each tile comes once "
    "and in order; give `shuffle=True`, or leave out `balance`",
    "split='trian'": "BETON: split is 'trian', but its tiles are of splits 'train', 'val'; give one of them, or "
    "`split=None` for all labelled tiles; did you mean 'train'?",
    "columns=['slid']": "BETON: its side-car has no column 'slid'; `columns` is a list of some of row, tile_id, slide, "
    "patient, site, split, fold, label, class, roi_name, grid_x, grid_y, loc_x, loc_y; did you mean 'slide'?",
    "augment='d5'": "augment is 'd5': there is no augmentation 'd5'; it must be one of none, d4, standard, strong, or "
    "a list of d4, crop:PART, stain:STRENGTH, colour:STRENGTH, brightness:STRENGTH, contrast:STRENGTH, "
    "saturation:STRENGTH, hue:TURN, blur:PART[:SIGMA], sharpen:PART[:AMOUNT], jpeg:PART[:QUALITY]",
    "target='patient:age'": "BETON: target is 'patient:age', but its side-car has no column 'age' of the patients' "
    "table; it has none: add the column (slideduck add-patients STUDY TABLE) and export again",
}


def test_what_is_wrong_is_said_before_torch_is_imported_whose_threads_stay(beton: Path, tmp_path: Path) -> None:
    calls = [f"sd.loader('{tmp_path}/none.beton')", *(f"sd.loader('{beton}', {words})" for words in REFUSED)]
    code = (
        "import sys, slideduck as sd\n"
        "for call in sys.argv[1:]:\n"
        "    try: eval(call)\n"
        "    except sd.SlideduckError as error: print(error)\n"
        "print('torch' in sys.modules)\n"
        "import torch; torch.set_num_threads(3)\n"
        f"loader = sd.loader('{beton}'); next(iter(loader)); print(torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code, *calls], capture_output=True, text=True, check=True)
    missing = f"no beton at {tmp_path}/none.beton; make it with: slideduck export STUDY {tmp_path}/none.beton"
    told = [message.replace("BETON", str(beton)) for message in REFUSED.values()]
    assert done.stdout.splitlines() == [missing, *told, "False", "3"]


def test_conditions_and_columns_without_a_value_are_refused(beton: Path) -> None:
    with pytest.raises(QueryError, match="slyde"):
        sd.loader(beton, where="slyde = 'S0'")
    with pytest.raises(ConfigError) as error:
        sd.loader(beton, balance="site")
    assert str(error.value) == f"{beton}: `balance` is 'site' but no training tile has a site"
    with pytest.raises(ConfigError, match=r"give fewer with `epoch_tiles`, or `replacement='yes'`$"):
        sd.loader(beton, epoch_tiles=1000)
    assert len(flat(rows_of(sd.loader(beton, epoch_tiles=1000, replacement="yes")))) == 1000
    with pytest.raises(ConfigError, match=r"^`device` is 'tpu'; it must be cpu, cuda, or cuda and a number"):
        sd.loader(beton, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError) as error:
            sd.loader(beton, device="cuda")
        assert str(error.value) == "`device` is 'cuda', but torch sees 0 GPUs; give `device='cpu'`, or another"
        assert sd.loader(beton, device=None).device == torch.device("cpu")


def test_balanced_tiles_come_in_equal_parts_and_all_in_turn(beton: Path) -> None:
    labels = sd.read_sidecar(beton).class_number
    rare = np.flatnonzero(labels == 0)[:20].tolist()
    where = [*rare, *np.flatnonzero(labels == 1)[:60].tolist()]
    loader = sd.loader(beton, split=None, where=where, balance="label")
    epochs = [flat(rows_of(loader)) for _ in range(3)]
    for rows in epochs:
        assert np.bincount(labels[rows]).tolist() == [20, 20]
    assert sorted(set(flat(epochs))) == sorted(where)


def test_images_come_as_they_are_asked_for(beton: Path) -> None:
    (plain, _, rows), *_ = sd.loader(beton)
    scaled, *_ = next(iter(sd.loader(beton, dtype=torch.float32)))
    assert torch.equal(scaled, plain.float() / 255)
    # uint8 stays uint8 where colours are changed too.
    coloured, *_ = next(iter(sd.loader(beton, augment="colour:0.3")))
    assert coloured.dtype == torch.uint8
    assert not torch.equal(coloured, plain)
    train = sd.loader(beton, normalise=True, columns=["slide", "label"])
    images = torch.cat([images for images, *_ in train])
    assert images.mean((0, 2, 3)).abs().max() < 1e-3
    assert (images.std((0, 2, 3)) - 1).abs().max() < 1e-3
    val = sd.loader(beton, split="val", normalise=(train.mean, train.std))
    assert np.allclose(val.mean, train.mean)
    train.set_epoch(0)
    *_, same, columns = next(iter(train))
    assert torch.equal(same, rows)
    assert columns["slide"].tolist() == train.table(rows)["slide"].tolist()
    assert list(columns) == ["slide", "label"]
    given, *_ = next(iter(sd.loader(beton, normalise=((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))))
    assert torch.allclose(given, (plain.float() / 255 - 0.5) / 0.25, atol=1e-5)


def test_the_place_of_a_process_is_looked_up_when_an_epoch_begins(beton: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = sd.loader(beton, batch_size=16)
    assert len(loader) == 15
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert len(loader) == 8
    mine = flat(rows_of(loader))
    loader.set_epoch(0)
    monkeypatch.setenv("RANK", "0")
    assert sorted(mine + flat(rows_of(loader))) == loader.rows.tolist()
    monkeypatch.delenv("MASTER_ADDR")
    with pytest.raises(ConfigError) as error:
        len(loader)
    assert str(error.value) == (
        "RANK=0 and WORLD_SIZE=2 are set without MASTER_ADDR: no launcher started this process; unset them, or give "
        "`rank` and `world_size`"
    )
    assert len(sd.loader(beton, rank=0, world_size=1)) == 4
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(
        ConfigError, match=r"^WORLD_SIZE='two' is not a number from 1; unset it, or start with torchrun$"
    ):
        len(loader)


# -------------------------------------------------------------------------------------------- TileDataset


@pytest.fixture(scope="module")
def dataset(beton: Path) -> sd.TileDataset:
    return sd.TileDataset(beton, split=None)


@pytest.mark.parametrize("quality", [90, None])
def test_a_data_set_has_the_pixels_of_the_loader(tmp_path: Path, quality: int | None) -> None:
    path = write_beton(tmp_path / "a.beton", two_textures(16), quality=quality)
    dataset = sd.TileDataset(path, split=None)
    ((images, labels, rows),) = sd.loader(path, split=None, shuffle=False)
    assert len(dataset) == 16
    for i, row in enumerate(rows.tolist()):
        image, label, there = dataset[i]
        assert torch.equal(image, images[i])
        assert (label, there) == (int(labels[i]), row)
    assert dataset[-1][2] == 15
    with pytest.raises(IndexError):
        dataset[16]
    halved = sd.TileDataset(path, split=None, transform=lambda image: image[:, ::2, ::2])
    assert halved[0][0].shape == (3, 16, 16)
    # A tile that is changed once the data set is open.
    begin = path.read_bytes().index(two_textures(16)[3].image.tobytes()) if quality is None else 0
    if quality is None:
        set_at(path, begin + 9, b"\0\1\2")
        with pytest.raises(BetonError, match=re.escape(f"{path} was changed after its pages were compared")):
            dataset[3]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_a_data_set_forked_or_spawned(dataset: sd.TileDataset, context: str) -> None:
    # Spawned workers import torch and FFCV: some seconds.
    loader = DataLoader(dataset, 64, shuffle=True, num_workers=2, multiprocessing_context=context)
    seen = []
    for images, labels, rows in loader:
        assert images.shape == (64, 3, 32, 32)
        assert torch.equal(labels, torch.from_numpy(dataset.labels[rows]))
        assert torch.equal(images[0], dataset[int(rows[0])][0])
        seen += rows.tolist()
    assert sorted(seen) == list(range(320))


def test_folds_of_a_data_set_keep_patients_apart(dataset: sd.TileDataset) -> None:
    assert dataset.classes == ["stripes", "chequers"]
    for train, test in GroupKFold(4).split(dataset.labels, groups=dataset.groups):
        assert not set(dataset.groups[train]) & set(dataset.groups[test])
    copied = pickle.loads(pickle.dumps(dataset))
    assert repr(copied) == f"<slideduck.TileDataset {dataset.path}: 320 tiles of 2 classes>"
    assert copied.table()["tile_id"].tolist() == dataset.sidecar.tile_id.tolist()
    assert torch.equal(copied[7][0], dataset[7][0])


def test_numbers_and_values_of_slides_are_learnt_in_a_loop_too(tmp_path: Path) -> None:
    columns = {f"S{i}": {"age": 40.5 + i, "grade": "low" if i % 2 else "high"} for i in range(8)}
    path = write_beton(tmp_path / "a.beton", two_textures(32), columns_of=columns)
    ages = sd.loader(path, task="regression", target="patient:age")
    _, labels, rows = next(iter(ages))
    assert labels.dtype == torch.float32
    assert labels[:, 0].tolist() == ages.table(rows)["age"].tolist()
    grades = sd.loader(path, target="patient:grade", balance="label")
    _, labels, rows = next(iter(grades))
    assert [grades.classes[label] for label in labels] == grades.table(rows)["grade"].tolist()
    image, target, row = sd.TileDataset(path, task="regression", target="patient:age")[3]
    assert (image.shape, target.tolist(), row) == ((3, 32, 32), [40.5], 3)
