"""Slides of which a part was scanned: the corner that ROI files count from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import openslide
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import box, union_all
from shapely.affinity import translate
from shapely.geometry import mapping, shape

import slideduck as sd
from slideduck.cli.group import cli
from slideduck.errors import InputError, StudyError
from slideduck.rois.frame import out_of_level0
from tests.campaign import cases
from tests.slides import write_scn

GLASS, SCANNED, AT = (1024, 768), (512, 256), (256, 128)
#: Of the tumour that is painted into what was scanned, in its own pixels: left, top, right, bottom.
TUMOUR = (128, 64, 256, 192)


def features(*boxes: tuple[float, float, float, float]) -> str:
    """Return rectangles as QuPath writes them."""
    return json.dumps(
        {
            "type": "FeatureCollection",
            "features": [
                {
                    "type": "Feature",
                    "geometry": mapping(box(*corners)),
                    "properties": {"name": f"T{number}", "classification": {"name": "Tumour"}},
                }
                for number, corners in enumerate(boxes, 1)
            ],
        }
    )


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Leica slide whose scanned part begins at (256, 128), with a tumour in it."""
    image = np.full((SCANNED[1], SCANNED[0], 3), 235, np.uint8)
    left, top, right, bottom = TUMOUR
    image[top:bottom, left:right] = (170, 60, 140)
    return write_scn(tmp_path_factory.mktemp("scn") / "L.scn", image, at=AT, glass=GLASS)


@pytest.fixture
def leica(study: sd.Study, slide: Path) -> sd.Study:
    study.add_slides(slide)
    return study


@pytest.fixture
def rois(tmp_path: Path) -> Path:
    path = tmp_path / "rois" / "L.geojson"
    path.parent.mkdir()
    path.write_text(features(TUMOUR))
    return path


def corners(study: sd.Study) -> list[tuple[float, ...]]:
    """Return left, top, right and bottom of each ROI, base pixels."""
    return study.sql(
        "SELECT ST_XMin(outline), ST_YMin(outline), ST_XMax(outline), ST_YMax(outline) FROM rois ORDER BY roi_name"
    ).fetchall()


def test_the_slide_is_what_openslide_says(leica: sd.Study, slide: Path) -> None:
    opened = openslide.OpenSlide(slide)
    bounds = [int(opened.properties[f"openslide.bounds-{name}"]) for name in ("x", "y", "width", "height")]
    assert (opened.dimensions, bounds) == (GLASS, [*AT, *SCANNED])
    red, green, _ = opened.read_region((AT[0] + 200, AT[1] + 100), 0, (1, 1)).getpixel((0, 0))[:3]
    assert red > 150
    assert green < 80
    assert leica.sql("SELECT bounds_x, bounds_y, bounds_width, bounds_height FROM slides").fetchall() == [tuple(bounds)]


def test_geojson_needs_its_frame_and_both_remedies_work(leica: sd.Study, rois: Path) -> None:
    with pytest.raises(InputError) as caught:
        leica.add_rois(rois)
    command = f"slideduck add-rois study.duckdb {rois}"
    assert str(caught.value).splitlines() == [
        "1 file of GeoJSON on slides of which a part was scanned: its corner (bounds), from which QuPath counts, is "
        "not the slide's (level0); say which one is meant:",
        "  L.geojson: ROIs at x 384.0 to 512.0, y 192.0 to 320.0 (bounds) or x 128.0 to 256.0, y 64.0 to 192.0 "
        "(level0); slide 'L', 1024 x 768, was scanned at x 256 to 768, y 128 to 384",
        f"from what was scanned: {command} --frame bounds",
        f"from the slide's corner: {command} --frame level0",
    ]
    assert leica.sql("SELECT count(*) FROM roi_files").fetchall() == [(0,)]
    path = leica.path
    leica.close()
    found = {}
    for line in str(caught.value).splitlines()[2:]:
        words = line.split(": slideduck ")[1].replace("study.duckdb", str(path)).split()
        result = CliRunner().invoke(cli, words)
        assert result.exit_code == 0, result.output
        with sd.open(path) as again:
            found[words[-1]] = (
                corners(again),
                again.sql(
                    "SELECT frame, offset_x, offset_y FROM roi_files JOIN roi_file_slides USING (roi_file_id)"
                ).fetchall(),
            )
    assert found == {
        "bounds": ([(384, 192, 512, 320)], [("bounds", 256, 128)]),
        "level0": ([(128, 64, 256, 192)], [("level0", 0, 0)]),
    }


def test_tiles_get_the_labels_that_their_pixels_have(leica: sd.Study, slide: Path, rois: Path) -> None:
    leica.add_rois(rois, frame="bounds")
    leica.tile(64, tile_um=32)
    leica.label()
    opened = openslide.OpenSlide(slide)
    for x, y, side, label in leica.sql("SELECT base_x, base_y, extract_px, label FROM labels").fetchall():
        region = np.asarray(opened.read_region((x, y), 0, (side, side)))
        # What was not scanned is transparent.
        is_tumour = region[..., 3].all() and region[..., 1].mean() < 100
        assert label == ("Tumour" if is_tumour else None), (x, y)
    leica.export(rois.parent / "tiles.beton")
    (file,) = sd.read_sidecar(rois.parent / "tiles.beton").raw["roi_files"]
    assert (file["path"], file["frame"], file["options"]) == (str(rois), "bounds", '{"frame":"bounds"}')


def test_the_frame_stays_in_force_and_a_frame_that_is_said_holds(leica: sd.Study, rois: Path) -> None:
    leica.add_rois(rois, frame="bounds")
    assert leica.add_rois(rois).unchanged == 1
    rois.write_text(features(TUMOUR, (0, 0, 10, 10)))
    assert leica.add_rois(rois).kept == (f"{rois}: `frame='bounds'`",)
    assert corners(leica) == [(384, 192, 512, 320), (256, 128, 266, 138)]
    report = leica.add_rois(rois, frame="level0")  # The same bytes, read in another way.
    assert (report.unchanged, report.kept) == (0, ())
    assert corners(leica) == [(128, 64, 256, 192), (0, 0, 10, 10)]


def test_csv_and_xml_are_level_0_unless_another_frame_is_said(leica: sd.Study, tmp_path: Path) -> None:
    rows = "".join(f"r,{x},{y}\n" for x, y in box(*TUMOUR).exterior.coords[:-1])
    vertices = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in box(*TUMOUR).exterior.coords[:-1])
    (tmp_path / "L.csv").write_text(f"roi_name,x_base,y_base\n{rows}")
    (tmp_path / "L.xml").write_text(
        f'<Annotations><Annotation Name="a"><Regions><Region Id="1" Text="x"><Vertices>{vertices}</Vertices></Region>'
        "</Regions></Annotation></Annotations>"
    )
    for name in ("L.csv", "L.xml"):
        leica.add_rois(tmp_path / name)
        assert corners(leica) == [TUMOUR]
        leica.add_rois(tmp_path / name, frame="bounds")
        assert corners(leica) == [(384, 192, 512, 320)]
        leica.remove_rois(tmp_path / name)


def test_files_of_slides_that_begin_at_their_corner_need_no_frame(study: sd.Study, tmp_path: Path) -> None:
    for slide, bounds in (("a", "NULL, NULL, NULL, NULL"), ("b", "0, 0, 300, 300")):
        study.con.execute(
            "INSERT INTO slides (slide, path, width, height, mpp, bounds_x, bounds_y, bounds_width, bounds_height) "
            f"VALUES ('{slide}', 's', 640, 640, 1, {bounds})"
        )
        path = tmp_path / f"{slide}.geojson"
        path.write_text(features(TUMOUR))
        study.add_rois(path)
        study.add_rois(path, frame="bounds")
        assert corners(study) == [TUMOUR]
        study.remove_rois(path)


def test_what_was_added_before_a_frame_was_asked_for_is_asked_for_it(leica: sd.Study, rois: Path) -> None:
    # As a study of schema 1 has it once the slide's header has been read again.
    leica.add_rois(rois, frame="level0")
    leica.con.execute("UPDATE roi_files SET options = '{}'")
    with pytest.raises(InputError, match="say which one is meant"):
        leica.add_rois(rois)


def test_every_file_that_needs_a_frame_is_named_with_other_problems(leica: sd.Study, rois: Path) -> None:
    (rois.parent / "X.geojson").write_text(features(TUMOUR))
    with pytest.raises(InputError) as caught:
        leica.add_rois(rois.parent, holes="nested", roi_set="a b")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("X.geojson:feature 1: slide 'X' is not in the study; ")
    assert lines[1].startswith("1 file of GeoJSON on slides")
    assert lines[-1] == (
        f"from the slide's corner: slideduck add-rois study.duckdb {rois.parent} --holes nested --set 'a b' "
        "--frame level0"
    )


def test_what_is_written_for_qupath_counts_as_qupath_does(leica: sd.Study, tmp_path: Path) -> None:
    # Numbers as QuPath writes them; a part lies left of what was scanned, and so has numbers below 0.
    given = [(0.1, 0.7, 33.33, 44.01), (-3.7, 100.25, 20.2, 120.05)]
    (tmp_path / "L.geojson").write_text(features(*given))
    leica.add_rois(tmp_path / "L.geojson", frame="bounds")
    for frame in ("bounds", "level0"):
        (path,) = leica.export_rois(tmp_path / frame, format="geojson", frame=frame).paths
        shapes = [shape(one["geometry"]) for one in json.loads(path.read_text())["features"]]
        expected = [one if frame == "bounds" else translate(one, *AT) for one in (box(*corners) for corners in given)]
        assert [
            one.normalize().equals_exact(other.normalize(), 1e-9) for one, other in zip(shapes, expected, strict=True)
        ] == [True, True]
        if frame == "bounds":
            assert {x for one in shapes for x, _ in one.exterior.coords} == {0.1, 33.33, -3.7, 20.2}
        before = corners(leica)
        leica.remove_rois(tmp_path / "L.geojson") if frame == "bounds" else None
        leica.add_rois(path, frame=frame, replace=True)
        assert corners(leica) == before


@pytest.mark.parametrize("form", ["csv", "xml"])
def test_csv_and_xml_are_written_in_level_0_unless_told_otherwise(leica: sd.Study, rois: Path, form: str) -> None:
    leica.add_rois(rois, frame="bounds")
    before = corners(leica)
    for folder, frame in (("plain", None), ("shifted", "bounds")):
        (path,) = leica.export_rois(rois.parent / folder, format=form, frame=frame).paths
        assert leica.add_rois(path, roi_set=folder, frame=frame).rois == 1
        assert corners(leica)[:1] == before
        leica.remove_rois(path, roi_set=folder)
    text = (rois.parent / "shifted" / f"L.{form}").read_text()
    assert ("T1,128,64,Tumour" in text) if form == "csv" else ('X="128" Y="64"' in text)


def test_geojson_is_not_written_without_its_frame_and_geoparquet_has_none(leica: sd.Study, rois: Path) -> None:
    leica.add_rois(rois, frame="bounds")
    leica.tile(64, tile_um=32)
    leica.label()
    asked = (
        "GeoJSON is to be written of slides of which a part was scanned: give `frame='bounds'` for QuPath, which "
        "counts from the corner of that part, or `frame='level0'` for programs that count from the slide's corner; "
        "slide 'L', 1024 x 768, was scanned at x 256 to 768, y 128 to 384"
    )
    out = rois.parent / "out"
    for refused in (lambda: leica.export_rois(out, format="geojson"), lambda: leica.export_tiles(out)):
        with pytest.raises(StudyError) as caught:
            refused()
        assert str(caught.value) == asked
    with pytest.raises(StudyError) as caught:
        leica.export_rois(out, format="geoparquet", frame="bounds")
    assert str(caught.value) == ("frame is 'bounds', but geoparquet counts from the slide's corner; leave `frame` out")
    with pytest.raises(StudyError, match=r"^frame is 'corner'; give one of bounds, level0$"):
        leica.export_tiles(out, frame="corner")
    leica.export_rois(out, format="geoparquet")
    assert list(out.iterdir()) == [out / "rois.parquet"]


@pytest.mark.parametrize("merge", [False, True])
def test_tiles_are_written_where_qupath_draws_them(leica: sd.Study, rois: Path, merge: bool) -> None:
    leica.add_rois(rois, frame="bounds")
    leica.tile(64, tile_um=32)
    leica.label()
    united = {}
    for frame in ("bounds", "level0"):
        (path,) = leica.export_tiles(rois.parent / frame, frame=frame, merge=merge).paths
        shapes = [shape(one["geometry"]) for one in json.loads(path.read_text())["features"]]
        assert len(shapes) == (1 if merge else 4)
        united[frame] = union_all(shapes)
    assert united["bounds"].equals(box(*TUMOUR))
    assert united["level0"].equals(translate(box(*TUMOUR), *AT))


def test_pictures_and_pages_show_what_was_scanned(leica: sd.Study, rois: Path) -> None:
    leica.add_rois(rois, frame="bounds")
    leica.tile(64, tile_um=32)
    leica.label()
    picture = leica.plot_labels("L", rois.parent / "L.svg").read_text()
    assert "part that was scanned (bounds)" in picture
    page = leica.plot_labels("L", rois.parent / "L.html").read_text()
    assert '<rect vector-effect="non-scaling-stroke" x="256" y="128" width="512" height="256"/>' in page
    assert '<th scope="row">part that was scanned (bounds), from x 256, y 128</th>' in page


@given(
    st.lists(st.integers(-(10**7), 10**7), min_size=6, max_size=12).filter(lambda values: len(values) % 2 == 0),
    st.tuples(st.integers(0, 200_000), st.integers(0, 200_000)),
    st.sampled_from([1, 10, 100, 1000]),
)
@settings(max_examples=cases(50, 2000))
def test_a_number_of_a_file_comes_back_as_it_was(values: list[int], offset: tuple[int, int], parts: int) -> None:
    ring = np.array(values, np.float64).reshape(-1, 2) / parts
    ((back,),) = out_of_level0([(ring + np.array(offset, np.float64),)], offset)
    assert (np.abs(back - ring) <= 1e-8).all()
    assert ((back + np.array(offset, np.float64)) == ring + np.array(offset, np.float64)).all()
    if parts <= 100:
        assert (back == ring).all()
