"""Labels against an independent oracle: on drawn cases and on the real slides."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence
from math import atan2
from pathlib import Path

import pytest
import shapely
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

import slideduck as sd
from slideduck.slides.grid import GridSpec, SlideGrid, lay
from tests.campaign import cases
from tests.oracle import Effective, Region, pairs, repaired, winner, without_nested_holes

Points = list[tuple[float, float]]

#: A tile's side in the drawn cases; vertices on a lattice of whole pixels hit its centres and borders often.
SIDE = 10
LENGTH = 60
SLIDES = 10


def write_csv(path: Path, rois: Sequence[tuple[str, str | None, Points]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["roi_name", "x_base", "y_base", "label"])
        for name, label, points in rois:
            writer.writerows([name, repr(x), repr(y), label or ""] for x, y in points)


@pytest.fixture(scope="module")
def drawn_study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[sd.Study, Path]]:
    """A study of ten small slides that exist as rows alone, with two grids."""
    folder = tmp_path_factory.mktemp("drawn")
    with sd.open(folder / "study.duckdb") as study:
        for i in range(SLIDES):
            study.con.execute(
                "INSERT INTO slides (slide, path, width, height, mpp, level_downsamples) "
                "VALUES ($1, $2, $3, $3, 1, [1])",
                [f"s{i}", f"s{i}.svs", LENGTH],
            )
        study.tile(SIDE, tile_um=SIDE)
        study.tile(SIDE, tile_um=SIDE, stride_div=2)
        study.tile(SIDE, tile_um=7, stride_div=2, origin=(3, 1))
        yield study, folder


@st.composite
def outlines(draw: st.DrawFn) -> Points:
    """Draw a polygon with vertices on tile centres and borders; it may cross itself."""
    coordinate = st.one_of(
        st.integers(-10, LENGTH + 10).map(float),
        st.integers(-2, 2 * LENGTH // SIDE + 2).map(lambda i: i * SIDE / 2),
        st.floats(-10, LENGTH + 10, allow_nan=False).map(lambda v: round(v, 3)),
    )
    kind = draw(st.sampled_from(["box", "any", "any", "star"]))
    if kind == "box":
        x, y = draw(coordinate), draw(coordinate)
        w, h = draw(st.integers(1, 50)), draw(st.integers(1, 50))
        return [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]
    points = draw(st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=8, unique=True))
    if kind == "star":
        middle = shapely.MultiPoint(points).centroid
        points.sort(key=lambda p: atan2(p[1] - middle.y, p[0] - middle.x))
    return points


def acceptable(points: Points) -> bool:
    """Whether the engine takes the outline: it has an area, and part of it is on the slide."""
    outline = repaired(points)
    return bool(outline.area > 1e-6 and outline.intersection(shapely.box(0, 0, LENGTH, LENGTH)).area > 1e-6)


@st.composite
def drawings(draw: st.DrawFn) -> list[tuple[str, str | None, Points]]:
    """Draw the ROIs of a slide: overlapping, touching, nested in each other, some without a label."""
    labels = st.sampled_from(["tumour", "stroma", None])
    rois = [(draw(labels), points) for points in draw(st.lists(outlines().filter(acceptable), min_size=1, max_size=4))]
    for _ in range(draw(st.integers(0, 2))):
        label, points = draw(st.sampled_from(rois))
        inside = repaired(points).representative_point()
        shrunk = [(inside.x + (x - inside.x) / 2, inside.y + (y - inside.y) / 2) for x, y in points]
        if acceptable(shrunk):
            rois.append((draw(st.sampled_from([label, "stroma"])), shrunk))
    names = draw(st.permutations([f"r{i}" for i in range(len(rois))]))
    return [(name, label, points) for name, (label, points) in zip(names, rois, strict=True)]


RULES = [
    {"rule": "centre", "overlap": "smallest"},
    {"rule": "centre", "overlap": "priority", "priority": ("stroma", "tumour")},
    {"rule": "centre", "overlap": "largest"},
    {"rule": "centre", "overlap": "exclude"},
    {"rule": "coverage", "threshold": 0.3, "overlap": "smallest"},
    {"rule": "coverage", "threshold": 1e-9, "overlap": "largest"},
]


# 20 examples of ten slides each are 200 cases; a campaign has 10,000.
@settings(
    max_examples=cases(14, 1000),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow],
)
@given(slides=st.lists(drawings(), min_size=SLIDES, max_size=SLIDES), rule=st.sampled_from(RULES))
def test_labels_are_the_oracles(
    drawn_study: tuple[sd.Study, Path], slides: list[list[tuple[str, str | None, Points]]], rule: dict[str, object]
) -> None:
    study, folder = drawn_study
    drawn = {label for rois in slides for _, label, _ in rois}
    assume(drawn.issuperset(rule.get("priority", ())))  # type: ignore[arg-type]
    for i, rois in enumerate(slides):
        write_csv(folder / f"s{i}.csv", rois)
    study.add_rois([folder / f"s{i}.csv" for i in range(SLIDES)])
    study.label(**rule)  # type: ignore[arg-type]
    regions = [[Region(name, label, repaired(points)) for name, label, points in rois] for rois in slides]
    for spec in (GridSpec(SIDE, SIDE), GridSpec(SIDE, SIDE, None, 2.0), GridSpec(SIDE, 7, None, 2.0, 3, 1)):
        check_labels(study, spec, {f"s{i}": without_nested_holes(r) for i, r in enumerate(regions)}, rule)


def check_labels(study: sd.Study, spec: GridSpec, rois: dict[str, list[Effective]], rule: dict[str, object]) -> None:
    """Compare pairs and labels with the oracle's, tile by tile."""
    sizes = study.con.execute("SELECT slide, width, height, mpp, level_downsamples FROM slides").fetchall()
    laid = {row[0]: lay(spec, *row) for row in sizes}
    expected = {name: pairs(rois.get(name, []), laid[name], (spec.origin_x, spec.origin_y)) for name in laid}
    check_pairs(study, spec, expected, laid)
    rows = study.con.execute(
        "SELECT slide, grid_x, grid_y, roi_name, roi_desc, label FROM labels WHERE grid = $g", {"g": spec.name}
    ).fetchall()
    assert len(rows) == sum(on.n_columns * on.n_rows for on in laid.values())
    for slide, x, y, name, desc, label in rows:
        touching = expected[slide].get((x, y), [])
        if rule["rule"] == "coverage" and any(abs(c - float(rule["threshold"])) < 1e-9 for _, _, c in touching):  # type: ignore[arg-type]
            continue  # Either side of the threshold is within the contract's 1e-9.
        assert (name, desc, label) == winner(touching, **rule), (slide, x, y)  # type: ignore[arg-type]


def check_pairs(
    study: sd.Study,
    spec: GridSpec,
    expected: dict[str, dict[tuple[int, int], list[tuple[Effective, bool, float]]]],
    laid: dict[str, SlideGrid],
) -> None:
    """Compare every stored centre and coverage with shapely's."""
    found = {
        (slide, x, y, name): (centre, coverage)
        for slide, x, y, name, centre, coverage in study.con.execute(
            "SELECT slide, grid_x, grid_y, roi_name, centre, coverage FROM tile_rois JOIN rois USING (roi_id) "
            "JOIN grids USING (grid_id) WHERE grid = $g",
            {"g": spec.name},
        ).fetchall()
    }
    wanted = {
        (slide, x, y, roi.name): (centre, coverage)
        for slide, tiles in expected.items()
        for (x, y), touching in tiles.items()
        for roi, centre, coverage in touching
    }
    for key in found.keys() | wanted.keys():
        ours, theirs = found.get(key, (False, 0.0)), wanted.get(key, (False, 0.0))
        assert ours[0] == theirs[0], (key, ours, theirs)
        assert ours[1] == pytest.approx(theirs[1], abs=1e-9), (key, ours, theirs)


def real_regions(study: sd.Study) -> dict[str, list[Effective]]:
    """Return the real ROIs with holes taken out by shapely, from the drawn outlines."""
    result: dict[str, list[Effective]] = {}
    rows = study.con.execute(
        "SELECT slide, roi_name, label, ST_AsWKB(outline)::BLOB, holes FROM rois JOIN roi_files USING (roi_file_id) "
        "ORDER BY ALL"
    ).fetchall()
    for slide, group in itertools.groupby(rows, key=lambda row: row[0]):
        regions = [(Region(name, label, shapely.from_wkb(bytes(wkb))), holes) for _, name, label, wkb, holes in group]
        nested = [region for region, holes in regions if holes == "nested"]
        result[slide] = without_nested_holes(nested) + [
            Effective(r.name, r.name, r.label, r.outline) for r, holes in regions if holes == "explicit"
        ]
    return result


@pytest.mark.parametrize("stride_div", [1, 2])
@pytest.mark.parametrize("tile_um", [32, 64, 128])
def test_real_slides_have_the_oracles_labels(real_study: sd.Study, tile_um: int, stride_div: int) -> None:
    real_study.tile(64, tile_um=tile_um, stride_div=stride_div)
    rois = real_regions(real_study)
    assert [roi.desc for roi in rois["CMU-1-Small-Region"] if "holes" in roi.desc] == [
        "epidermis_centre (holes: follicle_lumen)"
    ]
    rules: list[dict[str, object]] = [
        {"rule": "centre", "overlap": "smallest"},
        {"rule": "centre", "overlap": "largest"},
        {"rule": "centre", "overlap": "exclude"},
        {"rule": "centre", "overlap": "priority", "priority": ("stroma", "tumour", "dermis")},
        {"rule": "coverage", "threshold": 0.5, "overlap": "smallest"},
        {"rule": "coverage", "threshold": 0.1, "overlap": "largest"},
    ]
    for rule in rules:
        real_study.label(**rule)  # type: ignore[arg-type]
        check_labels(real_study, GridSpec(64, float(tile_um), None, float(stride_div)), rois, rule)


def test_csv_and_xml_of_a_slide_give_the_same_labels(shared_data: Path, tmp_path: Path) -> None:
    tables = []
    for suffix in ("csv", "xml"):
        with sd.open(tmp_path / f"{suffix}.duckdb") as study:
            study.add_slides(shared_data / "CMU-1-Small-Region.svs")
            study.add_rois(shared_data / f"CMU-1-Small-Region.{suffix}")
            study.tile(64, tile_um=32, stride_div=2)
            study.label()
            tables.append(study.labels().fetchall())
    assert len(tables[0]) > 5000
    assert tables[0] == tables[1]
