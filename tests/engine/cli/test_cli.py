"""The command line: what it prints, how it ends, and that every example in its help runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

import slideduck as sd
from slideduck.cli.contents import MODULES, SECTIONS
from slideduck.cli.group import cli
from tests.help_examples import examples
from tests.slides import write_slide

ENGINE = (
    "add-slides", "relocate", "add-rois", "add-masks", "add-patients", "remove-rois", "remove-slides", "tile",
    "label", "add-labels", "remove-labels", "qc", "split", "stain", "export", "sql", "info", "counts", "conflicts",
    "rois", "coverage", "neighbours", "at", "area", "agreement", "disagreements", "rename-label",
)  # fmt: skip


def run(*words: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(cli, [str(word) for word in words])


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user has it: slides, ROIs, patients."""
    tmp_path = tmp_path_factory.mktemp("cohort")
    (tmp_path / "slides").mkdir()
    (tmp_path / "old").mkdir()
    (tmp_path / "rois").mkdir()
    (tmp_path / "second").mkdir()
    (tmp_path / "masks").mkdir()
    (tmp_path / "painted").mkdir()
    rows = ["slide,patient,site"]
    for i in range(4):
        write_slide(tmp_path / "slides" / f"s{i}.tiff", i, size=(1024, 768), mpp=0.5, levels=2, tile=64)
        (tmp_path / "rois" / f"s{i}.csv").write_text(
            "roi_name,x_base,y_base,label\n"
            + "".join(f"a,{x},{y},tumour\n" for x, y in [(0, 0), (600, 0), (600, 768), (0, 768)])
            + "".join(f"b,{x},{y},stroma\n" for x, y in [(600, 0), (1024, 0), (1024, 768), (600, 768)])
        )
        (tmp_path / "second" / f"s{i}.csv").write_text(
            "roi_name,x_base,y_base,label\n"
            + "".join(f"a,{x},{y},tumour\n" for x, y in [(0, 0), (500, 0), (500, 768), (0, 768)])
        )
        mask = np.zeros((48, 64), np.uint8)
        mask[:, :20], mask[:, 30:] = 1, 2
        cv2.imwrite(str(tmp_path / "masks" / f"s{i}.png"), mask)
        rows.append(f"s{i},p{i},site{i % 2}")
    red_and_green = np.array([[0, 0, 0], [0, 0, 255], [0, 255, 0]], np.uint8)
    cv2.imwrite(str(tmp_path / "painted" / "s0_mask.png"), red_and_green[mask])
    write_slide(tmp_path / "old" / "o1.svs", 9, size=(1024, 768), mpp=None, levels=1, tile=64)
    # As after a move: the folder lies elsewhere, and under its old name, too.
    shutil.copytree(tmp_path / "old", tmp_path / "archive")
    (tmp_path / "mpp.csv").write_text("slide,mpp\no1,0.5\n")
    (tmp_path / "patients.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "consensus.csv").write_text("tile_id,label\ns0-256-256,tumour\ns0-768-256,stroma\n")
    (tmp_path / "cohort.csv").write_text("Image file,patient\no1.svs,p4\n")
    (tmp_path / "project" / "tfrecords" / "256px_256um").mkdir(parents=True)
    source = {"slides": "../slides", "roi": "../rois", "tfrecords": "./tfrecords"}
    (tmp_path / "project" / "datasets.json").write_text(json.dumps({"north": source}))
    (tmp_path / "project" / "settings.json").write_text(json.dumps({"name": "p", "sources": ["north"]}))
    shutil.copy(tmp_path / "patients.csv", tmp_path / "project" / "annotations.csv")
    return tmp_path


@pytest.fixture
def project(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder, as the current folder of the test and its own."""
    shutil.copytree(cohort, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_of_the_help_run_in_their_order(project: Path) -> None:
    for command in ENGINE:
        for line in examples(command):
            words = shlex.split(line)
            assert words[0] == "slideduck", line
            # A shell expands globs; add-slides takes them unexpanded too.
            result = run(*words[1:])
            assert result.exit_code == 0, (line, result.output)
    with sd.open("study.duckdb", read_only=True) as study:
        assert study.sql("SELECT count(*) FROM slides WHERE error IS NULL").fetchall() == [(5,)]
    assert (project / "labels.parquet").exists()
    assert (project / "tiles.beton").exists()


def prepared(project: Path) -> None:
    for words in (
        ("add-slides", "s.duckdb", "slides"),
        ("add-rois", "s.duckdb", "rois"),
        ("tile", "s.duckdb", "--tile-px", "64", "--tile-um", "64"),
        ("label", "s.duckdb"),
    ):
        assert run(*words).exit_code == 0


def test_what_is_printed_on_the_way(project: Path) -> None:
    assert (
        run("add-slides", "s.duckdb", "slides").stdout
        == "4 slides added, 0 updated, 0 unchanged; 0 of them cannot be used\n"
    )
    assert (
        run("add-slides", "s.duckdb", "slides").stdout
        == "0 slides added, 0 updated, 4 unchanged; 0 of them cannot be used\n"
    )
    assert run("add-rois", "s.duckdb", "rois").stdout == "8 ROIs (0 holes) on 4 slides from 4 files\n"
    assert run("add-patients", "s.duckdb", "patients.csv").stdout == "4 patients in 4 rows\n"
    tile = ("tile", "s.duckdb", "--tile-px", "64", "--tile-um", "64")
    assert run(*tile).stdout == "grid 64px_64um: 192 tiles on 4 slides\n"
    assert run(*tile).stdout == "grid 64px_64um is there already: 192 tiles on 4 slides; nothing to do\n"
    labelled = run("label", "s.duckdb", "--json")
    assert json.loads(labelled.stdout) == [
        {"grid": "64px_64um", "label": name, "tiles": n, "kept": n, "in_no_roi": 0, "in_several_rois": 0,
         "slides": 4, "patients": 4}
        for name, n in (("stroma", 72), ("tumour", 120))
    ]  # fmt: skip
    assert "labelled 4 slides and grids\n" in labelled.stderr
    assert "nothing changed since the last labelling; the rule is in force\n" in run("label", "s.duckdb").stderr


def test_slides_that_do_not_open_end_with_one_and_the_others_are_kept(project: Path) -> None:
    (project / "slides" / "bad.svs").write_bytes(b"no slide at all")
    result = run("add-slides", "s.duckdb", "slides", "old")
    assert result.exit_code == 1
    assert result.stdout == "6 slides added, 0 updated, 0 unchanged; 2 of them cannot be used\n"
    assert "error: 2 slides cannot be used:\n" in result.stderr
    assert "slide 'o1.svs' has no MPP (openslide.mpp-x is missing); give --mpp" in result.stderr
    assert "'bad.svs'" in result.stderr
    with sd.open("s.duckdb", read_only=True) as study:
        assert study.sql("SELECT slide FROM slides WHERE error IS NOT NULL ORDER BY slide").fetchall() == [
            ("bad",),
            ("o1",),
        ]


def test_mistyped_study_is_not_made(project: Path) -> None:
    assert run("add-slides", "study.duckdb", "slides").exit_code == 0
    for words in (
        ("add-rois", "studi.duckdb", "rois"),
        ("add-patients", "studi.duckdb", "patients.csv"),
        ("tile", "studi.duckdb", "--tile-px", "64", "--tile-um", "64"),
        ("label", "studi.duckdb"),
        ("remove-slides", "studi.duckdb", "s1"),
        ("relocate", "studi.duckdb", "slides", "old"),
        ("sql", "studi.duckdb", "SELECT 1", "--write"),
        ("predict", "run", "studi.duckdb"),
        ("info", "studi.duckdb"),
    ):
        result = run(*words)
        assert (result.exit_code, result.stdout, result.stderr) == (
            1,
            "",
            f"error: no study at {project}/studi.duckdb; did you mean 'study.duckdb'? Otherwise make it with: "
            f"slideduck add-slides {project}/studi.duckdb FOLDER\n",
        ), words
        assert not (project / "studi.duckdb").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "nowhere: no such file or folder; check the path\n"),
        (
            ("patients.csv",),
            "no slide was given, and nothing was added: {project}/patients.csv: no slide, by its suffix",
        ),
        (("slides", "--mpp-table", "none.csv"), "{project}/none.csv: no such file; check the path\n"),
        (("slides", "--mpp", "-1"), "default_mpp is -1.0; give microns per pixel, such as 0.25\n"),
    ],
)
def test_add_slides_that_adds_nothing_leaves_no_study(project: Path, words: tuple[str, ...], message: str) -> None:
    result = run("add-slides", "new.duckdb", *words)
    assert result.exit_code == 1
    assert message.format(project=project) in result.stderr
    assert not list(project.glob("new.duckdb*"))
    # What can be used goes on, and a study that was there stays.
    assert run("add-slides", "new.duckdb", "slides").exit_code == 0
    assert run("add-slides", "new.duckdb", *words).exit_code == 1
    assert run("sql", "new.duckdb", "SELECT count(*) AS n FROM slides", "--csv").stdout == "n\n4\n"


def test_what_add_slides_says_when_it_is_typed_again(project: Path) -> None:
    run("add-slides", "s.duckdb", "slides", "old", "--mpp", "0.5")
    run("tile", "s.duckdb", "--tile-px", "64", "--tile-um", "64")
    shutil.copy("slides/s0.tiff", "archive/s0.tiff")
    (project / "old" / "o1.svs").unlink()
    write_slide(project / "slides" / "s1.tiff", 77, size=(512, 480))
    write_slide(project / "archive" / "x_mask.tif", 5, size=(512, 480))
    (project / "mpp.csv").write_text("slide,mpp\nS2,0.4\n")
    result = run("add-slides", "s.duckdb", "archive", "slides/s1.tiff", "slides/s2.tiff", "--mpp-table", "mpp.csv")
    assert result.stdout == "0 slides added, 2 updated, 2 unchanged; 0 of them cannot be used\n"
    assert result.stderr.split("left\n")[-1] == (
        "1 file left out:\n"
        f"  {project}/archive/x_mask.tif: named as what lies beside a slide (_mask); "
        "give it alone to add it as a slide\n"
        "1 slide moved, with all that is known of them:\n  o1\n"
        "1 slide given as a copy, which keeps its file:\n  s0\n"
        "1 slide with the MPP that was given before:\n  o1: 0.5\n"
        "1 slide of the table not among the files:\n  S2; did you mean 's2'?\n"
        "1 slide lost tiles, labels and measures, since the file or its MPP is another; "
        "slideduck label s.duckdb lays and labels them anew:\n  s1\n"
    )
    assert run("label", "s.duckdb").exit_code == 0
    result = run("add-slides", "s.duckdb", "slides/s2.tiff", "--mpp", "0.4")
    assert result.stderr.split("left\n")[-1] == (
        "1 slide with an MPP in the header, which --mpp leaves alone; --mpp NAME=MPP changes it:\n  s2: 0.5\n"
    )
    # As it says.
    assert run("add-slides", "s.duckdb", "slides/s2.tiff", "--mpp", "s2=0.4").exit_code == 0
    assert run("sql", "s.duckdb", "SELECT mpp FROM slides WHERE slide = 's2'", "--csv").stdout == "mpp\n0.4\n"
    # The remedy of two files of one name.
    shutil.copytree("slides", "both/1")
    shutil.copytree("slides", "both/2")
    refused = run("add-slides", "t.duckdb", "both")
    assert "names are unique: rename one, or give --names relative\n" in refused.stderr
    assert run("add-slides", "t.duckdb", "both", "--names", "relative").exit_code == 0


def test_relocate_prints_what_it_did(project: Path) -> None:
    prepared(project)
    os.rename("slides", "moved")
    shutil.copytree("rois", "moved/rois")
    result = run("relocate", "s.duckdb", "slides", "moved", "--dry-run")
    assert (result.exit_code, result.stdout) == (0, "would change the folder of 4 slides and 0 ROI files\n")
    os.rename("moved", "elsewhere")
    result = run("relocate", "s.duckdb", ".", "elsewhere")
    assert (result.exit_code, result.stdout) == (1, "")
    result = run("relocate", "s.duckdb", "slides", "elsewhere")
    assert (result.exit_code, result.stdout) == (0, "changed the folder of 4 slides and 0 ROI files\n")
    assert run("qc", "s.duckdb").exit_code == 0
    assert run("export", "s.duckdb", "t.beton").exit_code == 0


def test_grid_that_cannot_be_is_a_message(project: Path) -> None:
    run("add-slides", "s.duckdb", "slides")
    give = "give microns, such as 256, or a magnification, such as 20x"
    size = "the largest, 's0', is 512 x 384 microns (1024 x 768 pixels); give a smaller tile, or another origin"
    for words, message in (
        (("64", "--tile-um", "1e9"), f"no slide is as large as one tile of 64px_1e+09um: {size}"),
        (("64", "--tile-um", "1e10"), "slide 's0': a tile would have a side of 2e+10 base pixels, more than any slide; "
         "give a smaller --tile-um"),
        (("64", "--tile-um", "inf"), "tile_um is inf; give a positive number"),
        (("64", "--tile-um", "nan"), "tile_um is nan; give a positive number"),
        (("64", "--tile-um", "0"), "tile_um is 0; give a positive number"),
        (("64", "--tile-um", "-5"), "tile_um is -5; give a positive number"),
        (("64", "--tile-um", "64 um"), f"tile_um is '64 um'; {give}"),
        (("64", "--tile-um", "20x40"), f"tile_um is '20x40'; {give}"),
        (("64", "--tile-um", "390"), f"no slide is as large as one tile of 64px_390um: {size}"),
        (("3000000000", "--tile-um", "20x"), "tile_px is 3000000000; give a positive number of pixels, such as 256"),
        (("1500000000", "--tile-um", "10x"), "slide 's0': a tile would have a side of 3e+09 base pixels, more than any "
         "slide; give a smaller --tile-px"),
        (("64", "--tile-um", "64", "--stride-div", "1e300"), "slide 's0': a tile of 128 base pixels cannot be stepped"),
        (("64", "--tile-um", "64", "--origin", "3000000000", "0"), "origin_x is 3000000000; give a position on the"),
    ):  # fmt: skip
        result = run("tile", "s.duckdb", "--tile-px", *words)
        assert (result.exit_code, result.stdout) == (1, ""), words
        assert result.stderr.startswith(f"error: {message}"), result.stderr
    assert run("sql", "s.duckdb", "SELECT count(*) AS n FROM grids", "--csv").stdout == "n\n0\n"
    assert run("tile", "s.duckdb", "--tile-px", "64", "--tile-um", "384").exit_code == 0


def test_sql_prints_rows_in_every_form(project: Path) -> None:
    prepared(project)
    query = "SELECT label, count(*) AS tiles FROM labels GROUP BY label ORDER BY label"
    assert run("sql", "s.duckdb", query, "--csv").stdout == "label,tiles\nstroma,72\ntumour,120\n"
    assert json.loads(run("sql", "s.duckdb", query, "--json").stdout) == [
        {"label": "stroma", "tiles": 72},
        {"label": "tumour", "tiles": 120},
    ]
    assert re.search(r"tumour\s*│\s*120", run("sql", "s.duckdb", query).stdout)
    assert run("sql", "s.duckdb", query, "--parquet", "out.parquet").stderr == "wrote 2 rows to out.parquet\n"
    assert pq.read_table("out.parquet").to_pylist()[0] == {"label": "stroma", "tiles": 72}
    both = run("sql", "s.duckdb", query, "--json", "--csv")
    assert both.exit_code == 2
    assert "give only one of --json, --csv, --safe-csv and --parquet" in both.stderr
    piped = CliRunner().invoke(cli, ["sql", "s.duckdb", "-", "--csv"], input="SELECT 'a' AS b")
    assert piped.stdout == "b\na\n"


def test_sql_writes_only_when_told(project: Path) -> None:
    prepared(project)
    refused = run("sql", "s.duckdb", "DELETE FROM slides")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("error: the query is a statement of the kind DELETE, which changes the study; ")
    assert refused.stderr.endswith("or, if it is meant, give --write\n")
    assert run("sql", "s.duckdb", "CREATE TABLE mine AS SELECT 1 AS a", "--write").exit_code == 0
    assert run("sql", "s.duckdb", "FROM mine", "--csv").stdout == "a\n1\n"


def test_errors_of_ours_have_no_traceback(project: Path) -> None:
    prepared(project)
    result = run("sql", "s.duckdb", "SELEC 1")
    assert result.exit_code == 1
    assert result.stderr.startswith('error: Parser Error: syntax error at or near "SELEC"')
    result = run("export", "s.duckdb", "t.beton", "--where", "label =")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert "label =" in result.stderr
    assert not (project / "t.beton").exists()
    result = run("info", "none.duckdb")
    assert (result.exit_code, result.stderr) == (
        1,
        f"error: no study at {project}/none.duckdb; make it with: slideduck add-slides {project}/none.duckdb FOLDER\n",
    )


def test_a_table_with_nan_is_still_json(project: Path) -> None:
    prepared(project)
    assert json.loads(run("sql", "s.duckdb", "SELECT 'nan'::DOUBLE AS x", "--json").stdout) == [{"x": None}]


def test_help_lists_every_command() -> None:
    text = run("--help").output
    group = cli
    assert isinstance(group, click.Group)
    for name in (*ENGINE, "train", "evaluate", "predict", "heatmap", "demo"):
        assert re.search(rf"^  {name} +\S", text, re.MULTILINE), name
        assert run(name, "--help").exit_code == 0


def test_the_help_lists_what_each_command_says_of_itself() -> None:
    context = click.Context(cli)
    assert isinstance(cli, click.Group)
    listed = [name for members in SECTIONS.values() for name in members]
    assert listed == cli.list_commands(context)
    assert set(MODULES) < set(listed)
    for members in SECTIONS.values():
        for name, sentence in members.items():
            command = cli.get_command(context, name)
            assert command is not None
            assert command.name == name
            # All of its first sentence: whatever the width of the terminal, the same part of it is shown.
            for limit in (20, 45, 80, 1000):
                assert click.Command(name, help=sentence).get_short_help_str(limit) == command.get_short_help_str(limit)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("lable s.duckdb", "no command 'lable'; did you mean 'label'?"),
        ("trian", "no command 'trian'; did you mean 'train'?"),
        ("add_slides", "no command 'add_slides'; did you mean 'add-slides'?"),
        ("Predict", "no command 'Predict'; did you mean 'predict'?"),
        ("plot label s.duckdb", "no command 'label'; did you mean 'labels'?"),
        ("plot relability", "no command 'relability'; did you mean 'reliability'?"),
        ("plot xyz", "no command 'xyz'; there are confusion, curves, labels, pr, reliability, roc, stain and worst"),
        ("xyz", "no command 'xyz'; see them with: slideduck --help"),
    ],
)
def test_a_command_that_is_not_there_is_refused_with_one_that_is_alike(words: str, message: str) -> None:
    result = CliRunner().invoke(cli, words.split(), prog_name="slideduck")
    assert result.exit_code == 2
    assert result.output.splitlines()[-1] == f"Error: {message}"
    near = re.search("did you mean '(.*)'", message)
    if near:
        typed = [*words.split()[:1], near[1]] if words.startswith("plot") else [near[1]]
        assert run(*typed, "--help").exit_code == 0


SLOW = """
import sys
from slideduck.cli.group import cli
print("ready", flush=True)
cli()
"""

#: Where Ctrl-C comes between the last two lines of that.
TOO_EARLY = 'Traceback (most recent call last):\n  File "<string>", line 4, in <module>\nKeyboardInterrupt\n'


#: Commands in their order, with what follows the study.
STEPS = {
    "add-slides": ["slides"],
    "add-rois": ["rois"],
    "tile": ["--tile-px", "16", "--tile-um", "8"],
    "label": [],
    "split": [],
    "export": ["t.beton"],
}


@pytest.fixture(scope="module")
def cohorts(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder as it is before each of the steps."""
    before = {}
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("steps")
        patch.chdir(shutil.copytree(cohort, folder / "now"))
        for command, words in STEPS.items():
            before[command] = shutil.copytree("../now", folder / command)
            assert run(command, "s.duckdb", *words).exit_code == 0
    return before


@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("command", STEPS)
def test_ctrl_c_leaves_a_study_that_goes_on(
    cohorts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, seconds: float
) -> None:
    monkeypatch.chdir(shutil.copytree(cohorts[command], tmp_path, dirs_exist_ok=True))
    order = list(STEPS)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, command, "s.duckdb", *STEPS[command]],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    # -2: it had done its work, and Python was shutting down.
    assert process.returncode in (0, 130, -2), stderr
    assert "Traceback" not in stderr.removesuffix(TOO_EARLY)
    for later in order[order.index(command) :]:
        result = run(later, "s.duckdb", *STEPS[later])
        assert result.exit_code == 0, result.output
    with sd.open("s.duckdb", read_only=True) as study:
        assert study.sql("SELECT count(*), count(DISTINCT tile_id) FROM labels").fetchall() == [(4 * 64 * 48,) * 2]
        assert study.sql("SELECT count(*) FROM labels WHERE label IS NULL").fetchall() == [(0,)]


LIMITED = """
import resource, sys
from slideduck.cli.group import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
cli(sys.argv[2:])
"""


def test_a_full_disk_keeps_nothing_of_the_step_and_says_so(project: Path) -> None:
    assert run("add-slides", "s.duckdb", "slides").exit_code == 0
    size = (project / "s.duckdb").stat().st_size
    tile = ["tile", "s.duckdb", "--tile-px", "4", "--tile-um", "2", "--stride-div", "2"]
    # A limit on the size of files ends a write in the same place as a full disk does.
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, str(size + 100_000), *tile], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1, result.stderr
    assert result.stderr.startswith("error: the disk is full: ")
    assert result.stderr.endswith("nothing of this step was kept: free some space and run it again\n")
    with sd.open("s.duckdb", read_only=True) as study:
        assert study.sql("SELECT (SELECT count(*) FROM slides), (SELECT count(*) FROM grids)").fetchall() == [(4, 0)]
    assert run(*tile).exit_code == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_below_what_is_printed_is_told(empty_study: Path) -> None:
    # A process of its own, since its output is what is full.
    words = [sys.executable, "-m", "slideduck", "sql", str(empty_study), "SELECT 1 AS a", "--csv"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (
        1,
        "error: a file cannot be read or written: No space left on device\n",
    )
