"""Writes ROIs as GeoParquet 1.1, in base pixels, for GeoPandas and other programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from slideduck.interop.layout import StudyRoi
from slideduck.roifiles.wkb import polygons_from_wkb

__all__ = ["geoparquet_table"]

_VERSION = "1.1.0"


def geoparquet_table(rois: Sequence[StudyRoi], roi_set: str) -> pa.Table:
    """Return ROIs as a table with the metadata of GeoParquet.

    Parameters
    ----------
    rois : sequence of StudyRoi
        In the order of the rows.
    roi_set : str
        The set that they belong to.

    Returns
    -------
    pyarrow.Table
        A row for each ROI, holes included, with the columns ``slide``, ``roi_set``, ``roi_name``, ``label``,
        ``parent`` (for a hole the ROI that it is a hole of, else null), ``roi_desc``, ``area_um2`` (of geometry,
        square microns), ``geometry`` (what labels tiles: holes are taken out; for a hole its own area) and
        ``outline`` (what was drawn, where holes are taken out of it, else null).
    """
    outlines = [None if roi.drawn_wkb == roi.labelled_wkb else roi.drawn_wkb for roi in rois]
    columns = {
        "slide": pa.array([roi.slide for roi in rois], pa.string()),
        "roi_set": pa.array([roi_set] * len(rois), pa.string()),
        "roi_name": pa.array([roi.roi_name for roi in rois], pa.string()),
        "label": pa.array([roi.label for roi in rois], pa.string()),
        "parent": pa.array([roi.parent for roi in rois], pa.string()),
        "roi_desc": pa.array([roi.roi_desc for roi in rois], pa.string()),
        "area_um2": pa.array([roi.area_um2 for roi in rois], pa.float64()),
        "geometry": pa.array([roi.labelled_wkb for roi in rois], pa.binary()),
        "outline": pa.array(outlines, pa.binary()),
    }
    described = {
        "geometry": _described([roi.labelled_wkb for roi in rois]),
        "outline": _described([wkb for wkb in outlines if wkb is not None]),
    }
    geo = {"version": _VERSION, "primary_column": "geometry", "columns": described}
    return pa.table(columns).replace_schema_metadata({"geo": json.dumps(geo)})


def _described(geometries: Sequence[bytes]) -> dict[str, Any]:
    """Return GeoParquet's metadata of a column of geometries."""
    read = [polygons_from_wkb(wkb) for wkb in geometries]
    # No coordinate reference system: without the key they would be degrees.
    column: dict[str, Any] = {"encoding": "WKB", "geometry_types": sorted({kind for kind, _ in read}), "crs": None}
    outer = [polygon[0] for _, polygons in read for polygon in polygons]
    if outer:
        points = np.concatenate(outer)
        column["bbox"] = [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]
    return column
