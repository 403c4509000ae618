"""The ROI files of one call of `add_rois`: how each is read, which slides it is of, and in which frame it counts."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from slideduck.errors import InputError
from slideduck.files.find import folder_below, given_folders
from slideduck.names import nearest, nfc, text_problem
from slideduck.roifiles.options import KEPT, RoiOptions
from slideduck.roifiles.outlines import RoiFile
from slideduck.roifiles.read import parse_roi_file
from slideduck.rois.frame import SlideFrame, in_base_pixels, in_level0, slide_frames, undecided, undecided_problem
from slideduck.rois.held import as_said, held_files
from slideduck.store.handle import Handle
from slideduck.words import printable

__all__ = ["GivenFiles", "slide_problems", "with_slides"]


class GivenFiles:
    """ROI files as they are given to a study.

    Parameters
    ----------
    handle : Handle
        The study.
    paths : sequence of path
        Files, folders and patterns, as they were given.
    roi_set : str
        Set of ROIs to add to.
    options : RoiOptions
        What was said of how to read them.

    Attributes
    ----------
    files : list of RoiFile
        Those that were read, their slides named as the study names them.
    kept : dict of Path to dict
        For each of them what was said of it before, and is in force since nothing else is said now.
    unreadable : list of str
        A message for each bad row of the others.
    """

    def __init__(self, handle: Handle, paths: Sequence[str | Path], roi_set: str, options: RoiOptions) -> None:
        self._handle, self._paths, self._set, self._options = handle, paths, roi_set, options
        self._folders = given_folders(paths) if options.names == "relative" else set()
        self._held = held_files(handle, roi_set)
        self._errors: dict[str, str | None] = dict(handle.con.execute("SELECT slide, error FROM slides").fetchall())
        self._by_form = {nfc(slide): slide for slide in self._errors}
        self._frames = slide_frames(handle)
        self._options_of: dict[Path, RoiOptions] = {}
        self.files: list[RoiFile] = []
        self.kept: dict[Path, dict[str, Any]] = {}
        self.unreadable: list[str] = []

    def read(self, path: Path) -> None:
        """Read a file by what is said now, and by what was said of it before."""
        if text_problem(str(path)) is not None:
            self.unreadable.append(f"{printable(str(path))}: its path is not UTF-8; rename it")
            return
        held = self._held.get(str(path))
        before = held.said() if held else {}
        options, kept = self._options.with_kept(before)
        if self._options.is_said("names"):
            folder = folder_below(path, self._folders) if options.names == "relative" else ""
        else:
            folder = before.get("folder", "")
            kept |= {"folder": folder} if folder else {}
        try:
            file = parse_roi_file(path, options)
        except InputError as error:
            self.unreadable.extend(error.problems)
            return
        self._options_of[path] = options
        self.kept[path] = kept
        self.files.append(with_slides(as_said(file, options, folder), options, folder, self._by_form))

    def changed(self) -> list[RoiFile]:
        """Return the files that the study does not have as they are, read in this way."""
        return [file for file in self.files if not self._is_held(file)]

    def _is_held(self, file: RoiFile) -> bool:
        held = self._held.get(str(file.path))
        return held is not None and held.is_same(file) and not undecided(file, self._frames)

    def placed(self, files: Sequence[RoiFile]) -> tuple[list[RoiFile], list[str]]:
        """Return files in level 0, and a message for each slide that is unknown, or of which the frame is not.

        The files are without the ROIs on those slides.
        """
        problems: list[str] = []
        pairs: list[tuple[RoiFile, SlideFrame]] = []
        placed = []
        files, off_centre = in_base_pixels(self._handle, files)
        problems += off_centre
        for file in files:
            of_slides = slide_problems(file, self._options_of[file.path], self._errors)
            problems += of_slides.values()
            frames = undecided(file, self._frames)
            pairs += [(file, frame) for frame in frames]
            bad = {*of_slides, *(frame.slide for frame in frames)}
            good = [outline for outline in file.outlines if outline.slide not in bad]
            slides = tuple(slide for slide in file.slides if slide not in bad)
            placed.append(in_level0(replace(file, outlines=tuple(good), slides=slides), self._frames))
        if pairs:
            problems.append(undecided_problem(pairs, self._command()))
        return placed, problems

    def _command(self) -> str:
        """Return the command that adds these files, without a frame."""
        said = {name: getattr(self._options, name) for name in KEPT + ("names",) if self._options.is_said(name)}
        words = [
            f"--{name.replace('_', '-')} {shlex.quote(text)}" for name, text in said.items() if isinstance(text, str)
        ]
        words += [f"--include {kind}" for kind in said.get("include", ())]
        words += [f"--slide-suffix {shlex.quote(suffix)}" for suffix in said.get("slide_suffix", ())]
        words += ["--labels CSV"] if said.get("labels") else []
        words += [f"--{name}" for name in ("strict", "replace") if getattr(self._options, name)]
        words += [f"--set {shlex.quote(self._set)}"] if self._set != "default" else []
        paths = " ".join(shlex.quote(os.fspath(path)) for path in self._paths)
        return " ".join([f"slideduck add-rois {shlex.quote(self._handle.name)} {paths}", *words])


def with_slides(file: RoiFile, options: RoiOptions, folder: str, by_form: Mapping[str, str]) -> RoiFile:
    """Return a file with its slides as the study names them, where it has them.

    Parameters
    ----------
    file : RoiFile
        The file, each outline with the slide that it names: the file's own, or what its column says.
    options : RoiOptions
        With what names have behind the slide's name.
    folder : str
        What a slide's name begins with where the file is named after it; empty for nothing.
    by_form : mapping of str to str
        Names of the study's slides, by their NFC.
    """
    suffixes = [nfc(suffix) for suffix in options.slide_suffix]

    def named(text: str) -> str:
        name = nfc(text)
        name = name.removesuffix(max(filter(name.endswith, suffixes), key=len, default=""))
        if text == file.slide and folder:
            name = f"{nfc(folder)}/{name}"
        return by_form.get(name, name)

    # A file without ROIs speaks of the slide that it is named after.
    texts = {outline.slide for outline in file.outlines} | ({file.slide} if file.slide is not None else set())
    names = {text: named(text) for text in texts}
    outlines = tuple(replace(outline, slide=names[outline.slide]) for outline in file.outlines)
    return replace(file, outlines=outlines, slides=tuple(sorted(set(names.values()))))


def slide_problems(file: RoiFile, options: RoiOptions, slides: Mapping[str, str | None]) -> dict[str, str]:
    """Return a message for each slide of a file that the study lacks or cannot use, in the order of the file.

    Parameters
    ----------
    file : RoiFile
        The file, its slides named.
    options : RoiOptions
        How it was read.
    slides : mapping of str to (str or None)
        The study's slides, each with its error or None.
    """
    first: dict[str, str] = {}
    for outline in sorted(file.outlines, key=lambda outline: outline.row):
        first.setdefault(outline.slide, file.place(outline))
    problems = {}
    for slide in first or file.slides:
        place = first.get(slide, f"{file.path.name}:1")
        if slide not in slides:
            problems[slide] = f"{place}: slide {slide!r} is not in the study{_remedy(slide, options, list(slides))}"
        elif slides[slide] is not None:
            problems[slide] = f"{place}: slide {slide!r} cannot be used: {slides[slide]}"
    return problems


def _remedy(slide: str, options: RoiOptions, known: Sequence[str]) -> str:
    """Return what to do about a slide that the study lacks."""
    inner = next((name for name in known if PurePosixPath(name).name == slide), None)
    if inner is not None and options.names != "relative":
        return f"; it has {inner!r}: give the folder that {inner.split('/')[0]!r} is in, with `names='relative'`"
    if (outer := PurePosixPath(slide).name) in known:
        return f"; it has {outer!r}: give `names='stem'`"
    near = nearest(slide, known)
    ways = ["add it first with add-slides", "name the file after its slide"]
    if not near:
        return f"; {', or '.join(ways)}"
    longer = next((name for name in near if slide.startswith(name) and slide != name), None)
    if longer is not None:
        ways.insert(0, f"take off what its name has behind the slide's with `slide_suffix='{slide[len(longer) :]}'`")
    return f"; did you mean {' or '.join(map(repr, near))}? {ways[0][0].upper()}{'; or '.join(ways)[1:]}"
