"""A disk that is full for some files, as NFS and quotas tell it: when they are flushed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

__all__ = ["full_for"]


@contextmanager
def full_for(name: str) -> Iterator[None]:
    """Let the disk be full for a file, and for one that is written under a temporary name for it, in the block."""
    flush = os.fsync

    def refused(fd: int) -> None:
        if name in os.path.basename(os.readlink(f"/proc/self/fd/{fd}")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(fd)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", refused)
        yield
