"""How ROI files and masks are read and added: the options, said once, and which values are refused."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from slideduck.errors import ConfigError
from slideduck.names import is_missing, nfc

__all__ = ["FRAMES", "HOLES", "INCLUDE", "LABEL_FROM", "NAMES", "MaskLabels", "MaskOptions", "RoiOptions"]

#: How holes are recognised: as drawn inside another ROI, as marked in the file, or as is usual for the format.
HOLES = ("auto", "nested", "explicit")

#: Corner that a file counts from: the slide's (level 0), or that of the part that was scanned.
FRAMES = ("bounds", "level0")

#: Objects of QuPath that are no annotations, and that are taken when asked for.
INCLUDE = ("detections", "cells", "tiles", "tma")

#: Where the class of an ImageScope region stands.
LABEL_FROM = ("name", "text", "description")

#: What of a file's path is the slide's name: its stem, or its folder below the one that was given as well.
NAMES = ("stem", "relative")

#: The label of each value of a mask's pixels, or of each colour.
MaskLabels = Mapping[int, str | None] | Mapping[str, str | None]

_NUMBER = re.compile(r"-?[0-9]+")
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True, kw_only=True)
class RoiOptions:
    """How to read ROI files, and how to put them into a study.

    Parameters
    ----------
    holes : {"auto", "nested", "explicit"}
        How holes are recognised: ``nested`` by lying within an ROI of the same label, ``explicit`` by the file's
        own marks; ``auto`` takes nested for CSV and explicit for the others.
    frame : {"bounds", "level0"}, optional
        Corner that the coordinates count from, for all files: that of the part of the slide that was scanned
        (``openslide.bounds-x``), as QuPath has it, or that of level 0. Needed for GeoJSON on slides where the two
        differ.
    strict : bool, default False
        Refuse a file with any ROI wholly outside its slide, in place of leaving a few out.
    include : sequence of {"detections", "cells", "tiles", "tma"}
        Objects of QuPath to take beside annotations.
    label_from : {"name", "text", "description"}
        Where the class of an ImageScope region stands: the layer's ``Name``, the region's ``Text``, or the
        ``Description``.
    labels : mapping of str to (str or None), optional
        Labels to rename, each to another or to None, no label.
    slide_suffix : str, default ""
        What file names have behind the slide's name, such as ``_annotations``.
    names : {"stem", "relative"}
        ``relative``: the slide's name begins with the folders below the folder that was given, as in
        ``case1/HE``.
    replace : bool, default False
        Replace the ROIs of the same slides and names that other files gave.

    Raises
    ------
    ConfigError
        If an option is impossible.
    """

    holes: str = "auto"
    frame: str | None = None
    strict: bool = False
    include: Sequence[str] = ()
    label_from: str = "name"
    labels: Mapping[str, str | None] = field(default_factory=dict)
    slide_suffix: str = ""
    names: str = "stem"
    replace: bool = False

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("holes", self.holes, HOLES),
            ("frame", self.frame or FRAMES[0], FRAMES),
            ("label_from", self.label_from, LABEL_FROM),
            ("names", self.names, NAMES),
            *(("include", value, INCLUDE) for value in self.include),
        ):
            if value not in allowed:
                raise ConfigError(f"{name} is {value!r}; give one of {', '.join(allowed)}")


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """How to read masks.

    Parameters
    ----------
    labels : mapping of (int or str) to (str or None)
        The label of each value, such as ``{1: "tumour", 2: "stroma"}``, or of each colour of RGB masks and palettes,
        such as ``{"#ff0000": "tumour"}``. None or an empty text is no ROI. 0, black and what is transparent are no ROI
        unless they are named.
    downsample : float or "auto"
        Base pixels per pixel of the mask. ``auto`` takes it from the sizes of slide and mask; see
        `slideduck.rois.masks.base_per_pixel`.
    components : bool, default False
        Make an ROI of each connected part, ``tumour_1`` and so on from top to bottom, in place of one a label.
    slide_suffix : str, default ""
        What file names have behind the slide's name, such as ``_mask``.

    Raises
    ------
    ConfigError
        If an option is impossible.
    """

    labels: MaskLabels = field(default_factory=dict)
    downsample: float | str = "auto"
    components: bool = False
    slide_suffix: str = ""

    def __post_init__(self) -> None:
        keys = [str(key) for key in self.labels]
        if not keys:
            raise ConfigError("no labels are given; name the values of the masks with `labels`, such as 1=tumour")
        wrong = [key for key in keys if not (_NUMBER.fullmatch(key) or _COLOUR.fullmatch(key))]
        if wrong:
            raise ConfigError(
                f"`labels` names {wrong[0]!r}; a value is a whole number such as 1, or a colour such as #ff0000"
            )
        if 0 < sum(key.startswith("#") for key in keys) < len(keys):
            raise ConfigError(
                "`labels` names both numbers and colours; a mask has one or the other: add them in two calls"
            )
        for key, label in zip(keys, self.labels.values(), strict=True):
            if label and label.strip() and is_missing(label):
                raise ConfigError(f"`labels` names {key} {label!r}, which is no label; for no ROI write {key}=")
        if not any(self.named.values()):
            raise ConfigError("`labels` names no label; give at least one, such as 1=tumour")
        if len(self.named) < len(keys):
            raise ConfigError("`labels` names a value twice; give each one label")
        if self.downsample != "auto" and not (_is_number(self.downsample) and 0 < float(self.downsample) < math.inf):
            raise ConfigError(
                f"downsample is {self.downsample!r}; give base pixels per pixel of the mask, such as 16, or auto"
            )

    @property
    def colours(self) -> bool:
        """Whether the labels are named by colours."""
        return any(str(key).startswith("#") for key in self.labels)

    @cached_property
    def named(self) -> dict[int, str]:
        """The label of each value, in the order of values; empty for no ROI."""
        pairs = ((_number(str(key)), nfc(label or "").strip()) for key, label in self.labels.items())
        return dict(sorted(pairs))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(key: str) -> int:
    """Return the number that pixels of a value or colour are read as."""
    return int(key[1:], 16) if key.startswith("#") else int(key)
