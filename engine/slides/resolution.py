"""The resolution of a slide in microns per pixel: from its header, from OME's, or from the user."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn
from xml.parsers import expat

from slideduck.errors import SlideError
from slideduck.files.find import quoted

__all__ = ["Resolution", "is_mpp", "parse_number", "read_resolution"]

#: Scanners lie well inside: 100x is about 0.1, a macro camera about 10 microns per pixel.
_USUAL_MPP = (0.02, 20.0)
_MPP_TOLERANCE = 0.01

#: 20x is about 0.5 and 40x about 0.25 microns per pixel; scanners' cameras and lenses lie within this of it.
_POWER_MPP = 10.0
_POWER_TOLERANCE = 1.4

_INCH_UM = 25_400

#: Microns in the units of OME's ``PhysicalSizeXUnit`` (OME-XML 2016-06, UnitsLength); the others are no lengths of
#: pixels. Micro is written by two characters that look alike.
_OME_UNIT_UM = {
    "m": 1e6, "dm": 1e5, "cm": 1e4, "mm": 1e3, "\N{MICRO SIGN}m": 1.0, "\N{GREEK SMALL LETTER MU}m": 1.0, "nm": 1e-3,
    "pm": 1e-6, "\N{ANGSTROM SIGN}": 1e-4, "\N{LATIN CAPITAL LETTER A WITH RING ABOVE}": 1e-4, "in": 25_400.0,
    "thou": 25.4, "li": 25_400 / 12, "pt": 25_400 / 72,
}  # fmt: skip
_OME_DEFAULT_UNIT = "\N{MICRO SIGN}m"


@dataclass(frozen=True)
class Resolution:
    """Microns per base pixel of a slide.

    Attributes
    ----------
    mpp : float
        Along x.
    mpp_y : float or None
        Along y, as the header says; None if it does not, or if the MPP was given.
    given : bool
        True if `mpp` is the user's number.
    warnings : tuple of str
        What speaks against it, beginning with the slide.
    """

    mpp: float
    mpp_y: float | None
    given: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Stated:
    """What a header states.

    `x` is None where it states nothing that can be; `why` then says what it has in its place, for a message behind
    "has", and `instead` the same behind "its header says", None where it has nothing.
    """

    x: float | None
    y: float | None = None
    name: str = ""
    why: str = ""
    instead: str | None = None


def read_resolution(
    file: str,
    slide: str,
    properties: Mapping[str, str],
    size: tuple[int, int],
    *,
    mpp: float | None = None,
    default_mpp: float | None = None,
) -> Resolution:
    """Return the resolution of a slide.

    Parameters
    ----------
    file, slide : str
        The names of the file and of the slide, for messages.
    properties : mapping of str to str
        OpenSlide's properties.
    size : (int, int)
        Width and height of level 0, pixels, by which the image is found that OME's header speaks of.
    mpp, default_mpp : float, optional
        What the user gave: `mpp` stands above the header, `default_mpp` below it.

    Raises
    ------
    SlideError
        If there is none.

    Notes
    -----
    The header's is ``openslide.mpp-x``, or what OME's ``PhysicalSizeX`` says where OpenSlide finds none. A number that
    no scanner has, such as that of 72 dpi, which image programs write for want of another, is none.
    """
    place = f"slide {file!r}"
    header = _stated(properties, size)
    warnings = []
    given = mpp if mpp is not None or header.x is not None else default_mpp
    if given is not None:
        if header.x is not None and _differ(given, header.x):
            warnings.append(f"{place}: MPP {given:g} as given, though its header says {header.x:g} ({header.name})")
        elif header.x is None and header.instead is not None:
            warnings.append(f"{place}: MPP {given:g} as given, since its header says {header.instead}")
        warnings += _doubts(place, slide, given, parse_number(properties.get("openslide.objective-power")))
        return Resolution(float(given), None, True, tuple(warnings))
    if header.x is None:
        raise SlideError(
            f"{place} has {header.why}; give --mpp with its microns per pixel, such as --mpp 0.25, or "
            f"--mpp {slide}=0.25 for this slide alone"
        )
    if header.instead is not None:
        warnings.append(f"{place}: MPP {header.x:g} ({header.name}), since OpenSlide finds {header.instead}")
    elif (ome := _ome(properties, size)).x is not None and _differ(ome.x, header.x):
        warnings.append(
            f"{place}: MPP {header.x:g} ({header.name}), though its OME header says {ome.x:g} ({ome.name}); "
            f"if that is right, give --mpp {slide}={ome.x:g}"
        )
    x, y = header.x, header.y
    if y is not None and not is_mpp(y):
        warnings.append(f"{place}: openslide.mpp-y is {y:g}, not a positive number; {x:g} is used for x and y")
        y = None
    if y is not None and _differ(y, x):
        apart = f"{abs(y / x - 1):.1%} apart"
        warnings.append(f"{place}: MPP is {x:g} along x and {y:g} along y, {apart}; {x:g} is used for both")
    return Resolution(x, y, False, tuple(warnings))


def _doubts(place: str, slide: str, given: float, power: float | None) -> list[str]:
    """Return what speaks against an MPP that was given."""
    if not _is_usual(given):
        least, most = _USUAL_MPP
        return [
            f"{place}: MPP {given:g} as given is not a scanner's ({least:g} to {most:g}); give microns per pixel, "
            f"such as --mpp {slide}=0.25"
        ]
    if power is None or not is_mpp(power):
        return []
    expected = _POWER_MPP / power
    if 1 / _POWER_TOLERANCE <= given / expected <= _POWER_TOLERANCE:
        return []
    return [
        f"{place}: MPP {given:g} as given, though its objective of {power:g}x has about {expected:.3g}; "
        f"if that is right, give --mpp {slide}={expected:.3g}"
    ]


def _stated(properties: Mapping[str, str], size: tuple[int, int]) -> _Stated:
    """Return what OpenSlide finds, or else OME's header."""
    name = "openslide.mpp-x"
    text = properties.get(name)
    if text is None and "aperio.MPP" in properties:
        # OpenSlide leaves its own property out where the vendor's is no number.
        name = "aperio.MPP"
        text = properties[name]
    x = parse_number(text)
    y = parse_number(properties.get("openslide.mpp-y"))
    instead = None
    if text is None:
        why = f"no MPP ({name} is missing)"
    elif x is None or not is_mpp(x):
        why, instead = f"MPP {quoted(text)} ({name}), not a positive number", f"{text!r} ({name})"
    elif not _is_usual(x):
        instead = f"{x:g} ({name})" + (f", which is {_INCH_UM / x:.4g} dpi" if x > 1 else "")
        why = f"no MPP: its header says {instead} and not a scanner's"
    else:
        return _Stated(x, y, name)
    ome = _ome(properties, size)
    if ome.x is None:
        return _Stated(None, why=why + (f", and {ome.why}" if ome.why else ""), instead=instead)
    return _Stated(ome.x, ome.y, ome.name, instead=instead)


def _is_usual(mpp: float) -> bool:
    """Return whether a scanner may have a resolution."""
    return _USUAL_MPP[0] <= mpp <= _USUAL_MPP[1]


def is_mpp(value: object) -> bool:
    """Return whether a value is a positive, finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def parse_number(text: str | None) -> float | None:
    """Return a property as a number, None where it is none."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _differ(one: float, other: float) -> bool:
    return abs(one / other - 1) > _MPP_TOLERANCE


# ---------------------------------------------------------------------------------------------- OME


def _ome(properties: Mapping[str, str], size: tuple[int, int]) -> _Stated:
    """Return what the OME header in a TIFF's description states of the image of a size."""
    text = properties.get("tiff.ImageDescription", "")
    if "<OME" not in text[:10_000]:
        return _Stated(None)
    try:
        images = _OmeImages().read(text)
    except SlideError as error:
        return _Stated(None, why=f"its OME header {error}")
    # Label and overview images stand beside the slide's.
    of_size = [image for image in images if (image.get("SizeX"), image.get("SizeY")) == (str(size[0]), str(size[1]))]
    if not of_size:
        return _Stated(None, why=f"its OME header has no image of {size[0]} x {size[1]} pixels")
    return _physical_size(of_size[0])


def _physical_size(pixels: Mapping[str, str]) -> _Stated:
    """Return what the element Pixels states, in microns."""
    name = "PhysicalSizeX"
    if name not in pixels:
        return _Stated(None, why=f"its OME header has no {name}")
    x = _microns(pixels, name)
    if x is None or not is_mpp(x) or not _is_usual(x):
        unit = pixels.get(f"{name}Unit", _OME_DEFAULT_UNIT)
        return _Stated(None, why=f"its OME header says {pixels[name]} {unit} ({name})")
    return _Stated(x, _microns(pixels, "PhysicalSizeY"), f"OME {name}")


def _microns(pixels: Mapping[str, str], name: str) -> float | None:
    """Return a length in microns, None if it is none."""
    number = parse_number(pixels.get(name))
    unit = _OME_UNIT_UM.get(pixels.get(f"{name}Unit", _OME_DEFAULT_UNIT).strip())
    return None if number is None or unit is None else number * unit


class _OmeImages:
    """Collects the attributes of each element Pixels while expat goes through the header."""

    def __init__(self) -> None:
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.StartDoctypeDeclHandler = self._refuse_doctype
        self._parser.StartElementHandler = self._start
        self._pixels: list[dict[str, str]] = []

    def read(self, text: str) -> list[dict[str, str]]:
        """Return the attributes in order; they are complete in a header that is broken behind them."""
        try:
            self._parser.Parse(text, True)
        except expat.ExpatError as error:
            if not self._pixels:
                raise SlideError(f"is broken XML ({expat.ErrorString(error.code)})") from error
        return self._pixels

    def _refuse_doctype(self, *_: object) -> NoReturn:
        # Entities, which can fill the memory or name other files, are declared nowhere else.
        raise SlideError("declares a document type (<!DOCTYPE ...>), which is refused")

    def _start(self, element: str, attributes: dict[str, str]) -> None:
        if element.rpartition(" ")[2] == "Pixels":
            self._pixels.append(attributes)
