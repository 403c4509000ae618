"""Processes of a run: where this one stands, how they talk, and how several are started.

Every rank runs the same collectives in the same order; only rank 0 writes files. Tensors on a GPU
travel by NCCL, all others by gloo.
"""

from __future__ import annotations

import inspect
import logging
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed as torch_dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from slideduck.errors import ConfigError, RunError, SlideduckError

__all__ = [
    "Place",
    "average",
    "broadcast",
    "cores",
    "distribute",
    "gather",
    "is_joining",
    "joined",
    "launch",
    "resolve_nproc",
]

# How long a rank that lost another waits, so that the launcher sees the one that died first.
_SECONDS_AFTER_LOSS = 5.0
_SIGNS_OF_LOSS = ("connection closed by peer", "connection reset by peer", "broken pipe", "nccl", "gloo")


@dataclass(frozen=True)
class Place:
    """Where this process stands among those of the run.

    Attributes
    ----------
    rank, world_size : int
        Number of this process, from 0, and of all processes.
    device : torch.device
        Device that computes.
    threads : int
        Threads that this process may use: the machine's cores shared out evenly.
    """

    rank: int
    world_size: int
    device: torch.device
    threads: int

    @property
    def is_first(self) -> bool:
        """True for the rank that writes."""
        return self.rank == 0


def is_joining() -> bool:
    """Return True if a launcher such as torchrun started this process."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def resolve_nproc(nproc: str | int) -> int:
    """Return how many processes to start: ``"auto"`` is one a GPU, or one without any.

    Raises
    ------
    ConfigError
        If it is no number of processes, or more than the GPUs of a machine that has some.
    """
    gpus = torch.cuda.device_count()
    if nproc == "auto":
        return max(1, gpus)
    try:
        count = int(nproc)
    except ValueError:
        count = 0
    if count < 1:
        raise ConfigError(f"--nproc is {nproc!r}; it must be auto, or a number of processes from 1")
    if 0 < gpus < count:
        raise ConfigError(f"--nproc is {count} but {_visible(gpus)}; start with --nproc {gpus}")
    return count


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _visible(gpus: int) -> str:
    """Return ``"4 GPUs are visible"``, in the right number."""
    return f"{gpus} GPU is visible" if gpus == 1 else f"{gpus} GPUs are visible"


def _environment_number(name: str, default: int) -> int:
    """Return a launcher's number from the environment."""
    value = os.environ.get(name, str(default))
    try:
        number = int(value)
    except ValueError:
        number = -1
    if number < 0:
        raise ConfigError(f"{name}={value!r} is not a number from 0; unset it, or start with torchrun")
    return number


@contextmanager
def joined() -> Iterator[Place]:
    """Join the processes that the launcher's environment names, or stand alone without one.

    Yields
    ------
    Place
        Where this process stands; the group is left when the block ends.

    Raises
    ------
    ConfigError
        If ``LOCAL_RANK`` has no GPU of its own on a machine that has GPUs.
    """
    joining = is_joining()
    local_rank = _environment_number("LOCAL_RANK", 0) if joining else 0
    local_world_size = max(1, _environment_number("LOCAL_WORLD_SIZE", 1)) if joining else 1
    world_size = max(1, _environment_number("WORLD_SIZE", 1)) if joining else 1
    gpus = torch.cuda.device_count()
    if 0 < gpus <= local_rank:
        raise ConfigError(f"LOCAL_RANK={local_rank} but {_visible(gpus)}; start with --nproc {gpus}")
    device = torch.device("cuda", local_rank) if gpus else torch.device("cpu")
    threads = max(1, cores() // local_world_size)
    torch.set_num_threads(threads)
    if gpus:
        # FFCV takes the current device's streams, and NCCL its memory.
        torch.cuda.set_device(device)
    if world_size == 1:
        yield Place(0, 1, device, threads)
        return
    torch_dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
    place = Place(torch_dist.get_rank(), torch_dist.get_world_size(), device, threads)
    try:
        yield place
    except SlideduckError:
        # Errors that every rank finds are told once, by rank 0, before the launcher ends the others.
        if not place.is_first:
            time.sleep(2.0)
        raise
    else:
        torch_dist.barrier(device_ids=[device.index] if gpus else None)
        torch_dist.destroy_process_group()


def average(tensor: torch.Tensor, place: Place) -> torch.Tensor:
    """Average a float tensor over ranks, in place, and return it."""
    if place.world_size > 1:
        torch_dist.all_reduce(tensor)
        tensor /= place.world_size
    return tensor


def broadcast(values: Any, place: Place) -> Any:
    """Return rank 0's `values`, a picklable object, on every rank."""
    if place.world_size == 1:
        return values
    box = [values]
    torch_dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def gather(array: np.ndarray, place: Place) -> list[np.ndarray] | None:
    """Bring the arrays of all ranks to rank 0; they may differ in length along the first axis.

    Parameters
    ----------
    array : ndarray, (n, ...)
        This rank's rows, of a type and further shape that is the same on every rank.

    Returns
    -------
    list of ndarray or None
        One array a rank, in order of rank, on rank 0; None elsewhere.
    """
    if place.world_size == 1:
        return [array]
    rows = torch.tensor([len(array)])
    counts = [torch.zeros_like(rows) for _ in range(place.world_size)]
    torch_dist.all_gather(counts, rows)
    longest = int(max(count.item() for count in counts))
    padded = np.zeros((longest, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    mine = torch.from_numpy(padded)
    boxes = [torch.empty_like(mine) for _ in counts] if place.is_first else None
    torch_dist.gather(mine, boxes, dst=0)
    if boxes is None:
        return None
    return [box.numpy()[: int(count.item())] for box, count in zip(boxes, counts, strict=True)]


def distribute(network: nn.Module, place: Place) -> nn.Module:
    """Return the network with its gradients averaged over ranks, and its weights made rank 0's."""
    parameters = inspect.signature(DistributedDataParallel).parameters
    # Running statistics are averaged before validation instead of being sent at each step.
    name = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
    options: dict[str, Any] = {name: False}
    return DistributedDataParallel(
        network,
        device_ids=[place.device.index] if place.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        **options,
    )


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Put the signal handlers back that torch's launcher replaces and leaves behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None is a handler that Python did not set, and cannot put back.
                signal.signal(number, handler)


def launch(nproc: int, function: Callable[..., Any], *args: Any) -> Any:
    """Run ``function(*args)`` in `nproc` new processes of this machine and return what rank 0 returns.

    Torch's own launcher starts them and ends all of them when one fails.

    Parameters
    ----------
    nproc : int
        Number of processes.
    function : callable
        A module's top-level function, so that a spawned process can import it.
    *args
        What it takes; picklable.

    Raises
    ------
    SlideduckError
        What the first rank to fail raised, or a RunError that says how it ended.
    KeyboardInterrupt
        After SIGINT, when every process has ended.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Its logs repeat what is said below, in a hundred lines; each of its loggers has a level of its own.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed.elastic", "torch.distributed.launcher")):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="slideduck-") as folder, _own_signal_handlers():
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=nproc,
            run_id=f"slideduck-{os.getpid()}",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            start_method="spawn",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            shutdown_timeout=20,
        )
        try:
            return elastic_launch(config, _guarded)(folder, function, args)[0]
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise RunError(f"stopped by {error.sigval.name}") from None
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            _raise_failure(Path(folder), rank, failure.exitcode)


def _guarded(folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Run a rank; leave its error in `folder` for the launcher to tell, and exit without a traceback."""
    rank = int(os.environ["RANK"])
    try:
        return function(*args)
    except KeyboardInterrupt:
        # The terminal and the launcher both send the signal: the second shall not meet the clean-up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stderr.flush()
        os._exit(130)
    except SlideduckError as error:
        _leave_error(folder, rank, error)
        sys.exit(1)
    except Exception as error:
        if any(sign in str(error).lower() for sign in _SIGNS_OF_LOSS):
            time.sleep(_SECONDS_AFTER_LOSS)
        traceback.print_exc()
        _leave_error(folder, rank, RunError(f"rank {rank} failed: {type(error).__name__}: {error} (traceback above)"))
        sys.exit(1)


def _leave_error(folder: str, rank: int, error: SlideduckError) -> None:
    """Write a rank's error where the launcher looks for it."""
    Path(folder, f"error_{rank}.pickle").write_bytes(pickle.dumps((rank, time.time(), error)))


def _raise_failure(folder: Path, rank: int, exit_code: int) -> NoReturn:
    """Raise the error that rank `rank` left, else the first one left, else one that says how it ended."""
    left = [pickle.loads(path.read_bytes()) for path in sorted(folder.glob("error_*.pickle"))]
    if exit_code >= 0 and left:
        raise min(left, key=lambda item: (item[0] != rank, item[1]))[2] from None
    if exit_code < 0:
        try:
            name = signal.Signals(-exit_code).name
        except ValueError:
            name = f"signal {-exit_code}"
        hint = "; the system may have been out of memory" if -exit_code == signal.SIGKILL else ""
        raise RunError(
            f"rank {rank} was killed by {name}{hint}; the other ranks were stopped, "
            "and the same command goes on after the last whole epoch"
        ) from None
    if exit_code == 130:
        raise KeyboardInterrupt from None
    raise RunError(f"rank {rank} ended with exit code {exit_code} and no message") from None
