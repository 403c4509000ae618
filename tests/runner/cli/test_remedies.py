"""What the runner's messages say to type is typed, and gets on; no network trains for it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from slideduck.betons import read_sidecar
from slideduck.cli.group import cli
from slideduck.errors import SlideduckError
from slideduck.runner.cli.first import check_training
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tiles.rows import folds_of
from tests.patient_study import SLIDES, write_study

EXPORT = "slideduck export study.duckdb tiles.beton"


def run(line: str) -> Result:
    return CliRunner().invoke(cli, shlex.split(line)[1:])


def typed(*lines: str) -> None:
    for line in lines:
        result = run(line.replace("STUDY", "study.duckdb"))
        assert result.exit_code == 0, (line, result.output)


def refused(line: str) -> str:
    result = run(line)
    assert result.exit_code == 1, result.output
    return result.stderr


def check(**settings: object) -> None:
    """Raise what `slideduck train` refuses."""
    check_training(Path("tiles.beton"), Path("runs/new"), TrainConfig(**settings), several=False)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a study of seven slides that has no split."""
    write_study(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_keeps_from_training_is_mended(folder: Path) -> None:
    """One story in one study: its slides take a second to make and label."""
    train = "slideduck train tiles.beton --run runs/new"
    said = refused(train)
    assert said == (
        f"error: no beton at {folder}/tiles.beton; make it with: slideduck export STUDY {folder}/tiles.beton\n"
    )
    typed(f"slideduck export STUDY {folder}/tiles.beton")
    said = refused(train)
    assert said.endswith(
        "; choose another with --train-split, or split the study (slideduck split STUDY) and export again\n"
    )
    typed("slideduck split STUDY", EXPORT)
    check()
    said = refused(f"{train} --fold 3")
    assert said.endswith(
        "; choose another with --fold, or split the study into folds (slideduck split STUDY --folds 5) and export "
        "again\n"
    )
    typed("slideduck split STUDY --folds 5", EXPORT)
    check(fold=3)
    assert folds_of(read_sidecar("tiles.beton"), None, Path("tiles.beton")) == [0, 1, 2, 3, 4]
    said = refused(f"{train} --target patient:grade")
    assert said.endswith("it has none: add the column (slideduck add-patients STUDY TABLE) and export again\n")
    rows = [f"{slide},{slide},{number % 2}" for number, slide in enumerate(SLIDES)]
    (folder / "patients.csv").write_text("\n".join(["slide,patient,grade", *rows]) + "\n")
    typed("slideduck add-patients STUDY patients.csv", "slideduck split STUDY --folds 5", EXPORT)
    check(target="patient:grade", fold=0)
    with pytest.raises(
        SlideduckError, match="patient '007': tiles in training and in validation; give `train_where` and"
    ):
        check(train_where="grid_x < 2", val_where="grid_x >= 2 AND slide = '007'")
    check(train_where="slide <> '007'", val_where="slide = '007'")
