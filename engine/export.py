"""Exports tiles of a study into a beton and its side-car.

Threads read, resize and encode; one thread writes, in the order of slide, grid_y, grid_x, so that the
bytes of both files depend on the study's content, the condition and the settings alone.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slideduck.beton import BetonWriter, sidecar_path, write_sidecar
from slideduck.db import translated
from slideduck.errors import BetonError, ConfigError
from slideduck.plan import ExportPlan, StudyLike, make_plan
from slideduck.progress import track
from slideduck.tiles import TileReader

__all__ = ["ExportReport", "export"]

#: Pixels and tiles that one piece of work of a thread has at most: enough that neighbours share decoded
#: tiles of the slide, and few enough that the window of pieces in flight stays small.
_PIECE_PX = 1 << 20
_PIECE_TILES = 64


@dataclass(frozen=True)
class ExportReport:
    """What `export` did.

    Attributes
    ----------
    path, sidecar : Path
        The beton and its side-car.
    grid : str
        The grid of the tiles.
    samples, slides, bytes : int
        Tiles and slides in the beton, and its size.
    tiles_per_class : dict of str to int
        Tiles of each class, in the order of class numbers.
    unlabelled : int
        Tiles without a label; their class number is -1.
    resumed : int
        Tiles that an export which was stopped had already written.
    seconds : float
        Time that it took.
    notes : tuple of str
        What the user should know, such as the remains of another export that were removed.
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
    seconds: float
    notes: tuple[str, ...]


def export(
    study: StudyLike,
    out: str | os.PathLike[str],
    *,
    grid: str | None = None,
    where: str | None = "label IS NOT NULL",
    classes: Sequence[str] | None = None,
    quality: int = 90,
    raw: bool = False,
    threads: int | None = None,
    overwrite: bool = True,
) -> ExportReport:
    """Write tiles of one grid into a beton, with a side-car that says what they are.

    Parameters
    ----------
    study : Study
        The study; its labels are up to date.
    out : path-like
        The beton, ``OUT.beton``; the side-car is ``OUT.json`` beside it. Neither changes before the new
        files are whole.
    grid : str, optional
        The grid; needed where the study has several.
    where : str, optional
        An SQL condition on the columns of the view ``labels``; None for every tile that is kept.
    classes : sequence of str, optional
        Labels in the order of their class numbers; default the labels of the tiles, sorted.
    quality : int, default 90
        Quality of the JPEGs, 1 to 100.
    raw : bool, default False
        Write pixels and no JPEGs.
    threads : int, optional
        Threads that read and encode; default one a core. The files do not depend on it.
    overwrite : bool, default True
        Replace a beton of that name.

    Returns
    -------
    ExportReport

    Raises
    ------
    StudyError
        If labels are missing or out of date, several grids are there and none is named, no tile meets
        the condition, or a label is not among the classes.
    QueryError
        If the condition is not one boolean expression.
    SlideError
        If a slide is missing or has changed since it was added, or a tile cannot be read.
    BetonError
        If ``out`` does not end in ``.beton``, cannot be written, or is being written by another process.
    ConfigError
        If the quality or the number of threads is impossible.
    DiskFullError
        If there is no room.

    Notes
    -----
    An export that was stopped (Ctrl-C, a full disk, SIGKILL) leaves ``OUT.beton.part`` and
    ``OUT.beton.journal``; the same call goes on after the last whole page, and the files are the same as
    without the stop.
    """
    started = time.monotonic()
    path = _output(out, overwrite)
    if not 1 <= quality <= 100:
        raise ConfigError(f"quality is {quality}; give a number from 1 to 100, such as 90")
    threads = len(os.sched_getaffinity(0)) if threads is None else threads
    if threads < 1:
        raise ConfigError(f"threads is {threads}; give 1 or more")
    with translated():
        plan = make_plan(study, grid, where, classes, None if raw else quality)
    plan.check_slides()
    plan.check_space(path)
    with BetonWriter(
        path, samples=plan.samples, identity=plan.identity, plan=plan.digest, page_size=plan.page_size
    ) as writer:
        with (
            track("Exporting", plan.samples, "tiles", done=writer.resumed, show=study.progress) as advance,
            closing(_encode(plan, writer.resumed, threads)) as pieces,
        ):
            for rows, encoded in pieces:
                for row, data in zip(rows, encoded, strict=True):
                    label = int(plan.class_number[row])
                    writer.write(data, plan.tile_px, plan.tile_px, mode=plan.mode, label=label)
                advance(len(rows))
        written = writer.finish()
        # The side-car first: a new beton is never there with the side-car of the one before it.
        sidecar = write_sidecar(path, plan.sidecar(path, written))
        writer.publish()
    counts = Counter(plan.class_number.tolist())
    return ExportReport(
        path=path,
        sidecar=sidecar,
        grid=plan.grid["name"],
        samples=plan.samples,
        slides=len(plan.slides),
        bytes=written.bytes,
        tiles_per_class={name: counts[number] for number, name in enumerate(plan.classes)},
        unlabelled=counts[-1],
        resumed=writer.resumed,
        seconds=time.monotonic() - started,
        notes=(writer.note,) if writer.note else (),
    )


def _output(out: str | os.PathLike[str], overwrite: bool) -> Path:
    """Check where the files are to go, before any work."""
    path = Path(out).expanduser().absolute()
    sidecar_path(path)
    if not path.parent.is_dir():
        raise BetonError(f"no folder {path.parent} to put {path.name} in; make the folder first")
    if path.is_dir():
        raise BetonError(f"{path} is a folder; give the name of a file")
    if path.exists() and not overwrite:
        raise BetonError(f"{path} is there already; remove it, give another name, or allow overwriting")
    return path


@dataclass(frozen=True)
class _Piece:
    """Work of one thread: rows of one slide that follow each other."""

    reader: TileReader
    rows: range
    ends_slide: bool


def _pieces(plan: ExportPlan, first: int) -> Iterator[_Piece]:
    """Cut the rows from ``first`` on into pieces; a slide's reader is made when its turn comes."""
    begins = np.flatnonzero(np.diff(plan.slide, prepend=-1)).tolist()
    for begin, end in zip(begins, [*begins[1:], plan.samples], strict=True):
        if end <= first:
            continue
        slide = int(plan.slide[begin])
        reader = plan.reader(slide)
        side = max(plan.grids[slide].read_px, plan.tile_px)
        step = min(max(_PIECE_PX // side**2, 1), _PIECE_TILES)
        for row in range(max(begin, first), end, step):
            yield _Piece(reader, range(row, min(row + step, end)), row + step >= end)


def _encode(plan: ExportPlan, first: int, threads: int) -> Generator[tuple[range, list[bytes]]]:
    """Yield the tiles from row ``first`` on, piece by piece in their order.

    As many pieces are in flight as keep the threads busy, so that memory and the number of slides that
    are open are bounded. When the iterator is closed, or anything is raised, the threads have ended.
    """
    stop = threading.Event()

    def work(piece: _Piece) -> list[bytes]:
        return [plan.encoded(piece.reader, row) for row in piece.rows if not stop.is_set()]

    pending: deque[tuple[_Piece, Future[list[bytes]]]] = deque()

    def oldest() -> tuple[range, list[bytes]]:
        piece, future = pending[0]
        encoded = future.result()
        pending.popleft()
        if piece.ends_slide:
            piece.reader.close()
        return piece.rows, encoded

    pool = ThreadPoolExecutor(threads, thread_name_prefix="slideduck-export")
    try:
        for piece in _pieces(plan, first):
            pending.append((piece, pool.submit(work, piece)))
            if len(pending) >= 2 * threads + 2:
                yield oldest()
        while pending:
            yield oldest()
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        for piece, _ in pending:
            piece.reader.close()
