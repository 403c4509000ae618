"""What messages say to type is typed, from an empty folder to a beton, and gets on each time."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pytest
from click.testing import CliRunner, Result

from slideduck.cli.group import cli
from tests.slides import write_slide

#: What stands in a message for something that its reader has.
_MEANT = {"STUDY": "study.duckdb", "OUT.beton": "tiles.beton", "TABLE": "patients.csv", "FILE": "moved/s1.tif"}


def run(*words: str) -> Result:
    """Run a command, given as one line or as words."""
    line = shlex.split(words[0]) if len(words) == 1 else list(words)
    # So wide that no table folds what it says.
    return CliRunner().invoke(cli, line, env={"COLUMNS": "400"})


def refused(line: str) -> str:
    """Return the last line of what a command says that is refused."""
    result = run(line)
    assert result.exit_code == 1, (line, result.output)
    return result.stderr.splitlines()[-1].strip()


def typed(message: str, command: str, **meant: str) -> Result:
    """Type a command that a message has, and return what came of it; it ends well."""
    assert command in message, (command, message)
    words = [{**_MEANT, **meant}.get(word, word) for word in shlex.split(command.removeprefix("slideduck "))]
    result = run(*words)
    assert result.exit_code == 0, (command, result.output)
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with three slides of 512 pixels, of which one is blank and one has no MPP, and ROIs of two of them."""
    path = tmp_path_factory.mktemp("remedies")
    (path / "slides").mkdir()
    (path / "moved").mkdir()
    blank = np.full((512, 512, 3), 244, np.uint8)
    for name, image, mpp in (("s0", 0, 0.5), ("s1", 1, None), ("blank", blank, 0.5)):
        write_slide(path / "slides" / f"{name}.tif", image, size=(512, 512), levels=1, mpp=mpp)
    lines = ["slide,roi_name,x_base,y_base,label"]
    for name in ("s0", "s1", "blank"):
        lines += [f"{name},r,{x},{y},tumour" for x, y in ((0, 0), (256, 0), (256, 256), (0, 256))]
    (path / "rois.csv").write_text("\n".join(lines) + "\n")
    (path / "patients.csv").write_text("slide,patient,site,part\ns0,a,x,train\ns1,b,y,val\nblank,c,z,train\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        yield path


def test_remedies_from_an_empty_folder_to_a_beton(folder: Path) -> None:
    """One story, and so one test of some seconds: each step begins with the study that the one before left."""
    begin_a_study(folder)
    make_labels()
    look_names_up()
    give_settings_that_go_together()
    leave_a_blank_slide_out()
    lay_a_grid_of_stored_tiles()
    join_shards()
    follow_a_moved_slide(folder)
    add_a_slide_that_changed(folder)
    make_a_split_again(folder)
    replace_what_is_there()
    ask_in_sql()
    mend_a_beton(folder)


def begin_a_study(folder: Path) -> None:
    duckdb.connect("empty.duckdb").close()
    said = refused("info empty.duckdb")
    begin = f"slideduck add-slides {folder}/empty.duckdb FOLDER"
    assert said == f"error: {folder}/empty.duckdb is an empty study; add slides with: {begin}"
    typed(said, begin, FOLDER="slides/s0.tif")
    said = refused("info study.duckdb")
    begin = f"slideduck add-slides {folder}/study.duckdb FOLDER"
    assert said == f"error: no study at {folder}/study.duckdb; make it with: {begin}"
    result = run(*shlex.split(begin.replace("FOLDER", "slides"))[1:])
    assert result.stderr.splitlines()[-1] == (
        "  slide 's1.tif' has no MPP (openslide.mpp-x is missing); give --mpp with its microns per pixel, such as "
        "--mpp 0.25, or --mpp s1=0.25 for this slide alone"
    )
    for said in ("--mpp 0.25", "--mpp s1=0.5"):
        assert run(f"add-slides study.duckdb slides {said}").exit_code == 0


def make_labels() -> None:
    for line in ("export study.duckdb tiles.beton", "qc study.duckdb"):
        assert refused(line) == (
            "error: study.duckdb has no grid; make one with: slideduck tile study.duckdb --tile-px 256 --tile-um 256"
        )
    typed(refused("label study.duckdb"), "slideduck tile study.duckdb --tile-px 256 --tile-um 256")
    for line in ("counts study.duckdb", "split study.duckdb", "plot labels study.duckdb s0 s0.png"):
        said = refused(line)
        assert said == "error: study.duckdb has no labels yet; make them with: slideduck label study.duckdb"
    typed(said, "slideduck label study.duckdb")
    said = refused("export study.duckdb tiles.beton")
    assert said == (
        "error: no tile of grid '256px_256um' meets the condition 'label IS NOT NULL'; of the tiles that are kept "
        "there "
        "are, by label: 3 without a label; by split: 3 in no split; add ROIs with: slideduck add-rois study.duckdb "
        "FOLDER, and label again, or export tiles without a label with --where true"
    )
    assert run("export study.duckdb all.beton --where true").exit_code == 0
    typed(said, "slideduck add-rois study.duckdb FOLDER", FOLDER="rois.csv")
    said = refused("counts study.duckdb")
    assert said == (
        "error: the labels of 3 slides are out of date (blank, s0, s1); bring them up to date with: slideduck label "
        "study.duckdb"
    )
    typed(said, "slideduck label study.duckdb")
    assert run("export study.duckdb tiles.beton").exit_code == 0
    assert run("verify study.duckdb").exit_code == 0


def look_names_up() -> None:
    look = "slideduck sql study.duckdb 'SELECT slide FROM slides'"
    for line in (
        "plot labels study.duckdb nope s.png",
        "export-tiles study.duckdb out --slide nope",
        "qc study.duckdb --slide nope",
        "qc study.duckdb --report --slide nope",
        "tile study.duckdb --native --like nope",
    ):
        assert look in refused(line), line
    assert "s0" in typed(look, look).stdout
    said = refused("export-rois study.duckdb out --format csv --slide nope")
    assert "s0" in typed(said, "slideduck sql study.duckdb 'SELECT DISTINCT roi_set, slide FROM rois'").stdout
    said = refused("remove-rois study.duckdb nope.csv")
    assert "rois.csv" in typed(said, "slideduck sql study.duckdb 'SELECT roi_set, path FROM roi_files'").stdout
    typed(refused("qc study.duckdb --slide nope"), "slideduck label study.duckdb")


def give_settings_that_go_together() -> None:
    for line, said, again in (
        (
            "label study.duckdb --priority tumour",
            "--overlap priority",
            "label study.duckdb --priority tumour --overlap priority",
        ),
        (
            "label study.duckdb --reset --threshold 0.2",
            "--rule coverage",
            "label study.duckdb --reset --threshold 0.2 --rule coverage",
        ),
        (
            "label study.duckdb --reset --overlap priority",
            "--priority",
            "label study.duckdb --reset --overlap priority --priority tumour",
        ),
        ("label study.duckdb --artifact-label tumor", "'tumour'", "label study.duckdb --artifact-label tumour"),
    ):
        assert said in refused(line)
        assert run(again).exit_code == 0, again
    said = refused("export study.duckdb tiles.beton")
    assert said.startswith("error: grid '256px_256um' has no tile that is kept; ")
    typed(said, "slideduck label study.duckdb --method ignore")
    assert run("label study.duckdb --reset").exit_code == 0
    typed(
        refused("counts study.duckdb --where 'blur > 3'"), "slideduck qc study.duckdb --grid 256px_256um --measure blur"
    )
    assert run("counts study.duckdb --where 'blur > 3'").exit_code == 0


def leave_a_blank_slide_out() -> None:
    said = refused("export study.duckdb alike.beton --stain macenko")
    fit = "slideduck stain study.duckdb --method macenko"
    assert said == (
        f"error: 3 of 3 slides have no fit of their stains by macenko (blank, s0, s1); fit them with: {fit}"
    )
    assert run(*fit.split()[1:]).exit_code == 1
    said = refused("export study.duckdb alike.beton --stain macenko")
    option = "--where \"label IS NOT NULL AND slide <> 'blank'\""
    assert said == (
        f"error: 1 of 3 slides has no fit of its stains by macenko (blank); fit it with: {fit}; what cannot be fitted, "
        f"such as a blank slide, is left out with {option}"
    )
    # The same where it is fitted by itself, for a reason.
    alone = refused("stain study.duckdb --slide blank")
    assert alone == (
        "slide 'blank' has 0 pixels of tissue of a micron each, and a fit of its stains needs 10,000; leave it out of "
        f"the export with {option}"
    )
    result = run(f"export study.duckdb alike.beton --stain macenko {option}")
    assert (result.exit_code, result.stdout.split(" in ")[0]) == (0, "2 tiles")


def lay_a_grid_of_stored_tiles() -> None:
    said = refused("export study.duckdb stored.beton --jpeg passthrough")
    assert "lay a grid that matches with: slideduck tile STUDY --native, or use --jpeg auto" in said
    typed(said, "slideduck tile STUDY --native")
    assert run("label study.duckdb").exit_code == 0
    assert refused("export study.duckdb stored.beton --jpeg passthrough") == (
        "error: study.duckdb has 2 grids (256px_256um, 64px_32um); name one with --grid"
    )
    assert run("export study.duckdb stored.beton --jpeg passthrough --grid 64px_32um").exit_code == 0


def join_shards() -> None:
    assert (
        run("export study.duckdb part.beton --grid 64px_32um --where 'grid_x > 1' --shards 2 --shard 0").exit_code == 0
    )
    said = refused("merge part.beton part-00000-of-00002.beton")
    other = "slideduck export STUDY OUT.beton --grid 64px_32um --where 'grid_x > 1' --shards 2 --shard 1"
    assert said == f"error: 1 of 2 shards is missing: 1; give it too, or write it with: {other}"
    typed(said, other, **{"OUT.beton": "part.beton"})
    assert run("merge part.beton part-00000-of-00002.beton part-00001-of-00002.beton").exit_code == 0


def follow_a_moved_slide(folder: Path) -> None:
    """What is known of the slide stays."""
    (folder / "slides" / "s1.tif").rename(folder / "moved" / "s1.tif")
    export = "export study.duckdb moved.beton --grid 64px_32um"
    for line in (
        export,
        "plot labels study.duckdb s1 s1.png --grid 64px_32um",
        "qc study.duckdb --grid 64px_32um --slide s1",
    ):
        said = refused(line)
        assert said.endswith("; put the file back, or add it from where it is now"), said
    result = run("add-slides study.duckdb moved/s1.tif")
    assert "1 slide moved, with all that is known of them:\n  s1\n" in result.stderr
    assert run(export).exit_code == 0
    for path in (folder / "slides").iterdir():
        path.rename(folder / "moved" / path.name)
    assert run("relocate study.duckdb slides moved").exit_code == 0
    assert run(export).exit_code == 0


def add_a_slide_that_changed(folder: Path) -> None:
    write_slide(folder / "moved" / "s0.tif", 5, size=(512, 512), levels=1)
    for line in (
        "export study.duckdb moved.beton --grid 64px_32um",
        "plot labels study.duckdb s0 s0.png --grid 64px_32um",
    ):
        said = refused(line)
        assert f"slide 's0' has changed: {folder}/moved/s0.tif is not the file that was added; add it again" in said
    said = run("add-slides study.duckdb moved").stderr
    typed(said, "slideduck label study.duckdb")
    assert run("export study.duckdb moved.beton --grid 64px_32um").exit_code == 0


def make_a_split_again(folder: Path) -> None:
    assert run("add-patients study.duckdb patients.csv").exit_code == 0
    assert "did you mean 'part'?" in refused("split study.duckdb --column parts")
    assert run("split study.duckdb --column part").exit_code == 0
    (folder / "patients.csv").write_text("slide,patient,site,part\ns0,a,x,train\ns1,b,y,val\nblank,d,z,train\n")
    said = run("add-patients study.duckdb patients.csv").stderr
    typed(said, "slideduck split study.duckdb --column part")
    assert "give one of them" in refused("split study.duckdb --column part --folds 2")
    assert run("split study.duckdb --folds 2").exit_code == 0


def replace_what_is_there() -> None:
    for line in ("export-rois study.duckdb out --format csv", "export-tiles study.duckdb tiles --grid 64px_32um"):
        assert run(line).exit_code == 0
        result = run(line)
        assert "give another folder, or replace them with --overwrite:" in result.stderr
        assert run(f"{line} --overwrite").exit_code == 0


def ask_in_sql() -> None:
    for query, option in (
        ("UPDATE slides SET mpp = mpp", "--write"),
        ("SELECT * FROM 'rois.csv'", "--allow-files"),
        ("COPY slides TO 'slides.csv'", "--write --allow-files"),
    ):
        said = run("sql", "study.duckdb", query).stderr
        assert all(word in said for word in option.split()), said
        assert run("sql", "study.duckdb", query, *option.split()).exit_code == 0


def mend_a_beton(folder: Path) -> None:
    path = folder / "stored.beton"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    said = run("verify stored.beton")
    assert said.exit_code == 1
    assert run("export study.duckdb stored.beton --grid 64px_32um").exit_code == 0
    assert run("verify stored.beton --study study.duckdb --sample all").exit_code == 0
    (folder / "stored.json").unlink()
    said = run("verify stored.beton")
    assert "put it back, or make both again with: slideduck export" in said.output
    assert run("export study.duckdb stored.beton --grid 64px_32um").exit_code == 0
    assert run("verify stored.beton").exit_code == 0
