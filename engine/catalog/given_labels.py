"""What the columns of a table of labels say: which tile, and which label, number or probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from slideduck.errors import InputError, StudyError
from slideduck.files.find import quoted
from slideduck.files.frames import GivenTable
from slideduck.names import MISSING
from slideduck.store.db import identifier, literal
from slideduck.words import some

__all__ = ["COORDINATES", "KEYS", "Reading", "reading_of"]

#: Pairs of columns that say where a tile is, by what they are called.
COORDINATES = {"loc": ("loc_x", "loc_y"), "base": ("base_x", "base_y"), "grid": ("grid_x", "grid_y")}
#: Columns that name tiles.
KEYS = ("tile_id", "slide", *(name for pair in COORDINATES.values() for name in pair), "x", "y")
#: Columns of Slideflow's frame and of the view labels that are no classes of soft labels.
_OTHERS = frozenset(
    {
        *KEYS, "roi_name", "roi_desc", "coverage", "grid", "patient", "split", "fold", "site", "kept", "n_rois",
        "extract_px", "tile_px", "brightness", "saturation", "white_fraction", "grey_fraction", "blur", "tissue", "pen",
        "label_from",
    }
)  # fmt: skip

_NEEDS = (
    "name the tiles by a column tile_id, or by slide with loc_x and loc_y (or base_x and base_y, or grid_x and "
    "grid_y), and give a column label, a column value of numbers, or a column for each class"
)
#: How far from 1 probabilities may sum to.
_TOLERANCE = "1e-6"
_NUMBER = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"


@dataclass(frozen=True)
class Reading:
    """How a table of labels is read.

    Attributes
    ----------
    kind : {"labels", "numbers", "soft"}
        What it says of tiles.
    coordinates : {"loc", "base", "grid"}
        What places are counted in.
    keys : tuple of str
        Its columns that name a tile: its id, or slide, x and y.
    values : tuple of str
        Its columns of labels, of numbers, or of classes.
    types : mapping of str to pyarrow.DataType
        Types of its columns.
    decimal : str
        The decimal sign of numbers that are text.
    sums : mapping of str to tuple of str
        Columns of each class, by its name: several where they are called alike.
    """

    kind: str
    coordinates: str
    keys: tuple[str, ...]
    values: tuple[str, ...]
    types: Mapping[str, pa.DataType]
    decimal: str
    sums: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return list(dict.fromkeys((*self.keys, *self.values)))

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of soft labels, in their order."""
        return tuple(self.sums)

    def select(self) -> str:
        """Return the SQL that makes the columns of ``given_piece`` of the table's."""
        value = {"labels": self._label, "numbers": self._number, "soft": self._soft}[self.kind]()
        return f"{self._place()}, {value}"

    def _place(self) -> str:
        """Return slide, x and y; what the tile is called, and whether that is the name of one."""
        texts = [f"nullif(trim({identifier(key)}::VARCHAR), '')" for key in self.keys]
        if len(self.keys) == 1:
            called = f"nfc_normalize({texts[0]})"
            slide, *place = (f"{part}_of_tile_id({called})" for part in ("slide", "x", "y"))
            x, y = (f"try_cast({text} AS INTEGER)" for text in place)
            is_name = f"make_tile_id({slide}, {x}, {y}) = {called}"
        else:
            slide, x, y = f"nfc_normalize({texts[0]})", *(f"try_cast({text} AS DOUBLE)" for text in texts[1:])
            called = f"concat_ws(' ', {', '.join(texts)})"
            is_name = f"{slide} IS NOT NULL"
        return f"{slide} AS slide, {x} AS x, {y} AS y, {called} AS called, coalesce({is_name}, false) AS is_name"

    def _label(self) -> str:
        """Return the label as text: whole numbers without a point, others by their shortest form."""
        column, kind = identifier(self.values[0]), self.types[self.values[0]]
        text = f"{column}::VARCHAR"
        if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            whole = f"{column} = floor({column}) AND abs({column}) < 1e15"
            named = f"WHEN {whole} THEN {column}::BIGINT::VARCHAR ELSE {text}"
            text = f"CASE WHEN isnan({column}::DOUBLE) THEN NULL {named} END"
        rest = "false AS is_tied, NULL::VARCHAR AS wrong"
        return f"{text} AS label, {_NOTHING['value']}, {_NOTHING['probabilities']}, {rest}"

    def _number(self) -> str:
        """Return the number, or the text that is none."""
        number, text = self._parsed(self.values[0])
        finite = f"isfinite({number})"
        wrong = f"CASE WHEN {text} IS NOT NULL AND NOT coalesce({finite}, false) THEN {text} END"
        value = f"CASE WHEN {finite} THEN {number} END AS value"
        return f"NULL::VARCHAR AS label, {value}, {_NOTHING['probabilities']}, false AS is_tied, {wrong} AS wrong"

    def _soft(self) -> str:
        """Return the probabilities and the class of the greatest; equals are counted, and the first is it."""
        parsed = {column: self._parsed(column) for columns in self.sums.values() for column in columns}
        numbers = [" + ".join(parsed[column][0] for column in columns) for columns in self.sums.values()]
        given = " OR ".join(f"{text} IS NOT NULL" for _, text in parsed.values())
        least = ", ".join(number for number, _ in parsed.values())
        total = f"({' + '.join(numbers)})"
        is_right = f"coalesce(least({least}) >= 0 AND abs({total} - 1) <= {_TOLERANCE} AND {_all_there(parsed)}, false)"
        wrong = (
            f"CASE WHEN ({given}) AND NOT {is_right} THEN concat_ws(' ', 'a sum of', coalesce({total}::VARCHAR, "
            f"'nothing'), CASE WHEN NOT ({_all_there(parsed)}) THEN 'with empty cells' "
            f"WHEN least({least}) < 0 THEN 'with ' || least({least}) END) END"
        )
        greatest = f"greatest({', '.join(numbers)})" if len(numbers) > 1 else numbers[0]
        label = " ".join(
            f"WHEN {number} = {greatest} THEN {literal(name)}" for name, number in zip(self.sums, numbers, strict=True)
        )
        tied = " + ".join(f"({number} = {greatest})::INTEGER" for number in numbers)
        return (
            f"CASE WHEN {given} THEN CASE {label} END END AS label, {_NOTHING['value']}, "
            f"CASE WHEN {given} THEN [{', '.join(numbers)}] END AS probabilities, "
            f"coalesce(({given}) AND {tied} > 1, false) AS is_tied, {wrong} AS wrong"
        )

    def _parsed(self, name: str) -> tuple[str, str]:
        """Return a column as a number, and as the text that is there; both NULL for a missing one."""
        column, kind = identifier(name), self.types[name]
        if not _is_text(kind):
            number = f"nullif({column}::DOUBLE, 'nan'::DOUBLE)"
            return number, f"{number}::VARCHAR"
        missing = ", ".join(map(literal, sorted(MISSING)))
        text = f"CASE WHEN lower(trim({column}::VARCHAR)) NOT IN ({missing}) THEN trim({column}::VARCHAR) END"
        plain = text if self.decimal == "." else f"replace({text}, '{self.decimal}', '.')"
        return f"CASE WHEN regexp_full_match({plain}, '{_NUMBER}') THEN try_cast({plain} AS DOUBLE) END", text


def _all_there(parsed: Mapping[str, tuple[str, str]]) -> str:
    return " AND ".join(f"{number} IS NOT NULL" for number, _ in parsed.values())


_NOTHING = {"value": "NULL::DOUBLE AS value", "probabilities": "NULL::DOUBLE[] AS probabilities"}


def reading_of(table: GivenTable, coordinates: str | None = None, classes: Sequence[str] | None = None) -> Reading:
    """Return how a table of labels is read.

    Parameters
    ----------
    table : GivenTable
        The table.
    coordinates : {"loc", "base", "grid"}, optional
        What its columns ``x`` and ``y`` are.
    classes : sequence of str, optional
        Its columns of soft labels.

    Raises
    ------
    InputError
        If its columns do not say which tiles, or what of them.
    StudyError
        If the coordinates are none.
    """
    if coordinates is not None and coordinates not in COORDINATES:
        raise StudyError(f"`coordinates` is {coordinates!r}; give one of {', '.join(COORDINATES)}")
    keys, counted_in = _keys(table, coordinates)
    kind, values = _values(table, keys, classes)
    reading = Reading(kind, counted_in, keys, values, table.types, table.decimal)
    for column in values:
        if not _is_fit(table.types[column], kind):
            raise InputError(
                [
                    f"{table.name}: column {quoted(column)} is of type {table.types[column]}, and no {_KINDS[kind]}; "
                    f"{_NEEDS}"
                ]
            )
    return reading


_KINDS = {"labels": "label", "numbers": "number", "soft": "probability"}


def _keys(table: GivenTable, coordinates: str | None) -> tuple[tuple[str, ...], str]:
    """Return the columns that name tiles, and what they count in."""
    tile_id = table.column("tile_id")
    if tile_id is not None and coordinates is None:
        return (tile_id,), "loc"
    pairs = {name: (table.column(x), table.column(y)) for name, (x, y) in COORDINATES.items()}
    plain = (table.column("x"), table.column("y"))
    slide = table.column("slide")
    there = [name for name, pair in pairs.items() if None not in pair and coordinates in (None, name)]
    if slide is not None and there:
        pair = pairs[there[0]]
    elif slide is not None and None not in plain and coordinates is not None:
        there, pair = [coordinates], plain
    elif slide is not None and None not in plain:
        raise InputError(
            [
                f"{table.name}: columns x and y do not say what they count; say it with `coordinates`: loc (the tile's "
                "centre rounded down, as in tile ids), base (its top left corner) or grid (its column and row)"
            ]
        )
    else:
        raise InputError([f"{table.name}: no columns that name tiles among {_shown(table)}; {_NEEDS}"])
    x, y = pair
    assert x is not None
    assert y is not None
    return (slide, x, y), there[0]


def _values(table: GivenTable, keys: Sequence[str], classes: Sequence[str] | None) -> tuple[str, tuple[str, ...]]:
    """Return what a table says of tiles, and in which columns."""
    if classes is not None:
        missing = [name for name in classes if name not in table.types]
        if missing or len(set(classes)) < 2:
            what = f"has no column {some(list(map(quoted, missing)))}" if missing else "needs two classes or more"
            raise InputError([f"{table.name} {what}; name the columns of soft labels with `classes`: {_shown(table)}"])
        return "soft", tuple(dict.fromkeys(classes))
    label, value = table.column("label"), table.column("value")
    # The view labels has both, and is given back for its labels.
    if label is not None and value is not None and table.column("label_from") is None:
        raise InputError(
            [f"{table.name}: columns label and value; add them as two sets, each from a table with one of them"]
        )
    if label is not None:
        return "labels", (label,)
    if value is not None:
        return "numbers", (value,)
    others = [name for name in table.types if name not in keys and name.casefold() not in _OTHERS]
    if len(others) < 2:
        raise InputError([f"{table.name}: no column of labels among {_shown(table)}; {_NEEDS}"])
    return "soft", tuple(others)


def _shown(table: GivenTable) -> str:
    return some([quoted(name) for name in table.types], 20) or "none"


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_fit(kind: pa.DataType, wanted: str) -> bool:
    """Return whether a column may hold labels, or numbers."""
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    fits = is_number or _is_text(kind) or pa.types.is_null(kind)
    return bool(fits or (wanted == "labels" and (pa.types.is_boolean(kind) or pa.types.is_dictionary(kind))))
