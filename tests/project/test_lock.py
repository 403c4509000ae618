"""What `make install` pins is what `pyproject.toml` asks for, each file by its SHA-256."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PIN = re.compile(r"([a-z0-9-]+)==(\S+) --hash=sha256:[0-9a-f]{64}")


def pins(name: str) -> dict[str, str]:
    """Return the versions of a file of pins; every line is a comment or a pin."""
    lines = (ROOT / ".ci" / name).read_text(encoding="utf-8").splitlines()
    found = [PIN.fullmatch(line) for line in lines if not line.startswith("#")]
    assert None not in found
    return {pin[1]: pin[2] for pin in found if pin}


def asked_for(lines: list[str], extras: dict[str, list[str]]) -> Iterator[Requirement]:
    """Yield requirements, those of our own extras in their place."""
    for requirement in map(Requirement, lines):
        if requirement.name == "slideduck":
            yield from (each for extra in requirement.extras for each in asked_for(extras[extra], extras))
        else:
            yield requirement


def test_every_requirement_has_a_pin_that_meets_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    pinned = pins("requirements.txt")
    # Where one does not: make lock. torch is the one that the user chooses.
    assert [
        str(requirement)
        for requirement in asked_for([*project["dependencies"], *extras["dev"]], extras)
        if requirement.name != "torch"
        if not requirement.specifier.contains(pinned.get(re.sub(r"[-_.]+", "-", requirement.name).lower(), "0"))
    ] == []


@pytest.mark.parametrize(("name", "tools"), [("audit.txt", {"pip-audit", "cyclonedx-bom"})])
def test_the_tools_of_the_audit_are_pinned(name: str, tools: set[str]) -> None:
    assert tools <= pins(name).keys()
