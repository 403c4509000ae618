"""Measures tiles, so that conditions can filter them: brightness, white, grey, blur, tissue, pen marks.

The numbers are columns of the table ``tile_qc``, and through it of the view ``labels``.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from slideduck.catalog.grids import only_grid
from slideduck.errors import ConfigError, SlideError, StudyError
from slideduck.measure.qc_measures import MEASURES, PIXEL_MEASURES, settings
from slideduck.measure.qc_slide import LEVELS, Part, Piece, QcSlide, SlideMeasurement, source
from slideduck.progress import track
from slideduck.show import Shown
from slideduck.slides.grid import SlideGrid
from slideduck.store.db import atomic, registered
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_query
from slideduck.work.ordered import in_order

__all__ = ["QcReport", "qc"]


@dataclass(frozen=True)
class QcReport(Shown):
    """What `qc` did.

    Attributes
    ----------
    grid : str
        The grid.
    measures : tuple of str
        What was asked for.
    slides, tiles : int
        Slides that were measured now, and tiles on them.
    unchanged : int
        Slides that had all of it already.
    level : {"low", "full"}
        Where averages over pixels were taken from.
    failed : dict of str to str
        The error of each slide that could not be measured, by name.
    summary : pyarrow.Table
        A row for each measure of the grid: the slides and tiles that have it, and its least, median, mean and
        greatest value.
    seconds : float
        Time that it took.
    """

    grid: str
    measures: tuple[str, ...]
    slides: int
    tiles: int
    unchanged: int
    level: str
    failed: dict[str, str]
    summary: pa.Table
    seconds: float


def qc(
    handle: Handle,
    measures: Sequence[str] | None = None,
    *,
    grid: str | None = None,
    slides: Sequence[str] | None = None,
    level: str | None = None,
    threads: int | None = None,
) -> QcReport:
    """Measure the tiles of a grid on the slides that lack it; each slide is kept whole, or not at all.

    Parameters
    ----------
    handle : Handle
        The study.
    measures : sequence of str, optional
        Some of ``brightness`` (mean of red, green and blue, 0 to 255), ``saturation`` (HSV's, mean, 0 to 1),
        ``white_fraction`` and ``grey_fraction`` (Slideflow's, by its thresholds of 230 and 0.05), ``blur``
        (variance of the Laplacian: low is blurred), ``tissue`` (part of the tile in Otsu's mask of the slide) and
        ``pen`` (part of the tile with colours of ink); default all. `slideduck.measure.qc_measures` defines each.
    grid : str, optional
        The grid; needed where the study has several.
    slides : sequence of str, optional
        Only these slides.
    level : {"low", "full"}, optional
        Where averages over pixels are taken from. ``low``: the smallest level on which a tile has 32 pixels or more
        a side, by exact area; ``full``: the pixels that the tile is read from, as Slideflow does without
        ``enable_downsample``. White and grey fractions differ, since a low level averages white into what is
        beside it. By default slides that lack a measure get it from where the others of the grid have it, from a
        low level if none has, and those that have it are left alone; a level that is named replaces the other.
        ``blur`` is always of the tile as the model sees it, ``tissue`` of a picture of 8 microns per pixel.
    threads : int, optional
        Threads that read and measure; default one a core. The numbers do not depend on it.

    Returns
    -------
    QcReport

    Raises
    ------
    StudyError
        If the study has no such grid or slide, or a measure is unknown.
    ConfigError
        If a setting is impossible.

    Notes
    -----
    A slide that cannot be read is reported, and the others go on. Stopped at any moment, the same call goes on with
    the slides that lack something.
    """
    started = time.monotonic()
    chosen = _checked(measures, level, threads)
    threads = len(os.sched_getaffinity(0)) if threads is None else threads
    name = only_grid(handle, grid)
    todo = _todo(handle, name, chosen, slides, level)
    taken_from = level or _level_of(handle, name, chosen)
    lacking = [item for item in todo if item.measures]
    failed: dict[str, str] = {}
    measured = tiles = 0
    total = sum(item.slide.tiles for item in lacking)
    with track("Measuring", total, "tiles", show=handle.progress) as advance:
        for slide, result in _measured(lacking, taken_from, threads, advance):
            if isinstance(result, SlideError):
                failed[slide.slide] = str(result)
                continue
            _store(handle, slide, result.measures, result.table(), taken_from)
            measured += 1
            tiles += slide.tiles
    return QcReport(
        grid=name,
        measures=chosen,
        slides=measured,
        tiles=tiles,
        unchanged=len(todo) - len(lacking),
        level=taken_from,
        failed=failed,
        summary=handle.con.execute(read_query("summarise_qc"), {"grid": name}).to_arrow_table(),
        seconds=time.monotonic() - started,
    )


def _level_of(handle: Handle, grid: str, measures: Sequence[str]) -> str:
    """Return where the averages of a grid are taken from: ``full`` if all that there are were, or else ``low``."""
    rows = handle.con.execute(
        "SELECT DISTINCT measured_at FROM qc_slides JOIN grids USING (grid_id) "
        "WHERE grid = $grid AND list_contains($measures, measure)",
        {"grid": grid, "measures": list(measures)},
    ).fetchall()
    return "full" if {at for (at,) in rows}.intersection(LEVELS) == {"full"} else "low"


def _checked(measures: Sequence[str] | None, level: str | None, threads: int | None) -> tuple[str, ...]:
    """Refuse settings that are impossible; return the measures in their order."""
    asked = list(MEASURES if measures is None else measures)
    unknown = [repr(name) for name in asked if name not in MEASURES]
    if unknown or not asked:
        raise StudyError(
            f"there is no measure {', '.join(unknown)}; there are {', '.join(MEASURES)}"
            if unknown
            else f"no measure is named; name some of {', '.join(MEASURES)}"
        )
    if level is not None and level not in LEVELS:
        raise ConfigError(f"level is {level!r}; give one of {', '.join(LEVELS)}")
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}; give 1 or more")
    return tuple(name for name in MEASURES if name in asked)


# ------------------------------------------------------------------------------------ what is to be done


@dataclass(frozen=True)
class _Todo:
    """A slide, and the measures that it lacks."""

    slide: QcSlide
    measures: tuple[str, ...]


def _todo(
    handle: Handle, grid: str, measures: Sequence[str], slides: Sequence[str] | None, level: str | None
) -> list[_Todo]:
    """Return the chosen slides of a grid, in the order of their names."""
    rows: list[dict[str, Any]] = (
        handle.con.execute(read_query("list_qc_slides"), {"grid": grid}).to_arrow_table().to_pylist()
    )
    known = {row["slide"] for row in rows}
    strangers = [repr(name) for name in dict.fromkeys(slides or ()) if name not in known]
    if strangers:
        raise StudyError(
            f"grid {grid!r} does not lie on slide {', '.join(strangers)}; see which there are with: slideduck sql "
            f"{handle.name} 'SELECT slide FROM slides'; on slides that were added since it is laid with: "
            f"slideduck label {handle.name}"
        )
    todo = []
    for row in rows:
        if slides is not None and row["slide"] not in slides:
            continue
        have = {(name, at) for name, at, found in row["found"] if found == settings(name)}
        lacking = tuple(name for name in measures if have.isdisjoint(_enough(name, level)))
        todo.append(_Todo(_slide(row), lacking))
    return todo


def _enough(measure: str, level: str | None) -> set[tuple[str, str]]:
    """Return the stored ways of taking a measure that are good enough not to take it again."""
    if measure in PIXEL_MEASURES:
        return {(measure, at) for at in (LEVELS if level is None else (level,))}
    return {(measure, "tile"), (measure, "picture")}


def _slide(row: dict[str, Any]) -> QcSlide:
    """Return a slide from its row."""
    own = {name: row[name] for name in (f.name for f in fields(QcSlide)) if name in row}
    own.update(
        path=Path(row["path"]),
        level_sizes=tuple(zip(row["level_widths"], row["level_heights"], strict=True)),
        level_downsamples=tuple(row["level_downsamples"]),
        grid=SlideGrid(**{f.name: row[f.name] for f in fields(SlideGrid)}),
    )
    return QcSlide(**own)


# ------------------------------------------------------------------------------------------- doing it


@dataclass
class _Job:
    """A slide that is being measured."""

    slide: QcSlide
    measurement: SlideMeasurement
    shown: int = 0
    error: SlideError | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def fail(self, error: SlideError) -> None:
        """Keep the first error, and let the pieces that are left be passed over."""
        self.error = self.error or error
        self.stop.set()


def _measured(
    todo: Sequence[_Todo], level: str, threads: int, advance: Any
) -> Iterator[tuple[QcSlide, SlideMeasurement | SlideError]]:
    """Yield each slide with its measures, or why it could not be.

    Pieces of several slides are in flight at once, as many as keep the threads busy, so that small slides do not
    wait for each other, and memory and the number of open files are bounded.
    """
    #: The slides that are not done with.
    jobs: dict[int, _Job] = {}

    def pieces() -> Iterator[tuple[_Job, Piece | None]]:
        """Yield the pieces of each slide, and None behind its last."""
        for item in todo:
            job = _Job(item.slide, SlideMeasurement(item.slide, item.measures, level))
            jobs[id(job)] = job
            try:
                for piece in job.measurement.pieces():
                    if job.stop.is_set():
                        break
                    yield job, piece
            except SlideError as error:
                job.fail(error)
            yield job, None

    pool = ThreadPoolExecutor(threads, thread_name_prefix="slideduck-qc")
    running = in_order(pool, lambda item: _work(*item), pieces(), ahead=2 * threads + 2)
    try:
        for (job, piece), future in running:
            if piece is None:
                jobs.pop(id(job)).measurement.close()
                if job.slide.tiles > job.shown:
                    advance(job.slide.tiles - job.shown)
                yield job.slide, job.error or job.measurement
                continue
            try:
                parts = future.result()
                if job.error is None:
                    job.measurement.add(parts)
                    job.shown += piece.tiles
                    advance(piece.tiles)
            except SlideError as error:
                job.fail(error)
    finally:
        for job in jobs.values():
            job.stop.set()
        running.close()
        pool.shutdown(wait=True, cancel_futures=True)
        for job in jobs.values():
            job.measurement.close()


def _work(job: _Job, piece: Piece | None) -> list[Part]:
    return [] if piece is None or job.stop.is_set() else piece.work()


# -------------------------------------------------------------------------------------- keeping it


def _store(handle: Handle, slide: QcSlide, measures: Sequence[str], table: pa.Table, level: str) -> None:
    """Store the measures of one slide beside those that it has, in one transaction."""
    key = {"grid_id": slide.grid_id, "slide_id": slide.slide_id}
    rows = [{**key, **source(slide, measure, level)} for measure in measures]
    with atomic(handle.con):
        with registered(handle.con, "incoming_qc", table):
            handle.con.execute(read_query("stage_tile_qc"), {**key, "measures": list(measures)})
        handle.con.execute("DELETE FROM tile_qc WHERE grid_id = $grid_id AND slide_id = $slide_id", key)
        handle.con.execute("INSERT INTO tile_qc BY NAME SELECT * FROM merged_tile_qc ORDER BY grid_y, grid_x")
        handle.con.execute("DROP TABLE merged_tile_qc")
        with registered(handle.con, "incoming_qc_slide", pa.Table.from_pylist(rows, schema=_QC_SLIDE_SCHEMA)):
            handle.con.execute(
                "INSERT OR REPLACE INTO qc_slides BY NAME SELECT * FROM incoming_qc_slide ORDER BY measure"
            )


_QC_SLIDE_SCHEMA = pa.schema(
    [
        ("grid_id", pa.int32()),
        ("slide_id", pa.int32()),
        ("measure", pa.string()),
        ("measured_at", pa.string()),
        ("level", pa.int32()),
        ("downsample", pa.float64()),
        ("settings", pa.string()),
        ("versions", pa.string()),
    ]
)
