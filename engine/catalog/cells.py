"""What cells of the patients' table are outside it: values of JSON, and names, which two values never share."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, time
from decimal import Decimal
from math import isfinite

import numpy as np
import pyarrow as pa

from slideduck.store.db import identifier

__all__ = ["named_in_sql", "plain"]

_INT64 = range(-(2**63), 2**63)


def named_in_sql(column: str, kind: str) -> str:
    """Return the expression of a column as names, as `slideduck.names.name_of` writes them.

    Parameters
    ----------
    column : str
        Its name.
    kind : str
        DuckDB's type of it. Decimals are written without the zeros that their type adds.
    """
    name = identifier(column)
    if kind.startswith("DECIMAL"):
        return f"(CASE WHEN {name} % 1 = 0 THEN {name}::HUGEINT::VARCHAR ELSE rtrim({name}::VARCHAR, '0') END)"
    if kind in ("DOUBLE", "FLOAT"):
        is_whole = f"isfinite({name}) AND {name} = trunc({name}) AND abs({name}) < 18446744073709551616"
        return f"(CASE WHEN {is_whole} THEN {name}::HUGEINT::VARCHAR ELSE {name}::VARCHAR END)"
    return f"{name}::VARCHAR"


def plain(column: pa.ChunkedArray) -> list[object]:
    """Return the values of a column as JSON has them.

    Numbers that JSON's readers hold exactly stay numbers, also decimals; a column of which they do not is text, so
    that no two values become one. Single-precision numbers are those that they are written as: 0.1 is not
    0.10000000149. Dates and the like are text, and numbers that are none are None.
    """
    kind = column.type
    values: list[object] = column.to_pylist()
    if pa.types.is_float16(kind) or pa.types.is_float32(kind):
        return [
            _finite(None if value is None else float(str(np.dtype(kind.to_pandas_dtype()).type(value))))
            for value in values
        ]
    if pa.types.is_decimal(kind):
        return _decimals(values)
    if pa.types.is_integer(kind) and any(value not in _INT64 for value in values if value is not None):
        return [value if value is None else str(value) for value in values]
    return [_plain(value) for value in values]


def _decimals(values: Sequence[object]) -> list[object]:
    """Return decimals as integers where all are whole, as floats where these are exact, or else as text."""
    there = [value for value in values if isinstance(value, Decimal)]
    convert: type[int] | type[float] | type[str] = str
    if all(value == value.to_integral_value() and int(value) in _INT64 for value in there):
        convert = int
    elif all(Decimal(repr(float(value))) == value for value in there):
        convert = float
    return [convert(value) if isinstance(value, Decimal) else None for value in values]


def _plain(value: object) -> object:
    """Return one value as JSON has it."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return _finite(value)
    return value.isoformat() if isinstance(value, (date, time)) else str(value)


def _finite(value: float | None) -> float | None:
    """Return a number, or None for one that is none."""
    return value if value is not None and isfinite(value) else None
