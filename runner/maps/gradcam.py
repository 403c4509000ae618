"""Grad-CAM: which part of a tile speaks for a class or a label, or raises a number.

Selvaraju et al., Grad-CAM: Visual explanations from deep networks via gradient-based localization, 2017. With y the
logit of a class and A the K maps of the last layer that still has a place in the tile, a_k is the mean of dy/dA_k over
all places, and the map of the class is max(0, sum_k a_k A_k). Evidence against it is left out. The outputs for labels
and numbers take the place of logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import slideduck
from slideduck.draw.figure import own_style, save_figure
from slideduck.errors import ConfigError, RunError, StudyError
from slideduck.runner.maps.heatmap import chosen_outputs
from slideduck.runner.networks.forward import logits_of
from slideduck.runner.networks.given import Network
from slideduck.runner.prediction.tile_source import TileSource, is_beton, open_tiles
from slideduck.runner.runs.trained import TrainedModel, load_run
from slideduck.runner.scores.predictions import THRESHOLD
from slideduck.study import Study

__all__ = ["class_maps", "gradcam"]

#: Tiles in one picture.
_MOST_TILES = 24
#: Tokens that may come before those of patches: of the class, and registers.
_MOST_PREFIX = 16
_PANEL_INCHES = 1.6
_OPACITY = 0.55


def gradcam(
    run: Path | str,
    source: Study | Path | str,
    tile_ids: Sequence[str],
    out: Path | str,
    *,
    only: Sequence[str] = (),
    grid: str | None = None,
    checkpoint: str = "best",
    trust: str | Sequence[str] = (),
    network: Network | None = None,
) -> Path:
    """Draw tiles, and over each the Grad-CAM of every class, label or number.

    Parameters
    ----------
    run : path
        The run's folder.
    source : Study or path
        A study, or a beton, whose name ends in ``.beton``.
    tile_ids : sequence of str
        Names of tiles, in the order of the rows of the picture; at most 24.
    out : path
        Picture to write, ``.png``, ``.pdf`` or ``.svg``.
    only : sequence of str
        Names of classes, labels or numbers to draw, in that order; default all.
    grid : str, optional
        Name of a grid of the study; default the one that the network was trained on.
    checkpoint : str
        ``"best"`` or ``"last"``.
    trust : str or sequence of str
        The run's model, where that is code, ``module:function``; see `slideduck.runner.runs.trained.load_run`.
    network : callable or nn.Module, optional
        The run's network, where it was given as an object; see `slideduck.runner.runs.trained.load_run`.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    ConfigError
        If no tile is named, or too many are; or the network has no such output.
    StudyError
        If a tile is not there.
    RunError
        If the network has no layer that Grad-CAM can use.
    """
    out = Path(out)
    names = list(dict.fromkeys(tile_ids))
    if not 1 <= len(names) <= _MOST_TILES:
        raise ConfigError(f"{len(names)} tiles are named; name from 1 to {_MOST_TILES}")
    with ExitStack() as stack:
        if not isinstance(source, Study) and not is_beton(source):
            source = stack.enter_context(slideduck.open(source, sealed=True))
        trained = load_run(run, checkpoint, trust=trust, network=network)
        shown = chosen_outputs(trained, only)
        where = str(source.path if isinstance(source, Study) else source)
        tiles = _read(stack.enter_context(open_tiles(trained, source, grid=grid)), names, where)
    maps, given = class_maps(trained, tiles)
    with own_style("".join([*names, *trained.classes])):
        save_figure(_draw(tiles, maps, given, names, trained, [trained.classes.index(name) for name in shown]), out)
    return out


def class_maps(trained: TrainedModel, tiles: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the Grad-CAM of each class, label or number, and what the network gives: probabilities or numbers.

    Parameters
    ----------
    trained : TrainedModel
        The network.
    tiles : ndarray of uint8, (n, tile_px, tile_px, 3)
        RGB.

    Returns
    -------
    maps : ndarray of float32, (n, outputs, tile_px, tile_px)
        Not less than 0, of any scale, brought to the tile's size bilinearly; comparable between the outputs of a tile.
    given : ndarray of float32, (n, outputs)

    Raises
    ------
    RunError
        If the network has no layer that has a place in the tile and bears on the logits.
    """
    made: list[torch.Tensor] = []

    def keep(layer: nn.Module, _given: tuple[Any, ...], output: object) -> None:
        """Keep layers with places in the tile: maps, and the tokens that enter or leave a block."""
        if not isinstance(output, torch.Tensor) or not output.requires_grad:
            return
        is_map = output.ndim == 4 and output.shape[2] * output.shape[3] > 1
        if is_map or (output.ndim == 3 and isinstance(layer, nn.LayerNorm) and _prefix(output.shape[1]) is not None):
            made.append(output)

    was_training = trained.network.training
    trained.network.eval()
    handles = [layer.register_forward_hook(keep) for layer in trained.network.modules()]
    try:
        # The tile is what gradients go to: layers may be frozen.
        images = trained.standard(trained.images(tiles)).requires_grad_()
        logits = logits_of(trained.network(images)).float()
    finally:
        for handle in handles:
            handle.remove()
        trained.network.train(was_training)
    layer = _last_that_bears(made, logits, trained)
    maps = []
    for number in range(logits.shape[1]):
        (slope,) = torch.autograd.grad(logits[:, number].sum(), layer, retain_graph=True)
        values, slopes = _as_map(layer.detach()), _as_map(slope)
        weights = slopes.mean(dim=(2, 3), keepdim=True)
        maps.append(torch.relu((weights * values).sum(dim=1)))
    small = torch.stack(maps, dim=1)
    large = nn.functional.interpolate(small.float(), tiles.shape[1:3], mode="bilinear", align_corners=False)
    return large.cpu().numpy(), trained.task.given(logits.detach()).cpu().numpy()


def _last_that_bears(made: Sequence[torch.Tensor], logits: torch.Tensor, trained: TrainedModel) -> torch.Tensor:
    """Return the last layer whose places bear on the logits.

    Where a transformer's head sees the token of the class alone, the patches of its last output do not: then it is
    what enters the attention of the last block.
    """
    for layer in reversed(made):
        (slope,) = torch.autograd.grad(logits.square().sum(), layer, retain_graph=True, allow_unused=True)
        if slope is not None and bool(_as_map(slope).any()):
            return layer
    raise RunError(
        f"{trained.run}: model {trained.config.model!r} has no layer of maps or tokens that bears on its logits, and "
        "so no Grad-CAM"
    )


def _prefix(n_tokens: int) -> int | None:
    """Return how many tokens come before those of a square of patches; None where there is no square."""
    for n_prefix in range(min(_MOST_PREFIX, n_tokens - 4) + 1):
        if math.isqrt(n_tokens - n_prefix) ** 2 == n_tokens - n_prefix:
            return n_prefix
    return None


def _as_map(layer: torch.Tensor) -> torch.Tensor:
    """Return a layer as maps, (batch, channels, height, width)."""
    if layer.ndim == 4:
        return layer
    n_prefix = _prefix(layer.shape[1])
    assert n_prefix is not None
    side = math.isqrt(layer.shape[1] - n_prefix)
    return layer[:, n_prefix:].transpose(1, 2).reshape(len(layer), -1, side, side)


def _read(source: TileSource, names: Sequence[str], where: str) -> NDArray[np.uint8]:
    """Read the tiles of some names, in their order."""
    found: dict[str, NDArray[np.uint8]] = {}
    for one in source.slides:
        if not any(name.startswith(f"{one.slide}-") for name in names):
            continue
        rows = one.rows()
        wanted = rows.take([i for i, name in enumerate(rows["tile_id"].to_pylist()) if name in names])
        if not len(wanted):
            continue
        with one.batches(wanted, len(wanted)) as batches:
            images = np.concatenate(list(batches))
        found.update(zip(wanted["tile_id"].to_pylist(), images, strict=True))
    lost = [name for name in names if name not in found]
    if lost:
        raise StudyError(
            f"{where} has no tile {', '.join(map(repr, lost))} in grid {source.grid!r}; tiles are named "
            "SLIDE-X-Y by their centre, as in the column tile_id"
        )
    return np.stack([found[name] for name in names])


def _draw(
    tiles: NDArray[np.uint8],
    maps: NDArray[np.float32],
    given: NDArray[np.float32],
    names: Sequence[str],
    trained: TrainedModel,
    shown: Sequence[int],
) -> Any:
    """Return a figure with a row for each tile: itself, and the map of each output that is shown over it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_columns = 1 + len(shown)
    size = (n_columns * (_PANEL_INCHES + 0.1), len(tiles) * (_PANEL_INCHES + 0.3) + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(tiles), n_columns, squeeze=False)
    bold = _is_said(trained, given)
    for row, tile in enumerate(tiles):
        # One scale a tile: a class that hardly anything speaks for stays dark.
        most = max(float(maps[row, shown].max()), 1e-12)
        grey = np.repeat(tile.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
        for column, panel in enumerate(axes[row]):
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set(color="#B0B0B0", linewidth=0.5)
            panel.imshow(grey if column else tile, interpolation="nearest")
            title, weight = names[row], "normal"
            if column:
                number = shown[column - 1]
                panel.imshow(maps[row, number], cmap="inferno", vmin=0, vmax=most, alpha=_OPACITY)
                value = given[row, number]
                text = f"{value:.4g}" if trained.task.gives == "numbers" else f"{value:.2f}"
                title, weight = f"{trained.classes[number]} {text}", "bold" if bold[row, number] else "normal"
            panel.set_title(title, fontsize=7, loc="left", fontweight=weight, parse_math=False)
    return figure


def _is_said(trained: TrainedModel, given: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which outputs a tile is said to be, or to have, (n, outputs): no numbers."""
    if trained.task.gives == "numbers":
        return np.zeros(given.shape, bool)
    if not trained.task.tells_classes:
        return np.asarray(given >= THRESHOLD)
    return np.asarray(np.arange(given.shape[1]) == given.argmax(axis=1)[:, None])
