"""The demo runs the whole job: it learns, but not from shuffled labels, and does nothing twice."""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from click.testing import CliRunner

import slideduck as sd
from slideduck.cli.group import cli
from slideduck.errors import ConfigError
from slideduck.runner.demo.cohort import cohort_version
from slideduck.runner.demo.report import DemoReport
from slideduck.runner.demo.run import run_demo

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def told() -> dict[str, str]:
    """Return what the demo printed, once it has run."""
    return {}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, told: dict[str, str]) -> DemoReport:
    """Return the report of a demo that is smaller than the real one."""
    directory = tmp_path_factory.mktemp("demo folder") / "demo"
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
        # Wide enough for the paths of a test, which are long and have a space.
        patched.setenv("COLUMNS", "200")
        report = run_demo(directory, epochs=5, n_slides=6)
    told["out"], told["err"] = out.getvalue(), err.getvalue()
    return report


def test_network_learns(report: DemoReport) -> None:
    assert report.classes == ("glass", "necrosis", "stroma", "tumour")
    assert report.accuracy > 0.9
    assert report.balanced_accuracy > 0.9


def test_network_cannot_learn_from_shuffled_labels(tmp_path: Path) -> None:
    report = run_demo(tmp_path / "demo", epochs=4, n_slides=4, shuffle_labels=True, progress=False)
    # Guessing one class is right on half of the tiles at most, and has a balanced accuracy of a quarter.
    assert report.accuracy < 0.65
    assert report.balanced_accuracy < 0.45
    with sd.open(tmp_path / "demo" / "study.duckdb", read_only=True) as study:
        per_label = dict(study.sql("SELECT label, count(*) FROM labels GROUP BY label").fetchall())
        moved = study.sql(
            "SELECT count(*) FROM labels INNER JOIN rois USING (slide, roi_name) "
            "WHERE labels.label IS NOT NULL AND NOT ST_Contains(rois.geom, ST_Point(loc_x, loc_y))"
        ).fetchone()
    del per_label[None]
    assert {label: sum(side.get(label, 0) for side in report.tiles.values()) for label in per_label} == per_label
    assert moved is not None
    assert moved[0] > 0.5 * sum(per_label.values())


def test_everything_that_is_named_was_made(report: DemoReport, told: dict[str, str]) -> None:
    assert set(report.made) == {
        "cohort", "study", "overlay", "beton", "side-car", "run", "curves", "validation", "heatmap",
    }  # fmt: skip
    for path in report.made.values():
        assert path.exists()
        assert str(path) in told["out"].replace("\n", "")
    assert f"Validation accuracy {report.accuracy:.3f}, balanced accuracy" in told["out"]
    assert told["err"].count("\n") > 2 * len(report.steps)


def test_steps_are_numbered_to_the_last(report: DemoReport, told: dict[str, str]) -> None:
    for number, step in enumerate(report.steps, start=1):
        assert f"{number:2}/{len(report.steps)} {step.title}" in told["err"]


def test_every_slide_is_predicted_and_joins_its_labels(report: DemoReport) -> None:
    with sd.open(report.made["study"], read_only=True) as study:
        joined = study.sql(
            """
            SELECT count(*), count(DISTINCT slide), avg((predicted = label)::INTEGER)
            FROM predictions INNER JOIN labels USING (grid, slide, tile_id)
            WHERE split = 'val' AND label IS NOT NULL
            """
        ).fetchone()
        tiles, predicted = (study.sql(f"SELECT count(*) FROM {table}").fetchone() for table in ("tiles", "predictions"))
    assert joined is not None
    assert joined[0] == sum(report.tiles["val"].values())
    # Straight from the slide the network sees pixels that no JPEG has changed.
    assert joined[2] == pytest.approx(report.accuracy, abs=0.05)
    assert tiles == predicted


def test_a_finished_demo_is_not_done_again(report: DemoReport) -> None:
    def state() -> dict[str, tuple[int, bytes]]:
        files = [path for path in report.directory.rglob("*") if path.is_file() and path.suffix != ".duckdb"]
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = state()
    again = run_demo(report.directory, epochs=5, n_slides=6, progress=False)
    after = state()
    assert set(after) == set(before)
    assert [name for name in before if before[name][1] != after[name][1]] == []
    untouched = {str(path) for path in (report.directory / "cohort").rglob("*") if path.is_file()}
    untouched.add(str(report.directory / "run" / "best.pt"))
    assert [name for name in sorted(untouched) if before[name][0] != after[name][0]] == []
    assert (again.accuracy, again.tiles, again.confusion) == (report.accuracy, report.tiles, report.confusion)
    results = [step.result for step in again.steps]
    assert results[0] == "6 slides were there already"
    assert results[1] == "0 slides added, 6 unchanged"
    assert results[-2] == "0 tiles predicted, 6 slides were already"


def test_the_commands_that_are_shown_do_the_same(report: DemoReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(report.directory.parent)
    commands = [step.command for step in report.steps if step.command is not None]
    assert len(commands) == 11
    for command in commands:
        program, *arguments = shlex.split(command.replace(str(report.directory), "demo"))
        assert program == "slideduck"
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0, f"{command}\n{done.output}\n{done.exception!r}"


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (
            lambda folder: (folder / "thesis.txt").write_text("precious"),
            "{folder} holds other files, and no demo; name another folder, or remove this one",
        ),
        (
            lambda folder: (folder / "demo.json").write_text('{"seed": 7, "epochs": 6, "n_slides": 8}'),
            "{folder} holds a demo with seed 7, not 0; shuffle_labels None, not False; "
            f"cohort None, not {cohort_version()}; name another folder, or remove this one",
        ),
        (
            lambda folder: (folder / "demo.json").write_text("oops"),
            "{folder}/demo.json is damaged (Expecting value: line 1 column 1 (char 0)); "
            "name another folder, or remove this one",
        ),
    ],
    ids=["other files", "other settings", "damaged"],
)
def test_a_folder_of_something_else_is_left_alone(
    tmp_path: Path, prepare: Callable[[Path], object], message: str
) -> None:
    prepare(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ConfigError) as refused:
        run_demo(tmp_path, progress=False)
    assert str(refused.value) == message.format(folder=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_too_few_slides_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        run_demo(tmp_path / "demo", n_slides=3)
    assert str(refused.value) == "n_slides is 3; a demo needs at least 4, of 3 patients"
    assert not (tmp_path / "demo").exists()
