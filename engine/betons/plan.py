"""Reads from a study what is to be exported, and checks it before any tile is read.

A plan is a function of the study's content: nothing of it depends on the order in which slides or ROI
files were added, on internal numbers, or on the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import duckdb
import imagecodecs
import numpy as np
import numpy.typing as npt
import openslide
import pyarrow as pa
import tifffile

from slideduck import __version__
from slideduck.betons.encode import Encoding, TileMaker, TileMaking, page_bytes
from slideduck.betons.settings import ExportSettings
from slideduck.betons.shards import LeftOut, Shard, digest, left_out_to_json
from slideduck.betons.sidecar import SIDECAR_FORMAT, SIDECAR_VERSION, SlideInfo
from slideduck.catalog.cells import plain
from slideduck.catalog.chosen import ChosenTiles
from slideduck.catalog.grids import only_grid
from slideduck.catalog.label_sets import described_sets, given_columns, soft_of
from slideduck.errors import StudyError
from slideduck.labels.conditions import meeting, refusing
from slideduck.labels.known import known_labels, require_known
from slideduck.labels.rule import rule_in_force
from slideduck.labels.view import labels
from slideduck.measure.stain import Normaliser, StainTarget, stain_to_json
from slideduck.measure.stain_fit import require_fits, stain_target
from slideduck.measure.stain_slide import SlideFit
from slideduck.slides.grid import SlideGrid
from slideduck.slides.identity import SlideFile
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_query

__all__ = ["ExportPlan", "make_plan"]

#: Columns of the view that an export takes.
_COLUMNS = "slide, tile_id, grid_x, grid_y, loc_x, loc_y, base_x, base_y, label, roi_name, value, soft"

#: Columns of tiles that a side-car has where label sets give them.
_GIVEN = ("value", "soft")


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
    jpeg : {"auto", "reencode", "passthrough"}
        Whether the JPEG of a tile that is exactly a stored one is taken as it is.
    reader_name : {"auto", "openslide", "tiff"}
        How slides are read.
    slide, class_number : ndarray of int64, shape (samples,)
        Index of each tile into `slides` and `classes`, in the order of the beton's rows.
    columns : dict
        Further columns of the tiles by name: lists of str or None, and arrays of integers; where label sets give
        numbers or soft labels, also ``value`` and ``soft``, lists with None for tiles without.
    context : dict
        Label rule, split rule, query and ROI files, as the side-car has them.
    stain : StainTarget or None
        What the stains are normalised to; None where they stay as they are.
    stain_fits : list of SlideFit
        The stains of each slide, where they are normalised.
    """

    grid: dict[str, Any]
    slides: list[SlideInfo]
    grids: list[SlideGrid]
    files: list[tuple[int | None, float | None]]
    classes: list[str]
    quality: int | None
    jpeg: str
    reader_name: str
    slide: npt.NDArray[np.int64]
    class_number: npt.NDArray[np.int64]
    columns: dict[str, Any]
    context: dict[str, Any]
    stain: StainTarget | None = None
    stain_fits: list[SlideFit] = field(default_factory=list)

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
        return page_bytes(self.tile_px, self.quality)

    @property
    def versions(self) -> dict[str, str]:
        """What the pixels and the JPEGs were made with."""
        return {
            "slideduck": __version__,
            "duckdb": duckdb.__version__,
            "openslide": openslide.__library_version__,
            "imagecodecs": imagecodecs.__version__,
            "tifffile": tifffile.__version__,
        }

    @cached_property
    def digest(self) -> str:
        """Digest of all that decides the bytes of the beton, and of the files that they come from."""
        return digest(
            self.grid,
            [(slide.slide, slide.fingerprint, slide.background) for slide in self.slides],
            self.files,
            [vars(grid) for grid in self.grids],
            self.classes,
            (self.quality, self.jpeg, self.reader_name),
            self.columns["tile_id"],
            self.class_number.tolist(),
            self.versions,
            cv2.__version__,
            None if self.stain is None else [stain_to_json(self.stain), [fit.to_json() for fit in self.stain_fits]],
            *({name: self.columns[name]} for name in _GIVEN if name in self.columns),
        )

    @cached_property
    def normalisers(self) -> list[Normaliser | None]:
        """What changes the stains of each slide."""
        if self.stain is None:
            return [None] * len(self.slides)
        return [Normaliser(fit.fit, self.stain.fit) for fit in self.stain_fits]

    @cached_property
    def _first_row(self) -> npt.NDArray[np.int64]:
        """Return the first row of each slide, and the number of rows; shape (slides + 1,)."""
        return np.searchsorted(self.slide, np.arange(len(self.slides) + 1))

    def slides_of(self, rows: range) -> range:
        """Return the slides of some rows."""
        return range(int(self.slide[rows.start]), int(self.slide[rows.stop - 1]) + 1)

    def rows_of(self, slide: int, rows: range) -> range:
        """Return which of some rows are of a slide."""
        first, end = int(self._first_row[slide]), int(self._first_row[slide + 1])
        return range(max(first, rows.start), min(end, rows.stop))

    @cached_property
    def chosen(self) -> dict[int, tuple[str, str | None]]:
        """The readers chosen so far, by slide, with the reason; a choice is not made twice."""
        return {}

    def file(self, slide: int) -> SlideFile:
        """Return the file of a slide, as it was when it was added."""
        info, (size, _) = self.slides[slide], self.files[slide]
        return SlideFile(info.slide, Path(info.path), size, info.fingerprint, "add it again, and label anew")

    def maker(self, slide: int) -> TileMaker:
        """Return what makes the tiles of a slide; its reader was chosen among all of them.

        Raises
        ------
        SlideError
            If the slide does not open, or cannot be read any more by what was chosen for it.
        """
        info, normaliser = self.slides[slide], self.normalisers[slide]
        making = TileMaking(
            self.file(slide), self.grids[slide], self.tile_px, info.background, self.encoding, normaliser
        )
        if slide in self.chosen:
            return making.open_as_before(*self.chosen[slide])
        rows = self.rows_of(slide, range(self.samples))
        x, y = (self.columns[name][rows.start : rows.stop] for name in ("base_x", "base_y"))
        maker = making.open(x, y, self.reader_name)
        self.chosen[slide] = maker.reader.name, maker.why_not_tiff
        return maker

    @cached_property
    def encoding(self) -> Encoding:
        """The rule by which tiles become bytes."""
        return Encoding(self.quality, self.jpeg, self.page_size)

    def encoded(self, maker: TileMaker, row: int) -> tuple[bytes, bool]:
        """Return a tile as the beton has it, and whether it is the slide's own JPEG."""
        x, y = (int(self.columns[name][row]) for name in ("base_x", "base_y"))
        return maker.make(x, y)

    def describe(
        self,
        path: Path,
        rows: npt.NDArray[np.int64],
        *,
        readers: Mapping[str, tuple[str, str | None]],
        shard: Shard | None = None,
        left_out: Sequence[LeftOut] = (),
    ) -> dict[str, Any]:
        """Return the content of the side-car of a beton of some rows, but for what `written` adds.

        Parameters
        ----------
        path : Path
            The beton.
        rows : ndarray of int64, shape (tiles,)
            Rows of the plan, ascending.
        readers : mapping
            What the tiles of each slide were read with, and why not with another.
        shard : Shard, optional
            Which one it is, of several.
        left_out : sequence of LeftOut
            Tiles that would be there too, had they been read.
        """
        columns = self.columns
        used, slide = np.unique(self.slide[rows], return_inverse=True)
        slides = []
        for i in used:
            reader, why_not_tiff = readers[self.slides[i].slide]
            entry = {**vars(self.slides[i]), "reader": reader, "why_not_tiff": why_not_tiff}
            slides.append(entry if self.stain is None else {**entry, "stain": self.stain_fits[i].to_json()})
        image: dict[str, Any] = {"mode": self.mode, "quality": self.quality, "tile_px": self.tile_px, "jpeg": self.jpeg}
        if self.stain is not None:
            image["stain"] = stain_to_json(self.stain)
        return {
            "format": SIDECAR_FORMAT,
            "version": SIDECAR_VERSION,
            "beton": {"file": path.name, "image": image},
            "classes": self.classes,
            "grid": self.grid,
            "label_rule": self.context["label_rule"],
            "split_rule": self.context["split_rule"],
            "query": self.context["query"],
            "slides": slides,
            "roi_files": self.context["roi_files"],
            **({"label_sets": self.context["label_sets"]} if self.context["label_sets"] else {}),
            "versions": self.versions,
            **({} if shard is None else {"shard": self._shard_entry(shard)}),
            **({"skipped": left_out_to_json(left_out)} if left_out else {}),
            "tiles": {
                "tile_id": [columns["tile_id"][row] for row in rows.tolist()],
                "slide": slide.tolist(),
                **{name: columns[name][rows].tolist() for name in ("grid_x", "grid_y", "loc_x", "loc_y")},
                "class": self.class_number[rows].tolist(),
                "roi_name": [columns["roi_name"][row] for row in rows.tolist()],
                **{name: [columns[name][row] for row in rows.tolist()] for name in _GIVEN if name in columns},
            },
        }

    def _shard_entry(self, shard: Shard) -> dict[str, Any]:
        """Return what the side-car of a shard says of the export that it is a part of."""
        rows = shard.rows(self.samples)
        return {
            "number": shard.number,
            "count": shard.count,
            "first_tile": rows.start,
            "tiles": len(rows),
            "tiles_of_all": self.samples,
            "plan": self.digest,
        }


def make_plan(handle: Handle, settings: ExportSettings) -> ExportPlan:
    """Read from a study what is to be exported.

    Parameters
    ----------
    handle : Handle
        The study.
    settings : ExportSettings
        What to export, and how.

    Returns
    -------
    ExportPlan

    Raises
    ------
    StudyError, QueryError
        See `slideduck.betons.export.export`.
    """
    name = only_grid(handle, settings.grid)
    require_known(settings.classes or (), "`classes`", known_labels(handle.con))
    tiles = _select(handle, name, settings.where)
    if not tiles.num_rows:
        raise StudyError(_why_nothing(handle, name, settings.where))
    # Rows are sorted by slide, so that names come up in their order.
    slides = tiles["slide"].combine_chunks().dictionary_encode()
    names: list[str] = slides.dictionary.to_pylist()
    of_slide = {row["slide"]: row for row in _rows(handle, read_query("list_export_slides"), {"grid": name})}
    of_patient = _patient_columns(handle)
    known = [field.name for field in fields(SlideInfo) if field.name != "patient_columns"]
    infos = [
        SlideInfo(**{name: of_slide[n][name] for name in known}, patient_columns=of_patient.get(n, {})) for n in names
    ]
    grids = [SlideGrid(**{field.name: of_slide[n][field.name] for field in fields(SlideGrid)}) for n in names]
    of_tile: list[str | None] = tiles["label"].to_pylist()
    soft = soft_of(tiles)
    ordered = _ordered_classes([*of_tile, *{name for each in soft for name in each or ()}], settings.classes)
    number: dict[str | None, int] = {None: -1, **{label: i for i, label in enumerate(ordered)}}
    rule = rule_in_force(handle.con)
    target = None if settings.stain is None else stain_target(handle, settings.stain, settings.stain_to)
    fits = {} if settings.stain is None else require_fits(handle, settings.stain, names)
    (spec,) = _rows(handle, "SELECT * EXCLUDE (grid_id) FROM grids WHERE grid = $grid", {"grid": name})
    return ExportPlan(
        grid={"name": spec.pop("grid"), **spec},
        slides=infos,
        grids=grids,
        files=[(of_slide[n]["bytes"], of_slide[n]["mtime"]) for n in names],
        classes=ordered,
        quality=settings.jpeg_quality,
        jpeg="reencode" if settings.raw or settings.stain is not None else settings.jpeg,
        reader_name=settings.reader,
        slide=slides.indices.to_numpy().astype(np.int64),
        class_number=np.array([number[label] for label in of_tile], np.int64),
        columns={
            "tile_id": tiles["tile_id"].to_pylist(),
            "roi_name": tiles["roi_name"].to_pylist(),
            **{
                column: tiles[column].to_numpy()
                for column in ("grid_x", "grid_y", "loc_x", "loc_y", "base_x", "base_y")
            },
            **given_columns(tiles, soft, ordered),
        },
        context={
            "label_rule": None if rule is None else rule.values(),
            "split_rule": next(iter(_rows(handle, "SELECT * FROM split_rule")), None),
            "query": {"where": None if settings.where is None else str(settings.where)},
            "roi_files": [
                # What is usual is left out: shards of earlier versions go on to be joined.
                {name: value for name, value in row.items() if value is not None}
                for row in _rows(handle, read_query("list_export_roi_files"), {"slides": names})
            ],
            "label_sets": described_sets(handle.con, name),
        },
        stain=target,
        stain_fits=[fits[n] for n in names] if target else [],
    )


def _rows(handle: Handle, query: str, values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return the rows of a query by column name."""
    rows: list[dict[str, Any]] = handle.con.execute(query, values).to_arrow_table().to_pylist()
    return rows


def _patient_columns(handle: Handle) -> dict[str, dict[str, Any]]:
    """Return the further columns of the patients' table by slide, as JSON takes their values."""
    table = handle.con.execute("SELECT * EXCLUDE (patient, site) FROM patients ORDER BY slide").to_arrow_table()
    slides: list[str] = table["slide"].to_pylist()
    columns = {name: plain(table[name]) for name in table.column_names if name != "slide"}
    return {slide: {name: values[n] for name, values in columns.items()} for n, slide in enumerate(slides)}


def _select(handle: Handle, grid: str, where: str | ChosenTiles | None) -> pa.Table:
    """Return the tiles that are kept and meet the condition, in the order of slide, grid_y, grid_x."""
    of_grid = duckdb.ColumnExpression("grid") == duckdb.ConstantExpression(grid)
    tiles = labels(handle).filter(of_grid)
    kept = tiles.filter("kept").set_alias("labels")

    def read(tiles: duckdb.DuckDBPyRelation) -> pa.Table:
        return tiles.project(_COLUMNS).order("slide, grid_y, grid_x").to_arrow_table()

    if where is None:
        return read(kept)
    if isinstance(where, ChosenTiles):
        where.require_known(handle, tiles, grid)
        return read(where.of(handle, kept))
    with refusing(where, kept.columns):
        return read(meeting(handle, kept, where))


def _why_nothing(handle: Handle, grid: str, where: str | ChosenTiles | None) -> str:
    """Return what could be exported, where a condition leaves nothing."""
    rows = _rows(handle, read_query("count_exportable"), {"grid": grid})
    if not rows:
        return f"grid {grid!r} has no tile that is kept; keep all with: slideduck label {handle.name} --method ignore"

    def total(column: str, unset: str) -> str:
        counts: dict[str, int] = {}
        for row in rows:
            key = unset if row[column] is None else row[column]
            counts[key] = counts.get(key, 0) + row["tiles"]
        return ", ".join(f"{count:,} {key}" for key, count in counts.items())

    remedy = ""
    if all(row["label"] is None for row in rows):
        remedy = (
            f"; add ROIs with: slideduck add-rois {handle.name} FOLDER, and label again, or export tiles without a "
            "label with `where='true'`"
        )
    met = f"is one of the {where}" if isinstance(where, ChosenTiles) else f"meets the condition {where!r}"
    return (
        f"no tile of grid {grid!r} {met}; of the tiles that are kept there are, by label: "
        f"{total('label', 'without a label')}; by split: {total('split', 'in no split')}{remedy}"
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
