"""Lays grids of tiles on slides, in the tables of a study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from slideduck.errors import ResolutionError, StudyError
from slideduck.limit import beyond
from slideduck.progress import track
from slideduck.show import Shown
from slideduck.slides.grid import GridSpec, lay
from slideduck.store.db import atomic, limited_memory, registered
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_query

__all__ = ["GridReport", "add_grid", "extend_grids", "grid_names", "make_grid", "only_grid", "require_grid", "runs"]

#: Tiles that one transaction writes, unless a single slide has more.
_TILES_AT_A_TIME = 4_000_000

#: What DuckDB may use meanwhile: several times what those tiles are. It would fill more with blocks that it wrote.
_MEMORY = "512MB"


@dataclass(frozen=True)
class GridReport(Shown):
    """What `add_grid` did.

    Attributes
    ----------
    grid : str
        Name of the grid.
    slides, tiles : int
        Slides that the grid was laid on now, and tiles on them.
    total_slides, total_tiles : int
        The same for the whole grid.
    without_tiles : tuple of str
        Slides that are smaller than one tile.
    enlarged : tuple of str
        Slides whose tiles have fewer base pixels than ``tile_px``, so that reading them makes detail up.
    """

    grid: str
    slides: int
    tiles: int
    total_slides: int
    total_tiles: int
    without_tiles: tuple[str, ...]
    enlarged: tuple[str, ...]


def grid_names(handle: Handle) -> list[str]:
    """Return the names of the study's grids, in their order."""
    return [name for (name,) in handle.con.execute("SELECT grid FROM grids ORDER BY grid").fetchall()]


def require_grid(handle: Handle, grid: str) -> None:
    """Refuse a grid that the study does not have.

    Raises
    ------
    StudyError
        With the grids that it has.
    """
    names = grid_names(handle)
    if grid not in names:
        raise StudyError(f"{handle.name} has no grid {grid!r}; it has {', '.join(names) or 'none'}")


def make_grid(handle: Handle) -> str:
    """Return the command that makes a grid, of the usual size."""
    return f"slideduck tile {handle.name} --tile-px 256 --tile-um 256"


def only_grid(handle: Handle, grid: str | None = None) -> str:
    """Return the grid that was named, or the study's only one.

    Raises
    ------
    StudyError
        If there is none, several and none named, or none of that name.
    """
    if grid is not None:
        require_grid(handle, grid)
        return grid
    names = grid_names(handle)
    if len(names) == 1:
        return names[0]
    if not names:
        raise StudyError(f"{handle.name} has no grid; make one with: {make_grid(handle)}")
    raise StudyError(f"{handle.name} has {len(names)} grids ({', '.join(names)}); name one with `grid`")


def add_grid(handle: Handle, spec: GridSpec) -> GridReport:
    """Lay a grid on every slide that can be used and does not have it yet.

    Some slides at a time are one transaction: a call that was stopped goes on where it was.

    Parameters
    ----------
    handle : Handle
        The study.
    spec : GridSpec
        The grid; one of the same name that is there already is extended to new slides.

    Returns
    -------
    GridReport

    Raises
    ------
    StudyError
        If the study has no slide that can be used, or another grid has the name of this one.
    ResolutionError
        With every slide that the grid cannot be laid on, or if no slide is as large as one tile; nothing is kept
        then.
    """
    usable = handle.con.execute("SELECT count(*) FROM slides WHERE error IS NULL").fetchone()
    if usable == (0,):
        raise StudyError("the study has no slide that can be used; add some with add-slides")
    _refuse_other(handle, spec)
    laid = _lay(handle, spec)
    _require_room(handle, spec, laid)
    return _insert_tiles(handle, spec, laid)


def _refuse_other(handle: Handle, spec: GridSpec) -> None:
    """Refuse a grid that has the name of another: a name has six digits of a number."""
    row = handle.con.execute(
        "SELECT tile_um, magnification, stride_div FROM grids WHERE grid = $grid", {"grid": spec.name}
    ).fetchone()
    for name, there in zip(("tile_um", "magnification", "stride_div"), row or (), strict=False):
        given = getattr(spec, name)
        if there != given:
            raise StudyError(
                f"grid {spec.name!r} is there with {name} {there!r}, and {given!r} would have the same name; give "
                f"`{name}={there!r}` to extend it, or a number that differs in its first six digits"
            )


def _require_room(handle: Handle, spec: GridSpec, laid: Sequence[dict[str, Any]]) -> None:
    """Refuse a new grid without a single tile."""
    if spec.name in grid_names(handle) or any(row["n_columns"] and row["n_rows"] for row in laid):
        return
    largest = handle.con.execute(
        "SELECT slide, width, height, mpp FROM slides WHERE error IS NULL "
        "ORDER BY least(width, height) * mpp DESC, slide LIMIT 1"
    ).fetchone()
    assert largest is not None
    slide, width, height, mpp = largest
    raise ResolutionError(
        f"no slide is as large as one tile of {spec.name}: the largest, {slide!r}, is {width * mpp:.6g} x "
        f"{height * mpp:.6g} microns ({width} x {height} pixels); give a smaller tile, or another origin"
    )


def extend_grids(handle: Handle) -> list[GridReport]:
    """Lay every grid of the study on the slides that lack it; return those that grew."""
    specs = handle.con.execute(
        "SELECT tile_px, tile_um, magnification, stride_div, origin_x, origin_y FROM grids ORDER BY grid"
    ).fetchall()
    reports = []
    for spec in (GridSpec(*row) for row in specs):
        laid = _lay(handle, spec)
        if laid:
            reports.append(_insert_tiles(handle, spec, laid))
    return reports


def _lay(handle: Handle, spec: GridSpec) -> list[dict[str, Any]]:
    """Return how a grid lies on each of the slides that lack it, in order of name."""
    slides = handle.con.execute(
        "SELECT slide_id, slide, width, height, mpp, level_downsamples FROM slides "
        "ANTI JOIN (SELECT slide_id FROM grid_slides JOIN grids USING (grid_id) WHERE grid = $grid) USING (slide_id) "
        "WHERE error IS NULL ORDER BY slide",
        {"grid": spec.name},
    ).fetchall()
    laid: list[dict[str, Any]] = []
    problems: list[str] = []
    for slide_id, slide, width, height, mpp, downsamples in slides:
        try:
            on_slide = lay(spec, slide, width, height, mpp, downsamples)
        except ResolutionError as error:
            problems.append(str(error))
            continue
        problem = beyond("tiles", on_slide.n_columns * on_slide.n_rows)
        if problem:
            problems.append(f"grid {spec.name} on slide {slide!r}: {problem}")
        else:
            laid.append({"slide_id": slide_id, "slide": slide, **asdict(on_slide)})
    if problems:
        raise ResolutionError("\n".join(problems))
    return laid


def _insert_tiles(handle: Handle, spec: GridSpec, laid: Sequence[dict[str, Any]]) -> GridReport:
    """Write a grid on slides that lack it; a new grid comes with its first tiles."""
    tiles = [row["n_columns"] * row["n_rows"] for row in laid]
    with (
        limited_memory(handle.con, _MEMORY),
        track("Laying the grid", len(laid), "slides", show=handle.progress) as advance,
    ):
        for first, past in runs(tiles, _TILES_AT_A_TIME):
            with atomic(handle.con):
                grid_id = _grid_id(handle, spec)
                rows = [{"grid_id": grid_id, **row} for row in laid[first:past]]
                with registered(handle.con, "incoming_grid", pa.Table.from_pylist(rows)):
                    handle.con.execute("INSERT INTO grid_slides BY NAME SELECT * EXCLUDE (slide) FROM incoming_grid")
                ids = [row["slide_id"] for row in rows]
                handle.con.execute(read_query("insert_tiles"), {"grid_id": grid_id, "slide_ids": ids})
            advance(past - first)
    total = handle.con.execute(
        "SELECT count(*), coalesce(sum(n_columns::BIGINT * n_rows), 0)::BIGINT FROM grid_slides WHERE grid_id = $id",
        {"id": _grid_id(handle, spec)},
    ).fetchone() or (0, 0)
    return GridReport(
        grid=spec.name,
        slides=len(laid),
        tiles=sum(tiles),
        total_slides=total[0],
        total_tiles=total[1],
        without_tiles=tuple(row["slide"] for row, n in zip(laid, tiles, strict=True) if n == 0),
        enlarged=tuple(row["slide"] for row in laid if row["read_px"] < spec.tile_px),
    )


def _grid_id(handle: Handle, spec: GridSpec) -> int:
    """Return the key of a grid, and insert it into the table ``grids`` if it is missing."""
    handle.con.execute(
        "INSERT INTO grids (grid, tile_px, tile_um, magnification, stride_div, origin_x, origin_y) "
        "VALUES ($name, $tile_px, $tile_um, $magnification, $stride_div, $origin_x, $origin_y) "
        "ON CONFLICT (grid) DO NOTHING",
        {"name": spec.name, **asdict(spec)},
    )
    (grid_id,) = handle.con.execute("SELECT grid_id FROM grids WHERE grid = $grid", {"grid": spec.name}).fetchone() or (
        0,
    )
    return int(grid_id)


def runs(sizes: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Cut a sequence into runs whose sizes sum to at most a number, but for single items that exceed it."""
    first = total = 0
    for i, size in enumerate(sizes):
        if i > first and total + size > most:
            yield first, i
            first, total = i, 0
        total += size
    if first < len(sizes):
        yield first, len(sizes)
