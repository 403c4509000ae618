"""Several passes over a tile: positions and dropout, whatever the batch, and how the study keeps them apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import slideduck as sd
from slideduck.errors import ConfigError, RunError
from slideduck.runner.maps.heatmap import heatmap
from slideduck.runner.networks.forward import logits_of
from slideduck.runner.prediction.beton import predict_beton
from slideduck.runner.prediction.evaluate import evaluate
from slideduck.runner.prediction.mcdropout import dropping, tile_keys, uniform
from slideduck.runner.prediction.mcdropout import drops as does_drop
from slideduck.runner.prediction.passes import Passes, estimate
from slideduck.runner.prediction.study import predict
from slideduck.runner.runs.trained import TrainedModel, load_run
from slideduck.runner.tiles.augment import turn
from tests.runner.studies import GRID, write_run, write_study

MC = Passes(mc_dropout=10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study, betons of it, and runs with and without dropout."""
    folder = tmp_path_factory.mktemp("passes")
    write_study(folder)
    write_run(folder, "plain", "networks:tiny")
    write_run(folder, "drops", "networks:dropping")
    return folder


@pytest.fixture
def study(folder: Path, tmp_path: Path) -> Iterator[sd.Study]:
    """A copy of the study, open."""
    (tmp_path / "study.duckdb").write_bytes((folder / "study.duckdb").read_bytes())
    with sd.open(tmp_path / "study.duckdb") as opened:
        yield opened


@pytest.fixture(scope="module")
def drops(folder: Path) -> TrainedModel:
    return load_run(folder / "drops")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (6, 3, 32, 32), generator=generator, dtype=torch.uint8)


NAMES = [f"S-{i}" for i in range(6)]


def placed(images: torch.Tensor, position: int) -> torch.Tensor:
    return turn(images, torch.full((len(images),), position, dtype=torch.uint8))


def close(found: NDArray[np.float32] | float | None, expected: NDArray[np.float64] | float) -> bool:
    assert found is not None
    return np.allclose(found, expected, atol=1e-5)


def plain(trained: TrainedModel, images: torch.Tensor) -> NDArray[np.float64]:
    return estimate(trained, images, NAMES[: len(images)], Passes()).given


def test_the_eight_positions_of_a_tile_are_predicted_alike(drops: TrainedModel, images: torch.Tensor) -> None:
    expected = np.mean([plain(drops, placed(images, position)) for position in range(8)], axis=0)
    found = estimate(drops, images, NAMES, Passes(tta="d4"))
    assert np.allclose(found.given, expected, atol=1e-6)
    assert found.entropy is None
    assert (found.given.argmax(axis=1) == expected.argmax(axis=1)).all()
    for position in range(1, 8):
        other = estimate(drops, placed(images, position), NAMES, Passes(tta="d4"))
        assert np.allclose(other.given, expected, atol=1e-6)
        # Which is not so without.
        assert np.abs(plain(drops, placed(images, position)) - plain(drops, images)).max() > 1e-4


def test_random_numbers_depend_on_key_counter_and_place(drops: TrainedModel) -> None:
    keys = tile_keys(["a", "b"], 0, torch.device("cpu"))
    drawn = uniform(keys, 0, 100_000)
    assert torch.equal(uniform(keys[1:], 0, 50_000)[0], drawn[1, :50_000])
    assert drawn.min() >= 0
    assert drawn.max() < 1
    for row in (drawn[0], drawn[1], uniform(keys, 1, 100_000)[0]):
        counts = torch.histc(row, 10, 0, 1)
        assert (counts - 10_000).abs().max() < 500  # five deviations
    others = torch.stack([drawn[0], drawn[1], uniform(keys, 1, 100_000)[0], drawn[0].roll(1)])
    assert (torch.corrcoef(others) - torch.eye(4)).abs().max() < 0.02
    assert not torch.equal(keys, tile_keys(["a", "b"], 1, torch.device("cpu")))


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    layers = nn.Sequential(nn.Dropout(0.25), nn.Dropout2d(0.5)).eval()
    ones = torch.ones(4, 500, 4, 4)
    with dropping(layers, tile_keys(NAMES[:4], 0, ones.device), 0):
        made = layers(ones)
    assert sorted(made.unique().tolist()) == pytest.approx([0, 1 / 0.75 / 0.5])
    assert made.mean() == pytest.approx(1, abs=0.05)
    # Channels go whole; of those that stay a quarter of the places is gone.
    channels = made.amax(dim=(2, 3)) > 0
    assert channels.float().mean() == pytest.approx(0.5, abs=0.05)
    assert (made[channels] == 0).float().mean() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(layers(ones), ones)


class Encoder(nn.Module):
    """A transformer of torch's own layers, of patches of 8 px."""

    def __init__(self, layer: nn.Module, *, tiles_first: bool = True) -> None:
        super().__init__()
        self.patches, self.layer, self.head = nn.Conv2d(3, 16, 8, 8), layer, nn.Linear(16, 2)
        self.tiles_first = tiles_first

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = tokens if self.tiles_first else tokens.transpose(0, 1)
        is_attention = isinstance(self.layer, nn.MultiheadAttention)
        made = self.layer(tokens, tokens, tokens)[0] if is_attention else self.layer(tokens)
        logits: torch.Tensor = self.head(made.mean(dim=1 if self.tiles_first else 0))
        return logits


def vit(attention: str) -> nn.Module:
    """Return a small vision transformer that drops in its attention alone."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.3, attn_implementation=attention,
    )  # fmt: skip
    model: nn.Module = ViTForImageClassification(config)
    return model


ATTENTION: dict[str, Callable[[], nn.Module]] = {
    "transformers, fused": lambda: vit("sdpa"),
    "transformers, eager": lambda: vit("eager"),
    "torch": lambda: Encoder(nn.MultiheadAttention(16, 2, dropout=0.3, batch_first=True)),
    "torch, tokens first": lambda: Encoder(nn.MultiheadAttention(16, 2, dropout=0.3), tiles_first=False),
    "torch, encoder": lambda: Encoder(
        nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, dropout=0.3, batch_first=True), 2)
    ),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_drops_weights_by_tile_and_pass(name: str) -> None:
    torch.manual_seed(0)
    network = ATTENTION[name]().eval()
    images, keys = torch.randn(5, 3, 32, 32), tile_keys(NAMES[:5], 0, torch.device("cpu"))

    def call(some: torch.Tensor, number: int | None, keys: torch.Tensor = keys) -> torch.Tensor:
        with torch.inference_mode(), nullcontext() if number is None else dropping(network, keys, number):
            return logits_of(network(some))

    plain, first = call(images, None), call(images, 0)
    assert does_drop(network, images[:1])
    assert (first - plain).abs().max() > 1e-3
    assert torch.equal(call(images, 0), first)
    assert (call(images, 1) - first).abs().max() > 1e-3
    one_by_one = torch.cat([call(images[i : i + 1], 0, keys[i : i + 1]) for i in range(5)])
    assert (one_by_one - first).abs().max() < 1e-5
    # Nothing stays on, and the calls of others are as before.
    assert not any(module.training for module in network.modules())
    assert torch.equal(call(images, None), plain)
    # Over many passes the mean of linear attention is that without.
    if name == "torch":
        mean = torch.stack([call(images, number) for number in range(400)]).mean(dim=0)
        assert (mean - plain).abs().max() < 0.02


def test_fused_and_eager_attention_drop_the_same() -> None:
    fused, eager = vit("sdpa").eval(), vit("eager").eval()
    eager.load_state_dict(fused.state_dict())
    images, keys = torch.randn(3, 3, 32, 32), tile_keys(NAMES[:3], 7, torch.device("cpu"))
    made = []
    for network in (fused, eager):
        with torch.inference_mode(), dropping(network, keys, 2) as masks:
            made.append(logits_of(network(images)))
        # Two blocks of two heads.
        assert masks.drawn == 4
    assert torch.allclose(made[0], made[1], atol=1e-6)


@pytest.mark.parametrize("how", ["plain", "causal", "hidden", "added", "scaled", "grouped"])
def test_attention_that_hardly_drops_is_torchs_own(how: str) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(3, 4, 5, 8, generator=generator) for _ in range(3))
    hidden = torch.rand(5, 5, generator=generator) > 0.3
    hidden[:, 0] = True
    every: dict[str, dict[str, Any]] = {
        "causal": {"is_causal": True}, "hidden": {"attn_mask": hidden}, "scaled": {"scale": 0.3},
        "added": {"attn_mask": torch.randn(3, 1, 5, 5, generator=generator)}, "grouped": {"enable_gqa": True},
    }  # fmt: skip
    options = every.get(how, {})
    if how == "grouped":
        key, value = key[:, :2], value[:, :2]
    attend = nn.functional.scaled_dot_product_attention
    expected = attend(query, key, value, **options)
    with dropping(nn.Identity(), tile_keys(NAMES[:3], 0, torch.device("cpu")), 0) as masks:
        made = attend(query, key, value, dropout_p=1e-9, **options)
    assert masks.drawn == 4
    assert torch.allclose(made, expected, atol=1e-5)


def test_windows_of_a_tile_are_dropped_by_their_tile() -> None:
    layer = nn.Dropout(0.5).eval()
    keys = tile_keys(NAMES[:2], 0, torch.device("cpu"))
    with dropping(layer, keys, 3):
        windows = layer(torch.ones(8, 5))
    with dropping(layer, keys[1:], 3):
        assert torch.equal(layer(torch.ones(4, 5)), windows[4:])
    with dropping(layer, keys, 3), pytest.raises(RunError) as error:
        layer(torch.ones(3, 5))
    assert str(error.value) == (
        "a dropout layer of Dropout sees 3 rows of 2 tiles; MC dropout cannot tell which tile they are of"
    )


def test_mc_dropout_of_a_tile_does_not_depend_on_its_batch(drops: TrainedModel, images: torch.Tensor) -> None:
    state = torch.get_rng_state()
    whole = estimate(drops, images, NAMES, MC)
    assert whole.entropy is not None
    assert whole.mutual_information is not None
    for i in (0, 4):
        one = estimate(drops, images[i : i + 1], NAMES[i : i + 1], MC)
        assert np.allclose(one.given[0], whole.given[i], atol=1e-5)
        assert close(one.entropy, whole.entropy[i])
        assert close(one.mutual_information, whole.mutual_information[i])
    assert torch.equal(torch.get_rng_state(), state)
    again = estimate(drops, images, NAMES, MC)
    assert np.array_equal(again.given, whole.given)
    other = estimate(drops, images, NAMES, Passes(mc_dropout=10, mc_seed=1))
    assert np.abs(other.given - whole.given).max() > 1e-4
    assert drops.network.training is False


def test_uncertainty_is_that_of_the_passes(drops: TrainedModel, images: torch.Tensor) -> None:
    keys = tile_keys(NAMES, 0, images.device)
    each = []
    for number in range(10):
        with dropping(drops.network, keys, number), torch.no_grad():
            each.append(drops.network(drops.standard(images)).softmax(1).double().numpy())
    mean = np.mean(each, axis=0)
    entropy = -(mean * np.log(mean)).sum(axis=1)
    within = np.mean([-(p * np.log(p)).sum(axis=1) for p in each], axis=0)
    found = estimate(drops, images, NAMES, MC)
    assert np.allclose(found.given, mean, atol=1e-6)
    assert close(found.entropy, entropy)
    assert close(found.mutual_information, entropy - within)


def test_the_table_says_how_uncertain_a_tile_is(folder: Path, study: sd.Study) -> None:
    predict(folder / "drops", study)
    assert study.sql("SELECT count(entropy), count(mutual_information) FROM predictions").fetchall() == [(0, 0)]
    assert study.sql("SELECT tta, mc_dropout, mc_seed FROM runs").fetchall() == [("none", 0, 0)]
    with pytest.raises(RunError) as error:
        predict(folder / "drops", study, mc_dropout=4, tta="d4")
    assert str(error.value) == (
        "study.duckdb holds predictions of run 'drops' with tta none, mc_dropout 0, not tta d4, mc_dropout 4 (seed 0); "
        "replace all of them with `overwrite=True`"
    )
    answers = []
    for batch_size in (7, 64):
        predict(folder / "drops", study, mc_dropout=4, tta="d4", overwrite=True, batch_size=batch_size)
        rows = study.sql("SELECT probability, entropy, mutual_information FROM predictions ORDER BY tile_id").fetchall()
        answers.append(np.array(rows))
    assert answers[0].shape == (120, 3)
    assert np.allclose(answers[0], answers[1], atol=1e-5)
    assert ((answers[0][:, 2] >= 0) & (answers[0][:, 2] <= answers[0][:, 1])).all()
    assert answers[0][:, 2].max() > 0
    assert study.sql("SELECT tta, mc_dropout, mc_seed FROM runs").fetchall() == [("d4", 4, 0)]
    # The same again goes on, and a picture shows what is there.
    assert predict(folder / "drops", study, mc_dropout=4, tta="d4").skipped == ("S0", "S1")
    assert heatmap(folder / "drops", study, "S0", study.path.with_name("S0.png")).exists()


def test_what_cannot_be_is_refused(folder: Path, study: sd.Study) -> None:
    with pytest.raises(RunError) as error:
        predict(folder / "plain", study, mc_dropout=10)
    assert str(error.value) == (
        f"{folder / 'plain'}: model 'networks:tiny' has no dropout with a rate above 0, in a layer or in its "
        "attention, and so no MC dropout; train a network with dropout, or leave `mc_dropout` out"
    )
    for values, message in (
        ({"tta": "d8"}, "tta is 'd8'; it must be one of none, d4"),
        ({"mc_dropout": 1}, "mc_dropout is 1; it must be from 2 to 1000 passes, or 0 for none"),
        ({"mc_seed": -1}, "mc_seed is -1; it must be from 0 to 2147483647"),
    ):
        with pytest.raises(ConfigError) as refused:
            predict(folder / "drops", study, **values)
        assert str(refused.value) == message
    with pytest.raises(ConfigError) as refused:
        predict_beton(folder / "plain", folder / "all.beton", out=folder / "out.csv")
    assert str(refused.value) == f"{folder / 'out.csv'} is not named as Parquet; name it out.parquet"


def test_a_beton_is_predicted_whole(folder: Path, study: sd.Study, tmp_path: Path) -> None:
    report = predict_beton(folder / "plain", folder / "all.beton", out=tmp_path / "new" / "all.parquet")
    assert (report.run, report.grid, report.tiles) == ("plain", GRID, 120)
    found = pq.read_table(report.path).to_pandas().set_index("tile_id")
    assert found["label"].isna().sum() == 20
    assert "entropy" not in found
    of_labelled = pq.read_table(evaluate(folder / "plain", folder / "tiles.beton")["predictions"]).to_pandas()
    same = found.loc[of_labelled["tile_id"]]
    assert len(same) == 100
    assert (same["label"].to_numpy() == of_labelled["label"].to_numpy()).all()
    assert np.allclose(same["prob_dark"], of_labelled["prob_dark"], atol=1e-5)
    # And what is predicted from slides, with all that is asked for.
    report = predict_beton(folder / "drops", folder / "all.beton", tta="d4", mc_dropout=3, batch_size=50)
    assert report.path == str(folder / "drops" / "predictions" / "all-best.parquet")
    found = pq.read_table(report.path).to_pandas().set_index("tile_id")
    predict(folder / "drops", study, tta="d4", mc_dropout=3)
    of_slides = study.sql("SELECT * FROM predictions").df().set_index("tile_id").loc[found.index]
    assert (of_slides["predicted"] == found["predicted"]).all()
    for name in ("entropy", "mutual_information"):
        assert np.allclose(of_slides[name], found[name], atol=1e-5)
