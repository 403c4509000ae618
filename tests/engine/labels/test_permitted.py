"""Conditions in SQL: what they may not hold, and that every command refuses it alike."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import slideduck as sd
from slideduck.cli.group import cli
from slideduck.errors import QueryError
from tests.mixed_study import write_study

attack = pytest.mark.attack
ALONE = "a subquery may read the study's tables and views alone, and not "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a labelled study and of its ROIs as CSV."""
    root = tmp_path_factory.mktemp("conditions")
    shutil.copyfile(write_study(root / "made", size=(128, 128)), root / "study.duckdb")
    shutil.copyfile(root / "made" / "rois.csv", root / "rois.csv")
    return root


@pytest.fixture(scope="module")
def study(folder: Path) -> Iterator[sd.Study]:
    """The study, on a connection that may read any file: a condition may not, whatever it is asked of."""
    with sd.open(folder / "study.duckdb", read_only=True) as opened:
        yield opened


@pytest.fixture
def unharmed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder as the current one, in which nothing is changed, gone or new after the test."""
    monkeypatch.chdir(folder)
    before = {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}
    yield folder
    assert {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        pytest.param(
            "random() < 0.5",
            "random() gives another answer each time",
            marks=attack("conditions", "an answer by chance"),
        ),
        pytest.param(
            "now() > '2020-01-01' OR label = 'x'",
            "now() gives another answer each time",
            marks=attack("conditions", "an answer by the clock"),
        ),
        ("current_date > DATE '2020-01-01'", "current_date() gives another answer each time"),
        (
            "ago(INTERVAL 1 DAY) IS NULL",
            "the macro ago() is not permitted: current_timestamp() gives another answer each time",
        ),
        ("age(TIMESTAMP '2020-01-01') > INTERVAL 1 DAY", "age() gives another answer each time"),
        ("uuid()::VARCHAR = slide", "uuid() gives another answer each time"),
        ("nextval('slide_ids') > 3", "nextval() gives another answer each time"),
        ("pg_sleep(1) IS NULL", "the macro pg_sleep() is not permitted: sleep_ms() gives another answer each time"),
        ("tile_id IN (SELECT tile_id FROM labels USING SAMPLE 2)", "a sample gives another answer each time"),
        pytest.param(
            "getenv('HOME') = slide",
            "getenv() tells of the machine and not of tiles",
            marks=attack("conditions", "getenv and settings of the machine"),
        ),
        ("current_setting('threads') > 1", "current_setting() tells of the machine and not of tiles"),
        ("getvariable('x') IS NULL", "getvariable() tells of the machine and not of tiles"),
        ("current_user = slide", "current_user() tells of the machine and not of tiles"),
        pytest.param(
            "slide IN (SELECT content FROM read_text('/etc/passwd'))",
            ALONE + "read_text()",
            marks=attack("conditions", "a table function that reads a file"),
        ),
        pytest.param(
            "(SELECT count(*) FROM 'rois.csv') > 0",
            ALONE + "'rois.csv'",
            marks=attack("conditions", "a file named like a table"),
        ),
        ("EXISTS (FROM glob('/etc/*'))", ALONE + "glob()"),
        ("slide IN (SELECT x FROM (FROM query('SELECT 1 AS x')))", ALONE + "query()"),
        ("slide IN (SELECT s FROM other.slides)", ALONE + "'slides'"),
        ("slide IN (WITH RECURSIVE q AS (SELECT 1 UNION ALL FROM q) FROM q)", ALONE + "RECURSIVE_CTE_NODE"),
        ("slide IN (SELECT column_name FROM (DESCRIBE labels))", ALONE + "SHOW_REF"),
        pytest.param(
            "label = 'x' FROM read_csv('rois.csv')",
            "it is more than one expression",
            marks=attack("conditions", "more than one expression"),
        ),
        ("true; DELETE FROM slides", "it is more than one expression"),
        ("true) OR (true", 'Parser Error: syntax error at or near ")"'),
        ("label = 'x' LIMIT 1", "it is more than one expression"),
        (
            "tile_id IN (SELECT tile_id FROM labels QUALIFY row_number() OVER () < 3)",
            "row_number() OVER (…) may give another answer where rows come in another order",
        ),
        ("row_number() OVER () < 3", "row_number() OVER (…) may give another answer where rows come in another order"),
        ("tile_id IN (SELECT tile_id FROM labels LIMIT 3)", "LIMIT without ORDER BY takes whichever rows come first"),
        (
            "tile_id IN (SELECT DISTINCT ON (slide) tile_id FROM labels)",
            "DISTINCT ON without ORDER BY takes whichever rows come first",
        ),
        (
            "tile_id = (SELECT first(tile_id) FROM labels)",
            "first() takes whichever rows come first; give it an order: first(x ORDER BY y)",
        ),
        ("label = $1", "it holds a parameter"),
        ("#1 = 'x'", "it holds a positional reference"),
        pytest.param(
            "(" * 10_000 + "true" + ")" * 10_000,
            'Parser Error: memory exhausted at or near "("',
            marks=attack("bombs", "a condition of 10,000 brackets"),
        ),
        ("abs(" * 500 + "grid_x" + ")" * 500 + " > 1", "it is nested too deeply"),
        ("abs(" * 260 + "grid_x" + ")" * 260 + " > 1", "it is nested too deeply"),
        pytest.param(
            "label = 'x'" + " OR label = 'x'" * 100_000,
            "AND and OR join 100,001 parts, and at most 10,000 are read; write a list: slide IN ('a', 'b')",
            marks=attack("bombs", "a condition that the parser reads for minutes"),
        ),
    ],
    ids=lambda value: value[:40],
)
def test_what_is_no_condition_on_the_tiles_alone_is_refused(
    study: sd.Study, unharmed: Path, where: str, reason: str
) -> None:
    with pytest.raises(QueryError) as caught:
        study.labels(where)
    columns = ", ".join(study.labels().columns)
    assert str(caught.value) == (
        f"the condition {where!r} cannot be used: {reason}; give one SQL condition on the columns {columns}"
    )


@pytest.mark.parametrize(
    "where",
    [
        "label = 'x' AND tile_id LIKE 'a-%' -- of one slide",
        "tile_id IN (SELECT tile_id FROM labels ORDER BY tile_id LIMIT 3)",
        "slide IN (SELECT slide FROM slides JOIN rois USING (slide) WHERE mpp < 1 GROUP BY slide HAVING count(*) > 0)",
        "coverage >= (SELECT min(coverage) FROM labels) OR coverage IS NULL",
        "tile_id = (SELECT first(tile_id ORDER BY tile_id) FROM labels)",
        "list_contains(list_transform(['X'], LAMBDA t: lower(t)), label) AND greatest(loc_x, loc_y) BETWEEN 1 AND 90",
        "make_tile_id(slide, loc_x, loc_y) = tile_id AND age(DATE '2021-01-01', DATE '2020-01-01') > INTERVAL 1 DAY",
        "abs(" * 200 + "grid_x" + ")" * 200 + " >= 0",
        "slide IN ('" + "', '".join(["a", "b", *map(str, range(20_000))]) + "')",
    ],
    ids=lambda value: value[:40],
)
def test_conditions_on_the_tiles_alone_are_taken(study: sd.Study, where: str) -> None:
    assert study.labels(where).fetchall()


def test_every_command_refuses_a_condition_alike(unharmed: Path) -> None:
    reason = "cannot be used: random() gives another answer each time; give one "
    for words in (
        ["counts", "study.duckdb", "--where"],
        ["export", "study.duckdb", "tiles.beton", "--where"],
        ["export-tiles", "study.duckdb", "tiles", "--where"],
    ):
        result = CliRunner().invoke(cli, [*words, "random() < 0.5"])
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: the condition 'random() < 0.5' {reason}SQL condition on the columns ")
    result = CliRunner().invoke(cli, ["qc", "study.duckdb", "--report", "--filter", "random() < 0.5"])
    assert result.exit_code == 1
    assert result.stderr.startswith(
        f"error: the filter 'random() < 0.5' {reason}of slideflow-white, slideflow-grey, or an SQL condition on the "
    )


@attack("conditions", "a macro of a foreign study that reads a file")
def test_macros_of_the_study_are_looked_into(folder: Path, tmp_path: Path) -> None:
    copied = shutil.copyfile(folder / "study.duckdb", tmp_path / "study.duckdb")
    with sd.open(copied) as study:
        for macro in (
            "upper(x) AS 'X'",
            "peek() AS (SELECT content FROM read_text('/etc/passwd'))",
            "chance() AS random() < 0.5",
            "deeper() AS NOT chance()",
            "far(x, y) AS abs(x) + abs(y)",
        ):
            study.con.execute(f"CREATE MACRO {macro}")
        for where, reason in (
            ("upper(label) = 'X'", "upper() is a macro of the study in the place of DuckDB's own"),
            (
                "peek() = label",
                "the macro peek() is not permitted: a subquery may read columns alone, and not read_text()",
            ),
            ("chance()", "the macro chance() is not permitted: random() gives another answer each time"),
            (
                "deeper()",
                "the macro deeper() is not permitted: the macro chance() is not permitted: random() gives another "
                "answer each time",
            ),
        ):
            with pytest.raises(QueryError) as caught:
                study.counts(where=where)
            assert str(caught.value).startswith(f"the condition {where!r} cannot be used: {reason}; give one ")
        assert study.counts(where="far(grid_x, grid_y) >= 0").num_rows == 2
