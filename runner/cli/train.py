"""``slideduck train``. Torch is imported inside the command: ``slideduck --help`` does not wait for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import click

from slideduck.cli.printing import example, print_json
from slideduck.errors import RunError
from slideduck.runner.cli.command import RunnerCommand, runner_command
from slideduck.runner.cli.options import BETON, JSON
from slideduck.runner.settings.train_config import GROUPS, TrainConfig
from slideduck.words import print_line

__all__ = ["train"]

F = TypeVar("F", bound=Callable[..., Any])

#: Settings whose option has another name than the field.
_OPTION_NAMES = {"batch_size_per_rank": "batch-size"}
#: Placeholders that the same options of other commands have; else the setting's unit.
_PLACEHOLDERS = {"batch_size_per_rank": "N", "seed": "N"}


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
            metavar=None if choices else _PLACEHOLDERS.get(item.name, item.metadata["unit"].upper().replace(" ", "_")),
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
@BETON
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
@JSON
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
    from slideduck.runner.cli.first import check_training

    check_training(beton, run, config, several=folds or seeds is not None)
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
        print_json(result)
        return
    from slideduck.runner.cli.tables import print_metrics

    print_metrics(
        result["validation"]["metrics"], f"validation, epoch {result['best_epoch']} of {result['epochs']} (best)"
    )
    print_line(f"run: {run}")


def _cross_validate(beton: Path, run: Path, config: TrainConfig, as_json: bool, **how: Any) -> None:
    """Train several runs and print their summary; fail if one of them did."""
    from slideduck.runner.cli.tables import print_summary
    from slideduck.runner.training.crossval import cross_validate

    summary = cross_validate(beton, run, config, **how)
    if as_json:
        print_json(summary)
    else:
        print_summary(summary)
        print_line(f"summary: {run / 'summary.json'}")
    if summary["failed"]:
        raise RunError(
            f"{', '.join(summary['failed'])} failed, so that there is no {run / 'predictions.parquet'}; "
            "mend what is said above, and the same command trains only what is missing"
        )
