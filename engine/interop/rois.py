"""Writes the ROIs of a study as files for other programs, and proves that they hold the same ROIs.

Before a file appears, it is added to a study in memory, and the two studies are compared.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import pyarrow.parquet as pq

from slideduck.errors import InputError, StudyError
from slideduck.files.find import absolute
from slideduck.files.write import staged
from slideduck.interop.formats import csv_text, geojson_text, imagescope_text, unwritable
from slideduck.interop.geoparquet import geoparquet_table
from slideduck.interop.layout import Layout, StudyRoi, lay_out
from slideduck.interop.proof import Returned, RoiProof, proving
from slideduck.labels.known import known_labels
from slideduck.palette import label_colours
from slideduck.roifiles.wkb import polygons_from_wkb
from slideduck.rois.frame import out_of_level0, written_offsets
from slideduck.show import Shown
from slideduck.store.db import translated
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_query
from slideduck.words import counted

__all__ = ["ROI_FORMATS", "RoiExportReport", "export_rois"]

#: Forms that ROIs are written in.
ROI_FORMATS = ("csv", "geojson", "xml", "geoparquet")

_GEOPARQUET_FILE = "rois.parquet"

#: The forms that can say what one cannot.
_BETTER = {
    "csv": "geojson or geoparquet",
    "xml": "geojson or geoparquet",
    "geojson": "xml or geoparquet",
    "geoparquet": "geojson",
}

#: A slide and the name of an ROI.
_Key = tuple[str, str]


@dataclass(frozen=True)
class RoiExportReport(Shown):
    """What `export_rois` did.

    Attributes
    ----------
    paths : tuple of Path
        The files.
    slides, rois, holes : int
        Slides and ROIs of the study in them (holes included), and holes among those.
    parts : tuple of str
        ROIs that the files have and the study has not: parts of ROIs that are of several polygons, where the
        form knows single polygons alone.
    inner_rings : tuple of str
        The same for inner rings, which the files have as holes.
    left_out : tuple of str
        Holes that the files have without a name: they are cut out of the ROI that they belong to.
    tiles : int
        Tiles whose labels were compared, because of the parts; none of them gets another label.
    """

    paths: tuple[Path, ...]
    slides: int
    rois: int
    holes: int
    parts: tuple[str, ...]
    inner_rings: tuple[str, ...]
    left_out: tuple[str, ...]
    tiles: int


def export_rois(
    handle: Handle,
    folder: str | os.PathLike[str],
    *,
    format: str,
    roi_set: str = "default",
    slides: Sequence[str] | None = None,
    frame: str | None = None,
    overwrite: bool = False,
) -> RoiExportReport:
    """Write a set of ROIs as files that `add_rois` and other programs read.

    Parameters
    ----------
    handle : Handle
        The study.
    folder : path
        Where to write: a file for each slide, named after it, or ``rois.parquet``. Made if it does not exist.
    format : {"csv", "geojson", "xml", "geoparquet"}
        Slideflow's CSV, QuPath's GeoJSON, ImageScope's XML, or GeoParquet.
    roi_set : str, default "default"
        The set.
    slides : sequence of str, optional
        Names of slides; default all that have ROIs of the set.
    frame : {"bounds", "level0"}, optional
        Corner that the files count from: that of what was scanned, as QuPath has it, or the slide's. Needed for
        GeoJSON of slides where the two differ; the other forms are level 0 unless told otherwise, and GeoParquet
        always.
    overwrite : bool, default False
        Replace files of those names.

    Returns
    -------
    RoiExportReport

    Raises
    ------
    StudyError
        If there is no such form, set or slide; if a frame is needed; if files are there already; or if the form
        cannot say what the study says, with every such ROI and the forms that can. No file appears then.
    DiskFullError
        If there is no room.

    Notes
    -----
    Coordinates are pixels of level 0 and are read as the same numbers. Each form is read by `add_rois` with its
    default for holes, and gives ROIs of the same names, labels and shapes, and so the same labels of tiles:

    - GeoParquet and XML keep holes with their names; CSV too, where they lie within their ROI. In GeoJSON
      they are inner rings.
    - CSV and XML know single rings. An ROI whose polygons touch in points (one that crossed itself and was
      repaired) is drawn as one ring again; an inner ring becomes a hole ``NAME_hole``; polygons that lie apart
      become ROIs ``NAME``, ``NAME_2`` and so on, if that changes the label of no tile of the study's grids
      under the rule in force.
    - A hole in CSV that leaves its ROI is taken out of the ROI's outline.
    - In CSV an ROI within another of its label is a hole of it; one that is none is refused.
    """
    if format not in ROI_FORMATS:
        raise StudyError(f"format is {format!r}; give one of {', '.join(ROI_FORMATS)}")
    if format == "geoparquet" and frame == "bounds":
        raise StudyError("frame is 'bounds', but geoparquet counts from the slide's corner; leave `frame` out")
    with translated():
        names = _slides(handle, roi_set, slides)
        rois = _rois(handle, roi_set, names)
        files = [_GEOPARQUET_FILE] if format == "geoparquet" else [f"{name}.{format}" for name in names]
        with (
            staged(folder, files, overwrite=overwrite) as staging,
            proving(handle, names) as proof,
        ):
            offsets = written_offsets(handle, names, frame, is_needed=format == "geojson")
            export = _RoiExport(handle, staging, format, roi_set, rois, proof, frame, offsets)
            export.write()
            tiles = export.prove()
    layouts = export.layouts.values()
    return RoiExportReport(
        paths=tuple(absolute(folder) / name for name in files),
        slides=len(names),
        rois=len(rois),
        holes=sum(roi.parent is not None for roi in rois),
        parts=tuple(text for layout in layouts for text in layout.parts),
        inner_rings=tuple(text for layout in layouts for text in layout.inner_rings),
        left_out=tuple(text for layout in layouts for text in layout.left_out),
        tiles=tiles,
    )


def _slides(handle: Handle, roi_set: str, slides: Sequence[str] | None) -> list[str]:
    """Return the slides to export, in order of name."""
    rows = handle.con.execute("SELECT DISTINCT roi_set, slide FROM rois ORDER BY roi_set, slide").fetchall()
    found = [slide for name, slide in rows if name == roi_set]
    if not found:
        sets = ", ".join(dict.fromkeys(repr(name) for name, _ in rows))
        raise StudyError(
            f"{handle.name} has no ROIs of the set {roi_set!r}; "
            + (f"it has those of {sets}" if rows else f"add some with: slideduck add-rois {handle.name} FOLDER")
        )
    unknown = [name for name in dict.fromkeys(slides or ()) if name not in found]
    if unknown:
        raise StudyError(
            f"no ROIs of the set {roi_set!r} are on the slide{'s' * (len(unknown) > 1)} "
            f"{', '.join(map(repr, unknown))}; see where there are some with: "
            f"slideduck sql {handle.name} 'SELECT DISTINCT roi_set, slide FROM rois'"
        )
    chosen = found if slides is None else [name for name in found if name in slides]
    broken = handle.con.execute(
        "SELECT slide, error FROM slides WHERE error IS NOT NULL AND list_contains($slides, slide) ORDER BY slide",
        {"slides": chosen},
    ).fetchall()
    if broken:
        raise StudyError("\n".join(f"slide {slide!r} cannot be used: {error}" for slide, error in broken))
    return chosen


def _rois(handle: Handle, roi_set: str, slides: Sequence[str]) -> list[StudyRoi]:
    """Read ROIs, in the order of slide and name."""
    rows = handle.con.execute(read_query("list_export_rois"), {"roi_set": roi_set, "slides": list(slides)}).fetchall()
    rois = []
    for slide, name, desc, label, parent, area_um2, drawn, labelled in rows:
        polygons = polygons_from_wkb(drawn)[1]
        left = polygons if labelled == drawn else polygons_from_wkb(labelled)[1]
        rois.append(StudyRoi(slide, name, desc, label, parent, area_um2, polygons, left, drawn, labelled))
    return rois


class _RoiExport:
    """The files of one export while they are written and proved."""

    def __init__(
        self,
        handle: Handle,
        staging: Path,
        form: str,
        roi_set: str,
        rois: Sequence[StudyRoi],
        proof: RoiProof,
        frame: str | None,
        offsets: Mapping[str, tuple[int, int]],
    ) -> None:
        self._con = handle.con
        self._staging = staging
        self._form = form
        self._set = roi_set
        self._rois = rois
        self._proof = proof
        self._frame = frame
        self._offsets = offsets
        self._of_slide = {name: list(group) for name, group in groupby(rois, key=lambda roi: roi.slide)}
        self._cut: set[_Key] = set()
        #: The content of the file of each slide; nothing for GeoParquet, which has the rows of the study.
        self.layouts: dict[str, Layout] = {}
        self._colours = label_colours(known_labels(handle.con))
        query = "SELECT slide, mpp FROM slides WHERE list_contains($slides, slide)"
        self._mpp = dict(handle.con.execute(query, {"slides": list(self._of_slide)}).fetchall())

    def write(self, slides: Sequence[str] | None = None) -> None:
        """Write the files of slides, of all if none are named."""
        if self._form == "geoparquet":
            path = self._staging / _GEOPARQUET_FILE
            pq.write_table(geoparquet_table(self._rois, self._set), path, compression="zstd")
            return
        names = list(self._of_slide) if slides is None else slides
        self._refuse_unwritable(names)
        self._refuse_empty(names)
        for name in names:
            cut = {roi_name for slide, roi_name in self._cut if slide == name}
            layout = lay_out(self._of_slide[name], single_rings=self._form != "geojson", cut=cut)
            self.layouts[name] = layout
            path = self._staging / f"{name}.{self._form}"
            # As bytes: a line end in a name is part of the name.
            path.write_bytes(self._text(name, layout).encode())

    def _text(self, slide: str, layout: Layout) -> str:
        offset = self._offsets[slide]
        outlines = [replace(one, polygons=out_of_level0(one.polygons, offset)) for one in layout.outlines]
        if self._form == "csv":
            return csv_text(outlines)
        if self._form == "xml":
            return imagescope_text(outlines, self._colours, self._mpp[slide])
        return geojson_text(outlines, self._colours, self._set)

    def _refuse_unwritable(self, slides: Sequence[str]) -> None:
        """Raise if a name or label holds a character that the form cannot."""
        reasons: dict[_Key, str] = {}
        for slide in slides:
            for roi in self._of_slide[slide]:
                for what, text in (("name", roi.roi_name), ("label", roi.label)):
                    mark = unwritable(text, self._form)
                    if mark:
                        reasons[slide, roi.roi_name] = f"its {what} holds the character {mark!r}"
        if reasons:
            raise self._refused(reasons)

    def _refuse_empty(self, slides: Sequence[str]) -> None:
        """Raise if an ROI is empty without its holes, and the format has no other way to write it."""
        if self._form == "xml":
            return
        empty = [roi for slide in slides for roi in self._of_slide[slide] if not roi.labelled]
        if empty:
            raise self._refused({(roi.slide, roi.roi_name): "its holes leave nothing of it" for roi in empty})

    def prove(self) -> int:
        """Read the files again and compare; return the number of tiles that had to be compared.

        Raises
        ------
        StudyError
            Naming each ROI that would not come back as it is.
        """
        returned = self._read_again()
        if self._form in ("csv", "xml"):
            has_holes = {(roi.slide, roi.roi_name) for roi in self._rois if roi.drawn_wkb != roi.labelled_wkb}
            self._cut = {(one.slide, one.root) for one in returned if not one.is_same} & has_holes
        if self._cut:
            # Where a hole does not lie within its ROI, the ROI may still be drawn without it.
            slides = sorted({slide for slide, _ in self._cut})
            self.write(slides)
            returned = self._read_again()
        lost = [one for one in returned if not one.is_same]
        if lost:
            raise self._refused(dict(_why_lost(lost)))
        return self._prove_parts({(one.slide, one.root): one.n_parts for one in returned if one.n_parts > 1})

    def _read_again(self) -> list[Returned]:
        """Read the files again, those that were written anew, and return what every ROI is now."""
        if self._form == "geoparquet":
            root = {(roi.slide, roi.roi_name): roi.parent or roi.roi_name for roi in self._rois}
            path = self._staging / _GEOPARQUET_FILE
        else:
            # As a folder, since folders below it are part of the names of slides.
            path = self._staging
            root = {(slide, name): of for slide, layout in self.layouts.items() for name, of in layout.root.items()}
        try:
            return self._proof.returned(path, self._rois, root, frame=self._frame)
        except InputError as error:
            raise StudyError(
                f"the ROIs cannot be written as {self._form}, since the files could not be added to a study; "
                f"write {_BETTER[self._form]} instead:\n{error}"
            ) from error

    def _prove_parts(self, parts: Mapping[_Key, int]) -> int:
        """Compare the labels of tiles on slides where ROIs come back as several; return how many were compared."""
        if not parts:
            return 0
        apart = {key: f"it is of {n} polygons that lie apart" for key, n in parts.items()}
        if self._con.execute("SELECT count(*) FROM grids").fetchone() == (0,):
            untold = "; whether ROIs of their own give the same labels is told on a grid: lay one first with tile"
            raise self._refused({key: why + untold for key, why in apart.items()})
        tiles, changed = self._proof.relabelled(self._rois, sorted({slide for slide, _ in parts}))
        blamed: dict[_Key, int] = {}
        for slide, before, after, n in changed:
            winners = (before, self.layouts[slide].root.get(after or ""))
            of_slide = [key for key in parts if key[0] == slide]
            for key in [key for key in of_slide if key[1] in winners] or of_slide:
                blamed[key] = blamed.get(key, 0) + n
        if blamed:
            raise self._refused(
                {
                    key: f"{apart[key]}; as ROIs of their own {counted(n, 'tile')} would get another label"
                    for key, n in sorted(blamed.items())
                }
            )
        return tiles

    def _refused(self, reasons: Mapping[_Key, str]) -> StudyError:
        """Return the error that names each ROI that the format cannot hold."""
        lines = [f"  {slide}: {name!r}: {why}" for (slide, name), why in sorted(reasons.items())]
        return StudyError(
            f"{counted(len(lines), 'ROI')} cannot be written as {self._form}; write {_BETTER[self._form]} instead:\n"
            + "\n".join(lines)
        )


def _why_lost(lost: Sequence[Returned]) -> Iterator[tuple[_Key, str]]:
    """Yield why ROIs would be read back differently."""
    explained = {(one.slide, one.swallowed_by) for one in lost}
    for one in lost:
        if one.swallowed_by is not None:
            what = "it lies" if one.swallowed == one.root else f"its part {one.swallowed!r} lies"
            why = f"{what} in {one.swallowed_by!r}, which has the same label, without being a hole of it"
            yield (one.slide, one.root), why
        elif (one.slide, one.root) not in explained:
            yield (one.slide, one.root), "it would come back with another shape"
