"""Betons: FFCV files of tiles with a side-car that says what the tiles are.

The names that other modules use are gathered here: `slideduck.betons.format` has the file format and its check,
`slideduck.betons.writer` the writer, `slideduck.betons.sidecar` the side-car, `slideduck.slides.jpeg` the images,
`slideduck.betons.merge` merges shards, and `slideduck.betons.check` compares a beton with its side-car and slides.
"""

from __future__ import annotations

from slideduck.betons.check import BetonReport, verify_beton
from slideduck.betons.format import BetonInfo, check_beton, page_size_for
from slideduck.betons.merge import MergeReport, merge_betons
from slideduck.betons.sidecar import Sidecar, SlideInfo, read_sidecar, sidecar_path, write_sidecar
from slideduck.betons.writer import BetonWriter, WrittenBeton
from slideduck.slides.jpeg import decode_jpeg, encode_jpeg

__all__ = [
    "BetonInfo",
    "BetonReport",
    "BetonWriter",
    "MergeReport",
    "Sidecar",
    "SlideInfo",
    "WrittenBeton",
    "check_beton",
    "decode_jpeg",
    "encode_jpeg",
    "merge_betons",
    "page_size_for",
    "read_sidecar",
    "sidecar_path",
    "verify_beton",
    "write_sidecar",
]
