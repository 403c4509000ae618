"""What a command is asked for is checked before torch is imported: a mistyped word is answered at once."""

from __future__ import annotations

import subprocess
import sys
from ast import literal_eval
from pathlib import Path

import pytest

import slideduck as sd
from tests.runner.betons import two_textures, write_beton
from tests.slides import write_slide

#: A run of which nothing but its name is looked at.
_RUN = "runs/first"

_NO_BETON = "no beton at {here}/nofile.beton; make it with: slideduck export STUDY {here}/nofile.beton"
_NO_RUN = "{here}/runs/frist/best.pt: no such checkpoint; did you mean the run {here}/runs/first?"
_NO_SLIDE = (
    "study.duckdb has no slide 'B'; see which there are with: slideduck sql study.duckdb 'SELECT slide FROM slides'"
)

#: The words of a command, and the end of the only line that it says.
_WRONG = (
    ("train nofile.beton --run runs/new", _NO_BETON),
    ("train tiles.beton --run runs/new --target patient:stge",
     "{here}/tiles.beton: target is 'patient:stge', but its side-car has no column 'stge' of the patients' table; it "
     "has stage; "
     "did you mean 'stage'?: add the column (slideduck add-patients STUDY TABLE) and export again"),
    ("train tiles.beton --run runs/new --val-split vall",
     "{here}/tiles.beton: no labelled tile to validate with in split 'vall'; it has split train: 24 tiles, split "
     "val: 6 "
     "tiles and 0 without a label; choose another with --val-split, or split the study (slideduck split STUDY) and "
     "export "
     "again"),
    ("train tiles.beton --run .", "{here}: not a run folder (it has files, but no config.json); give another --run"),
    ("train tiles.beton --run runs/new --weights best.pth",
     "weights: there is no best.pth; give a file, or a folder with model.safetensors or a run"),
    ("train tiles.beton --run runs/new --track wandb",
     "track is 'wandb' but wandb is not installed; pip install 'slideduck[wandb]', or leave it out"),
    ("evaluate runs/frist tiles.beton", _NO_RUN),
    ("evaluate runs tiles.beton",
     "{here}/runs/best.pt: no such checkpoint; {here}/runs holds several runs: give one of them, first"),
    ("evaluate runs/first nofile.beton", _NO_BETON),
    ("evaluate runs/first tiles.beton --split tset",
     "{here}/tiles.beton: no labelled tile in split 'tset'; it has split train: 24 tiles, split val: 6 tiles and 0 "
     "without a label"),
    ("evaluate runs/first tiles.beton --where labl=1",
     "{here}/tiles.beton: the condition 'labl=1' cannot be used: Binder Error: Referenced column \"labl\" not found in "
     "FROM clause!; give one SQL condition on the columns row, tile_id, slide, patient, site, split, fold, label, "
     "class, "
     "roi_name, grid_x, grid_y, loc_x, loc_y, stage"),
    ("evaluate runs/first tiles.beton --thresholds no.json",
     "no file no.json; give the JSON of an evaluation, or a run's validation.json"),
    ("predict typo study.duckdb",
     "{here}/typo/best.pt: no such checkpoint; train first (slideduck train OUT.beton --run {here}/typo)"),
    ("predict runs/first nofile.beton", _NO_BETON),
    ("predict runs/first study.duckdb --slide B", _NO_SLIDE),
    ("predict runs/first study.duckdb --grid 256px", "study.duckdb has no grid '256px'; it has 32px_16um"),
    ("predict runs/first tiles.beton --out no/p.parquet",
     "no folder {here}/no to write p.parquet in; make the folder first"),
    ("heatmap runs/first study.duckdb B B.png", _NO_SLIDE),
    ("heatmap runs/first study.duckdb A A.jpg", "A.jpg has the suffix .jpg; name it A.png, A.pdf or A.svg"),
    ("heatmap runs/first study.duckdb A no/A.png", "no folder {here}/no to write A.png in; make the folder first"),
    ("features runs/frist study.duckdb", _NO_RUN),
    ("features runs/first study.duckdb --format h5",
     "format is 'h5' without a folder for the files; name one, or leave the format out"),
    ("features runs/first study.duckdb --slide B", _NO_SLIDE),
    ("gradcam runs/first study.duckdb A-16-16 tiles.gif",
     "tiles.gif has the suffix .gif; name it tiles.png, tiles.pdf or tiles.svg"),
    ("gradcam runs/first nofile.beton A-16-16 tiles.png", _NO_BETON),
    ("export-model runs/first model.pb", "{here}/model.pb: ends in neither .onnx nor .safetensors; name the file so"),
    ("export-model runs/frist model.onnx", _NO_RUN),
    ("plot curves runs/first curves.jpg",
     "curves.jpg has the suffix .jpg; name it curves.png, curves.pdf or curves.svg"),
    ("plot roc runs/frist roc.png",
     "no run at {here}/runs/frist; give a run's folder, or a Parquet that slideduck evaluate wrote"),
    ("plot worst runs/first tiles.beton worst.png",
     "{here}/runs/first holds no predictions of labelled tiles; train it, or evaluate it on a beton"),
)  # fmt: skip


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study of one slide, a beton, and a run of which there is little."""
    folder = tmp_path_factory.mktemp("first")
    write_slide(folder / "A.tif", 0, size=(128, 128), levels=1, tile=64)
    with sd.open(folder / "study.duckdb") as study:
        study.add_slides(folder / "A.tif")
        study.tile(32, tile_um=16)
    columns = {f"S{i}": {"stage": "I" if i % 2 else "II"} for i in range(3)}
    write_beton(folder / "tiles.beton", two_textures(30), columns_of=columns)
    run_folder = folder / _RUN
    run_folder.mkdir(parents=True)
    for name in ("config.json", "best.pt"):
        (run_folder / name).touch()
    return folder


def test_mistyped_words_are_answered_without_torch(here: Path) -> None:
    """One process for all: with torch imported in this one, none could tell."""
    code = (
        "import contextlib, io, sys, shlex\n"
        "from slideduck.cli.group import cli\n"
        "for words in sys.stdin.read().splitlines():\n"
        "    said = io.StringIO()\n"
        "    with contextlib.redirect_stderr(said):\n"
        "        try: cli(shlex.split(words))\n"
        "        except SystemExit as end: status = end.code\n"
        "    print(repr((status, 'torch' in sys.modules, said.getvalue())))\n"
    )
    words = "\n".join(command for command, _ in _WRONG)
    ended = subprocess.run([sys.executable, "-c", code], input=words, capture_output=True, text=True, cwd=here)
    assert ended.stderr == ""
    found = [literal_eval(line) for line in ended.stdout.splitlines()]
    for (command, message), each in zip(_WRONG, found, strict=True):
        assert each == (1, False, f"error: {message.format(here=here)}\n"), command
