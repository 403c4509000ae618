"""What is asked of labels, against answers worked out here from the contract alone."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import shapely
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import slideduck as sd
from slideduck.errors import QueryError, SlideduckError, StudyError
from slideduck.labels.query import COUNT_COLUMNS
from tests.campaign import cases

#: Slides of 60 × 60 base pixels in a grid of 6 × 6 tiles.
LENGTH, SIDE, SLIDES = 60, 10, 3
GRID = "10px_10um"
MPP = 1.0
PX_MM2 = MPP**2 / 1e6


@dataclass(frozen=True)
class Box:
    """An ROI that is a rectangle: what it holds and covers needs no library."""

    name: str
    label: str | None
    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.bottom - self.top)

    @property
    def shape(self) -> shapely.Polygon:
        return shapely.box(self.left, self.top, self.right, self.bottom)

    def holds(self, x: float, y: float) -> bool:
        return self.left <= x <= self.right and self.top <= y <= self.bottom

    def coverage(self, x: int, y: int) -> float:
        """Return the part that it covers of the tile in column x and row y."""
        width = min(self.right, (x + 1) * SIDE) - max(self.left, x * SIDE)
        height = min(self.bottom, (y + 1) * SIDE) - max(self.top, y * SIDE)
        return max(width, 0) * max(height, 0) / SIDE**2


@dataclass(frozen=True)
class Rule:
    """A rule, and what it makes of ROIs, written from the contract."""

    rule: str = "centre"
    threshold: float = 0.5
    overlap: str = "smallest"
    priority: tuple[str, ...] = ()
    method: str = "auto"
    artifact_labels: tuple[str, ...] = ()

    def holders(self, boxes: Sequence[Box], x: int, y: int) -> list[Box]:
        """Return the ROIs that a tile is in, in the order in which they win it."""
        middle = ((x + 0.5) * SIDE, (y + 0.5) * SIDE)
        inside = [b for b in boxes if (b.holds(*middle) if self.rule == "centre" else self._covers(b, x, y))]
        covered = {b.name: -b.coverage(x, y) if self.overlap == "largest" else 0.0 for b in inside}
        return sorted(inside, key=lambda b: (covered[b.name], *self.precedence(b)))

    def _covers(self, box: Box, x: int, y: int) -> bool:
        return box.coverage(x, y) >= self.threshold

    def precedence(self, box: Box) -> tuple[int, float, str]:
        place = len(self.priority)
        if self.overlap == "priority" and box.label in self.priority:
            place = self.priority.index(box.label)
        return place, box.area, box.name

    def label(self, holders: Sequence[Box], *, by_method: bool = True) -> str | None:
        """Return the label that a tile gets from the ROIs that it is in, the winner first."""
        if not holders or any(b.label in self.artifact_labels for b in holders if b.label is not None):
            return None
        if by_method and self.method == "outside":
            return None
        if self.overlap == "exclude" and len({b.label for b in holders}) > 1:
            return None
        return holders[0].label

    def options(self, labels: Collection[str | None]) -> dict[str, Any]:
        """Return the rule as `label` takes it, which refuses labels that no ROI has."""
        priority, artifacts = (
            tuple(n for n in names if n in labels) for names in (self.priority, self.artifact_labels)
        )
        overlap = "smallest" if self.overlap == "priority" and not priority else self.overlap
        return {**vars(self), "overlap": overlap, "priority": priority, "artifact_labels": artifacts}


RULES = [
    Rule(),
    Rule(overlap="exclude"),
    Rule(overlap="largest", artifact_labels=("pen",)),
    Rule(overlap="priority", priority=("pen", "stroma"), method="outside"),
    Rule("coverage", 0.25, "largest"),
    Rule("coverage", 0.5, "exclude", artifact_labels=("pen",)),
    Rule("coverage", 0.75, artifact_labels=("pen", "stroma"), method="inside"),
]

Boxes = list[Box]


@st.composite
def boxes(draw: st.DrawFn, most: int = 5) -> Boxes:
    """Draw rectangles whose edges often run along borders and centres of tiles; some leave the slide."""
    coordinate = st.one_of(st.integers(-1, 13).map(lambda i: i * SIDE / 2), st.integers(-4, LENGTH + 4).map(float))
    result = []
    for i in draw(st.permutations(range(draw(st.integers(0, most))))):
        x, y = (
            sorted(draw(st.lists(coordinate, min_size=2, max_size=2, unique=True))),
            sorted(draw(st.lists(coordinate, min_size=2, max_size=2, unique=True))),
        )
        if x[1] > 0 and y[1] > 0 and x[0] < LENGTH and y[0] < LENGTH:
            label = draw(st.sampled_from(["tumour", "stroma", "pen", None]))
            result.append(Box(f"r{i}", label, x[0], y[0], x[1], y[1]))
    return result


@dataclass
class Readers:
    """A study of slides that exist as rows alone, whose ROIs can be drawn anew for two readers."""

    study: sd.Study
    folder: Path
    sets: dict[str, list[Boxes]] = field(default_factory=dict)
    rule: Rule = field(default_factory=Rule)

    def draw(self, sets: dict[str, list[Boxes]], rule: Rule, order: Sequence[str]) -> None:
        """Put ROIs in place of those there are, and label by the sets in their order."""
        self.study.con.execute("DELETE FROM rois")
        self.study.con.execute("DELETE FROM roi_files")
        for table in ("tile_rois", "labelled", "label_counts", "roi_counts"):
            self.study.con.execute(f"DELETE FROM {table}")
        for name, slides in sets.items():
            files = []
            for i, drawn in enumerate(slides):
                if drawn:
                    files.append(self.folder / f"{name}-{i}.csv")
                    write_boxes(files[-1], f"s{i}", drawn)
            if files:
                self.study.add_rois(files, holes="explicit", roi_set=name)
        self.sets, self.rule = sets, rule
        labels = {box.label for slides in sets.values() for drawn in slides for box in drawn}
        self.study.label(roi_sets=order, **rule.options(labels))

    def labels(self, name: str, *, by_method: bool = True) -> list[list[tuple[str | None, Boxes]]]:
        """Return the label and the ROIs of every tile of every slide by one set, in the order of y, x."""
        return [
            [
                (self.rule.label(holders, by_method=by_method), holders)
                for y, x in itertools.product(range(LENGTH // SIDE), repeat=2)
                for holders in [self.rule.holders(drawn, x, y)]
            ]
            for drawn in self.sets[name]
        ]


def write_boxes(path: Path, slide: str, drawn: Boxes) -> None:
    lines = ["slide,roi_name,x_base,y_base,label"]
    for b in drawn:
        corners = ((b.left, b.top), (b.right, b.top), (b.right, b.bottom), (b.left, b.bottom))
        lines += [f"{slide},{b.name},{x!r},{y!r},{b.label or ''}" for x, y in corners]
    path.write_text("\n".join(lines) + "\n")


def add_slide(study: sd.Study, slide: str, width: int = LENGTH, height: int = LENGTH, mpp: float = MPP) -> None:
    study.con.execute(
        "INSERT INTO slides (slide, path, width, height, mpp, level_downsamples, fingerprint) "
        "VALUES ($1, $1, $2, $3, $4, [1], $1)",
        [slide, width, height, mpp],
    )


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Readers]:
    folder = tmp_path_factory.mktemp("readers")
    with sd.open(folder / "study.duckdb") as study:
        for i in range(SLIDES):
            add_slide(study, f"s{i}")
        study.tile(SIDE, tile_um=SIDE)
        yield Readers(study, folder)


def tiles_of(slide: int) -> list[str]:
    return [
        f"s{slide}-{x * SIDE + SIDE // 2}-{y * SIDE + SIDE // 2}"
        for y, x in itertools.product(range(LENGTH // SIDE), repeat=2)
    ]


drawn_cases = settings(
    max_examples=cases(4, 80),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
slides_of_boxes = st.lists(boxes(), min_size=SLIDES, max_size=SLIDES)


# -------------------------------------------------------------------------------------------- tiles and ROIs


@pytest.mark.parametrize("rule", RULES)
@drawn_cases
@given(slides=slides_of_boxes.filter(any))
def test_tiles_and_rois_are_those_worked_out_by_hand(readers: Readers, slides: list[Boxes], rule: Rule) -> None:
    readers.draw({"reader_a": slides}, rule, ["reader_a"])
    found = readers.labels("reader_a")
    check_counts(readers, found)
    check_conflicts(readers, found)
    check_rois(readers, found)
    check_histogram(readers, found, bins=4)
    check_histogram(readers, found, bins=7)
    check_area(readers)


def check_counts(readers: Readers, found: list[list[tuple[str | None, Boxes]]]) -> None:
    study = readers.study
    wanted = Counter(label for tiles in found for label, _ in tiles)
    rows = study.counts().to_pylist()
    assert {row["label"]: row["tiles"] for row in rows} == wanted
    for row in rows:
        assert row["area_mm2"] == pytest.approx(row["tiles"] * SIDE**2 * PX_MM2, rel=1e-12)
    # The table that the labelling counted, and the tiles themselves.
    for columns in (("label",), ("slide", "label"), ("patient", "site", "split", "fold"), ("grid",)):
        assert study.counts(columns).equals(study.counts(columns, where="true")), columns
    named = Counter((holders[0].name if holders else None) for tiles in found for _, holders in tiles)
    assert {row["roi_name"]: row["tiles"] for row in study.counts(("roi_name",)).to_pylist()} == named


def check_conflicts(readers: Readers, found: list[list[tuple[str | None, Boxes]]]) -> None:
    wanted = {
        tile: (
            label,
            [b.name for b in holders],
            [b.label for b in holders],
            [b.coverage(i % (LENGTH // SIDE), i // (LENGTH // SIDE)) for b in holders],
        )
        for slide, tiles in enumerate(found)
        for i, (tile, (label, holders)) in enumerate(zip(tiles_of(slide), tiles, strict=True))
        if len(holders) > 1
    }
    rows = readers.study.conflicts(differing=False).to_arrow_table().to_pylist()
    assert [row["tile_id"] for row in rows] == list(wanted)
    for row in rows:
        label, names, labels, coverages = wanted[row["tile_id"]]
        assert (row["label"], row["roi_names"], row["labels"]) == (label, names, labels)
        assert row["coverages"] == pytest.approx(coverages, abs=1e-9)
        assert row["labels_differ"] == (len(set(labels)) > 1)
    differing = readers.study.conflicts().to_arrow_table().to_pylist()
    assert differing == [row for row in rows if row["labels_differ"]]
    of_slide = readers.study.conflicts(slide="s1", differing=False).to_arrow_table().to_pylist()
    assert of_slide == [row for row in rows if row["slide"] == "s1"]


def check_rois(readers: Readers, found: list[list[tuple[str | None, Boxes]]]) -> None:
    wanted = []
    for slide, drawn in enumerate(readers.sets["reader_a"]):
        held = Counter(b.name for _, holders in found[slide] for b in holders)
        won = Counter(holders[0].name for _, holders in found[slide] if holders)
        wanted += [
            (f"s{slide}", b.name, b.label, held[b.name], won[b.name]) for b in sorted(drawn, key=lambda b: b.name)
        ]
    rows = readers.study.rois().to_pylist()
    assert [(r["slide"], r["roi_name"], r["label"], r["held"], r["won"]) for r in rows] == wanted
    empty = readers.study.rois(empty=True).to_pylist()
    assert empty == [row for row in rows if row["held"] == 0]
    assert readers.study.rois(slide="s2").to_pylist() == [row for row in rows if row["slide"] == "s2"]


def check_histogram(readers: Readers, found: list[list[tuple[str | None, Boxes]]], bins: int) -> None:
    wanted: Counter[tuple[str | None, int]] = Counter()
    for tiles in found:
        for i, (label, holders) in enumerate(tiles):
            if holders:
                coverage = holders[0].coverage(i % (LENGTH // SIDE), i // (LENGTH // SIDE))
                wanted[label, math.floor(round(coverage * bins, 9))] += 1
    rows = readers.study.coverage_histogram(bins).to_pylist()
    labels = sorted({label for label, _ in wanted}, key=lambda name: (name is None, name or ""))
    assert [(r["label"], r["tiles"]) for r in rows] == [(n, wanted[n, b]) for n in labels for b in range(bins + 1)]
    edges = [*(pytest.approx(b / bins) for b in range(bins + 1)), 1.0]
    for row, b in zip(rows, itertools.cycle(range(bins + 1)), strict=False):
        assert (row["coverage_from"], row["coverage_to"]) == (edges[b], edges[b + 1])


def test_a_coverage_on_a_border_is_in_the_bin_above_it(readers: Readers) -> None:
    # 0.29 * 100 is a little less than 29 in floating point.
    strips = [Box(f"r{i}", "tumour", 10.0 * i, 0, 10 * i + width, 10) for i, width in enumerate((2.9, 5.7, 10, 0.1))]
    readers.draw({"reader_a": [strips, [], []]}, Rule("coverage", 0.001), ["reader_a"])
    rows = readers.study.coverage_histogram(100).to_pylist()
    assert [(row["coverage_from"], row["coverage_to"]) for row in rows if row["tiles"]] == [
        (0.01, 0.02),
        (0.29, 0.3),
        (0.57, 0.58),
        (1.0, 1.0),
    ]


def check_area(readers: Readers) -> None:
    wanted: dict[tuple[str | None, str], tuple[int, float, float]] = {}
    slide_shape = shapely.box(0, 0, LENGTH, LENGTH)
    for slide, drawn in enumerate(readers.sets["reader_a"]):
        for label in {b.label for b in drawn}:
            own = [b for b in drawn if b.label == label]
            covered = shapely.union_all([b.shape for b in own]).intersection(slide_shape).area
            wanted[label, f"s{slide}"] = (len(own), sum(b.area for b in own) * PX_MM2, covered * PX_MM2)
    rows = readers.study.area(("slide",)).to_pylist()
    assert [(r["label"], r["slide"]) for r in rows] == sorted(wanted, key=lambda k: (k[0] is None, k[0] or "", k[1]))
    for row in rows:
        rois, drawn_mm2, covered_mm2 = wanted[row["label"], row["slide"]]
        assert row["rois"] == rois
        assert row["drawn_mm2"] == pytest.approx(drawn_mm2, rel=1e-9)
        assert row["covered_mm2"] == pytest.approx(covered_mm2, rel=1e-9)
    for row in readers.study.area().to_pylist():
        own_rows = [value for (label, _), value in wanted.items() if label == row["label"]]
        assert row["rois"] == sum(value[0] for value in own_rows)
        assert row["covered_mm2"] == pytest.approx(sum(value[2] for value in own_rows), rel=1e-9)


# -------------------------------------------------------------------------------------------------- agreement


def kappa_of(a: NDArray[Any], b: NDArray[Any]) -> float | None:
    """Return Cohen's kappa of two codings by its definition, in floating point; None where undefined."""
    classes = np.unique(np.concatenate([a, b]))
    observed = float(np.mean(a == b))
    expected = float(sum(np.mean(a == k) * np.mean(b == k) for k in classes))
    return None if expected > 1 - 1e-12 else (observed - expected) / (1 - expected)


def wanted_agreement(a: Sequence[str | None], b: Sequence[str | None], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of labels, then the one over all of them, by numpy."""
    coded_a, coded_b = (np.array([name or "" for name in names], dtype=object).astype(str) for names in (a, b))
    rows: list[dict[str, Any]] = []
    for label in labels:
        is_a, is_b = coded_a == label, coded_b == label
        both, a_only, b_only = (int(np.sum(m)) for m in (is_a & is_b, is_a & ~is_b, ~is_a & is_b))
        rows.append(
            {
                "label": label,
                "tiles": len(a),
                "n_both": both,
                "n_a_only": a_only,
                "n_b_only": b_only,
                "n_neither": int(np.sum(~is_a & ~is_b)),
                "agreement": float(np.mean(is_a == is_b)),
                "kappa": kappa_of(is_a, is_b),
                "dice": 2 * both / (2 * both + a_only + b_only) if both + a_only + b_only else None,
            }
        )
    sums = {name: sum(row[name] for row in rows) for name in ("n_both", "n_a_only", "n_b_only")}
    size = 2 * sums["n_both"] + sums["n_a_only"] + sums["n_b_only"]
    rows.append(
        {
            "label": None,
            "tiles": len(a),
            **sums,
            "n_neither": int(np.sum((coded_a == "") & (coded_b == ""))),
            "agreement": float(np.mean(coded_a == coded_b)),
            "kappa": kappa_of(coded_a, coded_b),
            "dice": 2 * sums["n_both"] / size if size else None,
        }
    )
    return rows


def check_rows(rows: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert len(rows) == len(wanted)
    for row, want in zip(rows, wanted, strict=True):
        for name, value in want.items():
            if isinstance(value, float):
                assert row[name] == pytest.approx(value, rel=1e-9, abs=1e-9), (name, row, want)
            else:
                assert row[name] == value, (name, row, want)


def drawn_labels(drawn: Boxes, rule: Rule) -> set[str]:
    return {b.label for b in drawn if b.label is not None and b.label not in rule.artifact_labels}


@pytest.mark.parametrize("rule", RULES)
@drawn_cases
@given(a=slides_of_boxes.filter(any), b=slides_of_boxes.filter(any))
def test_agreement_of_two_readers_is_that_of_numpy(
    readers: Readers, a: list[Boxes], b: list[Boxes], rule: Rule
) -> None:
    readers.draw({"reader_a": a, "reader_b": b}, rule, ["reader_b", "reader_a"])
    regions = [
        [[box for box in drawn if box.label is None or box.label not in rule.artifact_labels] for drawn in slides]
        for slides in (a, b)
    ]
    shared = [i for i in range(SLIDES) if regions[0][i] and regions[1][i]]
    if not shared:
        with pytest.raises(StudyError) as caught:
            readers.study.agreement("reader_a", "reader_b")
        assert str(caught.value) == (
            "no slide has ROIs of both 'reader_a' and 'reader_b'; sets are compared on the slides that both have"
        )
        return
    of_a, of_b = (readers.labels(name, by_method=False) for name in ("reader_a", "reader_b"))
    names_a, names_b = ([[label for label, _ in tiles] for tiles in found] for found in (of_a, of_b))
    by_slide = {i: sorted(drawn_labels(a[i], rule) | drawn_labels(b[i], rule)) for i in shared}

    rows = readers.study.agreement("reader_a", "reader_b").to_pylist()
    check_rows(
        rows,
        wanted_agreement(
            [label for i in shared for label in names_a[i]],
            [label for i in shared for label in names_b[i]],
            sorted(set().union(*by_slide.values())),
        ),
    )
    each = readers.study.agreement("reader_a", "reader_b", by_slide=True).to_pylist()
    wanted = [
        {"slide": f"s{i}", **row} for i in shared for row in wanted_agreement(names_a[i], names_b[i], by_slide[i])
    ]
    check_rows(each, wanted)
    turned = readers.study.agreement("reader_b", "reader_a").to_pylist()
    assert [(r["n_b_only"], r["n_a_only"], r["kappa"]) for r in turned] == [
        (r["n_a_only"], r["n_b_only"], r["kappa"]) for r in rows
    ]

    first = [[holders[0].name if holders else None for _, holders in tiles] for tiles in of_a]
    second = [[holders[0].name if holders else None for _, holders in tiles] for tiles in of_b]
    differing = readers.study.disagreements("reader_a", "reader_b").to_arrow_table().to_pylist()
    assert [
        (r["tile_id"], r["label_a"], r["label_b"], r["roi_name_a"], r["roi_name_b"]) for r in differing
    ] == [
        (tile, names_a[i][k], names_b[i][k], first[i][k], second[i][k])
        for i in shared
        for k, tile in enumerate(tiles_of(i))
        if names_a[i][k] != names_b[i][k]
    ]  # fmt: skip
    one = readers.study.disagreements("reader_a", "reader_b", slide="s0").to_arrow_table().to_pylist()
    assert one == [row for row in differing if row["slide"] == "s0"]


def test_kappa_of_a_table_of_the_literature(tmp_path: Path) -> None:
    """50 grants read by two readers: 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no; kappa is 0.4."""
    with sd.open(tmp_path / "s.duckdb") as study:
        add_slide(study, "s0", 50 * SIDE, SIDE)
        study.tile(SIDE, tile_um=SIDE)
        write_boxes(tmp_path / "a.csv", "s0", [Box("yes", "yes", 0, 0, 250, 10)])
        write_boxes(tmp_path / "b.csv", "s0", [Box("one", "yes", 0, 0, 200, 10), Box("two", "yes", 250, 0, 350, 10)])
        study.add_rois(tmp_path / "a.csv", roi_set="a")
        study.add_rois(tmp_path / "b.csv", roi_set="b")
        study.label(roi_sets=["a"])
        rows = study.agreement("a", "b").to_pylist()
    assert rows[0] == {
        "grid": GRID, "label": "yes", "tiles": 50, "n_both": 20, "n_a_only": 5, "n_b_only": 10, "n_neither": 15,
        "agreement": 0.7, "kappa": pytest.approx(0.4), "dice": pytest.approx(40 / 55),
    }  # fmt: skip
    assert rows[1] == {**rows[0], "label": None}


def test_kappa_is_null_where_both_readers_know_one_class_alone(readers: Readers) -> None:
    whole = [[Box("all", "tumour", 0, 0, 60, 60)]] * SLIDES
    readers.draw({"reader_a": whole, "reader_b": whole}, Rule(), ["reader_a"])
    row, total = readers.study.agreement("reader_a", "reader_b").to_pylist()
    assert (row["n_both"], row["agreement"], row["kappa"], row["dice"]) == (108, 1.0, None, 1.0)
    assert (total["label"], total["agreement"], total["kappa"], total["dice"]) == (None, 1.0, None, 1.0)


def test_a_label_without_a_tile_has_a_row_all_the_same(readers: Readers) -> None:
    dot = [[Box("dot", "rare", 1, 1, 2, 2)]] * SLIDES
    readers.draw({"reader_a": dot, "reader_b": [[Box("half", "tumour", 0, 0, 60, 30)]] * SLIDES}, Rule(), ["reader_a"])
    rows = readers.study.agreement("reader_a", "reader_b").drop_columns(["grid", "tiles", "agreement"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("rare", 0, 0, 0, 108, None, None),
        ("tumour", 0, 0, 54, 54, 0.0, 0.0),
        (None, 0, 0, 54, 54, 0.0, 0.0),
    ]


def test_sets_that_cannot_be_compared(readers: Readers) -> None:
    some: list[Boxes] = [[Box("a", "tumour", 0, 0, 30, 30)], [], []]
    readers.draw({"reader_a": some, "reader_b": some}, Rule(), ["reader_a"])
    for question in (readers.study.agreement, readers.study.disagreements):
        for names, message in (
            (("reader_a", "reader_c"), "no ROIs are in the set 'reader_c'; the study has 'reader_a', 'reader_b'"),
            (("x", "y"), "no ROIs are in the sets 'x', 'y'; the study has 'reader_a', 'reader_b'"),
            (
                ("reader_b", "reader_b"),
                "both sets are 'reader_b'; name two different sets: the study has 'reader_a', 'reader_b'",
            ),
        ):
            assert refused(lambda ask=question, names=names: ask(*names)) == message  # type: ignore[misc]


# ------------------------------------------------------------------------------------------------ points


@pytest.mark.parametrize("rule", RULES)
@drawn_cases
@given(
    a=slides_of_boxes.filter(any),
    b=slides_of_boxes,
    points=st.lists(
        st.tuples(
            st.integers(0, SLIDES - 1),
            *[st.one_of(st.integers(0, 12).map(lambda i: i * SIDE / 2), st.floats(0, LENGTH))] * 2,
        ),
        min_size=8,
        max_size=8,
    ),
)
def test_the_label_of_a_point_is_worked_out_by_hand(
    readers: Readers, a: list[Boxes], b: list[Boxes], rule: Rule, points: list[tuple[int, float, float]]
) -> None:
    readers.draw({"reader_a": a, "reader_b": b}, rule, ["reader_a"])
    for slide, x, y in points:
        wanted = []
        for name, drawn in (("reader_a", a[slide]), ("reader_b", b[slide])):
            holders = sorted((box for box in drawn if box.holds(x, y)), key=rule.precedence)
            removed = any(box.label in rule.artifact_labels for box in holders) or rule.method == "outside"
            removed |= rule.overlap == "exclude" and len({box.label for box in holders}) > 1
            for place, box in enumerate(holders):
                in_force = name == "reader_a"
                wins = in_force and place == 0
                is_artifact = box.label in rule.artifact_labels
                wanted.append((name, box.name, box.label, in_force, is_artifact, wins, wins and not removed))
        rows = readers.study.at(f"s{slide}", x, y).to_pylist()
        found = [
            (
                r["roi_set"],
                r["roi_name"],
                r["label"],
                r["in_force"],
                r["is_artifact"],
                r["wins"],
                r["gives_label"],
            )
            for r in rows
        ]
        assert found == wanted, (slide, x, y)


def test_a_point_may_be_given_in_microns(study: sd.Study, tmp_path: Path) -> None:
    add_slide(study, "s0", 100, 50, 0.25)
    study.tile(SIDE, tile_um=2.5)
    write_boxes(tmp_path / "r.csv", "s0", [Box("right", "tumour", 60, 0, 100, 50)])
    study.add_rois(tmp_path / "r.csv")
    study.label()
    row = {
        "roi_set": "default", "roi_name": "right", "roi_desc": "right", "label": "tumour",
        "area_mm2": pytest.approx(40 * 50 * 0.25**2 / 1e6), "in_force": True, "is_artifact": False, "wins": True,
        "gives_label": True,
    }  # fmt: skip
    assert study.at("s0", 60, 50).to_pylist() == [row]
    assert study.at("s0", 15, 12.5, um=True).to_pylist() == [row]
    assert study.at("s0", 15, 12.5).to_pylist() == []
    where = "the point x {}, y {} is not on slide 's0', which is {} x {} {} large; give a point on it"
    assert refused(lambda: study.at("s0", 100.5, 3)) == (
        where.format("100.5", 3, 100, 50, "base pixels") + ", or `um=True` for microns"
    )
    assert refused(lambda: study.at("s0", 3, -1)) == (
        where.format(3, -1, 100, 50, "base pixels") + ", or `um=True` for microns"
    )
    assert refused(lambda: study.at("s0", math.nan, 3)) == (
        where.format("nan", 3, 100, 50, "base pixels") + ", or `um=True` for microns"
    )
    assert refused(lambda: study.at("s0", 26, 3, um=True)) == where.format(26, 3, 25, "12.5", "microns")
    assert refused(lambda: study.at("s9", 1, 1)) == (
        "study.duckdb has no slide 's9'; see which there are with: "
        "slideduck sql study.duckdb 'SELECT slide FROM slides'"
    )
    study.con.execute("UPDATE slides SET error = 'the file is gone' WHERE slide = 's0'")
    assert refused(lambda: study.at("s0", 1, 1)) == "slide 's0' cannot be used: the file is gone"


# -------------------------------------------------------------------------------------------- counts and area


def refused(ask: Callable[[], object], kind: type[SlideduckError] = StudyError) -> str:
    """Return the message of the error that a question ends with."""
    with pytest.raises(kind) as caught:
        ask()
    return str(caught.value)


@pytest.fixture
def cohort(study: sd.Study, tmp_path: Path) -> sd.Study:
    """Two grids, one of them overlapping by half, on four slides of three patients and two resolutions."""
    for i, mpp in enumerate((1.0, 1.0, 0.5, 0.3)):
        add_slide(study, f"s-{i}", 60 + 7 * i, 50, mpp)
    table = tmp_path / "patients.csv"
    table.write_text("slide,patient,site\ns-0,p,A\ns-1,p,A\ns-2,q,B\n")
    study.add_patients(table)
    study.tile(8, tile_um=6)
    study.tile(8, tile_um=6, stride_div=2)
    for i in range(4):
        path = tmp_path / f"rois{i}.csv"
        write_boxes(
            path,
            f"s-{i}",
            [
                Box("left", "tumour", 0, 0, 20 + 3.5 * i, 50),
                Box("over", "stroma", 15, 10, 50, 40),
                Box("plain", None, 45, 0, 62, 20),
                Box("dot", "tumour", 52.1, 42.1, 52.2, 42.2),
            ],
        )
        study.add_rois(path, holes="explicit")
    study.label()
    study.split(seed=1)
    return study


STRIDED = "8px_6um_stride2"


@pytest.mark.parametrize("rule", [RULES[0], RULES[3], RULES[5]])
def test_what_the_labelling_counted_is_what_the_tiles_have(cohort: sd.Study, rule: Rule) -> None:
    cohort.label(**rule.options(("tumour", "stroma")))
    instant = tuple(name for name in COUNT_COLUMNS if name != "roi_name")
    for columns in (*((name,) for name in instant), ("split", "label"), ("label", "patient", "grid"), instant):
        grid = None if "grid" in columns else STRIDED
        quick = cohort.counts(columns, grid=grid)
        assert quick.column_names == [*columns, "tiles", "kept", "area_mm2"]
        assert quick.equals(cohort.counts(columns, grid=grid, where="true")), columns
    wanted = cohort.sql(
        "SELECT site, label, count(*)::BIGINT, count_if(kept)::BIGINT FROM labels WHERE grid = '8px_6um' "
        "GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    rows = cohort.counts(("site", "label"), grid="8px_6um").to_pylist()
    assert [(r["site"], r["label"], r["tiles"], r["kept"]) for r in rows] == wanted


def test_the_area_of_tiles_counts_each_place_once(cohort: sd.Study) -> None:
    for grid, part in (("8px_6um", 1), (STRIDED, 2)):
        for row in cohort.counts(("slide",), grid=grid).to_pylist():
            mpp = {"s-0": 1.0, "s-1": 1.0, "s-2": 0.5, "s-3": 0.3}[row["slide"]]
            stride = int(6 / mpp) // part
            assert row["area_mm2"] == pytest.approx(row["tiles"] * (stride * mpp) ** 2 / 1e6, rel=1e-12)
    whole, half = (sum(cohort.counts(grid=grid)["area_mm2"].to_pylist()) for grid in ("8px_6um", STRIDED))
    assert 0.8 < half / whole < 1.2


def test_counts_go_by_conditions_and_rois(cohort: sd.Study) -> None:
    rows = cohort.counts(("roi_name", "label"), grid="8px_6um", where="slide = 's-0' AND grid_y < 4").to_pylist()
    wanted = cohort.sql(
        "SELECT roi_name, label, count(*), count_if(kept) FROM labels "
        "WHERE grid = '8px_6um' AND slide = 's-0' AND grid_y < 4 GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    assert [(r["roi_name"], r["label"], r["tiles"], r["kept"]) for r in rows] == wanted
    assert len(rows) == 4
    assert cohort.counts(("grid", "roi_name")).num_rows == 8
    nothing = cohort.counts(grid="8px_6um", where="slide = 'none'")
    assert (nothing.num_rows, nothing.column_names) == (0, ["label", "tiles", "kept", "area_mm2"])
    # The order is that of the columns as they are asked for.
    sites = cohort.counts(("site", "label"), grid="8px_6um")["site"].to_pylist()
    assert sites == sorted(sites, key=lambda site: (site is None, site or ""))


def test_counts_that_cannot_be_had(cohort: sd.Study) -> None:
    known = "label, slide, patient, site, split, fold, grid, roi_name"
    assert refused(lambda: cohort.counts(("label", "lable", "x"))) == (
        f"tiles are counted by 'lable', 'x'; give any of {known}"
    )
    assert refused(lambda: cohort.counts(("site", "site"))) == (
        "tiles are counted by 'site' more than once; name each column once"
    )
    assert refused(lambda: cohort.counts(())) == f"tiles are counted by no column; name one or more of {known}"
    assert refused(cohort.counts) == f"study.duckdb has 2 grids (8px_6um, {STRIDED}); name one with `grid`"
    assert refused(lambda: cohort.counts(grid="no")) == f"study.duckdb has no grid 'no'; it has 8px_6um, {STRIDED}"
    for where, reason in (
        ("labl = 'x'", 'Referenced column "labl" not found'),
        ("label =", "syntax error"),
        ("label", "it is of type VARCHAR, and a condition is true or false"),
        ("true; DROP TABLE tiles", "it is more than one expression"),
    ):
        text = refused(lambda where=where: cohort.counts(grid="8px_6um", where=where), QueryError)  # type: ignore[misc]
        assert text.startswith(f"the condition {where!r} cannot be used: ")
        assert reason in text
        assert text.endswith(f"; give one SQL condition on the columns {', '.join(cohort.sql('FROM labels').columns)}")


def test_a_condition_on_what_is_not_measured_counts_nothing(cohort: sd.Study) -> None:
    text = refused(lambda: cohort.counts(grid="8px_6um", where="blur > 50"))
    assert text.startswith("the condition 'blur > 50' needs blur, not measured for ")
    assert cohort.counts(grid="8px_6um", where="blur > 50 AND blur IS NOT NULL").num_rows == 0


def test_areas_go_by_slide_patient_and_site(cohort: sd.Study) -> None:
    assert refused(lambda: cohort.area(("slides",))) == (
        "areas are told apart by 'slides'; give any of slide, patient, site"
    )
    by_slide = {(r["label"], r["slide"]): r for r in cohort.area(("slide",)).to_pylist()}
    # `plain` leaves the first slide by 2 pixels; each of them is 20 high.
    assert by_slide[None, "s-0"]["drawn_mm2"] == pytest.approx(17 * 20 / 1e6)
    assert by_slide[None, "s-0"]["covered_mm2"] == pytest.approx(15 * 20 / 1e6)
    assert by_slide["tumour", "s-3"]["drawn_mm2"] == pytest.approx((30.5 * 50 + 0.01) * 0.3**2 / 1e6)
    assert by_slide["tumour", "s-3"]["rois"] == 2
    for columns in (("patient",), ("site",), ("site", "patient"), ()):
        table = cohort.area(columns)
        assert table.column_names == ["label", *columns, "rois", "drawn_mm2", "covered_mm2"]
        total = sum(table["covered_mm2"].to_pylist())
        assert total == pytest.approx(sum(r["covered_mm2"] for r in by_slide.values()))
    patients = {(r["label"], r["patient"]) for r in cohort.area(("patient",)).to_pylist()}
    assert patients == {(label, name) for label in ("tumour", "stroma", None) for name in ("p", "q", "s-3")}


def test_holes_are_taken_out_of_areas_and_are_no_rois(study: sd.Study, tmp_path: Path) -> None:
    add_slide(study, "s0")
    study.tile(SIDE, tile_um=SIDE)
    write_boxes(
        tmp_path / "r.csv",
        "s0",
        [
            Box("big", "a", 0, 0, 50, 50),
            Box("gap", "a", 10, 10, 40, 40),
            Box("island", "a", 20, 20, 30, 30),
            Box("twin", "a", 40, 40, 60, 60),
        ],
    )
    study.add_rois(tmp_path / "r.csv")
    study.label()
    (row,) = study.area().to_pylist()
    assert row["rois"] == 3
    assert row["drawn_mm2"] == pytest.approx((2500 - 900 + 100 + 400) / 1e6)
    assert row["covered_mm2"] == pytest.approx((2500 - 900 + 100 + 300) / 1e6)
    assert [(r["roi_name"], r["roi_desc"]) for r in study.rois().to_pylist()] == [
        ("big", "big (holes: gap)"),
        ("island", "island"),
        ("twin", "twin"),
    ]
    assert [r["roi_name"] for r in study.at("s0", 15, 15).to_pylist()] == []
    assert [r["roi_name"] for r in study.at("s0", 40, 40).to_pylist()] == ["twin", "big"]


# ------------------------------------------------------------------------------------------------ neighbours


def test_neighbours_are_the_tiles_around(cohort: sd.Study) -> None:
    rows = cohort.neighbours("s-1-27-21", grid="8px_6um").to_pylist()
    assert [(r["dx"], r["dy"]) for r in rows] == [(-1, -1), (0, -1), (1, -1), (-1, 0), (1, 0), (-1, 1), (0, 1), (1, 1)]
    assert [r["tile_id"] for r in rows] == [f"s-1-{27 + 6 * r['dx']}-{21 + 6 * r['dy']}" for r in rows]
    labels = {r["tile_id"]: r for r in cohort.labels("slide = 's-1'", grid="8px_6um").to_arrow_table().to_pylist()}
    for row in rows:
        for name in ("label", "roi_name", "coverage", "kept", "loc_x", "loc_y", "grid_x", "grid_y", "grid", "slide"):
            assert row[name] == labels[row["tile_id"]][name]
    assert cohort.neighbours("s-1-27-21", 2, grid="8px_6um").num_rows == 24
    corner = cohort.neighbours("s-1-3-3", grid="8px_6um").to_pylist()
    assert [(r["dx"], r["dy"]) for r in corner] == [(1, 0), (0, 1), (1, 1)]
    far = cohort.neighbours("s-1-3-3", 100, grid="8px_6um").num_rows
    assert far == len(labels) - 1


def test_tiles_that_have_no_neighbours_to_show(cohort: sd.Study) -> None:
    such = "ids are the slide's name and the tile's centre in base pixels, rounded down, such as 's-0-3-3'"
    for name in ("s-1-28-21", "s-9-27-21", "s-1", "", "27-21", "s-1-27-21'; DROP TABLE tiles --"):
        assert refused(lambda name=name: cohort.neighbours(name)) == f"no tile {name!r} in study.duckdb; {such}"  # type: ignore[misc]
    assert refused(lambda: cohort.neighbours("s-1-6-3", grid="8px_6um")) == (
        f"no tile 's-1-6-3' in grid '8px_6um'; {such}"
    )
    # Only the grid that overlaps has a tile there.
    assert set(cohort.neighbours("s-1-6-3")["grid"].to_pylist()) == {STRIDED}
    assert refused(lambda: cohort.neighbours("s-1-27-21")) == (
        f"tile 's-1-27-21' is in 2 grids (8px_6um, {STRIDED}); name one with `grid`"
    )
    assert refused(lambda: cohort.neighbours("s-1-27-21", 0)) == "distance is 0; give 1 or more steps of the grid"


# ------------------------------------------------------------------------------------------------ all of them


def questions(study: sd.Study, grid: str | None = "8px_6um") -> dict[str, Callable[[], Any]]:
    """Return a call of every question."""
    return {
        "counts": lambda: study.counts(("slide", "label"), grid=grid),
        "counts by tile": lambda: study.counts(("roi_name", "label"), grid=grid, where="kept"),
        "conflicts": lambda: study.conflicts(grid=grid).to_arrow_table(),
        "rois": lambda: study.rois(grid=grid),
        "coverage": lambda: study.coverage_histogram(5, grid=grid),
        "neighbours": lambda: study.neighbours("s-1-27-21", 2, grid=grid),
        "at": lambda: study.at("s-1", 18, 20),
        "area": lambda: study.area(("site",)),
        "agreement": lambda: study.agreement("default", "second", grid=grid, by_slide=True),
        "disagreements": lambda: study.disagreements("default", "second", grid=grid).to_arrow_table(),
    }


@pytest.fixture
def twice_read(cohort: sd.Study, tmp_path: Path) -> sd.Study:
    """The cohort, its slides read by a second reader too."""
    for i in range(3):
        write_boxes(tmp_path / f"second{i}.csv", f"s-{i}", [Box("mine", "tumour", 3, 0, 30, 50)])
        cohort.add_rois(tmp_path / f"second{i}.csv", roi_set="second")
    cohort.label(overlap="largest")
    return cohort


def test_stale_and_missing_labels_are_refused(twice_read: sd.Study, tmp_path: Path) -> None:
    write_boxes(tmp_path / "rois0.csv", "s-0", [Box("left", "tumour", 0, 0, 9, 9)])
    twice_read.add_rois(tmp_path / "rois0.csv", holes="explicit")
    for name, ask in questions(twice_read).items():
        assert refused(ask) == (
            "the labels of 1 slide are out of date (s-0); bring them up to date with: slideduck label study.duckdb"
        ), name
    with sd.open(tmp_path / "new.duckdb") as empty:
        for name, ask in questions(empty).items():
            assert refused(ask) == "new.duckdb has no labels yet; make them with: slideduck label new.duckdb", name


def test_grids_and_slides_that_are_not_there(twice_read: sd.Study) -> None:
    several = f"study.duckdb has 2 grids (8px_6um, {STRIDED}); name one with `grid`"
    for name, ask in questions(twice_read, None).items():
        if name not in ("at", "area", "neighbours"):
            assert refused(ask) == several, name
    for name, ask in questions(twice_read, "no").items():
        if name not in ("at", "area"):
            assert refused(ask) == f"study.duckdb has no grid 'no'; it has 8px_6um, {STRIDED}", name
    for ask in (
        lambda: twice_read.conflicts(grid=STRIDED, slide="none"),
        lambda: twice_read.rois(grid=STRIDED, slide="none"),
        lambda: twice_read.disagreements("default", "second", grid=STRIDED, slide="none"),
    ):
        assert refused(ask).startswith("study.duckdb has no slide 'none'; see which there are with: slideduck sql ")
    for bins in (0, -1, 10_001):
        assert refused(lambda bins=bins: twice_read.coverage_histogram(bins)) == f"bins is {bins}; give 1 to 10,000"  # type: ignore[misc]


def test_a_study_that_is_only_read_answers_every_question(twice_read: sd.Study) -> None:
    wanted = {name: ask() for name, ask in questions(twice_read).items()}
    assert all(isinstance(table, pa.Table) and table.num_rows for table in wanted.values())
    twice_read.close()
    with sd.open(twice_read.path, read_only=True) as again:
        for name, ask in questions(again).items():
            assert ask().equals(wanted[name]), name
        assert again.sql("SELECT count(*) FROM duckdb_views() WHERE temporary AND NOT internal").fetchall() == [(0,)]


def test_threads_and_the_order_of_files_change_no_answer(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    edges = np.sort(rng.uniform(0, LENGTH, (2, 4, 30, 2, 2)), axis=-1).round(2)
    labels = ("tumour", "stroma", "fat", None)
    answers = []
    for threads, step in ((1, 1), (2, -1)):
        folder = tmp_path / str(threads)
        folder.mkdir()
        with sd.open(folder / "study.duckdb", threads=threads) as study:
            for i in list(range(4))[::step]:
                add_slide(study, f"s-{i}", mpp=0.3 + i / 7)
            study.tile(8, tile_um=6)
            for (k, name), i in itertools.product(list(enumerate(("default", "second")))[::step], range(4)):
                boxes_of = [
                    Box(f"r{j}", labels[j % 4], *edges[k, i, j, :, 0].tolist(), *edges[k, i, j, :, 1].tolist())
                    for j in range(30)
                ]
                write_boxes(folder / f"{name}{i}.csv", f"s-{i}", boxes_of[::step])
                study.add_rois(folder / f"{name}{i}.csv", roi_set=name)
            study.label(rule="coverage", threshold=0.3, overlap="largest")
            found = questions(study)
            tile = study.sql("SELECT min(tile_id) FROM labels WHERE slide = 's-1'").fetchall()[0][0]
            found["neighbours"] = lambda study=study, tile=tile: study.neighbours(tile)  # type: ignore[misc]
            answers.append({name: ask().to_pylist() for name, ask in found.items()})
    assert all(answers[0].values())
    assert json.dumps(answers[0]) == json.dumps(answers[1])


def test_every_question_is_one_in_sql_too(twice_read: sd.Study) -> None:
    grid = "8px_6um"
    asked = questions(twice_read)
    for name, query in {
        "counts": f"SELECT slide, label, tiles, kept, area_mm2 FROM tile_counts(['label', 'slide'], grid := '{grid}') "
        "ORDER BY ALL",
        "conflicts": f"FROM conflicts WHERE labels_differ AND grid = '{grid}' ORDER BY slide, grid_y, grid_x",
        "rois": f"FROM roi_tiles WHERE grid = '{grid}' ORDER BY slide, roi_name",
        "coverage": f"FROM coverage_histogram(5, grid := '{grid}')",
        "neighbours": f"FROM neighbours('s-1-27-21', distance := 2) WHERE grid = '{grid}'",
        "at": "FROM rois_at('s-1', 18, 20)",
        "agreement": f"FROM agreement('default', 'second', by_slide := true) WHERE grid = '{grid}'",
        "disagreements": f"FROM disagreements('default', 'second') WHERE grid = '{grid}'",
    }.items():
        assert twice_read.sql(query).to_arrow_table().to_pylist() == asked[name]().to_pylist(), name
    assert twice_read.sql("SELECT sum(covered_mm2) FROM label_areas").fetchall()[0][0] == pytest.approx(
        sum(twice_read.area()["covered_mm2"].to_pylist())
    )
    assert (
        twice_read.sql("SELECT sum(tiles) FROM counts").fetchall()
        == twice_read.sql("SELECT count(*) FROM labels").fetchall()
    )


def test_macros_say_what_they_are(study: sd.Study) -> None:
    macros = study.sql(
        "SELECT function_name, comment FROM duckdb_functions() WHERE function_type = 'table_macro' AND NOT internal"
    ).fetchall()
    assert {name for name, _ in macros} >= {
        "tile_counts", "coverage_histogram", "neighbours", "rois_at", "agreement", "disagreements",
    }  # fmt: skip
    assert [name for name, comment in macros if comment is None] == []


@pytest.mark.parametrize("name", ["conflicts", "disagreements", "counts by tile", "agreement"])
def test_a_filter_by_slide_groups_the_pairs_of_that_slide_alone(twice_read: sd.Study, name: str) -> None:
    query = {
        "conflicts": "SELECT count(*) FROM conflicts WHERE slide = 's-1' AND labels_differ",
        "disagreements": "SELECT count(*) FROM disagreements('default', 'second') WHERE slide = 's-1'",
        "counts by tile": "SELECT label, count(*) FROM labels WHERE slide = 's-1' GROUP BY ALL",
        "agreement": "SELECT count(*) FROM paired_tiles('default', 'second') WHERE slide = 's-1'",
    }[name]
    held = "SELECT count(DISTINCT (grid_id, slide_id, grid_x, grid_y)) FROM held_roi"
    most = twice_read.sql(f"{held} WHERE slide = 's-1'").fetchall()[0][0]
    assert twice_read.sql(held).fetchall()[0][0] > 2 * most
    plan = json.loads(twice_read.con.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}").fetchall()[0][1])

    def grouped(operator: dict[str, Any]) -> Iterator[int]:
        if operator.get("operator_type") == "HASH_GROUP_BY":
            yield operator["operator_cardinality"]
        for child in operator.get("children", []):
            yield from grouped(child)

    sizes = list(grouped(plan))
    assert sizes
    assert max(sizes) <= most, sizes


@pytest.mark.parametrize("stride_div", [1, 2])
def test_real_slides_answer_every_question(real_study: sd.Study, shared_data: Path, stride_div: int) -> None:
    grid = real_study.tile(64, tile_um=64, stride_div=stride_div).grid
    real_study.add_rois(shared_data / "CMU-1-Small-Region.xml", roi_set="xml")
    real_study.label()
    # The XML file draws the same regions as the CSV.
    rows = real_study.agreement("default", "xml").to_pylist()
    assert rows[-1]["agreement"] == rows[-1]["kappa"] == rows[-1]["dice"] == 1.0
    assert real_study.disagreements("default", "xml").fetchall() == []
    labels = real_study.labels().to_arrow_table().to_pylist()
    for row in real_study.counts(("label", "slide"), grid=grid).to_pylist():
        assert row["tiles"] == sum(r["label"] == row["label"] and r["slide"] == row["slide"] for r in labels)
    overlaps = real_study.conflicts(differing=False).to_arrow_table().to_pylist()
    assert {r["tile_id"]: len(r["roi_names"]) for r in overlaps} == {
        r["tile_id"]: r["n_rois"] for r in labels if r["n_rois"] > 1
    }
    assert {r["tile_id"]: r["label"] for r in overlaps} == {r["tile_id"]: r["label"] for r in labels if r["n_rois"] > 1}
    for row in real_study.area(("slide",)).to_pylist():
        shapes = [
            shapely.from_wkb(bytes(wkb))
            for (wkb,) in real_study.con.execute(
                "SELECT ST_AsWKB(geom)::BLOB FROM rois WHERE parent IS NULL AND roi_set = 'default' AND slide = $1 "
                "AND label IS NOT DISTINCT FROM $2",
                [row["slide"], row["label"]],
            ).fetchall()
        ]
        width, height, mpp = real_study.con.execute(
            "SELECT width, height, mpp FROM slides WHERE slide = $1", [row["slide"]]
        ).fetchall()[0]
        covered = shapely.union_all(shapes).intersection(shapely.box(0, 0, width, height)).area
        assert row["covered_mm2"] == pytest.approx(covered * mpp**2 / 1e6, rel=1e-9)
        assert row["rois"] == len(shapes)
    tile = next(r for r in labels if r["grid_x"] == 3 and r["grid_y"] == 3)
    assert real_study.neighbours(tile["tile_id"]).num_rows == 8
    for r in labels[:: len(labels) // 50]:
        x, y = r["base_x"] + r["extract_px"] / 2, r["base_y"] + r["extract_px"] / 2
        given_label = [p["label"] for p in real_study.at(r["slide"], x, y).to_pylist() if p["gives_label"]]
        assert given_label == ([r["label"]] if r["roi_name"] is not None else [])
