"""The targets of the tiles of a beton: their labels, or values of their slides (weak supervision)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slideduck.betons import Sidecar
from slideduck.errors import ConfigError, RunError
from slideduck.names import name_of, suggestion
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.words import counted

__all__ = ["Targets", "as_exported", "read_targets"]

#: Between the labels of a slide that has several, and what is written where it has none of them.
_SEPARATOR, _NONE_OF_THEM = ";", "-"
#: A number as text, of which a column has some where other values of it are no numbers.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Targets:
    """Targets of all tiles of a beton.

    Attributes
    ----------
    sidecar : Sidecar
        The beton's, with the names of the outputs as its classes. A tile without a target has class number -1;
        the others have the number of their class, or 0 where the task has none.
    values : ndarray, (samples,) of int64 or (samples, outputs) of float32
        Class numbers; or 0 and 1 for each label; or numbers; or, for soft labels, the probability of each class, of
        which that of the tile's class is the greatest. Without meaning where there is no target.
    are_soft : bool
        True if they are probabilities of classes.
    """

    sidecar: Sidecar
    values: NDArray[Any]
    are_soft: bool = False

    @property
    def names(self) -> list[str]:
        """Names of the outputs."""
        return list(self.sidecar.classes)

    @property
    def are_classes(self) -> bool:
        """True if each tile is of one class, for certain or most likely."""
        return self.values.ndim == 1 or self.are_soft


def as_exported(sidecar: Sidecar) -> Sidecar:
    """Return a side-car as it was read, with the labels of tiles, on which conditions are evaluated."""
    raw = sidecar.raw
    return replace(sidecar, classes=tuple(raw["classes"]), class_number=np.array(raw["tiles"]["class"], np.int64))


def read_targets(sidecar: Sidecar, config: TrainConfig, beton: Path, known: Sequence[str] | None = None) -> Targets:
    """Return the targets of a beton's tiles.

    Parameters
    ----------
    sidecar : Sidecar
        As it was read.
    config : TrainConfig
        ``task`` and ``target`` count.
    beton : Path
        For messages.
    known : sequence of str, optional
        Names of the outputs of a network that has learnt: those of a task with several labels keep its order.

    Returns
    -------
    Targets

    Raises
    ------
    ConfigError
        If the beton has no such column, its values are not of the kind that the task learns, or there are fewer
        than two classes.
    RunError
        If a label is not among the `known`.
    """
    if config.task == "classification" and config.target == "label":
        if sidecar.soft is not None:
            return Targets(sidecar, _soft(sidecar.soft, sidecar.class_number), are_soft=True)
        return Targets(sidecar, sidecar.class_number)
    if config.target == "value":
        columns = [("value", _values(sidecar, beton))]
    elif config.target == "label":
        names, number = list(sidecar.classes), sidecar.class_number
        cells = np.array([*names, None], object)[number]
        columns = [("label", cells)]
    else:
        wanted = config.target.partition(":")[2].split(",")
        known_columns = sidecar.target_columns
        missing = [name for name in wanted if name not in known_columns]
        if missing:
            there = ", ".join(known_columns) or "none"
            raise ConfigError(
                f"{beton}: target is {config.target!r}, but its side-car has no column {', '.join(map(repr, missing))} "
                f"of the patients' table; it has {there}{suggestion(missing[0], known_columns)}: add the column "
                "(slideduck add-patients STUDY TABLE) and export again"
            )
        columns = [(name, sidecar.tile_patient_column(name)) for name in wanted]
    if config.task == "classification":
        return _classes(sidecar, *columns[0], beton)
    if config.task == "regression":
        return _numbers(sidecar, columns, beton)
    return _labels(sidecar, columns, beton, known)


def _soft(soft: NDArray[np.float64], class_number: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return probabilities in single precision, in which that of a tile's class is greater than any other."""
    values = soft.astype(np.float32)
    rows = np.flatnonzero((class_number >= 0) & (values.argmax(axis=1) != class_number))
    values[rows, class_number[rows]] = np.nextafter(values[rows].max(axis=1), np.float32(2))
    return values


def _values(sidecar: Sidecar, beton: Path) -> NDArray[np.object_]:
    """Return the numbers that label sets give the tiles, None for none."""
    if sidecar.value is None:
        raise ConfigError(
            f"{beton}: target is 'value', but no tile has a number: add them (slideduck add-labels STUDY TABLE --name "
            "NAME, a table with a column value), label with --from NAME, and export again with --where "
            "'value IS NOT NULL'"
        )
    cells = sidecar.value.astype(object)
    cells[np.isnan(sidecar.value)] = None
    return cells


def _classes(sidecar: Sidecar, column: str, cells: NDArray[np.object_], beton: Path) -> Targets:
    """Return class numbers in the order of the values: numbers by size, text by code point."""
    _refuse_shared_names(sidecar, column, beton)
    values = {value for value in cells.tolist() if value is not None}
    as_numbers = all(isinstance(value, (int, float)) for value in values)
    names = [name_of(value) for value in sorted(values, key=None if as_numbers else str)]
    number = {name: place for place, name in enumerate(names)}
    numbers = np.array([-1 if value is None else number[name_of(value)] for value in cells.tolist()], np.int64)
    return Targets(replace(sidecar, classes=tuple(names), class_number=numbers), numbers)


def _refuse_shared_names(sidecar: Sidecar, column: str, beton: Path) -> None:
    """Refuse a column of which two values have one name, such as a number and its text."""
    first: dict[str, tuple[object, str]] = {}
    for info in sidecar.slides:
        value, patient = info.site if column == "site" else info.patient_columns.get(column), info.patient
        if value is None:
            continue
        other, of_other = first.setdefault(name_of(value), (value, patient))
        if (isinstance(value, (bool, str)), value) != (isinstance(other, (bool, str)), other):
            raise ConfigError(
                f"{beton}: column {column!r} of the patients' table has {other!r} for patient {of_other!r} and "
                f"{value!r} for patient {patient!r}, which are one class by name, {name_of(value)!r}; write one of "
                "them as the other in the patients' table, add it (slideduck add-patients STUDY TABLE) and export again"
            )


def _numbers(sidecar: Sidecar, columns: list[tuple[str, NDArray[np.object_]]], beton: Path) -> Targets:
    """Return numbers, one a column; a tile that lacks one has no target."""
    for name, cells in columns:
        if name == "label":
            held = next((repr(cell) for cell in cells.tolist() if cell is not None), "text")
            raise ConfigError(
                f"{beton}: task is 'regression', but column {name!r} holds {held}, not numbers; "
                "give a target of numbers, such as patient:age"
            )
        _refuse_text(sidecar, name, cells, beton)
    values = np.array([[np.nan if c is None else float(c) for c in cells.tolist()] for _, cells in columns], np.float32)
    number = np.where(np.isnan(values.T).any(axis=1), -1, 0).astype(np.int64)
    names = tuple(name for name, _ in columns)
    return Targets(replace(sidecar, classes=names, class_number=number), np.nan_to_num(np.ascontiguousarray(values.T)))


def _refuse_text(sidecar: Sidecar, name: str, cells: NDArray[np.object_], beton: Path) -> None:
    """Refuse a column whose values are not all finite numbers, with the first patients that have others."""
    wrong: dict[tuple[str, str], str] = {}
    for cell, patient, slide in zip(
        cells.tolist(), sidecar.tile_patient.tolist(), sidecar.tile_slide.tolist(), strict=True
    ):
        if cell is not None and not _is_number(cell):
            wrong.setdefault((str(patient), str(slide)), repr(cell))
    if not wrong:
        return
    shown = [f"{cell} of patient {patient} (slide {slide})" for (patient, slide), cell in list(wrong.items())[:3]]
    more = f" and of {counted(len(wrong) - 3, 'slide')} more" if len(wrong) > 3 else ""
    is_or_are = "is no number" if len(wrong) == 1 else "are no numbers"
    raise ConfigError(
        f"{beton}: task is 'regression', but in column {name!r} {', '.join(shown)}{more} {is_or_are}; mend or empty "
        "them in the patients' table, add it (slideduck add-patients STUDY TABLE) and export again; or give a target "
        "of numbers, such as patient:age"
    )


def _is_number(cell: object) -> bool:
    """Return whether a value is a finite number, or the text of one; NaN is a value that is missing."""
    if isinstance(cell, str) and not _NUMBER.fullmatch(cell.strip()):
        return False
    return not math.isinf(float(cell))  # type: ignore[arg-type]


def _labels(
    sidecar: Sidecar, columns: list[tuple[str, NDArray[np.object_]]], beton: Path, known: Sequence[str] | None
) -> Targets:
    """Return 0 and 1 for each label, from one column that lists them or from several of 0 and 1."""
    if len(columns) > 1:
        for name, cells in columns:
            wrong = next((cell for cell in cells.tolist() if cell not in (None, 0, 1)), None)
            if wrong is not None:
                raise ConfigError(
                    f"{beton}: column {name!r} has the value {wrong!r}; where several columns are the labels of a "
                    "slide, each holds 0 or 1"
                )
        names = [name for name, _ in columns]
        unknown = np.array([[cell is None for cell in cells.tolist()] for _, cells in columns]).any(axis=0)
        values = np.array([[float(cell or 0) for cell in cells.tolist()] for _, cells in columns], np.float32).T
    else:
        lists = [None if cell is None else _listed(name_of(cell)) for cell in columns[0][1].tolist()]
        found = sorted({label for labels in lists if labels is not None for label in labels})
        names = list(known) if known is not None else found
        strange = [label for label in found if label not in names]
        if strange:
            raise RunError(
                f"{beton}: the network does not know the labels {', '.join(map(repr, strange))}; it knows "
                f"{', '.join(names)}"
            )
        unknown = np.array([labels is None for labels in lists])
        values = np.array([[name in (labels or ()) for name in names] for labels in lists], np.float32)
    if len(names) < 1:
        raise ConfigError(f"{beton}: no tile has a label to learn")
    number = np.where(unknown, -1, 0).astype(np.int64)
    return Targets(
        replace(sidecar, classes=tuple(names), class_number=number),
        np.ascontiguousarray(values.reshape(sidecar.samples, len(names))),
    )


def _listed(cell: str) -> frozenset[str]:
    """Return the labels that a cell lists, such as ``"a; b"``; ``"-"`` is none of them."""
    parts = {part.strip() for part in cell.split(_SEPARATOR)}
    return frozenset(part for part in parts if part and part != _NONE_OF_THEM)
