"""slideduck: tile labels of whole-slide images in DuckDB, betons, and a training runner.

>>> import slideduck as sd
>>> study = sd.open("study.duckdb")  # doctest: +SKIP
"""

from __future__ import annotations

__version__ = "0.1.0"

from slideduck.errors import SlideduckError
from slideduck.study import Study
from slideduck.study import open_study as open

__all__ = ["SlideduckError", "Study", "__version__", "open"]

if __name__ != "slideduck":  # the folder's name is not the package's name
    raise ImportError("import slideduck, not engine (after: pip install -e .)")
