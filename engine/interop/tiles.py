"""Writes labelled or predicted tiles as QuPath's GeoJSON, a file for each slide."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from json.encoder import encode_basestring
from pathlib import Path

import duckdb
from duckdb import ColumnExpression, ConstantExpression

from slideduck.catalog.grids import only_grid
from slideduck.errors import StudyError
from slideduck.files.find import absolute
from slideduck.files.write import staged
from slideduck.interop.formats import colour_rgb, compact_json, geometry_json, id_space, json_number, object_id
from slideduck.labels.conditions import refusing
from slideduck.labels.known import known_labels
from slideduck.labels.view import labels
from slideduck.palette import label_colours
from slideduck.progress import track
from slideduck.roifiles.wkb import polygons_from_wkb
from slideduck.rois.frame import out_of_level0, written_offsets
from slideduck.show import Shown
from slideduck.store.db import translated
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_query

__all__ = ["TileExportReport", "export_tiles"]

#: Tiles that are in memory as text at a time.
_BATCH_TILES = 10_000

_LABELLED = "label IS NOT NULL"
_COLUMNS = "slide, tile_id, grid_x, grid_y, base_x, base_y, extract_px, label, [coverage::VARCHAR] AS measured"


@dataclass(frozen=True)
class TileExportReport(Shown):
    """What `export_tiles` did.

    Attributes
    ----------
    paths : tuple of Path
        The files.
    grid : str
        The grid of the tiles.
    tiles, objects : int
        Tiles, and objects of QuPath that stand for them.
    tiles_per_label : dict of str to int
        Tiles by label or predicted class, in sorted order; those without are under the empty text.
    without : tuple of str
        Slides that have no such tile, and so no file.
    """

    paths: tuple[Path, ...]
    grid: str
    tiles: int
    objects: int
    tiles_per_label: dict[str, int]
    without: tuple[str, ...]

    plotted = ("tiles_per_label", "tiles")


def export_tiles(
    handle: Handle,
    folder: str | os.PathLike[str],
    *,
    grid: str | None = None,
    slides: Sequence[str] | None = None,
    run: str | None = None,
    where: str | None = None,
    merge: bool = False,
    frame: str | None = None,
    overwrite: bool = False,
) -> TileExportReport:
    """Write the tiles of one grid as objects that QuPath shows over the slide.

    Parameters
    ----------
    handle : Handle
        The study.
    folder : path
        Where to write ``SLIDE.geojson`` for each slide; made if it does not exist.
    grid : str, optional
        The grid; needed where the study has several, unless ``run`` has predicted one of them alone.
    slides : sequence of str, optional
        Names of slides; default all that the grid lies on.
    run : str, optional
        Show what this run predicts, in place of labels.
    where : str, optional
        An SQL condition on the columns of the view ``labels``; default every tile that has a label, or with
        ``run`` every tile that it predicted.
    merge : bool, default False
        Make one annotation of all tiles of a label, in place of an object for each tile.
    frame : {"bounds", "level0"}, optional
        Corner that the files count from: that of what was scanned, as QuPath has it, or the slide's. Needed for
        slides where the two differ.
    overwrite : bool, default False
        Replace files of those names.

    Returns
    -------
    TileExportReport

    Raises
    ------
    StudyError
        If labels are needed and missing or out of date; if the study has no such grid, slide or run, or no
        such tile; if a frame is needed; if files are there already. No file appears then.
    QueryError
        If the condition does not parse, bind or run.
    DiskFullError
        If there is no room.

    Notes
    -----
    Tiles are objects of QuPath's type ``tile``, the lightest it has: a hundred thousand are drawn at once, and
    their measurements (coverage, or the probability of each class and its uncertainty) colour them as a measurement
    map. Rows stand in the order of grid_y, grid_x; the same study gives the same bytes. No more than a few thousand
    tiles are in memory as text, whatever the number of tiles.
    """
    with translated():
        if merge and run is not None and _says_numbers(handle, run):
            raise StudyError(
                f"the run {run!r} predicts numbers, of which there is no annotation for each class; leave `merge` out: "
                "each tile then has its numbers as measurements"
            )
        grid, names = _where_to(handle, grid, run, slides)
        offsets = written_offsets(handle, names, frame, is_needed=True)
        tiles = _tiles(handle, grid, run, where)
        writer = _Writer(handle, grid, run)
        columns = handle.con.sql("FROM labels").columns
        counts: Counter[str] = Counter()
        objects = 0
        written: list[str] = []
        with (
            staged(folder, [f"{name}.geojson" for name in names], overwrite=overwrite) as staging,
            track("Exporting", len(names), "slides", show=handle.progress) as advance,
        ):
            for name in names:
                of_slide = tiles.filter(ColumnExpression("slide") == ConstantExpression(name))
                path = staging / f"{name}.geojson"
                with nullcontext() if where is None else refusing(where, columns):
                    n = writer.write(path, name, of_slide, counts, merge=merge, offset=offsets[name])
                objects += n
                if n:
                    written.append(name)
                advance(1)
            if not written:
                raise StudyError(_why_nothing(grid, run, where))
    return TileExportReport(
        paths=tuple(absolute(folder) / f"{name}.geojson" for name in written),
        grid=grid,
        tiles=counts.total(),
        objects=objects,
        tiles_per_label=dict(sorted(counts.items())),
        without=tuple(name for name in names if name not in set(written)),
    )


def _where_to(handle: Handle, grid: str | None, run: str | None, slides: Sequence[str] | None) -> tuple[str, list[str]]:
    """Return the grid and the slides to export."""
    if run is not None:
        runs = [name for (name,) in handle.con.execute("SELECT run FROM runs ORDER BY run").fetchall()]
        if run not in runs:
            raise StudyError(f"{handle.name} has no run {run!r}; it has {', '.join(runs) or 'none'}")
        predicted = handle.con.execute(
            "SELECT DISTINCT grid FROM predictions WHERE run = $run "
            "UNION SELECT DISTINCT grid FROM predicted_numbers WHERE run = $run",
            {"run": run},
        ).fetchall()
        if grid is None and len(predicted) == 1:
            ((grid,),) = predicted
    grid = only_grid(handle, grid)
    rows = handle.con.execute(
        "SELECT slide FROM grid_slides JOIN grids USING (grid_id) JOIN slides USING (slide_id) "
        "WHERE grid = $grid ORDER BY slide",
        {"grid": grid},
    ).fetchall()
    found = [name for (name,) in rows]
    unknown = [name for name in dict.fromkeys(slides or ()) if name not in found]
    if unknown:
        raise StudyError(
            f"{handle.name} has no slide {', '.join(map(repr, unknown))} in grid {grid!r}; "
            f"see which there are with: slideduck sql {handle.name} 'SELECT slide FROM slides'"
        )
    return grid, found if slides is None else [name for name in found if name in slides]


def _tiles(handle: Handle, grid: str, run: str | None, where: str | None) -> duckdb.DuckDBPyRelation:
    """Return the tiles that are meant, with their label or predicted class, and what is measured of each."""
    if run is None:
        return labels(handle, where or _LABELLED, grid=grid).project(_COLUMNS)
    query = "list_predicted_numbers" if _says_numbers(handle, run) else "list_predicted_tiles"
    predicted = handle.con.sql(read_query(query), params={"run": run, "grid": grid})
    if where is None:
        return predicted
    chosen = labels(handle, where, grid=grid).project("tile_id").set_alias("chosen")
    return predicted.set_alias("predicted").join(chosen, "tile_id", how="semi")


def _says_numbers(handle: Handle, run: str) -> bool:
    """Return whether a run predicts numbers."""
    query = "SELECT 1 FROM predicted_numbers WHERE run = $run LIMIT 1"
    return handle.con.execute(query, {"run": run}).fetchone() is not None


def _why_nothing(grid: str, run: str | None, where: str | None) -> str:
    """Return the message for an export without tiles, with the reason."""
    of_run = "" if run is None else f" that the run {run!r} predicted"
    condition = f" meets the condition {where!r}" if where else (" has a label" if run is None else " is there")
    return f"no tile of grid {grid!r} on the slides named{of_run}{condition}; there is nothing to export"


class _Writer:
    """Writes the objects of slides, all with the same colours and measurements."""

    def __init__(self, handle: Handle, grid: str, run: str | None) -> None:
        names = known_labels(handle.con)
        measured = ["coverage"]
        if run is not None:
            ((classes,),) = handle.con.execute("SELECT classes FROM runs WHERE run = $run", {"run": run}).fetchall()
            if _says_numbers(handle, run):
                measured = [*classes, *(f"deviation {name}" for name in classes)]
            else:
                said = handle.con.execute("SELECT DISTINCT predicted FROM predictions WHERE run = $run", {"run": run})
                # Of several labels, what is said of a tile may be no label of its own, such as a;b.
                names += dict.fromkeys([*classes, *sorted(text for (text,) in said.fetchall())])
                measured = [*(f"probability {name}" for name in classes), "entropy", "mutual information"]
        # The colours of the pictures of ROIs and of predictions.
        self._colours = label_colours(names)
        self._tile_ids, self._merged_ids = id_space("tile", grid, run), id_space("tiles", grid, run)
        self._measured = [encode_basestring(name) + ":" for name in measured]
        self._classified: dict[str | None, str] = {None: ""}

    def write(
        self,
        path: Path,
        slide: str,
        tiles: duckdb.DuckDBPyRelation,
        counts: Counter[str],
        *,
        merge: bool,
        offset: tuple[int, int],
    ) -> int:
        """Write the objects of one slide, an offset taken off, and count its tiles; no file where there are none.

        Returns the number of objects.
        """
        features = self._merged(slide, tiles, counts, offset) if merge else self._single(tiles, counts, offset)
        first = next(features, None)
        if first is None:
            return 0
        n = 1
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.write('{"type":"FeatureCollection","features":[\n')
            file.write(first)
            for feature in features:
                file.write(",\n")
                file.write(feature)
                n += 1
            file.write("\n]}\n")
        return n

    def _single(self, tiles: duckdb.DuckDBPyRelation, counts: Counter[str], offset: tuple[int, int]) -> Iterator[str]:
        """Yield an object for each tile, in the order of grid_y, grid_x."""
        ordered = tiles.order("grid_y, grid_x").project("tile_id, base_x, base_y, extract_px, label, measured")
        for batch in ordered.to_arrow_reader(_BATCH_TILES):
            columns = [column.to_pylist() for column in batch.columns]
            counts.update(label or "" for label in columns[4])
            for tile_id, base_x, base_y, side, label, measured in zip(*columns, strict=True):
                x, y = base_x - offset[0], base_y - offset[1]
                right, bottom = x + side, y + side
                yield (
                    f'{{"type":"Feature","id":"{object_id(self._tile_ids, tile_id)}","geometry":'
                    f'{{"type":"Polygon","coordinates":'
                    f"[[[{x},{y}],[{right},{y}],[{right},{bottom}],[{x},{bottom}],[{x},{y}]]]}},"
                    f'"properties":{{"objectType":"tile","name":{encode_basestring(tile_id)}'
                    f"{self._classification(label)}{self._measurements(measured)}}}}}"
                )

    def _merged(
        self, slide: str, tiles: duckdb.DuckDBPyRelation, counts: Counter[str], offset: tuple[int, int]
    ) -> Iterator[str]:
        """Yield an annotation for each label, of all its tiles."""
        for label, n, wkb in tiles.query("chosen_tile", read_query("merge_tiles")).fetchall():
            counts[label or ""] += n
            name = "no label" if label is None else label
            yield (
                f'{{"type":"Feature","id":"{object_id(self._merged_ids, compact_json([slide, label]))}",'
                f'"geometry":{geometry_json(out_of_level0(polygons_from_wkb(wkb)[1], offset))},'
                f'"properties":{{"objectType":"annotation","name":{encode_basestring(name)}'
                f'{self._classification(label)},"measurements":{{"tiles":{n}}}}}}}'
            )

    def _classification(self, label: str | None) -> str:
        """Return the member of an object that says its class; empty for none."""
        if label not in self._classified:
            assert label is not None
            value: Mapping[str, object] = {"name": label, "color": colour_rgb(self._colours[label])}
            self._classified[label] = f',"classification":{compact_json(value)}'
        return self._classified[label]

    def _measurements(self, measured: Sequence[str | None]) -> str:
        """Return the member of an object that holds its measurements; empty for none."""
        found = [
            name + json_number(value) for name, value in zip(self._measured, measured, strict=True) if value is not None
        ]
        return f',"measurements":{{{",".join(found)}}}' if found else ""
