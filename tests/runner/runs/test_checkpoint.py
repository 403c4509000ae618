"""Files of a run are whole or not there, and loading one runs no code of it."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from slideduck.errors import DiskFullError, RunError
from slideduck.files.holders import process
from slideduck.runner.runs import checkpoint
from slideduck.runner.settings.train_config import TrainConfig
from tests.full_disk import full_for


class _Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def _state(epoch: int, **others: Any) -> dict[str, Any]:
    """Return all that a checkpoint needs."""
    history = [{"epoch": number, "step": number, "val/loss": 0.25, "x": None} for number in range(1, epoch + 1)]
    return {
        "epoch": epoch,
        "step": epoch,
        "config": TrainConfig().to_dict(),
        "classes": ["a", "b"],
        "beton": {
            "path": "t.beton",
            "sidecar_sha256": "0",
            "image": {"mode": "jpg", "quality": 90, "tile_px": 32},
            "grid": {"name": "g", "tile_px": 32, "tile_um": 16.0, "magnification": None},
        },
        "versions": {},
        "best": {"epoch": epoch},
        "history": history,
        "image": {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]},
        "model": {"w": torch.arange(6.0).reshape(2, 3)},
        **others,
    }


def test_state_comes_back(tmp_path: Path) -> None:
    state = _state(3)
    checkpoint.save(tmp_path / "last.pt", state)
    loaded = checkpoint.load(tmp_path / "last.pt")
    assert loaded["epoch"] == 3
    assert loaded["history"] == state["history"]
    assert torch.equal(loaded["model"]["w"], torch.arange(6.0).reshape(2, 3))
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, _state(1))
    with full_for("last.pt"), pytest.raises(DiskFullError) as error:
        checkpoint.save(path, {"epoch": 2, "model": torch.zeros(100_000)})
    assert str(error.value) == (
        f"no space left for {path} (No space left on device); free some, and the same command goes on"
    )
    assert checkpoint.load(path)["epoch"] == 1
    with full_for("metrics.jsonl"), pytest.raises(DiskFullError):
        checkpoint.append_line(tmp_path / "metrics.jsonl", "{}")


def test_an_interrupt_while_writing_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    checkpoint.write_whole(path, lambda file: file.write(b"old"))

    def interrupted(file: object) -> None:
        file.write(b"half of the n")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint.write_whole(path, interrupted)
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["curves.png"]


def test_damaged_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    with pytest.raises(RunError) as error:
        checkpoint.load(path)
    assert str(error.value) == (f"{path}: no such checkpoint; train first (slideduck train OUT.beton --run {tmp_path})")
    checkpoint.save(path, {"epoch": 1})
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(RunError, match=r"last\.pt: not a file that can be read \(.*; remove the run folder"):
        checkpoint.load(path)
    torch.save({"version": 99}, path)
    with pytest.raises(RunError) as error:
        checkpoint.load(path)
    assert str(error.value) == f"{path}: its version is 99, and this slideduck reads version 1"


def test_loading_runs_no_code_of_the_file(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    torch.save({"version": 1, "model": _Runs(trap)}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(_Runs(trap)))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(RunError):
            checkpoint.load(tmp_path / name)
    assert not trap.exists()


def test_a_folder_is_locked_for_one_training(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with checkpoint.lock_folder(folder):
        with pytest.raises(RunError) as error, checkpoint.lock_folder(folder):
            pass
        assert str(error.value) == (
            f"{folder}: {process(os.getpid())} is training in it; wait for it, or give another `run`"
        )
    with checkpoint.lock_folder(folder):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(RunError) as error, checkpoint.lock_folder(tmp_path / "file"):
        pass
    assert str(error.value) == f"{tmp_path / 'file'} cannot be written: File exists; give another place"
