"""Reads the headers of slides through OpenSlide, and refuses those that cannot be used."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path

import openslide

from slideduck.errors import InputError, SlideError
from slideduck.files.find import absolute, quoted, reason
from slideduck.limit import beyond
from slideduck.names import nfc
from slideduck.slides.content import content_fingerprint, joined_fingerprint
from slideduck.slides.kind import conversion, require_eight_bits
from slideduck.slides.resolution import is_mpp, parse_number, read_resolution
from slideduck.slides.tiff import outline
from slideduck.slides.trial import why_it_dies

__all__ = ["SlideHeader", "read_header"]

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
    "tiff.ImageDescription",
)

#: What OpenSlide's documentation says of slides without ``openslide.background-color``.
_WHITE = "FFFFFF"

#: OpenSlide's words for a series of DICOM files that are no volume.
_NO_LEVELS = "No pyramid levels found"

_FINGERPRINT_BYTES = 1 << 20

#: Tables of a study have room for numbers up to this.
_MOST_PX = 2**31 - 1
#: Side of a stored tile where the header does not say it.
_USUAL_TILE_PX = 256


@dataclass(frozen=True)
class SlideHeader:
    """The header of a slide.

    Attributes
    ----------
    slide : str
        Name: the stem of the file, with the folders before it where the user wants those.
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
        OpenSlide's quickhash-1, or ``sha256:`` and a hash of size, head and tail of the file; and a hash of what all
        files of the slide hold, see `slideduck.slides.content.content_fingerprint`.
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


def read_header(
    path: str | os.PathLike[str],
    *,
    slide: str | None = None,
    mpp: float | None = None,
    default_mpp: float | None = None,
) -> SlideHeader:
    """Read the header of a slide, and check that the slide can be used.

    Parameters
    ----------
    path : path-like
        The slide.
    slide : str, optional
        Its name; default the stem of the file, in Unicode's NFC.
    mpp : float, optional
        Microns per base pixel of this slide, in place of what its header says.
    default_mpp : float, optional
        Microns per base pixel if the header does not say, or says what no scanner has.

    Returns
    -------
    SlideHeader

    Raises
    ------
    SlideError
        If the slide cannot be read, is cut short, has more than 8 bits a sample, or has no MPP.
    InputError
        If `mpp` or `default_mpp` is not a positive number.

    Notes
    -----
    A TIFF-based slide is cut short if its headers point beyond its end. OpenSlide opens some of those,
    less a level or more, without a word.
    """
    for name, value in (("mpp", mpp), ("default_mpp", default_mpp)):
        if value is not None and not is_mpp(value):
            raise InputError([f"{name} is {quoted(value)}; give microns per pixel, such as 0.25"])
    path = absolute(path)
    place = f"slide {path.name!r}"
    status = _check_file(path, place)
    try:
        with openslide.OpenSlide(path) as opened:
            # Not all of them: names in bytes that are not UTF-8 are listed, and cannot be looked up.
            properties = {name: opened.properties[name] for name in _PROPERTIES if name in opened.properties}
            sizes = opened.level_dimensions
            downsamples = opened.level_downsamples
            _check_size(opened, place)
            vendor = properties.get("openslide.vendor", "unknown")
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise SlideError(f"{place} {_what_it_is(path, error)}") from error
    except openslide.OpenSlideError as error:
        if _NO_LEVELS in str(error):
            raise SlideError(
                f"{place} is a DICOM label or overview without the levels of its slide in its folder; put them there, "
                "or leave it out"
            ) from error
        raise SlideError(f"{place} does not open: {error}; copy it again from its source") from error
    except OSError as error:
        raise SlideError(f"{place} cannot be read: {reason(error)}") from error
    if vendor == "generic-tiff":
        require_eight_bits(path, place)
    name = nfc(path.stem) if slide is None else slide
    found = read_resolution(path.name, name, properties, sizes[0], mpp=mpp, default_mpp=default_mpp)
    power = parse_number(properties.get("openslide.objective-power"))
    return SlideHeader(
        slide=name,
        path=path,
        vendor=vendor,
        width=sizes[0][0],
        height=sizes[0][1],
        mpp=found.mpp,
        mpp_y=found.mpp_y,
        mpp_given=found.given,
        level_widths=tuple(width for width, _ in sizes),
        level_heights=tuple(height for _, height in sizes),
        level_downsamples=tuple(downsamples),
        objective_power=power if power is not None and is_mpp(power) else None,
        background=properties.get("openslide.background-color", _WHITE).upper(),
        bytes=status.st_size,
        mtime=status.st_mtime,
        fingerprint=_fingerprint(path, status.st_size, properties.get("openslide.quickhash-1"), place),
        warnings=found.warnings,
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
        found = outline(path)
    except FileNotFoundError:
        raise SlideError(f"{place} is not there any more: no file {path}; check the path") from None
    except IsADirectoryError:
        raise SlideError(f"{place} is a folder, not a file; name the file") from None
    except OSError as error:
        raise SlideError(f"{place} cannot be read: {reason(error)}; check the rights to {path}") from error
    if not status.st_size:
        raise SlideError(f"{place} is empty (0 bytes); copy it again from its source")
    if found is not None and found.flaw is not None:
        again = "" if "limit=" in found.flaw else "; copy it again from its source"
        raise SlideError(f"{place} {found.flaw}{again}")
    if found is not None and found.needed > status.st_size:
        raise SlideError(
            f"{place} is cut short: the file has {status.st_size:,} bytes, "
            f"and its headers point to {found.needed:,} or more; copy it again from its source"
        )
    if (found is None or not found.is_plain) and (death := why_it_dies(path)) is not None:
        raise SlideError(f"{place} is damaged, or made to do harm: {death}; copy it again from its source")
    return status


def _check_size(slide: openslide.OpenSlide, place: str) -> None:
    """Refuse a slide whose header claims more than is to be read: of kinds that are no TIFF, OpenSlide alone tells."""
    for level, (width, height) in enumerate(slide.level_dimensions):
        across, down = (
            int(slide.properties.get(f"openslide.level[{level}].tile-{side}", _USUAL_TILE_PX))
            for side in ("width", "height")
        )
        tiles = -(-width // max(across, 1)) * -(-height // max(down, 1))
        problem = beyond("tile_pixels", across * down) or beyond("tiles", tiles)
        if problem:
            raise SlideError(f"{place} is not read: {problem}")
        if max(width, height) > _MOST_PX:
            raise SlideError(
                f"{place} claims {width:,} x {height:,} px, and at most {_MOST_PX:,} a side are read; copy it again "
                "from its source"
            )


def _what_it_is(path: Path, error: openslide.OpenSlideError) -> str:
    """Return what a file is that OpenSlide knows no format of."""
    try:
        return f"is {conversion(path) or f'of no format that OpenSlide reads ({error}); check the file'}"
    except OSError as failed:
        return f"cannot be read: {reason(failed)}; check the disk that {path} is on"


def _finite(text: str | None) -> float | None:
    """Return a property as a finite number, None where it is none."""
    number = parse_number(text)
    return number if number is not None and math.isfinite(number) else None


def _whole(text: str | None) -> int | None:
    """Return a property as a whole number, None where it is none."""
    number = _finite(text)
    return None if number is None else round(number)


def _fingerprint(path: Path, size: int, quickhash: str | None, place: str) -> str:
    """Return OpenSlide's fingerprint, or a hash of size, head and tail where it has none, with that of the content."""
    try:
        return joined_fingerprint(quickhash or _ends(path, size), content_fingerprint(path))
    except OSError as error:
        raise SlideError(
            f"{place}: {error.filename or path} cannot be read: {reason(error)}; check the disk"
        ) from error


def _ends(path: Path, size: int) -> str:
    """Return a hash of the size and of the first and last MiB of a file."""
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(_FINGERPRINT_BYTES))
        file.seek(max(0, size - _FINGERPRINT_BYTES))
        digest.update(file.read(_FINGERPRINT_BYTES))
    return f"sha256:{digest.hexdigest()}"
