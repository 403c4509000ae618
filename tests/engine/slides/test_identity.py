"""Pixels are those of the slide that was added: what reads them refuses a file that was put in its place."""

from __future__ import annotations

import ast
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import slideduck as sd
from slideduck.errors import BetonError, ResolutionError, SlideduckError, SlideError
from slideduck.slides.content import content_fingerprint, files_of
from slideduck.slides.grid import SlideGrid
from slideduck.slides.identity import SlideFile
from slideduck.slides.reader import TileReader
from tests.dicom import write_dicom
from tests.slides import synthetic_image, write_slide

ROOT = Path(__file__).resolve().parents[3]
GRID = SlideGrid(64, 64, 2, 2, 0, 1.0, 64)


def written(path: Path, seed: int = 1) -> Path:
    """Write a slide whose smallest level, which is all that OpenSlide's fingerprint holds, is the same for any seed."""
    image = synthetic_image(1, (512, 384))
    write_slide(path, image, levels=2)
    if seed != 1:
        rewrite_level_0(path, synthetic_image(seed, (512, 384)))
    return path


def rewrite_level_0(path: Path, image: Any) -> None:
    """Give a slide other pixels of level 0, in as many bytes."""
    import tifffile

    other = write_slide(path.with_name("other.tmp"), image, levels=2)
    with tifffile.TiffFile(path) as tiff, tifffile.TiffFile(other) as source:
        places = list(zip(tiff.pages.first.dataoffsets, tiff.pages.first.databytecounts, strict=True))
        given = list(zip(source.pages.first.dataoffsets, source.pages.first.databytecounts, strict=True))
    content, from_ = bytearray(path.read_bytes()), other.read_bytes()
    for (at, size), (start, n) in zip(places, given, strict=True):
        if n <= size:
            content[at : at + n] = from_[start : start + n]
    path.write_bytes(content)
    other.unlink()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of one slide with labels, measures, a fit of its stains and a beton; and the slide."""
    folder = tmp_path_factory.mktemp("made")
    written(folder / "s.tif")
    (folder / "s.csv").write_text("roi_name,x_base,y_base,label\nr,0,0,x\nr,512,0,x\nr,512,384,x\n")
    with sd.open(folder / "study.duckdb") as study:
        study.add_slides(folder / "s.tif")
        study.add_rois(folder / "s.csv")
        study.tile(64, tile_um=32)
        study.label()
        study.export(folder / "tiles.beton")
    return folder


@pytest.fixture
def study(made: Path, tmp_path: Path) -> Iterator[sd.Study]:
    """A copy of it, open, and of its slide."""
    shutil.copytree(made, tmp_path / "made")
    with sd.open(tmp_path / "made" / "study.duckdb") as opened:
        opened.relocate(made, tmp_path / "made")
        yield opened


def touched(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return a change after which the file has the time that it had, as `touch -r` gives it."""

    def changed(path: Path) -> None:
        before = path.stat()
        change(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    return changed


def flip_one_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


CHANGES: dict[str, Callable[[Path], object]] = {
    "another slide": lambda path: write_slide(path, 7, size=(512, 384)),
    "other pixels of level 0 in as many bytes, with the time of before": touched(lambda path: written(path, 2)),
    "one byte, with the time of before": touched(flip_one_byte),
    "cut short, with the time of before": touched(lambda path: os.truncate(path, path.stat().st_size - 5000)),
}

READERS: dict[str, Callable[[sd.Study, Path], object]] = {
    "export": lambda study, out: study.export(out / "t.beton"),
    "export raw": lambda study, out: study.export(out / "t.beton", raw=True),
    "qc tissue": lambda study, _: told(study.qc(["tissue"])),
    "qc blur": lambda study, _: told(study.qc(["blur"])),
    "stain": lambda study, _: told(study.fit_stain()),
    "plot labels": lambda study, out: study.plot_labels("s", out / "p.png"),
    "a page": lambda study, out: study.plot_labels("s", out / "p.html"),
    "qc overlay": lambda study, out: study.qc_overlay("s", out / "p.png", ["grid_x >= 0"]),
    "plot stain": lambda study, out: study.plot_stain("s", out / "p.png"),
    "native grid": lambda study, _: study.native_grid("s"),
    "verify": lambda study, _: verified(study),
}


def told(report: Any) -> None:
    """Raise what a report says of slides that failed."""
    if report.failed:
        raise SlideError("; ".join(report.failed.values()))


def verified(study: sd.Study) -> None:
    beton = study.path.with_name("tiles.beton")
    problems = sd.verify_beton(beton, sample=None, slides={"s": study.path.with_name("s.tif")}).problems
    if problems:
        raise BetonError(problems[0].problem)


@pytest.mark.parametrize(
    "change",
    [pytest.param(change, marks=pytest.mark.attack("races", f"a slide replaced: {change}")) for change in CHANGES],
)
def test_every_reader_refuses_a_slide_that_was_replaced(study: sd.Study, change: str) -> None:
    path, out = study.path.with_name("s.tif"), study.path.parent
    CHANGES[change](path)
    before = {entry.name for entry in out.iterdir()}
    passed = {}
    for name, read in READERS.items():
        try:
            read(study, out)
            passed[name] = "nothing was said"
        except (SlideduckError, ResolutionError) as error:
            if f"slide 's' has changed: {path} is not the file that was added; " not in str(error):
                passed[name] = str(error)
    assert passed == {}
    # Nothing was drawn or written of other pixels.
    assert {entry.name for entry in out.iterdir()} <= before | {"t.beton.part"}


def test_a_slide_that_was_only_copied_is_read(study: sd.Study) -> None:
    path = study.path.with_name("s.tif")
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    os.utime(path, (1, 1))
    for name in ("export", "native grid", "verify", "qc blur"):
        READERS[name](study, study.path.parent)


def test_the_remedy_is_to_add_the_slide_again(study: sd.Study) -> None:
    written(study.path.with_name("s.tif"), 2)
    with pytest.raises(SlideError) as caught:
        study.export(study.path.with_name("t.beton"))
    assert str(caught.value).endswith("; add it again, and label anew")
    assert study.add_slides(study.path.with_name("s.tif")).cleared == ("s",)
    study.label()
    study.export(study.path.with_name("t.beton"))


def test_a_slide_that_changes_while_it_is_read_is_found_at_the_end_of_each_piece(study: sd.Study) -> None:
    path = study.path.with_name("s.tif")
    (size, fingerprint) = study.con.execute("SELECT bytes, fingerprint FROM slides").fetchall()[0]
    file = SlideFile("s", path, size, fingerprint)
    with TileReader(file, GRID, 64) as reader:
        reader.read(0, 0)
        file.check()
        flip_one_byte(path)
        with pytest.raises(SlideError) as caught:
            file.check()
    assert str(caught.value) == f"slide 's' has changed: {path} is not the file that was added; add it again"


def test_a_study_of_an_earlier_version_knows_its_slides(study: sd.Study) -> None:
    """It has OpenSlide's fingerprint alone, which holds the smallest level."""
    path = study.path.with_name("s.tif")
    study.con.execute("UPDATE slides SET fingerprint = split_part(fingerprint, '/', 1)")
    study.native_grid("s")
    os.utime(path, (1, 1))
    assert study.add_slides(path).unchanged == 1
    study.export(study.path.with_name("t.beton"))
    before = path.stat()
    write_slide(path, 7, size=(512, 384))
    os.truncate(path, before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(SlideError, match="has changed"):
        study.native_grid("s")


# ---------------------------------------------------------------------------------- slides of several files


def dicom(folder: Path) -> Path:
    """Write a series of two levels beside one of another slide, and return the file that was given."""
    image = synthetic_image(1, (256, 192))
    write_dicom(folder / "a.dcm", image, series="1.2.3", instance="1.2.3.1")
    write_dicom(folder / "b.dcm", np.ascontiguousarray(image[::2, ::2][:64]), series="1.2.3", instance="1.2.3.2")
    write_dicom(folder / "c.dcm", image, series="1.2.4", instance="1.2.4.1")
    return folder / "a.dcm"


def mirax(folder: Path) -> Path:
    """Write files as MIRAX has them; what they hold is not looked at here."""
    (folder / "m").mkdir(parents=True)
    for name, size in (("Index.dat", 900), ("Slidedat.ini", 300), ("Data0000.dat", 30 << 20)):
        (folder / "m" / name).write_bytes(np.random.default_rng(size).bytes(size))
    (folder / "m.mrxs").write_bytes(b"\xff\xd8 a picture")
    return folder / "m.mrxs"


def hamamatsu(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "v.vms").write_text("[Virtual Microscope Specimen]\nNoJpegs=1\nImageFile=v.jpg\nMapFile=../secret\n")
    (folder / "v.jpg").write_bytes(b"\xff\xd8 a picture")
    return folder / "v.vms"


SEVERAL = {
    "DICOM": (dicom, ["a.dcm", "b.dcm"], "b.dcm"),
    "MIRAX": (mirax, ["m.mrxs", "Data0000.dat", "Index.dat", "Slidedat.ini"], "m/Data0000.dat"),
    "VMS": (hamamatsu, ["v.vms", "v.jpg"], "v.jpg"),
}


@pytest.mark.parametrize(("make", "names", "changed"), SEVERAL.values(), ids=SEVERAL)
@pytest.mark.attack("races", "a file beside a slide's own replaced, with its size and time")
def test_files_beside_a_slide_are_part_of_it(
    tmp_path: Path, make: Callable[[Path], Path], names: list[str], changed: str
) -> None:
    path = make(tmp_path / "slides")
    assert [file.name for file in files_of(path)] == names
    file = SlideFile("s", path, None, f"x/1:{content_fingerprint(path)}")
    file.check()
    # At its end, which is hashed of every file; of those above 16 MiB, only pieces are hashed between.
    touched(lambda beside: beside.write_bytes(beside.read_bytes()[:-1] + b"!"))(path.parent / changed)
    with pytest.raises(SlideError) as caught:
        file.check()
    assert str(caught.value) == f"slide 's' has changed: {path} is not the file that was added; add it again"
    (path.parent / changed).unlink()
    with pytest.raises(SlideError) as caught:
        file.check()
    assert str(caught.value) == (
        f"slide 's': {path.parent / changed} cannot be read: No such file or directory; put the file back, or add it "
        "from where it is now"
    )


def test_a_large_file_is_told_by_samples_and_the_lists_of_its_tiles(tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        file.write(b"head")
        file.truncate(1 << 28)
    known = content_fingerprint(path)
    assert content_fingerprint(path) == known
    for start, size in ((0, 5), (100 << 20, 50 << 20), ((1 << 28) - 5, 5)):
        with path.open("r+b") as file:
            file.seek(start)
            before = file.read(min(size, 1 << 16))
            file.seek(start)
            step = 1 << 20
            for _ in range(0, size, step):
                file.write(b"\1" * min(size, step))
        assert content_fingerprint(path) != known, start
        with path.open("r+b") as file:
            file.seek(start)
            if size > step:
                for _ in range(0, size, step):
                    file.write(bytes(step))
            else:
                file.write(before[:size])
        assert content_fingerprint(path) == known


# ------------------------------------------------------------------------------------------- no way round


def calls(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


def test_no_other_module_opens_a_slide() -> None:
    """Who wants pixels says by a `SlideFile` whose they are; types alone let nobody by."""
    own = {"reader.py", "header.py", "kind.py", "trial.py"}
    found = []
    for path in [*sorted((ROOT / "engine").rglob("*.py")), *sorted((ROOT / "runner").rglob("*.py"))]:
        for name, line in calls(path):
            opens = name.endswith(("OpenSlide", "open_slide", "ImageSlide")) and path.name not in own
            if opens or name.endswith("SlideFile.unchecked"):
                found.append(f"{path.relative_to(ROOT)}:{line}: {name}")
    assert found == []
    read = {path for path in (ROOT / "engine" / "slides").glob("*.py") if "TiffFile" in path.read_text("utf-8")}
    assert {path.name for path in read} == {"stored.py"}
