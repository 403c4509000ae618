"""Loops in plain PyTorch, Lightning and Accelerate, as the README has them, learn the demo's tissue."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import slideduck as sd
from slideduck.runner.demo.cohort import make_cohort
from slideduck.runner.tiles.epochs import EpochLoader

ROOT = Path(__file__).resolve().parents[3]

#: Painting the slides takes longest.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiles.beton: 758 tiles of 32 px, of three classes, from the demo's cohort of six small slides."""
    folder = tmp_path_factory.mktemp("loops")
    cohort = make_cohort(folder, n_slides=6, width=1600, height=1300)
    with sd.open(folder / "study.duckdb") as study:
        study.add_slides(cohort.slides[0].parent)
        study.add_rois(cohort.rois[0].parent)
        study.add_patients(cohort.patients)
        study.tile(32, tile_um=32)
        study.label()
        study.split(val_fraction=0.34)
        # Glass has too few tiles for so small a cohort.
        study.export(folder / "tiles.beton", where="label IN ('tumour', 'stroma', 'necrosis')")
    return folder


def examples() -> list[str]:
    """Return the README's loops."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"^```py\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert ["lightning" in code for code in found] == [False, True, False]
    assert ["accelerate" in code for code in found] == [False, False, True]
    return found


def small() -> nn.Module:
    """Return a network for tiles of 32 px."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.GroupNorm(4, 32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 3),
    )


def balanced_accuracy(network: nn.Module, val: EpochLoader) -> float:
    network.eval()
    with torch.no_grad():
        predicted = torch.cat([network(images).argmax(1) for images, *_ in val]).numpy()
    classes = range(len(val.classes))
    return float(np.mean([(predicted[val.labels == label] == label).mean() for label in classes]))


def test_each_loop_of_the_readme_learns_the_tissue_of_the_demo(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    reached, begun = [], []
    for code in examples():
        names["network"] = network = small()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            exec(compile(code, "README.md", "exec"), names)
        told = [str(warning.message) for warning in caught]
        # Nothing about workers, samplers, sizes of batches or lengths of epochs, which are ours.
        assert [text for text in told if re.search(r"batch|loader|sampler|workers|epoch", text)] == []
        reached.append(balanced_accuracy(network, names["val"]))
        # Each epoch had an order of its own: as many have begun as the loops have.
        begun.append(names["train"].epoch)
    assert min(reached) > 0.95, reached
    assert begun == [30, 60, 30]
    capfd.readouterr()


#: What two processes run, each with its own rank; the loader is made before they know of one another.
SCRIPT = """
import json, os, sys
import accelerate
import slideduck as sd

loader = sd.loader("tiles.beton", split=None, batch_size=64, threads=1)
accelerator = accelerate.Accelerator(cpu=True)
assert accelerator.num_processes == 2
loader = accelerator.prepare(loader)
epochs = [[rows.tolist() for _, _, rows in loader] for _ in range(2)]
print(json.dumps([accelerator.process_index, len(loader), epochs]))
"""


def test_two_processes_of_accelerate_see_each_tile_once(folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            cwd=folder,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [json.loads(process.communicate(timeout=300)[0].splitlines()[-1]) for process in running]
    assert sorted(rank for rank, _, _ in told) == [0, 1]
    alone = sd.loader(folder / "tiles.beton", split=None, batch_size=128)
    for epoch in range(2):
        shares = [epochs[epoch] for _, _, epochs in told]
        assert [len(share) for share in shares] == [length for _, length, _ in told] == [6, 6]
        rows = sorted(row for share in shares for batch in share for row in batch)
        assert rows == alone.rows.tolist()
        # Together they are the batches of one process with as many tiles.
        together = [set(one) | set(other) for one, other in zip(*shares, strict=True)]
        assert together == [set(rows.tolist()) for _, _, rows in alone]
