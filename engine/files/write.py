"""Files that appear in a folder together and whole, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from slideduck.errors import FULL_ERRNOS, DiskFullError, StudyError
from slideduck.files.find import absolute, reason

__all__ = ["staged"]


@contextmanager
def staged(folder: str | os.PathLike[str], names: Sequence[str], *, overwrite: bool) -> Iterator[Path]:
    """Give a hidden folder to write files in, and move them into a folder if the block ends well.

    Parameters
    ----------
    folder : path
        Where the files are to appear; made if the folder above it exists.
    names : sequence of str
        Names of the files that may come; others in the folder are left alone.
    overwrite : bool
        Replace files of those names.

    Yields
    ------
    Path
        The hidden folder, in the same file system. The names of files in it are those they will have.

    Raises
    ------
    StudyError
        If files of those names are there and are not to be replaced, naming each; or if nothing can be
        written there.
    DiskFullError
        If there is no room.
    """
    path = absolute(folder)
    if path.exists() and not path.is_dir():
        raise StudyError(f"{path} is a file, not a folder; give another name")
    there = [name for name in sorted(names) if (path / name).exists()]
    if there and not overwrite:
        raise StudyError(
            f"{len(there)} file{'s are' if len(there) > 1 else ' is'} in {path} already; "
            "give another folder, or replace them with --overwrite:\n" + "\n".join(f"  {name}" for name in there)
        )
    if not path.parent.is_dir():
        raise StudyError(f"no folder {path.parent} to put {path.name} in; make the folder first")
    made = not path.exists()
    staging: Path | None = None
    try:
        path.mkdir(exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".slideduck-", dir=path))
        yield staging
        for file in sorted(staging.iterdir()):
            os.replace(file, path / file.name)
    except OSError as error:
        if error.errno in FULL_ERRNOS:
            raise DiskFullError(f"no space left in {path} ({reason(error)}); free some, and export again") from error
        raise StudyError(f"nothing can be written in {path}: {reason(error)}; give another folder") from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        if made:
            # Empty where nothing came of it.
            with suppress(OSError):
                path.rmdir()
