"""Prints metrics of runs, of evaluations and of several runs together, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from slideduck.cli.printing import Output, print_rows
from slideduck.runner.scores.notes import notes_of
from slideduck.words import print_line, printable

__all__ = ["print_by", "print_metrics", "print_summary", "print_thresholds"]

_LEVELS = {"tiles": "", "slides": "slide/", "patients": "patient/"}
#: Columns of the tables of `--by`; the JSON has every metric.
_BY_METRICS = (
    "tiles", "slide/slides", "patient/patients", "loss", "accuracy", "balanced_accuracy", "macro_f1", "kappa",
    "macro_auroc", "ece",
)  # fmt: skip

#: Metrics that the table of runs has, of those there are.
_SHOWN = (
    "loss",
    "accuracy",
    "balanced_accuracy",
    "macro_auroc",
    "slide/balanced_accuracy",
    "patient/balanced_accuracy",
    "mean_auroc",
    "patient/mean_auroc",
    "mean_mae",
    "patient/mean_mae",
)


def print_metrics(metrics: Mapping[str, Any], title: str) -> None:
    """Print metrics as a table: of tiles, of slides and of patients, each with its interval.

    Parameters
    ----------
    metrics : mapping
        As from `slideduck.runner.scores.assess.assess`; without patients there is no column of them.
    title : str
        Above the table.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    print_line(printable(title))
    levels = {level: prefix for level, prefix in _LEVELS.items() if prefix + level in metrics}
    table = Table()
    table.add_column("metric")
    for level in levels:
        table.add_column(level, justify="right")
    names = [
        name
        for name in metrics
        if not name.startswith(("slide/", "patient/", "ci95/")) and name not in ("confusion", "tiles")
    ]
    table.add_row("number", *(_shown(metrics[prefix + level]) for level, prefix in levels.items()))
    for name in [*names, *(["fraction_error"] if "slide/fraction_error" in metrics else [])]:
        table.add_row(Text(printable(name)), *(_with_interval(metrics, prefix + name) for prefix in levels.values()))
    Console(width=120, highlight=False).print(table)
    if "soft_loss" in metrics:
        print_line(
            "labels are soft: soft_loss and soft_brier are against their probabilities, the rest by the likeliest"
        )
    if "ci95/resamples" in metrics:
        print_line(
            f"in parentheses: 95 % intervals, {metrics['ci95/resamples']:,} resamples of "
            f"{metrics['ci95/patients']:,} patients with all their tiles"
        )
    elif "ci95/note" in metrics:
        print_line(metrics["ci95/note"])
    for note in notes_of(metrics):
        print_line(printable(note))


def print_thresholds(thresholds: Mapping[str, Any], title: str) -> None:
    """Print thresholds by level and class, with their scores."""
    rows = [
        {"of": level, "class": name, "rule": rule, **values}
        for level, classes in thresholds.items()
        for name, rules in classes.items()
        for rule, values in rules.items()
    ]
    _print(rows, ("of", "class", "rule", "threshold", "sensitivity", "specificity", "precision", "f1"), title)


def print_by(rows: Sequence[Mapping[str, Any]], column: str) -> None:
    """Print the metrics of each value of a column."""
    names = [name for name in _BY_METRICS if any(name in row for row in rows)]
    of = [{column: row["value"], **{name.split("/")[-1]: row[name] for name in names}} for row in rows]
    _print(of, (column, *(name.split("/")[-1] for name in names)), f"by {column}")


def print_summary(summary: Mapping[str, Any]) -> None:
    """Print a table of several runs, and one of the metrics over them.

    Parameters
    ----------
    summary : mapping
        As from `slideduck.runner.training.crossval.cross_validate`.
    """
    shown = [name for name in _SHOWN if name in summary["metrics"]]
    runs = [
        {"run": run["name"], "best epoch": run["best_epoch"], **{name: run["metrics"].get(name) for name in shown}}
        for run in summary["runs"]
    ]
    print_rows(pa.Table.from_pylist(runs), Output(), title="validation of each run, best epoch")
    pooled = summary["pooled"] or {}
    rows = [
        {
            "metric": name,
            "mean": entry["mean"],
            "std": entry["std"],
            "95 % from": entry["ci95"] and entry["ci95"][0],
            "95 % to": entry["ci95"] and entry["ci95"][1],
            "n": entry["n"],
            "pooled": pooled.get(name),
        }
        for name, entry in summary["metrics"].items()
        if name.split("/")[-1] not in ("tiles", "slides", "patients", "mixed", "ties")
    ]
    kinds = {"metric": pa.string(), "n": pa.int64()}
    schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in rows[0]])
    of = "folds" if summary["runs"][0]["fold"] is not None else "seeds"
    print_rows(
        pa.Table.from_pylist(rows, schema),
        Output(),
        title=f"over the n {of} where it is defined; intervals of the mean by Student's t, of shares within 0 and 1; "
        "pooled: each tile once",
    )


def _print(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str) -> None:
    """Print rows as the engine's tables are."""
    print_rows(pa.table({name: [row[name] for row in rows] for name in columns}), Output(), title=title)


def _with_interval(metrics: Mapping[str, Any], name: str) -> str:
    """Return a metric with its interval, where it has one."""
    if name not in metrics:
        return ""
    bounds = metrics.get(f"ci95/{name}")
    text = _shown(metrics[name])
    return text if bounds is None else f"{text} ({bounds[0]:.3f}–{bounds[1]:.3f})"


def _shown(value: Any) -> str:
    """Return a number as the table shows it."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
