"""What a study gives away: betons, files of other programs, and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slideduck.betons.export import ExportReport, export
from slideduck.betons.settings import ExportSettings
from slideduck.catalog.chosen import chosen_tiles
from slideduck.draw.filters import qc_overlay
from slideduck.draw.picture import plot_labels
from slideduck.draw.stain import plot_stain
from slideduck.interop.rois import RoiExportReport, export_rois
from slideduck.interop.slideflow_export import SlideflowExport, export_slideflow
from slideduck.interop.tiles import TileExportReport, export_tiles
from slideduck.show import Picture
from slideduck.study.base import OpenStudy

__all__ = ["Writing"]


class Writing(OpenStudy):
    """The methods that write files."""

    def export(self, out: str | Path, **settings: Any) -> ExportReport:
        """Write tiles into a beton and its side-car, or into shards.

        The settings are those of `slideduck.betons.settings.ExportSettings`: ``grid``, ``where``, ``classes``,
        ``quality``, ``raw``, ``jpeg``, ``reader``, ``threads``, ``overwrite``, ``shards``, ``shard``,
        ``skip_errors``, ``stain`` and ``stain_to``; see `slideduck.betons.export.export` for what is done. ``where``
        may also be a table of tiles: a relation or a frame of pandas, Polars or Arrow, with tile ids as its index or
        its column ``tile_id``.
        """
        if "where" in settings:
            settings["where"] = chosen_tiles(settings["where"])
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

    def export_slideflow(
        self, folder: str | Path, *, grid: str | None = None, overwrite: bool = False
    ) -> SlideflowExport:
        """Write a project that Slideflow opens; see `slideduck.interop.slideflow_export.export_slideflow`."""
        return export_slideflow(self.handle, folder, grid=grid, overwrite=overwrite)

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
        drawn = plot_labels(
            self.handle, slide, out, grid=grid, html=html, max_px=max_px, dpi=dpi, tiles=tiles, rois=rois
        )
        return Picture(drawn)

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
        return Picture(plot_stain(self.handle, names, out, method=method, stain_to=stain_to, dpi=dpi))

    def qc_overlay(
        self, slide: str, out: str | Path, filters: Sequence[str] | None = None, *, grid: str | None = None
    ) -> Path:
        """Draw a slide with the tiles that filters drop; see `slideduck.draw.filters.qc_overlay`."""
        return Picture(qc_overlay(self.handle, slide, out, filters, grid=grid))
