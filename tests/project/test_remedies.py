"""Each command that a message says to type is typed by a test, which gets on; this is the table of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from slideduck.cli.group import cli

ROOT = Path(__file__).parents[2]

_STORY = "tests/engine/cli/test_remedies.py::test_remedies_from_an_empty_folder_to_a_beton"
_TRAINING = "tests/runner/cli/test_remedies.py::test_what_keeps_from_training_is_mended"
_CLI = "tests/runner/cli/test_cli.py::"
_TABLES = "tests/engine/labels/test_tables.py::"

#: By module the commands that its messages name, and by command the test that types it.
REMEDIES = {
    "engine/betons/check.py": {"export": _TRAINING},
    "engine/betons/export.py": {"merge": _STORY},
    "engine/betons/format.py": {"export": _STORY},
    "engine/betons/merge.py": {"export": _STORY},
    "engine/betons/pages.py": {"verify": _STORY},
    "engine/betons/plan.py": {"add-rois": _STORY, "label": _STORY},
    "engine/betons/preflight.py": {"tile": _STORY},
    "engine/betons/sidecar.py": {"export": _STORY},
    "engine/catalog/evaluations.py": {
        "evaluate": _CLI + "test_evaluate_prints_a_table_or_json",
        "train": _CLI + "test_train_prints_the_best_epoch",
    },
    "engine/catalog/grids.py": {"tile": _STORY},
    "engine/catalog/label_sets.py": {"remove-labels": _TABLES + "test_labels_are_removed_unless_the_rule_takes_them"},
    "engine/catalog/native.py": {"sql": _STORY},
    "engine/catalog/patients_table.py": {
        "add-slides": "tests/engine/catalog/test_patients_table.py::test_a_study_without_slides_takes_no_patients",
        "sql": "tests/engine/catalog/test_patients_table.py"
        "::test_a_table_of_barcodes_is_refused_with_a_table_of_slides",
    },
    "engine/catalog/slides.py": {"sql": _STORY},
    "engine/cli/fill.py": {"split": _STORY},
    "engine/cli/label.py": {
        "label": "tests/engine/labels/test_rename.py::test_the_command_says_what_becomes_of_what",
        "rename-label": "tests/engine/labels/test_split_report.py"
        "::test_labels_that_differ_by_case_are_named_with_what_makes_them_one",
    },
    "engine/cli/slides.py": {"label": _STORY},
    "engine/interop/rois.py": {"add-rois": _STORY, "sql": _STORY},
    "engine/interop/tiles.py": {"sql": _STORY},
    "engine/labels/conditions.py": {"qc": _STORY},
    "engine/labels/filters.py": {"sql": _STORY},
    "engine/labels/label.py": {"add-labels": _TABLES + "test_labels_are_removed_unless_the_rule_takes_them"},
    "engine/labels/rename.py": {
        "label": "tests/engine/labels/test_rename.py::test_what_cannot_be_renamed_is_refused_with_what_can"
    },
    "engine/labels/tables.py": {"label": _TABLES + "test_labels_are_removed_unless_the_rule_takes_them"},
    "engine/labels/verify.py": {"label": _STORY},
    "engine/labels/view.py": {"label": _STORY},
    "engine/measure/qc.py": {"label": _STORY, "sql": _STORY},
    "engine/measure/stain_fit.py": {"stain": _STORY},
    "engine/rois/given.py": {
        "add-rois": "tests/engine/rois/test_given.py::test_unknown_slide_names_the_nearest_and_what_gets_on"
    },
    "engine/rois/table.py": {"sql": _STORY},
    "engine/store/db.py": {"add-slides": _STORY, "info": _STORY},
    "engine/store/schema.py": {
        "add-slides": _STORY,
        "sql": "tests/engine/store/test_sealed.py::test_a_view_that_is_not_ours_is_named_and_made_anew",
    },
    "runner/cli/first.py": {"export": _TRAINING},
    "runner/plots/scores.py": {"plot": "tests/runner/prediction/test_any_task.py"
        "::test_pictures_are_of_what_there_is_and_others_say_which_is"},
    "runner/prediction/slide_tiles.py": {
        "sql": _CLI + "test_predict_says_how_to_make_the_grid_and_which_slides_there_are",
        "tile": _CLI + "test_predict_says_how_to_make_the_grid_and_which_slides_there_are",
    },
    "runner/runs/card.py": {
        "evaluate": _CLI + "test_evaluate_prints_a_table_or_json",
        "export-model": _CLI + "test_export_model_says_what_it_wrote",
        "heatmap": _CLI + "test_predict_and_heatmap",
        "predict": _CLI + "test_predict_and_heatmap",
    },
    "runner/settings/folders.py": {"train": _CLI + "test_train_prints_the_best_epoch"},
    "runner/tiles/dataset.py": {"verify": _STORY},
    "runner/tiles/rows.py": {"split": _TRAINING},
    "runner/tiles/source.py": {"verify": _STORY},
    "runner/tiles/targets.py": {
        "add-labels": "tests/runner/tasks/test_given_labels.py::test_numbers_that_are_not_there_are_asked_for",
        "add-patients": _TRAINING,
    },
    "runner/training/waiting.py": {"export": _STORY},
}  # fmt: skip


def found() -> dict[str, set[str]]:
    """Return the commands that the texts of each module name, but for helps and the demonstration's own lines."""
    assert isinstance(cli, click.Group)
    names = set(cli.list_commands(click.Context(cli)))
    commands: dict[str, set[str]] = {}
    for path in sorted([*(ROOT / "engine").rglob("*.py"), *(ROOT / "runner").rglob("*.py")]):
        name = str(path.relative_to(ROOT))
        here = {word for text in _texts(path) for word in re.findall(r"slideduck ([a-z][a-z-]+)", text)} & names
        if here and not name.startswith("runner/demo/") and name != "engine/cli/contents.py":
            commands[name] = here
    return commands


def _texts(path: Path) -> Iterator[str]:
    """Yield the texts of a module that are neither documentation nor help."""
    tree = ast.parse(path.read_text())
    passed: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            passed.add(id(node.body[0].value))  # type: ignore[attr-defined]
        is_help = isinstance(node, ast.keyword) and node.arg in ("help", "epilog")
        if is_help or (isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("example", "_setting")):
            passed.update(map(id, ast.walk(node)))
        if isinstance(node, ast.JoinedStr) and id(node) not in passed:
            passed.update(map(id, node.values))
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in passed:
            yield node.value


def test_each_command_of_a_message_is_typed_by_a_test() -> None:
    """A message that names another command gets a test that types it, and an entry here."""
    assert {name: set(of) for name, of in REMEDIES.items()} == found()


@pytest.mark.parametrize("test", sorted({test for of in REMEDIES.values() for test in of.values()}))
def test_the_tests_are_there(test: str) -> None:
    path, name = test.split("::")
    assert f"\ndef {name}(" in (ROOT / path).read_text()
