"""Tiles that are exported once: a beton whose name tells its content."""

from __future__ import annotations

from pathlib import Path

from slideduck.betons.export import ExportReport, export
from slideduck.betons.plan import make_plan
from slideduck.betons.settings import ExportSettings
from slideduck.betons.shards import digest
from slideduck.betons.sidecar import load_sidecar, sidecar_path
from slideduck.errors import BetonError
from slideduck.files.write import explained
from slideduck.store.db import translated
from slideduck.store.handle import Handle

__all__ = ["export_once"]


def export_once(handle: Handle, folder: Path, settings: ExportSettings) -> tuple[Path, ExportReport | None]:
    """Write a beton under a name that its content decides, unless it is there already.

    Parameters
    ----------
    handle : Handle
        The study; its labels are up to date.
    folder : Path
        Where the beton lies, or is to lie: ``tiles-DIGEST.beton``; made if it does not exist.
    settings : ExportSettings
        What to export, and how; no shards.

    Returns
    -------
    path : Path
        The beton. Other tiles, labels, classes, splits, patients, ROI files, slides or settings have another.
    report : ExportReport or None
        None if it was there.

    Raises
    ------
    StudyError, QueryError, SlideError, BetonError, DiskFullError
        See `slideduck.betons.export.export`.
    """
    with translated():
        plan = make_plan(handle, settings)
    # All that decides the bytes of the beton, and what its side-car says besides.
    besides = [vars(slide) for slide in plan.slides], plan.columns["roi_name"], plan.context
    path = folder.absolute() / f"tiles-{digest(plan.digest, besides, settings.skip_errors)[:12]}.beton"
    beside = sidecar_path(path)
    if path.is_file() and beside.is_file() and not load_sidecar(beside).is_changed:
        return path, None
    place = "`betons`, another folder for it"
    with explained(folder, full="; free some, and call again", kind=BetonError, place=place):
        folder.mkdir(parents=True, exist_ok=True)
    return path, export(handle, path, settings, plan)
