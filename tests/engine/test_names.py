"""Names from files of others: which a study takes, which become names of files, and how they are shown."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

import slideduck as sd
from slideduck.cli.group import cli
from slideduck.cli.printing import Output, print_rows
from slideduck.errors import InputError, StudyError
from slideduck.interop.formats import unwritable
from slideduck.interop.rois import ROI_FORMATS
from slideduck.names import path_problem, text_problem
from slideduck.progress import track
from slideduck.words import json_printable, message, print_names, printable
from tests.campaign import cases
from tests.slides import write_slide

#: What a terminal obeys or what turns letters around, and rich's markup and emoji.
NASTY = "\x1b[2J\x07\x9b31m\u202egnp.\u2066 \u2028 [/red][bold] :x:"
SHOWN = r"\x1b[2J\x07\x9b31m\u202egnp.\u2066 \u2028 [/red][bold] :x:"
FORBIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def feature(name: str, label: str | None, x: float = 0, width: float = 200) -> dict[str, Any]:
    ring = [[x, 0], [x + width, 0], [x + width, 200], [x, 200], [x, 0]]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"name": name, "classification": None if label is None else {"name": label}},
    }


def geojson(*features: dict[str, Any]) -> str:
    return json.dumps({"type": "FeatureCollection", "features": features})


def told(done: Result) -> str:
    """Return what a command wrote to standard error, without its progress."""
    return "".join(line for line in done.stderr.splitlines(keepends=True) if not line.startswith("Reading "))


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose slide has two ROIs of nasty names and labels, tiled and labelled."""
    folder = tmp_path_factory.mktemp("nasty")
    write_slide(folder / "s0.tif")
    (folder / "s0.geojson").write_text(geojson(feature(NASTY, NASTY), feature("=cmd|'/C calc'!A1", "root:x:0", 300)))
    with sd.open(folder / "study.duckdb") as opened:
        opened.add_slides(folder / "s0.tif")
        opened.add_rois(folder / "s0.geojson")
        opened.tile(64, tile_um=32)
        opened.label()
    return folder / "study.duckdb"


# ------------------------------------------------------------------------------- names are no paths


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        pytest.param(
            "../../x", "leads out of the folder", marks=pytest.mark.attack("paths", "a slide called ../../x")
        ),
        ("a/../../x", "leads out of the folder"),
        ("..", "leads out of the folder"),
        pytest.param(
            "/etc/x", "leads out of the folder", marks=pytest.mark.attack("paths", "a slide with an absolute name")
        ),
        ("/dev/sda", "leads out of the folder"),
        ("C:/x", "leads out of the folder"),
        pytest.param(
            "..\\x", "leads out of the folder",
            marks=pytest.mark.attack("paths", "a slide called ..\\x, for a Windows share"),
        ),
        ("C:\\x", "leads out of the folder"),
        ("a\\..\\x", "leads out of the folder"),
        ("\\\\host\\x", "leads out of the folder"),
        ("a//b", "has an empty part"),
        ("", "has an empty part"),
        ("a/", "has an empty part"),
        ("./a", "has a part that begins with a dot, which is hidden"),
        ("case1/.a", "has a part that begins with a dot, which is hidden"),
        pytest.param(
            "a\0b", "holds a NUL character", marks=pytest.mark.attack("names", "a NUL character in the name of a file")
        ),
        ("a\x1b[2Jb", r"holds the control character '\x1b'"),
        ("a\nb", r"holds the control character '\n'"),
        pytest.param(
            "a\u202egnp", r"holds the control character '\u202e'",
            marks=pytest.mark.attack("names", "letters turned around in the name of a file"),
        ),
        ("a\udc80", r"holds '\udc80', which is half a character"),
        ("ä" * 128, "has a part of over 255 bytes"),
    ],
)  # fmt: skip
def test_names_that_are_not_those_of_files(name: str, problem: str) -> None:
    assert path_problem(name) == problem


@pytest.mark.parametrize(
    "name",
    [
        "HE",
        "case1/HE",
        "a..b",
        "HE.",
        "a b ",
        "ä" * 127,
        "a:b",
        "TCGA-AA-0001",
        "con",
        "~x",
        "$HOME",
        "x'; --",
        "a\\b",
        "x..",
    ],
)
def test_names_that_are_those_of_files(name: str) -> None:
    assert path_problem(name) is None


@pytest.mark.parametrize("slide", ["../../x", "/tmp/x", "..\\b", "a\0b", ".x", "\x1b]0;x\x07"])
def test_no_export_writes_a_file_of_such_a_name(study: Path, tmp_path: Path, slide: str) -> None:
    out = tmp_path / "below" / "out"
    out.parent.mkdir()
    copy = tmp_path / "study.duckdb"
    copy.write_bytes(study.read_bytes())
    with sd.open(copy) as opened:
        opened.con.execute("UPDATE slides SET slide = $slide", {"slide": slide})
        opened.con.execute("UPDATE rois SET slide = $slide", {"slide": slide})
        problem = (
            f"no file is written in {out} for names that are not those of files; name the other slides with "
            f"`slides`:\n  {{}}: the name {path_problem(slide)}"
        )
        for form in ("csv", "geojson", "xml"):
            with pytest.raises(StudyError) as error:
                opened.export_rois(out, format=form)
            assert str(error.value) == problem.format(repr(f"{slide}.{form}"))
        with pytest.raises(StudyError) as error:
            opened.export_tiles(out)
        assert str(error.value) == problem.format(repr(f"{slide}.geojson"))
        if text_problem(slide) is None:
            # All slides in one file, which is not called after them.
            assert opened.export_rois(out, format="geoparquet").rois == 2
    assert {path.name for path in tmp_path.rglob("*") if path.is_file() and path != copy} <= {"rois.parquet"}


# --------------------------------------------------------------------------------------- at the door


@pytest.mark.attack("names", "a slide file whose name is not UTF-8, or has control characters")
def test_slide_files_of_such_names_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    for number, name in enumerate(["good.tif", "a\x1b[2J.tif", "b\\..\\c.tif", os.fsdecode(b"d\xff.tif")]):
        write_slide(folder / name, number)
    done = run("add-slides", tmp_path / "s.duckdb", folder)
    assert done.stdout == "1 slide added, 0 updated, 0 unchanged; 0 of them cannot be used\n"
    assert told(done) == (
        "3 files left out:\n"
        rf"  {folder}/a\x1b[2J.tif: the name holds the control character '\x1b'; rename the file" "\n"
        rf"  {folder}/b\..\c.tif: the name leads out of the folder; rename the file" "\n"
        rf"  {folder}/d\udcff.tif: its path is not UTF-8; rename it" "\n"
    )  # fmt: skip
    assert done.exit_code == 0
    # Renamed, as the message says, they are added.
    for path in folder.iterdir():
        path.rename(folder / re.sub(r"[^a-z.]", "", path.name))
    done = run("add-slides", tmp_path / "s.duckdb", folder)
    assert done.stdout == "3 slides added, 0 updated, 1 unchanged; 0 of them cannot be used\n"


@pytest.mark.attack("names", "an ROI file whose name is not UTF-8")
def test_roi_file_of_such_a_name_is_refused(study: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    (folder / "s0.geojson").write_text(geojson(feature("a", "b")))
    done = run("add-rois", study, tmp_path)
    assert told(done) == rf"error: {tmp_path}/\udcff/s0.geojson: its path is not UTF-8; rename it" "\n"
    assert (done.stdout, done.exit_code) == ("", 1)


@pytest.mark.parametrize(
    ("name", "label", "problem"),
    [
        pytest.param(
            "a\ud800", "b", r"its name 'a\ud800' holds '\ud800', which is half a character; give it another",
            marks=pytest.mark.attack("XML and JSON", r"\ud800 in the name of an ROI"),
        ),
        ("a", "\udfffb", r"its label '\udfffb' holds '\udfff', which is half a character; give it another"),
        pytest.param(
            "a", "b\0", r"its label 'b\x00' holds a NUL character; give it another",
            marks=pytest.mark.attack("XML and JSON", "a NUL character in a label"),
        ),
    ],
)  # fmt: skip
def test_names_and_labels_that_no_study_holds_are_refused(
    study: Path, tmp_path: Path, name: str, label: str, problem: str
) -> None:
    (tmp_path / "s0.geojson").write_text(geojson(feature("good", "b"), feature(name, label, 300)))
    done = run("add-rois", study, tmp_path / "s0.geojson", "--set", "other")
    assert told(done) == f"error: s0.geojson:feature 2: {problem}\n"
    assert (done.stdout, done.exit_code) == ("", 1)


@pytest.mark.attack("names", "a NUL character in a patient, or in the name of a column")
def test_patients_that_no_study_holds_are_refused(study: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"slide": ["s0", "s1"], "patient": ["p", "q\0"], "x\0": [1, 2]}), path)
    with sd.open(study) as opened, pytest.raises(InputError) as error:
        opened.add_patients(path)
    assert error.value.problems == (
        r"p.parquet: the name of the column 'x\x00' holds a NUL character; rename it",
        r"p.parquet:2: patient 'q\x00' holds a NUL character; write it without",
    )


# ------------------------------------------------------------------------------------- at a terminal


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tumour, μ · 腫瘍 é", "tumour, μ · 腫瘍 é"),
        (NASTY, SHOWN),
        ("a\tb\nc\r", r"a\tb\nc\r"),
        ("\x7f\x85\u2029\u2067\udc80", r"\x7f\x85\u2029\u2067\udc80"),
        (r"\x1b", r"\x1b"),
    ],
)
def test_what_a_terminal_obeys_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert json.loads(json_printable(json.dumps(text, ensure_ascii=False))) == text
    assert not FORBIDDEN.search(json_printable(json.dumps(text, ensure_ascii=False)))


def test_lines_and_tabs_of_our_own_texts_stay(capsys: pytest.CaptureFixture[str]) -> None:
    message(f"two\n\tlines: {NASTY}")
    print_names("names:", ["a\nerror: forged"])
    assert capsys.readouterr().err == f"two\n\tlines: {SHOWN}\nnames:\n  a\\nerror: forged\n"


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(
            ("counts", "--by", "label"), marks=pytest.mark.attack("HTML and terminals", "ESC and BEL in a label")
        ),
        pytest.param(
            ("rois",), marks=pytest.mark.attack("HTML and terminals", "rich's [/red] in a label, a traceback before")
        ),
        ("info",),
        ("conflicts",),
        ("area",),
        ("at", "s0", "50", "50"),
        ("sql", "SELECT roi_name, label FROM rois"),
        ("sql", "SELECT label, roi_name FROM rois", "--json"),
    ],
    ids=lambda words: " ".join(words[:1]),
)
def test_no_command_lets_a_name_reach_the_terminal_as_a_command(
    study: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # No cell is folded.
    monkeypatch.setenv("COLUMNS", "300")
    done = run(words[0], study, *words[1:])
    assert done.exception is None, done.exception
    assert not FORBIDDEN.search(done.stdout + done.stderr)
    if words[0] in ("counts", "sql") and words[-1] != "--json":
        text = re.sub(r"\s|[│┃]", "", done.stdout)
        assert re.sub(r"\s", "", SHOWN) in text
        assert "root:x:0" in text
    if words[-1] == "--json":
        assert json.loads(done.stdout)[0] == {"label": NASTY, "roi_name": NASTY}


@pytest.mark.attack("HTML and terminals", "ESC in a slide that is named in an error")
def test_messages_and_errors_of_use_are_written_out(study: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("roi_name,x_base,y_base,slide\na,1,1,\x1b[2J\na,9,1,\x1b[2J\na,9,9,\x1b[2J\n")
    for done in (run("add-rois", study, tmp_path / "x.csv"), run("\x1b[2J"), run("info", study, "--\x1b[2J")):
        assert done.exit_code
        assert r"\x1b[2J" in done.stderr
        assert not FORBIDDEN.search(done.stderr)


def test_csv_is_exact_for_files_and_written_out_at_a_terminal(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pa.table({"label": [NASTY, None, "a"], "n": [1, -2, None]})
    print_rows(table, Output("csv"))
    assert capsys.readouterr().out == f"label,n\n{NASTY},1\n,-2\na,\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_rows(table, Output("csv"))
    assert capsys.readouterr().out == f"label,n\n{SHOWN},1\n,-2\na,\n"


@pytest.mark.attack("bytes", "a word of a command that is not UTF-8")
def test_words_of_a_command_that_are_not_utf_8_are_refused(study: Path) -> None:
    broken = os.fsdecode(b"\xff")
    for words in (
        ("add-rois", study, study.parent / "s0.geojson", "--set", broken),
        ("sql", study, f"SELECT '{broken}'"),
        ("counts", study, "--where", f"label = '{broken}'"),
    ):
        done = run(*words)
        assert done.exit_code == 1
        assert re.fullmatch(r"error: .*\\udcff.* is not UTF-8; write it in UTF-8\n", told(done)), done.stderr
        assert not done.stdout


@pytest.mark.attack("HTML and terminals", "=cmd in a label, for a spreadsheet")
def test_safe_csv_keeps_formulas_as_text(study: Path) -> None:
    query = (
        "SELECT * FROM (VALUES ('=cmd|x', -1.5), ('+1', 2), ('-x', 3), ('@sum', 4), (chr(9) || '=a', 5), "
        "(chr(13) || '=a', 6), ('-1.5', 7), ('a=b', NULL)) AS t(\"=HYPERLINK()\", n)"
    )
    done = run("sql", study, query, "--safe-csv")
    assert list(csv.reader(io.StringIO(done.stdout, newline=""))) == [
        ["'=HYPERLINK()", "n"], ["'=cmd|x", "-1.5"], ["+1", "2.0"], ["'-x", "3.0"], ["'@sum", "4.0"],
        ["'\t=a", "5.0"], ["'\r=a", "6.0"], ["-1.5", "7.0"], ["a=b", ""],
    ]  # fmt: skip
    assert next(csv.reader(io.StringIO(run("sql", study, query, "--csv").stdout))) == ["=HYPERLINK()", "n"]


def test_progress_on_a_terminal_takes_no_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with track("Reading [/red] root:x:0 \x07", 2, "[/b]") as advance:
        advance(2)
    shown = capsys.readouterr().err
    assert r"[/red] root:x:0 \x07" in shown
    assert "\x07" not in shown


# -------------------------------------------------------------------------------------------- fuzzing

_PIECES = st.sampled_from(
    ["\x1b[31m", "\x07", "\u202e", "\u2028", "[/red]", "[bold]", ":x:", "../", "/etc/", "\\", "<script>", "'\"", "=1+1",
     "$\\frac{", "{{", "%s", "\n", "\r\n", "\t", ",", ";", "é", "e\u0301", "腫瘍", "🦆", "`x=1`", " ", "\x85", "\ufeff"]
)  # fmt: skip
_NAMES = st.lists(_PIECES | st.text(max_size=4), min_size=1, max_size=4).map("".join)


@pytest.fixture(scope="module")
def blanks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[sd.Study, sd.Study]]:
    """Two studies with a slide and tiles, without ROIs: one to read a file, one to read what it writes."""
    folder = tmp_path_factory.mktemp("blank")
    write_slide(folder / "s0.tif")
    with sd.open(folder / "one.duckdb") as one, sd.open(folder / "two.duckdb") as two:
        for study in (one, two):
            study.add_slides(folder / "s0.tif")
            study.tile(64, tile_um=32)
        yield one, two


#: Names and labels, as every form has to give them back.
_ROIS = "SELECT roi_name, label FROM rois ORDER BY ALL"


# A dozen names in each case: it takes a second to read, label, write and prove a file, however many names it has.
@settings(max_examples=cases(test=4, campaign=200))
@given(
    texts=st.lists(st.tuples(_NAMES, _NAMES), min_size=12, max_size=12, unique_by=lambda pair: pair[0]),
    form=st.sampled_from(ROI_FORMATS),
)
def test_any_name_goes_in_and_out_again(
    blanks: tuple[sd.Study, sd.Study],
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[tuple[str, str]],
    form: str,
) -> None:
    study, other = blanks
    folder = tmp_path_factory.mktemp("fuzz")
    source = folder / "s0.geojson"
    refused = [pair for pair in texts if any(map(text_problem, pair))]
    if refused:
        source.write_text(geojson(*(feature(*pair, 50 * at, 40) for at, pair in enumerate(refused))))
        with pytest.raises(InputError) as error:
            study.add_rois(source)
        assert all(problem.startswith("s0.geojson:feature ") for problem in error.value.problems)
    # XML cannot have all; there `unwritable` says so.
    kept = [pair for pair in texts if pair not in refused and not any(unwritable(text, form) for text in pair)]
    source.write_text(geojson(*(feature(*pair, 50 * at, 40) for at, pair in enumerate(kept))))
    try:
        study.add_rois(source)
        held = study.sql(_ROIS).fetchall()
        study.label()
        for table in (study.info(), study.counts(["label"]), study.rois(), study.at("s0", 10, 10)):
            assert not FORBIDDEN.search(_shown(table))
        if kept:
            other.add_rois(study.export_rois(folder / "out", format=form).paths)
            assert other.sql(_ROIS).fetchall() == held
        assert {path.parent for path in folder.rglob("*") if path.is_file()} <= {folder, folder / "out"}
    finally:
        for one in blanks:
            one.con.execute("DELETE FROM rois; DELETE FROM roi_files")


def _shown(table: pa.Table) -> str:
    """Return what a command would print of a table, all of its forms."""
    with pytest.MonkeyPatch.context() as patch:
        out = io.StringIO()
        out.isatty = lambda: True  # type: ignore[method-assign]
        patch.setattr(sys, "stdout", out)
        patch.setenv("TERM", "dumb")
        for kind in ("table", "json", "csv", "safe-csv"):
            print_rows(table, Output(kind), title="[/x]")
        return out.getvalue()
