"""Loads a run's predictions of labelled tiles into a study, so that its errors can be queried in SQL."""

from __future__ import annotations

import os
from collections.abc import Sequence
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
    "EvaluationAdded", "PredictionFile", "add_missing_predictions", "add_predictions", "prediction_files",
    "read_prediction_file",
]  # fmt: skip

#: Name of the evaluation that a run makes of its own validation tiles.
VALIDATION = "validation"

_COLUMNS = ("tile_id", "slide", "patient", "label", "predicted", "loss")


@dataclass(frozen=True)
class PredictionFile:
    """Predictions of labelled tiles, as `slideduck train` and `slideduck evaluate` write them.

    Attributes
    ----------
    path : Path
        The Parquet.
    table : pyarrow.Table
        Columns ``tile_id, slide, patient, label, predicted, loss`` and ``prob_CLASS`` for each class; at least one
        row, and no NULL in them. There may be further columns.
    classes : tuple of str
        In the order of their numbers.
    facts : dict of str
        What the file says of itself: ``run``, ``epoch``, ``grid`` and others.
    """

    path: Path
    table: pa.Table
    classes: tuple[str, ...]
    facts: dict[str, str]

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
        """Probability of each class, (tiles, classes)."""
        columns = [self.table[f"prob_{name}"].to_numpy() for name in self.classes]
        return np.stack(columns, axis=1).astype(np.float64)


@dataclass(frozen=True)
class EvaluationAdded(Shown):
    """What `add_predictions` did with one file.

    Attributes
    ----------
    run, evaluation : str
        Its key in the tables.
    tiles, errors : int
        Tiles, and those of them that are predicted to be of another class than their label.
    relabelled : int
        Tiles to which the study gives another label now, or none.
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
    classes = tuple(name.removeprefix("prob_") for name in table.column_names if name.startswith("prob_"))
    problem = _problem(table, classes)
    if problem:
        raise RunError(f"{path}: not predictions of labelled tiles ({problem}); evaluate again")
    metadata = table.schema.metadata or {}
    facts = {
        key.decode(errors="replace"): value.decode(errors="replace")
        for key, value in metadata.items()
        if not key.startswith(b"ARROW")
    }
    return PredictionFile(path, table, classes, facts)


def _problem(table: pa.Table, classes: Sequence[str]) -> str | None:
    """Return why a table cannot be used, or None."""
    missing = [name for name in _COLUMNS if name not in table.column_names]
    if missing:
        return f"it lacks the column {', '.join(missing)}"
    if not classes:
        return "it has no column prob_CLASS"
    if not table.num_rows:
        return "it is empty"
    needed = [*_COLUMNS, *(f"prob_{name}" for name in classes)]
    empty = [name for name in needed if table[name].null_count]
    if empty:
        return f"there are NULLs in {', '.join(empty)}"
    for name in ("label", "predicted"):
        unknown = sorted(set(table[name].unique().to_pylist()) - set(classes))
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
        handle.con.execute("DELETE FROM evaluated_tiles WHERE run = $run", {"run": run})
        handle.con.execute("DELETE FROM evaluations WHERE run = $run", {"run": run})


def _add(handle: Handle, file: PredictionFile, run: str, evaluation: str) -> EvaluationAdded:
    """Replace one evaluation; inside a transaction."""
    key = {"run": run, "evaluation": evaluation}
    handle.con.execute("DELETE FROM evaluated_tiles WHERE run = $run AND evaluation = $evaluation", key)
    handle.con.execute("DELETE FROM evaluations WHERE run = $run AND evaluation = $evaluation", key)
    facts, probabilities = file.facts, file.probabilities
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
    offsets = pa.array(np.arange(len(probabilities) + 1, dtype=np.int32) * len(file.classes))
    incoming = file.table.select(_COLUMNS)
    incoming = incoming.append_column("probability", pa.array(probabilities.max(axis=1)))
    lists = pa.ListArray.from_arrays(offsets, pa.array(probabilities.ravel()))
    incoming = incoming.append_column("probabilities", lists)
    with registered(handle.con, "incoming_tiles", incoming):
        values = {**key, "grid": facts["grid"], "classes": list(file.classes)}
        handle.con.execute(read_query("insert_evaluated_tiles"), values)
    counts = handle.con.execute(read_query("count_evaluated"), key).fetchone()
    assert counts is not None
    errors, unknown, relabelled = counts
    return EvaluationAdded(run, evaluation, file.table.num_rows, errors, relabelled, unknown)
