"""The options of a command, for messages that name the argument of a function behind it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from slideduck.limit import LIMITS, limits, parse_limits

__all__ = ["limit_option", "option_said", "parameters_of"]

F = TypeVar("F", bound=Callable[..., Any])


def _hold_limits(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> None:
    """Let limits hold until the command ends."""
    ctx.with_resource(limits(**parse_limits(texts)))


def limit_option(command: F) -> F:
    """Give a command that reads files of others ``--limit``, which holds while it runs; it is no parameter of it."""
    option = click.option(
        "--limit", multiple=True, metavar="NAME=NUMBER", callback=_hold_limits, expose_value=False,
        help=f"The most that one input may hold: {', '.join(LIMITS)}. May be repeated.",
    )  # fmt: skip
    return option(command)


def option_said(command: click.Command, name: str | None, argument: str, value: str | None) -> str | None:
    """Return what a command calls an argument: ``--jpeg auto``, or ``RUN`` for one without an option.

    The value is quoted as a shell needs it.

    Parameters
    ----------
    command : click.Group
        The group.
    name : str or None
        Name of its command that is running; None if none is.
    argument : str
        Name of the argument.
    value : str or None
        Its value, if one is named too.

    Returns
    -------
    str or None
        None if the command has no such argument.
    """
    context = click.Context(command)
    running = command.get_command(context, name) if isinstance(command, click.Group) and name else None
    for parameter in parameters_of(running) if running else ():
        if parameter.name != argument:
            continue
        if not isinstance(parameter, click.Option):
            return parameter.human_readable_name
        option = next(word for word in parameter.opts if word.startswith("--"))
        return option if value is None or parameter.is_flag else f"{option} {shlex.quote(value)}"
    return None


def parameters_of(command: click.Command) -> Iterator[click.Parameter]:
    """Yield the parameters of a command, and of the commands under it."""
    yield from command.params
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            under = command.get_command(click.Context(command), name)
            if under is not None:
                yield from parameters_of(under)
