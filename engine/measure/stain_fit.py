"""Fits the stains of the slides of a study, each once, and stores them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa

from slideduck.errors import ConfigError, ResolutionError, SlideError, StudyError
from slideduck.measure.stain import METHODS, StainTarget, fit_from_json, fit_to_json, reference_target, stain_settings
from slideduck.measure.stain_slide import SlideFit, StainSlide, fit_slide, without_slides
from slideduck.progress import track
from slideduck.show import Shown
from slideduck.store.db import atomic, registered
from slideduck.store.handle import Handle
from slideduck.store.sqlfiles import read_query
from slideduck.words import agreeing, part, some
from slideduck.work.ordered import in_order

__all__ = [
    "StainReport",
    "check_method",
    "ensure_fit",
    "fit_stain",
    "list_stain_slides",
    "require_fits",
    "stain_target",
]


_MOST_THREADS = 16
#: Slides that a condition names.
_SHOWN = 5


@dataclass(frozen=True)
class StainReport(Shown):
    """What `fit_stain` did.

    Attributes
    ----------
    method : str
        The method.
    fitted, unchanged : int
        Slides that were fitted now, and that had been before.
    failed : dict of str to str
        The error of each slide that has no fit, by name.
    table : pyarrow.Table
        A row for each slide that was meant and has a fit: ``slide``, ``pixels``, and of Macenko ``haematoxylin``,
        ``eosin`` and ``concentrations``, of Reinhard ``lab_mean`` and ``lab_std``, as lists.
    seconds : float
        Time that it took.
    """

    method: str
    fitted: int
    unchanged: int
    failed: dict[str, str]
    table: pa.Table
    seconds: float


def fit_stain(
    handle: Handle,
    method: str = "macenko",
    *,
    slides: Sequence[str] | None = None,
    anew: bool = False,
    threads: int | None = None,
) -> StainReport:
    """Fit the stains of the slides that lack a fit, and store the fits in the study.

    Parameters
    ----------
    handle : Handle
        The study.
    method : {"macenko", "reinhard"}
        ``macenko`` finds the two stains and their strengths, ``reinhard`` mean and deviation of the colours.
    slides : sequence of str, optional
        Only these slides; default all that can be used.
    anew : bool, default False
        Fit slides again that have a fit.
    threads : int, optional
        Threads that read slides; default one a core, and 16 at most: each takes up to 150 MB. The numbers do not
        depend on it.

    Returns
    -------
    StainReport

    Raises
    ------
    StudyError
        If the study has no such slide.
    ConfigError
        If a setting is impossible.

    Notes
    -----
    A slide that cannot be fitted is reported, and the others go on. Stopped at any moment, the same call goes on with
    the slides that lack a fit. A slide that is added again with other content is fitted again.
    """
    started = time.monotonic()
    check_method(method)
    threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS) if threads is None else threads
    if threads < 1:
        raise ConfigError(f"threads is {threads}; give 1 or more")
    chosen = _chosen(list_stain_slides(handle, method), slides)
    todo = [slide for slide, fit in chosen if anew or fit is None]
    failed: dict[str, str] = {}
    with (
        track("Fitting stains", len(todo), "slides", show=handle.progress) as advance,
        ThreadPoolExecutor(threads, thread_name_prefix="slideduck-stain") as pool,
        closing(in_order(pool, lambda slide: fit_slide(slide, method), todo, ahead=2 * threads)) as running,
    ):
        for slide, future in running:
            try:
                _store(handle, slide, future.result())
            except (SlideError, ResolutionError) as error:
                failed[slide.slide] = str(error)
            advance(1)
    names = {slide.slide for slide, _ in chosen} - set(failed)
    found = [(slide, fit) for slide, fit in list_stain_slides(handle, method) if slide.slide in names and fit]
    return StainReport(
        method=method,
        fitted=len(todo) - len(failed),
        unchanged=len(chosen) - len(todo),
        failed=failed,
        table=_table(method, found),
        seconds=time.monotonic() - started,
    )


def check_method(method: str) -> None:
    """Refuse an unknown method."""
    if method not in METHODS:
        raise ConfigError(f"method is {method!r}; give one of {', '.join(METHODS)}")


def list_stain_slides(handle: Handle, method: str) -> list[tuple[StainSlide, SlideFit | None]]:
    """Return the slides that can be used, in the order of their names, with their fit where they have it."""
    values = {"method": method, "settings": stain_settings(method)}
    rows: list[dict[str, Any]] = (
        handle.con.execute(read_query("list_stain_slides"), values).to_arrow_table().to_pylist()
    )
    found = []
    for row in rows:
        slide = StainSlide(**{field.name: row[field.name] for field in fields(StainSlide)})
        fit = None
        if row["numbers"] is not None:
            fit = SlideFit(fit_from_json(method, dict(row["numbers"])), row["pixels"], row["library"])
        found.append((slide, fit))
    return found


def require_fits(handle: Handle, method: str, slides: Iterable[str]) -> dict[str, SlideFit]:
    """Return the fits of slides by name.

    Parameters
    ----------
    handle : Handle
        The study.
    method : str
        The method.
    slides : iterable of str
        Names of slides.

    Raises
    ------
    StudyError
        If any has none.
    """
    fits = {slide.slide: fit for slide, fit in list_stain_slides(handle, method) if fit is not None}
    wanted = list(slides)
    missing = [slide for slide in wanted if slide not in fits]
    if missing:
        # With others fitted, these may be those that cannot be.
        rest = "; what cannot be fitted, such as a blank slide, is left out with " + without_slides(missing[:_SHOWN])
        rest = rest if len(missing) < len(wanted) else ""
        raise StudyError(
            f"{part(len(missing), len(wanted), 'slide')} "
            f"{agreeing(len(missing), 'has no fit of its', 'have no fit of their')} stains by {method} "
            f"({some(missing)}); "
            f"{agreeing(len(missing), 'fit it', 'fit them')} with: "
            f"slideduck stain {handle.name} --method {method}{rest}"
        )
    return {slide: fits[slide] for slide in wanted}


def ensure_fit(handle: Handle, slide: str, method: str) -> SlideFit:
    """Return the fit of a slide; without one it is fitted now, and stored if the study can be written.

    Raises
    ------
    SlideError
        If it cannot be fitted.
    StudyError
        If the study has no such slide that can be used.
    """
    ((found, fit),) = _chosen(list_stain_slides(handle, method), [slide])
    if fit is None:
        fit = fit_slide(found, method)
        if handle.con.execute("SELECT NOT readonly FROM duckdb_databases() WHERE path IS NOT NULL").fetchone() == (
            True,
        ):
            _store(handle, found, fit)
    return fit


def stain_target(handle: Handle, method: str, slide: str | None) -> StainTarget:
    """Return the target of normalisation: the reference, or the stains of a slide of the study.

    Raises
    ------
    StudyError
        If there is no such slide, or it has no fit.
    """
    if slide is None:
        return reference_target(method)
    known = {row[0] for row in handle.con.execute("SELECT slide FROM slides").fetchall()}
    if slide not in known:
        raise StudyError(f"{handle.name} has no slide {slide!r} whose stains could be the target")
    return StainTarget(slide, require_fits(handle, method, [slide])[slide].fit)


def _chosen(
    found: list[tuple[StainSlide, SlideFit | None]], names: Sequence[str] | None
) -> list[tuple[StainSlide, SlideFit | None]]:
    known = {slide.slide for slide, _ in found}
    strangers = [repr(name) for name in dict.fromkeys(names or ()) if name not in known]
    if strangers:
        raise StudyError(
            f"the study has no slide {', '.join(strangers)} that can be used; it has {len(known):,} others"
        )
    return [(slide, fit) for slide, fit in found if names is None or slide.slide in names]


def _store(handle: Handle, slide: StainSlide, found: SlideFit) -> None:
    """Store a fit, replacing one by the same method."""
    method = found.fit.method
    row = {
        "slide_id": slide.slide_id,
        "method": method,
        "numbers": list(fit_to_json(found.fit).items()),
        "pixels": found.pixels,
        "fingerprint": slide.fingerprint,
        "mpp": slide.mpp,
        "settings": stain_settings(method),
        "library": found.library,
    }
    with atomic(handle.con), registered(handle.con, "incoming_stain", pa.Table.from_pylist([row], schema=_SCHEMA)):
        handle.con.execute("INSERT OR REPLACE INTO slide_stains BY NAME SELECT * FROM incoming_stain")


_SCHEMA = pa.schema(
    [
        ("slide_id", pa.int32()),
        ("method", pa.string()),
        ("numbers", pa.map_(pa.string(), pa.list_(pa.float64()))),
        ("pixels", pa.int64()),
        ("fingerprint", pa.string()),
        ("mpp", pa.float64()),
        ("settings", pa.string()),
        ("library", pa.string()),
    ]
)


def _table(method: str, found: Sequence[tuple[StainSlide, SlideFit]]) -> pa.Table:
    columns: dict[str, pa.Array] = {
        "slide": pa.array([slide.slide for slide, _ in found], pa.string()),
        "pixels": pa.array([fit.pixels for _, fit in found], pa.int64()),
    }
    numbers: list[Mapping[str, list[float]]] = [fit_to_json(fit.fit) for _, fit in found]
    for field in fields(reference_target(method).fit):
        columns[field.name] = pa.array([of_slide[field.name] for of_slide in numbers], pa.list_(pa.float64()))
    return pa.table(columns)
