"""Slideflow's complete example of strong supervision, in ours: as short, and on the same tiles with the same labels.

`slideflow_frame.csv` is what `get_tile_dataframe` of Slideflow 3.0.2 gives for the slides and ROIs below (torch and
libvips as its backends), whose ROIs do not overlap.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import slideduck as sd
from tests.slides import write_slide

README = Path(__file__).resolve().parents[2] / "README.md"
FRAME = Path(__file__).with_name("slideflow_frame.csv")

#: Lines of Slideflow's example (docs/source/tile_labels.rst), without comments and empty ones: import, load_project,
#: dataset, the frame, its filter, the dataset's filter, the split, six lines of ModelParams, five of build_trainer,
#: train.
LINES_OF_SLIDEFLOW = 19


def write_cohort(folder: Path) -> None:
    """Write four slides of 5 x 3 tiles, and on each two ROIs of four corners."""
    for name in ("slides", "rois"):
        (folder / name).mkdir()
    for i, name in enumerate(("A12", "A13", "B1", "B2")):
        write_slide(folder / "slides" / f"{name}.svs", i, size=(704, 448), mpp=0.5, tile=64, vendor="aperio")
        shift = 30 * i
        left = [(20, 10), (300 + shift, 40), (280, 400), (60, 430 - shift)]
        right = [(360 + shift, 30), (690, 60), (640, 420), (400 + shift, 300)]
        (folder / "rois" / f"{name}.csv").write_text(
            "roi_name,x_base,y_base,label\n"
            + "".join(f"left,{x},{y},tumour\n" for x, y in left)
            + "".join(f"right,{x},{y},stroma\n" for x, y in right)
        )


@pytest.mark.slow  # a ResNet-18 is trained, and FFCV's pipeline compiled
def test_the_example_of_the_readme_is_slideflows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cohort(tmp_path)
    monkeypatch.chdir(tmp_path)
    with sd.open("study.duckdb") as study:
        study.add_slides("slides")
        study.add_rois("rois")
        study.tile(64, tile_um=64)
        study.label()
    block = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)[0]
    code = [line for line in block.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(code) <= LINES_OF_SLIDEFLOW
    names: dict[str, Any] = {}
    exec(block, names)
    # The same tiles, coordinates, ROIs and labels; Slideflow's slides come in an order of its own.
    slideflow = pd.read_csv(FRAME, index_col=0).sort_values(["slide", "grid_y", "grid_x"])
    ours = names["df"]
    assert len(ours) == 48
    pd.testing.assert_frame_equal(ours, slideflow, check_dtype=False, check_names=False)
    # And these are what was trained on.
    run = names["run"]
    sidecar = sd.read_sidecar(run.beton)
    assert sidecar.tile_id.tolist() == ours.index.tolist()
    assert [sidecar.classes[number] for number in sidecar.class_number] == ours.label.tolist()
    assert run.classes == ("stroma", "tumour")
    assert run.path == tmp_path / "runs" / "python"
    assert 0 <= run.metrics["balanced_accuracy"] <= 1
    names["study"].close()
