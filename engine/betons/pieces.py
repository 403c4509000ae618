"""The threads of an export: they read and encode tiles piece by piece; pieces are yielded in their order."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from slideduck.betons.encode import TileMaker
from slideduck.betons.plan import ExportPlan
from slideduck.errors import SlideError
from slideduck.work.ordered import in_order

__all__ = ["EncodedRun", "Unread", "encoded_runs"]

#: Pixels and tiles that one piece of work of a thread has at most: enough that neighbours share decoded
#: tiles of the slide, and few enough that the window of pieces in flight stays small.
_PIECE_PX = 1 << 20
_PIECE_TILES = 64

#: The same where tiles may be stored ones that are only copied, of which a thread does many in a moment.
_COPIED_PX = 1 << 23
_COPIED_TILES = 128


@dataclass(frozen=True)
class EncodedRun:
    """Tiles of one slide that follow each other.

    Attributes
    ----------
    rows : range
        Rows of the plan.
    tiles : list of bytes
        The tiles as the beton has them.
    passed_through : int
        How many are the slide's own JPEGs.
    reader : str
        Name of the reader.
    why_not_tiff : str or None
        Why it is not another.
    """

    rows: range
    tiles: list[bytes]
    passed_through: int
    reader: str
    why_not_tiff: str | None


@dataclass(frozen=True)
class Unread:
    """Tiles that cannot be read, and why."""

    rows: range
    reason: str


_Runs = list[EncodedRun | Unread]


@dataclass(frozen=True)
class _Piece:
    """Work of one thread: rows of one slide that follow each other."""

    slide: int
    maker: Future[TileMaker]
    rows: range
    ends_slide: bool

    def close(self) -> None:
        """Close the slide, if it was opened."""
        if self.maker.done() and not self.maker.cancelled() and self.maker.exception() is None:
            self.maker.result().close()


def encoded_runs(
    plan: ExportPlan, rows: range, threads: int, unusable: Mapping[int, str], *, skip_errors: bool
) -> Generator[EncodedRun | Unread]:
    """Yield the tiles of some rows in their order.

    Parameters
    ----------
    plan : ExportPlan
        The plan.
    rows : range
        Rows of it.
    threads : int
        Threads that read and encode.
    unusable : mapping
        Slides whose tiles are not to be read, and why not.
    skip_errors : bool
        Whether tiles that cannot be read are given as `Unread`, and do not end it.

    Raises
    ------
    SlideError
        If a tile cannot be read.

    Notes
    -----
    As many pieces are in flight as keep the threads busy, so that memory and the number of slides that
    are open are bounded. When the iterator is closed, or anything is raised, the threads have ended.
    """
    stop = threading.Event()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="slideduck-export")
    #: A piece of each slide that may be open.
    opened: dict[int, _Piece] = {}

    def pieces() -> Iterator[_Piece]:
        for slide in plan.slides_of(rows) if rows else ():
            of_slide = plan.rows_of(slide, rows)
            if slide in unusable:
                failed: Future[TileMaker] = Future()
                failed.set_exception(SlideError(unusable[slide]))
                yield _Piece(slide, failed, of_slide, True)
                continue
            # A thread chooses the reader; the pool begins jobs in their order, so that no piece waits in vain.
            maker = pool.submit(plan.maker, slide)
            step = _tiles_of_piece(plan, slide)
            for row in range(of_slide.start, of_slide.stop, step):
                end = min(row + step, of_slide.stop)
                opened[slide] = _Piece(slide, maker, range(row, end), end == of_slide.stop)
                yield opened[slide]

    work = partial(_encoded, plan, stop=stop, skip_errors=skip_errors)
    running = in_order(pool, work, pieces(), ahead=2 * threads + 2)
    try:
        for piece, future in running:
            runs = future.result()
            if piece.ends_slide:
                opened.pop(piece.slide, piece).close()
            yield from runs
    finally:
        stop.set()
        running.close()
        pool.shutdown(wait=True, cancel_futures=True)
        for piece in opened.values():
            piece.close()


def _tiles_of_piece(plan: ExportPlan, slide: int) -> int:
    """Return how many tiles of a slide a piece of work has."""
    read_px = plan.grids[slide].read_px
    may_copy = plan.encoding.may_copy and read_px == plan.tile_px
    most_px, most_tiles = (_COPIED_PX, _COPIED_TILES) if may_copy else (_PIECE_PX, _PIECE_TILES)
    return min(max(most_px // max(read_px, plan.tile_px) ** 2, 1), most_tiles)


def _encoded(plan: ExportPlan, piece: _Piece, *, stop: threading.Event, skip_errors: bool) -> _Runs:
    """Read and encode a piece."""
    try:
        maker = piece.maker.result()
    except SlideError as error:
        if not skip_errors:
            raise
        return [Unread(piece.rows, str(error))]
    runs: _Runs = []
    tiles: list[bytes] = []
    stored = 0
    first = piece.rows.start
    for row in piece.rows:
        if stop.is_set():
            break
        try:
            data, is_stored = plan.encoded(maker, row)
        except SlideError as error:
            if not skip_errors:
                raise
            runs += _run(plan, piece.slide, range(first, row), tiles, stored)
            runs.append(Unread(range(row, row + 1), str(error)))
            tiles, stored, first = [], 0, row + 1
            continue
        tiles.append(data)
        stored += is_stored
    # What is handed on was read from the file that was added, from its first byte to its last.
    maker.check_file()
    return runs + _run(plan, piece.slide, range(first, piece.rows.stop), tiles, stored)


def _run(plan: ExportPlan, slide: int, rows: range, tiles: list[bytes], stored: int) -> list[EncodedRun]:
    """Return tiles in one piece, or nothing where there are none."""
    if not tiles:
        return []
    reader, why_not_tiff = plan.chosen[slide]
    return [EncodedRun(rows, tiles, stored, reader, why_not_tiff)]
