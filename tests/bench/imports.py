"""Times what a user waits for before anything happens: `import slideduck`, and `slideduck --help`.

    python tests/bench/imports.py [--repeat 15]

Each figure is the median of whole processes, after one that is not counted and warms the disk's cache; that of a Python
which does nothing is printed beside them. The aims are 0.3 s for the import and 0.5 s for the help. CPU is the median
time of processors, which tells more where other programs run. Below stand the modules that take longest to import on
their own, of `python -X importtime`.
"""

from __future__ import annotations

import argparse
import re
import resource
import statistics
import subprocess
import sys
import time

#: What is timed, the code for it, and the aim, seconds.
TIMED = {
    "python": ("pass", None),
    "import slideduck": ("import slideduck", 0.3),
    "import slideduck.runner": ("import slideduck.runner", None),
    "slideduck --help": (
        "import sys; sys.argv = ['slideduck', '--help']; from slideduck.cli.group import cli; cli()",
        0.5,
    ),
    "slideduck label --help": (
        "import sys; sys.argv = ['slideduck', 'label', '--help']; from slideduck.cli.group import cli; cli()",
        None,
    ),
    "slideduck train --help": (
        "import sys; sys.argv = ['slideduck', 'train', '--help']; from slideduck.cli.group import cli; cli()",
        None,
    ),
    "slideduck.open": ("import slideduck; slideduck.open", None),
}
#: Modules that are printed, the heaviest first.
HEAVIEST = 10


def seconds(code: str) -> tuple[float, float]:
    """Return how long a Python takes for some code, from its start to its end, and its processors' time."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    end, after = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    return end - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def heaviest(code: str) -> list[tuple[float, str]]:
    """Return the milliseconds of each module on its own, without what it imports, and its name."""
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], check=True, capture_output=True, text=True)
    found = re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s*(\S+)$", done.stderr, re.MULTILINE)
    return sorted(((int(microseconds) / 1000, name) for microseconds, name in found), reverse=True)[:HEAVIEST]


def main() -> None:
    """Print the medians, and the heaviest modules."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=15, help="processes of each")
    words = parser.parse_args()
    print(f"{'':<24} median  fastest  slowest    CPU  aim, seconds")
    for name, (code, aim) in TIMED.items():
        seconds(code)
        taken, processors = zip(*(seconds(code) for _ in range(words.repeat)), strict=True)
        print(
            f"{name:<24} {statistics.median(taken):6.3f} {min(taken):8.3f} {max(taken):8.3f} "
            f"{statistics.median(processors):6.3f}" + ("" if aim is None else f"  {aim}")
        )
    for name in ("import slideduck", "slideduck --help"):
        print(f"\n{name}: milliseconds of the heaviest modules, each on its own")
        for milliseconds, module in heaviest(TIMED[name][0]):
            print(f"{milliseconds:8.2f}  {module}")


if __name__ == "__main__":
    main()
