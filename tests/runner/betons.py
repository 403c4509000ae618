"""Small betons with side-cars, written by the engine, for the tests of the runner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slideduck.betons import BetonWriter, encode_jpeg, write_sidecar

TILE_PX = 32


@dataclass(frozen=True)
class TileSpec:
    """One tile of a beton to write: its slide's name, its class number and its picture."""

    slide: str
    label: int
    image: NDArray[np.uint8]


def stripes(rng: np.random.Generator, across: bool, tile_px: int = TILE_PX) -> NDArray[np.uint8]:
    """Return stripes 4 px wide, or a chequerboard of the same colours: flips and turns keep them apart."""
    y, x = np.mgrid[:tile_px, :tile_px]
    phase_x, phase_y = rng.integers(0, 8, 2)
    on = ((x + phase_x) // 4 % 2) == 1
    if across:
        on = on ^ (((y + phase_y) // 4 % 2) == 1)
    colours = np.array([[200, 120, 170], [120, 60, 140]], np.float64)
    image = colours[on.astype(int)] + rng.normal(0, 12, (tile_px, tile_px, 3))
    tile: NDArray[np.uint8] = np.clip(image, 0, 255).astype(np.uint8)
    return tile


def two_textures(n: int, *, slides: int = 8, seed: int = 0, shuffle_labels: bool = False) -> list[TileSpec]:
    """Return `n` tiles of two classes, both on each of the slides S0, S1, ..."""
    rng = np.random.default_rng(seed)
    tiles = []
    for i in range(n):
        label = int(rng.integers(0, 2))
        image = stripes(rng, across=bool(label))
        if shuffle_labels:
            label = int(rng.integers(0, 2))
        tiles.append(TileSpec(f"S{i * slides // n}", label, image))
    return tiles


def write_beton(
    path: Path,
    tiles: list[TileSpec],
    *,
    classes: tuple[str, ...] = ("stripes", "chequers"),
    split_of: dict[str, str | None] | None = None,
    fold_of: dict[str, int] | None = None,
    patient_of: dict[str, str] | None = None,
    site_of: dict[str, str] | None = None,
    quality: int | None = 90,
    columns_of: dict[str, dict[str, Any]] | None = None,
) -> Path:
    """Write a beton and its side-car; by default every fourth slide validates and each is its own patient."""
    names = sorted({tile.slide for tile in tiles})
    split_of = split_of or {name: "val" if i % 4 == 3 else "train" for i, name in enumerate(names)}
    tile_px = tiles[0].image.shape[0]
    mode = "raw" if quality is None else "jpg"
    with BetonWriter(path, samples=len(tiles), page_size=1 << 16) as writer:
        for tile in tiles:
            data = tile.image.tobytes() if quality is None else encode_jpeg(tile.image, quality)
            writer.write(data, tile_px, tile_px, mode=mode, label=tile.label)
        written = writer.finish()
        content = _content(path, tiles, names, classes, split_of, fold_of, patient_of, site_of, quality, written)
        for slide in content["slides"]:
            # As side-cars of before, unless the columns are given.
            slide |= {} if columns_of is None else {"patient_columns": columns_of.get(slide["slide"], {})}
        write_sidecar(path, content)
        writer.publish()
    return path


def _content(
    path: Path,
    tiles: list[TileSpec],
    names: list[str],
    classes: tuple[str, ...],
    split_of: dict[str, str | None],
    fold_of: dict[str, int] | None,
    patient_of: dict[str, str] | None,
    site_of: dict[str, str] | None,
    quality: int | None,
    written: Any,
) -> dict[str, Any]:
    tile_px = tiles[0].image.shape[0]
    slides = [
        {
            "slide": name,
            "path": f"/nowhere/{name}.svs",
            "fingerprint": name,
            "width": 4096,
            "height": 4096,
            "mpp": 0.5,
            "patient": (patient_of or {}).get(name, name),
            "site": (site_of or {}).get(name),
            "split": split_of.get(name),
            "fold": (fold_of or {}).get(name),
            "extract_px": tile_px,
            "stride": tile_px,
            "level": 0,
            "level_downsample": 1.0,
            "read_px": tile_px,
            "background": "FFFFFF",
        }
        for name in names
    ]
    place = {name: i for i, name in enumerate(names)}
    columns = 128
    grid_x = [i % columns for i in range(len(tiles))]
    grid_y = [i // columns for i in range(len(tiles))]
    return {
        "format": "slideduck beton",
        "version": 1,
        "beton": {
            "file": path.name,
            "bytes": written.bytes,
            "samples": written.samples,
            "metadata_sha256": written.metadata_sha256,
            "pages": {"bytes": written.page_size, "crc32": written.page_crc32},
            "image": {"mode": "raw" if quality is None else "jpg", "quality": quality, "tile_px": tile_px},
        },
        "classes": list(classes),
        "grid": {
            "name": f"{tile_px}px_{tile_px // 2}um",
            "tile_px": tile_px,
            "tile_um": tile_px / 2,
            "magnification": None,
            "stride_div": 1.0,
            "origin_x": 0,
            "origin_y": 0,
        },
        "label_rule": {},
        "split_rule": None,
        "query": {"where": None},
        "slides": slides,
        "roi_files": [],
        "tiles": {
            "tile_id": [
                f"{tile.slide}-{x * tile_px + tile_px // 2}-{y * tile_px + tile_px // 2}"
                for tile, x, y in zip(tiles, grid_x, grid_y, strict=True)
            ],
            "slide": [place[tile.slide] for tile in tiles],
            "grid_x": grid_x,
            "grid_y": grid_y,
            "loc_x": [x * tile_px + tile_px // 2 for x in grid_x],
            "loc_y": [y * tile_px + tile_px // 2 for y in grid_y],
            "class": [tile.label for tile in tiles],
            "roi_name": [None] * len(tiles),
        },
        "versions": {},
    }
