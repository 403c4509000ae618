"""The metrics of a run's network on any beton."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slideduck.beton import Sidecar
from slideduck.console import message
from slideduck.errors import RunError
from slideduck.runner import checkpoint as checkpoints
from slideduck.runner import dist
from slideduck.runner.data import open_beton
from slideduck.runner.infer import predict_rows, write_predictions
from slideduck.runner.metrics import compute_metrics, plain
from slideduck.runner.rows import labelled_rows
from slideduck.runner.trained import TrainedModel, load_trained

__all__ = ["evaluate"]


def evaluate(
    run: Path | str,
    beton: Path | str,
    *,
    split: str | None = None,
    where: str | None = None,
    checkpoint: str = "best",
    batch_size: int | None = None,
    out: Path | str | None = None,
) -> dict[str, Any]:
    """Compute a network's metrics on the labelled tiles of a beton, and write its predictions.

    Parameters
    ----------
    run : path
        The run's folder.
    beton : path
        Any beton; its classes are matched to the network's by name.
    split : str, optional
        Only tiles of this split, such as ``"val"``.
    where : str, optional
        Only tiles that meet this SQL condition on the side-car's columns, such as ``"site = 'C'"``; see
        `slideduck.runner.where.tiles_where`.
    checkpoint : str
        ``"best"`` or ``"last"``.
    batch_size : int, optional
        Tiles at a time; default as in training.
    out : path, optional
        Parquet of the predictions; default ``RUN/evaluations/BETON[-SPLIT][-where-DIGEST]-CHECKPOINT.parquet``,
        with a digest of the condition. The metrics go beside it, as JSON.

    Returns
    -------
    dict
        ``run``, ``checkpoint``, ``epoch``, ``beton``, ``split``, ``where``, ``classes``, ``metrics`` (see
        `slideduck.runner.metrics.compute_metrics`) and ``predictions``, the Parquet's path.

    Raises
    ------
    RunError
        If the beton has a class that the network lacks.
    ConfigError
        If there is no labelled tile to evaluate.
    QueryError
        If the condition cannot be used.
    """
    beton = Path(beton).absolute()
    trained = load_trained(run, checkpoint)
    sidecar, loader = open_beton(beton, dist.cores())
    rows = labelled_rows(sidecar, split, beton, where)
    if where is not None:
        left_out = len(labelled_rows(sidecar, split, beton)) - len(rows)
        message(f"{len(rows):,} tiles are evaluated; {left_out:,} labelled ones do not meet {where}")
    number_of_class = _class_numbers(trained, sidecar, rows, beton)
    _warn_of_other_tiles(trained, sidecar, beton)
    predictions = predict_rows(
        trained.network,
        loader,
        rows,
        batch_size or trained.config.batch_size_per_rank,
        trained.standard,
        trained.precision,
        trained.device,
        len(trained.classes),
    )
    predictions = replace(predictions, labels=number_of_class[predictions.labels])
    metrics = compute_metrics(predictions, sidecar.slide[rows].astype(np.int64), trained.classes)
    condition = where and f"where-{hashlib.sha256(where.encode()).hexdigest()[:8]}"
    name = "-".join(part for part in (beton.stem, split, condition, checkpoint) if part)
    target = Path(out).absolute() if out else trained.run / "evaluations" / f"{name}.parquet"
    checkpoints.make_folder(target.parent)
    facts = {"run": trained.run.name, "checkpoint": trained.sha256, "epoch": str(trained.epoch)}
    write_predictions(target, predictions, sidecar, list(trained.classes), facts)
    result = {
        "run": str(trained.run),
        "checkpoint": checkpoint,
        "epoch": trained.epoch,
        "beton": str(beton),
        "split": split,
        "where": where,
        "classes": list(trained.classes),
        "metrics": plain(metrics),
        "predictions": str(target),
    }
    checkpoints.write_json(target.with_suffix(".json"), result)
    return result


def _class_numbers(trained: TrainedModel, sidecar: Sidecar, rows: NDArray[np.int64], beton: Path) -> NDArray[np.int64]:
    """Return the network's number of each class of the beton, -1 for one that no chosen tile has."""
    counts = np.bincount(sidecar.class_number[rows], minlength=len(sidecar.classes))
    unknown = [
        f"{name!r} ({count:,} tiles)"
        for name, count in zip(sidecar.classes, counts, strict=True)
        if count and name not in trained.classes
    ]
    if unknown:
        raise RunError(
            f"{beton}: the network of {trained.run} does not know {', '.join(unknown)}; it knows "
            f"{', '.join(trained.classes)}: export without those tiles (--where), or train with them"
        )
    numbers = [trained.classes.index(name) if name in trained.classes else -1 for name in sidecar.classes]
    return np.array(numbers, np.int64)


def _warn_of_other_tiles(trained: TrainedModel, sidecar: Sidecar, beton: Path) -> None:
    """Say where the beton's tiles are unlike those of the training."""
    there, here = trained.beton["grid"], sidecar.raw["grid"]
    if any(there[name] != here[name] for name in ("tile_px", "tile_um", "magnification")):
        message(f"warning: {beton.name} has tiles of {here['name']}; the network learnt on {there['name']}")
    there, here = trained.beton["image"], sidecar.raw["beton"]["image"]
    # Two slides of one name may be targets: what counts are the numbers.
    if _image(there) != _image(here) or there.get("stain") != here.get("stain"):
        message(f"warning: {beton.name} has images of {_image(here)}; the network learnt on {_image(there)}")


def _image(image: dict[str, Any]) -> str:
    """Return how images are stored, in words."""
    stain = image.get("stain")
    stained = "" if stain is None else f", stains by {stain['method']} to {stain['target']['name']}"
    if image["mode"] != "jpg":
        return f"raw pixels{stained}"
    # Betons have not always said so: then every tile was encoded.
    takes_stored = image.get("jpeg", "reencode") != "reencode"
    return f"JPEG quality {image['quality']}" + (", stored tiles untouched" if takes_stored else "") + stained
