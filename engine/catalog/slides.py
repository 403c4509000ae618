"""Slides in the tables of a study: taken out, and looked up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slideduck.catalog.evaluations import delete_predictions
from slideduck.catalog.features import delete_features
from slideduck.catalog.label_sets import delete_set_rows
from slideduck.errors import StudyError
from slideduck.names import suggestion
from slideduck.show import Shown
from slideduck.slides.identity import SlideFile
from slideduck.store.db import atomic
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_query

__all__ = [
    "SlidesRemoved",
    "UsableSlide",
    "delete_computed",
    "delete_seen",
    "forget_labels",
    "remove_slides",
    "usable_slide",
]

#: What labelling fills, by slide, and what tiling, measuring and fitting do.
_LABEL_TABLES = ("tile_rois", "labelled", "label_counts", "roi_counts")
_TILE_TABLES = ("grid_slides", "tiles", "tile_qc", "qc_slides", "slide_stains")


@dataclass(frozen=True)
class UsableSlide:
    """A slide that can be used, as its row says.

    Attributes
    ----------
    slide : str
        Its name.
    file : SlideFile
        Its file, as it was when it was added.
    width, height : int
        Its size in base pixels.
    mpp : float
        Microns per base pixel.
    """

    slide: str
    file: SlideFile
    width: int
    height: int
    mpp: float


@dataclass(frozen=True)
class SlidesRemoved(Shown):
    """What `remove_slides` removed, or would.

    Attributes
    ----------
    slides : tuple of str
        The slides, in order of name.
    rois, roi_files, tiles, predictions : int
        ROIs on them (holes included), ROI files that speak of no other slide, tiles of all grids, and predictions of
        tiles.
    """

    slides: tuple[str, ...]
    rois: int
    roi_files: int
    tiles: int
    predictions: int


def remove_slides(handle: Handle, slides: Sequence[str], *, dry_run: bool = False) -> SlidesRemoved:
    """Remove slides with their ROIs, tiles, labels, predictions and features; files on disk and patients stay.

    Parameters
    ----------
    handle : Handle
        The study.
    slides : sequence of str
        Names of slides.
    dry_run : bool
        Only report.

    Returns
    -------
    SlidesRemoved

    Raises
    ------
    StudyError
        If a slide is not in the study; nothing is removed then.
    """
    names = sorted(set(slides))
    known = {name for (name,) in handle.con.execute("SELECT slide FROM slides").fetchall()}
    strangers = [name for name in names if name not in known]
    if strangers or not names:
        raise StudyError(
            f"the study has no slide {', '.join(map(repr, strangers))}{suggestion(strangers[0], sorted(known))}; "
            "nothing was removed"
            if strangers
            else "no slide is named; name those to remove"
        )
    with atomic(handle.con):
        row = handle.con.execute(read_query("count_removed"), {"slides": names}).fetchone() or (0, 0, 0, 0)
        if not dry_run:
            delete_computed(handle, names)
            delete_seen(handle, names)
            for table in ("rois", "roi_file_slides", "slides"):
                handle.con.execute(f"DELETE FROM {table} WHERE list_contains($names, slide)", {"names": names})
            handle.con.execute(
                "DELETE FROM roi_files WHERE roi_file_id NOT IN (SELECT roi_file_id FROM roi_file_slides)",
            )
    return SlidesRemoved(tuple(names), *row)


def usable_slide(handle: Handle, slide: str) -> UsableSlide:
    """Return what the study holds of a slide that can be used.

    Parameters
    ----------
    handle : Handle
        The study.
    slide : str
        Name of the slide.

    Returns
    -------
    UsableSlide

    Raises
    ------
    StudyError
        If there is no such slide, or it cannot be used.
    """
    found = handle.con.execute(
        "SELECT path, bytes, fingerprint, width, height, mpp, error FROM slides WHERE slide = $slide", {"slide": slide}
    ).fetchone()
    if found is None:
        names = [name for (name,) in handle.con.execute("SELECT slide FROM slides").fetchall()]
        raise StudyError(
            f"{handle.name} has no slide {slide!r}{suggestion(slide, names)}; see which there are with: "
            f"slideduck sql {handle.name} 'SELECT slide FROM slides'"
        )
    path, size, fingerprint, width, height, mpp, error = found
    if error is not None:
        raise StudyError(f"slide {slide!r} cannot be used: {error}")
    return UsableSlide(slide, SlideFile(slide, Path(path), size, fingerprint), width, height, mpp)


def delete_computed(handle: Handle, slides: Sequence[str]) -> None:
    """Delete tiles, labels (of label sets, too), measures and stains of slides, inside a transaction."""
    _delete_rows(handle, slides, (*_TILE_TABLES, *_LABEL_TABLES))
    ids = _ids_of(handle, slides)
    if ids:
        delete_set_rows(handle, ids)


def delete_seen(handle: Handle, slides: Sequence[str]) -> None:
    """Delete what networks said of slides, inside a transaction: predictions and features of their tiles."""
    names = {"names": list(slides)}
    delete_predictions(handle, "list_contains($names, slide)", names)
    delete_features(handle, "list_contains($names, slide)", names)


def forget_labels(handle: Handle, slides: Sequence[str]) -> None:
    """Delete what was computed from the ROIs of slides, inside a transaction; labelling computes it anew."""
    _delete_rows(handle, slides, _LABEL_TABLES)


def _delete_rows(handle: Handle, slides: Sequence[str], tables: Sequence[str]) -> None:
    """Delete the rows of slides from tables, inside a transaction."""
    ids = _ids_of(handle, slides)
    if not ids:
        return
    values = {"ids": ids, "low": min(ids), "high": max(ids)}
    for table in tables:
        # The bounds let DuckDB pass over the blocks of other slides, which the list alone does not.
        handle.con.execute(
            f"DELETE FROM {table} WHERE slide_id BETWEEN $low AND $high AND list_contains($ids, slide_id)", values
        )


def _ids_of(handle: Handle, slides: Sequence[str]) -> list[int]:
    """Return the keys of slides by name."""
    query = "SELECT slide_id FROM slides WHERE list_contains($s, slide)"
    return [number for (number,) in handle.con.execute(query, {"s": list(slides)}).fetchall()]
