"""Commands of the runner: an installation of the engine lists them, and they say what to install."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from slideduck.runner.settings.extra import require_train

__all__ = ["RunnerCommand", "runner_command"]


class RunnerCommand(click.Command):
    """A command that needs the extra ``slideduck[train]`` to run, and not to print its help."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, or raise with what to install."""
        words = []
        inner: click.Context = ctx
        while inner.parent is not None:
            words.append(str(inner.info_name))
            inner = inner.parent
        require_train(" ".join(["slideduck", *reversed(words)]))
        return super().invoke(ctx)


#: As `click.command`, for a `RunnerCommand`.
runner_command = partial(click.command, cls=RunnerCommand)
