"""Messages name arguments for programs, and options for people."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from slideduck.cli.group import cli
from slideduck.cli.options import option_said, parameters_of
from slideduck.words import arguments_said_as, message

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


def test_each_argument_that_a_message_names_is_one_of_a_command() -> None:
    known = {parameter.name for parameter in parameters_of(cli)}
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
