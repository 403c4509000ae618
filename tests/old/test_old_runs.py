"""Runs that a version before made predict as they did, and go on as if nothing had been between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

import slideduck as sd
from slideduck.cli.group import cli
from tests.old.conftest import Old
from tests.old.make_old import RUNS, settings_of
from tests.old.said import curve_of

#: Another CPU adds up in another order; on one it is the same to the bit.
NEARLY = 2e-3

#: The run names code of ours, which is imported for the user's word alone.
TRUST = ("--trust", "old_network:small")


@pytest.fixture(autouse=True)
def own_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand beside old_network.py, as a user stands beside a module of their own."""
    monkeypatch.chdir(Path(__file__).parent)
    monkeypatch.delenv("OLD_STOP_AT", raising=False)


def copy_run(old: Old, into: Path, name: str) -> Path:
    """Copy a run, with a stand-in for its picture of tiles, which make_old.py leaves out and training draws anew."""
    folder = old.copy(into, f"runs/{name}") / "runs" / name
    (folder / "augmented.png").touch()
    return folder


def run(*words: object) -> str:
    """Run a command and return all that it printed."""
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def assert_nearly(found: Any, said: Any, place: str = "") -> None:
    """Assert that everything that was said is said now, numbers nearly so."""
    if isinstance(said, dict):
        assert said.keys() <= found.keys(), place
        for name, value in said.items():
            assert_nearly(found[name], value, f"{place}/{name}")
    elif isinstance(said, list):
        assert len(found) == len(said), place
        for i, value in enumerate(said):
            assert_nearly(found[i], value, f"{place}/{i}")
    elif isinstance(said, float):
        assert found == pytest.approx(said, rel=NEARLY, abs=NEARLY), place
    else:
        assert found == said, place


def assert_same_rows(found: pa.Table, said: pa.Table) -> None:
    """Assert that two tables have the same rows, with numbers nearly the same."""
    assert found.num_rows == said.num_rows
    for name in said.column_names:
        here, there = (table[name].combine_chunks() for table in (found, said))
        if pa.types.is_list(there.type) or pa.types.is_fixed_size_list(there.type):
            here, there = here.flatten(), there.flatten()
        if pa.types.is_floating(there.type):
            np.testing.assert_allclose(here.to_numpy(False), there.to_numpy(False), NEARLY, NEARLY, err_msg=name)
        else:
            assert here.to_pylist() == there.to_pylist(), name


def assert_same_curve(old: Old, name: str, folder: Path) -> None:
    """Assert that the epochs of a run are those that there were: its losses, and what else metrics.jsonl tells."""
    found, said = curve_of(folder / "metrics.jsonl"), old.said.curve(name)
    # There may be more by now.
    assert all(there.keys() <= here.keys() for here, there in zip(found, said, strict=True))
    for here, there in zip(found, said, strict=True):
        for value in ("epoch", "step", "lr", "train/loss", "val/loss"):
            assert_nearly(here[value], there[value], f"epoch {there['epoch']} {value}")


def test_a_run_predicts_what_it_predicted(old: Old, tmp_path: Path) -> None:
    study, first = old.study(tmp_path), copy_run(old, tmp_path, "first")
    order = "WHERE run = 'first' ORDER BY grid, slide, grid_y, grid_x"
    told = run("predict", first, study, *TRUST)
    assert "105 tiles of 3 slides predicted, grid 32px_32um\n" in told
    assert "1 slide predicted before; --overwrite predicts again\n" in told
    assert "1 slide there before; --overwrite computes again\n" in run("features", first, study, *TRUST)
    with sd.open(study, read_only=True) as opened:
        predictions = opened.sql(f"FROM predictions {order}").to_arrow_table()
        features = opened.sql(f"FROM features_6 {order}").to_arrow_table()
    assert_same_rows(predictions, old.said.table("predictions"))
    assert_same_rows(features, old.said.table("features"))


def test_its_evaluation_is_what_it_was_and_joins_the_study(old: Old, tmp_path: Path) -> None:
    study, first = old.study(tmp_path), copy_run(old, tmp_path, "first")
    out = tmp_path / "all.parquet"
    run("evaluate", first, old.folder / "tiles.beton", "--out", out, "--by", "site", *TRUST)
    said = old.said.evaluation()
    for place in ("run", "beton", "predictions"):
        del said[place]
    assert_nearly(json.loads(out.with_suffix(".json").read_text()), said)
    with sd.open(study) as opened:
        rows = opened.sql("FROM evaluated_tiles ORDER BY ALL").to_arrow_table()
        assert rows.num_rows == old.said.expected["tables"]["evaluated_tiles"]
        # The folder was moved, and another of its name would be replaced.
        with pytest.raises(sd.SlideduckError, match="also called 'first'"):
            opened.add_predictions(first)
        added = opened.add_predictions(first, overwrite=True)
        assert [(one.evaluation, one.tiles, one.unknown, one.relabelled) for one in added] == [
            ("validation", 54, 0, 0),
            ("tiles-val-best", 54, 0, 0),
        ]
        assert opened.sql("FROM evaluated_tiles ORDER BY ALL").to_arrow_table().equals(rows)


@pytest.mark.parametrize("name", [name for name, (_, stop_at) in RUNS.items() if stop_at is not None])
def test_an_interrupted_run_goes_on_to_the_curve_of_one_that_was_not(name: str, old: Old, tmp_path: Path) -> None:
    folder = copy_run(old, tmp_path, name)
    assert len(curve_of(folder / "metrics.jsonl")) == 1
    told = run("train", old.folder / "tiles.beton", "--run", folder, *settings_of(name))
    where = "step 4 of 6 in epoch 2" if (folder / "checkpoints").exists() else "epoch 1"
    assert f"resuming after {where} of {len(old.said.curve(name))} ({folder})" in told
    assert_same_curve(old, name, folder)


def test_a_finished_run_is_left_as_it_is(old: Old, tmp_path: Path) -> None:
    folder = copy_run(old, tmp_path, "first")
    before = {path: path.read_bytes() for path in sorted(folder.rglob("*.pt"))}
    run("train", old.folder / "tiles.beton", "--run", folder, *settings_of("first"))
    assert {path: path.read_bytes() for path in sorted(folder.rglob("*.pt"))} == before
    assert_same_curve(old, "first", folder)


def test_a_new_run_on_an_old_beton_learns_what_the_old_run_did(old: Old, tmp_path: Path) -> None:
    run("train", old.folder / "tiles.beton", "--run", tmp_path / "first", *settings_of("first"))
    assert_same_curve(old, "first", tmp_path / "first")
