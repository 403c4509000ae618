"""Side-cars of betons: ``OUT.json`` beside ``OUT.beton`` says what each tile is.

Labels, slides, patients, splits, the grid, the rules and the versions: all that the runner needs, or
a reader of the file years later.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slideduck.betons.format import AGAIN, BetonInfo, check_beton
from slideduck.errors import BetonError
from slideduck.files.write import explained, write_whole

__all__ = ["Sidecar", "SlideInfo", "read_sidecar", "sidecar_path", "write_sidecar"]

SIDECAR_FORMAT = "slideduck beton"
SIDECAR_VERSION = 1


@dataclass(frozen=True)
class SlideInfo:
    """A slide, as a side-car has it.

    Attributes
    ----------
    slide, path, fingerprint : str
        Name, path at the time of the export, and fingerprint of the file.
    width, height : int
        Size of level 0, pixels.
    mpp : float
        Microns per base pixel.
    patient : str
        Name of the patient, or of the slide where none was given.
    site, split : str or None
        Site of the patient, and side of the split.
    fold : int or None
        Fold of the split, from 0.
    extract_px, stride : int
        Side of a tile, and the step to the next, base pixels.
    level : int
        Level that tiles were read from.
    level_downsample : float
        Base pixels per pixel of that level.
    read_px : int
        Side of a tile, pixels of that level.
    background : str
        Colour behind transparent pixels, RRGGBB.
    patient_columns : mapping
        The further columns of the patients' table by name: numbers, text or None. Older betons have none.
    """

    slide: str
    path: str
    fingerprint: str
    width: int
    height: int
    mpp: float
    patient: str
    site: str | None
    split: str | None
    fold: int | None
    extract_px: int
    stride: int
    level: int
    level_downsample: float
    read_px: int
    background: str
    patient_columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Sidecar:
    """What the tiles of a beton are; entry *i* of each array is row *i* of the beton.

    Attributes
    ----------
    path : Path
        The JSON file.
    classes : tuple of str
        Label of each class number.
    slides : tuple of SlideInfo
        In the order of their names.
    tile_id : ndarray of object (str), shape (samples,)
        Names of the tiles.
    slide : ndarray of int32, shape (samples,)
        Index into `slides`.
    class_number : ndarray of int64, shape (samples,)
        Index into `classes`, -1 for no label.
    grid_x, grid_y : ndarray of int32, shape (samples,)
        Column and row in the grid of the slide.
    loc_x, loc_y : ndarray of int64, shape (samples,)
        Centre, rounded down, base pixels.
    roi_name : ndarray of object (str or None), shape (samples,)
        The ROI that won the tile.
    tile_px : int
        Side of a tile, pixels.
    image_mode : str
        ``"jpg"`` or ``"raw"``.
    quality : int or None
        Quality of the JPEGs.
    raw : dict
        All of the JSON as it was read.
    sha256 : str
        Digest of the JSON file.
    """

    path: Path
    classes: tuple[str, ...]
    slides: tuple[SlideInfo, ...]
    tile_id: npt.NDArray[np.object_]
    slide: npt.NDArray[np.int32]
    class_number: npt.NDArray[np.int64]
    grid_x: npt.NDArray[np.int32]
    grid_y: npt.NDArray[np.int32]
    loc_x: npt.NDArray[np.int64]
    loc_y: npt.NDArray[np.int64]
    roi_name: npt.NDArray[np.object_]
    tile_px: int
    image_mode: str
    quality: int | None
    raw: dict[str, Any]
    sha256: str

    @property
    def samples(self) -> int:
        """Number of tiles."""
        return len(self.tile_id)

    @cached_property
    def tile_slide(self) -> npt.NDArray[np.object_]:
        """Name of each tile's slide, shape (samples,)."""
        return self._per_tile("slide")

    @cached_property
    def tile_patient(self) -> npt.NDArray[np.object_]:
        """Name of each tile's patient, shape (samples,)."""
        return self._per_tile("patient")

    @cached_property
    def tile_split(self) -> npt.NDArray[np.object_]:
        """Side of the split of each tile or None, shape (samples,)."""
        return self._per_tile("split")

    @cached_property
    def tile_fold(self) -> npt.NDArray[np.int64]:
        """Fold of each tile, -1 for none, shape (samples,)."""
        return np.array([-1 if s.fold is None else s.fold for s in self.slides], np.int64)[self.slide]

    @cached_property
    def patient_columns(self) -> tuple[str, ...]:
        """Names of the further columns of the patients' table, in its order."""
        return tuple(dict.fromkeys(name for info in self.slides for name in info.patient_columns))

    def tile_patient_column(self, name: str) -> npt.NDArray[np.object_]:
        """Value of a column of `patient_columns` for each tile's slide: a number, text or None; shape (samples,)."""
        values = np.array([info.patient_columns.get(name) for info in self.slides] + [None], dtype=np.object_)
        return values[self.slide]

    def _per_tile(self, name: str) -> npt.NDArray[np.object_]:
        """Spread a value of the slides over their tiles."""
        values = np.array([getattr(s, name) for s in self.slides] + [None], dtype=np.object_)
        return values[self.slide]


def sidecar_path(beton: str | PathLike[str]) -> Path:
    """Return the path of a beton's side-car: ``OUT.json`` for ``OUT.beton``.

    Raises
    ------
    BetonError
        If the name does not end in ``.beton``.
    """
    path = Path(beton)
    if path.suffix != ".beton" or path.name == ".beton":
        raise BetonError(f"{path} is no name for a beton; give one that ends in .beton, such as tiles.beton")
    return path.with_suffix(".json")


def write_sidecar(beton: str | PathLike[str], content: Mapping[str, Any]) -> Path:
    """Write the side-car of a beton, whole or not at all.

    Parameters
    ----------
    beton : path-like
        The beton.
    content : mapping
        What to write: see `Sidecar.raw`. The same content gives the same bytes.

    Returns
    -------
    Path
        The JSON file.

    Raises
    ------
    DiskFullError
        If there is no room for it.
    """
    path = sidecar_path(beton)
    # A line for each entry, and for each column of tiles: large files stay readable by eye and diff.
    lines = [
        f"{json.dumps(key)}: " + ("{\n  " + _lines(value, ",\n  ") + "\n }" if key == "tiles" else _json(value))
        for key, value in content.items()
    ]
    text = "{\n " + ",\n ".join(lines) + "\n}\n"
    kept = ": the tiles are kept; free some space and export again with the same settings"
    with explained(path, kind=BetonError, full=kept):
        write_whole(path, lambda file: file.write(text.encode()))
    return path


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _lines(columns: Mapping[str, Any], separator: str) -> str:
    return separator.join(f"{json.dumps(name)}: {_json(column)}" for name, column in columns.items())


def read_sidecar(beton: str | PathLike[str], info: BetonInfo | None = None) -> Sidecar:
    """Read the side-car of a beton, and make sure that it is this beton's.

    Parameters
    ----------
    beton : path-like
        The beton, ``OUT.beton``; the side-car is ``OUT.json`` beside it.
    info : BetonInfo, optional
        What `check_beton` returned for it, if it was called already.

    Returns
    -------
    Sidecar

    Raises
    ------
    BetonError
        If either file is missing or damaged, or they do not belong together.
    """
    path = sidecar_path(beton)
    info = info or check_beton(beton)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise BetonError(
            f"{beton} has no side-car: there is no {path}, which says what each tile is; put it back, or "
            "make both again with: slideduck export"
        ) from None
    try:
        raw = json.loads(content)
    except ValueError as error:
        raise BetonError(f"{path} is damaged: {error}; {AGAIN}") from None
    if not isinstance(raw, dict) or raw.get("format") != SIDECAR_FORMAT:
        raise BetonError(f"{path} is not the side-car of a beton; {AGAIN}")
    if raw.get("version") != SIDECAR_VERSION:
        raise BetonError(
            f"{path} is a side-car of version {raw.get('version')}, and this slideduck reads version "
            f"{SIDECAR_VERSION}; upgrade slideduck"
        )
    try:
        sidecar = _sidecar_from_json(path, raw, hashlib.sha256(content).hexdigest())
        claimed = {key: raw["beton"][key] for key in ("bytes", "samples", "metadata_sha256")}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BetonError(f"{path} is damaged: {type(error).__name__}: {error}; {AGAIN}") from error
    for key, value in claimed.items():
        if value != getattr(info, key):
            raise BetonError(
                f"{path} is the side-car of another beton: it says {key} {value}, and {beton} has "
                f"{getattr(info, key)}; {AGAIN}"
            )
    return sidecar


def _sidecar_from_json(path: Path, raw: dict[str, Any], sha256: str) -> Sidecar:
    """Build a side-car, or raise KeyError, TypeError or ValueError."""
    tiles = raw["tiles"]
    names = [item.name for item in fields(SlideInfo)]
    # Older side-cars have no further columns of patients.
    slides = tuple(
        SlideInfo(**{name: entry[name] for name in names if name != "patient_columns" or name in entry})
        for entry in raw["slides"]
    )
    sidecar = Sidecar(
        path=path,
        classes=tuple(raw["classes"]),
        slides=slides,
        tile_id=np.array(tiles["tile_id"], np.object_),
        slide=np.array(tiles["slide"], np.int32),
        class_number=np.array(tiles["class"], np.int64),
        grid_x=np.array(tiles["grid_x"], np.int32),
        grid_y=np.array(tiles["grid_y"], np.int32),
        loc_x=np.array(tiles["loc_x"], np.int64),
        loc_y=np.array(tiles["loc_y"], np.int64),
        roi_name=np.array(tiles["roi_name"], np.object_),
        tile_px=int(raw["beton"]["image"]["tile_px"]),
        image_mode=raw["beton"]["image"]["mode"],
        quality=raw["beton"]["image"]["quality"],
        raw=raw,
        sha256=sha256,
    )
    shape = (int(raw["beton"]["samples"]),)
    for name in ("tile_id", "slide", "class_number", "grid_x", "grid_y", "loc_x", "loc_y", "roi_name"):
        found = getattr(sidecar, name).shape
        if found != shape:
            raise ValueError(f"{name} has shape {found}, not {shape}")
    for name, numbers, least, most in (
        ("slide", sidecar.slide, 0, len(slides)),
        ("class", sidecar.class_number, -1, len(sidecar.classes)),
    ):
        if numbers.min() < least or numbers.max() >= most:
            raise ValueError(f"{name} is not between {least} and {most - 1} everywhere")
    return sidecar
