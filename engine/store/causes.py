"""Why DuckDB failed, in our words: what the machine or the file did to a study, and what to do."""

from __future__ import annotations

import errno
import os
import re
import shlex
from pathlib import Path

import duckdb

from slideduck.errors import FULL_ERRNOS, DiskFullError, SlideduckError, StudyError
from slideduck.files.holders import process

__all__ = ["cause", "does_not_replay", "is_interrupt", "translation", "wal_of"]

#: How DuckDB begins where it cannot read back what was not checkpointed.
_REPLAY = "Failure while replaying WAL"

_FULL = "|".join(re.escape(os.strerror(number)) for number in sorted(FULL_ERRNOS))
_DAMAGED = "Corrupt database file|Could not read enough bytes|Failed to deserialize|Serialization Error"

#: What follows the reason, by what DuckDB's text says; ``{path}`` is the study.
_REMEDIES = (
    (re.escape(os.strerror(errno.EROFS)), "its file system is read-only; copy the study to one that can be written"),
    (
        f"{re.escape(os.strerror(errno.EACCES))}|{re.escape(os.strerror(errno.EPERM))}",
        "this user may not; let its owner allow it, for the folder too, in which DuckDB keeps what is not in the "
        "study's file yet",
    ),
    (
        f"{re.escape(os.strerror(errno.EMFILE))}|{re.escape(os.strerror(errno.ENFILE))}",
        "more files are open than are allowed; allow more with: ulimit -n 1024",
    ),
    (
        re.escape(os.strerror(errno.EIO)),
        "the disk cannot be read or written; see what the system says of it (dmesg), and take a copy of the study",
    ),
)


def wal_of(path: Path) -> Path:
    """Return where DuckDB keeps what is not in the study's file yet: its write-ahead log."""
    path = path.resolve()
    return path.with_name(f"{path.name}.wal")


def does_not_replay(error: BaseException) -> bool:
    """Return whether a study did not open since its write-ahead log cannot be read back."""
    return _REPLAY in str(error)


def is_interrupt(error: BaseException) -> bool:
    """Return whether this is Ctrl-C, of which DuckDB's Python package makes a RuntimeError."""
    return isinstance(error, duckdb.InterruptException) or (
        isinstance(error, RuntimeError) and "Query interrupted" in str(error)
    )


def translation(error: BaseException, path: Path | None = None, *, of_users_sql: bool = False) -> BaseException | None:
    """Return what is to be raised in the place of an error of DuckDB, also of Ctrl-C; the rest is that of `cause`."""
    return KeyboardInterrupt() if is_interrupt(error) else cause(error, path, of_users_sql=of_users_sql)


def cause(error: BaseException, path: Path | None = None, *, of_users_sql: bool = False) -> SlideduckError | None:
    """Return an error of ours for one of DuckDB that the machine or the file is the cause of; None for another.

    Parameters
    ----------
    error : BaseException
        What DuckDB raised.
    path : Path, optional
        The study, where it is known.
    of_users_sql : bool
        It comes of SQL that the user wrote, which may name other files, and ask for more memory than there is.
    """
    if not isinstance(error, duckdb.Error):
        return None
    text = _first_line(error)
    study = str(path) if path else "the study"
    held = _held(text, study)
    if held is not None:
        return held
    if "not a valid DuckDB database file" in text:
        return StudyError(f"{study} is not a study: not a DuckDB file; give another path")
    if does_not_replay(error) and path is not None:
        return StudyError(_not_replayed(path, text))
    if re.search(_FULL, text) or "max_temp_directory_size" in str(error):
        return DiskFullError(
            f"the disk is full: {text}; nothing of this step was kept: free some space and run it again"
        )
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, text):
            return StudyError(f"{study} cannot be used ({text}): {remedy}")
    if re.search(_DAMAGED, text):
        return StudyError(
            f"{study} is damaged ({text}): take it from a copy that was kept, or make it anew from its slides and ROI "
            "files, which are as they were"
        )
    return None if of_users_sql else _of_kind(error, study, text)


def _of_kind(error: duckdb.Error, study: str, text: str) -> SlideduckError | None:
    """Return an error of ours by the class of DuckDB's."""
    if isinstance(error, duckdb.OutOfMemoryException):
        return StudyError(
            f"the memory does not hold this step ({text}): end other programs, or run it on a machine with more; "
            "nothing of it was kept"
        )
    if isinstance(error, duckdb.IOException):
        return StudyError(f"{study} cannot be used: {text}")
    return None


def _held(text: str, study: str) -> SlideduckError | None:
    """Return the error that says who has a study open, if that is the cause."""
    held = re.search(r"Conflicting lock is held in (.*?)\(PID (\d+)\)", text)
    if held:
        return StudyError(
            f"{study} is in use by {process(held[2], held[1].strip())}; one process may write a study at a time, and "
            f"nobody reads it meanwhile: wait for it, or stop it with: kill {held[2]}"
        )
    if "Could not set lock" in text:
        return StudyError(
            f"{study} is in use by a process that cannot be named, perhaps on another machine; one process may write a "
            "study at a time, and nobody reads it meanwhile: wait for it, or stop it"
        )
    if "different configuration than existing connections" in text:
        return StudyError(
            f"{study} is open in this process already, for writing where this is for reading, or the reverse, or with "
            "another number of threads; use that one, or close it first"
        )
    return None


def _not_replayed(path: Path, text: str) -> str:
    """Return what to do about a write-ahead log that cannot be read back."""
    wal = wal_of(path)
    reason = text.partition(f'"{wal}": ')[2] or text
    return (
        f"{path} does not open: what the last command wrote is in {wal}, which cannot be read back ({reason}). Keep a "
        "copy of both files. Without the second the study opens as it was before that command: "
        f"mv {shlex.quote(str(wal))} {shlex.quote(f'{wal}.damaged')}"
    )


def _first_line(error: BaseException) -> str:
    """Return what DuckDB says, without its class and its stack; of a study that was given up, why it was."""
    text = str(error)
    original = re.search(r'Original error: "(.*)"$', text, re.DOTALL)
    text = re.sub(r"^(?:[\w ]+ Error: )+", "", (original[1] if original else text).splitlines()[0])
    # The same failure has another beginning for each way of attaching a study.
    return re.sub(r"^(?:Failed to create checkpoint because of error|Checkpoint failed .* Original error): ", "", text)
