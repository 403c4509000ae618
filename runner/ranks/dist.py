"""Processes of a run: the rank of this one, and the collectives. `slideduck.runner.ranks.launch` starts them.

Every rank runs the same collectives in the same order; only rank 0 writes files. Tensors on a GPU
travel by NCCL, all others by gloo.
"""

from __future__ import annotations

import inspect
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as torch_dist
from torch import nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from slideduck.errors import ConfigError, RunError, SlideduckError
from slideduck.words import listed

__all__ = [
    "TIMEOUT_MINUTES",
    "Place",
    "agreed",
    "average",
    "broadcast",
    "cores",
    "distribute",
    "gather",
    "in_step",
    "is_out_of_memory",
    "is_joining",
    "joined",
    "require_nproc",
    "visible",
]

#: Longest wait of a rank for another by default, minutes.
TIMEOUT_MINUTES = 10.0
#: Ranks that work side by side ask each other this often whether all are done.
_STEP_SECONDS = 0.5
#: An error of all ranks is told by the first, if the others wait so long.
_TELLING_SECONDS = 2.0

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """The rank of this process, the number of processes, and the device.

    Attributes
    ----------
    rank, world_size : int
        Number of this process, from 0, and of all processes.
    device : torch.device
        Device that computes.
    threads : int
        Threads that this process may use: the machine's cores shared out evenly.
    timeout_minutes : float
        Longest wait for another rank, minutes.
    """

    rank: int
    world_size: int
    device: torch.device
    threads: int
    timeout_minutes: float = TIMEOUT_MINUTES

    @property
    def is_first(self) -> bool:
        """True for the rank that writes."""
        return self.rank == 0


def is_joining() -> bool:
    """Return True if a launcher such as torchrun started this process.

    Raises
    ------
    ConfigError
        If a part of a launcher's environment is missing, or contradicts another: with what to unset.
    """
    there = [name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if os.environ.get(name)]
    if not there:
        return False
    rank, world_size = _environment_number("RANK", 0), _environment_number("WORLD_SIZE", 1)
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing and max(rank, world_size - 1, _environment_number("LOCAL_RANK", 0)) == 0:
        return False  # One process, with or without a launcher.
    said = listed([f"{name}={os.environ[name]}" for name in there])
    if missing:
        verb = "is" if len(there) == 1 else "are"
        raise ConfigError(
            f"{said} {verb} set in the environment, but {listed(missing)} {'is' if len(missing) == 1 else 'are'} "
            f"not: no launcher started this process; {_unset(there)}, or start with torchrun"
        )
    if rank >= max(1, world_size):
        raise ConfigError(
            f"{said} are set in the environment, and a rank is below the number of processes; {_unset(there)}, or "
            "start with torchrun"
        )
    return True


def _unset(names: Sequence[str]) -> str:
    """Return how to take names out of the environment, in a shell's words."""
    return f"unset {' '.join(names)}"


def require_nproc(nproc: str | int) -> None:
    """Raise if a number of processes is asked for under a launcher that started another.

    Raises
    ------
    ConfigError
        With both numbers.
    """
    started = _environment_number("LOCAL_WORLD_SIZE", _environment_number("WORLD_SIZE", 1))
    if str(nproc) not in ("auto", str(started)):
        raise ConfigError(
            f"`nproc` is {nproc}, but a launcher started {started} process{'es' * (started > 1)} on this machine; "
            "give that number to the launcher (torchrun --nproc-per-node), and `nproc='auto'` here"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if a device, or the machine, had no memory left, whichever library says so."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    # CUDA and NCCL, cuBLAS and cuDNN, and torch's own memory of the CPU.
    return any(sign in text for sign in ("out of memory", "alloc_failed", "can't allocate memory"))


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible(gpus: int) -> str:
    """Return ``"4 GPUs are visible"``, or ``"1 GPU is visible"``."""
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
def joined(timeout_minutes: float = TIMEOUT_MINUTES) -> Iterator[Place]:
    """Join the processes that the launcher's environment names, or stand alone without one.

    Parameters
    ----------
    timeout_minutes : float
        Longest wait for another rank, minutes; then the one that waits raises.

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
        raise ConfigError(f"LOCAL_RANK={local_rank} but {visible(gpus)}; start with `nproc={gpus}`")
    device = torch.device("cuda", local_rank) if gpus else torch.device("cpu")
    threads = max(1, cores() // local_world_size)
    torch.set_num_threads(threads)
    if gpus:
        # FFCV takes the current device's streams, and NCCL its memory.
        torch.cuda.set_device(device)
    if world_size == 1:
        yield Place(0, 1, device, threads, timeout_minutes)
        return
    timeout = timedelta(minutes=timeout_minutes)
    with _meeting(world_size, timeout_minutes):
        store, rank, world_size = next(rendezvous("env://", timeout=timeout))
        # A launcher keeps its store over restarts, with the addresses of the processes before.
        store = PrefixStore(f"slideduck-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
        torch_dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    place = Place(rank, world_size, device, threads, timeout_minutes)
    try:
        yield place
    except SlideduckError:
        # Errors that every rank finds are told once, by rank 0, before the launcher ends the others.
        if not place.is_first:
            time.sleep(_TELLING_SECONDS)
        raise
    else:
        torch_dist.barrier(device_ids=[device.index] if gpus else None)
        torch_dist.destroy_process_group()


@contextmanager
def _meeting(world_size: int, timeout_minutes: float) -> Iterator[None]:
    """Turn what goes wrong where ranks do not meet into an error of ours.

    Raises
    ------
    RunError
        With who waited where, and what to do.
    """
    rank, host, port = _environment_number("RANK", 0), os.environ["MASTER_ADDR"], _environment_number("MASTER_PORT", 0)
    who, where = f"rank {rank} of {world_size}", f"{host}:{port} (MASTER_ADDR, MASTER_PORT)"
    names = [name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR") if name in os.environ]
    others = "the others, which did" if rank == 0 else "rank 0, which did"
    not_met = RunError(
        f"{who} waited {timeout_minutes:g} minutes at {where} for {others} not come; start all {world_size} of them, "
        f"as torchrun does, or, to run alone, {_unset(names)}"
    )
    # A launcher's own process holds the port where this says so. Torch would say the rest in sixty lines, or wait on
    # a stranger for ever.
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        if rank == 0 and not _is_free(port):
            raise RunError(f"{who} cannot open {where}: the port is in use; set MASTER_PORT to another for all ranks")
        if rank > 0 and not _answers(host, port, 60 * timeout_minutes):
            raise not_met
    try:
        yield
    except (torch_dist.DistError, RuntimeError) as error:
        if not any(sign in str(error).lower() for sign in ("timed out", "timeout")):
            raise
        raise not_met from error


def _is_free(port: int) -> bool:
    """Return True if this process can listen to a port."""
    try:
        with socket.create_server(("", port)):
            return True
    except OSError:
        return False


def _answers(host: str, port: int, seconds: float) -> bool:
    """Wait until somebody listens to a port; return False if nobody has for so long."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=left):
                return True
        except OSError:
            time.sleep(min(0.2, left))
    return False


def average(tensor: torch.Tensor, place: Place) -> torch.Tensor:
    """Average a float tensor over ranks, in place, and return it."""
    if place.world_size > 1:
        torch_dist.all_reduce(tensor)
        tensor /= place.world_size
    return tensor


def agreed(wish: bool, place: Place) -> bool:
    """Return rank 0's decision, on every rank, without waiting for the device."""
    if place.world_size == 1:
        return wish
    box = torch.tensor([wish])
    torch_dist.broadcast(box, src=0)
    return bool(box.item())


def in_step(work: Callable[[Callable[[], None]], T], place: Place) -> T:
    """Do something that may take longer than ranks wait for one another; return once every rank has done it.

    Parameters
    ----------
    work : callable
        Called in a thread with a function that it calls now and then, which raises once another rank has failed.
    place : Place
        Where this rank stands.

    Returns
    -------
    object
        What `work` returned here.

    Raises
    ------
    RunError
        If it failed on another rank, which says why.
    """
    if place.world_size == 1 or not torch_dist.is_initialized():
        return work(lambda: None)
    is_over = threading.Event()
    stopped = RunError(f"rank {place.rank} stopped, since another failed; its message says why")

    def going_on() -> None:
        if is_over.is_set():
            raise stopped

    with ThreadPoolExecutor(1, thread_name_prefix="slideduck-step") as pool:
        mine = pool.submit(work, going_on)
        try:
            while True:
                wait([mine], timeout=_STEP_SECONDS)
                is_busy, failed = not mine.done(), mine.done() and mine.exception() is not None
                state = torch.tensor([is_busy, failed], dtype=torch.int32)
                torch_dist.all_reduce(state, torch_dist.ReduceOp.MAX)
                if failed or not state[0]:
                    return mine.result()
                if state[1]:
                    # The rank that failed is to say why before others end: it waits for the first rank, see `joined`.
                    time.sleep(2 * _TELLING_SECONDS)
                    raise stopped
        finally:
            is_over.set()


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


def distribute(network: nn.Module, place: Place, *, unused: bool = False) -> nn.Module:
    """Return the network with its gradients averaged over ranks, and its weights made rank 0's.

    With `unused` each step looks for weights that had no part in it, and does not wait for their gradients.
    """
    parameters = inspect.signature(DistributedDataParallel).parameters
    # Running statistics are averaged before validation instead of being sent at each step.
    name = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
    options: dict[str, Any] = {name: False}
    return DistributedDataParallel(
        network,
        device_ids=[place.device.index] if place.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        find_unused_parameters=unused,
        **options,
    )
