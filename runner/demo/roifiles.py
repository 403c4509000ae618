"""Writes outlines as ROI files in the three formats that slideduck reads, for the demo's cohort."""

from __future__ import annotations

import csv
import io
import json
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["ROI_WRITERS", "DrawnRoi", "csv_text"]


@dataclass(frozen=True)
class DrawnRoi:
    """An ROI as somebody drew it.

    Parameters
    ----------
    name : str
        Unique on its slide.
    label : str or None
        None where nobody has decided yet.
    outline, hole : numpy.ndarray
        Shape (points, 2), x and y, base pixels; the first point is not repeated. The hole is taken out.
    """

    name: str
    label: str | None
    outline: npt.NDArray[np.float64]
    hole: npt.NDArray[np.float64] | None = None


def csv_text(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as CSV, the names of the columns first."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _slideflow_csv(rois: Sequence[DrawnRoi], _mpp: float) -> str:
    """Return ROIs in Slideflow's form; a hole is an ROI of the same label that lies within."""
    rows = [("roi_name", "x_base", "y_base", "label")]
    for roi in rois:
        outlines = {roi.name: roi.outline} | ({} if roi.hole is None else {f"{roi.name}_hole": roi.hole})
        for name, outline in outlines.items():
            rows += [(name, f"{x:.1f}", f"{y:.1f}", roi.label or "") for x, y in outline]
    return csv_text(rows)


def _qupath_geojson(rois: Sequence[DrawnRoi], _mpp: float) -> str:
    """Return ROIs in QuPath's form; a hole is an inner ring."""
    features = []
    for i, roi in enumerate(rois):
        rings = [roi.outline] if roi.hole is None else [roi.outline, roi.hole]
        properties: dict[str, object] = {"objectType": "annotation", "name": roi.name}
        if roi.label is not None:
            properties["classification"] = {"name": roi.label, "color": [200, 0, 0]}
        features.append(
            {
                "type": "Feature",
                "id": str(uuid.UUID(int=i, version=4)),
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [[*ring.tolist(), ring[0].tolist()] for ring in rings],
                },
                "properties": properties,
            }
        )
    return json.dumps({"type": "FeatureCollection", "features": features}, indent=1) + "\n"


def _imagescope_xml(rois: Sequence[DrawnRoi], mpp: float) -> str:
    """Return ROIs in ImageScope's form: an annotation layer for each label; a hole is a negative region."""
    root = ET.Element("Annotations", MicronsPerPixel=f"{mpp:.6f}")
    layers: dict[str | None, ET.Element] = {}
    number = 0
    for roi in rois:
        if roi.label not in layers:
            layer = ET.SubElement(root, "Annotation", Id=str(len(layers) + 1), Name=roi.label or "", Type="4")
            layers[roi.label] = ET.SubElement(layer, "Regions")
        outlines = [(roi.name, roi.outline, "0")]
        if roi.hole is not None:
            outlines.append((f"{roi.name}_hole", roi.hole, "1"))
        for name, outline, negative in outlines:
            number += 1
            region = ET.SubElement(
                layers[roi.label], "Region", Id=str(number), Type="0", Text=name, NegativeROA=negative
            )
            vertices = ET.SubElement(region, "Vertices")
            for x, y in outline:
                ET.SubElement(vertices, "Vertex", X=f"{x:.1f}", Y=f"{y:.1f}", Z="0")
    ET.indent(root)
    return "<?xml version='1.0' encoding='utf-8'?>\n" + ET.tostring(root, encoding="unicode") + "\n"


#: Text of a file of ROIs, by its suffix; given the ROIs and the microns per base pixel.
ROI_WRITERS: dict[str, Callable[[Sequence[DrawnRoi], float], str]] = {
    "csv": _slideflow_csv,
    "geojson": _qupath_geojson,
    "xml": _imagescope_xml,
}
