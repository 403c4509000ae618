"""The command ``slideduck``: each command parses its words, calls one method of a study, and prints."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import FrameType
from typing import Any

import click

import slideduck
from slideduck.cli.betons import BETON_COMMANDS
from slideduck.cli.interop import EXPORT_COMMANDS
from slideduck.cli.label import label, split
from slideduck.cli.measure import qc
from slideduck.cli.options import option_said
from slideduck.cli.plot import plot
from slideduck.cli.predictions import add_predictions
from slideduck.cli.printing import STUDY, Output, example, output_options, print_rows
from slideduck.cli.query import QUERY_COMMANDS
from slideduck.cli.stain import stain
from slideduck.errors import SlideduckError
from slideduck.store.db import translated
from slideduck.words import arguments_said_as, counted, message, print_names

__all__ = ["cli"]

PATHS = click.argument("paths", nargs=-1, required=True, type=str)

#: The commands by what they are for, each group in the order in which its commands are used.
_GROUPS = {
    "Fill a study": (
        "add-slides", "add-rois", "add-patients", "add-predictions", "remove-rois", "remove-slides", "info",
    ),
    "Label its tiles": ("tile", "label", "qc", "split", "stain"),
    "Export them": ("export", "merge", "verify", "export-rois", "export-tiles"),
    "Train on them": ("train", "evaluate", "predict", "heatmap", "features", "gradcam", "export-model", "plot"),
    "Ask a study": (
        "sql", "counts", "conflicts", "rois", "coverage", "neighbours", "at", "area", "agreement", "disagreements",
    ),
    "See it run": ("demo",),
}  # fmt: skip


class _Commands(click.Group):
    """The commands of the engine, and those that other packages register as ``slideduck.commands``.

    Errors of ours become exit status 1 with their message; an interrupt becomes 130.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which they are used."""
        return [name for names in self._grouped(ctx).values() for name in names]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, group by group, each with the beginning of its help."""
        names = self._grouped(ctx)
        widest = max(len(name) for group in names.values() for name in group)
        for group, members in names.items():
            with formatter.section(group):
                rows = []
                for name in members:
                    command = self.get_command(ctx, name)
                    assert command is not None
                    # Padded, so that the columns of all groups stand below each other.
                    rows.append((name.ljust(widest), command.get_short_help_str(formatter.width - 6 - widest)))
                formatter.write_dl(rows)

    def _grouped(self, ctx: click.Context) -> dict[str, list[str]]:
        """Return the names of the commands by group; those that other packages bring come last."""
        names = {*super().list_commands(ctx), *_registered()}
        grouped = {group: [name for name in members if name in names] for group, members in _GROUPS.items()}
        known = {name for members in grouped.values() for name in members}
        grouped["Others"] = sorted(names - known)
        return {group: members for group, members in grouped.items() if members}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, loading it if another package registers it."""
        found = super().get_command(ctx, cmd_name)
        if found is None and cmd_name in _registered():
            loaded = _registered()[cmd_name].load()
            assert isinstance(loaded, click.Command)
            return loaded
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
            with _interrupts_kept(), translated():
                status = super().main(args, prog_name, complete_var, False, **extra)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except SlideduckError as error:
            message(f"error: {error}")
            sys.exit(1)
        except (KeyboardInterrupt, click.Abort):
            message("interrupted; what was whole is kept, and the same command goes on from there")
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


def _registered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group="slideduck.commands")}


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(slideduck.__version__, prog_name="slideduck")
def cli() -> None:
    """Label tiles of whole-slide images by the regions that pathologists drew, and train on them.

    A STUDY is one DuckDB file; the first command that names it makes it. The usual order is that of the
    commands below. Progress goes to standard error, data to standard output.
    """


# ------------------------------------------------------------------------------------------ loading


class _Mpp(click.ParamType[tuple[str | None, float]]):
    """A number of microns per pixel, for all slides or for one: ``0.5`` or ``NAME=0.5``."""

    name = "MPP"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str | None, float]:
        """Return the slide's name, or None for all, and the number."""
        if isinstance(value, tuple):
            return value
        slide, _, number = str(value).rpartition("=")
        try:
            return slide or None, float(number)
        except ValueError:
            self.fail(f"{value!r} is not MPP or NAME=MPP, such as 0.5 or A12=0.5", param, ctx)


@cli.command(
    epilog=example("slideduck add-slides study.duckdb slides/", "slideduck add-slides study.duckdb old/*.svs --mpp 0.5")
)
@STUDY
@PATHS
@click.option(
    "--mpp", multiple=True, type=_Mpp(), metavar="[NAME=]MPP",
    help="Microns per pixel of slides whose header has none; NAME=MPP for one slide. May be repeated.",
)  # fmt: skip
def add_slides(study: Path, paths: tuple[str, ...], mpp: tuple[tuple[str | None, float], ...]) -> None:
    """Read the headers of slides: files, folders or globs.

    A slide that does not open is kept with its error, and the others go on.
    """
    defaults = [number for name, number in mpp if name is None]
    if len(defaults) > 1:
        raise click.UsageError("give --mpp without a name only once")
    named = {name: number for name, number in mpp if name is not None}
    if defaults and named:
        raise click.UsageError("give --mpp either for all slides or by name, in two calls")
    with slideduck.open(study, progress=True) as opened:
        report = opened.add_slides(paths, mpp=named or (defaults[0] if defaults else None))
    click.echo(
        f"{counted(report.added, 'slide')} added, {report.updated:,} updated, {report.unchanged:,} unchanged; "
        f"{len(report.failed):,} of them cannot be used"
    )
    print_names("warnings:", report.warnings)
    if report.failed:
        raise SlideduckError(
            f"{counted(len(report.failed), 'slide')} cannot be used:\n"
            + "\n".join(f"  {text}" for text in report.failed.values())
        )


@cli.command(
    epilog=example(
        "slideduck add-rois study.duckdb rois/", "slideduck add-rois study.duckdb second/ --set second_reader"
    )
)
@STUDY
@PATHS
@click.option(
    "--set", "roi_set", default="default", show_default=True, help="Set of ROIs to add to, such as a reader's."
)
@click.option(
    "--holes", type=click.Choice(["auto", "nested", "explicit"]), default="auto", show_default=True,
    help="nested: an ROI within another of its label is a hole; explicit: what the file marks. "
    "auto: nested for CSV, explicit for GeoJSON and XML.",
)  # fmt: skip
def add_rois(study: Path, paths: tuple[str, ...], holes: str, roi_set: str) -> None:
    """Read ROI files: Slideflow CSV, QuPath GeoJSON, ImageScope XML, GeoParquet, told apart by content.

    All files are checked before anything is kept. A file that is added again replaces what it gave before; one that
    did not change is left alone. Sets keep the ROIs of several readers or versions apart.
    """
    with slideduck.open(study, progress=True) as opened:
        report = opened.add_rois(paths, holes=holes, roi_set=roi_set)
    click.echo(
        f"{counted(report.rois, 'ROI')} ({counted(report.holes, 'hole')}) on {counted(report.slides, 'slide')} "
        f"from {counted(report.files, 'file')}"
        + (f"; {counted(report.unchanged, 'file')} unchanged" if report.unchanged else "")
    )
    print_names(f"{counted(len(report.unlabelled), 'ROI')} without a label:", report.unlabelled)
    print_names(f"{counted(len(report.repaired), 'ROI')} crossed themselves and were repaired:", report.repaired)
    print_names(f"{counted(len(report.leaving), 'ROI')} leave their slide, and are kept:", report.leaving)
    print_names(f"{counted(len(report.skipped), 'object')} left out, being no areas:", report.skipped)


_DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")


@cli.command(epilog=example("slideduck remove-rois study.duckdb second/ --set second_reader --dry-run"))
@STUDY
@PATHS
@click.option("--set", "roi_set", default="default", show_default=True, help="Set of ROIs to take from.")
@_DRY_RUN
def remove_rois(study: Path, paths: tuple[str, ...], roi_set: str, dry_run: bool) -> None:
    """Take ROI files out of a study: files, folders or globs; the files themselves stay.

    The slides that they are of are labelled anew by the next `slideduck label`.
    """
    with slideduck.open(study, progress=True) as opened:
        report = opened.remove_rois(paths, roi_set=roi_set, dry_run=dry_run)
    click.echo(
        f"{'would remove' if dry_run else 'removed'} {counted(report.rois, 'ROI')} "
        f"on {counted(len(report.slides), 'slide')}, from {counted(len(report.paths), 'file')}"
    )
    print_names("files:", report.paths)


@cli.command(epilog=example("slideduck remove-slides study.duckdb o1 --dry-run"))
@STUDY
@click.argument("slides", nargs=-1, required=True)
@_DRY_RUN
def remove_slides(study: Path, slides: tuple[str, ...], dry_run: bool) -> None:
    """Remove slides, by name, with their ROIs, tiles, labels, predictions and features; the files themselves stay."""
    with slideduck.open(study, progress=True) as opened:
        report = opened.remove_slides(slides, dry_run=dry_run)
    click.echo(
        f"{'would remove' if dry_run else 'removed'} {counted(len(report.slides), 'slide')}, "
        f"{counted(report.rois, 'ROI')} ({counted(report.roi_files, 'file')}), {counted(report.tiles, 'tile')} "
        f"and {counted(report.predictions, 'prediction')}"
    )


@cli.command(epilog=example("slideduck add-patients study.duckdb patients.csv"))
@STUDY
@click.argument("table", type=click.Path(dir_okay=False, path_type=Path))
def add_patients(study: Path, table: Path) -> None:
    """Read a table of patients: CSV or Parquet with slide, patient, optional site, and further columns."""
    with slideduck.open(study) as opened:
        report = opened.add_patients(table)
    click.echo(f"{counted(report.patients, 'patient')} in {counted(report.rows, 'row')}")
    print_names(f"{counted(len(report.unknown_slides), 'slide')} of the table not in the study:", report.unknown_slides)
    print_names(
        f"{counted(len(report.slides_without), 'slide')} without a patient, each counted as its own patient:",
        report.slides_without,
    )
    if report.split_removed:
        message("the split was removed, since its patients changed; make it again with: slideduck split")


@cli.command(
    epilog=example(
        "slideduck tile study.duckdb --tile-px 256 --tile-um 256",
        "slideduck tile study.duckdb --tile-px 256 --tile-um 20x --stride-div 2",
    )
)
@STUDY
@click.option("--tile-px", type=int, help="Side of a tile as the model sees it, pixels.")
@click.option("--tile-um", type=str, help="Side of a tile in microns, or a magnification such as 20x.")
@click.option("--stride-div", type=float, default=1, show_default=True, help="Steps per tile side; 2 overlaps by half.")
@click.option(
    "--origin", type=(int, int), default=(0, 0), show_default=True, help="Top left corner of tile (0, 0), base pixels."
)
@click.option(
    "--native", is_flag=True,
    help="In place of a size: the grid that matches the JPEG tiles that most slides store, which an export copies "
    "without loss.",
)  # fmt: skip
@click.option("--like", metavar="SLIDE", help="Match the stored tiles of this slide; for --native.")
@click.option("--level", type=click.IntRange(0), default=0, show_default=True, help="Level to match; for --native.")
def tile(
    study: Path, tile_px: int | None, tile_um: str | None, stride_div: float, origin: tuple[int, int], native: bool,
    like: str | None, level: int,
) -> None:  # fmt: skip
    """Lay a grid of tiles on every slide. Several grids live side by side."""
    sized = tile_px is not None and tile_um is not None
    if native is sized or (native and (tile_px is not None or tile_um is not None)):
        raise click.UsageError("give --tile-px and --tile-um, or --native")
    if native and (stride_div != 1 or origin != (0, 0)):
        raise click.UsageError("the stored tiles have no overlap and begin at 0: leave out --stride-div and --origin")
    if not native and (like is not None or level):
        raise click.UsageError("--like and --level are for --native")
    with slideduck.open(study, progress=True) as opened:
        if native:
            found = opened.native_grid(like, level=level)
            click.echo(
                f"stored tiles of {found.spec.tile_px} px at {found.mpp:.6g} microns per pixel, "
                f"on {counted(len(found.slides), 'slide')}"
            )
            print_names(
                f"{counted(len(found.others), 'slide')} that the grid does not match:",
                [f"{name}: {reason}" for name, reason in found.others.items()],
            )
            report = opened.tile(found.spec.tile_px, tile_um=found.spec.tile_um)
        else:
            assert tile_px is not None
            report = opened.tile(tile_px, tile_um=tile_um, stride_div=stride_div, origin=origin)
    if report.slides:
        click.echo(f"grid {report.grid}: {counted(report.tiles, 'tile')} on {counted(report.slides, 'slide')}")
    else:
        click.echo(
            f"grid {report.grid} is there already: {counted(report.total_tiles, 'tile')} "
            f"on {counted(report.total_slides, 'slide')}; nothing to do"
        )
    print_names(f"{counted(len(report.without_tiles), 'slide')} smaller than one tile:", report.without_tiles)
    print_names(
        f"{counted(len(report.enlarged), 'slide')} with fewer pixels than --tile-px in a tile, which will be enlarged:",
        report.enlarged,
    )


# ----------------------------------------------------------------------------------------- querying


@cli.command(
    epilog=example(
        'slideduck sql study.duckdb "SELECT label, count(*) AS tiles FROM labels GROUP BY ALL ORDER BY ALL"',
        'slideduck sql study.duckdb "FROM labels" --parquet labels.parquet',
    )
)
@STUDY
@click.argument("query")
@click.option("--write", is_flag=True, help="Let the query change the study.")
@output_options
def sql(study: Path, query: str, write: bool, output: Output) -> None:
    """Run one SQL query on a study; `-` reads it from standard input. Writes nothing without --write."""
    if query == "-":
        query = sys.stdin.read()
    with slideduck.open(study, read_only=not write) as opened:
        print_rows(opened.sql(query).to_arrow_table(), output)


@cli.command(epilog=example("slideduck info study.duckdb"))
@STUDY
@output_options
def info(study: Path, output: Output) -> None:
    """Print what a study holds."""
    with slideduck.open(study, read_only=True) as opened:
        print_rows(opened.info(), output, title=str(study))


for command in (label, qc, split, stain, *BETON_COMMANDS, plot, *EXPORT_COMMANDS, *QUERY_COMMANDS, add_predictions):
    cli.add_command(command)
