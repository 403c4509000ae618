"""A small labelled study without patients: ``from tests.patient_study import SLIDES, write_study``."""

from __future__ import annotations

from pathlib import Path

import slideduck as sd
from tests.slides import write_slide

__all__ = ["SLIDES", "write_study"]

#: Names as cohorts have them: of TCGA, with leading zeros, and short ones.
SLIDES = (
    "007",
    "S0",
    "S1",
    "S2",
    "TCGA-AA-0001-01Z-00-DX1",
    "TCGA-AA-0001-01Z-00-DX2",
    "TCGA-AA-0002-01Z-00-DX1",
)


def write_study(folder: Path) -> Path:
    """Write seven slides and a study of them, labelled: Tumor and stroma on each, Rare on 007, Stroma on S0."""
    lines = ["slide,roi_name,x_base,y_base,label"]
    for i, name in enumerate(SLIDES):
        write_slide(folder / f"{name}.tif", i, size=(128, 128), levels=1, tile=64)
        right = {"007": "Rare", "S0": "Stroma"}.get(name, "stroma")
        for roi, left, label in (("a", 0, "Tumor"), ("b", 64, right)):
            for x, y in ((left, 0), (left + 64, 0), (left + 64, 128), (left, 128)):
                lines.append(f"{name},{roi},{x},{y},{label}")
    (folder / "rois.csv").write_text("\n".join(lines) + "\n")
    path = folder / "study.duckdb"
    with sd.open(path) as study:
        study.add_slides([folder / f"{name}.tif" for name in SLIDES])
        study.add_rois(folder / "rois.csv")
        study.tile(32, tile_um=16)
        study.label()
    return path
