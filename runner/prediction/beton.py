"""Predictions for every tile of a beton, those without a label too, into a Parquet file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from slideduck.betons import Sidecar
from slideduck.errors import ConfigError
from slideduck.progress import track
from slideduck.runner.networks.given import Network
from slideduck.runner.prediction.passes import Estimate, Passes, estimate
from slideduck.runner.ranks import dist
from slideduck.runner.runs import checkpoint as checkpoints
from slideduck.runner.runs.predictions import write_predictions
from slideduck.runner.runs.trained import TrainedModel, load_run, warn_of_other_tiles
from slideduck.runner.tasks.task import named
from slideduck.runner.tiles.loader import to_device
from slideduck.runner.tiles.open import open_beton
from slideduck.show import Shown

__all__ = ["BetonPredictReport", "predict_beton"]


@dataclass(frozen=True)
class BetonPredictReport(Shown):
    """What `predict_beton` did.

    Attributes
    ----------
    run, grid : str
        Names of the run and of the beton's grid.
    path : str
        The Parquet file.
    tiles : int
        Tiles that were predicted.
    """

    run: str
    grid: str
    path: str
    tiles: int


def predict_beton(
    run: Path | str,
    beton: Path | str,
    *,
    out: Path | str | None = None,
    checkpoint: str = "best",
    trust: str | Sequence[str] = (),
    network: Network | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    tta: str = "none",
    mc_dropout: int = 0,
    mc_seed: int = 0,
    progress: bool = False,
) -> BetonPredictReport:
    """Predict every tile of a beton, labelled or not.

    Parameters
    ----------
    run : path
        The run's folder.
    beton : path
        The beton.
    out : path, optional
        Parquet to write, whole or not at all; default ``RUN/predictions/BETON-CHECKPOINT.parquet``. It has a row for
        each tile, in the order of the beton: ``tile_id, slide, patient, label`` (NULL without one), ``predicted`` and
        ``prob_NAME`` for each class or label, and with MC dropout ``entropy`` and ``mutual_information``, nats; of
        numbers ``predicted_NAME``, and with several passes ``deviation_NAME``.
    checkpoint : str
        ``"best"`` or ``"last"``.
    trust : str or sequence of str
        The run's model, where that is code, ``module:function``; see `slideduck.runner.runs.trained.load_run`.
    network : callable or nn.Module, optional
        The run's network, where it was given as an object; see `slideduck.runner.runs.trained.load_run`.
    batch_size : int, optional
        Tiles at a time; default as in training.
    threads : int, optional
        Threads that decode; default one a core.
    tta, mc_dropout, mc_seed
        Passes over each tile; see `slideduck.runner.prediction.passes.Passes`.
    progress : bool
        Show how far it is.

    Returns
    -------
    BetonPredictReport

    Raises
    ------
    BetonError
        If the beton is damaged.
    ConfigError
        If a setting is impossible.
    RunError
        If there is no such run, or its network has no dropout for MC dropout.
    """
    passes = Passes(tta, mc_dropout, mc_seed)
    beton = Path(beton).absolute()
    trained = load_run(run, checkpoint, trust=trust, network=network)
    passes.check(trained)
    target = Path(out).absolute() if out else trained.run / "predictions" / f"{beton.stem}-{checkpoint}.parquet"
    if target.suffix != ".parquet":
        raise ConfigError(f"{target} is not named as Parquet; name it {target.stem}.parquet")
    sidecar, loader = open_beton(beton, threads or dist.cores())
    warn_of_other_tiles(trained, sidecar, beton)
    rows = np.arange(sidecar.samples)
    parts: list[Estimate] = []
    with (
        loader.epoch(rows, batch_size or trained.config.batch_size_per_rank) as batches,
        track(f"Predicting {beton.name}", len(rows), "tiles", show=progress) as advance,
    ):
        for batch in to_device(batches, trained.device):
            parts.append(estimate(trained, batch.images_BCHW, list(sidecar.tile_id[batch.rows]), passes))
            advance(len(batch.rows))
    table = _table(Estimate.join(parts, len(trained.classes)), sidecar, trained)
    facts = {
        "run": trained.run.name,
        "checkpoint": trained.sha256,
        "epoch": str(trained.epoch),
        "passes": str(passes),
        "task": trained.task.name,
    }
    checkpoints.make_folder(target.parent)
    write_predictions(target, table.replace_schema_metadata(facts))
    return BetonPredictReport(trained.run.name, str(sidecar.raw["grid"]["name"]), str(target), len(rows))


def _table(found: Estimate, sidecar: Sidecar, trained: TrainedModel) -> pa.Table:
    """Return the rows of the file."""
    # The last is for -1, no label.
    labels = np.array([*sidecar.classes, None], object)
    columns = {
        "tile_id": pa.array(sidecar.tile_id, pa.string()),
        "slide": pa.array(sidecar.tile_slide, pa.string()),
        "patient": pa.array(sidecar.tile_patient, pa.string()),
        "label": pa.array(labels[sidecar.class_number], pa.string()),
        **trained.task.said(trained.classes, found.given),
    }
    for name in ("entropy", "mutual_information"):
        numbers = getattr(found, name)
        if numbers is not None:
            columns[name] = pa.array(numbers)
    if found.deviation is not None:
        columns |= named(found.deviation, "deviation_", trained.classes)
    return pa.table(columns)
