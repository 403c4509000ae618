"""What is given to the writer is on the disk when its block ends, or its error is told."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from slideduck.errors import DiskFullError, RunError
from slideduck.runner.training.writer import background_writer, copied


def _fail() -> None:
    raise DiskFullError("no space left")


def test_jobs_are_done_one_after_another_and_all_of_them(tmp_path: Path) -> None:
    done: list[int] = []
    gate = threading.Event()
    with background_writer() as writer:
        writer.submit(lambda: done.append(1) if gate.wait(10) else None)
        assert done == []
        gate.set()
        writer.submit(lambda: done.append(2))
        assert done[0] == 1
    assert done == [1, 2]


def test_an_error_is_raised_by_the_next_call() -> None:
    started = threading.Event()
    with background_writer() as writer:
        writer.submit(_fail)
        with pytest.raises(DiskFullError, match="no space left"):
            writer.submit(started.set)
    assert not started.is_set()


def test_an_error_of_the_last_job_is_raised_at_the_end() -> None:
    with pytest.raises(DiskFullError, match="no space left"), background_writer() as writer:
        writer.submit(_fail)


def test_where_both_fail_the_job_s_error_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    def both_fail() -> None:
        with background_writer() as writer:
            writer.submit(_fail)
            raise RunError("the loss is nan")

    with pytest.raises(RunError, match="the loss is nan"):
        both_fail()
    assert capsys.readouterr().err == "error: no space left\n"


def test_a_copy_does_not_see_what_happens_afterwards() -> None:
    weight = torch.zeros(2, requires_grad=True)
    state = {"model": {"w": weight}, "steps": [weight, 3], "epoch": 1}
    copy = copied(state)
    with torch.no_grad():
        weight.fill_(1)
    assert copy["model"]["w"].tolist() == copy["steps"][0].tolist() == [0, 0]
    assert copy["steps"][1] == 3
    assert not copy["model"]["w"].requires_grad
