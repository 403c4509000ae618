"""What config.json, the checkpoints and validation.json of a run hold: one schema, which names all that is wrong.

A check takes a value and the name of its place, and yields what is wrong. Nothing below a wrong value is looked at, and
a value that holds itself, or one that is shared a million times, ends as soon as one that does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from slideduck.errors import RunError
from slideduck.runner.settings.train_config import TrainConfig, shown, writable
from slideduck.words import counted

__all__ = ["check", "checkpoint_problems", "config_problems", "metrics_problems", "validation_problems"]

Check = Callable[[Any, str], Iterator[str]]

_SHOWN_PROBLEMS = 20
_DEEPEST = 50


# ------------------------------------------------------------------------------------------------- the checks


def _finite(value: float) -> bool:
    """Return True for a number that a float can hold, and that is one."""
    return -1e308 < value < 1e308


def _is(kinds: tuple[type, ...], words: str, test: Callable[[Any], bool] = lambda value: True) -> Check:
    """Return a check of the type of a value and of one thing more."""

    def check(value: Any, where: str) -> Iterator[str]:
        is_kind = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
        if not (is_kind and test(value)):
            yield f"{where} is {_shown(value)}; it must be {words}"

    return check


_text = _is((str,), "a text", writable)
_name = _is((str,), "a text that is not empty", lambda value: value != "" and writable(value))
_count = _is((int,), "a whole number, 0 or more", lambda value: 0 <= value < 2**63)
_some = _is((int,), "a whole number, 1 or more", lambda value: 1 <= value < 2**63)
_number = _is((int, float), "a finite number", _finite)
_deviation = _is((int, float), "a number above 0", lambda value: 0 < value < math.inf)


def _or_none(check: Check) -> Check:
    """Return a check that lets None through."""
    return lambda value, where: iter(()) if value is None else check(value, where)


def _each(check: Check, items: Iterable[tuple[Any, str]]) -> Iterator[str]:
    """Check the items of a list or an object, one that is there often once."""
    seen: set[int] = set()
    for item, where in items:
        if id(item) not in seen:
            seen.add(id(item))
            yield from check(item, where)


def _list_of(check: Check, *, least: int = 0, exactly: int | None = None) -> Check:
    """Return a check of a list."""
    size = f" of {exactly}" if exactly is not None else f" of {least} or more" if least else ""
    is_list = _is(
        (list, tuple), f"a list{size}", lambda value: len(value) == exactly if exactly else len(value) >= least
    )

    def check_list(value: Any, where: str) -> Iterator[str]:
        wrong = list(is_list(value, where))
        yield from wrong or _each(check, ((item, f"{where}[{at}]") for at, item in enumerate(value)))

    return check_list


def _map_of(check: Check, keys: tuple[type, ...] = (str,)) -> Check:
    """Return a check of an object whose names are not known."""
    is_map = _is((dict,), "an object", lambda value: all(isinstance(key, keys) for key in value))

    def check_map(value: Any, where: str) -> Iterator[str]:
        wrong = list(is_map(value, where))
        yield from wrong or _each(check, ((item, f"{where}[{_shown(key)}]") for key, item in value.items()))

    return check_map


def _object(needed: Mapping[str, Check], may: Mapping[str, Check] | None = None, others: Check | None = None) -> Check:
    """Return a check of an object of known names, of which some may be missing; others are wrong, or all alike."""
    known = {**needed, **(may or {})}
    is_object = _is((dict,), "an object")

    def check_object(value: Any, where: str) -> Iterator[str]:
        wrong = list(is_object(value, where))
        if wrong:
            yield from wrong
            return
        inside = f"{where}." if where else ""
        yield from (f"{inside}{name} is missing" for name in needed if name not in value)
        for name, item in value.items():
            check = known.get(name, others) if isinstance(name, str) else None
            if check is None:
                yield f"{inside}{_shown(name).strip(chr(39))} is not known"
            else:
                yield from check(item, f"{inside}{name}")

    return check_object


def _plain(value: Any, where: str) -> Iterator[str]:
    """Yield what keeps a value from being written as JSON."""
    wrong = _unplain(value, 0, set())
    if wrong:
        yield f"{where} {wrong}"


def _unplain(value: Any, depth: int, done: set[int]) -> str | None:
    """Return what keeps a value from being written as JSON; values that were found fit are not looked at again."""
    if isinstance(value, (list, tuple, dict)):
        if depth > _DEEPEST:
            return f"is nested more than {_DEEPEST} deep"
        for item in [] if id(value) in done else [*value, *value.values()] if isinstance(value, dict) else value:
            wrong = _unplain(item, depth + 1, done)
            if wrong:
                return wrong
        done.add(id(value))
        return None
    is_number = (isinstance(value, int) and abs(value) < 2**63) or (isinstance(value, float) and math.isfinite(value))
    if value is None or is_number or (isinstance(value, str) and writable(value)):
        return None
    return f"holds {_shown(value)}; it must hold texts, finite numbers, lists and objects"


def _settings(value: Any, where: str) -> Iterator[str]:
    """Yield what is wrong with the settings of a run."""
    wrong = list(_is((dict,), "an object")(value, where))
    yield from wrong or (f"{where}: {problem}" for problem in TrainConfig.problems(value))


def _tensor(value: Any, where: str) -> Iterator[str]:
    """Yield what is wrong with one tensor of the weights."""
    if not isinstance(value, torch.Tensor):
        yield f"{where} is {_shown(value)}; it must be a tensor"
        return
    bytes_there = value.untyped_storage().nbytes()
    if value.numel() * value.element_size() > bytes_there:
        yield f"{where} claims {value.numel():,} numbers and holds {bytes_there:,} bytes"
    elif value.is_floating_point() and not bool(torch.isfinite(value).all()):
        bad = int((~torch.isfinite(value)).sum())
        yield f"{where} has {counted(bad, 'number')} that {'is' if bad == 1 else 'are'} not finite"


_weights = _map_of(_tensor)
_beton = _object(
    {
        "path": _text,
        "sidecar_sha256": _text,
        "image": _object(
            {"mode": _text, "quality": _or_none(_count), "tile_px": _some},
            {
                "stain": _or_none(
                    _object({"method": _text, "target": _object({"name": _text}, others=_plain)}, others=_plain)
                )
            },
            others=_plain,
        ),
        "grid": _object(
            {"name": _text, "tile_px": _some, "tile_um": _or_none(_number), "magnification": _or_none(_text)},
            others=_plain,
        ),
    },
    {"metadata_sha256": _text, "samples": _count},
    others=_plain,
)
_identity: dict[str, Check] = {
    "classes": _list_of(_name, least=1),
    "beton": _beton,
    "versions": _map_of(_text),
}
_config = _object(
    {
        "format": _is((str,), "'slideduck run'", lambda value: value == "slideduck run"),
        "version": _is((int,), "1", lambda value: value == 1),
        "settings": _settings,
        "global_batch": _some,
        **_identity,
    },
    {"world_size": _some},
)
_epoch = _object({"epoch": _some, "step": _count}, others=_plain)
_checkpoint = _object(
    {
        "version": _count,
        "epoch": _count,
        "step": _count,
        "config": _settings,
        "model": _weights,
        "image": _object({"mean": _list_of(_number, exactly=3), "std": _list_of(_deviation, exactly=3)}),
        "history": _list_of(_epoch),
        "best": _object({}, {"epoch": _some, "metric": _text, "value": _or_none(_number)}, others=_plain),
        **_identity,
    },
    {
        "world_size": _some,
        "within_epoch": _or_none(
            _object({"losses": _list_of(_number), "norms": _list_of(_number), "seconds": _number, "waited_s": _number})
        ),
        "optimizer": _object({"state": _is((dict,), "an object"), "param_groups": _list_of(_is((dict,), "an object"))}),
        "schedule": _plain,
        "architecture": _or_none(_object({}, {"hf": _object({"model_type": _text}, others=_plain)})),
        "objective": _or_none(
            _object({"weights": _list_of(_number), "mean": _list_of(_number), "std": _list_of(_deviation)})
        ),
        "buffers_of_ranks": _list_of(_map_of(_map_of(_tensor))),
        "trained": _weights,
    },
)
_metrics = _object({}, others=_plain)
_validation = _object({"epoch": _some, "metrics": _metrics}, others=_plain)


# ------------------------------------------------------------------------------------------------- what they are for


def config_problems(values: Any) -> list[str]:
    """Return what is wrong with the content of a config.json."""
    return list(_config(values, ""))


def metrics_problems(lines: list[Any], n_classes: int) -> list[str]:
    """Return what is wrong with the lines of a metrics.jsonl, so that curves can be drawn of them."""
    known = _object({"epoch": _some, "step": _count, "lr": _number}, others=_plain)
    value, matrix = _or_none(_number), _list_of(_list_of(_count, exactly=n_classes), exactly=n_classes)
    problems: list[str] = []
    for at, line in enumerate(lines, start=1):
        wrong = list(known(line, f"line {at}"))
        for name, item in () if wrong else line.items():
            wrong += (matrix if name.endswith("/confusion") else value)(item, f"line {at}.{name}")
        if not wrong and sum(map(sum, line.get("val/confusion", [[1]]))) == 0:
            wrong.append(f"line {at}.val/confusion is of no tile")
        problems += wrong
    return problems


def validation_problems(values: Any) -> list[str]:
    """Return what is wrong with the content of a validation.json."""
    problems = list(_validation(values, ""))
    pair = _list_of(_or_none(_number), exactly=2)
    for name, value in () if problems else values["metrics"].items():
        if name.startswith("ci95/") and isinstance(value, list):
            problems += pair(value, f"metrics.{name}")
    return problems


def checkpoint_problems(state: Any) -> list[str]:
    """Return what is wrong with the content of a checkpoint, also of parts that do not fit each other."""
    problems = list(_checkpoint(state, ""))
    return problems or list(_unfit(state))


def _unfit(state: Mapping[str, Any]) -> Iterator[str]:
    """Yield parts of a checkpoint that do not fit each other."""
    n_classes = len(state["classes"])
    for name, values in (state.get("objective") or {}).items():
        if len(values) != n_classes:
            yield f"objective.{name} has {counted(len(values), 'number')} for {counted(n_classes, 'class', 'classes')}"
    if len(set(state["classes"])) < n_classes:
        yield "classes has a name twice"
    within = state.get("within_epoch")
    if within and len(within["losses"]) != len(within["norms"]):
        yield f"within_epoch has {len(within['losses'])} losses and {len(within['norms'])} norms"
    epochs = [line["epoch"] for line in state["history"]]
    if epochs != list(range(1, state["epoch"] + 1)):
        yield f"history is not of the epochs 1 to {state['epoch']}"
    if state["history"] and state["best"].get("epoch") not in epochs:
        yield f"best.epoch is {_shown(state['best'].get('epoch'))}, of which history has nothing"


def check(path: Path, problems: list[str], what: str, hint: str) -> None:
    """Raise if there are problems.

    Raises
    ------
    RunError
        With all of them.
    """
    if not problems:
        return
    shown = problems[:_SHOWN_PROBLEMS]
    if len(problems) > len(shown):
        shown.append(f"... and {len(problems) - len(shown):,} more")
    raise RunError(f"{path}: not {what}; {hint}:\n" + "\n".join(f"  {problem}" for problem in shown))


def _shown(value: Any) -> str:
    """Return a value for a message, short and printable."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of {' x '.join(map(str, value.shape)) or 'one number'}"
    return shown(value)
