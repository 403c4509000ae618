"""How ROI files are read and added: the options, said once, and which values are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from slideduck.errors import ConfigError

__all__ = ["FRAMES", "HOLES", "INCLUDE", "LABEL_FROM", "NAMES", "RoiOptions"]

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

    def told(self) -> str:
        """Return what the ROIs of a file depend on beside its bytes, its holes and its frame, as JSON.

        Returns
        -------
        str
            Without what is as usual: ``{}`` where nothing was said.
        """
        usual = {"include": [], "label_from": "name", "labels": {}, "slide_suffix": "", "names": "stem"}
        said = {name: getattr(self, name) for name in usual}
        said |= {"include": sorted(set(self.include)), "labels": dict(self.labels)}
        return json.dumps({name: value for name, value in said.items() if value != usual[name]}, sort_keys=True)
