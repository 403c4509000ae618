"""A study: one DuckDB file of slides, ROIs, patients, grids, labels and predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
from duckdb import ColumnExpression, ConstantExpression

from slideduck.betons.export import ExportReport, export
from slideduck.catalog import grids as grid_table
from slideduck.catalog import slides as ingest
from slideduck.catalog.evaluations import EvaluationAdded, add_predictions
from slideduck.catalog.native import NativeGrid, find_native_grid
from slideduck.draw.picture import plot_labels
from slideduck.draw.stain import plot_stain
from slideduck.errors import QueryError, SplitError, StudyError
from slideduck.interop.rois import RoiExportReport, export_rois
from slideduck.interop.tiles import TileExportReport, export_tiles
from slideduck.labels import label as labels
from slideduck.labels import query
from slideduck.labels.filters import qc_overlay, qc_report, refuse_unmeasured
from slideduck.labels.split import assign_sides, merge_by_site
from slideduck.labels.verify import VerifyReport, verify
from slideduck.measure.qc import QcReport, qc
from slideduck.measure.stain_fit import StainReport, fit_stain
from slideduck.rois import table as roi_table
from slideduck.slides.grid import GridSpec, parse_tile_um
from slideduck.store import schema
from slideduck.store.db import atomic, connect, identifier, registered, translated
from slideduck.store.sqlfiles import read_query
from slideduck.words import some

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Study", "open_study"]

#: The columns of Slideflow's ``get_tile_dataframe``, in its order.
_SLIDEFLOW_COLUMNS = ("loc_x", "loc_y", "grid_x", "grid_y", "roi_name", "roi_desc", "label", "slide")


def open_study(
    path: str | Path, *, read_only: bool = False, progress: bool = False, threads: int | None = None
) -> Study:
    """Open a study, or make one where there is none.

    Parameters
    ----------
    path : path
        The DuckDB file.
    read_only : bool, default False
        Write nothing; several processes may read at once.
    progress : bool, default False
        Show progress of long work on standard error.
    threads : int, optional
        Threads of DuckDB; default one a core. Results do not depend on it.

    Returns
    -------
    Study
        Also a context manager, which closes it.

    Raises
    ------
    StudyError
        If the file is missing (read-only), in use, another program's, or of a newer version.

    Examples
    --------
    >>> import slideduck as sd
    >>> with sd.open("study.duckdb") as study:  # doctest: +SKIP
    ...     study.add_slides(["slides/"])
    """
    file = Path(path).expanduser().absolute()
    con = connect(file, read_only=read_only, threads=threads)
    try:
        if read_only and schema.is_outdated(con):
            # The views of an older release are brought up to date before the study is read through them.
            con.close()
            open_study(file).close()
            con = connect(file, read_only=True, threads=threads)
        schema.prepare(con, file, read_only=read_only)
    except BaseException:
        con.close()
        raise
    return Study(con, file, progress=progress)


class Study:
    """A study that is open; made by `slideduck.open`.

    Attributes
    ----------
    con : duckdb.DuckDBPyConnection
        The connection, with the spatial extension loaded, for whatever the methods do not offer.
    path : Path
        The DuckDB file.
    progress : bool
        Whether long work shows progress.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, path: Path, *, progress: bool = False) -> None:
        self.con = con
        self.path = path
        self.progress = progress

    def __enter__(self) -> Study:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Study {str(self.path)!r}>"

    def close(self) -> None:
        """Close the file, so that another process may write it."""
        self.con.close()

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """Run a block as one transaction: all of it is kept, or on any exception none."""
        with atomic(self.con):
            yield

    # ------------------------------------------------------------------------------------ loading

    def add_slides(
        self, paths: str | Path | Sequence[str | Path], *, mpp: float | Mapping[str, float] | None = None
    ) -> ingest.SlidesReport:
        """Read the headers of slides; see `slideduck.catalog.slides.add_slides`."""
        return ingest.add_slides(self.con, _listed(paths), mpp=mpp, show=self.progress)

    def add_rois(
        self, paths: str | Path | Sequence[str | Path], *, holes: str = "auto", roi_set: str = "default"
    ) -> roi_table.RoisReport:
        """Read ROI files; see `slideduck.rois.table.add_rois`."""
        return roi_table.add_rois(self.con, _listed(paths), holes=holes, roi_set=roi_set, show=self.progress)

    def remove_slides(self, slides: str | Sequence[str], *, dry_run: bool = False) -> ingest.SlidesRemoved:
        """Remove slides with all that the study knows of them; see `slideduck.catalog.slides.remove_slides`."""
        names = [slides] if isinstance(slides, str) else list(slides)
        return ingest.remove_slides(self.con, names, dry_run=dry_run)

    def remove_rois(
        self, paths: str | Path | Sequence[str | Path], *, roi_set: str = "default", dry_run: bool = False
    ) -> roi_table.RoisRemoved:
        """Take ROI files out of the study; see `slideduck.rois.table.remove_rois`."""
        return roi_table.remove_rois(self.con, _listed(paths), roi_set=roi_set, dry_run=dry_run)

    def add_patients(self, path: str | Path) -> ingest.PatientsReport:
        """Read a table of patients; see `slideduck.catalog.slides.add_patients`."""
        return ingest.add_patients(self.con, path)

    def tile(
        self,
        tile_px: int,
        *,
        tile_um: float | str | None = None,
        magnification: float | None = None,
        stride_div: float = 1,
        origin: tuple[int, int] = (0, 0),
    ) -> grid_table.GridReport:
        """Lay a grid of tiles on every slide.

        Parameters
        ----------
        tile_px : int
            Side of a tile as the model sees it, pixels.
        tile_um : float or str
            Side of a tile in microns, or a magnification such as ``"20x"``.
        magnification : float, optional
            The same as a number; either this or ``tile_um``.
        stride_div : float, default 1
            Steps per tile side: 1 without overlap.
        origin : tuple of int, default (0, 0)
            Top left corner of tile (0, 0), base pixels, x before y.

        Returns
        -------
        GridReport

        Raises
        ------
        ResolutionError, StudyError
            See `slideduck.catalog.grids.add_grid`.
        """
        if tile_um is not None and magnification is None:
            tile_um, magnification = parse_tile_um(tile_um)
        spec = GridSpec(tile_px, tile_um, magnification, float(stride_div), *origin)  # type: ignore[arg-type]
        return grid_table.add_grid(self.con, spec, show=self.progress)

    def native_grid(self, slide: str | None = None, *, level: int = 0) -> NativeGrid:
        """Find the grid that matches stored JPEG tiles; see `slideduck.catalog.native.find_native_grid`.

        It is not laid: ``study.tile(found.spec.tile_px, tile_um=found.spec.tile_um)`` does so.
        """
        return find_native_grid(self.con, slide, level=level)

    def qc(
        self,
        measures: Sequence[str] | None = None,
        *,
        grid: str | None = None,
        slides: Sequence[str] | None = None,
        level: str | None = None,
        threads: int | None = None,
    ) -> QcReport:
        """Measure tiles, so that conditions can filter them; see `slideduck.measure.qc.qc`."""
        return qc(self, measures, grid=grid, slides=slides, level=level, threads=threads)

    def qc_report(
        self, filters: Sequence[str] | None = None, *, grid: str | None = None, slides: Sequence[str] | None = None
    ) -> pa.Table:
        """Count the tiles that filters drop, one after the other; see `slideduck.labels.filters.qc_report`."""
        return qc_report(self, filters, grid=grid, slides=slides)

    def qc_overlay(
        self, slide: str, out: str | Path, filters: Sequence[str] | None = None, *, grid: str | None = None
    ) -> Path:
        """Draw a slide with the tiles that filters drop; see `slideduck.labels.filters.qc_overlay`."""
        return qc_overlay(self, slide, out, filters, grid=grid)

    def fit_stain(
        self,
        method: str = "macenko",
        *,
        slides: Sequence[str] | None = None,
        anew: bool = False,
        threads: int | None = None,
    ) -> StainReport:
        """Find the stains of slides, so that tiles can be normalised; see `slideduck.measure.stain_fit.fit_stain`."""
        return fit_stain(self, method, slides=slides, anew=anew, threads=threads)

    # ----------------------------------------------------------------------------------- labelling

    def label(
        self,
        *,
        rule: str = "centre",
        threshold: float = 0.5,
        overlap: str = "smallest",
        priority: Sequence[str] = (),
        method: str = "auto",
        artifact_labels: Sequence[str] = (),
        roi_sets: Sequence[str] = ("default",),
        memory: str | int | None = None,
        anew: bool = False,
    ) -> labels.LabelReport:
        """Bring the view ``labels`` up to date, under a rule.

        The parameters are those of `slideduck.labels.label.LabelRule`; what is done, ``memory``, ``anew`` and the
        errors are those of `slideduck.labels.label.label`.
        """
        chosen = labels.LabelRule(
            rule, threshold, overlap, tuple(priority), method, tuple(artifact_labels), tuple(roi_sets)
        )
        return labels.label(self.con, chosen, memory=memory, anew=anew, show=self.progress)

    def verify(self, tiles: int | None = 10_000, *, seed: int = 0) -> VerifyReport:
        """Compare labels with a plain spatial join; see `slideduck.labels.verify.verify`.

        Raises
        ------
        StudyError
            If labels are missing or out of date.
        """
        self._require_labels()
        return verify(self.con, tiles, seed=seed, show=self.progress)

    def split(
        self,
        *,
        val_fraction: float = 0.3,
        seed: int = 0,
        folds: int | None = None,
        val_fold: int = 0,
        preserve_site: bool = False,
        column: str | None = None,
    ) -> pa.Table:
        """Split the patients into sides, in place of the split of before.

        Parameters
        ----------
        val_fraction : float, default 0.3
            Part of the labelled tiles, and of the patients, that validates.
        seed : int, default 0
            Another seed gives another split.
        folds : int, optional
            Number of folds, in place of a fraction.
        val_fold : int, default 0
            The fold that is split ``val``; the others are ``train``.
        preserve_site : bool, default False
            Keep each site within one fold.
        column : str, optional
            Column of the patients' table to take the split from, as it stands there.

        Returns
        -------
        pyarrow.Table
            Tiles, slides and patients by grid, split, fold and label, as ``sql/queries/count_split.sql`` has it.

        Raises
        ------
        SplitError
            If there are too few patients, or a patient, a site or a slide file would be on two sides;
            the split of before stays then.
        """
        _check_split(val_fraction, folds, val_fold, preserve_site, column)
        self._require_labels()
        if column is not None:
            kind, sides = "column", self._sides_from_column(column)
        elif folds is not None:
            kind = "site_folds" if preserve_site else "folds"
            fold_of = self._balanced([1.0 / folds] * folds, seed, preserve_site=preserve_site)
            sides = {p: ("val" if fold == val_fold else "train", fold) for p, fold in fold_of.items()}
        else:
            kind = "fraction"
            side_of = self._balanced([1.0 - val_fraction, val_fraction], seed, preserve_site=False)
            sides = {p: (("train", "val")[side], None) for p, side in side_of.items()}
        table = pa.table(
            {
                "patient": pa.array(list(sides), pa.string()),
                "split": pa.array([split for split, _ in sides.values()], pa.string()),
                "fold": pa.array([fold for _, fold in sides.values()], pa.int32()),
            }
        )
        with self.atomic(), registered(self.con, "incoming_split", table):
            self.con.execute("DELETE FROM splits")
            self.con.execute("DELETE FROM split_rule")
            self.con.execute("INSERT INTO splits SELECT * FROM incoming_split ORDER BY patient")
            self.con.execute(
                "INSERT INTO split_rule VALUES ($1, $2, $3, $4, $5, $6)",
                [kind, seed, val_fraction if kind == "fraction" else None, folds, val_fold if folds else None, column],
            )
            leaks = self.con.execute(read_query("find_leaks")).fetchall()
            if leaks:
                raise SplitError("\n".join(_leak(*row) for row in leaks))
        return self.con.execute(read_query("count_split")).to_arrow_table()

    def _balanced(self, fractions: Sequence[float], seed: int, *, preserve_site: bool) -> dict[str, int]:
        """Return the side of each patient, balanced over labels."""
        rows = self.con.execute(read_query("count_patient_labels")).fetchall()
        patients = list(dict.fromkeys(row[0] for row in rows))
        names = sorted({row[2] for row in rows if row[2] is not None})
        tiles = np.zeros((len(patients), len(names)), dtype=np.int64)
        place = {patient: i for i, patient in enumerate(patients)}
        for patient, _, name, count in rows:
            if name is not None:
                tiles[place[patient], names.index(name)] += count
        if not preserve_site:
            return dict(zip(patients, assign_sides(patients, tiles, fractions, seed).tolist(), strict=True))
        sites: dict[str, list[str]] = {patient: [] for patient in patients}
        for patient, site, _, _ in rows:
            if site is not None and site not in sites[patient]:
                sites[patient].append(site)
        homeless = [patient for patient in patients if not sites[patient]]
        if homeless:
            raise SplitError(
                f"{len(homeless)} of {len(patients)} patients have no site ({some(homeless)}); "
                "add a table with a column site by add-patients, or split without preserving sites"
            )
        group_of = merge_by_site(patients, [sites[patient] for patient in patients])
        n_groups = max(group_of) + 1
        if n_groups < len(fractions):
            raise SplitError(f"{n_groups} sites cannot fill {len(fractions)} folds; ask for fewer folds")
        group_tiles = np.zeros((n_groups, len(names)), dtype=np.int64)
        np.add.at(group_tiles, group_of, tiles)
        members = [
            ", ".join(sorted({s for p, g in zip(patients, group_of, strict=True) if g == group for s in sites[p]}))
            for group in range(n_groups)
        ]
        side = assign_sides(members, group_tiles, fractions, seed)
        return {patient: int(side[group]) for patient, group in zip(patients, group_of, strict=True)}

    def _sides_from_column(self, column: str) -> dict[str, tuple[str, int | None]]:
        """Return the side of each patient from a column of the patients' table."""
        columns = [name for (name,) in self.con.execute("SELECT column_name FROM (DESCRIBE patients)").fetchall()]
        if column not in columns:
            raise SplitError(f"the patients' table has no column {column!r}; it has {', '.join(columns)}")
        rows = self.con.execute(
            f"SELECT patient, {identifier(column)}::VARCHAR AS side, string_agg(slide, ', ' ORDER BY slide) "
            "FROM patients SEMI JOIN slides USING (slide) GROUP BY ALL ORDER BY patient, side"
        ).fetchall()
        sides: dict[str, tuple[str, int | None]] = {}
        problems: list[str] = []
        for patient, side, slides in rows:
            if side is None or not side.strip():
                problems.append(f"patient {patient!r} (slides {slides}) has no {column}; fill the column in")
            elif patient in sides:
                problems.append(
                    f"patient {patient!r} is on the sides {sides[patient][0]!r} and {side!r} of column {column!r}; "
                    "give all slides of a patient one side"
                )
            else:
                sides[patient] = (side.strip(), None)
        if problems:
            raise SplitError("\n".join(problems))
        return sides

    # ------------------------------------------------------------------------------------ querying

    def sql(self, query: str, params: Mapping[str, Any] | Sequence[Any] | None = None) -> duckdb.DuckDBPyRelation:
        """Return the result of one SQL statement as a relation.

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
            If it does not parse, bind or run.
        """
        try:
            with translated():
                relation = self.con.sql(query, params=params)
                return self.con.sql("SELECT NULL WHERE false") if relation is None else relation
        except duckdb.Error as error:
            raise QueryError(f"{error}\nin the query: {query}") from error

    def labels(self, where: str | None = None, *, grid: str | None = None) -> duckdb.DuckDBPyRelation:
        """Return the label of each tile, in the order of slide, grid_y, grid_x.

        Parameters
        ----------
        where : str, optional
            An SQL condition on the columns of the view ``labels``.
        grid : str, optional
            Only the tiles of this grid.

        Returns
        -------
        duckdb.DuckDBPyRelation
            The view ``labels``; rows are fetched by ``.df()``, ``.arrow()``, ``.pl()`` or ``.fetchall()``.

        Raises
        ------
        StudyError
            If labels are missing or out of date, there is no such grid, or the condition needs what is not
            measured (see `qc`).
        QueryError
            If the condition does not parse or bind.
        """
        self._require_labels()
        relation = self.con.sql("SELECT * FROM labels")
        if grid is not None:
            self._require_grid(grid)
            # A relation with parameters would be computed whole before anything more is asked of it.
            relation = relation.filter(ColumnExpression("grid") == ConstantExpression(grid))
        if where is not None:
            try:
                chosen = relation.filter(where)
                refuse_unmeasured(self, relation, where)
            except duckdb.Error as error:
                raise QueryError(f"{error}\nin the condition: {where}") from error
            relation = chosen
        return relation.order("grid, slide, grid_y, grid_x")

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
        rows = self.labels("kept", grid=self.only_grid(grid))
        frame = rows.project(", ".join(("tile_id", *_SLIDEFLOW_COLUMNS))).df().set_index("tile_id")
        frame.index.name = None
        # Slideflow has None where there is no ROI; DuckDB's NULLs arrive as NaN or None by version.
        for name in ("roi_name", "roi_desc", "label"):
            frame[name] = frame[name].astype(object).where(frame[name].notna(), None)
        return frame

    def only_grid(self, grid: str | None = None) -> str:
        """Return the grid that is meant: the one named, or the only one there is.

        Raises
        ------
        StudyError
            If there is none, several and none named, or none of that name.
        """
        if grid is not None:
            self._require_grid(grid)
            return grid
        names = self._grids()
        if len(names) == 1:
            return names[0]
        if not names:
            raise StudyError(f"{self.path.name} has no grid; make one with: slideduck tile {self.path.name} ...")
        raise StudyError(f"{self.path.name} has {len(names)} grids ({', '.join(names)}); name one with --grid")

    def info(self) -> pa.Table:
        """Return what the study holds: ``what``, ``count`` and ``detail``, a row for each kind of thing."""
        return self.con.execute(read_query("describe_study")).to_arrow_table()

    def counts(self, by: Sequence[str] = ("label",), *, grid: str | None = None, where: str | None = None) -> pa.Table:
        """Count tiles, and add up their area, by columns; see `slideduck.labels.query.counts`."""
        return query.counts(self, by, grid=grid, where=where)

    def conflicts(
        self, *, grid: str | None = None, slide: str | None = None, differing: bool = True
    ) -> duckdb.DuckDBPyRelation:
        """Return the tiles that lie in several ROIs; see `slideduck.labels.query.conflicts`."""
        return query.conflicts(self, grid=grid, slide=slide, differing=differing)

    def rois(self, *, grid: str | None = None, slide: str | None = None, empty: bool = False) -> pa.Table:
        """Return the ROIs with the tiles that each holds and wins; see `slideduck.labels.query.rois`."""
        return query.rois(self, grid=grid, slide=slide, empty=empty)

    def coverage_histogram(self, bins: int = 10, *, grid: str | None = None) -> pa.Table:
        """Count tiles by label and coverage; see `slideduck.labels.query.coverage_histogram`."""
        return query.coverage_histogram(self, bins, grid=grid)

    def neighbours(self, tile_id: str, distance: int = 1, *, grid: str | None = None) -> pa.Table:
        """Return the tiles around a tile; see `slideduck.labels.query.neighbours`."""
        return query.neighbours(self, tile_id, distance, grid=grid)

    def at(self, slide: str, x: float, y: float, *, um: bool = False) -> pa.Table:
        """Return the ROIs that a point lies in, and which gives its label; see `slideduck.labels.query.at`."""
        return query.at(self, slide, x, y, um=um)

    def area(self, by: Sequence[str] = ()) -> pa.Table:
        """Return the area of each label, from the outlines themselves; see `slideduck.labels.query.area`."""
        return query.area(self, by)

    def agreement(self, set_a: str, set_b: str, *, grid: str | None = None, by_slide: bool = False) -> pa.Table:
        """Return how far two sets of ROIs agree on tiles; see `slideduck.labels.query.agreement`."""
        return query.agreement(self, set_a, set_b, grid=grid, by_slide=by_slide)

    def disagreements(
        self, set_a: str, set_b: str, *, grid: str | None = None, slide: str | None = None
    ) -> duckdb.DuckDBPyRelation:
        """Return the tiles that two sets of ROIs label differently; see `slideduck.labels.query.disagreements`."""
        return query.disagreements(self, set_a, set_b, grid=grid, slide=slide)

    def export(
        self,
        out: str | Path,
        *,
        grid: str | None = None,
        where: str | None = "label IS NOT NULL",
        classes: Sequence[str] | None = None,
        quality: int = 90,
        raw: bool = False,
        jpeg: str = "auto",
        reader: str = "auto",
        threads: int | None = None,
        overwrite: bool = True,
        shards: int | None = None,
        shard: int | None = None,
        skip_errors: bool = False,
        stain: str | None = None,
        stain_to: str | None = None,
    ) -> ExportReport:
        """Write tiles into a beton and its side-car, or into shards; see `slideduck.betons.export.export`."""
        return export(
            self,
            out,
            grid=grid,
            where=where,
            classes=classes,
            quality=quality,
            raw=raw,
            jpeg=jpeg,
            reader=reader,
            threads=threads,
            overwrite=overwrite,
            shards=shards,
            shard=shard,
            skip_errors=skip_errors,
            stain=stain,
            stain_to=stain_to,
        )

    def export_rois(
        self,
        folder: str | Path,
        *,
        format: str,
        roi_set: str = "default",
        slides: Sequence[str] | None = None,
        overwrite: bool = False,
    ) -> RoiExportReport:
        """Write ROIs as files of other programs; see `slideduck.interop.rois.export_rois`."""
        return export_rois(self, folder, format=format, roi_set=roi_set, slides=slides, overwrite=overwrite)

    def export_tiles(
        self,
        folder: str | Path,
        *,
        grid: str | None = None,
        slides: Sequence[str] | None = None,
        run: str | None = None,
        where: str | None = None,
        merge: bool = False,
        overwrite: bool = False,
    ) -> TileExportReport:
        """Write tiles as objects of QuPath; see `slideduck.interop.tiles.export_tiles`."""
        return export_tiles(
            self, folder, grid=grid, slides=slides, run=run, where=where, merge=merge, overwrite=overwrite
        )

    def add_predictions(self, run: str | Path, *, overwrite: bool = False) -> tuple[EvaluationAdded, ...]:
        """Load what a run predicted of labelled tiles; see `slideduck.catalog.evaluations.add_predictions`."""
        return add_predictions(self, run, overwrite=overwrite)

    def plot_labels(
        self,
        slide: str,
        out: str | Path,
        *,
        grid: str | None = None,
        html: bool = False,
        max_px: int | None = None,
        dpi: int | None = None,
        tiles: bool = True,
        rois: bool = True,
    ) -> Path:
        """Draw a slide with its ROIs and tiles as a picture or a page; see `slideduck.draw.picture.plot_labels`."""
        return plot_labels(self, slide, out, grid=grid, html=html, max_px=max_px, dpi=dpi, tiles=tiles, rois=rois)

    def plot_stain(
        self,
        slides: str | Sequence[str],
        out: str | Path,
        *,
        method: str = "macenko",
        stain_to: str | None = None,
        dpi: int | None = None,
    ) -> Path:
        """Draw slides before and after normalisation of their stains; see `slideduck.draw.stain.plot_stain`."""
        names = [slides] if isinstance(slides, str) else list(slides)
        return plot_stain(self, names, out, method=method, stain_to=stain_to, dpi=dpi)

    def _grids(self) -> list[str]:
        return [name for (name,) in self.con.execute("SELECT grid FROM grids ORDER BY grid").fetchall()]

    def _require_grid(self, grid: str) -> None:
        names = self._grids()
        if grid not in names:
            raise StudyError(f"{self.path.name} has no grid {grid!r}; it has {', '.join(names) or 'none'}")

    def _require_labels(self) -> None:
        """Refuse to answer from labels that are missing or out of date."""
        if self.con.execute("SELECT count(*) FROM label_rule").fetchone() == (0,):
            raise StudyError(f"{self.path.name} has no labels yet; make them with: slideduck label {self.path.name}")
        stale = labels.stale_slides(self.con)
        if stale:
            raise StudyError(
                f"the labels of {len(stale)} slide{'s are' if len(stale) > 1 else ' is'} out of date "
                f"({some(stale)}); bring them up to date with: slideduck label {self.path.name}"
            )


def _listed(paths: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [paths] if isinstance(paths, (str, Path)) else list(paths)


def _check_split(
    val_fraction: float, folds: int | None, val_fold: int, preserve_site: bool, column: str | None
) -> None:
    """Refuse settings of a split that are impossible or contradict each other."""
    if not 0 < val_fraction < 1:
        raise SplitError(f"val_fraction is {val_fraction:g}; give a part above 0 and below 1, such as 0.3")
    if folds is not None and folds < 2:
        raise SplitError(f"folds is {folds}; give 2 or more")
    if folds is not None and not 0 <= val_fold < folds:
        raise SplitError(f"val_fold is {val_fold}; give a fold from 0 to {folds - 1}")
    if preserve_site and folds is None:
        raise SplitError("preserve_site is given without folds; say how many, such as folds=3")
    if column is not None and folds is not None:
        raise SplitError("both column and folds are given; give one of them")


def _leak(kind: str, name: str, sides: str, slides: str) -> str:
    """Say what is on two sides of a split."""
    if kind == "slide file":
        return (
            f"slides {slides} are the same file under two names, and would be on the sides {sides}; "
            "give them one patient, or remove one"
        )
    return f"{kind} {name!r} would be on the sides {sides} (slides {slides})"
