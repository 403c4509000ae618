"""The SQL of slideduck, as data: the schema, its macros, views and queries."""

if __name__ != "slideduck.sql":  # the folder's name is not the package's name
    raise ImportError("import slideduck.sql, not sql (after: pip install -e .)")
