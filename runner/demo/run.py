"""Runs the whole job on a small generated cohort: from slides and ROIs to a trained network's heatmap.

Each step calls the public API as a user would; the command that does the same is shown beside it.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

import slideduck as sd
from slideduck.draw.picture import overlay
from slideduck.errors import ConfigError
from slideduck.files.write import replacing
from slideduck.runner.demo.cohort import Cohort, cohort_version, make_cohort
from slideduck.runner.demo.report import DemoReport, Step, print_report
from slideduck.runner.maps.heatmap import heatmap
from slideduck.runner.prediction.evaluate import evaluate
from slideduck.runner.prediction.study import predict
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.training.train import train
from slideduck.store.sqlfiles import read_query
from slideduck.words import message

__all__ = ["EPOCHS", "run_demo"]

#: Enough for over 0.95 on the demo's cohort, with any seed that was tried.
EPOCHS = 6

TILE_PX, TILE_UM = 64, 64
_BATCH_SIZE = 32
_MARKER = "demo.json"


def run_demo(
    directory: str | os.PathLike[str] = "demo",
    *,
    seed: int = 0,
    epochs: int = EPOCHS,
    n_slides: int = 8,
    shuffle_labels: bool = False,
    progress: bool = True,
) -> DemoReport:
    """Make a small cohort and run every step on it, from slides to heatmap.

    Parameters
    ----------
    directory : path
        Folder of everything that is made. A demo that was stopped goes on there, and one that is finished
        finds that all is done.
    seed : int
        Seed of the cohort, the split and the training.
    epochs : int
        How often the training tiles are gone through.
    n_slides : int
        Slides of the cohort, at least 4, so that there are patients to train and to validate.
    shuffle_labels : bool
        Deal the labels of each slide's tiles anew, as a control: nothing can then be learnt, and the balanced
        accuracy has to fall to that of guessing.
    progress : bool
        Whether to tell each step on standard error and print the summary on standard output.

    Returns
    -------
    DemoReport
        What was made, and how well the network does on the validation patients.

    Raises
    ------
    ConfigError
        If a number is too small, or the folder holds anything but a demo of the same settings.
    """
    if n_slides < 4:
        raise ConfigError(f"n_slides is {n_slides}; a demo needs at least 4, of 3 patients")
    directory = Path(directory)
    config = TrainConfig(epochs=epochs, batch_size_per_rank=_BATCH_SIZE, seed=seed)
    settings = {
        "seed": seed,
        "epochs": epochs,
        "n_slides": n_slides,
        "shuffle_labels": shuffle_labels,
        "cohort": cohort_version(),
    }
    _claim(directory, settings)
    demo = _Demo(directory, seed, n_slides, shuffle_labels, config, progress)
    report = demo.run()
    if progress:
        print_report(report)
    return report


def _claim(directory: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder for a demo, or check that it is of this demo.

    Raises
    ------
    ConfigError
        If it holds something else, naming what differs.
    """
    remedy = "name another folder, or remove this one"
    marker = directory / _MARKER
    if marker.is_file():
        try:
            there = dict(json.loads(marker.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ConfigError(f"{marker} is damaged ({error}); {remedy}") from error
        differ = [
            f"{name} {there.get(name)}, not {value}" for name, value in settings.items() if there.get(name) != value
        ]
        if differ:
            raise ConfigError(f"{directory} holds a demo with {'; '.join(differ)}; {remedy}")
        return
    if directory.is_file():
        raise ConfigError(f"{directory} is a file, not a folder; {remedy}")
    if directory.is_dir() and any(directory.iterdir()):
        raise ConfigError(f"{directory} holds other files, and no demo; {remedy}")
    directory.mkdir(parents=True, exist_ok=True)
    with replacing(marker) as temporary:
        temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


class _Demo:
    """One run of the demo: its places, and the steps done so far."""

    def __init__(
        self,
        directory: Path,
        seed: int,
        n_slides: int,
        shuffle_labels: bool,
        config: TrainConfig,
        progress: bool,
    ) -> None:
        self.seed = seed
        self.n_slides = n_slides
        self.shuffle_labels = shuffle_labels
        self.config = config
        self.progress = progress
        self.directory = directory
        self.study = directory / "study.duckdb"
        self.beton = directory / "tiles.beton"
        self.run_folder = directory / "run"
        self.steps: list[Step] = []
        self.n_steps = 14 if shuffle_labels else 13

    def run(self) -> DemoReport:
        """Do every step and return the report."""
        started = time.monotonic()
        cohort = self.step("make a cohort", None, self.make_cohort, _tell_cohort)
        if self.shuffle_labels:
            # What was shuffled must not be shuffled again. The study is made anew, and comes out the same.
            self.study.unlink(missing_ok=True)
        with sd.open(self.study) as study:
            split = self.fill(study, cohort)
        config = self.config
        options = f"--epochs {config.epochs} --batch-size {config.batch_size_per_rank} --seed {config.seed}"
        self.step(
            "train a network",
            f"train {_shown(self.beton)} --run {_shown(self.run_folder)} {options}",
            lambda: train(self.beton, self.run_folder, config),
            lambda done: f"{done['epochs']} epochs, the best is epoch {done['best_epoch']}",
        )
        metrics = self.step(
            "evaluate it on the validation patients",
            f"evaluate {_shown(self.run_folder)} {_shown(self.beton)} --split val",
            lambda: evaluate(self.run_folder, self.beton, split="val"),
            lambda done: f"accuracy {done['metrics']['accuracy']:.3f} on {done['metrics']['tiles']} tiles",
        )
        with sd.open(self.study) as study:
            self.look(study)
        made = {
            "cohort": cohort.directory,
            "study": self.study,
            "overlay": self.directory / "overlay.png",
            "beton": self.beton,
            "side-car": self.beton.with_suffix(".json"),
            "run": self.run_folder,
            "curves": self.run_folder / "curves.png",
            "validation": self.run_folder / "predictions.parquet",
            "heatmap": self.directory / "heatmap.png",
        }
        return DemoReport(
            directory=self.directory,
            made=made,
            classes=tuple(metrics["classes"]),
            tiles=_tiles_by_split(split),
            accuracy=metrics["metrics"]["accuracy"],
            balanced_accuracy=metrics["metrics"]["balanced_accuracy"],
            confusion=tuple(tuple(row) for row in metrics["metrics"]["confusion"]),
            steps=tuple(self.steps),
            seconds=time.monotonic() - started,
        )

    def make_cohort(self) -> Cohort:
        """Paint the slides and draw the ROIs."""
        return make_cohort(self.directory / "cohort", seed=self.seed, n_slides=self.n_slides)

    def fill(self, study: sd.Study, cohort: Cohort) -> pa.Table:
        """Do the steps from slides to beton; return the tiles on each side of the split."""
        path, slides, rois = _shown(self.study), cohort.slides[0].parent, cohort.rois[0].parent
        self.step(
            "read the slides' headers",
            f"add-slides {path} {_shown(slides)}",
            lambda: study.add_slides(slides),
            lambda done: f"{done.added} slides added, {done.unchanged} unchanged",
        )
        self.step(
            "read the ROIs: CSV, GeoJSON and XML",
            f"add-rois {path} {_shown(rois)}",
            lambda: study.add_rois(rois),
            lambda done: f"{done.rois} ROIs, {len(done.unlabelled)} of them without a label, in {done.files} files",
        )
        self.step(
            "read the patients",
            f"add-patients {path} {_shown(cohort.patients)}",
            lambda: study.add_patients(cohort.patients),
            lambda done: f"{done.rows} slides of {done.patients} patients",
        )
        self.step(
            "lay a grid of tiles",
            f"tile {path} --tile-px {TILE_PX} --tile-um {TILE_UM}",
            lambda: study.tile(TILE_PX, tile_um=TILE_UM),
            lambda done: f"{done.total_tiles:,} tiles of grid {done.grid}",
        )
        self.step("label the tiles", f"label {path}", study.label, lambda done: _tell_labels(done.counts))
        if self.shuffle_labels:
            self.step("shuffle the labels", None, lambda: _shuffle(study, self.seed), lambda done: done)
        split: pa.Table = self.step(
            "split the patients",
            f"split {path} --val-fraction 0.3 --seed {self.seed}",
            lambda: study.split(val_fraction=0.3, seed=self.seed).counts,
            _tell_split,
        )
        slide = _validation_slide(study)
        self.step(
            "draw the ROIs and the labels",
            None,
            lambda: overlay(study.handle, slide, self.directory / "overlay.png"),
            lambda done: f"slide {slide}, of a validation patient",
        )
        self.step(
            "export the labelled tiles",
            f"export {path} {_shown(self.beton)}",
            lambda: study.export(self.beton),
            lambda done: f"{done.samples:,} tiles, {done.bytes / 1e6:.1f} MB",
        )
        return split

    def look(self, study: sd.Study) -> None:
        """Predict every slide, and draw a validation slide with its predictions."""
        path, run = _shown(self.study), _shown(self.run_folder)
        slide, heatmap_png = _validation_slide(study), self.directory / "heatmap.png"
        self.step(
            "predict every tile of every slide",
            f"predict {run} {path}",
            lambda: predict(self.run_folder, study),
            lambda done: f"{done.tiles:,} tiles predicted, {len(done.skipped)} slides were already",
        )
        self.step(
            "draw the network's probabilities",
            f"heatmap {run} {path} {slide} {_shown(heatmap_png)}",
            lambda: heatmap(self.run_folder, study, slide, heatmap_png),
            lambda done: f"slide {slide}, of a validation patient",
        )

    def step(self, title: str, command: str | None, do: Callable[[], Any], tell: Callable[[Any], str]) -> Any:
        """Do one step, report it before and after, and return its result."""
        number = len(self.steps) + 1
        command = None if command is None else f"slideduck {command}"
        if self.progress:
            message(f"{number:2}/{self.n_steps} {title}" + (f":  {command}" if command else ""))
        started = time.monotonic()
        done = do()
        step = Step(title, command, tell(done), time.monotonic() - started)
        self.steps.append(step)
        if self.progress:
            message(f"      {step.result}  ({step.seconds:.1f} s)")
        return done


def _validation_slide(study: sd.Study) -> str:
    """Return the first slide of the validation patients."""
    (slide,) = study.sql("SELECT min(slide) FROM labels WHERE split = 'val'").fetchone() or ("",)
    return str(slide)


def _shuffle(study: sd.Study, seed: int) -> str:
    """Deal the labels anew and say how many tiles have another one now."""
    query = "SELECT slide, grid_x, grid_y, label FROM labels WHERE label IS NOT NULL"
    before = set(study.sql(query).fetchall())
    with study.atomic():
        study.con.execute(read_query("shuffle_labels"), {"seed": seed})
    moved = before - set(study.sql(query).fetchall())
    return f"{len(moved):,} of {len(before):,} tiles have another label now"


def _shown(path: Path) -> str:
    """Return a path as it is typed in a shell."""
    return shlex.quote(str(path))


def _tell_cohort(cohort: Cohort) -> str:
    """Return a line about the cohort."""
    return f"{len(cohort.slides)} slides " + ("painted" if cohort.made else "were there already")


def _tell_labels(counts: pa.Table) -> str:
    """Say how many tiles have which label."""
    rows = counts.to_pylist()
    return ", ".join(f"{row['label'] or 'no label'} {row['tiles']:,}" for row in rows)


def _tell_split(counts: pa.Table) -> str:
    """Say how many patients and tiles are on each side."""
    totals = [row for row in counts.to_pylist() if row["label"] is None]
    return ", ".join(f"{row['split']}: {row['patients']} patients, {row['tiles']:,} tiles" for row in totals)


def _tiles_by_split(counts: pa.Table) -> dict[str, dict[str, int]]:
    """Return labelled tiles by split and label."""
    tiles: dict[str, dict[str, int]] = {}
    for row in counts.to_pylist():
        if row["label"] is not None:
            tiles.setdefault(row["split"], {})[row["label"]] = row["tiles"]
    return tiles
