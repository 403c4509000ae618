"""Pictures of a tiny run: drawn in every form, equal when drawn twice, and refused with a reason."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from matplotlib.figure import Figure

from slideduck.cli.group import cli
from slideduck.errors import ConfigError, RunError, StudyError
from slideduck.runner.cli import plots as plots_cli
from slideduck.runner.plots import curves
from slideduck.runner.plots import scores as plots_scores
from slideduck.runner.plots import worst as plots_tiles
from slideduck.runner.plots.curves import plot_curves
from slideduck.runner.plots.scores import plot_confusion, plot_pr, plot_reliability, plot_roc
from slideduck.runner.plots.worst import plot_worst
from slideduck.runner.scores.assess import read_predictions
from slideduck.runner.scores.predictions import ClassPredictions
from slideduck.runner.tiles.loader import to_device
from slideduck.runner.tiles.open import open_beton

NINE = [f"a class whose name is rather long, number {k}" for k in range(8)] + ["$short_"]


def write_run(folder: Path, classes: list[str], *, n: int = 320, seed: int = 0) -> Path:
    """Write the files of a run that its pictures need, with predictions drawn at random."""
    rng = np.random.default_rng(seed)
    slides = np.arange(n) * 8 // n
    labels = rng.integers(0, len(classes), n)
    logits = rng.normal(0, 1, (n, len(classes)))
    logits[np.arange(n), labels] += 1.5
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    names = np.array(classes, object)
    columns = {
        "tile_id": [f"S{s}-{i % 128 * 32 + 16}-{i // 128 * 32 + 16}" for i, s in enumerate(slides)],
        "slide": [f"S{s}" for s in slides],
        "patient": [f"P{s}" for s in slides],
        "label": names[labels].tolist(),
        "predicted": names[probabilities.argmax(axis=1)].tolist(),
        "loss": -np.log(probabilities[np.arange(n), labels]),
        **{f"prob_{name}": probabilities[:, k] for k, name in enumerate(classes)},
    }
    folder.mkdir()
    facts = {"run": folder.name, "epoch": "2", "grid": "32px_16um"}
    pq.write_table(pa.table(columns).replace_schema_metadata(facts), folder / "predictions.parquet")
    beton = {
        "path": "/a/tiles.beton",
        "sidecar_sha256": "0",
        "image": {"mode": "jpg", "quality": 90, "tile_px": 32},
        "grid": {"name": "g", "tile_px": 32, "tile_um": 16.0, "magnification": None},
    }
    config = {
        "format": "slideduck run", "version": 1, "global_batch": 16, "classes": classes, "versions": {},
        "beton": beton, "settings": {"model": "resnet18"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    lines = [
        {
            "epoch": epoch, "step": epoch, "lr": 1e-3 / epoch, "train/loss": 1 / epoch, "val/loss": 1.2 / epoch,
            "val/accuracy": 0.5 + epoch / 10, "val/balanced_accuracy": 0.4 + epoch / 10,
            "val/slide/balanced_accuracy": None, "val/confusion": [[1] * len(classes)] * len(classes),
            **{f"val/auroc/{name}": 0.6 + 0.05 * epoch for name in classes},
        }
        for epoch in (1, 2, 3)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "first", ["stroma", "tumour"])


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "nine", NINE)


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_pictures_are_equal_when_drawn_twice(two: Path, beton: Path, tmp_path: Path, suffix: str) -> None:
    pictures: dict[str, Callable[[Path], Path]] = {
        "roc": lambda out: plot_roc(two, out, resamples=50),
        "pr": lambda out: plot_pr(two, out, level="slides", resamples=50),
        "confusion": lambda out: plot_confusion(two, out, level="patients", resamples=50),
        "reliability": lambda out: plot_reliability(two, out),
        "curves": lambda out: plot_curves(two, out),
        "worst": lambda out: plot_worst(two, beton, out, tiles=4, right=1),
    }
    for name, draw in pictures.items():
        first, second = tmp_path / f"{name}-1{suffix}", tmp_path / f"{name}-2{suffix}"
        assert draw(first) == first
        draw(second)
        assert first.read_bytes() == second.read_bytes()
        assert first.read_bytes().startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Return the texts of a figure that lie over each other."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    # Ticks that lie outside their axis are there, and are not drawn.
    beyond = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            if not low <= tick.get_loc() <= high:
                beyond |= {tick.label1, tick.label2}
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text not in beyond]
    boxes = [(words, box) for words, box in boxes if box.width > 1]
    return [
        (words, other)
        for index, (words, box) in enumerate(boxes)
        for other, beside in boxes[index + 1 :]
        if box.shrunk(0.9, 0.75).overlaps(beside.shrunk(0.9, 0.75))
    ]


@pytest.mark.parametrize("classes", [2, 9])
def test_no_text_lies_over_another(
    two: Path, nine: Path, beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int
) -> None:
    found: list[Figure] = []
    for module in (curves, plots_scores, plots_tiles):
        monkeypatch.setattr(module, "save_figure", lambda figure, out, dpi=None: found.append(figure))
    run = two if classes == 2 else nine
    plot_roc(run, tmp_path / "a.png", resamples=20)
    plot_pr(run, tmp_path / "a.png", resamples=20)
    plot_confusion(run, tmp_path / "a.png", resamples=20)
    plot_reliability(run, tmp_path / "a.png")
    plot_reliability(run, tmp_path / "a.png", per_class=True)
    assert len(found) == 5
    for figure in found[:2] + found[3:4]:
        assert overlapping(figure) == []
    # Names that lie aslant have boxes larger than they are.
    plot_curves(run, tmp_path / "a.png")
    plot_worst(run, beton, tmp_path / "a.png", tiles=8, right=2)
    assert overlapping(found[5]) == []
    assert overlapping(found[6]) == []
    if classes == 2:
        assert overlapping(found[2]) == []
        assert overlapping(found[4]) == []


def test_every_command_draws_and_its_example_parses(two: Path, beton: Path, tmp_path: Path) -> None:
    for name in plots_cli.__all__:
        command = getattr(plots_cli, name)
        assert isinstance(command, click.Command)
        result = CliRunner().invoke(command, ["--help"])
        words = shlex.split(result.output.rstrip().splitlines()[-1])
        assert words[:3] == ["slideduck", "plot", name]
        command.make_context(name, words[3:])
        out = tmp_path / f"{name}.pdf"
        paths = [two, beton, out] if name == "worst" else [two, out]
        result = CliRunner().invoke(command, [str(path) for path in paths])
        assert (result.exit_code, result.output) == (0, f"{out}\n")
        assert out.read_bytes().startswith(b"%PDF")


def test_the_worst_tiles_come_first_and_no_slide_has_too_many(two: Path) -> None:
    found = read_predictions(two / "predictions.parquet")
    predictions = found.predictions
    assert isinstance(predictions, ClassPredictions)
    worst, right = plots_tiles.choose_sections(found, 10, 3, 2)
    loss = pq.read_table(two / "predictions.parquet")["loss"].to_numpy()
    assert (np.diff(loss[worst.chosen]) <= 0).all()
    assert loss[worst.chosen[0]] == loss.max()
    slides = found.slide[worst.chosen].tolist()
    assert len(slides) == 10
    assert max(slides.count(name) for name in slides) == 2
    wrong = np.count_nonzero(predictions.labels != predictions.predicted)
    assert worst.heading == f"first: greatest loss first; {wrong} of 320 tiles are wrong"
    assert right.heading == "right, and most certain of each class"
    assert predictions.labels[right.chosen].tolist() == [0, 0, 0, 1, 1, 1]
    assert predictions.predicted[right.chosen].tolist() == [0, 0, 0, 1, 1, 1]
    assert (np.diff(loss[right.chosen[:3]]) >= 0).all()


def test_pixels_are_those_of_the_beton(two: Path, beton: Path) -> None:
    sidecar, loader = open_beton(beton, 1)
    names = sidecar.tile_id[[7, 3, 7]]
    with loader.epoch(np.array([3, 7]), 2) as batches:
        (batch,) = to_device(batches, torch.device("cpu"))
        expected = batch.images_BCHW.permute(0, 2, 3, 1).numpy().copy()
    pictures = plots_tiles.tile_pictures(beton, names)
    assert [np.array_equal(picture, expected[i]) for picture, i in zip(pictures, (1, 0, 1), strict=True)] == [True] * 3


def test_what_cannot_be_drawn_is_refused_with_a_reason(two: Path, beton: Path, tmp_path: Path) -> None:
    def refused(error: type[Exception], draw: object) -> str:
        with pytest.raises(error) as caught:
            draw()  # type: ignore[operator]
        return str(caught.value)

    out = tmp_path / "a.png"
    assert refused(ConfigError, lambda: plot_roc(two, out, level="rois")) == (
        "level is 'rois'; it must be one of tiles, slides, patients"
    )
    assert refused(RunError, lambda: plot_roc(tmp_path / "none", out)) == (
        f"no run at {tmp_path / 'none'}; give a run's folder, or a Parquet that slideduck evaluate wrote"
    )
    (tmp_path / "empty").mkdir()
    assert refused(RunError, lambda: plot_roc(tmp_path / "empty", out)) == (
        f"{tmp_path / 'empty'} holds no predictions of labelled tiles; train it, or evaluate it on a beton"
    )
    assert refused(RunError, lambda: plot_curves(tmp_path / "empty", out)).startswith(
        f"{tmp_path / 'empty'}: no run that can be read (FileNotFoundError: "
    )
    assert refused(ConfigError, lambda: plot_worst(two, beton, out, tiles=0)) == "tiles is 0; it must be from 1 to 600"
    assert refused(StudyError, lambda: plot_roc(two, tmp_path / "a.gif", resamples=0)) == (
        "a.gif has the suffix .gif; name it a.png, a.pdf or a.svg"
    )
    table = pq.read_table(two / "predictions.parquet")
    other = table.set_column(0, "tile_id", pa.array([f"other-{i}-0" for i in range(len(table))]))
    pq.write_table(other, tmp_path / "other.parquet")
    assert refused(RunError, lambda: plot_worst(tmp_path / "other.parquet", beton, out, tiles=2)).startswith(
        f"{beton}: it does not have 2 of the tiles, such as other-"
    )
    one = table.filter(pa.array(np.array(table["label"].to_pylist()) == "tumour"))
    pq.write_table(one, tmp_path / "one.parquet")
    assert refused(ConfigError, lambda: plot_roc(tmp_path / "one.parquet", out, resamples=0)) == (
        "all tiles are of one class: there is no curve of a class against the rest"
    )
    assert not out.exists()


def test_the_group_lists_the_pictures_of_runs() -> None:
    result = CliRunner().invoke(cli, ["plot", "--help"])
    for name in ("confusion", "curves", "labels", "pr", "reliability", "roc", "worst"):
        assert re.search(rf"^  {name} ", result.output, re.MULTILINE), name
