"""SECURITY.md lists the attacks that tests refuse, and what it links to is there."""

from __future__ import annotations

import re
from collections import Counter

from tests.project.attacks import PAGE, ROOT, attacks, written


def test_the_page_lists_every_attack_that_a_test_refuses() -> None:
    page = PAGE.read_text(encoding="utf-8")
    # Where it does not: python -m tests.project.attacks
    assert written(page) == page


def test_forty_attacks_and_more_are_refused_each_once() -> None:
    found = attacks()
    assert [what for what, times in Counter((one.kind, one.what) for one in found).items() if times > 1] == []
    assert len(found) >= 40


def test_every_link_of_the_page_leads_to_a_file() -> None:
    text = PAGE.read_text(encoding="utf-8")
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text)]
    assert [target for target in targets if target and not (ROOT / target).exists()] == []
    assert "(SECURITY.md" in (ROOT / "README.md").read_text(encoding="utf-8")
