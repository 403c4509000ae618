"""How label masks are read: the options, said once, and which values are refused."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from slideduck.errors import ConfigError
from slideduck.names import is_missing, nfc
from slideduck.roifiles.options import FRAMES

__all__ = ["MaskLabels", "MaskOptions"]

#: The label of each value of a mask's pixels, or of each colour.
MaskLabels = Mapping[int, str | None] | Mapping[str, str | None]

_NUMBER = re.compile(r"-?[0-9]+")
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


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
    frame : {"bounds", "level0"}, optional
        What masks show: the part of the slide that was scanned (``openslide.bounds-x``), as QuPath has it, or all of
        level 0. Needed where the two differ and a mask fits the part.
    replace : bool, default False
        Replace the ROIs of the same slides and names that other files gave.

    Raises
    ------
    ConfigError
        If an option is impossible.
    """

    labels: MaskLabels = field(default_factory=dict)
    downsample: float | str = "auto"
    components: bool = False
    slide_suffix: str = ""
    frame: str | None = None
    replace: bool = False

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
        if self.frame is not None and self.frame not in FRAMES:
            raise ConfigError(f"frame is {self.frame!r}; give one of {', '.join(FRAMES)}")
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
