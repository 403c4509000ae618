"""Strikes commands one by one: what each left, whether it goes on from there, and whether that equals a quiet run."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.killing.contents import differences, snapshot
from tests.killing.faults import Fault
from tests.killing.forking import Ended, apart, run_command, stop_group
from tests.killing.jobs import JOBS, Job, make_inputs, make_network
from tests.killing.shim import open_plan, write_plan

__all__ = ["Campaign", "Try"]

_OUTPUT_KEPT, _SAID_KEPT = 2000, 300
_NEW_MOUNTS = 0x20000
#: A small disk has room for up to as much as a command adds, and for so many bytes where it adds less.
_LEAST_ROOM = 64 << 10


@dataclass(frozen=True)
class Try:
    """One command that was struck once.

    Attributes
    ----------
    at : int
        Which change, read, or byte of room it was.
    struck : bool
        Whether something happened: the command may have ended before.
    problems : list of str
        What is wrong, in words; none if nothing was lost.
    """

    job: str
    fault: str
    number: int
    at: int
    status: int
    struck: bool
    problems: list[str]
    output: str = ""


@dataclass
class _Quiet:
    """What an uninterrupted command made."""

    contents: dict[str, str]
    volatile: set[str]
    count: int
    reads: int
    bytes: int


@dataclass
class Campaign:
    """A folder in which commands are run, and what quiet runs of them made.

    Attributes
    ----------
    folder : Path
        A folder that may be emptied.
    seed : int
        Draws the moments.
    """

    folder: Path
    seed: int
    _quiet: dict[str, _Quiet] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.inputs = self.folder / "inputs"
        # Always the same path: some files name others.
        self.case = self.folder / "case"
        self.temporary = self.folder / "tmp"
        self.may_mount = _own_mounts()
        apart(lambda: make_inputs(self.inputs))

    def applies(self, job: Job, fault: Fault) -> bool:
        """Return whether a fault can strike a command at all."""
        quiet = self.quiet(job)
        if fault.small_disk and not self.may_mount:
            return False
        return fault.counts not in ("count", "reads") or getattr(quiet, fault.counts) > 0

    def strike(self, job: Job, fault: Fault, number: int, at: int | None = None) -> Try:
        """Run a command that is struck, look at what it left, and run it again.

        Parameters
        ----------
        job, fault : Job, Fault
            Which command, and what happens to it.
        number : int
            The moment is a function of the seed, the names and this number.
        at : int, optional
            The moment, in place of a drawn one.
        """
        quiet = self.quiet(job)
        if at is None:
            most = {"count": quiet.count, "reads": quiet.reads, "bytes": quiet.bytes, "": 1}[fault.counts]
            at = random.Random(f"{self.seed} {job.name} {fault.name} {number}").randint(1, max(1, most))
        self._lay(job)
        with self._around(fault, at):
            ended, struck = self._run(job, fault, at)
        problems = _judge(ended, fault, struck)
        found, problem = self._contents()
        problems += problem
        whole = not problem and not differences(found, quiet.contents, quiet.volatile)
        # Slides that cannot be read are kept with their error, and listed.
        listed = fault.counts == "reads" and "cannot be used" in ended.output
        if ended.status == 0 and not whole and not listed:
            problems.append(f"ended with 0, yet {_few(differences(found, quiet.contents, quiet.volatile))}")
        problems += self._again(job, quiet, whole)
        return Try(job.name, fault.name, number, at, ended.status, struck, problems, _end(ended.output, problems))

    def quiet(self, job: Job) -> _Quiet:
        """Return what a command makes that nothing strikes, from two runs: what differs between them is volatile."""
        if job.name not in self._quiet:
            runs = [self._quiet_run(job), self._quiet_run(job)]
            (first, count, reads), (second, _, _) = runs
            volatile = {name for name in first | second if first.get(name) != second.get(name)}
            grown = _size(self.case) - (_size(self._stage(job.after)) if job.after else 0)
            self._quiet[job.name] = _Quiet(second, volatile, count, reads, max(grown, _LEAST_ROOM))
            # What is left out of every comparison, to be looked at.
            with (self.folder / "volatile.txt").open("a", encoding="utf-8") as file:
                file.write("".join(f"{job.name}: {name}\n" for name in sorted(volatile)))
        return self._quiet[job.name]

    def _quiet_run(self, job: Job) -> tuple[dict[str, str], int, int]:
        """Run a command that nothing strikes; return what there is then, and how many changes and reads it took."""
        if job.runner and not (self.inputs / "network").exists():
            apart(lambda: make_network(self.inputs))
        self._lay(job)
        ended, _ = self._run(job, Fault("nothing"), 1)
        if ended.status != 0:
            raise RuntimeError(f"{job.name} fails when nothing strikes it:\n{ended.output}")
        plan = open_plan(self._plan)
        contents, problem = self._contents()
        if problem:
            raise RuntimeError(f"{job.name}: {problem[0]}")
        if not self._stage(job.name).exists():
            shutil.copytree(self.case, self._stage(job.name))
        return contents, plan.count, plan.reads

    @property
    def _plan(self) -> Path:
        return self.folder / "plan"

    def _stage(self, name: str) -> Path:
        return self.folder / "stages" / "".join(letter if letter.isalnum() else "_" for letter in name)

    def _lay(self, job: Job) -> None:
        """Make the folder as the command finds it, by the commands before it where that was not done yet."""
        if job.after is not None and not self._stage(job.after).exists():
            self._quiet_run(_named(job.after))
        for folder in (self.case, self.temporary):
            shutil.rmtree(folder, ignore_errors=True)
        self.temporary.mkdir()
        if job.after is None:
            self.case.mkdir()
        else:
            shutil.copytree(self._stage(job.after), self.case)

    def _run(self, job: Job, fault: Fault, at: int, *, remedy: bool = False) -> tuple[Ended, bool]:
        """Run a command under a fault; return how it ended, and whether it was struck."""
        folder = self.temporary if fault.full_tmp else self.case
        write_plan(self._plan, fault.kind, at, folder=folder, inputs=self.inputs, seconds=fault.seconds)
        ended = run_command(
            job.typed(self.inputs, remedy=remedy),
            self.case,
            plan=self._plan,
            output=self.folder / "output.txt",
            environment={"TMPDIR": str(self.temporary), "COLUMNS": "200", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"},
            open_files=fault.open_files,
        )
        always = fault.small_disk or fault.held or fault.open_files is not None
        return ended, always or open_plan(self._plan).struck > 0

    @contextmanager
    def _around(self, fault: Fault, at: int) -> Iterator[None]:
        """Hold the study, or make its disk small, while the command runs."""
        if fault.held and (self.case / "study.duckdb").exists():
            with _holding(self.case / "study.duckdb"):
                yield
        elif fault.small_disk:
            with _small_disk(self.case, at):
                yield
        else:
            yield

    def _contents(self) -> tuple[dict[str, str], list[str]]:
        """Return what the folder holds, or what is wrong with it, by a copy: opening a study repairs it."""
        copy = self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.case, copy)
        try:
            return apart(lambda: snapshot(copy)), []
        except RuntimeError as error:
            return {}, [f"what is left does not open: {_said(str(error))}"]

    def _again(self, job: Job, quiet: _Quiet, whole: bool) -> list[str]:
        """Run the command once more, undisturbed; it may refuse to do what was done before it was struck."""
        ended, _ = self._run(job, Fault("nothing"), 1)
        if ended.status != 0 and not whole and job.remedy and job.remedy in ended.output:
            ended, _ = self._run(job, Fault("nothing"), 1, remedy=True)
        if ended.status != 0 and not whole:
            return [f"the same command ends with {ended.status}: {_said(ended.output)}"]
        found, problem = self._contents()
        wrong = [] if problem else differences(found, quiet.contents, quiet.volatile)
        return problem + ([f"the same command does not make it whole: {_few(wrong)}"] if wrong else [])


def _judge(ended: Ended, fault: Fault, struck: bool) -> list[str]:
    """Return what is wrong with how a command ended."""
    problems = []
    if ended.late:
        problems.append("it hangs")
    elif ended.status not in fault.statuses:
        problems.append(f"ended with {ended.status}")
    if "Traceback (most recent call last)" in ended.output:
        problems.append("a traceback")
    if ended.left:
        problems.append("it left processes behind")
    if ended.status == 1 and "error: " not in ended.output:
        problems.append("ended with 1 and without a word")
    if ended.status not in (0, *fault.statuses) and not struck:
        problems.append("though nothing struck it")
    return problems


def _end(output: str, problems: list[str]) -> str:
    return output[-_OUTPUT_KEPT:] if problems else ""


def _said(output: str) -> str:
    """Return the beginning of the error in what a command printed, or else the end of all that."""
    _, said, rest = output.rpartition("error: ")
    return said + rest[:_SAID_KEPT] if said else output[:_SAID_KEPT]


def _few(names: list[str]) -> str:
    rest = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return "; ".join(names[:4]) + rest


def _named(name: str) -> Job:
    (job,) = (job for job in JOBS if job.name == name)
    return job


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def _holding(study: Path) -> Iterator[None]:
    """Have another process write to a study."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        _hold(study, writing)
    os.close(writing)
    try:
        os.read(reading, 1)
        yield
    finally:
        os.close(reading)
        stop_group(child)


def _hold(study: Path, ready: int) -> None:
    """Open a study, say so, and wait to be killed."""
    import slideduck as sd

    try:
        with sd.open(study):
            os.write(ready, b".")
            signal.pause()
    finally:
        os._exit(1)


def _own_mounts() -> bool:
    """Give this process file systems of its own, which go when it ends; return whether it may have them."""
    if os.geteuid() != 0 or shutil.which("mount") is None or ctypes.CDLL(None).unshare(_NEW_MOUNTS) != 0:
        return False
    return subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True).returncode == 0


@contextmanager
def _small_disk(case: Path, room: int) -> Iterator[None]:
    """Put a folder on a file system with so many bytes of room; what is on it comes back to the folder afterwards."""
    beside = case.with_name("beside")
    shutil.rmtree(beside, ignore_errors=True)
    case.rename(beside)
    case.mkdir()
    # Pages of 4,096 bytes, and some for folders.
    size = sum(-(-path.stat().st_size // 4096) for path in beside.rglob("*") if path.is_file()) * 4096 + room
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={-(-size // 4096) * 4096}", "none", str(case)], check=True)
    try:
        shutil.copytree(beside, case, dirs_exist_ok=True)
        yield
        shutil.rmtree(beside)
        shutil.copytree(case, beside)
    finally:
        with suppress(subprocess.CalledProcessError):
            subprocess.run(["umount", str(case)], check=True)
        case.rmdir()
        beside.rename(case)
