"""Tiles that a table names, in place of a condition: a relation of DuckDB, or a frame of pandas, Polars or Arrow."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from slideduck.errors import QueryError, StudyError
from slideduck.store.handle import Handle
from slideduck.words import agreeing, counted, some

__all__ = ["ChosenTiles", "chosen_notes", "chosen_tiles"]

_WAYS = "give an SQL condition, a DuckDB relation, or a data frame with tile ids as its index or its column tile_id"


@dataclass(frozen=True, eq=False)
class ChosenTiles:
    """Tiles by name, each once.

    Attributes
    ----------
    table : pyarrow.Table
        Their ``tile_id``, and ``grid`` where the table that was given has such a column.
    """

    table: pa.Table

    @cached_property
    def digest(self) -> str:
        """Digest of the names, whatever their order."""
        rows = self.table.sort_by([(name, "ascending") for name in self.table.column_names]).to_pylist()
        return hashlib.sha256(repr([tuple(row.values()) for row in rows]).encode()).hexdigest()

    def __str__(self) -> str:
        """Return what stands in place of a condition in side-cars and messages."""
        return f"{counted(self.table.num_rows, 'tile')} of a table, SHA-256 {self.digest[:16]}"

    def of(self, handle: Handle, tiles: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
        """Return those of some tiles that are chosen.

        Parameters
        ----------
        handle : Handle
            The study.
        tiles : duckdb.DuckDBPyRelation
            Rows of the view ``labels``.
        """
        return tiles.set_alias("labels").join(self._relation(handle), self._match, how="semi")

    def require_known(self, handle: Handle, tiles: duckdb.DuckDBPyRelation, grid: str | None) -> None:
        """Refuse names that no tile has.

        Parameters
        ----------
        handle : Handle
            The study.
        tiles : duckdb.DuckDBPyRelation
            All rows of the view ``labels`` that could be meant.
        grid : str, optional
            The grid that they are of, for the message.

        Raises
        ------
        StudyError
            With how many they are, and examples.
        """
        unknown = self._relation(handle).join(tiles.set_alias("labels"), self._match, how="anti")
        if grid is not None and "grid" in self.table.column_names:
            # A table of several grids may be given for one of them.
            unknown = unknown.filter(duckdb.ColumnExpression("grid") == duckdb.ConstantExpression(grid))
        names = [name for (name,) in unknown.project("tile_id").order("tile_id").fetchall()]
        if names:
            where = handle.name if grid is None else f"grid {grid!r} of {handle.name}"
            raise StudyError(
                f"{len(names):,} of the {counted(self.table.num_rows, 'tile')} that `where` names "
                f"{agreeing(len(names), 'is', 'are')} not in {where}, such as {some([repr(n) for n in names], 3)}; "
                "take tile ids from study.labels(), or leave those rows out"
            )

    def _relation(self, handle: Handle) -> duckdb.DuckDBPyRelation:
        return handle.con.from_arrow(self.table).set_alias("chosen")

    @property
    def _match(self) -> str:
        return " AND ".join(f"labels.{name} = chosen.{name}" for name in self.table.column_names)


def chosen_tiles(where: Any) -> str | ChosenTiles | None:
    """Return a condition as it is, and a table as the tiles that it names.

    Parameters
    ----------
    where : str, DuckDBPyRelation, data frame or None
        A table has tile ids as its column ``tile_id``, or a data frame of pandas as its index; where it has a column
        ``grid`` too, a tile is meant in that grid alone. Other columns do not matter.

    Raises
    ------
    QueryError
        If it is something else, or its ids are missing or no texts.
    """
    if where is None or isinstance(where, (str, ChosenTiles)):
        return where
    table = _named(where)
    ids = table["tile_id"]
    if not (pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type)):
        raise QueryError(f"the tile ids of `where` are of type {ids.type}, and no texts; {_WAYS}")
    if missing := sum(table[name].null_count for name in table.column_names):
        raise QueryError(f"`where` lacks the tile id or the grid of {counted(missing, 'row')}; leave such rows out")
    return ChosenTiles(table.group_by(table.column_names).aggregate([]))


def chosen_notes(where: str | ChosenTiles | None, samples: int, grid: str) -> tuple[str, ...]:
    """Return what is to be known of tiles that were named, if fewer of a grid are taken: the others are not kept."""
    if not isinstance(where, ChosenTiles) or samples == where.table.num_rows:
        return ()
    left_out = counted(where.table.num_rows - samples, "is", "are")
    return (f"of the {where}, {left_out} not kept in grid {grid}",)


def _named(where: Any) -> pa.Table:
    """Return the columns of a table that name tiles, texts as strings."""
    if isinstance(where, duckdb.DuckDBPyRelation):
        names = [name for name in ("tile_id", "grid") if name in where.columns]
        _require_ids(names, where.columns)
        return _decoded(where.project(", ".join(names)).to_arrow_table())
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(where, pandas.DataFrame):
        columns = {name: where[name] for name in ("tile_id", "grid") if name in where.columns}
        # By values: an index that holds a name twice cannot be aligned with.
        columns.setdefault("tile_id", where.index.to_series())
        return _decoded(pa.table({name: pa.Array.from_pandas(columns[name]) for name in sorted(columns, reverse=True)}))
    if not hasattr(where, "__arrow_c_stream__") or not hasattr(where, "columns"):
        raise QueryError(f"`where` is of type {type(where).__name__}; {_WAYS}")
    table = pa.table(where)
    names = [name for name in ("tile_id", "grid") if name in table.column_names]
    _require_ids(names, table.column_names)
    return _decoded(table.select(names))


def _require_ids(found: Sequence[str], columns: Sequence[str]) -> None:
    if "tile_id" not in found:
        raise QueryError(f"`where` is a table of {some(columns, 8)}, without a column tile_id; {_WAYS}")


def _decoded(table: pa.Table) -> pa.Table:
    """Return a table whose columns are plain texts, if they are texts at all."""
    for i, name in enumerate(table.column_names):
        column = table[name]
        if pa.types.is_dictionary(column.type):
            column = pc.cast(column, column.type.value_type)
        if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
            column = pc.cast(column, pa.string())
        table = table.set_column(i, name, column)
    return table
