"""How many cases a test generates: some in `make test`, many in `make campaign`."""

from __future__ import annotations

import os

__all__ = ["CAMPAIGN", "cases"]

#: True in `make campaign`; the environment says so, so that the workers of pytest-xdist know it too.
CAMPAIGN = os.environ.get("SLIDEDUCK_CAMPAIGN", "") not in ("", "0")


def cases(test: int, campaign: int) -> int:
    """Return a number of cases, kills or examples: `test` of them, or `campaign` in a campaign."""
    return campaign if CAMPAIGN else test
