"""Exports tiles of a study into a beton and its side-car.

Threads read, resize and encode; one thread writes, in the order of slide, grid_y, grid_x, so that the
bytes of both files depend on the study's content, the condition and the settings alone.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slideduck.betons import BetonWriter, read_sidecar, sidecar_path, write_sidecar
from slideduck.betons.pages import check_pages
from slideduck.betons.pieces import Unread, encoded_runs
from slideduck.betons.plan import ExportPlan, make_plan
from slideduck.betons.preflight import check_passthrough, check_space, unusable_slides
from slideduck.betons.settings import ExportSettings
from slideduck.betons.shards import (
    LeftOut,
    Shard,
    beton_identity,
    chosen_shards,
    left_out_from_json,
    with_written,
)
from slideduck.betons.sidecar import load_sidecar
from slideduck.catalog.chosen import chosen_notes
from slideduck.errors import BetonError, SlideError
from slideduck.measure.stain import REFERENCE
from slideduck.progress import track
from slideduck.show import Shown
from slideduck.store.db import translated
from slideduck.store.handle import Handle
from slideduck.words import counted

__all__ = ["ExportReport", "export"]


@dataclass(frozen=True)
class ExportReport(Shown):
    """What `export` did.

    Attributes
    ----------
    path, sidecar : Path
        The beton and its side-car; of shards, those that a merge of them makes.
    grid : str
        The grid of the tiles.
    samples, slides, bytes : int
        Tiles and slides in the beton, and its size; of shards, in those that were asked for.
    tiles_per_class : dict of str to int
        Tiles of each class, in the order of class numbers.
    unlabelled : int
        Tiles without a label; their class number is -1.
    resumed : int
        Tiles that an export which was stopped had already written.
    passed_through : int
        Of the tiles written now those that are the slides' own JPEGs.
    readers : dict of str to int
        Slides by the reader that their tiles were read with.
    seconds : float
        Time that it took.
    notes : tuple of str
        What the user should know, such as the remains of another export that were removed.
    shards : tuple of Path
        The shards, where they were asked for.
    left_out : tuple of LeftOut
        Tiles that could not be read, with the reasons; only where errors are skipped.
    """

    path: Path
    sidecar: Path
    grid: str
    samples: int
    slides: int
    bytes: int
    tiles_per_class: dict[str, int]
    unlabelled: int
    resumed: int
    passed_through: int
    readers: dict[str, int]
    seconds: float
    notes: tuple[str, ...]
    shards: tuple[Path, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    plotted = ("tiles_per_class", "tiles")


def export(
    handle: Handle, out: str | os.PathLike[str], settings: ExportSettings, plan: ExportPlan | None = None
) -> ExportReport:
    """Write tiles of one grid into a beton, with a side-car that says what they are.

    Parameters
    ----------
    handle : Handle
        The study; its labels are up to date.
    out : path-like
        The beton, ``OUT.beton``; the side-car is ``OUT.json`` beside it. Neither changes before the new
        files are whole.
    settings : ExportSettings
        What to export, and how.
    plan : ExportPlan, optional
        What these settings mean, where it was read already.

    Returns
    -------
    ExportReport

    Raises
    ------
    StudyError
        If labels are missing or out of date, several grids are there and none is named, no tile meets
        the condition, a label is not among the classes, or stains that are to be normalised have no fit.
    QueryError
        If the condition is not one boolean expression.
    SlideError
        If a slide is missing or has changed since it was added, or a tile cannot be read; or, where errors are
        skipped, none can.
    BetonError
        If ``out`` does not end in ``.beton``, cannot be written, or is being written by another process.
    DiskFullError
        If there is no room.

    Notes
    -----
    An export that was stopped (Ctrl-C, a full disk, SIGKILL) leaves ``OUT.beton.part`` and
    ``OUT.beton.journal``; the same call goes on after the last whole page, and the files are the same as
    without the stop. What was left out and which reader a slide has is in the journal too, so that it holds for
    the rest. A shard that is whole is not written again.

    Where tiles are left out, the pages begin where they begin with all of them: there may be a gap of a page more
    before them than in an export of the other tiles alone.
    """
    started = time.monotonic()
    path = _output(out)
    if settings.shards is None:
        _check_free(path, settings.overwrite)
    with translated():
        plan = plan or make_plan(handle, settings)
    chosen = [None] if settings.shards is None else chosen_shards(settings.shards, settings.shard, plan.samples)
    parts = []
    for part in chosen:
        where_to = path if part is None else part.path(path)
        job = _Job(plan, where_to, part, settings.n_threads, settings.skip_errors, handle.progress)
        found = job.finished()
        if found is None:
            _check_free(job.path, settings.overwrite)
            found = job.write()
        parts.append(found)
    counts = Counter(plan.class_number[np.concatenate([part.rows for part in parts])].tolist())
    readers = {slide: reader for part in parts for slide, (reader, _) in part.readers.items()}
    return ExportReport(
        path=path,
        sidecar=sidecar_path(path),
        grid=plan.grid["name"],
        samples=sum(len(part.rows) for part in parts),
        slides=len(readers),
        bytes=sum(part.bytes for part in parts),
        tiles_per_class={name: counts[number] for number, name in enumerate(plan.classes)},
        unlabelled=counts[-1],
        resumed=sum(part.resumed for part in parts),
        passed_through=sum(part.passed_through for part in parts),
        readers=dict(sorted(Counter(readers.values()).items())),
        seconds=time.monotonic() - started,
        notes=(
            *_stain_notes(plan, settings.jpeg),
            *chosen_notes(settings.where, plan.samples, plan.grid["name"]),
            *(note for part in parts for note in part.notes),
        ),
        shards=() if settings.shards is None else tuple(part.path for part in parts),
        left_out=tuple(tile for part in parts for tile in part.left_out),
    )


def _stain_notes(plan: ExportPlan, jpeg: str) -> tuple[str, ...]:
    """Return what the user should know of stains and stored JPEGs."""
    if plan.stain is None:
        return ()
    name = plan.stain.name if plan.stain.name == REFERENCE else f"slide {plan.stain.name}"
    note = f"stains normalised by {plan.stain.fit.method} to those of {name}"
    return (f"{note}; so no stored JPEG is taken as it is" if jpeg == "auto" and plan.quality is not None else note,)


def _output(out: str | os.PathLike[str]) -> Path:
    """Check the path of the output, before any work."""
    path = Path(out).expanduser().absolute()
    sidecar_path(path)
    if not path.parent.is_dir():
        raise BetonError(f"no folder {path.parent} to put {path.name} in; make the folder first")
    if path.is_dir():
        raise BetonError(f"{path} is a folder; give the name of a file")
    return path


def _check_free(path: Path, overwrite: bool) -> None:
    """Refuse to replace a file where that is not wanted."""
    if path.exists() and not overwrite:
        raise BetonError(f"{path} is there already; remove it, give another name, or allow overwriting")


@dataclass(frozen=True, eq=False)
class _Part:
    """A beton that was written, or had been."""

    path: Path
    rows: npt.NDArray[np.int64]
    bytes: int
    readers: dict[str, tuple[str, str | None]]
    left_out: list[LeftOut]
    resumed: int
    passed_through: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Job:
    """The writing of one beton: the whole plan, or a shard of it."""

    plan: ExportPlan
    path: Path
    shard: Shard | None
    threads: int
    skip_errors: bool
    show: bool

    @property
    def rows(self) -> range:
        """Rows of the plan that are to be in it."""
        return range(self.plan.samples) if self.shard is None else self.shard.rows(self.plan.samples)

    def finished(self) -> _Part | None:
        """Return the shard that an earlier call wrote whole; None if a new one would differ from it."""
        if self.shard is None:
            return None
        try:
            loaded = load_sidecar(sidecar_path(self.path))
            raw = loaded.raw
            left_out = left_out_from_json(raw.get("skipped", []))
            readers = {slide["slide"]: (slide["reader"], slide["why_not_tiff"]) for slide in raw["slides"]}
            written = raw["beton"]
            if (left_out and not self.skip_errors) or raw["shard"]["plan"] != self.plan.digest:
                return None
            names = {tile.tile_id for tile in left_out}
            rows = np.array([r for r in self.rows if self.plan.columns["tile_id"][r] not in names], np.int64)
            content = self.plan.describe(self.path, rows, readers=readers, shard=self.shard, left_out=left_out)
            content = json.loads(json.dumps(content))
            content["beton"] = {**written, **content["beton"]}
            if content != raw or loaded.is_changed:
                return None
            if written["samples"]:
                check_pages(self.path, read_sidecar(self.path), threads=self.threads, show=self.show)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, BetonError):
            # Whatever is there is not that shard.
            return None
        return _Part(self.path, rows, written["bytes"], readers, left_out, len(rows))

    def write(self) -> _Part:
        """Write the beton and its side-car."""
        plan, rows = self.plan, self.rows
        unusable = unusable_slides(plan, rows)
        if unusable and not self.skip_errors:
            raise SlideError("\n".join(unusable.values()))
        unusable |= check_passthrough(plan, rows, except_slides=frozenset(unusable), skip_errors=self.skip_errors)
        check_space(plan, rows, self.path, except_slides=frozenset(unusable), skip_errors=self.skip_errors)
        with BetonWriter(
            self.path, samples=len(rows), plan=f"{plan.digest} {rows.start} {rows.stop}", page_size=plan.page_size
        ) as writer:
            notes = [writer.note] if writer.note else []
            log = _Log(writer, plan)
            if log.left_out and not self.skip_errors:
                notes.append(f"{writer.part} had left tiles out that could not be read; it was started anew")
                writer.start_anew()
                log = _Log(writer, plan)
            passed_through = self._write_tiles(writer, log, unusable)
            kept = np.setdiff1d(np.arange(rows.start, rows.stop), list(log.left_out))
            left_out = [
                LeftOut(plan.slides[int(plan.slide[row])].slide, plan.columns["tile_id"][row], reason)
                for row, reason in log.left_out.items()
            ]
            used = {plan.slides[int(slide)].slide for slide in np.unique(plan.slide[kept])}
            readers = {slide: reader for slide, reader in log.readers.items() if slide in used}
            content = plan.describe(self.path, kept, readers=readers, shard=self.shard, left_out=left_out)
            if not len(kept):
                return self._write_nothing(writer, content, left_out, notes)
            written = writer.finish(beton_identity(content))
            # The side-car first: a new beton is never there with the side-car of the one before it.
            write_sidecar(self.path, with_written(content, written))
            writer.publish()
        return _Part(self.path, kept, written.bytes, readers, left_out, writer.resumed, passed_through, notes)

    def _write_tiles(self, writer: BetonWriter, log: _Log, unusable: dict[int, str]) -> int:
        """Write what is not written yet; return how many tiles are the slides' own JPEGs."""
        plan, rows = self.plan, self.rows
        # What was chosen for the first tiles of a slide holds for its others.
        plan.chosen.update(log.chosen)
        passed_through = 0
        title = "Exporting" if self.shard is None else f"Exporting shard {self.shard.number} of {self.shard.count}"
        with (
            track(title, len(rows), "tiles", done=writer.resumed, show=self.show) as advance,
            closing(
                encoded_runs(plan, rows[writer.resumed :], self.threads, unusable, skip_errors=self.skip_errors)
            ) as runs,
        ):
            for run in runs:
                if isinstance(run, Unread):
                    log.leave_out(run.rows, run.reason)
                else:
                    log.read_by(int(plan.slide[run.rows.start]), run.reader, run.why_not_tiff)
                    labels = plan.class_number[run.rows.start : run.rows.stop]
                    writer.extend(run.tiles, plan.tile_px, plan.tile_px, mode=plan.mode, labels=labels)
                    passed_through += run.passed_through
                advance(len(run.rows))
        return passed_through

    def _write_nothing(
        self, writer: BetonWriter, content: dict[str, Any], left_out: list[LeftOut], notes: list[str]
    ) -> _Part:
        """Say that no tile could be read: a shard has a side-car then, which a merge asks for, and no beton."""
        writer.discard()
        if self.shard is None:
            raise SlideError(
                f"none of the {counted(len(self.rows), 'tile')} can be read; the first: {left_out[0].reason}"
            )
        self.path.unlink(missing_ok=True)
        write_sidecar(self.path, with_written(content, None))
        notes = [*notes, f"no tile of {self.path} can be read; only its side-car was written, for slideduck merge"]
        return _Part(self.path, np.empty(0, np.int64), 0, {}, left_out, writer.resumed, 0, notes)


class _Log:
    """The notes of the journal: which reader each slide has, and which tiles were left out and why."""

    def __init__(self, writer: BetonWriter, plan: ExportPlan) -> None:
        self._writer = writer
        self._plan = plan
        self._slides = {info.slide: i for i, info in enumerate(plan.slides)}
        self.readers: dict[str, tuple[str, str | None]] = {}
        self.left_out: dict[int, str] = {}
        for text in writer.notes:
            note = json.loads(text)
            if "slide" in note:
                self.readers[note["slide"]] = note["reader"], note["why_not_tiff"]
            else:
                self.left_out |= dict.fromkeys(range(*note["rows"]), note["reason"])

    @property
    def chosen(self) -> dict[int, tuple[str, str | None]]:
        """The readers by the plan's number of the slide."""
        return {self._slides[slide]: reader for slide, reader in self.readers.items()}

    def read_by(self, slide: int, reader: str, why_not_tiff: str | None) -> None:
        """Note a slide's reader, once."""
        name = self._plan.slides[slide].slide
        if name not in self.readers:
            self.readers[name] = reader, why_not_tiff
            self._writer.add_note(json.dumps({"slide": name, "reader": reader, "why_not_tiff": why_not_tiff}))

    def leave_out(self, rows: range, reason: str) -> None:
        """Leave out the next rows."""
        self.left_out |= dict.fromkeys(rows, reason)
        self._writer.leave_out(len(rows), json.dumps({"rows": [rows.start, rows.stop], "reason": reason}))
