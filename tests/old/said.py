"""What a version before said of the files that it left: ``from tests.old.said import Said``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["Said", "curve_of"]


def curve_of(metrics: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl, without the times, which differ from call to call."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(("time/", "throughput/"))} for line in lines]


class Said:
    """The files beside ``made.tar.xz``, see make_old.py."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.expected: dict[str, Any] = json.loads((folder / "expected.json").read_text())

    def table(self, name: str) -> pa.Table:
        """Return the rows of ``labels``, ``predictions`` or ``features``."""
        return pq.read_table(self.folder / f"{name}.parquet")

    def evaluation(self) -> dict[str, Any]:
        """Return what `slideduck evaluate` said of the run ``first``."""
        found: dict[str, Any] = json.loads((self.folder / "evaluation.json").read_text())
        return found

    def curve(self, run: str) -> list[dict[str, Any]]:
        """Return the metrics of a run that nothing interrupts."""
        return curve_of(self.folder / "curves" / f"{run}.jsonl")
