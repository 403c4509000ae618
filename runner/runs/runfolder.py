"""A run's folder: its files, whether a command fits it, and how it is repaired after a kill.

The newest checkpoint decides: ``last.pt`` after each epoch, and those of ``checkpoints`` within
one. It holds the metrics of every epoch so far, and an epoch counts once ``last.pt`` is in place.
Everything else is written after it and made again from it.
"""

from __future__ import annotations

import json
import math
import platform
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from slideduck.errors import RunError
from slideduck.runner.runs import checkpoint
from slideduck.runner.runs.contents import check, config_problems, validation_problems
from slideduck.runner.runs.predictions import epoch_of_predictions
from slideduck.runner.settings.folders import refuse_other_folder
from slideduck.runner.settings.jsonfile import read_object
from slideduck.words import message

__all__ = ["RunFolder", "versions"]

_FORMAT = "slideduck run"

#: Checkpoints within an epoch that are kept.
STEP_CHECKPOINTS = 3

#: Settings that change files and messages, but no number: a run may resume with others.
_FREE_SETTINGS = ("checkpoint_steps", "checkpoint_minutes", "log_steps", "shard", "track", "unused_parameters")
#: Settings that count by what they multiply to, the global batch.
_PARTS_OF_BATCH = ("batch_size_per_rank", "accumulate")


def versions() -> dict[str, str]:
    """Return the versions of the packages that a run's numbers depend on."""
    packages = ("slideduck", "torch", "ffcv", "numpy", "transformers")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


class RunFolder:
    """The files of one run.

    Parameters
    ----------
    path : path
        The folder; it need not exist.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.jsonl"
        self.last = self.path / "last.pt"
        self.best = self.path / "best.pt"
        self.predictions = self.path / "predictions.parquet"
        self.validation = self.path / "validation.json"
        self.curves = self.path / "curves.png"
        self.augmented = self.path / "augmented.png"
        self.card = self.path / "README.md"
        self.steps = self.path / "steps.jsonl"
        self.checkpoints = self.path / "checkpoints"

    def open(self, identity: Mapping[str, Any]) -> tuple[dict[str, Any] | None, list[str]]:
        """Make a new run's folder, or check that an old one is of this very run.

        Parameters
        ----------
        identity : mapping
            ``settings``, ``global_batch``, ``classes``, ``beton`` and ``versions``, as in config.json.

        Returns
        -------
        state : dict or None
            The newest checkpoint that can be read, or None where there is none yet.
        damaged : list of str
            What is wrong with each newer one.

        Raises
        ------
        RunError
            If the folder is of another run, naming each setting that differs with both values, or is no
            run folder at all; or if there are checkpoints and none can be read.
        """
        if self.config.exists():
            whole = self._merged(identity)
        else:
            refuse_other_folder(self.path)
            whole = {"format": _FORMAT, "version": 1, **identity}
        checkpoint.write_sealed(self.config, whole)
        return self._newest()

    def step_checkpoint(self, step: int) -> Path:
        """Return where the checkpoint of a step within an epoch is."""
        return self.checkpoints / f"step-{step:08}.pt"

    @property
    def has_checkpoints(self) -> bool:
        """True where a run left one, so that it goes on from there."""
        return self.last.exists() or bool(self._step_checkpoints())

    def _step_checkpoints(self) -> list[tuple[int, Path]]:
        """Return the checkpoints within epochs with their steps, the newest first."""
        found = [
            (int(match[1]), path)
            for path in self.checkpoints.glob("step-*.pt")
            if (match := re.fullmatch(r"step-(\d+)\.pt", path.name))
        ]
        return sorted(found, reverse=True)

    def _newest(self) -> tuple[dict[str, Any] | None, list[str]]:
        """Return the newest checkpoint that can be read, and the problems of newer ones."""
        state: dict[str, Any] | None = None
        errors: list[RunError] = []
        damaged: list[Path] = []
        if self.last.exists():
            try:
                state = checkpoint.load(self.last)
            except RunError as error:
                errors.append(error)
        for step, path in self._step_checkpoints():
            if state and step <= state["step"]:
                break
            try:
                state = checkpoint.load(path)
                break
            except RunError as error:
                errors.append(error)
                damaged.append(path)
        if state is None and errors:
            raise errors[0]
        # They are not to count among the last three.
        for path in damaged:
            path.unlink()
        return state, [str(error).partition(";")[0] for error in errors]

    def _merged(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """Return the config of the folder with the epochs of `identity`, or raise if more differs."""
        there = read_object(self.config)
        check(self.config, config_problems(there), "the config of a run", "give another `run`")
        before, now = _comparable(there), _comparable(identity)
        if "epochs" in before and before["epochs"][0] < now["epochs"][0]:
            # More epochs go on with the same run; see `slideduck.runner.training.train`.
            before["epochs"] = now["epochs"]
        nothing = (None, "not set")
        different = [
            f"  {name}: {before.get(name, nothing)[1]} there, {now.get(name, nothing)[1]} here"
            for name in dict.fromkeys([*now, *before])
            if before.get(name, nothing)[0] != now.get(name, nothing)[0]
        ]
        if different:
            raise RunError(
                f"{self.path}: this run was started with other settings:\n"
                + "\n".join(different)
                + "\ngive another `run`, or the settings it was started with"
            )
        for name in ("epochs", *_FREE_SETTINGS):
            there["settings"][name] = identity["settings"][name]
        there["beton"] = identity["beton"]
        return there

    def commit(self, state: dict[str, Any]) -> None:
        """Save the last checkpoint: from now on its epoch counts."""
        checkpoint.save(self.last, state)

    def commit_step(self, state: dict[str, Any]) -> None:
        """Save a checkpoint within an epoch, and remove those that are older than the last three."""
        checkpoint.make_folder(self.checkpoints)
        checkpoint.save(self.step_checkpoint(state["step"]), state)
        for _step, path in self._step_checkpoints()[STEP_CHECKPOINTS:]:
            path.unlink(missing_ok=True)
        # A kill may have left one half-written, and these are large.
        for path in self.checkpoints.glob(".step-*.pt*.tmp"):
            path.unlink(missing_ok=True)

    def write_best(self, state: Mapping[str, Any]) -> None:
        """Save the best checkpoint, without the state that only resuming needs."""
        resuming = ("optimizer", "trained", "buffers_of_ranks")
        checkpoint.save(self.best, {name: value for name, value in state.items() if name not in resuming})

    def add_metrics(self, line: Mapping[str, Any]) -> None:
        """Append the metrics of an epoch."""
        checkpoint.append_line(self.metrics, _json_line(line))

    def restore_metrics(self, history: list[dict[str, Any]]) -> None:
        """Write metrics.jsonl anew from the last checkpoint, if a kill left it different."""
        text = "".join(_json_line(line) + "\n" for line in history).encode()
        if not self.metrics.exists() or self.metrics.read_bytes() != text:
            checkpoint.write_whole(self.metrics, lambda file: file.write(text))

    def add_step(self, line: Mapping[str, Any]) -> None:
        """Append a line to steps.jsonl; it need not survive a power cut."""
        checkpoint.append_line(self.steps, _json_line(line), durable=False)

    def restore_steps(self, step: int) -> None:
        """Remove lines after a step, and a half-written one, from steps.jsonl after a kill."""
        if not self.steps.exists():
            return
        text = self.steps.read_bytes()
        kept = b"".join(line for line in text.splitlines(keepends=True) if _step_of(line) <= step)
        if kept != text:
            checkpoint.write_whole(self.steps, lambda file: file.write(kept))

    def best_beyond(self, epoch: int) -> dict[str, Any] | None:
        """Return the facts of ``best.pt``, if it is of an epoch that the run will do again."""
        if not (self.best.exists() and self.predictions.exists()):
            return None
        try:
            state = checkpoint.load(self.best)
        except RunError:
            return None  # `lacks_best` says so.
        return dict(state["best"]) if state["epoch"] > epoch else None

    def write_validation(self, values: Mapping[str, Any]) -> None:
        """Write the assessment of the best epoch on the validation tiles."""
        checkpoint.write_sealed(self.validation, values)

    def read_validation(self) -> dict[str, Any]:
        """Return what `write_validation` wrote; nothing if the file is missing or damaged."""
        try:
            values = read_object(self.validation)
        except (FileNotFoundError, RunError):
            return {}
        return {} if validation_problems(values) else values

    def epoch_of_validation(self) -> int | None:
        """Return the epoch that validation.json is of; None where there is none."""
        epoch = self.read_validation().get("epoch")
        return epoch if isinstance(epoch, int) else None

    def lacks_best(self, best_epoch: int) -> bool:
        """Return True if a kill came between the last checkpoint and the files of its best epoch, or one is damaged."""
        if not (self.best.exists() and self.predictions.exists()):
            return best_epoch > 0
        try:
            epochs = {epoch_of_predictions(self.predictions), checkpoint.load(self.best)["epoch"]}
        except RunError as error:
            message(f"warning: {str(error).partition(';')[0]}; it is made again, if it can be")
            return True
        return epochs != {best_epoch}


def _step_of(line: bytes) -> float:
    """Return the step of a line of steps.jsonl; infinity for one that is not whole."""
    try:
        return int(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


def _json_line(values: Mapping[str, Any]) -> str:
    """Return one line of JSON."""
    return json.dumps(values, ensure_ascii=False, allow_nan=False)


def _comparable(identity: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """Return what must be equal for a run to go on: by name, what is compared and what is shown.

    The global batch counts, not its parts: two processes with batches of 32 train as one with 64, and as
    one that accumulates two batches of 32. A beton may move, as long as its side-car is the same.
    """
    settings = dict(identity["settings"])
    for name in (*_PARTS_OF_BATCH, *_FREE_SETTINGS):
        settings.pop(name, None)
    beton = identity["beton"]
    classes = identity["classes"]
    return {
        **{name: (value, "not set" if value is None else str(value)) for name, value in settings.items()},
        "batch size of all processes": (identity["global_batch"], str(identity["global_batch"])),
        "classes": (classes, ", ".join(classes)),
        "beton": (beton["sidecar_sha256"], f"{beton['path']} (side-car {beton['sidecar_sha256'][:12]})"),
    }
