"""The commands that label tiles and split patients."""

from __future__ import annotations

from pathlib import Path

import click

import slideduck
from slideduck.cli.printing import STUDY, Output, example, output_options, print_rows
from slideduck.errors import StudyError
from slideduck.labels.verify import VerifyReport
from slideduck.words import counted, message, print_names

__all__ = ["label", "split"]


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
        "slideduck label study.duckdb --rule coverage --threshold 0.75 --artifact-label pen",
    )
)
@STUDY
@click.option("--rule", type=click.Choice(["centre", "coverage"]), default="centre", show_default=True,
              help="A tile is in an ROI by its centre, or by the area covered.")  # fmt: skip
@click.option(
    "--threshold", type=float, default=0.5, show_default=True, help="Least part covered, for --rule coverage."
)
@click.option("--overlap", type=click.Choice(["smallest", "priority", "largest", "exclude"]), default="smallest",
              show_default=True, help="Which of several ROIs gives the label.")  # fmt: skip
@click.option("--priority", multiple=True, help="A label, in order, the first wins; for --overlap priority. Repeat it.")
@click.option("--method", type=click.Choice(["auto", "inside", "outside", "ignore"]), default="auto", show_default=True,
              help="Which tiles are kept, as Slideflow's roi_method.")  # fmt: skip
@click.option("--artifact-label", multiple=True, help="A label whose ROIs remove their tiles. Repeat it for more.")
@click.option(
    "--set", "roi_sets", multiple=True, default=["default"], show_default=True,
    help="Set of ROIs. Repeat it: the first that a slide has is the one that labels it.",
)  # fmt: skip
@click.option("--memory", metavar="SIZE", help="What DuckDB may use, such as 4GB; default a quarter of the machine's.")
@click.option("--anew", is_flag=True, help="Compute every slide, also those that are up to date.")
@click.option(
    "--verify", is_flag=True, help="Then compare with a plain spatial join, and ROIs with their files: slow, for proof."
)
@click.option("--verify-tiles", type=_Tiles(), default=10_000, show_default=True, help="How many tiles to compare.")
@output_options
def label(
    study: Path, rule: str, threshold: float, overlap: str, priority: tuple[str, ...], method: str,
    artifact_label: tuple[str, ...], roi_sets: tuple[str, ...], memory: str | None, anew: bool, verify: bool,
    verify_tiles: int | None, output: Output,
) -> None:  # fmt: skip
    """Label the tiles of every grid, in the view `labels`, and print how many got which label.

    Slides that are up to date are left alone; a change of the rule alone computes nothing anew.
    """
    with slideduck.open(study, progress=True) as opened:
        report = opened.label(
            rule=rule, threshold=threshold, overlap=overlap, priority=priority, method=method,
            artifact_labels=artifact_label, roi_sets=roi_sets, memory=memory, anew=anew,
        )  # fmt: skip
        message(
            f"labelled {counted(report.slides, 'slide and grid', 'slides and grids')}"
            if report.slides
            else "nothing changed since the last labelling; the rule is in force"
        )
        print_rows(report.counts, output, title="Tiles by label")
        print_names(
            f"{counted(report.empty_rois.num_rows, 'ROI')} without a tile of a grid:",
            [
                f"{r['slide']}: {r['roi_name']} ({r['area_um2']:,.0f} µm², {r['grid']})"
                for r in report.empty_rois.to_pylist()
            ],
        )
        print_names("labels of the rule that no ROI has:", report.unknown_labels)
        if verify:
            _print_verified(opened.verify(verify_tiles))


def _print_verified(report: VerifyReport) -> None:
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
@click.option("--val-fraction", type=float, default=0.3, show_default=True, help="Part that validates.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed gives another split.")
@click.option("--folds", type=int, help="Number of folds, in place of a fraction.")
@click.option("--val-fold", type=int, default=0, show_default=True, help="The fold that validates.")
@click.option("--preserve-site", is_flag=True, help="Keep each site within one fold.")
@click.option("--column", help="Take the split from this column of the patients' table.")
@output_options
def split(
    study: Path, val_fraction: float, seed: int, folds: int | None, val_fold: int, preserve_site: bool,
    column: str | None, output: Output,
) -> None:  # fmt: skip
    """Split the patients into train and validation, balanced over labels; no patient is on both sides."""
    with slideduck.open(study) as opened:
        table = opened.split(
            val_fraction=val_fraction, seed=seed, folds=folds, val_fold=val_fold, preserve_site=preserve_site,
            column=column,
        )  # fmt: skip
    print_rows(table, output, title="Split by patient (label –: all labels)")
