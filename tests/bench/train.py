"""Times training on one GPU or several: tiles a second, waiting for tiles, and the share of the card's matrix rate.

    python tests/bench/train.py [--models resnet50,vit_b16] [--tile-px 224,256] [--batch-size 256] [--nproc 1,2,4,8]
                                [--epochs 6] [--set name=value] [--quick]

Each row is a run of `slideduck.runner.training.train.train` as users start it, on real tiles: the two slides that the
project is tested with, in a grid that overlaps so much that there are enough. Figures are medians over its epochs but
the first, which compiles, and are the run's own: what stands in its metrics.jsonl.

- tiles/s: of all processes together, in training.
- waiting: the share of that time in which a step waited for tiles; the aim is under 3 %.
- matrix rate: floating-point operations of a forward and a backward pass, counted by torch.utils.flop_counter, times
  tiles/s, as a share of what one large matrix product reaches here in the same precision. No table of cards is used.
- scaling: tiles/s against those of one process times the number of processes.

Without a GPU it runs on the CPU, in fp32, on far fewer tiles; those figures say nothing but that it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import slideduck as sd
from slideduck.runner.networks.build import build_model
from slideduck.runner.networks.forward import logits_of
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.training.train import train

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SLIDES = {"CMU-1-Small-Region": 0.499, "TCGA-CR-7395-01A-01-TS1": 0.5}
GPU = torch.cuda.is_available()
#: A ViT is built for one size of tiles, and a model is called with the number of classes alone.
_TILE_PX = "SLIDEDUCK_BENCH_TILE_PX"


def vit_b16(num_classes: int) -> nn.Module:
    """Return a ViT-B/16 for the tiles of this bench; spawned processes import it from here."""
    from transformers import ViTConfig, ViTForImageClassification

    network: nn.Module = ViTForImageClassification(
        ViTConfig(image_size=int(os.environ[_TILE_PX]), patch_size=16, num_labels=num_classes)
    )
    return network


@dataclass(frozen=True)
class Row:
    """What was measured of one run."""

    model: str
    tile_px: int
    nproc: int
    batch_size: int
    tiles_per_s: float
    waiting: float
    matrix_share: float
    memory_GiB: float | None
    gflop: float


def write_beton(folder: Path, data: Path, tile_px: int, stride_div: int) -> Path:
    """Write real tiles of one size, with two made-up labels: the left and the right half of each slide."""
    beton = folder / f"tiles-{tile_px}.beton"
    with sd.open(folder / f"study-{tile_px}.duckdb") as study:
        study.add_slides([data / f"{name}.svs" for name in SLIDES], mpp=SLIDES)
        for name, width, height in study.sql("SELECT slide, width, height FROM slides ORDER BY slide").fetchall():
            lines = ["roi_name,label,x_base,y_base"]
            for label, left, right in (("left", 0, width // 2), ("right", width // 2, width)):
                corners = ((left, 0), (right, 0), (right, height), (left, height))
                lines += [f"{label},{label},{x},{y}" for x, y in corners]
            (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
            study.add_rois(folder / f"{name}.csv")
        study.tile(tile_px, tile_um=tile_px / 2, stride_div=stride_div)
        study.label()
        study.split(val_fraction=0.5, seed=0)
        study.export(beton)
    return beton


def gflop_per_tile(model: str, tile_px: int) -> float:
    """Return the 10^9 floating-point operations of a forward and a backward pass of one tile."""
    network = build_model(model, 2, 0)
    if hasattr(network, "set_attn_implementation"):
        network.set_attn_implementation("eager")  # type: ignore[operator]  # its products are counted on every device
    images = torch.zeros(2, 3, tile_px, tile_px)
    with FlopCounterMode(display=False) as counter:
        logits_of(network(images)).sum().backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops()) / len(images) / 1e9


def matrix_rate() -> float:
    """Return the 10^9 operations a second of a large matrix product in the precision that training computes in."""
    side, rounds = (8192, 50) if GPU else (1024, 5)
    kind = torch.bfloat16 if GPU else torch.float32
    device = "cuda" if GPU else "cpu"
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    best = float("inf")
    for _ in range(4):
        _wait()
        started = time.perf_counter()
        for _ in range(rounds):
            a @ b
        _wait()
        best = min(best, (time.perf_counter() - started) / rounds)
    return 2 * side**3 / best / 1e9


def _wait() -> None:
    """Wait for the device."""
    if GPU:
        torch.cuda.synchronize()


def measure(beton: Path, run: Path, tile_px: int, nproc: int, config: TrainConfig, rate: float) -> Row:
    """Train and return what the run says of itself."""
    train(beton, run, config, nproc=nproc, progress=False)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][1:]
    tiles_per_s, waiting = (
        statistics.median(line[name] for line in lines) for name in ("throughput/tiles_per_s", "time/load_share")
    )
    gflop = gflop_per_tile(config.model, tile_px)
    return Row(
        model=config.model.rpartition(":")[2],
        tile_px=tile_px,
        nproc=nproc,
        batch_size=config.batch_size_per_rank,
        tiles_per_s=tiles_per_s,
        waiting=waiting,
        matrix_share=tiles_per_s / nproc * gflop / rate,
        memory_GiB=max((line["memory/GiB"] for line in lines if "memory/GiB" in line), default=None),
        gflop=gflop,
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one size, fewer tiles and epochs")
    parser.add_argument("--models", help="default resnet50,vit_b16; module:function too")
    parser.add_argument("--tile-px", help="default 224,256, with --quick 256; without a GPU 64")
    parser.add_argument("--batch-size", type=int, default=256 if GPU else 16, help="of a process")
    parser.add_argument("--nproc", help="default 1 and all GPUs; without a GPU 1")
    parser.add_argument("--epochs", type=int, help="default 6, with --quick or without a GPU 2")
    parser.add_argument("--stride-div", type=int, help="how much tiles overlap; default 10, without a GPU 1")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of training, as JSON"
    )
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real slides")
    words = parser.parse_args()
    gpus = torch.cuda.device_count()
    models = (words.models or "resnet50,vit_b16").split(",")
    sizes = [
        int(size) for size in (words.tile_px or ("64" if not GPU else "256" if words.quick else "224,256")).split(",")
    ]
    counts = [int(n) for n in (words.nproc or ",".join(str(n) for n in sorted({1, max(1, gpus)}))).split(",")]
    settings: dict[str, Any] = dict(item.split("=", 1) for item in words.set)
    for name, value in settings.items():
        with contextlib.suppress(ValueError):  # a word, if it is no JSON
            settings[name] = json.loads(value)
    rate = matrix_rate()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for tile_px in sizes:
            os.environ[_TILE_PX] = str(tile_px)
            beton = write_beton(folder, words.data, tile_px, words.stride_div or (10 if GPU else 1))
            for model in models:
                config = TrainConfig.from_dict(
                    {
                        "model": "train:vit_b16" if model == "vit_b16" else model,
                        "epochs": words.epochs or (2 if words.quick or not GPU else 6),
                        "batch_size_per_rank": words.batch_size,
                        **settings,
                    }
                )
                for nproc in counts:
                    run = folder / f"{tile_px}-{model.replace(':', '-')}-{nproc}"
                    rows.append(measure(beton, run, tile_px, nproc, config, rate))
    show(rows, rate)


def show(rows: list[Row], rate: float) -> None:
    """Print the table of the README, and the ratios on the last line."""
    device = torch.cuda.get_device_name() if GPU else "CPU (these figures say nothing but that it runs)"
    title = f"{device}: one {'bf16' if GPU else 'fp32'} matrix product reaches {rate / 1000:,.2f} TFLOP/s"
    table = Table(title=title, title_justify="left")
    heads = ("model", "tile px", "processes", "batch", "tiles/s", "waiting", "matrix rate", "peak GiB", "scaling")
    for heading in heads:
        table.add_column(heading, justify="left" if heading == "model" else "right")
    alone = {(row.model, row.tile_px): row.tiles_per_s for row in rows if row.nproc == 1}
    ratios = []
    for row in rows:
        base = alone.get((row.model, row.tile_px))
        scaling = row.tiles_per_s / (row.nproc * base) if base else None
        table.add_row(
            row.model,
            str(row.tile_px),
            str(row.nproc),
            str(row.batch_size),
            f"{row.tiles_per_s:,.0f}",
            f"{100 * row.waiting:.1f} %",
            f"{100 * row.matrix_share:.1f} %",
            "–" if row.memory_GiB is None else f"{row.memory_GiB:.1f}",
            "–" if scaling is None else f"{scaling:.2f}",
        )
        name = f"{row.model} {row.tile_px} px x{row.nproc}"
        ratios.append(f"{name} waiting {row.waiting:.3f}, matrix rate {row.matrix_share:.3f}")
    Console(width=120).print(table)
    counted = {f"{row.model} at {row.tile_px} px": row.gflop for row in rows}
    print("forward and backward: " + ", ".join(f"{name} {gflop:,.3f} GFLOP a tile" for name, gflop in counted.items()))
    print("ratios: " + "; ".join(ratios))


if __name__ == "__main__":
    main()
