"""``slideduck demo``."""

from __future__ import annotations

from pathlib import Path

import click

from slideduck.cli.printing import example
from slideduck.runner.cli.command import runner_command

__all__ = ["demo"]


@runner_command(epilog=example("slideduck demo demo"))
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path), default=Path("demo"))
def demo(directory: Path) -> None:
    """Make a small cohort in DIRECTORY and run every step on it: slides to heatmap.

    The directory is `demo` where none is given.
    """
    from slideduck.runner.demo.run import run_demo

    run_demo(directory)
