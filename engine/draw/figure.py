"""Figures: their style, a slide's frame with scale bar and legend, and whole files of them."""

from __future__ import annotations

import logging
import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from slideduck.draw.data import NO_LABEL, REMOVED, DrawnSlide
from slideduck.draw.layers import DASHES, FILL, FRAME_STYLE, LINE_COLOUR
from slideduck.errors import StudyError
from slideduck.files.write import explained, write_whole
from slideduck.words import counted, printable

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ft2font import FT2Font
    from matplotlib.legend import Legend
    from matplotlib.text import Text


__all__ = [
    "PICTURE_METADATA",
    "THUMBNAIL_PX",
    "check_picture",
    "draw_legend",
    "keep_texts",
    "length_text",
    "own_style",
    "save_figure",
    "scale_bar_um",
    "slide_figure",
    "suffix_problem",
]

#: Kinds of pictures by suffix, with what matplotlib would write of itself or of the day: a newer version, or
#: another day, then changed every picture.
PICTURE_METADATA: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    ".svg": {"Creator": None, "Date": None},
}
_DPI = 200
#: Bounds of the picture itself on the page, inches.
_PICTURE_INCHES = (6.5, 8.0)
#: The longer side of the picture of a slide that is read, pixels.
THUMBNAIL_PX = 1600

_TEXT_COLOUR = "#222222"
_LEGEND_CHARACTERS = 30

#: Letters that matplotlib's own font lacks are drawn by the first of these that is installed and has them.
_MORE_FONTS = (
    "Noto Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK KR", "Noto Sans CJK TC", "Noto Sans JP",
    "Noto Sans SC", "Noto Sans KR", "Source Han Sans", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "IPAGothic",
    "IPAexGothic", "IPAPGothic", "TakaoGothic", "VL Gothic", "NanumGothic", "UnDotum", "Baekmuk Gulim",
    "Droid Sans Fallback", "AR PL UMing CN", "Arial Unicode MS", "Hiragino Sans", "PingFang SC", "Apple SD Gothic Neo",
    "Microsoft YaHei", "SimHei", "Yu Gothic", "MS Gothic", "Malgun Gothic", "Unifont",
)  # fmt: skip

#: Letters of which a warning was given already, where one is enough.
_told: set[str] = set()


def scale_bar_um(width_um: float) -> float:
    """Return a round length, 1, 2 or 5 times a power of ten, of about a fifth of a width; both in microns."""
    wanted = width_um / 5
    power = 10.0 ** math.floor(math.log10(wanted))
    return max(step * power for step in (1, 2, 5) if step * power <= wanted * 1.0001)


def length_text(length_um: float) -> str:
    """Return a length in microns, or in millimetres from one on."""
    return f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"


def save_figure(figure: Figure, out: Path, *, dpi: int | None = None) -> None:
    """Write a figure under a temporary name and rename it; the same figure gives the same bytes.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The figure.
    out : Path
        The file; ``.png``, ``.pdf`` or ``.svg``.
    dpi : int, optional
        Dots per inch of a PNG; default 200.

    Raises
    ------
    SlideduckError
        If the suffix is another, the folder is missing, or nothing can be written there.
    DiskFullError
        If there is no room; a picture that was there stays.
    """
    check_picture(out, dpi)
    keep_texts(figure)
    import matplotlib

    suffix = out.suffix.lower()
    # Ids of an SVG are hashes of what they name, salted at random unless told otherwise. Journals refuse the fonts that
    # matplotlib puts into a PDF by itself (type 3).
    with (
        explained(out, full="; free some, and draw it again"),
        matplotlib.rc_context({"svg.hashsalt": "slideduck", "pdf.fonttype": 42}),
    ):
        write_whole(
            out,
            lambda file: figure.savefig(
                file,
                format=suffix[1:],
                dpi=dpi or _DPI,
                bbox_inches="tight",
                pad_inches=0.12,
                metadata=PICTURE_METADATA[suffix],
            ),
        )


@contextmanager
def own_style(words: str, *, page: bool = False, once: bool = False) -> Iterator[None]:
    """Draw in matplotlib's own style within a block; the user's settings are restored afterwards.

    Parameters
    ----------
    words : str
        All that will be written: other fonts are taken for characters that matplotlib's own lacks.
    page : bool
        A page can be written instead, which a browser shows with its own fonts.
    once : bool
        Of the same letters that no font has, warn once in a process.
    """
    import matplotlib

    families, lacking = _families(words)
    if lacking and not (once and lacking <= _told):
        _told.update(lacking)
        told = (
            f"no installed font has {' '.join(sorted(lacking))}, drawn as boxes; install one that has, such as "
            f"Noto Sans CJK (apt-get install fonts-noto-cjk){', or write a page (.html)' if page else ''}"
        )
        if once:
            # Of a line of ours nobody has to read.
            warnings.warn_explicit(told, UserWarning, "slideduck", 1)
        else:
            warnings.warn(told, stacklevel=5)
    with matplotlib.rc_context(), _without_words_of_fonts():
        matplotlib.rcdefaults()
        matplotlib.rcParams["font.family"] = families
        matplotlib.rcParams["text.color"] = _TEXT_COLOUR
        matplotlib.rcParams["hatch.linewidth"] = 0.5
        yield


@contextmanager
def _without_words_of_fonts() -> Iterator[None]:
    """Keep matplotlib from a line for each letter that is missing, and each font that has no bold face."""
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph .* missing from")
            yield
    finally:
        log.setLevel(level)


def _families(words: str) -> tuple[list[str], set[str]]:
    """Return the fonts that write words between them, and the letters that none of them has."""
    from matplotlib.font_manager import get_font

    families = ["DejaVu Sans"]
    lacking = {letter for letter in words if letter.isprintable()}
    lacking -= _letters(get_font(_faces()["DejaVu Sans"]))
    if lacking:
        # matplotlib keeps a list of fonts: it does not know those that were installed since.
        _add_new_fonts()
    faces = _faces()
    for name in _MORE_FONTS:
        if name in faces and lacking & (letters := _letters(get_font(faces[name]))):
            families.append(name)
            lacking -= letters
    return families, lacking


def _faces() -> dict[str, str]:
    """Return the file of each family, that of the usual weight or else of the nearest."""
    from matplotlib.font_manager import fontManager

    upright = [font for font in fontManager.ttflist if font.style == "normal"]
    upright.sort(key=lambda font: -abs(int(font.weight) - 400) if str(font.weight).isdecimal() else -1000)
    return {font.name: font.fname for font in upright}


def _add_new_fonts() -> None:
    """Tell matplotlib of fonts that were installed since it made its list."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    known = {font.fname for font in fontManager.ttflist}
    for path in findSystemFonts():
        if path not in known:
            # One that it cannot read is no reason to draw nothing.
            with suppress(Exception):
                fontManager.addfont(path)


def keep_texts(figure: Figure) -> None:
    """Let a figure show its texts as they are: no mathematics in a label, and control characters written out.

    What matplotlib writes beside axes by itself stays its own.
    """
    for text in _texts(figure):
        text.set_parse_math(False)
        text.set_text(printable(text.get_text(), lines=True))


def _texts(artist: Artist) -> Iterator[Text]:
    """Yield the texts in an artist, but for those at the ticks of axes, which asking for them would make."""
    from matplotlib.axis import Axis
    from matplotlib.text import Text

    for child in artist.get_children():
        if isinstance(child, Axis):
            yield child.label
        else:
            if isinstance(child, Text):
                yield child
            yield from _texts(child)


def _letters(font: FT2Font) -> set[str]:
    return {chr(code) for code in font.get_charmap()}


def check_picture(out: Path, dpi: int | None) -> None:
    """Refuse a file or resolution that no picture can have, before the slide is read."""
    suffix = out.suffix.lower()
    if suffix not in PICTURE_METADATA:
        raise StudyError(suffix_problem(out, tuple(PICTURE_METADATA)))
    if dpi is not None and suffix != ".png":
        raise StudyError(f"dpi is given for {out.name}, which is drawn in lines and areas; leave dpi out")
    if dpi is not None and not 20 <= dpi <= 2400:
        raise StudyError(f"dpi is {dpi}; give from 20 to 2,400 dots per inch")


def suffix_problem(out: Path, suffixes: Sequence[str]) -> str:
    """Return the message for a file with another suffix: the names that it could have."""
    has = f"has the suffix {out.suffix}" if out.suffix else "has no suffix"
    *others, last = (out.stem + suffix for suffix in suffixes)
    return f"{out.name} {has}; name it {', '.join(others)} or {last}"


def slide_figure(drawn: DrawnSlide, picture: npt.NDArray[np.uint8], interpolation: str) -> tuple[Figure, Axes, float]:
    """Return a figure with the picture of a slide on axes in millimetres, and the width of the picture, inches."""
    # Figures are made by hand: pyplot would keep each of them, and switch the caller's backend.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.transforms import offset_copy

    inches = min(most / side for most, side in zip(_PICTURE_INCHES, (drawn.width, drawn.height), strict=True))
    across, down = drawn.width * inches, drawn.height * inches
    figure = Figure(figsize=(across + 1, down + 1))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.5 / (across + 1), 0.5 / (down + 1), across / (across + 1), down / (down + 1)))
    width_mm, height_mm = (side * drawn.mpp / 1000 for side in (drawn.width, drawn.height))
    axes.imshow(picture, extent=(0, width_mm, height_mm, 0), interpolation=interpolation, aspect="auto")
    axes.set(xlim=(0, width_mm), ylim=(height_mm, 0), xticks=[], yticks=[])
    axes.spines[:].set(color="#9A9A9A", linewidth=0.5)

    above: dict[str, Any] = {
        "xycoords": "axes fraction",
        "textcoords": "offset points",
        "annotation_clip": False,
        "parse_math": False,
    }
    # Names are long and have no spaces; a narrow slide has room beside it.
    name = "\n".join(textwrap.wrap(drawn.slide, max(40, int(across * 11)), break_on_hyphens=False))
    axes.annotate(name, (0, 1), xytext=(0, 17), va="bottom", fontsize=11, fontweight="bold", **above)
    below_name = f"grid {drawn.tiles.grid}" if drawn.tiles else "ROIs"
    axes.annotate(below_name, (0, 1), xytext=(0, 5), va="bottom", fontsize=8, **above)

    # The bar is under the slide, where it hides nothing, and about an inch long where that is wide enough.
    width_um = drawn.width * drawn.mpp
    length_um = scale_bar_um(min(6 * width_um / across, 5 * width_um))
    below = offset_copy(axes.get_xaxis_transform(), fig=figure, y=-11, units="points")
    ends = [0, length_um / 1000]
    axes.add_artist(Line2D(ends, [0, 0], transform=below, color="black", lw=3, solid_capstyle="butt", clip_on=False))
    beside = offset_copy(below, fig=figure, x=6, units="points")
    axes.text(ends[1], 0, length_text(length_um), transform=beside, va="center_baseline", fontsize=9)
    return figure, axes, across


def draw_legend(figure: Figure, axes: Axes, drawn: DrawnSlide, *, rois: bool) -> None:
    """Draw the legend: each colour, its label, and how many tiles and ROIs have it, if there is room."""
    entries = _legend_entries(drawn, rois=rois)
    if not entries:
        return
    across, down = (side / figure.dpi for side in axes.get_window_extent().size)
    beside = _place_legend(figure, axes, entries, (1 + 0.18 / across, 1), 1)
    wide, high = (side / figure.dpi for side in beside.get_window_extent().size)
    if high <= max(down, 1.5):
        return
    beside.remove()
    if across >= 2 * wide:  # A wide slide has room under it.
        _place_legend(figure, axes, entries, (0, -0.4 / down), int(across // wide))
    else:
        _place_legend(figure, axes, entries, (1 + 0.18 / across, 1), math.ceil(high / down))


def _legend_entries(drawn: DrawnSlide, *, rois: bool) -> list[tuple[Any, str]]:
    """Return the sample and the text of each entry of the legend."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    tiles = drawn.tiles
    entries: list[tuple[Any, str]] = []
    for number, label in enumerate(drawn.labels):
        colour = drawn.colours[label]
        fill = f"{colour}{round(FILL * 255):02X}" if tiles else "none"
        amount = [counted(tiles.count(number), "tile")] if tiles else []
        lines = [*textwrap.wrap(label, _LEGEND_CHARACTERS), *drawn.roi_lines(label, amount, rois=rois)]
        entries.append((Patch(facecolor=fill, edgecolor=colour, lw=1.5), "\n".join(lines)))
    if rois and any(roi.label is None for roi in drawn.rois):
        line = Line2D([], [], color=LINE_COLOUR, lw=1.5, linestyle=DASHES)
        entries.append((line, "\n".join(["ROI without a label", *drawn.roi_lines(None, [], rois=True)])))
    if tiles and tiles.count(NO_LABEL):
        sample = Patch(facecolor="none", edgecolor=LINE_COLOUR, lw=0.5, hatch="+++")
        entries.append((sample, f"tile without a label\n{counted(tiles.count(NO_LABEL), 'tile')}"))
    if tiles and tiles.count(REMOVED):
        sample = Patch(facecolor="#E6E2E6", edgecolor="none")
        entries.append((sample, f"not kept, drawn paler\n{counted(tiles.count(REMOVED), 'tile')}"))
    if drawn.frame.is_part:
        line = Line2D([], [], color=LINE_COLOUR, **FRAME_STYLE)
        entries.append(
            (line, f"part that was scanned (bounds)\nfrom x {drawn.frame.bounds_x}, y {drawn.frame.bounds_y}")
        )
    return entries


def _place_legend(
    figure: Figure, axes: Axes, entries: Sequence[tuple[Any, str]], anchor: tuple[float, float], columns: int
) -> Legend:
    """Draw the legend with its upper left corner at a point of the axes."""
    legend = axes.legend(
        handles=[sample for sample, _ in entries],
        # The texts come afterwards: a name may begin with an underscore, or hold what looks like mathematics.
        labels=["-"] * len(entries),
        loc="upper left",
        bbox_to_anchor=anchor,
        borderaxespad=0,
        borderpad=0,
        ncols=columns,
        frameon=False,
        fontsize=9,
        labelspacing=0.8,
        handlelength=1.6,
    )
    for text, (_, words) in zip(legend.get_texts(), entries, strict=True):
        text.set_parse_math(False)
        text.set_text(words)
    figure.draw_without_rendering()
    return legend
