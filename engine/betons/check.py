"""Checks a beton: its format, its side-car, its checksums, its JPEGs, and its tiles against their slides."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, fields
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import imagecodecs
import numpy as np
import numpy.typing as npt
import openslide

from slideduck.betons.encode import Encoding, TileMaker, TileMaking
from slideduck.betons.format import ALLOCATION, FIELD, FIELDS, HEADER, PAGE_SIZE, SAMPLE, BetonInfo, check_beton
from slideduck.betons.journal import checksum
from slideduck.betons.pages import page_name, proof_key, remember_sums, tile_sums
from slideduck.betons.schema import sidecar_problems
from slideduck.betons.shards import beton_identity, left_out_from_json
from slideduck.betons.sidecar import (
    Sidecar,
    SlideInfo,
    checked_sidecar,
    load_sidecar,
    no_sidecar,
    other_images,
    refuse_problems,
    sidecar_path,
)
from slideduck.errors import BetonError, ConfigError, SlideError
from slideduck.measure.stain import Normaliser, fit_from_json, stain_from_json
from slideduck.progress import track
from slideduck.show import Shown
from slideduck.slides.grid import SlideGrid, tile_origin
from slideduck.slides.identity import SlideFile
from slideduck.words import counted
from slideduck.work.ordered import in_order

__all__ = ["BetonReport", "Problem", "verify_beton"]

#: Tiles and pages in flight for each thread.
_AHEAD = 64

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Problem:
    """A problem of a beton.

    Attributes
    ----------
    row : int or None
        Row of the tile; None where it is no single tile's.
    tile_id, slide : str or None
        The tile and its slide, as the side-car has them.
    problem : str
        What it is.
    """

    row: int | None
    tile_id: str | None
    slide: str | None
    problem: str


@dataclass(frozen=True)
class BetonReport(Shown):
    """What `verify_beton` found.

    Attributes
    ----------
    path : Path
        The beton.
    samples : int
        Tiles that its tables have.
    pages : int
        Pages whose checksum was compared; 0 where the side-car has none.
    decoded : int
        JPEGs that were decoded.
    compared : int
        Tiles that were compared with their slides.
    missing : dict of str to int
        Tiles that were to be compared and could not be, by slide: its file is not there.
    left_out : int
        Tiles that the export left out, since they could not be read.
    problems : tuple of Problem
        All that is wrong, by row.
    notes : tuple of str
        What could not be checked, and why.
    seconds : float
        Time that it took.
    """

    path: Path
    samples: int
    pages: int
    decoded: int
    compared: int
    missing: dict[str, int]
    left_out: int
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    seconds: float

    always = ("problems",)


def verify_beton(
    beton: str | os.PathLike[str],
    *,
    sample: int | None = 200,
    slides: Mapping[str, str | os.PathLike[str]] | None = None,
    quick: bool = False,
    threads: int | None = None,
    show: bool = False,
) -> BetonReport:
    """Check a beton and its side-car, and compare tiles with the slides that they come from.

    Parameters
    ----------
    beton : path-like
        The beton, with its side-car beside it.
    sample : int, optional
        How many tiles to compare with their slides, spread over the file; None for all of them, and then a slide
        that is missing is a problem too.
    slides : mapping of str to path-like, optional
        Where slides lie now, by name; the side-car has where they were.
    quick : bool, default False
        Do not decode every JPEG: the checksums of the pages tell whether anything changed since they were written.
    threads : int, optional
        Threads that decode; default one a core.
    show : bool, default False
        Show progress.

    Returns
    -------
    BetonReport

    Raises
    ------
    BetonError
        If there is no such file, or so little of it is right that no tile can be looked at.
    ConfigError
        If a setting is impossible.

    Notes
    -----
    A tile is compared with what the export would write of it now: raw pixels and re-encoded JPEGs with OpenSlide's
    pixels of the tile, under the same encoder, and a JPEG that was taken as it is stored with the stored one, and
    its exact decoding with OpenSlide's pixels.
    """
    started = time.monotonic()
    if sample is not None and sample < 0:
        raise ConfigError(f"sample is {sample}; give a number of tiles, or all")
    threads = len(os.sched_getaffinity(0)) if threads is None else threads
    if threads < 1:
        raise ConfigError(f"threads is {threads}; give 1 or more")
    path = Path(beton)
    if not path.is_file():
        raise BetonError(f"no beton at {path}; make it with: slideduck export STUDY {path}")
    with path.open("rb") as file:
        check = _Check(path, file.fileno(), threads, show)
        check.look_at_files()
        pages = check.compare_checksums()
        decoded = 0 if quick or check.mode != "jpg" else check.decode_all()
        compared, missing = check.compare_with_slides(sample, slides or {})
    # In the order of rows; what is no single tile's comes first.
    problems = sorted(dict.fromkeys(check.problems), key=lambda problem: -1 if problem.row is None else problem.row)
    return BetonReport(
        path=path,
        samples=len(check.ptr),
        pages=pages,
        decoded=decoded,
        compared=compared,
        missing=missing,
        left_out=len(left_out_from_json(check.raw.get("skipped", []))),
        problems=tuple(problems),
        notes=tuple(check.notes),
        seconds=time.monotonic() - started,
    )


@dataclass(eq=False)
class _Check:
    """The checks of one beton, and what they found so far.

    Attributes
    ----------
    raw : dict
        The side-car as it was read; empty where it is not this beton's.
    sidecar : Sidecar, optional
        The same, checked; it names the rows.
    is_sound : bool
        The tables and the side-car are right, and belong together.
    key : str
        What the file is, as it is opened: whether its pages are right is remembered for that.
    suspects : set of int
        Rows that are known to be bad, or lie in a page that is: these are compared with their slides too.
    """

    path: Path
    fd: int
    threads: int
    show: bool
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)
    sidecar: Sidecar | None = None
    mode: str = "jpg"
    side: int | None = None
    is_sound: bool = False
    key: str = ""
    suspects: set[int] = field(default_factory=set)

    def look_at_files(self) -> None:
        """Check the structure of the beton, its side-car, and that each is the other's."""
        info: BetonInfo | None = None
        self._read_tables({"samples": 0, "bytes": 0})
        try:
            info = check_beton(self.path)
            self.mode, self.side = info.mode, info.width
            self._read_tables({"samples": info.samples, "bytes": info.bytes})
        except BetonError as error:
            self._add(None, str(error))
        try:
            loaded = load_sidecar(sidecar_path(self.path))
            if loaded.is_changed:
                self._add(None, loaded.changed)
            if info is None:
                # What the file says of itself is not to be relied on: the side-car says where its parts are.
                refuse_problems(loaded.path, sidecar_problems(loaded.raw))
                self.mode, self.side = (loaded.raw["beton"]["image"][name] for name in ("mode", "tile_px"))
                self._read_tables(loaded.raw["beton"])
                if len(self.ptr) != loaded.raw["beton"]["samples"]:
                    self.raw = loaded.raw
                    return
            self.sidecar = checked_sidecar(loaded, info or _claimed(self.path, loaded.raw))
        except FileNotFoundError:
            self._add(None, no_sidecar(self.path))
            return
        except BetonError as error:
            self._add(None, str(error))
            return
        self.raw = self.sidecar.raw
        self.key = proof_key(self.path, self.sidecar)
        self.is_sound = info is not None and not loaded.is_changed
        image = self.raw["beton"]["image"]
        if info is not None:
            if (other := other_images(self.raw, info)) is not None:
                self._add(None, other)
            if "jpeg" in image and beton_identity(self.raw) != info.identity:
                self._add(None, f"{self.sidecar.path} lists other tiles than the beton was written with")
        for row in np.flatnonzero(self.labels != self.sidecar.class_number).tolist():
            self._add(row, f"it has class {self.labels[row]}, and the side-car {self.sidecar.class_number[row]}")

    def _read_tables(self, beton: Mapping[str, int]) -> None:
        """Read where the tiles are, in a file of so many samples and bytes, if it has that."""
        size, samples = os.fstat(self.fd).st_size, beton["samples"]
        tables = HEADER.itemsize + len(FIELDS) * FIELD.itemsize
        self.tables_end = tables + samples * SAMPLE.itemsize
        self.end = beton["bytes"] - samples * ALLOCATION.itemsize
        if beton["bytes"] > size or not 0 < self.tables_end <= self.end:
            samples = 0
        metadata = np.frombuffer(self._read(tables, samples * SAMPLE.itemsize), SAMPLE)
        allocations = np.frombuffer(self._read(self.end, samples * ALLOCATION.itemsize), ALLOCATION)
        self.labels: npt.NDArray[np.int64] = metadata["label"].astype(np.int64)
        # A pointer that is damaged leads to the end of the file, where no tile is.
        self.ptr: npt.NDArray[np.int64] = np.minimum(allocations["ptr"], size).astype(np.int64)
        self.size: npt.NDArray[np.int64] = np.minimum(allocations["size"], size).astype(np.int64)

    def compare_checksums(self) -> int:
        """Compare the pages with the checksums that the side-car has; return how many there are."""
        pages = self.raw.get("beton", {}).get("pages")
        if not pages:
            self.notes.append("the side-car has no checksums of pages, and they were not compared")
            return 0
        page_size, checksums = int(pages["bytes"]), pages["crc32"]
        start = self.end - len(checksums) * page_size
        if not 0 < self.tables_end <= start:
            self._add(None, f"the side-car has {len(checksums)} checksums of pages, for which there is no room")
            return 0
        if self._read(self.tables_end, start - self.tables_end).strip(b"\0"):
            self._add(None, "the bytes between the tables and the first page are not empty")
        of_row = (self.ptr - start) // page_size
        # Tiles are in the order of their pages, where the tables are right.
        bounds = np.searchsorted(of_row, np.arange(len(checksums) + 1))
        sums: list[int] = []

        def look(page: int) -> list[int] | None:
            """Return the sums of a page's tiles, where they are to be remembered; None if it is not right."""
            at = start + page * page_size
            data = self._read(at, page_size)
            if len(data) != page_size or checksum(data) != checksums[page]:
                return None
            rows = slice(bounds[page], bounds[page + 1] if self.is_sound else bounds[page])
            return tile_sums(data, (self.ptr[rows] - at).tolist(), self.size[rows].tolist())

        with track("Comparing", len(checksums), "pages", show=self.show) as advance:
            for page, found in zip(range(len(checksums)), self._each(look, range(len(checksums))), strict=True):
                advance(1)
                sums += found or []
                if found is None:
                    rows = np.flatnonzero(of_row == page)
                    self._add(None, page_name(page, len(checksums), start + page * page_size, page_size, rows))
                    self.suspects.update(rows.tolist())
        if self.is_sound and self.sidecar is not None and len(sums) == self.sidecar.samples:
            remember_sums(self.path, self.sidecar, np.array(sums, np.uint32), self.key)
        return len(checksums)

    def decode_all(self) -> int:
        """Decode every JPEG; return how many there are."""
        rows = range(len(self.ptr))
        with track("Decoding", len(rows), "tiles", show=self.show) as advance:
            for row, problem in zip(rows, self._each(self._decode, rows), strict=True):
                advance(1)
                if problem is not None:
                    self._add(row, problem)
        return len(rows)

    def _decode(self, row: int) -> str | None:
        """Return what is wrong with a JPEG."""
        data = self._tile(row)
        try:
            shape = imagecodecs.jpeg8_decode(data).shape
        except (imagecodecs.Jpeg8Error, ValueError) as error:
            return f"its JPEG of {len(data):,} bytes cannot be decoded: {error}"
        if self.side is not None and shape != (self.side, self.side, 3):
            return f"its JPEG has the shape {shape}, not {(self.side, self.side, 3)}"
        return None

    def compare_with_slides(
        self, sample: int | None, paths: Mapping[str, str | os.PathLike[str]]
    ) -> tuple[int, dict[str, int]]:
        """Compare tiles with their slides; return how many, and the tiles of slides that are missing."""
        if self.sidecar is None or "jpeg" not in self.raw["beton"]["image"]:
            self.notes.append("no tile was compared with its slide, since the side-car is not to be relied on")
            return 0, {}
        rows = self._sampled(sample)
        missing: Counter[str] = Counter()
        compared = 0
        with track("Comparing with slides", len(rows), "tiles", show=self.show) as advance:
            for number, group in groupby(rows, key=lambda row: int(self.sidecar.slide[row]) if self.sidecar else -1):
                of_slide = list(group)
                info = self.sidecar.slides[number]
                path = Path(paths.get(info.slide, info.path))
                if not path.is_file():
                    missing[info.slide] += len(of_slide)
                    if sample is None:
                        self._add(
                            None,
                            f"there is no file {path} to compare {counted(len(of_slide), 'tile')} with",
                            info.slide,
                        )
                elif (changed := _changed(info, path)) is not None:
                    self._add(None, changed, info.slide)
                else:
                    self._compare_slide(number, path, of_slide)
                    compared += len(of_slide)
                advance(len(of_slide))
        return compared, dict(missing)

    def _sampled(self, sample: int | None) -> list[int]:
        """Return the rows that are compared: some anywhere, and those that are suspect."""
        if sample is None or sample >= len(self.ptr):
            return list(range(len(self.ptr)))
        anywhere = np.random.default_rng(0).choice(len(self.ptr), sample, replace=False).tolist()
        return sorted({*anywhere, *self.suspects})

    def _compare_slide(self, number: int, path: Path, rows: Sequence[int]) -> None:
        """Compare tiles of one slide with it."""
        assert self.sidecar is not None
        info, entry = self.sidecar.slides[number], self.raw["slides"][number]
        grid, image = self.raw["grid"], self.raw["beton"]["image"]
        # A reader does not use the numbers of columns and rows.
        on_slide = SlideGrid(
            **{f.name: getattr(info, f.name) for f in fields(SlideGrid) if hasattr(info, f.name)}, n_columns=0, n_rows=0
        )
        normaliser = None
        if "stain" in image:
            try:
                target = stain_from_json(image["stain"])
                normaliser = Normaliser(fit_from_json(target.fit.method, entry["stain"]), target.fit)
            except BetonError as error:
                self._add(None, f"its tiles cannot be compared with their slide: {error}", info.slide)
                return
            except (KeyError, TypeError, ValueError) as error:
                self._add(None, f"the fit of its stains is damaged: {type(error).__name__}: {error}", info.slide)
                return
        encoding = Encoding.of_image(image, self._most_bytes())
        making = TileMaking(_file(info, path), on_slide, image["tile_px"], info.background, encoding, normaliser)
        try:
            maker = making.open_as_before(entry["reader"])
        except SlideError as error:
            self._add(None, str(error), info.slide)
            return
        with maker:

            def compare(row: int) -> str | None:
                assert self.sidecar is not None
                x, y = (
                    tile_origin(int(index[row]), info.stride, grid[origin])
                    for index, origin in ((self.sidecar.grid_x, "origin_x"), (self.sidecar.grid_y, "origin_y"))
                )
                return _difference(self._tile(row), maker, x, y)

            for row, problem in zip(rows, self._each(compare, rows), strict=True):
                if problem is not None:
                    self._add(row, problem + self._other_versions())

    def _other_versions(self) -> str:
        """Return which versions differ from those of the export, where that may be why bytes differ."""
        now = {"imagecodecs": imagecodecs.__version__, "openslide": openslide.__library_version__}
        then = self.raw["versions"]
        other = [
            f"{name} {then.get(name)} then, {version} now" for name, version in now.items() if then.get(name) != version
        ]
        return f" ({'; '.join(other)})" if other else ""

    def _most_bytes(self) -> int:
        """Return the bytes of a page."""
        pages = self.raw["beton"].get("pages")
        return int(pages["bytes"]) if pages else PAGE_SIZE

    def _tile(self, row: int) -> bytes:
        return self._read(int(self.ptr[row]), int(self.size[row]))

    def _read(self, offset: int, count: int) -> bytes:
        """Return bytes of the beton, fewer where it ends."""
        size = os.fstat(self.fd).st_size
        return os.pread(self.fd, min(count, max(size - offset, 0)), offset)

    def _each(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Do some work in threads, and yield the results in their order."""
        with (
            ThreadPoolExecutor(self.threads, thread_name_prefix="slideduck-verify") as pool,
            closing(in_order(pool, work, items, ahead=_AHEAD * self.threads)) as running,
        ):
            for _, future in running:
                yield future.result()

    def _add(self, row: int | None, problem: str, slide: str | None = None) -> None:
        """Note a problem, with the names of its tile where they are known."""
        if row is None:
            self.problems.append(Problem(None, None, slide, problem))
            return
        self.suspects.add(row)
        tile, slide = None, None
        if self.sidecar is not None:
            tile, slide = str(self.sidecar.tile_id[row]), str(self.sidecar.tile_slide[row])
        self.problems.append(Problem(row, tile, slide, problem))


def _claimed(path: Path, raw: Mapping[str, Any]) -> BetonInfo:
    """Return what a side-car says of its beton, which is damaged, so that the tiles have names all the same."""
    beton = raw["beton"]
    return BetonInfo(path, beton["bytes"], beton["samples"], 0, 0, 0, "", "", beton["metadata_sha256"])


def _file(info: SlideInfo, path: Path) -> SlideFile:
    """Return the file of a slide as it was exported, where it is now."""
    return SlideFile(info.slide, path, None, info.fingerprint, "put the file of before back, or export again")


def _changed(info: SlideInfo, path: Path) -> str | None:
    """Return why a file is not the slide that was exported."""
    try:
        _file(info, path).check()
    except SlideError as error:
        return str(error)
    return None


def _difference(data: bytes, maker: TileMaker, base_x: int, base_y: int) -> str | None:
    """Return how a tile differs from its slide."""
    try:
        expected, is_stored = maker.make(base_x, base_y)
        if not is_stored:
            # Where it was read in another way, that gave OpenSlide's pixels; they are what counts.
            expected = maker.make_by_openslide(base_x, base_y)
    except SlideError as error:
        return f"it cannot be compared with its slide: {error}"
    if data != expected:
        what = "the JPEG that its slide stores" if is_stored else "what its slide gives"
        return f"it is not {what} at base pixel ({base_x}, {base_y})"
    if is_stored:
        try:
            pixels = imagecodecs.jpeg8_decode(data)
            same = np.array_equal(pixels, maker.read_by_openslide(base_x, base_y))
        except (imagecodecs.Jpeg8Error, SlideError) as error:
            return f"it cannot be compared with its slide: {error}"
        if not same:
            return f"the JPEG that its slide stores does not give OpenSlide's pixels at base pixel ({base_x}, {base_y})"
    return None
