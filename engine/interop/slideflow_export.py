"""Writes a study as a project that Slideflow opens: sources, annotations, ROIs, the frame of tiles and a plan."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slideduck.catalog.grids import only_grid
from slideduck.catalog.split_rule import read_split_rule
from slideduck.errors import StudyError
from slideduck.files.find import absolute
from slideduck.files.write import staged
from slideduck.interop.rois import export_rois
from slideduck.interop.slideflow import SLIDE_SUFFIXES, slideflow_name
from slideduck.labels.rule import rule_in_force
from slideduck.labels.view import tile_dataframe
from slideduck.show import Shown
from slideduck.store.db import identifier, translated
from slideduck.store.handle import Handle
from slideduck.words import counted

__all__ = ["SlideflowExport", "export_slideflow"]

#: The version whose layout is written.
_VERSION = "3.0.2"

_Row = dict[str, Any]


@dataclass(frozen=True)
class SlideflowExport(Shown):
    """What `export_slideflow` did.

    Attributes
    ----------
    folder : Path
        The project.
    paths : tuple of Path
        Its files.
    sources : dict of str to Path
        Its sources, a folder of slides each.
    slides, rois, tiles : int
        Slides, ROIs and tiles in them.
    split : str
        How the split was made that is in them; empty if there is none.
    left_out : tuple of str
        Slides that Slideflow cannot have, with the reason of each.
    alone : tuple of str
        Slides without a patient, each called its own patient.
    notes : tuple of str
        What Slideflow has to be told to have the same tiles and split.
    """

    folder: Path
    paths: tuple[Path, ...]
    sources: dict[str, Path]
    slides: int
    rois: int
    tiles: int
    split: str
    left_out: tuple[str, ...]
    alone: tuple[str, ...]
    notes: tuple[str, ...]


def export_slideflow(
    handle: Handle, folder: str | os.PathLike[str], *, grid: str | None = None, overwrite: bool = False
) -> SlideflowExport:
    """Write a study as a project of Slideflow; the slides stay where they are.

    Parameters
    ----------
    handle : Handle
        The study.
    folder : path
        Where to; made if it does not exist.
    grid : str, optional
        The grid whose tiles are written; needed where the study has several.
    overwrite : bool, default False
        Replace files of the same names.

    Returns
    -------
    SlideflowExport

    Raises
    ------
    StudyError
        If labels are missing or out of date, the grid is not said, no slide is one that Slideflow can have, files are
        there already, or ROIs cannot be written as CSV (see `slideduck.interop.rois.export_rois`).
        Nothing appears then.
    DiskFullError
        If there is no room.

    Notes
    -----
    The files are ``settings.json``, ``datasets.json`` (a source for each folder of slides), ``annotations.csv``,
    ``roi/SLIDE.csv``, ``splits.json`` where there is a split, and in ``tiles/SIZE``, where Slideflow looks for tiles of
    that size, ``tiles.parquet`` and ``tiles.csv``: the frame of ``get_tile_dataframe``. `import_slideflow` reads it
    back.
    """
    grid = only_grid(handle, grid)
    frame = tile_dataframe(handle, grid)
    place = absolute(folder)
    with translated():
        slides, left_out = _slides(handle)
        sides, rule_text, split_notes = _sides(handle, slides)
        header, rows, alone = _annotations(handle, slides, sides)
        roi_slides = _slides_with_rois(handle, list(slides))
        spec = handle.con.execute("SELECT * FROM grids WHERE grid = $grid", {"grid": grid}).to_arrow_table()
    (cut,) = spec.to_pylist()
    size = _size(cut)
    sources = _sources(slides)
    plan = _plan_of(rows, sides)
    texts = {
        "settings.json": _json(_settings(handle, sources)),
        "datasets.json": _json(_datasets(place, sources)),
        "annotations.csv": _csv([header, *([_cell(row[name]) for name in header] for row in rows)]),
        **({"splits.json": _json([plan])} if plan else {}),
    }
    names = [*texts, f"tiles/{size}/tiles.parquet", f"tiles/{size}/tiles.csv"]
    names += [f"roi/{slide}.csv" for of_set in roi_slides.values() for slide in of_set]
    frame = frame[frame["slide"].isin(list(slides))]
    with staged(place, names, overwrite=overwrite) as staging:
        for name, text in texts.items():
            (staging / name).write_bytes(text.encode())
        frame.to_parquet(staging / "tiles" / size / "tiles.parquet")
        frame.to_csv(staging / "tiles" / size / "tiles.csv", lineterminator="\n")
        n_rois = 0
        for roi_set, of_set in roi_slides.items():
            written = export_rois(handle, staging / "roi", format="csv", roi_set=roi_set, slides=of_set)
            n_rois += written.rois
    return SlideflowExport(
        folder=place,
        paths=tuple(place / name for name in names),
        sources=sources,
        slides=len(slides),
        rois=n_rois,
        tiles=len(frame),
        split=rule_text,
        left_out=tuple(left_out),
        alone=tuple(alone),
        notes=(*_grid_notes(cut), *split_notes),
    )


# ------------------------------------------------------------------------------------ what is there


def _slides(handle: Handle) -> tuple[dict[str, Path], list[str]]:
    """Return the slides that Slideflow can have, and the others, each with the reason."""
    rows = handle.con.execute("SELECT slide, path, error FROM slides ORDER BY slide").fetchall()
    slides, left_out = {}, []
    for slide, text, error in rows:
        path = Path(text)
        if error is not None:
            left_out.append(f"{slide}: cannot be used: {error}")
        elif path.suffix.lower() not in SLIDE_SUFFIXES:
            left_out.append(f"{slide}: Slideflow takes no {path.suffix or 'file without a suffix'} for a slide")
        elif slideflow_name(path) != slide:
            left_out.append(f"{slide}: Slideflow calls the file {path} {slideflow_name(path)!r}")
        else:
            slides[slide] = path
    if not slides:
        raise StudyError(
            f"{handle.name} has no slide that Slideflow can have:\n" + "\n".join(f"  {text}" for text in left_out)
        )
    return slides, left_out


def _sources(slides: Mapping[str, Path]) -> dict[str, Path]:
    """Return a source for each folder of slides, called after it."""
    sources: dict[str, Path] = {}
    for folder in sorted({path.parent for path in slides.values()}):
        name, n = folder.name or "slides", 2
        while name in sources:
            name, n = f"{folder.name}_{n}", n + 1
        sources[name] = folder
    return sources


def _slides_with_rois(handle: Handle, slides: Sequence[str]) -> dict[str, list[str]]:
    """Return the slides whose ROIs label their tiles, by the set that these are of."""
    rule = rule_in_force(handle.con)
    assert rule is not None
    of_set: dict[str, list[str]] = {}
    done: set[str] = set()
    for roi_set in rule.roi_sets:
        rows = handle.con.execute(
            "SELECT DISTINCT slide FROM rois WHERE roi_set = $set AND list_contains($slides, slide) ORDER BY slide",
            {"set": roi_set, "slides": list(slides)},
        ).fetchall()
        found = [slide for (slide,) in rows if slide not in done]
        done.update(found)
        if found:
            of_set[roi_set] = found
    return of_set


def _sides(handle: Handle, slides: Mapping[str, Path]) -> tuple[dict[str, tuple[str, int | None]], str, list[str]]:
    """Return side and fold of each slide, how the split was made, and what Slideflow has to be told of it."""
    rule = read_split_rule(handle)
    if rule is None:
        return {}, "", []
    rows = handle.con.execute(
        "SELECT slide, splits.split, splits.fold FROM slides LEFT JOIN patients USING (slide) "
        "JOIN splits ON splits.patient = coalesce(patients.patient, slide) ORDER BY slide"
    ).fetchall()
    sides = {slide: (side, fold) for slide, side, fold in rows if slide in slides}
    notes = []
    planned = {slide for slide, (side, fold) in sides.items() if fold is not None or side in ("train", "val")}
    if any(fold is not None for _, fold in sides.values()):
        planned = {slide for slide, (_, fold) in sides.items() if fold is not None}
        n_folds = len({fold for _, fold in sides.values() if fold is not None})
        notes.append(
            f"Slideflow takes the folds by: dataset.kfold_split({n_folds}, splits='splits.json') without labels, and "
            f"fold {rule.val_fold or 0} is its k-fold {(rule.val_fold or 0) + 1}"
        )
    else:
        notes.append(
            "Slideflow takes the split by: dataset.split(val_fraction=0.3, splits='splits.json') without labels; the "
            "number is not looked at then"
        )
    others = len(slides) - len(planned)
    if others:
        notes.append(
            f"{others:,} of {counted(len(slides), 'slide')} {'is' if others == 1 else 'are'} on no side of it; filter "
            "the dataset by the column split first, since Slideflow takes a plan for all patients of a dataset or none"
        )
    return sides, rule.text, notes


# ---------------------------------------------------------------------------------------- the files


def _settings(handle: Handle, sources: Mapping[str, Path]) -> dict[str, object]:
    return {
        "name": handle.path.stem,
        "annotations": "./annotations.csv",
        "dataset_config": "./datasets.json",
        "sources": list(sources),
        "models_dir": "./models",
        "eval_dir": "./eval",
        "slideflow_version": _VERSION,
    }


def _datasets(place: Path, sources: Mapping[str, Path]) -> dict[str, object]:
    """Return the sources; Slideflow reads paths in this file from where Python runs, so that they are whole."""
    return {
        name: {
            "slides": str(folder),
            "roi": str(place / "roi"),
            "tiles": str(place / "tiles"),
            "tfrecords": str(place / "tfrecords" / name),
        }
        for name, folder in sources.items()
    }


def _annotations(
    handle: Handle, slides: Mapping[str, Path], sides: Mapping[str, tuple[str, int | None]]
) -> tuple[list[str], list[_Row], list[str]]:
    """Return header and rows of the annotations, and the slides that stand for themselves."""
    columns = [name for (name,) in handle.con.execute("SELECT column_name FROM (DESCRIBE patients)").fetchall()]
    further = [name for name in columns if name not in ("slide", "patient")]
    chosen = ", ".join(["slide", "patient", *map(identifier, further)])
    found = handle.con.execute(f"SELECT {chosen} FROM patients").to_arrow_table().to_pylist()
    of_slide = {row["slide"]: row for row in found}
    nothing = dict.fromkeys(columns)
    rows = [{**nothing, **of_slide.get(slide, {}), "slide": slide} for slide in slides]
    # Whatever has no value is not there: no site was given.
    further = [name for name in further if any(row[name] is not None for row in rows)]
    alone = [row["slide"] for row in rows if row["patient"] is None]
    for row in rows:
        row["patient"] = row["slide"] if row["patient"] is None else row["patient"]
    for at, usual in enumerate(("split", "fold")):
        values = [sides.get(row["slide"], (None, None))[at] for row in rows]
        if any(value is not None for value in values):
            further = _with_column(rows, further, usual, values)
    return ["patient", "slide", *further], rows, alone


def _with_column(rows: Sequence[_Row], further: Sequence[str], usual: str, values: Sequence[object]) -> list[str]:
    """Give rows a column of the split in force, and return the names of columns with it; one that is the same is it."""
    there = {name.casefold(): name for name in further}
    name = there.get(usual, usual)
    if usual in there and [_cell(row[name]) for row in rows] != [_cell(value) for value in values]:
        name = f"slideduck_{usual}"
    for row, value in zip(rows, values, strict=True):
        row[name] = value
    return [*further, *([] if name in further else [name])]


def _plan_of(rows: Sequence[_Row], sides: Mapping[str, tuple[str, int | None]]) -> dict[str, object]:
    """Return the split as a plan of Slideflow's; empty where it has none of its sides."""
    has_folds = any(fold is not None for _, fold in sides.values())
    usual = {"train": "training", "val": "validation"}
    patients: dict[str, dict[str, Any]] = {}
    groups: dict[str, list[str]] = {} if has_folds else {"validation": [], "training": []}
    for row in rows:
        side, fold = sides.get(row["slide"], ("", None))
        group = usual.get(side) if not has_folds else None if fold is None else f"k-fold-{fold + 1}"
        if group is None:
            continue
        # Without labels Slideflow takes the patient for the outcome, and compares it.
        patient = patients.setdefault(row["patient"], {"outcome_label": row["patient"], "slides": []})
        patient["slides"].append(row["slide"])
        groups.setdefault(group, []).append(row["slide"])
    if not patients:
        return {}
    ordered = dict(sorted(groups.items(), key=lambda item: int(item[0][7:]))) if has_folds else groups
    return {"strategy": "k-fold" if has_folds else "fixed", "patients": patients, "tfrecords": ordered}


def _size(cut: Mapping[str, Any]) -> str:
    """Return what Slideflow calls a size of tiles."""
    um, magnification = cut["tile_um"], cut["magnification"]
    return f"{cut['tile_px']}px_" + (f"{magnification:g}x" if um is None else f"{um:g}um")


def _grid_notes(cut: Mapping[str, Any]) -> list[str]:
    """Return what Slideflow has to be told to lay the same grid."""
    notes = []
    if cut["stride_div"] != 1:
        notes.append(
            f"the tiles overlap; Slideflow is told so by: get_tile_dataframe(stride_div={cut['stride_div']:g})"
        )
    if (cut["origin_x"], cut["origin_y"]) != (0, 0):
        notes.append(
            f"the grid begins at {cut['origin_x']}, {cut['origin_y']}, and that of Slideflow's frame always at 0, 0"
        )
    return notes


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)


def _csv(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as CSV; Slideflow reads names to the letter, so that a formula is no one's here."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _cell(value: object) -> str:
    """Return a value as it is read back as the same: a number by its shortest text, nothing for what is missing."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    with suppress(AttributeError):
        return value.isoformat()  # type: ignore[attr-defined, no-any-return]
    return str(value)
