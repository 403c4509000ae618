"""Every command and every line of Python in the README runs, in the order in which it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

import slideduck as sd
from tests.commands import forked_commands
from tests.slides import write_slide

README = Path(__file__).resolve().parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    """Return the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def shell(script: str, folder: Path, commands: Path) -> None:
    """Run a block as a shell does that stops at the first failure, with our command on its path."""
    path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, f"{script}\n{result.stdout}\n{result.stderr}"


@pytest.fixture(scope="module")
def commands() -> Iterator[Path]:
    """A folder with the command ``slideduck``, which need not import everything each time."""
    with tempfile.TemporaryDirectory() as folder, forked_commands(Path(folder)) as made:
        yield made


@pytest.mark.slow
def test_five_minutes_on_your_own_slides(tmp_path: Path, commands: Path) -> None:
    (tmp_path / "slides").mkdir()
    (tmp_path / "rois").mkdir()
    (tmp_path / "second").mkdir()
    (tmp_path / "masks").mkdir()
    rows = ["slide,patient,site"]
    # Few tiles, since the network takes most of the time: a row of four, and of three on the other slides.
    for i, (name, width) in enumerate({"A12": 2100, "A13": 1600, "B1": 1600, "B2": 1600}.items()):
        write_slide(tmp_path / "slides" / f"{name}.tiff", i, size=(width, 800), mpp=0.5, levels=2, tile=256)
        (tmp_path / "rois" / f"{name}.csv").write_text(
            "roi_name,x_base,y_base,label\n"
            + "".join(f"a,{x},{y},tumour\n" for x, y in [(0, 0), (1024, 0), (1024, 800), (0, 800)])
            + "".join(f"b,{x},{y},stroma\n" for x, y in [(1024, 0), (width, 0), (width, 800), (1024, 800)])
        )
        (tmp_path / "second" / f"{name}.csv").write_text(
            "roi_name,x_base,y_base,label\n"
            + "".join(f"a,{x},{y},tumour\n" for x, y in [(0, 0), (900, 0), (900, 800), (0, 800)])
        )
        cv2.imwrite(str(tmp_path / "masks" / f"{name}_mask.png"), np.ones((50, width // 16), np.uint8))
        rows.append(f"{name},patient {i},{name[0]}")
    (tmp_path / "mpp.csv").write_text("slide,mpp\nA12,0.5\n")
    (tmp_path / "patients.csv").write_text("\n".join(rows) + "\n")
    own, _, *others = blocks("sh")
    for block in (own, *others):
        shell(block, tmp_path, commands)
    for name in (
        "tiles.beton",
        "tiles.json",
        "runs/first/best.pt",
        "runs/first/curves.png",
        "A12.png",
        "labels.parquet",
    ):
        assert (tmp_path / name).stat().st_size > 0, name
    script = "\n".join(blocks("python"))
    result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "('stroma', 'tumour')" in result.stdout


@pytest.mark.slow
def test_two_real_slides(shared_data: Path, tmp_path: Path, commands: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "data").symlink_to(shared_data)
    (tmp_path / "work").mkdir()
    shell(blocks("sh")[1], tmp_path / "work", commands)
    assert (tmp_path / "work" / "CMU-1.png").stat().st_size > 0
    with sd.open(tmp_path / "work" / "real.duckdb", read_only=True) as study:
        joined = study.sql("SELECT count(*) FROM labels JOIN predictions USING (grid, tile_id)").fetchall()
        assert joined == study.sql("SELECT count(*) FROM labels").fetchall() == [(1309,)]


def test_columns_that_the_readme_names_are_those_of_labels(tmp_path: Path) -> None:
    text = re.search(r"The view `labels` has a row for each tile: (.*?)\.\s`slides`", README.read_text(), re.DOTALL)
    assert text is not None
    with sd.open(tmp_path / "s.duckdb") as study:
        assert re.findall(r"`(\w+)`", text[1]) == study.sql("FROM labels").columns
