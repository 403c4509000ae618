"""ROI files in the three forms, good and bad."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import pickle
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from slideduck.errors import ConfigError, InputError
from slideduck.names import is_missing, nfc
from slideduck.roifiles.options import RoiOptions
from slideduck.roifiles.read import RoiFile, RoiOutline, find_roi_files, parse_roi_file
from tests.campaign import cases

SQUARE = [(0.0, 0.0), (10.0, 0.0), (10.0, 10.0), (0.0, 10.0)]
TRIANGLE = [(1.0, 1.0), (5.0, 1.0), (3.0, 4.5)]


def parse(folder: Path, name: str, content: str | bytes, **options: Any) -> RoiFile:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return parse_roi_file(path, RoiOptions(**options))


def problems(folder: Path, name: str, content: str | bytes) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse(folder, name, content)
    return list(caught.value.problems)


def closed(ring: Sequence[tuple[float, float]]) -> list[list[float]]:
    return [[float(x), float(y)] for x, y in (*ring, ring[0])]


def feature(geometry: Any, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def polygon(*rings: Sequence[tuple[float, float]]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [closed(ring) for ring in rings]}


def collection(*features: Any) -> str:
    return json.dumps({"type": "FeatureCollection", "features": features})


def region(vertices: Sequence[tuple[Any, Any]] = SQUARE, **attributes: Any) -> str:
    """An ImageScope region, one line for itself and one for each vertex."""
    attributes = {"Id": "1", "Type": "0", "Text": "", "NegativeROA": "0"} | attributes
    written = " ".join(f'{name}="{value}"' for name, value in attributes.items())
    points = "\n".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in vertices)
    return f"<Region {written}><Vertices>\n{points}\n</Vertices></Region>\n"


def imagescope(**layers: str) -> str:
    """An ImageScope file of layers by name; the first region is on line 2."""
    annotations = "".join(
        f'<Annotation Id="{i}" Name="{name.strip("_")}">'
        f'<Attributes><Attribute Name="Description" Value="not the label"/></Attributes>'
        f"<Regions>\n{regions}</Regions></Annotation>"
        for i, (name, regions) in enumerate(layers.items(), 1)
    )
    return f'<Annotations MicronsPerPixel="0.5">{annotations}</Annotations>'


def only(rois: RoiFile) -> RoiOutline:
    (outline,) = rois.outlines
    return outline


def rings(outline: RoiOutline) -> list[list[list[list[float]]]]:
    return [[ring.tolist() for ring in part] for part in outline.polygons]


def as_lists(*points: tuple[float, float]) -> list[list[float]]:
    return [list(point) for point in points]


# ------------------------------------------------------------------------------------ the real files


def test_real_csv_and_xml_are_the_same_rois(shared_data: Path) -> None:
    from_csv = parse_roi_file(shared_data / "CMU-1-Small-Region.csv")
    from_xml = parse_roi_file(shared_data / "CMU-1-Small-Region.xml")
    assert (from_csv.format, from_csv.holes) == ("csv", "nested")
    assert (from_xml.format, from_xml.holes) == ("xml", "explicit")
    assert from_csv.skipped == from_xml.skipped == ()
    by_name = {outline.roi_name: outline for outline in from_xml.outlines}
    assert len(from_csv.outlines) == len(by_name) == 11
    for outline in from_csv.outlines:
        other = by_name[outline.roi_name]
        assert (outline.slide, outline.label) == (other.slide, other.label)
        assert outline.slide == "CMU-1-Small-Region"
        assert outline.wkb() == other.wkb()
    assert by_name["unsure"].label is None
    assert [name for name, outline in by_name.items() if outline.marked_hole] == ["follicle_lumen"]
    assert not any(outline.marked_hole for outline in from_csv.outlines)
    assert from_csv.place(from_csv.outlines[1]) == "CMU-1-Small-Region.csv:26"
    assert from_xml.place(from_xml.outlines[1]) == "CMU-1-Small-Region.xml:26"


def test_real_csv_matches_a_reading_by_hand(shared_data: Path) -> None:
    path = shared_data / "CMU-1-Small-Region.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
    expected = {
        name: [[float(x), float(y)] for _, x, y, _ in group]
        for name, group in itertools.groupby(rows, key=lambda row: row[0])
    }
    rois = parse_roi_file(path)
    assert {outline.roi_name: rings(outline)[0][0] for outline in rois.outlines} == expected
    assert rois.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert rois.path == path.absolute()


def test_real_geojson_matches_shapely(shared_data: Path) -> None:
    path = shared_data / "TCGA-CR-7395-01A-01-TS1.geojson"
    rois = parse_roi_file(path)
    assert (rois.format, rois.holes, rois.skipped) == ("geojson", "explicit", ())
    features = json.loads(path.read_text())["features"]
    assert len(rois.outlines) == len(features) == 6
    for number, (outline, wanted) in enumerate(zip(rois.outlines, features, strict=True), 1):
        assert shapely.from_wkb(outline.wkb()).equals_exact(shapely.geometry.shape(wanted["geometry"]))
        assert outline.roi_name == wanted["properties"]["name"]
        assert outline.label == wanted["properties"]["classification"]["name"]
        assert rois.place(outline) == f"TCGA-CR-7395-01A-01-TS1.geojson:feature {number}"
    assert [len(outline.polygons[0]) for outline in rois.outlines] == [1, 2, 2, 1, 1, 1]


# ------------------------------------------------------------------------------------------- WKB

coordinate = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: value + 0.0)
ring_points = st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=12).filter(
    lambda points: len(set(points)) >= 3 and points[0] != points[-1]
)
polygon_rings = st.lists(ring_points, min_size=1, max_size=3)


def as_array(points: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    return np.array(points, dtype=np.float64)


@settings(max_examples=cases(200, 4000), deadline=None)
@given(st.lists(polygon_rings, min_size=1, max_size=3))
def test_wkb_is_what_shapely_writes(parts: list[list[list[tuple[float, float]]]]) -> None:
    outline = RoiOutline("s", "r", None, tuple(tuple(map(as_array, part)) for part in parts), False, 1)
    polygons = [shapely.Polygon(part[0], part[1:]) for part in parts]
    expected = polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)
    assert outline.wkb() == shapely.to_wkb(expected, byte_order=1)
    assert shapely.from_wkb(outline.wkb()).equals_exact(expected)


# ----------------------------------------------------------------------------- round trips, all forms

text = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="￾￿"),
    max_size=10,
).map(str.strip)
one_roi = st.tuples(text.filter(bool), text, ring_points)
many_rois = st.lists(one_roi, min_size=1, max_size=6, unique_by=lambda roi: nfc(roi[0]))
Rois = list[tuple[str, str, list[tuple[float, float]]]]


def check(rois: RoiFile, wanted: Rois) -> None:
    assert [(outline.roi_name, outline.label) for outline in rois.outlines] == [
        (nfc(name), None if is_missing(label) else nfc(label)) for name, label, _ in wanted
    ]
    for outline, (_, _, points) in zip(rois.outlines, wanted, strict=True):
        assert rings(outline) == [[as_lists(*points)]]
        assert outline.slide == "slide"


@settings(max_examples=cases(150, 3000), deadline=None)
@given(
    wanted=many_rois,
    order=st.permutations(["roi_name", "x_base", "y_base", "label"]),
    close=st.booleans(),
    delimiter=st.sampled_from(",;"),
    bom=st.booleans(),
    line_end=st.sampled_from(["\n", "\r\n"]),
    decimal_comma=st.booleans(),
)
def test_csv_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    wanted: Rois,
    order: list[str],
    close: bool,
    delimiter: str,
    bom: bool,
    line_end: str,
    decimal_comma: bool,
) -> None:
    lines = [delimiter.join(order)]
    for name, label, points in wanted:
        for x, y in (*points, points[0]) if close else points:
            cells = {"roi_name": name, "x_base": repr(x), "y_base": repr(y), "label": label}
            if decimal_comma and delimiter == ";":
                cells |= {axis: cells[axis].replace(".", ",") for axis in ("x_base", "y_base")}
            lines.append(delimiter.join('"' + cells[column].replace('"', '""') + '"' for column in order))
    content = (line_end.join(lines) + line_end).encode("utf-8-sig" if bom else "utf-8")
    rois = parse(tmp_path_factory.mktemp("csv"), "slide.csv", content)
    assert (rois.format, rois.holes) == ("csv", "nested")
    check(rois, wanted)


@settings(max_examples=cases(100, 2000), deadline=None)
@given(many_rois, st.booleans(), st.sampled_from([None, 2]), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_geojson_round_trip(
    tmp_path_factory: pytest.TempPathFactory, wanted: Rois, as_list: bool, indent: int | None, encoding: str
) -> None:
    features = [
        feature(polygon(points), name=name, classification={"name": label} if label else None)
        for name, label, points in wanted
    ]
    document = features if as_list else {"type": "FeatureCollection", "features": features}
    content = json.dumps(document, indent=indent, ensure_ascii=False).encode(encoding)
    rois = parse(tmp_path_factory.mktemp("geojson"), "slide.json", content)
    assert (rois.format, rois.holes) == ("geojson", "explicit")
    check(rois, wanted)


@settings(max_examples=cases(100, 2000), deadline=None)
@given(many_rois, st.sampled_from(["utf-8", "utf-16", "us-ascii"]))
def test_xml_round_trip(tmp_path_factory: pytest.TempPathFactory, wanted: Rois, encoding: str) -> None:
    root = ET.Element("Annotations")
    for name, label, points in wanted:
        layer = ET.SubElement(ET.SubElement(root, "Annotation", Name=label), "Regions")
        vertices = ET.SubElement(ET.SubElement(layer, "Region", Id="1", Type="0", Text=name), "Vertices")
        for x, y in points:
            ET.SubElement(vertices, "Vertex", X=repr(x), Y=repr(y), Z="0")
    content = ET.tostring(root, encoding, xml_declaration=True)
    rois = parse(tmp_path_factory.mktemp("xml"), "slide.xml", content)
    assert (rois.format, rois.holes) == ("xml", "explicit")
    check(rois, wanted)


# ------------------------------------------------------------------------------------------- CSV


def test_csv_of_several_slides(tmp_path: Path) -> None:
    rows = [("s1", "a", "t"), ("s2", "a", " "), ("s2", "b", "")]
    lines = [f"{slide}, {name} ,{label},{x},{y}" for slide, name, label in rows for x, y in TRIANGLE]
    rois = parse(tmp_path, "all.csv", "Slide,ROI_Name,Label,X_base,Y_base\n" + "\n".join(lines))
    assert [(o.slide, o.roi_name, o.label, o.row) for o in rois.outlines] == [
        ("s1", "a", "t", 2),
        ("s2", "a", None, 5),
        ("s2", "b", None, 8),
    ]


def test_format_is_told_by_content_not_by_suffix(tmp_path: Path) -> None:
    csv = "roi_name,x_base,y_base\n" + "".join(f"a,{x},{y}\n" for x, y in SQUARE)
    assert parse(tmp_path, "s.xml", csv).format == "csv"
    assert parse(tmp_path, "s.csv", "\ufeff \n" + collection(feature(polygon(SQUARE)))).format == "geojson"
    assert parse(tmp_path, "s.geojson", imagescope(a=region())).format == "xml"


def test_holes_are_as_usual_for_the_form_or_as_chosen(tmp_path: Path) -> None:
    csv = "roi_name,x_base,y_base\n" + "".join(f"a,{x},{y}\n" for x, y in SQUARE)
    assert parse(tmp_path, "s.csv", csv, holes="explicit").holes == "explicit"
    assert parse(tmp_path, "s.xml", imagescope(a=region()), holes="nested").holes == "nested"
    with pytest.raises(ConfigError, match=r"^holes is 'both'; give one of auto, nested, explicit$"):
        parse(tmp_path, "s.csv", csv, holes="both")


def test_closing_point_is_dropped_and_others_are_kept(tmp_path: Path) -> None:
    points = [*SQUARE[:2], *SQUARE[1:], SQUARE[0], SQUARE[0]]
    rows = "".join(f"a,{x},{y}\n" for x, y in points)
    outline = only(parse(tmp_path, "s.csv", "roi_name,x_base,y_base\n" + rows))
    assert rings(outline) == [[as_lists(*SQUARE[:2], *SQUARE[1:])]]
    assert shapely.from_wkb(outline.wkb()).area == 100
    with pytest.raises(ValueError, match="read-only"):
        outline.polygons[0][0][0, 0] = 7


def test_every_bad_row_of_a_csv_is_reported(tmp_path: Path) -> None:
    content = """\
roi_name,x_base,y_base,label
a,0,O.25,t
a,nan,0,t
a,10,,t
a,10,10,t
b,0,0,t
b,5,5,u
b,9,0,t
c,1,1,
c,2,2,
c,1,1,
a,7,7,t
a,8,7,t
a,8,8,t
,1,2,t
d,1
d,1,2,t
"""
    pixels = "write base pixels, such as 1024.5"
    unique = "names are unique in a slide: rename one, or put the rows of one ROI together"
    assert problems(tmp_path, "s.csv", content) == [
        f"s.csv:2: y_base is 'O.25', not a number; {pixels}",
        f"s.csv:3: x_base is 'nan', not a finite number; {pixels}",
        f"s.csv:4: y_base is empty; {pixels}",
        "s.csv:7: label is 'u', but ROI 'b' has label 't' from row 6 on; give all its rows one label",
        "s.csv:9: ROI 'c' has 2 distinct points; an area needs three or more",
        f"s.csv:12: ROI 'a' is there already (row 2); {unique}",
        "s.csv:15: roi_name is empty; write one in every row",
        "s.csv:16: 2 cells, but the header has 4; write every cell, empty ones too, "
        "and quote cells that hold the delimiter",
        "s.csv:17: ROI 'd' has 1 distinct point; an area needs three or more",
    ]


def test_bad_rows_of_a_csv_with_slides_name_the_slide(tmp_path: Path) -> None:
    rows = [*(f"s,a,{x},{y}" for x, y in SQUARE), "t,a,1,1", "t,a,2,2", "s,a,5,5", ",a,6,6"]
    assert problems(tmp_path, "all.csv", "slide,roi_name,x_base,y_base\n" + "\n".join(rows)) == [
        "all.csv:6: ROI 'a' of slide 't' has 2 distinct points; an area needs three or more",
        "all.csv:8: ROI 'a' of slide 's' is there already (row 2); "
        "names are unique in a slide: rename one, or put the rows of one ROI together",
        "all.csv:9: slide is empty; write one in every row",
    ]


def test_missing_column(tmp_path: Path) -> None:
    assert problems(tmp_path, "s.csv", "roi_name,x,y\na,1,2\n") == [
        "s.csv:1: no column 'x_base' and no column 'y_base'; the columns are: roi_name, x, y; "
        "it needs the columns roi_name, x_base, y_base (and may have label, slide)"
    ]


@pytest.mark.parametrize(("content", "what"), [("", "; save or export it again"), ("\ufeff", None)])
def test_empty_file(tmp_path: Path, content: str, what: str | None) -> None:
    needs = "; it needs the columns roi_name, x_base, y_base (and may have label, slide)"
    assert problems(tmp_path, "s.csv", content) == [f"s.csv:1: the file is empty{what or needs}"]


def test_problems_cross_processes(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        parse(tmp_path, "s.csv", "roi_name,x_base,y_base\na,1,2\n")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), again.problems, str(again)) == (
        InputError,
        caught.value.problems,
        "s.csv:2: ROI 'a' has 1 distinct point; an area needs three or more",
    )


# --------------------------------------------------------------------------------------- GeoJSON


def test_inner_rings_and_several_polygons(tmp_path: Path) -> None:
    hole = [(2, 2), (4, 2), (4, 4)]
    other = [(20, 20), (30, 20), (30, 30)]
    multi = {"type": "MultiPolygon", "coordinates": [[closed(SQUARE), closed(hole)], [closed(other)]]}
    outline = only(parse(tmp_path, "s.geojson", collection(feature(multi))))
    assert rings(outline) == [[as_lists(*SQUARE), as_lists(*hole)], [as_lists(*other)]]
    assert shapely.from_wkb(outline.wkb()).equals_exact(shapely.geometry.shape(multi))
    assert shapely.from_wkb(outline.wkb()).area == 100 - 2 + 50


@pytest.mark.parametrize(
    ("classification", "label"),
    [
        (None, None),
        ("  tumour ", "tumour"),
        ("", None),
        ({"name": " tumour "}, "tumour"),
        ({"name": " "}, None),
        ({"name": None, "colorRGB": -1}, None),
        ({}, None),
        ({"names": ["tumour", "positive"], "color": [1, 2, 3]}, "tumour: positive"),
    ],
)
def test_qupath_classification(tmp_path: Path, classification: Any, label: str | None) -> None:
    content = collection(feature(polygon(SQUARE), name="a", classification=classification))
    assert only(parse(tmp_path, "s.geojson", content)).label == label


def test_one_feature_and_one_geometry(tmp_path: Path) -> None:
    one = only(parse(tmp_path, "s.geojson", json.dumps(feature(polygon(SQUARE), name="a"))))
    assert (one.roi_name, one.row) == ("a", 1)
    bare = only(parse(tmp_path, "s.geojson", json.dumps(polygon(SQUARE))))
    assert (bare.roi_name, bare.label, rings(bare)) == ("ROI_1", None, [[as_lists(*SQUARE)]])


def test_feature_without_properties(tmp_path: Path) -> None:
    without: list[dict[str, Any]] = [{}, {"properties": None}, {"properties": {}}]
    for properties in without:
        content = json.dumps({"type": "Feature", "geometry": polygon(SQUARE), **properties})
        assert only(parse(tmp_path, "s.geojson", content)).roi_name == "ROI_1"


def test_z_coordinates_are_left_out(tmp_path: Path) -> None:
    flat = as_lists(*SQUARE)
    for points in ([[*point, 7.0] for point in flat], [[*flat[0], 7.0], *flat[1:]]):
        content = collection(feature({"type": "Polygon", "coordinates": [points]}))
        assert rings(only(parse(tmp_path, "s.geojson", content))) == [[flat]]


def test_unnamed_features_get_names_that_nobody_has(tmp_path: Path) -> None:
    names = [None, "ROI_1", "", "ROI_3_2", " ROI_4 ", "x"]
    content = collection(*(feature(polygon(SQUARE), name=name) for name in names))
    rois = parse(tmp_path, "s.geojson", content)
    assert [outline.roi_name for outline in rois.outlines] == [
        "ROI_1_2",
        "ROI_1",
        "ROI_3",
        "ROI_3_2",
        "ROI_4",
        "x",
    ]


def test_objects_without_an_area_are_counted(tmp_path: Path) -> None:
    content = collection(
        feature(polygon(SQUARE), name="a"),
        feature({"type": "LineString", "coordinates": [[0, 0], [1, 1]]}, name="a"),
        feature({"type": "Point", "coordinates": [0, 0]}),
        feature(None, name="b"),
        feature({"type": "GeometryCollection", "geometries": []}, name="c"),
    )
    rois = parse(tmp_path, "s.geojson", content)
    assert only(rois).roi_name == "a"
    assert rois.skipped == (
        "s.geojson:feature 2: ROI 'a' is a LineString, not a Polygon or MultiPolygon",
        "s.geojson:feature 3: a feature without a name is a Point, not a Polygon or MultiPolygon",
        "s.geojson:feature 4: ROI 'b' has no geometry",
        "s.geojson:feature 5: ROI 'c' is a GeometryCollection, not a Polygon or MultiPolygon",
    )
    points = parse(tmp_path, "s.geojson", collection(feature({"type": "Point", "coordinates": [0, 0]})))
    assert (points.outlines, len(points.skipped), points.slide) == ((), 1, "s")


def test_every_bad_feature_is_reported(tmp_path: Path) -> None:
    bad_ring = [[0, 0], [1, "2"], [True, 1], [3], None, [math.inf, 0], [5, 5]]
    content = collection(
        feature(polygon(SQUARE), name="a"),
        feature({"type": "Polygon", "coordinates": [bad_ring, closed(TRIANGLE[:2])]}, name="b"),
        feature(polygon(SQUARE), name=" a "),
        feature({"type": "Polygon"}, name="c"),
        feature({"type": "MultiPolygon", "coordinates": []}),
        feature({"type": "MultiPolygon", "coordinates": [[closed(SQUARE)], []]}),
        feature({"type": "Polygon", "coordinates": [[], 7]}),
        feature({"type": "Circle", "coordinates": [1, 2]}),
        feature(polygon(SQUARE), name=7),
        feature(polygon(SQUARE), classification=[1]),
        {"type": "Feature", "geometry": 5},
        "text",
    )
    draw = "not two finite numbers; draw it again"
    assert problems(tmp_path, "s.geojson", content) == [
        f"s.geojson:feature 2: point 2 of its outline is [1, '2'], {draw}",
        f"s.geojson:feature 2: point 3 of its outline is [True, 1], {draw}",
        f"s.geojson:feature 2: point 4 of its outline is [3], {draw}",
        f"s.geojson:feature 2: point 5 of its outline is None, {draw}",
        f"s.geojson:feature 2: point 6 of its outline is [inf, 0], {draw}",
        "s.geojson:feature 4: its coordinates hold None, not rings of points; draw it again",
        "s.geojson:feature 5: its coordinates are [], not polygons; draw it again",
        "s.geojson:feature 6: its coordinates hold [], not rings of points; draw it again",
        "s.geojson:feature 7: its hole is 7, not a list of points; draw it again",
        "s.geojson:feature 8: its geometry is a 'Circle'; draw a Polygon or MultiPolygon",
        "s.geojson:feature 9: its name is 7, not text; write a text",
        "s.geojson:feature 10: its classification is [1], not text; write a text",
        "s.geojson:feature 11: its geometry is 5, not an object; export it again",
        "s.geojson:feature 12: 'text' is not a Feature; export it again",
    ]
    short = collection(
        *(feature({"type": "Polygon", "coordinates": [closed(ring)]}) for ring in (SQUARE[:1], SQUARE[:2]))
    )
    assert problems(tmp_path, "s.geojson", short) == [
        "s.geojson:feature 1: its outline has 1 distinct point; an area needs three or more",
        "s.geojson:feature 2: its outline has 2 distinct points; an area needs three or more",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"type":\n "FeatureCollection", "features": [', "2: broken JSON at column 36: Expecting value"),
        ('{\n"a" 1}', "2: broken JSON at column 5: Expecting ':' delimiter"),
        ('{"features": ' + "1" * 5000 + "}", "1: JSON that cannot be read: Exceeds the limit"),
    ],
)
def test_broken_json(tmp_path: Path, content: str, message: str) -> None:
    (problem,) = problems(tmp_path, "s.geojson", content)
    assert problem.startswith(f"s.geojson:{message}")
    assert problem.endswith("; export it again")


def test_json_of_another_kind(tmp_path: Path) -> None:
    for content in ('{"a": 1}', '{"type": "FeatureCollection"}', '{"type": "Topology", "features": []}'):
        assert problems(tmp_path, "s.json", content) == [
            "s.json:1: JSON, but not GeoJSON: no FeatureCollection, list of features or Feature; "
            "export annotations from QuPath with File > Export objects as GeoJSON"
        ]
    looked_at = parse(tmp_path, "s.json", "[]")
    assert (looked_at.outlines, looked_at.slide) == ((), "s")


# --------------------------------------------------------------------------------- ImageScope XML


def test_label_is_the_layers_name_and_name_the_regions_text(tmp_path: Path) -> None:
    content = imagescope(tumour=region(Text=" a "), _=region(TRIANGLE, Text="b", NegativeROA="1"))
    first, second = parse(tmp_path, "s.xml", content).outlines
    assert (first.slide, first.roi_name, first.label, first.marked_hole) == ("s", "a", "tumour", False)
    assert (second.roi_name, second.label, second.marked_hole) == ("b", None, True)
    assert rings(second) == [[as_lists(*TRIANGLE)]]


def test_regions_without_a_text_are_named_by_their_ids(tmp_path: Path) -> None:
    """Ids begin again in each layer."""
    content = imagescope(
        a=region(Id="1") + region(Id="2") + region(Id="3", Text="ROI_1_2"),
        b=region(Id="1") + region(Id="2", Text="ROI_2"),
        c=region(Id=""),
    )
    rois = parse(tmp_path, "s.xml", content)
    assert [outline.roi_name for outline in rois.outlines] == [
        "ROI_1",
        "ROI_2_2",
        "ROI_1_2",
        "ROI_1_3",
        "ROI_2",
        "ROI_6",
    ]


def test_rectangle_and_ellipse_of_two_corners(tmp_path: Path) -> None:
    corners = [(110, 40), (10, 100)]
    content = imagescope(a=region(corners, Type="1") + region(corners, Id="2", Type="2") + region(Id="3", Type="1"))
    box, ellipse, drawn = (shapely.from_wkb(o.wkb()) for o in parse(tmp_path, "s.xml", content).outlines)
    assert box.equals(shapely.box(10, 40, 110, 100))
    exact = math.pi * 50 * 30
    assert len(ellipse.exterior.coords) == 129
    assert 0.9995 * exact < ellipse.area < exact
    assert np.allclose(ellipse.bounds, (10, 40, 110, 100))
    assert drawn.equals(shapely.Polygon(SQUARE))


def test_regions_without_an_area_are_counted(tmp_path: Path) -> None:
    line = [(0, 0), (5, 5)]
    content = imagescope(
        a=region(Text="a") + region(line, Id="2", Type="3") + region(line, Type="4", Text="r") + region(Type="9")
    )
    rois = parse(tmp_path, "s.xml", content)
    assert only(rois).roi_name == "a"
    assert rois.skipped == (
        "s.xml:8: region 2 without a name is an arrow, which has no area",
        "s.xml:12: ROI 'r' is a ruler, which has no area",
        "s.xml:16: region 1 without a name is a region of type '9', which has no area",
    )


def test_every_bad_region_is_reported(tmp_path: Path) -> None:
    content = imagescope(
        a=region([(0, 0), ("1,5", 1), (2, ""), ("nan", 3)], Text="a")
        + region(SQUARE[:2], Text="b")
        + region(Text="a")
        + region(Text="c", NegativeROA="yes")
        + region(SQUARE, Type="2", Id="5")
        + region([], Text="d")
    )
    write = "write base pixels, such as 1024.5"
    assert problems(tmp_path, "s.xml", content) == [
        "s.xml:4: X of a vertex of ROI 'a' is '1,5', not a finite number; " + write,
        "s.xml:5: Y of a vertex of ROI 'a' is missing or empty; " + write,
        "s.xml:6: X of a vertex of ROI 'a' is 'nan', not a finite number; " + write,
        "s.xml:8: ROI 'b' has 2 distinct points; an area needs three or more",
        "s.xml:18: ROI 'c' has NegativeROA 'yes'; write 0 or 1",
        "s.xml:24: region 5 without a name is an ellipse of 4 vertices, not the two corners of its box; draw it again",
        "s.xml:30: ROI 'd' has 0 distinct points; an area needs three or more",
    ]


def test_broken_xml(tmp_path: Path) -> None:
    good = imagescope(a=region())
    assert problems(tmp_path, "s.xml", good[:-5]) == [
        "s.xml:8: broken XML at column 24: unclosed token; export it again"
    ]
    assert problems(tmp_path, "s.xml", good.replace("</Vertices>", "")) == [
        "s.xml:7: broken XML at column 3: mismatched tag; export it again"
    ]
    assert problems(tmp_path, "s.xml", '<?xml version="1.0" encoding="klingon"?>' + good) == [
        "s.xml:1: XML that cannot be read: unknown encoding: klingon; save it as UTF-8"
    ]
    assert problems(tmp_path, "s.xml", "<Annotations>&lol;</Annotations>") == [
        "s.xml:1: broken XML at column 14: undefined entity; export it again"
    ]


def test_xml_of_another_program(tmp_path: Path) -> None:
    assert parse(tmp_path, "s.xml", "<Annotations/>").outlines == ()
    assert problems(tmp_path, "s.xml", "<!-- hello -->\n<svg/>") == [
        "s.xml: XML that begins with <svg>, not with <Annotations> (ImageScope, HALO), <ASAP_Annotations> (ASAP) or "
        "<annotations> (NDP.view); export it from one of these, or as GeoJSON"
    ]


BOMB = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10 if i else "lol"}">\n' for i in range(20))


@pytest.mark.parametrize(
    "declaration",
    [
        pytest.param(
            f"<!DOCTYPE Annotations [\n{BOMB}]>",
            marks=pytest.mark.attack("bombs", "XML whose entities grow tenfold, nineteen times"),
        ),
        pytest.param(
            '<!DOCTYPE Annotations [<!ENTITY l19 SYSTEM "file:///etc/passwd">]>',
            marks=pytest.mark.attack("XML and JSON", "XML with an entity that is /etc/passwd"),
        ),
        '<!DOCTYPE Annotations [<!ENTITY % l19 SYSTEM "file:///etc/passwd"> %l19;]>',
        pytest.param(
            '<!DOCTYPE Annotations SYSTEM "http://localhost/a.dtd">',
            marks=pytest.mark.attack("XML and JSON", "XML whose declarations a server gives"),
        ),
        "<!DOCTYPE Annotations>",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_that_could_define_entities_is_refused(tmp_path: Path, declaration: str, encoding: str) -> None:
    body = imagescope(a=region(Text="&l19;"))
    content = f'<?xml version="1.0" encoding="{encoding}"?>\n{declaration}\n{body}'.encode(encoding)
    assert problems(tmp_path, "s.xml", content) == [
        "s.xml:2: declares a document type (<!DOCTYPE ...>), which could define entities and is refused; "
        "take the declaration out"
    ]


# ------------------------------------------------------------------------------------ damaged files

WHOLE = [
    b"roi_name,x_base,y_base,label\n" + b"".join(b"a,%d,%d,t\n" % (x, y) for x, y in SQUARE),
    collection(feature(polygon(SQUARE, TRIANGLE), name="a", classification={"name": "t"})).encode(),
    imagescope(t=region(Text="a") + region(TRIANGLE, Text="b", NegativeROA="1")).encode(),
    b'<ASAP_Annotations><Annotation Name="a" Type="Polygon" PartOfGroup="t"><Coordinates>'
    + b"".join(
        b'<Coordinate Order="%d" X="%d" Y="%d"/>' % (i, *point) for i, point in enumerate([(0, 0), (9, 0), (9, 9)])
    )
    + b"</Coordinates></Annotation></ASAP_Annotations>",
    b'<annotations><ndpviewstate id="1"><title>a</title><annotation type="freehand"><pointlist>'
    + b"".join(b"<point><x>%d</x><y>%d</y></point>" % point for point in [(0, 0), (9000, 0), (9000, 9000)])
    + b"</pointlist></annotation></ndpviewstate></annotations>",
]
PIECES = [
    b"",
    b'"',
    b"\0",
    b"\xff",
    b";",
    b"\r",
    b"nan",
    b"1e999",
    b"[",
    b"}",
    b"null",
    b"<",
    b"&x;",
    b"\xff\xfe",
]
damage = st.tuples(st.floats(0, 1), st.integers(0, 20), st.sampled_from(PIECES) | st.binary(max_size=3))


@settings(max_examples=cases(400, 8000), deadline=None)
@given(st.sampled_from(WHOLE), st.lists(damage, min_size=1, max_size=5))
def test_damaged_file_is_read_or_refused_with_its_name(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, damages: list[tuple[float, int, bytes]]
) -> None:
    for where, length, piece in damages:
        at = int(where * len(content))
        content = content[:at] + piece + content[at + length :]
    refused: tuple[str, ...] = ()
    outlines: tuple[RoiOutline, ...] = ()
    try:
        outlines = parse(tmp_path_factory.mktemp("damaged"), "s.csv", content).outlines
    except InputError as error:
        refused = error.problems
    assert not (refused and outlines)
    assert all(problem.startswith("s.csv:") for problem in refused)
    for outline in outlines:
        assert outline.roi_name
        assert np.isfinite(shapely.get_coordinates(shapely.from_wkb(outline.wkb()))).all()


# ----------------------------------------------------------------------------------- finding files


def test_finding_roi_files(tmp_path: Path) -> None:
    for name in ("b.csv", "a.XML", "sub/c.geojson", "sub/d.json", "e.txt", ".f.csv", ".g/h.csv"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    names = ["a.XML", "b.csv", "sub/c.geojson", "sub/d.json"]
    assert find_roi_files(tmp_path) == [tmp_path / name for name in names]
    assert find_roi_files([str(tmp_path / "b.csv"), tmp_path, tmp_path / "e.txt"]) == sorted(
        tmp_path / name for name in [*names, "e.txt"]
    )
    assert find_roi_files(str(tmp_path / "*.csv")) == [tmp_path / "b.csv"]
    assert find_roi_files(str(tmp_path / "**")) == [tmp_path / name for name in names]
    assert find_roi_files(str(tmp_path / "*.txt")) == [tmp_path / "e.txt"]
    assert find_roi_files(str(tmp_path / "s*")) == [tmp_path / "sub/c.geojson", tmp_path / "sub/d.json"]


def test_every_path_without_roi_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    paths: list[str | Path] = [tmp_path / "none.csv", tmp_path / "empty", str(tmp_path / "*.xml")]
    with pytest.raises(InputError) as caught:
        find_roi_files(paths)
    assert caught.value.problems == (
        f"{tmp_path}/none.csv: no such file or folder; check the path",
        f"{tmp_path}/empty: no ROI file in this folder or below it (looked for .csv, .geojson, .json, .xml, "
        ".annotations, .ndpa, .geojson.gz, .json.gz); give another folder, or name the files",
        f"{tmp_path}/*.xml: no ROI file matches this pattern; check it",
    )
    with pytest.raises(
        InputError, match=re.escape("no ROI file given; name files, folders or patterns such as '*.csv'")
    ):
        find_roi_files([])
