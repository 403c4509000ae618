"""What a study is asked: SQL, its tiles with their labels, and the questions that have a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from slideduck.catalog.chosen import chosen_tiles
from slideduck.catalog.grids import only_grid
from slideduck.errors import QueryError
from slideduck.labels import query
from slideduck.labels.filters import qc_report
from slideduck.labels.view import labels, tile_dataframe
from slideduck.store.db import translated
from slideduck.store.sealed import answer, check_statement, refused_query
from slideduck.store.sqlfiles import read_query
from slideduck.study.base import OpenStudy

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Asking"]


class Asking(OpenStudy):
    """The methods that answer, and change nothing."""

    def sql(self, query: str, params: Mapping[str, Any] | Sequence[Any] | None = None) -> duckdb.DuckDBPyRelation:
        """Return the result of one SQL statement as a relation.

        The statement is your own: it may change the study, unless that is read only, and read and write other files.
        Of a study that is opened ``sealed`` it may not; see `slideduck.store.sealed.check_statement`.

        Parameters
        ----------
        query : str
            One statement. The view ``labels`` and the tables ``slides``, ``rois``, ``patients``, ``grids``,
            ``predictions`` and so on are there; `slideduck sql STUDY "SHOW TABLES"` lists them.
        params : mapping or sequence, optional
            Values of ``$name`` or ``?`` in the query.

        Returns
        -------
        duckdb.DuckDBPyRelation
            Rows are fetched by ``.df()``, ``.arrow()``, ``.pl()``, ``.fetchall()``; an empty relation for a
            statement that gives none.

        Raises
        ------
        QueryError
            If it does not parse, bind or run, or a sealed study does not take it.
        """
        try:
            with translated(self.path, of_users_sql=True):
                if self.seal is not None:
                    check_statement(self.con, query, self.seal, self.path, params)
                relation = self.con.sql(query, params=params)
                return self.con.sql("SELECT NULL WHERE false") if relation is None else relation
        except duckdb.Error as error:
            raise refused_query(error, query, self.seal) from error

    def answer(self, query: str, *, timeout: float | None = None) -> pa.Table:
        """Return the rows of one statement on a sealed study, within a time; see `slideduck.store.sealed.answer`."""
        if self.seal is None:
            raise QueryError("`timeout` needs a study that was opened with sealed=True; open it so, or use sql()")
        return answer(self.con, query, self.seal, self.path, timeout=timeout)

    def labels(self, where: Any = None, *, grid: str | None = None) -> duckdb.DuckDBPyRelation:
        """Return the label of each tile, in the order of slide, grid_y, grid_x; see `slideduck.labels.view.labels`.

        ``where`` is an SQL condition on the columns of ``labels``; or a table of tiles, a relation or a frame of
        pandas, Polars or Arrow, with tile ids as its index or its column ``tile_id``.
        """
        return labels(self.handle, chosen_tiles(where), grid=grid)

    def tile_dataframe(self, grid: str | None = None) -> pd.DataFrame:
        """Return Slideflow's data frame of tiles: those that the method keeps, with their labels.

        Parameters
        ----------
        grid : str, optional
            The grid; needed where the study has several.

        Returns
        -------
        pandas.DataFrame
            Indexed by tile id, with the columns ``loc_x``, ``loc_y``, ``grid_x``, ``grid_y``, ``roi_name``,
            ``roi_desc``, ``label``, ``slide``; in the order of slide, grid_y, grid_x. Coordinates are base
            pixels.

        Raises
        ------
        StudyError
            If labels are missing or out of date, or the grid is not told.
        """
        return tile_dataframe(self.handle, self.only_grid(grid))

    def only_grid(self, grid: str | None = None) -> str:
        """Return the grid that is meant; see `slideduck.catalog.grids.only_grid`."""
        return only_grid(self.handle, grid)

    def info(self) -> pa.Table:
        """Return what the study holds: ``what``, ``count`` and ``detail``, a row for each kind of thing."""
        return self.con.execute(read_query("describe_study")).to_arrow_table()

    def counts(self, by: Sequence[str] = ("label",), *, grid: str | None = None, where: str | None = None) -> pa.Table:
        """Count tiles, and add up their area, by columns; see `slideduck.labels.query.counts`."""
        return query.counts(self.handle, by, grid=grid, where=where)

    def conflicts(
        self, *, grid: str | None = None, slide: str | None = None, differing: bool = True
    ) -> duckdb.DuckDBPyRelation:
        """Return the tiles that lie in several ROIs; see `slideduck.labels.query.conflicts`."""
        return query.conflicts(self.handle, grid=grid, slide=slide, differing=differing)

    def rois(self, *, grid: str | None = None, slide: str | None = None, empty: bool = False) -> pa.Table:
        """Return the ROIs with the tiles that each holds and wins; see `slideduck.labels.query.rois`."""
        return query.rois(self.handle, grid=grid, slide=slide, empty=empty)

    def coverage_histogram(self, bins: int = 10, *, grid: str | None = None) -> pa.Table:
        """Count tiles by label and coverage; see `slideduck.labels.query.coverage_histogram`."""
        return query.coverage_histogram(self.handle, bins, grid=grid)

    def neighbours(self, tile_id: str, distance: int = 1, *, grid: str | None = None) -> pa.Table:
        """Return the tiles around a tile; see `slideduck.labels.query.neighbours`."""
        return query.neighbours(self.handle, tile_id, distance, grid=grid)

    def at(self, slide: str, x: float, y: float, *, um: bool = False) -> pa.Table:
        """Return the ROIs that a point lies in, and which gives its label; see `slideduck.labels.query.at`."""
        return query.at(self.handle, slide, x, y, um=um)

    def area(self, by: Sequence[str] = ()) -> pa.Table:
        """Return the area of each label, from the outlines themselves; see `slideduck.labels.query.area`."""
        return query.area(self.handle, by)

    def agreement(self, set_a: str, set_b: str, *, grid: str | None = None, by_slide: bool = False) -> pa.Table:
        """Return how far two sets of ROIs agree on tiles; see `slideduck.labels.query.agreement`."""
        return query.agreement(self.handle, set_a, set_b, grid=grid, by_slide=by_slide)

    def disagreements(
        self, set_a: str, set_b: str, *, grid: str | None = None, slide: str | None = None
    ) -> duckdb.DuckDBPyRelation:
        """Return the tiles that two sets of ROIs label differently; see `slideduck.labels.query.disagreements`."""
        return query.disagreements(self.handle, set_a, set_b, grid=grid, slide=slide)

    def qc_report(
        self, filters: Sequence[str] | None = None, *, grid: str | None = None, slides: Sequence[str] | None = None
    ) -> pa.Table:
        """Count the tiles that filters drop, one after the other; see `slideduck.labels.filters.qc_report`."""
        return qc_report(self.handle, filters, grid=grid, slides=slides)
