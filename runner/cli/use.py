"""The commands that use a trained network: evaluate, predict, heatmap, features, gradcam, export-model.

Torch is imported inside them: ``slideduck --help`` does not wait for it.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from slideduck.cli.printing import SOURCE, STUDY, example, existing_study, print_json
from slideduck.runner.cli.command import runner_command
from slideduck.runner.cli.options import BATCH_SIZE, BETON, CHECKPOINT, GRID, JSON, RUN, SLIDES, THREADS, TRUST
from slideduck.runner.settings.folders import require_checkpoint
from slideduck.runner.settings.train_config import BY_COLUMNS
from slideduck.words import counted, message, print_line

__all__ = ["evaluate", "export_model", "features", "gradcam", "heatmap", "predict"]

ONLY = click.option(
    "--only", multiple=True, metavar="NAME", help="Only this class, label or number; may be repeated.  [default: all]"
)


@runner_command(epilog=example("slideduck evaluate runs/first tiles.beton --split val"))
@RUN
@BETON
@click.option("--split", metavar="NAME", help="Only tiles of this split; default all with a label.")
@click.option("--where", metavar="SQL", help="Only tiles that meet this condition on the side-car's columns.")
@CHECKPOINT
@TRUST
@BATCH_SIZE
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
    callback=existing_study,
    help="Also add the predictions to this study, as `slideduck add-predictions` does.",
)
@JSON
def evaluate(run: Path, beton: Path, as_json: bool, **options: Any) -> None:
    """Compute the metrics of a RUN's network on any BETON, and write its predictions.

    Metrics are of tiles, slides and patients, with 95 % intervals from resamples of patients. The JSON beside
    the predictions also has the tables of reliability diagrams, the thresholds of each class by Youden's J and
    by F1, and the temperature that calibrates these tiles best.
    """
    require_checkpoint(run, options["checkpoint"])
    from slideduck.runner.cli.first import check_evaluation

    check_evaluation(beton, **options)
    from slideduck.runner.prediction.evaluate import evaluate as evaluate_run

    result = evaluate_run(run, beton, **options)
    if as_json:
        print_json(result)
        return
    from slideduck.runner.cli.tables import print_by, print_metrics, print_thresholds

    split = f", split {result['split']}" if result["split"] else ""
    where = f", where {result['where']}" if result["where"] else ""
    print_metrics(result["metrics"], f"{beton.name}{split}{where}, epoch {result['epoch']} of {run}")
    if "applied_thresholds" in result:
        print_thresholds(result["applied_thresholds"], f"thresholds of {options['thresholds']}")
    for column, rows in result["by"].items():
        print_by(rows, column)
    print_line(f"predictions: {result['predictions']}")


@runner_command(
    epilog=example(
        "slideduck predict runs/first study.duckdb --slide A12",
        "slideduck predict runs/first tiles.beton --tta d4",
    )
)
@RUN
@SOURCE
@GRID
@SLIDES
@CHECKPOINT
@TRUST
@BATCH_SIZE
@THREADS
@click.option("--overwrite", is_flag=True, help="Predict again what is predicted, and replace other checkpoints.")
@click.option(
    "--tta",
    type=click.Choice(["none", "d4"]),
    default="none",
    show_default=True,
    help="d4 is the mean over the eight positions of each tile.",
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
@JSON
def predict(run: Path, source: Path, out: Path | None, as_json: bool, **options: Any) -> None:
    """Predict every tile of a grid, straight from the slides, into the table predictions of a STUDY.

    Numbers, of --task regression, go into the table predicted_numbers. Slides that this checkpoint has predicted
    are passed over, so that a call that was stopped goes on. With a BETON, predict all of its tiles, those without a
    label too, into a Parquet file.
    """
    require_checkpoint(run, options["checkpoint"])
    from slideduck.runner.cli.first import check_names

    if source.suffix == ".beton":
        _predict_beton(run, source, out, as_json, **options)
        return
    if out is not None:
        raise click.UsageError("--out is for a BETON; predictions of a STUDY go into its tables")
    import slideduck

    with slideduck.open(source, sealed=True, progress=True) as opened:
        check_names(opened, options["grid"], options["slides"])
        from slideduck.runner.prediction.study import predict as predict_run

        options["slides"] = options["slides"] or None
        report = predict_run(run, opened, **options)
    if as_json:
        print_json(vars(report))
        return
    amount = f"{counted(report.tiles, 'tile')} of {counted(len(report.predicted), 'slide')}"
    print_line(f"{amount} predicted, grid {report.grid}")
    if report.skipped:
        message(f"{counted(len(report.skipped), 'slide')} predicted before; --overwrite predicts again")


def _predict_beton(run: Path, beton: Path, out: Path | None, as_json: bool, **options: Any) -> None:
    """Predict the tiles of a beton."""
    if any([options.pop("grid"), options.pop("slides"), options.pop("overwrite")]):
        raise click.UsageError("--grid, --slide and --overwrite are for a STUDY; a BETON is predicted whole")
    from slideduck.files.write import check_folder
    from slideduck.runner.cli.first import check_source

    check_source(beton)
    if out is not None:
        check_folder(out.absolute())
    from slideduck.runner.prediction.beton import predict_beton

    report = predict_beton(run, beton, out=out, progress=True, **options)
    if as_json:
        print_json(vars(report))
    else:
        print_line(f"{counted(report.tiles, 'tile')} predicted, grid {report.grid}: {report.path}")


@runner_command(
    epilog=example(
        "slideduck heatmap runs/first study.duckdb A12 A12.png",
        "slideduck heatmap runs/first study.duckdb A12 A12.geojson --merge",
    )
)
@RUN
@STUDY
@click.argument("slide")
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@ONLY
@GRID
@CHECKPOINT
@TRUST
@click.option(
    "--window",
    type=click.Choice(["flat", "peaked"]),
    default="flat",
    show_default=True,
    help="How tiles that overlap are averaged; peaked counts the middle of a tile most.",
)
@click.option("--merge", is_flag=True, help="In GeoJSON, one annotation for each class in place of an object a tile.")
@click.option(
    "--frame",
    type=click.Choice(["bounds", "level0"]),
    help="Corner that GeoJSON counts from: bounds, of what was scanned, as QuPath has it; level0, of the slide.",
)
def heatmap(run: Path, study: Path, slide: str, out: Path, **options: Any) -> None:
    """Draw a SLIDE of a STUDY with the probability of each class or label, or each number, over it.

    OUT is a .png, .pdf or .svg; or a .geojson, which QuPath opens over the slide. Where tiles overlap, each place
    shows the mean of those that cover it. Where the slide is not predicted yet, it is predicted first.
    """
    require_checkpoint(run, options["checkpoint"])
    import slideduck
    from slideduck.runner.cli.first import check_names, check_picture_of

    check_picture_of(out, also=(".geojson",))
    with slideduck.open(study, sealed=True, progress=True) as opened:
        check_names(opened, options["grid"], [slide])
        from slideduck.runner.maps.heatmap import heatmap as draw_heatmap

        drawn = draw_heatmap(run, opened, slide, out, **options)
    print_line(drawn)


@runner_command(
    epilog=example(
        "slideduck features runs/first study.duckdb",
        "slideduck features runs/first study.duckdb features --format h5",
    )
)
@RUN
@SOURCE
@click.argument("out", required=False, type=click.Path(path_type=Path))
@click.option("--format", type=click.Choice(["parquet", "h5"]), help="Of the files in OUT; h5 is for CLAM and TRIDENT.")
@GRID
@SLIDES
@CHECKPOINT
@TRUST
@BATCH_SIZE
@THREADS
@click.option("--overwrite", is_flag=True, help="Compute again what is there, and replace other checkpoints.")
@JSON
def features(run: Path, source: Path, out: Path | None, slides: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Compute the penultimate layer of a RUN's network for every tile.

    Tiles are those of a grid, straight from the slides of a STUDY, or those of a BETON. The features go into a
    file for each slide in the folder OUT, or without OUT into a table of the study: features_512 for 512 numbers a
    tile. Slides that are there are passed over, so that a call that was stopped goes on.
    """
    require_checkpoint(run, options["checkpoint"])
    import slideduck
    from slideduck.runner.cli.first import check_feature_files, check_names, check_source

    is_beton = source.suffix == ".beton"
    check_feature_files(out, options["format"], is_beton=is_beton)
    with ExitStack() as stack:
        if is_beton:
            check_source(source)
        opened = source if is_beton else stack.enter_context(slideduck.open(source, sealed=True, progress=True))
        if isinstance(opened, slideduck.Study):
            check_names(opened, options["grid"], slides)
        from slideduck.runner.prediction.features import features as compute_features

        report = compute_features(run, opened, out, slides=slides or None, progress=True, **options)
    if as_json:
        print_json(vars(report))
        return
    amount = f"{counted(report.tiles, 'tile')} of {counted(len(report.computed), 'slide')}"
    print_line(f"features of {amount}, {counted(report.width, 'number')} each, grid {report.grid}: {report.into}")
    if report.skipped:
        message(f"{counted(len(report.skipped), 'slide')} there before; --overwrite computes again")


@runner_command(epilog=example("slideduck gradcam runs/first study.duckdb A12-256-256 A12-768-256 gradcam.png"))
@RUN
@SOURCE
@click.argument("tile_ids", metavar="TILE_ID...", nargs=-1, required=True)
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@ONLY
@GRID
@CHECKPOINT
@TRUST
def gradcam(run: Path, source: Path, tile_ids: tuple[str, ...], out: Path, **options: Any) -> None:
    """Draw tiles of a STUDY or a BETON with what speaks for each class, label or number (.png, .pdf, .svg).

    By Grad-CAM; of a number it shows what raises it.
    """
    require_checkpoint(run, options["checkpoint"])
    import slideduck
    from slideduck.runner.cli.first import check_names, check_picture_of, check_source

    check_picture_of(out)
    is_beton = source.suffix == ".beton"
    with ExitStack() as stack:
        if is_beton:
            check_source(source)
        opened = source if is_beton else stack.enter_context(slideduck.open(source, read_only=True, sealed=True))
        if isinstance(opened, slideduck.Study):
            check_names(opened, options["grid"], ())
        from slideduck.runner.maps.gradcam import gradcam as draw_gradcam

        print_line(draw_gradcam(run, opened, tile_ids, out, **options))


@runner_command(
    epilog=example(
        "slideduck export-model runs/first model.onnx", "slideduck export-model runs/first weights/model.safetensors"
    )
)
@RUN
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@CHECKPOINT
@TRUST
@click.option(
    "--layout",
    type=click.Choice(["nhwc", "nchw"]),
    default="nhwc",
    show_default=True,
    help="Order of the axes of the tiles that an ONNX model takes.",
)
@JSON
def export_model(run: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Write a RUN's network into OUT for other programs: .onnx or .safetensors.

    An ONNX model takes uint8 RGB tiles in batches of any size and gives probabilities: what comes before and
    after the network is in it. Its classes, microns per pixel and tile size are in its metadata. It is checked
    by onnxruntime before it appears. Safetensors holds the weights; config.json and preprocessor_config.json
    beside it say what they are.
    """
    from slideduck.runner.settings.modelfiles import require_model_file

    require_model_file(out)
    require_checkpoint(run, options["checkpoint"])
    from slideduck.runner.prediction.export_model import export_model as write_model

    report = write_model(run, out, **options)
    if as_json:
        print_json(vars(report))
        return
    print_line(f"{out}: epoch {report.epoch}, {report.bytes / 1e6:,.1f} MB, classes {', '.join(report.classes)}")
    if report.format == "onnx":
        print_line(
            f"opset {report.opset}, tiles {str(report.layout).upper()}; what it gives differs by "
            f"{report.largest_difference:.1g} at most, on {counted(report.random_tiles, 'tile')} of noise and "
            f"{report.real_tiles} of the beton"
        )
