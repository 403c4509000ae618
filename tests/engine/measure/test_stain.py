"""Stains of slides: fits as torchstain's, kept in the study, and tiles that are normalised by them."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from torchstain.numpy.normalizers import NumpyMacenkoNormalizer, NumpyReinhardNormalizer

import slideduck as sd
from slideduck.betons import decode_jpeg, encode_jpeg, merge_betons, read_sidecar, verify_beton
from slideduck.cli.group import cli
from slideduck.errors import BetonError, ConfigError, SlideError, StudyError
from slideduck.measure.stain import (
    METHODS,
    MacenkoFit,
    Normaliser,
    ReinhardFit,
    StainFit,
    fit_from_json,
    fit_to_json,
    reference_target,
    stain_from_json,
    stain_to_json,
)
from slideduck.measure.stain_fit import list_stain_slides
from slideduck.measure.stain_slide import StainSlide, fit_slide, tissue_pixels
from slideduck.slides.identity import SlideFile
from slideduck.slides.reader import TileReader
from tests.mixed_study import damage_tile, write_study
from tests.slides import synthetic_image, write_slide
from tests.small_betons import contents

RGB = NDArray[np.uint8]
REAL = ("CMU-1-Small-Region", "TCGA-CR-7395-01A-01-TS1")


@pytest.fixture(scope="module")
def fitted(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a study of the two real slides with fits of both methods."""
    path = tmp_path_factory.mktemp("fitted") / "real.duckdb"
    with sd.open(path) as study:
        study.add_slides(shared_data, mpp=0.5)
        study.add_rois([shared_data / f"{REAL[0]}.csv", shared_data / f"{REAL[1]}.geojson"])
        study.tile(64, tile_um=64)
        study.label()
        for method in METHODS:
            report = study.fit_stain(method)
            assert (report.fitted, report.unchanged, report.failed) == (2, 0, {})
            assert report.table["slide"].to_pylist() == list(REAL)
    return path


@pytest.fixture
def real(fitted: Path, tmp_path: Path) -> Iterator[sd.Study]:
    """A study of its own of the two real slides, with fits."""
    with sd.open(shutil.copy(fitted, tmp_path / "real.duckdb")) as study:
        yield study


def slide_of(study: sd.Study, name: str) -> StainSlide:
    return next(slide for slide, _ in list_stain_slides(study.handle, "macenko") if slide.slide == name)


def fit_of(study: sd.Study, name: str, method: str) -> StainFit:
    (found,) = (fit for slide, fit in list_stain_slides(study.handle, method) if slide.slide == name)
    assert found is not None
    return found.fit


def library(method: str, pixels: RGB, target: StainFit) -> RGB:
    """Return pixels as torchstain normalises them, fitting them themselves."""
    if isinstance(target, MacenkoFit):
        macenko = NumpyMacenkoNormalizer()
        macenko.HERef = np.array([target.haematoxylin, target.eosin]).T
        macenko.maxCRef = np.array(target.concentrations)
        changed: RGB = macenko.normalize(pixels, Io=255, stains=False)[0]
        return changed
    reinhard = NumpyReinhardNormalizer()
    reinhard.target_means = np.array(target.lab_mean, np.float32)
    reinhard.target_stds = np.array(target.lab_std, np.float32)
    changed = reinhard.normalize(pixels)
    return changed


# ------------------------------------------------------------------------------------------- pixels


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("method", METHODS)
def test_fit_and_pixels_are_torchstains_within_a_grey_level(real: sd.Study, method: str, name: str) -> None:
    pixels = tissue_pixels(slide_of(real, name))[:, None]
    target = reference_target(method).fit
    # Torchstain fits what it normalises: here the pixels that the slide's fit is made from.
    theirs = library(method, pixels, target)
    ours = Normaliser(fit_of(real, name, method), target).apply(pixels)
    difference = np.abs(ours.astype(int) - theirs)[:, 0].max(axis=1)
    if method == "reinhard":
        # Paler pixels are changed less; torchstain changes them, and white, like all others.
        pale = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)[:, 0, 0] * (100 / 255) >= 84
        difference = difference[~pale]
        assert len(difference) > 0.8 * len(pixels)
    else:
        # Torchstain's optical density of 255 is below 0.
        difference = difference[pixels[:, 0].max(axis=1) < 255]
        assert len(difference) > 0.95 * len(pixels)
    assert difference.max() <= 1
    assert np.abs(ours.astype(int) - pixels).mean() > 5, "it changes something"


@pytest.mark.parametrize("method", METHODS)
def test_white_stays_white_and_nearly_white_nearly(real: sd.Study, method: str) -> None:
    for name in REAL:
        normaliser = Normaliser(fit_of(real, name, method), reference_target(method).fit)
        assert (normaliser.apply(np.full((8, 8, 3), 255, np.uint8)) == 255).all()
        for grey in (244, 250, 254):
            changed = normaliser.apply(np.full((4, 4, 3), grey, np.uint8))
            assert (changed == changed[0, 0]).all(), "a tile of one colour stays one"
            assert np.abs(changed[0, 0].astype(int) - grey).max() <= 10


@pytest.mark.parametrize("method", METHODS)
def test_every_colour_becomes_a_colour_and_a_grey_ramp_stays_in_order(real: sd.Study, method: str) -> None:
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 16, 3)
    ramp = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 256, 3)
    for name in REAL:
        normaliser = Normaliser(fit_of(real, name, method), reference_target(method).fit)
        assert normaliser.apply(cube).shape == cube.shape
        light = normaliser.apply(ramp)[0].astype(int).sum(axis=1)
        assert (np.diff(light) >= -3).all()


def test_normalising_to_itself_changes_nothing(real: sd.Study) -> None:
    pixels = tissue_pixels(slide_of(real, REAL[1]))[:200_000, None]
    reinhard = fit_of(real, REAL[1], "reinhard")
    assert np.abs(Normaliser(reinhard, reinhard).apply(pixels).astype(int) - pixels).max() <= 1
    # Two stains have no room for what a third colour has: what is left is close, on average.
    macenko = fit_of(real, REAL[1], "macenko")
    assert np.abs(Normaliser(macenko, macenko).apply(pixels).astype(int) - pixels).mean() < 5


@pytest.mark.parametrize("method", METHODS)
def test_two_slides_become_alike(real: sd.Study, method: str) -> None:
    samples = [tissue_pixels(slide_of(real, name))[:, None] for name in REAL]
    target = reference_target(method).fit
    changed = [
        Normaliser(fit_of(real, name, method), target).apply(pixels) for name, pixels in zip(REAL, samples, strict=True)
    ]

    def apart(a: RGB, b: RGB) -> float:
        return float(np.abs(a.mean(axis=(0, 1)) - b.mean(axis=(0, 1))).max())

    assert apart(*changed) < 0.6 * apart(*samples)


@pytest.mark.parametrize("method", METHODS)
def test_pixels_depend_neither_on_threads_nor_on_the_tile_they_are_in(real: sd.Study, method: str) -> None:
    pixels = tissue_pixels(slide_of(real, REAL[1]))[: 700 * 700].reshape(700, 700, 3)
    normaliser = Normaliser(fit_of(real, REAL[1], method), reference_target(method).fit)
    whole = normaliser.apply(pixels)
    before = pixels.copy()
    rows = [pixels[i : i + 7] for i in range(0, 700, 7)]
    with ThreadPoolExecutor(4) as pool:
        assert np.array_equal(np.concatenate(list(pool.map(normaliser.apply, rows))), whole)
    assert np.array_equal(normaliser.apply(pixels[:, ::2]), whole[:, ::2]), "a view"
    assert np.array_equal(pixels, before)
    pixels.setflags(write=False)
    assert np.array_equal(normaliser.apply(pixels), whole)


def test_fits_go_through_json_without_loss(real: sd.Study) -> None:
    for method in METHODS:
        fit = fit_of(real, REAL[0], method)
        assert fit_from_json(method, json.loads(json.dumps(fit_to_json(fit)))) == fit
        entry = json.loads(json.dumps(stain_to_json(reference_target(method))))
        assert stain_from_json(entry) == reference_target(method)
    entry["settings"]["definition"] = 2
    with pytest.raises(BetonError) as caught:
        stain_from_json(entry)
    assert str(caught.value) == (
        'the tiles were normalised by reinhard with the settings {"definition": 2, "pale": [85.0, 95.0]}, which this '
        "version of slideduck does not have; export again, or use the version that exported"
    )
    with pytest.raises(BetonError, match="what the tiles were normalised to is damaged: KeyError: 'target'"):
        stain_from_json({"method": "macenko", "settings": {}})
    with pytest.raises(ValueError, match="a fit of macenko and a target of reinhard"):
        Normaliser(fit_of(real, REAL[0], "macenko"), reference_target("reinhard").fit)


# --------------------------------------------------------------------------------------------- fits


def test_only_what_is_missing_is_fitted(real: sd.Study, tmp_path: Path) -> None:
    report = real.fit_stain("macenko")
    assert (report.method, report.fitted, report.unchanged, report.failed) == ("macenko", 0, 2, {})
    again = real.fit_stain("macenko", slides=[REAL[0]], anew=True, threads=1)
    assert (again.fitted, again.unchanged) == (1, 0)
    assert again.table.to_pylist() == report.table.to_pylist()[:1], "the same fit as before, by any number of threads"
    columns = ["slide", "pixels", "haematoxylin", "eosin", "concentrations"]
    assert report.table.column_names == columns
    # A slide that is added again with another resolution is fitted again.
    copy = shutil.copy(slide_of(real, REAL[1]).path, tmp_path / "B.svs")
    real.add_slides(copy, mpp=0.5)
    assert (real.fit_stain().fitted, real.fit_stain().fitted) == (1, 0)
    real.add_slides(copy, mpp=0.25)
    assert (real.fit_stain().fitted, real.fit_stain().fitted) == (1, 0)
    assert real.sql("SELECT count(*) FROM slide_stains").fetchall() == [(5,)]
    real.remove_slides("B")
    assert real.sql("SELECT count(*) FROM slide_stains").fetchall() == [(4,)]


def test_stains_look_as_haematoxylin_and_eosin_do(real: sd.Study) -> None:
    for name in REAL:
        fit = fit_of(real, name, "macenko")
        assert isinstance(fit, MacenkoFit)
        assert fit.haematoxylin[0] > fit.eosin[0], "haematoxylin takes more red"
        assert np.isclose(np.linalg.norm([fit.haematoxylin, fit.eosin], axis=1), 1).all()
        assert min(*fit.haematoxylin, *fit.eosin, *fit.concentrations) > 0


WIDE = (1280, 960)


def picture(kind: str) -> RGB:
    """Return a slide that has no stains to fit."""
    image = np.full((WIDE[1], WIDE[0], 3), 244, np.uint8)
    tissue = synthetic_image(3, WIDE)
    match kind:
        case "empty":
            pass
        case "speck":
            image[64:208, 64:208] = tissue[64:208, 64:208]
        case "grey":
            image = np.repeat(cv2.cvtColor(tissue, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
            image[:480, :, 0] -= 1
        case "dark":
            image = tissue // 3
        case "one stain":
            dose = np.random.default_rng(0).random((WIDE[1] // 4, WIDE[0] // 4)).astype(np.float32)
            dose = cv2.resize(dose, WIDE)[..., None]
            image = np.round(255 * np.exp(-1.5 * dose * np.array([0.65, 0.7, 0.29]))).astype(np.uint8)
        case "one colour":
            image[100:800, 100:1100] = (180, 90, 150)
    return image


LEAVE = "leave it out of the export with --where \"label IS NOT NULL AND slide <> 's'\""


@pytest.mark.parametrize(
    ("kind", "method", "message"),
    [
        ("empty", "macenko", f"slide 's' has 0 pixels of tissue of a micron each, and a fit of its stains needs "
         f"10,000; {LEAVE}"),
        ("speck", "reinhard", f"slide 's' has 5,??? pixels of tissue of a micron each, and a fit of its stains needs "
         f"10,000; {LEAVE}"),
        ("grey", "macenko", f"slide 's' is grey (its mean chroma is ?.?, and that of stained tissue above 4); {LEAVE}"),
        ("dark", "macenko", "slide 's' is dark (L* of its brightest part is ?? of 100): stains are told apart on "
         f"slides with light behind them; {LEAVE}"),
        ("one stain", "macenko", "slide 's' has no two stains that could be told apart: ?.? degrees lie between them, "
         f"and their greatest concentrations are ?.?? and ?.??; use --method reinhard, or {LEAVE}"),
        ("one colour", "reinhard", "slide 's' is of one colour: the deviations of L*, a* and b* of its tissue are "
         f"?.??, ?.??, ?.??; {LEAVE}"),
    ],
)  # fmt: skip
def test_slides_without_stains_are_refused_with_the_reason(
    study: sd.Study, tmp_path: Path, kind: str, method: str, message: str
) -> None:
    write_slide(tmp_path / "s.tif", picture(kind), mpp=0.5, compression="deflate")
    write_slide(tmp_path / "t.tif", 1, size=WIDE, mpp=0.5)
    # One by one: among others a picture of few colours is taken for a mask.
    study.add_slides(tmp_path / "s.tif")
    study.add_slides(tmp_path / "t.tif")
    report = study.fit_stain(method)
    assert (report.fitted, list(report.failed)) == (1, ["s"]), "the others go on"
    assert re.fullmatch(re.escape(message).replace(r"\?", "[0-9]"), report.failed["s"]), report.failed["s"]
    assert report.table["slide"].to_pylist() == ["t"]


def test_a_slide_of_one_stain_has_a_fit_by_reinhard(study: sd.Study, tmp_path: Path) -> None:
    write_slide(tmp_path / "s.tif", picture("one stain"), mpp=0.5, compression="deflate")
    study.add_slides(tmp_path / "s.tif")
    assert study.fit_stain("reinhard").failed == {}
    assert isinstance(fit_of(study, "s", "reinhard"), ReinhardFit)


def test_slides_that_are_gone_changed_or_damaged(study: sd.Study, tmp_path: Path) -> None:
    for i, name in enumerate("abcd"):
        write_slide(tmp_path / f"{name}.tif", i, size=WIDE, mpp=0.5, levels=1)
    study.add_slides(tmp_path)
    (tmp_path / "a.tif").unlink()
    write_slide(tmp_path / "b.tif", 7, size=WIDE, mpp=0.5, levels=1)
    shutil.copy(tmp_path / "c.tif", tmp_path / "copy")
    os.replace(tmp_path / "copy", tmp_path / "c.tif")
    report = study.fit_stain()
    assert report.failed == {
        "a": f"slide 'a': {tmp_path}/a.tif cannot be read: No such file or directory; put the file back, or add it "
        "from where it is now",
        "b": f"slide 'b' has changed: {tmp_path}/b.tif is not the file that was added; add it again",
    }
    assert report.table["slide"].to_pylist() == ["c", "d"], "a copy is the same slide"


def test_a_damaged_tile_does_not_keep_a_slide_from_its_fit(study: sd.Study, tmp_path: Path) -> None:
    # The picture of a slide is from level 1, and squares are read from level 0.
    path = write_slide(tmp_path / "a.tif", 5, size=(1280, 1280), mpp=1.0, levels=4)
    study.add_slides(path)
    whole = study.fit_stain().table["pixels"].to_pylist()[0]
    for place in range(40, 60):
        damage_tile(path, place)
    study.add_slides(path)
    damaged = study.fit_stain(anew=True)
    assert damaged.failed == {}
    assert 0 < whole - damaged.table["pixels"].to_pylist()[0] <= 20 * 64 * 64


def test_impossible_settings(real: sd.Study) -> None:
    cases: tuple[tuple[Callable[[], object], type[Exception], str], ...] = (
        (lambda: real.fit_stain("vahadane"), ConfigError, "method is 'vahadane'; give one of macenko, reinhard"),
        (lambda: real.fit_stain(threads=0), ConfigError, "threads is 0; give 1 or more"),
        (lambda: real.fit_stain(slides=["x"]), StudyError,
         "the study has no slide 'x' that can be used; it has 2 others"),
    )  # fmt: skip
    for call, kind, message in cases:
        with pytest.raises(kind) as caught:
            call()
        assert str(caught.value) == message


# ------------------------------------------------------------------------------------------- betons


def both(path: Path) -> tuple[bytes, bytes]:
    return path.read_bytes(), path.with_suffix(".json").read_bytes()


def own_tiles(study: sd.Study, rows: list[dict[str, Any]], method: str, target: StainFit) -> Iterator[RGB]:
    """Yield tiles read and normalised one by one."""
    from slideduck.betons.plan import make_plan
    from slideduck.betons.settings import ExportSettings

    plan = make_plan(study.handle, ExportSettings(raw=True))
    for i, info in enumerate(plan.slides):
        normaliser = Normaliser(fit_of(study, info.slide, method), target)
        with TileReader(
            SlideFile.unchecked(info.path), plan.grids[i], plan.tile_px, background=info.background
        ) as reader:
            for row in rows:
                if row["slide"] == info.slide:
                    yield normaliser.apply(reader.read(row["base_x"], row["base_y"]))


@pytest.mark.parametrize(("method", "raw", "to"), [("macenko", False, None), ("reinhard", True, REAL[0])])
def test_beton_holds_normalised_tiles_whatever_the_threads(
    real: sd.Study, tmp_path: Path, method: str, raw: bool, to: str | None
) -> None:
    out = tmp_path / "tiles.beton"
    report = real.export(out, stain=method, stain_to=to, raw=raw, threads=1)
    name = "slideflow-v3" if to is None else f"slide {to}"
    note = f"stains normalised by {method} to those of {name}"
    assert report.notes == (note if raw else f"{note}; so no stored JPEG is taken as it is",)
    rows = real.labels("label IS NOT NULL AND kept").arrow().read_all().to_pylist()
    target = reference_target(method).fit if to is None else fit_of(real, to, method)
    stored = contents(out)
    assert len(stored) == len(rows) == report.samples > 100
    for found, expected in zip(stored, own_tiles(real, rows, method, target), strict=True):
        assert found == (expected.tobytes() if raw else encode_jpeg(expected, 90))
    first = both(out)
    real.export(out, stain=method, stain_to=to, raw=raw, threads=3)
    assert both(out) == first
    # The side-car says what was done, and a reader of betons need not know of it.
    sidecar = read_sidecar(out).raw
    assert stain_from_json(sidecar["beton"]["image"]["stain"]).fit == target
    assert sidecar["beton"]["image"]["stain"]["target"]["name"] == (to or "slideflow-v3")
    for entry in sidecar["slides"]:
        assert fit_from_json(method, entry["stain"]) == fit_of(real, entry["slide"], method)
        assert entry["stain"]["library"].startswith("torchstain 1.")
    checked = verify_beton(out, sample=None)
    assert (checked.problems, checked.compared) == ((), report.samples)
    assert stored != contents_without(real, tmp_path, raw)


def contents_without(study: sd.Study, folder: Path, raw: bool) -> list[bytes]:
    study.export(folder / "plain.beton", raw=raw, where="label IS NOT NULL", jpeg="reencode")
    return contents(folder / "plain.beton")


def test_verify_tells_tiles_that_were_normalised_in_another_way(real: sd.Study, tmp_path: Path) -> None:
    out = tmp_path / "tiles.beton"
    real.export(out, stain="macenko")
    raw = json.loads(out.with_suffix(".json").read_text())
    # As side-cars of before, without a checksum.
    del raw["sha256"]
    original = json.dumps(raw)
    raw["slides"][1]["stain"]["eosin"][0] += 0.02
    out.with_suffix(".json").write_text(json.dumps(raw))
    problems = verify_beton(out, sample=None).problems
    assert problems[0].problem == f"{out.with_suffix('.json')} lists other tiles than the beton was written with"
    assert {problem.slide for problem in problems[1:]} == {REAL[1]}
    assert "it is not what its slide gives at base pixel (" in problems[1].problem
    raw = json.loads(original)
    raw["beton"]["image"]["stain"]["settings"]["io"] = 240
    del raw["slides"][0]["stain"]["eosin"]
    out.with_suffix(".json").write_text(json.dumps(raw))
    problems = verify_beton(out, sample=None).problems
    assert [problem.slide for problem in problems] == [None, *REAL]
    assert problems[2].problem.startswith(
        'its tiles cannot be compared with their slide: the tiles were normalised by macenko with the settings {"def'
    )
    raw["beton"]["image"]["stain"]["settings"]["io"] = 255
    out.with_suffix(".json").write_text(json.dumps(raw))
    problem = next(p for p in verify_beton(out, sample=None).problems if p.slide == REAL[0])
    assert problem.problem == "the fit of its stains is damaged: KeyError: 'eosin'"


def test_export_without_fits_says_how_to_make_them(real: sd.Study, tmp_path: Path) -> None:
    out = tmp_path / "tiles.beton"
    real.con.execute("DELETE FROM slide_stains WHERE method = 'macenko'")
    with pytest.raises(StudyError) as caught:
        real.export(out, stain="macenko")
    assert str(caught.value) == (
        f"2 of 2 slides have no fit of their stains by macenko ({', '.join(REAL)}); fit them with: "
        "slideduck stain real.duckdb --method macenko"
    )
    real.fit_stain(slides=[REAL[0]])
    with pytest.raises(StudyError, match="1 of 2 slides has no fit of its stains by macenko"):
        real.export(out, stain="macenko")
    # Only the slides that are exported need one.
    real.export(out, stain="macenko", where=f"label IS NOT NULL AND slide = '{REAL[0]}'")
    with pytest.raises(StudyError, match="1 of 1 slide has no fit of its stains by macenko"):
        real.export(out, stain="macenko", stain_to=REAL[1], where=f"label IS NOT NULL AND slide = '{REAL[0]}'")
    cases: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
        ({"stain": "hsv"}, ConfigError, "method is 'hsv'; give one of macenko, reinhard"),
        ({"stain_to": "a"}, ConfigError, "stain_to is 'a', and no method is given; give stain too"),
        ({"stain": "reinhard", "stain_to": "a"}, StudyError,
         "real.duckdb has no slide 'a' whose stains could be the target"),
        ({"stain": "reinhard", "jpeg": "passthrough"}, ConfigError,
         "stored JPEGs cannot be taken as they are and be normalised; give stain, or 'passthrough'"),
    )  # fmt: skip
    for settings, kind, message in cases:
        with pytest.raises(kind) as raised:
            real.export(out, **settings)
        assert str(raised.value) == message


def test_shards_merge_into_the_same_and_a_stopped_export_goes_on(tmp_path: Path) -> None:
    path = write_study(tmp_path, noise=60, size=(1280, 960))
    out, merged = tmp_path / "tiles.beton", tmp_path / "merged.beton"
    with sd.open(path) as study:
        # The slides are noise without colour: their chroma is enough, and a fit is a fit.
        assert study.fit_stain("reinhard").failed == {}
        report = study.export(out, stain="reinhard")
        assert report.passed_through == 0
        assert study.export(tmp_path / "plain.beton").passed_through > 0
        shards = study.export(merged, stain="reinhard", shards=3).shards
        merge_betons(merged, shards)
        assert merged.read_bytes() == out.read_bytes()
        same, whole = ((path.with_suffix(".json").read_text().split("\n")) for path in (merged, out))
        # The names differ, and so do the checksums that are the last line.
        assert [line.replace('"merged.beton"', '"tiles.beton"') for line in same[:-3]] == whole[:-3]
        # Shards by another target are not those of one export, and are written again.
        assert study.export(merged, stain="reinhard", shards=3).resumed == report.samples
        other = study.export(merged, stain="reinhard", stain_to="b", shards=3, shard=1)
        assert other.resumed == 0
        with pytest.raises(BetonError, match="are shards of different exports, by their plan"):
            merge_betons(tmp_path / "mixed.beton", shards)
        # A slide that has changed stops the export, which then goes on to the same bytes.
        before = both(out)
        copy = (tmp_path / "slides" / "c.tif").read_bytes()
        damage_tile(tmp_path / "slides" / "c.tif", 100)
        with pytest.raises(SlideError, match="slide 'c' has changed: "):
            study.export(out, stain="reinhard")
        skipped = study.export(tmp_path / "skip.beton", stain="reinhard", skip_errors=True)
        assert {tile.slide for tile in skipped.left_out} == {"c"}
        status = (tmp_path / "slides" / "c.tif").stat()
        (tmp_path / "slides" / "c.tif").write_bytes(copy)
        os.utime(tmp_path / "slides" / "c.tif", ns=(status.st_atime_ns, status.st_mtime_ns))
        study.export(out, stain="reinhard")
        assert both(out) == before


# ---------------------------------------------------------------------------------------- commands


def run(*arguments: object) -> Result:
    # Wide enough for the names of slides, whatever terminal the tests have, or none.
    return CliRunner(env={"COLUMNS": "160"}).invoke(cli, [str(argument) for argument in arguments])


def test_commands(fitted: Path, tmp_path: Path) -> None:
    study = shutil.copy(fitted, tmp_path / "real.duckdb")
    result = run("stain", study)
    assert result.exit_code == 0
    assert result.stderr == "fitted 0 slides by macenko; 2 slides had it already\n"
    assert "haematoxylin" in result.stdout
    assert REAL[0] in result.stdout
    rows = json.loads(run("stain", study, "--method", "reinhard", "--slide", REAL[0], "--json").stdout)
    assert [list(row) for row in rows] == [["slide", "pixels", "lab_mean", "lab_std"]]
    out = tmp_path / "tiles.beton"
    result = run("export", study, out, "--stain", "macenko", "--stain-to", REAL[0])
    assert result.exit_code == 0, result.output
    assert f"stains normalised by macenko to those of slide {REAL[0]}; so no stored JPEG" in result.stderr
    assert run("verify", out).exit_code == 0
    for arguments, message in (
        (["--stain-to", "a"], "give --stain-to with --stain, the method"),
        (["--stain", "macenko", "--jpeg", "passthrough"],
         "--jpeg passthrough takes stored JPEGs as they are, and --stain changes them"),
    ):  # fmt: skip
        result = run("export", study, out, *arguments)
        assert result.exit_code == 2
        assert message in result.stderr
    write_slide(tmp_path / "s.tif", picture("empty"), mpp=0.5)
    assert run("add-slides", study, tmp_path / "s.tif").exit_code == 0
    result = run("stain", study)
    assert result.exit_code == 1
    assert result.stderr.endswith(
        "error: 1 slide cannot be fitted:\n  slide 's' has 0 pixels of tissue of a micron each, and a fit of its "
        f"stains needs 10,000; {LEAVE}\n"
    )


def test_tiles_of_the_beton_decode_to_what_was_encoded(real: sd.Study, tmp_path: Path) -> None:
    real.export(tmp_path / "tiles.beton", stain="macenko", quality=95)
    rows = real.labels("label IS NOT NULL AND kept").arrow().read_all().to_pylist()
    target = reference_target("macenko").fit
    for data, expected in zip(
        contents(tmp_path / "tiles.beton"), own_tiles(real, rows, "macenko", target), strict=True
    ):
        assert np.abs(decode_jpeg(data).astype(int) - expected).mean() < 6


def test_fit_of_one_slide_without_a_study(real: sd.Study) -> None:
    slide = slide_of(real, REAL[0])
    assert fit_slide(slide, "macenko").fit == fit_of(real, REAL[0], "macenko")
