"""What fills a study: slides, ROIs, patients, grids, and the measures and stains of their tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slideduck.catalog.evaluations import EvaluationAdded, add_predictions
from slideduck.catalog.grids import GridReport, add_grid
from slideduck.catalog.moves import FilesMoved, relocate
from slideduck.catalog.native import NativeGrid, find_native_grid
from slideduck.catalog.patients_table import PatientsReport, add_patients
from slideduck.catalog.slidefiles import SlidesReport, add_slides
from slideduck.catalog.slides import SlidesRemoved, remove_slides
from slideduck.interop.slideflow import read_project
from slideduck.interop.slideflow_import import SlideflowImport, import_slideflow
from slideduck.measure.qc import QcReport, qc
from slideduck.measure.stain_fit import StainReport, fit_stain
from slideduck.roifiles.options import RoiOptions
from slideduck.rois.mask_options import MaskLabels, MaskOptions
from slideduck.rois.masks import MasksReport, add_masks
from slideduck.rois.table import RoisRemoved, RoisReport, add_rois, remove_rois
from slideduck.slides.grid import GridSpec, parse_tile_um
from slideduck.study.base import OpenStudy

__all__ = ["Loading"]


class Loading(OpenStudy):
    """The methods that fill a study."""

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

    def import_slideflow(
        self,
        project: str | Path,
        *,
        sources: str | Sequence[str] | None = None,
        root: Mapping[str, str | Path] | None = None,
        **options: Any,
    ) -> SlideflowImport:
        """Add a project of Slideflow; see `slideduck.import_slideflow`, which makes a study of one."""
        return import_slideflow(self.handle, read_project(project, sources=sources, root=root), **options)

    def add_predictions(self, run: str | Path, *, overwrite: bool = False) -> tuple[EvaluationAdded, ...]:
        """Load what a run predicted of labelled tiles; see `slideduck.catalog.evaluations.add_predictions`."""
        return add_predictions(self.handle, run, overwrite=overwrite)

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


def _listed(paths: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [paths] if isinstance(paths, (str, Path)) else list(paths)
