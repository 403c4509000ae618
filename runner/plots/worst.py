"""Draws the tiles with the greatest loss, and tiles that the network got right, with their pixels."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slideduck.catalog.evaluations import prediction_files
from slideduck.draw.figure import own_style, save_figure
from slideduck.errors import ConfigError, RunError
from slideduck.palette import label_colours
from slideduck.runner.scores.assess import PredictedTiles, read_predictions
from slideduck.runner.scores.predictions import ClassPredictions
from slideduck.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Section", "choose_sections", "plot_worst", "tile_pictures"]

_COLUMNS = 6
#: A line of the key of colours, inches.
_KEY = 0.17
#: A tile on the sheet, and what is written under it, inches.
_SIDE, _UNDER, _GAP, _HEAD = 1.25, 0.54, 0.16, 0.34
_MOST_TILES = 600


@dataclass(frozen=True)
class Section:
    """Tiles of a contact sheet that belong together.

    Attributes
    ----------
    heading : str
        What stands above them.
    chosen : ndarray of int64, shape (tiles,)
        Which of the predictions they are.
    """

    heading: str
    chosen: NDArray[np.int64]


def plot_worst(
    source: Path | str,
    beton: Path | str,
    out: Path | str,
    *,
    tiles: int = 24,
    right: int = 0,
    per_slide: int | None = None,
    dpi: int | None = None,
) -> Path:
    """Draw a contact sheet of the tiles whose label a network thought least likely.

    Parameters
    ----------
    source : path
        A run's folder, for the validation tiles of its best epoch, or a Parquet that `evaluate` wrote.
    beton : path
        The beton that the tiles are in.
    out : path
        ``.png``, ``.pdf`` or ``.svg``.
    tiles : int
        How many, those of the greatest loss first, right ones included where there are fewer wrong ones.
    right : int
        How many of each class to draw beside them that are right, and most certainly so.
    per_slide : int, optional
        At most so many of a slide, in each part of the sheet.
    dpi : int, optional
        Dots per inch of a PNG; default 200.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    ConfigError
        If a number is impossible.
    RunError
        If there are no predictions, or the beton does not have their tiles.
    """
    for name, value, least in (("tiles", tiles, 1), ("right", right, 0), ("per_slide", per_slide, 1)):
        if value is not None and not least <= value <= _MOST_TILES:
            raise ConfigError(f"{name} is {value}; it must be from {least} to {_MOST_TILES}")
    found = read_predictions(prediction_files(source)[0])
    sections = choose_sections(found, tiles, right, per_slide)
    everything = np.concatenate([section.chosen for section in sections])
    pictures = dict(
        zip(everything.tolist(), tile_pictures(Path(beton).absolute(), found.tile_id[everything]), strict=True)
    )
    words = "".join([found.path.stem, found.path.parent.name, *found.classes, *found.tile_id[everything]])
    with own_style(words):
        save_figure(_sheet(found, sections, pictures), Path(out), dpi=dpi)
    return Path(out)


def choose_sections(found: PredictedTiles, tiles: int, right: int, per_slide: int | None) -> list[Section]:
    """Return the sections of the sheet, from the top.

    Parameters
    ----------
    found : PredictedTiles
        The predictions.
    tiles, right, per_slide
        See `plot_worst`.
    """
    predictions = _of_classes(found)
    n = np.arange(len(predictions.labels))
    of_label = predictions.log_probabilities[n, predictions.labels]
    is_right = predictions.predicted == predictions.labels
    # Equal losses are in the order of the beton.
    worst = _first(np.argsort(of_label, kind="stable"), found.slide, tiles, per_slide)
    name = found.path.parent.name if found.path.name == "predictions.parquet" else found.path.stem
    wrong = int(np.count_nonzero(~is_right))
    verb = "is" if wrong == 1 else "are"
    heading = f"{name}: greatest loss first; {wrong:,} of {counted(len(n), 'tile')} {verb} wrong"
    sections = [Section(heading, worst)]
    certain = np.argsort(-of_label, kind="stable")
    certain = certain[is_right[certain]]
    chosen = [
        _first(certain[predictions.labels[certain] == number], found.slide, right, per_slide)
        for number in range(len(found.classes))
    ]
    if any(map(len, chosen)):
        sections.append(Section("right, and most certain of each class", np.concatenate(chosen)))
    return sections


def _of_classes(found: PredictedTiles) -> ClassPredictions:
    """Return predictions of classes.

    Raises
    ------
    RunError
        If they are of something else.
    """
    if not isinstance(found.predictions, ClassPredictions):
        raise found.refuse("this sheet is of classes; the column loss of that file says how bad each tile is")
    return found.predictions


def _first(
    ordered: NDArray[np.int64], slide: NDArray[np.object_], most: int, per_slide: int | None
) -> NDArray[np.int64]:
    """Return the first of tiles, with no more than so many of a slide."""
    chosen: list[int] = []
    counts: Counter[str] = Counter()
    for tile in ordered.tolist():
        if len(chosen) == most:
            break
        counts[slide[tile]] += 1
        if per_slide is None or counts[slide[tile]] <= per_slide:
            chosen.append(tile)
    return np.array(chosen, np.int64)


def tile_pictures(beton: Path, tile_ids: NDArray[np.object_]) -> list[NDArray[np.uint8]]:
    """Return the pixels of tiles of a beton.

    Parameters
    ----------
    beton : Path
        The beton.
    tile_ids : ndarray of str, shape (tiles,)
        Names of the tiles; one may come up more than once.

    Returns
    -------
    list of ndarray of uint8, shape (tile_px, tile_px, 3)

    Raises
    ------
    RunError
        If the beton does not have them.
    """
    import torch

    from slideduck.runner.tiles.loader import to_device
    from slideduck.runner.tiles.open import open_beton

    sidecar, loader = open_beton(beton, 1)
    row_of = {name: row for row, name in enumerate(sidecar.tile_id)}
    missing = [name for name in tile_ids if name not in row_of]
    if missing:
        raise RunError(
            f"{beton}: it does not have {len(missing)} of the tiles, such as {missing[0]}; "
            "give the beton that was evaluated"
        )
    rows = np.array([row_of[name] for name in tile_ids], np.int64)
    # A loader reads each row once; a tile may be on the sheet twice.
    once, place = np.unique(rows, return_inverse=True)
    pictures: list[NDArray[np.uint8]] = []
    with loader.epoch(once, min(len(once), 64)) as batches:
        for batch in to_device(batches, torch.device("cpu")):
            pictures.extend(batch.images_BCHW.permute(0, 2, 3, 1).numpy().copy())
    return [pictures[i] for i in place]


def _sheet(found: PredictedTiles, sections: Sequence[Section], pictures: dict[int, NDArray[np.uint8]]) -> Figure:
    """Return the sheet."""
    from matplotlib.figure import Figure

    across = max(min(_COLUMNS, len(section.chosen)) for section in sections)
    # The heading of the sheet needs the width of a few tiles.
    width = max(across, 4) * (_SIDE + _GAP)
    rows = [-(-len(section.chosen) // _COLUMNS) for section in sections]
    keys = min(len(found.classes), 3 if max(map(len, found.classes)) <= 30 else 2)
    key_rows = -(-len(found.classes) // keys)
    height = sum(_HEAD + n * (_SIDE + _UNDER) for n in rows) + _KEY * (key_rows + 1)
    figure = Figure(figsize=(width, height))
    colours = label_colours(found.classes)
    top = height
    for section, n_rows in zip(sections, rows, strict=True):
        lines = textwrap.wrap(section.heading, int(width * 12))
        figure.text(
            0, (top - 0.08) / height, lines[0], fontsize=10, fontweight="bold", va="top", parse_math=False,
        )  # fmt: skip
        top -= _HEAD
        for place, tile in enumerate(section.chosen.tolist()):
            left = (place % _COLUMNS) * (_SIDE + _GAP)
            bottom = top - (place // _COLUMNS) * (_SIDE + _UNDER) - _SIDE
            axes = figure.add_axes((left / width, bottom / height, _SIDE / width, _SIDE / height))
            axes.imshow(pictures[tile], interpolation="antialiased")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            _write_under(axes, found, tile, colours)
        top -= n_rows * (_SIDE + _UNDER)
    for number, name in enumerate(found.classes):
        x = (number // key_rows) / keys
        y = (top - _KEY * (number % key_rows + 1)) / height
        figure.text(x, y, "■", fontsize=8, color=colours[name], parse_math=False)
        figure.text(x + 0.16 / width, y, _shortened(name, int(width / keys * 14)), fontsize=8, parse_math=False)
    return figure


def _write_under(axes: Any, found: PredictedTiles, tile: int, colours: dict[str, str]) -> None:
    """Write under a tile its label, its predicted class with the probability, and its name."""
    predictions = _of_classes(found)
    label, predicted = predictions.labels[tile], predictions.predicted[tile]
    probability = np.exp(predictions.log_probabilities[tile])
    lines = [("is", found.classes[label], probability[label])]
    if predicted != label:
        lines.append(("said", found.classes[predicted], probability[predicted]))
    style: dict[str, Any] = {
        "xycoords": "axes fraction", "textcoords": "offset points", "va": "top", "annotation_clip": False,
        "parse_math": False,
    }  # fmt: skip
    for row, (verb, name, value) in enumerate(lines):
        y = -4 - 8.5 * row
        axes.annotate("■", (0, 0), xytext=(0, y), fontsize=6.5, color=colours[name], **style)
        axes.annotate(f"{verb} {_shortened(name, 13)} {value:.2f}", (0, 0), xytext=(8, y), fontsize=6.5, **style)
    name = "\n".join(textwrap.wrap(found.tile_id[tile], 27, break_on_hyphens=True)[:2])
    axes.annotate(name, (0, 0), xytext=(0, -4 - 8.5 * len(lines)), fontsize=4.8, color="#4D4D4D", **style)


def _shortened(name: str, most: int) -> str:
    """Return a name, or its beginning where it is long."""
    return name if len(name) <= most else name[: most - 1] + "…"
