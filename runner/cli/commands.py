"""The runner's commands. Torch is imported inside them: ``slideduck --help`` does not wait for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import click

from slideduck.cli.printing import STUDY, example
from slideduck.errors import RunError
from slideduck.runner.cli.command import RunnerCommand, runner_command
from slideduck.runner.settings.train_config import BY_COLUMNS, GROUPS, TrainConfig
from slideduck.words import counted

__all__ = ["demo", "evaluate", "export_model", "features", "gradcam", "heatmap", "main", "predict", "train"]

F = TypeVar("F", bound=Callable[..., Any])

_RUN = click.argument("run", type=click.Path(file_okay=False, path_type=Path))
_BETON = click.argument("beton", type=click.Path(dir_okay=False, path_type=Path))
_SOURCE = click.argument("source", metavar="STUDY|BETON", type=click.Path(dir_okay=False, path_type=Path))
_GRID = click.option("--grid", metavar="NAME", help="Grid of the study; default the one trained on.")
_CHECKPOINT = click.option(
    "--checkpoint",
    type=click.Choice(["best", "last"]),
    default="best",
    show_default=True,
    help="Which epoch's weights.",
)
_BATCH_SIZE = click.option(
    "--batch-size", type=click.IntRange(min=1), metavar="N", help="Tiles at a time; default as in training."
)
_SLIDES = click.option("--slide", "slides", multiple=True, metavar="NAME", help="Slide; may be repeated; default all.")
_THREADS = click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="Threads that read; default one a core."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON in place of a table.")

#: Settings whose option has another name than the field.
_OPTION_NAMES = {"batch_size_per_rank": "batch-size"}


def _settings(command: F) -> F:
    """Give a command an option for each field of `TrainConfig`."""
    for item in reversed(fields(TrainConfig)):
        choices = item.metadata["choices"]
        plain = {"str": str, "int": int, "float": float, "int | None": int, "str | None": str}[str(item.type)]
        option = click.option(
            "--" + _OPTION_NAMES.get(item.name, item.name.replace("_", "-")),
            item.name,
            type=click.Choice(choices) if choices else plain,
            default=item.default,
            show_default=item.default is not None,
            metavar=None if choices else item.metadata["unit"].upper().replace(" ", "_"),
            help=item.metadata["text"],
        )
        command = option(command)
    return command


class _TrainCommand(RunnerCommand):
    """A command whose help lists the settings of training by what they are about."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options: those of the command itself first, then the settings, group by group."""
        group_of = {name: group for group, names in GROUPS.items() for name in names}
        listed: dict[str, list[tuple[str, str]]] = {"Options": [], **{group: [] for group in GROUPS}}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                listed[group_of.get(parameter.name or "", "Options")].append(record)
        for group, records in listed.items():
            with formatter.section(group):
                formatter.write_dl(records)


@runner_command(cls=_TrainCommand, epilog=example("slideduck train tiles.beton --run runs/first --epochs 20"))
@_BETON
@click.option(
    "--run",
    "--run-dir",
    "run",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="DIR",
    # Torchrun takes --run for an abbreviation of its own --run-path, wherever it stands.
    help="Folder of the run; one that was stopped goes on. Under torchrun write --run-dir.",
)
@_settings
@click.option(
    "--nproc",
    default="auto",
    show_default=True,
    metavar="auto|N",
    help="Processes on this machine; auto is one a GPU, or one without any.",
)
@click.option("--nnodes", type=int, default=1, show_default=True, metavar="N", help="Machines that train together.")
@click.option("--node-rank", type=int, default=0, show_default=True, metavar="K", help="Which of them this is, from 0.")
@click.option("--rendezvous", metavar="HOST:PORT", help="Where machines meet: an address of the one of --node-rank 0.")
@click.option(
    "--restarts",
    type=int,
    default=0,
    show_default=True,
    metavar="N",
    help="Start again this often, from the last checkpoint, after a process was lost.",
)
@click.option(
    "--timeout-minutes",
    type=float,
    default=10.0,
    show_default=True,
    metavar="MINUTES",
    help="End the run if a process does not answer for so long.",
)
@click.option("--folds", is_flag=True, help="Let each fold of the split validate in turn: a run each, in DIR/fold-K.")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    metavar="N",
    help="A run for each of N seeds from --seed on, in DIR/seed-S; with --folds for each of every fold.",
)
@_JSON
def train(
    beton: Path,
    run: Path,
    nproc: str,
    nnodes: int,
    node_rank: int,
    rendezvous: str | None,
    restarts: int,
    timeout_minutes: float,
    folds: bool,
    seeds: int | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train a network on a BETON that `slideduck export` made.

    Its tiles of split train are learnt from, and those of split val validate after each epoch. The run's
    folder gets config.json, metrics.jsonl, best.pt, last.pt, predictions.parquet (validation, best epoch),
    validation.json (its metrics with intervals, calibration, thresholds), steps.jsonl and curves.png. Stopped
    at any time, the same command goes on from the last checkpoint, also in the middle of an epoch; with more
    --epochs, a finished run goes on as well.

    With --folds or --seeds DIR gets several runs, of which finished ones are passed over, summary.json with
    the mean, standard deviation and 95 % interval of each metric, and predictions.parquet with each
    validation tile once.
    """
    config = TrainConfig(**settings)
    from slideduck.runner.ranks.launch import Launch

    how = Launch(nnodes, node_rank, rendezvous, restarts, timeout_minutes)
    if folds or seeds is not None:
        _cross_validate(beton, run, config, as_json, folds=folds, seeds=seeds, nproc=nproc, how=how)
        return
    from slideduck.runner.training.train import train as train_run

    result = train_run(beton, run, config, nproc=nproc, how=how)
    if not result:
        return  # another rank tells
    if as_json:
        click.echo(json.dumps(result, indent=1, ensure_ascii=False))
        return
    from slideduck.runner.scores.report import print_metrics

    print_metrics(
        result["validation"]["metrics"], f"validation, epoch {result['best_epoch']} of {result['epochs']} (best)"
    )
    click.echo(f"run: {run}")


def _cross_validate(beton: Path, run: Path, config: TrainConfig, as_json: bool, **how: Any) -> None:
    """Train several runs and print what they say together; fail if one of them did."""
    from slideduck.runner.training.crossval import cross_validate, print_summary

    summary = cross_validate(beton, run, config, **how)
    if as_json:
        click.echo(json.dumps(summary, indent=1, ensure_ascii=False))
    else:
        print_summary(summary)
        click.echo(f"summary: {run / 'summary.json'}")
    if summary["failed"]:
        raise RunError(
            f"{', '.join(summary['failed'])} failed, so that there is no {run / 'predictions.parquet'}; "
            "mend what is said above, and the same command trains only what is missing"
        )


@runner_command(epilog=example("slideduck evaluate runs/first tiles.beton --split val"))
@_RUN
@_BETON
@click.option("--split", metavar="NAME", help="Only tiles of this split; default all with a label.")
@click.option("--where", metavar="SQL", help="Only tiles that meet this condition on the side-car's columns.")
@_CHECKPOINT
@_BATCH_SIZE
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Parquet of the predictions; default RUN/evaluations/NAME.parquet.",
)
@click.option(
    "--by",
    multiple=True,
    type=click.Choice(BY_COLUMNS),
    help="Also metrics of the tiles of each value of this column; may be repeated.",
)
@click.option(
    "--thresholds",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="JSON|P",
    help="An evaluation of other tiles, or RUN/validation.json: try its thresholds here; or a probability.",
)
@click.option(
    "--temperature",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="JSON",
    help="The same: divide logits by the temperature that was fitted there.",
)
@click.option(
    "--resamples",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    metavar="N",
    help="Resamples of patients for the intervals; 0 for none.",
)
@click.option(
    "--study",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="STUDY",
    help="Also add the predictions to this study, as `slideduck add-predictions` does.",
)
@_JSON
def evaluate(run: Path, beton: Path, as_json: bool, **options: Any) -> None:
    """Compute the metrics of a RUN's network on any BETON, and write its predictions.

    Metrics are of tiles, slides and patients, with 95 % intervals from resamples of patients. The JSON beside
    the predictions also has the tables of reliability diagrams, the thresholds of each class by Youden's J and
    by F1, and the temperature that calibrates these tiles best.
    """
    from slideduck.runner.prediction.evaluate import evaluate as evaluate_run

    result = evaluate_run(run, beton, **options)
    if as_json:
        click.echo(json.dumps(result, indent=1, ensure_ascii=False))
        return
    from slideduck.runner.scores.report import print_by, print_metrics, print_thresholds

    split = f", split {result['split']}" if result["split"] else ""
    where = f", where {result['where']}" if result["where"] else ""
    print_metrics(result["metrics"], f"{beton.name}{split}{where}, epoch {result['epoch']} of {run}")
    if "applied_thresholds" in result:
        print_thresholds(result["applied_thresholds"], f"thresholds of {options['thresholds']}")
    for column, rows in result["by"].items():
        print_by(rows, column)
    click.echo(f"predictions: {result['predictions']}")


@runner_command(
    epilog=example(
        "slideduck predict runs/first study.duckdb --slide A12",
        "slideduck predict runs/first tiles.beton --tta d4",
    )
)
@_RUN
@_SOURCE
@_GRID
@_SLIDES
@_CHECKPOINT
@_BATCH_SIZE
@_THREADS
@click.option("--overwrite", is_flag=True, help="Predict again what is predicted, and replace other checkpoints.")
@click.option(
    "--tta",
    type=click.Choice(["none", "d4"]),
    default="none",
    show_default=True,
    help="d4 is the mean of the probabilities over the eight positions of each tile.",
)
@click.option(
    "--mc-dropout",
    type=int,
    default=0,
    metavar="N",
    help="Mean of N passes with dropout on, and how uncertain they are.",
)
@click.option("--mc-seed", type=int, default=0, show_default=True, metavar="N", help="Seed of what those passes drop.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Parquet for a BETON; default RUN/predictions/NAME.parquet.",
)
@_JSON
def predict(run: Path, source: Path, out: Path | None, as_json: bool, **options: Any) -> None:
    """Predict every tile of a grid, straight from the slides, into the table predictions of a STUDY.

    Slides that this checkpoint has predicted are passed over, so that a call that was stopped goes on. With a
    BETON, predict all of its tiles, those without a label too, into a Parquet file.
    """
    from slideduck.runner.prediction.tile_source import is_beton

    if is_beton(source):
        _predict_beton(run, source, out, as_json, **options)
        return
    if out is not None:
        raise click.UsageError("--out is for a BETON; predictions of a STUDY go into its tables")
    import slideduck
    from slideduck.runner.prediction.study import predict as predict_run

    options["slides"] = options["slides"] or None
    with slideduck.open(source, progress=True) as opened:
        report = predict_run(run, opened, **options)
    if as_json:
        click.echo(json.dumps(vars(report), indent=1, ensure_ascii=False))
        return
    amount = f"{counted(report.tiles, 'tile')} of {counted(len(report.predicted), 'slide')}"
    click.echo(f"{amount} predicted, grid {report.grid}")
    if report.skipped:
        click.echo(f"{counted(len(report.skipped), 'slide')} predicted before; --overwrite predicts again", err=True)


def _predict_beton(run: Path, beton: Path, out: Path | None, as_json: bool, **options: Any) -> None:
    """Predict the tiles of a beton."""
    if any([options.pop("grid"), options.pop("slides"), options.pop("overwrite")]):
        raise click.UsageError("--grid, --slide and --overwrite are for a STUDY; a BETON is predicted whole")
    from slideduck.runner.prediction.beton import predict_beton

    report = predict_beton(run, beton, out=out, progress=True, **options)
    if as_json:
        click.echo(json.dumps(vars(report), indent=1, ensure_ascii=False))
    else:
        click.echo(f"{counted(report.tiles, 'tile')} predicted, grid {report.grid}: {report.path}")


@runner_command(
    epilog=example(
        "slideduck heatmap runs/first study.duckdb A12 A12.png",
        "slideduck heatmap runs/first study.duckdb A12 A12.geojson --merge",
    )
)
@_RUN
@STUDY
@click.argument("slide")
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@_GRID
@_CHECKPOINT
@click.option(
    "--window",
    type=click.Choice(["flat", "peaked"]),
    default="flat",
    show_default=True,
    help="How tiles that overlap are averaged; peaked counts the middle of a tile most.",
)
@click.option("--merge", is_flag=True, help="In GeoJSON, one annotation for each class in place of an object a tile.")
def heatmap(run: Path, study: Path, slide: str, out: Path, **options: Any) -> None:
    """Draw a SLIDE of a STUDY with the probability of each class over it.

    OUT is a .png, .pdf or .svg; or a .geojson, which QuPath opens over the slide. Where tiles overlap, each place
    shows the mean of those that cover it. Where the slide is not predicted yet, it is predicted first.
    """
    import slideduck
    from slideduck.runner.maps.heatmap import heatmap as draw_heatmap

    with slideduck.open(study, progress=True) as opened:
        click.echo(draw_heatmap(run, opened, slide, out, **options))


@runner_command(
    epilog=example(
        "slideduck features runs/first study.duckdb",
        "slideduck features runs/first study.duckdb features --format h5",
    )
)
@_RUN
@_SOURCE
@click.argument("out", required=False, type=click.Path(path_type=Path))
@click.option("--format", type=click.Choice(["parquet", "h5"]), help="Of the files in OUT; h5 is for CLAM and TRIDENT.")
@_GRID
@_SLIDES
@_CHECKPOINT
@_BATCH_SIZE
@_THREADS
@click.option("--overwrite", is_flag=True, help="Compute again what is there, and replace other checkpoints.")
@_JSON
def features(run: Path, source: Path, out: Path | None, slides: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Compute the penultimate layer of a RUN's network for every tile.

    Tiles are those of a grid, straight from the slides of a STUDY, or those of a BETON. The features go into a
    file for each slide in the folder OUT, or without OUT into a table of the study: features_512 for 512 numbers a
    tile. Slides that are there are passed over, so that a call that was stopped goes on.
    """
    import slideduck
    from slideduck.runner.prediction.features import features as compute_features
    from slideduck.runner.prediction.tile_source import is_beton

    with ExitStack() as stack:
        opened = source if is_beton(source) else stack.enter_context(slideduck.open(source, progress=True))
        report = compute_features(run, opened, out, slides=slides or None, progress=True, **options)
    if as_json:
        click.echo(json.dumps(vars(report), indent=1, ensure_ascii=False))
        return
    amount = f"{counted(report.tiles, 'tile')} of {counted(len(report.computed), 'slide')}"
    click.echo(f"features of {amount}, {counted(report.width, 'number')} each, grid {report.grid}: {report.into}")
    if report.skipped:
        click.echo(f"{counted(len(report.skipped), 'slide')} there before; --overwrite computes again", err=True)


@runner_command(epilog=example("slideduck gradcam runs/first study.duckdb A12-256-256 A12-768-256 gradcam.png"))
@_RUN
@_SOURCE
@click.argument("tile_ids", metavar="TILE_ID...", nargs=-1, required=True)
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@_GRID
@_CHECKPOINT
def gradcam(run: Path, source: Path, tile_ids: tuple[str, ...], out: Path, **options: Any) -> None:
    """Draw tiles of a STUDY or a BETON with what speaks for each class, by Grad-CAM, as .png, .pdf or .svg."""
    from slideduck.runner.maps.gradcam import gradcam as draw_gradcam

    click.echo(draw_gradcam(run, source, tile_ids, out, **options))


@runner_command(
    epilog=example(
        "slideduck export-model runs/first model.onnx", "slideduck export-model runs/first weights/model.safetensors"
    )
)
@_RUN
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@_CHECKPOINT
@click.option(
    "--layout",
    type=click.Choice(["nhwc", "nchw"]),
    default="nhwc",
    show_default=True,
    help="Order of the axes of the tiles that an ONNX model takes.",
)
@_JSON
def export_model(run: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Write a RUN's network into OUT for other programs: .onnx or .safetensors.

    An ONNX model takes uint8 RGB tiles in batches of any size and gives probabilities: what comes before and
    after the network is in it. Its classes, microns per pixel and tile size are in its metadata. It is checked
    by onnxruntime before it appears. Safetensors holds the weights; config.json and preprocessor_config.json
    beside it say what they are.
    """
    from slideduck.runner.prediction.export_model import export_model as write_model

    report = write_model(run, out, **options)
    if as_json:
        click.echo(json.dumps(vars(report), indent=1, ensure_ascii=False))
        return
    click.echo(f"{out}: epoch {report.epoch}, {report.bytes / 1e6:,.1f} MB, classes {', '.join(report.classes)}")
    if report.format == "onnx":
        click.echo(
            f"opset {report.opset}, tiles {str(report.layout).upper()}; what it gives differs by "
            f"{report.largest_difference:.1g} at most, on {counted(report.random_tiles, 'tile')} of noise and "
            f"{report.real_tiles} of the beton"
        )


@runner_command(epilog=example("slideduck demo demo"))
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path), default=Path("demo"))
def demo(directory: Path) -> None:
    """Make a small cohort in DIRECTORY and run every step on it: slides to heatmap.

    The directory is `demo` where none is given.
    """
    from slideduck.runner.demo.run import run_demo

    run_demo(directory)


def main() -> None:
    """Run the command line; what ``python -m slideduck.runner`` and torchrun start."""
    from slideduck.cli.group import cli

    cli(prog_name="slideduck")
