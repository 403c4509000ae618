"""Names of slides, patients and labels: how they are compared, which are taken for missing, and which is nearest.

A name that matches nothing is reported with the nearest one that does. It is never matched by guess.

Names come from files of others. `text_problem` says which texts a study does not take, and `path_problem` which names
are not those of a file or a folder.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache

__all__ = [
    "MISSING",
    "folded",
    "is_missing",
    "name_of",
    "nearest",
    "nfc",
    "path_problem",
    "spelt_alike",
    "suggestion",
    "tcga_patient",
    "text_problem",
    "without_decoration",
]

#: Texts that R, pandas and JavaScript write where there is nothing, folded.
MISSING = frozenset({"", "na", "n/a", "nan", "none", "null", "<na>"})

#: What file names and barcodes have behind the name of a slide.
_SUFFIX = re.compile(
    r"""(?xi)
    (
        \.(svs|ndpi|mrxs|tiff?|ome|scn|vms|vmu|bif|svslide|czi|dcm|qptiff|zip|gz|geojson|json|xml|csv|annotations|ndpa)
        | \s-\sImage\d+ | \s-\sSeries\s?\d+ | \s\#\d+ | \s-\s\d+x
        | [_\s-]+(annotations?|rois?|labels?|mask|export)
    )$"""
)
_TCGA = re.compile(r"(?i)^(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})(?:$|[-_.])")
_LEADING_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")
_CUTOFF = 0.75
_UNKEPT = re.compile("[\0\ud800-\udfff]")
#: C0, DEL and C1; separators of lines and paragraphs; what turns the order of letters.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
#: Roots, drives and the folder above, where the folder may be on a drive that Windows reads too.
_OUT = re.compile(r"[/\\]|[A-Za-z]:[/\\]|(.*[/\\])?\.\.([/\\]|$)", re.DOTALL)
#: Whole numbers from here on are written with an exponent; integers of columns are below.
_WHOLE = 2.0**64
#: Bytes of the name of a file or folder, on every file system of Linux and macOS.
_PART_BYTES = 255


def nfc(text: str) -> str:
    """Return a text in Unicode's NFC, the form in which names are kept and compared."""
    return unicodedata.normalize("NFC", text)


def text_problem(text: str) -> str | None:
    """Return what a text is that no study takes as a name or label, such as ``holds a NUL character``; else None."""
    found = _UNKEPT.search(text)
    if found is None:
        return None
    return "holds a NUL character" if found[0] == "\0" else f"holds {found[0]!r}, which is half a character"


def path_problem(name: str) -> str | None:
    """Return why a name is not taken for a file below a folder, as what follows ``the name``; None where it is.

    Parameters
    ----------
    name : str
        A name from a study or a file, with or without a suffix, perhaps with folders: ``case1/HE``.
    """
    if _OUT.match(name):
        return "leads out of the folder"
    if (problem := text_problem(name)) is not None:
        return problem
    if (found := _CONTROL.search(name)) is not None:
        return f"holds the control character {found[0]!r}"
    parts = name.split("/")
    if "" in parts:
        return "has an empty part"
    if any(part.startswith(".") for part in parts):
        return "has a part that begins with a dot, which is hidden"
    if any(len(part.encode()) > _PART_BYTES for part in parts):
        return f"has a part of over {_PART_BYTES} bytes"
    return None


def folded(text: str) -> str:
    """Return a name without what people write now one way, now another: case, and spaces beside and in it."""
    return " ".join(nfc(text).split()).casefold()


def spelt_alike(names: Iterable[str]) -> list[list[str]]:
    """Return the groups of names that differ by case and spaces alone, in the order of the names."""
    by_fold: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_fold[folded(name)].append(name)
    return [group for group in by_fold.values() if len(group) > 1]


def is_missing(text: str | None) -> bool:
    """Return whether a text stands for no name: empty, or ``NA``, ``NaN``, ``None`` and so on in any case."""
    return text is None or folded(text) in MISSING


def name_of(value: object) -> str:
    """Return a value of a table as a name: of a class, a side, a patient.

    A number has one name, whatever type its column has: whole ones are named as integers, others by the fewest digits
    that are this number alone. Text is its own name, in NFC.

    Parameters
    ----------
    value : bool, int, float or str
        What a cell holds.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < _WHOLE else repr(value)
    return nfc(str(value))


def tcga_patient(name: str) -> str | None:
    """Return the patient's barcode with which a name begins, such as ``TCGA-AA-0001``, or None."""
    found = _TCGA.match(nfc(name).strip())
    return found[1].upper() if found else None


@cache
def without_decoration(name: str) -> str:
    """Return a name, folded, without what file names have behind it, and without leading zeros of its numbers.

    ``"CASE 01.ome.tif - Image0"`` and ``"case 1"`` are the same then.
    """
    bare = nfc(name).strip()
    while bare and (found := _SUFFIX.search(bare)) and found.start() > 0:
        bare = bare[: found.start()].rstrip()
    return _LEADING_ZEROS.sub("", folded(bare))


def nearest(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Return the known names that a name most likely stands for, the nearest first.

    Parameters
    ----------
    name : str
        A name that is not known.
    known : iterable of str
        Those that are.
    most : int
        How many to return at most.

    Returns
    -------
    list of str
        First those that differ by case, spaces, a suffix (``.svs``, `` - Image0``, ``_annotations``) or leading
        zeros; else those of the same TCGA patient; else those of similar letters (`difflib`, 0.75 or more).
    """
    names = sorted(set(known))
    bare = without_decoration(name)
    same = [other for other in names if without_decoration(other) == bare]
    if not same and (barcode := _TCGA.match(name.strip())):
        same = [other for other in names if (its := _TCGA.match(other)) and its[1].upper() == barcode[1].upper()]
    if not same:
        by_fold: dict[str, list[str]] = defaultdict(list)
        for other in names:
            by_fold[folded(other)].append(other)
        close = difflib.get_close_matches(folded(name), list(by_fold), n=most, cutoff=_CUTOFF)
        same = [other for fold in close for other in by_fold[fold]]
    return same[:most]


def suggestion(name: str, known: Sequence[str]) -> str:
    """Return what a message says behind an unknown name: ``; did you mean 'A'?``, or nothing without a near name."""
    near = nearest(name, known)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
