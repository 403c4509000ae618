"""Files that the user names: finds them, reads them whole, and quotes values from them."""

from __future__ import annotations

import glob
import gzip
import io
import os
import stat
import zipfile
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path

from slideduck.errors import InputError
from slideduck.limit import beyond, is_said, limit

__all__ = [
    "MEBIBYTE", "Paths", "absolute", "below_folders", "find_files", "folder_below", "given_folders", "mebibytes",
    "quoted", "read_input", "reason", "unpacked", "unpacked_beyond",
]  # fmt: skip

#: One path, or several: of files, of folders, or patterns such as ``slides/*.svs``.
Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

_QUOTED_CHARACTERS = 60

_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
#: First bytes of files that are often given in place of a text file.
_PACKED = {
    _GZIP: "compressed with gzip; unpack it first",
    _ZIP: "a zip archive or an Excel workbook; unpack it, or save it as CSV in UTF-8",
}
MEBIBYTE = 1 << 20
#: What unpacks to more MB than this, and to so many times its size, is a bomb unless the user says otherwise: text and
#: tables become ten times as small, not a thousand.
_DENSE_MB, _DENSE_TIMES = 64, 100


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


def read_input(path: str | os.PathLike[str], *, packed: bool = False) -> bytes:
    """Return the bytes of a text file that the user gave.

    Parameters
    ----------
    path : path-like
        The file.
    packed : bool, default False
        Take a packed file, for `unpacked`.

    Raises
    ------
    InputError
        If it cannot be read, is empty, or is packed although it must not be.
    """
    path = Path(path)
    try:
        data, size = _read(path)
    except FileNotFoundError:
        raise InputError([f"{path}: no such file; check the path"]) from None
    except IsADirectoryError:
        raise InputError([f"{path}: a folder, not a file; name the file"]) from None
    except OSError as error:
        raise InputError([f"{path}: cannot be read: {reason(error)}"]) from error
    if problem := beyond("file_mb", mebibytes(size)):
        raise InputError([f"{path.name}: {problem}"])
    if not data.strip():
        raise InputError([f"{path.name}:1: the file is empty; save or export it again"])
    for magic, what in _PACKED.items():
        if data.startswith(magic) and not packed:
            raise InputError([f"{path.name}:1: not text, but {what}"])
    return data


def _read(path: Path) -> tuple[bytes, int]:
    """Return the bytes of a file, and how many there are: more where it is larger than is taken, and was not read."""
    most = limit("file_mb") * MEBIBYTE
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode):
            return (file.read() if status.st_size <= most else b"", status.st_size)
        data = file.read(most + 1)  # a pipe has no size
        return data, len(data)


def mebibytes(size: int) -> int:
    """Return bytes as the MB that hold them."""
    return -(-size // MEBIBYTE)


def unpacked_beyond(packed: int, size: int) -> str | None:
    """Return what is wrong with a packed file that unpacks to more than is taken, and what to do; None otherwise.

    Parameters
    ----------
    packed, size : int
        Bytes of the file, and those that it unpacks to, as far as they are known.
    """
    mb = mebibytes(size)
    if mb > _DENSE_MB and size > _DENSE_TIMES * packed and not is_said("unpacked_mb"):
        return (
            f"it unpacks to {mb:,} or more MB, {size // max(packed, 1):,} times its size, as only a bomb does; if it "
            f"is meant, allow that many with `limit='unpacked_mb={mb}'`"
        )
    return beyond("unpacked_mb", mb)


def unpacked(name: str, data: bytes) -> bytes:
    """Return the text in a file that is packed with gzip, or as the only file of a zip archive; others as they are.

    Parameters
    ----------
    name : str
        The file's name, for messages.
    data : bytes
        Its bytes.

    Raises
    ------
    InputError
        If it is damaged, has several files or none, holds no text, or more than the limit ``unpacked_mb`` allows.
    """
    if not data.startswith((_GZIP, _ZIP)):
        return data
    try:
        text = _unzipped(name, data) if data.startswith(_ZIP) else _gunzipped(name, data)
    except InputError:
        raise
    except Exception as error:  # gzip and zipfile raise whatever a damaged part leads them to
        raise InputError([f"{name}:1: cannot be unpacked: {error}; pack or export it again"]) from error
    if not text.strip():
        raise InputError([f"{name}:1: the file in it is empty; save or export it again"])
    return text


def _gunzipped(name: str, data: bytes) -> bytes:
    """Return what was packed with gzip, read no further than where it is seen to be too large."""
    parts, size = [], 0
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        while part := file.read(16 * MEBIBYTE):
            parts.append(part)
            size += len(part)
            if unpacked_beyond(len(data), size):
                # The last four bytes have the size, but for what is beyond 4 GiB.
                told = max(size, int.from_bytes(data[-4:], "little"))
                raise InputError([f"{name}:1: {unpacked_beyond(len(data), told)}"])
    return b"".join(parts)


def _unzipped(name: str, data: bytes) -> bytes:
    """Return the only file of an archive, of which no more is read than it says that there is."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        # macOS packs its own notes beside the files.
        members = [
            member
            for member in archive.infolist()
            if not member.is_dir() and not member.filename.startswith("__MACOSX/")
        ]
        if len(members) != 1:
            raise InputError(
                [
                    f"{name}:1: a zip archive of {len(members)} files (or an Excel workbook), not of one; unpack it "
                    "and give the folder, or save the workbook as CSV in UTF-8"
                ]
            )
        if problem := unpacked_beyond(len(data), members[0].file_size):
            raise InputError([f"{name}:1: {problem}"])
        with archive.open(members[0]) as member:
            return member.read()


def below_folders(paths: Paths, suffixes: Sequence[str]) -> list[Path]:
    """Return the files with some suffixes in and below the folders among paths, in the order of their text."""
    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    folders = [path for path in map(absolute, given) if path.is_dir()]
    return sorted({path for folder in folders for path in _below(folder, suffixes, None)})


def given_folders(paths: Paths) -> set[Path]:
    """Return the folders that were given; of a pattern it is what stands before the first sign of one."""
    folders = set()
    for given in [paths] if isinstance(paths, str | os.PathLike) else paths:
        path = absolute(given)
        if path.is_dir():
            folders.add(path)
        elif not path.exists() and glob.has_magic(os.fspath(given)):
            n_fixed = next(n for n, part in enumerate(path.parts) if glob.has_magic(part))
            folders.add(Path(*path.parts[:n_fixed]))
    return folders


def folder_below(path: Path, folders: Container[Path]) -> str:
    """Return the folders between a file and the outermost folder that was given and holds it, such as ``case1``.

    It is empty for a file that lies in that folder itself, and for one that was given by its own name.
    """
    around = [folder for folder in path.parents if folder in folders]
    return "/".join(path.parent.relative_to(around[-1]).parts) if around else ""


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
            elif takes_any or path.name.lower().endswith(tuple(suffixes)):
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
            elif entry.name.lower().endswith(tuple(suffixes)):
                yield Path(entry.path)
