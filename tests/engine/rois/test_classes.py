"""Names and classes of ROIs: where they stand, which stand for none, which are alike, and how they are renamed."""

from __future__ import annotations

import json
import math
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import slideduck as sd
from slideduck.cli.group import cli
from slideduck.errors import InputError
from slideduck.roifiles.options import RoiOptions
from slideduck.roifiles.outlines import holds_point, ring_area
from slideduck.roifiles.read import RoiFile, parse_roi_file
from slideduck.rois.classes import read_label_table
from tests.campaign import cases
from tests.slides import write_slide

BOX = {"type": "Polygon", "coordinates": [[[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]]}


def feature(**properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": BOX, "properties": properties}


def geojson(path: Path, *features: Any, **options: Any) -> RoiFile:
    path.write_text(json.dumps(features))
    return parse_roi_file(path, RoiOptions(**options))


def labels(rois: RoiFile) -> list[str | None]:
    return [outline.label for outline in rois.outlines]


def names(rois: RoiFile) -> list[str]:
    return [outline.roi_name for outline in rois.outlines]


# ------------------------------------------------------------------------- where the class stands


@pytest.mark.parametrize(
    ("properties", "label"),
    [
        # GeoPandas reads and writes QuPath's object as its text, and prints dictionaries.
        ({"classification": json.dumps({"name": "Tumour", "color": [200, 0, 0]})}, "Tumour"),
        ({"classification": "{'name': 'Stroma', 'color': [0, 200, 0]}"}, "Stroma"),
        ({"classification": "{'names': ['Tumour', 'CD8'], 'color': None}"}, "Tumour: CD8"),
        ({"classification": {"names": ["Tumour", "CD8"]}}, "Tumour: CD8"),
        ({"classification": {"name": "Tumour", "names": ["a", "b"]}}, "Tumour"),
        # What is no object is a text like any other, and no code is run.
        ({"classification": "{__import__('os').getcwd()}"}, "{__import__('os').getcwd()}"),
        ({"classification": "{1, 2}"}, "{1, 2}"),
        ({"classification": "{" * 5000}, "{" * 5000),
        ({"classification": "{}"}, None),
        ({"label": "Tumour"}, "Tumour"),
        ({"class": " Tumour "}, "Tumour"),
        ({"class": 3}, "3"),
        ({"classification": None, "label": "", "class": {"name": "Tumour"}}, "Tumour"),
        ({"classification": "Tumour", "label": "Stroma"}, "Tumour"),
        ({"classification": math.nan, "label": "Stroma"}, "Stroma"),
        ({"classification": "nan", "label": "Stroma"}, "Stroma"),
        ({"name": math.nan}, None),
    ],
)
def test_class_of_a_feature(tmp_path: Path, properties: dict[str, Any], label: str | None) -> None:
    assert labels(geojson(tmp_path / "A.geojson", feature(**properties))) == [label]


def test_classes_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        geojson(tmp_path / "A.geojson", feature(label=[1]), feature(classification=7), feature(label={"name": 7}))
    assert caught.value.problems == (
        "A.geojson:feature 1: its label is [1], not text; write a text",
        "A.geojson:feature 2: its classification is 7, not text; write a text",
        "A.geojson:feature 3: its label is 7, not text; write a text",
    )


def imagescope(path: Path, *, name: str = "", layer: str = "", texts: tuple[str, ...], region: str = "") -> Path:
    """A file of one layer, described, and its regions, as ImageScope writes them."""
    regions = "".join(
        f'<Region Id="{i}" Type="0" Text="{text}" NegativeROA="0"><Attributes>{region}</Attributes><Vertices>'
        '<Vertex X="0" Y="0"/><Vertex X="90" Y="0"/><Vertex X="90" Y="90"/></Vertices></Region>'
        for i, text in enumerate(texts, 1)
    )
    header = '<RegionAttributeHeaders><AttributeHeader Id="1" Name="Description" ColumnWidth="-1"/>'
    path.write_text(
        f'<Annotations MicronsPerPixel="0.5"><Annotation Id="1" Name="{name}" Type="4"><Attributes>'
        f'<Attribute Name="Description" Id="0" Value="{layer}"/></Attributes>'
        f"<Regions>{header}</RegionAttributeHeaders>{regions}</Regions></Annotation></Annotations>"
    )
    return path


def test_class_in_imagescopes_text_or_description(tmp_path: Path) -> None:
    path = imagescope(tmp_path / "A.xml", layer="Tumour", texts=("Mitosis", "Mitosis", "", "Stroma"))
    rois = parse_roi_file(path)
    assert labels(rois) == [None] * 4
    assert rois.notes.texts() == (
        "1 ROI with the name of another numbered: A: Mitosis_2",
        "3 ROIs without a label whose class may be the region's Text; to take it, give `label_from='text'`: "
        "'Mitosis', 'Stroma'",
        "4 ROIs without a label whose class may be the Description; to take it, give `label_from='description'`: "
        "'Tumour'",
    )
    by_text = parse_roi_file(path, RoiOptions(label_from="text"))
    assert labels(by_text) == ["Mitosis", "Mitosis", None, "Stroma"]
    assert names(by_text) == ["Mitosis", "Mitosis_2", "ROI_3", "Stroma"]
    assert labels(parse_roi_file(path, RoiOptions(label_from="description"))) == ["Tumour"] * 4


def test_description_of_a_region_goes_before_that_of_its_layer(tmp_path: Path) -> None:
    for attribute in ('Name="1" Id="0"', 'Name="Description" Id="0"'):
        region = f'<Attribute {attribute} Value=" Necrosis "/><Attribute Name="2" Id="1" Value="other"/>'
        path = imagescope(tmp_path / "A.xml", name="T", layer="Tumour", texts=("",), region=region)
        assert labels(parse_roi_file(path, RoiOptions(label_from="description"))) == ["Necrosis"]
        assert parse_roi_file(path).notes.texts() == ()


def test_holes_have_the_class_of_what_they_are_a_hole_of(tmp_path: Path) -> None:
    """A hole is cut out of its label: where classes stand in texts, holes say nothing, or that they are holes."""

    def region(side: int, text: str, negative: int = 0, at: int = 0) -> str:
        corners = [(at, at), (at + side, at), (at + side, at + side), (at, at + side)]
        points = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in corners)
        return f'<Region Type="0" Text="{text}" NegativeROA="{negative}"><Vertices>{points}</Vertices></Region>'

    layers = [
        region(400, "Tumour") + region(90, "Mitosis", at=5) + region(10, "", 1, at=50) + region(10, "hole", 1, at=300),
        region(400, "Stroma") + region(10, "Stroma", 1, at=50) + region(10, "", 1, at=500),
    ]
    annotations = "".join(f'<Annotation Name=""><Regions>{regions}</Regions></Annotation>' for regions in layers)
    (tmp_path / "A.xml").write_text(f"<Annotations>{annotations}</Annotations>")
    rois = parse_roi_file(tmp_path / "A.xml", RoiOptions(label_from="text"))
    assert [outline.label for outline in rois.outlines if outline.marked_hole] == ["Mitosis", "Tumour", "Stroma", None]
    assert "2 holes with the class of the ROI around, none of the layer having their own" in rois.notes.texts()
    assert not any("whose class may be" in note for note in rois.notes.texts())
    assert set(labels(parse_roi_file(tmp_path / "A.xml"))) == {None}
    (tmp_path / "A.xml").write_text(
        '<Annotations><Annotation><Region Id="1" Text="a" NegativeROA="1"/></Annotation></Annotations>'
    )
    with pytest.raises(InputError) as caught:
        parse_roi_file(tmp_path / "A.xml", RoiOptions(label_from="text"))
    assert str(caught.value) == "A.xml:1: ROI 'a' has 0 distinct points; an area needs three or more"


@settings(max_examples=cases(100, 2000), deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=7).filter(lambda r: len({*r}) > 2),
    st.integers(0, 9),
    st.integers(0, 9),
)
def test_a_ring_holds_the_points_that_shapely_says(ring: list[tuple[int, int]], x: int, y: int) -> None:
    shape = shapely.Polygon(ring)
    point = shapely.Point(x + 0.5, y + 0.25)
    points = np.array(ring, np.float64)
    if shape.is_valid:
        assert ring_area(points) == shape.area
        if not shape.boundary.intersects(point):
            assert holds_point(points, point.x, point.y) == shape.contains(point)


# -------------------------------------------------------------------------------- names and forms


def test_names_that_come_again_are_numbered_in_the_order_of_the_file(tmp_path: Path) -> None:
    given_names = ["Tumour", "Tumour", "Tumour_2", "Stroma", "Tumour", "Tumour_2", None]
    rois = geojson(tmp_path / "A.geojson", *(feature(name=name) for name in given_names))
    assert names(rois) == ["Tumour", "Tumour_3", "Tumour_2", "Stroma", "Tumour_4", "Tumour_2_2", "ROI_7"]
    assert rois.notes.texts() == ("3 ROIs with the name of another numbered: A: Tumour_3, A: Tumour_4, A: Tumour_2_2",)


@settings(max_examples=cases(100, 2000), deadline=None)
@given(st.lists(st.sampled_from(["", "a", "a_2", "a_3", "a_2_2", "ROI_1", "ROI_2"]), min_size=1, max_size=12))
def test_numbered_names_are_unique_and_first_ones_stay(
    tmp_path_factory: pytest.TempPathFactory, given_names: list[str]
) -> None:
    rois = geojson(tmp_path_factory.mktemp("n") / "A.geojson", *(feature(name=name) for name in given_names))
    found = names(rois)
    assert len(set(found)) == len(found)
    for i, name in enumerate(given_names):
        if name:
            assert (found[i] == name) == (given_names.index(name) == i)
            assert found[i].startswith(name)


def test_many_repeated_names_take_no_longer_each(tmp_path: Path) -> None:
    """A hundred thousand annotations that are called after their class: minutes, if each began to count at 2."""
    line = json.dumps(feature(name="Tumour"))
    (tmp_path / "A.geojson").write_text("[" + ",".join([line] * 20_000) + "]")
    assert names(parse_roi_file(tmp_path / "A.geojson"))[-1] == "Tumour_20000"


def test_names_and_labels_are_put_into_one_form(tmp_path: Path) -> None:
    composed = unicodedata.normalize("NFC", "Gefäß")
    apart = unicodedata.normalize("NFD", composed)
    rois = geojson(tmp_path / "A.geojson", feature(name=apart, label=apart), feature(name=composed, label=composed))
    assert (names(rois), set(labels(rois))) == ([composed, f"{composed}_2"], {composed})
    rows = "".join(f"{name},{(apart, composed)[x % 2]},{x},{x * x}\n" for name in (apart, "b") for x in range(3))
    (tmp_path / "A.csv").write_text("roi_name,label,x_base,y_base\n" + rows)
    rois = parse_roi_file(tmp_path / "A.csv")
    assert (names(rois), labels(rois)) == ([composed, "b"], [composed] * 2)


def test_csv_of_one_name_in_two_forms_is_refused(tmp_path: Path) -> None:
    """As a name that comes back is: the rows of an ROI stand together."""
    composed = unicodedata.normalize("NFC", "Gefäß")
    forms = (composed, "b", unicodedata.normalize("NFD", composed))
    rows = "".join(f"{name},{x},{x * x}\n" for name in forms for x in range(3))
    (tmp_path / "A.csv").write_text("roi_name,x_base,y_base\n" + rows)
    with pytest.raises(InputError) as caught:
        parse_roi_file(tmp_path / "A.csv")
    assert str(caught.value) == (
        f"A.csv:8: ROI {composed!r} is there already (row 2); names are unique in a slide: rename one, or put the rows "
        "of one ROI together"
    )


def test_labels_that_stand_for_none(tmp_path: Path) -> None:
    written = ["NA", "nan", "None", "NULL", "n/a", "<NA>", "Tumour", "", "Nano"]
    rois = geojson(tmp_path / "A.geojson", *(feature(label=text, name=text or "x") for text in written))
    assert labels(rois) == [None] * 6 + ["Tumour", None, "Nano"]
    assert rois.notes.texts() == (
        "6 ROIs labelled NA, NaN, None or the like taken to have no label: "
        "A: NA, A: nan, A: None, A: NULL, A: n/a and 1 more",
    )


# ------------------------------------------------------------------------------ labels to rename


def test_table_of_labels(tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    path.write_text("sep=;\nTo;From;note\nTumour; Tumor ;x\n;Ignore*;\nNA;Region*;\n")
    assert read_label_table(path) == {"Tumor": "Tumour", "Ignore*": None, "Region*": None}


def test_every_bad_row_of_a_table_of_labels_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    path.write_text("from,to\n,Tumour\nNA,Tumour\na,b\na,c\na\nb,\n")
    with pytest.raises(InputError) as caught:
        read_label_table(path)
    assert caught.value.problems == (
        "map.csv:2: from is empty; write the label to rename",
        "map.csv:3: from is 'NA', which is no label; write the label to rename",
        "map.csv:5: label 'a' is there already (row 4); keep one of them",
        "map.csv:6: 1 cell, but the header has 2; write every cell, empty ones too, and quote cells that hold the "
        "delimiter",
    )
    path.write_bytes("from,to\nGefäß,b\n".encode("cp1252"))
    with pytest.raises(InputError) as caught:
        read_label_table(path)
    assert caught.value.problems == ("map.csv:2: byte 0xE4 is not UTF-8; save it as UTF-8",)
    path.write_text("old,new\na,b\n")
    with pytest.raises(InputError) as caught:
        read_label_table(path)
    assert caught.value.problems == (
        "map.csv:1: no column 'from' and no column 'to'; the columns are: old, new; it needs the columns from, to",
    )


def test_labels_are_renamed_once_and_not_along_a_chain(tmp_path: Path) -> None:
    features = [feature(label=label) for label in ("a", "b", "c", "d", None)]
    rois = geojson(tmp_path / "A.geojson", *features, labels={"a": "b", "b": "c", "c": None, "d": "d"})
    assert labels(rois) == ["b", "c", None, "d", None]
    assert rois.labels == {"a", "b", "c", "d"}
    assert rois.notes.texts() == ("3 ROIs with another label by `labels`: 'a' -> 'b', 'b' -> 'c', 'c' -> no label",)


# ---------------------------------------------------------------------------------------- a study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of the slides A and B, closed."""
    folder = tmp_path_factory.mktemp("classes")
    with sd.open(folder / "study.duckdb") as opened:
        for seed, name in enumerate("AB"):
            write_slide(folder / f"{name}.tif", seed)
        opened.add_slides([folder / "A.tif", folder / "B.tif"])
    return folder


def run(*words: str | Path) -> tuple[str, list[str]]:
    """Run a command; return its output, and its lines on standard error but for those of progress."""
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 0, result.stderr
    return result.stdout, [line for line in result.stderr.splitlines() if "Reading ROIs" not in line]


def stored(folder: Path, roi_set: str) -> list[tuple[str, str | None]]:
    with sd.open(folder / "study.duckdb", read_only=True) as study:
        rows = study.con.execute(
            "SELECT roi_name, label FROM rois WHERE roi_set = $s ORDER BY roi_name", {"s": roi_set}
        ).fetchall()
    return [(name, label) for name, label in rows]


def test_labels_that_are_alike_get_a_warning_and_the_remedy_makes_them_one(folder: Path, tmp_path: Path) -> None:
    geojson(tmp_path / "A.geojson", feature(label="Tumour"), feature(label="Tumour "), feature(label="in situ"))
    add = ("add-rois", folder / "study.duckdb", "--set", "alike")
    assert run(*add, tmp_path / "A.geojson")[1] == []
    geojson(tmp_path / "B.geojson", feature(label="tumour"), feature(label="In  situ"), feature(label="Region*"))
    said = [
        "2 groups of labels that differ only by case or spaces, and count as different; make them one with --labels, "
        "or with rename-label: 'In  situ' and 'in situ', 'Tumour' and 'tumour'",
        "1 ROI of a class with a star, which QuPath itself leaves out when it measures, and which counts here like any "
        "other; to change that, rename it with --labels: 'Region*'",
    ]
    assert run(*add, tmp_path / "B.geojson")[1] == sorted(said)
    # Labels of files that are not added now are not warned of.
    assert run(*add, tmp_path / "A.geojson") == (
        "0 ROIs (0 holes) on 0 slides from 0 files; 1 file unchanged\n", [],
    )  # fmt: skip
    (tmp_path / "map.csv").write_text('from,to\ntumour,Tumour\n"In  situ",in situ\nRegion*,\ntumuor,Tumour\n')
    assert run(*add, tmp_path / "B.geojson", "--labels", tmp_path / "map.csv")[1] == [
        "1 ROI without a label:",
        "  B: ROI_3",
        "1 label of --labels that no ROI has: 'tumuor'; did you mean 'tumour'?",
        "3 ROIs with another label by --labels: 'tumour' -> 'Tumour', 'In  situ' -> 'in situ', 'Region*' -> no label",
    ]
    with sd.open(folder / "study.duckdb", read_only=True) as study:
        found = study.con.execute("SELECT DISTINCT label FROM rois WHERE roi_set = 'alike' ORDER BY label").fetchall()
    assert found == [("Tumour",), ("in situ",), (None,)]


def test_class_in_the_text_is_taken_as_the_message_says(folder: Path, tmp_path: Path) -> None:
    path = imagescope(tmp_path / "A.xml", texts=("Mitosis", "Mitosis", "Stroma"))
    add = ("add-rois", folder / "study.duckdb", path, "--set", "text")
    assert run(*add)[1][-1] == (
        "3 ROIs without a label whose class may be the region's Text; to take it, give --label-from text: "
        "'Mitosis', 'Stroma'"
    )
    assert run(*add, "--label-from", "text") == (
        "3 ROIs (0 holes) on 1 slide from 1 file\n", ["1 ROI with the name of another numbered: A: Mitosis_2"],
    )  # fmt: skip
    assert stored(folder, "text") == [("Mitosis", "Mitosis"), ("Mitosis_2", "Mitosis"), ("Stroma", "Stroma")]


def test_cells_are_taken_as_the_message_says(folder: Path, tmp_path: Path) -> None:
    geojson(tmp_path / "A.geojson", feature(name="a"), feature(objectType="cell", name="c", label="Immune cells"))
    add = ("add-rois", folder / "study.duckdb", tmp_path / "A.geojson", "--set", "cells")
    assert run(*add)[1][-1] == "1 cell left out, not being annotations; to take them, give --include cells"
    assert run(*add, "--include", "cells")[0] == "2 ROIs (0 holes) on 1 slide from 1 file\n"
    assert stored(folder, "cells") == [("a", None), ("c", "Immune cells")]


def test_labels_that_the_study_renamed_are_renamed_in_files_that_come_later(folder: Path, tmp_path: Path) -> None:
    geojson(tmp_path / "A.geojson", *(feature(label=label) for label in ("tumor", "Ignore*", "Stroma", "old")))
    with sd.open(folder / "study.duckdb") as study:
        study.con.execute("INSERT INTO label_names VALUES ('tumor', 'Tumour'), ('Ignore*', NULL)")
        report = study.add_rois(tmp_path / "A.geojson", roi_set="renamed", labels={"old": "tumor"})
        study.con.execute("DELETE FROM label_names")
    assert [label for _, label in stored(folder, "renamed")] == ["Tumour", None, "Stroma", "Tumour"]
    assert report.notes == (
        "1 ROI with another label by `labels`: 'old' -> 'tumor'",
        "3 ROIs with the label that rename-label gave: 'tumor' -> 'Tumour', 'Ignore*' -> no label",
    )


def test_what_is_said_does_not_depend_on_the_order_of_files(folder: Path, tmp_path: Path) -> None:
    geojson(tmp_path / "A.geojson", feature(name="x", label="NA"), feature(name="x", label="Tumour"))
    geojson(tmp_path / "B.geojson", feature(name="x", label="tumour"), feature(name="x", label="nan"))
    paths = [tmp_path / "A.geojson", tmp_path / "B.geojson"]
    with sd.open(folder / "study.duckdb") as study:
        one, other = (study.add_rois(paths[::step], roi_set=f"order {step}").notes for step in (1, -1))
    assert one == other
    assert one[1:] == (
        "2 ROIs labelled NA, NaN, None or the like taken to have no label: A: x, B: x_2",
        "2 ROIs with the name of another numbered: A: x_2, B: x_2",
    )
