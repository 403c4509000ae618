"""Shards: betons that each hold a part of the tiles of one export, and the digests that identify it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from slideduck.betons.writer import WrittenBeton
from slideduck.errors import ConfigError
from slideduck.words import counted

__all__ = [
    "LeftOut",
    "Shard",
    "beton_identity",
    "chosen_shards",
    "digest",
    "left_out_from_json",
    "left_out_to_json",
    "with_written",
]

#: Names of shards have five digits.
_MOST_SHARDS = 99_999


@dataclass(frozen=True)
class Shard:
    """One of the shards that an export is cut into.

    Attributes
    ----------
    number, count : int
        Which one, from 0, and of how many.
    """

    number: int
    count: int

    def rows(self, samples: int) -> range:
        """Return the rows of the whole export that are this shard's: as many as of any other, but for one."""
        return range(self.number * samples // self.count, (self.number + 1) * samples // self.count)

    def path(self, out: Path) -> Path:
        """Return the shard's name: ``OUT-00001-of-00004.beton`` for ``OUT.beton``."""
        return out.with_name(f"{out.stem}-{self.number:05d}-of-{self.count:05d}{out.suffix}")


def chosen_shards(shards: int, shard: int | None, samples: int) -> list[Shard]:
    """Return the shards that are meant: one, or all of them.

    Raises
    ------
    ConfigError
        If there are no such shards, or fewer tiles than shards.
    """
    if not 1 <= shards <= _MOST_SHARDS:
        raise ConfigError(f"shards is {shards}; give a number from 1 to {_MOST_SHARDS:,}")
    if shard is not None and not 0 <= shard < shards:
        raise ConfigError(f"shard is {shard}; of {shards} shards give one from 0 to {shards - 1}")
    if shards > samples:
        raise ConfigError(f"{counted(samples, 'tile')} cannot fill {shards:,} shards; give at most {samples:,}")
    return [Shard(number, shards) for number in (range(shards) if shard is None else (shard,))]


@dataclass(frozen=True)
class LeftOut:
    """A tile that could not be read and was left out.

    Attributes
    ----------
    slide, tile_id, reason : str
        Its slide and its name, and the error.
    """

    slide: str
    tile_id: str
    reason: str


def left_out_to_json(tiles: Sequence[LeftOut]) -> list[dict[str, Any]]:
    """Return tiles that were left out as a side-car has them: an entry for each slide and reason in a row."""
    return [
        {"slide": slide, "reason": reason, "tile_id": [tile.tile_id for tile in group]}
        for (slide, reason), group in groupby(tiles, key=lambda tile: (tile.slide, tile.reason))
    ]


def left_out_from_json(entries: Sequence[Mapping[str, Any]]) -> list[LeftOut]:
    """Return the tiles that a side-car says were left out, in their order."""
    return [LeftOut(entry["slide"], name, entry["reason"]) for entry in entries for name in entry["tile_id"]]


def digest(*content: object) -> str:
    """Return the SHA-256 of what JSON makes of some values."""
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


def beton_identity(sidecar: Mapping[str, Any]) -> str:
    """Return the digest of what the tiles of a beton are, wherever the files of the slides lie.

    Parameters
    ----------
    sidecar : mapping
        The side-car's JSON. The beton holds this digest too, so that it shows whether they belong together.
    """
    image, tiles = sidecar["beton"]["image"], sidecar["tiles"]
    stain = [image["stain"], [slide["stain"] for slide in sidecar["slides"]]] if "stain" in image else []
    return digest(
        sidecar["grid"],
        [(slide["slide"], slide["fingerprint"]) for slide in sidecar["slides"]],
        sidecar["classes"],
        image["quality"],
        image["jpeg"],
        tiles["tile_id"],
        tiles["class"],
        *stain,
    )


def with_written(sidecar: Mapping[str, Any], written: WrittenBeton | None) -> dict[str, Any]:
    """Return the content of a side-car with what is known once its beton is written.

    Parameters
    ----------
    sidecar : mapping
        The rest of it; its entry ``beton`` has ``file`` and ``image``.
    written : WrittenBeton or None
        What was written; None where there is no beton, since none of its tiles could be read.
    """
    beton = sidecar["beton"]
    return {
        **sidecar,
        "beton": {
            "file": beton["file"],
            "bytes": written.bytes if written else 0,
            "samples": written.samples if written else 0,
            "metadata_sha256": written.metadata_sha256 if written else None,
            "pages": {"bytes": written.page_size, "crc32": written.page_crc32} if written else None,
            "image": beton["image"],
        },
    }
