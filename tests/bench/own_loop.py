"""Times loops of one's own on `sd.loader` against the trainer's, in one run.

    python -m tests.bench.own_loop [--quick] [--threads 2] [--tiles 4096] [--tile-px 128] [--repeat 5]

All read the same beton of stripes and chequers at quality 90, in batches of 64, each tile once a turn, on the CPU:

- read: batches alone. "the trainer's" are `TileLoader` and `to_device` in the order of `slideduck train`; "sd.loader"
  is what a loop of one's own iterates over. Ratios of these say what the loader costs.
- train: the same small network, turned and standardised tiles, AdamW. "the trainer's" is an epoch of its `Learner`,
  the others are the loops of the README in plain PyTorch, Lightning and Accelerate, where these are installed.

Contenders take turns. The seconds of each turn and the CPU seconds of the process stand beside the trainer's of the
same turn; medians of these ratios are printed, the last line has them. On a machine with other work the ratio of CPU
seconds is the steadier one.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slideduck as sd
from slideduck.runner.settings.train_config import TrainConfig

# The runner says how threads of torch wait before torch is imported.
import torch  # isort: skip
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.functional import cross_entropy

from slideduck.runner.ranks.dist import Place
from slideduck.runner.tiles.loader import to_device
from slideduck.runner.tiles.open import open_data
from slideduck.runner.training.learner import Learner
from tests.runner.betons import TileSpec, stripes, write_beton

BATCH = 64
CPU = torch.device("cpu")


def network(num_classes: int) -> nn.Module:
    """Return a network that takes about as long as the tiles do."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)
    )


def tiles(folder: Path, n: int, tile_px: int) -> Path:
    """Write a beton of `n` tiles that train, and as many batches' worth that validate as a run needs."""
    import numpy as np

    rng = np.random.default_rng(0)
    distinct = [stripes(rng, across=bool(i % 2), tile_px=tile_px) for i in range(64)]
    specs = [TileSpec("S0", i % 2, distinct[i % 64]) for i in range(n)]
    specs += [TileSpec("S1", i % 2, distinct[i]) for i in range(BATCH)]
    return write_beton(folder / "tiles.beton", specs, split_of={"S0": "train", "S1": "val"})


def contenders(beton: Path, threads: int) -> dict[str, Callable[[], int]]:
    """Return what reads, or trains on, all tiles once and returns their number."""
    place = Place(0, 1, CPU, threads)
    config = TrainConfig(
        model="tests.bench.own_loop:network", epochs=1000, batch_size_per_rank=BATCH, balance="none", grad_clip=0
    )
    data = open_data(beton, config, place, progress=False)
    learner = Learner(data, config, place, None)
    plain = sd.loader(beton, threads=threads)
    turned = sd.loader(beton, threads=threads, augment="d4", normalise=True)
    epochs = iter(range(10**6))

    def read() -> int:
        with data.loader.epoch(data.epoch_rows(next(epochs), place), BATCH) as batches:
            return sum(len(batch.images_BCHW) for batch in to_device(batches, CPU))

    def trained() -> int:
        part = learner.new_part()
        for _done in learner.train(next(epochs), part):
            pass
        learner.look(0, part)
        return data.steps * data.batch_size

    found: dict[str, Callable[[], int]] = {
        "read: the trainer's": read,
        "read: sd.loader": lambda: sum(len(images) for images, _, _ in plain),
        "train: the trainer's": trained,
        "train: PyTorch": in_pytorch(turned),
    }
    for name, make in (("Lightning", in_lightning), ("Accelerate", in_accelerate)):
        if importlib.util.find_spec(name.lower()):
            found[f"train: {name}"] = make(turned)
    return found


def in_pytorch(loader: Any) -> Callable[[], int]:
    """Return an epoch of a plain loop."""
    model = network(2)
    optimizer = torch.optim.AdamW(model.parameters())

    def epoch() -> int:
        seen = 0
        for images, labels, _rows in loader:
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            seen += len(images)
        return seen

    return epoch


def in_accelerate(loader: Any) -> Callable[[], int]:
    """Return an epoch of a loop with Accelerate."""
    import accelerate

    accelerator = accelerate.Accelerator(cpu=True)
    model = network(2)
    model, optimizer, loader = accelerator.prepare(model, torch.optim.AdamW(model.parameters()), loader)

    def epoch() -> int:
        seen = 0
        for images, labels, _rows in loader:
            optimizer.zero_grad()
            accelerator.backward(cross_entropy(model(images), labels))
            optimizer.step()
            seen += len(images)
        return seen

    return epoch


def in_lightning(loader: Any) -> Callable[[], int]:
    """Return an epoch by Lightning's Trainer."""
    import lightning

    class Classifier(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network, self.seen = network(2), 0

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            images, labels, _rows = batch
            self.seen += len(images)
            return cross_entropy(self.network(images), labels)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters())

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")

    def epoch() -> int:
        module = Classifier()
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        lightning.Trainer(max_epochs=1, accelerator="cpu", enable_model_summary=False, **quiet).fit(module, loader)
        return module.seen

    return epoch


def timed(work: Callable[[], int]) -> tuple[int, float, float]:
    """Return tiles, seconds and CPU seconds of a turn."""
    started, cpu = time.perf_counter(), time.process_time()
    seen = work()
    return seen, time.perf_counter() - started, time.process_time() - cpu


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer tiles and turns; under 40 seconds")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--tiles", type=int, help="a multiple of 64; default 4,096, with --quick 1,024")
    parser.add_argument("--tile-px", type=int, default=128)
    parser.add_argument("--repeat", type=int, help="turns of each contender; default 5, with --quick 3")
    words = parser.parse_args()
    n = words.tiles or (1024 if words.quick else 4096)
    torch.set_num_threads(words.threads)
    with tempfile.TemporaryDirectory() as place:
        work = contenders(tiles(Path(place), n, words.tile_px), words.threads)
        for warm_up in work.values():
            warm_up()
        turns: dict[str, list[tuple[int, float, float]]] = {name: [] for name in work}
        for _ in range(words.repeat or (3 if words.quick else 5)):
            for name, do in work.items():
                turns[name].append(timed(do))
                assert turns[name][-1][0] == n, name
    show(turns, f"{n:,} tiles of {words.tile_px} px, batches of {BATCH}, {words.threads} threads")


def show(turns: dict[str, list[tuple[int, float, float]]], title: str) -> None:
    """Print a table of medians, and the ratios on the last line."""
    table = Table(title=title)
    for heading in ("", "tiles/s", "of the trainer's", "tiles/CPU s", "of the trainer's"):
        table.add_column(heading, justify="left" if heading == "" else "right")
    ratios = []
    for name, rounds in turns.items():
        peers = turns[f"{name.partition(':')[0]}: the trainer's"]
        rates = [[seen / one[at] for seen, *one in rounds] for at in (0, 1)]
        of_peer = [
            statistics.median(peer[at] / mine[at] for mine, peer in zip(rounds, peers, strict=True)) for at in (1, 2)
        ]
        medians = [statistics.median(numbers) for numbers in rates]
        table.add_row(name, f"{medians[0]:,.0f}", f"{of_peer[0]:.2f}", f"{medians[1]:,.0f}", f"{of_peer[1]:.2f}")
        if not name.endswith("the trainer's"):
            ratios.append(f"{name} {of_peer[0]:.2f} ({of_peer[1]:.2f})")
    Console(width=120).print(table)
    print("ratios (by CPU time): " + ", ".join(ratios))


if __name__ == "__main__":
    main()
