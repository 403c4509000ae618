"""What stands under a table of metrics: classes that are missing, and how slides come by their class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from slideduck.runner.scores.assess import assess
from slideduck.runner.scores.metrics import class_ties, compute_metrics
from slideduck.runner.scores.notes import notes_of
from slideduck.runner.scores.predictions import ClassPredictions, LabelPredictions

CLASSES = ["a", "b", "c"]


def of_classes(labels: list[int], slides: list[int]) -> dict[str, Any]:
    """Return the assessment of tiles of some classes, all predicted alike."""
    logs = np.log(np.full((len(labels), 3), 1 / 3))
    predictions = ClassPredictions(np.arange(len(labels)), np.array(labels), logs)
    groups = np.array(slides)
    return assess(predictions, np.zeros(len(labels)), groups, groups, CLASSES, resamples=0)


def test_a_class_that_is_missing_is_said() -> None:
    found = of_classes([0, 1, 0, 1], [0, 0, 0, 1])
    assert found["absent"] == ["c"]
    assert found["notes"][0] == (
        "no tile here is of class c: its own metrics are not defined, and means over classes leave it out"
    )
    found = of_classes([0, 0], [0, 1])
    assert found["notes"] == [
        "no tile here is of the classes b and c: their own metrics are not defined, and means over classes leave "
        "them out"
    ]
    assert of_classes([0, 1, 2], [0, 1, 2])["notes"] == []


def test_a_class_that_most_tiles_of_no_slide_have_is_said_for_slides() -> None:
    found = of_classes([0, 0, 1, 2, 2, 1], [0, 0, 0, 1, 1, 1])
    assert found["absent"] == []
    assert found["notes"][0] == (
        "no slide here is of class b: its own metrics are not defined, and means over classes leave it out"
    )
    assert found["notes"][2] == (
        "a slide is of the class that most of its labelled tiles are of: 2 of 2 slides have tiles of several classes"
    )


def test_ties_are_counted_and_go_to_the_first_class_whatever_the_order_of_tiles() -> None:
    labels, slides = np.array([2, 1, 1, 2, 0, 0, 2]), np.array([0, 0, 0, 0, 1, 1, 1])
    logs = np.log(np.random.default_rng(0).dirichlet(np.ones(3), 7))
    for order in (np.arange(7), np.arange(7)[::-1], np.random.default_rng(1).permutation(7)):
        predictions = ClassPredictions(np.arange(7), labels[order], logs[order])
        metrics = compute_metrics(predictions, slides[order], CLASSES, patients=np.zeros(7, np.int64))
        assert (metrics["slide/mixed"], metrics["slide/ties"]) == (2, 1)
        # The slide of two of class 1 and two of class 2 counts as class 1.
        assert np.array(metrics["slide/confusion"]).sum(axis=1).tolist() == [1, 1, 0]
        assert (metrics["patient/mixed"], metrics["patient/ties"]) == (1, 0)
    assert notes_of(metrics)[-2] == (
        "a slide is of the class that most of its labelled tiles are of: 2 of 2 slides have tiles of several classes; "
        "in 1 of them no class has the most alone, and the first in order counts"
    )


@pytest.mark.parametrize("n_classes", [1, 2, 5])
def test_ties_are_those_that_a_count_finds(n_classes: int) -> None:
    rng = np.random.default_rng(n_classes)
    labels, groups = rng.integers(0, n_classes, 90), rng.integers(0, 30, 90)
    mixed = ties = 0
    for group in np.unique(groups):
        counts = sorted(np.bincount(labels[groups == group], minlength=n_classes), reverse=True)
        several = bool(np.count_nonzero(counts) > 1)
        mixed += int(several)
        ties += int(several and counts[0] == counts[1])
    assert class_ties(labels, groups, n_classes) == {"mixed": mixed, "ties": ties}


def test_labels_that_all_or_none_have_and_halves_are_said() -> None:
    truth = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 0], [1, 0, 1]], np.float32)
    predictions = LabelPredictions(np.arange(4), truth, np.log(np.full((4, 3), 0.4)))
    groups = np.array([0, 0, 1, 1])
    found = assess(predictions, np.zeros(4), groups, groups, CLASSES, resamples=0)
    assert found["absent"] == ["b"]
    assert found["notes"][0] == (
        "all or none of the tiles here have the label b: metrics of it are not defined, and means over labels leave "
        "it out"
    )
    assert found["notes"][-2:] == [
        "a slide has a label if half of its labelled tiles or more have it: in 2 of 2 slides tiles differ; in 2 of "
        "them exactly half have one",
        "a patient has a label if half of its labelled tiles or more have it: in 2 of 2 patients tiles differ; in 2 of "
        "them exactly half have one",
    ]
