"""Reads ROIs from GeoParquet 1.1, in base pixels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from slideduck.errors import InputError
from slideduck.files.find import quoted
from slideduck.files.parquet import parquet_schema, read_parquet
from slideduck.files.tables import Problem, check_columns
from slideduck.roifiles.options import RoiOptions
from slideduck.roifiles.outlines import Note, Notes, Parsed, Polygon, RoiOutline, Skipped, with_names, with_points
from slideduck.roifiles.wkb import polygons_from_wkb
from slideduck.store.db import load_spatial, spatial_config
from slideduck.store.sqlfiles import read_query

__all__ = ["parse_geoparquet"]

_AREAS = ("Polygon", "MultiPolygon")
_COLLECTION = Note("GeometryCollection", "GeometryCollections", "of which the areas alone were taken")
_TEXTS = ("slide", "roi_name", "label", "parent")
#: A column without any text is of type null.
_TEXT_TYPES = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)


def parse_geoparquet(path: Path, slide: str, data: bytes, options: RoiOptions) -> Parsed:
    """Read the ROIs of a GeoParquet file.

    Parameters
    ----------
    path : Path
        The file.
    slide : str
        The slide that it is of where there is no column ``slide``.
    data : bytes
        Its content. The primary geometry is what was drawn, in base pixels, unless a column ``outline`` holds
        something; a row with a ``parent`` is a hole. ``roi_name`` and ``label`` may be missing.
    options : RoiOptions
        None of them is for this format.

    Returns
    -------
    Parsed
        Rows without a name are ``ROI_1`` and so on, by their number in the file, from 1.

    Raises
    ------
    InputError
        If the file as a whole is no GeoParquet in pixels.
    """
    file = path.name
    table, primary = _read(file, data)
    n, names_slides = table.num_rows, "slide" in table.column_names
    texts = {name: _text(file, table, name) for name in _TEXTS}
    if not names_slides:
        texts["slide"] = [slide] * n
    geometries = _geometries(file, table, primary)
    drawn = _geometries(file, table, "outline") if "outline" in table.column_names else [None] * n
    parsed = Parsed(None if names_slides else slide)
    left: dict[int, bytes] = {}
    # Names tell an outline its geometry, and a hole its parent: a name that came twice would say neither.
    unique = any(drawn)
    first_of: dict[tuple[str, str], int] = {}
    for row in range(1, n + 1):
        of_slide, name, label, parent = (texts[column][row - 1] for column in _TEXTS)
        called = f"ROI {name!r}" if name else "a row without a name"
        geometry, place = drawn[row - 1] or geometries[row - 1], f"{file}:{row}"
        if geometry is None:
            parsed.skipped.append(Skipped("empty row", f"{place}: {called} has no geometry"))
            continue
        wrong = [] if of_slide else ["slide is empty; write the slide's name"]
        if name and unique and first_of.setdefault((of_slide, name), row) != row:
            wrong.append(
                f"{called} of slide {of_slide!r} is there already (row {first_of[of_slide, name]}); with a column "
                "outline names are unique in a slide: rename one"
            )
        try:
            kind, polygons = polygons_from_wkb(geometry)
        except ValueError as error:
            wrong.append(f"the geometry of {called} is broken: {error}; write the file again")
        else:
            if kind not in _AREAS and not polygons:
                message = f"{place}: {called} is a {kind}, not a Polygon or MultiPolygon"
                parsed.skipped.append(Skipped(kind, message))
                continue
            if kind not in _AREAS:
                parsed.notes.add(_COLLECTION, place)
            polygons, wrong_rings = _checked(called, polygons, place, parsed.notes)
            wrong += wrong_rings
        if drawn[row - 1] is not None and (beside := geometries[row - 1]) is not None:
            try:
                left[row] = _without_flat_parts(beside)
            except ValueError as error:
                wrong.append(f"the geometry beside the outline of {called} is broken: {error}; write the file again")
        if wrong:
            parsed.problems.extend((row, f"{place}: {what}") for what in wrong)
        else:
            parsed.outlines.append(RoiOutline(of_slide, name, label or None, polygons, bool(parent), row))
    parsed.outlines[:] = with_names(parsed.outlines, [f"ROI_{o.row}" for o in parsed.outlines], parsed.notes)
    if not parsed.problems:
        parsed.problems.extend(_edited(file, parsed.outlines, left))
    return parsed


def _read(file: str, data: bytes) -> tuple[pa.Table, str]:
    """Return the table of a file, and the name of its primary geometry."""
    schema = parquet_schema(file, data)
    check_columns(schema.names, (), (), file)
    metadata = (schema.metadata or {}).get(b"geo")
    try:
        geo = None if metadata is None else json.loads(metadata)
    except (ValueError, RecursionError) as error:
        raise InputError([f"{file}: the metadata 'geo' is no JSON: {error}; write it again"]) from error
    if geo is None:
        raise InputError([f"{file}: Parquet, but not GeoParquet: no metadata 'geo'; write it with GeoPandas"])
    primary = geo.get("primary_column") if isinstance(geo, dict) else None
    columns = geo.get("columns") if isinstance(geo, dict) else None
    column = columns.get(primary) if isinstance(columns, dict) else None
    if not isinstance(primary, str) or primary not in schema.names or not isinstance(column, dict):
        raise InputError([f"{file}: the metadata 'geo' names no geometry column of the file; write it again"])
    if column.get("encoding") != "WKB":
        raise InputError(
            [f"{file}: column {primary!r} is encoded as {quoted(column.get('encoding'))}; write it as WKB"]
        )
    if column.get("crs", "") is not None:
        raise InputError(
            [
                f"{file}: column {primary!r} has a coordinate reference system; ROIs are in level-0 pixels and have "
                "none: take it off with set_crs(None, allow_override=True)"
            ]
        )
    wanted = {primary, "outline", *_TEXTS}
    return read_parquet(file, data, [name for name in schema.names if name in wanted]), primary


def _text(file: str, table: pa.Table, name: str) -> list[str]:
    """Return a column of texts without outer spaces, empty for null; all empty where it is missing."""
    if name not in table.column_names:
        return [""] * table.num_rows
    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not any(is_type(column.type) for is_type in _TEXT_TYPES):
        raise InputError([f"{file}: column {name!r} is {column.type}, not text; store it as text"])
    return [(text or "").strip() for text in column.cast(pa.string()).to_pylist()]


def _geometries(file: str, table: pa.Table, name: str) -> list[bytes | None]:
    """Return a column of well-known binary."""
    column = table.column(name)
    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    try:
        values: list[bytes | None] = column.cast(pa.binary()).to_pylist()
    except pa.ArrowException as error:
        raise InputError([f"{file}: column {name!r} is {column.type}, not WKB; write it as WKB"]) from error
    return values


def _checked(
    called: str, polygons: tuple[Polygon, ...], place: str, notes: Notes
) -> tuple[tuple[Polygon, ...], list[str]]:
    """Return the polygons of an ROI that have an area, and what is wrong with its rings."""
    if not polygons:
        return polygons, [f"the geometry of {called} is empty; draw it again or remove it"]
    wrong = [
        f"the {'hole' if i else 'outline'} of {called} has a point that is not finite; draw it again"
        for polygon in polygons
        for i, ring in enumerate(polygon)
        if not np.isfinite(ring).all()
    ]
    return (polygons, wrong) if wrong else with_points(polygons, lambda part: f"the {part} of {called}", place, notes)


def _without_flat_parts(geometry: bytes) -> bytes:
    """Return the areas of a geometry, as the database can read them."""
    _, polygons = polygons_from_wkb(geometry)
    if not all(np.isfinite(ring).all() for polygon in polygons for ring in polygon):
        raise ValueError("a point that is not finite")
    kept, _ = with_points(polygons, str, "", Notes())
    return RoiOutline("", "", None, kept, False, 0).wkb()


def _edited(file: str, outlines: Sequence[RoiOutline], left: Mapping[int, bytes]) -> list[Problem]:
    """Return the rows whose geometry and outline contradict each other: nothing says which of them is meant.

    `left` has the geometry of each row that has both.
    """
    if not left or not outlines:
        return []
    shapes = [("drawn", one, one.marked_hole, one.wkb()) for one in outlines]
    shapes += [("left", one, False, left[one.row]) for one in outlines if one.row in left]
    sets, rois, marked, wkb = zip(*shapes, strict=True)
    n = len(shapes)
    staged = pa.table(
        {
            "file": [file] * n,
            "row_no": pa.array([one.row for one in rois], pa.int64()),
            "place": [file] * n,
            "roi_set": pa.array(sets, pa.string()),
            "slide": pa.array([one.slide for one in rois], pa.string()),
            "roi_name": pa.array([one.roi_name for one in rois], pa.string()),
            "label": pa.array([one.label for one in rois], pa.string()),
            "marked_hole": pa.array(marked, pa.bool_()),
            "nested": [False] * n,
            "traced": [False] * n,
            "wkb": pa.array(wkb, pa.binary()),
        }
    )
    with duckdb.connect(config=spatial_config()) as con:
        load_spatial(con)
        con.register("incoming_roi", staged)
        for query in ("stage_rois", "nest_rois"):
            con.execute(read_query(query))
        rows = con.execute(read_query("find_edited_rois")).fetchall()
    return [
        (
            row,
            f"{file}:{row}: geometry of ROI {name!r} is not its outline without its holes, so that one of them was "
            "changed; leave out the column outline to take geometry as it is",
        )
        for row, name in rows
    ]
