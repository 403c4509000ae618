"""Each file of SQL says what it is (its style is a part of `make check`), and what each table and column holds."""

from __future__ import annotations

from pathlib import Path

import duckdb

import slideduck

ROOT = Path(__file__).resolve().parents[2]


def test_every_query_file_is_one_statement_with_a_header() -> None:
    for path in sorted((ROOT / "sql").rglob("*.sql")):
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"-- {path.stem}: "), f"{path.relative_to(ROOT)} begins with its name and what it is"
        if path.parent.name == "queries":
            assert len(duckdb.extract_statements(text)) == 1, path.relative_to(ROOT)


def test_every_table_view_and_column_has_a_comment(tmp_path: Path) -> None:
    with slideduck.open(tmp_path / "study.duckdb") as study:
        uncommented = study.con.execute(
            """
            SELECT table_name FROM duckdb_tables() WHERE comment IS NULL
            UNION ALL
            SELECT view_name FROM duckdb_views() WHERE comment IS NULL AND NOT internal
            UNION ALL
            SELECT concat(table_name, '.', column_name) FROM duckdb_columns()
            WHERE comment IS NULL AND NOT internal
            """
        ).fetchall()
        tables = study.con.execute("SELECT count(*) FROM duckdb_tables()").fetchone()
    assert uncommented == []
    assert tables is not None
    assert tables[0] > 10
