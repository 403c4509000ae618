"""Filters of tiles: which condition drops how many, where they are on the slide, and what is not measured yet."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
from duckdb import ColumnExpression, ConstantExpression, SQLExpression

from slideduck.errors import QueryError, StudyError
from slideduck.measure.qc_measures import MEASURES
from slideduck.store.db import translated
from slideduck.words import counted

if TYPE_CHECKING:
    from slideduck.study import Study

__all__ = ["NAMED_FILTERS", "qc_overlay", "qc_report", "refuse_unmeasured"]

#: What Slideflow 3.0.2 keeps by default, `DEFAULT_WHITESPACE_FRACTION` and `DEFAULT_GRAYSPACE_FRACTION` of its
#: ``slide/__init__.py``: a tile is discarded if a fraction is above them, which none of white is.
NAMED_FILTERS = {"slideflow-white": "white_fraction <= 1.0", "slideflow-grey": "grey_fraction <= 0.6"}

_SCHEMA = pa.schema(
    [
        ("slide", pa.string()),
        ("step", pa.int32()),
        ("filter", pa.string()),
        ("tiles", pa.int64()),
        ("dropped", pa.int64()),
        ("dropped_alone", pa.int64()),
        ("left", pa.int64()),
    ]
)


def qc_report(
    study: Study,
    filters: Sequence[str] | None = None,
    *,
    grid: str | None = None,
    slides: Sequence[str] | None = None,
) -> pa.Table:
    """Count the tiles that filters drop, one after the other.

    Parameters
    ----------
    study : Study
        The study; its labels are up to date.
    filters : sequence of str, optional
        What a tile must meet to stay, in order: SQL conditions on the columns of the view ``labels``, or names of
        `NAMED_FILTERS`; default all of these.
    grid : str, optional
        The grid; needed where the study has several.
    slides : sequence of str, optional
        Only these slides.

    Returns
    -------
    pyarrow.Table
        A row for each slide and filter, those of all slides together (``slide`` NULL) first: ``slide``, ``step``
        (from 1), ``filter``, ``tiles`` (those that come to it), ``dropped`` (of them), ``dropped_alone`` (that it
        would drop without the others) and ``left``. The tiles are those that the label rule keeps, as for an
        export. A condition that is NULL for other reasons than a measure drops the tile, as in a query.

    Raises
    ------
    StudyError
        If labels are missing or out of date, there is no such grid or slide, or a filter needs what is not
        measured.
    QueryError
        If a filter is no condition.
    """
    conditions = _conditions(filters)
    name = study.only_grid(grid)
    tiles = _kept(study, name, slides)
    counts: dict[str | None, Counter[tuple[bool, ...]]] = {None: Counter()}
    for slide, *passed, number in _passed(study, tiles, conditions, "slide"):
        counts.setdefault(slide, Counter())[tuple(passed)] += number
        counts[None][tuple(passed)] += number
    rows = [
        row
        for slide in sorted(counts, key=lambda slide: (slide is not None, slide or ""))
        for row in _funnel(slide, conditions, counts[slide])
    ]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def _funnel(
    slide: str | None, conditions: Sequence[str], counts: Counter[tuple[bool, ...]]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one slide; the counts are by which of the conditions hold."""
    for step, condition in enumerate(conditions):
        came = sum(number for passed, number in counts.items() if all(passed[:step]))
        left = sum(number for passed, number in counts.items() if all(passed[: step + 1]))
        yield {
            "slide": slide,
            "step": step + 1,
            "filter": condition,
            "tiles": came,
            "dropped": came - left,
            "dropped_alone": sum(number for passed, number in counts.items() if not passed[step]),
            "left": left,
        }


def qc_overlay(
    study: Study,
    slide: str,
    out: str | os.PathLike[str],
    filters: Sequence[str] | None = None,
    *,
    grid: str | None = None,
) -> Path:
    """Draw a slide with the tiles that filters drop, each in the colour of the first that does.

    Parameters
    ----------
    study : Study
        The study; its labels are up to date.
    slide : str
        Name of the slide.
    out : path-like
        File to write: ``.png``, ``.pdf`` or ``.svg``.
    filters, grid
        See `qc_report`.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    StudyError, QueryError
        See `qc_report`.
    SlideError
        If the slide does not open.
    """
    from slideduck.draw import picture as plot
    from slideduck.draw.data import ABSENT, REMOVED, label_colours, read_drawn
    from slideduck.draw.layers import draw_tiles
    from slideduck.files.write import check_folder
    from slideduck.slides.reader import thumbnail

    out = Path(out)
    conditions = _conditions(filters)
    plot._check_picture(out, None)
    check_folder(out)
    name = study.only_grid(grid)
    drawn = read_drawn(study, slide, grid=name)
    assert drawn.tiles is not None
    state = np.where(drawn.tiles.state == ABSENT, ABSENT, REMOVED)
    tiles = left = 0
    for grid_x, grid_y, *passed, _ in _passed(study, _kept(study, name, [slide]), conditions, "grid_x, grid_y"):
        # One past the last filter: nothing is drawn there, and nothing paled.
        state[grid_y, grid_x] = next((i for i, holds in enumerate(passed) if not holds), len(conditions))
        tiles += 1
        left += all(passed)
    texts = tuple(f"not {condition}" for condition in conditions)
    # In the order of the filters, so that the first have the colours that differ most.
    colours = dict(zip(texts, label_colours(f"{i:03}" for i in range(len(texts))).values(), strict=True))
    title = f"{name}: {left:,} of {counted(tiles, 'tile')} pass {counted(len(conditions), 'filter')}"
    drawn = replace(
        drawn,
        labels=texts,
        colours=colours,
        rois=(),
        tiles=replace(drawn.tiles, grid=title, state=state.astype(np.int32)),
    )
    picture, _ = thumbnail(drawn.path, plot._THUMBNAIL_PX)
    with plot.own_style("".join([drawn.slide, *texts])):
        from matplotlib.transforms import Affine2D

        figure, axes, across = plot._slide_figure(
            drawn, picture, "antialiased" if out.suffix.lower() == ".png" else "none"
        )
        draw_tiles(axes, Affine2D().scale(drawn.mpp / 1000) + axes.transData, drawn, across)
        plot._draw_legend(figure, axes, drawn, rois=False)
        plot.save_figure(figure, out)
    return out


def _conditions(filters: Sequence[str] | None) -> list[str]:
    """Return the conditions that filters stand for."""
    conditions = [NAMED_FILTERS.get(text.strip(), text.strip()) for text in filters or NAMED_FILTERS]
    twice = sorted({text for text in conditions if conditions.count(text) > 1})
    if twice:
        raise StudyError(f"the filter {', '.join(map(repr, twice))} is given more than once; give each once")
    return conditions


def _kept(study: Study, grid: str, slides: Sequence[str] | None) -> duckdb.DuckDBPyRelation:
    """Return the tiles that the label rule keeps."""
    tiles = study.labels("kept", grid=grid)
    if slides is None:
        return tiles.set_alias("labels")
    known = study.con.execute(
        "SELECT slide FROM slides JOIN grid_slides USING (slide_id) JOIN grids USING (grid_id) WHERE grid = $grid",
        {"grid": grid},
    ).fetchall()
    strangers = [repr(name) for name in dict.fromkeys(slides) if (name,) not in known]
    if strangers:
        raise StudyError(f"grid {grid!r} does not lie on slide {', '.join(strangers)}; see which with: slideduck info")
    chosen = tiles.filter(ColumnExpression("slide").isin(*(ConstantExpression(name) for name in slides)))
    return chosen.set_alias("labels")


def _passed(
    study: Study, tiles: duckdb.DuckDBPyRelation, conditions: Sequence[str], keys: str
) -> list[tuple[Any, ...]]:
    """Return for each value of the keys, and each way in which conditions hold, the number of tiles."""
    for condition in conditions:
        try:
            types = tiles.project(condition).types
        except duckdb.Error as error:
            raise _bad_filter(condition, str(error).splitlines()[0], tiles) from error
        if types != ["BOOLEAN"]:
            found = " and ".join(map(str, types))
            raise _bad_filter(condition, f"it is of type {found}, and a condition is true or false", tiles)
        refuse_unmeasured(study, tiles, condition)
    holds = [SQLExpression(condition).isnotnull() & SQLExpression(condition) for condition in conditions]
    names = [f"holds_{i}" for i in range(len(conditions))]
    columns = [ColumnExpression(key) for key in keys.split(", ")]
    rows = tiles.select(*columns, *(held.alias(name) for held, name in zip(holds, names, strict=True)))
    by = ", ".join([keys, *names])
    try:
        with translated():
            return rows.aggregate(f"{by}, count(*) AS tiles", by).order(by).fetchall()
    except (duckdb.ProgrammingError, duckdb.DataError) as error:
        raise QueryError(f"{error}\nin one of the filters {'; '.join(conditions)}") from error


def _bad_filter(condition: str, reason: str, tiles: duckdb.DuckDBPyRelation) -> QueryError:
    return QueryError(
        f"the filter {condition!r} cannot be used: {reason}; give one of {', '.join(NAMED_FILTERS)}, or an SQL "
        f"condition on the columns {', '.join(tiles.columns)}"
    )


def refuse_unmeasured(study: Any, tiles: duckdb.DuckDBPyRelation, condition: str) -> None:
    """Refuse a condition that leaves tiles out only because a measure of them is not there.

    Parameters
    ----------
    study : Study
        Its connection, and its file for messages.
    tiles : duckdb.DuckDBPyRelation
        The tiles that the condition is asked of: rows of the view ``labels``.
    condition : str
        An SQL condition; one that does not parse is let pass, for DuckDB to complain of.

    Raises
    ------
    StudyError
        If the condition is NULL for tiles that lack a measure that it names. One that says what is to become of
        them, such as ``blur > 50 AND blur IS NOT NULL``, is not NULL there.
    """
    named = _measures_named(study.con, condition)
    if not named:
        return
    lacking = ColumnExpression(named[0]).isnull()
    for name in named[1:]:
        lacking |= ColumnExpression(name).isnull()
    counts = ", ".join(f"count({name}) AS {name}" for name in named)
    unknown = tiles.filter(SQLExpression(condition).isnull() & lacking)
    rows = unknown.aggregate(f"grid, slide, count(*) AS tiles, {counts}", "grid, slide").order("grid, slide").fetchall()
    if not rows:
        return
    (total,) = tiles.aggregate("count(*) AS tiles").fetchone() or (0,)
    missing = [name for i, name in enumerate(named) if any(row[3 + i] < row[2] for row in rows)]
    grids, where = sorted({row[0] for row in rows}), list(dict.fromkeys(row[1] for row in rows))
    shown = ", ".join(where[:5]) + (f" and {len(where) - 5} more" if len(where) > 5 else "")
    options = " ".join(f"--measure {name}" for name in missing)
    raise StudyError(
        f"the condition {condition!r} needs {' and '.join(missing)}, not measured for "
        f"{sum(row[2] for row in rows):,} of {counted(total, 'tile')} (grid {', '.join(grids)}; slides {shown}); "
        f"measure with: slideduck qc {study.path.name} --grid {grids[0]} {options}, or leave them out by adding "
        f"AND {missing[0]} IS NOT NULL"
    )


def _measures_named(con: duckdb.DuckDBPyConnection, condition: str) -> list[str]:
    """Return the measures that a condition names as columns, in their order."""
    if not any(name in condition.lower() for name in MEASURES):
        return []
    (text,) = con.execute(
        "SELECT json_serialize_sql($query)", {"query": f"SELECT 1 FROM labels WHERE {condition}\n"}
    ).fetchone() or ("{}",)
    found: set[str] = set()
    waiting: list[Any] = [json.loads(text)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if node.get("type") == "COLUMN_REF":
                found.add(str(node["column_names"][-1]).lower())
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    return [name for name in MEASURES if name in found]
