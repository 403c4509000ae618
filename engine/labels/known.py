"""The labels that the ROIs of a study have: names that are not among them, and names that are nearly alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations

import duckdb

from slideduck.errors import StudyError
from slideduck.names import folded, suggestion
from slideduck.words import some

__all__ = ["known_labels", "nearly_alike", "require_known", "roi_labels", "unknown_label"]

#: Letters that a word needs for one letter more, less or other to be a slip: fewer tell grades and stages apart.
_SLIP_LETTERS = 5
#: Labels that a message lists.
_LISTED = 12


def roi_labels(con: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Return the labels that ROIs have, of whatever set, in their order, with the number of ROIs."""
    return dict(
        con.execute("SELECT label, count(*) FROM rois WHERE label IS NOT NULL GROUP BY label ORDER BY label").fetchall()
    )


def known_labels(con: duckdb.DuckDBPyConnection) -> list[str]:
    """Return the labels that ROIs have, or label sets give, of whatever set, in their order."""
    given = con.execute("SELECT DISTINCT unnest(classes) FROM label_sets").fetchall()
    return sorted({*roi_labels(con), *(label for (label,) in given)})


def require_known(names: Iterable[str], where: str, known: Sequence[str]) -> None:
    """Refuse labels that are not known.

    Parameters
    ----------
    names : iterable of str
        Labels that a user names.
    where : str
        What names them, for the message.
    known : sequence of str
        Labels that there are.

    Raises
    ------
    StudyError
        With every such label and those that it may stand for.
    """
    unknown = [name for name in dict.fromkeys(names) if name not in known]
    if unknown:
        raise StudyError("\n".join(unknown_label(name, known, where) for name in unknown))


def unknown_label(
    name: str, known: Sequence[str], where: str, *, lacking: str = "no ROI has", of: str = "the study's labels are"
) -> str:
    """Return the message for a label that is not known: the nearest ones, and those that there are.

    Parameters
    ----------
    name : str
        The label.
    known : sequence of str
        Labels that there are.
    where : str
        What names it.
    lacking, of : str
        Who does not have it, and whose the others are.
    """
    near = suggestion(name, known) or _slips(name, known)
    rest = f"{of} {some(list(map(repr, known)), _LISTED)}" if known else "add ROIs that have labels first"
    text = f"{where} names the label {name!r}, which {lacking}"
    text += f"{near} {rest[0].upper()}{rest[1:]}" if near else f"; {rest}"
    return text


def _slips(name: str, known: Sequence[str]) -> str:
    """Return what a message says behind a short name that is a slip of the pen, such as ``pne`` for ``pen``."""
    near = [other for other in known if _is_slip(folded(name), folded(other), least=3)]
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def nearly_alike(labels: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return the pairs of labels that look like one label written in two ways.

    Parameters
    ----------
    labels : mapping of str to int
        Labels, with the number of ROIs that have each.

    Returns
    -------
    list of (str, str)
        Labels that differ by case, spaces, hyphens and underscores alone, or in one word by one letter, where the
        word has five letters or more; the one that fewer ROIs have comes first.
    """
    words = {label: re.split(r"[\s_-]+", folded(label)) for label in sorted(labels)}
    pairs = [(a, b) for a, b in combinations(words, 2) if _alike(words[a], words[b])]
    return [(a, b) if (labels[a], b) <= (labels[b], a) else (b, a) for a, b in pairs]


def _alike(a: Sequence[str], b: Sequence[str]) -> bool:
    """Return whether the words of two labels make one label."""
    if "".join(a) == "".join(b):
        return True
    differing = [pair for pair in zip(a, b, strict=False) if pair[0] != pair[1]]
    return len(a) == len(b) and len(differing) == 1 and _is_slip(*differing[0])


def _is_slip(a: str, b: str, *, least: int = _SLIP_LETTERS) -> bool:
    """Return whether two words of letters differ by one letter more, less or other, or by two in the other order."""
    if min(len(a), len(b)) < least or not (a.isalpha() and b.isalpha()):
        return False
    return a in _one_off(b) or b in _one_off(a) or _differs_once(a, b)


def _one_off(word: str) -> Iterator[str]:
    """Yield a word with a letter left out, and with two neighbours in the other order."""
    for i in range(len(word)):
        yield word[:i] + word[i + 1 :]
        yield word[:i] + word[i : i + 2][::-1] + word[i + 2 :]


def _differs_once(a: str, b: str) -> bool:
    return len(a) == len(b) and sum(x != y for x, y in zip(a, b, strict=True)) == 1
