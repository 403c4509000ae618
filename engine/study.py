"""A study: one DuckDB file of slides, ROIs, patients, grids, labels and predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from slideduck.betons.export import ExportReport, export
from slideduck.betons.settings import ExportSettings
from slideduck.catalog.evaluations import EvaluationAdded, add_predictions
from slideduck.catalog.grids import GridReport, add_grid, only_grid
from slideduck.catalog.moves import FilesMoved, relocate
from slideduck.catalog.native import NativeGrid, find_native_grid
from slideduck.catalog.patients_table import PatientsReport, add_patients
from slideduck.catalog.slidefiles import SlidesReport, add_slides
from slideduck.catalog.slides import SlidesRemoved, remove_slides
from slideduck.draw.filters import qc_overlay
from slideduck.draw.picture import plot_labels
from slideduck.draw.stain import plot_stain
from slideduck.errors import QueryError
from slideduck.interop.rois import RoiExportReport, export_rois
from slideduck.interop.tiles import TileExportReport, export_tiles
from slideduck.labels import query
from slideduck.labels.filters import qc_report
from slideduck.labels.label import LabelReport, label
from slideduck.labels.rename import LabelRenamed, rename_label
from slideduck.labels.rule import next_rule
from slideduck.labels.split import split
from slideduck.labels.split_report import SplitReport
from slideduck.labels.verify import VerifyReport, verify
from slideduck.labels.view import labels, require_labels
from slideduck.measure.qc import QcReport, qc
from slideduck.measure.stain_fit import StainReport, fit_stain
from slideduck.roifiles.options import RoiOptions
from slideduck.rois.mask_options import MaskLabels, MaskOptions
from slideduck.rois.masks import MasksReport, add_masks
from slideduck.rois.table import RoisRemoved, RoisReport, add_rois, remove_rois
from slideduck.slides.grid import GridSpec, parse_tile_um
from slideduck.store import schema
from slideduck.store.causes import translation
from slideduck.store.db import close, connect, parse_bytes, stop, translated
from slideduck.store.fresh import begin
from slideduck.store.handle import Handle
from slideduck.store.sealed import Seal, answer, check_statement, connect_sealed, refused_query
from slideduck.store.sqlfiles import read_query

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Study", "open_study"]

#: The columns of Slideflow's ``get_tile_dataframe``, in its order.
_SLIDEFLOW_COLUMNS = ("loc_x", "loc_y", "grid_x", "grid_y", "roi_name", "roi_desc", "label", "slide")


def open_study(
    path: str | Path,
    *,
    read_only: bool = False,
    progress: bool = False,
    threads: int | None = None,
    sealed: bool = False,
    allow_files: bool = False,
    memory: str | int | None = None,
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
    sealed : bool, default False
        Keep SQL from leaving the study: it reads no other file, and `Study.sql` takes one statement, which reads, or
        changes the study unless that is ``read_only``. Without it the connection is yours, and does what you ask.
    allow_files : bool, default False
        With ``sealed``: let SQL read other files, and write them unless the study is ``read_only``.
    memory : str or int, optional
        With ``sealed``: what DuckDB may use, such as ``"4GB"``; default half of the machine's.

    Returns
    -------
    Study
        Also a context manager, which closes it.

    Raises
    ------
    StudyError
        If the file is missing (read-only), in use, damaged, another program's, or of a newer version.
    DiskFullError
        If there is no room for a new one; nothing is left of it then.

    Examples
    --------
    >>> import slideduck as sd
    >>> with sd.open("study.duckdb") as study:  # doctest: +SKIP
    ...     study.add_slides(["slides/"])
    """
    file = Path(path).expanduser().absolute()
    if not read_only and not file.exists():
        begin(file)
    limit = {} if memory is None else {"memory": parse_bytes(memory)}
    seal = Seal(read_only, allow_files, **limit) if sealed else None

    def connected() -> duckdb.DuckDBPyConnection:
        if seal is not None:
            return connect_sealed(file, seal, threads=threads)
        return connect(file, read_only=read_only, threads=threads)

    con = connected()
    try:
        with translated(file):
            if read_only and schema.is_outdated(con):
                # The views of an older release are brought up to date before the study is read through them.
                con.close()
                open_study(file, sealed=sealed).close()
                con = connected()
            schema.prepare(con, file, read_only=read_only)
    except BaseException:
        con.close()
        raise
    return Study(Handle(con, file, progress), seal)


class Study:
    """A study that is open; made by `slideduck.open`.

    Attributes
    ----------
    handle : slideduck.store.handle.Handle
        What the functions behind the methods take.
    seal : slideduck.store.sealed.Seal, optional
        What SQL may do where the study is opened ``sealed``.
    """

    def __init__(self, handle: Handle, seal: Seal | None = None) -> None:
        self.handle = handle
        self.seal = seal

    @property
    def con(self) -> duckdb.DuckDBPyConnection:
        """The connection, with the spatial extension loaded, for all that no method does.

        It is your own: whatever you run on it is run, also what reads or writes other files and what ends the study.
        Of a study that is opened ``sealed``, its settings keep SQL from other files, but no statement is looked at.
        """
        return self.handle.con

    @property
    def path(self) -> Path:
        """The DuckDB file."""
        return self.handle.path

    @property
    def progress(self) -> bool:
        """Whether long work shows progress."""
        return self.handle.progress

    def __enter__(self) -> Study:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        # What went wrong is what the user needs. DuckDB checkpoints as it closes, or else keeps its log.
        stop(self.con, error)
        self.con.close()
        told = translation(error, self.path)
        if told is not None:
            raise told from error

    def __repr__(self) -> str:
        return f"<Study {str(self.path)!r}>"

    def close(self) -> None:
        """Write all that was committed into the file, and close it, so that another process may write it.

        Raises
        ------
        DiskFullError, StudyError
            If it cannot be written; the study is closed, and what was committed is kept beside it.
        """
        close(self.con, self.path)

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """Run a block as one transaction: all of it is kept, or on any exception none."""
        with self.handle.atomic():
            yield

    # ------------------------------------------------------------------------------------ loading

    def add_slides(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        mpp: float | Mapping[str, float] | None = None,
        mpp_table: str | Path | None = None,
        names: str = "stem",
    ) -> SlidesReport:
        """Read the headers of slides; see `slideduck.catalog.slidefiles.add_slides`."""
        return add_slides(self.handle, _listed(paths), mpp=mpp, mpp_table=mpp_table, names=names)

    def add_rois(
        self, paths: str | Path | Sequence[str | Path], *, roi_set: str = "default", **options: Any
    ) -> RoisReport:
        """Read ROI files; see `slideduck.rois.table.add_rois`.

        The options are those of `slideduck.roifiles.options.RoiOptions`: ``holes``, ``frame``, ``strict``, ``include``,
        ``label_from``, ``labels``, ``slide_suffix``, ``names`` and ``replace``. What is not said of a file that the
        study has stays as it was said before.
        """
        return add_rois(self.handle, _listed(paths), roi_set=roi_set, options=RoiOptions.said(**options))

    def add_masks(
        self,
        paths: str | Path | Sequence[str | Path],
        labels: MaskLabels,
        *,
        roi_set: str = "default",
        **options: Any,
    ) -> MasksReport:
        """Read label masks as ROIs; see `slideduck.rois.masks.add_masks`.

        The options are those of `slideduck.rois.mask_options.MaskOptions`: ``downsample``, ``components``,
        ``slide_suffix``, ``frame`` and ``replace``.
        """
        return add_masks(self.handle, _listed(paths), roi_set=roi_set, options=MaskOptions(labels=labels, **options))

    def remove_slides(self, slides: str | Sequence[str], *, dry_run: bool = False) -> SlidesRemoved:
        """Remove slides with all that the study knows of them; see `slideduck.catalog.slides.remove_slides`."""
        names = [slides] if isinstance(slides, str) else list(slides)
        return remove_slides(self.handle, names, dry_run=dry_run)

    def remove_rois(
        self, paths: str | Path | Sequence[str | Path], *, roi_set: str = "default", dry_run: bool = False
    ) -> RoisRemoved:
        """Take ROI files out of the study; see `slideduck.rois.table.remove_rois`."""
        return remove_rois(self.handle, _listed(paths), roi_set=roi_set, dry_run=dry_run)

    def relocate(self, old: str | Path, new: str | Path, *, dry_run: bool = False) -> FilesMoved:
        """Follow slides and ROI files that were moved to another folder; see `slideduck.catalog.moves.relocate`."""
        return relocate(self.handle, old, new, dry_run=dry_run)

    def add_patients(
        self,
        path: str | Path,
        *,
        slide_column: str | None = None,
        patient_column: str | None = None,
        site_column: str | None = None,
        slide_suffix: str = "",
    ) -> PatientsReport:
        """Read a table of patients; see `slideduck.catalog.patients_table.add_patients`."""
        return add_patients(
            self.handle,
            path,
            slide_column=slide_column,
            patient_column=patient_column,
            site_column=site_column,
            slide_suffix=slide_suffix,
        )

    def tile(
        self,
        tile_px: int,
        *,
        tile_um: float | str | None = None,
        magnification: float | None = None,
        stride_div: float = 1,
        origin: tuple[int, int] = (0, 0),
    ) -> GridReport:
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
        return add_grid(self.handle, spec)

    def native_grid(self, slide: str | None = None, *, level: int = 0) -> NativeGrid:
        """Find the grid that matches stored JPEG tiles; see `slideduck.catalog.native.find_native_grid`.

        It is not laid: ``study.tile(found.spec.tile_px, tile_um=found.spec.tile_um)`` does so.
        """
        return find_native_grid(self.handle, slide, level=level)

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
        return qc(self.handle, measures, grid=grid, slides=slides, level=level, threads=threads)

    def qc_report(
        self, filters: Sequence[str] | None = None, *, grid: str | None = None, slides: Sequence[str] | None = None
    ) -> pa.Table:
        """Count the tiles that filters drop, one after the other; see `slideduck.labels.filters.qc_report`."""
        return qc_report(self.handle, filters, grid=grid, slides=slides)

    def qc_overlay(
        self, slide: str, out: str | Path, filters: Sequence[str] | None = None, *, grid: str | None = None
    ) -> Path:
        """Draw a slide with the tiles that filters drop; see `slideduck.draw.filters.qc_overlay`."""
        return qc_overlay(self.handle, slide, out, filters, grid=grid)

    def fit_stain(
        self,
        method: str = "macenko",
        *,
        slides: Sequence[str] | None = None,
        anew: bool = False,
        threads: int | None = None,
    ) -> StainReport:
        """Find the stains of slides, so that tiles can be normalised; see `slideduck.measure.stain_fit.fit_stain`."""
        return fit_stain(self.handle, method, slides=slides, anew=anew, threads=threads)

    # ----------------------------------------------------------------------------------- labelling

    def label(
        self,
        *,
        rule: str | None = None,
        threshold: float | None = None,
        overlap: str | None = None,
        priority: str | Sequence[str] | None = None,
        method: str | None = None,
        artifact_labels: str | Sequence[str] | None = None,
        roi_sets: str | Sequence[str] | None = None,
        reset: bool = False,
        memory: str | int | None = None,
        anew: bool = False,
    ) -> LabelReport:
        """Bring the view ``labels`` up to date, under a rule that stays in force.

        The first seven are the parameters of `slideduck.labels.rule.LabelRule`: those that are left out stay as they
        are in the study, and the first labelling, or ``reset``, takes their defaults; an empty ``artifact_labels`` is
        none. See `slideduck.labels.rule.next_rule`. What is done, ``memory``, ``anew`` and the errors are those of
        `slideduck.labels.label.label`.
        """
        given = {
            "rule": rule,
            "threshold": threshold,
            "overlap": overlap,
            "priority": priority,
            "method": method,
            "artifact_labels": artifact_labels,
            "roi_sets": roi_sets,
        }
        chosen = next_rule(self.handle, given, reset=reset)
        return label(self.handle, chosen, memory=memory, anew=anew, compare=True)

    def rename_label(self, old: str, new: str | None, *, dry_run: bool = False) -> LabelRenamed:
        """Rename a label in all of the study, or merge two; see `slideduck.labels.rename.rename_label`."""
        return rename_label(self.handle, old, new, dry_run=dry_run)

    def verify(self, tiles: int | None = 10_000, *, seed: int = 0) -> VerifyReport:
        """Compare labels with a plain spatial join, as ``slideduck verify`` does; see `slideduck.labels.verify.verify`.

        Raises
        ------
        StudyError
            If labels are missing or out of date.
        """
        require_labels(self.handle)
        return verify(self.handle, tiles, seed=seed)

    def split(
        self,
        *,
        val_fraction: float | None = None,
        seed: int | None = None,
        folds: int | None = None,
        val_fold: int | None = None,
        preserve_site: bool = False,
        column: str | None = None,
    ) -> SplitReport:
        """Split the patients into sides, replacing any earlier split; see `slideduck.labels.split.split`."""
        return split(
            self.handle,
            val_fraction=val_fraction,
            seed=seed,
            folds=folds,
            val_fold=val_fold,
            preserve_site=preserve_site,
            column=column,
        )

    # ------------------------------------------------------------------------------------ querying

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

    def labels(self, where: str | None = None, *, grid: str | None = None) -> duckdb.DuckDBPyRelation:
        """Return the label of each tile, in the order of slide, grid_y, grid_x; see `slideduck.labels.view.labels`."""
        return labels(self.handle, where, grid=grid)

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

    def export(self, out: str | Path, **settings: Any) -> ExportReport:
        """Write tiles into a beton and its side-car, or into shards.

        The settings are those of `slideduck.betons.settings.ExportSettings`: ``grid``, ``where``, ``classes``,
        ``quality``, ``raw``, ``jpeg``, ``reader``, ``threads``, ``overwrite``, ``shards``, ``shard``,
        ``skip_errors``, ``stain`` and ``stain_to``; see `slideduck.betons.export.export` for what is done.
        """
        return export(self.handle, out, ExportSettings(**settings))

    def export_rois(
        self,
        folder: str | Path,
        *,
        format: str,
        roi_set: str = "default",
        slides: Sequence[str] | None = None,
        frame: str | None = None,
        overwrite: bool = False,
    ) -> RoiExportReport:
        """Write ROIs as files of other programs; see `slideduck.interop.rois.export_rois`."""
        return export_rois(
            self.handle, folder, format=format, roi_set=roi_set, slides=slides, frame=frame, overwrite=overwrite
        )

    def export_tiles(
        self,
        folder: str | Path,
        *,
        grid: str | None = None,
        slides: Sequence[str] | None = None,
        run: str | None = None,
        where: str | None = None,
        merge: bool = False,
        frame: str | None = None,
        overwrite: bool = False,
    ) -> TileExportReport:
        """Write tiles as objects of QuPath; see `slideduck.interop.tiles.export_tiles`."""
        return export_tiles(
            self.handle, folder, grid=grid, slides=slides, run=run, where=where, merge=merge, frame=frame,
            overwrite=overwrite,
        )  # fmt: skip

    def add_predictions(self, run: str | Path, *, overwrite: bool = False) -> tuple[EvaluationAdded, ...]:
        """Load what a run predicted of labelled tiles; see `slideduck.catalog.evaluations.add_predictions`."""
        return add_predictions(self.handle, run, overwrite=overwrite)

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
        return plot_labels(
            self.handle, slide, out, grid=grid, html=html, max_px=max_px, dpi=dpi, tiles=tiles, rois=rois
        )

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
        return plot_stain(self.handle, names, out, method=method, stain_to=stain_to, dpi=dpi)


def _listed(paths: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [paths] if isinstance(paths, (str, Path)) else list(paths)
