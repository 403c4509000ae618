"""A run's folder: what it holds, whether a command fits it, and how it is put right after a kill.

The checkpoint ``last.pt`` is the one truth: it holds the metrics of every epoch so far, and an epoch
counts once it is in place. Everything else is written after it and made again from it.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from slideduck.errors import RunError
from slideduck.runner import checkpoint

__all__ = ["RunFolder", "versions"]

_FORMAT = "slideduck run"


def versions() -> dict[str, str]:
    """Return the versions of what a run's numbers depend on."""
    packages = ("slideduck", "torch", "ffcv", "numpy", "torchmetrics", "transformers")
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
        self.curves = self.path / "curves.png"
        self.augmented = self.path / "augmented.png"

    def open(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """Make a new run's folder, or check that an old one is of this very run.

        Parameters
        ----------
        identity : mapping
            ``settings``, ``global_batch``, ``classes``, ``beton`` and ``versions``, as in config.json.

        Returns
        -------
        dict or None
            The last checkpoint, or None where no epoch is whole yet.

        Raises
        ------
        RunError
            If the folder is of another run, naming each setting that differs with both values, or is no
            run folder at all.
        """
        if self.config.exists():
            whole = self._merged(identity)
        elif self.path.exists() and any(not item.name.startswith(".") for item in self.path.iterdir()):
            raise RunError(f"{self.path}: not a run folder (it has files, but no config.json); give another --run")
        else:
            whole = {"format": _FORMAT, "version": 1, **identity}
        checkpoint.write_json(self.config, whole)
        return checkpoint.load(self.last) if self.last.exists() else None

    def _merged(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """Return the config of the folder with the epochs of `identity`, or raise if more differs."""
        try:
            there: dict[str, Any] = json.loads(self.config.read_text(encoding="utf-8"))
            before = _comparable(there)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(
                f"{self.config}: not the config of a run ({type(error).__name__}: {error}); give another --run"
            ) from error
        now = _comparable(identity)
        if before["epochs"][0] < now["epochs"][0]:
            # More epochs go on with the same run; see `slideduck.runner.train`.
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
                + "\ngive another --run, or the settings it was started with"
            )
        there["settings"]["epochs"] = identity["settings"]["epochs"]
        there["beton"] = identity["beton"]
        return there

    def commit(self, state: dict[str, Any]) -> None:
        """Save the last checkpoint: from here on its epoch counts."""
        checkpoint.save(self.last, state)

    def write_best(self, state: Mapping[str, Any]) -> None:
        """Save the best checkpoint, without what only resuming needs."""
        checkpoint.save(self.best, {name: value for name, value in state.items() if name != "optimizer"})

    def add_metrics(self, line: Mapping[str, Any]) -> None:
        """Append the metrics of an epoch."""
        checkpoint.append_line(self.metrics, _json_line(line))

    def restore_metrics(self, history: list[dict[str, Any]]) -> None:
        """Make metrics.jsonl what the last checkpoint says, where a kill left it otherwise."""
        text = "".join(_json_line(line) + "\n" for line in history).encode()
        if not self.metrics.exists() or self.metrics.read_bytes() != text:
            checkpoint.write_whole(self.metrics, lambda file: file.write(text))

    def lacks_best(self, best_epoch: int) -> bool:
        """Return True if a kill came between the last checkpoint and the files of its best epoch."""
        if not (self.best.exists() and self.predictions.exists()):
            return True
        facts = pq.read_schema(self.predictions).metadata or {}
        return int(facts.get(b"epoch", b"0")) != best_epoch or checkpoint.load(self.best)["epoch"] != best_epoch


def _json_line(values: Mapping[str, Any]) -> str:
    """Return one line of JSON."""
    return json.dumps(values, ensure_ascii=False, allow_nan=False)


def _comparable(identity: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """Return what must be equal for a run to go on: by name, what is compared and what is shown.

    The global batch counts, not its parts: two processes with batches of 32 train as one with 64. A
    beton may move, as long as its side-car is the same.
    """
    settings = dict(identity["settings"])
    del settings["batch_size_per_rank"]
    beton = identity["beton"]
    return {
        **{name: (value, "not set" if value is None else str(value)) for name, value in settings.items()},
        "batch size of all processes": (identity["global_batch"], str(identity["global_batch"])),
        "beton": (beton["sidecar_sha256"], f"{beton['path']} (side-car {beton['sidecar_sha256'][:12]})"),
    }
