"""The command line as ``python -m slideduck.runner`` starts it."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line; what ``python -m slideduck.runner`` and torchrun start."""
    from slideduck.cli.group import cli

    cli(prog_name="slideduck")
