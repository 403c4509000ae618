"""Tiles straight from the slides, as a network saw those that it was trained on.

They are made as an export makes them, by `slideduck.betons.encode`, and decoded as the loader decodes a beton.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slideduck.betons.encode import Encoding, TileMaking, page_bytes
from slideduck.catalog.grids import grid_names
from slideduck.errors import StudyError
from slideduck.measure.stain import Normaliser, stain_from_json
from slideduck.measure.stain_fit import ensure_fit
from slideduck.runner.runs.trained import TrainedModel
from slideduck.runner.tiles.decode import decode_as_loader
from slideduck.slides.grid import SlideGrid
from slideduck.slides.identity import SlideFile
from slideduck.store.sqlfiles import read_query
from slideduck.study import Study
from slideduck.words import message
from slideduck.work.ordered import in_order

__all__ = ["GridSlide", "choose_grid", "choose_slides", "read_tiles"]

#: Tiles that one piece of a thread's work has at most; neighbours share decoded parts of the slide.
_PIECE_TILES = 32

_AGAIN = "add it again, and lay the grid anew"


@dataclass(frozen=True)
class GridSlide:
    """A slide with a grid on it.

    Attributes
    ----------
    name : str
        Its name.
    file : SlideFile
        Its file, as it was when it was added.
    background : str
        Colour behind transparent pixels, RRGGBB.
    width, height : int
        Size of level 0, pixels.
    mpp : float
        Microns per base pixel.
    tile_px : int
        Side of a tile as the network sees it, pixels.
    slide_grid : SlideGrid
        How the grid lies on the slide.
    study : Study
        The study that it is of, which has the fit of its stains, or gets it.
    """

    name: str
    file: SlideFile
    background: str
    width: int
    height: int
    mpp: float
    tile_px: int
    slide_grid: SlideGrid
    study: Study = field(repr=False, compare=False)

    @property
    def n_tiles(self) -> int:
        """Tiles of the grid on it."""
        return self.slide_grid.n_columns * self.slide_grid.n_rows

    @contextmanager
    def batches(
        self, trained: TrainedModel, tiles: pa.Table, batch_size: int, threads: int, pool: ThreadPoolExecutor
    ) -> Iterator[Iterator[NDArray[np.uint8]]]:
        """Read tiles of the slide in their order, as the network saw those that it was trained on.

        Parameters
        ----------
        trained : TrainedModel
            The network, which knows how the images of its beton were stored.
        tiles : pyarrow.Table
            With the columns ``base_x`` and ``base_y``: top left corners, base pixels; see `read_tiles`.
        batch_size : int
            Tiles at a time.
        threads : int
            Threads of the pool.
        pool : ThreadPoolExecutor
            Reads, a few batches ahead.

        Yields
        ------
        iterator of ndarray of uint8, (batch, tile_px, tile_px, 3)
            RGB.

        Raises
        ------
        SlideError
            If the slide cannot be read, or its stains are to be normalised and cannot be fitted.
        BetonError
            If the tiles that the network was trained on were normalised in a way that this version lacks.
        """
        making = self._making(trained.beton["image"])
        base_x, base_y = tiles["base_x"].to_numpy(), tiles["base_y"].to_numpy()

        def read(first: int, last: int) -> list[NDArray[np.uint8]]:
            made = (maker.make(int(base_x[i]), int(base_y[i])) for i in range(first, last))
            return [_as_loader(data, self.tile_px, making.encoding) for data, _ in made]

        # Whatever ends the block, the threads stop reading before the slide is closed under them.
        with (
            making.open(base_x, base_y) as maker,
            closing(_batches(read, len(base_x), batch_size, threads, pool)) as batches,
        ):
            yield batches
            # What was computed is of the file that was added, from the first tile to the last.
            maker.check_file()

    def _making(self, image: Mapping[str, Any]) -> TileMaking:
        """Return how tiles of the slide are made as those of a beton were, of which its side-car says ``image``."""
        encoding = Encoding.of_image(image, page_bytes(self.tile_px, image["quality"]))
        if encoding.jpeg == "passthrough":
            # Every tile is predicted, those too that the slide does not store.
            encoding = replace(encoding, jpeg="auto")
        normaliser = None
        if image.get("stain") is not None:
            target = stain_from_json(image["stain"])
            normaliser = Normaliser(ensure_fit(self.study.handle, self.name, target.fit.method).fit, target.fit)
        return TileMaking(self.file, self.slide_grid, self.tile_px, self.background, encoding, normaliser)


def choose_grid(study: Study, trained: TrainedModel, grid: str | None) -> str:
    """Return the grid to read: the one given, or the one that the network was trained on.

    Tiles of another size are warned of.

    Raises
    ------
    StudyError
        If the study has no such grid.
    """
    own = trained.beton["grid"]
    names = grid_names(study.handle)
    wanted = own["name"] if grid is None else grid
    if wanted not in names:
        what = "" if grid else ", which the network was trained on"
        size = f"--tile-um {own['tile_um']:g}" if own["tile_um"] else f"--tile-um {own['magnification']:g}x"
        raise StudyError(
            f"{study.path.name} has no grid {wanted!r}{what}; it has {', '.join(names) or 'none'}: name one "
            f"with `grid`, or make it with: slideduck tile {study.path.name} "
            f"--tile-px {own['tile_px']} {size}"
        )
    row = study.con.execute("SELECT tile_px, tile_um, magnification FROM grids WHERE grid = $1", [wanted]).fetchone()
    if row != (own["tile_px"], own["tile_um"], own["magnification"]):
        message(f"warning: the network was trained on tiles of {own['name']}, and sees those of {wanted} now")
    return wanted


def choose_slides(study: Study, grid: str, names: Sequence[str] | None) -> list[GridSlide]:
    """Return the slides that are named, or all that the grid lies on, in the order of their names.

    Raises
    ------
    StudyError
        If the grid lies on no slide, or not on one that is named.
    """
    rows = study.con.execute(read_query("list_slides_of_grid"), {"grid": grid}).fetchall()
    found = {
        name: GridSlide(
            name,
            SlideFile(name, Path(path), size, fingerprint, _AGAIN),
            background,
            width,
            height,
            mpp,
            tile_px,
            SlideGrid(*how),
            study,
        )
        for name, path, size, fingerprint, background, width, height, mpp, tile_px, *how in rows
    }
    if not found:
        raise StudyError(f"the grid {grid!r} of {study.path.name} lies on no slide; add slides to the study first")
    unknown = [name for name in names or () if name not in found]
    if unknown:
        raise StudyError(
            f"{study.path.name} has no slide {', '.join(map(repr, unknown))} in grid {grid!r}; "
            f"see which there are with: slideduck sql {study.path.name} 'SELECT slide FROM slides'"
        )
    return [slide for name, slide in found.items() if names is None or name in names]


def read_tiles(study: Study, grid: str, slide: str) -> pa.Table:
    """Return the tiles of a grid on a slide, in the order of grid_y, grid_x; see ``list_tiles_of_slide.sql``."""
    return study.con.execute(read_query("list_tiles_of_slide"), {"grid": grid, "slide": slide}).to_arrow_table()


def _as_loader(data: bytes, tile_px: int, encoding: Encoding) -> NDArray[np.uint8]:
    """Return the pixels that the loader gives for a tile of a beton."""
    if encoding.quality is None:
        return np.frombuffer(data, np.uint8).reshape(tile_px, tile_px, 3)
    return decode_as_loader(data, tile_px)


def _batches(
    read: Callable[[int, int], list[NDArray[np.uint8]]],
    n_tiles: int,
    batch_size: int,
    threads: int,
    pool: ThreadPoolExecutor,
) -> Generator[NDArray[np.uint8], None, None]:
    """Yield tiles in their order, read by the pool's threads a few batches ahead."""
    pieces = ((first, min(first + _PIECE_TILES, n_tiles)) for first in range(0, n_tiles, _PIECE_TILES))
    ahead = 2 * threads + -(-2 * batch_size // _PIECE_TILES)
    ready: list[NDArray[np.uint8]] = []
    # The reader is closed next: no thread may be reading then.
    with closing(in_order(pool, lambda piece: read(*piece), pieces, ahead=ahead)) as running:
        for _, future in running:
            ready.extend(future.result())
            while len(ready) >= batch_size:
                yield np.stack(ready[:batch_size])
                del ready[:batch_size]
    if ready:
        yield np.stack(ready)
