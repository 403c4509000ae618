"""What a run's folder says of it, read and checked: its settings, and the metrics of each epoch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slideduck.errors import RunError
from slideduck.runner.runs.contents import check, config_problems, metrics_problems
from slideduck.runner.settings.jsonfile import read_object

__all__ = ["read_config", "read_history"]


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json of a run: ``settings``, ``classes``, ``beton`` and more.

    Raises
    ------
    RunError
        If there is no run, or the file holds something else.
    """
    try:
        config = read_object(folder / "config.json")
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(folder, error) from error
    check(folder / "config.json", config_problems(config), "the config of a run", "train again with another `run`")
    return config


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Return the metrics of each whole epoch of a run, as metrics.jsonl has them.

    Raises
    ------
    RunError
        If there is no run, its files hold something else, or no epoch is whole yet.
    """
    classes = read_config(folder)["classes"]
    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        history = [json.loads(line) for line in lines]
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(folder, error) from error
    problems = metrics_problems(history, len(classes))
    check(folder / "metrics.jsonl", problems, "the metrics of a run", "training again writes it anew")
    if not history:
        raise RunError(f"{folder}: no epoch is whole yet; there are no curves")
    return history


def _unreadable(folder: Path, error: Exception) -> RunError:
    return RunError(f"{folder}: no run that can be read ({type(error).__name__}: {error}); train first")
