"""Loads a run's predictions of labelled tiles into a study, so that its errors can be queried in SQL."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from slideduck.catalog.grids import grid_names
from slideduck.errors import RunError, StudyError
from slideduck.files.checked_parquet import read_parquet
from slideduck.files.find import absolute
from slideduck.progress import track
from slideduck.show import Shown
from slideduck.store.db import atomic, registered
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_query
from slideduck.words import counted

__all__ = [
    "EvaluationAdded",
    "PredictionFile",
    "add_missing_predictions",
    "add_predictions",
    "delete_predictions",
    "joint_probability",
    "prediction_files",
    "read_prediction_file",
]

#: Name of the evaluation that a run makes of its own validation tiles.
VALIDATION = "validation"

_COLUMNS = ("tile_id", "slide", "patient", "label", "predicted", "loss")
_NUMBER_COLUMNS = ("tile_id", "slide", "patient", "loss")
#: Between the labels of a tile that has several, and what stands where it has none of them.
_SEPARATOR, _NONE_OF_THEM = ";", "-"


@dataclass(frozen=True)
class PredictionFile:
    """Predictions of labelled tiles, as `slideduck train` and `slideduck evaluate` write them.

    Attributes
    ----------
    path : Path
        The Parquet.
    table : pyarrow.Table
        Columns ``tile_id, slide, patient, loss``; of classes and labels ``label, predicted`` and ``prob_NAME`` for
        each; of several labels also ``true_NAME``; of numbers ``true_NAME`` and ``predicted_NAME``. At least one row,
        and no NULL in them. There may be further columns.
    classes : tuple of str
        Names of the outputs, in order: classes, labels, or columns of numbers.
    facts : dict of str
        What the file says of itself: ``run``, ``epoch``, ``grid`` and others.
    task : str
        ``classification``, ``multi-label`` or ``regression``.
    """

    path: Path
    table: pa.Table
    classes: tuple[str, ...]
    facts: dict[str, str]
    task: str = "classification"

    @property
    def name(self) -> str:
        """Name of the evaluation."""
        return VALIDATION if self.path.name == "predictions.parquet" else self.path.stem

    @property
    def run_path(self) -> Path:
        """Folder of the run, as it was when the file was written."""
        if self.facts.get("folder"):
            return Path(self.facts["folder"])
        return self.path.parent.parent if self.path.parent.name == "evaluations" else self.path.parent

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """Probability of each class or label, (tiles, classes)."""
        return self.outputs("prob_")

    def outputs(self, prefix: str) -> npt.NDArray[np.float64]:
        """Return the columns of all outputs that begin alike, (tiles, outputs)."""
        columns = [self.table[prefix + name].to_numpy(zero_copy_only=False) for name in self.classes]
        return np.stack(columns, axis=1).astype(np.float64)


@dataclass(frozen=True)
class EvaluationAdded(Shown):
    """What `add_predictions` did with one file.

    Attributes
    ----------
    run, evaluation : str
        Its key in the tables.
    tiles, errors : int
        Tiles, and those of them that are predicted to be of another class, or to have other labels; 0 of numbers.
    relabelled : int
        Tiles to which the study gives another label now, or none; 0 of numbers, and of values of the patients.
    unknown : int
        Tiles that the study does not have, or whose labels there are out of date.
    """

    run: str
    evaluation: str
    tiles: int
    errors: int
    relabelled: int
    unknown: int


def read_prediction_file(path: str | os.PathLike[str]) -> PredictionFile:
    """Read the predictions of labelled tiles that a run wrote, and check them.

    Raises
    ------
    RunError
        If there is no such file, or it holds something else.
    """
    path = absolute(path)
    if not path.is_file():
        raise RunError(f"no predictions at {path}; slideduck train and slideduck evaluate write them")
    try:
        table = read_parquet(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: not a Parquet file that can be read ({error}); evaluate again") from error
    metadata = table.schema.metadata or {}
    facts = {
        key.decode(errors="replace"): value.decode(errors="replace")
        for key, value in metadata.items()
        if not key.startswith(b"ARROW")
    }
    task = facts.get("task") or _task_of(table.column_names)
    prefix = "predicted_" if task == "regression" else "prob_"
    classes = tuple(name.removeprefix(prefix) for name in table.column_names if name.startswith(prefix))
    table = _completed(table, classes, task)
    problem = _problem(table, classes, task)
    if problem:
        raise RunError(f"{path}: not predictions of labelled tiles ({problem}); evaluate again")
    return PredictionFile(path, table, classes, facts, task)


def _task_of(columns: Sequence[str]) -> str:
    """Return the task of predictions that do not name it, by their columns."""
    if "label" in columns or not any(name.startswith("true_") for name in columns):
        return "classification"
    return "multi-label" if any(name.startswith("prob_") for name in columns) else "regression"


def _completed(table: pa.Table, classes: Sequence[str], task: str) -> pa.Table:
    """Return predictions of labels or numbers with what files of before do not say; the loss of numbers as NaN."""
    names = set(table.column_names)
    if task == "classification" or "loss" in names or not classes or not table.num_rows:
        return table
    if task == "regression":
        return table.append_column("loss", pa.array(np.full(table.num_rows, np.nan)))
    if not {prefix + name for name in classes for prefix in ("true_", "prob_")} <= names:
        return table
    truth, said = (
        np.stack([table[prefix + name].to_numpy(zero_copy_only=False) for name in classes], axis=1).astype(np.float64)
        for prefix in ("true_", "prob_")
    )
    every = np.array(classes, object)
    for column, has in (("label", truth > 0.5), ("predicted", said >= 0.5)):
        table = table.append_column(column, pa.array([_SEPARATOR.join(every[row]) or _NONE_OF_THEM for row in has]))
    of_truth = np.maximum(np.where(truth > 0.5, said, 1 - said), np.finfo(np.float64).smallest_subnormal)
    return table.append_column("loss", pa.array(-np.log(of_truth).mean(axis=1)))


def _problem(table: pa.Table, classes: Sequence[str], task: str) -> str | None:
    """Return why a table cannot be used, or None."""
    fixed = _NUMBER_COLUMNS if task == "regression" else _COLUMNS
    missing = [name for name in fixed if name not in table.column_names]
    if missing:
        return f"it lacks the column {', '.join(missing)}"
    if not classes:
        return "it has no column prob_CLASS"
    if not table.num_rows:
        return "it is empty"
    prefixes = {"classification": ("prob_",), "multi-label": ("true_", "prob_")}.get(task, ("true_", "predicted_"))
    needed = [*fixed, *(prefix + name for name in classes for prefix in prefixes)]
    missing = [name for name in needed if name not in table.column_names]
    if missing:
        return f"it lacks the column {', '.join(missing)}"
    empty = [name for name in needed if table[name].null_count]
    if empty:
        return f"there are NULLs in {', '.join(empty)}"
    return None if task == "regression" else _unknown_name(table, classes, task)


def _unknown_name(table: pa.Table, classes: Sequence[str], task: str) -> str | None:
    """Return which label or predicted class a table has no probability of, or None."""
    known = set(classes) if task == "classification" else {*classes, _NONE_OF_THEM}
    for name in ("label", "predicted"):
        found = table[name].unique().to_pylist()
        parts = found if task == "classification" else [part for one in found for part in one.split(_SEPARATOR)]
        unknown = sorted(set(parts) - known)
        if unknown:
            return f"{name} {unknown[0]!r} has no column of probabilities"
    return None


def prediction_files(run: str | os.PathLike[str]) -> list[Path]:
    """Return the predictions of labelled tiles in a run's folder: of its validation, then of its evaluations.

    A path of a Parquet is that file alone.

    Raises
    ------
    RunError
        If there is no such folder or file, or there are no predictions in it.
    """
    folder = absolute(run)
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise RunError(f"no run at {folder}; give a run's folder, or a Parquet that slideduck evaluate wrote")
    first = folder / "predictions.parquet"
    found = [*([first] if first.is_file() else []), *sorted((folder / "evaluations").glob("*.parquet"))]
    if not found:
        raise RunError(f"{folder} holds no predictions of labelled tiles; train it, or evaluate it on a beton")
    return found


def add_predictions(
    handle: Handle, run: str | os.PathLike[str], *, overwrite: bool = False
) -> tuple[EvaluationAdded, ...]:
    """Load what a run predicted of labelled tiles into the tables ``evaluations`` and ``evaluated_tiles``.

    Parameters
    ----------
    handle : Handle
        The study whose tiles they are.
    run : path
        A run's folder: all of its evaluations, that of its validation tiles as ``validation``; or one Parquet.
    overwrite : bool, default False
        Replace evaluations of another run folder of the same name.

    Returns
    -------
    tuple of EvaluationAdded
        One an evaluation.

    Raises
    ------
    RunError
        If a file is no predictions of labelled tiles.
    StudyError
        If the study has not the grid of the tiles or none of their slides, or holds evaluations of another run of
        that name. Nothing is added then.

    Notes
    -----
    All or nothing is added. What was added before under the same run and name is replaced. The label that a tile
    was evaluated against is kept, even where the study gives it another by now.
    """
    files = [read_prediction_file(path) for path in prediction_files(run)]
    if absolute(run).is_dir():
        # A run that was moved still says where it was when it predicted.
        files = [replace(file, facts={**file.facts, "folder": str(absolute(run))}) for file in files]
    keys = [_key(file) for file in files]
    for file, (name, _) in zip(files, keys, strict=True):
        _check(handle, file, name, overwrite=overwrite)
    added = []
    with atomic(handle.con), track("Adding", len(files), "evaluations", show=handle.progress) as advance:
        for file, (name, _) in zip(files, keys, strict=True):
            _remove_others(handle, file, name)
        for file, (name, evaluation) in zip(files, keys, strict=True):
            added.append(_add(handle, file, name, evaluation))
            advance(1)
    return tuple(added)


def add_missing_predictions(handle: Handle, run: str | os.PathLike[str]) -> tuple[EvaluationAdded, ...]:
    """Load what a run predicted of labelled tiles, unless the study holds all of it as it is now.

    Raises
    ------
    StudyError, RunError
        See `add_predictions`.
    """
    held = set(handle.con.execute("SELECT path, epoch, tiles FROM evaluations").fetchall())
    files = [read_prediction_file(path) for path in prediction_files(run)]
    if held.issuperset((str(file.path), _epoch(file.facts), file.table.num_rows) for file in files):
        return ()
    return add_predictions(handle, run)


def _epoch(facts: dict[str, str]) -> int | None:
    return int(facts["epoch"]) if facts.get("epoch", "").isdigit() else None


def _key(file: PredictionFile) -> tuple[str, str]:
    """Return the names of the run and the evaluation."""
    if not file.facts.get("run") or not file.facts.get("grid"):
        raise RunError(f"{file.path}: it does not say of which run and grid it is; evaluate again")
    return file.facts["run"], file.name


def delete_predictions(handle: Handle, condition: str, values: Mapping[str, object]) -> None:
    """Delete what networks said of tiles that meet a condition, inside a transaction; features stay."""
    for table in ("predictions", "predicted_numbers"):
        handle.con.execute(f"DELETE FROM {table} WHERE {condition}", values)


def _check(handle: Handle, file: PredictionFile, run: str, *, overwrite: bool) -> None:
    """Refuse predictions of tiles that are not of this study, or that would mix two runs."""
    grids = grid_names(handle)
    grid = file.facts["grid"]
    if grid not in grids:
        raise StudyError(
            f"{file.path}: its tiles are of grid {grid}, which {handle.name} does not have; "
            f"it has {', '.join(grids) or 'none'}"
        )
    known = {name for (name,) in handle.con.execute("SELECT slide FROM slides").fetchall()}
    slides = file.table["slide"].unique().to_pylist()
    if not known.intersection(slides):
        raise StudyError(
            f"{file.path}: {handle.name} has none of its {counted(len(slides), 'slide')}, such as {slides[0]!r}; "
            "give the study that the beton was exported from"
        )
    others = _others(handle, file, run)
    if others and not overwrite:
        raise StudyError(
            f"{handle.name} holds evaluations of the run {others[0]}, also called {run!r}; "
            "replace them with `overwrite=True`, or rename the run folder"
        )


def _others(handle: Handle, file: PredictionFile, run: str) -> list[str]:
    """Return other folders of the same name whose evaluations the study holds."""
    there = handle.con.execute("SELECT DISTINCT run_path FROM evaluations WHERE run = $run", {"run": run}).fetchall()
    return sorted({path for (path,) in there} - {str(file.run_path)})


def _remove_others(handle: Handle, file: PredictionFile, run: str) -> None:
    """Delete evaluations of another folder of the same name; inside a transaction."""
    if _others(handle, file, run):
        _delete_evaluations(handle, "run = $run", {"run": run})


def _add(handle: Handle, file: PredictionFile, run: str, evaluation: str) -> EvaluationAdded:
    """Replace one evaluation; inside a transaction."""
    key = {"run": run, "evaluation": evaluation}
    _delete_evaluations(handle, "run = $run AND evaluation = $evaluation", key)
    facts = file.facts
    handle.con.execute(
        "INSERT INTO evaluations VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        [
            run,
            evaluation,
            str(file.run_path),
            str(file.path),
            facts.get("checkpoint"),
            _epoch(facts),
            facts["grid"],
            facts.get("beton") or None,
            facts.get("split") or None,
            list(file.classes),
            file.table.num_rows,
        ],
    )
    if file.task == "regression":
        unknown = _add_numbers(handle, file, key)
        return EvaluationAdded(run, evaluation, file.table.num_rows, 0, 0, unknown)
    _add_classes(handle, file, key)
    counts = handle.con.execute(read_query("count_evaluated"), key).fetchone()
    assert counts is not None
    errors, unknown, relabelled = counts
    # A value of the patients is no label of the study's tiles.
    relabelled = relabelled if facts.get("target", "label") == "label" else 0
    return EvaluationAdded(run, evaluation, file.table.num_rows, errors, relabelled, unknown)


def _add_classes(handle: Handle, file: PredictionFile, key: Mapping[str, str]) -> None:
    """Insert what was said of classes or labels; inside a transaction."""
    probabilities = file.probabilities
    # Of all labels being as they are predicted, each by its own probability.
    sure = probabilities.max(axis=1) if file.task == "classification" else joint_probability(probabilities)
    incoming = file.table.select(_COLUMNS)
    incoming = incoming.append_column("probability", pa.array(sure))
    incoming = incoming.append_column("probabilities", _lists(probabilities))
    with registered(handle.con, "incoming_tiles", incoming):
        values = {**key, "grid": file.facts["grid"], "classes": list(file.classes)}
        handle.con.execute(read_query("insert_evaluated_tiles"), values)


def _add_numbers(handle: Handle, file: PredictionFile, key: Mapping[str, str]) -> int:
    """Insert what was said of numbers, inside a transaction; return how many tiles the study does not have."""
    incoming = file.table.select(["tile_id", "slide", "patient"])
    incoming = incoming.append_column("observed", _lists(file.outputs("true_")))
    incoming = incoming.append_column("numbers", _lists(file.outputs("predicted_")))
    with registered(handle.con, "incoming_tiles", incoming):
        values = {**key, "grid": file.facts["grid"], "targets": list(file.classes)}
        handle.con.execute(read_query("insert_evaluated_numbers"), values)
        row = handle.con.execute(read_query("count_unknown"), {"grid": file.facts["grid"]}).fetchone()
    assert row is not None
    return int(row[0])


def joint_probability(probabilities: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the probability, (tiles,), that all labels are as they are predicted, as if they were independent."""
    sure = np.maximum(probabilities, 1 - probabilities).astype(np.float64)
    return np.asarray(sure.prod(axis=1))


def _lists(values: npt.NDArray[np.float64]) -> pa.Array:
    """Return the rows of a table of numbers as lists."""
    offsets = pa.array(np.arange(len(values) + 1, dtype=np.int32) * values.shape[1])
    return pa.ListArray.from_arrays(offsets, pa.array(values.ravel()))


def _delete_evaluations(handle: Handle, condition: str, values: Mapping[str, str]) -> None:
    """Delete the evaluations that meet a condition; inside a transaction."""
    for table in ("evaluated_tiles", "evaluated_numbers", "evaluations"):
        handle.con.execute(f"DELETE FROM {table} WHERE {condition}", values)
