"""The settings of an export: what they are, said once, and which values are refused."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from slideduck.catalog.chosen import ChosenTiles
from slideduck.errors import ConfigError
from slideduck.measure.stain_fit import check_method
from slideduck.slides.stored_reader import READERS

__all__ = ["JPEG_MODES", "ExportSettings"]

JPEG_MODES = ("auto", "reencode", "passthrough")


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What to export of a study, and how.

    Parameters
    ----------
    grid : str, optional
        The grid; needed where the study has several.
    where : str or ChosenTiles, optional
        An SQL condition on the columns of the view ``labels``, or tiles by name; None for every tile that is kept.
    classes : sequence of str, optional
        Labels in the order of their class numbers; default the labels of the tiles, sorted.
    quality : int, default 90
        Quality of the JPEGs, 1 to 100.
    raw : bool, default False
        Write pixels and no JPEGs.
    jpeg : {"auto", "reencode", "passthrough"}
        A tile that is exactly a JPEG tile of its slide can be written as it is stored, without loss, whatever
        the quality: ``auto`` does so wherever it can, ``reencode`` nowhere, and ``passthrough`` refuses tiles
        that are not.
    reader : {"auto", "openslide", "tiff"}
        How slides are read: ``tiff`` decodes stored JPEG tiles, each once; ``auto`` does so on slides where that
        gave OpenSlide's pixels bit for bit on a sample of the tiles. The side-car says which was used.
    threads : int, optional
        Threads that read and encode; default one a core. The files do not depend on it.
    overwrite : bool, default True
        Replace a beton of that name.
    shards : int, optional
        Write so many betons in place of one, ``OUT-00000-of-00004.beton`` and so on: each a run of the tiles, whole
        and with a side-car of its own. `slideduck.betons.merge.merge_betons` makes of them what is made without this.
    shard : int, optional
        Write only this one of them, from 0; several processes may write one each. Without it all are written, one
        after the other.
    skip_errors : bool, default False
        Leave out tiles that cannot be read, and slides that are missing or changed. The report and the side-car say
        which they are.
    stain : {"macenko", "reinhard"}, optional
        Normalise the stains of each tile by the fit of its slide, which `slideduck.measure.stain_fit.fit_stain` makes.
        No stored JPEG is taken as it is then.
    stain_to : str, optional
        The slide whose stains all get; default Slideflow's averages (`slideduck.measure.stain.REFERENCE`).

    Raises
    ------
    ConfigError
        If a setting is impossible.
    """

    grid: str | None = None
    where: str | ChosenTiles | None = "label IS NOT NULL"
    classes: Sequence[str] | None = None
    quality: int = 90
    raw: bool = False
    jpeg: str = "auto"
    reader: str = "auto"
    threads: int | None = None
    overwrite: bool = True
    shards: int | None = None
    shard: int | None = None
    skip_errors: bool = False
    stain: str | None = None
    stain_to: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"quality is {self.quality}; give a number from 1 to 100, such as 90")
        for name, value, allowed in (("jpeg", self.jpeg, JPEG_MODES), ("reader", self.reader, READERS)):
            if value not in allowed:
                raise ConfigError(f"{name} is {value!r}; give one of {', '.join(allowed)}")
        if self.raw and self.jpeg == "passthrough":
            raise ConfigError("raw pixels and stored JPEGs cannot both be had; give raw, or jpeg 'passthrough'")
        if self.stain is not None and self.jpeg == "passthrough":
            raise ConfigError(
                "stored JPEGs cannot be taken as they are and be normalised; give stain, or 'passthrough'"
            )
        if self.stain is None and self.stain_to is not None:
            raise ConfigError(f"stain_to is {self.stain_to!r}, and no method is given; give stain too")
        if self.stain is not None:
            check_method(self.stain)
        if self.shard is not None and self.shards is None:
            raise ConfigError(f"shard is {self.shard}, and the number of shards is not given; give shards too")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads is {self.threads}; give 1 or more")

    @property
    def jpeg_quality(self) -> int | None:
        """Quality of the JPEGs; None for raw pixels."""
        return None if self.raw else self.quality

    @property
    def n_threads(self) -> int:
        """Threads that read and encode: those asked for, or one a core."""
        return len(os.sched_getaffinity(0)) if self.threads is None else self.threads
