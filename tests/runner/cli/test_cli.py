"""The runner's commands: what they print, and how they end."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import slideduck as sd
from slideduck.cli.group import cli
from slideduck.runner.cli import demo, train, use
from slideduck.runner.settings.jsonfile import read_object
from slideduck.runner.settings.train_config import TrainConfig
from tests.slides import write_slide

COMMANDS = ("train", "evaluate", "predict", "heatmap", "features", "gradcam", "export-model", "demo")
TINY = ("--model", "networks:tiny", "--batch-size", "16", "--lr", "0.01", "--nproc", "1")


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


@pytest.fixture(scope="module")
def trained(beton: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    here = Path.cwd()
    os.chdir(Path(__file__).parents[1])
    try:
        result = run("train", beton, "--run", folder, "--epochs", 2, *TINY)
    finally:
        os.chdir(here)
    assert result.exit_code == 0, result.output
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_an_example_that_parses(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # A study that is not there is refused at once.
    (tmp_path / "study.duckdb").touch()
    result = run(name, "--help")
    assert result.exit_code == 0
    example = result.output.split("Example:")[1].partition("\n\n")[0].rstrip().splitlines()[-1]
    words = shlex.split(example)
    assert words[:2] == ["slideduck", name]
    module = {"train": train, "demo": demo}.get(name, use)
    command = getattr(module, name.replace("-", "_"))
    assert isinstance(command, click.Command)
    command.make_context(name, words[2:])


def test_every_setting_is_an_option_with_its_default_and_its_sentence() -> None:
    options = {option.name: option for option in train.train.params}
    for item in fields(TrainConfig):
        option = options[item.name]
        assert isinstance(option, click.Option)
        assert option.default == item.default
        assert option.help == item.metadata["text"]


def test_commands_import_no_torch_before_they_run() -> None:
    modules = ", ".join(f"slideduck.runner.cli.{name}" for name in ("demo", "main", "plots", "train", "use"))
    code = f"import sys, slideduck.cli.group, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_train_prints_the_best_epoch(beton: Path, trained: Path) -> None:
    # A finished run answers at once, with the same.
    result = run("train", beton, "--run", trained, "--epochs", 2, *TINY)
    assert result.exit_code == 0
    assert re.search(r"^validation, epoch [12] of 2 \(best\)", result.stdout)
    assert re.search(r"balanced_accuracy +│ [01]\.\d{4} │", result.stdout)
    assert result.stdout.endswith(f"run: {trained}\n")
    assert f"{trained}: finished, 2 of 2 epochs" in result.stderr
    result = run("train", beton, "--run", trained, "--epochs", 2, *TINY, "--json")
    assert json.loads(result.stdout)["best_epoch"] in (1, 2)


def test_what_is_wrong_ends_with_1_and_its_message(beton: Path, trained: Path, tmp_path: Path) -> None:
    result = run("train", beton, "--run", trained, "--epochs", 0, *TINY)
    assert (result.exit_code, result.stderr) == (1, "error: epochs is 0; it must be 1 or more\n")
    result = run("train", beton, "--run", trained, "--epochs", 2, *TINY, "--seed", 3)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"error: {trained}: this run was started with other settings:\n  seed: 0 there, 3 here\n"
        "give another --run, or the settings it was started with\n"
    )
    missing = tmp_path / "none.beton"
    result = run("train", missing, "--run", tmp_path / "new", *TINY)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: no beton at {missing}")
    assert not (tmp_path / "new").exists()
    assert run("train", beton).exit_code == 2
    assert run("train", beton, "--run", trained, "--balance", "sampler").exit_code == 2


def test_evaluate_prints_a_table_or_json(beton: Path, trained: Path) -> None:
    result = run("evaluate", trained, beton, "--split", "val", "--checkpoint", "last")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"tiles.beton, split val, epoch 2 of {trained}")
    parquet = trained / "evaluations" / "tiles-val-last.parquet"
    assert result.stdout.endswith(f"predictions: {parquet}\n")
    assert parquet.exists()
    result = run("evaluate", trained, beton, "--split", "val", "--checkpoint", "last", "--json")
    assert json.loads(result.stdout) == read_object(parquet.with_suffix(".json"))


def test_conditions_choose_tiles_and_say_what_they_leave_out(beton: Path, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ("train", beton, "--run", folder, "--epochs", 1, *TINY, "--where", "label = 'stripes' OR row % 2 = 0")
    result = run(*words, "--train-where", "slide < 'S4'", "--val-where", "slide = 'S7'")
    assert result.exit_code == 0, result.output
    told = result.stderr.splitlines()
    sides = re.fullmatch(r"training networks:tiny on (\d+) tiles, validating on (\d+), 2 classes .*", told[0])
    left_out = re.fullmatch(r"(\d+) labelled tiles that do not meet label = .* row % 2 = 0 are left out", told[1])
    assert sides is not None
    assert left_out is not None
    # Slides S0 to S3 train and S7 validates: 200 tiles of 40 a slide.
    assert sum(map(int, (*sides.groups(), left_out[1]))) == 200
    result = run("evaluate", trained, beton, "--split", "val", "--where", "slide = 'S7'")
    assert result.exit_code == 0, result.output
    assert result.stderr == "40 tiles are evaluated; 40 labelled ones do not meet slide = 'S7'\n"
    assert result.stdout.startswith("tiles.beton, split val, where slide = 'S7', epoch ")
    assert result.stdout.endswith(f"predictions: {trained / 'evaluations' / 'tiles-val-where-10bf39bd-best.parquet'}\n")


def test_evaluate_prints_patients_intervals_thresholds_and_tables(beton: Path, trained: Path, tmp_path: Path) -> None:
    words = ("--out", tmp_path / "all.parquet", "--thresholds", trained / "validation.json", "--by", "split")
    result = run("evaluate", trained, beton, *words)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert re.search(r"metric +┃ +tiles ┃ +slides ┃ +patients", lines[2])
    number = r"[01]\.\d{4} \([01]\.\d{3}–[01]\.\d{3}\)"
    assert any(re.fullmatch(rf"│ balanced_accuracy +│ {number} │ {number} │ {number} │", line) for line in lines)
    assert "in parentheses: 95 % intervals, 1,000 resamples of 8 patients with all their tiles" in lines
    assert f"thresholds of {trained / 'validation.json'}" in lines
    assert any(re.match(r"│ tiles +│ chequers +│ youden +│", line) for line in lines)
    assert "by split" in lines
    assert any(re.match(r"│ val +│ +80 │ +2 │ +2 │", line) for line in lines)
    result = run("evaluate", trained, beton, "--split", "val", "--out", tmp_path / "val.parquet")
    assert (
        "no confidence intervals: the tiles are of 2 patients, and resampling needs at least 5"
        in result.stdout.splitlines()
    )


def test_predict_and_heatmap(trained: Path, tmp_path: Path) -> None:
    write_slide(tmp_path / "A.tif", 0, size=(320, 200))
    study = tmp_path / "study.duckdb"
    with sd.open(study) as opened:
        opened.add_slides(tmp_path / "A.tif")
        opened.tile(32, tile_um=16)
    result = run("predict", trained, study)
    assert result.exit_code == 0, result.output
    assert result.stdout == "60 tiles of 1 slide predicted, grid 32px_16um\n"
    result = run("predict", trained, study, "--slide", "A", "--json")
    assert json.loads(result.stdout) == {
        "run": "run", "grid": "32px_16um", "predicted": [], "skipped": ["A"], "tiles": 0,
    }  # fmt: skip
    result = run("predict", trained, study)
    assert result.stdout == "0 tiles of 0 slides predicted, grid 32px_16um\n"
    assert result.stderr == "1 slide predicted before; --overwrite predicts again\n"
    result = run("heatmap", trained, study, "A", tmp_path / "A.png")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'A.png'}\n")
    assert (tmp_path / "A.png").exists()
    result = run("predict", trained, study, "--slide", "B")
    assert result.exit_code == 1
    assert result.stderr == (
        "error: study.duckdb has no slide 'B'; see which there are with: slideduck sql study.duckdb 'SELECT slide FROM "
        "slides'\n"
    )


def test_predict_says_how_to_make_the_grid_and_which_slides_there_are(trained: Path, tmp_path: Path) -> None:
    write_slide(tmp_path / "A.tif", 0, size=(128, 128))
    study = tmp_path / "study.duckdb"
    with sd.open(study) as opened:
        opened.add_slides(tmp_path / "A.tif")
        opened.tile(64, tile_um=32)
    result = run("predict", trained, study)
    make = "slideduck tile study.duckdb --tile-px 32 --tile-um 16"
    assert result.stderr == (
        "error: study.duckdb has no grid '32px_16um', which the network was trained on; it has 64px_32um: name one "
        f"with --grid, or make it with: {make}\n"
    )
    assert run(*make.replace("study.duckdb", str(study)).split()[1:]).exit_code == 0
    said = run("predict", trained, study, "--slide", "B").stderr
    assert "A" in run(*shlex.split(said.split(": ")[-1].replace("study.duckdb", str(study)))[1:]).stdout
    assert run("predict", trained, study, "--slide", "A").stdout.endswith(" of 1 slide predicted, grid 32px_16um\n")


def test_features_go_to_files_or_a_table(beton: Path, trained: Path, tmp_path: Path) -> None:
    write_slide(tmp_path / "A.tif", 0, size=(320, 200))
    study = tmp_path / "study.duckdb"
    with sd.open(study) as opened:
        opened.add_slides(tmp_path / "A.tif")
        opened.tile(32, tile_um=16)
    result = run("features", trained, study)
    assert result.exit_code == 0, result.output
    assert result.stdout == "features of 60 tiles of 1 slide, 16 numbers each, grid 32px_16um: features_16\n"
    result = run("features", trained, study)
    assert result.stdout == "features of 0 tiles of 0 slides, 16 numbers each, grid 32px_16um: features_16\n"
    assert result.stderr == "1 slide there before; --overwrite computes again\n"
    out = tmp_path / "out"
    result = run("features", trained, beton, out, "--format", "h5", "--slide", "S3", "--json")
    assert json.loads(result.stdout) == {
        "run": "run", "grid": "32px_16um", "into": str(out), "width": 16,
        "computed": ["S3"], "skipped": [], "tiles": 40,
    }  # fmt: skip
    assert [path.name for path in out.iterdir()] == ["S3.h5"]


def test_export_model_says_what_it_wrote(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    result = run("export-model", trained, out, "--checkpoint", "last")
    size = out.stat().st_size / 1e6
    assert (result.exit_code, result.stdout) == (0, f"{out}: epoch 2, {size:.1f} MB, classes stripes, chequers\n")
    result = run("export-model", trained, tmp_path / "model.pt")
    assert (result.exit_code, result.stderr) == (
        1, f"error: {tmp_path / 'model.pt'}: ends in neither .onnx nor .safetensors; name the file so\n",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("nproc", ["1", "2"])
def test_ctrl_c_ends_training_with_130_and_keeps_what_was_whole(nproc: str, beton: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ["train", str(beton), "--run", str(folder), "--model", "networks:tiny", "--epochs", "100000",
             "--batch-size", "16", "--nproc", nproc]  # fmt: skip
    command = [sys.executable, "-m", "slideduck.runner", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch   3/"):
            # As a terminal does: to the launcher and to all of its processes.
            os.killpg(process.pid, signal.SIGINT)
            break
    rest = process.stderr.read()
    assert process.wait(timeout=60) == 130
    told = [line for line in rest.splitlines() if line and not line.startswith("epoch")]
    assert told == ["interrupted; what was whole is kept, and the same command goes on from there"]
    assert sum(1 for _ in (folder / "metrics.jsonl").open()) >= 3
    result = run("evaluate", folder, beton, "--checkpoint", "last")
    assert result.exit_code == 0
