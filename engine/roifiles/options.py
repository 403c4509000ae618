"""How ROI files are read and added: the options, said once, and which values are refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slideduck.errors import ConfigError
from slideduck.slides.search import NAMES

__all__ = ["FRAMES", "HOLES", "INCLUDE", "KEPT", "LABEL_FROM", "NAMES", "RoiOptions"]

#: How holes are recognised: as drawn inside another ROI, as marked in the file, or as is usual for the format.
HOLES = ("auto", "nested", "explicit")

#: Corner that a file counts from: the slide's (level 0), or that of the part that was scanned.
FRAMES = ("bounds", "level0")

#: Objects of QuPath that are no annotations, and that are taken when asked for.
INCLUDE = ("detections", "cells", "tiles", "tma")

#: Where the class of an ImageScope region stands.
LABEL_FROM = ("name", "text", "description")

#: What is kept of a file's options, and stays in force when the file is added again and nothing else is said.
KEPT = ("holes", "frame", "include", "label_from", "labels", "slide_suffix")


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
        ``Description`` (in HALO the comment, in NDP.view the details).
    labels : mapping of str to (str or None), optional
        Labels to rename, each to another or to None, no label.
    slide_suffix : str or sequence of str
        What file names have behind the slide's name, such as ``_annotations``; of several, a name loses the longest
        that it has.
    names : {"stem", "relative"}
        ``relative``: the slide's name begins with the folders below the folder that was given, as in
        ``case1/HE``.
    replace : bool, default False
        Replace the ROIs of the same slides and names that other files gave.
    given : frozenset of str
        Names of the options that were said, be it what is usual. What is not said of a file that the study has stays
        as it was said before; see `with_kept`.

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
    slide_suffix: str | Sequence[str] = ()
    names: str = "stem"
    replace: bool = False
    given: frozenset[str] = field(default=frozenset(), compare=False)

    @classmethod
    def said(cls, **options: Any) -> RoiOptions:
        """Return options that were said, except for those that are None: each holds for files added with another."""
        return cls(**options, given=frozenset(name for name, value in options.items() if value is not None))

    def is_said(self, name: str) -> bool:
        """Return whether an option was said: named, or given another value than is usual."""
        return name in self.given or getattr(self, name) != getattr(_USUAL, name)

    def with_kept(self, before: Mapping[str, Any]) -> tuple[RoiOptions, dict[str, Any]]:
        """Return the options for a file that was added with some, and those that stay in force since none is said.

        Parameters
        ----------
        before : mapping of str to object
            What was said of the file, of `KEPT`.
        """
        kept = {name: value for name, value in before.items() if name in KEPT and not self.is_said(name)}
        return dataclasses.replace(self, **kept), kept

    def to_keep(self) -> dict[str, Any]:
        """Return what is said of a file and is not usual, of `KEPT`, as JSON can hold it."""
        unusual = {name: getattr(self, name) for name in KEPT if getattr(self, name) != getattr(_USUAL, name)}
        return {
            name: value if isinstance(value, str) else dict(value) if name == "labels" else list(value)
            for name, value in unusual.items()
        }

    def __post_init__(self) -> None:
        object.__setattr__(self, "include", tuple(sorted(set(self.include))))
        suffixes = {self.slide_suffix} if isinstance(self.slide_suffix, str) else set(self.slide_suffix)
        object.__setattr__(self, "slide_suffix", tuple(sorted(suffixes - {""})))
        for name, value, allowed in (
            ("holes", self.holes, HOLES),
            ("frame", self.frame or FRAMES[0], FRAMES),
            ("label_from", self.label_from, LABEL_FROM),
            ("names", self.names, NAMES),
            *(("include", value, INCLUDE) for value in self.include),
        ):
            if value not in allowed:
                raise ConfigError(f"{name} is {value!r}; give one of {', '.join(allowed)}")


_USUAL = RoiOptions()
