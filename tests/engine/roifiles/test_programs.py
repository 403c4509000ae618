"""ROI files of HALO, ASAP and NDP.view, of QuPath in all its versions, packed files, and those of other programs."""

from __future__ import annotations

import gzip
import io
import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

import slideduck as sd
from slideduck.errors import InputError
from slideduck.roifiles.ndpa import base_from_nm
from slideduck.roifiles.options import RoiOptions
from slideduck.roifiles.read import RoiFile, find_roi_files, parse_roi_file, slide_of
from tests.slides import write_slide

# Regions of a file that HALO wrote: tests/testdata/test_comments.annotations of rharkes/pyhaloxml, bc1dc8f.
HALO = """\
<Annotations>
  <Annotation Name="Layer 1" Visible="True" LineColor="5634047">
    <Regions>
      <Region Type="Rectangle" HasEndcaps="0" NegativeROA="0">
        <Vertices>
          <V X="-27865" Y="40907" />
          <V X="-17161" Y="51611" />
        </Vertices>
        <Comments>
          <Comment Author="&lt;no user&gt;" Body="This is a square" CreatedTime="2024-03-20T17:02:03.8223080Z" />
          <Comment Author="&lt;no user&gt;" Body="But also a circle" CreatedTime="2024-03-20T17:02:03.8697030Z" />
        </Comments>
      </Region>
      <Region Type="Ellipse" HasEndcaps="0" NegativeROA="0">
        <Vertices>
          <V X="-11077" Y="43034" />
          <V X="-666" Y="53445" />
        </Vertices>
        <Comments>
          <Comment Author="&lt;no user&gt;" Body="This is a circle" CreatedTime="2024-03-20T17:02:03.9152700Z" />
        </Comments>
      </Region>
    </Regions>
  </Annotation>
</Annotations>"""

# The file by which NKI's dlup tests its reader, tests/test_annotations.py, which finds an area of 3756 pixels.
ASAP = """\
<?xml version="1.0"?>
<ASAP_Annotations>
    <Annotations>
        <Annotation Name="Annotation 0" Type="Polygon" PartOfGroup="healthy glands" Color="#f96400">
            <Coordinates>
                <Coordinate Order="0" X="11826" Y="12804"/>
                <Coordinate Order="1" X="11818" Y="12808"/>
                <Coordinate Order="2" X="11804" Y="12826"/>
                <Coordinate Order="3" X="11788" Y="12860"/>
                <Coordinate Order="4" X="11778" Y="12874"/>
                <Coordinate Order="5" X="11858" Y="12874"/>
                <Coordinate Order="6" X="11862" Y="12858"/>
                <Coordinate Order="7" X="11844" Y="12814"/>
                <Coordinate Order="8" X="11842" Y="12810"/>
            </Coordinates>
        </Annotation>
    </Annotations>
    <AnnotationGroups>
        <Group Name="healthy glands" PartOfGroup="None" Color="#f96400">
            <Attributes/>
        </Group>
    </AnnotationGroups>
</ASAP_Annotations>"""

BOX = {"type": "Polygon", "coordinates": [[[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]]}


def parse(path: Path, content: str | bytes, **options: Any) -> RoiFile:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return parse_roi_file(path, RoiOptions(**options))


def problems(path: Path, content: str | bytes) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse(path, content)
    return list(caught.value.problems)


def shapes(rois: RoiFile) -> list[shapely.Geometry]:
    return [shapely.from_wkb(outline.wkb()) for outline in rois.outlines]


def names(rois: RoiFile) -> list[tuple[str, str | None]]:
    return [(outline.roi_name, outline.label) for outline in rois.outlines]


# ------------------------------------------------------------------------------------------- HALO


def test_halo(tmp_path: Path) -> None:
    rois = parse(tmp_path / "A.annotations", HALO)
    assert (rois.format, rois.holes, rois.slide) == ("xml", "explicit", "A")
    assert names(rois) == [("ROI_1", "Layer 1"), ("ROI_2", "Layer 1")]
    box, ellipse = shapes(rois)
    assert box.equals(shapely.box(-27865, 40907, -17161, 51611))
    assert ellipse.bounds == pytest.approx((-11077, 43034, -666, 53445))
    assert ellipse.area == pytest.approx(math.pi * (10411 / 2) ** 2, rel=5e-4)
    assert rois.notes.texts() == ()


def test_halo_class_in_the_comment(tmp_path: Path) -> None:
    """The first comment stands for ImageScope's description, where users say so."""
    rois = parse(tmp_path / "A.annotations", HALO, label_from="description")
    assert names(rois) == [("ROI_1", "This is a square"), ("ROI_2", "This is a circle")]
    nameless = HALO.replace('Name="Layer 1"', 'Name=""')
    assert parse(tmp_path / "A.annotations", nameless).notes.texts() == (
        "2 ROIs without a label whose class may be the Description; to take it, give `label_from='description'`: "
        "'This is a square', 'This is a circle'",
    )


def test_halo_polygons_holes_and_what_has_no_area(tmp_path: Path) -> None:
    def region(kind: str, negative: int = 0) -> str:
        corners = ((0, 0), (9, 0), (9, 9))
        points = "".join(f'<V X="{x}" Y="{y}"/>' for x, y in corners)
        return f'<Region Type="{kind}" NegativeROA="{negative}"><Vertices>{points}</Vertices></Region>'

    regions = region("Polygon") + region("Polygon", 1) + region("Ruler") + region("Pin")
    rois = parse(
        tmp_path / "A.annotations",
        f'<Annotations><Annotation Name="T"><Regions>{regions}</Regions></Annotation></Annotations>',
    )
    assert [outline.marked_hole for outline in rois.outlines] == [False, True]
    assert rois.skipped == (
        "A.annotations:1: region 3 without a name is a ruler, which has no area",
        "A.annotations:1: region 4 without a name is a pin, which has no area",
    )


# ------------------------------------------------------------------------------------------- ASAP


def test_asap(tmp_path: Path) -> None:
    rois = parse(tmp_path / "A.xml", ASAP)
    assert (rois.format, rois.holes, rois.slide) == ("asap", "explicit", "A")
    assert names(rois) == [("Annotation 0", "healthy glands")]
    (shape,) = shapes(rois)
    assert shape.area == 3756.0
    assert rois.place(rois.outlines[0]) == "A.xml:4"


def test_points_of_asap_come_in_their_order(tmp_path: Path) -> None:
    lines = ASAP.splitlines()
    backwards = "\n".join([*lines[:5], *lines[13:4:-1], *lines[14:]])
    assert shapes(parse(tmp_path / "A.xml", backwards))[0].equals_exact(shapes(parse(tmp_path / "B.xml", ASAP))[0])


def test_asap_kinds_and_groups(tmp_path: Path) -> None:
    def annotation(kind: str, **attributes: str) -> str:
        said = "".join(f' {name}="{value}"' for name, value in attributes.items())
        points = "".join(
            f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate([(0, 0), (9, 0), (9, 9), (0, 9)])
        )
        return f'<Annotation Type="{kind}"{said}><Coordinates>{points}</Coordinates></Annotation>\n'

    content = (
        "<ASAP_Annotations><Annotations>\n"
        + annotation("Rectangle", Name="a", PartOfGroup="None")
        + annotation("Spline", Name="a")
        + annotation("Dot", Name="dot", PartOfGroup="cell")
        + annotation("PointSet")
        + annotation("Polygon", PartOfGroup="tumor")
        + annotation("Blob")
        + "</Annotations></ASAP_Annotations>"
    )
    rois = parse(tmp_path / "A.xml", content)
    assert names(rois) == [("a", None), ("a_2", None), ("ROI_3", "tumor")]
    assert all(shape.equals(shapely.box(0, 0, 9, 9)) for shape in shapes(rois))
    assert rois.skipped == (
        "A.xml:4: ROI 'dot' is a dot, which has no area",
        "A.xml:5: region 4 without a name is a set of points, which has no area",
        "A.xml:7: region 6 without a name is a shape of type 'Blob', which has no area",
    )
    bad = annotation("Polygon").replace('X="9"', 'X="O9"', 1)
    assert problems(tmp_path / "A.xml", f"<ASAP_Annotations>{bad}</ASAP_Annotations>") == [
        "A.xml:1: X of a vertex of region 1 without a name is 'O9', not a finite number; "
        "write base pixels, such as 1024.5"
    ]


# ------------------------------------------------------------------------------------------- NDPA


def state(number: int, annotation: str, title: str = "", details: str = "") -> str:
    """An annotation as NDP.view writes it; the point of the view state is where the camera is."""
    return (
        f'<ndpviewstate id="{number}"><title>{title}</title><details>{details}</details>'
        "<coordformat>nanometers</coordformat><lens>1</lens><x>1</x><y>2</y><z>0</z><showtitle>1</showtitle>"
        f"{annotation}</ndpviewstate>\n"
    )


def freehand(points: list[tuple[Any, Any]], closed: int = 1, name: str = "Freehand") -> str:
    listed = "".join(f"<point><x>{x}</x><y>{y}</y></point>" for x, y in points)
    return (
        f'<annotation type="freehand" displayname="Annotate{name}" color="#000000"><measuretype>0</measuretype>'
        f"<closed>{closed}</closed><pointlist>{listed}</pointlist></annotation>"
    )


def ndpa(*states: str) -> str:
    head = '<?xml version="1.0" encoding="utf-8" standalone="yes"?>\n'
    return f"{head}<annotations>\n{''.join(states)}</annotations>"


# The rectangle of a file from NDP.view that many scripts have as their template.
CROP = [(9784406, -4753072), (9784406, 843571), (18943280, 843571), (18943280, -4753072)]
CIRCLE = (
    '<annotation type="circle" displayname="AnnotateCircle" color="#ff0000">'
    "<x>100000</x><y>-50000</y><radius>20000</radius></annotation>"
)
RULER = (
    '<annotation type="linearmeasure" displayname="AnnotateRuler" color="#000000">'
    "<x1>10606418</x1><y1>-537144</y1><x2>18036854</x2><y2>-537144</y2></annotation>"
)


def test_ndpa(tmp_path: Path) -> None:
    content = ndpa(
        state(1, freehand(CROP, name="Rectangle"), "crop"),
        state(2, CIRCLE, "crop"),
        state(3, RULER, "rotation"),
        state(4, freehand(CROP[:3], closed=0, name="FreehandLine"), "line"),
        state(9, freehand(CROP), details="stroma"),
    )
    rois = parse(tmp_path / "A 1.ndpi.ndpa", content)
    assert (rois.format, rois.slide, rois.unit) == ("ndpa", "A 1", "nm")
    assert names(rois) == [("crop", "crop"), ("crop_2", "crop"), ("ROI_9", None)]
    crop, circle, _ = shapes(rois)
    assert crop.equals(shapely.box(9784406, -4753072, 18943280, 843571))
    assert circle.bounds == pytest.approx((80000, -70000, 120000, -30000))
    assert rois.skipped == (
        "A 1.ndpi.ndpa:5: ROI 'rotation' is a ruler, which has no area",
        "A 1.ndpi.ndpa:6: ROI 'line' is a freehand line, which has no area",
    )
    assert rois.notes.texts() == (
        "1 ROI with the name of another numbered: A 1: crop_2",
        "1 ROI without a label whose class may be the details (the Description); to take it, "
        "give `label_from='description'`: 'stroma'",
    )
    described = parse(tmp_path / "A 1.ndpi.ndpa", content, label_from="description")
    assert [label for _, label in names(described)] == [None, None, "stroma"]


def test_every_bad_annotation_of_ndpa_is_reported(tmp_path: Path) -> None:
    content = ndpa(
        state(1, freehand([("1,5", 2), (3, ""), *CROP])),
        state(2, freehand(CROP[:2])).replace("nanometers", "pixels"),
        state(3, CIRCLE.replace("20000", "wide")),
        state(4, CIRCLE.replace("20000", "0")),
    )
    write = "write nanometres, such as 1024000"
    assert problems(tmp_path / "A.ndpa", content) == [
        f"A.ndpa:3: X of a vertex of region 1 without a name is '1,5', not a finite number; {write}",
        f"A.ndpa:3: Y of a vertex of region 1 without a name is missing or empty; {write}",
        "A.ndpa:4: region 2 without a name has the coordformat 'pixels', not 'nanometers'; export it again",
        "A.ndpa:4: region 2 without a name has 2 distinct points; an area needs three or more",
        f"A.ndpa:5: X of a vertex of region 3 without a name is 'wide', not a finite number; {write}",
        f"A.ndpa:5: Y of a vertex of region 3 without a name is 'wide', not a finite number; {write}",
        "A.ndpa:6: region 4 without a name has 1 distinct point; an area needs three or more",
    ]


def test_nanometres_become_pixels_as_in_public_code() -> None:
    """Written out point by point, as most readers of NDPA do it with the properties that OpenSlide gives."""
    mpp_x, mpp_y, width, height, offset_x, offset_y = 0.2208, 0.2211, 51200, 38144, 13077248, -1711471
    found = base_from_nm(np.array(CROP, np.float64), (offset_x, offset_y), (mpp_x, mpp_y), (width, height))
    for (x, y), (x_nm, y_nm) in zip(found.tolist(), CROP, strict=True):
        assert x == pytest.approx(width / 2 + (x_nm - offset_x) / (mpp_x * 1000), abs=1e-9)
        assert y == pytest.approx(height / 2 + (y_nm - offset_y) / (mpp_y * 1000), abs=1e-9)
    centre = base_from_nm(np.array([[offset_x, offset_y]], np.float64), (offset_x, offset_y), (1, 1), (10, 20))
    assert centre.tolist() == [[5, 10]]


# ------------------------------------------------------------------- QuPath's objects, by version


def feature(**properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": BOX, "properties": properties}


CELL = {"geometry": BOX, "nucleusGeometry": BOX, "type": "Feature"}
#: The same five objects as QuPath 0.2, 0.3 and 0.4 write them.
OBJECTS = {
    "0.2": [
        {**CELL, "id": kind, "properties": {}}
        for kind in (
            "PathAnnotationObject", "PathDetectionObject", "PathCellObject", "PathTileObject", "TMACoreObject",
        )
    ],
    "0.3": [
        {**CELL, "properties": {"object_type": kind}} for kind in ("annotation", "detection", "cell", "tile", "tmaCore")
    ],
    "0.4": [
        {**CELL, "id": "6a1c0d1e-0f5e-4d0e-8c1f-2f5f6d0e8c1f", "properties": {"objectType": kind}}
        for kind in ("annotation", "detection", "cell", "tile", "tma_core")
    ],
}  # fmt: skip
LEFT_OUT = (
    "1 TMA core left out, not being annotations; to take them, give `include='tma'`",
    "1 cell left out, not being annotations; to take them, give `include='cells'`",
    "1 detection left out, not being annotations; to take them, give `include='detections'`",
    "1 tile left out, not being annotations; to take them, give `include='tiles'`",
)


@pytest.mark.parametrize("version", OBJECTS)
def test_only_annotations_are_rois(tmp_path: Path, version: str) -> None:
    content = json.dumps(OBJECTS[version])
    rois = parse(tmp_path / "A.geojson", content)
    assert [outline.roi_name for outline in rois.outlines] == ["ROI_1"]
    assert rois.notes.texts() == LEFT_OUT
    for number, word in enumerate(("detections", "cells", "tiles", "tma"), 2):
        taken = parse(tmp_path / "A.geojson", content, include=(word,))
        assert [outline.row for outline in taken.outlines] == [1, number]
        assert all(shape.equals(shapely.box(0, 0, 100, 100)) for shape in shapes(taken))
        assert len(taken.notes.texts()) == 3
    everything = parse(tmp_path / "A.geojson", content, include=("detections", "cells", "tiles", "tma"))
    assert (len(everything.outlines), everything.notes.texts()) == (5, ())


def test_types_that_are_none_of_these(tmp_path: Path) -> None:
    """Other programs have types and ids for other things; a type that QuPath does not know is no annotation."""
    odd: list[dict[str, Any]] = [
        feature(type="Tissue"), {**feature(), "id": "cell"}, {**feature(), "id": 7}, feature(objectType="unknown"),
        feature(type="cell"), {**feature(), "id": "PathRootObject"}, feature(objectType="superpixel"),
        {**feature(), "id": "PathCellDetection"}, feature(objectType="tma_core", isMissing=True),
    ]  # fmt: skip
    rois = parse(tmp_path / "A.geojson", json.dumps(odd), include=("tma",))
    assert [outline.row for outline in rois.outlines] == [1, 3, 4]
    assert rois.notes.texts() == (
        "1 TMA core left out, being marked as missing",
        "1 detection left out, not being annotations; to take them, give `include='detections'`",
        "1 root object left out, not being annotations",
        "1 superpixel left out, not being annotations",
        "2 cells left out, not being annotations; to take them, give `include='cells'`",
    )


def test_objects_within_objects(tmp_path: Path) -> None:
    """QuPath's export of the whole hierarchy has the children of an object in its properties."""
    inner = feature(name="c", childObjects=[feature(name="d"), feature(objectType="cell")])
    content = json.dumps([feature(name="a", childObjects=[feature(), inner]), feature(children=[feature(name="e")])])
    rois = parse(tmp_path / "A.geojson", content)
    assert [(o.roi_name, o.row) for o in rois.outlines] == [
        ("a", 1), ("ROI_1", 1), ("c", 1), ("d", 1), ("ROI_2", 2), ("e", 2),
    ]  # fmt: skip
    assert len(rois.notes.texts()) == 1


def test_a_file_of_cells_alone_has_no_roi(tmp_path: Path) -> None:
    rois = parse(tmp_path / "A.geojson", json.dumps([feature(objectType="cell")] * 3))
    assert (rois.outlines, rois.slide) == ((), "A")
    assert rois.notes.texts() == ("3 cells left out, not being annotations; to take them, give `include='cells'`",)


def test_many_points_are_counted(tmp_path: Path) -> None:
    points = [{**feature(), "geometry": {"type": "Point", "coordinates": [i, i]}} for i in range(6)]
    rois = parse(tmp_path / "A.geojson", json.dumps([feature(), *points]))
    assert (rois.skipped, rois.notes.texts()) == ((), ("6 Points left out, having no area",))
    assert len(parse(tmp_path / "A.geojson", json.dumps([feature(), *points[:5]])).skipped) == 5


# ----------------------------------------------------------- GeometryCollections, parts without an area


def test_areas_of_a_geometrycollection(tmp_path: Path) -> None:
    """What shapely's make_valid leaves of an outline with a spike."""
    spiked = shapely.Polygon([(20, 20), (480, 20), (480, 480), (250, 480), (250, 500), (250, 480), (20, 480)])
    valid = shapely.make_valid(spiked)
    assert valid.geom_type == "GeometryCollection"
    inner = {"type": "GeometryCollection", "geometries": [BOX, {"type": "Point", "coordinates": [1, 1]}]}
    content = [
        {**feature(), "geometry": shapely.geometry.mapping(valid)},
        {**feature(), "geometry": {"type": "GeometryCollection", "geometries": [inner]}},
    ]
    rois = parse(tmp_path / "A.geojson", json.dumps(content))
    assert shapes(rois)[0].equals(shapely.box(20, 20, 480, 480))
    assert shapes(rois)[1].equals(shapely.box(0, 0, 100, 100))
    assert rois.notes.texts() == (
        "2 geometries without an area left out of a GeometryCollection: A.geojson:feature 1, A.geojson:feature 2",
    )
    broken = [
        {**feature(), "geometry": {"type": "GeometryCollection", "geometries": "x"}},
        {**feature(), "geometry": {"type": "GeometryCollection", "geometries": [BOX, 7]}},
        {**feature(), "geometry": {"type": "GeometryCollection", "geometries": [{"type": "Circle"}]}},
    ]
    assert problems(tmp_path / "A.geojson", json.dumps(broken)) == [
        "A.geojson:feature 1: its geometries are 'x', not a list; export it again",
        "A.geojson:feature 2: its geometry holds 7, not an object; export it again",
        "A.geojson:feature 3: its geometry is a 'Circle'; draw a Polygon or MultiPolygon",
    ]


def test_parts_and_holes_of_too_few_points_are_left_out(tmp_path: Path) -> None:
    """As contours of a mask have them: a point, a line there and back."""
    ring = BOX["coordinates"][0]
    point, line = [[5, 5]] * 4, [[5, 5], [9, 5], [5, 5]]
    hole = [[10, 10], [20, 10], [20, 20], [10, 10]]
    several = [[point], [ring, line, hole, point], [line, hole], [line]]
    content = [
        {**feature(), "geometry": {"type": "MultiPolygon", "coordinates": several}},
        {**feature(), "geometry": {"type": "Polygon", "coordinates": [ring, point]}},
    ]
    rois = parse(tmp_path / "A.geojson", json.dumps(content))
    assert shapes(rois)[0].equals(shapely.Polygon(ring, [hole]))
    assert shapes(rois)[1].equals(shapely.Polygon(ring))
    assert rois.notes.texts() == (
        "3 holes of fewer than three distinct points left out: A.geojson:feature 1, A.geojson:feature 2",
        "3 parts of ROIs of fewer than three distinct points left out: A.geojson:feature 1",
    )
    nothing = [{**feature(), "geometry": {"type": "MultiPolygon", "coordinates": [[point], [line]]}}]
    assert problems(tmp_path / "A.geojson", json.dumps(nothing)) == [
        "A.geojson:feature 1: its outline has 1 distinct point; an area needs three or more",
        "A.geojson:feature 1: its outline has 2 distinct points; an area needs three or more",
    ]


def test_coordinates_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    nan = json.dumps([{**feature(), "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [math.nan, 1], [2, 2]]]}}])
    assert "NaN" in nan
    assert problems(tmp_path / "A.geojson", nan) == [
        "A.geojson:feature 1: point 2 of its outline is [nan, 1], not two finite numbers; draw it again"
    ]


# ---------------------------------------------------------------------------- packed, foreign, empty

GEOJSON = json.dumps([feature(name="a")]).encode()


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in members.items():
            zipped.writestr(name.replace("_dot_", ".").replace("_slash_", "/"), content)
    return file.getvalue()


def test_packed_files(tmp_path: Path) -> None:
    zipped = archive(other_dot_geojson=GEOJSON, __MACOSX_slash_x=b"notes")
    for name, content in (("A.geojson.gz", gzip.compress(GEOJSON)), ("A.zip", zipped), ("A.geojson.zip", zipped)):
        rois = parse(tmp_path / name, content)
        assert (rois.format, rois.slide, rois.outlines[0].slide) == ("geojson", "A", "A")
    assert rois.sha256 != parse(tmp_path / "A.geojson", GEOJSON).sha256
    assert problems(tmp_path / "A.geojson.gz", gzip.compress(b"[{]")) == [
        "A.geojson.gz:1: broken JSON at column 3: Expecting property name enclosed in double quotes; export it again"
    ]


def test_packed_files_that_are_refused(tmp_path: Path) -> None:
    packed = gzip.compress(GEOJSON)
    assert problems(tmp_path / "A.zip", archive(a=GEOJSON, b=GEOJSON)) == [
        "A.zip:1: a zip archive of 2 files (or an Excel workbook), not of one; unpack it and give the folder, or save "
        "the workbook as CSV in UTF-8"
    ]
    assert problems(tmp_path / "A.json.gz", gzip.compress(b" \n")) == [
        "A.json.gz:1: the file in it is empty; save or export it again"
    ]
    for name, damaged in (
        ("A.json.gz", packed[:-9]),
        ("A.json.gz", packed[:12] + b"\xff" * 9 + packed[21:]),
        ("A.zip", archive(a=GEOJSON)[:-5]),
    ):
        (problem,) = problems(tmp_path / name, damaged)
        assert problem.startswith(f"{name}:1: cannot be unpacked: ")
        assert problem.endswith("; pack or export it again")


@pytest.mark.parametrize(
    ("path", "slide"),
    [
        ("A.B.geojson", "A.B"), ("A.geojson.gz", "A"), ("A.JSON.GZ", "A"), ("A.v2.zip", "A.v2"), ("A.gz", "A"),
        ("A.ndpi.ndpa", "A"), ("A.ndpa", "A"), ("A.NDPI.NDPA", "A"), ("A.ndpi.xml", "A.ndpi"),
        ("A.annotations", "A"), ("A.ndpi.ndpa.zip", "A"),
    ],
)  # fmt: skip
def test_the_slide_of_a_file(path: str, slide: str) -> None:
    assert slide_of(Path("rois") / path) == slide


@pytest.mark.parametrize(
    ("document", "whose"),
    [
        ({"images": [], "annotations": [], "categories": [], "info": {}}, "COCO JSON"),
        ({"version": "2.0", "item": {}, "annotations": []}, "Darwin JSON, as V7 exports it"),
        ({"dataset": "x", "image": {}, "annotations": []}, "Darwin JSON, as V7 exports it"),
        ({"version": "5.0.1", "shapes": [], "imagePath": "a.png"}, "JSON of LabelMe"),
        ({"_via_img_metadata": {}}, "JSON of the VGG Image Annotator"),
        ([{"id": 1, "data": {}, "annotations": []}], "JSON of Label Studio"),
    ],
)
def test_json_of_other_programs_is_named(tmp_path: Path, document: Any, whose: str) -> None:
    assert problems(tmp_path / "A.json", json.dumps(document)) == [
        f"A.json:1: {whose}, not GeoJSON; write each of its polygons as a Feature, in level-0 pixels, with its class "
        "as properties.classification, in a file named after the slide"
    ]


def test_coco_that_is_written_as_the_message_says(tmp_path: Path) -> None:
    coco: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "A.tif"}],
        "annotations": [{"image_id": 1, "category_id": 3, "segmentation": [[0, 0, 100, 0, 100, 100, 0, 100]]}],
        "categories": [{"id": 3, "name": "tumour"}],
    }
    (drawn,) = coco["annotations"]
    points = np.reshape(drawn["segmentation"][0], (-1, 2)).tolist()
    written = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[*points, points[0]]]},
        "properties": {"classification": coco["categories"][0]["name"]},
    }
    rois = parse(tmp_path / "A.geojson", json.dumps([written]))
    assert names(rois) == [("ROI_1", "tumour")]
    assert shapes(rois)[0].equals(shapely.box(0, 0, 100, 100))


@pytest.mark.parametrize(
    ("name", "content", "slide"),
    [
        ("A.geojson", '{"type": "FeatureCollection", "features": []}', "A"),
        ("A.json", "[]", "A"),
        ("A.xml", '<Annotations><Annotation Name="Tumour"><Regions/></Annotation></Annotations>', "A"),
        ("A.annotations", "<Annotations/>", "A"),
        ("B.xml", "<ASAP_Annotations><Annotations/></ASAP_Annotations>", "B"),
        ("A.ndpi.ndpa", "<annotations/>", "A"),
        ("A.csv", "roi_name,x_base,y_base\n", "A"),
        ("A.csv", "roi_name,x_base,y_base,slide\n", None),
    ],
)
def test_a_file_without_rois_is_read(tmp_path: Path, name: str, content: str, slide: str | None) -> None:
    rois = parse(tmp_path / name, content)
    assert (rois.outlines, rois.skipped, rois.slide, rois.notes.texts()) == ((), (), slide, ())


def test_a_file_of_no_bytes_is_refused(tmp_path: Path) -> None:
    for name in ("A.csv", "A.geojson", "A.xml"):
        assert problems(tmp_path / name, b"") == [f"{name}:1: the file is empty; save or export it again"]


# -------------------------------------------------------------------------------------------- CSV


def test_sep_line_names_the_delimiter(tmp_path: Path) -> None:
    rows = ["roi_name|x_base|y_base", "a, b|0|0", "a, b|9|0", "a, b|9,5|9"]
    for first in ("sep=|", '"sep=|"', "SEP=|", "\ufeffsep=|"):
        rois = parse(tmp_path / "A.csv", "\r\n".join([first, *rows]))
        assert (rois.outlines[0].roi_name, rois.outlines[0].row) == ("a, b", 3)
        assert shapes(rois)[0].bounds == (0, 0, 9.5, 9)
    excel = "sep=;\n" + "\n".join(row.replace("|", ";") for row in rows)
    assert parse(tmp_path / "A.csv", excel).outlines[0].roi_name == "a, b"
    assert problems(tmp_path / "A.csv", "sep=;\nroi_name;x_base;y_base\na;1;x\n")[0] == (
        "A.csv:3: y_base is 'x', not a number; write base pixels, such as 1024.5"
    )


def test_windows_1252_is_read_and_said(tmp_path: Path) -> None:
    text = "roi_name,label,x_base,y_base\n" + "".join(f"Gef\xe4\xdf,Stroma \u2013 fest,{x},{x * x}\n" for x in range(3))
    rois = parse(tmp_path / "A.csv", text.encode("cp1252"))
    assert names(rois) == [("Gef\xe4\xdf", "Stroma \u2013 fest")]
    assert rois.notes.texts() == (
        "1 file not in UTF-8 read as Windows-1252; save as UTF-8 if names in it look wrong: A.csv",
    )
    again = parse(tmp_path / "A.csv", text)
    assert (names(again), again.notes.texts()) == (names(rois), ())
    # Windows-1252 has no character for this byte.
    assert problems(tmp_path / "A.csv", text.encode("cp1252") + b"\x81,t,1,1\n")[-1] == (
        "A.csv:5: byte 0x81 is not UTF-8; save it as UTF-8"
    )


# -------------------------------------------------------------------------- a study of such files


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sd.Study]:
    """Two slides of 640 x 480 pixels, of which `N` says where the centre of its glass is."""
    folder = tmp_path_factory.mktemp("programs")
    with sd.open(folder / "study.duckdb") as opened:
        for seed, name in enumerate(("N", "T")):
            write_slide(folder / f"{name}.tif", seed, mpp=0.5, mpp_y=0.4)
        opened.add_slides([folder / "N.tif", folder / "T.tif"])
        opened.con.execute("UPDATE slides SET centre_offset_x = 1e6, centre_offset_y = -2e6 WHERE slide = 'N'")
        yield opened


def test_ndpa_lies_where_it_was_drawn(study: sd.Study, tmp_path: Path) -> None:
    # 100 to 300 and 40 to 140 pixels, from a centre at (320, 240).
    drawn = [(1e6 + (x - 320) * 500, -2e6 + (y - 240) * 400) for x, y in [(100, 40), (300, 40), (300, 140), (100, 140)]]
    path = tmp_path / "N.ndpi.ndpa"
    path.write_text(ndpa(state(1, freehand(drawn), "Tumour")))
    assert study.add_rois(path, roi_set="ndpa").rois == 1
    (wkb,) = study.con.execute("SELECT ST_AsWKB(geom) FROM rois WHERE roi_set = 'ndpa'").fetchone() or (b"",)
    assert shapely.from_wkb(bytes(wkb)).equals(shapely.box(100, 40, 300, 140))


def test_ndpa_of_a_slide_without_its_centre_is_refused(study: sd.Study, tmp_path: Path) -> None:
    path = tmp_path / "T.ndpi.ndpa"
    path.write_text(ndpa(state(1, freehand([(0, 0), (9000, 0), (9000, 9000)]), "Tumour")))
    with pytest.raises(InputError) as caught:
        study.add_rois(path, roi_set="without")
    assert str(caught.value) == (
        "T.ndpi.ndpa:3: slide 'T' does not say where its centre lies on the glass "
        "(hamamatsu.XOffsetFromSlideCentre is missing), from which NDPA counts; add the .ndpi file itself as the "
        "slide, or give the ROIs as GeoJSON"
    )
    # The remedy.
    path = tmp_path / "T.geojson"
    path.write_text(json.dumps([feature()]))
    assert study.add_rois(path, roi_set="without").rois == 1


def test_a_folder_is_searched_for_every_format(study: sd.Study, tmp_path: Path) -> None:
    folder = tmp_path / "rois"
    folder.mkdir()
    (folder / "N.annotations").write_text(HALO.replace("-27865", "7").replace("-17161", "70").replace("40907", "3"))
    for name in ("x.parquet", "x.qpdata", "notes.txt", "N.svs", "y.zip", "more.txt"):
        (folder / name).write_bytes(b"x")
    (folder / "T.geojson.gz").write_bytes(gzip.compress(GEOJSON))
    assert [path.name for path in find_roi_files(folder)] == ["N.annotations", "T.geojson.gz"]
    report = study.add_rois(folder / "T.geojson.gz", roi_set="folder")
    assert (report.rois, report.notes) == (1, ())
    (folder / "N.annotations").unlink()
    assert study.add_rois(folder, roi_set="folder").notes == (
        "1 .parquet file passed over; name each that holds ROIs: x.parquet",
        "1 .qpdata file passed over; export what it holds from QuPath with File > Export objects as GeoJSON: x.qpdata",
        "1 .zip file passed over; name each that holds ROIs: y.zip",
        "2 .txt files passed over; name each that holds ROIs: more.txt, notes.txt",
    )


def test_what_is_passed_over_is_read_by_its_name_or_unpacked(study: sd.Study, tmp_path: Path) -> None:
    several = tmp_path / "rois.zip"
    several.write_bytes(archive(N_dot_geojson=GEOJSON, T_dot_geojson=GEOJSON))
    with pytest.raises(InputError, match=r"^rois.zip:1: a zip archive of 2 files .*; unpack it and give the folder"):
        study.add_rois(several, roi_set="unpacked")
    with zipfile.ZipFile(several) as zipped:
        zipped.extractall(tmp_path / "rois")
    assert study.add_rois(tmp_path / "rois", roi_set="unpacked").rois == 2
    (tmp_path / "N.txt").write_text("roi_name,x_base,y_base\na,0,0\na,9,0\na,9,9\n")
    assert study.add_rois(tmp_path / "N.txt", roi_set="text").rois == 1


def test_a_table_of_another_kind_in_a_folder_is_refused(study: sd.Study, tmp_path: Path) -> None:
    (tmp_path / "patients.csv").write_text("slide,patient\nN,P1\n")
    (tmp_path / "N.geojson").write_bytes(GEOJSON)
    with pytest.raises(InputError) as caught:
        study.add_rois(tmp_path, roi_set="mixed")
    assert str(caught.value) == (
        "patients.csv:1: no column 'roi_name' and no column 'x_base' and no column 'y_base'; the columns are: slide, "
        "patient; it needs the columns roi_name, x_base, y_base (and may have label, slide); if it is a table of "
        "another kind, name the ROI files, or give a folder that holds them alone"
    )
    assert study.add_rois(tmp_path / "*.geojson", roi_set="mixed").rois == 1


def test_taking_cells_of_a_file_that_the_study_has(study: sd.Study, tmp_path: Path) -> None:
    path = tmp_path / "N.geojson"
    path.write_text(json.dumps([feature(name="a"), feature(objectType="cell", name="c")]))
    report = study.add_rois(path, roi_set="cells")
    assert (report.rois, len(report.notes)) == (1, 1)
    assert study.add_rois(path, roi_set="cells").unchanged == 1
    assert study.add_rois(path, roi_set="cells", include=["cells"]).rois == 2


def test_a_file_without_rois_can_be_added(study: sd.Study, tmp_path: Path) -> None:
    (tmp_path / "N.geojson").write_text("[]")
    (tmp_path / "T.geojson").write_text(json.dumps([feature()]))
    assert study.add_rois(tmp_path, roi_set="empty").rois == 1
    assert study.con.execute("SELECT count(*) FROM roi_files WHERE roi_set = 'empty'").fetchone() == (2,)
