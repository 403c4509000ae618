"""The command ``slideduck``: each command parses its words, calls one method of a study, and prints."""

from __future__ import annotations

import atexit
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import Any

import click

import slideduck
from slideduck.cli.contents import MODULES, SECTIONS
from slideduck.cli.options import Commands, finished, option_said
from slideduck.errors import SlideduckError
from slideduck.lazy import registered
from slideduck.names import text_problem
from slideduck.words import arguments_said_as, message

__all__ = ["cli"]


class _Listed(click.Command):
    """A command that is listed and not imported yet: its name, and the first sentence of its help."""

    def __init__(self, name: str, sentence: str) -> None:
        super().__init__(name, help=sentence)

    def imported(self) -> click.Command:
        """Return the command itself."""
        assert self.name is not None
        command = getattr(import_module(MODULES[self.name]), self.name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command


#: Entry points of commands.
_COMMANDS = "slideduck.commands"

#: Every command that the help lists, those of other packages too, whether they are there or not.
_SENTENCES = {name: sentence for members in SECTIONS.values() for name, sentence in members.items()}
_LISTED = {name: _Listed(name, sentence) for name, sentence in _SENTENCES.items()}


class _Commands(Commands):
    """The commands of the engine, and those that other packages register as ``slideduck.commands``.

    A command is imported when it is used, and not to be listed.
    Errors of ours become exit status 1 with their message; an interrupt becomes 130.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which they are used."""
        return [name for names in self.grouped(ctx).values() for name in names]

    def grouped(self, ctx: click.Context) -> dict[str, list[str]]:
        """Return the names of the commands by group; those that other packages bring come last."""
        names = {*self.commands, *registered(_COMMANDS)}
        grouped = {group: [name for name in members if name in names] for group, members in SECTIONS.items()}
        known = {name for members in grouped.values() for name in members}
        grouped["Others"] = sorted(names - known)
        return {group: members for group, members in grouped.items() if members}

    def sentence(self, ctx: click.Context, name: str) -> str:
        """Return the first sentence of a command's help, of which nothing is imported for it."""
        return _SENTENCES[name] if name in _SENTENCES else super().sentence(ctx, name)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, importing it where that was not done yet."""
        found = super().get_command(ctx, cmd_name)
        if isinstance(found, _Listed):
            found = finished(found.imported())
            self.add_command(found, cmd_name)
        if found is None and cmd_name in (others := registered(_COMMANDS)):
            found = others[cmd_name].load()
            assert isinstance(found, click.Command)
            finished(found)
        return found

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line; an interrupt at any moment ends it with 130 and no traceback."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, **extra)
        try:
            # On its own click makes an interrupt an abort, which ends with 1.
            with _interrupts_kept(), _translated(sys.argv[1:] if args is None else args):
                status = super().main(args, prog_name, complete_var, False, **extra)
        except click.ClickException as error:
            shown = io.StringIO()
            error.show(shown)
            message(shown.getvalue().removesuffix("\n"))
            sys.exit(error.exit_code)
        except SlideduckError as error:
            message(f"error: {error}")
            sys.exit(1)
        except (KeyboardInterrupt, click.Abort):
            message("interrupted; what was whole is kept, and the same command goes on from there")
            if args is None:
                # The command of this process, of which all is undone by now. A library whose import was interrupted may
                # be half made, and crash when Python takes it down; what it asked to do at exit is done.
                # A second interrupt does not strike that.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                atexit._run_exitfuncs()
                sys.stdout.flush()
                os._exit(130)
            sys.exit(130)
        sys.exit(status if isinstance(status, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command, and end with the exit status of what it raises."""
        with arguments_said_as(lambda name, value: option_said(self, ctx.invoked_subcommand, name, value)):
            try:
                return super().invoke(ctx)
            except SlideduckError as error:
                message(f"error: {error}")
                ctx.exit(1)
            except BrokenPipeError:
                # The reader, such as `head`, has what it wanted.
                sys.stderr.close()
                ctx.exit(0)
            except OSError as error:
                # A disk that fails, or too many open files: no step has an answer to these.
                message(f"error: {error.filename or 'a file'} cannot be read or written: {error.strerror or error}")
                ctx.exit(1)


@contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Let an interrupt end the block as one, whatever a library that it struck makes of it.

    An extension module that is interrupted while it is imported raises ImportError or AttributeError.
    """
    struck = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal struck
        struck = True
        signal.default_int_handler(number, frame)

    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield  # Whoever set a handler of its own wants it kept.
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield
    except Exception as error:
        if struck:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def _translated(words: Sequence[str]) -> Iterator[None]:
    """Turn what the machine or a file does to DuckDB into errors of ours; DuckDB is not imported for it.

    So is what DuckDB and Arrow raise, each in its way, of a word of the command that is not UTF-8; one that names a
    file need not be.
    """
    try:
        yield
    except (SlideduckError, click.ClickException, click.Abort):
        raise
    except Exception as error:
        broken = [word for word in words if text_problem(word) is not None]
        if broken:
            raise SlideduckError(f"{broken[0][:60]!r} is not UTF-8; write it in UTF-8") from error
        if "duckdb" not in sys.modules:
            raise
        from slideduck.store.db import translated

        with translated():
            raise


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(slideduck.__version__, prog_name="slideduck")
def cli() -> None:
    """Label tiles of whole-slide images by the regions that pathologists drew, and train on them.

    A STUDY is one DuckDB file; `add-slides` makes it where there is none. The usual order is that of the
    commands below. Progress goes to standard error, data to standard output.
    """


for name in MODULES:
    cli.add_command(_LISTED[name])
