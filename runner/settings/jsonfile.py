"""JSON files of a run, with a checksum of what is in them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slideduck.errors import RunError
from slideduck.files.strictjson import parse_json, read_limited
from slideduck.runner.settings.train_config import shown

__all__ = ["SEAL", "read_object", "sealed"]

#: Key of the checksum of all else in a file: CRC-32 of its values, written as JSON without spaces.
SEAL = "crc32"


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a JSON file with their checksum."""
    return {**values, SEAL: _crc(values)}


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file of a run, without its checksum.

    Raises
    ------
    FileNotFoundError
        If there is none.
    RunError
        If it is no object of JSON, or has changed since it was written.
    """
    try:
        values = parse_json(read_limited(path))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: not JSON that can be read ({error})") from error
    if not isinstance(values, dict):
        raise RunError(f"{path}: not an object of JSON, but {shown(values)}")
    seal = values.pop(SEAL, None)
    if seal is not None and seal != _crc(values):
        raise RunError(
            f"{path}: it has changed since it was written (CRC-32 {_crc(values)}, not {shown(seal)}); get the file "
            f"again, or take its line {SEAL!r} out if the change is meant"
        )
    return values


def _crc(values: Mapping[str, Any]) -> str:
    """Return the checksum of values."""
    # A text that cannot be written as UTF-8 has one, too: the schema refuses it.
    return f"{zlib.crc32(json.dumps(values, separators=(',', ':')).encode()):08x}"
