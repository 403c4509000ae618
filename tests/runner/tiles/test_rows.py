"""Which tiles train and which validate: by split or fold, never a patient on both sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slideduck.betons import Sidecar, read_sidecar
from slideduck.errors import ConfigError, QueryError, RunError
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tiles.conditions import COLUMNS, tile_table, tiles_where
from slideduck.runner.tiles.rows import class_weights, labelled_rows, run_rows
from tests.runner.betons import TileSpec, stripes, write_beton

BETON = Path("tiles.beton")
# Slide A: 6 tiles, of which one without a label; B: 3; C: 2, of which one without.
LABELS = {"A": [0, 1, 0, 1, -1, 0], "B": [1, 1, 0], "C": [0, -1]}


@pytest.fixture
def sidecar_of(tmp_path: Path):  # type: ignore[no-untyped-def]
    def write(**kwargs) -> Sidecar:  # type: ignore[no-untyped-def]
        image = stripes(np.random.default_rng(0), across=False)
        tiles = [TileSpec(slide, label, image) for slide, labels in LABELS.items() for label in labels]
        return read_sidecar(write_beton(tmp_path / "tiles.beton", tiles, **kwargs))

    return write


def test_splits_give_the_sides_and_tiles_without_a_label_are_counted(sidecar_of) -> None:  # type: ignore[no-untyped-def]
    sidecar = sidecar_of(split_of={"A": "train", "B": "val", "C": "test"})
    rows = run_rows(sidecar, TrainConfig(), BETON)
    assert rows.train.tolist() == [0, 1, 2, 3, 5]
    assert rows.val.tolist() == [6, 7, 8]
    assert rows.unlabelled == 1
    rows = run_rows(sidecar, TrainConfig(train_split="val", val_split="test"), BETON)
    assert (rows.train.tolist(), rows.val.tolist(), rows.unlabelled) == ([6, 7, 8], [9], 1)


def test_a_fold_validates_whatever_the_split(sidecar_of) -> None:  # type: ignore[no-untyped-def]
    sidecar = sidecar_of(split_of={"A": "train", "B": "train", "C": "train"}, fold_of={"A": 0, "B": 1})
    rows = run_rows(sidecar, TrainConfig(fold=0), BETON)
    # Slide C is in no fold: it is on neither side.
    assert (rows.train.tolist(), rows.val.tolist()) == ([6, 7, 8], [0, 1, 2, 3, 5])


def test_a_side_without_tiles_is_refused_with_what_there_is(sidecar_of) -> None:  # type: ignore[no-untyped-def]
    sidecar = sidecar_of(split_of={"A": "train", "B": "train", "C": None})
    with pytest.raises(ConfigError) as error:
        run_rows(sidecar, TrainConfig(), BETON)
    assert str(error.value) == (
        "tiles.beton: no labelled tile to validate with in split 'val'; it has split none: 1 tile, "
        "split train: 8 tiles and 2 without a label; choose another with `val_split`, or split the study "
        "(slideduck split STUDY) and export again"
    )
    with pytest.raises(ConfigError) as error:
        run_rows(sidecar, TrainConfig(train_split="learn"), BETON)
    assert str(error.value).startswith("tiles.beton: no labelled tile to train with in split 'learn'; it has ")
    with pytest.raises(ConfigError) as error:
        run_rows(sidecar, TrainConfig(fold=3), BETON)
    assert str(error.value) == (
        "tiles.beton: no labelled tile to train with for fold 3; it has fold none: 9 tiles and 2 without a label; "
        "choose another with `fold`, or split the study into folds (slideduck split STUDY --folds 5) "
        "and export again"
    )


def test_a_patient_on_both_sides_is_refused(sidecar_of) -> None:  # type: ignore[no-untyped-def]
    sidecar = sidecar_of(split_of={"A": "train", "B": "val", "C": "val"}, patient_of={"A": "P1", "B": "P2", "C": "P1"})
    with pytest.raises(RunError) as error:
        run_rows(sidecar, TrainConfig(), BETON)
    assert str(error.value) == (
        "patient 'P1': tiles in training and in validation; split by patient (slideduck split STUDY) and export again"
    )


def test_labelled_rows_of_a_split_or_of_all(sidecar_of) -> None:  # type: ignore[no-untyped-def]
    sidecar = sidecar_of(split_of={"A": "train", "B": "val", "C": "val"})
    assert labelled_rows(sidecar, None, BETON).tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert labelled_rows(sidecar, "val", BETON).tolist() == [6, 7, 8, 9]
    with pytest.raises(ConfigError) as error:
        labelled_rows(sidecar, "test", BETON)
    assert str(error.value) == (
        "tiles.beton: no labelled tile in split 'test'; it has split train: 5 tiles, split val: 4 tiles "
        "and 2 without a label"
    )


def test_weights_are_inverse_to_frequency_with_mean_one_over_tiles() -> None:
    labels = np.repeat([0, 1, 3], [60, 30, 10])
    weights = class_weights(labels, 4, "loss")
    assert weights.tolist() == pytest.approx([100 / 180, 100 / 90, 0, 100 / 30])
    assert weights[labels].mean() == pytest.approx(1)
    assert class_weights(labels, 4, "none").tolist() == [1, 1, 1, 1]


def test_a_condition_sees_every_column_of_the_side_car(sidecar_of) -> None:  # type: ignore[no-untyped-def]
    sidecar = sidecar_of(
        split_of={"A": "train", "B": "val", "C": None}, fold_of={"A": 1}, patient_of={"B": "P"}, site_of={"A": "X"}
    )
    table = tile_table(sidecar)
    assert tuple(table.column_names) == COLUMNS
    assert table.slice(4, 3).to_pylist() == [
        {
            "row": row, "tile_id": f"{slide}-{row * 32 + 16}-16", "slide": slide, "patient": patient, "site": site,
            "split": split, "fold": fold, "label": label, "class": number, "roi_name": None, "grid_x": row, "grid_y": 0,
            "loc_x": row * 32 + 16, "loc_y": 16,
        }
        for row, slide, patient, site, split, fold, label, number in (
            (4, "A", "A", "X", "train", 1, None, None),
            (5, "A", "A", "X", "train", 1, "stripes", 0),
            (6, "B", "P", None, "val", None, "chequers", 1),
        )
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("site = 'X'", [0, 1, 2, 3, 4, 5]),
        # Slides B and C have no site: NULL is not true.
        ("site != 'X'", []),
        ("label IS NULL", [4, 10]),
        ("class = 1 AND grid_x < 4 -- a comment", [1, 3]),
        ("slide IN (SELECT slide FROM tiles GROUP BY slide HAVING count(*) < 4)", [6, 7, 8, 9, 10]),
        ("row % 5 = 0 OR tile_id LIKE 'C-%'", [0, 5, 9, 10]),
    ],
)
def test_a_condition_chooses_tiles(where: str, rows: list[int], sidecar_of) -> None:  # type: ignore[no-untyped-def]
    assert np.flatnonzero(tiles_where(sidecar_of(site_of={"A": "X"}), where, BETON)).tolist() == rows


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("sit = 'X'", 'Binder Error: Referenced column "sit" not found in FROM clause!'),
        ("grid_x", "it is of type INTEGER, and a condition is true or false"),
        ("true, false", "it has 2 columns, and a condition is true or false"),
        ("true; DROP TABLE tiles", "it is more than one expression"),
        ("", "Parser Error: SELECT clause without selection list"),
        ("random() < 0.5", "random() gives another answer each time"),
        ("current_date > DATE '2020-01-01'", "current_date() gives another answer each time"),
        ("row IN (SELECT row FROM tiles USING SAMPLE 2 ROWS)", "a sample gives another answer each time"),
        (
            "slide IN (SELECT content FROM read_text('/etc/hostname'))",
            "a subquery may read the table tiles alone, and not read_text()",
        ),
        ("CAST(slide AS INTEGER) = 1", "Conversion Error: Could not convert string 'A' to INT32 when casting from "),
    ],
)
def test_what_is_no_condition_is_refused(where: str, reason: str, sidecar_of) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(QueryError) as error:
        tiles_where(sidecar_of(), where, BETON)
    assert str(error.value).startswith(f"tiles.beton: the condition {where!r} cannot be used: {reason}")
    assert str(error.value).endswith(
        "; give one SQL condition on the columns row, tile_id, slide, patient, site, split, fold, label, class, "
        "roi_name, grid_x, grid_y, loc_x, loc_y"
    )


def test_a_label_that_is_no_class_of_the_beton_is_refused_with_the_nearest(sidecar_of) -> None:  # type: ignore[no-untyped-def]
    where = "label != 'Stripe' AND slide = 'A'"
    with pytest.raises(QueryError) as error:
        tiles_where(sidecar_of(), where, BETON)
    assert str(error.value) == (
        f"tiles.beton: the condition {where!r} names the label 'Stripe', which is no class of this beton; did you mean "
        "'stripes'? Its classes are 'stripes', 'chequers'"
    )
    assert tiles_where(sidecar_of(), where.replace("Stripe", "stripes"), BETON).sum() == 2


def test_a_condition_narrows_both_sides_and_what_it_leaves_out_is_counted(sidecar_of) -> None:  # type: ignore[no-untyped-def]
    sidecar = sidecar_of(split_of={"A": "train", "B": "val", "C": "test"})
    rows = run_rows(sidecar, TrainConfig(where="label = 'stripes'"), BETON)
    assert (rows.train.tolist(), rows.val.tolist()) == ([0, 2, 5], [8])
    # The tile without a label does not meet the condition either; tiles of slide C are on neither side.
    assert (rows.unlabelled, rows.left_out) == (0, 4)
    sidecar = sidecar_of(fold_of={"A": 0, "B": 1, "C": 1})
    rows = run_rows(sidecar, TrainConfig(fold=1, where="slide != 'C'"), BETON)
    assert (rows.train.tolist(), rows.val.tolist(), rows.left_out) == ([0, 1, 2, 3, 5], [6, 7, 8], 1)


def test_conditions_choose_the_sides_in_place_of_the_split(sidecar_of) -> None:  # type: ignore[no-untyped-def]
    sites = {"A": "X", "B": "Y", "C": "Z"}
    sidecar = sidecar_of(split_of=dict.fromkeys("ABC"), site_of=sites)
    rows = run_rows(sidecar, TrainConfig(train_where="site IN ('X', 'Z')", val_where="site = 'Y'"), BETON)
    assert (rows.train.tolist(), rows.val.tolist(), rows.unlabelled) == ([0, 1, 2, 3, 5, 9], [6, 7, 8], 2)
    sidecar = sidecar_of(split_of={"A": "train", "B": "val", "C": "val"}, site_of=sites)
    rows = run_rows(sidecar, TrainConfig(val_where="site = 'Z'"), BETON)
    assert (rows.train.tolist(), rows.val.tolist()) == ([0, 1, 2, 3, 5], [9])


def test_conditions_that_share_a_patient_or_leave_no_tile_are_refused(sidecar_of) -> None:  # type: ignore[no-untyped-def]
    sidecar = sidecar_of(split_of={"A": "train", "B": "val", "C": "val"})
    with pytest.raises(RunError) as leak:
        run_rows(sidecar, TrainConfig(train_where="grid_x % 2 = 0", val_where="grid_x % 2 = 1"), BETON)
    assert str(leak.value) == (
        "patient 'A', 'B': tiles in training and in validation; "
        "give `train_where` and `val_where` that keep whole patients apart"
    )
    with pytest.raises(ConfigError) as error:
        run_rows(sidecar, TrainConfig(val_where="site = 'Y'"), BETON)
    assert str(error.value) == (
        "tiles.beton: no labelled tile to validate with where site = 'Y'; it has split train: 5 tiles, "
        "split val: 4 tiles and 2 without a label; choose others with `val_where`"
    )
    with pytest.raises(ConfigError) as error:
        run_rows(sidecar, TrainConfig(where="slide != 'A'"), BETON)
    assert str(error.value) == (
        "tiles.beton: no labelled tile to train with in split 'train' that meets `where` \"slide != 'A'\"; it has "
        "split train: 5 tiles, split val: 4 tiles and 2 without a label; choose another with `train_split`, or split "
        "the study (slideduck split STUDY) and export again"
    )
    with pytest.raises(ConfigError) as error:
        labelled_rows(sidecar, "val", BETON, "slide = 'A'")
    assert str(error.value) == (
        "tiles.beton: no labelled tile in split 'val' where slide = 'A'; it has split train: 5 tiles, "
        "split val: 4 tiles and 2 without a label"
    )
    assert labelled_rows(sidecar, "val", BETON, "slide = 'B'").tolist() == [6, 7, 8]
