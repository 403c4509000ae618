"""The examples in the helps of commands, which tests type."""

from __future__ import annotations

from click.testing import CliRunner

from slideduck.cli.group import cli

__all__ = ["examples"]


def examples(*words: str) -> list[str]:
    """Return the lines of the example in a command's help; one that goes on below is one line."""
    text = CliRunner().invoke(cli, [*words, "--help"]).output
    assert "Example:" in text, words
    lines = text.split("Example:")[1].partition("\n\n")[0].replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip()]
