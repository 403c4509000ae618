"""Commands that are killed, or have no room, finish when they are typed again: a few of the campaign's tries."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.campaign import cases
from tests.killing.faults import FAULTS
from tests.killing.jobs import JOBS, NOT_STRUCK, commands_of, listed_commands

ROOT = Path(__file__).resolve().parents[2]
#: Commands that are quick, of each kind: a new study, one that grows, and files.
STRUCK = ("add-slides", "add-rois", "export-rois (early)")
FAULTS_OF_TEST = ("killed", "disk full", "Ctrl-C twice")


def test_every_command_is_struck_or_said_not_to_be() -> None:
    assert commands_of(JOBS) | NOT_STRUCK.keys() == listed_commands()
    assert not commands_of(JOBS) & NOT_STRUCK.keys()
    names = [job.name for job in JOBS]
    assert len(set(names)) == len(names)
    # Each begins where one before it ended.
    assert all(job.after is None or job.after in names[: names.index(job.name)] for job in JOBS)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="commands are struck on Linux alone")
def test_what_is_struck_opens_and_the_same_command_makes_it_whole(tmp_path: Path) -> None:
    # A process of its own, since a library has to be loaded before all others.
    results = tmp_path / "results.jsonl"
    words = ["--folder", str(tmp_path), "--results", str(results), "--tries", str(cases(1, 5))]
    words += [word for job in STRUCK for word in ("--job", job)]
    words += [word for fault in FAULTS_OF_TEST for word in ("--fault", fault)]
    done = subprocess.run([sys.executable, "-m", "tests.killing", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    tries = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    assert {(one["job"], one["fault"]) for one in tries} == {(job, fault) for job in STRUCK for fault in FAULTS_OF_TEST}
    assert sum(one["struck"] for one in tries) > len(tries) // 2
    # Typed again, it goes on from there: nothing is left to be tried.
    again = subprocess.run([sys.executable, "-m", "tests.killing", *words], cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(results.read_text(encoding="utf-8").splitlines()) == len(tries)
    assert {fault.name for fault in FAULTS}.issuperset(FAULTS_OF_TEST)
