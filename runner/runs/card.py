"""The model card of a run: ``README.md`` in its folder, plain Markdown that the Hugging Face hub reads as well."""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from slideduck.betons import Sidecar
from slideduck.runner.runs.checkpoint import write_whole
from slideduck.runner.runs.runfolder import RunFolder
from slideduck.runner.scores.notes import notes_of
from slideduck.runner.settings.modelnames import is_given
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tasks.kinds import task_class
from slideduck.runner.tasks.task import Task
from slideduck.runner.tiles.rows import RunRows
from slideduck.words import counted, json_printable, listed, printable

__all__ = ["card_text", "write_card"]

#: Metrics that the card shows elsewhere, not in the table.
_NOT_IN_TABLE = ("confusion", "tiles", "slides", "patients", "mixed", "ties")


#: What Markdown, of the hub or of GitHub, takes for more than letters; an underscore within a word is one.
_MARKUP = re.compile(r"[\\`*\[\]~$@]|:(?=\S)|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")
_WWW = re.compile(r"(?i)(www)\.")


def write_card(folder: Path, state: Mapping[str, Any], sidecar: Sidecar, rows: RunRows) -> None:
    """Write ``README.md`` into a run's folder.

    Parameters
    ----------
    folder : Path
        The run's folder.
    state : mapping
        A checkpoint of the run: the card tells of its best epoch.
    sidecar : Sidecar
        Of the beton that it was trained on.
    rows : RunRows
        The rows that trained and validated.
    """
    found = RunFolder(folder).read_validation()
    # One of another epoch is of a run that goes on.
    intervals = found.get("metrics", {}) if found.get("epoch") == state["best"]["epoch"] else {}
    pictures = [name for name in ("curves.png", "augmented.png") if (folder / name).exists()]
    text = card_text(folder.name, state, sidecar, rows, pictures, intervals)
    write_whole(folder / "README.md", lambda file: file.write(text.encode()))


def card_text(
    run: str,
    state: Mapping[str, Any],
    sidecar: Sidecar,
    rows: RunRows,
    pictures: Sequence[str] = (),
    intervals: Mapping[str, Any] | None = None,
) -> str:
    """Return the model card of a run; the same for the same run.

    Parameters
    ----------
    run : str
        Its name.
    state, sidecar, rows
        As in `write_card`.
    pictures : sequence of str
        File names of the pictures that are beside it.
    intervals : mapping, optional
        ``ci95/…`` of the best epoch's metrics; see `slideduck.runner.scores.bootstrap.intervals`.
    """
    classes: list[str] = state["classes"]
    best = next(line for line in state["history"] if line["epoch"] == state["best"]["epoch"])
    parts = [
        _front_matter(run, classes),
        f"# {_plain(run)}",
        f"A network ({_code(state['config']['model'])}) {_task(state).purpose([_plain(name) for name in classes])}. "
        f"It was trained by slideduck {_plain(state['versions']['slideduck'])}; the weights are those of epoch "
        f"{best['epoch']}, the best of {len(state['history'])}.",
        "## Data",
        _data(state, sidecar, rows),
        _counts(state, sidecar, rows),
        "## Metrics",
        f"On the validation tiles, epoch {best['epoch']}. Tiles of a slide are not independent of each other: "
        "differences that are small beside the number of slides and patients say nothing.",
        _metrics(best, intervals or {}),
        _confusion(best, classes),
        *(f"![{name.partition('.')[0]}]({name})" for name in pictures),
        "## Use",
        _use(run, state["config"]["model"]),
        "## Limits",
        _limits(state, sidecar, rows),
        "## Settings",
        _settings(state),
        "## Versions",
        _table(("package", "version"), ((_plain(name), _plain(of)) for name, of in sorted(state["versions"].items()))),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _plain(text: object) -> str:
    """Return a text that Markdown shows as it is: no link, picture, emphasis or HTML comes of a name."""
    shown = html.escape(printable(str(text)), quote=False)
    return _WWW.sub(r"\1\\.", _MARKUP.sub(r"\\\g<0>", shown))


def _code(text: object) -> str:
    """Return a text as code, in more backquotes than it has."""
    shown = printable(str(text))
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    space = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{space}{shown}{space}{fence}"


def _task(state: Mapping[str, Any]) -> type[Task[Any]]:
    """Return the task; older checkpoints do not name it, and are of classes."""
    return task_class(state["config"].get("task", "classification"))


def _front_matter(run: str, classes: Sequence[str]) -> str:
    """Return the metadata that the hub reads; JSON strings are YAML strings."""
    tags = ["digital-pathology", "whole-slide-images", "slideduck"]
    lines = ["library_name: slideduck", "pipeline_tag: image-classification", "tags:"]
    lines += [f"- {tag}" for tag in tags]
    quoted_run, *quoted = (json_printable(json.dumps(name, ensure_ascii=False)) for name in (run, *classes))
    lines += [f"model_name: {quoted_run}", "classes:", *(f"- {name}" for name in quoted)]
    return "\n".join(["---", *lines, "---"])


def _data(state: Mapping[str, Any], sidecar: Sidecar, rows: RunRows) -> str:
    """Return the training data, as a list."""
    beton, raw, config = state["beton"], sidecar.raw, state["config"]
    lines = [
        f"Beton: {_code(Path(beton['path']).name)}, {beton['samples']:,} tiles, "
        f"side-car {beton['sidecar_sha256'][:12]}",
        f"Tiles: {_grid(beton['grid'])}, {_image(beton['image'])}",
    ]
    for name, text in (("label_rule", "Labels"), ("split_rule", "Split")):
        rule = raw.get(name)
        if rule:
            lines.append(f"{text}: {_rule(rule)}")
    where = [f"{name} {_code(config[name])}" for name in ("where", "train_where", "val_where") if config.get(name)]
    exported = (raw.get("query") or {}).get("where")
    if exported:
        where.insert(0, f"exported {_code(exported)}")
    if where:
        lines.append(f"Only tiles with: {'; '.join(where)}")
    for side, of_side in (("Training", rows.train), ("Validation", rows.val)):
        slides, patients = (
            len(np.unique(of[of_side].astype(str))) for of in (sidecar.tile_slide, sidecar.tile_patient)
        )
        lines.append(
            f"{side}: {counted(len(of_side), 'tile')} of {counted(slides, 'slide')} of {counted(patients, 'patient')}"
        )
    if rows.unlabelled:
        lines.append(f"Left out: {counted(rows.unlabelled, 'tile')} without a label")
    return "\n".join(f"- {line}" for line in lines)


def _rule(rule: Mapping[str, Any]) -> str:
    """Return a rule of labels or splits in one line."""
    told = {name: value for name, value in rule.items() if value not in (None, [], {}, "")}
    if told.get("rule") == "centre":
        # Of coverage alone.
        told.pop("threshold", None)
    return ", ".join(
        _plain(f"{name.replace('_', ' ')} {' '.join(map(str, value)) if isinstance(value, list) else value}")
        for name, value in told.items()
    )


def _grid(grid: Mapping[str, Any]) -> str:
    """Return a grid in words, with the resolution where it is the same on every slide."""
    if grid["tile_um"] is None:
        return f"{grid['tile_px']} px at {_plain(grid['magnification'])} (grid {_code(grid['name'])})"
    mpp = grid["tile_um"] / grid["tile_px"]
    return f"{grid['tile_px']} px, {mpp:.4g} µm a pixel (grid {_code(grid['name'])})"


def _image(image: Mapping[str, Any]) -> str:
    """Return how tiles are stored, in words."""
    return "raw pixels" if image["mode"] != "jpg" else f"JPEG of quality {_plain(image['quality'])}"


def _counts(state: Mapping[str, Any], sidecar: Sidecar, rows: RunRows) -> str:
    """Return the tiles and slides of each class on each side; nothing where labels or numbers are learnt."""
    classes = state["classes"]
    if not _task(state).tells_classes or tuple(classes) != tuple(sidecar.classes):
        return ""
    lines = []
    for number, name in enumerate(classes):
        cells: list[str] = [_plain(name)]
        for side in (rows.train, rows.val):
            chosen = side[sidecar.class_number[side] == number]
            slides = len(np.unique(sidecar.slide[chosen]))
            cells += [f"{len(chosen):,}", f"{slides:,}"]
        lines.append(cells)
    return _table(("class", "training tiles", "slides", "validation tiles", "slides"), lines)


def _metrics(best: Mapping[str, Any], intervals: Mapping[str, Any]) -> str:
    """Return the validation metrics of tiles beside those of larger units, with their intervals."""
    values = {name.removeprefix("val/"): value for name, value in best.items() if name.startswith("val/")}
    units = ["tile", *(unit for unit in ("slide", "patient") if any(name.startswith(f"{unit}/") for name in values))]
    names = [name for name in values if name.partition("/")[0] not in ("slide", "patient")]
    names += [
        rest for name in values for unit, _, rest in [name.partition("/")]
        if unit in ("slide", "patient") and rest not in names
    ]  # fmt: skip
    lines = []
    for name in dict.fromkeys(names):
        if name in _NOT_IN_TABLE:
            continue
        keys = [name if unit == "tile" else f"{unit}/{name}" for unit in units]
        if any(isinstance(values.get(key), int | float) for key in keys):
            lines.append([_plain(name), *(_shown(values.get(key), intervals.get(f"ci95/{key}")) for key in keys)])
    table = _table(("metric", *(f"{unit}s" for unit in units)), lines)
    parts = [table]
    if "ci95/note" in intervals:
        parts.append(f"There are {_plain(intervals['ci95/note'])}.")
    if "ci95/resamples" in intervals:
        drawn = f"{intervals['ci95/resamples']:,} resamples of {counted(intervals['ci95/patients'], 'patient')}"
        parts.append(f"In brackets are 95 % intervals, from {drawn}.")
    parts += [f"{_plain(note[0].upper() + note[1:])}." for note in notes_of(values)]
    return "\n\n".join(parts)


def _confusion(best: Mapping[str, Any], classes: Sequence[str]) -> str:
    """Return the confusion matrix of the validation tiles, if it is a small one."""
    matrix = best.get("val/confusion")
    if not isinstance(matrix, list) or len(matrix) != len(classes) or len(classes) > 20:
        return ""
    names = [_plain(name) for name in classes]
    lines = [[name, *(f"{count:,}" for count in row)] for name, row in zip(names, matrix, strict=True)]
    return "Tiles by class (rows) and prediction (columns):\n\n" + _table(("", *names), lines)


#: What a run's network is used for in Python, and what that takes beside the run.
_CALLS = (
    ("evaluate", '"other.beton"'),
    ("predict", '"study.duckdb"'),
    ("heatmap", '"study.duckdb", "SLIDE", "heatmap.png"'),
)


def _use(run: str, model: str) -> str:
    """Return the commands that use the network, or the calls where its code has to be given."""
    if is_given(model):
        network = model.partition(":")[2]
        calls = (f"{verb}({printable(run)!r}, {rest}, network={network})" for verb, rest in _CALLS)
        return "\n".join(
            (
                f"The run holds the weights of {network} and no code: give what it was trained with, from Python.",
                "",
                "```python",
                "from slideduck.runner import evaluate, heatmap, predict",
                "",
                *calls,
                "```",
            )
        )
    name = shlex.quote(printable(run))
    return "\n".join(
        (
            "```text",
            f"slideduck evaluate {name} other.beton                      # metrics on other tiles",
            f"slideduck predict {name} study.duckdb                      # every tile of the study's slides",
            f"slideduck heatmap {name} study.duckdb SLIDE heatmap.png    # a slide with its probabilities",
            f"slideduck export-model {name} model.onnx                   # for other programs",
            "```",
        )
    )


def _limits(state: Mapping[str, Any], sidecar: Sidecar, rows: RunRows) -> str:
    """Return the limits of the network, as a list."""
    classes = state["classes"]
    lines = [
        "It is for research. It is not a medical device, and nobody has shown that it is safe or useful to decide "
        "about patients.",
        _task(state).reach([_plain(name) for name in classes]),
    ]
    if _task(state).tells_classes and tuple(classes) == tuple(sidecar.classes):
        seen = set(sidecar.class_number[rows.train].tolist())
        absent = [_plain(name) for number, name in enumerate(classes) if number not in seen]
        if absent:
            lines.append(
                f"No training tile was of {listed(absent)}: it has not learnt {'it' if len(absent) == 1 else 'them'}."
            )
    lines += [
        f"It was trained on {counted(_distinct(sidecar, rows, 'slide'), 'slide')} of "
        f"{counted(_distinct(sidecar, rows, 'patient'), 'patient')}{_sites(sidecar, rows)}: other laboratories, "
        "stains, scanners and organs have to be tried first.",
        f"It expects tiles of {_grid(state['beton']['grid'])}, {_image(state['beton']['image'])}.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _settings(state: Mapping[str, Any]) -> str:
    """Return the settings: first those that are not the defaults, then all."""
    defaults = {item.name: item.default for item in fields(TrainConfig)}
    config: Mapping[str, Any] = state["config"]
    changed = [(name, value, defaults.get(name)) for name, value in config.items() if value != defaults.get(name)]
    ranks = state["world_size"]
    first = (
        _table(("setting", "value", "default"), [(name, _value(mine), _value(other)) for name, mine, other in changed])
        if changed
        else "All settings have their defaults."
    )
    every = _table(("setting", "value"), [(name, _value(value)) for name, value in config.items()])
    return (
        f"Trained by {counted(ranks, 'process', 'processes')}.\n\n{first}\n\n"
        f"<details><summary>All settings</summary>\n\n{every}\n\n</details>"
    )


def _sites(sidecar: Sidecar, rows: RunRows) -> str:
    """Return the sites of the training tiles in words; nothing where none is known."""
    slides = np.unique(sidecar.slide[rows.train])
    sites = {site for number in slides.tolist() if (site := sidecar.raw["slides"][number].get("site")) is not None}
    return f" from {counted(len(sites), 'site')}" if sites else ""


def _distinct(sidecar: Sidecar, rows: RunRows, of: str) -> int:
    """Return the number of slides or patients of the training tiles."""
    column = sidecar.tile_slide if of == "slide" else sidecar.tile_patient
    return len(np.unique(column[rows.train].astype(str)))


def _shown(value: Any, interval: Any) -> str:
    """Return a metric as the table shows it."""
    if not isinstance(value, int | float):
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f} ({interval[0]:.2f}–{interval[1]:.2f})" if isinstance(interval, list) else f"{value:.4f}"


def _value(value: Any) -> str:
    """Return a setting as the table shows it."""
    return "–" if value is None else _code(value)


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table; bars within cells are escaped, and kept off a backslash, which would escape that."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("\\|", "\\ |").replace("|", "\\|") for cell in line) + " |"
        for line in lines
    )
