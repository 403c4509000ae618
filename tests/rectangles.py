"""ROI files of rectangles for tests: ``from tests.rectangles import write_rois``."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

__all__ = ["Box", "write_rois"]

#: Left, top, right and bottom, base pixels.
Box = tuple[float, float, float, float]


def write_rois(path: Path, rois: Mapping[str, tuple[str, Box]]) -> None:
    """Write rectangles as Slideflow's CSV: label and box by name."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["roi_name", "x_base", "y_base", "label"])
        for name, (label, (left, top, right, bottom)) in rois.items():
            rows.writerows((name, x, y, label) for x, y in [(left, top), (right, top), (right, bottom), (left, bottom)])
