"""The sets of labels of tiles that a study holds: what they are, and what becomes of them with slides and names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from slideduck.errors import StudyError
from slideduck.store.db import literal
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_query

__all__ = [
    "ROIS", "LabelSet", "delete_set_rows", "described_sets", "drop_set", "fingerprint", "given_columns", "is_soft",
    "label_sets", "outdate", "rename_in_sets", "soft_array", "soft_of", "sources",
]  # fmt: skip

#: What the label rule calls the ROIs among the sources of labels.
ROIS = "rois"


@dataclass(frozen=True)
class LabelSet:
    """A set of labels of the tiles of a grid.

    Attributes
    ----------
    label_set_id, grid_id : int
        Keys of the set and of its grid.
    name, grid : str
        Names of the set and of its grid.
    kind : {"labels", "numbers", "soft"}
        A label a tile, a number a tile, or a probability of each class.
    classes : tuple of str
        The labels that its tiles have, or the classes of soft labels, in their order.
    source : str
        Path of the file that it came from, or what it was in Python.
    sha256 : str or None
        Fingerprint of the file.
    content : str
        Fingerprint of the rows, see `fingerprint`.
    options : str
        What else was told about the source, as JSON.
    tiles : int
        Tiles that it has something of.
    """

    label_set_id: int
    grid_id: int
    name: str
    grid: str
    kind: str
    classes: tuple[str, ...]
    source: str
    sha256: str | None
    content: str
    options: str

    @property
    def tiles(self) -> int:
        """Tiles that it labels, as its fingerprint counts them."""
        return int(self.content.partition(":")[0])


def label_sets(con: duckdb.DuckDBPyConnection, name: str | None = None) -> list[LabelSet]:
    """Return the sets of labels of a study, or those of a name, in the order of names and grids."""
    rows = con.execute(
        "SELECT label_set_id, grid_id, name, grid, kind, classes, source, sha256, content, options FROM label_sets "
        "JOIN grids USING (grid_id) WHERE name = coalesce($name, name) ORDER BY name, grid",
        {"name": name},
    ).fetchall()
    return [
        LabelSet(number, grid_id, called, grid, kind, tuple(classes), source, sha256, content, options)
        for number, grid_id, called, grid, kind, classes, source, sha256, content, options in rows
    ]


def sources(con: duckdb.DuckDBPyConnection) -> list[str]:
    """Return where the rule in force takes labels from; nothing before the first labelling."""
    return [source for (source,) in con.execute("SELECT unnest(labels_from) FROM label_rule").fetchall()]


def fingerprint(handle: Handle, label_set_id: int) -> str:
    """Return what tells the rows of a set from others, whatever their order: their number and a hash."""
    (content,) = handle.con.execute(read_query("fingerprint_label_set"), {"label_set_id": label_set_id}).fetchone() or (
        "0:0",
    )
    return str(content)


def drop_set(handle: Handle, held: LabelSet) -> None:
    """Delete a set with its rows, inside a transaction."""
    for table in ("tile_labels", "label_sets"):
        handle.con.execute(f"DELETE FROM {table} WHERE label_set_id = $id", {"id": held.label_set_id})
    outdate(handle, held.name, held.grid_id)


def outdate(handle: Handle, name: str, grid_id: int) -> None:
    """Say that labels are out of date, inside a transaction, if the rule in force takes them from a set."""
    handle.con.execute(
        "UPDATE labelled SET counted_by = NULL WHERE grid_id = $grid_id "
        "AND EXISTS (FROM label_rule WHERE list_contains(labels_from, $name))",
        {"grid_id": grid_id, "name": name},
    )


def delete_set_rows(handle: Handle, slide_ids: Sequence[int]) -> None:
    """Delete what sets say of the tiles of slides, inside a transaction.

    The file of such a set is told as another one from then on, so that it can be added again, for its slides.
    """
    within = {"ids": list(slide_ids), "low": min(slide_ids), "high": max(slide_ids)}
    of_slides = "slide_id BETWEEN $low AND $high AND list_contains($ids, slide_id)"
    query = f"SELECT DISTINCT label_set_id FROM tile_labels WHERE {of_slides} ORDER BY label_set_id"
    sets = handle.con.execute(query, within).fetchall()
    handle.con.execute(f"DELETE FROM tile_labels WHERE {of_slides}", within)
    for (number,) in sets:
        handle.con.execute(
            "UPDATE label_sets SET sha256 = NULL, content = $content WHERE label_set_id = $id",
            {"content": fingerprint(handle, number), "id": number},
        )


def rename_in_sets(handle: Handle, old: str, new: str | None, *, dry_run: bool = False) -> list[LabelSet]:
    """Rename a label in every set that has it, inside a transaction; return those sets, as they were.

    A class of soft labels that becomes one with another has the sum of both probabilities.

    Raises
    ------
    StudyError
        If it is a class of soft labels, and is to be no label.
    """
    found = [held for held in label_sets(handle.con) if old in held.classes and held.kind != "numbers"]
    soft = [held.name for held in found if held.kind == "soft"]
    if new is None and soft:
        raise StudyError(
            f"{old!r} is a class of the soft labels {soft[0]!r}, whose probabilities would no more sum to 1; give it "
            f"another name, or remove them with: slideduck remove-labels {handle.name} {soft[0]}"
        )
    for held in () if dry_run else found:
        called = {name: new if name == old else name for name in held.classes}
        classes = sorted({name for name in called.values() if name is not None})
        if held.kind == "soft":
            _rename_soft(handle, held, called, classes)
        else:
            handle.con.execute(
                "UPDATE tile_labels SET label = $new WHERE label_set_id = $id AND label = $old",
                {"new": new, "old": old, "id": held.label_set_id},
            )
            handle.con.execute(
                "DELETE FROM tile_labels WHERE label_set_id = $id AND label IS NULL", {"id": held.label_set_id}
            )
        handle.con.execute(
            "UPDATE label_sets SET classes = $classes, content = $content WHERE label_set_id = $id",
            {"classes": classes, "content": fingerprint(handle, held.label_set_id), "id": held.label_set_id},
        )
        outdate(handle, held.name, held.grid_id)
    return found


def _rename_soft(handle: Handle, held: LabelSet, called: dict[str, str | None], classes: Sequence[str]) -> None:
    """Give soft labels the probabilities of other classes: of each, the sum of those that are called so."""
    sums = [
        " + ".join(f"probabilities[{place}]" for place, name in enumerate(held.classes, 1) if called[name] == wanted)
        for wanted in classes
    ]
    own = f"label_set_id = {held.label_set_id:d}"
    handle.con.execute(f"UPDATE tile_labels SET probabilities = [{', '.join(sums)}] WHERE {own}")
    names = ", ".join(map(literal, classes))
    handle.con.execute(
        f"UPDATE tile_labels SET label = [{names}][list_position(probabilities, list_max(probabilities))] WHERE {own}"
    )


# ------------------------------------------------------------------------------- what a beton says


def described_sets(con: duckdb.DuckDBPyConnection, grid: str) -> list[dict[str, str | None]]:
    """Return the sets of a grid that the rule in force takes labels from, as a side-car has them."""
    return [
        {field: getattr(held, field) for field in ("name", "kind", "source", "sha256", "content")}
        for held in label_sets(con)
        if held.name in sources(con) and held.grid == grid
    ]


def soft_of(tiles: pa.Table) -> list[dict[str, float] | None]:
    """Return the probabilities of each tile by class; None for a tile without; nothing where there are none."""
    column = tiles["soft"]
    if column.null_count == len(column):
        return []
    return [None if pairs is None else dict(pairs) for pairs in column.to_pylist()]


def given_columns(
    tiles: pa.Table, soft: Sequence[dict[str, float] | None], classes: Sequence[str]
) -> dict[str, list[Any]]:
    """Return the numbers and soft labels of tiles, as the side-car has them, where there are any."""
    found: dict[str, list[Any]] = {}
    if tiles["value"].null_count < tiles.num_rows:
        found["value"] = tiles["value"].to_pylist()
    if soft:
        found["soft"] = [each and [each.get(name, 0.0) for name in classes] for each in soft]
    return found


def soft_array(tiles: Mapping[str, Any], classes: int) -> npt.NDArray[np.float64]:
    """Return the probability of each class for each tile, of JSON that is right."""
    # The last row of the identity is what tiles without a label have, whose class number is -1.
    certain = np.vstack([np.eye(classes), np.zeros(classes)])
    return np.array(
        [certain[number] if each is None else each for number, each in zip(tiles["class"], tiles["soft"], strict=True)],
        np.float64,
    )


def is_soft(value: Any, classes: int) -> bool:
    """Return whether a value of JSON is a probability of each class."""
    return (
        isinstance(value, list)
        and len(value) == classes
        and all(type(part) in (int, float) and 0 <= part <= 2 for part in value)
        and abs(math.fsum(value) - 1) <= 2e-6
    )
