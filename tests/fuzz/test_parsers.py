"""Every parser of users' files, given mutated ones: it reads them or refuses them, and a study is whole either way.

What a campaign found is printed as a table with ``-s``; ``SLIDEDUCK_FUZZ`` gives another number of inputs a parser.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import shapely

import slideduck as sd
from slideduck.catalog.mpps import read_mpp_table
from slideduck.roifiles.read import parse_roi_file
from slideduck.rois.classes import read_label_table
from tests.campaign import CAMPAIGN, cases
from tests.fuzz.mutate import mutated
from tests.fuzz.seeds import seeds

SECONDS = 20
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SEEDS = seeds(SHARED)
INPUTS = int(os.environ.get("SLIDEDUCK_FUZZ", cases(test=60, campaign=10_000)))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sd.Study]:
    with sd.open(tmp_path_factory.mktemp("fuzz") / "study.duckdb") as opened:
        opened.con.execute(
            "INSERT INTO slides (slide, path, width, height, mpp, level_downsamples) "
            "SELECT slide, slide, 3200, 3000, 0.5, [1] FROM (SELECT unnest($1) AS slide)",
            [["s", "t", "u", "CMU-1-Small-Region", "TCGA-CR-7395-01A-01-TS1"]],
        )
        opened.tile(256, tile_um=128)
        yield opened


@contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    """Raise TimeoutError where a block takes longer."""

    def end(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"over {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def reader(name: str, study: sd.Study, roi_set: str) -> Callable[[Path], Any]:
    """Return what takes a file of a kind."""
    match name:
        case "label masks":
            return lambda path: study.add_masks(path, {1: "a", 0: None}, roi_set=roi_set)
        case "table of labels":
            return read_label_table
        case "table of MPP":
            return read_mpp_table
        case "NDPA":  # a study takes it on slides that say where their centre is
            return parse_roi_file
        case _ if name.startswith("tile labels"):
            return lambda path: study.add_labels(path, "given", replace=True)
        case _ if name.startswith("patients"):
            return study.add_patients
        case _:
            return lambda path: study.add_rois(path, roi_set=roi_set)


def test_every_file_is_read_before_it_is_mutated(study: sd.Study, tmp_path: Path) -> None:
    for name, (file, originals) in SEEDS.items():
        for data in originals:
            (tmp_path / file).write_bytes(data)
            reader(name, study, f"{name} as it was")(tmp_path / file)


def held(study: sd.Study) -> str:
    rows = study.con.execute("SELECT count(*) FROM roi_files").fetchall()
    rows += study.con.execute("SELECT slide, roi_name, label, ST_AsWKB(geom)::BLOB FROM rois ORDER BY ALL").fetchall()
    rows += study.con.execute("FROM tile_labels ORDER BY ALL").fetchall()
    return repr(rows + study.con.execute("FROM patients ORDER BY slide").fetchall())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.attack("bytes", f"mutated files: {name}"), id=name.replace(" ", "-"))
        for name in SEEDS
    ],
)
def test_mutated_files_are_read_or_refused(name: str, study: sd.Study, tmp_path: Path) -> None:
    file, originals = SEEDS[name]
    read = reader(name, study, name)
    found: Counter[str] = Counter()
    slowest = 0.0
    before = held(study)
    # A mask takes ten times as long as a text.
    inputs = INPUTS // 3 if name == "label masks" and not CAMPAIGN else INPUTS
    for number in range(inputs):
        rng = random.Random(f"{name} {number}")
        path = tmp_path / file
        path.write_bytes(mutated(rng.choice(originals), rng))
        start = time.monotonic()
        try:
            with no_longer_than(SECONDS), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(path)
        except sd.SlideduckError as error:
            found["refused" if str(error).strip() else "refused without a word"] += 1
            if held(study) != before:
                pytest.fail(f"{name}, input {number}: half-loaded")
        except Exception as error:
            kept = Path(os.environ.get("SLIDEDUCK_FUZZ_KEEP", tmp_path)) / f"{number}-{file}"
            kept.write_bytes(path.read_bytes())
            raise AssertionError(f"{name}, input {number} ({kept}): {type(error).__name__}: {error}") from error
        else:
            found["read"] += 1
            before = held(study)
        slowest = max(slowest, time.monotonic() - start)
    print(f"{name:20} {inputs:6} inputs: {found['read']:6} read, {found['refused']:6} refused; slowest {slowest:.2f} s")
    assert not found["refused without a word"]
    assert found["refused"]
    assert found["read"] or not CAMPAIGN


def test_geometry_that_a_mutation_left_alone_is_as_drawn(tmp_path: Path) -> None:
    """What is read of a mutated file has the areas that shapely reads of the same bytes."""
    file, originals = SEEDS["GeoJSON"]
    compared = 0
    for number in range(INPUTS):
        rng = random.Random(f"areas {number}")
        data = mutated(originals[0], rng)
        (tmp_path / file).write_bytes(data)
        try:
            outlines = parse_roi_file(tmp_path / file).outlines
        except sd.SlideduckError:
            continue
        features = json.loads(data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"))
        features = features.get("features", [features]) if isinstance(features, dict) else features
        for outline in outlines:
            shape = features[outline.row - 1].get("geometry", {})
            if shape.get("type") != "Polygon":
                continue
            # Holes of too few points are left out.
            rings = [ring for i, ring in enumerate(shape["coordinates"]) if not i or len({(*p[:2],) for p in ring}) > 2]
            wanted = shapely.Polygon([p[:2] for p in rings[0]], [[p[:2] for p in ring] for ring in rings[1:]])
            assert shapely.from_wkb(outline.wkb()).equals_exact(wanted) or not wanted.is_valid, number
            compared += 1
    assert compared
