"""What versions before have left, unpacked; make_old.py says what it is and how it was made."""

from __future__ import annotations

import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import slideduck as sd
from tests.old.make_old import MADE_IN
from tests.old.said import Said

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Old:
    """What a version has left, and what it said of it.

    Attributes
    ----------
    folder : Path
        The files, for all tests: nothing is written there.
    said : Said
        What the version said.
    """

    folder: Path
    said: Said

    def copy(self, into: Path, *names: str) -> Path:
        """Copy files and folders, for a test to change; return the folder they went into."""
        for name in names:
            source, target = self.folder / name, into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, target)
        return into

    def study(self, into: Path) -> Path:
        """Copy the study, and tell it where its slides and ROI files lie now."""
        path = self.copy(into, "study.duckdb") / "study.duckdb"
        with sd.open(path) as study:
            # Slides that are added from another place lose their tiles; these are to be the ones that there were.
            for table in ("slides", "roi_files"):
                study.con.execute(
                    f"UPDATE {table} SET path = replace(path, $there, $here)",
                    {"there": str(MADE_IN), "here": str(self.folder)},
                )
        return path


@pytest.fixture(scope="session", params=["0.1.0"])
def old(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Old:
    """What a version before has left."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(HERE / request.param / "made.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return Old(folder, Said(HERE / request.param))
