"""Lets Slideflow make a project and a frame of tiles, which the tests of import and export compare with.

    PYTHON tests/from_slideflow/make.py

PYTHON has slideflow 3.0.2 with pyvips, numpy, pandas, shapely, rasterio, scikit-image, torch, OpenCV and tifffile;
what else it imports and does not use here (torchvision, timm, …) is stood in for where it is not installed. All files
beside this but the modules are Slideflow's own, written by ``Project``, ``Project.add_source``, ``Dataset.split``,
``Dataset.kfold_split``, ``Project.extract_tiles`` and ``Dataset.get_tile_dataframe``; slides, records of tiles and what
is empty are left out, and named in ``layout.txt``. The project was made in `MADE_IN`, which its files name.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import logging
import os
import random
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE.parents[1])

from tests.from_slideflow.painted import ANNOTATIONS, MAGNIFICATION, TILE_PX, TILE_UM, paint_slides, write_regions  # noqa: E402

#: Where the project is made; it is emptied first.
MADE_IN = Path("/tmp/slideflow-made")

#: What Slideflow imports at once and needs for networks, settings of searches and windows alone.
UNUSED = (
    "torchvision", "pretrainedmodels", "timm", "cellpose", "saliency", "ConfigSpace", "smac", "triangle", "spacy",
    "segmentation_models_pytorch", "fastai", "imgui", "glfw", "OpenGL", "pyperclip", "lifelines", "cucim",
)  # fmt: skip


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a stand-in for packages that are not installed."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """Return a stand-in for what is not used here."""
        is_unused = name.partition(".")[0] in UNUSED
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if is_unused else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Return a module that has whatever is asked of it."""
        module = MagicMock(name=spec.name)
        module.__path__, module.__spec__, module.__name__ = [], spec, spec.name
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing."""


def main() -> None:
    """Make the project and the frame, and keep what is small of them."""
    sys.meta_path.append(_Absent())
    os.environ.update(SF_BACKEND="torch", SF_SLIDE_BACKEND="libvips")
    import slideflow as sf

    sf.setLoggingLevel(logging.ERROR)
    random.seed(0)
    shutil.rmtree(MADE_IN, ignore_errors=True)
    MADE_IN.mkdir()
    paint_slides(MADE_IN / "slides")
    write_regions(MADE_IN / "regions")
    (MADE_IN / "cohort.csv").write_text(ANNOTATIONS)
    root = MADE_IN / "project"
    project = sf.Project(str(root), create=True, name="Painted", annotations="./annotations.csv")
    shutil.copy(MADE_IN / "cohort.csv", root / "annotations.csv")
    # Each source as people have them: one with all its folders named, one with Slideflow's own.
    shutil.copytree(MADE_IN / "regions" / "south", root / "roi" / "south")
    project.add_source(
        "north", slides=str(MADE_IN / "slides" / "north"), roi=str(MADE_IN / "regions" / "north"),
        tiles=str(root / "tiles" / "north"),
    )  # fmt: skip
    project.add_source("south", slides=str(MADE_IN / "slides" / "south"))
    dataset = project.dataset(tile_px=TILE_PX, tile_um=TILE_UM, verification=None)
    frame = dataset.get_tile_dataframe()
    magnified = project.dataset(tile_px=TILE_PX, tile_um=MAGNIFICATION, verification=None).get_tile_dataframe()
    dataset.split(val_strategy="fixed", val_fraction=0.34, splits=str(root / "splits.json"))
    dataset.kfold_split(3, splits=str(root / "splits.json"))
    project.extract_tiles(tile_px=TILE_PX, tile_um=TILE_UM, report=False, num_threads=1, qc=None)
    keep(root, {"frame": frame, "frame_magnified": magnified})


def keep(root: Path, frames: dict[str, Any]) -> None:
    """Keep the small files beside this, and the names of the others."""
    kept = HERE / "project"
    shutil.rmtree(kept, ignore_errors=True)
    for name in ("settings.json", "datasets.json", "annotations.csv", "splits.json"):
        kept.mkdir(exist_ok=True)
        shutil.copy(root / name, kept / name)
    shutil.copytree(root / "roi", kept / "roi")
    shutil.copytree(MADE_IN / "regions" / "north", kept / "regions" / "north")
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    (HERE / "layout.txt").write_text("\n".join(files) + "\n")
    for name, frame in frames.items():
        frame.sort_values(["slide", "grid_y", "grid_x"]).to_csv(HERE / f"{name}.csv")


if __name__ == "__main__":
    main()
