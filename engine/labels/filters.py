"""Filters of tiles: how many tiles each condition drops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa
from duckdb import ColumnExpression, ConstantExpression, SQLExpression

from slideduck.catalog.grids import only_grid
from slideduck.errors import QueryError, StudyError
from slideduck.labels.conditions import refuse_strange_labels, refuse_unmeasured, refused
from slideduck.labels.view import labels
from slideduck.store.db import translated
from slideduck.store.handle import Handle

__all__ = ["NAMED_FILTERS", "count_passed", "filter_conditions", "kept_tiles", "qc_report"]

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
    handle: Handle,
    filters: Sequence[str] | None = None,
    *,
    grid: str | None = None,
    slides: Sequence[str] | None = None,
) -> pa.Table:
    """Count the tiles that filters drop, one after the other.

    Parameters
    ----------
    handle : Handle
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
    conditions = filter_conditions(filters)
    name = only_grid(handle, grid)
    tiles = kept_tiles(handle, name, slides)
    counts: dict[str | None, Counter[tuple[bool, ...]]] = {None: Counter()}
    for slide, *passed, number in count_passed(handle, tiles, conditions, "slide"):
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


def filter_conditions(filters: Sequence[str] | None) -> list[str]:
    """Return the conditions that filters stand for; those of `NAMED_FILTERS` where none is given.

    Raises
    ------
    StudyError
        If one is given more than once.
    """
    conditions = [NAMED_FILTERS.get(text.strip(), text.strip()) for text in filters or NAMED_FILTERS]
    twice = sorted({text for text in conditions if conditions.count(text) > 1})
    if twice:
        raise StudyError(f"the filter {', '.join(map(repr, twice))} is given more than once; give each once")
    return conditions


def kept_tiles(handle: Handle, grid: str, slides: Sequence[str] | None) -> duckdb.DuckDBPyRelation:
    """Return the tiles of a grid that the label rule keeps, on some slides or on all.

    Raises
    ------
    StudyError
        If labels are missing or out of date, or the grid does not lie on a slide.
    """
    tiles = labels(handle, "kept", grid=grid)
    if slides is None:
        return tiles.set_alias("labels")
    known = handle.con.execute(
        "SELECT slide FROM slides JOIN grid_slides USING (slide_id) JOIN grids USING (grid_id) WHERE grid = $grid",
        {"grid": grid},
    ).fetchall()
    strangers = [repr(name) for name in dict.fromkeys(slides) if (name,) not in known]
    if strangers:
        raise StudyError(
            f"grid {grid!r} does not lie on slide {', '.join(strangers)}; see which there are with: "
            f"slideduck sql {handle.name} 'SELECT slide FROM slides'"
        )
    chosen = tiles.filter(ColumnExpression("slide").isin(*(ConstantExpression(name) for name in slides)))
    return chosen.set_alias("labels")


def count_passed(
    handle: Handle, tiles: duckdb.DuckDBPyRelation, conditions: Sequence[str], keys: str
) -> list[tuple[Any, ...]]:
    """Return for each value of the keys, and each way in which conditions hold, the number of tiles.

    Raises
    ------
    QueryError
        If a condition is none, names a label that no ROI has, or cannot be computed.
    StudyError
        If a condition needs what is not measured.
    """
    for condition in conditions:
        try:
            problem = refused(handle, tiles, condition)
        except duckdb.Error as error:
            problem = str(error).splitlines()[0]
        if problem is not None:
            raise _bad_filter(condition, problem, tiles)
        refuse_strange_labels(handle, condition)
        refuse_unmeasured(handle, tiles, condition)
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
