"""`slideduck.TileDataset`: a map-style data set of a beton's tiles, for tools that insist on one.

It decodes a tile at a time, in whatever process asks for it; `slideduck.loader` decodes batches, and is faster.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from slideduck.betons import Sidecar, check_beton, read_sidecar
from slideduck.betons.format import AGAIN, ALLOCATION, HEADER
from slideduck.betons.pages import Sums, proven_sums, tile_sums
from slideduck.errors import BetonError
from slideduck.runner.ranks.dist import cores
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tiles.conditions import tile_table
from slideduck.runner.tiles.own_loop import find_tiles
from slideduck.runner.tiles.rows import Rows
from slideduck.words import counted

__all__ = ["TileDataset"]


class TileDataset(Dataset[tuple[Any, Any, int]]):
    """Labelled tiles of a beton by number, for `torch.utils.data.DataLoader` and what is built on it.

    It is pickled by its path: workers open the beton themselves, whether they are forked or spawned. The pixels are
    those of `slideduck.loader`, bit for bit, and each tile is compared with its checksum.

    Parameters
    ----------
    beton : path-like
        The beton, as `Study.export` writes it.
    split : str or None
        Split whose labelled tiles are taken; None for those of all of the beton.
    where : str or sequence, optional
        A condition that they must meet, or the tiles themselves by row or by id, as in `slideduck.loader`.
    transform : callable, optional
        Called with each image; what it returns is taken in its place.
    task, target : str
        What is learnt, as in `slideduck.runner.TrainConfig`.

    Attributes
    ----------
    rows : ndarray of int64, (n,)
        The row of the beton of each tile.
    classes : list of str
        Names of the classes, in order of their numbers.
    labels : ndarray, (n,) of int64 or (n, outputs) of float32
        What each tile is to be learnt as, such as its class number.

    Raises
    ------
    BetonError
        If the beton or its side-car is missing, damaged or was changed.
    ConfigError
        If an argument is impossible, or no tile is as asked for.
    QueryError
        If a condition cannot be used.

    Examples
    --------
    ``dataset[i]`` is ``(image, label, row)``, the image a uint8 tensor (3, tile_px, tile_px):

    >>> dataset = sd.TileDataset("tiles.beton", split=None)  # doctest: +SKIP
    >>> folds = GroupKFold(5).split(dataset.labels, groups=dataset.groups)  # doctest: +SKIP
    """

    def __init__(
        self,
        beton: str | PathLike[str],
        *,
        split: str | None = "train",
        where: str | Iterable[Any] | None = None,
        transform: Callable[[torch.Tensor], Any] | None = None,
        task: str = "classification",
        target: str = "label",
    ) -> None:
        found = find_tiles(beton, split, where, TrainConfig(task=task, target=target))
        self.path: Path = found.beton.info.path
        self.transform = transform
        self.rows: Rows = found.rows
        self.classes = list(found.targets.names)
        self.labels: NDArray[Any] = found.targets.values[found.rows]
        self._info = found.beton.info
        self._begins, self._sizes = _places(self.path, self._info.samples)
        self._sums: Sums | None = proven_sums(self.path, found.beton.sidecar, threads=cores(), show=True)
        self.sidecar = found.beton.sidecar

    @cached_property
    def sidecar(self) -> Sidecar:
        """What the tiles of the beton are."""
        return read_sidecar(self.path, check_beton(self.path))

    @property
    def groups(self) -> NDArray[np.object_]:
        """The patient of each tile, (n,): whoever splits by them keeps patients apart."""
        return self.sidecar.tile_patient[self.rows]

    def table(self) -> pd.DataFrame:
        """Return what the side-car says of the tiles, a row for each, in their order."""
        frame: pd.DataFrame = tile_table(self.sidecar).take(self.rows).to_pandas()
        return frame

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, Any, int]:
        """Return a tile's image, what it is to be learnt as, and its row in the beton."""
        number = operator.index(index)
        row = int(self.rows[number])
        image = torch.from_numpy(self._pixels(row)).permute(2, 0, 1).contiguous()
        label = self.labels[number]
        is_class = self.labels.ndim == 1
        return (
            image if self.transform is None else self.transform(image),
            int(label) if is_class else torch.from_numpy(np.array(label)),
            row,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what another process reads again when it needs it."""
        return {name: value for name, value in vars(self).items() if name not in ("_fd", "sidecar")}

    def __del__(self) -> None:
        if "_fd" in vars(self):
            os.close(self._fd)

    def __repr__(self) -> str:
        classes = counted(len(self.classes), "class", "classes")
        return f"<slideduck.TileDataset {self.path}: {counted(len(self), 'tile')} of {classes}>"

    @cached_property
    def _fd(self) -> int:
        """The file, open: what forked processes share has no place of its own in it."""
        return os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def _pixels(self, row: int) -> NDArray[np.uint8]:
        """Return the pixels of a row, (tile_px, tile_px, 3)."""
        size = int(self._sizes[row])
        data = os.pread(self._fd, size, int(self._begins[row]))
        if len(data) != size or (self._sums is not None and tile_sums(data, [0], [size])[0] != self._sums[row]):
            raise BetonError(
                f"{self.path} was changed after its pages were compared with their checksums: row {row} is not as it "
                f"was written; see what else: slideduck verify {self.path}; then {AGAIN}: the same command gives the "
                "same bytes"
            )
        if self._info.mode == "jpg":
            from slideduck.runner.tiles.decode import decode_as_loader

            return decode_as_loader(data, self._info.width)
        pixels = np.frombuffer(bytearray(data), np.uint8)
        return pixels.reshape(self._info.height, self._info.width, 3)


def _places(path: Path, samples: int) -> tuple[Rows, Rows]:
    """Return where the image of each row of a checked beton begins, and its bytes."""
    (header,) = np.fromfile(path, HEADER, 1)
    table = np.fromfile(path, ALLOCATION, samples, offset=int(header["alloc_table_ptr"]))
    return table["ptr"].astype(np.int64), table["size"].astype(np.int64)
