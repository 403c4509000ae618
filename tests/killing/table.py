"""The table at the end of a campaign, as Markdown, and how each failure is repeated."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from tests.killing.campaign import Try
from tests.killing.faults import FAULTS

__all__ = ["failures", "table"]


def table(done: Sequence[Try]) -> str:
    """Return a row a command: of each fault how many tries ended well; `2/3` if one did not."""
    columns = [fault.name for fault in FAULTS if any(one.fault == fault.name for one in done)]
    rows = [["command", *columns], ["---"] * (1 + len(columns))]
    for job in dict.fromkeys(one.job for one in done):
        rows.append([f"`{job}`", *(_cell([one for one in done if (one.job, one.fault) == (job, f)]) for f in columns)])
    rows.append(["**all**", *(_cell([one for one in done if one.fault == fault]) for fault in columns)])
    struck = sum(one.struck for one in done)
    failed = sum(bool(one.problems) for one in done)
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", f"{len(done)} tries, of which {struck} struck; {failed} failed."])


def _cell(tries: Sequence[Try]) -> str:
    good = sum(not one.problems for one in tries)
    return "" if not tries else str(good) if good == len(tries) else f"{good}/{len(tries)}"


def failures(done: Sequence[Try], seed: int) -> str:
    """Return what went wrong, and the command that repeats each."""
    return "\n".join(_failure(one, seed) for one in done if one.problems)


def _failure(one: Try, seed: int) -> str:
    words = ["python", "-m", "tests.killing", "--seed", str(seed), "--job", one.job, "--fault", one.fault]
    repeat = shlex.join([*words, "--at", str(one.at), "--results", "/dev/null"])
    return f"{one.job}, {one.fault}, at {one.at}: {'; '.join(one.problems)}\n  {repeat}"
