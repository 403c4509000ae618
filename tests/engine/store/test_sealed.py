"""SQL that cannot leave the study: what `slideduck sql` refuses, with what it says, and what lets it through."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

import slideduck as sd
from slideduck.cli.group import cli
from slideduck.errors import QueryError, StudyError
from slideduck.store.views import foreign_views, view_digests
from tests.mixed_study import write_study

attack = pytest.mark.attack
KINDS = "SELECT, FROM, WITH, VALUES, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN"
REACH = "a query sees the study alone; if the file is meant, give --allow-files"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a study and of a copy of it, of a secret, and of ROIs as CSV."""
    root = tmp_path_factory.mktemp("sealed")
    shutil.copyfile(write_study(root / "made", size=(128, 128)), root / "study.duckdb")
    shutil.copyfile(root / "study.duckdb", root / "other.duckdb")
    shutil.copyfile(root / "made" / "rois.csv", root / "rois.csv")
    (root / "secret.txt").write_text("secret")
    return root


def state(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def unharmed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder as the current one, in which nothing is changed, gone or new after the test."""
    monkeypatch.chdir(folder)
    before, names = state(folder), sorted(folder.rglob("*"))
    yield folder
    assert sorted(folder.rglob("*")) == names
    assert state(folder) == before


@pytest.fixture
def copied(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The study in a folder of the test's own, the current one."""
    monkeypatch.chdir(tmp_path)
    return shutil.copyfile(folder / "study.duckdb", tmp_path / "study.duckdb")


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["sql", "study.duckdb", *words])


def refusal(*words: str) -> str:
    """Return what `slideduck sql` says as it refuses."""
    result = run(*words)
    assert (result.exit_code, result.stdout) == (1, "")
    return result.stderr


def of_kind(kind: str, does: str, meant: str) -> str:
    return (
        f"error: the query is a statement of the kind {kind}, which {does}; give one that reads ({KINDS}), or, if it "
        f"is meant, give {meant}\n"
    )


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        pytest.param(
            "COPY (SELECT 1) TO 'study.duckdb'", "COPY", marks=attack("SQL", "COPY over the study's own file")
        ),
        pytest.param(
            "COPY (SELECT 1) TO 'study.duckdb' (USE_TMP_FILE false)",
            "COPY",
            marks=attack("SQL", "COPY over the study's own file, past DuckDB's own guard"),
        ),
        pytest.param(
            "COPY (SELECT 1) TO 'study.duckdb.wal' (USE_TMP_FILE false)",
            "COPY",
            marks=attack("SQL", "COPY that plants a log beside the study"),
        ),
        pytest.param("COPY (SELECT 1) TO 'out.csv'", "COPY", marks=attack("SQL", "COPY to a new file")),
        pytest.param(
            "COPY (SELECT 1 AS a) TO 'out.geojson' WITH (FORMAT gdal, DRIVER 'GeoJSON')",
            "COPY",
            marks=attack("SQL", "COPY to a new file by GDAL"),
        ),
        pytest.param(
            "EXPLAIN ANALYZE COPY (SELECT 1) TO 'out.csv'",
            "COPY",
            marks=attack("SQL", "COPY hidden behind EXPLAIN ANALYZE"),
        ),
        pytest.param("ATTACH 'other.duckdb' AS other", "ATTACH", marks=attack("SQL", "ATTACH of another study")),
        pytest.param("EXPORT DATABASE 'dump'", "EXPORT", marks=attack("SQL", "EXPORT DATABASE")),
        pytest.param("INSTALL httpfs", "LOAD", marks=attack("SQL", "INSTALL of an extension from the network")),
        pytest.param("LOAD 'evil.duckdb_extension'", "LOAD", marks=attack("SQL", "LOAD of a foreign library")),
        pytest.param(
            "SET enable_external_access = true", "SET", marks=attack("SQL", "SET that would open the file system")
        ),
        pytest.param(
            "CALL enable_logging(storage = 'file')", "CALL", marks=attack("SQL", "CALL that begins a log file")
        ),
        ("PRAGMA enable_profiling", "PRAGMA"),
        ("USE memory", "SET"),
        ("BEGIN", "TRANSACTION"),
        ("PREPARE p AS SELECT 1", "PREPARE"),
    ],
)
def test_statements_that_do_more_than_read_are_refused(unharmed: Path, query: str, kind: str) -> None:
    does = "does more than to read the study"
    assert refusal(query) == of_kind(kind, does, "--write and --allow-files")
    assert refusal(query, "--write") == of_kind(kind, does, "--allow-files")
    assert refusal(query, "--allow-files") == of_kind(kind, does, "--write")


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        pytest.param("DELETE FROM label_rule", "DELETE", marks=attack("SQL", "DELETE without --write")),
        ("CREATE TEMP TABLE t AS SELECT 1", "CREATE"),
        ("DROP VIEW labels", "DROP"),
        ("UPDATE slides SET mpp = 1", "UPDATE"),
        ("VACUUM", "VACUUM"),
    ],
)
def test_statements_that_change_the_study_need_write(unharmed: Path, query: str, kind: str) -> None:
    assert refusal(query) == of_kind(kind, "changes the study", "--write")


@attack("SQL", "several statements in one query")
def test_several_statements_are_refused(unharmed: Path) -> None:
    query = "ATTACH 'other.duckdb' AS other (READ_WRITE); DELETE FROM other.label_rule"
    for flags in ([], ["--write"], ["--write", "--allow-files"]):
        assert (
            refusal(query, *flags)
            == "error: the query has 2 statements; give one, and run the others each for itself\n"
        )
    assert refusal("/* nothing */") == "error: the query is empty; give one statement, such as: FROM labels\n"


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        pytest.param(
            "FROM read_text('/etc/passwd')",
            'Permission Error: Cannot access file "/etc/passwd" - file system operations are disabled by configuration',
            marks=attack("SQL", "read_text of any file"),
        ),
        pytest.param(
            "FROM read_blob('secret.txt')",
            'Permission Error: Cannot access file "secret.txt" - ',
            marks=attack("SQL", "read_blob of any file"),
        ),
        pytest.param(
            "FROM glob('*')", 'Permission Error: Cannot access file "*" - ', marks=attack("SQL", "glob of a folder")
        ),
        pytest.param(
            "FROM read_csv('rois.csv')",
            'Permission Error: Cannot access file "rois.csv" - ',
            marks=attack("SQL", "read_csv of any file"),
        ),
        pytest.param(
            "FROM 'rois.csv'",
            'Permission Error: Cannot access file "rois.csv" - ',
            marks=attack("SQL", "a file named like a table"),
        ),
        pytest.param(
            "FROM read_duckdb('other.duckdb')",
            'Permission Error: Cannot access file "other.duckdb" - ',
            marks=attack("SQL", "read_duckdb of another study"),
        ),
        pytest.param(
            "FROM ST_Read('rois.csv')",
            "IO Error: Could not open GDAL dataset at: rois.csv",
            marks=attack("SQL", "ST_Read of any file by GDAL"),
        ),
        pytest.param(
            "FROM query('FROM read_text(''secret.txt'')')",
            'Permission Error: Cannot access file "secret.txt" - ',
            marks=attack("SQL", "a query in a string"),
        ),
        pytest.param(
            "IMPORT DATABASE 'dump'",
            'Permission Error: Cannot access file "dump/schema.sql" - ',
            marks=attack("SQL", "IMPORT DATABASE, whose files the parser reads"),
        ),
        pytest.param(
            "FROM duckdb_secrets()",
            "Permission Error: Cannot access directory ",
            marks=attack("SQL", "the user's stored secrets"),
        ),
        pytest.param(
            "FROM 'https://localhost:9/x.csv'",
            'Permission Error: Cannot access file "https://localhost:9/x.csv" - ',
            marks=attack("SQL", "a file from the network"),
        ),
    ],
)
def test_queries_that_reach_beyond_the_study_are_refused(unharmed: Path, query: str, reason: str) -> None:
    said = refusal(query)
    assert said.startswith(f"error: {reason}")
    assert said.endswith(f"\n{REACH}\nin the query: {query}\n")
    assert "EXPLAIN" not in said
    assert "LINE 2" not in said


@attack("SQL", "ATTACH and COPY FROM with --write alone")
def test_writing_the_study_does_not_open_other_files(copied: Path) -> None:
    (copied.parent / "a.csv").write_text("a\n1\n")
    query = "CREATE TABLE notes AS FROM 'a.csv'"
    assert refusal(query, "--write") == (
        'error: Permission Error: Cannot access file "a.csv" - file system operations are disabled by configuration\n'
        f"{REACH}\nin the query: {query}\n"
    )
    assert run(query, "--write", "--allow-files").exit_code == 0
    assert json.loads(run("FROM notes", "--json").stdout) == [{"a": 1}]


@pytest.mark.parametrize(
    "query",
    [
        pytest.param(
            "FROM enable_logging(storage = 'file', storage_path = 'log')",
            marks=attack("SQL", "a log that ends the process"),
        ),
        pytest.param("FROM query('FROM enable_logging()')", marks=attack("SQL", "the same in a string")),
        "SELECT 1 FROM labels, enable_logging()",
        "EXPLAIN ANALYZE FROM enable_logging()",
    ],
)
def test_functions_that_change_settings_are_refused(unharmed: Path, query: str) -> None:
    for flags in ([], ["--allow-files"]):
        assert refusal(query, *flags) == (
            "error: the query calls enable_logging(), which changes settings of DuckDB; leave it out\n"
        )


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("FROM slides SELECT slide ORDER BY ALL LIMIT 1", [{"slide": "a"}]),
        ("WITH x AS (SELECT 1 AS a) FROM x", [{"a": 1}]),
        ("VALUES (1)", [{"col0": 1}]),
        ("/* a comment */ SELECT ST_AsText(ST_Point(1, 2)) AS p;", [{"p": "POINT (1 2)"}]),
        ("PIVOT (SELECT slide, 1 AS n FROM slides) ON slide USING count(*)", [{"n": 1, "a": 1, "b": 1, "c": 1}]),
        ("FROM tile_counts(['label']) SELECT label ORDER BY label", [{"label": "x"}, {"label": "y"}]),
        ("FROM query_table('slides') SELECT count(*) AS n", [{"n": 3}]),
    ],
)
def test_queries_that_read_run_as_before(unharmed: Path, query: str, rows: list[dict[str, object]]) -> None:
    result = run(query, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == rows


@pytest.mark.parametrize(
    "query",
    [
        "DESCRIBE labels", "SHOW TABLES", "SUMMARIZE slides", "EXPLAIN FROM labels", "SHOW ALL TABLES",
        "EXPLAIN (FORMAT json) FROM slides", "PRAGMA table_info('slides')",
    ],
)  # fmt: skip
def test_what_tells_of_the_study_runs_as_before(unharmed: Path, query: str) -> None:
    result = run(query)
    assert (result.exit_code, result.stderr) == (0, "")


def test_allow_files_reads_files_and_write_changes_the_study_alone(copied: Path) -> None:
    (copied.parent / "a.csv").write_text("a\n1\n")
    before = copied.read_bytes()
    assert json.loads(run("FROM 'a.csv'", "--json", "--allow-files").stdout) == [{"a": 1}]
    assert copied.read_bytes() == before
    assert run("CREATE TABLE notes AS SELECT 2 AS b", "--write").exit_code == 0
    assert json.loads(run("FROM notes", "--json").stdout) == [{"b": 2}]
    assert run("COPY notes TO 'b.csv'", "--write", "--allow-files").exit_code == 0
    assert (copied.parent / "b.csv").read_text() == "b\n2\n"


@attack("SQL", "COPY over the study with every permission")
@pytest.mark.parametrize("name", ["study.duckdb", "./study.duckdb", "link"])
def test_the_study_is_not_written_over_even_where_files_are_allowed(copied: Path, name: str) -> None:
    (copied.parent / "link").symlink_to(copied)
    before = copied.read_bytes()
    assert refusal(f"COPY (SELECT 1) TO '{name}' (USE_TMP_FILE false)", "--write", "--allow-files") == (
        "error: the query would write over the study itself, study.duckdb; name another file\n"
    )
    assert copied.read_bytes() == before


@attack("SQL", "a variable of the program read as a table")
def test_variables_of_python_are_no_tables(unharmed: Path) -> None:
    secret = pa.table({"a": [1]})
    with sd.open("study.duckdb", read_only=True, sealed=True) as study:
        with pytest.raises(QueryError) as caught:
            study.sql("FROM secret")
        assert str(caught.value).startswith("Catalog Error: Table with name secret does not exist!")
        assert study.sql("FROM slides").columns[0] == "slide_id"
    assert secret.num_rows == 1


def test_a_sealed_study_says_in_python_what_to_give(unharmed: Path) -> None:
    with sd.open("study.duckdb", read_only=True, sealed=True) as study:
        for query, meant in (
            ("DELETE FROM label_rule", "`read_only=False`"),
            ("COPY (SELECT 1) TO 'x'", "`read_only=False` and `allow_files=True`"),
        ):
            with pytest.raises(QueryError) as caught:
                study.sql(query)
            assert str(caught.value).endswith(f"or, if it is meant, give {meant}")
        with pytest.raises(QueryError) as caught:
            study.sql("FROM 'rois.csv'")
        assert "if the file is meant, give `allow_files=True`\n" in str(caught.value)
        assert study.sql("SELECT slide FROM slides WHERE slide = $slide", {"slide": "a"}).fetchall() == [("a",)]
    with sd.open("study.duckdb", read_only=True, sealed=True, allow_files=True) as study:
        assert len(study.sql("FROM 'rois.csv'").fetchall()) == 12
    with sd.open("study.duckdb", read_only=True) as study:
        assert study.sql("FROM 'rois.csv'").fetchall() != []  # not sealed, it is the user's own
        with pytest.raises(QueryError) as caught:
            study.answer("FROM slides", timeout=1)
        assert str(caught.value) == (
            "`timeout` needs a study that was opened with sealed=True; open it so, or use sql()"
        )


def test_a_sealed_study_changes_nothing_for_another_connection_of_the_process(unharmed: Path) -> None:
    with sd.open("study.duckdb", read_only=True) as own, sd.open("study.duckdb", read_only=True, sealed=True) as sealed:
        own.con.execute("SET threads = 1")
        assert own.sql("FROM 'rois.csv'").fetchall() != []
        with sd.open("study.duckdb", read_only=True, sealed=True) as second:
            assert (
                second.sql("SELECT count(*) FROM labels").fetchall()
                == sealed.sql("SELECT count(*) FROM labels").fetchall()
            )
        with pytest.raises(duckdb.InvalidInputException, match="configuration has been locked"):
            sealed.con.execute("SET threads = 1")


@attack("SQL", "a query that never ends")
def test_a_query_that_takes_too_long_is_ended(unharmed: Path) -> None:
    for query in ("SELECT sum(range) FROM range(1_000_000_000_000)", "FROM range(1_000_000_000_000)"):
        assert refusal(query, "--timeout", "0.3") == (
            "error: the query took longer than 0.3 seconds; give it more with --timeout, or ask for less\n"
        )
    result = run("SELECT sum(range) AS s FROM range(1000)", "--timeout", "30", "--json")
    assert json.loads(result.stdout) == [{"s": "499500"}] or json.loads(result.stdout) == [{"s": 499500}]


def test_an_interrupt_is_none_of_the_time_limit(unharmed: Path) -> None:
    with sd.open("study.duckdb", read_only=True, sealed=True) as study:
        threading.Timer(0.3, study.con.interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            study.answer("SELECT sum(range) FROM range(1_000_000_000_000)", timeout=60)


@attack("SQL", "an answer that fills the memory")
def test_a_query_that_needs_too_much_memory_is_ended(unharmed: Path) -> None:
    query = "FROM range(20_000_000)"
    assert refusal(query, "--memory", "64MB") == (
        "error: the answer has more than 0.064 GB; give it more with --memory, or ask for less, such as by LIMIT 1000\n"
    )
    assert run(query + " LIMIT 1000", "--memory", "64MB", "--json").exit_code == 0
    query = "SELECT list(range) FROM range(100_000_000)"
    said = refusal(query, "--memory", "64MB")
    assert said.startswith("error: Out of Memory Error: ")
    assert said.endswith(f"\ngive it more memory with --memory\nin the query: {query}\n")
    assert refusal("SELECT 1", "--memory", "much") == (
        "error: memory is 'much'; give an amount of 64 MB or more, such as 4GB\n"
    )


@pytest.mark.parametrize(
    ("query", "said"),
    [
        pytest.param(
            "SELECT " + "(" * 10_000 + "1" + ")" * 10_000,
            "error: Parser Error: memory exhausted at or near ",
            marks=attack("bombs", "a query of 10,000 brackets"),
        ),
        (
            "SELECT " + "abs(" * 2_000 + "1" + ")" * 2_000,
            "error: Parser Error: Max expression depth limit of 1000 exceeded.",
        ),
        pytest.param(
            "SELECT true" + " AND true" * 100_000,
            "error: the query is too large: AND and OR join 100,001 parts, and at most 10,000 are read; write a list: "
            "slide IN ('a', 'b')\n",
            marks=attack("bombs", "a query that the parser reads for minutes"),
        ),
        (
            "SELECT '" + "a" * 16_000_000 + "'",
            "error: the query is too large: it has 16,000,009 characters, and at most 16,000,000 are read\n",
        ),
    ],
    ids=["brackets", "functions", "parts", "characters"],
)
def test_a_query_that_is_too_deep_or_too_large_is_refused(unharmed: Path, query: str, said: str) -> None:
    result = CliRunner().invoke(cli, ["sql", "study.duckdb", "-"], input=query)
    assert result.exit_code == 1
    assert result.stderr.startswith(said)


FOREIGN = (
    "study.duckdb holds 1 view that slideduck did not make: labels; who wrote it may have others answer; make them "
    "anew with: slideduck sql study.duckdb 'SHOW TABLES' --write"
)


@attack("SQL", "a study whose view labels reads another file")
def test_a_view_that_is_not_ours_is_named_and_made_anew(copied: Path) -> None:
    with sd.open(copied) as study:
        # Whoever writes a file writes its fingerprint too.
        study.con.execute("CREATE OR REPLACE VIEW labels AS SELECT * FROM read_text('/etc/passwd')")
    assert refusal("FROM labels") == f"error: {FOREIGN}\n"
    for sealed in (True, False):
        with pytest.raises(StudyError) as caught:
            sd.open(copied, read_only=True, sealed=sealed)
        assert str(caught.value) == FOREIGN
    assert run("SHOW TABLES", "--write").exit_code == 0
    assert json.loads(run("SELECT count(*) AS n FROM labels", "--json").stdout) == [{"n": 12}]


@attack("SQL", "a macro of a foreign study in the place of DuckDB's function")
def test_a_macro_does_not_take_the_place_of_a_function(copied: Path) -> None:
    with sd.open(copied) as study:
        study.con.execute("CREATE MACRO sum(x) AS 666")
        study.con.execute("CREATE MACRO duckdb_tables() AS TABLE SELECT 'meta' AS table_name")
        study.con.execute("CREATE MACRO peek() AS (SELECT content FROM read_text('/etc/passwd'))")
    result = run(
        "SELECT sum(n)::INTEGER AS s, count(*) > 5 AS t FROM (VALUES (1), (2)) AS x(n), duckdb_tables()", "--json"
    )
    assert json.loads(result.stdout) == [
        {"s": 3 * json.loads(run("SELECT count(*) AS n FROM duckdb_tables()", "--json").stdout)[0]["n"], "t": True}
    ]
    assert refusal("SELECT peek()").startswith('error: Permission Error: Cannot access file "/etc/passwd" - ')


def test_the_texts_of_our_views_are_those_that_duckdb_writes_down(unharmed: Path) -> None:
    with sd.open("study.duckdb", read_only=True) as study:
        assert foreign_views(study.con) == [], f"in engine/store/views.py write _DIGESTS = {view_digests(study.con)}"
        assert duckdb.__version__ == "1.5.5", "write the new texts and _WRITTEN_BY into engine/store/views.py"
