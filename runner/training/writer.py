"""Writes checkpoints beside the training: tensors are copied first, then written by a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

from slideduck.errors import SlideduckError
from slideduck.words import message

__all__ = ["Writer", "background_writer", "copied"]


def copied(value: Any) -> Any:
    """Return a state of dicts, lists and tensors whose tensors are copies on the CPU.

    What the training changes afterwards, the copy does not see.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: copied(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [copied(item) for item in value]
    return value


class Writer:
    """Does jobs one after another in a thread, one in flight at most.

    An error of a job is raised by the next call, so that a run whose disk is full ends instead of
    training on without checkpoints.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="slideduck-writer")
        self._job: Future[None] | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Wait for the previous job, and start this one.

        Raises
        ------
        SlideduckError
            The error of the previous job; this one is not started then.
        """
        self.wait()
        self._job = self._thread.submit(job)

    def wait(self) -> None:
        """Wait for the job in flight, and raise its error if it failed."""
        job, self._job = self._job, None
        if job is not None:
            job.result()

    def close(self) -> None:
        """End the thread, after the job in flight."""
        self._thread.shutdown(wait=True)


@contextmanager
def background_writer() -> Iterator[Writer]:
    """Yield a writer; the block ends only after its jobs have ended.

    Raises
    ------
    SlideduckError
        The error of its last job. If the block itself fails, the job's error is printed and the block's is raised.
    """
    writer = Writer()
    try:
        yield writer
    except BaseException:
        try:
            writer.wait()
        except SlideduckError as error:
            message(f"error: {error}")
        raise
    else:
        writer.wait()
    finally:
        writer.close()
