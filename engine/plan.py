"""Reads from a study what is to be exported, and checks it before any tile is read.

A plan is a function of the study's content: nothing of it depends on the order in which slides or ROI
files were added, on internal numbers, or on the time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import cv2
import duckdb
import imagecodecs
import numpy as np
import numpy.typing as npt
import openslide
import pyarrow as pa

from slideduck import __version__
from slideduck.beton import SlideInfo, WrittenBeton, encode_jpeg, page_size_for
from slideduck.errors import DiskFullError, QueryError, SlideError, StudyError
from slideduck.grid import SlideGrid
from slideduck.layout import PAGE_SIZE
from slideduck.sidecar import SIDECAR_FORMAT, SIDECAR_VERSION
from slideduck.slides import read_header
from slideduck.sqlfiles import read_query
from slideduck.tiles import TileReader

__all__ = ["ExportPlan", "StudyLike", "make_plan"]

#: Tiles that are encoded beforehand to estimate the size of the file.
_PROBES = 8

#: An export is refused where this part of its estimated size does not fit: what the estimate gets wrong
#: must not keep an export that fits from starting.
_SURE_PART = 0.8

#: What a tile has in the tables of the beton and in the side-car, about.
_BYTES_BESIDE_IMAGE = 200

#: Columns of the view that an export takes.
_COLUMNS = "slide, tile_id, grid_x, grid_y, loc_x, loc_y, base_x, base_y, label, roi_name"


class StudyLike(Protocol):
    """What an export asks of a study; `slideduck.study.Study` is one."""

    con: duckdb.DuckDBPyConnection
    path: Path
    progress: bool

    def only_grid(self, grid: str | None = None) -> str:
        """Return the grid that is meant."""

    def labels(self, where: str | None = None, *, grid: str | None = None) -> duckdb.DuckDBPyRelation:
        """Return the view ``labels``, up to date."""


@dataclass(frozen=True, eq=False)
class ExportPlan:
    """All that is to be exported, read from the study once.

    Attributes
    ----------
    grid : dict
        The grid, as the side-car has it.
    slides : list of SlideInfo
        The slides that have tiles in the export, in the order of their names.
    grids : list of SlideGrid
        How the grid lies on each of them.
    files : list of tuple
        Bytes and modification time of each of them, as they were when it was added.
    classes : list of str
        Label of each class number.
    quality : int or None
        Quality of the JPEGs; None for raw pixels.
    slide, class_number : ndarray of int64, shape (samples,)
        Index of each tile into `slides` and `classes`, in the order of the beton's rows.
    columns : dict
        Further columns of the tiles by name: lists of str or None, and arrays of integers.
    context : dict
        Label rule, split rule, query and ROI files, as the side-car has them.
    """

    grid: dict[str, Any]
    slides: list[SlideInfo]
    grids: list[SlideGrid]
    files: list[tuple[int | None, float | None]]
    classes: list[str]
    quality: int | None
    slide: npt.NDArray[np.int64]
    class_number: npt.NDArray[np.int64]
    columns: dict[str, Any]
    context: dict[str, Any]

    @property
    def samples(self) -> int:
        """Number of tiles."""
        return len(self.slide)

    @property
    def tile_px(self) -> int:
        """Side of a tile, pixels."""
        return int(self.grid["tile_px"])

    @property
    def mode(self) -> str:
        """How images are stored: ``"jpg"`` or ``"raw"``."""
        return "raw" if self.quality is None else "jpg"

    @property
    def page_size(self) -> int:
        """Bytes of a page, in which every tile fits whatever it shows."""
        if self.quality is None:
            return page_size_for(3 * self.tile_px**2)
        # The most that a JPEG without subsampling may have: libjpeg-turbo's tjBufSize.
        return page_size_for(6 * (-(-self.tile_px // 16) * 16) ** 2 + 2048)

    @property
    def versions(self) -> dict[str, str]:
        """What the pixels and the JPEGs were made with."""
        return {
            "slideduck": __version__,
            "duckdb": duckdb.__version__,
            "openslide": openslide.__library_version__,
            "imagecodecs": imagecodecs.__version__,
        }

    @cached_property
    def identity(self) -> str:
        """Digest of what the tiles are, wherever the files of the slides lie; the beton holds it."""
        return _digest(
            self.grid,
            [(slide.slide, slide.fingerprint) for slide in self.slides],
            self.classes,
            self.quality,
            self.columns["tile_id"],
            self.class_number.tolist(),
        )

    @property
    def digest(self) -> str:
        """Digest of all that decides the bytes of the beton, and of the files that they come from."""
        colours = [slide.background for slide in self.slides]
        grids = [vars(grid) for grid in self.grids]
        return _digest(self.identity, self.files, colours, grids, self.versions, cv2.__version__)

    def reader(self, slide: int) -> TileReader:
        """Return a reader of the tiles of a slide."""
        info = self.slides[slide]
        return TileReader(info.path, self.grids[slide], self.tile_px, background=info.background)

    def encoded(self, reader: TileReader, row: int) -> bytes:
        """Return a tile as the beton has it."""
        rgb = reader.read(int(self.columns["base_x"][row]), int(self.columns["base_y"][row]))
        return rgb.tobytes() if self.quality is None else encode_jpeg(rgb, self.quality)

    def check_slides(self) -> None:
        """Make sure that the files of the slides are those that were added.

        Raises
        ------
        SlideError
            Naming each that is not.
        """
        problems = []
        for info, (size, mtime) in zip(self.slides, self.files, strict=True):
            try:
                now = os.stat(info.path)
            except OSError as error:
                problems.append(
                    f"slide {info.slide!r}: {info.path} cannot be read: {error.strerror}; put the file back, "
                    "or add it from where it is now"
                )
                continue
            # A file that was copied has another time: then what is in it decides.
            if now.st_size != size or (now.st_mtime != mtime and _fingerprint(info.path) != info.fingerprint):
                problems.append(
                    f"slide {info.slide!r} has changed: {info.path} is not the file that was added; "
                    "add it again, and label anew"
                )
        if problems:
            raise SlideError("\n".join(problems))

    def check_space(self, path: Path) -> None:
        """Make sure that the export can fit where it is to go, judged by a few of its tiles.

        Raises
        ------
        DiskFullError
            If it cannot.
        SlideError
            If one of those tiles cannot be read.
        """
        if self.quality is None:
            each = 3.0 * self.tile_px**2
        else:
            sizes = []
            rows = sorted({round(row) for row in np.linspace(0, self.samples - 1, _PROBES)})
            for slide, of_slide in groupby(rows, key=lambda row: int(self.slide[row])):
                with self.reader(slide) as reader:
                    sizes += [len(self.encoded(reader, row)) for row in of_slide]
            each = sum(sizes) / len(sizes)
        needed = PAGE_SIZE + self.samples * (each + _BYTES_BESIDE_IMAGE)
        part = path.with_name(path.name + ".part")
        free = shutil.disk_usage(path.parent).free
        free += os.stat(part).st_blocks * 512 if part.exists() else 0
        if needed * _SURE_PART > free:
            raise DiskFullError(
                f"{path} would have about {needed / 1e9:,.2f} GB, and {path.parent} has {free / 1e9:,.2f} GB "
                "free; free some space, lower the quality, or give another place"
            )

    def sidecar(self, path: Path, written: WrittenBeton) -> dict[str, Any]:
        """Return the content of the side-car of a beton at ``path``."""
        columns = self.columns
        return {
            "format": SIDECAR_FORMAT,
            "version": SIDECAR_VERSION,
            "beton": {
                "file": path.name,
                "bytes": written.bytes,
                "samples": written.samples,
                "metadata_sha256": written.metadata_sha256,
                "image": {"mode": self.mode, "quality": self.quality, "tile_px": self.tile_px},
            },
            "classes": self.classes,
            "grid": self.grid,
            "label_rule": self.context["label_rule"],
            "split_rule": self.context["split_rule"],
            "query": self.context["query"],
            "slides": [vars(info) for info in self.slides],
            "roi_files": self.context["roi_files"],
            "versions": self.versions,
            "tiles": {
                "tile_id": columns["tile_id"],
                "slide": self.slide.tolist(),
                **{name: columns[name].tolist() for name in ("grid_x", "grid_y", "loc_x", "loc_y")},
                "class": self.class_number.tolist(),
                "roi_name": columns["roi_name"],
            },
        }


def make_plan(
    study: StudyLike,
    grid: str | None,
    where: str | None,
    classes: Sequence[str] | None,
    quality: int | None,
) -> ExportPlan:
    """Read from a study what is to be exported.

    Parameters
    ----------
    study : Study
        The study.
    grid, where, classes
        See `slideduck.export.export`.
    quality : int or None
        Quality of the JPEGs; None for raw pixels.

    Returns
    -------
    ExportPlan

    Raises
    ------
    StudyError, QueryError
        See `slideduck.export.export`.
    """
    name = study.only_grid(grid)
    tiles = _select(study, name, where)
    if not tiles.num_rows:
        raise StudyError(_why_nothing(study.con, name, where))
    # Rows are sorted by slide, so that names come up in their order.
    slides = tiles["slide"].combine_chunks().dictionary_encode()
    names: list[str] = slides.dictionary.to_pylist()
    of_slide = {row["slide"]: row for row in _rows(study.con, read_query("list_export_slides"), {"grid": name})}
    infos = [SlideInfo(**{field.name: of_slide[n][field.name] for field in fields(SlideInfo)}) for n in names]
    grids = [SlideGrid(**{field.name: of_slide[n][field.name] for field in fields(SlideGrid)}) for n in names]
    labels: list[str | None] = tiles["label"].to_pylist()
    ordered = _ordered_classes(labels, classes)
    number: dict[str | None, int] = {None: -1, **{label: i for i, label in enumerate(ordered)}}
    (spec,) = _rows(study.con, "SELECT * EXCLUDE (grid_id) FROM grids WHERE grid = $grid", {"grid": name})
    return ExportPlan(
        grid={"name": spec.pop("grid"), **spec},
        slides=infos,
        grids=grids,
        files=[(of_slide[n]["bytes"], of_slide[n]["mtime"]) for n in names],
        classes=ordered,
        quality=quality,
        slide=slides.indices.to_numpy().astype(np.int64),
        class_number=np.array([number[label] for label in labels], np.int64),
        columns={
            "tile_id": tiles["tile_id"].to_pylist(),
            "roi_name": tiles["roi_name"].to_pylist(),
            **{
                column: tiles[column].to_numpy()
                for column in ("grid_x", "grid_y", "loc_x", "loc_y", "base_x", "base_y")
            },
        },
        context={
            "label_rule": next(iter(_rows(study.con, "SELECT * FROM label_rule")), None),
            "split_rule": next(iter(_rows(study.con, "SELECT * FROM split_rule")), None),
            "query": {"where": where},
            "roi_files": _rows(study.con, read_query("list_export_roi_files"), {"slides": names}),
        },
    )


def _rows(con: duckdb.DuckDBPyConnection, query: str, values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return the rows of a query by column name."""
    rows: list[dict[str, Any]] = con.execute(query, values).to_arrow_table().to_pylist()
    return rows


def _digest(*content: object) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


def _fingerprint(path: str) -> str | None:
    """Return the fingerprint of a slide, None if it does not open."""
    try:
        return read_header(Path(path), default_mpp=1.0).fingerprint
    except SlideError:
        return None


def _select(study: StudyLike, grid: str, where: str | None) -> pa.Table:
    """Return the tiles that are kept and meet the condition, in the order of slide, grid_y, grid_x."""
    of_grid = duckdb.ColumnExpression("grid") == duckdb.ConstantExpression(grid)
    labels = study.labels().filter(of_grid).filter("kept").set_alias("labels")
    try:
        # A relation takes one expression and nothing else, whatever the text holds.
        chosen = labels if where is None else labels.filter(where)
        types = [] if where is None else labels.project(where).types
        if any(kind != "BOOLEAN" for kind in types):
            raise _bad_condition(where, labels, f"it is of type {types[0]}, and a condition is true or false")
        return chosen.project(_COLUMNS).order("slide, grid_y, grid_x").to_arrow_table()
    except (duckdb.ProgrammingError, duckdb.DataError, duckdb.NotSupportedError) as error:
        # The first line is the reason; then comes the place in a query that the user did not write.
        raise _bad_condition(where, labels, str(error).splitlines()[0]) from error


def _bad_condition(where: str | None, labels: duckdb.DuckDBPyRelation, reason: str) -> QueryError:
    return QueryError(
        f"the condition {where!r} cannot be used: {reason}; "
        f"give one SQL condition on the columns {', '.join(labels.columns)}"
    )


def _why_nothing(con: duckdb.DuckDBPyConnection, grid: str, where: str | None) -> str:
    """Say what there is to export where a condition leaves nothing."""
    rows = _rows(con, read_query("count_exportable"), {"grid": grid})
    if not rows:
        return f"grid {grid!r} has no tile that is kept; choose another method with slideduck label"

    def total(column: str, unset: str) -> str:
        counts: dict[str, int] = {}
        for row in rows:
            key = unset if row[column] is None else row[column]
            counts[key] = counts.get(key, 0) + row["tiles"]
        return ", ".join(f"{count:,} {key}" for key, count in counts.items())

    return (
        f"no tile of grid {grid!r} meets the condition {where!r}; "
        f"of the tiles that are kept there are, by label: {total('label', 'without a label')}; "
        f"by split: {total('split', 'in no split')}"
    )


def _ordered_classes(labels: Sequence[str | None], classes: Sequence[str] | None) -> list[str]:
    """Return the labels in the order of their class numbers."""
    found = sorted({label for label in labels if label is not None})
    if classes is None:
        return found
    given = list(classes)
    twice = sorted({label for label in given if given.count(label) > 1})
    if twice:
        raise StudyError(f"classes name {', '.join(map(repr, twice))} more than once; name each label once")
    missing = [label for label in found if label not in given]
    if missing:
        raise StudyError(
            f"the tiles have labels that are not among the classes {', '.join(map(repr, given))}: "
            f"{', '.join(map(repr, missing))}; add them, or leave their tiles out by the condition"
        )
    return given
