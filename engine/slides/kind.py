"""Tells slides from what lies beside them: masks, label images, thumbnails, plain pictures, other files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import openslide

from slideduck.errors import SlideError
from slideduck.files.find import reason
from slideduck.slides.tiff import first_page, outline

__all__ = ["conversion", "no_slide", "require_eight_bits", "unlike_a_slide"]

#: What programs write behind a slide's name when they name its mask, its label or a small picture of it.
_BESIDE = re.compile(r"(?i)[-_. ](masks?|labels?|label-?images?|labelled|segmentation|thumb|thumbnail|macro|overview)$")

# Tags of TIFF 6.0.
_BITS, _PHOTOMETRIC, _SAMPLES, _TILE_WIDTH = 258, 262, 277, 322
_PALETTE = 3

#: More colours than a mask has; a photograph has thousands.
_MOST_MASK_COLOURS = 8
#: Side of the piece of a slide in which colours are counted, pixels.
_LOOK_PX = 512

_MAGIC = {b"\xff\xd8\xff": "a plain JPEG", b"\x89PNG": "a PNG", b"BM": "a BMP", b"GIF8": "a GIF"}
_APPLE_DOUBLE = b"\x00\x05\x16\x07"


def conversion(path: Path) -> str | None:
    """Return what a picture is that OpenSlide does not read, and how to make a slide of it; None for other files."""
    with path.open("rb") as file:
        head = file.read(8)
    what = next((what for magic, what in _MAGIC.items() if head.startswith(magic)), None)
    page = first_page(path)
    if page is not None and _BITS in page:
        what = "a TIFF in strips" if _TILE_WIDTH not in page else "a tiled TIFF of another kind"
    if what is None:
        return None
    return (
        f"{what}, which OpenSlide does not read; make a tiled pyramid of it, such as with: vips tiffsave "
        f"{path.name} {path.stem}_tiled.tif --tile --pyramid --compression jpeg --Q 90 --tile-width 256 "
        "--tile-height 256 --bigtiff"
    )


def require_eight_bits(path: Path, place: str) -> None:
    """Refuse a generic TIFF of more than 8 bits a sample.

    Raises
    ------
    SlideError
        With how to make 8 bits of them.
    """
    page = first_page(path) or {}
    bits = int(max(page.get(_BITS, [8])))
    if bits > 8:
        raise SlideError(
            f"{place} has {bits} bits a sample, of which OpenSlide keeps the upper 8, so that most such pictures come "
            f"out black; make 8 bits of them, such as with: vips scale {path.name} "
            f"'{path.stem}_8bit.tif[tile,pyramid,compression=jpeg,Q=90,tile_width=256,tile_height=256,bigtiff]'"
        )


def no_slide(path: Path, suffixes: tuple[str, ...]) -> str | None:
    """Return why a file is no slide, by its first bytes and its suffix; None for one that may be, damaged or not.

    Parameters
    ----------
    path : Path
        A file.
    suffixes : tuple of str
        Suffixes of slides, lower case: such a file is one, however damaged.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
        if head.startswith(_APPLE_DOUBLE):
            return "what macOS keeps beside a file of that name, and no slide"
        if path.suffix.lower() in suffixes:
            return None
        found = outline(path)
        if found is not None and found.flaw is not None:
            return found.flaw
        if openslide.OpenSlide.detect_format(path) is not None:
            return None
        return conversion(path) or "no slide, by its suffix and its first bytes"
    except OSError as error:
        # What is a slide by its suffix is kept with this as its error.
        return None if path.suffix.lower() in suffixes else f"cannot be read: {reason(error)}"


def unlike_a_slide(path: Path) -> str | None:
    """Return why a file is rather a mask, a label image or a thumbnail; None if it looks like a slide.

    What a scanner's own format holds is a slide, whatever its name; so only generic TIFFs and files that OpenSlide does
    not read can be something else.
    """
    try:
        found = outline(path)
        # A header that OpenSlide is not to be given in this process, or that has no pixels: reading it says why.
        if found is not None and not (found.is_plain and found.needed <= path.stat().st_size):
            return None
        if openslide.OpenSlide.detect_format(path) not in (None, "generic-tiff"):
            return None
        page = first_page(path) or {}
    except OSError:
        return None
    if int(page.get(_PHOTOMETRIC, [2])[0]) == _PALETTE:
        return "colours of a palette, as label images have"
    if int(page.get(_SAMPLES, [3])[0]) == 1 and int(page.get(_BITS, [8])[0]) <= 8:
        return "one channel"
    beside = _BESIDE.search(re.sub(r"(?i)\.ome$", "", path.stem))
    if beside:
        return f"named as what lies beside a slide ({beside[0]})"
    n = _colours_in_the_middle(path)
    return f"{n} colours alone" if 1 < n <= _MOST_MASK_COLOURS else None


def _colours_in_the_middle(path: Path) -> int:
    """Return how many colours the middle of the smallest level has; 0 where it cannot be read."""
    try:
        with openslide.OpenSlide(path) as slide:
            level = slide.level_count - 1
            width, height = slide.level_dimensions[level]
            size = (min(width, _LOOK_PX), min(height, _LOOK_PX))
            downsample = slide.level_downsamples[level]
            corner = (int((width - size[0]) // 2 * downsample), int((height - size[1]) // 2 * downsample))
            pixels = np.asarray(slide.read_region(corner, level, size))
    except (openslide.OpenSlideError, OSError):
        # Reading its header says what is wrong with it.
        return 0
    return len(np.unique(np.ascontiguousarray(pixels).view(np.uint32)))
