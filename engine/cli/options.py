"""How commands are listed, found and explained, and what they call the arguments of functions behind them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import click

from slideduck.limit import LIMITS, limits, parse_limits
from slideduck.names import suggestion
from slideduck.words import listed

__all__ = ["Commands", "finished", "limit_option", "option_said", "parameters_of"]

F = TypeVar("F", bound=Callable[..., Any])

#: What stands for the value of an option that says nothing itself, in every command; else N for whole numbers.
PLACEHOLDERS = {
    "--artifact-label": "LABEL",
    "--class": "LABEL",
    "--column": "NAME",
    "--grid": "NAME",
    "--max-px": "PIXELS",
    "--name": "NAME",
    "--origin": "X Y",
    "--priority": "LABEL",
    "--run": "NAME",
    "--set": "NAME",
    "--slide": "NAME",
    "--stride-div": "N",
    "--threshold": "SHARE",
    "--tile-px": "PIXELS",
    "--tile-um": "MICRONS|20x",
    "--val-fold": "FOLD",
    "--val-fraction": "SHARE",
    "--where": "SQL",
}

#: Commands that a message lists.
_FEW = 12
#: Lines of a help above which its example stands before the options.
_LONG_HELP = 30


class Commands(click.Group):
    """A group that lists its commands with the whole first sentence of each, and names the nearest for an unknown."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is meant, or refuse its name."""
        name = args[0]
        is_option = not name[:1].isalnum()
        if not ctx.resilient_parsing and not is_option and self.get_command(ctx, name) is None:
            known = self.list_commands(ctx)
            rest = (
                f"; see them with: {ctx.command_path} --help" if len(known) > _FEW else f"; there are {listed(known)}"
            )
            ctx.fail(f"no command {name!r}{suggestion(name, known) or rest}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, group by group, each with its sentence."""
        groups = self.grouped(ctx)
        widest = max(len(name) for group in groups.values() for name in group)
        for group, members in groups.items():
            with formatter.section(group):
                # Padded, so that the columns of all groups stand below each other.
                formatter.write_dl([(name.ljust(widest), self.sentence(ctx, name)) for name in members])

    def grouped(self, ctx: click.Context) -> dict[str, list[str]]:
        """Return the names of the commands by the title under which they are listed."""
        return {"Commands": self.list_commands(ctx)}

    def sentence(self, ctx: click.Context, name: str) -> str:
        """Return the first sentence of a command's help."""
        command = self.get_command(ctx, name)
        return command.get_short_help_str(_UNCUT) if command is not None else ""


#: Letters that no sentence has.
_UNCUT = 10_000


def finished(command: click.Command) -> click.Command:
    """Return a command whose options have placeholders, and whose example comes first where its help is long."""
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.metavar is None and not parameter.is_flag:
            parameter.metavar = _placeholder(parameter)
    if command.epilog and "format_help" not in vars(command):
        command.format_help = partial(_format_help, command)  # type: ignore[method-assign]
    return command


def _placeholder(option: click.Option) -> str | None:
    """Return what stands for the value of an option; None where its type says it, as choices do."""
    if isinstance(option.type, click.Choice):
        return None
    name = next((word for word in option.opts if word in PLACEHOLDERS), None)
    if name is None:
        return "N" if isinstance(option.type, (click.types.IntParamType, click.IntRange)) else None
    return PLACEHOLDERS[name]


def _format_help(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """Write a command's help: usage, text, options and example; a long one has its example before the options."""
    command.format_usage(ctx, formatter)
    command.format_help_text(ctx, formatter)
    whole = ctx.make_formatter()
    whole.write(formatter.getvalue())
    command.format_options(ctx, whole)
    command.format_epilog(ctx, whole)
    is_long = len(whole.getvalue().rstrip().splitlines()) > _LONG_HELP
    for write in (command.format_epilog, command.format_options) if is_long else (
        command.format_options, command.format_epilog,
    ):  # fmt: skip
        write(ctx, formatter)


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
