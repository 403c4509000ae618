"""Tiles that a table names in place of a condition: whichever library it is of, and what is refused of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import slideduck as sd
from tests.slides import write_slide


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sd.Study]:
    """Two slides of 4 x 2 tiles, of which the left half is tumour; B's lower ROI keeps but a part of its tiles."""
    folder = tmp_path_factory.mktemp("chosen")
    for i, name in enumerate("AB"):
        write_slide(folder / f"{name}.tiff", i, size=(256, 128), mpp=0.5, levels=1, tile=64)
        (folder / f"{name}.csv").write_text(
            "roi_name,x_base,y_base,label\n" + "".join(f"a,{x},{y},tumour\n" for x, y in CORNERS[name])
        )
    with sd.open(folder / "study.duckdb") as study:
        study.add_slides(folder)
        study.add_rois(folder)
        study.tile(32, tile_um=32)
        study.tile(64, tile_um=32)
        study.label()
        yield study


CORNERS = {"A": [(0, 0), (128, 0), (128, 128), (0, 128)], "B": [(0, 0), (256, 0), (256, 64), (0, 64)]}
GRID = "32px_32um"
WANTED = ["A-32-32", "A-96-96", "B-224-32"]


def tables(study: sd.Study) -> dict[str, Any]:
    """Return the wanted tiles as each kind of table; rows that come twice count once."""
    frame = pd.DataFrame({"tile_id": [*WANTED, WANTED[0]], "label": ["x", None, "y", "x"]})
    return {
        "a column of pandas": frame,
        "the index of pandas": frame.set_index("tile_id"),
        "categories of pandas": frame.astype({"tile_id": "category"}),
        "our own data frame": study.tile_dataframe(GRID).loc[WANTED],
        "Polars": pl.DataFrame({"tile_id": WANTED}),
        "Arrow": pa.table({"tile_id": pa.array(WANTED, pa.large_string())}),
        "a relation": study.sql("FROM (VALUES ('A-32-32'), ('A-96-96'), ('B-224-32')) AS wanted(tile_id)"),
        "a relation of labels": study.labels(f"tile_id IN {tuple(WANTED)}", grid=GRID),
    }


def test_a_table_of_whichever_library_chooses_its_tiles(labelled: sd.Study) -> None:
    found = {
        name: [row[0] for row in labelled.labels(table, grid=GRID).project("tile_id").fetchall()]
        for name, table in tables(labelled).items()
    }
    assert found == dict.fromkeys(found, WANTED)


def test_a_column_grid_says_in_which_grid_a_tile_is_meant(labelled: sd.Study) -> None:
    table = pa.table({"tile_id": WANTED[:2], "grid": ["64px_32um", GRID]})
    rows = labelled.labels(table).project("grid, tile_id").fetchall()
    assert rows == [(GRID, "A-96-96"), ("64px_32um", "A-32-32")]
    assert labelled.labels(table, grid=GRID).project("tile_id").fetchall() == [("A-96-96",)]
    # Without it, in each.
    assert len(labelled.labels(pa.table({"tile_id": WANTED})).fetchall()) == 6


def test_an_export_takes_those_of_the_tiles_that_are_kept(labelled: sd.Study, tmp_path: Path) -> None:
    frame = pd.DataFrame(index=[*WANTED, "B-224-96"])
    report = labelled.export(tmp_path / "few.beton", grid=GRID, where=frame)
    sidecar = sd.read_sidecar(report.path)
    assert sidecar.tile_id.tolist() == WANTED
    assert sidecar.raw["query"]["where"] == "4 tiles of a table, SHA-256 23a9223634da6424"
    assert report.notes == ("of the 4 tiles of a table, SHA-256 23a9223634da6424, 1 is not kept in grid 32px_32um",)
    # In another order they are the same tiles, and so the same bytes.
    again = labelled.export(tmp_path / "again.beton", grid=GRID, where=frame.iloc[::-1])
    assert again.path.read_bytes() == report.path.read_bytes()


def test_an_export_of_none_that_is_kept_says_what_there_is(labelled: sd.Study, tmp_path: Path) -> None:
    with pytest.raises(sd.StudyError) as caught:
        labelled.export(tmp_path / "none.beton", grid=GRID, where=pd.DataFrame(index=["B-224-96"]))
    assert str(caught.value) == (
        "no tile of grid '32px_32um' is one of the 1 tile of a table, SHA-256 b5d9c05b4a3b3bd1; of the tiles that are "
        "kept there are, by label: 8 tumour; by split: 8 in no split"
    )


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "unknown ids": (
        lambda: pd.DataFrame(index=["A-32-32", "a-32-32", "C-1-1", "C-2-2", "C-3-3"]),
        sd.StudyError,
        "4 of the 5 tiles that `where` names are not in grid '32px_32um' of study.duckdb, such as 'C-1-1', 'C-2-2', "
        "'C-3-3' and 1 more; take tile ids from study.labels(), or leave those rows out",
    ),
    "numbers": (
        lambda: pd.DataFrame({"label": ["x"]}),
        sd.QueryError,
        "the tile ids of `where` are of type int64, and no texts; give an SQL condition, a DuckDB relation, or a data "
        "frame with tile ids as its index or its column tile_id",
    ),
    "missing ids": (
        lambda: pl.DataFrame({"tile_id": ["A-32-32", None]}),
        sd.QueryError,
        "`where` lacks the tile id or the grid of 1 row; leave such rows out",
    ),
    "no ids": (
        lambda: pl.DataFrame({"slide": ["A"], "x": [1]}),
        sd.QueryError,
        "`where` is a table of slide, x, without a column tile_id; give an SQL condition, a DuckDB relation, or a data "
        "frame with tile ids as its index or its column tile_id",
    ),
    "a mask": (
        lambda: pd.DataFrame(index=["A-32-32"], data={"label": ["x"]}).label.notnull(),
        sd.QueryError,
        "`where` is of type Series; give an SQL condition, a DuckDB relation, or a data frame with tile ids as its "
        "index or its column tile_id",
    ),
    "a list": (
        lambda: ["A-32-32"],
        sd.QueryError,
        "`where` is of type list; give an SQL condition, a DuckDB relation, or a data frame with tile ids as its index "
        "or its column tile_id",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_names_no_tiles_is_refused(labelled: sd.Study, tmp_path: Path, name: str) -> None:
    make, kind, text = REFUSED[name]
    for ask in (
        lambda: labelled.labels(make(), grid=GRID),
        lambda: labelled.export(tmp_path / "x.beton", grid=GRID, where=make()),
    ):
        with pytest.raises(kind) as caught:
            ask()
        assert str(caught.value) == text
