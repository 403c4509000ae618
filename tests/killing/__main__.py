"""Strike every command that writes: ``python -m tests.killing --seed 1 --tries 3``.

Results are lines of a file, one a try, so that a campaign that was stopped goes on where it was; another seed is
another file. The table at the end counts the tries of each command and fault, and names those that failed with what
repeats them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.killing.campaign import Campaign, Try
from tests.killing.faults import FAULTS, Fault
from tests.killing.forking import ENGINE, RUNNER, become_reaper, import_all
from tests.killing.jobs import JOBS, Job
from tests.killing.shim import build_shim, is_loaded
from tests.killing.table import failures, table

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Run the campaign; the status is 1 if anything was lost."""
    parsed = _parse()
    if not is_loaded():
        _start_again(parsed.folder)
    jobs = [job for job in JOBS if not parsed.job or job.name in parsed.job]
    faults = [fault for fault in FAULTS if (fault.name in parsed.fault if parsed.fault else fault.usual)]
    import_all(ENGINE + (RUNNER if any(job.runner for job in jobs) else ()))
    become_reaper()
    results = parsed.results or parsed.folder / f"seed-{parsed.seed}.jsonl"
    done = _read(results)
    if parsed.again:
        done = [one for one in done if not one.problems]
        results.write_text("".join(_line(one) for one in done), encoding="utf-8")
    seen = {(one.job, one.fault, one.number) for one in done}
    campaign = Campaign(parsed.folder / "work", parsed.seed)
    end = time.monotonic() + 60 * parsed.minutes
    for job, fault, number in _order(jobs, faults, parsed.tries):
        if time.monotonic() > end:
            print("the time is over; the same command goes on from here")
            break
        if (job.name, fault.name, number) in seen or not campaign.applies(job, fault):
            continue
        one = campaign.strike(job, fault, number, parsed.at)
        done.append(one)
        with results.open("a", encoding="utf-8") as file:
            file.write(_line(one))
        if one.problems and not parsed.quiet:
            print(failures([one], parsed.seed), flush=True)
    print(table(done))
    print(failures(done, parsed.seed))
    if parsed.page:
        _write_page(table(done), parsed)
    return int(any(one.problems for one in done))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.killing", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="draws the moments")
    parser.add_argument("--tries", type=int, default=1, help="of each command and fault that strikes at a moment")
    parser.add_argument("--job", action="append", help="only this command; may be repeated")
    parser.add_argument("--fault", action="append", help="only this fault; may be repeated")
    parser.add_argument("--at", type=int, help="the moment, in place of drawn ones")
    parser.add_argument("--minutes", type=float, default=1e6, help="no new try after so many")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "campaign", help="where it works")
    parser.add_argument("--results", type=Path, help="the file of results; default seed-N.jsonl in the folder")
    parser.add_argument("--again", action="store_true", help="first forget the tries that failed, and try these again")
    parser.add_argument("--page", action="store_true", help="put the table into SECURITY.md")
    parser.add_argument("--quiet", action="store_true", help="print the table alone")
    parsed = parser.parse_args()
    parsed.folder = parsed.folder.absolute()
    return parsed


def _write_page(text: str, parsed: argparse.Namespace) -> None:
    """Put the table between its marks."""
    page = ROOT / "SECURITY.md"
    head, begin, rest = page.read_text(encoding="utf-8").partition("<!-- campaign: python -m tests.killing -->")
    _, end, tail = rest.partition("<!-- end of the campaign -->")
    again = f"`python -m tests.killing --seed {parsed.seed} --tries {parsed.tries} --page` repeats it."
    page.write_text(f"{head}{begin}\n\n{text} {again}\n\n{end}{tail}", encoding="utf-8")


def _start_again(folder: Path) -> None:
    """Be started anew with the library before this process."""
    folder.mkdir(parents=True, exist_ok=True)
    library = build_shim(Path(tempfile.mkdtemp(prefix="shim-", dir=folder)))
    os.environ["LD_PRELOAD"] = str(library)
    os.execv(sys.executable, [sys.executable, "-m", "tests.killing", *sys.argv[1:]])


def _line(one: Try) -> str:
    return json.dumps(asdict(one)) + "\n"


def _read(results: Path) -> list[Try]:
    if not results.exists():
        return []
    return [Try(**json.loads(line)) for line in results.read_text(encoding="utf-8").splitlines()]


def _order(jobs: Sequence[Job], faults: Sequence[Fault], tries: int) -> Iterator[tuple[Job, Fault, int]]:
    """Yield the tries in rounds over everything, so that a campaign that is stopped early has looked everywhere."""
    for number in range(tries):
        for job in jobs:
            for fault in faults:
                if number == 0 or fault.counts:
                    yield job, fault, number


if __name__ == "__main__":
    sys.exit(main())
