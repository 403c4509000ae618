"""Two processes train from wherever one writes Python: a script without a guard, ``-c``, IPython, a notebook."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from slideduck.runner.networks.given import received, sent
from slideduck.runner.runs import checkpoint
from tests.runner.betons import two_textures, write_beton

# Each starts a Python and two ranks, which import torch: ten seconds of a core, and more where others want it.
pytestmark = pytest.mark.slow

#: A network of its own, with a helper that it needs, and the training of it.
CODE = """
import torch
from torch import nn

from slideduck.runner import TrainConfig, train

def pooled(maps):
    return maps.mean(dim=(2, 3))

class Net(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 5, stride=4), nn.Linear(8, outputs)

    def forward(self, images):
        return self.head(pooled(self.conv(images)))

config = TrainConfig(epochs=1, batch_size_per_rank=8, track="none")
print(train({beton!r}, {run!r}, config, network=Net, nproc=2)["epochs"], "epoch is done")
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A beton of 48 tiles, of which twelve validate."""
    return write_beton(tmp_path_factory.mktemp("small") / "tiles.beton", two_textures(48))


def _python(*words: str, folder: Path) -> str:
    """Run Python in a folder, and return what it prints on both."""
    command = [sys.executable, *words]
    # A kernel shows what its processes print, but not within pytest.
    env = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    env["IPYTHONDIR"] = str(folder / "ipython")  # Its history is no user's.
    nothing = subprocess.DEVNULL
    done = subprocess.run(command, cwd=folder, stdin=nothing, capture_output=True, text=True, timeout=900, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr + done.stdout


def _assert_trained(run: Path, said: str) -> None:
    """Assert that two ranks trained, told how it went, and say whose network it is."""
    config = json.loads((run / "config.json").read_text())
    assert (config["world_size"], config["settings"]["model"]) == (2, "<given>:Net")
    assert list(checkpoint.load(run / "best.pt")["model"]) == ["conv.weight", "conv.bias", "head.weight", "head.bias"]
    assert said.count("training network Net on 36 tiles, validating on 12, ") == 1
    assert said.count("epoch   1/1  loss ") == 1
    assert "1 epoch is done" in said


@pytest.mark.parametrize("way", ["script", "-c", "IPython"])
def test_two_ranks_train_a_network_of(way: str, small: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code = CODE.format(beton=str(small), run=str(run))
    (tmp_path / "script.py").write_text(code)
    words = {"script": ["script.py"], "-c": ["-c", code], "IPython": ["-m", "IPython", "--colors=nocolor", "-c", code]}
    _assert_trained(run, _python(*words[way], folder=tmp_path))


def test_two_ranks_train_a_network_of_a_notebook(small: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    cells = ["assert get_ipython() is not None", CODE.format(beton=str(small), run=str(run))]
    book = {
        "cells": [
            {"cell_type": "code", "execution_count": None, "id": f"c{i}", "metadata": {}, "outputs": [], "source": cell}
            for i, cell in enumerate(cells)
        ],
        "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (tmp_path / "book.ipynb").write_text(json.dumps(book))
    words = "-m nbconvert --to notebook --execute --output done.ipynb book.ipynb"
    _python(*words.split(), folder=tmp_path)
    outputs: list[dict[str, Any]] = json.loads((tmp_path / "done.ipynb").read_text())["cells"][1]["outputs"]
    _assert_trained(run, "".join("".join(output.get("text", "")) for output in outputs))


def test_a_module_that_other_processes_would_not_find_travels_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import ModuleType

    module = ModuleType("loaded_by_hand")
    exec("def half(n):\n    return n // 2\ndef build(n):\n    return half(n)\n", module.__dict__)
    monkeypatch.setitem(sys.modules, "loaded_by_hand", module)
    data = sent(module.build)
    monkeypatch.delitem(sys.modules, "loaded_by_hand")
    network = received(data, "<given>:build")
    assert network is not None
    assert network(6) == 3
