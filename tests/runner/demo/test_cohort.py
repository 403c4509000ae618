"""The demo's cohort: slides that OpenSlide opens, ROIs in three formats, the same bytes for a seed."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import shapely

from slideduck.errors import ConfigError
from slideduck.runner.demo.cohort import Cohort, make_cohort
from slideduck.runner.demo.tissue import Stain, paint, wavy_outline


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return make_small(tmp_path_factory.mktemp("cohort"), seed=1)


def make_small(directory: Path, *, seed: int) -> Cohort:
    return make_cohort(directory, seed=seed, n_slides=4, width=1200, height=960)


def digests(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_polygons(path: Path) -> dict[str, tuple[str | None, shapely.Polygon]]:
    """Return label and polygon of each ROI, read independently of slideduck; CSV holes are taken out."""
    polygons: dict[str, tuple[str | None, shapely.Polygon]] = {}
    if path.suffix == ".csv":
        points: dict[str, list[tuple[float, float]]] = {}
        labels = {}
        for row in csv.DictReader(path.open(encoding="utf-8")):
            points.setdefault(row["roi_name"], []).append((float(row["x_base"]), float(row["y_base"])))
            labels[row["roi_name"]] = row["label"] or None
        for name, outline in points.items():
            if not name.endswith("_hole"):
                holes = [points[f"{name}_hole"]] if f"{name}_hole" in points else []
                polygons[name] = (labels[name], shapely.Polygon(outline, holes))
    elif path.suffix == ".geojson":
        for feature in json.loads(path.read_text(encoding="utf-8"))["features"]:
            properties = feature["properties"]
            label = properties.get("classification", {}).get("name")
            polygons[properties["name"]] = (label, shapely.geometry.shape(feature["geometry"]))
    else:
        for layer in ET.parse(path).getroot():
            negative: dict[str, list[tuple[float, float]]] = {}
            for region in layer.iter("Region"):
                outline = [(float(vertex.attrib["X"]), float(vertex.attrib["Y"])) for vertex in region.iter("Vertex")]
                if region.attrib["NegativeROA"] == "1":
                    negative[region.attrib["Text"].removesuffix("_hole")] = outline
                else:
                    polygons[region.attrib["Text"]] = (layer.attrib["Name"] or None, shapely.Polygon(outline))
            for name, hole in negative.items():
                label, outer = polygons[name]
                polygons[name] = (label, shapely.Polygon(outer.exterior, [hole]))
    return polygons


def test_openslide_opens_every_slide_as_a_pyramid_with_mpp(cohort: Cohort) -> None:
    assert [path.name for path in cohort.slides] == [
        "PT-01-A.tiff",
        "PT-01-B.tiff",
        "PT-02-A.tiff",
        "PT-03-A.tiff",
    ]
    for path in cohort.slides:
        with openslide.OpenSlide(path) as slide:
            assert slide.level_dimensions == ((1200, 960), (600, 480), (300, 240))
            assert slide.level_downsamples == (1.0, 2.0, 4.0)
            assert slide.properties[openslide.PROPERTY_NAME_MPP_X] == "0.5"
            assert slide.properties[openslide.PROPERTY_NAME_MPP_Y] == "0.5"


def test_levels_show_the_same_picture(cohort: Cohort) -> None:
    with openslide.OpenSlide(cohort.slides[0]) as slide:
        level_0, level_1 = (
            np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]).convert("RGB"), np.float32)
            for level in (0, 1)
        )
    assert np.abs(cv2.resize(level_0, (600, 480), interpolation=cv2.INTER_AREA) - level_1).mean() < 3


def test_glass_is_nearly_white_and_each_texture_has_its_colours(cohort: Cohort) -> None:
    with openslide.OpenSlide(cohort.slides[0]) as slide:
        picture = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"), np.float64)
    red, blue = {}, {}
    for name, (_, polygon) in read_polygons(cohort.rois[0]).items():
        x, y = (round(at) for at in polygon.representative_point().coords[0])
        patch = picture[y - 20 : y + 20, x - 20 : x + 20]
        red[name], blue[name] = patch[..., 0].mean(), patch[..., 2].mean()
    assert min(red["glass_1"], red["glass_2"], blue["glass_1"], blue["glass_2"]) > 225
    # Nuclei take the red away; collagen and necrosis are pink.
    assert max(red["tumour_1"], red["tumour_2"]) < min(red["stroma_1"], red["necrosis_2"])
    assert blue["stroma_1"] < red["stroma_1"]
    assert blue["tumour_2"] > red["tumour_2"]


def test_every_roi_file_has_a_hole_an_overlap_and_each_label(cohort: Cohort) -> None:
    assert [path.suffix for path in cohort.rois] == [".csv", ".geojson", ".xml", ".csv"]
    for i, path in enumerate(cohort.rois):
        rois = read_polygons(path)
        expected = {"tumour_1", "tumour_2", "tumour_3"}
        expected |= {f"{label}_{number}" for label in ("stroma", "necrosis", "glass") for number in (1, 2)}
        assert set(rois) == expected | ({"to_review"} if i < 3 else set()), path.name
        assert all(polygon.is_valid for _, polygon in rois.values())
        assert all(label is None if name == "to_review" else label == name[:-2] for name, (label, _) in rois.items())
        hole = shapely.Polygon(rois["tumour_1"][1].interiors[0])
        assert hole.contains(rois["necrosis_1"][1])
        overlap = rois["stroma_1"][1].intersection(rois["tumour_3"][1])
        assert 0 < overlap.area < rois["tumour_3"][1].area < rois["stroma_1"][1].area
        assert shapely.box(0, 0, 1200, 960).contains(shapely.union_all([polygon for _, polygon in rois.values()]))


def test_patients_and_sites(cohort: Cohort, tmp_path: Path) -> None:
    rows = list(csv.DictReader(cohort.patients.open(encoding="utf-8")))
    assert [tuple(row.values())[:3] for row in rows] == [
        ("PT-01-A", "PT-01", "north"),
        ("PT-01-B", "PT-01", "north"),
        ("PT-02-A", "PT-02", "north"),
        ("PT-03-A", "PT-03", "north"),
    ]
    assert rows[0]["age"] == rows[1]["age"]
    rows = list(csv.DictReader(make_cohort(tmp_path, width=600, height=600).patients.open(encoding="utf-8")))
    assert len(rows) == 8
    assert len({row["patient"] for row in rows}) == 6
    assert {(row["patient"] <= "PT-03", row["site"]) for row in rows} == {(True, "north"), (False, "south")}


def test_same_seed_gives_the_same_bytes_and_another_seed_others(cohort: Cohort, tmp_path: Path) -> None:
    make_small(tmp_path / "again", seed=1)
    assert digests(tmp_path / "again") == digests(cohort.directory)
    make_small(tmp_path / "other", seed=2)
    differ = {name for name, digest in digests(tmp_path / "other").items() if digests(cohort.directory)[name] != digest}
    assert differ == set(digests(cohort.directory))


def test_complete_cohort_is_left_alone_and_a_damaged_one_made_again(tmp_path: Path) -> None:
    first = make_cohort(tmp_path, n_slides=2, width=600, height=600)
    assert first.made
    before = digests(tmp_path)
    times = [path.stat().st_mtime_ns for path in first.slides]
    second = make_cohort(tmp_path, n_slides=2, width=600, height=600)
    assert not second.made
    assert [path.stat().st_mtime_ns for path in second.slides] == times

    first.slides[1].unlink()
    assert make_cohort(tmp_path, n_slides=2, width=600, height=600).made
    assert digests(tmp_path) == before


def test_full_disk_is_told_and_the_cohort_made_afterwards(tmp_path: Path) -> None:
    # A limit on the size of files fails in writing as a full disk does.
    code = (
        "import resource\n"
        "from slideduck.errors import DiskFullError\n"
        "from slideduck.runner.demo.cohort import make_cohort\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, 80_000))\n"
        "try:\n"
        f"    make_cohort({str(tmp_path)!r}, n_slides=3, width=900, height=720)\n"
        "except DiskFullError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        f"no space left for the cohort in {tmp_path} (File too large); free 6 MB, and make it again\n"
    )
    assert not list(tmp_path.rglob("*.part"))
    assert not list(tmp_path.rglob("*.tiff"))
    assert make_cohort(tmp_path, n_slides=3, width=900, height=720).made
    assert len(list(tmp_path.rglob("*.tiff"))) == 3


def test_impossible_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        make_cohort(tmp_path, n_slides=0)
    assert str(refused.value) == "n_slides is 0; a cohort has at least 1 slide"
    with pytest.raises(ConfigError) as refused:
        make_cohort(tmp_path, width=500)
    assert str(refused.value) == "width and height are 500 and 2400; slides need at least 600 pixels each way"
    assert not list(tmp_path.iterdir())


def test_outline_goes_round_its_centre_once() -> None:
    for seed in range(50):
        outline = wavy_outline(np.random.default_rng(seed), (300, 200), (100, 60), waviness=0.15)
        polygon = shapely.Polygon(outline)
        assert polygon.is_valid
        assert polygon.contains(shapely.Point(300, 200))


def test_stain_strength_darkens_tissue_and_leaves_glass() -> None:
    outline = wavy_outline(np.random.default_rng(0), (150, 150), (90, 90))
    pale, dark = (
        paint(np.random.default_rng(0), 300, 300, outline, [("tumour", outline)], Stain(strength, strength))
        for strength in (0.7, 1.3)
    )
    assert dark[130:170, 130:170].mean() < pale[130:170, 130:170].mean() - 20
    assert np.array_equal(dark[:20, :20], pale[:20, :20])
