"""The shape of an ROI: repaired ring by ring, its holes taken out, and the same whatever the format."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
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
from slideduck.slides.grid import SlideGrid
from tests.campaign import cases
from tests.oracle import repaired, touched_tiles
from tests.slides import write_slide

Ring = Sequence[tuple[float, float]]
Parts = Sequence[Sequence[Ring]]

SIDE = 512


def box(left: float, top: float, right: float, bottom: float) -> Ring:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def shape_of(parts: Parts) -> shapely.Geometry:
    """Return what a drawing means: each ring by itself, outer rings less inner ones, and the union of the parts."""
    return shapely.unary_union(
        [repaired(outer).difference(shapely.unary_union([repaired(hole) for hole in inner])) for outer, *inner in parts]
    )


def enclosed(parts: Parts) -> float:
    """Return the area of the rings as drawn, by the shoelace formula, inner ones subtracted."""

    def area(ring: Ring) -> float:
        (x, y), (x2, y2) = np.array(ring).T, np.roll(np.array(ring), -1, 0).T
        return abs(float(np.sum(x * y2 - x2 * y))) / 2

    return sum(area(outer) - sum(map(area, inner)) for outer, *inner in parts)


def geojson(drawings: Mapping[str, Parts]) -> str:
    features = []
    for name, parts in drawings.items():
        coordinates = [[[*ring, ring[0]] for ring in rings] for rings in parts]
        geometry: dict[str, Any] = {"type": "MultiPolygon", "coordinates": coordinates}
        if len(parts) == 1:
            geometry = {"type": "Polygon", "coordinates": coordinates[0]}
        properties = {"name": name, "classification": {"name": f"of {name}"}}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    return json.dumps({"type": "FeatureCollection", "features": features})


def region(name: str, ring: Ring, *, is_hole: bool = False) -> str:
    vertices = "".join(f'<Vertex X="{x!r}" Y="{y!r}"/>' for x, y in ring)
    return f'<Region Type="0" Text="{name}" NegativeROA="{int(is_hole)}"><Vertices>{vertices}</Vertices></Region>\n'


def layers(**regions: str) -> str:
    """Return ImageScope's XML, a layer for each label."""
    of_label = [
        f'<Annotation Name="{label}"><Regions>\n{text}</Regions></Annotation>' for label, text in regions.items()
    ]
    return f"<Annotations>{''.join(of_label)}</Annotations>"


def imagescope(drawings: Mapping[str, Parts]) -> str:
    """Return drawings of one part each, inner rings as marked holes."""
    found = {}
    for name, ((outer, *inner),) in drawings.items():
        holes = [region(f"{name}_{i}", ring, is_hole=True) for i, ring in enumerate(inner)]
        found[f"of {name}"] = region(name, outer) + "".join(holes)
    return layers(**found)


def csv(drawings: Mapping[str, Parts]) -> str:
    """Return drawings of one part each, inner rings as ROIs that lie within it."""
    lines = ["roi_name,x_base,y_base,label"]
    for name, ((outer, *inner),) in drawings.items():
        for called, ring in [(name, outer), *((f"{name}_{i}", ring) for i, ring in enumerate(inner))]:
            lines += [f"{called},{x!r},{y!r},of {name}" for x, y in ring]
    return "\n".join(lines) + "\n"


class Study:
    """A study of a slide for each format, with a grid whose tiles overlap."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened = sd.open(folder / "study.duckdb")
        slides = [write_slide(folder / f"{name}.tiff", size=(SIDE, SIDE), levels=1) for name in ("g", "x", "c")]
        self.opened.add_slides(slides)
        self.opened.tile(64, tile_um=32, stride_div=2)

    def add(self, **contents: str) -> Any:
        """Give each slide the ROIs of a file, and no others."""
        self.opened.con.execute("DELETE FROM rois")
        self.opened.con.execute("DELETE FROM roi_files")
        paths = []
        for name, content in contents.items():
            paths.append(self.folder / f"{name}.{ {'g': 'geojson', 'x': 'xml', 'c': 'csv'}[name] }")
            paths[-1].write_text(content)
        return self.opened.add_rois(paths)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.opened.sql(query).fetchall()

    def shapes(self, slide: str) -> dict[str, shapely.Geometry]:
        rows = self.rows(f"SELECT roi_name, ST_AsWKB(geom) FROM rois WHERE slide = '{slide}' AND parent IS NULL")
        return {name: shapely.from_wkb(bytes(wkb)) for name, wkb in rows}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    made = Study(tmp_path_factory.mktemp("shapes"))
    yield made
    made.opened.close()


# --------------------------------------------------------------------------------------- known shapes

SPIKE = [(0, 0), (200, 0), (200, 100), (300, 100), (200, 100), (200, 200), (0, 200)]
BOW = [(300, 300), (500, 500), (500, 300), (300, 500)]
FLAT = [(10, 400), (60, 400), (110, 400)]

KNOWN: dict[str, tuple[Parts, float]] = {
    "hole on the outline": ([[box(0, 0, 512, 512), box(0, 128, 256, 384)]], 196_608),
    "hole leaves": ([[box(64, 64, 448, 448), box(256, 128, 512, 384)]], 98_304),
    "hole within": ([[box(0, 0, 512, 512), box(1, 128, 256, 384)]], 196_864),
    "holes overlap": ([[box(0, 0, 300, 300), box(50, 50, 150, 150), box(100, 100, 200, 200)]], 72_500),
    "hole in a hole": ([[box(0, 0, 300, 300), box(50, 50, 150, 150), box(80, 80, 100, 100)]], 80_000),
    "hole twice": ([[box(0, 0, 300, 300), box(50, 50, 150, 150), box(50, 50, 150, 150)]], 80_000),
    "hole crosses itself": ([[box(0, 0, 512, 512), BOW]], 242_144),
    "flat hole": ([[box(0, 0, 200, 200), [(10, 10), (50, 50), (90, 90)]]], 40_000),
    "outline within its hole": ([[box(0, 0, 100, 100), box(50, -50, 200, 200)]], 5_000),
    "spike": ([[SPIKE]], 40_000),
    "spike and square": ([[SPIKE], [box(100, 100, 250, 250)]], 52_500),
    "spike and bow": ([[SPIKE], [BOW]], 60_000),
    "spike and flat": ([[SPIKE], [FLAT]], 40_000),
    "parts overlap": ([[box(0, 0, 200, 200)], [box(100, 100, 300, 300)]], 70_000),
    "part twice": ([[box(0, 0, 200, 200)], [box(0, 0, 200, 200)]], 40_000),
    "part within another": ([[box(0, 0, 200, 200)], [box(50, 50, 100, 100)]], 40_000),
    "part in a hole": ([[box(0, 0, 200, 200), box(50, 50, 100, 100)], [box(60, 60, 80, 80)]], 37_900),
    "part fills a hole": ([[box(0, 0, 200, 200), box(50, 50, 100, 100)], [box(40, 40, 110, 110)]], 40_000),
    "all at once": ([[SPIKE], [BOW], [FLAT], [box(150, 150, 400, 400)]], 115_000),
}


def test_a_drawing_is_repaired_ring_by_ring(study: Study) -> None:
    report = study.add(g=geojson({name: parts for name, (parts, _) in KNOWN.items()}))
    found = study.shapes("g")
    for name, (parts, area) in KNOWN.items():
        assert shape_of(parts).area == area
        assert found[name].area == area, name
        assert found[name].equals(shape_of(parts)), name
    rows = study.rows("SELECT roi_name, repaired, changed_area FROM rois")
    whole = {"hole within", "part in a hole"}
    assert {name for name, repaired, _ in rows if not repaired} == whole
    for name, _, changed in rows:
        assert changed == KNOWN[name][1] - enclosed(KNOWN[name][0]), name
    assert report.repaired == tuple(f"g: {name}" for name in sorted(KNOWN) if name not in whole)
    assert report.repairs[:3] == (
        "g: part twice (-40,000 px², -100.00 % of its area)",
        "g: outline within its hole (+32,500 px², +650.00 % of its area)",
        "g: hole crosses itself (-20,000 px², -8.26 % of its area)",
    )


def test_every_format_gives_the_same_area(study: Study) -> None:
    drawings = {name: parts for name, (parts, _) in KNOWN.items() if len(parts) == 1}
    # The other formats refuse a ring without an area by its name.
    del drawings["flat hole"]
    study.add(g=geojson(drawings), x=imagescope(drawings))
    for name, parts in drawings.items():
        for slide in "gx":
            assert study.shapes(slide)[name].equals(shape_of(parts)), (slide, name)


def test_rings_without_an_area_are_left_out_and_counted(study: Study) -> None:
    report = study.add(g=geojson({"m": [[SPIKE, [(5, 5), (6, 6), (7, 7)]], [FLAT]], "n": [[box(0, 0, 9, 9), FLAT]]}))
    assert report.flat == ("g.geojson:feature 1: m (2 rings)", "g.geojson:feature 2: n (1 ring)")
    with pytest.raises(InputError) as caught:
        study.add(
            g=geojson({"flat": [[FLAT]], "covered": [[box(0, 0, 9, 9), box(0, 0, 10, 10)]], "all": [[FLAT], [FLAT]]})
        )
    assert str(caught.value).splitlines() == [
        f"g.geojson:feature {i}: ROI '{name}' of slide 'g' has no area; draw it again or remove it"
        for i, name in enumerate(("flat", "covered", "all"), 1)
    ]


# -------------------------------------------------------------------------------------- marked holes


def test_a_marked_hole_is_cut_out_of_every_roi_of_its_label(study: Study) -> None:
    study.add(
        x=layers(
            a=region("left", box(0, 0, 256, 512)) + region("right", box(256, 0, 512, 512))
            + region("apart", box(0, 0, 100, 100)) + region("hole", box(128, 128, 448, 384), is_hole=True),
            b=region("other", box(200, 200, 300, 300)),
        )
    )  # fmt: skip
    assert study.rows("SELECT roi_name, roi_desc, parent, area FROM rois ORDER BY roi_name") == [
        ("apart", "apart", None, 10_000),
        ("hole", "hole", "right", 81_920),
        ("left", "left (holes: hole)", None, 98_304),
        ("other", "other", None, 10_000),
        ("right", "right (holes: hole)", None, 81_920),
    ]
    report = study.opened.label()
    assert report.slides > 0
    rows = study.rows("SELECT count(*) FROM labels WHERE slide = 'x' AND label = 'a' AND grid_x % 2 + grid_y % 2 = 0")
    assert rows == [(44,)]


ISLANDS = (
    region("around", box(0, 0, 400, 400))
    + region("hole", box(100, 100, 300, 300), is_hole=True)
    + region("island", box(150, 150, 250, 250))
    + region("hole in island", box(180, 180, 220, 220), is_hole=True)
)


def test_an_island_in_a_marked_hole_stays(study: Study) -> None:
    study.add(x=layers(a=ISLANDS + region("leaves", box(250, 250, 350, 350))))
    assert study.rows("SELECT roi_name, roi_desc, parent, area FROM rois ORDER BY roi_name") == [
        ("around", "around (holes: hole)", None, 120_000),
        ("hole", "hole", "around", 40_000),
        ("hole in island", "hole in island", "island", 1_600),
        ("island", "island (holes: hole in island)", None, 8_400),
        ("leaves", "leaves (holes: hole)", None, 7_500),
    ]


OVER_TWO = (
    region("left", box(0, 0, 250, 400))
    + region("right", box(250, 0, 500, 400))
    + region("hole", box(100, 100, 450, 300), is_hole=True)
    + region("second", box(10, 10, 50, 50), is_hole=True)
)


@pytest.mark.parametrize("form", ["csv", "geojson", "xml", "geoparquet"])
@pytest.mark.parametrize("content", [ISLANDS, OVER_TWO], ids=["islands", "over-two"])
def test_holes_come_back_from_every_format(study: Study, tmp_path: Path, content: str, form: str) -> None:
    study.add(x=layers(a=content))
    before = study.shapes("x")
    study.opened.export_rois(tmp_path / "out", format=form)
    added = study.opened.add_rois(sorted((tmp_path / "out").iterdir()), roi_set=form)
    assert added.rois
    rows = study.rows(
        f"SELECT roi_name, ST_AsWKB(geom) FROM rois WHERE roi_set = '{form}' AND parent IS NULL ORDER BY roi_name"
    )
    assert [name for name, _ in rows] == sorted(before)
    for name, wkb in rows:
        assert shapely.from_wkb(bytes(wkb)).equals(before[name]), name


def test_a_hole_of_another_label_is_refused_and_the_remedies_get_on(study: Study) -> None:
    out, gap = region("out", box(0, 0, 100, 100)), region("gap", box(20, 20, 40, 40), is_hole=True)
    with pytest.raises(InputError) as caught:
        study.add(x=layers(Tumour=out, Necrosis=gap, Fat=region("far", box(300, 300, 310, 310), is_hole=True)))
    assert str(caught.value).splitlines() == [
        "x.xml:4: hole 'gap' overlaps no ROI labelled 'Necrosis', but 'out', labelled 'Tumour'; give it the label of "
        "what it is a hole of by `labels` or in the file (Necrosis to Tumour), or unmark it",
        "x.xml:6: hole 'far' overlaps no ROI labelled 'Fat'; move it into the annotation that it is a hole of, or "
        "unmark it",
    ]
    study.add(x=layers(Tumour=out + gap))
    assert study.rows("SELECT sum(area) FROM rois WHERE parent IS NULL") == [(9_600,)]
    study.add(x=layers(Tumour=out, Necrosis=gap.replace('NegativeROA="1"', 'NegativeROA="0"')))
    assert study.rows("SELECT count(*) FROM rois WHERE parent IS NULL") == [(2,)]


# ------------------------------------------------------------------------------------ drawn at random


def drawn_ring(rng: np.random.Generator, centre: Any, radius: float) -> Ring:
    """Return a ring that crosses itself, is a rectangle or round; half of them on a lattice, where rings touch."""
    n, kind = int(rng.integers(3, 9)), rng.integers(0, 3)
    if kind == 0:
        points = rng.uniform(-radius, radius, (n, 2))
    elif kind == 1:
        width, height = rng.uniform(1, radius, 2)
        points = np.array(box(-width, -height, width, height))
    else:
        angle = np.sort(rng.uniform(0, 2 * np.pi, n))
        points = np.column_stack([np.cos(angle), np.sin(angle)]) * radius
    points = np.clip(points + centre, 1, SIDE - 1)
    return [(float(x), float(y)) for x, y in (np.round(points / 16) * 16 if rng.random() < 0.5 else points)]


def drawn_parts(rng: np.random.Generator, most: int) -> Parts:
    parts = []
    for _ in range(int(rng.integers(1, most + 1))):
        centre = rng.uniform(100, 400, 2)
        holes = [drawn_ring(rng, centre + rng.uniform(-120, 120, 2), 80) for _ in range(int(rng.integers(0, 4)))]
        parts.append([drawn_ring(rng, centre, 200), *holes])
    return parts


def has_area(parts: Parts) -> bool:
    return all(len(set(ring)) > 2 and repaired(ring).area > 1e-6 for rings in parts for ring in rings) and (
        shape_of(parts).area > 1e-6
    )


def is_nested(parts: Parts) -> bool:
    """Return whether the inner rings of the one part lie apart and within it."""
    inner, around = parts[0][1:], repaired(parts[0][0])
    holes = [repaired(ring) for ring in inner]
    apart = all(not a.intersects(b) for i, a in enumerate(holes) for b in holes[:i])
    return len(parts) == 1 and apart and all(hole.within(around) and hole.area < around.area for hole in holes)


def over_part(parts: Parts) -> bool:
    """Return whether every inner ring overlaps its part, as a marked hole must."""
    return all(repaired(ring).intersection(repaired(outer)).area > 1e-6 for outer, *inner in parts for ring in inner)


@settings(max_examples=cases(4, 400))
@given(st.integers(0, 2**32 - 1))
def test_any_drawing_has_the_area_and_the_tiles_that_shapely_gives(study: Study, seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawings = {f"r{i}": parts for i in range(60) if has_area(parts := drawn_parts(rng, 1 + i % 3))}
    single = {name: parts for name, parts in drawings.items() if len(parts) == 1 and over_part(parts)}
    nested = {name: parts for name, parts in drawings.items() if is_nested(parts)}
    assert len(drawings) > len(single) > len(nested) > 0
    study.add(g=geojson(drawings), x=imagescope(single), c=csv(nested))
    study.opened.label()
    verified = study.opened.verify(1).drawn
    assert (verified.rois, verified.differences.num_rows) == (study.rows("SELECT count(*) FROM rois")[0][0], 0)
    assert all("runs along itself" in why for why in verified.unverified)
    for slide, names in (("g", drawings), ("x", single), ("c", nested)):
        found = study.shapes(slide)
        assert set(found) == set(names)
        tiles = {
            (name, x, y): (centre, coverage)
            for name, x, y, centre, coverage in study.rows(
                "SELECT roi_name, grid_x, grid_y, centre, coverage FROM tile_rois JOIN rois USING (roi_id) "
                f"WHERE rois.slide = '{slide}'"
            )
        }
        expected = {}
        for name in names:
            right = shape_of(drawings[name])
            assert found[name].is_valid
            assert found[name].area == pytest.approx(right.area, rel=1e-9), (slide, name)
            assert found[name].symmetric_difference(right).area <= 1e-9 * right.area
            for x, y, centre, coverage in zip(*touched_tiles(right, GRID), strict=True):
                expected[name, int(x), int(y)] = bool(centre), float(coverage)
        for key in expected.keys() | tiles.keys():
            stored, right = tiles.get(key, (False, 0.0)), expected.get(key, (False, 0.0))
            assert stored[1] == pytest.approx(right[1], abs=1e-9), (slide, key)
            if stored[0] != right[0]:
                # Where shapely's nodes and the engine's are the last bit apart, a centre on the edge is either's.
                centre = shapely.Point(key[1] * 32 + 32, key[2] * 32 + 32)
                assert shape_of(drawings[key[0]]).boundary.distance(centre) < 1e-9, (slide, key)


# ------------------------------------------------------------------- compared with the files, by lines


def test_shapes_are_compared_with_what_the_files_draw(study: Study) -> None:
    known = {name: parts for name, (parts, _) in KNOWN.items()}
    nested = {"r": [[box(0, 0, 400, 400), box(50, 50, 150, 150), box(200, 200, 390, 390)]]}
    covered = region("wide", box(0, 0, 200, 200)) + region("small", box(220, 50, 260, 90))
    covered += region("over both", box(150, 40, 300, 100), is_hole=True)
    over_two = OVER_TWO.replace('Text="hole"', 'Text="over"')
    added = study.add(g=geojson(known), x=layers(a=ISLANDS, b=over_two, c=covered), c=csv(nested))
    assert added.covered == ("x: small",)
    rows = study.rows("SELECT roi_name, area FROM rois WHERE label = 'c' AND parent IS NULL ORDER BY roi_name")
    assert rows == [("small", 0), ("wide", 37_000)]
    study.opened.label()
    report = study.opened.verify(None).drawn
    assert (report.rois, report.unverified, report.differences.num_rows) == (19 + 11 + 3, (), 0)
    # What the even-odd rule makes of them.
    wrong = {"hole on the outline": 262_144, "hole leaves": 114_688, "parts overlap": 60_000}
    for name in wrong:
        whole = shapely.MultiPolygon([shapely.Polygon(outer, inner) for outer, *inner in known[name]])
        made = shapely.make_valid(whole if len(whole.geoms) > 1 else whole.geoms[0])
        study.opened.con.execute(
            "UPDATE rois SET geom = ST_CollectionExtract(ST_GeomFromWKB($wkb), 3), area = $area WHERE roi_name = $name",
            {"wkb": shapely.to_wkb(made), "area": wrong[name], "name": name},
        )
    # A marked hole taken out of one ROI alone.
    study.opened.con.execute("UPDATE rois SET geom = outline, area = ST_Area(outline) WHERE roi_name = 'left'")
    rows = study.opened.verify(None).drawn.differences.to_pylist()
    assert [(row["slide"], row["roi_name"]) for row in rows] == [
        *(("g", name) for name in sorted(wrong)),
        ("x", "left"),
    ]
    for row in rows[:3]:
        assert row["drawn_area"] == pytest.approx(KNOWN[row["roi_name"]][1], rel=0.05), row


def test_what_cannot_be_compared_is_said_and_the_remedy_gets_on(study: Study, tmp_path: Path) -> None:
    drawing: dict[str, Parts] = {"r": [[box(0, 0, 100, 100), box(0, 20, 30, 40)]]}
    study.add(g=geojson(drawing), x=imagescope(drawing), c=csv({"r": [[box(0, 0, 100, 100)]]}))
    gone, changed, left = (study.folder / name for name in ("c.csv", "g.geojson", "x.xml"))
    gone.unlink()
    changed.write_text(geojson({"r": [[box(0, 0, 100, 90)]]}))
    study.opened.con.execute("UPDATE rois SET geom = outline WHERE slide = 'x'")
    study.opened.label()
    study.opened.con.execute("CHECKPOINT")
    path = Path(shutil.copy(study.folder / "study.duckdb", tmp_path / "study.duckdb"))
    result = CliRunner().invoke(cli, ["label", str(path), "--verify"])
    assert result.exit_code == 1
    assert result.stderr.split("compared 2 ROIs")[1] == (
        " with what the files draw, along lines\n"
        "ROI files and ROIs that cannot be compared:\n"
        f"  {gone}: cannot be read any more (No such file or directory)\n"
        f"  {changed}: has changed since it was added; add it again\n"
        "error: 1 ROI differs from its file; was the study made by an older slideduck, or changed by SQL? Take the "
        "files out with remove-rois, add them again and label; if they differ again, this is a mistake of slideduck: "
        "please report it\n"
    )
    for command in (["remove-rois", str(path), str(left)], ["add-rois", str(path), str(left), str(changed)]):
        assert CliRunner().invoke(cli, command).exit_code == 0
    result = CliRunner().invoke(cli, ["label", str(path), "--verify"])
    assert result.exit_code == 0
    assert (
        "compared 3 ROIs with what the files draw, along lines\nROI files and ROIs that cannot be compared:\n"
        in result.stderr
    )


GRID = SlideGrid(64, 32, 15, 15, level=0, level_downsample=1.0, read_px=64)


# -------------------------------------------------------------------------------- outside the slide


def many(n: int, **far: Ring) -> dict[str, Parts]:
    return {
        **{f"r{i}": [[box(i, i, i + 20, i + 20)]] for i in range(n)},
        **{name: [[ring]] for name, ring in far.items()},
    }


def test_a_few_rois_outside_are_left_out_and_named(study: Study) -> None:
    report = study.add(g=geojson(many(18, far=box(600, 0, 700, 10), edge=box(-9, 0, 0, 9))))
    assert (report.rois, report.outside) == (18, ("g: far", "g: edge"))
    assert study.rows("SELECT count(*) FROM rois WHERE NOT leaves_slide") == [(18,)]


def test_a_file_of_many_outside_is_refused_once(study: Study) -> None:
    wrong = geojson(many(17, far=box(600, 0, 700, 10), further=box(5000.5, 0, 5010, 4000)))
    with pytest.raises(InputError) as caught:
        study.add(g=wrong)
    assert str(caught.value) == (
        "g.geojson: 2 of 19 ROIs lie wholly outside slide 'g' (x 600.0 to 5010.0, y 0.0 to 4000.0; the slide is "
        "512 x 512), so that the file counts from another corner or in another unit; coordinates must be level-0 "
        "pixels from the slide's top left corner"
    )
    with pytest.raises(InputError) as caught:
        study.add(g=geojson({f"r{i}": [[box(600 + i, 600, 2000, 700)]] for i in range(1200)}))
    assert str(caught.value).startswith("g.geojson: all 1,200 ROIs lie wholly outside slide 'g' (x 600.0 to ")


def test_strict_refuses_any_outside_and_its_remedies_get_on(study: Study) -> None:
    path = study.folder / "g.geojson"
    path.write_text(geojson(many(19, far=box(600, 0, 700, 10))))
    with pytest.raises(InputError) as caught:
        study.opened.add_rois(path, strict=True)
    assert str(caught.value) == (
        "g.geojson:feature 20: ROI 'far' lies wholly outside slide 'g' (x 600.0 to 700.0, y 0.0 to 10.0; the slide is "
        "512 x 512), which `strict` refuses; move or remove what lies outside, or leave out `strict`"
    )
    assert study.opened.add_rois(path).outside == ("g: far",)
    path.write_text(geojson(many(19)))
    assert study.opened.add_rois(path, strict=True).rois == 19


def test_a_hole_outside_stays_with_an_roi_that_reaches_in(study: Study) -> None:
    drawing: dict[str, Parts] = {"r": [[box(400, 0, 900, 100), box(600, 20, 700, 60)]]}
    report = study.add(g=geojson(drawing), x=imagescope(drawing), c=csv(drawing))
    assert report.outside == ()
    assert study.rows("SELECT slide, area FROM rois WHERE parent IS NULL ORDER BY slide") == [
        ("c", 46_000), ("g", 46_000), ("x", 46_000),
    ]  # fmt: skip
