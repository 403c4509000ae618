"""What the processes of the tests of `slideduck.runner.ranks.dist` do; spawned processes import it from here."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as torch_dist

from slideduck.errors import InputError, RunError
from slideduck.runner.ranks import dist


def talk() -> dict[str, Any]:
    """Use each collective once and return what rank 0 has then."""
    with dist.joined() as place:
        rows = np.arange(3 * place.rank, dtype=np.int64)
        gathered = dist.gather(np.stack([rows, rows + 1], axis=1), place)
        mean = dist.average(torch.tensor([1.0, 3.0 * place.rank]), place)
        word = dist.broadcast({"from": place.rank}, place)
        return {
            "gathered": None if gathered is None else [part.tolist() for part in gathered],
            "mean": mean.tolist(),
            "word": word,
            "world_size": place.world_size,
            "threads": place.threads,
        }


def work_in_step(fails: bool) -> list[Any]:
    """Work longer on rank 0 than rank 1 waits for anything else; or fail on rank 1, while rank 0 works."""
    with dist.joined(timeout_minutes=0.1) as place:

        def work(going_on: Callable[[], None]) -> float:
            if fails and place.rank == 1:
                raise InputError(["b.csv:2: wrong"])
            started = time.monotonic()
            while time.monotonic() - started < (60 if fails else 8) * (1 - place.rank):
                going_on()
                time.sleep(0.05)
            return time.monotonic() - started

        return [float(array[0]) for array in dist.gather(np.array([dist.in_step(work, place)]), place) or ()]


def die() -> None:
    """Kill rank 1, while rank 0 waits for it."""
    with dist.joined() as place:
        if place.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        torch_dist.barrier()


def vanish() -> None:
    """End rank 1 without a word, while rank 0 waits for it."""
    with dist.joined() as place:
        if place.rank == 1:
            os._exit(3)
        torch_dist.barrier()


def refuse(rank: int) -> None:
    """Raise on one rank, while the other waits for it."""
    with dist.joined() as place:
        if place.rank == rank:
            raise InputError(["a.csv:1: wrong", f"b.csv:2: wrong on rank {rank}"])
        torch_dist.barrier()


def refuse_together() -> None:
    """Raise the same on every rank."""
    with dist.joined():
        raise RunError("all of us say so")


def break_down() -> None:
    """Raise what is a fault of ours."""
    with dist.joined() as place:
        if place.rank == 1:
            raise ZeroDivisionError("a fault")
        torch_dist.barrier()


def interrupt() -> None:
    """Send the launcher SIGINT, as Ctrl-C does to all."""
    with dist.joined() as place:
        if place.is_first:
            os.kill(os.getppid(), signal.SIGINT)
        torch_dist.barrier()
        signal.pause()
