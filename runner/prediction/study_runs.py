"""Runs whose predictions or features a study holds: one checkpoint each."""

from __future__ import annotations

from slideduck.catalog.evaluations import delete_predictions
from slideduck.catalog.features import delete_features
from slideduck.errors import RunError
from slideduck.runner.prediction.passes import Passes
from slideduck.runner.runs.trained import TrainedModel
from slideduck.study import Study

__all__ = ["held_passes", "register_run"]


def held_passes(study: Study, run: str) -> Passes:
    """Return the passes of a run's predictions in a study; the default if the study holds none."""
    row = study.con.execute("SELECT tta, mc_dropout, mc_seed FROM runs WHERE run = $1", [run]).fetchone()
    return Passes(*row) if row else Passes()


def register_run(study: Study, trained: TrainedModel, *, passes: Passes | None = None, overwrite: bool) -> None:
    """Write a run into the table ``runs``, or check that the run stored there is the same.

    Parameters
    ----------
    study : Study
        The study.
    trained : TrainedModel
        The run's network.
    passes : Passes, optional
        How predictions are made; a study holds one kind of a run. None leaves the stored kind.
    overwrite : bool
        Replace another run of that name, or another checkpoint of this one: its predictions and features go; so do
        predictions that were made otherwise.

    Raises
    ------
    RunError
        If the table has another run of that name, another checkpoint of this one, or other predictions of it.
    """
    name = trained.run.name
    row = study.con.execute("SELECT path, checkpoint FROM runs WHERE run = $1", [name]).fetchone()
    has = any(
        study.con.execute(f"SELECT 1 FROM {table} WHERE run = $1 LIMIT 1", [name]).fetchone() is not None
        for table in ("predictions", "predicted_numbers")
    )
    if row is not None and row[1] == trained.sha256:
        _register_passes(study, name, passes, has_predictions=has, overwrite=overwrite)
        return
    if row is not None and not overwrite:
        what = "another checkpoint of run" if row[0] == str(trained.run) else f"the run {row[0]}, also called"
        raise RunError(
            f"{study.path.name} holds {'predictions' if has else 'features'} of {what} {name!r}; "
            "replace all of them with `overwrite=True`"
            + ("" if row[0] == str(trained.run) else ", or rename the run folder")
        )
    passes = passes or Passes()
    with study.atomic():
        delete_predictions(study.handle, "run = $run", {"run": name})
        delete_features(study.handle, "run = $run", {"run": name})
        study.con.execute(
            "INSERT OR REPLACE INTO runs VALUES ($1, $2, $3, $4, $5, $6, $7)",
            [name, str(trained.run), trained.sha256, list(trained.classes),
             passes.tta, passes.mc_dropout, passes.mc_seed],
        )  # fmt: skip


def _register_passes(study: Study, name: str, passes: Passes | None, *, has_predictions: bool, overwrite: bool) -> None:
    """Store how the predictions of a run are made, or check that stored ones were made in the same way."""
    held = held_passes(study, name)
    if passes is None or passes == held:
        return
    if has_predictions and not overwrite:
        raise RunError(
            f"{study.path.name} holds predictions of run {name!r} with {held}, not {passes}; "
            "replace all of them with `overwrite=True`"
        )
    with study.atomic():
        delete_predictions(study.handle, "run = $run", {"run": name})
        study.con.execute(
            "UPDATE runs SET tta = $2, mc_dropout = $3, mc_seed = $4 WHERE run = $1",
            [name, passes.tta, passes.mc_dropout, passes.mc_seed],
        )
