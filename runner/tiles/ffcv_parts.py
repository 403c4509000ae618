"""The parts of FFCV that tiles are read with: its thread of an epoch and its JPEG library.

FFCV makes one of numba's typed dictionaries as it is imported, for two names that only Python looks up, and numba
compiles half a dozen functions for it: three quarters of the time of the import. A dictionary of Python's own serves
as well. Whoever imports FFCV imports this module instead, or first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numba.typed

__all__ = ["EpochIterator", "AllocationQuery", "Reader", "allocate_query", "imdecode", "memcpy"]


@contextmanager
def _plain_dictionaries() -> Iterator[None]:
    """Let numba's typed dictionaries be Python's own, for what is imported in the block."""
    typed = numba.typed.Dict
    numba.typed.Dict = dict
    try:
        yield
    finally:
        numba.typed.Dict = typed


with _plain_dictionaries():
    from ffcv.libffcv import imdecode, memcpy
    from ffcv.loader.epoch_iterator import EpochIterator
    from ffcv.pipeline.allocation_query import AllocationQuery, allocate_query
    from ffcv.reader import Reader
