"""Labels of tiles that come from tables: read, refused, mixed with those of ROIs, renamed, removed and verified."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

import slideduck as sd
from slideduck.cli.group import cli
from slideduck.errors import InputError, QueryError, StudyError
from tests.rectangles import Box, write_rois
from tests.slides import write_slide

GRID = "16px_16um"
#: On a-1 two overlapping boxes and ink; b has no ROI. Its name is decomposed, as macOS writes it.
ROIS: dict[str, tuple[str, Box]] = {
    "whole": ("tumour", (0, 0, 128, 160)),
    "part": ("stroma", (64, 0, 128, 80)),
    "ink": ("pen", (0, 0, 32, 32)),
}
B = "be\u0301"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for name in ("a-1", B):
        write_slide(folder / f"{name}.tiff", size=(256, 160), mpp=1, levels=1)
    write_rois(folder / "a-1.csv", ROIS)
    with sd.open(folder / "study.duckdb") as study:
        study.add_slides(folder)
        study.add_rois(folder / "a-1.csv")
        study.tile(16, tile_um=16)
        study.label(artifact_labels="pen")
    return folder / "study.duckdb"


@pytest.fixture
def study(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sd.Study]:
    """A copy of the study in the current folder."""
    shutil.copyfile(made, tmp_path / "s.duckdb")
    monkeypatch.chdir(tmp_path)
    with sd.open(tmp_path / "s.duckdb") as opened:
        yield opened


@pytest.fixture(scope="module")
def tiles(made: Path) -> pd.DataFrame:
    """All tiles of the study, as the view has them."""
    with sd.open(made, read_only=True) as opened:
        return opened.labels().df()


@pytest.fixture(scope="module")
def table(tiles: pd.DataFrame) -> pd.DataFrame:
    """A label for two of three tiles, in another order."""
    label = np.array(["benign", "tumour", None], object)[np.arange(len(tiles)) % 3]
    return pd.DataFrame({"tile_id": tiles.tile_id, "label": label}).sample(frac=1, random_state=0)


def typed(study: sd.Study, command: str) -> Result:
    """Type a command while the study is closed."""
    study.con.execute("CHECKPOINT")
    study.close()
    result = CliRunner().invoke(cli, shlex.split(command)[1:])
    study.handle = sd.open(study.path).handle
    return result


def given_to(study: sd.Study, column: str = "label") -> dict[str, Any]:
    """Return what tiles have in the view, by name."""
    rows = study.labels(f"{column} IS NOT NULL").project(f"tile_id, {column}").fetchall()
    return dict(rows)


def as_csv(frame: pd.DataFrame, path: Path) -> Path:
    lines = ["Tile_ID ;Label", *(f'"{i}"; {"NA" if label is None else label} ' for i, label in frame.to_numpy()), ";"]
    path.write_bytes("\ufeff".encode() + "\r\n".join(lines).encode())
    return path


def as_utf16(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_csv(path, index=False, sep="\t", encoding="utf-16")
    return path


def as_parquet(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_parquet(path.with_suffix(".parquet"), row_group_size=100)
    return path.with_suffix(".parquet")


#: The ways in which a table is given.
SOURCES: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    "pandas": lambda frame, path: frame,
    "pandas, categories": lambda frame, path: frame.astype({"label": "category"}),
    "pandas, index": lambda frame, path: frame.set_index("tile_id"),
    "pandas, index without a name": lambda frame, path: frame.set_index("tile_id").rename_axis(None),
    "polars": lambda frame, path: pl.from_pandas(frame),
    "polars, lazy": lambda frame, path: pl.from_pandas(frame).lazy(),
    "arrow": lambda frame, path: pa.Table.from_pandas(frame, preserve_index=False),
    "arrow, reader": lambda frame, path: pa.Table.from_pandas(frame, preserve_index=False).to_reader(),
    "relation": lambda frame, path: duckdb.connect().from_df(frame),
    "parquet": as_parquet,
    "csv": as_csv,
    "csv, utf-16": as_utf16,
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_table_of_any_kind_gives_its_labels(
    source: str, study: sd.Study, table: pd.DataFrame, tmp_path: Path
) -> None:
    report = study.add_labels(SOURCES[source](table, tmp_path / "labels.csv"))
    labelled = table.dropna()
    assert (report.tiles, report.slides, report.classes) == (len(labelled), 2, ("benign", "tumour"))
    # A line of empty cells, as spreadsheets leave it, is no row without a tile.
    assert (report.rows, report.missing) == (len(table), len(table) - len(labelled))
    study.label(labels_from="consensus", artifact_labels=())
    assert given_to(study) == dict(labelled.to_numpy().tolist())
    assert given_to(study, "label_from") == dict.fromkeys(labelled.tile_id, "consensus")
    assert study.add_labels(table).unchanged


@pytest.mark.parametrize(
    ("columns", "coordinates"),
    [
        (("loc_x", "loc_y"), None),
        (("base_x", "base_y"), None),
        (("grid_x", "grid_y"), None),
        (("loc_x", "loc_y"), "loc"),
        (("base_x", "base_y"), "base"),
        (("grid_x", "grid_y"), "grid"),
    ],
)
def test_tiles_are_named_by_their_places(
    columns: tuple[str, str], coordinates: str | None, study: sd.Study, tiles: pd.DataFrame
) -> None:
    frame = tiles[["slide", *columns]].assign(label=[f"l{i % 5}" for i in range(len(tiles))])
    if coordinates is not None:
        frame = frame.rename(columns=dict(zip(columns, "xy", strict=True)))
        with pytest.raises(InputError) as error:
            study.add_labels(frame)
        assert str(error.value) == (
            "pandas DataFrame: columns x and y do not say what they count; say it with `coordinates`: loc (the tile's "
            "centre rounded down, as in tile ids), base (its top left corner) or grid (its column and row)"
        )
    study.add_labels(frame, coordinates=coordinates)
    study.label(labels_from="consensus", artifact_labels=())
    assert given_to(study) == dict(zip(tiles.tile_id, frame.label, strict=True))


def test_slideflows_frame_gives_its_labels_back(study: sd.Study) -> None:
    frame = study.tile_dataframe()
    kept = frame.loc[frame.label.notnull()]
    study.add_labels(frame, "slideflow")
    study.label(labels_from="slideflow", artifact_labels=())
    assert given_to(study) == kept.label.to_dict()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 1, 2], ["0", "1", "2"]),
        ([0.0, 1.0, None], ["0", "1"]),
        ([0.1, 2.5, 1e20], ["0.1", "2.5", "1e+20"]),
        ([True, False, None], ["true", "false"]),
        (["e\u0301 ", "\u00e9", "n/a"], ["\u00e9", "\u00e9"]),
    ],
)
def test_a_value_used_as_a_label_keeps_its_value(
    labels: list[Any], expected: list[str], study: sd.Study, tiles: pd.DataFrame
) -> None:
    names = tiles.tile_id[:3].tolist()
    study.add_labels(pd.DataFrame({"tile_id": names, "label": labels}))
    study.label(labels_from="consensus", artifact_labels=())
    assert given_to(study) == dict(zip(names, expected, strict=False))


def test_the_first_source_that_labels_a_tile_does(study: sd.Study, tiles: pd.DataFrame) -> None:
    names = tiles.tile_id.tolist()
    first = dict.fromkeys(names[::3], "first")
    second = {name: f"second {i % 2}" for i, name in enumerate(names[::2])}
    for called, labels in (("first", first), ("second", second)):
        study.add_labels(pd.DataFrame({"tile_id": labels.keys(), "label": labels.values()}), called)
    rois = given_to(study)
    ink = set(study.labels("roi_name = 'ink'").df().tile_id)
    assert len(ink) == 4
    sources: dict[str, dict[str, str]] = {"rois": rois, "first": first, "second": second}
    for order in (["first", "rois"], ["rois", "second"], ["second", "rois", "first"], ["second", "first"], ["rois"]):
        report = study.label(labels_from=order)
        expected = {
            name: next(((source, sources[source][name]) for source in order if name in sources[source]), None)
            for name in names
            if name not in ink
        }
        found = study.labels("label IS NOT NULL").project("tile_id, label_from, label").fetchall()
        assert {name: (source, label) for name, source, label in found} == {k: v for k, v in expected.items() if v}
        # What was counted is what the view has, and so is the frame.
        grouped = study.sql(
            "SELECT label, count(*), count(*) FILTER (kept) FROM labels GROUP BY 1 ORDER BY 1 NULLS LAST"
        )
        counts = report.counts.select(["label", "tiles", "kept"]).to_pydict()
        assert list(zip(*counts.values(), strict=True)) == grouped.fetchall()
        frame, given = study.tile_dataframe(), given_to(study)
        assert frame.label.dropna().to_dict() == given
        # Tiles that a table labels are kept, whatever the method; ink removes them.
        assert set(study.labels("kept").df().tile_id) >= set(given)
        for tile, label in study.sql("SELECT tile_id, label FROM conflicts").fetchall():
            assert given.get(tile) == label


@pytest.mark.parametrize("method", ["inside", "outside", "auto", "ignore"])
def test_the_method_goes_by_rois_and_keeps_what_a_table_labels(
    method: str, study: sd.Study, tiles: pd.DataFrame
) -> None:
    some = tiles.tile_id[::5].tolist()
    study.label(method=method)
    before = set(study.labels("kept").df().tile_id)
    ink = set(study.labels("roi_name = 'ink'").df().tile_id)
    study.add_labels(pd.DataFrame({"tile_id": some, "label": "x"}))
    study.label(labels_from=["consensus", "rois"])
    assert set(study.labels("kept").df().tile_id) == before | (set(some) - ink)
    assert set(study.labels("label = 'x'").df().tile_id) == set(some) - ink


def test_the_rule_stays_in_force(study: sd.Study, table: pd.DataFrame) -> None:
    study.add_labels(table)
    assert study.label(labels_from=["consensus", "rois"]).changes == ("labels from: rois -> consensus, rois",)
    assert study.label().rule.labels_from == ("consensus", "rois")
    result = typed(study, "slideduck label s.duckdb")
    assert "as before: artifact labels: pen; labels from: consensus, rois (the defaults: --reset)" in result.output
    assert study.label(reset=True).rule.labels_from == ("rois",)
    assert "labels_from" not in study.label().rule.text()
    result = typed(study, "slideduck label s.duckdb --from consensus --from rois --verify")
    assert "compared 1 set of labels (214 tiles) with what was added" in result.output


def test_soft_labels_are_kept_as_they_are(study: sd.Study, tiles: pd.DataFrame, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet([1, 1, 1], len(tiles))
    shares[:3] = [[0.25, 0.5, 0.25], [0.4, 0.2, 0.4], [0.0, 0.5, 0.5]]
    frame = pd.DataFrame({"tile_id": tiles.tile_id, "c": shares[:, 0], "a": shares[:, 1], "b": shares[:, 2]})
    frame.loc[3, ["a", "b", "c"]] = np.nan
    report = study.add_labels(frame, "soft")
    assert (report.kind, report.classes, report.missing, report.tied) == ("soft", ("a", "b", "c"), 1, 2)
    study.label(labels_from="soft", artifact_labels=())
    said = frame.drop(index=3).set_index("tile_id")[["a", "b", "c"]]
    assert given_to(study, "soft") == said.to_dict("index")
    # Of equals the first by name.
    assert given_to(study) == said.idxmax(axis=1).to_dict()
    frame.to_csv(tmp_path / "soft.csv", index=False, float_format="%.17g")
    assert study.add_labels(tmp_path / "soft.csv", "soft").unchanged
    renamed = study.rename_label("c", "a")
    assert renamed.sets == (f"soft ({GRID})",)
    study.label()
    merged = {name: {"a": row["c"] + row["a"], "b": row["b"]} for name, row in said.to_dict("index").items()}
    found = given_to(study, "soft")
    assert {name: pytest.approx(row) for name, row in merged.items()} == found
    with pytest.raises(StudyError) as error:
        study.rename_label("b", "")
    assert str(error.value) == (
        "'b' is a class of the soft labels 'soft', whose probabilities would no more sum to 1; give it another name, "
        "or remove them with: slideduck remove-labels s.duckdb soft"
    )


def test_numbers_are_the_value_of_tiles(study: sd.Study, tiles: pd.DataFrame, tmp_path: Path) -> None:
    lines = [f"{name};{'' if i % 4 == 0 else str(i / 8).replace('.', ',')}" for i, name in enumerate(tiles.tile_id)]
    (tmp_path / "n.csv").write_text("\n".join(["tile_id;value", *lines]), encoding="utf-8")
    report = study.add_labels("n.csv", "number")
    assert (report.kind, report.tiles, report.missing) == ("numbers", 240, 80)
    study.label(labels_from=["number", "rois"])
    ink = set(study.labels("roi_name = 'ink'").df().tile_id)
    expected = {name: i / 8 for i, name in enumerate(tiles.tile_id) if i % 4 and name not in ink}
    assert given_to(study, "value") == expected
    assert set(study.labels("label_from = 'rois'").df().label) == {"tumour", "stroma"}


ROW = {"tile_id": ["a-1-8-8"], "label": ["x"]}
SOFT_SUM = (
    "pandas DataFrame: 1 row of soft labels whose probabilities are not 0 or more with a sum of 1 (within 1e-6): "
    "a-1-8-8 has a sum of {}; divide each by their sum, or leave all of a row empty for no label"
)
NEEDS = (
    "name the tiles by a column tile_id, or by slide with loc_x and loc_y (or base_x and base_y, or grid_x and "
    "grid_y), and give a column label, a column value of numbers, or a column for each class"
)
#: Tables that are refused, each with its whole message.
BAD: list[tuple[dict[str, list[Any]], str]] = [
    (
        {"tile_id": ["a-1-8-8", "A-1-8-8", "a-1-8-9", "a-1-248-168", "nothing", "a-1-08-8", None], "label": ["x"] * 7},
        f"pandas DataFrame: 6 of 7 rows name no tile of grid '{GRID}', so none was added\n"
        "pandas DataFrame: 3 rows, such as 'a-1-08-8': no name of a tile, which is slide-x-y\n"
        "pandas DataFrame: no slide 'A-1' (1 row, such as 'A-1-8-8'); did you mean 'a-1'?\n"
        "pandas DataFrame: slide 'a-1' has no such tile (2 rows, such as 'a-1-248-168'); they are at x 8 to 248 and y "
        "8 to 152, in steps of 16",
    ),
    (
        {"tile_id": ["a-1-8-8", "a-1-8-8", "a-1-24-8"], "label": ["x", "y", "x"]},
        "pandas DataFrame: 1 row says something else of a tile than another row does: a-1-8-8 (x and y); give each "
        "tile one label",
    ),
    (
        {"tile_id": ["a-1-8-8", "a-1-24-8"], "value": [1.0, np.inf]},
        "pandas DataFrame: 1 value that is no finite number: a-1-24-8 has 'inf'",
    ),
    (
        {"tile_id": ["a-1-8-8", "a-1-24-8"], "value": ["1", "1_000"]},
        "pandas DataFrame: 1 value that is no finite number: a-1-24-8 has '1_000'",
    ),
    ({"tile_id": ["a-1-8-8"], "b": [0.5], "a": [0.51]}, SOFT_SUM.format("1.01")),
    ({"tile_id": ["a-1-8-8"], "b": [-0.5], "a": [1.5]}, SOFT_SUM.format("1.0 with -0.5")),
    ({"tile_id": ["a-1-8-8"], "b": [np.nan], "a": [1.0]}, SOFT_SUM.format("nothing with empty cells")),
    (
        {"tile_id": ["a-1-8-8"], "label": ["NA"]},
        "pandas DataFrame: none of its 1 row has a label; give one to a tile at least",
    ),
    ({"tile_id": [], "label": []}, "pandas DataFrame: no rows; give a row for each tile that has a label"),
    (
        {"tile_id": ["a-1-8-8"], "label": ["x"], "value": [1]},
        "pandas DataFrame: columns label and value; add them as two sets, each from a table with one of them",
    ),
    ({"tile_id": ["a-1-8-8"]}, f"pandas DataFrame: no column of labels among 'tile_id'; {NEEDS}"),
    (
        {"slide": ["a-1"], "label": ["x"]},
        f"pandas DataFrame: no columns that name tiles among 'slide', 'label'; {NEEDS}",
    ),
    (
        {"tile_id": ["a-1-8-8"], "label": [[1]]},
        "pandas DataFrame: column 'label' holds values of type list; give it texts alone, or numbers alone",
    ),
]


@pytest.mark.parametrize(("columns", "said"), BAD, ids=range(len(BAD)))
def test_a_bad_table_is_refused_whole(columns: dict[str, list[Any]], said: str, study: sd.Study) -> None:
    with pytest.raises(InputError) as error:
        study.add_labels(pd.DataFrame(columns))
    assert str(error.value) == said
    assert study.sql("SELECT count(*) FROM tile_labels").fetchall() == [(0,)]
    assert study.sql("SELECT count(*) FROM label_sets").fetchall() == [(0,)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "bad.csv:1: the file is empty; save or export it again"),
        ("tile_id,label,label\n", "bad.csv:1: column 'label' is there twice (columns 2 and 3); rename or remove one"),
        (
            "tile_id,label\na-1-8-8,x,y\na-1-24-8,x\n",
            "bad.csv: 'a-1-8-8,x,y' has 3 cells, but the header has 2; write every cell, empty ones too, and quote "
            "cells that hold the delimiter",
        ),
        ("tile_id,label\n\xff", "bad.csv:2: byte 0xFF is not UTF-8; save it as UTF-8"),
        (
            'tile_id,label\na-1-8-8,"x\na-1-24-8,y\n',
            "bad.csv: label 'x\\na-1-24-8,y\\n' holds a line end: a quote may never close; give each tile a "
            "label of one line",
        ),
    ],
)
def test_a_bad_file_is_refused_whole(text: str, said: str, study: sd.Study, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as error:
        study.add_labels("bad.csv")
    assert str(error.value) == said


@pytest.mark.attack("bombs", "a Parquet table of labels whose one text stands a million times")
def test_a_bomb_is_refused(study: sd.Study, tmp_path: Path) -> None:
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1_000_000, np.int32)), pa.array(["x" * 5_000]))
    pq.write_table(pa.table({"tile_id": text, "label": text}), tmp_path / "bomb.parquet")
    with pytest.raises(InputError, match=r"^bomb\.parquet: it unpacks to .* times its size, as only a bomb does"):
        study.add_labels("bomb.parquet")


def test_another_table_of_that_name_takes_its_place_when_that_is_said(
    study: sd.Study, table: pd.DataFrame, tmp_path: Path
) -> None:
    table.to_csv("labels.csv", index=False)
    study.add_labels("labels.csv")
    study.label(labels_from="consensus")
    table.head(50).to_csv("others.csv", index=False)
    said = (
        f"s.duckdb has labels 'consensus' of 214 tiles of grid '{GRID}' already, from {tmp_path / 'labels.csv'}; put "
        "these in their place with `replace=True`, or give another name with `name`"
    )
    for given_again in ("others.csv", table.head(50)):
        with pytest.raises(StudyError) as error:
            study.add_labels(given_again)
        assert str(error.value) == said
    assert len(given_to(study)) == 214 - 3
    result = typed(study, "slideduck add-labels s.duckdb others.csv --replace")
    assert result.exit_code == 0, result.output
    assert "they took the place of the labels of that name" in result.output
    with pytest.raises(StudyError, match=r"^the labels of 2 slides are out of date"):
        study.labels()
    assert result.output.splitlines()[-1] == "label the tiles by them with: slideduck label s.duckdb"
    assert typed(study, "slideduck label s.duckdb").exit_code == 0
    ink = set(study.labels("roi_name = 'ink'").df().tile_id)
    assert set(given_to(study)) == set(table.head(50).dropna().tile_id) - ink


def test_labels_are_removed_unless_the_rule_takes_them(study: sd.Study, table: pd.DataFrame) -> None:
    study.add_labels(table)
    study.label(labels_from=["consensus", "rois"])
    with pytest.raises(StudyError) as error:
        study.remove_labels("consensus")
    message, _, remedy = str(error.value).partition(" first: ")
    assert message == "the rule in force takes labels from 'consensus'; choose where they come from without it"
    assert typed(study, remedy).exit_code == 0
    assert study.remove_labels("consensus", dry_run=True).tiles == 214
    result = typed(study, "slideduck remove-labels s.duckdb consensus")
    assert result.stdout == f"removed consensus: 214 tiles of 1 grid ({GRID})\n"
    assert study.sql("SELECT count(*) FROM tile_labels").fetchall() == [(0,)]
    with pytest.raises(StudyError) as error:
        study.remove_labels("consensus")
    assert str(error.value) == "s.duckdb has no labels 'consensus'; it has none"
    with pytest.raises(StudyError) as error:
        study.label(labels_from="consensus")
    assert str(error.value) == (
        "`labels_from` names 'consensus', and s.duckdb has no such labels; it has rois, and others are added with: "
        "slideduck add-labels s.duckdb FILE --name consensus"
    )
    table.to_csv("labels.csv", index=False)
    assert typed(study, str(error.value).partition(" with: ")[2].replace("FILE", "labels.csv")).exit_code == 0
    assert study.label(labels_from="consensus").rule.labels_from == ("consensus",)


def test_names_that_mean_something_else_are_refused(study: sd.Study, table: pd.DataFrame) -> None:
    for name, why in (("ROIs", "stands for the ROIs"), ("NA", "is no name"), ("a\nb", "is no name")):
        with pytest.raises(StudyError) as error:
            study.add_labels(table, name)
        assert str(error.value) == f"`name` is {name!r}, which {why}; give another, such as consensus"
    study.tile(32, tile_um=32)
    with pytest.raises(StudyError) as error:
        study.add_labels(table)
    assert str(error.value) == f"s.duckdb has 2 grids ({GRID}, 32px_32um); name one with `grid`"
    study.add_labels(table, grid=GRID)
    numbers = pd.DataFrame({"tile_id": ["a-1-16-16"], "value": [1]})
    with pytest.raises(StudyError) as error:
        study.add_labels(numbers, grid="32px_32um")
    assert str(error.value) == (
        f"'consensus' is a set of labels for grid '{GRID}', and these are numbers; give them another name with `name`"
    )
    study.add_labels(pd.DataFrame({"tile_id": ["a-1-16-16"], "label": ["x"]}), grid="32px_32um")
    study.label(labels_from="consensus", artifact_labels=())
    assert len(study.labels("label IS NOT NULL", grid=GRID).fetchall()) == 214
    assert study.labels("label IS NOT NULL", grid="32px_32um").project("tile_id").fetchall() == [("a-1-16-16",)]


def test_slides_that_go_take_their_labels_with_them(study: sd.Study, table: pd.DataFrame) -> None:
    table.to_csv("labels.csv", index=False)
    study.add_labels("labels.csv")
    study.label(labels_from="consensus", artifact_labels=())
    path = study.sql("SELECT path FROM slides WHERE slide <> 'a-1'").fetchall()[0][0]
    study.remove_slides("a-1")
    study.label()
    left = table.dropna()
    left = left[~left.tile_id.str.startswith("a-1")]
    assert given_to(study) == dict(left.to_numpy().tolist())
    assert "consensus: labels of 107 tiles" in str(study.info()["detail"].to_pylist())
    # Another resolution is another grid on the slide, on which its labels mean nothing.
    study.add_slides(path, mpp={Path(path).stem: 1.0})
    study.verify(None)
    assert not study.verify(None).sets.differences


def test_known_labels_are_those_of_tables_too(study: sd.Study, table: pd.DataFrame) -> None:
    study.add_labels(table)
    study.label(labels_from=["consensus", "rois"])
    assert len(study.labels("label = 'benign'").fetchall()) > 0
    with pytest.raises(QueryError, match="did you mean 'benign'"):
        study.labels("label = 'bening'")
    renamed = study.rename_label("benign", "normal")
    assert (renamed.rois, renamed.sets) == (0, (f"consensus ({GRID})",))
    study.label()
    assert set(given_to(study).values()) == {"normal", "tumour", "stroma"}
    # What is added later is renamed, too.
    assert study.add_labels(table).unchanged
    study.rename_label("normal", None)
    study.label()
    assert set(given_to(study).values()) == {"tumour", "stroma"}


def test_what_is_not_as_it_was_added_is_told(study: sd.Study, table: pd.DataFrame, tmp_path: Path) -> None:
    table.to_csv("labels.csv", index=False)
    study.add_labels("labels.csv")
    study.add_labels(table, "frame")
    study.label(labels_from="consensus")
    sets = study.verify(None).sets
    assert (sets.sets, sets.tiles, sets.differences) == (2, 428, ())
    assert sets.unverified == (f"frame ({GRID}): added from pandas DataFrame",)
    (tmp_path / "labels.csv").write_text("tile_id,label\na-1-8-8,x\n")
    assert study.verify(None).sets.unverified == (
        f"consensus ({GRID}): {tmp_path / 'labels.csv'} has changed since",
        f"frame ({GRID}): added from pandas DataFrame",
    )
    study.con.execute("UPDATE tile_labels SET label = 'x' WHERE label = 'tumour' AND grid_x = 3")
    result = typed(study, "slideduck label s.duckdb --verify")
    assert result.exit_code == 1
    assert result.output.splitlines()[-1] == (
        "error: 2 sets of labels differ from what was added; was the study changed by SQL? Add them again with "
        "add-labels --replace, and label"
    )


def test_a_study_of_before_takes_labels(study: sd.Study, table: pd.DataFrame) -> None:
    before = study.labels().df()
    for name in ("tile_labels", "label_sets"):
        study.con.execute(f"DROP TABLE {name}")
    study.con.execute("DROP SEQUENCE label_set_ids")
    study.con.execute("ALTER TABLE label_rule DROP COLUMN labels_from")
    study.con.execute("UPDATE meta SET value = '2' WHERE key = 'schema_version'")
    study.close()
    with sd.open("s.duckdb") as opened:
        pd.testing.assert_frame_equal(opened.labels().df(), before)
        assert opened.label().compared == 0
        opened.add_labels(table)
        opened.label(labels_from="consensus", artifact_labels=())
        assert given_to(opened) == dict(table.dropna().to_numpy().tolist())


@pytest.fixture(scope="module")
def shared(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sd.Study]:
    path = tmp_path_factory.mktemp("shared") / "s.duckdb"
    shutil.copyfile(made, path)
    with sd.open(path) as opened:
        opened.add_labels(pd.DataFrame({"tile_id": ["a-1-8-8"], "label": ["x"]}))
        opened.label(labels_from="consensus", artifact_labels=())
        yield opened


@settings(max_examples=15)
@given(data=st.data())
def test_any_labels_come_back(data: st.DataObject, shared: sd.Study, tiles: pd.DataFrame) -> None:
    names = data.draw(st.lists(st.sampled_from(tiles.tile_id.tolist()), min_size=1, max_size=30))
    label = st.one_of(st.none(), st.sampled_from(["NA", " x ", "x", "é", "', \"", "1", "-"]))
    chosen = {name: data.draw(label) for name in names}
    expected = {k: v.strip() for k, v in chosen.items() if v not in (None, "NA")}
    frame = pd.DataFrame({"tile_id": names, "label": [chosen[name] for name in names]}, dtype=object)
    if not expected:
        with pytest.raises(InputError, match="has a label; give one to a tile at least"):
            shared.add_labels(frame, replace=True)
        return
    report = shared.add_labels(frame, replace=True)
    assert (report.rows, report.repeated) == (len(names), len(names) - len(chosen))
    shared.label()
    assert given_to(shared) == expected
