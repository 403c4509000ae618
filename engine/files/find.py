"""Files that the user names: finds them, reads them whole, and quotes values from them."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from slideduck.errors import InputError

__all__ = ["Paths", "absolute", "find_files", "quoted", "read_input", "reason"]

#: One path, or several: of files, of folders, or patterns such as ``slides/*.svs``.
Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

_QUOTED_CHARACTERS = 60

#: First bytes of files that are often given in place of a text file.
_PACKED = {
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"PK\x03\x04": "a zip archive or an Excel workbook; unpack it, or save it as CSV in UTF-8",
}


def quoted(value: object) -> str:
    """Return a value as messages show it: its repr, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= _QUOTED_CHARACTERS else f"{text[:_QUOTED_CHARACTERS]}..."


def reason(error: OSError) -> str:
    """Return the system's own words for an error, without the path, such as ``permission denied``."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def absolute(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path; links are kept, since a link's name may be the slide's name."""
    return Path(os.path.abspath(Path(path).expanduser()))


def read_input(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a text file that the user gave.

    Raises
    ------
    InputError
        If it cannot be read, is empty, or is packed.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError([f"{path}: no such file; check the path"]) from None
    except IsADirectoryError:
        raise InputError([f"{path}: a folder, not a file; name the file"]) from None
    except OSError as error:
        raise InputError([f"{path}: cannot be read: {reason(error)}"]) from error
    if not data.strip():
        raise InputError([f"{path.name}:1: the file is empty; save or export it again"])
    for magic, what in _PACKED.items():
        if data.startswith(magic):
            raise InputError([f"{path.name}:1: not text, but {what}"])
    return data


def find_files(paths: Paths, suffixes: Sequence[str], what: str, *, folder_beside: str | None = None) -> list[Path]:
    """Return the files that paths, folders and patterns stand for, each once.

    Parameters
    ----------
    paths : path or iterable of paths
        A file is taken whatever its suffix; so is one that a pattern with a suffix of its own matches
        (``*.qptiff``). Folders are searched with all that is below them, for the suffixes. Hidden files
        and folders are passed over, unless named.
    suffixes : sequence of str
        Suffixes to look for in folders, lower case, with the dot.
    what : str
        What is looked for, for messages, such as ``"slide"``.
    folder_beside : str, optional
        Suffix of files whose data lie in a folder of the same stem beside them (``.mrxs``): such a
        folder is not searched.

    Returns
    -------
    list of Path
        Absolute, in the order of their text.

    Raises
    ------
    InputError
        For each path that does not exist, each pattern that matches nothing, and each folder that holds
        nothing of the kind.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    given = [os.fspath(path) for path in paths]
    problems = [] if given else [f"no {what} given; name files, folders or patterns such as '*{suffixes[0]}'"]
    found: set[Path] = set()
    for text in given:
        try:
            matches = list(_expand(text, suffixes, folder_beside))
        except OSError as error:
            problems.append(f"{error.filename or text}: cannot be searched: {reason(error)}")
            continue
        if matches:
            found.update(matches)
        elif Path(text).expanduser().is_dir():
            problems.append(
                f"{text}: no {what} in this folder or below it (looked for {', '.join(suffixes)}); "
                "give another folder, or name the files"
            )
        elif glob.has_magic(text):
            problems.append(f"{text}: no {what} matches this pattern; check it")
        else:
            problems.append(f"{text}: no such file or folder; check the path")
    if problems:
        raise InputError(problems)
    return sorted(found)


def _expand(text: str, suffixes: Sequence[str], folder_beside: str | None) -> Iterator[Path]:
    """Yield the files that one argument stands for."""
    path = absolute(text)
    if path.is_dir():
        yield from _below(path, suffixes, folder_beside)
    elif path.exists():
        yield path
    elif glob.has_magic(text):
        suffix = Path(text).suffix
        takes_any = bool(suffix) and not glob.has_magic(suffix)
        for match in glob.iglob(os.path.expanduser(text), recursive=True):
            path = absolute(match)
            if path.is_dir():
                # "slides/**" goes down by itself.
                if "**" not in text:
                    yield from _below(path, suffixes, folder_beside)
            elif takes_any or path.suffix.lower() in suffixes:
                yield path


def _below(folder: Path, suffixes: Sequence[str], folder_beside: str | None) -> Iterator[Path]:
    """Yield the files of a folder and all below it, links to folders followed, each folder once."""
    seen: set[str] = set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        # A link may lead back up.
        real = os.path.realpath(here)
        if real in seen:
            continue
        seen.add(real)
        with os.scandir(here) as listing:
            entries = [entry for entry in listing if not entry.name.startswith(".")]
        data_folders = {Path(entry.name).stem for entry in entries if Path(entry.name).suffix.lower() == folder_beside}
        for entry in entries:
            if entry.is_dir():
                if entry.name not in data_folders:
                    waiting.append(Path(entry.path))
            elif Path(entry.name).suffix.lower() in suffixes:
                yield Path(entry.path)
