"""What the commands print: tables for people, and the same rows as JSON, CSV or Parquet for programs."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from slideduck.files.write import check_folder, write_whole
from slideduck.words import message

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "NEW_STUDY",
    "STUDY",
    "Output",
    "example",
    "existing_study",
    "output_options",
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

#: Rows that a table shows at most; the other forms always give all.
_MAX_TABLE_ROWS = 200

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Output:
    """The form that rows are printed in.

    Attributes
    ----------
    kind : {"table", "json", "csv", "parquet"}
        The form.
    path : Path, optional
        The file, for Parquet.
    """

    kind: str = "table"
    path: Path | None = None


def output_options(command: F) -> F:
    """Give a command ``--json``, ``--csv`` and ``--parquet FILE``, as its parameter ``output``."""

    def gather(as_json: bool, as_csv: bool, parquet: Path | None) -> Output:
        if as_json + as_csv + (parquet is not None) > 1:
            raise click.UsageError("give only one of --json, --csv and --parquet")
        if parquet is not None:
            return Output("parquet", parquet)
        return Output("json" if as_json else "csv" if as_csv else "table")

    def wrapped(*args: Any, as_json: bool, as_csv: bool, parquet: Path | None, **values: Any) -> Any:
        return command(*args, output=gather(as_json, as_csv, parquet), **values)

    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    if hasattr(command, "__click_params__"):
        wrapped.__click_params__ = command.__click_params__  # type: ignore[attr-defined]
    for option in (
        click.option(
            "--parquet", type=click.Path(dir_okay=False, path_type=Path), help="Write rows to FILE.", metavar="FILE"
        ),
        click.option("--csv", "as_csv", is_flag=True, help="Print rows as CSV."),
        click.option("--json", "as_json", is_flag=True, help="Print rows as JSON, an array of objects."),
    ):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]


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
            click.echo(json.dumps(_null_for_nan(table.to_pylist()), indent=1, default=str, ensure_ascii=False))
        case "csv":
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(table.column_names)
            writer.writerows(["" if v is None else v for v in row.values()] for row in table.to_pylist())
        case "parquet":
            import pyarrow.parquet as pq

            assert output.path is not None
            check_folder(output.path)
            write_whole(output.path, lambda file: pq.write_table(table, file))
            message(f"wrote {table.num_rows:,} rows to {output.path}")
        case _:
            _print_table(table, title)


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

    if title:
        click.echo(title)  # of its own: rich folds a title at the width of its table
    shown = Table()
    for field in table.schema:
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_decimal(field.type)
        shown.add_column(field.name, justify="right" if number else "left", overflow="fold")
    for row in table.slice(0, _MAX_TABLE_ROWS).to_pylist():
        shown.add_row(*(_cell(value) for value in row.values()))
    # A pipe has no width: there rows are not to be folded at 80 columns.
    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200, highlight=False)
    console.print(shown)
    if table.num_rows > _MAX_TABLE_ROWS:
        click.echo(
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
    return str(value).replace("[", r"\[")


def example(*lines: str) -> str:
    """Return the end of a command's help: an example that a test runs."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)
