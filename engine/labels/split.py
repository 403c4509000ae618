"""The split of a study: which patients train and which validate; no patient is on both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from slideduck.errors import SplitError
from slideduck.labels.balance import assign_sides, merge_by_site
from slideduck.labels.view import require_labels
from slideduck.store.db import identifier, registered
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_query
from slideduck.words import some

__all__ = ["split"]


def split(
    handle: Handle,
    *,
    val_fraction: float = 0.3,
    seed: int = 0,
    folds: int | None = None,
    val_fold: int = 0,
    preserve_site: bool = False,
    column: str | None = None,
) -> pa.Table:
    """Split the patients into sides, replacing any earlier split.

    Parameters
    ----------
    handle : Handle
        The study.
    val_fraction : float, default 0.3
        Part of the labelled tiles, and of the patients, that validates.
    seed : int, default 0
        Another seed gives another split.
    folds : int, optional
        Number of folds, in place of a fraction.
    val_fold : int, default 0
        The fold that is split ``val``; the others are ``train``.
    preserve_site : bool, default False
        Keep each site within one fold.
    column : str, optional
        Column of the patients' table to take the split from, as it stands there.

    Returns
    -------
    pyarrow.Table
        Tiles, slides and patients by grid, split, fold and label, as ``sql/queries/count_split.sql`` has it.

    Raises
    ------
    SplitError
        If there are too few patients, or a patient, a site or a slide file would be on two sides;
        the earlier split stays then.
    """
    _check_split(val_fraction, folds, val_fold, preserve_site, column)
    require_labels(handle)
    if column is not None:
        kind, sides = "column", _sides_from_column(handle, column)
    elif folds is not None:
        kind = "site_folds" if preserve_site else "folds"
        fold_of = _balanced(handle, [1.0 / folds] * folds, seed, preserve_site=preserve_site)
        sides = {p: ("val" if fold == val_fold else "train", fold) for p, fold in fold_of.items()}
    else:
        kind = "fraction"
        side_of = _balanced(handle, [1.0 - val_fraction, val_fraction], seed, preserve_site=False)
        sides = {p: (("train", "val")[side], None) for p, side in side_of.items()}
    rule = [kind, seed, val_fraction if kind == "fraction" else None, folds, val_fold if folds else None, column]
    _keep(handle, sides, rule)
    return handle.con.execute(read_query("count_split")).to_arrow_table()


def _keep(handle: Handle, sides: Mapping[str, tuple[str, int | None]], rule: Sequence[object]) -> None:
    """Store a split in place of the earlier one, unless a patient, a site or a file would be on two sides."""
    table = pa.table(
        {
            "patient": pa.array(list(sides), pa.string()),
            "split": pa.array([split for split, _ in sides.values()], pa.string()),
            "fold": pa.array([fold for _, fold in sides.values()], pa.int32()),
        }
    )
    with handle.atomic(), registered(handle.con, "incoming_split", table):
        handle.con.execute("DELETE FROM splits")
        handle.con.execute("DELETE FROM split_rule")
        handle.con.execute("INSERT INTO splits SELECT * FROM incoming_split ORDER BY patient")
        handle.con.execute(
            "INSERT INTO split_rule VALUES ($1, $2, $3, $4, $5, $6)",
            list(rule),
        )
        leaks = handle.con.execute(read_query("find_leaks")).fetchall()
        if leaks:
            raise SplitError("\n".join(_leak(*row) for row in leaks))


def _balanced(handle: Handle, fractions: Sequence[float], seed: int, *, preserve_site: bool) -> dict[str, int]:
    """Return the side of each patient, balanced over labels."""
    rows = handle.con.execute(read_query("count_patient_labels")).fetchall()
    patients = list(dict.fromkeys(row[0] for row in rows))
    names = sorted({row[2] for row in rows if row[2] is not None})
    tiles = np.zeros((len(patients), len(names)), dtype=np.int64)
    place = {patient: i for i, patient in enumerate(patients)}
    for patient, _, name, count in rows:
        if name is not None:
            tiles[place[patient], names.index(name)] += count
    if not preserve_site:
        return dict(zip(patients, assign_sides(patients, tiles, fractions, seed).tolist(), strict=True))
    sites: dict[str, list[str]] = {patient: [] for patient in patients}
    for patient, site, _, _ in rows:
        if site is not None and site not in sites[patient]:
            sites[patient].append(site)
    homeless = [patient for patient in patients if not sites[patient]]
    if homeless:
        raise SplitError(
            f"{len(homeless)} of {len(patients)} patients have no site ({some(homeless)}); "
            "add a table with a column site by add-patients, or split without preserving sites"
        )
    group_of = merge_by_site(patients, [sites[patient] for patient in patients])
    n_groups = max(group_of) + 1
    if n_groups < len(fractions):
        raise SplitError(f"{n_groups} sites cannot fill {len(fractions)} folds; ask for fewer folds")
    group_tiles = np.zeros((n_groups, len(names)), dtype=np.int64)
    np.add.at(group_tiles, group_of, tiles)
    members = [
        ", ".join(sorted({s for p, g in zip(patients, group_of, strict=True) if g == group for s in sites[p]}))
        for group in range(n_groups)
    ]
    side = assign_sides(members, group_tiles, fractions, seed)
    return {patient: int(side[group]) for patient, group in zip(patients, group_of, strict=True)}


def _sides_from_column(handle: Handle, column: str) -> dict[str, tuple[str, int | None]]:
    """Return the side of each patient from a column of the patients' table."""
    columns = [name for (name,) in handle.con.execute("SELECT column_name FROM (DESCRIBE patients)").fetchall()]
    if column not in columns:
        raise SplitError(f"the patients' table has no column {column!r}; it has {', '.join(columns)}")
    rows = handle.con.execute(
        f"SELECT patient, {identifier(column)}::VARCHAR AS side, string_agg(slide, ', ' ORDER BY slide) "
        "FROM patients SEMI JOIN slides USING (slide) GROUP BY ALL ORDER BY patient, side"
    ).fetchall()
    sides: dict[str, tuple[str, int | None]] = {}
    problems: list[str] = []
    for patient, side, slides in rows:
        if side is None or not side.strip():
            problems.append(f"patient {patient!r} (slides {slides}) has no {column}; fill the column in")
        elif patient in sides:
            problems.append(
                f"patient {patient!r} is on the sides {sides[patient][0]!r} and {side!r} of column {column!r}; "
                "give all slides of a patient one side"
            )
        else:
            sides[patient] = (side.strip(), None)
    if problems:
        raise SplitError("\n".join(problems))
    return sides


def _check_split(
    val_fraction: float, folds: int | None, val_fold: int, preserve_site: bool, column: str | None
) -> None:
    """Refuse settings of a split that are impossible or contradict each other."""
    if not 0 < val_fraction < 1:
        raise SplitError(f"val_fraction is {val_fraction:g}; give a part above 0 and below 1, such as 0.3")
    if folds is not None and folds < 2:
        raise SplitError(f"folds is {folds}; give 2 or more")
    if folds is not None and not 0 <= val_fold < folds:
        raise SplitError(f"val_fold is {val_fold}; give a fold from 0 to {folds - 1}")
    if preserve_site and folds is None:
        raise SplitError("preserve_site is given without folds; say how many, such as folds=3")
    if column is not None and folds is not None:
        raise SplitError("both column and folds are given; give one of them")


def _leak(kind: str, name: str, sides: str, slides: str) -> str:
    """Return the message for what is on two sides of a split."""
    if kind == "slide file":
        return (
            f"slides {slides} are the same file under two names, and would be on the sides {sides}; "
            "give them one patient, or remove one"
        )
    return f"{kind} {name!r} would be on the sides {sides} (slides {slides})"
