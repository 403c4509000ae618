"""Every command is a method, or the README says which is not."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path

import slideduck as sd
from slideduck.cli.contents import MODULES, SECTIONS
from slideduck.cli.plot import plot
from slideduck.lazy import registered
from slideduck.runner.verbs.run import Run

README = Path(__file__).resolve().parents[2] / "README.md"

#: Commands whose method has another name than theirs, as the README says; None for a command that has none.
OTHERWISE = {
    "stain": "study.fit_stain",
    "coverage": "study.coverage_histogram",
    "plot": "study.plot_labels",
    "export-model": "run.export_model",
    "merge": "sd.merge_betons",
    "verify": "sd.verify_beton",
    "demo": None,
}

HOLDERS = {"study": sd.Study, "run": Run, "sd": sd}


def test_every_command_is_a_method_or_the_readme_says_otherwise() -> None:
    commands = {name for members in SECTIONS.values() for name in members}
    assert commands == {*MODULES, *registered("slideduck.commands")}
    text = README.read_text(encoding="utf-8")
    (said,) = re.findall(r"Every command is a method of the same name(.*?)command alone\.", text, re.DOTALL)
    for command in commands:
        if command not in OTHERWISE:
            assert inspect.isfunction(getattr(sd.Study, command.replace("-", "_"), None)), command
            assert f"`{command}`" not in said, command
            continue
        assert f"`{command}`" in said, command
        name = OTHERWISE[command]
        if name is not None:
            holder, _, method = name.partition(".")
            assert callable(getattr(HOLDERS[holder], method)), name
            assert f"`{name}`" in said.replace("\n", ""), name
    assert set(OTHERWISE) <= commands


def test_each_picture_has_a_method() -> None:
    pictures = {*plot.commands, *registered("slideduck.plots")}
    of_a_run = set(registered("slideduck.plots"))
    assert {name for name in pictures - of_a_run if not hasattr(sd.Study, f"plot_{name}")} == set()
    source = inspect.getsource(Run.plot) + inspect.getsource(import_module("slideduck.runner.verbs.evaluation"))
    assert {name for name in of_a_run if f'"{name}"' not in source} == set()


def test_the_verbs_of_the_runner_are_the_methods_that_ask_for_them() -> None:
    source = inspect.getsource(import_module("slideduck.study.training"))
    assert set(re.findall(r'_verb\("(\w+)"\)', source)) == set(registered("slideduck.verbs"))
