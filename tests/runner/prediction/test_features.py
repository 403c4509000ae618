"""Features are what the last linear layer is given, and go to files and tables slide by slide."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import slideduck as sd
from slideduck.errors import BetonError, ConfigError, RunError, SlideError
from slideduck.files.checked_parquet import read_parquet
from slideduck.runner.networks.build import build_model
from slideduck.runner.networks.forward import logits_of
from slideduck.runner.networks.penultimate import penultimate
from slideduck.runner.prediction.feature_files import FeatureFiles
from slideduck.runner.prediction.features import features
from slideduck.runner.prediction.study import predict
from slideduck.runner.runs.trained import load_run
from tests.campaign import cases
from tests.runner.studies import GRID, HALF, write_run, write_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study, betons of it, and a run of a network with 16 features."""
    folder = tmp_path_factory.mktemp("features")
    write_study(folder)
    write_run(folder, "run", "networks:tiny")
    write_run(folder, "other", "networks:tiny", seed=1)
    return folder


@pytest.fixture
def study(folder: Path, tmp_path: Path) -> Iterator[sd.Study]:
    """A copy of the study, open."""
    (tmp_path / "study.duckdb").write_bytes((folder / "study.duckdb").read_bytes())
    with sd.open(tmp_path / "study.duckdb") as opened:
        yield opened


def of_table(study: sd.Study, name: str = "features_16") -> dict[str, list[float]]:
    return dict(study.sql(f"SELECT tile_id, feature FROM {name} ORDER BY slide, grid_y, grid_x").fetchall())


@pytest.mark.parametrize(("model", "width"), [("resnet18", 512), ("networks:tiny_vit", 16), ("networks:tiny", 16)])
def test_features_are_what_the_last_linear_layer_is_given(model: str, width: int) -> None:
    network = build_model(model, 3, seed=0).eval()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    *_, last = (layer for layer in network.modules() if isinstance(layer, nn.Linear))
    given: list[torch.Tensor] = []
    handle = last.register_forward_hook(lambda _layer, inputs, _output: given.append(inputs[0]))
    with torch.no_grad():
        logits = logits_of(network(images))
        handle.remove()
        found = penultimate(network, images)
        assert torch.allclose(last(found), logits)
    assert found.shape == (4, width)
    assert torch.equal(found, given[0])
    # Nothing is left on the network.
    assert not any(layer._forward_hooks for layer in network.modules())


def test_a_network_that_does_not_end_in_a_linear_layer_has_no_features() -> None:
    with pytest.raises(RunError) as error:
        penultimate(build_model("networks:no_linear", 3, seed=0), torch.zeros(2, 3, 32, 32))
    assert str(error.value) == (
        "Sequential has no last linear layer (torch.nn.Linear) that takes one vector a tile, and so no features; "
        "build the network so that it ends in one"
    )


def test_the_table_holds_the_features_of_every_tile(folder: Path, study: sd.Study) -> None:
    report = features(folder / "run", study, batch_size=7)
    assert (report.run, report.grid, report.into, report.width) == ("run", GRID, "features_16", 16)
    assert (report.computed, report.skipped, report.tiles) == (("S0", "S1"), (), 120)
    (row,) = study.sql(
        "SELECT count(*), count(DISTINCT tile_id), min(loc_x), max(loc_y), max(grid_x) FROM features_16"
    ).fetchall()
    assert row == (120, 120, 32, 352, 9)
    described = {name: kind for name, kind, *_ in study.sql("DESCRIBE features_16").fetchall()}
    assert described["feature"] == "FLOAT[16]"
    # What the classifier makes of them is what is predicted.
    predict(folder / "run", study)
    head = load_run(folder / "run").network[-1]  # type: ignore[index]
    assert isinstance(head, nn.Linear)
    with torch.inference_mode():
        odds = head(torch.tensor(list(of_table(study).values()))).softmax(1).numpy()
    dark = study.sql("SELECT probabilities['dark'] FROM predictions ORDER BY slide, grid_y, grid_x").fetchnumpy()
    assert np.allclose(next(iter(dark.values())), odds[:, 0], atol=1e-5)


def test_the_tiles_most_like_a_tile_are_a_query(folder: Path, study: sd.Study) -> None:
    features(folder / "run", study)
    found = study.sql(
        "SELECT tile_id, array_cosine_similarity(feature, (SELECT feature FROM features_16 "
        "WHERE tile_id = 'S0-96-96')) AS similarity FROM features_16 ORDER BY similarity DESC, tile_id"
    ).fetchall()
    vectors = {name: np.array(values) for name, values in of_table(study).items()}
    one = vectors["S0-96-96"]
    expected = {name: one @ v / np.linalg.norm(one) / np.linalg.norm(v) for name, v in vectors.items()}
    assert found[0][0] == "S0-96-96"
    assert [name for name, _ in found[:5]] == sorted(expected, key=lambda name: -expected[name])[:5]
    assert np.allclose([value for _, value in found], [expected[name] for name, _ in found], atol=1e-5)


@pytest.mark.parametrize("source", ["slides", "beton"])
def test_hdf5_is_in_the_layout_of_trident(source: str, folder: Path, study: sd.Study, tmp_path: Path) -> None:
    out = tmp_path / "h5"
    given = study if source == "slides" else folder / "all.beton"
    report = features(folder / "run", given, out, format="h5")
    assert (report.into, report.width, report.tiles) == (str(out), 16, 120)
    assert sorted(path.name for path in out.iterdir()) == ["S0.h5", "S1.h5"]
    features(folder / "run", study)
    of_slide = study.sql(
        "SELECT feature, loc_x - 32 AS x, loc_y - 32 AS y FROM features_16 WHERE slide = 'S1' ORDER BY grid_y, grid_x"
    ).fetchall()
    with h5py.File(out / "S1.h5") as file:
        assert sorted(file) == ["coords", "features"]
        assert (file["features"].dtype, file["coords"].dtype) == (np.float32, np.int64)
        assert file["coords"][:].tolist() == [[x, y] for _, x, y in of_slide]
        assert np.allclose(file["features"][:], [values for values, _, _ in of_slide], atol=1e-5)
        assert dict(file["coords"].attrs) == {
            "patch_size": 32, "patch_size_level0": 64, "level0_magnification": 20, "target_magnification": 10,
            "overlap": 0, "level0_width": 640, "level0_height": 400, "name": "S1", "savetodir": str(out),
        }  # fmt: skip
        assert dict(file["features"].attrs) == {"name": "S1", "savetodir": str(out)}
    before = (out / "S1.h5").read_bytes()
    features(folder / "run", given, out, format="h5", overwrite=True)
    assert (out / "S1.h5").read_bytes() == before


def test_overlap_is_told_in_pixels_of_the_tile(folder: Path, study: sd.Study, tmp_path: Path) -> None:
    features(folder / "run", study, tmp_path / "h5", format="h5", grid=HALF, slides=["S0"])
    with h5py.File(tmp_path / "h5" / "S0.h5") as file:
        assert file["coords"].attrs["overlap"] == 16
        assert file["features"].shape == (19 * 11, 16)


def test_parquet_holds_what_the_table_holds(folder: Path, study: sd.Study, tmp_path: Path) -> None:
    features(folder / "run", study)
    features(folder / "run", study, tmp_path / "parquet")
    names = "slide, tile_id, loc_x, loc_y, grid_x, grid_y, feature::FLOAT[16]"
    of_files = study.sql(f"SELECT {names} FROM '{tmp_path}/parquet/*.parquet' ORDER BY ALL").fetchall()
    assert of_files == study.sql(f"SELECT {names} FROM features_16 ORDER BY ALL").fetchall()
    assert str(pq.read_schema(tmp_path / "parquet" / "S0.parquet").field("feature").type) == (
        "fixed_size_list<element: float>[16]"
    )


def test_features_of_a_beton_are_those_of_its_tiles(folder: Path, study: sd.Study, tmp_path: Path) -> None:
    features(folder / "run", study)
    report = features(folder / "run", folder / "tiles.beton", tmp_path / "out", slides=["S1"])
    assert (report.computed, report.tiles) == (("S1",), 50)
    of_slides = of_table(study)
    rows = pq.read_table(tmp_path / "out" / "S1.parquet").to_pylist()
    assert [row["tile_id"] for row in rows] == [name for name in of_slides if name in {r["tile_id"] for r in rows}]
    assert np.allclose([row["feature"] for row in rows], [of_slides[row["tile_id"]] for row in rows], atol=1e-5)


def test_slides_with_folders_in_their_names_have_files_in_folders_and_in_no_other(
    folder: Path, study: sd.Study, tmp_path: Path
) -> None:
    study.con.execute("UPDATE slides SET slide = 'case1/HE' WHERE slide = 'S0'")
    out = tmp_path / "out"
    features(folder / "run", study, out, slides=["case1/HE"])
    assert [path.relative_to(out).as_posix() for path in out.rglob("*.parquet")] == ["case1/HE.parquet"]
    with pytest.raises(RunError) as error:
        FeatureFiles(out, "parquet", load_run(folder / "run"), GRID).check(["S1", "../S1"])
    assert str(error.value) == (
        f"no file is written in {out} for names that are not those of files; name the other slides with `slides`:\n"
        "  '../S1': the name leads out of the folder"
    )


@pytest.mark.attack("paths", "features of a slide whose name leads out of their folder")
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../../x", "leads out of the folder"),
        ("a/../../x", "leads out of the folder"),
        ("/tmp/x", "leads out of the folder"),
        (".hidden", "has a part that begins with a dot, which is hidden"),
        ("a\nb", "holds the control character '\\n'"),
        ("\x1b[2J", "holds the control character '\\x1b'"),
        pytest.param(
            "link/x", "leads through a link out of the folder",
            marks=pytest.mark.attack("links", "features of a slide in a folder that is a planted link"),
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("format", ["parquet", "h5"])
def test_features_stay_in_their_folder(
    folder: Path, study: sd.Study, tmp_path: Path, name: str, problem: str, format: str
) -> None:
    out, elsewhere = tmp_path / "deep" / "er" / "out", tmp_path / "elsewhere"
    out.mkdir(parents=True)
    elsewhere.mkdir()
    (out / "link").symlink_to(elsewhere)
    study.con.execute("UPDATE slides SET slide = $1 WHERE slide = 'S0'", [name])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RunError) as error:
        features(folder / "run", study, out, format=format, overwrite=True)
    assert str(error.value) == (
        f"no file is written in {out} for names that are not those of files; name the other slides with `slides`:\n"
        f"  {name!r}: the name {problem}"
    )
    assert sorted(tmp_path.rglob("*")) == before
    # The remedy.
    assert features(folder / "run", study, out, format=format, slides=["S1"]).computed == ("S1",)


@pytest.mark.attack("bytes", "changed bytes of feature files")
@pytest.mark.parametrize("format", ["parquet", "h5"])
def test_readers_of_features_find_changed_numbers(folder: Path, study: sd.Study, tmp_path: Path, format: str) -> None:
    features(folder / "run", study, tmp_path, format=format, slides=["S1"])
    path = tmp_path / f"S1.{format}"

    def read() -> np.ndarray[Any, Any]:
        if format == "parquet":
            return np.stack(read_parquet(path)["feature"].to_numpy())
        with h5py.File(path) as file:
            return np.asarray(file["features"][:])

    raw, found, rng = path.read_bytes(), read(), random.Random(0)
    refused = 0
    for _ in range(cases(test=60, campaign=2000)):
        data = bytearray(raw)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            assert np.array_equal(read(), found)
        except (OSError, KeyError, ValueError, RuntimeError, pa.ArrowException):
            refused += 1
    # Of HDF5, much is room between the parts.
    assert refused > cases(test=8, campaign=250)


def test_slides_that_were_relocated_are_predicted_as_before(folder: Path, study: sd.Study, tmp_path: Path) -> None:
    before = features(folder / "run", study, slides=["S0"])
    was = of_table(study)
    shutil.copytree(folder / "slides", tmp_path / "moved")
    assert study.relocate(folder / "slides", tmp_path / "moved").slides == ("S0", "S1")
    assert study.sql("SELECT DISTINCT parse_dirpath(path) FROM slides").fetchall() == [(str(tmp_path / "moved"),)]
    again = features(folder / "run", study, slides=["S0"], overwrite=True)
    assert (again.computed, again.tiles) == (("S0",), before.tiles)
    assert of_table(study) == was


@pytest.mark.parametrize("format", [None, "parquet", "h5"])
def test_slides_that_are_there_are_passed_over(
    format: str | None, folder: Path, study: sd.Study, tmp_path: Path
) -> None:
    out = tmp_path / "out" if format else None
    assert features(folder / "run", study, out, format=format, slides=["S1"]).computed == ("S1",)
    report = features(folder / "run", study, out, format=format)
    assert (report.computed, report.skipped, report.tiles, report.width) == (("S0",), ("S1",), 60, 16)
    report = features(folder / "run", study, out, format=format)
    assert (report.computed, report.skipped, report.tiles, report.width) == ((), ("S0", "S1"), 0, 16)
    report = features(folder / "run", study, out, format=format, overwrite=True)
    assert (report.computed, report.skipped) == (("S0", "S1"), ())
    if out is None:
        assert study.sql("SELECT count(*) FROM features_16").fetchall() == [(120,)]
        # A slide of which a part is missing is computed anew.
        study.con.execute("DELETE FROM features_16 WHERE slide = 'S0' AND grid_x = 4")
        assert features(folder / "run", study).computed == ("S0",)


def test_features_of_another_checkpoint_are_not_mixed_in(folder: Path, study: sd.Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    features(folder / "run", study, out)
    with pytest.raises(RunError) as error:
        features(folder / "other", study, out)
    assert str(error.value) == (
        f"{out / 'S0.parquet'} is there, of run 'run' in place of 'other'; replace it with `overwrite=True`, "
        "or name another folder"
    )
    with pytest.raises(RunError) as error:
        features(folder / "run", study, out, grid=HALF)
    assert str(error.value) == (
        f"{out / 'S0.parquet'} is there, of grid '{GRID}' in place of '{HALF}'; replace it with `overwrite=True`, "
        "or name another folder"
    )
    assert features(folder / "other", study, out, overwrite=True).computed == ("S0", "S1")
    (out / "S1.parquet").write_bytes(b"something else")
    with pytest.raises(
        RunError, match=r"S1\.parquet is there, and is no file of features \(.*\); replace it with `over"
    ):
        features(folder / "other", study, out)

    features(folder / "run", study)
    study.con.execute("UPDATE runs SET checkpoint = 'older'")
    with pytest.raises(RunError) as error:
        features(folder / "run", study)
    assert str(error.value) == (
        "study.duckdb holds features of another checkpoint of run 'run'; replace all of them with `overwrite=True`"
    )
    features(folder / "run", study, slides=["S0"], overwrite=True)
    assert study.sql("SELECT DISTINCT slide FROM features_16").fetchall() == [("S0",)]
    # Another run beside it, in the same table.
    features(folder / "other", study, slides=["S0"])
    assert study.sql("SELECT run, count(*) FROM features_16 GROUP BY run ORDER BY run").fetchall() == [
        ("other", 60), ("run", 60),
    ]  # fmt: skip


def test_slides_that_are_removed_take_their_features_along(folder: Path, study: sd.Study) -> None:
    features(folder / "run", study)
    study.remove_slides(["S0"])
    assert study.sql("SELECT DISTINCT slide FROM features_16").fetchall() == [("S1",)]


def test_a_slide_that_cannot_be_read_is_told_at_the_end(folder: Path, study: sd.Study, tmp_path: Path) -> None:
    study.con.execute("UPDATE slides SET path = $1 WHERE slide = 'S0'", [str(tmp_path / "gone.tif")])
    with pytest.raises(SlideError, match=r"^1 of 2 slides has no features:\n  slide 'gone': there is no file "):
        features(folder / "run", study)
    assert study.sql("SELECT DISTINCT slide FROM features_16").fetchall() == [("S1",)]


def test_what_cannot_be_is_refused(folder: Path, study: sd.Study, tmp_path: Path) -> None:
    beton = folder / "tiles.beton"
    for values, message in (
        (
            {"source": beton},
            f"no folder is given for the features of {beton}; name one, or give the study in place of the beton: "
            "its tables take them",
        ),
        ({"source": study, "format": "h5"}, "format is 'h5' without a folder for the files; name one, or leave the "
                                            "format out"),
        ({"source": study, "out": tmp_path, "format": "csv"}, "format is 'csv'; it must be one of parquet, h5"),
        (
            {"source": study, "out": tmp_path / "a.h5"},
            f"{tmp_path / 'a.h5'} is named as a file; name a folder, in which each slide gets a file of its own",
        ),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as error:
            features(folder / "run", **values)
        assert str(error.value) == message
    with pytest.raises(BetonError) as damaged:
        features(folder / "run", beton, tmp_path / "out", grid=HALF)
    assert str(damaged.value) == (f"{beton} has tiles of grid '{GRID}' alone; leave `grid` out, or give the study")
    with pytest.raises(BetonError) as damaged:
        features(folder / "run", beton, tmp_path / "out", slides=["T9"])
    assert str(damaged.value) == f"{beton} has no slide 'T9'; its side-car lists those that it has"
