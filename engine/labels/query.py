"""Questions about labels: counts, overlaps, neighbours, areas, and how far two readers agree.

Each question is a view or a table macro of ``sql/``, so that ``FROM agreement('reader_a', 'reader_b')`` works in any
query too. This module checks the arguments and names those that are wrong. Answers follow the rule in force, and are
refused while labels are missing or out of date.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import duckdb
import pyarrow as pa
from duckdb import ColumnExpression, ConstantExpression

from slideduck.catalog.grids import only_grid
from slideduck.catalog.slides import usable_slide
from slideduck.errors import StudyError
from slideduck.labels.conditions import meeting, refusing
from slideduck.labels.view import require_labels
from slideduck.store.db import registered
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_query

__all__ = [
    "AREA_COLUMNS",
    "COUNT_COLUMNS",
    "agreement",
    "area",
    "at",
    "conflicts",
    "counts",
    "coverage_histogram",
    "disagreements",
    "neighbours",
    "rois",
]

#: What tiles are counted by.
COUNT_COLUMNS = ("label", "slide", "patient", "site", "split", "fold", "grid", "roi_name")

#: Columns by which areas are grouped, beside the label.
AREA_COLUMNS = ("slide", "patient", "site")

#: More bins than this tell nothing that the coverages themselves do not.
_MAX_BINS = 10_000


def counts(
    handle: Handle, by: Sequence[str] = ("label",), *, grid: str | None = None, where: str | None = None
) -> pa.Table:
    """Count tiles, and add up their area, by any of `COUNT_COLUMNS`.

    Parameters
    ----------
    handle : Handle
        The study.
    by : sequence of str
        One or more of ``label``, ``slide``, ``patient``, ``site``, ``split``, ``fold``, ``grid`` and ``roi_name``.
    grid : str, optional
        The grid; needed where the study has several, unless ``by`` has ``grid``.
    where : str, optional
        An SQL condition on the columns of the view ``labels``: only such tiles are counted.

    Returns
    -------
    pyarrow.Table
        The columns of ``by``, then ``tiles``, ``kept`` (those that the method and the artifacts keep) and
        ``area_mm2``; a row for each combination that tiles have, in its order, NULLs last. Where tiles overlap,
        the area of each is the part of stride × stride base pixels that is its own, at most the tile.

    Raises
    ------
    StudyError
        If labels are missing or out of date, a column is unknown, the grid is not told, or the condition needs
        what is not measured (see `slideduck.measure.qc`).
    QueryError
        If the condition does not parse, bind or run.

    Notes
    -----
    Without a condition the counts of the last labelling are added up, and no tile is read, unless ``by`` has
    ``roi_name``.
    """
    columns = _columns(by, COUNT_COLUMNS, "tiles are counted by")
    if not columns:
        raise StudyError(f"tiles are counted by no column; name one or more of {', '.join(COUNT_COLUMNS)}")
    require_labels(handle)
    if grid is not None or "grid" not in columns:
        grid = only_grid(handle, grid)
    if where is None and "roi_name" not in columns:
        return _tile_counts(handle, columns, "counts", grid)
    with registered(handle.con, "counted_tiles", _counted_tiles(handle, columns, grid, where)):
        sized = handle.con.execute(read_query("size_counted_tiles")).to_arrow_table()
    with registered(handle.con, "sized_tiles", sized):
        return _tile_counts(handle, columns, "sized_tiles", grid)


def _counted_tiles(handle: Handle, columns: Sequence[str], grid: str | None, where: str | None) -> pa.Table:
    """Return the tiles that meet a condition, by grid, slide and label, and by ROI only where that is asked."""
    tiles = handle.con.sql("FROM labels").set_alias("labels")
    if grid is not None:
        tiles = tiles.filter(_is("grid", grid))
    keys = "grid, slide, label" + (", roi_name" if "roi_name" in columns else "")
    sums = f"{keys}, count(*) AS tiles, count(*) FILTER (WHERE kept) AS kept"
    if where is None:
        return tiles.aggregate(sums, keys).to_arrow_table()
    with refusing(where, tiles.columns):
        return meeting(handle, tiles, where).aggregate(sums, keys).to_arrow_table()


def _tile_counts(handle: Handle, columns: Sequence[str], source: str, grid: str | None) -> pa.Table:
    """Return the sums of a source that the macro tile_counts reads, the columns in the order asked for."""
    return handle.con.execute(
        f"SELECT {', '.join(columns)}, tiles, kept, area_mm2 "
        "FROM tile_counts($columns, source := $source, grid := $grid) ORDER BY ALL",
        {"columns": list(columns), "source": source, "grid": grid},
    ).to_arrow_table()


def conflicts(
    handle: Handle, *, grid: str | None = None, slide: str | None = None, differing: bool = True
) -> duckdb.DuckDBPyRelation:
    """Return the tiles that lie in several ROIs, and in which.

    Parameters
    ----------
    handle : Handle
        The study.
    grid : str, optional
        The grid; needed where the study has several.
    slide : str, optional
        Only the tiles of this slide.
    differing : bool, default True
        Only tiles whose ROIs have different labels; having none counts as one. False: every overlap.

    Returns
    -------
    duckdb.DuckDBPyRelation
        The view ``conflicts``, in the order of slide, grid_y, grid_x: ``tile_id``, ``slide``, ``grid_x``,
        ``grid_y``, ``grid``, ``label`` (what the tile has), ``labels_differ``, and the lists ``roi_names``,
        ``labels`` and ``coverages`` (parts of the tile, 0 to 1), an item for each ROI in the order in which they
        win.

    Raises
    ------
    StudyError
        If labels are missing or out of date, there is no such slide, or the grid is not told.
    """
    require_labels(handle)
    relation = handle.con.sql("FROM conflicts").filter(_is("grid", only_grid(handle, grid)))
    if slide is not None:
        relation = relation.filter(_is("slide", usable_slide(handle, slide).slide))
    if differing:
        relation = relation.filter("labels_differ")
    return relation.order("slide, grid_y, grid_x")


def rois(handle: Handle, *, grid: str | None = None, slide: str | None = None, empty: bool = False) -> pa.Table:
    """Return the ROIs of the set in force, with the tiles that each holds and wins.

    Parameters
    ----------
    handle : Handle
        The study.
    grid : str, optional
        The grid; needed where the study has several.
    slide : str, optional
        Only the ROIs of this slide.
    empty : bool, default False
        Only ROIs that hold no tile.

    Returns
    -------
    pyarrow.Table
        The view ``roi_tiles``, in the order of slide and name: ``grid``, ``slide``, ``roi_name``, ``roi_desc``,
        ``roi_set``, ``label``, ``area_mm2`` (without the holes), ``held`` and ``won``. Holes are not listed.

    Raises
    ------
    StudyError
        If labels are missing or out of date, there is no such slide, or the grid is not told.
    """
    require_labels(handle)
    relation = handle.con.sql("FROM roi_tiles").filter(_is("grid", only_grid(handle, grid)))
    if slide is not None:
        relation = relation.filter(_is("slide", usable_slide(handle, slide).slide))
    if empty:
        relation = relation.filter("held = 0")
    return relation.order("slide, roi_name").to_arrow_table()


def coverage_histogram(handle: Handle, bins: int = 10, *, grid: str | None = None) -> pa.Table:
    """Count the tiles that are in an ROI by label and by the part of them that the winning ROI covers.

    Parameters
    ----------
    handle : Handle
        The study.
    bins : int, default 10
        Bins of equal width below 1. One more, the last, is of the tiles that are covered whole.
    grid : str, optional
        The grid; needed where the study has several.

    Returns
    -------
    pyarrow.Table
        ``grid``, ``label``, ``coverage_from``, ``coverage_to`` and ``tiles``: ``bins + 1`` rows for each label
        that tiles in ROIs have, in the order of label and coverage, the empty bins too. A bin has its lower border
        and not its upper one; the last goes from 1 to 1. A coverage within 1e-9 of a border is on it.

    Raises
    ------
    StudyError
        If labels are missing or out of date, ``bins`` is impossible, or the grid is not told.
    """
    if not 1 <= bins <= _MAX_BINS:
        raise StudyError(f"bins is {bins}; give 1 to {_MAX_BINS:,}")
    require_labels(handle)
    return handle.con.execute(
        "FROM coverage_histogram(bins := $bins, grid := $grid)", {"bins": bins, "grid": only_grid(handle, grid)}
    ).to_arrow_table()


def neighbours(handle: Handle, tile_id: str, distance: int = 1, *, grid: str | None = None) -> pa.Table:
    """Return the tiles around a tile, with their labels.

    Parameters
    ----------
    handle : Handle
        The study.
    tile_id : str
        The tile, as the view ``labels`` names it.
    distance : int, default 1
        Steps of the grid, along both axes: 1 gives the 8 tiles around, 2 gives 24. Fewer at the slide's edge.
    grid : str, optional
        The grid; needed where several have a tile of that id.

    Returns
    -------
    pyarrow.Table
        ``tile_id``, ``dx``, ``dy`` (columns to the right and rows down from the tile), ``label``, ``roi_name``,
        ``coverage``, ``kept``, ``slide``, ``loc_x``, ``loc_y`` (base pixels), ``grid_x``, ``grid_y``, ``grid``;
        in the order of dy and dx. The tile itself is not among them.

    Raises
    ------
    StudyError
        If labels are missing or out of date, no grid has the tile or several do, or ``distance`` is below 1.
    """
    if distance < 1:
        raise StudyError(f"distance is {distance}; give 1 or more steps of the grid")
    require_labels(handle)
    if grid is not None:
        grid = only_grid(handle, grid)
    found = [
        name for (name,) in handle.con.execute(read_query("find_tile"), {"tile": tile_id, "grid": grid}).fetchall()
    ]
    if not found:
        example = handle.con.execute(read_query("find_example_tile"), {"grid": grid}).fetchone()
        raise StudyError(
            f"no tile {tile_id!r} in {'grid ' + repr(grid) if grid else handle.name}; ids are the slide's name and "
            f"the tile's centre in base pixels, rounded down{', such as ' + repr(example[0]) if example else ''}"
        )
    if len(found) > 1:
        raise StudyError(f"tile {tile_id!r} is in {len(found)} grids ({', '.join(found)}); name one with `grid`")
    return handle.con.execute(
        "FROM neighbours($tile, distance := $distance, grid := $grid)",
        {"tile": tile_id, "distance": distance, "grid": found[0]},
    ).to_arrow_table()


def at(handle: Handle, slide: str, x: float, y: float, *, um: bool = False) -> pa.Table:
    """Return the ROIs that a point lies in, of every set, and which of them gives its label.

    Parameters
    ----------
    handle : Handle
        The study.
    slide : str
        Name of the slide.
    x, y : float
        The point: base pixels from the slide's left and top, or microns.
    um : bool, default False
        The point is in microns; they are divided by the slide's MPP.

    Returns
    -------
    pyarrow.Table
        ``roi_set``, ``roi_name``, ``roi_desc``, ``label``, ``area_mm2``, ``in_force`` (its set labels the slide),
        ``is_artifact``, ``wins`` and ``gives_label``; a row for each ROI that the point is in, boundary included:
        the set in force first, in each set in the order in which they win. Holes are not listed. At most one row
        has ``gives_label``: its label is the point's, and without one the point has none.

    Raises
    ------
    StudyError
        If labels are missing or out of date, there is no such slide, or the point is off it.

    Notes
    -----
    The policy for overlaps is that of the rule in force. ``largest`` compares how much of a tile ROIs cover, which
    has no meaning at a point: the smallest wins there. An artifact takes the label away, and so does ``exclude``
    where labels differ.
    """
    require_labels(handle)
    found = usable_slide(handle, slide)
    width, height, mpp = found.width, found.height, found.mpp
    scale, unit = (mpp, "microns") if um else (1.0, "base pixels")
    if not (math.isfinite(x) and math.isfinite(y) and 0 <= x <= width * scale and 0 <= y <= height * scale):
        raise StudyError(
            f"the point x {x:.10g}, y {y:.10g} is not on slide {slide!r}, which is {width * scale:.10g} x "
            f"{height * scale:.10g} {unit} large; give a point on it{'' if um else ', or `um=True` for microns'}"
        )
    return handle.con.execute(
        "FROM rois_at($slide, $x::DOUBLE, $y::DOUBLE)", {"slide": slide, "x": x / scale, "y": y / scale}
    ).to_arrow_table()


def area(handle: Handle, by: Sequence[str] = ()) -> pa.Table:
    """Return the area of each label in square millimetres, from the outlines themselves, whatever the grid.

    Parameters
    ----------
    handle : Handle
        The study.
    by : sequence of str
        What to tell apart beside the label: any of ``slide``, ``patient`` and ``site``.

    Returns
    -------
    pyarrow.Table
        ``label``, the columns of ``by``, ``rois`` (how many, without holes), ``drawn_mm2`` and ``covered_mm2``; in
        the order of label and ``by``, NULLs last. ``drawn_mm2`` adds up the areas of the ROIs, holes taken out: a
        place in two of them counts twice, and what lies off the slide counts. ``covered_mm2`` is the area of the
        slides that lies in any of them: each place once, nothing off the slide. Only the sets in force count.

    Raises
    ------
    StudyError
        If labels are missing or out of date, or a column is unknown.
    """
    columns = ("label", *_columns(by, AREA_COLUMNS, "areas are told apart by"))
    require_labels(handle)
    return handle.con.execute(
        f"SELECT {', '.join(columns)}, sum(rois)::BIGINT AS rois, sum(drawn_mm2 ORDER BY slide) AS drawn_mm2, "
        "sum(covered_mm2 ORDER BY slide) AS covered_mm2 FROM label_areas GROUP BY ALL ORDER BY ALL"
    ).to_arrow_table()


def agreement(handle: Handle, set_a: str, set_b: str, *, grid: str | None = None, by_slide: bool = False) -> pa.Table:
    """Return how far two sets of ROIs, such as those of two readers, give tiles the same labels.

    Parameters
    ----------
    handle : Handle
        The study.
    set_a, set_b : str
        The sets.
    grid : str, optional
        The grid; needed where the study has several.
    by_slide : bool, default False
        A block of rows for each slide, in place of one for all of them.

    Returns
    -------
    pyarrow.Table
        ``grid``, with ``by_slide`` also ``slide``, then ``label``, ``tiles``, ``n_both``, ``n_a_only``,
        ``n_b_only``, ``n_neither``, ``agreement`` (part of the tiles on which the sets agree, 0 to 1), ``kappa``
        and ``dice``: a row for each label that either set has, and last one over all labels, whose label is NULL.

    Raises
    ------
    StudyError
        If labels are missing or out of date, there is no such set, no slide has ROIs of both, or the grid is not
        told.

    Notes
    -----
    All tiles count of the slides on which both sets have ROIs (artifacts alone do not count as any), those in no
    ROI too. The label of a tile by a set is what the rule in force makes of that set's ROIs: its overlaps, its
    threshold and its artifacts; the method plays no part.

    ``kappa`` is Cohen's (J. Cohen, A coefficient of agreement for nominal scales, Educational and Psychological
    Measurement 20 (1960) 37–46): ``(p_o - p_e) / (1 - p_e)``, where ``p_o`` is the part of the tiles on which
    the sets agree, and ``p_e = sum over classes k of a_k * b_k / tiles**2``, with ``a_k`` and ``b_k`` tiles of
    class k by either set. In a label's row the classes are to have it or not; in the last row they are the labels
    and having none. It is NULL where ``p_e`` is 1. ``dice`` is ``2 n_both / (2 n_both + n_a_only + n_b_only)``,
    NULL where no tile has the label.

    In the last row ``n_both``, ``n_a_only`` and ``n_b_only`` are the sums over the labels, so that a tile with two
    different labels is in both of the latter; ``n_neither`` are the tiles without any.
    """
    grid = _pair_of_sets(handle, set_a, set_b, grid)
    return handle.con.execute(
        f"SELECT * {'' if by_slide else 'EXCLUDE (slide) '}"
        "FROM agreement($set_a, $set_b, by_slide := $by_slide, grid := $grid)",
        {"set_a": set_a, "set_b": set_b, "by_slide": by_slide, "grid": grid},
    ).to_arrow_table()


def disagreements(
    handle: Handle, set_a: str, set_b: str, *, grid: str | None = None, slide: str | None = None
) -> duckdb.DuckDBPyRelation:
    """Return the tiles to which two sets of ROIs give different labels; having none counts as a label.

    Parameters
    ----------
    handle : Handle
        The study.
    set_a, set_b : str
        The sets.
    grid : str, optional
        The grid; needed where the study has several.
    slide : str, optional
        Only the tiles of this slide.

    Returns
    -------
    duckdb.DuckDBPyRelation
        ``tile_id``, ``label_a``, ``label_b``, ``roi_name_a``, ``roi_name_b``, ``slide``, ``grid_x``, ``grid_y``,
        ``grid``, in the order of slide, grid_y, grid_x. Which tiles, and which labels: see `agreement`.

    Raises
    ------
    StudyError
        As `agreement`, or if there is no such slide.
    """
    relation = handle.con.table_function("disagreements", [set_a, set_b, _pair_of_sets(handle, set_a, set_b, grid)])
    if slide is not None:
        relation = relation.filter(_is("slide", usable_slide(handle, slide).slide))
    return relation.order("slide, grid_y, grid_x")


def _is(column: str, value: str) -> duckdb.Expression:
    """Return the condition that a column has a value."""
    return ColumnExpression(column) == ConstantExpression(value)


def _columns(by: Sequence[str], known: Sequence[str], what: str) -> tuple[str, ...]:
    """Check the columns by which rows are grouped."""
    names = (by,) if isinstance(by, str) else tuple(by)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise StudyError(f"{what} {', '.join(map(repr, unknown))}; give any of {', '.join(known)}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise StudyError(f"{what} {', '.join(map(repr, twice))} more than once; name each column once")
    return names


def _pair_of_sets(handle: Handle, set_a: str, set_b: str, grid: str | None) -> str:
    """Check that two sets of ROIs can be compared, and return the grid."""
    require_labels(handle)
    names = [name for (name,) in handle.con.execute("SELECT DISTINCT roi_set FROM rois ORDER BY roi_set").fetchall()]
    there = f"the study has {', '.join(map(repr, names)) or 'none'}"
    missing = [name for name in dict.fromkeys((set_a, set_b)) if name not in names]
    if missing:
        raise StudyError(
            f"no ROIs are in the set{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}; {there}"
        )
    if set_a == set_b:
        raise StudyError(f"both sets are {set_a!r}; name two different sets: {there}")
    values = {"set_a": set_a, "set_b": set_b}
    if handle.con.execute("SELECT count(*) FROM shared_slides($set_a, $set_b)", values).fetchone() == (0,):
        raise StudyError(
            f"no slide has ROIs of both {set_a!r} and {set_b!r}; sets are compared on the slides that both have"
        )
    return only_grid(handle, grid)
