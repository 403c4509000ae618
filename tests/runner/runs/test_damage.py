"""What a run has written is what is read from it: a changed byte, or a wrong value, is named and never used."""

from __future__ import annotations

import copy
import json
import random
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from slideduck.errors import ConfigError, RunError
from slideduck.runner import TrainConfig, load_run, train
from slideduck.runner.networks.build import build_network
from slideduck.runner.networks.weights import read_weights
from slideduck.runner.plots.curves import plot_curves
from slideduck.runner.runs import checkpoint
from slideduck.runner.runs.contents import checkpoint_problems, config_problems, validation_problems
from slideduck.runner.runs.predictions import read_predictions
from slideduck.runner.runs.runfolder import RunFolder
from slideduck.runner.scores.assess import read_temperature, read_thresholds
from slideduck.runner.settings.jsonfile import read_object
from tests.campaign import cases

CONFIG = TrainConfig(model="networks:tiny", epochs=2, batch_size_per_rank=16, checkpoint_steps=1, ema_decay=0.5)


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be damaged."""
    return Path(shutil.copytree(small_run, tmp_path / "run"))


def _same(a: Any, b: Any) -> bool:
    """Return True for states that are equal to the bit."""
    if isinstance(a, torch.Tensor):
        is_alike = isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape
        return is_alike and a.contiguous().view(-1).numpy().tobytes() == b.contiguous().view(-1).numpy().tobytes()
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and bool(a == b)


def _told(read: Callable[[], Any], path: Path) -> tuple[Any, bool]:
    """Return what was read; or None and True where it was refused by the name of the file."""
    try:
        return read(), False
    except RunError as error:
        return None, str(error).encode().startswith(f"{path}: ".encode())


def _damaged(raw: bytes, rng: random.Random) -> bytes:
    """Return bytes with one kind of damage."""
    data = bytearray(raw)
    at, size = rng.randrange(len(data)), rng.choice([1, 4, 64, 512, 4096])
    kind = rng.choice(["bit", "byte", "zero", "cut", "noise", "swap", "twice", "directory"])
    if kind == "bit":
        data[at] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        data[at] = rng.randrange(256)
    elif kind == "zero":
        data[at : at + size] = bytes(len(data[at : at + size]))
    elif kind == "cut":
        del data[at:]
    elif kind == "noise":
        data[at : at + size] = rng.randbytes(len(data[at : at + size]))
    elif kind == "swap":
        other = rng.randrange(len(data))
        size = min(size, len(data) - max(at, other))
        data[at : at + size], data[other : other + size] = data[other : other + size], data[at : at + size]
    elif kind == "twice":
        data[at:at] = data[at : at + size]
    else:
        # The directory of the zip is at its end, and small.
        data[rng.randrange(len(data) * 9 // 10, len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


@pytest.mark.attack("bytes", "changed, cut, swapped and repeated bytes of a checkpoint")
@pytest.mark.parametrize("name", ["best.pt", "last.pt"])
def test_a_damaged_checkpoint_is_refused_or_the_same(run: Path, name: str) -> None:
    path = run / name
    raw, state, rng = path.read_bytes(), checkpoint.load(path), random.Random(name)
    refused = 0
    for number in range(cases(test=60, campaign=2000)):
        path.write_bytes(_damaged(raw, rng))
        found, is_told = _told(lambda: checkpoint.load(path), path)
        assert is_told or _same(found, state), number
        refused += is_told
    assert refused > cases(test=30, campaign=1000)


@pytest.mark.attack("bytes", "one changed number in the weights of a checkpoint")
def test_a_changed_number_is_named_and_the_checkpoint_before_it_used(
    run: Path, small_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "last.pt"
    whole, data = checkpoint.load(path), bytearray(path.read_bytes())
    weights = whole["trained"]["6.weight"].numpy().tobytes()
    at = data.index(weights)
    with zipfile.ZipFile(path) as archive:
        record = next(one for one in archive.infolist() if archive.read(one) == weights)
    data[at + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunError) as error:
        load_run(run, "last")
    said = (
        f"{path}: damaged: its record {record.filename}, bytes {at:,} to {at + len(weights) - 1:,}, has changed "
        f"since it was written (CRC-32 {zlib.crc32(data[at : at + len(weights)]):08x}, not {record.CRC:08x})"
    )
    assert str(error.value) == f"{said}; remove the run folder and train again, or get the file again"
    # Training goes on from the checkpoint before it, and comes to the same network.
    train(small_run.parent / "tiles.beton", run, CONFIG, nproc=1, progress=False)
    assert f"warning: {said}; the checkpoint before it is used\n" in capsys.readouterr().err
    assert _same(checkpoint.load(path)["model"], whole["model"])


@pytest.mark.attack("bytes", "changed bytes of predictions")
def test_changed_predictions_are_refused_or_the_same(run: Path) -> None:
    path = run / "predictions.parquet"
    raw, table, rng = path.read_bytes(), read_predictions(path), random.Random(1)
    refused = 0
    for number in range(cases(test=60, campaign=2000)):
        data = bytearray(raw)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        found, is_told = _told(lambda: read_predictions(path), path)
        assert is_told or found.equals(table), number
        refused += is_told
    assert refused > cases(test=30, campaign=1000)


@pytest.mark.parametrize("name", ["config.json", "validation.json"])
def test_changed_json_is_refused_or_the_same(run: Path, name: str) -> None:
    path = run / name
    raw, values, rng = path.read_bytes(), read_object(path), random.Random(2)
    for number in range(cases(test=60, campaign=2000)):
        data = bytearray(raw)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        found, is_told = _told(lambda: read_object(path), path)
        # The name of the checksum itself is the one thing that it does not tell of.
        assert is_told or {key: value for key, value in found.items() if key in values} == values, number


def test_a_threshold_that_was_changed_is_refused_and_the_remedy_gets_on(run: Path) -> None:
    path = run / "validation.json"
    text = path.read_text()
    values = json.loads(text)
    fitted = values["temperature"]["fitted"]
    path.write_text(text.replace(f'"fitted": {fitted}', '"fitted": 2.5'))
    with pytest.raises(RunError) as error:
        read_temperature(path)
    found = re.search(r"CRC-32 ([0-9a-f]{8}), not", str(error.value))
    assert found is not None
    assert str(error.value) == (
        f"{path}: it has changed since it was written (CRC-32 {found[1]}, not '{values['crc32']}'); get the file "
        "again, or take its line 'crc32' out if the change is meant"
    )
    changed = json.loads(path.read_text())
    del changed["crc32"]
    path.write_text(json.dumps(changed))
    assert read_temperature(path) == 2.5


#: What stands in place of a value of JSON.
_VALUES: list[Any] = [
    None, True, 0, -1, 2**70, 10**400, 1e300, float("inf"), float("nan"), "", "x", "\ud800", "\x1b[31m", [], [[]], {},
    {"a": None}, [1, "b"], "../..", {"__reduce__": ["os.system"]},
]  # fmt: skip


def _mutated(value: Any, rng: random.Random) -> Any:
    """Return a value of JSON with something else somewhere in it."""
    value = copy.deepcopy(value)
    places: list[tuple[Any, Any]] = []

    def walk(item: Any) -> None:
        for key in list(item) if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ():
            places.append((item, key))
            walk(item[key])

    walk(value)
    for _ in range(rng.choice([1, 1, 2, 5])):
        holder, key = rng.choice(places)
        kind = rng.choice(["replace", "replace", "remove", "rename", "add"])
        try:
            if kind == "replace":
                holder[key] = rng.choice(_VALUES)
            elif isinstance(holder, list):
                holder.append(rng.choice(_VALUES)) if kind == "add" else holder.pop(key)
            elif kind == "add":
                holder["unknown"] = rng.choice(_VALUES)
            else:
                taken = holder.pop(key)
                if kind == "rename":
                    holder[f"{key}x"] = taken
        except (KeyError, IndexError):
            continue
    return value


@pytest.mark.attack("XML and JSON", "wrong types, missing and unknown names in a run's config.json")
def test_a_wrong_config_is_told_and_never_a_traceback(run: Path) -> None:
    path, rng = run / "config.json", random.Random(3)
    whole = read_object(path)
    identity = copy.deepcopy(whole)
    refused = 0
    for number in range(cases(test=60, campaign=2000)):
        try:
            path.write_text(json.dumps(_mutated(whole, rng)))
        except ValueError:  # a number of thousands of digits is none that JSON is written with
            path.write_text(json.dumps(whole).replace('"version": 1', f'"version": {"9" * 5000}'))
        try:
            RunFolder(run).open(identity)
        except RunError as error:
            refused += str(error).encode().startswith(str(run).encode())
        else:
            # One that is missing is of before there was that setting.
            assert read_object(path)["settings"].items() <= identity["settings"].items(), number
    assert refused > cases(test=30, campaign=1000)


def test_all_that_is_wrong_with_a_config_is_named_at_once(run: Path) -> None:
    path = run / "config.json"
    values = read_object(path)
    identity = copy.deepcopy(values)
    values["settings"] |= {"lr": "fast", "optimiser": "adam", "task": "guess", "epochs": 2**64}
    values["classes"] = ["a", 3]
    values["beton"]["grid"]["tile_px"] = 0
    del values["beton"]["path"], values["versions"]
    values["extra"] = {}
    path.write_text(json.dumps(values))
    with pytest.raises(RunError) as error:
        RunFolder(run).open(identity)
    assert str(error.value).splitlines() == [
        f"{path}: not the config of a run; give another `run`:",
        "  versions is missing",
        "  settings: no such setting: 'optimiser'",
        "  settings: task is 'guess'; it must be one of classification, multi-label, regression",
        "  settings: epochs is 18446744073709551616; it must be below 2^63",
        "  settings: lr is 'fast', a str; it must be float",
        "  classes[1] is 3; it must be a text that is not empty",
        "  beton.path is missing",
        "  beton.grid.tile_px is 0; it must be a whole number, 1 or more",
        "  extra is not known",
    ]


@pytest.mark.parametrize(
    "text", ["", "[]", "[" * 100_000, "{", '{"a": 1, "a": 2}', '{"a": NaN}', "\ufeff{}", "9" * 5000]
)
def test_what_is_no_config_is_told(run: Path, text: str) -> None:
    (run / "config.json").write_text(text)
    with pytest.raises(RunError, match=r"config\.json: not "):
        RunFolder(run).open({})


@pytest.mark.attack("pickles", "a checkpoint whose values are of other types, or of another network")
def test_a_checkpoint_of_wrong_values_is_told_and_never_a_traceback(run: Path, tmp_path: Path) -> None:
    path, rng = run / "best.pt", random.Random(4)
    state = checkpoint.load(path)
    plain = {name: value for name, value in state.items() if name != "model"}
    refused = 0
    for _ in range(cases(test=60, campaign=2000)):
        torch.save({"model": state["model"], **_mutated(plain, rng)}, path)
        try:
            load_run(run)
        except RunError as error:
            refused += str(error).encode().startswith(str(path).encode())
    assert refused > cases(test=30, campaign=1000)


def _own_list() -> list[Any]:
    """Return a list that holds itself."""
    values: list[Any] = []
    values.append(values)
    return values


def _doubling() -> list[Any]:
    """Return a list of two lists that are one, sixty deep."""
    values: list[Any] = [0]
    for _ in range(60):
        values = [values, values]
    return values


@pytest.mark.attack("bombs", "a pickle of lists that hold themselves, or double at every level")
@pytest.mark.parametrize("made", [_own_list, _doubling])
def test_values_that_never_end_are_refused_at_once(run: Path, made: Callable[[], Any]) -> None:
    state = torch.load(run / "best.pt", weights_only=True)
    for name in ("history", "best", "schedule", "image", "classes"):
        changed = {
            **state,
            name: {"mean": made()} if name == "image" else {"x": made()} if name != "classes" else made(),
        }
        torch.save(changed, run / "best.pt")
        with pytest.raises(RunError):
            load_run(run)


def _claims_much(path: Path) -> None:
    torch.save({"w": torch.zeros(1).expand(2**20, 2**20)}, path)


def _packed(path: Path) -> None:
    torch.save({"w": torch.zeros(2**20)}, path)
    with zipfile.ZipFile(path) as archive:
        records = {one.filename: archive.read(one) for one in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in records.items():
            archive.writestr(name, content)


def _storage_of_terabytes(path: Path) -> None:
    torch.save({"w": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as archive:
        records = {one.filename: archive.read(one) for one in archive.infolist()}
    pickled = next(name for name in records if name.endswith("data.pkl"))
    # The number of values of the storage, and the shape: 2^40.
    large = b"\x8a\x06" + (2**40).to_bytes(6, "little")
    changed = records[pickled].replace(b"K\x04tq", large + b"tq").replace(b"K\x04\x85", large + b"\x85")
    assert changed != records[pickled]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, changed if name == pickled else content)


def _old_storage_of_terabytes(path: Path) -> None:
    torch.save({"w": torch.zeros(4)}, path, _use_new_zipfile_serialization=False)
    large = b"\x8a\x06" + (2**40).to_bytes(6, "little")
    path.write_bytes(path.read_bytes().replace(b"K\x04N", large + b"N").replace(b"K\x04\x85", large + b"\x85"))


def _no_number(path: Path) -> None:
    torch.save({"a.w": torch.tensor([1.0, float("nan"), float("inf")])}, path)


def _no_dict(path: Path) -> None:
    torch.save([torch.zeros(2)], path)


def _two_alike(path: Path) -> None:
    torch.save({"w": torch.zeros(2)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(archive.namelist()[0], b"")


def _long_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 100 * 2**30) + b"{}")


def _overlapping(path: Path) -> None:
    one = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({"a": one, "b": one}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("write", "name", "said"),
    [
        pytest.param(
            _claims_much, "w.pt", "w claims 1,099,511,627,776 numbers and the file holds 4 bytes of them",
            marks=pytest.mark.attack("bombs", "weights of one number that claim a million million"),
        ),
        pytest.param(
            _packed, "w.pt", "packed: its record w/",
            marks=pytest.mark.attack("bombs", "weights in a packed archive"),
        ),
        pytest.param(
            _storage_of_terabytes, "w.pt", "not a file that can be read (",
            marks=pytest.mark.attack("bombs", "a pickle that claims terabytes which its file does not hold"),
        ),
        (_old_storage_of_terabytes, "w.pt", "not a file that can be read ("),
        (_no_number, "w.pt", "a.w has 2 numbers that are not finite"),
        (_no_dict, "w.pt", "holds no tensors by name"),
        (_two_alike, "w.pt", "damaged: two of its records have one name"),
        pytest.param(
            _long_header, "w.safetensors", "header too large",
            marks=pytest.mark.attack("bombs", "safetensors whose header claims 100 GB"),
        ),
        pytest.param(
            _overlapping, "w.safetensors", "invalid offset",
            marks=pytest.mark.attack("bytes", "safetensors whose tensors share their bytes"),
        ),
    ],
)  # fmt: skip
def test_weights_that_are_not_what_they_claim_are_refused(
    tmp_path: Path, write: Callable[[Path], None], name: str, said: str
) -> None:
    path = tmp_path / name
    write(path)
    with pytest.raises(ConfigError) as error:
        read_weights(path)
    assert str(error.value).startswith(f"weights: {path}")
    assert said in str(error.value)


@pytest.mark.attack("paths", "an index of weights that names a file outside of its folder")
def test_an_index_of_weights_leads_to_files_of_its_folder_alone(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "../other.safetensors"}}))
    with pytest.raises(ConfigError) as error:
        read_weights(tmp_path)
    assert str(error.value) == (
        f"weights: {index} names '../other.safetensors', which is no file of its folder; get it again"
    )


def test_weights_of_other_numbers_are_refused(tmp_path: Path) -> None:
    weights = build_network(CONFIG, 2).network.state_dict()
    torch.save({**weights, "0.weight": weights["0.weight"].to(torch.int64)}, tmp_path / "w.pt")
    with pytest.raises(ConfigError) as error:
        build_network(TrainConfig(model="networks:tiny", weights=str(tmp_path / "w.pt")), 2)
    assert str(error.value) == (
        f"weights {tmp_path / 'w.pt'} do not fit model 'networks:tiny': 0.weight of whole numbers there, "
        "of numbers here"
    )


def test_thresholds_of_wrong_types_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    wrong: list[Any] = [
        [],
        {"tiles": 3},
        {"tiles": {"a": 3}},
        {"tiles": {"a": {"f1": 3}}},
        {"tiles": {"a": {"f1": {}}}},
    ]
    for thresholds in wrong:
        path.write_text(json.dumps({"thresholds": thresholds}))
        with pytest.raises(RunError) as error:
            read_thresholds(path, ["a"])
        assert str(error.value) == (
            f"{path}: it has no thresholds; give the JSON of an evaluation, or a run's validation.json"
        )


def test_files_that_were_written_before_there_were_checksums_are_read(run: Path) -> None:
    for name in ("config.json", "validation.json"):
        values = read_object(run / name)
        (run / name).write_text(json.dumps(values))
        assert read_object(run / name) == values
    assert not config_problems(read_object(run / "config.json"))
    assert not validation_problems(read_object(run / "validation.json"))
    state = torch.load(run / "best.pt", weights_only=True)
    for name in ("architecture", "objective", "world_size"):
        del state[name]
    assert not checkpoint_problems(state)
    torch.save(state, run / "best.pt")
    assert load_run(run).epoch == state["epoch"]


def test_a_checkpoint_of_another_network_does_not_resume(run: Path, small_run: Path) -> None:
    state = torch.load(run / "best.pt", weights_only=True)
    for name in ("last.pt", *(f"checkpoints/{path.name}" for path in (run / "checkpoints").iterdir())):
        (run / name).unlink()
    # It lacks what goes on: the optimizer, and weights that are not averaged.
    torch.save({**state, "epoch": 1, "step": 3, "history": state["history"][:1], "best": {"epoch": 1}}, run / "last.pt")
    with pytest.raises(RunError) as error:
        train(small_run.parent / "tiles.beton", run, CONFIG, nproc=1, progress=False)
    assert str(error.value) == (
        "the checkpoint of the run does not fit its network (KeyError: 'trained'); has its function changed? Train "
        "again with another `run`"
    )


def test_damaged_files_of_the_best_epoch_are_made_again(
    run: Path, small_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = checkpoint.load(run / "last.pt")
    assert whole["best"]["epoch"] == whole["epoch"]
    table = read_predictions(run / "predictions.parquet")
    for name in ("best.pt", "predictions.parquet"):
        data = bytearray((run / name).read_bytes())
        at = data.index(whole["model"]["6.weight"].numpy().tobytes()) if name == "best.pt" else 100
        data[at] ^= 1
        (run / name).write_bytes(data)
        train(small_run.parent / "tiles.beton", run, CONFIG, nproc=1, progress=False)
        assert f"warning: {run / name}: " in capsys.readouterr().err
        assert _same(checkpoint.load(run / "best.pt")["model"], whole["model"])
        assert read_predictions(run / "predictions.parquet").equals(table)


@pytest.mark.attack("XML and JSON", "wrong types and names in a run's metrics.jsonl")
def test_wrong_metrics_are_told_and_never_a_traceback(run: Path, tmp_path: Path) -> None:
    path, rng = run / "metrics.jsonl", random.Random(6)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text('{"epoch": 1, "step": 3, "lr": "fast", "val/loss": "low"}\n[]\n')
    with pytest.raises(RunError) as error:
        plot_curves(run, tmp_path / "c.png", dpi=20)
    assert str(error.value) == (
        f"{path}: not the metrics of a run; training again writes it anew:\n"
        "  line 1.lr is 'fast'; it must be a finite number\n"
        "  line 2 is []; it must be an object"
    )
    for _ in range(cases(test=15, campaign=100)):
        changed = _mutated(lines, rng)
        with suppress(ValueError):  # A number of thousands of digits cannot be written.
            path.write_text("".join(json.dumps(line) + "\n" for line in changed))
        with suppress(RunError):
            plot_curves(run, tmp_path / "c.png", dpi=20)
