"""A disk that fails under a slide, or a share that goes away: each is said of the slide, with what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slides import write_slide

#: Reads of one file fail once another is there, whoever reads: Python, OpenSlide or libtiff.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int fails(int fd) {
  char link[64], name[4096];
  if (access(getenv("EIO_WHEN"), F_OK)) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, name, sizeof name - 1);
  if (n < 0) return 0;
  name[n] = 0;
  errno = EIO;
  return !strcmp(name, getenv("EIO_PATH"));
}
ssize_t read(int fd, void *to, size_t n) {
  if (fails(fd)) return -1;
  return ((ssize_t (*)(int, void *, size_t))dlsym(RTLD_NEXT, "read"))(fd, to, n);
}
ssize_t pread64(int fd, void *to, size_t n, off_t at) {
  if (fails(fd)) return -1;
  return ((ssize_t (*)(int, void *, size_t, off_t))dlsym(RTLD_NEXT, "pread64"))(fd, to, n, at);
}
size_t fread(void *to, size_t size, size_t n, FILE *file) {
  if (fails(fileno(file))) return 0;
  return ((size_t (*)(void *, size_t, size_t, FILE *))dlsym(RTLD_NEXT, "fread"))(to, size, n, file);
}
"""

SCRIPT = """
import json, os, sys
from pathlib import Path
import numpy as np
import slideduck as sd
from slideduck.slides.grid import SlideGrid
from slideduck.slides.identity import SlideFile
from slideduck.slides.reader import TileReader
from slideduck.slides.stored_reader import choose_reader

folder, path, when = Path(sys.argv[1]), Path(os.environ["EIO_PATH"]), Path(os.environ["EIO_WHEN"])

def told(read):
    try:
        found = read()
    except sd.SlideduckError as error:
        return str(error)
    return next(iter(found.failed.values()), "fine") if hasattr(found, "failed") else "fine"

with sd.open(folder / "study.duckdb") as study:
    study.add_slides(path)
    study.tile(64, tile_um=32)
    study.label()
    size, fingerprint = study.con.execute("SELECT bytes, fingerprint FROM slides").fetchall()[0]
    file = SlideFile("s", path, size, fingerprint)
    grid = SlideGrid(64, 64, 8, 6, 0, 1.0, 64)
    reader, _ = choose_reader(TileReader(file, grid, 64), np.array([0, 64]), np.array([0, 0]))
    when.touch()
    found = {
        "export": told(lambda: study.export(folder / "t.beton", where=None)),
        "qc": told(lambda: study.qc(["blur"])),
        "a tile": told(lambda: reader.read(256, 256)),
        "add-slides": told(lambda: study.add_slides(path)),
    }
    when.unlink()
    path.rename(folder / "gone.tif")
    found["gone"] = told(file.check)
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("gcc") is None, reason="needs gcc and LD_PRELOAD")
def test_a_disk_that_fails_is_said_of_the_slide(tmp_path: Path) -> None:
    # A process of its own, since the library that fails reads is loaded before Python is.
    library, path = tmp_path / "shim.so", write_slide(tmp_path / "s.tif", 1, size=(512, 384))
    words = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library), "-ldl"]
    subprocess.run(words, input=SHIM, text=True, check=True)
    environment = {
        "EIO_PATH": str(path), "EIO_WHEN": str(tmp_path / "now"), "LD_PRELOAD": str(library),
        "PYTHONPATH": ":".join(sys.path),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    back = "put the file back, or add it from where it is now"
    failed = f"slide 's': {path} cannot be read: Input/output error; {back}"
    gone = f"slide 's': {path} cannot be read: No such file or directory; {back}"
    tile = found.pop("a tile")
    assert tile.startswith(f"slide 's': {path} does not open: "), tile
    assert tile.endswith("; get the file again, or leave the slide out")
    assert found == {
        "export": failed,
        "qc": failed,
        "add-slides": f"slide 's.tif' cannot be read: input/output error; check the disk that {path} is on",
        "gone": gone,
    }
