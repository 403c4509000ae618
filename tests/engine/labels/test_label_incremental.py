"""Labelling again: what did not change is not computed, and what is counted is what the labels say, by every rule."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import slideduck as sd
from tests.campaign import CAMPAIGN, cases
from tests.slides import write_slide

Rows = list[tuple[Any, ...]]
Box = tuple[str, str, int, int, int, int]

#: Tiles of 32 base pixels, side by side and half overlapping.
GRIDS: tuple[dict[str, Any], ...] = ({"tile_um": 32}, {"tile_um": 32, "stride_div": 2})
SLIDES = 30


def write_boxes(path: Path, *boxes: Box) -> Path:
    """Write ROIs that are boxes: name, label, left, top, right and bottom."""
    lines = ["roi_name,x_base,y_base,label"]
    for name, label, left, top, right, bottom in boxes:
        for x, y in ((left, top), (right, top), (right, bottom), (left, bottom)):
            lines.append(f"{name},{x},{y},{label}")
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def add_slides(study: sd.Study, sizes: dict[str, tuple[int, int]]) -> None:
    """Put slides that exist as rows alone into a study, by name and size."""
    for slide, (width, height) in sizes.items():
        study.con.execute(
            "INSERT INTO slides (slide, path, width, height, mpp, level_downsamples) VALUES ($1, $1, $2, $3, 1, [1])",
            [slide, width, height],
        )


def lay_grids(study: sd.Study) -> None:
    for grid in GRIDS:
        study.tile(32, **grid)


@pytest.fixture
def cohort(study: sd.Study, tmp_path: Path) -> sd.Study:
    """Thirty labelled slides of 320 x 256 base pixels with two grids; every third has no ROI file."""
    add_slides(study, {f"s{i:02}": (320, 256) for i in range(SLIDES)})
    for i in range(SLIDES):
        if i % 3 < 2:
            write_boxes(tmp_path / "rois" / f"s{i:02}.csv", *boxes_of(i))
    study.add_rois(tmp_path / "rois")
    lay_grids(study)
    assert study.label().slides == SLIDES * len(GRIDS)
    return study


def boxes_of(i: int) -> Sequence[Box]:
    return (
        ("left", "tumour", 0, 0, 100 + 3 * i, 200),
        ("middle", "stroma", 90, 40 + i, 220, 256),
        ("ink", "pen", 10 * (i % 5), 10, 10 * (i % 5) + 70, 60),
    )


#: The tables that labelling fills, and the view, by names in place of keys.
COMPUTED = {
    "tile_rois": "SELECT slide, grid, roi_set, roi_name, grid_x, grid_y, centre, coverage FROM tile_rois "
    "JOIN rois USING (roi_id) JOIN grids USING (grid_id)",
    "labels": "FROM labels",
    "labelled": "SELECT slide, grid, inputs, counted_by FROM labelled JOIN slides USING (slide_id) "
    "JOIN grids USING (grid_id)",
    "label_counts": "SELECT slide, grid, label, tiles, kept, in_no_roi, in_several_rois FROM label_counts "
    "JOIN slides USING (slide_id) JOIN grids USING (grid_id)",
    "roi_counts": "SELECT slide, grid, roi_set, roi_name, held, won FROM roi_counts "
    "JOIN rois USING (roi_id) JOIN grids USING (grid_id)",
}


def computed(study: sd.Study, where: str = "true", names: Sequence[str] = tuple(COMPUTED)) -> dict[str, Rows]:
    """Return what labelling computed, where a condition holds."""
    return {
        name: study.sql(f"SELECT * FROM ({COMPUTED[name]}) WHERE {where} ORDER BY ALL").fetchall() for name in names
    }


def spoil(study: sd.Study) -> None:
    """Make everything computed wrong, so that what is computed again, and what is not, shows."""
    study.con.execute("UPDATE tile_rois SET coverage = 77")
    study.con.execute("UPDATE label_counts SET tiles = 77")
    study.con.execute("UPDATE roi_counts SET held = 77")


# ------------------------------------------------------------------------------------- what changed


def test_a_study_that_did_not_change_is_not_written(cohort: sd.Study, tmp_path: Path) -> None:
    before = computed(cohort)
    cohort.close()
    content = hashlib.sha256(cohort.path.read_bytes()).hexdigest()
    with sd.open(cohort.path) as study:
        study.add_rois(tmp_path / "rois")
        assert study.label().slides == 0
        assert computed(study) == before
    assert hashlib.sha256(cohort.path.read_bytes()).hexdigest() == content
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("study")] == ["study.duckdb"]


def test_one_changed_file_computes_its_slide_alone(cohort: sd.Study, tmp_path: Path) -> None:
    before = computed(cohort, "slide = 's07'")
    spoil(cohort)
    others = computed(cohort, "slide <> 's07'")
    write_boxes(tmp_path / "rois" / "s07.csv", ("left", "tumour", 0, 0, 64, 64), ("new", "fat", 64, 0, 96, 256))
    cohort.add_rois(tmp_path / "rois")
    assert cohort.label().slides == len(GRIDS)
    assert computed(cohort, "slide <> 's07'") == others
    after = computed(cohort, "slide = 's07'")
    assert after["label_counts"][:3] == [
        ("s07", "32px_32um", "fat", 8, 8, 0, 0),
        ("s07", "32px_32um", "tumour", 4, 4, 0, 0),
        ("s07", "32px_32um", None, 68, 0, 68, 0),
    ]
    assert {row[2] for row in after["labelled"]}.isdisjoint(row[2] for row in before["labelled"])
    write_boxes(tmp_path / "rois" / "s07.csv", *boxes_of(7))
    cohort.add_rois(tmp_path / "rois")
    assert cohort.label().slides == len(GRIDS)
    assert computed(cohort, "slide = 's07'") == before
    assert computed(cohort, "slide <> 's07'") == others


def test_first_and_last_file_of_a_slide(cohort: sd.Study, tmp_path: Path) -> None:
    before = computed(cohort)
    spoil(cohort)
    others = computed(cohort, "slide NOT IN ('s02', 's03')")
    write_boxes(tmp_path / "rois" / "s02.csv", ("all", "fat", 0, 0, 320, 256))
    cohort.add_rois(tmp_path / "rois")
    cohort.remove_rois(tmp_path / "rois" / "s03.csv")
    assert cohort.label().slides == 2 * len(GRIDS)
    assert computed(cohort, "slide NOT IN ('s02', 's03')") == others
    assert cohort.sql("SELECT DISTINCT label, kept FROM labels WHERE slide = 's02'").fetchall() == [("fat", True)]
    assert cohort.sql("SELECT DISTINCT label, kept FROM labels WHERE slide = 's03'").fetchall() == [(None, True)]
    cohort.remove_rois(tmp_path / "rois" / "s02.csv")
    cohort.add_rois(tmp_path / "rois" / "s03.csv")
    assert cohort.label().slides == 2 * len(GRIDS)
    assert cohort.label(anew=True).slides == SLIDES * len(GRIDS)
    assert computed(cohort) == before


def test_a_removed_slide_leaves_the_others_alone(cohort: sd.Study) -> None:
    spoil(cohort)
    others = computed(cohort, "slide <> 's07'")
    cohort.remove_slides("s07")
    assert cohort.label().slides == 0
    assert computed(cohort) == others


def test_a_replaced_slide_is_computed_alone(study: sd.Study, tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    for i in range(4):
        write_slide(slides / f"s{i}.tiff", i, size=(320, 256), mpp=1, levels=1, tile=64)
        write_boxes(tmp_path / "rois" / f"s{i}.csv", ("all", "fat", 0, 0, 320, 256))
    study.add_slides(slides)
    study.add_rois(tmp_path / "rois")
    lay_grids(study)
    study.label()
    spoil(study)
    others = computed(study, "slide <> 's2'")
    write_slide(slides / "s2.tiff", 9, size=(256, 192), mpp=1, levels=1, tile=64)
    study.add_slides(slides)
    assert study.label().slides == len(GRIDS)
    assert computed(study, "slide <> 's2'") == others
    assert computed(study, "slide = 's2'")["label_counts"] == [
        ("s2", "32px_32um", "fat", 8 * 6, 8 * 6, 0, 0),
        ("s2", "32px_32um_stride2", "fat", 15 * 11, 15 * 11, 0, 0),
    ]
    write_slide(slides / "s4.tiff", 4, size=(320, 256), mpp=1, levels=1, tile=64)
    study.add_slides(slides)
    assert study.label().slides == len(GRIDS)
    assert computed(study, "slide NOT IN ('s2', 's4')") == others


def test_another_grid_leaves_the_first_alone(cohort: sd.Study) -> None:
    spoil(cohort)
    before = computed(cohort)
    cohort.tile(64, tile_um=64)
    assert cohort.label().slides == SLIDES
    assert computed(cohort, "grid <> '64px_64um'") == before


# ------------------------------------------------------------------------- counts, by every rule

#: By name: the tiles that an ROI holds, in plain SQL on tile_rois.
HOLDS: dict[str, tuple[dict[str, Any], str]] = {
    "centre": ({"rule": "centre"}, "centre"),
    "touched": ({"rule": "coverage", "threshold": 1e-9}, "coverage >= 1e-9"),
    "half": ({"rule": "coverage", "threshold": 0.5}, "coverage >= 0.5"),
    "whole": ({"rule": "coverage", "threshold": 1.0}, "coverage >= 1.0"),
}
OVERLAPS: tuple[dict[str, Any], ...] = (
    {"overlap": "smallest"},
    {"overlap": "largest"},
    {"overlap": "exclude"},
    {"overlap": "priority", "priority": ("stroma", "fat")},
)
METHODS = ("auto", "inside", "outside", "ignore")
ARTIFACTS: tuple[tuple[str, ...], ...] = ((), ("pen",))
SETS = (("default",), ("second",), ("default", "second"), ("second", "default"))


@pytest.fixture
def mixed(study: sd.Study, tmp_path: Path) -> sd.Study:
    """Slides of every kind: in both sets of ROIs, in one, in none; artifacts alone; smaller than a tile."""
    add_slides(
        study,
        dict.fromkeys(("both", "first_only", "second_only", "bare", "dirty", "apart"), (320, 256))
        | {"small": (31, 200), "one_tile": (32, 32)},
    )
    for name in ("both", "first_only"):
        write_boxes(
            tmp_path / "first" / f"{name}.csv",
            ("a", "tumour", 0, 0, 200, 150),
            ("b", "stroma", 20, 16, 180, 200),
            ("c", "", 100, 90, 300, 240),
            ("d", "tumour", 190, 10, 290, 120),
            ("ink", "pen", 15, 15, 90, 70),
            ("dot", "fat", 2, 2, 4, 4),
        )
    for name in ("both", "second_only"):
        write_boxes(
            tmp_path / "second" / f"{name}.csv", ("a", "fat", 10, 0, 160, 256), ("e", "stroma", 144, 40, 320, 200)
        )
    for name in ("small", "one_tile"):
        write_boxes(tmp_path / "first" / f"{name}.csv", ("a", "tumour", 0, 0, 31, 31), ("b", "stroma", 0, 0, 30, 32))
        write_boxes(tmp_path / "second" / f"{name}.csv", ("a", "fat", 0, 0, 20, 32))
    write_boxes(tmp_path / "first" / "dirty.csv", ("ink", "pen", 0, 0, 100, 100))
    write_boxes(
        tmp_path / "first" / "apart.csv",
        ("l", "fat", 0, 0, 64, 256),
        ("m", "", 64, 0, 96, 96),
        ("r", "pen", 96, 0, 99, 9),
    )
    study.add_rois(tmp_path / "first")
    study.add_rois(tmp_path / "second", roi_set="second")
    lay_grids(study)
    return study


COUNTED_LABELS = """
SELECT grid_id, slide, label, tiles, kept, in_no_roi, in_several_rois
FROM label_counts JOIN slides USING (slide_id) ORDER BY ALL
"""
RECOUNTED_LABELS = """
SELECT
    grid_id, slide, label, count(*), count(*) FILTER (WHERE kept), count(*) FILTER (WHERE n_rois = 0),
    count(*) FILTER (WHERE n_rois > 1)
FROM labels_now JOIN grids USING (grid) GROUP BY ALL ORDER BY ALL
"""
COUNTED_ROIS = """
SELECT roi_counts.grid_id, rois.slide, roi_set, roi_name, held, won
FROM roi_counts JOIN rois USING (roi_id) JOIN slides USING (slide_id) ORDER BY ALL
"""
RECOUNTED_ROIS = """
WITH in_force AS (
    SELECT slide, arg_min(roi_set, list_position($roi_sets, roi_set)) AS roi_set
    FROM rois WHERE list_contains($roi_sets, roi_set) GROUP BY slide
),
held AS (SELECT grid_id, roi_id, count(*) AS tiles FROM tile_rois WHERE {holds} GROUP BY ALL),
won AS (SELECT grid_id, slide, roi_name, count(*) AS tiles FROM labels_now JOIN grids USING (grid) GROUP BY ALL)
SELECT grid_id, slide, roi_set, roi_name, coalesce(held.tiles, 0), coalesce(won.tiles, 0)
FROM rois SEMI JOIN in_force USING (slide, roi_set) CROSS JOIN (SELECT grid_id FROM grids)
LEFT JOIN held USING (grid_id, roi_id) LEFT JOIN won USING (grid_id, slide, roi_name)
WHERE parent IS NULL ORDER BY ALL
"""


def every_rule() -> Iterator[tuple[str, dict[str, Any], str, tuple[str, ...], tuple[str, ...]]]:
    """Return rules of which any two settings meet in every way; in a campaign all rules, so that any three do."""
    for numbers in itertools.product(range(4), range(4), range(4), range(2)):
        holds, overlap, method, artifacts = numbers
        order = sum(numbers) % 4
        if not CAMPAIGN:
            # Two orthogonal Latin squares: sums in the field of four elements, where 2 times 0 to 3 is 0, 2, 3, 1.
            order = holds ^ (0, 2, 3, 1)[overlap]
            if method != holds ^ overlap:
                continue
        yield list(HOLDS)[holds], OVERLAPS[overlap], METHODS[method], ARTIFACTS[artifacts], SETS[order]


@pytest.mark.slow
def test_counts_are_those_of_the_labels_by_every_rule(mixed: sd.Study) -> None:
    mixed.label()
    pairs = mixed.sql("FROM tile_rois ORDER BY ALL").fetchall()
    seen = set()
    for said in every_rule():
        holds, overlap, method, artifacts, roi_sets = said
        rule, condition = HOLDS[holds]
        report = mixed.label(**rule, **overlap, method=method, artifact_labels=artifacts, roi_sets=roi_sets)
        assert report.slides == 0, said
        # What the view says under this rule, once for both counts.
        mixed.con.execute("CREATE OR REPLACE TEMP TABLE labels_now AS FROM labels")
        counts = mixed.sql(COUNTED_LABELS).fetchall()
        assert counts == mixed.sql(RECOUNTED_LABELS).fetchall(), said
        recounted = mixed.sql(RECOUNTED_ROIS.format(holds=condition), {"roi_sets": list(roi_sets)}).fetchall()
        assert mixed.sql(COUNTED_ROIS).fetchall() == recounted, said
        seen.add(tuple(counts))
    assert mixed.sql("FROM tile_rois ORDER BY ALL").fetchall() == pairs
    assert len(seen) > cases(test=24, campaign=100)  # Nearly every rule counts otherwise.


def test_rules_count_what_was_drawn(mixed: sd.Study) -> None:
    """Check some counts by hand, since the recount above reads the view labels."""

    def counted(slide: str, **rule: Any) -> Rows:
        mixed.label(**rule, reset=True)
        return mixed.sql(
            "SELECT label, tiles, kept, in_no_roi, in_several_rois FROM label_counts JOIN slides USING (slide_id) "
            "JOIN grids USING (grid_id) WHERE slide = $slide AND grid = '32px_32um' ORDER BY ALL",
            {"slide": slide},
        ).fetchall()

    # 10 x 8 tiles; l holds 2 x 8 of them, m 1 x 3, and r no centre.
    assert counted("apart") == [("fat", 16, 16, 0, 0), (None, 64, 3, 61, 0)]
    assert counted("apart", method="outside") == [(None, 80, 61, 61, 0)]
    assert counted("apart", method="ignore", artifact_labels=["fat"]) == [(None, 80, 64, 61, 0)]
    assert counted("apart", rule="coverage", threshold=1e-9) == [
        ("fat", 16, 16, 0, 0),
        ("pen", 1, 1, 0, 0),
        (None, 63, 3, 60, 0),
    ]
    # Only artifacts: 3 x 3 centres below 100, and the rest as on a slide without ROIs.
    assert counted("dirty", artifact_labels=["pen"]) == [(None, 80, 71, 71, 0)]
    assert counted("dirty") == [("pen", 9, 9, 0, 0), (None, 71, 0, 71, 0)]
    assert counted("bare") == [(None, 80, 80, 80, 0)]
    assert counted("bare", method="inside") == [(None, 80, 0, 80, 0)]
    # a holds 5 x 8 centres (16 to 144), e 6 x 5 (144 to 304, and 48 to 176): the column at 144 is in both.
    assert counted("second_only", roi_sets=["second"], overlap="exclude") == [
        ("fat", 35, 35, 0, 0),
        ("stroma", 25, 25, 0, 0),
        (None, 20, 5, 15, 5),
    ]
    assert counted("second_only") == [(None, 80, 80, 80, 0)]
    assert counted("small") == []
    assert counted("one_tile", roi_sets=["second", "default"]) == [("fat", 1, 1, 0, 0)]


# ------------------------------------------------------------------------------------ sets of ROIs


def test_first_set_that_a_slide_has_labels_it(mixed: sd.Study) -> None:
    def names(slide: str) -> set[str]:
        rows = mixed.sql("SELECT DISTINCT roi_name FROM labels WHERE slide = $s AND n_rois > 0", {"s": slide})
        return {name for (name,) in rows.fetchall()}

    first, second = {"a", "b", "c", "d", "ink"}, {"a", "e"}
    expected: dict[tuple[str, ...], tuple[set[str], set[str], set[str]]] = {
        ("default",): (first, first, set()),
        ("second",): (second, set(), second),
        ("default", "second"): (first, first, second),
        ("second", "default"): (second, first, second),
    }
    assert mixed.label().slides == 8 * len(GRIDS)
    for roi_sets, wanted in expected.items():
        assert mixed.label(roi_sets=roi_sets).slides == 0
        assert tuple(names(slide) for slide in ("both", "first_only", "second_only")) == wanted, roi_sets
        # Pairs of every set are there whichever is in force.
        assert mixed.sql("SELECT count(DISTINCT roi_set) FROM tile_rois JOIN rois USING (roi_id)").fetchall() == [(2,)]


def test_a_file_of_one_set_leaves_the_other_set_as_it_was(mixed: sd.Study, tmp_path: Path) -> None:
    mixed.label(roi_sets=["second", "default"])
    before = computed(mixed)
    spoil(mixed)
    others = computed(mixed, "slide <> 'both'")
    write_boxes(tmp_path / "second" / "both.csv", ("a", "fat", 0, 0, 32, 32))
    mixed.add_rois(tmp_path / "second", roi_set="second")
    assert mixed.label(roi_sets=["second", "default"]).slides == len(GRIDS)
    assert computed(mixed, "slide <> 'both'") == others
    assert computed(mixed, "slide = 'both' AND roi_set = 'default'", ["tile_rois"]) == {
        "tile_rois": [row for row in before["tile_rois"] if row[0] == "both" and row[2] == "default"]
    }
    # Without its file in the second set, the slide is labelled by the first.
    mixed.remove_rois(tmp_path / "second" / "both.csv", roi_set="second")
    mixed.label(roi_sets=["second", "default"])
    assert {row[2] for row in computed(mixed, "slide = 'both'")["tile_rois"]} == {"default"}
    mixed.label(roi_sets=["second", "default"], anew=True)
    in_force = computed(mixed, "slide = 'both'")
    mixed.label(reset=True)
    alone = computed(mixed, "slide = 'both'")
    assert in_force["labels"] == alone["labels"]
    assert in_force["label_counts"] == alone["label_counts"]
