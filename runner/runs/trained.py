"""A trained network, as a run's checkpoint holds it, ready to predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from slideduck.betons import Sidecar
from slideduck.errors import ConfigError, RunError
from slideduck.runner.networks.build import build_network
from slideduck.runner.networks.forward import Forward, Standard, evaluating, precision_context
from slideduck.runner.networks.given import Network, require_given
from slideduck.runner.networks.penultimate import penultimate
from slideduck.runner.runs import checkpoint as checkpoints
from slideduck.runner.settings.modelnames import titled
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.settings.trust import require_trust
from slideduck.runner.tasks.kinds import make_task
from slideduck.runner.tasks.task import Task
from slideduck.words import message

__all__ = ["TrainedModel", "load_run", "warn_of_other_tiles"]


@dataclass(frozen=True)
class TrainedModel:
    """A network with its weights, and what it was trained on.

    Attributes
    ----------
    run : Path
        The run's folder; its name is the run's.
    path : Path
        The checkpoint.
    sha256 : str
        Digest of the checkpoint.
    epoch : int
        Epoch of the weights, from 1.
    classes : tuple of str
        In order of their numbers.
    config : TrainConfig
        Settings of the training.
    beton : mapping
        Facts of the beton: ``image`` (mode, quality, tile_px) and ``grid``, among others.
    network, standard, device
        What computes, and where.
    task : Task
        What it has learnt.
    """

    run: Path
    path: Path
    sha256: str
    epoch: int
    classes: tuple[str, ...]
    config: TrainConfig
    beton: Mapping[str, Any]
    network: nn.Module
    standard: Standard
    device: torch.device
    task: Task[Any]

    @property
    def precision(self) -> str:
        """Precision to predict in: a network that trained in bf16 also runs on devices without it."""
        return "fp32" if self.config.precision == "fp32" else "auto"

    @property
    def forward(self) -> Forward:
        """The network from tiles to outputs; call it inside `evaluating`."""
        return Forward(self.network, self.standard, self.precision, self.device)

    def images(self, tiles: NDArray[np.uint8]) -> torch.Tensor:
        """Return RGB tiles, uint8 (n, tile_px, tile_px, 3), on the device, (n, 3, tile_px, tile_px)."""
        return torch.from_numpy(tiles).to(self.device).permute(0, 3, 1, 2)

    def log_probabilities(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return log probabilities, (n, classes), of RGB tiles, (n, tile_px, tile_px, 3)."""
        with evaluating(self.network):
            result = self.task.activate(self.forward(self.images(tiles)))
        return result.cpu().numpy()

    def features(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the input of the last linear layer, (n, features), for RGB tiles, (n, tile_px, tile_px, 3)."""
        with evaluating(self.network), precision_context(self.precision, self.device):
            result = penultimate(self.network, self.standard(self.images(tiles)))
        return result.cpu().numpy()


def load_run(
    run: Path | str, checkpoint: str = "best", *, trust: str | Sequence[str] = (), network: Network | None = None
) -> TrainedModel:
    """Load a run's network onto the first GPU, or the CPU without one.

    Parameters
    ----------
    run : path
        The run's folder.
    checkpoint : str
        ``"best"`` or ``"last"``.
    trust : str or sequence of str
        The run's model, where it is code: a run may come from anyone, and its ``module:function`` is imported only if
        it is named here, or was given to `train` in this process.
    network : callable or nn.Module, optional
        What builds the run's network: needed where it was given to `train` as an object that has no name to import,
        and taken in place of its ``module:function``. A module is copied, and gets the run's weights.

    Raises
    ------
    ConfigError
        If the checkpoint is neither.
    RunError
        If there is no such run, its checkpoint cannot be read or does not fit its model, or its model is code that was
        not named.
    """
    if checkpoint not in checkpoints.CHECKPOINTS:
        raise ConfigError(f"checkpoint is {checkpoint!r}; it must be one of {', '.join(checkpoints.CHECKPOINTS)}")
    folder = Path(run).absolute()
    path = folder / f"{checkpoint}.pt"
    state = checkpoints.load(path)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    config = TrainConfig.from_dict(state["config"])
    if network is None:
        require_trust(config.model, path, trust)
    architecture = state.get("architecture")
    require_given(config.model, network, f"{path}: its ")
    n_outputs = len(state["classes"])
    model = build_network(config, n_outputs, architecture=architecture, fresh=False, network=network).network
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise RunError(
            f"{path}: its weights do not fit {titled(config.model)}; has its function changed? {error}"
        ) from error
    model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.eval()
    return TrainedModel(
        run=folder,
        path=path,
        sha256=checkpoints.file_sha256(path),
        epoch=state["epoch"],
        classes=tuple(state["classes"]),
        config=config,
        beton=state["beton"],
        network=model,
        standard=Standard(state["image"]["mean"], state["image"]["std"], device),
        device=device,
        task=make_task(config, state["classes"], device, state=state.get("objective")),
    )


def warn_of_other_tiles(trained: TrainedModel, sidecar: Sidecar, beton: Path) -> None:
    """Warn if the beton's tiles differ from those of the training."""
    there, here = trained.beton["grid"], sidecar.raw["grid"]
    if any(there[name] != here[name] for name in ("tile_px", "tile_um", "magnification")):
        message(f"warning: {beton.name} has tiles of {here['name']}; the network learnt on {there['name']}")
    there, here = trained.beton["image"], sidecar.raw["beton"]["image"]
    # Two slides of one name may be targets: what counts are the numbers.
    if _image(there) != _image(here) or there.get("stain") != here.get("stain"):
        message(f"warning: {beton.name} has images of {_image(here)}; the network learnt on {_image(there)}")


def _image(image: dict[str, Any]) -> str:
    """Return how images are stored, in words."""
    stain = image.get("stain")
    stained = "" if stain is None else f", stains by {stain['method']} to {stain['target']['name']}"
    if image["mode"] != "jpg":
        return f"raw pixels{stained}"
    # Older betons do not say so: every tile of theirs was encoded.
    takes_stored = image.get("jpeg", "reencode") != "reencode"
    return f"JPEG quality {image['quality']}" + (", stored tiles untouched" if takes_stored else "") + stained
