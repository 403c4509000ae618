"""The split of a study: which patients train and which validate; no patient is on both sides."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from slideduck.catalog.cells import named_in_sql
from slideduck.catalog.split_rule import SplitRule, read_split_rule
from slideduck.errors import SplitError
from slideduck.labels.balance import assign_sides, merge_by_site
from slideduck.labels.split_report import SplitReport, report_split
from slideduck.labels.view import require_labels
from slideduck.names import folded, is_missing, suggestion
from slideduck.store.db import registered
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_query
from slideduck.words import agreeing, counted, part, some

__all__ = ["split"]

_VAL_FRACTION = 0.3
#: A fold in a column; DuckDB writes a whole double with a zero behind the point.
_WHOLE = re.compile(r"[0-9]{1,9}(\.0)?")
#: What people call a side in a column of theirs, folded, and what it is here.
_SIDES = {"training": "train", "validation": "val", "valid": "val", "testing": "test"}


def split(
    handle: Handle,
    *,
    val_fraction: float | None = None,
    seed: int | None = None,
    folds: int | None = None,
    val_fold: int | None = None,
    preserve_site: bool = False,
    column: str | None = None,
) -> SplitReport:
    """Split the patients into sides, replacing any earlier split.

    Parameters
    ----------
    handle : Handle
        The study.
    val_fraction : float, optional
        Part of the labelled tiles, and of the patients, that validates; 0.3 if nothing else says how to split.
    seed : int, default 0
        Another seed gives another split.
    folds : int, optional
        Number of folds, in place of a fraction.
    val_fold : int, default 0
        The fold that is split ``val``; the others are ``train``. With ``column`` it says that the column has folds.
    preserve_site : bool, default False
        Keep each site within one fold.
    column : str, optional
        Column of the patients' table to take the split from. Case and outer spaces are no difference, and
        ``training``, ``validation``, ``valid`` and ``testing`` are ``train``, ``val``, ``val`` and ``test``. With
        ``val_fold`` its whole numbers are folds, in their order the folds 0, 1 and so on; other words in it, such as
        ``test``, are sides beside the folds.

    Returns
    -------
    SplitReport

    Raises
    ------
    SplitError
        If there are too few patients, or a patient, a site or a slide file would be on two sides;
        the earlier split stays then.

    Notes
    -----
    Without a fraction, folds or a column, the split in force says which of them, and what of it is not given anew.
    """
    before = read_split_rule(handle)
    rule = _chosen(before, val_fraction, seed, folds, val_fold, preserve_site, column)
    require_labels(handle)
    if rule.column is not None:
        sides = _sides_from_column(handle, rule.column)
        if rule.val_fold is not None:
            sides, rule = _in_folds(sides, rule)
    elif rule.folds is not None:
        preserve = rule.kind == "site_folds"
        fold_of = _balanced(handle, [1.0 / rule.folds] * rule.folds, rule.seed, preserve_site=preserve)
        sides = {p: ("val" if fold == rule.val_fold else "train", fold) for p, fold in fold_of.items()}
    else:
        assert rule.val_fraction is not None
        side_of = _balanced(handle, [1.0 - rule.val_fraction, rule.val_fraction], rule.seed, preserve_site=False)
        sides = {p: (("train", "val")[side], None) for p, side in side_of.items()}
    earlier = handle.con.execute("SELECT patient, split, fold FROM splits").fetchall()
    changed = sum(patient in sides and sides[patient] != (side, fold) for patient, side, fold in earlier)
    _keep(handle, sides, rule)
    return report_split(handle, rule, before, changed)


def _chosen(
    before: SplitRule | None,
    val_fraction: float | None,
    seed: int | None,
    folds: int | None,
    val_fold: int | None,
    preserve_site: bool,
    column: str | None,
) -> SplitRule:
    """Return how to split: as is said, and what is not said as the split in force, if that is of the same kind."""
    anew = val_fraction is not None or folds is not None or column is not None
    if anew or before is None:
        _check_kinds(val_fraction, folds, column)
        kind = "column" if column is not None else "folds" if folds is not None else "fraction"
        rule = SplitRule(kind, seed or 0, None, folds, val_fold, column)
        if kind == "fraction":
            rule = replace(rule, val_fraction=_VAL_FRACTION if val_fraction is None else val_fraction)
    else:
        if seed is not None and before.kind == "column":
            raise SplitError(
                f"`seed` is given, and the split in force is {before.text}, which has none; say how to split, such as "
                "`val_fraction=0.3`"
            )
        rule = replace(
            before,
            seed=before.seed if seed is None else seed,
            val_fold=before.val_fold if val_fold is None else val_fold,
        )
    has_folds = rule.folds is not None or (rule.column is not None and not preserve_site)
    if not has_folds and (preserve_site or val_fold is not None):
        what = "preserve_site" if preserve_site else "val_fold"
        raise SplitError(f"`{what}` is given without folds; say how many, such as `folds=3`")
    if rule.folds is not None and rule.column is None:
        rule = replace(rule, kind="site_folds" if preserve_site else rule.kind, val_fold=rule.val_fold or 0)
    _check_rule(rule)
    return rule


def _keep(handle: Handle, sides: Mapping[str, tuple[str, int | None]], rule: SplitRule) -> None:
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
            [rule.kind, rule.seed, rule.val_fraction, rule.folds, rule.val_fold, rule.column],
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
            f"{part(len(homeless), len(patients), 'patient')} {agreeing(len(homeless), 'has', 'have')} no site "
            f"({some(homeless)}); "
            "add a table with a column site by add-patients, or split without preserving sites"
        )
    group_of = merge_by_site(patients, [sites[patient] for patient in patients])
    n_groups = max(group_of) + 1
    if n_groups < len(fractions):
        joined = [f"patient {p!r} is at {' and '.join(sites[p])}" for p in patients if len(sites[p]) > 1]
        why = f", since {some(joined)}" if joined else ""
        what = counted(n_groups, "group of sites", "groups of sites") if joined else counted(n_groups, "site")
        raise SplitError(f"{what} cannot fill {len(fractions)} folds{why}; ask for fewer folds")
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
    columns = dict(handle.con.execute("SELECT column_name, column_type FROM (DESCRIBE patients)").fetchall())
    if column not in columns:
        raise SplitError(
            f"the patients' table has no column {column!r}; it has {', '.join(columns)}"
            f"{suggestion(column, list(columns))}"
        )
    rows = handle.con.execute(
        f"SELECT coalesce(patient, slide) AS patient, slide, {named_in_sql(column, columns[column])} FROM patients "
        "SEMI JOIN slides USING (slide) ORDER BY patient, slide"
    ).fetchall()
    found: dict[str, dict[str | None, str]] = {}
    slides: dict[str, list[str]] = {}
    for patient, slide, cell in rows:
        side = None if is_missing(cell) else _SIDES.get(folded(cell), folded(cell))
        found.setdefault(patient, {}).setdefault(side, cell)
        slides.setdefault(patient, []).append(slide)
    problems = []
    for patient, cells in found.items():
        written = [cell.strip() for side, cell in cells.items() if side is not None]
        if None in cells:
            problems.append(
                f"patient {patient!r} (slides {', '.join(slides[patient])}) has no {column}; fill the column in"
            )
        if len(written) > 1:
            problems.append(
                f"patient {patient!r} is on the sides {' and '.join(map(repr, written))} of column {column!r}; "
                "give all slides of a patient one side"
            )
    if problems:
        raise SplitError("\n".join(problems))
    return {patient: (side, None) for patient, cells in found.items() for side in cells if side is not None}


def _in_folds(
    sides: Mapping[str, tuple[str, int | None]], rule: SplitRule
) -> tuple[dict[str, tuple[str, int | None]], SplitRule]:
    """Return the sides of patients of whom a column says the fold, and the rule with the number of folds."""
    numbers = {side: int(float(side)) for side, _ in sides.values() if _WHOLE.fullmatch(side)}
    fold_of = {number: fold for fold, number in enumerate(sorted(set(numbers.values())))}
    if len(fold_of) < 2:
        raise SplitError(
            f"column {rule.column!r} has {counted(len(fold_of), 'whole number')}, and `val_fold` needs folds, which "
            "are whole numbers, two or more; leave it out to take the sides as they are"
        )
    rule = replace(rule, folds=len(fold_of))
    _check_rule(rule)
    in_folds: dict[str, tuple[str, int | None]] = {}
    for patient, (side, _) in sides.items():
        fold = fold_of[numbers[side]] if side in numbers else None
        in_folds[patient] = (side if fold is None else "val" if fold == rule.val_fold else "train", fold)
    return in_folds, rule


def _check_kinds(val_fraction: float | None, folds: int | None, column: str | None) -> None:
    """Refuse two kinds of split at once."""
    if column is not None and folds is not None:
        raise SplitError("both `column` and `folds` are given; give one of them")
    if val_fraction is not None and (folds is not None or column is not None):
        raise SplitError(
            f"both `val_fraction` and `{'folds' if column is None else 'column'}` are given; give one of them"
        )


def _check_rule(rule: SplitRule) -> None:
    """Refuse a split that is impossible."""
    if rule.val_fraction is not None and not 0 < rule.val_fraction < 1:
        raise SplitError(f"`val_fraction` is {rule.val_fraction:g}; give a part above 0 and below 1, such as 0.3")
    if rule.folds is not None and rule.folds < 2:
        raise SplitError(f"`folds` is {rule.folds}; give 2 or more")
    if rule.folds is not None and not 0 <= (rule.val_fold or 0) < rule.folds:
        raise SplitError(f"`val_fold` is {rule.val_fold}; give a fold from 0 to {rule.folds - 1}")


def _leak(kind: str, name: str, sides: str, slides: str) -> str:
    """Return the message for what is on two sides of a split."""
    if kind == "slide file":
        return (
            f"slides {slides} are the same file under two names, and would be on the sides {sides}; "
            "give them one patient, or remove one"
        )
    return f"{kind} {name!r} would be on the sides {sides} (slides {slides})"
