"""Finds slides, reads their headers through OpenSlide, and refuses those that cannot be used."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import openslide

from slideduck.errors import InputError, SlideError
from slideduck.files.find import Paths, absolute, find_files, quoted, reason
from slideduck.slides.tiff import bytes_needed

__all__ = ["SLIDE_SUFFIXES", "SlideHeader", "find_slides", "read_header"]

#: Suffixes of the files that a folder is searched for; a file that is named may have any.
SLIDE_SUFFIXES = (
    ".svs",
    ".ndpi",
    ".mrxs",
    ".tif",
    ".tiff",
    ".scn",
    ".vms",
    ".vmu",
    ".bif",
    ".svslide",
    ".czi",
    ".dcm",
)

_PROPERTIES = (
    "aperio.MPP",
    "hamamatsu.XOffsetFromSlideCentre",
    "hamamatsu.YOffsetFromSlideCentre",
    "openslide.background-color",
    "openslide.bounds-height",
    "openslide.bounds-width",
    "openslide.bounds-x",
    "openslide.bounds-y",
    "openslide.mpp-x",
    "openslide.mpp-y",
    "openslide.objective-power",
    "openslide.quickhash-1",
    "openslide.vendor",
)

#: What OpenSlide's documentation says of slides without ``openslide.background-color``.
_WHITE = "FFFFFF"

#: Scanners lie well inside: 100x is about 0.1, a macro camera about 10 microns per pixel.
_USUAL_MPP = (0.02, 20.0)
_MPP_TOLERANCE = 0.01

_FINGERPRINT_BYTES = 1 << 20


@dataclass(frozen=True)
class SlideHeader:
    """The header of a slide.

    Attributes
    ----------
    slide : str
        Name: the stem of the file.
    path : Path
        Absolute path.
    vendor : str
        Format, as OpenSlide names it.
    width, height : int
        Size of level 0, pixels.
    mpp : float
        Microns per base pixel along x; every number is computed from it.
    mpp_y : float or None
        Microns per base pixel along y, as the header says; None if it does not, or if the MPP was given.
    mpp_given : bool
        True if `mpp` is the user's number.
    level_widths, level_heights : tuple of int
        Size of each level, pixels of that level; level 0 is the largest.
    level_downsamples : tuple of float
        Base pixels per pixel of each level.
    objective_power : float or None
        Magnification of the objective, as the header says.
    background : str
        Colour to put behind transparent pixels, RRGGBB.
    bytes : int
        Size of the file.
    mtime : float
        Time of the file's last change, seconds since 1970.
    fingerprint : str
        OpenSlide's quickhash-1, or ``sha256:`` and a hash of size, head and tail of the file.
    warnings : tuple of str
        What the user should know, beginning with the slide.
    bounds_x, bounds_y, bounds_width, bounds_height : int or None
        The part of level 0 that was scanned (``openslide.bounds-x`` and so on), base pixels; None where the header
        has none. Some programs, such as QuPath, count from its top left corner.
    centre_offset_x, centre_offset_y : float or None
        From the glass's centre to the image's, nanometres; Hamamatsu's alone.
    """

    slide: str
    path: Path
    vendor: str
    width: int
    height: int
    mpp: float
    mpp_y: float | None
    mpp_given: bool
    level_widths: tuple[int, ...]
    level_heights: tuple[int, ...]
    level_downsamples: tuple[float, ...]
    objective_power: float | None
    background: str
    bytes: int
    mtime: float
    fingerprint: str
    warnings: tuple[str, ...]
    bounds_x: int | None = None
    bounds_y: int | None = None
    bounds_width: int | None = None
    bounds_height: int | None = None
    centre_offset_x: float | None = None
    centre_offset_y: float | None = None


def find_slides(paths: Paths) -> list[Path]:
    """Return the slides that paths, folders and patterns stand for.

    Parameters
    ----------
    paths : path or iterable of paths
        Files whatever their suffix, folders (searched with all that is below them for `SLIDE_SUFFIXES`;
        the data folder of an MRXS slide is passed over), and patterns.

    Returns
    -------
    list of Path
        Absolute, each slide once, in the order of their text. Of the DICOM files of one slide, which
        lie in one folder, the first.

    Raises
    ------
    InputError
        For each path that stands for nothing, and for each two files of one name.
    """
    slides: dict[str, Path] = {}
    problems = []
    for path in _one_of_each_series(find_files(paths, SLIDE_SUFFIXES, "slide", folder_beside=".mrxs")):
        first = slides.setdefault(path.stem, path)
        if first != path and not _same_file(first, path):
            problems.append(f"slide {path.stem!r} is both {first} and {path}; names are unique: rename one")
    if problems:
        raise InputError(problems)
    return list(slides.values())


def _same_file(one: Path, other: Path) -> bool:
    """Return whether two paths lead to one file, as through a link."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _one_of_each_series(paths: list[Path]) -> list[Path]:
    """Leave out DICOM files beyond the first of a series: from any of them OpenSlide opens the slide."""
    kept = []
    seen: set[tuple[Path, tuple[bytes, ...]]] = set()
    for path in paths:
        series = _dicom_series(path) if path.suffix.lower() == ".dcm" else ()
        if series:
            if (path.parent, series) in seen:
                continue
            seen.add((path.parent, series))
        kept.append(path)
    return kept


def _dicom_series(path: Path) -> tuple[bytes, ...]:
    """Return every SeriesInstanceUID, (0020,000E), in the head of a DICOM file; none where it is no DICOM.

    One of them is the file's own; others, in sequences, are of series that it refers to. Files that agree
    in all of them are of one slide.
    """
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except OSError:
        return ()
    if head[128:132] != b"DICM":
        return ()
    # Whole-slide images are in explicit VR, little-endian: tag, "UI", length.
    found = re.finditer(rb"\x20\x00\x0e\x00UI(..)", head, re.DOTALL)
    return tuple(head[at.end() :][: int.from_bytes(at[1], "little")] for at in found)


def read_header(
    path: str | os.PathLike[str], *, mpp: float | None = None, default_mpp: float | None = None
) -> SlideHeader:
    """Read the header of a slide, and check that the slide can be used.

    Parameters
    ----------
    path : path-like
        The slide.
    mpp : float, optional
        Microns per base pixel of this slide, in place of what its header says.
    default_mpp : float, optional
        Microns per base pixel if the header does not say, or says what cannot be.

    Returns
    -------
    SlideHeader

    Raises
    ------
    SlideError
        If the slide cannot be read, is cut short, or has no MPP.
    InputError
        If `mpp` or `default_mpp` is not a positive number.

    Notes
    -----
    A TIFF-based slide is cut short if its headers point beyond its end. OpenSlide opens some of those,
    less a level or more, without a word.
    """
    for name, value in (("mpp", mpp), ("default_mpp", default_mpp)):
        if value is not None and not _is_mpp(value):
            raise InputError([f"{name} is {quoted(value)}; give microns per pixel, such as 0.25"])
    path = absolute(path)
    place = f"slide {path.name!r}"
    status = _check_file(path, place)
    try:
        with openslide.OpenSlide(path) as slide:
            # Not all of them: names in bytes that are not UTF-8 are listed, and cannot be looked up.
            properties = {name: slide.properties[name] for name in _PROPERTIES if name in slide.properties}
            sizes = slide.level_dimensions
            downsamples = slide.level_downsamples
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise SlideError(f"{place} is of no format that OpenSlide reads ({error}); check the file") from error
    except openslide.OpenSlideError as error:
        raise SlideError(f"{place} does not open: {error}; copy it again from its source") from error
    except OSError as error:
        raise SlideError(f"{place} cannot be read: {reason(error)}") from error
    mpp_x, mpp_y, given, warnings = _read_mpp(path, properties, mpp, default_mpp)
    power = _number(properties.get("openslide.objective-power"))
    return SlideHeader(
        slide=path.stem,
        path=path,
        vendor=properties.get("openslide.vendor", "unknown"),
        width=sizes[0][0],
        height=sizes[0][1],
        mpp=mpp_x,
        mpp_y=mpp_y,
        mpp_given=given,
        level_widths=tuple(width for width, _ in sizes),
        level_heights=tuple(height for _, height in sizes),
        level_downsamples=tuple(downsamples),
        objective_power=power if power is not None and _is_mpp(power) else None,
        background=properties.get("openslide.background-color", _WHITE).upper(),
        bytes=status.st_size,
        mtime=status.st_mtime,
        fingerprint=properties.get("openslide.quickhash-1") or _fingerprint(path, status.st_size),
        warnings=tuple(warnings),
        bounds_x=_whole(properties.get("openslide.bounds-x")),
        bounds_y=_whole(properties.get("openslide.bounds-y")),
        bounds_width=_whole(properties.get("openslide.bounds-width")),
        bounds_height=_whole(properties.get("openslide.bounds-height")),
        centre_offset_x=_finite(properties.get("hamamatsu.XOffsetFromSlideCentre")),
        centre_offset_y=_finite(properties.get("hamamatsu.YOffsetFromSlideCentre")),
    )


def _check_file(path: Path, place: str) -> os.stat_result:
    """Return the state of a file that can be read and is whole, as far as its headers tell."""
    try:
        status = path.stat()
        needed = bytes_needed(path)
    except FileNotFoundError:
        raise SlideError(f"{place} is not there any more: no file {path}; check the path") from None
    except IsADirectoryError:
        raise SlideError(f"{place} is a folder, not a file; name the file") from None
    except OSError as error:
        raise SlideError(f"{place} cannot be read: {reason(error)}; check the rights to {path}") from error
    if not status.st_size:
        raise SlideError(f"{place} is empty (0 bytes); copy it again from its source")
    if needed is not None and needed > status.st_size:
        raise SlideError(
            f"{place} is cut short: the file has {status.st_size:,} bytes, "
            f"and its headers point to {needed:,} or more; copy it again from its source"
        )
    return status


def _read_mpp(
    path: Path, properties: Mapping[str, str], mpp: float | None, default_mpp: float | None
) -> tuple[float, float | None, bool, list[str]]:
    """Return the microns per base pixel along x and y, whether the user gave them, and warnings.

    `mpp` stands above the header, `default_mpp` below it.
    """
    place = f"slide {path.name!r}"
    remedy = (
        f"give --mpp with its microns per pixel, such as --mpp 0.25, or --mpp {path.stem}=0.25 for this slide alone"
    )
    warnings = []
    name = "openslide.mpp-x"
    text, x = properties.get(name), _number(properties.get(name))
    if text is None and "aperio.MPP" in properties:
        # OpenSlide leaves its own property out where the vendor's is no number.
        name = "aperio.MPP"
        text = properties[name]
    y = _number(properties.get("openslide.mpp-y"))
    wrong = text is not None and (x is None or not _is_mpp(x))
    given = mpp if mpp is not None else default_mpp
    if mpp is not None or text is None or wrong:
        if given is None:
            if text is None:
                raise SlideError(f"{place} has no MPP ({name} is missing); {remedy}")
            raise SlideError(f"{place} has MPP {quoted(text)} ({name}), not a positive number; {remedy}")
        if wrong:
            warnings.append(f"{place}: MPP {given:g} as given, since its header says {text!r} ({name})")
        elif x is not None and _differ(given, x):
            warnings.append(f"{place}: MPP {given:g} as given, though its header says {x:g} ({name})")
        return float(given), None, True, warnings
    assert x is not None
    if not _USUAL_MPP[0] <= x <= _USUAL_MPP[1]:
        warnings.append(f"{place}: MPP {x:g} ({name}) is not a scanner's; if it is wrong, give --mpp {path.stem}=MPP")
    if y is not None and not _is_mpp(y):
        warnings.append(f"{place}: openslide.mpp-y is {y:g}, not a positive number; {x:g} is used for x and y")
        y = None
    if y is not None and _differ(y, x):
        apart = f"{abs(y / x - 1):.1%} apart"
        warnings.append(f"{place}: MPP is {x:g} along x and {y:g} along y, {apart}; {x:g} is used for both")
    return x, y, False, warnings


def _is_mpp(value: object) -> bool:
    """Return whether a value is a positive, finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _number(text: str | None) -> float | None:
    """Return a property as a number, None where it is none."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _finite(text: str | None) -> float | None:
    """Return a property as a finite number, None where it is none."""
    number = _number(text)
    return number if number is not None and math.isfinite(number) else None


def _whole(text: str | None) -> int | None:
    """Return a property as a whole number, None where it is none."""
    number = _finite(text)
    return None if number is None else round(number)


def _differ(one: float, other: float) -> bool:
    return abs(one / other - 1) > _MPP_TOLERANCE


def _fingerprint(path: Path, size: int) -> str:
    """Return a hash of the size and of the first and last MiB of a file."""
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(_FINGERPRINT_BYTES))
        file.seek(max(0, size - _FINGERPRINT_BYTES))
        digest.update(file.read(_FINGERPRINT_BYTES))
    return f"sha256:{digest.hexdigest()}"
