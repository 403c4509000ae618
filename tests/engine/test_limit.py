"""Limits on what one input may hold, and how they are raised."""

from __future__ import annotations

import pytest

import slideduck as sd
from slideduck.limit import LIMITS, beyond, limit, limits, parse_limits


def test_a_number_beyond_a_limit_says_how_to_allow_it() -> None:
    assert beyond("depth", 100) is None
    assert beyond("depth", 101) == (
        "it has 101 or more levels of nesting in one JSON or XML file, and at most 100 are read; if the file is meant, "
        "allow that many with `limit='depth=101'`"
    )
    with sd.limits(depth=101):
        assert beyond("depth", 101) is None
    assert beyond("depth", 101) is not None


def test_the_innermost_limit_holds() -> None:
    with limits(rois=5, depth=7):
        with limits(rois=3):
            assert (limit("rois"), limit("depth")) == (3, 7)
        assert limit("rois") == 5
    assert limit("rois") == LIMITS["rois"].most


def test_limits_that_there_are_not_are_refused() -> None:
    names = "file_mb, unpacked_mb, depth, rois, vertices, pixels, tiles, tile_pixels, header_mb"
    with pytest.raises(sd.ConfigError) as refused, limits(vertexes=5):
        pass
    assert str(refused.value) == f"limit is 'vertexes', which there is not; the limits are {names}"
    with pytest.raises(sd.ConfigError) as refused, limits(rois=0):
        pass
    assert str(refused.value) == "limit rois is 0; give a whole number of 1 or more"
    with pytest.raises(sd.ConfigError) as refused:
        parse_limits(("rois",))
    assert str(refused.value) == (
        f"limit is 'rois'; give NAME=NUMBER, such as vertices=200000000: the names are {names}"
    )
    assert parse_limits(("rois=5", " vertices=1_000,000")) == {"rois": 5, "vertices": 1_000_000}
