"""The DuckDB file of a study: its connection, its tables and views, and the SQL that makes them."""
