"""The commands that label tiles and split patients."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import slideduck
from slideduck.catalog.given_labels import COORDINATES
from slideduck.cli.options import limit_option
from slideduck.cli.printing import STUDY, Output, example, output_options, print_rows
from slideduck.errors import StudyError
from slideduck.labels.verify import VerifyReport
from slideduck.words import counted, message, print_counted, print_line, print_names

if TYPE_CHECKING:
    from slideduck.labels.label import LabelReport
    from slideduck.labels.rename import LabelRenamed
    from slideduck.labels.split_report import SplitReport
    from slideduck.labels.tables import LabelsAdded

__all__ = [
    "add_labels",
    "label",
    "print_alike",
    "print_rule",
    "print_split",
    "print_verified",
    "remove_labels",
    "rename_label",
    "split",
]


class _Tiles(click.ParamType[int | None]):
    """A number of tiles, or ``all``."""

    name = "N|all"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Return the number, or None for all."""
        if value == "all" or value is None:
            return None
        try:
            number = int(str(value))
        except ValueError:
            number = 0
        if number < 1:
            self.fail(f"{value!r} is neither a number of tiles nor all", param, ctx)
        return number


@click.command(
    epilog=example(
        "slideduck label study.duckdb",
        "slideduck label study.duckdb --set second_reader --set default --verify",
        "slideduck label study.duckdb --rule coverage --threshold 0.75 --artifact-label stroma",
        "slideduck label study.duckdb --no-artifact-label",
        "slideduck label study.duckdb --reset",
    )
)
@STUDY
@click.option("--rule", type=click.Choice(["centre", "coverage"]),
              help="A tile is in an ROI by its centre (default), or by the area covered.")  # fmt: skip
@click.option("--threshold", type=float, help="Least part covered, for --rule coverage; default 0.5.")
@click.option("--overlap", type=click.Choice(["smallest", "priority", "largest", "exclude"]),
              help="Which of several ROIs gives the label; default smallest.")  # fmt: skip
@click.option("--priority", multiple=True, help="A label, in order, the first wins; for --overlap priority. Repeat it.")
@click.option("--method", type=click.Choice(["auto", "inside", "outside", "ignore"]),
              help="Which tiles are kept, as Slideflow's roi_method; default auto.")  # fmt: skip
@click.option(
    "--artifact-label", "artifact_labels", multiple=True,
    help="A label whose ROIs remove their tiles, in place of those named before. Repeat it for more.",
)  # fmt: skip
@click.option("--no-artifact-label", is_flag=True, help="No label removes tiles any more.")
@click.option(
    "--set", "roi_sets", multiple=True,
    help="Set of ROIs; default default. Repeat it: the first that a slide has is the one that labels it.",
)  # fmt: skip
@click.option(
    "--from", "labels_from", multiple=True, metavar="SOURCE",
    help="Where labels come from: rois (default), or a name of add-labels. Repeat it: the first that labels a tile "
    "does.",
)  # fmt: skip
@click.option("--reset", is_flag=True, help="Take the defaults for all that is not given.")
@click.option("--memory", metavar="SIZE", help="What DuckDB may use, such as 4GB; default a quarter of the machine's.")
@click.option("--anew", is_flag=True, help="Compute every slide, also those that are up to date.")
@click.option(
    "--verify", is_flag=True, help="Then compare with a plain spatial join, and ROIs with their files: slow, for proof."
)
@click.option("--verify-tiles", type=_Tiles(), default=10_000, show_default=True, help="How many tiles to compare.")
@output_options
def label(
    study: Path, priority: tuple[str, ...], artifact_labels: tuple[str, ...], no_artifact_label: bool,
    roi_sets: tuple[str, ...], labels_from: tuple[str, ...], verify: bool, verify_tiles: int | None, output: Output,
    **settings: Any,
) -> None:  # fmt: skip
    """Label the tiles of every grid, in the view `labels`, and print how many got which label.

    The rule stays in force: what is not given is as it was in the study, and --reset takes the defaults. Slides that
    are up to date are left alone; a change of the rule alone computes no pair of tile and ROI anew.
    """
    if artifact_labels and no_artifact_label:
        raise click.UsageError("give either --artifact-label or --no-artifact-label")
    with slideduck.open(study, progress=True) as opened:
        report = opened.label(
            priority=priority or None,
            artifact_labels=() if no_artifact_label else artifact_labels or None,
            roi_sets=roi_sets or None,
            labels_from=labels_from or None,
            **settings,
        )
        verified = opened.verify(verify_tiles) if verify else None
    print_rule(report)
    print_rows(report.counts, output, title="Tiles by label")
    print_names(
        f"{counted(report.empty_rois.num_rows, 'ROI')} without a tile of a grid:",
        [
            f"{r['slide']}: {r['roi_name']} ({r['area_um2']:,.0f} µm², {r['grid']})"
            for r in report.empty_rois.to_pylist()
        ],
    )
    print_names(
        "labels of the rule that no ROI has any more; leave them out by naming the others, or all by "
        "--no-artifact-label or another --overlap:",
        report.unknown_labels,
    )
    print_alike(study, report)
    if verified is not None:
        print_verified(verified)


def print_rule(report: LabelReport) -> None:
    """Say what became of the rule, and of the labels by that."""
    for change in report.changes:
        message(change)
    if report.slides:
        message(f"labelled {counted(report.slides, 'slide and grid', 'slides and grids')}")
    elif not report.changes:
        message("nothing changed since the last labelling; the rule is in force")
    if report.compared:
        message(f"{report.relabelled:,} of {counted(report.compared, 'tile')} changed label")
    if report.kept_before != report.kept_now:
        message(f"{counted(report.kept_now, 'tile is', 'tiles are')} kept, {report.kept_before:,} before")
    if report.still:
        message(f"as before: {'; '.join(report.still)} (the defaults: --reset)")


def print_alike(study: Path, report: LabelReport) -> None:
    """Name the labels that look like one label written in two ways."""
    names = [
        f"{a!r} ({counted(report.rois_of[a], 'ROI')}) and {b!r} ({counted(report.rois_of[b], 'ROI')}): "
        f"slideduck rename-label {shlex.join([str(study), a, b])}"
        for a, b in report.alike
    ]
    print_names("labels that are nearly alike; if they are one, rename it:", names)


@click.command(
    epilog=example(
        "slideduck add-labels study.duckdb consensus.csv --grid 256px_256um",
        "slideduck label study.duckdb --from consensus --from rois",
    )
)
@STUDY
@click.argument("table", type=click.Path(path_type=Path))
@click.option("--name", default="consensus", show_default=True, help="What the set of labels is called.")
@click.option("--grid", metavar="NAME", help="The grid of the tiles; needed where the study has several.")
@click.option("--coordinates", type=click.Choice(list(COORDINATES)),
              help="What columns x and y are: the tile's centre rounded down, its top left corner, or column and row.",
)  # fmt: skip
@click.option("--class", "classes", multiple=True, metavar="COLUMN",
              help="A column of soft labels, where not all further columns are. Repeat it.")  # fmt: skip
@click.option("--replace", is_flag=True, help="Take the place of the labels of that name.")
@click.option("--memory", metavar="SIZE", help="What DuckDB may use, such as 4GB; default a quarter of the machine's.")
@limit_option
def add_labels(study: Path, table: Path, classes: tuple[str, ...], **options: Any) -> None:
    """Read labels of tiles from a table: Parquet or CSV with tile_id or places, and labels, numbers or soft labels.

    Places are slide with loc_x and loc_y, base_x and base_y, or grid_x and grid_y; labels are a column label, numbers a
    column value, soft labels a column for each class. The table is checked whole before any of it is kept.
    `slideduck label --from NAME` takes labels from it then.
    """
    with slideduck.open(study, progress=True) as opened:
        report = opened.add_labels(table, classes=classes or None, **options)
    _print_added(study, report)


def _print_added(study: Path, report: LabelsAdded) -> None:
    """Say what was added, and what is to be done then."""
    called = {"labels": "label", "numbers": "number", "soft": "soft label"}[report.kind]
    print_line(
        f"{report.name}: {counted(report.tiles, called)} of grid {report.grid} on {counted(report.slides, 'slide')}"
        + (f" ({', '.join(report.classes)})" if 0 < len(report.classes) <= 20 else "")
    )
    if report.unchanged:
        message("the study has these labels already; nothing was done")
        return
    if report.missing:
        message(f"{counted(report.missing, 'row')} without a label (empty, NA and the like), left out")
    if report.repeated:
        message(f"{counted(report.repeated, 'row')} say again what another row says")
    if report.tied:
        message(
            f"{counted(report.tied, 'tile')} with several classes of the greatest probability: the label is the first "
            "of them by name"
        )
    if report.replaced:
        message("they took the place of the labels of that name")
    remedy = "" if report.in_force else f" --from {shlex.quote(report.name)}"
    message(f"label the tiles by them with: slideduck label {study}{remedy}")


@click.command(
    epilog=example("slideduck label study.duckdb --from rois", "slideduck remove-labels study.duckdb consensus")
)
@STUDY
@click.argument("name")
@click.option("--grid", metavar="NAME", help="Only those of this grid.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
def remove_labels(study: Path, name: str, grid: str | None, dry_run: bool) -> None:
    """Take labels that add-labels added out of a study; the file that they came from stays."""
    with slideduck.open(study, progress=True) as opened:
        report = opened.remove_labels(name, grid=grid, dry_run=dry_run)
    print_line(
        f"{'would remove' if dry_run else 'removed'} {report.name}: {counted(report.tiles, 'tile')} "
        f"of {counted(len(report.grids), 'grid')} ({', '.join(report.grids)})"
    )


@click.command(
    epilog=example(
        "slideduck rename-label study.duckdb stroma connective --dry-run",
        "slideduck rename-label study.duckdb stroma ''",
    )
)
@STUDY
@click.argument("old")
@click.argument("new")
@click.option("--dry-run", is_flag=True, help="Say what would be renamed, and rename nothing.")
def rename_label(study: Path, old: str, new: str, dry_run: bool) -> None:
    """Rename a label in all of a study, or merge two: its ROIs, its rule, and files added later.

    NEW may be another label, which the two are then, or '' for none. The holes of the slides concerned are found anew.
    """
    with slideduck.open(study, progress=True) as opened:
        report = opened.rename_label(old, new, dry_run=dry_run)
    _print_renamed(study, report, dry_run=dry_run)


def _print_renamed(study: Path, report: LabelRenamed, *, dry_run: bool) -> None:
    """Say what was renamed, what becomes of it, and what stays."""
    called = "no label" if report.new is None else repr(report.new)
    if report.new == report.old:
        print_line(f"files that are added later {'would keep' if dry_run else 'keep'} the label {report.old!r}")
        return
    print_line(
        f"{'would rename' if dry_run else 'renamed'} {report.old!r} to {called}: {counted(report.rois, 'ROI')} "
        f"on {counted(len(report.slides), 'slide')}"
    )
    print_names(
        f"{counted(len(report.sets), 'set')} of labels that {'has' if len(report.sets) == 1 else 'have'} it:",
        report.sets,
    )
    if not report.rois and not report.sets:
        message(f"no ROI has the label {report.old!r} any more: it was renamed before")
        return
    if report.merged:
        message(
            f"{counted(report.merged, 'ROI')} had the label {called} already: the two are one, and no other renaming "
            "tells them apart again"
        )
    print_counted(
        "ROI within another of that label, now a hole of it",
        "ROIs within others of that label, now holes of them",
        report.holes,
    )
    print_counted(
        "ROI within such a hole, now a hole no more", "ROIs within such holes, now holes no more", report.islands
    )
    for change in report.rule:
        message(change)
    message("files that are added later are renamed, too; betons and predictions keep the labels that they have")
    if not dry_run:
        message(f"label the slides anew with: slideduck label {study}")


def print_verified(report: VerifyReport) -> None:
    """Say whether labels are those of the spatial join."""
    message(
        f"verified {counted(report.tiles, 'tile')} on {counted(report.slides, 'slide and grid', 'slides and grids')} "
        f"by a spatial join: {counted(report.pairs, 'pair')} of a tile and an ROI, "
        f"coverages differ by at most {report.largest_difference:.1g}"
    )
    wrong = report.differences.num_rows
    if wrong:
        print_rows(report.differences, Output(), title="Pairs that differ")
        raise StudyError(
            f"{counted(wrong, 'pair differs', 'pairs differ')} from the spatial join; was the study changed by SQL? "
            "Label it with --anew; if they differ again, this is a mistake of slideduck: please report it"
        )
    if report.sets.sets:
        message(
            f"compared {counted(report.sets.sets, 'set')} of labels ({counted(report.sets.tiles, 'tile')}) with what "
            "was added"
        )
    print_names("sets of labels that cannot be compared with a file:", report.sets.unverified)
    if report.sets.differences:
        print_names("sets of labels that are not as they were added:", report.sets.differences)
        number = len(report.sets.differences)
        raise StudyError(
            f"{counted(number, 'set')} of labels {'differs' if number == 1 else 'differ'} from what was added; was the "
            "study changed by SQL? Add them again with add-labels --replace, and label"
        )
    message(f"compared {counted(report.drawn.rois, 'ROI')} with what the files draw, along lines")
    print_names("ROI files and ROIs that cannot be compared:", report.drawn.unverified)
    different = report.drawn.differences.num_rows
    if different:
        print_rows(report.drawn.differences, Output(), title="ROIs that differ from their files")
        raise StudyError(
            f"{counted(different, 'ROI differs from its file', 'ROIs differ from their files')}; was the study made by "
            "an older slideduck, or changed by SQL? Take the files out with remove-rois, add them again and label; if "
            "they differ again, this is a mistake of slideduck: please report it"
        )


@click.command(
    epilog=example(
        "slideduck split study.duckdb --val-fraction 0.3 --seed 0",
        "slideduck split study.duckdb --folds 2 --val-fold 1",
    )
)
@STUDY
@click.option("--val-fraction", type=float, help="Part that validates; 0.3 where nothing else says how to split.")
@click.option("--seed", type=int, help="Another seed gives another split; default 0.")
@click.option("--folds", type=int, help="Number of folds, in place of a fraction.")
@click.option(
    "--val-fold", type=int, help="The fold that validates; default 0. With --column it says that the column has folds."
)
@click.option("--preserve-site", is_flag=True, help="Keep each site within one fold.")
@click.option("--column", help="Take the split from this column of the patients' table.")
@output_options
def split(
    study: Path, val_fraction: float | None, seed: int | None, folds: int | None, val_fold: int | None,
    preserve_site: bool, column: str | None, output: Output,
) -> None:  # fmt: skip
    """Split the patients into train and validation, balanced over labels; no patient is on both sides.

    Without a fraction, folds or a column, the split is made again as the one in force was, but for what is given.
    """
    with slideduck.open(study) as opened:
        report = opened.split(
            val_fraction=val_fraction, seed=seed, folds=folds, val_fold=val_fold, preserve_site=preserve_site,
            column=column,
        )  # fmt: skip
    print_rows(report.counts, output, title="Split by patient (label –: all labels)")
    print_split(report, study)


def print_split(report: SplitReport, study: Path) -> None:
    """Say how the split was made, what of an earlier one changed, and what is to be known of its sides."""
    was = f"{report.before.text} -> " if report.before not in (None, report.rule) else ""
    again = ", as before" if report.before == report.rule else ""
    message(f"split: {was}{report.rule.text}{again}")
    if report.changed:
        message(
            f"{counted(report.changed, 'patient')} changed sides; betons that were exported before keep the old split"
        )
    _print_warnings(report, study)


def _print_warnings(report: SplitReport, study: Path) -> None:
    """Say what is to be known of the sides."""
    print_counted(
        "slide without a patient, its own patient", "slides without a patient, each its own patient", report.alone
    )
    print_names(
        f"WARNING: rows of the patients' table most likely mean {len(report.meant):,} of them, so that slides of one "
        "patient may be on both sides; correct the names in the table, add it again, and split again:",
        [f"{slide}: {name!r} in the table" for slide, name in report.meant.items()],
    )
    print_names(
        "WARNING: these may be one patient each, and are on different sides; give them one name in the patients' "
        "table, add it again, and split again:",
        report.suspects,
    )
    print_names(
        f"WARNING: {counted(len(report.unsided), 'slide')} on no side, not being in the patients' table:",
        report.unsided,
    )
    print_names("WARNING: sides that lack a label:", report.lacking)
    print_names(
        "WARNING: labels that differ by case or spaces alone; make them one with:",
        [
            f"slideduck rename-label {study} {shlex.quote(label)} {shlex.quote(labels[0])}"
            for labels in report.near_labels
            for label in labels[1:]
        ],
    )
    print_names(
        "patients at several sites, which therefore stay in one fold:",
        [f"{patient}: {', '.join(sites)}" for patient, sites in report.joined_sites.items()],
    )
    print_names("sides of the column that are neither train, val nor test:", report.unknown_sides)
