"""Studies whose tiles are partly taken as stored and partly encoded: ``from tests.mixed_study import write_study``."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import tifffile

import slideduck as sd
from tests.slides import write_slide

__all__ = ["SLIDES", "add_again", "damage_tile", "write_study"]

#: Two slides whose stored JPEG tiles are those of the grid, and one without JPEG between them.
SLIDES = ("a.svs", "b.tif", "c.tif")


def write_study(folder: Path, *, tile: int = 64, size: tuple[int, int] = (512, 384), noise: int = 12) -> Path:
    """Write three slides and a study of them, labelled on the grid of their stored tiles; return its path.

    Parameters
    ----------
    folder : Path
        Where to; the slides go to ``folder/slides``.
    tile : int
        Side of the stored tiles and of the grid's, pixels.
    size : (int, int)
        Width and height of each slide, pixels.
    noise : int
        How far pixels are from 150: more of it makes larger JPEGs.
    """
    slides = folder / "slides"
    slides.mkdir(parents=True)
    width, height = size
    lines = ["slide,roi_name,x_base,y_base,label"]
    for i, name in enumerate(SLIDES):
        image = np.random.default_rng(i).integers(150 - noise, 150 + noise, (height, width, 3), np.uint8)
        vendor, compression = ("generic", "deflate") if i == 1 else ("aperio" if i == 0 else "generic", "jpeg")
        write_slide(slides / name, image, levels=2, tile=tile, vendor=vendor, compression=compression)  # type: ignore[arg-type]
        for x, y in ((0, 0), (width, 0), (width, height), (0, height)):
            lines.append(f"{name[0]},r,{x},{y},{'xy'[i % 2]}")
    rois = folder / "rois.csv"
    rois.write_text("\n".join(lines) + "\n")
    path = folder / "mixed.duckdb"
    with sd.open(path) as study:
        study.add_slides(slides)
        study.add_rois(rois)
        study.tile(tile, tile_um=tile / 2)
        study.label()
    return path


def add_again(study: Path, slides: Path) -> None:
    """Add slides again that were damaged: the damage is that of the file that the study knows then."""
    with sd.open(study) as opened:
        opened.add_slides(slides)
        opened.label()


def damage_tile(path: Path, place: int, *, fill: bytes = b"\0") -> None:
    """Overwrite a stored tile of level 0; the file keeps its size and time."""
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[place], tiff.pages[0].databytecounts[place]
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        file.write((fill * count)[:count])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
