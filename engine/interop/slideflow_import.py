"""Puts a project of Slideflow into a study: slides, ROIs, patients, a grid, labels and a split."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from slideduck.catalog.grids import GridReport, add_grid
from slideduck.catalog.patients import PatientTable, parse_patients
from slideduck.catalog.patients_table import PatientsReport, put_patients
from slideduck.catalog.slidefiles import SlidesReport, add_slides
from slideduck.catalog.split_rule import read_split_rule
from slideduck.errors import InputError, StudyError
from slideduck.files.tables import read_table
from slideduck.interop.slideflow import Plan, Project, slideflow_name, slides_of
from slideduck.labels.label import LabelReport, label
from slideduck.labels.rule import next_rule
from slideduck.labels.split import split
from slideduck.labels.split_report import SplitReport
from slideduck.names import nfc, suggestion
from slideduck.rois.table import RoisReport, add_rois
from slideduck.show import Shown
from slideduck.slides.grid import GridSpec, parse_tile_um
from slideduck.slides.search import SLIDE_SUFFIXES
from slideduck.store.db import identifier
from slideduck.store.handle import Handle
from slideduck.words import counted, some

__all__ = ["SlideflowImport", "import_slideflow"]

#: The side of patients whom a plan does not speak of.
_UNUSED = "unused"


@dataclass(frozen=True)
class SlideflowImport(Shown):
    """What `import_slideflow` did.

    Attributes
    ----------
    project : Project
        The project, as it was read.
    slides : SlidesReport
        See `slideduck.catalog.slidefiles.add_slides`.
    rois : RoisReport or None
        See `slideduck.rois.table.add_rois`; None where the project has no ROIs of these slides.
    patients : PatientsReport or None
        See `slideduck.catalog.patients_table.add_patients`; None where the study has the table as it is.
    grid : GridReport
        See `slideduck.catalog.grids.add_grid`.
    labels : LabelReport
        See `slideduck.labels.label.label`.
    split : SplitReport or None
        See `slideduck.labels.split.split`; None where the project has no plan, or none is taken.
    plan : Plan or None
        The plan that the split is of.
    left_out : tuple of str
        What was not brought, with counts.
    """

    project: Project
    slides: SlidesReport
    rois: RoisReport | None
    patients: PatientsReport | None
    grid: GridReport
    labels: LabelReport
    split: SplitReport | None
    plan: Plan | None
    left_out: tuple[str, ...]


def import_slideflow(
    handle: Handle,
    project: Project,
    *,
    tile_px: int | None = None,
    tile_um: float | str | None = None,
    plan: int | str | None = None,
    mpp: float | Mapping[str, float] | None = None,
    mpp_table: str | Path | None = None,
) -> SlideflowImport:
    """Add a project to a study; what the study has of it already stays as it is.

    Parameters
    ----------
    handle : Handle
        The study.
    project : Project
        The project; see `slideduck.interop.slideflow.read_project`.
    tile_px : int, optional
        Side of a tile, pixels; needed with ``tile_um`` where the project has tiles of no size or of several.
    tile_um : float or str, optional
        Side of a tile in microns, or a magnification such as ``"20x"``.
    plan : int or "none", optional
        Which plan of ``splits.json`` is the split, from 1; needed where there are several.
    mpp, mpp_table
        Microns per pixel of slides whose header has none; see `slideduck.catalog.slidefiles.add_slides`.

    Returns
    -------
    SlideflowImport

    Raises
    ------
    InputError
        If a file of the project is refused, or its annotations name none of its slides.
    StudyError
        If the size of tiles or the plan has to be said.

    Notes
    -----
    As Slideflow has it, slides are those that the annotations name, a source's ROIs are the CSV files in its folder,
    and tiles inside ROIs are kept where a slide has ROIs. Slides, ROIs and patients are kept whole or not at all; tiles
    and labels slide by slide, so that a call that was stopped goes on where it was.
    """
    spec = _grid(project, tile_px, tile_um)
    chosen = _plan(project, plan)
    found = _found(project)
    table, n_suffixes = _named(_annotations(project), found.by_name)
    files, left_out = _annotated(project, table, found)
    column = None
    if chosen is not None:
        table, column = _with_plan(table, chosen)
    with handle.atomic():
        slides = add_slides(handle, files, mpp=mpp, mpp_table=mpp_table)
        names = {path.stem for path in files} - set(slides.failed)
        roi_files, strangers = _roi_files(project, names)
        left_out += strangers
        rois = add_rois(handle, roi_files) if roi_files else None
        patients = None if _is_held(handle, table) else put_patients(handle, table)
    grid = add_grid(handle, spec)
    labels = label(handle, next_rule(handle, {}), compare=True)
    sides = None if column is None or chosen is None else _split(handle, column, chosen)
    if n_suffixes:
        left_out.append(f"the suffix of {counted(n_suffixes, 'slide name')} in {project.annotations.name}")
    return SlideflowImport(project, slides, rois, patients, grid, labels, sides, chosen, (*left_out, *project.left_out))


# --------------------------------------------------------------------------- what has to be chosen


def _grid(project: Project, tile_px: int | None, tile_um: float | str | None) -> GridSpec:
    """Return the grid that is meant: what was said, or the only size that the project has tiles of."""
    if tile_px is not None and tile_um is not None:
        return GridSpec(tile_px, *parse_tile_um(tile_um))
    if tile_px is not None or tile_um is not None:
        given, other = ("tile_px", "tile_um") if tile_um is None else ("tile_um", "tile_px")
        raise StudyError(f"`{given}` is given without `{other}`; give both, such as `tile_px=256` and `tile_um=256`")
    if not project.sizes:
        raise StudyError(
            f"project {project.name!r} has no tiles or TFRecords, whose folders say their size; say it, such as "
            "`tile_px=256` and `tile_um=256`"
        )
    if len(project.sizes) > 1:
        found = "; ".join(f"{name} ({', '.join(sources)})" for name, sources in project.sizes.items())
        px, um = next(iter(project.sizes)).split("px_")
        raise StudyError(
            f"project {project.name!r} has tiles of {len(project.sizes)} sizes: {found}; say which, such as "
            f"`tile_px={px}` and `tile_um={um.removesuffix('um')}`"
        )
    px, um = next(iter(project.sizes)).split("px_")
    return GridSpec(int(px), *parse_tile_um(um.removesuffix("um")))


def _plan(project: Project, plan: int | str | None) -> Plan | None:
    """Return the plan that is meant, if any."""
    plans = {str(one.number): one for one in project.plans}
    if plan is None and len(plans) > 1:
        raise StudyError(
            f"project {project.name!r} has {len(plans)} plans of validation; say which is the split, such as `plan=1`, "
            "or `plan='none'`:\n" + "\n".join(f"  {one.text}" for one in project.plans)
        )
    if plan is None:
        return project.plans[0] if plans else None
    if str(plan) != "none" and str(plan) not in plans:
        raise StudyError(
            f"`plan` is {plan!r}, and project {project.name!r} has {counted(len(plans), 'plan')} of validation; give "
            "one of them by its number, from 1, or `plan='none'`"
        )
    return plans.get(str(plan))


# ---------------------------------------------------------------------------- slides and their rows


@dataclass(frozen=True)
class _Found:
    """The slides of a project by the name that Slideflow has for them, and why some of its files are none of ours."""

    by_name: dict[str, list[Path]]
    unusable: dict[Path, str]


def _found(project: Project) -> _Found:
    """Return the slides that lie in the folders of a project, each once."""
    by_name: dict[str, list[Path]] = {}
    unusable: dict[Path, str] = {}
    for path in dict.fromkeys(path for source in project.sources for path in slides_of(source)):
        name = slideflow_name(path)
        if name != path.stem:
            unusable[path] = f"its slide is {path.stem!r} here, and {name!r} in Slideflow; rename the file"
        elif path.suffix.lower() not in SLIDE_SUFFIXES:
            unusable[path] = "a plain picture, no slide"
        by_name.setdefault(nfc(name), []).append(path)
    return _Found(by_name, unusable)


def _annotations(project: Project) -> PatientTable:
    """Return the table of annotations; where it has no column of slides, a patient's slide is called as the patient."""
    path = project.annotations
    table = read_table(path, ("patient",), ("slide", "site"))
    if "slide" in table:
        return parse_patients(path)
    rows = zip(*table.cells, table.text("patient"), strict=True)
    with tempfile.TemporaryDirectory() as folder:
        # Slideflow writes the column into the file itself.
        copy = Path(folder) / path.name
        with copy.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([(*table.columns, "slide"), *rows])
        return replace(parse_patients(copy), path=path)


def _named(table: PatientTable, by_name: Mapping[str, Sequence[Path]]) -> tuple[PatientTable, int]:
    """Return the annotations with the names of slides in place of those of files, and how many were."""
    names = table.table["slide"].to_pylist()
    there = set(names)
    bare = [_bare(name, there, by_name) for name in names]
    column = pa.chunked_array([bare], pa.string())
    changed = sum(one != other for one, other in zip(names, bare, strict=True))
    return replace(table, table=table.table.set_column(0, "slide", column)), changed


def _bare(name: str, there: set[str], by_name: Mapping[str, Sequence[Path]]) -> str:
    """Return the name of a slide without the suffix of its file, unless the table has that name too."""
    bare = slideflow_name(Path(name))
    files = {nfc(path.name) for path in by_name.get(bare, ())}
    return bare if name not in by_name and name in files and bare not in there else name


def _annotated(project: Project, table: PatientTable, found: _Found) -> tuple[list[Path], list[str]]:
    """Return the files of the slides that the annotations name, and what is left out of the others."""
    named = set(table.table["slide"].to_pylist())
    files = [path for name in sorted(named & found.by_name.keys()) for path in found.by_name[name]]
    left_out = [f"{path}: {why}" for path, why in found.unusable.items() if path in files]
    files = [path for path in files if path not in found.unusable]
    problems = list(_double("slide", files))
    if problems:
        raise InputError(problems)
    if not files:
        example = sorted(named)[0]
        raise InputError(
            [
                f"{project.annotations.name}: none of its {counted(len(named), 'slide')} is among the "
                f"{counted(len(found.by_name), 'slide')} of the sources "
                f"{', '.join(source.name for source in project.sources)}, such as {example!r}"
                f"{suggestion(example, list(found.by_name))}; write the slides' names as their files have them",
                *left_out,
            ]
        )
    others = sorted(found.by_name.keys() - named)
    if others:
        left_out.append(f"{counted(len(others), 'slide')} that the annotations do not name: {some(others)}")
    return files, left_out


def _double(what: str, paths: Sequence[Path]) -> Iterator[str]:
    """Yield a problem for each two files of one slide; Slideflow takes whichever it meets."""
    first: dict[str, Path] = {}
    for path in paths:
        other = first.setdefault(nfc(path.stem), path)
        if other != path and not other.samefile(path):
            yield f"{what} {path.stem!r}: both {other} and {path}; keep one of them, or name the sources by `sources`"


def _roi_files(project: Project, slides: set[str]) -> tuple[list[str | Path], list[str]]:
    """Return the ROI files of some slides, and what is left out of the others."""
    paths = dict.fromkeys(
        path for source in project.sources if source.rois is not None for path in sorted(source.rois.glob("*.csv"))
    )
    composed = {nfc(slide) for slide in slides}
    taken = [path for path in paths if nfc(path.stem) in composed]
    problems = list(_double("ROIs of slide", taken))
    if problems:
        raise InputError(problems)
    others = [path.stem for path in paths if path not in taken]
    text = f"{counted(len(others), 'ROI file')} of slides that are not taken: {some(others)}"
    return list(taken), [text] if others else []


# --------------------------------------------------------------------------------------- the split


def _with_plan(table: PatientTable, plan: Plan) -> tuple[PatientTable, str]:
    """Return the annotations with a plan as a column, and that column's name; one that says the same is taken."""
    sides = [plan.side_of.get(slide, _UNUSED) for slide in table.table["slide"].to_pylist()]
    texts = [str(side) for side in sides]
    usual = "fold" if plan.has_folds else "split"
    there = {name.casefold(): name for name in table.table.column_names}
    for name in (usual, f"slideflow_{usual}", *(f"slideflow_{usual}_{n}" for n in range(2, 100))):
        if name not in there:
            column = pa.array(sides if _UNUSED not in sides and plan.has_folds else texts)
            return replace(table, table=table.table.append_column(name, column)), name
        if _texts(table.table[there[name]].to_pylist()) == texts:
            return table, there[name]
    raise InputError([f"{table.path.name}: has a hundred columns named as slideflow_{usual}; rename some"])


def _texts(values: Iterable[object]) -> list[str]:
    return [str(value).strip() for value in values]


def _is_held(handle: Handle, table: PatientTable) -> bool:
    """Return whether the study has the rows of a table as they are, whatever else it has of these slides."""
    there = {name for (name,) in handle.con.execute("SELECT column_name FROM (DESCRIBE patients)").fetchall()}
    names = table.table.column_names
    if not there.issuperset(names):
        return False
    columns = ", ".join(map(identifier, names))
    rows = handle.con.execute(f"SELECT {columns} FROM patients").fetchall()
    return set(zip(*(column.to_pylist() for column in table.table.columns), strict=True)) <= set(rows)


def _split(handle: Handle, column: str, plan: Plan) -> SplitReport:
    """Split by a column; of folds the one validates that did before."""
    before = read_split_rule(handle)
    if not plan.has_folds:
        return split(handle, column=column)
    kept = before.val_fold if before is not None and before.column == column else None
    return split(handle, column=column, val_fold=kept or 0)
