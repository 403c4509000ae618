"""Trackers of a run: TensorBoard, MLflow and Weights & Biases get the same lines as the run folder.

Only rank 0 tracks. Nothing here changes a run: a tracker that fails is reported once and dropped.
"""

from __future__ import annotations

import json
import math
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from slideduck.errors import FULL_ERRNOS
from slideduck.runner.runs import checkpoint
from slideduck.runner.settings.trackers import tracker_names
from slideduck.words import message

__all__ = ["Tracker", "Tracking"]


class Tracker(Protocol):
    """Receives the numbers of a run."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Take numbers by name, which belong to a step of the run, counted from 1 over all epochs."""

    def picture(self, name: str, path: Path, step: int) -> None:
        """Take a PNG."""

    def finish(self, whole: bool) -> None:
        """Flush everything and close. A run that is not whole was stopped, or failed."""


class Tracking:
    """The trackers of a run.

    Parameters
    ----------
    track : str
        As in `slideduck.runner.settings.trackers.tracker_names`.
    folder : Path
        The run's folder. TensorBoard's events go to its ``tensorboard``; MLflow and Weights & Biases write
        there too, unless the environment names a server of theirs. ``tracking.json`` keeps their run's id.
    settings : mapping
        The run's settings.
    step : int
        Steps that a run which goes on has done, or 0: what was tracked of later ones is done again.
    """

    def __init__(self, track: str, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        self._trackers: dict[str, Tracker] = {}
        start: dict[str, Callable[[], Tracker]] = {
            "tensorboard": lambda: _TensorBoard(folder, settings, step),
            "mlflow": lambda: _MLflow(folder, settings),
            "wandb": lambda: _WandB(folder, settings),
        }
        for name in tracker_names(track):
            self.add(name, start[name])

    def add(self, name: str, start: Callable[[], Tracker]) -> None:
        """Track by one more."""
        try:
            self._trackers[name] = start()
        except Exception as error:
            _tell(f"{name} cannot track this run", error)

    def epoch(self, line: Mapping[str, Any]) -> None:
        """Track a line of metrics.jsonl, under its names."""
        self._each(lambda tracker: tracker.log(_numbers(line.items()), line["step"]))

    def step(self, line: Mapping[str, Any]) -> None:
        """Track a line of steps.jsonl; its names get ``step/`` in front, as those of an epoch differ."""
        numbers = _numbers((f"step/{name}", value) for name, value in line.items() if name not in ("step", "epoch"))
        self._each(lambda tracker: tracker.log(numbers, line["step"]))

    def picture(self, path: Path, step: int) -> None:
        """Track a PNG of the run folder, if it exists."""
        if path.exists():
            self._each(lambda tracker: tracker.picture(path.stem, path, step))

    def finish(self, whole: bool = True) -> None:
        """End tracking of a run that is whole, or was stopped; where the disk is full, the run's own error says so."""
        self._each(lambda tracker: tracker.finish(whole), tells_full=whole)

    def _each(self, call: Callable[[Tracker], None], *, tells_full: bool = True) -> None:
        """Call every tracker, and drop those that fail."""
        for name, tracker in list(self._trackers.items()):
            try:
                call(tracker)
            except Exception as error:
                del self._trackers[name]
                if tells_full or not (isinstance(error, OSError) and error.errno in FULL_ERRNOS):
                    _tell(f"{name} no longer tracks this run", error)


def _tell(what: str, error: Exception) -> None:
    """Report that a tracker failed."""
    first = (str(error).splitlines() or [""])[0]
    message(f"warning: {what} ({type(error).__name__}: {first}); training goes on")


def _numbers(items: Iterable[tuple[str, Any]]) -> dict[str, float]:
    """Return the finite numbers; undefined values, matrices and text are left out."""
    return {
        name: float(value)
        for name, value in items
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and name != "step"
    }


def _known(folder: Path, tracker: str) -> str | None:
    """Return the id that a tracker gave the run before."""
    path = folder / "tracking.json"
    known: str | None = json.loads(path.read_text(encoding="utf-8")).get(tracker) if path.exists() else None
    return known


def _keep(folder: Path, tracker: str, identity: str) -> None:
    """Keep the id that a tracker gave the run."""
    path = folder / "tracking.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    checkpoint.write_json(path, {**before, tracker: identity})


def _left_to_the_caller(before: Callable[[Any], object]) -> Callable[[Any], object]:
    """Return a hook for errors of threads that is silent for TensorBoard's writer: its next call raises the same."""

    def hook(failed: Any) -> None:
        is_writer = type(failed.thread).__module__.startswith("tensorboard.")
        if not (is_writer and isinstance(failed.exc_value, OSError)):
            before(failed)

    hook.is_ours = True  # type: ignore[attr-defined]
    return hook


class _TensorBoard:
    """Events in the run folder; a run that resumes replaces the events of steps that it does again."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = folder / "tensorboard"
        goes_on = path.exists()
        if not hasattr(threading.excepthook, "is_ours"):
            # A full disk is told once, and not by a traceback of a thread.
            threading.excepthook = _left_to_the_caller(threading.excepthook)
        self.writer = SummaryWriter(str(path), purge_step=step + 1 if goes_on else None)
        if not goes_on:
            rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
            self.writer.add_text("settings", f"| setting | value |\n| --- | --- |\n{rows}", 0)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        for name, number in numbers.items():
            self.writer.add_scalar(name, number, step)
        # Each line may be the last for long.
        self.writer.flush()

    def picture(self, name: str, path: Path, step: int) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self.writer.add_image(name, pixels, step, dataformats="HWC")

    def finish(self, whole: bool) -> None:
        self.writer.close()


class _MLflow:
    """A run of MLflow: on the server that the environment names, else in a file of the run folder."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        # A server that does not answer must not delay the training by minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        self.metric = Metric
        served = os.environ.get("MLFLOW_TRACKING_URI")
        uri = served or f"sqlite:///{folder / 'mlflow.db'}"
        self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        run_id = _known(folder, "mlflow")
        self.logged: dict[str, int] = {}
        if run_id is None:
            experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "slideduck")
            found = self.client.get_experiment_by_name(experiment)
            place = None if served else (folder / "mlflow").as_uri()
            number = found.experiment_id if found else self.client.create_experiment(experiment, place)
            run_id = self.client.create_run(number, run_name=folder.name).info.run_id
            for name, value in settings.items():
                self.client.log_param(run_id, name, value)
            _keep(folder, "mlflow", run_id)
        else:
            # MLflow cannot take points back: those of steps that are done again are there.
            names = self.client.get_run(run_id).data.metrics
            self.logged = {
                name: max(point.step for point in self.client.get_metric_history(run_id, name)) for name in names
            }
            self.client.update_run(run_id, status="RUNNING")
        self.run_id = run_id

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        # MLflow refuses other characters in names.
        named = {re.sub(r"[^/\w.\- :]", "_", name): value for name, value in numbers.items()}
        new = [self.metric(name, value, now, step) for name, value in named.items() if step > self.logged.get(name, -1)]
        if new:
            self.client.log_batch(self.run_id, metrics=new)

    def picture(self, name: str, path: Path, step: int) -> None:
        self.client.log_artifact(self.run_id, str(path))

    def finish(self, whole: bool) -> None:
        self.client.set_terminated(self.run_id, "FINISHED" if whole else "KILLED")


class _WandB:
    """A run of Weights & Biases: offline in the run folder, unless the environment has a key or a mode."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        import wandb

        self.image = wandb.Image
        chosen = {"WANDB_MODE", "WANDB_API_KEY"} & set(os.environ)
        identity = _known(folder, "wandb") or uuid.uuid4().hex[:8]
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "slideduck"),
            name=folder.name,
            id=identity,
            resume="allow",
            dir=str(folder),
            config=dict(settings),
            mode=None if chosen else "offline",
            settings=wandb.Settings(silent=True, console="off"),
        )
        _keep(folder, "wandb", identity)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        # Points of steps that were told before are dropped by Weights & Biases.
        self.run.log(dict(numbers), step=step)

    def picture(self, name: str, path: Path, step: int) -> None:
        self.run.log({name: self.image(str(path))}, step=step)

    def finish(self, whole: bool) -> None:
        self.run.finish(exit_code=0 if whole else 1)
