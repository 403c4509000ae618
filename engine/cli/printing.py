"""What the commands print: tables for people, and the same rows as JSON, CSV or Parquet for programs."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from slideduck.files.write import check_folder, write_whole
from slideduck.words import counted, json_printable, message, print_line, printable

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "NEW_STUDY",
    "SOURCE",
    "STUDY",
    "Output",
    "example",
    "existing_study",
    "output_options",
    "print_json",
    "print_rows",
]


def existing_study(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a study that is not there: a path that was mistyped is not to become an empty one."""
    from slideduck.store.db import require_study

    if path is not None:
        require_study(path.expanduser().absolute())
    return path


_STUDY_FILE: click.Path[Path] = click.Path(dir_okay=False, path_type=Path)

#: The first argument of every command, and of the one that begins a study.
STUDY = click.argument("study", type=_STUDY_FILE, callback=existing_study)
NEW_STUDY = click.argument("study", type=_STUDY_FILE)


def _existing_source(ctx: click.Context, param: click.Parameter, path: Path) -> Path | None:
    """Refuse a study that is not there; reading a beton says so by itself."""
    return path if path.suffix == ".beton" else existing_study(ctx, param, path)


#: A study, or a beton, which its suffix tells.
SOURCE = click.argument("source", metavar="STUDY|BETON", type=_STUDY_FILE, callback=_existing_source)

#: Beginnings of texts that spreadsheets take for formulas.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")

#: Rows that a table shows at most; the other forms always give all.
_MAX_TABLE_ROWS = 200

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Output:
    """The form that rows are printed in.

    Attributes
    ----------
    kind : {"table", "json", "csv", "safe-csv", "parquet"}
        The form.
    path : Path, optional
        The file, for Parquet.
    """

    kind: str = "table"
    path: Path | None = None


def output_options(command: F) -> F:
    """Give a command ``--json``, ``--csv``, ``--safe-csv`` and ``--parquet FILE``, as its parameter ``output``."""

    def gather(forms: Mapping[str, bool], parquet: Path | None) -> Output:
        chosen = [form for form, is_chosen in forms.items() if is_chosen] + ["parquet"] * (parquet is not None)
        if len(chosen) > 1:
            raise click.UsageError("give only one of --json, --csv, --safe-csv and --parquet")
        return Output(chosen[0] if chosen else "table", parquet)

    def wrapped(*args: Any, as_json: bool, as_csv: bool, as_safe_csv: bool, parquet: Path | None, **values: Any) -> Any:
        forms = {"json": as_json, "csv": as_csv, "safe-csv": as_safe_csv}
        return command(*args, output=gather(forms, parquet), **values)

    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    if hasattr(command, "__click_params__"):
        wrapped.__click_params__ = command.__click_params__  # type: ignore[attr-defined]
    for option in (
        click.option(
            "--parquet", type=click.Path(dir_okay=False, path_type=Path), help="Write rows to FILE.", metavar="FILE"
        ),
        click.option(
            "--safe-csv",
            "as_safe_csv",
            is_flag=True,
            help="Print rows as CSV for a spreadsheet: no text in them is taken for a formula.",
        ),
        click.option("--csv", "as_csv", is_flag=True, help="Print rows as CSV."),
        click.option("--json", "as_json", is_flag=True, help="Print rows as JSON, an array of objects."),
    ):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]


def print_json(values: object) -> None:
    """Print values as JSON, of which a terminal obeys nothing."""
    print(json_printable(json.dumps(values, indent=1, default=str, ensure_ascii=False)), flush=True)


def print_rows(table: pa.Table, output: Output, *, title: str | None = None) -> None:
    """Print rows in the form that the user asked for.

    Parameters
    ----------
    table : pyarrow.Table
        The rows.
    output : Output
        The form.
    title : str, optional
        Heading, of the form ``table`` alone.
    """
    match output.kind:
        case "json":
            print_json(_null_for_nan(table.to_pylist()))
        case "csv" | "safe-csv":
            _print_csv(table, is_safe=output.kind == "safe-csv")
        case "parquet":
            import pyarrow.parquet as pq

            assert output.path is not None
            check_folder(output.path)
            write_whole(output.path, lambda file: pq.write_table(table, file))
            message(f"wrote {counted(table.num_rows, 'row')} to {output.path}")
        case _:
            _print_table(table, title)


def _print_csv(table: pa.Table, *, is_safe: bool) -> None:
    """Print rows as CSV: exactly, but for what a terminal would obey, and what a spreadsheet would if that is asked."""
    is_terminal = sys.stdout.isatty()

    def cell(value: object) -> object:
        if value is None:
            return ""
        if not isinstance(value, str):
            return value
        # Numbers in text, such as -1.5, are numbers to a spreadsheet too, and compute nothing.
        if is_safe and value.startswith(_FORMULA) and not _NUMBER.fullmatch(value):
            value = f"'{value}"
        return printable(value) if is_terminal else value

    writer = csv.writer(_UnixLines(), lineterminator="\r\n")
    writer.writerow(map(cell, table.column_names))
    writer.writerows([cell(value) for value in row.values()] for row in table.to_pylist())


class _UnixLines:
    """Standard output, with line ends of Unix: the module csv quotes a CR within a cell only if lines end with it."""

    def write(self, line: str) -> None:
        """Write one line of CSV."""
        sys.stdout.write(line.removesuffix("\r\n") + "\n")


def _null_for_nan(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """JSON has no NaN; null is what readers of every language take."""
    return [
        {k: None if isinstance(v, float) and (v != v or abs(v) == float("inf")) else v for k, v in row.items()}
        for row in rows
    ]


def _print_table(table: pa.Table, title: str | None) -> None:
    import pyarrow as pa
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if title:
        print_line(printable(title))  # of its own: rich folds a title at the width of its table
    shown = Table()
    for field in table.schema:
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_decimal(field.type)
        shown.add_column(Text(printable(field.name)), justify="right" if number else "left", overflow="fold")
    for row in table.slice(0, _MAX_TABLE_ROWS).to_pylist():
        # As texts: rich takes [red] and :x: in a plain string for markup and a picture.
        shown.add_row(*(Text(_cell(value)) for value in row.values()))
    # A pipe has no width: there rows are not to be folded at 80 columns.
    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200, highlight=False)
    console.print(shown)
    if table.num_rows > _MAX_TABLE_ROWS:
        print_line(
            f"{table.num_rows - _MAX_TABLE_ROWS:,} more of {table.num_rows:,} rows; "
            "--csv, --json and --parquet give all"
        )


def _cell(value: Any) -> str:
    """Return a value as a table shows it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return printable(str(value))


def example(*lines: str) -> str:
    """Return the end of a command's help: an example that a test runs."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)
