"""Makes the demo's cohort: slides that look like stained tissue, ROIs in three file formats, and patients."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import tifffile

from slideduck.errors import FULL_ERRNOS, ConfigError, DiskFullError
from slideduck.files.write import replacing
from slideduck.progress import track
from slideduck.runner.demo import roifiles, tissue
from slideduck.runner.demo.roifiles import ROI_WRITERS, DrawnRoi, csv_text
from slideduck.runner.demo.tissue import Stain, paint, wavy_outline

__all__ = ["MPP", "Cohort", "cohort_version", "make_cohort"]

#: Microns per base pixel of every slide.
MPP = 0.5

_LEVELS = 3
_JPEG_QUALITY = 90
_MARKER = "cohort.json"
# Two slides of one patient, then two patients of one slide each; each such block is a site.
_PATIENT_IN_BLOCK = (0, 0, 1, 2)


@dataclass(frozen=True)
class Cohort:
    """The files of a cohort.

    Parameters
    ----------
    directory : pathlib.Path
        What holds them all.
    slides, rois : tuple of pathlib.Path
        Slides and their ROI files, in the order of names.
    patients : pathlib.Path
        CSV with the columns slide, patient, site and age.
    made : bool
        False if they were there already.
    """

    directory: Path
    slides: tuple[Path, ...]
    rois: tuple[Path, ...]
    patients: Path
    made: bool


@dataclass(frozen=True)
class _SlidePlan:
    """All that is decided about a slide before it is painted."""

    name: str
    patient: str
    site: str
    age: int
    stain: Stain
    tissue: npt.NDArray[np.float64]
    regions: tuple[tuple[str, npt.NDArray[np.float64]], ...]
    rois: tuple[DrawnRoi, ...]
    rng: np.random.Generator


def make_cohort(
    directory: str | os.PathLike[str],
    *,
    seed: int = 0,
    n_slides: int = 8,
    width: int = 3000,
    height: int = 2400,
    progress: bool = False,
) -> Cohort:
    """Write a cohort of generated slides with their ROIs and patients.

    Each slide is a pyramid of JPEG tiles with three levels at 0.5 microns per pixel: tumour, stroma, necrosis
    and fat on glass, stained a little differently from site to site and slide to slide. ROI files take turns
    between Slideflow's CSV, QuPath's GeoJSON and ImageScope's XML. Each has a hole, and two ROIs of different
    labels that overlap; the first of each format has an ROI without a label.

    Parameters
    ----------
    directory : path
        Made where it is missing. Holds ``slides/``, ``rois/``, ``patients.csv`` and ``cohort.json``.
    seed : int
        The same seed and sizes give the same bytes.
    n_slides : int
        At least 1; 8 slides are of 6 patients at 2 sites.
    width, height : int
        Size of each slide, base pixels, at least 600; the regions grow with it and the cells do not.
    progress : bool
        Whether to show how far it is.

    Returns
    -------
    Cohort
        The files. Where a complete cohort of the same seed and sizes stands already, nothing is written.

    Raises
    ------
    ConfigError
        If a number is too small, or the folder cannot be written.
    DiskFullError
        If there is no room; the same call begins again.
    """
    if n_slides < 1:
        raise ConfigError(f"n_slides is {n_slides}; a cohort has at least 1 slide")
    if min(width, height) < 600:
        raise ConfigError(f"width and height are {width} and {height}; slides need at least 600 pixels each way")
    directory = Path(directory)
    settings = {"seed": seed, "n_slides": n_slides, "width": width, "height": height, "version": cohort_version()}
    plans = _plan(seed, n_slides, width, height)
    cohort = Cohort(
        directory,
        tuple(directory / "slides" / f"{plan.name}.tiff" for plan in plans),
        tuple(directory / "rois" / f"{plan.name}.{_format(i)}" for i, plan in enumerate(plans)),
        directory / "patients.csv",
        made=True,
    )
    marker = directory / _MARKER
    if _is_complete(cohort, marker, settings):
        return replace(cohort, made=False)

    try:
        _write_files(cohort, plans, width, height, progress)
        # Last, so that a cohort which was cut short is made again.
        _write(marker, json.dumps(settings, indent=2) + "\n")
    except OSError as error:
        if error.errno in FULL_ERRNOS:
            raise DiskFullError(
                f"no space left for the cohort in {directory} ({error.strerror}); free {2 * n_slides} MB, "
                "and make it again"
            ) from error
        raise ConfigError(f"{directory} cannot be written: {error.strerror}; give another folder") from error
    return cohort


def _write_files(cohort: Cohort, plans: Sequence[_SlidePlan], width: int, height: int, progress: bool) -> None:
    """Write everything but the marker."""
    for path in (cohort.slides[0].parent, cohort.rois[0].parent):
        path.mkdir(parents=True, exist_ok=True)
    (cohort.directory / _MARKER).unlink(missing_ok=True)
    for i, (plan, path) in enumerate(zip(plans, cohort.rois, strict=True)):
        _write(path, ROI_WRITERS[_format(i)](plan.rois, MPP))
    rows = [(plan.name, plan.patient, plan.site, str(plan.age)) for plan in plans]
    _write(cohort.patients, csv_text([("slide", "patient", "site", "age"), *rows]))
    with (
        track("Painting slides", len(plans), "slides", show=progress) as advance,
        ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool,
    ):
        jobs = [
            pool.submit(_write_slide, plan, path, width, height)
            for plan, path in zip(plans, cohort.slides, strict=True)
        ]
        try:
            for job in as_completed(jobs):
                job.result()
                advance(1)
        except BaseException:
            # Ctrl-C is not to wait for slides that nobody wants any more.
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def cohort_version() -> str:
    """Return a fingerprint of the code that makes cohorts: other code paints other slides."""
    code = b"".join(Path(file).read_bytes() for file in (__file__, roifiles.__file__, tissue.__file__))
    return hashlib.sha256(code).hexdigest()[:16]


def _is_complete(cohort: Cohort, marker: Path, settings: dict[str, object]) -> bool:
    """Return whether the marker says that these files were all made with these settings."""
    if not all(path.is_file() for path in (*cohort.slides, *cohort.rois, cohort.patients, marker)):
        return False
    return marker.read_text(encoding="utf-8") == json.dumps(settings, indent=2) + "\n"


def _format(number: int) -> str:
    """Return the ROI format of a slide."""
    return tuple(ROI_WRITERS)[number % len(ROI_WRITERS)]


def _plan(seed: int, n_slides: int, width: int, height: int) -> list[_SlidePlan]:
    """Decide everything but the pixels. Each slide has a generator of its own, so threads change nothing."""
    plans = []
    for i, child in enumerate(np.random.SeedSequence(seed).spawn(n_slides)):
        rng = np.random.default_rng(child)
        block, place = divmod(i, len(_PATIENT_IN_BLOCK))
        patient = 3 * block + _PATIENT_IN_BLOCK[place] + 1
        # A patient has one age, whichever slide asks.
        age = int(np.random.default_rng([seed, patient]).integers(38, 84))
        outline, regions, rois = _draw(
            rng, width, height, mostly_tumour=place in (0, 3), unlabelled=i < len(ROI_WRITERS)
        )
        plans.append(
            _SlidePlan(
                name=f"PT-{patient:02}-{'B' if place == 1 else 'A'}",
                patient=f"PT-{patient:02}",
                site="north" if block % 2 == 0 else "south",
                age=age,
                stain=_stain(rng, block % 2),
                tissue=outline,
                regions=tuple(regions),
                rois=tuple(rois),
                rng=rng,
            )
        )
    return plans


def _stain(rng: np.random.Generator, site: int) -> Stain:
    """Return a slide's stain: each laboratory has its own, and no two slides are alike."""
    haematoxylin, eosin = ((1.0, 1.0), (0.85, 1.2))[site] * np.exp(rng.normal(scale=0.10, size=2))
    shift = rng.normal(scale=0.02, size=3) + ((0.0, 0.0, 0.0), (0.03, 0.0, -0.04))[site]
    glass = np.rint(rng.normal((244, 243, 245), 2)).clip(236, 250)
    return Stain(float(haematoxylin), float(eosin), tuple(map(float, shift)), tuple(map(int, glass)))  # type: ignore[arg-type]


def _draw(
    rng: np.random.Generator, width: int, height: int, *, mostly_tumour: bool, unlabelled: bool
) -> tuple[npt.NDArray[np.float64], list[tuple[str, npt.NDArray[np.float64]]], list[DrawnRoi]]:
    """Return the outline of the tissue, the regions to paint, and the ROIs drawn round them.

    One layout, mirrored and shaken, with more of the tumour or of the stroma. Positions and radii are parts
    of the width and the height.
    """
    size = np.array([width, height])
    mirrored = rng.random(2) < 0.5
    tumour, stroma = (1.0, 1.0) if mostly_tumour else (0.72, 1.2)

    def centre(x: float, y: float, shake: float = 0.012) -> npt.NDArray[np.float64]:
        at = np.array([x, y]) + rng.normal(scale=shake, size=2).clip(-0.02, 0.02)
        return np.asarray(np.where(mirrored, 1 - at, at) * size, np.float64)

    def outline(
        at: npt.NDArray[np.float64], x: float, y: float, scale: float = 1.0, *, waviness: float = 0.07
    ) -> npt.NDArray[np.float64]:
        radius = np.array([x, y]) * size * scale
        return wavy_outline(rng, (at[0], at[1]), (radius[0], radius[1]), waviness=waviness)

    def about(drawn: npt.NDArray[np.float64], at: npt.NDArray[np.float64], scale: float) -> npt.NDArray[np.float64]:
        return at + (drawn - at) * scale

    on_slide = outline(centre(0.5, 0.5, 0.0), 0.455, 0.445, waviness=0.04)
    regions: list[tuple[str, npt.NDArray[np.float64]]] = []
    rois: list[DrawnRoi] = []

    def region(name: str, label: str, at: npt.NDArray[np.float64], x: float, y: float, scale: float = 1.0) -> None:
        drawn = outline(at, x, y, scale)
        # A hand stays a little inside, mostly.
        regions.append((label, about(drawn, at, 1.03)))
        rois.append(DrawnRoi(name, label, drawn))

    # A nest of tumour that is dead in the middle: the tumour's ROI has a hole, and necrosis is drawn in it.
    at = centre(0.30, 0.50)
    region("tumour_1", "tumour", at, 0.150, 0.225, tumour)
    region("necrosis_1", "necrosis", at, 0.070, 0.092, tumour)
    rois[0] = replace(rois[0], hole=about(rois[1].outline, at, 1.15))

    region("tumour_2", "tumour", centre(0.66, 0.71), 0.120, 0.140, tumour)
    region("necrosis_2", "necrosis", centre(0.51, 0.22), 0.088, 0.104)
    # Stroma drawn over the edge of a small nest that has an ROI of its own: the smaller one wins there.
    region("tumour_3", "tumour", centre(0.645, 0.45), 0.055, 0.066)
    rois.append(DrawnRoi("stroma_1", "stroma", outline(centre(0.73, 0.34), 0.125, 0.145, stroma)))
    rois.append(DrawnRoi("stroma_2", "stroma", outline(centre(0.43, 0.81), 0.105, 0.070, stroma)))

    # Two corners of bare glass: a network that has never seen any calls it what it likes.
    rois.append(DrawnRoi("glass_1", "glass", outline(centre(0.08, 0.10, 0.004), 0.060, 0.080)))
    rois.append(DrawnRoi("glass_2", "glass", outline(centre(0.92, 0.90, 0.004), 0.060, 0.080)))

    at = centre(0.855, 0.60)
    fat = outline(at, 0.055, 0.070)
    regions.append(("fat", about(fat, at, 1.05)))
    if unlabelled:
        rois.append(DrawnRoi("to_review", None, fat))
    return (
        on_slide,
        regions,
        [replace(roi, outline=roi.outline.round(1), hole=_rounded(roi.hole)) for roi in rois],
    )


def _rounded(outline: npt.NDArray[np.float64] | None) -> npt.NDArray[np.float64] | None:
    """Return an outline to a tenth of a pixel, as drawing programs write it."""
    return None if outline is None else outline.round(1)


def _write_slide(plan: _SlidePlan, path: Path, width: int, height: int) -> None:
    """Paint a slide and write it as a pyramid of JPEG tiles, whole or not at all."""
    picture = paint(plan.rng, width, height, plan.tissue, plan.regions, plan.stain)
    with replacing(path) as temporary, tifffile.TiffWriter(temporary) as tiff:
        for level in range(_LEVELS):
            if level:
                half = (picture.shape[1] // 2, picture.shape[0] // 2)
                picture = np.asarray(cv2.resize(picture, half, interpolation=cv2.INTER_AREA), np.uint8)
            tiff.write(
                picture,
                tile=(256, 256),
                photometric="rgb",  # of the picture; the JPEG is YCbCr, as scanners write it
                compression="jpeg",
                compressionargs={"level": _JPEG_QUALITY},
                subfiletype=1 if level else 0,
                # A centimetre is 10,000 microns.
                resolution=(10_000 / MPP / 2**level, 10_000 / MPP / 2**level),
                resolutionunit="CENTIMETER",
                description=None,
                metadata=None,
                software=False,
            )


def _write(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
