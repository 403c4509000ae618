"""ROIs from GeoParquet: of ours, of other writers, and damaged."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

import slideduck as sd
from slideduck.errors import InputError
from slideduck.roifiles.outlines import RoiOutline
from slideduck.roifiles.read import RoiFile, parse_roi_file
from slideduck.roifiles.wkb import polygons_from_wkb
from tests.campaign import cases

SQUARE = shapely.box(0, 0, 10, 10)
TRIANGLE = shapely.Polygon([(20, 20), (30, 20), (30, 30)])
SOMEWHERE: dict[str, object] = {"encoding": "WKB", "geometry_types": [], "crs": None}


def write(path: Path, columns: dict[str, Any], geo: object = None) -> Path:
    """Write columns, shapes of which become well-known binary, as GeoParquet."""
    arrays = {
        name: pa.array([shapely.to_wkb(v) if isinstance(v, shapely.Geometry) else v for v in values])
        if isinstance(values, list)
        else values
        for name, values in columns.items()
    }
    geo = geo or {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": SOMEWHERE}}
    pq.write_table(pa.table(arrays).replace_schema_metadata({"geo": json.dumps(geo)}), path)
    return path


def problems(path: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse_roi_file(path)
    return list(caught.value.problems)


def shapes(rois: RoiFile) -> list[shapely.Geometry]:
    return [shapely.from_wkb(outline.wkb()) for outline in rois.outlines]


def said(outline: RoiOutline) -> tuple[str, str, str | None, bool, int]:
    return outline.slide, outline.roi_name, outline.label, outline.marked_hole, outline.row


def test_a_file_of_geometries_alone(tmp_path: Path) -> None:
    """The stem is the slide, as for the other forms."""
    rois = parse_roi_file(write(tmp_path / "s1.parquet", {"geometry": [SQUARE, TRIANGLE]}))
    assert (rois.format, rois.holes, rois.skipped) == ("geoparquet", "explicit", ())
    assert [said(one) for one in rois.outlines] == [
        ("s1", "ROI_1", None, False, 1),
        ("s1", "ROI_2", None, False, 2),
    ]
    assert shapes(rois) == [SQUARE, TRIANGLE]
    assert rois.place(rois.outlines[1]) == "s1.parquet:2"


def test_texts_of_every_type(tmp_path: Path) -> None:
    columns = {
        "slide": pa.array(["s1", " s2 "]).dictionary_encode(),
        "roi_name": pa.array([" a", "a"], pa.large_string()),
        "label": pa.array(["t", ""], pa.string_view()),
        "parent": pa.nulls(2),
        "geometry": [SQUARE, TRIANGLE],
    }
    rois = parse_roi_file(write(tmp_path / "x.parquet", columns))
    assert [said(one) for one in rois.outlines] == [("s1", "a", "t", False, 1), ("s2", "a", None, False, 2)]


def test_holes_and_outlines(tmp_path: Path) -> None:
    hole = shapely.box(2, 2, 4, 4)
    columns = {
        "roi_name": ["a", "h", "b"],
        "parent": [None, "a", None],
        "geometry": [SQUARE.difference(hole), hole, TRIANGLE],
        "outline": pa.array([shapely.to_wkb(SQUARE), None, None], pa.binary()),
    }
    rois = parse_roi_file(write(tmp_path / "x.parquet", columns))
    assert [one.marked_hole for one in rois.outlines] == [False, True, False]
    assert shapes(rois) == [SQUARE, hole, TRIANGLE]


def test_an_edited_geometry_is_not_overlooked(tmp_path: Path) -> None:
    hole = shapely.box(2, 2, 4, 4)
    columns = {
        "roi_name": ["a", "h"],
        "parent": [None, "a"],
        "geometry": [SQUARE.difference(hole).buffer(1), hole],
        "outline": pa.array([shapely.to_wkb(SQUARE), None], pa.binary()),
    }
    assert problems(write(tmp_path / "x.parquet", columns)) == [
        "x.parquet:1: geometry of ROI 'a' is not its outline without its holes, so that one of them was changed; "
        "leave out the column outline to take geometry as it is"
    ]
    del columns["outline"]
    rois = parse_roi_file(write(tmp_path / "x.parquet", columns))
    assert shapes(rois)[0].equals(SQUARE.difference(hole).buffer(1))
    # A hole that was changed contradicts its ROI too.
    columns["geometry"] = [SQUARE.difference(hole), shapely.box(2, 2, 5, 5)]
    columns["outline"] = pa.array([shapely.to_wkb(SQUARE), None], pa.binary())
    assert len(problems(write(tmp_path / "x.parquet", columns))) == 1


def test_every_bad_row_is_reported(tmp_path: Path) -> None:
    thin = shapely.Polygon([(0, 0), (1, 1), (0, 0), (1, 1)])
    columns = {
        "slide": ["s", "s", "s", "", "s", "s", "s", "s"],
        "roi_name": ["a", "a", "b", "c", "d", "e", "f", ""],
        "geometry": pa.array(
            [
                shapely.to_wkb(SQUARE),
                shapely.to_wkb(TRIANGLE),
                shapely.to_wkb(shapely.Polygon(SQUARE.exterior.coords, [thin.exterior.coords])),
                shapely.to_wkb(SQUARE),
                shapely.to_wkb(SQUARE)[:-3],
                shapely.to_wkb(shapely.Polygon([(0, 0), (np.inf, 1), (1, 1)])),
                shapely.to_wkb(shapely.MultiPolygon()),
                b"\7",
            ],
            pa.binary(),
        ),
    }
    assert problems(write(tmp_path / "x.parquet", columns)) == [
        "x.parquet:4: slide is empty; write the slide's name",
        "x.parquet:5: the geometry of ROI 'd' is broken: cut short after 90 bytes; write the file again",
        "x.parquet:6: the outline of ROI 'e' has a point that is not finite; draw it again",
        "x.parquet:7: the geometry of ROI 'f' is empty; draw it again or remove it",
        "x.parquet:8: the geometry of a row without a name is broken: byte order 7, which is neither 0 nor 1; "
        "write the file again",
    ]


def test_rows_without_an_area_are_counted(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.parquet",
        {"roi_name": ["a", "b", ""], "geometry": [SQUARE, shapely.Point(1, 2), shapely.LineString([(0, 0), (1, 1)])]},
    )
    rois = parse_roi_file(path)
    assert rois.skipped == (
        "x.parquet:2: ROI 'b' is a Point, not a Polygon or MultiPolygon",
        "x.parquet:3: a row without a name is a LineString, not a Polygon or MultiPolygon",
    )
    path = write(tmp_path / "x.parquet", {"geometry": pa.array([None], pa.binary())})
    empty = parse_roi_file(path)
    assert (empty.outlines, empty.skipped) == ((), ("x.parquet:1: a row without a name has no geometry",))
    assert (empty.slide, empty.notes.texts()) == ("x", ())


def test_names_that_come_twice_are_numbered_but_not_beside_an_outline(tmp_path: Path) -> None:
    thin = shapely.LinearRing([(1, 1), (2, 2), (1, 1), (1, 1)])
    columns = {
        "slide": ["s", "t", "s"],
        "roi_name": ["a", "a", "a"],
        "geometry": [SQUARE, SQUARE, shapely.Polygon(SQUARE.exterior.coords, [thin])],
    }
    rois = parse_roi_file(write(tmp_path / "x.parquet", columns))
    assert [(o.slide, o.roi_name) for o in rois.outlines] == [("s", "a"), ("t", "a"), ("s", "a_2")]
    assert shapes(rois)[2].equals(SQUARE)
    assert rois.notes.texts() == (
        "1 ROI with the name of another numbered: s: a_2",
        "1 hole of fewer than three distinct points left out: x.parquet:3",
    )
    columns["outline"] = [shapely.to_wkb(SQUARE)] * 3
    assert problems(write(tmp_path / "x.parquet", columns)) == [
        "x.parquet:3: ROI 'a' of slide 's' is there already (row 1); with a column outline names are unique in a "
        "slide: rename one"
    ]
    columns["roi_name"][2] = "b"
    assert len(parse_roi_file(write(tmp_path / "x.parquet", columns)).outlines) == 3


def test_areas_of_geometrycollections_are_read(tmp_path: Path) -> None:
    line, points = shapely.LineString([(0, 0), (1, 1), (2, 0)]), shapely.MultiPoint([(0, 0), (1, 1)])
    nested = shapely.GeometryCollection([line, shapely.GeometryCollection([points, TRIANGLE]), SQUARE])
    rois = parse_roi_file(write(tmp_path / "x.parquet", {"geometry": [nested]}))
    assert shapes(rois)[0].equals_exact(shapely.MultiPolygon([TRIANGLE, SQUARE]))
    assert rois.notes.texts() == ("1 GeometryCollection of which the areas alone were taken: x.parquet:1",)


@pytest.mark.parametrize(
    ("geo", "message"),
    [
        (
            {"primary_column": "geometry", "columns": {"geometry": {"encoding": "WKB"}}},
            "column 'geometry' has a coordinate reference system; ROIs are in level-0 pixels and have none: "
            "take it off with set_crs(None, allow_override=True)",
        ),
        (
            {"primary_column": "geometry", "columns": {"geometry": {"encoding": "polygon", "crs": None}}},
            "column 'geometry' is encoded as 'polygon'; write it as WKB",
        ),
        (
            {"primary_column": "shape", "columns": {"shape": SOMEWHERE}},
            "the metadata 'geo' names no geometry column of the file; write it again",
        ),
        ([1], "the metadata 'geo' names no geometry column of the file; write it again"),
    ],
)
def test_metadata_that_is_not_for_pixels(tmp_path: Path, geo: object, message: str) -> None:
    assert problems(write(tmp_path / "x.parquet", {"geometry": [SQUARE]}, geo)) == [f"x.parquet: {message}"]


def test_parquet_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    assert problems(path) == [
        "x.parquet: Parquet, but not GeoParquet: no metadata 'geo'; write it with GeoPandas"
    ]  # fmt: skip
    path.write_bytes(path.read_bytes()[:-9])
    (problem,) = problems(path)
    assert problem.startswith("x.parquet: broken Parquet: ")
    columns = {"roi_name": pa.array([1, 2]), "geometry": [SQUARE, TRIANGLE]}
    assert problems(write(path, columns)) == ["x.parquet: column 'roi_name' is int64, not text; store it as text"]
    assert problems(write(path, {"geometry": pa.array([1.5])})) == [
        "x.parquet: column 'geometry' is double, not WKB; write it as WKB"
    ]


def test_a_file_is_added_to_a_study_and_replaces_itself(real_study: sd.Study, tmp_path: Path) -> None:
    (path,) = real_study.export_rois(tmp_path / "out", format="geoparquet").paths
    report = real_study.add_rois(path, roi_set="again")
    assert (report.files, report.rois, report.holes, report.slides) == (1, 17, 1, 2)
    assert real_study.sql("SELECT format, holes FROM roi_files WHERE roi_set = 'again'").fetchall() == [
        ("geoparquet", "explicit")
    ]
    real_study.export_rois(tmp_path / "out", format="geoparquet", slides=["CMU-1-Small-Region"], overwrite=True)
    assert real_study.add_rois(path, roi_set="again").rois == 11
    assert real_study.sql("SELECT count(*) FROM rois WHERE roi_set = 'again'").fetchall() == [(11,)]


# ---------------------------------------------------------------------------------- well-known binary

coordinates = st.floats(-1e6, 1e6, allow_nan=False)
rings = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=6)
shape_lists = st.lists(st.lists(rings, min_size=1, max_size=3), min_size=1, max_size=3)


@settings(max_examples=cases(200, 4000), deadline=None)
@given(shape_lists, st.booleans(), st.sampled_from([2, 3]), st.sampled_from(["iso", "extended"]), st.booleans())
def test_polygons_of_every_dialect_are_read_as_shapely_reads_them(
    polygons: list[list[list[tuple[float, float]]]], is_multi: bool, dimensions: int, flavour: Any, is_little: bool
) -> None:
    parts = [shapely.Polygon(outer, inner) for outer, *inner in polygons]
    shape = shapely.MultiPolygon(parts) if is_multi else parts[0]
    if dimensions == 3:
        shape = shapely.force_3d(shape, 7.0)
    if flavour == "extended":
        shape = shapely.set_srid(shape, 4326)
    data = shapely.to_wkb(
        shape,
        flavor=flavour,
        byte_order=int(is_little),
        output_dimension=dimensions,
        include_srid=flavour == "extended",
    )
    kind, found = polygons_from_wkb(data)
    assert kind == shape.geom_type
    assert len(found) == len(shapely.get_parts(shape))
    flat = shapely.force_2d(shape)
    assert [ring.tolist() for polygon in found for ring in polygon] == [
        opened(ring.coords) for part in shapely.get_parts(flat) for ring in (part.exterior, *part.interiors)
    ]


def opened(points: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return the points of a ring without the repetitions of the first at its end."""
    ring = [list(point[:2]) for point in points]
    while len(ring) > 1 and ring[-1] == ring[0]:
        ring.pop()
    return ring


@settings(max_examples=cases(300, 6000), deadline=None)
@given(st.binary(max_size=40) | shape_lists.map(lambda p: shapely.to_wkb(shapely.Polygon(p[0][0]))), st.data())
def test_damaged_bytes_are_refused(data: bytes, draw: st.DataObject) -> None:
    cut = data[: draw.draw(st.integers(0, len(data)))]
    # Whatever the bytes are, they are read or refused, and nothing else.
    with contextlib.suppress(ValueError):
        kind, polygons = polygons_from_wkb(cut)
        assert kind in ("Polygon", "MultiPolygon") or not polygons


def test_bytes_that_are_no_geometry() -> None:
    with pytest.raises(ValueError, match=r"^cut short after 0 bytes$"):
        polygons_from_wkb(b"")
    with pytest.raises(ValueError, match=r"^geometry type 99, which does not exist$"):
        polygons_from_wkb(b"\x01\x63\0\0\0")
    with pytest.raises(ValueError, match=r"^a MultiPolygon with a Point in it$"):
        polygons_from_wkb(b"\x01\x06\0\0\0\x01\0\0\0\x01\x01\0\0\0")
