"""What a command asks before it imports torch, so that a mistyped word is answered at once.

All of it is asked again where it is used, with the same messages: programs come without these.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from slideduck.betons import Sidecar, read_sidecar
from slideduck.betons.sidecar import no_sidecar, sidecar_path
from slideduck.catalog.grids import require_grid
from slideduck.catalog.slides import usable_slide
from slideduck.draw.figure import check_picture
from slideduck.errors import BetonError, ConfigError, RunError, StudyError
from slideduck.files.write import check_folder
from slideduck.runner.settings.folders import refuse_other_folder
from slideduck.runner.settings.trackers import require_trackers
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tiles.conditions import tiles_where
from slideduck.runner.tiles.rows import labelled_rows, run_rows
from slideduck.runner.tiles.targets import read_targets
from slideduck.study import Study

__all__ = [
    "check_evaluation", "check_feature_files", "check_names", "check_picture_of", "check_source", "check_training",
]  # fmt: skip

#: Side-cars above this take longer to read than torch takes to import, and are read once.
_MOST_BYTES = 8 << 20


def check_source(beton: Path) -> Sidecar | None:
    """Refuse a beton that is not there; return its side-car where that is read in no time."""
    if not beton.is_file():
        raise BetonError(f"no beton at {beton.absolute()}; make it with: slideduck export STUDY {beton.absolute()}")
    path = sidecar_path(beton)
    if not path.is_file():
        raise BetonError(no_sidecar(beton.absolute()))
    return read_sidecar(beton.absolute()) if path.stat().st_size <= _MOST_BYTES else None


def check_training(beton: Path, run: Path, config: TrainConfig, *, several: bool) -> None:
    """Refuse what a training cannot use: its beton, target, tiles, folder, weights and trackers.

    Parameters
    ----------
    several : bool
        Folds or seeds, whose runs choose their tiles by themselves.
    """
    require_trackers(config.track)
    _require_library(config.model)
    if config.weights is not None and not Path(config.weights).exists():
        raise ConfigError(
            f"weights: there is no {config.weights}; give a file, or a folder with model.safetensors or a run"
        )
    if not several:
        refuse_other_folder(run.absolute())
    sidecar = check_source(beton)
    if sidecar is not None:
        targets = read_targets(sidecar, config, beton.absolute())
        if not several:
            run_rows(targets.sidecar, config, beton.absolute())


def _require_library(model: str) -> None:
    """Refuse a network of a library that is not installed."""
    library, _, name = model.partition(":")
    hints = {
        "timm": "install it beside the torchvision of your torch: pip install timm",
        "monai": "install it with: pip install 'slideduck[monai]'",
    }
    if name and library in hints and not _is_there(library):
        raise ConfigError(f"model {model!r} needs {library}, which is not installed; {hints[library]}")


def _is_there(module: str) -> bool:
    with suppress(ImportError, ValueError):
        return find_spec(module) is not None
    return False


def check_evaluation(
    beton: Path,
    *,
    split: str | None,
    where: str | None,
    thresholds: Path | None,
    temperature: Path | None,
    **others: object,
) -> None:
    """Refuse an evaluation of a beton that is not there, of no tile, or by files that are not there."""
    for path in (thresholds, temperature):
        if path is not None and not path.exists() and not _is_number(path):
            raise RunError(f"no file {path}; give the JSON of an evaluation, or a run's validation.json")
    sidecar = check_source(beton)
    if sidecar is None:
        return
    # Which tiles have a label depends on what the run has learnt; none is in a split that there is not.
    if split is not None and not (sidecar.tile_split.astype(object) == split).any():
        labelled_rows(sidecar, split, beton.absolute())
    if where is not None:
        tiles_where(sidecar, where, beton.absolute())


def _is_number(path: Path) -> bool:
    """Return whether a path is a number, as thresholds may be."""
    with suppress(ValueError):
        float(str(path))
        return True
    return False


def check_names(study: Study, grid: str | None, slides: Sequence[str]) -> None:
    """Refuse a grid or slides that a study does not have."""
    if grid is not None:
        require_grid(study.handle, grid)
    for slide in slides:
        usable_slide(study.handle, slide)


def check_picture_of(out: Path, dpi: int | None = None, *, also: Sequence[str] = ()) -> None:
    """Refuse a picture whose suffix says no form, or whose folder is missing."""
    if out.suffix.lower() not in also:
        check_picture(out, dpi)
    check_folder(out.absolute())


def check_feature_files(out: Path | None, format: str | None, *, is_beton: bool) -> None:
    """Refuse files of features that cannot be written."""
    if out is None and not is_beton and format is not None:
        raise ConfigError(f"format is {format!r} without a folder for the files; name one, or leave the format out")
    if out is not None and out.is_file():
        raise StudyError(f"{out} is a file; name a folder, in which each slide gets a file of its own")
    if format == "h5" and not _is_there("h5py"):
        raise ConfigError(
            "HDF5 needs h5py, which is not installed; install it with: pip install 'slideduck[h5]', or write Parquet"
        )
