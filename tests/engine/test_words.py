"""Messages name arguments for programs, and options for people."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from slideduck.cli.group import cli
from slideduck.cli.options import option_said, parameters_of
from slideduck.words import agreeing, arguments_said_as, counted, message, part, print_counted

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name one with `grid`", "name one with --grid"),
        ("use `jpeg='auto'`, or leave it out", "use --jpeg auto, or leave it out"),
        ("replace them with `overwrite=True`; `grid`", "replace them with --overwrite; --grid"),
        ("`lr=0.01`", "--lr 0.01"),
        ("leave `nothing` and `x = 1` and `grid as they are", "leave `nothing` and `x = 1` and `grid as they are"),
        ("the condition \"grid='a'\"", "the condition \"grid='a'\""),
    ],
)
def test_a_message_says_options_while_a_command_runs(text: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"grid": "--grid", "jpeg": "--jpeg auto", "overwrite": "--overwrite", "lr": "--lr 0.01"}
    values = {"grid": None, "jpeg": "auto", "overwrite": "True", "lr": "0.01"}

    def said(name: str, value: str | None) -> str | None:
        assert name not in values or value == values[name]
        return options.get(name)

    with arguments_said_as(said):
        message(text)
    message(text)
    assert capsys.readouterr().err == f"{told}\n{text}\n"


@pytest.mark.parametrize(
    ("command", "argument", "value", "said"),
    [
        ("export", "jpeg", "auto", "--jpeg auto"),
        ("export", "grid", None, "--grid"),
        ("export-rois", "overwrite", "True", "--overwrite"),
        ("train", "run", None, "--run"),
        ("train", "batch_size_per_rank", "8", "--batch-size 8"),
        ("predict", "run", None, "RUN"),
        ("plot", "method", "reinhard", "--method reinhard"),
        ("export", "nothing", None, None),
        (None, "grid", None, None),
    ],
)
def test_the_option_is_that_of_the_command(
    command: str | None, argument: str, value: str | None, said: str | None
) -> None:
    assert option_said(cli, command, argument, value) == said


#: Arguments of `slideduck.loader`, and networks given as objects: no command has them.
_OF_PYTHON_ALONE = {"columns", "device", "drop_last", "dtype", "network", "rank", "shuffle", "world_size"}


def test_each_argument_that_a_message_names_is_one_of_a_command() -> None:
    known = {parameter.name for parameter in parameters_of(cli)} | _OF_PYTHON_ALONE
    unknown = []
    for path in sorted([*(ROOT / "engine").rglob("*.py"), *(ROOT / "runner").rglob("*.py")]):
        if path.parent.name == "cli":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        raised = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc is not None]
        texts = [node.value for exc in raised for node in ast.walk(exc) if isinstance(node, ast.Constant)]
        named = [found for text in texts if isinstance(text, str) for found in re.findall(r"`(\w+)[=`]", text)]
        unknown += [f"{path.relative_to(ROOT)}: {name}" for name in named if name not in known]
    assert unknown == []


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, ("0 tiles", "0 tiles are kept", "0 of 7 patients have")),
        (1, ("1 tile", "1 tile is kept", "1 of 7 patients has")),
        (2, ("2 tiles", "2 tiles are kept", "2 of 7 patients have")),
        (1204, ("1,204 tiles", "1,204 tiles are kept", "1,204 of 7 patients have")),
    ],
)
def test_nouns_and_verbs_agree_with_numbers(number: int, said: tuple[str, str, str]) -> None:
    verb = agreeing(number, "has", "have")
    plain, with_verb = counted(number, "tile"), counted(number, "tile is", "tiles are")
    assert (plain, f"{with_verb} kept", f"{part(number, 7, 'patient')} {verb}") == said


def test_a_title_agrees_with_the_names_under_it(capsys: pytest.CaptureFixture[str]) -> None:
    for names in ([], ["a"], ["a", "b"]):
        print_counted("ROI leaves its slide", "ROIs leave their slide", names)
    assert capsys.readouterr().err == "1 ROI leaves its slide:\n  a\n2 ROIs leave their slide:\n  a\n  b\n"


_NOUNS = (
    "slides tiles files rows patients labels ROIs grids names classes runs epochs cells masks shards betons objects"
)
#: A number of things in a text that says the same of one as of several.
_UNCOUNTED = re.compile(
    r"\{(?:len\([^{}]*\)|n|count|total|most|number|[\w.]*\.(?:tiles|samples|slides|rows))\} (?:[a-z]+ )?"
    rf"(?:{_NOUNS.replace(' ', '|')})\b"
)

#: Texts whose number is never 1, or that read well with it.
_NEVER_ONE = {
    "engine/betons/merge.py": ["{len(sources)} shards"],
    "engine/catalog/grids.py": ["{len(names)} grids"],
    "engine/draw/stain.py": ["{len(slides)} slides"],
    "engine/files/find.py": ["{len(members)} files"],
    "engine/labels/query.py": ["{len(found)} grids"],
    "engine/rois/outside.py": ["{n} ROIs"],
    "engine/slides/stored.py": ["{len(offsets)} tiles"],
    "runner/maps/gradcam.py": ["{len(names)} tiles"],
    "runner/prediction/mcdropout.py": ["{len(self._keys_B)} tiles"],
    "runner/tasks/classification.py": ["{len(names)} classes", "{len(names)} classes", "{len(targets)} training tiles"],
    "runner/training/steplog.py": ["{total} tiles"],
}


def test_no_message_counts_by_itself() -> None:
    found: dict[str, list[str]] = {}
    for path in sorted([*(ROOT / "engine").rglob("*.py"), *(ROOT / "runner").rglob("*.py")]):
        name = str(path.relative_to(ROOT))
        hits = [hit for text in _texts_of(path) for hit in _UNCOUNTED.findall(text)]
        # The numbers of the demonstration are its own.
        if hits and not name.startswith("runner/demo/"):
            found[name] = hits
    assert found == _NEVER_ONE


def _texts_of(path: Path) -> Iterator[str]:
    """Yield the texts of a module that have values in them, each value as its expression in braces."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(piece.value) if isinstance(piece, ast.Constant) else "{" + ast.unparse(piece.value) + "}"
                for piece in node.values
                if isinstance(piece, (ast.Constant, ast.FormattedValue))
            )
