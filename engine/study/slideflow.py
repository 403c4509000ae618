"""A study of a project of Slideflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slideduck.errors import SlideduckError
from slideduck.interop.slideflow import read_project
from slideduck.interop.slideflow_import import SlideflowImport
from slideduck.interop.slideflow_import import import_slideflow as import_project
from slideduck.study.study import Study, open_study

__all__ = ["import_slideflow"]


def import_slideflow(
    project: str | Path,
    out: str | Path | None = None,
    *,
    sources: str | Sequence[str] | None = None,
    root: Mapping[str, str | Path] | None = None,
    progress: bool = False,
    **options: Any,
) -> tuple[Study, SlideflowImport]:
    """Make a study of a project of Slideflow, labelled and split, or bring one up to date.

    Parameters
    ----------
    project : path
        The folder that holds ``settings.json``.
    out : path, optional
        The study; default ``study.duckdb`` in that folder. One that is there is added to.
    sources : str or sequence of str, optional
        Names of sources; default those that the project uses.
    root : mapping of str to path, optional
        Folders that lie elsewhere now, by the beginning that the project's paths have.
    progress : bool, default False
        Show progress on standard error.
    **options
        ``tile_px``, ``tile_um``, ``plan``, ``mpp`` and ``mpp_table``; see
        `slideduck.interop.slideflow_import.import_slideflow`.

    Returns
    -------
    study : Study
        Open.
    report : SlideflowImport

    Raises
    ------
    SlideduckError
        If the project is refused; a new study is not kept then.

    Examples
    --------
    >>> import slideduck as sd
    >>> study, report = sd.import_slideflow("project")  # doctest: +SKIP
    """
    read = read_project(project, sources=sources, root=root)
    path = Path(read.root / "study.duckdb" if out is None else out).expanduser().absolute()
    is_new = not path.exists()
    study = open_study(path, progress=progress)
    try:
        return study, import_project(study.handle, read, **options)
    except BaseException as error:
        study.__exit__(type(error), error, error.__traceback__)
        # What Ctrl-C leaves is whole as far as it goes, and the same call goes on from there.
        if is_new and isinstance(error, SlideduckError):
            path.unlink(missing_ok=True)
        raise
