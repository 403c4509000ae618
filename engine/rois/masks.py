"""Puts label masks, images whose pixels are numbers of labels, into a study as ROIs with the pixels' exact outlines."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slideduck.errors import InputError, StudyError
from slideduck.files.find import find_files
from slideduck.limit import beyond
from slideduck.names import nfc, suggestion
from slideduck.progress import track
from slideduck.roifiles.options import RoiOptions
from slideduck.roifiles.outlines import RoiFile, RoiOutline
from slideduck.rois.frame import SlideFrame, in_level0, slide_frames
from slideduck.rois.mask_options import MaskOptions
from slideduck.rois.pixels import MaskImage, open_mask
from slideduck.rois.table import replace_files
from slideduck.rois.trace import Tracer
from slideduck.show import Shown
from slideduck.store.db import atomic
from slideduck.store.handle import Handle
from slideduck.words import counted, some

__all__ = ["MASK_SUFFIXES", "MasksReport", "add_masks", "base_per_pixel"]

#: Suffixes of the files that a folder is searched for.
MASK_SUFFIXES = (".png", ".tif", ".tiff")

#: Stands for a pixel that is transparent; no integer of 32 bits, and no colour.
_TRANSPARENT = -(1 << 40)

#: Values without a label after which no more are looked for: an image of noise has as many as pixels.
_MOST_UNNAMED = 1 << 16

#: Points of outlines that are gathered before they are put into the study.
_POINTS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class MasksReport(Shown):
    """What `add_masks` did.

    Attributes
    ----------
    files, rois, slides : int
        Masks read, ROIs made of them, and slides that they are of.
    unchanged : int
        Further masks, which the study has as they are; nothing was done about them.
    pixels : dict of str to int
        Pixels of each label, in all masks read.
    downsamples : dict of str to (float, float)
        Base pixels per pixel of each mask read, along x and y, by the slide's name.
    empty : tuple of str
        Masks read that have no pixel of a label; their slides have been looked at, and have no ROI.
    replaced : tuple of str
        What changed where a mask took the place of another file, a text for each slide.
    """

    files: int
    rois: int
    slides: int
    unchanged: int
    pixels: dict[str, int]
    downsamples: dict[str, tuple[float, float]]
    empty: tuple[str, ...]
    replaced: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Mask:
    """A mask whose header fits its slide."""

    image: MaskImage
    slide: SlideFrame
    frame: str | None
    size: tuple[int, int]
    scale: tuple[float, float]
    sha256: str
    options: str


@dataclass
class _Done:
    """What became of masks.

    Those that were read have their number of ROIs and the pixels of each label.
    """

    read: list[tuple[_Mask, int, Counter[str]]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)


def add_masks(
    handle: Handle, paths: Sequence[str | Path], *, roi_set: str = "default", options: MaskOptions
) -> MasksReport:
    """Read label masks into the table ``rois``; a mask that is added again replaces what it gave before.

    A mask that the study has byte for byte, under the same options, is left alone, and so are the labels of its slide.

    Parameters
    ----------
    handle : Handle
        The study.
    paths : sequence of path
        PNG and TIFF files, folders and globs. A mask shows the whole slide of its name, at any scale.
    roi_set : str
        Set of ROIs to add to.
    options : MaskOptions
        What the values of pixels mean, and how masks lie on slides.

    Returns
    -------
    MasksReport

    Raises
    ------
    InputError
        With all that is wrong with any mask; nothing is added then.

    Notes
    -----
    An ROI is what the pixels of its label cover, to the pixel's edge: its area, and its coverage of any tile, are
    those of counting pixels. It is one ROI a label, of many parts, so that the coverage rule counts all pixels of a
    label in a tile together. Parts that meet only at a corner are parts of their own.

    Masks are read one after the other, a few million pixels at a time; memory is about 200 bytes for each corner of
    the outlines of one label, and a PNG as a whole.
    """
    if not roi_set.strip():
        raise StudyError("the name of a set of ROIs is empty; give one, such as reader_a")
    masks, problems = _open_all(handle, find_files(paths, MASK_SUFFIXES, "mask"), options)
    known = set(
        handle.con.execute("SELECT path, sha256, options FROM roi_files WHERE roi_set = $1", [roi_set]).fetchall()
    )
    changed = [mask for mask in masks if (str(mask.image.path), mask.sha256, mask.options) not in known]
    with atomic(handle.con):
        done = _replace_all(handle, roi_set, changed, options)
        if problems + done.problems:
            raise InputError(problems + done.problems)
    read = done.read
    pixels = sum((counts for _, _, counts in read), Counter())
    return MasksReport(
        files=len(changed),
        rois=sum(rois for _, rois, _ in read),
        slides=len({mask.slide.slide for mask in changed}),
        unchanged=len(masks) - len(changed),
        pixels={label: pixels[label] for label in dict.fromkeys(options.named.values()) if label},
        downsamples={mask.slide.slide: mask.scale for mask in changed},
        empty=tuple(mask.image.path.name for mask, rois, _ in read if not rois),
        replaced=tuple(done.replaced),
    )


def _replace_all(handle: Handle, roi_set: str, masks: Sequence[_Mask], options: MaskOptions) -> _Done:
    """Read masks into the study, inside a transaction."""
    done = _Done()
    waiting: list[RoiFile] = []
    points = 0
    # What they gave before goes first, since a name may move from one to another.
    replace_files(handle, roi_set, [], [str(mask.image.path) for mask in masks])

    def put() -> None:
        replaced, wrong = _put(handle, roi_set, waiting, options)
        done.replaced.extend(replaced)
        done.problems.extend(wrong)

    with track("Reading masks", len(masks), "masks", show=handle.progress) as advance:
        for mask in masks:
            try:
                file, counts = _read(mask, options)
            except InputError as error:
                done.problems.extend(error.problems)
            else:
                done.read.append((mask, len(file.outlines), counts))
                waiting.append(file)
                points += sum(len(ring) for outline in file.outlines for ring in chain(*outline.polygons))
            if points >= _POINTS_AT_ONCE:
                put()
                waiting, points = [], 0
            advance(1)
    put()
    return done


def _put(
    handle: Handle, roi_set: str, files: Sequence[RoiFile], options: MaskOptions
) -> tuple[list[str], Sequence[str]]:
    """Put masks that were read into the study, inside a transaction; return what they replaced, and what is wrong."""
    how = RoiOptions(replace=options.replace)
    try:
        done = replace_files(handle, roi_set, files, [str(file.path) for file in files], options=how)
    except InputError as error:
        return [], error.problems
    return [one.text for one in done.instead], ()


# ------------------------------------------------------------------------------------------- headers


def _open_all(handle: Handle, paths: Sequence[Path], options: MaskOptions) -> tuple[list[_Mask], list[str]]:
    """Return the masks that fit a slide of the study, and what is wrong with others."""
    frames = slide_frames(handle)
    errors = handle.con.execute("SELECT slide, error FROM slides").fetchall()
    slides = {nfc(slide): (frames[slide], error) for slide, error in errors}
    masks: list[_Mask] = []
    problems: list[str] = []
    for path in paths:
        try:
            masks.append(_open(path, slides, options))
        except InputError as error:
            problems.extend(error.problems)
    return masks, problems


def _open(path: Path, slides: Mapping[str, tuple[SlideFrame, str | None]], options: MaskOptions) -> _Mask:
    """Return a mask with the slide that it lies on, and how."""
    image = open_mask(path, colours=options.colours)
    slide, error = _slide_of(path, slides, options.slide_suffix)
    if error is not None:
        raise InputError([f"{path.name}: slide {slide.slide!r} cannot be used: {error}"])
    pixels = image.width * image.height
    if pixels > slide.width * slide.height and (problem := beyond("pixels", pixels)):
        raise InputError([f"{path.name}: {problem}"])
    frame, scale = _fit(image, slide, options)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    told = {
        "labels": {_key(number, options): label for number, label in options.named.items()},
        "downsample": scale,
        "components": options.components,
        "slide": slide.slide,
        "frame": frame,
    }
    return _Mask(image, slide, frame, _shown(slide, frame), scale, digest, json.dumps(told))


def _shown(slide: SlideFrame, frame: str | None) -> tuple[int, int]:
    """Return the width and height of what a mask shows, base pixels."""
    return (slide.bounds_width, slide.bounds_height) if frame == "bounds" else (slide.width, slide.height)


def _fit(image: MaskImage, slide: SlideFrame, options: MaskOptions) -> tuple[str, tuple[float, float]]:
    """Return what of its slide a mask shows, and its scale along x and y.

    Raises
    ------
    InputError
        If it fits neither the slide nor the part that was scanned; or that part, and it was not said which it shows.
    """
    asked = ("level0", "bounds") if options.frame is None and slide.is_part else (options.frame or "level0",)
    size = (image.width, image.height)
    fits = {
        frame: scale
        for frame in asked
        if (scale := base_per_pixel(size, _shown(slide, frame), options.downsample)) is not None
    }
    if not fits:
        raise InputError([_misfit(image, slide.slide, *_shown(slide, asked[0]), options.downsample)])
    if options.frame is None and "bounds" in fits:
        also = ", and the whole as well" if "level0" in fits else ", and not the whole"
        raise InputError(
            [
                f"{image.path.name}: {image.width} x {image.height} pixels fit the part of the slide that was scanned"
                f"{also}; {slide}; say what the mask shows with `frame='bounds'`, that part, or `frame='level0'`"
            ]
        )
    return next(iter(fits.items()))


def _slide_of(
    path: Path, slides: Mapping[str, tuple[SlideFrame, str | None]], suffix: str
) -> tuple[SlideFrame, str | None]:
    """Return the slide that a mask is of, by its name, and the slide's error."""
    stem, suffix = nfc(path.stem), nfc(suffix)
    if not stem.endswith(suffix):
        raise InputError(
            [f"{path.name}: its name does not end with {suffix!r}; rename it, or give another `slide_suffix`"]
        )
    name = stem.removesuffix(suffix)
    if name not in slides:
        raise InputError(
            [
                f"{path.name}: slide {name!r} is not in the study{suggestion(name, list(slides))}; add it first with "
                "add-slides, name the mask after its slide, or say with `slide_suffix` what stands behind the name"
            ]
        )
    return slides[name]


def base_per_pixel(
    mask: tuple[int, int], slide: tuple[int, int], downsample: float | str = "auto"
) -> tuple[float, float] | None:
    """Return how many base pixels a pixel of a mask is wide and high.

    Parameters
    ----------
    mask, slide : (int, int)
        Width and height, of the slide in base pixels.
    downsample : float or "auto"
        A number is taken as it is. ``auto`` is the whole number that gives the mask's size, rounded up or down as
        pyramids do, a power of two before others; if there is none, the mask is stretched over the slide, whose width
        and height it must divide by the same number to within a pixel.

    Returns
    -------
    (float, float), optional
        Along x and y; they differ only for a mask that is stretched. None if the mask does not fit the slide.
    """
    if not isinstance(downsample, str):
        fits = all(abs(pixels - length / downsample) < 1 for pixels, length in zip(mask, slide, strict=True))
        return (float(downsample), float(downsample)) if fits else None
    x, y = (length / pixels for length, pixels in zip(slide, mask, strict=True))
    near = (x + y) / 2
    for whole in (2 ** round(math.log2(near)), round(near)):
        if whole >= 1 and all(
            math.floor(length / whole) <= pixels <= math.ceil(length / whole)
            for length, pixels in zip(slide, mask, strict=True)
        ):
            return float(whole), float(whole)
    least = max(length / (pixels + 1) for length, pixels in zip(slide, mask, strict=True))
    most = min(length / (pixels - 1) if pixels > 1 else math.inf for length, pixels in zip(slide, mask, strict=True))
    return (x, y) if least < most else None


def _misfit(image: MaskImage, slide: str, width: int, height: int, downsample: float | str) -> str:
    """Return the message for a mask whose size is not its slide's."""
    sizes = f"{image.path.name}: {image.width} x {image.height} pixels, but slide {slide!r} has {width} x {height}"
    if isinstance(downsample, str):
        return (
            f"{sizes}: {width / image.width:.4g} times as wide and {height / image.height:.4g} times as high; "
            "make the mask of the whole slide, at one scale"
        )
    return (
        f"{sizes}, which is {width / downsample:.6g} x {height / downsample:.6g} at `downsample` {downsample:g}; "
        "give the number that the mask was made with, or auto"
    )


# -------------------------------------------------------------------------------------------- pixels


def _read(mask: _Mask, options: MaskOptions) -> tuple[RoiFile, Counter[str]]:
    """Return a mask's ROIs, and the pixels of each label."""
    path = mask.image.path
    labels = sorted({label for label in options.named.values() if label})
    index = {value: labels.index(label) + 1 if label else 0 for value, label in options.named.items()}
    numbers: Counter[int] = Counter()
    unnamed: Counter[int] = Counter()
    tracer = Tracer(mask.image.width)
    for values in _values(mask.image, colours=options.colours):
        indexed, others = _indexed(values, {0: 0, _TRANSPARENT: 0} | index)
        unnamed += others
        if len(unnamed) > _MOST_UNNAMED:
            break
        numbers.update(dict(enumerate(np.bincount(indexed.ravel(), minlength=len(labels) + 1).tolist())))
        if not unnamed:
            tracer.add(indexed)
            if problem := beyond("vertices", tracer.corners):
                raise InputError([f"{path.name}: {problem}"])
    if unnamed:
        raise InputError([_unnamed(path, unnamed, options)])
    outlines = []
    slide = mask.slide.slide
    for number, polygons in tracer.polygons(mask.scale, mask.size).items():
        label = labels[number - 1]
        if options.components:
            outlines += [
                RoiOutline(slide, f"{label}_{i}", label, (part,), False, i) for i, part in enumerate(polygons, 1)
            ]
        else:
            outlines.append(RoiOutline(slide, label, label, polygons, False, number))
    file = RoiFile(
        path, "mask", "explicit", mask.sha256, tuple(outlines), (), slides=(slide,), frame=mask.frame, said=mask.options
    )
    file = in_level0(file, {slide: mask.slide})
    return file, Counter({label: numbers[number] for number, label in enumerate(labels, 1)})


def _values(image: MaskImage, *, colours: bool) -> Iterator[NDArray[Any]]:
    """Yield the value of each pixel, a band of rows at a time; a colour is red × 65536 + green × 256 + blue."""
    name = image.path.name
    for band in image.bands():
        if band.ndim == 3:
            red, green, blue = (band[..., i].astype(np.int64) for i in range(3))
            if colours:
                values = (red << 16) | (green << 8) | blue
            elif not (np.array_equal(red, green) and np.array_equal(red, blue)):
                raise InputError([f"{name}: a mask of colours; name them with `labels`, such as #ff0000=tumour"])
            else:
                values = red
            if band.shape[2] == 4:
                values = np.where(band[..., 3] == 0, _TRANSPARENT, values)
        elif colours:
            raise InputError([f"{name}: a mask of numbers, not of colours; name them with `labels`, such as 1=tumour"])
        elif band.dtype.kind == "f":
            if not (np.isfinite(band).all() and (band == np.rint(band)).all()):
                raise InputError([f"{name}: values that are no whole numbers; write the mask as integers"])
            values = band.astype(np.int64)
        else:
            values = band.astype(np.uint8) if band.dtype == bool else band
        yield values


def _indexed(values: NDArray[Any], index: Mapping[int, int]) -> tuple[NDArray[Any], Counter[int]]:
    """Return the number of each pixel's label, 0 for none, and how many pixels each value has that is not named."""
    kind = np.uint8 if max(index.values()) < np.iinfo(np.uint8).max else np.uint16
    no_name = np.iinfo(kind).max
    if values.dtype in (np.uint8, np.uint16):
        table = np.full(np.iinfo(values.dtype).max + 1, no_name, kind)
        for value, number in index.items():
            if 0 <= value < len(table):
                table[value] = number
        indexed = table[values]
    else:
        known = np.array(sorted(index), np.int64)
        place = np.minimum(np.searchsorted(known, values), len(known) - 1)
        numbers = np.array([index[int(value)] for value in known], kind)
        indexed = np.where(known[place] == values, numbers[place], no_name)
    others = indexed == no_name
    if not others.any():
        return indexed, Counter()
    found, counts = np.unique(values[others], return_counts=True)
    indexed[others] = 0
    return indexed, Counter(dict(zip(found.tolist(), counts.tolist(), strict=True)))


def _unnamed(path: Path, unnamed: Counter[int], options: MaskOptions) -> str:
    """Return the message for values of pixels that have no label."""
    keys = [_key(number, options) for number in sorted(unnamed)]
    pixels = [f"{_key(number, options)} ({counted(unnamed[number], 'pixel')})" for number in sorted(unnamed)]
    what = "colour" if options.colours else "value"
    return (
        f"{path.name}: {counted(len(pixels), what)} without a label: {some(pixels)}; "
        f"name {'it' if len(pixels) == 1 else 'each'} with `labels`, such as {keys[0]}=tumour, or {keys[0]}= for no ROI"
    )


def _key(number: int, options: MaskOptions) -> str:
    """Return a value as `labels` names it."""
    return f"#{number:06x}" if options.colours else str(number)
