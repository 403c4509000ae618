"""Conditions in SQL on the tiles of a beton: its side-car is read as the table ``tiles``.

So folds, sites and subsets of one beton need no new export. A condition is asked of an in-memory database
that holds this one table, cannot be written to by an expression, and sees no file.
"""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slideduck.betons import Sidecar
from slideduck.labels.conditions import bad_condition, not_boolean, refuse_unknown_labels, refusing
from slideduck.labels.permitted import unfit
from slideduck.runner.settings.train_config import SAMPLE_COLUMNS
from slideduck.runner.tiles.targets import as_exported

__all__ = ["COLUMNS", "table_columns", "tile_table", "tiles_where"]

#: What a condition may name: what tiles can be balanced by, and what tells one from all others.
COLUMNS = ("row", "tile_id", *SAMPLE_COLUMNS)


def table_columns(sidecar: Sidecar) -> list[str]:
    """Return the names of the columns of `tile_table`."""
    return [*COLUMNS, *(name for name in sidecar.patient_columns if name.lower() not in COLUMNS)]


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
    names = table_columns(sidecar)
    for name in names[len(COLUMNS) :]:
        values = pa.array([slide.patient_columns.get(name) for slide in sidecar.slides])
        columns[name] = values.take(pa.array(sidecar.slide))
    return pa.table(columns).select(names)


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
        If it is no condition on these columns, names a label that is no class of the beton, or is one whose answer
        changes from call to call.
    """
    # Labels are the tiles' own, whatever is to be learnt.
    exported = as_exported(sidecar)
    table = tile_table(exported)
    with duckdb.connect(config={"enable_external_access": "false"}) as con:
        con.execute("SET python_enable_replacements = false")
        con.register("tiles", table)
        con.execute("SET lock_configuration = true")
        tiles = con.table("tiles")
        with refusing(where, table.column_names, place=beton):
            problem = unfit(con, where, table.column_names, lambda: {"tiles"}, "the table tiles")
            # A relation takes expressions and nothing else, whatever the text holds.
            problem = problem or not_boolean(tiles, where)
            if problem is not None:
                raise bad_condition(where, table.column_names, problem, place=beton)
            refuse_unknown_labels(con, where, exported.classes, beton=beton)
            met = tiles.filter(where).project("row").to_arrow_table()["row"].to_numpy()
    chosen = np.zeros(sidecar.samples, bool)
    chosen[met] = True
    return chosen
