"""Follows slides and ROI files that were moved to another folder, once each is proved to be the same file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from slideduck.errors import SlideError, StudyError
from slideduck.files.find import absolute, reason
from slideduck.progress import track
from slideduck.show import Shown
from slideduck.slides.header import read_header
from slideduck.slides.identity import SlideFile
from slideduck.store.db import atomic
from slideduck.store.handle import Handle
from slideduck.words import agreeing, part

__all__ = ["FilesMoved", "relocate"]

_THREADS = 4


@dataclass(frozen=True)
class FilesMoved(Shown):
    """What `relocate` changed, or would.

    Attributes
    ----------
    slides : tuple of str
        Slides whose file lies in the new folder, in order of name.
    roi_files : tuple of str
        ROI files that lie there with the same bytes: their new paths.
    roi_files_left : tuple of str
        ROI files of the old folder that keep their path, each with the reason.
    """

    slides: tuple[str, ...]
    roi_files: tuple[str, ...]
    roi_files_left: tuple[str, ...]


def relocate(handle: Handle, old: str | Path, new: str | Path, *, dry_run: bool = False) -> FilesMoved:
    """Replace the folder in the paths of slides and ROI files; all else that is known of them stays.

    Parameters
    ----------
    handle : Handle
        The study.
    old : path
        Folder that the study has the files in, or one file; it need not be there any more.
    new : path
        Where they are now, under the same names below it.
    dry_run : bool
        Only report.

    Returns
    -------
    FilesMoved

    Raises
    ------
    StudyError
        If no slide of the study lies in `old`; or, with each of them, if a slide is not in `new` or is another file
        there. Nothing is changed then.

    Notes
    -----
    A slide is proved by the size of its file and its fingerprint, an ROI file by its bytes. The table ``changes`` has
    a row of each call that changed something.
    """
    source, target = absolute(old), absolute(new)
    slides = _slides_in(handle, source, target)
    if not slides:
        raise StudyError(f"no slide of {handle.name} lies in {source}; {_where_they_lie(handle)}")
    problems = list(_problems(handle, slides))
    if problems:
        raise StudyError(
            f"{part(len(problems), len(slides), 'slide')} of {source} {agreeing(len(problems), 'is', 'are')} not in "
            f"{target} as {agreeing(len(problems), 'it was', 'they were')} added, and nothing "
            "was changed:\n" + "\n".join(f"  {text}" for text in problems)
        )
    roi_files, left = _roi_files_in(handle, source, target)
    moved = FilesMoved(tuple(slide.slide for slide in slides), tuple(str(path) for _, path in roi_files), tuple(left))
    if not dry_run and source != target:
        with atomic(handle.con):
            for slide in slides:
                handle.con.execute("UPDATE slides SET path = $path, mtime = $mtime WHERE slide = $slide", slide.row())
            for roi_file_id, path in roi_files:
                handle.con.execute(
                    "UPDATE roi_files SET path = $path WHERE roi_file_id = $id", {"path": str(path), "id": roi_file_id}
                )
            detail = {"from": str(source), "to": str(target), "slides": len(slides), "roi_files": len(roi_files)}
            handle.con.execute(
                "INSERT INTO changes (change, detail) VALUES ('relocate', $detail)",
                {"detail": json.dumps(detail, ensure_ascii=False)},
            )
    return moved


@dataclass(frozen=True)
class _Slide:
    """A slide and where it is to be now."""

    slide: str
    path: Path
    bytes: int | None
    fingerprint: str | None

    def row(self) -> dict[str, object]:
        """Return the values of its row that change."""
        return {"slide": self.slide, "path": str(self.path), "mtime": os.stat(self.path).st_mtime}

    def problem(self) -> str | None:
        """Return why its file is not the one that was added."""
        try:
            os.stat(self.path)
            # One that could not be used when it was added has nothing to be compared by.
            SlideFile(self.slide, self.path, self.bytes, self.fingerprint).check()
        except OSError as error:
            return f"slide {self.slide!r}: {self.path}: {reason(error)}"
        except SlideError:
            return self._damage() or f"slide {self.slide!r}: {self.path} is another file than the one that was added"
        return None

    def _damage(self) -> str | None:
        """Return what is wrong with its file, whichever it is."""
        try:
            read_header(self.path, default_mpp=1.0)
        except SlideError as error:
            return str(error)
        return None


def _slides_in(handle: Handle, source: Path, target: Path) -> list[_Slide]:
    """Return the slides whose file lies in a folder, with the place of each below another."""
    rows = handle.con.execute("SELECT slide, path, bytes, fingerprint FROM slides ORDER BY slide").fetchall()
    return [
        _Slide(slide, target / Path(path).relative_to(source), size, fingerprint)
        for slide, path, size, fingerprint in rows
        if Path(path).is_relative_to(source)
    ]


def _problems(handle: Handle, slides: list[_Slide]) -> Iterator[str]:
    """Yield what is wrong with each file in its new place."""
    with (
        track("Comparing files", len(slides), "slides", show=handle.progress) as advance,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        for problem in pool.map(_Slide.problem, slides):
            advance(1)
            if problem is not None:
                yield problem


def _where_they_lie(handle: Handle) -> str:
    """Return the folder that all slides of a study lie in, as a message says it."""
    paths = [path for (path,) in handle.con.execute("SELECT path FROM slides").fetchall()]
    if not paths:
        return "it has no slides; add some with add-slides"
    return f"they lie in {os.path.commonpath([os.path.dirname(path) for path in paths])}"


def _roi_files_in(handle: Handle, source: Path, target: Path) -> tuple[list[tuple[int, Path]], list[str]]:
    """Return the ROI files of a folder that are in another with the same bytes, and why others are not."""
    rows = handle.con.execute("SELECT roi_file_id, roi_set, path, sha256 FROM roi_files ORDER BY path, roi_set")
    files = rows.fetchall()
    taken = {(roi_set, path) for _, roi_set, path, _ in files}
    moved, left = [], []
    for roi_file_id, roi_set, path, sha256 in files:
        if not Path(path).is_relative_to(source):
            continue
        there = target / Path(path).relative_to(source)
        if (roi_set, str(there)) in taken:
            left.append(f"{path}: the study has {there} as well")
        elif not there.is_file():
            left.append(f"{path}: no file {there}")
        elif hashlib.sha256(there.read_bytes()).hexdigest() != sha256:
            left.append(f"{path}: {there} has other bytes; read it with add-rois")
        else:
            moved.append((roi_file_id, there))
    return moved, left
