"""ROIs out again: what is written for other programs, read back, labels the same, and what cannot be is refused."""

from __future__ import annotations

import csv
import json
import shlex
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from click.testing import CliRunner
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import slideduck as sd
from slideduck.cli.group import cli
from slideduck.errors import InputError, StudyError
from slideduck.interop.layout import joined_ring
from slideduck.interop.rois import ROI_FORMATS, RoiExportReport
from slideduck.palette import label_colours
from tests.campaign import cases
from tests.help_examples import examples
from tests.oracle import Region, repaired, without_nested_holes
from tests.slides import write_slide

#: What a study says of its ROIs; two studies that agree on it label the same.
ROIS = "SELECT slide, roi_name, label, parent, roi_desc, area, ST_AsWKB(geom) FROM rois ORDER BY slide, roi_name"
SIZE = (640, 480)
RULES: tuple[dict[str, Any], ...] = ({}, {"rule": "coverage", "threshold": 0.3}, {"overlap": "largest"})

Row = tuple[Any, ...]
Points = Sequence[tuple[float, float]]


def square(x: float, y: float, width: float, height: float | None = None) -> list[tuple[float, float]]:
    right, bottom = x + width, y + (width if height is None else height)
    return [(x, y), (right, y), (right, bottom), (x, bottom)]


def feature(name: str, label: str | None, *polygons: Sequence[Points]) -> dict[str, Any]:
    coordinates = [[[list(point) for point in (*ring, ring[0])] for ring in polygon] for polygon in polygons]
    kind = "Polygon" if len(polygons) == 1 else "MultiPolygon"
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates[0] if len(polygons) == 1 else coordinates},
        "properties": {"name": name, "classification": {"name": label} if label else None},
    }


def geojson(*features: dict[str, Any]) -> str:
    return json.dumps({"type": "FeatureCollection", "features": features})


def csv_of(*rois: tuple[str, str, Points]) -> str:
    return "roi_name,x_base,y_base,label\n" + "".join(
        f"{name},{x},{y},{label}\n" for name, label, points in rois for x, y in points
    )


def imagescope(*regions: tuple[str, str, Points, bool]) -> str:
    root = ET.Element("Annotations")
    for name, label, points, is_hole in regions:
        layer = ET.SubElement(ET.SubElement(root, "Annotation", Name=label), "Regions")
        region = ET.SubElement(layer, "Region", Id="1", Type="0", Text=name, NegativeROA=str(int(is_hole)))
        vertices = ET.SubElement(region, "Vertices")
        for x, y in points:
            ET.SubElement(vertices, "Vertex", X=repr(x), Y=repr(y), Z="0")
    return ET.tostring(root, encoding="unicode")


def canonical(rows: Sequence[Row]) -> list[Row]:
    """Return rows with their shapes as shapely's own normal form; a MultiPolygon of one is that polygon."""
    result = []
    for *texts, wkb in rows:
        shape = shapely.from_wkb(bytes(wkb))
        if shape.geom_type == "MultiPolygon" and len(shape.geoms) == 1:
            shape = shape.geoms[0]
        result.append((*texts, shapely.to_wkb(shapely.normalize(shape))))
    return result


def refused(study: sd.Study, folder: Path, form: str, **options: Any) -> str:
    with pytest.raises(StudyError) as caught:
        study.export_rois(folder, format=form, **options)
    assert not folder.exists()
    return str(caught.value)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small slide called s."""
    path = tmp_path_factory.mktemp("slide") / "s.tiff"
    return write_slide(path, 0, size=SIZE, mpp=0.5, levels=1, tile=64)


class Pair:
    """A study whose ROIs are exported, and one that they are added to."""

    def __init__(self, folder: Path, slide: Path) -> None:
        self.folder = folder
        self.count = 0
        self.source = sd.open(folder / "source.duckdb")
        self.target = sd.open(folder / "target.duckdb")
        for study in (self.source, self.target):
            study.add_slides(slide)
            study.tile(32, tile_um=16)

    def fill(self, content: str) -> None:
        """Give the source the ROIs of a file, and no others."""
        path = self.folder / "s.csv"
        path.write_text(content, newline="")
        self.source.add_rois(path)

    def exported(self, form: str) -> RoiExportReport:
        """Export the ROIs, and add them to the target in place of those that it has."""
        self.count += 1
        report = self.source.export_rois(self.folder / str(self.count), format=form)
        (old,) = self.target.sql("SELECT coalesce(max(path), '') FROM roi_files").fetchall()[0]
        if old:
            self.target.con.execute("DELETE FROM rois")
            self.target.con.execute("DELETE FROM roi_files")
            self.target.con.execute("DELETE FROM labelled")
        self.target.add_rois(report.paths)
        return report

    def rois(self) -> tuple[list[Row], list[Row]]:
        return self.source.sql(ROIS).fetchall(), self.target.sql(ROIS).fetchall()

    def check_labels(self, **rule: Any) -> None:
        """Every tile has the same label in both studies."""
        query = "SELECT tile_id, label, kept FROM labels ORDER BY tile_id"
        found = []
        for study in (self.source, self.target):
            study.label(**rule, reset=True)
            found.append(study.sql(query).fetchall())
        assert len(found[0]) == 300
        assert found[0] == found[1]


@pytest.fixture(scope="module")
def pair(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    both = Pair(tmp_path_factory.mktemp("pair"), slide)
    yield both
    both.source.close()
    both.target.close()


# -------------------------------------------------------------------------------------- real slides


def read_back(study: sd.Study, report: RoiExportReport, folder: Path) -> tuple[list[Row], list[Row]]:
    """Return the ROIs of a study, and of a new one that the exported files were added to, both labelled."""
    with sd.open(folder / "again.duckdb") as again:
        again.add_slides([path for (path,) in study.sql("SELECT path FROM slides").fetchall()], mpp=0.5)
        again.add_rois(report.paths)
        labels = []
        for one in (study, again):
            one.tile(64, tile_um=32)
            for rule in RULES:
                one.label(**rule, reset=True)
                rows = one.sql("SELECT tile_id, label, kept, n_rois FROM labels ORDER BY tile_id").fetchall()
                labels.append(rows)
        assert len(labels[0]) == 5359
        assert labels[:3] == labels[3:]
        return study.sql(ROIS).fetchall(), again.sql(ROIS).fetchall()


def test_real_rois_come_back_from_geoparquet_as_they_are(real_study: sd.Study, tmp_path: Path) -> None:
    report = real_study.export_rois(tmp_path / "out", format="geoparquet")
    assert report == RoiExportReport(
        paths=(tmp_path / "out" / "rois.parquet",), slides=2, rois=17, holes=1,
        parts=(), inner_rings=(), left_out=(), tiles=0,
    )  # fmt: skip
    before, after = read_back(real_study, report, tmp_path)
    assert before == after


def test_real_rois_come_back_from_geojson_with_holes_as_inner_rings(real_study: sd.Study, tmp_path: Path) -> None:
    report = real_study.export_rois(tmp_path / "out", format="geojson")
    assert report.left_out == ("CMU-1-Small-Region: follicle_lumen (hole of epidermis_centre)",)
    assert (report.rois, report.holes, report.parts, report.inner_rings) == (17, 1, (), ())
    before, after = read_back(real_study, report, tmp_path)
    wanted = [(*row[:4], row[1], *row[5:]) for row in before if row[3] is None]
    assert after == wanted


@pytest.mark.parametrize("form", ["csv", "xml"])
def test_real_rois_come_back_from_single_rings(real_study: sd.Study, tmp_path: Path, form: str) -> None:
    report = real_study.export_rois(tmp_path / "out", format=form)
    assert report.inner_rings == (
        "TCGA-CR-7395-01A-01-TS1: nest_left_hole (inner ring of nest_left)",
        "TCGA-CR-7395-01A-01-TS1: nest_right_hole (inner ring of nest_right)",
    )
    assert (report.parts, report.left_out) == ((), ())
    before, after = read_back(real_study, report, tmp_path)
    assert [row for row in before if row[0].startswith("CMU")] == [row for row in after if row[0].startswith("CMU")]
    # An inner ring has become a hole that has a name; the shapes are the same, to the last bit.
    shapes = {(slide, name, label, area, wkb) for slide, name, label, parent, _, area, wkb in before if not parent}
    assert shapes == {
        (slide, name, label, area, wkb) for slide, name, label, parent, _, area, wkb in after if not parent
    }
    assert [row[1:5] for row in after if "nest_left" in row[1]] == [
        ("nest_left", "tumour", None, "nest_left (holes: nest_left_hole)"),
        ("nest_left_hole", "tumour", "nest_left", "nest_left_hole"),
    ]


def test_the_same_rois_are_the_same_bytes(real_study: sd.Study, tmp_path: Path) -> None:
    real_study.tile(64, tile_um=32)
    real_study.label()
    for form in ROI_FORMATS:
        one = real_study.export_rois(tmp_path / f"{form}1", format=form)
        with sd.open(real_study.path.with_name(f"other-{form}.duckdb"), threads=1) as other:
            other.add_slides([path for (path,) in real_study.sql("SELECT path FROM slides").fetchall()], mpp=0.5)
            for (path,) in real_study.sql("SELECT path FROM roi_files ORDER BY path DESC").fetchall():
                other.add_rois(path)
            two = other.export_rois(tmp_path / f"{form}2", format=form)
        assert [path.name for path in one.paths] == [path.name for path in two.paths]
        assert [path.read_bytes() for path in one.paths] == [path.read_bytes() for path in two.paths]


# --------------------------------------------------------------------------------- every kind of ROI

ODD = "a, \"b\"; <c> & 'd'\n  e\tf\r\ng é π 𝛼"


@pytest.mark.parametrize("form", ROI_FORMATS)
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(
            csv_of(
                ("a", "t", square(10, 10, 300)),
                ("hole", "t", square(50, 50, 200)),
                ("island", "t", square(80, 80, 100)),
                ("hole in island", "t", square(100, 100, 40)),
                ("other", "s", square(110, 110, 20)),
                ("none", "", square(400, 20, 100)),
                ("hole in none", "", square(420, 40, 50)),
            ),
            id="nested-holes-with-islands",
        ),
        pytest.param(
            imagescope(
                ("a", "t", square(10, 10, 300), False),
                ("a1", "t", square(50, 50, 60), True),
                ("a2", "t", square(150, 50, 60.5), True),
                ("b", "s", square(60, 60, 40), False),
            ),
            id="holes-that-the-file-marks",
        ),
        pytest.param(
            csv_of(
                ("eight", "t", [(10.1, 10), (60, 60.7), (60, 10), (10, 60)]),
                ("star", "s", [(300, 50), (360, 235), (203, 121), (397, 121), (240, 235)]),
                ("spiral", "t", [(420, 20), (620, 20), (620, 200), (500, 100), (600, 100), (600, 240), (420, 240)]),
                ("touching", "", [(50, 300), (150, 300), (100, 350), (150, 400), (50, 400), (100, 350)]),
            ),
            id="crossing-themselves",
        ),
        pytest.param(
            geojson(
                feature(ODD, ODD[:10], [square(0.1, 0.2, 100 / 3)]),
                feature("x", None, [square(-50, 100, 90)]),
                feature(ODD + "2", ODD[:10], [square(1 / 3, 300, 100, 1e-3)]),
            ),
            id="odd-names-and-numbers",
        ),
    ],
)  # fmt: skip
def test_what_every_form_can_say_comes_back_as_it_is(pair: Pair, content: str, form: str) -> None:
    pair.fill(content)
    report = pair.exported(form)
    before, after = pair.rois()
    if form == "geojson":
        # Holes have no names there.
        assert report.left_out == tuple(
            f"s: {row[1]} (hole of {row[3]})" for row in sorted(before, key=by_parent) if row[3]
        )
        before = [(*row[:4], row[1], *row[5:]) for row in before if row[3] is None]
    else:
        assert (report.parts, report.inner_rings, report.left_out) == ((), (), ())
    assert after == before
    pair.check_labels()


def by_parent(row: Row) -> tuple[str, str]:
    return row[3] or "", row[1]


def test_a_dangling_line_is_gone_and_a_multipolygon_of_one_is_a_polygon(pair: Pair) -> None:
    pair.fill(csv_of(("a", "t", [(0, 0), (100, 0), (100, 100), (200, 200), (100, 100), (0, 100)])))
    for form in ROI_FORMATS:
        pair.exported(form)
        before, after = pair.rois()
        assert canonical(before) == canonical(after)
        assert after[0][5] == 10_000


def test_inner_rings_with_islands_and_names_that_are_taken(pair: Pair) -> None:
    pair.fill(
        geojson(
            feature("a", "t", [square(0, 0, 300), square(10, 10, 100), square(150, 150, 100)]),
            feature("a_hole", "t", [square(20, 20, 50)]),
            feature("a_hole_2", "s", [square(400, 20, 50), square(410, 30, 10)]),
        )
    )
    for form in ("csv", "xml"):
        report = pair.exported(form)
        assert report.inner_rings == (
            "s: a_hole_3 (inner ring of a)",
            "s: a_hole_4 (inner ring of a)",
            "s: a_hole_2_hole (inner ring of a_hole_2)",
        )
        before, after = pair.rois()
        assert {row[1:3] + row[5:] for row in before} == {row[1:3] + row[5:] for row in after if row[3] is None}
        pair.check_labels()
        pair.check_labels(rule="coverage", threshold=0.25, overlap="largest")
    for form in ("geojson", "geoparquet"):
        assert pair.exported(form).inner_rings == ()
        before, after = pair.rois()
        assert before == after


APART = feature("m", "t", [square(10, 10, 50)], [square(200, 200, 80), square(220, 220, 20)], [square(300, 10, 60)])


@pytest.mark.parametrize("form", ["csv", "xml"])
def test_polygons_apart_become_rois_where_no_label_changes(pair: Pair, form: str) -> None:
    pair.fill(geojson(APART, feature("o", "s", [square(400, 10, 50)])))
    for rule in RULES:
        pair.source.label(**rule, reset=True)
        report = pair.exported(form)
        assert report.parts == ("s: m_2 (part of m)", "s: m_3 (part of m)")
        assert report.inner_rings == ("s: m_hole (inner ring of m)",)
        assert report.tiles == 300
        _, after = pair.rois()
        # The largest keeps the name.
        assert [(row[1], row[3], row[5]) for row in after] == [
            ("m", None, 6000.0),
            ("m_2", None, 3600.0),
            ("m_3", None, 2500.0),
            ("m_hole", "m", 400.0),
            ("o", None, 2500.0),
        ]
        pair.check_labels(**rule)


@pytest.mark.parametrize("form", ["csv", "xml"])
def test_polygons_apart_are_refused_where_a_label_would_change(pair: Pair, form: str) -> None:
    # The whole is larger than the square around its part, which is larger than the part.
    content = geojson(
        feature("m", "t", [square(0, 0, 100)], [square(200, 200, 100)]),
        feature("fine", "t", [square(400, 0, 50)], [square(400, 200, 50)]),
        feature("o", "s", [square(0, 0, 120)]),
    )
    pair.fill(content)
    pair.source.label(reset=True)
    assert refused(pair.source, pair.folder / "no", form) == (
        f"1 ROI cannot be written as {form}; write geojson or geoparquet instead:\n"
        "  s: 'm': it is of 2 polygons that lie apart; as ROIs of their own 9 tiles would get another label"
    )
    # Where the other label wins whatever its size, nothing changes.
    pair.source.label(overlap="priority", priority=["s"])
    assert pair.exported(form).tiles == 300
    pair.check_labels(overlap="priority", priority=["s"])


def test_polygons_apart_need_a_grid(slide: Path, tmp_path: Path) -> None:
    (tmp_path / "s.geojson").write_text(geojson(APART))
    with sd.open(tmp_path / "study.duckdb") as study:
        study.add_slides(slide)
        study.add_rois(tmp_path / "s.geojson")
        assert refused(study, tmp_path / "no", "csv") == (
            "1 ROI cannot be written as csv; write geojson or geoparquet instead:\n"
            "  s: 'm': it is of 3 polygons that lie apart; whether ROIs of their own give the same labels is told on "
            "a grid: lay one first with tile"
        )
        for form in ("geojson", "geoparquet"):
            report = study.export_rois(tmp_path / form, format=form)
            study.add_rois(report.paths, roi_set=form)
        rows = study.sql("SELECT roi_set, roi_desc, area, ST_AsWKB(geom) FROM rois ORDER BY roi_set").fetchall()
        assert [row[0] for row in rows] == ["default", "geojson", "geoparquet"]
        assert rows[0][1:] == rows[1][1:] == rows[2][1:]


def test_an_roi_within_another_of_its_label_is_no_csv(pair: Pair) -> None:
    pair.fill(
        geojson(
            feature("a", "t", [square(0, 0, 200)]),
            feature("b", "t", [square(50, 50, 50)]),
            feature("c", "t", [square(120, 120, 50)]),
            feature("d", "s", [square(60, 60, 10)]),
        )
    )
    why = "it lies in 'a', which has the same label, without being a hole of it"
    assert refused(pair.source, pair.folder / "no", "csv") == (
        f"2 ROIs cannot be written as csv; write geojson or geoparquet instead:\n  s: 'b': {why}\n  s: 'c': {why}"
    )
    for form in ("geojson", "xml", "geoparquet"):
        pair.exported(form)
        before, after = pair.rois()
        assert before == after


def test_a_part_within_another_roi_of_its_label_is_no_csv(pair: Pair) -> None:
    pair.fill(
        geojson(
            feature("a", "t", [square(0, 0, 200)]),
            feature("m", "t", [square(300, 0, 100)], [square(50, 50, 50)]),
            feature("ring", "t", [square(300, 200, 100), square(310, 210, 50)]),
            feature("inner", "t", [square(305, 205, 60)]),
        )
    )
    assert refused(pair.source, pair.folder / "no", "csv") == (
        "2 ROIs cannot be written as csv; write geojson or geoparquet instead:\n"
        "  s: 'inner': it lies in 'ring', which has the same label, without being a hole of it\n"
        "  s: 'm': its part 'm_2' lies in 'a', which has the same label, without being a hole of it"
    )


def test_a_hole_that_leaves_its_roi_is_cut_out_of_it_in_csv(pair: Pair) -> None:
    pair.fill(
        imagescope(
            ("a", "t", square(0, 0, 200), False),
            ("h", "t", square(150, 150, 100), True),
            ("b", "s", square(300, 0, 100), False),
            ("inside", "s", square(310, 10, 10), True),
        )
    )
    report = pair.exported("csv")
    assert report.left_out == ("s: h (hole of a)",)
    before, after = pair.rois()
    assert before[0][4] == "a (holes: h)"
    assert after == [(*before[0][:4], "a", *before[0][5:]), *before[1:2], *before[3:]]
    pair.check_labels()
    for form in ("xml", "geoparquet"):
        pair.exported(form)
        before, after = pair.rois()
        assert before == after


def test_an_roi_of_which_its_holes_leave_nothing(pair: Pair) -> None:
    pair.fill(imagescope(("a", "t", square(20, 20, 20), False), ("h", "t", square(10, 10, 100), True)))
    for form, better in (("csv", "geojson or geoparquet"), ("geojson", "xml or geoparquet")):
        assert refused(pair.source, pair.folder / "no", form) == (
            f"1 ROI cannot be written as {form}; write {better} instead:\n  s: 'a': its holes leave nothing of it"
        )
    for form in ("xml", "geoparquet"):
        pair.exported(form)
        before, after = pair.rois()
        assert before == after


def test_characters_that_a_form_cannot_hold(pair: Pair) -> None:
    pair.fill(
        geojson(
            feature("ab", "t", [square(0, 0, 20)]),
            feature("bell", "t\a", [square(30, 0, 20)]),
            feature("fine\n", "t", [square(60, 0, 20)]),
        )
    )
    # A study takes no NUL; one of an earlier version may have it.
    pair.source.con.execute("UPDATE rois SET roi_name = 'a' || chr(0) || 'b', roi_desc = 'ab' WHERE roi_name = 'ab'")
    better = "write geojson or geoparquet instead"
    assert refused(pair.source, pair.folder / "no", "csv") == (
        f"1 ROI cannot be written as csv; {better}:\n  s: 'a\\x00b': its name holds the character '\\x00'"
    )
    assert refused(pair.source, pair.folder / "no", "xml") == (
        f"2 ROIs cannot be written as xml; {better}:\n  s: 'a\\x00b': its name holds the character '\\x00'\n"
        "  s: 'bell': its label holds the character '\\x07'"
    )
    pair.source.con.execute("UPDATE rois SET roi_name = 'ab' WHERE contains(roi_name, chr(0))")
    for form in ("geojson", "geoparquet"):
        pair.exported(form)
        before, after = pair.rois()
        assert before == after


def test_a_part_beyond_the_slide_cannot_stand_alone(pair: Pair) -> None:
    pair.fill(geojson(feature("m", "t", [square(10, 10, 60)], [square(900, 10, 50)])))
    message = refused(pair.source, pair.folder / "no", "csv")
    assert message.startswith(
        "the ROIs cannot be written as csv, since the files could not be added to a study; "
        "write geojson or geoparquet instead:\ns.csv:6: ROI 'm_2' lies wholly outside slide 's' "
    )
    pair.exported("geojson")
    before, after = pair.rois()
    assert before == after


# -------------------------------------------------------------------------- any ROIs, by an oracle

numbers = st.integers(0, 24).map(lambda n: n * 8.0) | st.floats(0, 200, width=32)
polygons = st.lists(st.tuples(numbers, numbers), min_size=3, max_size=7)
squares = st.builds(square, numbers, numbers, st.sampled_from([8.0, 16.0, 48.0, 96.0, 200.0]))
names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=4).map(str.strip).filter(bool)
some = st.lists(st.tuples(names, st.sampled_from(["", "t", "s"]), squares | polygons), min_size=1, max_size=6,
                unique_by=lambda roi: roi[0])  # fmt: skip


def quoted_csv(rois: Sequence[tuple[str, str, Points]]) -> str:
    return csv_of(*((f'"{name.replace(chr(34), chr(34) * 2)}"', label, points) for name, label, points in rois))


@st.composite
def drawings(draw: st.DrawFn) -> str:
    """A file of ROIs in one of the forms, with holes as that form has them."""
    rois = draw(some)
    kind = draw(st.sampled_from(["csv", "geojson", "xml"]))
    if kind == "csv":
        return quoted_csv(rois)
    if kind == "xml":
        return imagescope(*((*roi, draw(st.integers(0, 3)) == 0) for roi in rois))
    features = []
    for name, label, points in rois:
        others = draw(st.lists(st.lists(squares, min_size=1, max_size=2), max_size=2))
        features.append(feature(name, label or None, [points, *draw(st.lists(squares, max_size=2))], *others))
    return geojson(*features)


def effective(path: Path) -> dict[str, tuple[str | None, shapely.Geometry]]:
    """Return label and shape of what labels in an exported file, read by nothing of ours."""
    if path.suffix == ".csv":
        drawn: dict[str, tuple[str | None, list[tuple[float, float]]]] = {}
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                points = drawn.setdefault(row["roi_name"], (row["label"] or None, []))[1]
                points.append((float(row["x_base"]), float(row["y_base"])))
        regions = [Region(name, label, repaired(points)) for name, (label, points) in drawn.items()]
        return {roi.name: (roi.label, roi.shape) for roi in without_nested_holes(regions)}
    if path.suffix == ".geojson":
        return {
            one["properties"]["name"]: (
                one["properties"].get("classification", {}).get("name"),
                shapely.geometry.shape(one["geometry"]),
            )
            for one in json.loads(path.read_text())["features"]
        }
    if path.suffix == ".parquet":
        rows = pq.read_table(path).to_pylist()
        return {row["roi_name"]: (row["label"], shapely.from_wkb(row["geometry"])) for row in rows if not row["parent"]}
    found: dict[bool, list[Region]] = {True: [], False: []}
    for layer in ET.parse(path).getroot():
        for region in layer.iter("Region"):
            points = [(float(v.attrib["X"]), float(v.attrib["Y"])) for v in region.iter("Vertex")]
            is_hole = region.attrib["NegativeROA"] == "1"
            found[is_hole].append(Region(region.attrib["Text"], layer.attrib["Name"] or None, repaired(points)))
    shapes = {roi.name: (roi.label, roi.outline) for roi in found[False]}
    for hole in found[True]:
        touched = [roi for roi in found[False] if roi.label == hole.label and roi.outline.intersects(hole.outline)]
        is_around = any(hole.outline.within(roi.outline) for roi in touched)
        for roi in touched:
            label, shape = shapes[roi.name]
            smaller = roi.outline.area < hole.outline.area and roi.outline.within(hole.outline)
            # What lies in a hole of an ROI is an island.
            if not (is_around and smaller):
                shapes[roi.name] = label, shape.difference(hole.outline)
    return shapes


@settings(
    max_examples=cases(16, 1200),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(content=drawings(), form=st.sampled_from(ROI_FORMATS), rule=st.sampled_from(["centre", "coverage"]))
@pytest.mark.slow
def test_any_rois_come_back_or_are_refused_by_name(pair: Pair, content: str, form: str, rule: str) -> None:
    try:
        pair.fill(content)
    except InputError:
        assume(False)
    pair.source.label(rule=rule, reset=True)
    before = pair.source.sql(ROIS).fetchall()
    shapes = {row[1]: (row[2], shapely.from_wkb(bytes(row[6]))) for row in before if row[3] is None}
    try:
        report = pair.exported(form)
    except StudyError as error:
        # GeoParquet says everything; the others name an ROI, and why.
        assert form != "geoparquet"
        first, *lines = str(error).splitlines()
        assert "cannot be written as" in first
        assert lines
        assert all(line.startswith("  s: ") and any(repr(name) in line for name in shapes) for line in lines)
        return
    pair.check_labels(rule=rule)
    _, after = pair.rois()
    if not (report.parts or report.inner_rings or report.left_out):
        assert canonical(before) == canonical(after)
    read = effective(report.paths[0])
    root = {name: name for name in shapes}
    for text in report.parts:
        part, _, of = text.removeprefix("s: ").removesuffix(")").partition(" (part of ")
        root[part] = of
    for name, (label, shape) in shapes.items():
        own = [read[part] for part, of in root.items() if of == name and part in read]
        assert {found for found, _ in own} == {label}
        union = shapely.union_all([found for _, found in own])
        assert union.symmetric_difference(shape).area <= 1e-6 * max(shape.area, 1)


@settings(max_examples=cases(100, 2000), deadline=None)
@given(polygons)
def test_a_ring_that_crosses_itself_is_one_ring_again(points: list[tuple[float, float]]) -> None:
    assume(shapely.Polygon(points).is_simple or len(set(points)) >= 3)
    shape = repaired(points)
    assume(shape.area > 0)
    parts = [part for part in shapely.get_parts(shape) if part.area > 0]
    rings = [tuple(np.array(ring.coords[:-1]) for ring in (part.exterior, *part.interiors)) for part in parts]
    ring = joined_ring(rings)
    if ring is None:
        # Two rings at the least share no point.
        assert len(shapely.get_parts(shapely.line_merge(shapely.union_all([part.boundary for part in parts])))) > 1
        return
    assert repaired([tuple(point) for point in ring.tolist()]).symmetric_difference(shape).area <= 1e-9 * shape.area


# ------------------------------------------------------------------------------------ what is written


def test_geojson_is_as_qupath_reads_it(pair: Pair) -> None:
    pair.fill(
        geojson(
            feature("b", "tumour", [square(0, 0, 100), square(10, 10, 10.25)]),
            feature("a", None, [square(200, 0, 50)]),
            feature("c", "stroma", [square(300, 0, 10)], [square(330, 0, 10)]),
        )
    )
    (path,) = pair.exported("geojson").paths
    document = json.loads(path.read_text())
    assert document["type"] == "FeatureCollection"
    assert [one["properties"] for one in document["features"]] == [
        {"objectType": "annotation", "name": "a"},
        {"objectType": "annotation", "name": "b", "classification": {"name": "tumour", "color": [230, 159, 0]}},
        {"objectType": "annotation", "name": "c", "classification": {"name": "stroma", "color": [0, 114, 178]}},
    ]
    assert label_colours(["tumour", "stroma"]) == {"stroma": "#0072B2", "tumour": "#E69F00"}
    ids = [uuid.UUID(one["id"]) for one in document["features"]]
    assert [one.version for one in ids] == [5, 5, 5]
    assert len(set(ids)) == 3
    assert document["features"][1]["geometry"] == {
        "type": "Polygon",
        "coordinates": [
            [[0, 0], [0, 100], [100, 100], [100, 0], [0, 0]],
            [[10, 10], [20.25, 10], [20.25, 20.25], [10, 20.25], [10, 10]],
        ],
    }
    assert document["features"][2]["geometry"]["type"] == "MultiPolygon"
    # Whole numbers are written without a point, and nothing is rounded.
    assert "[20.25,10]" in path.read_text()


def test_csv_is_as_slideflow_reads_it(pair: Pair) -> None:
    pair.fill(geojson(feature('a, "b"', "t", [square(0, 0, 10.5)]), feature("c", None, [square(20, 0, 1 / 3)])))
    (path,) = pair.exported("csv").paths
    assert path.read_bytes().decode() == (
        "roi_name,x_base,y_base,label\n"
        '"a, ""b""",0,0,t\n"a, ""b""",0,10.5,t\n"a, ""b""",10.5,10.5,t\n"a, ""b""",10.5,0,t\n'
        "c,20,0,\nc,20,0.3333333333333333,\nc,20.333333333333332,0.3333333333333333,\nc,20.333333333333332,0,\n"
    )


def test_xml_is_as_imagescope_reads_it(pair: Pair) -> None:
    pair.fill(
        geojson(
            feature("a<&>", 'tu"mour', [square(0, 0, 100), square(10, 10, 10.5)]),
            feature("b", None, [square(200, 0, 50)]),
        )
    )
    (path,) = pair.exported("xml").paths
    root = ET.parse(path).getroot()
    assert (root.tag, root.attrib) == ("Annotations", {"MicronsPerPixel": "0.5"})
    assert [(layer.attrib["Name"], layer.attrib["LineColor"]) for layer in root] == [
        ("", str(0x4D4D4D)),
        # Windows has the red in the lowest byte.
        ('tu"mour', str(0x00 + 256 * 0x72 + 65536 * 0xB2)),
    ]
    keys = ("Id", "Type", "Text", "NegativeROA", "Length", "Area", "LengthMicrons", "AreaMicrons")
    assert [tuple(region.attrib[key] for key in keys) for region in root.iter("Region")] == [
        ("1", "0", "b", "0", "200.0", "2500.0", "100.0", "625.0"),
        ("1", "0", "a<&>", "0", "400.0", "10000.0", "200.0", "2500.0"),
        ("2", "0", "a<&>_hole", "1", "42.0", "110.2", "21.0", "27.6"),
    ]
    vertices = [vertex.attrib for vertex in root.iter("Vertex")]
    assert vertices[-2:] == [{"X": "20.5", "Y": "20.5", "Z": "0"}, {"X": "10", "Y": "20.5", "Z": "0"}]


def test_geoparquet_says_what_its_columns_are(pair: Pair) -> None:
    pair.fill(csv_of(("a", "t", square(0, 10, 100)), ("h", "t", square(10, 20, 10)), ("b", "", square(200, 0, 50))))
    (path,) = pair.exported("geoparquet").paths
    table = pq.read_table(path)
    assert json.loads(table.schema.metadata[b"geo"]) == {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {
            "geometry": {
                "encoding": "WKB",
                "geometry_types": ["Polygon"],
                "crs": None,
                "bbox": [0.0, 0.0, 250.0, 110.0],
            },
            "outline": {
                "encoding": "WKB",
                "geometry_types": ["Polygon"],
                "crs": None,
                "bbox": [0.0, 10.0, 100.0, 110.0],
            },
        },
    }
    assert table.drop_columns(["geometry", "outline"]).to_pylist() == [
        {"slide": "s", "roi_set": "default", "roi_name": name, "label": label, "parent": parent, "roi_desc": desc,
         "area_um2": area}
        for name, label, parent, desc, area in (
            ("a", "t", None, "a (holes: h)", 2475.0),
            ("b", None, None, "b", 625.0),
            ("h", "t", "a", "h", 25.0),
        )
    ]  # fmt: skip
    labelled = shapely.from_wkb(table["geometry"].to_pylist())
    assert [shape.area for shape in labelled] == [9900.0, 2500.0, 100.0]
    drawn = table["outline"].to_pylist()
    assert drawn[1:] == [None, None]
    assert shapely.from_wkb(drawn[0]).equals(shapely.Polygon(square(0, 10, 100)))


# ----------------------------------------------------------------------------- sets, slides and files


@pytest.fixture
def two_slides(tmp_path: Path) -> Iterator[sd.Study]:
    """A study of two slides with ROIs of two readers."""
    for name in ("s1", "s2"):
        write_slide(tmp_path / f"{name}.tiff", 1, size=SIZE, mpp=0.5, levels=1, tile=64)
        (tmp_path / f"{name}.csv").write_text(csv_of(("a", "t", square(10, 10, 100))))
    with sd.open(tmp_path / "study.duckdb") as study:
        study.add_slides(tmp_path)
        study.add_rois([tmp_path / "s1.csv", tmp_path / "s2.csv"])
        (tmp_path / "s2.csv").write_text(csv_of(("b", "s", square(10, 10, 100))))
        study.add_rois(tmp_path / "s2.csv", roi_set="second")
        yield study


def test_a_set_and_slides_are_chosen(two_slides: sd.Study, tmp_path: Path) -> None:
    report = two_slides.export_rois(tmp_path / "out", format="csv", roi_set="second")
    assert report.paths == (tmp_path / "out" / "s2.csv",)
    assert "b,10,10,s\n" in report.paths[0].read_text()
    report = two_slides.export_rois(tmp_path / "one", format="xml", slides=["s1"])
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["s1.xml"]
    assert refused(two_slides, tmp_path / "no", "csv", roi_set="third") == (
        "study.duckdb has no ROIs of the set 'third'; it has those of 'default', 'second'"
    )
    assert refused(two_slides, tmp_path / "no", "csv", roi_set="second", slides=["s1", "s2", "s9"]) == (
        "no ROIs of the set 'second' are on the slides 's1', 's9'; see where there are some with: "
        "slideduck sql study.duckdb 'SELECT DISTINCT roi_set, slide FROM rois'"
    )
    assert refused(two_slides, tmp_path / "no", "svg") == "format is 'svg'; give one of csv, geojson, xml, geoparquet"


def test_a_study_without_rois_says_so(study: sd.Study, tmp_path: Path) -> None:
    assert refused(study, tmp_path / "no", "csv") == (
        "study.duckdb has no ROIs of the set 'default'; add some with: slideduck add-rois study.duckdb FOLDER"
    )


def test_files_that_are_there_are_not_replaced_unless_told(two_slides: sd.Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    two_slides.export_rois(out, format="csv")
    (out / "mine.txt").write_text("mine")
    (out / "s1.csv").write_text("old")
    with pytest.raises(StudyError) as caught:
        two_slides.export_rois(out, format="csv")
    assert str(caught.value) == (
        f"2 files are in {out} already; give another folder, or replace them with `overwrite=True`:\n  s1.csv\n  s2.csv"
    )
    assert (out / "s1.csv").read_text() == "old"
    two_slides.export_rois(out, format="csv", overwrite=True)
    assert (out / "s1.csv").read_text().startswith("roi_name,")
    assert sorted(path.name for path in out.iterdir()) == ["mine.txt", "s1.csv", "s2.csv"]
    # Another form has other names.
    two_slides.export_rois(out, format="geojson")


def test_places_that_cannot_be_written(two_slides: sd.Study, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StudyError, match=r"/file is a file, not a folder; give another name$"):
        two_slides.export_rois(tmp_path / "file", format="csv")
    with pytest.raises(StudyError, match=r"^no folder .*/none to put out in; make the folder first$"):
        two_slides.export_rois(tmp_path / "none" / "out", format="csv")


def test_no_file_changes_where_one_slide_is_refused(two_slides: sd.Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    two_slides.export_rois(out, format="csv")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (tmp_path / "s1.csv").write_text(csv_of(("changed", "t", square(10, 10, 50))))
    (tmp_path / "s2.geojson").write_text(geojson(feature("inner", "t", [square(20, 20, 10)])))
    two_slides.add_rois([tmp_path / "s1.csv", tmp_path / "s2.geojson"], holes="explicit")
    with pytest.raises(StudyError, match="'inner': it lies in 'a'"):
        two_slides.export_rois(out, format="csv", overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_study_that_is_only_read_is_exported(two_slides: sd.Study, tmp_path: Path) -> None:
    two_slides.close()
    with sd.open(tmp_path / "study.duckdb", read_only=True) as study:
        assert study.export_rois(tmp_path / "out", format="csv").rois == 2


# --------------------------------------------------------------------------------- the command line


def run(*words: str | Path) -> Any:
    return CliRunner().invoke(cli, [str(word) for word in words])


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The study that the examples of the help are about."""
    (tmp_path / "slides").mkdir()
    (tmp_path / "rois").mkdir()
    for name in ("s0", "s1"):
        write_slide(tmp_path / "slides" / f"{name}.tiff", 1, size=(1024, 768), mpp=0.5, levels=1, tile=64)
        (tmp_path / "rois" / f"{name}.geojson").write_text(
            geojson(
                feature("a", "tumour", [square(0, 0, 300), square(50, 50, 50)], [square(400, 400, 100)]),
                feature("b", "stroma", [square(600, 0, 300)]),
            )
        )
    monkeypatch.chdir(tmp_path)
    for words in (
        ("add-slides", "study.duckdb", "slides"),
        ("add-rois", "study.duckdb", "rois"),
        ("tile", "study.duckdb", "--tile-px", "256", "--tile-um", "256"),
        ("tile", "study.duckdb", "--tile-px", "64", "--tile-um", "64"),
        ("label", "study.duckdb"),
    ):
        result = run(*words)
        assert result.exit_code == 0, result.output
    return tmp_path


@pytest.mark.parametrize("command", ["export-rois", "export-tiles"])
def test_the_examples_of_the_help_run(project: Path, command: str) -> None:
    lines = [shlex.split(line) for line in examples(command)]
    assert lines
    for words in lines:
        assert words[0] == "slideduck"
        result = run(*words[1:])
        assert result.exit_code == 0, (words, result.output)
        assert any((project / words[3]).iterdir())


def test_what_is_printed(project: Path) -> None:
    result = run("export-rois", "study.duckdb", "out", "--format", "csv", "--slide", "s0")
    assert result.stdout == "2 ROIs (0 holes) of 1 slide in 1 file in out\n"
    assert result.stderr == (
        "1 part of ROIs written as ROIs of their own, since csv knows single polygons alone; the labels of "
        "50 tiles were compared and stay the same:\n  s0: a_2 (part of a)\n"
        "1 inner ring written as a hole:\n  s0: a_hole (inner ring of a)\n"
    )
    assert run("add-rois", "study.duckdb", "out", "--set", "again").exit_code == 0
    result = run("export-rois", "study.duckdb", "holes", "--format", "geojson", "--set", "again")
    assert result.stdout == "4 ROIs (1 hole) of 1 slide in 1 file in holes\n"
    assert result.stderr == "1 hole taken out of the ROI, without a name in the file:\n  s0: a_hole (hole of a)\n"
    result = run("export-rois", "study.duckdb", "out", "--format", "csv")
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: 1 file is in {project}/out already; give another folder, or replace them with --overwrite:\n  s0.csv\n"
    )
    assert run("export-rois", "study.duckdb", "out").exit_code == 2


def test_slides_with_folders_in_their_names_have_files_in_folders_which_are_read_back(
    slide: Path, tmp_path: Path
) -> None:
    for case, right in (("case1", 100), ("case2", 60)):
        for kind in ("slides", "rois"):
            (tmp_path / kind / case).mkdir(parents=True)
        (tmp_path / "slides" / case / "HE.tiff").symlink_to(slide)
        (tmp_path / "rois" / case / "HE.csv").write_text(csv_of(("a", "t", square(10, 10, right))))
    with sd.open(tmp_path / "s.duckdb") as study:
        study.add_slides(tmp_path / "slides", names="relative")
        study.add_rois(tmp_path / "rois", names="relative")
        own = study.sql("SELECT slide, roi_name, label, area FROM rois ORDER BY slide").fetchall()
        assert own == [("case1/HE", "a", "t", 10_000), ("case2/HE", "a", "t", 3_600)]
        for form in ROI_FORMATS:
            out = tmp_path / form
            report = study.export_rois(out, format=form)
            names = [path.relative_to(out).as_posix() for path in report.paths]
            if form == "geoparquet":
                assert names == ["rois.parquet"]
            else:
                assert names == [f"case{i}/HE.{form}" for i in (1, 2)]
            given = report.paths if form == "geoparquet" else out
            study.add_rois(given, names="relative", roi_set=form)
            query = "SELECT slide, roi_name, label, area FROM rois WHERE roi_set = $form ORDER BY slide"
            assert study.sql(query, {"form": form}).fetchall() == own
