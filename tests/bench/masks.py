"""Times label masks, from the file to labels of tiles, and their outlines against rasterio's and OpenCV's.

    python tests/bench/masks.py [--quick] [--repeat 3]

The masks are seeded noise, smoothed: tissue-like (few large parts), rough (20,000 parts) and specks (370,000). The
outlines of rasterio (GDAL's polygonise) are the same polygons and are compared; OpenCV's run through the middle of
pixels and join what meets at a corner, and are timed alone. rasterio takes part where it can be imported.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

import slideduck as sd
from slideduck.rois.trace import Tracer

#: Standard deviation of the smoothing, pixels of the mask.
KINDS = {"tissue": 60.0, "rough": 6.0, "specks": 3.0}
DOWNSAMPLE = 16


def drawn(width: int, height: int, sigma: float) -> NDArray[np.uint8]:
    """Return a mask of three labels, which cover 60 % of it."""
    noise = np.random.default_rng(1).random((height, width), np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), sigma)
    mask: NDArray[np.uint8] = np.digitize(smooth, np.quantile(smooth[::7, ::7], [0.4, 0.6, 0.8])).astype(np.uint8)
    return mask


def traced(mask: NDArray[np.uint8]) -> dict[int, Any]:
    """Return the outlines as add-masks has them."""
    tracer = Tracer(mask.shape[1])
    rows = max(1, 2**22 // mask.shape[1])
    for top in range(0, len(mask), rows):
        tracer.add(mask[top : top + rows])
    return tracer.polygons()


def by_rasterio(mask: NDArray[np.uint8]) -> list[tuple[dict[str, Any], float]]:
    """Return GDAL's polygons of pixels that share an edge."""
    from rasterio.features import shapes  # type: ignore[import-not-found]

    return list(shapes(mask, mask=mask > 0, connectivity=4))


def by_opencv(mask: NDArray[np.uint8]) -> None:
    """Find OpenCV's contours of each label."""
    for number in (1, 2, 3):
        cv2.findContours((mask == number).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)


def seconds(work: Callable[[], object], repeat: int) -> float:
    """Return the median time of a piece of work."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def in_a_study(mask: NDArray[np.uint8]) -> tuple[float, float]:
    """Return the seconds of adding the mask to a study, and of labelling tiles of 512 base pixels by it."""
    height, width = mask.shape
    with tempfile.TemporaryDirectory() as folder, sd.open(Path(folder) / "study.duckdb") as study:
        tifffile.imwrite(Path(folder) / "A.tif", mask, tile=(256, 256), compression="lzw")
        study.con.execute(
            "INSERT INTO slides (slide, path, width, height, mpp, level_downsamples) "
            "VALUES ('A', '', $1, $2, 0.25, [1])",
            [width * DOWNSAMPLE, height * DOWNSAMPLE],
        )
        study.tile(256, tile_um=128)
        added = seconds(lambda: study.add_masks(Path(folder) / "A.tif", {1: "a", 2: "b", 3: "c"}), 1)
        areas = study.con.execute("SELECT CAST(area AS BIGINT) FROM rois ORDER BY label").fetchall()
        assert areas == [(np.count_nonzero(mask == number) * DOWNSAMPLE**2,) for number in (1, 2, 3)]
        return added, seconds(lambda: study.label(rule="coverage"), 1)


def main() -> None:
    """Print a line for each kind of mask."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="masks of 0.2 million pixels in place of 20")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    width, height = (500, 400) if arguments.quick else (5000, 4000)
    for kind, sigma in KINDS.items():
        mask = drawn(width, height, sigma)
        polygons = traced(mask)
        parts = sum(map(len, polygons.values()))
        ours = seconds(lambda mask=mask: traced(mask), arguments.repeat)  # type: ignore[misc]
        line = f"{kind}: {mask.size / 1e6:.1f} Mpx, {parts:,} parts; outlines {ours:.2f} s"
        line += f", OpenCV {seconds(lambda mask=mask: by_opencv(mask), arguments.repeat):.2f} s"  # type: ignore[misc]
        if importlib.util.find_spec("rasterio"):
            theirs = by_rasterio(mask)
            assert sorted(map(len, (p for several in polygons.values() for p in several))) == sorted(
                len(shape["coordinates"]) for shape, _ in theirs
            ), "other polygons than rasterio's"
            line += f", rasterio {seconds(lambda mask=mask: by_rasterio(mask), arguments.repeat):.2f} s"  # type: ignore[misc]
        added, labelled = in_a_study(mask)
        print(f"{line}; add-masks {added:.1f} s, label {labelled:.1f} s", flush=True)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
