"""Reads a project of Slideflow: its settings, sources, sizes of tiles and plans of validation; no study is needed.

A project is a folder with ``settings.json``, which names a table of annotations and a file of sources, each a folder
of slides, of ROIs, of loose tiles and of TFRecords. The layout is that of Slideflow 3.0.2, and of the earlier versions
that 3.0.2 reads.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from slideduck.errors import InputError
from slideduck.files.find import absolute, quoted, reason
from slideduck.files.strictjson import parse_json, read_limited
from slideduck.names import nfc, suggestion
from slideduck.words import counted, listed, printable

__all__ = ["SLIDE_SUFFIXES", "Plan", "Project", "Source", "read_project", "slides_of", "slideflow_name"]

#: Suffixes of the files that Slideflow takes for slides.
SLIDE_SUFFIXES = (
    ".svs", ".tif", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".tiff", ".svslide", ".bif", ".jpg", ".jpeg", ".png",
)  # fmt: skip

_SETTINGS, _PLANS = "settings.json", "splits.json"
#: What a folder of tiles or TFRecords is called: their size in pixels, and in microns or as a magnification.
_SIZE = re.compile(r"([1-9][0-9]{0,8})px_([0-9]{1,9}(?:\.[0-9]{1,9})?)(um|x)")
_FOLD = re.compile(r"k-fold-([1-9][0-9]{0,3})")
_SIDES = {"training": "train", "validation": "val"}
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")


@dataclass(frozen=True)
class Source:
    """A source of a project.

    Attributes
    ----------
    name : str
        Its name.
    slides, rois : Path or None
        Folders of slides and of ROI files; None where there are none.
    tiles : tuple of Path
        Folders of loose tiles and of TFRecords, which need not exist.
    """

    name: str
    slides: Path | None
    rois: Path | None
    tiles: tuple[Path, ...]


@dataclass(frozen=True)
class Plan:
    """A plan of validation, as ``Dataset.split`` keeps it in ``splits.json``.

    Attributes
    ----------
    number : int
        Its place in the file, from 1.
    strategy : str
        What Slideflow calls it: ``fixed``, ``k-fold`` or ``k-fold-preserved-site``.
    side_of : dict of str to (str or int)
        Of each slide the side, ``train`` or ``val``, or its fold from 0.
    """

    number: int
    strategy: str
    side_of: dict[str, str | int]

    @property
    def has_folds(self) -> bool:
        """Whether it has folds, and not sides."""
        return self.strategy.startswith("k-fold")

    @property
    def text(self) -> str:
        """The plan for people, such as ``plan 2: 3 folds (k-fold) of 12 slides``."""
        sides = set(self.side_of.values())
        what = counted(len(sides), "fold") if self.has_folds else listed(sorted(map(str, sides)))
        return f"plan {self.number}: {what} ({self.strategy}) of {counted(len(self.side_of), 'slide')}"


@dataclass(frozen=True)
class Project:
    """A project that was read.

    Attributes
    ----------
    root : Path
        Its folder.
    name : str
        What it is called.
    annotations : Path
        Its table of slides.
    sources : tuple of Source
        Those that were asked for.
    sizes : dict of str to tuple of str
        Sizes of tiles, such as ``256px_256um``, and the sources that have tiles of them.
    plans : tuple of Plan
        Its plans of validation.
    left_out : tuple of str
        What of it a study does not hold.
    """

    root: Path
    name: str
    annotations: Path
    sources: tuple[Source, ...]
    sizes: dict[str, tuple[str, ...]]
    plans: tuple[Plan, ...]
    left_out: tuple[str, ...]


def read_project(
    project: str | os.PathLike[str],
    *,
    sources: str | Sequence[str] | None = None,
    root: Mapping[str, str | os.PathLike[str]] | None = None,
) -> Project:
    """Read what a project says of itself, and check that its files and folders are there.

    Parameters
    ----------
    project : path
        The folder.
    sources : str or sequence of str, optional
        Names of sources; default those that the settings name.
    root : mapping of str to path, optional
        Folders that lie elsewhere now, by the beginning that the project's paths have.

    Raises
    ------
    InputError
        With everything that is wrong, each with its file and key.
    """
    folder = absolute(project)
    if not (folder / _SETTINGS).exists():
        what = "no such folder" if not folder.is_dir() else f"no {_SETTINGS} in it, so it is no project of Slideflow"
        raise InputError([f"{folder}: {what}; give the folder that holds {_SETTINGS}"])
    settings = _read_object(folder / _SETTINGS)
    places = _Places(folder, root or {})
    annotations = places.file(_SETTINGS, "annotations", settings.get("annotations", "./annotations.csv"))
    config = places.file(_SETTINGS, "dataset_config", settings.get("dataset_config", "./datasets.json"))
    places.refuse()
    assert annotations is not None
    assert config is not None
    read = _sources(folder, settings, config, sources, places)
    plans = _read_plans(folder / _PLANS) if (folder / _PLANS).exists() else ()
    places.refuse()
    name = settings.get("name")
    return Project(
        root=folder,
        name=printable(name) if isinstance(name, str) and name else folder.name,
        annotations=annotations,
        sources=tuple(read),
        sizes=_sizes(read),
        plans=plans,
        left_out=tuple(_left_out(folder, settings, read, places)),
    )


# ------------------------------------------------------------------------------------------- paths


class _Places:
    """The paths that the files of a project name, and what is wrong with them."""

    def __init__(self, folder: Path, moved: Mapping[str, str | os.PathLike[str]]) -> None:
        self._folder, self._moved = folder, moved
        self._used: set[str] = set()
        self.problems: list[str] = []

    def path(self, file: str, key: str, value: object) -> Path | None:
        """Return the path that a key of a file names; None, and a problem, where it names none."""
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            self.problems.append(f"{file}: {key} is {quoted(value)}; write a path, or null")
            return None
        text = value
        for old, new in self._moved.items():
            start = old.rstrip("/\\")
            if text.startswith(start) and text[len(start) : len(start) + 1] in ("", "/", "\\"):
                self._used.add(old)
                rest = text[len(start) :].replace("\\", "/").strip("/")
                return absolute(Path(new) / rest)
        # Of 1.x; later versions do not read it any more.
        text = re.sub(r"^\$ROOT(?=$|[/\\])", ".", text)
        return Path(text) if _WINDOWS.match(text) else absolute(self._folder / text)

    def file(self, file: str, key: str, value: object) -> Path | None:
        """Return the file that a key names."""
        path = self.path(file, key, value)
        # A pipe would be waited for.
        if path is None or path.is_file():
            return path
        self._miss(file, key, value, path, "a folder, no file" if path.is_dir() else "no file that is there")
        return None

    def folder(self, file: str, key: str, value: object, *, defaults: Sequence[Path] = ()) -> Path | None:
        """Return the folder that a key names; None if it is one of those that Slideflow names unasked and lacks."""
        path = self.path(file, key, value)
        if path is None or path.is_dir():
            return path
        if path not in defaults:
            self._miss(file, key, value, path, "a file, no folder" if path.exists() else "no folder that is there")
        return None

    def _miss(self, file: str, key: str, value: object, path: Path, what: str) -> None:
        lies = "" if str(path) == value else f" ({path})"
        self.problems.append(
            f"{file}: {key} is {quoted(value)}{lies}, {what}; if it lies elsewhere now, say what its path began with "
            "and begins with by `root`, OLD=NEW"
        )

    def refuse(self) -> None:
        """Raise if anything is wrong."""
        if self.problems:
            raise InputError([printable(problem) for problem in self.problems])

    def unused(self) -> Iterator[str]:
        """Yield the beginnings that no path had."""
        return (old for old in self._moved if old not in self._used)


def _sources(
    folder: Path, settings: Mapping[str, Any], config: Path, wanted: str | Sequence[str] | None, places: _Places
) -> list[Source]:
    """Return the sources that are wanted."""
    there = _read_object(config)
    # Before 1.1 the sources were called datasets.
    said = settings.get("sources", settings.get("datasets", []))
    names = [wanted] if isinstance(wanted, str) else list(wanted or ())
    if not names:
        names = [said] if isinstance(said, str) else said
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError([f"{_SETTINGS}: sources is {quoted(said)}; write a list of names"])
    if not names:
        raise InputError(
            [f"{_SETTINGS}: sources is empty; name those to take by `sources`: {', '.join(there) or 'there are none'}"]
        )
    unknown = [name for name in names if not isinstance(there.get(name), dict)]
    if unknown:
        raise InputError(
            [
                f"{config.name}: no source {name!r}; it has {', '.join(there) or 'none'}{suggestion(name, list(there))}"
                for name in unknown
            ]
        )
    return [_source(folder, config.name, name, there[name], places) for name in dict.fromkeys(names)]


def _source(folder: Path, file: str, name: str, entry: Mapping[str, Any], places: _Places) -> Source:
    """Return a source of whatever its entry names."""

    def named(key: str) -> bool:
        return entry.get(key) not in (None, "")

    slides = places.folder(file, f"{name}.slides", entry["slides"]) if named("slides") else None
    # `add_source` and `create_project` name these, whether there are ROIs or not.
    defaults = [folder / "roi" / name, *([slides / "rois"] if slides else [])]
    rois = places.folder(file, f"{name}.roi", entry["roi"], defaults=defaults) if named("roi") else None
    tiles = [places.path(file, f"{name}.{key}", entry[key]) for key in ("tiles", "tfrecords") if named(key)]
    return Source(name, slides, rois, tuple(path for path in tiles if path is not None))


# ------------------------------------------------------------------------------------------- files


def _read_object(path: Path) -> dict[str, Any]:
    """Return what a JSON file says, which is an object."""
    value = _read_json(path)
    if not isinstance(value, dict):
        raise InputError([f"{path.name}: a list or a single value, where Slideflow has an object; give its own file"])
    return value


def _read_json(path: Path) -> Any:
    """Return what a JSON file says."""
    if not path.is_file():
        raise InputError([f"{path}: no file; check the path"])
    try:
        return parse_json(read_limited(path))
    except OSError as error:
        raise InputError([f"{path}: cannot be read: {reason(error)}"]) from error
    except ValueError as error:
        raise InputError([f"{path}: cannot be read: {error}; save it again with Slideflow"]) from None


def _read_plans(path: Path) -> tuple[Plan, ...]:
    """Return the plans of a file, which is a list of them."""
    entries = _read_json(path)
    if not isinstance(entries, list):
        raise InputError([f"{path.name}: no list, as Dataset.split writes one; remove it, or let Slideflow write it"])
    return tuple(_plan(path.name, number, entry) for number, entry in enumerate(entries, 1))


def _plan(file: str, number: int, entry: object) -> Plan:
    """Return a plan, each slide on one side of it."""
    place = f"{file}: plan {number}"
    groups = entry.get("tfrecords") if isinstance(entry, dict) else None
    strategy = entry.get("strategy") if isinstance(entry, dict) else None
    if not isinstance(strategy, str) or not isinstance(groups, dict):
        raise InputError([f"{place} has no strategy, or no tfrecords by side; remove it, or let Slideflow write it"])
    side_of: dict[str, str | int] = {}
    for name, slides in groups.items():
        fold = _FOLD.fullmatch(name)
        side: str | int | None = int(fold[1]) - 1 if fold else _SIDES.get(name)
        if side is None or bool(fold) is not strategy.startswith("k-fold"):
            raise InputError([f"{place} ({strategy}) has the side {quoted(name)}, which Slideflow does not write"])
        if not isinstance(slides, list) or not all(isinstance(slide, str) for slide in slides):
            raise InputError([f"{place}: {name} is no list of slides; let Slideflow write it"])
        for slide in map(_record_name, slides):
            if side_of.setdefault(slide, side) != side:
                raise InputError([f"{place}: slide {quoted(slide)} is on two sides; let Slideflow write it"])
    return Plan(number, printable(strategy), side_of)


def _record_name(text: str) -> str:
    """Return the slide that an entry of a plan means: its name, or in old versions the path of its records."""
    return nfc(PurePath(text).name.removesuffix(".tfrecords") if text.endswith(".tfrecords") else text)


def _sizes(sources: Sequence[Source]) -> dict[str, tuple[str, ...]]:
    """Return the sizes of tiles that folders are called after, and the sources that have such folders."""
    found: dict[str, dict[str, None]] = {}
    for source in sources:
        for folder in source.tiles:
            for name in _names_in(folder):
                if _SIZE.fullmatch(name) and (folder / name).is_dir():
                    found.setdefault(name, {})[source.name] = None
    return {name: tuple(found[name]) for name in sorted(found)}


def _names_in(folder: Path) -> list[str]:
    """Return the names in a folder that may not be there, in order."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _left_out(folder: Path, settings: Mapping[str, Any], sources: Sequence[Source], places: _Places) -> Iterator[str]:
    """Yield what a study does not hold, with counts."""
    for key, usual, what in (("models_dir", "./models", "model"), ("eval_dir", "./eval", "evaluation")):
        path = places.path(_SETTINGS, key, settings.get(key) or usual)
        n = 0 if path is None else sum((path / name / "params.json").is_file() for name in _names_in(path))
        if n:
            yield f"{counted(n, what)} in {path}"
    for source in sources:
        for tiles in source.tiles:
            for size in filter(_SIZE.fullmatch, _names_in(tiles)):
                names = _names_in(tiles / size)
                records = sum(name.endswith(".tfrecords") for name in names)
                loose = sum((tiles / size / name).is_dir() for name in names)
                if records:
                    yield f"TFRecords of {counted(records, 'slide')} in {tiles / size}"
                if loose:
                    yield f"loose tiles of {counted(loose, 'slide')} in {tiles / size}"
        if source.slides is None:
            yield f"source {source.name!r}, which names no slides"
        if source.rois is not None and (others := _other_rois(source.rois)):
            yield f"{counted(others, 'file')} in {source.rois} that Slideflow reads no ROIs from; add-rois may"
    masks = len(_names_in(folder / "masks"))
    if masks:
        yield f"{counted(masks, 'mask')} in {folder / 'masks'}"
    for old in places.unused():
        yield f"`root` {old!r}, with which no path of the project begins"


def _other_rois(folder: Path) -> int:
    return sum(name.lower().endswith((".xml", ".json", ".geojson")) for name in _names_in(folder))


# ------------------------------------------------------------------------------------------ slides


def slideflow_name(path: Path) -> str:
    """Return what Slideflow calls a slide: its file's name without the suffix, which for ``.ome.tif`` is both."""
    name = path.name
    return re.sub(r"(?<=.)\.ome\.tiff?$", "", name) if name.endswith((".ome.tif", ".ome.tiff")) else path.stem


def slides_of(source: Source) -> list[Path]:
    """Return the files that Slideflow takes for slides of a source: in its folder and one folder below, in order."""
    if source.slides is None:
        return []
    here = _visible(source.slides)
    below = [path for folder in here if folder.is_dir() for path in _visible(folder)]
    return [path for path in sorted([*here, *below]) if path.suffix.lower() in SLIDE_SUFFIXES and path.is_file()]


def _visible(folder: Path) -> list[Path]:
    return [folder / name for name in _names_in(folder) if not name.startswith(".")]
