"""Starts the processes of a run, on one node or on several, and reports those that are lost."""

from __future__ import annotations

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
from multiprocessing import spawn
from pathlib import Path
from typing import Any, NoReturn

import torch

from slideduck.errors import ConfigError, RunError, SlideduckError
from slideduck.runner.ranks.dist import TIMEOUT_MINUTES, visible
from slideduck.words import message

__all__ = ["Launch", "launch", "resolve_nproc"]

#: How long a rank that lost another waits, so that the launcher sees the one that died first, and so that
#: all that waited for a rank in vain have said so.
_SECONDS_AFTER_LOSS = 5.0
_SIGNS_OF_LOSS = ("connection closed by peer", "connection reset by peer", "broken pipe")
_SIGNS_OF_TRANSPORT = ("nccl", "gloo")
_SIGNS_OF_SILENCE = ("timed out waiting", "wait timeout", "watchdog")
_GOES_ON = "the same command goes on from the last checkpoint"
_RUN_ID = "slideduck"


@dataclass(frozen=True)
class Launch:
    """How the processes of a run are started, and when a run is given up.

    None of it changes what a run computes, so that a run may go on under another.

    Parameters
    ----------
    nnodes, node_rank : int
        How many machines take part, and which of them this is, from 0. Node 0 has rank 0, which writes.
    rendezvous : str, optional
        ``HOST:PORT`` of node 0, where the nodes meet; needed for more than one.
    restarts : int
        How often the processes are started again, from the last checkpoint, after one was lost.
    timeout_minutes : float
        Longest wait of a rank for another, and of a node for the others, minutes.

    Raises
    ------
    ConfigError
        Naming the option, its value and what it may be.
    """

    nnodes: int = 1
    node_rank: int = 0
    rendezvous: str | None = None
    restarts: int = 0
    timeout_minutes: float = TIMEOUT_MINUTES

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        if self.nnodes < 1:
            raise ConfigError(f"`nnodes` is {self.nnodes}; it must be a number of machines from 1")
        if not 0 <= self.node_rank < self.nnodes:
            raise ConfigError(
                f"`node_rank` is {self.node_rank}; with `nnodes={self.nnodes}` it must be from 0 to {self.nnodes - 1}, "
                "another on each machine"
            )
        if self.restarts < 0:
            raise ConfigError(f"`restarts` is {self.restarts}; it must be 0 or more")
        # So long a time is a slip, and torch cannot count it.
        if not 0 < self.timeout_minutes <= 60 * 24 * 7:
            raise ConfigError(
                f"`timeout_minutes` is {self.timeout_minutes:g}; it must be above 0, and a week (10080) at most"
            )
        if self.nnodes == 1:
            if self.rendezvous is not None:
                raise ConfigError(f"`rendezvous` is {self.rendezvous!r} but `nnodes` is 1; give how many machines meet")
            return
        host, colon, port = (self.rendezvous or "").rpartition(":")
        if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ConfigError(
                f"`rendezvous` is {self.rendezvous!r}; with `nnodes={self.nnodes}` it must be HOST:PORT of node 0, the "
                "same on each machine, such as 10.0.0.1:29500"
            )


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
        raise ConfigError(f"`nproc` is {nproc!r}; it must be auto, or a number of processes from 1")
    if 0 < gpus < count:
        raise ConfigError(f"`nproc` is {count} but {visible(gpus)}; start with `nproc={gpus}`")
    return count


def launch(nproc: int, function: Callable[..., Any], *args: Any, how: Launch | None = None) -> Any:
    """Run ``function(*args)`` in `nproc` new processes of this machine and return what rank 0 returns.

    Torch's own launcher starts them, ends all of them when one fails, and starts them again where `how` says
    so and the failure is none that would come again, such as a wrong setting.

    Parameters
    ----------
    nproc : int
        Number of processes on this node.
    function : callable
        A module's top-level function, so that a spawned process can import it.
    *args
        What it takes; picklable.
    how : Launch, optional
        Nodes, restarts and the time limit.

    Returns
    -------
    object
        What rank 0 returned; None on a node that does not have it.

    Raises
    ------
    SlideduckError
        What the first rank to fail raised, or a RunError that says how it ended.
    KeyboardInterrupt
        After SIGINT, when every process has ended.
    """
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    how = how or Launch()
    several = how.nnodes > 1
    # Its logs repeat what is said below, in a hundred lines; each of its loggers has a level of its own.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed.elastic", "torch.distributed.launcher", "torch.multiprocessing")):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="slideduck-") as folder, _own_signal_handlers(), _without_main():
        config = LaunchConfig(
            min_nodes=how.nnodes,
            max_nodes=how.nnodes,
            nproc_per_node=nproc,
            run_id=_RUN_ID if several else f"{_RUN_ID}-{os.getpid()}",
            # Static: node 0 keeps rank 0, which writes, whichever node comes first.
            rdzv_backend="static" if several else "c10d",
            rdzv_endpoint=how.rendezvous or "localhost:0",
            rdzv_configs={"rank": how.node_rank, "timeout": max(1, round(60 * how.timeout_minutes))} if several else {},
            local_addr=None if several else "localhost",
            max_restarts=how.restarts,
            start_method="spawn",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            shutdown_timeout=20,
        )
        try:
            with _telling_restarts(Path(folder), nproc, how):
                return elastic_launch(config, _guarded)(folder, function, args).get(0)
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise RunError(f"stopped by {error.sigval.name}") from None
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            _raise_failure(Path(folder), rank, failure.exitcode, how, how.node_rank * nproc, nproc)
        except DistError as error:
            if not several:
                raise
            raise _not_met(how, error) from None


def _not_met(how: Launch, error: Exception) -> RunError:
    """Return the error of a node that did not meet the others."""
    where, text = f"node {how.node_rank} of {how.nnodes}", str(error).lower()
    if "eaddrinuse" in text or "address already in use" in text:
        return RunError(
            f"{where} cannot open {how.rendezvous}: the port is in use; give another `rendezvous` on each machine"
        )
    others = "the others" if how.node_rank == 0 else "node 0"
    return RunError(
        f"{where} did not meet {others} at {how.rendezvous} within {how.timeout_minutes:g} minutes; start the same "
        f"command on each machine, with `node_rank=0` on that of this address and up to {how.nnodes - 1} on the "
        "others, and let them reach its port"
    )


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Restore the signal handlers that torch's launcher replaces and does not restore."""
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


@contextmanager
def _without_main() -> Iterator[None]:
    """Keep the processes that this thread starts from importing the script or notebook that they are started from.

    They need nothing of it. One without a guard would start processes of its own, and that of a pipe cannot be found.
    """
    before, thread = spawn.get_preparation_data, threading.get_ident()

    def prepared(name: str) -> dict[str, Any]:
        data = before(name)
        if threading.get_ident() == thread:
            data.pop("init_main_from_name", None)
            data.pop("init_main_from_path", None)
        return data

    spawn.get_preparation_data = prepared
    try:
        yield
    finally:
        spawn.get_preparation_data = before


class _Traceback(Exception):
    """Shows the traceback of another process as the cause of an error."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


# ------------------------------------------------------------------------------------------ in each process


@dataclass(frozen=True)
class _Left:
    """The error of a rank that failed, in a file for the launcher.

    Attributes
    ----------
    rank, seconds, error
        Which rank, when, and what it raised.
    waited, lost : bool
        True if it waited for another rank in vain, or lost its connection to one: the cause is elsewhere.
    final : bool
        True if it would fail again, so that a restart is of no use.
    trace : str
        The traceback of what is no error of ours.
    """

    rank: int
    seconds: float
    error: SlideduckError
    waited: bool = False
    lost: bool = False
    final: bool = False
    trace: str = ""


def _guarded(folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Run a rank; leave its error in `folder` for the launcher to tell, and exit without a traceback."""
    rank = int(os.environ["RANK"])
    if any(left.final for left in _left(Path(folder))):
        # Torch's launcher starts again after every failure: this one would come again.
        sys.exit(1)
    try:
        return function(*args)
    except KeyboardInterrupt:
        # The terminal and the launcher both send the signal: the second shall not meet the clean-up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stderr.flush()
        os._exit(130)
    except SlideduckError as error:
        _leave(folder, _Left(rank, time.time(), error, final=True))
        sys.exit(1)
    except Exception as error:
        text = str(error).lower()
        waited = any(sign in text for sign in _SIGNS_OF_SILENCE)
        lost = any(sign in text for sign in _SIGNS_OF_LOSS)
        if waited or lost:
            told = RunError(f"rank {rank} lost its connection to another rank, whose node says why")
            _leave(folder, _Left(rank, time.time(), told, waited=waited, lost=lost and not waited))
        if waited or lost or any(sign in text for sign in _SIGNS_OF_TRANSPORT):
            time.sleep(_SECONDS_AFTER_LOSS)
        if waited or lost:
            os._exit(1)  # Its connections hang with the other rank: nothing is to be put in order.
        traceback.print_exc()
        told = RunError(f"rank {rank} failed: {type(error).__name__}: {error} (traceback above)")
        _leave(folder, _Left(rank, time.time(), told, trace=traceback.format_exc()))
        sys.exit(1)


def _leave(folder: str, left: _Left) -> None:
    """Write a rank's error for the launcher, whole or not at all."""
    path = Path(folder, f"error_{left.rank}.pickle")
    path.with_suffix(".tmp").write_bytes(pickle.dumps(left))
    path.with_suffix(".tmp").rename(path)


# ------------------------------------------------------------------------------------------- in the launcher


def _left(folder: Path) -> list[_Left]:
    """Return the errors that ranks of this node wrote."""
    return [pickle.loads(path.read_bytes()) for path in sorted(folder.glob("error_*.pickle"))]


def _cause(folder: Path, rank: int, exit_code: int, how: Launch, first: int, nproc: int) -> str | _Left:
    """Return the cause of the end of the run: words, or the error that a rank wrote."""
    left = _left(folder)
    silent = sorted(set(range(first, first + nproc)) - {item.rank for item in left})
    if left and all(item.waited for item in left):
        who = " and ".join(f"rank {number}" for number in silent) or "a rank of another node"
        return (
            f"{who} did not answer for {how.timeout_minutes:g} minutes (`timeout_minutes`), and rank "
            f"{left[0].rank} waited for it; all ranks of this node were stopped"
        )
    own = [item for item in left if not (item.waited or item.lost)]
    if exit_code >= 0 and own:
        return min(own, key=lambda item: (not item.final, item.rank != rank, item.seconds))
    if exit_code >= 0 and rank not in silent:
        return next(str(item.error) for item in left if item.rank == rank)
    if exit_code < 0:
        try:
            name = signal.Signals(-exit_code).name
        except ValueError:
            name = f"signal {-exit_code}"
        hints: dict[int, str] = {
            signal.SIGKILL: "; the system may have been out of memory",
            # NCCL's watchdog ends its own process where another rank does not answer.
            signal.SIGABRT: f"; another rank may not have answered for {how.timeout_minutes:g} minutes",
        }
        hint = hints.get(-exit_code, "")
        return f"rank {rank} was killed by {name}{hint}; the other ranks were stopped"
    return f"rank {rank} ended with exit code {exit_code} and no message"


def _raise_failure(folder: Path, rank: int, exit_code: int, how: Launch, first: int, nproc: int) -> NoReturn:
    """Raise the error that ended the run, or one that describes its end."""
    if exit_code == 130:
        raise KeyboardInterrupt from None
    cause = _cause(folder, rank, exit_code, how, first, nproc)
    if isinstance(cause, _Left):
        # Where nobody sees what the process printed, as in some notebooks, this does.
        raise cause.error from (_Traceback(cause.trace) if cause.trace else None)
    tried = f" (after {how.restarts} of {how.restarts} restarts)" if how.restarts else ""
    again = "" if how.restarts else "; `restarts=3` would have started it again"
    raise RunError(f"{cause}{tried}, and {_GOES_ON}{again}") from None


class _Restarts(logging.Handler):
    """Reports each rank that is lost and started again, from the log of torch's launcher."""

    def __init__(self, folder: Path, nproc: int, how: Launch) -> None:
        super().__init__(logging.ERROR)
        self.folder, self.nproc, self.how, self.done = folder, nproc, how, 0

    def emit(self, record: logging.LogRecord) -> None:
        """Report a failure, and delete the ranks' errors, so that the next failure does not report them."""
        if not str(record.msg).startswith("failed (exitcode: %s)") or not isinstance(record.args, tuple):
            return
        exit_code, local_rank = int(str(record.args[0])), int(str(record.args[1]))
        first = self.how.node_rank * self.nproc
        if exit_code == 130 or self.done >= self.how.restarts or any(left.final for left in _left(self.folder)):
            return
        self.done += 1
        cause = _cause(self.folder, first + local_rank, exit_code, self.how, first, self.nproc)
        words = cause if isinstance(cause, str) else str(cause.error)
        message(f"{words}; starting again from the last checkpoint, restart {self.done} of {self.how.restarts}")
        for path in self.folder.glob("error_*.pickle"):
            path.unlink()


@contextmanager
def _telling_restarts(folder: Path, nproc: int, how: Launch) -> Iterator[None]:
    """Report restarts while the block runs."""
    if how.restarts == 0:
        yield
        return
    log = logging.getLogger("torch.distributed.elastic.multiprocessing.api")
    level, propagate = log.level, log.propagate
    handler = _Restarts(folder, nproc, how)
    log.addHandler(handler)
    log.setLevel(logging.ERROR)
    log.propagate = False
    others = [other for other in log.handlers if other is not handler]
    for other in others:
        log.removeHandler(other)
    try:
        yield
    finally:
        for other in others:
            log.addHandler(other)
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate
