"""Puts labels of tiles that come from tables into a study, and takes them out.

A table is read piece by piece into a temporary one, in which tiles are numbers; whatever is wrong with any of its rows
is told before one is kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from slideduck.catalog.given_labels import KEYS, Reading, reading_of
from slideduck.catalog.grids import extend_grids, grid_names, only_grid
from slideduck.catalog.label_sets import ROIS, LabelSet, drop_set, fingerprint, label_sets, outdate, sources
from slideduck.errors import InputError, StudyError
from slideduck.files.find import quoted
from slideduck.files.frames import GivenTable, given_table
from slideduck.names import is_missing, nfc, suggestion, text_problem
from slideduck.progress import track
from slideduck.show import Shown
from slideduck.store.db import limited_memory, registered
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_query
from slideduck.words import counted, some

__all__ = ["LabelsAdded", "LabelsRemoved", "SetsVerified", "add_labels", "remove_labels", "verify_sets"]

#: The most labels that a set may have: more are numbers, or names of something else.
_MOST_LABELS = 10_000
#: What is shown of what is wrong.
_EXAMPLES = 5


@dataclass(frozen=True)
class LabelsAdded(Shown):
    """What `add_labels` did.

    Attributes
    ----------
    name, grid, kind : str
        The set, its grid, and whether it is of ``labels``, ``numbers`` or ``soft`` labels.
    rows, tiles, slides : int
        Rows of the table, tiles that have a label or number now, and slides that they are on.
    missing, repeated : int
        Rows without a label (empty, NaN, NA and the like), and rows that say again what another says.
    tied : int
        Tiles of soft labels with several classes of the greatest probability; the first by name is the label.
    classes : tuple of str
        The labels, or the classes of soft labels.
    unchanged, replaced : bool
        The study had these very labels, or others of that name that they took the place of.
    in_force : bool
        The rule in force takes labels from the set.
    """

    name: str
    grid: str
    kind: str
    rows: int
    tiles: int
    slides: int
    missing: int
    repeated: int
    tied: int
    classes: tuple[str, ...]
    unchanged: bool = False
    replaced: bool = False
    in_force: bool = False


@dataclass(frozen=True)
class LabelsRemoved(Shown):
    """What `remove_labels` removed, or would.

    Attributes
    ----------
    name : str
        The set.
    grids : tuple of str
        Grids that it was of.
    tiles : int
        Tiles that it had a label or number of.
    """

    name: str
    grids: tuple[str, ...]
    tiles: int


@dataclass(frozen=True)
class SetsVerified:
    """How the sets of labels that a study holds compare with what was added.

    Attributes
    ----------
    sets, tiles : int
        Sets and tiles that were compared.
    differences : tuple of str
        What is not as it was added.
    unverified : tuple of str
        Sets whose file is not there any more or has changed, or that were no file; their rows are as they were added.
    """

    sets: int
    tiles: int
    differences: tuple[str, ...] = field(default=())
    unverified: tuple[str, ...] = field(default=())


def add_labels(
    handle: Handle,
    given: Any,
    *,
    name: str = "consensus",
    grid: str | None = None,
    coordinates: str | None = None,
    classes: Sequence[str] | None = None,
    replace: bool = False,
    memory: str | int | None = None,
) -> LabelsAdded:
    """Add labels, numbers or soft labels of tiles that come from a table.

    Parameters
    ----------
    handle : Handle
        The study.
    given : path, pandas.DataFrame, polars.DataFrame, pyarrow.Table or duckdb.DuckDBPyRelation
        Names tiles by a column (or an index) ``tile_id``, or by ``slide`` with ``loc_x`` and ``loc_y``, ``base_x`` and
        ``base_y``, or ``grid_x`` and ``grid_y``, as the view ``labels`` has them; and has a column ``label`` (a text a
        tile), ``value`` (a number a tile), or a column for each class of soft labels, whose probabilities sum to 1
        within 1e-6. A path is Parquet or CSV.
    name : str
        What the set is called, for the label rule.
    grid : str, optional
        The grid of the tiles; needed where the study has several.
    coordinates : {"loc", "base", "grid"}, optional
        What the columns ``x`` and ``y`` are, where the table has these: the tile's centre rounded down, its top left
        corner, or its column and row.
    classes : sequence of str, optional
        The columns of soft labels; default all columns that are neither a place nor known otherwise.
    replace : bool
        Take the place of a set of that name.
    memory : str or int, optional
        What DuckDB may use meanwhile; by default a quarter of the machine's.

    Returns
    -------
    LabelsAdded

    Raises
    ------
    InputError
        With examples, if any row names no tile of the grid, tiles are there twice with different labels, or a
        number or probability is none; nothing is added then.
    StudyError
        If the study has no grid, there is a set of that name, or it is of another kind in another grid.

    Notes
    -----
    Text is put in NFC and stripped; ``NA``, ``NaN``, ``None`` and the like are no label. Labels that `rename_label`
    renamed are renamed here too.
    """
    name = _checked_name(name)
    chosen = only_grid(handle, grid)
    held = next((one for one in label_sets(handle.con, name) if one.grid == chosen), None)
    table = given_table(given, (*KEYS, "label", "value"))
    reading = reading_of(table, coordinates, classes)
    _require_kind(handle, name, chosen, reading.kind)
    options = json.dumps({"coordinates": coordinates, "classes": None if classes is None else list(classes)})
    sha256 = table.sha256()
    if held is not None and sha256 is not None and (held.sha256, held.options) == (sha256, options):
        return _unchanged(handle, held)
    extend_grids(handle)
    with limited_memory(handle.con, memory), handle.atomic():
        staged = _stage(handle, table, reading, chosen)
        is_same = held is not None and (held.content, held.classes) == (staged.content, staged.classes)
        if held is not None and not replace and not is_same:
            raise _there_already(handle, held)
        if held is not None and not is_same:
            drop_set(handle, held)
        if held is not None and is_same:
            handle.con.execute(
                "UPDATE label_sets SET source = $1, sha256 = $2, options = $3 WHERE label_set_id = $4",
                [table.source, sha256, options, held.label_set_id],
            )
        else:
            _insert(handle, staged, (name, chosen, table.source, sha256, options))
        _unstage(handle)
        return LabelsAdded(
            name, chosen, staged.kind, staged.rows, staged.tiles, staged.slides, staged.missing, staged.repeated,
            staged.tied, staged.classes, unchanged=is_same, replaced=held is not None and not is_same,
            in_force=name in sources(handle.con),
        )  # fmt: skip


def _insert(handle: Handle, staged: _Staged, told: tuple[str, str, str, str | None, str]) -> None:
    """Put what is staged into the tables, as a new set."""
    name, grid, source, sha256, options = told
    number, grid_id = handle.con.execute(
        "INSERT INTO label_sets (name, grid_id, kind, classes, source, sha256, content, options) "
        "SELECT $1, grid_id, $2, $3, $4, $5, $6, $7 FROM grids WHERE grid = $8 RETURNING label_set_id, grid_id",
        [name, staged.kind, list(staged.classes), source, sha256, staged.content, options, grid],
    ).fetchone() or (0, 0)
    handle.con.execute(
        "INSERT INTO tile_labels SELECT $id, slide_id, grid_x, grid_y, label, value, probabilities FROM once_label "
        "WHERE NOT repeats AND (label IS NOT NULL OR value IS NOT NULL)",
        {"id": number},
    )
    outdate(handle, name, grid_id)


def remove_labels(handle: Handle, name: str, *, grid: str | None = None, dry_run: bool = False) -> LabelsRemoved:
    """Take a set of labels of tiles out of a study, of every grid or of one.

    Raises
    ------
    StudyError
        If there is none of that name, or the rule in force takes labels from it.
    """
    name = nfc(name)
    found = [held for held in label_sets(handle.con, name) if grid in (None, held.grid)]
    if not found:
        known = [held.name for held in label_sets(handle.con) if grid in (None, held.grid)]
        there = f"it has {', '.join(map(repr, dict.fromkeys(known)))}" if known else "it has none"
        of_grid = "" if grid is None else f" of grid {grid!r}"
        raise StudyError(f"{handle.name} has no labels {name!r}{of_grid}; {there}{suggestion(name, known)}")
    in_force = sources(handle.con)
    if name in in_force:
        others = [source for source in in_force if source != name] or [ROIS]
        raise StudyError(
            f"the rule in force takes labels from {name!r}; choose where they come from without it first: "
            f"slideduck label {handle.name} {' '.join(f'--from {source}' for source in others)}"
        )
    if not dry_run:
        with handle.atomic():
            for held in found:
                drop_set(handle, held)
    return LabelsRemoved(name, tuple(held.grid for held in found), sum(held.tiles for held in found))


def verify_sets(handle: Handle) -> SetsVerified:
    """Compare the sets of labels with what was added: their rows by their fingerprint, and their files, read again."""
    differences: list[str] = []
    unverified: list[str] = []
    sets = label_sets(handle.con)
    with track("Verifying labels", len(sets), "sets", show=handle.progress) as advance:
        for held in sets:
            called = f"{held.name} ({held.grid})"
            if fingerprint(handle, held.label_set_id) != held.content:
                differences.append(f"{called}: the study has other rows than were added")
            elif (problem := _unlike_its_file(handle, held)) is not None:
                (differences if problem.startswith("its file") else unverified).append(f"{called}: {problem}")
            advance(1)
    return SetsVerified(len(sets), sum(held.tiles for held in sets), tuple(differences), tuple(unverified))


def _unlike_its_file(handle: Handle, held: LabelSet) -> str | None:
    """Return why a set is not what its file says now, or cannot be compared with it; None where it is."""
    if held.sha256 is None:
        return f"added from {held.source}" + (", of which slides were removed" if "/" in held.source else "")
    try:
        options = json.loads(held.options)
        table = given_table(held.source, (*KEYS, "label", "value"))
        if table.sha256() != held.sha256:
            return f"{held.source} has changed since"
        reading = reading_of(table, options["coordinates"], options["classes"])
        with limited_memory(handle.con):
            content = _stage(handle, table, reading, held.grid).content
            _unstage(handle)
    except InputError as error:
        return error.problems[0]
    return None if content == held.content else "its file gives other rows than the study has"


# ---------------------------------------------------------------------------------------- staging


@dataclass(frozen=True)
class _Staged:
    """What is staged of a table, in ``once_label``."""

    kind: str
    rows: int
    tiles: int
    slides: int
    missing: int
    repeated: int
    tied: int
    content: str
    classes: tuple[str, ...]


def _stage(handle: Handle, table: GivenTable, reading: Reading, grid: str) -> _Staged:
    """Read a table into ``once_label``, whole, and refuse it if anything is wrong with it."""
    con = handle.con
    renamed: dict[str, str | None] = dict(con.execute("FROM label_names").fetchall())
    reading = _with_names(reading, renamed, table.name)
    con.execute(read_query("stage_laid_slides"), {"grid": grid, "coordinates": reading.coordinates})
    con.execute(read_query("create_incoming_label"))
    with track("Reading labels", table.n_rows, "rows", show=handle.progress) as advance:
        for piece in table.read(reading.columns):
            with registered(con, "given_rows", piece):
                con.execute(f"CREATE OR REPLACE TEMP VIEW given_piece AS SELECT {reading.select()} FROM given_rows")
                con.execute(read_query("insert_incoming_labels"))
            advance(piece.num_rows)
    con.execute("DROP VIEW IF EXISTS given_piece")
    (rows,) = con.execute("SELECT count(*) FROM incoming_label").fetchone() or (0,)
    if not rows:
        raise InputError([f"{table.name}: no rows; give a row for each tile that has a label"])
    problems = [*_strange_tiles(handle, table.name, grid, rows), *_wrong_values(handle, table.name, reading)]
    if problems:
        raise InputError(problems)
    names = _names(handle, table.name, reading, renamed)
    with registered(con, "given_name", names):
        con.execute(read_query("stage_given_labels"))
    con.execute("DROP TABLE incoming_label")
    con.execute(read_query("stage_once_labels"))
    con.execute("DROP TABLE staged_label")
    _refuse_differing(handle, table.name)
    tiles, slides, missing, repeated, tied, content = (
        con.execute(read_query("count_once_labels")).fetchone() or (0,) * 6
    )
    if not tiles:
        raise InputError([f"{table.name}: none of its {counted(rows, 'row')} has a label; give one to a tile at least"])
    classes = reading.classes
    if reading.kind == "labels":
        found = con.execute("SELECT DISTINCT label FROM once_label WHERE label IS NOT NULL ORDER BY label").fetchall()
        classes = tuple(label for (label,) in found)
    return _Staged(reading.kind, rows, tiles, slides, missing, repeated, tied, str(content), classes)


def _unstage(handle: Handle) -> None:
    for table in ("once_label", "laid_slide"):
        handle.con.execute(f"DROP TABLE IF EXISTS {table}")


def _with_names(reading: Reading, renamed: Mapping[str, str | None], name: str) -> Reading:
    """Return a reading whose classes are called as the study calls them; those of one name become one."""
    if reading.kind != "soft":
        return reading
    called: dict[str, list[str]] = {}
    for column in reading.values:
        text = nfc(column).strip()
        label = renamed.get(text, text)
        if label is None or is_missing(label):
            raise InputError([f"{name}: column {quoted(column)} is no name of a class; rename or remove it"])
        called.setdefault(label, []).append(column)
    return replace(reading, sums={label: tuple(called[label]) for label in sorted(called)})


def _names(handle: Handle, name: str, reading: Reading, renamed: Mapping[str, str | None]) -> pa.Table:
    """Return what each text of ``incoming_label`` is called as a label; missing ones are left out."""
    found = handle.con.execute(
        f"SELECT DISTINCT label FROM incoming_label WHERE label IS NOT NULL LIMIT {_MOST_LABELS + 1}"
    ).fetchall()
    texts = sorted(label for (label,) in found)
    if len(texts) > _MOST_LABELS:
        raise InputError(
            [
                f"{name}: over {_MOST_LABELS:,} different labels, such as {quoted(texts[0])} and {quoted(texts[-1])}; "
                "numbers go into a column called value"
            ]
        )
    for text in texts:
        problem = text_problem(text) or ("holds a line end: a quote may never close" if "\n" in text else None)
        if problem is not None:
            raise InputError([f"{name}: label {quoted(text)} {problem}; give each tile a label of one line"])
    stripped = {text: nfc(text).strip() for text in texts}
    if reading.kind == "labels":
        called = {text: renamed.get(label, label) for text, label in stripped.items() if not is_missing(label)}
    else:
        called = {text: text for text in texts}
    return pa.table({"text": pa.array(called.keys(), pa.string()), "label": pa.array(called.values(), pa.string())})


# --------------------------------------------------------------------------------------- refusing


def _strange_tiles(handle: Handle, name: str, grid: str, rows: int) -> list[str]:
    """Return what is wrong with rows that name no tile of the grid."""
    found = handle.con.execute(read_query("find_strange_tiles")).fetchall()
    if not found:
        return []
    known = [slide for (slide,) in handle.con.execute("SELECT slide FROM slides ORDER BY slide").fetchall()]
    others = [other for other in grid_names(handle) if other != grid]
    elsewhere = f"; those of another grid are added with `grid` ({', '.join(others)})" if others else ""
    strange = sum(row[1] for row in found)
    problems = [
        f"{name}: {strange:,} of {counted(rows, 'row')} {'names' if strange == 1 else 'name'} no tile of grid "
        f"{grid!r}, so none was added{elsewhere}"
    ]
    for slide, number, called, is_known, is_laid, error in found:
        such = f"{counted(number, 'row')}, such as {quoted(called)}" if called else counted(number, "row")
        if slide is None:
            what = f"{such}: no name of a tile, which is slide-x-y" if called else f"{such} without a tile"
        elif not is_known:
            what = f"no slide {slide!r} ({such}){suggestion(slide, known)}"
        elif not is_laid:
            what = f"slide {slide!r} has no tile of the grid{f', since {error}' if error else ''} ({such})"
        else:
            what = f"slide {slide!r} has no such tile ({such}); {_where_tiles_are(handle, slide)}"
        problems.append(f"{name}: {what}")
    return problems


def _where_tiles_are(handle: Handle, slide: str) -> str:
    """Return where the tiles of a slide are in the coordinates of the table."""
    first_x, last_x, first_y, last_y, step = (
        handle.con.execute(
            "SELECT first_x, first_x + (n_columns - 1) * step, first_y, first_y + (n_rows - 1) * step, step "
            "FROM laid_slide WHERE slide = $slide",
            {"slide": nfc(slide)},
        ).fetchone()
        or (0,) * 5
    )
    return f"they are at x {first_x} to {last_x} and y {first_y} to {last_y}, in steps of {step}"


def _wrong_values(handle: Handle, name: str, reading: Reading) -> list[str]:
    """Return what is wrong with numbers and probabilities."""
    wrong = handle.con.execute(
        "SELECT count(*), min({'slide_id': slide_id, 'grid_y': grid_y, 'grid_x': grid_x}) FROM incoming_label "
        "WHERE wrong IS NOT NULL AND slide_id IS NOT NULL"
    ).fetchone()
    if wrong is None or not wrong[0]:
        return []
    examples = handle.con.execute(read_query("find_wrong_values"), {"most": _EXAMPLES}).fetchall()
    said = "; ".join(f"{tile} has {quoted(text) if reading.kind == 'numbers' else text}" for tile, text in examples)
    if reading.kind == "numbers":
        return [
            f"{name}: {counted(wrong[0], 'value')} that {'is' if wrong[0] == 1 else 'are'} no finite number: {said}"
        ]
    return [
        f"{name}: {counted(wrong[0], 'row')} of soft labels whose probabilities are not 0 or more with a sum of 1 "
        f"(within 1e-6): {said}; divide each by their sum, or leave all of a row empty for no label"
    ]


def _refuse_differing(handle: Handle, name: str) -> None:
    """Refuse a table that says different things of one tile."""
    (number,) = handle.con.execute("SELECT count(*) FROM once_label WHERE differs").fetchone() or (0,)
    if not number:
        return
    rows = handle.con.execute(read_query("find_differing_labels"), {"most": _EXAMPLES}).fetchall()
    shown = some([f"{place} ({' and '.join(map(str, said))})" for place, said in rows])
    raise InputError(
        [
            f"{name}: {counted(number, 'row')} {'says' if number == 1 else 'say'} something else of a tile than "
            f"another row does: {shown}; give each tile one label"
        ]
    )


def _checked_name(name: str) -> str:
    """Return the name of a set, or refuse it."""
    name = nfc(name).strip()
    if is_missing(name) or text_problem(name) or name.casefold() == ROIS or not name.isprintable():
        why = "stands for the ROIs" if name.casefold() == ROIS else "is no name"
        raise StudyError(f"`name` is {name!r}, which {why}; give another, such as consensus")
    return name


def _require_kind(handle: Handle, name: str, grid: str, kind: str) -> None:
    """Refuse a set that is of another kind in another grid: a rule that names it would mean two things."""
    for held in label_sets(handle.con, name):
        if held.grid != grid and held.kind != kind:
            raise StudyError(
                f"{name!r} is a set of {_KINDS[held.kind]} for grid {held.grid!r}, and these are {_KINDS[kind]}; "
                "give them another name with `name`"
            )


_KINDS = {"labels": "labels", "numbers": "numbers", "soft": "soft labels"}


def _there_already(handle: Handle, held: LabelSet) -> StudyError:
    return StudyError(
        f"{handle.name} has labels {held.name!r} of {counted(held.tiles, 'tile')} of grid {held.grid!r} already, from "
        f"{held.source}; put these in their place with `replace=True`, or give another name with `name`"
    )


# --------------------------------------------------------------------------------------- reporting


def _unchanged(handle: Handle, held: LabelSet) -> LabelsAdded:
    """Return what is said of a file whose labels the study has."""
    (slides,) = handle.con.execute(
        "SELECT count(DISTINCT slide_id) FROM tile_labels WHERE label_set_id = $id", {"id": held.label_set_id}
    ).fetchone() or (0,)
    return LabelsAdded(
        held.name, held.grid, held.kind, held.tiles, held.tiles, slides, 0, 0, 0, held.classes,
        unchanged=True, in_force=held.name in sources(handle.con),
    )  # fmt: skip
