"""Conditions in SQL on the tiles of a beton: its side-car is read as the table ``tiles``.

So folds, sites and subsets of one beton need no new export. A condition is asked of an in-memory database
that holds this one table, cannot be written to by an expression, and sees no file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slideduck.betons import Sidecar
from slideduck.errors import QueryError
from slideduck.runner.settings.train_config import SAMPLE_COLUMNS
from slideduck.runner.tiles.targets import as_exported

__all__ = ["COLUMNS", "tile_table", "tiles_where"]

#: What a condition may name: what tiles can be balanced by, and what tells one from all others.
COLUMNS = ("row", "tile_id", *SAMPLE_COLUMNS)

#: Names of the time that are written without brackets, so that they parse as columns.
_TIMES = {"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"}


def tile_table(sidecar: Sidecar) -> pa.Table:
    """Return a side-car as a table, one row a tile, in the order of the beton.

    Returns
    -------
    pyarrow.Table
        With `COLUMNS`: ``row`` is the row of the beton; ``label`` is NULL and ``class`` too where a tile has
        no label; ``loc_x`` and ``loc_y`` are the centre in base pixels; ``split``, ``fold`` and ``site`` are
        those of the slide. Behind them come the further columns of the patients' table, but for those that are
        called as one of these is.
    """

    def of_slide(name: str, kind: pa.DataType) -> pa.ChunkedArray | pa.Array:
        values = pa.array([getattr(slide, name) for slide in sidecar.slides], kind)
        return values.take(pa.array(sidecar.slide))

    numbers = pa.array(sidecar.class_number, pa.int64(), mask=sidecar.class_number < 0)
    columns = {
        "row": pa.array(np.arange(sidecar.samples)),
        "tile_id": pa.array(sidecar.tile_id, pa.string()),
        **{name: of_slide(name, pa.string()) for name in ("slide", "patient", "site", "split")},
        "fold": of_slide("fold", pa.int64()),
        "label": pa.array(list(sidecar.classes), pa.string()).take(numbers),
        "class": numbers,
        "roi_name": pa.array(sidecar.roi_name, pa.string()),
        **{name: pa.array(getattr(sidecar, name)) for name in ("grid_x", "grid_y", "loc_x", "loc_y")},
    }
    of_patient = [name for name in sidecar.patient_columns if name.lower() not in COLUMNS]
    for name in of_patient:
        values = pa.array([slide.patient_columns.get(name) for slide in sidecar.slides])
        columns[name] = values.take(pa.array(sidecar.slide))
    return pa.table(columns).select([*COLUMNS, *of_patient])


def tiles_where(sidecar: Sidecar, where: str, beton: Path) -> NDArray[np.bool_]:
    """Return which tiles of a beton meet a condition.

    Parameters
    ----------
    sidecar : Sidecar
        What its tiles are.
    where : str
        One SQL condition on the columns of `tile_table`, such as ``site IN ('A', 'B') AND label != 'pen'``; a
        subquery may read the table ``tiles``, which has them too. A tile for which it is NULL does not meet it.
    beton : Path
        For messages.

    Returns
    -------
    ndarray of bool, (samples,)

    Raises
    ------
    QueryError
        If it is no condition on these columns, or one whose answer changes from call to call.
    """
    table = tile_table(as_exported(sidecar))
    with duckdb.connect(config={"enable_external_access": "false"}) as con:
        con.execute("SET python_enable_replacements = false")
        # Labels are the tiles' own, whatever is to be learnt.
        con.register("tiles", table)
        con.execute("SET lock_configuration = true")
        tiles = con.table("tiles")
        try:
            # A relation takes one expression and nothing else, whatever the text holds.
            kind = tiles.project(where).types
            if [str(of) for of in kind] != ["BOOLEAN"]:
                reason = f"it is of type {kind[0]}" if len(kind) == 1 else f"it has {len(kind)} columns"
                raise _bad_condition(where, beton, table, f"{reason}, and a condition is true or false")
            changing = _changing(con, where)
            if changing:
                raise _bad_condition(where, beton, table, f"{changing} gives another answer each time")
            met = tiles.filter(where).project("row").to_arrow_table()["row"].to_numpy()
        except duckdb.Error as error:
            # The first line is the reason; then comes the place in a query that the user did not write.
            raise _bad_condition(where, beton, table, str(error).splitlines()[0]) from error
    chosen = np.zeros(sidecar.samples, bool)
    chosen[met] = True
    return chosen


def _bad_condition(where: str, beton: Path, table: pa.Table, reason: str) -> QueryError:
    return QueryError(
        f"{beton}: the condition {where!r} cannot be used: {reason}; "
        f"give one SQL condition on the columns {', '.join(table.column_names)}"
    )


def _changing(con: duckdb.DuckDBPyConnection, where: str) -> str | None:
    """Return the parts of a condition that may differ between processes, or between a run and its resumption."""
    query = "SELECT DISTINCT function_name FROM duckdb_functions() WHERE stability != 'CONSISTENT'"
    unstable = {name for (name,) in con.execute(query).fetchall()} | _TIMES
    (text,) = con.execute("SELECT json_serialize_sql('SELECT ' || $where)", {"where": where}).fetchall()[0]
    for node in _nodes(json.loads(text)):
        if node.get("sample"):
            return "a sample"
        columns = node.get("column_names") or [""]
        for name in (node.get("function_name"), columns[0] if len(columns) == 1 else None):
            if name and name.lower() in unstable:
                return f"{name.lower()}()"
    return None


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every object of a parsed query."""
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for item in tree:
            yield from _nodes(item)
