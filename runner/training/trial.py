"""A network is tried before it trains: two tiles forward and backward, on the device, before any file is made.

What a network of one's own gets wrong is said here in a sentence, and not after an epoch, or by another process. A copy
of the network is tried: its weights, its running statistics and all random numbers are as they were.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from slideduck.errors import ConfigError, SlideduckError
from slideduck.runner.networks.build import Built, build_network
from slideduck.runner.networks.forward import evaluating, precision_context
from slideduck.runner.networks.given import Network
from slideduck.runner.ranks.dist import Place, broadcast, is_out_of_memory
from slideduck.runner.runs.runfolder import RunFolder
from slideduck.runner.settings.modelnames import is_given, is_own_model, titled
from slideduck.runner.settings.train_config import TrainConfig
from slideduck.runner.tasks.kinds import make_task
from slideduck.runner.tiles.open import TrainingData
from slideduck.runner.training.space import require_space
from slideduck.words import counted, some

__all__ = ["first_network", "try_network"]

#: Batch norm needs two.
_TILES = 2
#: Sides that a network that cannot take its tiles is asked about.
_OTHER_SIDES = (224, 256, 299)


def first_network(
    data: TrainingData, folder: RunFolder, config: TrainConfig, place: Place, network: Network | None
) -> Built | None:
    """Build the network of a new run, and try it before the run's folder is made; None for a run that goes on.

    Raises
    ------
    ConfigError
        If it cannot be built, or trained; see `try_network`.
    DiskFullError
        If the disk has no room for its checkpoints.
    """
    if broadcast(folder.has_checkpoints if place.is_first else None, place):
        return None
    built = build_network(config, len(data.classes), network=network)
    try_network(built.network, data, config, place)
    if place.is_first:
        require_space(folder, built.network, config)
    broadcast(None, place)  # The others wait for the first.
    return built


def try_network(network: nn.Module, data: TrainingData, config: TrainConfig, place: Place) -> None:
    """Refuse a network that cannot be trained on some tiles, with what to change.

    Parameters
    ----------
    network : nn.Module
        As it was built, on the CPU; it stays as it is.
    data : TrainingData
        The tiles; random ones of their size are tried.
    config : TrainConfig
        The settings.
    place : Place
        This rank: the first tries, and the others wait for it with the next collective. A network that is sharded may
        fit no device, and is not tried.

    Raises
    ------
    ConfigError
        If it has nothing that trains, does not take the tiles, does not return finite floats of the right shape, or has
        weights without a gradient that the settings do not allow.
    """
    if not place.is_first or (config.shard == "fsdp" and place.world_size > 1):
        return
    trial = _Trial(network, data, config, place)
    trial.check_weights()
    with _random_numbers_kept(place.device):
        trial.on_device()
        trial.forward_and_backward()
        trial.evaluate()


@contextmanager
def _random_numbers_kept(device: torch.device) -> Iterator[None]:
    """Leave the state of all random numbers as it was."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


class _Trial:
    """A copy of a network, and what it is tried on."""

    def __init__(self, network: nn.Module, data: TrainingData, config: TrainConfig, place: Place) -> None:
        self.network, self.data, self.config, self.place = network, data, config, place
        self.name = titled(config.model)
        self.is_own = is_own_model(config.model) or is_given(config.model)
        self.tile_px = int(data.sidecar.raw["beton"]["image"]["tile_px"])
        self.task = make_task(
            config, data.classes, place.device, targets=data.targets[data.rows.train], shares=data.sampler.shares
        )

    def check_weights(self) -> None:
        """Refuse a network without weights that train, or whose weights are not there yet."""
        weights = dict(self.network.named_parameters())
        lazy = [name for name, weight in weights.items() if isinstance(weight, UninitializedParameter)]
        if lazy:
            raise ConfigError(
                f"{self.name} has layers whose weights are made by their first call ({some(lazy, 3)}); call it once "
                f"in your function, on torch.zeros(1, 3, {self.tile_px}, {self.tile_px})"
            )
        if not any(weight.requires_grad for weight in weights.values()):
            what = "all of its weights are frozen" if weights else "it has no parameters"
            raise ConfigError(f"{self.name} cannot train: {what}; let at least one layer require gradients")
        self._refuse_elsewhere(torch.device("cpu"))

    def on_device(self) -> None:
        """Take a copy of the network to the device."""
        try:
            tried = copy.deepcopy(self.network)
        except Exception as error:  # whatever the parts of a network raise
            raise ConfigError(
                f"{self.name} cannot be copied ({type(error).__name__}: {_first_line(error)}), and a run takes copies "
                "of its network; keep no results of computations as its attributes"
            ) from error
        self.network = tried.to(device=self.place.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._refuse_elsewhere(self.place.device)

    def forward_and_backward(self) -> None:
        """Try a step of training."""
        self.network.train()
        rows = np.resize(self.data.rows.train, _TILES)
        targets = torch.as_tensor(self.data.targets[rows], device=self.place.device)
        with precision_context(self.config.precision, self.place.device):
            logits = self._logits(_TILES)
            loss = self.task.loss(logits, targets).mean()
        if not loss.requires_grad:
            raise ConfigError(
                f"{self.name} returned logits without a gradient; do not call detach, .data or torch.no_grad in its "
                "forward"
            )
        try:
            loss.backward()  # type: ignore[no-untyped-call]
        except Exception as error:
            self._reraise(error)
            raise ConfigError(
                f"{self.name} fails in its backward pass ({type(error).__name__}: {_first_line(error)})"
            ) from error
        self._refuse_without_gradient()

    def evaluate(self) -> None:
        """Try the last batch of a validation, which may be of a single tile."""
        mine = -(-len(self.data.rows.val) // self.place.world_size)
        last = mine % self.config.batch_size_per_rank or self.config.batch_size_per_rank
        with evaluating(self.network), precision_context(self.config.precision, self.place.device):
            self._logits(min(last, _TILES), " when it validates")

    def _logits(self, tiles: int, when: str = "") -> torch.Tensor:
        """Return the logits of some tiles, which are what they have to be."""
        try:
            output = self._call(tiles, self.tile_px)
        except Exception as error:
            self._reraise(error)
            raise ConfigError(self._cannot_take(tiles, error, when)) from error
        wanted = (tiles, self.task.n_outputs)
        ask = f"return logits of shape (n, {self.task.nouns})"
        logits = getattr(output, "logits", output)
        if not isinstance(logits, torch.Tensor):
            raise ConfigError(f"{self.name} returned {_kind(output)}{when}; {ask}")
        if logits.shape != wanted:
            raise ConfigError(
                f"{self.name} returned logits of shape {tuple(logits.shape)} for {counted(tiles, 'tile')} and "
                f"{self.task.n_outputs} {self.task.nouns}{when}; it must return {wanted}"
            )
        if not logits.is_floating_point():
            raise ConfigError(f"{self.name} returned {str(logits.dtype).removeprefix('torch.')}{when}; return floats")
        if not bool(torch.isfinite(logits).all()):
            raise ConfigError(
                f"{self.name} returned logits that are not finite, such as "
                f"{logits[~torch.isfinite(logits)][0].item()}{when}, for tiles of mean 0 and deviation 1; look for "
                "divisions by zero, logarithms and roots in its forward, or weights that are not set"
            )
        return logits

    def _call(self, tiles: int, side: int) -> Any:
        """Return what the network returns for tiles of mean 0 and deviation 1."""
        images = torch.randn(tiles, 3, side, side, device=self.place.device)
        return self.network(images.to(memory_format=torch.channels_last))

    def _cannot_take(self, tiles: int, error: Exception, when: str) -> str:
        """Return the message for a network that raised an error."""
        own = f"{type(error).__name__}: {_first_line(error)}"
        if any(sign in str(error) for sign in ("same device", "expected device", "is on meta", "meta tensors")):
            return (
                f"{self.name} computes with a tensor that is not on {self.place.device} ({own}); keep it by "
                "register_buffer, or make it on the device of the tiles"
            )
        count = counted(tiles, "tile")
        taken = next((side for side in _OTHER_SIDES if side != self.tile_px and self._takes(tiles, side)), None)
        if taken is None:
            return f"{self.name} failed on {count} of {self.tile_px} px{when} ({own}); mend its forward"
        how = "resize them in its forward" if self.is_own else f"give `input_px={taken}`"
        return (
            f"{self.name} cannot take {self.tile_px} px tiles{when} ({own}); it takes {taken} px: {how}, or export "
            f"tiles of {taken} px"
        )

    def _takes(self, tiles: int, side: int) -> bool:
        """Return True if the network can be called with tiles of another size."""
        try:
            with torch.no_grad():
                self._call(tiles, side)
        except Exception:  # whatever the parts of a network raise
            return False
        return True

    def _refuse_elsewhere(self, device: torch.device) -> None:
        """Refuse weights that are on another device than the network was taken to."""
        elsewhere = {name: weight.device for name, weight in self.network.named_parameters() if weight.device != device}
        if elsewhere:
            there = next(iter(elsewhere.values()))
            raise ConfigError(
                f"{self.name} has weights on {there}, not on {device}: {some(list(elsewhere), 3)}; build it on the "
                "CPU, and let `.to(device)` move all of it"
            )

    def _refuse_without_gradient(self) -> None:
        """Refuse weights that are to train and have no gradient."""
        left = [
            name for name, weight in self.network.named_parameters() if weight.requires_grad and weight.grad is None
        ]
        # A library's network may have more than it uses, which only several processes mind.
        is_refused = self.is_own or self.place.world_size > 1
        if not left or not is_refused or self.config.unused_parameters == "allow":
            return
        get = "layer {} gets" if len(left) == 1 else "layers {} get"
        raise ConfigError(
            f"{self.name}: {get.format(some(left, 3))} no gradient; freeze {'it' if len(left) == 1 else 'them'} "
            "(requires_grad_(False)), or say `unused_parameters='allow'`"
        )

    def _reraise(self, error: Exception) -> None:
        """Raise an error that is not the network's fault, or is one of ours, as it is."""
        if isinstance(error, SlideduckError) or is_out_of_memory(error):
            raise error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def _kind(output: Any) -> str:
    """Return what a value is, in words."""
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {len(output)}"
    if isinstance(output, dict):
        return f"a dict of {', '.join(map(str, output)) or 'nothing'}"
    return "None" if output is None else f"a {type(output).__name__}"
