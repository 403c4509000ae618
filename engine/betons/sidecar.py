"""Side-cars of betons: ``OUT.json`` beside ``OUT.beton`` says what each tile is.

Labels, slides, patients, splits, the grid, the rules and the versions: all that the runner needs, or
a reader of the file years later.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slideduck.betons.format import AGAIN, BetonInfo, check_beton
from slideduck.betons.schema import sidecar_problems
from slideduck.betons.shards import beton_identity
from slideduck.catalog.label_sets import soft_array
from slideduck.errors import BetonError, InputError
from slideduck.files.strictjson import parse_json, read_limited
from slideduck.files.write import explained, write_whole
from slideduck.show import Shown

__all__ = [
    "LoadedSidecar",
    "Sidecar",
    "SlideInfo",
    "checked_sidecar",
    "load_sidecar",
    "no_sidecar",
    "other_images",
    "read_sidecar",
    "refuse_problems",
    "sidecar_path",
    "write_sidecar",
]

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
class Sidecar(Shown):
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
        All of the JSON as it was read, without its own checksum.
    sha256 : str
        Digest of the JSON file.
    value : ndarray of float64, shape (samples,), or None
        The number that a label set gives each tile, NaN for none; None where there are no numbers.
    soft : ndarray of float64, shape (samples, classes), or None
        The probability of each class by soft labels: of a tile with another label 1 for it, of one without 0
        everywhere. None where no label is soft.
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
    value: npt.NDArray[np.float64] | None = None
    soft: npt.NDArray[np.float64] | None = None

    told = ("path", "samples", "tile_px", "image_mode", "quality", "classes")

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

    @cached_property
    def target_columns(self) -> tuple[str, ...]:
        """Names of the columns of the patients' table that a network can learn: ``site``, and the further ones."""
        has_site = any(info.site is not None for info in self.slides)
        return (*(["site"] if has_site else []), *self.patient_columns)

    def tile_patient_column(self, name: str) -> npt.NDArray[np.object_]:
        """Value of one of `target_columns` for each tile's slide: a number, text or None; shape (samples,)."""
        if name == "site":
            return self._per_tile("site")
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
        What to write: see `Sidecar.raw`. The same content gives the same bytes. The last line is a checksum of the
        rest.

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
    text = ("{\n " + ",\n ".join(lines)).encode()
    text += _seal(text)
    kept = ": the tiles are kept; free some space and export again with the same settings"
    with explained(path, kind=BetonError, full=kept):
        write_whole(path, lambda file: file.write(text))
    return path


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _lines(columns: Mapping[str, Any], separator: str) -> str:
    return separator.join(f"{json.dumps(name)}: {_json(column)}" for name, column in columns.items())


def _seal(text: bytes) -> bytes:
    """Return the last entry of a side-car, a checksum of all that stands before it, and its end."""
    return b',\n "sha256": "' + hashlib.sha256(text).hexdigest().encode() + b'"\n}\n'


@dataclass(frozen=True)
class LoadedSidecar:
    """The JSON of a side-car, before it is known to be right.

    Attributes
    ----------
    path : Path
        The file.
    raw : dict
        The JSON, without its own checksum.
    sha256 : str
        Digest of the file.
    is_changed : bool
        Its own checksum is not that of the rest. Side-cars of before have none.
    """

    path: Path
    raw: dict[str, Any]
    sha256: str
    is_changed: bool

    @property
    def changed(self) -> str:
        """What is said of a side-car that was changed."""
        return (
            f"{self.path} was changed after it was written: its last line is not the checksum of the rest; {AGAIN}: "
            "the same command gives the same bytes"
        )


def load_sidecar(path: Path) -> LoadedSidecar:
    """Read the JSON of a side-car.

    Raises
    ------
    FileNotFoundError
        If there is none.
    BetonError
        If it cannot be read, is no JSON of a side-car, or beyond a limit.
    """
    try:
        content = read_limited(path)
        raw = parse_json(content)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BetonError(f"{path} cannot be read: {error.strerror}; {AGAIN}") from None
    except ValueError as error:
        raise BetonError(f"{path} is damaged: {error}; {AGAIN}") from None
    if not isinstance(raw, dict) or raw.get("format") != SIDECAR_FORMAT:
        raise BetonError(f"{path} is not the side-car of a beton; {AGAIN}")
    if raw.get("version") != SIDECAR_VERSION or isinstance(raw["version"], bool):
        raise BetonError(
            f"{path} is a side-car of version {json.dumps(raw.get('version'))[:60]}, and this slideduck reads version "
            f"{SIDECAR_VERSION}; upgrade slideduck"
        )
    text, _, _ = content.rpartition(b',\n "sha256": ')
    is_changed = "sha256" in raw and content != text + _seal(text)
    raw.pop("sha256", None)
    return LoadedSidecar(path, raw, hashlib.sha256(content).hexdigest(), is_changed)


def no_sidecar(beton: str | PathLike[str]) -> str:
    """Return what is said of a beton without a side-car."""
    return (
        f"{beton} has no side-car: there is no {sidecar_path(beton)}, which says what each tile is; put it back, or "
        "make both again with: slideduck export"
    )


def refuse_problems(path: Path, problems: Sequence[str]) -> None:
    """Raise if anything is wrong with the entries of a side-car, naming all of it.

    Raises
    ------
    BetonError
        With one problem on a line.
    """
    if not problems:
        return
    shown = [f"  {problem}" for problem in problems[: InputError.SHOWN]]
    if len(problems) > len(shown):
        shown.append(f"  ... and {len(problems) - len(shown):,} more")
    raise BetonError("\n".join([f"{path} is damaged; {AGAIN}. What is wrong:", *shown]))


def read_sidecar(beton: str | PathLike[str], info: BetonInfo | None = None) -> Sidecar:
    """Read the side-car of a beton, and make sure that it is this beton's and as it was written.

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
        If either file is missing, damaged or was changed, or they do not belong together.
    """
    path = sidecar_path(beton)
    info = info or check_beton(beton)
    try:
        loaded = load_sidecar(path)
    except FileNotFoundError:
        raise BetonError(no_sidecar(beton)) from None
    if loaded.is_changed:
        raise BetonError(loaded.changed)
    sidecar = checked_sidecar(loaded, info)
    if (other := other_images(loaded.raw, info)) is not None:
        raise BetonError(f"{path} is the side-car of another beton: {other}; {AGAIN}")
    if "jpeg" in loaded.raw["beton"]["image"] and beton_identity(loaded.raw) != info.identity:
        raise BetonError(f"{path} was changed: it lists other tiles than {beton} was written with; {AGAIN}")
    return sidecar


def other_images(raw: Mapping[str, Any], info: BetonInfo) -> str | None:
    """Return how the images of a beton are not what its side-car says; None where they are."""
    image = raw["beton"]["image"]
    if (info.mode, info.width, info.height) == (image["mode"], image["tile_px"], image["tile_px"]):
        return None
    return (
        f"its tiles are {info.mode} of {info.width} × {info.height} px, and the side-car has {image['mode']} of "
        f"{image['tile_px']} px"
    )


def checked_sidecar(loaded: LoadedSidecar, info: BetonInfo) -> Sidecar:
    """Return a side-car of which every entry is right, and which belongs to a beton.

    Raises
    ------
    BetonError
        If anything is wrong with its entries, or it is another beton's.
    """
    path, raw = loaded.path, loaded.raw
    refuse_problems(path, sidecar_problems(raw))
    for key in ("bytes", "samples", "metadata_sha256"):
        if raw["beton"][key] != getattr(info, key):
            raise BetonError(
                f"{path} is the side-car of another beton: it says {key} {raw['beton'][key]}, and {info.path} has "
                f"{getattr(info, key)}; {AGAIN}"
            )
    return _sidecar_from_json(loaded)


def _sidecar_from_json(loaded: LoadedSidecar) -> Sidecar:
    """Build a side-car of JSON that is right."""
    raw = loaded.raw
    tiles = raw["tiles"]
    names = [item.name for item in fields(SlideInfo)]
    return Sidecar(
        path=loaded.path,
        classes=tuple(raw["classes"]),
        # Older side-cars have no further columns of patients.
        slides=tuple(SlideInfo(**{name: entry[name] for name in names if name in entry}) for entry in raw["slides"]),
        tile_id=np.array(tiles["tile_id"], np.object_),
        slide=np.array(tiles["slide"], np.int32),
        class_number=np.array(tiles["class"], np.int64),
        grid_x=np.array(tiles["grid_x"], np.int32),
        grid_y=np.array(tiles["grid_y"], np.int32),
        loc_x=np.array(tiles["loc_x"], np.int64),
        loc_y=np.array(tiles["loc_y"], np.int64),
        roi_name=np.array(tiles["roi_name"], np.object_),
        tile_px=raw["beton"]["image"]["tile_px"],
        image_mode=raw["beton"]["image"]["mode"],
        quality=raw["beton"]["image"]["quality"],
        raw=raw,
        sha256=loaded.sha256,
        value=np.array(tiles["value"], np.float64) if "value" in tiles else None,
        soft=soft_array(tiles, len(raw["classes"])) if "soft" in tiles else None,
    )
