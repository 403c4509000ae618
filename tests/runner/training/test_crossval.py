"""Several runs of one beton: a run a fold and seed, resumed, with means, intervals and pooled predictions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from scipy import special, stats

from slideduck.betons import read_sidecar
from slideduck.cli.group import cli
from slideduck.errors import ConfigError, RunError
from slideduck.runner.ranks.launch import Launch
from slideduck.runner.settings.jsonfile import read_object
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.training.crossval import bounds_of, cross_validate, interval, runs_of
from slideduck.runner.training.train import train
from tests.runner.betons import two_textures, write_beton

TINY = TrainConfig(model="networks:tiny", epochs=1, batch_size_per_rank=16, lr=1e-2)
FOLD_OF = {f"S{i}": i % 3 for i in range(6)}
WORDS = ("--model", "networks:tiny", "--epochs", "1", "--batch-size", "16", "--lr", "0.01", "--nproc", "1")


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A beton of 120 tiles on six slides in three folds; the slides of S6 and S7 are in none."""
    path = tmp_path_factory.mktemp("folds") / "tiles.beton"
    return write_beton(path, two_textures(160), fold_of=FOLD_OF)


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def test_folds_and_seeds_name_the_runs() -> None:
    config = TrainConfig(seed=5)
    assert [r.name for r in runs_of(config, [0, 2], None)] == ["fold-0", "fold-2"]
    runs = runs_of(config, [0, 2], 2)
    assert [r.name for r in runs] == ["fold-0-seed-5", "fold-0-seed-6", "fold-2-seed-5", "fold-2-seed-6"]
    assert [(r.config.fold, r.config.seed) for r in runs] == [(0, 5), (0, 6), (2, 5), (2, 6)]
    assert [(r.name, r.config.fold) for r in runs_of(config, None, 1)] == [("seed-5", None)]
    with pytest.raises(ConfigError) as error:
        runs_of(TrainConfig(fold=1), [0, 1], None)
    assert str(error.value) == "fold is 1 but all folds are to validate in turn; give `fold` or `folds`"
    with pytest.raises(ConfigError) as error:
        runs_of(TrainConfig(val_where="site = 'A'"), [0, 1], None)
    assert str(error.value) == "fold and val_where are both given; a fold says which tiles train and validate"


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_the_interval_is_that_of_students_t(n: int) -> None:
    values = np.random.default_rng(n).normal(0.8, 0.1, n)
    got = interval(values.tolist())
    low, high = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
    assert got["ci95"] == pytest.approx([low, high], rel=1e-12)
    assert (got["n"], got["mean"], got["std"]) == (n, pytest.approx(values.mean()), pytest.approx(values.std(ddof=1)))


def test_the_interval_of_a_share_stays_within_0_and_1() -> None:
    # By Student's t this would be -0.046 to 1.546.
    got = interval([0.0, 1.0, 1.0, 1.0], (0, 1))
    low, high = stats.t.interval(0.95, 3, 0.75, 0.25)
    assert (low, high) == pytest.approx((-0.046, 1.546), abs=5e-4)
    half = (high - 0.75) / (0.75 * 0.25)
    assert got["ci95"] == pytest.approx([special.expit(special.logit(0.75) + side * half) for side in (-1, 1)])
    assert got["ci95"] == pytest.approx([0.041, 0.995], abs=5e-4)
    assert (got["mean"], got["std"], got["n"]) == (0.75, 0.5, 4)
    # What can be from -1 to 1 is scaled, and far from the bounds hardly anything changes.
    assert interval([-1.0, 1.0, 1.0, 1.0], (-1, 1))["ci95"] == pytest.approx([2 * x - 1 for x in got["ci95"]])
    values = [0.5, 0.51, 0.49, 0.5]
    assert interval(values, (0, 1))["ci95"] == pytest.approx(interval(values)["ci95"], abs=1e-4)
    assert interval([0.2, 0.9], (0, 1))["ci95"] == pytest.approx([0, 1], abs=1e-2)
    # All the same within the bounds: as before. All on a bound: nothing is known of how far others may be from it.
    assert interval([0.8, 0.8], (0, 1))["ci95"] == pytest.approx([0.8, 0.8])
    assert interval([1.0, 1.0, 1.0], (0, 1)) == {"n": 3, "mean": 1.0, "std": 0.0, "ci95": None}
    assert interval([0.0, 0.0], (0, 1))["ci95"] is None
    assert interval([1.0], (0, 1))["ci95"] is None


@pytest.mark.parametrize(("mean", "std", "n"), [(0.8, 0.03, 5), (0.8, 0.1, 3), (0.95, 0.03, 5), (0.95, 0.03, 10)])
def test_the_interval_of_a_share_holds_the_truth_as_often_as_it_says(mean: float, std: float, n: int) -> None:
    ab = mean * (1 - mean) / std**2 - 1
    drawn = stats.beta(mean * ab, (1 - mean) * ab).rvs((2000, n), random_state=0)

    def coverage(bounds: tuple[float, float] | None) -> float:
        found = np.array([interval(values, bounds)["ci95"] for values in drawn.tolist()])
        return float(((found[:, 0] <= mean) & (mean <= found[:, 1])).mean())

    # Three deviations of the share of 2,000.
    assert coverage((0, 1)) > 0.95 - 0.015
    assert coverage((0, 1)) >= coverage(None)


def test_which_metrics_are_bounded() -> None:
    assert {bounds_of(name) for name in ("accuracy", "slide/auroc/loss", "patient/fraction_error", "f1/a")} == {(0, 1)}
    assert {bounds_of(name) for name in ("loss", "mae/accuracy", "slide/mean_r2", "rmse/age", "tiles")} == {None}
    assert (bounds_of("brier"), bounds_of("slide/kappa"), bounds_of("pearson/age")) == ((0, 2), (-1, 1), (-1, 1))


def test_what_has_no_interval_is_none() -> None:
    assert interval([]) == {"n": 0, "mean": None, "std": None, "ci95": None}
    assert interval([0.5]) == {"n": 1, "mean": 0.5, "std": None, "ci95": None}


def test_each_fold_is_a_run_as_by_itself_and_finished_ones_are_passed_over(
    folded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cv"
    train(folded, folder / "fold-1", TrainConfig(**{**TINY.to_dict(), "fold": 1}), progress=False)
    before = (folder / "fold-1" / "last.pt").stat().st_mtime_ns
    summary = cross_validate(folded, folder, TINY, folds=True, nproc=1)
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if line.startswith("fold-")] == [
        "fold-0: run 1 of 3", "fold-1: run 2 of 3", "fold-2: run 3 of 3"
    ]  # fmt: skip
    assert (folder / "fold-1" / "last.pt").stat().st_mtime_ns == before
    assert read_object(folder / "summary.json") == summary
    assert [run["name"] for run in summary["runs"]] == ["fold-0", "fold-1", "fold-2"]
    assert summary["failed"] == {}

    entry = summary["metrics"]["balanced_accuracy"]
    values = [
        json.loads((folder / name / "metrics.jsonl").read_text())["val/balanced_accuracy"] for name in entry["values"]
    ]
    assert list(entry["values"].values()) == values
    assert entry["mean"] == pytest.approx(np.mean(values))
    assert entry["n"] == 3

    # Each tile of a fold once, in the order of the beton, predicted by the run that did not train on it.
    sidecar = read_sidecar(folded)
    table = pq.read_table(folder / "predictions.parquet").to_pandas()
    in_fold = np.flatnonzero(sidecar.tile_fold >= 0)
    assert table["tile_id"].tolist() == sidecar.tile_id[in_fold].tolist()
    assert table["fold"].tolist() == sidecar.tile_fold[in_fold].tolist()
    for fold in range(3):
        of_run = pq.read_table(folder / f"fold-{fold}" / "predictions.parquet").to_pandas()
        here = table[table["fold"] == fold].drop(columns="fold").reset_index(drop=True)
        assert here.equals(of_run)
    assert summary["pooled"]["tiles"] == 120
    assert summary["pooled"]["accuracy"] == pytest.approx((table["label"] == table["predicted"]).mean())
    assert summary["pooled"]["slide/slides"] == 6
    low, high = summary["pooled"]["ci95/loss"]
    assert low <= summary["pooled"]["loss"] <= high

    # Again: nothing is trained, and all is the same.
    bytes_before = {path: path.read_bytes() for path in (folder / "summary.json", folder / "predictions.parquet")}
    cross_validate(folded, folder, TINY, folds=True, nproc=1, progress=False)
    assert {path: path.read_bytes() for path in bytes_before} == bytes_before


def test_seeds_of_a_fold_are_averaged(folded: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cv"
    summary = cross_validate(folded, folder, TINY, folds=True, seeds=2, nproc=1, progress=False)
    names = [f"fold-{fold}-seed-{seed}" for fold in range(3) for seed in range(2)]
    assert [run["name"] for run in summary["runs"]] == names
    entry = summary["metrics"]["loss"]
    of_folds = np.array([entry["values"][name] for name in names]).reshape(3, 2).mean(axis=1)
    assert (entry["n"], entry["mean"]) == (3, pytest.approx(of_folds.mean()))
    assert entry["std"] == pytest.approx(of_folds.std(ddof=1))
    table = pq.read_table(folder / "predictions.parquet").to_pandas()
    assert len(table) == 120
    first, second = (pq.read_table(folder / f"fold-0-seed-{s}" / "predictions.parquet").to_pandas() for s in (0, 1))
    here = table[table["fold"] == 0].reset_index(drop=True)
    mean = (first["prob_chequers"] + second["prob_chequers"]) / 2
    assert here["prob_chequers"].to_numpy() == pytest.approx(mean.to_numpy(), abs=1e-15)
    assert (here["predicted"] == "chequers").tolist() == (mean > 0.5).tolist()
    of_label = np.where(table["label"] == "chequers", table["prob_chequers"], table["prob_stripes"])
    assert summary["pooled"]["loss"] == pytest.approx(-np.log(of_label).mean())


def test_a_failed_run_is_told_and_the_others_go_on(folded: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cv"
    (folder / "seed-1").mkdir(parents=True)
    (folder / "seed-1" / "notes.txt").write_text("mine")
    result = run("train", folded, "--run", folder, "--seeds", 3, *WORDS)
    assert result.exit_code == 1
    reason = f"{folder / 'seed-1'}: not a run folder (it has files, but no config.json); give another "
    told = result.stderr.splitlines()
    assert f"seed-1 failed: {reason}--run" in told
    assert told[-1] == (
        f"error: seed-1 failed, so that there is no {folder / 'predictions.parquet'}; mend what is said above, and the "
        "same command trains only what is missing"
    )
    summary = read_object(folder / "summary.json")
    assert [run["name"] for run in summary["runs"]] == ["seed-0", "seed-2"]
    assert summary["failed"] == {"seed-1": f"{reason}`run`"}
    assert summary["pooled"] is None
    assert summary["metrics"]["accuracy"]["n"] == 2

    (folder / "seed-1" / "notes.txt").unlink()
    result = run("train", folded, "--run", folder, "--seeds", 3, *WORDS)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("validation of each run, best epoch\n")
    assert (
        "over the n seeds where it is defined; intervals of the mean by Student's t, of shares within 0 and 1; pooled: "
        "each tile once\n" in result.stdout
    )
    assert result.stdout.endswith(f"summary: {folder / 'summary.json'}\n")
    # Without folds all seeds predict the same tiles.
    assert pq.read_table(folder / "predictions.parquet")["fold"].null_count == 40


def test_a_fault_of_the_network_is_told_too(folded: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError) as error:
        cross_validate(folded, tmp_path / "cv", TrainConfig(model="networks:not_a_module"), folds=True, nproc=1)
    assert str(error.value) == f"{tmp_path / 'cv'}: none of 3 runs came to its end; the reasons stand above"


def test_what_has_no_folds_or_is_a_single_run_is_refused(
    beton: Path, folded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run("train", beton, "--run", tmp_path / "cv", "--folds", *WORDS)
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: {beton}: --folds needs labelled tiles of two folds or more; it has fold none: 320 tiles and 0 without "
        "a label; split the study into folds (slideduck split STUDY --folds 5, --preserve-site for sites) and export "
        "again\n"
    )
    with pytest.raises(ConfigError) as error:
        cross_validate(folded, tmp_path / "cv", TrainConfig(where="fold = 1"), folds=True)
    assert str(error.value).startswith(
        f"{folded}: `folds` needs labelled tiles of two folds or more that meet `where` 'fold = 1'; it has fold 0: 40 "
    )
    assert not (tmp_path / "cv").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(RunError) as refused:
        cross_validate(folded, tmp_path / "run", TINY, folds=True)
    assert str(refused.value) == f"{tmp_path / 'run'}: the folder of a single run; give another `run`"
    with pytest.raises(ConfigError) as nodes:
        cross_validate(folded, tmp_path / "cv", TINY, folds=True, how=Launch(2, 0, "a:1"))
    assert str(nodes.value) == (
        "`nnodes` is 2, but `folds` and `seeds` use one machine; start each run by itself, with `fold` and `seed`"
    )
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(ConfigError, match=r"^`folds` and `seeds` train one run after the other .* without torchrun"):
        cross_validate(folded, tmp_path / "cv", TINY, folds=True)


@pytest.mark.slow
def test_a_run_of_several_processes(folded: Path, tmp_path: Path) -> None:
    config = TrainConfig(**{**TINY.to_dict(), "batch_size_per_rank": 8})
    summary = cross_validate(folded, tmp_path / "cv", config, seeds=1, nproc=2, progress=False)
    assert summary["failed"] == {}
    assert summary["pooled"]["tiles"] == 40


@pytest.mark.parametrize(("task", "target"), [("multi-label", "patient:marks"), ("regression", "patient:age")])
def test_labels_and_numbers_are_pooled_too(task: str, target: str, tmp_path: Path) -> None:
    columns = {f"S{i}": {"marks": "ab"[i % 2] if i % 3 else "a;b", "age": 40 + 5 * i} for i in range(6)}
    beton = write_beton(tmp_path / "a.beton", two_textures(96, slides=6), fold_of=FOLD_OF, columns_of=columns)
    config = TrainConfig(**{**TINY.to_dict(), "task": task, "target": target})
    summary = cross_validate(beton, tmp_path / "cv", config, folds=True, seeds=2, nproc=1, progress=False)
    table = pq.read_table(tmp_path / "cv" / "predictions.parquet").to_pandas()
    seeds = [
        pd.concat(
            pq.read_table(tmp_path / "cv" / f"fold-{fold}-seed-{seed}" / "predictions.parquet").to_pandas()
            for fold in range(3)
        ).set_index("tile_id").loc[table["tile_id"]]
        for seed in range(2)
    ]  # fmt: skip
    name = "prob_a" if task == "multi-label" else "predicted_age"
    assert table[name].to_numpy() == pytest.approx((seeds[0][name] + seeds[1][name]).to_numpy() / 2)
    pooled = summary["pooled"]
    assert (pooled["tiles"], pooled["slide/slides"], pooled["ci95/patients"]) == (96, 6, 6)
    assert pooled["loss"] == pytest.approx(table["loss"].mean())
    if task == "regression":
        assert pooled["mae/age"] == pytest.approx((table["true_age"] - table["predicted_age"]).abs().mean())
        return
    said = table["prob_a"] >= 0.5, table["prob_b"] >= 0.5
    assert table["predicted"].tolist() == [
        ";".join(name for name, has in zip("ab", pair, strict=True) if has) or "-" for pair in zip(*said, strict=True)
    ]
    p = np.where(table[["true_a", "true_b"]], table[["prob_a", "prob_b"]], 1 - table[["prob_a", "prob_b"]])
    assert table["loss"].to_numpy() == pytest.approx(-np.log(p).mean(axis=1))
