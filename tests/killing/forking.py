"""Commands forked from this process, which has imported them, under a plan of faults."""

from __future__ import annotations

import atexit
import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.killing.shim import arm

__all__ = ["ENGINE", "RUNNER", "Ended", "apart", "become_reaper", "import_all", "run_command", "stop_group"]

ENGINE = ("slideduck.cli.group", "slideduck.study", "cv2", "imagecodecs", "matplotlib.figure", "pandas", "tifffile")
RUNNER = (
    "torch",
    "slideduck.runner",
    "slideduck.runner.cli.train",
    "slideduck.runner.cli.use",
    "slideduck.runner.cli.plots",
    "ffcv.loader",
    "transformers.models.auto.modeling_auto",
    "transformers.models.resnet.modeling_resnet",
)
_SUBREAPER = 36


@dataclass(frozen=True)
class Ended:
    """How a command ended: its status (of a signal, minus its number), output, and processes that it left."""

    status: int
    output: str
    late: bool
    left: bool


def import_all(modules: Sequence[str]) -> None:
    """Import what commands need, and verify DuckDB's extension, which each of them would do anew.

    This process itself opens no study, so that it has one thread and can fork.
    """
    for name in modules:
        importlib.import_module(name)
    import duckdb

    from slideduck.store.db import load_spatial

    with duckdb.connect(config={"threads": 1}) as con:
        load_spatial(con)


def become_reaper() -> None:
    """Inherit the processes that commands leave, so that none of them stays as a zombie."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def apart(call: Callable[[], Any], *, timeout: float = 120) -> Any:
    """Call a function in a process of its own, and return what it returned; what it raises is a RuntimeError here."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        signal.alarm(round(timeout))
        try:
            answer = {"value": call()}
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        with os.fdopen(writing, "w") as file:
            json.dump(answer, file)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    _, ended = os.waitpid(child, 0)
    answer = json.loads(text) if text else {"error": f"it ended with {os.waitstatus_to_exitcode(ended)}"}
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer["value"]


def run_command(
    words: Sequence[str],
    folder: Path,
    *,
    plan: Path,
    output: Path,
    environment: Mapping[str, str],
    open_files: int | None = None,
    timeout: float = 120,
) -> Ended:
    """Run ``slideduck`` with words in a folder, struck as the plan says.

    Parameters
    ----------
    words : sequence of str
        What follows ``slideduck``.
    folder : Path
        Where it runs.
    plan : Path
        From `write_plan`.
    output : Path
        A file for what it prints.
    environment : mapping
        Variables besides those of this process.
    open_files : int, optional
        How many files it may have open.
    timeout : float
        Seconds after which it is late, and killed.
    """
    child = os.fork()
    if not child:
        _be(words, folder, plan, output, environment, open_files)
    status = _wait(child, timeout)
    late = status is None
    left = not _group_ends(child, 0 if late else 5)
    stop_group(child)
    if status is None:
        status = -signal.SIGKILL
    return Ended(status, output.read_text(encoding="utf-8", errors="replace"), late, left and not late)


def _be(
    words: Sequence[str],
    folder: Path,
    plan: Path,
    output: Path,
    environment: Mapping[str, str],
    open_files: int | None,
) -> None:
    """Be the command; never returns."""
    from slideduck.cli.group import cli

    os.setpgid(0, 0)
    os.chdir(folder)
    os.environ.update(environment)
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)):
        fd = os.open(path, flags, 0o600)
        os.dup2(fd, number)
        os.close(fd)
    os.dup2(1, 2)
    if open_files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["slideduck", *words]
    _name_itself(plan)
    arm(plan)
    status = 70
    try:
        cli(prog_name="slideduck")
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    finally:
        with suppress(BaseException):
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _name_itself(plan: Path) -> None:
    """Tell the plan which process it is about."""
    from tests.killing.shim import open_plan

    open_plan(plan).group = os.getpid()


def _wait(child: int, timeout: float) -> int | None:
    """Return the status with which a process ended, or None if it still runs."""
    end = time.monotonic() + timeout
    pause = 0.005
    while time.monotonic() < end:
        done, ended = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(ended)
        time.sleep(pause)
        pause = min(0.1, pause * 1.3)
    return None


def _group_ends(group: int, seconds: float) -> bool:
    """Return whether no process of a group is left after at most so many seconds."""
    end = time.monotonic() + seconds
    while True:
        with suppress(ChildProcessError):
            while os.waitpid(-group, os.WNOHANG)[0]:
                pass
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(0.05)


def stop_group(group: int) -> None:
    """Kill what is left of a command's processes."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    _group_ends(group, 10)
