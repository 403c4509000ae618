"""Draws a slide with its ROIs and the labels of its tiles as one page to zoom and pan in, which needs no network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from html import escape as escaped
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slideduck.draw.data import NO_LABEL, REMOVED, DrawnRoi, DrawnSlide, TileMap, read_drawn
from slideduck.errors import StudyError
from slideduck.files.write import check_folder, explained, write_whole
from slideduck.rois.frame import SlideFrame
from slideduck.slides.jpeg import encode_jpeg
from slideduck.slides.reader import thumbnail
from slideduck.store.handle import Handle
from slideduck.words import counted, printable

__all__ = ["PAGE_PX", "PAGE_SUFFIXES", "page"]

#: How a page is named.
PAGE_SUFFIXES = (".html", ".htm")

#: Longer side of the slide's picture on a page unless told otherwise, pixels.
PAGE_PX = 4096

_JPEG_QUALITY = 80
#: Opacity of tiles at first, percent.
_OPACITY = 38
_NO_LABEL_COLOUR = "#4D4D4D"
_SCANNED = "part that was scanned (bounds)"
_MARK = re.compile(r"@@(\w+)@@")


def page(
    handle: Handle,
    slide: str,
    out: str | os.PathLike[str],
    *,
    grid: str | None = None,
    max_px: int = PAGE_PX,
    tiles: bool = True,
    rois: bool = True,
) -> Path:
    """Write one HTML file that shows a slide with its ROIs and tiles in any browser, with no network.

    The same study gives the same bytes. Names and labels from the study are text on the page and nothing else:
    they are escaped, and the page's own policy lets no script run but its own, and loads nothing.

    Parameters
    ----------
    handle : Handle
        With the slide, and labels in force for it.
    slide : str
        Name of the slide.
    out : path
        File to write, ``.html`` or ``.htm``; one that is there is replaced once the page is whole.
    grid : str, optional
        Name of the grid; needed where the study has several and tiles are drawn.
    max_px : int, default 4096
        Longer side of the slide's picture on the page, pixels.
    tiles, rois : bool, default True
        Whether tiles and ROIs are drawn.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    StudyError
        If the file is named otherwise, the slide or the grid is not in the study, its labels are missing or out
        of date, or the file cannot be written.
    SlideError
        If the slide does not open.
    DiskFullError
        If there is no room for the file.
    """
    out = Path(out)
    if out.suffix.lower() not in PAGE_SUFFIXES:
        raise StudyError(f"{out.name} is not named as a page; name it {out.stem}.html")
    check_folder(out)
    drawn = read_drawn(handle, slide, grid=grid, tiles=tiles)
    picture, _ = thumbnail(drawn.file, max_px)
    text = _filled(drawn, encode_jpeg(picture, _JPEG_QUALITY), rois=rois)
    with explained(out, full="; free some, and draw it again"):
        write_whole(out, lambda file: file.write(text.encode()))
    return out


def _filled(drawn: DrawnSlide, jpeg: bytes, *, rois: bool) -> str:
    """Return the text of the page."""
    template = _template()
    tiles = drawn.tiles
    drawn_rois = drawn.rois if rois else ()
    size_mm = f"{drawn.width * drawn.mpp / 1000:.3g} × {drawn.height * drawn.mpp / 1000:.3g} mm"
    size = f"{drawn.width:,} × {drawn.height:,} base pixels, {size_mm}"
    amounts = [counted(len(drawn_rois), "ROI")] if rois else []
    if tiles is not None:
        amounts.append(f"{counted(tiles.state.size, 'tile')} of grid {tiles.grid}")
    by_label = [
        f"{label} {tiles.count(number):,}" for number, label in enumerate(drawn.labels) if tiles and tiles.count(number)
    ]
    alt = ": ".join([f"Slide {drawn.slide}, {size_mm}", *(["; ".join([*amounts, *by_label])] if amounts else [])])
    values = {
        "script_hash": _policy_hash(template, "script"),
        "style_hash": _policy_hash(template, "style"),
        "title": _text(f"{drawn.slide}: " + (f"labels of grid {tiles.grid}" if tiles else "ROIs")),
        "alt": _text(alt),
        "jpeg": base64.b64encode(jpeg).decode("ascii"),
        "outlines_label": f"Outlines of {counted(len(drawn_rois), 'ROI')}",
        "width": str(drawn.width),
        "height": str(drawn.height),
        "outlines": "\n".join(
            [*_scanned(drawn.frame), *(_outline(number, roi, drawn) for number, roi in enumerate(drawn_rois))]
        ),
        "slide": _text(drawn.slide),
        "subtitle": _text("; ".join([*([f"grid {tiles.grid}"] if tiles else []), size])),
        "legend": _legend(drawn, rois=rois),
        "opacity": _opacity() if tiles else "",
        "data": _data(drawn),
    }
    # All at once: what a value holds is never taken for a mark.
    return _MARK.sub(lambda mark: values[mark[1]], template)


def _text(text: str) -> str:
    """Return a text as it stands in an element or an attribute, with control characters written out."""
    return escaped(printable(text))


@cache
def _template() -> str:
    return (files("slideduck.draw") / "page.html").read_text(encoding="utf-8")


def _policy_hash(template: str, tag: str) -> str:
    """Return the hash by which the page's policy knows its own script, or style."""
    found = re.search(rf"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
    assert found is not None
    return "sha256-" + base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode("ascii")


def _data(drawn: DrawnSlide) -> str:
    """Return the data for the page's script, as JSON that is safe within a script element."""
    values: dict[str, Any] = {
        "slide": printable(drawn.slide),
        "width": drawn.width,
        "height": drawn.height,
        "mpp": drawn.mpp,
        "labels": [{"name": printable(label), "colour": drawn.colours[label]} for label in drawn.labels],
        "rois": [
            {
                "name": printable(roi.name),
                "label": NO_LABEL if roi.label is None else drawn.labels.index(roi.label),
                "box": [float(side) for side in (*_all_points(roi).min(axis=0), *_all_points(roi).max(axis=0))],
            }
            for roi in drawn.rois
        ],
        "tiles": None if drawn.tiles is None else _tiles(drawn.tiles),
    }
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _all_points(roi: DrawnRoi) -> npt.NDArray[np.float64]:
    return np.concatenate(roi.rings)


def _tiles(tiles: TileMap) -> dict[str, Any]:
    """Return the tiles as runs of equal ones: length, state, ROI, coverage in ten thousandths; -1 for none."""
    coverage = np.nan_to_num(np.round(tiles.coverage * 10_000), nan=-1).astype(np.int32)
    facts = np.stack([tiles.state, tiles.roi, coverage], axis=-1).reshape(-1, 3)
    first = np.flatnonzero(np.r_[True, (facts[1:] != facts[:-1]).any(axis=1)][: len(facts)])
    lengths = np.diff(np.r_[first, len(facts)])
    n_rows, n_columns = tiles.state.shape
    return {
        "grid": tiles.grid,
        "columns": n_columns,
        "rows": n_rows,
        "extract_px": tiles.extract_px,
        "stride": tiles.stride,
        "origin_x": tiles.origin_x,
        "origin_y": tiles.origin_y,
        "runs": np.column_stack([lengths, facts[first]]).ravel().tolist(),
    }


def _outline(number: int, roi: DrawnRoi, drawn: DrawnSlide) -> str:
    """Return the outline of an ROI, white under colour; its coordinates are base pixels."""
    path = "".join("M" + "L".join(f"{_short(x)} {_short(y)}" for x, y in ring[:-1]) + "Z" for ring in roi.rings)
    key = NO_LABEL if roi.label is None else drawn.labels.index(roi.label)
    colour = _NO_LABEL_COLOUR if roi.label is None else drawn.colours[roi.label]
    title = _text(f"{roi.name}: {roi.label or 'no label'}")
    dashed = " dashed" if roi.label is None else ""
    return (
        f'<g data-label="{key}"><title>{title}</title><g class="halo">'
        f'<path id="roi{number}" vector-effect="non-scaling-stroke" d="{path}"/></g>'
        f'<g class="line{dashed}" stroke="{colour}"><use href="#roi{number}"/></g></g>'
    )


def _scanned(frame: SlideFrame) -> Iterator[str]:
    """Yield the frame around what was scanned, where that is a part of the slide; base pixels."""
    if frame.is_part:
        place = f'x="{frame.bounds_x}" y="{frame.bounds_y}" width="{frame.bounds_width}" height="{frame.bounds_height}"'
        yield (
            f'<g class="frame"><title>{_SCANNED}</title>'
            f'<rect class="under" vector-effect="non-scaling-stroke" {place}/>'
            f'<rect vector-effect="non-scaling-stroke" {place}/></g>'
        )


def _short(value: float) -> str:
    """Return a coordinate with two decimals at most: a hundredth of a base pixel is finer than any line."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _legend(drawn: DrawnSlide, *, rois: bool) -> str:
    """Return the rows of the legend, with a box to tick for the tiles and for the ROIs of each label."""
    tiles = drawn.tiles
    kinds = [*(["tiles"] if tiles is not None else []), *(["rois"] if rois else [])]
    titles = {"tiles": "Tiles", "rois": "ROIs"}
    boxes = (
        f'<th scope="col" class="amount"><label>{titles[kind]} '
        f'<input type="checkbox" checked data-all="{kind}" aria-label="{titles[kind]} of every label"></label></th>'
        for kind in kinds
    )
    rows = [f'<thead><tr><th></th><th scope="col">Label</th>{"".join(boxes)}</tr></thead>', "<tbody>"]

    def add_row(sample: str, name: str, key: int, amounts: dict[str, int]) -> None:
        cells = [f'<td><svg width="20" height="14" aria-hidden="true">{sample}</svg></td>']
        cells.append(f'<th scope="row">{_text(name)}</th>')
        for kind in kinds:
            amount = amounts.get(kind)
            box = f'<input type="checkbox" checked data-kind="{kind}" data-key="{key}"'
            label = f'<label>{amount:,} {box} aria-label="{titles[kind]}: {_text(name)}"></label>' if amount else ""
            cells.append(f'<td class="amount">{label}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")

    of_label = Counter(roi.label for roi in drawn.rois)
    count: Callable[[int], int] = tiles.count if tiles is not None else lambda state: 0
    for number, label in enumerate(drawn.labels):
        colour = drawn.colours[label]
        look = f'fill="{colour}" fill-opacity=".38" stroke="{colour}" stroke-width="2"'
        artifact = any(roi.is_artifact for roi in drawn.rois if roi.label == label)
        add_row(
            f'<rect x="1" y="1" width="18" height="12" {look}/>',
            f"{label} (artifact)" if artifact else label,
            number,
            {"tiles": count(number), "rois": of_label[label]},
        )
    if count(NO_LABEL) or (rois and of_label[None]):
        look, path = 'stroke-width="2" stroke-dasharray="5 2.5"', "M1 7H19"
        if not (rois and of_label[None]):
            look, path = 'fill="none"', "M.5.5H19.5V13.5H.5ZM7 0V14M13 0V14M0 7H20"
        amounts = {"tiles": count(NO_LABEL), "rois": of_label[None]}
        add_row(f'<path d="{path}" stroke="{_NO_LABEL_COLOUR}" {look}/>', "no label", NO_LABEL, amounts)
    if count(REMOVED):
        add_row('<rect width="20" height="14" fill="#E6E2E6"/>', "not kept, paler", REMOVED, {"tiles": count(REMOVED)})
    if drawn.frame.is_part:
        look = f'stroke="{_NO_LABEL_COLOUR}" stroke-dasharray="6 3"'
        name = f"{_SCANNED}, from x {drawn.frame.bounds_x}, y {drawn.frame.bounds_y}"
        add_row(f'<path d="M1 7H19" {look}/>', name, NO_LABEL, {})
    return "\n".join([*rows, "</tbody>"])


def _opacity() -> str:
    return (
        f'<label id="opacity_row">Opacity of tiles <output id="percent" for="opacity">{_OPACITY} %</output>'
        f'<input type="range" id="opacity" min="0" max="100" value="{_OPACITY}"></label>'
    )
