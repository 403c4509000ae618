"""Grad-CAM is the paper's formula on the last layer with places, of convolutional networks and of transformers."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from slideduck.errors import ConfigError, RunError, StudyError
from slideduck.runner.maps.gradcam import class_maps, gradcam
from slideduck.runner.networks.build import build_model
from slideduck.runner.networks.forward import Standard
from slideduck.runner.runs.trained import TrainedModel, load_run
from tests.runner.studies import GRID, write_run, write_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gradcam")
    write_study(folder)
    write_run(folder, "run", "networks:tiny")
    return folder


def untrained(folder: Path, network: nn.Module) -> TrainedModel:
    """Return another network in the place of the run's."""
    one = load_run(folder / "run")
    cpu = torch.device("cpu")
    values = {**vars(one), "network": network.eval(), "standard": Standard([128.0] * 3, [50.0] * 3, cpu)}
    return TrainedModel(**values)


TILES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


def test_where_maps_are_averaged_it_is_the_weighted_sum_of_maps(folder: Path) -> None:
    # With y = W mean(A) + b, dy/dA is W / (height x width) everywhere: the map is relu(W A) but for that factor.
    trained = load_run(folder / "run")
    network = trained.network
    assert isinstance(network, nn.Sequential)
    head = network[-1]
    with torch.no_grad():
        features = network[:4](trained.standard(trained.images(TILES)))
        expected = torch.relu(torch.einsum("ck,nkhw->nchw", head.weight, features)) / features[0, 0].numel()
        large = nn.functional.interpolate(expected, (32, 32), mode="bilinear", align_corners=False)
        probabilities = network(trained.standard(trained.images(TILES))).softmax(1)
    maps, found = class_maps(trained, TILES)
    assert maps.shape == (3, 2, 32, 32)
    assert np.allclose(maps, large.numpy(), atol=1e-7)
    assert maps.max() > 0
    assert np.allclose(found, probabilities.numpy(), atol=1e-6)
    assert not any(layer._forward_hooks for layer in network.modules())


def test_a_transformer_is_seen_where_its_patches_bear_on_the_class(folder: Path) -> None:
    network = build_model("networks:tiny_vit", 2, seed=0)
    # As in linear probing, nothing of the network itself learns.
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    norms: list[torch.Tensor] = []
    layers = [layer for layer in network.modules() if isinstance(layer, nn.LayerNorm)]
    handles = [layer.register_forward_hook(lambda _layer, _given, made: norms.append(made)) for layer in layers]
    trained = untrained(folder, network)
    logits = network(trained.standard(trained.images(TILES)).requires_grad_()).logits
    for handle in handles:
        handle.remove()
    # The head sees the token of the class alone. Of the last three norms, one is before the head and one before the
    # last block's own layers: in these the patches bear on nothing; in the one before its attention they do.
    expected = []
    for norm in norms[-3:]:
        (slope,) = torch.autograd.grad(logits[:, 1].sum(), norm, retain_graph=True)
        values, slopes = (tokens[:, 1:].transpose(1, 2).reshape(3, 16, 4, 4) for tokens in (norm.detach(), slope))
        expected.append(torch.relu((slopes.mean(dim=(2, 3), keepdim=True) * values).sum(dim=1)))
    assert not expected[1].any()
    assert not expected[2].any()
    large = nn.functional.interpolate(expected[0][:, None], (32, 32), mode="bilinear", align_corners=False)
    maps, _ = class_maps(trained, TILES)
    assert maps.shape == (3, 2, 32, 32)
    assert np.allclose(maps[:, 1], large[:, 0].numpy(), atol=1e-7)
    assert maps[:, 1].max() > 0


def test_a_network_without_places_is_refused(folder: Path) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    with pytest.raises(RunError) as error:
        class_maps(untrained(folder, flat), TILES)
    assert str(error.value) == (
        f"{folder / 'run'}: model 'networks:tiny' has no layer of maps or tokens that bears on its logits, and so no "
        "Grad-CAM"
    )


def test_the_picture_shows_tiles_of_a_study_or_a_beton(folder: Path, tmp_path: Path) -> None:
    study, names = folder / "study.duckdb", ["S1-96-96", "S0-352-160"]
    out = gradcam(folder / "run", study, names, tmp_path / "a.png")
    picture = cv2.imread(str(out))
    assert picture is not None
    assert min(picture.shape[:2]) > 300
    assert gradcam(folder / "run", study, names, tmp_path / "b.png").read_bytes() == out.read_bytes()
    # The order is that of the names, and a beton gives the same tiles.
    assert gradcam(folder / "run", study, names[::-1], tmp_path / "c.png").read_bytes() != out.read_bytes()
    of_beton = cv2.imread(str(gradcam(folder / "run", folder / "tiles.beton", names, tmp_path / "d.png")))
    assert of_beton is not None
    assert np.abs(of_beton.astype(int) - picture).mean() < 1
    with pytest.raises(StudyError) as error:
        gradcam(folder / "run", study, ["S1-96-96", "S1-97-97", "T9-1-1"], tmp_path / "e.png")
    assert str(error.value) == (
        f"{study} has no tile 'S1-97-97', 'T9-1-1' in grid '{GRID}'; tiles are named SLIDE-X-Y by their centre, as in "
        "the column tile_id"
    )
    with pytest.raises(ConfigError) as refused:
        gradcam(folder / "run", study, [f"S0-{i}-0" for i in range(25)], tmp_path / "e.png")
    assert str(refused.value) == "25 tiles are named; name from 1 to 24"
