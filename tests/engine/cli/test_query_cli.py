"""The commands that ask a study about its labels: what they print, and that the examples of their help run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

import slideduck as sd
from slideduck.cli.group import cli
from tests.help_examples import examples
from tests.slides import write_slide

NAMES = ("counts", "conflicts", "rois", "coverage", "neighbours", "at", "area", "agreement", "disagreements")


def run(*words: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(cli, list(words))


def box(name: str, label: str, left: int, top: int, right: int, bottom: int) -> str:
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return "".join(f"{name},{x},{y},{label}\n" for x, y in corners)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two slides of 4 x 3 tiles, read by two readers, in the current folder of the test."""
    monkeypatch.chdir(tmp_path)
    for name in ("slides", "rois", "second"):
        (tmp_path / name).mkdir()
    header = "roi_name,x_base,y_base,label\n"
    for i in (1, 2):
        write_slide(tmp_path / "slides" / f"s{i}.tiff", i, size=(2048, 1536), mpp=0.5, levels=1, tile=256)
        (tmp_path / "rois" / f"s{i}.csv").write_text(
            header
            + box("a", "tumour", 0, 0, 1024, 1536)
            + box("b", "stroma", 512, 0, 2048, 512)
            + box("dot", "stroma", 1, 1, 2, 2)
        )
        (tmp_path / "second" / f"s{i}.csv").write_text(header + box("mine", "tumour", 0, 0, 1536, 1536))
    (tmp_path / "patients.csv").write_text("slide,patient,site\ns1,p1,A\ns2,p2,B\n")
    with sd.open("study.duckdb") as study:
        study.add_slides("slides")
        study.add_rois("rois")
        study.add_rois("second", roi_set="second_reader")
        study.add_patients("patients.csv")
        study.tile(256, tile_um=256)
        study.label()
    return tmp_path


def test_the_examples_of_the_help_run(project: Path) -> None:
    for name in NAMES:
        assert name is not None
        lines = examples(name)
        assert lines, name
        for line in lines:
            words = shlex.split(line)
            assert words[:2] == ["slideduck", name], line
            result = run(*words[1:])
            assert result.exit_code == 0, (line, result.output)
            assert result.stdout, line


def test_the_help_lists_them_in_a_group_after_sql(project: Path) -> None:
    group = run("--help").output.split("Ask a study:\n")[1].split("\n\n")[0]
    assert re.findall(r"^  ([a-z-]+) +\S", group, re.MULTILINE) == ["sql", *NAMES]


def test_the_help_lists_every_command_once(project: Path) -> None:
    listed = re.findall(r"^  ([a-z-]+) +\S", run("--help").output.split("Show this message and exit.")[1], re.MULTILINE)
    assert sorted(listed) == sorted(cli.list_commands(click.Context(cli)))
    assert "Others:" not in run("--help").output


def test_counts_in_every_form(project: Path) -> None:
    words = ("counts", "study.duckdb", "--by", "site", "--by", "label")
    # A tile is 512 base pixels of 0.5 microns; a wins its six tiles but the two that b, which is smaller, shares.
    rows = [
        {"site": site, "label": label, "tiles": tiles, "kept": kept, "area_mm2": tiles * 0.256**2}
        for site in ("A", "B")
        for label, tiles, kept in (("stroma", 3, 3), ("tumour", 5, 5), (None, 4, 0))
    ]
    assert json.loads(run(*words, "--json").stdout) == rows
    assert run(*words, "--csv").stdout.splitlines()[:3] == [
        "site,label,tiles,kept,area_mm2",
        f"A,stroma,3,3,{3 * 0.256**2}",
        f"A,tumour,5,5,{5 * 0.256**2}",
    ]
    assert run(*words, "--parquet", "out.parquet").stderr == "wrote 6 rows to out.parquet\n"
    assert pq.read_table("out.parquet").to_pylist() == rows
    assert run(*words).stdout.startswith("Tiles by site, label\n")
    few = run("counts", "study.duckdb", "--where", "slide = 's1' AND coverage = 1", "--csv").stdout
    assert few == f"label,tiles,kept,area_mm2\nstroma,3,3,{3 * 0.256**2}\ntumour,5,5,{5 * 0.256**2}\n"


def test_overlaps_and_rois(project: Path) -> None:
    overlaps = json.loads(run("conflicts", "study.duckdb", "--slide", "s1", "--json").stdout)
    assert overlaps == [
        {
            "tile_id": "s1-768-256", "slide": "s1", "grid_x": 1, "grid_y": 0, "grid": "256px_256um",
            "label": "stroma", "labels_differ": True, "roi_names": ["b", "a"], "labels": ["stroma", "tumour"],
            "coverages": [1.0, 1.0],
        }
    ]  # fmt: skip
    assert run("rois", "study.duckdb", "--slide", "s2", "--csv").stdout == (
        "grid,slide,roi_name,roi_desc,roi_set,label,area_mm2,held,won\n"
        "256px_256um,s2,a,a,default,tumour,0.393216,6,5\n"
        "256px_256um,s2,b,b,default,stroma,0.196608,3,3\n"
        "256px_256um,s2,dot,dot,default,stroma,2.5e-07,0,0\n"
    )
    empty = json.loads(run("rois", "study.duckdb", "--empty", "--json").stdout)
    assert [(row["slide"], row["roi_name"]) for row in empty] == [("s1", "dot"), ("s2", "dot")]


def test_coverage_neighbours_and_area(project: Path) -> None:
    assert run("coverage", "study.duckdb", "--bins", "2", "--csv").stdout == (
        "grid,label,coverage_from,coverage_to,tiles\n"
        "256px_256um,stroma,0.0,0.5,0\n"
        "256px_256um,stroma,0.5,1.0,0\n"
        "256px_256um,stroma,1.0,1.0,6\n"
        "256px_256um,tumour,0.0,0.5,0\n"
        "256px_256um,tumour,0.5,1.0,0\n"
        "256px_256um,tumour,1.0,1.0,10\n"
    )
    around = json.loads(run("neighbours", "study.duckdb", "s1-256-256", "--json").stdout)
    assert [(row["dx"], row["dy"], row["tile_id"], row["label"]) for row in around] == [
        (1, 0, "s1-768-256", "stroma"),
        (0, 1, "s1-256-768", "tumour"),
        (1, 1, "s1-768-768", "tumour"),
    ]
    areas = json.loads(run("area", "study.duckdb", "--by", "slide", "--json").stdout)
    assert [(r["label"], r["slide"], r["rois"], r["covered_mm2"]) for r in areas] == [
        (label, slide, rois, pytest.approx(mm2))
        for label, rois, mm2 in (("stroma", 2, 0.196608 + 2.5e-7), ("tumour", 1, 0.393216))
        for slide in ("s1", "s2")
    ]


def test_the_label_of_a_point_is_in_the_title(project: Path) -> None:
    for words, title in (
        (("600", "100"), "s1 at 600, 100 base pixels: label stroma"),
        (("300", "50", "--um"), "s1 at 300, 50 microns: label stroma"),
        (("10.5", "1000"), "s1 at 10.5, 1000 base pixels: label tumour"),
        (("1300", "1000"), "s1 at 1300, 1000 base pixels: no label"),
    ):
        assert run("at", "study.duckdb", "s1", *words).stdout.splitlines()[0] == title
    rows = json.loads(run("at", "study.duckdb", "s1", "600", "100", "--json").stdout)
    assert [(row["roi_set"], row["roi_name"], row["gives_label"]) for row in rows] == [
        ("default", "b", True),
        ("default", "a", False),
        ("second_reader", "mine", False),
    ]


def test_two_readers(project: Path) -> None:
    words = ("study.duckdb", "default", "second_reader")
    rows = json.loads(run("agreement", *words, "--json").stdout)
    # Of 12 tiles: both say tumour of 5, the first stroma of 3, of which one has no label by the second.
    assert [list(row.values())[1:7] for row in rows] == [
        ["stroma", 24, 0, 6, 0, 18],
        ["tumour", 24, 10, 0, 8, 6],
        [None, 24, 10, 6, 8, 4],
    ]
    observed, expected = 14 / 24, (10 * 18 + 6 * 0 + 8 * 6) / 24**2
    assert rows[-1]["kappa"] == pytest.approx((observed - expected) / (1 - expected))
    assert run("agreement", *words).stdout.startswith("a: default, b: second_reader (label –: all labels)\n")
    each = json.loads(run("agreement", *words, "--by-slide", "--json").stdout)
    assert [row["slide"] for row in each] == ["s1"] * 3 + ["s2"] * 3
    assert run("disagreements", *words, "--slide", "s2", "--csv").stdout == (
        "tile_id,label_a,label_b,roi_name_a,roi_name_b,slide,grid_x,grid_y,grid\n"
        "s2-768-256,stroma,tumour,b,mine,s2,1,0,256px_256um\n"
        "s2-1280-256,stroma,tumour,b,mine,s2,2,0,256px_256um\n"
        "s2-1792-256,stroma,,b,,s2,3,0,256px_256um\n"
        "s2-1280-768,,tumour,,mine,s2,2,1,256px_256um\n"
        "s2-1280-1280,,tumour,,mine,s2,2,2,256px_256um\n"
    )


def test_questions_that_cannot_be_answered(project: Path) -> None:
    for words, message in (
        (
            ("at", "study.duckdb", "s1", "-3", "9"),
            "error: the point x -3, y 9 is not on slide 's1', which is 2048 x 1536 base pixels large; "
            "give a point on it, or --um for microns\n",
        ),
        (
            ("neighbours", "study.duckdb", "s1-1-1"),
            "error: no tile 's1-1-1' in study.duckdb; ids are the slide's name and the tile's centre in base pixels, "
            "rounded down, such as 's1-256-256'\n",
        ),
        (
            ("agreement", "study.duckdb", "default", "third"),
            "error: no ROIs are in the set 'third'; the study has 'default', 'second_reader'\n",
        ),
        (("coverage", "study.duckdb", "--bins", "0"), "error: bins is 0; give 1 to 10,000\n"),
        (
            ("rois", "none.duckdb"),
            f"error: no study at {project}/none.duckdb; "
            f"make it with: slideduck add-slides {project}/none.duckdb FOLDER\n",
        ),
    ):
        result = run(*words)
        assert (result.exit_code, result.stdout, result.stderr) == (1, "", message)
    for words, choices in (
        (("counts", "study.duckdb", "--by", "lable"), "'label', 'slide', 'patient', 'site', 'split', 'fold', 'grid'"),
        (("area", "study.duckdb", "--by", "label"), "'slide', 'patient', 'site'"),
    ):
        result = run(*words)
        assert result.exit_code == 2
        assert choices in result.stderr
