"""Whether a run's folder is there and is one, before torch is imported to read what is in it."""

from __future__ import annotations

from pathlib import Path

from slideduck.errors import RunError
from slideduck.names import nearest
from slideduck.words import some

__all__ = ["no_checkpoint", "refuse_other_folder", "require_checkpoint"]

#: Folders beside one that is not there whose names are compared.
_MOST = 1000


def require_checkpoint(run: Path | str, checkpoint: str) -> None:
    """Raise unless a run has a checkpoint.

    Raises
    ------
    RunError
        With the run that is most likely meant, or how to train it.
    """
    path = Path(run).absolute() / f"{checkpoint}.pt"
    if not path.is_file():
        raise RunError(no_checkpoint(path))


def no_checkpoint(path: Path) -> str:
    """Return what is said of a checkpoint that is not there: the runs that may be meant, or how to train one."""
    folder = path.parent
    below = [name for name in _runs_in(folder) if (folder / name / path.name).is_file()]
    if below:
        return f"{path}: no such checkpoint; {folder} holds several runs: give one of them, {some(below)}"
    near = [] if folder.is_dir() else nearest(folder.name, _runs_in(folder.parent))
    if near:
        named = " or ".join(str(folder.parent / name) for name in near)
        return f"{path}: no such checkpoint; did you mean the run {named}?"
    return f"{path}: no such checkpoint; train first (slideduck train OUT.beton --run {folder})"


def _runs_in(folder: Path) -> list[str]:
    """Return the names of the runs in a folder."""
    if not folder.is_dir():
        return []
    return sorted(item.name for item, _ in zip(folder.iterdir(), range(_MOST), strict=False) if is_run(item))


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run's."""
    return (folder / "config.json").is_file()


def refuse_other_folder(folder: Path) -> None:
    """Raise if a folder has files and is no run's.

    Raises
    ------
    RunError
        With what to do.
    """
    if (
        folder.exists()
        and not (folder / "config.json").exists()
        and any(not item.name.startswith(".") for item in folder.iterdir())
    ):
        raise RunError(f"{folder}: not a run folder (it has files, but no config.json); give another `run`")
