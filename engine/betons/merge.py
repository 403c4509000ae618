"""Merges the shards of an export into the beton that the export makes without them, byte for byte.

Tiles are packed into pages by their order and sizes alone, so that they only have to be read in their order and
written again; nothing is decoded, and a page is in memory at a time.
"""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slideduck.betons.format import AGAIN, BetonInfo, check_beton
from slideduck.betons.pages import PageTables
from slideduck.betons.schema import SHARED, sidecar_problems
from slideduck.betons.shards import (
    LeftOut,
    Shard,
    beton_identity,
    digest,
    left_out_from_json,
    left_out_to_json,
    with_written,
)
from slideduck.betons.sidecar import (
    Sidecar,
    load_sidecar,
    read_sidecar,
    refuse_problems,
    sidecar_path,
    write_sidecar,
)
from slideduck.betons.writer import BetonWriter
from slideduck.errors import BetonError, DiskFullError
from slideduck.progress import track
from slideduck.show import Shown
from slideduck.words import agreeing, part

__all__ = ["MergeReport", "merge_betons"]

#: What the side-car of a shard says of the export that it is a part of.
_ENTRY = ("number", "count", "first_tile", "tiles", "tiles_of_all", "plan")


@dataclass(frozen=True)
class MergeReport(Shown):
    """What `merge_betons` did.

    Attributes
    ----------
    path, sidecar : Path
        The beton and its side-car.
    shards, samples, slides, bytes : int
        Shards that were merged; tiles and slides in the beton, and its size.
    resumed : int
        Tiles that a merge which was stopped had already written.
    left_out : tuple of LeftOut
        Tiles that the shards were written without.
    seconds : float
        Time that it took.
    notes : tuple of str
        What the user should know, such as the remains of another merge that were removed.
    """

    path: Path
    sidecar: Path
    shards: int
    samples: int
    slides: int
    bytes: int
    resumed: int
    left_out: tuple[LeftOut, ...]
    seconds: float
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Source:
    """A shard: its file, its side-car, and what was checked of it; no info where it has no tiles."""

    path: Path
    raw: dict[str, Any]
    info: BetonInfo | None
    sidecar: Sidecar | None = None

    @property
    def entry(self) -> dict[str, Any]:
        """What its side-car says of the export that it is a part of."""
        entry: dict[str, Any] = self.raw["shard"]
        return entry


def merge_betons(
    out: str | os.PathLike[str],
    shards: Sequence[str | os.PathLike[str]],
    *,
    overwrite: bool = True,
    show: bool = False,
) -> MergeReport:
    """Write the beton, and its side-car, whose shards are given.

    Parameters
    ----------
    out : path-like
        The beton, ``OUT.beton``. Neither it nor its side-car changes before the new files are whole.
    shards : sequence of path-like
        All shards of one export, in any order; each has its side-car beside it. They stay as they are.
    overwrite : bool, default True
        Replace a beton of that name.
    show : bool, default False
        Show progress.

    Returns
    -------
    MergeReport

    Raises
    ------
    BetonError
        If a file is no shard or is damaged, if they are not all the shards of one export, each once, or if ``out``
        cannot be written.
    DiskFullError
        If there is no room.

    Notes
    -----
    A merge that was stopped goes on after the last whole page, as an export does.
    """
    started = time.monotonic()
    path = Path(out).expanduser().absolute()
    sidecar_path(path)
    if path.exists() and not overwrite:
        raise BetonError(f"{path} is there already; remove it, give another name, or allow overwriting")
    sources = _in_order([_source(Path(shard).expanduser().absolute()) for shard in shards])
    if path in [source.path for source in sources]:
        raise BetonError(f"{path} is one of the shards; give another name for what they make")
    content = _merged_sidecar(path, sources)
    first = sources[0]
    filled = [source for source in sources if source.info is not None]
    if not filled:
        raise BetonError(f"none of the {len(sources)} shards has a tile, and a beton has one or more")
    infos = [source.info for source in filled if source.info is not None]
    _check_space(path, sum(info.bytes for info in infos))
    identity = beton_identity(content)
    plan = digest("merge", first.entry["plan"], identity, [source.raw["beton"] for source in sources])
    with BetonWriter(
        path, samples=first.entry["tiles_of_all"], identity=identity, plan=plan, page_size=infos[0].page_size
    ) as writer:
        resumed = writer.rows
        with track("Merging", sum(info.samples for info in infos), "tiles", done=resumed, show=show) as advance:
            skip = resumed
            for source, info in zip(filled, infos, strict=True):
                assert source.sidecar is not None
                for tiles, labels in _pages(source, source.sidecar, skip):
                    writer.extend(tiles, info.width, info.height, mode=info.mode, labels=labels)
                    advance(len(tiles))
                skip = max(0, skip - info.samples)
        left_out = [tile for source in sources for tile in left_out_from_json(source.raw.get("skipped", []))]
        # An export has room in its tables for the tiles that it leaves out.
        writer.leave_out(len(left_out) - writer.left_out)
        written = writer.finish()
        sidecar = write_sidecar(path, with_written(content, written))
        writer.publish()
    return MergeReport(
        path=path,
        sidecar=sidecar,
        shards=len(sources),
        samples=written.samples,
        slides=len(content["slides"]),
        bytes=written.bytes,
        resumed=resumed,
        left_out=tuple(left_out),
        seconds=time.monotonic() - started,
        notes=(writer.note,) if writer.note else (),
    )


def _source(path: Path) -> _Source:
    """Read and check one shard."""
    sidecar = sidecar_path(path)
    try:
        loaded = load_sidecar(sidecar)
    except FileNotFoundError:
        raise BetonError(f"{path} has no side-car: there is no {sidecar}, which says what shard it is") from None
    if loaded.raw.get("shard") is None:
        raise BetonError(f"{path} is no shard; give betons that slideduck export --shards made")
    if loaded.is_changed:
        raise BetonError(loaded.changed)
    refuse_problems(sidecar, sidecar_problems(loaded.raw, shard=True))
    raw = {**loaded.raw, "shard": {name: loaded.raw["shard"][name] for name in _ENTRY}}
    if raw["beton"]["samples"] == 0:
        # None of its tiles could be read: it has a side-car alone.
        return _Source(path, raw, None)
    info = check_beton(path)
    return _Source(path, raw, info, read_sidecar(path, info))


def _in_order(sources: Sequence[_Source]) -> list[_Source]:
    """Return the shards by number, and make sure that they are those of one export, all and each once."""
    if not sources:
        raise BetonError("no shard is given; name the betons that slideduck export --shards made")
    first = sources[0]
    by_number: dict[int, _Source] = {}
    for source in sources:
        for name in ("plan", "count", "tiles_of_all"):
            if source.entry[name] != first.entry[name]:
                raise BetonError(
                    f"{first.path} and {source.path} are shards of different exports, by their {_WORDS[name]}; "
                    "write them with the same study, settings and versions"
                )
        twin = by_number.setdefault(source.entry["number"], source)
        if twin is not source:
            raise BetonError(
                f"{twin.path} and {source.path} are both shard {source.entry['number']} of "
                f"{source.entry['count']}; give each shard once"
            )
    count = first.entry["count"]
    missing = [number for number in range(count) if number not in by_number]
    if missing:
        named = ", ".join(str(number) for number in missing[:10]) + (", ..." if len(missing) > 10 else "")
        raise BetonError(
            f"{part(len(missing), count, 'shard')} {agreeing(len(missing), 'is', 'are')} missing: {named}; give "
            f"{agreeing(len(missing), 'it', 'them')} too, or write {agreeing(len(missing), 'it', 'them')} with: "
            f"slideduck export STUDY OUT.beton {_options(first.raw)}--shards {count} --shard {missing[0]}"
        )
    ordered = [by_number[number] for number in range(count)]
    for source in ordered:
        rows = Shard(source.entry["number"], count).rows(first.entry["tiles_of_all"])
        there = len(source.raw["tiles"]["tile_id"]) + len(left_out_from_json(source.raw.get("skipped", [])))
        if (source.entry["first_tile"], source.entry["tiles"], there) != (rows.start, len(rows), len(rows)):
            raise BetonError(f"{source.path} has {part(there, len(rows), 'tile')}; {AGAIN}")
        for name in SHARED:
            if source.raw[name] != first.raw[name]:
                raise BetonError(_differ(first, source, name))
        if source.raw["beton"]["image"] != first.raw["beton"]["image"]:
            raise BetonError(_differ(first, source, "image"))
        if set(source.raw["tiles"]) != set(first.raw["tiles"]):
            raise BetonError(_differ(first, source, "tiles"))
    sizes = {source.info.page_size: source for source in ordered if source.info is not None}
    if len(sizes) > 1:
        one, other = list(sizes.values())[:2]
        raise BetonError(_differ(one, other, "pages"))
    return ordered


_WORDS = {"plan": "plan", "count": "number of shards", "tiles_of_all": "number of tiles"}


def _differ(first: _Source, source: _Source, name: str) -> str:
    return (
        f"{first.path} and {source.path} do not belong together: the entry {name!r} of their side-cars differs; "
        "was the study changed between them? Write one of them again"
    )


def _merged_sidecar(path: Path, sources: Sequence[_Source]) -> dict[str, Any]:
    """Return the side-car that the export writes without shards, but for what is known once it is written."""
    first = sources[0]
    slides: dict[str, Mapping[str, Any]] = {}
    tiles: dict[str, list[Any]] = {name: [] for name in first.raw["tiles"]}
    left_out: list[LeftOut] = []
    for source in sources:
        for slide in source.raw["slides"]:
            if slides.setdefault(slide["slide"], slide) != slide:
                raise BetonError(
                    f"slide {slide['slide']!r} is not the same in two shards, or was not read in the same way "
                    f"({source.path} and the one before it); write one of them again"
                )
        number = {name: i for i, name in enumerate(slides)}
        here = [number[slide["slide"]] for slide in source.raw["slides"]]
        for name, column in source.raw["tiles"].items():
            tiles[name] += [here[i] for i in column] if name == "slide" else column
        left_out += left_out_from_json(source.raw.get("skipped", []))
    content: dict[str, Any] = {}
    for name, value in first.raw.items():
        if name == "slides":
            value = list(slides.values())
        if name not in ("shard", "skipped", "tiles"):
            content[name] = value
    content["beton"] = {"file": path.name, "image": first.raw["beton"]["image"]}
    if left_out:
        content["skipped"] = left_out_to_json(left_out)
    content["tiles"] = tiles
    return content


def _check_space(path: Path, needed: int) -> None:
    """Make sure that the disk has room for the beton."""
    if not path.parent.is_dir():
        raise BetonError(f"no folder {path.parent} to put {path.name} in; make the folder first")
    part = path.with_name(path.name + ".part")
    free = shutil.disk_usage(path.parent).free + (os.stat(part).st_blocks * 512 if part.exists() else 0)
    if needed > free:
        raise DiskFullError(
            f"{path} would have about {needed / 1e9:,.2f} GB, and {path.parent} has {free / 1e9:,.2f} GB "
            "free; free some space, or give another place"
        )


def _pages(source: _Source, sidecar: Sidecar, skip: int) -> Iterator[tuple[list[memoryview], npt.NDArray[np.int64]]]:
    """Yield the tiles of a shard page by page, but for the first few, with their classes."""
    if skip >= sidecar.samples:
        return
    with source.path.open("rb", buffering=0) as file:
        tables = PageTables(source.path, file.fileno(), sidecar)
        for page, (first, stop) in enumerate(pairwise(tables.bounds.tolist())):
            if stop <= skip or first == stop:
                continue
            content = tables.content(page)
            if content is None:
                raise BetonError(f"{source.path} is damaged: {tables.name(page)}; {AGAIN}")
            data = memoryview(content)
            first = max(first, skip)
            begins = (tables.ptr[first:stop] - tables.at(page)).tolist()
            sizes = tables.size[first:stop].tolist()
            yield [data[b : b + n] for b, n in zip(begins, sizes, strict=True)], sidecar.class_number[first:stop]


def _options(raw: Mapping[str, Any]) -> str:
    """Return the options by which an export takes the tiles of a shard, and no others."""
    where = raw["query"]["where"]
    condition = "" if where in (None, "label IS NOT NULL") else f"--where {shlex.quote(where)} "
    return f"--grid {shlex.quote(raw['grid']['name'])} {condition}"
