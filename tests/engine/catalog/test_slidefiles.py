"""Slide files in a study: what is left out, what stays when they are typed again, moved or copied, and their names."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

import slideduck as sd
from slideduck.errors import InputError, SlideError, StudyError
from tests.dicom import write_dicom
from tests.slides import synthetic_image, write_slide

SIZE = (256, 192)


def slide(path: Path, seed: int = 0, *, mpp: float | None = 0.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_slide(path, seed, size=SIZE, mpp=mpp, levels=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, empty_study: Path) -> Path:
    """A study of three slides with a grid, ROIs, labels, predictions and features; the folder that it is in."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copyfile(empty_study, folder / "study.duckdb")
    for seed, name in enumerate("abc"):
        slide(folder / "slides" / f"{name}.tif", seed, mpp=None if name == "c" else 0.5)
        (folder / "slides" / f"{name}.csv").write_text(
            "roi_name,x_base,y_base,label\nr,0,0,tumour\nr,100,0,tumour\nr,100,100,tumour\nr,0,100,tumour\n"
        )
    with sd.open(folder / "study.duckdb") as study:
        study.add_slides(folder / "slides", mpp=0.25)
        study.add_rois(folder / "slides")
        study.tile(32, tile_um=16)
        study.label()
    return folder


@pytest.fixture
def study(made: Path, tmp_path: Path) -> Iterator[sd.Study]:
    """A copy of that study; its slides lie where they were."""
    shutil.copyfile(made / "study.duckdb", tmp_path / "study.duckdb")
    with sd.open(tmp_path / "study.duckdb") as opened:
        yield opened


def counts(report: sd.SlidesReport) -> tuple[int, int, int]:
    return report.added, report.updated, report.unchanged


def labelled(study: sd.Study) -> list[tuple[object, ...]]:
    return study.sql("SELECT tile_id, label FROM labels ORDER BY ALL").fetchall()


# ------------------------------------------------------------------------------------ typed again


def test_mpp_that_was_given_stays_until_another_is_given(study: sd.Study, made: Path) -> None:
    before = labelled(study)
    again = study.add_slides(made / "slides")
    assert (counts(again), again.kept_mpp, again.cleared, again.failed) == ((0, 0, 3), {"c": 0.25}, (), {})
    assert labelled(study) == before
    same = study.add_slides(made / "slides", mpp=0.25)
    assert (counts(same), same.kept_mpp, same.header_mpp) == ((0, 0, 3), {}, {"a": 0.5, "b": 0.5})
    other = study.add_slides(made / "slides", mpp={"c": 0.5})
    assert (counts(other), other.cleared) == ((0, 1, 2), ("c",))
    study.label()
    assert study.sql("SELECT slide, count(*) FROM labels GROUP BY slide ORDER BY slide").fetchall() == [
        ("a", 48), ("b", 48), ("c", 48),
    ]  # fmt: skip


def test_mpp_that_was_given_outlives_a_file_that_is_damaged_for_a_while(study: sd.Study, tmp_path: Path) -> None:
    path = slide(tmp_path / "d.tif", mpp=None)
    study.add_slides(path, mpp=0.25)
    study.label()
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    report = study.add_slides(path)
    assert (list(report.failed), report.cleared) == (["d"], ("d",))
    path.write_bytes(whole)
    report = study.add_slides(path)
    assert (report.failed, report.kept_mpp) == ({}, {"d": 0.25})


def test_mpp_given_over_a_header_stays_beside_a_default(study: sd.Study, made: Path) -> None:
    study.add_slides(made / "slides", mpp={"a": 0.4})
    report = study.add_slides(made / "slides", mpp=0.3)
    assert (report.kept_mpp, report.header_mpp) == ({"a": 0.4}, {"b": 0.5})
    assert study.sql("SELECT slide, mpp FROM slides ORDER BY slide").fetchall() == [("a", 0.4), ("b", 0.5), ("c", 0.3)]


def test_bounds_of_an_older_study_are_filled_in_and_tiles_stay(study: sd.Study, made: Path) -> None:
    study.con.execute("UPDATE slides SET vendor = NULL, objective_power = 7, mtime = 0")
    before = labelled(study)
    assert counts(study.add_slides(made / "slides")) == (0, 0, 3)
    assert study.sql("SELECT DISTINCT vendor, objective_power FROM slides").fetchall() == [("generic-tiff", None)]
    assert labelled(study) == before


# ------------------------------------------------------------------------------------------ table


def test_table_of_mpp(study: sd.Study, made: Path, tmp_path: Path) -> None:
    (tmp_path / "mpp.csv").write_text("mpp;slide;remark\n0,4;a;\n0,3;c;\n1;A.tif;other\n1;zzz;\n")
    report = study.add_slides(made / "slides", mpp_table=tmp_path / "mpp.csv")
    assert report.strangers == ("A.tif; did you mean 'a'?", "zzz")
    assert report.warnings == ("slide 'a.tif': MPP 0.4 as given, though its header says 0.5 (openslide.mpp-x)",)
    assert study.sql("SELECT slide, mpp, mpp_given FROM slides ORDER BY slide").fetchall() == [
        ("a", 0.4, True), ("b", 0.5, False), ("c", 0.3, True),
    ]  # fmt: skip


def test_every_bad_row_of_the_table_is_named(study: sd.Study, made: Path, tmp_path: Path) -> None:
    (tmp_path / "mpp.csv").write_text("slide,mpp\na,O.25\n,0.5\nb,-1\nb,0.5\nc,\nc\n")
    with pytest.raises(InputError) as caught:
        study.add_slides(made / "slides", mpp_table=tmp_path / "mpp.csv")
    assert caught.value.problems == (
        "mpp.csv:2: mpp is 'O.25', not a number; write microns per pixel, such as 0.25",
        "mpp.csv:3: slide is empty; write the slide's name",
        "mpp.csv:4: mpp is '-1', not a positive number; write microns per pixel, such as 0.25",
        "mpp.csv:5: slide 'b' is there already (row 4); keep one row for each slide",
        "mpp.csv:6: mpp is empty; write microns per pixel, such as 0.25",
        "mpp.csv:7: 1 cell, but the header has 2; write every cell, empty ones too, and quote cells that hold the "
        "delimiter",
    )


def test_mpp_of_a_slide_that_is_not_added_and_given_twice(study: sd.Study, made: Path, tmp_path: Path) -> None:
    (tmp_path / "mpp.csv").write_text("slide,mpp\na,0.25\n")
    with pytest.raises(InputError) as caught:
        study.add_slides(made / "slides", mpp={"A": 0.5, "a": 0.5}, mpp_table=tmp_path / "mpp.csv")
    assert caught.value.problems == (
        "`mpp` names slide 'A', which is not among the 3 files given; did you mean 'a'?",
        "slide 'a' is named by `mpp` and by `mpp_table`; give one of them",
    )


# ------------------------------------------------------------------------------- moved and copied


def test_moved_slides_keep_all_that_is_known_of_them(study: sd.Study, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "slides", tmp_path / "old")
    study.con.execute(f"UPDATE slides SET path = replace(path, '{made}/slides', '{tmp_path}/gone')")
    before = labelled(study)
    report = study.add_slides(tmp_path / "old")
    assert (counts(report), report.moved, report.cleared) == ((0, 3, 0), ("a", "b", "c"), ())
    assert study.sql("SELECT path FROM slides ORDER BY slide").fetchall() == [
        (f"{tmp_path}/old/{name}.tif",) for name in "abc"
    ]
    assert labelled(study) == before


def test_copies_of_slides_leave_them_as_they_are(study: sd.Study, made: Path, tmp_path: Path) -> None:
    before = labelled(study)
    shutil.copytree(made / "slides", tmp_path / "copy")
    report = study.add_slides(tmp_path / "copy")
    assert (counts(report), report.copies, report.moved) == ((0, 0, 3), ("a", "b", "c"), ())
    assert study.sql("SELECT path FROM slides WHERE slide = 'a'").fetchall() == [(f"{made}/slides/a.tif",)]
    assert labelled(study) == before


def test_moved_and_changed_slide_loses_its_tiles(study: sd.Study, tmp_path: Path, made: Path) -> None:
    study.con.execute(f"UPDATE slides SET path = '{tmp_path}/gone/a.tif' WHERE slide = 'a'")
    slide(tmp_path / "new" / "a.tif", 99)
    report = study.add_slides(tmp_path / "new")
    assert (counts(report), report.moved, report.cleared) == ((0, 1, 0), (), ("a",))


def test_slide_of_the_same_fingerprint_and_other_pixels_is_another(study: sd.Study, tmp_path: Path) -> None:
    """OpenSlide's fingerprint is of the smallest level; the size of the file tells more."""
    large = synthetic_image(1, SIZE)
    for name, noise in (("one", 0), ("two", 9)):
        rng = np.random.default_rng(1)
        image = (large.astype(int) + rng.integers(0, noise + 1, large.shape)).clip(0, 255).astype(np.uint8)
        with tifffile.TiffWriter(tmp_path / f"{name}.tif") as writer:
            for level, pixels in enumerate((image, large[::2, ::2])):
                writer.write(
                    pixels, tile=(64, 64), photometric="rgb", compression="deflate", metadata=None,
                    subfiletype=level, resolution=(20000, 20000), resolutionunit="CENTIMETER",
                )  # fmt: skip
    os.replace(tmp_path / "one.tif", tmp_path / "d.tif")
    study.add_slides(tmp_path / "d.tif")
    (before,) = study.sql("SELECT fingerprint FROM slides WHERE slide = 'd'").fetchall()
    study.label()
    os.replace(tmp_path / "two.tif", tmp_path / "d.tif")
    assert study.add_slides(tmp_path / "d.tif").cleared == ("d",)
    (after,) = study.sql("SELECT fingerprint FROM slides WHERE slide = 'd'").fetchall()
    # OpenSlide's part of it is of the smallest level.
    assert before[0].partition("/")[0] == after[0].partition("/")[0]
    assert before != after


# --------------------------------------------------------------------------------------- relocate


def test_relocate_follows_a_folder_and_writes_it_down(study: sd.Study, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "slides", tmp_path / "new")
    (tmp_path / "new" / "b.csv").write_text("changed")
    (tmp_path / "new" / "c.csv").unlink()
    before = labelled(study)
    trial = study.relocate(made / "slides", tmp_path / "new", dry_run=True)
    assert study.sql("SELECT count(*) FROM slides WHERE path LIKE '%new%'").fetchall() == [(0,)]
    assert study.sql("SELECT count(*) FROM changes").fetchall() == [(0,)]
    assert study.relocate(made / "slides", tmp_path / "new") == trial
    assert trial.slides == ("a", "b", "c")
    assert trial.roi_files == (f"{tmp_path}/new/a.csv",)
    assert trial.roi_files_left == (
        f"{made}/slides/b.csv: {tmp_path}/new/b.csv has other bytes; read it with add-rois",
        f"{made}/slides/c.csv: no file {tmp_path}/new/c.csv",
    )
    assert study.sql("SELECT path FROM slides ORDER BY slide").fetchall() == [
        (f"{tmp_path}/new/{name}.tif",) for name in "abc"
    ]
    ((what, detail),) = study.sql("SELECT change, detail FROM changes").fetchall()
    assert (what, json.loads(detail)) == (
        "relocate",
        {"from": f"{made}/slides", "to": f"{tmp_path}/new", "slides": 3, "roi_files": 1},
    )
    assert labelled(study) == before
    assert counts(study.add_slides(tmp_path / "new")) == (0, 0, 3)


def test_relocate_checks_every_file_before_it_changes_one(study: sd.Study, made: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    shutil.copytree(made / "slides", new)
    (new / "a.tif").unlink()
    slide(new / "b.tif", 99)
    (new / "c.tif").write_bytes((new / "c.tif").read_bytes()[:-9])
    with pytest.raises(StudyError) as caught:
        study.relocate(made / "slides", new)
    first, *lines = str(caught.value).splitlines()
    assert first == f"3 of 3 slides of {made}/slides are not in {new} as they were added, and nothing was changed:"
    assert lines[:2] == [
        f"  slide 'a': {new}/a.tif: no such file or directory",
        f"  slide 'b': {new}/b.tif is another file than the one that was added",
    ]
    assert lines[2].startswith("  slide 'c.tif' is cut short: ")
    assert study.sql("SELECT count(*) FROM slides WHERE path LIKE '%new%'").fetchall() == [(0,)]


def test_relocate_from_where_no_slide_lies(study: sd.Study, made: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        study.relocate(tmp_path / "x", tmp_path / "y")
    assert str(caught.value) == f"no slide of study.duckdb lies in {tmp_path}/x; they lie in {made}/slides"
    # A folder is no prefix of letters.
    with pytest.raises(StudyError, match="no slide of"):
        study.relocate(f"{made}/slide", tmp_path)


def test_export_begun_before_a_move_goes_on_after_it(study: sd.Study, made: Path, tmp_path: Path) -> None:
    first = study.export(tmp_path / "one.beton")
    shutil.copytree(made / "slides", tmp_path / "new")
    study.con.execute(f"UPDATE slides SET path = replace(path, '{made}', '{tmp_path}/gone')")
    with pytest.raises(SlideError) as caught:
        study.export(tmp_path / "two.beton")
    assert "No such file or directory; put the file back, or add it from where it is now" in str(caught.value)
    # Either remedy goes on: to add it, and to follow the folder.
    assert study.add_slides(tmp_path / "new" / "a.tif").moved == ("a",)
    study.con.execute(f"UPDATE slides SET path = '{tmp_path}/gone/slides/a.tif' WHERE slide = 'a'")
    study.relocate(tmp_path / "gone" / "slides", tmp_path / "new")
    second = study.export(tmp_path / "two.beton")
    assert (first.samples, (tmp_path / "one.beton").read_bytes()) == (
        second.samples,
        (tmp_path / "two.beton").read_bytes(),
    )


# ------------------------------------------------------------------------------- what is no slide


def grey(path: Path) -> Path:
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8), tile=(64, 64), metadata=None)
    return path


def test_masks_and_thumbnails_among_slides_are_left_out(study: sd.Study, made: Path, tmp_path: Path) -> None:
    slide(tmp_path / "d.tif")
    colours = np.zeros((64, 64, 3), np.uint8)
    colours[:32] = (255, 0, 0)
    tifffile.imwrite(tmp_path / "few.tif", colours, tile=(64, 64), photometric="rgb", metadata=None)
    tifffile.imwrite(
        tmp_path / "palette.tif", colours[..., 0], tile=(64, 64), photometric="palette", metadata=None,
        colormap=np.zeros((3, 256), np.uint16),
    )  # fmt: skip
    grey(tmp_path / "one.tif")
    for name in ("d_mask", "d-labelimage", "d.label.ome", "d_thumbnail"):
        slide(tmp_path / f"{name}.tif")
    tifffile.imwrite(tmp_path / "d_macro.tif", synthetic_image(1, SIZE), photometric="rgb", metadata=None)
    # A scanner's own format is a slide, whatever its name.
    write_slide(tmp_path / "e_label.svs", 3, size=SIZE, vendor="aperio", levels=1)
    report = study.add_slides([tmp_path])
    alone = "; give it alone to add it as a slide"
    assert report.left_out == (
        f"{tmp_path}/d-labelimage.tif: named as what lies beside a slide (-labelimage){alone}",
        f"{tmp_path}/d.label.ome.tif: named as what lies beside a slide (.label){alone}",
        f"{tmp_path}/d_macro.tif: named as what lies beside a slide (_macro){alone}",
        f"{tmp_path}/d_mask.tif: named as what lies beside a slide (_mask){alone}",
        f"{tmp_path}/d_thumbnail.tif: named as what lies beside a slide (_thumbnail){alone}",
        f"{tmp_path}/few.tif: 2 colours alone{alone}",
        f"{tmp_path}/one.tif: one channel{alone}",
        f"{tmp_path}/palette.tif: colours of a palette, as label images have{alone}",
    )
    assert (counts(report), report.failed) == ((2, 0, 0), {})
    # As the message says.
    report = study.add_slides(tmp_path / "one.tif", mpp=1)
    assert (counts(report), report.warnings) == ((1, 0, 0), ("slide 'one.tif' may be no slide: one channel",))
    # Once it is a slide of the study, it is one among others, too.
    assert len(study.add_slides([tmp_path]).left_out) == 7


def test_files_that_are_no_slides_are_left_out(study: sd.Study, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Slides")
    (tmp_path / "._d.tif").write_bytes(b"\0\5\x16\7" + bytes(60))
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    slide(tmp_path / "d.tif")
    (tmp_path / "damaged.svs").write_text("no slide")
    report = study.add_slides([path for path in tmp_path.iterdir() if path.suffix != ".duckdb"])
    readme = f"{tmp_path}/README.md: no slide, by its suffix and its first bytes"
    assert report.left_out == (
        f"{tmp_path}/._d.tif: what macOS keeps beside a file of that name, and no slide",
        readme,
        f"{tmp_path}/photo.png: a PNG, which OpenSlide does not read; make a tiled pyramid of it, such as with: "
        "vips tiffsave photo.png photo_tiled.tif --tile --pyramid --compression jpeg --Q 90 --tile-width 256 "
        "--tile-height 256 --bigtiff",
    )
    assert (counts(report), list(report.failed)) == ((2, 0, 0), ["damaged"])
    with pytest.raises(InputError) as caught:
        study.add_slides(tmp_path / "README.md")
    assert caught.value.problems == (f"no slide was given, and nothing was added: {readme}",)


# ------------------------------------------------------------------------------------------ names


def test_names_with_folders(study: sd.Study, tmp_path: Path) -> None:
    for case in ("case1", "case2"):
        slide(tmp_path / "s" / case / "HE.tif", int(case[-1]))
    with pytest.raises(InputError) as caught:
        study.add_slides(tmp_path / "s")
    assert caught.value.problems == (
        f"slide 'HE' is both {tmp_path}/s/case1/HE.tif and {tmp_path}/s/case2/HE.tif; names are unique: rename one, "
        "or give `names='relative'`",
    )
    assert counts(study.add_slides(tmp_path / "s", names="relative", mpp={"case1/HE": 0.4})) == (2, 0, 0)
    # Typed again in whatever way, they are the same slides.
    for again in (tmp_path / "s", f"{tmp_path}/s/*", f"{tmp_path}/s/case?/HE.tif", tmp_path / "s" / "case1"):
        report = study.add_slides(again)
        assert (report.added, report.updated) == (0, 0)
    assert study.sql("SELECT slide, mpp FROM slides WHERE slide LIKE '%HE' ORDER BY slide").fetchall() == [
        ("case1/HE", 0.4), ("case2/HE", 0.5),
    ]  # fmt: skip
    study.label()
    assert study.sql("SELECT tile_id FROM labels WHERE slide = 'case2/HE' LIMIT 1").fetchall() == [("case2/HE-16-16",)]
    exported = study.export_tiles(tmp_path / "out", slides=["case1/HE", "case2/HE"], where="true")
    assert exported.paths == (tmp_path / "out/case1/HE.geojson", tmp_path / "out/case2/HE.geojson")
    assert all(path.stat().st_size for path in exported.paths)
    with pytest.raises(StudyError, match=r"2 files are in .* already; (.|\n)*case1/HE.geojson"):
        study.export_tiles(tmp_path / "out", slides=["case1/HE", "case2/HE"], where="true")
    with pytest.raises(InputError, match="`names` is 'folder'; give stem or relative"):
        study.add_slides(tmp_path / "s", names="folder")


def test_moved_file_under_another_name_is_a_warning(study: sd.Study, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "slides", tmp_path / "s" / "x")
    study.con.execute(f"UPDATE slides SET path = '{tmp_path}/gone/x/a.tif' WHERE slide = 'a'")
    before = labelled(study)
    report = study.add_slides(tmp_path / "s", names="relative", mpp=0.25)
    assert report.warnings == (
        f"slide 'x/a' is the file of slide 'a', which is not at {tmp_path}/gone/x/a.tif any more: if it was moved, "
        "take 'x/a' out with remove-slides, and follow the folder with relocate",
    )
    # As it says.
    study.remove_slides(["x/a", "x/b", "x/c"])
    study.relocate(tmp_path / "gone", tmp_path / "s")
    assert study.add_slides(tmp_path / "s/x/a.tif").unchanged == 1
    assert labelled(study) == before


def test_folder_of_dicom_files(study: sd.Study, tmp_path: Path) -> None:
    """Two slides of two levels each in one folder, and a label of its own; then files without a suffix."""
    image = synthetic_image(1, (256, 128))
    half = np.ascontiguousarray(image[::2, ::2])
    for series in ("1.2.1", "1.2.2"):
        write_dicom(tmp_path / "d" / f"{series}.1.dcm", image, series=series, instance=f"{series}.1")
        write_dicom(tmp_path / "d" / f"{series}.2.dcm", half, series=series, instance=f"{series}.2", mpp=1)
    write_dicom(tmp_path / "d" / "label.dcm", half, series="1.2.9", instance="1.2.9.1", kind="LABEL")
    report = study.add_slides(tmp_path / "d")
    assert counts(report) == (3, 0, 0)
    assert report.failed == {
        "label": "slide 'label.dcm' is a DICOM label or overview without the levels of its slide in its folder; put "
        "them there, or leave it out"
    }
    assert study.sql(
        "SELECT slide, vendor, width, mpp, level_downsamples FROM slides WHERE vendor = 'dicom' ORDER BY slide"
    ).fetchall() == [(f"1.2.{n}.1", "dicom", 256, 0.5, [1.0, 2.0]) for n in (1, 2)]
    for number in (1, 2):
        (tmp_path / "bare").mkdir(exist_ok=True)
        shutil.copy(tmp_path / "d" / f"1.2.1.{number}.dcm", tmp_path / "bare" / f"IM000{number}")
    report = study.add_slides([tmp_path / "bare" / "IM0002", tmp_path / "bare" / "IM0001"])
    assert (counts(report), report.left_out) == ((1, 0, 0), ())


def test_pattern_names_slides_below_what_it_writes_out(study: sd.Study, tmp_path: Path) -> None:
    for case in ("case1", "case2"):
        slide(tmp_path / case / "x" / "HE.tif", int(case[-1]))
    study.add_slides(f"{tmp_path}/case*/x/*.tif", names="relative")
    assert study.sql("SELECT slide FROM slides WHERE slide LIKE '%HE' ORDER BY slide").fetchall() == [
        ("case1/x/HE",),
        ("case2/x/HE",),
    ]


def test_no_file_is_written_out_of_the_folder(study: sd.Study, tmp_path: Path) -> None:
    study.con.execute("UPDATE slides SET slide = '../a' WHERE slide = 'a'")
    with pytest.raises(StudyError) as caught:
        study.export_tiles(tmp_path / "out", slides=["../a"])
    assert str(caught.value) == (
        f"no file is written in {tmp_path}/out for names that are not those of files; name the other slides with "
        "`slides`:\n  '../a.geojson': the name leads out of the folder"
    )
    assert not (tmp_path / "a.geojson").exists()


def test_decomposed_file_name_is_composed_unless_the_study_has_it(study: sd.Study, tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD"))
    slide(tmp_path / f"{decomposed}.tif")
    study.add_slides(tmp_path / f"{decomposed}.tif")
    assert study.sql("SELECT slide FROM slides WHERE slide LIKE 'M%'").fetchall() == [(composed,)]
    assert counts(study.add_slides(tmp_path / f"{decomposed}.tif", mpp={decomposed: 0.4})) == (0, 1, 0)
    # As an older version named it.
    study.con.execute("UPDATE slides SET slide = $slide WHERE slide LIKE 'M%'", {"slide": decomposed})
    assert counts(study.add_slides(tmp_path / f"{decomposed}.tif")) == (0, 0, 1)
    slide(tmp_path / "x" / f"{composed}.tif")
    assert counts(study.add_slides(tmp_path / "x")) == (0, 0, 1)
