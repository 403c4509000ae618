"""The parts of FFCV that tiles are read with: its thread of an epoch and its JPEG library.

FFCV makes one of numba's typed dictionaries as it is imported, for two names that only Python looks up, and numba
compiles half a dozen functions for it: three quarters of the time of the import. A dictionary of Python's own serves
as well. Import FFCV through this module, or after it.

FFCV sets the threads of torch to one as it is imported, and to those of its loader in each epoch. Both are the user's:
only numba's are set here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numba.typed
import torch

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


@contextmanager
def _threads_as_they_are() -> Iterator[None]:
    """Leave the threads of torch and of numba as they are, whatever is imported in the block."""
    of_torch, of_numba = torch.get_num_threads(), numba.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(of_torch)
        numba.set_num_threads(of_numba)


class _Threads:
    """What FFCV's thread of an epoch sets its threads by, in place of FFCV's compiler."""

    @staticmethod
    def set_num_threads(threads: int) -> None:
        """Let numba use some threads in the calling one."""
        numba.set_num_threads(threads)


with _plain_dictionaries(), _threads_as_they_are():
    from ffcv.libffcv import imdecode, memcpy
    from ffcv.loader import epoch_iterator
    from ffcv.pipeline.allocation_query import AllocationQuery, allocate_query
    from ffcv.reader import Reader

epoch_iterator.Compiler = _Threads
EpochIterator: Any = epoch_iterator.EpochIterator
