"""A picture of augmented tiles, to look at before a long run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from slideduck.draw.figure import keep_texts, own_style
from slideduck.runner.runs.checkpoint import write_whole
from slideduck.runner.settings.recipe import parse_recipe
from slideduck.runner.tasks.kinds import task_class
from slideduck.runner.tiles.augment import Augmenter
from slideduck.runner.tiles.loader import to_device
from slideduck.runner.tiles.open import TrainingData

__all__ = ["draw_examples"]

_TILES = 16
_COLUMNS = 8
_GREY = 160
_INCHES_A_PAIR, _INCHES_OF_TITLE = 1.35, 8


def draw_examples(data: TrainingData, augment: str, seed: int, out: Path) -> None:
    """Draw tiles as the beton has them, and below each one as training may see it.

    Parameters
    ----------
    data : TrainingData
        Up to 16 of its training tiles are drawn, evenly apart.
    augment : str
        As in `slideduck.runner.settings.recipe.parse_recipe`.
    seed : int
        Seed of the draws.
    out : Path
        The PNG to write.
    """
    count = min(_TILES, len(data.rows.train))
    rows = data.rows.train[np.linspace(0, len(data.rows.train) - 1, count).round().astype(np.int64)]
    device = torch.device("cpu")
    augmenter = Augmenter(parse_recipe(augment), seed, device)
    augmenter.epoch(0, count, 1, 0, 1)
    with data.loader.epoch(rows, count) as batches:
        (batch,) = to_device(batches, device)
    kind = task_class(data.task)
    names = [kind.describe(data.classes, data.targets[row]) for row in rows.tolist()]
    augmented = augmenter.apply(batch.images_BCHW, 0)
    title = f"augment {augment}: tiles as they are, and below as training may see them"
    with own_style("".join(names), once=True):
        _draw(_pixels(batch.images_BCHW), _pixels(augmented), names, out, title)


def _pixels(images_BCHW: torch.Tensor) -> NDArray[np.uint8]:
    """Return tiles as uint8 arrays for a picture."""
    rounded = images_BCHW if images_BCHW.dtype == torch.uint8 else images_BCHW.round().to(torch.uint8)
    array: NDArray[np.uint8] = rounded.permute(0, 2, 3, 1).numpy()
    return array


def _draw(before: NDArray[np.uint8], after: NDArray[np.uint8], names: list[str], out: Path, title: str) -> None:
    """Draw pairs of tiles in rows: in one image, since an axis for each takes seconds."""
    from matplotlib.figure import Figure

    columns, rows = min(_COLUMNS, len(before)), -(-len(before) // _COLUMNS)
    pairs = [_pair(*pair) for pair in zip(before, after, strict=True)]
    height, width = pairs[0].shape[:2]
    # Beside each pair a margin, and above it room for a name.
    margin, room = max(2, width // 12), max(2, width // 5)
    sheet = np.full((rows * (height + room + margin), columns * (width + margin) + margin, 3), 255, np.uint8)
    across = _INCHES_A_PAIR * columns
    down = across * sheet.shape[0] / sheet.shape[1]
    figure = Figure(figsize=(max(across, _INCHES_OF_TITLE), down + 0.5), dpi=120)
    figure.text(0.01, 1 - 0.14 / (down + 0.5), title, fontsize=11, va="top")
    panel = figure.add_axes((0, 0, across / figure.get_figwidth(), down / (down + 0.5)))
    panel.set_axis_off()
    for number, (pair, name) in enumerate(zip(pairs, names, strict=True)):
        top = number // _COLUMNS * (height + room + margin) + room
        left = number % _COLUMNS * (width + margin) + margin
        sheet[top : top + height, left : left + width] = pair
        shown = name if len(name) <= 16 else f"{name[:15]}…"
        panel.text(left + width / 2, top - room / 6, shown, fontsize=8, ha="center", va="bottom")
    panel.imshow(sheet, interpolation="nearest")
    keep_texts(figure)
    write_whole(out, lambda file: figure.savefig(file, format="png"))


def _pair(upper: NDArray[np.uint8], lower: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return two tiles, one above the other."""
    gap = np.full((max(1, len(upper) // 32), upper.shape[1] + 2, 3), 255, np.uint8)
    return np.concatenate([_framed(upper), gap, _framed(lower)])


def _framed(tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a tile with a grey frame, without which glass cannot be seen on white paper."""
    return np.pad(tile, ((1, 1), (1, 1), (0, 0)), constant_values=_GREY)
