"""`Study.export`: the same bytes however it is run, and whatever stops it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

import slideduck as sd
from slideduck.betons import check_beton, decode_jpeg, encode_jpeg, read_sidecar
from slideduck.betons.export import ExportReport
from slideduck.errors import BetonError, ConfigError, DiskFullError, QueryError, SlideError, StudyError
from slideduck.slides.grid import SlideGrid
from slideduck.slides.identity import SlideFile
from slideduck.slides.reader import TileReader
from tests.campaign import cases
from tests.mixed_study import add_again, damage_tile, write_study
from tests.slides import write_slide
from tests.small_betons import contents, load

COLUMNS = (
    "tile_id, slide, loc_x, loc_y, grid_x, grid_y, roi_name, roi_desc, label, coverage, grid, patient, "
    "split, fold, site, kept, n_rois, base_x, base_y, extract_px, tile_px, brightness, saturation, "
    "white_fraction, grey_fraction, blur, tissue, pen, label_from, value, soft"
)
REAL_ROIS = ("CMU-1-Small-Region.csv", "TCGA-CR-7395-01A-01-TS1.geojson")
REAL_CLASSES = ("background", "dermis", "epidermis", "keratin", "stroma", "tumour")


@pytest.fixture(scope="module")
def labelled(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a study of the two real slides, labelled on one grid."""
    path = tmp_path_factory.mktemp("labelled") / "real.duckdb"
    with sd.open(path) as study:
        study.add_slides(shared_data, mpp=0.5)
        study.add_rois([shared_data / name for name in REAL_ROIS])
        study.tile(64, tile_um=32)
        study.label()
    return path


@pytest.fixture
def real(labelled: Path, tmp_path: Path) -> Iterator[sd.Study]:
    """A study of the two real slides of its own, labelled at 64 px / 32 µm."""
    with sd.open(shutil.copy(labelled, tmp_path / "real.duckdb")) as study:
        yield study


def files(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not name.startswith("real.duckdb"))


def tiles_of(study: sd.Study, where: str = "label IS NOT NULL") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = study.labels(where).to_arrow_table().to_pylist()
    return rows


def reread(study: sd.Study, rows: list[dict[str, Any]]) -> list[npt.NDArray[np.uint8]]:
    """Return the pixels of tiles, straight from the slides."""
    names = ", ".join(f"grid_slides.{name}" for name in SlideGrid.__dataclass_fields__)
    grids = study.con.execute(
        f"SELECT slide, path, {names} FROM grid_slides INNER JOIN slides USING (slide_id)"
    ).fetchall()
    readers = {
        slide: TileReader(SlideFile.unchecked(path), SlideGrid(*grid), rows[0]["tile_px"])
        for slide, path, *grid in grids
    }
    return [readers[row["slide"]].read(row["base_x"], row["base_y"]) for row in rows]


# --------------------------------------------------------------------------------------------- what is in it


def test_raw_beton_holds_the_pixels_of_the_slides(real: sd.Study, tmp_path: Path) -> None:
    report = real.export(tmp_path / "tiles.beton", raw=True)
    rows = tiles_of(real)
    samples = contents(report.path)
    assert samples == [tile.tobytes() for tile in reread(real, rows)]
    sidecar = read_sidecar(report.path)
    assert (sidecar.image_mode, sidecar.quality) == ("raw", None)
    assert files(tmp_path) == ["tiles.beton", "tiles.json"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_jpeg_beton_through_the_stock_loader(real: sd.Study, tmp_path: Path) -> None:
    report = real.export(tmp_path / "tiles.beton", quality=80)
    rows = tiles_of(real)
    images, labels, numbers = load(report.path)
    assert numbers == list(range(2071))
    assert [REAL_CLASSES[label] for label in labels] == [row["label"] for row in rows]
    pixels = [decode_jpeg(encode_jpeg(tile, 80)) for tile in reread(real, rows)]
    np.testing.assert_array_equal(images, pixels)


def test_sidecar_says_what_each_tile_is(real: sd.Study, tmp_path: Path, shared_data: Path) -> None:
    table = tmp_path / "patients.csv"
    table.write_text("slide,patient,site\nCMU-1-Small-Region,p1,CMU\nTCGA-CR-7395-01A-01-TS1,p2,\n")
    real.add_patients(table)
    real.split(val_fraction=0.5, seed=1)
    report = real.export(tmp_path / "tiles.beton", where="label IS NOT NULL AND labels.grid_x > 3")
    rows = tiles_of(real, "label IS NOT NULL AND grid_x > 3")
    assert [(row["slide"], row["grid_y"], row["grid_x"]) for row in rows] == sorted(
        (row["slide"], row["grid_y"], row["grid_x"]) for row in rows
    )
    sidecar = read_sidecar(report.path)
    assert sidecar.classes == REAL_CLASSES
    for name in ("tile_id", "grid_x", "grid_y", "loc_x", "loc_y", "roi_name"):
        assert getattr(sidecar, name).tolist() == [row[name] for row in rows], name
    for name in ("slide", "patient", "split"):
        assert getattr(sidecar, f"tile_{name}").tolist() == [row[name] for row in rows], name
    assert [sidecar.classes[number] for number in sidecar.class_number] == [row["label"] for row in rows]
    assert set(sidecar.tile_split) == {"train", "val"}
    cmu, tcga = sidecar.slides
    assert (cmu.slide, cmu.patient, cmu.site, cmu.mpp) == ("CMU-1-Small-Region", "p1", "CMU", 0.499)
    assert (tcga.slide, tcga.patient, tcga.site, tcga.mpp) == ("TCGA-CR-7395-01A-01-TS1", "p2", None, 0.5)
    assert (tcga.path, tcga.extract_px, tcga.level, tcga.read_px) == (
        str(shared_data / "TCGA-CR-7395-01A-01-TS1.svs"),
        64,
        0,
        64,
    )
    raw = sidecar.raw
    assert list(raw) == [
        "format",
        "version",
        "beton",
        "classes",
        "grid",
        "label_rule",
        "split_rule",
        "query",
        "slides",
        "roi_files",
        "versions",
        "tiles",
    ]
    assert raw["beton"]["file"] == "tiles.beton"
    assert raw["grid"] == {
        "name": "64px_32um",
        "tile_px": 64,
        "tile_um": 32.0,
        "magnification": None,
        "stride_div": 1.0,
        "origin_x": 0,
        "origin_y": 0,
    }
    assert raw["label_rule"]["rule"] == "centre"
    assert (raw["split_rule"]["kind"], raw["split_rule"]["seed"]) == ("fraction", 1)
    assert raw["query"] == {"where": "label IS NOT NULL AND labels.grid_x > 3"}
    assert [Path(file["path"]).name for file in raw["roi_files"]] == list(REAL_ROIS)
    assert [list(file) for file in raw["roi_files"]] == [["path", "format", "holes", "sha256", "roi_set"]] * 2
    assert set(raw["versions"]) == {"slideduck", "duckdb", "openslide", "imagecodecs", "tifffile"}
    # Numbers of the database are nobody's business.
    assert '_id"' not in json.dumps({**raw, "tiles": None})


def test_report(real: sd.Study, tmp_path: Path) -> None:
    report = real.export(tmp_path / "tiles.beton", where=None)
    counts = dict(real.sql("SELECT label, count(*) FROM labels WHERE kept GROUP BY label").fetchall())
    assert report == ExportReport(
        path=tmp_path / "tiles.beton",
        sidecar=tmp_path / "tiles.json",
        grid="64px_32um",
        samples=sum(counts.values()),
        slides=2,
        bytes=(tmp_path / "tiles.beton").stat().st_size,
        tiles_per_class={name: counts[name] for name in REAL_CLASSES},
        unlabelled=counts[None],
        resumed=0,
        passed_through=0,
        readers={"openslide": 1, "tiff": 1},
        seconds=report.seconds,
        notes=(),
    )
    assert counts[None] > 0
    labels = read_sidecar(report.path).class_number
    assert (labels == -1).sum() == report.unlabelled


def test_only_the_slides_and_roi_files_of_the_tiles_are_named(real: sd.Study, tmp_path: Path) -> None:
    report = real.export(tmp_path / "tiles.beton", where="slide LIKE 'TCGA%' AND label = 'tumour'")
    sidecar = read_sidecar(report.path)
    assert [slide.slide for slide in sidecar.slides] == ["TCGA-CR-7395-01A-01-TS1"]
    assert [Path(file["path"]).name for file in sidecar.raw["roi_files"]] == ["TCGA-CR-7395-01A-01-TS1.geojson"]
    assert set(sidecar.slide) == {0}


def test_classes_in_an_order_of_ones_own(real: sd.Study, tmp_path: Path) -> None:
    order = ["tumour", "stroma", "keratin"]
    report = real.export(tmp_path / "tiles.beton", where="label IN ('tumour', 'stroma')", classes=order)
    assert list(report.tiles_per_class) == order
    assert report.tiles_per_class["keratin"] == 0
    sidecar = read_sidecar(report.path)
    assert sidecar.classes == tuple(order)
    assert (sidecar.class_number == 0).sum() == report.tiles_per_class["tumour"]


def test_tiles_of_another_level_and_size(real: sd.Study, tmp_path: Path) -> None:
    real.tile(48, tile_um=100, stride_div=2)
    real.label(rule="coverage", threshold=0.9)
    report = real.export(tmp_path / "tiles.beton", grid="48px_100um_stride2", raw=True)
    rows = tiles_of(real, "label IS NOT NULL AND grid = '48px_100um_stride2'")
    assert contents(report.path) == [tile.tobytes() for tile in reread_grid(real, rows)]
    assert {slide.level for slide in read_sidecar(report.path).slides} == {0, 1}


def reread_grid(study: sd.Study, rows: list[dict[str, Any]]) -> list[npt.NDArray[np.uint8]]:
    """As `reread`, in a study of several grids."""
    study.con.execute("CREATE TEMP TABLE other AS FROM grids WHERE grid <> $1", [rows[0]["grid"]])
    study.con.execute("DELETE FROM grid_slides WHERE grid_id IN (SELECT grid_id FROM other)")
    return reread(study, rows)


def test_a_study_that_is_read_only(labelled: Path, tmp_path: Path) -> None:
    with sd.open(labelled, read_only=True) as study:
        assert study.export(tmp_path / "tiles.beton", where="label = 'keratin'").samples == 34


def test_progress_goes_to_standard_error(labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sd.open(labelled, read_only=True, progress=True) as study:
        study.export(tmp_path / "tiles.beton", where="label = 'keratin'")
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"Exporting: 34/34 tiles, [\d.,]+ tiles/s, 0 s left\n", err)


# ------------------------------------------------------------------------------------------- the same bytes


def test_bytes_do_not_depend_on_threads_or_repetition(real: sd.Study, tmp_path: Path) -> None:
    found = set()
    for threads in (1, 2, 7, 2):
        report = real.export(tmp_path / "tiles.beton", threads=threads)
        found.add((report.path.read_bytes(), report.sidecar.read_bytes()))
    assert len(found) == 1


WHOLE_PATH = """
import sys
import slideduck as sd

out, backwards, *paths = sys.argv[1:]
step = -1 if backwards == "1" else 1
slides, rois = paths[:2][::step], paths[2:][::step]
with sd.open(out + ".duckdb") as study:
    for path in slides:
        study.add_slides(path, mpp=0.5)
    if backwards == "1":
        study.tile(64, tile_um=32)
    for path in rois:
        study.add_rois(path)
    study.tile(64, tile_um=32)
    study.label()
    study.split(val_fraction=0.5)
    study.export(out + "/tiles.beton", threads=1 if backwards == "1" else 2)
"""


def test_bytes_do_not_depend_on_hash_seeds_or_the_order_of_files(shared_data: Path, tmp_path: Path) -> None:
    slides = ("CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs")
    paths = [str(shared_data / name) for name in (*slides, *REAL_ROIS)]
    runs = []
    for seed, backwards in (("0", "0"), ("7", "1")):
        out = tmp_path / seed
        out.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", WHOLE_PATH, str(out), backwards, *paths]
        runs.append((out, subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)))
    found = set()
    for out, process in runs:
        _, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, "")
        found.add(((out / "tiles.beton").read_bytes(), (out / "tiles.json").read_bytes()))
    assert len(found) == 1


def test_beton_does_not_depend_on_where_the_slides_lie(shared_data: Path, tmp_path: Path) -> None:
    found = set()
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(shared_data / "CMU-1-Small-Region.svs", folder)
        with sd.open(folder / "study.duckdb") as study:
            study.add_slides(folder)
            study.add_rois(shared_data / "CMU-1-Small-Region.xml")
            study.tile(32, tile_um=32)
            study.label()
            found.add(study.export(folder / "tiles.beton").path.read_bytes())
    assert len(found) == 1


# ----------------------------------------------------------------------------------------------- conditions


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        (
            "label ==",
            "Catalog Error: Scalar Function with name ==__postfix does not exist!",
        ),
        (
            "lable = 'x'",
            'Binder Error: Referenced column "lable" not found in FROM clause!',
        ),
        ("label IS NOT NULL; DROP TABLE slides", "it is more than one expression"),
        ("1=1) OR (1=1", 'Parser Error: syntax error at or near ")"'),
        ("", "Parser Error: SELECT clause without selection list"),
        ("label IS NOT NULL LIMIT 3", "it is more than one expression"),
        ("kept, kept", "it has 2 columns, and a condition is true or false"),
        ("count(*) > 1", "Binder Error: Aggregates cannot be present in a Project relation!"),
        ("grid_x", "it is of type INTEGER, and a condition is true or false"),
        ("label", "it is of type VARCHAR, and a condition is true or false"),
        ("grid_x = 'a'", "Conversion Error: Could not convert string 'a' to INT32"),
        ("label::INTEGER = 3", "Conversion Error: Could not convert string '{label}' to INT32"),
        (
            "label = $label",
            "it holds a parameter",
        ),
    ],
)
def test_condition_that_is_none(real: sd.Study, tmp_path: Path, where: str, reason: str) -> None:
    with pytest.raises(QueryError) as caught:
        real.export(tmp_path / "tiles.beton", where=where)
    found = re.sub(r"string '\w+' to INT32.*?;", "string '{label}' to INT32;", str(caught.value))
    reason = reason.replace("'a'", "'{label}'")
    assert found == (
        f"the condition {where!r} cannot be used: {reason}; give one SQL condition on the columns {COLUMNS}"
    )
    assert real.sql("SELECT count(*) FROM slides").fetchall() == [(2,)]
    assert files(tmp_path) == []


def test_condition_with_a_subquery_and_a_comment(real: sd.Study, tmp_path: Path) -> None:
    where = "tile_id IN (SELECT tile_id FROM labels WHERE label = 'keratin') -- the horn"
    assert real.export(tmp_path / "tiles.beton", where=where).tiles_per_class == {"keratin": 34}


def test_condition_that_nothing_meets(real: sd.Study, tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        real.export(tmp_path / "tiles.beton", where="label = 'keratin' AND split = 'train'")
    counts = real.sql("SELECT label, count(*) FROM labels WHERE kept GROUP BY label ORDER BY label").fetchall()
    named = ", ".join(f"{count:,} {label or 'without a label'}" for label, count in counts)
    total = sum(count for _, count in counts)
    assert str(caught.value) == (
        "no tile of grid '64px_32um' meets the condition \"label = 'keratin' AND split = 'train'\"; "
        f"of the tiles that are kept there are, by label: {named}; by split: {total:,} in no split"
    )


# ------------------------------------------------------------------------------------------- what is refused


def refusal(kind: type[Exception], call: Callable[[], object]) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


def test_classes_that_leave_labels_out(real: sd.Study, tmp_path: Path) -> None:
    out = tmp_path / "tiles.beton"
    where = "label IN ('tumour', 'stroma', 'dermis')"
    assert refusal(StudyError, lambda: real.export(out, where=where, classes=["tumour"])) == (
        "the tiles have labels that are not among the classes 'tumour': 'dermis', 'stroma'; "
        "add them, or leave their tiles out by the condition"
    )
    assert refusal(StudyError, lambda: real.export(out, where=where, classes=["stroma", "dermis", "stroma"])) == (
        "classes name 'stroma' more than once; name each label once"
    )
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quality": 0}, "quality is 0; give a number from 1 to 100, such as 90"),
        ({"quality": 101}, "quality is 101; give a number from 1 to 100, such as 90"),
        ({"threads": 0}, "threads is 0; give 1 or more"),
    ],
)
def test_impossible_settings(real: sd.Study, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    assert refusal(ConfigError, lambda: real.export(tmp_path / "tiles.beton", **settings)) == message


def test_output_that_cannot_be(real: sd.Study, tmp_path: Path) -> None:
    assert refusal(BetonError, lambda: real.export(tmp_path / "tiles.ffcv")) == (
        f"{tmp_path}/tiles.ffcv is no name for a beton; give one that ends in .beton, such as tiles.beton"
    )
    assert refusal(BetonError, lambda: real.export(tmp_path / "no" / "tiles.beton")) == (
        f"no folder {tmp_path}/no to put tiles.beton in; make the folder first"
    )
    out = tmp_path / "tiles.beton"
    out.mkdir()
    assert refusal(BetonError, lambda: real.export(out)) == f"{out} is a folder; give the name of a file"
    out.rmdir()
    out.write_text("mine")
    assert refusal(BetonError, lambda: real.export(out, overwrite=False)) == (
        f"{out} is there already; remove it, give another name, or allow overwriting"
    )
    assert out.read_text() == "mine"
    real.export(out, where="label = 'keratin'")
    assert check_beton(out).samples == 34


def test_which_grid(real: sd.Study, tmp_path: Path) -> None:
    out = tmp_path / "tiles.beton"
    real.tile(32, tile_um=64)
    assert refusal(StudyError, lambda: real.export(out)) == (
        "real.duckdb has 2 grids (32px_64um, 64px_32um); name one with `grid`"
    )
    assert refusal(StudyError, lambda: real.export(out, grid="x")) == (
        "real.duckdb has no grid 'x'; it has 32px_64um, 64px_32um"
    )
    # A grid that is not labelled yet.
    message = refusal(StudyError, lambda: real.export(out, grid="32px_64um"))
    assert message.startswith("the labels of 2 slides are out of date (CMU-1-Small-Region, TCGA-CR")
    assert files(tmp_path) == []


# ----------------------------------------------------------------------------------------- slides that change


@pytest.fixture(scope="module")
def three_slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three slides of 8 × 6 tiles of 256 px, and an ROI over each; raw they fill four pages."""
    folder = tmp_path_factory.mktemp("three")
    for i, name in enumerate("abc"):
        image = np.full((1536, 2048, 3), 60 * i, np.uint8) + np.arange(2048, dtype=np.uint8)[:, None] // 8
        write_slide(folder / f"{name}.tif", image, levels=1, tile=256)
        (folder / f"{name}.csv").write_text(
            "roi_name,x_base,y_base,label\n"
            + "".join(f"r,{x},{y},{'xy'[i % 2]}\n" for x, y in ((0, 0), (2048, 0), (2048, 1536), (0, 1536)))
        )
    return folder


@pytest.fixture
def synthetic(three_slides: Path, tmp_path: Path) -> Iterator[sd.Study]:
    """A study of three slides that a test may change."""
    slides = Path(shutil.copytree(three_slides, tmp_path / "slides"))
    with sd.open(tmp_path / "real.duckdb") as study:
        study.add_slides(slides)
        study.add_rois(sorted(slides.glob("*.csv")))
        study.tile(256, tile_um=128)
        study.label()
        yield study


def test_slide_that_was_copied_is_the_same(synthetic: sd.Study, tmp_path: Path) -> None:
    before = synthetic.export(tmp_path / "tiles.beton").path.read_bytes()
    os.utime(tmp_path / "slides" / "a.tif", (1, 1))
    assert synthetic.export(tmp_path / "tiles.beton").path.read_bytes() == before


def test_slides_that_are_gone_or_changed(synthetic: sd.Study, tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    (slides / "a.tif").unlink()
    shutil.copy(slides / "c.tif", slides / "b.tif")
    content = bytearray((slides / "c.tif").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 5000] = bytes(5000)
    (slides / "c.tif").write_bytes(content)
    os.utime(slides / "c.tif", (1, 1))
    again = "add it again, and label anew"
    assert refusal(SlideError, lambda: synthetic.export(tmp_path / "tiles.beton")) == (
        f"slide 'a': {slides}/a.tif cannot be read: No such file or directory; "
        "put the file back, or add it from where it is now\n"
        f"slide 'b' has changed: {slides}/b.tif is not the file that was added; {again}\n"
        f"slide 'c' has changed: {slides}/c.tif is not the file that was added; {again}"
    )
    assert "tiles.beton.part" not in files(tmp_path)


def test_damaged_tile_stops_the_export_which_then_goes_on(synthetic: sd.Study, tmp_path: Path) -> None:
    path, out = tmp_path / "slides" / "c.tif", tmp_path / "tiles.beton"
    synthetic.export(out, raw=True)
    whole = out.read_bytes()
    out.write_text("the file of before")
    with tifffile.TiffFile(path) as tiff:
        # One that is not among those that the size is estimated by.
        offset, count = tiff.pages[0].dataoffsets[27], tiff.pages[0].databytecounts[27]
    good = path.read_bytes()
    status = path.stat()
    path.write_bytes(good[:offset] + bytes(count) + good[offset + count :])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    synthetic.add_slides(path)
    synthetic.label()
    message = refusal(SlideError, lambda: synthetic.export(out, raw=True))
    assert message.startswith(
        f"slide 'c': the tile at base pixel ({256 * 3}, {256 * 3}), 256 px wide, cannot be read from {path}: "
    )
    assert out.read_text() == "the file of before"
    path.write_bytes(good)
    synthetic.add_slides(path)
    synthetic.label()
    synthetic.export(out, raw=True)
    assert out.read_bytes() == whole
    assert not list(tmp_path.glob("tiles.*.*"))


# --------------------------------------------------------------------------------- tiles that cannot be read


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A study of its own: 3 × 48 tiles of 64 px, those of a.svs and c.tif stored JPEGs, b.tif without JPEG."""
    return write_study(tmp_path)


def export_mixed(study: Path, out: Path, **settings: Any) -> ExportReport:
    with sd.open(study, read_only=True) as opened:
        return opened.export(out, **settings)


def both(path: Path) -> tuple[bytes, bytes]:
    return path.read_bytes(), path.with_suffix(".json").read_bytes()


def test_skipping_errors_changes_nothing_where_there_are_none(mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiles.beton"
    assert export_mixed(mixed, out).passed_through == 96
    whole = both(out)
    assert export_mixed(mixed, out, skip_errors=True).left_out == ()
    assert both(out) == whole


@pytest.mark.parametrize("settings", [{}, {"raw": True}, {"jpeg": "reencode"}])
def test_tiles_that_cannot_be_read_are_left_out_and_counted(
    mixed: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    out = tmp_path / "tiles.beton"
    export_mixed(mixed, out, **settings)
    names, tiles = read_sidecar(out).tile_id.tolist(), contents(out)
    assert not [name for name in open_slides() if name.startswith(str(tmp_path))]
    # The first and the last tile of the file and of a slide; where JPEGs are taken as stored those beside them, since
    # a slide is read by OpenSlide alone where the tiles that are compared cannot be read.
    beside = not settings
    damaged = {"a.svs": (beside, 2, 33), "b.tif": (0, 47), "c.tif": (47 - beside,)}
    rows = [48 * "abc".index(name[0]) + place for name, placed in damaged.items() for place in placed]
    for name, placed in damaged.items():
        for place in placed:
            damage_tile(tmp_path / "slides" / name, place)
    add_again(mixed, tmp_path / "slides")
    assert refusal(SlideError, lambda: export_mixed(mixed, out, **settings)).startswith("slide 'a': the tile at base")
    report = export_mixed(mixed, out, skip_errors=True, **settings)
    assert [(tile.tile_id, tile.slide) for tile in report.left_out] == [(names[row], names[row][0]) for row in rows]
    for tile, row in zip(report.left_out, rows, strict=True):
        x, y = row % 48 % 8 * 64, row % 48 // 8 * 64
        assert tile.reason.startswith(
            f"slide '{tile.slide}': the tile at base pixel ({x}, {y}), 64 px wide, cannot be read from {tmp_path}"
        )
    assert (report.samples, report.tiles_per_class) == (138, {"x": 92, "y": 46})
    assert report.passed_through == (92 if beside else 0)
    assert contents(out) == [tile for row, tile in enumerate(tiles) if row not in rows]
    sidecar = read_sidecar(out)
    assert sidecar.tile_id.tolist() == [name for row, name in enumerate(names) if row not in rows]
    assert [(entry["slide"], entry["tile_id"]) for entry in sidecar.raw["skipped"]] == [
        (names[row][0], [names[row]]) for row in rows
    ]
    # Neither those that were refused nor those that stayed closed by an error are left open.
    assert not [name for name in open_slides() if name.startswith(str(tmp_path))]
    if not beside:
        # The beton is that of the other tiles alone.
        found = out.read_bytes()
        listed = ", ".join(f"'{tile.tile_id}'" for tile in report.left_out)
        export_mixed(mixed, out, where=f"tile_id NOT IN ({listed})", **settings)
        assert out.read_bytes() == found


def test_slides_that_cannot_be_read_are_left_out_and_counted(mixed: Path, tmp_path: Path) -> None:
    out, slides = tmp_path / "tiles.beton", tmp_path / "slides"
    (slides / "a.svs").unlink()
    content = (slides / "b.tif").read_bytes()
    (slides / "b.tif").write_bytes(content[: len(content) // 2])
    report = export_mixed(mixed, out, skip_errors=True)
    assert report.samples == 48
    assert {tile.slide: tile.reason for tile in report.left_out} == {
        "a": f"slide 'a': {slides}/a.svs cannot be read: No such file or directory; put the file back, "
        "or add it from where it is now",
        "b": f"slide 'b' has changed: {slides}/b.tif is not the file that was added; add it again, and label anew",
    }
    assert [slide.slide for slide in read_sidecar(out).slides] == ["c"]
    # A class keeps its number, whether tiles of it are left or not.
    assert report.tiles_per_class == {"x": 48, "y": 0}
    assert [len(entry["tile_id"]) for entry in read_sidecar(out).raw["skipped"]] == [48, 48]
    (slides / "c.tif").write_bytes(b"no slide at all")
    assert refusal(SlideError, lambda: export_mixed(mixed, tmp_path / "no.beton", skip_errors=True)) == (
        f"none of the 144 tiles can be read; the first: slide 'a': {slides}/a.svs cannot be read: No such file or "
        "directory; put the file back, or add it from where it is now"
    )
    assert not list(tmp_path.glob("no.*"))


def lengthen_tile(path: Path, place: int, more: int) -> None:
    """Make the TIFF say that a stored tile has more bytes, or fewer, than were written for it."""
    with tifffile.TiffFile(path) as tiff:
        count = tiff.pages[0].databytecounts[place]
        entry = next(tag for tag in tiff.pages[0].tags if tag.name == "TileByteCounts")
        at = entry.valueoffset + place * 4
    with path.open("r+b") as file:
        file.seek(at)
        assert int.from_bytes(file.read(4), "little") == count
        file.seek(at)
        file.write((count + more).to_bytes(4, "little"))


def test_bytes_behind_the_end_of_a_stored_jpeg_stay_where_they_are(mixed: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "tiles.beton", tmp_path / "slides" / "c.tif"
    export_mixed(mixed, out)
    before = contents(out)
    lengthen_tile(path, 9, 3)
    with sd.open(mixed) as study:
        study.add_slides(path)
        study.label()
    report = export_mixed(mixed, out)
    assert (report.passed_through, report.samples) == (96, 144)
    assert contents(out) == before


def test_stored_jpeg_without_an_end_is_not_taken(mixed: Path, tmp_path: Path) -> None:
    """OpenSlide takes it for damaged, so that it is no tile of the export either."""
    out, path = tmp_path / "tiles.beton", tmp_path / "slides" / "c.tif"
    lengthen_tile(path, 9, -2)
    with sd.open(mixed) as study:
        study.add_slides(path)
        study.label()
    reason = (
        f"slide 'c': the tile at base pixel (64, 64), 64 px wide, cannot be read from {path}: Premature end of "
        "JPEG file; get the file again, or leave the tile or the slide out"
    )
    assert refusal(SlideError, lambda: export_mixed(mixed, out)) == reason
    report = export_mixed(mixed, out, skip_errors=True)
    assert (report.passed_through, report.samples) == (95, 143)
    assert [tile.reason for tile in report.left_out] == [reason]
    assert check_beton(out).samples == 143


#: Exports in processes that are killed at random moments, again and again; each that gets to the end is compared.
KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import slideduck as sd

study, out, expected, longest, most, skip = *map(Path, sys.argv[1:4]), float(sys.argv[4]), int(sys.argv[5]), sys.argv[6]
chance = random.Random(0)
kills = ends = 0
sidecar = out.with_suffix(".json")

def compare():
    for path in (out, sidecar):
        assert path.read_bytes() == (expected / path.name).read_bytes(), path
        path.unlink()

while kills < most or out.exists():
    child = os.fork()
    if child == 0:
        with sd.open(study, read_only=True) as opened:
            opened.export(out, skip_errors=skip == "skip")
        os._exit(0)
    if kills < most:
        time.sleep(chance.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    kills += status != 0
    if status == 0:
        ends += 1
        compare()
    elif kills == most:
        # Once more, to the end.
        with sd.open(study, read_only=True) as opened:
            opened.export(out, skip_errors=skip == "skip")
        compare()
print(kills, ends)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study like `mixed`, of 3 × 80 tiles of 256 px: three pages and a bit."""
    return write_study(tmp_path_factory.mktemp("large"), tile=256, size=(2560, 2048), noise=100)


def own(large: Path, folder: Path) -> Path:
    """Return a copy of the study with slides of its own."""
    shutil.copytree(large.parent / "slides", folder / "slides")
    study = Path(shutil.copy(large, folder / "study.duckdb"))
    with sd.open(study) as opened:
        opened.con.execute("UPDATE slides SET path = $1 || parse_filename(path)", [f"{folder}/slides/"])
    return study


@pytest.mark.slow
@pytest.mark.parametrize(("skip", "most"), [("skip", cases(15, 300)), ("no", cases(5, 100))])
def test_killed_at_random_moments(large: Path, tmp_path: Path, skip: str, most: int) -> None:
    study = large
    if skip == "skip":
        study = own(large, tmp_path)
        for name, place in (("a.svs", 3), ("a.svs", 78), ("b.tif", 40), ("b.tif", 41), ("c.tif", 5), ("c.tif", 78)):
            damage_tile(tmp_path / "slides" / name, place)
        add_again(study, tmp_path / "slides")
    expected = tmp_path / "expected"
    expected.mkdir()
    report = export_mixed(study, expected / "tiles.beton", skip_errors=skip == "skip")
    assert len(report.left_out) == (6 if skip == "skip" else 0)
    assert (report.passed_through > 70, report.bytes > 3 * (8 << 20)) == (True, True)
    out = tmp_path / "tiles.beton"
    longest = min(max(0.7 * report.seconds, 0.2), 0.6)
    command = [sys.executable, "-c", KILLS, study, out, expected, longest, most, skip]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=20 * most + 100)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{most} ")
    assert [path.name for path in tmp_path.glob("tiles.*")] == []


def stopped(study: Path, out: Path, pages: int, **settings: Any) -> None:
    """Export up to a number of whole pages, as far as a limit on the size of files lets it."""
    code = """
import json, resource, sys
import slideduck as sd
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
with sd.open(sys.argv[1], read_only=True) as study:
    study.export(sys.argv[2], **json.loads(sys.argv[4]))
"""
    limit = (8 << 20) * (1 + pages) + 100
    command = [sys.executable, "-c", code, study, out, limit, json.dumps(settings)]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=100)
    assert f"slideduck.errors.DiskFullError: no space left for {out} (File too large): " in done.stderr


def test_slide_removed_midway(large: Path, tmp_path: Path) -> None:
    study, out, slide = own(large, tmp_path), tmp_path / "tiles.beton", tmp_path / "slides" / "c.tif"
    export_mixed(study, out)
    whole = both(out)
    out.unlink()
    stopped(study, out, 2)
    slide.rename(tmp_path / "elsewhere.tif")
    assert refusal(SlideError, lambda: export_mixed(study, out)) == (
        f"slide 'c': {slide} cannot be read: No such file or directory; put the file back, "
        "or add it from where it is now"
    )
    shutil.copytree(tmp_path, tmp_path.parent / "left", ignore=shutil.ignore_patterns("slides"))
    (tmp_path / "elsewhere.tif").rename(slide)
    assert export_mixed(study, out).resumed > 100
    assert both(out) == whole
    # Without it, what was written of it stays, and the rest is left out.
    left = tmp_path.parent / "left" / "tiles.beton"
    slide.rename(tmp_path / "elsewhere.tif")
    report = export_mixed(study, left, skip_errors=True)
    assert report.resumed > 100
    assert {tile.slide for tile in report.left_out} == {"c"}
    assert contents(left) == contents(out)[: report.samples]
    # Tiles that were left out are not gone on without when errors are no longer skipped.
    (tmp_path / "elsewhere.tif").rename(slide)
    shutil.rmtree(left.parent)


def test_what_was_left_out_is_tried_again_when_errors_are_not_skipped(large: Path, tmp_path: Path) -> None:
    study, out = own(large, tmp_path), tmp_path / "tiles.beton"
    export_mixed(study, out)
    whole = both(out)
    path = tmp_path / "slides" / "a.svs"
    path.rename(tmp_path / "elsewhere.svs")
    stopped(study, out, 2, skip_errors=True)
    (tmp_path / "elsewhere.svs").rename(path)
    report = export_mixed(study, out)
    assert (report.resumed, report.left_out) == (0, ())
    assert report.notes == (f"{out}.part had left tiles out that could not be read; it was started anew",)
    assert both(out) == whole


def test_skipping_goes_on_where_an_error_stopped(large: Path, tmp_path: Path) -> None:
    study, out = own(large, tmp_path), tmp_path / "tiles.beton"
    damage_tile(tmp_path / "slides" / "c.tif", 60)
    add_again(study, tmp_path / "slides")
    expected = tmp_path / "expected"
    expected.mkdir()
    export_mixed(study, expected / "tiles.beton", skip_errors=True)
    assert refusal(SlideError, lambda: export_mixed(study, out)).startswith("slide 'c': the tile at base pixel (0, 15")
    report = export_mixed(study, out, skip_errors=True)
    assert (report.resumed > 100, len(report.left_out)) == (True, 1)
    assert both(out) == both(expected / "tiles.beton")


def open_slides() -> set[str]:
    """Return the slides that this process has open at one moment."""

    def look() -> dict[str, str]:
        found = {}
        for fd in os.listdir("/proc/self/fd"):
            # The one of the listing itself is closed by now.
            with suppress(OSError):
                found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        return {fd: name for fd, name in found.items() if name.endswith((".tif", ".svs"))}

    # While one look goes on slides are closed and others opened: what two of them see alike was there between them.
    before, after = look(), look()
    return {name for fd, name in before.items() if after.get(fd) == name}


def test_open_slides_are_bounded(tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    corners = ((0, 0), (64, 0), (64, 64), (0, 64))
    lines = ["slide,roi_name,x_base,y_base,label"]
    for i in range(40):
        write_slide(slides / f"s{i:02}.tif", i, size=(64, 64), levels=1)
        lines += [f"s{i:02},r,{x},{y},a" for x, y in corners]
    (tmp_path / "rois.csv").write_text("\n".join(lines))
    most = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, len(open_slides()))

    with sd.open(tmp_path / "real.duckdb") as study:
        study.add_slides(slides)
        study.add_rois(tmp_path / "rois.csv")
        study.tile(32, tile_um=16)
        study.label()
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            assert study.export(tmp_path / "tiles.beton", threads=2).samples == 160
        finally:
            done.set()
            watcher.join()
    assert most <= 6
    assert open_slides() == set()


# ------------------------------------------------------------------------------------------ what stops it


EXPORT = """
import os, signal, sys, time
from pathlib import Path
import slideduck as sd

def export(study, out):
    with sd.open(study, read_only=True) as opened:
        return opened.export(out, raw=True)
"""


def run(code: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", EXPORT + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    if check:
        assert (done.returncode, done.stderr) == (0, "")
    return done


@pytest.fixture(scope="module")
def whole(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """Both files of a raw export without a stop: three pages and a bit."""
    out = tmp_path_factory.mktemp("whole") / "tiles.beton"
    with sd.open(labelled, read_only=True) as study:
        report = study.export(out, raw=True)
    return out.read_bytes(), report.sidecar.read_bytes()


def test_killed_at_any_moment_and_gone_on_with(labelled: Path, tmp_path: Path, whole: tuple[bytes, bytes]) -> None:
    out = tmp_path / "tiles.beton"
    code = """
import random
chance = random.Random(0)
study, out = Path(sys.argv[1]), Path(sys.argv[2])
part = Path(sys.argv[2] + ".part")
kills = 0
while not out.exists():
    size = part.stat().st_size if part.exists() else 0
    child = os.fork()
    if child == 0:
        export(study, out)
        os._exit(0)
    # Killed some time after it wrote a page, so that each gets somewhere.
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if part.exists() and part.stat().st_size > size:
            time.sleep(chance.uniform(0, 0.1))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            kills += 1
            break
        time.sleep(0.001)
print(kills)
"""
    assert int(run(code, labelled, out).stdout) > 0
    assert (out.read_bytes(), out.with_suffix(".json").read_bytes()) == whole


def test_interrupted_and_gone_on_with(labelled: Path, tmp_path: Path, whole: tuple[bytes, bytes]) -> None:
    out = tmp_path / "tiles.beton"
    part = tmp_path / "tiles.beton.part"
    command = [sys.executable, "-c", EXPORT + "export(*sys.argv[1:])", str(labelled), str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (part.exists() and part.stat().st_size > 16 << 20):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert not out.exists()
    with sd.open(labelled, read_only=True) as study:
        report = study.export(out, raw=True)
    assert report.resumed > 600
    assert (out.read_bytes(), out.with_suffix(".json").read_bytes()) == whole
    assert files(tmp_path) == ["tiles.beton", "tiles.json"]


def test_limit_on_the_size_of_files(labelled: Path, tmp_path: Path, whole: tuple[bytes, bytes]) -> None:
    out, kept = tmp_path / "tiles.beton", tmp_path / "kept"
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (20 << 20, 20 << 20))
export(*sys.argv[1:])
"""
    assert run(code, labelled, out, check=False).stderr.splitlines()[-1] == (
        f"slideduck.errors.DiskFullError: no space left for {out} (File too large): 682 of 2,071 tiles are "
        f"kept in {out}.part; free some space and export again with the same settings: it goes on from there"
    )
    assert files(tmp_path) == ["tiles.beton.journal", "tiles.beton.part"]
    kept.mkdir()
    for name in files(tmp_path)[1:]:
        shutil.copy(tmp_path / name, kept)
    with sd.open(labelled, read_only=True) as study:
        # Another export has no use for it, and says so.
        report = study.export(out, quality=70)
        assert (report.resumed, report.notes) == (
            0,
            (f"{out}.part was left by an export of other tiles, settings or versions; it was started anew",),
        )
        assert check_beton(out).mode == "jpg"
        for path in kept.iterdir():
            path.rename(tmp_path / path.name)
        report = study.export(out, raw=True)
    assert (report.resumed, report.notes) == (682, ())
    assert (out.read_bytes(), out.with_suffix(".json").read_bytes()) == whole


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_disk_that_is_too_small_is_refused_beforehand(labelled: Path, small_disk: Path) -> None:
    out = small_disk / "tiles.beton"
    with sd.open(labelled, read_only=True) as study:
        # 2,071 tiles of 12,288 bytes, the tables, and pages of 8 MiB.
        assert refusal(DiskFullError, lambda: study.export(out, raw=True)) == (
            f"{out} would have about 0.03 GB, and {small_disk} has 0.01 GB free; "
            "free some space, lower the quality, or give another place"
        )
        assert files(small_disk) == []
        # The same tiles as JPEG fit.
        assert study.export(out, quality=50).samples == 2071
