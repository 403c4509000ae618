"""The engine where nothing else is installed: it goes as far as a beton, and then says what to install."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from slideduck.runner.settings.extra import TRAIN_MODULES
from tests.installs import ROOT, link_required
from tests.slides import write_slide

REMEDY = "needs torch, which is not installed; install it with: pip install 'slideduck[train]'"

#: Runs each command in one process, as the shell would one after the other, and prints status, output and errors.
COMMANDS = """
import json, sys
from click.testing import CliRunner
from slideduck.cli.group import cli
done = []
for words in json.loads(sys.argv[1]):
    result = CliRunner().invoke(cli, words, prog_name="slideduck")
    done.append((result.exit_code, result.stdout, result.stderr, repr(result.exception)))
print(json.dumps(done))
"""


@pytest.fixture(scope="module")
def alone(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the folders of slideduck, and of what `pip install slideduck` brings beside it."""
    folder = tmp_path_factory.mktemp("required")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = link_required(project["dependencies"], folder)
    assert names.isdisjoint(TRAIN_MODULES)
    return installed, folder


def python(alone: tuple[Path, Path], code: str, *words: str, cwd: Path) -> str:
    """Run Python code where only these folders and the standard library can be imported."""
    # Added as a folder of packages, of which some are namespaces; -S leaves out all others.
    start = f"import sys; sys.path[:0] = {[str(folder) for folder in alone]!r}\n"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", start + code, *words], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def commands(alone: tuple[Path, Path], lines: list[str], cwd: Path) -> list[tuple[int, str, str, str]]:
    """Run command lines, and return status, output, errors and exception of each."""
    words = [shlex.split(line, comments=True)[1:] for line in lines]
    found = json.loads(python(alone, COMMANDS, json.dumps(words), cwd=cwd))
    assert len(found) == len(lines)
    return [tuple(each) for each in found]


@pytest.mark.slow
def test_the_path_of_the_readme_works_up_to_the_export(alone: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("slides", "rois"):
        (tmp_path / name).mkdir()
    rows = ["slide,patient,site"]
    for i, name in enumerate(("A12", "A13", "B1", "B2")):
        write_slide(tmp_path / "slides" / f"{name}.tiff", i, size=(1050, 800), mpp=0.5, levels=2, tile=256)
        (tmp_path / "rois" / f"{name}.csv").write_text(
            "roi_name,x_base,y_base,label\n"
            + "".join(f"a,{x},{y},tumour\n" for x, y in [(0, 0), (512, 0), (512, 800), (0, 800)])
            + "".join(f"b,{x},{y},stroma\n" for x, y in [(512, 0), (1050, 0), (1050, 800), (512, 800)])
        )
        rows.append(f"{name},patient {i},{name[0]}")
    (tmp_path / "patients.csv").write_text("\n".join(rows) + "\n")

    block = re.search(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert block is not None
    lines = block[1].replace("256", "128").splitlines()
    last = next(i for i, line in enumerate(lines) if line.startswith("slideduck export "))
    after = [
        "slideduck verify tiles.beton --sample all",
        "slideduck qc study.duckdb",
        "slideduck stain study.duckdb",
        "slideduck export study.duckdb stained.beton --stain macenko",
        "slideduck plot labels study.duckdb A12 labels.png",
        "slideduck plot labels study.duckdb A12 labels.html",
        "slideduck plot stain study.duckdb A12 stain.png",
        "slideduck export-rois study.duckdb rois.out --format geoparquet",
        "slideduck export-tiles study.duckdb tiles.out --merge",
        "slideduck sql study.duckdb 'FROM labels' --parquet labels.parquet",
        "slideduck info study.duckdb",
    ]
    walked = [*lines[: last + 1], *after]
    for line, (status, _, _, exception) in zip(walked, commands(alone, walked, tmp_path), strict=True):
        assert status == 0, (line, exception)
    for name in ("tiles.beton", "tiles.json", "stained.beton", "labels.png", "labels.html", "stain.png"):
        assert (tmp_path / name).stat().st_size > 0, name

    (status, _, stderr, _), *_ = commands(alone, [lines[last + 1]], tmp_path)
    assert (status, stderr) == (1, f"error: slideduck train {REMEDY}\n")
    assert not (tmp_path / "runs").exists()


def test_a_command_of_the_runner_says_what_to_install(alone: tuple[Path, Path], tmp_path: Path) -> None:
    used = {
        "train": "t.beton --run r",
        "evaluate": "r t.beton",
        "predict": "r s.duckdb",
        "heatmap": "r s.duckdb A12 A12.png",
        "features": "r s.duckdb",
        "gradcam": "r s.duckdb A12-64-64 g.png",
        "export-model": "r m.onnx",
        "demo": "demo",
        "plot curves": "r c.png",
        "plot roc": "r c.png",
        "plot pr": "r c.png",
        "plot confusion": "r c.png",
        "plot reliability": "r c.png",
        "plot worst": "r t.beton c.png",
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    registered = {**project["entry-points"]["slideduck.commands"]}
    registered |= {f"plot {name}": value for name, value in project["entry-points"]["slideduck.plots"].items()}
    assert set(used) == set(registered)

    # A study that is not there is refused at once.
    (tmp_path / "s.duckdb").touch()
    found = commands(alone, [f"slideduck {name} {words}" for name, words in used.items()], tmp_path)
    for name, (status, stdout, stderr, _) in zip(used, found, strict=True):
        assert (status, stdout, stderr) == (1, "", f"error: slideduck {name} {REMEDY}\n"), name
    assert list(tmp_path.iterdir()) == [tmp_path / "s.duckdb"]


def test_what_the_message_says_to_install_holds_what_is_missing() -> None:
    named = re.search(r"slideduck\[(\w+)\]", REMEDY)
    assert named is not None
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert any(re.match(r"torch\b", line) for line in extras[named[1]])


def test_the_help_is_that_of_the_whole(alone: tuple[Path, Path], tmp_path: Path) -> None:
    lines = ["slideduck --help", "slideduck train --help", "slideduck plot --help", "slideduck plot roc --help"]
    # The whole in a process of its own, too: a command that was called by itself before has no -h.
    words = json.dumps([line.split()[1:] for line in lines])
    whole = subprocess.run([sys.executable, "-c", COMMANDS, words], capture_output=True, text=True, check=True)
    for line, here, there in zip(lines, commands(alone, lines, tmp_path), json.loads(whole.stdout), strict=True):
        assert here == tuple(there), line
        assert here[0] == 0, line


def test_a_function_of_the_runner_says_what_to_install(alone: tuple[Path, Path], tmp_path: Path) -> None:
    code = (
        "import slideduck as sd, slideduck.runner as runner\n"
        "print(runner.TrainConfig(epochs=3).epochs)\n"
        "for name in runner.__all__:\n"
        "    if name != 'TrainConfig':\n"
        "        try: getattr(runner, name)\n"
        "        except sd.MissingPackageError as error: print(error)\n"
        "try: from slideduck.runner import train\n"
        "except ImportError as error: print(error.name)\n"
        "for name in ('TileDataset', 'loader'):\n"
        "    try: getattr(sd, name)\n"
        "    except sd.MissingPackageError as error: print(error)\n"
        "print('loader' in dir(sd), hasattr(sd, 'no_such_name'))"
    )
    names = ["cross_validate", "evaluate", "export_model", "features", "gradcam", "heatmap", "load_run"]
    of_slideduck = [f"slideduck.{name} {REMEDY}" for name in ("TileDataset", "loader")]
    assert python(alone, code, cwd=tmp_path).splitlines() == [
        "3",
        f"slideduck.runner.Run {REMEDY}",
        of_slideduck[0],
        *(f"slideduck.runner.{name} {REMEDY}" for name in names),
        of_slideduck[1],
        *(f"slideduck.runner.{name} {REMEDY}" for name in ("open_run", "predict", "train")),
        "torch",
        *of_slideduck,
        "True False",
    ]


#: Calls each method of a study that the runner is behind, and prints why it does not do it.
VERBS = """
import sys, slideduck as sd
words = {"gradcam": ["r", "A-1-1"], "heatmap": ["r", "A"]}
with sd.open(sys.argv[1]) as study:
    for name in sys.argv[2:]:
        try: getattr(study, name)(*words.get(name, ["r"]))
        except sd.MissingPackageError as error: print(error)
print("torch" in sys.modules)
"""


def test_a_method_of_a_study_says_what_to_install(alone: tuple[Path, Path], tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = sorted(project["entry-points"]["slideduck.verbs"])
    told = python(alone, VERBS, "s.duckdb", *names, cwd=tmp_path)
    assert told.splitlines() == [*(f"study.{name} {REMEDY}" for name in names), "False"]
    assert not (tmp_path / "r").exists()

    # A tree that was never installed registers nothing.
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "slideduck").symlink_to(alone[0] / "slideduck")
    told = python((tmp_path / "tree", alone[1]), VERBS, "s.duckdb", "train", cwd=tmp_path)
    assert told.splitlines() == [
        "study.train needs the runner, which is not installed; install it with: pip install 'slideduck[train]'",
        "False",
    ]
