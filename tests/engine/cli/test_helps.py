"""Helps of all commands: one placeholder for a meaning, whole sentences, and the example first where they are long."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from slideduck.cli.group import cli

#: Options whose name means one thing in one command and another in another: placeholders by the words of the command.
_OF_TWO_MEANINGS = {
    "--class": {"add-labels": "COLUMN", "export": "LABEL"},
    "--labels": {"add-masks": "VALUE=LABEL,…", "add-rois": "CSV"},
    "--run": {"export-tiles": "NAME", "train": "DIR"},
    "--sample": {"train": "COLUMNS", "verify": "N|all"},
}

#: What click writes by itself.
_OF_TYPES = re.compile(r"TEXT|INTEGER|FLOAT|FILENAME|UUID|(INTEGER|FLOAT) RANGE|<.*>.*|BOOLEAN")


def commands(command: click.Command = cli, words: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its words."""
    context = click.Context(command, info_name=words)
    yield words, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            under = command.get_command(context, name)
            assert under is not None
            yield from commands(under, f"{words} {name}".strip())


ALL = dict(commands())


def options(command: click.Command) -> Iterator[tuple[str, str]]:
    """Yield the longest name of each option that takes a value, and its placeholder."""
    context = click.Context(command)
    for parameter in command.params:
        # Choices are listed, and are what the command can do.
        is_value = isinstance(parameter, click.Option) and not parameter.is_flag
        if is_value and not isinstance(parameter.type, click.Choice):
            yield next(word for word in parameter.opts if word.startswith("--")), parameter.make_metavar(context)


def test_an_option_has_one_placeholder_in_all_commands() -> None:
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for words, command in ALL.items():
        for option, placeholder in options(command):
            found[option][words] = placeholder
    several = {name: of for name, of in found.items() if len(set(of.values())) > 1}
    assert several == _OF_TWO_MEANINGS
    for option, placeholder in (
        ("--where", "SQL"),
        ("--grid", "NAME"),
        ("--threads", "N"),
        ("--seed", "N"),
        ("--slide", "NAME"),
    ):
        assert set(found[option].values()) == {placeholder}, option


@pytest.mark.parametrize("words", ALL)
def test_no_placeholder_is_the_name_of_a_type(words: str) -> None:
    assert [(option, found) for option, found in options(ALL[words]) if _OF_TYPES.fullmatch(found)] == []


@pytest.mark.parametrize("words", ["", "plot"])
@pytest.mark.parametrize("columns", ["80", "100", "200"])
def test_sentences_are_listed_whole(words: str, columns: str) -> None:
    text = CliRunner().invoke(cli, [*words.split(), "--help"], env={"COLUMNS": columns}).output
    assert "..." not in text.partition("Options:")[2]
    listed = " ".join(text.split())
    group = ALL[words]
    assert isinstance(group, click.Group)
    for name in group.list_commands(click.Context(group)):
        command = ALL[f"{words} {name}".strip()]
        sentence = " ".join(command.get_short_help_str(10_000).split())
        assert f"{name} {sentence}" in listed, name


@pytest.mark.parametrize("words", [words for words, command in ALL.items() if not isinstance(command, click.Group)])
def test_a_long_help_has_its_example_before_its_options(words: str) -> None:
    text = CliRunner().invoke(cli, [*words.split(), "--help"]).output
    example, first_option = text.index("Example:"), text.index("Options:")
    assert (example < first_option) == (text.count("\n") > 30), text.count("\n")
