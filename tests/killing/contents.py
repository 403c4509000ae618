"""What a folder holds, as digests: of rows of studies, tensors of checkpoints, leaves of JSON, bytes of the rest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["differences", "snapshot"]


def snapshot(folder: Path) -> dict[str, str]:
    """Return a digest for each part of each file in a folder.

    Times and the like differ between two runs: what differs is found by comparing two snapshots of uninterrupted runs,
    so that parts are small. Of a study the parts are its tables, the view `labels`, and each of their columns.
    """
    found: dict[str, str] = {}
    # Studies first: their logs go when they are opened.
    studies = sorted(folder.rglob("*.duckdb"))
    for path in [*studies, *(path for path in sorted(folder.rglob("*")) if path not in studies)]:
        name = path.relative_to(folder).as_posix()
        # What a killed command had not finished has a name of its own, which begins with a dot, and is no content.
        if path.exists() and "/." not in f"/{name}":
            parts = [("/", "")] if path.is_dir() else _parts(path)
            found.update((f"{name}: {part}" if part else name, value) for part, value in parts)
    return found


def differences(found: dict[str, str], expected: dict[str, str], volatile: set[str]) -> list[str]:
    """Return the names of the parts that are not as expected, volatile ones left out."""
    names = (found.keys() | expected.keys()) - volatile
    return sorted(
        f"{name} ({'missing' if name not in found else 'not expected' if name not in expected else 'differs'})"
        for name in names
        if found.get(name) != expected.get(name)
    )


def _parts(path: Path) -> Iterator[tuple[str, str]]:
    if path.suffix == ".duckdb":
        yield from _study(path)
    elif path.suffix == ".pt":
        import torch

        yield from _leaves("state", torch.load(path, map_location="cpu", weights_only=True))
    elif path.suffix == ".json":
        yield from _leaves("json", json.loads(path.read_bytes()))
    elif path.suffix == ".jsonl":
        yield from _leaves("lines", [json.loads(line) for line in path.read_bytes().splitlines()])
    elif path.suffix == ".h5":
        yield from _datasets(path)
    else:
        yield "", _digest(path.read_bytes())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _leaves(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield each leaf of dictionaries and lists; long lists as one."""
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from _leaves(f"{name}.{key}", value[key])
    elif isinstance(value, list) and len(value) < 100:
        yield f"{name}.length", str(len(value))
        for number, item in enumerate(value):
            yield from _leaves(f"{name}.{number}", item)
    elif hasattr(value, "numpy"):
        yield name, _digest(str(value.shape).encode() + value.contiguous().view(-1).numpy().tobytes())
    else:
        yield name, _digest(repr(value).encode())


def _datasets(path: Path) -> Iterator[tuple[str, str]]:
    import h5py

    with h5py.File(path) as file:
        names: list[str] = []
        file.visit(names.append)
        for name in names:
            if isinstance(file[name], h5py.Dataset):
                yield name, _digest(repr(file[name][()].tolist()).encode())


def _study(path: Path) -> Iterator[tuple[str, str]]:
    """Open a study as a user does, and yield the sum of the hashes of each table's rows and of each column."""
    import slideduck as sd
    from slideduck.store.db import identifier

    with sd.open(path) as study:
        tables = study.con.execute(
            "SELECT table_name FROM duckdb_tables() WHERE NOT internal AND NOT temporary ORDER BY 1"
        ).fetchall()
        for (table,) in [*tables, ("labels",)]:
            columns = study.con.execute(f"DESCRIBE {identifier(table)}").fetchall()
            # Numbers that a sequence gives have gaps where something was undone; the view shows that they still join.
            columns = [each for each in columns if not (each[0].endswith("_id") and "INT" in each[1])]
            timeless = [identifier(name) for name, kind, *_ in columns if "TIMESTAMP" not in kind]
            hashes = [f"hash({', '.join(timeless)})", *(f"hash({identifier(name)})" for name, *_ in columns)]
            sums = ", ".join(f"sum({each}::HUGEINT)" for each in hashes)
            rows = study.con.execute(f"SELECT count(*), {sums} FROM {identifier(table)}").fetchone()
            assert rows is not None
            names = ["length", "rows", *(name for name, *_ in columns)]
            yield from ((f"{table}.{name}", str(value)) for name, value in zip(names, rows, strict=True))
