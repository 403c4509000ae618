"""Whether the views of a study are those that slideduck makes: a file that came from elsewhere may hold others.

A study says itself by which scripts its views were made, which proves nothing. So their text is compared, as DuckDB
writes it down; that takes 2 ms at each opening. Macros are not compared, since listing them takes DuckDB 35 ms. On a
sealed connection DuckDB's own functions go before a macro of the same name, whatever calls them but a view; and a macro
cannot leave the study there either. Conditions look up the macros that they call; see `slideduck.labels.permitted`.
"""

from __future__ import annotations

import hashlib

import duckdb

__all__ = ["foreign_views", "view_digests"]

#: The DuckDB that wrote the texts down. Another one may write them in another way, and then nothing is compared.
_WRITTEN_BY = "1.5.5"

#: The first digits of the SHA-256 of each view's text.
_DIGESTS = {
    "conflicts": "169c81b0d0c830fe",
    "counts": "3d192ff74c44f68c",
    "errors": "1a46e89290e23a3b",
    "given_label": "594587c7132c8ea0",
    "grid_on_slide": "504580eb61857e98",
    "held_roi": "549cb21b00054f25",
    "label_areas": "e7ce0db9246d911f",
    "labels": "f049beb185230bb1",
    "looked_at": "905ae15256154b32",
    "measured_tile": "c6081492de0feb43",
    "ranked_roi": "3042ba64976cfadc",
    "roi_tiles": "8135fb9aac8b1110",
    "slide_roi_set": "fa3611da89bd350d",
    "tile_winner": "dc4d579ffed42aaa",
}


def foreign_views(con: duckdb.DuckDBPyConnection) -> list[str]:
    """Return the views of a study that are not as slideduck makes them, or are not there, in the order of names."""
    if duckdb.__version__ != _WRITTEN_BY:
        return []
    found = view_digests(con)
    return [name for name, digest in _DIGESTS.items() if found.get(name) != digest]


def view_digests(con: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Return the first digits of the SHA-256 of each view's text, in the order of names."""
    rows = con.execute(
        "SELECT view_name, sql FROM system.main.duckdb_views() WHERE NOT internal AND NOT temporary "
        "AND schema_name = 'main' ORDER BY view_name"
    ).fetchall()
    return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in rows}
