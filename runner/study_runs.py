"""Runs whose predictions or features a study holds: one checkpoint each."""

from __future__ import annotations

from slideduck.errors import RunError
from slideduck.feature_tables import delete_features
from slideduck.runner.trained import TrainedModel
from slideduck.study import Study

__all__ = ["register_run"]


def register_run(study: Study, trained: TrainedModel, *, overwrite: bool) -> None:
    """Write a run into the table ``runs``, or check that it is the one there.

    Parameters
    ----------
    study : Study
        The study.
    trained : TrainedModel
        The run's network.
    overwrite : bool
        Replace another run of that name, or another checkpoint of this one: its predictions and features go.

    Raises
    ------
    RunError
        If the table has another run of that name, or another checkpoint of this one.
    """
    name = trained.run.name
    row = study.con.execute("SELECT path, checkpoint FROM runs WHERE run = $1", [name]).fetchone()
    if row is not None and row[1] == trained.sha256:
        return
    if row is not None and not overwrite:
        what = "another checkpoint of run" if row[0] == str(trained.run) else f"the run {row[0]}, also called"
        held = study.con.execute("SELECT 1 FROM predictions WHERE run = $1 LIMIT 1", [name]).fetchone()
        raise RunError(
            f"{study.path.name} holds {'predictions' if held else 'features'} of {what} {name!r}; "
            "replace all of them with --overwrite"
            + ("" if row[0] == str(trained.run) else ", or rename the run folder")
        )
    with study.atomic():
        study.con.execute("DELETE FROM predictions WHERE run = $1", [name])
        delete_features(study.con, "run = $run", {"run": name})
        study.con.execute(
            "INSERT OR REPLACE INTO runs VALUES ($1, $2, $3, $4)",
            [name, str(trained.run), trained.sha256, list(trained.classes)],
        )
