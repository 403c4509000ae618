"""The tiles of a study that a network trains on or is evaluated on: exported once, into a folder beside the study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from slideduck.betons.settings import ExportSettings
from slideduck.catalog.chosen import chosen_tiles
from slideduck.errors import ConfigError
from slideduck.names import suggestion
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.study import Study
from slideduck.study.once import export_once
from slideduck.words import counted, message

__all__ = ["exported", "parted_settings"]

#: Settings of an export that are not for training: it takes one whole beton, which is there once.
_NOT_HERE = {"shards", "shard", "overwrite"}


def parted_settings(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return which settings are of the training, and which of the export before it.

    Raises
    ------
    ConfigError
        For a name that is of neither, with the nearest.
    """
    training = {item.name for item in fields(TrainConfig)} - {"where"}
    export = {item.name for item in fields(ExportSettings)} - _NOT_HERE
    for name in settings:
        if name not in training | export:
            raise ConfigError(
                f"`{name}` is no setting of a training or of the export before it"
                f"{suggestion(name, sorted(training | export)) or '; see slideduck.runner.TrainConfig'}"
            )
    return (
        {name: value for name, value in settings.items() if name in training},
        {name: value for name, value in settings.items() if name in export},
    )


def exported(
    study: Study, settings: Mapping[str, Any], *, betons: str | Path | None = None, progress: bool = True
) -> Path:
    """Return the beton of some tiles, which is written unless it is there.

    Parameters
    ----------
    study : Study
        The study.
    settings : mapping
        Of `slideduck.betons.settings.ExportSettings`, or tables in place of its ``where``.
    betons : path, optional
        The folder; default ``STUDY.betons`` beside the study.
    progress : bool
        Say on standard error where the tiles are.
    """
    chosen = dict(settings)
    if "where" in chosen:
        chosen["where"] = chosen_tiles(chosen["where"])
    folder = study.path.with_suffix(".betons") if betons is None else Path(betons).expanduser()
    path, report = export_once(study.handle, folder, ExportSettings(**chosen))
    if progress and report is None:
        message(f"the tiles are exported already: {path}")
    elif progress and report is not None:
        message(f"exported {counted(report.samples, 'tile')} to {path}")
    for note in () if report is None else report.notes:
        message(note)
    return path
