"""Files of features, one a slide: Parquet, or HDF5 as CLAM and TRIDENT read it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from slideduck.errors import ConfigError, RunError
from slideduck.files.checked_parquet import write_parquet
from slideduck.names import path_problem
from slideduck.runner.prediction.tile_source import TilesOfSlide
from slideduck.runner.runs.checkpoint import make_folder, write_whole
from slideduck.runner.runs.trained import TrainedModel
from slideduck.slides.content import is_same_fingerprint

__all__ = ["FORMATS", "FeatureFiles", "feature_rows"]

FORMATS = ("parquet", "h5")

#: Magnification that TRIDENT (``WSI._fetch_magnification``) takes a slide for, by the MPP that it lies below.
_MAGNIFICATIONS = ((0.16, 80), (0.2, 60), (0.3, 40), (0.6, 20), (1.2, 10), (2.4, 5))


def feature_rows(slide: str, rows: pa.Table, found: NDArray[np.float32]) -> pa.Table:
    """Return the features of a slide as a table.

    Parameters
    ----------
    slide : str
        Name of the slide.
    rows : pyarrow.Table
        Its tiles.
    found : ndarray of float32, (n, width)
        Their features.

    Returns
    -------
    pyarrow.Table
        ``slide, tile_id, loc_x, loc_y, grid_x, grid_y`` and ``feature``, a list of fixed size.
    """
    columns: dict[str, Any] = {"slide": pa.array([slide] * len(rows), pa.string()), "tile_id": rows["tile_id"]}
    for name in ("loc_x", "loc_y", "grid_x", "grid_y"):
        columns[name] = rows[name].cast(pa.int32())
    columns["feature"] = pa.FixedSizeListArray.from_arrays(pa.array(found.reshape(-1), pa.float32()), found.shape[1])
    return pa.table(columns)


class FeatureFiles:
    """A folder with a file of features for each slide.

    Parameters
    ----------
    folder : Path
        Made if it does not exist.
    format : str
        One of `FORMATS`.
    trained : TrainedModel
        The network; a file says which checkpoint it comes from.
    grid : str
        Name of the grid.

    Raises
    ------
    ConfigError
        If the folder is named as a file, or the library for the format is missing.
    """

    def __init__(self, folder: Path, format: str, trained: TrainedModel, grid: str) -> None:
        if folder.suffix in (".parquet", ".h5", ".duckdb") or folder.is_file():
            raise ConfigError(f"{folder} is named as a file; name a folder, in which each slide gets a file of its own")
        if format == "h5":
            _h5py()
        self._folder, self._format = folder, format
        self._facts = {"run": trained.run.name, "checkpoint": trained.sha256, "grid": grid}
        self.name, self.width = str(folder), 0
        make_folder(folder)

    def check(self, slides: Sequence[str]) -> None:
        """Refuse slides whose file would be none of the folder's, before anything is computed.

        Raises
        ------
        RunError
            Naming each of them.
        """
        problems = [(slide, self._problem(slide)) for slide in slides]
        wrong = [f"  {slide!r}: the name {problem}" for slide, problem in problems if problem is not None]
        if wrong:
            raise RunError(
                f"no file is written in {self._folder} for names that are not those of files; name the other slides "
                "with `slides`:\n" + "\n".join(wrong)
            )

    def _problem(self, slide: str) -> str | None:
        """Return what keeps the name of a slide from being that of a file in the folder."""
        problem = path_problem(f"{slide}.{self._format}")
        if problem is not None:
            return problem
        is_inside = self._path(slide).parent.resolve().is_relative_to(self._folder.resolve())
        return None if is_inside else "leads through a link out of the folder"

    def has(self, tiles: TilesOfSlide) -> bool:
        """Return whether the file of a slide is there, from this checkpoint and grid.

        Raises
        ------
        RunError
            If it is there, and is another's.
        """
        path = self._path(tiles.slide)
        if not path.exists():
            return False
        facts, width, n_tiles = _read_facts(path)
        for name, value in self._facts.items():
            if facts.get(name) != value:
                raise RunError(
                    f"{path} is there, of {name} {facts.get(name)!r} in place of {value!r}; replace it with "
                    "`overwrite=True`, or name another folder"
                )
        self.width = width
        # Files of earlier versions do not say which slide they are of.
        fingerprint = facts.get("fingerprint", tiles.fingerprint)
        return n_tiles == tiles.n_tiles and is_same_fingerprint(fingerprint, tiles.fingerprint)

    def write(self, tiles: TilesOfSlide, rows: pa.Table, found: NDArray[np.float32]) -> None:
        """Write the file of a slide."""
        self.width = found.shape[1]
        facts = self._facts | {"fingerprint": tiles.fingerprint or ""}
        path = self._path(tiles.slide)
        make_folder(path.parent)
        if self._format == "parquet":
            table = feature_rows(tiles.slide, rows, found).replace_schema_metadata(facts)
            write_whole(path, lambda file: write_parquet(table, file))
        else:
            write_whole(path, lambda file: file.write(_h5_bytes(self._folder, tiles, rows, found, facts)))

    def _path(self, slide: str) -> Path:
        return self._folder / f"{slide}.{self._format}"


def _h5_bytes(
    folder: Path, tiles: TilesOfSlide, rows: pa.Table, found: NDArray[np.float32], facts: dict[str, str]
) -> bytes:
    """Return an HDF5 file in the layout of TRIDENT, which CLAM's readers share.

    ``features`` is (n, width), ``coords`` (n, 2) the top left corners, level-0 pixels; the attributes are those
    that TRIDENT's ``WSI.extract_tissue_coords`` and ``WSI.extract_patch_features`` write.
    """
    magnification = next((m for most, m in _MAGNIFICATIONS if tiles.mpp < most), 1)
    target = magnification * tiles.tile_px / tiles.extract_px
    shared = {"name": tiles.slide, "savetodir": str(folder)}
    coords = np.stack([rows["base_x"].to_numpy(), rows["base_y"].to_numpy()], axis=1).astype(np.int64)
    attributes = {
        "patch_size": tiles.tile_px,
        "patch_size_level0": tiles.extract_px,
        "level0_magnification": magnification,
        "target_magnification": int(target) if target.is_integer() else target,
        # Of pixels of the tile as the network sees it.
        "overlap": round((tiles.extract_px - tiles.stride) * tiles.tile_px / tiles.extract_px),
        "level0_width": tiles.width,
        "level0_height": tiles.height,
        **shared,
    }
    sink = io.BytesIO()
    # HDF5's own checksums: of each chunk of numbers, and of what describes them, which files of version 1.8 have.
    with _h5py().File(sink, "w", libver=("v108", "v108")) as file:
        file.attrs.update(facts)
        checked = {"track_times": False, "fletcher32": True}
        file.create_dataset("features", data=found, **checked).attrs.update(shared)
        file.create_dataset("coords", data=coords, **checked).attrs.update(attributes)
    return sink.getvalue()


def _read_facts(path: Path) -> tuple[dict[str, str], int, int]:
    """Return what a file says that it comes from, the width of its features, and their number."""
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                facts = {key.decode(): value.decode() for key, value in (file.schema_arrow.metadata or {}).items()}
                return facts, file.schema_arrow.field("feature").type.list_size, file.metadata.num_rows
        with _h5py().File(path, "r") as file:
            n_tiles, width = file["features"].shape
            return {key: str(value) for key, value in file.attrs.items()}, width, n_tiles
    except (OSError, KeyError, ValueError, AttributeError, TypeError, RuntimeError, pa.ArrowException) as error:
        raise RunError(
            f"{path} is there, and is no file of features ({error}); replace it with `overwrite=True`, or name another "
            "folder"
        ) from error


def _h5py() -> Any:
    """Return the library h5py.

    Raises
    ------
    ConfigError
        If it is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise ConfigError(
            "HDF5 needs h5py, which is not installed; install it with: pip install 'slideduck[h5]', or write Parquet"
        ) from None
    return h5py
