"""Puts checked slides, ROIs, patients and grids into the tables of a study, whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from slideduck.db import atomic, identifier
from slideduck.errors import InputError, ResolutionError, SlideError, StudyError
from slideduck.grid import GridSpec, lay
from slideduck.patients import parse_patients
from slideduck.progress import track
from slideduck.rois import RoiFile, find_roi_files, parse_roi_file
from slideduck.slides import SlideHeader, find_slides, read_header
from slideduck.sqlfiles import read_query

__all__ = [
    "GridReport",
    "PatientsReport",
    "RoisReport",
    "SlidesReport",
    "add_grid",
    "add_patients",
    "add_rois",
    "add_slides",
    "extend_grids",
    "registered",
    "runs",
]

_HEADER_THREADS = 4

#: Tiles that one transaction writes, unless a single slide has more.
_TILES_AT_A_TIME = 4_000_000

#: What labelling fills, by slide.
_LABEL_TABLES = ("tile_rois", "labelled", "label_counts", "roi_counts")


@dataclass(frozen=True)
class SlidesReport:
    """What `add_slides` did.

    Attributes
    ----------
    added, updated, unchanged : int
        Slides that are new, that were read again and differ, and that are as they were.
    failed : dict of str to str
        The error of each slide that cannot be used, by name.
    warnings : tuple of str
        What the user should know of slides that can be used.
    """

    added: int
    updated: int
    unchanged: int
    failed: dict[str, str]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class RoisReport:
    """What `add_rois` did.

    Attributes
    ----------
    files, rois, holes, slides : int
        Files read, ROIs in them (holes included), holes among those, and slides that they lie on.
    unlabelled, repaired, leaving : tuple of str
        ROIs without a label, those that crossed themselves, and those that leave the slide, as ``slide: name``.
    skipped : tuple of str
        Objects in the files that are no areas, with the reason.
    """

    files: int
    rois: int
    holes: int
    slides: int
    unlabelled: tuple[str, ...]
    repaired: tuple[str, ...]
    leaving: tuple[str, ...]
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class PatientsReport:
    """What `add_patients` did.

    Attributes
    ----------
    rows, patients : int
        Rows of the table, and patients in it.
    unknown_slides, slides_without : tuple of str
        Slides of the table that the study lacks, and slides of the study that still have no patient.
    split_removed : bool
        True if patients changed under a split, which was therefore removed.
    """

    rows: int
    patients: int
    unknown_slides: tuple[str, ...]
    slides_without: tuple[str, ...]
    split_removed: bool


@dataclass(frozen=True)
class GridReport:
    """What `add_grid` did.

    Attributes
    ----------
    grid : str
        Name of the grid.
    slides, tiles : int
        Slides that the grid was laid on now, and tiles on them.
    total_slides, total_tiles : int
        The same for the whole grid.
    without_tiles : tuple of str
        Slides that are smaller than one tile.
    enlarged : tuple of str
        Slides whose tiles have fewer base pixels than ``tile_px``, so that reading them makes detail up.
    """

    grid: str
    slides: int
    tiles: int
    total_slides: int
    total_tiles: int
    without_tiles: tuple[str, ...]
    enlarged: tuple[str, ...]


@contextlib.contextmanager
def registered(con: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> Iterator[None]:
    """Make an Arrow table readable in SQL under a name, for the length of a block."""
    con.register(name, table)
    try:
        yield
    finally:
        con.unregister(name)


# ------------------------------------------------------------------------------------------- slides


def add_slides(
    con: duckdb.DuckDBPyConnection,
    paths: Sequence[str | Path],
    *,
    mpp: float | Mapping[str, float] | None = None,
    show: bool = False,
) -> SlidesReport:
    """Read the headers of slides into the table ``slides``.

    Parameters
    ----------
    con : duckdb.DuckDBPyConnection
        Connection to the study.
    paths : sequence of path
        Files, folders and globs.
    mpp : float or mapping of str to float, optional
        Microns per base pixel: one number for all slides whose header has none, or by slide name.
    show : bool
        Show progress.

    Returns
    -------
    SlidesReport

    Raises
    ------
    InputError
        If a path does not exist, or two files have one name; nothing is added then.
    """
    found = find_slides(paths)
    known: dict[str, tuple[Any, ...]] = {
        row[0]: row[1:] for row in con.execute("SELECT slide, path, fingerprint, error, mpp FROM slides").fetchall()
    }
    clashes = [
        f"{path}: slide {path.stem!r} is in the study already, from {known[path.stem][0]}; "
        "names are unique in a study: rename one of the files"
        for path in found
        if path.stem in known and Path(known[path.stem][0]) != path and Path(known[path.stem][0]).exists()
    ]
    by_name = dict(mpp) if isinstance(mpp, Mapping) else {}
    strangers = sorted(set(by_name) - {path.stem for path in found})
    clashes += [f"--mpp names slide {name!r}, which is not among the {len(found)} files given" for name in strangers]
    if clashes:
        raise InputError(clashes)
    default_mpp = None if isinstance(mpp, Mapping) else mpp

    def read(path: Path) -> SlideHeader | str:
        try:
            return read_header(path, mpp=by_name.get(path.stem), default_mpp=default_mpp)
        except SlideError as error:
            return str(error)

    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    warnings: list[str] = []
    with (
        track("Reading headers", len(found), "slides", show=show) as advance,
        ThreadPoolExecutor(_HEADER_THREADS) as pool,
    ):
        for path, header in zip(found, pool.map(read, found), strict=True):
            if isinstance(header, str):
                failed[path.stem] = header
                rows.append({"slide": path.stem, "path": str(path), "mpp_given": False, "error": header})
            else:
                row = {name: getattr(header, name) for name in _HEADER_COLUMNS}
                row["path"] = str(header.path)
                rows.append(row)
                warnings.extend(header.warnings)
            advance(1)

    changed = [
        row
        for row in rows
        if row["slide"] in known
        and known[row["slide"]] != (row["path"], row.get("fingerprint"), row.get("error"), row.get("mpp"))
    ]
    new = [row for row in rows if row["slide"] not in known]
    if changed or new:
        table = pa.Table.from_pylist(
            [{name: row.get(name) for name in _SLIDE_SCHEMA.names} for row in changed + new], schema=_SLIDE_SCHEMA
        )
        with atomic(con), registered(con, "incoming_slide", table):
            con.execute(read_query("upsert_slides"))
            names = [row["slide"] for row in changed]
            ids = con.execute("SELECT slide_id FROM slides WHERE list_contains($s, slide)", {"s": names}).fetchall()
            for large in ("grid_slides", "tiles", *_LABEL_TABLES):
                con.execute(f"DELETE FROM {large} WHERE list_contains($ids, slide_id)", {"ids": [i for (i,) in ids]})
    return SlidesReport(len(new), len(changed), len(rows) - len(new) - len(changed), failed, tuple(warnings))


_SLIDE_SCHEMA = pa.schema(
    [
        ("slide", pa.string()),
        ("path", pa.string()),
        ("vendor", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("mpp", pa.float64()),
        ("mpp_y", pa.float64()),
        ("mpp_given", pa.bool_()),
        ("level_widths", pa.list_(pa.int32())),
        ("level_heights", pa.list_(pa.int32())),
        ("level_downsamples", pa.list_(pa.float64())),
        ("objective_power", pa.float64()),
        ("background", pa.string()),
        ("bytes", pa.int64()),
        ("mtime", pa.float64()),
        ("fingerprint", pa.string()),
        ("error", pa.string()),
    ]
)
_HEADER_COLUMNS = [name for name in _SLIDE_SCHEMA.names if name in {f.name for f in fields(SlideHeader)}]


# --------------------------------------------------------------------------------------------- ROIs


def add_rois(
    con: duckdb.DuckDBPyConnection,
    paths: Sequence[str | Path],
    *,
    holes: str = "auto",
    roi_set: str = "default",
    show: bool = False,
) -> RoisReport:
    """Read ROI files into the table ``rois``; a file that is added again replaces what it gave before.

    Parameters
    ----------
    con : duckdb.DuckDBPyConnection
        Connection to the study.
    paths : sequence of path
        Files, folders and globs; the format of each is told by its content.
    holes : {"auto", "nested", "explicit"}
        How holes are told: ``nested`` by lying within an ROI of the same label, ``explicit`` by the file's
        own marks; ``auto`` takes nested for CSV and explicit for GeoJSON and XML.
    roi_set : str
        Set of ROIs to add to, such as a reader's.
    show : bool
        Show progress.

    Returns
    -------
    RoisReport

    Raises
    ------
    InputError
        With every bad row of every file; nothing is added then.
    """
    found = find_roi_files(paths)
    problems: list[str] = []
    files: list[RoiFile] = []
    with track("Reading ROIs", len(found), "files", show=show) as advance:
        for path in found:
            try:
                files.append(parse_roi_file(path, holes=holes))
            except InputError as error:
                problems.extend(error.problems)
            advance(1)
    if problems:
        raise InputError(problems)
    replaced = [str(file.path) for file in files]
    with (
        atomic(con),
        registered(con, "incoming_roi", _outlines(files, roi_set)),
        registered(con, "incoming_file", pa.table({"path": pa.array(replaced, pa.string())})),
    ):
        con.execute(read_query("stage_rois"))
        found_problems = con.execute(read_query("find_roi_problems")).fetchall()
        if found_problems:
            raise InputError([_roi_problem(*row) for row in found_problems])
        before = con.execute(
            "SELECT DISTINCT slide FROM rois JOIN roi_files USING (roi_file_id, roi_set) "
            "WHERE roi_set = $roi_set AND list_contains($replaced, path)",
            {"roi_set": roi_set, "replaced": replaced},
        ).fetchall()
        slides = sorted({o.slide for file in files for o in file.outlines} | {name for (name,) in before})
        con.execute(read_query("stage_kept_rois"), {"roi_set": roi_set, "slides": slides, "replaced": replaced})
        con.execute(read_query("nest_rois"))
        orphans = con.execute(
            "SELECT place, roi_name, label FROM nested_roi "
            "WHERE marked_hole AND NOT nested AND parent IS NULL ORDER BY file, row_no"
        ).fetchall()
        if orphans:
            raise InputError([_orphan_problem(*row) for row in orphans])
        for file in files:
            con.execute(
                "INSERT INTO roi_files (roi_set, path, format, holes, sha256) VALUES ($1, $2, $3, $4, $5) "
                "ON CONFLICT (roi_set, path) DO UPDATE SET "
                "format = excluded.format, holes = excluded.holes, sha256 = excluded.sha256",
                [roi_set, str(file.path), file.format, file.holes, file.sha256],
            )
        drop_rois(con, roi_set, slides)
        con.execute(read_query("insert_rois"))
        report = _rois_report(con, files, roi_set)
        con.execute("DROP TABLE staged_roi")
        con.execute("DROP TABLE nested_roi")
    return report


def drop_rois(con: duckdb.DuckDBPyConnection, roi_set: str, slides: Sequence[str]) -> None:
    """Delete the ROIs of slides, and all that was computed from them, inside a transaction."""
    con.execute(
        "DELETE FROM rois WHERE roi_set = $roi_set AND list_contains($slides, slide)",
        {"roi_set": roi_set, "slides": list(slides)},
    )
    ids = con.execute(
        "SELECT slide_id FROM slides WHERE list_contains($slides, slide)", {"slides": list(slides)}
    ).fetchall()
    for large in _LABEL_TABLES:
        con.execute(f"DELETE FROM {large} WHERE list_contains($ids, slide_id)", {"ids": [i for (i,) in ids]})


def _outlines(files: Sequence[RoiFile], roi_set: str) -> pa.Table:
    """Return the outlines of files as the relation that ``stage_rois`` reads."""
    pairs = [(file, outline) for file in files for outline in file.outlines]
    return pa.table(
        {
            "file": pa.array([str(f.path) for f, _ in pairs], pa.string()),
            "row_no": pa.array([o.row for _, o in pairs], pa.int64()),
            "place": pa.array([f.place(o) for f, o in pairs], pa.string()),
            "roi_set": pa.array([roi_set] * len(pairs), pa.string()),
            "slide": pa.array([o.slide for _, o in pairs], pa.string()),
            "roi_name": pa.array([o.roi_name for _, o in pairs], pa.string()),
            "label": pa.array([o.label for _, o in pairs], pa.string()),
            "marked_hole": pa.array([o.marked_hole for _, o in pairs], pa.bool_()),
            "nested": pa.array([f.holes == "nested" for f, _ in pairs], pa.bool_()),
            "wkb": pa.array([o.wkb() for _, o in pairs], pa.binary()),
        }
    )


def _roi_problem(kind: str, place: str, slide: str, roi_name: str | None, other: str | None) -> str:
    """Say what is wrong with an ROI, in the user's words."""
    match kind:
        case "unknown_slide":
            return (
                f"{place}: slide {slide!r} is not in the study; "
                "add it first with add-slides, or name the file after its slide"
            )
        case "slide_error":
            return f"{place}: slide {slide!r} cannot be used: {other}"
        case "no_area":
            return f"{place}: ROI {roi_name!r} of slide {slide!r} has no area; draw it again or remove it"
        case "outside":
            return (
                f"{place}: ROI {roi_name!r} lies wholly outside slide {slide!r} ({other}); "
                "coordinates must be level-0 pixels from the slide's top left corner"
            )
        case _:
            return (
                f"{place}: ROI {roi_name!r} of slide {slide!r} is in {other} too; "
                "names are unique in a slide: rename one, or add only one of the files"
            )


def _orphan_problem(place: str, roi_name: str, label: str | None) -> str:
    """Say that a hole lies in nothing."""
    of = "without a label" if label is None else f"labelled {label!r}"
    return (
        f"{place}: hole {roi_name!r} overlaps no ROI {of}; "
        "move it into the annotation that it is a hole of, or unmark it"
    )


def _rois_report(con: duckdb.DuckDBPyConnection, files: Sequence[RoiFile], roi_set: str) -> RoisReport:
    rows = con.execute(
        "SELECT slide, roi_name, label, parent, repaired, leaves_slide FROM rois JOIN roi_files "
        "USING (roi_file_id, roi_set) WHERE roi_set = $roi_set AND list_contains($paths, path) "
        "ORDER BY slide, roi_name",
        {"roi_set": roi_set, "paths": [str(file.path) for file in files]},
    ).fetchall()
    return RoisReport(
        files=len(files),
        rois=len(rows),
        holes=sum(row[3] is not None for row in rows),
        slides=len({row[0] for row in rows}),
        unlabelled=tuple(f"{row[0]}: {row[1]}" for row in rows if row[2] is None),
        repaired=tuple(f"{row[0]}: {row[1]}" for row in rows if row[4]),
        leaving=tuple(f"{row[0]}: {row[1]}" for row in rows if row[5]),
        skipped=tuple(reason for file in files for reason in file.skipped),
    )


# ----------------------------------------------------------------------------------------- patients


def add_patients(con: duckdb.DuckDBPyConnection, path: str | Path) -> PatientsReport:
    """Read a table of patients into the table ``patients``; its slides replace those of before.

    Parameters
    ----------
    con : duckdb.DuckDBPyConnection
        Connection to the study.
    path : path
        CSV or Parquet with ``slide``, ``patient``, optional ``site``, and any further columns.

    Returns
    -------
    PatientsReport

    Raises
    ------
    InputError
        With every bad row; nothing is added then.
    """
    incoming = parse_patients(Path(path)).table
    with atomic(con), registered(con, "incoming_patient", incoming):
        before = con.execute("SELECT slide, patient, site FROM patients ORDER BY slide").fetchall()
        con.execute(
            "CREATE OR REPLACE TEMP TABLE merged_patient AS SELECT * FROM patients "
            "ANTI JOIN incoming_patient USING (slide) UNION ALL BY NAME SELECT * FROM incoming_patient"
        )
        columns = con.execute("SELECT column_name, column_type FROM (DESCRIBE merged_patient)").fetchall()
        keys = {"slide": " PRIMARY KEY", "patient": " NOT NULL"}
        described = ", ".join(f"{identifier(name)} {kind}{keys.get(name, '')}" for name, kind in columns)
        con.execute(f"CREATE OR REPLACE TABLE patients ({described})")
        con.execute("INSERT INTO patients BY NAME SELECT * FROM merged_patient ORDER BY slide")
        con.execute("DROP TABLE merged_patient")
        con.execute("COMMENT ON TABLE patients IS 'Patient of each slide, and the columns of the user''s table.'")
        after = con.execute("SELECT slide, patient, site FROM patients ORDER BY slide").fetchall()
        had_split = con.execute("SELECT count(*) FROM split_rule").fetchone() == (1,)
        # Sides were dealt to other patients than there are now: a stale split is how patients leak.
        split_removed = had_split and before != after
        if split_removed:
            con.execute("DELETE FROM splits")
            con.execute("DELETE FROM split_rule")
        unknown = con.execute("SELECT slide FROM incoming_patient ANTI JOIN slides USING (slide) ORDER BY slide")
        unknown_slides = tuple(name for (name,) in unknown.fetchall())
        without = con.execute("SELECT slide FROM slides ANTI JOIN patients USING (slide) ORDER BY slide")
        return PatientsReport(
            rows=incoming.num_rows,
            patients=len(set(incoming["patient"].to_pylist())),
            unknown_slides=unknown_slides,
            slides_without=tuple(name for (name,) in without.fetchall()),
            split_removed=split_removed,
        )


# -------------------------------------------------------------------------------------------- grids


def add_grid(con: duckdb.DuckDBPyConnection, spec: GridSpec, *, show: bool = False) -> GridReport:
    """Lay a grid on every slide that can be used and does not have it yet.

    Some slides at a time are one transaction: a call that was stopped goes on where it was.

    Parameters
    ----------
    con : duckdb.DuckDBPyConnection
        Connection to the study.
    spec : GridSpec
        The grid; one of the same name that is there already is extended to new slides.
    show : bool
        Show progress.

    Returns
    -------
    GridReport

    Raises
    ------
    StudyError
        If the study has no slide that can be used.
    ResolutionError
        With every slide that the grid cannot be laid on; nothing is kept then.
    """
    usable = con.execute("SELECT count(*) FROM slides WHERE error IS NULL").fetchone()
    if usable == (0,):
        raise StudyError("the study has no slide that can be used; add some with add-slides")
    laid = _lay(con, spec)
    con.execute(
        "INSERT INTO grids (grid, tile_px, tile_um, magnification, stride_div, origin_x, origin_y) "
        "VALUES ($name, $tile_px, $tile_um, $magnification, $stride_div, $origin_x, $origin_y) "
        "ON CONFLICT (grid) DO NOTHING",
        {"name": spec.name, **asdict(spec)},
    )
    return _insert_tiles(con, spec, laid, show=show)


def extend_grids(con: duckdb.DuckDBPyConnection, *, show: bool = False) -> list[GridReport]:
    """Lay every grid of the study on the slides that lack it; return those that grew."""
    specs = con.execute(
        "SELECT tile_px, tile_um, magnification, stride_div, origin_x, origin_y FROM grids ORDER BY grid"
    ).fetchall()
    reports = []
    for spec in (GridSpec(*row) for row in specs):
        laid = _lay(con, spec)
        if laid:
            reports.append(_insert_tiles(con, spec, laid, show=show))
    return reports


def _lay(con: duckdb.DuckDBPyConnection, spec: GridSpec) -> list[dict[str, Any]]:
    """Return how a grid lies on each of the slides that lack it, in order of name."""
    slides = con.execute(
        "SELECT slide_id, slide, width, height, mpp, level_downsamples FROM slides "
        "ANTI JOIN (SELECT slide_id FROM grid_slides JOIN grids USING (grid_id) WHERE grid = $grid) USING (slide_id) "
        "WHERE error IS NULL ORDER BY slide",
        {"grid": spec.name},
    ).fetchall()
    laid: list[dict[str, Any]] = []
    problems: list[str] = []
    for slide_id, slide, width, height, mpp, downsamples in slides:
        try:
            on_slide = lay(spec, slide, width, height, mpp, downsamples)
        except ResolutionError as error:
            problems.append(str(error))
        else:
            laid.append({"slide_id": slide_id, "slide": slide, **asdict(on_slide)})
    if problems:
        raise ResolutionError("\n".join(problems))
    return laid


def _insert_tiles(
    con: duckdb.DuckDBPyConnection, spec: GridSpec, laid: Sequence[dict[str, Any]], *, show: bool
) -> GridReport:
    """Write a grid that is in the table ``grids`` on slides that lack it."""
    name = {"grid": spec.name}
    (grid_id,) = con.execute("SELECT grid_id FROM grids WHERE grid = $grid", name).fetchone() or (None,)
    tiles = [row["n_columns"] * row["n_rows"] for row in laid]
    with track("Laying the grid", len(laid), "slides", show=show) as advance:
        for first, past in runs(tiles, _TILES_AT_A_TIME):
            rows = [{"grid_id": grid_id, **row} for row in laid[first:past]]
            with atomic(con):
                with registered(con, "incoming_grid", pa.Table.from_pylist(rows)):
                    con.execute("INSERT INTO grid_slides BY NAME SELECT * EXCLUDE (slide) FROM incoming_grid")
                ids = [row["slide_id"] for row in rows]
                con.execute(read_query("insert_tiles"), {"grid_id": grid_id, "slide_ids": ids})
            advance(past - first)
    total = con.execute(
        "SELECT count(*), coalesce(sum(n_columns::BIGINT * n_rows), 0)::BIGINT FROM grid_slides WHERE grid_id = $id",
        {"id": grid_id},
    ).fetchone() or (0, 0)
    return GridReport(
        grid=spec.name,
        slides=len(laid),
        tiles=sum(tiles),
        total_slides=total[0],
        total_tiles=total[1],
        without_tiles=tuple(row["slide"] for row, n in zip(laid, tiles, strict=True) if n == 0),
        enlarged=tuple(row["slide"] for row in laid if row["read_px"] < spec.tile_px),
    )


def runs(sizes: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Cut a sequence into runs whose sizes sum to at most a number, where a single one is not more."""
    first = total = 0
    for i, size in enumerate(sizes):
        if i > first and total + size > most:
            yield first, i
            first, total = i, 0
        total += size
    if first < len(sizes):
        yield first, len(sizes)
