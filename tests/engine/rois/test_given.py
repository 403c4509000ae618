"""Which slide an ROI file is of, what is kept of how it was read, and what takes its place."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

import pytest
from click.testing import CliRunner

import slideduck as sd
from slideduck.cli.group import cli
from slideduck.errors import InputError

NFC, NFD = (unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD"))


def add_slides(study: sd.Study, *slides: str) -> None:
    """Add slides that exist as rows alone."""
    for slide in slides:
        study.con.execute(
            "INSERT INTO slides (slide, path, width, height, mpp, level_downsamples) VALUES ($1, $2, 640, 640, 1, [1])",
            [slide, f"{slide}.svs"],
        )


def write(path: Path, *rois: tuple[str, int, str]) -> Path:
    """Write squares of 100 pixels as QuPath's GeoJSON: name, left and top, and label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = []
    for name, at, label in rois:
        ring = [[at, at], [at + 100, at], [at + 100, at + 100], [at, at + 100], [at, at]]
        properties = {"objectType": "annotation", "name": name, "classification": {"name": label}}
        geometry = {"type": "Polygon", "coordinates": [ring]}
        found.append({"type": "Feature", "geometry": geometry, "properties": properties})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": found}))
    return path


def typed(study: sd.Study, *words: object) -> str:
    """Type a command, and return all that it says."""
    study.close()
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


ONE = ("T", 0, "tumour")


def test_a_folder_of_several_ways_to_name_files_is_added_in_one_call(study: sd.Study, tmp_path: Path) -> None:
    add_slides(study, "CASE 1.ome", "C", "D+x")
    rois = tmp_path / "rois"
    for stem in ("CASE 1.ome.tif - Image0", "C_annotations", "D+x"):
        write(rois / f"{stem}.geojson", ONE)
    with pytest.raises(InputError) as caught:
        study.add_rois(rois)
    suffixes = re.findall("`slide_suffix='(.*?)'`", str(caught.value))
    assert suffixes == [".tif - Image0", "_annotations"]
    words = [word for suffix in suffixes for word in ("--slide-suffix", suffix)]
    assert "3 ROIs (0 holes) on 3 slides from 3 files" in typed(study, "add-rois", study.path, rois, *words)
    assert "3 files unchanged" in typed(study, "add-rois", study.path, rois)


@pytest.mark.parametrize(
    ("stem", "slide", "said", "remedy"),
    [
        (
            "CASE 1.ome.tif - Image0",
            "CASE 1.ome",
            "did you mean 'CASE 1.ome'? Take off what its name has behind the slide's with "
            "`slide_suffix='.tif - Image0'`; or add it first with add-slides; or name the file after its slide",
            ["--slide-suffix", ".tif - Image0"],
        ),
        (
            "C_Annotations",
            "C",
            "did you mean 'C'? Take off what its name has behind the slide's with `slide_suffix='_Annotations'`; "
            "or add it first with add-slides; or name the file after its slide",
            ["--slide-suffix", "_Annotations"],
        ),
        (
            "CASE77-x",
            "CASE77",
            "did you mean 'CASE77'? Take off what its name has behind the slide's with `slide_suffix='-x'`; "
            "or add it first with add-slides; or name the file after its slide",
            ["--slide-suffix", "-x"],
        ),
        (
            "case-7",
            "CASE-007",
            "did you mean 'CASE-007'? Add it first with add-slides; or name the file after its slide",
            None,
        ),
        ("zz", "CASE-007", "add it first with add-slides, or name the file after its slide", None),
        (
            "HE_slide",
            "case1/HE_slide",
            "it has 'case1/HE_slide': give the folder that 'case1' is in, with `names='relative'`",
            ["--names", "relative"],
        ),
    ],
)
def test_unknown_slide_names_the_nearest_and_what_gets_on(
    study: sd.Study, tmp_path: Path, stem: str, slide: str, said: str, remedy: list[str] | None
) -> None:
    add_slides(study, slide, "other")
    path = write(tmp_path / "rois" / "case1" / f"{stem}.geojson", ONE)
    with pytest.raises(InputError) as caught:
        study.add_rois(path)
    assert str(caught.value) == f"{path.name}:feature 1: slide {stem!r} is not in the study; {said}"
    if remedy:
        where = study.path
        typed(study, "add-rois", where, tmp_path / "rois", *remedy)
        with sd.open(where) as again:
            assert again.sql("SELECT slide FROM rois").fetchall() == [(slide,)]
            # Typed again with nothing said: the name is what it was.
            assert again.add_rois(path).unchanged == 1
            write(path, ("U", 200, "tumour"))
            assert again.add_rois(path).slides == 1
            assert again.sql("SELECT slide, roi_name FROM rois").fetchall() == [(slide, "U")]


def test_the_option_of_a_remedy_is_quoted_for_the_shell(study: sd.Study, tmp_path: Path) -> None:
    add_slides(study, "A")
    path = write(tmp_path / "A - Image0.geojson", ONE)
    where = study.path
    study.close()
    result = CliRunner().invoke(cli, ["add-rois", str(where), str(path)])
    assert "with --slide-suffix ' - Image0'; or add it first" in result.output


@pytest.mark.parametrize(("slide", "stem"), [(NFD, NFC), (NFC, NFD), (NFC, NFC)])
def test_names_are_the_same_in_either_form_of_unicode(study: sd.Study, tmp_path: Path, slide: str, stem: str) -> None:
    add_slides(study, slide)
    study.add_rois(write(tmp_path / f"{stem}.geojson", ONE))
    (tmp_path / "table.csv").write_text(
        "slide,roi_name,x_base,y_base\n" + f"{stem},r,0,0\n{stem},r,9,0\n{stem},r,0,9\n"
    )
    study.add_rois(tmp_path / "table.csv")
    assert study.sql("SELECT DISTINCT slide FROM rois").fetchall() == [(slide,)]


def test_folders_are_part_of_names_where_that_is_said(study: sd.Study, tmp_path: Path) -> None:
    add_slides(study, "HE", "case1/HE", "case2/deep/HE")
    rois = tmp_path / "rois"
    for folder in (rois, rois / "case1", rois / "case2" / "deep"):
        write(folder / "HE_roi.geojson", ONE)
    with pytest.raises(InputError, match="ROI 'T' of slide 'HE' is in"):
        study.add_rois(rois, slide_suffix="_roi")
    for given in (rois, [rois / "*"], [rois / "case1", rois]):
        study.add_rois(given, names="relative", slide_suffix="_roi")
        assert study.sql("SELECT slide FROM rois ORDER BY slide").fetchall() == [
            ("HE",),
            ("case1/HE",),
            ("case2/deep/HE",),
        ]
    write(rois / "case1" / "HE_roi.geojson", ("U", 0, "x"))
    report = study.add_rois(rois / "case1" / "HE_roi.geojson")
    assert report.kept == (f"{rois}/case1/HE_roi.geojson: `names='relative'` `slide_suffix='_roi'`",)
    assert study.sql("SELECT slide FROM rois WHERE roi_name = 'U'").fetchall() == [("case1/HE",)]
    study.remove_rois(rois / "HE_roi.geojson")
    write(rois / "other" / "HE.geojson", ("V", 300, "x"))
    with pytest.raises(InputError) as caught:
        study.add_rois(rois, names="relative")
    assert caught.value.problems[-1] == (
        "HE.geojson:feature 1: slide 'other/HE' is not in the study; it has 'HE': give `names='stem'`"
    )
    study.add_rois(rois / "other", names="stem")
    study.remove_rois(rois / "other")
    study.add_rois(rois / "case1" / "HE_roi.geojson", names="stem")
    assert study.sql("SELECT slide FROM rois WHERE roi_name = 'U'").fetchall() == [("HE",)]


def test_a_choice_holds_until_another_is_said(study: sd.Study, tmp_path: Path) -> None:
    add_slides(study, "s")
    path = write(tmp_path / "s.geojson", ("out", 0, "x"), ("in", 0, "x"))

    def holes() -> tuple[str, str]:
        (found,) = study.sql("SELECT holes, options FROM roi_files").fetchall()
        return found

    study.add_rois(path, holes="nested", label_from="text", include=["cells", "tma"])
    said = '{"holes":"nested","include":["cells","tma"],"label_from":"text"}'
    assert holes() == ("nested", said)
    assert study.add_rois(path).unchanged == 1
    path.write_text(path.read_text() + "\n")
    assert study.add_rois(path).kept == (
        f"{path}: `holes='nested'` `include='cells'` `include='tma'` `label_from='text'`",
    )
    assert holes() == ("nested", said)
    # What is said holds, be it what is usual.
    report = study.add_rois(path, holes="auto", include=(), label_from="name")
    assert (report.files, report.kept, holes()) == (1, (), ("explicit", "{}"))
    # A study of schema 1 kept no options, but holes of another kind than usual were said.
    study.con.execute("UPDATE roi_files SET holes = 'nested'")
    assert study.add_rois(path).kept == (f"{path}: `holes='nested'`",)


def test_the_command_says_what_stays_in_force_and_what_was_looked_at(study: sd.Study, tmp_path: Path) -> None:
    add_slides(study, "s", "t")
    path, empty = write(tmp_path / "s.geojson", ONE), write(tmp_path / "t.geojson")
    where = study.path
    assert typed(study, "add-rois", where, path, empty, "--holes", "nested").splitlines()[-3:] == [
        "1 ROI (0 holes) on 1 slide from 2 files",
        "1 slide looked at, without an ROI:",
        "  t",
    ]
    write(path, ONE, ("U", 300, "x"))
    output = typed(study, "add-rois", where, path, empty)
    assert output.splitlines()[-3:] == [
        "2 ROIs (0 holes) on 1 slide from 1 file; 1 file unchanged",
        "1 file read as before, since nothing else is said:",
        f"  {path}: --holes nested",
    ]
    # The same ROI, and one that is new, from another folder.
    other = write(tmp_path / "corrected" / "s.geojson", ("T", 50, "tumour"), ("V", 400, "x"))
    result = CliRunner().invoke(cli, ["add-rois", str(where), str(other)])
    assert result.output.splitlines()[-1] == (
        f"error: s.geojson:feature 1: ROI 'T' of slide 's' is in {path} too, which the study has; names are unique in "
        "a slide: put this file in the other's place for that slide with --replace (ROIs: 0 the same, 1 changed, 1 "
        "new, 1 gone), or rename them"
    )
    assert typed(study, "add-rois", where, other, "--replace").splitlines()[-3:] == [
        "2 ROIs (0 holes) on 1 slide from 1 file",
        "1 slide with ROIs in the place of others:",
        f"  s: {other} in place of {path}: 0 the same, 1 changed, 1 new, 1 gone",
    ]
    with sd.open(where) as again:
        assert again.sql("SELECT path FROM roi_files ORDER BY path").fetchall() == [(str(other),), (str(empty),)]


def test_a_file_takes_the_place_of_another_on_its_slides_alone(study: sd.Study, tmp_path: Path) -> None:
    add_slides(study, "a", "b", "c")
    square = [(0, 0), (100, 0), (100, 100), (0, 100)]

    def table(name: str, *rois: tuple[str, str, int, str]) -> Path:
        rows = [f"{s},{roi},{x + at},{y + at},{label}" for s, roi, at, label in rois for x, y in square]
        (tmp_path / name).write_text("\n".join(["slide,roi_name,x_base,y_base,label", *rows, ""]))
        return tmp_path / name

    first = table("1.csv", ("a", "r", 0, "x"), ("a", "s", 200, "x"), ("b", "r", 0, "x"))
    second = table("2.csv", ("a", "t", 400, "x"), ("c", "r", 0, "x"))
    study.add_rois([first, second])
    new = table("3.csv", ("a", "r", 0, "x"), ("a", "s", 200, "y"), ("a", "t", 400, "x"), ("a", "u", 500, "x"))
    with pytest.raises(InputError) as caught:
        study.add_rois(new)
    assert [text.split(" too, ")[0] for text in caught.value.problems] == [
        f"3.csv:2: ROI 'r' and 1 other of slide 'a' are in {first}",
        f"3.csv:10: ROI 't' of slide 'a' is in {second}",
    ]
    assert study.add_rois(new, replace=True).replaced == (
        f"a: {new} in place of {first}: 1 the same, 1 changed, 2 new, 0 gone",
        f"a: {new} in place of {second}: 1 the same, 0 changed, 3 new, 0 gone",
    )
    assert study.sql(
        "SELECT slide, roi_name, label, parse_filename(path) FROM rois JOIN roi_files USING (roi_file_id) ORDER BY ALL"
    ).fetchall() == [
        ("a", "r", "x", "3.csv"),
        ("a", "s", "y", "3.csv"),
        ("a", "t", "x", "3.csv"),
        ("a", "u", "x", "3.csv"),
        ("b", "r", "x", "1.csv"),
        ("c", "r", "x", "2.csv"),
    ]
    spoken = "SELECT parse_filename(path), slide FROM roi_file_slides JOIN roi_files USING (roi_file_id) ORDER BY ALL"
    assert study.sql(spoken).fetchall() == [("1.csv", "b"), ("2.csv", "c"), ("3.csv", "a")]
    # The first file speaks of the slide again once it is added again; then it needs to be said as well.
    with pytest.raises(InputError, match="which the study has"):
        study.add_rois(first)
    assert study.add_rois(first, replace=True).replaced == (
        f"a: {first} in place of {new}: 1 the same, 1 changed, 0 new, 2 gone",
    )
    assert study.sql(spoken).fetchall() == [("1.csv", "a"), ("1.csv", "b"), ("2.csv", "c")]


def test_a_file_without_rois_says_that_its_slide_was_looked_at(study: sd.Study, tmp_path: Path) -> None:
    add_slides(study, "a", "b", "c")
    with pytest.raises(InputError) as caught:
        study.add_rois(write(tmp_path / "B2.geojson"))
    assert str(caught.value) == (
        "B2.geojson:1: slide 'B2' is not in the study; add it first with add-slides, or name the file after its slide"
    )
    (tmp_path / "B2.geojson").unlink()
    write(tmp_path / "a.geojson", ONE)
    write(tmp_path / "b.geojson")
    report = study.add_rois(tmp_path)
    assert (report.files, report.rois, report.slides, report.without) == (2, 1, 1, ("b",))
    assert study.add_rois(tmp_path).unchanged == 2
    assert study.sql("FROM looked_at ORDER BY slide").fetchall() == [
        ("default", "a", 1, 1, 0),
        ("default", "b", 1, 0, 0),
    ]
    info = {row["what"]: (row["count"], row["detail"]) for row in study.info().to_pylist()}
    assert info["ROIs"] == (
        1,
        "0 of them holes, 0 without a label, on 1 slides, from 2 files; looked at, without an ROI: b",
    )
    # It is every tile of the slide that is kept, without a label: nobody drew where to look.
    study.tile(64, tile_um=64)
    study.label()
    assert study.sql(
        "SELECT slide, count(*) FILTER (kept), count(label) FROM labels GROUP BY ALL ORDER BY ALL"
    ).fetchall() == [("a", 4, 4), ("b", 100, 0), ("c", 100, 0)]
    # Another slide goes, and what was looked at stays.
    study.remove_slides("a")
    assert study.sql("SELECT slide, rois FROM looked_at").fetchall() == [("b", 0)]
    assert study.remove_slides("b", dry_run=True).roi_files == 1
    removed = study.remove_rois(tmp_path / "b.geojson")
    assert (removed.rois, removed.slides) == (0, ())
    assert study.sql("FROM roi_files").fetchall() == study.sql("FROM looked_at").fetchall() == []


def test_a_file_is_added_again_after_one_of_its_slides_was_removed(study: sd.Study, tmp_path: Path) -> None:
    add_slides(study, "a", "b")
    rows = "".join(f"{slide},r,{x},{y}\n" for slide in "ab" for x, y in [(0, 0), (9, 0), (0, 9)])
    (tmp_path / "t.csv").write_text("slide,roi_name,x_base,y_base\n" + rows)
    study.add_rois(tmp_path)
    study.remove_slides("a")
    add_slides(study, "a")
    assert study.add_rois(tmp_path).unchanged == 0
    assert study.sql("SELECT slide FROM rois ORDER BY slide").fetchall() == [("a",), ("b",)]
